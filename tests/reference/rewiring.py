"""Structural plasticity as its papers write it, in floats and by sorting: the smallest weights go (Mocanu et al. 2018),
the largest gradients grow (Evci et al. 2020), as many as went. What mattered goes less readily, which is ours."""

from __future__ import annotations

import numpy as np

from edgerun.arrays import F64, AnyArray, Bool


def moved(weights: F64, importance: F64, living: Bool, gradients: F64, share: float) -> tuple[Bool, Bool]:
    """Which synapses go and which grow; of equals the first in stored order. A synapse that went may grow again.

    weights     as they stand                      living      where synapses are
    importance  1 and more, 1 where nothing is     gradients   summed since the last boundary, 0 where synapses are
    """
    count = min(int(living.sum() * share), int((~living).sum()))
    gone = first(np.where(living, np.abs(weights) * importance, np.inf), count)
    after = living & ~gone
    grown = first(np.where(after, np.inf, -np.abs(gradients)), count)
    return gone, grown


def first(keys: AnyArray, count: int) -> Bool:
    """Where the `count` smallest keys are."""
    found = np.zeros(keys.size, np.bool_)
    found[np.argsort(keys.reshape(-1), kind="stable")[:count]] = True
    return found.reshape(keys.shape)
