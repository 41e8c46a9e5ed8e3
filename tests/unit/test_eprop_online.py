"""e-prop step by step: each gradient is one outer product, and the next step runs on what was written."""

from collections.abc import Collection
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import two_lif
from reference import eprop as paper
from reference import integers
from two_lif import CLASSES, DECAY, HIGH, INPUTS, KAPPA, LAYERS, LOW

from edgerun import price
from edgerun.arrays import AnyArray, Tensors
from edgerun.bundle import Probe, Selftest, pack, read_bundle
from edgerun.errors import SpecError
from edgerun.kernels import eprop
from edgerun.learn import records
from edgerun.learn.eprop import EPropOnlineRule
from edgerun.learn.learner import Learner
from edgerun.network import Network
from edgerun.rules import EPropOnline
from edgerun.spec import (
    Guard,
    Manifest,
    PlasticRate,
)

STEPS, TARGETS = 40, 12
NAMES = ("low.input", "low.recurrent", "high.input", "high.recurrent", "high.feedback", "low.feedback", "out.input")


def plan(**changes: Any) -> EPropOnline:
    fields: dict[str, Any] = {
        "layer": "high", "hidden": ("low",), "readout": "out", "target_steps": TARGETS, "post_shift": 8,
        "feedback": "adaptive",
        "rates": tuple(PlasticRate(tensor=name, eta=1, shift=20) for name in NAMES),
    }  # fmt: skip
    return EPropOnline(**(fields | changes))


def manifest_of(rule: EPropOnline, *, adaptive: Collection[str] = ()) -> Manifest:
    return two_lif.manifest(rule, STEPS, adaptive=adaptive, guard=Guard(every=4096))


def tensors_of() -> Tensors:
    return two_lif.tensors(fed=LAYERS)


def sample(seed: int) -> AnyArray:
    return np.random.default_rng(seed).integers(0, 10, INPUTS).astype(np.int16)


def learner_of(rule: EPropOnline) -> Learner:
    return Learner(Network(manifest_of(rule), tensors_of()), priors={})


def test_every_step_has_the_gradient_of_the_paper_without_its_filter() -> None:
    rule, tensors, q = plan(), tensors_of(), sample(3)
    net = Network(manifest_of(rule), tensors)
    tapes = {name: net.record(q, name) for name in rule.layers}
    bound = EPropOnlineRule(net.manifest, tensors)
    steps = [deepcopy(found) for _, found in bound.steps(net, q, 1, np.ones(CLASSES, np.bool_))]  # views, else
    assert len(steps) == TARGETS
    x, want = np.array([integers.phase_rate(int(u), STEPS, 16) for u in q], float).T, {}
    y = paper.filtered(tapes["high"].spikes @ (tensors["out.input"] / 256), KAPPA / 32768)
    errors = np.array([paper.error_of(row, 1) for row in y[-TARGETS:]])
    for name in rule.layers:
        n, z = tensors[f"{name}.bias"].size, tapes[name].spikes.astype(float)
        layer = paper.Net(
            w=tensors[f"{name}.input"] / 256, r=tensors[f"{name}.recurrent"] / 256, o=np.zeros((n, CLASSES)),
            alpha=DECAY / 32768, kappa=KAPPA / 32768, gamma=77 / 256, rho=np.zeros(n), beta=np.zeros(n),
        )  # fmt: skip
        window = paper.run(layer, x, forced=z)
        post = window.psi[-TARGETS:] * (errors @ (tensors[f"{name}.feedback"] / 256).T)
        for part, pre in (("input", x), ("recurrent", window.late)):
            trace = paper.filtered(pre, layer.alpha)[-TARGETS:]
            want[f"{name}.{part}"] = [np.outer(a, b) for a, b in zip(trace, post, strict=True)]
        zbar = paper.filtered(z, layer.kappa)[-TARGETS:]
        want[f"{name}.feedback"] = [np.outer(a, b) for a, b in zip(zbar, errors, strict=True)]
        x = z
    want["out.input"] = want["high.feedback"]
    for t, found in enumerate(steps):
        for name, factors in found.items():
            assert factors.history.shape[0] == factors.post.shape[0] == 1
            got = np.zeros(tensors[name].shape, np.int64)
            eprop.gradient(got, factors.history, factors.post)
            assert paper.cosine(got.astype(float), want[name][t]) >= 0.99, (name, t)


def test_a_step_runs_on_what_the_step_before_has_learned() -> None:
    learner, q = learner_of(plan()), sample(3)
    rule = EPropOnlineRule(learner.manifest, dict(learner.network.tensors))
    still = [p for p, _ in rule.steps(learner.network, q, 1, np.ones(CLASSES, np.bool_))]
    taught = learner.apply(learner.plan_lesson(q, 1, "full"))
    assert taught is not None
    assert taught.updates == learner.updates == TARGETS
    assert taught.confidence > 1.02 * float(np.mean(still)) / 32768
    first, second = (learner_of(plan()) for _ in range(2))
    first.apply(first.plan_lesson(q, 1, "full"))
    second.apply(records.decode(records.encode(second.plan_lesson(q, 1, "full"))))
    assert first.digest() == second.digest() == learner.digest()


def test_classes_are_told_apart_after_some_lessons() -> None:
    learner = learner_of(plan())
    for number in range(80):
        learner.apply(learner.plan_lesson(sample(number % CLASSES), number % CLASSES, "full"))
    assert [learner.network.infer(sample(k)).label for k in range(CLASSES)] == list(range(CLASSES))


def test_steps_that_are_sure_enough_teach_nothing() -> None:
    learner = learner_of(plan(error_threshold=0))
    taught = learner.apply(learner.plan_lesson(sample(3), 1, "full"))
    assert taught is not None
    assert (taught.updates, taught.norm) == (0, 0.0)


def test_the_share_is_of_steps() -> None:
    learner = learner_of(plan(update_share=8192))
    updates = []
    for number in range(60):
        taught = learner.apply(learner.plan_lesson(sample(number), number % CLASSES, "full"))
        updates.append(taught.updates if taught else 0)
    assert 0.1 < sum(updates[30:]) / (30 * TARGETS) < 0.4
    assert 0 < learner.threshold < 32768


def test_no_window_is_kept_and_every_step_is_priced() -> None:
    manifest, tensors = manifest_of(plan()), tensors_of()
    x = np.array([sample(k) for k in range(8)])
    scores = np.array([Network(manifest, tensors).infer(q).scores.copy() for q in x], np.int32)
    rows = x.astype(np.uint8)
    probe = Probe(rows, (np.arange(8) % 4).astype(np.int32))
    bundle = read_bundle(pack(manifest, tensors, selftest=Selftest(rows, scores), probe=probe))
    slots = price.memory_plan(bundle).slots
    for name, units in (("trace.low.input", INPUTS), ("tape.psi", HIGH), ("trace.input", LOW), ("trace.readout", HIGH)):
        assert slots[name].slot.shape == (1, units)
    assert "tape.pre" not in slots
    work = price.work(bundle)
    change = work.lesson["full"].plastic_updates - work.unchanged["full"].plastic_updates
    assert change == TARGETS * sum(tensors[name].size for name in NAMES)
    assert price.learn_cost(work, TARGETS, "full") == work.lesson["full"]


def test_what_needs_a_window_or_state_for_every_synapse_is_refused() -> None:
    with pytest.raises(SpecError, match="spikes_cost 3 must be 0"):
        plan(spikes_cost=3)
    with pytest.raises(SpecError, match="layer 'high' is adaptive"):
        plan().check(manifest_of(plan(), adaptive=("high",)).layer)
