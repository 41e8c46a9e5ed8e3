"""Make the lessons that every backend has to reproduce bit for bit: one of each rule, and a boundary after it.

    python tests/golden/make_lessons.py          writes lessons.npz beside itself

Under "<kind>." it holds `bundle`, the file's bytes; `record`, the lesson as a journal holds it; for each window of the
lesson (its own, then the replayed ones, step by step where weights change within a window) "<n>.q", `label`, `in_play`,
`error`, `p` and each tensor's factors, "<n>.<tensor>.history" and `post`; "after.<name>", all learned state and int8
weights after the lesson, and its `digest`; "closed.<name>", what a boundary then changes. "chain.<array>" are the
kernels of dense chains one by one.

Factors of dense chains, and what all factors do to weights, come from the slow integers of
`tests/reference/lessons.py`; factors of spiking rules from kernels that have vectors of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from msgspec import UNSET

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))

import learners  # noqa: E402
from reference import lessons as slow  # noqa: E402
from reference.integers import clip  # noqa: E402

from edgerun.arrays import I16, AnyArray, Tensors  # noqa: E402
from edgerun.learn import records  # noqa: E402
from edgerun.learn.learner import Learner  # noqa: E402
from edgerun.learn.records import Lesson  # noqa: E402
from edgerun.learn.rules import OnlineRule, ValueRule, rule_of  # noqa: E402
from edgerun.lifetime import new_learner  # noqa: E402
from edgerun.network import Network  # noqa: E402

DENSE = ("backprop", "il-prox", "il-mq", "predictive")
PLASTIC = ("shadow", "ref", "omega", "importance", "largest", "mean", "mask", "growth")
MOVED = ("shadow", "mask", "growth")


class Window(NamedTuple):
    """One sample of a lesson, and which classes its error is about."""

    q: I16
    label: int
    in_play: list[bool]
    target: I16 | None


class Moment(NamedTuple):
    """What one update is made of. error  (k,), none where a rule has one at each step"""

    window: Window
    error: AnyArray
    p: int
    factors: dict[str, slow.Factors]


def windows(learner: Learner, lesson: Lesson) -> Iterator[Window]:
    """The lesson's own sample, then those it replays."""
    plan, recent = learner.manifest.learning, list[int]()
    outputs, known = learner.manifest.layers[-1].outputs, len(learner.classes) or 1
    assert plan.rule is not None
    q = np.frombuffer(lesson.q, learner.manifest.input.dtype).astype(np.int16)
    values = np.frombuffer(lesson.target, "<i2").astype(np.int16) if lesson.target else None
    held = learner.reservoir
    replayed = [(held.sample(place), int(held.label[place])) for place in lesson.draws] if held else []
    for x, label in [(q, lesson.label), *replayed]:
        recent = [*recent, label][-plan.rule.recent_labels :]
        plays = recent if plan.rule.recent_labels else range(known)
        yield Window(x, label, [k in plays for k in range(outputs)], values)


class SlowLesson:
    """A lesson on a fresh learner, window by window."""

    def __init__(self, kind: str, lesson: Lesson) -> None:
        self.kind, self.bundle, self.lesson = kind, learners.bundle(kind), lesson
        learner = new_learner(self.bundle)
        self.manifest, self.rule = learner.manifest, learner.manifest.learning.rule
        self.windows = [*windows(learner, lesson)]
        self.state = {name: a.copy() for name, a in learner.arrays().items() if name.split(".")[0] in PLASTIC}
        self.tensors: Tensors = {name: a.copy() for name, a in self.bundle.tensors.items()}
        self.network = Network(self.manifest, self.tensors)
        self.updates = 0

    def moments(self) -> Iterator[Moment]:
        """Each update, done before the next is asked for."""
        for window in self.windows:
            for moment in self._dense(window) if self.kind in DENSE else self._spiking(window):
                yield moment
                if moment.p < self.lesson.threshold:
                    self._update(moment)
        every = self.manifest.learning.intelligence.every if self.manifest.learning.intelligence else 0
        if every and self.updates >= every:
            self.close()

    def close(self) -> None:
        """A boundary."""
        plan = self.manifest.learning
        assert plan.intelligence is not None
        assert plan.rule is not None
        for index, rate in enumerate(plan.rule.rates):
            slow.boundary(plan, self.manifest.seed, self.updates, index, rate.tensor, self.state)

    def move(self) -> None:
        """What a boundary does to synapses, where they move."""
        plan = self.manifest.learning
        for rate in plan.rule.rates if plan.rule and plan.rewiring is not UNSET else ():
            slow.move(plan, rate.tensor, self.state)

    def _dense(self, window: Window) -> Iterator[Moment]:
        chain = slow.Chain(self.manifest, self.tensors, window.label, window.in_play)
        error, p = chain.answer(window.q.tolist())
        yield Moment(window, np.array(error, np.int32), p, chain.factors(window.q.tolist()))

    def _spiking(self, window: Window) -> Iterator[Moment]:
        """The runtime's own rule on the weights as they stand."""
        rule, error = cast(Any, rule_of(self.manifest, self.tensors)), np.zeros(len(window.in_play), np.int32)
        plays = np.array(window.in_play)
        if self.rule is not None and self.rule.online:
            for p, found in cast(OnlineRule, rule).steps(self.network, window.q, window.label, plays):
                yield Moment(window, error[:0], p, plain(found))
            return
        tape = rule.record(self.network, window.q)
        if window.target is not None:
            p = cast(ValueRule, rule).miss(error, tape, window.target)
        else:
            p = rule.error(error, tape, window.label, plays)
        yield Moment(window, error.copy(), p, plain(rule.factors(tape, error)))

    def _update(self, moment: Moment) -> None:
        for index, (tensor, factors) in enumerate(moment.factors.items()):
            slow.update(self.manifest.learning, self.manifest.seed, self.updates, index, factors, self.state)
            self.tensors[tensor][...] = slow.weights(self.manifest.learning, self.state[f"shadow.{tensor}"])
            self.network.load_weights(tensor)
        self.updates += 1


