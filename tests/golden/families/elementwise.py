"""Sums, products and tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from reference import elementwise

from edgerun.arrays import AnyArray, Tensors
from edgerun.layers import Add, Layer, Lookup, Mul

STEPS = 6


def cases(rng: np.random.Generator) -> dict[str, tuple[Layer, Tensors, list[AnyArray]]]:
    add = {"shapes": ((2, 2, 3), (2, 2, 3)), "multipliers": (11_184_811, 5_000_001), "offset": 12_345_678, "shift": 24}
    mul = {"shapes": ((2, 2, 3), (2, 2, 3)), "zeros": (-128, 17), "multiplier": 9_000_001, "shift": 29}
    found: dict[str, tuple[Layer, Tensors]] = {
        "add.plain": (Add(name="l", **add), {}),
        "add.less": (Add(name="l", **add | {"multipliers": (-16_777_215, 7), "zero_point": -128, "qmin": -100}), {}),
        "add.channel": (Add(name="l", **add | {"shapes": ((2, 2, 3), (1, 1, 3)), "zero_point": -5}), {}),
        "add.both-ways": (Add(name="l", **add | {"shapes": ((2, 1), (1, 5)), "zero_point": 9, "qmin": 9}), {}),
        "mul.plain": (Mul(name="l", **mul), {}),
        "mul.gate": (Mul(name="l", **mul | {"shapes": ((1, 1, 3), (2, 2, 3)), "zero_point": -100, "qmax": 90}), {}),
        "mul.half": (Mul(name="l", **mul | {"shapes": ((2, 4), (2, 1)), "multiplier": 1, "shift": 8}), {}),
        "lookup.table": (Lookup(name="l", shape=(3, 40)), {"l.table": rng.integers(-128, 128, 256).astype(np.int8)}),
    }
    return {
        case: (spec, tensors, [rng.integers(-128, 128, (STEPS, width)).astype(np.int16) for width in spec.widths])
        for case, (spec, tensors) in found.items()
    }


def outputs(spec: Layer, tensors: Tensors, xs: list[AnyArray]) -> dict[str, Any]:
    rows = zip(*(x.tolist() for x in xs), strict=True)
    match spec:
        case Add():
            y = [elementwise.add(spec, a, b) for a, b in rows]
        case Mul():
            y = [elementwise.multiply(spec, a, b) for a, b in rows]
        case Lookup():
            y = [elementwise.lookup(tensors["l.table"].tolist(), x) for (x,) in rows]
    return {"y": np.array(y, np.int8)}
