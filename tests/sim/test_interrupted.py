"""A command that runs firmware ends when it is told to, and nothing of it stays: no emulator, no folder."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from firmware_sim.qemu.child import finished

NAPS = "echo $$ > child; sleep 300 & echo $! > grandchild; echo done > ready; wait"
"""A program that starts another one, as make does."""

RUNS = f"""
import sys, tempfile
from firmware_sim.qemu.child import finished
with tempfile.TemporaryDirectory(prefix="edgerun-qemu-") as folder:
    print(folder, flush=True)
    finished(["sh", "-c", {NAPS!r}], folder)
"""
PATIENCE_S = 30.0


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def napping(folder: Path) -> list[int]:
    """Child and grandchild, once both are there."""
    due = time.monotonic() + PATIENCE_S
    while not (folder / "ready").exists():
        assert time.monotonic() < due
        time.sleep(0.01)
    return [int((folder / name).read_text()) for name in ("child", "grandchild")]


def gone(pids: list[int]) -> bool:
    due = time.monotonic() + PATIENCE_S
    while any(map(runs, pids)) and time.monotonic() < due:
        time.sleep(0.01)
    return not any(map(runs, pids))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
@pytest.mark.parametrize(("asked", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_who_is_told_to_end_takes_everything_along(asked: signal.Signals, code: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUNS], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        pids = napping(folder)
        began = time.monotonic()
        process.send_signal(asked)
        assert process.wait(PATIENCE_S) == code
    assert time.monotonic() - began < 10
    assert gone(pids)
    assert not folder.exists()


def test_what_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        finished(["sh", "-c", NAPS], tmp_path, limit_s=1.0)
    assert gone(napping(tmp_path))


def test_a_program_is_run_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"words\n")
    before = signal.getsignal(signal.SIGTERM)
    with (tmp_path / "in").open("rb") as into:
        done = finished(["sh", "-c", "cat; echo no >&2; exit 3"], tmp_path, into)
    assert (done.returncode, done.stdout, done.stderr) == (3, "words\n", "no\n")
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_thread_may_run_one_too(tmp_path: Path) -> None:
    """Only a main thread may ask for signals."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(finished(["true"], tmp_path).returncode))
    thread.start()
    thread.join(PATIENCE_S)
    assert codes == [0]
