"""The inner step is the exact gradient of the last layer, in integers; classes join, are forgotten, and are priced."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from reference import inner_step as paper
from reference.eprop import cosine

from edgerun.arrays import F64, AnyArray, Tensors
from edgerun.bundle import Bundle, Probe, Selftest, pack, read_bundle
from edgerun.cli import main
from edgerun.errors import DataError, SpecError
from edgerun.kernels import eprop
from edgerun.learn import records
from edgerun.learn.inner_step import InnerStepRule
from edgerun.learn.learner import Learner
from edgerun.lifetime import new_learner
from edgerun.network import Network
from edgerun.price import memory_plan
from edgerun.spec import (
    ClassTable,
    Frames,
    Guard,
    InnerStep,
    InputSpec,
    LearningPlan,
    Lif,
    Manifest,
    PlasticRate,
    Readout,
    Replay,
)

STEPS, INPUTS, NEURONS, CAPACITY = 12, 10, 24, 6
NAMES = ("a", "b", "c")
KAPPA, EXPONENT = 29491, 8
ALL = np.ones(CAPACITY, np.bool_)
CENTRES = np.random.default_rng(3).random((CAPACITY, INPUTS)) < 0.4


def sample(label: int, number: int) -> AnyArray:
    """(STEPS * INPUTS,) events of a class: its inputs are busy."""
    chance = np.where(CENTRES[label], 0.7, 0.05)
    return (np.random.default_rng([label, number]).random((STEPS, INPUTS)) < chance).astype(np.int16).reshape(-1)


def manifest_of(*, layers: str = "deep", replay: int = 0, **plan: Any) -> Manifest:
    hidden = Lif(name="hidden", inputs=INPUTS, outputs=NEURONS, weight_exponent=7, recurrent=False)
    width = NEURONS if layers == "deep" else INPUTS
    out = Readout(name="out", inputs=width, outputs=CAPACITY, weight_exponent=EXPONENT)
    rates = (PlasticRate(tensor="out.input", eta=10000, shift=30, max_step=32512),)
    return Manifest(
        name="net", input=InputSpec(shape=(STEPS, INPUTS), dtype="uint8"), encoder=Frames(),
        layers=(hidden, out) if layers == "deep" else (out,),
        classes=ClassTable(names=NAMES, capacity=CAPACITY), seed=5,
        learning=LearningPlan(
            rule=InnerStep(**({"readout": "out", "rates": rates} | plan)), replay=Replay(capacity=replay, passes=1),
            guard=Guard(every=4),
        ),
    )  # fmt: skip


def tensors_of(manifest: Manifest) -> Tensors:
    rng = np.random.default_rng(1)
    width = manifest.layers[-1].widths[0]
    found: Tensors = {
        "out.input": rng.integers(-90, 91, (width, CAPACITY)).astype(np.int8),
        "out.bias": rng.integers(-(1 << 20), 1 << 20, CAPACITY).astype(np.int32),
        "out.kappa": np.full(CAPACITY, KAPPA, np.uint16),
    }
    if len(manifest.layers) > 1:
        found |= {
            "hidden.input": rng.integers(-40, 100, (INPUTS, NEURONS)).astype(np.int8),
            "hidden.bias": np.zeros(NEURONS, np.int32),
            "hidden.decay": np.full(NEURONS, 29000, np.uint16),
        }
    return found


def network(**changes: Any) -> Network:
    manifest = manifest_of(**changes)
    return Network(manifest, tensors_of(manifest))


def integer_step(net: Network, q: AnyArray, label: int) -> tuple[F64, AnyArray, Any]:
    """(the gradient, the error, what was heard)"""
    rule = InnerStepRule(net.manifest, dict(net.tensors))
    heard, error = rule.record(net, q), np.zeros(CAPACITY, np.int32)
    rule.error(error, heard, label, ALL)
    (factors,) = rule.factors(heard, error).values()
    found = np.zeros(net.tensors["out.input"].shape, np.int64)
    eprop.gradient(found, factors.history, factors.post)
    return found.astype(float), error, heard


def spikes_of(net: Network, q: AnyArray) -> F64:
    """What drives the readout, step by step."""
    rows = []
    net.reset()
    for moment in net.moments(q):
        net.step(moment)
        rows.append((net.layers["hidden"].out if len(net.layers) > 1 else moment).astype(float))
    return np.array(rows)


@pytest.mark.parametrize("layers", ["deep", "alone"])
@pytest.mark.parametrize("label", [0, 2, 5])
def test_the_integer_step_points_where_the_float_one_does(layers: str, label: int) -> None:
    net, q = network(layers=layers), sample(label, 1)
    found, error, heard = integer_step(net, q, label)
    x, kappa = spikes_of(net, q), KAPPA / 32768
    w = net.tensors["out.input"] / 2**EXPONENT
    u = paper.logits(w, net.tensors["out.bias"] / 2**24, x, kappa)
    p = paper.traces(x, kappa)
    np.testing.assert_allclose(heard.logits / 2**24, u, atol=1e-4)
    np.testing.assert_allclose(heard.trace / 2 ** eprop.trace_gain(KAPPA, 1 if layers == "deep" else 255), p, atol=0.2)
    want = paper.error(u, label, ALL)
    np.testing.assert_allclose(error / 32768, want, atol=0.02)
    assert cosine(found, np.outer(p, want)) >= 0.99


def test_the_reference_is_the_derivative_of_the_loss() -> None:
    net, q = network(), sample(1, 2)
    x, kappa, w = spikes_of(net, q), KAPPA / 32768, net.tensors["out.input"] / 2**EXPONENT
    b = net.tensors["out.bias"] / 2**24
    u = paper.logits(w, b, x, kappa)
    gradient = np.outer(paper.traces(x, kappa), paper.error(u, 4, ALL))
    for i, k in ((0, 4), (3, 0), (20, 2)):
        losses = []
        for nudge in (1e-6, -1e-6):
            moved = w.copy()
            moved[i, k] += nudge
            y = paper.logits(moved, b, x, kappa)
            losses.append(np.log(np.exp(y).sum()) - y[4])
        assert abs((losses[0] - losses[1]) / 2e-6 - gradient[i, k]) < 1e-6


def test_a_lesson_is_the_float_step_within_a_shadow_step() -> None:
    """SR of -G eta / 2**shift: off by less than one, and the traces' and table's rounding."""
    learner = Learner(network(), priors={})
    before = learner.arrays()["shadow.out.input"].astype(float)
    found, _, _ = integer_step(network(), sample(2, 7), 1)
    in_play = np.arange(CAPACITY) < len(NAMES)
    x = spikes_of(network(), sample(2, 7))
    w, b, kappa = (
        tensors_of(manifest_of())["out.input"] / 2**EXPONENT,
        tensors_of(manifest_of())["out.bias"],
        KAPPA / 32768,
    )
    e = paper.error(paper.logits(w, b / 2**24, x, kappa), 1, in_play)
    rate = 10000 / 2**30 * 2.0 ** (15 + eprop.trace_gain(KAPPA) - EXPONENT - 8)
    want = paper.step(w, paper.traces(x, kappa), e, rate) * 2 ** (EXPONENT + 8)
    learner.apply(learner.plan_lesson(sample(2, 7), 1, "full"))
    after = learner.arrays()["shadow.out.input"].astype(float)
    moved = after - before
    assert np.abs(moved).max() > 500
    assert np.abs(found).max() > 0
    assert cosine(moved, want - before) >= 0.999
    assert np.abs(after - want).max() <= 0.02 * np.abs(moved).max() + 1


def test_small_errors_are_gated_and_the_probability_is_not() -> None:
    q = sample(0, 3)
    open_error, gated_error = np.zeros(CAPACITY, np.int32), np.zeros(CAPACITY, np.int32)
    rules = [InnerStepRule(net.manifest, dict(net.tensors)) for net in (network(), network(gate=3000))]
    p = [
        rule.error(e, rule.record(network(), q), 0, ALL)
        for rule, e in zip(rules, (open_error, gated_error), strict=True)
    ]
    assert p[0] == p[1]
    small = np.abs(open_error) <= 3000
    assert 0 < small.sum() < CAPACITY
    assert not gated_error[small].any()
    assert (gated_error[~small] == open_error[~small]).all()


# ------------------------------------------------------------------ classes


def teach(learner: Learner, classes: int) -> None:
    """Six lessons of each class, in turn."""
    for number in range(6):
        for k in range(classes):
            learner.apply(learner.plan_lesson(sample(k, number), k, "full"))


def known_share(learner: Learner, classes: int) -> float:
    q = np.array([sample(k, 100 + i) for k in range(classes) for i in range(20)])
    return float((learner.scores(q)[:, :classes].argmax(axis=1) == np.repeat(np.arange(classes), 20)).mean())


def blank() -> Learner:
    """A learner whose readout knows nothing, as meta-training leaves it."""
    manifest = manifest_of(
        layers="alone", rates=(PlasticRate(tensor="out.input", eta=10000, shift=22, max_step=32512),)
    )
    tensors = tensors_of(manifest)
    tensors["out.input"][...] = 0
    tensors["out.bias"][...] = 0
    return Learner(Network(manifest, tensors), priors={})


def test_lessons_teach_classes_that_join_up_to_the_capacity() -> None:
    learner = blank()
    for name in "def":
        learner.apply(records.NewClass(label=name))
    assert known_share(learner, CAPACITY) < 0.2
    teach(learner, CAPACITY)
    assert learner.updates == 6 * CAPACITY
    assert known_share(learner, CAPACITY) > 0.9
    with pytest.raises(DataError, match="over the capacity of 6"):
        learner.apply(records.NewClass(label="g"))


def test_a_class_that_is_forgotten_leaves_no_weight_and_the_others_as_they_were() -> None:
    learner = blank()
    teach(learner, 3)
    before = {name: array.copy() for name, array in learner.arrays().items()}
    learner.apply(records.Forget(label=1))
    shadow, weights = learner.arrays()["shadow.out.input"], learner.network.tensors["out.input"]
    assert before["shadow.out.input"][:, 1].any()
    assert not shadow[:, 1].any()
    assert not weights[:, 1].any()
    assert (shadow[:, [0, 2]] == before["shadow.out.input"][:, [0, 2]]).all()
    assert learner.network.outputs(sample(1, 0))[1] == 0
    teach(learner, 3)
    assert known_share(learner, 3) > 0.9


def test_a_lesson_that_is_known_well_enough_changes_nothing() -> None:
    learner = Learner(network(error_threshold=0), priors={})
    before = learner.arrays()["shadow.out.input"].copy()
    learner.apply(learner.plan_lesson(sample(0, 0), 0, "full"))
    assert learner.updates == 0
    assert (learner.arrays()["shadow.out.input"] == before).all()


# ------------------------------------------------------------------ plans that cannot be, memory, restarts


def test_only_its_own_readout_may_be_named() -> None:
    net = network()
    rate = PlasticRate(tensor="out.input", eta=1, shift=1)
    for changes, message in (
        ({"readout": "hidden"}, "inner-step readout 'hidden' is no readout layer"),
        ({"rates": (PlasticRate(tensor="hidden.input", eta=1, shift=1),)}, "changes 'out.input' alone"),
        ({"rates": (rate, rate)}, "changes 'out.input' alone, by one rate, not 2"),
    ):
        with pytest.raises(SpecError, match=message):
            InnerStepRule(manifest_of(**changes), dict(net.tensors))
    uneven = net.tensors["out.kappa"].copy()
    uneven[3] = 7
    with pytest.raises(SpecError, match=r"one time constant; out\.kappa runs from 7 to 29491"):
        InnerStepRule(net.manifest, dict(net.tensors) | {"out.kappa": uneven})
    wide = msgspec.structs.replace(net.manifest, classes=ClassTable(names=NAMES, capacity=CAPACITY + 1))
    with pytest.raises(SpecError, match="readout out has 6 outputs for 7 classes"):
        InnerStepRule(wide, dict(net.tensors))


def packed(manifest: Manifest) -> Bundle:
    return read_bundle(packed_bytes(manifest))


def packed_bytes(manifest: Manifest) -> bytes:
    tensors = tensors_of(manifest)
    x = np.array([sample(k % 3, k) for k in range(12)]).reshape(12, STEPS, INPUTS).astype(np.uint8)
    net = Network(manifest, tensors)
    scores = np.array([net.infer(row.reshape(-1).astype(np.int16)).scores for row in x], np.int32)
    probe = Probe(x, (np.arange(12) % 3).astype(np.int32))
    return pack(manifest, tensors, selftest=Selftest(x, scores), probe=probe)


def test_what_it_takes_in_memory_is_what_the_planner_says() -> None:
    plain = msgspec.structs.replace(manifest_of(), learning=LearningPlan())
    slots = memory_plan(packed(manifest_of())).slots
    more = slots.keys() - memory_plan(packed(plain)).slots.keys()
    traces = {"trace.readout": 2 * NEURONS, "trace.readout_state": 12 * NEURONS, "trace.clipped": 2 * CAPACITY}
    lesson = {"lesson.error": 4 * CAPACITY, "lesson.in_play": CAPACITY}
    weights = {"shadow.out.input": 2 * NEURONS * CAPACITY}
    assert {name: slots[name].bytes for name in more if not name.startswith("block.")} == traces | lesson | weights


def test_a_bundle_with_an_inner_step_is_read_as_it_was_written_and_lives_twice_alike() -> None:
    bundle = packed(manifest_of(replay=8, gate=1638))
    assert bundle.manifest.learning == manifest_of(replay=8, gate=1638).learning
    first, second = new_learner(bundle), new_learner(bundle)
    entries = []
    for n in range(9):
        entries.append(first.plan_lesson(sample(n % 3, n), n % 3, "full"))
        first.apply(entries[-1])
    for entry in entries[:5]:
        second.apply(records.decode(records.encode(entry)))
    third = new_learner(bundle)
    third.load({name: array.copy() for name, array in second.arrays().items()}, second.meta())
    for entry in entries[5:]:
        third.apply(entry)
    assert first.updates > 5
    assert third.digest() == first.digest()


def test_other_heads_still_refuse_new_classes() -> None:
    manifest = msgspec.structs.replace(manifest_of(), learning=LearningPlan())
    learner = Learner(Network(manifest, tensors_of(manifest)), priors={})
    with pytest.raises(DataError, match="cannot join: the bundle's head has no prototypes"):
        learner.apply(records.NewClass(label="d"))


def test_inspect_says_where_new_classes_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = manifest_of(gate=1638)
    (tmp_path / "net.edgb").write_bytes(packed_bytes(manifest))
    assert main(["inspect", str(tmp_path / "net.edgb")]) == 0
    said = capsys.readouterr().out
    assert "a column of the readout for each, up to 6 classes" in said
    assert "out from its traces at the end of a window, errors over 0.05" in said
