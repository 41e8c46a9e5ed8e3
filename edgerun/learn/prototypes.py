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


def recompute(prototypes: Prototypes, z: I64, row: AnyArray) -> None:
    """S_r and n_r from features z (m, d) of samples by the mean they are part of; one without any keeps what it had."""
    for k in np.unique(row):
        mine = z[row == k]
        prototypes.sums[k] = mine.sum(axis=0)
        prototypes.counts[k] = len(mine)
    prototypes.refresh()


def leave_one_out(prototypes: Prototypes, z: I64, row: AnyArray, known: int) -> I64:
    """Scores (m, known) without bias in which a sample's own mean is that of the others it was made of.

    A mean of more samples than these stands as it is: one more or less hardly moves it.
    """
    means = prototypes.means
    scores: I64 = 2 * (z @ means.T) - (means * means).sum(axis=1)
    sums, counts = np.zeros_like(means), np.bincount(row, minlength=len(means))
    np.add.at(sums, row, z)
    rest = np.maximum(counts[row] - 1, 1)[:, None]
    own = np.floor_divide(2 * (sums[row] - z) + rest, 2 * rest)
    whole = np.flatnonzero(counts[row] == prototypes.counts[row])
    scores[whole, row[whole]] = (2 * (z * own).sum(axis=1) - (own * own).sum(axis=1))[whole]
    scores[:, prototypes.counts == 0] = head.NEVER
    first, taught = scores[:, :known], scores[:, prototypes.taught : prototypes.taught + known]
    nearer: I64 = np.maximum(first, taught)
    return nearer


def calibrate(prototypes: Prototypes, z: I64, label: AnyArray, row: AnyArray, new: list[int], known: int) -> None:
    """Set the bias of each new class, in order, twice over (they compete with each other).

    z  (m, d)      label  (m,)  the class of each sample      row  (m,)  the mean that it is part of
    """
    scores, bias = leave_one_out(prototypes, z, row, known), prototypes.bias[prototypes.taught :]
    for _ in range(2):
        for k in new:
            others = scores + bias[:known]
            others[:, k] = head.NEVER
            margin = others.max(axis=1) - scores[:, k]  # the bias above which a sample goes to class k
            rivals = margin[(label != k) & (others.argmax(axis=1) == label)]
            if len(rivals) and (label == k).any():
                bias[k] = bearable_bias(rivals)


def bearable_bias(rivals: I64) -> int:
    """A quarter of the margin that four in five old samples exceed."""
    return int(np.sort(rivals)[len(rivals) // 5]) >> 2
