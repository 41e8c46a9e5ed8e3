"""Nets that have learned to learn new letters, from the background alphabets of Omniglot.

    python benchmarks/learning/omniglot_nets.py [--only NAME ...] [-o FOLDER] [--share 1]

prototypes  a convolutional net whose features lie near those of the same letter (prototypical networks)
spiking     a convolutional spiking net, trained the same way
maml        the same spiking net, trained so that the device's inner step on its last layer, sample by sample, goes far
fomaml      likewise, the inner gradient taken for a constant
maml-8, -4  `maml` trained further with its readout in 8 or 4 bits in both loops, rounded stochastically

Letters turned by quarters are classes of their own. Each net is one file of weights, NAME.npz; --share makes training
that much shorter. Needs EDGERUN_DATA and the extra train; about half an hour on one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from edgerun.arrays import AnyArray
from edgerun.errors import DataError
from exporters.training.episodes import Form, Schedule, classes_of, draw, labels, prototype_loss, quarter_turns, train
from exporters.training.maml import Inner, Quantiser, Task, meta_loss
from exporters.training.spiking import HEAD, SpikingConv

SIDE: Final = 28
SPIKING: Final = SpikingConv(filters=(16, 32, 64, 64), kernels=(5, 3, 3, 3), steps=4)
COUNTING: Final = replace(SPIKING, kappa=1.0)  # prototypes read spike counts
EMBEDDING: Final = Form(ways=60, shots=1, queries=4)
META: Final = Form(ways=20, shots=1, queries=4)
STEP: Final = 3e-4  # of the inner loop, before it is learned
SHARPNESS: Final = 40.0  # of the queries' logits, likewise
LENGTH: Final = {"prototypes": 4000, "spiking": 4000, "maml": 300, "fomaml": 300, "maml-8": 100, "maml-4": 100}


@dataclass(frozen=True)
class Letters:
    """Pictures (n, 28, 28) uint8, 255 = ink, and which letter each is, letter by letter."""

    x: AnyArray
    y: AnyArray

    def tensor(self, rows: AnyArray) -> Any:
        """(rows, 1, 28, 28) in [0, 1]."""
        return torch.from_numpy(self.x[rows][:, None].astype(np.float32) / 255)


def letters(*, evaluation: bool) -> Letters:
    """One official part of Omniglot. Raises DataError where EDGERUN_DATA does not lead to it."""
    path = Path(os.environ.get("EDGERUN_DATA", "")) / "omniglot.npz"
    if not path.is_file():
        raise DataError(f"EDGERUN_DATA: {path} is no file")
    with np.load(path, allow_pickle=False) as archive:
        mine = archive["evaluation"] == evaluation
        order = np.argsort(archive["character"][mine], kind="stable")
        _, y = np.unique(archive["character"][mine][order], return_inverse=True)
        return Letters(archive["images28"][mine][order], y)


class Embedding(nn.Module):
    """Four convolutions with batch norm, halved thrice; 64 filters at 3 x 3 places are the features."""

    def __init__(self, filters: tuple[int, ...] = (16, 32, 64, 64)) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for k, (before, after) in enumerate(zip((1, *filters), filters, strict=False)):
            parts += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after)]
            if k < len(filters) - 1:
                parts += [nn.ReLU(), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*parts, nn.Flatten())
        self.scale = nn.Parameter(torch.tensor(8.0))  # of the distances, while training

    def forward(self, x: Any) -> Any:
        return self.body(x)


def turned(data: Letters) -> Letters:
    """All letters in four orientations, each a letter of its own."""
    return Letters(*quarter_turns(data.x, data.y))


# ------------------------------------------------------------------ training


Tell = Callable[[int, float], None]


def train_prototypes(data: Letters, count: int, seed: int, tell: Tell) -> dict[str, AnyArray]:
    torch.manual_seed(seed)
    net, rng, groups = Embedding(), np.random.default_rng(seed), classes_of(data.y)

    def loss_of(number: int) -> Any:
        rows = np.concatenate(draw(rng, groups, EMBEDDING))
        return prototype_loss(net(data.tensor(rows)), EMBEDDING, net.scale)

    train(list(net.parameters()), loss_of, Schedule(episodes=count, rate=3e-3), tell)
    return {name: value.numpy() for name, value in net.state_dict().items()}


def train_spiking(data: Letters, count: int, seed: int, tell: Tell) -> dict[str, AnyArray]:
    rng, groups = np.random.default_rng(seed), classes_of(data.y)
    values = SPIKING.start(seed)
    scale = torch.tensor(8.0, requires_grad=True)

    def loss_of(number: int) -> Any:
        rows = np.concatenate(draw(rng, groups, EMBEDDING))
        return prototype_loss(COUNTING.features(values, data.tensor(rows)), EMBEDDING, scale)

    train([*values.values(), scale], loss_of, Schedule(episodes=count, rate=5e-3), tell)
    return plain(values)


def head_model(weights: Any, p: Any) -> Any:
    """The readout's logits from its presynaptic traces."""
    return p @ weights[HEAD].T


