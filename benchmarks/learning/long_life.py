"""A long life: a million samples of a drift that comes round again and again, labels late and seldom, power that goes.

    python benchmarks/learning/long_life.py [--rounds 50] [--short] [--markdown docs/results.md]

The demo's spiking net knows the straight digits 0 to 7. Its sensor then goes through four conditions (straight, turned
left, dimmed, turned right), 5000 samples each, over and over. One sample in twenty gets its label, half a minute later.

- `long`: the device's own `Lifetime` on a pretend flash, with journal, checkpoints, lesson guard and governor at a
  power that changes between day and night; its power is cut at random writes, hundreds of times. A twin in memory that
  is never cut is given the records that each recovery finds: it must know the same to the bit.
- `none`, `plain`, `full`: learners in memory on the same stream, no governor, no flash, over a tenth of the samples
  and several seeds: what protection and replay are worth here.

A life is lived in chapters of one condition each. Each begins with a start from the folder that the one before was laid
down in, and all that is random in it comes of its number: a run that was interrupted goes on where it was, with the
same bits. Inference goes in batches between lessons, which gives the bits of single samples (as
`tests/unit/test_learner.py` says). (make bench-long-life)
"""

from __future__ import annotations

import gc
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import scenario
from scenario import Run
from tables import Table

from deploy.demo import digits
from deploy.demo.arms import ARMS, Arm, plain_plan
from deploy.demo.digits import Digits
from deploy.demo.prepare import SPIKING
from edgerun.arrays import I64, U8, AnyArray
from edgerun.boards import Ops, get_board, price
from edgerun.bundle import Bundle, read_bundle
from edgerun.errors import DataError
from edgerun.governor import Demand, GovernorState, charge, decide
from edgerun.learn.drift import PageHinkley
from edgerun.learn.learner import Learner, MemoryKeeper
from edgerun.learn.records import Boundary, Entry, Lesson, decode, encode
from edgerun.lifetime import Lifetime, new_learner
from edgerun.linux.disk import RealDisk
from edgerun.ports import Disk
from edgerun.price import learn_cost, prices, work
from edgerun.spec import Budget, LearningPlan, Level, Prices, Readings
from edgerun.store.journal import JournalReader
from exporters.export import Options, export
from firmware_sim.flash import PowerCut, SimFlash
from firmware_sim.sensors import rotate

SCENARIO: Final = "long_life"
PHASES: Final = (
    ("straight", 0.0, 1.0), ("turned left", 25.0, 1.0), ("dimmed", 0.0, 0.45), ("turned right", -25.0, 1.0),
)  # fmt: skip
"""Name, degrees, gain."""
STEPS: Final = 10  # in which a condition gives way to the next, over a fifth of it
BLOCK: Final = 20  # samples of which one gets its label
LATE: Final = 6  # blocks until it comes
QUEUE: Final = 512  # labels that may wait
TURNS: Final = 2  # times that the governor is asked in a block
PERIOD_S: Final = 0.25
DAY_S: Final = 86400
BOARD: Final = "pico2"
POWER_MW: Final = (11.0, 20.0)  # at night, by day
PAGES: Final = 4096  # of 4 KiB
ROUNDS: Final = (1, 2, 5, 10, 25, 50)


@dataclass(frozen=True)
class Form:
    """How long everything is."""

    rounds: int  # of the long life
    arm_rounds: int = 3  # of a learner in memory
    seeds: int = 2
    phase: int = 5000  # samples of a condition, which is a chapter
    writes: int = 250  # to the flash from one power cut to the next, in the mean


SHORT: Final = Form(rounds=1, arm_rounds=1, seeds=1, phase=500, writes=30)


# ------------------------------------------------------------------ the stream


