"""What an import has found so far: constants, values and how they lie, and the float layers that make them.

The batch is one sample, so its axis is an axis of size 1 like any other. A value keeps the shape that the file gives it
and says in which order its axes lie in the flat vector between layers: a transpose is then a view, and values are moved
only where an operator needs them to lie in another order.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import numpy as np

from edgerun.arrays import F64, AnyArray
from edgerun.errors import ModelError
from exporters.nodes import Affine, FloatLayer, FloatTranspose

Shape: TypeAlias = tuple[int, ...]

VALUES_MAX: Final = 1 << 24
"""Values in one tensor between layers."""


EFFORT: Final = 1 << 28


class Unsupported(Exception):
    """One node that has no counterpart here; collected, so that one message can list all."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the file, read once. `version` is the opset of its domain."""

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    info: Mapping[str, Any]
    version: int

    def integer(self, name: str, default: int) -> int:
        return int(self._typed(name, default, int))

    def real(self, name: str, default: float) -> float:
        return float(self._typed(name, default, (int, float)))

    def text(self, name: str, default: str) -> str:
        return str(self._typed(name, default.encode(), bytes).decode("utf-8", "replace"))

    def integers(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...] | None:
        found = self.info.get(name, default)
        if found is not None and not (isinstance(found, Sequence) and all(isinstance(n, int) for n in found)):
            raise Unsupported(f"{name} is no list of whole numbers")
        return None if found is None else tuple(found)

    def _typed(self, name: str, default: Any, kind: Any) -> Any:
        found = self.info.get(name, default)
        if not isinstance(found, kind):
            raise Unsupported(f"{name} is {type(found).__name__}")
        return found

    def has(self, k: int) -> bool:
        return k < len(self.inputs) and bool(self.inputs[k])


@dataclass(frozen=True, slots=True)
class Value:
    """What a layer gives, as the file sees it.

    source    the layer, or "input"
    shape     as in the file, the batch being 1
    lies      its axes from the outermost to the innermost of the flat vector; where an axis of size 1 stands is moot
    alone     whether nothing else reads the layer, so that what follows may be folded into it
    affine    what one of its integers stands for, where the file fixes it
    integers  whether the file holds it as integers here, between QuantizeLinear and DequantizeLinear
    """

    source: str
    shape: Shape
    lies: Shape
    alone: bool = True
    affine: Affine | None = None
    integers: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def physical(self) -> Shape:
        """The shape in which the flat vector lies, without axes of size 1."""
        return tuple(self.shape[axis] for axis in self.order) or (1,)

    @property
    def order(self) -> Shape:
        """`lies`, without axes of size 1."""
        return tuple(axis for axis in self.lies if self.shape[axis] != 1)

    def axis(self, axis: int) -> int:
        """An axis counted from the front. Raises Unsupported where there is none."""
        if not -len(self.shape) <= axis < len(self.shape):
            raise Unsupported(f"axis {axis} of a value with {len(self.shape)} dimensions")
        return axis % len(self.shape)

    def ranked(self, rank: int) -> Value:
        """The same with leading axes of size 1, as broadcasting puts them."""
        more = rank - len(self.shape)
        lies = (*range(more), *(axis + more for axis in self.lies))
        return replace(self, shape=(1,) * more + self.shape, lies=lies)

    def turned(self, perm: Sequence[int]) -> Value:
        """Transposed: axis k of the result is axis perm[k]."""
        if sorted(perm) != list(range(len(self.shape))):
            raise Unsupported(f"perm {tuple(perm)} of a value with {len(self.shape)} dimensions")
        lies = tuple(list(perm).index(axis) for axis in self.lies)
        return replace(self, shape=tuple(self.shape[axis] for axis in perm), lies=lies)


def natural(shape: Sequence[int]) -> Shape:
    return tuple(range(len(shape)))


