"""Dense int8 layers: y = clip(((W x + b) * m + 2**(s-1) >> s) + zero_point), one rounding, half up.

Which array carries the sums is decided by the exactness certificate, never by speed
alone: every carrier gives the same bits.
"""

from __future__ import annotations

import numpy as np

from edgerun.arrays import F32, F64, I64


def dense_folded(y: F32, x: F32, weights: F32, bias: F32, low: float, high: float) -> None:
    """The power-of-two path: everything in float32, the shift folded into weights and bias.

    y <- clip(floor(W' x + b'))    W' = W * 2**-s    b' = (b + 2**(s-1)) * 2**-s + zero_point

    Exact where A + 2**(s-1) + |zero_point| * 2**s <= 2**24, A = sum|w| * max|x| + |b|: partial sums are integers
    times 2**-s, whatever order they are added in.

    y  (..., out)  written     x  (..., in)  read     weights  (in, out)     bias  (out,)
    """
    np.dot(x, weights, out=y)
    y += bias
    np.floor(y, out=y)
    np.maximum(y, low, out=y)
    np.minimum(y, high, out=y)


def dense_requant(
    y: F32, x: F32, weights: F32, scale: F64, bias: F64, low: float, high: float, acc: F32, wide: F64
) -> None:
    """The general path: float32 dot product, then 24-bit multiplier in float64.

    y <- clip(floor(acc * M + (b * M + 0.5 + zero_point)))    M = m * 2**-s

    Exact where sum|w| * max|x| <= 2**24 and A * m + 2**(s-1) + |zero_point| * 2**s <= 2**53.

    y, acc  (..., out)  written / scratch float32     wide  (..., out)  scratch float64     scale, bias  (out,)
    """
    np.dot(x, weights, out=acc)
    np.copyto(wide, acc)
    wide *= scale
    wide += bias
    np.floor(wide, out=wide)
    np.maximum(wide, low, out=wide)
    np.minimum(wide, high, out=wide)
    np.copyto(y, wide, casting="same_kind")


def dense_wide(
    y: F32,
    x: F32,
    weights: I64,
    multiplier: I64,
    offset: I64,
    shift: I64,
    zero_point: int,
    low: int,
    high: int,
    whole: I64,
    acc: I64,
) -> None:
    """The plain definition in int64, for layers that no float carrier can hold.

    y <- clip((acc * m + (b * m + 2**(s-1)) >> s) + zero_point)    the bracket is `offset`; |acc * m| < 2**55

    y      (..., out)  written               weights                     (in, out)
    x      (..., in)   read, integers        multiplier, offset, shift   (out,)
    whole  (..., in)   scratch               acc                         (..., out)  scratch
    """
    np.copyto(whole, x, casting="unsafe")
    np.matmul(whole, weights, out=acc)
    acc *= multiplier
    acc += offset
    acc >>= shift
    acc += zero_point
    np.maximum(acc, low, out=acc)
    np.minimum(acc, high, out=acc)
    np.copyto(y, acc, casting="unsafe")
