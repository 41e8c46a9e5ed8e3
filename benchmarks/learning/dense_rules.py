"""Rules of dense stacks beside backpropagation: IL-prox over its rate, MQ beside SGD and Adam, one-way feedback.

    python benchmarks/learning/dense_rules.py --seeds 3 --markdown docs/results.md        (make bench-dense-rules)

scikit-learn's digits, 1,437 to learn from and 360 to test on, one by one; 64-128-128-10 from random weights (He). The
float twin has the same start, the same order and learns its biases too; in integers biases stay at zero.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from chains import Quantised, accuracy, bundle_of, float_accuracy, integers, new_learner, quantised, rules, teach
from scenario import Run, save, section
from tables import Table, spread

from edgerun.arrays import F64, I64
from edgerun.spec import MeanQuotient, Rule
from exporters import learning_dense
from exporters.runs import by_arm

SCENARIO = "dense_rules"
SIZES = (64, 128, 128, 10)
REACHES, TOPS = (4.0, 8.0, 16.0), (2.0, 1.5, 1.5)
RATES = (0.015, 0.1, 1.0, 10.0, 100.0)
EPOCHS = 3
BATCHED_EPOCHS, BATCH = 30, 64
TRAIN = 1437


class Data(NamedTuple):
    """x (n, 64) from 0 to 1, label (n,)."""

    x: F64
    label: I64

    def take(self, rows: slice) -> Data:
        return Data(self.x[rows], self.label[rows])


def digits() -> tuple[Data, Data]:
    """To learn from and to test on, the same for every seed."""
    from sklearn.datasets import load_digits

    x, label = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    whole = Data(x[order] / 16, label[order].astype(np.int64))
    return whole.take(slice(0, TRAIN)), whole.take(slice(TRAIN, None))


def start(seed: int) -> rules.Net:
    return rules.Net.he(SIZES, np.random.default_rng([seed, 1]))


def orders(seed: int, count: int, epochs: int) -> Iterator[I64]:
    rng = np.random.default_rng([seed, 2])
    for _ in range(epochs):
        yield rng.permutation(count)


def squares(net: rules.Net, x: F64) -> list[float]:
    """|x|**2 of what each layer reads of a usual sample."""
    return [float(np.median((part**2).sum(axis=1))) for part in rules.rates(rules.forward(net, x[:200]))]


# ------------------------------------------------------------------ one by one, floats and integers

Step = Callable[[rules.Net, F64, I64], None]


def float_run(step: Step, seed: int, data: Data, test: Data, epochs: int, batch: int = 1) -> float:
    net = start(seed)
    with np.errstate(all="ignore"):
        for order in orders(seed, len(data.x), epochs):
            for first in range(0, len(order), batch):
                rows = order[first : first + batch]
                step(net, data.x[rows], data.label[rows])
    return float_accuracy(net, test.x, test.label)


def integer_run(
    rule_of: Callable[[Quantised], Rule], seed: int, data: Data, test: Data, epochs: int, mq: bool = False
) -> float:
    chain = integers(start(seed), REACHES, TOPS)
    rule, x = rule_of(chain), quantised(data.x)
    normaliser = MeanQuotient() if mq else None
    learner = new_learner(bundle_of(chain, rule, x[:8], data.label[:8], seed=seed, normaliser=normaliser))
    for order in orders(seed, len(x), epochs):
        teach(learner, x, data.label, order)
    return accuracy(learner, quantised(test.x), test.label)


def descent(found: Callable[[rules.Net, F64, I64], rules.Gradients], rate: float) -> Step:
    return lambda net, x, label: rules.sgd(net, found(net, x, label), rate)


def il_sgd(net: rules.Net, x: F64, label: I64) -> rules.Gradients:
    """IL-prox' inference with the label itself at the top, and no norm under its step."""
    h = rules.IlProx(alpha=1e9).settle(net, x, label)
    return rules.outer([-e for e in rules.errors(h, rules.predictions(net, h))], rules.rates(h))


def float_sweep(rate: float) -> dict[str, Step]:
    return {
        "backpropagation": descent(rules.backprop, rate),
        "IL-SGD": descent(il_sgd, rate),
        "IL-prox": descent(rules.IlProx(rate).gradients, 1.0),
    }


