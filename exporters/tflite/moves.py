"""Operators that move values and compute nothing: reshaping, turning, joining, padding, cutting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from exporters.nodes import FloatConcat, FloatLstm, FloatPad, FloatSlice, FloatTake, FloatTranspose
from exporters.nodes.conv import Filters
from exporters.tflite.graph import (
    FLOATS,
    VALUES_MAX,
    Blocks,
    Graph,
    Operator,
    Shape,
    Unsupported,
    Value,
    moved,
    reread,
)
from exporters.tflite.slices import bounds
from exporters.tflite_reader import TfliteOp

JOINED_MAX: Final = 64
"""Sources of one concatenation."""


# ------------------------------------------------------------------ shapes


def reshaped(value: Value, shape: Sequence[int]) -> Value:
    if math.prod(shape) != value.size:
        raise Unsupported(f"makes {tuple(shape)} of a value of shape {value.shape}")
    return replace(value, shape=tuple(shape))


def reshape(graph: Graph, op: TfliteOp) -> Value:
    x = graph.value(op, blocks=True)
    moved(graph, op, x)
    target = list(graph.integers(op, 1) if graph.has(op, 1) else op.options["new_shape"])
    if target.count(-1) == 1:
        rest = math.prod(n for n in target if n != -1)
        target[target.index(-1)] = x.size // rest if rest > 0 else 0
    if min(target, default=1) < 1:
        raise Unsupported(f"makes {tuple(target)} of a value of shape {x.shape}")
    return reshaped(x, target)


def expand_dims(graph: Graph, op: TfliteOp) -> Value:
    x, axis = graph.value(op, blocks=True), graph.integer(op, 1)
    moved(graph, op, x)
    rank = len(x.shape) + 1
    if not -rank <= axis < rank:
        raise Unsupported(f"axis {axis} of a value with {rank} dimensions")
    place = axis % rank
    return reshaped(x, (*x.shape[:place], 1, *x.shape[place:]))


def squeeze(graph: Graph, op: TfliteOp) -> Value:
    x = graph.value(op, blocks=True)
    moved(graph, op, x)
    axes = {x.axis(axis) for axis in op.options["squeeze_dims"]} or {a for a, n in enumerate(x.shape) if n == 1}
    if any(x.shape[axis] != 1 for axis in axes):
        raise Unsupported(f"takes axes {sorted(axes)} from a value of shape {x.shape}")
    return reshaped(x, [n for axis, n in enumerate(x.shape) if axis not in axes])


def view(graph: Graph, op: TfliteOp) -> Value:
    """A cast between kinds of floats."""
    x = graph.value(op)
    if graph.model.writes(op)[0].dtype not in FLOATS or x.affine is not None:
        raise Unsupported("from or to a type that is no float")
    return x


# ------------------------------------------------------------------ turning, padding, cutting


def turned(graph: Graph, op: TfliteOp, x: Value, perm: Sequence[int]) -> Value:
    """Axis k of the result is axis perm[k]; axes of size 1 cost nothing."""
    if sorted(perm) != list(range(len(x.shape))):
        raise Unsupported(f"perm {tuple(perm)} of a value with {len(x.shape)} dimensions")
    shape = tuple(x.shape[axis] for axis in perm)
    wide = [axis for axis, n in enumerate(x.shape) if n != 1]
    order = tuple(wide.index(axis) for axis in perm if x.shape[axis] != 1)
    if list(order) == sorted(order):
        return replace(x, shape=shape)
    layer = FloatTranspose(
        graph.name(op), tuple(x.shape[axis] for axis in wide), order, sources=(x.source,), output=x.affine
    )
    return graph.add(layer, shape)


def transpose(graph: Graph, op: TfliteOp) -> Value:
    x = graph.value(op)
    moved(graph, op, x)
    return turned(graph, op, x, graph.integers(op, 1))


def pad(graph: Graph, op: TfliteOp) -> Value:
    x, sides = graph.value(op), graph.integers(op, 1)
    moved(graph, op, x)
    value = 0.0
    if graph.has(op, 2):
        fill = graph.constant(op, 2)
        if fill.array.size != 1:
            raise Unsupported(f"pads with {fill.array.size} values")
        value = float(fill.real.reshape(()))
    before, after = sides[::2], sides[1::2]
    if len(sides) != 2 * len(x.shape) or min(sides, default=0) < 0 or max(sides, default=0) > VALUES_MAX:
        raise Unsupported(f"pads by {sides} a value of shape {x.shape}")
    shape = tuple(b + n + a for b, n, a in zip(before, x.shape, after, strict=True))
    if shape == x.shape:
        return x
    layer = FloatPad(graph.name(op), x.shape, before, after, value, sources=(x.source,), output=x.affine)
    return graph.add(layer, shape)


def cut(graph: Graph, op: TfliteOp, x: Value, cuts: Sequence[range], shape: Shape) -> Value:
    """The positions kept along each axis, in `shape`."""
    if all(kept == range(n) for kept, n in zip(cuts, x.shape, strict=True)):
        return replace(x, shape=shape)
    lstm = graph.layers.get(x.source)
    if isinstance(lstm, FloatLstm) and x.alone and lstm.sequence and (lstm.steps, lstm.hidden) == x.shape[-2:]:
        steps, units = cuts[-2:]
        if (steps, units) == (range(lstm.steps - 1, lstm.steps), range(lstm.hidden)) and x.rows == lstm.steps:
            graph.layers[x.source] = replace(lstm, sequence=False)
            return replace(x, shape=shape)
    ends = [tuple(getattr(kept, word) for kept in cuts) for word in ("start", "stop", "step")]
    layer = FloatSlice(graph.name(op), x.shape, *ends, sources=(x.source,), output=x.affine)
    return graph.add(layer, shape)


def strided_slice(graph: Graph, op: TfliteOp) -> Value:
    x = graph.value(op)
    moved(graph, op, x)
    cuts, shape = bounds(op, x.shape, *(graph.integers(op, k) for k in (1, 2, 3)))
    return cut(graph, op, x, cuts, shape)


def slice_(graph: Graph, op: TfliteOp) -> Value:
    """From `begin`, `size` positions along each axis, -1 for all that are left."""
    x, begin, size = graph.value(op), graph.integers(op, 1), graph.integers(op, 2)
    moved(graph, op, x)
    if not len(begin) == len(size) == len(x.shape):
        raise Unsupported(f"{len(begin)} positions of a value with {len(x.shape)} dimensions")
    cuts = [range(b, n if s == -1 else b + s) for b, s, n in zip(begin, size, x.shape, strict=True)]
    for axis, (kept, n) in enumerate(zip(cuts, x.shape, strict=True)):
        if not kept or kept[0] < 0 or kept[-1] >= n:
            raise Unsupported(f"keeps {kept} along axis {axis} of {n}")
    return cut(graph, op, x, cuts, tuple(len(kept) for kept in cuts))


def reverse(graph: Graph, op: TfliteOp) -> Value:
    """The last position first, along the given axes. A bidirectional layer may read what comes out by another scale."""
    x, rank = reread(graph, op, graph.value(op)), len(graph.value(op).shape)
    axes = graph.integers(op, 1)
    if not all(-rank <= axis < rank for axis in axes):
        raise Unsupported(f"axes {tuple(axes)} of a value with {rank} dimensions")
    turned = {axis % rank for axis in axes}
    return cut(graph, op, x, [range(n)[:: -1 if k in turned else 1] for k, n in enumerate(x.shape)], x.shape)


def parts(graph: Graph, op: TfliteOp, x: Value, axis: int, sizes: Sequence[int], *, drop: bool = False) -> list[Value]:
    """One value after the other along an axis, which goes away where `drop` says so."""
    if len(sizes) != len(op.outputs) or sum(sizes) != x.shape[axis] or min(sizes) < 1:
        raise Unsupported(f"cuts {x.shape[axis]} positions into {len(op.outputs)} outputs of {tuple(sizes)}")
    found, start = [], 0
    for k, size in enumerate(sizes):
        moved(graph, op, x, k)
        cuts = [range(n) for n in x.shape]
        cuts[axis] = range(start, start + size)
        shape = tuple(len(kept) for a, kept in enumerate(cuts) if not (drop and a == axis))
        found.append(cut(graph, op, replace(x, alone=False), cuts, shape))
        start += size
    return found


def split(graph: Graph, op: TfliteOp) -> list[Value]:
    x = graph.value(op, 1)
    axis, count = x.axis(graph.integer(op, 0)), len(op.outputs)
    return parts(graph, op, x, axis, [x.shape[axis] // count] * count)


def split_v(graph: Graph, op: TfliteOp) -> list[Value]:
    x, sizes = graph.value(op), list(graph.integers(op, 1))
    axis = x.axis(graph.integer(op, 2))
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = x.shape[axis] - sum(sizes) - 1
    return parts(graph, op, x, axis, sizes)


def unpack(graph: Graph, op: TfliteOp) -> list[Value]:
    x = graph.value(op)
    axis = x.axis(op.options["axis"])
    return parts(graph, op, x, axis, [1] * len(op.outputs), drop=True)


def gather(graph: Graph, op: TfliteOp) -> Value:
    """Constant positions: a slice where they are neighbours."""
    x, places = graph.value(op), graph.integers(op, 1)
    moved(graph, op, x)
    axis = x.axis(op.options["axis"])
    places = tuple(place + (x.shape[axis] if place < 0 else 0) for place in places)
    if not places or op.options["batch_dims"] or not 0 <= min(places) <= max(places) < x.shape[axis]:
        raise Unsupported(f"gathers positions {places[:8]} of {x.shape[axis]}")
    wanted = range(places[0], places[0] + len(places))
    cuts = [range(n) for n in x.shape]
    cuts[axis] = wanted
    shape = (*x.shape[:axis], *graph.constant(op, 1).array.shape, *x.shape[axis + 1 :])
    if places == tuple(wanted):
        return cut(graph, op, x, cuts, shape)
    layer = FloatTake(graph.name(op), x.shape, axis, places, sources=(x.source,), output=x.affine)
    return graph.add(layer, shape)


# ------------------------------------------------------------------ joining


def joined(graph: Graph, op: TfliteOp, values: Sequence[Value], axis: int) -> Value:
    """Side by side along an axis, in groups where there are many."""
    first = values[0].shape
    for value in values:
        if len(value.shape) != len(first) or (*value.shape[:axis], *value.shape[axis + 1 :]) != (
            *first[:axis],
            *first[axis + 1 :],
        ):
            raise Unsupported(f"joins values of shapes {first} and {value.shape}")
    if len(values) > JOINED_MAX:
        groups = [values[k : k + JOINED_MAX] for k in range(0, len(values), JOINED_MAX)]
        return joined(graph, op, [joined(graph, op, group, axis) for group in groups], axis)
    shape = (*first[:axis], sum(value.shape[axis] for value in values), *first[axis + 1 :])
    if len(values) == 1:
        return values[0]
    before = math.prod(first[:axis])
    flat = tuple((before, value.size // before) for value in values)
    sources = tuple(value.source for value in values)
    return graph.add(FloatConcat(graph.name(op), flat, 1, sources=sources, output=graph.fixed(op)), shape)


def concatenation(graph: Graph, op: TfliteOp) -> Value:
    if op.options["fused_activation_function"] != "NONE":
        raise Unsupported(f"with a fused {op.options['fused_activation_function']}")
    values = [graph.value(op, k) for k in range(len(op.inputs))]
    if not values:
        raise Unsupported("joins nothing")
    return joined(graph, op, values, values[0].axis(op.options["axis"]))


def pack(graph: Graph, op: TfliteOp) -> Value:
    values = [graph.value(op, k) for k in range(len(op.inputs))]
    rank = len(values[0].shape) + 1 if values else 0
    if not -rank <= op.options["axis"] < rank:
        raise Unsupported(f"axis {op.options['axis']} of a value with {rank} dimensions")
    axis = op.options["axis"] % rank
    return joined(graph, op, [reshaped(v, (*v.shape[:axis], 1, *v.shape[axis:])) for v in values], axis)


# ------------------------------------------------------------------ dilation as LiteRT writes it with an open batch


def space_to_batch(graph: Graph, op: TfliteOp) -> Value:
    """A note for the convolution that follows: it reads the whole image, dilated by the block's size."""
    x, size, sides = graph.value(op), graph.integers(op, 1), graph.integers(op, 2)
    moved(graph, op, x)
    if len(x.shape) == 3 and len(size) == 1 and len(sides) == 2:
        size, sides, image = (1, *size), (0, 0, *sides), (1, *x.shape[1:])
    elif len(x.shape) == 4 and len(size) == 2 and len(sides) == 4:
        image = x.shape[1:]
    else:
        raise Unsupported(f"blocks of {size} in a value of shape {x.shape}")
    top, bottom, left, right = sides
    padded = image[0] + top + bottom, image[1] + left + right
    if min(*size, *sides) < (1 if min(size) < 1 else 0) or max(*size, *sides) > VALUES_MAX or x.shape[0] != 1:
        raise Unsupported(f"blocks of {size} in a value of shape {x.shape}, padded by {sides}")
    if padded[0] % size[0] or padded[1] % size[1]:
        raise Unsupported(f"blocks of {size} in an image of {padded}")
    cells = padded[0] // size[0], padded[1] // size[1]
    shape = (size[0] * size[1], *(cells[1:] if len(x.shape) == 3 else cells), image[2])
    return replace(x, shape=shape, blocks=Blocks((size[0], size[1]), (top, left, bottom, right), tuple(image)))  # type: ignore[arg-type]


