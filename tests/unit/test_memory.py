"""What the planner says a rule takes is what is carved, to the byte, and a lesson works in that memory alone."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import integers
from runs import peak_of

from edgerun.arrays import Tensors
from edgerun.bundle import Bundle, Probe, Selftest, pack, read_bundle
from edgerun.errors import SpecError
from edgerun.graph import wanted_tensors
from edgerun.kernels import eprop as kernel
from edgerun.kernels.eprop import TILE
from edgerun.layers import Cells, DenseSum, Lookup, Patterns
from edgerun.learn import tape
from edgerun.learn.learner import Learner, working_slots
from edgerun.learn.profiles import PROFILES
from edgerun.learn.rules import rule_of
from edgerun.lifetime import new_learner
from edgerun.network import Network
from edgerun.plan import align
from edgerun.price import memory_plan
from edgerun.rules import EPropOnline, EPropValues, Population, SuperSpike
from edgerun.spec import (
    Backprop,
    ClassTable,
    Dense,
    EProp,
    Frames,
    Gain,
    Head,
    IlProx,
    InnerStep,
    InputSpec,
    Intelligence,
    LearningPlan,
    Lif,
    Manifest,
    MeanQuotient,
    OutputSpec,
    PhaseRate,
    PlasticRate,
    PredictiveCoding,
    Readout,
    Replay,
    Rewiring,
    RMaxProp,
    Rule,
    SequentialIl,
)

STEPS, INPUTS, LOW, HIGH, CLASSES = 24, 20, 30, 26, 6
SI = Intelligence(strength=12, damping=64, every=2)
RECURRENT = ("low.input", "low.recurrent", "high.input", "high.recurrent", "out.input")


def rates(*tensors: str, max_norm: int = 4000) -> tuple[PlasticRate, ...]:
    return tuple(PlasticRate(tensor=name, eta=40, shift=16, max_norm=max_norm) for name in tensors)


def eprop(kind: type[EProp] = EProp, tensors: tuple[str, ...] = RECURRENT, **fields: Any) -> EProp:
    chunk = 1 if kind is EPropOnline else 100
    given = {"layer": "high", "hidden": ("low",), "readout": "out", "chunk_steps": chunk, "post_shift": 6} | fields
    return kind(rates=rates(*tensors), **given)


def spiking(rule: Rule, *, steps: int = STEPS, wide: int = 1, adaptive: bool = False, **plan: Any) -> Manifest:
    """Two Lif layers and a readout, under prototypes of the upper one, or the readout's values."""
    given: dict[str, Any] = {
        "head": Head(kind="prototypes", features="high"), "classes": ClassTable(names=tuple("abc"), capacity=CLASSES),
    }  # fmt: skip
    if isinstance(rule, EPropValues):
        given = {"head": Head(kind="values"), "output": OutputSpec(shape=(CLASSES,))}
    low = Lif(name="low", inputs=INPUTS, outputs=LOW * wide, weight_exponent=8)
    high = Lif(name="high", inputs=LOW * wide, outputs=HIGH * wide, weight_exponent=8, adaptive=adaptive)
    return Manifest(
        name="spiking", input=InputSpec(shape=(INPUTS,), dtype="uint8"), encoder=PhaseRate(steps=steps, full_scale=16),
        layers=(low, high, Readout(name="out", inputs=HIGH * wide, outputs=CLASSES, weight_exponent=8)),
        learning=LearningPlan(rule=rule, **plan), **given,
    )  # fmt: skip


