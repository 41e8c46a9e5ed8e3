"""RNN, GRU and LSTM steps in integers: gates by table, state that forgets nothing by rounding.

What goes into a gate is a sum in Q4.11, saturated to int16; what comes out is Q0.15: a sigmoid in [0, 2**15], a tanh in
+-(2**15 - 1). Both functions f are tables of 1025 knots over [0, 16], 1/64 apart, with a straight line between them:

    T[k] = half_even(2**15 * f(k / 64));    |p| = 32 * k + j;    y = T[k] + ((T[k+1] - T[k]) * j + 2**4 >> 5)
    tanh(-p) = -tanh(p), sigmoid(-p) = 2**15 - sigmoid(p);    tanh's knots end at 2**15 - 1

The error is at most 1.5 / 2**15. Here the line is drawn once, for all 2**16 values of p, so that a gate is one look-up;
`index` stands for p + 2**15, and looking up beyond the ends is the saturation.

At the end stands LiteRT's arithmetic of an int8 LSTM, whose gates are Q3.12: products rounded twice, functions by
polynomials and Newton's steps in int16, a cell without a remainder.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import cache, lru_cache
from typing import Final

import numpy as np

from edgerun.arrays import I64, AnyArray, places

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


@cache
def relu_table() -> I64:
    """(65536,) max(p, 0) at index p + 2**15, in the scale of p."""
    return table(np.zeros(ONE, np.int64), np.arange(ONE + 1, dtype=np.int64))


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
    """p = -2**15 to -1, then p = 0 to 2**15 - 1."""
    return frozen(np.concatenate([left, right[:-1]]))


@cache
def complement_table() -> I64:
    """(65536,) Q0.15: 2**15 - sigmoid(p / 2**11) at index p + 2**15."""
    return frozen(ONE - sigmoid_table())


def frozen(found: I64) -> I64:
    """Shared by all layers, so nobody may write."""
    found.flags.writeable = False
    return found


def number(value: int) -> I64:
    """A constant that no ufunc has to convert in every call."""
    return frozen(np.array(value, np.int64))


LEAST, MOST, HALF_UP, PLACES = number(-ONE), number(CARRY), number(ROUND), number(15)
FROM_ZERO, HALF_HIGH, HIGH, TWICE, SIGN = (number(each) for each in (ONE, 1 << 30, 31, 1, 63))
LEAST8, MOST8 = number(-128), number(127)
"""Both ends of int16 and of int8, and what is added and shifted by."""


def look_up(y: I64, function: I64, index: I64) -> None:
    """y <- function[index], an index beyond the ends being the end.    y, index  (...)     function  (65536,)"""
    function.take(places(index, len(function)), None, y, "clip")


def look_around(y: AnyArray, function: AnyArray, index: I64) -> None:
    """y <- function[index mod n], so that negative values may be indices.    y, index  (...)     function  (n,)"""
    function.take(index.astype(np.intp, copy=False), None, y, "wrap")


def rescale(v: I64, multiplier: I64, offset: I64, shift: I64) -> None:
    """v <- (v * m + offset) >> s, with offset = bias * m + 2**(s-1): sums in Q4.11.

    v  (..., g)  updated, products of which |v| * m < 2**55     multiplier, offset, shift  (g,)  read
    """
    v *= multiplier
    v += offset
    v >>= shift


def gate_hidden(v: I64, r: I64, u: I64) -> None:
    """v <- ((r * sat16(v) + 2**14) >> 15) + u: what a GRU's candidate hears of the recurrent sum.

    v  (..., n)  updated, Q4.11     r  (..., n)  read, Q0.15     u  (..., n)  read, the input's part as an index
    """
    saturate(v)
    product(v, r)
    v += u


def product(y: I64, a: I64) -> None:
    """y <- (y * a + 2**14) >> 15: a product in Q0.15, half up.    y  (...)  updated     a  (...)  read"""
    y *= a
    y += HALF_UP
    y >>= PLACES


def blend(whole: I64, hidden: I64, open_: I64, n: I64) -> None:
    """t = z * h + (2**15 - z) * n + carry; h <- t >> 15; carry <- t & 0x7fff. |t| < 2**31, and h needs no saturation.

    What rounding leaves goes on to the next step, so a slow unit (z near 1) has no dead zone and does not drift. t is
    kept as a whole, 2**15 * h + carry: the next is t + (2**15 - z) * (n - h).

    whole, hidden  (..., n)  updated, t and h     open_  (..., n)  read, 2**15 - z     n  (..., n)  read, then scratch
    """
    n -= hidden
    n *= open_
    whole += n
    np.right_shift(whole, PLACES, out=hidden)


def remember(cell: I64, carry: I64, i: I64, f: I64, g: I64, shift: I64, half: I64, limits: tuple[I64, I64]) -> None:
    """t = f * c + half_up(i * g, 15 - e) + carry; c <- clip(t >> 15, +-limit); carry <- t & 0x7fff.

    cell, carry  (..., n)  updated, e binary places and [0, 2**15)     shift, half  15 - e and 2**shift / 2, 0 for none
    f, g         (..., n)  read, Q0.15                                 i  (..., n)  read, Q0.15, then scratch
    """
    i *= g
    i += half
    i >>= shift
    cell *= f
    cell += i
    cell += carry
    np.bitwise_and(cell, MOST, out=carry)
    cell >>= PLACES
    np.maximum(cell, limits[0], out=cell)
    np.minimum(cell, limits[1], out=cell)


@cache
def cell_tanh_table(exponent: int) -> I64:
    """(65536,) Q0.15: tanh of a cell c at index c mod 2**16. Its p is c << (11 - e), or half up c >> (e - 11)."""
    up, down = max(0, 11 - exponent), max(0, exponent - 11)
    p = ((around() << up) + ((1 << down) >> 1)) >> down
    found: I64 = tanh_table()[np.clip(p, -ONE, CARRY) + ONE]
    return frozen(found)


def to_int8(q: I64, hidden: I64, multiplier: int, offset: int, shift: int, low: int, high: int) -> None:
    """q <- clip((h * m + offset) >> s, low, high), with offset = 2**(s-1) + (zero_point << s).

    q  (..., n)  written     hidden  (..., n)  read, Q0.15
    """
    np.multiply(hidden, multiplier, out=q)
    q += offset
    q >>= shift
    np.maximum(q, low, out=q)
    np.minimum(q, high, out=q)


@lru_cache(maxsize=8)
def int8_table(multiplier: int, offset: int, shift: int, low: int, high: int) -> I64:
    """(65536,) what `to_int8` gives for h, at index h mod 2**16."""
    found = np.zeros(2 * ONE, np.int64)
    to_int8(found, around(), multiplier, offset, shift, low, high)
    return frozen(found)


def around() -> I64:
    """(65536,) the int16 of each index mod 2**16."""
    return np.roll(np.arange(-ONE, ONE, dtype=np.int64), ONE)


# ------------------------------------------------------------------ LiteRT's int8 LSTM

EIGHTH, THIRD = 28918, 10923
"""exp(-1/8) and 1/3 in Q0.15."""
POWERS: Final = ((-2, 25520), (-1, 19875), (0, 12055), (1, 4435), (2, 600), (3, 11), (4, 0))
"""k and exp(-2**k) in Q0.15."""
FIRST_GUESS: Final = (23130, -15420)
"""48/17 and -32/17 in Q2.13: the line that Newton's search for 1/d begins on, 1/2 <= d <= 1."""


