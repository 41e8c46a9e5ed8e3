"""A file as a sensor: order, end, and whose names the labels are. Wrong files: `tests/contract/test_run.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerun.linux.recording import Recording

X = np.arange(6.0).reshape(3, 2)


def played(folder: Path, count: int, *, loop: bool = True, **arrays: Any) -> list[tuple[float, str | None]]:
    np.savez(folder / "x.npz", x=X, **arrays)
    sensor = Recording(folder / "x.npz", ["cat", "dog"], loop=loop)
    return [(float(sample.x[0]), sample.label) for sample in (sensor.read() for _ in range(count))]


def test_a_loop_begins_again_at_the_first_sample(tmp_path: Path) -> None:
    assert [x for x, _ in played(tmp_path, 5)] == [0.0, 2.0, 4.0, 0.0, 2.0]


def test_without_a_loop_it_ends_after_the_last_sample(tmp_path: Path) -> None:
    assert [x for x, _ in played(tmp_path, 3, loop=False)] == [0.0, 2.0, 4.0]
    sensor = Recording(tmp_path / "x.npz", [], loop=False)
    for _ in X:
        sensor.read()
    for _ in range(2):
        with pytest.raises(StopIteration):
            sensor.read()


LABELS: dict[str, tuple[dict[str, Any], list[str | None]]] = {
    "none": ({}, [None, None, None]),
    "the bundle's names": ({"y": np.array([1, -1, 0])}, ["dog", None, "cat"]),
    "the file's own names": ({"y": np.array([0, 1, 2]), "class_names": np.array(["a", "b", "c"])}, ["a", "b", "c"]),
    "text": ({"y": np.array(["mug", "", "cat"])}, ["mug", None, "cat"]),
}


@pytest.mark.parametrize(("arrays", "want"), LABELS.values(), ids=LABELS)
def test_labels(tmp_path: Path, arrays: dict[str, Any], want: list[str | None]) -> None:
    assert [label for _, label in played(tmp_path, 3, **arrays)] == want


def test_recordings_of_any_length_are_played_as_they_are(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "x.npz", samples=np.arange(7, dtype=np.int16), offsets=np.array([0, 3, 7]), label=np.array([1, 0])
    )
    sensor = Recording(tmp_path / "x.npz", ["cat", "dog"], loop=False)
    heard = [sensor.read() for _ in range(2)]
    assert [sample.x.tolist() for sample in heard] == [[0, 1, 2], [3, 4, 5, 6]]
    assert [sample.label for sample in heard] == ["dog", "cat"]
    assert heard[0].x.dtype == np.int16
