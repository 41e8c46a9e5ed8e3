"""A benchmark's runs of lifelong learning: one record an arm and seed, and the file that keeps them all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, field

from edgerun import metrics
from edgerun.errors import DataError
from edgerun.spec import Record

Name = Annotated[str, Meta(min_length=1, max_length=80)]


class Run(Record, frozen=True, kw_only=True):
    """One arm of one scenario, once.

    matrix        (N, N)  R[i][j]: accuracy on task j after training through task i, shares; empty where it has no tasks
    untrained     (N,)    accuracy before any training, or empty
    memory_bytes  by part; "inference" is the net that learns nothing, every other part is what learning adds
    energy_uj     by act; "inference" and "update" have a ratio, the learning tax
    figures       anything else that was measured, by name
    tasks         (N,)    names of the tasks, or empty
    """

    scenario: Name
    arm: Name
    seed: int
    matrix: list[list[float]] = field(default_factory=list)
    untrained: list[float] = field(default_factory=list)
    memory_bytes: dict[Name, Annotated[int, Meta(ge=0)]] = field(default_factory=dict)
    energy_uj: dict[Name, Annotated[float, Meta(ge=0)]] = field(default_factory=dict)
    figures: dict[Name, float] = field(default_factory=dict)
    tasks: list[Name] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.matrix):
            metrics.checked(self.matrix)
        for name, values in (("untrained", self.untrained), ("tasks", self.tasks)):
            if len(values) not in (0, len(self.matrix)):
                raise DataError(f"{name} has {len(values)} entries, the matrix {len(self.matrix)} tasks")


def measures(run: Run) -> dict[str, float]:
    """What can be said of a run in one number each: its matrix' figures, overhead, learning tax, its own figures."""
    found: dict[str, float | None] = {}
    if len(run.matrix):
        found = {
            "ACC": metrics.accuracy(run.matrix),
            "session average": metrics.session_average(run.matrix),
            "BWT": metrics.backward_transfer(run.matrix),
            "FWT": metrics.forward_transfer(run.matrix, run.untrained) if len(run.untrained) else None,
            "forgetting": metrics.forgetting(run.matrix),
        }
    still = run.memory_bytes.get("inference", 0)
    found["memory overhead"] = sum(run.memory_bytes.values()) / still - 1 if still else None
    one = run.energy_uj.get("inference", 0.0)
    found["learning tax"] = run.energy_uj["update"] / one if one and "update" in run.energy_uj else None
    return {name: value for name, value in found.items() if value is not None} | run.figures


SHARES = ("ACC", "session average", "BWT", "FWT", "forgetting")
"""Measures that are told in percent; the others stand as they are."""


def by_arm(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each arm, in order of first appearance."""
    return {arm: [run for run in runs if run.arm == arm] for arm in dict.fromkeys(run.arm for run in runs)}


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation, which is 0 for one value."""
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def read_runs(path: Path) -> list[Run]:
    """The runs of a file. Raises DataError naming the file and the first thing wrong with it."""
    return _runs(path.name, path.read_bytes())


def write_runs(path: Path, runs: Sequence[Run]) -> None:
    """All runs as a JSON list. Raises DataError, and writes nothing, if it could not be read again."""
    data = msgspec.json.encode(runs, enc_hook=_plain)
    _runs(path.name, data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(data, indent=1) + b"\n")


def _runs(name: str, data: bytes) -> list[Run]:
    try:
        runs = msgspec.json.decode(data, type=list[Run])
    except msgspec.DecodeError as err:
        raise DataError(f"{name}: {err}") from None
    scenarios = sorted({run.scenario for run in runs})
    if len(scenarios) != 1:
        raise DataError(f"{name} has runs of {len(scenarios)} scenarios, must be 1: {', '.join(scenarios[:3])}")
    return runs


def _plain(value: Any) -> Any:
    """What numpy counted, as numbers of Python."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a run holds a {type(value).__name__}, must be numbers and text")
