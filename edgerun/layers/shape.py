"""Layers that move values and change none: joining, turning, padding, cutting, taking."""

from __future__ import annotations

import math
from typing import Annotated, TypeAlias

from msgspec import Meta

from edgerun.errors import SpecError
from edgerun.layers.base import (
    F32_EXACT,
    Certificate,
    Count,
    Field,
    Int8,
    LayerRecord,
    Shape,
    Tensors,
    Work,
    check_volume,
)

Side: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 20)]
Position: TypeAlias = Annotated[int, Meta(ge=-1, le=1 << 20)]
Step: TypeAlias = Annotated[int, Meta(ge=-(1 << 20), le=1 << 20)]


class Move(LayerRecord, frozen=True, kw_only=True):
    """What all kinds share: a value leaves as it came."""

    def reach(self, reaches: tuple[int, ...]) -> int:
        return max(reaches)

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        """Nothing is computed: exact for whatever a float32 carries."""
        bound = self.reach(reaches)
        if bound > F32_EXACT:
            raise SpecError(f"layer {self.name}: {bound} reaches it, above 2**24")
        return Certificate(carrier="float32-folded", bound=bound)

    def work(self) -> Work:
        return Work(elements=self.outputs, calls=2 * len(self.widths))


class Concat(Move, tag="concat", frozen=True, kw_only=True):
    """The sources side by side along `axis`; their shapes agree along all others."""

    shapes: Annotated[tuple[Shape, ...], Meta(min_length=1, max_length=64)]
    axis: Annotated[int, Meta(ge=0, le=7)]

    def __post_init__(self) -> None:
        others = {(len(shape), *shape[: self.axis], *shape[self.axis + 1 :]) for shape in self.shapes}
        if len(others) != 1:
            raise SpecError(f"shapes {self.shapes} differ beside axis {self.axis}")
        if self.axis >= len(self.shapes[0]):
            raise SpecError(f"axis {self.axis} is outside [0, {len(self.shapes[0]) - 1}]")
        check_volume("shape", self.shape)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def shape(self) -> tuple[int, ...]:
        first, axis = self.shapes[0], self.axis
        return (*first[:axis], sum(shape[axis] for shape in self.shapes), *first[axis + 1 :])


class Transpose(Move, tag="transpose", frozen=True, kw_only=True):
    """The output's axis k is the source's axis perm[k]."""

    input_shape: Shape
    perm: Annotated[tuple[int, ...], Meta(max_length=8)]

    def __post_init__(self) -> None:
        if sorted(self.perm) != list(range(len(self.input_shape))):
            raise SpecError(f"perm {self.perm} does not order {len(self.input_shape)} axes")
        check_volume("shape", self.shape)

    @property
    def widths(self) -> tuple[int, ...]:
        return (math.prod(self.input_shape),)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.input_shape[axis] for axis in self.perm)


class Pad(Move, tag="pad", frozen=True, kw_only=True):
    """`before` and `after` copies of `value` along each axis."""

    input_shape: Shape
    before: Annotated[tuple[Side, ...], Meta(max_length=8)]
    after: Annotated[tuple[Side, ...], Meta(max_length=8)]
    value: Int8

    def __post_init__(self) -> None:
        for what, sides in (("before", self.before), ("after", self.after)):
            if len(sides) != len(self.input_shape):
                raise SpecError(f"{what} {sides} is not one number for each of {len(self.input_shape)} axes")
        check_volume("shape", self.shape)

    @property
    def widths(self) -> tuple[int, ...]:
        return (math.prod(self.input_shape),)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(a + n + b for a, n, b in zip(self.before, self.input_shape, self.after, strict=True))

    @property
    def inside(self) -> tuple[slice, ...]:
        """Where the source lies in the output."""
        return tuple(slice(a, a + n) for a, n in zip(self.before, self.input_shape, strict=True))

    def reach(self, reaches: tuple[int, ...]) -> int:
        return max(*reaches, abs(self.value))


class Slice(Move, tag="slice", frozen=True, kw_only=True):
    """Along each axis the positions start, start + step, ... before `stop`; a stop of -1 lies before the first."""

    input_shape: Shape
    start: Annotated[tuple[Side, ...], Meta(max_length=8)]
    stop: Annotated[tuple[Position, ...], Meta(max_length=8)]
    step: Annotated[tuple[Step, ...], Meta(max_length=8)]

    def __post_init__(self) -> None:
        for what, numbers in (("start", self.start), ("stop", self.stop), ("step", self.step)):
            if len(numbers) != len(self.input_shape):
                raise SpecError(f"{what} {numbers} is not one number for each of {len(self.input_shape)} axes")
        if 0 in self.step:
            raise SpecError(f"step {self.step} holds 0")
        for axis, (kept, size) in enumerate(zip(self.positions, self.input_shape, strict=True)):
            if not kept or max(kept[0], kept[-1]) >= size:
                raise SpecError(f"positions {list(kept[:3])}... of axis {axis} are none, or beyond its {size}")
        check_volume("input_shape", self.input_shape)

    @property
    def positions(self) -> tuple[range, ...]:
        """What is kept along each axis, in order."""
        return tuple(range(*ends) for ends in zip(self.start, self.stop, self.step, strict=True))

    @property
    def kept(self) -> tuple[slice, ...]:
        """The same for numpy, where a stop of -1 would mean the last."""
        ends = zip(self.start, self.stop, self.step, strict=True)
        return tuple(slice(start, None if stop < 0 else stop, step) for start, stop, step in ends)

    @property
    def widths(self) -> tuple[int, ...]:
        return (math.prod(self.input_shape),)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(kept) for kept in self.positions)


class Take(Move, tag="take", frozen=True, kw_only=True):
    """Along `axis` the positions that `<name>.index` lists, int32 (count,): some may come twice, others not at all."""

    input_shape: Shape
    axis: Annotated[int, Meta(ge=0, le=7)]
    count: Count

    def __post_init__(self) -> None:
        if self.axis >= len(self.input_shape):
            raise SpecError(f"axis {self.axis} is outside [0, {len(self.input_shape) - 1}]")
        check_volume("input_shape", self.input_shape)
        check_volume("shape", self.shape)

    @property
    def widths(self) -> tuple[int, ...]:
        return (math.prod(self.input_shape),)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.input_shape[: self.axis], self.count, *self.input_shape[self.axis + 1 :])

    def fields(self) -> tuple[Field, ...]:
        return (Field("index", "int32", (self.count,), 0, self.input_shape[self.axis] - 1),)
