"""Omniglot, 5 and 20 letters from one drawing each: prototypes and MAML's inner step, in floats and integers.

    python benchmarks/learning/omniglot.py [--nets build/omniglot] [--episodes 1000] [-o FOLDER] [--markdown PAGE]
    python benchmarks/learning/omniglot.py --short       seconds: nets hardly trained, ten episodes

Nets come from `omniglot_nets.py`, which trains those that are missing. Letters are of the evaluation alphabets, none of
which training has seen; every arm meets the same episodes: 1 shot and 5 queries a letter. The bodies do not learn on a
device, so what they make of each letter is computed once, by the bundle's own integers; lessons and answers are then
those of the whole learner, bit for bit, which is checked on the first episode. Needs EDGERUN_DATA and the extra train.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import torch
from omniglot_nets import COUNTING, LENGTH, SPIKING, Embedding, Letters, coarse, letters, make, read, turned
from scenario import Run, cost, save, section, table

from edgerun.arrays import I16, I64, U8, AnyArray, Tensors
from edgerun.bundle import Bundle, read_bundle
from edgerun.commands.adapt import Labelled, adapt, shots
from edgerun.kernels import eprop, head
from edgerun.learn import stages
from edgerun.learn.inner_step import Heard, InnerStepRule
from edgerun.learn.records import Forget
from edgerun.lifetime import new_learner
from edgerun.network import Network
from edgerun.ops import ReadoutRun
from edgerun.spec import InnerStep, LearningPlan
from exporters.export import Options, export
from exporters.head import Whiten
from exporters.onnx_import import load_onnx
from exporters.training.episodes import Episode, Form, classes_of, draw, labels
from exporters.training.maml import Quantiser
from exporters.training.spiking import SpikingConv

FORMS: Final = (Form(ways=5), Form(ways=20))
SEED: Final = 7
KNOWN: Final = 20  # letters of the background that a bundle leaves the factory with
FOLD: Final = 2000  # background letters whose statistics go into the weights
BATCH: Final = 64
GATE: Final = 1638  # 0.05 in Q0.15
NEW: Final = 5  # letters that join
JOINING: Final = 5  # drawings of each
SHARP: Final = 32.0

Answers = Callable[[Episode, Form], I64]


class Score(NamedTuple):
    """Mean accuracy over episodes and half its 95 % confidence interval, in percent."""

    mean: float
    half: float


def score(answers: Answers, episodes: Sequence[Episode], form: Form) -> Score:
    truth = labels(form.ways, form.queries)
    right = [100 * float((answers(episode, form) == truth).mean()) for episode in episodes]
    return Score(float(np.mean(right)), 1.96 * float(np.std(right, ddof=1)) / len(right) ** 0.5)


def order_of(episode: Episode) -> I64:
    """In which order the shots are taught: by chance, but the same for every arm."""
    return np.random.default_rng(episode.shots.tolist()).permutation(len(episode.shots))


# ------------------------------------------------------------------ floats


def in_batches(make_features: Callable[[Any], Any], data: Letters) -> AnyArray:
    with torch.no_grad():
        parts = [make_features(data.tensor(rows)).numpy() for rows in np.array_split(np.arange(len(data.y)), 40)]
    return np.concatenate(parts)


def nearest(z: AnyArray) -> Answers:
    """By the nearest prototype in features (n, d)."""

    def answers(episode: Episode, form: Form) -> I64:
        means = z[episode.shots].reshape(form.ways, form.shots, -1).mean(axis=1)
        return (-2 * z[episode.queries] @ means.T + (means**2).sum(axis=1)).argmin(axis=1)

    return answers


def taught(p: AnyArray, step: float, quantiser: Quantiser | None = None) -> Answers:
    """By the readout after lessons on traces (n, m), one a shot, from rows of zeros."""
    random, traces = torch.Generator().manual_seed(SEED), torch.from_numpy(p)

    def answers(episode: Episode, form: Form) -> I64:
        w = torch.zeros(form.ways, p.shape[1])
        for k in order_of(episode):
            trace = traces[episode.shots[k]]
            error = torch.softmax(w @ trace, dim=0)
            error[int(k) // form.shots] -= 1
            w = w - step * torch.outer(error, trace)
            w = w if quantiser is None else quantiser(w, random)
        return (traces[episode.queries] @ w.T).argmax(dim=1).numpy()

    return answers


def folded(weights: dict[str, AnyArray], background: Letters) -> dict[str, Any]:
    rows = np.random.default_rng(SEED).choice(len(background.y), FOLD, replace=False)
    return SPIKING.folded({name: torch.tensor(value) for name, value in weights.items()}, background.tensor(rows))


def traces_of(net: SpikingConv, weights: dict[str, AnyArray], background: Letters, data: Letters) -> AnyArray:
    values = folded(weights, background)
    return in_batches(lambda x: net.features(values, x), data)


# ------------------------------------------------------------------ bundles


def known_letters(background: Letters, folder: Path) -> Path:
    """All drawings of some background letters, as the exporter takes them."""
    mine = background.y < KNOWN
    path = folder / "known.npz"
    np.savez(path, x=background.tensor(np.flatnonzero(mine)).numpy(), y=background.y[mine].astype(np.int64))
    return path


def embedding_bundle(net: Embedding, background: Letters, folder: Path, whiten: Whiten) -> Bundle:
    """The convolutional net through ONNX, prototypes on its features."""
    path = folder / "embedding.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says about its own future
        torch.onnx.export(
            net, (torch.zeros(1, 1, 28, 28),), path, input_names=["x"], output_names=["z"], dynamo=False,
            dynamic_axes={"x": {0: "batch"}, "z": {0: "batch"}},
        )  # fmt: skip
    last = load_onnx(path).layers[-1].name
    return exported(path, Options(learn="prototypes", features=last, whiten=whiten), background, folder)


def counting_bundle(values: dict[str, Any], background: Letters, folder: Path, whiten: Whiten) -> Bundle:
    """The spiking net through NIR, prototypes on the last layer's spike counts; its readout is left out."""
    path = folder / "counting.nir"
    SPIKING.write_nir(values, np.zeros((KNOWN, SPIKING.width)), path, 1.0)
    return exported(path, Options(learn="prototypes", whiten=whiten), background, folder)


