"""Leaky state and spiking neurons in Q3.12, one call a step, any leading batch shape.

The leak is shared by membrane, adaptation, traces and filters:

    t = x * d + r;   r = t & 0x7fff;   x = sat16((t >> 15) + input)          d = round(exp(-dt / tau) * 2**15)

`r` is what the rounding left over and belongs to the state: no dead zone at any time constant, no bias.
"""

from __future__ import annotations

import numpy as np

from edgerun.arrays import F32, I32, I64, U8, Bool

I16_MIN, I16_MAX = -(1 << 15), (1 << 15) - 1
I32_MIN, I32_MAX = -(1 << 31), (1 << 31) - 1


def leak(x: I32, carry: I32, decay: I32, drive: I32) -> None:
    """x <- sat16(x * decay / 2**15 + drive) with carried remainder, in place.

    x      (..., n)  updated   int16 values held in int32
    carry  (..., n)  updated   [0, 2**15) held in int32
    decay  (n,)      read      [0, 2**15]; |x| * decay + carry fits int32 because |x| <= 2**15
    drive  (..., n)  read      |drive| < 2**30 by certificate
    """
    x *= decay
    x += carry
    np.bitwise_and(x, 0x7FFF, out=carry)
    x >>= 15
    x += drive
    np.maximum(x, I16_MIN, out=x)
    np.minimum(x, I16_MAX, out=x)


def synaptic_current(current: I32, spikes: F32, weights: F32, product: F32, shift: int, bias: I32) -> None:
    """current <- scale(spikes @ weights) + bias with scale(s) = s << shift, or half up s >> -shift where shift < 0.

    The float32 product is an exact carrier: its sums are integers under 2**24, which the layer's certificate promises.

    current  (..., n)   written   Q3.12
    spikes   (..., m)   read      zeros and ones
    weights  (m, n)     read      int8 values held in float32, pre-major
    product  (..., n)   scratch
    """
    np.dot(spikes, weights, out=product)
    np.copyto(current, product, casting="unsafe")
    if shift >= 0:
        current <<= shift
    else:
        current += 1 << (-shift - 1)
        current >>= -shift
    current += bias


def fire(spikes: Bool, margin: I32, v: I32, threshold: I32) -> None:
    """margin <- v - threshold; spikes <- margin >= 0.

    spikes, margin  (..., n)  written     v  (..., n)  read     threshold  (..., n) or (n,)  read, adaptation included
    """
    np.subtract(v, threshold, out=margin)
    np.greater_equal(margin, 0, out=spikes)


def surrogate(psi: U8, margin: I32, threshold: int) -> None:
    """psi <- min(255, max(0, threshold - |v - A|) * 256 // threshold): the triangular pseudo-derivative in 8 bits.

    For threshold 4096 this is min(255, max(0, 4096 - |v - A|) >> 4). `margin` arrives as v - A and leaves as scratch.

    psi  (..., n)  written     margin  (..., n)  read, then overwritten
    """
    np.abs(margin, out=margin)
    np.subtract(threshold, margin, out=margin)
    np.maximum(margin, 0, out=margin)
    margin <<= 8
    margin //= threshold
    np.minimum(margin, 255, out=margin)
    np.copyto(psi, margin, casting="unsafe")


def integrate(y: I64, carry: I64, kappa: I64, drive: I64) -> None:
    """Leaky integrator in Q7.24: t = y * kappa + carry; carry = t & 0x7fff; y <- sat32((t >> 15) + drive).

    y, carry  (..., k)  updated   int32 and [0, 2**15), held in int64
    kappa     (k,)      read      [0, 2**15]
    drive     (..., k)  read      summed input, Q7.24
    """
    y *= kappa
    y += carry
    np.bitwise_and(y, 0x7FFF, out=carry)
    y >>= 15
    y += drive
    np.maximum(y, I32_MIN, out=y)
    np.minimum(y, I32_MAX, out=y)
