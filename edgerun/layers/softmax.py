"""Softmax and its logarithm over the last axis."""

from __future__ import annotations

from typing import Annotated, cast

from msgspec import Meta

from edgerun.arrays import I32
from edgerun.errors import SpecError
from edgerun.layers.base import (
    Certificate,
    Field,
    Int8,
    LayerRecord,
    Shape,
    Tensors,
    Work,
    check_volume,
    refuse_wide,
)

ONE = 1 << 30
"""1.0 in the table of exponentials, Q0.30."""
SUM_LIMIT = 1 << 50
"""The largest sum of exponentials: exact in float64, and in int64 after the shifts."""


class Exponentials(LayerRecord, frozen=True, kw_only=True):
    """What both kinds share. Tensor: `<name>.exponentials` int32 (256,), entry d = exp(-beta * scale * d) in Q0.30."""

    shape: Shape

    def __post_init__(self) -> None:
        check_volume("shape", self.shape)

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.outputs,)

    def fields(self) -> tuple[Field, ...]:
        return (Field("exponentials", "int32", (256,), 0, ONE),)

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        """The sum over the last axis is at least the first entry, which must not be 0, and at most 2**50."""
        refuse_wide(self.name, reaches)
        table = cast(I32, self.tensor(tensors, "exponentials"))
        bound = self.shape[-1] * int(table.max())
        if int(table[0]) < 1:
            raise SpecError(f"layer {self.name}: exponentials[0] {table[0]} is under 1")
        if bound > SUM_LIMIT:
            raise SpecError(f"layer {self.name}: sum of exponentials {bound} is above 2**50")
        return Certificate(carrier="int64", bound=bound)

    def describe(self, tensors: Tensors) -> str:
        ratio = int(self.tensor(tensors, "exponentials")[1]) / ONE
        return f"{self.shape[-1]} values, a step is a factor {ratio:.4g}"


class Softmax(Exponentials, tag="softmax", frozen=True, kw_only=True):
    """y = min(half_up(e * m / (sum e * 2**s)) + zero_point, 127), e = exponentials[max x - x].

    1.0 is m * 2**-s steps of the output.
    """

    multiplier: Annotated[int, Meta(ge=1, lt=1 << 16)]
    shift: Annotated[int, Meta(ge=0, le=8)]
    zero_point: Int8 = -128

    def reach(self, reaches: tuple[int, ...]) -> int:
        return max(abs(self.zero_point), 127)

    def work(self) -> Work:
        return Work(elements=8 * self.outputs, calls=17)


class LogSoftmax(Exponentials, tag="log-softmax", frozen=True, kw_only=True):
    """y = max(((2**(s-1) - d * md - L * ml) >> s) + zero_point, -128)

    d = max x - x, and L = ln(sum exponentials[d]) in Q12 from a table of 1024 logarithms.
    """

    multipliers: tuple[Annotated[int, Meta(ge=0, lt=1 << 24)], Annotated[int, Meta(ge=0, lt=1 << 24)]]  # md and ml
    shift: Annotated[int, Meta(ge=1, le=44)]
    zero_point: Int8 = 127

    def reach(self, reaches: tuple[int, ...]) -> int:
        return 128

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        """As above, and the sum is never under 1.0, so that L >= 0 and y <= zero_point."""
        found = Exponentials.certify(self, tensors, reaches, plastic)
        first = int(self.tensor(tensors, "exponentials")[0])
        if first != ONE:
            raise SpecError(f"layer {self.name}: exponentials[0] {first} is not 2**30")
        return found

    def work(self) -> Work:
        return Work(elements=8 * self.outputs, calls=22)
