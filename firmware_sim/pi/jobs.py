"""What a machine must do as this one does it: the same command on both, and what of it has to be equal.

Samples come from the bundle's own probe and from a seed, so that no data set is needed.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import numpy as np

from edgerun.bundle import Bundle, open_bundle
from edgerun.errors import EdgeRunError
from edgerun.kernels.native import VARIABLE, Backend
from edgerun.samples import read_arrays

NEW: Final = "another"
"""The class that is taught."""
WORDS: Final = 8
SEED: Final = 1
BLUR: Final = 30  # the largest noise
EVERY: Final = 6  # which samples of the probe are taught and tested


Found: TypeAlias = dict[str, Any]
"""What a job comes to, by name."""


class Runner(Protocol):
    """Runs Python with these arguments and variables, here or on a machine, to its end."""

    def __call__(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]: ...


@dataclass(frozen=True, slots=True)
class Case:
    """A bundle, and files of samples made for it.

    features  some of its probe in noise, so that lessons move weights, the last class under a new name
    waves     sounds, ragged, int16
    names     of the bundle's classes
    """

    bundle: Path
    features: Path
    waves: Path
    names: tuple[str, ...]


def make_case(path: Path, folder: Path) -> Case:
    """Write the samples for a bundle that hears. Raises BundleError, or EdgeRunError where it has no ears."""
    bundle = open_bundle(path)
    if bundle.manifest.front is None:
        raise EdgeRunError(f"{path} takes no sound")
    rate = bundle.manifest.front.sample_rate
    case = Case(path.resolve(), folder / "features.npz", folder / "waves.npz", bundle.manifest.classes.names)
    np.savez(case.features, allow_pickle=False, **_blurred(bundle))
    samples, offsets = sounds(np.random.default_rng(SEED), rate)
    np.savez(case.waves, samples=samples, offsets=offsets, sample_rate=np.int32(rate))
    return case


def _blurred(bundle: Bundle) -> dict[str, Any]:
    x, label, names = bundle.probe.x[::EVERY], bundle.probe.label[::EVERY], bundle.manifest.classes.names
    noise = np.random.default_rng(SEED).integers(-BLUR, BLUR + 1, x.shape)
    called = np.array([*range(len(names) - 1), len(names)])
    return {
        "x": np.clip(x.astype(np.int64) + noise, -128, 127).astype(x.dtype),
        "y": called[label],
        "class_names": np.array([*names, NEW]),
    }


def sounds(rng: np.random.Generator, rate: int) -> tuple[Any, Any]:
    """Sliding tones in noise, an eighth to half a second long.    samples (S,) int16     offsets (WORDS + 1,)"""
    lengths = rng.integers(rate // 8, rate // 2, WORDS)
    waves = [_sound(rng, int(length), rate) for length in lengths]
    return np.concatenate(waves), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _sound(rng: np.random.Generator, length: int, rate: int) -> Any:
    low, high = rng.uniform(100, rate / 3, 2)
    turn = np.cumsum(np.linspace(low, high, length)) / rate
    wave = np.hanning(length) * (np.sin(2 * np.pi * turn) + 0.1 * rng.standard_normal(length))
    return np.round(wave * rng.uniform(500, 20_000)).astype(np.int16)


# ------------------------------------------------------------------ what is compared


class Job(NamedTuple):
    """A command of `edgerun`; `read` says what of its output, and of the file that it writes, must be equal."""

    what: str
    arguments: Callable[[Case, Path], tuple[str | Path, ...]]
    read: Callable[[str, Path], Found]
    backends: tuple[Backend, ...] = ("numpy", "native")


def _told(text: str, written: Path) -> Found:
    return dict(json.loads(text))


def _verdict(text: str, written: Path) -> Found:
    """Which backends there are is the machine's own: it must have both."""
    return {**json.loads(text), "backends": None}


def _arrays(text: str, written: Path) -> Found:
    return {name: (array.shape, array.tolist()) for name, array in read_arrays(written).items()}


JOBS: Final = (
    Job("verify: self-test and probe", lambda case, out: ("verify", case.bundle, "--json"), _verdict, ("native",)),
    Job("infer: features", lambda case, out: ("infer", case.bundle, case.features, "-o", out), _arrays),
    Job("infer: sounds", lambda case, out: ("infer", case.bundle, case.waves, "-o", out), _arrays),
    Job(
        "adapt: lessons, digest",
        lambda case, out: ("adapt", case.bundle, "--data", case.features, "--shots", "1", "--json"),
        _told,
    ),
)


def perform(job: Job, case: Case, backend: Backend, runner: Runner, folder: Path) -> Found:
    """What a job comes to. Raises EdgeRunError with its last words where it fails."""
    written = folder / f"{JOBS.index(job)}-{backend}.npz"
    ended = runner("-m", "edgerun.cli", *job.arguments(case, written), **{VARIABLE: backend})
    if ended.returncode:
        raise EdgeRunError(last_words(ended.stderr))
    return job.read(ended.stdout, written)


def compare(found: Found, wanted: Found) -> None:
    """Raises EdgeRunError naming what a job found otherwise than here."""
    if found == wanted:
        return
    differing = [name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)]
    raise EdgeRunError(f"differs in {', '.join(sorted(differing))}")


def expected(case: Case, runner: Runner, folder: Path) -> Mapping[str, Found]:
    """What each job comes to here, by numpy."""
    return {job.what: perform(job, case, "numpy", runner, folder) for job in JOBS}


def last_words(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"
