"""What an import leaves to tidy: moves that cancel, functions written out in many nodes, layers that nobody reads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from edgerun.arrays import F64, I64
from edgerun.errors import ModelError
from exporters.nodes import (
    UNARY,
    FloatAdd,
    FloatDense,
    FloatLayer,
    FloatMul,
    FloatSlice,
    FloatTranspose,
    FloatUnary,
)
from exporters.nodes.recurrent import FloatRecurrent

Layers: TypeAlias = dict[str, FloatLayer]

DEPTH: Final = 10
"""Layers in the longest written-out function that is looked for."""

NEAR: Final = 181
PROBES: Final[F64] = np.concatenate([np.linspace(-9, 9, NEAR), [-1e4, -1e3, -64.0, -20.5, 20.5, 64.0, 1e3, 1e4]])
CLOSE, CLOSE_SHARE = 2e-6, 1e-5


def simplified(layers: Mapping[str, FloatLayer], answer: str) -> tuple[FloatLayer, ...]:
    """The same function in fewer layers, in running order; `answer` is the last one."""
    found: Layers = {}
    instead: dict[str, str] = {}
    readers = count_readers(layers)
    for layer in layers.values():
        layer = replace(layer, sources=tuple(instead.get(source, source) for source in layer.sources))
        layer = absorbed(found, one_function(found, layer))
        same = passed_on(found, layer, readers)
        if same is None:
            found[layer.name] = layer
        else:
            instead[layer.name] = same
    return tuple(needed(found, instead.get(answer, answer)))


def needed(layers: Layers, answer: str) -> Iterator[FloatLayer]:
    """What `answer` reads, directly or not, and itself."""
    wanted = {answer}
    for layer in reversed(layers.values()):
        if layer.name in wanted:
            wanted.update(layer.sources)
    return (layer for layer in layers.values() if layer.name in wanted)


def count_readers(layers: Mapping[str, FloatLayer]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for layer in layers.values():
        for source in layer.sources:
            counts[source] = counts.get(source, 0) + 1
    return counts


def passed_on(found: Layers, layer: FloatLayer, readers: Mapping[str, int]) -> str | None:
    """The name of an earlier layer that gives the same values; a recurrent one may stop giving every step for it."""
    if layer.output is not None or not layer.sources:
        return None
    source = layer.sources[0]
    before = found.get(source)
    if isinstance(layer, FloatUnary) and layer.function == "identity":
        return source
    if isinstance(layer, FloatTranspose) and unmoved(layer.input_shape, layer.perm):
        return source
    if isinstance(layer, FloatSlice) and isinstance(before, FloatRecurrent) and readers[source] == 1:
        last = 0 if before.reverse else before.steps - 1
        whole = layer.input_shape == (before.steps, before.hidden) and layer.stop[1] - layer.start[1] == before.hidden
        if before.sequence and whole and layer.positions()[0] == range(last, last + 1) and layer.step[1] == 1:
            found[source] = replace(before, sequence=False)
            return source
    return None


def unmoved(shape: tuple[int, ...], perm: tuple[int, ...]) -> bool:
    """Whether axes change places with axes of size 1 only."""
    kept = [axis for axis in perm if shape[axis] != 1]
    return kept == sorted(kept)


def moves(layer: FloatTranspose) -> I64:
    """Where each output value stands in the input."""
    return np.arange(layer.outputs).reshape(layer.input_shape).transpose(layer.perm).reshape(-1)


def absorbed(found: Layers, layer: FloatLayer) -> FloatLayer:
    """A dense layer reads in front of a transpose, its columns moved instead; two transposes become one."""
    before = found.get(layer.sources[0]) if layer.sources else None
    if not isinstance(before, FloatTranspose) or before.output is not None:
        return layer
    if isinstance(layer, FloatDense):
        weight = np.empty_like(layer.weight)
        weight[:, moves(before)] = layer.weight
        return replace(layer, weight=weight, sources=before.sources)
    if isinstance(layer, FloatTranspose) and (groups := grouped(strided(before), layer.input_shape)) is not None:
        axes = merged([axis for k in layer.perm for axis in groups[k]])
        shape = tuple(axis.size for axis in sorted(axes, key=lambda axis: -axis.stride))
        perm = tuple(sorted(axes, key=lambda axis: -axis.stride).index(axis) for axis in axes)
        return replace(layer, input_shape=shape, perm=perm, sources=before.sources)
    return layer


class Axis(NamedTuple):
    """One axis of a transposed value: how many, and how far apart in the vector that is read."""

    size: int
    stride: int


def strided(layer: FloatTranspose) -> list[Axis]:
    """The output's axes, outermost first."""
    strides = [math.prod(layer.input_shape[axis + 1 :]) for axis in range(len(layer.input_shape))]
    return [Axis(layer.input_shape[axis], strides[axis]) for axis in layer.perm]


