"""Weights in a power of two, biases in fixed point, decays in Q0.15: how spiking layers tell real numbers."""

from __future__ import annotations

from typing import Final

import numpy as np

from edgerun.arrays import F32, F64, I8, I32, U16
from edgerun.errors import ModelError
from edgerun.packing import top

DRIVE_LIMIT: Final = 1 << 30
EXPONENT_MAX: Final = 20
Q12: Final = 1 << 12
Q15: Final = 1 << 15
Q24: Final = 1 << 24


def power_of_two(parts: list[F64], bits: int = 8) -> tuple[int, list[F64], float]:
    """The exponent f in [0, 20] with the least squared error of clip(round(w 2**f), +-top) 2**-f, the finer of equals;
    top is 127 for weights of 8 bits, 7 for 4, 1 for 2.

    It weighs clipping a few large weights against resolving all the others. Returns f, the integers, the clipped share.
    """
    w = np.concatenate([part.reshape(-1) for part in parts])
    errors = [float(np.square(rounded(w, f, bits) * 2.0**-f - w).sum()) for f in range(EXPONENT_MAX + 1)]
    best = max(f for f, error in enumerate(errors) if error <= min(errors))
    clipped = float((np.abs(np.rint(w * 2.0**best)) > top(bits)).mean())
    return best, [rounded(part, best, bits) for part in parts], clipped


def rounded(w: F64, f: int, bits: int) -> F64:
    return np.clip(np.rint(w * 2.0**f), -top(bits), top(bits))


def pre_major(weight: F64) -> I8:
    return np.ascontiguousarray(weight.T.astype(np.int8))


def fixed(name: str, value: F64 | F32, one: int) -> I32:
    """Round to fixed point. Raises ModelError where a value is beyond what an input current may be."""
    scaled = np.rint(value.astype(np.float64) * one)
    if np.abs(scaled).max() >= DRIVE_LIMIT:
        raise ModelError(f"layer {name}: bias {np.abs(value).max():g} is above {DRIVE_LIMIT // one}")
    return scaled.astype(np.int32)


def decays(name: str, beta: F32) -> U16:
    if beta.min() < 0 or beta.max() > 1:
        raise ModelError(f"layer {name}: decay reaches from {beta.min():g} to {beta.max():g}, must lie in [0, 1]")
    return np.rint(beta.astype(np.float64) * Q15).astype(np.uint16)
