"""What streams of windows share: the net that they meet, a device's lifetime that follows one, and its float twin.

A stream is windows in the order in which they came, and labels that come later: `told` names past windows by number,
as the command `feedback` does (`edgerun/agent/`). `Device` does with them what an agent does: it keeps the newest
windows, teaches `Lifetime` the one that a label names, and asks the lesson guard whenever a group is full.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec
import numpy as np
import torch
from scenario import cost, filtered, gap

sys.path.append(str(Path(__file__).parents[2]))

from deploy.demo.arms import plain_plan
from edgerun import encode
from edgerun.agent.senses import WINDOWS
from edgerun.arrays import F64, I16, I64, AnyArray, Bool
from edgerun.bundle import Bundle, Probe, read_bundle
from edgerun.errors import DataError
from edgerun.graph import layer_reaches
from edgerun.kernels.eprop import trace_gain
from edgerun.kernels.plasticity import decode_importance
from edgerun.learn import reservoir
from edgerun.learn.records import Settle
from edgerun.learn.reservoir import Reservoir
from edgerun.lifetime import Lifetime
from edgerun.network import Network
from edgerun.rules import RuleRecord
from edgerun.spec import Head, LearningPlan, Level, Replay
from exporters.data import hold_out
from exporters.export import PROBE_ROWS, Options, exemplar_rows, export
from exporters.head import inverse_root
from exporters.runs import Run
from exporters.training.one_cycle import Course
from exporters.training.surrogate import LIMIT, RecurrentLif, Shape, fit, write_nir
from firmware_sim.flash import SimFlash

BATCH: Final = 128
RATE: Final = 3e-3
PACE: Final = 0.1  # of the exporter's longest step: a stream comes in blocks of one class
PASSES: Final = 4  # replayed samples a lesson
REFRESH: Final = 4  # lessons between two recomputations of the means


@dataclass(frozen=True)
class Windows:
    """x (n, steps, inputs) float32, y (n,) classes."""

    x: AnyArray
    y: I64

    def take(self, where: AnyArray) -> Windows:
        return Windows(self.x[where], self.y[where])

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Stream:
    """Windows as they come; told: (when, which) pairs, at window `when` the label of window `which` arrives."""

    windows: Windows
    told: tuple[tuple[int, int], ...]


# ------------------------------------------------------------------ the factory


def train(
    known: Windows,
    shape: Shape,
    seed: int,
    epochs: int,
    changed: Callable[[AnyArray, np.random.Generator], AnyArray],
    gain: float,
) -> RecurrentLif:
    """A net for these windows, each batch changed as `changed` does."""
    net, course = RecurrentLif(shape, seed, input_gain=gain), Course(epochs=epochs, batch=BATCH, rate=RATE)

    def windows(rows: I64, rng: np.random.Generator) -> torch.Tensor:
        return torch.from_numpy(changed(known.x[rows], rng).astype(np.float32))

    return fit(net, known.y, course, seed, windows)


def exported(net: RecurrentLif, known: Windows, names: Sequence[str], capacity: int) -> Bundle:
    """The net as a bundle that learns by e-prop, means of what the field teaches beside the factory's.

    capacity  samples that it can remember; it starts with as many known ones, of each class in turn
    """
    with tempfile.TemporaryDirectory() as folder:
        model, data = Path(folder, "net.nir"), Path(folder, "known.npz")
        write_nir(net, model, {"encoder": "frames", "steps": known.x.shape[1]})
        np.savez(data, x=known.x, y=known.y, class_names=np.array(names))
        bundle = read_bundle(export(model, data, Options(learn="eprop", beside=True, capacity=len(names))).data)
    plan, (kept, held) = bundle.manifest.learning, parted(known)
    rows = exemplar_rows(known.y, np.setdiff1d(kept, held), capacity)
    replay = Replay(capacity=capacity, passes=PASSES, refresh_every=REFRESH)
    plan = msgspec.structs.replace(plan, rule=slower(plan.rule), replay=replay)
    manifest = msgspec.structs.replace(bundle.manifest, learning=plan)
    x = rows_of(bundle, known.x[rows])
    return replace(bundle, manifest=manifest, exemplars=Probe(x, known.y[rows].astype(np.int32)))


def parted(known: Windows) -> tuple[I64, I64]:
    """Which windows the exporter makes a bundle's means of, and which become its probe."""
    return hold_out(known.y, least=PROBE_ROWS[0], most=PROBE_ROWS[1])


