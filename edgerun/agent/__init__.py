"""The device at work: one cycle a sample period, one thread, everything through ports.

    commands -> sensor -> encode -> governor -> infer -> remember -> (feedback) lesson -> guard -> telemetry

`Agent.cycle` never waits and never raises for anything that a sensor or a broker can send. What an operator asks for
and energy has to be paid for waits as a chore until it can be. Each part of an agent owns what it knows:

    facts    what outlives a restart            lessons  the queue, checked on the way in
    energy   prices, budget, governor, spent    chores   what waits for its energy
    senses   samples, numbered and remembered   school   lessons given, drift, probe, verdicts
    pause    whether to learn at all            orders   one handler a verb of the operator

`docs/architecture.md` walks one sample through it, file by file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgerun.agent.chores import Chores
from edgerun.agent.energy import Energy, within
from edgerun.agent.facts import Facts
from edgerun.agent.lessons import Lessons
from edgerun.agent.orders import Orders
from edgerun.agent.pause import Pause
from edgerun.agent.school import School
from edgerun.agent.senses import Senses
from edgerun.agent.voice import identity, spike_rate
from edgerun.arrays import I16
from edgerun.boards import Board, Ops
from edgerun.bundle import Bundle
from edgerun.encode.targets import real_answers
from edgerun.errors import Refused
from edgerun.kernels.native import Backend
from edgerun.lifetime import Lifetime
from edgerun.network import UNDECIDED, Outcome
from edgerun.ports import Clock, Disk, Power, Sensor
from edgerun.spec import LEVELS, Budget
from edgerun.store.outbox import Outbox
from edgerun.telemetry.bucket import Bucket
from edgerun.telemetry.commands import Command, Gate
from edgerun.telemetry.link import Link
from edgerun.telemetry.reporter import Pace, Reporter, gap_event
from edgerun.telemetry.topics import Topics

COMMANDS: Final = 256  # commands taken at once; each is a write to the flash
COMMANDS_PER_S: Final = 4.0  # of device time, after that
METRICS_EVERY: Final = 4  # cycles between two rows of telemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the configuration decides."""

    group: str
    node: str
    board: Board
    budget: Budget
    period_s: float
    keys: Mapping[str, bytes] = field(default_factory=dict)  # key id -> Ed25519 public key; empty = unsigned allowed
    pace: Pace = field(default_factory=Pace)
    backend: Backend | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The world, real or pretend."""

    clock: Clock
    sensor: Sensor
    power: Power
    disk: Disk
    link: Link
    outbox_path: Path


class Agent:
    """One device. Call `start`, then `cycle` once a period, then `stop`.

    cycles      since the start
    inferences  since the start
    commands    that the gate let in since the start
    answer      of the newest inference: sample number and class, or values; None before the first
    """

    def __init__(self, bundle: Bundle, ports: Ports, settings: Settings, observe: Callable[[Any], None] | None = None):
        self.settings, self._clock = settings, ports.clock
        self.life = Lifetime(bundle, ports.disk, observe, settings.backend)
        self.learner = self.life.learner
        self.facts = Facts(ports.disk)
        held = self.facts.held
        self.energy = Energy(
            bundle,
            settings.board,
            ports.power,
            settings.period_s,
            held.budget or within(settings.budget, bundle.manifest.budget),
            first_boot=held.sid == 0,
        )
        self.senses = Senses(ports.sensor, bundle.manifest, self.facts)
        self.lessons = Lessons(self.life, self.senses)
        self.chores = Chores(self.energy)
        topics, wall_ms = Topics(settings.group, settings.node), ports.clock.wall_ms
        self._outbox = Outbox(ports.outbox_path, gap_topic=topics.event, make_gap=gap_event(wall_ms))
        room = Bucket(COMMANDS, COMMANDS_PER_S, ports.clock.device_s)
        self.reporter = Reporter(
            ports.link,
            self._outbox,
            topics,
            identity(self.life, settings.board),
            Gate(topics, settings.keys, held.counters, self.facts.keep_counters, wall_ms, room.take),
            sid=held.sid,
            save_sid=self.facts.keep_sid,
            wall_ms=wall_ms,
            pace=settings.pace,
        )
        self.school = School(self.life, self.energy, self.senses, self.lessons, self.chores, self.reporter)
        self.pause = Pause(bundle.manifest.learning, self.facts, ports.clock, self.reporter)
        self._orders = Orders(
            life=self.life,
            facts=self.facts,
            energy=self.energy,
            senses=self.senses,
            lessons=self.lessons,
            chores=self.chores,
            school=self.school,
            pause=self.pause,
            reporter=self.reporter,
        )
        self.cycles = self.inferences = self.commands = 0
        self.answer: tuple[int, str] | None = None
        self._next_s = ports.clock.device_s()

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Begin to talk, and tell of the start."""
        self.reporter.start()
        self.reporter.set_mode(self.pause.mode)
        bundle, recovery, work = self.life.bundle, self.life.recovery, self.energy.work
        self.energy.spend("boot", Ops.total([work.inference.times(len(bundle.selftest.x)), work.guard]))
        self.reporter.event("started", {"bundle": bundle.id, "board": self.settings.board.name})
        if recovery.generation or recovery.replayed:
            detail = {"generation": recovery.generation, "replayed": recovery.replayed, "lessons": recovery.lessons}
            self.reporter.event("restored", detail)

    def cycle(self) -> None:
        """One sample period: hear, sense, decide, act, tell. Then rest until the next is due."""
        now, school = self._clock.device_s(), self.school
        self.hear()
        q = self._sense()
        self._govern()
        allowed = self.energy.allowed
        if q is not None and allowed.infer:
            self._infer(q)
        if school.verdict_due and allowed.checkpoint:
            school.close_group()
        elif allowed.learn is not None and school.may_teach(allowed.learn):
            school.teach(allowed.learn)
        if school.consolidation_due is not None and allowed.consolidate:
            school.consolidate(school.consolidation_due)
        self._do_chore()
        if self._telemetry_due and allowed.telemetry:
            self._tell()
        self.cycles += 1
        self._next_s = max(self._next_s + self.settings.period_s, now)  # what was slept through is not made up for
        self._clock.sleep_until(self._next_s)

    def stop(self) -> None:
        """Save everything, say goodbye."""
        self.life.checkpoint()
        self.reporter.event("stopped", {"lessons": self.learner.lessons})
        self.reporter.stop()
        self._outbox.close()

    def abandon(self) -> None:
        """Let go of files and threads as a power cut does: nothing is saved, nothing is said."""
        self._outbox.abandon()

    @property
    def outbox_depth(self) -> int:
        """Messages that the collector has not confirmed."""
        return self._outbox.depth

    @property
    def busy(self) -> bool:
        """Whether a command is still being worked on."""
        return bool(self.lessons or self.chores)

    # ------------------------------------------------------------------ the steps of a cycle

    def hear(self) -> None:
        """Take what the broker has for us, and send what waits; a cycle does it too, and it never moves time."""
        for heard in self.reporter.poll(self._clock.device_s()):
            if isinstance(heard, Command):
                self.commands += 1
                try:
                    self._orders.obey(heard)
                except Refused as err:
                    self.reporter.result(heard, "rejected", {"reason": str(err)})

    def _sense(self) -> I16 | None:
        """The newest sample, quantised; where the recording itself says what it is, its lesson is queued."""
        seen = self.senses.read()
        if seen is None:
            return None
        self.lessons.hear(seen, self.school.probe)
        return seen.q

    def _govern(self) -> None:
        """Read the board and decide what it can afford now; a change of level is told."""
        self.energy.look()
        self.pause.end_in_time()
        before = self.energy.decision
        now = self.energy.decide(
            lesson=self.lessons.due and not self.pause.on and not self.chores,
            telemetry=self._telemetry_due,
            consolidation=self.school.consolidation_due is not None,
            checkpoint=self.school.verdict_due,
        )
        if before is not None and before.level != now.level:
            detail = {"from": before.level, "to": now.level, "reason": now.reason}
            self.reporter.event("level", detail, self.senses.number)

    def _infer(self, q: I16) -> None:
        """Answer, watch for samples unlike any before, remember."""
        found = self.learner.network.infer(q)
        self.answer = (self.senses.number, self._said(found))
        self.inferences += 1
        if self.life.watch.meet(q, found.label):
            self.school.alarm("stream")
        self.senses.remember(q)
        self.energy.spend("inference", self.energy.work.inference)

    def _said(self, found: Outcome) -> str:
        """A class by name, or values in real units where the bundle says what they mean."""
        if found.label != UNDECIDED:
            return self.learner.classes[found.label]
        return " ".join(f"{value:.4g}" for value in real_answers(self.life.bundle.manifest, found.scores))

    def _do_chore(self) -> None:
        """The oldest chore, if its energy is there by now."""
        chore = self.chores.take()
        if chore is None:
            return
        detail = chore.act()
        self.energy.spend(chore.name, chore.ops)
        if chore.command is not None:
            self.reporter.result(chore.command, "done", detail)

    # ------------------------------------------------------------------ tell

    @property
    def _telemetry_due(self) -> bool:
        return self.cycles % METRICS_EVERY == 0

    def _tell(self) -> None:
        self.reporter.sample(self.metrics(), self.senses.number, self._clock.device_s())
        self.energy.spend("telemetry", self.energy.work.message)

    def metrics(self) -> dict[str, float]:
        """One row of telemetry, from the newest readings; nan = not known. Raises Refused before the first cycle."""
        nan, state, school, energy = float("nan"), self.energy.allowed, self.school, self.energy
        importance = self.learner.importance()
        heat, ram = energy.readings.temperature_c, energy.readings.ram_kb
        return {
            "accuracy": school.accuracy,
            "probe_accuracy": school.probe,
            "forgetting": school.best_probe - school.probe,
            "drift": school.drift.statistic,
            "stream_drift": self.life.watch.statistic,
            "power_mw": energy.mean_power_mw(),
            "budget_mw": energy.budget.power_mw,
            "tokens_mj": state.tokens_uj / 1e3,
            "energy_uj": energy.total_uj,
            "energy_inference_uj": energy.mean_uj("inference"),
            "energy_update_uj": energy.mean_uj("lesson"),
            "level": LEVELS.index(state.level),
            "lessons": self.learner.lessons,
            "updates": self.learner.updates,
            "doubted": school.doubted,
            "inferences": self.inferences,
            "spike_rate": spike_rate(self.learner.network),
            "update_norm": school.norm,
            "importance_p50": float(np.percentile(importance, 50)) if len(importance) else nan,
            "importance_p99": float(np.percentile(importance, 99)) if len(importance) else nan,
            "refused": self.reporter.refused,
            "outbox_depth": self._outbox.depth,
            "flash_mb_today": energy.readings.flash_mb_today,
            "temperature_c": heat.value if heat else nan,
            "ram_kb": ram.value if ram else nan,
        }
