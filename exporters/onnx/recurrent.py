"""RNN, GRU and LSTM over whole windows, either way or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Literal

import numpy as np

from edgerun.arrays import F64, AnyArray
from exporters.nodes import FloatConcat, FloatGru, FloatLstm, FloatRnn, FloatSlice
from exporters.onnx.dense import steps_along, weight_of
from exporters.onnx.elementwise import Operator
from exporters.onnx.graph import Graph, Node, Unsupported, Value, reshaped
from exporters.onnx.quantised import note_dynamic

GRU_GATES: Final = (1, 0, 2)  # the file's z, r, h as ours r, z, n
LSTM_GATES: Final = (0, 2, 3, 1)  # the file's i, o, f, c as ours i, f, g, o
DYNAMIC: Final = "DynamicQuantizeLSTM"
GATES: Final = MappingProxyType({"RNN": (0,), "GRU": GRU_GATES, "LSTM": LSTM_GATES, DYNAMIC: LSTM_GATES})
DEFAULTS: Final = MappingProxyType(
    {
        "RNN": ("Tanh",),
        "GRU": ("Sigmoid", "Tanh"),
        "LSTM": ("Sigmoid", "Tanh", "Tanh"),
        DYNAMIC: ("Sigmoid", "Tanh", "Tanh"),
    }
)
RNN_FUNCTIONS: Final[Mapping[str, Literal["tanh", "relu"]]] = MappingProxyType({"Tanh": "tanh", "Relu": "relu"})
DIRECTIONS: Final = MappingProxyType({"forward": (False,), "reverse": (True,), "bidirectional": (False, True)})


def recurrent(graph: Graph, node: Node) -> tuple[Value, ...]:
    """Y (steps, directions, 1, hidden) and Y_h (directions, 1, hidden); with layout 1 the batch comes first."""
    x, first = graph.value(node), node.integer("layout", 0)
    if len(x.shape) != 3 or x.shape[1 - first] != 1:
        raise Unsupported(f"on a value of shape {x.shape}")
    refuse_variants(graph, node)
    x = graph.plainly(x)
    steps, inputs = (x.shape[1] if first else x.shape[0]), x.shape[2]
    ways = DIRECTIONS[node.text("direction", "forward")]
    hidden = node.integer("hidden_size", graph.constant(node, 2).shape[-1])
    whole, last = (bool(name and graph.readers.get(name)) for name in (*node.outputs, "", "")[:2])
    stem = graph.name(node, node.inputs[1])
    ends, rows = [], []
    for k, reverse in enumerate(ways):
        name = stem if len(ways) == 1 else f"{stem}.{'backward' if reverse else 'forward'}"
        layer = cell(graph, node, k, name, steps, inputs, hidden)
        layer = replace(layer, sequence=whole, reverse=reverse, sources=(x.source,))
        rows.append(graph.add(layer, layer.shape))
        ends.append(rows[-1])
        if whole and last:
            at = 0 if reverse else steps - 1
            cut = FloatSlice(f"{name}.last", layer.shape, (at, 0), (at + 1, hidden), (1, 1), sources=(name,))
            ends[-1] = graph.add(cut, (hidden,))
    y = beside(graph, stem, rows) if whole else rows[0]
    h = beside(graph, f"{stem}.end", ends) if last else ends[0]
    n = len(ways)
    sequence = (1, steps, n, hidden) if first else (steps, n, 1, hidden)
    return (
        reshaped(graph, y, sequence) if whole else y,
        reshaped(graph, h, (1, n, hidden) if first else (n, 1, hidden)) if last else h,
    )


def beside(graph: Graph, name: str, parts: Sequence[Value]) -> Value:
    """The directions side by side along the last axis."""
    if len(parts) == 1:
        return parts[0]
    axis = len(parts[0].shape) - 1
    layer = FloatConcat(name, tuple(x.shape for x in parts), axis, sources=tuple(x.source for x in parts))
    return graph.add(layer, layer.shape)


def refuse_variants(graph: Graph, node: Node) -> None:
    """Raises Unsupported naming what no integer layer here does."""
    if node.text("direction", "forward") not in DIRECTIONS:
        raise Unsupported(f"direction {node.text('direction', '')}")
    given, default = activations(node), DEFAULTS[node.op]
    known = set(given) <= RNN_FUNCTIONS.keys() if node.op == "RNN" else given == default * (len(given) // len(default))
    if not known:
        raise Unsupported(f"activations {', '.join(given)}")
    for k, what in ((4, "sequence_lens"), (7, "peepholes")):
        if node.has(k) and not silent(graph, node, k, what):
            raise Unsupported(what)
    for k, what in ((5, "initial_h"), (6, "initial_c")):
        if node.has(k) and (graph.is_value(node, k) or graph.constant(node, k).any()):
            raise Unsupported(f"{what} is not zero")
    if node.integer("input_forget", 0):
        raise Unsupported("input_forget")
    if node.real("clip", 0.0):
        raise Unsupported("clip")
    if any(graph.readers.get(name) for name in node.outputs[2:] if name):
        raise Unsupported("gives its cell state")


def activations(node: Node) -> tuple[str, ...]:
    return tuple(text.decode("utf-8", "replace") for text in node.info.get("activations", ()))


def silent(graph: Graph, node: Node, k: int, what: str) -> bool:
    """Peepholes of nothing but zeros."""
    return what == "peepholes" and not graph.is_value(node, k) and not graph.constant(node, k).any()


def cell(
    graph: Graph, node: Node, k: int, name: str, steps: int, inputs: int, hidden: int
) -> FloatRnn | FloatGru | FloatLstm:
    """Direction k of a node, its gates in our order."""
    gates = GATES[node.op]
    read = integer_weight if node.op == DYNAMIC else weight_of
    count, (w, w_step), (r, r_step) = len(gates), read(graph, node, 1), read(graph, node, 2)
    if w.shape[1:] != (count * hidden, inputs) or r.shape[1:] != (count * hidden, hidden) or len(w) <= k or hidden < 1:
        raise Unsupported(f"weights of shape {w.shape} and {r.shape} for {hidden} hidden units")
    given = graph.maybe(node, 3)
    biases = np.zeros(2 * count * hidden, w.dtype) if given is None else given[k].astype(w.dtype)
    if biases.shape != (2 * count * hidden,):
        raise Unsupported(f"bias of shape {biases.shape} for {hidden} hidden units")

    def turn(array: AnyArray) -> AnyArray:
        return np.concatenate([array[g * hidden : (g + 1) * hidden] for g in gates])

    scales = [
        None if (found := steps_along(None if step is None else step[min(k, len(step) - 1)], 0, count * hidden)) is None
        else turn(found)
        for step in (w_step, r_step)
    ]  # fmt: skip
    ours, theirs = turn(biases[: count * hidden]), turn(biases[count * hidden :])
    layer: FloatRnn | FloatGru | FloatLstm
    if node.op == "GRU":
        after = bool(node.integer("linear_before_reset", 0))
        layer = FloatGru(name, steps, turn(w[k]), turn(r[k]), ours, theirs, after)
    elif node.op == "RNN":
        layer = FloatRnn(name, steps, w[k], r[k], ours + theirs, RNN_FUNCTIONS[(activations(node) or ("Tanh",) * 2)[k]])
    else:
        layer = FloatLstm(name, steps, turn(w[k]), turn(r[k]), ours + theirs)
    return replace(layer, weight_scale=scales[0], recurrent_scale=scales[1])


def integer_weight(graph: Graph, node: Node, k: int) -> tuple[AnyArray, F64]:
    """Weight 1 or 2 of a DynamicQuantizeLSTM (directions, gates, columns), which lies turned in the file, and its steps
    (directions, gates, 1). Scales of values are found as it runs; here calibration fixes them."""
    q, scale = graph.constant(node, k), graph.constant(node, 6 + 2 * k).astype(np.float64)
    zero = graph.constant(node, 7 + 2 * k)
    if q.dtype not in (np.int8, np.uint8) or q.ndim != 3:
        raise Unsupported(f"weight {node.inputs[k]!r} is {q.dtype} of shape {q.shape}")
    directions, _, rows = q.shape
    step = np.broadcast_to(scale.reshape(directions, 1, -1), (directions, 1, rows))
    steps = q.astype(np.float64) - zero.astype(np.float64).reshape(directions, 1, -1)
    note_dynamic(graph)
    return (steps * step).swapaxes(1, 2), np.asarray(step.swapaxes(1, 2))


RECURRENT: Final[Mapping[str, Operator]] = MappingProxyType({op: recurrent for op in GATES if op != DYNAMIC})
DYNAMIC_RECURRENT: Final[Mapping[str, Operator]] = MappingProxyType({DYNAMIC: recurrent})
