"""Sums, products and tables, value by value. Integers travel in floats that the layers' certificates prove exact."""

from __future__ import annotations

import numpy as np

from edgerun.arrays import F32, F64, AnyArray


def add(
    y: F32,
    a: F32,
    b: F32,
    scale_a: float,
    scale_b: float,
    offset: float,
    low: float,
    high: float,
    wide: F64,
    other: F64,
) -> None:
    """y <- clip(floor(a * Ma + b * Mb + O))    Ma = ma * 2**-s    Mb = mb * 2**-s    O = offset * 2**-s + zero_point

    Every term and sum is an integer times 2**-s, exact in float64 by the certificate.

    y            (..., *shape)  written
    a, b         broadcast to y's shape, read      copied first: a ufunc that broadcasts takes a buffer, a copy does not
    wide, other  (..., *shape)  scratch
    """
    np.copyto(wide, a)
    np.copyto(other, b)
    wide *= scale_a
    other *= scale_b
    wide += other
    wide += offset
    _settle(y, wide, low, high)


def multiply(
    y: F32, a: F32, b: F32, zero_a: float, zero_b: float, scale: float, offset: float, low: float, high: float,
    other: F32, wide: F64,
) -> None:  # fmt: skip
    """y <- clip(floor((a - za) * (b - zb) * M + O))    M = m * 2**-s    O = 0.5 + zero_point

    The product is exact in float32, the rest in float64, by the certificate.

    y            (..., *shape)  written            a, b  broadcast to y's shape, read
    other, wide  (..., *shape)  scratch
    """
    np.copyto(y, a)
    np.copyto(other, b)
    y -= zero_a
    other -= zero_b
    y *= other
    np.copyto(wide, y)
    wide *= scale
    wide += offset
    _settle(y, wide, low, high)


def _settle(y: F32, wide: F64, low: float, high: float) -> None:
    np.floor(wide, out=wide)
    np.maximum(wide, low, out=wide)
    np.minimum(wide, high, out=wide)
    np.copyto(y, wide, casting="same_kind")


def lookup(y: F32, x: F32, table: F32, index: AnyArray) -> None:
    """y <- table[x + 128]

    y, x   (..., n)  written / read, integers in [-128, 127]      table  (256,)
    index  (..., n)  scratch, intp
    """
    np.copyto(index, x, casting="unsafe")
    index += 128
    table.take(index, out=y, mode="clip")  # in range; any other mode makes numpy buffer the output
