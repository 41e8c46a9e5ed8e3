"""Rules of dense chains: integers follow the papers, repeat themselves to the bit, and stay in their bounds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import dense_rules as paper

from edgerun.arrays import F64, AnyArray, Tensors
from edgerun.bundle import Bundle, Probe, Selftest, pack, read_bundle
from edgerun.certificate import certify
from edgerun.errors import ModelError, SpecError
from edgerun.kernels import chain as kernels
from edgerun.kernels import mq
from edgerun.kernels.plasticity import decode_importance
from edgerun.learn import tape
from edgerun.learn.il_prox import IlProxRule
from edgerun.learn.learner import Learner
from edgerun.learn.predictive import PredictiveCodingRule
from edgerun.learn.records import Boundary
from edgerun.learn.rules import rule_of
from edgerun.lifetime import new_learner
from edgerun.network import Network
from edgerun.price import memory_plan, recorded, work
from edgerun.spec import Guard, Intelligence, LearningPlan, Manifest, MeanQuotient, Rule
from exporters import learning_dense
from exporters.learning_dense import Quantised
from exporters.nodes import Affine
from exporters.nodes.plastic import FloatPlastic

SIZES = (64, 32, 24, 10)
REACHES = (6.0, 8.0, 16.0)
GOLDEN = Path(__file__).parents[1] / "golden" / "digits.npz"
RULES = ("backprop", "il_prox", "sequential_il", "predictive")


@pytest.fixture(scope="module")
def digits() -> tuple[F64, AnyArray]:
    with np.load(GOLDEN) as data:
        return data["x"].reshape(-1, 64) / 16, data["y"].astype(np.int64)


@pytest.fixture(scope="module")
def trained(digits: tuple[F64, AnyArray]) -> paper.Net:
    """A net that knows the digits a little, by the float reference."""
    x, y = digits
    net = paper.Net.he(SIZES, np.random.default_rng(1))
    for first in range(0, 1200, 4):
        paper.sgd(net, paper.backprop(net, x[first : first + 4], y[first : first + 4]), 0.05, biases=False)
    return net


def quantise(net: paper.Net) -> Quantised:
    layers = [
        FloatPlastic(f"fc{k}", w, b, -np.inf if k == 2 else 0.0, output_room=1.0)
        for k, (w, b) in enumerate(zip(net.weight, net.bias, strict=True))
    ]
    return learning_dense.quantised("digits", layers, Affine(1 / 127, 0), REACHES, 10)


def as_floats(chain: Quantised) -> paper.Net:
    """The float net that the integers stand for: their own weights, in real units."""
    units = learning_dense.units(*chain)
    weight = [chain.tensors[f"fc{k}.weight"] * unit.weight for k, unit in enumerate(units)]
    bias = [chain.tensors[f"fc{k}.bias"] * unit.weight * unit.read for k, unit in enumerate(units)]
    return paper.Net(weight, bias)


def make(kind: str, chain: Quantised, net: paper.Net, x: F64, **more: Any) -> Rule:
    match kind:
        case "backprop":
            return learning_dense.backprop(*chain, 0.02)
        case "il_prox":
            squares = [float(np.median((part**2).sum(axis=1))) for part in paper.rates(paper.forward(net, x[:50]))]
            return learning_dense.il_prox(*chain, more.get("alpha", 1.0), squares)
        case "sequential_il":
            return learning_dense.sequential_il(*chain, 1e-3)
    for layer in chain.manifest.layers[1:]:
        chain.tensors[f"{layer.name}.feedback"] = chain.tensors[f"{layer.name}.weight"].copy()
    return learning_dense.predictive(*chain, 0.02, **more)


def with_rule(chain: Quantised, rule: Rule, **plan: Any) -> Manifest:
    if rule.title == "il-mq":
        plan |= {"normaliser": MeanQuotient()}
    return msgspec.structs.replace(
        chain.manifest, learning=LearningPlan(rule=rule, guard=Guard(every=4096), **plan), seed=5
    )


def bundle_of(chain: Quantised, rule: Rule, q: AnyArray, y: AnyArray, **plan: Any) -> Bundle:
    manifest = with_rule(chain, rule, **plan)
    scores = np.array([Network(manifest, chain.tensors).infer(row).scores for row in q[:8]], np.int32)
    rows = q[:8].astype(np.int8)
    return read_bundle(
        pack(manifest, chain.tensors, selftest=Selftest(rows, scores), probe=Probe(rows, y[:8].astype(np.int32)))
    )


def quantised(x: F64) -> AnyArray:
    return np.floor(x * 127 + 0.5).astype(np.int16)


FLOATS: dict[str, Callable[[paper.Net, F64, AnyArray], paper.Gradients]] = {
    "backprop": paper.backprop,
    "il_prox": lambda net, x, y: paper.IlProx(alpha=1.0).gradients(net, x, y),
    "sequential_il": lambda net, x, y: paper.Sequential().gradients(net, x, y),
    "predictive": lambda net, x, y: paper.PredictiveCoding().gradients(net, net.weight, x, y),
}


# ------------------------------------------------------------------ the reference


def test_the_float_gradient_is_that_of_the_loss(trained: paper.Net, digits: tuple[F64, AnyArray]) -> None:
    x, y = digits[0][:5], digits[1][:5]
    found = paper.backprop(trained, x, y)
    for layer, place in ((0, (3, 20)), (1, (5, 7)), (2, (9, 11))):
        losses = []
        for nudge in (1e-6, -1e-6):
            net = paper.Net([w.copy() for w in trained.weight], trained.bias)
            net.weight[layer][place] += nudge
            losses.append(-np.log(paper.softmax(paper.forward(net, x)[-1])[np.arange(5), y]).mean())
        assert abs((losses[0] - losses[1]) / 2e-6 - found.weight[layer][place]) < 1e-7


def test_a_sweep_carries_the_error_where_all_at_once_does_not(trained: paper.Net, digits: tuple[F64, AnyArray]) -> None:
    x, y = digits[0][:1], digits[1][:1]
    at_once = paper.Sequential(steps=1, at_once=True).gradients(trained, x, y)
    sweep = paper.Sequential(steps=1).gradients(trained, x, y)
    assert np.abs(at_once.weight[0]).max() == 0  # two layers under the top hear nothing in one step
    assert np.abs(sweep.weight[0]).max() > 0


# ------------------------------------------------------------------ integers beside floats


@pytest.mark.parametrize("kind", RULES)
def test_gradients_follow_the_float_rule(kind: str, trained: paper.Net, digits: tuple[F64, AnyArray]) -> None:
    """Over the same weights; what is left is the rounding of int8 values between layers."""
    chain = quantise(trained)
    x, y = digits[0][1200:1240], digits[1][1200:1240]
    plan = make(kind, chain, trained, x)
    manifest = with_rule(chain, plan)
    rule, network, net = rule_of(manifest, chain.tensors), Network(manifest, chain.tensors), as_floats(chain)
    assert rule is not None
    sums: dict[str, list[AnyArray]] = {}
    for row, label in zip(x, y, strict=True):
        taken, error = rule.record(network, quantised(row)), np.zeros(10, np.int32)
        rule.error(error, taken, int(label), np.ones(10, np.bool_))
        want = FLOATS[kind](net, quantised(row)[None] / 127, np.array([label]))
        for k, (name, factors) in enumerate(rule.factors(taken, error).items()):
            if name.endswith(".weight"):
                got = factors.history.T.astype(np.float64) @ factors.post
                total = sums.setdefault(name, [np.zeros_like(got), np.zeros_like(got)])
                total[0] += got
                total[1] += want.weight[k]
    assert len(sums) == 3
    for name, (got, want_sum) in sums.items():
        cosine = (got * want_sum).sum() / np.sqrt((got**2).sum() * (want_sum**2).sum())
        assert cosine >= 0.99, (name, cosine)


# ------------------------------------------------------------------ what each rule promises


@pytest.mark.parametrize("alpha", [0.01, 1.0, 100.0])
def test_no_step_of_il_prox_is_longer_than_the_gap_it_closes(
    alpha: float, trained: paper.Net, digits: tuple[F64, AnyArray]
) -> None:
    """After an update a layer's answer to its own input lies between what it was and what it should have been."""
    chain = quantise(trained)
    x, y = quantised(digits[0][:30]), digits[1][:30]
    manifest = with_rule(chain, make("il_prox", chain, trained, digits[0], alpha=alpha))
    rule, network = IlProxRule(manifest, chain.tensors), Network(manifest, chain.tensors)
    units = learning_dense.units(*chain)
    errors = learning_dense.error_units(units)
    for row, label in zip(x, y, strict=True):
        posed, error = rule.record(network, row), np.zeros(10, np.int32)
        rule.error(error, posed, int(label), np.ones(10, np.bool_))
        found = rule.factors(posed, error)
        net = rule._net
        gaps = [*(h - p for h, p in zip(net.h, net.p, strict=True)), rule._top(posed)]
        for k, (rate, factors) in enumerate(zip(rule.plan.rates, found.values(), strict=True)):
            step = -(factors.history.T.astype(np.float64) @ factors.post) * rate.eta / 2.0**rate.shift
            rates = factors.post[0] * units[k].read / 256
            closed, gap = step @ rates * units[k].weight / 256, gaps[k] * errors[k]
            slack = 2.0 * errors[k] + 0.02 * np.abs(gap) + 1e-3
            assert (np.abs(closed) <= np.abs(gap) + slack).all()
            assert (closed * gap >= -slack * np.abs(gap)).all()


