"""Spike trains taught to a net of spiking neurons: temporal XOR and a picture, by SuperSpike and RMaxProp in integers.

    python benchmarks/learning/superspike.py --seeds 3 --markdown docs/results.md          (make bench-superspike)

xor     Two symbols play at once, each a frozen spike train of its own inputs; one output neuron must fire three
        spikes early where they are the same and three late where they differ. Potentials of both symbols add up: what
        is left to a net without a hidden layer is the output's memory of its own spikes ("no hidden layer" tries).
bitmap  One frozen train drives 32 outputs to draw a picture, 128 steps wide.

A step stands for 1 ms. The error of a pattern is its van Rossum distance over that of a silent net, as the device's own
`patterns` layer counts it. The float twin is `tests/reference/superspike.py`: same weights at the start, same lessons.
Against Zenke and Ganguli 2018: steps of 1 ms for 0.1 ms, windows of 128 ms, an update after each; for the bitmap 64
inputs, 64 hidden neurons and 32 outputs for 200, 256 and 200.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from scenario import Run, command, draw, publish, table

from edgerun import price
from edgerun.arrays import F64, I16, AnyArray, Tensors
from edgerun.boards import get_board
from edgerun.bundle import Bundle, Probe, Selftest, pack, read_bundle
from edgerun.kernels.superspike import ONE, energy, van_rossum
from edgerun.layers import Cells, DenseSum, Layer, Lookup, Patterns
from edgerun.learn.learner import Learner
from edgerun.lifetime import new_learner
from edgerun.network import Network
from edgerun.rules.superspike import Population, RMaxProp, SuperSpike
from edgerun.spec import ClassTable, Frames, Guard, InputSpec, LearningPlan, Manifest, PlasticRate

sys.path.append(str(Path(__file__).parents[2] / "tests"))

from reference import superspike as paper

SCENARIO = "superspike"
BOARD = "nucleo-f446"
ALPHA, DECAY, RISE, FALL = (round(2**15 * float(np.exp(-1 / tau))) for tau in (5, 10, 5, 10))
WIDTH_SHIFT = 9
TIMES = paper.Times(ALPHA / 2**15, DECAY / 2**15, RISE / 2**15, FALL / 2**15, width=2.0 ** (WIDTH_SHIFT - 12))
GAMMA = 0.983
FADE = round(-1024 * float(np.log2(GAMMA)))
FEEDBACKS = ("symmetric", "random", "uniform")


@dataclass(frozen=True)
class Task:
    """Windows x (n, steps, inputs) of zeros and ones, their labels (n,), and targets (classes, steps, outputs)."""

    name: str
    hidden: int
    x: AnyArray
    label: AnyArray
    target: AnyArray
    step: float  # of RMaxProp, in shadow LSB

    @property
    def widths(self) -> tuple[int, ...]:
        """Of every population, inputs first; hidden = 0: none."""
        return (self.x.shape[2], *([self.hidden] * (self.hidden > 0)), self.target.shape[2])


def xor(seed: int, hidden: int = 32, steps: int = 80, group: int = 24) -> Task:
    """Four windows: symbol 0 or 1 on the left inputs, 0 or 1 on the right ones."""
    rng = np.random.default_rng([seed, 1])
    symbols = rng.random((2, 2, steps, group)) < 0.04  # side, symbol
    x = np.stack([np.concatenate([symbols[0, a], symbols[1, b]], axis=1) for a in (0, 1) for b in (0, 1)])
    target = np.zeros((2, steps, 1), np.uint8)
    for k, first in enumerate((20, 48)):  # the same symbols: three spikes early; different ones: three late
        target[k, [first, first + 12, first + 24], 0] = 1
    return Task("xor", hidden, x.astype(np.uint8), np.array([0, 1, 1, 0], np.int32), target, 96)


def bitmap(seed: int, hidden: int = 64, steps: int = 128, inputs: int = 64, height: int = 32) -> Task:
    """A ring, a diagonal cross and a wave, side by side; what is dark may fire, never twice in 6 steps."""
    rng = np.random.default_rng([seed, 1])
    y, t = np.mgrid[0:height, 0:steps].astype(float)
    up, wide = (y - height / 2 + 0.5) / (height / 2), steps / 3
    across = 2 * (t % wide) / wide - 1
    radius = np.hypot(up, across)
    shapes = (
        (radius > 0.5) & (radius < 0.85),
        np.abs(np.abs(up) - np.abs(across)) < 0.18,
        np.abs(up - 0.6 * np.sin(np.pi * across)) < 0.22,
    )
    dark = np.choose(np.minimum(2, (t // wide)).astype(int), shapes) & (t > 8)
    target = np.zeros((1, steps, height), np.uint8)
    for row in range(height):
        last = -6
        for step in np.flatnonzero(dark[row]):
            if step - last >= 6 and rng.random() < 0.3:
                target[0, step, row], last = 1, step
    x = (rng.random((1, steps, inputs)) < 0.04).astype(np.uint8)
    return Task("bitmap", hidden, x, np.array([0], np.int32), target, 96)


# ------------------------------------------------------------------ the net


def exponents(task: Task) -> list[int]:
    """f of each population's weights: the largest is 127 / 2**f thresholds."""
    return [10, 9] if task.hidden else [9]


