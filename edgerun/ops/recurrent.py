"""RNN, GRU and LSTM layers at work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np

from edgerun.arrays import F32, F64, I64, AnyArray, Bool, Tensors
from edgerun.kernels import recurrent
from edgerun.layers.recurrent import Gated, Gru, Lstm, LstmQ12, Recurrent, Rnn
from edgerun.ops.base import LayerRun

GATE_FRACTION: Final = 12
"""Binary places of what goes into a gate of LiteRT's."""


class Projection:
    """One of the two matrix products of a layer, rescaled: `sums` <- ((W x + b) * m + 2**(s-1) >> s) + base.

    prefix  "" or "recurrent_", which the names of bias, multiplier and shift begin with
    rows    the gates that it serves
    lead    what comes before the width in `x` and `products`: the batch, or the steps of a window
    base    added to every sum: 2**15 turns a sum into an index of a table
    """

    def __init__(
        self,
        spec: Recurrent,
        tensors: Mapping[str, AnyArray],
        prefix: str,
        rows: slice,
        batch: tuple[int, ...],
        lead: tuple[int, ...],
        base: int = 0,
    ) -> None:
        weight = spec.tensor(tensors, "recurrent" if prefix else "weight")[rows]
        carrier = np.float32 if spec.proof(tensors).carrier == "float32-dot" else np.float64
        self._weights: F32 | F64 = np.zeros(weight.T.shape, carrier)
        self._weights[...] = weight.T
        bias, multiplier, shift = (
            spec.tensor(tensors, prefix + part)[rows].astype(np.int64) for part in ("bias", "multiplier", "shift")
        )
        self.x: F32 | F64 = np.zeros((*lead, weight.shape[1]), carrier)
        self.products: F32 | F64 = np.zeros((*lead, weight.shape[0]), carrier)
        self.sums: I64 = np.zeros((*batch, weight.shape[0]), np.int64)
        self._prepare(bias, multiplier, shift, base)

    def _prepare(self, bias: I64, multiplier: I64, shift: I64, base: int) -> None:
        self._multiplier, self._shift = multiplier, shift
        self._offset: I64 = bias * multiplier + np.left_shift(1, shift - 1) + np.left_shift(base, shift)

    def multiply(self) -> None:
        """Fill `products` from `x`, which the caller has written."""
        np.dot(self.x, self._weights, out=self.products)

    def rescale(self, products: F32 | F64) -> None:
        """Fill `sums` from `products`, or from one row of them."""
        recurrent.rescale(self.sums, products, self._multiplier, self._offset, self._shift)


class TwiceProjection(Projection):
    """The same, rounded twice as LiteRT does; `base` is left to the caller, who cuts off int16 before it."""

    def _prepare(self, bias: I64, multiplier: I64, shift: I64, base: int) -> None:
        self._multiplier = np.left_shift(multiplier, np.maximum(31 - shift, 0))
        self._offset = bias * self._multiplier + (1 << 30)
        self._shift = np.maximum(shift - 31, 0) + 1
        self._half: I64 = np.left_shift(1, self._shift - 1)
        self._sign: I64 = np.zeros_like(self.sums)

    def rescale(self, products: F32 | F64) -> None:
        recurrent.rescale_twice(
            self.sums, products, self._multiplier, self._offset, self._shift, self._half, self._sign
        )


