"""`edgerun emulate`: the real agent on a pretend board, as fast as this machine can or as slowly as the board would.

recording -> drifts, faults -> PretendDevice -> what it got right, what it cost, what went wrong and how it came back
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from edgerun.agent import Settings
from edgerun.boards import BOARDS, get_board
from edgerun.bundle import Bundle, open_bundle
from edgerun.commands.plan import Priced, plan
from edgerun.commands.text import columns
from edgerun.errors import DataError, Refused
from edgerun.price import work
from edgerun.samples import labels, read_arrays, recordings
from edgerun.spec import LEVELS, Budget
from edgerun.telemetry.address import FORM, parse_broker
from edgerun.telemetry.link import Endpoint
from firmware_sim.device import PretendDevice
from firmware_sim.faults import Fault, list_faults, parse_fault
from firmware_sim.flash import PowerCut
from firmware_sim.sensors import Drift, Order, Recording

GROUP: Final = "emulated"
HEADROOM: Final = 1.5  # the usual budget, times what learning at every sample takes
PATIENCE_S: Final = 5.0  # real seconds that a broker may take at the start, and again at the end
REST_S: Final = 600.0  # device seconds that lessons still waiting when the recording ends may take
TELL_S: Final = 2.0  # real seconds between two lines of progress
NEWEST: Final = 100  # samples that the last accuracy is over
INT16: Final = 32768.0  # a pretend microphone gives real numbers in [-1, 1]
ORDERS: Final[tuple[Order, ...]] = ("given", "shuffled", "blocks")


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("bundle", nargs="?", metavar="MODEL.edgb", help="the bundle that the device runs")
    add(
        "--data",
        type=Path,
        metavar="X.npz",
        help="what its sensor sees; where it has labels it is corrected",
    )
    add("--board", default="pico2", metavar="NAME", help=f"one of {', '.join(BOARDS)} (pico2)")
    add("--broker", metavar="URL", help=f"{FORM}; without one the device is offline: what it tells stays in its outbox")
    add("--node", metavar="NAME", help=f"its name on the broker, in the group {GROUP} (the board's name)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, metavar="N", help="of device time; the data are repeated as needed")
    length.add_argument("-n", "--samples", type=int, metavar="N", help="samples to play (the data once)")
    add("--period", type=float, default=0.5, metavar="S", help="seconds from sample to sample (0.5)")
    add("--power", type=float, metavar="MW", help="power budget (half as much again as learning at every sample takes)")
    add("--supervised", type=float, default=1.0, metavar="SHARE", help="of the samples come with their label (1.0)")
    add("--rotate", type=float, default=0.0, metavar="DEG", help="turn the sensor, square images only")
    add("--at", type=int, default=0, metavar="N", help="sample from which on it is turned (0)")
    add("--order", choices=ORDERS, default="given", help="of the data; blocks: two classes at a time (given)")
    add("--fault", action="append", default=[], metavar="WHAT@...", help="something that goes wrong; may be repeated")
    add("--list-faults", action="store_true", help="list what can go wrong, and end")
    add("--seed", type=int, default=1, help="of all that is drawn: order, faults, torn writes (1)")
    add("--speed", choices=("max", "real"), default="max", help="of device time (max)")
    add("--state-dir", type=Path, metavar="DIR", help="where the device's flash is kept; it goes on from what is there")
    add("--json", action="store_true", help="print one JSON object instead of lines and a table")
    parser.epilog = (
        "examples:\n"
        "  edgerun emulate digits.edgb --data field.npz --board pico2 --rotate 25 --at 100\n"
        "  edgerun emulate digits.edgb --data field.npz --fault power-cut@write=120 --fault stuck@sample=300,for=20"
    )


def run(args: argparse.Namespace) -> int:
    """0, also when it was interrupted. Raises Refused for arguments, StoreError where the flash is worn out."""
    if args.list_faults:
        print("\n".join(list_faults()))
        return 0
    scenario = read_scenario(args)
    say: Callable[[str], None] = _silent if args.json else _say
    for problem in scenario.plan.problems:
        print(f"edgerun: a real {scenario.plan.board.name} could not do this: {problem}", file=sys.stderr)
    with _folder(args.state_dir) as folder, _asked_to_end() as ending:
        told = Emulation(scenario, folder, say).live(ending)
    print(json.dumps(told, indent=2) if args.json else "\n".join(page(told)))
    return 0


# ------------------------------------------------------------------ what is asked for


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Everything that was asked for, every part of it checked."""

    plan: Priced
    settings: Settings
    recording: Recording
    faults: tuple[Fault, ...]
    endpoint: Endpoint | None
    seconds: float | None
    seed: int
    real: bool

    @property
    def bundle(self) -> Bundle:
        return self.plan.bundle

    def of(self, kind: str) -> list[Fault]:
        return [fault for fault in self.faults if fault.kind == kind]


