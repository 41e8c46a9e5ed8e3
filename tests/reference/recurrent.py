"""RNN, GRU and LSTM layers once more, unit by unit, in Python integers. Slow on purpose.

The two functions come from power series in whole numbers, not from what the kernels are made with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

from reference.integers import clip, half_up, requantise, sat16

from edgerun.layers.recurrent import Gru, Lstm, LstmQ12, Rnn

ONE = 1 << 15
GUARD = 120
"""Binary places of the series."""


@cache
def knot(name: str, k: int) -> int:
    """round_half_even(2**15 * f(k / 64)), 0 <= k <= 1024."""
    e = exponential(Fraction(k if name == "sigmoid" else 2 * k, 64))
    if name == "sigmoid":
        return round(ONE * e / (1 + e))
    return min(ONE - 1, round(ONE * (e - 1) / (e + 1)))


def exponential(x: Fraction) -> Fraction:
    """exp(x) for 0 <= x <= 32: the Taylor series of x / 64, squared six times, to 120 binary places."""
    small, term, total, n = x / 64, Fraction(1), Fraction(1), 1
    while term and n < 60:
        term = cut(term * small / n)
        total, n = total + term, n + 1
    for _ in range(6):
        total = cut(total * total)
    return total


def cut(x: Fraction) -> Fraction:
    return Fraction((x.numerator << GUARD) // x.denominator, 1 << GUARD)


def function(name: str, p: int) -> int:
    """A gate's function of p in Q4.11, as Q0.15: straight lines between knots."""
    p = sat16(p)
    k, j = divmod(abs(p), 32)
    low = knot(name, k)
    y = low + ((knot(name, k + 1) - low) * j + 16 >> 5) if j else low
    if p >= 0:
        return y
    return ONE - y if name == "sigmoid" else -y


class Slow:
    """What all kinds share. `hidden` is what goes back into the product, int8."""

    def __init__(self, spec: Any, tensors: Mapping[str, Any]) -> None:
        self.spec = spec
        self.parts = {field.part: tensors[f"{spec.name}.{field.part}"].tolist() for field in spec.fields()}
        self.silence()

    def silence(self) -> None:
        raise NotImplementedError

    def advance(self, x: Sequence[int]) -> list[int]:
        """One step; gives the int8 hidden vector."""
        raise NotImplementedError

    def step(self, x: Sequence[int]) -> list[int]:
        """One call on `steps` vectors in a row."""
        spec = self.spec
        rows = [list(map(int, x[k * spec.inputs : (k + 1) * spec.inputs])) for k in range(spec.steps)]
        if spec.reverse:
            self.silence()
            found = [self.advance(row) for row in reversed(rows)]
            return [y for row in reversed(found) for y in row] if spec.sequence else found[-1]
        found = [self.advance(row) for row in rows]
        return [y for row in found for y in row] if spec.sequence else found[-1]

    def int8(self, h: int) -> int:
        m = self.spec.hidden_map
        return requantise(h, m.multiplier, m.shift, m.zero_point, m.qmin, m.qmax)

    def from_input(self, row: int, x: Sequence[int]) -> int:
        return self._sum("weight", "", row, x)

    def from_hidden(self, row: int, q: Sequence[int]) -> int:
        return self._sum("recurrent", "recurrent_", row, q)

    def _sum(self, weight: str, prefix: str, row: int, x: Sequence[int]) -> int:
        acc = sum(w * v for w, v in zip(self.parts[weight][row], x, strict=True)) + self.parts[prefix + "bias"][row]
        return half_up(acc * self.parts[prefix + "multiplier"][row], self.parts[prefix + "shift"][row])


