"""Stored lessons of every rule come out of the learner bit for bit, and out of the slow integers that made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import learners
import numpy as np
import pytest
from golden import make_lessons
from runs import needs_wide_words

from edgerun.arrays import Tensors
from edgerun.bundle import Bundle, read_bundle
from edgerun.kernels import chain, mq
from edgerun.kernels.native import Backend
from edgerun.learn import records
from edgerun.learn.learner import Learner
from edgerun.learn.records import Boundary, Lesson
from edgerun.learn.rules import rule_of
from edgerun.lifetime import new_learner
from edgerun.rules import MeanQuotient, RMaxProp, SuperSpike

with np.load(Path(__file__).parents[1] / "golden" / "lessons.npz", allow_pickle=False) as file:
    VECTORS: Tensors = {name: file[name] for name in file.files}
EVERY = pytest.mark.parametrize("kind", learners.KINDS)
BY_EACH = pytest.mark.parametrize("backend", ["numpy", "auto"])


def case_of(kind: str, *path: str) -> Tensors:
    """Arrays by the rest of their names."""
    start = ".".join((kind, *path, ""))
    return {name.removeprefix(start): array for name, array in VECTORS.items() if name.startswith(start)}


def fresh(kind: str, backend: Backend = "numpy") -> tuple[Learner, Lesson]:
    """A learner of the stored bundle, and the stored lesson."""
    case = case_of(kind)
    lesson = records.decode(case["record"].tobytes())
    assert isinstance(lesson, Lesson)
    return new_learner(read_bundle(case["bundle"].tobytes()), backend=backend), lesson


@pytest.mark.parametrize("kind", make_lessons.CASES)
@needs_wide_words
def test_the_file_is_what_its_script_makes(kind: str) -> None:
    made, stored = make_lessons.case(kind), case_of(kind)
    assert set(made) == set(stored)
    for name, array in made.items():
        if name == "bundle":  # its bytes also say which fields a manifest has by now
            same(read_bundle(array.tobytes()), read_bundle(stored[name].tobytes()))
            continue
        assert array.dtype == stored[name].dtype, name
        assert array.tolist() == stored[name].tolist(), name


def same(one: Bundle, other: Bundle) -> None:
    assert one.manifest == other.manifest
    assert {name: a.tolist() for name, a in one.tensors.items()} == {n: a.tolist() for n, a in other.tensors.items()}


@EVERY
@BY_EACH
def test_a_lesson_leaves_the_stored_bits(kind: str, backend: Backend) -> None:
    learner, lesson = fresh(kind, backend)
    learner.apply(lesson)
    for name, want in case_of(kind, "after").items():
        got = learner.arrays()[name] if name in learner.arrays() else learner.network.tensors[name]
        assert got.dtype == want.dtype, name
        assert got.tolist() == want.tolist(), name
    assert learner.digest() == case_of(kind)["digest"].tobytes()
    learner.apply(Boundary(reason="drift"))
    for name, want in case_of(kind, "closed").items():
        assert learner.arrays()[name].tolist() == want.tolist(), name


@EVERY
@BY_EACH
def test_the_first_window_has_the_stored_factors(kind: str, backend: Backend) -> None:
    plan = learners.bundle(kind).manifest.learning.rule
    each_step = plan.online or isinstance(plan, SuperSpike)  # then numpy's layers alone tell what a step makes
    learner, lesson = fresh(kind, "numpy" if each_step else backend)
    case, tensors = case_of(kind, "0"), cast(Tensors, learner.network.tensors)
    rule: Any = rule_of(learner.manifest, tensors)
    if learner.manifest.learning.rule is not None and learner.manifest.learning.rule.online:
        p, found = next(rule.steps(learner.network, case["q"], lesson.label, case["in_play"]))
    else:
        recorded, error = rule.record(learner.network, case["q"]), np.zeros(case["error"].shape, np.int32)
        if lesson.target:
            p = rule.miss(error, recorded, np.frombuffer(lesson.target, "<i2").astype(np.int16))
        else:
            p = rule.error(error, recorded, lesson.label, case["in_play"])
        assert error.tolist() == case["error"].tolist()
        found = rule.factors(recorded, error)
    assert p == int(case["p"])
    for tensor, factors in found.items():
        assert factors.history.tolist() == case[f"{tensor}.history"].tolist(), tensor
        assert factors.post.tolist() == case[f"{tensor}.post"].tolist(), tensor


@EVERY
def test_the_stored_lessons_do_something(kind: str) -> None:
    learner, lesson = fresh(kind)
    before = {name: array.copy() for name, array in learner.arrays().items()}
    after, closed = case_of(kind, "after"), case_of(kind, "closed")
    shadows = [name for name in before if name.startswith("shadow")]
    assert all((after[name] != before[name]).mean() > 0.05 for name in shadows)
    assert all(closed[name].any() for name in closed if name.startswith("importance"))
    assert len(lesson.draws) == (0 if lesson.target else 2)
    for name in shadows:
        assert (after[name.removeprefix("shadow.")] != learner.network.tensors[name.removeprefix("shadow.")]).any()


def test_every_normaliser_is_in_a_lesson() -> None:
    plans = [new_learner(learners.bundle(kind)).manifest.learning.normaliser for kind in learners.KINDS]
    assert {type(plan) for plan in plans} >= {MeanQuotient, RMaxProp}


def test_kernels_of_chains_give_the_stored_bits() -> None:
    a = case_of("chain")
    weight = a["weight"].astype(np.float64)
    sums, below, rates = np.zeros(5, np.int64), np.zeros(4, np.int16), np.zeros(6, np.int16)
    chain.layer_sums(sums, weight, a["x"], a["bias"])
    chain.error_below(below, weight, a["error"], 7, a["x"])
    chain.rates_of(rates, a["h"])
    told, up, spread, scaled = (np.zeros(n, np.int64) for n in (5, 5, 4, 5))
    chain.predictions(told, weight, a["rates"], a["bias"], 10737418, 31)
    chain.predictions(up, weight, a["rates"], a["bias"], 3, 3)
    chain.spread(spread, weight, a["wide"].astype(np.int64), 28900, 20)
    chain.scaled(scaled, a["wide"].astype(np.int64), 819)
    normal = np.zeros(5, np.int16)
    chain.normalised(normal, a["wide"].astype(np.int64), 29, 4_700_000_000)
    for name, got in {
        "sums": sums, "below": below, "rates_of_h": rates, "told": told, "told_up": up, "spread": spread,
        "scaled": scaled, "normalised": normal,
    }.items():  # fmt: skip
        assert got.tolist() == a[name].tolist(), name
    for mean, want in zip(a["means"].tolist(), a["quotients"].tolist(), strict=True):
        gradient = a["gradient"].copy()
        mq.quotient(gradient, mean, a["words"])
        assert gradient.tolist() == want, mean
