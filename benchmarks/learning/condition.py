"""A bearing whose machine runs under another load, then hangs on a loose sensor: told without labels, then learned.

    python benchmarks/learning/condition.py --seeds 5 --markdown docs/results.md                  (make bench-condition)

Fifteen faults of the CWRU bearing data, windows of 43 ms as 32 log energies, 32-64-64-15 trained on the machine at
0 hp. The device then hears 0 hp, 2 hp, and 1 hp through a loose sensor, fault states in random order and nobody's
labels; each time its label-free detector says that the stream has changed, a few windows of each state get a label.

Arms: none; plain (backpropagation, nothing that protects); full (replay, synaptic intelligence, the alarm's boundary);
the same in floats from the same lessons. Needs EDGERUN_DATA.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final, NamedTuple

import msgspec
import numpy as np
from chains import (
    BOARD,
    accuracy,
    bundle_of,
    costs,
    float_accuracy,
    integers,
    new_learner,
    quantised,
    rules,
)
from scenario import Run, command, data_file, draw, matrix, publish, table
from split_mnist import Consolidated
from tables import Table

from edgerun.arrays import F64, I16, I64
from edgerun.bundle import Bundle, Probe
from edgerun.learn.learner import Learner
from edgerun.learn.records import Boundary
from edgerun.learn.watch import Watch
from edgerun.learn.watch import slots as watch_slots
from edgerun.spec import Drift, Replay
from exporters import learning_dense
from exporters.importance import ORDER_SEED, priors
from exporters.runs import by_arm

SCENARIO: Final = "condition"
WINDOW, BANDS, RATE_HZ = 512, 32, 12_000
FACTORY, STREAM = 0.4, 0.75  # of each recording: what trains the net, and where the device's stream ends
HIDDEN, EPOCHS, BATCH = 64, 30, 32
REACHES, TOPS = (8.0, 8.0, 16.0), (1.0, 1.0, 1.0)
STEP, STRENGTH, DAMPING = 0.01, 0.001, 0.01
SHOTS, KEPT = 5, 10  # labels of a state after an alarm; windows of a state that the reservoir starts with
REPLAY: Final = Replay(capacity=300, passes=8)
WATCH: Final = Drift(samples=24)
ARMS: Final = ("none", "plain", "full")
SURE: Final = 0.9  # lessons that are known so well teach nothing
LOOSE_HZ, LOOSE_GAIN = 1500.0, 0.5


@dataclass(frozen=True)
class Condition:
    """Windows as log energies (n, BANDS) and their states (n,), recording by recording in the order of time."""

    name: str
    x: F64
    label: I64
    place: F64  # (n,) where in its recording a window lies, in [0, 1)

    def part(self, first: float, last: float) -> Condition:
        mine = (self.place >= first) & (self.place < last)
        return Condition(self.name, self.x[mine], self.label[mine], self.place[mine])

    def shuffled(self, rng: np.random.Generator) -> Condition:
        order = rng.permutation(len(self.x))
        return Condition(self.name, self.x[order], self.label[order], self.place[order])


# ------------------------------------------------------------------ recordings


@cache
def recordings() -> tuple[dict[int, list[F64]], int]:
    """By load in hp, the vibration of each fault state in g, states in the same order; how many states there are."""
    with np.load(data_file("bearing_cwru_12k.npz")) as file:
        data = {name: file[name] for name in file.files}
    found: dict[int, dict[tuple[int, ...], F64]] = {}
    for k, load in enumerate(data["load_hp"]):
        key = tuple(int(data[name][k]) for name in ("kind", "fault_mil", "outer_position_clock"))
        if data["kind_names"][key[0]] != "normal":
            rows = slice(int(data["offsets"][k]), int(data["offsets"][k + 1]))
            found.setdefault(int(load), {})[key] = data["vibration"][rows] * data["scale"][k]
    states = sorted(found[0])
    return {load: [records[state] for state in states] for load, records in found.items()}, len(states)


def loosened(g: F64) -> F64:
    """The same vibration through a sensor that has come loose: half as strong, and a first-order low pass."""
    spectrum, hz = np.fft.rfft(g), np.fft.rfftfreq(len(g), 1 / RATE_HZ)
    heard: F64 = np.fft.irfft(spectrum * LOOSE_GAIN / (1 + 1j * hz / LOOSE_HZ), len(g))
    return heard


def energies(g: F64) -> F64:
    """log2 of the energy in BANDS equal bands, of each window."""
    count = len(g) // WINDOW
    spectrum = np.fft.rfft(g[: count * WINDOW].reshape(count, WINDOW) * np.hanning(WINDOW), axis=1)
    edges = np.linspace(1, WINDOW // 2 + 1, BANDS + 1).astype(int)[:-1]
    found: F64 = np.log2(np.add.reduceat(np.abs(spectrum) ** 2, edges, axis=1) + 1e-6)
    return found


def condition(name: str, load: int, *, loose: bool = False) -> Condition:
    parts = [energies(loosened(g) if loose else g) for g in recordings()[0][load]]
    return Condition(
        name,
        np.concatenate(parts),
        np.concatenate([np.full(len(part), k) for k, part in enumerate(parts)]),
        np.concatenate([np.arange(len(part)) / len(part) for part in parts]),
    )


@cache
def conditions() -> tuple[Condition, ...]:
    """The three that a device lives through."""
    return condition("0 hp", 0), condition("2 hp", 2), condition("1 hp, loose", 1, loose=True)


class Scale(NamedTuple):
    """What makes log energies values from 0 to 1: the factory's mean and spread of each band."""

    mean: F64
    spread: F64

    def __call__(self, x: F64) -> F64:
        scaled: F64 = np.clip((x - self.mean) / (6 * self.spread) + 0.5, 0, 1)
        return scaled


