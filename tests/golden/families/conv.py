"""Convolutions, full and depthwise: each kind of geometry, each carrier."""

from __future__ import annotations

from typing import Any

import numpy as np
from reference import conv

from edgerun.arrays import AnyArray, Tensors
from edgerun.layers import Conv, Depthwise, Layer

STEPS = 4
ODD = {"stride": (2, 1), "dilation": (1, 2), "padding": (1, 0, 2, 3)}


def filters(spec: Conv | Depthwise, rng: np.random.Generator, multiplier: int, shift: int) -> tuple[Layer, Tensors]:
    """`shift` of the last filter is one more, so that a filter's own numbers show."""
    n = spec.filters
    return spec, {
        "l.weight": rng.integers(-128, 128, spec.weight_shape).astype(np.int8),
        "l.bias": rng.integers(-9999, 10000, n).astype(np.int32),
        "l.multiplier": np.full(n, multiplier, np.int32),
        "l.shift": np.array([shift] * (n - 1) + [shift + 1], np.uint8),
    }


def cases(rng: np.random.Generator) -> dict[str, tuple[Layer, Tensors, list[AnyArray]]]:
    image: dict[str, Any] = {"name": "l", "input_shape": (5, 4, 3), "filters": 4, "kernel": (3, 2)}
    line: dict[str, Any] = {"name": "l", "input_shape": (1, 12, 2), "filters": 3, "kernel": (1, 5), "stride": (1, 3)}
    single: dict[str, Any] = {"name": "l", "input_shape": (4, 4, 6), "filters": 5, "kernel": (1, 1)}
    deep: dict[str, Any] = {"name": "l", "input_shape": (3, 3, 256), "filters": 2, "kernel": (3, 3)}
    pairs: dict[str, Any] = {"name": "l", "input_shape": (5, 4, 3), "filters": 6, "kernel": (3, 2)}
    made = {
        "conv.plain": filters(Conv(**image), rng, 11_184_811, 32),
        "conv.odd": filters(Conv(**image, **ODD, input_zero_point=-128, zero_point=9, qmin=9), rng, 11_184_811, 32),
        "conv.folded": filters(Conv(**image, padding=(1, 1, 1, 0), input_zero_point=4, zero_point=-7), rng, 1, 8),
        "conv.line": filters(Conv(**line, padding=(0, 4, 0, 4), input_zero_point=-9, qmax=99), rng, 9_000_001, 31),
        "conv.single": filters(Conv(**single, zero_point=-128), rng, 16_777_215, 33),
        "conv.deep": filters(Conv(**deep), rng, 16_777_215, 37),
        "conv.wide": filters(Conv(**single, zero_point=-128), rng, 16_777_215, 45),
        "depthwise.plain": filters(Depthwise(**image | {"filters": 3}), rng, 11_184_811, 31),
        "depthwise.odd": filters(Depthwise(**pairs, **ODD, input_zero_point=77, zero_point=-9), rng, 11_184_811, 31),
        "depthwise.folded": filters(Depthwise(**pairs, padding=(1, 1, 1, 1), input_zero_point=-128), rng, 1, 7),
        "depthwise.wide": filters(Depthwise(**pairs, zero_point=-128), rng, 16_777_215, 45),
    }
    weight = made["conv.deep"][1]["l.weight"]
    weight[0] = np.where(weight[0] < 0, weight[0] // 2 - 64, weight[0] // 2 + 63)  # beyond what a float32 can sum
    for case in ("conv.wide", "depthwise.wide"):
        made[case][1]["l.shift"][:-1] = 30  # only the last filter's rounding is beyond a float64
    return {
        case: (spec, tensors, [rng.integers(-128, 128, (STEPS, *spec.widths)).astype(np.int16)])
        for case, (spec, tensors) in made.items()
    }


def outputs(spec: Conv | Depthwise, tensors: Tensors, xs: list[AnyArray]) -> Tensors:
    return {"y": np.array([conv.convolve(spec, tensors, x) for x in xs[0].tolist()], np.int8)}
