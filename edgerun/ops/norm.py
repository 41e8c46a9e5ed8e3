"""Layer normalisation at work."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgerun.arrays import F32, F64, I32, I64, AnyArray
from edgerun.kernels import norm
from edgerun.layers import LayerNorm
from edgerun.ops.base import LayerRun


class LayerNormRun(LayerRun):
    """Rows to mean 0 and variance 1, then scaled channel by channel, in int64."""

    def __init__(self, spec: LayerNorm, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        shape = (*batch, *spec.shape)
        self._y: F32 = self.out.reshape(shape)
        self._d, self._wide = (np.zeros(shape, np.int64) for _ in range(2))
        self._total, self._power, self._r, self._shift = (np.zeros((*shape[:-1], 1), np.int64) for _ in range(4))
        self._real: F64 = np.zeros(self._total.shape, np.float64)
        self._exponent: I32 = np.zeros(self._total.shape, np.int32)
        self._multiplier, self._offset = (self._rows(spec, tensors, part) for part in ("multiplier", "offset"))

    @staticmethod
    def _rows(spec: LayerNorm, tensors: Mapping[str, AnyArray], part: str) -> I64:
        """A channel's numbers once for each row: to broadcast them would take a buffer at every step."""
        return np.tile(spec.tensor(tensors, part).astype(np.int64), (*spec.shape[:-1], 1))

    def step(self, *sources: F32) -> None:
        spec, x = self.spec, sources[0].reshape(self._y.shape)
        norm.deviations(self._d, self._power, x, spec.epsilon, self._total, self._wide)
        norm.reciprocal_root(self._r, self._shift, self._power, self._real, self._exponent)
        norm.normalise(self._d, self._r, self._shift, self._total, self._wide)
        norm.scale(self._y, self._d, self._multiplier, self._offset, spec.shift, spec.zero_point, spec.qmin, spec.qmax)
