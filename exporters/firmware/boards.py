"""Boards that a project can be written for: their compiler flags, memory and ticks."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from edgerun.errors import Refused

KIB: Final = 1 << 10


@dataclass(frozen=True, slots=True)
class FirmwareBoard:
    """Where program and memory lie, and how fast `port_ticks` counts."""

    name: str
    cpu: str  # of gcc's -mcpu
    flash: tuple[int, int]  # origin, bytes
    ram: tuple[int, int]
    tick_hz: int
    page: int = 256  # bytes that a write of flash programs at once

    @property
    def bytes(self) -> dict[str, int]:
        """Of RAM and of flash."""
        return {"RAM": self.ram[1], "flash": self.flash[1]}


BOARDS: Final = MappingProxyType(
    {
        board.name: board
        for board in (
            FirmwareBoard("mps2-an385", "cortex-m3", (0, 4096 * KIB), (0x20000000, 4096 * KIB), 25_000_000),
            FirmwareBoard("mps2-an386", "cortex-m4", (0, 4096 * KIB), (0x20000000, 4096 * KIB), 25_000_000),
            FirmwareBoard("mps2-an500", "cortex-m7", (0, 4096 * KIB), (0x20000000, 4096 * KIB), 25_000_000),
            FirmwareBoard("mps3-an547", "cortex-m55", (0, 512 * KIB), (0x20000000, 512 * KIB), 32_000_000),
            FirmwareBoard("netduinoplus2", "cortex-m4", (0x08000000, 1024 * KIB), (0x20000000, 128 * KIB), 168_000_000),
        )
    }
)


def firmware_board(name: str) -> FirmwareBoard:
    """Raises Refused, listing the names, when no project can be written for it."""
    try:
        return BOARDS[name]
    except KeyError:
        raise Refused(f"board {name!r} has no firmware: expected one of {', '.join(BOARDS)}") from None
