"""Sums over only those weights that are not zero: rows of (input, weight) pairs, one row an output.

Worth it where few weights are left in a large layer: a product with every weight runs through memory in order, this
one jumps. The sums are the same, for integers in an exact carrier add up to the same in any order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edgerun.arrays import F32, F64, Places


class Rows(NamedTuple):
    """The weights of each output behind one another. An output without one has a weight of 0 at input 0.

    inputs   (k,)  the input that a weight meets      starts  (out,)  rising: where each output begins
    weights  (k,)  in the dtype of the sums
    """

    inputs: Places
    weights: F32 | F64
    starts: Places


def rows_of(weights: F32 | F64) -> Rows:
    """The rows of a matrix (in, out)."""
    kept = weights.T != 0
    kept[~kept.any(axis=1), 0] = True
    output, inputs = np.nonzero(kept)
    starts = np.searchsorted(output, np.arange(len(kept)))
    return Rows(inputs.astype(np.intp), weights.T[kept], starts.astype(np.intp))


def sum_rows(sums: F32 | F64, x: F32 | F64, rows: Rows, products: F32 | F64) -> None:
    """sums[j] <- sum over the pairs (i, w) of row j of w * x[i]

    sums      (out,)  written                  x  (in,)  read, of the same dtype
    products  (k,)    scratch                  allocates no arrays
    """
    np.take(x, rows.inputs, out=products, mode="clip")  # the default mode works in a copy
    products *= rows.weights
    np.add.reduceat(products, rows.starts, out=sums)
