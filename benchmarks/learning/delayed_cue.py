"""Evidence accumulation with a delayed answer: adaptive neurons learn it by e-prop in integers, others do not.

    python benchmarks/learning/delayed_cue.py --seeds 3 --markdown docs/results.md        (make bench-delayed-cue)

Cues come from the left or the right; after a delay a recall signal asks which side there were more of (Bellec et al.
2020, Fig. 4). Every trial is new, learned from once, alone: a stream, no batches and no second look. A step stands for
10 ms. Against the paper's task, windows of 2.25 s are cut to one of the 128 steps that credit can reach back.

Arms: `none` is the untrained net; `LIF` has no adaptation; `ALIF` has it in every second neuron, with symmetric, random
or adaptive feedback. The float twin starts from the same weights, sees the same trials and takes the same rates.
Trials that the net is sure of teach nothing, and steps are short: else accuracy wanders by ten points and more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from scenario import Run, command, filtered, gap, publish, table

from edgerun import price
from edgerun.arrays import F64, I16, I64, AnyArray, Tensors
from edgerun.boards import get_board
from edgerun.bundle import Bundle, Probe, Selftest, pack, read_bundle
from edgerun.kernels.eprop import trace_gain
from edgerun.lifetime import new_learner
from edgerun.network import Network
from edgerun.spec import (
    ClassTable,
    EProp,
    Frames,
    Guard,
    InputSpec,
    LearningPlan,
    Lif,
    Manifest,
    PlasticRate,
    Readout,
)
from exporters.runs import by_arm

SPIKE = 64  # what a spike is in the int8 input
INPUT_EXPONENT, RECURRENT_SHIFT, READOUT_EXPONENT = 12, 6, 6  # a spike's weight is w / 2**6 in every layer
FRACTION = 6 + 8  # of a shadow weight: 2**-14 of a threshold
SIGNAL_SHIFT, POST_SHIFT = 7, 6
GAMMA = 77
BOARD = "nucleo-f446"
SCENARIO = "delayed_cue"
LATE = 5  # tests that an accuracy is the mean of


@dataclass(frozen=True)
class Task:
    """Cues of `on` steps, one every `every` steps; then `delay` steps of noise alone; then `recall` steps."""

    cues: int = 5
    on: int = 5
    every: int = 7
    delay: int = 40
    recall: int = 15
    group: int = 10  # inputs of each of the four groups: left, right, recall, noise
    cue_rate: float = 0.4  # spikes a step: 40 Hz
    noise_rate: float = 0.1
    fair: float = 0.7  # share of cues on the side that is drawn first

    @property
    def steps(self) -> int:
        return self.cues * self.every + self.delay + self.recall

    def draw(self, rng: np.random.Generator, n: int) -> tuple[I16, I64]:
        """n trials: x (n, steps * inputs) with SPIKE for a spike, label (n,) 0 left, 1 right."""
        side = rng.integers(0, 2, n)
        right = np.where(rng.random((n, self.cues)) < self.fair, side[:, None], 1 - side[:, None])
        rate = np.zeros((n, self.steps, 4, self.group))
        rate[:, :, 3] = self.noise_rate
        for c in range(self.cues):
            rate[np.arange(n), c * self.every : c * self.every + self.on, right[:, c]] = self.cue_rate
        rate[:, -self.recall :, 2] = self.cue_rate
        x = SPIKE * (rng.random(rate.shape) < rate)
        return x.reshape(n, -1).astype(np.int16), (2 * right.sum(axis=1) > self.cues).astype(np.int64)


@dataclass(frozen=True)
class Net:
    """Neurons, time constants in steps, and the rule's numbers in real units."""

    neurons: int = 60
    adaptive: bool = True
    tau_m: float = 4.0
    tau_a: float = 150.0
    tau_out: float = 8.0
    beta: float = 0.3  # thresholds that a spike adds to an adaptive neuron's own
    feedback: str = "symmetric"
    rate: float = 0.1  # of descent
    norm: float = 0.1  # the longest step of a tensor
    known: float = 0.9  # p of the right side from which on a trial teaches nothing
    decay_shift: int = 0


def decay(tau: float) -> int:
    return round(2**15 * float(np.exp(-1 / tau)))