def test_il_prox_stays_whole_at_any_rate_where_descent_does_not(
    trained: paper.Net, digits: tuple[F64, AnyArray]
) -> None:
    x, y = quantised(digits[0][:250]), digits[1][:250]
    right = {}
    for kind, rate in (("il_prox", 100.0), ("backprop", 3.0)):
        chain = quantise(trained)
        plan = (
            make(kind, chain, trained, digits[0], alpha=rate)
            if kind == "il_prox"
            else learning_dense.backprop(*chain, rate)
        )
        learner = new_learner(bundle_of(chain, plan, x, y))
        for row, label in zip(x, y, strict=True):
            learner.apply(learner.plan_lesson(row, int(label), "full"))
        right[kind] = (learner.scores(x).argmax(axis=1) == y).mean()
    assert right["il_prox"] > 0.85
    assert right["backprop"] < 0.5


@pytest.mark.parametrize(("decay", "least", "most"), [(0.0, 0.95, 1.05), (2.0**-6, 0.0, 0.2)], ids=["kept", "fading"])
def test_feedback_that_began_elsewhere_meets_the_weights_where_both_fade(
    decay: float, least: float, most: float, trained: paper.Net, digits: tuple[F64, AnyArray]
) -> None:
    """The same updates leave a difference as it is; decay of both takes it away (Kolen and Pollack)."""
    chain = quantise(trained)
    make("predictive", chain, trained, digits[0])
    plan = learning_dense.predictive(*chain, 0.02, decay=decay)
    for name in ("fc1.feedback", "fc2.feedback"):
        matrix = chain.tensors[name]
        chain.tensors[name] = np.random.default_rng(3).permutation(matrix.reshape(-1)).reshape(matrix.shape)
    x, y = quantised(digits[0][:150]), digits[1][:150]
    learner = new_learner(bundle_of(chain, plan, x, y))
    before = distances(learner)
    for row, label in zip(x, y, strict=True):
        learner.apply(learner.plan_lesson(row, int(label), "full"))
    left = np.array(distances(learner)) / before
    assert (least < left).all()
    assert (left < most).all()