def read_scenario(args: argparse.Namespace) -> Scenario:
    """Check all arguments and read the files. Raises Refused, or OSError for a file that cannot be opened."""
    if args.bundle is None or args.data is None:
        raise Refused("MODEL.edgb and --data X.npz are needed; see 'edgerun emulate --help'")
    _check_numbers(args)
    board = get_board(args.board)
    faults = tuple(parse_fault(text) for text in args.fault)
    endpoint = _endpoint(args.broker, args.node or board.name) if args.broker else None
    if endpoint is None and any(fault.kind == "outage" for fault in faults):
        raise Refused("--fault outage needs --broker: without one there is no network that could fail")
    bundle = open_bundle(args.bundle, device_class=board.device_class)
    if bundle.manifest.head.kind == "values":
        raise Refused("the bundle's head is 'values', which are not right or wrong: use 'edgerun adapt' or 'run'")
    priced = plan(bundle, work(bundle), board, args.period)
    power_mw = args.power if args.power is not None else HEADROOM * priced.learn_mw
    settings = Settings(
        group=GROUP, node=args.node or board.name, board=board, budget=Budget(power_mw=power_mw), period_s=args.period
    )
    return Scenario(
        plan=priced,
        settings=settings,
        recording=_recording(args, bundle, faults),
        faults=faults,
        endpoint=endpoint,
        seconds=args.seconds,
        seed=args.seed,
        real=args.speed == "real",
    )


def _check_numbers(args: argparse.Namespace) -> None:
    """Raises Refused naming the option, its value and its bound."""
    for option in ("period", "power", "seconds"):
        value = getattr(args, option)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise Refused(f"--{option} {value} is not a positive number")
    for option, least in (("samples", 1), ("at", 0), ("seed", 0)):
        value = getattr(args, option)
        if value is not None and value < least:
            raise Refused(f"--{option} {value} is under {least}")
    if not 0 <= args.supervised <= 1:
        raise Refused(f"--supervised {args.supervised} is not in [0, 1]")
    if not math.isfinite(args.rotate):
        raise Refused(f"--rotate {args.rotate} is not finite")


def _endpoint(url: str, node: str) -> Endpoint:
    where = parse_broker(url)
    return Endpoint(
        host=where.host,
        port=where.port,
        client_id=f"{GROUP}.{node}",
        username=where.username,
        password=where.password,
        tls=where.tls,
    )


def _recording(args: argparse.Namespace, bundle: Bundle, faults: Sequence[Fault]) -> Recording:
    arrays = read_arrays(args.data)
    x = list(recordings(args.data.name, arrays))
    if bundle.manifest.front is not None:
        x = [wave / INT16 if wave.dtype == "int16" else wave for wave in x]
    elif x[0].size != bundle.manifest.input.size:
        raise DataError(f"{args.data}: a sample has {x[0].size} values, the bundle takes {bundle.manifest.input.size}")
    names = [name or "" for name in labels(args.data.name, arrays, len(x), bundle.manifest.classes.names)]
    count = args.samples if args.seconds is None else math.ceil(args.seconds / args.period) + 1
    turned = (Drift(at=args.at, rotate_deg=args.rotate),) if args.rotate else ()
    return Recording(
        x,
        names,
        turned,
        faults=faults,
        order=args.order,
        supervised=args.supervised,
        samples=count,
        seed=args.seed,
    )


# ------------------------------------------------------------------ the life


