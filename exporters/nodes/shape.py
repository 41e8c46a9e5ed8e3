"""Layers that move values and change none: joining, turning, padding, cutting, taking."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np

from edgerun.arrays import F32
from edgerun.errors import ModelError
from edgerun.layers import Concat, LayerRecord, Lookup, Pad, Slice, Take, Transpose
from exporters.nodes.base import Affine, FloatLayer, Quantised, Range
from exporters.nodes.elementwise import rescale

Shape: TypeAlias = tuple[int, ...]


def align(node: FloatLayer, shapes: Sequence[Shape], maps: Sequence[Affine], y: Affine) -> tuple[Quantised, ...]:
    """A table layer `<name>.in<k>` for each source k whose map is not y; empty where all agree.

    Raises ModelError where such a source has no name.
    """
    others = [k for k, map_ in enumerate(maps) if map_ != y]
    if others and len(node.sources) != len(shapes):
        raise ModelError(
            f"layer {node.name}: {len(node.sources)} sources are named, {len(shapes)} are needed to rescale"
        )
    return tuple(rescale(f"{node.name}.in{k}", node.sources[k], shapes[k], maps[k], y) for k in others)


def rewired(node: FloatLayer, helpers: tuple[Quantised, ...]) -> tuple[str, ...]:
    """The sources of a node, each helper in place of what it reads."""
    names = {helper.layer.name for helper in helpers}
    found = []
    for k, source in enumerate(node.sources):
        helper = f"{node.name}.in{k}"
        found.append(helper if helper in names else source)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class FloatConcat(FloatLayer):
    """The sources side by side along `axis` (from 0, the batch not counted); all other axes agree."""

    shapes: tuple[Shape, ...]
    axis: int

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Concat, Lookup)

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

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """One map for all: the file's, else the widest of the sources' where it covers the reach, else the reach's.

        A source with another map gets a table layer `<name>.in<k>` before it.
        """
        widest = max(sources, key=lambda map_: map_.scale)
        y = self.output or (widest if covers(widest, reach) else reach.affine())
        helpers = align(self, self.shapes, sources, y)
        layer = Concat(name=self.name, sources=rewired(self, helpers), shapes=self.shapes, axis=self.axis)
        return (*helpers, Quantised(layer, {}, y))


def covers(map_: Affine, reach: Range) -> bool:
    """Whether no value of the reach clips by more than half a step."""
    low, high = ((end - map_.zero_point) * map_.scale for end in (-128.5, 127.5))
    return low <= reach.low and reach.high <= high


@dataclass(frozen=True, slots=True)
class FloatTranspose(FloatLayer):
    """y's axis k is x's axis perm[k]; axes from 0, the batch not counted."""

    input_shape: Shape
    perm: tuple[int, ...]

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Transpose, Lookup)

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

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """The source's map stays, unless the file fixes another: then a table layer `<name>.in0` comes first."""
        y = self.output or sources[0]
        helpers = align(self, (self.input_shape,), sources, y)
        layer = Transpose(
            name=self.name,
            sources=rewired(self, helpers),
            input_shape=self.input_shape,
            perm=self.perm,
        )
        return (*helpers, Quantised(layer, {}, y))


@dataclass(frozen=True, slots=True)
class FloatPad(FloatLayer):
    """`before` and `after` copies of `value` along each axis."""

    input_shape: Shape
    before: tuple[int, ...]
    after: tuple[int, ...]
    value: float = 0.0

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Pad, Lookup)

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

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """The source's map stays, unless the file fixes another: then a table layer `<name>.in0` comes first.

        Infinities become the map's ends. Raises ModelError where a finite value lies beyond them.
        """
        y = self.output or sources[0]
        if math.isfinite(self.value) and not covers(y, Range(min(self.value, 0.0), max(self.value, 0.0))):
            ends = ", ".join(f"{(end - y.zero_point) * y.scale:.4g}" for end in (-128, 127))
            raise ModelError(
                f"layer {self.name}: pad value {self.value:.4g} is outside [{ends}], what its source can hold"
            )
        helpers = align(self, (self.input_shape,), sources, y)
        layer = Pad(
            name=self.name,
            sources=rewired(self, helpers),
            input_shape=self.input_shape,
            before=self.before,
            after=self.after,
            value=y.integer(self.value),
        )
        return (*helpers, Quantised(layer, {}, y))


@dataclass(frozen=True, slots=True)
class FloatSlice(FloatLayer):
    """Along each axis the positions range(start, stop, step), as `slice(...).indices(size)` gives them.

    All are real positions: with a negative step a stop of -1 lies before the first.
    """

    input_shape: Shape
    start: tuple[int, ...]
    stop: tuple[int, ...]
    step: tuple[int, ...]

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Slice, Lookup)

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

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """The source's map stays, unless the file fixes another: then a table layer `<name>.in0` comes first."""
        y = self.output or sources[0]
        helpers = align(self, (self.input_shape,), sources, y)
        layer = Slice(
            name=self.name,
            sources=rewired(self, helpers),
            input_shape=self.input_shape,
            start=self.start,
            stop=self.stop,
            step=self.step,
        )
        return (*helpers, Quantised(layer, {}, y))


@dataclass(frozen=True, slots=True)
class FloatTake(FloatLayer):
    """Along `axis` (from 0, the batch not counted) the positions of `index`, each from 0."""

    input_shape: Shape
    axis: int
    index: tuple[int, ...]

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Take, Lookup)

    def __post_init__(self) -> None:
        if not 0 <= self.axis < len(self.input_shape):
            raise ModelError(f"layer {self.name}: axis {self.axis} is outside [0, {len(self.input_shape) - 1}]")
        size = self.input_shape[self.axis]
        if not self.index or min(self.index) < 0 or max(self.index) >= size:
            raise ModelError(f"layer {self.name}: takes nothing, or what is beyond axis {self.axis} of {size}")

    @property
    def widths(self) -> tuple[int, ...]:
        return (math.prod(self.input_shape),)

    @property
    def shape(self) -> Shape:
        return (*self.input_shape[: self.axis], len(self.index), *self.input_shape[self.axis + 1 :])

    def forward(self, *sources: F32) -> F32:
        x = sources[0].reshape(-1, *self.input_shape)
        return x.take(self.index, axis=self.axis + 1).reshape(len(x), -1)

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """The source's map stays, unless the file fixes another: then a table layer `<name>.in0` comes first."""
        y = self.output or sources[0]
        helpers = align(self, (self.input_shape,), sources, y)
        layer = Take(
            name=self.name,
            sources=rewired(self, helpers),
            input_shape=self.input_shape,
            axis=self.axis,
            count=len(self.index),
        )
        return (*helpers, Quantised(layer, {f"{self.name}.index": np.array(self.index, np.int32)}, y))
