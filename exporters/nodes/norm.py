"""Layer normalisation, float and quantised."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np

from edgerun.arrays import F32, F64, Tensors
from edgerun.errors import ModelError
from edgerun.layers import LayerNorm, LayerRecord
from edgerun.layers.norm import CHANNELS, EPSILON, UNIT
from exporters.nodes.base import Affine, FloatLayer, Quantised, Range

OFFSET_TOP: Final = 2.0**60


@dataclass(frozen=True, slots=True)
class FloatLayerNorm(FloatLayer):
    """y = gamma (x - mean) / sqrt(variance + epsilon) + beta over the last axis; gamma, beta (c,), biased variance."""

    shape: tuple[int, ...] = field()
    gamma: F32 | F64
    beta: F32 | F64
    epsilon: float = 1e-5

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (LayerNorm,)

    def __post_init__(self) -> None:
        for what, array in (("gamma", self.gamma), ("beta", self.beta)):
            if array.shape != self.shape[-1:]:
                raise ModelError(f"layer {self.name}: {what} has shape {array.shape}, the last axis {self.shape[-1:]}")
        if not (np.isfinite(self.epsilon) and self.epsilon >= 0):
            raise ModelError(f"layer {self.name}: epsilon {self.epsilon} is not a finite number from 0")

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.outputs,)

    def forward(self, *sources: F32) -> F32:
        x = sources[0].reshape(-1, *self.shape)
        deviation = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(deviation).mean(axis=-1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            unit = deviation / np.sqrt(variance + np.float32(self.epsilon))
        y: F32 = unit * self.gamma.astype(np.float32) + self.beta.astype(np.float32)
        return y.reshape(len(y), -1)

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """gamma / sy and beta / sy over one shift that gives the largest gamma 24 bits; epsilon in the source's steps.

        The source's zero point cancels. Raises ModelError where epsilon, gamma or beta is beyond what the layer holds.
        """
        y = self.output_map(reach)
        channels = self.shape[-1]
        if channels > CHANNELS:
            raise ModelError(f"layer {self.name}: {channels} channels are above {CHANNELS}")
        epsilon = self.epsilon * (16 * channels / sources[0].scale) ** 2
        if not epsilon <= EPSILON:
            raise ModelError(f"layer {self.name}: epsilon is {epsilon:.4g} of the source's steps, above {EPSILON}")
        gamma, beta = self.gamma.astype(np.float64) / y.scale, self.beta.astype(np.float64) / y.scale
        shift = self._shift(float(np.abs(gamma).max()))
        offset = np.rint(beta * 2.0**shift) + 2.0 ** (shift - 1)
        wrong = int(np.abs(offset).argmax())
        if abs(offset[wrong]) > OFFSET_TOP:
            raise ModelError(f"layer {self.name} channel {wrong}: beta is {beta[wrong]:.4g} steps of the output")
        layer = LayerNorm(
            name=self.name,
            sources=self.sources,
            shape=self.shape,
            epsilon=round(epsilon),
            shift=shift,
            zero_point=y.zero_point,
        )
        tensors: Tensors = {
            f"{self.name}.multiplier": np.rint(gamma * 2.0 ** (shift - UNIT)).astype(np.int32),
            f"{self.name}.offset": offset.astype(np.int64),
        }
        return (Quantised(layer, tensors, y),)

    def _shift(self, largest: float) -> int:
        """The shift s for which `largest` * 2**(s - 20) has 24 bits, or the greatest, 44."""
        if not largest < 2.0**23:
            raise ModelError(f"layer {self.name}: gamma is {largest:.4g} steps of the output, not under 2**23")
        shift = min(44, 24 + UNIT - math.frexp(largest)[1])
        return shift - int(round(largest * 2.0 ** (shift - UNIT)) == 1 << 24)
