"""Nodes that take listed positions along axes: gathering, borders of what is inside, nearest resizing, repeating."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np

from edgerun.arrays import F32
from exporters.nodes import FloatTake
from exporters.onnx.elementwise import Operator
from exporters.onnx.graph import Graph, Node, Unsupported, Value, checked_shape, reshaped

BORDERS: Final = ("reflect", "edge", "wrap")


def taken(graph: Graph, node: Node, x: Value, axis: int, index: Sequence[int]) -> Value:
    """The positions of `index` along an axis; a layer only where they are not all, in order."""
    if list(index) == list(range(x.shape[axis])):
        return x
    shape = checked_shape((*x.shape[:axis], len(index), *x.shape[axis + 1 :]))
    kept = [a for a in x.lies if x.shape[a] != 1 or a == axis]
    physical = tuple(x.shape[a] for a in kept)
    layer = FloatTake(graph.name(node), physical, kept.index(axis), tuple(index), sources=(x.source,))
    return replace(graph.add(layer, shape, x.lies), affine=x.affine, integers=x.integers)


def bounded(graph: Graph, sizes: Sequence[int]) -> None:
    """Raises where a value of this shape holds nothing or too much, or its positions take more room than is left."""
    graph.take(max(checked_shape(sizes), default=0))


def bordered(graph: Graph, node: Node, x: Value, sides: Mapping[int, tuple[int, int]], mode: str) -> Value:
    """`sides`: how many before and after, by axis, of what lies inside."""
    if mode not in BORDERS:
        raise Unsupported(f"mode {mode}")
    bounded(graph, [n + sum(sides.get(axis, ())) for axis, n in enumerate(x.shape)])
    for axis, pair in sides.items():
        n = x.shape[axis]
        if min(pair) < 0 or max(pair) > (n - 1 if mode == "reflect" else n if mode == "wrap" else math.inf):
            raise Unsupported(f"pads {n} positions by {pair}, mode {mode}")
        index = np.arange(-pair[0], n + pair[1])
        if mode == "edge":
            index = np.clip(index, 0, n - 1)
        elif mode == "wrap":
            index %= n
        else:
            index = n - 1 - np.abs(n - 1 - np.abs(index))
        x = taken(graph, node, x, axis, index.tolist())
    return x


# ------------------------------------------------------------------ nearest


def resize(graph: Graph, node: Node) -> Value:
    """To the nearest position along each axis."""
    x = graph.held(node)
    for what, only in (("mode", "nearest"), ("keep_aspect_ratio_policy", "stretch")):
        if (given := node.text(what, only)) != only:
            raise Unsupported(f"{what} {given}")
    found = targets(graph, node, x)
    bounded(graph, [found[axis][0] if axis in found else n for axis, n in enumerate(x.shape)])
    for axis, (size, scale) in found.items():
        x = taken(graph, node, x, axis, nearest(node, x.shape[axis], size, scale))
    return x


def targets(graph: Graph, node: Node, x: Value) -> dict[int, tuple[int, np.float32]]:
    """The new size of each axis that is named, and how many times the old one it is."""
    axes = tuple(x.axis(axis) for axis in node.integers("axes") or range(len(x.shape)))
    old = [x.shape[axis] for axis in axes]
    scales = graph.maybe(node, 1 if node.version < 11 or node.op == "Upsample" else 2)
    if scales is not None and scales.size:
        factors = scales.reshape(-1).astype(np.float32)
    elif node.op == "Upsample" and "scales" in node.info:
        factors = np.asarray(node.info["scales"], np.float32)
    else:
        sizes = graph.numbers(node, 3, "sizes") or ()
        if len(sizes) != len(axes):
            raise Unsupported(f"{len(sizes)} sizes for {len(axes)} axes")
        ratios = [np.float32(size) / np.float32(n) for size, n in zip(sizes, old, strict=True)]
        return dict(zip(axes, zip(sizes, ratios, strict=True), strict=True))
    if len(factors) != len(axes) or not (factors > 0).all():
        raise Unsupported(f"{len(factors)} scales for {len(axes)} axes")
    made = [math.floor(float(np.float32(n) * factor)) for n, factor in zip(old, factors, strict=True)]
    return dict(zip(axes, zip(made, factors, strict=True), strict=True))


def nearest(node: Node, n: int, size: int, scale: np.float32) -> list[int]:
    """Which of n positions ONNX Runtime reads for each of `size`, in its float32."""
    k = np.arange(size, dtype=np.float32)
    if scale == 1 and size == n:
        return list(range(n))
    way = node.text("coordinate_transformation_mode", "half_pixel")
    if node.version < 11 or node.op == "Upsample":
        found = np.ceil(k / scale) if scale < 1 else np.floor(k / scale)
    else:
        found = rounded(placed(k, way, n, size, scale), node.text("nearest_mode", "round_prefer_floor"))
    return [int(place) for place in np.clip(found, 0, n - 1)]


def placed(k: F32, way: str, n: int, size: int, scale: np.float32) -> F32:
    """Where the positions k lie among the old ones."""
    half = np.float32(0.5)
    if way == "half_pixel" or (way == "pytorch_half_pixel" and size > 1):
        return np.asarray((k + half) / scale - half, np.float32)
    if way == "pytorch_half_pixel":
        return np.zeros_like(k)
    if way == "asymmetric":
        return np.asarray(k / scale, np.float32)
    if way == "align_corners":
        return np.asarray(k * np.float32(n - 1) / np.float32(size - 1) if size > 1 else 0 * k, np.float32)
    if way == "tf_half_pixel_for_nn":
        return np.asarray((k + half) / scale, np.float32)
    raise Unsupported(f"coordinate_transformation_mode {way}")


def rounded(x: F32, way: str) -> F32:
    half = np.float32(0.5)
    if way == "round_prefer_floor":
        return np.asarray(np.ceil(x - half), np.float32)
    if way == "round_prefer_ceil":
        return np.asarray(np.floor(x + half), np.float32)
    if way in ("floor", "ceil"):
        return np.asarray(np.floor(x) if way == "floor" else np.ceil(x), np.float32)
    raise Unsupported(f"nearest_mode {way}")


# ------------------------------------------------------------------ repeating, gathering, blocks


def repeated(graph: Graph, node: Node, x: Value, times: Sequence[int]) -> Value:
    """The whole value so many times along each axis."""
    if len(times) != len(x.shape):
        raise Unsupported(f"repeats a value of shape {x.shape} {tuple(times)} times")
    bounded(graph, [n * k for n, k in zip(x.shape, times, strict=True)])
    for axis, k in enumerate(times):
        x = taken(graph, node, x, axis, list(range(x.shape[axis])) * k)
    return x


def tile(graph: Graph, node: Node) -> Value:
    return repeated(graph, node, graph.held(node), graph.numbers(node, 1, "repeats") or ())


def features(graph: Graph, node: Node) -> Value:
    """Some positions of the last axis."""
    x = graph.held(node)
    wanted = [int(k) for k in graph.constant(node, 1).reshape(-1)]
    if not wanted or min(wanted) < 0 or max(wanted) >= x.shape[-1]:
        raise Unsupported(f"positions {wanted[:8]} of {x.shape[-1]}")
    return taken(graph, node, x, len(x.shape) - 1, wanted)


def blocks(graph: Graph, node: Node) -> Value:
    """Depth to space or back: views, until values must lie otherwise."""
    x, size = graph.held(node), node.integer("blocksize", 0)
    if len(x.shape) != 4 or not 1 <= size <= x.size:
        raise Unsupported(f"blocks of {size} of a value of shape {x.shape}")
    batch, c, h, w = x.shape
    if node.op == "SpaceToDepth":
        inner = reshaped(graph, x, (batch, c, h // size, size, w // size, size)).turned((0, 3, 5, 1, 2, 4))
        return reshaped(graph, inner, (batch, c * size**2, h // size, w // size))
    d = c // size**2
    if node.text("mode", "DCR") == "DCR":
        inner = reshaped(graph, x, (batch, size, size, d, h, w)).turned((0, 3, 4, 1, 5, 2))
    else:
        inner = reshaped(graph, x, (batch, d, size, size, h, w)).turned((0, 1, 4, 2, 5, 3))
    return reshaped(graph, inner, (batch, d, h * size, w * size))


TAKES: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        "Resize": resize,
        "Upsample": resize,
        "Tile": tile,
        "DepthToSpace": blocks,
        "SpaceToDepth": blocks,
    }
)
