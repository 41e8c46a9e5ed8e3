"""Max and average pools: each kind of geometry, and means over different numbers of values."""

from __future__ import annotations

from typing import Any

import numpy as np
from reference import pool

from edgerun.arrays import AnyArray, Tensors
from edgerun.layers import AveragePool, Layer, MaxPool
from edgerun.layers.base import Requant
from edgerun.layers.pool import Ties
from exporters.nodes import Affine, FloatPool, Range

STEPS = 4


def average(scale: float, zero: int, **fields: Any) -> tuple[Layer, Tensors]:
    """A mean times `scale`, of inputs whose zero point is `zero`."""
    spec = AveragePool(name="l", **fields)
    maps = [Requant.from_scale(scale / size) for size in spec.sizes.tolist()]
    shift, multiplier = (np.array([getattr(map_, part) for map_ in maps]) for part in ("shift", "multiplier"))
    return spec, {
        "l.multiplier": multiplier.astype(np.int32),
        "l.offset": (1 << (shift - 1)) - spec.sizes * zero * multiplier,
        "l.shift": shift.astype(np.uint8),
    }


def tied(ties: Ties, zero: int, **fields: Any) -> tuple[Layer, Tensors]:
    """A mean that keeps its map, over even numbers of values: many are a half."""
    map_ = Affine(0.02, zero)
    node = FloatPool("l", kind="average", ties=ties, output=map_, **fields)
    (made,) = node.quantise((map_,), Range(-1.0, 1.0))
    return made.layer, made.tensors


def cases(rng: np.random.Generator) -> dict[str, tuple[Layer, Tensors, list[AnyArray]]]:
    image: dict[str, Any] = {"input_shape": (5, 7, 3), "kernel": (3, 2), "stride": (2, 2)}
    odd = image | {"dilation": (1, 3), "padding": (1, 0, 2, 2)}
    made: dict[str, tuple[Layer, Tensors]] = {
        "max-pool.plain": (MaxPool(name="l", **image), {}),
        "max-pool.odd": (MaxPool(name="l", **odd, qmin=-5, qmax=90), {}),
        "max-pool.global": (MaxPool(name="l", input_shape=(4, 3, 5), kernel=(4, 3)), {}),
        "average-pool.plain": average(1.0, 0, **image),
        "average-pool.odd": average(1.3, -20, **odd, zero_point=-100, qmin=-100, qmax=0),
        "average-pool.global": average(2.5, 3, input_shape=(4, 3, 5), kernel=(4, 3), zero_point=-10),
        "average-pool.even": tied("even", 7, **image),
        "average-pool.away": tied("away", -30, **image),
    }
    return {
        case: (spec, tensors, [rng.integers(-128, 128, (STEPS, *spec.widths)).astype(np.int16)])
        for case, (spec, tensors) in made.items()
    }


def outputs(spec: MaxPool | AveragePool, tensors: Tensors, xs: list[AnyArray]) -> Tensors:
    return {"y": np.array([pool.pool(spec, tensors, x) for x in xs[0].tolist()], np.int8)}