class SlowGru(Slow):
    spec: Gru

    def silence(self) -> None:
        self.hidden, self.carry = [0] * self.spec.hidden, [0] * self.spec.hidden

    def advance(self, x: Sequence[int]) -> list[int]:
        n = self.spec.hidden
        back = [self.int8(h) for h in self.hidden]
        u = [self.from_input(row, x) for row in range(3 * n)]
        v = [self.from_hidden(row, back) for row in range(2 * n)]
        r, z = ([function("sigmoid", u[row] + v[row]) for row in range(k * n, (k + 1) * n)] for k in (0, 1))
        if self.spec.reset_after:
            inner = [half_up(r[k] * sat16(self.from_hidden(2 * n + k, back)), 15) for k in range(n)]
        else:
            kept = [self.int8(half_up(r[k] * self.hidden[k], 15)) for k in range(n)]
            inner = [self.from_hidden(2 * n + k, kept) for k in range(n)]
        for k in range(n):
            candidate = function("tanh", u[2 * n + k] + inner[k])
            t = z[k] * self.hidden[k] + (ONE - z[k]) * candidate + self.carry[k]
            self.hidden[k], self.carry[k] = t >> 15, t % ONE
        return [self.int8(h) for h in self.hidden]


class SlowLstm(Slow):
    spec: Lstm

    def silence(self) -> None:
        n = self.spec.hidden
        self.hidden, self.cell, self.carry = [self.spec.hidden_map.zero_point] * n, [0] * n, [0] * n

    def advance(self, x: Sequence[int]) -> list[int]:
        self.hidden = [self.int8(h) for h in self.fresh(x)]
        return list(self.hidden)

    def fresh(self, x: Sequence[int]) -> list[int]:
        """The new hidden values in Q0.15."""
        n, e, limit = self.spec.hidden, self.spec.cell_exponent, self.spec.cell_limit
        found = []
        p = [self.from_input(row, x) + self.from_hidden(row, self.hidden) for row in range(4 * n)]
        for k in range(n):
            i, f, o = (function("sigmoid", p[gate * n + k]) for gate in (0, 1, 3))
            g = function("tanh", p[2 * n + k])
            t = f * self.cell[k] + (half_up(i * g, 15 - e) if e < 15 else i * g) + self.carry[k]
            self.cell[k], self.carry[k] = clip(t >> 15, -limit, limit), t % ONE
            scaled = self.cell[k] << 11 - e if e <= 11 else half_up(self.cell[k], e - 11)
            found.append(half_up(o * function("tanh", scaled), 15))
        return found


class SlowRnn(Slow):
    spec: Rnn

    def silence(self) -> None:
        self.hidden = [self.spec.hidden_map.zero_point] * self.spec.hidden

    def advance(self, x: Sequence[int]) -> list[int]:
        p = [sat16(self.from_input(k, x) + self.from_hidden(k, self.hidden)) for k in range(self.spec.hidden)]
        fresh = [function("tanh", v) if self.spec.function == "tanh" else max(v, 0) for v in p]
        self.hidden = [self.int8(h) for h in fresh]
        return list(self.hidden)


# ------------------------------------------------------------------ LiteRT's int8 LSTM


def nearest(p: int, q: int) -> int:
    """p / q to the nearest integer, halves away from zero, q > 0."""
    return (2 * abs(p) + q) // (2 * q) * (1 if p >= 0 else -1)


