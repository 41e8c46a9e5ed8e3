"""Permuted MNIST as Zenke, Poole and Ganguli (2017) ran it: the float twin of synaptic intelligence at full size.

    python benchmarks/learning/permuted_mnist_paper.py --markdown docs/results.md         (make bench-permuted-paper)

Ten tasks, 784-2000-2000-10, Adam at 1e-3 that is never made anew, batches of 256, 20 epochs of 60,000 images a task,
xi = 0.1, in float32. An hour or two an arm on one core; a run that is stopped goes on after its last whole task.
Needs torch (the `train` extra).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scenario import Run, matrix, save, section, table
from torch.nn import functional

from exporters.runs import by_arm

SCENARIO = "permuted_mnist_paper"
SIZES = (784, 2000, 2000, 10)
BATCH, RATE, DAMPING = 256, 1e-3, 0.1
STATE = ("weight", "first", "second", "omega", "importance", "reference")

Tensors = list[torch.Tensor]


def mnist() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    with np.load(Path(os.environ["EDGERUN_DATA"]) / "mnist.npz") as data:
        pixels = (torch.from_numpy(data[name].reshape(-1, 784)).float() / 255 for name in ("x_train", "x_test"))
        digits = (torch.from_numpy(data[name].astype(np.int64)) for name in ("y_train", "y_test"))
        x, test_x = pixels
        y, test_y = digits
    return x, y, test_x, test_y


class Life:
    """A net (weights and biases in turn), Adam and synaptic intelligence; `save` and `resume` keep all of them.

    Each step: g is the gradient of the task; Adam takes g + 2 c Omega (w - reference); omega -= g * what it moved.
    """

    def __init__(self, seed: int, strength: float) -> None:
        random = torch.Generator().manual_seed(seed)
        self.strength, self.steps = strength, 0
        self.weight: Tensors = []
        for rows, columns in zip(SIZES, SIZES[1:], strict=False):
            most = (6 / (rows + columns)) ** 0.5
            self.weight += [(torch.rand(rows, columns, generator=random) * 2 - 1) * most, torch.zeros(columns)]
        self.first, self.second, self.omega, self.importance = (
            [torch.zeros_like(w) for w in self.weight] for _ in range(4)
        )
        self.reference = [w.clone() for w in self.weight]

    def forward(self, x: torch.Tensor) -> Tensors:
        outputs = [x]
        for k in range(0, len(self.weight), 2):
            y = torch.addmm(self.weight[k + 1], outputs[-1], self.weight[k])
            outputs.append(y.relu_() if k + 2 < len(self.weight) else y)
        return outputs

    def gradients(self, x: torch.Tensor, y: torch.Tensor) -> Tensors:
        """Of the mean cross-entropy."""
        outputs = self.forward(x)
        error = (functional.softmax(outputs[-1], 1) - functional.one_hot(y, SIZES[-1])) / len(x)
        found: Tensors = []
        for k in reversed(range(0, len(self.weight), 2)):
            below = outputs[k // 2]
            found = [below.T @ error, error.sum(0), *found]
            if k:
                error = (error @ self.weight[k].T) * (below > 0)
        return found

    def learn(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.steps += 1
        for k, g in enumerate(self.gradients(x, y)):
            w, total = self.weight[k], g
            before = w.clone()
            if self.strength:
                total = torch.addcmul(g, self.importance[k], w - self.reference[k], value=2 * self.strength)
            adam(w, total, self.first[k], self.second[k], self.steps)
            if self.strength:
                self.omega[k].addcmul_(g, w - before, value=-1)

    def boundary(self) -> None:
        for k, w in enumerate(self.weight):
            moved = (w - self.reference[k]) ** 2
            self.importance[k].add_(self.omega[k] / (moved + DAMPING)).clamp_(min=0)
            self.reference[k].copy_(w)
            self.omega[k].zero_()

    def right(self, x: torch.Tensor, y: torch.Tensor) -> float:
        return float((self.forward(x)[-1].argmax(1) == y).double().mean())

    def save(self, path: Path, rows: list[list[float]]) -> None:
        arrays = {f"{name}.{k}": part.numpy() for name in STATE for k, part in enumerate(getattr(self, name))}
        part = path.with_suffix(".part.npz")
        np.savez(part, steps=self.steps, rows=np.array(rows), **arrays)
        part.replace(path)

    def resume(self, path: Path) -> list[list[float]]:
        """The rows of the matrix that were done."""
        with np.load(path) as data:
            self.steps = int(data["steps"])
            for name in STATE:
                for k, part in enumerate(getattr(self, name)):
                    part.copy_(torch.from_numpy(data[f"{name}.{k}"]))
            rows: list[list[float]] = data["rows"].tolist()
        return rows


def adam(w: torch.Tensor, g: torch.Tensor, first: torch.Tensor, second: torch.Tensor, steps: int) -> None:
    """In place; betas 0.9 and 0.999, epsilon 1e-8 (Kingma and Ba 2015)."""
    first.lerp_(g, 0.1)
    second.mul_(0.999).addcmul_(g, g, value=0.001)
    unbiased = (1 - 0.999**steps) ** 0.5
    step = (second.sqrt() / unbiased).add_(1e-8)
    w.addcdiv_(first, step, value=-RATE / (1 - 0.9**steps))


def run(strength: float, seed: int, tasks: int, epochs: int, folder: Path) -> Run:
    x, y, test_x, test_y = mnist()
    orders = [torch.arange(784)] + [
        torch.randperm(784, generator=torch.Generator().manual_seed(1000 + k)) for k in range(1, tasks)
    ]
    arm = f"c = {strength:g} (float)"
    life, state = Life(seed, strength), folder / f"{SCENARIO}-{strength:g}-{seed}-{epochs}.npz"

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
            print(f"{arm}, seed {seed}: task {k + 1} epoch {epoch + 1}, {life.right(test_x[:, orders[k]], test_y):.4f}, "
                  f"{time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
        life.boundary()
        rows.append(examine())
        life.save(state, rows)
        print(f"{arm}, seed {seed}: after task {k + 1}, mean {np.mean(rows[-1][: k + 1]):.4f}", file=sys.stderr)
    return Run(scenario=SCENARIO, arm=arm, seed=seed, matrix=rows, untrained=untrained)


TEXT = """## Permuted MNIST at the paper's setting

