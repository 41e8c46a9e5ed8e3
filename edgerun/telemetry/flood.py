"""A bounded inbox: what keeps a flood of commands from the memory and the time of a device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from edgerun.telemetry.link import Incoming

WAITING: Final = 256  # commands that wait for their turn
WAITING_BYTES: Final = 2 << 20
TURNS: Final = 16  # of them, at the most, are looked at in one poll
TURN_S: Final = 0.01  # or as many as begin in this time: each that is taken is a write to the flash


class Inbox:
    """Commands in the order in which they came; what does not fit is dropped and counted."""

    def __init__(self) -> None:
        self._waiting: deque[Incoming] = deque()
        self._bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, message: Incoming) -> None:
        size = len(message.topic) + len(message.payload)
        if len(self._waiting) >= WAITING or self._bytes + size > WAITING_BYTES:
            self.dropped += 1
            return
        self._waiting.append(message)
        self._bytes += size

    def take(self) -> Iterator[Incoming]:
        """Those whose turn it is."""
        for _ in range(min(TURNS, len(self._waiting))):
            message = self._waiting.popleft()
            self._bytes -= len(message.topic) + len(message.payload)
            yield message
