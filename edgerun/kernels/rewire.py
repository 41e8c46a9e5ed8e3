"""Moving synapses: which of those alive matter least, which of the others the gradient asks for most.

    weakness = |shadow| * (8 + c)                       of a synapse that is alive, c its importance code
    growth  <- sat16(growth + SR(g, shift))             of one that is not, at every update; it gets no weight

Both lists are cut by a threshold that a binary search finds, so nothing is sorted and no array of a whole tensor is
made. Of equals, the first in stored order go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from edgerun.arrays import I16, I64, U8, U32, AnyArray, Bool
from edgerun.kernels.noise import stochastic_round
from edgerun.kernels.spiking import I16_MAX, I16_MIN

NEVER: Final = 1 << 24
"""The key of what may not be taken: above every weakness, which is under 2**15 * 2**8, and every lack of growth."""
STRONGEST: Final = 1 << 15


def alive(mask: U8, width: int) -> Bool:
    """(rows, width)  where synapses are, from bits (rows, ceil(width / 8)), the first in the highest."""
    return np.unpackbits(mask, axis=1, count=width).view(np.bool_)


def set_alive(mask: U8, where: Bool) -> None:
    """mask <- bits of `where`.    (rows, ceil(width / 8)), (rows, width)"""
    mask[...] = np.packbits(where, axis=1)


def grow(growth: I16, small: AnyArray, living: Bool, shift: int, words: U32) -> None:
    """growth <- sat16(growth + SR(g, shift)) where nothing is alive.    All (rows, n); small is g"""
    wide = small.astype(np.int64)
    stochastic_round(wide, shift, words)
    wide[living] = 0
    wide += growth
    np.copyto(growth, np.clip(wide, I16_MIN, I16_MAX), casting="unsafe")


def weakness(shadow: I16, code: AnyArray, middle: int, living: Bool) -> I64:
    """|shadow - middle| * (8 + c) of what is alive, NEVER elsewhere.    All (rows, n)"""
    key: I64 = np.abs(shadow.astype(np.int64) - middle) * (8 + code.astype(np.int64))
    key[~living] = NEVER
    return key


def stillness(growth: I16, living: Bool) -> I64:
    """2**15 - |growth| of what is not alive, NEVER elsewhere.    All (rows, n)"""
    key: I64 = STRONGEST - np.abs(growth.astype(np.int64))
    key[living] = NEVER
    return key


def smallest(keys: Callable[[slice], I64], spans: Sequence[slice], count: int) -> Iterator[tuple[slice, Bool]]:
    """Block by block, where the `count` smallest keys lie, of equals the first. At least so many are under NEVER.

    keys  of a block of rows, in [0, NEVER]; asked for many times before the first block comes back
    """
    low, high = 0, NEVER - 1
    while low < high:
        between = low + high >> 1
        if sum(int((keys(rows) <= between).sum()) for rows in spans) >= count:
            high = between
        else:
            low = between + 1
    left = count - sum(int((keys(rows) < low).sum()) for rows in spans)
    for rows in spans:
        key = keys(rows)
        taken = key < low
        equal = np.flatnonzero(key == low)[:left]
        taken.reshape(-1)[equal] = True
        left -= len(equal)
        yield rows, taken
