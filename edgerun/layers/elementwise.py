"""Sums and products of two sources, and tables of one: value by value."""

from __future__ import annotations

import math
from typing import Annotated, TypeAlias

import numpy as np
from msgspec import Meta

from edgerun.errors import SpecError
from edgerun.layers.base import (
    F32_EXACT,
    F64_EXACT,
    Certificate,
    Field,
    Int8,
    LayerRecord,
    Shape,
    Tensors,
    Work,
    check_clip,
    check_volume,
    refuse_wide,
)

Factor: TypeAlias = Annotated[int, Meta(gt=-(1 << 24), lt=1 << 24)]
Shift: TypeAlias = Annotated[int, Meta(ge=1, le=44)]
Offset: TypeAlias = Annotated[int, Meta(ge=-(1 << 46), le=1 << 46)]


def broadcast(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of an operation on two arrays of one rank: along each axis the sizes agree, or one of them is 1."""
    a, b = shapes
    if len(a) != len(b) or any(m != n and 1 not in (m, n) for m, n in zip(a, b, strict=True)):
        raise SpecError(f"shapes {a} and {b} do not broadcast")
    return tuple(max(m, n) for m, n in zip(a, b, strict=True))


def _refuse_above(layer: str, what: str, value: int, limit: int) -> None:
    if value > limit:
        raise SpecError(f"layer {layer}: {what} {value} is above {limit}")


class Add(LayerRecord, tag="add", frozen=True, kw_only=True):
    """y = clip(((a * ma + b * mb + offset) >> s) + zero_point), broadcast over `shapes`.

    The offset holds both zero points and the rounding: -za * ma - zb * mb + 2**(s-1).
    """

    shapes: tuple[Shape, Shape]
    multipliers: tuple[Factor, Factor]  # ma and mb; a negative one subtracts
    offset: Offset
    shift: Shift  # s
    zero_point: Int8 = 0
    qmin: Int8 = -128
    qmax: Int8 = 127

    def __post_init__(self) -> None:
        check_clip(self.qmin, self.qmax)
        check_volume("shapes", broadcast(self.shapes))

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def shape(self) -> tuple[int, ...]:
        return broadcast(self.shapes)

    def reach(self, reaches: tuple[int, ...]) -> int:
        return max(abs(self.qmin), abs(self.qmax))

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        """A float64 holds max|a| |ma| + max|b| |mb| + |offset| + |zero_point| 2**s <= 2**53, in units of 2**-s."""
        bound = sum(r * abs(m) for r, m in zip(reaches, self.multipliers, strict=True)) + abs(self.offset)
        whole = bound + (abs(self.zero_point) << self.shift)
        _refuse_above(self.name, "sum of both sources", whole, F64_EXACT)
        return Certificate(carrier="float64", bound=bound)

    def describe(self, tensors: Tensors) -> str:
        a, b = (m * 2.0**-self.shift for m in self.multipliers)
        return f"scales {a:.3g} and {b:.3g}, zero point {self.zero_point}"

    def work(self) -> Work:
        return Work(elements=2 * self.outputs, calls=10)


class Mul(LayerRecord, tag="mul", frozen=True, kw_only=True):
    """y = clip((((a - za) * (b - zb) * m + 2**(s-1)) >> s) + zero_point), broadcast over `shapes`."""

    shapes: tuple[Shape, Shape]
    zeros: tuple[Int8, Int8]  # za and zb
    multiplier: Annotated[int, Meta(ge=1, lt=1 << 24)]
    shift: Shift
    zero_point: Int8 = 0
    qmin: Int8 = -128
    qmax: Int8 = 127

    def __post_init__(self) -> None:
        check_clip(self.qmin, self.qmax)
        check_volume("shapes", broadcast(self.shapes))

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def shape(self) -> tuple[int, ...]:
        return broadcast(self.shapes)

    def reach(self, reaches: tuple[int, ...]) -> int:
        return max(abs(self.qmin), abs(self.qmax))

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        """With P = max|a - za| max|b - zb|: the product in float32, P <= 2**24; the rest in float64, as
        P * m + 2**(s-1) + |zero_point| 2**s < 2**48 + 2**43 + 2**51 always fits."""
        (a, b), (za, zb) = reaches, self.zeros
        bound = (a + abs(za)) * (b + abs(zb))
        _refuse_above(self.name, "product of both sources", bound, F32_EXACT)
        return Certificate(carrier="float32-dot", bound=bound)

    def describe(self, tensors: Tensors) -> str:
        return f"scale {self.multiplier * 2.0**-self.shift:.3g}, zero point {self.zero_point}"

    def work(self) -> Work:
        return Work(elements=2 * self.outputs, calls=12)


class Lookup(LayerRecord, tag="lookup", frozen=True, kw_only=True):
    """y = table[x + 128]: any function of one int8 value. Tensor: `<name>.table` int8 (256,)."""

    shape: Shape
    qmin: Int8 = -128  # the least entry that the table may hold
    qmax: Int8 = 127

    def __post_init__(self) -> None:
        check_clip(self.qmin, self.qmax)
        check_volume("shape", self.shape)

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.outputs,)

    def fields(self) -> tuple[Field, ...]:
        return (Field("table", "int8", (256,), self.qmin, self.qmax),)

    def reach(self, reaches: tuple[int, ...]) -> int:
        return max(abs(self.qmin), abs(self.qmax))

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        refuse_wide(self.name, reaches)
        return Certificate(carrier="float32-folded", bound=self.reach(reaches))

    def describe(self, tensors: Tensors) -> str:
        table = self.tensor(tensors, "table")
        return f"{len(np.unique(table))} values from {table.min()} to {table.max()}"

    def work(self) -> Work:
        return Work(elements=self.outputs, calls=3)
