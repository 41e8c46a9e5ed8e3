"""Long lives of random and adversarial lessons (`trajectories.py`) on emulated boards: numpy's digest on every core.

python tests/board_lives.py                                     10,000 lessons of each kind on each board; an hour
python tests/board_lives.py --lessons 300 --only hot --boards mps2-an386
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import trajectories
from pretend import tiny_bundle

from edgerun.bundle import Bundle, Probe
from edgerun.graph import grows
from edgerun.learn.learner import Learner
from edgerun.learn.records import Boundary, NewClass, Settle
from exporters.firmware.project import project
from firmware_sim.qemu import machine, stream
from firmware_sim.qemu.runner import learned

KINDS = tuple(trajectories.KINDS)


def bundle_of(learner: Learner) -> Bundle:
    """A learner's own bundle, before its first lesson."""
    tensors = {name: array.copy() for name, array in learner.network.tensors.items()}
    held = learner.reservoir
    exemplars = None
    if held is not None:
        exemplars = Probe(held.x[held.filled].copy(), held.label[held.filled].astype(np.int32))
    return replace(tiny_bundle(), manifest=learner.manifest, tensors=tensors, priors={}, exemplars=exemplars)


def life(kind: str, lessons: int) -> tuple[Learner, bytes]:
    """numpy's learner at the end of a life, and the life as a stream that ends with the learned state."""
    learner = trajectories.learner_of(kind, "numpy")
    rng, dtype = np.random.default_rng([len(kind), lessons]), learner.manifest.input.dtype
    frames = [stream.frame(stream.SETTLE), stream.frame(stream.BOUNDARY)]
    learner.apply(Settle())
    learner.apply(Boundary(reason="idle"))
    for number in range(1, lessons + 1):
        told = trajectories.told(learner, rng)
        learner.apply(learner.plan_lesson(told.q, told.label, told.level, told.sample, told.target))
        payload = told.q.astype(dtype).tobytes()
        if told.target is not None:
            frames.append(stream.valued(payload, told.target.astype("<i2").tobytes(), told.level))
        elif told.sample:
            frames.append(stream.feedback(payload, told.label, told.level))
        else:
            frames.append(stream.sample(payload, told.label, told.level))
        if number == lessons // 3 and grows(learner.manifest):
            learner.apply(NewClass(label="e"))
            frames.append(stream.frame(stream.NEW_CLASS))
        if number % 61 == 0:
            learner.apply(Settle())
            learner.apply(Boundary(reason="idle"))
            frames += [stream.frame(stream.SETTLE), stream.frame(stream.BOUNDARY)]
    return learner, b"".join([*frames, stream.frame(stream.PRINT)])


def digest_on(board: str, bundle: Bundle, frames: bytes, classes: list[str], cache: Path) -> bytes:
    """The digest of what a board has learned."""
    text = machine.run(machine.build(project(bundle, board), cache), board, frames).answers
    arrays, counters = learned(bundle, text)
    tensors = {name: array.copy() for name, array in bundle.tensors.items()}
    taken = Learner(trajectories.native.network_for(bundle.manifest, tensors, "numpy"), priors={}, backend="numpy")
    taken.load(arrays, {**counters, "classes": classes})
    return taken.digest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lessons", type=int, default=10_000)
    parser.add_argument("--only", nargs="*", default=[*KINDS], choices=KINDS)
    parser.add_argument("--boards", nargs="*", default=[*machine.BOARDS], choices=[*machine.BOARDS])
    given: Any = parser.parse_args()
    for kind in given.only:
        bundle = bundle_of(trajectories.learner_of(kind, "numpy"))
        learner, frames = life(kind, given.lessons)
        for board in given.boards:
            began = time.perf_counter()
            same = digest_on(board, bundle, frames, learner.classes, machine.CACHE) == learner.digest()
            seconds = time.perf_counter() - began
            print(
                f"{kind:16} {board:14} {given.lessons} lessons {'equal' if same else 'DIFFER'}  {seconds:.0f} s",
                flush=True,
            )
            if not same:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
