"""Nodes that move values: most are views, some take, join or pad."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np
import onnx

from exporters.nodes import Affine, FloatConcat, FloatPad, FloatSlice
from exporters.onnx.constants import slices, split_sizes, squeezed, target_shape, unsqueezed
from exporters.onnx.elementwise import Operator
from exporters.onnx.graph import Graph, Node, Unsupported, Value, reshaped, shared
from exporters.onnx.takes import TAKES, bordered, repeated, taken

FLOATS: Final = tuple(getattr(onnx.TensorProto, kind) for kind in ("FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16"))

# ------------------------------------------------------------------ views


def same(graph: Graph, node: Node) -> Value:
    return graph.held(node)


def cast(graph: Graph, node: Node) -> Value:
    """To another kind of float: nothing. From a whole-number input: real numbers from here on."""
    if node.integer("to", onnx.TensorProto.FLOAT) not in FLOATS:
        raise Unsupported("to a type that is no float")
    x = graph.held(node)
    if not x.integers:
        return x
    if x.affine is not None:
        raise Unsupported(f"computes with the integers of {node.inputs[0]!r}")
    graph.input = Affine(1.0, -graph.offset)
    return replace(x, affine=graph.input, integers=False)


def reshape(graph: Graph, node: Node) -> Value:
    x = graph.held(node)
    return reshaped(graph, x, target_shape(graph, node, x.shape))


def flatten(graph: Graph, node: Node) -> Value:
    x, axis = graph.held(node), node.integer("axis", 1)
    if not -len(x.shape) <= axis <= len(x.shape):
        raise Unsupported(f"axis {axis} of a value with {len(x.shape)} dimensions")
    return reshaped(graph, x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def squeeze(graph: Graph, node: Node) -> Value:
    x = graph.held(node)
    return reshaped(graph, x, squeezed(x.shape, graph.numbers(node, 1, "axes")))


def unsqueeze(graph: Graph, node: Node) -> Value:
    x = graph.held(node)
    return reshaped(graph, x, unsqueezed(x.shape, graph.numbers(node, 1, "axes") or ()))


def transpose(graph: Graph, node: Node) -> Value:
    x = graph.held(node)
    perm = node.integers("perm")
    return x.turned(tuple(reversed(range(len(x.shape)))) if perm is None else perm)


def expand(graph: Graph, node: Node) -> Value:
    x = graph.held(node)
    dims = np.broadcast_shapes(x.shape, tuple(int(n) for n in graph.constant(node, 1).reshape(-1)))
    x = x.ranked(len(dims))
    return repeated(graph, node, x, [n // k for n, k in zip(dims, x.shape, strict=True)])


# ------------------------------------------------------------------ parts


def part(graph: Graph, node: Node, x: Value, kept: Mapping[int, range]) -> Value:
    """What stands at these positions of these axes, all of the others."""
    every = {axis: kept.get(axis, range(n)) for axis, n in enumerate(x.shape)}
    shape = tuple(len(every[axis]) for axis in range(len(x.shape)))
    if 0 in shape:
        raise Unsupported("keeps nothing")
    if all(every[axis] == range(n) for axis, n in enumerate(x.shape)):
        return x
    ends = [every[axis] for axis in x.order]
    layer = FloatSlice(
        graph.name(node),
        x.physical,
        tuple(r.start for r in ends),
        tuple(r.stop for r in ends),
        tuple(r.step for r in ends),
        sources=(x.source,),
    )
    made = graph.add(layer, shape, x.lies)
    return replace(made, affine=x.affine, integers=x.integers)


def slice_(graph: Graph, node: Node) -> Value:
    x = graph.held(node)
    cuts = slices(graph, node, x.shape)
    return part(
        graph, node, x, {k: range(*cut.indices(n)) for k, (cut, n) in enumerate(zip(cuts, x.shape, strict=True))}
    )


def split(graph: Graph, node: Node) -> tuple[Value, ...]:
    x = graph.held(node)
    axis = x.axis(node.integer("axis", 0))
    sizes = split_sizes(graph, node, x.shape[axis])
    ends = np.cumsum((0, *sizes)).tolist()
    x = shared(x)
    return tuple(part(graph, node, x, {axis: range(a, b)}) for a, b in itertools.pairwise(ends))


def split_to_sequence(graph: Graph, node: Node) -> tuple[Value, ...]:
    """Parts that `sequence_at` takes by number; as torch writes a split that it has not simplified."""
    x = graph.held(node)
    axis = x.axis(node.integer("axis", 0))
    given = graph.maybe(node, 1)
    size, n = (1 if given is None else int(given.reshape(-1)[0])), x.shape[axis]
    sizes = (
        [int(k) for k in given] if given is not None and given.ndim else [min(size, n - k) for k in range(0, n, size)]
    )
    if sum(sizes) != n or min(sizes) < 1 or not node.integer("keepdims", 1):
        raise Unsupported(f"splits {n} into {sizes[:8]}")
    starts = np.cumsum((0, *sizes)).tolist()
    graph.parts[node.outputs[0]] = tuple(
        part(graph, node, shared(x), {axis: range(a, b)}) for a, b in itertools.pairwise(starts)
    )
    return ()


def sequence_at(graph: Graph, node: Node) -> Value:
    parts, k = graph.parts.get(node.inputs[0], ()), int(graph.constant(node, 1).reshape(()))
    if not -len(parts) <= k < len(parts):
        raise Unsupported(f"part {k} of {len(parts)}")
    return shared(parts[k])


def gather(graph: Graph, node: Node) -> Value:
    """Constant positions; a single one without an axis takes the axis away."""
    x, index = graph.held(node), graph.constant(node, 1)
    axis = x.axis(node.integer("axis", 0))
    n = x.shape[axis]
    wanted = [int(k) + n if k < 0 else int(k) for k in index.reshape(-1)]
    step = wanted[1] - wanted[0] if len(wanted) > 1 else 1
    kept = range(wanted[0], wanted[0] + step * len(wanted), step)
    if not wanted or not all(0 <= k < n for k in wanted):
        raise Unsupported(f"positions {wanted[:8]} of {n}")
    y = part(graph, node, x, {axis: kept}) if list(kept) == wanted else taken(graph, node, x, axis, wanted)
    return y if index.ndim == 1 else reshaped(graph, y, y.shape[:axis] + index.shape + y.shape[axis + 1 :])


def pad(graph: Graph, node: Node) -> Value:
    mode = node.text("mode", "constant")
    x = graph.value(node) if mode == "constant" else graph.held(node)
    sides = graph.numbers(node, 1, "pads") or ()
    fill = graph.maybe(node, 2)
    axes = tuple(x.axis(axis) for axis in graph.numbers(node, 3, "axes") or range(len(x.shape)))
    if len(sides) != 2 * len(axes):
        raise Unsupported(f"{len(sides)} pads for {len(axes)} axes")
    value = node.real("value", 0.0) if fill is None else float(fill.reshape(()))
    pairs = dict(zip(axes, zip(sides, sides[len(axes) :], strict=False), strict=True))
    return padded(graph, node, x, pairs, value) if mode == "constant" else bordered(graph, node, x, pairs, mode)


def padded(graph: Graph, node: Node, x: Value, sides: Mapping[int, tuple[int, int]], value: float) -> Value:
    """`sides`: how many before and after, by axis."""
    if all(pair == (0, 0) for pair in sides.values()):
        return x
    every = [sides.get(axis, (0, 0)) for axis in range(len(x.shape))]
    if min(min(pair) for pair in every) < 0:
        raise Unsupported(f"cuts off values, pads {tuple(every)}")
    kept = [axis for axis in x.lies if x.shape[axis] != 1 or any(every[axis])]
    before, after = (tuple(every[axis][end] for axis in kept) for end in range(2))
    layer = FloatPad(graph.name(node), tuple(x.shape[axis] for axis in kept), before, after, value, sources=(x.source,))
    shape = tuple(n + a + b for n, (a, b) in zip(x.shape, every, strict=True))
    return graph.add(layer, shape, x.lies)


def concat(graph: Graph, node: Node) -> Value:
    return joined(graph, node, [graph.value(node, k) for k in range(len(node.inputs))], node.integer("axis", 0))


def joined(graph: Graph, node: Node, parts: Sequence[Value], axis: int) -> Value:
    """Values side by side, lying in the order of the largest."""
    axis, largest = parts[0].axis(axis), max(parts, key=lambda x: x.size)
    if any(len(x.shape) != len(largest.shape) for x in parts):
        raise Unsupported(f"joins shapes {[x.shape for x in parts]}")
    if len(parts) == 1:
        return parts[0]
    lies = largest.lies
    laid = [graph.arranged(x, lies) for x in parts]
    kept = [a for a in lies if a == axis or largest.shape[a] != 1]
    layer = FloatConcat(
        graph.name(node),
        tuple(tuple(x.shape[a] for a in kept) for x in laid),
        kept.index(axis),
        sources=tuple(x.source for x in laid),
    )
    size = sum(x.shape[axis] for x in parts)
    return graph.add(layer, (*largest.shape[:axis], size, *largest.shape[axis + 1 :]), lies)


MOVES: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        "Identity": same,
        "Dropout": same,
        "Cast": cast,
        "CastLike": same,
        "Reshape": reshape,
        "Flatten": flatten,
        "Squeeze": squeeze,
        "Unsqueeze": unsqueeze,
        "Transpose": transpose,
        "Expand": expand,
        "Slice": slice_,
        "Split": split,
        "SplitToSequence": split_to_sequence,
        "SequenceAt": sequence_at,
        "Gather": gather,
        "Pad": pad,
        "Concat": concat,
        **TAKES,
    }
)
