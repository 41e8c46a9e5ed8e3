"""A bucket of tokens: so many at once, then so many a second."""

from __future__ import annotations

from collections.abc import Callable


class Bucket:
    """Full at first; `now_s` is a clock that does not jump back."""

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
