"""Softmax and its logarithm at work."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgerun.arrays import F32, F64, I32, I64, AnyArray
from edgerun.kernels import softmax
from edgerun.layers import LogSoftmax, Softmax
from edgerun.ops.base import LayerRun


class _ExponentialsRun(LayerRun):
    """What both share: the exponentials of the distances to the largest value, and their sum."""

    def __init__(self, spec: Softmax | LogSoftmax, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        shape = (*batch, *spec.shape)
        self._y: F32 = self.out.reshape(shape)
        self._table: I64 = spec.tensor(tensors, "exponentials").astype(np.int64)
        self._e, self._distance, self._wide = (np.zeros(shape, np.int64) for _ in range(3))
        self._total: I64 = np.zeros((*shape[:-1], 1), np.int64)

    def exponentials(self, x: F32) -> None:
        x = x.reshape(self._y.shape)
        softmax.exponentials(self._e, self._total, x, self._table, self._distance, self._wide)


class SoftmaxRun(_ExponentialsRun):
    """Probabilities, in int64."""

    def step(self, *sources: F32) -> None:
        spec = self.spec
        self.exponentials(sources[0])
        softmax.softmax(self._y, self._e, self._total, spec.multiplier, spec.shift, spec.zero_point, self._wide)


class LogSoftmaxRun(_ExponentialsRun):
    """Logarithms of probabilities, in int64."""

    def __init__(self, spec: LogSoftmax, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        super().__init__(spec, tensors, batch)
        self._md, self._ml = spec.multipliers
        self._log, self._cell = np.zeros_like(self._total), np.zeros_like(self._total)
        self._mantissa: F64 = np.zeros(self._total.shape, np.float64)
        self._exponent: I32 = np.zeros(self._total.shape, np.int32)

    def step(self, *sources: F32) -> None:
        spec = self.spec
        self.exponentials(sources[0])
        softmax.logarithm(self._log, self._total, self._mantissa, self._exponent, self._cell)
        softmax.log_softmax(
            self._y, self._distance, self._log, self._md, self._ml, spec.shift, spec.zero_point, self._wide
        )
