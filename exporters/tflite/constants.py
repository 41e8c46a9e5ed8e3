"""Operators whose inputs are all constant, and shapes of values: computed at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np

from edgerun.arrays import AnyArray
from exporters.tflite.graph import FLOATS, Constant, Graph, Unsupported, clip_of
from exporters.tflite.slices import bounds
from exporters.tflite_reader import TfliteOp

Fold: TypeAlias = Callable[[Graph, TfliteOp, Sequence[Constant]], Constant | Sequence[Constant]]


def fold(graph: Graph, op: TfliteOp) -> bool:
    """Whether the operator only prepares a constant: then its value is noted. Raises Unsupported."""
    if op.custom or not op.outputs:
        return False
    if op.code == "SHAPE" and graph.is_value(op, 0):
        graph.constants[op.outputs[0]] = Constant(np.array(graph.value(op).shape, np.int64))
        return True
    given = [index for index in op.inputs if index >= 0]  # those under 0 are left out
    known = [graph.constants[index] for index in given if index in graph.constants]
    if op.code not in FOLDS or not known or len(known) != len(given):
        return False
    made = FOLDS[op.code](graph, op, known)
    found = [made] if isinstance(made, Constant) else made
    if len(found) != len(op.outputs):
        raise Unsupported(f"has {len(op.outputs)} outputs, not {len(found)}")
    for index, constant in zip(op.outputs, found, strict=True):
        graph.take(constant.array.size)
        graph.constants[index] = constant
    return True


def whole(constants: Sequence[Constant]) -> list[AnyArray]:
    """Arrays of whole numbers or floats without a scale."""
    if any(constant.scale is not None for constant in constants):
        raise Unsupported("computes with quantised constants")
    return [constant.array for constant in constants]


def numbers(constant: Constant) -> list[int]:
    array = constant.array
    if array.dtype.kind not in "iu":
        raise Unsupported("takes floats where whole numbers are needed")
    return [int(n) for n in array.reshape(-1).tolist()]


def dequantize(graph: Graph, op: TfliteOp, given: Sequence[Constant]) -> Constant:
    return Constant(given[0].real.astype(np.float32))


def cast(graph: Graph, op: TfliteOp, given: Sequence[Constant]) -> Constant:
    (array,) = whole(given)
    dtype = graph.model.writes(op)[0].dtype
    if dtype not in (*FLOATS, "int32", "int64") or dtype == "bfloat16":
        raise Unsupported(f"casts to {dtype}")
    return Constant(array.astype(dtype))


def same(graph: Graph, op: TfliteOp, given: Sequence[Constant]) -> Constant:
    """Another shape of the same numbers."""
    (first, *more), shape = given, list(given[0].array.shape)
    if op.code == "RESHAPE":
        shape = numbers(more[0]) if more else list(op.options["new_shape"])
    elif op.code == "EXPAND_DIMS":
        (axis,) = numbers(more[0])
        shape.insert(axis if axis >= 0 else axis + len(shape) + 1, 1)
    else:
        axes = {axis % len(shape) for axis in op.options["squeeze_dims"]} if shape else set()
        shape = [n for axis, n in enumerate(shape) if n != 1 or (axes and axis not in axes)]
    return moved(first, first.array.reshape(shape))


def transpose(graph: Graph, op: TfliteOp, given: Sequence[Constant]) -> Constant:
    return moved(given[0], given[0].array.transpose(numbers(given[1])))


def moved(constant: Constant, array: AnyArray) -> Constant:
    if constant.scale is not None and len(constant.scale) > 1:
        raise Unsupported("moves a constant with one scale a channel")
    return replace(constant, array=array)


def gather(graph: Graph, op: TfliteOp, given: Sequence[Constant]) -> Constant:
    array, places = whole(given)
    if op.options["batch_dims"]:
        raise Unsupported("gathers batch by batch")
    axis = op.options["axis"]
    graph.take(places.size * (array.size // max(1, array.shape[axis])))
    return Constant(array.take(places, axis=axis))


def reduce_prod(graph: Graph, op: TfliteOp, given: Sequence[Constant]) -> Constant:
    array, axes = whole(given)
    return Constant(np.prod(array, axis=tuple(axes.reshape(-1)), keepdims=op.options["keep_dims"], dtype=array.dtype))


def fill(graph: Graph, op: TfliteOp, given: Sequence[Constant]) -> Constant:
    """One number everywhere in a shape."""
    shape, number = numbers(given[0]), given[1]
    if min(shape, default=0) < 0 or number.array.size != 1:
        raise Unsupported(f"fills {shape} with {number.array.size} values")
    graph.take(math.prod(shape))
    return moved(number, np.full(shape, number.array.reshape(())))


def pack(graph: Graph, op: TfliteOp, given: Sequence[Constant]) -> Constant:
    return Constant(np.stack(whole(given), axis=op.options["axis"]))


def concatenation(graph: Graph, op: TfliteOp, given: Sequence[Constant]) -> Constant:
    return Constant(np.concatenate(whole(given), axis=op.options["axis"]))


def strided_slice(graph: Graph, op: TfliteOp, given: Sequence[Constant]) -> Constant:
    array = whole(given[:1])[0]
    ends = [numbers(constant) for constant in given[1:]]
    if len(ends) != 3:
        raise Unsupported(f"has {len(given)} inputs, not 4")
    cuts, shape = bounds(op, array.shape, *ends)
    for axis, kept in enumerate(cuts):
        array = array.take(kept, axis=axis)
    return Constant(array.reshape(shape))


def fully_connected(graph: Graph, op: TfliteOp, given: Sequence[Constant]) -> Constant:
    """act(W x + b), as of the zeros that an unrolled loop begins with; in the output's steps where it has a scale."""
    if any(constant.scale is None and constant.array.dtype.kind != "f" for constant in given):
        raise Unsupported("computes with integers that have no scale")
    x, weight, *bias = (constant.real for constant in given)
    total = x.reshape(-1, weight.shape[1]) @ weight.T
    graph.take(total.size)
    total = np.clip(total + (bias[0] if bias else 0), *clip_of(op.options["fused_activation_function"], None))
    y = graph.model.writes(op)[0]
    if y.scale is None or y.zero_point is None:
        return Constant(total.astype(np.float32))
    ends = np.iinfo(y.dtype)
    q = np.clip(np.rint(total / y.scale) + y.zero_point, ends.min, ends.max)
    return Constant(q.astype(y.dtype), y.scale, y.zero_point)


