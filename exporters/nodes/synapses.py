"""Synapses that give raw sums, for neurons that take them: a sum of integers stands for sum * 2**-f."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgerun.arrays import F32, F64
from edgerun.errors import ModelError
from edgerun.layers import ConvSum, DenseSum, LayerRecord, SumPool, Total
from edgerun.layers.window import Pair, Sides, output_size
from exporters.nodes.base import Affine, FloatLayer, Matrix, Quantised, Range
from exporters.nodes.conv import FloatConv, image_windows
from exporters.nodes.fixed import power_of_two, pre_major, rounded


@dataclass(frozen=True, slots=True)
class Sums(Affine):
    """The map of raw sums, real = scale * sum, and the largest |sum| that any input can cause."""

    bound: int = 0


@dataclass(frozen=True, slots=True)
class FloatDenseSum(Matrix, FloatLayer):
    """s = W x.    weight (n, in)

    gain  a factor that is on its way behind this layer, as a mean's 1 / count: folded into the integer weights
    peak  the largest |integer| that it reads: 1 of spikes, 128 of int8 features
    exponent  f, where other sums must have the same; else the one with the least error
    """

    weight: F32
    gain: float = 1.0
    peak: int = 128
    exponent: int | None = None
    bits: int = 8  # of an integer weight, 2 to 8

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (DenseSum,)

    def forward(self, *sources: F32) -> F32:
        return sources[0] @ self.weight.T

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        x = sources[0]
        integers, sums, clipped = summed(self.weight, x, self.gain, self.peak, self.exponent, self.bits)
        layer = DenseSum(
            name=self.name,
            sources=self.sources,
            inputs=self.weight.shape[1],
            outputs=self.outputs,
            zero_point=x.zero_point,
            output_bound=sums.bound,
        )
        return (Quantised(layer, {f"{self.name}.weight": pre_major(integers)}, sums, clipped),)


@dataclass(frozen=True, slots=True)
class FloatConvSum(FloatConv):
    """A convolution whose sums drive neurons, which hold the bias: its own is zero. gain, peak, exponent: as
    `FloatDenseSum`."""

    gain: float = 1.0
    peak: int = 128
    exponent: int | None = None

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (ConvSum,)

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        if np.any(self.bias):
            raise ModelError(f"layer {self.name}: the bias of a convolution before neurons belongs to the neurons")
        x = sources[0]
        integers, sums, clipped = summed(self.weight, x, self.gain, self.peak, self.exponent, self.bits)
        layer = ConvSum(
            name=self.name,
            sources=self.sources,
            input_shape=self.input_shape,
            filters=len(self.weight),
            kernel=self.kernel,
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
            zero_point=x.zero_point,
            output_bound=sums.bound,
        )
        return (Quantised(layer, {f"{self.name}.weight": integers.astype(np.int8)}, sums, clipped),)


@dataclass(frozen=True, slots=True)
class FloatSumPool(FloatLayer):
    """The sum of each window of spikes or sums, or, where `mean`, its average, padding counted. Integers always add:
    the count goes into the scale.    peak  the largest |integer| that it reads, where that is no sum"""

    input_shape: tuple[int, int, int]
    kernel: Pair
    stride: Pair
    padding: Sides = (0, 0, 0, 0)
    mean: bool = True
    peak: int = 1

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (SumPool,)

    @property
    def widths(self) -> tuple[int, ...]:
        return (math.prod(self.input_shape),)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*output_size(self.input_shape[:2], self.kernel, self.stride, (1, 1), self.padding), self.input_shape[2])

    @property
    def count(self) -> int:
        return math.prod(self.kernel) if self.mean else 1

    def forward(self, *sources: F32) -> F32:
        seen = image_windows(sources[0], self.input_shape, self.kernel, self.stride, (1, 1), self.padding)
        total = np.zeros((len(seen), *self.shape), np.float32)
        for row in range(self.kernel[0]):
            for column in range(self.kernel[1]):
                total += seen[:, :, :, row, column]
        return (total / np.float32(self.count)).reshape(len(seen), -1)

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """Raises ModelError where a pool with a zero point other than 0 reads analog values."""
        x = sources[0]
        if x.zero_point:
            raise ModelError(f"layer {self.name}: pools spikes or sums, not values with zero point {x.zero_point}")
        layer = SumPool(
            name=self.name,
            sources=self.sources,
            input_shape=self.input_shape,
            kernel=self.kernel,
            stride=self.stride,
            padding=self.padding,
        )
        bound = math.prod(self.kernel) * (x.bound if isinstance(x, Sums) else self.peak)
        return (Quantised(layer, {}, Sums(x.scale / self.count, 0, bound)),)


@dataclass(frozen=True, slots=True)
class FloatTotal(FloatLayer):
    """The sum of several sources, element by element: spikes, or sums of one scale."""

    width: int
    terms: int

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Total,)

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.width,) * self.terms

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.width,)

    def forward(self, *sources: F32) -> F32:
        total = sources[0]
        for source in sources[1:]:
            total = total + source
        return total

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        if any(x.zero_point for x in sources) or len({x.scale for x in sources}) > 1:
            raise ModelError(f"layer {self.name}: adds spikes, or sums of one scale, not {[x.scale for x in sources]}")
        layer = Total(name=self.name, sources=self.sources, outputs=self.width, terms=self.terms)
        bound = sum(x.bound if isinstance(x, Sums) else 1 for x in sources)
        return (Quantised(layer, {}, Sums(sources[0].scale, 0, bound)),)


def summed(
    weight: F32 | F64, x: Affine, gain: float, peak: int, exponent: int | None, bits: int
) -> tuple[F64, Sums, float]:
    """Integer weights of a synapse, the map of its sums, and the share of weights that saturate.

    weight  (n, ...)  real; the input's scale and the gain are folded in
    """
    wanted = weight.astype(np.float64) * (x.scale * gain)
    best, (integers,), clipped = power_of_two([wanted], bits)
    if exponent is not None:
        best, integers = exponent, rounded(wanted, exponent, bits)
    total = np.abs(integers).reshape(len(integers), -1).sum(axis=1).max()
    bound = max(1, int(total) * (peak + abs(x.zero_point)))
    return integers, Sums(2.0**-best / gain, 0, bound), clipped