def high(a: I64, b: I64 | int) -> I64:
    """(a * b + 2**14) >> 15, at most 2**15 - 1."""
    return np.asarray(np.minimum((a * b + ROUND) >> 15, CARRY), np.int64)


def saturated(x: I64) -> I64:
    return np.clip(x, -ONE, CARRY)


def away(x: I64, shift: int) -> I64:
    """x / 2**shift, half away from zero."""
    return (x + (1 << shift - 1) + (x >> 63)) >> shift


def exp_negative(p: I64, fraction: int) -> I64:
    """exp(p / 2**fraction) in Q0.15 for p <= 0, in two parts: what p lies under a multiple of 1/4, as a polynomial
    about -1/8, and the bits of that multiple, one factor each. exp(0) is 2**15 - 1."""
    quarter = 1 << (fraction - 2)
    under = (p & (quarter - 1)) - quarter
    x = (under << (15 - fraction)) + (1 << 12)
    square = high(x, x)
    cube, fourth = high(square, x), high(square, square)
    tail = away(high(away(fourth, 2) + cube, THIRD) + square, 1)
    y = saturated(EIGHTH + high(x + tail, EIGHTH))
    for k, factor in POWERS:
        if fraction + k < 15:
            y = np.where((under - p) & (1 << (fraction + k)), high(y, factor), y)
    y = np.where(p < -32 << fraction, 0, y)
    return np.where(p == 0, CARRY, y)


