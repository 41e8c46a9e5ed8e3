"""Sums, products and functions of single values, and what LiteRT spells with several of them: layer normalisation.

A constant operand is folded into the layer before it, or becomes a function, or a depthwise convolution of 1 x 1. In a
file that fixes every scale, constants of many values stay operands with their own integers, which a dense layer without
weights gives: so sums and products meet the same integers there as in LiteRT.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np

from edgerun.arrays import F64, I64
from exporters.nodes import (
    Affine,
    FloatAdd,
    FloatConv,
    FloatDense,
    FloatDepthwise,
    FloatMul,
    FloatPool,
    FloatSlice,
    FloatSoftmax,
    FloatUnary,
)
from exporters.tflite import tables
from exporters.tflite.graph import ENDS, Constant, Graph, Operator, Shape, Unsupported, Value, affine_of, bites, clip_of
from exporters.tflite.norms import layer_norm
from exporters.tflite_reader import TfliteOp

SEED: Final = "constant-seed"
"""One value of the input, which layers that give constants read and multiply by nothing."""

HALF_UP: Final = 2.0**-30
"""Of an output's step: what a table is raised by so that halves go up, as LiteRT rounds, and nothing else changes."""

# ------------------------------------------------------------------ two operands


def broadcast(a: Shape, b: Shape) -> Shape:
    try:
        return np.broadcast_shapes(a, b)
    except ValueError:
        raise Unsupported(f"on values of shapes {a} and {b}") from None


def together(a: Shape, b: Shape) -> tuple[Shape, Shape]:
    """Both shapes with one rank, without axes where both have size 1."""
    rank = max(len(a), len(b))
    pairs = list(zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True))
    kept = [pair for pair in pairs if pair != (1, 1)] or [(1, 1)]
    return tuple(n for n, _ in kept), tuple(n for _, n in kept)


def operand(graph: Graph, op: TfliteOp, k: int) -> Value | Constant:
    return graph.value(op, k) if graph.is_value(op, k) else graph.constant(op, k)


def held(graph: Graph, op: TfliteOp, k: int, constant: Constant) -> Value:
    """A constant as a value: its integers, given by a dense layer of zeros whose bias it is."""
    array = constant.array
    if SEED not in graph.layers:
        entry = graph.values[graph.model.inputs[0]]
        graph.layers[SEED] = FloatSlice(
            SEED, (entry.size,), (0,), (1,), (1,), sources=(entry.source,), output=entry.affine
        )
    graph.take(array.size)
    if not array.size:
        raise Unsupported("an empty constant")
    y = None if array.dtype.kind == "f" else affine_of(graph.model.tensors[op.inputs[k]])
    zeros = np.zeros((array.size, 1), np.float32)
    layer = FloatDense(graph.name(op, "-constant"), zeros, constant.real.reshape(-1), sources=(SEED,), output=y)
    return graph.add(layer, array.shape)


@dataclass(frozen=True, slots=True)
class Affinity:
    """y = gain * x + offset, each one number or an array that broadcasts to x."""

    gain: F64
    offset: F64


