"""Has a stream changed, told without labels: how far samples lie from what their class was like, by rank.

A rank among as many samples of the same kind is uniform whatever the distances are, so one threshold serves every
model and every sensor. Page's test (1954) adds up what is above a half.
"""

from __future__ import annotations

import numpy as np

from edgerun.arrays import I16, I32

FAR = (1 << 31) - 1
HALF = 1 << 14  # Q0.15


def distance(q: I16, total: I16, count: int) -> int:
    """sum |count * q - total|, at most 2**31 - 1: how far a sample is from the mean of `count` others, `count` times.

    q, total  (size,)      |q| <= 255, count <= 128, so every term fits 17 bits
    """
    wide = q.astype(np.int64) * count - total
    return min(int(np.abs(wide).sum()), FAR)


def insert(sorted_: I32, held: int, value: int) -> None:
    """Put one value among the first `held`, which rise and go on rising.    sorted_ (n,), held < n"""
    place = int(np.searchsorted(sorted_[:held], value, side="right"))
    sorted_[place + 1 : held + 1] = sorted_[place:held].copy()
    sorted_[place] = value


def evidence(sorted_: I32, value: int) -> int:
    """(rank - 1/2) in Q0.15, in [-2**14, 2**14]: rank is the share of values below, equal ones counted half."""
    below = int(np.searchsorted(sorted_, value, side="left")) + int(np.searchsorted(sorted_, value, side="right"))
    return (below << 14) // len(sorted_) - HALF


def page(score: int, evidence: int, slack: int) -> int:
    """score <- max(0, score + evidence - slack)."""
    return max(0, score + evidence - slack)