@dataclass
class Emulation:
    """One life of one pretend board. `say` takes the lines of progress."""

    scenario: Scenario
    folder: Path
    say: Callable[[str], None]
    right: deque[bool] = field(default_factory=lambda: deque(maxlen=NEWEST))
    hits: int = 0
    judged: int = 0
    inferences: int = 0
    levels: Counter[str] = field(default_factory=Counter)
    phases: list[dict[str, Any]] = field(default_factory=list)
    happened: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        scenario = self.scenario
        self.device = PretendDevice(
            scenario.bundle, scenario.settings, scenario.recording, scenario.endpoint, self.folder, seed=scenario.seed
        )
        self.device.schedule(
            [int(fault.arguments["write"]) for fault in scenario.of("power-cut")],
            {int(fault.arguments["write"]): int(fault.arguments["bits"]) for fault in scenario.of("bit-flip")},
        )
        self._weather = sorted(self._planned_weather(), key=lambda each: each[0])
        self._phase = (0.0, self.device.agent.energy.budget.power_mw)
        self._bad = self.device.agent.senses.bad
        self.probe_before = self.device.agent.school.probe

    def live(self, ending: threading.Event) -> dict[str, Any]:
        """Until the end of the recording, or of the time, or until `ending`; then what there is to tell."""
        self._await_broker()
        began, told_at = time.monotonic(), time.monotonic() + TELL_S
        while not ending.is_set() and not self._over():
            self.step()
            if time.monotonic() >= told_at:
                told_at = time.monotonic() + TELL_S
                self.say(self.progress())
            if self.scenario.real:
                ending.wait(max(0.0, began + self.now_s - time.monotonic()))
        self._close_phase()
        told = self.told(interrupted=ending.is_set())
        self._stop()
        return told

    @property
    def now_s(self) -> float:
        return self.device.clock.device_s()

    def step(self) -> None:
        """One cycle, with the weather of its time; after a power cut, a reboot instead."""
        while self._weather and self._weather[0][0] <= self.now_s:
            _, what, change = self._weather.pop(0)
            change()
            self._note(what)
        recording, flash = self.scenario.recording, self.device.flash
        played, flipped = recording.played, len(flash.flipped)
        try:
            self.device.cycle()
        except PowerCut as cut:
            self._note_cut(cut)
            self._come_back()
            return
        finally:
            for path in flash.flipped[flipped:]:
                self._note(f"bit-flip in {path}")
        if recording.played > played:
            self._keep_score(played)
        if self.device.agent.energy.budget.power_mw != self._phase[1]:
            self._close_phase()

    def _over(self) -> bool:
        agent = self.device.agent
        if self.scenario.seconds is not None:
            return self.now_s >= self.scenario.seconds
        end_s = len(self.scenario.recording) * self.scenario.settings.period_s + REST_S
        return agent.senses.exhausted and (not agent.busy or self.now_s >= end_s)

    def _come_back(self) -> None:
        """Boot until the power stays; another cut may fall into a boot."""
        self._close_phase()
        while True:
            try:
                self.device.reboot("some")
                break
            except PowerCut as cut:
                self._note_cut(cut)
        recovery = self.device.agent.life.recovery
        self._note(f"rebooted: {recovery.lessons} lessons, {recovery.replayed} of the records replayed")
        self._await_broker()

    def _keep_score(self, number: int) -> None:
        """Sample `number` of the recording was played: what was wrong with it, and whether the answer was right."""
        agent, decision = self.device.agent, self.device.agent.energy.decision
        for fault in self.scenario.faults:
            if fault.arguments.get("sample") == number:
                self._note(str(fault))
        if decision is not None:
            self.levels[decision.level] += 1
        if agent.answer is None or agent.answer[0] != agent.senses.number:
            return
        self.inferences += 1
        truth = self.scenario.recording.truth
        if truth:
            self.right.append(agent.answer[1] == truth)
            self.hits, self.judged = self.hits + self.right[-1], self.judged + 1

    # ------------------------------------------------------------------ weather

    def _planned_weather(self) -> Iterator[tuple[float, str, Callable[[], None]]]:
        """(device time, what, the change) of everything that comes by the clock."""
        for fault in self.scenario.of("outage"):
            start_s = fault.arguments["t"]
            yield start_s, str(fault), self.device.cut_network
            yield start_s + fault.arguments["for"], "the network is back", self._restore_network
        for fault in self.scenario.of("clock-jump"):
            yield fault.arguments["t"], str(fault), partial(self.device.clock.jump_wall, fault.arguments["by"])

    def _restore_network(self) -> None:
        self.device.restore_network()
        self._await_broker()

    def _await_broker(self) -> None:
        """Hold device time until the device is on its broker; offline it goes on without."""
        deadline = time.monotonic() + PATIENCE_S
        while self.scenario.endpoint is not None and self.device.plugged and time.monotonic() < deadline:
            self.device.agent.hear()
            if self.device.agent.reporter.connected:
                return
            time.sleep(0.01)

    def _note_cut(self, cut: PowerCut) -> None:
        self._note(f"power-cut@write={self.device.writes}, which was {cut.fate}")

    def _note(self, what: str) -> None:
        self.happened.append({"at_s": round(self.now_s, 2), "what": what})
        self.say(f"{self.now_s:9.1f} s  {what}")

    # ------------------------------------------------------------------ telling

    def progress(self) -> str:
        agent = self.device.agent
        decision = agent.energy.decision
        level = decision.level if decision else "-"
        return (
            f"{self.now_s:9.1f} s  {self.scenario.recording.played} samples, newest {NEWEST} {_percent(self.newest)}, "
            f"{agent.learner.lessons} lessons, probe {_percent(_known(agent.school.probe))}, level {level}"
        )

    @property
    def newest(self) -> float | None:
        return sum(self.right) / len(self.right) if self.right else None

    def _close_phase(self) -> None:
        """A budget phase ends where the budget changes or the power goes: ask the meter for its worst window."""
        start_s, budget_mw = self._phase
        if self.now_s > start_s:
            worst_mw = self.device.power.worst_window_mw(start_s, self.now_s)
            self.phases.append(
                {
                    "seconds": round(self.now_s - start_s, 1),
                    "budget_mw": round(budget_mw, 3),
                    "worst_window_mw": round(worst_mw, 3),
                }
            )
        self._phase = (self.now_s, self.device.agent.energy.budget.power_mw)

    def told(self, *, interrupted: bool) -> dict[str, Any]:
        """What --json prints."""
        device, agent, scenario = self.device, self.device.agent, self.scenario
        lessons = agent.learner.lessons
        cycles = sum(self.levels.values())
        return {
            "bundle": scenario.bundle.id,
            "board": scenario.settings.board.name,
            "seed": scenario.seed,
            "interrupted": interrupted,
            "seconds": round(self.now_s, 1),
            "samples": scenario.recording.played,
            "inferences": self.inferences,
            "accuracy": {
                "all": self.hits / self.judged if self.judged else None,
                "newest": self.newest,
                "probe_before": _known(self.probe_before),
                "probe_after": _known(agent.school.probe),
            },
            "lessons": lessons,
            "updates": agent.learner.updates,
            "digest": agent.life.digest(),
            "boots": device.boots,
            "sensor": {
                "refused": agent.senses.bad,
                "missing": agent.senses.missed,
                "stuck": agent.senses.stuck,
            },
            "energy": {
                "all_j": device.power.energy_j,
                "per_act_mj": {name: uj / 1e3 for name, uj in sorted(device.power.spent_uj.items())},
                "source": agent.energy.prices.source,
            },
            "phases": self.phases,
            "levels": {level: self.levels[level] / cycles for level in LEVELS if self.levels[level]},
            "flash": {
                "bytes": device.bytes_written,
                "writes": device.writes,
                "most_worn_page": max(device.flash.wear),
            },
            "faults": self.happened,
            "outbox": agent.outbox_depth,
        }

    def _stop(self) -> None:
        while True:
            try:
                self.device.stop()
                return
            except PowerCut as cut:
                self._note_cut(cut)
                self._come_back()


