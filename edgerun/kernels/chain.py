"""Errors on their way back through dense layers, in integers.

    sums_k  = sum_i w_ki x_i + b_k                                        the accumulators of a layer, before its clip
    error_i = sat16(half_up(sum_k w_ki error_k / 2**s)) * [x_i > 0]       x what the layer below gave

Weights come as integers in float64, which holds every partial sum: |w| < 2**7, other factors under 2**23, 2**20 terms.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from edgerun.arrays import F64, I16, I32, I64
from edgerun.kernels.spiking import I16_MAX, I16_MIN

_LEAST32, _MOST32 = np.array(I16_MIN, np.int32), np.array(I16_MAX, np.int32)
_LEAST, _MOST, _ZERO = np.array(I16_MIN, np.int64), np.array(I16_MAX, np.int64), np.array(0, np.int16)


def cut(top: I16, error: I32) -> None:
    """top <- sat16(error).    (n,)"""
    wide = np.maximum(error, _LEAST32)
    np.minimum(wide, _MOST32, out=wide)
    np.copyto(top, wide, casting="unsafe")


def layer_sums(sums: I64, weights: F64, x: I16, bias: I32 | I64) -> None:
    """sums <- W x + b.    sums (n,)  weights (n, m)  x (m,)  bias (n,)"""
    np.copyto(sums, weights @ x.astype(np.float64), casting="unsafe")
    sums += bias


def error_below(below: I16, weights: F64, error: I16, shift: int, active: I16) -> None:
    """below <- sat16(half_up(W' error / 2**shift)) where active > 0, else 0.

    below, active  (m,)  written, read     weights  (n, m)  read     error  (n,)  read
    """
    wide = (error.astype(np.float64) @ weights).astype(np.int64)
    wide += np.array(1 << shift >> 1, np.int64)
    wide >>= np.array(shift, np.int64)
    np.maximum(wide, _LEAST, out=wide)
    np.minimum(wide, _MOST, out=wide)
    wide *= np.greater(active, _ZERO)
    np.copyto(below, wide, casting="unsafe")


# ------------------------------------------------------------------ activities that settle

FINE: Final = 12
"""Activities count 2**12 to one step of the int8 that the layer gives; rates, what they give, 2**8."""
RATE: Final = 8
TOP: Final = 127 << FINE
TOP_RATE: Final = 127 << RATE
WIDE: Final = (1 << 23) - 1
"""The largest error that goes back."""


def rates_of(rates: I16, h: I64) -> None:
    """rates <- clip(half_up(h / 2**4), 0, 127 * 2**8): a ReLU that ends where int8 does.    (n,)"""
    np.copyto(rates, np.clip(h + 8 >> 4, 0, TOP_RATE), casting="unsafe")


def predictions(p: I64, weights: F64, rates: I16, bias: I32, multiplier: int, shift: int) -> None:
    """p <- half_up((W rates + 2**8 b) m / 2**(s-4)): what a layer is told to be, 2**12 to a step of its int8.

    p (n,)  weights (n, m)  rates (m,)  bias (n,)

    |sum| < 2**39 by the layer's certificate and m < 2**24: the product fits int64.
    """
    layer_sums(p, weights, rates, np.int64(1 << RATE) * bias)
    p *= multiplier
    drop = shift - (FINE - RATE)
    if drop > 0:
        p += 1 << (drop - 1)
        p >>= drop
    else:
        p <<= -drop


def spread(below: I64, weights: F64, error: I64, multiplier: int, shift: int) -> None:
    """below <- half_up(W' error multiplier / 2**shift), errors cut at +-(2**23 - 1).

    below (m,)  weights (n, m)  error (n,);  n <= 2**16, multiplier < 2**15: under 2**61
    """
    cut = np.clip(error, -WIDE, WIDE).astype(np.float64)
    np.copyto(below, cut @ weights, casting="unsafe")
    below *= multiplier
    below += 1 << shift >> 1
    below >>= shift


def scaled(out: I64, x: I64, gain: int) -> None:
    """out <- half_up(x gain / 2**15).    gain in [0, 2**15], |x| < 2**47"""
    np.multiply(x, gain, out=out)
    out += 1 << 14
    out >>= 15


def normalised(history: I16, error: I64, shift: int, norm: int) -> None:
    """history <- sat16(half_up(error 2**shift / norm)), errors cut at +-WIDE.    shift <= 38, 1 <= norm < 2**48"""
    wide = ((np.clip(error, -WIDE, WIDE) << shift + 1) + norm) // (2 * norm)
    np.copyto(history, np.clip(wide, I16_MIN, I16_MAX), casting="unsafe")
