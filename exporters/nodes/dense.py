"""Dense layers, float and quantised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from edgerun.arrays import F32, F64, I16, I32, AnyArray
from edgerun.errors import ModelError
from edgerun.layers import Dense, LayerRecord
from edgerun.layers.base import I8_BOUNDS
from edgerun.packing import top
from exporters.nodes.base import STEPS_OF_INT8, Affine, FloatLayer, Matrix, Quantised, Range, per_channel
from exporters.nodes.grid import grid_steps

BIAS_LIMIT: Final = 1 << 28
SCALE_FLOOR: Final = 2.0**-23
STEPS_MOST: Final = (1 << 15) - 1
"""What is looked at as steps of a scale that a file fixes; more than 255 of them are refused."""


@dataclass(frozen=True, slots=True)
class FloatDense(Matrix, FloatLayer):
    """y = clip(W x + b, low, high); a ReLU is low = 0. weight (out, in), bias (out,).

    weight_scale  (out,)  real value of one weight step, where the file fixes it: weights are whole steps from zero,
                          within 255 of each other in a channel
    bits          of an integer weight, 2 to 8
    """

    weight: F32 | F64
    bias: F32 | F64
    low: float = -np.inf
    high: float = np.inf
    weight_scale: F64 | None = None
    bits: int = 8

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Dense,)

    def forward(self, *sources: F32) -> F32:
        y = sources[0] @ self.weight.T.astype(np.float32) + self.bias.astype(np.float32)
        return np.clip(y, self.low, self.high).astype(np.float32)

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """Per-channel weights, the input's zero point folded into the bias, the clip into qmin and qmax.

            acc = sum(w q) + b',   b' = round(b / (sw sx)) - zx sum(w),   y = clip(requant(acc, sw sx / sy) + zy)

        A channel's weight scale sw is doubled until |b'| < 2**28 and its scale sw sx / sy is in [2**-23, 2**23).
        Weights are symmetric, save a file's own that int8 does not hold: those get a zero point a channel.
        Raises ModelError naming a channel whose numbers no scale can hold.
        """
        x, y = sources[0], self.output_map(reach)
        integers, bias, scales = fold(self.weight, self.bias, x, y, self.weight_scale, self.bits)
        weights = stored(self.name, integers)
        layer = Dense(
            name=self.name,
            sources=self.sources,
            inputs=self.weight.shape[1],
            outputs=len(self.weight),
            zero_point=y.zero_point,
            qmin=y.integer(self.low),
            qmax=y.integer(self.high),
            asymmetric="weight_zero" in weights,
        )
        return (Quantised(layer, per_channel({}, self.name, scales, **weights, bias=bias), y),)


def fold(
    weight: F32 | F64, bias: F32 | F64, x: Affine, y: Affine, weight_scale: F64 | None = None, bits: int = 8
) -> tuple[I16, I32, F64]:
    """Weights in whole steps from zero (n, ...), folded bias (n,) and requantisation scale (n,) of each channel, the
    first axis.

    Every weight of a channel meets an input of the map `x`: what pads an image is its zero. Weights lie on the best
    grid of +-(2**(bits - 1) - 1) steps, unless the file fixes their scale: then they are its own, zero point off, and
    may reach +-255, and the requantisation scale is the one that LiteRT and ONNX Runtime compute, in float32.
    """
    w, b = weight.reshape(len(weight), -1).astype(np.float64), bias.astype(np.float64)
    floor = SCALE_FLOOR * y.scale / x.scale
    steps = grid_steps(w, bits)
    free = np.where(steps > 0, steps, y.scale / x.scale)
    scale = np.maximum(free if weight_scale is None else weight_scale, floor)
    most = top(bits) if weight_scale is None else STEPS_MOST
    while True:
        integers = np.clip(np.rint(w / scale[:, None]), -most, most)
        folded = np.rint(b / (scale * x.scale)) - x.zero_point * integers.sum(axis=1)
        wide = np.abs(folded) >= BIAS_LIMIT
        if not wide.any():
            kind = np.dtype(np.float64 if weight_scale is None else np.float32).type
            scales: F64 = (scale.astype(kind) * kind(x.scale) / kind(y.scale)).astype(np.float64)
            return integers.astype(np.int16).reshape(weight.shape), folded.astype(np.int32), scales
        scale = np.where(wide, 2 * scale, scale)


def stored(name: str, integers: I16) -> dict[str, AnyArray]:
    """Weights in whole steps from zero (n, ...) as tensors: `weight` int8, and `weight_zero` int8 (n,) where a channel
    needs one. integers = weight - weight_zero, each zero point the nearest to 0 that takes its channel into int8.

    A file's own zero points are not sought: the sums are the same with any, and a channel without one is quicker.
    Raises ModelError naming the channel whose weights lie more than 255 steps apart, or from zero.
    """
    rows = integers.reshape(len(integers), -1)
    least, most = rows.min(axis=1, initial=0).astype(np.int32), rows.max(axis=1, initial=0).astype(np.int32)
    if (wide := most - least > STEPS_OF_INT8).any():
        k = int(wide.argmax())
        raise ModelError(
            f"layer {name} channel {k}: weights from {least[k]} to {most[k]} steps lie {most[k] - least[k]} apart, "
            f"above {STEPS_OF_INT8}"
        )
    low, high = I8_BOUNDS
    zero = np.maximum(low - least, 0) + np.minimum(high - most, 0)
    if not zero.any():
        return {"weight": integers.astype(np.int8)}
    weight = (rows + zero[:, None]).astype(np.int8).reshape(integers.shape)
    return {"weight": weight, "weight_zero": zero.astype(np.int8)}
