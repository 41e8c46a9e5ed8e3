"""RNN, GRU and LSTM layers, float and quantised.

A layer reads `steps` vectors in a call, (N, steps * inputs), and loops over them itself; with one step it is a
streaming cell. It gives its hidden vector after every step (`sequence`), in the order of the input, or after the last
one only. State goes on from call to call; a `reverse` layer reads the last step first and starts from zero at every
call.

Gates are stacked along the first axis of `weight`, `recurrent` and the biases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

import msgspec
import numpy as np

from edgerun.arrays import F32, F64, I8, I16, Tensors
from edgerun.errors import ModelError, SpecError
from edgerun.layers import LayerRecord
from edgerun.layers.base import I8_BOUNDS
from edgerun.layers.recurrent import GATE_FRACTION, HIDDEN_FRACTION, Gru, Lstm, LstmQ12, Rnn, Twice
from exporters.nodes.base import STEPS_OF_INT8, Affine, Quantised, Range, State, StatefulLayer, per_channel, requant
from exporters.nodes.dense import fold

GATE: Final = Affine(2.0**-GATE_FRACTION, 0)
"""The map of what goes into a gate."""

HIDDEN: Final = Affine(2.0**-7, 0)
"""The map of a hidden vector, which lies in [-1, 1], where no file fixes it."""

HIDDEN_TOP: Final = 2.0**-HIDDEN_FRACTION
"""The real value of one step of a hidden vector before it is rounded to int8."""

RELU_ROOM: Final = 2.0

CELL_EXPONENT: Final = 9
"""Binary places of a cell that nothing bounds: +-64. The remainder beside it keeps what rounding leaves."""

CELL_EXPONENTS: Final = range(4, 16)
CELL_TOP: Final = (1 << 15) - 1

AS_IT_IS: Final = (np.float32(1), np.float32(0))

GATE_Q12: Final = Affine(2.0**-12, 0)
"""The map of what goes into a gate of LiteRT's."""


@dataclass(frozen=True, slots=True)
class FloatRecurrent(StatefulLayer):
    """What all kinds share: how a window is walked through.

    steps     vectors in one call, >= 1
    weight    (gates * hidden, inputs)      recurrent  (gates * hidden, hidden)      bias  (gates * hidden,)
    sequence  whether it gives its hidden vector after every step      reverse  whether it reads the last step first

    weight_scale, recurrent_scale  (gates * hidden,)  real value of one weight step, where the file fixes it
    bits                           of an integer weight, 2 to 8
    """

    steps: int
    weight: F32 | F64
    recurrent: F32 | F64
    bias: F32 | F64
    sequence: bool = field(default=False, kw_only=True)
    reverse: bool = field(default=False, kw_only=True)
    weight_scale: F64 | None = field(default=None, kw_only=True)
    recurrent_scale: F64 | None = field(default=None, kw_only=True)
    bits: int = field(default=8, kw_only=True)

    @property
    def hidden(self) -> int:
        return int(self.recurrent.shape[1])

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.steps * self.weight.shape[1],)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.steps, self.hidden) if self.sequence else (self.hidden,)

    def advance(self, state: State, current: F32) -> F32:
        """One step inside a window: current (N, gates * hidden) is W x + b; changes the state, gives h (N, hidden)."""
        raise NotImplementedError

    def step(self, state: State, *sources: F32) -> F32:
        if self.reverse:
            state.update(self.start(len(sources[0])))
        x = sources[0].reshape(-1, self.steps, self.weight.shape[1])
        current = x @ self.weight.T.astype(np.float32) + self.bias.astype(np.float32)
        order = range(self.steps)[::-1] if self.reverse else range(self.steps)
        found = {t: self.advance(state, current[:, t]) for t in order}
        if not self.sequence:
            return found[order[-1]]
        return np.stack([found[t] for t in range(self.steps)], axis=1).reshape(len(x), -1)

    def integers(
        self, x: Affine, hidden: Affine, recurrent_bias: F32 | F64, gate: Affine = GATE, top: float = HIDDEN_TOP
    ) -> tuple[dict[str, Any], Tensors]:
        """The fields and tensors that all kinds of integer layer have: per-channel symmetric weights, a channel being
        one unit of one gate; zero points folded into the biases; sums rescaled to what goes into a gate.

        x       the map of the input            gate  the map of what goes into a gate
        hidden  the map of the hidden vector    top   the real value of one step of it before it is rounded to int8
        """
        integers, bias, scales = fold(self.weight, self.bias, x, gate, self.weight_scale, self.bits)
        tensors = per_channel({}, self.name, scales, weight=narrow(self.name, integers), bias=bias)
        integers, bias, scales = fold(self.recurrent, recurrent_bias, hidden, gate, self.recurrent_scale, self.bits)
        back = per_channel({}, self.name, scales, bias=bias)
        tensors |= {name.replace(f"{self.name}.", f"{self.name}.recurrent_"): part for name, part in back.items()}
        tensors[f"{self.name}.recurrent"] = narrow(self.name, integers)
        map_ = requant(self.name, 0, top / hidden.scale)
        return self.walk() | {"hidden_map": msgspec.structs.replace(map_, zero_point=hidden.zero_point)}, tensors

    def walk(self) -> dict[str, Any]:
        """The fields that say what is read, and in which order."""
        return {
            "name": self.name,
            "sources": self.sources,
            "inputs": self.weight.shape[1],
            "hidden": self.hidden,
            "steps": self.steps,
            "sequence": self.sequence,
            "reverse": self.reverse,
        }


