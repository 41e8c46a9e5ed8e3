"""Max and average pooling, float and quantised. Images lie as (height, width, channel)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from edgerun.arrays import F32, Tensors
from edgerun.layers import AveragePool, LayerRecord, MaxPool
from edgerun.layers.pool import Ties
from edgerun.layers.window import Pair, Sides, output_size
from exporters.nodes.base import Affine, FloatLayer, Quantised, Range, requant
from exporters.nodes.conv import check_padded, image_windows

Kind: TypeAlias = Literal["max", "average"]


@dataclass(frozen=True, slots=True)
class FloatPool(FloatLayer):
    """The largest value of each window, or its mean, channel by channel; then clip(low, high).

    Padding never wins a maximum. A mean divides by the values inside the image, or, with `count_padding`, by the whole
    kernel, padding counting as zeros. Global pooling is a kernel of (h, w). What a format's ceil_mode adds is padding
    that is not counted; with counted padding beside it, that padding must be a layer of its own before this one.

    ties  where the integer layer sends means that are a half, where the file says so
    """

    input_shape: tuple[int, int, int]
    kind: Kind
    kernel: Pair
    stride: Pair
    dilation: Pair = (1, 1)
    padding: Sides = (0, 0, 0, 0)
    count_padding: bool = False
    low: float = -np.inf
    high: float = np.inf
    ties: Ties = "up"

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (MaxPool, AveragePool)

    @property
    def widths(self) -> tuple[int, ...]:
        return (math.prod(self.input_shape),)

    @property
    def shape(self) -> tuple[int, int, int]:
        size = output_size(self.input_shape[:2], self.kernel, self.stride, self.dilation, self.padding)
        return (*size, self.input_shape[2])

    def check(self) -> None:
        FloatLayer.check(self)
        check_padded(self.name, self.input_shape, self.padding)

    def forward(self, *sources: F32) -> F32:
        geometry = (self.kernel, self.stride, self.dilation, self.padding)
        x = sources[0]
        if self.kind == "max":
            y: F32 = image_windows(x, self.input_shape, *geometry, fill=-np.inf).max(axis=(3, 4))
        else:
            ones = np.ones((1, math.prod(self.input_shape)), np.float32)
            counts = image_windows(ones, self.input_shape, *geometry, fill=float(self.count_padding)).sum(axis=(3, 4))
            y = image_windows(x, self.input_shape, *geometry).sum(axis=(3, 4)) / counts
        return np.clip(y, self.low, self.high).astype(np.float32).reshape(len(x), -1)

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """A maximum keeps the map of its input; where a file wants another, a mean of single values follows."""
        x = sources[0]
        if self.kind == "average":
            return (self.mean(x, self.output_map(reach)),)
        y = self.output or x
        if y == x:
            return (self.maximum(self.name, x, self.low, self.high),)
        largest = self.maximum(f"{self.name}.max", x, -math.inf, math.inf)
        single = FloatPool(
            self.name, self.shape, "average", (1, 1), (1, 1), low=self.low, high=self.high, ties=self.ties,
            sources=(largest.layer.name,),
        )  # fmt: skip
        return largest, single.mean(x, y)

    def maximum(self, name: str, x: Affine, low: float, high: float) -> Quantised:
        layer = MaxPool(
            name=name,
            sources=self.sources,
            input_shape=self.input_shape,
            kernel=self.kernel,
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
            qmin=x.integer(low),
            qmax=x.integer(high),
        )
        return Quantised(layer, {}, x)

    def mean(self, x: Affine, y: Affine) -> Quantised:
        """y = clip((sum(q) m + o >> s) + zy) for windows of n values, r = sx / (sy d), d = n or the whole kernel:

            m / 2**s = r as 24 bits hold it,   o = 2**(s-1) + ceil(128 n |m - r 2**s| - n zx r 2**s)

        The ceiling outweighs what rounding m can take away, so that a half is never missed; together they add at most
        sx / sy * 2**-16 of a step. So a half is what lies less than 2**-15 of a step above one, and `ties` can tell.
        """
        layer = AveragePool(
            name=self.name,
            sources=self.sources,
            input_shape=self.input_shape,
            kernel=self.kernel,
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
            zero_point=y.zero_point,
            qmin=y.integer(self.low),
            qmax=y.integer(self.high),
            ties=self.ties,
        )
        ratio, area = Fraction(float(x.scale)) / Fraction(float(y.scale)), math.prod(self.kernel)
        rows = []
        for k, n in enumerate(layer.sizes.tolist()):
            real = ratio / (area if self.count_padding else n)
            map_ = requant(self.name, k, float(real))
            m, s = (map_.multiplier, map_.shift) if map_.multiplier > 1 else (1 << 23, map_.shift + 23)
            exact = real * 2**s
            rows.append((m, (1 << (s - 1)) + math.ceil(128 * n * abs(m - exact) - n * x.zero_point * exact), s))
        multiplier, offset, shift = zip(*rows, strict=True)
        tensors: Tensors = {
            f"{self.name}.multiplier": np.array(multiplier, np.int32),
            f"{self.name}.offset": np.array(offset, np.int64),
            f"{self.name}.shift": np.array(shift, np.uint8),
        }
        return Quantised(layer, tensors, y)
