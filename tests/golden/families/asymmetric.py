"""Dense layers and convolutions whose weights have a zero point a channel: on float carriers, and on the last."""

from __future__ import annotations

from typing import Any

import numpy as np
from reference import asymmetric

from edgerun.arrays import AnyArray, Tensors
from edgerun.layers import Conv, Dense, Depthwise, Layer

STEPS = 4


def layer(
    spec: Dense | Conv | Depthwise, rng: np.random.Generator, multiplier: int, shift: int, *, far: bool = False
) -> tuple[Layer, Tensors]:
    """The first zero points are both ends and none. `far`: the last shift takes the layer to int64."""
    shape = spec.fields()[0].shape
    n = shape[0]
    tensors = {
        "l.weight": rng.integers(-128, 128, shape).astype(np.int8),
        "l.bias": rng.integers(-9999, 10000, n).astype(np.int32),
        "l.multiplier": np.full(n, multiplier, np.int32),
        "l.shift": np.array([shift] * (n - 1) + [46 if far else shift], np.uint8),
        "l.weight_zero": rng.integers(-128, 128, n).astype(np.int8),
    }
    tensors["l.weight_zero"][:3] = -128, 127, 0
    return spec, tensors


def cases(rng: np.random.Generator) -> dict[str, tuple[Layer, Tensors, list[AnyArray]]]:
    image: dict[str, Any] = {"name": "l", "input_shape": (5, 4, 3), "kernel": (3, 2), "asymmetric": True}
    odd: dict[str, Any] = {"stride": (2, 1), "dilation": (1, 2), "padding": (1, 0, 2, 3), "input_zero_point": -128}
    dense = Dense(name="l", inputs=11, outputs=5, zero_point=-9, qmin=-9, asymmetric=True)
    conv = Conv(**image, **odd, filters=4, zero_point=9)
    depthwise = Depthwise(**image, **odd, filters=6, zero_point=-128)
    made = {
        "dense.asymmetric": layer(dense, rng, 11_184_811, 34),
        "dense.asymmetric-folded": layer(dense, rng, 1, 10),
        "dense.asymmetric-wide": layer(
            Dense(**fields(dense) | {"zero_point": -128, "qmin": -128}), rng, 16_777_215, 34, far=True
        ),
        "conv.asymmetric": layer(conv, rng, 11_184_811, 34),
        "conv.asymmetric-folded": layer(conv, rng, 1, 10),
        "conv.asymmetric-wide": layer(Conv(**fields(conv) | {"zero_point": -128}), rng, 16_777_215, 34, far=True),
        "depthwise.asymmetric": layer(depthwise, rng, 11_184_811, 33),
        "depthwise.asymmetric-folded": layer(depthwise, rng, 1, 9),
        "depthwise.asymmetric-wide": layer(depthwise, rng, 16_777_215, 32, far=True),
    }
    return {
        case: (spec, tensors, [rng.integers(-128, 128, (STEPS, *spec.widths)).astype(np.int16)])
        for case, (spec, tensors) in made.items()
    }


def fields(spec: Dense | Conv) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in spec.__struct_fields__}


def outputs(spec: Dense | Conv | Depthwise, tensors: Tensors, xs: list[AnyArray]) -> Tensors:
    return {"y": np.array([asymmetric.outputs(spec, tensors, x) for x in xs[0].tolist()], np.int8)}
