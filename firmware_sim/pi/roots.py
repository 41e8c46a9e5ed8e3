"""Root file systems, made once and kept: Debian's packages unpacked, Python's beside them, edgerun's kernels compiled.

    packages of the archive, their signatures checked by apt -> dpkg-deb -x        no second stage, no root, no binfmt
    build/pi/<machine>-<digest of the recipe>/{root,headers,python,edgerun-<digest>,bytecode}

Each part is made beside its place and moved there whole, so one that is there is complete.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from firmware_sim.pi.machines import (
    HEADERS,
    KEYRING,
    PACKAGES,
    PYTHON,
    SOURCES,
    SUITE,
    WHEELS,
    Machine,
    done,
    find,
    mirror,
    pinned,
    recipe,
)

HOUSE: Final = Path(__file__).parents[2]
BLAS: Final = "openblas-pthread"
CFLAGS: Final = ("-O3", "-fno-strict-aliasing", "-shared", "-fPIC")


@dataclass(frozen=True, slots=True)
class Pi:
    """A machine that can be run: its root file system, Python's packages, and edgerun with its kernels."""

    machine: Machine
    root: Path
    python: Path
    house: Path  # the folder with the package edgerun
    bytecode: Path

    def command(self, *arguments: str | Path) -> list[str]:
        """Python on the machine, with the files and the network of this one."""
        emulator = find(self.machine.emulator) or self.machine.emulator
        return [emulator, "-L", str(self.root), str(self.root / "usr/bin" / PYTHON), *map(str, arguments)]

    def environment(self, *more: Path, **variables: str) -> dict[str, str]:
        """Of the machine's processes; `more` is searched for packages after its own."""
        return {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join(map(str, (self.house, self.python, *more))),
            "PYTHONPYCACHEPREFIX": str(self.bytecode),
            "PYTHONSAFEPATH": "1",
            **variables,
        }


def make(machine: Machine, folder: Path) -> Pi:
    """A machine from the cache in `folder`; what it lacks is made. Raises Refused and EdgeRunError."""
    pins = pinned((HOUSE / "constraints.txt").read_text(encoding="utf-8"))
    home = folder.resolve() / f"{machine.name}-{recipe(machine, pins)}"
    root = cached(home / "root", lambda place: unpack(machine, PACKAGES, place))
    headers = cached(home / "headers", lambda place: unpack(machine, (HEADERS,), place, alone=True))
    python = cached(home / "python", lambda place: install(machine, pins, headers, place))
    sources = HOUSE / "edgerun"
    house = home / f"edgerun-{digest(sources)}"
    if not house.exists():
        for old in home.glob("edgerun-*"):
            shutil.rmtree(old)
    cached(house, lambda place: settle(machine, sources, headers, place))
    return Pi(machine, root, python, house, home / "bytecode")


def cached(place: Path, fill: Callable[[Path], None]) -> Path:
    """`place`, filled by `fill` if it was not there: whole, or not at all."""
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".", ignore_cleanup_errors=True) as near:
            fresh = Path(near, place.name)
            fresh.mkdir()
            fill(fresh)
            fresh.rename(place)
    return place


def digest(package: Path) -> str:
    """Of the sources of a package, Python and C."""
    found = hashlib.sha256()
    for path in sorted(_sources(package)):
        found.update(f"{path.relative_to(package)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:12]


def _sources(package: Path) -> list[Path]:
    return [path for path in package.rglob("*") if path.suffix in {".py", ".c", ".h", ".typed"}]


# ------------------------------------------------------------------ Debian


def unpack(machine: Machine, packages: Sequence[str], place: Path, *, alone: bool = False) -> None:
    """Debian packages of a machine, and what they depend on unless `alone`, unpacked into `place`."""
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as near:
        apt = _apt(machine, Path(near))
        done([*apt, "-q", "update"])
        archives = Path(near, "archives")
        what = ["download"] if alone else ["install", "--yes", "--download-only"]
        done([*apt, "-q", *what, *packages], cwd=archives)
        for archive in sorted(archives.glob("*.deb")):
            done(["dpkg-deb", "--extract", archive, place])
    libraries = place / "usr/lib" / machine.triplet
    for library in (libraries / BLAS).glob("*.so.*"):  # as the packages' own scripts would have done
        (libraries / library.name).symlink_to(Path(BLAS, library.name))


def _apt(machine: Machine, folder: Path) -> list[str]:
    """apt-get for another machine, with an archive and a state of its own; proxies and the like stay the user's."""
    for name in ("state/lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT)", "Created-By: Packages"]
    source = f"deb [signed-by={KEYRING}] {mirror(done(asked))} {SUITE} main\n"
    (folder / "sources.list").write_text(source, encoding="utf-8")
    settings = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder,
        "Dir::Cache::archives": folder / "archives",
        "APT::Architecture": machine.name,
        "APT::Architectures": machine.name,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
    }
    return ["apt-get", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]


# ------------------------------------------------------------------ Python


def install(machine: Machine, pins: Mapping[str, str], headers: Path, place: Path) -> None:
    """Python's packages at their pinned versions, the one in C compiled for the machine."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels = [f"{name}=={pins[name]}" for name in WHEELS]
    only = ["--only-binary=:all:", "--python-version=3.11", f"--target={place}"]
    done([*pip, "install", "--no-deps", *only, *wheels])
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as near:
        done([*pip, "download", "--no-deps", "--no-binary=:all:", f"--dest={near}", f"{SOURCES}=={pins[SOURCES]}"])
        (archive,) = Path(near).glob("*.tar.gz")
        done(["tar", "--extract", "--file", archive, "--directory", near])
        (package,) = Path(near).glob(f"*/src/{SOURCES}")
        shutil.copytree(package, place / SOURCES)
    compile_c(machine, headers, sorted((place / SOURCES).glob("*.c")), place / SOURCES / "_core.so")


def settle(machine: Machine, package: Path, headers: Path, place: Path) -> None:
    """edgerun's sources, with its kernels compiled for the machine instead of this one's."""
    for path in _sources(package):
        copy = place / "edgerun" / path.relative_to(package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    kernels = sorted((place / "edgerun/csrc").glob("*.c"))
    compile_c(machine, headers, kernels, place / "edgerun/_native.abi3.so")


def compile_c(machine: Machine, headers: Path, sources: Sequence[Path], library: Path) -> None:
    """A Python extension for the machine."""
    include = headers / "usr/include"
    done([machine.compiler, "-std=gnu99", *CFLAGS, f"-I{include}", f"-I{include / PYTHON}", *sources, "-o", library])
