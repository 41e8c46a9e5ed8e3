"""A firmware project for Linux, built with sanitisers on, and with `firmware/cut.c`, which cuts the power."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgerun.bundle import Bundle
from exporters.firmware.project import PORT, project

COMPILER: Final = shutil.which("gcc") or shutil.which("cc")
BOARD: Final = "linux"
PAGE: Final = 256
POWER: Final = Path(__file__).parent / "firmware" / "cut.c"
FUZZ: Final = POWER.with_name("fuzz_host.c")
CUT: Final = 42
WRAP: Final = "-Wl,--wrap=port_flash_write"
SANITISED: Final = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FLAGS: Final = (
    "-std=gnu99",
    "-D_GNU_SOURCE",
    "-O1",
    "-g",
    "-DER_PORTABLE",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-I.",
    "-include",
    "layers.h",
)


@dataclass(frozen=True)
class Host:
    """A firmware as a program."""

    program: Path

    def run(self, folder: Path, stream: bytes, cut: int = 0, *, torn: bool = False) -> tuple[int, list[list[str]]]:
        """Exit code and words of every line; flash stays in the folder. Anything else than an end or a cut fails."""
        env = os.environ | {"EDGERUN_CUT": str(cut), "EDGERUN_TORN": str(int(torn))}
        done = subprocess.run(
            [self.program], input=stream, cwd=folder, env=env, capture_output=True, timeout=60, check=False
        )
        if done.returncode not in (0, CUT):
            raise AssertionError(f"exit code {done.returncode}: {done.stderr.decode(errors='replace')[:2000]}")
        return done.returncode, [line.split(" ") for line in done.stdout.decode("ascii").splitlines()]


def host(
    bundle: Bundle, folder: Path, flags: tuple[str, ...] = SANITISED, *, frozen: bool = False, port: str | None = None
) -> Host:
    """Build a bundle's firmware in a folder, with another source in place of its port."""
    files = project(bundle, BOARD, frozen=frozen)
    if port is None:
        files[POWER.name], flags = POWER.read_text("utf-8"), (*flags, WRAP)
    else:
        files[PORT] = port
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    sources = sorted(name for name in files if name.endswith(".c"))
    command = [str(COMPILER), *FLAGS, *flags, *sources, "-o", "firmware"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(done.stderr[:3000])
    return Host(folder / "firmware")


def sealed(flash: bytes) -> bytes:
    """A region of checkpoints whose sums are those of its bytes, so that the loader looks at what they hold."""
    made = bytearray(flash)
    length = struct.unpack_from("<I", made, 16)[0]
    slot = PAGE * (1 + -(-length // PAGE))
    for first in range(0, len(made) - PAGE, slot):
        struct.pack_into("<I", made, first + 32, zlib.crc32(made[first + PAGE : first + PAGE + length]))
        struct.pack_into("<I", made, first + 36, zlib.crc32(made[first : first + 36]))
    return bytes(made)
