"""What keeps old skills, one protection at a time: digits in blocks, a turned sensor, one readout for every arm.

    python benchmarks/learning/consolidation.py --seeds 5 --markdown docs/results.md      (make bench-consolidation)

The stream of `digits_blocks.py`: 456 images turned by 25 degrees, two classes at a time, each corrected once, by e-prop
on every weight with its error over all classes. The readout that the rule trains decides in every arm, so that what
differs is the protection alone:

    plain         none                            intelligence  synaptic intelligence, from the factory's importance on
    uniform       the same importance, spread evenly over each tensor
    ewc           importance from squared gradients of the exemplars, as large in the mean (online EWC's Fisher matrix)
    replay        two stored samples repeated with each lesson           both   replay and synaptic intelligence

A boundary ends each block. The float twin starts from the same weights, takes the same lessons and stored samples.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
import numpy as np
from scenario import Run, command, cost, filtered, gap, matrix, publish, table

from deploy.demo import arms, digits
from deploy.demo.digits import Digits, Split
from deploy.demo.prepare import make_bundles
from edgerun.arrays import F64, AnyArray, Tensors
from edgerun.bundle import Bundle
from edgerun.kernels.eprop import trace_gain
from edgerun.kernels.plasticity import SHADOW_MAX, decode_importance, encode_importance
from edgerun.learn.learner import Learner
from edgerun.learn.records import Boundary
from edgerun.lifetime import new_learner
from edgerun.network import Network
from edgerun.spec import EProp, Intelligence, Lif, Readout, Replay
from exporters.runs import by_arm

SCENARIO = "consolidation"
REPLAY = Replay(capacity=160, passes=2)
INTELLIGENCE = Intelligence(strength=28, damping=1024)
TASKS = ["straight", *("".join(map(str, pair)) for pair in digits.BLOCKS)]


class Arm(NamedTuple):
    """What protects old skills. `importance` turns the factory's codes into what the arm starts from."""

    intelligence: Intelligence | None = None
    replay: Replay = Replay(capacity=0)
    spread: bool = False  # importance evenly over each tensor, after every boundary too
    fisher: bool = False  # importance from squared gradients, which no boundary changes


ARMS = {
    "plain": Arm(),
    "intelligence": Arm(INTELLIGENCE),
    "uniform": Arm(INTELLIGENCE, spread=True),
    "ewc": Arm(INTELLIGENCE, fisher=True),
    "replay": Arm(replay=REPLAY),
    "both": Arm(INTELLIGENCE, REPLAY),
}


def armed(bundle: Bundle, arm: Arm) -> Bundle:
    """The bundle with one arm's protection; its rule's error runs over all classes."""
    plan = bundle.manifest.learning
    rule = msgspec.structs.replace(cast(EProp, plan.rule), recent_labels=0)
    plan = msgspec.structs.replace(plan, rule=rule, intelligence=arm.intelligence, replay=arm.replay)
    priors = dict(bundle.priors) if arm.intelligence else {}
    if arm.fisher:
        priors = fisher(bundle)
    if arm.spread:
        priors = {name: spread_evenly(code) for name, code in priors.items()}
    return replace(
        bundle,
        manifest=msgspec.structs.replace(bundle.manifest, learning=plan),
        priors=priors,
        exemplars=bundle.exemplars if arm.replay.capacity else None,
    )


def fisher(bundle: Bundle) -> Tensors:
    """Codes of the mean squared gradient over the exemplars, in the mean as large as the factory's importance."""
    twin, stored = Twin(armed(bundle, Arm())), bundle.exemplars
    sums = {name: np.zeros(code.shape) for name, code in bundle.priors.items()}
    if stored is None:
        raise SystemExit("the bundle has no exemplars")
    for q, label in zip(stored.x, stored.label, strict=True):
        for name, found in twin.gradients(twin.encode(q), int(label))[1].items():
            sums[name] += found**2
    return {
        name: codes(total * decode_importance(bundle.priors[name]).mean() / total.mean())
        for name, total in sums.items()
    }