@dataclass(frozen=True)
class Stream:
    """What the sensor sees: sample n is a pure function of the seed and n.

    x     (phases * STEPS, images, 64)  uint8   the images on the way into each condition, the last step in it
    held  (phases, tests, 64)           uint8   images that nobody learns from, in each condition
    """

    seed: int
    phase: int
    x: U8
    y: I64
    held: U8
    held_y: I64

    def block(self, number: int) -> tuple[U8, I64]:
        """Samples of one block and what they are."""
        phase, into = divmod(number * BLOCK, self.phase)
        step = min(STEPS - 1, into * STEPS * 5 // self.phase)
        rng = np.random.default_rng([self.seed, number])
        rows, noise = rng.integers(len(self.y), size=BLOCK), rng.integers(-1, 2, (BLOCK, self.x.shape[2]))
        seen = self.x[phase % len(PHASES) * STEPS + step, rows] + noise
        return np.clip(seen, 0, 255).astype(np.uint8), self.y[rows]

    def blocks(self, chapter: int) -> range:
        """Those of one condition."""
        count = self.phase // BLOCK
        return range(chapter * count, (chapter + 1) * count)

    def labelled(self, number: int) -> tuple[int, AnyArray, int]:
        """The one sample of a block that gets its label: its number, its values, its label."""
        place = int(np.random.default_rng([self.seed, number, 1]).integers(BLOCK))
        x, y = self.block(number)
        return number * BLOCK + place, x[place].astype(np.int16), int(y[place])


def make_stream(seed: int, field_images: Digits, phase: int) -> Stream:
    parts = digits.split(field_images, seed)
    met = Digits(np.concatenate([parts.warm_up.x, parts.stream.x]), np.concatenate([parts.warm_up.y, parts.stream.y]))
    ways = []
    for (_, from_deg, from_gain), (_, to_deg, to_gain) in zip((PHASES[-1], *PHASES[:-1]), PHASES, strict=True):
        for step in range(1, STEPS + 1):
            part = step / STEPS
            ways.append(seen(met.x, from_deg + part * (to_deg - from_deg), from_gain + part * (to_gain - from_gain)))
    held = np.stack([seen(parts.test.x, degrees, gain) for _, degrees, gain in PHASES])
    return Stream(seed, phase, np.stack(ways), met.y, held, parts.test.y)


def seen(x: U8, degrees: float, gain: float) -> U8:
    """Images (n, 8, 8) as (n, 64) of a sensor that is turned and dimmed."""
    turned = np.stack([rotate(image.astype(np.float64), degrees) for image in x]) * gain
    return np.clip(np.floor(turned + 0.5), 0, 255).astype(np.uint8).reshape(len(x), -1)


def factory_bundle(images: Digits) -> Bundle:
    """The demo's spiking net, which its readout decides: in a drift that comes back, means of features lag behind."""
    with tempfile.TemporaryDirectory() as folder:
        calibration = Path(folder, "factory.npz")
        np.savez(calibration, x=images.x, y=images.y)
        names = digits.CLASSES[: digits.FACTORY_CLASSES]
        return read_bundle(export(SPIKING, calibration, Options(learn="eprop", head="logits", classes=names)).data)


def planned(bundle: Bundle, arm: Arm) -> Bundle:
    """A bundle that learns as an arm does."""
    plan = bundle.manifest.learning
    plan = {"none": LearningPlan(), "plain": plain_plan(plan), "full": plan}[arm]
    kept = bundle.exemplars if plan.replay.capacity else None
    return replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, learning=plan), exemplars=kept)


# ------------------------------------------------------------------ what is written down


