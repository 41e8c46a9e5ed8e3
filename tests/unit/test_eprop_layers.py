"""Several layers, feedback of their own, targets over time, firing rates: the integers against the float rule."""

from typing import Any

import numpy as np
import pytest
import two_lif
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import eprop as paper
from reference import integers
from two_lif import CLASSES, DECAY, HIGH, INPUTS, KAPPA, LAYERS, LOW

from edgerun import price
from edgerun.arrays import AnyArray, Tensors
from edgerun.bundle import Bundle, Probe, Selftest, pack, read_bundle
from edgerun.errors import SpecError
from edgerun.kernels import eprop, plasticity
from edgerun.learn.eprop import EPropRule, Window
from edgerun.learn.learner import Learner, trigger
from edgerun.lifetime import new_learner
from edgerun.network import Network
from edgerun.spec import (
    ClassTable,
    EProp,
    Frames,
    Guard,
    InputSpec,
    LearningPlan,
    Lif,
    Manifest,
    PlasticRate,
    Readout,
    Replay,
)

STEPS = 48
WEIGHTS = ("low.input", "low.recurrent", "high.input", "high.recurrent", "out.input")


def plan(**changes: Any) -> EProp:
    fields: dict[str, Any] = {
        "layer": "high", "hidden": ("low",), "readout": "out", "chunk_steps": STEPS, "post_shift": 8,
        "rates": tuple(PlasticRate(tensor=name, eta=20, shift=20) for name in WEIGHTS),
    }  # fmt: skip
    return EProp(**(fields | changes))


def adaptive_plan(**changes: Any) -> EProp:
    rates = [PlasticRate(tensor=name, eta=20, shift=20) for name in WEIGHTS]
    rates += [PlasticRate(tensor=f"{name}.feedback", eta=20, shift=20) for name in ("low", "high")]
    return plan(feedback="adaptive", rates=tuple(rates), **changes)


def manifest_of(rule: EProp, *, adaptive: bool = False, **learning: Any) -> Manifest:
    return two_lif.manifest(rule, STEPS, adaptive=LAYERS if adaptive else (), **learning)


def tensors_of(rule: EProp, *, adaptive: bool = False, seed: int = 1) -> Tensors:
    return two_lif.tensors(fed=rule.fed, adaptive=LAYERS if adaptive else (), seed=seed)


def network(rule: EProp, *, adaptive: bool = False, seed: int = 1) -> Network:
    return Network(manifest_of(rule, adaptive=adaptive), tensors_of(rule, adaptive=adaptive, seed=seed))


def sample(seed: int) -> AnyArray:
    return np.random.default_rng(seed).integers(0, 10, INPUTS).astype(np.int16)


def integer_gradients(net: Network, q: AnyArray, label: int) -> tuple[dict[str, AnyArray], Window]:
    rule = EPropRule(net.manifest, dict(net.tensors))
    window, error = rule.record(net, q), np.zeros(CLASSES, np.int32)
    rule.error(error, window, label, np.ones(CLASSES, np.bool_))
    found = {}
    for name, factors in rule.factors(window, error).items():
        found[name] = np.zeros(net.tensors[name].shape, np.int64)
        eprop.gradient(found[name], factors.history, factors.post)
    return found, window


def float_layer(net: Network, name: str) -> paper.Net:
    t, n = net.tensors, net.tensors[f"{name}.bias"].size
    flat = {"rho": np.zeros(n), "beta": np.zeros(n)}
    if f"{name}.beta" in t:
        flat = {"rho": t[f"{name}.rho"] / 32768, "beta": t[f"{name}.beta"] / 4096}
    return paper.Net(
        w=t[f"{name}.input"] / 256, r=t[f"{name}.recurrent"] / 256, o=np.zeros((n, CLASSES)), alpha=DECAY / 32768,
        kappa=KAPPA / 32768, gamma=77 / 256, **flat,
    )  # fmt: skip


