"""Rules of dense stacks beside backpropagation: IL-prox over its rate, MQ beside SGD and Adam, one-way feedback.

    python benchmarks/learning/dense_rules.py --seeds 3 --markdown docs/results.md        (make bench-dense-rules)

scikit-learn's digits, 1,437 to learn from and 360 to test on, one by one; 64-128-128-10 from random weights (He). The
float twin has the same start and the same order; biases stay at zero in both. What exists in floats alone learns its
biases too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
import numpy as np
from chains import (
    Quantised,
    RuleOf,
    accuracy,
    bundle_of,
    float_accuracy,
    integers,
    new_learner,
    quantised,
    rules,
    teach,
)
from scenario import Run, command, publish, save
from tables import Table, spread

from edgerun.arrays import F64, I64
from edgerun.spec import MeanQuotient, Rule
from exporters import learning_dense
from exporters.runs import by_arm

SCENARIO = "dense_rules"
SIZES = (64, 128, 128, 10)
REACHES, TOPS = (4.0, 8.0, 64.0), (2.0, 1.5, 1.5)
RATES = (0.015, 0.1, 1.0, 10.0, 100.0)
EPOCHS = 2
BATCHED_EPOCHS, BATCH = 30, 64
TRAIN = 1437
CHECKED = 240  # lessons between two tests in the last epoch, where accuracy wanders


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


def late_accuracy(
    learn: Callable[[I64], None], score: Callable[[], float], seed: int, count: int, epochs: int
) -> float:
    """The mean over tests after every `CHECKED` lessons of the last epoch: single lessons leave accuracy wandering.

    learn  what takes lessons by their places     count  of samples in an epoch
    """
    *before, last = orders(seed, count, epochs)
    for order in before:
        learn(order)
    scores = []
    for first in range(0, count, CHECKED):
        learn(last[first : first + CHECKED])
        scores.append(score())
    return float(np.mean(scores))


def float_run(step: Step, seed: int, data: Data, test: Data, epochs: int, batch: int = 1) -> float:
    net = start(seed)

    def learn(order: I64) -> None:
        for first in range(0, len(order), batch):
            rows = order[first : first + batch]
            step(net, data.x[rows], data.label[rows])

    with np.errstate(all="ignore"):
        if batch == 1:
            return late_accuracy(learn, lambda: float_accuracy(net, test.x, test.label), seed, len(data.x), epochs)
        for order in orders(seed, len(data.x), epochs):
            learn(order)
    return float_accuracy(net, test.x, test.label)


def integer_run(rule_of: RuleOf, seed: int, data: Data, test: Data, epochs: int, mq: bool = False) -> float:
    chain = integers(start(seed), REACHES, TOPS)
    rule, x, tested = rule_of(chain), quantised(data.x), quantised(test.x)
    normaliser = MeanQuotient() if mq else None
    learner = new_learner(bundle_of(chain, rule, x[:8], data.label[:8], seed=seed, normaliser=normaliser))
    return late_accuracy(
        lambda order: teach(learner, x, data.label, order),
        lambda: accuracy(learner, tested, test.label),
        seed,
        len(x),
        epochs,
    )


def descent(found: Callable[[rules.Net, F64, I64], rules.Gradients], rate: float, *, biases: bool = False) -> Step:
    return lambda net, x, label: rules.sgd(net, found(net, x, label), rate, biases=biases)


def il_sgd(net: rules.Net, x: F64, label: I64) -> rules.Gradients:
    """IL-prox' inference with the label itself at the top, and no norm under its step."""
    h = rules.IlProx(alpha=1e9).settle(net, x, label)
    return rules.outer([-e for e in rules.errors(h, rules.predictions(net, h))], rules.rates(h))


def float_sweep(rate: float) -> dict[str, Step]:
    return {
        "backpropagation": descent(rules.backprop, rate),
        "IL-SGD": descent(il_sgd, rate, biases=True),
        "IL-prox": descent(rules.IlProx(rate).gradients, 1.0),
    }


def sweep(seed: int, data: Data, test: Data, epochs: int) -> Iterator[Run]:
    usual = squares(start(seed), data.x)
    for rate in RATES:
        steps: dict[str, RuleOf] = {
            "backpropagation": lambda c, r=rate: learning_dense.backprop(*c, r),
            "IL-prox": lambda c, r=rate: learning_dense.il_prox(*c, r, usual),
        }
        found = {f"{name} at {rate:g}": integer_run(rule, seed, data, test, epochs) for name, rule in steps.items()}
        for name, step in float_sweep(rate).items():
            found[f"{name} at {rate:g} (float)"] = float_run(step, seed, data, test, epochs)
        for arm, value in found.items():
            yield Run(scenario=SCENARIO, arm=arm, seed=seed, matrix=[[value]])