def inverse_half(e: I64) -> I64:
    """2 / (1 + e / 2**15) in Q2.13, 0 <= e < 2**15: three of Newton's steps."""
    half = (e + CARRY + 1) >> 1
    x = FIRST_GUESS[0] + high(half, FIRST_GUESS[1])
    for _ in range(3):
        x = x + saturated(high(x, (1 << 13) - high(half, x)) << 2)
    return x


@cache
def sigmoid_q12_table() -> I64:
    """(65536,) Q0.15: sigmoid(p / 2**12) at index p + 2**15, off by 6.4 at most."""
    p = np.arange(-ONE, ONE)
    y = saturated(inverse_half(exp_negative(-np.abs(p), 12)) << 1)
    return frozen(np.where(p > 0, y, np.where(p < 0, CARRY - y, ROUND)))


@cache
def tanh_by_exp_table(fraction: int) -> I64:
    """(65536,) Q0.15: tanh(p / 2**fraction) at index p + 2**15, off by 12.1 at most.    fraction  9 to 15"""
    p = np.arange(-ONE, ONE)
    y = saturated(inverse_half(exp_negative(-np.abs(p), fraction - 1)) - (1 << 13) << 2)
    return frozen(np.where(p > 0, y, np.where(p < 0, -y, 0)))


def rescale_twice(v: I64, multiplier: I64, offset: I64, right: I64, half: I64, sign: I64) -> None:
    """v <- half_away(half_up((v + bias << left) * m, 31), right - 1), with offset = (bias << left) * m + 2**30.

    v  (..., g)  updated     multiplier (m << left), offset, right (from 1), half (2**(right-1))  (g,)  read
    sign  (..., g)  scratch
    """
    v *= multiplier
    v += offset
    v >>= HIGH
    v <<= TWICE  # so that `right` is never 0, where nothing is rounded
    divide(v, right, half, sign)


def divide(v: I64, shift: I64 | int, half: I64 | int, sign: I64) -> None:
    """v <- v / 2**shift, half away from zero; half = 2**(shift-1).

    v  (..., n)  updated     shift, half  (n,) or one for all, shift from 1     sign  (..., n)  scratch
    """
    np.right_shift(v, SIGN, out=sign)
    v += sign
    v += half
    v >>= shift


def saturate(v: I64) -> None:
    """v <- sat16(v).    v  (...)  updated"""
    np.maximum(v, LEAST, out=v)
    np.minimum(v, MOST, out=v)


def remember_rounded(cell: I64, i: I64, f: I64, g: I64, shift: I64, half: I64, limits: tuple[I64, I64]) -> None:
    """c <- clip(half_away(f * c, 15) + half_away(i * g, shift), limits).

    cell  (..., n)  updated, e binary places     i, f  (..., n)  read, Q0.15, then scratch
    g     (..., n)  read, Q0.15                  shift, half  30 - e and 2**(shift-1)
    """
    cell *= f
    divide(cell, PLACES, HALF_UP, f)
    i *= g
    divide(i, shift, half, f)
    cell += i
    np.maximum(cell, limits[0], out=cell)
    np.minimum(cell, limits[1], out=cell)


def to_int8_twice(q: I64, product: I64, multiplier: I64, shift: I64, half: I64, zero_point: I64) -> None:
    """q <- clip(half_away(half_up(product * m, 31), shift - 1) + zero_point, -128, 127), with half = 2**(shift-1).

    q  (..., n)  written     product  (..., n)  read, Q0.30, then scratch
    """
    np.multiply(product, multiplier, out=q)
    q += HALF_HIGH
    q >>= HIGH
    q <<= TWICE
    divide(q, shift, half, product)
    q += zero_point
    np.maximum(q, LEAST8, out=q)
    np.minimum(q, MOST8, out=q)
