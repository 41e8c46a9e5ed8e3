"""e-prop in float64, three ways: as the paper writes it, with its filter run backwards, and as a reverse derivative.

Bellec et al. 2020, Methods. i presynaptic, j postsynaptic, k class; the loss is the cross entropy after the last step.

    b_j[t] = rho b_j[t-1] + z_j[t-1]              A_j[t] = v_th + beta_j b_j[t]
    v_j[t] = alpha v_j[t-1] + sum_i W_ij x_i[t] + sum_i R_ij z_i[t-1] - v_th z_j[t-1]
    z_j[t] = [v_j[t] >= A_j[t]]                   psi_j[t] = gamma / v_th * max(0, 1 - |v_j[t] - A_j[t]| / v_th)
    y_k[t] = kappa y_k[t-1] + sum_j O_jk z_j[t]   loss = -log softmax(y[T])_label

The reset and the way through other neurons' spikes are not differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edgerun.arrays import F64


@dataclass(frozen=True)
class Net:
    """W (m, n), R (n, n), O (n, k); beta (n,) all zero for plain LIF."""

    w: F64
    r: F64
    o: F64
    alpha: float
    kappa: float
    rho: F64
    beta: F64
    threshold: float = 1.0
    gamma: float = 0.3


class Window(NamedTuple):
    """What happened: x (T, m), late = z one step late (T, n), z (T, n), psi (T, n), y (k,) after the last step."""

    x: F64
    late: F64
    z: F64
    psi: F64
    y: F64


class Gradients(NamedTuple):
    w: F64
    r: F64
    o: F64


def run(net: Net, x: F64, forced: F64 | None = None) -> Window:
    """One window. `forced` (T, n): spikes to take as given, whatever the membranes say."""
    steps, n = len(x), len(net.beta)
    v, b, z, y = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(net.o.shape[1])
    spikes, psi, late = (np.zeros((steps, n)) for _ in range(3))
    for t in range(steps):
        late[t] = z
        b = net.rho * b + z
        v = net.alpha * v + x[t] @ net.w + z @ net.r - net.threshold * z
        margin = v - (net.threshold + net.beta * b)
        z = (margin >= 0).astype(float) if forced is None else forced[t]
        psi[t] = net.gamma / net.threshold * np.maximum(0, 1 - np.abs(margin) / net.threshold)
        spikes[t] = z
        y = net.kappa * y + z @ net.o
    return Window(x, late, spikes, psi, y)


def error_of(y: F64, label: int) -> F64:
    p: F64 = np.exp(y - y.max()) / np.exp(y - y.max()).sum()
    return p - np.eye(len(y))[label]


def as_the_paper_writes_it(net: Net, window: Window, error: F64) -> Gradients:
    """One eligibility a synapse, every step; the readout's filter runs forwards over eligibilities."""
    signal = net.o @ error
    found = []
    for pre in (window.x, window.late):
        trace, m, n = np.zeros(pre.shape[1]), pre.shape[1], len(net.beta)
        epsilon_a, filtered = np.zeros((m, n)), np.zeros((m, n))
        for t in range(len(pre)):
            trace = net.alpha * trace + pre[t]
            psi = window.psi[t]
            eligibility = psi * (trace[:, None] - net.beta * epsilon_a)
            epsilon_a = psi * trace[:, None] + (net.rho - net.beta * psi) * epsilon_a
            filtered = net.kappa * filtered + eligibility
        found.append(filtered * signal)
    return Gradients(found[0], found[1], np.outer(filtered_spikes(net, window), error))


def deferred(net: Net, window: Window, error: F64) -> Gradients:
    """What the device does: the filter runs backwards over the learning signal, with one adjoint a neuron."""
    steps, n = window.psi.shape
    post, signal, adjoint = np.zeros((steps, n)), np.zeros(n), np.zeros(n)
    for t in range(steps - 1, -1, -1):
        signal = net.kappa * signal + (net.o @ error if t == steps - 1 else 0.0)
        psi = window.psi[t]
        post[t] = psi * (signal - net.beta * adjoint)
        adjoint = psi * signal + (net.rho - net.beta * psi) * adjoint
    traces = [filtered(pre, net.alpha) for pre in (window.x, window.late)]
    return Gradients(traces[0].T @ post, traces[1].T @ post, np.outer(filtered_spikes(net, window), error))


def reverse_mode(net: Net, window: Window, error: F64) -> Gradients:
    """The chain rule by hand, from the loss backwards through y, z, v, A and b."""
    steps, n = window.psi.shape
    dw, dr, do = np.zeros_like(net.w), np.zeros_like(net.r), np.zeros_like(net.o)
    dy, dv, db = error.copy(), np.zeros(n), np.zeros(n)
    for t in range(steps - 1, -1, -1):
        do += np.outer(window.z[t], dy)
        dz = net.o @ dy + db  # z[t] feeds y[t] and b[t+1]; recurrent spikes and the reset are detached
        dv = window.psi[t] * dz + net.alpha * dv
        db = -net.beta * window.psi[t] * dz + net.rho * db
        dw += np.outer(window.x[t], dv)
        dr += np.outer(window.late[t], dv)
        dy = net.kappa * dy
    return Gradients(dw, dr, do)


def filtered(x: F64, decay: float) -> F64:
    """The exponential trace of each column after each step."""
    out, state = np.zeros_like(x), np.zeros(x.shape[1])
    for t in range(len(x)):
        state = decay * state + x[t]
        out[t] = state
    return out


def filtered_spikes(net: Net, window: Window) -> F64:
    return filtered(window.z, net.kappa)[-1]


def cosine(a: F64, b: F64) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
