"""Sparse MNIST nets 784-300-100-10 whose masks were made without a label: neural tangent transfer beside a random mask
and the largest weights of the same random start, all trained alike with labels afterwards.

    python benchmarks/export/ntt.py [--seeds 1 2 3] [--iterations 18750] [--epochs 50] [-o FILE.json]
                                    [--markdown docs/compression-results.md]

The paper's numbers throughout: inputs standardised, 20 epochs of transfer, then Adam at 1e-3 in batches of 64 for 50
epochs (ours falls as a cosine and sees all 60,000 images). A random mask so sparse often leaves an output without a
single weight, which costs a whole class: it is drawn again until every output has one, so that masks are compared and
not that accident. Needs EDGERUN_DATA and the extra train; about fifteen minutes a seed on one thread; FILE.json grows
seed by seed, and seeds in it are not run again: where all are there, only the page is written.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import data
import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1]))

from tables import Table, spread, write_section

from edgerun.packing import sparse_bytes
from exporters.data import Samples
from exporters.float_net import FloatNet, forward
from exporters.nodes.grid import grid_steps, integers
from exporters.prune import by_chance, density_of, magnitude
from exporters.sensitivity import bit_layers
from exporters.training import ntt
from exporters.training.supervised import train

SIZES: Final = (784, 300, 100, 10)
RATE: Final = 1e-3
BATCH: Final = 64


def pictures() -> tuple[Samples, Samples]:
    """All of MNIST, (learn, test), its pixels standardised by the mean and deviation of those to learn from."""
    learn, test = data.pictures("mnist.npz", 60_000, 10_000, data.flat)
    mean, deviation = learn.x.mean(), learn.x.std()
    return Samples((learn.x - mean) / deviation, learn.y), Samples((test.x - mean) / deviation, test.y)


def accuracy(net: FloatNet, test: Samples) -> float:
    answers = forward(net, net.moments(test.x)).readings[net.layers[-1].name]
    return float((answers.argmax(axis=1) == test.y).mean())


def packed_bytes(net: FloatNet) -> int:
    """Of all weights, at 8 bits, as a bundle stores them."""
    return sum(
        sparse_bytes(integers(weight, grid_steps(weight, 8), 8).astype(np.int8))
        for parts in bit_layers(net).values()
        for weight in parts.values()
    )


def reached_by_chance(net: FloatNet, density: float, seed: int) -> FloatNet:
    """A random mask that leaves no output without a weight."""
    draws = (by_chance(net, density, 1000 * seed + k) for k in itertools.count())
    return next(sparse for sparse in draws if sparse.layers[-1].weight.any(axis=1).all())


def one_seed(seed: int, args: argparse.Namespace, learn: Samples, test: Samples) -> dict[str, Any]:
    whole = ntt.fresh(SIZES, seed)
    how = ntt.Transfer(iterations=args.iterations)
    makers = {
        "ntt": lambda: ntt.transfer(whole, learn.x, args.density, how, seed),
        "random": lambda: reached_by_chance(whole, args.density, seed),
        "magnitude": lambda: magnitude(whole, args.density),
    }
    found: dict[str, Any] = {"seed": seed}
    for name, make in makers.items():
        began = time.perf_counter()
        sparse = make()
        made = time.perf_counter() - began
        trained = train(sparse, learn, epochs=args.epochs, rate=RATE, batch=BATCH, seed=seed)
        found[name] = {
            "accuracy": accuracy(trained, test),
            "density": density_of(trained),
            "packed_bytes": packed_bytes(trained),
            "seconds_of_mask": round(made, 1),
        }
        print(f"seed {seed} {name:10} {found[name]}", flush=True)
    return found


HEADS: Final = ("mask", "accuracy", "each seed", "bytes of weights")
MASKS: Final = {
    "ntt": "neural tangent transfer, no label",
    "random": "random, every output reached",
    "magnitude": "largest of the random start",
}

ABOUT: Final = """\
784-300-100-10 with {density:.0%} of its weights ({weights:,}), masks made before any label is seen, all trained alike
with labels afterwards ({epochs} epochs); accuracy in percent on 10,000 test samples, mean ± standard deviation over
the seeds. Bytes are those of all weights at 8 bits in a bundle; without a mask they take {whole:,}."""


def section(found: dict[str, Any]) -> str:
    """The part of the page."""
    runs = found["runs"]
    rows = []
    for name, words in MASKS.items():
        scores = [run[name]["accuracy"] for run in runs]
        seeds = ", ".join(f"{run['seed']}: {100 * score:.2f}" for run, score in zip(runs, scores, strict=True))
        size = float(np.mean([run[name]["packed_bytes"] for run in runs]))
        rows.append((words, spread(scores), seeds, f"{size:,.0f}"))
    whole = sum(n * m for n, m in itertools.pairwise(SIZES))
    about = ABOUT.format(whole=whole, weights=round(found["density"] * whole), **found)
    return Table("Sparse masks without labels on MNIST", HEADS, rows).markdown(about)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--density", type=float, default=0.03)
    parser.add_argument("--iterations", type=int, default=ntt.Transfer().iterations)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--markdown", type=Path, help="write the table into this page")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {"density": args.density, "iterations": args.iterations, "epochs": args.epochs, "runs": []}
    if args.output and args.output.exists():
        found = json.loads(args.output.read_text())
        if any(found[key] != getattr(args, key) for key in ("density", "iterations", "epochs")):
            parser.error(f"{args.output} holds runs with other settings; name another file")
    missing = [seed for seed in args.seeds if seed not in [run["seed"] for run in found["runs"]]]
    if missing:
        learn, test = pictures()
    for seed in missing:
        found["runs"].append(one_seed(seed, args, learn, test))
        if args.output:
            args.output.write_text(json.dumps(found, indent=2) + "\n")
    if args.markdown:
        write_section(args.markdown, "bench-ntt", section(found))


if __name__ == "__main__":
    main()
