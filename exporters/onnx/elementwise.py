"""Sums, products and functions, value by value; constants are folded into the layer before wherever they fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np

from edgerun.arrays import F32, F64, AnyArray
from exporters.layout import behind, evaluated, named
from exporters.nodes import (
    FloatAdd,
    FloatConv,
    FloatDense,
    FloatDepthwise,
    FloatLayer,
    FloatLayerNorm,
    FloatMul,
    FloatPool,
    FloatUnary,
)
from exporters.onnx.graph import Graph, Node, Unsupported, Value, reshaped, shared

Operator: TypeAlias = Callable[[Graph, Node], Value | tuple[Value, ...]]

Bounded: TypeAlias = FloatDense | FloatConv | FloatDepthwise | FloatPool | FloatAdd | FloatMul
"""Layers that hold a clip themselves."""

SOFT: Final = 15.0
"""From here on softplus(x) is x, to seven digits."""

ONE: Final = np.ones(())
NONE: Final = np.zeros(())

# ------------------------------------------------------------------ gain * x + shift


def affine(graph: Graph, node: Node, x: Value, gain: AnyArray, shift: AnyArray) -> Value:
    """gain * x + shift: inside the layer that makes x, else one function, else a depthwise layer of 1 x 1."""
    x = x.ranked(max(len(x.shape), gain.ndim, shift.ndim))
    a, b = graph.spread(gain, x), graph.spread(shift, x)
    if (a == 1).all() and not b.any():
        return x
    layer = graph.layers.get(x.source)
    folded = scaled(layer, a, b) if x.alone and layer is not None else None
    if folded is not None:
        graph.layers[x.source] = folded
        return x
    name = graph.name(node)
    if a.size == b.size == 1:
        line = (float(a[0]), float(b[0]))
        return graph.add(FloatUnary(name, x.physical, "affine", line, sources=(x.source,)), x.shape, x.lies)
    return graph.add(each_channel(name, x, a, b), x.shape, x.lies)


def scaled(layer: FloatLayer, a: F64, b: F64) -> FloatLayer | None:
    """The same layer with a * y + b for y, where its own numbers can hold that."""
    if layer.output is not None:
        return None
    if isinstance(layer, FloatUnary) and layer.function == "affine" and a.size == b.size == 1:
        gain, shift = layer.parameters
        return replace(layer, parameters=(gain * float(a[0]), shift * float(a[0]) + float(b[0])))
    if isinstance(layer, FloatLayerNorm):
        gains, shifts = (periodic(x, len(layer.gamma)) for x in (a, b))
        if gains is None or shifts is None:
            return None
        return replace(layer, gamma=single(layer.gamma * gains), beta=single(layer.beta * gains + shifts))
    if isinstance(layer, FloatDense | FloatConv | FloatDepthwise) and math.isinf(layer.low) and math.isinf(layer.high):
        gains, shifts = (periodic(x, len(layer.weight)) for x in (a, b))
        if gains is None or shifts is None:
            return None
        along = (-1,) + (1,) * (layer.weight.ndim - 1)
        steps = None if layer.weight_scale is None else layer.weight_scale * np.abs(gains)
        weight: F32 | F64 = layer.weight * gains.reshape(along)
        bias: F32 | F64 = layer.bias * gains + shifts
        if layer.weight.dtype == np.float32:
            weight, bias = single(weight), single(bias)
        return replace(layer, weight=weight, bias=bias, weight_scale=steps if steps is None or steps.all() else None)
    return None


def single(x: AnyArray) -> F32:
    return x.astype(np.float32)


def periodic(x: F64, channels: int) -> F64 | None:
    """One number a channel, the innermost axis; None where other axes matter too."""
    if x.size == 1:
        return np.broadcast_to(x, channels)
    rows = x.reshape(-1, channels) if x.size % channels == 0 else x.reshape(1, -1)
    return rows[0] if rows.shape[1] == channels and (rows == rows[0]).all() else None


def each_channel(name: str, x: Value, a: F64, b: F64) -> FloatDepthwise:
    """A depthwise layer of 1 x 1: one gain and shift a channel where that will do, else one a value."""
    channels = x.physical[-1]
    gains, shifts = periodic(a, channels), periodic(b, channels)
    if gains is None or shifts is None:
        channels, gains, shifts = x.size, np.broadcast_to(a, x.size), np.broadcast_to(b, x.size)
    shape = (1, x.size // channels, channels)
    weight = single(gains).reshape(-1, 1, 1)
    return FloatDepthwise(name, shape, weight, single(shifts), sources=(x.source,))


# ------------------------------------------------------------------ two operands


def operands(graph: Graph, a: Value, b: Value) -> tuple[Value, Value]:
    """Both with one rank, lying in the order of the larger one."""
    rank = max(len(a.shape), len(b.shape))
    a, b = a.ranked(rank), b.ranked(rank)
    lies = a.lies if a.size >= b.size else b.lies
    return graph.arranged(a, lies), graph.arranged(b, lies)


def shapes_of(a: Value, b: Value) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Their shapes as they lie, without axes that both have of size 1."""
    kept = [axis for axis in a.lies if a.shape[axis] != 1 or b.shape[axis] != 1] or [a.lies[-1]]
    return tuple(a.shape[axis] for axis in kept), tuple(b.shape[axis] for axis in kept)