def scaled(graph: Graph, op: TfliteOp, x: Value, map_: Affinity, clip: tuple[float, float], y: Affine | None) -> Value:
    """A value times and plus constants, then clipped."""
    gain, offset = single(map_.gain), single(map_.offset)
    if gain.size == offset.size == 1 and not bites(clip, y):
        folded = absorbed(graph, x, gain, offset, clip) if y is None else None
        if folded is not None:
            return folded
        return function(graph, op, x, "affine", (float(gain.reshape(())), float(offset.reshape(())) + lift(y)))
    wide = broadcast(gain.shape, offset.shape)
    channels = x.last if math.prod(wide[:-1]) == 1 and wide and wide[-1] in (1, x.last) else x.size
    if channels == x.size:
        graph.take(2 * x.size)
        gain, offset = (np.broadcast_to(part, x.shape) for part in (gain, offset))
    gain, offset = (np.broadcast_to(part.reshape(-1), (channels,)).astype(np.float64) for part in (gain, offset))
    if y is None and (folded := absorbed(graph, x, gain, offset, clip)) is not None:
        return folded
    graph.take(2 * channels)
    layer = FloatDepthwise(
        graph.name(op),
        (1, x.size // channels, channels),
        gain.reshape(-1, 1, 1).copy(),
        offset.copy(),
        low=clip[0],
        high=clip[1],
        sources=(x.source,),
        output=y,
    )
    return graph.add(layer, x.shape)


def lift(y: Affine | None) -> float:
    return 0.0 if y is None else HALF_UP * y.scale


def single(array: F64) -> F64:
    """One number where an array is the same everywhere."""
    return array.reshape(-1)[:1].reshape(()) if array.size and (array == array.reshape(-1)[0]).all() else array


def absorbed(graph: Graph, x: Value, gain: F64, offset: F64, clip: tuple[float, float]) -> Value | None:
    """The value with a map folded into the weights that make it; None where they cannot take it."""
    layer = graph.layers.get(x.source)
    free = isinstance(layer, FloatDense | FloatConv | FloatDepthwise) and layer.output is None
    if not (free and x.alone and x.affine is None and isinstance(layer, FloatDense | FloatConv | FloatDepthwise)):
        return None
    units = len(layer.weight)
    if (layer.low, layer.high) != (-math.inf, math.inf) or gain.size not in (1, units):
        return None
    if layer.weight_scale is not None and not gain.all():
        return None
    column = gain.reshape(-1, *(1 for _ in layer.weight.shape[1:]))
    scale = None if layer.weight_scale is None else layer.weight_scale * np.abs(gain)
    weight, bias = np.asarray(layer.weight * column, np.float64), np.asarray(layer.bias * gain + offset, np.float64)
    graph.layers[x.source] = replace(layer, weight=weight, bias=bias, low=clip[0], high=clip[1], weight_scale=scale)
    return x


def total(graph: Graph, op: TfliteOp) -> Value:
    """a + b or a - b, fused with a clip."""
    signs = (1, -1) if op.code == "SUB" else (1, 1)
    if (normal := layer_norm(graph, op)) is not None:
        return normal
    a, b, y = operand(graph, op, 0), operand(graph, op, 1), graph.fixed(op)
    clip = clip_of(op.options["fused_activation_function"], y)
    if isinstance(a, Value) and isinstance(b, Constant) and plain(a, b, y, clip):
        map_ = Affinity(np.ones(()), signs[1] * b.real.astype(np.float64))
        return scaled(graph, op, a, map_, clip, y)
    if isinstance(a, Constant) and isinstance(b, Value) and plain(b, a, y, clip):
        map_ = Affinity(np.asarray(float(signs[1])), a.real.astype(np.float64))
        return scaled(graph, op, b, map_, clip, y)
    first, second = values(graph, op, a, b)
    shapes = together(first.shape, second.shape)
    known = None
    if first.affine is not None and second.affine is not None and y is not None:
        known = tables.sum_multipliers(first.affine, second.affine, y, signs)
    layer = FloatAdd(graph.name(op), shapes, signs, *clip, known, sources=(first.source, second.source), output=y)
    return graph.add(layer, broadcast(first.shape, second.shape))


def product(graph: Graph, op: TfliteOp) -> Value:
    """a * b, fused with a clip."""
    a, b, y = operand(graph, op, 0), operand(graph, op, 1), graph.fixed(op)
    clip = clip_of(op.options["fused_activation_function"], y)
    for x, c in ((a, b), (b, a)):
        if isinstance(x, Value) and isinstance(c, Constant) and plain(x, c, y, clip):
            return scaled(graph, op, x, Affinity(c.real.astype(np.float64), np.zeros(())), clip, y)
    return multiplied(graph, op, *values(graph, op, a, b), clip)


def multiplied(graph: Graph, op: TfliteOp, a: Value, b: Value, clip: tuple[float, float]) -> Value:
    shapes = together(a.shape, b.shape)
    layer = FloatMul(graph.name(op), shapes, *clip, sources=(a.source, b.source), output=graph.fixed(op))
    return graph.add(layer, broadcast(a.shape, b.shape))


def quotient(graph: Graph, op: TfliteOp) -> Value:
    """By a constant."""
    x, below, y = graph.value(op), graph.constant(op, 1).real.astype(np.float64), graph.fixed(op)
    if not below.all():
        raise Unsupported("divides by 0")
    if broadcast(x.shape, below.shape) != x.shape:
        raise Unsupported(f"on values of shapes {x.shape} and {below.shape}")
    clip = clip_of(op.options["fused_activation_function"], y)
    return scaled(graph, op, x, Affinity(1 / below, np.zeros(())), clip, y)


def plain(x: Value, constant: Constant, y: Affine | None, clip: tuple[float, float]) -> bool:
    """Whether a constant need not be an operand: the value keeps its shape, and no fixed scale stands against it."""
    if not constant.array.size or broadcast(x.shape, constant.array.shape) != x.shape:
        return False
    return y is None or (not bites(clip, y) and single(constant.real.astype(np.float64)).size == 1)


def values(graph: Graph, op: TfliteOp, a: Value | Constant, b: Value | Constant) -> tuple[Value, Value]:
    if isinstance(a, Constant) and isinstance(b, Constant):
        raise Unsupported("of two constants")
    first = a if isinstance(a, Value) else held(graph, op, 0, a)
    return first, b if isinstance(b, Value) else held(graph, op, 1, b)


def squared_difference(graph: Graph, op: TfliteOp) -> Value:
    """(a - b)**2; between the two steps, where the file fixes the output, the scale that covers its root."""
    first, second = values(graph, op, operand(graph, op, 0), operand(graph, op, 1))
    y = graph.fixed(op)
    root = None if y is None else Affine(2 * math.sqrt(max(1, 127 - y.zero_point) * y.scale) / 255, 0)
    shape, sources = broadcast(first.shape, second.shape), (first.source, second.source)
    shapes = together(first.shape, second.shape)
    apart = graph.add(FloatAdd(graph.name(op, "-difference"), shapes, (1, -1), sources=sources, output=root), shape)
    return function(graph, op, apart, "square")


def extreme(graph: Graph, op: TfliteOp) -> Value:
    """MAXIMUM or MINIMUM of a value and one number."""
    a, b = operand(graph, op, 0), operand(graph, op, 1)
    x, c = (a, b) if isinstance(a, Value) else (b, a)
    if not (isinstance(x, Value) and isinstance(c, Constant) and c.array.size == 1):
        raise Unsupported("of something else than a value and a number")
    end = float(c.real.reshape(()))
    ends = (end, math.inf) if op.code == "MAXIMUM" else (-math.inf, end)
    return clipped(graph, op, x, ends)


# ------------------------------------------------------------------ functions


Integers: TypeAlias = Callable[[Affine, Affine], I64 | None]
"""What LiteRT gives for the integers -128 to 127 of one map, in those of another; None where it rounds the function."""


def function(
    graph: Graph,
    op: TfliteOp,
    x: Value,
    kind: str,
    parameters: tuple[float, ...] = (),
    integers: Integers | None = None,
) -> Value:
    """Of a value, with the map of the operator's output."""
    return mapped(graph, op, x, graph.fixed(op), kind, parameters, integers)


def mapped(
    graph: Graph,
    op: TfliteOp,
    x: Value,
    y: Affine | None,
    kind: str,
    parameters: tuple[float, ...] = (),
    integers: Integers | None = None,
) -> Value:
    known = None if integers is None or x.affine is None or y is None else integers(x.affine, y)
    table = () if known is None else tuple(known.tolist())
    layer = FloatUnary(graph.name(op), (x.size,), kind, parameters, table, sources=(x.source,), output=y)
    return graph.add(layer, x.shape)


def unary(kind: str, integers: Integers | None = None) -> Operator:
    return lambda graph, op: function(graph, op, graph.value(op), kind, (), integers)


def clipped(graph: Graph, op: TfliteOp, x: Value, ends: tuple[float, float]) -> Value:
    """clip(x): inside the layer that makes x where no file fixes a scale, else a function."""
    layer = graph.layers.get(x.source)
    bounded = FloatDense | FloatConv | FloatDepthwise | FloatPool | FloatAdd | FloatMul
    if x.alone and x.affine is None and isinstance(layer, bounded) and layer.output is None:
        low, high = (min(max(end, ends[0]), ends[1]) for end in (layer.low, layer.high))
        graph.layers[x.source] = replace(layer, low=low, high=high)
        return x
    return function(graph, op, x, "clip", ends, lambda x, y: tables.clipped(x, y, *ends))


def clip(kind: str) -> Operator:
    """A ReLU of its own."""
    return lambda graph, op: clipped(graph, op, graph.value(op), clip_of(kind, graph.fixed(op)))


def leaky_relu(graph: Graph, op: TfliteOp) -> Value:
    alpha = float(op.options["alpha"])
    return function(graph, op, graph.value(op), "leaky-relu", (alpha,), lambda x, y: tables.leaky_relu(x, y, alpha))


def prelu(graph: Graph, op: TfliteOp) -> Value:
    """max(x, 0) + slope * min(x, 0); at most one of them is not 0, so that both fit the scale of the output."""
    x, slope, y = graph.value(op), graph.constant(op, 1), graph.fixed(op)
    real = slope.real.astype(np.float64)
    if broadcast(x.shape, real.shape) != x.shape:
        raise Unsupported(f"a slope of shape {real.shape} on a value of shape {x.shape}")
    if single(real).size == 1:
        return function(graph, op, x, "leaky-relu", (float(real.reshape(-1)[0]),))
    above = mapped(graph, op, x, y, "relu")
    below = mapped(graph, op, x, x.affine, "clip", (-math.inf, 0.0))
    if y is None:
        steep = scaled(graph, op, below, Affinity(real, np.zeros(())), ENDS["NONE"], y)
    else:
        steep = multiplied(graph, op, below, held(graph, op, 1, slope), ENDS["NONE"])
    layer = FloatAdd(graph.name(op), ((x.size,), (x.size,)), sources=(above.source, steep.source), output=y)
    return graph.add(layer, x.shape)


def gelu(graph: Graph, op: TfliteOp) -> Value:
    return function(graph, op, graph.value(op), "gelu-tanh" if op.options["approximate"] else "gelu")


def softmax(graph: Graph, op: TfliteOp) -> Value:
    x, log = graph.value(op), op.code == "LOG_SOFTMAX"
    beta = 1.0 if log else float(op.options["beta"])
    layer = FloatSoftmax(graph.name(op), (x.rows, x.last), beta, log, sources=(x.source,), output=graph.fixed(op))
    return graph.add(layer, x.shape)


# ------------------------------------------------------------------ from one scale to another


def quantize(graph: Graph, op: TfliteOp) -> Value:
    """Another map for a value: of the input, of the layer that makes it, or else a function of its integers."""
    x, y = graph.value(op), graph.fixed(op)
    if y is None:
        raise Unsupported("makes floats")
    if x.source == "input" and x.affine is None:
        graph.input = graph.input or y
        x = replace(x, affine=graph.input)
    if x.affine == y:
        return x
    layer = graph.layers.get(x.source)
    if layer is not None and x.alone and x.affine is None and layer.output is None:
        graph.layers[x.source] = replace(layer, output=y)
        return replace(x, affine=y)
    return function(graph, op, x, "affine", (1.0, lift(y)), tables.rescaled)


def dequantize(graph: Graph, op: TfliteOp) -> Value:
    """The same integers."""
    return graph.value(op)


ELEMENTWISE: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        "ADD": total,
        "SUB": total,
        "MUL": product,
        "DIV": quotient,
        "SQUARED_DIFFERENCE": squared_difference,
        "MAXIMUM": extreme,
        "MINIMUM": extreme,
        "RELU": clip("RELU"),
        "RELU6": clip("RELU6"),
        "RELU_N1_TO_1": clip("RELU_N1_TO_1"),
        "LEAKY_RELU": leaky_relu,
        "PRELU": prelu,
        "ELU": unary("elu"),
        "GELU": gelu,
        "LOGISTIC": unary("sigmoid"),
        "TANH": unary("tanh"),
        "HARD_SWISH": unary("hard-swish", tables.hard_swish),
        "ABS": unary("abs", tables.absolute),
        "NEG": unary("neg"),
        "EXP": unary("exp"),
        "LOG": unary("log"),
        "SQRT": unary("sqrt", tables.square_root),
        "RSQRT": unary("rsqrt"),
        "SQUARE": unary("square"),
        "SIN": unary("sin"),
        "COS": unary("cos"),
        "SOFTMAX": softmax,
        "LOG_SOFTMAX": softmax,
        "QUANTIZE": quantize,
        "DEQUANTIZE": dequantize,
    }
)
