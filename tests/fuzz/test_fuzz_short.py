"""The fuzzer itself: a few seconds on every target find nothing, and what is wrong it finds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgerun[litert]'")
pytest.importorskip("nir", reason="pip install 'edgerun[export]'")

from edgerun.errors import DataError

FUZZ = Path(__file__).parent
CASES = 120
SECONDS = 2.0
FAULTS = {
    "an exception": (lambda: {}["key"], "KeyError at "),
    "a warning": (lambda: warnings.warn("odd", RuntimeWarning, stacklevel=1), "RuntimeWarning at "),
    "an interrupt": (lambda: sys.exit(1), "SystemExit at "),
    "a crash": (lambda: os.kill(os.getpid(), signal.SIGSEGV), "died: SIGSEGV"),
    "an end": (lambda: os._exit(0), "died: exit 0"),
    "no end": (lambda: signal.pause(), "timeout: over 0.5 s"),
    "memory": (lambda: np.ones(1 << 30), "MemoryError at "),
    "no words": (lambda: refuse(""), "message: empty"),
    "many words": (lambda: refuse("word " * 100), "message: over 400 characters"),
}


def refuse(text: str) -> None:
    raise DataError(text)


def test_a_few_seconds_of_fuzzing_find_nothing(tmp_path: Path) -> None:
    """The same cases in every run, unless the machine is too slow for all of them."""
    bounds = ["--seconds", str(SECONDS), "--cases", str(CASES), "--seed", "1"]
    command = [sys.executable, str(FUZZ), *bounds, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize(("fault", "kind"), FAULTS.values(), ids=FAULTS)
def test_every_kind_of_fault_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[], object], kind: str
) -> None:
    """In the second case: the first goes well. Its file is kept."""
    from fuzz import driver
    from fuzz.targets import Target

    def run(path: Path) -> None:
        if path.read_bytes() == b"bad":
            fault()

    monkeypatch.setattr(driver, "CASE_SECONDS", 0.5)
    target = Target("odd", ".bin", lambda: [b"seed"], lambda *_: b"good", run)
    monkeypatch.setattr(driver, "case_of", lambda _target, _seed, index: b"bad" if index == 1 else b"good")
    tally = driver.fuzz(target, 20, 1, most=4, build=tmp_path)
    assert (tally.cases, tally.accepted) == (4, 3)
    assert [found.startswith(kind) for found in tally.findings] == [True]
    assert (tmp_path / "odd" / "1-1.bin").read_bytes() == b"bad"
