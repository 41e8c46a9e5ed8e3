"""Windows that slide over an image: where they lie, and a view that shows every one of them without a copy.

An image lies as (height, width, channel). Along one axis, output o of a kernel of k taps sees the padded positions
o * stride + dilation * t, t = 0 .. k - 1: what ONNX, LiteRT and PyTorch call cross-correlation.
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgerun.arrays import I64

Pair: TypeAlias = tuple[int, int]
Sides: TypeAlias = tuple[int, int, int, int]
"""Padding: top, left, bottom, right."""

Scalar = TypeVar("Scalar", bound=np.generic)


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


def windows(padded: NDArray[Scalar], kernel: Pair, stride: Pair, dilation: Pair) -> NDArray[Scalar]:
    """(..., oh, ow, kh, kw, c)  every window of an image that is already padded; a view, not a copy.

    padded  (..., h, w, c)
    """
    reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(-3, -2), writeable=True)
    view = view[..., :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]
    return np.moveaxis(view, -3, -1)
