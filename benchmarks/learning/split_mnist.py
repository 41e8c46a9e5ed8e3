"""Split MNIST: five tasks of two digits each, one after the other; synaptic intelligence on backpropagation.

    python benchmarks/learning/split_mnist.py --seeds 2 --markdown docs/results.md        (make bench-split-mnist)
    python benchmarks/learning/split_mnist.py --paper 2 ...                                adds the paper's own setting

As in Zenke, Poole and Ganguli (2017), a task's logits are told from its own two classes, in learning and in tests. On
the device nobody names the task: the error is restricted to the classes of the last few labels, and a boundary is a
command. Integers learn one by one from the first images of each digit, once; the float twin has the same start, order
and rate. `uniform` spreads the same importance evenly over each tensor; `replay` keeps 100 images and repeats one with
each lesson; `both` is replay with synaptic intelligence.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
from chains import BOARD, Quantised, bundle_of, costs, integers, new_learner, quantised, rules, teach
from scenario import Run, command, data_file, gap, load, matrix, publish, save, table

from edgerun.arrays import F32, F64, I64, AnyArray
from edgerun.bundle import Bundle
from edgerun.kernels.plasticity import decode_importance, encode_importance
from edgerun.learn.learner import Learner
from edgerun.learn.records import Boundary
from edgerun.spec import Replay, Rule
from exporters import learning_dense
from exporters.runs import by_arm

SCENARIO = "split_mnist"
TASKS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
HIDDEN = 256
REACHES, TOPS = (8.0, 8.0, 16.0), (0.5, 0.5, 0.5)
RATE = 0.02
STRENGTH, DAMPING = 1e-3, 1e-3
RECENT = 6
LESSONS, TESTS = 2000, 1000  # a task
ARMS = ("none", "plain", "full", "uniform", "replay", "both")
PAPERS = "(float, the paper's setting)"


class Task(NamedTuple):
    """Images (n, 784) from 0 to 1 and their digits, to learn from and to test on."""

    x: F64
    label: I64
    test_x: F64
    test_label: I64


def mnist(lessons: int, tests: int) -> list[Task]:
    """The first so many images of each pair of digits, in file order."""
    with np.load(data_file("mnist.npz")) as data:
        parts = {name: data[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    found = []
    for pair in TASKS:
        train = np.flatnonzero(np.isin(parts["y_train"], pair))[:lessons]
        test = np.flatnonzero(np.isin(parts["y_test"], pair))[:tests]
        found.append(
            Task(
                parts["x_train"][train].reshape(-1, 784) / 255,
                parts["y_train"][train].astype(np.int64),
                parts["x_test"][test].reshape(-1, 784) / 255,
                parts["y_test"][test].astype(np.int64),
            )
        )
    return found


def start(seed: int, hidden: int) -> rules.Net:
    """Random weights (He), zero in the last layer."""
    net = rules.Net.he((784, hidden, hidden, 10), np.random.default_rng([seed, 1]))
    net.weight[-1][...] = 0
    return net


def order_of(seed: int, k: int, count: int) -> I64:
    return np.random.default_rng([seed, 2, k]).permutation(count)


def right(scores: AnyArray, task: int, label: I64) -> float:
    """The share that the task's own classes get right."""
    pair = np.array(TASKS[task])
    return float((pair[scores[:, pair].argmax(axis=1)] == label).mean())


# ------------------------------------------------------------------ integers


def device(arm: str, seed: int, tasks: list[Task]) -> Run:
    chain = integers(start(seed, HIDDEN), REACHES, TOPS)
    rule = msgspec.structs.replace(learning_dense.backprop(*chain, RATE), recent_labels=RECENT)
    bundle = planned(arm, chain, rule, tasks[0], seed, STRENGTH, DAMPING, stored=100)
    tests = [quantised(task.test_x) for task in tasks]

    def examine(learner: Learner) -> list[float]:
        return [
            right(learner.scores(x), k, task.test_label) for k, (x, task) in enumerate(zip(tests, tasks, strict=True))
        ]

    names = ["".join(map(str, pair)) for pair in TASKS]
    return Run(scenario=SCENARIO, tasks=names, **lived(arm, seed, tasks, bundle, examine))


def planned(
    arm: str, chain: Quantised, rule: Rule, few: Task, seed: int, strength: float, damping: float, stored: int
) -> Bundle:
    """A chain with the plan of an arm: synaptic intelligence, so many stored images, both or neither."""
    guarded = arm in ("full", "uniform", "both")
    intelligence = learning_dense.intelligence(rule, *chain, strength, damping) if guarded else None
    replay = Replay(capacity=stored, passes=1) if arm in ("replay", "both") else None
    x, label = quantised(few.x[:8]), few.label[:8]
    return bundle_of(chain, rule, x, label, seed=seed, intelligence=intelligence, replay=replay)


