"""Keeping the prototype head true: means recomputed from the reservoir, and a fair bias for classes that are new.

A class taught with few examples has a noisy mean and loses ties to well-known classes. What old samples can bear is
one budget for all classes that joined: their bias is a quarter of the margin, leave-one-out, by which four in five old
samples lie nearer to an old class than to any new one. It is one number, so it moves no border between new classes. A
budget for each class of its own gave seven Braille letters so much together that every sixth old touch was lost; a rule
that asked the new classes' few examples lost more over seeds than it saved, their margins are too noisy.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from edgerun.arrays import I64, AnyArray, Bool
from edgerun.kernels import head
from edgerun.network import Prototypes


MOST: Final = (1 << 31) - 1


def add(prototypes: Prototypes, row: int, z: I64) -> None:
    """One more sample z (d,) of a mean: S + z, n + 1; both halved, rounded down, where they have no room in int32.

    From then on a new sample counts for as much as two old ones.
    """
    total, count = prototypes.sums[row] + z, int(prototypes.counts[row]) + 1
    while count > MOST or int(np.abs(total).max()) > MOST:
        total, count = total >> 1, count >> 1
    prototypes.sums[row], prototypes.counts[row] = total, count
    prototypes.refresh()


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


def calibrate(prototypes: Prototypes, z: I64, label: AnyArray, row: AnyArray, old: Bool) -> None:
    """Set the one bias of all classes that joined and have a mean.

        margin = max over old of score - max over new of score     below the bias, a sample goes to a new class

    z  (m, d)      label  (m,)  the class of each sample      row  (m,)  the mean that it is part of
    old  (known,)  whether the factory gave the class its mean

    Leaves biases as they are where there is no old sample that the old classes alone have right, or no new mean.
    """
    known = len(old)
    bias, counts = (part[prototypes.taught :][:known] for part in (prototypes.bias, prototypes.counts))
    new = ~old & (counts > 0)
    if not (old.any() and new.any() and len(z)):
        return
    scores = leave_one_out(prototypes, z, row, known) + np.where(old, bias, 0)
    margin = scores[:, old].max(axis=1) - scores[:, new].max(axis=1)
    right = np.flatnonzero(old)[scores[:, old].argmax(axis=1)] == label
    if right.any():
        bias[new] = bearable_bias(margin[right])


def bearable_bias(margins: I64) -> int:
    """A quarter of the margin that four in five old samples exceed."""
    return int(np.sort(margins)[len(margins) // 5]) >> 2
