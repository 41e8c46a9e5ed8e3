"""The committed bundle of spoken digits: whole, good on speakers it knows, quick with one whom it does not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerun import cli
from edgerun.bundle import open_bundle
from edgerun.network import Network
from edgerun.selftest import check_selftest
from edgerun.spec import EProp, LogMel

BUNDLE = Path(__file__).parents[2] / "examples" / "spoken_digits" / "model.edgb"
DATA = Path(os.environ.get("EDGERUN_DATA", ""), "fsdd.npz")
Capture = pytest.CaptureFixture[str]

recordings = pytest.mark.skipif(not DATA.is_file(), reason="EDGERUN_DATA names no folder with fsdd.npz")


def test_it_is_whole_and_says_what_it_is() -> None:
    bundle = open_bundle(BUNDLE)
    check_selftest(Network(bundle.manifest, bundle.tensors), bundle.selftest)
    manifest = bundle.manifest
    assert manifest.front == LogMel(sample_rate=8000)
    assert manifest.classes.names == tuple("zero one two three four five six seven eight nine".split())  # noqa: SIM905
    assert manifest.classes.capacity == 16
    assert manifest.head.beside
    assert isinstance(manifest.learning.rule, EProp)
    assert manifest.learning.intelligence is not None


def save(path: Path, chosen: np.ndarray, pitch: float = 1.0) -> None:
    """Recordings of the data set as a file of their own, said `pitch` times as fast and as high."""
    with np.load(DATA) as file:
        samples, starts, label = file["samples"], file["offsets"], file["label"]
    waves = []
    for k in np.flatnonzero(chosen):
        wave = samples[starts[k] : starts[k + 1]].astype(np.float64)
        at = np.arange(0, len(wave) - 1, pitch)
        waves.append(np.interp(at, np.arange(len(wave)), wave).round().astype(np.int16))
    np.savez(
        path, samples=np.concatenate(waves), offsets=np.cumsum([0, *map(len, waves)]), label=label[chosen],
        sample_rate=np.int32(8000),
    )  # fmt: skip


def told(capsys: Capture, *command: object) -> Any:
    assert cli.main([*map(str, command), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@recordings
def test_known_speakers_are_understood(tmp_path: Path, capsys: Capture) -> None:
    """Takes 0 to 4, which nothing has learned from."""
    with np.load(DATA) as file:
        save(tmp_path / "known.npz", file["take"] < 5)
    found = told(capsys, "infer", BUNDLE, tmp_path / "known.npz", "-o", tmp_path / "out.npz")
    assert found["labelled"] == 250
    assert found["accuracy"] >= 0.975


@recordings
def test_a_voice_never_heard_is_learned_from_five_examples_a_word(tmp_path: Path, capsys: Capture) -> None:
    """A speaker sped up by a third is a stranger with a short vocal tract."""
    with np.load(DATA) as file:
        save(tmp_path / "known.npz", file["take"] < 5)
        save(tmp_path / "new.npz", (file["speaker"] == 4) & (file["take"] < 20), pitch=1.33)
    found = told(capsys, "adapt", BUNDLE, "--data", tmp_path / "new.npz", "--probe", tmp_path / "known.npz")
    assert found["lessons"] == 50
    assert found["updates"] > 50
    assert found["new"]["after"] >= found["new"]["before"] + 0.25
    assert found["probe"]["after"] >= found["probe"]["before"] - 0.03
    assert found["rolled_back"] == 0