class Chapter(msgspec.Struct, frozen=True, kw_only=True):
    """One condition, once: what there was to measure at its end, counts are this chapter's own."""

    number: int
    right: float  # share of the samples named rightly when they came
    held: list[float]  # accuracy on images held out, in each condition
    levels: dict[str, int] = {}  # lessons by what the governor allowed
    unheard: int = 0  # labels that waited too long
    updates: int = 0
    verdicts: int = 0
    rolled_back: int = 0
    boundaries: int = 0
    cuts: int = 0
    replayed: int = 0  # records, at all starts
    lost: int = 0  # committed records that a start did not find
    compared: int = 0  # times the state was equal to the twin's
    flash_bytes: int = 0  # handed to the flash
    flash_pages: int = 0  # programmed
    record_bytes: int = 0  # of the records that were learned from
    today_bytes: int = 0  # handed to the flash since midnight
    energy_j: float = 0.0
    rss_bytes: int = 0
    digest: str = ""
    seconds: float = 0.0  # that it took


SUMS: Final = (
    "unheard", "updates", "verdicts", "rolled_back", "boundaries", "cuts", "replayed", "lost", "compared",
    "flash_bytes", "flash_pages", "record_bytes", "energy_j",
)  # fmt: skip


def held_out(stream: Stream, learner: Learner) -> list[float]:
    """Accuracy in each condition."""
    return [float((learner.scores(x).argmax(axis=1) == stream.held_y).mean()) for x in stream.held]


def rss_bytes() -> int:
    """Memory of this process, without what is only waiting to be collected; 0 where the system does not tell."""
    gc.collect()
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * 4096 if status.exists() else 0


# ------------------------------------------------------------------ a device with a flash


@dataclass
class Tally:
    """What a chapter counts while it is lived."""

    right: int = 0
    levels: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    energy_uj: float = 0.0


