"""LSTM layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np

from edgerun.arrays import F64
from exporters.nodes import Affine, FloatLstm, FloatUnary
from exporters.tflite.graph import Graph, Operator, Unsupported, Value, affine_of, bias_of, weight_of
from exporters.tflite_reader import TfliteOp

GATES: Final = 4
HIDDEN_STATE, CELL_STATE = 18, 19
HIDDEN_SUM: Final = 4
Q12_CELLS: Final = (2.0**-15, 2.0**-9)
CELL_STEP: Final = 2.0**-15
CELL_TOP: Final = (1 << 15) - 1
ABSENT: Final = (
    ("peepholes", range(9, 12)),
    ("a projection", range(16, 18)),
    ("layer normalisation", range(20, 24)),
)


def lstm(graph: Graph, op: TfliteOp) -> Value:
    """Gates i, f, g, o: weights 1-4, recurrent weights 5-8, biases 12-15; one scale for each of the eight matrices.

    LiteRT's kernel writes hidden vectors by the map of its fourth inner sum, reads them back by that of the hidden
    state, and what follows reads them by that of the output; a layer in a bidirectional one may have three that differ.
    """
    x = graph.value(op)
    for what, places in ABSENT:
        if any(graph.has(op, k) for k in places):
            raise Unsupported(f"with {what}")
    if op.options["fused_activation_function"] != "TANH" or op.options["proj_clip"]:
        raise Unsupported("with an activation that is not TANH, or a clipped projection")
    weights = [weight_of(graph, op, k, 0) for k in range(1, 1 + GATES)]
    recurrents = [weight_of(graph, op, k, 0) for k in range(5, 5 + GATES)]
    shapes = {w.shape for w, _ in weights}, {r.shape for r, _ in recurrents}
    if len(shapes[0]) != 1 or len(shapes[1]) != 1 or weights[0][0].ndim != 2:
        raise Unsupported(f"gates of unequal shapes {sorted(shapes[0] | shapes[1])}")
    (units, inputs), steps = weights[0][0].shape, x.rows
    if recurrents[0][0].shape != (units, units) or x.last != inputs or max(x.shape[:-1]) != steps:
        raise Unsupported(f"weights of shape {(units, inputs)} on a value of shape {x.shape}")
    biases = [bias_of(graph, op, 12 + k, x, weights[k][1], units) for k in range(GATES)]
    y, fixed = graph.fixed(op), states(graph, op)
    written = hidden_map(graph, op) if fixed is not None and fits_q12(fixed[1]) else None
    state, limit = cell(fixed, float(op.options["cell_clip"]))
    hidden = y if state is None or written is not None else state[0]
    layer = FloatLstm(
        graph.name(op),
        steps,
        np.concatenate([w for w, _ in weights]),
        np.concatenate([r for r, _ in recurrents]),
        np.concatenate(biases).astype(np.float64),
        sequence=True,
        weight_scale=joint([s for _, s in weights]),
        recurrent_scale=joint([s for _, s in recurrents]),
        cell_clip=limit,
        state_scales=state,
        written=written,
        sources=(x.source,),
        output=hidden,
    )
    found = graph.add(layer, (*x.shape[:-1], units))
    if y == hidden:
        return found
    remapped = FloatUnary(graph.name(op, "-output"), layer.shape, "identity", sources=(layer.name,), output=y)
    return graph.add(remapped, found.shape)


def joint(scales: Sequence[F64 | None]) -> F64 | None:
    known = [scale for scale in scales if scale is not None]
    return np.concatenate(known) if len(known) == len(scales) else None


def states(graph: Graph, op: TfliteOp) -> tuple[Affine, float] | None:
    """The maps of the hidden state and of the cell, where the file fixes them."""
    if not (graph.has(op, HIDDEN_STATE) and graph.has(op, CELL_STATE)):
        raise Unsupported("lacks its hidden state or its cell")
    for k in (HIDDEN_STATE, CELL_STATE):
        begins = graph.constants.get(op.inputs[k])
        if op.inputs[k] in graph.values or (begins is not None and begins.real.any()):
            raise Unsupported("begins with a state that is not zero")
    hidden, cell = (graph.model.tensors[op.inputs[k]] for k in (HIDDEN_STATE, CELL_STATE))
    y = affine_of(hidden)
    if y is None:
        return None
    if cell.scale is None or len(cell.scale) != 1 or cell.scale[0] <= 0 or cell.dtype != "int16":
        raise Unsupported("its cell is no int16 with a scale")
    return y, float(cell.scale[0])


def fits_q12(step: float) -> bool:
    """Whether LiteRT's kernel, whose tanh takes 0 to 6 binary places above the point, has one for this cell."""
    return Q12_CELLS[0] <= step <= Q12_CELLS[1] and math.frexp(step)[0] == 0.5


def hidden_map(graph: Graph, op: TfliteOp) -> Affine:
    """The map by which LiteRT writes hidden vectors."""
    if len(op.intermediates) <= HIDDEN_SUM or op.intermediates[HIDDEN_SUM] < 0:
        raise Unsupported("does not say by which scale its hidden vectors are written")
    found = affine_of(graph.model.tensors[op.intermediates[HIDDEN_SUM]])
    if found is None:
        raise Unsupported("writes its hidden vectors as floats")
    return found


def cell(states: tuple[Affine, float] | None, clip: float) -> tuple[tuple[Affine, float] | None, float]:
    """Maps of the state and the clip of the cell: one that is finer than 2**-15 keeps its reach, at 2**-15."""
    if states is None or states[1] >= CELL_STEP:
        return states, clip
    reach = CELL_TOP * states[1]
    return (states[0], CELL_STEP), min(clip or reach, reach)


RECURRENT: Final[Mapping[str, Operator]] = MappingProxyType({"UNIDIRECTIONAL_SEQUENCE_LSTM": lstm})
