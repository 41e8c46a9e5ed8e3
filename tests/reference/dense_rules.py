"""Learning rules of dense stacks in float64, from their equations. Rows are samples: x (batch, n), one label a row.

    h[0] = x;   h[l+1] = W[l] f(h[l]) + b[l]        f the identity on the input, ReLU above;   p = softmax(h[L])

Backpropagation; IL-prox (Alonso, Millidge, Krichmar, Neftci 2022); sequential inference learning with MQ (Alonso,
Krichmar, Neftci 2024); predictive coding with rates that stay positive and feedback of its own (Alonso, Neftci 2021).
Every rule gives descent gradients (dW, db) a layer; `sgd`, `Mq` and `Adam` make steps of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from edgerun.arrays import F64, I64, Bool


@dataclass
class Net:
    """weight[l] (out, in), bias[l] (out,)."""

    weight: list[F64]
    bias: list[F64]

    @property
    def depth(self) -> int:
        return len(self.weight)

    @classmethod
    def he(cls, sizes: tuple[int, ...], rng: np.random.Generator) -> Net:
        pairs = list(pairwise(sizes))
        return cls([rng.normal(0, np.sqrt(2 / m), (n, m)) for m, n in pairs], [np.zeros(n) for _, n in pairs])


class Gradients(NamedTuple):
    """What a step descends along, a layer."""

    weight: list[F64]
    bias: list[F64]


def relu(h: F64) -> F64:
    return np.maximum(h, 0.0)


def softmax(h: F64) -> F64:
    e: F64 = np.exp(h - h.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def onehot(label: I64, classes: int) -> F64:
    return np.eye(classes)[label]


def rates(h: list[F64]) -> list[F64]:
    """f(h[l]) of all layers but the last: what each weight matrix reads."""
    return [h[0], *(relu(part) for part in h[1:-1])]


def forward(net: Net, x: F64) -> list[F64]:
    """h[0] to h[L]."""
    h = [x]
    for layer, (weight, bias) in enumerate(zip(net.weight, net.bias, strict=True)):
        h.append((relu(h[-1]) if layer else x) @ weight.T + bias)
    return h


def predict(net: Net, x: F64) -> I64:
    return forward(net, x)[-1].argmax(axis=-1)


def outer(errors: list[F64], sources: list[F64]) -> Gradients:
    """mean over the batch of e[l+1] f(h[l])', and of e[l+1]."""
    count = len(sources[0])
    return Gradients([e.T @ f / count for e, f in zip(errors, sources, strict=True)], [e.mean(axis=0) for e in errors])


def backprop(net: Net, x: F64, label: I64, in_play: Bool | None = None) -> Gradients:
    """in_play  (k,)  classes that the softmax is over; None: all"""
    h = forward(net, x)
    top = h[-1] if in_play is None else np.where(in_play, h[-1], -1e32)
    delta = (softmax(top) - onehot(label, top.shape[1])).astype(x.dtype)
    deltas = [delta]
    for layer in range(net.depth - 1, 0, -1):
        delta = (delta @ net.weight[layer]) * (h[layer] > 0)
        deltas.insert(0, delta)
    return outer(deltas, rates(h))


# ------------------------------------------------------------------ inference learning


def predictions(net: Net, h: list[F64]) -> list[F64]:
    """p[1] to p[L] of the activities as they stand."""
    return [f @ w.T + b for f, w, b in zip(rates(h), net.weight, net.bias, strict=True)]


def errors(h: list[F64], p: list[F64]) -> list[F64]:
    """e[l] = h[l] - p[l] for l = 1 to L - 1, and h[L] - softmax(p[L])."""
    return [*(a - b for a, b in zip(h[1:-1], p[:-1], strict=True)), h[-1] - softmax(p[-1])]


@dataclass(frozen=True)
class IlProx:
    """Inference learning whose weights move to fit each layer's own target: alpha acts through the output target."""

    alpha: float
    damping: float = 0.25  # eps
    steps: int = 12
    up: float = 0.025  # g_bot, of the error that comes back from the layer above
    down: float = 0.025  # g_top, of a layer's own error

    def settle(self, net: Net, x: F64, label: I64) -> list[F64]:
        """h[0] to h[L] after inference."""
        h, target = forward(net, x), onehot(label, len(net.bias[-1]))
        h[-1] = self._clamp(h, predictions(net, h)[-1], target)
        for _ in range(self.steps):
            e = errors(h, predictions(net, h))
            for layer in range(1, net.depth):
                back = (h[layer] > 0) * (e[layer] @ net.weight[layer])
                h[layer] = h[layer] - self.down * e[layer - 1] + self.up * back
            h[-1] = self._clamp(h, predictions(net, h)[-1], target)
        return h

    def _clamp(self, h: list[F64], top: F64, target: F64) -> F64:
        gain = self.alpha * (float((rates(h)[-1] ** 2).sum(axis=1).mean()) + self.damping)
        share = gain / (1 + gain)
        return share * target + (1 - share) * softmax(top)

    def gradients(self, net: Net, x: F64, label: I64) -> Gradients:
        """Minus the step itself: it has no learning rate."""
        h = self.settle(net, x, label)
        found = outer([-e for e in errors(h, predictions(net, h))], rates(h))
        norms = [float((f**2).sum(axis=1).mean()) + 1 + self.damping for f in rates(h)]
        return Gradients(
            [g / n for g, n in zip(found.weight, norms, strict=True)],
            [g / n for g, n in zip(found.bias, norms, strict=True)],
        )


