"""Softmax and its logarithm. The tables come from Python's floats once; what is stored is their integers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from reference import softmax

from edgerun.arrays import AnyArray, Tensors
from edgerun.layers import Layer, LogSoftmax, Softmax

STEPS = 6


def table(step: float) -> AnyArray:
    return np.array([round(math.exp(-step * d) * (1 << 30)) for d in range(256)], np.int32)


def cases(rng: np.random.Generator) -> dict[str, tuple[Layer, Tensors, list[AnyArray]]]:
    specs: dict[str, tuple[Layer, AnyArray]] = {
        "softmax.usual": (Softmax(name="l", shape=(10,), multiplier=256, shift=0), table(0.04)),
        "softmax.maps": (Softmax(name="l", shape=(3, 4), multiplier=65_001, shift=8, zero_point=-70), table(0.01)),
        "softmax.steep": (Softmax(name="l", shape=(2, 2, 2), multiplier=100, shift=0, zero_point=0), table(3.0)),
        "log-softmax.plain": (
            LogSoftmax(name="l", shape=(2, 7), multipliers=(1 << 23, 51_201), shift=23), table(0.04)
        ),
        "log-softmax.wide": (
            LogSoftmax(name="l", shape=(600,), multipliers=(5_000_000, 70_000), shift=26, zero_point=100), table(0.001)
        ),
    }  # fmt: skip
    return {
        case: (
            spec, {"l.exponentials": entries},
            [rng.integers(-128, 128, (STEPS, width)).astype(np.int16) for width in spec.widths],
        )
        for case, (spec, entries) in specs.items()
    }  # fmt: skip


def outputs(spec: Layer, tensors: Tensors, xs: list[AnyArray]) -> dict[str, Any]:
    entries = tensors["l.exponentials"].tolist()
    match spec:
        case Softmax():
            y = [softmax.softmax(spec, entries, x) for x in xs[0].tolist()]
        case LogSoftmax():
            y = [softmax.log_softmax(spec, entries, x) for x in xs[0].tolist()]
    return {"y": np.array(y, np.int8)}
