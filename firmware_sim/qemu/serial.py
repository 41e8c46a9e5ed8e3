"""A board on a serial line: frames go in one at a time, each when the line that answers the one before has come.

While it computes a board has no more room than its receiver's few bytes, so a host waits, as here. Every frame is
answered; `stream.LAST` are the lines that come last.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from edgerun.errors import EdgeRunError
from firmware_sim.qemu import stream
from firmware_sim.qemu.machine import COUNTED, require

READY: Final = "ready"
FAULT: Final = "fault"
START_S: Final = 60.0
LIMIT_S: Final = 300.0
PIECE: Final = 65536


class Serial:
    """An emulated board whose firmware has the port `uart`, ready for frames when it is entered.

    Raises EdgeRunError where a line does not come in time, or the processor meets a fault.
    """

    def __init__(self, firmware: Path, board: str) -> None:
        self._firmware, self._board = firmware, board
        self._waiting = b""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgerun-qemu-"))
            self._control = Path(folder, "control")
            self._machine = self._started()
            stack.callback(self._stop)
            self.greeting = self._until((READY,), START_S)
            self._held = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def _started(self) -> subprocess.Popen[bytes]:
        command = [
            require("qemu-system-arm"), "-M", self._board, *COUNTED, "-serial", "stdio", "-monitor", "none",
            "-qmp", f"unix:{self._control},server=on,wait=off", "-kernel", str(self._firmware),
        ]  # fmt: skip
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, bufsize=0)

    def _stop(self) -> None:
        self._machine.kill()
        self._machine.communicate()

    def ask(self, frames: bytes) -> str:
        """The lines that frames cause, one frame at a time."""
        into = self._machine.stdin
        if into is None:
            raise EdgeRunError(f"the emulated {self._board} has no serial line")
        told = []
        for frame in stream.frames(frames):
            into.write(frame)
            told.append(self._until(stream.LAST, LIMIT_S))
        return "".join(told)

    def reset(self) -> str:
        """Press the board's reset button; what it says until it is ready. Memory keeps what it holds."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(START_S)
            line.connect(str(self._control))
            with line.makefile("rwb") as control:
                for command in ("qmp_capabilities", "system_reset"):
                    control.write(json.dumps({"execute": command}).encode() + b"\n")
                    control.flush()
                    while "return" not in json.loads(control.readline()):
                        pass
        return self._until((READY,), START_S)

    def _until(self, last: tuple[str, ...], limit_s: float) -> str:
        """Lines up to the first that begins with one of these."""
        found = [self._line(limit_s)]
        while not found[-1].startswith(last):
            if found[-1].startswith(FAULT):
                raise EdgeRunError(f"the firmware on {self._board} ended with a fault")
            found.append(self._line(limit_s))
        return "".join(found)

    def _line(self, limit_s: float) -> str:
        due = time.monotonic() + limit_s
        while b"\n" not in self._waiting:
            self._waiting += self._piece(due - time.monotonic())
        line, _, self._waiting = self._waiting.partition(b"\n")
        return f"{line.decode('ascii')}\n"

    def _piece(self, within_s: float) -> bytes:
        out = self._machine.stdout
        if out is None or not select.select([out], [], [], max(0.0, within_s))[0]:
            raise EdgeRunError(f"the firmware on {self._board} told nothing in time")
        piece = os.read(out.fileno(), PIECE)
        if not piece:
            raise EdgeRunError(f"the emulated {self._board} has ended")
        return piece