def start(task: Task, seed: int) -> list[AnyArray]:
    """int8 weights that make hidden neurons fire a few times a window and outputs nearly fire."""
    rng = np.random.default_rng([seed, 2])
    scales = [(0.008, 0.05), (0.0, 0.03)]
    return [
        np.clip(np.rint(2**f * rng.normal(mean, deviation, (m, n))), -127, 127).astype(np.int8)
        for f, (mean, deviation), m, n in zip(exponents(task), scales, task.widths[:-1], task.widths[1:], strict=False)
    ]


def bundle_of(task: Task, feedback: Any, seed: int) -> Bundle:
    steps, classes = task.target.shape[1], len(task.target)
    layers: list[Layer] = [Lookup(name="spikes", shape=(task.widths[0],), qmin=0, qmax=1)]
    tensors: Tensors = {"spikes.table": (np.arange(-128, 128) > 0).astype(np.int8), "known.target": task.target}
    populations = []
    for k, (f, weight) in enumerate(zip(exponents(task), start(task, seed), strict=True)):
        m, n = weight.shape
        layers.append(DenseSum(name=f"fan{k}", inputs=m, outputs=n, output_bound=127 * m))
        layers.append(Cells(name=f"cells{k}", shape=(n,), weight_exponent=f, synaptic=True))
        populations.append(Population(synapses=f"fan{k}", neurons=f"cells{k}"))
        tensors |= {
            f"fan{k}.weight": weight, f"cells{k}.bias": np.zeros(n, np.int32),
            f"cells{k}.threshold": np.full(n, 4096, np.int16), f"cells{k}.alpha": np.full(n, ALPHA, np.uint16),
            f"cells{k}.decay": np.full(n, DECAY, np.uint16),
        }  # fmt: skip
    if feedback == "random" and task.hidden:
        tensors["cells0.feedback"] = random_feedback(task, seed)
    outputs = task.widths[-1]
    layers.append(Patterns(name="known", inputs=outputs, outputs=classes, steps=steps, rise=RISE, fall=FALL))
    rule = SuperSpike(
        populations=tuple(populations), patterns="known", feedback=feedback, width_shift=WIDTH_SHIFT, post_shift=13,
        rates=tuple(
            PlasticRate(tensor=f"{each.synapses}.weight", eta=round(task.step), shift=15) for each in populations
        ),
    )  # fmt: skip
    manifest = Manifest(
        name=task.name, input=InputSpec(shape=(steps, task.widths[0])), encoder=Frames(), layers=tuple(layers),
        classes=ClassTable(names=tuple(f"pattern {k}" for k in range(classes)), capacity=classes), seed=seed,
        learning=LearningPlan(rule=rule, normaliser=RMaxProp(fade=FADE), guard=Guard(every=4096)),
    )  # fmt: skip
    x = np.resize(task.x, (8, *task.x.shape[1:])).astype(np.int8)
    scores = np.stack([Network(manifest, tensors).scores(q) for q in flat(x)])
    return read_bundle(pack(manifest, tensors, selftest=Selftest(x, scores), probe=Probe(x, np.resize(task.label, 8))))


