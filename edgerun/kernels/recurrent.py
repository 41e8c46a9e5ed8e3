"""GRU and LSTM steps in integers: gates by table, state that forgets nothing by rounding.

What goes into a gate is a sum in Q4.11, saturated to int16; what comes out is Q0.15: a sigmoid in [0, 2**15], a tanh in
+-(2**15 - 1). Both functions f are tables of 1025 knots over [0, 16], 1/64 apart, with a straight line between them:

    T[k] = half_even(2**15 * f(k / 64));    |p| = 32 * k + j;    y = T[k] + ((T[k+1] - T[k]) * j + 2**4 >> 5)
    tanh(-p) = -tanh(p), sigmoid(-p) = 2**15 - sigmoid(p);    tanh's knots end at 2**15 - 1

The error is at most 1.5 / 2**15. Here the line is drawn once, for all 2**16 values of p, so that a gate is one look-up;
`index` stands for p + 2**15, and looking up beyond the ends is the saturation.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import cache
from typing import Final

import numpy as np

from edgerun.arrays import F32, F64, I64

ONE: Final = 1 << 15
"""1.0 in Q0.15, and the index of p = 0 in a table."""

ROUND: Final = 1 << 14
CARRY: Final = ONE - 1
KNOTS: Final = 1025
KNOT_BITS: Final = 5  # 32 values of p between two knots


@cache
def sigmoid_table() -> I64:
    """(65536,) Q0.15: sigmoid(p / 2**11) at index p + 2**15."""
    right = straight_lines([half_even(ONE / (1 + e)) for e in falling(1)])
    return table(ONE - right[:0:-1], right)


@cache
def tanh_table() -> I64:
    """(65536,) Q0.15: tanh(p / 2**11) at index p + 2**15."""
    right = straight_lines([min(CARRY, half_even(ONE * (1 - e) / (1 + e))) for e in falling(2)])
    return table(-right[:0:-1], right)


def falling(rate: int) -> list[Decimal]:
    """exp(-rate * k / 64) of every knot. Decimal arithmetic is the same on every machine."""
    with localcontext() as context:
        context.prec = 40
        factor = (Decimal(-rate) / 64).exp()
        found = [Decimal(1)]
        for _ in range(KNOTS - 1):
            found.append(found[-1] * factor)
    return found


def half_even(value: Decimal) -> int:
    return int(value.to_integral_value())


def straight_lines(knots: list[int]) -> I64:
    """(32769,): y at p = 0 to 2**15."""
    t = np.array(knots, np.int64)
    j = np.arange(1 << KNOT_BITS)
    lines = t[:-1, None] + ((np.diff(t)[:, None] * j + (1 << KNOT_BITS - 1)) >> KNOT_BITS)
    return np.append(lines.reshape(-1), t[-1])


def table(left: I64, right: I64) -> I64:
    """p = -2**15 to -1, then p = 0 to 2**15 - 1; shared by all layers, so nobody may write."""
    found: I64 = np.concatenate([left, right[:-1]])
    found.flags.writeable = False
    return found


def look_up(y: I64, function: I64, index: I64) -> None:
    """y <- function[index], an index beyond the ends being the end.    y, index  (...)     function  (65536,)"""
    np.take(function, index, out=y, mode="clip")


def rescale(v: I64, products: F32 | F64, multiplier: I64, offset: I64, shift: I64) -> None:
    """v <- (product * m + offset) >> s, with offset = bias * m + 2**(s-1): a sum in Q4.11.

    v         (..., g)  written     multiplier, offset, shift  (g,)  read
    products  (..., g)  read        exact integers; |product| * m < 2**55
    """
    np.copyto(v, products, casting="unsafe")
    v *= multiplier
    v += offset
    v >>= shift


def gate_hidden(v: I64, r: I64, u: I64) -> None:
    """v <- ((r * sat16(v) + 2**14) >> 15) + u: what a GRU's candidate hears of the recurrent sum.

    v  (..., n)  updated, Q4.11     r  (..., n)  read, Q0.15     u  (..., n)  read, the input's part as an index
    """
    np.maximum(v, -ONE, out=v)
    np.minimum(v, CARRY, out=v)
    v *= r
    v += ROUND
    v >>= 15
    v += u


def product(y: I64, a: I64) -> None:
    """y <- (y * a + 2**14) >> 15: a product in Q0.15, half up.    y  (...)  updated     a  (...)  read"""
    y *= a
    y += ROUND
    y >>= 15


def blend(hidden: I64, carry: I64, z: I64, n: I64) -> None:
    """t = z * h + (2**15 - z) * n + carry; h <- t >> 15; carry <- t & 0x7fff. |t| < 2**31, and h needs no saturation.

    What rounding leaves goes on to the next step, so a slow unit (z near 1) has no dead zone and does not drift.

    hidden, carry  (..., n)  updated, Q0.15 and [0, 2**15)     z  (..., n)  read     n  (..., n)  read, then scratch
    """
    hidden -= n
    hidden *= z
    n <<= 15
    hidden += n
    hidden += carry
    np.bitwise_and(hidden, CARRY, out=carry)
    hidden >>= 15


def remember(cell: I64, carry: I64, i: I64, f: I64, g: I64, shift: int, limit: int) -> None:
    """t = f * c + half_up(i * g, 15 - e) + carry; c <- clip(t >> 15, +-limit); carry <- t & 0x7fff.

    cell, carry  (..., n)  updated, e binary places and [0, 2**15)     shift  15 - e, the half up where it is not 0
    f, g         (..., n)  read, Q0.15                                 i  (..., n)  read, Q0.15, then scratch
    """
    i *= g
    i += (1 << shift) >> 1
    i >>= shift
    cell *= f
    cell += i
    cell += carry
    np.bitwise_and(cell, CARRY, out=carry)
    cell >>= 15
    np.maximum(cell, -limit, out=cell)
    np.minimum(cell, limit, out=cell)


def cell_index(index: I64, cell: I64, exponent: int) -> None:
    """index <- p + 2**15 with p the cell in Q4.11: c << (11 - e), or half up c >> (e - 11).

    index  (..., n)  written     cell  (..., n)  read
    """
    up, down = max(0, 11 - exponent), max(0, exponent - 11)
    np.left_shift(cell, up, out=index)
    index += ((1 << down) >> 1) + (ONE << down)
    index >>= down


def to_int8(q: I64, hidden: I64, multiplier: int, offset: int, shift: int, low: int, high: int) -> None:
    """q <- clip((h * m + offset) >> s, low, high), with offset = 2**(s-1) + (zero_point << s).

    q  (..., n)  written     hidden  (..., n)  read, Q0.15
    """
    np.multiply(hidden, multiplier, out=q)
    q += offset
    q >>= shift
    np.maximum(q, low, out=q)
    np.minimum(q, high, out=q)
