"""Lessons given: one a cycle, paid for, counted, watched for drift; consolidated and judged when their group is full.

    feedback   lessons -> commit -> answer;   a group of them -> verdict
    teach      lessons -> settle -> consolidation, where one is wanted -> verdict -> answer

Nothing more is learned before a verdict that is due.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Literal

import numpy as np

from edgerun.agent.chores import Chore, Chores
from edgerun.agent.energy import Energy
from edgerun.agent.lessons import Job, Lessons, Waiting
from edgerun.agent.senses import Senses
from edgerun.agent.voice import identity
from edgerun.learn.drift import PageHinkley
from edgerun.learn.learner import DEEP, Taught
from edgerun.learn.records import Boundary, NewClass, Reason, Settle
from edgerun.lifetime import Lifetime
from edgerun.price import learn_cost
from edgerun.spec import Level
from edgerun.telemetry.commands import Command
from edgerun.telemetry.reporter import Reporter, Status

ACCURACY_WINDOW: Final = 50


class School:
    """Gives the lessons of the queue, and knows how they went.

    probe              the share of the bundle's probe that was right when it was scored last
    best_probe         the best of them, since the start or since something was to be forgotten
    consolidation_due  why importance is to be consolidated; None while nothing asks for it
    doubted            lessons set aside since the start
    norm               root mean square of the newest weight change
    drift              the detector that has to be told what was right
    """

    def __init__(
        self, life: Lifetime, energy: Energy, senses: Senses, lessons: Lessons, chores: Chores, reporter: Reporter
    ) -> None:
        self._life, self._learner, self._reporter = life, life.learner, reporter
        self._energy, self._senses, self._lessons, self._chores = energy, senses, lessons, chores
        self.doubted, self.norm = 0, 0.0
        self.probe = self.best_probe = life.probe_accuracy()
        self.forget()

    def forget(self) -> None:
        """What the lessons so far showed says nothing any more."""
        self._right: deque[bool] = deque(maxlen=ACCURACY_WINDOW)
        self.drift = PageHinkley()
        self.consolidation_due: Reason | None = None

    @property
    def accuracy(self) -> float:
        """The share of the newest corrected samples that were right before the lesson; nan before the first."""
        return float(np.mean(self._right)) if self._right else float("nan")

    # ------------------------------------------------------------------ lessons

    def may_teach(self, level: Level) -> bool:
        """Whether a lesson waits that this level teaches: values have no prototypes, so they wait for a deeper one."""
        return self._lessons.due and (level in DEEP or not self._lessons.values)

    def teach(self, level: Level) -> None:
        """The next lesson of the oldest job."""
        job = self._lessons.first
        if job is None:
            return
        if self._lessons.values:
            self._teach_values(job, job.lessons.popleft(), level)
        else:
            self._teach_label(job, job.lessons.popleft(), level)
        if not job.lessons:
            self._end(job)

    def _teach_label(self, job: Job, lesson: Waiting, level: Level) -> None:
        """One lesson of a class, which joins where it is taught and new."""
        teaching = job.teaching is not None
        if teaching and self._learner.class_index(lesson.label) is None:
            self._life.change(NewClass(label=lesson.label))
            detail = {"label": lesson.label, "index": len(self._learner.classes) - 1}
            self._reporter.event("class-added", detail)
        label = self._learner.class_index(lesson.label)
        if label is None:
            return
        kind: Level = "head" if teaching else level
        taught = self._life.teach(lesson.q, label, kind, lesson.sample)
        self._count(job, taught, kind)
        job.correct += taught.correct
        if not teaching:
            self._right.append(taught.correct)
            self._watch(float(not taught.correct))

    def _teach_values(self, job: Job, lesson: Waiting, level: Level) -> None:
        """One lesson of values."""
        taught = self._life.teach(lesson.q, 0, level, lesson.sample, lesson.target)
        self._count(job, taught, level)
        job.missed += 1 - taught.confidence
        if job.teaching is None:
            self._watch(1 - taught.confidence)

    def _count(self, job: Job, taught: Taught, kind: Level) -> None:
        """Put a lesson to the books."""
        job.taught += 1
        job.aside += taught.aside
        self.doubted += taught.aside
        job.energy_uj += self._energy.spend(f"lesson-{kind}", learn_cost(self._energy.work, taught.updates, kind))
        self.norm = taught.norm

    def _watch(self, error: float) -> None:
        """Feed the drift detector that needs to be told what was right; an alarm is told and closes a task."""
        if self.drift.update(error):
            self.alarm("page-hinkley")

    def alarm(self, detector: Literal["page-hinkley", "stream"]) -> None:
        """Something has changed, by what feedback says or by samples alone."""
        self._tell("drift", {"detector": detector, "lessons": self._learner.lessons})
        self.consolidation_due = self.consolidation_due or "drift"

    # ------------------------------------------------------------------ the end of a job

    def _end(self, job: Job) -> None:
        """The last lesson of a job was given: answer, or see to what follows a class that was taught."""
        if job.teaching is None:
            self._lessons.finish()
            self._life.commit()
            detail = {"lessons": job.taught, "set_aside": job.aside, "energy_uj": round(job.energy_uj, 1)}
            self._answer(job.command, "done", detail | job.what_was_known(values=self._lessons.values))
        elif self._lessons.values:
            self._life.commit()
            self._settled(job)
        else:
            self._chores.add(Chore("settle", self._energy.settling, lambda: self._settle(job)))

    def _settle(self, job: Job) -> dict[str, Any]:
        """All examples of a taught class are in: recompute prototypes."""
        self._life.change(Settle())
        self._life.commit()
        self._settled(job)
        return {}

    def _settled(self, job: Job) -> None:
        """What a job taught is durable; the verdict waits for a consolidation where one is wanted."""
        job.settled = True
        if job.teaching is not None and job.teaching.consolidate:
            self.consolidation_due = "taught"

    def consolidate(self, reason: Reason) -> None:
        """Turn what updates did into importance: a task is closed."""
        self._life.change(Boundary(reason=reason))
        self._life.commit()
        self.consolidation_due = None
        self._energy.spend("consolidate", self._energy.work.consolidate)
        self._tell("consolidated", {"reason": reason, "updates": self._learner.updates})

    # ------------------------------------------------------------------ verdicts

    @property
    def verdict_due(self) -> bool:
        """A group of lessons is full, or a class was taught: nothing more is learned before the guard has spoken."""
        first = self._lessons.first
        taught = first is not None and first.settled
        return self._life.judgement_due or (taught and self.consolidation_due is None)

    def close_group(self) -> None:
        """Let the guard speak, and answer for the class that was taught, if one was."""
        self._energy.spend("guard", self._energy.verdict)
        first = self._lessons.first
        if first is not None and first.settled:
            self._lessons.finish()
            self._answer_teaching(first, good=self.judge())
        else:
            self.judge()

    def judge(self) -> bool:
        """Let the lesson guard speak; tells a rollback."""
        judgement = self._life.judge()
        self.score()
        self.best_probe = max(self.best_probe, self.probe)
        detail = {"correct": judgement.correct, "of": judgement.of, "best": round(judgement.best, 4)}
        self._tell("checkpoint" if judgement.good else "rolled-back", detail)
        return judgement.good

    def score(self) -> None:
        """Score the probe."""
        self.probe = self._life.probe_accuracy()

    def score_anew(self) -> None:
        """Score the probe after something was to be forgotten: what was better before is no measure any more."""
        self.score()
        self.best_probe = self.probe

    def _answer_teaching(self, job: Job, *, good: bool) -> None:
        detail: dict[str, Any] = {"examples": job.taught, "energy_uj": round(job.energy_uj, 1)}
        if self._lessons.values:
            detail |= job.what_was_known(values=True)
        else:
            detail |= {
                "probe_before": round(job.probe_before, 4), "probe_after": round(self.probe, 4),
                "label": job.teaching.label if job.teaching else "", "classes": len(self._learner.classes),
            }  # fmt: skip
        if good:
            self._tell("taught", detail)
            self._answer(job.command, "done", detail)
        else:
            self._answer(job.command, "failed", detail | {"reason": "the lesson guard rolled it back"})
        self._reporter.set_identity(identity(self._life, self._energy.board))

    def _tell(self, kind: str, detail: dict[str, Any]) -> None:
        """Something happened at the newest sample."""
        self._reporter.event(kind, detail, self._senses.number)

    def _answer(self, command: Command | None, status: Status, detail: dict[str, Any]) -> None:
        if command is not None:
            self._reporter.result(command, status, detail)