def joined(graph: Graph, a: Value, b: Value, make: Callable[..., FloatLayer]) -> Value:
    a, b = operands(graph, a, b)
    shape = np.broadcast_shapes(a.shape, b.shape)
    return graph.add(make(shapes_of(a, b), sources=(a.source, b.source)), shape, a.lies)


def total(graph: Graph, node: Node, a: Value, b: Value, signs: tuple[int, int] = (1, 1)) -> Value:
    name = graph.name(node)
    return joined(graph, a, b, lambda shapes, sources: FloatAdd(name, shapes, signs, sources=sources))


def product(graph: Graph, node: Node, a: Value, b: Value) -> Value:
    name = graph.name(node)
    return joined(graph, a, b, lambda shapes, sources: FloatMul(name, shapes, sources=sources))


def values_first(graph: Graph, node: Node) -> tuple[int, int]:
    """The operand that is a value, and the other one."""
    return (0, 1) if graph.is_value(node, 0) else (1, 0)


def add(graph: Graph, node: Node) -> Value:
    first, second = values_first(graph, node)
    a = graph.value(node, first)
    if graph.is_value(node, second):
        return total(graph, node, a, graph.value(node, second))
    return affine(graph, node, a, ONE, graph.constant(node, second))


def sub(graph: Graph, node: Node) -> Value:
    if graph.is_value(node, 0) and graph.is_value(node, 1):
        return total(graph, node, graph.value(node, 0), graph.value(node, 1), (1, -1))
    if graph.is_value(node, 0):
        return affine(graph, node, graph.value(node, 0), ONE, -graph.constant(node, 1).astype(np.float64))
    return affine(graph, node, graph.value(node, 1), -ONE, graph.constant(node, 0))


def mul(graph: Graph, node: Node) -> Value:
    first, second = values_first(graph, node)
    a = graph.value(node, first)
    if graph.is_value(node, second):
        return product(graph, node, a, graph.value(node, second))
    return affine(graph, node, a, graph.constant(node, second), NONE)


def div(graph: Graph, node: Node) -> Value:
    if graph.is_value(node, 0) and not graph.is_value(node, 1):
        return affine(graph, node, graph.value(node, 0), 1 / graph.constant(node, 1).astype(np.float64), NONE)
    if (normal := layer_norm(graph, node)) is not None:
        return normal
    below = function(graph, node, graph.value(node, 1), "reciprocal")
    if not graph.is_value(node, 0):
        return affine(graph, node, below, graph.constant(node, 0), NONE)
    return product(graph, node, graph.value(node, 0), below)


