"""Data files: dense and ragged are read, every fault is named, nothing is unpickled."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerun.errors import DataError
from edgerun.spec import InputSpec
from exporters import data
from exporters.data import Samples

X = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
SIX = InputSpec(shape=(6,))
Y = np.array([0, 1, 1, 0])


def saved(tmp_path: Path, **arrays: Any) -> Path:
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def test_dense_files(tmp_path: Path) -> None:
    samples = data.load(saved(tmp_path, x=X, y=Y, class_names=np.array(["cat", "dog"])), SIX)
    np.testing.assert_array_equal(samples.x, X.reshape(4, 6))
    assert samples.y.tolist() == [0, 1, 1, 0]
    assert samples.names == ("cat", "dog")


def test_a_file_without_labels(tmp_path: Path) -> None:
    assert data.load(saved(tmp_path, x=X), SIX).y.tolist() == [-1] * 4


def test_a_model_without_classes_has_no_use_for_labels(tmp_path: Path) -> None:
    samples = data.load(saved(tmp_path, x=X, y=np.ones((4, 2)) / 3), SIX, labels=False)
    assert (samples.y.tolist(), samples.names, samples.labelled) == ([-1] * 4, None, False)


# ------------------------------------------------------------------ recordings


RECORDINGS = {"samples": np.arange(1, 9, dtype=np.int16), "offsets": np.array([0, 2, 3, 8])}
NOTE = "recordings are 1 to 5 long, the window is 3: 2 of 3 are filled up with silence at the end, 1 cut there"


def test_recordings_are_filled_up_and_cut_to_the_window(tmp_path: Path) -> None:
    path = saved(tmp_path, **RECORDINGS, label=np.array([1, 0, 2], np.uint8))
    samples = data.load(path, InputSpec(shape=(3,)))
    assert samples.x.tolist() == [[1, 2, 0], [3, 0, 0], [4, 5, 6]]
    assert samples.y.tolist() == [1, 0, 2]
    assert samples.notes == (NOTE,)
    with pytest.raises(DataError, match="recordings are 1 to 5 long, the window is 3; --window fit"):
        data.load(path, InputSpec(shape=(3,)), "refuse")


def test_recordings_that_fit_need_nothing(tmp_path: Path) -> None:
    moments = np.arange(12, dtype=np.float32).reshape(6, 2)
    path = saved(tmp_path, samples=moments, offsets=np.array([0, 3, 6]))
    samples = data.load(path, InputSpec(shape=(3, 2)), "refuse")
    np.testing.assert_array_equal(samples.x, moments.reshape(2, 3, 2))
    assert samples.notes == ()


def test_the_silence_of_quantised_recordings_is_their_zero_point(tmp_path: Path) -> None:
    path = saved(tmp_path, samples=np.array([130, 90, 7], np.uint8), offsets=np.array([0, 2, 3]))
    quantised = InputSpec(shape=(2,), dtype="uint8", zero_point=128)
    assert data.load(path, quantised).x.tolist() == [[130, 90], [7, 128]]
    real = InputSpec(shape=(2,), dtype="int8", zero_point=5)
    assert data.load(path, real).x.tolist() == [[130, 90], [7, 0]]


def test_moments_that_no_window_is_made_of(tmp_path: Path) -> None:
    path = saved(tmp_path, samples=np.ones((4, 2)), offsets=np.array([0, 4]))
    with pytest.raises(DataError, match="a moment has 2 values, a window of the model 3, no multiple"):
        data.load(path, InputSpec(shape=(3,)))


# ------------------------------------------------------------------ memory


KEPT: dict[str, tuple[Any, str]] = {
    "int8": (np.int8([[-128, 127]]), "int8"),
    "uint8": (np.uint8([[0, 255]]), "uint8"),
    "int16": (np.int16([[-32768, 32767]]), "float32"),
    "int32": (np.int32([[1 << 24, 0]]), "float32"),
    "int32, too fine": (np.int32([[(1 << 24) + 1, 0]]), "float64"),
    "float16": (np.float16([[0.1, 2]]), "float32"),
    "float64": (np.float64([[0.5, 2]]), "float32"),
    "float64, too fine": (np.float64([[0.1, 2]]), "float64"),
    "float64, too large": (np.float64([[1e300, 2]]), "float64"),
    "truth": (np.array([[True, False]]), "float32"),
}


@pytest.mark.parametrize(("x", "kept"), KEPT.values(), ids=KEPT)
def test_numbers_are_kept_exactly_and_small(tmp_path: Path, x: Any, kept: str) -> None:
    samples = data.load(saved(tmp_path, x=x), InputSpec(shape=(2,)))
    assert samples.x.dtype == kept
    np.testing.assert_array_equal(samples.x.astype(np.float64), x.astype(np.float64))


# ------------------------------------------------------------------ refusals


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no x": ({"z": X}, "data.npz: has neither 'x' nor 'samples', only z"),
    "arrays one by one": (
        {f"arr_{k}": X for k in range(10)},
        "only arr_0, arr_1, arr_2, arr_3, arr_4, arr_5, arr_6, arr_7 and 2 more",
    ),
    "empty": ({"x": X[:0]}, r"'x' has shape \(0, 2, 3\), there is no sample in it"),
    "one number a sample": ({"x": X[:, 0, 0]}, r"'x' is float32 \(4,\), must be numbers of shape \(N, ...\)"),
    "text": ({"x": np.array([["a", "b"]])}, "'x' is <U1"),
    "nan": ({"x": np.where(X == 13, np.nan, X)}, "1 of 4 samples are not finite, the first is 2"),
    "infinite": ({"x": np.where(X > 13, np.inf, X)}, "2 of 4 samples are not finite"),
    "another size": ({"x": X[:, :, :2]}, r"a sample has 4 values \(shape \(2, 2\)\), the model takes 6"),
    "labels short": ({"x": X, "y": Y[:3]}, r"labels have shape \(3,\), must be \(4,\)"),
    "labels real": ({"x": X, "y": Y / 2}, "labels are float64, must be whole numbers"),
    "labels negative": ({"x": X, "y": Y - 2}, r"labels reach from -2 to -1, must lie in \[0, 4095\], or be -1"),
    "a name twice": ({"x": X, "y": Y, "class_names": np.array(["cat", "cat"])}, "class_names holds 'cat' twice"),
    "a name of nothing": ({"x": X, "y": Y, "class_names": np.array(["cat", ""])}, "class_names holds '' as a name"),
    "labels unnamed": ({"x": X, "y": Y, "class_names": np.array(["cat"])}, "label 1 is outside the 1 class_names"),
    "names no text": ({"x": X, "y": Y, "class_names": np.array([1, 2])}, "'class_names' is int"),
    "one name, no row": ({"x": X, "y": Y, "class_names": np.array("cat")}, "'class_names' is <U3"),
    "offsets missing": ({"samples": Y}, r"'samples' needs 'offsets' \(N \+ 1,\)"),
    "offsets falling": ({"samples": Y, "offsets": np.array([0, 3, 2, 4])}, "'offsets' must rise from 0 to 4"),
    "offsets short": ({"samples": Y, "offsets": np.array([0, 2])}, "'offsets' must rise from 0 to 4"),
    "objects": ({"x": np.array([{}, []], dtype=object)}, "is no .npz file, or no whole one"),
}


@pytest.mark.parametrize(("arrays", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_fault_is_named_in_one_line(tmp_path: Path, arrays: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason) as refusal:
        data.load(saved(tmp_path, **arrays), SIX)
    assert "\n" not in str(refusal.value)


def test_damaged_files_are_refused_in_one_line_or_read(tmp_path: Path) -> None:
    whole, rng, refusals = saved(tmp_path, x=X, y=Y).read_bytes(), np.random.default_rng(4), []
    for k in range(300):
        harmed = bytearray(whole[: rng.integers(0, len(whole))] if k % 3 == 0 else whole)
        for at in rng.integers(0, len(harmed) or 1, 5 if harmed and k % 3 else 0):
            harmed[at] = rng.integers(256)
        (tmp_path / "bad.npz").write_bytes(harmed)
        try:
            data.load(tmp_path / "bad.npz", SIX)
        except DataError as err:
            refusals.append(str(err))
    assert len(refusals) > 200
    assert not any("\n" in refusal for refusal in refusals)


def test_a_header_that_promises_too_much_takes_no_memory(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 20, 1 << 20)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(64))
    with pytest.raises(DataError, match=r"shape \(1048576, 1048576\) is larger than its \d+ bytes"):
        data.load(tmp_path / "bomb.npz", SIX)


def test_labels_follow_names_where_the_file_has_them() -> None:
    samples = Samples(np.zeros((3, 1)), np.array([0, 1, 0]), ("dog", "cat"))
    assert data.relabel("f", samples, ("cat", "dog")).y.tolist() == [1, 0, 1]
    with pytest.raises(DataError, match="class 'cat' is not one of the model's dog, owl"):
        data.relabel("f", samples, ("dog", "owl"))
    numbered = Samples(np.zeros((3, 1)), np.array([0, 5, -1]))
    with pytest.raises(DataError, match="label 5 is outside the 5 classes"):
        data.relabel("f", numbered, "abcde")


def test_the_probe_is_balanced_and_kept_apart() -> None:
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 100))
    kept, held = data.hold_out(y, least=50, most=128)
    assert np.bincount(y[held]).tolist() == [20] * 5
    assert not set(kept) & set(held)
    assert len(kept) + len(held) == 500


def test_scarce_data_serve_both_ends() -> None:
    kept, held = data.hold_out(np.repeat(np.arange(5), 12), least=50, most=128)
    assert len(kept) == 60
    assert np.bincount(held // 12).tolist() == [10] * 5
