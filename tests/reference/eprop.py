"""e-prop in float64, three ways: as the paper writes it, with its filter run backwards, and as a reverse derivative;
beside them the derivative that nothing is left out of, in reverse and, by real-time recurrent learning, forwards.

Bellec et al. 2020, Methods; Williams and Zipser 1989. i presynaptic, j postsynaptic, k class; the loss is the sum of
cross entropies after the steps that have a target, and of c / 2 (f_j - f*)**2 of the rate f_j of each neuron.

    b_j[t] = rho b_j[t-1] + z_j[t-1]              A_j[t] = v_th + beta_j b_j[t]
    v_j[t] = alpha v_j[t-1] + sum_i W_ij x_i[t] + sum_i R_ij z_i[t-1] - v_th z_j[t-1]
    z_j[t] = [v_j[t] >= A_j[t]]                   psi_j[t] = gamma / v_th * max(0, 1 - |v_j[t] - A_j[t]| / v_th)
    y_k[t] = kappa y_k[t-1] + sum_j O_jk z_j[t]   error[t] = softmax(y[t]) - onehot, or 0
    L_j[t] = sum_k B_jk error_k[t]                B = O (symmetric) or any other matrix
    push_j = c (f_j - f*) / T                     f_j = sum_t z_j[t] / T

The reset is not differentiated. Nor is the way through other neurons' spikes, except where `recurrent` says so.
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


def at_end(error: F64, steps: int) -> F64:
    """Errors (T, k) of a loss on the last step alone, or on as many as `error` has rows."""
    rows = np.atleast_2d(error)
    return np.concatenate([np.zeros((steps - len(rows), rows.shape[1])), rows])


def outputs(net: Net, z: F64) -> F64:
    """y (T, k) after each step."""
    return filtered(z @ net.o, net.kappa)


def rate_push(z: F64, cost: float, target: float) -> F64:
    """push (n,) of the firing rates: the derivative of cost / 2 * sum_j (f_j - target)**2 by any z_j[t]."""
    return cost * (z.mean(axis=0) - target) / len(z)


def as_the_paper_writes_it(
    net: Net, window: Window, error: F64, feedback: F64 | None = None, push: F64 | float = 0.0
) -> Gradients:
    """One eligibility a synapse, every step; the readout's filter runs forwards over eligibilities."""
    errors = at_end(error, len(window.psi))
    signal = errors @ (net.o if feedback is None else feedback).T
    found = []
    for pre in (window.x, window.late):
        trace, m, n = np.zeros(pre.shape[1]), pre.shape[1], len(net.beta)
        epsilon_a, smooth, gradient = np.zeros((m, n)), np.zeros((m, n)), np.zeros((m, n))
        for t in range(len(pre)):
            trace = net.alpha * trace + pre[t]
            psi = window.psi[t]
            eligibility = psi * (trace[:, None] - net.beta * epsilon_a)
            epsilon_a = psi * trace[:, None] + (net.rho - net.beta * psi) * epsilon_a
            smooth = net.kappa * smooth + eligibility
            gradient += signal[t] * smooth + push * eligibility
        found.append(gradient)
    return Gradients(found[0], found[1], filtered(window.z, net.kappa).T @ errors)


def deferred(net: Net, window: Window, error: F64, feedback: F64 | None = None, push: F64 | float = 0.0) -> Gradients:
    """What the device does: the filter runs backwards over the learning signal, with one adjoint a neuron."""
    steps, n = window.psi.shape
    errors = at_end(error, steps)
    signals = errors @ (net.o if feedback is None else feedback).T
    post, smooth, adjoint = np.zeros((steps, n)), np.zeros(n), np.zeros(n)
    for t in range(steps - 1, -1, -1):
        smooth = net.kappa * smooth + signals[t]
        signal, psi = smooth + push, window.psi[t]
        post[t] = psi * (signal - net.beta * adjoint)
        adjoint = psi * signal + (net.rho - net.beta * psi) * adjoint
    traces = [filtered(pre, net.alpha) for pre in (window.x, window.late)]
    return Gradients(traces[0].T @ post, traces[1].T @ post, filtered(window.z, net.kappa).T @ errors)


def reverse_mode(
    net: Net, window: Window, error: F64, push: F64 | float = 0.0, *, recurrent: bool = False
) -> Gradients:
    """The chain rule by hand, from the loss backwards through y, z, v, A and b; `recurrent`: through R as well."""
    steps, n = window.psi.shape
    errors = at_end(error, steps)
    dw, dr, do = np.zeros_like(net.w), np.zeros_like(net.r), np.zeros_like(net.o)
    dy, dv, db = np.zeros(errors.shape[1]), np.zeros(n), np.zeros(n)
    for t in range(steps - 1, -1, -1):
        dy = net.kappa * dy + errors[t]
        do += np.outer(window.z[t], dy)
        dz = net.o @ dy + db + push  # z[t] feeds y[t] and b[t+1]
        if recurrent:
            dz = dz + net.r @ dv  # and v[t+1] of all neurons
        dv = window.psi[t] * dz + net.alpha * dv
        db = -net.beta * window.psi[t] * dz + net.rho * db
        dw += np.outer(window.x[t], dv)
        dr += np.outer(window.late[t], dv)
    return Gradients(dw, dr, do)


def real_time(net: Net, window: Window, error: F64, *, recurrent: bool = True) -> Gradients:
    """Forward mode: the derivative of every state by every weight, exact; without `recurrent`, its block diagonal.

        Pb <- rho Pb + Pz;   Pv <- alpha Pv + F + R' Pz;   Pz <- psi (Pv - beta Pb);   Py <- kappa Py + O' Pz

    n * n * (m + n) numbers: for small nets.
    """
    (m, n), (steps, k) = net.w.shape, (len(window.x), net.o.shape[1])
    errors = at_end(error, steps)
    unit = np.eye(n)
    pv, pb, pz = (np.zeros((n, (m + n) * n)) for _ in range(3))
    py, gradient = np.zeros((k, (m + n) * n)), np.zeros((m + n) * n)
    for t in range(steps):
        direct = np.einsum("i,jk->jik", np.concatenate([window.x[t], window.late[t]]), unit).reshape(n, -1)
        pb = net.rho[:, None] * pb + pz
        pv = net.alpha * pv + direct + (net.r.T @ pz if recurrent else 0.0)
        pz = window.psi[t][:, None] * (pv - net.beta[:, None] * pb)
        py = net.kappa * py + net.o.T @ pz
        gradient += errors[t] @ py
    both = gradient.reshape(m + n, n)
    return Gradients(both[:m], both[m:], filtered(window.z, net.kappa).T @ errors)


def filtered(x: F64, decay: float) -> F64:
    """The exponential trace of each column after each step."""
    out, state = np.zeros_like(x), np.zeros(x.shape[1])
    for t in range(len(x)):
        state = decay * state + x[t]
        out[t] = state
    return out


def cosine(a: F64, b: F64) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
