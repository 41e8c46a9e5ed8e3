"""Convolutions, pools, reductions and softmax: what needs its axes in one order. Images become (h, w, channel)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

import numpy as np

from exporters.nodes import FloatConv, FloatDepthwise, FloatPad, FloatPool, FloatSoftmax
from exporters.nodes.conv import ungroup
from exporters.onnx.dense import bias_of, steps_along, weight_of
from exporters.onnx.elementwise import NONE, Operator, affine
from exporters.onnx.graph import VALUES_MAX, Graph, Node, Shape, Unsupported, Value, reshaped


@dataclass(frozen=True, slots=True)
class Window:
    """How a kernel walks over an image, height before width; 1-D is height 1.

    extra  rows and columns that ceil_mode adds at the end, padding that is never counted
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]  # top, left, bottom, right
    extra: tuple[int, int] = (0, 0)

    @property
    def widest(self) -> tuple[int, int, int, int]:
        top, left, bottom, right = self.padding
        return top, left, bottom + self.extra[0], right + self.extra[1]


def image(graph: Graph, x: Value) -> Value:
    """(1, c, [h,] w), lying as (h, w, c)."""
    rank = len(x.shape)
    if rank not in (3, 4) or x.shape[0] != 1:
        raise Unsupported(f"on a value of shape {x.shape}")
    return graph.arranged(x, (0, *range(2, rank), 1))


def laid_out(x: Value) -> tuple[int, int, int]:
    """(h, w, c) of an image."""
    c, *size = x.shape[1:]
    return (*pair(size, 1), c)


def pair(given: Sequence[int], fill: int) -> tuple[int, int]:
    """Of one number or two: height before width."""
    if len(given) not in (1, 2):
        raise Unsupported(f"{len(given)} spatial dimensions")
    return (fill, given[0]) if len(given) == 1 else (given[0], given[1])


def window(node: Node, x: Value, kernel: Sequence[int]) -> Window:
    """From a node's attributes, on an image (1, c, ...)."""
    size = x.shape[2:]
    ones = (1,) * len(size)
    stride = node.integers("strides") or ones
    dilation = node.integers("dilations") or ones
    pads = node.integers("pads") or (0,) * 2 * len(size)
    if not len(kernel) == len(stride) == len(dilation) == len(size) == len(pads) / 2:
        raise Unsupported(f"a window of {len(kernel)} dimensions on a value of shape {x.shape}")
    if min(*kernel, *stride, *dilation) < 1 or min(pads) < 0 or max(*kernel, *stride, *dilation, *pads) > VALUES_MAX:
        raise Unsupported(f"kernel {tuple(kernel)}, strides {stride}, dilations {dilation}, pads {pads}")
    before, after = pads[: len(size)], pads[len(size) :]
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if (auto := node.text("auto_pad", "NOTSET")) != "NOTSET":
        before, after = automatic(auto, size, reach, stride)
    extra = [0] * len(size)
    if node.integer("ceil_mode", 0):
        extra = [beyond(*given) for given in zip(size, before, after, reach, stride, strict=True)]
    top, left = pair(before, 0)
    bottom, right = pair(after, 0)
    return Window(pair(kernel, 1), pair(stride, 1), pair(dilation, 1), (top, left, bottom, right), pair(extra, 0))


