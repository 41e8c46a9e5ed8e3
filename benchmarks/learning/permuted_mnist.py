"""Permuted MNIST: the same ten digits, their pixels shuffled anew for each task; one head for all of them.

    python benchmarks/learning/permuted_mnist.py --seeds 3 --markdown docs/results.md     (make bench-permuted-mnist)

Scenario 1 of synaptic intelligence (Zenke, Poole, Ganguli 2017) as a device would meet it: every image once, one by
one, backpropagation without an optimiser's state. Integers beside their float twin, which has the same start, order and
rate. `permuted_mnist_paper.py` is the float twin at the paper's own setting.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
from chains import BOARD, accuracy, float_accuracy, integers, quantised, rules
from scenario import Run, command, data_file, gap, load, matrix, publish, save, table
from split_mnist import Consolidated, Task, lived, order_of, planned, start

from edgerun.learn.learner import Learner
from exporters import learning_dense
from exporters.runs import by_arm

SCENARIO = "permuted_mnist"
REACHES, TOPS = (3.0, 3.0, 8.0), (0.5, 0.5, 0.5)
ARMS = ("none", "plain", "full", "uniform", "replay", "both")
FLOATS = ("plain", "full")


class Size(NamedTuple):
    """Of an experiment."""

    tasks: int = 10
    hidden: int = 400
    lessons: int = 3000  # images of a task
    tests: int = 2000
    rate: float = 0.02
    strength: float = 5e-4  # c
    damping: float = 1e-3  # xi
    stored: int = 100  # images that replay keeps


SHORT = Size(tasks=2, hidden=50, lessons=150, tests=200)


def mnist(size: Size) -> Iterator[Task]:
    """The first images of the file, unpermuted in the first task; others to learn from in each, as far as it goes."""
    with np.load(data_file("mnist.npz")) as data:
        x, y = data["x_train"].reshape(-1, 784), data["y_train"].astype(np.int64)
        test_x = data["x_test"][: size.tests].reshape(-1, 784) / np.float32(255)
        test_y = data["y_test"][: size.tests].astype(np.int64)
    for k in range(size.tasks):
        order = np.random.default_rng([7, k]).permutation(784) if k else np.arange(784)
        rows = np.arange(k * size.lessons, (k + 1) * size.lessons) % len(x)
        yield Task(x[rows][:, order] / np.float32(255), y[rows], test_x[:, order], test_y)


def device(arm: str, seed: int, tasks: list[Task], size: Size) -> Run:
    layers = integers(start(seed, size.hidden), REACHES, TOPS)
    rule = learning_dense.backprop(*layers, size.rate)
    bundle = planned(arm, layers, rule, tasks[0], seed, size.strength, size.damping, size.stored)

    def examine(learner: Learner) -> list[float]:
        return [accuracy(learner, quantised(task.test_x), task.test_label) for task in tasks]

    return Run(scenario=SCENARIO, **lived(arm, seed, tasks, bundle, examine))


def twin(arm: str, seed: int, tasks: list[Task], size: Size) -> Run:
    net = start(seed, size.hidden)
    net.weight, net.bias = ([array.astype(np.float32) for array in part] for part in (net.weight, net.bias))
    guard = Consolidated(net, size.strength if arm == "full" else 0.0, size.damping, most=15 / 32 / size.rate)

    def examine() -> list[float]:
        return [float_accuracy(net, task.test_x, task.test_label) for task in tasks]

    untrained, rows = examine(), []
    for k, task in enumerate(tasks):
        for i in order_of(seed, k, len(task.x)):
            before = guard.arrays
            found = rules.backprop(net, task.x[i : i + 1], task.label[i : i + 1])
            rules.sgd(net, guard.pulled(found), size.rate)
            guard.credit(found, before)
        guard.boundary()
        rows.append(examine())
    return Run(scenario=SCENARIO, arm=f"{arm} (float)", seed=seed, matrix=rows, untrained=untrained)


TEXT = """## Permuted MNIST, learned one by one

By `make bench-permuted-mnist`, scenario 1 as a device meets it: {size.tasks} tasks, {size.lessons} images each, learned
from once, one by one, {size.tests} to test on; 784-{size.hidden}-{size.hidden}-10 from random weights, backpropagation
at {size.rate:g}, c = {size.strength:g}, xi = {size.damping:g}; seeds {seeds}. Percent; ± is the standard deviation over
seeds. Energy and memory: {board}.

{table}

Integers less their float twin, ACC, paired by seed, in points: {paired}. Against `plain`, in integers: {gains}.

`full` has synaptic intelligence, `uniform` the same importance spread evenly over each tensor; `replay` keeps
{size.stored} images and repeats one with each lesson, `both` does so with synaptic intelligence; these three ran on
seed 1 alone. Each tensor has its own strength, a power of two, and its own damping: the paper's c and xi by its scales.
What did not work: strengths held to 30 at the most, where c asks for 32, 31 and 29; pulled so much harder, integers
ended 1.6 ± 0.2 points under their float twin. One strength for all tensors, 31, and one damping, their geometric means,
did as well (0.0 ± 0.8 from the twin). Lives are chaotic: one count of one damping moved seed 1 by 0.4.

{matrices}
"""


def page(runs: list[Run], size: Size) -> str:
    arms = by_arm(runs)
    seeds = sorted({run.seed for run in runs})
    guarded = [arm for arm in ARMS if arm in arms and arm not in ("none", "plain")]
    return TEXT.format(
        size=size, seeds=", ".join(map(str, seeds)), board=BOARD, table=table(runs),
        paired="; ".join(f"{arm} {gap(runs, arm, f'{arm} (float)')}" for arm in FLOATS if f"{arm} (float)" in arms),
        gains="; ".join(f"{arm} {gap(runs, arm, 'plain')}" for arm in guarded),
        matrices="\n".join(matrix(runs, arm) for arm in ("plain", "full") if arm in arms),
    )  # fmt: skip


def main() -> int:
    parser = command(
        __doc__,
        short="one seed, two tasks, 150 images each: seconds",
        seeds=3,
        counts="how many seeds, from 1 on; controls run on the first",
    )
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS, help="of the integers")
    for name, default in Size()._asdict().items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    args = parser.parse_args()
    size = SHORT if args.short else Size(*(getattr(args, name) for name in Size._fields))
    tasks, runs = list(mnist(size)), list[Run]()
    for seed in range(1, (1 if args.short else args.seeds) + 1):
        for run in chain(
            (device(arm, seed, tasks, size) for arm in args.arms if seed == 1 or arm in FLOATS),
            (twin(arm, seed, tasks, size) for arm in FLOATS),
        ):
            runs.append(run)
            print(f"seed {seed}: {run.arm} {np.mean(run.matrix[-1]):.3f}", file=sys.stderr, flush=True)
            save(args.output, [run for mine in by_arm(runs).values() for run in mine])
    runs = load(args.output, SCENARIO)
    publish(args, runs, page(runs, size))
    return 0


if __name__ == "__main__":
    sys.exit(main())
