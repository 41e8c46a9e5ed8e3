"""What systemd is told and what it tells: readiness and signs of life by datagram, the end by signal."""

from __future__ import annotations

import logging
import select
import signal
import socket
from typing import Final

from edgerun.errors import ConfigError
from edgerun.linux.clock import SystemClock

log = logging.getLogger(__name__)

ENDINGS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
SLICE_S: Final = 10.0


class Notifier:
    """The protocol of sd_notify: one line a datagram to the socket whose name systemd puts into NOTIFY_SOCKET.

    address  a path, or "@name" for an abstract socket; "" = nobody listens and nothing is sent
    """

    def __init__(self, address: str) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def tell(self, line: str) -> None:
        """Send one line, such as READY=1. A listener that has gone is no reason to stop."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.sendto(line.encode(), self._address)
        except OSError as err:
            log.warning("systemd does not listen", extra={"reason": err})


def watchdog_s(microseconds: str) -> float | None:
    """WATCHDOG_USEC as seconds, None where it is empty. Raises ConfigError for anything but a positive number."""
    if not microseconds:
        return None
    if not microseconds.isdecimal() or int(microseconds) == 0:
        raise ConfigError(f"WATCHDOG_USEC {microseconds!r} is no positive number of microseconds")
    return int(microseconds) / 1e6


class ServiceClock(SystemClock):
    """The system's clocks for a loop that rests between its rounds, made on the main thread.

    A rest is the proof that a round has ended, so the watchdog is fed there and nowhere else. SIGTERM and SIGINT set
    `ending` and end a rest; they tear no round.
    """

    def __init__(self, notifier: Notifier, watchdog_s: float | None) -> None:
        self._notifier = notifier
        self._watched = watchdog_s is not None
        self._slice_s = SLICE_S if watchdog_s is None else min(SLICE_S, watchdog_s / 4)
        self._fed_s = self.device_s()
        self.ending = False
        self._wakened, self._waker = socket.socketpair()  # a signal may come to any thread: a byte here wakes ours
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in ENDINGS:
            signal.signal(number, self._end)

    def sleep_until(self, device_s: float) -> None:
        """Rest in slices: device time goes on while the machine is suspended, a wait does not."""
        while not self.ending:
            self._feed()
            left_s = device_s - self.device_s()
            if left_s <= 0:
                return
            select.select([self._wakened], [], [], min(left_s, self._slice_s))

    def _end(self, number: int, frame: object) -> None:
        self.ending = True

    def _feed(self) -> None:
        now_s = self.device_s()
        if self._watched and now_s - self._fed_s >= self._slice_s:
            self._fed_s = now_s
            self._notifier.tell("WATCHDOG=1")