def random_feedback(task: Task, seed: int) -> AnyArray:
    rng = np.random.default_rng([seed, 3])
    return np.clip(np.rint(rng.normal(0, 50, (task.hidden, task.widths[-1]))), -127, 127).astype(np.int8)


def flat(x: AnyArray) -> I16:
    rows: I16 = x.reshape(len(x), -1).astype(np.int16)
    return rows


# ------------------------------------------------------------------ integers and floats

Curve = list[tuple[int, float]]
"""(lessons so far, mean error over the task's windows)."""


@dataclass(frozen=True)
class Outcome:
    curve: Curve
    accuracy: float  # share of windows whose nearest pattern is the right one
    untrained: float
    spikes: AnyArray  # (T, outputs) of the first window, after learning


def silence_of(target: AnyArray) -> int:
    """How far silence is from a target (T, outputs)."""
    missed = ONE * target.astype(np.int32)
    van_rossum(missed, RISE, FALL)
    return energy(missed)


def integers(task: Task, feedback: str, seed: int, lessons: int) -> Outcome:
    learner = new_learner(bundle_of(task, feedback, seed))
    silence = [silence_of(target) for target in task.target]
    q = flat(task.x)

    def look() -> tuple[float, float]:
        scores = learner.scores(q)
        own = -scores[np.arange(len(q)), task.label]
        right = (scores.argmax(axis=1) == task.label).mean()
        return float(np.mean(own / np.array(silence)[task.label])), float(right)

    def teach(k: int) -> None:
        learner.apply(learner.plan_lesson(q[k], int(task.label[k]), "full"))

    return course(task, lessons, look, teach, lambda: raster(learner, q[0]))


def raster(learner: Learner, q: I16) -> AnyArray:
    last = learner.network.layers[learner.manifest.layers[-2].name]
    return np.stack([last.out.copy() for _ in learner.network.play(q)])


def floats(task: Task, feedback: str, seed: int, lessons: int) -> Outcome:
    twin = FloatNet(task, feedback, seed)

    def look() -> tuple[float, float]:
        shares, right = [], []
        for x, label in zip(task.x, task.label, strict=True):
            spikes = paper.run(TIMES, twin.weights, x.astype(float)).z[-1]
            distances = [paper.distance(spikes - target, TIMES) for target in task.target]
            shares.append(distances[label] / paper.distance(task.target[label].astype(float), TIMES))
            right.append(int(np.argmin(distances)) == label)
        return float(np.mean(shares)), float(np.mean(right))

    def teach(k: int) -> None:
        twin.learn(task.x[k].astype(float), task.target[task.label[k]].astype(float))

    return course(task, lessons, look, teach, lambda: paper.run(TIMES, twin.weights, task.x[0].astype(float)).z[-1])


class FloatNet:
    """The float twin; weights in thresholds, as far as the device's go."""

    def __init__(self, task: Task, feedback: str, seed: int) -> None:
        self.feedback, fs = feedback, exponents(task)
        self.weights: list[F64] = [w / 2**f for w, f in zip(start(task, seed), fs, strict=True)]
        self.limits = [127 / 2**f for f in fs]
        self.steps = [
            paper.RMaxProp(w.shape, task.step / 2 ** (f + 8), GAMMA) for w, f in zip(self.weights, fs, strict=True)
        ]
        self.fixed = random_feedback(task, seed).astype(float) if feedback == "random" and task.hidden else None

    def through(self) -> list[F64]:
        if len(self.weights) == 1:
            return []
        if self.fixed is not None:
            return [self.fixed]
        return [self.weights[1] if self.feedback == "symmetric" else np.ones_like(self.weights[1])]

    def learn(self, x: F64, target: F64) -> None:
        window = paper.run(TIMES, self.weights, x)
        signals = paper.signals(window.z[-1] - target, self.through(), chained=self.feedback == "symmetric")
        found = [paper.deferred(TIMES, *each) for each in zip(window.pre, window.psi, signals, strict=True)]
        for w, step, gradient, limit in zip(self.weights, self.steps, found, self.limits, strict=True):
            np.clip(w + step.step(gradient), -limit, limit, out=w)