@dataclass(slots=True)
class Graph:
    """The state of one import.

    constants  arrays by tensor name     steps    what one integer of a dequantised constant stands for, same rank
    values     by tensor name            parts    sequences of values, by name
    layers     by name, in running order, each with its sources
    readers    nodes that read a tensor; the answer is read once more
    makers     the node that makes a tensor
    input      the quantisation of the input, where the file fixes it, and `offset` if its integers are uint8
    room       how many values folded constants may still take
    effort     over how many values constants may still be spread
    turned     the transpose layers, by source, shape and perm
    counts     how often a stem has been numbered
    answer     the tensor that the import ends in
    """

    readers: Mapping[str, Sequence[Node]]
    makers: Mapping[str, Node]
    answer: str
    room: int
    constants: dict[str, AnyArray] = field(default_factory=dict)
    steps: dict[str, F64] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    parts: dict[str, tuple[Value, ...]] = field(default_factory=dict)
    layers: dict[str, FloatLayer] = field(default_factory=dict)
    input: Affine | None = None
    offset: int = 0
    effort: int = EFFORT
    turned: dict[tuple[str, Shape, Shape], str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def take(self, size: int) -> None:
        """Note what a folded constant needs. Raises Unsupported where that is out of proportion to the file."""
        self.room -= max(size, 0)
        if self.room < 0:
            raise Unsupported(f"makes {size} constant values, too many for this file")

    def spread(self, array: AnyArray, value: Value) -> F64:
        """A constant broadcast over a value and laid as the value lies, flat; one number where all are the same.

        Raises Unsupported where broadcasting makes more values of it, or where all that was spread so far is too much.
        """
        shape = np.broadcast_shapes(array.shape, value.shape)
        if shape != value.shape:
            raise Unsupported(f"a constant of shape {array.shape} makes more of a value of shape {value.shape}")
        real = array.astype(np.float64)
        if real.size == 1:
            return real.reshape(-1)
        self.effort -= value.size
        if self.effort < 0:
            raise Unsupported(f"takes constants for {value.size} values, more than an import works on")
        laid = np.broadcast_to(real, shape).transpose(value.lies).reshape(-1)
        return laid[:1] if (laid == laid[0]).all() else laid

    def constant(self, node: Node, k: int) -> AnyArray:
        if not node.has(k):
            raise Unsupported(f"lacks input {k}")
        if node.inputs[k] not in self.constants:
            raise Unsupported(f"takes a value as input {k}, where a constant is needed")
        return self.constants[node.inputs[k]]

    def maybe(self, node: Node, k: int) -> AnyArray | None:
        """A constant that may be missing."""
        return self.constant(node, k) if node.has(k) else None

    def numbers(self, node: Node, k: int, name: str) -> tuple[int, ...] | None:
        """Whole numbers that newer opsets give as input k, and older ones as an attribute."""
        if not node.has(k):
            return node.integers(name)
        return tuple(int(n) for n in self.constant(node, k).reshape(-1))

    def held(self, node: Node, k: int = 0) -> Value:
        """A value, be it integers in the file or not: for what only moves or compares."""
        if not node.has(k):
            raise Unsupported(f"lacks input {k}")
        if node.inputs[k] not in self.values:
            raise Unsupported(f"takes a constant as input {k}, where a value is needed")
        return self.values[node.inputs[k]]

    def value(self, node: Node, k: int = 0) -> Value:
        """A value of real numbers."""
        found = self.held(node, k)
        if found.integers:
            raise Unsupported(f"computes with the integers of {node.inputs[k]!r}")
        return found

    def is_value(self, node: Node, k: int) -> bool:
        return node.has(k) and node.inputs[k] in self.values

    def name(self, node: Node, tensor: str = "") -> str:
        """A layer name from its weight's name, else the node's: letters, digits, dots and dashes, never twice."""
        for text in (tensor.removesuffix(".weight"), node.name):
            stem = "" if "::" in text else plain(text)
            stem = node.op.lower() + stem if stem.isdigit() else stem
            if stem and stem not in self.layers:
                return stem
        return self.fresh(plain(node.op.lower()) or "layer")

    def fresh(self, stem: str) -> str:
        """The stem and the next free number."""
        while True:
            self.counts[stem] = self.counts.get(stem, 0) + 1
            if (name := f"{stem}{self.counts[stem]}") not in self.layers:
                return name

    def add(self, layer: FloatLayer, shape: Shape, lies: Shape | None = None) -> Value:
        """The value that a new layer gives."""
        if max(layer.outputs, *layer.widths) > VALUES_MAX:
            raise Unsupported(f"gives {layer.outputs} values, the limit is {VALUES_MAX}")
        if layer.outputs != math.prod(shape):
            raise Unsupported(f"gives {layer.outputs} values where {shape} is expected")
        self.layers[layer.name] = layer
        return Value(layer.name, tuple(shape), natural(shape) if lies is None else tuple(lies))

    def arranged(self, value: Value, lies: Sequence[int]) -> Value:
        """The same value, lying in this order; moved by a layer of its own where it does not yet."""
        wanted = replace(value, lies=tuple(lies))
        if wanted.order == value.order:
            return wanted
        perm = tuple(value.order.index(axis) for axis in wanted.order)
        key = (value.source, value.physical, perm)
        if key not in self.turned:
            name = self.turned[key] = self.fresh("transpose")
            self.layers[name] = FloatTranspose(name, value.physical, perm, sources=(value.source,))
        return replace(wanted, source=self.turned[key], alone=False)

    def plainly(self, value: Value) -> Value:
        """The same value, lying as the file says."""
        return self.arranged(value, natural(value.shape))


def plain(text: str) -> str:
    """What of a text a layer name may hold, its path and its end rather than its beginning."""
    parts = [part for part in text.split("/") if part]
    return re.sub(r"[^A-Za-z0-9_.-]", "", ".".join(parts).removeprefix("node_"))[-48:].strip(".-")


def shared(value: Value) -> Value:
    return replace(value, alone=False)


def reshaped(graph: Graph, value: Value, shape: Sequence[int]) -> Value:
    """The same values in another shape: a view where they lie so, else moved first."""
    if math.prod(shape) != value.size:
        raise Unsupported(f"shape {value.shape} to {tuple(shape)}")
    lies = view(value, shape)
    if lies is None:
        value, lies = graph.plainly(value), natural(shape)
    return replace(value, shape=tuple(shape), lies=lies)


def view(value: Value, shape: Sequence[int]) -> Shape | None:
    """In which order the axes of another shape lie in the same flat vector; None where no order does.

    Axes are taken in groups of equal size; within a group the old ones must lie one behind the other.
    """
    strides = strides_of(value)
    old = [(n, strides[axis]) for axis, n in enumerate(value.shape) if n != 1]
    new = [(n, axis) for axis, n in enumerate(shape) if n != 1]
    found = dict.fromkeys(range(len(shape)), 0)
    while new:
        left, right = [old.pop(0)], [new.pop(0)]
        while (a := math.prod(n for n, _ in left)) != (b := math.prod(n for n, _ in right)):
            (left if a < b else right).append((old if a < b else new).pop(0))
        if any(s != n * t for (_, s), (n, t) in itertools.pairwise(left)):
            return None
        stride = left[-1][1]
        for n, axis in reversed(right):
            found[axis] = stride
            stride *= n
    return tuple(sorted(found, key=lambda axis: -found[axis]))


def strides_of(value: Value) -> dict[int, int]:
    strides, stride = {}, 1
    for axis in reversed(value.lies):
        strides[axis] = stride
        stride *= value.shape[axis]
    return strides


def checked_shape(shape: Sequence[int]) -> Shape:
    """Raises ModelError where a shape holds no value, or too many."""
    if any(n < 1 for n in shape) or math.prod(shape) > VALUES_MAX:
        raise ModelError(f"shape {tuple(shape)} is not of 1 to {VALUES_MAX} values")
    return tuple(shape)