def rows_of(bundle: Bundle, x: AnyArray) -> AnyArray:
    """Windows as a bundle holds them."""
    spec = bundle.manifest.input
    return quantised(bundle, x).astype(spec.dtype).reshape(-1, *spec.shape)


def slower(rule: RuleRecord) -> RuleRecord:
    """The rule with steps of at most `PACE` of their length."""
    rates = [msgspec.structs.replace(rate, max_norm=max(1, round(PACE * rate.max_norm))) for rate in rule.rates]
    return msgspec.structs.replace(rule, rates=tuple(rates))


def quantised(bundle: Bundle, x: AnyArray) -> I16:
    return np.stack([encode.sense(None, bundle.manifest.input, window) for window in x])


def kept_net(file: Path, make: Callable[[], RecurrentLif]) -> RecurrentLif:
    """The net in a file, made and put there where it is missing."""
    if file.exists():
        net: RecurrentLif = torch.load(file, weights_only=False)
        return net
    net = make()
    torch.save(net, file)
    return net


# ------------------------------------------------------------------ arms


@dataclass(frozen=True)
class Arm:
    """What an arm may learn with: the level of its lessons (None: it gets none), and its plan of the bundle's."""

    level: Level | None
    plan: Callable[[LearningPlan], LearningPlan]
    readout: bool = False  # decided by the readout that the rule trains, not by prototypes
    importance: Callable[[AnyArray], AnyArray] = lambda code: code


def without_rule(plan: LearningPlan) -> LearningPlan:
    return msgspec.structs.replace(plan, rule=None, intelligence=None)


def without_intelligence(plan: LearningPlan) -> LearningPlan:
    return msgspec.structs.replace(plan, intelligence=None)


def uniform(code: AnyArray) -> AnyArray:
    """The same importance for all weights of a tensor: the code nearest to the mean of what they had."""
    every = decode_importance(np.arange(232, dtype=np.uint8))
    mean = decode_importance(code).mean()
    return np.full_like(code, np.abs(every - mean).argmin())


ARMS: Final[Mapping[str, Arm]] = MappingProxyType(
    {
        "none": Arm(None, lambda plan: LearningPlan()),
        "prototypes": Arm("head", without_rule),
        "plain": Arm("full", plain_plan, readout=True),
        "replay": Arm("full", without_intelligence),
        "uniform": Arm("full", lambda plan: plan, importance=uniform),
        "full": Arm("full", lambda plan: plan),
    }
)
TWINS: Final = ("none", "prototypes", "full")
"""Arms that have a float twin."""

ABOUT_ARMS: Final = """- `none`: nothing is taught. `prototypes`: the field's mean of each class beside the
  factory's, no weight moves.
- `plain`: e-prop on every weight and label, no replay, no consolidation, no threshold; the readout that it trains
  decides. `full`: the plan: e-prop where p(label) < 0.9, four replayed samples a lesson, the factory's importance of
  each weight, prototypes. Steps of both are a tenth of the exporter's. Controls: `replay` is `full` without
  importance; `uniform`, where it was run, has the same importance spread evenly over each tensor.
- `(float)`: the float net, the same lessons and replayed samples, e-prop in float64 with the plan's rates in real
  units. Memory is the planner's, energy is estimated for a Pico 2."""


def planned(bundle: Bundle, arm: Arm) -> Bundle:
    """The bundle with an arm's plan: what an arm does not use costs it nothing."""
    manifest = msgspec.structs.replace(bundle.manifest, learning=arm.plan(bundle.manifest.learning))
    check = bundle.selftest
    if arm.readout:
        manifest = msgspec.structs.replace(manifest, head=Head())
        network = Network(manifest, bundle.tensors)
        scores = np.stack([network.infer(q.reshape(-1).astype(np.int16)).scores for q in check.x])
        check = replace(check, y=scores)
    kept = bundle.exemplars if manifest.learning.replay.capacity else None
    priors = {name: arm.importance(code) for name, code in bundle.priors.items() if manifest.learning.intelligence}
    return replace(bundle, manifest=manifest, exemplars=kept, priors=priors, selftest=check)


