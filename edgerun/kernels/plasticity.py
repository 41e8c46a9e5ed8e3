"""Changing weights: int16 shadows, stochastic rounding, the pull towards what mattered, and its bookkeeping.

    w = clip((shadow + 2**7) >> 8, +-127)                             int8 inference weights from int16 shadows
    d = SR(-G * eta, s)                                               wanted change, then pull, clip, write
    omega <- sat32(omega + SR(-(g * d), 8))                           credit, with the change really made
    Omega <- code(decode(Omega) + (max(0, omega) << 16) / den)        den = ((shadow - ref)**2 >> 8) + xi

Rules and reference: Zenke, Poole, Ganguli 2017; roundings: `docs/arithmetic.md`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from edgerun.arrays import I8, I16, I32, I64, U8, U32
from edgerun.kernels.bounds import clamp
from edgerun.kernels.noise import stochastic_round
from edgerun.kernels.spiking import I16_MAX, I16_MIN, I32_MAX, I32_MIN, Whole

SHADOW_MAX = 32512  # 127 * 256
TOP_CODE = 231
LARGEST_STEP = 1 << 30
_ONE16, _SEVEN = np.array(1, np.int16), np.array(7, np.int16)
ENDS: Final = {2: (I16_MIN, I16_MAX), 4: (I32_MIN, I32_MAX)}
_ONE, _THREE = np.array(1, np.uint8), np.array(3, np.uint8)


def weights_from_shadow(weights: I8, shadow: I16) -> None:
    """w <- clip((shadow + 128) >> 8, +-127).    weights, shadow  (rows, n)"""
    wide = _rounded(shadow)
    clamp(wide, -127, 127)
    np.copyto(weights, wide, casting="unsafe")


def weights_within(weights: I8, shadow: I16) -> None:
    """The same of shadows that `write` has left within +-32512, where no weight needs the clip."""
    np.copyto(weights, _rounded(shadow), casting="unsafe")


def _rounded(shadow: I16) -> I16:
    """(shadow + 128) >> 8, without a sum beyond 16 bits."""
    wide: I16 = np.right_shift(shadow, _SEVEN)
    wide += _ONE16
    wide >>= _ONE16
    return wide


def small_gradient(small: I16 | I32, gradient: Whole, shift: int, reach: int | None = None) -> None:
    """g <- sat16(half_up(G / 2**sg)): the task gradient as synaptic intelligence sees it.    sg = shift in [0, 30]

    reach  what no |G| is above, where that is known
    """
    half = 1 << shift >> 1
    wide = gradient + np.array(half, gradient.dtype)
    wide >>= np.array(shift, gradient.dtype)
    if reach is None or reach + half >> shift > I16_MAX:
        clamp(wide, I16_MIN, I16_MAX)
    np.copyto(small, wide, casting="unsafe")


def limit_shift(squared_norm: int, eta: int, shift: int, max_norm: int) -> int:
    """The fewest halvings e >= 0 with |G| * eta <= max_norm * 2**(shift + e): a norm limit without a division.

    squared_norm is |G|**2 / 2**24 (`eprop.squared_norm`), max_norm counts shadow LSB, 0 = no limit; shift + e <= 30.
    """
    if max_norm == 0:
        return 0
    left = (squared_norm << 24) * eta * eta
    right = max_norm * max_norm << 2 * shift
    extra = 0
    while left > right << 2 * extra and shift + extra < 30:
        extra += 1
    return extra


def wanted_step(wanted: Whole, gradient: Whole, eta: int, shift: int, words: U32, reach: int | None = None) -> None:
    """d <- SR(-G * eta, shift), cut at +-2**30, which no limit of a step lets through anyway.    All (rows, n).

    reach  what no |G| is above, where that is known: small numbers are worked on in 32 bits
    """
    if reach is not None and reach * eta + (1 << shift) < 1 << 31:
        np.multiply(gradient, np.array(-eta, gradient.dtype), out=wanted, casting="unsafe")
        stochastic_round(wanted, shift, words)
        return
    wide = np.multiply(gradient, -eta, dtype=np.int64)
    descend(wanted, wide, shift, words, None if reach is None else reach * eta)


def descend(wanted: Whole, wide: I64, shift: int, words: U32, reach: int | None = None) -> None:
    """d <- SR(-G * eta, shift) of products that are already there, cut in the same way.

    wanted  (rows, n)  written     wide  (rows, n)  updated  -G * eta     reach  what none of them is above
    """
    stochastic_round(wide, shift, words)
    if reach is None or reach >> shift >= LARGEST_STEP:
        clamp(wide, -LARGEST_STEP, LARGEST_STEP)
    np.copyto(wanted, wide, casting="unsafe")


def fade(wanted: Whole, shadow: I16, shift: int, words: U32, middle: int = 0) -> None:
    """d -= SR(shadow, shift): weight decay, the factor 1 - 2**-shift an update in the mean.    All (rows, n)."""
    share = shadow.astype(np.int64)
    share -= middle
    stochastic_round(share, shift, words)
    wanted -= share


def pull(wanted: Whole, code: U8, ref: I8 | I16, shadow: I16, strength: int, words: U32) -> None:
    """d += SR((8 + (c & 7)) * (ref - shadow), max(4, sc - e)) with e = (c >> 3) - 1; c < 8: mantissa c, e = 0.

    A shift over 30 gives nothing. The 4 is the stability clamp: no pull overshoots its target.    All (rows, n).
    """
    exponent = np.maximum(code >> _THREE, _ONE)
    exponent -= _ONE
    force = np.subtract(code, exponent << _THREE).astype(np.int32)  # the mantissa: 8 + (c & 7) = c - 8 e
    force *= anchor(ref) - shadow
    np.minimum(exponent, np.array(max(0, strength - 4), np.uint8), out=exponent)
    shift = np.subtract(max(4, strength), exponent, dtype=np.int32)
    if strength > 30:
        force[shift > 30] = 0
        np.minimum(shift, 30, out=shift)
    low = np.left_shift(1, shift, dtype=np.int32)
    low -= np.array(1, np.int32)
    low &= words.view(np.int32)
    force += low  # where nothing pulls, less than a whole one
    force >>= shift
    wanted += force


def write(made: I16 | I32, shadow: I16, wanted: Whole, max_step: int, middle: int = 0) -> None:
    """shadow <- clip(shadow + clip(d, +-max_step), middle +- 32512); made <- the change really made.    All (rows, n).

    middle  what a shadow of weight 0 holds: 128 where its high byte is the weight
    """
    step = wanted.copy()
    clamp(step, -max_step, max_step)
    write_within(made, shadow, step, middle)


def write_within(made: I16 | I32, shadow: I16, wanted: Whole, middle: int = 0) -> None:
    """The same of steps that no limit cuts.    All (rows, n)."""
    after = shadow.astype(np.int32)
    np.add(after, wanted, out=after, casting="unsafe")
    clamp(after, middle - SHADOW_MAX, middle + SHADOW_MAX)
    np.subtract(after, shadow, out=made, casting="unsafe")
    np.copyto(shadow, after, casting="unsafe")


def write_freely(made: I16 | I32, shadow: I16, wanted: Whole) -> None:
    """The same of steps within their limit that lead no shadow to an end.    All (rows, n)."""
    np.copyto(made, wanted, casting="unsafe")
    np.add(shadow, made, out=shadow, casting="unsafe")


def room_of(shadow: I16, middle: int = 0) -> int:
    """How far the shadows are from where `write` stops them; negative for factory weights of -128, which it moves."""
    least, most = int(shadow.min(initial=middle)), int(shadow.max(initial=middle))
    return SHADOW_MAX - max(middle - least, most - middle)


def squared(made: I16 | I32) -> int:
    """sum made**2 of at most 2**15 changes: a float64 holds it."""
    wide = made.reshape(-1).astype(np.float64)
    return int(np.dot(wide, wide))


def credit(omega: I16 | I32, small: I16 | I32, made: I16 | I32, words: U32, drop: int = 8) -> None:
    """omega <- sat(omega + SR(-(g * d), drop)), at the ends of omega's own type.    All (rows, n)."""
    product = small.astype(np.int32)  # under 2**31: |g| <= 2**15 and |d| < 2**16
    np.multiply(product, made, out=product)
    term = np.bitwise_and(words, np.array((1 << drop) - 1, np.uint32)).view(np.int32)
    term -= product
    term >>= np.array(drop, np.int32)
    least, most, room = *ENDS[omega.itemsize], (1 << 31 - drop) + 1
    roomy = omega.itemsize == 4 and least + room <= int(omega.min()) and int(omega.max()) <= most - room
    if roomy:
        np.add(omega, term, out=omega, casting="unsafe")
        return
    total = omega.astype(np.int64)
    total += term
    clamp(total, least, most)
    np.copyto(omega, total, casting="unsafe")


