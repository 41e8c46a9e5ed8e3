"""RNN, GRU and LSTM layers at work."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import numpy as np

from edgerun.arrays import F32, F64, I64, AnyArray, Bool, Tensors
from edgerun.kernels import recurrent
from edgerun.layers.recurrent import Gated, Gru, Lstm, LstmQ12, Recurrent, Rnn
from edgerun.ops.base import LayerRun

GATE_FRACTION: Final = 12
"""Binary places of what goes into a gate of LiteRT's."""


class Projection:
    """One of the two matrix products of a layer: `products` <- W x, and what rescales them: + bias, * m >> s.

    prefix  "" or "recurrent_", which the names of bias, multiplier and shift begin with
    rows    the gates that it serves
    lead    what comes before the width in `x` and `products`: the batch, or the steps of a window
    """

    def __init__(
        self, spec: Recurrent, tensors: Mapping[str, AnyArray], prefix: str, rows: slice, lead: tuple[int, ...]
    ) -> None:
        weight = spec.tensor(tensors, "recurrent" if prefix else "weight")[rows]
        carrier = np.float32 if spec.proof(tensors).carrier == "float32-dot" else np.float64
        self._weights: F32 | F64 = np.zeros(weight.T.shape, carrier)
        self._weights[...] = weight.T
        self.bias, self.multiplier, self.shift = (
            spec.tensor(tensors, prefix + part)[rows].astype(np.int64) for part in ("bias", "multiplier", "shift")
        )
        self.x: F32 | F64 = np.zeros((*lead, weight.shape[1]), carrier)
        self.products: F32 | F64 = np.zeros((*lead, weight.shape[0]), carrier)

    def multiply(self) -> None:
        """Fill `products` from `x`, which the caller has written."""
        np.dot(self.x, self._weights, out=self.products)


class Sums:
    """What several products give, side by side in `all`: ((W x + b) * m + 2**(s-1) >> s) + base, each also alone.

    base  added to the first product's sums: 2**15 turns a sum into an index of a table
    """

    def __init__(self, projections: Sequence[Projection], batch: tuple[int, ...], base: int = 0) -> None:
        ends = [0, *itertools.accumulate(len(each.bias) for each in projections)]
        self.all: I64 = np.zeros((*batch, ends[-1]), np.int64)
        self.each = [self.all[..., first:end] for first, end in itertools.pairwise(ends)]
        bias, multiplier, shift = (
            np.concatenate([getattr(each, part) for each in projections]) for part in ("bias", "multiplier", "shift")
        )
        bases = np.where(np.arange(ends[-1]) < ends[1], base, 0)
        self._prepare(bias, multiplier, shift, bases)

    def _prepare(self, bias: I64, multiplier: I64, shift: I64, bases: I64) -> None:
        self._multiplier, self._shift = multiplier, shift
        self._offset: I64 = bias * multiplier + np.left_shift(1, shift - 1) + np.left_shift(bases, shift)

    def take(self, *products: F32 | F64) -> None:
        """Fill them from products, or from one row of them."""
        for sums, given in zip(self.each, products, strict=True):
            np.copyto(sums, given, casting="unsafe")
        self._rescale()

    def _rescale(self) -> None:
        recurrent.rescale(self.all, self._multiplier, self._offset, self._shift)


class SumsTwice(Sums):
    """The same, rounded twice as LiteRT does; `base` is left to the caller, who cuts off int16 before it."""

    def _prepare(self, bias: I64, multiplier: I64, shift: I64, bases: I64) -> None:
        self._multiplier = np.left_shift(multiplier, np.maximum(31 - shift, 0))
        self._offset = bias * self._multiplier + (1 << 30)
        self._shift = np.maximum(shift - 31, 0) + 1
        self._half: I64 = np.left_shift(1, self._shift - 1)
        self._sign: I64 = np.zeros_like(self.all)

    def _rescale(self) -> None:
        recurrent.rescale_twice(self.all, self._multiplier, self._offset, self._shift, self._half, self._sign)


