"""What long work is doing, on one line of a terminal that the next thing overwrites."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeAlias

Say: TypeAlias = Callable[[str], None]
"""Told what begins; the empty text when there is nothing more to say."""


def silent(words: str) -> None:
    """For programs and pipes."""


def on_terminal(words: str) -> None:
    """The newest words alone, on standard error."""
    print(f"\r\x1b[K{words}", end="", file=sys.stderr, flush=True)


def teller(*, wanted: bool) -> Say:
    return on_terminal if wanted and sys.stderr.isatty() else silent
