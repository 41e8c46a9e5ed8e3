"""What is done at once and costs more than a cycle has: it waits until its energy is there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from edgerun.agent.energy import Energy
from edgerun.boards import Ops
from edgerun.errors import Refused
from edgerun.telemetry.commands import Command

CHORES: Final = 16  # chores that may wait


@dataclass(frozen=True, slots=True)
class Chore:
    """Something that is done at once and only when its energy is there: `act` gives what to answer."""

    name: str
    ops: Ops
    act: Callable[[], dict[str, Any]]
    command: Command | None = None


class Chores:
    """Chores that wait for their energy, the oldest first."""

    def __init__(self, energy: Energy) -> None:
        self._energy = energy
        self._waiting: deque[Chore] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put_off(self, chore: Chore) -> None:
        """Do it as soon as its energy is there. Raises Refused where the budget's bucket can never hold so much."""
        if len(self._waiting) >= CHORES:
            raise Refused(f"{len(self._waiting)} commands wait already, which is the bound")
        self._energy.check_act(chore.name, chore.ops)
        self._waiting.append(chore)

    def add(self, chore: Chore) -> None:
        """Put off what the device itself has to do: it is never refused."""
        self._waiting.append(chore)

    def take(self) -> Chore | None:
        """The oldest chore, which waits no longer; None while its energy is not there."""
        if not self._waiting or not self._energy.covers(self._waiting[0].ops):
            return None
        return self._waiting.popleft()

    def clear(self) -> list[Command]:
        """Drop them all; returns the commands that hoped for an answer."""
        dropped = [chore.command for chore in self._waiting if chore.command is not None]
        self._waiting.clear()
        return dropped
