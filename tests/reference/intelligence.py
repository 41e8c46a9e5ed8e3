"""Synaptic intelligence in float64, as Zenke, Poole and Ganguli (2017) write it. Weights in shadow LSB."""

from __future__ import annotations

import numpy as np

from edgerun.arrays import F64


class Path:
    """Credit along the way, stiffness at its end.

    omega += -g * dw;   at a boundary  Omega += max(0, omega) / ((w - w_ref)**2 + xi);  w_ref = w;  omega = 0
    """

    def __init__(self, weights: F64, damping: float) -> None:
        self.ref, self.damping = weights.copy(), damping
        self.omega, self.importance = np.zeros_like(weights), np.zeros_like(weights)

    def walk(self, gradient: F64, change: F64) -> None:
        self.omega += -gradient * change

    def arrive(self, weights: F64) -> None:
        self.importance += np.maximum(0, self.omega) / ((weights - self.ref) ** 2 + self.damping)
        self.ref = weights.copy()
        self.omega = np.zeros_like(weights)
