"""The lesson guard's rule: has a group of lessons made the device worse than it may be?

    share = floor(2**15 right / of) in Q0.15, 1 where nothing was scored
    good where best - share <= max_drop, rounded to Q0.15

Integers, so that a controller's verdicts are this machine's (`guard.c` of a firmware).
"""

from __future__ import annotations

import numpy as np

from edgerun.arrays import I64
from edgerun.spec import Guard

ONE = 1 << 15


def picked(guard: Guard, count: int) -> I64:
    """Which of `count` probe samples are in the mix, evenly over all of them."""
    return np.linspace(0, max(0, count - 1), min(of_probe(guard), count)).astype(np.int64)


def of_probe(guard: Guard) -> int:
    """How many samples of the mix are the probe's; the others are the newest of the reservoir."""
    return round(guard.samples * guard.probe_share)


def share(right: float) -> int:
    """A share in Q0.15; exact for right / of with of < 2**15, since no double lies between it and a 2**-15th."""
    return int(right * ONE)


def good(guard: Guard, best: float, now: float) -> bool:
    """Whether a group of lessons stands: shares that the best state so far and this one got right."""
    return share(best) - share(now) <= most_drop(guard)


def most_drop(guard: Guard) -> int:
    """`max_drop` in Q0.15."""
    return round(guard.max_drop * ONE)
