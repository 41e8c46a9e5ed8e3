"""The device at work: one cycle a sample period, one thread, everything through ports.

    commands -> sensor -> encode -> governor -> infer -> remember -> (feedback) lesson -> guard -> telemetry

`Agent.cycle` never waits and never raises for anything that a sensor or a broker can send. What an operator asks for
and energy has to be paid for waits as a chore until it can be. `docs/architecture.md` walks one sample through it, file
by file.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np

from edgerun import __version__, encode
from edgerun.arrays import I16, AnyArray
from edgerun.boards import Board, Ops, price
from edgerun.bundle import Bundle
from edgerun.encode.targets import learns_values, real_answers, wire_target
from edgerun.errors import BudgetError, DataError, Refused
from edgerun.governor import WINDOW_S, Decision, Demand, GovernorState, capacity_uj, charge, check_budget, decide
from edgerun.graph import grows
from edgerun.layers.spiking import SPIKING
from edgerun.learn.contradiction import Told, check_examples
from edgerun.learn.drift import PageHinkley
from edgerun.learn.learner import DEEP, Taught
from edgerun.learn.records import Boundary, NewClass, Reason, Settle
from edgerun.lifetime import Lifetime
from edgerun.network import UNDECIDED, Network, Outcome
from edgerun.ports import Clock, Disk, Power, Sample, Sensor
from edgerun.price import learn_cost, prices, refresh, work
from edgerun.spec import LEVELS, Budget, Level, Readings
from edgerun.store.files import replace
from edgerun.store.outbox import Outbox
from edgerun.telemetry import commands
from edgerun.telemetry.bucket import Bucket
from edgerun.telemetry.commands import Command, Gate
from edgerun.telemetry.link import Link
from edgerun.telemetry.reporter import Identity, Pace, Reporter, gap_event
from edgerun.telemetry.topics import Topics

log = logging.getLogger(__name__)

WINDOWS: Final = 256  # past windows that feedback may still name
QUEUE: Final = 512  # lessons that may wait
CHORES: Final = 16  # chores that may wait
COMMANDS: Final = 256  # commands taken at once; each is a write to the flash
COMMANDS_PER_S: Final = 4.0  # of device time, after that
ACCURACY_WINDOW: Final = 50
SAMPLE_BLOCK: Final = 4096  # sample numbers reserved at once
METRICS_EVERY: Final = 4  # cycles between two rows of telemetry
SETTINGS: Final = "settings/device.json"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The world, real or pretend."""

    clock: Clock
    sensor: Sensor
    power: Power
    disk: Disk
    link: Link
    outbox_path: Path


class Durable(msgspec.Struct, kw_only=True):
    """Small facts that outlive a restart, in one file."""

    sid: int = 0
    counters: dict[str, int] = {}
    budget: Budget | None = None
    paused: bool = False
    samples: int = 0  # no sample number up to here may be given again


class Waiting(NamedTuple):
    """A lesson whose turn has not come: a quantised sample and its class, or, where values are learned, its target."""

    q: I16
    label: str
    sample: int
    target: I16 | None = None


@dataclass(slots=True)
class Job:
    """A command whose lessons wait for their turn: it is answered when the last one is durable."""

    command: Command | None
    lessons: deque[Waiting]
    before: float
    taught: int = 0
    aside: int = 0  # of them, those whose label was doubted
    correct: int = 0
    missed: float = 0.0  # of values: the sum over lessons of how far the device was off before it was told
    energy_uj: float = 0.0
    settled: bool = False  # a taught job: its class's prototype and bias stand

    @property
    def is_teach(self) -> bool:
        return self.command is not None and isinstance(self.command.args, commands.Teach)

    def what_was_known(self, *, values: bool) -> dict[str, float]:
        """For the answer: how many samples the device had right by itself, or how far off it was in the mean."""
        if values:
            return {"missed_before": round(self.missed / max(1, self.taught), 4)}
        return {"correct_before": self.correct}


@dataclass(frozen=True, slots=True)
class Chore:
    """Something that is done at once and only when its energy is there: `act` gives what to answer."""

    name: str
    ops: Ops
    act: Callable[[], dict[str, Any]]
    command: Command | None = None


