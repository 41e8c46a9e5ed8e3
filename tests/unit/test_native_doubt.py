"""Labels that are doubted by C: numpy's verdicts and numpy's bits, also where scores are equal or far apart."""

from __future__ import annotations

import learners
import msgspec
import numpy as np
import pytest

from edgerun.kernels.native import library
from edgerun.learn import native
from edgerun.learn.learner import Learner
from edgerun.learn.records import Forget, NewClass, Settle
from edgerun.lifetime import new_learner
from edgerun.native import network_of
from edgerun.spec import Doubt

pytestmark = pytest.mark.skipif(library() is None, reason="the C kernels are not built here")

PLANS = (Doubt(margins=8, share=0, votes=2), Doubt(margins=13, share=30000, votes=7), Doubt(margins=12, votes=64))


def pair(plan: Doubt) -> tuple[Learner, Learner, native.Pupil]:
    """The same learner in numpy and in C, and who gives the second one lessons."""
    manifest, tensors = learners.doubted()
    tensors |= learners.prototypes("eprop", manifest, tensors)
    learning = msgspec.structs.replace(manifest.learning, doubt=plan)
    manifest = msgspec.structs.replace(manifest, learning=learning)
    theirs, ours = (
        Learner(
            network_of(manifest, {name: array.copy() for name, array in tensors.items()}, backend),
            priors={}, backend=backend,
        )
        for backend in ("numpy", "native")
    )  # fmt: skip
    return theirs, ours, native.Pupil(ours.records())


def same(theirs: Learner, ours: Learner, number: int) -> None:
    for name, array in theirs.arrays().items():
        np.testing.assert_array_equal(ours.arrays()[name], array, err_msg=f"{name} after {number}")


@pytest.mark.parametrize("plan", PLANS)
def test_c_doubts_what_numpy_doubts(plan: Doubt) -> None:
    theirs, ours, pupil = pair(plan)
    rng, set_aside, streamed = np.random.default_rng(3), 0, 0
    for number in range(170):
        q = learners.sample("eprop", int(rng.integers(4)), number)
        if number % 7 == 0:
            q = np.zeros_like(q)  # silence: every score alike
        said = theirs.network.infer(q).label
        label = said if rng.random() < 0.7 else int(rng.integers(len(theirs.classes)))
        on_stream, level = bool(rng.random() < 0.9), learners.LEVELS[number % len(learners.LEVELS)]
        taught = theirs.apply(theirs.plan_lesson(q, label, level, int(on_stream)))
        assert taught is not None
        if on_stream:
            answer, _, updates, _, aside = pupil.feedback(q, label, level)
            assert (answer, updates, aside) == (said, taught.updates, taught.aside)
            set_aside += aside
            streamed += 1
        else:
            assert pupil.lesson(q, label, level)[0] == said
            assert not taught.aside
        if number == 100:
            theirs.apply(NewClass(label="e"))
            pupil.counters[5] += 1
        if number % 50 == 49:
            theirs.apply(Settle())
            pupil.settle()
        if number in (120, 150):
            theirs.apply(Forget(label=number % 4))
            pupil.forget(number % 4)
        same(theirs, ours, number)
        assert pupil.counters[:3].tolist() == [theirs.updates, theirs.lessons, theirs.deep_lessons]
    assert 0 < set_aside < streamed or plan.votes == 64


def test_a_plan_without_doubt_doubts_nothing() -> None:
    learner = new_learner(learners.bundle("eprop"), backend="native")
    pupil, q = native.Pupil(learner.records()), learners.sample("eprop", 0, 1)
    assert not any(pupil.feedback(q, k % 4, "full")[4] for k in range(30))


@pytest.mark.parametrize("wrong", [{"margin": None}, {"votes": 0}, {"sure": 1 << 15}, {"margins": -1}, {"told": None}])
def test_doubt_without_its_books_is_refused(wrong: dict[str, object]) -> None:
    _, ours, _ = pair(PLANS[0])
    records = ours.records()
    net = native.required().Net(*records.network, False)
    assert records.learner is not None
    learner = native.required().Learner(net, *records.learner, False)
    with pytest.raises(ValueError, match="lessons"):
        native.required().Pupil(net, learner, records.lessons | wrong, records.counters)
