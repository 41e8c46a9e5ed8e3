"""A small bundle for each rule, in whole numbers alone, with everything beside the rule that learns: what determinism,
golden vectors and counters are tested on. As a program it prints the digests of all their lives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np

from edgerun.arrays import I16, AnyArray, Tensors
from edgerun.bundle import Bundle, Probe, Selftest, no_probe, pack, read_bundle
from edgerun.graph import grows
from edgerun.layers import Cells, DenseSum, Lookup, Patterns
from edgerun.learn import records
from edgerun.learn.records import Boundary, Entry, Lesson, NewClass, Rollback, Settle, Verdict
from edgerun.lifetime import Lifetime
from edgerun.network import Network
from edgerun.rules import (
    Backprop,
    EProp,
    EPropOnline,
    EPropValues,
    Gain,
    IlProx,
    InnerStep,
    MeanQuotient,
    PlasticRate,
    Population,
    PredictiveCoding,
    RMaxProp,
    Rule,
    SequentialIl,
    SuperSpike,
)
from edgerun.spec import (
    ClassTable,
    Dense,
    Doubt,
    Frames,
    Guard,
    Head,
    InputSpec,
    Intelligence,
    LearningPlan,
    Level,
    Lif,
    Manifest,
    OutputSpec,
    PhaseRate,
    Readout,
    Replay,
    Rewiring,
)
from firmware_sim.flash import SimFlash

NAMES, CAPACITY = ("a", "b", "c", "d"), 6
STEPS, TARGETS = 10, 3
WIDTHS = {"low": (12, 14), "high": (14, 10), "out": (10, CAPACITY)}
CHAIN = (20, 14, 10, CAPACITY)
SHARED: Mapping[str, Any] = {
    "intelligence": Intelligence(strength=16, damping=600, every=5),
    "replay": Replay(capacity=12, passes=2, refresh_every=3),
    "guard": Guard(every=4, samples=24, max_drop=0.5),
}


def rates(eta: int, shift: int, *tensors: str, **more: int) -> tuple[PlasticRate, ...]:
    return tuple(PlasticRate(tensor=name, eta=eta, shift=shift, **more) for name in tensors)


# ------------------------------------------------------------------ spiking nets

HIGH = ("high.input", "high.recurrent", "out.input")
ALL_LIF = ("low.input", "low.recurrent", *HIGH)
FED = ("low.feedback", "high.feedback")


def spiking(rule: Rule, *, adaptive: bool = False, **more: Any) -> tuple[Manifest, Tensors]:
    """Two Lif layers and a readout."""
    manifest = Manifest(
        name="spiking", input=InputSpec(shape=(12,), dtype="uint8"), encoder=PhaseRate(steps=STEPS, full_scale=16),
        layers=(
            Lif(name="low", inputs=12, outputs=14, weight_exponent=7, adaptive=adaptive),
            Lif(name="high", inputs=14, outputs=10, weight_exponent=7, adaptive=adaptive),
            Readout(name="out", inputs=10, outputs=more.pop("outputs", CAPACITY), weight_exponent=8),
        ),
        seed=11, **({"classes": ClassTable(names=NAMES, capacity=CAPACITY)} | head_of(more) | plan_of(rule, more)),
    )  # fmt: skip
    rng, tensors = np.random.default_rng(5), dict[str, AnyArray]()
    for name, (m, n) in WIDTHS.items():
        width = manifest.layer(name).outputs
        tensors |= {
            f"{name}.input": rng.integers(-40, 90, (m, width)).astype(np.int8),
            f"{name}.bias": np.zeros(width, np.int32),
            f"{name}.{'kappa' if name == 'out' else 'decay'}": np.full(width, 29500, np.uint16),
        }
        if name != "out":
            tensors[f"{name}.recurrent"] = rng.integers(-40, 41, (n, n)).astype(np.int8)
            tensors[f"{name}.feedback"] = rng.integers(-90, 91, (n, manifest.layer("out").outputs)).astype(np.int8)
            tensors |= {
                f"{name}.rho": rng.integers(31000, 32500, n).astype(np.uint16),
                f"{name}.beta": rng.integers(400, 3000, n).astype(np.int16),
            }
    return manifest, asked(manifest, rule, tensors)


def asked(manifest: Manifest, rule: Rule, tensors: Tensors) -> Tensors:
    """Of these tensors, those that a layer or the rule asks for."""
    names = {f"{layer.name}.{field.part}" for layer in manifest.layers for field in layer.fields()}
    names |= {own.name for own in rule.own(manifest.layer)}
    return {name: array for name, array in tensors.items() if name in names}


def head_of(more: dict[str, Any]) -> dict[str, Any]:
    """A prototype head on these features, with nothing known yet; what else was asked for where there are none."""
    features = more.pop("features", None)
    found = {"head": Head(kind="prototypes", features=features)} if features else {}
    return found | {name: more.pop(name) for name in ("head", "output", "classes") if name in more}


def plan_of(rule: Rule, more: dict[str, Any]) -> dict[str, Any]:
    return {"learning": LearningPlan(rule=rule, **(dict(SHARED) | more))}


def eprop() -> tuple[Manifest, Tensors]:
    rule = EProp(
        layer="high", readout="out", chunk_steps=STEPS, post_shift=6, recent_labels=3, error_threshold=31000,
        rates=rates(500, 22, *HIGH, max_norm=4000),
    )  # fmt: skip
    return spiking(rule, features="high")


def eprop_small() -> tuple[Manifest, Tensors]:
    """The same with its numbers stored narrow, and targets over time."""
    rule = EProp(
        layer="high", hidden=("low",), readout="out", chunk_steps=STEPS - 2, target_steps=TARGETS, post_shift=6,
        rates=rates(500, 22, *ALL_LIF, max_norm=4000, decay_shift=12),
    )  # fmt: skip
    return spiking(rule, features="high", profile="small")


def rewired() -> tuple[Manifest, Tensors]:
    """Weights that are not there in half of all places, moved at boundaries."""
    rule = EProp(
        layer="high", readout="out", chunk_steps=STEPS, post_shift=6, rates=rates(500, 22, *HIGH, max_norm=4000)
    )
    manifest, tensors = spiking(rule, features="high", rewiring=Rewiring(share=6554, growth_shift=1))
    rng = np.random.default_rng(8)
    for name in HIGH:
        tensors[name][rng.random(tensors[name].shape) < 0.5] = 0
    return manifest, tensors


def doubted() -> tuple[Manifest, Tensors]:
    """E-prop that sets labels aside."""
    rule = EProp(
        layer="high", readout="out", chunk_steps=STEPS, post_shift=6, rates=rates(500, 22, *HIGH, max_norm=4000)
    )
    return spiking(rule, features="high", doubt=Doubt(margins=8, share=0, votes=2))


def eprop_layers() -> tuple[Manifest, Tensors]:
    """Adaptive neurons and feedback, targets over time, firing rates held, decay, updates only where errors are."""
    rule = EProp(
        layer="high", hidden=("low",), readout="out", chunk_steps=STEPS, target_steps=TARGETS, post_shift=6,
        feedback="adaptive", spikes_target=500, spikes_cost=20000, update_share=20000,
        rates=rates(150, 15, *ALL_LIF, *FED, decay_shift=12),
    )  # fmt: skip
    return spiking(rule, adaptive=True, features="high", normaliser=RMaxProp(fade=25, floor=8))


def eprop_online() -> tuple[Manifest, Tensors]:
    rule = EPropOnline(
        layer="high", hidden=("low",), readout="out", chunk_steps=1, target_steps=TARGETS, post_shift=6,
        feedback="random", rates=rates(60, 8, *ALL_LIF),
    )  # fmt: skip
    return spiking(rule, features="high", normaliser=MeanQuotient(memory=4))


def eprop_values() -> tuple[Manifest, Tensors]:
    rule = EPropValues(
        layer="high", readout="out", chunk_steps=STEPS, target_steps=TARGETS, post_shift=6,
        rates=rates(500, 22, *HIGH, max_norm=4000),
    )  # fmt: skip
    values = {"head": Head(kind="values"), "output": OutputSpec(shape=(2,), scale=2.0**-24), "classes": ClassTable()}
    return spiking(rule, outputs=2, replay=Replay(capacity=0), **values)


def inner_step() -> tuple[Manifest, Tensors]:
    rule = InnerStep(readout="out", gate=300, rates=rates(9000, 26, "out.input", max_step=32512))
    return spiking(rule)


def superspike() -> tuple[Manifest, Tensors]:
    rng, steps, inputs, hidden, outputs = np.random.default_rng(3), 30, 8, 10, 4
    layers = (
        Lookup(name="spikes", shape=(inputs,), qmin=0, qmax=1),
        DenseSum(name="fan", inputs=inputs, outputs=hidden, output_bound=127 * inputs),
        Cells(name="hidden", shape=(hidden,), weight_exponent=9, synaptic=True),
        DenseSum(name="up", inputs=hidden, outputs=outputs, output_bound=127 * hidden),
        Cells(name="last", shape=(outputs,), weight_exponent=8, synaptic=True),
        Patterns(name="known", inputs=outputs, outputs=len(NAMES), steps=steps, rise=26828, fall=29649),
    )
    rule = SuperSpike(
        populations=(Population(synapses="fan", neurons="hidden"), Population(synapses="up", neurons="last")),
        patterns="known", feedback="random", post_shift=13, rates=rates(96, 15, "fan.weight", "up.weight"),
    )  # fmt: skip
    manifest = Manifest(
        name="patterns", input=InputSpec(shape=(steps, inputs)), encoder=Frames(), layers=layers, seed=11,
        classes=ClassTable(names=NAMES, capacity=len(NAMES)),
        **plan_of(rule, {"normaliser": RMaxProp(fade=25, floor=8)}),
    )  # fmt: skip
    tensors: Tensors = {
        "spikes.table": (np.arange(-128, 128) > 0).astype(np.int8),
        "fan.weight": rng.integers(-60, 110, (inputs, hidden)).astype(np.int8),
        "up.weight": rng.integers(-60, 80, (hidden, outputs)).astype(np.int8),
        "known.target": (rng.random((len(NAMES), steps, outputs)) < 0.06).astype(np.uint8),
        "hidden.feedback": rng.integers(-90, 91, (hidden, outputs)).astype(np.int8),
    }
    for name, n in (("hidden", hidden), ("last", outputs)):
        tensors |= {
            f"{name}.bias": np.zeros(n, np.int32), f"{name}.threshold": np.full(n, 4096, np.int16),
            f"{name}.alpha": np.full(n, 26828, np.uint16), f"{name}.decay": np.full(n, 29649, np.uint16),
        }  # fmt: skip
    return manifest, tensors


# ------------------------------------------------------------------ dense chains

LAYERS = ("fc0", "fc1", "fc2")
WEIGHTS = tuple(f"{name}.weight" for name in LAYERS)
SETTLING: Mapping[str, Any] = {
    "layers": LAYERS, "backs": (Gain(multiplier=28900, shift=20), Gain(multiplier=32258, shift=19)),
    "temperature_shift": 8, "gradient_shift": 12,
}  # fmt: skip


def dense(rule: Rule, **more: Any) -> tuple[Manifest, Tensors]:
    """Three dense layers in a row."""
    pairs = [*zip(LAYERS, CHAIN[:-1], CHAIN[1:], strict=True)]
    manifest = Manifest(
        name="chain", input=InputSpec(shape=(CHAIN[0],)), seed=11, classes=ClassTable(names=NAMES, capacity=CAPACITY),
        layers=tuple(Dense(name=name, inputs=m, outputs=n, qmin=-128 if name == "fc2" else 0) for name, m, n in pairs),
        **head_of(more), **plan_of(rule, more),
    )  # fmt: skip
    rng, tensors = np.random.default_rng(6), dict[str, AnyArray]()
    for name, m, n in pairs:
        tensors |= {
            f"{name}.weight": np.clip(rng.normal(0, 45, (n, m)).round(), -127, 127).astype(np.int8),
            f"{name}.feedback": rng.integers(-80, 81, (n, m)).astype(np.int8),
            f"{name}.bias": rng.integers(-300, 301, n).astype(np.int32),
            f"{name}.multiplier": np.full(n, 10737418, np.int32), f"{name}.shift": np.full(n, 31, np.uint8),
        }  # fmt: skip
    return manifest, asked(manifest, rule, tensors)


def backprop() -> tuple[Manifest, Tensors]:
    rule = Backprop(
        layers=LAYERS, back_shifts=(8, 7), temperature_shift=8, gradient_shift=7, rates=rates(4000, 24, *WEIGHTS)
    )
    return dense(rule, features="fc1")


def il_prox() -> tuple[Manifest, Tensors]:
    rule = IlProx(
        **SETTLING, steps=12, up=819, down=819, alpha=Gain(multiplier=16643, shift=22),
        damping=(264257536, 7340487, 4129024), norm_shifts=(31, 29, 28), rates=rates(8000, 28, *WEIGHTS),
    )  # fmt: skip
    return dense(rule)


def sequential_il() -> tuple[Manifest, Tensors]:
    rule = SequentialIl(**SETTLING, steps=3, gain=1638, rates=rates(9000, 18, *WEIGHTS))
    return dense(rule, normaliser=MeanQuotient(memory=6))


def predictive() -> tuple[Manifest, Tensors]:
    learned = (*WEIGHTS, "fc1.feedback", "fc2.feedback")
    rule = PredictiveCoding(**SETTLING, steps=8, up=3277, down=3277, rates=rates(9000, 30, *learned, decay_shift=10))
    return dense(rule)


# ------------------------------------------------------------------ bundles and what teaches them

KINDS: Mapping[str, Callable[[], tuple[Manifest, Tensors]]] = {
    "eprop": eprop, "eprop-small": eprop_small, "eprop-layers": eprop_layers, "eprop-online": eprop_online,
    "eprop-values": eprop_values, "rewired": rewired,
    "inner-step": inner_step, "superspike": superspike, "backprop": backprop, "il-prox": il_prox,
    "il-mq": sequential_il, "predictive": predictive,
}  # fmt: skip
LIVES: Mapping[str, Callable[[], tuple[Manifest, Tensors]]] = {**KINDS, "doubted": doubted}
"""All of these, and what shows over a life, not in its first lesson."""


@cache
def packed(kind: str) -> bytes:
    """The bundle of one rule, with a self-test, and where it has classes a probe, exemplars and prototypes."""
    manifest, tensors = LIVES[kind]()
    if manifest.head.kind == "prototypes":
        tensors |= prototypes(kind, manifest, tensors)
    rows = np.stack([sample(kind, k % len(NAMES), 100 + k) for k in range(8)])
    network, labels = Network(manifest, tensors), (np.arange(8) % len(NAMES)).astype(np.int32)
    scores = np.stack([network.scores(row).copy() for row in rows]).astype(np.int32)
    x = rows.astype(manifest.input.dtype).reshape(8, *manifest.input.shape)
    classes = bool(manifest.classes.names)
    return pack(
        manifest, tensors, selftest=Selftest(x, scores), probe=Probe(x, labels) if classes else no_probe(manifest),
        exemplars=Probe(x, labels) if classes and manifest.learning.replay.capacity else None,
    )  # fmt: skip


def prototypes(kind: str, manifest: Manifest, tensors: Tensors) -> Tensors:
    """What a head knows from four samples of each class."""
    width = manifest.layer(manifest.head.features or "").outputs
    names, classes = ("head.sum", "head.count", "head.bias"), len(NAMES)
    found = dict(zip(names, (np.zeros(n, np.int32) for n in ((classes, width), classes, classes)), strict=True))
    network = Network(manifest, tensors | found)
    for number in range(4 * classes):
        network.scores(sample(kind, number % classes, 400 + number))
        found["head.sum"][number % classes] += network.features().astype(np.int32)
        found["head.count"][number % classes] += 1
    return found


def bundle(kind: str) -> Bundle:
    return read_bundle(packed(kind))


def sample(kind: str, label: int, number: int) -> I16:
    """One window of a class, in the bundle's integers."""
    rng, centre = np.random.default_rng([label, number]), np.random.default_rng([99, label])
    if kind == "superspike":
        return (rng.random(240) < 0.12 + 0.1 * (centre.random(240) < 0.2)).astype(np.int16)
    if kind in ("backprop", "il-prox", "il-mq", "predictive"):
        return np.clip(centre.integers(-90, 128, CHAIN[0]) + rng.integers(-9, 10, CHAIN[0]), -128, 127).astype(np.int16)
    return np.clip(centre.integers(0, 17, 12) + rng.integers(-3, 4, 12), 0, 255).astype(np.int16)


