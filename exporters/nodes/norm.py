"""Layer normalisation, float and quantised."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgerun.arrays import F32, F64
from edgerun.errors import ModelError
from exporters.nodes.base import FloatLayer


@dataclass(frozen=True, slots=True)
class FloatLayerNorm(FloatLayer):
    """y = gamma (x - mean) / sqrt(variance + epsilon) + beta over the last axis; gamma, beta (c,), biased variance."""

    shape: tuple[int, ...] = field()
    gamma: F32 | F64
    beta: F32 | F64
    epsilon: float = 1e-5

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