def float_gradients(net: Network, q: AnyArray, window: Window, rule: EProp) -> dict[str, AnyArray]:
    """The paper's form for every tensor, on the spikes that the integers had; push in units of the errors' scale."""
    x = np.array([integers.phase_rate(int(u), STEPS, 16) for u in q], float).T
    found, errors = {}, window.errors / 32768
    for name in rule.layers:
        layer, z = float_layer(net, name), window.recording.tapes[name].spikes.astype(float)
        source = f"{name}.feedback" if name in rule.fed else "out.input"
        # the device filters convexly and shifts by signal_shift: one unit of R is this much of B @ error
        unit = 2.0**rule.signal_shift / (32768 - KAPPA) / 256
        push = (256 * z.sum(axis=0) - rule.spikes_target) * rule.spikes_cost / 2**16 * unit
        gradients = paper.as_the_paper_writes_it(
            layer, paper.run(layer, x, forced=z), errors, net.tensors[source] / 256, push
        )
        found |= {f"{name}.input": gradients.w, f"{name}.recurrent": gradients.r, f"{name}.feedback": gradients.o}
        x = z
    return found | {"out.input": found[f"{rule.layer}.feedback"]}


CASES = {
    "symmetric, hidden through a matrix": plan(),
    "random": plan(feedback="random"),
    "adaptive": adaptive_plan(),
    "targets over time": plan(target_steps=16),
    "firing rates": plan(feedback="random", spikes_target=256 * 6, spikes_cost=3000),
    "all at once": adaptive_plan(target_steps=9, spikes_target=256 * 3, spikes_cost=1000),
}


@pytest.mark.parametrize("adaptive", [False, True], ids=["lif", "alif"])
@pytest.mark.parametrize("rule", CASES.values(), ids=CASES)
def test_every_gradient_points_where_the_float_one_does(rule: EProp, adaptive: bool) -> None:
    net, q = network(rule, adaptive=adaptive), sample(2)
    found, window = integer_gradients(net, q, label=1)
    want = float_gradients(net, q, window, rule)
    assert set(found) == rule.tensors
    for name, gradient in found.items():
        assert 0.03 < window.recording.tapes["low"].spikes.mean() < 0.6
        assert paper.cosine(gradient.astype(float), want[name]) >= 0.99, name


