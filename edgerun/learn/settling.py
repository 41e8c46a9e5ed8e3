"""Inference in a chain of dense layers: activities that move until each layer agrees with the one below and above.

    p[l+1] = W[l] rates[l] + b[l];   rates = clip(h, 0, 127), the input's its own        2**12 to an int8 step
    e[l]   = h[l] - p[l], hidden;    at the top what a label lacks of the softmax         Q0.15

The input stands still, so what it tells the first layer is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from edgerun.arrays import F64, I16, I32, I64, Bool, Tensors
from edgerun.kernels import chain, softmax
from edgerun.kernels.spiking import I16_MAX, I16_MIN
from edgerun.learn import tape
from edgerun.learn.chain import Chain, copied
from edgerun.network import Network
from edgerun.rules.dense import SettlingRecord
from edgerun.spec import Manifest


@dataclass(slots=True)
class Posed:
    """One sample, and once the error has been taken, the label that asks the question.

    logits  (k,)  int64  the last layer's accumulators
    """

    logits: I64
    label: int = 0


class Settling(Chain):
    """A chain with what inference needs: requantisation constants, and memory for activities.

    h      (n,)  int64  a hidden layer's activity, `rates` what it gives     p  (n,)  int64  what it is told to be
    rates  (n,)  int16  2**8 to an int8 step; first of all the input's
    """

    def __init__(self, manifest: Manifest, tensors: Tensors, plan: SettlingRecord, memory: Tensors) -> None:
        super().__init__(manifest, tensors, plan, memory)
        self._backs = plan.backs
        self._scales = [
            (int(tensors[f"{name}.multiplier"][0]), int(tensors[f"{name}.shift"][0])) for name in plan.layers
        ]
        self.h, self.p, self.pull = (
            [cast(I64, memory[f"settle.{name}.{part}"]) for name in plan.layers[:-1]]
            for part in ("activity", "prediction", "pull")
        )
        self.rates: list[I16] = [read[0] for read in self.reads]
        self._wide = [cast(F64, memory[f"carrier.{name}.weight"]) for name in plan.layers]
        self.top = cast(I64, memory["settle.top"])
        self._error, self._in_play = cast(I32, memory["settle.softmax"]), cast(Bool, memory["settle.in_play"])

    def wide(self, layer: int) -> F64:
        return copied(self._wide[layer], self.weights[layer])

    def pose(self, network: Network, q: I16) -> Posed:
        """Run one sample.    q  (size,)"""
        self.record(network, q)
        np.left_shift(self.rates[0], chain.RATE, out=self.rates[0])
        return Posed(self.logits)

    def ask(self, error: I32, posed: Posed, label: int, in_play: Bool) -> int:
        """The error before inference, p(label); the label is kept for inference.    error, in_play  (k,)"""
        posed.label = label
        np.copyto(self._in_play, in_play)
        return softmax.softmax_error(error, posed.logits, self.plan.temperature_shift, in_play, label)

    def start(self) -> None:
        """Take the weights as they stand; activities as the input makes them, so that no layer disagrees yet."""
        for layer in range(len(self.layers)):
            self.wide(layer)
        for layer, h in enumerate(self.h):
            self._tell(layer)
            h[...] = self.p[layer]
            chain.rates_of(self.rates[layer + 1], h)

    def predict(self) -> None:
        """p of the hidden layers above the first, from the rates as they stand."""
        for layer in range(1, len(self.h)):
            self._tell(layer)

    def _tell(self, layer: int) -> None:
        multiplier, shift = self._scales[layer]
        chain.predictions(self.p[layer], self._wide[layer], self.rates[layer], self.biases[layer], multiplier, shift)

    def lack(self, posed: Posed) -> I64:
        """onehot - softmax of the top as the activities stand, over the classes in play, Q0.15.    (k,)"""
        bias = np.int64(1 << chain.RATE) * self.biases[-1]
        chain.layer_sums(self.top, self._wide[-1], self.rates[-1], bias)
        shift = self.plan.temperature_shift + chain.RATE
        softmax.softmax_error(self._error, self.top, shift, self._in_play, posed.label)
        return np.negative(self._error, out=self.top)

    def hear(self, layer: int, error: I64) -> I64:
        """What hidden layer `layer` hears of the error of the layer above it, where it is active.    (n,)"""
        self.hear_through(layer, self._wide[layer + 1], error)
        self.pull[layer][self.h[layer] <= 0] = 0
        return self.pull[layer]

    def hear_through(self, layer: int, weights: F64, error: I64) -> I64:
        """The same through any weights (above, n), whether it is active or not.    (n,)"""
        gain = self._backs[layer]
        chain.spread(self.pull[layer], weights, error, gain.multiplier, gain.shift)
        return self.pull[layer]

    def square(self, layer: int) -> int:
        """|rates|**2 of what a layer reads, in (2**-8 int8 steps)**2."""
        wide = self.rates[layer].astype(np.int64)
        return int(wide @ wide)

    def histories(self, errors: list[I64]) -> None:
        """Errors <- -e of each layer: sat16; 2**10 to an int8 step of a hidden layer, Q0.15 at the top.

        errors  e[1] to e[L]
        """
        last = self.plan.layers[-1]
        for name, error in zip(self.plan.layers, errors, strict=True):
            if name in self.errors:
                wide = -error if name == last else 2 - error >> 2
                np.clip(wide, I16_MIN, I16_MAX, out=self.errors[name][0], casting="unsafe")


class SettlingRule:
    """What the rules of settling chains share. Activities are scratch: nothing of one lesson reaches the next."""

    def __init__(self, manifest: Manifest, tensors: Tensors, plan: SettlingRecord, memory: Tensors | None) -> None:
        self._net = Settling(manifest, tensors, plan, tape.room(manifest) if memory is None else memory)

    def record(self, network: Network, q: I16) -> Posed:
        """Run one sample.    q  (size,)"""
        return self._net.pose(network, q)

    def error(self, error: I32, posed: Posed, label: int, in_play: Bool) -> int:
        """error <- p - onehot over the classes in play, Q0.15; returns p(label).    error, in_play  (k,)"""
        return self._net.ask(error, posed, label, in_play)
