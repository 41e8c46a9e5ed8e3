"""A hand's velocity from spikes: e-prop towards values, from one set of trials to the next, with electrodes changed.

    python benchmarks/learning/values.py --seeds 5 --markdown docs/results.md        (make bench-values)

Spike counts of 71 units of a macaque's motor cortex (`reach_macaque.npz`), windows of ten bins, velocity in x and y at
the window's end. The factory trains a net on the first set of trials by float e-prop with Adam, writes it as NIR and
exports it with `--learn eprop-values`; the device gets every window of the second set once, in order, with its velocity
behind it. Every third unit of the second set has changed its place with the one three further on: another electrode.

Arms: `none` learns nothing, `plain` by e-prop, `full` with synaptic intelligence too, its importance from the factory's
windows. The float twin of `plain` starts from the exported weights, takes the same lessons at the same rates.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import nir
import numpy as np
from scenario import Run, command, cost, data_file, publish, save
from tables import Table, spread

from edgerun.arrays import F64, AnyArray
from edgerun.bundle import Bundle, read_bundle
from edgerun.commands.adapt_values import Valued, adapt, answers, read
from edgerun.encode.targets import real_targets
from edgerun.errors import DataError
from edgerun.learn.learner import Learner
from edgerun.lifetime import new_learner
from edgerun.metrics import r_squared
from edgerun.rules import EPropValues
from exporters.export import Options, export
from exporters.learning_values import real_units, weight_fractions
from exporters.runs import by_arm
from exporters.training.nir_nodes import DT, NEVER, leaky

SCENARIO = "values"
STEPS, UNITS, OUTPUTS = 10, 71, 2
TRAINED, ADAPTED = 900, 1400  # windows of the first set and of the second that are learned from; the rest tests
TAU = 2.0  # bins
GAMMA = 77 / 256
VELOCITY = 8.0  # what the factory's net learns in
TASKS = ("first set", "second set, electrodes changed")


@dataclass(frozen=True)
class Data:
    """x (n, STEPS, UNITS) int8 counts, velocity (n, 2)."""

    x: AnyArray
    velocity: F64

    def take(self, first: int, last: int | None = None) -> Data:
        return Data(self.x[first:last], self.velocity[first:last])

    def save(self, path: Path) -> None:
        np.savez(path, x=self.x, targets=self.velocity)


def sets() -> tuple[Data, Data]:
    """Both sets of trials, in windows that end at each bin."""
    with np.load(data_file("reach_macaque.npz")) as file:
        first, second = ((file[f"spikes_{k}"], file[f"velocity_{k}"].astype(np.float64)) for k in "ab")
    places, moved = np.arange(UNITS), np.arange(0, UNITS, 3)
    places[moved] = np.roll(moved, 1)
    return Data(windows(first[0]), first[1]), Data(windows(second[0][:, places]), second[1])


def windows(counts: AnyArray) -> AnyArray:
    """The newest STEPS bins at each bin, silence before the first."""
    padded = np.concatenate([np.zeros((STEPS - 1, UNITS), np.int8), counts.astype(np.int8)])
    return np.stack([padded[k : k + len(counts)] for k in range(STEPS)], axis=1)


# ------------------------------------------------------------------ floats


def filtered(x: AnyArray, factor: float) -> F64:
    """The exponential trace along axis 1."""
    out, state = np.zeros(x.shape), np.zeros(x.shape[::2])
    for t in range(x.shape[1]):
        state = factor * state + x[:, t]
        out[:, t] = state
    return out


@dataclass
class FloatNet:
    """w (UNITS, n), r (n, n), o (n, 2): v <- alpha v + x w + z r - z, a spike where v >= 1; y <- kappa y + z o."""

    w: F64
    r: F64
    o: F64
    alpha: float = float(np.exp(-1 / TAU))
    kappa: float = float(np.exp(-1 / TAU))

    @classmethod
    def random(cls, neurons: int, rng: np.random.Generator) -> FloatNet:
        w = rng.normal(0, 0.7 / np.sqrt(UNITS), (UNITS, neurons))
        return cls(w, rng.normal(0, 0.3 / np.sqrt(neurons), (neurons, neurons)), np.zeros((neurons, OUTPUTS)))

    def run(self, x: AnyArray) -> tuple[F64, F64, F64]:
        """y (n, 2) at the end, spikes and surrogate derivatives (n, T, neurons)."""
        v, z, y = np.zeros((len(x), len(self.r))), np.zeros((len(x), len(self.r))), np.zeros((len(x), OUTPUTS))
        current = x @ self.w
        spikes, psi = np.zeros(current.shape), np.zeros(current.shape)
        for t in range(x.shape[1]):
            v = np.clip(self.alpha * v + current[:, t] + z @ self.r - z, -8, 8)
            z = (v >= 1).astype(np.float64)
            spikes[:, t], psi[:, t] = z, GAMMA * np.maximum(0, 1 - np.abs(v - 1))
            y = self.kappa * y + z @ self.o
        return y, spikes, psi

    def gradients(self, x: AnyArray, spikes: F64, psi: F64, error: F64) -> dict[str, F64]:
        """Of half the squared error (n, 2) of the last step, by e-prop, means over the samples."""
        late = np.concatenate([np.zeros_like(spikes[:, :1]), spikes[:, :-1]], axis=1)
        signal = self.kappa ** np.arange(x.shape[1] - 1, -1, -1)[None, :, None] * (error @ self.o.T)[:, None]
        post = psi * signal
        return {
            "w": np.einsum("nti,ntj->ij", filtered(x, self.alpha), post) / len(x),
            "r": np.einsum("nti,ntj->ij", filtered(late, self.alpha), post) / len(x),
            "o": np.einsum("ni,nj->ij", filtered(spikes, self.kappa)[:, -1], error) / len(x),
        }


def factory(data: Data, seed: int, neurons: int, epochs: int) -> FloatNet:
    """Trained by e-prop in batches of 32 with Adam, its rate falling to 0."""
    rng = np.random.default_rng([seed, 1])
    net, moments, count = FloatNet.random(neurons, rng), {name: [0.0, 0.0] for name in "wro"}, len(data.x)
    batches = [(e, rows) for e in range(epochs) for rows in np.array_split(rng.permutation(count), count // 32)]
    for step, (epoch, rows) in enumerate(batches, start=1):
        y, spikes, psi = net.run(data.x[rows])
        for name, g in net.gradients(data.x[rows], spikes, psi, y - data.velocity[rows] / VELOCITY).items():
            m, v = moments[name]
            moments[name] = [m, v] = [0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2]
            rate = 3e-3 * (1 - epoch / epochs)
            change = rate * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            setattr(net, name, getattr(net, name) - change)
    net.o *= VELOCITY
    return net


def write_nir(net: FloatNet, path: Path) -> None:
    nodes = {
        "input": nir.Input({"input": np.array([UNITS])}),
        "dense": nir.Linear(net.w.T.astype(np.float32)), "hidden": leaky(len(net.r), net.alpha, 1.0, reset="subtract"),
        "again": nir.Linear(net.r.T.astype(np.float32)), "read": nir.Linear(net.o.T.astype(np.float32)),
        "readout": leaky(OUTPUTS, net.kappa, NEVER, reset="none", role="readout"),
        "output": nir.Output({"output": np.array([OUTPUTS])}),
    }  # fmt: skip
    edges = [("input", "dense"), ("dense", "hidden"), ("hidden", "again"), ("again", "hidden"), ("hidden", "read")]
    edges += [("read", "readout"), ("readout", "output")]
    nir.write(path, nir.NIRGraph(nodes, edges, metadata={"dt": DT, "encoder": "frames", "steps": STEPS}))


class Twin:
    """The exported net in float64 with the bundle's rates; values in the readout's own unit."""

    def __init__(self, bundle: Bundle) -> None:
        manifest, rule = bundle.manifest, bundle.manifest.learning.rule
        if not isinstance(rule, EPropValues) or manifest.output is None:
            raise DataError("the bundle has no plan of e-prop for values")
        names = {"w": f"{rule.layer}.input", "r": f"{rule.layer}.recurrent", "o": f"{rule.readout}.input"}
        bits, units = weight_fractions(manifest, rule), real_units(manifest, bundle.tensors, rule)
        self.net = FloatNet(
            **{part: bundle.tensors[name] * 2.0 ** (8 - bits[name]) for part, name in names.items()},
            alpha=float(bundle.tensors[f"{rule.layer}.decay"][0]) / 2**15,
            kappa=float(bundle.tensors[f"{rule.readout}.kappa"][0]) / 2**15,
        )
        rates = {rate.tensor: rate for rate in rule.rates}
        self._rate = {p: rates[n].eta * 2.0 ** -(rates[n].shift + bits[n]) * units[n] for p, n in names.items()}
        self._norm = {p: rates[n].max_norm * 2.0 ** -bits[n] for p, n in names.items()}
        self._unit = manifest.output.scale * 2.0**24
        self._near = 1 - rule.error_threshold / 2**15

    def answer(self, x: AnyArray) -> F64:
        return self.net.run(x)[0] * self._unit

    def learn(self, x: AnyArray, velocity: F64) -> None:
        """One lesson, each tensor's step halved until it is no longer than its limit."""
        y, spikes, psi = self.net.run(x[None])
        error = np.clip(y - velocity / self._unit, -1, 1)
        if np.abs(error).mean() <= self._near:
            return
        for name, g in self.net.gradients(x[None], spikes, psi, error).items():
            size = self._rate[name] * float(np.linalg.norm(g))
            halvings = max(0, int(np.ceil(np.log2(max(size, 1e-12) / self._norm[name]))))
            setattr(self.net, name, getattr(self.net, name) - self._rate[name] * 2.0**-halvings * g)


