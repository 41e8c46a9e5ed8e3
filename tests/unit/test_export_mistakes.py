"""Mistakes that are easily made on the command line and in data files: each ends in one line, and costs no file."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from edgerun.arrays import AnyArray
from edgerun.cli import main
from edgerun.errors import DataError, ModelError
from edgerun.spec import InputSpec
from exporters.data import load
from exporters.export import FOR_NIR, Options, load_model

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
    both = str(tmp_path / "o.html")
    assert main(["export", *given, "-o", both, "--report", both]) == 2
    assert "-o and --report are both" in capsys.readouterr().err
    assert main(["export", *given, "-o", str(tmp_path)]) == 2
    assert f"-o {tmp_path} is a folder, must be a file" in capsys.readouterr().err
    (tmp_path / "release.key").write_text("secret")
    key = ["--sign", str(tmp_path / "release.key")]
    assert main(["export", *given, *key, "-o", str(tmp_path / "release.key")]) == 2
    assert "release.key is a file to read, and would be lost" in capsys.readouterr().err


OPTIONS = {
    "--report r.txt": "--report r.txt: must end in .html or .json",
    "--board pico2": "--board pico2 goes with --report",
    "--capacity 5000": "--capacity 5000 is outside [1, 4096]",
    "--seq -1": "--seq -1 is outside [0, ",
    "--name a/b": "--name 'a/b' is not 1 to 64 letters, digits",
    "--name=": "--name '' is not 1 to 64 letters, digits",
    "--device-class x:y": "--device-class 'x:y' is not 1 to 64 letters",
    "--classes a,b,a": "--classes: 'a' is there twice",
    "--classes a,,b": "--classes: '' is no name",
    "--bits auto --flash nan": "--flash nan is outside (0, 1048576]",
    "--bits auto --flash inf": "--flash inf is outside (0, 1048576]",
    "--steps 4": "--steps is for .nir files, digits_mlp.onnx is none",
    "--reset zero": "--reset is for .nir files",
    "--input-scale 0.1": "--input-scale is for .nir files",
    "--features fc1": "--features fc1 goes with --head prototypes, not logits",
    "--whiten none": "--whiten none goes with --head prototypes, not logits",
    "--percentile nan": "--percentile nan is outside [90, 100]",
}


@pytest.mark.parametrize(("words", "reason"), OPTIONS.items(), ids=OPTIONS)
def test_an_option_that_cannot_be_is_refused(tmp_path: Path, capsys: Capture, words: str, reason: str) -> None:
    given = [str(GOLDEN / "digits_mlp.onnx"), "--calibrate", str(GOLDEN / "digits.npz"), "-o", str(tmp_path / "o")]
    assert main(["export", *given, *words.split()]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"edgerun: {reason}")
    assert (captured.err.count("\n"), captured.out, list(tmp_path.iterdir())) == (1, "", [])


def test_what_a_nir_file_leaves_open_is_all_that_is_for_nir() -> None:
    nir = pytest.importorskip("exporters.nir_import", reason="pip install 'edgerun[export]'")
    assert nir.NirOptions.__slots__ == FOR_NIR


KINDS = {
    "weights of torch": (
        "net.pt",
        b"PK\x03\x04",
        "net.pt: format .pt is none of .onnx, .tflite, .nir; write it",
    ),
    "of Keras": ("net.keras", b"", "none of .onnx, .tflite, .nir; convert it with tf.lite.TFLiteConverter"),
    "no suffix": ("net", b"", "net: format without a suffix is none of"),
    "LiteRT by content": ("net.onnx", b"\x1c\0\0\0TFL3", "by its content this is a .tflite file, not .onnx"),
    "NIR by content": ("net.tflite", b"\x89HDF\r\n\x1a\n", "by its content this is a .nir file, not .tflite"),
    "samples": ("net.onnx", b"PK\x03\x04", "by its content this is a .npz file, not .onnx"),
}


@pytest.mark.parametrize(("name", "content", "reason"), KINDS.values(), ids=KINDS)
def test_a_file_of_another_kind_is_told_by_suffix_and_content(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=re.escape(reason)):
        load_model(tmp_path / name, Options())


def test_a_pipe_keeps_nobody_waiting_and_a_giant_is_not_read(tmp_path: Path) -> None:
    for name in ("m.onnx", "d.npz"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(ModelError, match=r"m.onnx: is no regular file"):
        load_model(tmp_path / "m.onnx", Options())
    with pytest.raises(DataError, match=r"d.npz: is no regular file"):
        load(tmp_path / "d.npz", IMAGE)
    with (tmp_path / "giant.onnx").open("wb") as file:
        file.truncate(1 << 40)  # a hole
    with pytest.raises(ModelError, match=r"giant.onnx: 1099511627776 bytes, the limit is 1073741824"):
        load_model(tmp_path / "giant.onnx", Options())


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r": a folder is none of .*; convert it with tf.lite"):
        load_model(tmp_path, Options())


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
