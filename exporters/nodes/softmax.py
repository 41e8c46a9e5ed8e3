"""Softmax over the last axis, float and quantised."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np

from edgerun.arrays import F32, I32
from edgerun.errors import ModelError
from edgerun.layers import LayerRecord, LogSoftmax, Softmax
from edgerun.layers.softmax import ONE
from exporters.nodes.base import Affine, FloatLayer, Quantised, Range
from exporters.nodes.elementwise import PROBABILITY, shift_for

LOG_STEP: Final = 2.0**-12
"""The logarithm of a sum counts in Q12."""


@dataclass(frozen=True, slots=True)
class FloatSoftmax(FloatLayer):
    """p_i = exp(beta x_i) / sum_j exp(beta x_j) over the last axis; with `log`, ln p_i."""

    shape: tuple[int, ...] = field()
    beta: float = 1.0
    log: bool = False

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Softmax, LogSoftmax)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ModelError(f"layer {self.name}: beta {self.beta} is not a finite number above 0")

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.outputs,)

    def forward(self, *sources: F32) -> F32:
        x = np.float32(self.beta) * sources[0].reshape(-1, *self.shape)
        x = x - x.max(axis=-1, keepdims=True)
        total = np.exp(x).sum(axis=-1, keepdims=True)
        y: F32 = x - np.log(total) if self.log else np.exp(x) / total
        return y.reshape(len(y), -1)

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """A table of exponentials for the source's scale. The source's zero point cancels.

        Probabilities are in steps of 1/256 from -128 unless the file says otherwise. Logarithms have 0 at 127 and steps
        no wider than the source's: one step of a logit is at least one of the output, so the order of the values stays.

        Raises ModelError where no multiplier holds the output's scale.
        """
        step = self.beta * sources[0].scale
        tensors = {f"{self.name}.exponentials": exponentials(step)}
        if self.log:
            y = self.output or Affine(min(step, reach.affine().scale), 127)
            return (Quantised(self._logarithm(step, y), tensors, y),)
        y = self.output or PROBABILITY
        multiplier, shift = one(self.name, y.scale)
        layer = Softmax(
            name=self.name,
            sources=self.sources,
            shape=self.shape,
            multiplier=multiplier,
            shift=shift,
            zero_point=y.zero_point,
        )
        return (Quantised(layer, tensors, y),)

    def _logarithm(self, step: float, y: Affine) -> LogSoftmax:
        """y = zy - (d step + L 2**-12) / sy, both multipliers over one shift."""
        scales = step / y.scale, LOG_STEP / y.scale
        shift = shift_for(self.name, max(scales))
        return LogSoftmax(
            name=self.name,
            sources=self.sources,
            shape=self.shape,
            multipliers=(round(scales[0] * 2.0**shift), round(scales[1] * 2.0**shift)),
            shift=shift,
            zero_point=y.zero_point,
        )


def exponentials(step: float) -> I32:
    """exp(-step d) for d = 0 .. 255 in Q0.30."""
    return np.asarray(np.rint(np.exp(-step * np.arange(256.0)) * ONE), np.int32)


def one(name: str, scale: float) -> tuple[int, int]:
    """(m, s) with m * 2**-s nearest to 1 / scale, m under 2**16, s as small as that allows, up to 8.

    Raises ModelError where 1 / scale is not in [2**-8, 2**16).
    """
    for shift in range(8, -1, -1):
        multiplier = round(2.0**shift / scale) if scale > 0 else 0
        if 1 <= multiplier < 1 << 16:
            while shift and multiplier % 2 == 0:
                multiplier, shift = multiplier // 2, shift - 1
            return multiplier, shift
    raise ModelError(f"layer {name}: scale {scale:.4g} of the output is outside (2**-16, 2**8]")
