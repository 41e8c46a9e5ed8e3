"""`edgerun export-firmware`: a bundle as a C project for a microcontroller."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from edgerun.bundle import open_bundle
from edgerun.commands.text import columns
from edgerun.graph import learns
from edgerun.learn.native import numpy_lessons
from exporters.firmware.boards import BOARDS, PORTS, firmware_board
from exporters.firmware.guard import guard_of
from exporters.firmware.project import PORT, image_for, room, write_project


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help="a bundle file, *.edgb")
    parser.add_argument("--board", required=True, metavar="NAME", help=f"one of {', '.join(BOARDS)}")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="the project's folder")
    parser.add_argument(
        "--port",
        choices=PORTS,
        default=PORTS[0],
        help="how frames come in and lines go out: files of a host at the debugger, or the board's serial line",
    )
    parser.add_argument("--frozen", action="store_true", help="it answers and never learns: less memory and flash")
    parser.epilog = (
        "example:\n  edgerun export-firmware digits.edgb --board mps2-an386 -o firmware\n  make -C firmware\n"
        "needs nothing itself; the project is built with gcc-arm-none-eabi (Debian's name)"
    )


def run(args: argparse.Namespace) -> int:
    bundle = open_bundle(args.bundle)
    kept = write_project(bundle, args.board, args.output, frozen=args.frozen, port=args.port)
    image, board = image_for(bundle, frozen=args.frozen), firmware_board(args.board)
    building = f"make -C {shlex.quote(str(args.output))}"
    print(f"{args.output}: {bundle.manifest.name} for {args.board}; build it with: {building}")
    if kept:
        print(f"{args.output / PORT} is not one that is written here: it was kept, --port {args.port} did not touch it")
    rows = [("", "planned bytes", "present", "of which")]
    guard = guard_of(bundle) if image.lessons is not None else None
    for what, parts in room(image, guard, board).items():
        told = ", ".join(f"{part} {size:,}" for part, size in parts.items())
        rows.append((what, f"{sum(parts.values()):,}", f"{board.bytes[what]:,}", told))
    print("\n".join(columns(rows)))
    if image.lessons is None and learns(bundle.manifest) and not args.frozen:
        print(f"it answers and does not learn, C has no form of its lessons; {numpy_lessons(bundle.manifest)}")
    return 0
