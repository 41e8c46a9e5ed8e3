"""SuperSpike over one recorded window, deferred: what filters each synapse's eligibility filters the error instead.

    q_i[t]   = smooth(trace_i[t], d)                        what a spike does to a membrane, behind the current's trace
    psi_j[t] = TABLE[|v_j[t] - A_j| >> k], 0 behind its end                Q0.15
    Lf_j     = the error, filtered forwards by rise and fall (van Rossum) and backwards by fall and rise (eligibility)
    post_j   = sat16((psi_j * Lf_j + 2**(p-1)) >> p);                  G_ij = sum_t q_i[t] * post_j[t]

    smooth:  t = x * c + drive * (2**15 - c) + r;   r = t & 0x7fff;   x = t >> 15          at rest where drive was 0

Convex filters never leave the range of what drives them. Rule and reference: Zenke and Ganguli 2018.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from edgerun.arrays import I8, I16, I32, I64, U8, U16, AnyArray
from edgerun.kernels import eprop
from edgerun.kernels.spiking import I16_MAX, I16_MIN

ONE: Final = 1 << 14
"""One spike too many, before any filter."""
ENERGY_SHIFT: Final = 8
"""What a sum of squared filtered errors is cut by."""
STEPS_A_UNIT: Final = 16
"""Table steps for one unit of h, the membrane's distance from its threshold in widths of the surrogate."""
TABLE: Final[U16] = np.array([round(32767 / (1 + (i + 0.5) / STEPS_A_UNIT) ** 2) for i in range(256)] + [0], np.uint16)
"""1 / (1 + |h|)**2 in Q0.15 at the middle of each step, and 0 for what lies behind the last."""


def surrogate(psi: U16, margin: I64, width_shift: int) -> None:
    """psi <- TABLE[min(256, |v - A| >> (width_shift - 4))]: h is 1 where v is 2**width_shift away.

    psi  (..., n)  written     margin  (..., n)  read, v - A in Q3.12     width_shift in [4, 12]
    """
    np.copyto(psi, TABLE[np.minimum(256, np.abs(margin) >> (width_shift - 4))])


def smooth(state: I64, carry: I64, decay: int, drive: I64, scratch: I64) -> None:
    """One step of a convex filter, in place.    state, carry (..., n) updated; drive (..., n) read, |drive| <= 2**15"""
    state *= decay
    np.multiply(drive, (1 << 15) - decay, out=scratch)
    state += scratch
    state += carry
    np.bitwise_and(state, 0x7FFF, out=carry)
    state >>= 15


def smoothed(signal: AnyArray, decay: int) -> I64:
    """`smooth` over a whole window, from rest.    signal  (T, n)  integers, read  ->  (T, n)"""
    found = signal.astype(np.int64)
    state, carry, scratch = (np.zeros(found.shape[1], np.int64) for _ in range(3))
    for row in found:
        smooth(state, carry, decay, row, scratch)
        np.copyto(row, state)
    return found


def van_rossum(raw: AnyArray, rise: int, fall: int) -> I64:
    """(T, n)  errors under the double exponential kernel.    raw  (T, n)  int16 values, read"""
    return smoothed(smoothed(raw, rise), fall)


def learning_signal(raw: AnyArray, rise: int, fall: int) -> I32:
    """(T, n)  Lf: the filtered error, through the eligibility's own two filters backwards in time."""
    backwards = smoothed(smoothed(van_rossum(raw, rise, fall)[::-1], fall), rise)
    return backwards[::-1].astype(np.int32)


def potentials(history: I16, pre: U8, alpha: int, decay: int) -> None:
    """history[t] <- q, a spike's course through the synaptic current and the membrane, from rest.

    history  (T, m)  written     pre  (T, m)  read, zeros and ones
    """
    eprop.traces(history, pre, alpha)
    np.copyto(history, smoothed(history, decay), casting="unsafe")


def energy(filtered: I64) -> int:
    """sum over time of (sum_o f**2 >> 8): what `Patterns` takes from a score.    filtered  (T, o)"""
    each = (filtered**2).sum(axis=1) >> ENERGY_SHIFT
    return int(each.sum())


def project(raw: I32, feedback: I8, shift: int) -> I32:
    """L <- sat16(half_up(raw @ feedback.T / 2**shift)).    raw  (T, k), feedback  (n, k)  ->  (T, n)"""
    wide = raw.astype(np.int64) @ feedback.astype(np.int64).T
    signal: I32 = np.clip(wide + (1 << (shift - 1)) >> shift, I16_MIN, I16_MAX).astype(np.int32)
    return signal