def split(graph: Graph, op: TfliteOp, given: Sequence[Constant]) -> Sequence[Constant]:
    """Parts of one size."""
    (axis,) = numbers(given[0])
    return [moved(given[1], part) for part in np.split(given[1].array, len(op.outputs), axis=axis)]


def split_v(graph: Graph, op: TfliteOp, given: Sequence[Constant]) -> Sequence[Constant]:
    """Parts of the sizes that the file gives, -1 for the one that takes what is left."""
    array, sizes, (axis,) = given[0].array, numbers(given[1]), numbers(given[2])
    sizes = [array.shape[axis] - sum(sizes) - 1 if size == -1 else size for size in sizes]
    return [moved(given[0], part) for part in np.split(array, np.cumsum(sizes)[:-1], axis=axis)]


def arithmetic(function: Callable[[AnyArray, AnyArray], AnyArray]) -> Fold:
    def run(graph: Graph, op: TfliteOp, given: Sequence[Constant]) -> Constant:
        a, b = whole(given)
        graph.take(math.prod(np.broadcast_shapes(a.shape, b.shape)))
        return Constant(np.asarray(function(a, b)).astype(a.dtype))

    return run


FOLDS: Final[Mapping[str, Fold]] = MappingProxyType(
    {
        "DEQUANTIZE": dequantize,
        "CAST": cast,
        "RESHAPE": same,
        "EXPAND_DIMS": same,
        "SQUEEZE": same,
        "TRANSPOSE": transpose,
        "GATHER": gather,
        "REDUCE_PROD": reduce_prod,
        "FILL": fill,
        "PACK": pack,
        "CONCATENATION": concatenation,
        "STRIDED_SLICE": strided_slice,
        "FULLY_CONNECTED": fully_connected,
        "SPLIT": split,
        "SPLIT_V": split_v,
        "ADD": arithmetic(np.add),
        "SUB": arithmetic(np.subtract),
        "MUL": arithmetic(np.multiply),
        "MAXIMUM": arithmetic(np.maximum),
        "MINIMUM": arithmetic(np.minimum),
    }
)