def tensors_of(net: Net, task: Task, seed: int) -> Tensors:
    """The untrained net."""
    rng, m, n = np.random.default_rng([seed, 1]), 4 * task.group, net.neurons

    def weights(rows: int, columns: int, deviation: float) -> AnyArray:
        return np.clip(np.rint(rng.normal(0, 64 * deviation, (rows, columns))), -127, 127).astype(np.int8)

    found: Tensors = {
        "hidden.input": weights(m, n, 1.35 / np.sqrt(m)),
        "hidden.recurrent": weights(n, n, 0.5 / np.sqrt(n)),
        "hidden.bias": np.zeros(n, np.int32),
        "hidden.decay": np.full(n, decay(net.tau_m), np.uint16),
        "out.input": weights(n, 2, 0.5 / np.sqrt(n)),
        "out.bias": np.zeros(2, np.int32),
        "out.kappa": np.full(2, decay(net.tau_out), np.uint16),
    }
    if net.adaptive:
        found["hidden.rho"] = np.full(n, decay(net.tau_a), np.uint16)
        found["hidden.beta"] = np.where(np.arange(n) % 2, round(4096 * net.beta), 0).astype(np.int16)
    if net.feedback != "symmetric":
        found["hidden.feedback"] = weights(n, 2, 0.5 if net.feedback == "random" else 0.5 / np.sqrt(n))
    return found


def plan_of(net: Net) -> EProp:
    """Rates that make one step of the integers `net.rate` times the gradient, no longer than `net.norm`."""
    trace = 2.0 ** trace_gain(decay(net.tau_m), 128) * SPIKE
    late = 2.0 ** trace_gain(decay(net.tau_m))
    bar = 2.0 ** trace_gain(decay(net.tau_out))
    signal = 2.0 ** (READOUT_EXPONENT + 15 - SIGNAL_SHIFT) * (1 - decay(net.tau_out) / 2**15)
    post = signal * 2.0 ** (8 - POST_SHIFT) / (GAMMA / 256)
    units = {"hidden.input": trace * post, "hidden.recurrent": late * post, "out.input": bar * 2.0**15}
    if net.feedback == "adaptive":
        units["hidden.feedback"] = units["out.input"]
    return EProp(
        layer="hidden", readout="out", chunk_steps=128, signal_shift=SIGNAL_SHIFT, post_shift=POST_SHIFT, gamma=GAMMA,
        feedback=net.feedback, error_threshold=round(net.known * 32768),
        rates=tuple(rate_of(name, net.rate * 2**FRACTION / unit, net) for name, unit in units.items()),
    )  # fmt: skip


def rate_of(tensor: str, rate: float, net: Net) -> PlasticRate:
    """eta / 2**shift nearest to a rate, with eight bits of eta."""
    shift = min(30, 7 - int(np.floor(np.log2(rate))))
    fades = tensor in ("out.input", "hidden.feedback")
    return PlasticRate(
        tensor=tensor, eta=max(1, round(rate * 2**shift)), shift=shift, max_step=8192,
        max_norm=round(net.norm * 2**FRACTION), decay_shift=net.decay_shift * fades,
    )  # fmt: skip


def bundle_of(net: Net, task: Task, seed: int) -> Bundle:
    m = 4 * task.group
    manifest = Manifest(
        name="delayed-cue", input=InputSpec(shape=(task.steps, m)), encoder=Frames(),
        layers=(
            Lif(
                name="hidden", inputs=m, outputs=net.neurons, weight_exponent=INPUT_EXPONENT,
                recurrent_shift=RECURRENT_SHIFT, adaptive=net.adaptive,
            ),
            Readout(name="out", inputs=net.neurons, outputs=2, weight_exponent=READOUT_EXPONENT),
        ),
        classes=ClassTable(names=("left", "right"), capacity=2),
        learning=LearningPlan(rule=plan_of(net), guard=Guard(every=4096)), seed=seed,
    )  # fmt: skip
    tensors = tensors_of(net, task, seed)
    x, label = task.draw(np.random.default_rng([seed, 2]), 8)
    scores = np.array([Network(manifest, tensors).infer(q).scores for q in x], np.int32)
    rows = x.astype(np.int8).reshape(-1, task.steps, m)
    return read_bundle(pack(manifest, tensors, selftest=Selftest(rows, scores), probe=Probe(rows, label.astype("i4"))))


# ------------------------------------------------------------------ float twin


