"""Commands give the same answer whoever computes: lessons, replays, a device's whole state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerun.bundle import read_bundle
from edgerun.cli import main
from edgerun.kernels.native import BACKENDS, library
from edgerun.lifetime import Lifetime
from firmware_sim.flash import SimFlash

pytestmark = pytest.mark.skipif(library() is None, reason="the C kernels are not built here")


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_adapt_learns_the_same_on_every_backend(
    digits: Path, digits_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(digits / "field.npz") as field:
        kept = np.concatenate([np.flatnonzero(field["y"] == label)[:7] for label in range(10)])
        names = np.array(list("0123456789"))
        np.savez(digits / "few.npz", x=field["x"][kept], y=field["y"][kept], class_names=names)
    command = ("adapt", str(digits_bundle), "--data", str(digits / "few.npz"), "--shots", "3")
    found = [told(capsys, *command, "--backend", name) for name in BACKENDS]
    assert found[0]["lessons"] == 30
    assert found[0] == found[1] == found[2]


def test_a_device_goes_on_under_another_backend(digits: Path, digits_bundle: Path) -> None:
    bundle, flash = read_bundle(digits_bundle.read_bytes()), SimFlash(pages=1 << 14)
    alone = Lifetime(bundle, SimFlash(pages=1 << 14), backend="numpy")
    rng = np.random.default_rng(0)
    for start, backend in enumerate(("native", "numpy", "native")):
        life = Lifetime(bundle, flash, backend=backend)
        assert life.learner.lessons == 10 * start
        for _ in range(10):
            q, label = rng.integers(0, 17, bundle.manifest.input.size).astype(np.int16), int(rng.integers(0, 8))
            life.teach(q, label, "full", 1)
            alone.teach(q, label, "full", 1)
        life.commit()
        assert life.digest() == alone.digest()


def test_a_backend_that_nobody_has_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapt", "model.edgb", "--data", "x.npz", "--backend", "cuda"]) == 2
    assert "invalid choice: 'cuda'" in capsys.readouterr().err
