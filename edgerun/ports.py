"""What the agent needs from the world, as small interfaces: `edgerun.linux` has real ones, `firmware_sim` pretend ones.

Nothing above this line of the house opens a file, reads a clock or touches a sensor by any other way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edgerun.arrays import AnyArray
from edgerun.spec import Readings


class Clock(Protocol):
    """Two clocks: the wall for people, device time for everything that must not jump."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970; may jump when the network sets it."""
        ...

    def device_s(self) -> float:
        """Seconds of device time: monotone, never jumps, goes on while the device sleeps."""
        ...

    def sleep_until(self, device_s: float) -> None:
        """Rest until that device time; returns at once if it has passed."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading of the sensor. `label` or `target` is set only where the recording itself supervises (never at
    inference)."""

    x: AnyArray
    label: str | None = None
    target: AnyArray | None = None  # values, as `encode.targets.wire_target` takes them


class Sensor(Protocol):
    """Where samples come from."""

    def read(self) -> Sample | None:
        """The newest sample, or None when there is none this time; raises StopIteration when a recording ends."""
        ...


class Power(Protocol):
    """The board's energy: what it says of itself, and, on a pretend board, what every act costs it."""

    def readings(self) -> Readings: ...

    def spend(self, act: str, energy_uj: float, busy_us: float) -> None:
        """Tell the board of an act that the agent has just done. A real board measures for itself and ignores it."""
        ...


class Disk(Protocol):
    """A directory that survives. Paths are relative, with forward slashes; parent folders are made as needed.

    Nothing is durable before `sync` (the bytes of a file) and `sync_dir` (its name) have returned. Every call that
    changes something counts as one write for the flash budget and for a power cut at the n-th write.
    """

    def read(self, path: str) -> bytes | None:
        """The whole file, or None if there is none."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Create or replace the file's content in place (not atomic)."""
        ...

    def append(self, path: str, data: bytes) -> None: ...

    def truncate(self, path: str, length: int) -> None: ...

    def sync(self, path: str) -> None: ...

    def sync_dir(self, path: str) -> None: ...

    def rename(self, old: str, new: str) -> None:
        """Atomic replacement, durable after `sync_dir` of the folder."""
        ...

    def remove(self, path: str) -> None:
        """Does nothing if there is no such file."""
        ...

    def list(self, path: str) -> list[str]:
        """Sorted names of the files and folders in a folder; empty if there is none."""
        ...

    def size(self, path: str) -> int | None: ...

    @property
    def bytes_written(self) -> int:
        """Bytes handed to the flash since this object was made."""
        ...