def sweep(seed: int, data: Data, test: Data, epochs: int) -> Iterator[Run]:
    usual = squares(start(seed), data.x)
    for rate in RATES:
        found = {
            f"{name} (float)": float_run(step, seed, data, test, epochs) for name, step in float_sweep(rate).items()
        }
        found["backpropagation"] = integer_run(
            lambda c, r=rate: learning_dense.backprop(*c, r), seed, data, test, epochs
        )
        found["IL-prox"] = integer_run(lambda c, r=rate: learning_dense.il_prox(*c, r, usual), seed, data, test, epochs)
        for arm, value in found.items():
            yield Run(scenario=SCENARIO, arm=f"{arm} at {rate:g}", seed=seed, matrix=[[value]])


MQ_RATE, ADAM_RATE, SGD_RATE = 1e-4, 3e-4, 0.1
BATCHED: tuple[tuple[str, float], ...] = (
    ("backpropagation, SGD", 0.5), ("backpropagation, Adam", 1e-3), ("IL, SGD", 1.0), ("IL, MQ", 5e-4),
    ("IL, Adam", 1e-3), ("IL at once, MQ", 5e-4),
)  # fmt: skip


def optimised(arm: str, rate: float) -> Step:
    """An arm's step, with its own fresh state."""
    il = rules.Sequential(at_once="at once" in arm, steps=1 if "at once" in arm else 3)
    found = rules.backprop if arm.startswith("back") else il.gradients
    if arm.endswith("SGD"):
        return descent(found, rate)
    optimiser = rules.Mq(rate) if arm.endswith("MQ") else rules.Adam(rate)
    return lambda net, x, label: optimiser.step(net, found(net, x, label))


def optimisers(seed: int, data: Data, test: Data, epochs: int, batched: int) -> Iterator[Run]:
    """MQ beside SGD and Adam: in batches as in the paper, floats alone; one by one, as a device learns."""
    for arm, rate in BATCHED:
        value = float_run(optimised(arm, rate), seed, data, test, batched, BATCH)
        yield Run(scenario=SCENARIO, arm=f"{arm} (float, batches of {BATCH})", seed=seed, matrix=[[value]])
    for arm, rate in (("IL, SGD", SGD_RATE), ("IL, Adam", ADAM_RATE), ("IL, MQ", MQ_RATE)):
        value = float_run(optimised(arm, rate), seed, data, test, epochs)
        yield Run(scenario=SCENARIO, arm=f"{arm} (float, one by one)", seed=seed, matrix=[[value]])
    value = integer_run(lambda c: learning_dense.sequential_il(*c, MQ_RATE), seed, data, test, epochs, mq=True)
    yield Run(scenario=SCENARIO, arm="IL, MQ (integers, one by one)", seed=seed, matrix=[[value]])


# ------------------------------------------------------------------ one-way feedback

CODING_RATE, DECAY = 0.05, 2.0**-12


class Feedback(NamedTuple):
    """How errors come back: from which matrices, and whether those learn."""

    name: str
    copied: bool
    learned: bool


FEEDBACKS = (
    Feedback("exact", copied=True, learned=True),
    Feedback("Kolen-Pollack from random", copied=False, learned=True),
    Feedback("random", copied=False, learned=False),
)


def shuffled(matrix: F64, seed: int) -> F64:
    """The same numbers elsewhere: feedback that knows nothing of the weight."""
    return np.random.default_rng([seed, 3]).permutation(matrix.reshape(-1)).reshape(matrix.shape)


def float_coding(how: Feedback, seed: int, data: Data, test: Data, epochs: int) -> float:
    net, coding = start(seed), rules.PredictiveCoding()
    back = [weight.copy() if how.copied else shuffled(weight, seed) for weight in net.weight]
    decay = DECAY / CODING_RATE if how.learned and not how.copied else 0.0
    for order in orders(seed, len(data.x), epochs):
        for i in order:
            x, label = data.x[i : i + 1], data.label[i : i + 1]
            found = coding.gradients(net, back, x, label)
            rules.kolen_pollack(net, back if how.learned else [w.copy() for w in back], found, CODING_RATE, decay)
    return float_accuracy(net, test.x, test.label)


def integer_coding(how: Feedback, seed: int, data: Data, test: Data, epochs: int) -> float:
    decay = DECAY if how.learned and not how.copied else 0.0

    def rule_of(chain: Quantised) -> Rule:
        for layer in chain.manifest.layers[1:]:
            weight = chain.tensors[f"{layer.name}.weight"]
            chain.tensors[f"{layer.name}.feedback"] = weight.copy() if how.copied else shuffled(weight, seed)
        return learning_dense.predictive(*chain, CODING_RATE, decay=decay, feedback=how.learned)

    return integer_run(rule_of, seed, data, test, epochs)


