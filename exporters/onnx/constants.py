"""Nodes whose inputs are all constant, and shapes of values: computed at once, within what the file has room for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
from onnx import numpy_helper

from edgerun.arrays import AnyArray
from edgerun.errors import ModelError
from exporters.data import first_line
from exporters.onnx.graph import Graph, Node, Unsupported

Fold: TypeAlias = Callable[[Graph, Node], Sequence[AnyArray]]

MALFORMED: Final = (ValueError, TypeError, IndexError, KeyError, OverflowError, ZeroDivisionError, AttributeError)
"""What numpy and protobuf raise over arguments that make no sense."""
NO_NUMBERS: Final = "cOSU"
"""numpy's kinds of arrays that nothing here computes with: complex numbers and text."""


def array_of(tensor: Any) -> AnyArray:
    """The array of a TensorProto. Raises ModelError where its bytes are not what it says, or lie in another file."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ModelError(f"tensor {tensor.name!r} lies in another file; save the model as one")
    try:
        array: AnyArray = numpy_helper.to_array(tensor)
    except MALFORMED as err:
        raise ModelError(f"tensor {tensor.name!r} cannot be read ({first_line(err)})") from None
    if array.dtype.kind in NO_NUMBERS:
        raise ModelError(f"tensor {tensor.name!r} is {array.dtype.name}, must be real numbers")
    return array


def fold(graph: Graph, node: Node) -> bool:
    """Whether the node only prepares constants: then their values are noted. Raises Unsupported."""
    if node.op in ("Shape", "Size") and graph.is_value(node, 0):
        graph.constants[node.outputs[0]] = shape(node, graph.held(node).shape)
        return True
    if node.op == "CastLike" and graph.is_value(node, 1) and not graph.is_value(node, 0):
        graph.constants[node.outputs[0]] = graph.constant(node, 0).astype(np.float32)
        return True
    known = all(not name or name in graph.constants for name in node.inputs)
    if not known or node.op not in FOLDS or node.domain:
        return False
    for name, array in zip(node.outputs, FOLDS[node.op](graph, node), strict=False):
        graph.constants[name] = array
    return True


def shape(node: Node, dims: Sequence[int]) -> AnyArray:
    if node.op == "Size":
        return np.array(math.prod(dims), np.int64)
    return np.array(dims[slice(node.integer("start", 0), node.info.get("end"))], np.int64)


def elementwise(function: Callable[..., Any]) -> Fold:
    """numpy's broadcasting is ONNX's."""

    def run(graph: Graph, node: Node) -> Sequence[AnyArray]:
        arrays = [graph.constant(node, k) for k in range(len(node.inputs))]
        graph.take(math.prod(np.broadcast_shapes(*(array.shape for array in arrays))))
        return (np.asarray(function(*arrays)),)

    return run


def same_type(function: Callable[..., Any]) -> Fold:
    """An elementwise function whose result has its first argument's type."""
    return elementwise(lambda *arrays: np.asarray(function(*arrays)).astype(arrays[0].dtype))


def divided(a: AnyArray, b: AnyArray) -> AnyArray:
    """Whole numbers divide towards zero."""
    if a.dtype.kind in "iu":
        return np.asarray(np.fix(np.true_divide(a, b)))
    return np.asarray(a / b)


def constant(graph: Graph, node: Node) -> Sequence[AnyArray]:
    if "value" in node.info:
        return (array_of(node.info["value"]),)
    kinds = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    for name, dtype in kinds.items():
        if name in node.info:
            return (np.asarray(node.info[name], dtype),)
    raise Unsupported("a constant that is neither numbers nor a tensor")


def constant_of_shape(graph: Graph, node: Node) -> Sequence[AnyArray]:
    dims = [int(n) for n in graph.constant(node, 0).reshape(-1)]
    fill = array_of(node.info["value"]).reshape(-1)[0] if "value" in node.info else np.float32(0)
    graph.take(math.prod(dims))
    return (np.full(dims, fill),)


def expand(graph: Graph, node: Node) -> Sequence[AnyArray]:
    array = graph.constant(node, 0)
    dims = np.broadcast_shapes(array.shape, tuple(int(n) for n in graph.constant(node, 1).reshape(-1)))
    graph.take(math.prod(dims))
    return (np.broadcast_to(array, dims).copy(),)


def tile(graph: Graph, node: Node) -> Sequence[AnyArray]:
    array, repeats = graph.constant(node, 0), [int(n) for n in graph.constant(node, 1).reshape(-1)]
    graph.take(array.size * math.prod(repeats))
    return (np.tile(array, repeats),)