def decode_importance(code: U8) -> I64:
    """c < 8 -> c, else (8 + (c & 7)) << ((c >> 3) - 1)."""
    wide = code.astype(np.int64)
    return np.where(wide < 8, wide, (8 + (wide & 7)) << np.maximum(0, (wide >> 3) - 1))


def encode_importance(code: U8, value: I64, words: U32) -> None:
    """The code of a value, its low bits dropped stochastically (truncation would stall, nearest would too).

    code  (rows, n)  written, at most 231     value  (rows, n)  read, >= 0     words  (rows, n)  read
    """
    top = int(decode_importance(np.array([TOP_CODE], np.uint8))[0])
    value = np.minimum(value, top)
    drop = np.maximum(0, _bit_length(value) - 4)
    rounded = value + (words & ((np.int64(1) << drop) - 1)) >> drop
    carried = rounded == 16  # the mantissa overflowed into the next octave
    rounded = np.where(carried, 8, rounded)
    drop = drop + carried
    encoded = np.where(rounded < 8, rounded, (drop + 1) * 8 + (rounded & 7))
    np.copyto(code, np.minimum(encoded, TOP_CODE), casting="unsafe")


def consolidate(
    code: U8, ref: I8 | I16, omega: I16 | I32, shadow: I16, damping: int, words: U32, drop: int = 8
) -> None:
    """Omega <- encode(decode(Omega) + (max(0, omega) << 8 + drop) / den); ref <- shadow; omega <- 0.

    den = ((shadow - ref)**2 >> 8) + xi; drop as in `credit`.    All (rows, n).
    """
    moved = (shadow - anchor(ref)).astype(np.int64)
    den = (moved * moved >> 8) + damping
    term = (np.maximum(0, omega).astype(np.uint64) << np.uint64(8 + drop)) // den.astype(np.uint64)
    top = np.uint64(1) << np.uint64(40)
    encode_importance(code, decode_importance(code) + np.minimum(term, top).astype(np.int64), words)
    set_anchor(ref, shadow)
    omega[...] = 0


def anchor(ref: I8 | I16) -> I32:
    """The shadow that an anchor stands for: its own 16 bits, or the middle of what has its high byte."""
    wide: I32 = ref.astype(np.int32)
    if ref.dtype == np.int8:
        wide <<= 8
        wide += 128
    return wide


def set_anchor(ref: I8 | I16, shadow: I16) -> None:
    """ref <- the shadow, or its high byte.    (rows, n)"""
    np.copyto(ref, shadow >> 8 if ref.dtype == np.int8 else shadow, casting="unsafe")


def _bit_length(value: I64) -> I64:
    """Exact for values under 2**53: the exponent that frexp reads off a float64."""
    return np.frexp(value.astype(np.float64))[1].astype(np.int64)
