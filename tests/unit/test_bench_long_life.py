"""A long life: its stream is a pure function, it goes on where it was, and its twin would notice a lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest
from modules import scenario

pytest.importorskip("sklearn", reason="pip install 'edgerun[demo]'")

from deploy.demo import digits
from edgerun.bundle import Bundle, open_bundle
from edgerun.errors import DataError
from edgerun.lifetime import Lifetime
from edgerun.spec import Guard

PHASE, WRITES = 400, 15


@pytest.fixture
def long_life(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark, on a board with power enough for a verdict in every minute."""
    module = scenario(monkeypatch, "long_life")
    monkeypatch.setattr(module, "POWER_MW", (400.0, 400.0))
    return module


@pytest.fixture
def bundle(digits_bundle: Path) -> Bundle:
    """The demo's, with a verdict after every sixth lesson."""
    found = open_bundle(digits_bundle)
    plan = msgspec.structs.replace(found.manifest.learning, guard=Guard(every=6, max_drop=0.5))
    return replace(found, manifest=msgspec.structs.replace(found.manifest, learning=plan))


@pytest.fixture
def stream(long_life: ModuleType) -> Any:
    return long_life.make_stream(1, digits.load()[1], PHASE)


def test_the_stream_is_a_pure_function_of_its_seed_and_the_number(long_life: ModuleType, stream: Any) -> None:
    again = long_life.make_stream(1, digits.load()[1], PHASE)
    for number in (0, 7, 95):
        (x, y), (other_x, other_y) = stream.block(number), again.block(number)
        assert (x == other_x).all()
        assert (y == other_y).all()
        sample, q, label = again.labelled(number)
        assert sample // long_life.BLOCK == number
        place = sample % long_life.BLOCK
        assert (q.tolist(), label) == (x[place].tolist(), int(y[place]))
    dimmed = stream.block(2 * PHASE // long_life.BLOCK + PHASE // long_life.BLOCK - 1)[0]
    assert dimmed.max() <= 9 < stream.block(PHASE // long_life.BLOCK - 1)[0].max()


def told(chapters: list[Any]) -> list[dict[str, Any]]:
    """All but what this machine makes of it."""
    return [
        {k: v for k, v in msgspec.structs.asdict(each).items() if k not in ("rss_bytes", "seconds")}
        for each in chapters
    ]


def test_a_life_goes_on_where_it_was_laid_down(
    long_life: ModuleType, bundle: Bundle, stream: Any, tmp_path: Path
) -> None:
    whole = long_life.long_life(bundle, stream, tmp_path / "whole", 3, WRITES)
    long_life.long_life(bundle, stream, tmp_path / "parts", 1, WRITES)
    parts = long_life.long_life(bundle, stream, tmp_path / "parts", 3, WRITES)
    assert told(parts) == told(whole)
    total = {name: sum(getattr(each, name) for each in whole) for name in long_life.SUMS}
    assert total["cuts"] > 3
    assert total["replayed"] > 0
    assert total["verdicts"] > 1
    assert total["lost"] == 0
    assert sum(sum(each.levels.values()) for each in whole) > 20
    assert len({each.digest for each in whole}) == 3


def test_a_device_that_comes_back_otherwise_is_found_out(
    long_life: ModuleType, bundle: Bundle, stream: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Liar(Lifetime):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            if self.recovery.replayed:
                self.learner.arrays()["shadow.lif.input"][0, 0] ^= 1

    monkeypatch.setattr(long_life, "Lifetime", Liar)
    with pytest.raises(DataError, match="is not what its twin is"):
        long_life.long_life(bundle, stream, tmp_path, 1, WRITES)


def test_a_chapter_says_what_the_last_journal_still_holds(long_life: ModuleType) -> None:
    entries = [long_life.Boundary(reason=reason) for reason in ("drift", "idle", "command")]
    assert long_life.survived(entries, entries[1:]) == entries[1:]
    assert long_life.survived(entries[:2], entries[1:]) == entries[1:2]
    assert long_life.survived(entries[:1], entries[1:]) == []
    assert long_life.survived([], entries) == []


def test_growth_is_told_a_round(long_life: ModuleType) -> None:
    assert long_life.slope([100.0 + 5 * k for k in range(40)]) == pytest.approx(20)
    assert long_life.slope([7.0]) == 0
    assert np.isfinite(long_life.slope([1.0, 1.0, 1.0]))