def target(kind: str, number: int) -> I16 | None:
    """What a lesson brings where a rule does not classify."""
    if kind != "eprop-values":
        return None
    return np.random.default_rng([7, number]).integers(-4096, 4097, TARGETS * 2).astype(np.int16)


# ------------------------------------------------------------------ a life

LESSONS = 13
LEVELS: tuple[Level, ...] = ("full", "light", "full", "sparse", "head")


def script(kind: str, life: Lifetime) -> Iterator[Entry]:
    """A life with every kind of record that this bundle can follow, given as it goes on."""
    for number in range(LESSONS):
        label = 0 if kind == "eprop-values" else number % len(life.learner.classes)
        q, level = sample(kind, label, number), LEVELS[number % len(LEVELS)]
        if kind == "doubted":  # it is told that it is right, for long enough to be sure, then that it is wrong
            label = (life.learner.network.infer(q).label + (number > 8)) % len(NAMES)
        yield life.learner.plan_lesson(q, label, level, 7 * number + 1, target(kind, number))
        if life.judgement_due:
            yield Verdict(good=True, correct=0, of=0)  # what the guard finds stands in its own record
        if number == 2:
            yield Boundary(reason="drift")
        if number == 5 and grows(life.bundle.manifest):
            yield NewClass(label="e")
        if number == 6:
            yield Settle()
        if number == 9:
            yield Rollback(to="last-good")


