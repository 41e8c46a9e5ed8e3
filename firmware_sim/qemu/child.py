"""A program that ends when its caller does: by its own end, an error, Ctrl-C or SIGTERM, with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Final

ASKED_TO_END: Final = 128 + signal.SIGTERM
GRACE_S: Final = 1.0  # for a program to clear up


def finished(
    command: Sequence[str], folder: str | Path, stdin: IO[bytes] | None = None, limit_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder to its end. Raises subprocess.TimeoutExpired where that does not come in time.

    Until then SIGTERM is the end of this process by SystemExit, so that files and programs are cleared away.
    """
    with ending(), subprocess.Popen(
        command, cwd=folder, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as child:  # fmt: skip
        try:
            out, err = child.communicate(timeout=limit_s)
        except BaseException:
            _end_all(child)
            raise
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def _end_all(child: subprocess.Popen[str]) -> None:
    """Ask a child and all that it started to clear up and end, which compilers do; then make them."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):  # it may have ended by itself meanwhile
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)


@contextmanager
def ending() -> Iterator[None]:
    """SIGTERM raises SystemExit; only a process's main thread can ask for signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(ASKED_TO_END)
