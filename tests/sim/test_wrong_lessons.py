"""Lessons that cannot be right, before the real agent: nothing is learned from them, and somebody is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from bench import BUNDLE, Bench, examples
from pretend import INPUTS, sample

from edgerun.agent import COMMANDS, COMMANDS_PER_S
from edgerun.agent.lessons import QUEUE
from edgerun.spec import Doubt
from edgerun.telemetry.commands import TOO_MANY, Example


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.agent.abandon()


def corrected(bench: Bench, *labels: str) -> list[dict[str, Any]]:
    """Two windows, and what feedback would say of them."""
    return [
        {"sample": number, "label": label}
        for number, label in zip(bench.show(sample(0, 1), sample(1, 2)), labels, strict=True)
    ]


# ------------------------------------------------------------------ contradictions


def test_one_sample_under_two_names_in_a_command_teaches_nothing(bench: Bench) -> None:
    items = corrected(bench, "a", "b")
    before = bench.learned()
    refused = bench.do("feedback", items=[*items, items[0] | {"label": "c"}])
    assert (refused.status, bench.learned()) == ("rejected", before)
    assert refused.detail["reason"] == f"feedback sample {items[0]['sample']} was called 'a', now 'c'"
    assert bench.do("feedback", items=items).status == "done", "what was refused is not remembered"


def test_a_sample_that_was_corrected_before_is_not_corrected_otherwise(bench: Bench) -> None:
    items = corrected(bench, "a", "b")
    assert bench.do("feedback", items=items).status == "done"
    before = bench.learned()
    refused = bench.do("feedback", items=[items[0] | {"label": "d"}])
    assert (refused.status, bench.learned()) == ("rejected", before)
    assert bench.do("feedback", items=[items[0]]).status == "done", "the same again is no contradiction"
    assert bench.replays()


def test_an_example_that_is_stored_under_another_name_is_refused(bench: Bench) -> None:
    assert bench.do("teach", label="mug", examples=examples(4)).status == "done"
    before = bench.learned()
    for label in ("a", "cup"):
        refused = bench.do("teach", label=label, examples=[*examples(5), *examples(4, 1)])
        assert (refused.status, bench.learned()) == ("rejected", before)
        assert refused.detail["reason"] == "example 3 is stored as a sample of 'mug'"
    assert bench.do("teach", label="mug", examples=examples(4)).status == "done"


def test_what_feedback_said_is_forgotten_with_everything_else(bench: Bench) -> None:
    items = corrected(bench, "a", "b")
    assert bench.do("feedback", items=items).status == "done"
    bench.do("wipe-learned")
    bench.show(sample(0, 3))
    late = bench.do("feedback", items=[items[0] | {"label": "d"}])
    assert "is not among" in late.detail["reason"]


# ------------------------------------------------------------------ doubted labels


def test_a_label_that_surely_is_wrong_is_set_aside_and_counted(tmp_path: Path) -> None:
    plan = msgspec.structs.replace(BUNDLE.manifest.learning, doubt=Doubt(margins=16))
    doubting = replace(BUNDLE, manifest=msgspec.structs.replace(BUNDLE.manifest, learning=plan))
    bench = Bench(tmp_path, bundle=doubting)
    right = sum(bench.correct(first, 4).detail["set_aside"] for first in range(0, 32, 4))
    wrong = bench.correct(32, 4, wrong=2).detail["set_aside"]
    assert right <= 3 < 4 * wrong
    assert bench.agent.metrics()["doubted"] == right + wrong
    assert bench.replays()
    bench.agent.abandon()


# ------------------------------------------------------------------ floods


def test_more_commands_than_a_device_takes_are_refused_and_write_nothing(bench: Bench) -> None:
    bench.do("learn-pause")
    bench.device.clock.sleep_until(bench.device.clock.device_s() + 10)
    bench.hear()
    before, written = bench.learned(), bench.device.bytes_written
    for _ in range(COMMANDS):
        bench.send("learn-pause")
    bench.hear()
    each = (bench.device.bytes_written - written) / COMMANDS
    written = bench.device.bytes_written
    names = [bench.send("teach", label="a", examples=examples(0)) for _ in range(40)]
    bench.hear()
    assert bench.learned() == before
    assert bench.device.bytes_written - written <= each, "a command that is not taken costs no write"
    answers = [result for name in names for result in bench.results(name)]
    assert {(answer.status, answer.detail["reason"]) for answer in answers} == {("rejected", TOO_MANY)}
    assert bench.agent.metrics()["refused"] == 40
    bench.device.clock.sleep_until(bench.device.clock.device_s() + 2 / COMMANDS_PER_S)
    assert bench.do("probe").status == "done"


def test_a_flood_of_teaching_keeps_the_device_at_its_work(bench: Bench) -> None:
    """Ten thousand commands in a hundred cycles: every sample is answered, memory and lessons stay bounded."""
    bench.do("learn-pause")
    digest = bench.agent.life.digest()
    taught = examples(0, 2)
    for cycle in range(100):
        for _ in range(100):
            bench.send("teach", label="a", examples=taught)
        bench.show(sample(cycle % 4, cycle))
    agent = bench.agent
    assert agent.inferences == 100
    assert agent.lessons.waiting <= QUEUE
    assert agent.life.digest() == digest
    taken = agent.commands - 1
    assert taken <= COMMANDS + COMMANDS_PER_S * 100 * 0.5 + 1
    assert agent.reporter.refused >= 10_000 - taken - 256
    floods = bench.events("flood")
    assert floods
    assert floods[0].detail["dropped"] > 0


WRONG_SHAPE = msgspec.to_builtins(Example.of(np.zeros(INPUTS + 1, np.uint8)))


def test_wrong_lessons_by_the_thousand_are_counted_and_change_nothing(bench: Bench) -> None:
    bench.correct(0, 3)
    before = bench.learned()
    for _ in range(1000):
        bench.send("teach", label="mug", examples=[WRONG_SHAPE])
        bench.hear()
    assert bench.learned() == before
    assert bench.agent.reporter.refused >= 1000 - COMMANDS
    assert len([1 for _, payload, _ in bench.link.sent if b"rejected" in payload]) <= COMMANDS + 20
