"""SuperSpike learns what its paper's equations say, from lessons whose label is a spike pattern."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from reference import superspike as paper

from edgerun.arrays import I16, AnyArray, Tensors
from edgerun.bundle import Bundle, Probe, Selftest, pack, read_bundle
from edgerun.errors import DataError, SpecError
from edgerun.kernels import eprop, superspike
from edgerun.layers import Cells, DenseSum, Lookup, Patterns
from edgerun.learn import records
from edgerun.learn.learner import Learner
from edgerun.learn.superspike import SuperSpikeRule
from edgerun.lifetime import Lifetime
from edgerun.network import Network
from edgerun.ops import OPS
from edgerun.price import memory_plan
from edgerun.rules.superspike import Population, RMaxProp, SuperSpike
from edgerun.spec import ClassTable, Frames, Guard, InputSpec, LearningPlan, Manifest, PlasticRate, Replay
from firmware_sim.flash import SimFlash

STEPS, INPUTS, HIDDEN, OUTPUTS, CLASSES = 60, 20, 14, 4, 3
ALPHA, DECAY, RISE, FALL = 26_828, 29_649, 26_828, 29_649  # 5, 10, 5 and 10 steps
TIMES = paper.Times(ALPHA / 32768, DECAY / 32768, RISE / 32768, FALL / 32768)
TENSORS = ("fan.weight", "up.weight")


def manifest_of(feedback: str = "symmetric", steps: int = STEPS, **fields: Any) -> Manifest:
    layers = (
        Lookup(name="spikes", shape=(INPUTS,), qmin=0, qmax=1),
        DenseSum(name="fan", inputs=INPUTS, outputs=HIDDEN, output_bound=127 * INPUTS),
        Cells(name="hidden", shape=(HIDDEN,), weight_exponent=10, synaptic=True),
        DenseSum(name="up", inputs=HIDDEN, outputs=OUTPUTS, output_bound=127 * HIDDEN),
        Cells(name="out", shape=(OUTPUTS,), weight_exponent=9, synaptic=True),
        Patterns(name="known", inputs=OUTPUTS, outputs=CLASSES, steps=steps, rise=RISE, fall=FALL),
    )
    rule: dict[str, Any] = {
        "populations": (Population(synapses="fan", neurons="hidden"), Population(synapses="up", neurons="out")),
        "patterns": "known", "feedback": feedback, "post_shift": 13,
        "rates": tuple(PlasticRate(tensor=name, eta=96, shift=15) for name in TENSORS),
    }  # fmt: skip
    return Manifest(
        name="net", input=InputSpec(shape=(steps, INPUTS)), encoder=Frames(), layers=layers,
        classes=ClassTable(names=("a", "b", "c"), capacity=CLASSES), seed=5,
        learning=LearningPlan(
            rule=SuperSpike(**(rule | fields)), normaliser=RMaxProp(fade=25, floor=8), replay=Replay(capacity=6)
        ),
    )  # fmt: skip


def tensors_of(manifest: Manifest, seed: int = 1) -> Tensors:
    rng = np.random.default_rng(seed)
    found: Tensors = {
        "spikes.table": (np.arange(-128, 128) > 0).astype(np.int8),
        "fan.weight": np.clip(rng.normal(30, 60, (INPUTS, HIDDEN)), -127, 127).astype(np.int8),
        "up.weight": np.clip(rng.normal(10, 40, (HIDDEN, OUTPUTS)), -127, 127).astype(np.int8),
        "known.target": (rng.random((CLASSES, manifest.steps, OUTPUTS)) < 0.06).astype(np.uint8),
    }
    for name, n in (("hidden", HIDDEN), ("out", OUTPUTS)):
        found |= {
            f"{name}.bias": np.zeros(n, np.int32), f"{name}.threshold": np.full(n, 4096, np.int16),
            f"{name}.alpha": np.full(n, ALPHA, np.uint16), f"{name}.decay": np.full(n, DECAY, np.uint16),
        }  # fmt: skip
    rule = manifest.learning.rule
    if isinstance(rule, SuperSpike) and rule.fed:
        found["hidden.feedback"] = np.clip(rng.normal(0, 60, (HIDDEN, OUTPUTS)), -127, 127).astype(np.int8)
    return found


def window_of(seed: int, rate: float = 0.08, steps: int = STEPS) -> I16:
    return (np.random.default_rng([7, seed]).random(steps * INPUTS) < rate).astype(np.int16)


def recorded(feedback: str, seed: int) -> tuple[Network, SuperSpikeRule, Any]:
    manifest = manifest_of(feedback)
    network = Network(manifest, tensors_of(manifest, seed))
    rule = SuperSpikeRule(manifest, cast(Tensors, network.tensors))
    return network, rule, rule.record(network, window_of(seed))


def target_error(rule: SuperSpikeRule, window: Any, label: int) -> AnyArray:
    error = np.zeros(CLASSES, np.int32)
    rule.error(error, window, label, np.ones(CLASSES, np.bool_))
    return error


# ------------------------------------------------------------------ the rule


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_filters_run_backwards_on_the_error_give_the_papers_gradient(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pre, psi = (rng.random((80, 6)) < 0.2).astype(float), rng.random((80, 5)) ** 3
    raw = rng.integers(-1, 2, (80, 5)).astype(float)
    want = paper.as_the_paper_writes_it(TIMES, pre, psi, raw)
    assert np.abs(want).max() > 0.01
    np.testing.assert_allclose(paper.deferred(TIMES, pre, psi, raw), want, rtol=0, atol=1e-12 * np.abs(want).max())


def test_the_papers_gradient_is_the_slope_of_half_the_distance() -> None:
    """Where outputs answer smoothly, z = q W, the rule with psi = 1 must be that loss's own derivative."""
    rng = np.random.default_rng(3)
    pre, w, target = (rng.random((40, 5)) < 0.2).astype(float), rng.normal(0, 1, (5, 2)), rng.random((40, 2))
    q = paper.potentials(pre, TIMES)
    found = paper.as_the_paper_writes_it(TIMES, pre, np.ones((40, 2)), q @ w - target)
    for i, j in ((0, 0), (4, 1)):
        losses = []
        for nudge in (1e-5, -1e-5):
            moved = w.copy()
            moved[i, j] += nudge
            losses.append(paper.distance(q @ moved - target, TIMES) / 2)
        assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(found[i, j], rel=1e-6)


