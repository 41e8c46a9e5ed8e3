"""Sums, products and tables at work."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgerun.arrays import F32, AnyArray
from edgerun.kernels import elementwise
from edgerun.layers import Add, Lookup, Mul
from edgerun.ops.base import LayerRun


class AddRun(LayerRun):
    """A sum of two sources, in float64."""

    def __init__(self, spec: Add, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        self._y: F32 = self.out.reshape(*batch, *spec.shape)
        self._shape_a, self._shape_b = ((*batch, *shape) for shape in spec.shapes)
        self._wide, self._other = (np.zeros(self._y.shape, np.float64) for _ in range(2))
        unit = 2.0**-spec.shift
        self._scale_a, self._scale_b = (m * unit for m in spec.multipliers)
        self._offset = spec.offset * unit + spec.zero_point

    def step(self, *sources: F32) -> None:
        a, b = sources[0].reshape(self._shape_a), sources[1].reshape(self._shape_b)
        elementwise.add(
            self._y, a, b, self._scale_a, self._scale_b, self._offset, self.spec.qmin, self.spec.qmax,
            self._wide, self._other,
        )  # fmt: skip


class MulRun(LayerRun):
    """A product of two sources, in float32 and rescaled in float64."""

    def __init__(self, spec: Mul, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        self._y: F32 = self.out.reshape(*batch, *spec.shape)
        self._shape_a, self._shape_b = ((*batch, *shape) for shape in spec.shapes)
        self._other, self._wide = np.zeros_like(self._y), np.zeros(self._y.shape, np.float64)
        self._za, self._zb = spec.zeros
        self._scale, self._offset = spec.multiplier * 2.0**-spec.shift, 0.5 + spec.zero_point

    def step(self, *sources: F32) -> None:
        a, b = sources[0].reshape(self._shape_a), sources[1].reshape(self._shape_b)
        elementwise.multiply(
            self._y, a, b, self._za, self._zb, self._scale, self._offset, self.spec.qmin, self.spec.qmax,
            self._other, self._wide,
        )  # fmt: skip


class LookupRun(LayerRun):
    """A table of 256 values."""

    def __init__(self, spec: Lookup, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        self._table = spec.tensor(tensors, "table").astype(np.float32)
        self._index = np.zeros(self.out.shape, np.intp)

    def step(self, *sources: F32) -> None:
        elementwise.lookup(self.out, sources[0], self._table, self._index)
