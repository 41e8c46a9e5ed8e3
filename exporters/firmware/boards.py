"""Boards that a project can be written for: their compiler flags, memory and ticks."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from edgerun.errors import Refused

KIB: Final = 1 << 10
CMSDK: Final = ("cmsdk", 0x40004000)
POSIX: Final = ("posix", 0)
PORTS: Final = ("semihosting", "uart")
"""How frames come to a firmware and lines from it: files of a host at the debugger, or the board's serial line; a
process under Linux has its standard input and output for either."""
BARE: Final = "arm-none-eabi-"
PACKAGES: Final = MappingProxyType(
    {
        BARE: "gcc-arm-none-eabi",
        "": "gcc libc6-dev",
        "aarch64-linux-gnu-": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
        "arm-linux-gnueabihf-": "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross",
    }
)
"""Debian's packages of compilers, by how their names begin."""
LARGE: Final = (0, 512 << 20)
"""As much memory, and as much place for a program, as the smallest Raspberry Pi has."""
NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class FirmwareBoard:
    """Where program and memory lie, and how fast `port_ticks` counts."""

    name: str
    cpu: str  # of gcc's -mcpu, "" where the firmware is a process under Linux
    flash: tuple[int, int]  # origin, bytes
    ram: tuple[int, int]
    tick_hz: int
    uart: tuple[str, int]  # the port that drives its serial line, and where its registers lie
    page: int = 256  # bytes that a write of flash programs at once
    sector: int = 256  # bytes that are erased at once
    cross: str = BARE  # how the compiler's name begins

    @property
    def process(self) -> bool:
        """Whether the firmware is a program that Linux runs."""
        return not self.cpu

    def port(self, name: str) -> str:
        """The source in `c/ports` that is its port.c. Raises Refused for a port that there is not."""
        if name not in PORTS:
            raise Refused(f"port {name!r} is unknown: expected one of {', '.join(PORTS)}")
        return f"{self.uart[0] if name == 'uart' or self.process else name}.c"

    @property
    def package(self) -> str:
        """Debian's package of its compiler."""
        return PACKAGES[self.cross]

    @property
    def bytes(self) -> dict[str, int]:
        """Of RAM and of flash."""
        return {"RAM": self.ram[1], "flash": self.flash[1]}


BOARDS: Final = MappingProxyType(
    {
        board.name: board
        for board in (
            FirmwareBoard("mps2-an385", "cortex-m3", (0, 4096 * KIB), (0x20000000, 4096 * KIB), 25_000_000, CMSDK),
            FirmwareBoard("mps2-an386", "cortex-m4", (0, 4096 * KIB), (0x20000000, 4096 * KIB), 25_000_000, CMSDK),
            FirmwareBoard("mps2-an500", "cortex-m7", (0, 4096 * KIB), (0x20000000, 4096 * KIB), 25_000_000, CMSDK),
            FirmwareBoard(
                "mps3-an547", "cortex-m55", (0, 512 * KIB), (0x20000000, 512 * KIB), 32_000_000, ("cmsdk", 0x49303000)
            ),
            FirmwareBoard(
                "netduinoplus2", "cortex-m4", (0x08000000, 1024 * KIB), (0x20000000, 128 * KIB), 168_000_000,
                ("stm32f4", 0x40011000), sector=128 * KIB,
            ),
            FirmwareBoard("linux", "", LARGE, LARGE, NANOSECONDS, POSIX, cross=""),
            FirmwareBoard("linux-aarch64", "", LARGE, LARGE, NANOSECONDS, POSIX, cross="aarch64-linux-gnu-"),
            FirmwareBoard("linux-armhf", "", LARGE, LARGE, NANOSECONDS, POSIX, cross="arm-linux-gnueabihf-"),
        )
    }
)  # fmt: skip


def firmware_board(name: str) -> FirmwareBoard:
    """Raises Refused, listing the names, when no project can be written for it."""
    try:
        return BOARDS[name]
    except KeyError:
        raise Refused(f"board {name!r} has no firmware: expected one of {', '.join(BOARDS)}") from None