By `make bench-permuted-paper`: the float twin of synaptic intelligence. {tasks} tasks, 784-2000-2000-10, Adam at 1e-3
that is never made anew, batches of 256, {epochs} epochs of 60,000 images a task, xi = 0.1, float32, seed {seeds};
10,000 images to test on. Percent. The authors' stored result at c = 0.1 is 96.94, at c = 0 57.41.

{table}

Accuracy, mean over the tasks so far, after each task:

{course}

{matrices}
"""


def course(runs: list[Run]) -> str:
    count = len(runs[0].matrix)
    lines = ["| arm | " + " | ".join(str(k + 1) for k in range(count)) + " |", "|---" * (count + 1) + "|"]
    for run_ in runs:
        means = [100 * float(np.mean(row[: k + 1])) for k, row in enumerate(run_.matrix)]
        lines.append(f"| {run_.arm} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.1, 0.0], help="c, an arm each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20, help="of a task")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("build/learning"), help="folder of states and runs")
    parser.add_argument("--markdown", type=Path, help="rewrite this page's section")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    torch.set_flush_denormal(True)
    args.output.mkdir(parents=True, exist_ok=True)
    runs = [run(strength, args.seed, args.tasks, args.epochs, args.output) for strength in args.strengths]
    save(args.output, runs)
    text = TEXT.format(
        tasks=args.tasks, epochs=args.epochs, seeds=args.seed, table=table(runs), course=course(runs),
        matrices="\n".join(matrix(runs, arm) for arm in by_arm(runs)),
    )  # fmt: skip
    print(text)
    if args.markdown:
        section(args.markdown, SCENARIO, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
