"""From sound to log-mel energies, in integers: where a word lies, spectra of its frames, bands, logarithms.

All sums are exact: spectra stay under 2**38 and bands under 2**52, inside what float64 carries.
"""

from __future__ import annotations

import math

import numpy as np

from edgerun.arrays import F64, I16, I64

FULL_SCALE = 1 << 15
BLOCK = 64  # samples whose energy is judged together
TABLE_BITS = 14
SPECTRUM_SHIFT = 15
POWER_SHIFT = 8
CROSSINGS = 16  # of zero on each side of a tap of `resampled`
CUTOFF = 0.95
AT_ONCE = 4096  # samples that `resampled` makes together
OCTAVE = 32  # steps of a logarithm in which the energy doubles


def amplified(x: I16) -> I16:
    """x * 2**k, k the most that leaves the loudest sample in 16 bits; silence stays silence.    x  (n,)"""
    peak = int(np.abs(x.astype(np.int32)).max(initial=0))
    louder: I16 = x << max(0, 15 - peak.bit_length()) if peak else x
    return louder


def endpoints(x: I16, quiet_shift: int) -> tuple[int, int]:
    """Where the loud part begins and ends: blocks whose energy is over the loudest one's / 2**quiet_shift.

    An energy is that of a block of 64 samples and its two neighbours; a rest of under 64 samples is not looked at.
    x  (n,)  read    ->    first and last + 1, in samples; all of x where it is shorter than a block or silent
    """
    whole = len(x) // BLOCK
    energy = (x[: whole * BLOCK].reshape(whole, BLOCK).astype(np.int64) ** 2).sum(axis=1)
    padded = np.concatenate([[0], energy, [0]])
    energy = padded[:-2] + padded[1:-1] + padded[2:]
    loud = np.flatnonzero(energy > (int(energy.max(initial=0)) >> quiet_shift))
    return (int(loud[0]) * BLOCK, (int(loud[-1]) + 1) * BLOCK) if len(loud) else (0, len(x))


def frame_starts(first: int, last: int, window: int, frames: int) -> I64:
    """Starts of `frames` windows spread evenly over [first, last): start_t = first + t * room // (frames - 1)."""
    room = max(0, last - first - window)
    found: I64 = first + np.arange(frames, dtype=np.int64) * room // max(1, frames - 1)
    return found


def resampled(x: I16, rate: int, wanted: int) -> I16:
    """x at `rate` Hz as it would be at `wanted` <= rate, without what is over 0.95 of half of that.

        y[n] = floor(sum_k x[k] h[n * rate / wanted - k] / 2**15 + 1/2)

    h is a sinc under a squared cosine in whole numbers that add up to about 2**15, so sums are exact.
    """
    common = math.gcd(rate, wanted)
    up, down = wanted // common, rate // common
    half = math.ceil(CROSSINGS * rate / (CUTOFF * wanted))
    place = np.arange(1 - half, half + 1)[None, :] - np.arange(up)[:, None] / up
    width = CUTOFF * wanted / rate
    taps = np.sinc(width * place) * np.cos(np.pi * place / (2 * half + 2)) ** 2
    taps = np.floor(FULL_SCALE * taps / taps.sum(axis=1, keepdims=True) + 0.5)
    padded = np.pad(x, half).astype(np.float64)
    found = np.empty(-(-len(x) * up // down), np.int16)
    for start in range(0, len(found), AT_ONCE):
        at = np.arange(start, min(start + AT_ONCE, len(found)), dtype=np.int64) * down
        around = padded[(at // up + 1)[:, None] + np.arange(2 * half)]
        sums = np.floor((around * taps[at % up]).sum(axis=1) / FULL_SCALE + 0.5)
        found[start : start + AT_ONCE] = np.clip(sums, -FULL_SCALE, FULL_SCALE - 1)
    return found


def fourier(window: int) -> F64:
    """(window, window + 2) whole numbers: the Hann window times cosine, then times sine, of bins 0 to window / 2.

    t[n, k] = round(2**14 * (1/2 - cos(2 pi n / N) / 2) * cos(2 pi n k / N)), likewise with the sine
    """
    n, bins = np.arange(window)[:, None], np.arange(window // 2 + 1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / window)
    turn = 2 * np.pi * (n * bins % window) / window
    table = np.concatenate([hann * np.cos(turn), hann * np.sin(turn)], axis=1)
    return np.floor(table * (1 << TABLE_BITS) + 0.5)


def mel_edges(bands: int, low_hz: float, high_hz: float) -> F64:
    """(bands + 2,) frequencies in Hz, evenly spaced in mel, 2595 log10(1 + f / 700): band k lies on k, k + 1, k + 2."""
    found: F64 = 700 * (10 ** (np.linspace(_mel(low_hz), _mel(high_hz), bands + 2) / 2595) - 1)
    return found


def triangles(edges: F64, window: int, rate: int) -> F64:
    """(window / 2 + 1, bands) whole numbers in [0, 256], each band a triangle over its edges.

    A band so narrow, or so high, that it holds no bin takes the one nearest to its middle.
    """
    bins = np.arange(window // 2 + 1) * rate / window
    bank = np.zeros((len(bins), len(edges) - 2))
    for k, (left, middle, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        rise, fall = (bins - left) / (middle - left), (right - bins) / (right - middle)
        bank[:, k] = np.floor(256 * np.clip(np.minimum(rise, fall), 0, None) + 0.5)
        if not bank[:, k].any():
            bank[np.argmin(np.abs(bins - middle)), k] = 256
    return bank


def spectra(frames: F64, table: F64) -> I64:
    """Power (t, bins): ((re >> 15)**2 + (im >> 15)**2) >> 8 of the frames' products with `fourier`.

    frames  (t, window)  whole numbers of 16 bits      table  (window, 2 * bins)
    """
    parts = np.floor(frames @ table / (1 << SPECTRUM_SHIFT)).astype(np.int64)
    bins = table.shape[1] // 2
    power: I64 = (parts[:, :bins] ** 2 + parts[:, bins:] ** 2) >> POWER_SHIFT
    return power


def log2_steps(energy: I64) -> I64:
    """32 * log2(e), straight between powers of two: 32 n + ((32 e >> n) - 32), n = the highest bit of e >= 1."""
    n = np.frexp(energy.astype(np.float64))[1].astype(np.int64) - 1
    n -= (np.int64(1) << n) > energy  # the nearest float64 may lie one octave up
    low, high = np.minimum(n, 5), np.maximum(n - 5, 0)
    found: I64 = OCTAVE * n + ((energy >> high) << (5 - low)) - OCTAVE
    return found


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)
