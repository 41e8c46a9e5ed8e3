"""`--watch` and `--doubt`: a plan that asks for them, in any bundle that has classes, and a device that follows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgerun.bundle import read_bundle
from edgerun.cli import main
from edgerun.learn.watch import Watch
from edgerun.lifetime import new_learner
from edgerun.spec import Doubt, Drift

MODELS = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture
def data(digits: Path) -> Path:
    return digits / "factory.npz"


def exported(data: Path, folder: Path, *options: str) -> Path:
    made = folder / "mlp.edgb"
    argv = ["export", str(MODELS / "digits_mlp.onnx"), "--calibrate", str(data), "-o", str(made), *options]
    assert main(argv) == 0
    return made


def test_the_plan_says_what_was_asked_for(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = exported(data, tmp_path, "--learn", "prototypes", "--watch", "--doubt")
    bundle = read_bundle(made.read_bytes())
    assert (bundle.manifest.learning.drift, bundle.manifest.learning.doubt) == (Drift(), Doubt())
    assert {"doubt.margin", "doubt.seen", "doubt.told"} <= new_learner(bundle).arrays().keys()
    assert np.isfinite(Watch(bundle.manifest).statistic)
    capsys.readouterr()
    assert main(["inspect", str(made)]) == 0
    shown = capsys.readouterr().out
    assert "unlike the first 64 samples of each class" in shown
    assert "unless most of 8 labels agree" in shown


def test_nobody_asks_for_them_by_default(data: Path, tmp_path: Path) -> None:
    plan = read_bundle(exported(data, tmp_path, "--learn", "prototypes").read_bytes()).manifest.learning
    assert not isinstance(plan.drift, Drift)
    assert not isinstance(plan.doubt, Doubt)


def test_values_have_no_classes_to_watch(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["export", str(MODELS / "digits_mlp.onnx"), "--calibrate", str(data), "-o", str(tmp_path / "v.edgb")]
    assert main([*argv, "--head", "values", "--watch"]) != 0
    assert "learning.drift" in capsys.readouterr().err