def plain(found: Any) -> dict[str, slow.Factors]:
    return {tensor: (factors.history.tolist(), factors.post.tolist()) for tensor, factors in found.items()}


def first_lesson(kind: str) -> Lesson:
    """At level full, on a learner that has just left the factory."""
    label = 0 if kind == "eprop-values" else 2
    return new_learner(learners.bundle(kind)).plan_lesson(
        learners.sample(kind, label, 1), label, "full", 1, learners.target(kind, 1)
    )


def lesson_case(kind: str) -> Tensors:
    lesson = first_lesson(kind)
    record, twin = records.encode(lesson), SlowLesson(kind, lesson)
    found: Tensors = {
        "bundle": np.frombuffer(learners.packed(kind), np.uint8), "record": np.frombuffer(record, np.uint8),
    }  # fmt: skip
    for number, moment in enumerate(twin.moments()):
        window = moment.window
        found |= {
            f"{number}.q": window.q, f"{number}.label": np.array(window.label),
            f"{number}.in_play": np.array(window.in_play), f"{number}.error": moment.error,
            f"{number}.p": np.array(moment.p),
        }  # fmt: skip
        for tensor, (history, post) in moment.factors.items():
            found[f"{number}.{tensor}.history"] = np.array(history, np.int16)
            found[f"{number}.{tensor}.post"] = np.array(post, np.int16)
    learner = new_learner(learners.bundle(kind))
    learner.apply(lesson)
    found["digest"] = np.frombuffer(learner.digest(), np.uint8)
    found |= {f"after.{name}": array.copy() for name, array in (learner.arrays() | twin.state).items()}
    found |= {f"after.{name}": twin.tensors[name].copy() for name in twin.rule.tensors} if twin.rule else {}
    twin.close()
    twin.move()
    changed = PLASTIC[1:4] if twin.manifest.learning.rewiring is UNSET else (*PLASTIC[1:4], *MOVED)
    return found | {f"closed.{name}": a for name, a in twin.state.items() if name.split(".")[0] in changed}


def chain_case(rng: np.random.Generator) -> Tensors:
    """The kernels of dense chains, each on numbers that reach its ends."""
    w, x, bias = rng.integers(-127, 128, (5, 4)), rng.integers(-128, 128, 4), rng.integers(-9999, 10000, 5)
    error, wide = rng.integers(-32768, 32768, 5), rng.integers(-(1 << 26), 1 << 26, 5)
    h, rates = rng.integers(-(1 << 19), 1 << 20, 6), rng.integers(0, (127 << 8) + 1, 4)
    sums = slow.times(w.tolist(), rates.tolist(), [int(b) << 8 for b in bias])
    gradient = rng.integers(-(1 << 40), 1 << 40, (3, 4)) >> rng.integers(0, 41, (3, 4))
    words, means = rng.integers(0, 1 << 32, (3, 4), dtype=np.uint32), np.array([0, 9000, 1 << 17, 1 << 40])
    below = [*zip(slow.back(w.tolist(), error.tolist()), x.tolist(), strict=True)]
    cut = [clip(int(e), -slow.WIDE, slow.WIDE) for e in wide]
    plan, rate = learners.bundle("il-mq").manifest.learning, learners.rates(1, 1, "t")[0]

    def mq(mean: int) -> list[list[int]]:
        state = {"mean.t": np.array([mean, 0])}
        pairs = zip(gradient.tolist(), words.tolist(), strict=True)
        return [
            [slow.normalised(plan, rate, g, state, (0, 0), word) for g, word in zip(*row, strict=True)] for row in pairs
        ]

    return {
        "weight": w.astype(np.int8), "x": x.astype(np.int16), "bias": bias.astype(np.int32),
        "sums": np.array(slow.times(w.tolist(), x.tolist(), bias.tolist())),
        "error": error.astype(np.int16),
        "below": np.array([slow.sat16(slow.half(e, 7)) if v > 0 else 0 for e, v in below], np.int16),
        "h": h, "rates_of_h": np.array([clip(int(v) + 8 >> 4, 0, 127 << 8) for v in h], np.int16),
        "rates": rates.astype(np.int16),
        "told": np.array([slow.half(s * 10737418, 27) for s in sums]),
        "told_up": np.array([s * 3 << 1 for s in sums]),
        "wide": wide, "spread": np.array([slow.half(e * 28900, 20) for e in slow.back(w.tolist(), cut)]),
        "scaled": np.array([slow.half(int(e) * 819, 15) for e in wide]),
        "normalised": np.array([slow.sat16(((e << 30) + 4_700_000_000) // 9_400_000_000) for e in cut], np.int16),
        "gradient": gradient, "words": words, "means": means, "quotients": np.array([mq(int(mean)) for mean in means]),
    }  # fmt: skip


CASES = ("chain", *learners.KINDS)


def case(name: str) -> Tensors:
    return chain_case(np.random.default_rng(1)) if name == "chain" else lesson_case(name)


if __name__ == "__main__":
    made = {f"{name}.{key}": array for name in CASES for key, array in case(name).items()}
    np.savez_compressed(HERE / "lessons.npz", **made)
