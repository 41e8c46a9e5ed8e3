"""Sensors that play recordings and go wrong on schedule, all from one seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import numpy as np

from edgerun.arrays import F64, I64, AnyArray
from edgerun.errors import DataError
from edgerun.ports import Sample
from firmware_sim.faults import Fault

Order: TypeAlias = Literal["blocks", "shuffled", "given"]
BLOCK_CLASSES: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """From sample number `at` on, x <- gain * rotate(x) + offset + noise, then readings stick or go missing.

    Reached over `over` samples, linearly from what was before; stuck and nan_share act at once.
    """

    at: int
    over: int = 0
    rotate_deg: float = 0.0  # counter-clockwise, about the centre of a square image
    gain: float = 1.0
    offset: float = 0.0
    noise: float = 0.0  # standard deviation
    stuck: bool = False  # repeats the last reading before it got stuck
    nan_share: float = 0.0  # of the values of a reading, missing at random

    def __post_init__(self) -> None:
        for name, low, high in (
            ("at", 0, math.inf),
            ("over", 0, math.inf),
            ("noise", 0, math.inf),
            ("nan_share", 0, 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise DataError(f"drift {name} {value} is not in [{low}, {high}]")


def rotate(image: F64, degrees: float) -> F64:
    """A square image (n, n) turned counter-clockwise about its centre by bilinear interpolation, zero outside."""
    n = len(image)
    angle = math.radians(degrees)
    centre = (n - 1) / 2
    row, column = np.mgrid[0:n, 0:n] - centre
    source_row = math.cos(angle) * row + math.sin(angle) * column + centre
    source_column = -math.sin(angle) * row + math.cos(angle) * column + centre
    padded = np.pad(np.asarray(image, dtype=np.float64), 1)
    top = np.clip(np.floor(source_row), -1, n - 1)
    left = np.clip(np.floor(source_column), -1, n - 1)
    down = np.clip(source_row - top, 0.0, 1.0)
    right = np.clip(source_column - left, 0.0, 1.0)
    i, j = top.astype(np.int64) + 1, left.astype(np.int64) + 1
    upper = padded[i, j] * (1 - right) + padded[i, j + 1] * right
    lower = padded[i + 1, j] * (1 - right) + padded[i + 1, j + 1] * right
    turned: F64 = upper * (1 - down) + lower * down
    return turned


def playing_order(labels: Sequence[str], order: Order, rng: np.random.Generator) -> I64:
    """Indices in playing order. `blocks`: classes in sorted order, two at a time, shuffled inside a block."""
    if order == "given":
        return np.arange(len(labels), dtype=np.int64)
    shuffled = rng.permutation(len(labels))
    if order == "shuffled":
        return shuffled
    block = {name: rank // BLOCK_CLASSES for rank, name in enumerate(sorted(set(labels)))}
    ranks = np.array([block[labels[index]] for index in shuffled])
    played: I64 = shuffled[np.argsort(ranks, kind="stable")]
    return played


class Recording:
    """`ports.Sensor` that plays N samples, as float64, under drifts and faults; then raises StopIteration.

    `samples` says how many it plays, from the first again when all were played; once through where it is None.
    `supervised` is the share of samples that come with their label, "" being none. `truth` is the label of the newest
    one for whoever keeps the score; it never crosses the port.
    """

    def __init__(
        self,
        x: Sequence[AnyArray] | AnyArray,
        labels: Sequence[str],
        schedule: Sequence[Drift] = (),
        *,
        faults: Sequence[Fault] = (),
        order: Order = "given",
        supervised: float = 1.0,
        samples: int | None = None,
        seed: int = 1,
    ) -> None:
        """Raises DataError for labels that do not match, drifts out of order, or a rotation of what is not square."""
        if len(x) != len(labels):
            raise DataError(f"recording has {len(labels)} labels for {len(x)} samples")
        if [drift.at for drift in schedule] != sorted({drift.at for drift in schedule}):
            raise DataError(f"drifts at {', '.join(str(drift.at) for drift in schedule)} do not rise")
        self._side = math.isqrt(x[0].size)
        if any(drift.rotate_deg for drift in schedule) and any(sample.size != self._side**2 for sample in x):
            raise DataError(f"samples of shape {x[0].shape} are no square image to rotate")
        self._rng = np.random.default_rng(seed)
        self._x, self._labels, self._supervised = x, tuple(labels), supervised
        self._schedule, self._faults = (Drift(at=0), *schedule), tuple(faults)
        self._order = playing_order(labels, order, self._rng)
        self._samples = len(x) if samples is None else samples
        self._last: F64 | None = None
        self.played = 0
        self.truth: str | None = None

    def __len__(self) -> int:
        return self._samples

    def read(self) -> Sample:
        if self.played >= self._samples:
            raise StopIteration
        index = int(self._order[self.played % len(self._order)])
        drift = with_faults(drift_at(self._schedule, self.played), self._faults, self.played)
        self.truth = self._labels[index]
        self.played += 1
        labelled = self._rng.random() < self._supervised
        return Sample(x=self._distort(self._x[index], drift), label=(self.truth or None) if labelled else None)

    def _distort(self, raw: AnyArray, drift: Drift) -> F64:
        x = np.array(raw, dtype=np.float64)
        if drift.stuck and self._last is not None:
            return self._last.copy()
        if drift.rotate_deg:
            x = rotate(x.reshape(self._side, self._side), drift.rotate_deg).reshape(x.shape)
        x = drift.gain * x + drift.offset
        if drift.noise:
            x += self._rng.normal(0.0, drift.noise, x.shape)
        self._last = x.copy()
        if drift.nan_share:
            x[self._rng.random(x.shape) < drift.nan_share] = np.nan
        return x


def drift_at(schedule: Sequence[Drift], number: int) -> Drift:
    """The drift in force at a sample: the newest one, blended in from the one before over its `over` samples."""
    place = max(i for i, drift in enumerate(schedule) if drift.at <= number)
    now, before = schedule[place], schedule[max(0, place - 1)]
    share = 1.0 if now.over == 0 else min(1.0, (number - now.at) / now.over)
    blended = {
        name: getattr(before, name) + share * (getattr(now, name) - getattr(before, name))
        for name in ("rotate_deg", "gain", "offset", "noise")
    }
    return Drift(at=now.at, over=now.over, stuck=now.stuck, nan_share=now.nan_share, **blended)


def with_faults(drift: Drift, faults: Sequence[Fault], number: int) -> Drift:
    """The drift with what the faults `stuck` and `nan` add at this sample; other kinds are not the sensor's."""
    here = [
        fault
        for fault in faults
        if fault.kind in ("stuck", "nan") and 0 <= number - fault.arguments["sample"] < fault.arguments["for"]
    ]
    return replace(
        drift,
        stuck=drift.stuck or any(fault.kind == "stuck" for fault in here),
        nan_share=max([drift.nan_share, *(fault.arguments["share"] for fault in here if fault.kind == "nan")]),
    )
