"""Softmax by table: in Q0.15, probabilities of masked integer logits and the error that e-prop spreads; in Q0.30, the
layers softmax and log-softmax over the last axis."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from edgerun.arrays import F32, F64, I32, I64, Bool, places

ONE: Final = 1 << 15
STEPS_PER_UNIT: Final = 32

TABLE: Final[I64] = np.array([round(ONE * math.exp(-i / STEPS_PER_UNIT)) for i in range(256)], dtype=np.int64)
"""TABLE[i] = round(2**15 * exp(-i / 32)): 256 entries reach down to exp(-8)."""


_LAST: Final = np.array(255, np.int64)


def softmax_error(error: I32, logits: I64, shift: int, known: Bool, label: int) -> int:
    """error <- softmax(logits) - onehot(label) in Q0.15 over the known classes; returns p(label).

        i_k = min(255, (max - logit_k) >> shift);  e_k = TABLE[i_k];  p_k = half_up(2**15 * e_k / sum e)

    The rounding rest goes to the label, so the error sums to exactly 0. Classes that are not `known` get 0.

    error   (k,)  written   Q0.15 in int32
    logits  (k,)  read      any Q format; `shift` makes one table step of it
    known   (k,)  read      must contain `label`
    """
    top = int(logits[known].max())
    index = np.array(top, np.int64) - logits
    index >>= np.array(shift, np.int64)
    np.minimum(index, _LAST, out=index)
    probability = TABLE.take(places(index, 256), mode="clip")  # of what is not known, anything
    probability *= known
    total = int(probability.sum())
    probability *= np.array(2 * ONE, np.int64)
    probability += np.array(total, np.int64)
    probability //= np.array(2 * total, np.int64)
    probability[label] += ONE - int(probability.sum())
    np.copyto(error, probability, casting="unsafe")
    error[label] -= ONE
    return int(probability[label])


# ------------------------------------------------------------------ layers

LN2: Final = round(math.log(2) * (1 << 12))
"""ln 2 in Q12."""

CELLS: Final = 1 << 10
LOGARITHMS: Final[I64] = np.array([round(math.log1p((i + 0.5) / CELLS) * 4096) for i in range(CELLS)], dtype=np.int64)
"""LOGARITHMS[i] = ln(1 + (i + 0.5) / 1024) in Q12: at most 0.0007 off within a cell."""


def exponentials(e: I64, total: I64, x: F32, table: I64, distance: I64, wide: I64) -> None:
    """distance <- max x - x;  e <- table[distance];  total <- sum e, over the last axis.

    x                  (..., n)  read     integers in [-128, 127]     table  (256,)  Q0.30, the first entry over 0
    e, distance, wide  (..., n)  written; `wide` is scratch           total  (..., 1)  written
    """
    np.copyto(distance, x, casting="unsafe")
    np.max(distance, axis=-1, keepdims=True, out=total)
    np.copyto(wide, total)
    np.subtract(wide, distance, out=distance)
    table.take(places(distance, len(table)), out=e, mode="clip")  # in range; another mode makes numpy buffer the output
    np.sum(e, axis=-1, keepdims=True, out=total)


def softmax(y: F32, e: I64, total: I64, multiplier: int, shift: int, zero_point: int, wide: I64) -> None:
    """y <- min(floor((2 e m + S 2**s) / (S 2**(s+1))) + zero_point, 127), S = sum e: half up, one rounding.

    2 e m < 2**47 and S 2**(s+1) <= 2**59 for S <= 2**50, s <= 8.

    y  (..., n)  written     e  (..., n)  updated, scratch afterwards     total  (..., 1)  S     wide  (..., n)  scratch
    """
    np.copyto(wide, total)
    wide <<= shift
    e *= 2 * multiplier
    e += wide
    wide <<= 1
    np.floor_divide(e, wide, out=e)
    e += zero_point
    np.minimum(e, 127, out=e)
    np.copyto(y, e, casting="unsafe")


def logarithm(log: I64, total: I64, mantissa: F64, exponent: I32, cell: I64) -> None:
    """log <- (k - 30) ln 2 + LOGARITHMS[the 10 bits after the first] = ln(total / 2**30) in Q12

    k = floor(log2 total), total in [2**30, 2**50]. A float64 holds the sum, and `frexp` takes it apart exactly.

    log, cell  (..., 1)  written / scratch     total, mantissa, exponent  (..., 1)  read / scratch / scratch
    """
    np.copyto(mantissa, total)
    np.frexp(mantissa, out=(mantissa, exponent))  # total = mantissa * 2**exponent, mantissa in [1/2, 1)
    mantissa *= 2 * CELLS
    np.copyto(cell, mantissa, casting="unsafe")
    cell -= CELLS
    LOGARITHMS.take(places(cell, CELLS), out=log, mode="clip")
    np.copyto(cell, exponent)
    cell -= 31
    cell *= LN2
    log += cell


def log_softmax(y: F32, distance: I64, log: I64, md: int, ml: int, shift: int, zero_point: int, wide: I64) -> None:
    """y <- max(((2**(s-1) - d md - L ml) >> s) + zero_point, -128)

    d md < 2**32 and L ml < 2**40.

    y  (..., n)  written     distance  (..., n)  d, updated     log  (..., 1)  L, updated     wide  (..., n)  scratch
    """
    log *= -ml
    log += 1 << (shift - 1)
    np.copyto(wide, log)
    distance *= md
    wide -= distance
    wide >>= shift
    wide += zero_point
    np.maximum(wide, -128, out=wide)
    np.copyto(y, wide, casting="unsafe")