def batch_to_space(graph: Graph, op: TfliteOp) -> Value:
    """The dilated convolution's image, its padding narrowed by what is cropped."""
    x, size, sides = graph.value(op, blocks=True), graph.integers(op, 1), graph.integers(op, 2)
    moved(graph, op, x)
    flat = len(size) == 1
    if flat and len(sides) == 2:
        size, sides = (1, *size), (0, 0, *sides)
    layer = graph.layers.get(x.source)
    if x.blocks is None or not x.blocks.done or tuple(size) != x.blocks.size or not isinstance(layer, Filters):
        raise Unsupported("joins blocks that no convolution between it and SPACE_TO_BATCH_ND has read")
    if len(sides) != 4 or min(sides) < 0 or not x.alone:
        raise Unsupported(f"crops by {sides}")
    crops = (sides[0], sides[2], sides[1], sides[3])
    top, left, bottom, right = (p - crop for p, crop in zip(layer.padding, crops, strict=True))
    if min(top, left, bottom, right) < 0:
        raise Unsupported(f"crops by {sides} an image that is padded by less")
    cropped = replace(layer, padding=(top, left, bottom, right))
    h, w, c = cropped.shape
    if min(h, w) < 1 or (flat and h != 1):
        raise Unsupported(f"crops an image to {(h, w)}")
    graph.layers[x.source] = cropped
    return replace(x, shape=(1, w, c) if flat else (1, h, w, c), blocks=None)


MOVES: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        "RESHAPE": reshape,
        "EXPAND_DIMS": expand_dims,
        "SQUEEZE": squeeze,
        "CAST": view,
        "TRANSPOSE": transpose,
        "PAD": pad,
        "PADV2": pad,
        "SLICE": slice_,
        "STRIDED_SLICE": strided_slice,
        "REVERSE_V2": reverse,
        "SPLIT": split,
        "SPLIT_V": split_v,
        "UNPACK": unpack,
        "GATHER": gather,
        "CONCATENATION": concatenation,
        "PACK": pack,
        "SPACE_TO_BATCH_ND": space_to_batch,
        "BATCH_TO_SPACE_ND": batch_to_space,
    }
)