def course(
    task: Task, lessons: int, look: Callable[[], tuple[float, float]], teach: Callable[[int], None],
    draw: Callable[[], AnyArray],
) -> Outcome:  # fmt: skip
    """Lessons on all windows in turn, with a look at every fortieth part."""
    (error, untrained), every = look(), max(1, lessons // 40)
    curve, right = [(0, error)], untrained
    for number in range(1, lessons + 1):
        teach((number - 1) % len(task.x))
        if number % every == 0 or number == lessons:
            error, right = look()
            curve.append((number, error))
    return Outcome(curve, right, untrained, draw())


# ------------------------------------------------------------------ arms

TASKS: dict[str, Callable[..., Task]] = {"xor": xor, "bitmap": bitmap}
ALONE = "no hidden layer"
ARMS = (*((task, feedback) for task in TASKS for feedback in FEEDBACKS), ("xor", ALONE))


@dataclass(frozen=True)
class Job:
    task: str
    feedback: str
    seed: int
    lessons: int
    twin: bool
    hidden: int | None = None  # neurons, where they are not the task's

    @property
    def arm(self) -> str:
        return f"{self.task}, {self.feedback}{' (float)' * self.twin}"

    def load(self) -> Task:
        sizes = {"hidden": 0} if self.feedback == ALONE else {"hidden": self.hidden} if self.hidden else {}
        return TASKS[self.task](self.seed, **sizes)


def do(job: Job) -> Outcome:
    feedback = "symmetric" if job.feedback == ALONE else job.feedback
    return (floats if job.twin else integers)(job.load(), feedback, job.seed, job.lessons)


def run_of(job: Job, outcome: Outcome) -> Run:
    """Errors are means over the last tenth of the lessons: single weights step on and on."""
    before, after = outcome.curve[0][1], tail(outcome.curve)
    fields: dict[str, Any] = {}
    if job.task == "xor":
        fields = {"matrix": [[outcome.accuracy]], "untrained": [outcome.untrained], "tasks": ["xor"]}
    if not job.twin:
        fields |= costs(bundle_of(job.load(), "uniform" if job.feedback == ALONE else job.feedback, job.seed))
    figures = {"error before": before, "error after": after, "falls by": before / after}
    return Run(scenario=SCENARIO, arm=job.arm, seed=job.seed, figures=figures, **fields)


def tail(curve: Curve) -> float:
    return float(np.mean([error for lesson, error in curve if lesson >= 0.9 * curve[-1][0]]))


def costs(bundle: Bundle) -> dict[str, Any]:
    """Memory, and the energy of one answer and of one lesson's learning, on the board that this is reckoned for."""
    still = msgspec.structs.replace(bundle.manifest, learning=LearningPlan())
    board, work = get_board(BOARD), price.work(bundle)
    inference = price.memory_plan(replace(bundle, manifest=still)).total_bytes
    energy_of = {
        name: price.price(board, ops)[0] for name, ops in (("one", work.inference), ("all", work.lesson["full"]))
    }
    return {
        "memory_bytes": {"inference": inference, "learning": price.memory_plan(bundle).total_bytes - inference},
        "energy_uj": {"inference": energy_of["one"], "update": energy_of["all"] - energy_of["one"]},
    }


# ------------------------------------------------------------------ a picture

COLOURS = {"symmetric": "#1b6ca8", "random": "#c0572b", "uniform": "#4b8b3b", ALONE: "#777777"}
PIXEL, LEFT, WIDE, HIGH = 3, 48, 384, 150


def picture(outcomes: dict[Job, Outcome]) -> str:
    """SVG: the bitmap and what the first net with symmetric feedback makes of it; every task's error over lessons."""
    drawn = next(job for job in outcomes if (job.task, job.feedback, job.twin) == ("bitmap", "symmetric", False))
    target, spikes = drawn.load().target[0], outcomes[drawn].spikes
    height, second = target.shape[1] * PIXEL, LEFT + WIDE + 48
    top = 28 + height + 56
    parts = [
        *raster_marks("target", target, LEFT, 28),
        *raster_marks("output spikes after learning", spikes, second, 28),
    ]
    for task, left in zip(TASKS, (LEFT, second), strict=True):
        parts += panel(task, {job: o.curve for job, o in outcomes.items() if job.task == task}, left, top)
    size = f'width="{second + WIDE + 16}" height="{top + HIGH + 72}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">\n'
        f'<rect {size} fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def raster_marks(title: str, spikes: AnyArray, left: int, top: int) -> Iterator[str]:
    """A square a spike, time to the right.    spikes  (T, rows)"""
    steps, rows = spikes.shape
    yield f'<text x="{left}" y="{top - 8}">{title}: {rows} neurons, {steps} ms</text>'
    yield f'<rect x="{left}" y="{top}" width="{steps * PIXEL}" height="{rows * PIXEL}" fill="none" stroke="#bbb"/>'
    marks = "".join(
        f"M{left + PIXEL * t} {top + PIXEL * row}h{PIXEL}v{PIXEL}h-{PIXEL}z" for t, row in np.argwhere(spikes)
    )
    yield f'<path d="{marks}" fill="#222"/>'


def panel(task: str, curves: dict[Job, Curve], left: int, top: int) -> Iterator[str]:
    """Errors of one task on a logarithmic axis from 0.01 to 10: integers in lines, floats in dashes, mean of seeds."""

    def place(lesson: int, error: float, last: int) -> str:
        share = (1 - np.log10(np.clip(error, 0.01, 10))) / 3
        return f"{left + WIDE * lesson / last:.1f},{top + HIGH * share:.1f}"

    yield f'<rect x="{left}" y="{top}" width="{WIDE}" height="{HIGH}" fill="none" stroke="#bbb"/>'
    for error in (10, 1, 0.1, 0.01):
        y = place(0, error, 1).split(",")[1]
        yield f'<text x="{left - 6}" y="{y}" text-anchor="end" dominant-baseline="middle">{error:g}</text>'
        yield f'<path d="M{left} {y}h{WIDE}" stroke="#ddd"/>'
    last = max(curve[-1][0] for curve in curves.values())
    yield f'<text x="{left}" y="{top - 8}">{task}: error over that of silence, 0 to {last} lessons</text>'
    arms = dict.fromkeys((job.feedback, job.twin) for job in curves)
    for feedback, twin in arms:
        mine = [curve for job, curve in curves.items() if (job.feedback, job.twin) == (feedback, twin)]
        means = [(rows[0][0], float(np.mean([row[1] for row in rows]))) for rows in zip(*mine, strict=True)]
        points = " ".join(place(lesson, error, last) for lesson, error in means)
        dash = ' stroke-dasharray="4 3"' * twin
        yield f'<polyline points="{points}" fill="none" stroke="{COLOURS[feedback]}" stroke-width="1.5"{dash}/>'
    x = left
    for feedback in dict.fromkeys(feedback for feedback, _ in arms):
        yield f'<path d="M{x} {top + HIGH + 20}h18" stroke="{COLOURS[feedback]}" stroke-width="2"/>'
        yield f'<text x="{x + 22}" y="{top + HIGH + 24}">{feedback}</text>'
        x += 44 + 7 * len(feedback)
    yield f'<text x="{left}" y="{top + HIGH + 44}" fill="#555">lines: integers; dashes: floats; mean of seeds</text>'


TEXT = """## SuperSpike: temporal XOR and a bitmap

`benchmarks/learning/superspike.py`, scenario 11. Errors are van Rossum distances to the target over that of a silent
net, means over the last tenth of the lessons; ACC is the share of windows whose nearest target is the right one.
Temporal XOR: 4 windows of 80 ms from two symbols that play at once, 48 inputs, 32 hidden neurons, one output that must
spike three times early or three times late, {xor} lessons. Bitmap: 64 inputs, 64 hidden neurons, 32 outputs, 128 ms,
{bitmap} lessons. Seeds {seeds}.

{table}

![The bitmap, what 32 neurons make of it, and both tasks' errors over lessons](images/superspike.svg)

{finding}

Reductions against Zenke and Ganguli 2018: steps of 1 ms instead of 0.1 ms; one update a window instead of one in half a
second; for the bitmap 64-64-32 neurons and 128 ms instead of 200-256-200 and 1.89 s. Floats start from the same
weights, take the same lessons in the same order and step by the same RMaxProp without rounding. Energy and
memory are those of {board}.
"""


def finding(runs: Sequence[Run]) -> str:
    """What the numbers say, in words that they fill in."""

    def mean(arm: str, figure: str) -> float:
        return float(np.mean([run.figures[figure] for run in runs if run.arm == arm]))

    falls = {arm: mean(arm, "falls by") for arm in dict.fromkeys(run.arm for run in runs)}
    taught = {arm: fall for arm, fall in falls.items() if ALONE not in arm and "(float)" not in arm}
    least, most = (pick(taught, key=lambda arm: taught[arm]) for pick in (min, max))
    pairs = [mean(arm, "error after") - mean(f"{arm} (float)", "error after") for arm in taught]
    five = sum(fall >= 5 for fall in taught.values())
    text = (
        f"In integers the error falls {taught[least]:.1f} times ({least}) to {taught[most]:.1f} times ({most}), five "
        f"times and more in {five} of {len(taught)} arms; against their float twins they end {min(pairs):+.3f} to "
        f"{max(pairs):+.3f} apart, in units of silence's error. A start that fires too much is worse than silence: "
        f"from silence's 1 the error falls {1 / mean('xor, symmetric', 'error after'):.0f} times (xor, symmetric) and "
        f"{1 / mean('bitmap, symmetric', 'error after'):.0f} times (bitmap, symmetric). As in the paper, feedback of "
        f"any kind teaches the small task, and the picture is drawn best by symmetric feedback; uniform feedback, "
        f"one sum for all, falls at first, then drifts to {mean('bitmap, uniform', 'error after'):.2f}. Without a "
        f"hidden layer temporal XOR stops at {mean(f'xor, {ALONE}', 'error after'):.2f}: the output's memory "
        "of its own spikes does part of it."
    )
    return textwrap.fill(text, 120)


def main() -> int:
    parser = command(__doc__, short="one seed, small nets, symmetric feedback: seconds", seeds=3)
    parser.add_argument("--lessons", type=int, nargs=2, default=(800, 400), metavar=("XOR", "BITMAP"))
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    args = parser.parse_args()
    lessons, seeds = dict(zip(TASKS, args.lessons, strict=True)), range(1, args.seeds + 1)
    jobs = [
        Job(task, kind, seed, lessons[task], twin) for task, kind in ARMS for twin in (False, True) for seed in seeds
    ]
    if args.short:
        jobs = [Job("xor", "symmetric", 1, 60, False), Job("bitmap", "symmetric", 1, 15, False, 16)]
    with ProcessPoolExecutor(args.jobs) as pool:
        outcomes = dict(zip(jobs, pool.map(do, jobs), strict=True))
    runs = [run_of(job, outcome) for job, outcome in outcomes.items()]
    text = TEXT.format(
        table=table(runs), seeds=", ".join(map(str, seeds)), board=BOARD, finding=finding(runs), **lessons
    )
    publish(args, runs, text)
    if args.markdown:
        draw(args.markdown, "superspike", picture(outcomes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
