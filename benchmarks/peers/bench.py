"""Speed and weight beside peers: one run, one thread, contenders in turn, CPU time of a call.

    python benchmarks/peers/bench.py [--only update ...] [--rounds 15] [--markdown docs/peers.md]    (make bench-peers)

Needs the extra bench; a peer that is not installed is left out and said to be. Ratios are taken round by round, so that
a machine that slows down slows both. Latency does not depend on what weights say: they are random.
"""

from __future__ import annotations

import os

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

import argparse
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).parents[1]))

import chart
import footprint
import inference
import learning
import models
import spiking
import torch
from tables import Table, write_section
from timing import ROUNDS, Timed, interleaved

from edgerun.kernels.native import library

VERSIONS: Final = ("numpy", "ai-edge-litert", "onnxruntime", "torch", "norse", "snntorch", "avalanche-lib")
Contender = tuple[str, Callable[[], object], int]


@dataclass(frozen=True)
class Part:
    """One table: contenders, what a row counts, and the goal that the C backend has."""

    title: str
    unit: str
    make: Callable[[Path], Iterable[Contender]]
    goal: float | None
    words: str = ""


PARTS: Final = {
    "mlp-small": Part("MLP 64-128-10, one inference", "us", lambda f: inference.chain(models.SMALL, f), 1.5),
    "mlp-large": Part("MLP 784-400-400-10, one inference", "us", lambda f: inference.chain(models.LARGE, f), 7.5),
    "dscnn": Part("DS-CNN of keywords, one inference", "us", lambda f: inference.committed("kws_dscnn", f), 60),
    "gru": Part("GRU over a window, one inference", "us", lambda f: inference.committed("imu_gru", f), None),
    "spiking": Part(
        "Recurrent LIF 700-256-20, one sparse step", "us a step", lambda _: spiking.contenders(), 2,
        "Near 10 of 700 inputs spike. `windows`: 100 steps in one call.",
    ),
    "eprop": Part(
        "Learning in the same net, one step of a window of 100", "us a step", lambda _: learning.recurrent(), 14,
        "Ours: run, e-prop, stochastic rounding into every weight, once a window. torch: e-prop in floats, a trace a "
        "synapse.",
    ),
    "update": Part(
        "One update of an MLP 64-128-10", "us", lambda _: learning.dense(), 5,
        "Ours: run, backpropagation, stochastic rounding. A whole lesson adds the journal's record and the answer "
        "before it.",
    ),
}  # fmt: skip


def measured(part: Part, rounds: int) -> dict[str, Timed]:
    """Times of one unit, by contender."""
    with tempfile.TemporaryDirectory() as folder:
        found = {name: (call, units) for name, call, units in part.make(Path(folder))}
        timed = interleaved({name: call for name, (call, _) in found.items()}, rounds)
    return {name: Timed(tuple(t / found[name][1] for t in timed[name].rounds)) for name in found}


def reference(times: dict[str, Timed]) -> str:
    """The fastest peer."""
    return min((name for name in times if not name.startswith("edgerun")), key=lambda name: times[name].median)


def table(part: Part, times: dict[str, Timed]) -> str:
    """Markdown: a row a contender, and how many times the fastest peer's time it takes."""
    best, rows = reference(times), []
    for name, timed in times.items():
        middle, low, high = timed.over(times[best])
        rows.append((name, figure(timed.least), figure(timed.median), f"{middle:.2f} ({low:.2f} to {high:.2f})"))
    goal = f" Goal of the C backend: {part.goal:g}." if part.goal else ""
    return Table(part.title, (part.unit, "least", "median", f"times {best}"), rows).markdown(
        f"{part.words}{goal}".strip()
    )


def figure(microseconds: float) -> str:
    """Three digits, more where there are more before the point."""
    return f"{microseconds:,.0f}" if microseconds >= 100 else f"{microseconds:.3g}"


def weights() -> str:
    """Markdown: import, memory, bytes installed."""
    rows = []
    for name, program, needs in footprint.ROWS:
        weight, size = footprint.weigh(program), footprint.installed_mb(needs)
        if size is not None and name.startswith("edgerun"):
            size += footprint.own_mb()
        rows.append((name, f"{weight.seconds:.2f}", f"{weight.megabytes:.0f}", "" if size is None else f"{size:.0f}"))
    heads = ("new process", "import to end, s", "resident, MB", "installed, MB")
    return Table("Weight", heads, rows).markdown(
        "Least of five new interpreters. Installed: the library and what it requires, numpy included."
    )


def heading(rounds: int) -> str:
    present = [f"{name} {version}" for name in VERSIONS if (version := installed(name))]
    absent = [name for name in VERSIONS if not installed(name)]
    cpu = next((line.split(":")[1].strip() for line in cpuinfo() if line.startswith("model name")), platform.machine())
    left_out = f" Left out, not installed: {', '.join(absent)}." if absent else ""
    return (
        f"By `make bench-peers`: {cpu}, one thread, Python {platform.python_version()}, {', '.join(present)}; "
        f"C kernels {'built' if library() else 'missing'}. CPU time of the thread, {rounds} rounds of each contender "
        f"in turn; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors. Ratios are medians of rounds, least "
        f"and most in brackets.{left_out}\n"
    )


def installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def cpuinfo() -> Iterator[str]:
    path = Path("/proc/cpuinfo")
    yield from path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*PARTS, "weight"], help="some of the tables")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each contender")
    parser.add_argument("--markdown", type=Path, help="rewrite this page's section, with its picture")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    wanted = args.only or [*PARTS, "weight"]
    texts, medians = [heading(args.rounds)], dict[str, dict[str, float]]()
    for name in (name for name in PARTS if name in wanted):
        times = measured(PARTS[name], args.rounds)
        texts.append(table(PARTS[name], times))
        print(texts[-1], flush=True)
        medians[PARTS[name].title] = {each: timed.median for each, timed in times.items()}
    if "weight" in wanted:
        texts.append(weights())
        print(texts[-1])
    if args.markdown:
        image = args.markdown.parent / "images" / "peers.svg"
        image.write_text(chart.drawn(medians), encoding="utf-8")
        texts.insert(1, "![Microseconds of a call or step, all contenders](images/peers.svg)\n")
        write_section(args.markdown, "peers", "\n".join(texts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
