"""Recurrent layers: RNN, GRU and LSTM with integer gates and integer state."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, cast

import numpy as np
from msgspec import Meta

from edgerun.arrays import I8, I64, AnyArray
from edgerun.errors import SpecError
from edgerun.layers.base import (
    BIAS,
    F32_EXACT,
    I8_BOUNDS,
    I8_REACH,
    MULTIPLIER,
    SHIFT,
    Certificate,
    Count,
    Field,
    Int8,
    LayerRecord,
    Record,
    Requant,
    State,
    Tensors,
    Work,
    certify_requant,
    check_volume,
    describe_scales,
    magnitude,
    refuse_above,
    refuse_reach,
)

GATE_FRACTION: Final = 11
"""Binary places of what goes into a gate: int16 reaches +-16, where a sigmoid in Q0.15 has come to 0 and to 1."""

HIDDEN_FRACTION: Final = 15
"""Binary places of a hidden value."""

GATE_LIMIT: Final = 1 << 30
SUM_LIMIT: Final = (1 << 31) - 1
HIDDEN_BOUND: Final = 128  # the largest |int8| that goes back


class Twice(Record, frozen=True, kw_only=True):
    """LiteRT's older rescaling, two roundings and a multiplier of 31 bits. With left = max(0, 31 - shift) and
    right = max(0, shift - 31):

        q = clip(half_away(half_up((acc << left) * multiplier, 31), right) + zero_point, -128, 127)
    """

    multiplier: Annotated[int, Meta(ge=1 << 30, le=(1 << 31) - 1)]
    shift: Annotated[int, Meta(ge=16, le=62)]
    zero_point: Int8 = 0


class Recurrent(LayerRecord, frozen=True, kw_only=True):
    """What all kinds share. One call reads `steps` vectors, (steps, inputs), and walks through them.

    Tensors, rows by gate and then by unit (g = gates * hidden): `<name>.weight` int8 (g, in), `<name>.recurrent` int8
    (g, hidden), and for each of them bias int32 (g,), multiplier int32 (g,), shift uint8 (g,), which take its sums to
    what goes into a gate: `bias`, `multiplier`, `shift`, `recurrent_bias`, `recurrent_multiplier`, `recurrent_shift`.
    """

    inputs: Count  # values a step
    hidden: Count
    steps: Count = 1
    sequence: bool = False  # True: the hidden vector after every step; False: after the last one
    reverse: bool = False  # the last step first, and from zero in every call
    input_bound: Annotated[int, Meta(ge=1, le=128)] = 128

    stateful: ClassVar[bool] = True
    gates: ClassVar[int]
    multiplier_bounds: ClassVar[tuple[int, int]] = MULTIPLIER
    shift_bounds: ClassVar[tuple[int, int]] = SHIFT

    def __post_init__(self) -> None:
        check_volume("steps of inputs", (self.steps, self.inputs))
        check_volume("steps of gates", (self.steps, self.gates * self.hidden))

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.steps * self.inputs,)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.steps, self.hidden) if self.sequence else (self.hidden,)

    @property
    def silence(self) -> int:
        """The int8 that goes out and back before the first step."""
        raise NotImplementedError

    @property
    def sums(self) -> int:
        """All gates of one step."""
        return self.gates * self.hidden

    def fields(self) -> tuple[Field, ...]:
        n = self.gates * self.hidden
        return (
            Field("weight", "int8", (n, self.inputs), *I8_BOUNDS),
            Field("bias", "int32", (n,), *BIAS),
            Field("multiplier", "int32", (n,), *self.multiplier_bounds),
            Field("shift", "uint8", (n,), *self.shift_bounds),
            Field("recurrent", "int8", (n, self.hidden), *I8_BOUNDS),
            Field("recurrent_bias", "int32", (n,), *BIAS),
            Field("recurrent_multiplier", "int32", (n,), *self.multiplier_bounds),
            Field("recurrent_shift", "uint8", (n,), *self.shift_bounds),
        )

    def reach(self, reaches: tuple[int, ...]) -> int:
        return I8_REACH

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        refuse_reach(self.name, self.input_bound, reaches)
        return self.proof(tensors)

    def proof(self, tensors: Tensors) -> Certificate:
        """The certificate for inputs within `input_bound`: both products are exact in its carrier, float32 up to 2**24,
        float64 beyond; sums fit int32 as in a dense layer; a rescaled sum stays under 2**30, so two of them fit int32.
        """
        parts = [self.tensor(tensors, field.part) for field in self.fields()]
        dots = (
            magnitude(cast(I8, parts[0]), axis=1) * self.input_bound,
            magnitude(cast(I8, parts[4]), axis=1) * HIDDEN_BOUND,
        )
        bound = max(self.certify_gate(dot, *parts[k : k + 3]) for dot, k in zip(dots, (1, 5), strict=True))
        exact = max(int(dot.max()) for dot in dots) <= F32_EXACT
        return Certificate(carrier="float32-dot" if exact else "float64", bound=bound)

    def certify_gate(self, dot: I64, bias: AnyArray, multiplier: AnyArray, shift: AnyArray) -> int:
        """The largest |sum| of any row: dot (n,) plus |bias|. Raises SpecError where a rescaled one could reach
        2**30."""
        raise NotImplementedError

    def describe(self, tensors: Tensors) -> str:
        scales = describe_scales(
            self.tensor(tensors, "recurrent_multiplier"), self.tensor(tensors, "recurrent_shift"), 0
        )
        return f"{self.steps} steps of {self.inputs}, recurrent {scales.removesuffix(', zero point 0')}"

    def work(self) -> Work:
        n = self.gates * self.hidden
        return Work(
            macs=self.steps * n * (self.inputs + self.hidden),
            elements=self.steps * (3 * n + 4 * self.hidden),
            calls=7 + 32 * self.steps,
        )


class Gated(Recurrent, frozen=True, kw_only=True):
    """The kinds in this house's own arithmetic: one rounding, half up, a multiplier of 24 bits."""

    hidden_map: Requant = Requant(multiplier=1, shift=8)  # from Q0.15 to the int8 that goes out and goes back

    @property
    def silence(self) -> int:
        return self.hidden_map.zero_point

    def reach(self, reaches: tuple[int, ...]) -> int:
        return max(abs(self.hidden_map.qmin), abs(self.hidden_map.qmax))

    def certify_gate(self, dot: I64, bias: AnyArray, multiplier: AnyArray, shift: AnyArray) -> int:
        found = certify_requant(self.name, 0, dot, bias, multiplier, shift)
        whole = (dot + np.abs(bias.astype(np.int64))) * multiplier.astype(np.int64)
        refuse_above(self.name, "largest input of a gate", whole >> shift.astype(np.int64), GATE_LIMIT - 1)
        return found.bound