def patterns(feedback: Any, *, steps: int = STEPS, wide: int = 1, **plan: Any) -> Manifest:
    """SuperSpike over two populations."""
    populations = (Population(synapses="fan", neurons="hidden"), Population(synapses="up", neurons="last"))
    rule = SuperSpike(
        populations=populations, patterns="known", feedback=feedback, rates=rates("fan.weight", "up.weight", max_norm=0)
    )
    low, high = LOW * wide, HIGH * wide
    return Manifest(
        name="patterns", input=InputSpec(shape=(steps, INPUTS)), encoder=Frames(),
        layers=(
            Lookup(name="spikes", shape=(INPUTS,), qmin=0, qmax=1),
            DenseSum(name="fan", inputs=INPUTS, outputs=low, output_bound=127 * INPUTS),
            Cells(name="hidden", shape=(low,), weight_exponent=10, synaptic=True),
            DenseSum(name="up", inputs=low, outputs=high, output_bound=127 * low),
            Cells(name="last", shape=(high,), weight_exponent=9, synaptic=True),
            Patterns(name="known", inputs=high, outputs=CLASSES, steps=steps, rise=27_000, fall=29_000),
        ),
        classes=ClassTable(names=tuple("abc"), capacity=CLASSES), learning=LearningPlan(rule=rule, **plan),
    )  # fmt: skip


def dense(rule: Rule, *, wide: int = 1, **plan: Any) -> Manifest:
    """Three dense layers."""
    sides = (INPUTS, LOW * wide, HIGH * wide, CLASSES)
    layers = tuple(
        Dense(name=f"fc{k}", inputs=sides[k], outputs=sides[k + 1], qmin=0 if k < 2 else -128, input_bound=128)
        for k in range(3)
    )
    return Manifest(
        name="dense", input=InputSpec(shape=(INPUTS,)), layers=layers,
        classes=ClassTable(names=tuple("abcdef"), capacity=CLASSES), learning=LearningPlan(rule=rule, **plan),
    )  # fmt: skip


def chain(kind: type[Rule], *more: str, **fields: Any) -> Rule:
    names = ("fc0", "fc1", "fc2")
    weights = tuple(f"{name}.weight" for name in names)
    if kind is Backprop:
        return Backprop(layers=names, rates=rates(*weights), back_shifts=(6, 6))
    back = Gain(multiplier=1000, shift=10)
    return kind(layers=names, rates=rates(*weights, *more, max_norm=0), steps=4, backs=(back, back), **fields)


IL_PROX: dict[str, Any] = {
    "up": 8000, "down": 8000, "alpha": Gain(multiplier=100, shift=10), "damping": (1000,) * 3, "norm_shifts": (20,) * 3,
}  # fmt: skip
PREDICTIVE: dict[str, Any] = {"up": 8000, "down": 8000}
RULES: dict[str, Callable[..., Manifest]] = {
    "eprop": lambda **k: spiking(eprop(), intelligence=SI, replay=Replay(capacity=9, passes=1), **k),
    "eprop-small": lambda **k: spiking(
        eprop(chunk_steps=19, target_steps=3), intelligence=SI, replay=Replay(capacity=9), profile="small", **k
    ),
    "rewired": lambda **k: spiking(eprop(), intelligence=SI, rewiring=Rewiring(every=2), **k),
    "rewired-small": lambda **k: spiking(eprop(), rewiring=Rewiring(every=2), profile="small", **k),
    "eprop-chunk": lambda **k: spiking(eprop(chunk_steps=7, target_steps=3), **k),
    "eprop-readout": lambda **k: spiking(eprop(hidden=(), tensors=("out.input",)), **k),
    "eprop-adaptive": lambda **k: spiking(eprop(feedback="random", spikes_cost=90), adaptive=True, **k),
    "eprop-feedback": lambda **k: spiking(
        eprop(tensors=(*RECURRENT, "low.feedback", "high.feedback"), feedback="adaptive", target_steps=7), **k
    ),
    "eprop-online": lambda **k: spiking(eprop(EPropOnline, target_steps=1), intelligence=SI, **k),
    "eprop-values": lambda **k: spiking(eprop(EPropValues, target_steps=5), intelligence=SI, **k),
    "inner-step": lambda **k: spiking(InnerStep(readout="out", rates=rates("out.input")), **k),
    "superspike": lambda **k: patterns("symmetric", intelligence=SI, normaliser=RMaxProp(fade=25), **k),
    "superspike-random": lambda **k: patterns("random", **k),
    "backprop": lambda **k: dense(chain(Backprop), intelligence=SI, **k),
    "il-prox": lambda **k: dense(chain(IlProx, **IL_PROX), intelligence=SI, **k),
    "il-mq": lambda **k: dense(chain(SequentialIl, gain=8000), normaliser=MeanQuotient(), **k),
    "predictive": lambda **k: dense(chain(PredictiveCoding, "fc1.feedback", "fc2.feedback", **PREDICTIVE), **k),
}
INTO = {"decay": 30000, "kappa": 29000, "alpha": 27000, "rho": 30000, "multiplier": 1 << 23, "shift": 29}
every_rule = pytest.mark.parametrize("make", RULES.values(), ids=RULES)


