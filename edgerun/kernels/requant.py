"""Sums become int8: y = clip((sum * m + o >> s) + zero_point, low, high), one rounding, half up where o says so.

`o` is b * m + 2**(s-1) for a layer with bias b. Which arrays carry the sums is decided by the exactness certificate,
never by speed alone: every carrier gives the same bits. A quotient beyond the clip may lose low bits on its way through
float32, but never its side of the clip, for rounding keeps the order.
"""

from __future__ import annotations

import numpy as np

from edgerun.arrays import F32, F64, I64


def limit(y: F32, low: F32, high: F32) -> None:
    """y <- clip(y, low, high), in place: two calls that cost a third of `ndarray.clip` on a small layer.

    Bounds are arrays () of y's own type: they spare numpy a conversion that takes longer than the work.
    """
    np.maximum(y, low, out=y)
    np.minimum(y, high, out=y)


def requant_folded(y: F32, offset: F32, low: F32, high: F32) -> None:
    """A power of two in float32: the sums arrive in `y` as sum * 2**-s.

    y <- clip(floor(y + o'))    o' = o * 2**-s + zero_point

    Exact where |sum| + |b| + 2**(s-1) + |zero_point| * 2**s <= 2**24: all terms are integers times 2**-s, whatever
    order they are added in.

    y  (..., n)  updated     offset  (n,)  read
    """
    y += offset
    np.floor(y, out=y)
    limit(y, low, high)


def requant_scaled(y: F32, sums: F32 | F64, scale: F64, offset: F64, low: F32, high: F32, wide: F64) -> None:
    """The general path: 24-bit multipliers in float64.

    y <- clip(floor(sum * M + o'))    M = m * 2**-s    o' = o * 2**-s + zero_point

    Exact where |sum| * m + |o| + |zero_point| * 2**s <= 2**53.

    y     (..., n)  written           scale, offset  broadcast to (..., n)  read
    sums  (..., n)  read              wide           (..., n)  scratch, may be `sums`
    """
    np.copyto(wide, sums)
    wide *= scale
    wide += offset
    np.floor(wide, out=wide)
    np.copyto(y, wide, casting="same_kind")
    limit(y, low, high)


def requant_wide(
    y: F32,
    sums: F64,
    multiplier: I64,
    offset: I64,
    shift: I64,
    zero_point: int,
    low: F32,
    high: F32,
    whole: I64,
) -> None:
    """The plain definition in int64, for layers that no float can hold to the end. |sum * m + o| < 2**56.

    y     (..., n)  written           multiplier, offset, shift  broadcast to (..., n)  read
    sums  (..., n)  read              whole                      (..., n)  scratch
    """
    np.copyto(whole, sums, casting="unsafe")
    whole *= multiplier
    whole += offset
    whole >>= shift
    whole += zero_point
    np.copyto(y, whole, casting="same_kind")
    limit(y, low, high)
