"""Convolutions at work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from edgerun.arrays import F32, AnyArray
from edgerun.kernels import conv
from edgerun.kernels.window import windows
from edgerun.layers import Conv, Depthwise
from edgerun.ops.base import LayerRun
from edgerun.ops.requant import by_filter
from edgerun.ops.window import Padded

BLOCK: Final = 1 << 16
"""Values that one matrix product of a convolution reads: what a processor's cache holds."""


class ConvRun(LayerRun):
    """A convolution as matrix products: one for a block of images or of output rows, or, 1x1, one for all places."""

    def __init__(self, spec: Conv, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        n, (oh, ow, filters) = math.prod(batch), spec.shape
        self.spec = spec
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        self._end, weights = by_filter(spec, tensors, self.out.reshape(n * oh, ow * filters), places=ow)
        self._weights = weights.reshape(-1, filters)
        self._sums = self._end.sums.reshape(-1, filters)
        self._direct = self._sums.dtype == np.float32 and spec.sees_single_places
        if not self._direct:
            self._image = Padded(spec, batch, spec.input_zero_point, weights.dtype)
            self._blocks = blocks(self._image.windows(), self._end.sums.reshape(n, oh, ow, filters))

    def step(self, *sources: F32) -> None:
        if self._direct:
            np.dot(sources[0].reshape(len(self._sums), -1), self._weights, out=self._sums)
        else:
            self._image.load(sources[0])
            for sums, seen, columns in self._blocks:
                conv.conv_sums(sums, seen, columns, self._weights)
        self._end.finish()


def blocks(seen: AnyArray, sums: AnyArray) -> tuple[tuple[AnyArray, AnyArray, AnyArray], ...]:
    """Whole images, or rows of one, whose windows fill `BLOCK` values at most, or one row: (sums, windows, columns).

    seen  (n, oh, ow, kh, kw, c)     sums  (n, oh, ow, f)     columns  shared by all blocks
    """
    n, oh = seen.shape[:2]
    row = math.prod(seen.shape[2:])
    rows = min(oh, max(1, BLOCK // row))
    images = max(1, BLOCK // (row * oh))
    columns = np.zeros(min(n, images) * rows * row, seen.dtype)
    found = []
    for image in range(0, n, images):
        for first in range(0, oh, rows):
            part = (slice(image, image + images), slice(first, first + rows))
            view = seen[part]
            found.append((sums[part].reshape(-1, sums.shape[-1]), view, columns[: view.size].reshape(view.shape)))
    return tuple(found)


class DepthwiseRun(LayerRun):
    """A depthwise convolution: whole rows of outputs at once, each of which sees `kw` shifted rows for each of `kh`."""

    def __init__(self, spec: Depthwise, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        n, (oh, ow, filters), (kh, kw) = math.prod(batch), spec.shape, spec.kernel
        c = spec.input_shape[2]
        self.spec = spec
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        self._end, weights = by_filter(spec, tensors, self.out.reshape(n, oh, ow * filters), places=ow)
        self._weights = np.tile(weights, (1, 1, ow))
        self._image = Padded(spec, batch, spec.input_zero_point, weights.dtype)
        across = windows(self._image.image, (1, kw), (1, spec.stride[1]), (1, spec.dilation[1]))
        across = across[:, :, :, 0].swapaxes(2, 3)[..., None]  # (n, rows, kw, ow, c, 1): the last for each of m filters
        self._shifted = np.zeros((*across.shape[:-1], filters // c), weights.dtype)
        self._across = np.broadcast_to(across, self._shifted.shape)
        rows = self._shifted.reshape(n, -1, 1, kw * ow * filters)
        down = windows(rows, (kh, 1), (spec.stride[0], 1), (spec.dilation[0], 1))
        self._down = down.reshape(n, oh, kh, kw, ow * filters)

    def step(self, *sources: F32) -> None:
        self._image.load(sources[0])
        conv.depthwise_sums(self._end.sums, self._across, self._shifted, self._down, self._weights)
        self._end.finish()