def grouped(axes: list[Axis], shape: tuple[int, ...]) -> list[list[Axis]] | None:
    """The same axes, cut so that each group is one axis of `shape`; None where they cannot be."""
    rest, groups = axes[::-1], []
    for size in shape:
        group = []
        while size > 1:
            axis = rest.pop()
            if max(size, axis.size) % min(size, axis.size):
                return None
            if axis.size > size:
                inner = axis.size // size
                rest.append(Axis(inner, axis.stride))
                axis = Axis(size, axis.stride * inner)
            group.append(axis)
            size //= axis.size
        groups.append(group)
    return groups


def merged(axes: list[Axis]) -> list[Axis]:
    """Axes that lie one inside the other as one, those of size 1 left out."""
    found = [Axis(1, 0)]
    for axis in axes:
        if axis.size == 1:
            continue
        if found[-1].stride == axis.size * axis.stride:
            axis = Axis(found.pop().size * axis.size, axis.stride)
        found.append(axis)
    return found[1:] or [Axis(1, 1)]


# ------------------------------------------------------------------ functions in many nodes


def one_function(found: Layers, layer: FloatLayer) -> FloatLayer:
    """A single named function where several layers compute one, x * sigmoid(x) for example: the longest that is known.

    Found by trying: the layers and each function of `UNARY` are evaluated at the same points.
    """
    if not isinstance(layer, FloatUnary | FloatMul | FloatAdd):
        return layer
    cone = behind(found, layer)
    trivial = layer.sources if isinstance(layer, FloatUnary) else ()
    for root in dict.fromkeys(source for inner in cone for source in inner.sources):
        y = None if root in trivial else evaluated(cone, root)
        if y is not None and (name := named(y)) is not None:
            return FloatUnary(layer.name, layer.shape, name, sources=(root,), output=layer.output)
    return layer


def behind(found: Layers, layer: FloatLayer) -> list[FloatLayer]:
    """The layers before one that compute value by value, the farthest first, and the layer itself."""
    order: dict[str, FloatLayer] = {}
    seen: set[str] = set()

    def visit(name: str, depth: int) -> None:
        inner = found.get(name)
        if name in seen or inner is None or not depth or not single_valued(inner, layer.outputs):
            return
        seen.add(name)
        for source in inner.sources:
            visit(source, depth - 1)
        order[name] = inner

    for source in layer.sources:
        visit(source, DEPTH)
    return [*order.values(), layer]


def single_valued(layer: FloatLayer, outputs: int) -> bool:
    """Whether it computes value by value, without a rounding that the file fixes."""
    if layer.output is not None:
        return False
    if isinstance(layer, FloatUnary):
        return layer.outputs == outputs
    return isinstance(layer, FloatMul | FloatAdd) and layer.shapes[0] == layer.shapes[1] and layer.outputs == outputs


def evaluated(cone: Sequence[FloatLayer], root: str) -> F64 | None:
    """The last of these layers at `PROBES` as a function of `root`; None where it is not one."""
    values = {root: PROBES}
    for layer in cone:
        if layer.name != root and all(source in values for source in layer.sources):
            values[layer.name] = applied(layer, *(values[source] for source in layer.sources))
    last = cone[-1]
    square = not isinstance(last, FloatMul | FloatAdd) or last.shapes[0] == last.shapes[1]
    return values.get(last.name) if square else None


def applied(layer: FloatLayer, *x: F64) -> F64:
    """An elementwise layer in float64."""
    with np.errstate(all="ignore"):
        match layer:
            case FloatMul():
                return np.asarray(np.clip(x[0] * x[1], layer.low, layer.high))
            case FloatAdd():
                return np.asarray(np.clip(layer.signs[0] * x[0] + layer.signs[1] * x[1], layer.low, layer.high))
            case FloatUnary():
                return layer.value(x[0])
    raise ModelError(f"layer {layer.name} does not compute value by value")


def named(y: F64) -> str | None:
    """The function of `UNARY` that has these values at `PROBES`, with its default parameters."""
    sound = np.isfinite(y)
    if not sound[:NEAR].all():
        return None
    names, known = known_functions()
    with np.errstate(invalid="ignore"):
        apart = np.abs(known - y) > CLOSE + CLOSE_SHARE * np.abs(known)
    alike = ~(apart | ~np.isfinite(known))[:, sound].any(axis=1)
    return names[int(alike.argmax())] if alike.any() else None


@cache
def known_functions() -> tuple[tuple[str, ...], F64]:
    """The names of `UNARY`, and what each gives at `PROBES` with its default parameters."""
    with np.errstate(all="ignore"):
        values = [np.asarray(unary.function(PROBES, *unary.defaults), np.float64) for unary in UNARY.values()]
    return tuple(UNARY), np.stack(values)
