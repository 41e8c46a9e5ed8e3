"""Max and average pooling, float and quantised. Images lie as (height, width, channel)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from edgerun.arrays import F32
from edgerun.kernels.window import Pair, Sides, output_size
from exporters.nodes.base import FloatLayer
from exporters.nodes.conv import image_windows

Kind: TypeAlias = Literal["max", "average"]


@dataclass(frozen=True, slots=True)
class FloatPool(FloatLayer):
    """The largest value of each window, or its mean, channel by channel; then clip(low, high).

    Padding never wins a maximum. A mean divides by the values inside the image, or, with `count_padding`, by the whole
    kernel, padding counting as zeros. Global pooling is a kernel of (h, w). What a format's ceil_mode adds is padding
    that is not counted; with counted padding beside it, that padding must be a layer of its own before this one.
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

    @property
    def widths(self) -> tuple[int, ...]:
        return (math.prod(self.input_shape),)

    @property
    def shape(self) -> tuple[int, ...]:
        size = output_size(self.input_shape[:2], self.kernel, self.stride, self.dilation, self.padding)
        return (*size, self.input_shape[2])

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
