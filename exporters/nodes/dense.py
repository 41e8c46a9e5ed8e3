"""Dense layers, float and quantised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from edgerun.arrays import F32, F64, I8, I32
from edgerun.layers import Dense, LayerRecord
from edgerun.packing import top
from exporters.nodes.base import Affine, FloatLayer, Quantised, Range, per_channel
from exporters.nodes.grid import grid_steps

BIAS_LIMIT: Final = 1 << 28
SCALE_FLOOR: Final = 2.0**-23


@dataclass(frozen=True, slots=True)
class FloatDense(FloatLayer):
    """y = clip(W x + b, low, high); a ReLU is low = 0. weight (out, in), bias (out,).

    weight_scale  (out,)  real value of one weight step, where the file fixes it
    bits          of an integer weight, 2 to 8
    """

    weight: F32 | F64
    bias: F32 | F64
    low: float = -np.inf
    high: float = np.inf
    weight_scale: F64 | None = None
    bits: int = 8

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Dense,)

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.weight.shape[1],)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.weight),)

    def forward(self, *sources: F32) -> F32:
        y = sources[0] @ self.weight.T.astype(np.float32) + self.bias.astype(np.float32)
        return np.clip(y, self.low, self.high).astype(np.float32)

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """Per-channel symmetric weights, the input's zero point folded into the bias, the clip into qmin and qmax.

            acc = sum(w q) + b',   b' = round(b / (sw sx)) - zx sum(w),   y = clip(requant(acc, sw sx / sy) + zy)

        A channel's weight scale sw is doubled until |b'| < 2**28 and its scale sw sx / sy is in [2**-23, 2**23).
        Raises ModelError naming a channel whose numbers no scale can hold.
        """
        x, y = sources[0], self.output_map(reach)
        weight, bias, scales = fold(self.weight, self.bias, x, y, self.weight_scale, self.bits)
        layer = Dense(
            name=self.name,
            sources=self.sources,
            inputs=self.weight.shape[1],
            outputs=len(self.weight),
            zero_point=y.zero_point,
            qmin=y.integer(self.low),
            qmax=y.integer(self.high),
        )
        return (Quantised(layer, per_channel({}, self.name, scales, weight=weight, bias=bias), y),)


def fold(
    weight: F32 | F64, bias: F32 | F64, x: Affine, y: Affine, weight_scale: F64 | None = None, bits: int = 8
) -> tuple[I8, I32, F64]:
    """Integer weights (n, ...), folded bias (n,) and requantisation scale (n,) of each channel, the first axis.

    Every weight of a channel meets an input of the map `x`: what pads an image is its zero. Weights lie on the best
    grid of +-(2**(bits - 1) - 1) steps, unless the file fixes their scale.
    """
    w, b = weight.reshape(len(weight), -1).astype(np.float64), bias.astype(np.float64)
    floor = SCALE_FLOOR * y.scale / x.scale
    steps = grid_steps(w, bits)
    free = np.where(steps > 0, steps, y.scale / x.scale)
    scale = np.maximum(free if weight_scale is None else weight_scale, floor)
    most = top(bits) if weight_scale is None else np.inf
    while True:
        integers = np.clip(np.rint(w / scale[:, None]), -most, most)
        folded = np.rint(b / (scale * x.scale)) - x.zero_point * integers.sum(axis=1)
        wide = np.abs(folded) >= BIAS_LIMIT
        if not wide.any():
            return integers.astype(np.int8).reshape(weight.shape), folded.astype(np.int32), scale * x.scale / y.scale
        scale = np.where(wide, 2 * scale, scale)