def doubled_high(a: int, b: int, bits: int) -> int:
    """The high half of 2ab, rounded: a nudge of a half towards the product's sign, then the fraction is cut off."""
    half = 1 << bits - 2
    nudged = a * b + (half if a * b >= 0 else 1 - half)
    return min(abs(nudged) // (1 << bits - 1) * (1 if nudged >= 0 else -1), (1 << bits - 1) - 1)


def rescaled(acc: int, multiplier: int, shift: int) -> int:
    """Two roundings: to the high half, then by the power of two that is left."""
    high = doubled_high(acc << max(0, 31 - shift), multiplier, 32)
    return nearest(high, 1 << max(0, shift - 31))


@cache
def power(quarters: Fraction) -> int:
    """exp(-quarters / 4) in Q0.15."""
    return round(ONE / exponential(quarters / 4))


@cache
def exp_of_minus(p: int, whole: int) -> int:
    """exp(-p / 2**(15 - whole)) in Q0.15, p >= 0: a polynomial for the last quarter, factors for the rest."""
    if p == 0:
        return ONE - 1
    unit = 15 - whole
    if p > 32 << unit:
        return 0
    quarters = (p - 1) >> unit - 2  # whole quarters under p
    x = sat16(-(p - (quarters << unit - 2)) << whole) + ONE // 8
    x2 = doubled_high(x, x, 16)
    x3, x4 = doubled_high(x2, x, 16), doubled_high(x2, x2, 16)
    third = round(Fraction(ONE, 3))
    tail = nearest(doubled_high(nearest(x4, 4) + x3, third, 16) + x2, 2)
    start = power(Fraction(1, 2))
    y = sat16(start + doubled_high(start, x + tail, 16))
    for bit in range(quarters.bit_length()):
        if quarters >> bit & 1:
            y = doubled_high(y, power(Fraction(1 << bit)), 16)
    return y


def twice_inverse(e: int) -> int:
    """2 / (1 + e) in Q2.13 by Newton's steps."""
    d = (e + ONE) // 2
    x = round(Fraction(48, 17) * (1 << 13)) + doubled_high(d, round(Fraction(-32, 17) * (1 << 13)), 16)
    for _ in range(3):
        x += sat16(4 * doubled_high(x, (1 << 13) - doubled_high(d, x, 16), 16))
    return x


def sigmoid_q12(p: int) -> int:
    p = sat16(p)
    y = sat16(2 * twice_inverse(exp_of_minus(abs(p), 3)))
    return y if p > 0 else ONE - 1 - y if p < 0 else ONE // 2


def tanh_by_exp(p: int, fraction: int) -> int:
    p = sat16(p)
    y = sat16(4 * (twice_inverse(exp_of_minus(abs(p), 16 - fraction)) - (1 << 13)))
    return y if p > 0 else -y if p < 0 else 0


class SlowLstmQ12(Slow):
    spec: LstmQ12

    def silence(self) -> None:
        self.hidden, self.cell = [self.spec.start] * self.spec.hidden, [0] * self.spec.hidden

    def gate(self, row: int, x: Sequence[int]) -> int:
        found = 0
        for weight, prefix, v in (("weight", "", x), ("recurrent", "recurrent_", self.hidden)):
            acc = sum(w * q for w, q in zip(self.parts[weight][row], v, strict=True)) + self.parts[prefix + "bias"][row]
            m, s = self.parts[prefix + "multiplier"][row], self.parts[prefix + "shift"][row]
            found = sat16(found + rescaled(acc, m, s))
        return found

    def advance(self, x: Sequence[int]) -> list[int]:
        n, e, limit = self.spec.hidden, self.spec.cell_exponent, self.spec.cell_limit or ONE
        p, m = [self.gate(row, x) for row in range(4 * n)], self.spec.hidden_map
        for k in range(n):
            i, f, o = (sigmoid_q12(p[gate * n + k]) for gate in (0, 1, 3))
            g = tanh_by_exp(p[2 * n + k], 12)
            cell = sat16(nearest(f * self.cell[k], ONE) + nearest(i * g, 1 << 30 - e))
            self.cell[k] = clip(cell, -limit, limit)
            h = rescaled(o * tanh_by_exp(self.cell[k], e), m.multiplier, m.shift)
            self.hidden[k] = clip(h + m.zero_point, -128, 127)
        return list(self.hidden)


SLOW = {Rnn: SlowRnn, Gru: SlowGru, Lstm: SlowLstm, LstmQ12: SlowLstmQ12}


def slow(spec: Rnn | Gru | Lstm | LstmQ12, tensors: Mapping[str, Any]) -> Slow:
    return SLOW[type(spec)](spec, tensors)