def codes(value: AnyArray) -> AnyArray:
    code = np.zeros(value.shape, np.uint8)
    encode_importance(code, np.floor(value).astype(np.int64), np.zeros(value.shape, np.uint32))
    return code


def spread_evenly(code: AnyArray) -> AnyArray:
    return codes(np.full(code.shape, decode_importance(code).mean()))


# ------------------------------------------------------------------ the float twin


class Twin:
    """The same rule and protection in float64. Weights are in steps of a shadow, 256 of which are one of int8; a
    gradient is in the units of the integers' G, so that rates, norms and importances mean what they mean there."""

    def __init__(self, bundle: Bundle) -> None:
        manifest, tensors = bundle.manifest, bundle.tensors
        lif, readout = manifest.layers
        if not isinstance(lif, Lif) or not isinstance(readout, Readout):
            raise TypeError("the twin is of a Lif layer and a readout")
        self.rule, self.spec = cast(EProp, manifest.learning.rule), manifest.learning.intelligence
        self.network, self.known = Network(manifest, tensors), len(manifest.classes.names)
        self.shadow = {rate.tensor: 256.0 * tensors[rate.tensor] for rate in self.rule.rates}
        self.step = {
            "lif.input": 2.0 ** -(8 + lif.weight_exponent),
            "lif.recurrent": 2.0 ** -(8 + lif.weight_exponent - lif.recurrent_shift),
            "readout.input": 2.0 ** -(8 + readout.weight_exponent),
        }
        decay, kappa = int(tensors["lif.decay"][0]), int(tensors["readout.kappa"][0])
        self.alpha, self.kappa = decay / 2**15, kappa / 2**15
        self.bias, self.offset = tensors["lif.bias"] / 2**12, tensors["readout.bias"] / 2**24
        post = 2.0 ** (readout.weight_exponent + 15 - self.rule.signal_shift + 8 - self.rule.post_shift)
        post *= 1 - self.kappa
        self.unit = {
            "lif.input": post * 2.0 ** trace_gain(decay),
            "lif.recurrent": post * 2.0 ** trace_gain(decay),
            "readout.input": 2.0 ** (15 + trace_gain(kappa)),
        }
        self.importance = {
            name: decode_importance(bundle.priors[name]).astype(np.float64)
            if name in bundle.priors
            else np.zeros(shadow.shape)
            for name, shadow in self.shadow.items()
        }
        self.ref = {name: shadow.copy() for name, shadow in self.shadow.items()}
        self.omega = {name: np.zeros(shadow.shape) for name, shadow in self.shadow.items()}

    def encode(self, q: AnyArray) -> F64:
        """(T, m): the spikes that an image becomes."""
        return self.network.moments(np.asarray(q).reshape(-1).astype(np.int16)).astype(np.float64)

    def run(self, x: F64) -> tuple[F64, F64, F64]:
        """(y (n, k), z (n, T, units), psi alike) of windows x (n, T, m)."""
        w, r, o = (self.shadow[name] * self.step[name] for name in ("lif.input", "lif.recurrent", "readout.input"))
        current = x @ w + self.bias
        v, z = np.zeros((2, len(x), w.shape[1]))
        y, spikes, psi = np.zeros((len(x), o.shape[1])), np.zeros(current.shape), np.zeros(current.shape)
        for t in range(x.shape[1]):
            v = self.alpha * v + current[:, t] + z @ r - z
            z = (v >= 1).astype(np.float64)
            spikes[:, t], psi[:, t] = z, np.maximum(0, 1 - np.abs(v - 1))
            y = self.kappa * y + z @ o + self.offset
        return y, spikes, psi

    def gradients(self, x: F64, label: int) -> tuple[float, dict[str, F64]]:
        """p(label), and G of each tensor for one window x (T, m)."""
        y, z, psi = (part[0] for part in self.run(x[None]))
        p = np.exp(y[: self.known] - y[: self.known].max())
        error = np.zeros(len(y))
        error[: self.known] = p / p.sum()
        sure = float(error[label])
        error[label] -= 1
        signal = (self.shadow["readout.input"] * self.step["readout.input"]) @ error
        back = signal * self.kappa ** np.arange(len(x) - 1, -1, -1)[:, None]
        late = np.concatenate([np.zeros((1, z.shape[1])), z[:-1]])
        found = {
            "lif.input": filtered(x, self.alpha).T @ (psi * back),
            "lif.recurrent": filtered(late, self.alpha).T @ (psi * back),
            "readout.input": np.outer(filtered(z, self.kappa)[-1], error),
        }
        return sure, {name: g * self.unit[name] for name, g in found.items()}

    def lesson(self, x: F64, label: int) -> None:
        sure, found = self.gradients(x, label)
        if sure >= self.rule.error_threshold / 2**15:
            return
        for rate in self.rule.rates:
            g, shadow = found[rate.tensor], self.shadow[rate.tensor]
            size = float(np.linalg.norm(g)) * rate.eta / 2.0**rate.shift
            halvings = max(0, int(np.ceil(np.log2(max(size, 1e-12) / rate.max_norm))))
            wanted = -g * rate.eta * 2.0 ** -(rate.shift + halvings)
            if self.spec:
                share = np.minimum(self.importance[rate.tensor] * 2.0**-self.spec.strength, 15 / 16)
                wanted += share * (self.ref[rate.tensor] - shadow)
            after = np.clip(shadow + np.clip(wanted, -rate.max_step, rate.max_step), -SHADOW_MAX, SHADOW_MAX)
            self.omega[rate.tensor] -= (
                np.clip(g * 2.0**-self.rule.gradient_shift, -32768, 32767) * (after - shadow) / 256
            )
            shadow[...] = after

    def boundary(self) -> None:
        if self.spec:
            for name, shadow in self.shadow.items():
                moved = (shadow - self.ref[name]) ** 2 / 256 + self.spec.damping
                self.importance[name] += np.maximum(0, self.omega[name]) * 2**16 / moved
                self.ref[name], self.omega[name] = shadow.copy(), np.zeros(shadow.shape)

    def right(self, x: AnyArray, label: AnyArray) -> float:
        y = self.run(np.stack([self.encode(q) for q in x]))[0]
        return float((y[:, : self.known].argmax(axis=1) == label).mean())


