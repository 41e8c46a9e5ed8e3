"""Layer normalisation, which LiteRT has no operator for: the steps that converters write, read as one layer.

    g = gamma * rsqrt(mean((x - m)**2) + epsilon),   m = mean(x)          over the last axis
    x * g + (beta - m * g)      or      (x - m) * g + beta,               gamma and beta may be missing

The steps in between become layers as well, which nothing reads any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from edgerun.arrays import F32
from exporters.nodes import FloatLayerNorm
from exporters.tflite.graph import Graph, Unsupported, Value
from exporters.tflite_reader import TfliteOp


class Gain(NamedTuple):
    """What a factor g is made of; tensors by index, gamma None for ones."""

    x: int
    mean: int
    gamma: int | None
    epsilon: float


def layer_norm(graph: Graph, op: TfliteOp) -> Value | None:
    """The layer that ends in this ADD or SUB; None where it ends no such pattern."""
    if op.options["fused_activation_function"] != "NONE":
        return None
    found = shifted(graph, op) or centred(graph, op)
    if found is None:
        return None
    (x, _, gamma, epsilon), beta = found
    value = graph.values[x]
    layer = FloatLayerNorm(
        graph.name(op),
        (value.rows, value.last),
        channels(graph, gamma, value.last, 1.0),
        channels(graph, beta, value.last, 0.0),
        epsilon,
        sources=(value.source,),
        output=graph.fixed(op),
    )
    return graph.add(layer, value.shape)


def channels(graph: Graph, index: int | None, count: int, missing: float) -> F32:
    if index is None:
        return np.full(count, missing, np.float32)
    array = graph.constants[index].real.reshape(-1)
    if array.size not in (1, count):
        raise Unsupported(f"normalises {count} channels by {array.size} factors")
    return np.broadcast_to(array.astype(np.float32), (count,)).copy()


def shifted(graph: Graph, op: TfliteOp) -> tuple[Gain, int | None] | None:
    """x g + (beta - m g)."""
    for p, q in pairs(graph, op):
        for x, g in pairs(graph, made(graph, p, "MUL")):
            gain = gain_of(graph, g)
            if gain is not None and gain.x == x and (beta := shift(graph, op, q, gain.mean, g)) is not None:
                return gain, beta[0]
    return None


def shift(graph: Graph, op: TfliteOp, q: int, mean: int, g: int) -> tuple[int | None] | None:
    """beta of beta - m g, or of (-m) g + beta; (None,) where it is missing; None where q is something else."""
    minus = {(mean, g), (g, mean)}
    if op.code == "SUB":
        return (None,) if {*pairs(graph, made(graph, q, "MUL"))} == minus else None
    if (less := made(graph, q, "SUB")) is not None:
        beta, product = (origin(graph, index) for index in less.inputs)
        fits = beta in graph.constants and {*pairs(graph, made(graph, product, "MUL"))} == minus
        return (beta,) if fits else None
    for product, beta in pairs(graph, made(graph, q, "ADD")):
        if beta in graph.constants and negative(graph, product, mean, g):
            return (beta,)
    return (None,) if negative(graph, q, mean, g) else None


def negative(graph: Graph, index: int, mean: int, g: int) -> bool:
    """Whether it is (-m) g."""
    for a, b in pairs(graph, made(graph, index, "MUL")):
        less = made(graph, a, "NEG")
        if b == g and less is not None and origin(graph, less.inputs[0]) == mean:
            return True
    return False


def centred(graph: Graph, op: TfliteOp) -> tuple[Gain, int | None] | None:
    """(x - m) g + beta, gamma being part of g or a factor of its own."""
    for p, beta in pairs(graph, op) if op.code == "ADD" else ():
        if beta not in graph.constants:
            continue
        for a, b in pairs(graph, made(graph, p, "MUL")):
            inner, gamma = (a, b) if b in graph.constants else (p, None)
            for less, g in pairs(graph, made(graph, inner, "MUL")):
                gain, difference = gain_of(graph, g), made(graph, less, "SUB")
                if gain is None or difference is None or (gamma is not None and gain.gamma is not None):
                    continue
                if tuple(origin(graph, index) for index in difference.inputs) == (gain.x, gain.mean):
                    return (gain if gamma is None else gain._replace(gamma=gamma)), beta
    return None


def gain_of(graph: Graph, index: int) -> Gain | None:
    """gamma * rsqrt(variance + epsilon), or without gamma."""
    for root, gamma in [(index, None), *pairs(graph, made(graph, index, "MUL"))]:
        inverse = made(graph, root, "RSQRT")
        if inverse is None or (gamma is not None and gamma not in graph.constants):
            continue
        for variance, epsilon in pairs(graph, made(graph, inverse.inputs[0], "ADD")):
            mean = made(graph, variance, "MEAN")
            known = graph.constants.get(epsilon)
            if mean is None or known is None or known.array.size != 1 or not last(graph, mean):
                continue
            for x, m in pairs(graph, made(graph, mean.inputs[0], "SQUARED_DIFFERENCE")):
                average = made(graph, m, "MEAN")
                if average is not None and last(graph, average) and origin(graph, average.inputs[0]) == x:
                    return Gain(x, m, gamma, float(known.real.reshape(())))
    return None


def last(graph: Graph, mean: TfliteOp) -> bool:
    """Whether a mean goes over the last axis alone."""
    value = graph.values.get(mean.inputs[0])
    return value is not None and graph.integers(mean, 1) in ((-1,), (len(value.shape) - 1,))


def origin(graph: Graph, index: int) -> int:
    """The tensor before steps that change scales only."""
    while (op := graph.makers.get(index)) is not None and op.code in ("QUANTIZE", "DEQUANTIZE"):
        index = op.inputs[0]
    return index


def made(graph: Graph, index: int, code: str) -> TfliteOp | None:
    """The operator that makes a tensor, if it is such a one."""
    op = graph.makers.get(origin(graph, index))
    return op if op is not None and op.code == code and op.inputs else None


def pairs(graph: Graph, op: TfliteOp | None) -> Iterator[tuple[int, int]]:
    """Two operands, each in turn first; nothing where there is no operator, or it has not two."""
    if op is not None and len(op.inputs) == 2:
        a, b = (origin(graph, index) for index in op.inputs)
        yield a, b
        yield b, a