def test_what_each_option_adds_can_be_seen() -> None:
    """So that the test above could fail: without an option the gradient points elsewhere."""
    q, plain = sample(2), plan(feedback="random")
    base, _ = integer_gradients(network(plain), q, label=1)
    for changed in (plan(), CASES["firing rates"]):
        other, _ = integer_gradients(network(changed), q, label=1)
        assert paper.cosine(base["high.input"].astype(float), other["high.input"].astype(float)) < 0.98
    long, _ = integer_gradients(network(plan(feedback="random", target_steps=16)), q, label=1)
    assert np.linalg.norm(long["high.input"]) > 4 * np.linalg.norm(base["high.input"])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_wide_net_with_targets_over_time_keeps_the_direction(seed: int) -> None:
    """40-100-2, 16 Hz at 1 ms, tau 20 steps, errors in the last 32 of 128 steps."""
    steps, m, n = 128, 40, 100
    rule = EProp(
        layer="hidden", readout="out", chunk_steps=128, target_steps=32, post_shift=6,
        rates=tuple(PlasticRate(tensor=t, eta=1, shift=1) for t in ("hidden.input", "hidden.recurrent", "out.input")),
    )  # fmt: skip
    manifest = Manifest(
        name="wide", input=InputSpec(shape=(steps, m), dtype="int8"), encoder=Frames(),
        layers=(
            Lif(name="hidden", inputs=m, outputs=n, weight_exponent=12, recurrent_shift=6),
            Readout(name="out", inputs=n, outputs=2, weight_exponent=6),
        ),
        classes=ClassTable(names=("a", "b"), capacity=2), learning=LearningPlan(rule=rule),
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    decay = round(32768 * np.exp(-1 / 20))
    tensors: Tensors = {
        "hidden.input": np.clip(rng.normal(4, 9, (m, n)), -127, 127).astype(np.int8),
        "hidden.recurrent": np.clip(rng.normal(0, 4, (n, n)), -127, 127).astype(np.int8),
        "hidden.bias": np.zeros(n, np.int32), "hidden.decay": np.full(n, decay, np.uint16),
        "out.input": np.clip(rng.normal(0, 20, (n, 2)), -127, 127).astype(np.int8),
        "out.bias": np.zeros(2, np.int32), "out.kappa": np.full(2, decay, np.uint16),
    }  # fmt: skip
    x = (rng.random((steps, m)) < 0.016).astype(np.int16)
    net = Network(manifest, tensors)
    bound = EPropRule(manifest, tensors)
    window, error = bound.record(net, 64 * x.reshape(-1)), np.zeros(2, np.int32)
    bound.error(error, window, 0, np.ones(2, np.bool_))
    spikes = window.recording.tapes["hidden"].spikes.astype(float)
    assert 0.003 < spikes.mean() < 0.2
    twin = paper.Net(
        w=tensors["hidden.input"] / 64, r=tensors["hidden.recurrent"] / 64, o=tensors["out.input"] / 64,
        alpha=decay / 32768, kappa=decay / 32768, rho=np.zeros(n), beta=np.zeros(n), gamma=77 / 256,
    )  # fmt: skip
    run = paper.run(twin, x.astype(float), forced=spikes)
    errors = np.array([paper.error_of(y, 0) for y in paper.outputs(twin, spikes)[-32:]])
    want = paper.as_the_paper_writes_it(twin, run, errors)
    for name, real in zip(("hidden.input", "hidden.recurrent", "out.input"), want, strict=True):
        factors = bound.factors(window, error)[name]
        got = np.zeros(tensors[name].shape, np.int64)
        eprop.gradient(got, factors.history, factors.post)
        assert paper.cosine(got.astype(float), real) >= 0.99, name


# ------------------------------------------------------------------ kernels


@given(
    error=hnp.arrays(np.int32, (3, 2), elements=st.integers(-32768, 32768)),
    feedback=hnp.arrays(np.int8, (4, 2), elements=st.integers(-127, 127)), shift=st.integers(1, 16),
)  # fmt: skip
def test_the_learning_signal_equals_its_definition(error: AnyArray, feedback: AnyArray, shift: int) -> None:
    signal = np.zeros((3, 4), np.int32)
    eprop.learning_signal(signal, error, feedback, shift)
    for t in range(3):
        for j in range(4):
            total = sum(int(e) * int(b) for e, b in zip(error[t], feedback[j], strict=True))
            assert signal[t, j] == integers.sat16(integers.half_up(total, shift))


@given(
    spikes=hnp.arrays(np.uint8, (6, 3), elements=st.integers(0, 1)), target=st.integers(0, 32768),
    cost=st.integers(0, 32768), level=st.integers(-32768, 32767),
)  # fmt: skip
def test_the_push_of_firing_rates_equals_its_definition(spikes: AnyArray, target: int, cost: int, level: int) -> None:
    filtered = np.full((6, 3), level, np.int32)
    eprop.regularise(filtered, spikes, target, cost)
    for j in range(3):
        push = integers.sat16(integers.half_up((256 * int(spikes[:, j].sum()) - target) * cost, 16))
        assert (filtered[:, j] == integers.sat16(level + push)).all()


def test_decay_takes_its_share_in_the_mean() -> None:
    words = np.random.default_rng(1).integers(0, 1 << 32, (64, 64), dtype=np.uint32)
    for value in (30000, -30000, 200, -200, 0):
        wanted = np.zeros((64, 64), np.int64)
        plasticity.fade(wanted, np.full((64, 64), value, np.int16), 10, words)
        assert abs(wanted.mean() + value / 1024) < 0.03
        assert wanted.max() - wanted.min() <= 1


# ------------------------------------------------------------------ lessons


def learner_of(rule: EProp, **learning: Any) -> Learner:
    manifest = manifest_of(rule, guard=Guard(every=4096), **learning)
    return Learner(Network(manifest, tensors_of(rule)), priors={})


def teach(learner: Learner, count: int, level: Any = "full") -> int:
    updates = 0
    for number in range(count):
        taught = learner.apply(learner.plan_lesson(sample(number), number % CLASSES, level))
        assert taught is not None
        updates += taught.updates
    return updates


def test_adaptive_feedback_moves_as_the_readout_does_and_random_stays() -> None:
    still, moving = learner_of(plan(feedback="random")), learner_of(adaptive_plan())
    before = {name: still.network.tensors[name].copy() for name in ("low.feedback", "high.feedback")}
    for learner in (still, moving):
        start = learner.network.tensors["out.input"].copy()
        teach(learner, 30)
        assert (learner.network.tensors["out.input"] != start).any()
    for name, start in before.items():
        assert (still.network.tensors[name] == start).all()
        assert (moving.network.tensors[name] != start).any()
        assert f"shadow.{name}" in moving.arrays()
        assert f"shadow.{name}" not in still.arrays()
    change = {
        name: moving.arrays()[f"shadow.{name}"].astype(int) - 256 * tensors_of(adaptive_plan())[name].astype(int)
        for name in ("high.feedback", "out.input")
    }
    assert paper.cosine(change["high.feedback"].astype(float), change["out.input"].astype(float)) > 0.99


def test_with_decay_feedback_and_readout_come_to_point_the_same_way() -> None:
    rates = tuple(
        PlasticRate(tensor=name, eta=40, shift=20, decay_shift=5 if name in ("high.feedback", "out.input") else 0)
        for name in (*WEIGHTS, "low.feedback", "high.feedback")
    )
    learner = learner_of(plan(feedback="adaptive", rates=rates))

    def aligned() -> float:
        return paper.cosine(*(learner.network.tensors[n].astype(float) for n in ("high.feedback", "out.input")))

    assert abs(aligned()) < 0.4
    teach(learner, 120)
    assert aligned() > 0.9


def test_all_layers_learn_and_a_saved_state_goes_on_to_the_same_bits() -> None:
    learner = learner_of(adaptive_plan(update_share=8192), replay=Replay(capacity=8, passes=1))
    before = {name: learner.network.tensors[name].copy() for name in WEIGHTS}
    teach(learner, 25)
    assert all((learner.network.tensors[name] != start).any() for name, start in before.items())
    arrays, meta = {name: array.copy() for name, array in learner.arrays().items()}, learner.meta()
    other = learner_of(adaptive_plan(update_share=8192), replay=Replay(capacity=8, passes=1))
    other.load(arrays, meta)
    for each in (learner, other):
        teach(each, 20)
    assert learner.digest() == other.digest()
    learner.reset()
    fresh = learner_of(adaptive_plan(update_share=8192), replay=Replay(capacity=8, passes=1))
    assert learner.digest() == fresh.digest()


# ------------------------------------------------------------------ a held share of updates


@given(
    threshold=st.integers(0, 32768), share=st.integers(0, 32768), seen=st.integers(0, 32768),
    ceiling=st.integers(0, 32768),
)  # fmt: skip
def test_a_trigger_moves_against_the_deviation_and_stays_in_range(
    threshold: int, share: int, seen: int, ceiling: int
) -> None:
    after = trigger(threshold, share, seen, ceiling)
    assert 0 <= after <= ceiling
    assert after in (0, ceiling, threshold + (share - seen) // 16)


@given(share=st.integers(1500, 30000), seed=st.integers(0, 99))
def test_a_trigger_finds_the_threshold_that_keeps_the_share(share: int, seed: int) -> None:
    confidence = np.random.default_rng(seed).integers(0, 32768, 1200)
    threshold, updates = 32768, []
    for p in confidence:
        updates.append(p < threshold)
        threshold = trigger(threshold, share, 32768 * int(updates[-1]), 32768)
    assert abs(np.mean(updates[200:]) - share / 32768) < 0.04


def test_a_lower_level_updates_less_and_the_journal_says_why() -> None:
    shares = []
    for level in ("full", "light", "sparse"):
        learner = learner_of(plan(update_share=16384))
        assert learner.plan_lesson(sample(0), 0, level).threshold == 32768
        teach(learner, 30, level)
        shares.append(teach(learner, 80, level) / 80)
        assert learner.plan_lesson(sample(0), 0, level).threshold == learner.meta()["threshold"] < 32768
    assert shares == sorted(shares, reverse=True)
    for share, target in zip(shares, (0.5, 0.25, 0.125), strict=True):
        assert abs(share - target) < 0.08


def test_without_a_share_the_threshold_is_no_state() -> None:
    learner = learner_of(plan(error_threshold=20000))
    teach(learner, 5)
    assert learner.threshold == 20000
    assert "threshold" not in learner.meta()


# ------------------------------------------------------------------ bundle, planner, mistakes


def bundle_of(rule: EProp) -> Bundle:
    manifest, tensors = manifest_of(rule), tensors_of(rule)
    x = np.array([sample(k) for k in range(8)])
    scores = np.array([Network(manifest, tensors).infer(q).scores.copy() for q in x], np.int32)
    rows = x.astype(np.uint8)
    return read_bundle(
        pack(manifest, tensors, selftest=Selftest(rows, scores), probe=Probe(rows, (np.arange(8) % 4).astype(np.int32)))
    )


def test_a_bundle_brings_the_feedback_and_a_device_learns_with_it() -> None:
    bundle = bundle_of(adaptive_plan())
    assert bundle.tensors["low.feedback"].shape == (LOW, CLASSES)
    learner = new_learner(bundle)
    teach(learner, 3)
    assert learner.updates == 3


def test_the_planner_lists_every_array_of_a_recorded_window() -> None:
    rule = adaptive_plan(target_steps=5)
    slots = price.memory_plan(bundle_of(rule)).slots
    _, window = integer_gradients(network(rule), sample(1), 0)
    for name, prefix in (("low", "tape.low."), ("high", "tape.")):
        tape = window.recording.tapes[name]
        for part in ("pre", "spikes", "psi"):
            assert slots[f"{prefix}{part}"].slot.shape == getattr(tape, part).shape
    assert slots["trace.error"].slot.shape == window.errors.shape
    assert slots["tape.logits"].slot.shape == window.recording.outputs.shape
    assert slots["low.feedback"].slot.bytes == LOW * CLASSES
    assert rule.rows("low.feedback", STEPS) == rule.rows("out.input", STEPS) == 5
    assert rule.rows("high.input", STEPS) == STEPS
    assert rule.neurons(network(rule).manifest.layer) == INPUTS + 2 * LOW + HIGH


MISTAKES = {
    "no rate for a matrix": (plan(feedback="adaptive"), "adaptive' leaves 'high.feedback' without a rate"),
    "a rate for what stays": (
        plan(rates=(PlasticRate(tensor="low.feedback", eta=1, shift=1),)), "has a rate for 'low.feedback', which stays"
    ),
    "a layer twice": (plan(hidden=("high",)), "eprop layers high, high repeat"),
    "a readout hidden": (plan(hidden=("out",)), "eprop layer 'out' is no lif layer"),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "reason"), MISTAKES.values(), ids=MISTAKES)
def test_a_plan_that_contradicts_itself_is_refused(rule: EProp, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        rule.check(manifest_of(plan()).layer)


def test_more_targets_than_steps_of_a_chunk_are_refused() -> None:
    with pytest.raises(SpecError, match="target_steps 50 is above the 48 of a chunk"):
        plan(target_steps=50)