class Device:
    """One chapter of the long life, from a start on what `before` holds."""

    def __init__(
        self, bundle: Bundle, stream: Stream, number: int, before: Disk | None, today: int, writes: int
    ) -> None:
        self.bundle, self.stream, self.number, self._writes = bundle, stream, number, writes
        self._work, self._board = work(bundle), get_board(BOARD)
        self._prices = block_prices(prices(self._board, self._work))
        self._rng = np.random.default_rng([stream.seed, number, 2])
        self.flash = SimFlash(seed=int(self._rng.integers(1 << 62)), pages=PAGES)
        if before is not None:
            copy(before, self.flash, bundle.id)
        self._bytes, self._pages, self._today = -self.flash.bytes_written, -sum(self.flash.wear), today
        self.tally, self._entries = Tally(), list[Entry]()
        self._twin: Learner | None = None
        self._boot(committed=0)

    # -------------------------------------------------------------- starts and cuts

    def _boot(self, committed: int) -> None:
        """Start until the power stays, then see that nothing is lost and nothing learned twice.

        committed  of the entries told since the last start, those that had been committed when the power went
        """
        told = self._entries
        while True:
            self.flash.cut_power_after(int(self._rng.integers(1, 2 * self._writes)))
            self._entries = []
            try:
                self.life = Lifetime(self.bundle, self.flash, self._entries.append)
                break
            except PowerCut:
                self._lose_power()
        self._governor, self._drift, self._boundary_due = GovernorState(), PageHinkley(), False
        self.tally.counts["replayed"] += self.life.recovery.replayed
        held = [decode(data) for data in JournalReader(self.flash, self.bundle.id).records()]
        self.next = 1 + max((entry.sample // BLOCK for entry in held if isinstance(entry, Lesson)), default=-1)
        found = survived(held, told)
        self.tally.counts["lost"] += max(0, committed - len(found))
        self._follow(found)

    def _come_back(self) -> None:
        """After a cut: a start on what the flash has kept."""
        self._lose_power()
        self._boot(self.life.committed_entries)

    def _lose_power(self) -> None:
        self.tally.counts["cuts"] += 1
        self._bytes += self.flash.bytes_written
        self.flash = self.flash.reboot("some")

    def _follow(self, entries: Sequence[Entry]) -> None:
        """Bring the twin to where the device is. Raises DataError where they differ."""
        if self._twin is None:
            self._twin = twin_of(self.bundle, self.life)
        for entry in entries:
            self._twin.apply(entry)
            self.tally.counts["record_bytes"] += len(encode(entry))
        if self._twin.digest().hex() != self.life.digest():
            raise DataError(f"chapter {self.number}: after {entries[-1:]} the device is not what its twin is")
        self.tally.counts["compared"] += 1

    # -------------------------------------------------------------- living

    def live(self) -> Chapter:
        began = time.monotonic()
        for number in self.stream.blocks(self.number):
            x, y = self.stream.block(number)
            self.tally.right += int((self.life.learner.scores(x).argmax(axis=1) == y).sum())
            for turn in range(TURNS):
                self._turn(number, turn)
        self._lay_down()
        learner, counts, written = self.life.learner, self.tally.counts, self.written
        return Chapter(
            number=self.number, right=self.tally.right / self.stream.phase, held=held_out(self.stream, learner),
            levels=dict(sorted(self.tally.levels.items())), unheard=counts["unheard"],
            updates=counts["updates"], verdicts=counts["verdicts"], rolled_back=counts["rolled_back"],
            boundaries=counts["boundaries"], cuts=counts["cuts"], replayed=counts["replayed"], lost=counts["lost"],
            compared=counts["compared"], flash_bytes=written, flash_pages=self._pages + sum(self.flash.wear),
            record_bytes=counts["record_bytes"], today_bytes=self._today + written,
            energy_j=(self.tally.energy_uj + self._prices.sleep_mw * self.stream.phase * PERIOD_S * 1e3) / 1e6,
            rss_bytes=rss_bytes(), digest=self.life.digest(),
            seconds=time.monotonic() - began,
        )  # fmt: skip

    def _turn(self, block: int, turn: int) -> None:
        """Ask the governor, then do what it allows: a verdict, or the next label; and a boundary."""
        now_s = (block + turn / TURNS) * BLOCK * PERIOD_S
        if now_s % DAY_S == 0:
            self._today = -self.written
        due = block - LATE
        self._hear(due)
        demand = Demand(
            prices=self._prices,
            period_s=BLOCK * PERIOD_S / TURNS,
            lesson_pending=self.next <= due,
            consolidation_due=self._boundary_due,
            checkpoint_due=self.life.judgement_due,
        )
        readings = Readings(now_s=now_s, flash_mb_today=(self._today + self.written) / 1e6, energy_j_today=0.0)
        allowed, self._governor = decide(budget(now_s), readings, demand, self._governor)
        self._spend(self._work.inference.times(BLOCK // TURNS))
        try:
            if self.life.judgement_due:
                if allowed.checkpoint:
                    self._judge()
            elif allowed.learn is not None and self.next <= due:
                self._teach(allowed.learn)
            if self._boundary_due and allowed.consolidate:
                self._close_task()
        except PowerCut:
            self._come_back()

    def _hear(self, due: int) -> None:
        """Labels beyond the queue are dropped, the oldest first."""
        if due - self.next >= QUEUE:
            self.tally.counts["unheard"] += due - self.next - QUEUE + 1
            self.next = due - QUEUE + 1

    def _teach(self, level: Level) -> None:
        sample, q, label = self.stream.labelled(self.next)
        taught = self.life.teach(q, label, level, sample)
        self.life.commit()
        self.next += 1
        self.tally.levels[level] += 1
        self.tally.counts["updates"] += taught.updates
        self._spend(learn_cost(self._work, taught.updates, level))
        self._boundary_due |= self._drift.update(float(not taught.correct))

    def _judge(self) -> None:
        self._spend(Ops.total([self._work.checkpoint, self._work.guard]))
        good = self.life.judge().good
        self.tally.counts["verdicts"] += 1
        self.tally.counts["rolled_back"] += not good

    def _close_task(self) -> None:
        self._spend(self._work.consolidate)
        self.life.change(Boundary(reason="drift"))
        self.life.commit()
        self._boundary_due = False
        self.tally.counts["boundaries"] += 1

    def _spend(self, ops: Ops) -> None:
        energy = price(self._board, ops)[0]
        self._governor = charge(self._governor, energy)
        self.tally.energy_uj += energy

    @property
    def written(self) -> int:
        """Bytes handed to the flash in this chapter."""
        return self._bytes + self.flash.bytes_written

    def _lay_down(self) -> None:
        """Save everything, whatever the power does, and compare once more."""
        while True:
            try:
                self.life.checkpoint()
                break
            except PowerCut:
                self._come_back()
        entries, self._entries = self._entries, []
        self._follow(entries)


def survived(held: Sequence[Entry], told: Sequence[Entry]) -> Sequence[Entry]:
    """The longest start of what was told that a journal ends in."""
    newest, mine = ([encode(entry) for entry in entries] for entries in (held[-len(told) - 1 :], told))
    return next(told[:n] for n in range(len(told), -1, -1) if newest[len(newest) - n :] == mine[:n])


def twin_of(bundle: Bundle, life: Lifetime) -> Learner:
    """A learner in memory that stands where a device stands."""
    keeper = MemoryKeeper()
    kept = life.recall()
    if kept is not None:
        keeper.keep(*kept)
    twin = new_learner(bundle, keeper)
    twin.load(life.learner.arrays(), life.learner.meta())
    return twin


def copy(source: Disk, target: Disk, bundle_id: str) -> None:
    """Everything of one bundle, durably."""
    for folder in (f"learned/{bundle_id}", f"journal/{bundle_id}"):
        for name in source.list(folder):
            path = f"{folder}/{name}"
            target.write(path, source.read(path) or b"")
            target.sync(path)
        target.sync_dir(folder)


def block_prices(each: Prices) -> Prices:
    """The same with the samples between two decisions as one inference."""
    times = BLOCK // TURNS
    return msgspec.structs.replace(each, inference_uj=times * each.inference_uj, inference_us=times * each.inference_us)


def budget(now_s: float) -> Budget:
    """More power from six to six."""
    return Budget(power_mw=POWER_MW[21600 <= now_s % DAY_S < 64800])


def long_life(bundle: Bundle, stream: Stream, folder: Path, chapters: int, writes: int) -> list[Chapter]:
    """All chapters, those that the folder holds already and the others."""
    rows = folder / "chapters.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    told = msgspec.json.Decoder(Chapter).decode_lines(rows.read_bytes()) if rows.exists() else []
    for number in range(len(told), chapters):
        before = RealDisk(folder / f"flash-{(number - 1) % 2}") if number else None
        device = Device(bundle, stream, number, before, told[-1].today_bytes if told else 0, writes)
        told.append(device.live())
        after = folder / f"flash-{number % 2}"
        shutil.rmtree(after, ignore_errors=True)
        copy(device.flash, RealDisk(after), bundle.id)
        with rows.open("ab") as file:
            file.write(msgspec.json.encode(told[-1]) + b"\n")
        if number % 10 == 9 or number + 1 == chapters:
            print(progress(told, stream.phase), file=sys.stderr, flush=True)
    return told[:chapters]


def progress(told: list[Chapter], phase: int) -> str:
    last, cuts = told[-1], sum(each.cuts for each in told)
    return f"{len(told) * phase:,} samples, {cuts} cuts, held out {np.round(last.held, 3)}, {last.seconds:.1f} s"


# ------------------------------------------------------------------ learners in memory


def in_memory(bundle: Bundle, stream: Stream, path: Path, chapters: int) -> list[Chapter]:
    """The same stream through a learner, every label taught at level full when it comes; kept in a file when done."""
    if path.exists():
        return msgspec.json.Decoder(Chapter).decode_lines(path.read_bytes())
    learner, told = new_learner(bundle), list[Chapter]()
    for number in range(chapters):
        right = 0
        for block in stream.blocks(number):
            x, y = stream.block(block)
            right += int((learner.scores(x).argmax(axis=1) == y).sum())
            if block >= LATE and bundle.manifest.learning.rule:
                sample, q, label = stream.labelled(block - LATE)
                learner.apply(learner.plan_lesson(q, label, "full", sample))
        told.append(Chapter(number=number, right=right / stream.phase, held=held_out(stream, learner)))
    path.write_bytes(msgspec.json.Encoder().encode_lines(told))
    return told


# ------------------------------------------------------------------ telling


def run_of(arm: str, stream: Stream, factory: list[float], told: list[Chapter], bundle: Bundle) -> Run:
    """The last round as a matrix of its four conditions; what was known on coming back, in the mean over conditions."""
    count = len(PHASES)
    figures = {"when they came %": 100 * float(np.mean([each.right for each in told]))}
    figures |= {
        f"on return {number} %": 100 * value for number in ROUNDS if (value := returning(told, factory, number)) >= 0
    }
    memory, energy = scenario.cost(bundle)
    return Run(
        scenario=SCENARIO, arm=arm, seed=stream.seed, matrix=[each.held for each in told[-count:]],
        untrained=factory, tasks=[name for name, _, _ in PHASES], figures=figures,
        memory_bytes=memory, energy_uj=energy,
    )  # fmt: skip


def returning(told: list[Chapter], factory: list[float], number: int) -> float:
    """Held-out accuracy just before a condition comes for the n-th time, mean over conditions; -1: it does not come."""
    held = [factory, *(each.held for each in told)]
    first = (number - 1) * len(PHASES)
    if first + len(PHASES) > len(told):
        return -1.0
    return float(np.mean([held[first + k][k] for k in range(len(PHASES))]))


def rounds_table(told: list[Chapter], factory: list[float]) -> str:
    """Each condition over the rounds: what was known of it on coming back, and after it."""
    held, rows = [factory, *(each.held for each in told)], []
    for number in ROUNDS:
        first = (number - 1) * len(PHASES)
        if first + len(PHASES) <= len(told):
            cells = [f"{100 * held[first + k][k]:.1f} → {100 * held[first + k + 1][k]:.1f}" for k in range(len(PHASES))]
            rows.append((str(number), *cells, f"{100 * np.mean([each.right for each in told[first : first + 4]]):.1f}"))
    return Table("", ("round", *(name for name, _, _ in PHASES), "all samples, when they came"), rows).markdown()


def facts(told: list[Chapter], phase: int, arena_bytes: int) -> Iterator[tuple[str, str]]:
    """What the long life has cost and withstood."""
    samples, days = len(told) * phase, len(told) * phase * PERIOD_S / DAY_S
    total = {name: sum(getattr(each, name) for each in told) for name in SUMS}
    lessons = Counter[str]()
    for each in told:
        lessons.update(each.levels)
    taught = sum(lessons.values())
    yield "samples", f"{samples:,}, {days:.1f} days at {1 / PERIOD_S:g} a second"
    yield (
        "lessons whose commit returned",
        f"{taught:,}: " + ", ".join(f"{level} {n / taught:.1%}" for level, n in sorted(lessons.items())),
    )
    yield "labels that waited too long", f"{total['unheard']:,}"
    yield "updates", f"{total['updates']:,}"
    yield "verdicts, rolled back", f"{total['verdicts']}, {total['rolled_back']}"
    yield "boundaries by drift alarm", f"{total['boundaries']}"
    yield "power cuts", f"{total['cuts']}"
    yield "records replayed at starts", f"{total['replayed']:,}"
    yield "committed records lost", f"{total['lost']}"
    yield "digests compared with the uncut twin's", f"{total['compared']}, all equal"
    yield "flash a day", f"{total['flash_bytes'] / 1e6 / days:.1f} MB of {Budget(power_mw=1).flash_mb_per_day:g} MB"
    yield "bytes written, by bytes of records", f"{total['flash_bytes'] / total['record_bytes']:.1f}"
    programmed = total["flash_pages"] * 4096
    yield "bytes programmed, by bytes written", f"{programmed / total['flash_bytes']:.2f}"
    yield "programmings of a page a year", f"{total['flash_pages'] / PAGES / days * 365:.0f}, of {PAGES} pages of 4 KiB"
    yield "mean power", f"{total['energy_j'] / (samples * PERIOD_S) * 1e3:.2f} mW on a {BOARD}"
    yield "the learner's arena, carved once at each start", f"{arena_bytes:,} B"
    grown = slope([each.rss_bytes for each in told])
    yield "memory of the whole simulation", f"{told[-1].rss_bytes / 1e6:.0f} MB, {grown / 1e3:+.0f} kB a round"


def slope(values: Sequence[float]) -> float:
    """Least-squares growth a round, after the first fifth."""
    kept = np.asarray(values[len(values) // 5 :], np.float64)
    return float(np.polyfit(np.arange(len(kept)), kept, 1)[0] * len(PHASES)) if len(kept) > 1 else 0.0


TEXT: Final = """## A long life: {samples:,} samples, {cuts} power cuts

By `make bench-long-life`. The demo's spiking net (64-128-8, the digits 0 to 7) under a sensor that is straight,
turned left by 25 degrees, dimmed to 45 % and turned right, {phase} samples each, and round again, {rounds} times. One
sample in {block} gets its label, {late:.0f} s later. Images are drawn with noise from 480 and 24; held out are others.

![Accuracy, flash, memory and levels over the whole life](images/long_life.svg)

Held-out accuracy in percent on coming back to a condition → after its {phase} samples, of the long life. It lives on a
pretend flash with journal, checkpoints, lesson guard and governor ({night:g} mW at night, {day:g} mW by day); power is
cut at random writes, and every start is compared with a twin that is never cut. One seed.

{rounds_table}
{facts_table}
Most of the flash is the guard's: a good verdict after every {guard} lessons saves the whole state. No counter runs over
in 2^31 lessons either (`tests/unit/test_counters.py`).

The readout decides here. Prototypes, the demo's own head, come from a reservoir that mixes all conditions: in a trial
of 40,000 samples they stayed at 71 to 88 % on the turned sensor, a second mean a class was no better.

Three arms in memory over {short:,} samples, no governor, no cuts, {seeds} seeds. The matrix is that of the last round.
`plain`: e-prop alone; `full`: the bundle's plan, with replay and synaptic intelligence, no boundaries here. "on return
n": held-out accuracy just before a condition comes for the n-th time, mean over the four.

{arms_table}"""


def page(bundle: Bundle, form: Form, told: list[Chapter], factory: list[float], runs: list[Run]) -> str:
    table = Table("", ("long life", ""), list(facts(told, form.phase, new_learner(bundle).layout.total_bytes)))
    return TEXT.format(
        samples=len(told) * form.phase, cuts=sum(each.cuts for each in told), phase=form.phase, rounds=form.rounds,
        guard=bundle.manifest.learning.guard.every, block=BLOCK, late=LATE * BLOCK * PERIOD_S, night=POWER_MW[0],
        day=POWER_MW[1], seeds=form.seeds,
        short=form.arm_rounds * len(PHASES) * form.phase, rounds_table=rounds_table(told, factory),
        arms_table=scenario.table(runs), facts_table=table.markdown(),
    )  # fmt: skip


# ------------------------------------------------------------------ a picture

COLOURS: Final = ("#1b6ca8", "#c0572b", "#4b8b3b", "#8a5fb5")
LEFT, WIDE, HIGH, GAP = 64, 720, 120, 46
Lines = dict[str, list[float]]


def picture(told: list[Chapter], phase: int) -> str:
    """SVG: four panels over the samples of the whole life."""
    days = phase * PERIOD_S / DAY_S
    panels: list[tuple[str, Lines]] = [
        (
            "held-out accuracy, %",
            {name: [100 * each.held[k] for each in told] for k, (name, _, _) in enumerate(PHASES)},
        ),
        ("flash written, MB a day", {"flash": [each.flash_bytes / 1e6 / days for each in told]}),
        ("memory of the whole simulation, MB", {"resident": [each.rss_bytes / 1e6 for each in told]}),
        ("power cuts so far", {"cuts": np.cumsum([each.cuts for each in told]).tolist()}),
    ]
    tops, samples = range(24, 24 + len(panels) * (HIGH + GAP), HIGH + GAP), len(told) * phase
    parts = [part for top, panel in zip(tops, panels, strict=True) for part in panel_marks(*panel, top, samples)]
    size = f'width="{LEFT + WIDE + 150}" height="{24 + len(panels) * (HIGH + GAP)}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">\n'
        f'<rect {size} fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def panel_marks(title: str, lines: Lines, top: int, samples: int) -> Iterator[str]:
    """One panel: its frame, bounds, lines and what they are."""
    values = [value for line in lines.values() for value in line]
    low, high = (0.0, max(values) or 1.0) if min(values) < max(values) / 2 else (np.floor(min(values)), max(values))
    scale = HIGH / ((high - low) or 1.0)
    yield f'<text x="{LEFT}" y="{top - 6}">{title}</text>'
    yield f'<rect x="{LEFT}" y="{top}" width="{WIDE}" height="{HIGH}" fill="none" stroke="#999"/>'
    for value, y in ((high, top + 10), (low, top + HIGH)):
        yield f'<text x="{LEFT - 6}" y="{y}" text-anchor="end">{value:.4g}</text>'
    yield f'<text x="{LEFT + WIDE}" y="{top + HIGH + 16}" text-anchor="end">{samples:,} samples</text>'
    for k, (name, line) in enumerate(lines.items()):
        points = " ".join(
            f"{LEFT + (i + 1) * WIDE / len(line):.1f},{top + HIGH - (value - low) * scale:.1f}"
            for i, value in enumerate(line)
        )
        yield f'<polyline points="{points}" fill="none" stroke="{COLOURS[k]}"/>'
        yield f'<text x="{LEFT + WIDE + 8}" y="{top + 12 + 16 * k}" fill="{COLOURS[k]}">{name}</text>'


def main() -> int:
    parser = scenario.command(__doc__, short="one round of 2000 samples, one seed: seconds")
    parser.add_argument("--rounds", type=int, default=50, help="of the long life, 20000 samples each")
    parser.add_argument("--state", type=Path, default=Path("build/long_life"), help="where the long life is kept")
    args = parser.parse_args()
    form, folder = (SHORT, args.state / "short") if args.short else (Form(rounds=args.rounds), args.state)
    factory_images, field_images = digits.load()
    bundle = factory_bundle(factory_images)
    streams = [make_stream(seed, field_images, form.phase) for seed in range(1, form.seeds + 1)]
    factory = [held_out(stream, new_learner(bundle)) for stream in streams]
    told = long_life(bundle, streams[0], folder, form.rounds * len(PHASES), form.writes)
    runs, count = [run_of("long", streams[0], factory[0], told, bundle)], form.arm_rounds * len(PHASES)
    for stream, untaught in zip(streams, factory, strict=True):
        for arm in ARMS:
            mine = planned(bundle, arm)
            chapters = in_memory(mine, stream, folder / f"{arm}-{stream.seed}-{count}.jsonl", count)
            runs.append(run_of(arm, stream, untaught, chapters, mine))
            print(f"seed {stream.seed} {arm} done", file=sys.stderr, flush=True)
    scenario.publish(args, runs, page(bundle, form, told, factory[0], runs))
    if args.markdown:
        scenario.draw(args.markdown, "long_life", picture(told, form.phase))
    return 0


if __name__ == "__main__":
    sys.exit(main())
