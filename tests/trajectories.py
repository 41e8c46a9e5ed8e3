"""Long lives of random and adversarial lessons, each in numpy, in C window by window and in C lesson by lesson.

    python tests/trajectories.py                       10,000 lessons of each; minutes
    python tests/trajectories.py --lessons 300 --only hot eprop

Samples are random, at the ends of their range, alternating or of a class; labels contradict each other; rates of the
kinds called hot drive shadows, credit and importance to their ends. After every so many lessons the SHA-256 of all that
was learned has to be the same three times; as a program it prints the last ones.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import learners
import msgspec
import numpy as np
from modules import load_native

from edgerun.arrays import I16, Tensors
from edgerun.graph import grows
from edgerun.kernels.native import Backend
from edgerun.layers import DenseSum
from edgerun.learn import native
from edgerun.learn.learner import Learner
from edgerun.learn.records import Boundary, NewClass, Settle
from edgerun.native import network_of
from edgerun.rules import Backprop, EProp, EPropOnline, InnerStep, SuperSpike
from edgerun.rules.superspike import Population
from edgerun.spec import Doubt, Head, Intelligence, Level, Manifest, PhaseRate, ProfileName, Replay, Rewiring

Net = tuple[Manifest, Tensors]
LEVELS: tuple[Level, ...] = ("full", "light", "full", "sparse", "head", "full")
HOT = Intelligence(strength=4, damping=1, every=25)
STEPS = learners.STEPS


def layers() -> Net:
    """Adaptive neurons, adaptive feedback, rates held, updates only where errors are."""
    rule = EProp(
        layer="high", hidden=("low",), readout="out", chunk_steps=4 * STEPS, target_steps=3, post_shift=6,
        feedback="adaptive", spikes_target=500, spikes_cost=20000, update_share=20000, gamma=256,
        rates=learners.rates(500, 22, *learners.ALL_LIF, *learners.FED, max_norm=4000, decay_shift=12),
    )  # fmt: skip
    manifest, tensors = learners.spiking(rule, adaptive=True, features="high")
    tensors["out.kappa"][...] = 27000
    tensors["high.beta"][::2] = 32767  # credit through adaptation grows at every step back
    return msgspec.structs.replace(manifest, encoder=PhaseRate(steps=4 * STEPS, full_scale=64)), tensors


def fixed_feedback() -> Net:
    """Feedback that stays, two means a class, a head beside the factory's."""
    rule = EProp(
        layer="high", hidden=("low",), readout="out", chunk_steps=STEPS - 3, target_steps=2, post_shift=3,
        feedback="random", recent_labels=4, rates=learners.rates(900, 20, *learners.ALL_LIF, max_norm=1),
    )  # fmt: skip
    return learners.spiking(rule, head=Head(kind="prototypes", features="high", beside=True))


def online() -> Net:
    """An update at each of the last steps, some of them spared."""
    rule = EPropOnline(
        layer="high", hidden=("low",), readout="out", chunk_steps=1, target_steps=4, post_shift=6,
        feedback="adaptive", update_share=20000, rates=learners.rates(900, 14, *learners.ALL_LIF, *learners.FED),
    )  # fmt: skip
    manifest, tensors = learners.spiking(rule, features="high")
    tensors["out.kappa"][...] = 27000
    return manifest, tensors


def hot(profile: ProfileName) -> Callable[[], Net]:
    """Rates, credit and traces that come to their ends: a unit that spikes at every step fills its trace."""

    def made() -> Net:
        rule = EProp(
            layer="high", readout="out", chunk_steps=STEPS, post_shift=1, signal_shift=1, gradient_shift=8,
            rates=learners.rates(32767, 14, *learners.HIGH, max_step=32512),
        )  # fmt: skip
        manifest, tensors = learners.spiking(rule, features="high", profile=profile, intelligence=HOT)
        for name in ("low.decay", "high.decay", "out.kappa"):
            tensors[name][...] = 16383
        return manifest, tensors

    return made


