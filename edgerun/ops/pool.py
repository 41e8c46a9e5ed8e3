"""Pooling at work."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from edgerun.arrays import F32, I64, AnyArray
from edgerun.kernels.pool import pool, ties_away, ties_to_even
from edgerun.kernels.requant import limit
from edgerun.kernels.window import windows
from edgerun.layers import AveragePool, MaxPool
from edgerun.layers.window import Sliding
from edgerun.ops.base import LayerRun
from edgerun.ops.requant import Requantiser
from edgerun.ops.window import Padded


class MaxPoolRun(LayerRun):
    """The largest value of each window, clipped."""

    def __init__(self, spec: MaxPool, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        self._ends = np.array(spec.qmin, np.float32), np.array(spec.qmax, np.float32)
        self._pooling = Pooling(spec, batch, -128, self.out, np.maximum)

    def step(self, *sources: F32) -> None:
        self._pooling.step(sources[0])
        limit(self.out, *self._ends)


class AveragePoolRun(LayerRun):
    """The sum of each window, requantised by the number of values in it; twice where halves do not simply go up."""

    def __init__(self, spec: AveragePool, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        which = np.searchsorted(spec.sizes, spec.counts).reshape(-1, 1)
        if len(spec.sizes) == 1:
            which = which[:1]
        m, s = (spec.tensor(tensors, part).astype(np.int64)[which] for part in ("multiplier", "shift"))
        carrier = spec.proof(tensors).carrier

        def end(out: F32, offset: I64) -> Requantiser:
            return Requantiser(carrier, spec, out.reshape(*batch, -1, spec.input_shape[2]), m, offset[which], s)

        up, down = spec.offsets(tensors)
        self._up, self._down, self._choose = end(self.out, up), None, None
        if spec.ties != "up":
            other = np.zeros_like(self.out)
            self._down, self._choose = end(other, down), chooser(spec, self.out, other)
        self._pooling = Pooling(spec, batch, 0, self._up.sums, np.add)

    def step(self, *sources: F32) -> None:
        self._pooling.step(sources[0])
        if self._down is None or self._choose is None:
            self._up.finish()
            return
        np.copyto(self._down.sums, self._up.sums)
        self._up.finish()
        self._down.finish()
        self._choose()


def chooser(spec: AveragePool, up: F32, down: F32) -> Callable[[], None]:
    """What takes from `down` the halves that do not go up."""
    if spec.ties == "even":
        return partial(ties_to_even, up, down, spec.zero_point, np.zeros_like(up))
    return partial(ties_away, up, down, np.zeros(up.shape, np.bool_))


class Pooling:
    """Windows of one padded image and the arrays that combine them into `out` (..., oh * ow, c)."""

    def __init__(self, spec: Sliding, batch: tuple[int, ...], fill: int, out: AnyArray, combine: np.ufunc) -> None:
        n, (kh, kw) = math.prod(batch), spec.kernel
        self._combine = combine
        self._image = Padded(spec, batch, fill, out.dtype)
        rows: AnyArray = np.zeros((n, *spec.row_shape), out.dtype)
        down = windows(self._image.image, (kh, 1), (spec.stride[0], 1), (spec.dilation[0], 1))
        across = windows(rows, (1, kw), (1, spec.stride[1]), (1, spec.dilation[1]))
        self._arrays = (
            out.reshape(n, *spec.shape),
            np.moveaxis(down[..., 0, :], 3, 2),
            rows,
            np.moveaxis(across[..., 0, :, :], 3, 2),
        )

    def step(self, x: F32) -> None:
        self._image.load(x)
        pool(*self._arrays, self._combine)
