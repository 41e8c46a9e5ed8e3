"""Keeping the prototype head true: means recomputed from the reservoir, and a fair bias for classes that are new.

The mean c of n samples lies off the true one mu, on average by s / n in squared distance, s = E |z - mu|^2. Scores
2 z.c - c.c are as much too low, so a class taught with few examples loses ties to well-known ones. The bias of a class
that joined gives that back: its score is then, on average, the true mean's, and with more samples the bias goes by
itself. A bias from what old samples can bear took more from them than it should where several classes joined, or where
e-prop had moved the features: margins of samples that replay has learned from say too much.
"""

from __future__ import annotations

from typing import Final, cast

import numpy as np

from edgerun.arrays import I32, I64, AnyArray, Bool, Tensors
from edgerun.network import Prototypes
from edgerun.plan import Slot
from edgerun.spec import Manifest

MOST: Final = (1 << 31) - 1


def slots(manifest: Manifest, width: int) -> dict[str, Slot]:
    """The arrays of a prototype head over features of this width."""
    rows = manifest.head.means * manifest.classes.capacity
    return {
        "head.sum": Slot((rows, width), "int32", "head"),
        "head.count": Slot((rows,), "int32", "head"),
        "head.bias": Slot((rows,), "int32", "head"),
    }


class KeptHead:
    """A network's prototype head as learned state: from now on it works in the arrays of `slots`.

    known           classes of the factory, whose sums, counts and biases the head comes with
    factory_counts  (known,)  how many samples of each the factory knew; none where it only named the class
    """

    def __init__(self, head: Prototypes, state: Tensors, known: int) -> None:
        self._head, self._known = head, known
        self._factory = (head.sums[:known].copy(), head.counts[:known].copy(), head.bias[:known].copy())
        self.factory_counts = self._factory[1]
        head.sums, head.counts, head.bias = (cast(I32, state[f"head.{name}"]) for name in ("sum", "count", "bias"))

    def reset(self) -> None:
        """Back to the factory's, in arrays that hold zeros; `take_over` follows."""
        head = self._head
        for mine, factory in zip((head.sums, head.counts, head.bias), self._factory, strict=True):
            mine[: self._known] = factory

    def take_over(self) -> None:
        """Decide by the sums and counts that have just been loaded."""
        self._head.refresh()

    def add(self, label: int, z: I64) -> None:
        """One more sample z (d,) of a class."""
        add(self._head, self._head.taught + label, z)

    def refresh(self, z: I64, label: I64, field: Bool, classes: int, *, moved: bool) -> None:
        """Recompute the means from the samples that are held, then the biases of classes that the factory did not know.

        z  (m, d)      label  (m,)      field  (m,)  whether the stream taught it      classes  that are known by now

        moved  whether e-prop may have moved the features; if not, a head that keeps the field's means apart has in each
               the sum of all that was ever taught, which is more than what is held
        """
        if moved or not self._head.taught:
            recompute(self._head, z, label + self._head.taught * field)
        joined = np.ones(classes, np.bool_)
        joined[: self._known] = self.factory_counts == 0
        calibrate(self._head, z, label, joined)

    def forget(self, label: int) -> None:
        """Nothing is known of a class any more."""
        head = self._head
        for row in {label, head.taught + label}:
            head.sums[row], head.counts[row], head.bias[row] = 0, 0, 0
        head.refresh()


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