def page(told: dict[str, Any]) -> list[str]:
    """The lines for a person."""
    accuracy, sensor, flash, energy = told["accuracy"], told["sensor"], told["flash"], told["energy"]
    acts = sorted(energy["per_act_mj"].items(), key=lambda item: -item[1])
    rows: list[tuple[str, str]] = [
        ("board", f"{told['board']}, {told['seconds']:,} s of its time, {told['boots']} boots"),
        ("samples", f"{told['samples']:,} played, {told['inferences']:,} inferred"),
        ("accuracy", f"{_percent(accuracy['all'])} of all, {_percent(accuracy['newest'])} of the newest {NEWEST}"),
        ("probe", f"{_percent(accuracy['probe_before'])} before, {_percent(accuracy['probe_after'])} after"),
        ("learned", f"{told['lessons']:,} lessons, {told['updates']:,} updates"),
        ("levels", ", ".join(f"{level} {share:.1%}" for level, share in told["levels"].items())),
        ("energy", f"{energy['all_j']:.3g} J: " + ", ".join(f"{name} {mj:.3g} mJ" for name, mj in acts)),
        *(
            (
                "worst minute",
                f"{phase['worst_window_mw']:g} mW of {phase['budget_mw']:g} mW, in a phase of {phase['seconds']:,} s",
            )
            for phase in told["phases"]
        ),
        ("flash", f"{flash['bytes']:,} bytes in {flash['writes']:,} writes, {flash['most_worn_page']} on one page"),
        ("sensor", f"{sensor['refused']} refused, {sensor['missing']} missing, {sensor['stuck']} the same as before"),
        ("outbox", f"{told['outbox']} messages that no collector has confirmed"),
        ("digest", told["digest"]),
        *(("went wrong", f"{each['at_s']:,} s  {each['what']}") for each in told["faults"]),
    ]
    return columns(rows)


def _known(share: float) -> float | None:
    return None if math.isnan(share) else share


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _say(text: str) -> None:
    print(text, flush=True)


def _silent(text: str) -> None:
    """With --json nothing but the object is printed."""


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    """The folder given, or one that goes with the run."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="edgerun-emulate-") as made:
        yield Path(made)


@contextmanager
def _asked_to_end() -> Iterator[threading.Event]:
    """Set at the first SIGINT or SIGTERM, so that the device can say goodbye; a second one is not held back."""
    ending = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def end(number: int, frame: object) -> None:
        ending.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, end)
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
