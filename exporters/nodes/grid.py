"""Symmetric grids of a few bits that weights are rounded to, one step a channel."""

from __future__ import annotations

from typing import Final

import numpy as np

from edgerun.arrays import F32, F64
from edgerun.packing import top

FINE: Final = 8
"""Bits from which on nothing is clipped: the step is the largest weight's."""

SHRINK: Final = np.linspace(1.0, 0.2, 41)
"""Shares of that step which are tried below: clipping a few large weights may resolve all the others better."""


def grid_steps(weight: F32 | F64, bits: int) -> F64:
    """(n,)  the real value of one step of each channel, the first axis: of max|w| / (2**(bits-1) - 1) and shares of it
    the one with the least sum of (Q(w) - w)**2. 0 for a channel of zeros."""
    w = weight.reshape(len(weight), -1).astype(np.float64)
    widest: F64 = np.abs(w).max(axis=1) / top(bits)
    if bits >= FINE:
        return widest
    errors = np.stack([np.square(on_grid(w, share * widest, bits) - w).sum(axis=1) for share in SHRINK])
    best: F64 = SHRINK[errors.argmin(axis=0)] * widest
    return best


def integers(weight: F32 | F64, steps: F64, bits: int) -> F64:
    """clip(rint(w / step), +-(2**(bits-1) - 1)), whole numbers; 0 where a channel's step is 0."""
    column = along_channels(steps, weight)
    return np.asarray(np.clip(np.rint(weight / np.where(column > 0, column, 1.0)), -top(bits), top(bits)), np.float64)


def on_grid(weight: F32 | F64, steps: F64, bits: int) -> F64:
    """Q(w) = step * integer, in real units; same shape as the weight."""
    return integers(weight, steps, bits) * along_channels(steps, weight)


def along_channels(steps: F64, weight: F32 | F64) -> F64:
    """One number a channel, in the shape that meets the weight's."""
    return steps.reshape(-1, *(1 for _ in weight.shape[1:]))


def nearest(weight: F32 | F64, bits: int) -> F64:
    """Q(w) on the channel's own best grid, as integers of so many bits would hold it."""
    return on_grid(weight, grid_steps(weight, bits), bits)
