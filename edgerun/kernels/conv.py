"""Sums of convolutions, exact in the arrays that the layer's certificate chose; `requant` takes them on."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Real = TypeVar("Real", np.float32, np.float64)


def conv_sums(sums: NDArray[Real], windows: NDArray[Real], columns: NDArray[Real], weights: NDArray[Real]) -> None:
    """sums[p, f] <- sum over taps k of window p: x[p, k] * w[k, f], one matrix product.

    sums     (p, f)              written      p = n * oh * ow windows, k = kh * kw * c taps
    windows  (n, oh, ow, kh, kw, c)  read     a view of the padded image
    columns  the same, in one piece  scratch
    weights  (k, f)              read
    """
    np.copyto(columns, windows)
    np.dot(columns.reshape(len(sums), -1), weights, out=sums)


def depthwise_sums(
    sums: NDArray[Real], across: NDArray[Real], shifted: NDArray[Real], down: NDArray[Real], weights: NDArray[Real]
) -> None:
    """sums[i, j, f] <- sum over r, t of x[row r of output i, column t of output j, f] * w[r, t, f].

    The columns that a kernel's row sees are laid out first, tap by tap, so that whole rows of outputs multiply at once.

    sums     (n, oh, ow * f)              written
    across   (n, rows, kw, ow, f)         read      a view of the padded image: tap t of output j, for each row
    shifted  the same, in one piece       scratch
    down     (n, oh, kh, kw, ow * f)      read      a view of `shifted`: the rows that each output row looks at
    weights  (kh, kw, ow * f)             read      the same for each of the ow outputs
    """
    np.copyto(shifted, across)
    np.einsum("nirtx,rtx->nix", down, weights, out=sums)
