"""The Free Spoken Digit Dataset as words: `fsdd.npz` and `background_noise_8k.npz` in the folder EDGERUN_DATA.

Takes 0 to 4 of each digit and speaker are the authors' test part; nothing here trains on them.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgerun.arrays import I16, I64
from edgerun.kernels import sound
from edgerun.spec import LogMel
from exporters.training.words import HOP

FRONT = LogMel(sample_rate=8000)
FRAMES, BANDS = 24, 32
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_TAKES = 5


@dataclass(frozen=True)
class Recordings:
    """Sounds, their digits, speakers and takes."""

    waves: tuple[I16, ...]
    digit: I64
    speaker: I64
    take: I64
    speakers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.waves)

    def take_of(self, index: Any) -> Recordings:
        index = np.arange(len(self))[index]
        waves = tuple(self.waves[k] for k in index)
        return Recordings(waves, self.digit[index], self.speaker[index], self.take[index], self.speakers)

    @property
    def for_test(self) -> Any:
        return self.take < TEST_TAKES

    def save(self, path: Path) -> None:
        """As a ragged data file that `edgerun export`, `infer` and `adapt` read."""
        lengths = [len(wave) for wave in self.waves]
        np.savez(
            path,
            samples=np.concatenate(self.waves),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            label=self.digit.astype(np.uint8),
            class_names=np.array(CLASSES),
            sample_rate=np.int32(FRONT.sample_rate),
        )


def folder() -> Path:
    found = os.environ.get("EDGERUN_DATA")
    if not found or not Path(found, "fsdd.npz").is_file():
        raise SystemExit("EDGERUN_DATA must name a folder with fsdd.npz and background_noise_8k.npz")
    return Path(found)


def load() -> Recordings:
    with np.load(folder() / "fsdd.npz") as file:
        samples, starts = file["samples"], file["offsets"]
        return Recordings(
            tuple(samples[a:b] for a, b in itertools.pairwise(starts)),
            file["label"].astype(np.int64),
            file["speaker"].astype(np.int64),
            file["take"].astype(np.int64),
            tuple(str(name) for name in file["speaker_names"]),
        )


def noises(seconds: float = 5.0) -> list[I64]:
    """Power spectra of the first seconds of each background noise."""
    with np.load(folder() / "background_noise_8k.npz") as file:
        waves = file["samples"][:, : int(seconds * FRONT.sample_rate)]
    table, at = sound.fourier(FRONT.window), np.arange(FRONT.window)
    found = []
    for wave in waves:
        starts = np.arange(0, len(wave) - FRONT.window, HOP)[:, None]
        found.append(sound.spectra(sound.amplified(wave)[starts + at].astype(np.float64), table))
    return found