def device_step(*, first_order: bool = False, quantiser: Quantiser | None = None) -> Inner:
    """The inner loop that a device runs: one lesson after the other, the last layer alone, from rows of zeros."""
    return Inner(moved=(HEAD,), batch=1, first_order=first_order, outer=quantiser, inner=quantiser)


def coarse(bits: int, step: float) -> Quantiser:
    """Weights of so many bits that reach as far as one step can: a power of two over step * the largest trace."""
    largest = step * sum(SPIKING.kappa**t for t in range(SPIKING.steps))
    return Quantiser(bits=bits, top=2.0 ** math.ceil(math.log2(largest)), rounding="stochastic")


def start_head(ways: int) -> Any:
    return torch.zeros(ways, SPIKING.width, requires_grad=True)


def train_maml(
    data: Letters, count: int, seed: int, tell: Tell, inner: Inner, start: dict[str, AnyArray]
) -> dict[str, AnyArray]:
    rng, groups = np.random.default_rng(seed), classes_of(data.y)
    random = torch.Generator().manual_seed(seed)
    values = SPIKING.start(seed)
    values = {name: torch.tensor(start[name], requires_grad=True) for name in values}
    logs = torch.tensor(np.log([start.get("step", STEP), start.get("sharpness", SHARPNESS)]), dtype=torch.float32)
    logs.requires_grad_()
    y, asked = (torch.from_numpy(labels(META.ways, each)) for each in (META.shots, META.queries))
    split = META.ways * META.shots

    def loss_of(number: int) -> Any:
        rows = np.concatenate(draw(rng, groups, META))
        p = SPIKING.features(values, data.tensor(rows))
        order = torch.randperm(split, generator=random)
        task = Task(p[:split][order], y[order], p[split:], asked)
        step, sharpness = logs.exp()
        return meta_loss(head_model, {HEAD: start_head(META.ways)}, {HEAD: step}, [task], inner, random, sharpness)

    train([*values.values(), logs], loss_of, Schedule(episodes=count, rate=5e-3), tell)
    step, sharpness = np.exp(logs.detach().numpy())
    return plain(values) | {"step": step, "sharpness": sharpness}


def plain(values: dict[str, Any]) -> dict[str, AnyArray]:
    return {name: value.detach().numpy() for name, value in values.items()}


def make(name: str, data: Letters, count: int, seed: int, folder: Path, tell: Tell) -> dict[str, AnyArray]:
    """Train one net. Raises DataError for a name that none has."""
    if name == "prototypes":
        return train_prototypes(data, count, seed, tell)
    if name == "spiking":
        return train_spiking(data, count, seed, tell)
    if name in ("maml", "fomaml"):
        return train_maml(data, count, seed, tell, device_step(first_order=name == "fomaml"), read(folder, "spiking"))
    if name in ("maml-8", "maml-4"):
        start = read(folder, "maml")
        inner = device_step(quantiser=coarse(int(name[-1]), float(start["step"])))
        return train_maml(data, count, seed, tell, inner, start)
    raise DataError(f"{name!r} is none of {', '.join(LENGTH)}")


def read(folder: Path, name: str) -> dict[str, AnyArray]:
    """The weights of a trained net. Raises DataError where nobody has trained it."""
    path = folder / f"{name}.npz"
    if not path.is_file():
        raise DataError(f"{path} is no file: train it first (omniglot_nets.py --only {name})")
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(LENGTH), default=tuple(LENGTH))
    parser.add_argument("--share", type=float, default=1.0, help="of the usual length of training")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/omniglot"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    data = turned(letters(evaluation=False))
    for name in args.only:
        began, seen, count = time.perf_counter(), [], max(1, round(LENGTH[name] * args.share))

        def tell(number: int, loss: float, name: str = name, seen: list[float] = seen, began: float = began) -> None:
            seen.append(loss)
            if number % 50 == 49:
                passed = time.perf_counter() - began
                print(f"{name} {number + 1} loss {np.mean(seen[-50:]):.4f} {passed:.0f} s", flush=True)

        weights = make(name, data, count, args.seed, args.output, tell)
        np.savez(args.output / f"{name}.npz", **weights)
        said = {"episodes": count, "seed": args.seed, "seconds": round(time.perf_counter() - began, 1)}
        (args.output / f"{name}.json").write_text(json.dumps(said) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
