"""Lessons that wait for their turn: those of a stream that knows, of `teach` and of `feedback`, checked on the way in.

A command's lessons are one job. Whatever is wrong with one of them refuses the command, with nothing changed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

from edgerun.agent.senses import WINDOWS, Seen, Senses
from edgerun.arrays import I16
from edgerun.encode.targets import learns_values, wire_target
from edgerun.errors import Refused
from edgerun.graph import grows
from edgerun.learn.contradiction import Told, check_examples
from edgerun.lifetime import Lifetime
from edgerun.telemetry.commands import Command, Correction, Feedback, Teach

QUEUE: Final = 512  # lessons that may wait


class Waiting(NamedTuple):
    """A lesson whose turn has not come: a quantised sample and its class, or, where values are learned, its target."""

    q: I16
    label: str
    sample: int
    target: I16 | None = None


class Asked(NamedTuple):
    """What a `teach` command wants taught, as the learner takes it: examples of a class, or each with its target."""

    label: str
    examples: list[I16]
    targets: list[I16]


@dataclass(slots=True)
class Job:
    """Lessons that belong together. A command's job is answered when its last lesson is durable."""

    command: Command | None
    lessons: deque[Waiting]
    probe_before: float
    taught: int = 0
    aside: int = 0  # of them, those whose label was doubted
    correct: int = 0
    missed: float = 0.0  # of values: the sum over lessons of how far the device was off before it was told
    energy_uj: float = 0.0
    settled: bool = False  # a taught job: its class's prototype and bias stand

    @property
    def teaching(self) -> Teach | None:
        """What a job that teaches was asked for; None for feedback and for a stream's own lessons."""
        args = self.command.args if self.command else None
        return args if isinstance(args, Teach) else None

    def what_was_known(self, *, values: bool) -> dict[str, float]:
        """For the answer: how many samples the device had right by itself, or how far off it was in the mean."""
        if values:
            return {"missed_before": round(self.missed / max(1, self.taught), 4)}
        return {"correct_before": self.correct}


class Lessons:
    """The queue of jobs, the oldest first, and what has been said of past samples.

    values  whether lessons bring values, not labels
    """

    def __init__(self, life: Lifetime, senses: Senses) -> None:
        self._learner, self._senses = life.learner, senses
        self._manifest = life.bundle.manifest
        self.values = learns_values(self._manifest)
        self._jobs: deque[Job] = deque()
        self._told = Told(WINDOWS)

    def __bool__(self) -> bool:
        """Whether a job is still being worked on."""
        return bool(self._jobs)

    @property
    def first(self) -> Job | None:
        """The oldest job; it stays the first until `finish`, also when its last lesson was given."""
        return self._jobs[0] if self._jobs else None

    @property
    def due(self) -> bool:
        """Whether the oldest job has a lesson to give."""
        return bool(self._jobs) and bool(self._jobs[0].lessons)

    @property
    def waiting(self) -> int:
        """Lessons in the queue."""
        return sum(len(job.lessons) for job in self._jobs)

    def finish(self) -> None:
        """The oldest job is done."""
        self._jobs.popleft()

    def clear(self) -> list[Command]:
        """Drop all lessons, and what was said; returns the commands that hoped for an answer."""
        dropped = [job.command for job in self._jobs if job.command is not None]
        self._jobs.clear()
        self._told.clear()
        return dropped

    # ------------------------------------------------------------------ in

    def hear(self, seen: Seen, probe: float) -> None:
        """Queue the lesson of a sample that comes with its label or target, while there is room."""
        if (seen.label is not None or seen.target is not None) and self.waiting < QUEUE:
            self._add(None, [Waiting(seen.q, seen.label or "", self._senses.number, seen.target)], probe)

    def asked(self, args: Teach) -> Asked:
        """Read and check what is to be taught. Raises Refused for samples, targets and classes that cannot be."""
        examples = [self._senses.taken(example.array()) for example in args.examples]
        targets = [wire_target(self._manifest, each.array()) for each in args.targets]
        label = self._label(args.label)
        if not self.values:
            self._check_class(label)
            learner = self._learner
            check_examples(learner.reservoir, examples, learner.class_index(label), learner.classes)
        return Asked(label, examples, targets)

    def teach(self, command: Command, asked: Asked, probe: float) -> None:
        """Queue what is to be taught. Raises Refused where too much waits."""
        self._check_room(len(asked.examples))
        targets: list[I16] | list[None] = asked.targets or [None] * len(asked.examples)
        pairs = zip(asked.examples, targets, strict=True)
        self._add(command, [Waiting(q, asked.label, 0, target) for q, target in pairs], probe)

    def correct(self, command: Command, args: Feedback, probe: float) -> None:
        """Queue what past samples really were. Raises Refused for one that is gone, unknown, or named otherwise."""
        self._check_room(len(args.items))
        lessons = [self._corrected(item) for item in args.items]
        self._told.take((item.sample, item.label) for item in args.items if item.label is not None)
        self._add(command, lessons, probe)

    def known(self, label: str) -> int:
        """The index of a class. Raises Refused for one that was never taught."""
        index = self._learner.class_index(label)
        if index is None:
            raise Refused(f"label {label!r} is none of the {len(self._learner.classes)} classes: teach it first")
        return index

    def _add(self, command: Command | None, lessons: list[Waiting], probe: float) -> None:
        self._jobs.append(Job(command, deque(lessons), probe))

    def _corrected(self, item: Correction) -> Waiting:
        q = self._senses.window(item.sample)
        target = None if item.target is None else wire_target(self._manifest, item.target.array())
        label = self._label(item.label)
        if target is None:
            self.known(label)
        return Waiting(q, label, item.sample, target)

    def _label(self, label: str | None) -> str:
        """The class of a command, "" where values are learned. Raises Refused for a label there."""
        if label is not None and self.values:
            raise Refused(f"label {label!r}: the bundle learns values, not classes")
        return label or ""

    def _check_class(self, label: str) -> None:
        """Raises Refused for a class that is new and has no place, those that wait to be taught counted in."""
        learner, capacity = self._learner, self._manifest.classes.capacity
        if learner.class_index(label) is not None:
            return
        if not grows(self._manifest):
            raise Refused(f"class {label!r} cannot join: the bundle's head has no prototypes")
        taught = {lesson.label for job in self._jobs if job.teaching is not None for lesson in job.lessons}
        joining = {label} | {name for name in taught if learner.class_index(name) is None}
        if len(learner.classes) + len(joining) > capacity:
            raise Refused(f"class {label!r} is over the capacity of {capacity} classes")

    def _check_room(self, count: int) -> None:
        if self.waiting + count > QUEUE:
            raise Refused(f"{self.waiting} lessons wait already, {count} more are over the bound of {QUEUE}")
