"""Plain text for people: aligned columns, and nothing from a file that a terminal would obey."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgerun.errors import one_line

INDENT = "  "


def columns(rows: Iterable[Sequence[object]]) -> list[str]:
    """Rows of cells as lines with aligned columns; columns of whole numbers to the right, all others to the left."""
    table = [[one_line(str(cell)) for cell in row] for row in rows]
    aligned = [_align(column) for column in zip(*table, strict=True)]
    return [INDENT + INDENT.join(line).rstrip() for line in zip(*aligned, strict=True)]


def _align(column: Sequence[str]) -> list[str]:
    width = max(map(len, column))
    _title, *cells = column
    if any(cells) and all(not cell or cell.replace(",", "").isdigit() for cell in cells):
        return [cell.rjust(width) for cell in column]
    return [cell.ljust(width) for cell in column]
