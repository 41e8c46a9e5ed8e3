"""Lessons, boundaries, verdicts: everything that changes what a device has learned goes through `Learner.apply`.

`apply` is a deterministic function of the learned state and one journal record, so a journal replays to the same bits
on any machine. The learner never reads a clock, a governor or a random source.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import numpy as np

from edgerun.arrays import I8, I16, I32, I64, AnyArray, Bool, Tensors
from edgerun.errors import DataError, SpecError
from edgerun.graph import grows
from edgerun.kernels import plasticity
from edgerun.kernels.native import Backend, library
from edgerun.learn import doubt, guard, native, prototypes, reservoir, stages, tape
from edgerun.learn.doubt import Doubter
from edgerun.learn.profiles import high_bytes, profile_of
from edgerun.learn.prototypes import KeptHead
from edgerun.learn.records import Boundary, Entry, Forget, Lesson, NewClass, Rollback, Settle, Verdict
from edgerun.learn.reservoir import Reservoir
from edgerun.learn.rewire import Rewire
from edgerun.learn.rules import OnlineRule, ValueRule, rule_of
from edgerun.native import NativeNetwork
from edgerun.network import Network
from edgerun.plan import Slot, carve, make_arena, make_plan
from edgerun.rules import ALL, RuleRecord
from edgerun.spec import Doubt, Level, Manifest, PlasticRate, Rewiring

BATCH = 32
DEEP: tuple[Level, ...] = ("full", "light", "sparse")
SHARE_HALVINGS: Mapping[Level, int] = {"full": 0, "light": 1, "sparse": 2}
"""How often a level halves the share of windows that may update."""
TRIGGER_GAIN: Final = 4
"""A threshold moves by 2**-this of what the share of updates was off."""


@dataclass(frozen=True, slots=True)
class Taught:
    """What one lesson did."""

    correct: bool  # the prequential answer: what the device said before it was told
    confidence: float  # the readout's p(label) before the lesson; nan where nothing deep ran
    updates: int  # updates applied, replays included
    norm: float  # Euclidean norm of the changes made, in weight LSB
    aside: bool = False  # its label was doubted, nothing was learned


class Keeper(Protocol):
    """Where the last good state is kept: flash on a device, memory in a replay."""

    def keep(self, arrays: Tensors, meta: dict[str, Any]) -> None: ...
    def recall(self) -> tuple[Tensors, dict[str, Any]] | None: ...


class MemoryKeeper:
    """Keeps the last good state in memory."""

    def __init__(self) -> None:
        self._kept: tuple[Tensors, dict[str, Any]] | None = None

    def keep(self, arrays: Tensors, meta: dict[str, Any]) -> None:
        self._kept = ({name: array.copy() for name, array in arrays.items()}, dict(meta))

    def recall(self) -> tuple[Tensors, dict[str, Any]] | None:
        return self._kept


def learned_slots(manifest: Manifest, tensors: Mapping[str, AnyArray]) -> dict[str, Slot]:
    """Every array of learned state by name: what a checkpoint holds and a digest covers."""
    slots: dict[str, Slot] = {}
    plan = manifest.learning
    for rate in plan.rule.rates if plan.rule else ():
        shape = tensors[rate.tensor].shape
        slots |= stages.slots(rate.tensor, shape)
        normaliser = stages.normaliser_of(plan.normaliser)
        if normaliser is not None:
            slots |= normaliser.slots(rate.tensor, shape)
        if plan.intelligence:
            slots |= stages.Consolidation(plan.intelligence, profile_of(plan)).slots(rate.tensor, shape)
        if isinstance(plan.rewiring, Rewiring):
            slots |= Rewire(plan.rewiring, profile_of(plan)).slots(rate.tensor, shape)
    if plan.replay.capacity:
        slots |= reservoir.slots(manifest)
    if manifest.head.kind == "prototypes":
        slots |= prototypes.slots(manifest, tensors["head.sum"].shape[1])
    slots |= doubt.slots(manifest)
    recent = plan.rule.recent_labels if plan.rule else 0
    return slots | {"recent": Slot((max(1, recent),), "int16", "state")}


def working_slots(manifest: Manifest, tensors: Mapping[str, AnyArray]) -> dict[str, Slot]:
    """What one lesson needs and the next may overwrite: its window and factors, and the scratch of an update."""
    rule = manifest.learning.rule
    if rule is None:
        return {}
    width, classes = max((tensors[rate.tensor].shape[1] for rate in rule.rates), default=1), manifest.layers[-1].outputs
    return {
        **tape.slots(manifest),
        "lesson.error": Slot((classes,), "int32", "traces"),
        "lesson.in_play": Slot((classes,), "bool", "traces"),
        **stages.scratch_slots(width, profile_of(manifest.learning)),
    }


class Learner:
    """The learned state of one bundle and the only way to change it.

    network    runs the bundle. Its plastic weight arrays must be writable, they are changed in place; in profile
               `small` their places in its `tensors`, a dict, are taken by views of the shadows
    priors     importance codes from offline training, by plastic tensor name
    exemplars  (x, label) that the reservoir starts from
    keeper     where the last good state lives
    backend    who changes weights: numpy, or C in what it has a form of; the bits are the same
    """

    def __init__(
        self,
        network: Network,
        *,
        priors: Mapping[str, AnyArray],
        exemplars: tuple[AnyArray, AnyArray] | None = None,
        keeper: Keeper | None = None,
        backend: Backend = "numpy",
    ) -> None:
        self.network, self.manifest = network, network.manifest
        self._tensors = cast(Tensors, network.tensors)
        plan = self.manifest.learning
        self._learned = learned_slots(self.manifest, self._tensors)
        self.layout = make_plan(self._learned | working_slots(self.manifest, self._tensors))
        self._state = carve(make_arena(self.layout), self.layout)
        self._profile = profile_of(plan)
        self._rates = plan.rule.rates if plan.rule else ()
        self._factory = {rate.tensor: self._claim(rate.tensor) for rate in self._rates}
        self._rule = rule_of(self.manifest, self._tensors, self._state | tape.laid_out(tape.carriers(self.manifest)))
        self._normaliser = stages.normaliser_of(plan.normaliser)
        self._consolidation = stages.Consolidation(plan.intelligence, self._profile) if plan.intelligence else None
        self._rewire = Rewire(plan.rewiring, self._profile) if isinstance(plan.rewiring, Rewiring) else None
        self._priors, self._exemplars = priors, exemplars
        self._keeper: Keeper = keeper or MemoryKeeper()
        self._batch: Network | None = None
        self.reservoir = Reservoir(self._state, self.manifest.seed) if plan.replay.capacity else None
        self._doubter = Doubter(plan.doubt, self._state) if isinstance(plan.doubt, Doubt) else None
        self._head: KeptHead | None = None
        if network.prototypes is not None:
            self._head = KeptHead(network.prototypes, self._state, len(self.manifest.classes.names))
        self._plastic: tuple[native.Plastic, ...] = ()
        if backend != "numpy" and library() is not None:
            self._plastic = native.plastics(self.manifest, self._tensors, self._state)
        self._windows: native.Windows | None = None
        if isinstance(network, NativeNetwork):
            network.bind(
                {} if self._profile.copies else {rate.tensor: self._shadow(rate.tensor) for rate in self._rates}
            )
            if native.has_window(self.manifest):
                self._windows = native.Windows(network, self._state)
        self.reset()

    # ------------------------------------------------------------------ state

    def reset(self) -> None:
        """Back to the factory, in every bit."""
        self.classes = list(self.manifest.classes.names)
        self.updates = self.lessons = self.deep_lessons = self.recent_at = 0
        rule = self.manifest.learning.rule
        self.threshold = rule.error_threshold if rule else ALL
        for array in self._state.values():
            array[...] = np.zeros((), array.dtype)
        for rate in self._rates:
            shadow = self._shadow(rate.tensor)
            shadow[...] = self._factory[rate.tensor].astype(np.int16) * 256 + self._profile.middle
            self._publish(rate.tensor)
            if self._rewire:
                self._rewire.begin(rate.tensor, self._factory[rate.tensor], self._state)
            if self._consolidation:
                plasticity.set_anchor(self._state[f"ref.{rate.tensor}"], shadow)
                if rate.tensor in self._priors:
                    self._state[f"importance.{rate.tensor}"][...] = self._priors[rate.tensor]
        self._state["recent"][...] = reservoir.EMPTY
        if self._doubter is not None:
            self._doubter.reset()
        if self.reservoir:
            self.reservoir.fill(*(self._exemplars or (np.zeros((0, self.manifest.input.size)), np.zeros(0))))
        if self._head is not None:
            self._head.reset()
        self._take_over()

    def arrays(self) -> Tensors:
        """Learned state by name (views, not copies)."""
        return {name: self._state[name] for name in self._learned}

    def meta(self) -> dict[str, Any]:
        """The learned state that is not an array."""
        return {
            "classes": list(self.classes), "updates": self.updates, "lessons": self.lessons,
            "deep_lessons": self.deep_lessons, "recent_at": self.recent_at,
        } | ({"threshold": self.threshold} if self._triggered else {})  # fmt: skip

    def load(self, arrays: Mapping[str, AnyArray], meta: Mapping[str, Any]) -> None:
        """Continue from saved state. Raises DataError, and changes nothing, if a part is missing or misshapen."""
        absent = self.meta().keys() - meta.keys()
        if absent:
            raise DataError(f"saved state has no {min(absent)}")
        for name, slot in self._learned.items():
            saved = arrays.get(name)
            if saved is None or saved.shape != slot.shape or saved.dtype != np.dtype(slot.dtype):
                raise DataError(f"saved state has no {name} of {slot.dtype} {slot.shape}")
        for rate in self._rates:
            self._check_shadow(f"shadow.{rate.tensor}", arrays)
        for name in self._learned:
            self._state[name][...] = arrays[name]
        self.classes = [str(name) for name in meta["classes"]]
        self.updates, self.lessons = int(meta["updates"]), int(meta["lessons"])
        self.deep_lessons, self.recent_at = int(meta["deep_lessons"]), int(meta["recent_at"])
        self.threshold = int(meta.get("threshold", self.threshold))
        for rate in self._rates:
            self._publish(rate.tensor)
        self._take_over()

    def _check_shadow(self, name: str, arrays: Mapping[str, AnyArray]) -> None:
        far = int(np.abs(arrays[name].astype(np.int32) - self._profile.middle).max(initial=0))
        if far > plasticity.SHADOW_MAX:
            raise DataError(f"saved state has {name} {far} from its middle, the bound is {plasticity.SHADOW_MAX}")

    def records(self) -> native.PupilRecords:
        """This learner as C holds it, over its own arrays: what a controller is made of.

        Raises SpecError where C has no form of its network or its lessons.
        """
        lacking = native.numpy_lessons(self.manifest)
        if lacking or not isinstance(self.network, NativeNetwork):
            raise SpecError(f"lessons have no C form: {lacking or 'the network runs in numpy'}")
        rule = native.learner_records(self.manifest, self._tensors, self._state) if self._rule else None
        counts = self._head.factory_counts if self._head is not None else None
        numbers = (self.updates, self.lessons, self.deep_lessons, self.recent_at, self.threshold, len(self.classes))
        lessons = native.lesson_fields(self.manifest, self._state, counts)
        return native.PupilRecords(self.network.records(), rule, lessons, np.array(numbers, np.int64))

    def digest(self) -> bytes:
        """SHA-256 of everything learned: arrays in name order, class names, counters. Telemetry is not in it."""
        sha = hashlib.sha256()
        for name in sorted(self._learned):
            sha.update(name.encode())
            sha.update(np.ascontiguousarray(self._state[name]).data)
        sha.update(repr(sorted(self.meta().items())).encode())
        return sha.digest()

    # ------------------------------------------------------------------ lessons

    def plan_lesson(self, q: I16, label: int, level: Level, sample: int = 0, target: I16 | None = None) -> Lesson:
        """The record of a lesson that has not happened yet; changes nothing.

        target  int16 values of a rule that does not classify, whose label is 0
        """
        values = b"" if target is None else target.astype("<i2").tobytes()
        self._check_answer(label, values)
        number, plan = self.lessons + 1, self.manifest.learning
        deep = level in DEEP and self._rule is not None
        draws: list[int] = []
        if deep and self.reservoir is not None:
            filled = self.reservoir.filled
            passes = (plan.replay.passes if level == "full" else min(1, plan.replay.passes)) if len(filled) else 0
            draws = [int(filled[i]) for i in reservoir.draw(self.manifest.seed, number, passes, len(filled))]
        return Lesson(
            number=number,
            sample=sample,
            q=q.astype(self.manifest.input.dtype).tobytes(),
            label=label,
            level=level if deep else "head",
            draws=draws,
            threshold=self.threshold,
            update=self.updates,
            before=self.digest() if self.lessons % plan.guard.every == 0 else b"",
            target=values,
        )

    def apply(self, entry: Entry) -> Taught | None:
        """Do what a journal record says. Raises DataError if it cannot follow on this state."""
        match entry:
            case Lesson():
                return self._lesson(entry)
            case NewClass():
                self._new_class(entry.label)
            case Settle():
                self.refresh()
            case Boundary():
                self._consolidate()
                self._move()
            case Verdict():
                self._verdict(entry.good)
            case Rollback():
                self.reset() if entry.to == "factory" else self._go_back()
            case Forget():
                self._forget(entry.label)
        return None

    def _lesson(self, lesson: Lesson) -> Taught:
        q = self._checked_input(lesson)
        self.lessons = lesson.number
        found = self.network.infer(q)
        correct = found.label == lesson.label
        if self._doubted(lesson, found.scores):
            return Taught(correct, float("nan"), 0, 0.0, aside=True)
        before, norm, confidence = self.updates, 0.0, float("nan")
        if lesson.deep:
            self.deep_lessons += 1
            confidence, norm = self._learn(q, lesson.label, lesson.threshold, lesson.target)
            for place in lesson.draws:
                old = self._require_reservoir()
                norm += self._learn(old.sample(place), int(old.label[place]), lesson.threshold)[1]
            self._trigger(lesson, self.updates - before)
        elif self._head is not None:
            self.network.scores(q)
            self._head.add(lesson.label, self.network.features())
        if self.reservoir is not None:
            self.reservoir.add(q, lesson.label, lesson.number, len(self.classes))
            if lesson.deep and self.deep_lessons % self.manifest.learning.replay.refresh_every == 0:
                self.refresh()
        self._consolidate_on_count(before)
        if self._rewire and _passed(self._rewire.spec.every, before, self.updates):
            self._move()
        return Taught(correct, confidence, self.updates - before, norm)

    def _doubted(self, lesson: Lesson, scores: I32) -> bool:
        """Whether feedback on the stream contradicts what is known surely; of the factory's classes alone."""
        if self._doubter is None or not lesson.sample or lesson.label >= len(self.manifest.classes.names):
            return False
        return self._doubter.doubts(scores[: len(self.classes)], lesson.label)

    def _checked_input(self, lesson: Lesson) -> I16:
        """The lesson's input. Raises DataError, before anything changes, if the lesson cannot follow on this state."""
        if lesson.number != self.lessons + 1:
            raise DataError(f"lesson {lesson.number} does not follow lesson {self.lessons}")
        self._check_answer(lesson.label, lesson.target)
        if lesson.deep and self._rule is None:
            raise DataError(f"lesson {lesson.number} is at level {lesson.level}, the bundle has no learning rule")
        held = set() if self.reservoir is None else set(self.reservoir.filled.tolist())
        for place in lesson.draws:
            if place not in held:
                raise DataError(f"lesson {lesson.number} replays place {place} of the reservoir, which holds no sample")
        q = np.frombuffer(lesson.q, self.manifest.input.dtype).astype(np.int16)
        if q.size != self.manifest.input.size:
            raise DataError(f"lesson {lesson.number} has {q.size} inputs, the bundle takes {self.manifest.input.size}")
        return q

    def _check_answer(self, label: int, target: bytes) -> None:
        """Raises DataError for a label that no class has, or values that the rule does not take."""
        rule = self.manifest.learning.rule
        size = rule.targets(self.manifest.layer) if rule else 0
        if len(target) != 2 * size:
            raise DataError(f"a lesson's target has {len(target) // 2} values, the bundle takes {size}")
        if not 0 <= label < (1 if size else len(self.classes)):
            raise DataError(f"label {label} is outside [0, {1 if size else len(self.classes)})")

    def _learn(self, q: I16, label: int, threshold: int, target: bytes = b"") -> tuple[float, float]:
        """One update on one window: p(label) before it and the norm of the change, 0 where p is high enough."""
        rule, plan = self._rule, self.manifest.learning.rule
        if rule is None or plan is None:
            raise SpecError("the bundle has no learning rule")
        self._remember(label)
        if plan.online:
            return self._learn_online(cast(OnlineRule, rule), q, label, threshold)
        if self._windows:
            return self._learn_in_c(self._windows, q, label, threshold, target)
        window, error = rule.record(self.network, q), cast(I32, self._state["lesson.error"])
        if target:
            values = np.frombuffer(target, "<i2").astype(np.int16)
            probability = cast(ValueRule, rule).miss(error, window, values)
        else:
            probability = rule.error(error, window, label, self._in_play())
        if probability >= threshold:
            return probability / 32768, 0.0
        return probability / 32768, self._update(rule.factors(window, error), plan.gradient_shift)

    def _learn_in_c(
        self, windows: native.Windows, q: I16, label: int, threshold: int, target: bytes
    ) -> tuple[float, float]:
        values = np.frombuffer(target, "<i2").astype(np.int16) if target else None
        probability, squared = windows.learn(q, label, threshold, self._in_play(), self.updates, values)
        if squared < 0:
            return probability / 32768, 0.0
        self.updates += 1
        return probability / 32768, norm_of(squared)

    def _learn_online(self, rule: OnlineRule, q: I16, label: int, threshold: int) -> tuple[float, float]:
        """The same with an update after each step of one window that p is not high enough at; the mean p."""
        if self._windows:
            seen, squares = self._windows.learn_online(q, label, threshold, self._in_play(), self.updates)
            self.updates += sum(squared >= 0 for squared in squares)
            return float(np.mean(seen)) / 32768, sum(norm_of(squared) for squared in squares if squared >= 0)
        gradient_shift = cast(RuleRecord, self.manifest.learning.rule).gradient_shift
        seen, norm = [], 0.0
        for probability, factors in rule.steps(self.network, q, label, self._in_play()):
            seen.append(probability)
            norm += self._update(factors, gradient_shift) if probability < threshold else 0.0
        return float(np.mean(seen)) / 32768, norm

    def _update(self, found: Mapping[str, stages.Factors], gradient_shift: int) -> float:
        """Apply one update to all plastic tensors; returns its norm in weight LSB."""
        squared = 0
        for index, (rate, factors) in enumerate(zip(self._rates, found.values(), strict=True)):
            if self._plastic:
                squared += self._plastic[index].update(factors, self.updates)
            else:
                squared += self._update_by_stages(index, rate, factors, gradient_shift)
            self._load_weights(rate.tensor)
        self.updates += 1
        return norm_of(squared)

    def _update_by_stages(self, index: int, rate: PlasticRate, factors: stages.Factors, gradient_shift: int) -> int:
        return stages.update(
            rate,
            index,
            factors,
            self._copy(rate.tensor),
            self._state,
            tuple(stage for stage in (self._consolidation, self._rewire) if stage),
            gradient_shift=gradient_shift,
            seed=self.manifest.seed,
            number=self.updates,
            normaliser=self._normaliser,
            profile=self._profile,
        )

    @property
    def _triggered(self) -> bool:
        """Whether the share of windows that update is controlled, so that the threshold is state."""
        rule = self.manifest.learning.rule
        return rule is not None and rule.update_share < ALL

    def _trigger(self, lesson: Lesson, updates: int) -> None:
        """Move the threshold towards the share of updates that the lesson's level is to have; see `trigger`."""
        rule = self.manifest.learning.rule
        if rule is not None and self._triggered:
            share = rule.update_share >> SHARE_HALVINGS[lesson.level]
            seen = ALL * updates // (rule.updates * (1 + len(lesson.draws)))
            self.threshold = trigger(lesson.threshold, share, seen, rule.error_threshold)

    def _in_play(self) -> Bool:
        """Classes that the error is restricted to: those learned from lately, or all."""
        in_play = cast(Bool, self._state["lesson.in_play"])
        in_play[...] = False
        recent = self._state["recent"]
        rule = self.manifest.learning.rule
        if rule is None or rule.recent_labels == 0:
            in_play[: len(self.classes)] = True
        else:
            in_play[recent[recent != reservoir.EMPTY]] = True
        return in_play

    def _remember(self, label: int) -> None:
        self._state["recent"][self.recent_at] = label
        self.recent_at = (self.recent_at + 1) % len(self._state["recent"])

    # ------------------------------------------------------------------ prototypes and classes

    def class_index(self, label: str) -> int | None:
        return self.classes.index(label) if label in self.classes else None

    def refresh(self) -> None:
        """Recompute the prototypes from the reservoir, then the biases of classes that the factory did not know."""
        if self._head is None or self.reservoir is None:
            return
        filled = self.reservoir.filled
        z, label = self.features(self.reservoir.x[filled]), self.reservoir.label[filled].astype(np.int64)
        field = self.reservoir.field[filled] != 0
        self._head.refresh(z, label, field, len(self.classes), moved=self.deep_lessons > 0)

    def features(self, x: AnyArray) -> I64:
        """z (m, d) of quantised samples x (m, size), in batches."""
        return np.concatenate([self._batch_run(part)[1] for part in _parts(x)])

    def scores(self, x: AnyArray) -> I32:
        """Scores (m, known) of quantised samples x (m, size), in batches."""
        return np.concatenate([self._batch_run(part)[0] for part in _parts(x)])

    def _batch_run(self, part: AnyArray) -> tuple[I32, I64]:
        if self._batch is None:
            self._batch = self.network.batched(BATCH)
        self._batch.known = len(self.classes)
        padded = np.zeros((BATCH, part.shape[1]), np.int16)
        padded[: len(part)] = part
        scores = self._batch.scores(padded)
        z = self._batch.features() if self._head is not None else np.zeros((BATCH, 0), np.int64)
        return scores[: len(part)], z[: len(part)]

    def _new_class(self, label: str) -> None:
        if label in self.classes:
            raise DataError(f"class {label!r} is already known")
        if len(self.classes) >= self.manifest.classes.capacity:
            raise DataError(f"class {label!r} is over the capacity of {self.manifest.classes.capacity} classes")
        if not grows(self.manifest):
            raise DataError(f"class {label!r} cannot join: the bundle's head has no prototypes")
        self.classes.append(label)
        self.network.known = len(self.classes)

    def _forget(self, label: int) -> None:
        if not 0 <= label < len(self.classes):
            raise DataError(f"label {label} is outside [0, {len(self.classes)})")
        if self._head is not None:
            self._head.forget(label)
        if self.reservoir is not None:
            self.reservoir.forget(label)
        for tensor in self.manifest.learning.rule.by_class if self.manifest.learning.rule else ():
            self._clear_column(tensor, label)
        if self._doubter is not None:
            self._doubter.forget(label)
        recent = self._state["recent"]
        recent[recent == label] = reservoir.EMPTY

    def _clear_column(self, tensor: str, label: int) -> None:
        """Weights of one class to zero, with all that was noted about them."""
        for kind in ("ref", "omega", "importance", "growth"):
            if f"{kind}.{tensor}" in self._state:
                self._state[f"{kind}.{tensor}"][:, label] = 0
        self._state[f"shadow.{tensor}"][:, label] = self._profile.middle
        self._publish(tensor)
        self._load_weights(tensor)

    # ------------------------------------------------------------------ boundaries and guards

    def guard_score(self, probe_x: AnyArray, probe_label: AnyArray) -> tuple[int, int]:
        """(correct, of) over the plan's mix of probe samples and the newest field samples; (0, 0) without classes."""
        if not self.classes:
            return 0, 0
        plan = self.manifest.learning.guard
        picked = guard.picked(plan, len(probe_x))
        x, label = [probe_x[picked]], [probe_label[picked].astype(np.int64)]
        if self.reservoir is not None:
            newest = self.reservoir.newest(plan.samples - guard.of_probe(plan))
            x.append(self.reservoir.x[newest])
            label.append(self.reservoir.label[newest].astype(np.int64))
        both, truth = np.concatenate(x), np.concatenate(label)
        if not len(both):
            return 0, 0
        return int((self.scores(both)[:, : len(self.classes)].argmax(axis=1) == truth).sum()), len(both)

    def importance(self) -> AnyArray:
        """All importance codes (uint8), for telemetry; empty without synaptic intelligence."""
        codes = [self._state[f"importance.{rate.tensor}"].reshape(-1) for rate in self._rates if self._consolidation]
        return np.concatenate(codes) if codes else np.zeros(0, np.uint8)

    def _consolidate(self) -> None:
        if self._consolidation is None:
            return
        for index, rate in enumerate(self._rates):
            if self._plastic:
                self._plastic[index].consolidate(self.updates)
            else:
                self._consolidation.consolidate(rate.tensor, index, self._state, self.manifest.seed, self.updates)

    def _consolidate_on_count(self, updates_before: int) -> None:
        every = self.manifest.learning.intelligence.every if self.manifest.learning.intelligence else 0
        if _passed(every, updates_before, self.updates):
            self._consolidate()

    def _move(self) -> None:
        """Let synapses go and grow."""
        if self._rewire is None:
            return
        for index, rate in enumerate(self._rates):
            if self._plastic:
                self._plastic[index].rewire()
            else:
                self._rewire.move(rate.tensor, self._state)
                self._publish(rate.tensor)
            self._load_weights(rate.tensor)

    def _verdict(self, good: bool) -> None:
        if good:
            self._keeper.keep(self.arrays(), self.meta())
        else:
            self._go_back()

    def _go_back(self) -> None:
        """To the last good state, or the factory's if there is none; lesson and update numbers go on rising."""
        lessons, updates = self.lessons, self.updates
        kept = self._keeper.recall()
        if kept is None:
            self.reset()
        else:
            self.load(*kept)
        self.lessons, self.updates = lessons, updates

    # ------------------------------------------------------------------ keeping arrays and network in step

    def _claim(self, tensor: str) -> I8:
        """The factory's weights, which a device reads from its bundle; from now on the network's own are learned."""
        found = cast(I8, self._tensors[tensor])
        if self._profile.copies:
            return found.copy()
        self._tensors[tensor] = high_bytes(self._shadow(tensor))
        return found

    def _shadow(self, tensor: str) -> I16:
        return cast(I16, self._state[f"shadow.{tensor}"])

    def _copy(self, tensor: str) -> I8 | None:
        """The int8 weights that follow a shadow; None where they are its high bytes."""
        return cast(I8, self._tensors[tensor]) if self._profile.copies else None

    def _publish(self, tensor: str) -> None:
        """Weights <- shadows."""
        copy = self._copy(tensor)
        if copy is not None:
            plasticity.weights_from_shadow(copy, self._shadow(tensor))

    def _take_over(self) -> None:
        """Make the network run on the state that has just been loaded."""
        for rate in self._rates:
            self._load_weights(rate.tensor)
        self.network.known = len(self.classes)
        if self._head is not None:
            self._head.take_over()

    def _load_weights(self, tensor: str) -> None:
        self.network.load_weights(tensor)
        if self._batch is not None:
            self._batch.load_weights(tensor)

    def _require_reservoir(self) -> Reservoir:
        if self.reservoir is None:
            raise DataError("the lesson replays samples, the bundle has no reservoir")
        return self.reservoir


def norm_of(squared: int) -> float:
    """The norm in weight LSB of a change whose squared norm counts shadow LSB."""
    return math.sqrt(squared) / 256


def trigger(threshold: int, share: int, seen: int, ceiling: int) -> int:
    """The threshold of p(label), at or over which the next lesson's windows update nothing. All Q0.15.

        threshold <- clip(threshold + ((share - seen) >> 4), 0, ceiling)

    seen: of the lesson's windows, the share that updated. The control of error-triggered learning: its step is in
    proportion to the deviation, its mean is zero where the share is kept.
    """
    return min(max(threshold + (share - seen >> TRIGGER_GAIN), 0), ceiling)


def _passed(every: int, before: int, now: int) -> bool:
    """Whether a multiple of `every` lies between two counts of updates; never where it is 0."""
    return bool(every) and now // every != before // every


def _parts(x: AnyArray) -> list[AnyArray]:
    return [x[first : first + BATCH] for first in range(0, len(x), BATCH)] or [x]
