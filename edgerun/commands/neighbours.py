"""What commands ask of neighbours of this package, found by entry points so that nothing here imports them.

edgerun.runners   objects with the methods of `Runner`: they run a bundle on a board that is not this machine
edgerun.tools     what neighbours do for each other, by name
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final, Protocol

from edgerun.arrays import F64, I16, I32, Tensors
from edgerun.bundle import Bundle
from edgerun.errors import Refused
from edgerun.spec import Level

RUNNERS: Final = "edgerun.runners"
TOOLS: Final = "edgerun.tools"


@dataclass(frozen=True, slots=True)
class Ran:
    """What samples came to on a board.

    scores        (n, k)  int32
    instructions  (n,)    float64  of each inference, counted by the board's own ticks
    """

    scores: I32
    instructions: F64


@dataclass(frozen=True, slots=True)
class Told:
    """A lesson for a board: a label, or values.    q (size,) int16   target int16"""

    q: I16
    label: int
    level: Level
    joins: bool = False  # whether its class is a new one
    target: I16 | None = None
    sample: int = 0  # its number on the stream, 0 for what is taught on purpose


@dataclass(frozen=True, slots=True)
class Schooled:
    """What lessons came to on a board: its answers before and after them, and all that it has learned.

    updates       of each lesson
    instructions  (lessons,)  float64  of each lesson
    arrays, meta  the learned state, as `Learner.load` takes it; of meta what no list of names is, and `known` classes
    good          the guard's verdict on all lessons; after a bad one the board is where it was before them
    """

    before: Ran
    after: Ran
    updates: tuple[int, ...]
    instructions: F64
    arrays: Tensors
    meta: Mapping[str, int]
    good: bool


class Runner(Protocol):
    """Runs bundles on boards. Raises Refused where something on this machine is missing, one line that says what."""

    boards: Sequence[str]

    def infer(self, bundle: Bundle, board: str, q: I16) -> Ran:
        """Answers to quantised samples q (n, size)."""
        ...

    def teach(self, bundle: Bundle, board: str, asked: I16, lessons: Sequence[Told]) -> Schooled:
        """Lessons, prototypes settled and the guard asked behind them, and answers to `asked` (n, size) before and
        after. Raises Refused where the firmware cannot learn this bundle."""
        ...


def runs(board: str) -> bool:
    """Whether there is a runner for a board."""
    return board in runnable()


def runnable() -> list[str]:
    """Every board that there is a runner for."""
    return [board for each in runners() for board in each.boards]


def runners() -> Iterator[Runner]:
    """Every runner that is installed."""
    for point in metadata.entry_points(group=RUNNERS):
        yield point.load()


def runner(board: str) -> Runner:
    """Who runs a board. Raises Refused, naming the boards that can be run."""
    for each in runners():
        if board in each.boards:
            return each
    raise Refused(f"board {board!r} cannot be run here: expected one of {', '.join(runnable()) or 'none'}")


def tool(name: str) -> Callable[..., Any]:
    """A neighbour's service. Raises Refused where the neighbour is not installed."""
    for point in metadata.entry_points(group=TOOLS, name=name):
        found: Callable[..., Any] = point.load()
        return found
    raise Refused(f"no package here offers {name!r}")