def distances(learner: Learner) -> list[float]:
    state = {name: array.astype(np.float64) for name, array in learner.arrays().items()}
    return [float(np.linalg.norm(state[f"shadow.fc{k}.weight"] - state[f"shadow.fc{k}.feedback"])) for k in (1, 2)]


def test_a_prediction_above_int8_is_an_error_and_comes_down(trained: paper.Net, digits: tuple[F64, AnyArray]) -> None:
    """What no rate can follow: else weights grow for as long as lessons last."""
    chain = quantise(trained)
    rule = make("predictive", chain, trained, digits[0])
    bound = PredictiveCodingRule(with_rule(chain, rule), chain.tensors)
    chain.tensors["fc0.weight"][...] = 127
    network, error = Network(with_rule(chain, rule), chain.tensors), np.zeros(10, np.int32)
    posed = bound.record(network, np.full(64, 127, np.int16))
    bound.error(error, posed, 3, np.ones(10, np.bool_))
    gradient = bound.factors(posed, error)["fc0.weight"]
    assert (gradient.history > 1000).all(), "every unit is told too much, so every weight is to fall"
    assert (gradient.post >= 0).all()


# ------------------------------------------------------------------ MQ


@given(mean=st.integers(1, 1 << 45))
def test_mq_brings_a_mean_gradient_near_its_target(mean: int) -> None:
    e = mq.exponent(mean)
    if -18 <= e < 30:
        assert 2 / 3 - 1e-9 <= mean / 2.0 ** (mq.FRACTION + mq.TARGET + e) < 4 / 3 + 1e-9


