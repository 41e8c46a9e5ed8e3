"""Has the stream changed? Told from samples alone, without labels and whatever the network has learned meanwhile.

    first N samples decided as class k     their mean is what class k is like
    next N                                 how far such samples lie from it, sorted
    any later one                          its distance's rank among those: uniform for as long as nothing changes
    score <- max(0, score + rank - 1/2 - slack);   alarm where score >= threshold, and all begins anew

Each class has its own samples, so classes may come in any mix and order. Distances are of the sensor's own integers:
lessons move no reference. It decides nothing that is learned but by the boundary that an alarm causes, which the
journal holds; so it lies beside the learned state in a checkpoint and is no part of the digest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgerun.arrays import I16, AnyArray, Tensors
from edgerun.kernels import drift
from edgerun.plan import Slot
from edgerun.spec import Drift, Manifest


def slots(manifest: Manifest) -> dict[str, Slot]:
    """What the plan's `drift` needs in memory and in a checkpoint; nothing where there is none."""
    plan = manifest.learning.drift
    if not isinstance(plan, Drift):
        return {}
    classes = manifest.classes.capacity
    return {
        "watch.sum": Slot((classes, manifest.input.size), "int16"),
        "watch.distance": Slot((classes, plan.samples), "int32"),
        "watch.met": Slot((classes,), "int16"),
        "watch.score": Slot((1,), "int32"),
    }


class Watch:
    """The label-free detector of a bundle over arrays of its own, by the names of `slots`; silent without a plan.

    met  (classes,) samples so far, up to 2N: N for the mean, N for the distances
    """

    def __init__(self, manifest: Manifest) -> None:
        plan = manifest.learning.drift
        self._plan, self._slots = plan if isinstance(plan, Drift) else Drift(), slots(manifest)
        self._state: Tensors = {name: np.zeros(slot.shape, slot.dtype) for name, slot in self._slots.items()}

    @property
    def statistic(self) -> float:
        """The score as a share of what an alarm takes; nan without a plan."""
        if not self._state:
            return math.nan
        return float(self._state["watch.score"][0]) / self._threshold

    @property
    def _threshold(self) -> int:
        return self._plan.threshold << 15

    def meet(self, q: I16, label: int) -> bool:
        """Take one decided sample; True = alarm, after which everything is forgotten.    q (size,)"""
        if not self._state:
            return False
        met, n = self._state["watch.met"], self._plan.samples
        total, sorted_ = self._state["watch.sum"][label], self._state["watch.distance"][label]
        seen = int(met[label])
        if seen < n:
            total += q
            met[label] += 1
            return False
        far = drift.distance(q, total, n)
        if seen < 2 * n:
            drift.insert(sorted_, seen - n, far)
            met[label] += 1
            return False
        score = drift.page(int(self._state["watch.score"][0]), drift.evidence(sorted_, far), self._plan.slack)
        self._state["watch.score"][0] = score
        if score < self._threshold:
            return False
        self.reset()
        return True

    def reset(self) -> None:
        """Forget everything: what comes next is what is usual."""
        for array in self._state.values():
            array[...] = 0

    def forget(self, label: int) -> None:
        """Forget what one class was like."""
        for name in ("sum", "distance", "met") if self._state else ():
            self._state[f"watch.{name}"][label] = 0

    def arrays(self) -> Tensors:
        """Its state by name (views, not copies)."""
        return self._state

    def load(self, arrays: Mapping[str, AnyArray]) -> None:
        """Continue from a saved state; from nothing where it is not there or not of this plan."""
        self.reset()
        if all(name in arrays and _fits(arrays[name], slot) for name, slot in self._slots.items()):
            for name, array in self._state.items():
                array[...] = arrays[name]


def _fits(array: AnyArray, slot: Slot) -> bool:
    return array.shape == slot.shape and array.dtype == np.dtype(slot.dtype)
