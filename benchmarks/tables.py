"""Tables of results, and pages of which a command rewrites its own part only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Table:
    title: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def markdown(self, before: str = "") -> str:
        """Heading, what is said before the table, and the table; without a title, what is said and the table."""
        above = [f"## {self.title}" if self.title else "", before]
        lines = [line for text in above if text for line in (text, "")]
        lines += [f"| {' | '.join(self.heads)} |", f"|{'---|' * len(self.heads)}"]
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in self.rows), ""])


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation of shares, in percent."""
    deviation = f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.2f}{deviation}"


def write_section(page: Path, name: str, text: str) -> None:
    """Put text between `<!-- name -->` and `<!-- end of name -->`. Raises ValueError where it has none."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    old = page.read_text(encoding="utf-8")
    found = re.search(f"{re.escape(begin)}.*?{re.escape(end)}", old, re.DOTALL)
    if found is None:
        raise ValueError(f"{page} has no section between {begin} and {end}")
    page.write_text(f"{old[: found.start()]}{begin}\n{text.strip()}\n{end}{old[found.end() :]}", encoding="utf-8")
