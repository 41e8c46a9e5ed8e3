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

from edgerun.arrays import I16, I32, I64, U8, U16, AnyArray
from edgerun.kernels import eprop
from edgerun.kernels.spiking import Whole

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


def smooth(state: Whole, carry: Whole, decay: int, drive: AnyArray, scratch: Whole) -> None:
    """One step of a convex filter, in place.    state, carry (..., n) updated; drive (..., n) read, |drive| <= 2**15"""
    state *= decay
    np.multiply(drive, (1 << 15) - decay, out=scratch, dtype=scratch.dtype)
    state += scratch
    state += carry
    np.bitwise_and(state, 0x7FFF, out=carry)
    state >>= 15


def smooth_rows(rows: AnyArray, decay: int, state: I32 | None = None, *, backwards: bool = False) -> None:
    """`smooth` over a whole window, from rest, in place.    rows  (T, n)  int16 values     state  (3, n)  scratch"""
    x, carry, drive = np.zeros((3, rows.shape[1]), np.int32) if state is None else state[:3]
    x[...], carry[...] = 0, 0
    for row in rows[::-1] if backwards else rows:
        smooth(x, carry, decay, row, drive)
        np.copyto(row, x, casting="unsafe")


def van_rossum(rows: AnyArray, rise: int, fall: int, state: I32 | None = None) -> None:
    """rows <- errors under the double exponential kernel.    rows  (T, n)  updated, int16 values"""
    smooth_rows(rows, rise, state)
    smooth_rows(rows, fall, state)


def learning_signal(rows: AnyArray, rise: int, fall: int, state: I32 | None = None) -> None:
    """rows <- Lf: the filtered error, through the eligibility's own two filters backwards in time.    rows  (T, n)"""
    van_rossum(rows, rise, fall, state)
    smooth_rows(rows, fall, state, backwards=True)
    smooth_rows(rows, rise, state, backwards=True)


def potentials(history: I16, pre: U8, alpha: int, decay: int, state: I32 | None = None) -> None:
    """history[t] <- q, a spike's course through the synaptic current and the membrane, from rest.

    history  (T, m)  written     pre  (T, m)  read, zeros and ones     state  (4, m)  scratch
    """
    eprop.traces(history, pre, alpha, state=state)
    smooth_rows(history, decay, state)


def energy(filtered: AnyArray) -> int:
    """sum over time of (sum_o f**2 >> 8): what `Patterns` takes from a score.    filtered  (T, o)"""
    each = (filtered.astype(np.int64) ** 2).sum(axis=1) >> ENERGY_SHIFT
    return int(each.sum())


def lacking(raw: I16 | I32, spikes: U8, target: U8) -> None:
    """raw <- 2**14 * (spikes - target).    All (T, o)."""
    np.subtract(spikes, target, out=raw, dtype=raw.dtype)
    raw *= ONE
