"""Convolutions once more, one number at a time, in Python integers. Images lie as (height, width, channel)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reference.integers import requantise

from edgerun.layers import AveragePool, Conv, Depthwise, MaxPool


def places(spec: Conv | Depthwise | MaxPool | AveragePool) -> Iterator[tuple[int, int]]:
    """Where each window begins, in the image's own coordinates, row by row."""
    (h, w, _), (top, left, bottom, right) = spec.input_shape, spec.padding
    tall, wide = ((k - 1) * d + 1 for k, d in zip(spec.kernel, spec.dilation, strict=True))
    for y in range(-top, h + bottom - tall + 1, spec.stride[0]):
        for x in range(-left, w + right - wide + 1, spec.stride[1]):
            yield y, x


def taps(spec: Conv | Depthwise | MaxPool | AveragePool, y: int, x: int) -> Iterator[tuple[int, int, int | None]]:
    """Each tap of the window that begins at (y, x): its row, its column, and where its pixel lies; None is padding."""
    h, w, c = spec.input_shape
    for r in range(spec.kernel[0]):
        for t in range(spec.kernel[1]):
            row, column = y + r * spec.dilation[0], x + t * spec.dilation[1]
            yield r, t, (row * w + column) * c if 0 <= row < h and 0 <= column < w else None


def part(spec: Any, tensors: Mapping[str, Any], name: str) -> Any:
    return tensors[f"{spec.name}.{name}"].tolist()


def convolve(spec: Conv | Depthwise, tensors: Mapping[str, Any], image: list[int]) -> list[int]:
    """One flat image through one convolution."""
    weight, bias, m, s = (part(spec, tensors, name) for name in ("weight", "bias", "multiplier", "shift"))
    channels, out = spec.input_shape[2], []
    for y, x in places(spec):
        for f in range(spec.filters):
            total = bias[f]
            for r, t, pixel in taps(spec, y, x):
                if isinstance(spec, Conv):
                    for c in range(channels):
                        total += weight[f][r][t][c] * (spec.input_zero_point if pixel is None else image[pixel + c])
                else:
                    c = f // (spec.filters // channels)
                    total += weight[f][r][t] * (spec.input_zero_point if pixel is None else image[pixel + c])
            out.append(requantise(total, m[f], s[f], spec.zero_point, spec.qmin, spec.qmax))
    return out
