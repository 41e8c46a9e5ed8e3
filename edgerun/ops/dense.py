"""Dense layers at work."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgerun.arrays import F32, AnyArray
from edgerun.layers import Dense
from edgerun.ops.base import LayerRun
from edgerun.ops.requant import by_filter


class DenseRun(LayerRun):
    """A dense layer on the carrier that its certificate allows."""

    def __init__(self, spec: Dense, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        self._end, self._weights = by_filter(spec, tensors, self.out)
        wide = self._weights.dtype == np.float64
        self._input = np.zeros((*batch, spec.inputs), np.float64) if wide else None

    def step(self, *sources: F32) -> None:
        x: AnyArray = sources[0]
        if self._input is not None:
            np.copyto(self._input, x)
            x = self._input
        np.dot(x, self._weights, out=self._end.sums)
        self._end.finish()