@dataclass(frozen=True, slots=True)
class FloatRnn(FloatRecurrent):
    """h <- f(W x + b + R h), f being tanh or relu (Elman 1990). weight (hidden, inputs), recurrent (hidden, hidden)."""

    function: Literal["tanh", "relu"] = "tanh"

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Rnn,)

    def start(self, batch: int) -> State:
        return {"hidden": np.zeros((batch, self.hidden), np.float32)}

    def advance(self, state: State, current: F32) -> F32:
        total = current + state["hidden"] @ self.recurrent.T.astype(np.float32)
        state["hidden"] = np.tanh(total) if self.function == "tanh" else np.maximum(total, 0)
        return state["hidden"]

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """With tanh nothing depends on the reach. With relu the hidden vector covers it, and what goes into relu covers
        it RELU_ROOM times in int16."""
        if self.function == "tanh":
            hidden, gate, top = self.output or HIDDEN, GATE, HIDDEN_TOP
        else:
            hidden = self.output_map(Range(0.0, reach.high))
            top = RELU_ROOM * (hidden.scale * STEPS_OF_INT8) / CELL_TOP
            gate = Affine(top, 0)
        fields, tensors = self.integers(sources[0], hidden, np.zeros_like(self.bias), gate, top)
        return (Quantised(Rnn(**fields, function=self.function), tensors, hidden),)


@dataclass(frozen=True, slots=True)
class FloatGru(FloatRecurrent):
    """Gated recurrent unit, gates r, z, n (Cho et al. 2014):

        r = sigmoid(Wr x + br + Rr h + cr)       z = sigmoid(Wz x + bz + Rz h + cz)
        n = tanh(Wn x + bn + r * (Rn h + cn))    or, where `reset_after` is false, tanh(Wn x + bn + Rn (r * h) + cn)
        h <- (1 - z) * n + z * h

    weight (3 hidden, inputs), recurrent (3 hidden, hidden), bias b and recurrent_bias c (3 hidden,).
    """

    recurrent_bias: F32 | F64
    reset_after: bool = True

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Gru,)

    def start(self, batch: int) -> State:
        return {"hidden": np.zeros((batch, self.hidden), np.float32)}

    def advance(self, state: State, current: F32) -> F32:
        h, n = state["hidden"], self.hidden
        recurrent, bias = self.recurrent.T.astype(np.float32), self.recurrent_bias.astype(np.float32)
        gates = sigmoid(current[:, : 2 * n] + (h @ recurrent[:, : 2 * n] + bias[: 2 * n]))
        r, z = gates[:, :n], gates[:, n:]
        if self.reset_after:
            inner = r * (h @ recurrent[:, 2 * n :] + bias[2 * n :])
        else:
            inner = (r * h) @ recurrent[:, 2 * n :] + bias[2 * n :]
        state["hidden"] = (1 - z) * np.tanh(current[:, 2 * n :] + inner) + z * h
        return state["hidden"]

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """Nothing depends on the reach: gates saturate at +-16, and the hidden vector lies in [-1, 1]."""
        hidden = self.output or HIDDEN
        fields, tensors = self.integers(sources[0], hidden, self.recurrent_bias)
        return (Quantised(Gru(**fields, reset_after=self.reset_after), tensors, hidden),)


