"""Maxima and sums of windows, first down the image, then across it; and where halves of means go."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgerun.arrays import F32

Real = TypeVar("Real", np.float32, np.float64)


def pool(
    out: NDArray[Real], down: NDArray[Real], rows: NDArray[Real], across: NDArray[Real], combine: np.ufunc
) -> None:
    """out[i, j, c] <- combine over r, t of x[row r of output i, column t of output j, c].    combine: maximum or add

    Sums are exact where (values of a window) * max|x| <= 2**24 in float32.

    out     (n, oh, ow, c)       written
    down    (n, oh, kh, w, c)    read      a view of the padded image
    rows    (n, oh, w, c)        scratch   w counts the padding
    across  (n, oh, kw, ow, c)   read      a view of `rows`
    """
    combine.reduce(down, axis=2, out=rows)
    np.copyto(out, across[:, :, 0])
    for tap in range(1, across.shape[2]):
        combine(out, across[:, :, tap], out=out)


def ties_to_even(y: F32, down: F32, zero_point: int, odd: F32) -> None:
    """y <- down where y is down + 1 and y - zero_point is odd: of the two neighbours of a half, the even one.

    y  (..., n)  updated, halves up        down  (..., n)  overwritten, halves down        odd  (..., n)  scratch
    """
    np.subtract(y, down, out=down)
    np.subtract(y, zero_point, out=odd)
    np.remainder(odd, 2, out=odd)
    down *= odd
    y -= down


def ties_away(y: F32, down: F32, below: NDArray[np.bool_]) -> None:
    """y <- down where y <= 0: of the two neighbours of a half, the one further from 0. All are whole numbers.

    y  (..., n)  updated, halves up        down  (..., n)  read, halves down        below  (..., n)  scratch
    """
    np.less_equal(y, 0, out=below)
    np.copyto(y, down, where=below)
