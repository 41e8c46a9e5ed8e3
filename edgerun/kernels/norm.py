"""Layer normalisation in int64: exact mean and variance, an integer reciprocal root a row, two roundings a value.

    D = c x - sum x          W = max(2**8 (c sum x**2 - (sum x)**2) + epsilon, 1)
    t = (52 - bits(W)) >> 1          root = isqrt(W 4**t)          r = floor(2**51 / root)
    n = (D r + 2**(26-t)) >> (27-t)                                  Q20
    y = clip(((n m + b) >> s) + zero_point)

2**4 D / sqrt(W) is the deviation over its root mean square: no division by c, and any offset of x cancels. Bounds: the
layer's `certify`.
"""

from __future__ import annotations

import numpy as np

from edgerun.arrays import F32, F64, I32, I64


def deviations(d: I64, power: I64, x: F32, epsilon: int, total: I64, wide: I64) -> None:
    """d <- D, power <- W.

    d, wide  (..., c)  written / scratch     power, total  (..., 1)  written / scratch     x  (..., c)  read, int8
    """
    c = x.shape[-1]
    np.copyto(d, x, casting="unsafe")
    np.sum(d, axis=-1, keepdims=True, out=total)
    np.multiply(d, d, out=wide)
    np.sum(wide, axis=-1, keepdims=True, out=power)
    d *= c
    np.copyto(wide, total)
    d -= wide
    power *= c
    total *= total
    power -= total
    power <<= 8
    power += epsilon
    np.maximum(power, 1, out=power)


def reciprocal_root(r: I64, shift: I64, power: I64, real: F64, exponent: I32) -> None:
    """r <- floor(2**51 / isqrt(W 4**t)) in [2**25, 2**26];  shift <- 27 - t, from 2 to 27.

    `frexp` gives the number of bits of an integer under 2**53 exactly. A correctly rounded root of an integer under
    2**52 stays under the next integer, so rounding it down is the integer root.

    r, shift, power  (..., 1)  written / written / W, updated     real, exponent  (..., 1)  scratch
    """
    np.copyto(real, power)
    np.frexp(real, out=(real, exponent))
    np.copyto(shift, exponent)
    np.subtract(52, shift, out=shift)
    shift >>= 1  # t
    power <<= shift
    power <<= shift
    np.copyto(real, power)
    np.sqrt(real, out=real)
    np.copyto(r, real, casting="unsafe")
    np.floor_divide(1 << 51, r, out=r)
    np.subtract(27, shift, out=shift)


def normalise(d: I64, r: I64, shift: I64, half: I64, wide: I64) -> None:
    """d <- n = (D r + 2**(shift-1)) >> shift, Q20.

    d  (..., c)  D, updated     r, shift  (..., 1)  read     half  (..., 1)  scratch     wide  (..., c)  scratch
    """
    np.copyto(wide, r)
    d *= wide
    np.subtract(shift, 1, out=half)
    np.left_shift(1, half, out=half)
    np.copyto(wide, half)
    d += wide
    np.copyto(wide, shift)
    d >>= wide


def scale(y: F32, n: I64, multiplier: I64, offset: I64, shift: int, zero_point: int, low: int, high: int) -> None:
    """y <- clip(((n m + b) >> s) + zero_point)

    y, n  (..., *shape)  written / updated     multiplier, offset  (*shape)  read, the same in every row
    """
    n *= multiplier
    n += offset
    n >>= shift
    n += zero_point
    np.maximum(n, low, out=n)
    np.minimum(n, high, out=n)
    np.copyto(y, n, casting="unsafe")