MQ_RATE, ADAM_RATE, SGD_RATE = 1e-4, 3e-4, 0.1
KNOWN = 0.9  # p(label) from which on a lesson teaches nothing, where updates wait for errors
WAITING, WAITING_RATE = f"IL, MQ, nothing from {KNOWN:g} on", 2e-4
BATCHED: tuple[tuple[str, float], ...] = (
    ("backpropagation, SGD", 0.5), ("backpropagation, Adam", 1e-3), ("IL, SGD", 1.0), ("IL, MQ", 5e-4),
    ("IL, Adam", 1e-3), ("IL at once, MQ", 5e-4),
)  # fmt: skip


def optimised(arm: str, rate: float, *, biases: bool = True) -> Step:
    """An arm's step, with its own fresh state."""
    il = rules.Sequential(at_once="at once" in arm, steps=1 if "at once" in arm else 3)
    found = rules.backprop if arm.startswith("back") else il.gradients
    if arm.endswith("SGD"):
        return descent(found, rate, biases=biases)
    optimiser = rules.Adam(rate) if arm.endswith("Adam") else rules.Mq(rate, biases=biases)
    return lambda net, x, label: optimiser.step(net, found(net, x, label))


def waiting(step: Step) -> Step:
    """The same step, but none on what the net is sure of."""

    def taken(net: rules.Net, x: F64, label: I64) -> None:
        if rules.softmax(rules.forward(net, x)[-1])[0, label[0]] < KNOWN:
            step(net, x, label)

    return taken


def integer_mq(rate: float, known: float) -> RuleOf:
    def rule_of(chain: Quantised) -> Rule:
        rule = learning_dense.sequential_il(*chain, rate)
        return msgspec.structs.replace(rule, error_threshold=round(known * 32768))

    return rule_of


def optimisers(seed: int, data: Data, test: Data, epochs: int, batched: int) -> Iterator[Run]:
    """MQ beside SGD and Adam: in batches as in the paper, floats alone; one by one, as a device learns."""
    for arm, rate in BATCHED:
        value = float_run(optimised(arm, rate), seed, data, test, batched, BATCH)
        yield Run(scenario=SCENARIO, arm=f"{arm} (float, batches of {BATCH})", seed=seed, matrix=[[value]])
    for arm, rate in (("IL, SGD", SGD_RATE), ("IL, Adam", ADAM_RATE)):
        value = float_run(optimised(arm, rate), seed, data, test, epochs)
        yield Run(scenario=SCENARIO, arm=f"{arm} (float, one by one)", seed=seed, matrix=[[value]])
    for arm, rate, known in (("IL, MQ", MQ_RATE, 1.0), (WAITING, WAITING_RATE, KNOWN)):
        step = optimised("IL, MQ", rate, biases=False)
        value = float_run(waiting(step) if known < 1 else step, seed, data, test, epochs)
        yield Run(scenario=SCENARIO, arm=f"{arm} (float)", seed=seed, matrix=[[value]])
        value = integer_run(integer_mq(rate, known), seed, data, test, epochs, mq=True)
        yield Run(scenario=SCENARIO, arm=arm, seed=seed, matrix=[[value]])


# ------------------------------------------------------------------ one-way feedback

CODING_RATE, DECAY = 0.02, 2.0**-12


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
    coding, back = rules.PredictiveCoding(tops=REACHES[:-1]), list[F64]()

    def step(net: rules.Net, x: F64, label: I64) -> None:
        if not back:
            back.extend(weight.copy() if how.copied else shuffled(weight, seed) for weight in net.weight)
        found = coding.gradients(net, back, x, label)
        learning = back if how.learned else [matrix.copy() for matrix in back]
        rules.kolen_pollack(net, learning, found, CODING_RATE, DECAY / CODING_RATE)

    return float_run(step, seed, data, test, epochs)


def integer_coding(how: Feedback, seed: int, data: Data, test: Data, epochs: int) -> float:
    def rule_of(chain: Quantised) -> Rule:
        for layer in chain.manifest.layers[1:]:
            weight = chain.tensors[f"{layer.name}.weight"]
            chain.tensors[f"{layer.name}.feedback"] = weight.copy() if how.copied else shuffled(weight, seed)
        return learning_dense.predictive(*chain, CODING_RATE, decay=DECAY, feedback=how.learned)

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
One by one, accuracy is the mean of tests after every {checked} lessons of the last epoch, since single lessons leave it
wandering. `apart`: integers less their float twin, paired by seed, in points. The twin starts from the same weights,
takes the same lessons in the same order, and leaves biases at zero as integers do; what exists in floats alone learns
biases too.

### The rate

{epochs} epochs, one sample at a time.

{sweep}

