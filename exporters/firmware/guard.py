"""The lesson guard of a firmware: the probe's part of its mix as constant arrays, and its numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgerun.arrays import I16, AnyArray
from edgerun.bundle import Bundle
from edgerun.learn import guard
from edgerun.lifetime import new_learner


@dataclass(frozen=True, slots=True)
class FirmwareGuard:
    """What `guard.c` is made with.

    x, label   (n, size) in the input's type, (n,): probe samples that are scored
    newest     how many samples of the reservoir are scored beside them
    every      lessons in a group
    most_drop  Q0.15, how far a share may lie under the best
    factory    Q0.15, the factory's share
    """

    x: AnyArray
    label: I16
    newest: int
    every: int
    most_drop: int
    factory: int

    @property
    def nbytes(self) -> int:
        return self.x.nbytes + self.label.nbytes


def guard_of(bundle: Bundle) -> FirmwareGuard:
    """The guard of a bundle as it leaves the factory."""
    plan, size = bundle.manifest.learning.guard, bundle.manifest.input.size
    x, label = bundle.probe.x.reshape(len(bundle.probe.x), math.prod(bundle.probe.x.shape[1:])), bundle.probe.label
    correct, of = new_learner(bundle).guard_score(x.astype(np.int16), label)
    picked = guard.picked(plan, len(x)) if bundle.manifest.classes.capacity else np.zeros(0, np.int64)
    return FirmwareGuard(
        x=x[picked].reshape(len(picked), size).astype(bundle.manifest.input.dtype),
        label=label[picked].astype(np.int16),
        newest=plan.samples - guard.of_probe(plan),
        every=plan.every,
        most_drop=guard.most_drop(plan),
        factory=guard.share(correct / of if of else 1.0),
    )
