"""The device at work: one cycle a sample period, one thread, everything through ports.

    commands -> sensor -> encode -> governor -> infer -> remember -> (feedback) lesson -> guard -> telemetry

`Agent.cycle` never waits and never raises for anything that a sensor or a broker can send. `docs/architecture.md` walks
one sample through it, file by file.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from edgerun import __version__, encode
from edgerun.arrays import I16
from edgerun.boards import Board, Ops, price
from edgerun.bundle import Bundle
from edgerun.errors import BudgetError, DataError, Refused
from edgerun.governor import WINDOW_S, Decision, Demand, GovernorState, charge, check_budget, decide
from edgerun.learn.drift import PageHinkley
from edgerun.learn.records import Boundary, Forget, NewClass, Reason, Settle
from edgerun.lifetime import Lifetime
from edgerun.network import LifRun
from edgerun.ports import Clock, Disk, Power, Sensor
from edgerun.price import learn_cost, prices, work
from edgerun.spec import LEVELS, Budget, Level, Readings
from edgerun.store.files import replace
from edgerun.store.outbox import Outbox
from edgerun.telemetry import commands
from edgerun.telemetry.commands import Command, Gate
from edgerun.telemetry.link import Link
from edgerun.telemetry.reporter import Identity, Pace, Reporter, gap_event
from edgerun.telemetry.topics import Topics

log = logging.getLogger(__name__)

WINDOWS: Final = 256  # past windows that feedback may still name
QUEUE: Final = 512  # lessons that may wait
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


@dataclass(slots=True)
class Job:
    """A command whose lessons wait for their turn: it is answered when the last one is durable."""

    command: Command | None
    lessons: deque[tuple[I16, str, int]]  # (q, label, sample)
    before: float
    taught: int = 0
    correct: int = 0
    energy_uj: float = 0.0

    @property
    def is_teach(self) -> bool:
        return self.command is not None and isinstance(self.command.args, commands.Teach)


class Agent:
    """One device. Call `start`, then `cycle` once a period, then `stop`."""

    def __init__(self, bundle: Bundle, ports: Ports, settings: Settings, observe: Callable[[Any], None] | None = None):
        self.ports, self.settings = ports, settings
        self.life = Lifetime(bundle, ports.disk, observe)
        self.learner = self.life.learner
        self._work = work(bundle)
        self.cycles, self._consolidation_due = 0, False
        self.prices = prices(settings.board, self._work)
        self._durable = _load_durable(ports.disk)
        self.budget = self._durable.budget or within(settings.budget, bundle.manifest.budget)
        self._check_budget(self.budget)
        self._governor = GovernorState.first_boot() if self._durable.sid == 0 else GovernorState()
        self.decision: Decision | None = None
        self._paused_until: float | None = None
        self._windows: OrderedDict[int, I16] = OrderedDict()
        self._jobs: deque[Job] = deque()
        self._recent: deque[bool] = deque(maxlen=ACCURACY_WINDOW)
        self._power: deque[tuple[float, float]] = deque()  # (device seconds, mean mW until then since the one before)
        self._drift = PageHinkley()
        self._best_probe = self.probe = self.life.probe_accuracy()
        self.samples = self._durable.samples
        self.inferences = self.bad_samples = self.commands = 0
        self.energy_uj: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._norm = 0.0
        self._next_s = ports.clock.device_s()
        self.exhausted = False
        topics = Topics(settings.group, settings.node)
        wall = ports.clock.wall_ms
        self._outbox = Outbox(ports.outbox_path, gap_topic=topics.event, make_gap=gap_event(wall))
        gate = Gate(topics, settings.keys, self._durable.counters, self._save_counters, wall)
        self.reporter = Reporter(
            ports.link, self._outbox, topics, self._identity(), gate,
            sid=self._durable.sid, save_sid=self._save_sid, wall_ms=wall, pace=settings.pace,
        )  # fmt: skip

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        self.reporter.start()
        self.reporter.set_mode(self._mode())
        bundle, recovery = self.life.bundle, self.life.recovery
        self._spend("boot", self._work.inference.times(len(bundle.selftest.x) + len(bundle.probe.x)))
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
        elif self._allowed.learn is not None and self._lesson_waits:
            self._learn(self._allowed.learn)
        if self._consolidation_due and self._allowed.consolidate:
            self._consolidate("drift")
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
        return bool(self._jobs)

    @property
    def _allowed(self) -> Decision:
        if self.decision is None:
            raise Refused("the governor has not decided yet")
        return self.decision

    # ------------------------------------------------------------------ sense and infer

    def _sense(self) -> I16 | None:
        """The newest sample, quantised; a broken reading is counted, reported once and skipped."""
        try:
            sample = self.ports.sensor.read()
        except StopIteration:
            self.exhausted = True
            return None
        if sample is None:
            return None
        self._number_sample()
        try:
            q = encode.quantise(self.life.bundle.manifest.input, sample.x)
        except DataError as err:
            self.bad_samples += 1
            log.warning("sample refused", extra={"sample": self.samples, "reason": str(err)})
            return None
        if sample.label is not None and self._waiting < QUEUE:
            self._jobs.append(Job(None, deque([(q, sample.label, self.samples)]), self.probe))
        return q

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
        self.learner.network.infer(q)
        self.inferences += 1
        self._windows[self.samples] = q
        while len(self._windows) > WINDOWS:
            self._windows.popitem(last=False)
        self._spend("inference", self._work.inference)

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
            consolidation_due=self._consolidation_due,
            checkpoint_due=self._verdict_due,
        )

    def _decide(self, readings: Readings) -> None:
        pending = self._lesson_waits and not self._paused()
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
        q, name, sample = job.lessons.popleft()
        label = self.learner.class_index(name)
        if label is not None:
            kind: Level = "head" if job.is_teach else level
            taught = self.life.teach(q, label, kind, sample)
            job.taught, job.correct = job.taught + 1, job.correct + taught.correct
            job.energy_uj += self._spend(f"lesson-{kind}", learn_cost(self._work, taught.updates, kind))
            self._norm = taught.norm
            if not job.is_teach:
                self._recent.append(taught.correct)
                self._watch(not taught.correct)
        if not job.lessons and not job.is_teach:
            self._jobs.popleft()
            self.life.commit()
            if job.command is not None:
                detail = {"lessons": job.taught, "correct_before": job.correct, "energy_uj": round(job.energy_uj, 1)}
                self._answer(job.command, "done", detail)

    def _watch(self, error: bool) -> None:
        """Feed the drift detector; an alarm is told and closes a task."""
        if self._drift.update(float(error)):
            self.reporter.event("drift", {"detector": "page-hinkley", "lessons": self.learner.lessons}, self.samples)
            self._consolidation_due = True

    def _consolidate(self, reason: Reason) -> None:
        self.life.change(Boundary(reason=reason))
        self.life.commit()
        self._consolidation_due = False
        self._spend("consolidate", self._work.consolidate)
        self.reporter.event("consolidated", {"reason": reason, "updates": self.learner.updates}, self.samples)

    def _judge(self) -> bool:
        """Let the lesson guard speak; tells a rollback."""
        judgement = self.life.judge()
        self.probe = self.life.probe_accuracy()
        self._spend("guard", Ops.total([self._work.guard, self._work.checkpoint]))
        self._best_probe = max(self._best_probe, self.probe)
        detail = {"correct": judgement.correct, "of": judgement.of, "best": round(judgement.best, 4)}
        self.reporter.event("checkpoint" if judgement.good else "rolled-back", detail, self.samples)
        return judgement.good

    @property
    def _lesson_waits(self) -> bool:
        return bool(self._jobs) and bool(self._jobs[0].lessons)

    @property
    def _verdict_due(self) -> bool:
        """A group of lessons is full, or a class was taught: nothing more is learned before the guard has spoken."""
        return self.life.judgement_due or (bool(self._jobs) and not self._jobs[0].lessons)

    def _close_group(self) -> None:
        if self._jobs and not self._jobs[0].lessons:
            self._settle(self._jobs.popleft())
        else:
            self._judge()

    def _settle(self, job: Job) -> None:
        """End a taught lesson: recompute prototypes, judge, answer."""
        self.life.change(Settle())
        args = job.command.args if job.command else None
        if isinstance(args, commands.Teach) and args.consolidate:
            self._consolidate("taught")
        self.life.commit()
        good = self._judge()
        if job.command is None:
            return
        detail = {
            "examples": job.taught, "probe_before": round(job.before, 4), "probe_after": round(self.probe, 4),
            "label": args.label if isinstance(args, commands.Teach) else "", "energy_uj": round(job.energy_uj, 1),
            "classes": len(self.learner.classes),
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
                self._answer(command, "done", self._roll_back(args))
            case commands.Checkpoint():
                self._answer(command, "done", {"generation": self.life.checkpoint()})
                self._spend("checkpoint", self._work.checkpoint)
            case commands.Consolidate():
                self._consolidate("command")
                self._answer(command, "done", {"updates": self.learner.updates})
            case commands.Probe():
                self.probe = self.life.probe_accuracy()
                self._answer(command, "done", {"accuracy": round(self.probe, 4), "digest": self.life.digest()})
            case commands.ForgetClass() as args:
                self.life.change(Forget(label=self._known(args.label)))
                self.life.checkpoint()
                self._answer(command, "done", {"label": args.label})
            case commands.WipeLearned():
                self._jobs.clear()
                self._windows.clear()
                self.life.wipe()
                self.reporter.set_identity(self._identity())
                self._answer(command, "done", {"digest": self.life.digest()})
            case commands.Rebirth():
                self.reporter.set_identity(self._identity())
                self._answer(command, "done", {})

    def _queue_teaching(self, command: Command, args: commands.Teach) -> None:
        if args.dry_run:
            raise Refused("teach dry_run is not supported by this runtime")
        self._room_for(len(args.examples))
        manifest = self.life.bundle.manifest
        examples = [encode.quantise(manifest.input, example.array()) for example in args.examples]
        if self.learner.class_index(args.label) is None:
            self.life.change(NewClass(label=args.label))
            self.reporter.event("class-added", {"label": args.label, "index": len(self.learner.classes) - 1})
        lessons = deque((q, args.label, 0) for q in examples)
        self._jobs.append(Job(command, lessons, self.life.probe_accuracy()))
        self._answer(command, "accepted", {"examples": len(lessons)})

    def _queue_feedback(self, command: Command, args: commands.Feedback) -> None:
        self._room_for(len(args.items))
        lessons: deque[tuple[I16, str, int]] = deque()
        for item in args.items:
            q = self._windows.get(item.sample)
            if q is None:
                raise Refused(f"feedback sample {item.sample} is not among the last {len(self._windows)} windows")
            self._known(item.label)
            lessons.append((q, item.label, item.sample))
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

    def _roll_back(self, args: commands.Rollback) -> dict[str, Any]:
        if args.to not in ("last-good", "factory"):
            raise Refused(f"rollback to {args.to!r} is none of last-good, factory")
        before = self.life.digest()
        self.life.roll_back("factory" if args.to == "factory" else "last-good")
        self.probe = self.life.probe_accuracy()
        self.reporter.event("rolled-back", {"to": args.to, "by": "command"}, self.samples)
        self.reporter.set_identity(self._identity())
        return {"digest_before": before, "digest_after": self.life.digest()}

    def _pause(self, paused: bool, for_s: float | None) -> None:
        self._durable.paused = paused
        self._paused_until = None if for_s is None else self.ports.clock.device_s() + for_s
        self._save_durable()
        self.reporter.set_mode(self._mode())
        self.reporter.event("paused" if paused else "resumed", {"for_s": for_s})

    def _paused(self) -> bool:
        if self._paused_until is not None and self.ports.clock.device_s() >= self._paused_until:
            self._pause(not self._durable.paused, None)
        return self._durable.paused

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
            "power_mw": self._mean_power_mw(),
            "budget_mw": self.budget.power_mw,
            "tokens_mj": state.tokens_uj / 1e3,
            "energy_uj": sum(self.energy_uj.values()),
            "energy_inference_uj": self.mean_energy_uj("inference"),
            "energy_update_uj": self.mean_energy_uj("lesson"),
            "level": LEVELS.index(state.level),
            "lessons": self.learner.lessons,
            "updates": self.learner.updates,
            "inferences": self.inferences,
            "spike_rate": self._spike_rate(),
            "update_norm": self._norm,
            "importance_p50": float(np.percentile(importance, 50)) if len(importance) else nan,
            "importance_p99": float(np.percentile(importance, 99)) if len(importance) else nan,
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

    def _spike_rate(self) -> float:
        """Share of neurons that spike in a step, over the newest window."""
        network = self.learner.network
        counts = [run.counts.mean() / network.steps for run in network.layers.values() if isinstance(run, LifRun)]
        return float(np.mean(counts)) if counts else float("nan")

    def _mode(self) -> Any:
        plan = self.life.bundle.manifest.learning
        if self._durable.paused:
            return "paused"
        return "learning" if plan.eprop or plan.replay.capacity else "inference"

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
