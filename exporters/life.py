"""A device's life out of its journal: every lesson done again, and what was learned looked at on the way.

The device keeps no history but its journal. Replaying it on the bundle gives every state that there ever was, so what a
lesson was answered, what it changed, what the probe says at each boundary, and what matters in the end are known
afterwards, to the bit. Energy is the price list's: the journal knows what was done, not what it drew.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgerun.arrays import I16, I64, U8
from edgerun.boards import Board, Ops, price
from edgerun.bundle import Bundle
from edgerun.commands.replay import Replayed, replay
from edgerun.encode.targets import learns_values
from edgerun.errors import Refused, StoreError
from edgerun.learn import records
from edgerun.learn.learner import Learner, Taught
from edgerun.ports import Disk
from edgerun.price import LESSONS, learn_cost, work
from edgerun.spec import Level
from edgerun.store.checkpoints import Checkpoints
from edgerun.store.journal import JournalReader

PROBED: Final = (records.Boundary, records.Verdict, records.Settle, records.Rollback, records.Forget)
"""After these the probe is scored: the state has come to rest."""


ACTS: Final = (*LESSONS, "verdicts", "boundaries")
"""What energy is told of: lessons by level, and what stands between them."""


@dataclass(frozen=True, slots=True)
class LessonNote:
    """One lesson as it went."""

    label: str
    level: Level
    taught: Taught


@dataclass(frozen=True, slots=True)
class Event:
    """Anything but a lesson.    lesson  how many lessons of the journal came before it"""

    lesson: int
    kind: str
    words: str
    good: bool = True


@dataclass(frozen=True, slots=True)
class Probed:
    """What the bundle's probe said of one state: shares right, of all and by class."""

    lesson: int
    when: str
    share: float
    by_class: dict[str, float]


@dataclass(frozen=True, slots=True)
class Changed:
    """One plastic tensor at the end.

    moved       (m, n)  its shadow less the factory's, 1/256 of a weight's step
    importance  (m, n)  codes, None without synaptic intelligence
    """

    name: str
    moved: I64
    importance: U8 | None


@dataclass(frozen=True, slots=True)
class Life:
    """All that is told of one device's learning."""

    bundle: Bundle
    board: Board
    replayed: Replayed
    lessons: Sequence[LessonNote]
    events: Sequence[Event]
    probes: Sequence[Probed]
    changed: Sequence[Changed]
    counted_boundaries: int  # that a count of updates brought about, inside lessons
    counts: Mapping[str, int]  # of the acts of ACTS
    energy_uj: Mapping[str, float]  # of all acts of a kind together

    @property
    def values(self) -> bool:
        """Whether lessons brought values, which are near or far, not right or wrong."""
        return learns_values(self.bundle.manifest)


def relive(bundle: Bundle, disk: Disk, board: Board, tell: Callable[[int, int], None]) -> Life:
    """Replay a device's journal and keep what it shows. Raises Refused where the journal is damaged."""
    watcher = _Watcher(bundle, board)
    try:
        done = replay(bundle, JournalReader(disk, bundle.id), Checkpoints(disk, bundle.id), tell, watcher.see)
    except StoreError as err:
        raise Refused(str(err)) from None
    return watcher.life(done)


class _Watcher:
    """Shown the learner after each record, it keeps what it sees."""

    def __init__(self, bundle: Bundle, board: Board) -> None:
        self._bundle, self._board, self._work = bundle, board, work(bundle)
        self._learner: Learner | None = None
        self._updates = self._counted = 0
        self._lessons: list[LessonNote] = []
        self._events: list[Event] = []
        self._probes: list[Probed] = []
        self._counts: Counter[str] = Counter()
        self._energy_uj: defaultdict[str, float] = defaultdict(float)

    def see(self, learner: Learner, entry: records.Entry | None, taught: Taught | None) -> None:
        """The learner after a record, or at the start of an epoch."""
        if self._learner is None:
            self._probe(learner, "the start")
        self._learner = learner
        if isinstance(entry, records.Lesson) and taught is not None:
            self._lesson(learner, entry, taught)
        elif entry is not None:
            event = self._event(learner, entry)
            self._events.append(event)
            if isinstance(entry, PROBED):
                self._probe(learner, event.words)
        self._updates = learner.updates

    def life(self, replayed: Replayed) -> Life:
        """Everything seen, and the last state."""
        if self._learner is not None and self._probes and self._probes[-1].lesson != len(self._lessons):
            self._probe(self._learner, "the end")
        return Life(
            bundle=self._bundle,
            board=self._board,
            replayed=replayed,
            lessons=self._lessons,
            events=self._events,
            probes=self._probes,
            changed=changes(self._bundle, self._learner) if self._learner else [],
            counted_boundaries=self._counted,
            counts=self._counts,
            energy_uj=self._energy_uj,
        )

    def _lesson(self, learner: Learner, lesson: records.Lesson, taught: Taught) -> None:
        label = "values" if lesson.target else learner.classes[lesson.label]
        self._lessons.append(LessonNote(label, lesson.level, taught))
        self._spend(lesson.level, learn_cost(self._work, taught.updates, lesson.level))
        plan = self._bundle.manifest.learning.intelligence
        self._counted += bool(plan and plan.every and learner.updates // plan.every != self._updates // plan.every)

    def _event(self, learner: Learner, entry: records.Entry) -> Event:
        """What an entry did, in words; its energy is booked."""
        at = len(self._lessons)
        match entry:
            case records.Verdict():
                self._spend("verdicts", self._work.guard)
                score = f"{entry.correct} of {entry.of} right" if entry.of else "nothing to score"
                return Event(at, "verdict", f"{'kept' if entry.good else 'undone'}: {score}", entry.good)
            case records.Boundary():
                self._spend("boundaries", self._work.consolidate)
                return Event(at, "boundary", f"consolidated: {entry.reason}")
            case records.NewClass():
                return Event(at, "new class", entry.label)
            case records.Rollback():
                return Event(at, "rollback", f"back to {entry.to}", good=False)
            case records.Forget():
                return Event(at, "forgotten", learner.classes[entry.label], good=False)
            case _:
                return Event(at, "settled", "prototypes recomputed")

    def _spend(self, act: str, ops: Ops) -> None:
        self._counts[act] += 1
        self._energy_uj[act] += price(self._board, ops)[0]

    def _probe(self, learner: Learner, when: str) -> None:
        """Score the bundle's probe, where it has one."""
        probe = self._bundle.probe
        if not len(probe.x):
            return
        x: I16 = probe.x.reshape(len(probe.x), -1).astype(np.int16)
        right = learner.scores(x)[:, : len(learner.classes)].argmax(axis=1) == probe.label
        by_class = {learner.classes[k]: float(right[probe.label == k].mean()) for k in np.unique(probe.label)}
        self._probes.append(Probed(len(self._lessons), when, float(right.mean()), by_class))


def changes(bundle: Bundle, learner: Learner) -> list[Changed]:
    """Every plastic tensor of a learner beside the factory's."""
    arrays, rule = learner.arrays(), bundle.manifest.learning.rule
    found = []
    for rate in rule.rates if rule else ():
        moved = arrays[f"shadow.{rate.tensor}"].astype(np.int64) - bundle.tensors[rate.tensor].astype(np.int64) * 256
        codes = arrays.get(f"importance.{rate.tensor}")
        found.append(Changed(rate.tensor, moved, None if codes is None else codes.copy()))
    return found
