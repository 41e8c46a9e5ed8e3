"""Learning in C beside numpy's: the same bits, update by update and window by window, random and at the ends."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any, cast, get_args

import learners
import numpy as np
import pytest
import trajectories
from msgspec import UNSET

from edgerun.arrays import I32, AnyArray, Tensors
from edgerun.errors import SpecError
from edgerun.graph import grows
from edgerun.kernels import plasticity, softmax
from edgerun.kernels.native import Backend, library
from edgerun.learn import native, stages
from edgerun.learn.eprop import Window
from edgerun.learn.learner import Learner
from edgerun.learn.profiles import PROFILES
from edgerun.learn.records import Boundary, Forget, NewClass, Settle
from edgerun.learn.rules import rule_of
from edgerun.learn.stages import Consolidation, Factors
from edgerun.lifetime import new_learner
from edgerun.native import network_of
from edgerun.network import Recording
from edgerun.rules import MeanQuotient, Normaliser, RMaxProp
from edgerun.spec import EProp, Intelligence, LearningPlan, PlasticRate, ProfileName

pytestmark = pytest.mark.skipif(library() is None, reason="the C kernels are not built here")

SEED = (1 << 63) + 12345
BACKENDS: tuple[Backend, ...] = ("numpy", "native")


def some(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    """Integers of a type: near its ends, around zero, or all over, and many zeros."""
    ends = np.iinfo(dtype)
    spread = int(rng.choice([3, 300, ends.max]))
    found = rng.integers(max(ends.min, -spread), min(ends.max, spread), shape, endpoint=True)
    if rng.random() < 0.3:
        found = rng.choice([ends.min, ends.max, 0], shape)
    return np.where(rng.random(shape) < 0.3, 0, found).astype(dtype)


class Case:
    """One plastic tensor with everything about it, in numbers that reach their ends."""

    def __init__(
        self, seed: int, profile_name: ProfileName, *, notes: bool, normaliser: RMaxProp | MeanQuotient | None = None,
        columns: int = 0, steps: int = 0,
    ) -> None:  # fmt: skip
        rng, profile = np.random.default_rng(seed), PROFILES[profile_name]
        low, steps = 0 if profile.copies else 8, steps or int(rng.choice([1, 1, 5, 100]))
        shape = (int(rng.integers(1, 40)), columns or int(rng.choice([1, 3, 20, 257, 300])))
        self.profile, self.index = profile, int(rng.integers(5))
        norm = int(rng.choice([0, 1, 4000, 1 << 24]))
        self.rate = PlasticRate(
            tensor="t", eta=int(rng.choice([0, 1, 500, 32767])), shift=int(rng.integers(low, 31)),
            max_step=int(rng.choice([1, 512, 32512])), max_norm=0 if normaliser else norm,
            decay_shift=int(rng.choice([0, 1, 12, 30])),
        )  # fmt: skip
        spec = Intelligence(
            strength=int(rng.choice([0, 4, 16, 30, 31, 58])), damping=int(rng.choice([1, 600, 1 << 30]))
        )
        self.rule = EProp(
            layer="l", readout="r", chunk_steps=1, rates=(self.rate,), gradient_shift=int(rng.integers(max(1, low), 31))
        )
        self.plan = LearningPlan(
            rule=self.rule, intelligence=spec if notes else None, profile=profile_name, normaliser=normaliser or UNSET
        )
        history, post = some(rng, (steps, shape[0]), profile.trace), some(rng, (steps, shape[1]), "int16")
        self.factors = Factors(history, post, profile.trace_drop)
        self.stages = (Consolidation(spec, profile),) if notes else ()
        wide = some(rng, shape, "int16").astype(np.int32)
        shadow = np.clip(wide, profile.middle - 32512, profile.middle + 32512).astype(np.int16)
        self.state: Tensors = {"shadow.t": shadow, "weights": np.zeros(shape, np.int8)}
        plasticity.weights_from_shadow(self.state["weights"], shadow)
        if isinstance(normaliser, RMaxProp):
            self.state["largest.t"] = rng.integers(0, 256, shape).astype(np.uint8)
        if isinstance(normaliser, MeanQuotient):
            self.state["mean.t"] = np.array([rng.choice([0, 1, 300, 1 << 20, 1 << 40]), 0])
        if notes:
            code = rng.integers(0, 232, shape) * (rng.random(shape) < 0.7) * (rng.random() < 0.8)
            self.state |= {
                "ref.t": some(rng, shape, profile.anchor), "omega.t": some(rng, shape, profile.credit),
                "importance.t": code.astype(np.uint8),
            }  # fmt: skip

    def by_numpy(self, number: int) -> tuple[int, Tensors]:
        state = {name: array.copy() for name, array in self.state.items()}
        shape = state["shadow.t"].shape
        for name, slot in stages.scratch_slots(shape[1], self.profile).items():
            state[name] = np.zeros(slot.shape, slot.dtype)
        changed = stages.update(
            self.rate, self.index, self.factors, state["weights"] if self.profile.copies else None, state, self.stages,
            gradient_shift=self.rule.gradient_shift, seed=SEED, number=number, profile=self.profile,
            normaliser=stages.normaliser_of(self.plan.normaliser),
        )  # fmt: skip
        return changed, {name: state[name] for name in self.state}

    def by_c(self, number: int) -> tuple[int, Tensors]:
        state = {name: array.copy() for name, array in self.state.items()}
        return self.plastic(state).update(self.factors, number), state

    def plastic(self, state: Tensors) -> native.Plastic:
        return native.Plastic(native.plastic_fields(self.plan, self.rate, self.index, state["weights"], state), SEED)


def same(ours: Tensors, theirs: Tensors) -> None:
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


@pytest.mark.parametrize("notes", [True, False])
@pytest.mark.parametrize("profile", PROFILES)
def test_an_update_gives_numpys_bits(profile: ProfileName, notes: bool) -> None:
    moved = 0
    for seed in range(80):
        case = Case(seed, profile, notes=notes)
        (changed, ours), (wanted, theirs) = case.by_c(seed << 30), case.by_numpy(seed << 30)
        same(ours, theirs)
        assert changed == wanted, seed
        moved += changed > 0
    assert moved > 40


WIDTHS = (1, 2, 9, 10, 16, 31, 32, 33, 63, 64, 65, 97, 128, 200)
"""Columns beside the lengths of registers."""


@pytest.mark.parametrize("notes", [True, False])
@pytest.mark.parametrize("profile", PROFILES)
def test_rows_of_any_length_and_reach_give_numpys_bits(profile: ProfileName, notes: bool) -> None:
    """Still rows, and gradients that do and do not fit 32 bits, alone and times eta, in one tensor."""
    for seed, (columns, steps) in enumerate(product(WIDTHS, (1, 2, 3, 31, 128))):
        case, rng = Case(seed, profile, notes=notes, columns=columns, steps=steps), np.random.default_rng(seed)
        history, post = case.factors.history, case.factors.post
        history >>= rng.choice([0, 2, 6, 15], history.shape[1]).astype(history.dtype)
        history[:, rng.random(history.shape[1]) < 0.2] = 0
        post >>= rng.choice([0, 3, 9], columns).astype(np.int16)
        (changed, ours), (wanted, theirs) = case.by_c(seed), case.by_numpy(seed)
        same(ours, theirs)
        assert changed == wanted, (seed, columns, steps)


@pytest.mark.parametrize("moving", [0, 1])
@pytest.mark.parametrize(("strength", "moves"), [(30, True), (31, False)])
def test_the_weakest_pull_gives_numpys_bits(strength: int, moves: bool, moving: int) -> None:
    """A shift of 30 moves a weight in a thousand, one of 31 none."""
    case, shape, spec = Case(0, "standard", notes=True), (40, 300), Intelligence(strength=strength, damping=1)
    case.rate = PlasticRate(tensor="t", eta=0, shift=30, max_step=32512)
    case.plan, case.stages = LearningPlan(rule=case.rule, intelligence=spec), (Consolidation(spec, case.profile),)
    case.factors = Factors(np.full((1, shape[0]), moving, np.int16), np.ones((1, shape[1]), np.int16))
    case.state = {
        "shadow.t": np.full(shape, -32512, np.int16), "weights": np.full(shape, -127, np.int8),
        "ref.t": np.full(shape, 32512, np.int16), "omega.t": np.zeros(shape, np.int32),
        "importance.t": np.full(shape, 15, np.uint8),
    }  # fmt: skip
    (changed, ours), (wanted, theirs) = case.by_c(1), case.by_numpy(1)
    same(ours, theirs)
    assert changed == wanted
    assert (changed > 0) == moves


def test_a_row_longer_than_what_lies_ready_gives_numpys_bits() -> None:
    case = Case(1, "standard", notes=True, columns=4200, steps=1)
    (changed, ours), (wanted, theirs) = case.by_c(1), case.by_numpy(1)
    same(ours, theirs)
    assert changed == wanted


NORMALISERS = (
    RMaxProp(fade=25, floor=8), RMaxProp(fade=4096), RMaxProp(fade=0, floor=32), MeanQuotient(memory=0),
    MeanQuotient(memory=20),
)  # fmt: skip


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_a_normalised_update_gives_numpys_bits(normaliser: RMaxProp | MeanQuotient) -> None:
    for seed in range(40):
        case = Case(seed, "standard", notes=seed % 3 > 0, normaliser=normaliser)
        if seed == 0:  # the largest gradient
            case.factors = Factors(*(np.full((128, n), -32768, np.int16) for n in case.state["shadow.t"].shape))
        number = seed % 7 if seed % 2 else seed << 30
        (changed, ours), (wanted, theirs) = case.by_c(number), case.by_numpy(number)
        same(ours, theirs)
        assert changed == wanted, seed


@pytest.mark.parametrize("profile", PROFILES)
def test_a_boundary_gives_numpys_bits(profile: ProfileName) -> None:
    for seed in range(60):
        case = Case(seed, profile, notes=True)
        ours, theirs = ({name: array.copy() for name, array in case.state.items()} for _ in range(2))
        case.plastic(ours).consolidate(seed)
        case.stages[0].consolidate("t", case.index, theirs, SEED, seed)
        same(ours, theirs)


# ------------------------------------------------------------------ windows and lessons

WINDOWS = (
    "eprop", "eprop-small", "eprop-values", "eprop-layers", "eprop-online", "rewired", "superspike", "inner-step",
    "backprop",
)  # fmt: skip


@pytest.mark.parametrize("kind", learners.LIVES)
def test_who_learns_is_told_by_the_tables(kind: str) -> None:
    learner = new_learner(learners.bundle(kind), backend="native")
    rule = learner.manifest.learning.rule
    assert native.has_window(learner.manifest) == (kind in (*WINDOWS, "doubted"))
    assert native.has_window(learner.manifest) or type(rule) in native.NUMPY_ONLY_RULES


def pupil_of(learner: Learner) -> native.Pupil:
    return native.Pupil(learner.records())


def told(learner: Learner) -> list[int]:
    return [learner.updates, learner.lessons, learner.deep_lessons, learner.recent_at, learner.threshold,
            len(learner.classes)]  # fmt: skip


@pytest.mark.parametrize("kind", ["eprop", "eprop-small", "backprop"])
def test_lessons_of_a_controller_leave_numpys_bits(kind: str) -> None:
    """A whole life in C, lesson by lesson beside the learner in numpy."""
    theirs, ours = (new_learner(learners.bundle(kind), backend=backend) for backend in ("numpy", "native"))
    pupil, rng = pupil_of(ours), np.random.default_rng(4)
    for number in range(120):
        label = int(rng.integers(len(theirs.classes)))
        level = learners.LEVELS[int(rng.integers(len(learners.LEVELS)))]
        q = learners.sample(kind, label, number)
        answer = theirs.network.infer(q).label
        taught = theirs.apply(theirs.plan_lesson(q, label, level))
        found, p, updates, _ = pupil.lesson(q, label, level)
        assert taught is not None
        assert (found, updates) == (answer, taught.updates)
        assert p == (-1 if level == "head" else round(taught.confidence * 32768))
        if number == 30 and grows(theirs.manifest):
            theirs.apply(NewClass(label="e"))
            pupil.counters[5] += 1
        if number % 17 == 5:
            theirs.apply(Settle())
            pupil.settle()
        if number % 23 == 7:
            theirs.apply(Boundary(reason="idle"))
            pupil.boundary()
        if number == 90:
            theirs.apply(Forget(label=1))
            pupil.forget(1)
        same(ours.arrays(), theirs.arrays())
        assert pupil.counters.tolist() == told(theirs)


# ------------------------------------------------------------------ factors of adversarial tapes

FACTORED = ("eprop", "eprop-small", "eprop-values", "layers", "fixed-feedback", "hot", "hot-small")


@pytest.mark.parametrize("kind", FACTORED)
def test_factors_of_any_tape_are_numpys(kind: str) -> None:
    """Tapes and errors as no network would write them: all at once, at their ends, or nothing at all."""
    learner, tensors, state = (held := trajectories.learner_of(kind, "native")), held._tensors, held._state
    windows, rule = learner._windows, learner.manifest.learning.rule
    assert isinstance(rule, EProp)
    assert windows is not None
    apart = {name: np.zeros_like(array) for name, array in state.items()}
    theirs: Any = rule_of(learner.manifest, tensors, apart)
    for seed in range(30):
        fill(state, np.random.default_rng([seed, len(kind)]))
        for name, array in state.items():
            np.copyto(apart[name], array)
        windows.factors()
        tapes = {layer.name: layer.tape() for layer in theirs._layers}
        recording = Recording(tapes, cast(I32, apart["tape.logits"]))
        found = theirs.factors(Window(recording, cast(I32, apart["trace.error"])), apart["trace.error"][-1].copy())
        assert {rate.tensor for rate in rule.rates} == set(found)
        written = [name for name in state if name.startswith("trace") and name not in ("trace.state", "trace.error")]
        same({name: state[name] for name in written}, {name: apart[name] for name in written})


def fill(state: Tensors, rng: np.random.Generator) -> None:
    """A window that nobody recorded, and its errors."""
    for name, array in state.items():
        kind, _, part = name.partition(".")
        if part.endswith("spikes"):
            array[...] = rng.random(array.shape) < rng.choice([0.0, 0.1, 1.0])
        elif part.endswith("pre"):
            array[...] = rng.choice([0, 0, 1], array.shape) if rng.random() < 0.5 else 1
        elif kind == "tape":
            array[...] = some(rng, array.shape, array.dtype.name)
        elif name == "trace.error":
            array[...] = rng.choice([-32768, -1, 0, 1, 32767], array.shape)
        elif kind == "trace":
            array[...] = 0


def test_the_table_of_exponentials_is_pythons() -> None:
    text = (Path(native.__file__).parents[1] / "csrc/softmax_error.c").read_text()
    table = text[text.index("er_softmax_table[256] = {") : text.index("};")]
    assert [int(word) for word in re.findall(r"\d+(?=[,\s])", table.partition("{")[2])] == softmax.TABLE.tolist()


TIES = [-(place << 19) for place in (0, 1, 113, 208, 300, 300)]
"""Logits whose table entries sum to 2**16 and are odd: probabilities that lie in the middle."""


@pytest.mark.parametrize("seed", range(8))
def test_errors_over_any_logits_are_numpys(seed: int) -> None:
    """Through whole windows of a readout that forgets at once, so that its biases are the logits."""
    rng = np.random.default_rng(seed)
    bias = rng.permutation(TIES) if seed % 2 else rng.choice([0, 1, -(1 << 29), (1 << 30) - 1], learners.CAPACITY)
    manifest, tensors = trajectories.KINDS["unconsolidated"]()
    tensors["out.bias"][...], tensors["out.kappa"][...], tensors["out.input"][...] = bias, 0, 0
    pair = [
        Learner(network_of(manifest, {k: v.copy() for k, v in tensors.items()}, backend), priors={}, backend=backend)
        for backend in BACKENDS
    ]
    for number in range(12):
        lesson = trajectories.told(pair[0], rng)
        one, other = (learner.apply(learner.plan_lesson(lesson.q, lesson.label, "full")) for learner in pair)
        assert one == other, number
        assert pair[0]._state["trace.error"].tolist() == pair[1]._state["trace.error"].tolist()
        assert pair[0].digest() == pair[1].digest()


def test_a_norm_limit_holds_at_the_largest_gradient() -> None:
    """Every bracket at its end: the sum leaves 64 bits by far."""
    case = Case(0, "standard", notes=False)
    case.rate = PlasticRate(tensor="t", eta=32767, shift=0, max_step=32512, max_norm=1)
    case.factors = Factors(np.full((128, 3000), -32768, np.int16), np.full((128, 40), -32768, np.int16))
    case.state = {"shadow.t": np.zeros((3000, 40), np.int16), "weights": np.zeros((3000, 40), np.int8)}
    (changed, ours), (wanted, theirs) = case.by_c(1), case.by_numpy(1)
    same(ours, theirs)
    assert changed == wanted


@pytest.mark.parametrize("kind", ["eprop", "backprop", "online"])
def test_a_window_that_is_as_sure_as_the_threshold_teaches_nothing(kind: str) -> None:
    """At p itself nothing is learned from what p was measured on; a 32768th above it something is."""
    taught = []
    for backend in BACKENDS:
        learner = trajectories.learner_of(kind, backend)
        q = trajectories.sample(learner.manifest, np.random.default_rng(1))
        sure = round(learner._learn(q, 0, 0)[0] * 32768)  # no step is an update: of one window all are as sure
        for threshold in (sure, sure + 1):
            learner._learn(q, 0, threshold)
            taught.append((learner.updates, learner.digest()))
    assert taught[:2] == taught[2:]
    assert kind == "online" or [updates for updates, _ in taught[:2]] == [0, 1]


def test_steps_that_are_as_sure_as_the_threshold_teach_nothing() -> None:
    learner = trajectories.learner_of("online", "native")
    windows, plays = learner._windows, np.ones(learners.CAPACITY, np.bool_)
    assert windows is not None
    q = trajectories.sample(learner.manifest, np.random.default_rng(1))
    p, _ = windows.learn_online(q, 0, 0, plays, 0)
    least = min(p)
    assert windows.learn_online(q, 0, least, plays, 0)[1] == [-1] * len(p)
    assert windows.learn_online(q, 0, least + 1, plays, 0)[1][p.index(least)] >= 0


# ------------------------------------------------------------------ what is refused


def ends(records: native.PupilRecords) -> tuple[native.Fields, AnyArray]:
    """What a pupil takes beside its network and learner."""
    return records.lessons, records.counters


def test_windows_that_do_not_fit_are_refused_and_change_nothing() -> None:
    learner = trajectories.learner_of("eprop", "native")
    windows, before = learner._windows, learner.digest()
    assert windows is not None
    size, plays = learner.manifest.input.size, np.ones(learners.CAPACITY, np.bool_)
    q = np.zeros(size, np.int16)
    for wrong, label, playing, fault in (
        (q[:-1], 0, plays, "q has 11 items, not 12"), (q.astype(np.int32), 0, plays, "format [il], not int16_t"),
        (q, learners.CAPACITY, plays, r"label 6 is outside \[0, 6\)"), (q, -1, plays, "label -1"),
        (q, 0, plays[:-1], "in_play has 5 items, not 6"), (q, 2, np.arange(6) != 2, "label 2 is not in play"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=fault):
            windows.learn(wrong, label, 1 << 15, playing, 0)
    assert learner.digest() == before


def test_records_that_do_not_fit_are_refused_by_name() -> None:
    learner = trajectories.learner_of("eprop", "native")
    records = learner.records()
    assert records.learner is not None
    held: Any = library()
    net = held.Net(*records.network, False)
    rule, plastic, *more = records.learner
    for wrong, fault in (
        ((rule | {"last": 2}, plastic, *more), "rule: error has 6 items, not 12"),
        ((rule | {"taught": 3}, plastic, *more), "rule: its numbers and arrays do not fit together"),
        ((rule, (plastic[0] | {"small": 1}, *plastic[1:]), *more), "plastic: its numbers and arrays do not fit"),
        ((rule, (plastic[0] | {"eta": 1 << 15}, *plastic[1:]), *more), "plastic: its numbers and arrays do not fit"),
        ((rule, plastic, (more[0][0] | {"layer": 2},), *more[1:]), "tape: its numbers and arrays do not fit together"),
        ((rule, plastic, more[0], (more[1][0] | {"feedback": None},), *more[2:]), "taught: its numbers and arrays"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=fault):
            held.Learner(net, *wrong, False)
    with pytest.raises(TypeError, match="that is no Net"):
        held.Learner(None, *records.learner, False)
    with pytest.raises(ValueError, match="lessons: its numbers and arrays do not fit together"):
        held.Pupil(net, None, records.lessons | {"refresh_every": 0}, records.counters)
    assert records.learner is not None
    with pytest.raises(ValueError, match="lessons"):  # a learner of another network
        held.Pupil(held.Net(*records.network, False), held.Learner(net, *records.learner, False), *ends(records))
    rule, plastic, *rest = records.learner
    with pytest.raises(ValueError, match="plastic"):  # a gradient without its history
        held.Learner(net, rule, (plastic[0] | {"history": None}, *plastic[1:]), *rest, False)
    records.counters[-1] = 0
    lost = held.Pupil(net, held.Learner(net, *records.learner, False), *ends(records))
    with pytest.raises(ValueError, match="no class is known"):
        lost.lesson(np.zeros(records.network[0]["size"], np.int16), 0, 0)


def test_lessons_that_c_has_no_form_of_say_why() -> None:
    for kind, why in (("il-mq", "settles"), ("il-prox", "settles")):
        with pytest.raises(SpecError, match=why):
            new_learner(learners.bundle(kind), backend="native").records()
    with pytest.raises(SpecError, match="the network runs in numpy"):
        new_learner(learners.bundle("eprop"), backend="numpy").records()


def test_every_normaliser_is_tried() -> None:
    assert {type(each) for each in NORMALISERS} >= set(get_args(Normaliser))
