"""The changed condition: its short form tells every change without labels, adapts, and makes its page and picture."""

from __future__ import annotations

import os
import re
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from modules import scenario

from exporters.runs import read_runs

DATA = Path(os.environ.get("EDGERUN_DATA", "none"), "bearing_cwru_12k.npz")


@pytest.fixture
def condition(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return scenario(monkeypatch, "condition")


def test_a_loose_sensor_hears_half_and_less_of_what_is_high(condition: ModuleType) -> None:
    t = np.arange(12_000) / condition.RATE_HZ
    heard = [np.std(condition.loosened(np.sin(2 * np.pi * hz * t))) * np.sqrt(2) for hz in (10, 1500, 5000)]
    np.testing.assert_allclose(heard, [0.5, 0.5 / np.sqrt(2), 0.5 / np.hypot(1, 5000 / 1500)], rtol=0.01)


def test_parts_of_a_recording_never_overlap(condition: ModuleType) -> None:
    place = np.arange(20) / 20
    one = condition.Condition("0 hp", place[:, None], np.zeros(20, np.int64), place)
    ends = (0, condition.FACTORY, condition.STREAM, 1)
    parts = [one.part(first, last) for first, last in pairwise(ends)]
    assert np.concatenate([part.place for part in parts]).tolist() == place.tolist()
    mixed = one.shuffled(np.random.default_rng(1))
    assert (mixed.x[:, 0] == mixed.place).all()
    assert sorted(mixed.place) == place.tolist()


@pytest.mark.skipif(not DATA.is_file(), reason="EDGERUN_DATA names no folder with bearing_cwru_12k.npz")
def test_the_short_form_makes_its_page(condition: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "results.md"
    page.write_text("# Results\n")
    monkeypatch.setattr(sys, "argv", ["condition.py", "--short", "--output", str(tmp_path), "--markdown", str(page)])
    assert condition.main() == 0
    runs = {run.arm: run for run in read_runs(tmp_path / "condition.json")}
    assert list(runs) == ["none", "none (float)", "plain", "plain (float)", "full", "full (float)"]
    last = {arm: np.array(run.matrix[-1]) for arm, run in runs.items()}
    assert last["full"].mean() > last["none"].mean() + 0.08
    assert last["full"][0] > last["plain"][0] + 0.3, "what the factory knew is kept"
    assert abs(last["full"].mean() - last["full (float)"].mean()) < 0.03
    figures = runs["full"].figures
    assert figures["false alarms"] == 0
    assert 15 <= figures["alarm after, 1 hp, loose"] <= 40
    assert 15 <= figures["alarm after, 2 hp"] <= 80
    assert len(re.findall(r"\| 2 of 2 \|", page.read_text())) == len(condition.CHANGES)
    assert (tmp_path / "images" / "condition-drift.svg").read_text().count("<circle") == 2
