"""Layer normalisation over the last axis."""

from __future__ import annotations

import math
from typing import Annotated, Final

import numpy as np
from msgspec import Meta

from edgerun.errors import SpecError
from edgerun.layers.base import (
    Certificate,
    Field,
    Int8,
    LayerRecord,
    Shape,
    Tensors,
    Work,
    check_clip,
    check_volume,
    refuse_above,
    refuse_wide,
)

CHANNELS: Final = 1 << 14
EPSILON: Final = 1 << 51
MULTIPLIER: Final = (1 - (1 << 24), (1 << 24) - 1)
OFFSET: Final = (-(1 << 62), 1 << 62)
UNIT: Final = 20
"""Fraction bits of a normalised value."""


class LayerNorm(LayerRecord, tag="layer-norm", frozen=True, kw_only=True):
    """y = clip(((n * m + b) >> s) + zero_point), n = (x - mean) / sqrt(variance + epsilon) in Q20, per row.

        D = c x - sum x          W = max(2**8 (c sum x**2 - (sum x)**2) + epsilon, 1)
        t = (52 - bits(W)) >> 1          root = isqrt(W 4**t)          r = floor(2**51 / root)
        n = (D r + 2**(26-t)) >> (27-t)

    c is the length of the last axis. Mean and variance are not rounded at all, and the source's zero point cancels.
    Tensors: `<name>.multiplier` int32 (c,), `<name>.offset` int64 (c,), the offset with the rounding 2**(s-1) in it.
    """

    shape: Shape
    epsilon: Annotated[int, Meta(ge=0, le=EPSILON)]  # in 2**-8 of a source's step squared, times c**2
    shift: Annotated[int, Meta(ge=1, le=44)]
    zero_point: Int8 = 0
    qmin: Int8 = -128
    qmax: Int8 = 127

    def __post_init__(self) -> None:
        check_clip(self.qmin, self.qmax)
        check_volume("shape", self.shape)
        if self.shape[-1] > CHANNELS:
            raise SpecError(f"shape {self.shape} has {self.shape[-1]} channels, above 2**14")

    @property
    def channels(self) -> int:
        return self.shape[-1]

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.outputs,)

    def fields(self) -> tuple[Field, ...]:
        return (
            Field("multiplier", "int32", (self.channels,), *MULTIPLIER),
            Field("offset", "int64", (self.channels,), *OFFSET),
        )

    def reach(self, reaches: tuple[int, ...]) -> int:
        return max(abs(self.qmin), abs(self.qmax))

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        """Every step in int64, the root in float64, for |x| <= 128 and c <= 2**14:

            |D| <= 255 c < 2**22        2**8 c**2 variance <= 2**8 c**2 127.5**2 < 2**50        W < 2**52
            root in [2**25, 2**26)      r <= 2**26       |D r| < 2**48       |n| <= (floor(sqrt(c - 1)) + 1) 2**20

        A float64 root of an integer under 2**52, rounded down, is its integer root. What is left to prove is
        |n| |m| + |b| < 2**62.
        """
        refuse_wide(self.name, reaches)
        multiplier, offset = (self.tensor(tensors, field.part).astype(np.int64) for field in self.fields())
        most = (math.isqrt(self.channels - 1) + 1) << UNIT
        bound = most * np.abs(multiplier) + np.abs(offset)
        refuse_above(self.name, "normalised value times multiplier plus offset", bound, (1 << 62) - 1)
        return Certificate(carrier="int64", bound=int(bound.max()))

    def describe(self, tensors: Tensors) -> str:
        scales = np.abs(self.tensor(tensors, "multiplier")) * 2.0 ** (UNIT - self.shift)
        return f"gamma {scales.min():.3g} to {scales.max():.3g} steps, zero point {self.zero_point}"

    def work(self) -> Work:
        return Work(elements=6 * self.outputs, calls=40)