# ------------------------------------------------------------------ arms


def bundle_of(net: FloatNet, data: Data, folder: Path) -> Bundle:
    """The factory's way: NIR, calibration with targets, `--learn eprop-values`."""
    write_nir(net, folder / "reach.nir")
    data.save(folder / "factory.npz")
    return read_bundle(export(folder / "reach.nir", folder / "factory.npz", Options(learn="eprop-values")).data)


def without_intelligence(bundle: Bundle) -> Bundle:
    plan = msgspec.structs.replace(bundle.manifest.learning, intelligence=None)
    return replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, learning=plan))


def seed_runs(seed: int, first: Data, second: Data, trained: int, adapted: int, neurons: int, epochs: int) -> list[Run]:
    """All arms from one factory's net."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = bundle_of(factory(first.take(0, trained), seed, neurons, epochs), first.take(0, trained), folder)
        first.take(trained).save(folder / "old.npz")
        second.save(folder / "new.npz")
        old, new = read(bundle, folder / "old.npz"), read(bundle, folder / "new.npz")
    tests = (Data(first.x[trained:], first.velocity[trained:]), Data(second.x[adapted:], second.velocity[adapted:]))
    runs, twin = [], Twin(bundle)
    before = [twin_fit(twin, test) for test in tests]
    for x, velocity in zip(second.x[:adapted], second.velocity[:adapted], strict=True):
        twin.learn(x, velocity)
    runs.append(run_of("plain (float)", seed, before, [twin_fit(twin, test) for test in tests]))
    for arm, what in (("none", None), ("plain", without_intelligence(bundle)), ("full", bundle)):
        runs.append(integer_run(arm, what, bundle, seed, old, new, adapted))
    return runs


def integer_run(
    arm: str, learning: Bundle | None, bundle: Bundle, seed: int, old: Valued, new: Valued, adapted: int
) -> Run:
    """The device's lessons, by `edgerun adapt`'s own way, and how near it is to both sets before and after."""
    test = np.arange(adapted, len(new))
    factory_net = new_learner(bundle)
    before = [fitted(factory_net, old, np.arange(len(old))), fitted(factory_net, new, test)]
    after, told = before, []
    if learning is not None:
        kept: list[Learner] = []
        told = [adapt(learning, new, np.arange(adapted), None, kept.append)]
        after = [fitted(kept[0], old, np.arange(len(old))), fitted(kept[0], new, test)]
    run = run_of(arm, seed, before, after)
    memory, energy = cost(learning or bundle)
    figures = run.figures | {"updates": float(told[0].updates)} if told else run.figures
    return msgspec.structs.replace(run, memory_bytes=memory, energy_uj=energy, figures=figures)


def run_of(arm: str, seed: int, before: list[float], after: list[float]) -> Run:
    names = ("R2 first set", "R2 second set")
    figures = {f"{name} before": value for name, value in zip(names, before, strict=True)}
    figures |= {f"{name} after": value for name, value in zip(names, after, strict=True)}
    return Run(scenario=SCENARIO, arm=arm, seed=seed, figures=figures)


def twin_fit(twin: Twin, data: Data) -> float:
    return r_squared(twin.answer(data.x), data.velocity) or 0.0


def fitted(learner: Learner, data: Valued, rows: AnyArray) -> float:
    found, _ = answers(learner, data, rows)
    return r_squared(found, real_targets(learner.manifest, data.target[rows])[:, -1]) or 0.0


# ------------------------------------------------------------------ the page

TEXT = """## Lessons that bring values: a hand's velocity

