"""Two layers of recurrent LIF neurons and a readout, driven by spikes: what rules of several layers are tested on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from edgerun.arrays import AnyArray, Tensors
from edgerun.rules import Rule
from edgerun.spec import ClassTable, InputSpec, LearningPlan, Lif, Manifest, PhaseRate, Readout

INPUTS, LOW, HIGH, CLASSES = 20, 28, 24, 4
DECAY, KAPPA = 31000, 30000
LAYERS = {"low": (INPUTS, LOW), "high": (LOW, HIGH)}


def manifest(rule: Rule, steps: int, *, adaptive: Collection[str] = (), **learning: Any) -> Manifest:
    """adaptive  names of layers     learning  of the plan, beside the rule"""
    hidden = (
        Lif(name=name, inputs=m, outputs=n, weight_exponent=8, adaptive=name in adaptive)
        for name, (m, n) in LAYERS.items()
    )
    return Manifest(
        name="two", input=InputSpec(shape=(INPUTS,), dtype="uint8"), encoder=PhaseRate(steps=steps, full_scale=16),
        layers=(*hidden, Readout(name="out", inputs=HIGH, outputs=CLASSES, weight_exponent=8)),
        classes=ClassTable(names=tuple("abcd"), capacity=4), learning=LearningPlan(rule=rule, **learning), seed=5,
    )  # fmt: skip


def tensors(*, fed: Collection[str] = (), adaptive: Collection[str] = (), seed: int = 1) -> Tensors:
    """fed  names of layers with feedback of their own"""
    rng = np.random.default_rng(seed)

    def weights(rows: int, columns: int, mean: float, deviation: float) -> AnyArray:
        return np.clip(rng.normal(mean, deviation, (rows, columns)), -127, 127).astype(np.int8)

    found: Tensors = {
        "low.input": weights(INPUTS, LOW, 14, 40), "low.recurrent": weights(LOW, LOW, 0, 20),
        "high.input": weights(LOW, HIGH, 18, 40), "high.recurrent": weights(HIGH, HIGH, 0, 20),
        "out.input": weights(HIGH, CLASSES, 0, 50),
        "out.bias": np.zeros(CLASSES, np.int32), "out.kappa": np.full(CLASSES, KAPPA, np.uint16),
    }  # fmt: skip
    for name, (_, n) in LAYERS.items():
        found |= {f"{name}.bias": np.zeros(n, np.int32), f"{name}.decay": np.full(n, DECAY, np.uint16)}
        if name in adaptive:
            found[f"{name}.rho"] = rng.integers(31000, 32500, n).astype(np.uint16)
            found[f"{name}.beta"] = rng.integers(400, 3000, n).astype(np.int16)
        if name in fed:
            found[f"{name}.feedback"] = weights(n, CLASSES, 0, 50)
    return found
