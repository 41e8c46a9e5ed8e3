"""Maxima and sums of windows, first down the image, then across it."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

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
