"""`edgerun report`: what a run of learning came to, as one HTML page that needs nothing else.

RUNS.json              a benchmark's runs: arms beside each other, what each kept of every task, what it cost
STATE_DIR  --bundle    a device's life: its journal is replayed, and everything learned is looked at on the way
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgerun.boards import BOARDS, get_board
from edgerun.bundle import open_bundle
from edgerun.commands.replay import Teller, open_state
from edgerun.errors import EdgeRunError, Refused
from edgerun.network import Network
from edgerun.selftest import check_selftest
from exporters import life, life_page, runs_page
from exporters.runs import read_runs


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", type=Path, metavar="RUNS.json|STATE_DIR", help="runs of a benchmark, or the state folder of a device"
    )
    parser.add_argument("--bundle", metavar="FILE", help="the bundle that the device learned on, *.edgb")
    parser.add_argument(
        "--board", default="pico2", metavar="NAME", help=f"whose energy is reckoned with: {', '.join(BOARDS)}"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PAGE.html", help="the page to write")
    parser.epilog = (
        "examples:\n  edgerun report build/learning/split_mnist.json -o split_mnist.html\n"
        "  edgerun report /var/lib/edgerun --bundle digits.edgb -o life.html"
    )


def run(args: argparse.Namespace) -> int:
    """0, or 1 where the replay differs from what the device says of itself: the page is written all the same.

    Raises Refused, with nothing written, for what is neither runs nor a journal of this bundle.
    """
    page, equal = of_device(args) if args.run.is_dir() else (of_benchmark(args), True)
    args.output.write_text(page, encoding="utf-8")
    print(f"{args.output}: {len(page.encode()) / 1024:,.0f} KB")
    return 0 if equal else EdgeRunError.exit_code


def of_benchmark(args: argparse.Namespace) -> str:
    if args.bundle:
        raise Refused(f"--bundle goes with a device's state folder, {args.run} is none")
    return runs_page.page(read_runs(args.run))


def of_device(args: argparse.Namespace) -> tuple[str, bool]:
    """The page, and whether every digest on the way was equal."""
    if not args.bundle:
        raise Refused(f"{args.run} is a device's state folder: --bundle must name the bundle that it learned on")
    board, bundle = get_board(args.board), open_bundle(args.bundle)
    disk = open_state(args.run, bundle)
    check_selftest(Network(bundle.manifest, bundle.tensors), bundle.selftest)
    lived = life.relive(bundle, disk, board, Teller())
    return life_page.page(lived), lived.replayed.digest_equal
