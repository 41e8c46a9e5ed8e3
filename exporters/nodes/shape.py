"""Layers that move values and change none: joining, turning, padding, cutting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from edgerun.arrays import F32
from edgerun.errors import ModelError
from exporters.nodes.base import FloatLayer

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FloatConcat(FloatLayer):
    """The sources side by side along `axis` (from 0, the batch not counted); all other axes agree."""

    shapes: tuple[Shape, ...]
    axis: int

    def __post_init__(self) -> None:
        others = {(len(shape), *shape[: self.axis], *shape[self.axis + 1 :]) for shape in self.shapes}
        if len(others) == 1 and not 0 <= self.axis < len(self.shapes[0]):
            raise ModelError(f"layer {self.name}: axis {self.axis} is outside [0, {len(self.shapes[0]) - 1}]")
        if len(others) != 1:
            raise ModelError(f"layer {self.name}: shapes {self.shapes} differ beside axis {self.axis}")

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def shape(self) -> Shape:
        first, axis = self.shapes[0], self.axis
        return (*first[:axis], sum(shape[axis] for shape in self.shapes), *first[axis + 1 :])

    def forward(self, *sources: F32) -> F32:
        parts = [x.reshape(-1, *shape) for x, shape in zip(sources, self.shapes, strict=True)]
        return np.concatenate(parts, axis=self.axis + 1).reshape(len(parts[0]), -1)


@dataclass(frozen=True, slots=True)
class FloatTranspose(FloatLayer):
    """y's axis k is x's axis perm[k]; axes from 0, the batch not counted."""

    input_shape: Shape
    perm: tuple[int, ...]

    def __post_init__(self) -> None:
        if sorted(self.perm) != list(range(len(self.input_shape))):
            raise ModelError(f"layer {self.name}: perm {self.perm} does not order {len(self.input_shape)} axes")

    @property
    def widths(self) -> tuple[int, ...]:
        return (math.prod(self.input_shape),)

    @property
    def shape(self) -> Shape:
        return tuple(self.input_shape[axis] for axis in self.perm)

    def forward(self, *sources: F32) -> F32:
        x = sources[0].reshape(-1, *self.input_shape)
        return x.transpose(0, *(axis + 1 for axis in self.perm)).reshape(len(x), -1)


@dataclass(frozen=True, slots=True)
class FloatPad(FloatLayer):
    """`before` and `after` copies of `value` along each axis."""

    input_shape: Shape
    before: tuple[int, ...]
    after: tuple[int, ...]
    value: float = 0.0

    def __post_init__(self) -> None:
        for what, sides in (("before", self.before), ("after", self.after)):
            if len(sides) != len(self.input_shape) or min(sides) < 0:
                raise ModelError(
                    f"layer {self.name}: {what} {sides} is not {len(self.input_shape)} numbers from 0; "
                    "a negative one is a slice"
                )

    @property
    def widths(self) -> tuple[int, ...]:
        return (math.prod(self.input_shape),)

    @property
    def shape(self) -> Shape:
        return tuple(a + n + b for a, n, b in zip(self.before, self.input_shape, self.after, strict=True))

    def forward(self, *sources: F32) -> F32:
        x = sources[0].reshape(-1, *self.input_shape)
        sides = ((0, 0), *zip(self.before, self.after, strict=True))
        return np.pad(x, sides, constant_values=self.value).reshape(len(x), -1)


@dataclass(frozen=True, slots=True)
class FloatSlice(FloatLayer):
    """Along each axis the positions range(start, stop, step), as `slice(...).indices(size)` gives them.

    All are real positions: with a negative step a stop of -1 lies before the first.
    """

    input_shape: Shape
    start: tuple[int, ...]
    stop: tuple[int, ...]
    step: tuple[int, ...]

    def __post_init__(self) -> None:
        axes = len(self.input_shape)
        for what, numbers in (("start", self.start), ("stop", self.stop), ("step", self.step)):
            if len(numbers) != axes:
                raise ModelError(f"layer {self.name}: {what} {numbers} is not one number for each of {axes} axes")
        if 0 in self.step:
            raise ModelError(f"layer {self.name}: step {self.step} holds 0")
        for axis, (kept, size) in enumerate(zip(self.positions(), self.input_shape, strict=True)):
            if not kept or not (0 <= kept[0] < size and 0 <= kept[-1] < size):
                raise ModelError(f"layer {self.name}: {kept} keeps nothing, or leaves axis {axis} of {size}")

    def positions(self) -> tuple[range, ...]:
        """What is kept along each axis, in order."""
        return tuple(range(*ends) for ends in zip(self.start, self.stop, self.step, strict=True))

    @property
    def widths(self) -> tuple[int, ...]:
        return (math.prod(self.input_shape),)

    @property
    def shape(self) -> Shape:
        return tuple(len(kept) for kept in self.positions())

    def forward(self, *sources: F32) -> F32:
        x = sources[0].reshape(-1, *self.input_shape)
        for axis, kept in enumerate(self.positions()):
            x = x.take(kept, axis=axis + 1)
        return x.reshape(len(x), -1)