By `make bench-values`: spike counts of 71 units of a macaque's motor cortex, windows of {steps} bins, velocity in x and
y at the end of each. A recurrent net of {neurons} LIF neurons, trained in floats on the first {trained} windows of the
first set of trials, is exported with `--learn eprop-values`; then {adapted} windows of the second set teach it, each
once, in order. Of the second set every third unit has changed its place with the one three further on. R^2, the mean of
both axes, in percent, on the {old} windows of the first set and the {new} of the second that teach nobody; mean ±
standard deviation over seeds {seeds} (nets; the data are the same).

{table}

Integers less their float twin (`plain`), paired by seed, in points: {apart}.
`full` has synaptic intelligence, its importance from the factory's windows. On a Pico 2 (estimated) a lesson takes
{update:.0f} uJ and an answer {one:.0f} uJ; learning takes {learning:,} bytes of RAM beside the {inference:,} of
inference alone.

{finding}

The sets are one animal's; bins of unknown width follow each other, so neighbours are alike. This is not the
primate-reaching set of NeuroBench. The change of electrodes is made, not recorded.
"""
FIGURES = ("R2 first set before", "R2 first set after", "R2 second set before", "R2 second set after")


def page(runs: list[Run], sizes: dict[str, int]) -> str:
    arms = by_arm(runs)
    rows = [(arm, *(spread([run.figures[name] for run in mine]) for name in FIGURES)) for arm, mine in arms.items()]
    full, plain, none = arms["full"][0], arms["plain"], arms["none"]
    gain = np.mean([a.figures[FIGURES[3]] - b.figures[FIGURES[3]] for a, b in zip(plain, none, strict=True)])
    lost = {arm: mean_of(arms[arm], FIGURES[1]) - mean_of(none, FIGURES[1]) for arm in ("plain", "full")}
    finding = (
        f"Lessons win {100 * gain:+.1f} points on the second set;\nthe first set changes by {100 * lost['plain']:+.1f} "
        f"without and {100 * lost['full']:+.1f} with synaptic intelligence."
    )
    return TEXT.format(
        table=Table("", ("arm", *FIGURES), rows).markdown().strip(), finding=finding, apart=apart(arms),
        seeds=", ".join(str(run.seed) for run in none), update=full.energy_uj["update"],
        one=full.energy_uj["inference"],
        learning=sum(full.memory_bytes.values()) - full.memory_bytes["inference"],
        inference=full.memory_bytes["inference"], steps=STEPS, **sizes,
    )  # fmt: skip


def mean_of(runs: list[Run], name: str) -> float:
    return float(np.mean([run.figures[name] for run in runs]))


def apart(arms: dict[str, list[Run]]) -> str:
    """Of both sets, after learning."""
    parts = []
    for name in (FIGURES[1], FIGURES[3]):
        pairs = zip(arms["plain"], arms["plain (float)"], strict=True)
        gaps = [100 * (ours.figures[name] - twin.figures[name]) for ours, twin in pairs]
        parts.append(f"{name.removeprefix('R2 ').removesuffix(' after')} {np.mean(gaps):+.1f} ± {np.std(gaps):.1f}")
    return ", ".join(parts)


def main() -> int:
    args = command(__doc__, short="one small net, few windows: seconds", seeds=5).parse_args()
    first, second = sets()
    seeds, trained, adapted, neurons, epochs = args.seeds, TRAINED, ADAPTED, 64, 15
    if args.short:
        first, second = first.take(0, 400), second.take(0, 260)
        seeds, trained, adapted, neurons, epochs = 1, 300, 160, 24, 4
    runs: list[Run] = []
    for seed in range(1, seeds + 1):
        runs += seed_runs(seed, first, second, trained, adapted, neurons, epochs)
        for run in runs[-4:]:
            print(f"seed {seed}: {run.arm} {run.figures}", file=sys.stderr, flush=True)
        save(args.output, runs)
    sizes = {"trained": trained, "adapted": adapted, "neurons": neurons}
    publish(args, runs, page(runs, sizes | {"old": len(first.x) - trained, "new": len(second.x) - adapted}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