def layer_norm(graph: Graph, node: Node) -> Value | None:
    """(x - mean(x)) / sqrt(mean((x - mean(x))**2) + epsilon) over the last axis, in the six nodes torch writes."""

    def maker(tensor: str, *ops: str) -> Node | None:
        found = graph.makers.get(tensor)
        return found if found is not None and found.op in ops else None

    root = maker(node.inputs[1], "Sqrt")
    noisy = root and maker(root.inputs[0], "Add")
    mean = noisy and next((m for m in (maker(name, "ReduceMean") for name in noisy.inputs) if m), None)
    square = mean and maker(mean.inputs[0], "Pow", "Mul")
    centred = maker(node.inputs[0], "Sub")
    average = centred and maker(centred.inputs[1], "ReduceMean")
    if noisy is None or mean is None or square is None or centred is None or average is None:
        return None
    epsilon = [graph.constants[name] for name in noisy.inputs if name in graph.constants]
    same = square.inputs[0] == node.inputs[0] and average.inputs[0] == centred.inputs[0]
    squares = square.inputs[1] == node.inputs[0] if square.op == "Mul" else graph.constant(square, 1).reshape(-1) == 2
    x = graph.value(centred, 0)
    last = all(graph.numbers(m, 1, "axes") in ((-1,), (len(x.shape) - 1,)) for m in (mean, average))
    if not (same and squares and last and len(epsilon) == 1):
        return None
    return normalised(graph, node, x, len(x.shape) - 1, None, None, float(epsilon[0].reshape(())))


def normalised(
    graph: Graph, node: Node, x: Value, axis: int, gamma: AnyArray | None, beta: AnyArray | None, epsilon: float
) -> Value:
    """Layer normalisation over all axes from `axis` on."""
    x = graph.plainly(shared(x))
    size = math.prod(x.shape[axis:])
    scale = np.ones(size, np.float32) if gamma is None else np.broadcast_to(gamma, x.shape[axis:]).reshape(-1)
    shift = np.zeros(size, np.float32) if beta is None else np.broadcast_to(beta, x.shape[axis:]).reshape(-1)
    shape = (math.prod(x.shape[:axis]), size)
    layer = FloatLayerNorm(graph.name(node), shape, single(scale), single(shift), epsilon, sources=(x.source,))
    return graph.add(layer, x.shape)


def layer_normalization(graph: Graph, node: Node) -> Value:
    x = graph.value(node)
    if len([name for name in node.outputs if name and graph.readers.get(name)]) > 1:
        raise Unsupported("gives its mean or deviation")
    axis = x.axis(node.integer("axis", -1))
    return normalised(graph, node, x, axis, graph.constant(node, 1), graph.maybe(node, 2), node.real("epsilon", 1e-5))


