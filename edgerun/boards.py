"""The boards we know: memory, flash, clock, power, and what one counted operation costs on each.

    energy of an act = sum over kinds of count * energy_nj        on top of the board's sleep power
    time of an act   = sum over kinds of count * busy_ns

A core's coefficients are cycles per operation, so that energy = cycles / clock * (active power - sleep power) and
time = cycles / clock. Every figure is an estimate: it carries its source and a relative standard deviation, and none
was measured on the board itself. `docs/boards.md` tells how each was derived.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from edgerun.errors import Refused
from edgerun.spec import Name, Record

Tally: TypeAlias = Annotated[int, Meta(ge=0)]
Positive: TypeAlias = Annotated[float, Meta(gt=0)]


class Ops(Record, frozen=True, kw_only=True):
    """What an act does, counted. Counts add: `Ops.total([a, b])`, and scale: `a.times(20)`."""

    dense_macs: Tally = 0  # int8 multiply-accumulates of dense layers and prototype scores
    synaptic_ops: Tally = 0  # one weight added to one membrane because of a spike
    neuron_updates: Tally = 0  # one neuron, one tick: leak, compare, reset; while learning, its traces too
    outer_macs: Tally = 0  # trace * post products summed over time by deferred e-prop
    plastic_updates: Tally = 0  # one synapse written once: e-prop step, SI pull and credit, stochastic rounding
    bytes_moved: Tally = 0  # copies that no kernel above already counts
    array_calls: Tally = 0  # calls into numpy; 0 for firmware
    messages: Tally = 0  # telemetry messages of about 300 bytes
    flash_bytes: Tally = 0  # bytes programmed, their share of an erase included

    def times(self, n: int) -> Ops:
        return Ops(**{kind: n * getattr(self, kind) for kind in KINDS})

    @staticmethod
    def total(parts: list[Ops]) -> Ops:
        return Ops(**{kind: sum(getattr(part, kind) for part in parts) for kind in KINDS})


KINDS: Final = Ops.__struct_fields__


class Coefficient(Record, frozen=True, kw_only=True):
    """The cost of one operation of a kind, above sleep power."""

    energy_nj: Annotated[float, Meta(ge=0)]
    busy_ns: Annotated[float, Meta(ge=0)]
    uncertainty: Annotated[float, Meta(ge=0)]  # one standard deviation, relative
    source: str


class Core(Record, frozen=True, kw_only=True):
    """Cycles per operation of a core, and where they come from."""

    source: str
    uncertainty: float
    dense_macs: float
    synaptic_ops: float
    neuron_updates: float
    outer_macs: float
    plastic_updates: float
    bytes_moved: float
    array_calls: float


class Board(Record, frozen=True, kw_only=True):
    """One board. `active_mw` is one core at work, `sleep_mw` is all that it draws while the agent rests."""

    name: Name
    device_class: Name  # a bundle for another class is refused
    cpu: str
    ram_bytes: Annotated[int, Meta(gt=0)]
    flash_bytes: Annotated[int, Meta(gt=0)]
    flash_page: Annotated[int, Meta(gt=0)]  # bytes programmed at a time
    endurance_cycles: Annotated[int, Meta(gt=0)]  # erases that a block survives
    clock_hz: Annotated[int, Meta(gt=0)]
    sleep_mw: Positive
    active_mw: Positive
    power_source: str
    power_uncertainty: Annotated[float, Meta(ge=0)]
    thermal_k_per_w: Positive  # die above ambient, at rest
    thermal_tau_s: Positive
    core: Core
    message: Coefficient
    flash: Coefficient

    def coefficient(self, kind: str) -> Coefficient:
        """energy_nj = cycles / clock_hz * (active_mw - sleep_mw) * 1e6, busy_ns = cycles / clock_hz * 1e9."""
        if kind == "messages":
            return self.message
        if kind == "flash_bytes":
            return self.flash
        seconds = getattr(self.core, kind) / self.clock_hz
        return Coefficient(
            energy_nj=seconds * (self.active_mw - self.sleep_mw) * 1e6,
            busy_ns=seconds * 1e9,
            uncertainty=self.core.uncertainty,
            source=self.core.source,
        )


_CORTEX_M = Core(
    source="Cortex-M4 instructions counted in QEMU for the C kernels, times 1.2 to 1.6 cycles each; "
    "plastic updates counted from docs/arithmetic.md",
    uncertainty=0.5,
    dense_macs=5.0,
    synaptic_ops=7.0,
    neuron_updates=50.0,
    outer_macs=1.9,
    plastic_updates=140.0,
    bytes_moved=1.0,
    array_calls=0.0,
)
_A53 = Core(
    source="numpy timed on x86-64 and aarch64 instruction counts, scaled to an in-order Cortex-A53",
    uncertainty=0.6,
    dense_macs=1.0,
    synaptic_ops=6.0,
    neuron_updates=10.0,
    outer_macs=0.6,
    plastic_updates=150.0,
    bytes_moved=0.5,
    array_calls=4000.0,
)
_A72 = Core(
    source="numpy timed on x86-64 and aarch64 instruction counts, scaled to a Cortex-A72",
    uncertainty=0.5,
    dense_macs=0.5,
    synaptic_ops=4.0,
    neuron_updates=6.0,
    outer_macs=0.3,
    plastic_updates=80.0,
    bytes_moved=0.3,
    array_calls=3000.0,
)
_A76 = Core(
    source="numpy timed on x86-64 and aarch64 instruction counts, scaled to a Cortex-A76",
    uncertainty=0.5,
    dense_macs=0.3,
    synaptic_ops=3.0,
    neuron_updates=4.0,
    outer_macs=0.2,
    plastic_updates=50.0,
    bytes_moved=0.2,
    array_calls=2200.0,
)

_SERIAL = Coefficient(
    energy_nj=260_000,
    busy_ns=3_300_000,
    uncertainty=0.5,
    source="300 bytes over a 921,600 baud serial link to a gateway, the core awake; no radio on the board",
)
_WIFI = Coefficient(
    energy_nj=4_000_000,
    busy_ns=2_000_000,
    uncertainty=0.7,
    source="2 ms of one core for JSON and MQTT, 5 ms of Wi-Fi transmission near 700 mW; staying associated is extra",
)
_NOR = Coefficient(
    energy_nj=1_100,
    busy_ns=2_700,
    uncertainty=0.4,
    source="serial NOR of the W25Q family: 256-byte page in 0.7 ms, its share of a 45 ms 4 KiB erase done at rest",
)
_INTERNAL_FLASH = Coefficient(
    energy_nj=1_500,
    busy_ns=4_000,
    uncertainty=0.5,
    source="STM32F4 internal flash: 16 us a 32-bit word, its share of a sector erase done at rest",
)
_SD = Coefficient(
    energy_nj=330,
    busy_ns=1_000,
    uncertainty=1.0,
    source="SD card near 330 mW while writing 10 MB/s, ten times amplified by small synchronised writes",
)


_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30

BOARDS: Final = MappingProxyType(
    {
        board.name: board
        for board in (
            Board(
                name="rpi-zero-2w",
                device_class="linux",
                cpu="4 x Cortex-A53",
                ram_bytes=512 * _MIB,
                flash_bytes=16 * _GIB,
                flash_page=4096,
                endurance_cycles=1000,
                clock_hz=1_000_000_000,
                sleep_mw=600.0,
                active_mw=1000.0,
                power_source="idle 600 mW: CNX Software, 'A deep dive into Raspberry Pi Zero 2 W's power consumption' "
                "(2021); one busy core: Mechatronics Lab, 'Power Consumption Raspberry Pi', average load",
                power_uncertainty=0.25,
                thermal_k_per_w=22.0,
                thermal_tau_s=120.0,
                core=_A53,
                message=_WIFI,
                flash=_SD,
            ),
            Board(
                name="rpi-4b",
                device_class="linux",
                cpu="4 x Cortex-A72",
                ram_bytes=4 * _GIB,
                flash_bytes=16 * _GIB,
                flash_page=4096,
                endurance_cycles=1000,
                clock_hz=1_500_000_000,
                sleep_mw=2700.0,
                active_mw=3650.0,
                power_source="540 mA idle and 1280 mA with four busy cores at 5 V, published measurements; one core: a "
                "quarter of the difference",
                power_uncertainty=0.25,
                thermal_k_per_w=11.0,
                thermal_tau_s=180.0,
                core=_A72,
                message=_WIFI,
                flash=_SD,
            ),
            Board(
                name="rpi-5",
                device_class="linux",
                cpu="4 x Cortex-A76",
                ram_bytes=4 * _GIB,
                flash_bytes=16 * _GIB,
                flash_page=4096,
                endurance_cycles=1000,
                clock_hz=2_400_000_000,
                sleep_mw=2800.0,
                active_mw=4000.0,
                power_source="about 2.8 W idle and 7 to 8 W with four busy cores, general knowledge, not re-read; one "
                "core: a quarter of the difference",
                power_uncertainty=0.4,
                thermal_k_per_w=10.0,
                thermal_tau_s=180.0,
                core=_A76,
                message=_WIFI,
                flash=_SD,
            ),
            Board(
                name="pico2",
                device_class="mcu",
                cpu="Cortex-M33 (RP2350)",
                ram_bytes=520 * _KIB,
                flash_bytes=4 * _MIB,
                flash_page=256,
                endurance_cycles=100_000,
                clock_hz=150_000_000,
                sleep_mw=1.5,
                active_mw=80.0,
                power_source="80 mW awake: Jeff Geerling, 'Raspberry Pi Pico 2, with RP2350, adds more PIO, RISC-V "
                "cores' (2024); asleep between 0.15 mW (Gigazine, 50 uA at 3 V with memory off) and 4.5 mW "
                "(MicroPython light sleep of its predecessor)",
                power_uncertainty=0.5,
                thermal_k_per_w=45.0,
                thermal_tau_s=40.0,
                core=_CORTEX_M,
                message=_SERIAL,
                flash=_NOR,
            ),
            Board(
                name="nucleo-f446",
                device_class="mcu",
                cpu="Cortex-M4F (STM32F446RE)",
                ram_bytes=128 * _KIB,
                flash_bytes=512 * _KIB,
                flash_page=4,
                endurance_cycles=10_000,
                clock_hz=180_000_000,
                sleep_mw=1.0,
                active_mw=150.0,
                power_source="near 45 mA at 3.3 V and 180 MHz, stop mode plus board regulator asleep, ST-LINK "
                "unpowered: STM32F446xx datasheet DS10693, recalled, not re-read",
                power_uncertainty=0.5,
                thermal_k_per_w=46.0,
                thermal_tau_s=40.0,
                core=_CORTEX_M,
                message=_SERIAL,
                flash=_INTERNAL_FLASH,
            ),
            Board(
                name="mps2-an386",
                device_class="mcu",
                cpu="Cortex-M4 (FPGA image, as QEMU runs it)",
                ram_bytes=4 * _MIB,
                flash_bytes=4 * _MIB,
                flash_page=256,
                endurance_cycles=100_000,
                clock_hz=25_000_000,
                sleep_mw=0.5,
                active_mw=10.0,
                power_source="an FPGA prototype has no figure of its own: an imagined 25 MHz chip at 0.4 mW a MHz",
                power_uncertainty=1.0,
                thermal_k_per_w=45.0,
                thermal_tau_s=40.0,
                core=_CORTEX_M,
                message=_SERIAL,
                flash=_NOR,
            ),
        )
    }
)


def get_board(name: str) -> Board:
    """Raises Refused, listing the names, when there is no such board."""
    try:
        return BOARDS[name]
    except KeyError:
        raise Refused(f"board {name!r} is unknown: expected one of {', '.join(BOARDS)}") from None


def price(board: Board, ops: Ops) -> tuple[float, float]:
    """(energy_uj, busy_us) of an act on a board, above its sleep power."""
    parts = [(getattr(ops, kind), board.coefficient(kind)) for kind in KINDS]
    energy_nj = sum(count * cost.energy_nj for count, cost in parts)
    busy_ns = sum(count * cost.busy_ns for count, cost in parts)
    return energy_nj / 1e3, busy_ns / 1e3


CYCLES: Final = 1.4
"""Of an instruction of a Cortex-M4 that runs from memory without wait states, on average; give or take 0.2."""


def price_instructions(board: Board, count: float) -> tuple[float, float]:
    """(energy_uj, busy_us) of so many counted instructions on a controller, above its sleep power."""
    seconds = CYCLES * count / board.clock_hz
    return seconds * (board.active_mw - board.sleep_mw) * 1e3, seconds * 1e6


def uncertainty(board: Board, ops: Ops) -> float:
    """Relative standard deviation of the energy of `ops`.

    Errors of the kinds share a source, so they add in full; the error of the board's power is independent of them.
    """
    costs = {kind: board.coefficient(kind) for kind in KINDS}
    energy = sum(getattr(ops, kind) * cost.energy_nj for kind, cost in costs.items())
    spread = sum(getattr(ops, kind) * cost.energy_nj * cost.uncertainty for kind, cost in costs.items())
    return math.hypot(spread / energy if energy else 0.0, board.power_uncertainty)
