"""Layers that move values."""

from __future__ import annotations

from typing import Any

import numpy as np
from reference import shape

from edgerun.arrays import AnyArray, Tensors
from edgerun.layers import Concat, Layer, Pad, Slice, Take, Transpose

STEPS = 3


def cases(rng: np.random.Generator) -> dict[str, tuple[Layer, Tensors, list[AnyArray]]]:
    specs: dict[str, Layer] = {
        "concat.channels": Concat(name="l", shapes=((2, 3, 4), (2, 3, 1), (2, 3, 2)), axis=2),
        "concat.rows": Concat(name="l", shapes=((1, 3, 2), (4, 3, 2)), axis=0),
        "transpose.turn": Transpose(name="l", input_shape=(2, 3, 4), perm=(2, 0, 1)),
        "transpose.shuffle": Transpose(name="l", input_shape=(2, 2, 3, 4), perm=(0, 1, 3, 2)),
        "pad.image": Pad(name="l", input_shape=(2, 3, 2), before=(1, 0, 0), after=(2, 1, 0), value=-77),
        "slice.crop": Slice(name="l", input_shape=(4, 5, 2), start=(1, 0, 1), stop=(3, 5, 2), step=(1, 2, 1)),
        "slice.backwards": Slice(name="l", input_shape=(4, 5), start=(3, 4), stop=(-1, 0), step=(-1, -2)),
        "take.rows": Take(name="l", input_shape=(4, 5), axis=0, count=6),
        "take.channels": Take(name="l", input_shape=(2, 3, 4), axis=2, count=3),
    }
    indices = {"take.rows": [2, 1, 0, 1, 3, 3], "take.channels": [3, 0, 3]}
    tensors: dict[str, Tensors] = {case: {"l.index": np.array(index, np.int32)} for case, index in indices.items()}
    return {
        case: (
            spec,
            tensors.get(case, {}),
            [rng.integers(-128, 128, (STEPS, width)).astype(np.int16) for width in spec.widths],
        )
        for case, spec in specs.items()
    }


def outputs(spec: Layer, tensors: Tensors, xs: list[AnyArray]) -> dict[str, Any]:
    rows = list(zip(*(x.tolist() for x in xs), strict=True))
    match spec:
        case Concat():
            y = [shape.concat(spec, row) for row in rows]
        case Transpose():
            y = [shape.transpose(spec, x) for (x,) in rows]
        case Pad():
            y = [shape.pad(spec, x) for (x,) in rows]
        case Slice():
            y = [shape.cut(spec, x) for (x,) in rows]
        case Take():
            y = [shape.take(spec, tensors["l.index"].tolist(), x) for (x,) in rows]
    return {"y": np.array(y, np.int8)}