def test_mq_follows_the_mean_of_all_gradients_then_of_the_newest() -> None:
    mean, sizes = 0, [1000, 3000, 2000, 6000]
    for number, size in enumerate(sizes):
        mean = mq.follow(mean, 50 * size, 50, number, memory=13)
    assert abs(mean / 256 - np.mean(sizes)) < 1
    for _ in range(40):
        mean = mq.follow(mean, 50 * 100, 50, 1 << 20, memory=2)
    assert abs(mean / 256 - 100) < 1


def test_mq_makes_every_tensor_move_as_far(trained: paper.Net, digits: tuple[F64, AnyArray]) -> None:
    chain = quantise(trained)
    x, y = quantised(digits[0][:60]), digits[1][:60]
    learner = new_learner(bundle_of(chain, make("sequential_il", chain, trained, digits[0]), x, y))
    units, moved = learning_dense.units(*chain), []
    for row, label in zip(x, y, strict=True):
        before = {name: array.astype(np.int64) for name, array in learner.arrays().items() if "shadow" in name}
        learner.apply(learner.plan_lesson(row, int(label), "full"))
        moved.append(
            [
                np.abs(learner.arrays()[f"shadow.fc{k}.weight"] - before[f"shadow.fc{k}.weight"]).mean()
                * unit.weight
                / 256
                for k, unit in enumerate(units)
            ]
        )
    assert moved[0] == [0, 0, 0]  # the first update only measures
    mean = np.mean(moved[1:], axis=0)
    assert (mean > 0.4e-3).all()
    assert (mean < 2e-3).all()


# ------------------------------------------------------------------ synaptic intelligence in real units


def test_each_tensor_is_pulled_as_the_paper_says(trained: paper.Net, digits: tuple[F64, AnyArray]) -> None:
    """Credit, importance and pull in real units, along the integers' own path: c and xi hold for every tensor."""
    strength, damping, rate = 0.01, 1e-4, 0.02
    chain = quantise(trained)
    rule, units = learning_dense.backprop(*chain, rate), learning_dense.units(*chain)
    spec = learning_dense.intelligence(rule, *chain, strength, damping)
    assert len({spec.strength_of(k) for k in range(3)}) > 1
    assert len({spec.damping_of(k) for k in range(3)}) > 1
    q, y = quantised(digits[0][1200:1300]), digits[1][1200:1300]
    learner = new_learner(bundle_of(chain, rule, q, y, intelligence=spec))
    state = learner.arrays()
    shadows = [state[f"shadow.fc{k}.weight"] for k in range(3)]
    start = [shadow.astype(np.float64) for shadow in shadows]
    omegas = [np.zeros(shadow.shape) for shadow in shadows]
    for row, label in zip(q, y, strict=True):
        live = Quantised(chain.manifest, {**chain.tensors, **learner.network.tensors}, chain.maps)
        found = paper.backprop(as_floats(live), row[None] / 127, np.array([label]))
        before = [shadow.astype(np.float64) for shadow in shadows]
        learner.apply(learner.plan_lesson(row, int(label), "full"))
        for omega, g, shadow, old, unit in zip(omegas, found.weight, shadows, before, units, strict=True):
            omega -= g * (shadow - old) * unit.weight / 256
    moved = [(shadow - old) * unit.weight / 256 for shadow, old, unit in zip(shadows, start, units, strict=True)]
    learner.apply(Boundary(reason="command"))
    for k, (omega, way) in enumerate(zip(omegas, moved, strict=True)):
        want = 2 * strength * rate * np.maximum(0, omega) / (way**2 + damping)
        got = decode_importance(state[f"importance.fc{k}.weight"]) * 2.0 ** -spec.strength_of(k)
        exact = 2 * strength * rule.rates[k].eta * 2.0 ** (rule.gradient_shift - 16 - rule.rates[k].shift)
        rounded = 2.0 ** -spec.strength_of(k) / exact
        assert 0.7 < rounded < 1.42
        assert abs(got.sum() / want.sum() / rounded - 1) < 0.05, k
        assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.95