IL-prox learns at any rate, since no step is longer than the gap that it closes; backpropagation needs its rate found.
At 0.1 backpropagation is at its edge, where seeds differ by nine points in floats alone; cutting the twin's weights
where int8 ends takes 1.6 points off it, single seeds move by -4.5 to +1.4 (three seeds, measured apart). IL-SGD is the
label itself at the top, and no norm under the step.

### What makes a step of a gradient

Sequential inference learning (three sweeps), MQ beside SGD and Adam: {batched} epochs in batches of {batch}, floats, as
in the paper; and {epochs} epochs one by one, as a device learns. State: MQ a number a layer, Adam two a weight.

{optimisers}

{pairs}

MQ divides by a mean that remembers the loud beginning, so its steps shrink as errors do, but samples that are known
already still move every weight. Errors that trigger updates (`error_threshold` {known:g}) leave those out: about
half of the updates are saved, and the rate may be twice as high ({waiting:g} instead of {mq:g}).

### Feedback of its own

Predictive coding with rates that stay positive, 20 steps of inference, {epochs} epochs one by one at a rate of
{rate:g}. `exact` feedback starts as the weights and takes the same updates; Kolen-Pollack starts from the same numbers
shuffled; `random` is shuffled and stays as it was. What learns fades by 2**-12 an update.

{coding}

What did not work before: integers with random feedback stood at 50.6 % where floats had 85.6 %. They had learned as
much (85.3 % by the sums of the last layer), but random feedback makes logits of a hundred and more, the last layer's
int8 ended at 16, and in 97 % of the images two classes or more tied at 127. The last layer of a chain that learns needs
room: here it reaches to {room:g}, `edgerun export --learn` gives it four times what calibration showed. Two more mends:
a prediction above what int8 holds counts as an error, so that it comes down again, and weights fade.
"""


def cells(runs: list[Run], arm: str) -> tuple[float, float] | str:
    values = [run.matrix[0][0] for run in by_arm(runs).get(arm, [])]
    return spread(values) if values else ""


def apart(runs: list[Run], arm: str) -> str:
    """Integers less floats, paired by seed, in points; "" where one of them is missing."""
    found = by_arm(runs)
    ours, twins = ({run.seed: run.matrix[0][0] for run in found.get(name, [])} for name in (arm, f"{arm} (float)"))
    gaps = [100 * (value - twins[seed]) for seed, value in ours.items() if seed in twins]
    if not gaps:
        return ""
    return f"{np.mean(gaps):+.1f} ± {np.std(gaps, ddof=1):.1f}" if len(gaps) > 1 else f"{gaps[0]:+.1f}"


def page(runs: list[Run], seeds: int, epochs: int, batched: int, train: int, test: int) -> str:
    kinds = ("backpropagation", "IL-prox", "IL-SGD")
    sweep = []
    for kind in kinds:
        for form in ("", " (float)"):
            row = [cells(runs, f"{kind} at {rate:g}{form}") for rate in RATES]
            sweep += [(f"{kind}{form}", *row)] if any(row) else []
        gaps = [apart(runs, f"{kind} at {rate:g}") for rate in RATES]
        sweep += [(f"{kind}, apart", *gaps)] if any(gaps) else []
    others = [(arm, cells(runs, arm)) for arm in by_arm(runs) if arm.endswith((f"of {BATCH})", "one by one)"))]
    pairs = [(arm, cells(runs, arm), cells(runs, f"{arm} (float)"), apart(runs, arm)) for arm in ("IL, MQ", WAITING)]
    back = [
        (how.name, *(cells(runs, f"coding, {how.name} feedback{form}") for form in ("", " (float)")),
         apart(runs, f"coding, {how.name} feedback"))
        for how in FEEDBACKS
    ]  # fmt: skip
    heads = ("integers", "float", "apart")
    return TEXT.format(
        seeds=", ".join(map(str, range(1, seeds + 1))), epochs=epochs, batched=batched, batch=BATCH, rate=CODING_RATE,
        train=train, test=test, known=KNOWN, waiting=WAITING_RATE, mq=MQ_RATE, checked=CHECKED, room=REACHES[-1],
        sweep=Table("", ("rule, at rate", *(f"{rate:g}" for rate in RATES)), sweep).markdown().strip(),
        optimisers=Table("", ("rule and step, floats", "accuracy"), others).markdown().strip(),
        pairs=Table("", ("one by one", *heads), pairs).markdown().strip(),
        coding=Table("", ("feedback", *heads), back).markdown().strip(),
    )  # fmt: skip


def main() -> int:
    args = command(__doc__, short="one seed, few samples: a minute", seeds=3).parse_args()
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
    publish(args, runs, page(runs, seeds, epochs, batched, len(data.x), len(test.x)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
