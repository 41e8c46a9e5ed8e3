"""`edgerun doctor`: what this machine has and lacks, before something fails for the want of it."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
from importlib import metadata
from pathlib import Path

import msgspec

from edgerun.kernels.native import library
from edgerun.spec import Record

TOOLS = {
    "mosquitto": "a broker for more than a demo",
    "chromium": "the tests of the web page, the screenshots",
    "arm-none-eabi-gcc": "building firmware",
    "qemu-system-arm": "running firmware: infer and adapt --board",
}
SENSORS = {
    "power monitor": ("sys/class/hwmon", "*/power*_input"),
    "current monitor": ("sys/class/hwmon", "*/curr*_input"),
    "RAPL": ("sys/class/powercap", "*/energy_uj"),
    "battery": ("sys/class/power_supply", "*/capacity"),
    "thermal zone": ("sys/class/thermal", "thermal_zone*/temp"),
    "pressure": ("proc/pressure", "*"),
}


class Finding(Record, frozen=True, kw_only=True):
    """One thing that is there or is not."""

    group: str
    name: str
    found: str  # version or path; "" = missing
    needed_for: str = ""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = "example:\n  edgerun doctor --json"


def run(args: argparse.Namespace) -> int:
    findings = [python(), *libraries(), kernels(), *tools(), *sensors(Path("/"))]
    if args.json:
        print(msgspec.json.encode({"findings": findings}).decode())
    else:
        print(render(findings))
    return 0


def render(findings: list[Finding]) -> str:
    """A line a finding, a heading a group."""
    lines: list[str] = []
    for place, finding in enumerate(findings):
        if place == 0 or findings[place - 1].group != finding.group:
            lines += ["", f"{finding.group}:"]
        lack = f"missing; {finding.needed_for}" if finding.needed_for else "missing"
        lines.append(f"  {finding.name:<20}{finding.found or lack}")
    return "\n".join(lines[1:])


def python() -> Finding:
    return Finding(group="python", name="python", found=f"{platform.python_version()} on {platform.machine()}")


def libraries() -> list[Finding]:
    """Every library that the distribution names, with the extra that brings it."""
    findings = []
    for line in metadata.requires("edgerun") or []:
        requirement, _, marker = line.partition(";")
        name = re.split(r"[^A-Za-z0-9_.-]", requirement.strip(), maxsplit=1)[0]
        extra = re.search(r"extra == [\"'](\w+)[\"']", marker)
        if name != "edgerun":
            needed_for = f"pip install 'edgerun[{extra[1]}]'" if extra else "nothing works without it"
            group = f"extra {extra[1]}" if extra else "needed"
            findings.append(Finding(group=group, name=name, found=version(name), needed_for=needed_for))
    return findings


def version(name: str) -> str:
    """The installed version of a distribution, or nothing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def kernels() -> Finding:
    """The C extension, which numpy stands in for."""
    found = library()
    return Finding(
        group="backend",
        name="C kernels",
        found=str(found.__file__) if found else "",
        needed_for="numpy computes the same bits, slower; a compiler at installation brings them",
    )


def tools() -> list[Finding]:
    """Programs that are looked for on the path and where Debian keeps daemons."""
    path = f"{os.defpath}:/usr/sbin:/usr/local/sbin"
    return [
        Finding(
            group="programs", name=name, found=shutil.which(name) or shutil.which(name, path=path) or "", needed_for=use
        )
        for name, use in TOOLS.items()
    ]


def sensors(root: Path) -> list[Finding]:
    """What the board can say about itself, by the files of the kernel under `root`."""
    return [
        Finding(
            group="sensors",
            name=name,
            found=", ".join(readable(file) for file in sorted((root / folder).glob(pattern))[:4]),
            needed_for="its figures are estimated",
        )
        for name, (folder, pattern) in SENSORS.items()
    ]


def readable(file: Path) -> str:
    """A file's path, and whether this user may not read it."""
    return str(file) if os.access(file, os.R_OK) else f"{file} (not readable by this user)"
