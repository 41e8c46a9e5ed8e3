"""A stream that changes, before the real agent: told without a label, closed as a task, replayed to the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from bench import BUNDLE, Bench
from pretend import sample

from edgerun.learn.records import Boundary
from edgerun.spec import Drift

WATCHED = replace(
    BUNDLE,
    manifest=msgspec.structs.replace(
        BUNDLE.manifest, learning=msgspec.structs.replace(BUNDLE.manifest.learning, drift=Drift(samples=16))
    ),
)
USUAL = 180  # samples until every class has its reference, and some


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, bundle=WATCHED)
    yield made
    made.agent.abandon()


def show(bench: Bench, first: int, count: int, shift: int = 0) -> None:
    bench.show(*(np.clip(sample(i % 4, 5000 + i) + shift, 0, 255) for i in range(first, first + count)))
    bench.hear()


def told(bench: Bench) -> list[str]:
    return [event.detail["detector"] for event in bench.events("drift")]


def test_a_change_is_told_without_a_label_and_closes_a_task(watched: Bench) -> None:
    watched.correct(0, 4)
    show(watched, 0, USUAL)
    assert told(watched) == []
    show(watched, USUAL, 40, shift=6)
    assert told(watched) == ["stream"]
    assert [entry.reason for entry in watched.entries if isinstance(entry, Boundary)] == ["drift"]
    assert [event.detail["reason"] for event in watched.events("consolidated")] == ["drift"]
    assert watched.agent.metrics()["stream_drift"] == 0
    assert watched.replays()


def test_what_was_usual_outlives_a_restart_and_a_wipe_forgets_it(watched: Bench) -> None:
    show(watched, 0, USUAL)
    assert watched.do("checkpoint").status == "done"
    watched.reboot()
    show(watched, USUAL, 40, shift=6)
    assert told(watched) == ["stream"]
    show(watched, 400, USUAL)
    watched.do("wipe-learned")
    assert not any(array.any() for array in watched.agent.life.watch.arrays().values())


def test_it_changes_nothing_that_is_learned_but_by_its_boundary(watched: Bench) -> None:
    digest = watched.agent.life.digest()
    show(watched, 0, USUAL)
    assert watched.agent.life.digest() == digest
    assert watched.do("checkpoint").status == "done"
    assert watched.agent.life.digest() == digest
    assert watched.replays()


def test_a_device_without_the_plan_tells_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    show(bench, 0, USUAL)
    show(bench, USUAL, 40, shift=6)
    assert told(bench) == []
    assert np.isnan(bench.agent.metrics()["stream_drift"])
    bench.agent.abandon()