# ------------------------------------------------------------------ the device


class Device:
    """One arm's device: a `Lifetime` on flash of its own, and the newest windows, which labels may still name."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.life = bundle, Lifetime(bundle, SimFlash(pages=1 << 16))
        self.updates = self.undone = 0

    def follow(self, stream: Stream, level: Level | None) -> Bool:
        """Whether each window was named rightly when it came, before its label; labels are lessons at a level.

        Raises DataError for a label that names a window which an agent would no longer have.
        """
        q, y, right = (
            quantised(self.bundle, stream.windows.x),
            stream.windows.y,
            np.zeros(len(stream.windows), np.bool_),
        )
        for part, names in pieces(stream, heard=level is not None):
            right[part] = self._named(q[part]) == y[part]
            for which in names:
                if which < part.stop - WINDOWS:
                    raise DataError(f"feedback sample {which} is not among the last {WINDOWS} at {part.stop - 1}")
                self._teach(q[which], int(y[which]), level or "head", which)
            if part.stop - 1 == last_label(stream) and level:
                self.life.change(Settle())
                self.life.commit()
        return right

    def _named(self, q: I16) -> I64:
        found: I64 = self.life.learner.scores(q).argmax(axis=1)
        return found

    def _teach(self, q: I16, label: int, level: Level, sample: int) -> None:
        """A lesson, and what the guard says once a group of them is full."""
        self.updates += self.life.teach(q, label, level, sample).updates
        if self.life.judgement_due:
            self.undone += not self.life.judge().good

    def share_right(self, windows: Windows) -> float:
        """The share of windows that it names rightly now."""
        return float((self._named(quantised(self.bundle, windows.x)) == windows.y).mean())


def last_label(stream: Stream) -> int:
    """The window at which the last label comes: then the means settle, as they do when a command's lessons end."""
    return max((when for when, _ in stream.told), default=-1)


def pieces(stream: Stream, *, heard: bool) -> Iterator[tuple[slice, list[int]]]:
    """The windows up to each one at which labels come, and which windows these name; nothing is learned between."""
    told: dict[int, list[int]] = {}
    for when, which in stream.told if heard else ():
        told.setdefault(when, []).append(which)
    first = 0
    for when in sorted(told):
        yield slice(first, when + 1), told[when]
        first = when + 1
    if first < len(stream.windows):
        yield slice(first, len(stream.windows)), []


# ------------------------------------------------------------------ the float twin


