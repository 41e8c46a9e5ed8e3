"""The firmware of the example nets on emulated Cortex-M boards: memory, flash, instructions of an answer, a lesson, an
update, and whether the bits are numpy's.

    python benchmarks/firmware/bench.py [--markdown docs/firmware.md]          (make bench-firmware)

Lessons are three of each of ten digits, two of them new to the nets. QEMU counts instructions, not cycles.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[2] / "examples" / "digits"))

import dataset
from tables import Table, write_section

from edgerun import encode
from edgerun.boards import get_board, price_instructions
from edgerun.bundle import Bundle, read_bundle
from edgerun.commands import counts
from edgerun.commands.adapt import Labelled, adapt, adapt_on, shots
from edgerun.network import Network
from exporters.export import Options, export
from exporters.firmware.boards import firmware_board
from exporters.firmware.project import project
from firmware_sim.qemu import machine
from firmware_sim.qemu.runner import QEMU

ROOT: Final = Path(__file__).parents[2]
NAMES: Final = tuple("0123456789")
SHOTS: Final = 3
ASKED: Final = 20  # samples of each digit
LEARNER: Final = "mps2-an386"
MCU: Final = ("pico2", "nucleo-f446")


@dataclass(frozen=True, slots=True)
class Net:
    """A bundle and, where it is taught, what teaches it."""

    name: str
    bundle: Bundle
    data: Labelled | None


def digits(folder: Path) -> list[Net]:
    """The example nets, exported to learn."""
    factory, field = dataset.load()
    np.savez(folder / "factory.npz", x=factory.x, y=factory.y)
    taken = np.concatenate([np.flatnonzero(field.y == k)[:ASKED] for k in range(10)])
    plans = {
        "dense 64-128, prototypes": ("digits_mlp.onnx", Options(learn="prototypes", capacity=10)),
        "recurrent LIF 64-128-10": ("digits_snn.nir", Options(learn="eprop", classes=NAMES[:8], capacity=10)),
    }
    found = []
    for name, (model, options) in plans.items():
        bundle = read_bundle(export(ROOT / "examples" / "digits" / model, folder / "factory.npz", options).data)
        q = np.stack([encode.quantise(bundle.manifest.input, x) for x in field.x[taken]])
        data = Labelled("field", q, tuple(NAMES[k] for k in field.y[taken]))
        found.append(Net(name, bundle, data))
    plan = msgspec.structs.replace(found[-1].bundle.manifest.learning, profile="small")
    small = replace(found[-1].bundle, manifest=msgspec.structs.replace(found[-1].bundle.manifest, learning=plan))
    found.append(Net("the same, profile small", small, found[-1].data))
    words = read_bundle((ROOT / "examples" / "spoken_digits" / "model.edgb").read_bytes())
    return [*found, Net("spoken digits, 32-256-16", words, None)]


def sized(nets: list[Net]) -> Table:
    """What each firmware takes of the board, as the linker says."""
    rows = []
    for net in nets:
        for frozen in (True, False):
            taken = machine.sizes(machine.build(project(net.bundle, LEARNER, frozen=frozen)))
            does = "answers" if frozen else "learns"
            rows.append((net.name, does, f"{taken.ram / 1024:,.1f} KB", f"{taken.flash / 1024:,.1f} KB"))
    return Table("", ("net", "firmware", "RAM", "flash"), rows)


def answered(nets: list[Net]) -> Table:
    """Instructions of an answer on every board. Raises AssertionError where an answer is not numpy's."""
    rows = []
    for net in nets:
        size, count = net.bundle.manifest.input.size, 40
        q = net.data.q if net.data else np.random.default_rng(0).integers(-60, 60, (count, size)).astype(np.int16)
        wanted = Network(net.bundle.manifest, net.bundle.tensors, (len(q),)).scores(q)
        cells = []
        for board in machine.BOARDS:
            ran = QEMU.infer(net.bundle, board, q)
            if not np.array_equal(ran.scores, wanted):
                raise AssertionError(f"{net.name} on {board} does not give numpy's bits")
            cells.append(f"{ran.instructions.mean():,.0f}")
        rows.append((net.name, *cells))
    return Table(
        "",
        ("net", *(f"{board}, {firmware_board(board).cpu.replace('cortex-m', 'M')}" for board in machine.BOARDS)),
        rows,
    )


def taught(nets: list[Net]) -> Table:
    """Lessons on the M4. Raises AssertionError where the digest is not numpy's."""
    rows = []
    for net in nets:
        if net.data is None:
            continue
        lessons = shots(net.data.label, SHOTS, None)
        drawn, schooled = adapt_on(LEARNER, net.bundle, net.data, lessons, None, "full")
        if adapt(net.bundle, net.data, lessons, None, "full", "numpy") != drawn:
            raise AssertionError(f"{net.name} does not learn numpy's bits")
        told = counts.as_json(LEARNER, net.bundle.manifest.learning, [schooled])["instructions"]
        assert isinstance(told, dict)
        for act, count in told.items():
            costs = [price_instructions(get_board(name), count) for name in MCU]
            cells = (f"{us / 1e3:,.1f} ms, {uj / 1e3:,.2f} mJ" for uj, us in costs)
            rows.append((net.name, act, f"{count:,}", *cells))
        rows.append((net.name, "right, before and after", f"{drawn.before:.1%}, {drawn.after:.1%}", *("" for _ in MCU)))
    return Table("", ("net", "act", "instructions", *(f"on {name}" for name in MCU)), rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path, help="rewrite this page's sections")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        nets = digits(Path(folder))
    tables = {"sizes": sized(nets), "answers": answered(nets), "lessons": taught(nets)}
    for name, table in tables.items():
        print(table.markdown())
        if args.markdown:
            write_section(args.markdown, name, table.markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