def hot_backprop() -> Net:
    rule = Backprop(
        layers=learners.LAYERS, back_shifts=(0, 0), temperature_shift=4, gradient_shift=1,
        rates=learners.rates(32767, 12, *learners.WEIGHTS, max_step=32512, decay_shift=1),
    )  # fmt: skip
    return learners.dense(rule, features="fc1", intelligence=HOT)


def behind_sums(profile: ProfileName, bound: int) -> Callable[[], Net]:
    """A learning layer that is driven by raw sums of more than 8 bits, or of more than 16 as far as it knows."""

    def made() -> Net:
        rule = EProp(
            layer="high", readout="out", chunk_steps=STEPS, target_steps=2, post_shift=6,
            rates=learners.rates(900, 20, *learners.HIGH),
        )  # fmt: skip
        manifest, tensors = learners.spiking(rule, features="high", profile=profile)
        lower = DenseSum(name="low", inputs=12, outputs=14, output_bound=bound)
        upper = msgspec.structs.replace(manifest.layers[1], weight_exponent=13, recurrent_shift=5)
        manifest = msgspec.structs.replace(manifest, layers=(lower, upper, *manifest.layers[2:]))
        return manifest, tensors | {"low.weight": tensors["low.input"]}

    return made


def unconsolidated() -> Net:
    """No importance, no reservoir, no prototypes: the rule alone."""
    rule = EProp(layer="high", readout="out", chunk_steps=STEPS, rates=learners.rates(500, 20, *learners.HIGH))
    return learners.spiking(rule, intelligence=None, replay=Replay(capacity=0))


def doubt() -> Net:
    """Labels that are set aside where they contradict what is known surely; new classes never are."""
    rule = EProp(
        layer="high", readout="out", chunk_steps=STEPS, post_shift=6, rates=learners.rates(500, 20, *learners.HIGH)
    )
    return learners.spiking(rule, features="high", doubt=Doubt(margins=17, share=9000, votes=5))


def rewiring(profile: ProfileName, every: int) -> Callable[[], Net]:
    """Synapses that move, at boundaries and every few updates, under rates that come to their ends."""

    def made() -> Net:
        rule = EProp(
            layer="high", hidden=("low",), readout="out", chunk_steps=STEPS, target_steps=2, post_shift=3,
            gradient_shift=8, rates=learners.rates(9000, 18, *learners.ALL_LIF, max_step=32512, decay_shift=5),
        )  # fmt: skip
        moves = Rewiring(share=6554, every=every, growth_shift=1)
        manifest, tensors = learners.spiking(rule, features="high", profile=profile, intelligence=HOT, rewiring=moves)
        rng = np.random.default_rng(8)
        for name in learners.ALL_LIF:
            tensors[name] = tensors[name] * (rng.random(tensors[name].shape) < 0.4).astype(np.int8)
        return manifest, tensors

    return made


def populations() -> Net:
    """Three populations of spikes on their way to patterns, each taught through the live weights above it."""
    manifest, tensors = learners.superspike()
    spikes, fan, hidden, up, last, known = manifest.layers
    middle = msgspec.structs.replace(hidden, name="middle", reset_delay=False)
    across = DenseSum(name="across", inputs=hidden.outputs, outputs=hidden.outputs, output_bound=127 * hidden.outputs)
    chained = (("fan", "hidden"), ("across", "middle"), ("up", "last"))
    rule = SuperSpike(
        populations=tuple(Population(synapses=synapses, neurons=neurons) for synapses, neurons in chained),
        patterns="known", signal_shift=1, width_shift=12, post_shift=9, gradient_shift=8, error_threshold=30000,
        rates=learners.rates(32767, 16, "up.weight", "fan.weight", "across.weight", max_step=32512, decay_shift=6),
    )  # fmt: skip
    learning = msgspec.structs.replace(manifest.learning, rule=rule, normaliser=msgspec.UNSET, intelligence=HOT)
    chain = (spikes, fan, hidden, across, middle, up, last, known)
    weights = np.random.default_rng(5).integers(-90, 128, (hidden.outputs, hidden.outputs)).astype(np.int8)
    tensors |= {f"middle.{part}": tensors[f"hidden.{part}"] for part in ("bias", "threshold", "alpha", "decay")}
    del tensors["hidden.feedback"]
    return msgspec.structs.replace(manifest, layers=chain, learning=learning), tensors | {"across.weight": weights}


