"""Long lives of random and adversarial lessons (`trajectories.py`) in firmware: one digest on every processor.

python tests/board_lives.py --jobs 2                            10,000 lessons of each kind on each target
python tests/board_lives.py --lessons 300 --only hot --targets mps2-an386 linux-aarch64

The digest to reach is that of the C extension, which lives the same life; `python tests/trajectories.py` holds it to
numpy's, and prints it. Each life that was equal is a line of the log (build/board_lives.log); a firmware that is there,
to the digest of its sources, is not run again.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import trajectories
from pretend import tiny_bundle
from trajectories import Event, Told

from edgerun.bundle import Bundle, Probe, no_probe
from edgerun.kernels.native import Backend
from edgerun.learn.learner import Learner
from edgerun.learn.records import NewClass
from edgerun.native import network_of
from edgerun.spec import Manifest
from exporters.firmware.project import project
from firmware_sim.qemu import machine, stream
from firmware_sim.qemu.runner import learned

KINDS: Final = tuple(trajectories.KINDS)
TARGETS: Final = (*machine.BOARDS, *machine.PROCESSES)
LOG: Final = Path("build/board_lives.log")


def bundle_of(learner: Learner) -> Bundle:
    """A learner's own bundle, before its first lesson."""
    tensors = {name: array.copy() for name, array in learner.network.tensors.items()}
    held = learner.reservoir
    exemplars = None
    if held is not None:
        exemplars = Probe(held.x[held.filled].copy(), held.label[held.filled].astype(np.int32))
    return replace(
        tiny_bundle(), manifest=learner.manifest, tensors=tensors, priors={}, exemplars=exemplars,
        probe=no_probe(learner.manifest),
    )  # fmt: skip


def frames_of(manifest: Manifest, event: Event) -> bytes:
    """An event as the stream has it."""
    if isinstance(event, NewClass):
        return stream.frame(stream.NEW_CLASS)
    if not isinstance(event, Told):
        return stream.frame(stream.SETTLE) + stream.frame(stream.BOUNDARY)
    payload = event.q.astype(manifest.input.dtype).tobytes()
    if event.target is not None:
        return stream.valued(payload, event.target.astype("<i2").tobytes(), event.level)
    return (stream.feedback if event.sample else stream.sample)(payload, event.label, event.level)


@dataclass(frozen=True)
class Life:
    """A kind's bundle, its life as a stream that ends with the learned state, and what is known in the end."""

    kind: str
    lessons: int
    bundle: Bundle
    frames: bytes
    classes: list[str]
    digest: bytes

    @classmethod
    def of(cls, kind: str, lessons: int, backend: Backend) -> Life:
        """Lived by a backend."""
        learner = trajectories.learner_of(kind, backend)
        bundle, frames = bundle_of(learner), [stream.frame(stream.GUARD, 0)]
        for event in trajectories.story(kind, lessons, learner):
            trajectories.live(learner, event)
            frames.append(frames_of(learner.manifest, event))
        frames.append(stream.frame(stream.PRINT))
        return cls(kind, lessons, bundle, b"".join(frames), learner.classes, learner.digest())

    def digest_on(self, target: str, firmware: Path) -> bytes:
        """The digest of what a firmware has learned."""
        arrays, counters = learned(self.bundle, machine.run(firmware, target, self.frames).answers)
        tensors = {name: array.copy() for name, array in self.bundle.tensors.items()}
        network = network_of(self.bundle.manifest, tensors, "numpy")
        taken = Learner(network, priors={}, backend="numpy")
        taken.load(arrays, {**counters, "classes": self.classes})
        return taken.digest()


class Log:
    """Lives that were equal, a line each, and those of earlier runs of the same firmware."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text("ascii").splitlines() if path.exists() else []
        self._known = {tuple(line.split()[:5]) for line in lines}

    @staticmethod
    def key(life: Life, target: str, firmware: Path) -> tuple[str, ...]:
        return life.kind, target, str(life.lessons), life.digest.hex(), firmware.stem

    def __contains__(self, key: tuple[str, ...]) -> bool:
        return key in self._known

    def add(self, key: tuple[str, ...], seconds: float) -> None:
        with self._lock, self._path.open("a", encoding="ascii") as file:
            file.write(f"{' '.join(key)} {seconds:.1f}\n")


def row(life: Life, target: str, log: Log, cache: Path) -> tuple[bool, str]:
    """Live on a target, unless the log has it: whether it came to the digest, and a line that says so."""
    began = time.perf_counter()
    firmware = machine.build(project(life.bundle, target), cache)
    key = log.key(life, target, firmware)
    told = f"{life.kind:16} {target:14} {life.lessons} lessons"
    if key in log:
        return True, f"{told} equal, by the log"
    same = life.digest_on(target, firmware) == life.digest
    seconds = time.perf_counter() - began
    if same:
        log.add(key, seconds)
    return same, f"{told} {'equal' if same else 'DIFFER'}  {life.digest.hex()[:16]}  {seconds:.0f} s"


def rows(kinds: list[str], targets: list[str], lessons: int, log: Log, jobs: int) -> Iterator[bool]:
    """Every kind on every target, so many at a time."""
    lock = threading.Lock()

    def tell(life: Life, target: str) -> bool:
        same, line = row(life, target, log, machine.CACHE)
        with lock:
            print(line, flush=True)
        return same

    with ThreadPoolExecutor(jobs) as pool:
        for kind in kinds:
            life = Life.of(kind, lessons, "native")
            yield from [told.result() for told in [pool.submit(tell, life, target) for target in targets]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lessons", type=int, default=10_000)
    parser.add_argument("--only", nargs="*", default=[*KINDS], choices=KINDS, metavar="KIND")
    parser.add_argument("--targets", nargs="*", default=[*TARGETS], choices=TARGETS, metavar="TARGET")
    parser.add_argument("--jobs", type=int, default=1, help="lives at a time (default 1)")
    parser.add_argument("--log", type=Path, default=LOG)
    given: Any = parser.parse_args()
    began = time.perf_counter()
    found = list(rows(given.only, given.targets, given.lessons, Log(given.log), given.jobs))
    print(f"{sum(found)} of {len(found)} lives equal, {time.perf_counter() - began:.0f} s")
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main())