def tensors_of(manifest: Manifest) -> Tensors:
    """Random weights with which neurons do spike."""
    rng, found = np.random.default_rng(3), {}
    for want in wanted_tensors(manifest):
        low, high, part = max(want.low, -50), min(want.high, 90), want.spec.name.rpartition(".")[2]
        array = rng.integers(low, high, want.spec.shape, dtype=want.spec.dtype, endpoint=True)
        found[want.spec.name] = np.full_like(array, INTO[part]) if part in INTO else array
    for name in found.keys() & {"hidden.threshold", "last.threshold"}:
        found[name][...] = 2000
    return found


def bundle_of(manifest: Manifest) -> Bundle:
    rng, tensors = np.random.default_rng(4), tensors_of(manifest)
    x = rng.integers(0, 2 if manifest.name == "patterns" else 17, (8, *manifest.input.shape))
    x = x.astype(manifest.input.dtype)
    network = Network(manifest, tensors)
    scores = np.array([network.scores(row.reshape(-1).astype(np.int16)).copy() for row in x])
    values = manifest.head.kind == "values"
    rows = x[:0] if values else x
    probe = Probe(rows, np.arange(len(rows), dtype=np.int32) % 3)
    return read_bundle(pack(manifest, tensors, selftest=Selftest(x, scores), probe=probe))


def lesson(learner: Learner, bundle: Bundle, k: int = 0) -> None:
    q, values = bundle.selftest.x[k].reshape(-1).astype(np.int16), bundle.manifest.head.kind == "values"
    rule = bundle.manifest.learning.rule
    target = np.full(rule.targets(bundle.manifest.layer), 999, np.int16) if rule and values else None
    learner.apply(learner.plan_lesson(q, 0 if values else k % 3, "full", 0, target))


# ------------------------------------------------------------------ planned = carved


@every_rule
def test_the_planners_figure_is_what_network_and_learner_hold_to_the_byte(make: Callable[..., Manifest]) -> None:
    bundle = bundle_of(make())
    learner, plan = new_learner(bundle), memory_plan(bundle)
    carved, network = learner.layout, learner.network
    for name, placed in carved.slots.items():
        array = learner._state[name]
        assert (array.shape, array.dtype.name) == (placed.slot.shape, placed.slot.dtype)
        assert plan.slots[name].slot == placed.slot
    arena = learner._state["recent"].base
    for name, array in network.tensors.items():
        assert (name in plan.slots) != (name not in learner.arrays() and np.may_share_memory(array, arena)), name
        if name in plan.slots and name not in carved.slots:
            assert plan.slots[name].bytes == array.nbytes
    mine, parts = carved.bytes_by_part(), plan.bytes_by_part()
    others = {name: placed for name, placed in plan.slots.items() if name not in carved.slots}
    for part in parts.keys() - {"scratch"}:
        rest = sum(align(placed.bytes) for placed in others.values() if placed.slot.part == part)
        assert parts[part] == mine.get(part, 0) + rest, part
    start = min(placed.offset for placed in plan.slots.values() if placed.slot.part == "scratch")
    assert start + mine["scratch"] <= plan.total_bytes == sum(parts.values())


