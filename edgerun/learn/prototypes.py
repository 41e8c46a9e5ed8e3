"""Keeping the prototype head true: means recomputed from the reservoir, and a fair bias for classes that are new.

The mean c of n samples lies off the true one mu, on average by s / n in squared distance, s = E |z - mu|^2. Scores
2 z.c - c.c are as much too low, so a class taught with few examples loses ties to well-known ones. The bias of a class
that joined gives that back: its score is then, on average, the true mean's, and with more samples the bias goes by
itself. A bias from what old samples can bear took more from them than it should where several classes joined, or where
e-prop had moved the features: margins of samples that replay has learned from say too much.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from edgerun.arrays import I64, AnyArray, Bool
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


def calibrate(prototypes: Prototypes, z: I64, label: AnyArray, joined: Bool) -> None:
    """bias <- s / n of each class that joined and has a mean, s from all held samples of such classes.

    z  (m, d)      label  (m,)  the class of each sample      joined  (known,)

    Where each such class has one sample only, s is that of all classes; where those do too, biases stay.
    """
    bias, counts = (part[prototypes.taught :][: len(joined)] for part in (prototypes.bias, prototypes.counts))
    new = joined & (counts > 0)
    squares, degrees = scatter(z, label, np.flatnonzero(new))
    if not degrees:
        squares, degrees = scatter(z, label, np.arange(len(joined)))
    if degrees:
        bias[new] = np.minimum(squares // (degrees * counts[new].astype(np.int64)), MOST)


def scatter(z: I64, label: AnyArray, classes: AnyArray) -> tuple[int, int]:
    """Squared distances of the samples of some classes to their class's mean, added up, and degrees of freedom.

    sum over classes of (m sum z.z - S.S) // m, and of m - 1; m samples of a class, S their sum
    """
    squares = degrees = 0
    for k in classes:
        mine = z[label == k]
        total, m = mine.sum(axis=0), len(mine)
        if m > 1:
            squares += (m * int((mine * mine).sum()) - int((total * total).sum())) // m
            degrees += m - 1
    return squares, degrees
