"""Which machines there are, what this computer must have to make and run them, and what is in them.

    arm64   Raspberry Pi OS of 64 bits: ARMv8, aarch64        armhf   of 32 bits: ARMv7, hard float

Both are Debian bookworm, with the oldest Python and numpy that edgerun takes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from edgerun.errors import EdgeRunError, Refused

SUITE: Final = "bookworm"
PYTHON: Final = "python3.11"
PACKAGES: Final = ("python3", "python3-numpy", "libopenblas0-pthread", "python3-pytest", "python3-hypothesis")
"""Installed with what they need, and nothing else."""
HEADERS: Final = f"lib{PYTHON}-dev"
WHEELS: Final = ("paho-mqtt",)
"""Python without C that Debian has too old."""
SOURCES: Final = "msgspec"
"""In C, and not for every machine a wheel: compiled."""
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR: Final = "DEBIAN_MIRROR"


@dataclass(frozen=True, slots=True)
class Machine:
    """A kind of machine, by the names that Debian, the compiler and QEMU give it."""

    name: str
    triplet: str
    emulator: str
    libc: str  # the Debian package with the C library that programs for it are linked with
    board: str  # that it stands for

    @property
    def compiler(self) -> str:
        return f"{self.triplet}-gcc"

    def tools(self) -> Mapping[str, str]:
        """Programs, and the Debian packages that bring them."""
        return {
            "apt-get": "apt",
            "dpkg-deb": "dpkg",
            self.compiler: f"gcc-{self.triplet} {self.libc}",
            self.emulator: "qemu-user-static",
            "mosquitto": "mosquitto",
        }


MACHINES: Final[Mapping[str, Machine]] = {
    machine.name: machine
    for machine in (
        Machine("arm64", "aarch64-linux-gnu", "qemu-aarch64-static", "libc6-dev-arm64-cross", "rpi-4b"),
        Machine("armhf", "arm-linux-gnueabihf", "qemu-arm-static", "libc6-dev-armhf-cross", "rpi-zero-2w"),
    )
}


def check_tools(machines: Sequence[Machine]) -> None:
    """Raises Refused naming the Debian packages of every program that is missing here."""
    lacking = {
        program: package
        for machine in machines
        for program, package in machine.tools().items()
        if find(program) is None
    }
    if not KEYRING.is_file():
        lacking[str(KEYRING)] = "debian-archive-keyring"
    if lacking:
        packages = " ".join(dict.fromkeys(lacking.values()))
        raise Refused(f"{', '.join(lacking)} not found: apt install {packages}")


def find(program: str) -> str | None:
    """Where a program is; Debian puts some into a folder that ordinary users do not search."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin")


def recipe(machine: Machine, pins: Mapping[str, str]) -> str:
    """A digest of all that a root file system is made of; where it changes, another one is made."""
    content = [SUITE, PACKAGES, HEADERS, asdict(machine), sorted(pins.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def pinned(constraints: str) -> dict[str, str]:
    """The versions of `WHEELS` and `SOURCES` in a pip constraints file. Raises Refused where one is missing."""
    lines = (line.partition("==") for line in constraints.splitlines() if "==" in line)
    versions = {_canonical(name): version.strip() for name, _, version in lines}
    wanted = (*WHEELS, SOURCES)
    missing = [name for name in wanted if name not in versions]
    if missing:
        raise Refused(f"the constraints pin no version of {', '.join(missing)}")
    return {name: versions[name] for name in wanted}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def mirror(targets: str, environment: Mapping[str, str] = os.environ) -> str:
    """Where Debian's packages come from: DEBIAN_MIRROR, or the first archive of Debian among apt's index targets.

    targets  lines of `REPO_URI COMPONENT`. Raises Refused where there is neither.
    """
    if given := environment.get(MIRROR):
        return given
    for line in targets.splitlines():
        uri, _, component = line.partition(" ")
        if component == "main" and uri.rstrip("/").endswith("/debian"):
            return uri
    raise Refused(f"apt knows no mirror of Debian: name one in {MIRROR}")


def done(command: Sequence[str | Path], **options: object) -> str:
    """What a command prints. Raises EdgeRunError with its last words where it fails."""
    ended = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]  # forwarded
    if ended.returncode:
        words = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
        raise EdgeRunError(f"{Path(command[0]).name} failed: {words[-1] if words else 'it says nothing'}")
    return str(ended.stdout)
