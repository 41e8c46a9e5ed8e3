"""Float layers to the integer layers of `edgerun.spec`, by the rules of `docs/arithmetic.md`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np

from edgerun.arrays import F32, F64, I8, I32, U16, Tensors
from edgerun.errors import ModelError, SpecError
from edgerun.spec import Dense, Layer, Lif, Readout, Requant
from exporters.calibrate import Affine, Range
from exporters.float_net import FloatDense, FloatLif, FloatReadout

L = TypeVar("L", bound=Layer, covariant=True)

WEIGHT_MAX: Final = 127
BIAS_LIMIT: Final = 1 << 28
DRIVE_LIMIT: Final = 1 << 30
SCALE_FLOOR: Final = 2.0**-23
EXPONENT_MAX: Final = 20
Q12: Final = 1 << 12
Q15: Final = 1 << 15
Q24: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class Quantised(Generic[L]):
    """An integer layer, its tensors, the real map of its output, and the share of its weights that saturate."""

    layer: L
    tensors: Tensors
    output: Affine
    clipped: float


# ------------------------------------------------------------------ dense


def quantise_dense(layer: FloatDense, x: Affine, range_: Range) -> Quantised[Dense]:
    """Per-channel symmetric weights, the input's zero point folded into the bias, ReLU folded into qmin.

        acc = sum(w q) + b',   b' = round(b / (sw sx)) - zx sum(w),   y = clip(requant(acc, sw sx / sy) + zy)

    A channel's weight scale sw is doubled until |b'| < 2**28 and its requantisation scale is in [2**-23, 2**23).
    Raises ModelError naming a channel whose numbers no scale can hold.
    """
    y = range_.affine()
    weight, bias, scales = fold(layer, x, y)
    requants = [requant(layer.name, k, scale) for k, scale in enumerate(scales)]
    name = layer.name
    return Quantised(
        Dense(
            name=name,
            inputs=layer.weight.shape[1],
            outputs=layer.weight.shape[0],
            zero_point=y.zero_point,
            qmin=y.zero_point if layer.relu else -128,
        ),
        {
            f"{name}.weight": weight,
            f"{name}.bias": bias,
            f"{name}.multiplier": np.array([r.multiplier for r in requants], dtype=np.int32),
            f"{name}.shift": np.array([r.shift for r in requants], dtype=np.uint8),
        },
        y,
        clipped=0.0,
    )


def fold(layer: FloatDense, x: Affine, y: Affine) -> tuple[I8, I32, F64]:
    """Integer weights (out, in), folded bias (out,) and requantisation scale (out,) of each channel."""
    w, b = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
    floor = SCALE_FLOOR * y.scale / x.scale
    peak = np.abs(w).max(axis=1)
    scale = np.maximum(np.where(peak > 0, peak / WEIGHT_MAX, y.scale / x.scale), floor)
    while True:
        weight = np.rint(w / scale[:, None])
        bias = np.rint(b / (scale * x.scale)) - x.zero_point * weight.sum(axis=1)
        wide = np.abs(bias) >= BIAS_LIMIT
        if not wide.any():
            return weight.astype(np.int8), bias.astype(np.int32), scale * x.scale / y.scale
        scale = np.where(wide, 2 * scale, scale)


def requant(name: str, channel: int, scale: float) -> Requant:
    try:
        return Requant.from_scale(scale)
    except SpecError as err:
        raise ModelError(f"layer {name} channel {channel}: {err}") from None


# ------------------------------------------------------------------ spiking


def quantise_lif(layer: FloatLif) -> Quantised[Lif]:
    """Weights and bias divided by each neuron's threshold, which becomes 4096; one weight exponent for the layer."""
    per_threshold = layer.threshold.astype(np.float64)[:, None]
    parts = [layer.weight / per_threshold]
    if layer.recurrent is not None:
        parts.append(layer.recurrent / per_threshold)
    exponent, integers, clipped = power_of_two(parts)
    name, n = layer.name, len(layer.weight)
    tensors: Tensors = {
        f"{name}.input": pre_major(integers[0]),
        f"{name}.bias": fixed(name, layer.bias / per_threshold[:, 0], Q12),
        f"{name}.decay": decays(name, layer.beta),
    }
    if layer.recurrent is not None:
        tensors[f"{name}.recurrent"] = pre_major(integers[1])
    return Quantised(
        Lif(
            name=name,
            inputs=layer.weight.shape[1],
            outputs=n,
            weight_exponent=exponent,
            recurrent=layer.recurrent is not None,
            reset=layer.reset,
            reset_delay=layer.reset_delay,
        ),
        tensors,
        Affine(1.0, 0),
        clipped,
    )


def quantise_readout(layer: FloatReadout, halvings: int) -> Quantised[Readout]:
    """One exponent; the whole layer is halved `halvings` times, and again until its drive certainly fits Q7.24.

    Halving all logits alike moves no decision; the output's scale says by how much.
    """
    while np.any((np.abs(layer.weight).sum(axis=1) + np.abs(layer.bias)) * 2.0**-halvings * Q24 >= 0.99 * DRIVE_LIMIT):
        halvings += 1
    shrink = 2.0**-halvings
    exponent, (weight,), clipped = power_of_two([layer.weight.astype(np.float64) * shrink])
    name = layer.name
    return Quantised(
        Readout(name=name, inputs=layer.weight.shape[1], outputs=len(layer.weight), weight_exponent=exponent),
        {
            f"{name}.input": pre_major(weight),
            f"{name}.bias": fixed(name, layer.bias * shrink, Q24),
            f"{name}.kappa": decays(name, layer.kappa),
        },
        Affine(1 / (Q24 * shrink), 0),
        clipped,
    )


def power_of_two(parts: list[F64]) -> tuple[int, list[F64], float]:
    """The exponent f in [0, 20] with the least squared error of clip(round(w 2**f), +-127) 2**-f, the finer of equals.

    It weighs clipping a few large weights against resolving all the others. Returns f, the integers, the clipped share.
    """
    w = np.concatenate([part.reshape(-1) for part in parts])
    errors = [float(np.square(rounded(w, f) * 2.0**-f - w).sum()) for f in range(EXPONENT_MAX + 1)]
    best = max(f for f, error in enumerate(errors) if error <= min(errors))
    clipped = float((np.abs(np.rint(w * 2.0**best)) > WEIGHT_MAX).mean())
    return best, [rounded(part, best) for part in parts], clipped


def rounded(w: F64, f: int) -> F64:
    return np.clip(np.rint(w * 2.0**f), -WEIGHT_MAX, WEIGHT_MAX)


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