class FloatNet:
    """The same net and rule in float64; weights are what a spike adds, in thresholds."""

    def __init__(self, net: Net, task: Task, tensors: Tensors) -> None:
        self.net, self.task = net, task
        self.w, self.r, self.o = (tensors[name] / 64 for name in ("hidden.input", "hidden.recurrent", "out.input"))
        self.b = tensors["hidden.feedback"] / 64 if net.feedback != "symmetric" else None
        self.beta = tensors["hidden.beta"] / 4096 if net.adaptive else np.zeros(net.neurons)
        self.alpha, self.kappa, self.rho = (decay(tau) / 2**15 for tau in (net.tau_m, net.tau_out, net.tau_a))

    def run(self, x: AnyArray) -> tuple[F64, F64, F64]:
        """(logits (n, 2), spikes (n, T, neurons), psi alike) of trials x (n, T, inputs) of zeros and ones."""
        shape = (len(x), self.net.neurons)
        v, a, z, y = np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros((len(x), 2))
        current = x @ self.w
        spikes, psi = np.zeros(current.shape), np.zeros(current.shape)
        for t in range(x.shape[1]):
            a = self.rho * a + self.beta * z
            v = self.alpha * v + current[:, t] + z @ self.r - z
            margin = v - 1 - a
            z = (margin >= 0).astype(float)
            spikes[:, t], psi[:, t] = z, GAMMA / 256 * np.maximum(0, 1 - np.abs(margin))
            y = self.kappa * y + z @ self.o
        return y, spikes, psi

    def learn(self, x: AnyArray, label: int) -> None:
        """One lesson.    x  (T, inputs)"""
        logits, spikes, psi = (part[0] for part in self.run(x[None]))
        error = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        if error[label] >= self.net.known:
            return
        error[label] -= 1
        signal, adjoint, post = (self.o if self.b is None else self.b) @ error, 0.0, np.zeros_like(psi)
        for t in range(len(x) - 1, -1, -1):
            post[t] = psi[t] * (signal - self.beta * adjoint)
            adjoint = psi[t] * signal + (self.rho - self.beta * psi[t]) * adjoint
            signal = self.kappa * signal
        late = np.concatenate([np.zeros((1, self.net.neurons)), spikes[:-1]])
        as_readout = np.outer(filtered(spikes, self.kappa)[-1], error)
        self._descend(self.w, filtered(x, self.alpha).T @ post)
        self._descend(self.r, filtered(late, self.alpha).T @ post)
        for matrix in (self.o, self.b if self.net.feedback == "adaptive" else None):
            if matrix is not None:
                matrix *= 1 - 2.0**-self.net.decay_shift * (self.net.decay_shift > 0)
                self._descend(matrix, as_readout)

    def _descend(self, weights: F64, gradient: F64) -> None:
        """One step, halved until it is no longer than the limit, as the device does."""
        size = self.net.rate * float(np.linalg.norm(gradient))
        halvings = max(0, int(np.ceil(np.log2(max(size, 1e-12) / self.net.norm))))
        weights -= self.net.rate * 2.0**-halvings * gradient


# ------------------------------------------------------------------ arms


def stream(task: Task, seed: int, lessons: int) -> Iterator[tuple[I16, int]]:
    """Trials to learn from, the same for every arm."""
    rng = np.random.default_rng([seed, 3])
    for _ in range(lessons):
        x, label = task.draw(rng, 1)
        yield x[0], int(label[0])


def examination(task: Task, seed: int, n: int) -> tuple[I16, I64]:
    """Trials that no arm learns from."""
    return task.draw(np.random.default_rng([seed, 4]), n)