def lived(
    arm: str, seed: int, tasks: list[Task], bundle: Bundle, examine: Callable[[Learner], list[float]]
) -> dict[str, Any]:
    """All tasks in turn, each image once and a boundary at the end: fields of a Run."""
    learner = new_learner(bundle)
    untrained, rows = examine(learner), []
    for k, task in enumerate(tasks):
        if arm != "none":
            teach(learner, quantised(task.x), task.label, order_of(seed, k, len(task.x)))
            learner.apply(Boundary(reason="command"))
        if arm == "uniform":
            spread_evenly(learner)
        rows.append(examine(learner))
    return {"arm": arm, "seed": seed, "matrix": rows, "untrained": untrained, **costs(bundle)}


def spread_evenly(learner: Learner) -> None:
    """Give every weight of a tensor its mean importance."""
    for name, code in learner.arrays().items():
        if name.startswith("importance."):
            mean = np.full(code.shape, int(decode_importance(code).mean()), np.int64)
            encode_importance(code, mean, np.zeros(code.shape, np.uint32))


# ------------------------------------------------------------------ float twins


class Consolidated:
    """Synaptic intelligence on every array of a net, as in the paper (c = 0: none).

    most  c Omega never counts for more: descent at a rate is stable up to 1 / rate; the device stops at 15 / (32 rate)
    """

    def __init__(self, net: rules.Net, strength: float, damping: float, most: float = np.inf) -> None:
        self.net, self.strength, self.damping, self.most = net, strength, damping, most
        self.ref = [array.copy() for array in self.arrays]
        self.omega, self.importance = ([np.zeros_like(array) for array in self.arrays] for _ in range(2))

    @property
    def arrays(self) -> list[AnyArray]:
        return [*self.net.weight, *self.net.bias]

    def pulled(self, found: rules.Gradients) -> rules.Gradients:
        """The gradient of the task with that of c Omega (w - ref)**2."""
        if not self.strength:
            return found
        parts = [
            g + 2 * np.minimum(self.strength * omega, self.most) * (w - ref)
            for g, omega, w, ref in zip(
                [*found.weight, *found.bias], self.importance, self.arrays, self.ref, strict=True
            )
        ]
        depth = self.net.depth
        return rules.Gradients(parts[:depth], parts[depth:])

    def credit(self, found: rules.Gradients, before: list[AnyArray]) -> None:
        if self.strength:
            for omega, g, new, old in zip(self.omega, [*found.weight, *found.bias], self.arrays, before, strict=True):
                omega -= g * (new - old)

    def boundary(self) -> None:
        for k, (omega, w, ref) in enumerate(zip(self.omega, self.arrays, self.ref, strict=True)):
            self.importance[k] = np.maximum(0, self.importance[k] + omega / ((w - ref) ** 2 + self.damping))
            self.ref[k] = w.copy()
            omega[...] = 0


def twin(arm: str, seed: int, tasks: list[Task]) -> Run:
    """Descent one by one, in the order of the integers."""
    net = start(seed, HIDDEN)
    guard = Consolidated(net, STRENGTH if arm == "full" else 0.0, DAMPING, most=15 / 32 / RATE)

    def lesson(x: F64, label: I64, in_play: AnyArray) -> None:
        before = guard.arrays
        found = rules.backprop(net, x, label, in_play)
        rules.sgd(net, guard.pulled(found), RATE)
        guard.credit(found, before)

    return float_life(f"{arm} (float)", seed, tasks, net, guard, lesson, epochs=1, batch=1)


def paper(arm: str, seed: int, tasks: list[Task], epochs: int) -> Run:
    """784-256-256-10, Adam at 1e-3, made anew for each task, batches of 64."""
    net = start(seed, 256)
    net.weight, net.bias = ([array.astype(np.float32) for array in part] for part in (net.weight, net.bias))
    guard = Consolidated(net, 1.0 if arm == "full" else 0.0, 1e-3)
    adam: dict[int, rules.Adam] = {}

    def lesson(x: F32, label: I64, in_play: AnyArray) -> None:
        task = int(np.flatnonzero(in_play)[0])
        before = [array.copy() for array in guard.arrays]
        found = rules.backprop(net, x, label, in_play)
        adam.setdefault(task, rules.Adam(1e-3)).step(net, guard.pulled(found))
        guard.credit(found, before)

    whole = [Task(*(part.astype(np.float32) if part.dtype == np.float64 else part for part in task)) for task in tasks]
    return float_life(f"{arm} {PAPERS}", seed, whole, net, guard, lesson, epochs=epochs, batch=64)


Lesson = Callable[[AnyArray, I64, AnyArray], None]