def automatic(kind: str, size: Sequence[int], reach: Sequence[int], stride: Sequence[int]) -> tuple[Shape, Shape]:
    """auto_pad as pads before and after: SAME gives ceil(size / stride) outputs, VALID pads nothing."""
    if kind == "VALID":
        return (0,) * len(size), (0,) * len(size)
    if kind not in ("SAME_UPPER", "SAME_LOWER"):
        raise Unsupported(f"auto_pad {kind}")
    whole = [max((-(-n // s) - 1) * s + r - n, 0) for n, r, s in zip(size, reach, stride, strict=True)]
    less, more = tuple(n // 2 for n in whole), tuple(n - n // 2 for n in whole)
    return (less, more) if kind == "SAME_UPPER" else (more, less)


def beyond(size: int, before: int, after: int, reach: int, stride: int) -> int:
    """How far the last window of ceil_mode reaches past the padding; it must begin inside."""
    outputs = -(-(size + before + after - reach) // stride) + 1
    if (outputs - 1) * stride >= size + before:
        outputs -= 1
    return max((outputs - 1) * stride + reach - size - before - after, 0)


# ------------------------------------------------------------------ convolutions


def conv(graph: Graph, node: Node) -> Value:
    """Full, depthwise where every group is one channel, grouped as full with zeros."""
    array, step = weight_of(graph, node, 1)
    x = image(graph, graph.value(node))
    size = x.shape[1:]
    if array.ndim != len(x.shape):
        raise Unsupported(f"weight of shape {array.shape} on a value of shape {x.shape}")
    walk = window(node, x, array.shape[2:])
    groups, filters = node.integer("group", 1), len(array)
    if groups < 1 or array.shape[1] * groups != size[0] or not filters or filters % groups:
        raise Unsupported(f"{groups} groups, weight of shape {array.shape} on a value of shape {x.shape}")
    taps = np.moveaxis(array.reshape(*array.shape[:2], *walk.kernel), 1, 3)
    bias, steps = bias_of(graph, node, 2, filters, array.dtype), steps_along(step, 0, filters)
    name, shape = graph.name(node, node.inputs[1]), laid_out(x)
    geometry = (walk.stride, walk.dilation, walk.padding)
    if groups == size[0] and groups > 1:
        weight = np.ascontiguousarray(taps[..., 0])
        layer: FloatConv | FloatDepthwise = FloatDepthwise(
            name, shape, weight, bias, *geometry, weight_scale=steps, sources=(x.source,)
        )
    else:
        if taps.size * groups > VALUES_MAX:
            raise Unsupported(f"{taps.size * groups} weights without groups, the limit is {VALUES_MAX}")
        weight = np.ascontiguousarray(ungroup(taps, groups, size[0]) if groups > 1 else taps)
        layer = FloatConv(name, shape, weight, bias, *geometry, weight_scale=steps, sources=(x.source,))
    return imaged(graph, layer, x)


def imaged(graph: Graph, layer: FloatConv | FloatDepthwise | FloatPool, x: Value) -> Value:
    """The value of a layer that makes an image of one."""
    if min(layer.shape) < 1:
        raise Unsupported(f"leaves nothing of a value of shape {x.shape}")
    height, width, channels = layer.shape
    return graph.add(layer, (1, channels, *((height, width) if len(x.shape) == 4 else (width,))), x.lies)


# ------------------------------------------------------------------ pools


def max_pool(graph: Graph, node: Node) -> Value:
    if any(graph.readers.get(name) for name in node.outputs[1:]):
        raise Unsupported("gives positions")
    x = image(graph, graph.held(node))
    walk = window(node, x, node.integers("kernel_shape") or ())
    layer = FloatPool(
        graph.name(node), laid_out(x), "max", walk.kernel, walk.stride, walk.dilation, walk.widest,
        sources=(x.source,), output=x.affine if x.integers else None,
    )  # fmt: skip
    return replace(imaged(graph, layer, x), affine=x.affine if x.integers else None, integers=x.integers)


def average_pool(graph: Graph, node: Node) -> Value:
    x = image(graph, graph.value(node))
    walk, count = window(node, x, node.integers("kernel_shape") or ()), bool(node.integer("count_include_pad", 0))
    if count and any(walk.extra) and any(walk.padding):
        top, left, bottom, right = walk.padding
        name = graph.name(node)
        pad = FloatPad(f"{name}.pad", laid_out(x), (top, left, 0), (bottom, right, 0), sources=(x.source,))
        height, width, channels = pad.shape
        wider = (1, channels, height, width) if len(x.shape) == 4 else (1, channels, width)
        x = graph.add(pad, wider, x.lies)
        walk, count = replace(walk, padding=(0, 0, 0, 0)), False
    count = count and not any(walk.extra)
    layer = FloatPool(
        graph.name(node), laid_out(x), "average", walk.kernel, walk.stride, walk.dilation, walk.widest, count,
        sources=(x.source,),
    )  # fmt: skip
    return imaged(graph, layer, x)


def global_pool(kind: Literal["max", "average"]) -> Operator:
    def run(graph: Graph, node: Node) -> Value:
        x = graph.value(node)
        return pooled(graph, node, x, range(2, len(x.shape)), kind, keep=True)

    return run


def reduction(kind: Literal["max", "average"], *, scaled: bool = False) -> Operator:
    """Mean, maximum or, `scaled`, the sum over any axes."""

    def run(graph: Graph, node: Node) -> Value:
        x, axes = graph.value(node), graph.numbers(node, 1, "axes")
        if not axes and node.integer("noop_with_empty_axes", 0):
            return x
        gone = {x.axis(axis) for axis in axes} if axes else range(len(x.shape))
        y = pooled(graph, node, x, gone, kind, keep=bool(node.integer("keepdims", 1)))
        return affine(graph, node, y, np.asarray(float(x.size // y.size)), NONE) if scaled else y

    return run


def pooled(
    graph: Graph, node: Node, x: Value, axes: Collection[int], kind: Literal["max", "average"], *, keep: bool
) -> Value:
    """One pool over these axes, wherever they lie together; else they are moved to the front."""
    gone, rest = [a for a in x.order if a in axes], [a for a in x.order if a not in axes]
    shape = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    if gone:
        inside = [a in axes for a in x.order]
        if inside not in (sorted(inside), sorted(inside, reverse=True)):
            x = graph.arranged(x, [*gone, *rest, *(a for a in x.lies if x.shape[a] == 1)])
        kernel, others = pair_of([x.shape[a] for a in gone]), math.prod(x.shape[a] for a in rest)
        if x.order[0] not in axes:
            kernel, size = (1, math.prod(kernel)), (others, math.prod(kernel), 1)
        else:
            size = (*kernel, others)
        layer = FloatPool(graph.name(node), size, kind, kernel, kernel, sources=(x.source,))
        x = graph.add(layer, shape, x.lies)
    return x if keep else reshaped(graph, x, tuple(n for a, n in enumerate(x.shape) if a not in axes))


def pair_of(sizes: Sequence[int]) -> tuple[int, int]:
    """A height and a width of as many values."""
    return math.prod(sizes[:-1]), sizes[-1]


# ------------------------------------------------------------------ softmax


def softmax(graph: Graph, node: Node) -> Value:
    """Over one axis since opset 13; before, over all from one on."""
    x = graph.value(node)
    if node.version >= 13:
        axes = [x.axis(node.integer("axis", -1))]
    else:
        axes = list(range(x.axis(node.integer("axis", 1)), len(x.shape)))
    x = graph.arranged(x, [*(a for a in x.lies if a not in axes), *axes])
    n = math.prod(x.shape[a] for a in axes)
    layer = FloatSoftmax(graph.name(node), (x.size // n, n), log=node.op == "LogSoftmax", sources=(x.source,))
    return graph.add(layer, x.shape, x.lies)


WINDOWS: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        "Conv": conv,
        "MaxPool": max_pool,
        "AveragePool": average_pool,
        "GlobalAveragePool": global_pool("average"),
        "GlobalMaxPool": global_pool("max"),
        "ReduceMean": reduction("average"),
        "ReduceMax": reduction("max"),
        "ReduceSum": reduction("average", scaled=True),
        "Softmax": softmax,
        "LogSoftmax": softmax,
    }
)