def test_numbers_of_a_tensors_own_are_as_many_as_tensors_learn() -> None:
    rule = learning_dense.backprop(*quantise(paper.Net.he(SIZES, np.random.default_rng(1))), 0.02)
    for own in ({"strength": (9, 9), "damping": 64}, {"strength": 9, "damping": (64,)}):
        with pytest.raises(SpecError, match=r"intelligence \w+ has [12] numbers, the rule has 3 plastic tensors"):
            LearningPlan(rule=rule, intelligence=Intelligence(**own))
    with pytest.raises(SpecError, match="strength has 3 numbers, the rule has 0"):
        LearningPlan(intelligence=Intelligence(strength=(9, 9, 9), damping=64))


def test_own_numbers_cost_nothing_and_come_back_from_a_file(trained: paper.Net, digits: tuple[F64, AnyArray]) -> None:
    chain, (q, y) = quantise(trained), (quantised(digits[0][:16]), digits[1][:16])
    rule = learning_dense.backprop(*chain, 0.02)
    specs = [Intelligence(strength=12, damping=64), Intelligence(strength=(12, 12, 12), damping=(64, 64, 64))]
    one, own = (bundle_of(chain, rule, q, y, intelligence=spec) for spec in specs)
    assert (one.manifest.learning.intelligence, own.manifest.learning.intelligence) == (specs[0], specs[1])
    assert memory_plan(one) == memory_plan(own)
    assert work(one) == work(own)
    digests = []
    for bundle in (one, own):
        learner = new_learner(bundle)
        for row, label in zip(q, y, strict=True):
            learner.apply(learner.plan_lesson(row, int(label), "full"))
            learner.apply(Boundary(reason="command"))
        digests.append(learner.digest())
    assert digests[0] == digests[1]


# ------------------------------------------------------------------ determinism, memory, bounds


@pytest.mark.parametrize("kind", RULES)
def test_the_same_lessons_give_the_same_digest_from_any_point(
    kind: str, trained: paper.Net, digits: tuple[F64, AnyArray]
) -> None:
    x, y = quantised(digits[0][:24]), digits[1][:24]
    chain = quantise(trained)
    rule = make(kind, chain, trained, digits[0])
    bundle = bundle_of(chain, rule, x, y, intelligence=Intelligence(strength=12, damping=500, every=7))
    one, two = new_learner(bundle), new_learner(bundle)
    for k, (row, label) in enumerate(zip(x, y, strict=True)):
        one.apply(one.plan_lesson(row, int(label), "full"))
        if k == 11:
            two.load({name: array.copy() for name, array in one.arrays().items()}, one.meta())
        if k > 11:
            two.apply(two.plan_lesson(row, int(label), "full"))
    assert one.updates == len(x)
    assert one.digest() == two.digest()
    assert one.scores(x).tolist() == [one.network.scores(row).tolist() for row in x]
    one.reset()
    assert one.digest() == new_learner(bundle).digest()


@pytest.mark.parametrize("kind", RULES)
def test_a_lesson_works_in_planned_memory(kind: str, trained: paper.Net, digits: tuple[F64, AnyArray]) -> None:
    """Every slot of the tape is an array that the lesson writes, and weights in carriers are priced at nothing."""
    x, y = quantised(digits[0][:8]), digits[1][:8]
    chain = quantise(trained)
    bundle = bundle_of(chain, make(kind, chain, trained, digits[0]), x, y)
    learner, planned = new_learner(bundle, backend="numpy"), memory_plan(bundle).slots
    memory = learner._state
    for name in tape.slots(bundle.manifest):
        memory[name].view(np.uint8)[...] = 0xA5
    stale = {name: memory[name].copy() for name in tape.slots(bundle.manifest)}
    learner.apply(learner.plan_lesson(x[0], int(y[0]), "full"))
    for name, before in stale.items():
        assert planned[name].bytes == before.nbytes
        assert (memory[name].view(np.uint8) != before.view(np.uint8)).any(), name
    assert tape.carriers(bundle.manifest)
    assert not set(tape.carriers(bundle.manifest)) & set(planned)


def test_inference_is_in_the_price_of_a_lesson(trained: paper.Net, digits: tuple[F64, AnyArray]) -> None:
    """The way back once; or at every step of inference forwards and back, all but the layer that reads the input."""
    upper, first = 32 * 24 + 24 * 10, 64 * 32
    for kind, want in (("backprop", upper), ("il_prox", first + 25 * upper), ("predictive", first + 41 * upper)):
        chain = quantise(trained)
        manifest = with_rule(chain, make(kind, chain, trained, digits[0]))
        assert recorded(manifest).dense_macs == want


