"""A small spiking bundle that learns in milliseconds, and what belongs to a pretend life with it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from edgerun.arrays import I16, AnyArray, Tensors
from edgerun.bundle import Bundle, Probe, Selftest, pack, read_bundle
from edgerun.learn.records import Entry
from edgerun.lifetime import new_learner
from edgerun.network import Network
from edgerun.spec import (
    ClassTable,
    EProp,
    Guard,
    Head,
    InputSpec,
    Intelligence,
    LearningPlan,
    Lif,
    Manifest,
    PhaseRate,
    PlasticRate,
    Readout,
    Replay,
)

INPUTS, NEURONS, CAPACITY = 12, 16, 6
NAMES = ("a", "b", "c", "d")
CENTRES = np.random.default_rng(99).integers(0, 17, (CAPACITY, INPUTS))


def sample(label: int, number: int) -> I16:
    """One reading of class `label`, in the bundle's own integers."""
    noise = np.random.default_rng([label, number]).integers(-3, 4, INPUTS)
    return np.clip(CENTRES[label] + noise, 0, 255).astype(np.int16)


def samples(labels: AnyArray, first: int) -> AnyArray:
    return np.array([sample(int(k), first + i) for i, k in enumerate(labels)], np.uint8)


def tensors(width: int = CAPACITY) -> Tensors:
    """Of a net with a readout of that width, and a head that knows nothing yet."""
    rng = np.random.default_rng(5)
    return {
        "hidden.input": rng.integers(-40, 90, (INPUTS, NEURONS)).astype(np.int8),
        "hidden.recurrent": rng.integers(-40, 41, (NEURONS, NEURONS)).astype(np.int8),
        "hidden.bias": np.zeros(NEURONS, np.int32),
        "hidden.decay": np.full(NEURONS, 30000, np.uint16),
        "out.input": rng.integers(-60, 61, (NEURONS, width)).astype(np.int8),
        "out.bias": np.zeros(width, np.int32),
        "out.kappa": np.full(width, 29000, np.uint16),
        "head.sum": np.zeros((len(NAMES), NEURONS), np.int32),
        "head.count": np.zeros(len(NAMES), np.int32),
        "head.bias": np.zeros(len(NAMES), np.int32),
    }


def manifest(**plan: Any) -> Manifest:
    rates = tuple(
        PlasticRate(tensor=name, eta=500, shift=22) for name in ("hidden.input", "hidden.recurrent", "out.input")
    )
    default = {
        "rule": EProp(layer="hidden", readout="out", chunk_steps=12, post_shift=6, rates=rates),
        "intelligence": Intelligence(strength=14, damping=1000),
        "replay": Replay(capacity=24, passes=2, refresh_every=3),
        "guard": Guard(every=4, samples=48, probe_share=0.75, max_drop=0.15),
    }
    return Manifest(
        name="tiny", input=InputSpec(shape=(INPUTS,), dtype="uint8"), encoder=PhaseRate(steps=12, full_scale=16),
        layers=(
            Lif(name="hidden", inputs=INPUTS, outputs=NEURONS, weight_exponent=8),
            Readout(name="out", inputs=NEURONS, outputs=CAPACITY, weight_exponent=8),
        ),
        head=Head(kind="prototypes", features="hidden"), classes=ClassTable(names=NAMES, capacity=CAPACITY),
        learning=LearningPlan(**(default | plan)), seed=77,
    )  # fmt: skip


def tiny_bundle() -> Bundle:
    return read_bundle(tiny_bundle_bytes())


@cache
def tiny_bundle_bytes() -> bytes:
    """Four classes of twelve inputs, room for six; the head knows them from sixteen samples each."""
    plan, found = manifest(), tensors()
    known = np.arange(64) % len(NAMES)
    features = Network(plan, found).batched(64)
    features.scores(samples(known, 0).astype(np.int16))
    z = features.features()
    for k in range(len(NAMES)):
        found["head.sum"][k] = z[known == k].sum(axis=0)
        found["head.count"][k] = (known == k).sum()
    head = np.arange(8) % len(NAMES)
    network, x = Network(plan, found), samples(head, 100)
    scores = np.array([network.infer(row.astype(np.int16)).scores.copy() for row in x], np.int32)
    probe, kept = np.arange(56) % len(NAMES), np.arange(12) % len(NAMES)
    return pack(
        plan,
        found,
        selftest=Selftest(x, scores),
        probe=Probe(samples(probe, 200), probe.astype(np.int32)),
        exemplars=Probe(samples(kept, 300), kept.astype(np.int32)),
    )


def twin_digest(bundle: Bundle, entries: list[Entry]) -> str:
    """What a learner in memory knows after exactly these entries."""
    twin = new_learner(bundle)
    for entry in entries:
        twin.apply(entry)
    return twin.digest().hex()
