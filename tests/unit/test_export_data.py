"""Data files: dense and ragged are read, every fault is named, nothing is unpickled."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerun.errors import DataError
from exporters import data
from exporters.data import Samples

X = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
Y = np.array([0, 1, 1, 0])


def saved(tmp_path: Path, **arrays: Any) -> Path:
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def test_dense_files(tmp_path: Path) -> None:
    samples = data.load(saved(tmp_path, x=X, y=Y, class_names=np.array(["cat", "dog"])))
    np.testing.assert_array_equal(samples.x, X)
    assert samples.x.dtype == np.float64
    assert samples.y.tolist() == [0, 1, 1, 0]
    assert samples.names == ("cat", "dog")


def test_ragged_files_of_equal_recordings(tmp_path: Path) -> None:
    offsets, label = np.array([0, 3, 6]), np.array([1, 0], np.uint8)
    samples = data.load(saved(tmp_path, samples=np.arange(6, dtype=np.int16), offsets=offsets, label=label))
    assert samples.x.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert samples.y.tolist() == [1, 0]


def test_a_file_without_labels(tmp_path: Path) -> None:
    assert data.load(saved(tmp_path, x=X)).y.tolist() == [-1] * 4


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no x": ({"z": X}, "data.npz: has neither 'x' nor 'samples', only z"),
    "empty": ({"x": X[:0]}, r"'x' has shape \(0, 2, 3\), there is no sample in it"),
    "one number a sample": ({"x": X[:, 0, 0]}, r"'x' is float32 \(4,\), must be numbers of shape \(N, ...\)"),
    "text": ({"x": np.array([["a", "b"]])}, "'x' is <U1"),
    "nan": ({"x": np.where(X == 13, np.nan, X)}, "'x' is not finite in 1 samples, the first is 2"),
    "infinite": ({"x": np.where(X > 13, np.inf, X)}, "'x' is not finite in 2 samples"),
    "labels short": ({"x": X, "y": Y[:3]}, r"labels have shape \(3,\), must be \(4,\)"),
    "labels real": ({"x": X, "y": Y / 2}, "labels are float64, must be whole numbers"),
    "labels negative": ({"x": X, "y": Y - 1}, r"labels reach from -1 to 0, must lie in \[0, 4095\]"),
    "labels unnamed": ({"x": X, "y": Y, "class_names": np.array(["cat"])}, "label 1 is outside the 1 class_names"),
    "names no text": ({"x": X, "y": Y, "class_names": np.array([1, 2])}, "'class_names' is int64"),
    "offsets missing": ({"samples": Y}, r"'samples' needs 'offsets' \(N \+ 1,\)"),
    "offsets falling": ({"samples": Y, "offsets": np.array([0, 3, 2, 4])}, "'offsets' must rise from 0 to 4"),
    "offsets short": ({"samples": Y, "offsets": np.array([0, 2])}, "'offsets' must rise from 0 to 4"),
    "unequal": ({"samples": Y, "offsets": np.array([0, 1, 4])}, "recordings are 1 to 3 long"),
    "objects": ({"x": np.array([{}, []], dtype=object)}, "is no whole .npz file"),
}


@pytest.mark.parametrize(("arrays", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_fault_is_named_in_one_line(tmp_path: Path, arrays: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason) as refusal:
        data.load(saved(tmp_path, **arrays))
    assert "\n" not in str(refusal.value)


def test_damaged_files_are_refused_in_one_line_or_read(tmp_path: Path) -> None:
    whole, rng, refusals = saved(tmp_path, x=X, y=Y).read_bytes(), np.random.default_rng(4), []
    for k in range(300):
        harmed = bytearray(whole[: rng.integers(0, len(whole))] if k % 3 == 0 else whole)
        for at in rng.integers(0, len(harmed) or 1, 5 if harmed and k % 3 else 0):
            harmed[at] = rng.integers(256)
        (tmp_path / "bad.npz").write_bytes(harmed)
        try:
            data.load(tmp_path / "bad.npz")
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
        data.load(tmp_path / "bomb.npz")


def test_labels_follow_names_where_the_file_has_them() -> None:
    samples = Samples(np.zeros((3, 1)), np.array([0, 1, 0]), ("dog", "cat"))
    assert data.relabel("f", samples, ("cat", "dog")).y.tolist() == [1, 0, 1]
    with pytest.raises(DataError, match="class 'cat' is not one of the model's dog, owl"):
        data.relabel("f", samples, ("dog", "owl"))
    numbered = Samples(np.zeros((3, 1)), np.array([0, 5, -1]))
    with pytest.raises(DataError, match="label 5 is outside the 5 classes"):
        data.relabel("f", numbered, "abcde")


def test_samples_take_the_models_shape() -> None:
    samples = Samples(np.zeros((3, 8, 8)), np.zeros(3, np.int64))
    assert data.as_inputs("f", samples, (64,)).x.shape == (3, 64)
    with pytest.raises(DataError, match=r"a sample has 64 values \(shape \(8, 8\)\), the model takes 60"):
        data.as_inputs("f", samples, (60,))


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
