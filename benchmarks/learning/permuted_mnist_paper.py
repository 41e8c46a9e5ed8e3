"""Permuted MNIST as Zenke, Poole and Ganguli (2017) ran it: the float twin of synaptic intelligence at full size.

    python benchmarks/learning/permuted_mnist_paper.py --markdown docs/results.md         (make bench-permuted-paper)

Ten tasks, 784-2000-2000-10, Adam at 1e-3 that is never made anew, batches of 256, 20 epochs of 60,000 images a task,
xi = 0.1. All is float32; factors of matrix products are rounded to bfloat16 unless told otherwise, which is three times
as fast: half an hour an arm on one core. A run that is stopped goes on after its last whole task. Needs torch (the
`train` extra) and a C++ compiler, which torch makes one kernel of a step with.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scenario import Run, data_file, matrix, publish, table
from torch.nn import functional

from exporters.runs import by_arm

SCENARIO = "permuted_mnist_paper"
SIZES = (784, 2000, 2000, 10)
BATCH, RATE, DAMPING = 256, 1e-3, 0.1
STATE = ("weight", "first", "second", "omega", "importance", "reference")
SHAPES = [shape for rows, columns in pairwise(SIZES) for shape in ((rows, columns), (columns,))]
PRECISION = {"bfloat16": torch.bfloat16, "float32": torch.float32}

Tensors = list[torch.Tensor]


def mnist() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    with np.load(data_file("mnist.npz")) as data:
        pixels = (torch.from_numpy(data[name].reshape(-1, 784)).float() / 255 for name in ("x_train", "x_test"))
        digits = (torch.from_numpy(data[name].astype(np.int64)) for name in ("y_train", "y_test"))
        x, test_x = pixels
        y, test_y = digits
    return x, y, test_x, test_y


def views(flat: torch.Tensor) -> Tensors:
    """A net's weights and biases in turn, in one row of numbers."""
    parts = flat.split([math.prod(shape) for shape in SHAPES])
    return [part.view(shape) for part, shape in zip(parts, SHAPES, strict=True)]


@torch.compile(dynamic=False)
def step(
    weight: torch.Tensor, gradient: torch.Tensor, first: torch.Tensor, second: torch.Tensor, omega: torch.Tensor,
    importance: torch.Tensor, reference: torch.Tensor, pull: torch.Tensor, steps: torch.Tensor,
) -> None:  # fmt: skip
    """One of Adam (Kingma and Ba 2015; betas 0.9 and 0.999, epsilon 1e-8), in place, and what it earns.

    g is the gradient of the task; Adam takes g + 2 c Omega (w - reference); omega -= g * what it moved. pull = 2 c.
    """
    total = gradient + pull * importance * (weight - reference)
    mean, square = first + 0.1 * (total - first), 0.999 * second + 0.001 * total * total
    moved = -RATE / (1 - 0.9**steps) * mean / (torch.sqrt(square / (1 - 0.999**steps)) + 1e-8)
    first.copy_(mean)
    second.copy_(square)
    weight.add_(moved)
    omega.sub_(gradient * moved)