@every_rule
def test_a_lesson_writes_every_array_of_its_tape(make: Callable[..., Manifest]) -> None:
    """So nothing is planned that is not used; what the rule uses beyond it the next test would find.

    In numpy: C sums up a chain's last layer where its error lies, and leaves `tape.logits` alone.
    """
    bundle = bundle_of(make())
    learner = new_learner(bundle, backend="numpy")
    memory = {name: learner._state[name] for name in tape.slots(bundle.manifest)}
    for array in memory.values():
        array.view(np.uint8)[...] = 0xA5
    before = {name: array.copy() for name, array in memory.items()}
    for k in range(3):
        lesson(learner, bundle, k)
    assert learner.updates
    untouched = [name for name, array in memory.items() if (array.view(np.uint8) == before[name].view(np.uint8)).all()]
    assert not untouched


@every_rule
def test_nothing_of_one_lesson_reaches_the_next_through_its_tape(make: Callable[..., Manifest]) -> None:
    bundle = bundle_of(make())
    one, two = new_learner(bundle), new_learner(bundle)
    for k in range(4):
        for name in working_slots(bundle.manifest, bundle.tensors):
            two._state[name].view(np.uint8)[...] = 0x5A
        lesson(one, bundle, k)
        lesson(two, bundle, k)
    assert one.digest() == two.digest() != new_learner(bundle).digest()


# ------------------------------------------------------------------ nothing beside it


REGISTERS = 11
"""Arrays of one row block, or of `TILE` steps of one layer, in 64 bits: what a scalar loop would hold in registers."""


def taken(make: Callable[..., Manifest], **sizes: int) -> int:
    """The most bytes that a lesson held beyond what stood before."""
    bundle = bundle_of(make(**sizes))
    learner = new_learner(bundle)
    return peak_of(lambda: lesson(learner, bundle))


@every_rule
def test_a_lesson_takes_a_few_row_blocks_beside_its_slots(make: Callable[..., Manifest]) -> None:
    assert taken(make, wide=4) <= 8 * REGISTERS * max(PROFILES["standard"].block_rows, TILE) * 4 * LOW + (16 << 10)


@pytest.mark.parametrize("name", [name for name in RULES if RULES[name]().name != "dense"])
def test_what_it_takes_does_not_grow_with_the_window(name: str) -> None:
    """But for the sample itself, which goes from record to encoder in a handful of copies."""
    short, long = (taken(RULES[name], steps=steps) for steps in (2 * TILE, 4 * TILE))
    sample = 2 * INPUTS * 2 * TILE if name.startswith("superspike") else 0
    assert long - short <= 6 * sample + 2048


# ------------------------------------------------------------------ profile small


def small(**fields: Any) -> LearningPlan:
    return LearningPlan(rule=eprop(**fields), intelligence=SI, profile="small")


def test_everything_that_learns_on_a_recurrent_net_fits_224_kb_in_profile_small() -> None:
    """64-128-10 with whitening, replay of 160, synaptic intelligence and prototypes."""
    plan = LearningPlan(
        rule=EProp(
            layer="lif", readout="out", chunk_steps=16, recent_labels=40,
            rates=rates("lif.input", "lif.recurrent", "out.input"),
        ),
        intelligence=SI, replay=Replay(capacity=160),
    )  # fmt: skip
    manifest = Manifest(
        name="digits", input=InputSpec(shape=(8, 8), dtype="uint8"), encoder=PhaseRate(steps=16, full_scale=16),
        layers=(
            Lif(name="lif", inputs=64, outputs=128, weight_exponent=8),
            Readout(name="out", inputs=128, outputs=10, weight_exponent=8),
        ),
        head=Head(kind="prototypes", features="lif", whiten=Dense(name="white", inputs=128, outputs=128)),
        classes=ClassTable(names=tuple("abcdefgh"), capacity=10), learning=plan,
    )  # fmt: skip
    standard = bundle_of(manifest)
    narrow = bundle_of(msgspec.structs.replace(manifest, learning=msgspec.structs.replace(plan, profile="small")))
    assert memory_plan(narrow).total_bytes <= 224_000 < 0.56 * memory_plan(standard).total_bytes
    learner = new_learner(narrow)
    for k in range(3):
        lesson(learner, narrow, k)
    assert learner.updates