@dataclass(frozen=True, slots=True)
class FloatLstm(FloatRecurrent):
    """Long short-term memory, gates i, f, g, o (Hochreiter and Schmidhuber 1997; Gers et al. 2000):

        i, f, o = sigmoid(W x + b + R h)       g = tanh(W x + b + R h)
        c <- f * c + i * g, within +-cell_clip where that is not 0;      h = o * tanh(c)

    weight (4 hidden, inputs), recurrent (4 hidden, hidden), bias (4 hidden,).

    state_scales  the map of the hidden state, and the real value of one step of the cell, a power of two, where the
                  file fixes them
    written       the map by which LiteRT writes the integers of hidden vectors, where it is to be followed bit for bit.
                  It reads them by two more that may differ: what goes back by that of `state_scales`, what goes out by
                  `output`; all three and the scales of all weights are the file's then
    """

    cell_clip: float = 0.0
    state_scales: tuple[Affine, float] | None = None
    written: Affine | None = None

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Lstm, LstmQ12)

    def start(self, batch: int) -> State:
        return {name: np.zeros((batch, self.hidden), np.float32) for name in ("hidden", "cell")}

    def advance(self, state: State, current: F32) -> F32:
        n = self.hidden
        total = current + state["hidden"] @ self.recurrent.T.astype(np.float32)
        i, f, o = (sigmoid(total[:, k * n : (k + 1) * n]) for k in (0, 1, 3))
        cell = f * state["cell"] + i * np.tanh(total[:, 2 * n : 3 * n])
        end = self.cell_end()
        state["cell"] = np.clip(cell, -end, end)
        h = o * np.tanh(state["cell"])
        (gain, offset), (gain_out, offset_out) = self.readings()
        state["hidden"] = h * gain + offset
        return h * gain_out + offset_out

    def cell_end(self) -> np.float32:
        """What a cell does not leave: its clip, and int16 where the file fixes its scale."""
        ends = [self.cell_clip] if self.cell_clip else []
        return np.float32(min([*ends, CELL_TOP * self.state_scales[1]] if self.state_scales else ends, default=np.inf))

    def readings(self) -> tuple[tuple[np.float32, np.float32], tuple[np.float32, np.float32]]:
        """Gain and offset by which a hidden vector goes back, and those by which it goes out."""
        if self.written is None or self.state_scales is None or self.output is None:
            return AS_IT_IS, AS_IT_IS
        return reread(self.written, self.state_scales[0]), reread(self.written, self.output)

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """Nothing depends on the reach: gates saturate at +-16, the cell at its clip or +-64, the hidden vector at 1.

        Raises ModelError where the file's scale of the cell is no power of two within 2**-15 and 2**-4, or its hidden
        vector goes out by another map than back.
        """
        if self.written is not None:
            return (self.as_litert(sources[0], self.written),)
        hidden = self.output or (self.state_scales[0] if self.state_scales else HIDDEN)
        if self.state_scales and self.state_scales[0] != hidden:
            raise ModelError(f"layer {self.name}: its output has another quantisation than its hidden state")
        fields, tensors = self.integers(sources[0], hidden, np.zeros_like(self.bias))
        exponent = self.cell_exponent()
        limit = min(CELL_TOP, round(self.cell_clip * 2.0**exponent)) if self.cell_clip else CELL_TOP
        layer = Lstm(**fields, cell_exponent=exponent, cell_limit=limit)
        return (Quantised(layer, tensors, hidden),)

    def as_litert(self, x: Affine, written: Affine) -> Quantised:
        """The layer in LiteRT's arithmetic. Its scales are products in float32. Raises ModelError where one is too
        large or too small for it."""
        if (
            self.state_scales is None
            or self.output is None
            or self.weight_scale is None
            or self.recurrent_scale is None
        ):
            raise ModelError(f"layer {self.name}: its integers are LiteRT's, but not all of its scales are")
        back, step = self.state_scales
        tensors: Tensors = {}
        for weight, prefix, bias, map_, scales in (
            (self.weight, "", self.bias, x, self.weight_scale),
            (self.recurrent, "recurrent_", np.zeros_like(self.bias), back, self.recurrent_scale),
        ):
            integers, folded, _ = fold(weight, bias, map_, GATE_Q12, scales)
            maps = [
                twice(self.name, float(np.float32(scale) * np.float32(map_.scale) / np.float32(GATE_Q12.scale)))
                for scale in scales
            ]
            tensors |= {
                f"{self.name}.{prefix.rstrip('_') or 'weight'}": narrow(self.name, integers),
                f"{self.name}.{prefix}bias": folded,
                f"{self.name}.{prefix}multiplier": np.array([m.multiplier for m in maps], np.int32),
                f"{self.name}.{prefix}shift": np.array([m.shift for m in maps], np.uint8),
            }
        limit = int(min(CELL_TOP, self.cell_clip / step))
        layer = LstmQ12(
            **self.walk(),
            hidden_map=twice(
                self.name, float(np.float32(HIDDEN_TOP**2) / np.float32(written.scale)), written.zero_point
            ),
            start=back.zero_point,
            cell_exponent=self.cell_exponent(),
            cell_limit=limit,
        )
        return Quantised(layer, tensors, self.output)

    def cell_exponent(self) -> int:
        """Binary places of the cell: the file's, or as many as its clip leaves room for, up to those of a gate."""
        if self.state_scales is not None:
            exponent = -math.log2(self.state_scales[1])
            if exponent not in CELL_EXPONENTS:
                raise ModelError(
                    f"layer {self.name}: cell scale {self.state_scales[1]:g} is no power of two within 2**-15 and 2**-4"
                )
            return int(exponent)
        if not self.cell_clip:
            return CELL_EXPONENT
        room = math.floor(math.log2(CELL_TOP / self.cell_clip))
        if room < CELL_EXPONENTS[0]:
            raise ModelError(f"layer {self.name}: cell clip {self.cell_clip:g} is above 2047")
        return min(GATE_FRACTION, room)


