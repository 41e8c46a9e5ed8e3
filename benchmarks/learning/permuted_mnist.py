"""Permuted MNIST: the same ten digits, their pixels shuffled anew for each task; one head for all of them.

    python benchmarks/learning/permuted_mnist.py --seeds 2 --markdown docs/results.md     (make bench-permuted-mnist)
    python benchmarks/learning/permuted_mnist.py --tasks 10 --hidden 400 --lessons 60000  the long form: a day

Scenario 1 of synaptic intelligence (Zenke, Poole, Ganguli 2017), by backpropagation one by one: integers beside their
float twin, which has the same start, order and rate. The default is a reduced form: few tasks, few images, a small net.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from chains import BOARD, accuracy, bundle_of, costs, float_accuracy, integers, new_learner, quantised, rules, teach
from scenario import Run, matrix, save, section, table
from split_mnist import Consolidated, Task, order_of, spread_evenly, start

from edgerun.learn.records import Boundary
from exporters import learning_dense
from exporters.runs import by_arm

SCENARIO = "permuted_mnist"
REACHES, TOPS = (3.0, 3.0, 8.0), (0.5, 0.5, 0.5)
RATE, STRENGTH, DAMPING = 0.02, 0.005, 0.01
ARMS = ("none", "plain", "full", "uniform")


def mnist(tasks: int, lessons: int, tests: int) -> Iterator[Task]:
    """The first images of the file, unpermuted in the first task; others to learn from in each, as far as it goes."""
    with np.load(Path(os.environ["EDGERUN_DATA"]) / "mnist.npz") as data:
        x, y = data["x_train"].reshape(-1, 784), data["y_train"].astype(np.int64)
        test_x, test_y = data["x_test"][:tests].reshape(-1, 784) / 255, data["y_test"][:tests].astype(np.int64)
    for k in range(tasks):
        order = np.random.default_rng([7, k]).permutation(784) if k else np.arange(784)
        rows = np.arange(k * lessons, (k + 1) * lessons) % len(x)
        yield Task(x[rows][:, order] / 255, y[rows], test_x[:, order], test_y)


def device(arm: str, seed: int, tasks: list[Task], hidden: int) -> Run:
    chain = integers(start(seed, hidden), REACHES, TOPS)
    rule = learning_dense.backprop(*chain, RATE)
    guarded = arm in ("full", "uniform")
    intelligence = learning_dense.intelligence(rule, *chain, STRENGTH, DAMPING) if guarded else None
    few = quantised(tasks[0].x[:8]), tasks[0].label[:8]
    bundle = bundle_of(chain, rule, *few, seed=seed, intelligence=intelligence)
    learner = new_learner(bundle)

    def examine() -> list[float]:
        return [accuracy(learner, quantised(task.test_x), task.test_label) for task in tasks]

    untrained, rows = examine(), []
    for k, task in enumerate(tasks):
        if arm != "none":
            teach(learner, quantised(task.x), task.label, order_of(seed, k, len(task.x)))
            learner.apply(Boundary(reason="command"))
        if arm == "uniform":
            spread_evenly(learner)
        rows.append(examine())
    return Run(scenario=SCENARIO, arm=arm, seed=seed, matrix=rows, untrained=untrained, **costs(bundle))


def twin(arm: str, seed: int, tasks: list[Task], hidden: int, strength: float = STRENGTH) -> Run:
    net = start(seed, hidden)
    guard = Consolidated(net, strength if arm == "full" else 0.0, DAMPING, most=1 / (32 * RATE))

    def examine() -> list[float]:
        return [float_accuracy(net, task.test_x, task.test_label) for task in tasks]

    untrained, rows = examine(), []
    for k, task in enumerate(tasks):
        for i in order_of(seed, k, len(task.x)):
            before = guard.arrays
            found = rules.backprop(net, task.x[i : i + 1], task.label[i : i + 1])
            rules.sgd(net, guard.pulled(found), RATE)
            guard.credit(found, before)
        guard.boundary()
        rows.append(examine())
    return Run(scenario=SCENARIO, arm=f"{arm} (float)", seed=seed, matrix=rows, untrained=untrained)


TEXT = """## Permuted MNIST, reduced

By `make bench-permuted-mnist`, scenario 1 in a reduced form: {tasks} tasks, {lessons} images each, learned from once,
one by one, {tests} to test on; 784-{hidden}-{hidden}-10 from random weights, backpropagation at {rate:g}, c =
{strength:g}, xi = {damping:g}, seeds {seeds}. Percent; ± is the standard deviation over seeds. Energy and memory:
{board}.

{table}

`uniform` has the same importance spread evenly over each tensor. The paper's scale (10 tasks, 60,000 images, 2,000
units) was not run: one by one it is a day for the integers.

{matrices}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="how many seeds, from 1 on")
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=100)
    parser.add_argument("--lessons", type=int, default=600, help="images of a task")
    parser.add_argument("--tests", type=int, default=1000)
    parser.add_argument("--short", action="store_true", help="one seed, two tasks, 200 images each: seconds")
    parser.add_argument("--output", type=Path, default=Path("build/learning"), help="folder of the runs' file")
    parser.add_argument("--markdown", type=Path, help="rewrite this page's section")
    args = parser.parse_args()
    if args.short:
        args.seeds, args.tasks, args.lessons, args.tests = 1, 2, 200, 200
    tasks, runs = list(mnist(args.tasks, args.lessons, args.tests)), list[Run]()
    for seed in range(1, args.seeds + 1):
        for arm in ARMS:
            runs.append(device(arm, seed, tasks, args.hidden))
            print(f"seed {seed}: {arm} {np.mean(runs[-1].matrix[-1]):.3f}", file=sys.stderr, flush=True)
        runs += [twin(arm, seed, tasks, args.hidden) for arm in ("plain", "full")]
    runs = [run for mine in by_arm(runs).values() for run in mine]
    save(args.output, runs)
    text = TEXT.format(
        tasks=args.tasks, lessons=args.lessons, tests=args.tests, hidden=args.hidden, rate=RATE, strength=STRENGTH,
        damping=DAMPING, seeds=", ".join(map(str, range(1, args.seeds + 1))), board=BOARD, table=table(runs),
        matrices="\n".join(matrix(runs, arm) for arm in ("plain", "full")),
    )  # fmt: skip
    print(text)
    if args.markdown:
        section(args.markdown, SCENARIO, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