def group_normalization(graph: Graph, node: Node) -> Value:
    """Layer normalisation of each group of channels, then a gain and a shift a channel (before opset 21: a group).

    InstanceNormalization is a group for each channel.
    """
    x, gain, shift = graph.value(node), graph.constant(node, 1), graph.constant(node, 2)
    if len(x.shape) < 3 or x.shape[0] != 1:
        raise Unsupported(f"on a value of shape {x.shape}")
    channels = x.shape[1]
    groups = channels if node.op == "InstanceNormalization" else node.integer("num_groups", 0)
    if groups < 1 or channels % groups or gain.size != shift.size or gain.size not in (groups, channels):
        raise Unsupported(f"{groups} groups and {gain.size} gains for {channels} channels")
    rows = reshaped(graph, x, (groups, x.size // groups))
    y = reshaped(graph, normalised(graph, node, rows, 1, None, None, node.real("epsilon", 1e-5)), x.shape)
    each, along = channels // gain.size, (-1,) + (1,) * (len(x.shape) - 2)
    return affine(graph, node, y, *(np.repeat(part.reshape(-1), each).reshape(along) for part in (gain, shift)))


def sum_all(graph: Graph, node: Node) -> Value:
    """Sum of any number of values and constants."""
    held = [graph.value(node, k) for k in range(len(node.inputs)) if graph.is_value(node, k)]
    found = held[0]
    for other in held[1:]:
        found = total(graph, node, found, other)
    for k in range(len(node.inputs)):
        if not graph.is_value(node, k):
            found = affine(graph, node, found, ONE, graph.constant(node, k))
    return found


# ------------------------------------------------------------------ clips


def clipped(graph: Graph, node: Node, x: Value, low: float, high: float) -> Value:
    """clip(x, low, high): inside the layer that makes x, else a function."""
    if low == -math.inf and high == math.inf:
        return x
    layer = graph.layers.get(x.source)
    if x.alone and isinstance(layer, Bounded) and layer.output is None:
        within = tuple(min(max(end, low), high) for end in (layer.low, layer.high))
        graph.layers[x.source] = replace(layer, low=within[0], high=within[1])
        return x
    return function(graph, node, x, "relu") if (low, high) == (0, math.inf) else function(
        graph, node, x, "clip", (low, high)
    )  # fmt: skip


def relu(graph: Graph, node: Node) -> Value:
    return clipped(graph, node, graph.value(node), 0.0, math.inf)


def clip(graph: Graph, node: Node) -> Value:
    """Bounds are inputs since opset 11, attributes before."""
    low, high = bound(graph, node, 1, "min", -math.inf), bound(graph, node, 2, "max", math.inf)
    if not low <= high:
        raise Unsupported(f"clips from {low} to {high}")
    return clipped(graph, node, graph.value(node), low, high)


def bound(graph: Graph, node: Node, k: int, name: str, default: float) -> float:
    given = graph.maybe(node, k)
    return node.real(name, default) if given is None else float(given.reshape(()))


def extreme(graph: Graph, node: Node) -> Value:
    """Max or Min of a value and one constant number."""
    first, second = values_first(graph, node)
    if len(node.inputs) != 2 or graph.is_value(node, second) or graph.constant(node, second).size != 1:
        raise Unsupported("of something else than a value and a number")
    end = float(graph.constant(node, second).reshape(()))
    low, high = (end, math.inf) if node.op == "Max" else (-math.inf, end)
    return clipped(graph, node, graph.value(node, first), low, high)


# ------------------------------------------------------------------ functions


def function(graph: Graph, node: Node, x: Value, kind: str, parameters: tuple[float, ...] = ()) -> Value:
    layer = FloatUnary(graph.name(node), x.physical, kind, parameters, sources=(x.source,))
    return graph.add(layer, x.shape, x.lies)


def unary(kind: str, *attributes: tuple[str, float]) -> Operator:
    """A function by its name in `UNARY`, its parameters being attributes with these defaults."""

    def run(graph: Graph, node: Node) -> Value:
        parameters = tuple(node.real(name, default) for name, default in attributes)
        return function(graph, node, graph.value(node), kind, parameters)

    return run


def gelu(graph: Graph, node: Node) -> Value:
    form = node.text("approximate", "none")
    return function(graph, node, graph.value(node), "gelu-tanh" if form == "tanh" else "gelu")


def swish(graph: Graph, node: Node) -> Value:
    """x * sigmoid(alpha * x) = silu(alpha * x) / alpha."""
    x, alpha = graph.value(node), node.real("alpha", 1.0 if node.op == "Swish" else 1.702)
    if alpha == 1.0:
        return function(graph, node, x, "silu")
    inner = affine(graph, node, shared(x), np.asarray(alpha), NONE)
    return affine(graph, node, function(graph, node, inner, "silu"), np.asarray(1 / alpha), NONE)


def power(graph: Graph, node: Node) -> Value:
    exponent = graph.constant(node, 1)
    if exponent.size != 1:
        raise Unsupported("more than one exponent")
    known = {2.0: "square", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal", 1.0: "identity"}
    kind = known.get(end := float(exponent.reshape(())))
    return function(graph, node, graph.value(node), kind) if kind else function(
        graph, node, graph.value(node), "power", (end,)
    )  # fmt: skip


def prelu(graph: Graph, node: Node) -> Value:
    """max(x, 0) + slope * min(x, 0)."""
    x, slope = shared(graph.value(node)), graph.constant(node, 1)
    if slope.size == 1:
        return function(graph, node, x, "leaky-relu", (float(slope.reshape(())),))
    below = affine(graph, node, function(graph, node, x, "clip", (-math.inf, 0.0)), slope, NONE)
    return total(graph, node, function(graph, node, x, "relu"), below)


def compared(graph: Graph, node: Node) -> tuple[Value, ...]:
    """Gives nothing: `where` looks at it itself."""
    if any(reader.op != "Where" for reader in graph.readers.get(node.outputs[0], ())):
        raise Unsupported("gives truth values")
    return ()


def where(graph: Graph, node: Node) -> Value:
    """Only x > 20 ? x : log(1 + exp(x)), as torch writes softplus: the second, which is x there as well."""
    test = graph.makers.get(node.inputs[0])
    if test is None or test.op != "Greater" or not (graph.is_value(node, 1) and graph.is_value(node, 2)):
        raise Unsupported("chooses between values")
    x, y = graph.value(node, 1), graph.value(node, 2)
    far = graph.value(test).source == x.source and float(graph.constant(test, 1).reshape(())) >= SOFT
    layer = graph.layers.get(y.source)
    soft = evaluated(behind(graph.layers, layer), x.source) if layer is not None else None
    if not far or soft is None or named(soft) != "softplus":
        raise Unsupported("chooses between values")
    return y


ELEMENTWISE: Final = MappingProxyType(
    {
        "Add": add,
        "Sub": sub,
        "Mul": mul,
        "Div": div,
        "Sum": sum_all,
        "Relu": relu,
        "Clip": clip,
        "Max": extreme,
        "Min": extreme,
        "Abs": unary("abs"),
        "Neg": unary("neg"),
        "Sign": unary("sign"),
        "Sqrt": unary("sqrt"),
        "Reciprocal": unary("reciprocal"),
        "Exp": unary("exp"),
        "Log": unary("log"),
        "Sin": unary("sin"),
        "Cos": unary("cos"),
        "Erf": unary("erf"),
        "Floor": unary("floor"),
        "Ceil": unary("ceil"),
        "Round": unary("round"),
        "Pow": power,
        "Sigmoid": unary("sigmoid"),
        "HardSigmoid": unary("hard-sigmoid", ("alpha", 0.2), ("beta", 0.5)),
        "Tanh": unary("tanh"),
        "HardSwish": unary("hard-swish"),
        "Swish": swish,
        "QuickGelu": swish,
        "Gelu": gelu,
        "Mish": unary("mish"),
        "Softplus": unary("softplus"),
        "Softsign": unary("softsign"),
        "Elu": unary("elu", ("alpha", 1.0)),
        "Celu": unary("celu", ("alpha", 1.0)),
        "Selu": unary("selu", ("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875)),
        "LeakyRelu": unary("leaky-relu", ("alpha", 0.01)),
        "ThresholdedRelu": unary("thresholded-relu", ("alpha", 1.0)),
        "Shrink": unary("shrink", ("bias", 0.0), ("lambd", 0.5)),
        "PRelu": prelu,
        "Greater": compared,
        "Where": where,
        "LayerNormalization": layer_normalization,
        "InstanceNormalization": group_normalization,
        "GroupNormalization": group_normalization,
    }
)
