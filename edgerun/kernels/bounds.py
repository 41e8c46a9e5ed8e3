"""Bounds as arrays: numpy compares two arrays several times as fast as an array and a number."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

from edgerun.arrays import AnyArray

LANES: Final = 8192
"""Values that are worked on together: what a core keeps near it."""


FEW: Final = 1 << 10
"""Values so few that a number costs no more than an array."""


@lru_cache(maxsize=32)
def level(value: int, kind: str) -> AnyArray:
    """(LANES,) of one value."""
    found = np.full(LANES, value, kind)
    found.flags.writeable = False
    return found


def clamp(x: AnyArray, low: int, high: int) -> None:
    """x <- min(max(x, low), high).    x  (any shape)  updated, in one piece"""
    if x.size < FEW:
        np.maximum(x, np.array(low, x.dtype), out=x)
        np.minimum(x, np.array(high, x.dtype), out=x)
        return
    flat, kind = x.reshape(-1), x.dtype.char
    for first in range(0, flat.size, LANES):
        part = flat[first : first + LANES]
        np.maximum(part, level(low, kind)[: part.size], out=part)
        np.minimum(part, level(high, kind)[: part.size], out=part)
