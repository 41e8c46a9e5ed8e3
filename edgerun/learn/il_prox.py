"""IL-prox on a chain of dense layers, one sample at a time (Alonso, Millidge, Krichmar, Neftci 2022).

g = alpha (|rates[L-1]|**2 + eps);   share = g / (1 + g)
e[L] = share (onehot - softmax(p[L]));   e[l] = h[l] - p[l]
h[l] <- h[l] - down e[l] + up W[l]' e[l+1] [h[l] > 0]                     `steps` times, all layers at once
G[l] = -(e[l+1] 2**norm_shift / (|rates[l]|**2 + eps)) rates[l]'          one division a neuron
"""

from __future__ import annotations

from edgerun.arrays import I32, I64, Tensors
from edgerun.errors import SpecError
from edgerun.kernels import chain
from edgerun.learn.settling import Posed, SettlingRule
from edgerun.learn.stages import Factors
from edgerun.rules.dense import IlProx
from edgerun.spec import Manifest


class IlProxRule(SettlingRule):
    """The rule bound to one bundle's layers."""

    def __init__(self, manifest: Manifest, tensors: Tensors, memory: Tensors | None = None) -> None:
        plan = manifest.learning.rule
        if not isinstance(plan, IlProx):
            raise SpecError("the bundle has no il-prox plan")
        self.plan: IlProx = plan
        super().__init__(manifest, tensors, plan, memory)

    def factors(self, posed: Posed, error: I32) -> dict[str, Factors]:
        """What each layer lacks after inference, over the norm of what it reads, as factors."""
        net, plan = self._net, self.plan
        net.start()
        for _ in range(plan.steps):
            top = self._top(posed)
            for layer in range(len(net.h) - 1, -1, -1):
                moved = net.hear(layer, top if layer + 1 == len(net.h) else net.h[layer + 1] - net.p[layer + 1])
                chain.scaled(moved, moved, plan.up)
                own = net.h[layer] - net.p[layer]
                chain.scaled(own, own, plan.down)
                moved -= own
            for layer, h in enumerate(net.h):
                h += net.pull[layer]
                chain.rates_of(net.rates[layer + 1], h)
            net.predict()
        wanted = [*(h - p for h, p in zip(net.h, net.p, strict=True)), self._top(posed)]
        for layer, name in enumerate(plan.layers):
            if name in net.errors:
                norm = net.square(layer) + plan.damping[layer]
                chain.normalised(net.errors[name][0], -wanted[layer], plan.norm_shifts[layer], norm)
        return net.factors()

    def _top(self, posed: Posed) -> I64:
        """e[L] as the activities stand."""
        top = self._net.lack(posed)
        chain.scaled(top, top, self._share())
        return top

    def _share(self) -> int:
        """How much of the label the output is shown, Q0.15; alpha |rates|**2 counts in 2**-shift."""
        last = len(self.plan.layers) - 1
        gain = (self._net.square(last) + self.plan.damping[last] >> 16) * self.plan.alpha.multiplier
        return (gain << 15) // (gain + (1 << self.plan.alpha.shift))
