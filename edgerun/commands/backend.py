"""The option by which a command is told who computes."""

from __future__ import annotations

import argparse

from edgerun.kernels.native import BACKENDS


def backend_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        help="C kernels, or numpy: the same bits (default: EDGERUN_BACKEND, else C where it was built)",
    )