class Agent:
    """One device. Call `start`, then `cycle` once a period, then `stop`."""

    def __init__(self, bundle: Bundle, ports: Ports, settings: Settings, observe: Callable[[Any], None] | None = None):
        self.ports, self.settings = ports, settings
        self.life = Lifetime(bundle, ports.disk, observe)
        self.learner = self.life.learner
        self._work = work(bundle)
        self._values = learns_values(bundle.manifest)
        share = refresh(bundle.manifest, self._work.inference)
        self._refresh = share.times(bundle.manifest.learning.replay.refresh_every)
        self.cycles = 0
        self._consolidation_due: Reason | None = None
        self.prices = prices(settings.board, self._work)
        self._durable = _load_durable(ports.disk)
        self.budget = self._durable.budget or within(settings.budget, bundle.manifest.budget)
        self._check_budget(self.budget)
        self._governor = GovernorState.first_boot() if self._durable.sid == 0 else GovernorState()
        self.decision: Decision | None = None
        self._paused = self._durable.paused
        self._until_s: float | None = None  # device time at which a pause or its opposite ends by itself
        self._windows: OrderedDict[int, I16] = OrderedDict()
        self._told = Told(WINDOWS)
        self._jobs: deque[Job] = deque()
        self._chores: deque[Chore] = deque()
        self._recent: deque[bool] = deque(maxlen=ACCURACY_WINDOW)
        self._power: deque[tuple[float, float]] = deque()  # (device seconds, mean mW until then since the one before)
        self._drift = PageHinkley()
        self._best_probe = self.probe = self.life.probe_accuracy()
        self.samples = self._durable.samples
        self.inferences = self.commands = 0
        self.doubted = 0  # lessons set aside since the start
        self.bad_samples = self.missed_samples = self.stuck_samples = 0
        self._newest: AnyArray | None = None
        self.answer: tuple[int, str] | None = None  # the newest inference: sample number and class
        self.energy_uj: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._norm = 0.0
        self._next_s = ports.clock.device_s()
        self.exhausted = False
        topics = Topics(settings.group, settings.node)
        wall = ports.clock.wall_ms
        self._outbox = Outbox(ports.outbox_path, gap_topic=topics.event, make_gap=gap_event(wall))
        room = Bucket(COMMANDS, COMMANDS_PER_S, ports.clock.device_s)
        gate = Gate(topics, settings.keys, self._durable.counters, self._save_counters, wall, room.take)
        self.reporter = Reporter(
            ports.link, self._outbox, topics, self._identity(), gate,
            sid=self._durable.sid, save_sid=self._save_sid, wall_ms=wall, pace=settings.pace,
        )  # fmt: skip

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        self.reporter.start()
        self.reporter.set_mode(self._mode())
        bundle, recovery = self.life.bundle, self.life.recovery
        self._spend("boot", Ops.total([self._work.inference.times(len(bundle.selftest.x)), self._work.guard]))
        self.reporter.event("started", {"bundle": bundle.id, "board": self.settings.board.name})
        if recovery.generation or recovery.replayed:
            detail = {"generation": recovery.generation, "replayed": recovery.replayed, "lessons": recovery.lessons}
            self.reporter.event("restored", detail)

    def cycle(self) -> None:
        """One sample period: hear, sense, decide, act, tell. Then rest until the next is due."""
        now = self.ports.clock.device_s()
        self.hear()
        q = self._sense()
        self._decide(self._look())
        if q is not None and self._allowed.infer:
            self._infer(q)
        if self._verdict_due and self._allowed.checkpoint:
            self._close_group()
        elif self._allowed.learn is not None and self._may_learn and self._lesson_waits:
            self._learn(self._allowed.learn)
        if self._consolidation_due is not None and self._allowed.consolidate:
            self._consolidate(self._consolidation_due)
        self._do_chore()
        if self.cycles % METRICS_EVERY == 0 and self._allowed.telemetry:
            self._tell()
        self.cycles += 1
        self._next_s = max(self._next_s + self.settings.period_s, now)  # what was slept through is not made up for
        self.ports.clock.sleep_until(self._next_s)

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
        return bool(self._jobs or self._chores)

    @property
    def _allowed(self) -> Decision:
        if self.decision is None:
            raise Refused("the governor has not decided yet")
        return self.decision

    # ------------------------------------------------------------------ sense and infer

    def _sense(self) -> I16 | None:
        """The newest sample, quantised. A reading that is broken, missing or the same as before is counted."""
        try:
            sample = self.ports.sensor.read()
        except StopIteration:
            self.exhausted = True
            return None
        if sample is None:
            self.missed_samples += 1
            return None
        self._number_sample()
        self.stuck_samples += self._newest is not None and np.array_equal(sample.x, self._newest)
        self._newest = sample.x
        try:
            q = self._taken(sample.x)
        except DataError as err:
            self.bad_samples += 1
            log.warning("sample refused", extra={"sample": self.samples, "reason": str(err)})
            return None
        self._hear_answer(q, sample)
        return q

    def _hear_answer(self, q: I16, sample: Sample) -> None:
        """Queue the lesson of a sample that comes with its label or target; a broken target is counted."""
        target = None
        try:
            if sample.target is not None and self._values:
                target = wire_target(self.life.bundle.manifest, sample.target)
        except DataError as err:
            self.bad_samples += 1
            log.warning("target refused", extra={"sample": self.samples, "reason": str(err)})
        if self._waiting < QUEUE and (target is not None or (sample.label is not None and not self._values)):
            self._jobs.append(Job(None, deque([Waiting(q, sample.label or "", self.samples, target)]), self.probe))

    def _number_sample(self) -> None:
        """The next sample number, never one that an earlier start may have used."""
        self.samples += 1
        if self.samples > self._durable.samples:
            self._durable.samples = self.samples + SAMPLE_BLOCK
            self._save_durable()

    def remembers(self, sample: int) -> bool:
        """Whether feedback may still name that sample."""
        return sample in self._windows

    def _infer(self, q: I16) -> None:
        found = self.learner.network.infer(q)
        self.answer = (self.samples, self._said(found))
        self.inferences += 1
        if self.life.watch.meet(q, found.label):
            self._alarm("stream")
        self._windows[self.samples] = q
        while len(self._windows) > WINDOWS:
            self._windows.popitem(last=False)
        self._spend("inference", self._work.inference)

    def _said(self, found: Outcome) -> str:
        """A class by name, or values in real units where the bundle says what they mean."""
        manifest = self.life.bundle.manifest
        if found.label != UNDECIDED:
            return self.learner.classes[found.label]
        return " ".join(f"{value:.4g}" for value in real_answers(manifest, found.scores))

    # ------------------------------------------------------------------ govern

    def _look(self) -> Readings:
        """Read the board; keep a minute of its power."""
        self._readings = readings = self.ports.power.readings()
        if readings.power_mw is not None:
            self._power.append((readings.now_s, readings.power_mw.value))
        while self._power and self._power[0][0] < readings.now_s - WINDOW_S:
            self._power.popleft()
        return readings

    def _mean_power_mw(self) -> float:
        """Mean power of the last minute."""
        times = [self._power[0][0] - self.settings.period_s, *(t for t, _ in self._power)] if self._power else []
        spans = np.diff(times)
        return float(np.average([mw for _, mw in self._power], weights=spans)) if spans.sum() > 0 else float("nan")

    def _check_budget(self, budget: Budget) -> None:
        """Raises BudgetError with the floor, where this board cannot keep the budget and still infer."""
        check_budget(budget, Demand(prices=self.prices, period_s=self.settings.period_s))

    def _demand(self, lesson: bool) -> Demand:
        return Demand(
            prices=self.prices,
            period_s=self.settings.period_s,
            lesson_pending=lesson,
            telemetry_due=self.cycles % METRICS_EVERY == 0,
            consolidation_due=self._consolidation_due is not None,
            checkpoint_due=self._verdict_due,
        )

    def _decide(self, readings: Readings) -> None:
        self._end_pause()
        pending = self._lesson_waits and not self._paused and not self._chores
        before = self.decision.level if self.decision else None
        self.decision, self._governor = decide(self.budget, readings, self._demand(pending), self._governor)
        if self.decision.level != before and before is not None:
            detail = {"from": before, "to": self.decision.level, "reason": self.decision.reason}
            self.reporter.event("level", detail, self.samples)

    def _spend(self, act: str, ops: Ops) -> float:
        """Charge an act where it is paid: the board, the governor's bucket, the report."""
        energy, busy = price(self.settings.board, ops)
        self.ports.power.spend(act, energy, busy)
        self._governor = charge(self._governor, energy)
        self.energy_uj[act] = self.energy_uj.get(act, 0.0) + energy
        self._counts[act] = self._counts.get(act, 0) + 1
        return energy

    # ------------------------------------------------------------------ learn

    def _learn(self, level: Level) -> None:
        """The next lesson of the oldest job."""
        job = self._jobs[0]
        if self._values:
            self._learn_values(job, job.lessons.popleft(), level)
        else:
            self._learn_label(job, job.lessons.popleft(), level)
        if job.lessons:
            return
        if not job.is_teach:
            self._jobs.popleft()
            self.life.commit()
            if job.command is not None:
                detail = {"lessons": job.taught, "set_aside": job.aside, "energy_uj": round(job.energy_uj, 1)}
                self._answer(job.command, "done", detail | job.what_was_known(values=self._values))
        elif self._values:
            self.life.commit()
            self._settled(job)
        else:
            self._chores.append(Chore("settle", self._refresh, lambda: self._settle(job)))

    def _learn_label(self, job: Job, lesson: Waiting, level: Level) -> None:
        """One lesson of a class, which joins where it is taught and new."""
        if job.is_teach and self.learner.class_index(lesson.label) is None:
            self.life.change(NewClass(label=lesson.label))
            self.reporter.event("class-added", {"label": lesson.label, "index": len(self.learner.classes) - 1})
        label = self.learner.class_index(lesson.label)
        if label is None:
            return
        kind: Level = "head" if job.is_teach else level
        taught = self.life.teach(lesson.q, label, kind, lesson.sample)
        self._count(job, taught, kind)
        job.correct += taught.correct
        if not job.is_teach:
            self._recent.append(taught.correct)
            self._watch(float(not taught.correct))

    def _learn_values(self, job: Job, lesson: Waiting, level: Level) -> None:
        """One lesson of values."""
        taught = self.life.teach(lesson.q, 0, level, lesson.sample, lesson.target)
        self._count(job, taught, level)
        job.missed += 1 - taught.confidence
        if not job.is_teach:
            self._watch(1 - taught.confidence)

    def _count(self, job: Job, taught: Taught, kind: Level) -> None:
        """Put a lesson to the books."""
        job.taught += 1
        job.aside += taught.aside
        self.doubted += taught.aside
        job.energy_uj += self._spend(f"lesson-{kind}", learn_cost(self._work, taught.updates, kind))
        self._norm = taught.norm

    def _watch(self, error: float) -> None:
        """Feed the drift detector that needs to be told what was right; an alarm is told and closes a task."""
        if self._drift.update(error):
            self._alarm("page-hinkley")

    def _alarm(self, detector: Literal["page-hinkley", "stream"]) -> None:
        """Something has changed, by what feedback says or by samples alone."""
        self.reporter.event("drift", {"detector": detector, "lessons": self.learner.lessons}, self.samples)
        self._consolidation_due = self._consolidation_due or "drift"

    def _consolidate(self, reason: Reason) -> None:
        self.life.change(Boundary(reason=reason))
        self.life.commit()
        self._consolidation_due = None
        self._spend("consolidate", self._work.consolidate)
        self.reporter.event("consolidated", {"reason": reason, "updates": self.learner.updates}, self.samples)

    def _judge(self) -> bool:
        """Let the lesson guard speak; tells a rollback."""
        judgement = self.life.judge()
        self.probe = self.life.probe_accuracy()
        self._best_probe = max(self._best_probe, self.probe)
        detail = {"correct": judgement.correct, "of": judgement.of, "best": round(judgement.best, 4)}
        self.reporter.event("checkpoint" if judgement.good else "rolled-back", detail, self.samples)
        return judgement.good

    @property
    def _lesson_waits(self) -> bool:
        return bool(self._jobs) and bool(self._jobs[0].lessons)

    @property
    def _may_learn(self) -> bool:
        """Whether the governor's level teaches anything: values have no prototypes, so they wait for a deeper one."""
        level = self._allowed.learn
        return level in DEEP if self._values else level is not None

    @property
    def _verdict_due(self) -> bool:
        """A group of lessons is full, or a class was taught: nothing more is learned before the guard has spoken."""
        taught = bool(self._jobs) and self._jobs[0].settled
        return self.life.judgement_due or (taught and self._consolidation_due is None)

    def _close_group(self) -> None:
        self._spend("guard", self._verdict_ops)
        if self._jobs and self._jobs[0].settled:
            self._end_teaching(self._jobs.popleft())
        else:
            self._judge()

    def _settle(self, job: Job) -> dict[str, Any]:
        """All examples of a taught class are in: recompute prototypes; a consolidation and the verdict come next."""
        self.life.change(Settle())
        self.life.commit()
        self._settled(job)
        return {}

    def _settled(self, job: Job) -> None:
        """What a job taught is durable; the verdict waits for a consolidation where one is wanted."""
        job.settled = True
        args = job.command.args if job.command else None
        if isinstance(args, commands.Teach) and args.consolidate:
            self._consolidation_due = "taught"

    def _end_teaching(self, job: Job) -> None:
        """Judge a taught lesson and answer."""
        good = self._judge()
        args = job.command.args if job.command else None
        if job.command is None:
            return
        detail: dict[str, Any] = {"examples": job.taught, "energy_uj": round(job.energy_uj, 1)}
        if self._values:
            detail |= job.what_was_known(values=True)
        else:
            detail |= {
                "probe_before": round(job.before, 4), "probe_after": round(self.probe, 4),
                "label": args.label if isinstance(args, commands.Teach) else "", "classes": len(self.learner.classes),
            }  # fmt: skip
        if good:
            self.reporter.event("taught", detail, self.samples)
            self._answer(job.command, "done", detail)
        else:
            self._answer(job.command, "failed", detail | {"reason": "the lesson guard rolled it back"})
        self.reporter.set_identity(self._identity())

    # ------------------------------------------------------------------ commands

    def hear(self) -> None:
        """Take what the broker has for us, and send what waits; a cycle does it too, and it never moves time."""
        for heard in self.reporter.poll(self.ports.clock.device_s()):
            if isinstance(heard, Command):
                self.commands += 1
                try:
                    self._obey(heard)
                except Refused as err:
                    self._answer(heard, "rejected", {"reason": str(err)})

    def _obey(self, command: Command) -> None:
        """Carry out a command, or put its lessons in the queue. Raises Refused, with nothing changed."""
        match command.args:
            case commands.Teach() as args:
                self._queue_teaching(command, args)
            case commands.Feedback() as args:
                self._queue_feedback(command, args)
            case commands.LearnPause() as args:
                self._pause(True, args.for_s)
                self._answer(command, "done", {"paused": True})
            case commands.LearnResume() as args:
                self._pause(False, args.for_s)
                self._answer(command, "done", {"paused": False})
            case commands.BudgetSet() as args:
                self._answer(command, "done", self._set_budget(args))
            case commands.Rollback() as args:
                to = args.to
                if to != "last-good" and to != "factory":
                    raise Refused(f"rollback to {to!r}: only last-good and factory can be replayed")
                self._put_off(Chore("rollback", self._verdict_ops, lambda: self._roll_back(to), command))
            case commands.Checkpoint():
                self._put_off(Chore("checkpoint", self._work.checkpoint, self._checkpoint, command))
            case commands.Consolidate():
                self._put_off(Chore("consolidate", self._work.consolidate, self._consolidate_now, command))
            case commands.Probe():
                self._put_off(Chore("probe", self._work.guard, self._score_probe, command))
            case commands.ForgetClass() as args:
                self._known(args.label)
                if self.life.unjudged:
                    self._put_off(Chore("guard", self._verdict_ops, self._judge_lessons))
                self._put_off(Chore("forget", self._verdict_ops, lambda: self._forget(args.label), command))
            case commands.WipeLearned():
                self._answer(command, "done", self._wipe())
            case commands.Rebirth():
                self.reporter.set_identity(self._identity())
                self._answer(command, "done", {})

    def _taken(self, x: AnyArray) -> I16:
        """A reading as the network takes it. Raises DataError for what is none."""
        manifest = self.life.bundle.manifest
        return encode.sense(manifest.front, manifest.input, x)

    def _queue_teaching(self, command: Command, args: commands.Teach) -> None:
        examples = [self._taken(example.array()) for example in args.examples]
        targets = [self._target(each) for each in args.targets]
        label = self._label(args.label)
        if not self._values:
            self._check_class(label)
            check_examples(self.learner.reservoir, examples, self.learner.class_index(label), self.learner.classes)
            self._check_chore(Chore("settle", self._refresh, dict))
        if args.dry_run:
            lessons = self._work.lesson["full" if self._values else "head"].times(len(examples))
            ops = Ops.total([lessons, self._refresh, self._work.guard.times(2)])
            self._put_off(Chore("dry-run", ops, lambda: self._try_teaching(label, examples, targets), command))
            return
        self._room_for(len(examples))
        answers: list[I16] | list[None] = targets or [None] * len(examples)
        waiting = (Waiting(q, label, 0, target) for q, target in zip(examples, answers, strict=True))
        self._jobs.append(Job(command, deque(waiting), self.probe))
        self._answer(command, "accepted", {"examples": len(examples)})

    def _target(self, given: commands.Example) -> I16:
        """Values of a command as the rule takes them. Raises DataError for what is none, or a bundle without values."""
        return wire_target(self.life.bundle.manifest, given.array())

    def _label(self, label: str | None) -> str:
        """The class of a command, "" where values are learned. Raises Refused for a label there."""
        if label is not None and self._values:
            raise Refused(f"label {label!r}: the bundle learns values, not classes")
        return label or ""

    def _check_class(self, label: str) -> None:
        """Raises Refused for a class that is new and has no place, those that wait to be taught counted in."""
        if self.learner.class_index(label) is not None:
            return
        manifest, waiting = self.life.bundle.manifest, {label}
        for job in self._jobs:
            names = {lesson.label for lesson in job.lessons if job.is_teach}
            waiting |= {name for name in names if self.learner.class_index(name) is None}
        if not grows(manifest):
            raise Refused(f"class {label!r} cannot join: the bundle's head has no prototypes")
        if len(self.learner.classes) + len(waiting) > manifest.classes.capacity:
            raise Refused(f"class {label!r} is over the capacity of {manifest.classes.capacity} classes")

    def _try_teaching(self, label: str, examples: list[I16], targets: list[I16]) -> dict[str, Any]:
        """What teaching these would do; the learned state and the journal stay as they are."""
        tried = self.life.rehearse_values(examples, targets) if targets else self.life.rehearse(label, examples)
        named = {} if targets else {"label": label}
        return {name: round(value, 4) for name, value in tried.items()} | {"dry_run": True} | named

    def _queue_feedback(self, command: Command, args: commands.Feedback) -> None:
        self._room_for(len(args.items))
        lessons: deque[Waiting] = deque()
        for item in args.items:
            q = self._windows.get(item.sample)
            if q is None:
                raise Refused(f"feedback sample {item.sample} is not among the last {len(self._windows)} windows")
            target = None if item.target is None else self._target(item.target)
            label = self._label(item.label)
            if target is None:
                self._known(label)
            lessons.append(Waiting(q, label, item.sample, target))
        self._told.take((item.sample, item.label) for item in args.items if item.label is not None)
        self._jobs.append(Job(command, lessons, self.probe))
        self._answer(command, "accepted", {"lessons": len(lessons)})

    @property
    def _waiting(self) -> int:
        """Lessons in the queue."""
        return sum(len(job.lessons) for job in self._jobs)

    def _room_for(self, count: int) -> None:
        if self._waiting + count > QUEUE:
            raise Refused(f"{self._waiting} lessons wait already, {count} more are over the bound of {QUEUE}")

    def _known(self, label: str) -> int:
        index = self.learner.class_index(label)
        if index is None:
            raise Refused(f"label {label!r} is none of the {len(self.learner.classes)} classes: teach it first")
        return index

    def _set_budget(self, args: commands.BudgetSet) -> dict[str, Any]:
        budget = within(args.applied(self.budget), self.life.bundle.manifest.budget)
        try:
            self._check_budget(budget)
        except BudgetError as err:
            self.reporter.event("budget-refused", {"reason": str(err)})
            raise
        self.budget = budget
        self._durable.budget = budget
        self._save_durable()
        self.reporter.event("budget", {"power_mw": budget.power_mw})
        return {"power_mw": budget.power_mw}

    def _roll_back(self, to: Literal["last-good", "factory"]) -> dict[str, Any]:
        before = self.life.digest()
        self.life.roll_back(to)
        self.probe = self.life.probe_accuracy()
        self.reporter.event("rolled-back", {"to": to, "by": "command"}, self.samples)
        self.reporter.set_identity(self._identity())
        return {"digest_before": before, "digest_after": self.life.digest()}

    def _pause(self, paused: bool, for_s: float | None) -> None:
        """What holds for some time only does not outlive a restart."""
        self._paused = paused
        self._durable.paused = paused if for_s is None else not paused
        self._until_s = None if for_s is None else self.ports.clock.device_s() + for_s
        self._save_durable()
        self.reporter.set_mode(self._mode())
        self.reporter.event("paused" if paused else "resumed", {"for_s": for_s})

    def _end_pause(self) -> None:
        if self._until_s is not None and self.ports.clock.device_s() >= self._until_s:
            self._pause(self._durable.paused, None)

    # ------------------------------------------------------------------ chores

    @property
    def _verdict_ops(self) -> Ops:
        return Ops.total([self._work.guard, self._work.checkpoint])

    def _put_off(self, chore: Chore) -> None:
        """Do it as soon as its energy is there. Raises Refused where the budget's bucket can never hold so much."""
        if len(self._chores) >= CHORES:
            raise Refused(f"{len(self._chores)} commands wait already, which is the bound")
        self._check_chore(chore)
        self._chores.append(chore)

    def _check_chore(self, chore: Chore) -> None:
        need, room = self._need_uj(chore), capacity_uj(self.budget, self.prices, self.settings.period_s)
        if need > room:
            raise Refused(
                f"{chore.name} takes {need / 1e3:.3g} mJ at once, a budget of {self.budget.power_mw:g} mW "
                f"saves {room / 1e3:.3g} mJ at most"
            )

    def _need_uj(self, chore: Chore) -> float:
        """Tokens without which a chore waits: the next two inferences are not touched."""
        return price(self.settings.board, chore.ops)[0] + 2 * self.prices.inference_uj

    def _do_chore(self) -> None:
        if not self._chores or self._allowed.sleep:
            return
        chore = self._chores[0]
        if self._allowed.tokens_uj - self._governor.spent_uj < self._need_uj(chore):
            return
        self._chores.popleft()
        detail = chore.act()
        self._spend(chore.name, chore.ops)
        if chore.command is not None:
            self._answer(chore.command, "done", detail)

    def _checkpoint(self) -> dict[str, Any]:
        return {"generation": self.life.checkpoint()}

    def _consolidate_now(self) -> dict[str, Any]:
        self.life.change(Boundary(reason="command"))
        self.life.commit()
        self.reporter.event("consolidated", {"reason": "command", "updates": self.learner.updates}, self.samples)
        return {"updates": self.learner.updates}

    def _score_probe(self) -> dict[str, Any]:
        self.probe = self.life.probe_accuracy()
        return {"accuracy": round(self.probe, 4), "digest": self.life.digest()}

    def _judge_lessons(self) -> dict[str, Any]:
        return {"good": self._judge()}

    def _forget(self, label: str) -> dict[str, Any]:
        self.life.forget(self._known(label))
        self.probe = self._best_probe = self.life.probe_accuracy()
        return {"label": label}

    def _wipe(self) -> dict[str, Any]:
        """Erase everything learned, and what was to be learned; the probe is scored anew when its energy is there."""
        for job in self._jobs:
            if job.command is not None:
                self._answer(job.command, "failed", {"reason": "everything learned was wiped"})
        for chore in self._chores:
            if chore.command is not None:
                self._answer(chore.command, "failed", {"reason": "everything learned was wiped"})
        self._jobs.clear()
        self._chores.clear()
        self._windows.clear()
        self._told.clear()
        self._recent.clear()
        self._drift, self._consolidation_due = PageHinkley(), None
        self.life.wipe()
        self._chores.append(Chore("probe", self._work.guard, self._score_anew))
        self.reporter.set_identity(self._identity())
        return {"digest": self.life.digest()}

    def _score_anew(self) -> dict[str, Any]:
        self.probe = self._best_probe = self.life.probe_accuracy()
        return {}

    def _answer(self, command: Command, status: Any, detail: dict[str, Any]) -> None:
        self.reporter.result(command, status, detail)

    # ------------------------------------------------------------------ tell

    def _tell(self) -> None:
        self.reporter.sample(self.metrics(), self.samples, self.ports.clock.device_s())
        self._spend("telemetry", self._work.message)

    def metrics(self) -> dict[str, float]:
        """One row of telemetry, from the newest readings; nan = not known now."""
        nan, state, readings = float("nan"), self._allowed, self._readings
        importance = self.learner.importance()
        heat, ram = readings.temperature_c, readings.ram_kb
        return {
            "accuracy": float(np.mean(self._recent)) if self._recent else nan,
            "probe_accuracy": self.probe,
            "forgetting": self._best_probe - self.probe,
            "drift": self._drift.statistic,
            "stream_drift": self.life.watch.statistic,
            "power_mw": self._mean_power_mw(),
            "budget_mw": self.budget.power_mw,
            "tokens_mj": state.tokens_uj / 1e3,
            "energy_uj": sum(self.energy_uj.values()),
            "energy_inference_uj": self.mean_energy_uj("inference"),
            "energy_update_uj": self.mean_energy_uj("lesson"),
            "level": LEVELS.index(state.level),
            "lessons": self.learner.lessons,
            "updates": self.learner.updates,
            "doubted": self.doubted,
            "inferences": self.inferences,
            "spike_rate": spike_rate(self.learner.network),
            "update_norm": self._norm,
            "importance_p50": float(np.percentile(importance, 50)) if len(importance) else nan,
            "importance_p99": float(np.percentile(importance, 99)) if len(importance) else nan,
            "refused": self.reporter.refused,
            "outbox_depth": self._outbox.depth,
            "flash_mb_today": readings.flash_mb_today,
            "temperature_c": heat.value if heat else nan,
            "ram_kb": ram.value if ram else nan,
        }

    def mean_energy_uj(self, act: str) -> float:
        """Mean energy of the acts whose name begins so, nan before the first."""
        names = [name for name in self.energy_uj if name.startswith(act)]
        count = sum(self._counts[name] for name in names)
        return sum(self.energy_uj[name] for name in names) / count if count else float("nan")

    def _mode(self) -> Any:
        plan = self.life.bundle.manifest.learning
        if self._paused:
            return "paused"
        return "learning" if plan.rule or plan.replay.capacity else "inference"

    def _identity(self) -> Identity:
        manifest = self.life.bundle.manifest
        return Identity(
            bundle=self.life.bundle.id,
            bundle_name=manifest.name,
            runtime=__version__,
            board=self.settings.board.name,
            classes=tuple(self.learner.classes),
            capacity=manifest.classes.capacity,
        )

    # ------------------------------------------------------------------ small durable facts

    def _save_sid(self, sid: int) -> None:
        self._durable.sid = sid
        self._save_durable()

    def _save_counters(self, counters: dict[str, int]) -> None:
        self._durable.counters = counters
        self._save_durable()

    def _save_durable(self) -> None:
        replace(self.ports.disk, SETTINGS, msgspec.json.encode(self._durable))


