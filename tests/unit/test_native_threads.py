"""Objects of the extension serve one thread at a time: a second one is refused while the first is at work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import learners
import msgspec
import numpy as np
import pytest

from edgerun.arrays import Tensors
from edgerun.kernels.native import library
from edgerun.learn import native
from edgerun.learn.learner import Learner
from edgerun.learn.stages import Factors
from edgerun.native import network_of
from edgerun.spec import EProp, Intelligence, LearningPlan, PhaseRate, PlasticRate

pytestmark = pytest.mark.skipif(library() is None, reason="the C kernels are not built here")

STEPS = 20_000
"""Of a window, which then takes milliseconds."""
PATIENCE_S = 20.0


@contextmanager
def at_work(call: Callable[[], object]) -> Iterator[None]:
    """Another thread that makes the call again and again; where it is refused itself, it goes on."""
    stop, started = threading.Event(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            started.set()
            tried(call)

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def tried(call: Callable[[], object]) -> str:
    """What a call was refused for, "" where it was not."""
    try:
        call()
    except RuntimeError as error:
        return str(error)
    return ""


def refusal(call: Callable[[], object]) -> str:
    """Why a call is refused sooner or later."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if why := tried(call):
            return why
    return ""


def long_learner() -> tuple[Any, Any, Any, Learner]:
    """Net, learner and pupil of the extension, which let go of the interpreter's lock, and what holds their arrays."""
    rule = EProp(layer="high", readout="out", chunk_steps=100, rates=learners.rates(500, 20, *learners.HIGH))
    manifest, tensors = learners.spiking(rule, features="high")
    tensors |= learners.prototypes("eprop", manifest, tensors)
    manifest = msgspec.structs.replace(manifest, encoder=PhaseRate(steps=STEPS, full_scale=64))
    held: Any = library()
    learner = Learner(network_of(manifest, tensors, "native"), priors={}, exemplars=exemplars(), backend="native")
    records = learner.records()
    assert records.learner is not None
    net = held.Net(*records.network, True)
    taught = held.Learner(net, *records.learner, True)
    return net, taught, held.Pupil(net, taught, records.lessons, records.counters), learner


def exemplars() -> tuple[np.ndarray, np.ndarray]:
    q = np.random.default_rng(1).integers(0, 64, (4, 12)).astype(np.int16)
    return q, np.arange(4)


def test_a_net_at_work_is_refused_to_every_other_call() -> None:
    net, taught, pupil, _ = long_learner()
    q, plays, moment = exemplars()[0][0], np.ones(learners.CAPACITY, np.bool_), np.zeros(12, np.int16)
    scores = [np.zeros(4, np.int32) for _ in range(2)]
    calls: dict[str, Callable[[], object]] = {
        "infer": lambda: net.infer(q, 4, scores[1]), "run": lambda: net.run(q), "step": lambda: net.step(moment),
        "reset": net.reset, "features": net.features,
        "record": lambda: net.record(q, (), np.zeros(learners.CAPACITY, np.int32)),
        "decide": lambda: net.decide(4, scores[1]), "reading": lambda: net.reading(0, np.zeros(14, np.int32)),
        "learn": lambda: taught.learn(q, 0, 1 << 15, plays, 0), "factors": taught.factors,
        "lesson": lambda: pupil.lesson(q, 0, 0), "feedback": lambda: pupil.feedback(q, 0, 0), "settle": pupil.settle,
        "boundary": pupil.boundary, "forget": lambda: pupil.forget(1),
    }  # fmt: skip
    for work in (lambda: net.infer(q, 4, scores[0]), lambda: taught.learn(q, 0, 1 << 15, plays, 0)):
        with at_work(work):
            for name, call in calls.items():
                assert refusal(call) == "the net is at work in another thread", name
    assert not tried(net.reset)  # and afterwards it is free


def plastic() -> tuple[native.Plastic, Factors, Tensors]:
    """A tensor that an update of takes some hundred microseconds, its factors and its arrays."""
    rng, shape, steps = np.random.default_rng(3), (500, 200), 100
    rate = PlasticRate(tensor="t", eta=500, shift=20, max_step=512)
    rule = EProp(layer="l", readout="r", chunk_steps=1, rates=(rate,), gradient_shift=8)
    plan = LearningPlan(rule=rule, intelligence=Intelligence(strength=16, damping=600))
    state: Tensors = {
        "shadow.t": rng.integers(-9999, 9999, shape).astype(np.int16), "ref.t": np.zeros(shape, np.int16),
        "omega.t": np.zeros(shape, np.int32), "importance.t": np.full(shape, 40, np.uint8),
        "weights": np.zeros(shape, np.int8),
    }  # fmt: skip
    factors = Factors(*(rng.integers(-99, 99, (steps, n)).astype(np.int16) for n in shape))
    return native.Plastic(native.plastic_fields(plan, rate, 0, state["weights"], state), 5), factors, state


def test_a_tensor_that_two_threads_update_takes_every_update_once() -> None:
    """Whichever thread was let in: the bits are those of as many updates by one."""
    (ours, factors, shared), (theirs, _, alone) = plastic(), plastic()
    done = {name: 0 for name in ("one", "other")}

    def update(name: str) -> None:
        ours.update(factors, 7)
        done[name] += 1

    until, refused = time.monotonic() + PATIENCE_S, 0
    with at_work(lambda: update("one")):
        while time.monotonic() < until and refused < 20:
            refused += bool(tried(lambda: update("other")))
    assert refused
    for _ in range(sum(done.values())):
        theirs.update(factors, 7)
    for name, array in shared.items():
        np.testing.assert_array_equal(array, alone[name], err_msg=name)


def test_a_tensor_at_work_is_refused_to_every_other_call() -> None:
    held, factors, _ = plastic()
    for call in (lambda: held.update(factors, 1), lambda: held.consolidate(1), lambda: rewired(held)):
        with at_work(lambda: held.update(factors, 1)):
            assert refusal(call) == "the plastic tensor is at work in another thread"


def rewired(held: native.Plastic) -> None:
    """Which has no synapses that move, where it is not at work."""
    with suppress(ValueError):
        held._held.rewire()
