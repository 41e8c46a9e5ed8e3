"""The delayed cue: trials are what they say, one lesson moves the float twin alike, the short form makes its page."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from modules import scenario

from edgerun.lifetime import new_learner
from exporters.runs import read_runs


@pytest.fixture
def cue(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return scenario(monkeypatch, "delayed_cue")


def test_a_trial_shows_its_cues_and_asks_at_the_end(cue: ModuleType) -> None:
    task = cue.Task(noise_rate=0.0, cue_rate=1.0)
    x, label = task.draw(np.random.default_rng(1), 60)
    spikes = x.reshape(60, task.steps, 4, task.group) == cue.SPIKE
    shown = spikes[:, : task.cues * task.every : task.every, :2, 0]  # (trial, cue, side)
    assert (shown.sum(axis=2) == 1).all()
    assert (label == (shown[:, :, 1].sum(axis=1) > task.cues / 2)).all()
    assert 10 < label.sum() < 50
    assert spikes[:, -task.recall :, 2].all()
    assert not spikes[:, task.cues * task.every : -task.recall].any()
    assert not spikes[:, : -task.recall, 2].any()


@pytest.mark.parametrize("feedback", ["symmetric", "random", "adaptive"])
def test_one_lesson_moves_the_integers_as_their_float_twin(cue: ModuleType, feedback: str) -> None:
    net, task = cue.Net(feedback=feedback, neurons=20), cue.Task(cues=3, delay=10)
    bundle = cue.bundle_of(net, task, 1)
    learner, twin = new_learner(bundle), cue.FloatNet(net, task, cue.tensors_of(net, task, 1))
    before = {name: getattr(twin, part).copy() for name, part in PLACES.items() if getattr(twin, part) is not None}
    x, label = next(iter(cue.stream(task, 1, 1)))
    learner.apply(learner.plan_lesson(x, label, "full"))
    twin.learn(x.reshape(task.steps, -1) / cue.SPIKE, label)
    for rate in bundle.manifest.learning.rule.rates:
        shadow = learner.arrays()[f"shadow.{rate.tensor}"].astype(float)
        made = (shadow - 256.0 * bundle.tensors[rate.tensor]) / 2**cue.FRACTION
        wanted = getattr(twin, PLACES[rate.tensor]) - before[rate.tensor]
        assert np.linalg.norm(made - wanted) < 0.2 * np.linalg.norm(wanted), rate.tensor


PLACES = {"hidden.input": "w", "hidden.recurrent": "r", "out.input": "o", "hidden.feedback": "b"}


def test_the_short_form_makes_its_page(cue: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "results.md"
    page.write_text("# Results\n")
    monkeypatch.setattr(sys, "argv", ["delayed_cue.py", "--short", "--output", str(tmp_path), "--markdown", str(page)])
    assert cue.main() == 0
    runs = {run.arm: run for run in read_runs(tmp_path / "delayed_cue.json")}
    assert list(runs) == ["none", "ALIF", "ALIF (float)", "LIF", "LIF (float)"]
    accuracy = {arm: run.matrix[0][0] for arm, run in runs.items()}
    assert accuracy["ALIF"] > 0.8 > 0.75 > accuracy["LIF"]
    assert accuracy["ALIF (float)"] > 0.8
    assert runs["ALIF"].figures["updates"] < 300
    assert 0.4 < accuracy["none"] < 0.6
    assert re.search(r"^\| ALIF \| 1 \|", page.read_text(), re.MULTILINE)
