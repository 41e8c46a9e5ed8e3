"""What a device has learned, through every power cut: the learner over its checkpoints and its journal.

    start    finish a wipe -> self-test on factory weights -> newest whole checkpoint -> journal records after it
    lesson   apply, append; durable, and only then answered for, when `commit` has returned
    verdict  journalled first; a good one is checkpointed and marked, a bad one goes back to the one marked last

A checkpoint holds the journal position it stands at, so whatever the power does, each record is applied exactly once;
and it says which state was the last good one then, so that a mark that the power prevented is made up for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgerun.arrays import I16, Tensors
from edgerun.bundle import Bundle
from edgerun.encode.targets import real_answers, real_targets
from edgerun.errors import StoreError
from edgerun.graph import plastic_tensors
from edgerun.kernels.native import Backend, chosen
from edgerun.learn import guard, records
from edgerun.learn.learner import Learner, Taught
from edgerun.learn.profiles import profile_of
from edgerun.learn.watch import Watch
from edgerun.native import network_of
from edgerun.ports import Disk
from edgerun.selftest import check_selftest
from edgerun.spec import Level
from edgerun.store.checkpoints import Checkpoints, pack_state, unpack_state
from edgerun.store.files import finish_wipe, wipe_learned
from edgerun.store.journal import Epoch, Journal


@dataclass(frozen=True, slots=True)
class Recovery:
    """How a start went: the checkpoint it found (0 = factory) and what the journal added."""

    generation: int
    replayed: int
    lessons: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the lesson guard found."""

    good: bool
    correct: int
    of: int
    best: float  # share of the last good state


def new_learner(bundle: Bundle, keeper: Any = None, backend: Backend | None = None) -> Learner:
    """A learner on factory weights, with its own writable copies of the plastic tensors where it keeps any.

    backend  who computes, see `edgerun.kernels.native`: the bits are the same
    """
    asked = chosen(backend)
    plastic = plastic_tensors(bundle.manifest) if profile_of(bundle.manifest.learning).copies else frozenset()
    tensors: Tensors = {name: array.copy() if name in plastic else array for name, array in bundle.tensors.items()}
    exemplars = None if bundle.exemplars is None else (_rows(bundle.exemplars.x), bundle.exemplars.label)
    network = network_of(bundle.manifest, tensors, asked)
    return Learner(network, priors=bundle.priors, exemplars=exemplars, keeper=keeper, backend=asked)


