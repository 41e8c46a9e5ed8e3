"""e-prop over one recorded window, deferred: eligibilities are rank one in time, so the gradient is one matrix product.

    trace_i[t] = leak(trace_i[t-1]) + 2**f * pre_i[t]                 f = floor(log2(32767 * (1 - d / 2**15) / reach))
    L_j[t]     = sat16((sum_k B_jk error_k[t] + 2**(q-1)) >> q);   Lf = L filtered backwards, + R_j of the firing rate
    post_j[t]  = sat16((psi_j[t] * Lf_j[t] + 2**(p-1)) >> p)
    G_ij       = sum_t trace_i[t] * post_j[t]                         an exact integer in any carrier

The readout filter runs backwards on the learning signal, which equals filtering every eligibility forwards in real
arithmetic and costs T * n instead of n * n. Dynamics and rule: Bellec et al. 2020, Methods.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from edgerun.arrays import F32, I8, I16, I32, I64, U8, U16, AnyArray
from edgerun.kernels.spiking import I16_MAX, I16_MIN, I32_MAX, I32_MIN, Whole, leak

TILE: Final = 32
"""Steps of a window, or units of a layer, that are worked on together."""
_EXACT_F32 = 1 << 24
_LOW, _BITS = np.array(0x7FFF, np.int32), np.array(15, np.int32)


def trace_gain(decay: int, reach: int = 1) -> int:
    """f of the trace's increment 2**f: the largest with which a unit giving `reach` at every step cannot saturate."""
    room = (32767 * (32768 - decay) >> 15) // reach
    return max(0, room.bit_length() - 1)


def cannot_saturate(decay: int, reach: int) -> bool:
    """Whether a trace of what |x| <= reach brings stays within 16 bits of itself, as it does where its gain has room.

    2**f * reach <= 32767 * (1 - d): from any x in int16, floor(x * d + r) + 2**f * reach is in int16 again.
    """
    return (32767 * (32768 - decay) >> 15) >= reach


def traces(
    history: I8 | I16,
    pre: AnyArray,
    decay: int,
    reach: int = 1,
    *,
    late: int = 0,
    drop: int = 0,
    state: I32 | None = None,
) -> None:
    """history <- the presynaptic trace after each of the last S of T steps, from zero at the window's start.

    With `drop`, its high bits alone, what is left over going into the next step: w = trace + rest;
    history = min(w >> drop, 2**(15 - drop) - 1); rest = w mod 2**drop, from 2**(drop - 1). The sum over a window is
    that of the traces, within one unit.

    history  (S, m)  written   int16, cannot saturate where 32767 * (1 - decay / 2**15) >= reach; int8 for drop 8
    pre      (T, m)  read      integers, |pre| <= reach: zeros and ones of spikes, or values
    late               how many steps late `pre` arrives: 1 for a layer's own spikes
    state    (4, m)  scratch   int32; its own where not given
    """
    (steps, m), first = pre.shape, len(pre) - len(history)
    x, carry, total, rest = np.zeros((4, m), np.int32) if state is None else state
    x[...], carry[...], total[...], rest[...] = 0, 0, 0, 1 << drop >> 1
    history[: max(0, late - first)] = 0  # nothing has arrived
    rate, gain = np.array(decay, np.int32), trace_gain(decay, reach)
    free = not drop and cannot_saturate(decay, reach)
    for rows in tiles(steps, late):
        arriving = pre[rows.start - late : rows.stop - late].astype(np.int32)
        arriving <<= np.array(gain + 15 * free, np.int32)
        if free:
            _leak_on(arriving, x, total, carry, rate)
            at = max(rows.start, first)
            np.copyto(history[at - first : max(0, rows.stop - first)], arriving[at - rows.start :], casting="unsafe")
            continue
        for t, drive in enumerate(arriving, rows.start):
            leak(x, carry, rate, drive)
            if t >= first:
                rest += x
                np.minimum(rest >> drop, 32767 >> drop, out=history[t - first], casting="unsafe")
                rest &= (1 << drop) - 1


def _leak_on(drives: I32, x: I32, total: I32, carry: I32, rate: I32) -> None:
    """drives[t] <- the leak's x after it, for drives in 2**-15 of x that cannot saturate it.

    drives  (S, n)  updated     x, total  (n,)  updated     carry  (n,)  scratch
    """
    before = x
    for drive in drives:
        np.bitwise_and(total, _LOW, out=carry)
        np.multiply(before, rate, out=total)
        total += carry
        total += drive
        np.right_shift(total, _BITS, out=drive)
        before = drive
    np.copyto(x, before)


def learning_signal(signal: I16 | I32, error: I16 | I32, feedback: I8, shift: int) -> None:
    """L <- sat16((sum_k B_jk error_k + 2**(q-1)) >> q), q = shift in [1, 16].

    signal  (S, n)  written, may lie in the memory of `error`, row on row
    error   (S, k)  read  Q0.15                                     feedback  (n, k)  read  B
    """
    for rows in tiles(len(error)):
        wide = error[rows].astype(np.int64)
        for units in tiles(len(feedback)):
            sums = wide @ feedback[units].T.astype(np.int64)
            sums += 1 << (shift - 1)
            sums >>= shift
            np.clip(sums, I16_MIN, I16_MAX, out=sums)
            np.copyto(signal[rows, units], sums, casting="unsafe")


