"""Backpropagation through a chain of dense layers, one sample at a time: the yardstick of the local rules.

    e[L]   = sat16(softmax(logits) - onehot)                                              Q0.15
    e[l-1] = sat16(half_up(W[l]' e[l] / 2**back_shift)) * [x[l] > 0]                      x[l] what layer l read
    G[l]   = e[l] x[l]'

The units of lower errors are the shifts' and are folded into the rates.
"""

from __future__ import annotations

from edgerun.arrays import F64, I16, I32, Bool, Tensors
from edgerun.errors import SpecError
from edgerun.kernels import chain
from edgerun.learn import tape
from edgerun.learn.chain import Chain, Passed, copied
from edgerun.learn.stages import Factors
from edgerun.network import Network
from edgerun.rules.dense import Backprop
from edgerun.spec import Manifest


class OneByOne(Chain):
    """A chain whose layers are multiplied in turn: they share one carrier."""

    def __init__(self, manifest: Manifest, tensors: Tensors, plan: Backprop, memory: Tensors) -> None:
        super().__init__(manifest, tensors, plan, memory)
        self._carrier = memory["carrier.weight"]

    def wide(self, layer: int) -> F64:
        return copied(self._carrier, self.weights[layer])


class BackpropRule:
    """The rule bound to one bundle's layers and its memory. Weights are read when a lesson comes.

    What it returns are views: they hold until the next sample.
    """

    def __init__(self, manifest: Manifest, tensors: Tensors, memory: Tensors | None = None) -> None:
        plan = manifest.learning.rule
        if not isinstance(plan, Backprop):
            raise SpecError("the bundle has no backprop plan")
        self.plan: Backprop = plan
        self._chain = OneByOne(manifest, tensors, plan, tape.room(manifest) if memory is None else memory)

    def record(self, network: Network, q: I16) -> Passed:
        """Run one sample and keep what each layer read.    q  (size,)"""
        return self._chain.record(network, q)

    def error(self, error: I32, passed: Passed, label: int, in_play: Bool) -> int:
        """error <- p - onehot over the classes in play, Q0.15; returns p(label).    error, in_play  (k,)"""
        return self._chain.error(error, passed, label, in_play)

    def factors(self, passed: Passed, error: I32) -> dict[str, Factors]:
        """The gradient of each plastic tensor, as factors."""
        net, names = self._chain, self.plan.layers
        above = net.errors[names[-1]]
        chain.cut(above[0], error)
        for k in range(len(names) - 1, self.plan.lowest, -1):
            below = net.errors[names[k - 1]]
            chain.error_below(below[0], net.wide(k), above[0], self.plan.back_shifts[k - 1], net.reads[k][0])
            above = below
        return net.factors()
