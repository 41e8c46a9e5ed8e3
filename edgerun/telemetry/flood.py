"""What keeps a flood from the memory, the flash and the time of a device: a bucket of tokens, a bounded inbox."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from edgerun.telemetry.link import Incoming

WAITING: Final = 256  # commands that wait for their turn
WAITING_BYTES: Final = 2 << 20
TURNS: Final = 16  # of them are looked at in one poll: a cycle stays as short as it was


class Bucket:
    """So many at once, then so many a second of `now_s`."""

    def __init__(self, size: int, per_s: float, now_s: Callable[[], float]) -> None:
        self._size, self._per_s, self._now_s = size, per_s, now_s
        self._tokens, self._since_s = float(size), now_s()

    def take(self) -> bool:
        """Take one token; False where there is none."""
        now_s = self._now_s()
        self._tokens = min(self._size, self._tokens + self._per_s * (now_s - self._since_s))
        self._since_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Inbox:
    """Commands in the order in which they came; what does not fit is dropped and counted."""

    def __init__(self) -> None:
        self._waiting: deque[Incoming] = deque()
        self._bytes = 0
        self.dropped = 0

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
