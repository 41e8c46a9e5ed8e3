"""scikit-learn's bundled handwritten digits, split once: for the factory, for the field, for tests only.

    factory   640 images of the digits 0 to 7: training, calibration, probe, exemplars (the same for every seed)
    stream    480 other images of 0 to 7, in blocks of two classes: what the device meets and is corrected on
    test      the remaining images of 0 to 7: nobody learns from them
    new       8 and 9: ten of each are taught, the others are tested

Images are 8 x 8 with values 0 to 16 (E. Alpaydin, C. Kaynak: UCI "Optical Recognition of Handwritten Digits").
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np

from edgerun.arrays import I64, U8
from edgerun.errors import MissingExtra
from firmware_sim.sensors import rotate

FACTORY_CLASSES: Final = 8
CLASSES: Final = tuple(str(k) for k in range(10))
FACTORY_IMAGES: Final = 640
STREAM_IMAGES: Final = 480
WARM_UP: Final = 24  # stream images before the sensor turns
SHOTS: Final = 10
SPLIT_SEED: Final = 0
DRIFT_DEG: Final = 25.0
BLOCKS: Final = ((0, 1), (2, 3), (4, 5), (6, 7))


@dataclass(frozen=True)
class Digits:
    """x (n, 8, 8) uint8 in [0, 16], y (n,) int64."""

    x: U8
    y: I64

    def take(self, rows: I64) -> Digits:
        return Digits(self.x[rows], self.y[rows])


@dataclass(frozen=True)
class Split:
    """One seed's division of the field; `shots` and `new_test` share no image."""

    warm_up: Digits  # clean
    stream: Digits  # as the straight sensor would see it, in blocks
    test: Digits
    shots: Digits
    new_test: Digits

    def save(self, path: Path) -> Path:
        """Write everything to one .npz, for a process that shall not need scikit-learn."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        np.savez(path, **{f"{name}.{axis}": getattr(part, axis) for name, part in parts.items() for axis in "xy"})
        return path

    @classmethod
    def read(cls, path: Path) -> Split:
        with np.load(path, allow_pickle=False) as file:
            return cls(**{f.name: Digits(file[f"{f.name}.x"], file[f"{f.name}.y"]) for f in fields(cls)})


def load() -> tuple[Digits, Digits]:
    """(factory, field); the division is the same for ever."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtra("edgerun demo", "demo", "scikit-learn") from None
    x, y = load_digits(return_X_y=True)
    all_digits = Digits(x.reshape(-1, 8, 8).astype(np.uint8), y.astype(np.int64))
    old = np.random.default_rng(SPLIT_SEED).permutation(np.flatnonzero(all_digits.y < FACTORY_CLASSES))
    new = np.flatnonzero(all_digits.y >= FACTORY_CLASSES)
    return all_digits.take(old[:FACTORY_IMAGES]), all_digits.take(np.concatenate([old[FACTORY_IMAGES:], new]))


def split(field: Digits, seed: int) -> Split:
    """Divide the field for one seed."""
    rng = np.random.default_rng(seed)
    old = rng.permutation(np.flatnonzero(field.y < FACTORY_CLASSES))
    met, test = old[:STREAM_IMAGES], old[STREAM_IMAGES:]
    warm_up, drifted = met[:WARM_UP], met[WARM_UP:]
    blocks = [rng.permutation(drifted[np.isin(field.y[drifted], pair)]) for pair in BLOCKS]
    per_class = [rng.permutation(np.flatnonzero(field.y == k)) for k in range(FACTORY_CLASSES, 10)]
    return Split(
        warm_up=field.take(warm_up),
        stream=field.take(np.concatenate(blocks)),
        test=field.take(test),
        shots=field.take(np.concatenate([rows[:SHOTS] for rows in per_class])),
        new_test=field.take(np.concatenate([rows[SHOTS:] for rows in per_class])),
    )


def turned(x: U8, degrees: float = DRIFT_DEG) -> U8:
    """Images as the turned sensor delivers them after quantisation: bilinear, rounded half up, clipped."""
    seen = np.stack([rotate(image.astype(np.float64), degrees) for image in x])
    return np.clip(np.floor(seen + 0.5), 0, 255).astype(np.uint8)


def block_ends(y: I64) -> list[int]:
    """Index after the last image of each block of a stream."""
    return [int(np.flatnonzero(np.isin(y, pair))[-1]) + 1 for pair in BLOCKS]


def one_of_each(data: Split) -> U8:
    """One tested image of each digit, straight: (10, 8, 8)."""
    x, y = np.concatenate([data.test.x, data.new_test.x]), np.concatenate([data.test.y, data.new_test.y])
    return np.stack([x[y == k][0] for k in range(10)])