class RecurrentRun(LayerRun):
    """A window walked through step by step. One sample's steps are multiplied all at once, a batch's one by one."""

    spec: Recurrent
    projection: ClassVar[type[Projection]] = Projection

    def __init__(self, spec: Recurrent, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        n = spec.hidden
        self.spec = spec
        self._whole = not batch
        self._window = (*batch, spec.steps, spec.inputs)
        self._input = self.projection(spec, tensors, "", slice(None), batch, batch or (spec.steps,), recurrent.ONE)
        products = list(self._input.products) if self._whole else [self._input.products] * spec.steps
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        places = self.out.reshape(*batch, -1, n)
        order = range(spec.steps)[::-1] if spec.reverse else range(spec.steps)
        self._walk = [(t, products[t], places[..., t if spec.sequence else 0, :]) for t in order]
        self._q: I64 = np.zeros((*batch, n), np.int64)
        self._given: I64 | Bool = self._q  # what goes out of a step

    def step(self, *sources: F32) -> None:
        x = sources[0].reshape(self._window)
        if self.spec.reverse:
            self._silence()
        if self._whole:
            self._multiply(x)
        for t, products, place in self._walk:
            if not self._whole:
                self._multiply(x[..., t, :])
            self._input.rescale(products)
            self._advance()
            if self.spec.sequence:
                np.copyto(place, self._given, casting="unsafe")
        if not self.spec.sequence:
            np.copyto(self.out, self._given, casting="unsafe")

    def _multiply(self, x: F32) -> None:
        np.copyto(self._input.x, x)
        self._input.multiply()

    def _advance(self) -> None:
        """One step inside a window, the input's part of the gates being in `_input.sums`; leaves `_q`."""
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
        self.hidden, self._map = self._q, to_int8_of(spec)
        self._fresh: I64 = np.zeros((*batch, spec.hidden), np.int64)
        self._back = self.projection(spec, tensors, "recurrent_", slice(None), batch, batch)
        self._function = recurrent.tanh_table() if spec.function == "tanh" else recurrent.relu_table()
        self._silence()

    def _advance(self) -> None:
        self._back.multiply()
        self._back.rescale(self._back.products)
        self._back.sums += self._input.sums
        recurrent.look_up(self._fresh, self._function, self._back.sums)
        recurrent.to_int8(self.hidden, self._fresh, *self._map)
        self.resume()

    def _silence(self) -> None:
        self.hidden[...] = self.spec.silence
        self.resume()

    def resume(self) -> None:
        np.copyto(self._back.x, self.hidden, casting="unsafe")

    def state(self) -> Tensors:
        return {} if self.spec.reverse else {"hidden": self.hidden}


class GruRun(RecurrentRun):
    """A GRU layer. `hidden` (..., n) int64 holds int16 values in Q0.15, `carry` (..., n) what rounding left."""

    spec: Gru

    def __init__(self, spec: Gru, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        super().__init__(spec, tensors, batch)
        n = spec.hidden
        self.hidden, self.carry, self._candidate = (np.zeros((*batch, n), np.int64) for _ in range(3))
        self._gates: I64 = np.zeros((*batch, 2 * n), np.int64)
        self._r, self._z = self._gates[..., :n], self._gates[..., n:]
        rows = slice(None) if spec.reset_after else slice(2 * n)
        self._map = to_int8_of(spec)
        self._back = self.projection(spec, tensors, "recurrent_", rows, batch, batch)
        if not spec.reset_after:
            self._late = self.projection(spec, tensors, "recurrent_", slice(2 * n, None), batch, batch)
        self._u, self._u_candidate = self._input.sums[..., : 2 * n], self._input.sums[..., 2 * n :]
        self._v = self._back.sums[..., : 2 * n]
        self._v_candidate = self._back.sums[..., 2 * n :] if spec.reset_after else self._late.sums
        self._sigmoid, self._tanh = recurrent.sigmoid_table(), recurrent.tanh_table()
        self._silence()

    def _advance(self) -> None:
        self._back.multiply()
        self._back.rescale(self._back.products)
        self._v += self._u
        recurrent.look_up(self._gates, self._sigmoid, self._v)
        if self.spec.reset_after:
            recurrent.gate_hidden(self._v_candidate, self._r, self._u_candidate)
        else:
            recurrent.product(self._r, self.hidden)
            recurrent.to_int8(self._q, self._r, *self._map)
            np.copyto(self._late.x, self._q, casting="unsafe")
            self._late.multiply()
            self._late.rescale(self._late.products)
            self._v_candidate += self._u_candidate
        recurrent.look_up(self._candidate, self._tanh, self._v_candidate)
        recurrent.blend(self.hidden, self.carry, self._z, self._candidate)
        self._view()

    def _view(self) -> None:
        """The int8 view of the hidden state, for the next product and for the output."""
        recurrent.to_int8(self._q, self.hidden, *self._map)
        np.copyto(self._back.x, self._q, casting="unsafe")

    def _silence(self) -> None:
        self.hidden[...] = 0
        self.carry[...] = 0
        self._view()

    def resume(self) -> None:
        self._view()

    def state(self) -> Tensors:
        return {} if self.spec.reverse else {"hidden": self.hidden, "carry": self.carry}


class CellRun(RecurrentRun):
    """What both kinds of LSTM share: `hidden` (..., n) int64 holds int8 values, `cell` int16 ones."""

    spec: Lstm | LstmQ12

    def __init__(
        self, spec: Lstm | LstmQ12, tensors: Mapping[str, AnyArray], batch: tuple[int, ...], sigmoid: I64, tanh: I64
    ) -> None:
        super().__init__(spec, tensors, batch)
        n = spec.hidden
        self.hidden, self.cell = self._q, np.zeros((*batch, n), np.int64)
        self._gates: I64 = np.zeros((*batch, 4 * n), np.int64)
        self._i, self._f, self._g, self._o = (self._gates[..., k * n : (k + 1) * n] for k in range(4))
        self._index: I64 = np.zeros((*batch, n), np.int64)
        self._back = self.projection(spec, tensors, "recurrent_", slice(None), batch, batch)
        gates, sums = self._gates, self._back.sums
        self._look_ups = [
            (gates[..., rows], function, sums[..., rows])
            for rows, function in ((slice(2 * n), sigmoid), (slice(2 * n, 3 * n), tanh), (slice(3 * n, None), sigmoid))
        ]

    def _open(self) -> None:
        """The gates of this step."""
        self._back.multiply()
        self._back.rescale(self._back.products)
        self._back.sums += self._input.sums
        for gate, function, index in self._look_ups:
            recurrent.look_up(gate, function, index)

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
        self._map, self._tanh = to_int8_of(spec), recurrent.tanh_table()
        self._silence()

    def _advance(self) -> None:
        spec = self.spec
        self._open()
        shift = 15 - spec.cell_exponent
        recurrent.remember(self.cell, self.carry, self._i, self._f, self._g, shift, spec.cell_limit)
        recurrent.cell_index(self._index, self.cell, spec.cell_exponent)
        recurrent.look_up(self._g, self._tanh, self._index)
        recurrent.product(self._g, self._o)
        self._release()

    def _release(self) -> None:
        """The int8 view of the new hidden values, which `_g` holds in Q0.15, for the next product and the output."""
        recurrent.to_int8(self.hidden, self._g, *self._map)
        np.copyto(self._back.x, self.hidden, casting="unsafe")

    def _silence(self) -> None:
        super()._silence()
        self.carry[...] = 0

    def state(self) -> Tensors:
        return {} if self.spec.reverse else super().state() | {"carry": self.carry}


class LstmQ12Run(CellRun):
    """An LSTM layer in LiteRT's arithmetic."""

    spec: LstmQ12
    projection = TwiceProjection

    def __init__(self, spec: LstmQ12, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        tanh = recurrent.tanh_by_exp_table(GATE_FRACTION)
        super().__init__(spec, tensors, batch, recurrent.sigmoid_q12_table(), tanh)
        self._tanh = recurrent.tanh_by_exp_table(spec.cell_exponent)
        map_ = spec.hidden_map
        self._map = (map_.multiplier, map_.shift - 30, map_.zero_point)
        self._silence()

    def _advance(self) -> None:
        spec = self.spec
        recurrent.saturate(self._input.sums)
        self._input.sums += recurrent.ONE
        self._open()
        recurrent.remember_rounded(self.cell, self._i, self._f, self._g, 30 - spec.cell_exponent, spec.cell_limit)
        np.add(self.cell, recurrent.ONE, out=self._index)
        recurrent.look_up(self._g, self._tanh, self._index)
        self._g *= self._o
        recurrent.to_int8_twice(self.hidden, self._g, *self._map)
        np.copyto(self._back.x, self.hidden, casting="unsafe")
