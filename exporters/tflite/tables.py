"""Tables that hold what LiteRT's default kernels give for each of 256 inputs, where that is not the rounded function.

XNNPACK rescales by 8 bits after the point, halves up. LiteRT's own kernels have multipliers of 31 bits and an exponent,
and round twice: at 2**-31, then at the exponent. Every function gives int64 (256,), for q from -128 to 127; x and y are
the maps of input and output, whose scales LiteRT holds, and divides, in float32.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from edgerun.arrays import F32, I64
from exporters.nodes import Affine

I16: Final = (-(1 << 15), (1 << 15) - 1)


def multiplier_of(real: float) -> tuple[int, int]:
    """m, e with real = m * 2**(e - 31), m in [2**30, 2**31)."""
    mantissa, exponent = math.frexp(real)
    m = math.floor(mantissa * 2**31 + 0.5)
    m, exponent = (m // 2, exponent + 1) if m == 1 << 31 else (m, exponent)
    return (0, 0) if exponent < -31 else (m, exponent)


def away(x: I64, bits: int) -> I64:
    """x / 2**bits, halves away from zero."""
    return np.asarray(np.sign(x) * ((np.abs(x) + (1 << bits >> 1)) >> bits))


def high(x: I64, m: int, bits: int) -> I64:
    """x * m / 2**bits, halves up."""
    return np.asarray((x * m + (1 << bits >> 1)) >> bits)


def twice_rounded(x: I64, real: float) -> I64:
    """x * real, at 31 bits and then at the exponent."""
    m, exponent = multiplier_of(real)
    return away(high(x << max(exponent, 0), m, 31), max(-exponent, 0))


def quotient(x: Affine, y: Affine) -> F32:
    """What one step of x is in steps of y, as float32 holds it."""
    return np.asarray(np.float32(x.scale) / np.float32(y.scale))


def steps_of(x: Affine) -> I64:
    return np.arange(-128, 128) - x.zero_point


def stored(steps: I64, y: Affine) -> I64:
    return np.clip(steps + y.zero_point, -128, 127)


# ------------------------------------------------------------------ XNNPACK

EIGHT_BITS: Final = (2.0**-8, 2.0**7)
"""The scales that XNNPACK takes."""


def eight_bits(steps: I64, scale: F32) -> I64:
    return high(steps, round(256 * float(scale)), 8)


def rescaled(x: Affine, y: Affine) -> I64 | None:
    """QUANTIZE of integers; None where XNNPACK does not take it."""
    scale = quotient(x, y)
    return stored(eight_bits(steps_of(x), scale), y) if EIGHT_BITS[0] <= scale <= EIGHT_BITS[1] else None


def leaky_relu(x: Affine, y: Affine, alpha: float) -> I64:
    """A scale for each side of zero; LiteRT's own kernel where XNNPACK does not take one of them."""
    scale, steps = quotient(x, y), steps_of(x)
    slope = np.asarray(scale * np.float32(alpha))
    if EIGHT_BITS[0] <= scale <= EIGHT_BITS[1] and EIGHT_BITS[0] <= abs(slope) and EIGHT_BITS[0] - 128 <= slope <= 128:
        return stored(np.where(steps < 0, eight_bits(steps, slope), eight_bits(steps, scale)), y)
    slope = np.asarray(np.float32(x.scale) * np.float32(alpha) / np.float32(y.scale))
    return stored(np.where(steps < 0, twice_rounded(steps, float(slope)), twice_rounded(steps, float(scale))), y)


SUMMED: Final = (2.0**-10, 2.0**8)
SUM_BITS: Final = 21


def sum_multipliers(a: Affine, b: Affine, y: Affine, signs: tuple[int, int]) -> tuple[int, int, int] | None:
    """What ADD and SUB multiply both sides by, and the shift; the larger has 21 bits. None as for `rescaled`."""
    scales = [float(quotient(x, y)) for x in (a, b)]
    if not all(SUMMED[0] <= scale < SUMMED[1] for scale in scales):
        return None
    shift = SUM_BITS - math.frexp(max(scales))[1]
    first, second = (sign * round(math.ldexp(scale, shift)) for sign, scale in zip(signs, scales, strict=True))
    return first, second, shift


# ------------------------------------------------------------------ LiteRT's own kernels


def clipped(x: Affine, y: Affine, low: float, high: float) -> I64:
    """A ReLU of its own; the ends are real numbers."""
    return np.clip(stored(twice_rounded(steps_of(x), float(quotient(x, y))), y), y.integer(low), y.integer(high))


def absolute(x: Affine, y: Affine) -> I64:
    return stored(twice_rounded(np.abs(steps_of(x)), float(quotient(x, y))), y)


def square_root(x: Affine, y: Affine) -> I64:
    """Rounded down."""
    roots = np.sqrt(np.maximum(steps_of(x), 0) * x.scale) / y.scale
    return stored(np.floor(roots).astype(np.int64), y)


def hard_swish(x: Affine, y: Affine) -> I64:
    """x * relu6(x + 3) / 6 in 16 bits: x times 2**7, and r = min(max(x / 3, -1), 1) in Q0.15.

    y = (x * m) * ((r + 1) / 2)        both products in Q0.15; the last is cut off, then rounded at m's exponent
    """
    fine = np.float32(1 / 128) * np.float32(x.scale)
    gain, down = short(float(fine / np.float32(y.scale)))
    third, up = short(float(fine / np.float32(3 / 32768)))
    steps = steps_of(x) << 7
    r = high(np.clip(steps << max(up - 1, 0), *I16), third, 15)
    r = np.clip(r << 1, *I16) if up > 0 else away(r, -up)
    product = high(steps, gain, 15) * ((r + (1 << 15)) >> 1)
    cut = np.sign(product) * (np.abs(product) >> 15)
    return stored(away(cut, -down), y)


def short(real: float) -> tuple[int, int]:
    """A multiplier of 15 bits, and its exponent."""
    m, exponent = multiplier_of(real)
    return min((m + (1 << 15)) >> 16, I16[1]), exponent
