"""scikit-learn's bundled handwritten digits, split once for every example: what the factory saw, and what it never did.

    factory   640 images of the digits 0 to 7: training, calibration, probe, exemplars
    field     the other 797 images of 0 to 7 and all of 8 and 9: streams, corrections, lessons and every test

Images are 8 x 8 with values 0 to 16 (E. Alpaydin, C. Kaynak; UCI "Optical Recognition of Handwritten Digits").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

FACTORY_CLASSES = 8
FACTORY_IMAGES = 640
SPLIT_SEED = 0


@dataclass(frozen=True)
class Digits:
    """x (n, 64) uint8 in [0, 16], y (n,) int64."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]


def load() -> tuple[Digits, Digits]:
    """(factory, field)."""
    x, y = load_digits(return_X_y=True)
    x, y = x.astype(np.uint8), y.astype(np.int64)
    old = np.random.default_rng(SPLIT_SEED).permutation(np.flatnonzero(y < FACTORY_CLASSES))
    factory = old[:FACTORY_IMAGES]
    field = np.concatenate([old[FACTORY_IMAGES:], np.flatnonzero(y >= FACTORY_CLASSES)])
    return Digits(x[factory], y[factory]), Digits(x[field], y[field])