def do(life: Lifetime, entry: Entry) -> None:
    """The act that a record came from, durably."""
    match entry:
        case Lesson():
            values = np.frombuffer(entry.target, "<i2").astype(np.int16) if entry.target else None
            q = np.frombuffer(entry.q, life.bundle.manifest.input.dtype).astype(np.int16)
            life.teach(q, entry.label, entry.level, entry.sample, values)
            life.commit()
        case Verdict():
            life.judge()
        case Rollback():
            life.roll_back(entry.to)
        case _:
            life.change(entry)
            life.commit()


class Lived:
    """A life as it went without any disturbance: its flash, its records, and after each the digest and the state."""

    def __init__(self, kind: str) -> None:
        self.kind, self.bundle, self.flash = kind, bundle(kind), SimFlash()
        told: list[Entry] = []
        life = Lifetime(self.bundle, self.flash, told.append)
        self.digests, self.states = [life.digest()], [state_of(life)]
        for entry in script(kind, life):
            do(life, entry)
            self.digests.append(life.digest())
            self.states.append(state_of(life))
        self.entries, self.records = told, [records.encode(entry) for entry in told]
        self.scores = scores_of(kind, life)


def state_of(life: Lifetime) -> tuple[Tensors, dict[str, Any], Any]:
    """(arrays, counters, the last good state)"""
    return {name: array.copy() for name, array in life.learner.arrays().items()}, life.learner.meta(), life.recall()


def scores_of(kind: str, life: Lifetime) -> list[list[int]]:
    x = np.stack([sample(kind, k % len(NAMES), 900 + k) for k in range(10)])
    found: list[list[int]] = life.learner.scores(x).tolist()
    return found


if __name__ == "__main__":
    print(json.dumps({kind: (lived.digests, lived.scores) for kind in LIVES for lived in [Lived(kind)]}))
