"""`edgerun adapt`: the device's own lessons on a file, what came of them, and one line for what cannot be taught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pretend import CAPACITY, NAMES, samples, tiny_bundle, tiny_bundle_bytes, twin_digest

from edgerun import cli
from edgerun.commands.adapt import shots
from edgerun.errors import DataError
from edgerun.learn.records import NewClass, Settle, Verdict
from edgerun.lifetime import new_learner
from edgerun.samples import labels, recordings

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny bundle, OLD of its four classes, NEW of six: "e" and "f" are unknown to it."""
    (tmp_path / "tiny.edgb").write_bytes(tiny_bundle_bytes())
    for name, classes, first in (("old", 4, 500), ("new", CAPACITY, 900)):
        label = np.arange(20 * classes) % classes
        np.savez(
            tmp_path / f"{name}.npz", x=samples(label, first), y=label, class_names=np.array([*"abcdef"[:classes]])
        )
    return tmp_path


def adapt(folder: Path, capsys: Capture, *options: str) -> dict[str, Any]:
    data = () if "--data" in options else ("--data", str(folder / "new.npz"))
    assert cli.main(["adapt", str(folder / "tiny.edgb"), *data, "--json", *options]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def test_new_classes_are_learned_and_old_ones_kept(folder: Path, capsys: Capture) -> None:
    told = adapt(folder, capsys, "--shots", "5", "--probe", str(folder / "old.npz"), "--rule", "prototypes")
    assert told["lessons"] == 5 * CAPACITY
    assert told["new"]["samples"] == 20 * CAPACITY - told["lessons"]
    assert told["new"]["before"] < 0.67
    assert told["new"]["after"] > told["new"]["before"] + 0.2
    assert set(told["new"]["per_class"]) == set("abcdef")
    assert told["probe"]["samples"] == 80
    assert told["probe"]["after"] >= told["probe"]["before"] - 0.1
    assert told["updates"] == told["rolled_back"] == 0


def test_the_digest_is_that_of_a_device_taught_the_same(folder: Path, capsys: Capture) -> None:
    bundle = tiny_bundle()
    told = adapt(folder, capsys, "--shots", "2")
    learner, entries = new_learner(bundle), []
    with np.load(folder / "new.npz") as file:
        x, y = file["x"].astype(np.int16), file["y"]
    for k in range(2 * CAPACITY):  # classes take turns in the file, so the first two of each come first
        name = "abcdef"[y[k]]
        if name not in learner.classes:
            entries.append(NewClass(label=name))
            learner.apply(entries[-1])
        entries.append(learner.plan_lesson(x[k], learner.classes.index(name), "full", k))
        learner.apply(entries[-1])
    assert told["updates"] > 0
    assert told["digest"] == twin_digest(
        bundle, [*entries, Settle(), Verdict(good=not told["rolled_back"], correct=0, of=0)]
    )


def test_the_same_call_gives_the_same_and_another_seed_another(folder: Path, capsys: Capture) -> None:
    first, again, other = (adapt(folder, capsys, "--draws", "2", "--seed", seed) for seed in "112")
    assert first == again
    assert first["digest"] != other["digest"]
    assert len(first["draws"]) == 2
    assert first["draws"][0]["digest"] != first["draws"][1]["digest"]
    assert first["new"]["after"] == pytest.approx(np.mean([draw["after"] for draw in first["draws"]]), abs=1e-4)


@pytest.mark.parametrize("key", ["label", "labels"])
def test_labels_may_have_another_name(folder: Path, capsys: Capture, key: str) -> None:
    with np.load(folder / "new.npz") as file:
        np.savez(folder / "other.npz", **{"x": file["x"], key: file["y"], "class_names": file["class_names"]})
    given = ("--shots", "1", "--rule", "prototypes")
    assert adapt(folder, capsys, "--data", str(folder / "other.npz"), *given) == adapt(folder, capsys, *given)


def test_recordings_of_one_length_need_no_offsets() -> None:
    x = np.arange(12).reshape(3, 4)
    with_ends = {"samples": x.reshape(-1), "offsets": np.array([0, 4, 8, 12]), "y": np.array([1, 0, 1])}
    for arrays in ({"samples": x, "label": np.array([1, 0, 1])}, with_ends):
        assert np.array_equal(list(recordings("a.npz", arrays)), x)
        assert labels("a.npz", arrays, 3, "ab") == ["b", "a", "b"]
    with pytest.raises(DataError, match="'samples' needs 'offsets'"):
        list(recordings("a.npz", {"samples": x.reshape(-1)}))


def test_consolidation_can_be_left_out(folder: Path, capsys: Capture) -> None:
    held, loose = (adapt(folder, capsys, "--consolidate", how) for how in ("si", "none"))
    assert held["digest"] != loose["digest"]


def test_wrong_labels_are_undone_by_the_guard(folder: Path, capsys: Capture) -> None:
    with np.load(folder / "old.npz") as file:
        np.savez(folder / "wrong.npz", x=file["x"], y=(file["y"] + 1) % 4, class_names=np.array(NAMES))
    told = adapt(
        folder, capsys, "--data", str(folder / "wrong.npz"), "--shots", "12", "--probe", str(folder / "old.npz")
    )
    assert told["rolled_back"] == 1
    assert told["probe"]["after"] == told["probe"]["before"]


def test_a_person_reads_lines(folder: Path, capsys: Capture) -> None:
    assert cli.main(["adapt", str(folder / "tiny.edgb"), "--data", str(folder / "new.npz"), "--draws", "3"]) == 0
    out = capsys.readouterr().out
    assert "30 lessons, 5 of each class, mean of 3 draws" in out
    assert "uJ a lesson on pico2 (estimated)" in out


def test_shots_are_the_first_of_each_class_or_a_choice() -> None:
    label = tuple("aabababb")
    assert shots(label, 2, None).tolist() == [0, 1, 2, 4]
    chosen = shots(label, 2, np.random.default_rng(0))
    assert sorted(label[k] for k in chosen) == [*"aabb"]
    assert shots(tuple("ab"), 5, None).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--shots", "0"], "--shots 0 is under 1"),
        (["--draws", "0"], "--draws 0 is under 1"),
        (["--seed", "-1"], "--seed -1 is under 0"),
        (["--board", "pdp11"], "pdp11"),
        (["--data", "unlabelled.npz"], "unlabelled.npz: no sample has a label"),
        (
            ["--data", "crowd.npz"],
            "crowd.npz: 3 classes are new (x, y, z), the bundle has room for 2 beside a, b",
        ),
        (["--data", "nowhere.npz"], "nowhere.npz"),
        (["--probe", "broken.npz"], "broken.npz: sample 1: a sample has 1 values that are not finite"),
    ],
)
def test_what_cannot_be_taught_is_one_line(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, options: list[str], fault: str
) -> None:
    monkeypatch.chdir(folder)
    x = samples(np.arange(6) % 3, 0)
    np.savez("unlabelled.npz", x=x)
    np.savez("crowd.npz", x=x, y=np.arange(6) % 3, class_names=np.array([*"xyz"]))
    broken = x.astype(np.float32)
    broken[1, 3] = np.nan
    np.savez("broken.npz", x=broken, y=np.arange(6) % 3)
    given = [] if "--data" in options else ["--data", "new.npz"]
    assert cli.main(["adapt", "tiny.edgb", *given, *options]) == 2
    shown = capsys.readouterr()
    assert fault in shown.err
    assert shown.err.count("\n") == 1
    assert not shown.out


def test_only_what_was_not_taught_is_scored(folder: Path, capsys: Capture) -> None:
    """The first two of each class bear wrong names: they must not count, before or after."""
    with np.load(folder / "old.npz") as file:
        x, y = file["x"], file["y"].copy()
    learner = new_learner(tiny_bundle())
    rest = np.arange(8, 80)
    right = learner.scores(x.astype(np.int16))[:, :4].argmax(axis=1) == y
    y[:8] = (y[:8] + 1) % 4
    np.savez(folder / "crossed.npz", x=x, y=y)
    told = adapt(folder, capsys, "--data", str(folder / "crossed.npz"), "--shots", "2", "--rule", "prototypes")
    assert told["lessons"] == 8
    assert told["new"]["before"] == pytest.approx(right[rest].mean(), abs=1e-4)
    assert told["new"]["before"] > right[rest].sum() / 80