# ------------------------------------------------------------------ arms


def life(bundle: Bundle, name: str, arm: Arm, data: Split, seed: int) -> list[Run]:
    """The integers and their twin through the stream, side by side: the same lessons, the same stored samples."""
    device = armed(bundle, arm)
    learner, twin = new_learner(device), Twin(device)
    tests = [data.test] + [
        Digits(digits.turned(part.x), part.y)
        for part in (data.test.take(np.flatnonzero(np.isin(data.test.y, pair))) for pair in digits.BLOCKS)
    ]

    def examine() -> tuple[list[float], list[float]]:
        integers = [float((arms.answers(learner, part.x, "readout") == part.y).mean()) for part in tests]
        return integers, [twin.right(part.x, part.y) for part in tests]

    rows = [examine()]
    x, ends = arms.flat(digits.turned(data.stream.x)), digits.block_ends(data.stream.y)
    for i, (image, label) in enumerate(zip(x, data.stream.y, strict=True)):
        record = learner.plan_lesson(image.astype(np.int16), int(label), "full")
        twin.lesson(twin.encode(image), int(label))
        for place in record.draws:
            stored = learner.reservoir
            twin.lesson(twin.encode(stored.sample(place)), int(stored.label[place])) if stored else None
        learner.apply(record)
        if i + 1 in ends:
            between(learner, twin, arm)
            rows.append(examine())
    memory, energy = cost(device)
    integers, floats = (list(found) for found in zip(*rows, strict=True))
    fields = {"scenario": SCENARIO, "seed": seed, "tasks": TASKS}
    return [
        Run(arm=name, matrix=integers, untrained=integers[0], memory_bytes=memory, energy_uj=energy, **fields),
        Run(arm=f"{name} (float)", matrix=floats, untrained=floats[0], **fields),
    ]