class Rnn(Gated, tag="rnn", frozen=True, kw_only=True):
    """h = f(W x + b + R h + c). The hidden state is the int8 that goes out. What goes into f is int16: Q4.11 where f is
    tanh; of any scale where f is relu, which gives it on as it is, in place of Q0.15."""

    function: Literal["tanh", "relu"] = "tanh"

    gates: ClassVar[int] = 1

    def state(self) -> tuple[State, ...]:
        return () if self.reverse else (State("hidden", "int8", (self.hidden,)),)


class Gru(Gated, tag="gru", frozen=True, kw_only=True):
    """Gated recurrent unit, gates r, z, n. The hidden state is int16 in Q0.15 with a remainder; an int8 view of it,
    by `hidden_map`, goes into the matrix product and out."""

    reset_after: bool = True  # the reset gate acts behind the recurrent product; False: on the hidden state before it

    gates: ClassVar[int] = 3

    def state(self) -> tuple[State, ...]:
        if self.reverse:
            return ()
        return (State("hidden", "int16", (self.hidden,)), State("carry", "uint16", (self.hidden,)))


class Lstm(Gated, tag="lstm", frozen=True, kw_only=True):
    """Long short-term memory, gates i, f, g, o. The cell is int16 with `cell_exponent` binary places and a remainder;
    the hidden state is the int8 that goes out."""

    cell_exponent: Annotated[int, Meta(ge=4, le=15)] = 9  # e: a cell value is c * 2**-e
    cell_limit: Annotated[int, Meta(ge=1, le=32767)] = 32767

    gates: ClassVar[int] = 4

    def state(self) -> tuple[State, ...]:
        if self.reverse:
            return ()
        kinds: tuple[tuple[str, Literal["int8", "int16", "uint16"]], ...]
        kinds = (("hidden", "int8"), ("cell", "int16"), ("carry", "uint16"))
        return tuple(State(name, dtype, (self.hidden,)) for name, dtype in kinds)


class LstmQ12(Recurrent, tag="lstm-q12", frozen=True, kw_only=True):
    """Long short-term memory in LiteRT's int8 arithmetic, bit for bit: gates i, f, g, o in Q3.12, each product rounded
    twice, the cell int16 with `cell_exponent` binary places and no remainder."""

    hidden_map: Twice  # from Q0.30 to the int8 that goes out and back
    start: Int8 = 0  # the int8 that goes back before the first step; another map than `hidden_map`'s may read it
    cell_exponent: Annotated[int, Meta(ge=9, le=15)] = 11
    cell_limit: Annotated[int, Meta(ge=0, le=32767)] = 0  # 0: the ends of int16

    gates: ClassVar[int] = 4
    multiplier_bounds: ClassVar[tuple[int, int]] = (1 << 30, (1 << 31) - 1)
    shift_bounds: ClassVar[tuple[int, int]] = (16, 62)

    @property
    def silence(self) -> int:
        return self.start

    def certify_gate(self, dot: I64, bias: AnyArray, multiplier: AnyArray, shift: AnyArray) -> int:
        """As LiteRT's int32 holds it: the sum shifted left, and the rescaled one with an int16 added."""
        m, s = multiplier.astype(np.int64), shift.astype(np.int64)
        if (m < 1 << 30).any():
            k = int((m < 1 << 30).argmax())
            raise SpecError(f"layer {self.name} channel {k}: multiplier {m[k]} is outside [2**30, 2**31)")
        bound = dot + np.abs(bias.astype(np.int64))
        refuse_above(self.name, "sum|w| * max|x| + |b|", bound, SUM_LIMIT)
        shifted = bound << np.maximum(31 - s, 0)  # under 2**46
        refuse_above(self.name, "the same shifted left", shifted, SUM_LIMIT)
        refuse_above(self.name, "largest input of a gate", shifted >> np.maximum(s - 31, 0), GATE_LIMIT - 1)
        return int(bound.max())

    def state(self) -> tuple[State, ...]:
        if self.reverse:
            return ()
        return (State("hidden", "int8", (self.hidden,)), State("cell", "int16", (self.hidden,)))