def late_accuracy(
    learn: Callable[[I16, int], object], score: Callable[[], float], task: Task, seed: int, lessons: int
) -> float:
    """The mean over `LATE` tests at equal distances in the last two fifths of the stream, its end among them."""
    at = {lessons - k * lessons // 10 for k in range(LATE)}
    scores = []
    for number, (sample, side) in enumerate(stream(task, seed, lessons), start=1):
        learn(sample, side)
        if number in at:
            scores.append(score())
    return float(np.mean(scores))


def integers(net: Net, task: Task, seed: int, lessons: int, tests: int) -> list[Run]:
    """The device's learner, before it has learned ("none") and after."""
    bundle, (x, label) = bundle_of(net, task, seed), examination(task, seed, tests)
    learner = new_learner(bundle)

    def accuracy() -> float:
        return float((learner.scores(x).argmax(axis=1) == label).mean())

    def learn(sample: I16, side: int) -> None:
        learner.apply(learner.plan_lesson(sample, side, "full"))

    before = accuracy()
    after = late_accuracy(learn, accuracy, task, seed, lessons)
    fields = {"scenario": SCENARIO, "seed": seed, "untrained": [before], "tasks": ["evidence"]} | costs(bundle)
    runs = [Run(arm=arm_of(net), matrix=[[after]], figures={"updates": learner.updates}, **fields)]
    return runs + [Run(arm="none", matrix=[[before]], **fields)] * (net == Net())


def floats(net: Net, task: Task, seed: int, lessons: int, tests: int) -> list[Run]:
    """The float twin of that."""
    twin, (x, label) = FloatNet(net, task, tensors_of(net, task, seed)), examination(task, seed, tests)
    shape = (-1, task.steps, 4 * task.group)

    def accuracy() -> float:
        return float((twin.run(x.reshape(shape) / SPIKE)[0].argmax(axis=1) == label).mean())

    def learn(sample: I16, side: int) -> None:
        twin.learn(sample.reshape(shape)[0] / SPIKE, side)

    before = accuracy()
    after = late_accuracy(learn, accuracy, task, seed, lessons)
    return [
        Run(
            scenario=SCENARIO, arm=f"{arm_of(net)} (float)", seed=seed, matrix=[[after]], untrained=[before],
            tasks=["evidence"],
        )
    ]  # fmt: skip


def arm_of(net: Net) -> str:
    name = "ALIF" if net.adaptive else "LIF"
    return name if net.feedback == "symmetric" else f"{name}, {net.feedback} feedback"


def costs(bundle: Bundle) -> dict[str, Any]:
    """Memory, and the energy of one answer and of one lesson's learning, on the board that this is reckoned for."""
    still = msgspec.structs.replace(bundle.manifest, learning=LearningPlan())
    board, work = get_board(BOARD), price.work(bundle)
    inference = price.memory_plan(replace(bundle, manifest=still)).total_bytes
    energy = {name: price.price(board, ops)[0] for name, ops in (("one", work.inference), ("all", work.lesson["full"]))}
    return {
        "memory_bytes": {"inference": inference, "learning": price.memory_plan(bundle).total_bytes - inference},
        "energy_uj": {"inference": energy["one"], "update": energy["all"] - energy["one"]},
    }


ARMS = (
    Net(),
    Net(adaptive=False),
    Net(feedback="random"),
    Net(feedback="adaptive", decay_shift=10),
)

ORDER = ("none", *(arm_of(net) + twin for net in ARMS for twin in ("", " (float)")))

TEXT = """## Delayed cue

`benchmarks/learning/delayed_cue.py`, scenario 9: {cues} cues of {on} steps, {delay} steps of noise, {recall} of recall
({steps} steps of 10 ms); {lessons} trials, each learned from once; {tests} fresh trials to test on; {neurons} neurons;
seeds {seeds}. `none` is the untrained ALIF net; an answer by chance is right in 50 %.

Accuracy is the mean of {late} tests in the last two fifths of the stream. Trials whose side the net gives {known:g} and
more teach nothing (`error_threshold`), and no step is longer than {norm:g} (`max_norm`).

{table}

Integers less their float twin, paired by seed, in points: {paired}.

What did not work: learning from every trial, with steps of up to 0.2. Accuracy wandered: random feedback of seed 2, in
integers, stood at 93.2, 84.6, 94.2, 93.8, 80.6, 97.0 and 84.4 % after 1500, 1750 to 3000 trials, and integers ended 4.4
points under their twin (deviation 7.7, three seeds). Without the trials that are known it went from 83.6 to 94.4 %,
with shorter steps besides from 89.0 to 93.2 %, by a third of the updates.

Energy and memory are those of {board}. Against the paper's task, windows of 2.25 s are cut to {steps} steps, which
credit can reach back, and learning is from single trials instead of batches of 64 with Adam.
"""


def page(runs: list[Run], task: Task, lessons: int, tests: int) -> str:
    seeds = ", ".join(map(str, sorted({run.seed for run in runs})))
    arms = [arm for arm in map(arm_of, ARMS) if arm in by_arm(runs)]
    paired = "; ".join(f"{arm} {gap(runs, arm, f'{arm} (float)')}" for arm in arms)
    return TEXT.format(
        table=table(runs).strip(), paired=paired, seeds=seeds,
        lessons=lessons, tests=tests, late=LATE, known=Net().known, norm=Net().norm,
        board=BOARD, neurons=Net().neurons, cues=task.cues, on=task.on,
        delay=task.delay, recall=task.recall, steps=task.steps,
    )  # fmt: skip


def main() -> int:
    parser = command(__doc__, short="one seed, a shorter task, symmetric feedback: seconds", seeds=3)
    parser.add_argument("--lessons", type=int, default=2400)
    parser.add_argument("--tests", type=int, default=500)
    args = parser.parse_args()
    task, arms, seeds, lessons, tests = Task(), ARMS, args.seeds, args.lessons, args.tests
    if args.short:
        task, arms, seeds, lessons, tests = Task(cues=3, delay=15, recall=10), ARMS[:2], 1, 400, 200
    runs: list[Run] = []
    for seed in range(1, seeds + 1):
        for net in arms:
            for arm in (integers, floats):
                runs += arm(net, task, seed, lessons, tests)
                print(f"seed {seed}: {runs[-1].arm} {runs[-1].matrix[0][0]:.3f}", file=sys.stderr)
    runs.sort(key=lambda run: ORDER.index(run.arm))
    publish(args, runs, page(runs, task, lessons, tests))
    return 0


if __name__ == "__main__":
    sys.exit(main())