def spike_rate(network: Network) -> float:
    """Share of neurons that spiked in a step of the newest window: the mean over layers that spike, nan without one."""
    layers = [layer.name for layer in network.manifest.layers if isinstance(layer, SPIKING)]
    counts = [network.layers[name].state()["counts"].mean() / network.steps for name in layers]
    return float(np.mean(counts)) if counts else float("nan")


def _load_durable(disk: Disk) -> Durable:
    """The small facts, or fresh ones where the file is missing or damaged."""
    data = disk.read(SETTINGS)
    if data is None:
        return Durable()
    try:
        return msgspec.json.decode(data, type=Durable)
    except msgspec.DecodeError as err:
        log.warning("device facts were damaged and start anew", extra={"reason": str(err)})
        return Durable()


def within(budget: Budget, ceiling: Budget | None) -> Budget:
    """A budget clamped to what the bundle allows."""
    if ceiling is None:
        return budget
    changes: dict[str, float] = {}
    for name in ("power_mw", "peak_mw", "energy_j_per_day", "ram_kb", "flash_mb_per_day", "max_temperature_c"):
        mine, top = getattr(budget, name), getattr(ceiling, name)
        if top is not None and (mine is None or mine > top):
            changes[name] = top
    return msgspec.structs.replace(budget, **changes)
