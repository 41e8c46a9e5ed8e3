"""SuperSpike in float64: as the paper writes it, one double-exponential eligibility a synapse that runs forwards, and
as the device does it, with the eligibility's filters run backwards on the error; and RMaxProp.

Zenke and Ganguli 2018, equations 2 to 5 of the rule; i presynaptic, j postsynaptic, o output, one step a unit of time.

    s_i <- alpha s_i + x_i;   q_i <- decay q_i + s_i                       a spike through current and membrane
    I_j <- alpha I_j + sum_i W_ij x_i;   v_j <- decay v_j + I_j - threshold z_j;   z_j = [v_j >= threshold]
    psi_j = 1 / (1 + |v_j - threshold| / width)**2
    e1_ji <- rise e1_ji + (1 - rise) psi_j q_i;   e2_ji <- fall e2_ji + (1 - fall) e1_ji
    raw_o = z_o - target_o;   err = the same two filters of raw, of sum_o F_jo raw_o below the last population
    G_ji = sum_t err_j e2_ji                                               the slope of 1/2 sum_t (kernel * raw)**2
    v_ji <- max(G_ji**2, gamma v_ji);   W_ji <- W_ji - eta G_ji / sqrt(v_ji)                            RMaxProp
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edgerun.arrays import F64


@dataclass(frozen=True)
class Times:
    """exp(-dt / tau) of the synaptic current, the membrane, and the kernel's two filters; the surrogate's width."""

    alpha: float
    decay: float
    rise: float
    fall: float
    width: float = 0.125
    threshold: float = 1.0


class Window(NamedTuple):
    """Of each population: pre (T, m), psi (T, n), z (T, n)."""

    pre: list[F64]
    psi: list[F64]
    z: list[F64]


def run(times: Times, weights: list[F64], x: F64, forced: list[F64] | None = None) -> Window:
    """One window of populations in a row. `forced`: spikes to take as given, whatever the membranes say."""
    steps = len(x)
    found = Window([], [], [])
    pre = x
    for k, w in enumerate(weights):
        n = w.shape[1]
        current, v, z = np.zeros(n), np.zeros(n), np.zeros(n)
        psi, spikes, drive = np.zeros((steps, n)), np.zeros((steps, n)), pre @ w
        for t in range(steps):
            current = times.alpha * current + drive[t]
            v = times.decay * v + current - times.threshold * z
            z = (v >= times.threshold).astype(float) if forced is None else forced[k][t]
            psi[t], spikes[t] = 1 / (1 + np.abs(v - times.threshold) / times.width) ** 2, z
        found.pre.append(pre)
        found.psi.append(psi)
        found.z.append(spikes)
        pre = spikes
    return found


def smooth(x: F64, decay: float, *, backwards: bool = False) -> F64:
    """The convex exponential filter of each column, from rest."""
    out, state = np.zeros_like(x), np.zeros(x.shape[1])
    for t in range(len(x) - 1, -1, -1) if backwards else range(len(x)):
        state = decay * state + (1 - decay) * x[t]
        out[t] = state
    return out


def kernel(raw: F64, times: Times) -> F64:
    """The van Rossum kernel."""
    return smooth(smooth(raw, times.rise), times.fall)


def distance(raw: F64, times: Times) -> float:
    return float((kernel(raw, times) ** 2).sum())


def potentials(pre: F64, times: Times) -> F64:
    """q (T, m)."""
    return smooth(smooth(pre, times.alpha), times.decay) / ((1 - times.alpha) * (1 - times.decay))


def signals(raw: F64, feedback: list[F64], *, chained: bool) -> list[F64]:
    """raw of every population. feedback: (n, k) of each but the last; chained: each applies to the one above it."""
    found = [raw]
    for matrix in reversed(feedback):
        found.insert(0, (found[0] if chained else raw) @ matrix.T)
    return found


def as_the_paper_writes_it(times: Times, pre: F64, psi: F64, raw: F64) -> F64:
    """G (m, n) of one population with one eligibility a synapse."""
    q, error = potentials(pre, times), kernel(raw, times)
    first, second, found = (np.zeros((pre.shape[1], psi.shape[1])) for _ in range(3))
    for t in range(len(pre)):
        first = times.rise * first + (1 - times.rise) * np.outer(q[t], psi[t])
        second = times.fall * second + (1 - times.fall) * first
        found += error[t] * second
    return found


def deferred(times: Times, pre: F64, psi: F64, raw: F64) -> F64:
    """The same with the eligibility's filters on the error, backwards: a product of two histories."""
    error = kernel(raw, times)
    back = smooth(smooth(error, times.fall, backwards=True), times.rise, backwards=True)
    return potentials(pre, times).T @ (psi * back)


class RMaxProp:
    """Steps in units of the largest gradient that each weight has met."""

    def __init__(self, shape: tuple[int, ...], eta: float, gamma: float, floor: float = 0.0) -> None:
        self.eta, self.gamma, self.floor, self.v = eta, gamma, floor, np.zeros(shape)

    def step(self, gradient: F64) -> F64:
        """What to add to the weights."""
        self.v = np.maximum(gradient**2, self.gamma * self.v)
        largest = np.maximum(np.sqrt(self.v), self.floor)
        return -self.eta * np.divide(gradient, largest, out=np.zeros_like(gradient), where=largest > 0)


def cosine(a: F64, b: F64) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
