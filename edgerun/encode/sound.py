"""A recording as the log-mel features that `spec.LogMel` describes, whole numbers from end to end.

    x <- x * 2**k, as loud as 16 bits allow;   first, last = the loud part of x
    P = |spectrum|**2 of windows spread evenly over [first, last);   L = 32 log2(1 + P @ bank)
    L <- max(L, max(L) - 32 * floor_octaves);   q = clip((L - floor(mean L) + half) >> step_shift, -128, 127)

The level of the recording falls out with the mean, and its length with the spread of the windows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

from edgerun.arrays import F64, I16, I64, AnyArray
from edgerun.errors import DataError
from edgerun.kernels import sound
from edgerun.spec import InputSpec, LogMel

CHANNELS: Final = 8
"""The most channels of a file's recording."""
FAR: Final = 4
"""Real numbers this far beyond [-1, 1] are in another unit."""


def log_mel(front: LogMel, spec: InputSpec, x: AnyArray) -> I16:
    """Features q (frames * bands,) of one recording x (samples,): int16 as a microphone gives it, or real in [-1, 1].

    Raises DataError for other types and shapes, samples that are not finite, and no or too many samples.
    """
    wave, (frames, bands) = sound.amplified(_wave(x, front.longest)), spec.shape
    first, last = sound.endpoints(wave, front.quiet_shift)
    starts = sound.frame_starts(first, last, front.window, frames)
    padded = np.concatenate([wave, np.zeros(front.window, np.int16)]).astype(np.float64)
    windows = padded[starts[:, None] + np.arange(front.window)]
    fourier, bank = _tables(front.window, front.sample_rate, bands, front.low_hz, front.high_hz)
    energy = (sound.spectra(windows, fourier).astype(np.float64) @ bank).astype(np.int64)
    return levels(front, sound.log2_steps(energy + 1))


def heard_at(front: LogMel, x: AnyArray, rate: int) -> I16:
    """A file's recording as the front's microphone would have given it, int16 (samples,).

    x     whole or real numbers of any unit, since the level falls out; uint8 as in WAV files, about 128. (samples,), or
          with a second axis of at most 8 channels, whose mean counts
    rate  its samples a second, at least the front's

    What is int16 at the front's own rate stays as it is; what is longer than a device has room for loses zeros at its
    end, with which files fill up. Raises DataError on what is no recording, and on less than one window of it.
    """
    shape = x.shape
    if x.ndim == 2 and min(x.shape) <= CHANNELS:
        x = x.mean(axis=int(np.argmin(x.shape))) if min(x.shape) > 1 else x.reshape(-1)
    if x.ndim != 1 or not len(x) or x.dtype.kind not in "fiu":
        raise DataError(f"a recording has {x.dtype} {x.shape}, must be numbers of shape (samples,)")
    wave = x if x.dtype == np.int16 else _loud(x.astype(np.float64) - (128 if x.dtype == np.uint8 else 0))
    if rate != front.sample_rate:
        wave = sound.resampled(wave, rate, front.sample_rate)
    if len(wave) < front.window:
        raise DataError(
            f"a recording of shape {shape} lasts {len(wave)} samples, one window alone takes {front.window}"
        )
    return np.trim_zeros(wave, "b") if len(wave) > front.longest and wave.any() else wave


def _loud(real: F64) -> I16:
    """Real numbers as int16 whose loudest fills 16 bits, as far as that is a power of two; at most 14 doublings."""
    if not np.isfinite(real).all():
        raise DataError(f"a recording has {int((~np.isfinite(real)).sum())} values that are not finite")
    doublings = -int(np.frexp(np.abs(real).max())[1])
    scaled = np.ldexp(real, 15 + min(doublings, 14))
    wave: I16 = np.clip(np.floor(scaled + 0.5), -sound.FULL_SCALE, sound.FULL_SCALE - 1).astype(np.int16)
    return wave


def levels(front: LogMel, log_energy: I64) -> I16:
    """q (frames * bands,) of log energies (frames, bands), 32 steps an octave."""
    raised = np.maximum(log_energy, log_energy.max() - sound.OCTAVE * front.floor_octaves)
    half = (1 << front.step_shift) >> 1
    steps = (raised - raised.sum() // raised.size + half) >> front.step_shift
    q: I16 = np.clip(steps, -128, 127).astype(np.int16).reshape(-1)
    return q


def step_of(front: LogMel) -> float:
    """Octaves of energy that one step of the input stands for."""
    return (1 << front.step_shift) / sound.OCTAVE


@lru_cache(maxsize=4)
def _tables(window: int, rate: int, bands: int, low_hz: float, high_hz: float) -> tuple[F64, F64]:
    return sound.fourier(window), sound.triangles(sound.mel_edges(bands, low_hz, high_hz), window, rate)


def _wave(x: AnyArray, longest: int) -> I16:
    """Samples as int16."""
    if x.ndim != 1 or not 1 <= len(x) <= longest:
        raise DataError(f"a recording has shape {x.shape}, must be (samples,) of 1 to {longest} samples")
    if x.dtype == np.int16:
        return x
    if x.dtype.kind != "f":
        raise DataError(f"a recording has dtype {x.dtype}, must be int16, or float in [-1, 1]")
    real = x.astype(np.float64)
    if not np.isfinite(real).all():
        raise DataError(f"a recording has {int((~np.isfinite(real)).sum())} values that are not finite")
    if np.abs(real).max() > FAR:
        raise DataError(f"a recording reaches {np.abs(real).max():g}, real numbers must be in [-1, 1]")
    wave: I16 = np.clip(np.floor(real * sound.FULL_SCALE + 0.5), -sound.FULL_SCALE, sound.FULL_SCALE - 1).astype(
        np.int16
    )
    return wave
