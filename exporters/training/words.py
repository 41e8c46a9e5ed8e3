"""Words to train on: recordings as spectra, and the many ways in which someone else might have said them.

What a net sees is made by the device's own integers (`edgerun/kernels/sound.py`); between them lie the changes:

    length of the vocal tract   bands moved up or down by a factor       microphone, room   gain by band, noise
    tempo                       windows spread unevenly                  ends               cut a little early or late
    and a few bands or moments are blotted out
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgerun.arrays import F64, I16, I64
from edgerun.encode.sound import levels
from edgerun.kernels import sound
from edgerun.spec import LogMel

HOP: Final = 32  # samples from one stored spectrum to the next
MARGIN: Final = 8  # stored spectra before and after the loud part


@dataclass(frozen=True, slots=True)
class Word:
    """The power spectra of one recording, every HOP samples, its loud part and a little around it.

    power  (n, bins)  int64      first, last  the loud part's first and last window
    """

    power: I64
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """How far words are changed; deviations and the largest factors."""

    tract: float = 0.18  # vocal tract: a factor of 1 -+ this
    ends: float = 0.06  # deviation of either end, as a share of the length
    tempo: float = 0.15  # deviation of the bend in time
    noisy: float = 0.3  # share of words with noise, 5 to 30 dB under them
    tilt: float = 0.7  # deviation of the gain at four places of the band, octaves of energy
    bands: int = 4  # blotted out, at most
    moments: int = 3


def word(front: LogMel, wave: I16) -> Word:
    """The spectra of one recording."""
    x = sound.amplified(wave)
    begin, end = sound.endpoints(x, front.quiet_shift)
    start = max(0, begin - MARGIN * HOP)
    stop = min(len(x), end + MARGIN * HOP)
    padded = np.concatenate([x[start:stop], np.zeros(front.window, np.int16)]).astype(np.float64)
    count = max(1, (stop - start - front.window) // HOP + 1)
    windows = padded[np.arange(count)[:, None] * HOP + np.arange(front.window)]
    last = min(count - 1, max(0, (end - front.window - start) // HOP))
    return Word(sound.spectra(windows, sound.fourier(front.window)), min((begin - start) // HOP, last), last)


class Speaker:
    """Says words in changed ways: features q (frames * bands,) int16, as the front would give them.

    noises  power spectra (n, bins) of background noise; may be empty
    """

    def __init__(
        self, front: LogMel, frames: int, bands: int, noises: Sequence[I64], changes: Changes, seed: int
    ) -> None:
        self._front, self._frames, self._bands = front, frames, bands
        self._noises, self._changes = noises, changes
        self._rng = np.random.default_rng(seed)
        self._banks = [self._bank(factor) for factor in np.linspace(1 - changes.tract, 1 + changes.tract, 15)]
        self._plain = self._bank(1.0)

    def plain(self, spoken: Word) -> I16:
        """As it was said."""
        at = np.round(np.linspace(spoken.first, spoken.last, self._frames)).astype(np.int64)
        return levels(self._front, self._log(spoken.power[at].astype(np.float64), self._plain))

    def changed(self, spoken: Word) -> I16:
        """As somebody else might have said it somewhere else."""
        rng, change = self._rng, self._changes
        power = spoken.power[self._moments(spoken)].astype(np.float64)
        if len(self._noises) and rng.random() < change.noisy:
            power = power + self._noise(float(power.mean()))
        log = self._log(power, self._banks[rng.integers(len(self._banks))])
        places = np.linspace(0, self._bands - 1, 4)
        tilt = np.interp(np.arange(self._bands), places, rng.normal(0, change.tilt, 4))
        q = levels(self._front, log + np.round(sound.OCTAVE * tilt).astype(np.int64)).reshape(self._frames, -1)
        width, at = rng.integers(0, change.bands + 1), rng.integers(0, self._bands - change.bands)
        q[:, at : at + width] = 0
        width, at = rng.integers(0, change.moments + 1), rng.integers(0, self._frames - change.moments)
        q[at : at + width] = 0
        return q.reshape(-1)

    def _bank(self, factor: float) -> F64:
        """The front's bands, each `factor` times as high."""
        front = self._front
        edges = factor * sound.mel_edges(self._bands, front.low_hz, front.high_hz)
        return sound.triangles(edges, front.window, front.sample_rate)

    def _log(self, power: F64, bank: F64) -> I64:
        return sound.log2_steps((power @ bank).astype(np.int64) + 1)

    def _moments(self, spoken: Word) -> I64:
        """Which spectra to look at: both ends a little off, and the time between them bent."""
        rng, last = self._rng, len(spoken.power) - 1
        length = spoken.last - spoken.first
        begin, end = np.array([spoken.first, spoken.last]) + rng.normal(0, self._changes.ends * length, 2)
        along = np.linspace(0, 1, self._frames)
        along = along + 1.5 * rng.normal(0, self._changes.tempo) * along * (1 - along)
        found: I64 = np.clip(np.round(begin + (end - begin) * along), 0, last).astype(np.int64)
        return found

    def _noise(self, level: float) -> F64:
        noise = self._noises[int(self._rng.integers(len(self._noises)))]
        at = self._rng.integers(len(noise) - self._frames)
        some = noise[at : at + self._frames].astype(np.float64)
        loudness = level / (float(some.mean()) + 1) / 10 ** self._rng.uniform(0.5, 3.0)
        found: F64 = np.floor(some * loudness)
        return found
