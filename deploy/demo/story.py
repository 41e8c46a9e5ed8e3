"""The device's life in the demo, told in chapters: runs in a process of its own, the operator beside the pretend board.

Everything that the operator says goes through the real broker and comes back as an answer. Virtual time stands still
until the device has heard a command; then it lives on, sample by sample, while the command is worked on.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from deploy.demo import arms, digits
from deploy.demo.digits import Split
from deploy.operator import Operator, load_key
from edgerun.agent import Settings
from edgerun.arrays import U8
from edgerun.boards import get_board
from edgerun.bundle import Bundle, open_bundle
from edgerun.commands.replay import replay
from edgerun.errors import EdgeRunError
from edgerun.governor import WINDOW_S
from edgerun.learn.records import Entry
from edgerun.lifetime import new_learner
from edgerun.linux.disk import RealDisk
from edgerun.ports import Sample
from edgerun.price import memory_plan, prices, work
from edgerun.spec import LEVELS, Budget
from edgerun.store.checkpoints import Checkpoints
from edgerun.store.journal import JournalReader
from edgerun.telemetry.commands import Example
from edgerun.telemetry.link import Endpoint
from edgerun.telemetry.messages import Result
from edgerun.telemetry.reporter import Pace
from firmware_sim.device import PretendDevice
from firmware_sim.flash import PowerCut

GROUP, NODE, BOARD = "demo", "digits-1", "pico2"
NAME: Final = f"{GROUP}/{NODE}"
PERIOD_S: Final = 0.5
BATCH: Final = 8  # corrections in one command
HEADROOM: Final = 1.5  # the full budget, times what learning at every sample takes
SQUEEZE_S, RECOVER_S, OUTAGE_S = 150.0, 120.0, 180.0
CUT_AT_WRITE: Final = 1  # after a batch was heard: its lessons are applied, their journal group is not yet durable
PATIENCE_S: Final = 20.0  # real seconds that a command may take to arrive
ANSWER_S: Final = 60.0  # real seconds that an operator waits for the last answer
DOOMED_S: Final = 2.0  # the same, for the one whose device is about to lose its power


@dataclass(frozen=True)
class Task:
    """What the parent process hands over."""

    bundle: Path
    data: Path  # a saved digits.Split
    folder: Path
    seed: int
    host: str
    port: int
    username: str
    password: str
    operator_key: Path  # signs every command; the device knows the public half and takes no other


@dataclass
class Told:
    """What the life left behind, for the report."""

    accuracy: dict[str, Any] = field(default_factory=dict)
    power_cut: dict[str, Any] = field(default_factory=dict)
    governor: list[dict[str, Any]] = field(default_factory=list)
    energy: dict[str, Any] = field(default_factory=dict)
    replay: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    telemetry: dict[str, Any] = field(default_factory=dict)
    traces: dict[str, Any] = field(default_factory=dict)
    epoch_ms: int = 0


class Feed:
    """`ports.Sensor` that delivers what the story shows next; the label stays with the story."""

    def __init__(self) -> None:
        self.next: U8 | None = None

    def read(self) -> Sample | None:
        shown, self.next = self.next, None
        return None if shown is None else Sample(x=shown)


class Story:
    """One seed's life."""

    def __init__(self, task: Task, say: Callable[[str], None], broker: Callable[[str], None]) -> None:
        self.task, self.say, self._broker = task, say, broker
        self.bundle: Bundle = open_bundle(task.bundle)
        self.data: Split = Split.read(task.data)
        self.feed, self.entries = Feed(), list[Entry]()
        self.committed = 0  # entries that were durable when the power went
        self.told = Told(epoch_ms=int(time.time() * 1e3) - 1_200_000)
        self.rows: list[tuple[float, dict[str, float]]] = []
        self.chapters: list[dict[str, Any]] = []
        self.meter: deque[tuple[float, float]] = deque()  # (device seconds, joules so far)
        self.phase_from_s, self.levels = 0.0, set[str]()
        board, self.key = get_board(BOARD), load_key(task.operator_key)
        self.prices = prices(board, work(self.bundle))
        learning_mw = (self.prices.inference_uj + self.prices.lesson_uj["full"]) / PERIOD_S / 1e3
        self.full_mw = round(HEADROOM * (self.prices.sleep_mw + learning_mw), 1)
        self.settings = Settings(
            group=GROUP,
            node=NODE,
            board=board,
            budget=Budget(power_mw=self.full_mw),
            period_s=PERIOD_S,
            keys={self.key.kid: self.key.public},
            pace=Pace(heartbeat_s=30.0, batch=8, batch_s=10.0),
        )
        endpoint = Endpoint(
            host=task.host, port=task.port, client_id=f"{GROUP}.{NODE}", username=task.username, password=task.password
        )
        self.device = PretendDevice(
            self.bundle,
            self.settings,
            self.feed,
            endpoint,
            task.folder,
            seed=task.seed,
            epoch_ms=self.told.epoch_ms,
            observe=self.entries.append,
        )
        self.operator = self.new_operator()
        self._worker = ThreadPoolExecutor(1, "operator")
        self._answer_s = ANSWER_S
        self._rng = np.random.default_rng(task.seed)

    def new_operator(self) -> Operator:
        """Commands are judged by the device's clock, so the operator's watch shows the same."""
        task = self.task
        clock = self.device.clock
        return Operator(task.host, task.port, task.username, task.password, self.key, now_ms=clock.wall_ms)

    # ------------------------------------------------------------------ time, samples, commands

    @property
    def now_s(self) -> float:
        return self.device.clock.device_s()

    def show(self, image: U8 | None) -> int | None:
        """One cycle, with this image before the sensor; the sample's number, None where the device did not look."""
        self.feed.next = image
        self.device.cycle()
        agent = self.device.agent
        self.levels.add(agent.energy.allowed.level)
        if agent.cycles % 2 == 0:
            self.rows.append((self.now_s, agent.metrics() | {"power_window_mw": self.window_mw()}))
        number = agent.senses.number
        return number if agent.senses.remembers(number) else None

    def window_mw(self) -> float:
        """Mean power of the last 60 s, by the pretend board's own meter."""
        self.meter.append((self.now_s, self.device.power.energy_j))
        while self.meter[0][0] < self.now_s - WINDOW_S:
            self.meter.popleft()
        return (self.meter[-1][1] - self.meter[0][1]) / WINDOW_S * 1e3

    def command(self, verb: str, args: dict[str, Any]) -> Future[list[Result]]:
        """Send a command and hold virtual time until the device has heard it."""
        heard = self.device.agent.commands
        answer = self._worker.submit(self.operator.send, GROUP, NODE, verb, args, self._answer_s)
        deadline = time.monotonic() + PATIENCE_S
        while self.device.agent.commands == heard and not answer.done():
            if time.monotonic() > deadline:
                raise EdgeRunError(f"the device did not hear {verb!r} within {PATIENCE_S:g} s")
            self.device.agent.hear()
            time.sleep(0.001)
        return answer

    def settle(self, answer: Future[list[Result]], images: Iterator[U8] | None = None) -> Result:
        """Live on until a command is answered for good."""
        while not answer.done():
            if self.device.agent.busy:
                self.show(next(images) if images is not None else None)
            else:
                self.device.agent.hear()
                time.sleep(0.001)
        final = answer.result()[-1]
        if final.status != "done":
            raise EdgeRunError(f"{final.verb} was {final.status}: {final.detail}")
        return final

    def correction(self, image: U8, label: Any) -> dict[str, Any]:
        """Show an image; what the operator will say of it, nothing where the device did not look."""
        sample = self.show(image)
        return {} if sample is None else {"sample": sample, "label": digits.CLASSES[int(label)]}

    def corrected(self, images: U8, labels: Any) -> None:
        """Meet images in order; every `BATCH` of them the operator says what they were, while the next ones come."""
        waiting: list[dict[str, Any]] = []
        answer: Future[list[Result]] | None = None
        for image, label in zip(images, labels, strict=True):
            correction = self.correction(image, label)
            if correction:
                waiting.append(correction)
            if len(waiting) == BATCH:
                if answer is not None:
                    self.settle(answer)
                answer, waiting = self.command("feedback", {"items": waiting}), []
        if answer is not None:
            self.settle(answer)

    @contextmanager
    def chapter(self, title: str, text: str) -> Iterator[None]:
        self.say(title)
        start = self.now_s
        yield
        self.chapters.append({"from": start, "to": self.now_s, "title": title, "text": text})

    def close_phase(self) -> None:
        """End of a budget phase: what the independent meter says about its worst window."""
        worst = self.device.power.worst_window_mw(self.phase_from_s, self.now_s)
        self.told.governor.append(
            {
                "budget_mw": self.device.agent.energy.budget.power_mw,
                "worst_window_mw": round(worst, 3),
                "levels_visited": [level for level in LEVELS if level in self.levels],
                "seconds": round(self.now_s - self.phase_from_s, 1),
            }
        )
        self.phase_from_s, self.levels = self.now_s, set()

    def set_budget(self, power_mw: float) -> None:
        self.close_phase()
        self.settle(self.command("budget-set", {"power_mw": round(power_mw, 2)}))

    def again(self, seconds: float) -> tuple[U8, Any]:
        """Stream images to fill that much device time, met before, straight."""
        rows = self._rng.integers(0, len(self.data.stream.x), int(seconds / PERIOD_S))
        return self.data.stream.x[rows], self.data.stream.y[rows]

    # ------------------------------------------------------------------ chapters

    def tell(self) -> Told:
        try:
            with self.operator:
                self.drift()
                self.teach()
                self.squeeze()
            self.outage()
            self.operator = self.new_operator()
            with self.operator:
                self.cut()
                self.close_phase()
                self.drain()
        finally:
            self._worker.shutdown()
        self.finish()
        return self.told

    def drift(self) -> None:
        blocks: dict[str, list[float]] = {"drifted": [], "old": []}
        with self.chapter(
            "The sensor turns", "25 degrees; digits come two classes at a time, corrections adapt by e-prop"
        ):
            self.corrected(self.data.warm_up.x, self.data.warm_up.y)
            turned, start = digits.turned(self.data.stream.x), 0
            for end in digits.block_ends(self.data.stream.y):
                self.corrected(turned[start:end], self.data.stream.y[start:end])
                start = end
                for kind, value in arms.both(self.device.agent.learner, self.data.test, "prototypes").items():
                    blocks[kind].append(value)
                turned_now, straight_now = blocks["drifted"][-1], blocks["old"][-1]
                self.say(f"  after block {len(blocks['old'])}: turned {turned_now:.1%}, straight {straight_now:.1%}")
        self.told.accuracy["by_head"] = arms.by_head(self.device.agent.learner, self.data.test)
        self.told.traces["blocks"] = blocks

    def teach(self) -> None:
        with self.chapter("Two new digits", "the sensor is set straight; 8 and 9 are taught with ten examples each"):
            for k in range(digits.FACTORY_CLASSES, 10):
                shots = self.data.shots.x[self.data.shots.y == k]
                examples = [_example(image) for image in shots]
                answer = self.command("teach", {"label": digits.CLASSES[k], "examples": examples})
                self.settle(answer, _endless(self.again(60.0)[0]))
        learner = self.device.agent.learner
        self.told.accuracy |= {
            "new_classes": arms.accuracy(learner, self.data.new_test, "prototypes", drifted=False),
            "old_classes_after_teaching": arms.accuracy(learner, self.data.test, "prototypes", drifted=False),
            "sensor_when_taught": "straight",
        }
        self.told.traces["after"] = arms.confusion(learner, self.data)
        self.say(
            f"  new {self.told.accuracy['new_classes']:.1%}, old {self.told.accuracy['old_classes_after_teaching']:.1%}"
        )

    def squeeze(self) -> None:
        with self.chapter(
            "A third of the power", "the budget is cut to a third and given back; the governor sheds and recovers"
        ):
            self.set_budget(self.full_mw / 3)
            self.corrected(*self.again(SQUEEZE_S))
            self.set_budget(self.full_mw)
            self.corrected(*self.again(RECOVER_S))

    def outage(self) -> None:
        with self.chapter("The broker is gone", "the device goes on; what it has to say waits in its outbox"):
            self.drain()
            self._broker("stop")
            start = self.now_s
            for image in self.again(OUTAGE_S)[0]:
                self.show(image)
            depth = self.device.agent.outbox_depth
            self._broker("start")
            self.await_network()
            self.told.telemetry |= {"outage_s": round(self.now_s - start, 1), "outbox_depth_at_its_end": depth}

    def await_network(self) -> None:
        """Hold virtual time until the device is back on the broker."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.device.agent.reporter.connected:
            if time.monotonic() > deadline:
                raise EdgeRunError(f"the device did not find its broker again within {PATIENCE_S:g} s")
            self.device.agent.hear()
            time.sleep(0.005)
        self.device.agent.hear()

    def cut(self) -> None:
        """Cut the power in the middle of a group of lessons, come back, compare with a life that was never cut."""
        with self.chapter(
            "The power fails", "in the middle of a lesson; the device comes back with every committed lesson"
        ):
            images, labels = self.again(20.0)
            self.corrected(images[:16], labels[:16])
            life, at, self._answer_s = self.device.agent.life, 0, DOOMED_S
            items = [self.correction(*pair) for pair in zip(images[16:], labels[16:], strict=True)]
            answer = self.command("feedback", {"items": [item for item in items if item][:BATCH]})
            self.device.cut_power_after(CUT_AT_WRITE)
            try:
                self.settle(answer)
            except PowerCut:
                at = self.device.flash.writes
            committed, durable = life.committed_lessons, self.entries[: life.committed_entries]
            in_progress = len(self.entries) - len(durable)
            self.device.reboot()
            self._worker.shutdown(cancel_futures=True)
            self._worker, self._answer_s = ThreadPoolExecutor(1, "operator"), ANSWER_S
            self.await_network()
            recovered = self.device.agent.learner.lessons
            twin = new_learner(self.bundle)
            for entry in durable:
                twin.apply(entry)
            self.told.power_cut = {
                "at_write": at,
                "entries_in_progress": in_progress,
                "committed_lessons": committed,
                "recovered_lessons": recovered,
                "digest_equals_uncut_run": twin.digest() == self.device.agent.learner.digest(),
            }
            self.corrected(*self.again(20.0))

    def drain(self) -> None:
        """Let everything that was said arrive."""
        deadline = time.monotonic() + PATIENCE_S
        while self.device.agent.outbox_depth and time.monotonic() < deadline:
            self.show(None)
            time.sleep(0.02)

    # ------------------------------------------------------------------ the end

    def finish(self) -> None:
        device, agent = self.device, self.device.agent
        energies = {
            "per_inference_uj": agent.energy.mean_uj("inference"),
            "per_update_uj": agent.energy.mean_uj("lesson"),
        }
        self.told.energy = {name: round(value, 2) for name, value in energies.items()} | {"source": self.prices.source}
        device.stop()
        disk = RealDisk(self.task.folder)
        again = replay(self.bundle, JournalReader(disk, self.bundle.id), Checkpoints(disk, self.bundle.id))
        self.told.replay = {"digest_equal": again.digest_equal, "lessons": again.lessons, "digest": again.digest}
        plan = memory_plan(self.bundle)
        self.told.memory = {"resident_mb": round(_peak_kb() / 1024, 1), "arena_bytes": plan.total_bytes}
        names = self.rows[0][1].keys()
        self.told.traces |= {
            "t": [round(t, 2) for t, _ in self.rows],
            "metrics": {name: [_finite(row[name]) for _, row in self.rows] for name in names},
            "chapters": self.chapters,
            "plan": {
                "parts": dict(plan.bytes_by_part()),
                "flash_bytes": self.bundle.size,
                "ram_bytes": self.settings.board.ram_bytes,
                "inference_uj": self.prices.inference_uj,
                "lesson_uj": dict(self.prices.lesson_uj),
            },
        }


def _example(image: U8) -> dict[str, Any]:
    encoded: dict[str, Any] = msgspec.to_builtins(Example.of(image))
    return encoded


def _peak_kb() -> int:
    """The most resident memory that this process ever had: agent, pretend board and operator together."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def _endless(images: U8) -> Iterator[U8]:
    while True:
        yield from images


def _finite(value: float) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None


def child(task: Task, pipe: Connection) -> None:
    """The process: tell the story, answer over the pipe. `("say", text)`, `("broker", act)`, `("told", dict)`."""

    def broker(act: str) -> None:
        pipe.send(("broker", act))
        pipe.recv()

    try:
        told = Story(task, lambda text: pipe.send(("say", text)), broker).tell()
        pipe.send(("told", asdict(told)))
    except EdgeRunError as err:
        pipe.send(("failed", str(err)))
    except KeyboardInterrupt:
        pipe.send(("failed", "interrupted"))