class Lifetime:
    """One bundle's learned state on one disk.

    observe  is told every entry after it was applied (an emulator's twin, a test)
    backend  who computes, see `edgerun.kernels.native`: the bits are the same

    Raises CheckFailed where the self-test does not give the exporter's bits, StoreError where the disk fails.
    """

    def __init__(
        self,
        bundle: Bundle,
        disk: Disk,
        observe: Callable[[records.Entry], None] | None = None,
        backend: Backend | None = None,
    ) -> None:
        self.bundle, self._disk = bundle, disk
        self._observe = observe
        finish_wipe(disk)
        check_selftest(network_of(bundle.manifest, bundle.tensors, backend), bundle.selftest)
        self.learner = new_learner(bundle, self, backend)
        self.watch = Watch(bundle.manifest)
        """What samples are like, where the plan watches for drift: saved beside the learned state, no part of it."""
        self._probe = (_rows(bundle.probe.x), bundle.probe.label.astype(np.int64))
        self._open()
        self._group = 0  # lessons since the last verdict
        self._factory_share = _ratio(*self.learner.guard_score(*self._probe))
        self._best = self._factory_share  # of the guard's mix that the last good state got right
        self._recovering: tuple[int, int] | None = None  # the journal position that a recovery has come to
        self.recovery = self._recover()
        self.committed_lessons = self.learner.lessons
        self.entries = self.committed_entries = 0  # since this start

    # ------------------------------------------------------------------ lessons

    def teach(self, q: I16, label: int, level: Level, sample: int, target: I16 | None = None) -> Taught:
        """One lesson; durable after the next `commit`. Raises DataError, nothing changed, for a label not known.

        target  the values of a rule that does not classify, whose label is 0
        """
        lesson = self.learner.plan_lesson(q, label, level, sample, target)
        taught = self.learner.apply(lesson)
        if taught is None:
            raise StoreError("a lesson taught nothing")
        self._append(lesson)
        return taught

    def change(self, entry: records.NewClass | records.Settle | records.Boundary | records.Forget) -> None:
        """Apply any other entry that changes what is known."""
        self.learner.apply(entry)
        self._append(entry)

    def commit(self) -> None:
        """Make everything since the last commit durable."""
        self._journal.commit()
        self.committed_lessons, self.committed_entries = self.learner.lessons, self.entries

    @property
    def unjudged(self) -> int:
        """Lessons since the last verdict."""
        return self._group

    @property
    def judgement_due(self) -> bool:
        return self._group >= self.bundle.manifest.learning.guard.every

    def judge(self) -> Judgement:
        """Score the guard's mix; keep what was learned since the last verdict, or go back."""
        correct, of = self.learner.guard_score(*self._probe)
        before = self._best
        good = guard.good(self.bundle.manifest.learning.guard, before, _ratio(correct, of))
        self._firmly(records.Verdict(good=good, correct=correct, of=of))
        if self._journal.full:
            self._seal()
        return Judgement(good, correct, of, before)

    def probe_accuracy(self) -> float:
        """The share of the bundle's probe that the device gets right now; NaN where it has none."""
        x, label = self._probe
        if not len(x):
            return math.nan
        return float((self.learner.scores(x).argmax(axis=1) == label).mean())

    def rehearse(self, label: str, examples: list[I16]) -> dict[str, float]:
        """What teaching a class would do to the probe and to the examples themselves; every bit is put back after."""
        arrays, meta = {name: array.copy() for name, array in self.learner.arrays().items()}, self.learner.meta()
        before = {"probe_before": self.probe_accuracy(), "examples_before": self._named(label, examples)}
        try:
            if self.learner.class_index(label) is None:
                self.learner.apply(records.NewClass(label=label))
            index = self.learner.classes.index(label)
            for q in examples:
                self.learner.apply(self.learner.plan_lesson(q, index, "head"))
            self.learner.apply(records.Settle())
            return before | {"probe_after": self.probe_accuracy(), "examples_after": self._named(label, examples)}
        finally:
            self.learner.load(arrays, meta)

    def rehearse_values(self, examples: list[I16], targets: list[I16]) -> dict[str, float]:
        """What lessons of these values would do to the answers' mean error, in real units; every bit is put back."""
        arrays, meta = {name: array.copy() for name, array in self.learner.arrays().items()}, self.learner.meta()
        before = {"error_before": self._missed(examples, targets)}
        try:
            for q, target in zip(examples, targets, strict=True):
                self.learner.apply(self.learner.plan_lesson(q, 0, "full", target=target))
            return before | {"error_after": self._missed(examples, targets)}
        finally:
            self.learner.load(arrays, meta)

    def _missed(self, x: list[I16], targets: list[I16]) -> float:
        """Mean of |answer - target| at the end of these windows."""
        wanted = real_targets(self.bundle.manifest, np.stack(targets))[:, -1]
        return float(np.abs(real_answers(self.bundle.manifest, self.learner.scores(np.stack(x))) - wanted).mean())

    def _named(self, label: str, x: list[I16]) -> float:
        """The share of samples that the device gives this label."""
        index = self.learner.class_index(label)
        return 0.0 if index is None else float((self.learner.scores(np.stack(x)).argmax(axis=1) == index).mean())

    # ------------------------------------------------------------------ undo and forget

    def roll_back(self, to: Literal["last-good", "factory"]) -> None:
        """Go back, and stay there through any power cut. The factory's state is a good one from then on."""
        self._firmly(records.Rollback(to=to))
        self.watch.reset()  # samples may be decided otherwise now
        if to == "factory":
            self._declare_good()
        else:
            self.checkpoint()

    def forget(self, label: int) -> None:
        """Erase a class; no later verdict brings it back. What was learned before it is judged first."""
        if self._group:
            self.judge()
        self.change(records.Forget(label=label))
        self.watch.forget(label)
        self._declare_good()

    def wipe(self) -> None:
        """Erase everything learned: journal, checkpoints, reservoir. The factory's bits remain."""
        wipe_learned(self._disk)
        self._open()
        self.learner.reset()
        self.watch.reset()
        self._group, self._best, self.committed_lessons = 0, self._factory_share, 0

    # ------------------------------------------------------------------ durable state

    def checkpoint(self) -> int:
        """Save the learned state; durable when its generation is returned."""
        self.commit()
        return self._checkpoints.save(self._payload(good=self._checkpoints.good() or 0))

    def digest(self) -> str:
        return self.learner.digest().hex()

    def keep(self, arrays: Tensors, meta: dict[str, Any]) -> None:
        """`learner.Keeper`: the state is good; its verdict is in the journal already."""
        self._save_good(self._payload(good=None))

    def recall(self) -> tuple[Tensors, dict[str, Any]] | None:
        """`learner.Keeper`: the state marked good last."""
        good = self._checkpoints.good()
        payload = None if good is None else self._checkpoints.load_generation(good)
        if payload is None:
            return None
        arrays, meta = unpack_state(payload)
        return arrays, meta["learner"]

    def _firmly(self, entry: records.Verdict | records.Rollback) -> None:
        """Journal first, then act: what is kept or undone must not depend on when the power goes."""
        self._append(entry)
        self.commit()
        self.learner.apply(entry)

    def _declare_good(self) -> None:
        """What an operator has asked for is good, whatever the probe says of it."""
        correct, of = self.learner.guard_score(*self._probe)
        self._firmly(records.Verdict(good=True, correct=correct, of=of))

    def _append(self, entry: records.Entry) -> None:
        self._journal.append(records.encode(entry))
        self._count(entry)
        self.entries += 1
        if self._observe:
            self._observe(entry)

    def _count(self, entry: records.Entry) -> None:
        """Keep the guard's books: how many lessons it has not judged, and what it found of the last good state."""
        match entry:
            case records.Lesson():
                self._group += 1
            case records.Verdict():
                self._group = 0
                self._best = max(self._best, _ratio(entry.correct, entry.of)) if entry.good else self._best
            case records.Rollback():
                self._group = 0
                self._best = 0.0 if entry.to == "factory" else self._best
            case records.Forget():
                self._best = 0.0  # the verdict that follows is the new measure

    def _payload(self, *, good: int | None) -> bytes:
        """The state with all that a start needs to go on from it; `good`: the last good generation, None for itself."""
        meta = {
            "learner": self.learner.meta(),
            "position": list(self._recovering or self._journal.position),
            "digest": self.digest(),
            "good": good,
            "guard": {"group": self._group, "best": self._best},
        }
        return pack_state(self.learner.arrays() | self.watch.arrays(), meta)

    def _save_good(self, payload: bytes) -> int:
        """Save a state, once more where a cell failed meanwhile, and mark it. Raises StoreError if it fails again."""
        generation = self._checkpoints.save(payload)
        if self._checkpoints.load_generation(generation) is None:
            generation = self._checkpoints.save(payload)
        self._checkpoints.mark_good(generation)
        return generation

    def _seal(self) -> None:
        """Begin the next epoch on a state that is also the last good one, so that a replay of it needs nothing else."""
        payload = self._payload(good=None)
        generation = self._save_good(payload)
        self._journal.seal(self.learner.digest(), generation, payload)

    def _open(self) -> None:
        self._checkpoints = Checkpoints(self._disk, self.bundle.id)
        self._journal = Journal(self._disk, self.bundle.id)

    def _recover(self) -> Recovery:
        """Stand where the newest whole state is, then do again what the journal has after it."""
        generation, start = self._restore()
        epochs = self._journal.epochs()
        if self._journal.orphaned or start > self._journal.position:  # records that this state stands on are lost
            self._seal()
            return Recovery(generation, 0, self.learner.lessons)
        if start < (epochs[-1].number, 0) and self.learner.digest() != epochs[-1].digest:
            start = self._recover_base(epochs[-1])
        replayed = 0
        for each in epochs:
            for count, data in enumerate(each.records, start=1):
                if (each.number, count) > start:
                    self._recovering = (each.number, count)
                    self._again(records.decode(data))
                    replayed += 1
        self._recovering = None
        return Recovery(generation, replayed, self.learner.lessons)

    def _restore(self) -> tuple[int, tuple[int, int]]:
        """The newest checkpoint whose last good state is whole as well: its generation and its place in the journal."""
        whole = self._checkpoints.generations()
        for generation in reversed(whole):
            payload = self._checkpoints.load_generation(generation) or b""
            good = unpack_state(payload)[1]["good"]
            good = generation if good is None else good
            if good and good not in whole:
                continue
            if good and good != self._checkpoints.good():
                self._checkpoints.mark_good(good)
            return generation, self._load(payload)
        return 0, (0, 0)

    def _recover_base(self, epoch: Epoch) -> tuple[int, int]:
        """Where every newer checkpoint is damaged, an epoch's own base is the last good state."""
        self._load(epoch.base)
        self._recovering = (epoch.number, 0)
        self.keep(self.learner.arrays(), self.learner.meta())
        return self._recovering

    def _load(self, payload: bytes) -> tuple[int, int]:
        """Stand on a saved state; returns its place in the journal."""
        arrays, meta = unpack_state(payload)
        self.learner.load(arrays, meta["learner"])
        self.watch.load(arrays)
        self._group, self._best = meta["guard"]["group"], meta["guard"]["best"]
        epoch, count = meta["position"]
        return epoch, count

    def _again(self, entry: records.Entry) -> None:
        """Follow one record of the journal."""
        self._count(entry)
        self.learner.apply(entry)


def _ratio(correct: int, of: int) -> float:
    return correct / of if of else 1.0


def _rows(x: Any) -> I16:
    """(n, size) int16 of samples in the bundle's own dtype."""
    rows: I16 = np.asarray(x).reshape(len(x), math.prod(x.shape[1:])).astype(np.int16)
    return rows
