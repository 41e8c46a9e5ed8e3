"""Synapses that move beside synapses that stay, at the same number: digits learned from sparse random weights.

    python benchmarks/learning/rewiring.py --seeds 3 --markdown docs/results.md          (make bench-rewiring)

scikit-learn's digits, 1,437 to learn from and 360 to test on, one by one over two epochs; 64-48-10 by backpropagation
from random weights (He, as much larger as there are fewer). The mask is drawn at random, the same for both arms of a
seed; "moving" takes a share of each layer's synapses to where the gradient asks for them after every so many updates.
--short takes one seed, one density and part of the samples; --output FOLDER keeps every run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec
import numpy as np
from chains import accuracy, bundle_of, integers, new_learner, quantised, rules, teach
from dense_rules import Data, digits, orders
from scenario import Run, command, publish

from edgerun.price import memory_plan
from edgerun.spec import Rewiring
from exporters import learning_dense
from exporters.runs import by_arm

SCENARIO: Final = "rewiring"
SIZES, REACHES, TOPS = (64, 48, 10), (4.0, 64.0), (2.0, 2.0)
RATE, EPOCHS = 0.015, 2
DENSITIES: Final = (0.1, 0.2, 0.3)
FIXED, MOVING = Rewiring(share=1), Rewiring(share=3277, every=100)
TEXT = """## Synapses that move, {seeds} seeds

By `make bench-rewiring`: digits learned one by one over two epochs by backpropagation, 64-48-10 from random weights, of
which a random share is there at all ([moving synapses](arithmetic.md#moving-synapses)). Both arms of a seed have the
same mask at first and the same number of synapses to the end. In one it stays, in the other {share:.0%} of each layer's
go and as many grow after every {every} updates. Test accuracy in percent, mean ± standard deviation; differences seed
by seed.

{accuracy}

With every synapse: {dense}. Whatever the mask, the learner takes {bytes:,} bytes, {more:,} of them for masks and sums
of gradients. Rate and order are those of the net with every synapse; neither was chosen for sparse ones.
"""


def start(seed: int, density: float) -> rules.Net:
    """A net of which so many weights are there, the rest zero."""
    net, rng = rules.Net.he(SIZES, np.random.default_rng([seed, 1])), np.random.default_rng([seed, 3])
    for weight in net.weight:
        there = rng.permutation(weight.size) < round(density * weight.size)
        weight *= there.reshape(weight.shape) / np.sqrt(density)
    return net


def one(seed: int, density: float, rewiring: Rewiring, data: Data, test: Data, epochs: int) -> Run:
    chain = integers(start(seed, density), REACHES, TOPS)
    x, rule = quantised(data.x), learning_dense.backprop(*chain, RATE)
    bundle = bundle_of(chain, rule, x[:8], data.label[:8], seed=seed)
    plan = msgspec.structs.replace(bundle.manifest.learning, rewiring=rewiring)
    learner = new_learner(replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, learning=plan)))
    before = synapses(learner.arrays())
    for order in orders(seed, len(x), epochs):
        teach(learner, x, data.label, order)
    if synapses(learner.arrays()) != before:
        raise ValueError(f"{before} synapses became {synapses(learner.arrays())}")
    arm = "moving" if rewiring == MOVING else "fixed"
    parts = memory_plan(replace(bundle, manifest=learner.manifest)).slots
    own = sum(each.bytes for name, each in parts.items() if name.startswith(("mask.", "growth.")))
    figures = {
        "accuracy": accuracy(learner, quantised(test.x), test.label),
        "synapses": before,
        "bytes": memory_plan(replace(bundle, manifest=learner.manifest)).total_bytes,
        "own bytes": own,
    }
    return Run(scenario=SCENARIO, arm=f"{arm} at {density:g}", seed=seed, figures=figures)


def synapses(arrays: dict[str, np.ndarray]) -> int:
    return sum(int(np.unpackbits(mask).sum()) for name, mask in arrays.items() if name.startswith("mask."))


def page(runs: Sequence[Run], seeds: int) -> str:
    found = {arm: np.array([run.figures["accuracy"] for run in mine]) * 100 for arm, mine in by_arm(runs).items()}
    densities = [arm.removeprefix("moving at ") for arm in found if arm.startswith("moving")]
    lines = ["| density | synapses | fixed | moving | difference |", "|---:|---:|---:|---:|---:|"]
    for density in densities:
        fixed, moving = found[f"fixed at {density}"], found[f"moving at {density}"]
        count = next(run.figures["synapses"] for run in runs if run.arm == f"fixed at {density}")
        cells = " | ".join(spread(values) for values in (fixed, moving, moving - fixed))
        lines.append(f"| {float(density):.0%} | {count:,.0f} | {cells} |")
    held = runs[0].figures
    return TEXT.format(
        seeds=seeds, share=MOVING.share / 32768, every=MOVING.every, accuracy="\n".join(lines),
        dense=spread(found["fixed at 1"]), bytes=int(held["bytes"]), more=int(held["own bytes"]),
    )  # fmt: skip


def spread(values: np.ndarray) -> str:
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{values.mean():.1f} ± {deviation:.1f}"


def main() -> int:
    args = command(__doc__, short="one seed, one density, a third of the samples, one epoch", seeds=3).parse_args()
    data, test = digits()
    seeds, densities, epochs = (1, DENSITIES[1:2], 1) if args.short else (args.seeds, DENSITIES, EPOCHS)
    data = data.take(slice(0, len(data.x) // 3)) if args.short else data
    runs = []
    for seed in range(1, seeds + 1):
        for density in densities:
            runs += [one(seed, density, rewiring, data, test, epochs) for rewiring in (FIXED, MOVING)]
        runs.append(one(seed, 1.0, FIXED, data, test, epochs))
        print(f"seed {seed} of {seeds} done", file=sys.stderr)
    publish(args, runs, page(runs, seeds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