def counted(graph: Graph, node: Node) -> Sequence[AnyArray]:
    start, limit, delta = (graph.constant(node, k).reshape(()) for k in range(3))
    steps = (float(limit) - float(start)) / float(delta)
    graph.take(max(0, math.ceil(steps)))
    return (np.arange(start.item(), limit.item(), delta.item()).astype(start.dtype),)


def cast(graph: Graph, node: Node) -> Sequence[AnyArray]:
    array = graph.constant(node, 0)
    dtype = graph.constant(node, 1).dtype if node.op == "CastLike" else onnx.helper.tensor_dtype_to_np_dtype(
        node.integer("to", onnx.TensorProto.FLOAT)
    )  # fmt: skip
    graph.take(array.size)
    return (array.astype(dtype),)


def gather(graph: Graph, node: Node) -> Sequence[AnyArray]:
    array, index = graph.constant(node, 0), graph.constant(node, 1)
    axis = node.integer("axis", 0)
    graph.take(array.size // max(array.shape[axis], 1) * index.size)
    return (np.asarray(np.take(array, index, axis=axis)),)


def sliced(graph: Graph, node: Node) -> Sequence[AnyArray]:
    array = graph.constant(node, 0)
    return (array[slices(graph, node, array.shape)],)


def slices(graph: Graph, node: Node, dims: Sequence[int]) -> tuple[slice, ...]:
    """One slice an axis, as numpy takes them."""
    starts, ends = graph.numbers(node, 1, "starts"), graph.numbers(node, 2, "ends")
    if starts is None or ends is None:
        raise Unsupported("lacks starts or ends")
    axes = graph.numbers(node, 3, "axes") or tuple(range(len(starts)))
    steps = graph.numbers(node, 4, "steps") or (1,) * len(starts)
    found = [slice(None)] * len(dims)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        stop = None if step < 0 and end < -dims[axis] else end
        found[axis] = slice(start, stop, step)
    return tuple(found)


def concat(graph: Graph, node: Node) -> Sequence[AnyArray]:
    arrays = [graph.constant(node, k) for k in range(len(node.inputs))]
    graph.take(sum(array.size for array in arrays))
    return (np.concatenate(arrays, axis=node.integer("axis", 0)),)


def split(graph: Graph, node: Node) -> Sequence[AnyArray]:
    array, axis = graph.constant(node, 0), node.integer("axis", 0)
    sizes = split_sizes(graph, node, array.shape[axis])
    return np.split(array, np.cumsum(sizes)[:-1], axis=axis)


def split_sizes(graph: Graph, node: Node, size: int) -> tuple[int, ...]:
    """The sizes of the parts; where none are given, equal ones, the last perhaps smaller."""
    sizes, count = graph.numbers(node, 1, "split"), node.integer("num_outputs", len(node.outputs))
    if sizes is None:
        each = -(-size // max(count, 1))
        sizes = tuple(min(each, size - k * each) for k in range(count))
    if sum(sizes) != size or min(sizes) < 1 or len(sizes) < len(node.outputs):
        raise Unsupported(f"splits {size} into {sizes}")
    return sizes


def squeeze(graph: Graph, node: Node) -> Sequence[AnyArray]:
    array = graph.constant(node, 0)
    return (array.reshape(squeezed(array.shape, graph.numbers(node, 1, "axes"))),)


def squeezed(dims: Sequence[int], axes: Sequence[int] | None) -> tuple[int, ...]:
    """Raises Unsupported where an axis is not of size 1."""
    gone = [k for k, n in enumerate(dims) if n == 1] if axes is None else [axis % len(dims) for axis in axes]
    if any(dims[axis] != 1 for axis in gone):
        raise Unsupported(f"squeezes axes {tuple(gone)} of shape {tuple(dims)}")
    return tuple(n for k, n in enumerate(dims) if k not in gone)


def unsqueeze(graph: Graph, node: Node) -> Sequence[AnyArray]:
    array = graph.constant(node, 0)
    return (array.reshape(unsqueezed(array.shape, graph.numbers(node, 1, "axes") or ())),)


def unsqueezed(dims: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    rank = len(dims) + len(axes)
    if len({axis % rank for axis in axes}) != len(axes) or rank > 16:
        raise Unsupported(f"unsqueezes axes {tuple(axes)} of shape {tuple(dims)}")
    rest = iter(dims)
    return tuple(1 if k in {axis % rank for axis in axes} else next(rest) for k in range(rank))


def reshape(graph: Graph, node: Node) -> Sequence[AnyArray]:
    array = graph.constant(node, 0)
    return (array.reshape(target_shape(graph, node, array.shape)),)


def target_shape(graph: Graph, node: Node, dims: Sequence[int]) -> tuple[int, ...]:
    """What Reshape makes of a shape: 0 keeps a size, -1 takes what is left."""
    target = [int(n) for n in graph.constant(node, 1).reshape(-1)]
    if not node.integer("allowzero", 0):
        target = [dims[k] if n == 0 else n for k, n in enumerate(target)]
    if -1 in target:
        rest = math.prod(n for n in target if n != -1)
        if target.count(-1) > 1 or not rest or math.prod(dims) % rest:
            raise Unsupported(f"shape {tuple(dims)} to {tuple(target)}")
        target[target.index(-1)] = math.prod(dims) // rest
    if math.prod(target) != math.prod(dims):
        raise Unsupported(f"shape {tuple(dims)} to {tuple(target)}")
    return tuple(target)


def flatten(graph: Graph, node: Node) -> Sequence[AnyArray]:
    array, axis = graph.constant(node, 0), node.integer("axis", 1)
    return (array.reshape(math.prod(array.shape[:axis]), -1),)


def transpose(graph: Graph, node: Node) -> Sequence[AnyArray]:
    perm = node.integers("perm")
    if node.inputs[0] in graph.steps:
        graph.steps[node.outputs[0]] = np.transpose(graph.steps[node.inputs[0]], perm)
    return (np.transpose(graph.constant(node, 0), perm),)


def identity(graph: Graph, node: Node) -> Sequence[AnyArray]:
    if node.inputs[0] in graph.steps:
        graph.steps[node.outputs[0]] = graph.steps[node.inputs[0]]
    return (graph.constant(node, 0),)


def reduce(function: Callable[..., Any]) -> Fold:
    def run(graph: Graph, node: Node) -> Sequence[AnyArray]:
        axes = graph.numbers(node, 1, "axes")
        if axes is None and node.integer("noop_with_empty_axes", 0):
            return (graph.constant(node, 0),)
        if not graph.constant(node, 0).size:
            raise Unsupported("reduces no values")
        return (np.asarray(function(graph.constant(node, 0), axis=axes, keepdims=bool(node.integer("keepdims", 1)))),)

    return run


def matmul(graph: Graph, node: Node) -> Sequence[AnyArray]:
    a, b = graph.constant(node, 0), graph.constant(node, 1)
    graph.take(a.size * (b.shape[-1] if b.ndim > 1 else 1) + b.size * (a.shape[-2] if a.ndim > 1 else 1))
    return (np.matmul(a, b),)


FOLDS: Final[Mapping[str, Fold]] = MappingProxyType(
    {
        "Constant": constant,
        "ConstantOfShape": constant_of_shape,
        "Expand": expand,
        "Tile": tile,
        "Range": counted,
        "Cast": cast,
        "CastLike": cast,
        "Shape": lambda graph, node: (shape(node, graph.constant(node, 0).shape),),
        "Size": lambda graph, node: (shape(node, graph.constant(node, 0).shape),),
        "Gather": gather,
        "Slice": sliced,
        "Concat": concat,
        "Split": split,
        "Squeeze": squeeze,
        "Unsqueeze": unsqueeze,
        "Reshape": reshape,
        "Flatten": flatten,
        "Transpose": transpose,
        "Identity": identity,
        "Dropout": identity,
        "MatMul": matmul,
        "ReduceSum": reduce(np.sum),
        "ReduceProd": reduce(np.prod),
        "ReduceMax": reduce(np.max),
        "ReduceMin": reduce(np.min),
        "ReduceMean": reduce(np.mean),
        "Add": same_type(np.add),
        "Sub": same_type(np.subtract),
        "Mul": same_type(np.multiply),
        "Div": same_type(divided),
        "Mod": same_type(np.mod),
        "Pow": same_type(np.power),
        "Min": same_type(lambda *arrays: np.minimum.reduce(np.broadcast_arrays(*arrays))),
        "Max": same_type(lambda *arrays: np.maximum.reduce(np.broadcast_arrays(*arrays))),
        "Neg": same_type(np.negative),
        "Abs": same_type(np.abs),
        "Sqrt": same_type(np.sqrt),
        "Exp": same_type(np.exp),
        "Log": same_type(np.log),
        "Tanh": same_type(np.tanh),
        "Reciprocal": same_type(np.reciprocal),
        "Floor": same_type(np.floor),
        "Ceil": same_type(np.ceil),
        "Relu": same_type(lambda x: np.maximum(x, 0)),
        "Equal": elementwise(np.equal),
        "Less": elementwise(np.less),
        "LessOrEqual": elementwise(np.less_equal),
        "Greater": elementwise(np.greater),
        "GreaterOrEqual": elementwise(np.greater_equal),
        "And": elementwise(np.logical_and),
        "Or": elementwise(np.logical_or),
        "Not": elementwise(np.logical_not),
        "Where": elementwise(lambda c, a, b: np.asarray(np.where(c, a, b)).astype(a.dtype)),
    }
)
"""Everything that is computed where all inputs are constant."""
