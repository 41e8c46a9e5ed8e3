"""A graph drawn beside its rows of text: one lane for each value that is still to be read.

●      input
●      conv
├─╮    (conv is read again later)
│ ●    branch
├─╯    (both are read together)
●      add
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Node(NamedTuple):
    """One row of text and the earlier rows that it reads."""

    name: str
    sources: tuple[str, ...]


class Line(NamedTuple):
    """What to print before a row's text; `name` is empty where only lanes turn."""

    art: str
    name: str


def draw(nodes: Sequence[Node]) -> list[Line]:
    """The lines of a graph whose nodes stand in running order, every source before its reader."""
    readers = {node.name: 0 for node in nodes}
    for node in nodes:
        for source in set(node.sources):
            readers[source] += 1
    lanes: list[str | None] = []
    lines: list[Line] = []
    for node in nodes:
        for source in set(node.sources):
            readers[source] -= 1
        used = sorted(lanes.index(source) for source in set(node.sources))
        done = [k for k in used if not readers[lanes[k] or ""]]
        home = done[0] if done else _free(lanes)
        if [k for k in used if k != home]:
            lines.append(Line(_turn(lanes, home, used, done), ""))
        for k in done:
            lanes[k] = None
        lanes[home] = node.name
        art = " ".join("●" if k == home else "│" if lane else " " for k, lane in enumerate(lanes))
        lines.append(Line(art.rstrip(), node.name))
        if not readers[node.name]:
            lanes[home] = None
        while lanes and lanes[-1] is None:
            lanes.pop()
    return lines


def _free(lanes: list[str | None]) -> int:
    """The first lane that holds nothing, a new one if need be."""
    if None not in lanes:
        lanes.append(None)
    return lanes.index(None)


def _turn(lanes: Sequence[str | None], home: int, used: Sequence[int], done: Sequence[int]) -> str:
    """The line on which every used lane sends a branch to the lane `home`."""
    ends = {home, *used}
    first, last = min(ends), max(ends)
    cells = []
    for k, lane in enumerate(lanes):
        if k not in ends:
            cells.append("│" if lane else "─" if first < k < last else " ")
        elif (k == home and k in used) or (k in used and k not in done):
            cells.append("├" if k == first else "┤" if k == last else "┼")
        else:
            cells.append(_corner(k == first, k == last, starts=k == home and k not in used))
    return "".join(cell + ("─" if first <= k < last else " ") for k, cell in enumerate(cells)).rstrip()


def _corner(first: bool, last: bool, *, starts: bool) -> str:
    """Where a lane begins (below this line) or ends (above it)."""
    if starts:
        return "╭" if first else "╮" if last else "┬"
    return "╰" if first else "╯" if last else "┴"