def between(learner: Learner, twin: Twin, arm: Arm) -> None:
    """The end of a block."""
    held = {name: code.copy() for name, code in learner.arrays().items() if name.startswith("importance.")}
    learner.apply(Boundary(reason="command"))
    twin.boundary()
    for name, code in learner.arrays().items():
        tensor = name.removeprefix("importance.")
        if name.startswith("importance.") and arm.spread:
            code[...] = spread_evenly(code)
            twin.importance[tensor][...] = twin.importance[tensor].mean()
        if name.startswith("importance.") and arm.fisher:
            code[...] = held[name]
            twin.importance[tensor] = decode_importance(code).astype(np.float64)


def inference_only(runs: list[Run]) -> Run:
    """What the net gets that never learns: the first row, over and over."""
    first = runs[-2]
    return Run(
        scenario=SCENARIO, arm="none", seed=first.seed, matrix=[first.untrained] * len(first.matrix),
        untrained=first.untrained, tasks=TASKS,
    )  # fmt: skip


TEXT = """## What keeps old skills

By `make bench-consolidation`: the stream of digits in blocks (8 classes known from the factory, 456 images turned by 25
degrees, two classes at a time, each corrected once), e-prop on every weight, its error over all classes, the same
readout for every arm. Task "straight" is the factory's sensor; the others are the turned images of each block, in the
order that they were met. Seeds {seeds}; percent, ± is the standard deviation over seeds; energy and memory: pico2.

{table}

Integers less their float twin (the same start, lessons and stored samples; no rounding anywhere), ACC, paired by seed,
in points: {paired}. Against `plain`, in integers: {gains}.

- `intelligence`: synaptic intelligence (Zenke, Poole, Ganguli 2017) from the factory's importance on, credit and a
  boundary after each block. `uniform`: the same, with importance spread evenly over each tensor at every boundary.
- `ewc`: importance from the squared gradients of the exemplars, in the mean as large (Kirkpatrick et al. 2017, a
  diagonal Fisher matrix); boundaries move only its anchor. Only this benchmark has it.
- `replay`: two of 160 stored samples repeated with each lesson. `both`: replay and synaptic intelligence.

{remark}

{matrices}
"""

REMARK = """A readout that has just learned a block of two classes answers with these two; that is the conflict. Pulling
weights back lessens it, most where it is told which mattered; samples of the other classes settle it. The bundle's plan
does more: its error is restricted to recently met classes, and its prototypes decide (`digits_blocks`, above)."""


def page(runs: list[Run], seeds: int) -> str:
    named = [name for name in ARMS if name in by_arm(runs)]
    return TEXT.format(
        seeds=", ".join(map(str, range(1, seeds + 1))),
        table=table(runs),
        paired="; ".join(f"{name} {gap(runs, name, f'{name} (float)')}" for name in named),
        gains="; ".join(f"{name} {gap(runs, name, 'plain')}" for name in named if name != "plain"),
        remark=REMARK,
        matrices="\n".join(matrix(runs, name) for name in named if name in ("plain", "intelligence", "both")),
    )


def main() -> int:
    parser = command(__doc__, short="one seed, two arms, 40 lessons: seconds", seeds=5)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    args = parser.parse_args()
    if args.short:
        args.seeds, args.arms = 1, ["plain", "intelligence"]
    factory, field = digits.load()
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundles(Path(folder), factory).spiking
        for seed in range(1, args.seeds + 1):
            data = digits.split(field, seed)
            if args.short:
                data = shortened(data)
            for name in args.arms:
                runs += life(bundle, name, ARMS[name], data, seed)
                print(f"seed {seed}: {name} {np.mean(runs[-2].matrix[-1]):.3f}", file=sys.stderr, flush=True)
            runs.append(inference_only(runs))
    runs = [run for mine in by_arm(runs).values() for run in mine]
    publish(args, runs, page(runs, args.seeds))
    return 0


def shortened(data: Split) -> Split:
    """Ten lessons of each block and a fifth of the tests."""
    rows = [np.flatnonzero(np.isin(data.stream.y, pair))[:10] for pair in digits.BLOCKS]
    return replace(
        data, stream=data.stream.take(np.concatenate(rows)), test=data.test.take(np.arange(0, len(data.test.y), 5))
    )


if __name__ == "__main__":
    sys.exit(main())
