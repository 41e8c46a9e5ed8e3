"""RNN, GRU and LSTM layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from reference.recurrent import slow

from edgerun.arrays import AnyArray, Tensors
from edgerun.layers import Layer
from edgerun.layers.base import Requant
from edgerun.layers.recurrent import Gru, Lstm, LstmQ12, Recurrent, Rnn, Twice

CALLS = 10
TWICE = Twice(multiplier=1_717_986_918, shift=54, zero_point=-9)
FINE = Requant(multiplier=9_437_185, shift=31, zero_point=-9, qmin=-120, qmax=120)


def cases(rng: np.random.Generator) -> dict[str, tuple[Layer, Tensors, list[AnyArray]]]:
    shape = {"name": "l", "inputs": 5, "hidden": 4}
    found: dict[str, Recurrent] = {
        "gru.cell": Gru(**shape),
        "gru.window": Gru(**shape, steps=6, sequence=True, hidden_map=FINE),
        "gru.reset-before": Gru(**shape, steps=3, reset_after=False, hidden_map=FINE),
        "gru.reverse": Gru(**shape, steps=4, sequence=True, reverse=True),
        "lstm.cell": Lstm(**shape),
        "lstm.window": Lstm(**shape, steps=6, sequence=True, hidden_map=FINE, cell_exponent=12),
        "lstm.clipped": Lstm(**shape, steps=3, cell_exponent=15, cell_limit=20_000),
        "lstm.reverse": Lstm(**shape, steps=4, sequence=True, reverse=True, cell_exponent=11),
        "rnn.tanh": Rnn(**shape, steps=3, sequence=True, hidden_map=FINE),
        "rnn.relu": Rnn(**shape, function="relu"),
        "rnn.reverse": Rnn(**shape, steps=4, sequence=True, reverse=True),
        "lstm-q12.cell": LstmQ12(**shape, hidden_map=TWICE, start=3),
        "lstm-q12.window": LstmQ12(**shape, steps=6, sequence=True, hidden_map=TWICE, cell_exponent=9),
        "lstm-q12.clipped": LstmQ12(**shape, steps=3, hidden_map=TWICE, cell_exponent=15, cell_limit=20_000),
        "lstm-q12.reverse": LstmQ12(**shape, steps=4, sequence=True, reverse=True, hidden_map=TWICE),
    }
    return {
        case: (spec, tensors(rng, spec), [rng.integers(-128, 128, (CALLS, spec.widths[0])).astype(np.int16)])
        for case, spec in found.items()
    }


def tensors(rng: np.random.Generator, spec: Recurrent) -> Tensors:
    """Gates that work in their middle, one row that saturates, one whose scale is a power of two."""
    n = spec.gates * spec.hidden
    found: Tensors = {}
    for weight, prefix, width, scale in (
        ("weight", "", spec.inputs, 0.3),
        ("recurrent", "recurrent_", spec.hidden, 0.2),
    ):
        scales = [*(scale * 2.0 ** rng.uniform(-1, 1) for _ in range(n - 2)), 5.0, 0.25]
        maps = [twice(2 * one) if isinstance(spec, LstmQ12) else Requant.from_scale(one) for one in scales]
        found |= {
            f"l.{weight}": rng.integers(-127, 128, (n, width)).astype(np.int8),
            f"l.{prefix}bias": rng.integers(-9999, 10000, n).astype(np.int32),
            f"l.{prefix}multiplier": np.array([m.multiplier for m in maps], np.int32),
            f"l.{prefix}shift": np.array([m.shift for m in maps], np.uint8),
        }
    return found


def twice(scale: float) -> Twice:
    mantissa, exponent = math.frexp(scale)
    return Twice(multiplier=round(mantissa * 2**31), shift=31 - exponent)


def outputs(spec: Any, tensors: Tensors, xs: list[AnyArray]) -> dict[str, Any]:
    run, y = slow(spec, tensors), []
    seen: dict[str, list[list[int]]] = {state.name: [] for state in spec.state()}
    for x in xs[0].tolist():
        y.append(run.step(x))
        for name, rows in seen.items():
            rows.append(list(getattr(run, name)))
    return {"y": np.array(y, np.int8)} | {name: np.array(rows, np.int16) for name, rows in seen.items()}