def spiking_bundle(
    values: dict[str, Any], background: Letters, folder: Path, step: float, sharpness: float = 1.0, room: int = 0
) -> Bundle:
    """The spiking net through NIR; its readout knows some background letters from one drawing each."""
    rows = np.flatnonzero(background.y < KNOWN)
    first = rows[np.unique(background.y[rows], return_index=True)[1]]
    with torch.no_grad():
        p = SPIKING.features(values, background.tensor(first))
        w = torch.zeros(KNOWN, SPIKING.width)
        for k in range(KNOWN):
            error = torch.softmax(w @ p[k], dim=0)
            error[k] -= 1
            w = w - step * torch.outer(error, p[k])
    path = folder / "spiking.nir"
    SPIKING.write_nir(values, w.numpy(), path, step, sharpness)
    return exported(path, Options(learn="inner-step", capacity=KNOWN + room), background, folder)


def exported(path: Path, options: Options, background: Letters, folder: Path) -> Bundle:
    return read_bundle(export(path, known_letters(background, folder), options).data)


# ------------------------------------------------------------------ integers


def inputs(bundle: Bundle, data: Letters) -> I16:
    """Pictures as the bundle's input takes them: half up, as `encode.quantise`."""
    entry = bundle.manifest.input
    q = np.floor(data.x.reshape(len(data.y), -1) / 255 / entry.scale + entry.zero_point + 0.5)
    low, high = (0, 255) if entry.dtype == "uint8" else (-128, 127)
    return np.clip(q, low, high).astype(np.int16)


def integer_features(bundle: Bundle, data: Letters) -> I64:
    """What the bundle's prototypes are means of, for all pictures."""
    q, network, found = inputs(bundle, data), Network(bundle.manifest, bundle.tensors, (BATCH,)), []
    for first in range(0, len(q), BATCH):
        part = np.zeros((BATCH, q.shape[1]), np.int16)
        part[: len(q) - first] = q[first : first + BATCH]
        network.scores(part)
        found.append(network.features())
    return np.concatenate(found)[: len(q)]


def nearest_integers(z: I64) -> Answers:
    """By the prototype head's own kernels."""

    def answers(episode: Episode, form: Form) -> I64:
        sums = z[episode.shots].reshape(form.ways, form.shots, -1).sum(axis=1).astype(np.int32)
        counts, means = np.full(form.ways, form.shots, np.int32), np.zeros(sums.shape, np.int64)
        head.class_means(means, sums, counts)
        scores = np.zeros((len(episode.queries), form.ways), np.int32)
        head.prototype_scores(scores, z[episode.queries], means, np.zeros(form.ways, np.int32), counts > 0)
        return scores.argmax(axis=1)

    return answers


