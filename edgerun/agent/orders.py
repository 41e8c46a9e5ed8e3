"""What an operator may ask of the device: one handler a verb, found by the type of the verb's arguments.

A handler answers at once, queues lessons, or puts a chore off that answers when it is done. It raises Refused, with
nothing changed, for what cannot be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from edgerun.agent.chores import Chore, Chores
from edgerun.agent.energy import Energy, within
from edgerun.agent.facts import Facts
from edgerun.agent.lessons import Asked, Lessons
from edgerun.agent.pause import Pause
from edgerun.agent.school import School
from edgerun.agent.senses import Senses
from edgerun.agent.voice import identity
from edgerun.boards import Ops
from edgerun.errors import BudgetError, Refused
from edgerun.learn.records import Boundary
from edgerun.lifetime import Lifetime
from edgerun.telemetry import commands
from edgerun.telemetry.commands import Command
from edgerun.telemetry.reporter import Reporter


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """The parts of a device that its operator commands."""

    life: Lifetime
    facts: Facts
    energy: Energy
    senses: Senses
    lessons: Lessons
    chores: Chores
    school: School
    pause: Pause
    reporter: Reporter

    def obey(self, command: Command) -> None:
        """Carry out a command, or see to it that it will be. Raises Refused, with nothing changed."""
        HANDLERS[type(command.args)](self, command, command.args)

    # ------------------------------------------------------------------ lessons

    def teach(self, command: Command, args: commands.Teach) -> None:
        asked = self.lessons.asked(args)
        if not self.lessons.values:
            self.energy.check_act("settle", self.energy.settling)
        if args.dry_run:
            self._put_off("dry-run", self._rehearsal(len(asked.examples)), lambda: self._rehearse(asked), command)
            return
        self.lessons.teach(command, asked, self.school.probe)
        self.reporter.result(command, "accepted", {"examples": len(asked.examples)})

    def feedback(self, command: Command, args: commands.Feedback) -> None:
        self.lessons.correct(command, args, self.school.probe)
        self.reporter.result(command, "accepted", {"lessons": len(args.items)})

    def _rehearsal(self, examples: int) -> Ops:
        """Operations of a dry run: the lessons, the prototypes, the guard before and after."""
        work = self.energy.work
        lessons = work.lesson["full" if self.lessons.values else "head"].times(examples)
        return Ops.total([lessons, self.energy.settling, work.guard.times(2)])

    def _rehearse(self, asked: Asked) -> dict[str, Any]:
        """What teaching these would do; the learned state and the journal stay as they are."""
        if self.lessons.values:
            tried, named = self.life.rehearse_values(asked.examples, asked.targets), {}
        else:
            tried, named = self.life.rehearse(asked.label, asked.examples), {"label": asked.label}
        return {name: round(value, 4) for name, value in tried.items()} | {"dry_run": True} | named

    # ------------------------------------------------------------------ answered at once

    def learn_pause(self, command: Command, args: commands.LearnPause) -> None:
        self.pause.turn(True, args.for_s)
        self.reporter.result(command, "done", {"paused": True})

    def learn_resume(self, command: Command, args: commands.LearnResume) -> None:
        self.pause.turn(False, args.for_s)
        self.reporter.result(command, "done", {"paused": False})

    def budget_set(self, command: Command, args: commands.BudgetSet) -> None:
        budget = within(args.applied(self.energy.budget), self.life.bundle.manifest.budget)
        try:
            self.energy.change(budget)
        except BudgetError as err:
            self.reporter.event("budget-refused", {"reason": str(err)})
            raise
        self.facts.keep_budget(budget)
        self.reporter.event("budget", {"power_mw": budget.power_mw})
        self.reporter.result(command, "done", {"power_mw": budget.power_mw})

    def wipe_learned(self, command: Command, args: commands.WipeLearned) -> None:
        """Erase everything learned, and what was to be learned; the probe is scored anew when its energy is there."""
        for dropped in (*self.lessons.clear(), *self.chores.clear()):
            self.reporter.result(dropped, "failed", {"reason": "everything learned was wiped"})
        self.senses.forget()
        self.school.forget()
        self.life.wipe()
        self.chores.add(Chore("probe", self.energy.work.guard, self._score_anew))
        self._introduce()
        self.reporter.result(command, "done", {"digest": self.life.digest()})

    def _score_anew(self) -> dict[str, Any]:
        self.school.score_anew()
        return {}

    # ------------------------------------------------------------------ done when their energy is there

    def checkpoint(self, command: Command, args: commands.Checkpoint) -> None:
        self._put_off("checkpoint", self.energy.work.checkpoint, self._checkpoint, command)

    def _checkpoint(self) -> dict[str, Any]:
        return {"generation": self.life.checkpoint()}

    def consolidate(self, command: Command, args: commands.Consolidate) -> None:
        self._put_off("consolidate", self.energy.work.consolidate, self._consolidate, command)

    def _consolidate(self) -> dict[str, Any]:
        self.life.change(Boundary(reason="command"))
        self.life.commit()
        updates = self.life.learner.updates
        self.reporter.event("consolidated", {"reason": "command", "updates": updates}, self.senses.number)
        return {"updates": updates}

    def probe(self, command: Command, args: commands.Probe) -> None:
        self._put_off("probe", self.energy.work.guard, self._probe, command)

    def _probe(self) -> dict[str, Any]:
        self.school.score()
        return {"accuracy": round(self.school.probe, 4), "digest": self.life.digest()}

    def rollback(self, command: Command, args: commands.Rollback) -> None:
        to = args.to
        if to != "last-good" and to != "factory":
            raise Refused(f"rollback to {to!r}: only last-good and factory can be replayed")
        self._put_off("rollback", self.energy.verdict, lambda: self._roll_back(to), command)

    def _roll_back(self, to: Literal["last-good", "factory"]) -> dict[str, Any]:
        before = self.life.digest()
        self.life.roll_back(to)
        self.school.score()
        self.reporter.event("rolled-back", {"to": to, "by": "command"}, self.senses.number)
        self._introduce()
        return {"digest_before": before, "digest_after": self.life.digest()}

    def forget_class(self, command: Command, args: commands.ForgetClass) -> None:
        self.lessons.known(args.label)
        if self.life.unjudged:
            self._put_off("guard", self.energy.verdict, self._judge)
        self._put_off("forget", self.energy.verdict, lambda: self._forget(args.label), command)

    def _judge(self) -> dict[str, Any]:
        return {"good": self.school.judge()}

    def _forget(self, label: str) -> dict[str, Any]:
        self.life.forget(self.lessons.known(label))
        self.school.score_anew()
        return {"label": label}

    def _put_off(self, name: str, ops: Ops, act: Callable[[], dict[str, Any]], command: Command | None = None) -> None:
        self.chores.put_off(Chore(name, ops, act, command))

    def _introduce(self) -> None:
        self.reporter.set_identity(identity(self.life, self.energy.board))


Handler: TypeAlias = Callable[[Orders, Command, Any], None]

HANDLERS: Final[Mapping[type[commands.Args], Handler]] = MappingProxyType(
    {
        commands.Teach: Orders.teach,
        commands.Feedback: Orders.feedback,
        commands.LearnPause: Orders.learn_pause,
        commands.LearnResume: Orders.learn_resume,
        commands.Rollback: Orders.rollback,
        commands.BudgetSet: Orders.budget_set,
        commands.Checkpoint: Orders.checkpoint,
        commands.Consolidate: Orders.consolidate,
        commands.Probe: Orders.probe,
        commands.ForgetClass: Orders.forget_class,
        commands.WipeLearned: Orders.wipe_learned,
    }
)
"""Every verb but `rebirth`, which `Reporter` answers itself."""
