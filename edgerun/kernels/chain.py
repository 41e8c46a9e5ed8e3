"""Errors on their way back through dense layers, in integers.

    sums_k  = sum_i w_ki x_i + b_k                                        the accumulators of a layer, before its clip
    error_i = sat16(half_up(sum_k w_ki error_k / 2**s)) * [x_i > 0]       x what the layer below gave

Products run in float64, which holds every partial sum: |w| < 2**7, |error| <= 2**15, up to 2**20 terms.
"""

from __future__ import annotations

import numpy as np

from edgerun.arrays import I8, I16, I32, I64
from edgerun.kernels.spiking import I16_MAX, I16_MIN


def layer_sums(sums: I64, weights: I8, x: I16, bias: I32) -> None:
    """sums <- W x + b.    sums (n,)  weights (n, m)  x (m,)  bias (n,)"""
    np.copyto(sums, weights.astype(np.float64) @ x.astype(np.float64), casting="unsafe")
    sums += bias


def error_below(below: I16, weights: I8, error: I16, shift: int, active: I16) -> None:
    """below <- sat16(half_up(W' error / 2**shift)) where active > 0, else 0.

    below, active  (m,)  written, read     weights  (n, m)  read     error  (n,)  read
    """
    wide = (error.astype(np.float64) @ weights.astype(np.float64)).astype(np.int64)
    wide += 1 << shift >> 1
    wide >>= shift
    np.copyto(below, np.where(active > 0, np.clip(wide, I16_MIN, I16_MAX), 0), casting="unsafe")