def inner() -> Net:
    """The inner step at its ends: columns that join, few of them in play, synapses that move."""
    rule = InnerStep(
        readout="out", gate=900, recent_labels=4, gradient_shift=8,
        rates=learners.rates(32767, 16, "out.input", max_step=32512, decay_shift=7),
    )  # fmt: skip
    manifest, tensors = learners.spiking(rule, intelligence=HOT, rewiring=Rewiring(share=6554, every=9, growth_shift=1))
    tensors["out.kappa"][...] = 27000
    weights = tensors["out.input"]
    tensors["out.input"] = weights * (np.random.default_rng(8).random(weights.shape) < 0.7).astype(np.int8)
    return manifest, tensors


KINDS: Mapping[str, Callable[[], Net]] = {
    "eprop": learners.eprop, "eprop-small": learners.eprop_small, "eprop-values": learners.eprop_values,
    "backprop": learners.backprop, "online": online, "layers": layers, "fixed-feedback": fixed_feedback,
    "unconsolidated": unconsolidated, "rmaxprop": learners.eprop_layers, "online-mq": learners.eprop_online,
    "hot": hot("standard"), "hot-small": hot("small"), "hot-backprop": hot_backprop,
    "behind-sums": behind_sums("standard", 127 * 12), "behind-wide-sums": behind_sums("small", 1 << 16),
    "rewiring": rewiring("standard", 7), "rewiring-small": rewiring("small", 0), "doubt": doubt,
    "superspike": learners.superspike, "superspike-symmetric": populations,
    "inner": learners.inner_step, "inner-hot": inner,
}  # fmt: skip


class Told(NamedTuple):
    """One lesson as it comes from outside."""

    q: I16
    label: int
    level: Level
    target: I16 | None
    sample: int = 0