def test_a_plastic_layer_is_exact_with_the_worst_weights_that_learning_can_reach(
    trained: paper.Net, digits: tuple[F64, AnyArray]
) -> None:
    chain = quantise(trained)
    manifest = with_rule(chain, make("backprop", chain, trained, digits[0]))
    certificates = certify(manifest, chain.tensors)
    assert certificates["fc0"].bound >= 127 * 128 * 64
    network, q = Network(manifest, chain.tensors), np.full(64, 127, np.int16)
    chain.tensors["fc0.weight"][...] = 127
    chain.tensors["fc0.weight"][::2] = -127
    network.load_weights("fc0.weight")
    network.outputs(q)
    sums = chain.tensors["fc0.weight"].astype(np.int64) @ q + chain.tensors["fc0.bias"]
    m, s = (chain.tensors[f"fc0.{part}"].astype(np.int64) for part in ("multiplier", "shift"))
    want = np.clip(sums * m + (1 << s - 1) >> s, 0, 127)
    assert network.layers["fc0"].out.tolist() == want.tolist()


@given(data=st.data())
def test_kernels_meet_their_definitions(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    n, m, s = (data.draw(st.integers(1, 12)) for _ in range(3))
    weights = rng.integers(-127, 128, (n, m)).astype(np.float64)
    error, active = rng.integers(-32768, 32768, n).astype(np.int16), rng.integers(-3, 4, m).astype(np.int16)
    below = np.zeros(m, np.int16)
    kernels.error_below(below, weights, error, s, active)
    for i in range(m):
        total = sum(int(weights[k, i]) * int(error[k]) for k in range(n))
        want = max(-32768, min(32767, (total + (1 << s >> 1)) >> s)) if active[i] > 0 else 0
        assert below[i] == want
    norm, shift = data.draw(st.integers(1, 1 << 40)), data.draw(st.integers(0, 38))
    wide, history = rng.integers(-(1 << 24), 1 << 24, n), np.zeros(n, np.int16)
    kernels.normalised(history, wide, shift, norm)
    for e, got in zip(wide.tolist(), history.tolist(), strict=True):
        cut = max(-kernels.WIDE, min(kernels.WIDE, e))
        assert got == max(-32768, min(32767, (2 * (cut << shift) + norm) // (2 * norm)))


# ------------------------------------------------------------------ what is refused


def test_what_is_no_chain_is_refused(trained: paper.Net, digits: tuple[F64, AnyArray]) -> None:
    chain = quantise(trained)
    rule = learning_dense.backprop(*chain, 0.02)
    manifest = with_rule(chain, rule)
    other = msgspec.structs.replace(rule, layers=("fc1", "fc0", "fc2"))
    with pytest.raises(SpecError, match=r"takes 64 values, 24 reach it"):
        other.check(manifest.layer)
    with pytest.raises(SpecError, match="has 1 back_shifts for 3 layers"):
        msgspec.structs.replace(rule, back_shifts=(3,)).__post_init__()
    uneven: Tensors = chain.tensors | {"fc1.shift": chain.tensors["fc1.shift"] + np.arange(24).astype(np.uint8) % 2}
    with pytest.raises(SpecError, match=r"one scale a layer; fc1.shift runs from"):
        rule_of(manifest, uneven)
    shifted = msgspec.structs.replace(manifest, input=msgspec.structs.replace(manifest.input, zero_point=-3))
    with pytest.raises(SpecError, match="input around 0, its zero point is -3"):
        rule_of(shifted, chain.tensors)
    with pytest.raises(ModelError, match="values around 0, its input has zero point 4"):
        FloatPlastic("x", np.ones((2, 2)), np.zeros(2)).quantise((Affine(1.0, 4),), learning_dense.Range(0.0, 1.0))


def test_a_feedback_without_its_layer_is_refused(trained: paper.Net, digits: tuple[F64, AnyArray]) -> None:
    chain = quantise(trained)
    rule = make("predictive", chain, trained, digits[0])
    strange = msgspec.structs.replace(
        rule, rates=(msgspec.structs.replace(rule.rates[0], tensor="fc0.feedback"), *rule.rates[1:])
    )
    with pytest.raises(SpecError, match=r"cannot change 'fc0.feedback'"):
        strange.check(chain.manifest.layer)
    assert isinstance(rule_of(with_rule(chain, rule), chain.tensors), PredictiveCodingRule)