class RecurrentRun(LayerRun):
    """A window walked through step by step. One sample's steps are multiplied all at once, a batch's one by one."""

    spec: Recurrent

    def __init__(self, spec: Recurrent, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        n = spec.hidden
        self.spec = spec
        self._whole = not batch
        self._window = (*batch, spec.steps, spec.inputs)
        self._input = Projection(spec, tensors, "", slice(None), batch or (spec.steps,))
        products = list(self._input.products) if self._whole else [self._input.products] * spec.steps
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        places = self.out.reshape(*batch, -1, n)
        order = range(spec.steps)[::-1] if spec.reverse else range(spec.steps)
        self._walk = [(t, products[t], places[..., t if spec.sequence else 0, :]) for t in order]
        self._q: I64 = np.zeros((*batch, n), np.int64)
        self._given: F32 | F64 | I64 | Bool = self._q  # what goes out of a step

    def step(self, *sources: F32) -> None:
        x = sources[0].reshape(self._window)
        if self.spec.reverse:
            self._silence()
        if self._whole:
            self._multiply(x)
        for t, products, place in self._walk:
            if not self._whole:
                self._multiply(x[..., t, :])
            self._advance(products)
            if self.spec.sequence:
                np.copyto(place, self._given, casting="unsafe")
        if not self.spec.sequence:
            np.copyto(self.out, self._given, casting="unsafe")

    def _multiply(self, x: F32) -> None:
        np.copyto(self._input.x, x)
        self._input.multiply()

    def _advance(self, products: F32 | F64) -> None:
        """One step inside a window, from the input's products; leaves `_given`."""
        raise NotImplementedError

    def _silence(self) -> None:
        """State back to zero, and what follows from it."""
        raise NotImplementedError

    def reset(self) -> None:
        self._silence()
        self.out[...] = self.spec.silence


def to_int8_of(spec: Gated) -> tuple[int, int, int, int, int]:
    """The numbers that `recurrent.to_int8` takes."""
    map_ = spec.hidden_map
    offset = (1 << map_.shift - 1) + (map_.zero_point << map_.shift)
    return map_.multiplier, offset, map_.shift, map_.qmin, map_.qmax


class RnnRun(RecurrentRun):
    """An RNN layer. `hidden` (..., n) int64 holds int8 values."""

    spec: Rnn

    def __init__(self, spec: Rnn, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        super().__init__(spec, tensors, batch)
        self.hidden = self._q
        self._back = Projection(spec, tensors, "recurrent_", slice(None), batch)
        self._sums = Sums((self._input, self._back), batch, recurrent.ONE)
        self._gates, self._heard = self._sums.each
        function = recurrent.tanh_table() if spec.function == "tanh" else recurrent.relu_table()
        self._function: I64 = recurrent.int8_table(*to_int8_of(spec))[function]
        self._silence()

    def _advance(self, products: F32 | F64) -> None:
        self._back.multiply()
        self._sums.take(products, self._back.products)
        self._gates += self._heard
        recurrent.look_up(self.hidden, self._function, self._gates)
        self.resume()

    def _silence(self) -> None:
        self.hidden[...] = self.spec.silence
        self.resume()

    def resume(self) -> None:
        np.copyto(self._back.x, self.hidden, casting="unsafe")

    def state(self) -> Tensors:
        return {} if self.spec.reverse else {"hidden": self.hidden}


class GruRun(RecurrentRun):
    """A GRU layer. `hidden` (..., n) int64 holds int16 values in Q0.15, `carry` (..., n) what rounding left of the last
    window's end."""

    spec: Gru

    def __init__(self, spec: Gru, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        super().__init__(spec, tensors, batch)
        n = spec.hidden
        shape = (*batch, n)
        self.hidden, self.carry, self._t, self._candidate, self._r, self._z = (
            np.zeros(shape, np.int64) for _ in range(6)
        )
        rows = slice(None) if spec.reset_after else slice(2 * n)
        self._back = Projection(spec, tensors, "recurrent_", rows, batch)
        self._sums = Sums((self._input, self._back), batch, recurrent.ONE)
        self._given, carrier = self._back.x, self._back.x.dtype
        self._int8 = recurrent.int8_table(*to_int8_of(spec)).astype(carrier)
        u, v = self._sums.each
        self._u, self._u_candidate = u[..., : 2 * n], u[..., 2 * n :]
        self._v, self._v_candidate = v[..., : 2 * n], v[..., 2 * n :]
        if not spec.reset_after:
            self._late = Projection(spec, tensors, "recurrent_", slice(2 * n, None), batch)
            self._late_sums = Sums((self._late,), batch)
            self._v_candidate = self._late_sums.all
        self._reset, self._update = self._u[..., :n], self._u[..., n:]
        self._silence()

    def step(self, *sources: F32) -> None:
        super().step(*sources)
        np.bitwise_and(self._t, recurrent.MOST, out=self.carry)

    def _advance(self, products: F32 | F64) -> None:
        self._back.multiply()
        self._sums.take(products, self._back.products)
        self._u += self._v
        recurrent.look_up(self._r, recurrent.sigmoid_table(), self._reset)
        recurrent.look_up(self._z, recurrent.complement_table(), self._update)
        if self.spec.reset_after:
            recurrent.gate_hidden(self._v_candidate, self._r, self._u_candidate)
        else:
            recurrent.product(self._r, self.hidden)
            recurrent.look_around(self._late.x, self._int8, self._r)
            self._late.multiply()
            self._late_sums.take(self._late.products)
            self._v_candidate += self._u_candidate
        recurrent.look_up(self._candidate, recurrent.tanh_table(), self._v_candidate)
        recurrent.blend(self._t, self.hidden, self._z, self._candidate)
        self._view()

    def _view(self) -> None:
        """The int8 view of the hidden state, for the next product and for the output."""
        recurrent.look_around(self._back.x, self._int8, self.hidden)

    def _silence(self) -> None:
        self.hidden[...] = 0
        self.carry[...] = 0
        self.resume()

    def resume(self) -> None:
        np.left_shift(self.hidden, recurrent.PLACES, out=self._t)
        self._t += self.carry
        self._view()

    def state(self) -> Tensors:
        return {} if self.spec.reverse else {"hidden": self.hidden, "carry": self.carry}


class CellRun(RecurrentRun):
    """What both kinds of LSTM share: `hidden` (..., n) int64 holds int8 values, `cell` int16 ones."""

    spec: Lstm | LstmQ12
    sums: ClassVar[type[Sums]] = Sums

    def __init__(
        self, spec: Lstm | LstmQ12, tensors: Mapping[str, AnyArray], batch: tuple[int, ...], sigmoid: I64, tanh: I64
    ) -> None:
        super().__init__(spec, tensors, batch)
        n = spec.hidden
        self.hidden, self.cell = self._q, np.zeros((*batch, n), np.int64)
        self._gates: I64 = np.zeros((*batch, 4 * n), np.int64)
        self._i, self._f, self._g, self._o = (self._gates[..., k * n : (k + 1) * n] for k in range(4))
        self._back = Projection(spec, tensors, "recurrent_", slice(None), batch)
        self._sums = self.sums((self._input, self._back), batch, recurrent.ONE)
        self._u, self._v = self._sums.each
        gates, sums = self._gates, self._u
        self._look_ups = [
            (gates[..., rows], function, sums[..., rows])
            for rows, function in ((slice(2 * n), sigmoid), (slice(2 * n, 3 * n), tanh), (slice(3 * n, None), sigmoid))
        ]

    def _open(self, products: F32 | F64) -> None:
        """The gates of this step."""
        self._back.multiply()
        self._sums.take(products, self._back.products)
        self._join()
        for gate, function, index in self._look_ups:
            recurrent.look_up(gate, function, index)

    def _join(self) -> None:
        self._u += self._v

    def _silence(self) -> None:
        self.hidden[...] = self.spec.silence
        self.cell[...] = 0
        self.resume()

    def resume(self) -> None:
        np.copyto(self._back.x, self.hidden, casting="unsafe")

    def state(self) -> Tensors:
        return {} if self.spec.reverse else {"hidden": self.hidden, "cell": self.cell}


class LstmRun(CellRun):
    """An LSTM layer; `carry` (..., n) is what rounding left of its cell."""

    spec: Lstm

    def __init__(self, spec: Lstm, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        super().__init__(spec, tensors, batch, recurrent.sigmoid_table(), recurrent.tanh_table())
        self.carry: I64 = np.zeros((*batch, spec.hidden), np.int64)
        self._tanh = recurrent.cell_tanh_table(spec.cell_exponent)
        shift = 15 - spec.cell_exponent
        self._shift, self._half = recurrent.number(shift), recurrent.number((1 << shift) >> 1)
        self._limits = recurrent.number(-spec.cell_limit), recurrent.number(spec.cell_limit)
        self._int8 = recurrent.int8_table(*to_int8_of(spec))
        self._silence()

    def _advance(self, products: F32 | F64) -> None:
        self._open(products)
        recurrent.remember(self.cell, self.carry, self._i, self._f, self._g, self._shift, self._half, self._limits)
        recurrent.look_around(self._g, self._tanh, self.cell)
        recurrent.product(self._g, self._o)
        self._release()

    def _release(self) -> None:
        """The int8 view of the new hidden values, which `_g` holds in Q0.15, for the next product and the output."""
        recurrent.look_around(self.hidden, self._int8, self._g)
        self.resume()

    def _silence(self) -> None:
        super()._silence()
        self.carry[...] = 0

    def state(self) -> Tensors:
        return {} if self.spec.reverse else super().state() | {"carry": self.carry}


class LstmQ12Run(CellRun):
    """An LSTM layer in LiteRT's arithmetic."""

    spec: LstmQ12
    sums = SumsTwice

    def __init__(self, spec: LstmQ12, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        tanh = recurrent.tanh_by_exp_table(GATE_FRACTION)
        super().__init__(spec, tensors, batch, recurrent.sigmoid_q12_table(), tanh)
        self._tanh: I64 = np.roll(recurrent.tanh_by_exp_table(spec.cell_exponent), recurrent.ONE)
        map_, limit, shift = spec.hidden_map, spec.cell_limit, 30 - spec.cell_exponent
        right = map_.shift - 30
        self._map = [recurrent.number(each) for each in (map_.multiplier, right, 1 << right - 1, map_.zero_point)]
        self._shift, self._half = recurrent.number(shift), recurrent.number(1 << shift - 1)
        ends = (-limit, limit) if limit else (-recurrent.ONE, recurrent.CARRY)
        self._limits = recurrent.number(ends[0]), recurrent.number(ends[1])
        self._silence()

    def _join(self) -> None:
        recurrent.saturate(self._u)
        self._u += recurrent.FROM_ZERO
        super()._join()

    def _advance(self, products: F32 | F64) -> None:
        self._open(products)
        recurrent.remember_rounded(self.cell, self._i, self._f, self._g, self._shift, self._half, self._limits)
        recurrent.look_around(self._g, self._tanh, self.cell)
        self._g *= self._o
        recurrent.to_int8_twice(self.hidden, self._g, *self._map)
        np.copyto(self._back.x, self.hidden, casting="unsafe")