class Life:
    """A net, Adam and synaptic intelligence, each in one row of numbers; `save` and `resume` keep all of them."""

    def __init__(self, seed: int, strength: float, precision: torch.dtype) -> None:
        random = torch.Generator().manual_seed(seed)
        self.pull, self.steps, self.precision = torch.tensor(2 * strength), 0, precision
        self.weight, self.first, self.second, self.omega, self.importance, self.gradient = (
            torch.zeros(sum(map(math.prod, SHAPES))) for _ in range(6)
        )
        for matrix_ in views(self.weight)[::2]:
            most = (6 / sum(matrix_.shape)) ** 0.5
            matrix_.copy_((torch.rand(matrix_.shape, generator=random) * 2 - 1) * most)
        self.reference = self.weight.clone()

    def product(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return (left.to(self.precision) @ right.to(self.precision)).float()

    def forward(self, x: torch.Tensor) -> Tensors:
        outputs, parts = [x], views(self.weight)
        for k in range(0, len(parts), 2):
            y = self.product(outputs[-1], parts[k]).add_(parts[k + 1])
            outputs.append(y.relu_() if k + 2 < len(parts) else y)
        return outputs

    def learn(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """One step on the mean cross-entropy of a batch."""
        outputs, parts, found = self.forward(x), views(self.weight), views(self.gradient)
        error = (functional.softmax(outputs[-1], 1) - functional.one_hot(y, SIZES[-1])) / len(x)
        for k in reversed(range(0, len(parts), 2)):
            below = outputs[k // 2]
            found[k].copy_(self.product(below.T, error))
            found[k + 1].copy_(error.sum(0))
            if k:
                error = self.product(error, parts[k].T) * (below > 0)
        self.steps += 1
        step(
            self.weight, self.gradient, self.first, self.second, self.omega, self.importance, self.reference,
            self.pull, torch.tensor(float(self.steps)),
        )  # fmt: skip

    def boundary(self) -> None:
        moved = (self.weight - self.reference) ** 2
        self.importance.add_(self.omega / (moved + DAMPING)).clamp_(min=0)
        self.reference.copy_(self.weight)
        self.omega.zero_()

    def right(self, x: torch.Tensor, y: torch.Tensor) -> float:
        return float((self.forward(x)[-1].argmax(1) == y).double().mean())

    def save(self, path: Path, rows: list[list[float]]) -> None:
        part = path.with_suffix(".part.npz")
        np.savez(part, steps=self.steps, rows=np.array(rows), **{name: getattr(self, name).numpy() for name in STATE})
        part.replace(path)

    def resume(self, path: Path) -> list[list[float]]:
        """The rows of the matrix that were done."""
        with np.load(path) as data:
            self.steps = int(data["steps"])
            for name in STATE:
                getattr(self, name).copy_(torch.from_numpy(data[name]))
            rows: list[list[float]] = data["rows"].tolist()
        return rows


def run(strength: float, seed: int, tasks: int, epochs: int, precision: str, folder: Path) -> Run:
    x, y, test_x, test_y = mnist()
    orders = [torch.arange(784)] + [
        torch.randperm(784, generator=torch.Generator().manual_seed(1000 + k)) for k in range(1, tasks)
    ]
    arm = f"c = {strength:g} (float)"
    life, state = Life(seed, strength, PRECISION[precision]), folder / f"{SCENARIO}-{strength:g}-{seed}-{epochs}.npz"

    def examine() -> list[float]:
        return [life.right(test_x[:, order], test_y) for order in orders]

    untrained = examine()
    rows = life.resume(state) if state.exists() else []
    for k in range(len(rows), tasks):
        begun, here = time.monotonic(), x[:, orders[k]].contiguous()
        for epoch in range(epochs):
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed * 10_000 + k * 100 + epoch))
            for some in order.split(BATCH):
                life.learn(here[some], y[some])
            seen, spent = life.right(test_x[:, orders[k]], test_y), time.monotonic() - begun
            print(f"{arm}: task {k + 1}, epoch {epoch + 1}: {seen:.4f}, {spent:.0f} s", file=sys.stderr, flush=True)
        life.boundary()
        rows.append(examine())
        life.save(state, rows)
        print(f"{arm}, seed {seed}: after task {k + 1}, mean {np.mean(rows[-1][: k + 1]):.4f}", file=sys.stderr)
    return Run(scenario=SCENARIO, arm=arm, seed=seed, matrix=rows, untrained=untrained)


TEXT = """## Permuted MNIST at the paper's setting

By `make bench-permuted-paper`: the float twin of synaptic intelligence. {args.tasks} tasks, 784-2000-2000-10, Adam at
1e-3 that is never made anew, batches of 256, {args.epochs} epochs of 60,000 images a task, xi = 0.1;
10,000 images to test on. All is float32; factors of matrix products are rounded to {args.precision}. Percent. The
authors' stored result at c = 0.1 is 96.94, at c = 0 57.41.

{table}

Accuracy, mean over the tasks so far, after each task:

{course}

{matrices}
"""


def course(runs: list[Run]) -> str:
    count = len(runs[0].matrix)
    lines = ["| arm, seed | " + " | ".join(str(k + 1) for k in range(count)) + " |", "|---" * (count + 1) + "|"]
    for run_ in runs:
        means = [100 * float(np.mean(row[: k + 1])) for k, row in enumerate(run_.matrix)]
        lines.append(f"| {run_.arm}, {run_.seed} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.1, 0.0], help="c, an arm each")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 1 on; c = 0 runs on the first alone")
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20, help="of a task")
    parser.add_argument("--precision", choices=PRECISION, default="bfloat16", help="of the factors of matrix products")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("build/learning"), help="folder of states and runs")
    parser.add_argument("--markdown", type=Path, help="rewrite this page's section")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    torch.set_flush_denormal(True)
    args.output.mkdir(parents=True, exist_ok=True)
    runs = [
        run(strength, seed, args.tasks, args.epochs, args.precision, args.output)
        for strength in args.strengths
        for seed in range(1, 1 + (args.seeds if strength else 1))
    ]
    matrices = "\n".join(matrix(runs, arm) for arm in by_arm(runs))
    publish(args, runs, TEXT.format(args=args, table=table(runs), course=course(runs), matrices=matrices))
    return 0


if __name__ == "__main__":
    sys.exit(main())
