"""The hand's velocity: windows end where they say, the float twin starts where integers do, the short form's page."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from modules import scenario

from exporters.runs import read_runs

pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return scenario(monkeypatch, "values")


def test_a_window_ends_at_its_bin(values: ModuleType) -> None:
    counts = np.arange(5)[:, None].repeat(values.UNITS, axis=1)
    x = values.windows(counts)
    assert x.shape == (5, values.STEPS, values.UNITS)
    assert (x[:, -1, 0] == np.arange(5)).all()
    assert (x[3, -4:, 0] == np.arange(4)).all()
    assert not x[0].any()


def test_the_twins_gradient_is_that_of_half_the_squared_error(values: ModuleType) -> None:
    """Of the readout, which e-prop leaves nothing out of."""
    rng = np.random.default_rng(1)
    net = values.FloatNet.random(12, rng)
    net.o = rng.normal(0, 0.3, net.o.shape)
    x, wanted = rng.poisson(0.8, (3, values.STEPS, values.UNITS)), rng.normal(0, 1, (3, 2))
    y, spikes, psi = net.run(x)
    found = net.gradients(x, spikes, psi, y - wanted)["o"]
    losses = []
    for nudge in (1e-6, -1e-6):
        net.o[4, 1] += nudge
        losses.append(0.5 * np.square(net.run(x)[0] - wanted).sum() / 3)
        net.o[4, 1] -= nudge
    assert abs((losses[0] - losses[1]) / 2e-6 - found[4, 1]) < 1e-6


def test_the_short_form_makes_its_page(values: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.environ.get("EDGERUN_DATA"):
        pytest.skip("EDGERUN_DATA is not set: it names the folder of reach_macaque.npz")
    page = tmp_path / "results.md"
    page.write_text("# Results\n")
    monkeypatch.setattr(sys, "argv", ["values.py", "--short", "--output", str(tmp_path), "--markdown", str(page)])
    assert values.main() == 0
    runs = {run.arm: run.figures for run in read_runs(tmp_path / "values.json")}
    assert list(runs) == ["plain (float)", "none", "plain", "full"]
    for arm in ("none", "plain"):
        assert abs(runs[arm]["R2 second set before"] - runs["plain (float)"]["R2 second set before"]) < 0.05
    assert runs["plain"]["updates"] > 100
    assert runs["none"]["R2 second set after"] == runs["none"]["R2 second set before"]
    assert re.search(r"^\| full \|", page.read_text(), re.MULTILINE)
