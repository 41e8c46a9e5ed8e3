"""IL-prox on a chain of dense layers, one sample at a time (Alonso, Millidge, Krichmar, Neftci 2022).

g = alpha (|rates[L-1]|**2 + eps);   share = g / (1 + g)
e[L] = share (onehot - softmax(p[L]));   e[l] = h[l] - p[l]
h[l] <- h[l] - down e[l] + up W[l]' e[l+1] [h[l] > 0]                     `steps` times, all layers at once
G[l] = -(e[l+1] 2**norm_shift / (|rates[l]|**2 + eps)) rates[l]'          one division a neuron
"""

from __future__ import annotations

import numpy as np

from edgerun.arrays import I32, I64, Tensors
from edgerun.errors import SpecError
from edgerun.kernels import chain
from edgerun.learn.settling import Posed, SettlingRule
from edgerun.learn.stages import Factors
from edgerun.rules.dense import IlProx
from edgerun.spec import Manifest


class IlProxRule(SettlingRule):
    """The rule bound to one bundle's layers."""

    def __init__(self, manifest: Manifest, tensors: Tensors) -> None:
        plan = manifest.learning.rule
        if not isinstance(plan, IlProx):
            raise SpecError("the bundle has no il-prox plan")
        self.plan: IlProx = plan
        super().__init__(manifest, tensors, plan)

    def factors(self, posed: Posed, error: I32) -> dict[str, Factors]:
        """What each layer lacks after inference, over the norm of what it reads, as factors."""
        net, plan = self._net, self.plan
        net.start(posed.x)
        moved = [np.zeros_like(h) for h in net.h]
        for _ in range(plan.steps):
            errors = self._errors(posed)
            for layer, h in enumerate(net.h):
                chain.scaled(moved[layer], net.hear(layer, errors[layer + 1]), plan.up)
                own = np.zeros_like(h)
                chain.scaled(own, errors[layer], plan.down)
                moved[layer] -= own
            for layer, h in enumerate(net.h):
                h += moved[layer]
                chain.rates_of(net.rates[layer + 1], h)
            net.predict()
        found = {}
        for layer, (name, wanted) in enumerate(zip(plan.layers, self._errors(posed), strict=True)):
            found[name] = np.zeros(len(wanted), np.int16)
            norm = net.square(layer) + plan.damping[layer]
            chain.normalised(found[name], -wanted, plan.norm_shifts[layer], norm)
        return net.factors(found, tuple(net.rates))

    def _errors(self, posed: Posed) -> list[I64]:
        """e[1] to e[L] as the activities stand."""
        net = self._net
        top = np.zeros(len(net.top), np.int64)
        chain.scaled(top, net.lack(posed).astype(np.int64), self._share())
        return [*(h - p for h, p in zip(net.h, net.p, strict=True)), top]

    def _share(self) -> int:
        """How much of the label the output is shown, Q0.15; alpha |rates|**2 counts in 2**-shift."""
        last = len(self.plan.layers) - 1
        gain = (self._net.square(last) + self.plan.damping[last] >> 16) * self.plan.alpha.multiplier
        return (gain << 15) // (gain + (1 << self.plan.alpha.shift))
