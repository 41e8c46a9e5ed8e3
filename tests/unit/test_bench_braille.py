"""Braille touch: events of a touch, what each arm costs, and the short form from data to page."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from modules import scenario

pytest.importorskip("torch", reason="pip install 'edgerun[train]'")
pytest.importorskip("nir", reason="pip install 'edgerun[export]'")

from edgerun.spec import LearningPlan
from exporters.runs import read_runs

NEEDS_DATA = pytest.mark.skipif("EDGERUN_DATA" not in os.environ, reason="EDGERUN_DATA names no folder of data sets")


@pytest.fixture
def braille(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return scenario(monkeypatch, "braille")


def test_a_touch_becomes_rises_and_falls(braille: ModuleType) -> None:
    frames = np.full((braille.FRAMES + 1, 12), 200, np.uint8)
    frames[1:, 3] = 150  # pressed in the first frame
    frames[5:, 3] = 210  # and let go in the second group of three
    x = braille.events(frames)
    assert (x.shape, x.dtype) == ((24, 24), np.uint8)
    assert (x[0, 12 + 3], x[1, 3]) == (50, 60)
    assert x.sum() == 110


@NEEDS_DATA
def test_the_short_form_runs_from_data_to_page(
    braille: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "results.md"
    page.write_text("# Results\n")
    arguments = ["--short", "--nets", str(tmp_path), "-o", str(tmp_path), "--markdown", str(page)]
    monkeypatch.setattr(sys, "argv", ["braille.py", *arguments])
    assert braille.main() == 0
    runs = {run.arm: run for run in read_runs(tmp_path / "braille.json")}
    assert tuple(runs) == braille.ARMS
    assert runs["none"].matrix[1] == runs["none"].matrix[0]
    assert runs["none"].matrix[0][1] == 0  # a class that it does not know is never right
    assert all(runs[arm].matrix[1][1] > 0.4 for arm in braille.ARMS[1:])
    memory = {arm: sum(run.memory_bytes.values()) for arm, run in runs.items()}
    assert memory["none"] < memory["means"] == memory["prototypes"] < memory["plain"] < memory["full"]
    assert (runs["full"].figures["updates"] > 0, runs["prototypes"].figures["updates"]) == (True, 0)
    assert re.search(r"^\| full \| 1 \|", page.read_text(), re.MULTILINE)


def test_an_arm_plans_only_what_it_uses(braille: ModuleType, digits_bundle: Path) -> None:
    from edgerun.bundle import open_bundle

    bundle = open_bundle(digits_bundle)
    plans = {arm: braille.planned(bundle, arm).manifest.learning for arm in ("none", "prototypes", "plain", "full")}
    assert plans["none"] == LearningPlan()
    assert plans["prototypes"].rule is plans["plain"].intelligence is None
    assert plans["plain"].rule == plans["full"].rule == bundle.manifest.learning.rule
    assert plans["full"] == bundle.manifest.learning
