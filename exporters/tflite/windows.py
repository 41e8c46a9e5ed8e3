"""Dense layers, convolutions, pools and reductions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Literal

import numpy as np

from edgerun.arrays import F32, F64
from edgerun.layers.window import Pair, Sides
from exporters.nodes import FloatConv, FloatDense, FloatDepthwise, FloatPad, FloatPool
from exporters.nodes.conv import ungroup
from exporters.tflite.graph import (
    VALUES_MAX,
    Graph,
    Operator,
    Unsupported,
    Value,
    bias_of,
    clip_of,
    moved,
    weight_of,
)
from exporters.tflite.moves import turned
from exporters.tflite_reader import TfliteOp

# ------------------------------------------------------------------ dense layers


def product(
    graph: Graph, op: TfliteOp, x: Value, weight: F32 | F64, bias: F32 | F64, scale: F64 | None, activation: str
) -> Value:
    """x (rows, inputs) by weight (units, inputs): a dense layer, or a convolution of 1 x 1 over many rows."""
    units, inputs = weight.shape
    if x.size % inputs:
        raise Unsupported(f"weights of shape {weight.shape} on a value of shape {x.shape}")
    rows, y = x.size // inputs, graph.fixed(op)
    low, high = clip_of(activation, y)
    name, sources = graph.name(op), (x.source,)
    if rows == 1:
        return graph.add(FloatDense(name, weight, bias, low, high, scale, sources=sources, output=y), (1, units))
    taps = weight.reshape(units, 1, 1, inputs)
    layer = FloatConv(
        name, (1, rows, inputs), taps, bias, low=low, high=high, weight_scale=scale, sources=sources, output=y
    )
    return graph.add(layer, (rows, units))


def fully_connected(graph: Graph, op: TfliteOp) -> Value:
    x = graph.value(op)
    if op.options["weights_format"] != "DEFAULT":
        raise Unsupported(f"weights in the order {op.options['weights_format']}")
    weight, scale = weight_of(graph, op, 1, 0)
    if weight.ndim != 2:
        raise Unsupported(f"weights of shape {weight.shape}")
    bias = bias_of(graph, op, 2, x, scale, len(weight))
    y = product(graph, op, x, weight, bias, scale, op.options["fused_activation_function"])
    if op.options["keep_num_dims"]:
        if x.last != weight.shape[1]:
            raise Unsupported(f"weights of shape {weight.shape} on a value of shape {x.shape}")
        return replace(y, shape=(*x.shape[:-1], len(weight)))
    return y


def batch_matmul(graph: Graph, op: TfliteOp) -> Value:
    """By a constant from the right."""
    x, found = graph.value(op), graph.constant(op, 1)
    rank = found.array.ndim
    if rank < 2 or math.prod(found.array.shape[:-2]) != 1 or op.options.get("adj_x"):
        raise Unsupported(f"by weights of shape {found.array.shape}, or transposed from the left")
    across = bool(op.options.get("adj_y"))
    weight, scale = weight_of(graph, op, 1, rank - 2 if across else rank - 1)
    weight = weight.reshape(weight.shape[-2], weight.shape[-1])
    weight = weight if across else weight.T
    if x.last != weight.shape[1]:
        raise Unsupported(f"weights of shape {weight.shape} on a value of shape {x.shape}")
    y = product(graph, op, x, weight, np.zeros(len(weight), weight.dtype), scale, "NONE")
    return replace(y, shape=(*x.shape[:-1], len(weight)))


# ------------------------------------------------------------------ windows


def image(x: Value) -> tuple[int, int, int]:
    """(h, w, c) of a value (1, h, w, c)."""
    if len(x.shape) != 4 or x.shape[0] != 1:
        raise Unsupported(f"on a value of shape {x.shape}")
    return x.shape[1], x.shape[2], x.shape[3]


def pair(op: TfliteOp, down: str, across: str) -> Pair:
    """Two options, height before width, each from 1."""
    h, w = int(op.options[down]), int(op.options[across])
    if not (1 <= h <= VALUES_MAX and 1 <= w <= VALUES_MAX):
        raise Unsupported(f"{down} {h} and {across} {w}")
    return h, w


def sides(op: TfliteOp, size: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> Sides:
    """SAME gives ceil(size / stride) outputs and pads more at the end; VALID pads nothing."""
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if op.options["padding"] == "VALID":
        if any(r > n for r, n in zip(reach, size, strict=True)):
            raise Unsupported(f"a window of {tuple(reach)} on an image of {size}")
        return 0, 0, 0, 0
    whole = [max((-(-n // s) - 1) * s + r - n, 0) for n, r, s in zip(size, reach, stride, strict=True)]
    if max(whole) > VALUES_MAX:
        raise Unsupported(f"a window of {tuple(reach)} on an image of {size}")
    return whole[0] // 2, whole[1] // 2, whole[0] - whole[0] // 2, whole[1] - whole[1] // 2


def convolution(graph: Graph, op: TfliteOp) -> Value:
    """Full or depthwise. Zeros around its image, and blocks that stand for a dilation, become fields of its own."""
    depthwise = op.code == "DEPTHWISE_CONV_2D"
    x = graph.value(op, blocks=True)
    weight, scale = weight_of(graph, op, 1, 3 if depthwise else 0)
    if weight.ndim != 4 or (depthwise and len(weight) != 1):
        raise Unsupported(f"weights of shape {weight.shape}")
    taps = np.ascontiguousarray(np.moveaxis(weight[0], 2, 0)) if depthwise else weight
    kernel = taps.shape[1], taps.shape[2]
    stride = pair(op, "stride_h", "stride_w")
    dilation = pair(op, "dilation_h_factor", "dilation_w_factor")
    if x.blocks is None:
        shape, source = image(x), x.source
        padding = sides(op, shape[:2], kernel, stride, dilation)
        if not any(padding):
            source, shape, padding = without_padding(graph, x, shape)
    else:
        shape, source, padding = unblocked(op, x, stride, dilation), x.source, x.blocks.padding
        dilation = x.blocks.size
    channels, filters = shape[2], len(taps)
    if not depthwise:
        taps = full(taps, channels)
    elif filters % channels or filters < channels:
        raise Unsupported(f"weights of shape {weight.shape} on {channels} channels")
    y = graph.fixed(op)
    low, high = clip_of(op.options["fused_activation_function"], y)
    layer = (FloatDepthwise if depthwise else FloatConv)(
        graph.name(op),
        shape,
        taps,
        bias_of(graph, op, 2, x, scale, filters),
        stride,
        dilation,
        padding,
        low,
        high,
        scale,
        sources=(source,),
        output=y,
    )
    if min(layer.shape[:2]) < 1:
        raise Unsupported(f"a window of {kernel} dilated by {dilation} on an image of {shape[:2]}")
    made = graph.add(layer, (1, *layer.shape))
    if x.blocks is None:
        return made
    h, w = (n // size for n, size in zip(layer.shape, x.blocks.size, strict=False))
    return replace(made, shape=(x.shape[0], h, w, filters), blocks=replace(x.blocks, done=True))


def full(taps: F32 | F64, channels: int) -> F32 | F64:
    """Weights over all channels: those of groups (filters, kh, kw, channels / groups) get zeros elsewhere."""
    filters, each = len(taps), taps.shape[3]
    groups = channels // each if each else 0
    if groups < 1 or groups * each != channels or filters % groups:
        raise Unsupported(f"weights of shape {taps.shape} on {channels} channels")
    if taps.size * groups > VALUES_MAX:
        raise Unsupported(f"{taps.size * groups} weights without groups, the limit is {VALUES_MAX}")
    return ungroup(taps, groups, channels) if groups > 1 else taps


def without_padding(graph: Graph, x: Value, shape: tuple[int, int, int]) -> tuple[str, tuple[int, int, int], Sides]:
    """What a convolution reads: the image before a layer of zeros around it, which only it reads, and those zeros."""
    layer = graph.layers.get(x.source)
    if not (isinstance(layer, FloatPad) and x.alone and layer.value == 0 and layer.sources):
        return x.source, shape, (0, 0, 0, 0)
    before, after = ([0] * 4 + list(side) for side in (layer.before, layer.after))
    inner = [1] * 4 + list(layer.input_shape)
    if any(before[:-3]) or any(after[:-3]) or before[-1] or after[-1] or tuple(shape) != picture(layer.shape):
        return x.source, shape, (0, 0, 0, 0)
    return layer.sources[0], (inner[-3], inner[-2], inner[-1]), (before[-3], before[-2], after[-3], after[-2])


def picture(shape: Sequence[int]) -> tuple[int, ...]:
    """The last three axes, those missing being 1."""
    return tuple(([1, 1, 1, *shape])[-3:])


def unblocked(op: TfliteOp, x: Value, stride: Pair, dilation: Pair) -> tuple[int, int, int]:
    """The whole image behind blocks. Raises Unsupported where the convolution does not read plain blocks."""
    if x.blocks is None or x.blocks.done:
        raise Unsupported("a second convolution inside a space-to-batch block")
    (bh, bw), (h, w, c), (top, left, bottom, right) = x.blocks.size, x.blocks.image, x.blocks.padding
    cells = (bh * bw, (h + top + bottom) // bh, (w + left + right) // bw, c)
    if x.shape != cells or (stride, dilation, op.options["padding"]) != ((1, 1), (1, 1), "VALID"):
        raise Unsupported("inside a space-to-batch block it is no plain convolution; convert with a fixed batch of 1")
    return h, w, c


def pool(kind: Literal["max", "average"]) -> Operator:
    """LiteRT rounds means of the stored integers, halves away from 0: those of uint8, never below it, go up."""

    def run(graph: Graph, op: TfliteOp) -> Value:
        x = graph.value(op)
        shape, kernel = image(x), pair(op, "filter_height", "filter_width")
        stride = pair(op, "stride_h", "stride_w")
        padding = sides(op, shape[:2], kernel, stride, (1, 1))
        if kind == "max":
            moved(graph, op, x)
        y = graph.fixed(op)
        low, high = clip_of(op.options["fused_activation_function"], y)
        layer = FloatPool(
            graph.name(op),
            shape,
            kind,
            kernel,
            stride,
            padding=padding,
            low=low,
            high=high,
            ties="away" if kind == "average" and graph.model.writes(op)[0].dtype == "int8" else "up",
            sources=(x.source,),
            output=y,
        )
        return graph.add(layer, (1, *layer.shape))

    return run


def reduction(graph: Graph, op: TfliteOp) -> Value:
    """Mean, largest value or sum over some axes: a window over them, which are moved side by side where they are not.

    A sum is a convolution by ones.
    """
    x = graph.value(op)
    axes = {x.axis(axis) for axis in graph.integers(op, 1)}
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    shape = [x.shape[axis] for axis in kept]
    if op.options["keep_dims"]:
        shape = [1 if axis in axes else n for axis, n in enumerate(x.shape)]
    if op.code == "REDUCE_MAX":
        moved(graph, op, x)
    first = min((axis for axis in axes if x.shape[axis] != 1), default=0)
    front = [axis for axis in kept if axis < first]
    x = turned(graph, op, x, (*front, *sorted(axes), *(axis for axis in kept if axis >= first)))
    before = math.prod(x.shape[: len(front)])
    count = math.prod(x.shape) // max(1, math.prod(shape))
    after = x.size // (before * count)
    y, source = graph.fixed(op), (x.source,)
    cube = (before, count, after)
    if op.code == "SUM":
        graph.take(after * count)
        ones = np.ones((after, 1, count), np.float32)
        scale = None if y is None else np.ones(after)
        layer = FloatDepthwise(
            graph.name(op),
            cube,
            ones,
            np.zeros(after, np.float32),
            (1, count),
            weight_scale=scale,
            sources=source,
            output=y,
        )
        return graph.add(layer, shape)
    kind: Literal["max", "average"] = "max" if op.code == "REDUCE_MAX" else "average"
    return graph.add(FloatPool(graph.name(op), cube, kind, (1, count), (1, count), sources=source, output=y), shape)


WINDOWS: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        "FULLY_CONNECTED": fully_connected,
        "BATCH_MATMUL": batch_matmul,
        "CONV_2D": convolution,
        "DEPTHWISE_CONV_2D": convolution,
        "MAX_POOL_2D": pool("max"),
        "AVERAGE_POOL_2D": pool("average"),
        "MEAN": reduction,
        "SUM": reduction,
        "REDUCE_MAX": reduction,
    }
)
