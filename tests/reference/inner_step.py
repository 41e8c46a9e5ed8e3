"""The inner step of a readout in float64, from the equations of Stewart, Neftci 2022.

P[t] = kappa P[t-1] + x[t]        U = W P[T] + b * (1 + kappa + ...)        loss = -log softmax(U)_label
dW = P[T] (softmax(U) - onehot)^T, errors of at most theta left out
"""

from __future__ import annotations

import numpy as np

from edgerun.arrays import F64, Bool


def traces(x: F64, kappa: float) -> F64:
    """P[T] (m,) of spikes or values x (T, m)."""
    found = np.zeros(x.shape[1])
    for row in x:
        found = kappa * found + row
    return found


def logits(w: F64, b: F64, x: F64, kappa: float) -> F64:
    """U (k,) of weights (m, k), stepped in time as the network does."""
    y = np.zeros(w.shape[1])
    for row in x:
        y = kappa * y + row @ w + b
    return y


def error(u: F64, label: int, in_play: Bool, theta: float = 0.0) -> F64:
    p = np.where(in_play, np.exp(u - u[in_play].max()), 0.0)
    e: F64 = p / p.sum() - (np.arange(len(u)) == label)
    return np.where(np.abs(e) <= theta, 0.0, e)


def step(w: F64, p: F64, e: F64, rate: float) -> F64:
    """The weights (m, k) after one step."""
    changed: F64 = w - rate * np.outer(p, e)
    return changed
