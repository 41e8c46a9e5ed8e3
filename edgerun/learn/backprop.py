"""Backpropagation through a chain of dense layers, one sample at a time: the yardstick of the local rules.

    e[L]   = sat16(softmax(logits) - onehot)                                              Q0.15
    e[l-1] = sat16(half_up(W[l]' e[l] / 2**back_shift)) * [x[l] > 0]                      x[l] what layer l read
    G[l]   = e[l] x[l]'

The units of lower errors are the shifts' and are folded into the rates.
"""

from __future__ import annotations

import numpy as np

from edgerun.arrays import I16, I32, Bool, Tensors
from edgerun.errors import SpecError
from edgerun.kernels import chain
from edgerun.kernels.spiking import I16_MAX, I16_MIN
from edgerun.learn.chain import Chain, Passed
from edgerun.learn.stages import Factors
from edgerun.network import Network
from edgerun.rules.dense import Backprop
from edgerun.spec import Manifest


class BackpropRule:
    """The rule bound to one bundle's layers. Holds constants only; weights are read when a lesson comes."""

    def __init__(self, manifest: Manifest, tensors: Tensors) -> None:
        plan = manifest.learning.rule
        if not isinstance(plan, Backprop):
            raise SpecError("the bundle has no backprop plan")
        self.plan: Backprop = plan
        self._chain = Chain(manifest, tensors, plan)

    def record(self, network: Network, q: I16) -> Passed:
        """Run one sample and keep what each layer read.    q  (size,)"""
        return self._chain.record(network, q)

    def error(self, error: I32, passed: Passed, label: int, in_play: Bool) -> int:
        """error <- p - onehot over the classes in play, Q0.15; returns p(label).    error, in_play  (k,)"""
        return self._chain.error(error, passed, label, in_play)

    def factors(self, passed: Passed, error: I32) -> dict[str, Factors]:
        """The gradient of each plastic tensor, as factors."""
        names, reads = self.plan.layers, passed.reads
        above: I16 = np.clip(error, I16_MIN, I16_MAX).astype(np.int16)
        errors = {names[-1]: above}
        for k in range(len(names) - 1, self.plan.lowest, -1):
            below = np.zeros(len(reads[k]), np.int16)
            chain.error_below(below, self._chain.wide(k), above, self.plan.back_shifts[k - 1], reads[k])
            errors[names[k - 1]] = above = below
        return self._chain.factors(errors, reads)