@pytest.mark.parametrize("feedback", ["symmetric", "random", "uniform"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_integer_gradient_points_where_the_papers_does(feedback: str, seed: int) -> None:
    network, rule, window = recorded(feedback, seed)
    label = seed % CLASSES
    found = rule.factors(window, target_error(rule, window, label))
    t = network.tensors
    weights = [t["fan.weight"] / 2**10, t["up.weight"] / 2**9]
    forced = [window.pre[1].astype(float), window.spikes.astype(float)]
    assert min(each.mean() for each in forced) > 0.01
    twin = paper.run(TIMES, weights, window.pre[0].astype(float), forced)
    raw = window.spikes - t["known.target"][label].astype(float)
    through = {"symmetric": t["up.weight"], "uniform": np.full((HIDDEN, OUTPUTS), 64)}.get(feedback)
    through = t["hidden.feedback"] if through is None else through
    signals = paper.signals(raw, [through.astype(float)], chained=feedback == "symmetric")
    for k, name in enumerate(TENSORS):
        got = np.zeros(t[name].shape, np.int64)
        eprop.gradient(got, found[name].history, found[name].post)
        want = paper.as_the_paper_writes_it(TIMES, twin.pre[k], twin.psi[k], signals[k])
        assert paper.cosine(got.astype(float), want) >= 0.99, name


def test_each_kind_of_feedback_gives_another_gradient_below_and_the_same_on_top() -> None:
    """So that the test above could fail."""
    below, top = [], []
    for feedback in ("symmetric", "random", "uniform"):
        network, rule, window = recorded(feedback, 1)
        found = rule.factors(window, target_error(rule, window, 0))
        for name, kept in zip(TENSORS, (below, top), strict=True):
            got = np.zeros(network.tensors[name].shape, np.int64)
            eprop.gradient(got, found[name].history, found[name].post)
            kept.append(got.astype(float))
    assert max(paper.cosine(below[a], below[b]) for a, b in ((0, 1), (0, 2), (1, 2))) < 0.95
    assert (top[0] == top[1]).all()
    assert (top[0] == top[2]).all()


def test_the_scores_are_the_distances_that_the_rule_descends_and_the_paper_measures() -> None:
    network, _, window = recorded("symmetric", 2)
    for k, target in enumerate(network.tensors["known.target"]):
        raw = window.spikes.astype(np.int32) - target
        filtered = superspike.ONE * raw
        superspike.van_rossum(filtered, RISE, FALL)
        assert -superspike.energy(filtered) == window.logits[k]
        assert -window.logits[k] / 2**20 == pytest.approx(paper.distance(raw.astype(float), TIMES), rel=0.02)


@pytest.mark.parametrize(("kept", "bounds"), [(0.0, (0, 0)), (0.7, (5000, 32000)), (1.0, (1 << 15, 1 << 15))])
def test_how_sure_is_the_share_of_the_distance_of_silence_that_is_gone(kept: float, bounds: tuple[int, int]) -> None:
    network, rule, window = recorded("symmetric", 1)
    target = network.tensors["known.target"][1]
    run = OPS[Patterns](network.manifest.layers[-1], network.tensors, ())
    for row in target * (np.random.default_rng(0).random(target.shape) < kept):
        run.step(row.astype(np.float32))
    error = np.zeros(CLASSES, np.int32)
    sure = rule.error(error, replace(window, logits=run.reading()), 1, np.ones(CLASSES, np.bool_))
    assert bounds[0] <= sure <= bounds[1]
    assert error.tolist() == [0, sure - (1 << 15), 0]


# ------------------------------------------------------------------ kernels


def test_the_surrogate_follows_its_curve_and_ends() -> None:
    margin = np.arange(-9000, 9001)
    psi = np.zeros(margin.shape, np.uint16)
    superspike.surrogate(psi, margin, 9)
    want = 1 / (1 + np.abs(margin) / 512) ** 2
    near = np.abs(margin) < 16 * 512
    assert np.abs(psi[near] / 32767 - want[near]).max() < 0.06
    assert (psi[~near] == 0).all()
    assert psi[near].min() > 100
    assert (np.diff(psi[margin >= 0].astype(int)) <= 0).all()


def test_a_potential_is_the_papers_and_fits() -> None:
    pre = np.zeros((STEPS, 2), np.uint8)
    pre[3, 0] = 1
    pre[:, 1] = 1
    history = np.zeros(pre.shape, np.int16)
    superspike.potentials(history, pre, ALPHA, DECAY)
    want = paper.potentials(pre.astype(float), TIMES)
    scale = 2 ** eprop.trace_gain(ALPHA) * (1 - DECAY / 32768)
    assert np.abs(history - want * scale).max() < 3
    assert 500 < history[:, 0].max() < history[:, 1].max() < 32767


def test_the_kernels_give_the_stored_bits() -> None:
    with np.load(Path(__file__).parents[1] / "golden" / "vectors.npz", allow_pickle=False) as file:
        a = {name.rpartition(".")[2]: file[name] for name in file.files if name.startswith("superspike.window.")}
    psi, post, history = (np.zeros_like(a[name]) for name in ("psi", "post", "history"))
    assert superspike.TABLE.tolist() == a["table"].tolist()
    signal = np.zeros_like(a["signal"])
    eprop.learning_signal(signal, a["raw"].astype(np.int32), a["feedback"], 7)
    filtered = signal.copy()
    superspike.learning_signal(filtered, RISE, FALL)
    superspike.surrogate(psi, a["margin"], 9)
    eprop.post_factor(post, psi, filtered, 11)
    superspike.potentials(history, a["pre"], ALPHA, DECAY)
    for name, got in {"signal": signal, "filtered": filtered, "psi": psi, "post": post, "history": history}.items():
        assert np.abs(a[name]).max() > 50, name
        assert got.tolist() == a[name].tolist(), name


# ------------------------------------------------------------------ lessons


def learner_of(feedback: str = "symmetric", **fields: Any) -> Learner:
    manifest = manifest_of(feedback, **fields)
    return Learner(Network(manifest, tensors_of(manifest)), priors={})


def taught(learner: Learner, lessons: int) -> list[bytes]:
    found = []
    for number in range(lessons):
        label = number % 2
        lesson = learner.plan_lesson(window_of(label), label, "full")
        learner.apply(lesson)
        found.append(records.encode(lesson))
    return found


@pytest.mark.parametrize("feedback", ["symmetric", "random", "uniform"])
def test_lessons_bring_the_spikes_to_their_targets(feedback: str) -> None:
    learner = learner_of(feedback)
    rule = cast(SuperSpikeRule, learner._rule)

    def distance() -> float:
        return float(np.mean([-rule.record(learner.network, window_of(k)).logits[k] for k in range(2)]))

    before = distance()
    taught(learner, 24)
    assert distance() < 0.7 * before


def test_one_neuron_learns_five_spikes_without_a_hidden_layer() -> None:
    manifest = manifest_of()
    population = (Population(synapses="fan", neurons="hidden"),)
    plan = msgspec.structs.replace(
        manifest.learning,
        rule=msgspec.structs.replace(
            cast(SuperSpike, manifest.learning.rule), populations=population,
            rates=(PlasticRate(tensor="fan.weight", eta=160, shift=15),),
        ),
    )  # fmt: skip
    fan = DenseSum(name="fan", inputs=INPUTS, outputs=1, output_bound=127 * INPUTS)
    neuron = Cells(name="hidden", shape=(1,), weight_exponent=9, synaptic=True)
    known = Patterns(name="known", inputs=1, outputs=CLASSES, steps=STEPS, rise=RISE, fall=FALL)
    manifest = msgspec.structs.replace(manifest, layers=(manifest.layers[0], fan, neuron, known), learning=plan)
    target = np.zeros((CLASSES, STEPS, 1), np.uint8)
    target[0, [10, 22, 30, 41, 55]] = 1
    tensors = {name: a[..., :1] if name.startswith("hidden") else a for name, a in tensors_of(manifest).items()}
    tensors |= {"fan.weight": np.full((INPUTS, 1), 3, np.int8), "known.target": target}
    learner = Learner(Network(manifest, tensors), priors={})
    sure = []
    for _ in range(120):
        result = learner.apply(learner.plan_lesson(window_of(3), 0, "light"))
        sure.append(result.confidence if result else 0.0)
    assert sure[0] < 0.2
    assert np.mean(sure[-20:]) > 0.8  # the error over that of silence: a fifth


def test_a_journal_replays_to_the_same_bits() -> None:
    first, second = learner_of("random"), learner_of("random")
    journal = taught(first, 8)
    for data in journal:
        second.apply(records.decode(data))
    assert second.digest() == first.digest()
    assert first.digest() != learner_of("random").digest()


def test_learning_goes_on_from_saved_state_with_the_same_bits() -> None:
    whole, half = learner_of(), learner_of()
    taught(whole, 6)
    taught(half, 3)
    saved = {name: array.copy() for name, array in half.arrays().items()}, half.meta()
    assert saved[0]["largest.fan.weight"].max() > 8
    other = learner_of()
    other.load(*saved)
    for number in range(3, 6):
        other.apply(other.plan_lesson(window_of(number % 2), number % 2, "full"))
    assert other.digest() == whole.digest()


def test_a_lesson_known_well_enough_changes_nothing() -> None:
    learner = learner_of(error_threshold=0)
    before = {name: array.copy() for name, array in learner.arrays().items() if name.startswith("shadow")}
    result = learner.apply(learner.plan_lesson(window_of(0), 0, "light"))
    assert result is not None
    assert result.updates == 0
    assert all((learner.arrays()[name] == array).all() for name, array in before.items())


def test_a_label_that_is_no_pattern_is_refused() -> None:
    with pytest.raises(DataError, match=r"label 3 is outside \[0, 3\)"):
        learner_of().plan_lesson(window_of(0), 3, "full")


def bundle_of(manifest: Manifest) -> Bundle:
    tensors = tensors_of(manifest)
    network = Network(manifest, tensors)
    x = np.stack([window_of(k) for k in range(8)])
    scores = np.stack([network.scores(row) for row in x])
    assert np.ptp(scores) > 0
    rows = x.astype(np.int8).reshape(8, STEPS, INPUTS)
    probe = Probe(x=rows, label=np.arange(8, dtype=np.int32) % CLASSES)
    return read_bundle(pack(manifest, tensors, selftest=Selftest(x=rows, y=scores), probe=probe))


def test_a_bundle_brings_targets_and_feedback_and_is_priced_with_all_that_the_rule_keeps() -> None:
    bundle = bundle_of(manifest_of("random"))
    tensors = tensors_of(bundle.manifest)
    for name in ("known.target", "hidden.feedback"):
        assert (bundle.tensors[name] == tensors[name]).all()
    slots = {name: placed.slot for name, placed in memory_plan(bundle).slots.items()}
    rule = SuperSpikeRule(bundle.manifest, dict(bundle.tensors))
    window = rule.record(Network(bundle.manifest, bundle.tensors), window_of(0))
    for k, name in enumerate(("hidden", "out")):
        assert slots[f"tape.{name}.pre"].bytes == window.pre[k].nbytes
        assert slots[f"tape.{name}.psi"].bytes == window.psi[k].nbytes
    assert slots["tape.spikes"].bytes == window.spikes.nbytes
    factors = rule.factors(window, target_error(rule, window, 0))
    for name, each in zip(("hidden", "out"), factors.values(), strict=True):
        assert slots[f"trace.{name}.history"].bytes == each.history.nbytes
        assert slots[f"trace.{name}.post"].bytes == each.post.nbytes
    assert slots["largest.up.weight"].bytes == HIDDEN * OUTPUTS


def test_a_life_on_flash_restarts_with_the_same_bits_and_its_guard_counts_nearest_patterns() -> None:
    manifest = manifest_of()
    plan = msgspec.structs.replace(manifest.learning, guard=Guard(every=4, samples=16, max_drop=0.5))
    bundle, flash = bundle_of(msgspec.structs.replace(manifest, learning=plan)), SimFlash()
    life = Lifetime(bundle, flash)
    for number in range(4):
        life.teach(window_of(number), number % CLASSES, "full", number)
    life.commit()
    assert Lifetime(bundle, flash).digest() == life.digest()
    seen = [(window_of(k), k % CLASSES) for k in (*range(8), *range(4))]  # the probe, then the newest lessons
    right = sum(life.learner.network.infer(q).label == label for q, label in seen)
    judged = life.judge()
    assert (judged.correct, judged.of) == (right, len(seen))
    again = Lifetime(bundle, flash)
    assert again.digest() == life.digest()
    assert again.unjudged == 0


def test_learned_weights_can_never_break_the_sums_certificate() -> None:
    manifest = manifest_of()
    tight = msgspec.structs.replace(manifest.layers[1], output_bound=127 * INPUTS - 1)
    with pytest.raises(SpecError, match=r"layer fan channel 0: sum\|w\| \* max\|x\| 2540 is above 2539"):
        tight.certify({"fan.weight": np.zeros((INPUTS, HIDDEN), np.int8)}, (1,), frozenset({"fan.weight"}))


# ------------------------------------------------------------------ what is refused


def with_layer(k: int, **fields: Any) -> Manifest:
    manifest = manifest_of()
    layers = list(manifest.layers)
    layers[k] = msgspec.structs.replace(layers[k], **fields)
    return msgspec.structs.replace(manifest, layers=tuple(layers))


def refused(manifest: Manifest, message: str, **tensors: AnyArray) -> None:
    with pytest.raises(SpecError, match=message):
        SuperSpikeRule(manifest, tensors_of(manifest) | {name.replace("_", "."): a for name, a in tensors.items()})


def test_only_what_the_rule_can_teach_is_taken() -> None:
    refused(with_layer(2, synaptic=False), "'hidden' are no cells with a synaptic current alone")
    refused(with_layer(2, recurrence="dense"), "'hidden' are no cells with a synaptic current alone")
    refused(with_layer(0, qmax=5), "'fan' read values of up to 5, not spikes")
    refused(manifest_of(patterns="out"), "patterns 'out' are no patterns layer")
    refused(manifest_of(rates=(PlasticRate(tensor="out.bias", eta=1, shift=1),)), "cannot change 'out.bias'")
    refused(manifest_of(steps=129), "at most 128 steps, a window has 129")
    upside_down = (Population(synapses="up", neurons="out"), Population(synapses="fan", neurons="hidden"))
    refused(manifest_of(populations=upside_down), "synapses 'fan' read 'spikes', not 'out'")
    only_below = (Population(synapses="fan", neurons="hidden"),)
    rates = (PlasticRate(tensor="fan.weight", eta=1, shift=1),)
    refused(manifest_of(populations=only_below, rates=rates), "patterns 'known' read 'out', not 'hidden'")
    uneven = np.array([ALPHA] * (HIDDEN - 1) + [5], np.uint16)
    refused(manifest_of(), r"hidden\.alpha runs from 5", hidden_alpha=uneven)


def test_a_norm_limit_behind_a_normaliser_is_refused() -> None:
    rates = tuple(PlasticRate(tensor=name, eta=1, shift=1, max_norm=7) for name in TENSORS)
    with pytest.raises(SpecError, match=r"'fan\.weight' has max_norm 7, must be 0 behind a normaliser"):
        manifest_of(rates=rates)