def test_weights_of_profile_small_are_the_high_bytes_of_their_shadows() -> None:
    bundle = bundle_of(RULES["eprop-small"]())
    learner = new_learner(bundle)
    for k in range(6):
        lesson(learner, bundle, k)
    for name in RECURRENT:
        shadow, weights = learner.arrays()[f"shadow.{name}"], learner.network.tensors[name]
        assert (weights == shadow >> 8).all()
    assert (learner.network.tensors["out.input"] != bundle.tensors["out.input"]).any()
    learner.reset()
    assert learner.digest() == new_learner(bundle).digest()
    for name in RECURRENT:
        assert (learner.network.tensors[name] == bundle.tensors[name]).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_narrow_gradient_points_where_the_wide_one_does(seed: int) -> None:
    q = np.random.default_rng(seed).integers(0, 5, INPUTS).astype(np.int16)
    found = []
    for profile in ("standard", "small"):
        manifest = spiking(eprop(target_steps=3), intelligence=SI, profile=profile)
        tensors = tensors_of(manifest)
        network, error = Network(manifest, tensors), np.zeros(CLASSES, np.int32)
        rule: Any = rule_of(manifest, tensors)
        window = rule.record(network, q)
        rule.error(error, window, 1, np.ones(CLASSES, np.bool_))
        factors = rule.factors(window, error)
        found.append({name: each.history.T.astype(float) @ each.post * 2**each.drop for name, each in factors.items()})
    for name, wide in found[0].items():
        narrow = found[1][name]
        assert (wide * narrow).sum() / np.linalg.norm(wide) / np.linalg.norm(narrow) > 0.999, name
        assert 0.98 < np.linalg.norm(narrow) / np.linalg.norm(wide) < 1.02


@given(decay=st.integers(0, 32768), seed=st.integers(0, 999), late=st.integers(0, 1), last=st.integers(1, 20))
def test_narrow_traces_sum_to_the_wide_ones(decay: int, seed: int, late: int, last: int) -> None:
    pre = (np.random.default_rng(seed).random((20, 6)) < 0.3).astype(np.uint8)
    wide, narrow = np.zeros((last, 6), np.int16), np.zeros((last, 6), np.int8)
    kernel.traces(wide, pre, decay, late=late)
    kernel.traces(narrow, pre, decay, late=late, drop=8)
    assert narrow.tolist() == integers.traces(pre.tolist(), decay, last, late=late, drop=8)
    if wide.max() < 32512:
        assert (np.abs(wide.sum(axis=0, dtype=int) - 256 * narrow.sum(axis=0, dtype=int)) <= 256).all()


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "rule": (lambda: LearningPlan(rule=chain(Backprop), profile="small"), "needs a rule that is eprop or eprop-values"),
    "no-rule": (lambda: LearningPlan(profile="small"), "needs a rule that is eprop or eprop-values"),
    "online": (lambda: small(kind=EPropOnline), "needs a rule that is eprop or eprop-values"),
    "normaliser": (
        lambda: LearningPlan(
            rule=EProp(layer="high", readout="out", chunk_steps=9, rates=rates("out.input", max_norm=0)),
            normaliser=RMaxProp(fade=25), profile="small",
        ),
        "has no room for a normaliser",
    ),
    "shift": (lambda: small(gradient_shift=7), "needs shifts of at least 8, a rate or gradient_shift has 7"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_stored_narrow_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()
