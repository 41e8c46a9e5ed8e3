"""A clock that moves only when the device rests or works: a simulated day takes as long as its acts take to compute."""

from __future__ import annotations

from edgerun.errors import Refused


class VirtualClock:
    """`ports.Clock` in virtual time. Wall time = epoch + device time + every jump so far."""

    def __init__(self, *, epoch_ms: int = 1_780_000_000_000, start_s: float = 0.0) -> None:
        self._epoch_ms = epoch_ms
        self._device_s = start_s

    def device_s(self) -> float:
        return self._device_s

    def wall_ms(self) -> int:
        return self._epoch_ms + round(self._device_s * 1e3)

    def sleep_until(self, device_s: float) -> None:
        self._device_s = max(self._device_s, device_s)

    def work(self, busy_us: float) -> None:
        """The device is busy for so long. Raises Refused for a time that is not in [0, inf)."""
        if not 0 <= busy_us < float("inf"):
            raise Refused(f"busy_us {busy_us} is not in [0, inf)")
        self._device_s += busy_us / 1e6

    def jump_wall(self, by_s: float) -> None:
        """The network sets the wall clock forwards or back; device time knows nothing of it."""
        self._epoch_ms += round(by_s * 1e3)
