"""What layers share whose windows slide over an image (height, width, channel), and where the windows lie.

Along one axis, output o of a kernel of k taps sees the padded positions o * stride + dilation * t, t = 0 .. k - 1: what
ONNX, LiteRT and PyTorch call cross-correlation.
"""

from __future__ import annotations

import math
from typing import Annotated, TypeAlias

import numpy as np
from msgspec import Meta

from edgerun.arrays import I64
from edgerun.errors import SpecError
from edgerun.layers.base import Count, Int8, LayerRecord, check_clip, check_volume

Side: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 16)]
Extent: TypeAlias = Annotated[int, Meta(ge=1, le=1 << 16)]
Pair: TypeAlias = tuple[int, int]
Sides: TypeAlias = tuple[int, int, int, int]
"""Padding: top, left, bottom, right."""


def positions(size: int, before: int, after: int, kernel: int, stride: int, dilation: int) -> int:
    """How many windows fit along an axis: floor((size + pads - dilation * (kernel - 1) - 1) / stride) + 1."""
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def output_size(size: Pair, kernel: Pair, stride: Pair, dilation: Pair, padding: Sides) -> Pair:
    """(height, width) of the output; below 1 where no window fits."""
    top, left, bottom, right = padding
    return (
        positions(size[0], top, bottom, kernel[0], stride[0], dilation[0]),
        positions(size[1], left, right, kernel[1], stride[1], dilation[1]),
    )


def taps_inside(size: int, before: int, after: int, kernel: int, stride: int, dilation: int) -> I64:
    """(outputs,)  along an axis, how many taps of each window lie in the image and not in its padding."""
    starts = np.arange(positions(size, before, after, kernel, stride, dilation), dtype=np.int64) * stride - before
    first = np.maximum(-(starts // dilation), 0)
    last = np.minimum((size - 1 - starts) // dilation, kernel - 1)
    counts: I64 = np.maximum(last - first + 1, 0)
    return counts


class Sliding(LayerRecord, frozen=True, kw_only=True):
    """Windows over an image: their geometry.

    floor((size + before + after - dilation * (kernel - 1) - 1) / stride) + 1 outputs along an axis.
    """

    input_shape: tuple[Count, Count, Count]
    kernel: tuple[Extent, Extent]
    stride: tuple[Extent, Extent] = (1, 1)
    dilation: tuple[Extent, Extent] = (1, 1)
    padding: tuple[Side, Side, Side, Side] = (0, 0, 0, 0)  # top, left, bottom, right

    def __post_init__(self) -> None:
        check_volume("input_shape", self.input_shape)
        check_volume("padded shape", self.padded_shape)
        if min(self.outputs_size) < 1:
            raise SpecError(
                f"kernel {self.kernel} with dilation {self.dilation} does not fit the padded shape {self.padded_shape}"
            )
        check_volume("shape", self.shape)

    @property
    def outputs_size(self) -> Pair:
        """(height, width) of the output."""
        return output_size(self.input_shape[:2], self.kernel, self.stride, self.dilation, self.padding)

    @property
    def padded_shape(self) -> tuple[int, int, int]:
        (h, w, c), (top, left, bottom, right) = self.input_shape, self.padding
        return h + top + bottom, w + left + right, c

    @property
    def widths(self) -> tuple[int, ...]:
        return (math.prod(self.input_shape),)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.outputs_size, self.input_shape[2])

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """(oh, w, c)  the working array of a pool: windows combined down the image, not yet across it."""
        return (self.outputs_size[0], *self.padded_shape[1:])


class Windowed(Sliding, frozen=True, kw_only=True):
    """Windows over an image, and what the output is clipped to."""

    qmin: Int8 = -128
    qmax: Int8 = 127

    def __post_init__(self) -> None:
        check_clip(self.qmin, self.qmax)
        super().__post_init__()

    def reach(self, reaches: tuple[int, ...]) -> int:
        return max(abs(self.qmin), abs(self.qmax))
