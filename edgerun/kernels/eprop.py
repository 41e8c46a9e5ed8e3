"""e-prop over one recorded window, deferred: eligibilities are rank one in time, so the gradient is one matrix product.

    trace_i[t] = leak(trace_i[t-1]) + 2**f * pre_i[t]                 f = floor(log2(32767 * (1 - d / 2**15) / reach))
    L_j[t]     = sat16((sum_k B_jk error_k[t] + 2**(q-1)) >> q);   Lf = L filtered backwards, + R_j of the firing rate
    post_j[t]  = sat16((psi_j[t] * Lf_j[t] + 2**(p-1)) >> p)
    G_ij       = sum_t trace_i[t] * post_j[t]                         an exact integer in any carrier

The readout filter runs backwards on the learning signal, which equals filtering every eligibility forwards in real
arithmetic and costs T * n instead of n * n. Dynamics and rule: Bellec et al. 2020, Methods.
"""

from __future__ import annotations

import numpy as np

from edgerun.arrays import I8, I16, I32, I64, U8, U16
from edgerun.kernels.spiking import I16_MAX, I16_MIN, I32_MAX, I32_MIN, leak

_EXACT_F32 = 1 << 24
_EXACT_F64 = 1 << 53


def trace_gain(decay: int, reach: int = 1) -> int:
    """f of the trace's increment 2**f: the largest with which a unit giving `reach` at every step cannot saturate."""
    room = (32767 * (32768 - decay) >> 15) // reach
    return max(0, room.bit_length() - 1)


def traces(history: I16, pre: I16 | U8, decay: int, reach: int = 1) -> None:
    """history[t] <- the presynaptic trace after step t, from zero at the start of the chunk.

    history  (T, m)  written   int16, cannot saturate where 32767 * (1 - decay / 2**15) >= reach
    pre      (T, m)  read      |pre| <= reach: zeros and ones of spikes, or values
    """
    steps, m = pre.shape
    x, carry, rate = np.zeros(m, np.int32), np.zeros(m, np.int32), np.full(m, decay, np.int32)
    gain = trace_gain(decay, reach)
    for t in range(steps):
        leak(x, carry, rate, pre[t].astype(np.int32) << gain)
        history[t] = x


def learning_signal(signal: I32, error: I32, feedback: I8, shift: int) -> None:
    """L <- sat16((sum_k B_jk error_k + 2**(q-1)) >> q), q = shift in [1, 16].

    signal  (S, n)  written     error  (S, k)  read  Q0.15     feedback  (n, k)  read  B
    """
    wide = error.astype(np.int64) @ feedback.T.astype(np.int64)
    np.copyto(signal, np.clip(wide + (1 << (shift - 1)) >> shift, I16_MIN, I16_MAX), casting="unsafe")