def sample(manifest: Manifest, rng: np.random.Generator) -> I16:
    size, (low, high) = manifest.input.size, (0, 255) if manifest.input.dtype == "uint8" else (-128, 127)
    match int(rng.integers(5)):
        case 0:
            q = rng.integers(low, high + 1, size)
        case 1:
            q = np.full(size, rng.choice([low, high, 0]))
        case 2:
            q = np.where(np.arange(size) % 2 == rng.integers(2), low, high)
        case 3:
            q = rng.integers(low, high + 1, size) * (rng.random(size) < 0.2)
        case _:
            q = np.clip(np.random.default_rng(rng.integers(4)).integers(low, high // 8, size), low, high)
    return q.astype(np.int16)


def told(learner: Learner, rng: np.random.Generator) -> Told:
    rule = learner.manifest.learning.rule
    q, level = sample(learner.manifest, rng), LEVELS[int(rng.integers(len(LEVELS)))]
    wanted = rule.targets(learner.manifest.layer) if rule else 0
    if wanted:
        return Told(q, 0, level, rng.choice([-32768, -4096, 0, 4096, 32767], wanted).astype(np.int16))
    label = int(rng.integers(len(learner.classes)))
    if not isinstance(learner.manifest.learning.doubt, Doubt):
        return Told(q, label, level, None)
    said = learner.network.infer(q).label  # told that it is right, mostly, so that it becomes sure
    return Told(q, said if rng.random() < 0.6 else label, level, None, int(rng.random() < 0.9))


def learner_of(kind: str, backend: Backend) -> Learner:
    manifest, tensors = KINDS[kind]()
    if manifest.head.kind == "prototypes":
        name = "backprop" if "backprop" in kind else "eprop"
        tensors |= learners.prototypes(name, manifest, tensors)
    manifest = msgspec.structs.replace(manifest, seed=(1 << 64) - 59)
    rng, count = np.random.default_rng(3), min(8, manifest.learning.replay.capacity)
    x, labels = np.stack([sample(manifest, rng) for _ in range(8)])[:count], np.arange(count) % len(learners.NAMES)
    network = network_of(manifest, tensors, backend)
    return Learner(network, priors={}, exemplars=(x, labels) if count else None, backend=backend)


Event: TypeAlias = Told | NewClass | Settle


def story(kind: str, lessons: int, learner: Learner) -> Iterator[Event]:
    """What happens in a life; `learner` has to have lived each before the next is asked for."""
    rng = np.random.default_rng([len(kind), lessons])
    yield Settle()
    for number in range(1, lessons + 1):
        yield told(learner, rng)
        if number == lessons // 3 and grows(learner.manifest):
            yield NewClass(label="e")
        if number % 61 == 0:
            yield Settle()


def live(learner: Learner, event: Event) -> None:
    """A learner lives an event; a boundary comes with prototypes that settle."""
    match event:
        case Told(q, label, level, target, sample):
            learner.apply(learner.plan_lesson(q, label, level, sample, target))
        case NewClass():
            learner.apply(event)
        case Settle():
            learner.apply(event)
            learner.apply(Boundary(reason="idle"))


class InC:
    """A learner that C lives alone."""

    def __init__(self, kind: str) -> None:
        self.learner = learner_of(kind, "native")
        self._pupil = native.Pupil(self.learner.records())

    def live(self, event: Event) -> None:
        match event:
            case Told(q, label, level, target, sample):
                if target is not None:
                    kept = self.learner._state["tape.target"]
                    np.copyto(kept, target.reshape(kept.shape))
                (self._pupil.feedback if sample else self._pupil.lesson)(q, label, level)
            case NewClass(label=name):
                self.learner.classes.append(name)
                self._pupil.counters[5] += 1
            case Settle():
                self._pupil.settle()
                self._pupil.boundary()

    def digest(self) -> bytes:
        names = ("updates", "lessons", "deep_lessons", "recent_at", "threshold")
        for name, value in zip(names, self._pupil.counters.tolist(), strict=False):
            setattr(self.learner, name, value)
        return self.learner.digest()


def lived(kind: str, lessons: int, every: int) -> Iterator[tuple[int, tuple[bytes, bytes, bytes]]]:
    """(lesson, the digests of numpy, of C by windows, of C by lessons), before the first, every so many, at the end."""
    pair, alone = (learner_of(kind, "numpy"), learner_of(kind, "native")), InC(kind)
    number = 0
    for event in story(kind, lessons, pair[0]):
        if isinstance(event, Told):
            if number % every == 0:
                yield number, (pair[0].digest(), pair[1].digest(), alone.digest())
            number += 1
        for learner in pair:
            live(learner, event)
        alone.live(event)
    yield lessons, (pair[0].digest(), pair[1].digest(), alone.digest())


def in_c(kind: str, lessons: int) -> bytes:
    """The digest of a life that C lives alone."""
    alone = InC(kind)
    for event in story(kind, lessons, alone.learner):
        alone.live(event)
    return alone.digest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--lessons", type=int, default=10_000)
    parser.add_argument("--only", nargs="*", default=[*KINDS], choices=[*KINDS])
    parser.add_argument("--c", action="store_true", help="C by lessons alone: for builds that are held to one another")
    given: Any = parser.parse_args()
    load_native()
    for kind in given.only:
        began, digests = time.perf_counter(), (b"",)
        if given.c:
            print(f"{kind:16} {given.lessons} lessons  {in_c(kind, given.lessons).hex()}", flush=True)
            continue
        for number, digests in lived(kind, given.lessons, 100):
            if len(set(digests)) > 1:
                print(f"{kind}: the digests after lesson {number} differ: {[each.hex()[:12] for each in digests]}")
                return 1
        print(f"{kind:16} {given.lessons} lessons  {digests[0].hex()}  {time.perf_counter() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
