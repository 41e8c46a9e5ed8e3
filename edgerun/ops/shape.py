"""Moving layers at work: one copy between two views for each source."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np

from edgerun.arrays import F32, AnyArray
from edgerun.layers import Concat, Pad, Slice, Take, Transpose
from edgerun.ops.base import LayerRun


class ConcatRun(LayerRun):
    """y[..., outer, first_k + i] <- x_k[..., outer, i]: what stands behind the axis goes along with it."""

    def __init__(self, spec: Concat, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        rows = math.prod(spec.shape[: spec.axis])
        ends = np.cumsum([0, *(width // rows for width in spec.widths)])
        y = self.out.reshape(*batch, rows, -1)
        self._parts: list[F32] = [y[..., a:b] for a, b in itertools.pairwise(ends)]

    def step(self, *sources: F32) -> None:
        for part, x in zip(self._parts, sources, strict=True):
            np.copyto(part, x.reshape(part.shape))


class TransposeRun(LayerRun):
    """y[i] <- x[i in the source's order of axes]."""

    def __init__(self, spec: Transpose, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        self._y: F32 = self.out.reshape(*batch, *spec.shape)
        self._shape = (*batch, *spec.input_shape)
        self._axes = (*range(len(batch)), *(len(batch) + axis for axis in spec.perm))

    def step(self, *sources: F32) -> None:
        np.copyto(self._y, sources[0].reshape(self._shape).transpose(self._axes))


class PadRun(LayerRun):
    """y inside <- x; the border was written when the array was made."""

    def __init__(self, spec: Pad, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        self.out: F32 = np.full((*batch, spec.outputs), spec.value, np.float32)
        whole = (slice(None),) * len(batch)
        self._inside: F32 = self.out.reshape(*batch, *spec.shape)[(*whole, *spec.inside)]

    def step(self, *sources: F32) -> None:
        np.copyto(self._inside, sources[0].reshape(self._inside.shape))

    def reset(self) -> None:
        self.out[...] = self.spec.value


class SliceRun(LayerRun):
    """y <- x at the positions kept."""

    def __init__(self, spec: Slice, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        self._y: F32 = self.out.reshape(*batch, *spec.shape)
        self._shape = (*batch, *spec.input_shape)
        self._kept = (*(slice(None),) * len(batch), *spec.kept)

    def step(self, *sources: F32) -> None:
        np.copyto(self._y, sources[0].reshape(self._shape)[self._kept])


class TakeRun(LayerRun):
    """y[..., k, ...] <- x[..., index[k], ...]."""

    def __init__(self, spec: Take, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        self._y: F32 = self.out.reshape(*batch, *spec.shape)
        self._shape = (*batch, *spec.input_shape)
        self._axis = len(batch) + spec.axis
        self._index = spec.tensor(tensors, "index").astype(np.intp)

    def step(self, *sources: F32) -> None:
        # the places are proved to be inside; any other mode than the default writes without a buffer
        np.take(sources[0].reshape(self._shape), self._index, axis=self._axis, out=self._y, mode="clip")
