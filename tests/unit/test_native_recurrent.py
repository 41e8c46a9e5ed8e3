"""RNN, GRU and LSTM in C beside numpy's: weights packed and as they lie, of every length."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from alone import Alone, same
from random_layers import filled, gates

from edgerun.arrays import AnyArray, Tensors
from edgerun.kernels.native import library
from edgerun.layers import Gru, Layer, Lstm, LstmQ12, Rnn, SLstm
from edgerun.layers.base import Requant
from edgerun.layers.recurrent import Twice
from edgerun.ops import OPS

pytestmark = pytest.mark.skipif(library() is None, reason="the C kernels are not built here")

MAP = {"hidden_map": Requant(multiplier=1, shift=8, zero_point=3)}
KINDS: dict[str, tuple[type[Layer], dict[str, Any]]] = {
    "rnn": (Rnn, MAP),
    "rnn-relu": (Rnn, MAP | {"function": "relu"}),
    "gru": (Gru, MAP),
    "gru-before": (Gru, MAP | {"reset_after": False}),
    "lstm": (Lstm, MAP),
    "lstm-wide": (Lstm, {"hidden_map": Requant(multiplier=1, shift=8), "cell_exponent": 15, "cell_limit": 900}),
    "lstm-q12": (LstmQ12, {"hidden_map": Twice(multiplier=1 << 30, shift=53), "start": 2}),
    "lstm-q12-clipped": (
        LstmQ12,
        {"hidden_map": Twice(multiplier=1 << 30, shift=53), "cell_limit": 900, "cell_exponent": 15},
    ),
    "slstm": (SLstm, {"reset": "subtract"}),
}
UNITS = (1, 2, 3, 5, 7, 8, 11, 15, 16, 17, 21, 31, 32, 33, 47, 48, 49, 63, 64, 65, 70)
INPUTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 33, 63, 64, 65, 70)


def made(kind: str, inputs: int, units: int, seed: int, steps: int = 2) -> tuple[Any, Tensors]:
    make, fields = KINDS[kind]
    rng = np.random.default_rng(seed)
    if make is SLstm:
        spec: Any = SLstm(name="l", inputs=inputs, outputs=units, **fields)
    else:
        spec = make(name="l", inputs=inputs, hidden=units, steps=steps, sequence=True, **fields)
    rows = (4 if make is SLstm else spec.gates) * units
    given = gates(rng, rows, inputs, units, twice=make is LstmQ12)
    if make is SLstm:
        given["threshold"] = rng.integers(1, 1 << 13, units).astype(np.uint16)
    return spec, filled(rng, spec, given)


def windows(spec: Layer, seed: int) -> list[AnyArray]:
    """Anything, both ends of int8, and the one value beyond it that a reach of 128 allows."""
    rng, (width,) = np.random.default_rng(seed), spec.widths
    beyond = np.where(np.arange(width) == width // 2, 128, 5)
    return [*rng.integers(-128, 128, (3, width)), np.full(width, -128), np.full(width, 127), beyond]


def goes_the_same_way(spec: Layer, tensors: Tensors, xs: list[AnyArray], *, packed: bool) -> None:
    ours, theirs = Alone(spec, tensors, (128,), packed=packed), OPS[type(spec)](spec, tensors, ())
    for x in xs:
        ours.step(x)
        theirs.step(x.astype(np.float32))
        same(ours.run, theirs)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_columns_of_every_length_give_numpys_bits(kind: str, packed: bool) -> None:
    for k, units in enumerate(UNITS):
        spec, tensors = made(kind, INPUTS[k % len(INPUTS)], units, k)
        goes_the_same_way(spec, tensors, windows(spec, k), packed=packed)


@pytest.mark.parametrize(
    ("kind", "inputs", "units"),
    [*(("gru", k, 6) for k in (2047, 2048, 2049)), ("lstm-q12", 2049, 6), ("rnn", 5, 2049), ("rnn", 2049, 2049)],
)
def test_rows_longer_than_are_packed_are_summed_as_they_lie(kind: str, inputs: int, units: int) -> None:
    """All weights and values at an end, of one sign and of both: the largest sums that there are."""
    spec, tensors = made(kind, inputs, units, 1, steps=1)
    tensors["l.weight"][::2], tensors["l.weight"][1::2] = -128, 127
    tensors["l.shift"][:] = 40 if kind == "lstm-q12" else 31
    for packed in (True, False):
        goes_the_same_way(spec, tensors, windows(spec, inputs), packed=packed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("far", [4, 60])
def test_gates_at_and_beyond_their_ends_give_numpys_bits(kind: str, far: int) -> None:
    """Biases from far under to far over int16, or near its ends, sum after sum."""
    spec, tensors = made(kind, 5, 40, 3)
    rng, one = np.random.default_rng(4), (1 << 30, 31) if kind.startswith("lstm-q12") else (1 << 23, 23)
    for prefix in ("", "recurrent_"):
        tensors[f"l.{prefix}multiplier"][:], tensors[f"l.{prefix}shift"][:] = one
        count = len(tensors["l.bias"])
        ends = rng.choice([-32768, -32767, 0, 32767, 32768], count)
        tensors[f"l.{prefix}bias"][:] = ends + rng.integers(-far, far + 1, count) * (1 if far < 9 else 1 << 14)
    tensors["l.weight"][:], tensors["l.recurrent"][:] = np.sign(tensors["l.weight"]), 0
    spec.certify(tensors, (128,), frozenset())
    for packed in (True, False):
        goes_the_same_way(spec, tensors, windows(spec, far), packed=packed)


@pytest.mark.parametrize("gate", range(3), ids=["r", "z", "n"])
def test_every_input_of_a_grus_gate_gives_numpys_state(gate: int) -> None:
    """p = 256 x + j for each x of int8, in the unit j of 256."""
    units = 256
    spec = Gru(name="l", inputs=1, hidden=units)
    here = slice(gate * units, (gate + 1) * units)
    found = {field.part: np.zeros(field.shape, field.dtype) for field in spec.fields()}
    for prefix, shift in (("", 15), ("recurrent_", 23)):
        found[f"{prefix}multiplier"][:], found[f"{prefix}shift"][:] = 1 << 23, shift
    found["recurrent_bias"][:] = 5000
    found["recurrent_bias"][here] = np.arange(units)
    found["weight"][here] = 1
    tensors = {f"l.{part}": array for part, array in found.items()}
    goes_the_same_way(spec, tensors, [np.array([x]) for x in range(-128, 128)], packed=True)


def test_packed_weights_of_another_size_are_refused() -> None:
    spec, tensors = made("gru", 5, 17, 1)
    with pytest.raises(ValueError, match="gru: packed has 1 items, not "):
        Alone(spec, tensors, (128,), changes={"packed": np.zeros(1, np.int8)})


@pytest.mark.parametrize("exponent", range(9, 16))
@pytest.mark.parametrize("kind", ["gru", "gru-before", "lstm", "lstm-wide", "lstm-q12", "slstm"])
def test_states_at_their_ends_go_on_as_numpys(kind: str, exponent: int) -> None:
    """Ends and whatever lies between them, in every array of the state at once."""
    spec, tensors = made(kind, 5, 70, exponent)
    if "gru" not in kind:
        spec = msgspec.structs.replace(spec, cell_exponent=exponent)
    ours, theirs = Alone(spec, tensors, (128,)), OPS[type(spec)](spec, tensors, ())
    rng = np.random.default_rng(exponent)
    for name, array in ours.run.state().items():
        low, high = (0, 1) if name == "fired" else (0, 32767) if name in ("carry", "counts") else ends(array)
        array[:] = np.concatenate([[low] * 20, rng.integers(low, high + 1, 30), [high] * 20])
        rng.shuffle(array)
        np.copyto(theirs.state()[name], array, casting="unsafe")
    ours.run.resume()
    theirs.resume()
    for x in windows(spec, exponent):
        ours.step(x)
        theirs.step(x.astype(np.float32))
        same(ours.run, theirs)


def ends(array: AnyArray) -> tuple[int, int]:
    return int(np.iinfo(array.dtype).min), int(np.iinfo(array.dtype).max)