# ------------------------------------------------------------------ the factory


def trained(seed: int, x: F64, label: I64, epochs: int) -> rules.Net:
    """A float net for the factory's condition."""
    rng = np.random.default_rng([seed, 1])
    net = rules.Net.he((BANDS, HIDDEN, HIDDEN, recordings()[1]), rng)
    adam = rules.Adam(2e-3)
    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(len(x)), len(x) // BATCH):
            noisy = np.clip(x[rows] + rng.normal(0, 0.01, (len(rows), BANDS)), 0, 1)
            adam.step(net, rules.backprop(net, noisy, label[rows]))
    return net


def bundle(arm: str, seed: int, net: rules.Net, x: F64, label: I64) -> Bundle:
    """The net as a bundle whose plan is the arm's; its reservoir starts from windows of the factory."""
    chain = integers(net, REACHES, TOPS)
    rule = learning_dense.backprop(*chain, STEP)
    full = arm == "full"
    made = bundle_of(
        chain,
        msgspec.structs.replace(rule, error_threshold=round(SURE * 32768)) if full else rule,
        quantised(x[:: len(x) // 30]),
        label[:: len(x) // 30],
        seed=seed,
        intelligence=learning_dense.intelligence(rule, *chain, STRENGTH, DAMPING) if full else None,
        replay=REPLAY if full else None,
    )
    manifest = msgspec.structs.replace(
        made.manifest, learning=msgspec.structs.replace(made.manifest.learning, drift=WATCH)
    )
    if not full:
        return replace(made, manifest=manifest)
    kept = np.concatenate([np.flatnonzero(label == k)[:KEPT] for k in np.unique(label)])
    exemplars = Probe(quantised(x[kept]).astype(np.int8), label[kept].astype(np.int32))
    importance = priors(manifest, dict(made.tensors), quantised(x), label)
    return replace(made, manifest=manifest, exemplars=exemplars, priors=importance)


# ------------------------------------------------------------------ the life of a device


class Twin:
    """The float net, taught the same lessons in the same order with the same replays; biases stay the factory's."""

    def __init__(self, net: rules.Net, arm: str, x: F64, label: I64) -> None:
        self.arm = arm
        self.net = rules.Net([w.copy() for w in net.weight], net.bias)
        self.guard = Consolidated(self.net, STRENGTH if arm == "full" else 0.0, DAMPING, most=1 / (32 * STEP))
        if arm == "full":
            self._weigh(net, x, label)

    def _weigh(self, net: rules.Net, x: F64, label: I64) -> None:
        """What each weight does for the factory's own windows, as the exporter measures it; weights go back after."""
        for k in np.random.default_rng(ORDER_SEED).permutation(len(x)):
            self._step(x[k], int(label[k]))
        self.guard.boundary()
        self.net.weight = [w.copy() for w in net.weight]
        self.guard.ref = [array.copy() for array in self.guard.arrays]

    def lesson(self, q: I16, label: int) -> None:
        x = q / 127
        if self.arm != "full" or rules.softmax(rules.forward(self.net, x[None])[-1])[0, label] < SURE:
            self._step(x, label, pulled=True)

    def _step(self, x: F64, label: int, *, pulled: bool = False) -> None:
        before = self.guard.arrays
        found = rules.backprop(self.net, x[None], np.array([label]))
        rules.sgd(self.net, self.guard.pulled(found) if pulled else found, STEP, biases=False)
        self.guard.credit(found, before)


@dataclass
class Device:
    """The integers with their detector, and the float twin beside them."""

    learner: Learner
    watch: Watch
    twin: Twin
    arm: str

    def hear(self, stream: Condition, *, new: bool) -> Heard:
        """A condition's stream: answers, and from its alarm on labels until every state has its shots."""
        heard, asked = Heard(), {int(k): 0 for k in np.unique(stream.label)}
        for place, (row, truth) in enumerate(zip(quantised(stream.x), stream.label, strict=True)):
            alarm = self.watch.meet(row, self.learner.network.infer(row).label)
            heard.score.append(1.0 if alarm else self.watch.statistic)
            heard.alarms += alarm
            if alarm and new and heard.delay is None:
                heard.delay = place + 1
                self.learner.apply(Boundary(reason="drift"))
                self.twin.guard.boundary()
            if heard.delay is not None and asked[int(truth)] < SHOTS and self.arm != "none":
                asked[int(truth)] += 1
                self._teach(row, int(truth))
        return heard

    def _teach(self, q: I16, label: int) -> None:
        lesson, held = self.learner.plan_lesson(q, label, "full"), self.learner.reservoir
        replayed = [(held.sample(k), int(held.label[k])) for k in lesson.draws] if held else []
        self.learner.apply(lesson)
        for sample, truth in [(q, label), *replayed]:
            self.twin.lesson(sample, truth)


@dataclass
class Heard:
    """What a device went through in one condition: its detector's score a window, alarms, windows until the first."""

    score: list[float] = field(default_factory=list)
    alarms: int = 0
    delay: int | None = None


def life(arm: str, seed: int, net: rules.Net, lived: list[Condition]) -> tuple[Run, Run, list[list[float]]]:
    """One arm through all conditions: its run, its float twin's, the detector's score window by window."""
    factory = lived[0].part(0, FACTORY)
    made = bundle(arm, seed, net, factory.x, factory.label)
    device = Device(new_learner(made), Watch(made.manifest), Twin(net, arm, factory.x, factory.label), arm)
    tests = [one.part(STREAM, 1) for one in lived]
    rows, twins, scores, figures = [], [], [], {}
    for k, one in enumerate(lived):
        stream = one.part(0 if k else FACTORY, STREAM).shuffled(np.random.default_rng([seed, 2, k]))
        heard = device.hear(stream, new=k > 0)
        scores.append(heard.score)
        if k == 0:
            figures["false alarms"] = float(heard.alarms)
        elif heard.delay is not None:
            figures[f"alarm after, {one.name}"] = float(heard.delay)
        rows.append([accuracy(device.learner, quantised(test.x), test.label) for test in tests])
        twins.append([float_accuracy(device.twin.net, test.x, test.label) for test in tests])
    names = [one.name for one in lived]
    run = Run(scenario=SCENARIO, arm=arm, seed=seed, matrix=rows, tasks=names, figures=figures, **costs(made))
    return run, Run(scenario=SCENARIO, arm=f"{arm} (float)", seed=seed, matrix=twins, tasks=names), scores


def factory_net(seed: int, epochs: int) -> tuple[rules.Net, Scale]:
    """A float net of the factory's condition, and what makes windows its input."""
    factory = conditions()[0].part(0, FACTORY)
    scale = Scale(factory.x.mean(axis=0), factory.x.std(axis=0))
    return trained(seed, scale(factory.x), factory.label, epochs), scale


# ------------------------------------------------------------------ the detector alone


class Seen(NamedTuple):
    """Decided windows of one condition: q (n, BANDS), the class that the factory's integers give each, their share."""

    q: I16
    decided: I64
    right: float


CHANGES: Final = ("1 hp", "2 hp", "0 hp, sensor at 0.7", "0 hp, loose", "1 hp, loose")


def seen(learner: Learner, one: Condition) -> Seen:
    q = quantised(one.x)
    decided = learner.scores(q).argmax(axis=1)
    return Seen(q, decided, float((decided == one.label).mean()))


def changed(name: str, scale: Scale) -> Condition:
    """A condition of CHANGES as the net reads it, from the part of the recordings that no net was trained on."""
    if name == "0 hp, sensor at 0.7":
        one = conditions()[0]
        one = replace(one, name=name, x=one.x + 2 * np.log2(0.7))
    else:
        one = condition(name, int(name[0]), loose=name.endswith("loose"))
    return replace(one, x=scale(one.x)).part(FACTORY, 1)


class Detected(NamedTuple):
    """Of one net: share right under each change, windows until the alarm in each order (inf: never), false alarms."""

    right: dict[str, float]
    delays: dict[str, list[float]]
    mixed: int  # alarms of `windows` of 0 hp in random order
    blocks: int  # the same, a state for BLOCK windows, then another
    windows: int
    bytes: int  # of the detector


BLOCK: Final = 100


def detected(seed: int, net: rules.Net, scale: Scale, windows: int, orders: int) -> Detected:
    """What the detector says of streams drawn from recordings, with replacement, while nothing is learned."""
    factory = conditions()[0].part(0, FACTORY)
    made = bundle("none", seed, net, scale(factory.x), factory.label)
    learner, rng = new_learner(made), np.random.default_rng([seed, 3])
    still = conditions()[0].part(FACTORY, 1)
    usual = seen(learner, replace(still, x=scale(still.x)))
    others = {name: seen(learner, changed(name, scale)) for name in CHANGES}
    states = [np.flatnonzero(still.label == k) for k in np.unique(still.label)]
    blocks = np.concatenate([rng.choice(states[rng.integers(len(states))], BLOCK) for _ in range(windows // BLOCK)])
    delays: dict[str, list[float]] = {name: [] for name in CHANGES}
    for _ in range(orders):
        watch = Watch(made.manifest)
        alarms(watch, usual, rng.integers(len(usual.q), size=SETTLED))
        for name, other in others.items():
            after = Watch(made.manifest)
            after.load(watch.arrays())
            found = alarms(after, other, rng.integers(len(other.q), size=PATIENCE), first=True)
            delays[name].append(found[0] + 1 if found else np.inf)
    return Detected(
        {"0 hp": usual.right} | {name: other.right for name, other in others.items()},
        delays,
        len(alarms(Watch(made.manifest), usual, rng.integers(len(usual.q), size=windows))),
        len(alarms(Watch(made.manifest), usual, blocks)),
        windows,
        sum(slot.bytes for slot in watch_slots(made.manifest).values()),
    )


SETTLED, PATIENCE = 2000, 2000


def alarms(watch: Watch, stream: Seen, order: I64, *, first: bool = False) -> list[int]:
    """Places of the alarms of a stream, or of its first one alone."""
    found = []
    for place, k in enumerate(order):
        if watch.meet(stream.q[k], int(stream.decided[k])):
            found.append(place)
            if first:
                break
    return found


# ------------------------------------------------------------------ the page


def detector_table(found: list[Detected]) -> str:
    """Markdown: a row a change, how far it hurts, how soon it was told."""
    before = 100 * np.mean([one.right["0 hp"] for one in found])
    rows = []
    for name in CHANGES:
        delays = np.concatenate([one.delays[name] for one in found])
        told = delays[np.isfinite(delays)]
        right = 100 * np.mean([one.right[name] for one in found])
        rows.append(
            (name, f"{before:.1f}", f"{right:.1f}", f"{np.median(told):.0f}", f"{told.min():.0f} to {told.max():.0f}",
             f"{len(told)} of {len(delays)}")
        )  # fmt: skip
    heads = ("change from 0 hp", "right before %", "right after %", "alarm after, median", "range", "told")
    return Table("", heads, rows).markdown()


def picture(scores: list[list[float]], names: list[str]) -> str:
    """SVG: the detector's score window by window, each condition on its own ground, alarms marked."""
    width, height, left, top = 900, 230, 46, 34
    total, base = sum(map(len, scores)), height - 30
    flat = [value for part in scores for value in part]

    def x(place: float) -> float:
        return left + (width - left - 12) * place / total

    def y(value: float) -> float:
        return base - (base - top) * value

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12" role="img">',
        "<title>The label-free drift detector's score over a device's life</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    first = 0
    for k, (part, name) in enumerate(zip(scores, names, strict=True)):
        span = x(first + len(part)) - x(first)
        lines.append(
            f'<rect x="{x(first):.1f}" y="{top}" width="{span:.1f}" height="{base - top}" '
            f'fill="{("#eef2f0", "#fbeee6", "#ecebfa")[k % 3]}"/>'
        )
        lines.append(f'<text x="{x(first) + 6:.1f}" y="{top - 10}" fill="#222">{name}</text>')
        first += len(part)
    for value, label in ((0, "0"), (1, "alarm")):
        lines.append(f'<text x="6" y="{y(value) + 4:.1f}" fill="#555">{label}</text>')
        lines.append(
            f'<line x1="{left}" x2="{width - 12}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#999" '
            f'stroke-dasharray="{"4 4" if value else "none"}"/>'
        )
    points = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in enumerate(flat))
    lines.append(f'<polyline points="{points}" fill="none" stroke="#0f766e" stroke-width="1"/>')
    for place, value in enumerate(flat):
        if value >= 1:
            lines.append(f'<circle cx="{x(place):.1f}" cy="{y(value):.1f}" r="4" fill="#d9572b"/>')
    lines.append(f'<text x="{left}" y="{height - 10}" fill="#555">{total} windows of 43 ms, no label used</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


TEXT: Final = """## Another condition: a drift alarm without labels, then a few labels

By `make bench-condition`, scenario 6: fifteen faults of the CWRU bearing data at the drive end, windows of 43 ms as 32
log energies (an FFT at the sensor's edge), {bands}-{hidden}-{hidden}-15 in int8 trained on the first {factory:.0%} of
each recording at 0 hp. The device hears 0 hp, then 2 hp, then 1 hp through a loose sensor (made of the recording: half
as strong, first-order low pass at {loose:g} Hz), states in random order. After each alarm, the next {shots} windows of
each state get a label. Tests are the last {test:.0%} of each recording, which nothing learned from. Seeds {seeds}.

- `none`: no label is used. `plain`: backpropagation one by one at {step:g}, nothing that protects. `full`: with
  {passes} replayed windows a lesson, {kept} factory windows of each state to begin with, synaptic intelligence with the
  factory's importance (c = {strength:g}), lessons over p = {sure:g} skipped. Floats learn the same lessons.
- `alarm after`: windows of the new condition until the alarm; `false alarms`: over 0 hp. Memory and energy: {board}.

{table}
Integers less their float twin in ACC, paired by seed, in points: {paired}.

The detector compares each window with the first {watched} that were decided as the same state, in {bytes:,} bytes; it
needs no label, and no lesson moves what it compares with. {orders} streams a change and net:

{detector}
False alarms: {mixed} in {windows:,} windows of 0 hp in random order, {blocks} in as many where a state stays for
{block} windows (windows drawn with replacement from what the nets were not trained on).

![The detector's score over the life of seed {first}](images/condition-drift.svg)

{matrices}
What did not work, in a float prototype of the detector: distances in the network's hidden layer took half as many
windows more than those of the sensor's own integers, margins and best scores a hundred to a thousand windows, where
they told at all. A learning rate of 0.05 in place of {step:g} loses a third of what was known, replay or not. A sensor
at 0.7 of its gain is told although the net hardly minds it: the detector says that samples are unlike before, not that
answers are wrong.
"""


def page(runs: list[Run], found: list[Detected], seeds: list[int], orders: int) -> str:
    whole = {(run.arm, run.seed): float(np.mean(run.matrix[-1])) for run in runs}
    pairs = {arm: [100 * (whole[arm, seed] - whole[f"{arm} (float)", seed]) for seed in seeds] for arm in ARMS}
    paired = ", ".join(
        f"{arm} {np.mean(gaps):+.2f}" + (f" ± {np.std(gaps, ddof=1):.2f}" if len(gaps) > 1 else "")
        for arm, gaps in pairs.items()
    )
    return TEXT.format(
        bands=BANDS, hidden=HIDDEN, factory=FACTORY, loose=LOOSE_HZ, shots=SHOTS, test=1 - STREAM, step=STEP,
        passes=REPLAY.passes, kept=KEPT, strength=STRENGTH, sure=SURE, board=BOARD, table=table(runs), paired=paired,
        seeds=", ".join(map(str, seeds)), watched=2 * WATCH.samples, orders=orders, detector=detector_table(found),
        mixed=sum(one.mixed for one in found), blocks=sum(one.blocks for one in found), block=BLOCK,
        windows=sum(one.windows for one in found), first=seeds[0], bytes=found[0].bytes,
        matrices="\n".join(matrix(runs, arm) for arm in ("plain", "full")),
    )  # fmt: skip


def main() -> int:
    parser = command(__doc__, short="one seed, few windows: seconds", seeds=5)
    parser.add_argument("--windows", type=int, default=100_000, help="of a seed, that false alarms are counted over")
    parser.add_argument("--orders", type=int, default=20, help="streams of a seed and change")
    args = parser.parse_args()
    if args.short:
        args.seeds, args.windows, args.orders = 1, 3000, 2
    seeds, runs, found, drawn = list(range(1, args.seeds + 1)), list[Run](), list[Detected](), ""
    for seed in seeds:
        net, scale = factory_net(seed, EPOCHS)
        lived = [replace(one, x=scale(one.x)) for one in conditions()]
        for arm in ARMS:
            ours, twins, scores = life(arm, seed, net, lived)
            runs += [ours, twins]
            drawn = drawn or picture(scores, [one.name for one in lived])
            print(f"seed {seed}: {arm} {np.round(ours.matrix[-1], 3)}", file=sys.stderr, flush=True)
        found.append(detected(seed, net, scale, args.windows, args.orders))
    runs = [run for mine in by_arm(runs).values() for run in mine]
    publish(args, runs, page(runs, found, seeds, args.orders))
    if args.markdown:
        draw(args.markdown, "condition-drift", drawn)
    return 0


if __name__ == "__main__":
    sys.exit(main())