def float_life(
    arm: str, seed: int, tasks: list[Task], net: rules.Net, guard: Consolidated, lesson: Lesson, epochs: int, batch: int
) -> Run:
    """All tasks in turn; a lesson takes rows, their digits and the classes in play."""

    def examine() -> list[float]:
        return [right(rules.forward(net, task.test_x)[-1], k, task.test_label) for k, task in enumerate(tasks)]

    untrained, rows = examine(), []
    for k, task in enumerate(tasks):
        in_play = np.isin(np.arange(10), TASKS[k])
        for epoch in range(epochs):
            order = order_of(seed, k + len(tasks) * epoch, len(task.x))
            for first in range(0, len(order), batch):
                some = order[first : first + batch]
                lesson(task.x[some], task.label[some], in_play)
        guard.boundary()
        rows.append(examine())
    names = ["".join(map(str, pair)) for pair in TASKS]
    return Run(scenario=SCENARIO, arm=arm, seed=seed, matrix=rows, untrained=untrained, tasks=names)


# ------------------------------------------------------------------ the page

TEXT = """## Split MNIST

By `make bench-split-mnist`, scenario 2: five tasks of two digits; the first {lessons} images of each pair to learn
from, once, one by one, {tests} to test on; 784-{hidden}-{hidden}-10, backpropagation at {rate:g}, c = {strength:g},
xi = {damping:g}; seeds {seeds}. Percent; ± is the standard deviation over seeds. Energy and memory: {board}.

{table}

`none` is the untrained net, whose last layer is zero. `plain` learns without consolidation, `full` with synaptic
intelligence. Controls: `uniform` has the same importance spread evenly over each tensor, `replay` keeps 100 images and
repeats one a lesson, `both` does so with synaptic intelligence. A task is never named to the device: the error is
restricted to the classes of the last {recent} labels, the float twin's to the task's own two. Integers less their
float twin, ACC, paired by seed, in points: {paired}. Against `plain`, in integers: {gains}.
{paper}
{matrices}
"""

PAPER = """
The paper's setting ({epochs} epochs of all {all} images, 784-256-256-10, batches of 64, Adam at 1e-3 made anew for each
task, c = 1, xi = 1e-3) is a float twin only, over {count} seed(s). Synaptic intelligence is worth {worth} points
there. One by one, at a rate that never makes a task the net's own, tasks conflict little; stored images mend that.
"""


def page(runs: list[Run], args: argparse.Namespace, lessons: int, tests: int) -> str:
    worth = gap(runs, f"full {PAPERS}", f"plain {PAPERS}") if args.paper else ""
    note = PAPER.format(epochs=args.epochs, all="60,000", count=args.paper, worth=worth) if args.paper else ""
    arms = {run.arm for run in runs}
    return TEXT.format(
        lessons=lessons, tests=tests, hidden=HIDDEN, rate=RATE, strength=STRENGTH, damping=DAMPING, recent=RECENT,
        seeds=", ".join(map(str, range(1, args.seeds + 1))), board=BOARD, table=table(runs), paper=note,
        paired="; ".join(f"{arm} {gap(runs, arm, f'{arm} (float)')}" for arm in ("plain", "full") if arm in arms),
        gains="; ".join(f"{arm} {gap(runs, arm, 'plain')}" for arm in ARMS[2:] if arm in arms),
        matrices="\n".join(matrix(runs, arm) for arm in ("plain", "full") if arm in arms),
    )  # fmt: skip


def all_runs(args: argparse.Namespace, lessons: int, tests: int) -> Iterator[Run]:
    tasks = mnist(lessons, tests)
    for seed in range(1, args.seeds + 1):
        for arm in args.arms:
            yield device(arm, seed, tasks)
        for arm in ("plain", "full"):
            yield twin(arm, seed, tasks)
    whole = mnist(60_000, 10_000) if args.paper else []
    for seed in range(1, args.paper + 1):
        for arm in ("plain", "full"):
            yield paper(arm, seed, whole, args.epochs)


def main() -> int:
    parser = command(__doc__, short="one seed, 200 images a task: half a minute", seeds=3)
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS, help="of the integers")
    parser.add_argument("--paper", type=int, default=0, help="seeds of the float twin at the paper's setting (minutes)")
    parser.add_argument("--epochs", type=int, default=10, help="of the paper's setting")
    args = parser.parse_args()
    lessons, tests = LESSONS, TESTS
    if args.short:
        lessons, tests, args.seeds, args.arms = 200, 200, 1, ("none", "plain", "full")
    runs: list[Run] = []
    for run in all_runs(args, lessons, tests):
        print(f"seed {run.seed}: {run.arm} {np.mean(run.matrix[-1]):.3f}", file=sys.stderr, flush=True)
        runs.append(run)
        save(args.output, [run for mine in by_arm(runs).values() for run in mine])
    runs = load(args.output, SCENARIO)
    publish(args, runs, page(runs, args, lessons, tests))
    return 0


if __name__ == "__main__":
    sys.exit(main())
