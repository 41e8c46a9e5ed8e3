"""Predictive coding under constraints on a chain of dense layers (Alonso, Neftci 2021): rates never negative, errors
come back one way through feedback weights of their own.

    e[l] = a[l] - max(p[l], 0);   delta[l] = e[l] where p[l] > 0;   at the top onehot - softmax
    a[l] <- clip(a[l] + up B[l]' delta[l+1] - down e[l], 0, 127)              `steps` times, all layers at once
    G[l] = -delta[l+1] rates[l]'                                              of weight and feedback alike

A prediction above what int8 holds is an error too: what no rate can follow must come down again.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from edgerun.arrays import I8, I32, I64, Tensors
from edgerun.errors import SpecError
from edgerun.kernels import chain
from edgerun.learn import tape
from edgerun.learn.chain import copied
from edgerun.learn.settling import Posed, SettlingRule
from edgerun.learn.stages import Factors
from edgerun.rules.dense import PredictiveCoding
from edgerun.spec import Manifest


class PredictiveCodingRule(SettlingRule):
    """The rule bound to one bundle's layers."""

    def __init__(self, manifest: Manifest, tensors: Tensors, memory: Tensors | None = None) -> None:
        plan = manifest.learning.rule
        if not isinstance(plan, PredictiveCoding):
            raise SpecError("the bundle has no predictive plan")
        self.plan: PredictiveCoding = plan
        memory = tape.room(manifest) if memory is None else memory
        super().__init__(manifest, tensors, plan, memory)
        self._feedback = [cast(I8, tensors[f"{name}.feedback"]) for name in plan.layers[1:]]
        self._wide = [memory[f"carrier.{name}.feedback"] for name in plan.layers[1:]]

    def factors(self, posed: Posed, error: I32) -> dict[str, Factors]:
        """What each layer lacks after inference, as factors of its weight and of its feedback."""
        net, plan = self._net, self.plan
        net.start()
        for h in net.h:
            np.clip(h, 0, chain.TOP, out=h)
        feedback = [copied(wide, matrix) for wide, matrix in zip(self._wide, self._feedback, strict=True)]
        for _ in range(plan.steps):
            errors, deltas = self._errors(posed)
            for layer, h in enumerate(net.h):
                moved = net.hear_through(layer, feedback[layer], deltas[layer + 1])
                chain.scaled(moved, moved, plan.up)
                chain.scaled(errors[layer], errors[layer], plan.down)
                h += moved - errors[layer]
                np.clip(h, 0, chain.TOP, out=h)
            for layer, h in enumerate(net.h):
                chain.rates_of(net.rates[layer + 1], h)
            net.predict()
        net.histories(self._errors(posed)[1])
        return net.factors()

    def _errors(self, posed: Posed) -> tuple[list[I64], list[I64]]:
        """e of the hidden layers, and delta of all, as the rates stand."""
        net = self._net
        errors = [h - np.maximum(p, 0) for h, p in zip(net.h, net.p, strict=True)]
        deltas = [np.where(p > 0, e, 0) for e, p in zip(errors, net.p, strict=True)]
        return errors, [*deltas, net.lack(posed)]
