"""A bundle on a diet is smaller, still right, and says what was taken away; contradictions are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerun.bundle import open_bundle
from edgerun.cli import main
from edgerun.errors import DataError
from edgerun.packing import top
from exporters.slim import Diet

pytest.importorskip("onnx", reason="pip install 'edgerun[export]'")
pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")

GOLDEN = Path(__file__).parents[1] / "golden"
Capture = pytest.CaptureFixture[str]


def export(capsys: Capture, path: Path, *words: str, model: str = "digits_mlp.onnx") -> dict[str, Any]:
    arguments = ["export", str(GOLDEN / model), "--calibrate", str(GOLDEN / "digits.npz"), "-o", str(path)]
    assert main([*arguments, "--finetune", "0", "--json", *words]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def weight_bytes(path: Path) -> int:
    bundle = open_bundle(path)
    return sum(section.length for section in bundle.sections if section.name.endswith(".weight"))


def test_fewer_bits_are_fewer_bytes_and_nearly_as_right(tmp_path: Path, capsys: Capture) -> None:
    sizes, accuracies = {}, {}
    for bits in ("8", "4", "2"):
        report = export(capsys, tmp_path / f"{bits}.edgb", "--bits", bits)
        sizes[bits] = weight_bytes(tmp_path / f"{bits}.edgb")
        accuracies[bits] = report["accuracy"]["integer"]
    assert (sizes["8"], sizes["4"], sizes["2"]) == (2368, 1184, 592)
    assert accuracies["4"] >= accuracies["8"] - 0.03
    assert np.abs(open_bundle(tmp_path / "2.edgb").tensors["fc1.weight"]).max() == 1


def test_bits_are_chosen_within_the_flash(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "auto.edgb"
    report = export(capsys, path, "--bits", "auto", "--flash", "1.5", "--report", str(tmp_path / "r.html"))
    assert weight_bytes(path) <= 1536
    assert any(note.startswith("bits by Hessian trace: fc1 4, fc2 8") for note in report["notes"])
    assert report["explanation"]["bits_plot"].startswith("<svg")
    assert "bytes and bits" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_spiking_layers_get_the_bits_that_fit_too(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "auto.edgb"
    report = export(capsys, path, "--bits", "auto", "--flash", "4.5", model="digits_rsnn.nir")
    (note,) = (note for note in report["notes"] if note.startswith("bits by Hessian trace:"))
    widths = dict(pair.split() for pair in note.removeprefix("bits by Hessian trace: ").split(", "))
    weights = {name: a for name, a in open_bundle(path).tensors.items() if name.endswith((".input", ".recurrent"))}
    assert {name.partition(".")[0] for name in weights} == set(widths)
    assert min(widths.values()) < "8"
    for name, array in weights.items():
        assert np.abs(array).max() <= top(int(widths[name.partition(".")[0]]))
    stored = [s.length for s in open_bundle(path).sections if s.name in weights]
    assert 0.5 * 4608 < sum(stored) <= 4608


def test_pruned_weights_are_stored_sparsely(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "pruned.edgb"
    report = export(capsys, path, "--prune", "0.2")
    bundle = open_bundle(path)
    assert {record.packing for record in bundle.manifest.tensors if record.name.endswith(".weight")} == {"sparse"}
    assert np.count_nonzero(bundle.tensors["fc1.weight"]) <= round(0.2 * 64 * 32)
    assert weight_bytes(path) < 0.45 * 2368
    assert report["notes"][0] == "pruned by magnitude: 20.02% of the weights are left"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"flash_kb": 3.0}, "--flash goes with --bits auto"),
        ({"bits": "auto", "flash_kb": 0.0}, r"--flash 0 is outside \(0, 1048576\]"),
        ({"prune": 1.5}, r"--prune 1.5 is outside \(0, 1\]"),
        ({"finetune": -1}, r"--finetune -1 is outside \[0, 1000\]"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        Diet(**fields)


def test_a_budget_that_nothing_fits_is_refused_in_one_line(tmp_path: Path, capsys: Capture) -> None:
    arguments = ["export", str(GOLDEN / "digits_mlp.onnx"), "--calibrate", str(GOLDEN / "digits.npz")]
    assert main([*arguments, "-o", str(tmp_path / "x.edgb"), "--bits", "auto", "--flash", "0.1"]) == 2
    assert capsys.readouterr().err == ("edgerun: the weights take 592 bytes at the least, the budget has 102\n")