def coding(seed: int, data: Data, test: Data, epochs: int) -> Iterator[Run]:
    for how in FEEDBACKS:
        for form, run in (("", integer_coding), (" (float)", float_coding)):
            value = run(how, seed, data, test, epochs)
            yield Run(scenario=SCENARIO, arm=f"coding, {how.name} feedback{form}", seed=seed, matrix=[[value]])


# ------------------------------------------------------------------ the page

TEXT = """## Rules of dense stacks

By `make bench-dense-rules`, scenario 10: scikit-learn's digits, {train} lessons an epoch, {test} images to test on;
64-128-128-10 from random weights; mean ± standard deviation over seeds {seeds}. Accuracy in percent, chance is 10.

### The rate

{epochs} epochs, one sample at a time; integers and their float twin from the same weights, in the same order.

{sweep}

IL-prox learns at any rate, since no step is longer than the gap that it closes; backpropagation needs its rate found.
The float twin learns biases too, integers leave theirs at zero. IL-SGD (the label itself at the top, no norm under the
step) was run in floats alone.

### What makes a step of a gradient

Sequential inference learning (three sweeps), MQ beside SGD and Adam: {batched} epochs in batches of {batch}, floats, as
in the paper; and {epochs} epochs one by one, as a device learns. State: MQ a number a layer, Adam two a weight.

{optimisers}

### Feedback of its own

Predictive coding with rates that stay positive, 20 steps of inference, {epochs} epochs one by one at a rate of
{rate:g}. `exact` feedback starts as the weights and takes the same updates; Kolen-Pollack starts from the same numbers
shuffled, and both fade by 2**-12 an update; `random` stays as it was.

{coding}
"""


def cells(runs: list[Run], arm: str) -> tuple[float, float] | str:
    values = [run.matrix[0][0] for run in by_arm(runs).get(arm, [])]
    return spread(values) if values else ""


def page(runs: list[Run], seeds: int, epochs: int, batched: int, train: int, test: int) -> str:
    kinds = ("backpropagation", "backpropagation (float)", "IL-prox", "IL-prox (float)", "IL-SGD (float)")
    rows = [(kind, *(cells(runs, f"{kind} at {rate:g}") for rate in RATES)) for kind in kinds]
    others = [(arm, cells(runs, arm)) for arm in by_arm(runs) if arm.startswith(("backpropagation, ", "IL, ", "IL at"))]
    back = [
        (how.name, cells(runs, f"coding, {how.name} feedback"), cells(runs, f"coding, {how.name} feedback (float)"))
        for how in FEEDBACKS
    ]
    return TEXT.format(
        seeds=", ".join(map(str, range(1, seeds + 1))), epochs=epochs, batched=batched, batch=BATCH, rate=CODING_RATE,
        train=train, test=test,
        sweep=Table("", ("rule, at rate", *(f"{rate:g}" for rate in RATES)), rows).markdown(),
        optimisers=Table("", ("rule and step", "accuracy"), others).markdown(),
        coding=Table("", ("feedback", "integers", "float"), back).markdown(),
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 1 on")
    parser.add_argument("--short", action="store_true", help="one seed, few samples: a minute")
    parser.add_argument("--output", type=Path, default=Path("build/learning"), help="folder of the runs' file")
    parser.add_argument("--markdown", type=Path, help="rewrite this page's section")
    args = parser.parse_args()
    data, test = digits()
    seeds, epochs, batched = args.seeds, EPOCHS, BATCHED_EPOCHS
    if args.short:
        data, seeds, epochs, batched = data.take(slice(0, 150)), 1, 1, 3
    runs: list[Run] = []
    for seed in range(1, seeds + 1):
        for part in (
            sweep(seed, data, test, epochs),
            optimisers(seed, data, test, epochs, batched),
            coding(seed, data, test, epochs),
        ):
            for run in part:
                print(f"seed {seed}: {run.arm} {run.matrix[0][0]:.3f}", file=sys.stderr, flush=True)
                runs.append(run)
                save(args.output, runs)
    text = page(runs, seeds, epochs, batched, len(data.x), len(test.x))
    print(text)
    if args.markdown:
        section(args.markdown, SCENARIO, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
