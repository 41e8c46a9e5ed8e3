"""Convolutions, full and depthwise, float and quantised. Images lie as (height, width, channel); 1-D is height 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgerun.arrays import F32, F64
from edgerun.errors import ModelError
from edgerun.kernels.window import windows
from edgerun.layers import Conv, Depthwise, LayerRecord
from edgerun.layers.base import VOLUME
from edgerun.layers.window import Pair, Sides, output_size
from exporters.nodes.base import Affine, FloatLayer, Quantised, Range, per_channel
from exporters.nodes.dense import fold, stored


def ungroup(weight: F32 | F64, groups: int, channels: int) -> F32 | F64:
    """Weights of a grouped convolution as those of a full one, zero wherever a filter does not look.

    weight  (filters, kh, kw, channels / groups)  ->  (filters, kh, kw, channels)
    """
    filters, kh, kw, each = weight.shape
    full = np.zeros((filters, kh, kw, channels), weight.dtype)
    for group, rows in enumerate(np.split(np.arange(filters), groups)):
        full[rows, :, :, group * each : (group + 1) * each] = weight[rows]
    return full


@dataclass(frozen=True, slots=True)
class Filters(FloatLayer):
    """What convolutions share. Outputs along an axis: floor((size + pads - dilation (kernel - 1) - 1) / stride) + 1.

    input_shape  (h, w, c)           stride, dilation  (down, across)    padding  (top, left, bottom, right), of zeros
    weight       (filters, kh, kw[, c])               low, high         the clip that follows
    bias         (filters,)          weight_scale      (filters,)  real weight step, where the file fixes it
    """

    input_shape: tuple[int, int, int]
    weight: F32 | F64
    bias: F32 | F64
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    padding: Sides = (0, 0, 0, 0)
    low: float = -np.inf
    high: float = np.inf
    weight_scale: F64 | None = None
    bits: int = 8

    @property
    def kernel(self) -> Pair:
        return self.weight.shape[1], self.weight.shape[2]

    @property
    def widths(self) -> tuple[int, ...]:
        return (math.prod(self.input_shape),)

    @property
    def shape(self) -> tuple[int, ...]:
        size = output_size(self.input_shape[:2], self.kernel, self.stride, self.dilation, self.padding)
        return (*size, len(self.weight))

    def check(self) -> None:
        FloatLayer.check(self)
        check_padded(self.name, self.input_shape, self.padding)

    def seen(self, x: F32) -> F32:
        """(N, oh, ow, kh, kw, c)  what each output looks at."""
        return image_windows(x, self.input_shape, self.kernel, self.stride, self.dilation, self.padding)

    def integer(self, kind: type[Conv] | type[Depthwise], x: Affine, reach: Range) -> tuple[Quantised, ...]:
        """Per-filter weights, the input's zero point folded into the bias, the clip into qmin and qmax.

            acc = sum(w q) + b',   b' = round(b / (sw sx)) - zx sum(w),   y = clip(requant(acc, sw sx / sy) + zy)

        Padding is zx. A filter's weight scale sw is doubled until |b'| < 2**28 and sw sx / sy is in [2**-23, 2**23).
        Weights are symmetric, save a file's own that int8 does not hold: those get a zero point a filter.
        Raises ModelError naming a filter whose numbers no scale can hold.
        """
        y = self.output_map(reach)
        integers, bias, scales = fold(self.weight, self.bias, x, y, self.weight_scale, self.bits)
        weights = stored(self.name, integers)
        layer = kind(
            name=self.name,
            sources=self.sources,
            input_shape=self.input_shape,
            filters=len(integers),
            kernel=self.kernel,
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
            input_zero_point=x.zero_point,
            zero_point=y.zero_point,
            qmin=y.integer(self.low),
            qmax=y.integer(self.high),
            asymmetric="weight_zero" in weights,
        )
        return (Quantised(layer, per_channel({}, self.name, scales, **weights, bias=bias), y),)


@dataclass(frozen=True, slots=True)
class FloatConv(Filters):
    """y[i, j, f] = clip(b[f] + sum over r, t, c of w[f, r, t, c] x[i sh + r dh - top, j sw + t dw - left, c]).

    weight (filters, kh, kw, c)
    """

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Conv,)

    def forward(self, *sources: F32) -> F32:
        x = self.seen(sources[0])
        n, (oh, ow, filters) = len(x), self.shape
        y = np.broadcast_to(self.bias.astype(np.float32), (n * oh * ow, filters)).copy()
        for row in range(self.kernel[0]):  # one row of the kernel at a time: no copy of all windows at once
            taps = self.weight[:, row].reshape(filters, -1).T.astype(np.float32)
            y += x[:, :, :, row].reshape(n * oh * ow, -1) @ taps
        return np.clip(y, self.low, self.high).astype(np.float32).reshape(n, -1)

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        return self.integer(Conv, sources[0], reach)


@dataclass(frozen=True, slots=True)
class FloatDepthwise(Filters):
    """A convolution whose filter f looks at channel f // m only, m = filters / c.    weight (filters, kh, kw)"""

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Depthwise,)

    def forward(self, *sources: F32) -> F32:
        x = self.seen(sources[0])
        channels, filters = self.input_shape[2], len(self.weight)
        taps = self.weight.reshape(channels, filters // channels, *self.kernel).astype(np.float32)
        y: F32 = np.einsum("nijrtc,cmrt->nijcm", x, taps).reshape(*x.shape[:3], filters)
        return np.clip(y + self.bias.astype(np.float32), self.low, self.high).astype(np.float32).reshape(len(x), -1)

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        return self.integer(Depthwise, sources[0], reach)


def check_padded(name: str, shape: tuple[int, int, int], padding: Sides) -> None:
    """Raise ModelError for an image (h, w, c) that holds too many values with its padding: windows without end."""
    rows, columns = shape[0] + padding[0] + padding[2], shape[1] + padding[1] + padding[3]
    if rows * columns * shape[2] > VOLUME:
        raise ModelError(f"layer {name}: an image of {shape} padded to {rows} x {columns} holds more than 2**24 values")


def image_windows(
    x: F32, shape: tuple[int, int, int], kernel: Pair, stride: Pair, dilation: Pair, padding: Sides, fill: float = 0.0
) -> F32:
    """(N, oh, ow, kh, kw, c) from flat (N, h * w * c), padded with `fill`."""
    top, left, bottom, right = padding
    padded = np.pad(x.reshape(-1, *shape), ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    return windows(padded, kernel, stride, dilation)