def value_error(error: I32, outputs: I64, target: I16, shift: int) -> int:
    """error <- sat16((y - target * 2**12 + 2**(s-1)) >> s), s = shift; returns max(0, 2**15 - mean|error|).

    error  (S, k)  written  Q0.15     outputs  (S, k)  read  y, Q7.24     target  (S, k)  read  Q3.12
    """
    wide = outputs - (target.astype(np.int64) << 12) + (1 << (shift - 1)) >> shift
    np.copyto(error, np.clip(wide, I16_MIN, I16_MAX), casting="unsafe")
    return max(0, (1 << 15) - int(np.abs(error).sum()) // error.size)


def regularise(filtered: I32, spikes: U8, target: int, cost: int) -> None:
    """Lf <- sat16(Lf + R) at every step, R_j = sat16(((256 * sum_t spikes_j - f*) * c + 2**15) >> 16).

    The gradient of c (f_j - f*)**2 by e-prop (Bellec et al. 2020, Methods): no readout filter, the same at all steps.

    filtered  (T, n)  updated     spikes  (T, n)  read  zeros and ones     target  f*, Q8     cost  c
    """
    surplus = 256 * spikes.sum(axis=0, dtype=np.int64) - target
    push = np.clip(surplus * cost + (1 << 15) >> 16, I16_MIN, I16_MAX)
    np.copyto(filtered, np.clip(filtered + push, I16_MIN, I16_MAX), casting="unsafe")


def filter_backwards(filtered: I32, signal: I32, kappa: int) -> None:
    """Lf[t] <- Lf[t+1] * kappa + signal[t] * (2**15 - kappa), with carry, from zero at the chunk's end.

    filtered  (T, n)  written   int16 values in int32     signal  (T, n)  read   int16 values in int32
    """
    steps, n = signal.shape
    state, carry = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for t in range(steps - 1, -1, -1):
        wide = state * kappa + signal[t] * np.int64((1 << 15) - kappa) + carry
        np.bitwise_and(wide, 0x7FFF, out=carry)
        state = np.clip(wide >> 15, I16_MIN, I16_MAX)
        filtered[t] = state


def post_factor(post: I16, psi: U8 | U16, filtered: I32, shift: int) -> None:
    """post <- sat16((psi * Lf + 2**(p-1)) >> p), p = shift in [1, 8].    All (T, n)."""
    wide = psi.astype(np.int32) * filtered
    wide += 1 << (shift - 1)
    wide >>= shift
    np.copyto(post, np.clip(wide, I16_MIN, I16_MAX), casting="unsafe")


def post_factor_adaptive(post: I16, psi: U8, filtered: I32, shift: int, gamma: int, beta: I64, rho: I64) -> None:
    """The ALIF form: the same, with one adjoint state a neuron running backwards in time.

        P = gamma * psi / 2**16;   post = psi * (L - beta * lambda);   lambda <- P * L + (rho - beta * P) * lambda

    lambda saturates at 32 bits, which |rho - beta * P| > 1 can reach.

    gamma        Q0.8: the surrogate's height (dz/dv = gamma * psi / 256 / threshold)
    beta, rho    (n,)  Q3.12 and Q0.15
    The reset and refractoriness are not differentiated; credit through adaptation ends at the start of the chunk.
    """
    steps, n = psi.shape
    lam = np.zeros(n, np.int64)
    for t in range(steps - 1, -1, -1):
        signal = filtered[t].astype(np.int64)
        seen = signal - (beta * lam + 2048 >> 12)
        wide = psi[t] * seen + (1 << (shift - 1)) >> shift
        np.copyto(post[t], np.clip(wide, I16_MIN, I16_MAX), casting="unsafe")
        lam = (gamma * psi[t].astype(np.int64) * seen + (1 << 15) >> 16) + (rho * lam + (1 << 14) >> 15)
        np.clip(lam, I32_MIN, I32_MAX, out=lam)


def gradient(out: I64, history: I16, post: I16) -> None:
    """G <- history.T @ post, exactly, in the cheapest carrier that B = max|trace| * max_j sum_t|post_j| allows.

    out  (m, n)  written     history  (T, m)     post  (T, n)
    """
    bound = int(np.abs(history.astype(np.int32)).max(initial=0)) * int(
        np.abs(post.astype(np.int64)).sum(axis=0).max(initial=0)
    )
    if bound <= _EXACT_F32:
        np.copyto(out, history.T.astype(np.float32) @ post.astype(np.float32), casting="unsafe")
    elif bound <= _EXACT_F64:
        np.copyto(out, history.T.astype(np.float64) @ post.astype(np.float64), casting="unsafe")
    else:
        np.matmul(history.T.astype(np.int64), post.astype(np.int64), out=out)


def squared_norm(history: I16, post: I16) -> int:
    """|G|**2 / 2**24 of G = history.T @ post without forming G: sum_ts (<h_t, h_s> >> 12) * (<p_t, p_s> >> 12).

    history  (T, m)     post  (T, n)     T <= 128, m and n <= 2**16

    A bracket reaches 2**34, their product 2**68: one is cut at bit 17, rows are summed in int64, the rest in Python.
    """
    h, p = history.astype(np.int64), post.astype(np.int64)
    left, right = h @ h.T >> 12, p @ p.T >> 12
    high, low = ((part * right).sum(axis=1).tolist() for part in (left >> 17, left & 0x1FFFF))
    total: int = (sum(high) << 17) + sum(low)
    return max(0, total)
