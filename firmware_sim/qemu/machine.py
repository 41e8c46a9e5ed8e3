"""Build a project and run it: `arm-none-eabi-gcc`, then `qemu-system-arm` with one nanosecond an instruction."""

from __future__ import annotations

import hashlib
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from edgerun.errors import EdgeRunError, Refused
from firmware_sim.qemu.child import finished

BOARDS: Final = MappingProxyType(
    {
        "mps2-an385": 25_000_000,
        "mps2-an386": 25_000_000,
        "mps2-an500": 25_000_000,
        "mps3-an547": 32_000_000,
        "netduinoplus2": 168_000_000,
    }
)
"""Machines that run the firmware, and their ticks a second."""

PROCESSES: Final = MappingProxyType(
    {"linux": "", "linux-aarch64": "qemu-aarch64-static", "linux-armhf": "qemu-arm-static"}
)
"""Where the firmware is a program under Linux: what runs programs of such a processor here, "" for this machine."""

PACKAGES: Final = MappingProxyType(
    {
        "arm-none-eabi-gcc": "gcc-arm-none-eabi",
        "make": "make",
        "qemu-system-arm": "qemu-system-arm",
        "gcc": "gcc libc6-dev",
        "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
        "arm-linux-gnueabihf-gcc": "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross",
        "qemu-aarch64-static": "qemu-user-static",
        "qemu-arm-static": "qemu-user-static",
    }
)
"""Debian packages by the program that they bring."""

CACHE: Final = Path("~/.cache/edgerun/firmware")
FAULT: Final = 99
LAST_LINES: Final = 3
LIMIT_S: Final = 900.0
COUNTED: Final = ("-icount", "shift=0", "-display", "none")
"""Options of QEMU: an instruction a nanosecond, no window."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a run wrote: lines of telemetry, and the region of checkpoints as it lies in flash."""

    answers: str
    flash: bytes


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes that a firmware takes of a board, as its sections say: the stack is memory too."""

    flash: int
    ram: int


def sizes(firmware: Path) -> Sizes:
    """Of an ELF file for a 32-bit processor: what lies in flash, and what of memory is taken."""
    elf = firmware.read_bytes()
    at, (each, count) = struct.unpack_from("<I", elf, 32)[0], struct.unpack_from("<HH", elf, 46)
    flash = ram = 0
    for k in range(count):
        _, kind, flags, _, _, size = struct.unpack_from("<6I", elf, at + k * each)
        if flags & ALLOCATED:
            ram += size * bool(flags & WRITABLE)
            flash += size * (kind != NO_BITS)
    return Sizes(flash, ram)


NO_BITS: Final = 8
WRITABLE, ALLOCATED = 1, 2
"""Of an ELF section: its type where no bytes lie in the file, its flags."""


def require(program: str) -> str:
    """A program's path. Raises Refused naming the Debian package that brings it."""
    found = shutil.which(program)
    if found is None:
        raise Refused(f"{program} is not installed: apt-get install {PACKAGES[program]}")
    return found


CROSS: Final = re.compile(r"^CROSS \?= ?(.*)$", re.MULTILINE)
"""Of a project's Makefile: how its compiler's name begins."""


def build(files: Mapping[str, str], cache: Path = CACHE) -> Path:
    """The firmware of a project's files, by path. The same files are built once.

    Raises EdgeRunError with what the compiler said.
    """
    compiler, make = require(f"{CROSS.findall(files['Makefile'])[0]}gcc"), require("make")
    sha = hashlib.sha256(compiler.encode())
    for name, text in sorted(files.items()):
        sha.update(f"{name}\0{len(text)}\0{text}".encode())
    kept = cache.expanduser() / f"{sha.hexdigest()[:32]}.elf"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="edgerun-firmware-") as folder:
            for name, text in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            done = finished([make, "-s"], folder)
            if done.returncode:
                raise EdgeRunError(f"the firmware does not build: {complaint(done.stderr)}")
            beside = kept.with_suffix(f".{Path(folder).name}")
            shutil.copy(Path(folder, "firmware.elf"), beside)
            beside.replace(kept)
    return kept


def complaint(said: str) -> str:
    """What a failed make has said, in one line: its first error, or its last lines where none of them is called one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() and not line.startswith(("make", "collect2"))]
    rest = [line for line in lines if not line.startswith("make")] or lines
    return errors[0] if errors else "; ".join(rest[-LAST_LINES:]) or "make failed"


def run(firmware: Path, board: str, stream: bytes, flash: bytes = b"", limit_s: float = LIMIT_S) -> Run:
    """Run a stream through the firmware on a board, with what its checkpoints hold.

    Raises EdgeRunError where the firmware does not come to the stream's end.
    """
    with tempfile.TemporaryDirectory(prefix="edgerun-qemu-") as folder:
        samples, answers, kept = (Path(folder, name) for name in ("samples.bin", "answers.txt", "flash.bin"))
        samples.write_bytes(stream)
        if flash:
            kept.write_bytes(flash)
        try:
            with samples.open("rb") as into:
                done = finished(command(firmware, board), folder, into, limit_s)
        except subprocess.TimeoutExpired:
            raise EdgeRunError(f"the firmware on {board} did not end within {limit_s:g} s") from None
        if done.returncode:
            why = "a fault" if done.returncode == FAULT else f"exit code {done.returncode}"
            said = next(iter(done.stderr.splitlines()), "")
            raise EdgeRunError(f"the firmware on {board} ended with {why}{said and ': '}{said}")
        text = done.stdout if board in PROCESSES else answers.read_text("ascii")
        return Run(text, kept.read_bytes() if kept.exists() else b"")


def command(firmware: Path, board: str) -> list[str]:
    """What runs a firmware: one for a board reads samples.bin and writes answers.txt, a program what it is given."""
    if board in PROCESSES:
        emulator = PROCESSES[board]
        return [*([require(emulator)] if emulator else []), str(firmware)]
    return [
        require("qemu-system-arm"), "-M", board, *COUNTED, "-monitor", "none", "-serial", "none",
        "-semihosting-config", "enable=on,target=native", "-kernel", str(firmware),
    ]  # fmt: skip


def instructions(board: str, ticks: int) -> float:
    """What so many ticks of a board came to, one instruction a nanosecond."""
    return ticks * 1e9 / BOARDS[board]