@dataclass(frozen=True)
class Sequential:
    """Inference learning from the top layer to the bottom, the newest values used at once; or all at once."""

    steps: int = 3
    gain: float = 0.05
    beta: float = 100.0
    at_once: bool = False

    def settle(self, net: Net, x: F64, label: I64) -> list[F64]:
        target = onehot(label, len(net.bias[-1]))
        share = 1 / (1 + self.beta)
        h = forward(net, x)
        h[-1] = (1 - share) * target + share * softmax(h[-1])
        for step in range(self.steps):
            gain = self.gain / (1 + step)
            e = errors(h, predictions(net, h))
            for layer in range(net.depth - 1, 0, -1):
                if not self.at_once:
                    e = errors(h, predictions(net, h))
                h[layer] = h[layer] + gain * ((h[layer] > 0) * (e[layer] @ net.weight[layer]) - e[layer - 1])
            h[-1] = (1 - share) * target + share * softmax(predictions(net, h)[-1])
        return h

    def gradients(self, net: Net, x: F64, label: I64) -> Gradients:
        h = self.settle(net, x, label)
        return outer([-e for e in errors(h, predictions(net, h))], rates(h))


@dataclass(frozen=True)
class PredictiveCoding:
    """Rates a[l] >= 0, one-way synapses: errors come back through `feedback`, which never reads a forward weight.

    a[l] <- max(0, a[l] + up * B[l] e[l+1] f'(p[l+1]) - down * (a[l] - f(p[l])));   dW[l] = e[l+1] f'(p[l+1]) a[l]'

    tops  a hidden layer, what its rates come to at most, as those of integers do; predictions have no such end
    """

    steps: int = 20
    up: float = 0.1
    down: float = 0.1
    tops: tuple[float, ...] = ()

    def gradients(self, net: Net, feedback: list[F64], x: F64, label: I64) -> Gradients:
        """feedback[l]  (out, in), laid out like weight[l]"""
        a, tops = [x], self.tops or (np.inf,) * (net.depth - 1)
        for layer, top in enumerate(tops):
            a.append(np.clip(a[-1] @ net.weight[layer].T + net.bias[layer], 0, top))
        target = onehot(label, len(net.bias[-1]))
        for _ in range(self.steps):
            e, delta = self._errors(net, a, target)
            for layer, top in enumerate(tops, start=1):
                moved = self.up * (delta[layer] @ feedback[layer]) - self.down * e[layer - 1]
                a[layer] = np.clip(a[layer] + moved, 0, top)
        return outer([-d for d in self._errors(net, a, target)[1]], a)

    def _errors(self, net: Net, a: list[F64], target: F64) -> tuple[list[F64], list[F64]]:
        p = [f @ w.T + b for f, w, b in zip(a, net.weight, net.bias, strict=True)]
        e = [*(rate - relu(part) for rate, part in zip(a[1:], p[:-1], strict=True)), target - softmax(p[-1])]
        return e, [*(part * (q > 0) for part, q in zip(e[:-1], p[:-1], strict=True)), e[-1]]


def kolen_pollack(net: Net, feedback: list[F64], found: Gradients, rate: float, decay: float) -> None:
    """The same step for weight and feedback, both decayed: they meet however far apart they began."""
    for weight, back, g in zip(net.weight, feedback, found.weight, strict=True):
        for matrix in (weight, back):
            matrix -= rate * (g + decay * matrix)


# ------------------------------------------------------------------ steps


def sgd(net: Net, found: Gradients, rate: float, *, biases: bool = True) -> None:
    for layer in range(net.depth):
        net.weight[layer] = net.weight[layer] - rate * found.weight[layer]
        if biases:
            net.bias[layer] = net.bias[layer] - rate * found.bias[layer]


@dataclass
class Mq:
    """Each layer's step over its own mean absolute gradient: a number a layer is all the state.

    biases  whether they learn, and count in the mean
    """

    alpha: float
    biases: bool = True
    least: float = 1e-3
    decay: float = 0.9999
    floor: float = 1e-6
    mean: list[float] = field(default_factory=list)
    updates: int = 0

    def step(self, net: Net, found: Gradients) -> None:
        self.mean = self.mean or [self.alpha] * net.depth
        for layer, (g, d) in enumerate(zip(found.weight, found.bias, strict=True)):
            rate = self.alpha / (self.mean[layer] + self.floor) + self.least
            net.weight[layer] = net.weight[layer] - rate * g
            if self.biases:
                net.bias[layer] = net.bias[layer] - rate * d
            kept = min(self.updates / (self.updates + 1), self.decay)
            size = float(np.abs(np.concatenate([g.reshape(-1), d]) if self.biases else g).mean())
            self.mean[layer] = kept * self.mean[layer] + (1 - kept) * size
        self.updates += 1


@dataclass
class Adam:
    """Two numbers a weight."""

    rate: float
    first: float = 0.9
    second: float = 0.999
    moments: list[list[F64]] = field(default_factory=list)
    updates: int = 0

    def step(self, net: Net, found: Gradients) -> None:
        places = [*net.weight, *net.bias]
        self.moments = self.moments or [[np.zeros_like(place) for place in places] for _ in range(2)]
        self.updates += 1
        for place, g, m, v in zip(places, [*found.weight, *found.bias], *self.moments, strict=True):
            m += (1 - self.first) * (g - m)
            v += (1 - self.second) * (g * g - v)
            mean, square = m / (1 - self.first**self.updates), v / (1 - self.second**self.updates)
            place -= self.rate * mean / (np.sqrt(square) + 1e-8)
