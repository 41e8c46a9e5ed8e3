"""Keeping the prototype head true: means recomputed from the reservoir, and a fair bias for classes that are new.

A class taught with few examples has a noisy mean and loses ties to well-known classes. Its bias is what old samples can
bear: a quarter of the margin, leave-one-out, that four in five of those held exceed. Its own few examples have no say
in it: their margins are too noisy, and a rule that asked them lost more new samples over seeds than it saved old ones.
"""

from __future__ import annotations

import numpy as np

from edgerun.arrays import I64, AnyArray
from edgerun.kernels import head
from edgerun.network import Prototypes


def recompute(prototypes: Prototypes, z: I64, label: AnyArray, capacity: int) -> None:
    """S_k and n_k from features z (m, d) of labelled samples; classes without a sample keep what they had."""
    for k in range(capacity):
        mine = z[label == k]
        if len(mine):
            prototypes.sums[k] = mine.sum(axis=0)
            prototypes.counts[k] = len(mine)
    prototypes.refresh()


def leave_one_out(prototypes: Prototypes, z: I64, label: AnyArray, known: int) -> I64:
    """Scores (m, known) without bias in which a sample's own class is scored by the mean of the others of its class."""
    means = prototypes.means[:known]
    scores: I64 = 2 * (z @ means.T) - (means * means).sum(axis=1)
    counts = np.bincount(label, minlength=known)
    sums = np.zeros_like(means)
    np.add.at(sums, label, z)
    rest = np.maximum(counts[label] - 1, 1)[:, None]
    own = np.floor_divide(2 * (sums[label] - z) + rest, 2 * rest)
    scores[np.arange(len(z)), label] = 2 * (z * own).sum(axis=1) - (own * own).sum(axis=1)
    scores[:, prototypes.counts[:known] == 0] = head.NEVER
    return scores


def calibrate(prototypes: Prototypes, z: I64, label: AnyArray, new: list[int], known: int) -> None:
    """Set the bias of each new class, in order, twice over (they compete with each other).    z (m, d), label (m,)"""
    scores = leave_one_out(prototypes, z, label, known)
    for _ in range(2):
        for k in new:
            others = scores + prototypes.bias[:known]
            others[:, k] = head.NEVER
            margin = others.max(axis=1) - scores[:, k]  # the bias above which a sample goes to class k
            rivals = margin[(label != k) & (others.argmax(axis=1) == label)]
            if len(rivals) and (label == k).any():
                prototypes.bias[k] = bearable_bias(rivals)


def bearable_bias(rivals: I64) -> int:
    """A quarter of the margin that four in five old samples exceed."""
    return int(np.sort(rivals)[len(rivals) // 5]) >> 2
