"""Operators that take listed positions along axes: gathering, mirrored borders, nearest resizing, repeating."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal

import numpy as np

from exporters.nodes import FloatTake
from exporters.tflite.graph import VALUES_MAX, Graph, Operator, Shape, Unsupported, Value, moved
from exporters.tflite.moves import reshaped, turned
from exporters.tflite_reader import TfliteOp


def taken(graph: Graph, op: TfliteOp, x: Value, axis: int, index: Sequence[int]) -> Value:
    """The positions of `index` along an axis; a layer only where they are not all, in order."""
    if list(index) == list(range(x.shape[axis])):
        return x
    shape = (*x.shape[:axis], len(index), *x.shape[axis + 1 :])
    layer = FloatTake(graph.name(op), x.shape, axis, tuple(index), sources=(x.source,), output=x.affine)
    return graph.add(layer, shape)


def bounded(graph: Graph, x: Value, sizes: Sequence[int]) -> None:
    """Raises Unsupported where axes of these sizes hold nothing, or more than a layer may, or lists of their positions
    take more room than the file has."""
    if min(sizes) < 1 or np.prod(sizes, dtype=np.float64) > VALUES_MAX:
        raise Unsupported(f"makes shape {tuple(sizes)} of {x.shape}")
    graph.take(max(sizes))


def mirror_pad(graph: Graph, op: TfliteOp) -> Value:
    x, sides = graph.value(op), graph.integers(op, 1)
    moved(graph, op, x)
    pairs = list(zip(sides[::2], sides[1::2], strict=False))
    if len(sides) != 2 * len(x.shape) or min(sides) < 0:
        raise Unsupported(f"pads by {sides} a value of shape {x.shape}")
    mode: Literal["reflect", "symmetric"] = "reflect" if op.options["mode"] == "REFLECT" else "symmetric"
    if any(max(pair) > n - (mode == "reflect") for pair, n in zip(pairs, x.shape, strict=True)):
        raise Unsupported(f"mirrors {sides} of a value of shape {x.shape}")
    bounded(graph, x, [n + sum(pair) for pair, n in zip(pairs, x.shape, strict=True)])
    for axis, pair in enumerate(pairs):
        index = np.pad(np.arange(x.shape[axis]), pair, mode)
        x = taken(graph, op, x, axis, index.tolist())
    return x


def nearest(n: int, size: int, *, corners: bool, centres: bool) -> list[int]:
    """Which of n positions LiteRT reads for each of `size`, in its float32."""
    places = np.arange(size, dtype=np.float32) + np.float32(0.5 if centres else 0.0)
    if corners and size > 1:
        places *= np.float32(n - 1) / np.float32(size - 1)
        found = np.floor(places + np.float32(0.5))
    else:
        places *= np.float32(n) / np.float32(size)
        found = np.floor(places + np.float32(0.5)) if corners else np.floor(places)
    return [int(k) for k in np.clip(found, 0, n - 1)]


def resize_nearest(graph: Graph, op: TfliteOp) -> Value:
    """(1, h, w, c) to another height and width, to the nearest position."""
    x, size = graph.value(op), graph.integers(op, 1)
    moved(graph, op, x)
    if len(x.shape) != 4 or len(size) != 2:
        raise Unsupported(f"to {size}, of a value of shape {x.shape}")
    bounded(graph, x, (*size, x.shape[3]))
    ways = {"corners": bool(op.options["align_corners"]), "centres": bool(op.options["half_pixel_centers"])}
    for axis, n in zip((1, 2), size, strict=True):
        x = taken(graph, op, x, axis, nearest(x.shape[axis], n, **ways))
    return x


def tile(graph: Graph, op: TfliteOp) -> Value:
    x, times = graph.value(op), graph.integers(op, 1)
    moved(graph, op, x)
    if len(times) != len(x.shape):
        raise Unsupported(f"repeats a value of shape {x.shape} {times} times")
    bounded(graph, x, [n * k for n, k in zip(x.shape, times, strict=True)])
    for axis, k in enumerate(times):
        x = taken(graph, op, x, axis, list(range(x.shape[axis])) * k)
    return x


def blocks(graph: Graph, op: TfliteOp) -> Value:
    """Depth to space or back: an axis split off the channels goes between the rows or columns, or the other way."""
    x, size = graph.value(op), int(op.options["block_size"])
    moved(graph, op, x)
    if len(x.shape) != 4 or not 1 <= size <= x.size:
        raise Unsupported(f"blocks of {size} of a value of shape {x.shape}")
    _, h, w, c = x.shape
    parts: Shape
    if op.code == "DEPTH_TO_SPACE":
        parts, perm, shape = (h, w, size, size, c // size**2), (0, 2, 1, 3, 4), (1, h * size, w * size, c // size**2)
    else:
        parts, perm = (h // size, size, w // size, size, c), (0, 2, 1, 3, 4)
        shape = (1, h // size, w // size, c * size**2)
    if np.prod(parts) != x.size:
        raise Unsupported(f"blocks of {size} of a value of shape {x.shape}")
    return reshaped(turned(graph, op, reshaped(x, parts), perm), shape)


TAKES: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        "MIRROR_PAD": mirror_pad,
        "RESIZE_NEAREST_NEIGHBOR": resize_nearest,
        "TILE": tile,
        "DEPTH_TO_SPACE": blocks,
        "SPACE_TO_DEPTH": blocks,
    }
)
