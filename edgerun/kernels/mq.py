"""MQ: a gradient over the running mean of its own size, by a shift (Alonso, Krichmar, Neftci 2024).

N = SR(G, e)   with 2**e the power of two nearest to v / 2**10;   v in Q8
v <- v + (mean|G| - v) / min(updates + 1, 2**memory)
"""

from __future__ import annotations

from typing import Final

import numpy as np

from edgerun.arrays import I64, U32
from edgerun.kernels.noise import stochastic_round

TARGET: Final = 10
"""log2 of the mean size that gradients are brought to."""
LARGEST: Final = 1 << 28
"""Gradients beyond it count as this where they are made larger."""
FRACTION: Final = 8
"""Bits of the mean behind the point."""


def exponent(mean: int) -> int:
    """e of a mean in Q8, in [-30, 30]: from 2/3 to 4/3 of 2**TARGET is what is left of it."""
    return max(-30, min(30, (mean + (mean >> 1)).bit_length() - 1 - FRACTION - TARGET))


def quotient(gradient: I64, mean: int, words: U32) -> None:
    """G <- SR(G, e), or G * 2**-e; nothing before anything was measured.    gradient, words  (rows, n)"""
    if not mean:
        gradient[...] = 0
        return
    e = exponent(mean)
    if e >= 0:
        stochastic_round(gradient, e, words)
    else:
        np.clip(gradient, -LARGEST, LARGEST, out=gradient)
        gradient <<= -e


def size(gradient: I64) -> int:
    """sum|G|."""
    return int(np.abs(gradient).sum())


def follow(mean: int, total: int, count: int, updates: int, memory: int) -> int:
    """The mean after one more update of `count` weights whose sizes add up to `total`."""
    weight = min(updates + 1, 1 << memory)
    return mean + ((total << FRACTION) // count - mean) // weight
