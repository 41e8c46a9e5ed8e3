"""The inner step in C: numpy's traces, errors and weights, and a forgotten class leaves nothing there either."""

from __future__ import annotations

import learners
import msgspec
import numpy as np
import pytest
import trajectories

from edgerun.kernels.native import Backend, library
from edgerun.learn import native
from edgerun.learn.learner import Learner
from edgerun.learn.records import Forget, NewClass
from edgerun.lifetime import new_learner
from edgerun.native import network_of

pytestmark = pytest.mark.skipif(library() is None, reason="the C kernels are not built here")

WORKING = ("trace.readout", "trace.readout_state", "trace.clipped", "lesson.error")


@pytest.mark.parametrize("kind", ["inner", "inner-hot"])
def test_windows_leave_numpys_arrays(kind: str) -> None:
    theirs, ours = (trajectories.learner_of(kind, backend) for backend in ("numpy", "native"))
    rng, silent = np.random.default_rng(2), 0
    for number in range(120):
        if number == 60:
            for learner in (theirs, ours):
                learner.apply(NewClass(label="e"))
        told = trajectories.told(theirs, rng)
        lesson = theirs.plan_lesson(told.q, told.label, "light")
        assert theirs.apply(lesson) == ours.apply(lesson)
        for name in (*theirs.arrays(), *WORKING):
            np.testing.assert_array_equal(ours._state[name], theirs._state[name], err_msg=f"{name} after {number}")
        silent += not theirs._state["lesson.error"].any()
    assert theirs.updates > 40
    assert silent < 120


@pytest.mark.parametrize("kind", ["inner", "inner-hot"])
def test_a_forgotten_class_loses_its_column(kind: str) -> None:
    theirs, ours = (trajectories.learner_of(kind, backend) for backend in ("numpy", "native"))
    pupil, rng = native.Pupil(ours.records()), np.random.default_rng(2)
    for number in range(90):
        told = trajectories.told(theirs, rng)
        theirs.apply(theirs.plan_lesson(told.q, told.label, told.level))
        pupil.lesson(told.q, told.label, told.level)
        if number % 20 == 19:
            theirs.apply(Forget(label=number % 4))
            pupil.forget(number % 4)
            assert not ours.network.tensors["out.input"][:, number % 4].any()
        for name, array in theirs.arrays().items():
            np.testing.assert_array_equal(ours.arrays()[name], array, err_msg=f"{name} after {number}")


def test_an_error_at_the_gate_itself_teaches_nothing() -> None:
    manifest, tensors = learners.inner_step()
    q, weights = learners.sample("inner-step", 1, 5), tensors["out.input"].copy()

    def error(backend: Backend, gate: int) -> list[int]:
        rule = msgspec.structs.replace(manifest.learning.rule, gate=gate)
        plan = msgspec.structs.replace(manifest.learning, rule=rule)
        own = tensors | {"out.input": weights.copy()}
        network = network_of(msgspec.structs.replace(manifest, learning=plan), own, backend)
        learner = Learner(network, priors={}, backend=backend)
        learner.apply(learner.plan_lesson(q, 2, "full"))
        found: list[int] = learner._state["lesson.error"].tolist()
        return found

    open_gate = error("native", 0)
    for size in {abs(each) for each in open_gate if each}:
        ours = error("native", size)
        assert ours == error("numpy", size) == [each if abs(each) > size else 0 for each in open_gate]


def test_an_inner_step_that_does_not_fit_is_refused() -> None:
    learner = new_learner(learners.bundle("inner-step"), backend="native")
    records, held = learner.records(), native.required()
    assert records.learner is not None
    net, rule = held.Net(*records.network, False), records.learner
    for wrong in ({"layer": 0}, {"input": None}, {"input_state": None}, {"chunk": 2}, {"reach": 0}):
        with pytest.raises(ValueError, match="taught"):
            held.Learner(net, *rule._replace(taught=(rule.taught[0] | wrong,)), False)
    for number in ({"gate": -1}, {"targets": 2}):
        with pytest.raises(ValueError, match="rule"):
            held.Learner(net, *rule._replace(rule=rule.rule | number), False)
