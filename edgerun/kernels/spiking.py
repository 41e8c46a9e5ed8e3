"""Leaky state and spiking neurons, membranes in Q3.12 and currents of their own in Q7.24; any leading batch shape.

The leak is shared by membrane, adaptation, traces and filters:

    t = x * d + r;   r = t & 0x7fff;   x = sat16((t >> 15) + input)          d = round(exp(-dt / tau) * 2**15)

`r` is what the rounding left over and belongs to the state: no dead zone at any time constant, no bias.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

import numpy as np

from edgerun.arrays import F32, I32, I64, U8, AnyArray, Bool, Places

I16_MIN, I16_MAX = -(1 << 15), (1 << 15) - 1
I32_MIN, I32_MAX = -(1 << 31), (1 << 31) - 1
ONE: Final = 1 << 12  # a membrane of 1.0
NARROWEST: Final = 256  # the smallest threshold that a surrogate can be as wide as

Whole: TypeAlias = I32 | I64

EVENTS_FROM: Final = 1 << 16
"""Weights from which on it pays to take the rows of those inputs alone that are not 0, up to an eighth of them.

Measured, one thread, 956 x 256 floats: 10.4 us whole, 2.2 us at 20 inputs.
"""

_BYTE: Final[I32] = np.array(255, np.int32)
_ZERO: Final = {kind: np.zeros((), kind) for kind in "ilqf"}
_INTEGRATE: Final = tuple(np.array(value, np.int64) for value in (0x7FFF, 15, I32_MIN, I32_MAX))
_LEAK: Final[dict[int, tuple[AnyArray, ...]]] = {
    size: tuple(np.array(value, kind) for value in (0x7FFF, 15, I16_MIN, I16_MAX))
    for size, kind in ((4, np.int32), (8, np.int64))
}
"""Numbers in arrays of the type that they meet: numpy spares half of a small call."""


def leak(x: Whole, carry: Whole, decay: Whole, drive: Whole) -> None:
    """x <- sat16(x * decay / 2**15 + drive) with carried remainder, in place.

    x      (..., n)  updated   int16 values held in int32 or int64
    carry  (..., n)  updated   [0, 2**15) held alike
    decay  (n,)      read      [0, 2**15]; |x| * decay + carry fits int32 because |x| <= 2**15
    drive  (..., n)  read      |drive| < 2**30 by certificate
    """
    low, bits, least, most = _LEAK[x.itemsize]
    x *= decay
    x += carry
    np.bitwise_and(x, low, out=carry)
    x >>= bits
    x += drive
    np.maximum(x, least, out=x)
    np.minimum(x, most, out=x)


def synaptic_current(
    current: I32, spikes: F32, weights: F32, product: F32, shift: int, bias: I32, few: Few | None = None
) -> None:
    """current <- scale(spikes @ weights) + bias with scale(s) = s << shift, or half up s >> -shift where shift < 0.

    The float32 product is an exact carrier: its sums are integers under 2**24, which the layer's certificate promises.

    current  (..., n)   written   Q3.12
    spikes   (..., m)   read      zeros and ones
    weights  (m, n)     read      int8 values held in float32, pre-major
    product  (..., n)   scratch
    """
    weighted(product, spikes, weights, few)
    scale_sums(current, product, shift)
    current += bias


class Few(NamedTuple):
    """Where a product takes the rows of those inputs alone that are not 0, up to so many.

    seen  (m,)  which these are     x  (k,)  what they are     rows  (k, n)  their weights
    """

    seen: Bool
    x: F32
    rows: F32


def few_of(weights: F32, batch: tuple[int, ...]) -> Few | None:
    """Room for an eighth of the inputs; None where all weights are as quick."""
    if batch or weights.size < EVENTS_FROM:
        return None
    m, n = weights.shape
    return Few(np.zeros(m, np.bool_), np.zeros(m // 8, np.float32), np.zeros((m // 8, n), np.float32))


def weighted(product: F32, spikes: F32, weights: F32, few: Few | None) -> None:
    """product <- spikes @ weights

    product  (..., n)  written     spikes  (..., m)  read     weights  (m, n)  read     few  scratch
    """
    if few is not None:
        np.not_equal(spikes, _ZERO["f"], out=few.seen)
        count = np.count_nonzero(few.seen)
        if count <= len(few.x):
            places, x, rows = few.seen.nonzero()[0], few.x[:count], few.rows[:count]
            spikes.take(places, out=x, mode="clip")  # in range; another mode makes numpy buffer the output
            weights.take(places, axis=0, out=rows, mode="clip")
            np.dot(x, rows, out=product)
            return
    np.dot(spikes, weights, out=product)


def scale_sums(current: Whole, sums: F32, shift: int) -> None:
    """current <- sums << shift, or half up sums >> -shift where shift < 0.

    current  (..., n)  written   fixed point     sums  (..., n)  read   integers of at most 2**24
    """
    np.copyto(current, sums, casting="unsafe")
    if shift >= 0:
        current <<= np.array(shift, current.dtype)
    else:
        current += np.array(1 << (-shift - 1), current.dtype)
        current >>= np.array(-shift, current.dtype)


def fire(spikes: Bool, margin: Whole, v: Whole, threshold: Whole) -> None:
    """margin <- v - threshold; spikes <- margin >= 0.

    spikes, margin  (..., n)  written     v  (..., n)  read     threshold  (..., n) or (n,)  read, adaptation included
    """
    np.subtract(v, threshold, out=margin)
    np.greater_equal(margin, _ZERO[margin.dtype.char], out=spikes)


def surrogate(psi: U8, margin: I32, threshold: int) -> None:
    """psi <- min(255, max(0, width - |v - A|) * 256 // width): the triangular pseudo-derivative in 8 bits.

    The width is the threshold, or 4096 where that is under 256, as it is of neurons that fire above zero. For 4096 this
    is min(255, max(0, 4096 - |v - A|) >> 4). `margin` arrives as v - A and leaves as scratch.

    psi  (..., n)  written     margin  (..., n)  read, then overwritten
    """
    width = threshold if threshold >= NARROWEST else ONE
    np.abs(margin, out=margin)
    np.subtract(np.array(width, np.int32), margin, out=margin)
    np.maximum(margin, _ZERO["i"], out=margin)
    if width & width - 1:
        margin <<= 8
        margin //= width
    else:
        margin >>= np.array(width.bit_length() - 9, np.int32)
    np.minimum(margin, _BYTE, out=margin)
    np.copyto(psi, margin, casting="unsafe")


def integrate(y: I64, carry: I64, kappa: I64, drive: I64) -> None:
    """Leaky integrator in Q7.24: t = y * kappa + carry; carry = t & 0x7fff; y <- sat32((t >> 15) + drive).

    y, carry  (..., k)  updated   int32 and [0, 2**15), held in int64
    kappa     (k,)      read      [0, 2**15]
    drive     (..., k)  read      summed input, Q7.24
    """
    low, bits, least, most = _INTEGRATE
    y *= kappa
    y += carry
    np.bitwise_and(y, low, out=carry)
    y >>= bits
    y += drive
    np.maximum(y, least, out=y)
    np.minimum(y, most, out=y)


def leak_fine(v: I64, carry: I64, decay: I64, drive: I64, part: I64) -> None:
    """The leak of a Q3.12 membrane under a Q7.24 drive, whose low bits go into the carry: nothing is lost.

        t = v * decay + carry + 8 * (drive mod 2**12);   carry = t mod 2**15;   v <- sat16((t >> 15) + (drive >> 12))

    v, carry  (..., n)  updated   int16 and [0, 2**15), held in int64     decay  (n,) or (..., n)  read  [0, 2**15]
    drive     (..., n)  read      |drive| < 2**46                         part   (..., n)  scratch
    """
    np.bitwise_and(drive, ONE - 1, out=part)
    part <<= 3
    part += carry
    v *= decay
    v += part
    np.bitwise_and(v, 0x7FFF, out=carry)
    v >>= 15
    np.right_shift(drive, 12, out=part)
    v += part
    np.maximum(v, I16_MIN, out=v)
    np.minimum(v, I16_MAX, out=v)


def difference(v: I64, excitatory: I64, inhibitory: I64, tau: I64) -> None:
    """v <- sat16(half up ((excitatory + inhibitory) * tau / 2**28)): the membrane of an alpha-function synapse.

    v  (..., n)  written  Q3.12     excitatory, inhibitory  (..., n)  read  Q7.24     tau  (n,)  read  Q8.16, <= 2**24
    """
    np.add(excitatory, inhibitory, out=v)
    v *= tau
    v += 1 << 27
    v >>= 28
    np.maximum(v, I16_MIN, out=v)
    np.minimum(v, I16_MAX, out=v)


def leave_one(spikes: Bool, margin: Whole, winner: Places, order: I64, mask: Bool) -> None:
    """spikes <- spikes where margin is the largest of the layer, the first of equals: lateral inhibition.

    spikes  (..., n)  updated     margin  (..., n)  read      winner  (..., 1)  scratch
    order   (n,)      read        0 .. n - 1                  mask    (..., n)  scratch
    """
    np.argmax(margin, axis=-1, out=winner, keepdims=True)
    np.equal(order, winner, out=mask)
    np.logical_and(spikes, mask, out=spikes)
