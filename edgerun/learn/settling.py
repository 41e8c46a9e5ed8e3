"""Inference in a chain of dense layers: activities that move until each layer agrees with the one below and above.

    p[l+1] = W[l] rates[l] + b[l];   rates = clip(h, 0, 127), the input's its own        2**12 to an int8 step
    e[l]   = h[l] - p[l], hidden;    at the top what a label lacks of the softmax         Q0.15

The input stands still, so what it tells the first layer is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgerun.arrays import F64, I16, I32, I64, Bool, Tensors
from edgerun.kernels import chain, softmax
from edgerun.kernels.spiking import I16_MAX, I16_MIN
from edgerun.learn.chain import Chain
from edgerun.network import Network
from edgerun.rules.dense import SettlingRecord
from edgerun.spec import Manifest


@dataclass(slots=True)
class Posed:
    """One sample, and once the error has been taken, the question that its label poses.

    x  (m,)  int16 input     logits  (k,)  int64  the last layer's accumulators
    """

    x: I16
    logits: I64
    label: int = 0
    in_play: Bool = field(default_factory=lambda: np.zeros(0, np.bool_))


class Settling(Chain):
    """A chain with what inference needs: requantisation constants, and room for activities.

    h      (n,)  int64  a hidden layer's activity, `rates` what it gives     p  (n,)  int64  what it is told to be
    rates  (n,)  int16  2**8 to an int8 step; first of all the input's
    """

    def __init__(self, manifest: Manifest, tensors: Tensors, plan: SettlingRecord) -> None:
        super().__init__(manifest, tensors, plan)
        self._backs = plan.backs
        self._scales = [
            (int(tensors[f"{name}.multiplier"][0]), int(tensors[f"{name}.shift"][0])) for name in plan.layers
        ]
        hidden = [layer.outputs for layer in self.layers[:-1]]
        self.h, self.p, self.pull = ([np.zeros(n, np.int64) for n in hidden] for _ in range(3))
        self.rates: list[I16] = [np.zeros(layer.inputs, np.int16) for layer in self.layers]
        self._wide: list[F64] = []
        self.top: I64 = np.zeros(self.layers[-1].outputs, np.int64)
        self._error: I32 = np.zeros(self.layers[-1].outputs, np.int32)

    def pose(self, network: Network, q: I16) -> Posed:
        """Run one sample.    q  (size,)"""
        passed = self.record(network, q)
        return Posed(passed.reads[0], passed.logits)

    def ask(self, error: I32, posed: Posed, label: int, in_play: Bool) -> int:
        """The error before inference, p(label); the label is kept for inference.    error, in_play  (k,)"""
        posed.label, posed.in_play = label, in_play.copy()
        return softmax.softmax_error(error, posed.logits, self.plan.temperature_shift, in_play, label)

    def start(self, x: I16) -> None:
        """Take the weights as they stand; activities as the input makes them, so that no layer disagrees yet."""
        self._wide = [self.wide(layer) for layer in range(len(self.layers))]
        np.left_shift(x, chain.RATE, out=self.rates[0])
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

    def lack(self, posed: Posed) -> I32:
        """onehot - softmax of the top as the activities stand, over the classes in play, Q0.15.    (k,)"""
        bias = np.int64(1 << chain.RATE) * self.biases[-1]
        chain.layer_sums(self.top, self._wide[-1], self.rates[-1], bias)
        shift = self.plan.temperature_shift + chain.RATE
        softmax.softmax_error(self._error, self.top, shift, posed.in_play, posed.label)
        return np.negative(self._error, out=self._error)

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

    def histories(self, errors: list[I64]) -> dict[str, I16]:
        """-e as a factor, by layer: sat16; 2**10 to an int8 step of a hidden layer, Q0.15 at the top.

        errors  e[1] to e[L]
        """
        found = {}
        for name, error in zip(self.plan.layers[:-1], errors[:-1], strict=True):
            found[name] = np.clip(2 - error >> 2, I16_MIN, I16_MAX).astype(np.int16)
        found[self.plan.layers[-1]] = np.clip(-errors[-1], I16_MIN, I16_MAX).astype(np.int16)
        return found


class SettlingRule:
    """What the rules of settling chains share. Activities are scratch: nothing of one lesson reaches the next."""

    def __init__(self, manifest: Manifest, tensors: Tensors, plan: SettlingRecord) -> None:
        self._net = Settling(manifest, tensors, plan)

    def record(self, network: Network, q: I16) -> Posed:
        """Run one sample.    q  (size,)"""
        return self._net.pose(network, q)

    def error(self, error: I32, posed: Posed, label: int, in_play: Bool) -> int:
        """error <- p - onehot over the classes in play, Q0.15; returns p(label).    error, in_play  (k,)"""
        return self._net.ask(error, posed, label, in_play)
