"""Softmax over the last axis, float and quantised."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgerun.arrays import F32
from exporters.nodes.base import FloatLayer


@dataclass(frozen=True, slots=True)
class FloatSoftmax(FloatLayer):
    """p_i = exp(beta x_i) / sum_j exp(beta x_j) over the last axis; with `log`, ln p_i."""

    shape: tuple[int, ...] = field()
    beta: float = 1.0
    log: bool = False

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.outputs,)

    def forward(self, *sources: F32) -> F32:
        x = np.float32(self.beta) * sources[0].reshape(-1, *self.shape)
        x = x - x.max(axis=-1, keepdims=True)
        total = np.exp(x).sum(axis=-1, keepdims=True)
        y: F32 = x - np.log(total) if self.log else np.exp(x) / total
        return y.reshape(len(y), -1)