def integer_spikes(bundle: Bundle, data: Letters) -> U8:
    """(steps, n, m)  what the readout sees of every picture."""
    q, network = inputs(bundle, data), Network(bundle.manifest, bundle.tensors, (BATCH,))
    source = network.layers[bundle.manifest.layers[-2].name]
    found = np.zeros((bundle.manifest.steps, len(q) + BATCH, source.out.shape[-1]), np.uint8)
    for first in range(0, len(q), BATCH):
        part = np.zeros((BATCH, q.shape[1]), np.int16)
        part[: len(q) - first] = q[first : first + BATCH]
        network.reset()
        for t, moment in enumerate(network.moments(part)):
            network.step(moment)
            found[t, first : first + BATCH] = source.out
    return found[:, : len(q)]


@dataclass
class Readout:
    """A bundle's readout at work on spikes (steps, n, m), and its lessons: the learner's own kernels, body left out."""

    bundle: Bundle
    spikes: U8
    gate: int = 0

    def __post_init__(self) -> None:
        manifest, name = self.bundle.manifest, self.bundle.manifest.layers[-1].name
        rule = manifest.learning.rule
        if not isinstance(rule, InnerStep):
            raise TypeError("the bundle has no inner step")
        self.rule = msgspec.structs.replace(rule, gate=self.gate, error_threshold=32768 - self.gate)
        plan = msgspec.structs.replace(manifest.learning, rule=self.rule)
        self.tensors: Tensors = {key: a.copy() for key, a in self.bundle.tensors.items() if key.startswith(f"{name}.")}
        self.step = InnerStepRule(msgspec.structs.replace(manifest, learning=plan), self.tensors)
        self.weights = self.tensors[f"{name}.input"]
        self.state: Tensors = {f"shadow.{name}.input": np.zeros(self.weights.shape, np.int16)}
        for key, slot in stages.scratch_slots(self.weights.shape[1]).items():
            self.state[key] = np.zeros(slot.shape, slot.dtype)
        history = np.zeros((len(self.spikes), self.spikes[0].size), np.int16)
        eprop.traces(history, self.spikes.reshape(history.shape), int(self.tensors[f"{name}.kappa"][0]))
        self.traces = history[-1].reshape(self.spikes.shape[1:])

    def logits(self, rows: AnyArray) -> I64:
        """(rows, k)"""
        run = ReadoutRun(self.bundle.manifest.layers[-1], self.tensors, (len(rows),))  # type: ignore[arg-type]  # a Readout
        for spikes in self.spikes[:, rows]:
            run.step(spikes.astype(np.float32))
        return run.reading()

    def teach(self, episode: Episode, form: Form) -> None:
        """Forget everything, then one lesson a shot."""
        error, in_play = np.zeros(self.weights.shape[1], np.int32), np.arange(self.weights.shape[1]) < form.ways
        self.weights[...] = 0
        self.state[f"shadow.{self.rule.tensor}"][...] = 0
        updates = 0
        for k in order_of(episode):
            row, label = episode.shots[k], int(k) // form.shots
            heard = Heard(self.traces[row], self.logits(np.array([row]))[0])
            if self.step.error(error, heard, label, in_play) >= self.rule.error_threshold:
                continue
            (factors,) = self.step.factors(heard, error).values()
            stages.update(
                self.rule.rates[0], 0, factors, self.weights, self.state, (), gradient_shift=self.rule.gradient_shift,
                seed=self.bundle.manifest.seed, number=updates,
            )  # type: ignore[arg-type]  # int8  # fmt: skip
            updates += 1

    def answers(self, episode: Episode, form: Form) -> I64:
        self.teach(episode, form)
        return self.logits(episode.queries)[:, : form.ways].argmax(axis=1)