class Twin:
    """The same net, lessons and means in float64: e-prop as the paper has it, the plan's rates in real units.

    `units` measures what an integer of each tensor is worth: the factor by which its int8 weights come nearest to the
    float ones. Steps are halved until they are no longer than the plan's norm, replay draws the same samples, and
    importance pulls with the bundle's own prior. No guard.
    """

    def __init__(self, bundle: Bundle, net: RecurrentLif, known: Windows) -> None:
        self.bundle, self.shape = bundle, net.shape
        self.plan = bundle.manifest.learning
        self.weights = {
            "input": as_array(net.input).T.copy(),
            "recurrent": as_array(net.recurrent).T.copy(),
            "readout": as_array(net.output).T.copy(),
        }
        self.bias, self.output_bias = as_array(net.bias), as_array(net.output_bias)
        self.offset = bundle.manifest.input.zero_point * bundle.manifest.input.scale  # of what the weights see
        self.bias -= self.offset * self.weights["input"].sum(axis=0)
        self.lessons, self.recent = 0, deque[int]()
        self.steps = steps_of(bundle, self.weights) if self.plan.rule else {}
        state = {name: np.zeros(slot.shape, slot.dtype) for name, slot in reservoir.slots(bundle.manifest).items()}
        state["replay.x"] = np.zeros(state["replay.x"].shape, np.float64)
        self.reservoir = Reservoir(state, bundle.manifest.seed)
        if bundle.exemplars is not None:
            held = bundle.exemplars.x.reshape(len(bundle.exemplars.x), -1) * bundle.manifest.input.scale - self.offset
            self.reservoir.fill(held, bundle.exemplars.label)
        known = known.take(parted(known)[0])
        z = self.features(known.x)
        self.matrix, self.mean = inverse_root(z, known.y)
        classes = len(bundle.manifest.classes.names)
        self.sums, self.counts = np.zeros((2 * classes, z.shape[1])), np.zeros(2 * classes)
        np.add.at(self.sums, known.y, self.whitened(z))
        np.add.at(self.counts, known.y, 1)

    # -------------------------------------------------------------- answers

    def run(self, x: AnyArray) -> tuple[F64, F64, F64]:
        """(logits (n, k), spikes (n, T, neurons), psi alike) of windows x (n, T, inputs)."""
        shape, weights = (len(x), self.shape.hidden), self.weights
        v, z, y = np.zeros(shape), np.zeros(shape), np.zeros((len(x), self.shape.outputs))
        drive = (x + self.offset) @ weights["input"] + self.bias
        spikes, psi = np.zeros(drive.shape), np.zeros(drive.shape)
        for t in range(x.shape[1]):
            v = np.clip(self.shape.beta * v + drive[:, t] + z @ weights["recurrent"] - z, -LIMIT, LIMIT)
            z = (v > 1).astype(np.float64)
            spikes[:, t], psi[:, t] = z, np.maximum(0, 1 - np.abs(v - 1))
            y = self.shape.kappa * y + z @ weights["readout"] + self.output_bias
        return y, spikes, psi

    def features(self, x: AnyArray) -> F64:
        """(n, neurons) spike counts."""
        return np.concatenate([self.run(part)[1].sum(axis=1) for part in np.array_split(x, max(1, len(x) // 500))])

    def whitened(self, z: F64) -> F64:
        found: F64 = (z - self.mean) @ self.matrix.T
        return found

    def answers(self, x: AnyArray) -> I64:
        """The class of the nearest mean, the factory's or the field's."""
        there = self.counts > 0
        means = self.sums[there] / self.counts[there][:, None]
        z = self.whitened(self.features(x))
        nearest = ((z[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
        found: I64 = np.flatnonzero(there)[nearest] % (len(self.counts) // 2)
        return found

    def share_right(self, windows: Windows) -> float:
        return float((self.answers(windows.x) == windows.y).mean())

    # -------------------------------------------------------------- lessons

    def follow(self, stream: Stream, level: Level | None) -> Bool:
        """A device's way through a stream; whether each window was named rightly when it came."""
        x, y, right = stream.windows.x, stream.windows.y, np.zeros(len(stream.windows), np.bool_)
        for part, names in pieces(stream, heard=level is not None):
            right[part] = self.answers(x[part]) == y[part]
            for which in names:
                self.teach(x[which], int(y[which]), level or "head")
            if part.stop - 1 == last_label(stream) and level not in (None, "head"):
                self.refresh()
        return right

    def teach(self, x: AnyArray, label: int, level: Level) -> None:
        """One lesson.    x  (T, inputs)"""
        self.lessons += 1
        taught = len(self.counts) // 2
        if level == "head":
            self.sums[taught + label] += self.whitened(self.features(x[None]))[0]
            self.counts[taught + label] += 1
        else:
            held, seed = self.reservoir.filled, self.bundle.manifest.seed
            passes = self.plan.replay.passes if len(held) else 0
            places = [int(held[k]) for k in reservoir.draw(seed, self.lessons, passes, len(held))]
            self.learn(x, label)
            for place in places:
                self.learn(self.reservoir.x[place].reshape(x.shape), int(self.reservoir.label[place]))
        self.reservoir.add(x.reshape(-1), label, self.lessons, taught)
        if level != "head" and self.lessons % self.plan.replay.refresh_every == 0:
            self.refresh()

    def refresh(self) -> None:
        """Recompute every mean from the reservoir, where it holds samples of it."""
        filled, taught = self.reservoir.filled, len(self.counts) // 2
        if not len(filled):
            return
        rows = self.reservoir.label[filled] + taught * (self.reservoir.field[filled] != 0)
        z = self.whitened(self.features(self.reservoir.x[filled].reshape(len(filled), -1, self.shape.inputs)))
        for k in np.unique(rows):
            self.sums[k], self.counts[k] = z[rows == k].sum(axis=0), (rows == k).sum()

    def learn(self, x: AnyArray, label: int) -> None:
        """One update by e-prop, where p(label) is not high enough."""
        rule = self.plan.rule
        self.recent.append(label)
        if rule.recent_labels and len(self.recent) > rule.recent_labels:
            self.recent.popleft()
        logits, spikes, psi = (part[0] for part in self.run(x[None]))
        play = sorted(set(self.recent)) if rule.recent_labels else list(range(len(logits)))
        p = np.zeros(len(logits))
        p[play] = np.exp(logits[play] - logits[play].max())
        p /= p.sum()
        if p[label] * 32768 >= rule.error_threshold:
            return
        error = p - np.eye(len(p))[label]
        signal, post = self.weights["readout"] @ error, np.zeros_like(psi)
        for t in range(len(x) - 1, -1, -1):
            post[t] = psi[t] * signal
            signal = self.shape.kappa * signal
        late = np.concatenate([np.zeros((1, spikes.shape[1])), spikes[:-1]])
        gradients = {
            "input": filtered(x + self.offset, self.shape.beta).T @ post,
            "recurrent": filtered(late, self.shape.beta).T @ post,
            "readout": np.outer(filtered(spikes, self.shape.kappa)[-1], error),
        }
        for name, gradient in gradients.items():
            self.weights[name] += self.steps[name].change(self.weights[name], gradient)


@dataclass(frozen=True)
class Descent:
    """How one tensor steps, in real units: rate, longest step, and importance: the share of the way back to `ref`."""

    rate: float
    norm: float
    share: F64 | float
    ref: F64

    def change(self, weights: F64, gradient: F64) -> F64:
        size = self.rate * float(np.linalg.norm(gradient))
        halvings = max(0, math.ceil(math.log2(max(size, 1e-12) / self.norm)))
        return self.share * (self.ref - weights) - self.rate * 2.0**-halvings * gradient


def steps_of(bundle: Bundle, weights: Mapping[str, F64]) -> dict[str, Descent]:
    """The plan's rates, norms and importance as real numbers."""
    manifest, found = bundle.manifest, {}
    rule, intelligence = manifest.learning.rule, manifest.learning.intelligence
    beta, kappa = (int(bundle.tensors[name][0]) for name in (f"{rule.layer}.decay", f"{rule.readout}.kappa"))
    tensors = dict(zip(weights, (rate.tensor for rate in rule.rates), strict=True))
    units = {name: worth(bundle.tensors[tensor], weights[name]) for name, tensor in tensors.items()}
    signal = 2.0 ** (15 - rule.signal_shift) / units["readout"] * (1 - kappa / 2**15)
    post = signal * 2.0 ** (8 - rule.post_shift)
    reach = layer_reaches(manifest)[rule.layer][0][0]
    scales = {
        "input": 2.0 ** trace_gain(beta, reach) / manifest.input.scale * post,
        "recurrent": 2.0 ** trace_gain(beta) * post,
        "readout": 2.0 ** (trace_gain(kappa) + 15),
    }
    for rate, (name, tensor) in zip(rule.rates, tensors.items(), strict=True):
        unit, share = units[name] / 256, 0.0
        if intelligence and tensor in bundle.priors:
            pull = decode_importance(bundle.priors[tensor]) * 2.0**-intelligence.strength
            share = np.minimum(pull, 15 / 16)
        speed = rate.eta * 2.0**-rate.shift * scales[name] * unit
        found[name] = Descent(speed, rate.max_norm * unit, share, weights[name].copy())
    return found


def worth(integers: AnyArray, floats: F64) -> float:
    """What one integer is worth: the factor that brings a tensor nearest to its floats."""
    whole = integers.astype(np.float64)
    return float((whole * floats).sum() / (whole * whole).sum())


def as_array(parameter: torch.Tensor) -> F64:
    found: F64 = parameter.detach().numpy().astype(np.float64)
    return found


# ------------------------------------------------------------------ every arm


def runs(
    made: Callable[..., Run],
    bundle: Bundle,
    net: RecurrentLif,
    known: Windows,
    streams: Sequence[Stream],
    tests: Sequence[Windows],
    *,
    arms: Sequence[str] = tuple(ARMS),
    undone: str = "undone by the guard",
) -> Iterator[tuple[Run, list[bool]]]:
    """A run of every arm, of its float twin where it has one, and whether each window was named rightly when it came.

    made    a Run, but for its arm and what was measured of it
    known   what the bundle was calibrated with     undone  what the figure is called
    """
    for name in arms:
        arm, plan = ARMS[name], planned(bundle, ARMS[name])
        device = Device(plan)
        matrix, right = followed(device, streams, tests, arm.level)
        memory, energy = cost(plan)
        figures = {"right as they came %": share(right), "updates": device.updates, undone: device.undone}
        yield made(arm=name, matrix=matrix, memory_bytes=memory, energy_uj=energy, figures=figures), right
        if name in TWINS:
            matrix, right = followed(Twin(plan, net, known), streams, tests, arm.level)
            yield made(arm=f"{name} (float)", matrix=matrix, figures={"right as they came %": share(right)}), right


def followed(
    device: Device | Twin, streams: Sequence[Stream], tests: Sequence[Windows], level: Level | None
) -> tuple[list[list[float]], list[bool]]:
    """The accuracy matrix, a row before all streams and one after each, and what was said of every window of them."""
    matrix, right = [[device.share_right(test) for test in tests]], []
    for stream in streams:
        right += device.follow(stream, level).tolist()
        matrix.append([device.share_right(test) for test in tests])
    return matrix, right


def share(right: Sequence[bool]) -> float:
    """In percent."""
    return 100 * float(np.mean(right))


# ------------------------------------------------------------------ what comes out


def paired(runs: Sequence[Run], task: int) -> str:
    """Integers less their float twin in points of accuracy on the last tasks, for each arm that has one."""

    def last(run: Run) -> float:
        return float(np.mean(run.matrix[-1][task:]))

    return "; ".join(f"{name} {gap(runs, name, f'{name} (float)', last, digits=2)}" for name in TWINS)


WIDTH, HEIGHT, LEFT, TOP = 720, 220, 44, 30
COLOURS: Final = {"none": "#888", "prototypes": "#2a7", "plain": "#c33", "full": "#26c"}


def picture(title: str, right: Mapping[str, Sequence[Sequence[bool]]], smooth: int, marks: Sequence[int]) -> str:
    """SVG: the share of windows named rightly as they came, mean of all streams and of `smooth` windows before.

    right  by arm, a row a stream     marks  windows at which something ends, as upright lines
    """
    curves = {arm: smoothed(rows, smooth) for arm, rows in right.items() if arm in COLOURS}
    last = max(len(curve) for curve in curves.values()) - 1
    size = f'width="{LEFT + WIDTH + 16}" height="{TOP + HEIGHT + 56}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f'<rect {size} fill="white"/>',
        f'<text x="{LEFT}" y="{TOP - 10}">{title}</text>',
    ]
    for percent in (0, 25, 50, 75, 100):
        y = TOP + HEIGHT * (1 - percent / 100)
        parts.append(f'<text x="{LEFT - 6}" y="{y}" text-anchor="end" dominant-baseline="middle">{percent}</text>')
        parts.append(f'<path d="M{LEFT} {y}h{WIDTH}" stroke="#ddd"/>')
    parts += [f'<path d="M{LEFT + WIDTH * k / last:.1f} {TOP}v{HEIGHT}" stroke="#999"/>' for k in marks]
    for at, (arm, curve) in enumerate(curves.items()):
        points = " ".join(
            f"{LEFT + WIDTH * k / last:.1f},{TOP + HEIGHT * (1 - share):.1f}" for k, share in enumerate(curve)
        )
        x, y = LEFT + 130 * at, TOP + HEIGHT + 40
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[arm]}" stroke-width="1.5"/>')
        parts.append(f'<path d="M{x} {y - 4}h18" stroke="{COLOURS[arm]}" stroke-width="2"/>')
        parts.append(f'<text x="{x + 22}" y="{y}">{arm}</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP + HEIGHT + 18}">0 to {last} windows</text>')
    return "\n".join([*parts, "</svg>\n"])


def smoothed(rows: Sequence[Sequence[bool]], smooth: int) -> F64:
    """Mean of streams, cut to the shortest, over the last `smooth` windows of each."""
    shortest = min(map(len, rows))
    mean = np.mean([row[:shortest] for row in rows], axis=0)
    total = np.concatenate([np.zeros(1), np.cumsum(mean)])
    end = np.arange(1, shortest + 1)
    begin = np.maximum(0, end - smooth)
    found: F64 = (total[end] - total[begin]) / (end - begin)
    return found
