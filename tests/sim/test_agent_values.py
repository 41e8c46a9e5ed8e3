"""Lessons that bring values, on a pretend board: taught, fed back, refused, rehearsed, replayed; no class anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import valued
from bench import BOARD, Bench

from edgerun.arrays import AnyArray
from edgerun.bundle import Bundle
from edgerun.linux.disk import RealDisk
from edgerun.ports import Sample
from edgerun.spec import Guard, LearningPlan, Lif
from edgerun.telemetry.commands import Example
from exporters.life import relive
from exporters.life_page import page

STEPS, INPUTS, NEURONS = 12, 10, 24
SHIFTS = {"hidden.input": 16, "hidden.recurrent": 20, "out.input": 10}
UNIT = 3.0  # of the values, in the readout's own


def bundle() -> Bundle:
    rule = valued.plan(SHIFTS, 4000, chunk_steps=STEPS, target_steps=2)
    hidden = Lif(name="hidden", inputs=INPUTS, outputs=NEURONS, weight_exponent=8)
    learning = LearningPlan(rule=rule, guard=Guard(every=8))
    model = valued.manifest(rule, (STEPS, INPUTS), hidden, unit=UNIT, learning=learning, seed=5)
    rng = np.random.default_rng(3)
    tensors = valued.unbiased(NEURONS, 28000) | {
        "hidden.input": rng.integers(-30, 70, (INPUTS, NEURONS)).astype(np.int8),
        "hidden.recurrent": rng.integers(-20, 21, (NEURONS, NEURONS)).astype(np.int8),
        "out.input": np.zeros((NEURONS, valued.OUTPUTS), np.int8),
    }
    return valued.bundle(model, tensors, np.stack([sample(k) for k in range(8)]))


def sample(number: int) -> AnyArray:
    """Counts of events, int8 as the input has them."""
    return (np.random.default_rng(number).random((STEPS, INPUTS)) < 0.3).astype(np.int8)


def target(number: int) -> AnyArray:
    """Values that a sample tells: how much of it lies on either side, in real units."""
    halves = sample(number).reshape(STEPS, 2, -1).mean(axis=(0, 2))
    return (UNIT * (0.5 + 3 * (halves - 0.3))).astype(np.float32)


def wired(*arrays: AnyArray) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(Example.of(array)) for array in arrays]


def lesson(*numbers: int) -> dict[str, Any]:
    return {
        "examples": wired(*(sample(k) for k in numbers)), "targets": wired(*(target(k) for k in numbers)),
    }  # fmt: skip


def said(bench: Bench) -> AnyArray:
    """The newest answer."""
    return np.array([float(word) for word in bench.agent.answer[1].split()])


def show(bench: Bench, number: int) -> int:
    bench.feed.queue.append(sample(number))
    bench.device.cycle()
    found: int = bench.agent.senses.number
    return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, bundle=bundle())
    yield made
    made.agent.abandon()


def test_values_are_taught_and_answered_in_real_units(bench: Bench) -> None:
    show(bench, 100)
    before = np.abs(said(bench) - target(100)).mean()
    results = [bench.do("teach", **lesson(*range(first, first + 8))) for first in range(0, 80, 8)]
    assert {done.status for done in results} == {"done"}
    missed = [done.detail["missed_before"] for done in results]
    assert np.mean(missed[-3:]) < 0.75 * missed[0]
    assert {"examples", "energy_uj", "missed_before"} == results[0].detail.keys()
    show(bench, 100)
    assert np.abs(said(bench) - target(100)).mean() < 0.5 * before
    assert len(bench.events("taught")) == len(bench.events("consolidated")) == 10
    assert bench.agent.learner.updates > 60
    assert bench.replays()


def test_feedback_brings_values_late(bench: Bench) -> None:
    numbers = [show(bench, k) for k in range(6)]
    items = [
        {"sample": number, "target": wired(np.stack([target(k), target(k)]))[0]} for k, number in enumerate(numbers)
    ]
    done = bench.do("feedback", items=items)
    assert (done.status, done.detail["lessons"]) == ("done", 6)
    assert 0 < done.detail["missed_before"] < 1
    assert bench.agent.learner.updates == 6
    assert bench.replays()


def test_a_stream_with_targets_teaches_and_broken_ones_are_counted(bench: Bench) -> None:
    good, bad = target(1), np.array([np.nan, 0.0], np.float32)
    told = iter([Sample(sample(1), target=good), Sample(sample(2), target=bad), Sample(sample(3), label="cup")])
    bench.feed.read = lambda: next(told, None)  # type: ignore[method-assign]  # a feed that knows
    for _ in range(12):
        bench.device.cycle()
    assert bench.agent.learner.lessons == 1
    assert bench.agent.senses.bad == 1


def test_a_rehearsal_tells_and_changes_nothing(bench: Bench) -> None:
    bench.do("teach", **lesson(1, 2, 3))
    before = bench.learned()
    done = bench.do("teach", **lesson(*range(10, 22)), dry_run=True)
    assert done.status == "done"
    assert done.detail["error_after"] < done.detail["error_before"]
    assert bench.learned() == before
    assert bench.replays()


def with_nan() -> dict[str, Any]:
    """A target whose second value is not a number; `Example.of` would not make it."""
    made = wired(np.zeros(2, np.float32))[0]
    return made | {"data": "AAAAAAAAwH8="}


@pytest.mark.parametrize(
    ("verb", "args", "reason"),
    [
        ("teach", {"examples": wired(sample(1)), "targets": [with_nan()]}, "not finite"),
        ("teach", {"examples": wired(sample(1)), "targets": wired(np.full(2, 1e6, np.float32))}, r"lie in \[-23.99"),
        ("teach", {"examples": wired(sample(1)), "targets": wired(np.zeros(3, np.float32))}, r"of shape \(2, 2\) or"),
        ("teach", {"examples": wired(sample(1)), "label": "mug"}, "learns values, not classes"),
        ("teach", {"examples": wired(sample(1))}, "neither a label nor a target"),
        ("teach", lesson(1) | {"label": "mug"}, "both a label and a target"),
        ("teach", lesson(1, 2) | {"examples": wired(sample(1))}, "2 targets for 1 examples"),
        ("teach", lesson(1) | {"targets": wired(target(1)) * 17}, "length <= 16"),
        ("feedback", {"items": [{"sample": 1}]}, "neither a label nor a target"),
        ("feedback", {"items": [{"sample": 1, "label": "mug"}]}, "learns values, not classes"),
        ("feedback", {"items": [{"sample": 99, "target": wired(target(1))[0]}]}, "not among"),
    ],
)  # fmt: skip
def test_what_cannot_be_taught_changes_nothing(bench: Bench, verb: str, args: dict[str, Any], reason: str) -> None:
    bench.do("teach", **lesson(1, 2))
    show(bench, 1)
    before = bench.learned()
    name = bench.send(verb, **args)
    for _ in range(4):
        bench.device.cycle()
        bench.agent.hear()
    (answer,) = bench.results(name)
    assert answer.status == "rejected"
    assert re.search(reason, answer.detail["reason"]), answer.detail["reason"]
    assert bench.learned() == before


def test_its_life_can_be_shown(bench: Bench) -> None:
    for first in range(0, 24, 8):
        bench.do("teach", **lesson(*range(first, first + 8)))
    life = relive(bench.bundle, RealDisk(bench.folder), BOARD, lambda done, count: None)
    assert life.values
    assert len(life.lessons) == 24
    shown = page(life)
    assert "near before being told" in shown
    assert "class by class" not in shown
