"""How near each kernel comes to the machine: its time beside the time of reading its bytes and of its products alone.

    python benchmarks/peers/limits.py [--markdown docs/peers.md]                                  (make bench-limits)

`limits.c` is built for this processor with the kernels and times, in C, loops that only read and only multiply, and
each kernel at a size of the peers' tables, arrays warm. A kernel's floor is the longer of two: reading what it must at
the speed that this much memory has, and its products at the peak of the instruction that its kind could use.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

sys.path.append(str(Path(__file__).parents[1]))

from tables import Table, write_section

HERE: Final = Path(__file__).parent
SOURCES: Final = HERE.parents[1] / "edgerun" / "csrc"

BETWEEN: Final = {
    "dense that learns": "rows begin anywhere: half of the reads touch two cache lines; turning top bits, adding lanes",
    "dense": "reading the second level of the cache without rest; bytes of x and outputs of sums between layers",
    "conv": "bytes of the image laid, and for every 64 products an output converted, scaled, packed and stored",
    "depthwise": "bytes of four taps interleaved for every product, and for every nine products an output as above",
    "lif": "20 rows of additions and 256 neurons, each a dozen operations that no product measures",
    "update": "a random word a weight, nine operations, and ten to make a step of it; "
    "with synaptic intelligence two words or, where weights have importance, three",
}
"""What stands between a kind of kernel and its floor."""
BYTES: Final = ("dense that learns", "dense", "conv")
"""Kinds that multiply bytes."""


class Row(NamedTuple):
    """One line of limits.c."""

    kind: str
    name: str
    us: float
    macs: float
    bytes: float


DISTRIBUTION: Final = ("-O2", "-g", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2")
"""What distributions add in front of the flags that setup.py has."""

BUILDS: Final = {
    "gcc": ("gcc", "-O3"),
    "gcc, as distributions build": ("gcc", *DISTRIBUTION, "-O3"),
    "clang, as distributions build": ("clang", *DISTRIBUTION, "-O3"),
    "gcc -O2 alone": ("gcc", "-O2"),
}
"""The last is what a build would be that did not force -O3."""


def measure(compiler: str = "gcc", *flags: str) -> list[Row]:
    """Build and run. Raises CalledProcessError where either fails."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "limits"
        kernels = sorted(str(path) for path in SOURCES.glob("*.c") if not path.name.startswith("module"))
        common = ["-std=gnu11", "-fno-strict-aliasing", f"-I{SOURCES}"]
        subprocess.run([compiler, *flags, *common, str(HERE / "limits.c"), *kernels, "-o", str(program)], check=True)
        told = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
    return [_row(line) for line in told.splitlines()]


def _row(line: str) -> Row:
    kind, name, *numbers = line.split("|")
    us, macs, size = map(float, numbers)
    return Row(kind, name, us, macs, size)


def bandwidth(rows: list[Row], size: float) -> float:
    """Bytes a microsecond of reading the smallest measured piece of memory that holds so many."""
    reads = sorted((row.bytes, row.bytes / row.us) for row in rows if row.kind == "read")
    return next((speed for held, speed in reads if held >= size), reads[-1][1])


def page(rows: list[Row]) -> str:
    peaks = {row.name: row.macs / row.us for row in rows if row.kind == "multiply"}
    best, words = max(peaks.values()), peaks["int16"]
    reads = [row for row in rows if row.kind == "read"]
    machine = [(f"reading {row.bytes / 1024:.0f} KB", f"{row.bytes / row.us / 1e3:.0f} GB/s") for row in reads]
    machine += [(f"multiplying {name}", f"{peak / 1e3:.0f} GMAC/s") for name, peak in peaks.items()]
    found = []
    for row in (row for row in rows if row.kind == "kernel"):
        family = next(kind for kind in BETWEEN if row.name.startswith(kind))
        peak = best if family in BYTES else words
        reading, products = row.bytes / bandwidth(rows, row.bytes), row.macs / peak
        floor, why = max((reading, "reading"), (products, "products"))
        times = (f"{row.us:.2f}", f"{reading:.2f}", f"{products:.2f}", f"{row.us / floor:.1f} x {why}")
        found.append((row.name, *times, BETWEEN[family]))
    heads = ("kernel", "us", "reading alone", "products alone", "time over its floor", "what stands between")
    return "\n".join(
        [
            "## How near the machine",
            "",
            "By `make bench-limits`, in C, one thread, warm arrays; least of nine. This machine:",
            "",
            Table("", ("", ""), machine).markdown(),
            Table("", heads, found).markdown(),
        ]
    )


def builds() -> str:
    """Markdown: the kernels' times, built in several ways."""
    times = {name: {row.name: row.us for row in measure(*how) if row.kind == "kernel"} for name, how in BUILDS.items()}
    first = next(iter(times.values()))
    rows = [(kernel, *(f"{found[kernel]:.2f}" for found in times.values())) for kernel in first]
    return "\n".join(
        [
            "Microseconds by how the kernels are built. `setup.py` puts `-O3` behind whatever a distribution asks for.",
            "",
            Table("", ("kernel", *times), rows).markdown(),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path, help="rewrite this page's section")
    args = parser.parse_args()
    text = f"{page(measure('gcc', '-O3', '-march=native'))}\n{builds()}"
    print(text)
    if args.markdown:
        write_section(args.markdown, "limits", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
