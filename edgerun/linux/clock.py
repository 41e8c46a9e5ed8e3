"""The real clocks of a Linux machine."""

from __future__ import annotations

import time


class SystemClock:
    """`ports.Clock`: device time goes on through suspend and is never set back; wall time is what the network says."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def device_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sleep_until(self, device_s: float) -> None:
        while (left_s := device_s - self.device_s()) > 0:
            time.sleep(min(left_s, 60.0))  # in pieces: `time.sleep` stands still while the machine is suspended
