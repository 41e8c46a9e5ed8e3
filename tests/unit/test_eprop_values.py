"""e-prop towards values: the integers follow the float rule, a lesson brings its targets, a pattern is learned."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import valued
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import eprop as paper
from reference import integers

from edgerun import price
from edgerun.arrays import I16, AnyArray, Tensors
from edgerun.bundle import Bundle
from edgerun.errors import DataError, SpecError
from edgerun.kernels import eprop
from edgerun.learn import records
from edgerun.learn.eprop import EPropValuesRule
from edgerun.learn.learner import Learner
from edgerun.lifetime import Lifetime
from edgerun.linux.disk import RealDisk
from edgerun.network import Network
from edgerun.rules import EPropValues
from edgerun.spec import ClassTable, Guard, Head, LearningPlan, Lif, Manifest, Replay

STEPS, INPUTS, NEURONS, OUTPUTS = 60, 20, 40, valued.OUTPUTS
SHIFTS = {"hidden.input": 18, "hidden.recurrent": 20, "out.input": 14}
NAMES = tuple(SHIFTS)
DECAY = round(32768 * np.exp(-1 / 10))
SPIKE = 64


def plan(**changes: Any) -> EPropValues:
    return valued.plan(SHIFTS, 400, **({"chunk_steps": STEPS, "target_steps": STEPS} | changes))


def manifest(rule: EPropValues, **changes: Any) -> Manifest:
    hidden = Lif(name="hidden", inputs=INPUTS, outputs=NEURONS, weight_exponent=12, recurrent_shift=6)
    learning = LearningPlan(rule=rule, guard=Guard(every=4096))
    return valued.manifest(rule, (STEPS, INPUTS), hidden, **({"learning": learning} | changes))


def tensors() -> Tensors:
    rng = np.random.default_rng(1)
    return valued.unbiased(NEURONS, DECAY) | {
        "hidden.input": np.clip(rng.normal(10, 20, (INPUTS, NEURONS)), -127, 127).astype(np.int8),
        "hidden.recurrent": np.clip(rng.normal(0, 5, (NEURONS, NEURONS)), -127, 127).astype(np.int8),
        "out.input": np.clip(rng.normal(0, 10, (NEURONS, OUTPUTS)), -127, 127).astype(np.int8),
    }


def learner_of(rule: EPropValues | None = None) -> Learner:
    return Learner(Network(manifest(rule or plan()), tensors()), priors={})


def frozen_spikes() -> AnyArray:
    return (np.random.default_rng(2).random((STEPS, INPUTS)) < 0.1).astype(np.int16)


def waves() -> AnyArray:
    t = np.arange(STEPS) / STEPS
    return np.stack([np.sin(2 * np.pi * t), 0.6 * np.sin(4 * np.pi * t + 1)], axis=1)


Q: I16 = SPIKE * frozen_spikes().reshape(-1)
TARGET: I16 = np.rint(4096 * waves()).astype(np.int16).reshape(-1)


def test_the_integer_gradient_points_where_the_float_one_does() -> None:
    rule = EPropValuesRule(manifest(plan()), tensors())
    window, error = rule.record(Network(manifest(plan()), tensors()), Q), np.zeros(OUTPUTS, np.int32)
    near = rule.miss(error, window, TARGET)
    spikes = window.recording.tapes["hidden"].spikes.astype(float)
    assert 0.02 < spikes.mean() < 0.4
    net = paper.Net(
        w=tensors()["hidden.input"] / 64, r=tensors()["hidden.recurrent"] / 64, o=tensors()["out.input"] / 256,
        alpha=DECAY / 32768, kappa=DECAY / 32768, rho=np.zeros(NEURONS), beta=np.zeros(NEURONS), gamma=77 / 256,
    )  # fmt: skip
    missed = np.clip(paper.outputs(net, spikes) - waves(), -1, 32767 / 32768)
    assert near == pytest.approx(32768 * (1 - np.abs(missed).mean()), abs=60)
    want = paper.as_the_paper_writes_it(net, paper.run(net, frozen_spikes().astype(float), forced=spikes), missed)
    for name, real in zip(NAMES, want, strict=True):
        factors = rule.factors(window, error)[name]
        got = np.zeros(tensors()[name].shape, np.int64)
        eprop.gradient(got, factors.history, factors.post)
        assert paper.cosine(got.astype(float), real) >= 0.99, name


def test_a_pattern_is_learned_from_lessons_that_bring_it() -> None:
    learner = learner_of()
    nearness = []
    for _ in range(130):
        taught = learner.apply(learner.plan_lesson(Q, 0, "full", target=TARGET))
        assert taught is not None
        nearness.append(taught.confidence)
    assert nearness[0] < 0.6
    assert min(nearness[-10:]) > 0.79


def test_a_replay_of_the_journal_gives_the_same_bits() -> None:
    first, second = learner_of(), learner_of()
    for k in range(10):
        lesson = first.plan_lesson(Q, 0, "full", target=np.roll(TARGET, k))
        first.apply(lesson)
        second.apply(records.decode(records.encode(lesson)))
    assert first.updates == 10
    assert first.digest() == second.digest()


def test_what_is_near_enough_teaches_nothing() -> None:
    learner = learner_of(plan(error_threshold=100))
    before = learner.digest()
    taught = learner.apply(learner.plan_lesson(Q, 0, "full", target=TARGET))
    assert taught is not None
    assert taught.updates == 0
    assert learner.arrays()["shadow.out.input"].tobytes() == learner_of().arrays()["shadow.out.input"].tobytes()
    assert learner.digest() != before  # it counts as a lesson all the same


@given(
    outputs=hnp.arrays(np.int64, (2, 3), elements=st.integers(-(1 << 31), (1 << 31) - 1)),
    target=hnp.arrays(np.int16, (2, 3), elements=st.integers(-32768, 32767)), shift=st.integers(1, 24),
)  # fmt: skip
def test_the_error_of_values_equals_its_definition(outputs: AnyArray, target: AnyArray, shift: int) -> None:
    error = np.zeros((2, 3), np.int32)
    near = eprop.value_error(error, outputs, target, shift)
    want = [
        integers.sat16(integers.half_up(int(y) - int(goal) * 4096, shift))
        for y, goal in zip(outputs.reshape(-1), target.reshape(-1), strict=True)
    ]
    assert error.reshape(-1).tolist() == want
    assert near == max(0, 32768 - sum(abs(e) for e in want) // 6)


def bundle_of() -> Bundle:
    return valued.bundle(manifest(plan()), tensors(), np.zeros((8, STEPS, INPUTS), np.int8))


def test_a_bundle_learns_values_through_a_restart(tmp_path: Path) -> None:
    life = Lifetime(bundle_of(), RealDisk(tmp_path))
    for _ in range(3):
        life.teach(Q, 0, "full", 1, TARGET)
    life.commit()
    assert life.judge().good
    digest = life.digest()
    again = Lifetime(bundle_of(), RealDisk(tmp_path))
    assert (again.digest(), again.learner.lessons) == (digest, 3)


def test_the_planner_has_room_for_the_values() -> None:
    bundle = bundle_of()
    assert price.memory_plan(bundle).slots["tape.target"].slot.bytes == TARGET.nbytes
    lesson, flash = learner_of().plan_lesson(Q, 0, "full", 1 << 40, TARGET), price.work(bundle).unchanged["full"]
    assert len(records.encode(lesson)) <= flash.flash_bytes
    assert flash.flash_bytes == Q.size + price.RECORD_BYTES + TARGET.nbytes


def test_a_lesson_without_its_values_is_refused_and_changes_nothing() -> None:
    learner = learner_of()
    before = learner.digest()
    with pytest.raises(DataError, match="target has 0 values, the bundle takes 120"):
        learner.plan_lesson(Q, 0, "full")
    with pytest.raises(DataError, match=r"label 1 is outside \[0, 1\)"):
        learner.plan_lesson(Q, 1, "full", target=TARGET)
    assert learner.guard_score(np.zeros((3, Q.size), np.int16), np.zeros(3, np.int64)) == (0, 0)
    assert learner.digest() == before


MISTAKES: dict[str, tuple[Manifest, str]] = {
    "classes": (
        manifest(plan(), head=Head(), output=None, classes=ClassTable(names=("a", "b"), capacity=2)),
        "needs a head of kind values, not logits",
    ),
    "replay": (
        manifest(plan(), learning=LearningPlan(rule=plan(), replay=Replay(capacity=4))), "a reservoir keeps labels"
    ),
    "too many targets": (
        manifest(plan(), learning=LearningPlan(rule=plan(chunk_steps=90, target_steps=90))),
        "target_steps 90 is above the window's 60",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "reason"), MISTAKES.values(), ids=MISTAKES)
def test_a_plan_that_cannot_be_is_refused(wrong: Manifest, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        EPropValuesRule(wrong, tensors())
