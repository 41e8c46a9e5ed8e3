"""Matrix products and batch normalisation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from edgerun.arrays import F64, AnyArray
from exporters.nodes import FloatConv, FloatDense
from exporters.onnx.elementwise import NONE, Operator, affine, total
from exporters.onnx.graph import Graph, Node, Unsupported, Value, reshaped


def weight_of(graph: Graph, node: Node, k: int) -> tuple[AnyArray, F64 | None]:
    """A weight: float32, or float64 with the real value of one integer step where the file fixes it."""
    array = graph.constant(node, k)
    if array.dtype.kind not in "fV" and array.dtype.name != "bfloat16":
        raise Unsupported(f"weight {node.inputs[k]!r} is {array.dtype}")
    step = graph.steps.get(node.inputs[k])
    return (array.astype(np.float32), None) if step is None else (array, step)


def steps_along(step: F64 | None, axis: int, channels: int) -> F64 | None:
    """One step a channel along an axis; None where the file's steps differ along another one."""
    if step is None or (step.ndim and step.size not in (1, step.shape[axis])):
        return None
    return np.broadcast_to(step.reshape(-1), channels).copy()


def bias_of(graph: Graph, node: Node, k: int, channels: int, dtype: np.dtype[np.generic]) -> AnyArray:
    """The bias, one number a channel; zeros where there is none."""
    given = graph.maybe(node, k)
    if given is None:
        return np.zeros(channels, dtype)
    if given.size not in (1, channels):
        raise Unsupported(f"bias of shape {given.shape} for {channels} units")
    return np.broadcast_to(given.astype(dtype).reshape(-1), channels).copy()


def product(graph: Graph, name: str, x: Value, weight: AnyArray, bias: AnyArray, step: F64 | None) -> Value:
    """x (..., inputs) by weight (units, inputs): a dense layer, or a convolution of 1 x 1 over what stands in front."""
    *front, inputs = x.shape
    if weight.ndim != 2 or not weight.size or weight.shape[1] != inputs:
        raise Unsupported(f"weight of shape {weight.shape} on a value of shape {x.shape}")
    x, units, rows = graph.plainly(x), len(weight), math.prod(front)
    weight = np.ascontiguousarray(weight)
    if rows == 1:
        return graph.add(FloatDense(name, weight, bias, weight_scale=step, sources=(x.source,)), (*front, units))
    taps = weight.reshape(units, 1, 1, inputs)
    layer = FloatConv(name, (1, rows, inputs), taps, bias, weight_scale=step, sources=(x.source,))
    return graph.add(layer, (*front, units))


def gemm(graph: Graph, node: Node) -> Value:
    """alpha * A B + beta * C."""
    x = graph.value(node)
    if node.integer("transA", 0):
        x = x.turned((1, 0))
    array, step = weight_of(graph, node, 1)
    weight, alpha = array if node.integer("transB", 0) else array.T, node.real("alpha", 1.0)
    if len(x.shape) != 2 or weight.ndim != 2:
        raise Unsupported(f"weight of shape {array.shape} on a value of shape {x.shape}")
    steps = steps_along(step, 0 if node.integer("transB", 0) else 1, len(weight))
    name = graph.name(node, node.inputs[1])
    scale = None if steps is None or not alpha else steps * abs(alpha)
    scaled = (weight * weight.dtype.type(alpha)).astype(weight.dtype)
    later = graph.is_value(node, 2)
    bias = np.zeros(len(weight), weight.dtype) if later else bias_of(graph, node, 2, len(weight), weight.dtype)
    beta = node.real("beta", 1.0)
    y = product(graph, name, x, scaled, (bias * bias.dtype.type(beta)).astype(bias.dtype), scale)
    if not later:
        return y
    return total(graph, node, y, affine(graph, node, graph.value(node, 2), np.asarray(beta), NONE))


def matmul(graph: Graph, node: Node) -> Value:
    """By a constant: from the right, or from the left, which is from the right of the transpose."""
    if not graph.is_value(node, 0):
        array, step = weight_of(graph, node, 0)
        return turned_last(from_right(graph, node, 0, turned_last(graph.value(node, 1)), array, step, 0))
    array, step = weight_of(graph, node, 1)
    return from_right(graph, node, 1, graph.value(node), array.T, step, 1)


def from_right(graph: Graph, node: Node, k: int, x: Value, weight: AnyArray, step: F64 | None, axis: int) -> Value:
    if weight.ndim == 1:
        weight, step = weight[None], step if step is None or step.size > 1 else step.reshape(1, 1)
        y = product(graph, graph.name(node, node.inputs[k]), x, weight, np.zeros(1, weight.dtype), None)
        return reshaped(graph, y, y.shape[:-1])
    if weight.ndim != 2:
        raise Unsupported(f"weight of shape {weight.shape}")
    steps = steps_along(step, axis, len(weight))
    return product(graph, graph.name(node, node.inputs[k]), x, weight, np.zeros(len(weight), weight.dtype), steps)


def turned_last(x: Value) -> Value:
    """The last two axes exchanged."""
    rank = len(x.shape)
    if rank < 2:
        raise Unsupported(f"a value of shape {x.shape} from the right")
    return x.turned((*range(rank - 2), rank - 1, rank - 2))


def batch_norm(graph: Graph, node: Node) -> Value:
    """gamma (x - mean) / sqrt(variance + epsilon) + beta along axis 1."""
    x = graph.value(node)
    gamma, beta, mean, variance = (graph.constant(node, k).astype(np.float64) for k in range(1, 5))
    if node.integer("training_mode", 0):
        raise Unsupported("in training mode")
    gain = gamma / np.sqrt(variance + node.real("epsilon", 1e-5))
    along = (-1,) + (1,) * (len(x.shape) - 2)
    return affine(graph, node, x, gain.reshape(along), (beta - mean * gain).reshape(along))


DENSE: Final[Mapping[str, Operator]] = MappingProxyType(
    {"Gemm": gemm, "MatMul": matmul, "BatchNormalization": batch_norm}
)
