"""Mistakes that are easily made on the command line and in data files: each ends in one line, and costs no file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgerun.arrays import AnyArray
from edgerun.cli import main
from edgerun.errors import DataError
from edgerun.spec import InputSpec
from exporters.data import load

pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")

GOLDEN = Path(__file__).parents[1] / "golden"
Capture = pytest.CaptureFixture[str]


def stored(folder: Path, **arrays: AnyArray) -> Path:
    np.savez(folder / "d.npz", **arrays)  # type: ignore[arg-type]  # numpy
    return folder / "d.npz"


@pytest.mark.parametrize("lost", ["model", "data", "test"])
@pytest.mark.parametrize("option", ["-o", "--report"])
def test_no_file_that_is_read_is_written(tmp_path: Path, capsys: Capture, lost: str, option: str) -> None:
    files = {"model": tmp_path / "m.onnx", "data": tmp_path / "d.npz", "test": tmp_path / "t.npz"}
    files["model"].write_bytes((GOLDEN / "digits_mlp.onnx").read_bytes())
    for name in ("data", "test"):
        files[name].write_bytes((GOLDEN / "digits.npz").read_bytes())
    before = {name: path.read_bytes() for name, path in files.items()}
    page = tmp_path / "page.html"
    page.symlink_to(files[lost])
    ends = {"-o": tmp_path / "o.edgb", "--report": page} if option == "--report" else {"-o": files[lost]}
    words = [str(word) for pair in ends.items() for word in pair]
    given = ["--calibrate", str(files["data"]), "--test", str(files["test"])]
    assert main(["export", str(files["model"]), *given, *words]) == 2
    assert f"{option} {ends[option]} is a file to read, and would be lost" in capsys.readouterr().err
    assert before == {name: path.read_bytes() for name, path in files.items()}


def test_a_missing_folder_is_named_before_anything_runs(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "gone" / "o.edgb"
    given = [str(tmp_path / "no.onnx"), "--calibrate", str(tmp_path / "no.npz")]
    assert main(["export", *given, "-o", str(out)]) == 2
    assert f"-o {out}: there is no folder {out.parent}" in capsys.readouterr().err
    assert main(["export", *given, "-o", str(tmp_path / "o"), "--report", str(tmp_path / "o")]) == 2
    assert "-o and --report are both" in capsys.readouterr().err


IMAGE = InputSpec(shape=(3, 8, 8), dtype="int8", scale=0.1)


@pytest.mark.parametrize("shape", [(3, 8, 8), (192,), (1, 3, 8, 8), (3, 64), (3, 8, 8, 1)])
def test_samples_may_lie_in_any_shape_of_the_models_order(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert load(stored(tmp_path, x=np.zeros((4, *shape))), IMAGE).x.shape == (4, 3, 8, 8)


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 3, 8), (1, 8, 8, 3)])
def test_samples_with_their_dimensions_exchanged_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"d.npz: a sample has shape .*, the model takes \(3, 8, 8\): transpose"):
        load(stored(tmp_path, x=np.zeros((4, *shape))), IMAGE)


@pytest.mark.parametrize("word", ["label", "labels", "target"])
def test_labels_by_another_name_are_not_overlooked(tmp_path: Path, word: str) -> None:
    arrays: dict[str, AnyArray] = {"x": np.zeros((4, 192)), word: np.arange(4)}
    with pytest.raises(DataError, match=f"d.npz: has '{word}' but no 'y': labels are 'y'"):
        load(stored(tmp_path, **arrays), IMAGE)
    assert not load(stored(tmp_path, **arrays), IMAGE, labels=False).labelled