def value_error(error: I32, outputs: I32 | I64, target: I16, shift: int) -> int:
    """error <- sat16((y - target * 2**12 + 2**(s-1)) >> s), s = shift; returns max(0, 2**15 - mean|error|).

    error  (S, k)  written  Q0.15     outputs  (S, k)  read  y, Q7.24     target  (S, k)  read  Q3.12
    """
    total = 0
    for rows in tiles(len(error)):
        wide = outputs[rows] - (target[rows].astype(np.int64) << 12) + (1 << (shift - 1)) >> shift
        np.clip(wide, I16_MIN, I16_MAX, out=wide)
        np.copyto(error[rows], wide, casting="unsafe")
        total += int(np.abs(wide).sum())
    return max(0, (1 << 15) - total // error.size)


def regularise(filtered: I16 | I32, spikes: U8, target: int, cost: int) -> None:
    """Lf <- sat16(Lf + R) at every step, R_j = sat16(((256 * sum_t spikes_j - f*) * c + 2**15) >> 16).

    The gradient of c (f_j - f*)**2 by e-prop (Bellec et al. 2020, Methods): no readout filter, the same at all steps.

    filtered  (T, n)  updated     spikes  (T, n)  read  zeros and ones     target  f*, Q8     cost  c
    """
    surplus = 256 * spikes.sum(axis=0, dtype=np.int64) - target
    push = np.clip(surplus * cost + (1 << 15) >> 16, I16_MIN, I16_MAX)
    for row in filtered:
        np.copyto(row, np.clip(row + push, I16_MIN, I16_MAX), casting="unsafe")


def filter_backwards(filtered: I16 | I32, signal: I16 | I32, kappa: int, state: I32 | None = None) -> None:
    """Lf[t] <- Lf[t+1] * kappa + signal[t] * (2**15 - kappa), with carry, from zero at the chunk's end.

    filtered  (T, n)  written   int16 values; may be `signal` itself     signal  (T, n)  read  int16 values
    state     (3, n)  scratch   int32; its own where not given
    """
    steps, n = signal.shape
    x, carry, total = np.zeros((3, n), np.int32) if state is None else state[:3]
    x[...], total[...] = 0, 0
    rate, share = np.array(kappa, np.int32), np.array((1 << 15) - kappa, np.int32)
    for rows in reversed(list(tiles(steps))):
        drives = signal[rows].astype(np.int32)  # |x| and |signal| <= 2**15: a convex sum of both fits 31 bits,
        drives *= share  # and what is left of it after the shift fits 16
        _leak_on(drives[::-1], x, total, carry, rate)
        np.copyto(filtered[rows], drives, casting="unsafe")


def post_factor(post: I16, psi: U8 | U16, filtered: I16 | I32, shift: int) -> None:
    """post <- sat16((psi * Lf + 2**(p-1)) >> p), p = shift in [1, 8].    All (T, n); post may be Lf itself."""
    for rows in tiles(len(post)):
        wide = psi[rows].astype(np.int32)
        wide *= filtered[rows]
        wide += 1 << (shift - 1)
        wide >>= shift
        np.clip(wide, I16_MIN, I16_MAX, out=wide)
        np.copyto(post[rows], wide, casting="unsafe")


def post_factor_adaptive(
    post: I16,
    psi: U8,
    filtered: I16 | I32,
    shift: int,
    gamma: int,
    beta: I64,
    rho: I64,
    state: I64 | None = None,
) -> None:
    """The ALIF form: the same, with one adjoint state a neuron running backwards in time.

        P = gamma * psi / 2**16;   post = psi * (L - beta * lambda);   lambda <- P * L + (rho - beta * P) * lambda

    lambda saturates at 32 bits, which |rho - beta * P| > 1 can reach.

    gamma        Q0.8: the surrogate's height (dz/dv = gamma * psi / 256 / threshold)
    beta, rho    (n,)  Q3.12 and Q0.15
    state        (n,)  scratch  int64; its own where not given
    The reset and refractoriness are not differentiated; credit through adaptation ends at the start of the chunk.
    post may be Lf itself.
    """
    steps, n = psi.shape
    lam = np.zeros(n, np.int64) if state is None else state
    lam[...] = 0
    for t in range(steps - 1, -1, -1):
        signal = filtered[t].astype(np.int64)
        seen = signal - (beta * lam + 2048 >> 12)
        wide = psi[t] * seen + (1 << (shift - 1)) >> shift
        np.copyto(post[t], np.clip(wide, I16_MIN, I16_MAX), casting="unsafe")
        after = (gamma * psi[t].astype(np.int64) * seen + (1 << 15) >> 16) + (rho * lam + (1 << 14) >> 15)
        np.clip(after, I32_MIN, I32_MAX, out=lam)


def gradient(
    out: Whole, history: I8 | I16 | I64, post: I16, top: int | None = None, loads: tuple[int, ...] | None = None
) -> None:
    """G <- history.T @ post, exactly: a tile of steps in float32 where max|trace| * max_j sum_t|post_j| <= 2**24.

    out  (m, n)  written, int32 where |G| < 2**31, as 128 steps of an int8 history are     history  (T, m)
    post (T, n)          top  max|trace|     loads  of each tile of `post`, see there

    A float64 holds what 128 steps of any history come to.
    """
    if len(history) == 1:
        np.multiply(history[0].astype(out.dtype)[:, None], post[0].astype(out.dtype), out=out)
        return
    most, begun = largest(history) if top is None else top, False
    for rows, load in zip(tiles(len(history)), tile_loads(post) if loads is None else loads, strict=True):
        if not most * load:
            continue
        carrier = np.float32 if most * load <= _EXACT_F32 else np.float64
        part = history[rows].T.astype(carrier) @ post[rows].astype(carrier)
        if begun:
            out += part.astype(out.dtype)
        else:
            np.copyto(out, part, casting="unsafe")
            begun = True
    if not begun:
        out[...] = 0


def gradient_spans(out: Whole, history: I8 | I16, floats: F32, top: int, loads: tuple[int, ...], spare: F32) -> None:
    """The same with `post` in float32 already, as many steps at a time as are exact there.

    floats  (T, n)  read     spare  (k,)  scratch; where it is too short, or one tile alone is not exact, slower
    """
    m, n = out.shape
    most, begun = max(0, spare.size - m * n) // max(1, m), False
    product = spare[: m * n].reshape(m, n) if most else None
    for rows, load in _spans(len(history), top, loads, most):
        steps = rows.stop - rows.start
        if product is None or top * load > _EXACT_F32 or steps > most:
            part: AnyArray = history[rows].T.astype(np.float64) @ floats[rows]
        else:
            left = spare[m * n : m * n + steps * m].reshape(steps, m)
            np.copyto(left, history[rows])
            np.dot(left.T, floats[rows], out=product)
            part = product
        if begun:
            out += part.astype(out.dtype)
        else:
            np.copyto(out, part, casting="unsafe")
            begun = True


def _spans(steps: int, top: int, loads: tuple[int, ...], most: int) -> Iterator[tuple[slice, int]]:
    """Neighbouring tiles of `most` steps whose product float32 holds, and what they load; at least one tile a span."""
    first, load = 0, 0
    for rows, more in zip(tiles(steps), loads, strict=True):
        if rows.start > first and (top * (load + more) > _EXACT_F32 or rows.stop - first > most):
            yield slice(first, rows.start), load
            first, load = rows.start, 0
        load += more
    yield slice(first, steps), load


def largest(history: I8 | I16 | I64) -> int:
    """max|trace|, 0 of none."""
    return max(int(history.max(initial=0)), -int(history.min(initial=0)))


def peaks(history: I8 | I16) -> I32:
    """(m,)  max_t|trace| of each row of a gradient: where it is 0, nothing came in."""
    found: I32
    if len(history) == 1:
        found = np.abs(history[0].astype(np.int32))
    else:
        found = np.maximum(history.max(axis=0, initial=0), np.negative(history.min(axis=0, initial=0), dtype=np.int32))
    return found


def tile_loads(post: I16) -> tuple[int, ...]:
    """max_j sum_t |post_j| of each tile of steps."""
    if len(post) == 1:
        return (largest(post),)
    return tuple(int(np.abs(post[rows].astype(np.float32)).sum(axis=0).max(initial=0)) for rows in tiles(len(post)))


def squared_norm(history: I8 | I16, post: I16, drop: int = 0) -> int:
    """|G|**2 / 2**24 of G = h.T @ post without forming G: sum_ts (<h_t, h_s> >> 12) * (<p_t, p_s> >> 12).

    h = history * 2**drop.

    history  (T, m)     post  (T, n)     T <= 128, m and n <= 2**16

    A bracket reaches 2**46, which float64 holds, and 2**34 after its cut; their product 2**68: one is cut at bit 17,
    a tile is summed in int64, the rest in Python. Brackets come in tiles of T x T, which is as wide as T at the most.
    """
    total, spans = 0, list(tiles(len(history)))
    for k, rows in enumerate(spans):
        for others in spans[k:]:
            left, right = _brackets(history, rows, others, drop), _brackets(post, rows, others)
            high, low = (int((part * right).sum()) for part in (left >> 17, left & 0x1FFFF))
            total += ((high << 17) + low) << (others != rows)  # both sides of the diagonal
    return max(0, total)


def _brackets(factor: I8 | I16, rows: slice, others: slice, drop: int = 0) -> I64:
    """<f_t, f_s> 2**(2 drop) >> 12 of the steps of two tiles."""
    found: I64 = (factor[rows].astype(np.float64) @ factor[others].astype(np.float64).T).astype(np.int64)
    found <<= 2 * drop
    found >>= 12
    return found


def tiles(count: int, begin: int = 0) -> Iterator[slice]:
    """Steps, or units, so many at a time: what numpy holds in wide carriers never grows with the window."""
    for first in range(begin, count, TILE):
        yield slice(first, min(first + TILE, count))
