"""`edgerun adapt` given lessons that cannot be right: one line, exit code 2, and the right ones give what they gave."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pretend import INPUTS, samples, tiny_bundle_bytes

from edgerun import cli
from edgerun.arrays import AnyArray

Capture = pytest.CaptureFixture[str]
SPOKEN = Path(__file__).parents[2] / "examples" / "spoken_digits" / "model.edgb"
LABEL = np.arange(24) % 4
X = samples(LABEL, 900)


def twice() -> dict[str, AnyArray]:
    """Sample 6 is sample 1 once more, under the name of its own place."""
    x = X.copy()
    x[6] = x[1]
    return {"x": x, "y": LABEL}


def not_finite() -> dict[str, AnyArray]:
    x = X.astype(np.float32)
    x[5, 2] = np.inf
    return {"x": x, "y": LABEL}


WRONG: dict[str, tuple[dict[str, AnyArray], str]] = {
    "wrong shape": ({"x": np.zeros((24, INPUTS + 1), np.uint8), "y": LABEL}, "wrong.npz"),
    "fewer labels than samples": ({"x": X, "y": LABEL[:20]}, "y has shape (20,), there are 24 samples"),
    "label out of range": ({"x": X, "y": LABEL + 1}, "y"),
    "label under none": ({"x": X, "y": LABEL - 2}, "y"),
    "labels that are no indices": ({"x": X, "y": LABEL + 0.5}, "y"),
    "not finite": (not_finite(), "sample 5: a sample has 1 values that are not finite"),
    "contradictory labels": (twice(), "labelled samples 1 and 6 are the same, called 'b' and 'c'"),
    "too many classes": ({"x": X, "y": np.array([f"c{k % 4}" for k in range(24)])}, "4 classes are new"),
}


def digest(folder: Path, capsys: Capture) -> str:
    assert cli.main(["adapt", str(folder / "tiny.edgb"), "--data", str(folder / "right.npz"), "--json"]) == 0
    return str(json.loads(capsys.readouterr().out)["digest"])


@pytest.mark.parametrize(("arrays", "fault"), WRONG.values(), ids=WRONG)
def test_nothing_is_learned_and_one_line_says_why(
    tmp_path: Path, capsys: Capture, arrays: dict[str, AnyArray], fault: str
) -> None:
    (tmp_path / "tiny.edgb").write_bytes(tiny_bundle_bytes())
    np.savez(tmp_path / "right.npz", x=X, y=LABEL)
    np.savez(tmp_path / "wrong.npz", **arrays)
    before = digest(tmp_path, capsys)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert cli.main(["adapt", str(tmp_path / "tiny.edgb"), "--data", str(tmp_path / "wrong.npz"), "--json"]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert fault in shown.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert digest(tmp_path, capsys) == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_sound_that_is_not_finite_is_refused(tmp_path: Path, capsys: Capture, value: float) -> None:
    rng = np.random.default_rng(1)
    waves = (0.1 * rng.normal(size=20 * 4000)).astype(np.float32)
    waves[4 * 4000 + 17] = value
    np.savez(tmp_path / "ear.npz", samples=waves, offsets=np.arange(21) * 4000, label=np.arange(20) % 10)
    assert cli.main(["adapt", str(SPOKEN), "--data", str(tmp_path / "ear.npz"), "--shots", "1"]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert "ear.npz: sample 4" in shown.err
    assert "not finite" in shown.err
