"""A life with good lessons and bad ones, lived twice: by Python's guard, and as frames for a firmware's."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from pretend import sample

from edgerun.bundle import Bundle
from edgerun.learn import guard
from edgerun.learn.records import NewClass, Settle
from edgerun.lifetime import Lifetime, new_learner
from firmware_sim.flash import SimFlash
from firmware_sim.qemu import stream
from firmware_sim.qemu.runner import learned

EVERY = 4
"""Lessons in a group of the tiny bundle."""


@dataclass
class Life:
    """One life twice: Python's, with journal and checkpoints, and the frames of the same."""

    bundle: Bundle
    frames: list[bytes] = field(default_factory=list)
    verdicts: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.python = Lifetime(self.bundle, SimFlash())
        self.count = 0

    def teach(self, *labels: int, wrong: int = 0) -> None:
        """Samples of these classes; `wrong` shifts what they are called."""
        for label in labels:
            self.count += 1
            known = len(self.python.learner.classes)
            q, told = sample(label, 700 + self.count), (label + wrong) % known
            self.python.teach(q, told, "full", self.count)
            self.frames.append(stream.sample(q.astype(np.uint8).tobytes(), told))
            if self.python.judgement_due:
                self.judge(asked=False)

    def judge(self, *, asked: bool = True) -> None:
        found = self.python.judge()
        best = str(guard.share(found.best))
        self.verdicts.append(["good" if found.good else "back", str(found.correct), str(found.of), best])
        if asked:
            self.frames.append(stream.frame(stream.JUDGE))

    def join(self, name: str) -> None:
        self.python.change(NewClass(label=name))
        self.frames.append(stream.frame(stream.NEW_CLASS))

    def settle(self) -> None:
        self.python.change(Settle())
        self.frames.append(stream.frame(stream.SETTLE))

    def digest(self) -> bytes:
        return self.python.learner.digest()


def told(lines: list[list[str]]) -> list[list[str]]:
    """Verdicts in lines of telemetry, without the generation that was saved."""
    return [words[1:5] for words in lines if words[0] == "verdict"]


def digest(life: Life, lines: list[list[str]]) -> bytes:
    """Of what a device printed."""
    arrays, counters = learned(life.bundle, "\n".join(" ".join(words) for words in lines))
    taken = new_learner(life.bundle, backend="numpy")
    names = life.python.learner.classes
    assert counters["known"] == len(names)
    taken.load(arrays, {**counters, "classes": list(names)})
    return taken.digest()


def eventful(bundle: Bundle) -> Life:
    """Good groups, bad ones, a class that joins and goes again, verdicts that are asked for in between."""
    life = Life(bundle)
    life.teach(*range(EVERY))
    for wrong in (1, 2, 0, 3, 1):
        life.teach(0, 1, 2, 3, wrong=wrong)
    life.join("e")
    life.teach(4, 4, 0)
    life.settle()
    life.judge()
    life.teach(*[0, 1, 2, 3] * 3, wrong=1)
    life.join("f")
    life.teach(0, 1, wrong=2)
    life.judge()
    life.teach(2, 3, 0, 1, 2, 3)
    return life