def check_whole(bundle: Bundle, readout: Readout, data: Letters, episode: Episode, form: Form) -> None:
    """Raises ValueError unless the whole learner gives the same logits, bit for bit, for an episode of all classes."""
    plan = LearningPlan(rule=readout.rule, guard=bundle.manifest.learning.guard)
    learner = new_learner(replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, learning=plan)))
    q = inputs(bundle, data)
    for k in range(len(learner.classes)):
        learner.apply(Forget(label=k))
    for k in order_of(episode):
        learner.apply(learner.plan_lesson(q[episode.shots[k]], int(k) // form.shots, "full"))
    readout.teach(episode, form)
    whole, alone = learner.scores(q[episode.queries]), readout.logits(episode.queries)
    if not np.array_equal(whole, alone):
        raise ValueError(f"{(whole != alone).sum()} of {whole.size} logits differ between readout and learner")


# ------------------------------------------------------------------ arms


@dataclass(frozen=True)
class Arm:
    """Whose answers are scored, and the bundle that has them, for its price."""

    name: str
    answers: Answers
    bundle: Bundle | None = None


def prototype_arms(weights: dict[str, AnyArray], background: Letters, data: Letters, folder: Path) -> list[Arm]:
    net = Embedding()
    net.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    net.eval()
    own, shared = embedding_bundle(net, background, folder, "none"), embedding_bundle(net, background, folder, "shared")
    return [
        Arm("prototypes, conv (float)", nearest(in_batches(net, data))),
        Arm("prototypes, conv, int8", nearest_integers(integer_features(own, data)), own),
        Arm("prototypes, conv, int8, whitened", nearest_integers(integer_features(shared, data)), shared),
    ]


def spiking_arms(weights: dict[str, AnyArray], background: Letters, data: Letters, folder: Path) -> list[Arm]:
    bundle = counting_bundle(folded(weights, background), background, folder, "none")
    return [
        Arm("prototypes, spiking (float)", nearest(traces_of(COUNTING, weights, background, data))),
        Arm("prototypes, spiking, int8", nearest_integers(integer_features(bundle, data)), bundle),
    ]


def maml_arms(name: str, weights: dict[str, AnyArray], background: Letters, data: Letters, folder: Path) -> list[Arm]:
    p, step = traces_of(SPIKING, weights, background, data), float(weights["step"])
    if name != "maml":
        bits = int(name[-1]) if name[-1].isdigit() else None
        quantiser = None if bits is None else coarse(bits, step)
        return [
            Arm(f"{name}, spiking (float body)" if bits else f"{name}, spiking (float)", taught(p, step, quantiser))
        ]
    bundle = spiking_bundle(folded(weights, background), background, folder, step)
    spikes = integer_spikes(bundle, data)
    plain, gated = Readout(bundle, spikes), Readout(bundle, spikes, GATE)
    form = Form(ways=KNOWN)
    check_whole(bundle, plain, data, draw(np.random.default_rng(SEED), classes_of(data.y), form), form)
    return [
        Arm("maml, spiking (float)", taught(p, step)),
        Arm("maml, inner loop rounded to 8 bits, not trained for it", taught(p, step, coarse(8, step))),
        Arm("maml, inner loop rounded to 4 bits, not trained for it", taught(p, step, coarse(4, step))),
        Arm("maml, spiking, integers", plain.answers, bundle),
        Arm("maml, spiking, integers, errors up to 0.05 gated", gated.answers),
        Arm("maml's features by prototypes (float)", nearest(p)),
    ]


def arms(folder: Path, background: Letters, data: Letters, work: Path) -> list[Arm]:
    found: list[Arm] = []
    for name in LENGTH:
        weights = read(folder, name)
        if name == "prototypes":
            found += prototype_arms(weights, background, data, work)
        elif name == "spiking":
            found += spiking_arms(weights, background, data, work)
        else:
            found += maml_arms(name, weights, background, data, work)
    return found


def joining(weights: dict[str, AnyArray], background: Letters, data: Letters, folder: Path) -> list[Run]:
    """New letters join the known ones, `JOINING` drawings of each, by the lessons of `edgerun adapt`."""
    values, step, runs = folded(weights, background), float(weights["step"]), []
    new = Letters(data.x[data.y < NEW], data.y[data.y < NEW])
    old = Letters(background.x[background.y < KNOWN], background.y[background.y < KNOWN])
    for sharpness in (1.0, SHARP):
        bundle = spiking_bundle(values, background, folder, step, sharpness, room=NEW)
        taught_ones = Labelled("new", inputs(bundle, new), tuple(f"new {k}" for k in new.y))
        known = Labelled("known", inputs(bundle, old), tuple(str(k) for k in old.y))
        for seed in range(3):
            chosen = shots(taught_ones.label, JOINING, np.random.default_rng((SEED, seed)))
            drawn = adapt(bundle, taught_ones, chosen, known, "full")
            figures = {
                "new letters %": 100 * (drawn.after or 0.0),
                "known letters before %": 100 * (drawn.probe_before or 0.0),
                "known letters %": 100 * (drawn.probe_after or 0.0),
                "undone by the guard": float(drawn.rolled_back),
            }
            runs.append(Run(scenario="omniglot", arm=f"joining, sharpness {sharpness:g}", seed=seed, figures=figures))
            print(runs[-1].arm, figures, flush=True)
    return runs


def run(found: Sequence[Arm], data: Letters, count: int) -> list[Run]:
    rng = np.random.default_rng(SEED)
    sets = {form: [draw(rng, classes_of(data.y), form) for _ in range(count)] for form in FORMS}
    runs = []
    for arm in found:
        figures: dict[str, float] = {}
        for form, episodes in sets.items():
            mean, half = score(arm.answers, episodes, form)
            figures |= {f"{form.ways}-way 1-shot %": round(mean, 2), f"±{form.ways}": round(half, 2)}
        memory, energy = cost(arm.bundle) if arm.bundle else ({}, {})
        runs.append(
            Run(scenario="omniglot", arm=arm.name, seed=SEED, figures=figures, memory_bytes=memory, energy_uj=energy)
        )
        print(arm.name, figures, flush=True)
    return runs


def page(runs: Sequence[Run], joined: Sequence[Run], episodes: int) -> str:
    lengths = ", ".join(f"{name} {count}" for name, count in LENGTH.items())
    return "\n".join([TEXT.format(episodes=episodes, lengths=lengths, known=KNOWN), table(runs), JOINED, table(joined)])


TEXT: Final = """## Omniglot, one drawing a letter

{episodes} episodes of 5 and of 20 letters from the 20 evaluation alphabets, 1 shot and 5 queries each, the same for all
arms; ± is half the 95 % confidence interval of the mean. Training saw the 30 background alphabets only, each letter in
four orientations, in so many episodes: {lengths}. One training seed.

- `prototypes`: euclidean prototypical networks, a convolutional net of 60 k weights and a spiking one of as many, 256
  neurons counting over 4 steps, both trained on episodes of 60 letters; int8 are the bundle's integers, exported with
  `--whiten none`; `whitened`: with `--whiten shared`, by the drawings of {known} letters.
- What the spiking net is was chosen on letters of six background alphabets that training left out for it (20-way,
  1 shot, measured apart): episodes of 60 letters did more than 128 filters at the end, a steeper surrogate, or three
  layers with 1024 neurons at the end.
- `maml`: from the spiking net's weights, meta-trained in second order through the device's own inner step: one lesson a
  letter, one after the other, on the last layer alone, from rows of zeros, with the step size learned. `fomaml` takes
  the inner gradient for a constant. `maml-8` and `maml-4` were trained further with stochastic rounding of the readout
  in both loops. Integers are int8 weights with int16 shadows, as `edgerun adapt` learns them.
- What did not work: whitening costs the embedding points, so few-shot embeddings should decide by their own distances.
  A gate of 0.05 is the error of 20 classes before the first lesson: it silences all but the taught one, so
  `--learn inner-step` gates at a quarter of chance at most. Prototypes beat the inner step on the same kind of net.
  A fourth of the episodes, of 20 letters instead of 60, left the spiking net points lower.
"""


JOINED: Final = f"""Letters that join: {NEW} new ones beside {KNOWN} known from one drawing each, {JOINING} drawings of
each, by `edgerun adapt`'s lessons, replay and guard, three draws, tested on all other drawings. Episodes teach all
letters at once, and once; this is not what meta-training was for, and it shows: many small steps add up, and take from
the known letters. An error whose softmax knows the sharpness that meta-training answered with leaves them alone, at the
cost of new ones. Where letters join one by one, prototypes are the better way.
"""


def train_missing(folder: Path, background: Letters, share: float) -> None:
    """Nets that nobody has trained yet."""
    folder.mkdir(parents=True, exist_ok=True)
    data = turned(background)
    for name, count in LENGTH.items():
        if not (folder / f"{name}.npz").is_file():
            weights = make(name, data, max(1, round(count * share)), 1, folder, lambda number, loss: None)
            np.savez(folder / f"{name}.npz", **weights)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=Path, default=Path("build/omniglot"))
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--short", action="store_true", help="nets hardly trained, ten episodes: does it run?")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/learning"))
    parser.add_argument("--markdown", type=Path, help="the page whose section is written anew")
    args = parser.parse_args()
    torch.set_num_threads(1)
    background, data = letters(evaluation=False), letters(evaluation=True)
    with tempfile.TemporaryDirectory() as work:
        nets, count, share = (Path(work), 10, 0.0015) if args.short else (args.nets, args.episodes, 1.0)
        train_missing(nets, background, share)
        seen = data if not args.short else Letters(data.x[: 40 * 20], data.y[: 40 * 20])
        runs = run(arms(nets, background, seen, Path(work)), seen, count)
        joined = joining(read(nets, "maml"), background, seen, Path(work))
    save(args.output, [*runs, *joined])
    if args.markdown:
        section(args.markdown, "omniglot", page(runs, joined, count))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
