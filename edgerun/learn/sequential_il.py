"""Sequential inference learning on a chain of dense layers, one sample at a time (Alonso, Krichmar, Neftci 2024).

    h[L] = onehot + kept (softmax - onehot)                                           Q0.15
    for t in 0 .. steps - 1, for l from L - 1 down to 1:
        h[l] <- h[l] + gain / (1 + t) (W[l]' e[l+1] [h[l] > 0] - e[l])                 e[l+1] with the new h[l+1]
    G[l] = -e[l+1] rates[l]'

One sweep carries the error through all layers: `steps` of 1 learns, 3 is the paper's. Hidden errors are a fourth of an
activity's steps in G; sat16.
"""

from __future__ import annotations

from edgerun.arrays import I32, I64, Tensors
from edgerun.errors import SpecError
from edgerun.kernels import chain
from edgerun.learn.settling import Posed, SettlingRule
from edgerun.learn.stages import Factors
from edgerun.rules.dense import SequentialIl
from edgerun.spec import Manifest


class SequentialIlRule(SettlingRule):
    """The rule bound to one bundle's layers."""

    def __init__(self, manifest: Manifest, tensors: Tensors, memory: Tensors | None = None) -> None:
        plan = manifest.learning.rule
        if not isinstance(plan, SequentialIl):
            raise SpecError("the bundle has no il-mq plan")
        self.plan: SequentialIl = plan
        super().__init__(manifest, tensors, plan, memory)

    def factors(self, posed: Posed, error: I32) -> dict[str, Factors]:
        """What each layer lacks after inference, as factors."""
        net = self._net
        net.start()
        for t in range(self.plan.steps):
            self._sweep(self._top(posed), self.plan.gain // (1 + t))
            net.predict()
        errors = [h - p for h, p in zip(net.h, net.p, strict=True)]
        net.histories([*errors, self._top(posed)])
        return net.factors()

    def _top(self, posed: Posed) -> I64:
        """e[L] as the activities stand."""
        top = self._net.lack(posed)
        chain.scaled(top, top, 32768 - self.plan.kept)
        return top

    def _sweep(self, top: I64, gain: int) -> None:
        """Move every hidden layer once, from the top down."""
        net, above = self._net, top
        for layer in range(len(net.h) - 1, -1, -1):
            h, p = net.h[layer], net.p[layer]
            moved = net.hear(layer, above) - (h - p)
            chain.scaled(moved, moved, gain)
            h += moved
            chain.rates_of(net.rates[layer + 1], h)
            above = h - p