def reread(written: Affine, read: Affine) -> tuple[np.float32, np.float32]:
    """Gain and offset of real values whose integers are written by one map and read by another."""
    offset = (written.zero_point - read.zero_point) * read.scale
    return np.float32(read.scale / written.scale), np.float32(offset)


def twice(name: str, scale: float, zero_point: int = 0) -> Twice:
    """The nearest of LiteRT's maps. Raises ModelError where a scale has none."""
    mantissa, exponent = math.frexp(scale)
    multiplier = round(mantissa * 2**31)
    if multiplier == 1 << 31:
        multiplier, exponent = 1 << 30, exponent + 1
    try:
        return Twice(multiplier=multiplier, shift=31 - exponent, zero_point=zero_point)
    except SpecError as err:
        raise ModelError(f"layer {name}: scale {scale:g} has no multiplier: {err}") from None


def narrow(name: str, integers: I16) -> I8:
    """Weights in whole steps from zero as int8. Raises ModelError where a file's own leave it."""
    low, high = I8_BOUNDS
    if integers.min() < low or integers.max() > high:
        raise ModelError(
            f"layer {name}: weights from {integers.min()} to {integers.max()} steps from their zero point, outside "
            f"[{low}, {high}]; quantise a recurrent layer's weights as symmetric int8"
        )
    return integers.astype(np.int8)


def sigmoid(x: F32) -> F32:
    """1 / (1 + exp(-x)), without an overflow at either end."""
    return np.asarray((1 + np.tanh(x / 2)) / 2, np.float32)
