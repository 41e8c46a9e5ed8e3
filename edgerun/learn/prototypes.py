"""Keeping the prototype head true: means recomputed from the reservoir, and a fair bias for classes that are new.

A class taught with few examples has a noisy mean and loses ties to well-known classes. Its bias is what old samples can
bear: a quarter of the margin that four in five of those held exceed. Where leave-one-out finds more errors with it than
without it, counted as shares of its own examples and of the old samples, it gets none.
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
            shots = margin[label == k]
            rivals = margin[(label != k) & (others.argmax(axis=1) == label)]
            if len(shots) and len(rivals):
                wished = bearable_bias(rivals)
                worse = _errors(wished, shots, rivals) > _errors(0, shots, rivals)
                prototypes.bias[k] = 0 if worse else wished


def _errors(bias: int, shots: I64, rivals: I64) -> int:
    """share(shots >= bias) + share(rivals < bias), in units of one pair of both."""
    return int((shots >= bias).sum()) * len(rivals) + int((rivals < bias).sum()) * len(shots)


def bearable_bias(rivals: I64) -> int:
    """A quarter of the margin that four in five old samples exceed."""
    return int(np.sort(rivals)[len(rivals) // 5]) >> 2
