"""What a Linux machine says of its own power, heat, memory and battery. A missing file is a missing capability.

Order of trust for power: INA2xx and INA3221 sensors (hwmon), then the processor's RAPL counters (only a part of the
board), then a discharging battery. Where none is there, power is the estimate: sleep power and the priced acts.
Everything is read under `root`, found by name and never by number, and opened anew each time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgerun.boards import Board
from edgerun.ports import Clock
from edgerun.spec import Reading, Readings

DAY_S: Final = 86400.0
INA2XX: Final = frozenset({"ina209", "ina219", "ina220", "ina226", "ina230", "ina231", "ina233", "ina237", "ina238"})
INPUT_RAILS: Final = ("VDD_IN", "VIN_SYS_5V0", "POM_5V_IN")  # INA3221 labels of a whole board's input
SENSOR_UNCERTAINTY: Final = 0.02  # shunt and gain error of an INA part, relative
RAPL_UNCERTAINTY: Final = 0.3  # it sees the processor, not the board
BATTERY_UNCERTAINTY: Final = 0.1


class SysRoot:
    """Files of /sys and /proc under a root; None wherever one is missing, unreadable or not what it should be."""

    def __init__(self, root: str | Path = "/") -> None:
        self._root = Path(root)

    def text(self, path: str) -> str | None:
        try:
            return (self._root / path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def number(self, path: str) -> float | None:
        text = self.text(path)
        try:
            value = math.nan if text is None else float(text)
        except ValueError:
            return None
        return value if math.isfinite(value) else None

    def folders(self, path: str, prefix: str = "") -> list[str]:
        """Paths of the entries of a folder whose name begins so, sorted."""
        try:
            return [f"{path}/{name}" for name in sorted(os.listdir(self._root / path)) if name.startswith(prefix)]
        except OSError:
            return []


# ------------------------------------------------------------------ sensors of power


def ina_mw(sys: SysRoot) -> float | None:
    """Sum over INA sensors in mW: power1_input (uW) or bus mV * mA; of an INA3221 its board input, else all rails."""
    found = [mw for chip in sys.folders("sys/class/hwmon", "hwmon") for mw in _ina_chip_mw(sys, chip)]
    return math.fsum(found) if found else None


def _ina_chip_mw(sys: SysRoot, chip: str) -> Iterator[float]:
    name = sys.text(f"{chip}/name")
    if name in INA2XX:
        power_uw = sys.number(f"{chip}/power1_input")
        mw = _volts_amperes_mw(sys, chip, 1) if power_uw is None else power_uw / 1e3
        if mw is not None:
            yield max(0.0, mw)  # a negative one is noise around nothing, or a charging current: not spent
    elif name == "ina3221":
        rails = {sys.text(f"{chip}/in{i}_label") or f"rail {i}": _volts_amperes_mw(sys, chip, i) for i in (1, 2, 3)}
        whole = [label for label in INPUT_RAILS if rails.get(label) is not None]
        for label in whole[:1] or rails:
            mw = rails[label]
            if mw is not None:
                yield max(0.0, mw)


def _volts_amperes_mw(sys: SysRoot, chip: str, rail: int) -> float | None:
    """Bus voltage (mV) times current (mA) of a rail: uW."""
    millivolt, milliampere = sys.number(f"{chip}/in{rail}_input"), sys.number(f"{chip}/curr{rail}_input")
    return None if millivolt is None or milliampere is None else millivolt * milliampere / 1e3


class Rapl:
    """Energy counters of the processor packages. They wrap at `max_energy_range_uj`; subzones are parts, not added."""

    def __init__(self, sys: SysRoot) -> None:
        self._sys = sys
        self._last = self._counters()

    def _counters(self) -> dict[str, float]:
        zones = [zone for zone in self._sys.folders("sys/class/powercap", "intel-rapl:") if zone.count(":") == 1]
        counts = {zone: self._sys.number(f"{zone}/energy_uj") for zone in zones}
        return {zone: count for zone, count in counts.items() if count is not None}

    def energy_uj(self) -> float | None:
        """Energy since the last call (or since this object was made); None where there is no counter to read."""
        now, last = self._counters(), self._last
        self._last = now
        if not now:
            return None
        steps = [(zone, count - last[zone]) for zone, count in now.items() if zone in last]
        return math.fsum(step if step >= 0 else step + self._range_uj(zone) for zone, step in steps)

    def _range_uj(self, zone: str) -> float:
        return self._sys.number(f"{zone}/max_energy_range_uj") or 2.0**32


def battery(sys: SysRoot) -> tuple[float | None, float | None]:
    """(share of charge, discharge power in mW) of the first battery; each None where it does not say."""
    for supply in sys.folders("sys/class/power_supply"):
        if sys.text(f"{supply}/type") != "Battery":
            continue
        percent, uw = sys.number(f"{supply}/capacity"), sys.number(f"{supply}/power_now")
        if uw is None:
            uv, ua = sys.number(f"{supply}/voltage_now"), sys.number(f"{supply}/current_now")
            uw = None if uv is None or ua is None else uv * ua / 1e6
        draining = sys.text(f"{supply}/status") == "Discharging"
        share = None if percent is None else min(1.0, max(0.0, percent / 100))
        return share, abs(uw) / 1e3 if uw is not None and draining else None
    return None, None


# ------------------------------------------------------------------ heat, memory, processor


def temperature_c(sys: SysRoot) -> float | None:
    """The hottest thermal zone that reports something a board can have, -50 to 200 C."""
    zones = [sys.number(f"{zone}/temp") for zone in sys.folders("sys/class/thermal", "thermal_zone")]
    likely = [milli / 1e3 for milli in zones if milli is not None and -50e3 <= milli <= 200e3]
    return max(likely, default=None)


def resident_kb(sys: SysRoot) -> float | None:
    """Resident memory of this process: the second field of /proc/self/statm, in pages."""
    fields = (sys.text("proc/self/statm") or "").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1024 if len(fields) > 1 and fields[1].isdigit() else None


def cpu_s(sys: SysRoot) -> float | None:
    """Processor time of this process: fields 14 and 15 of /proc/self/stat, in ticks, after the name in brackets."""
    fields = (sys.text("proc/self/stat") or "").rpartition(")")[2].split()
    if len(fields) < 13 or not (fields[11].isdigit() and fields[12].isdigit()):
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def written_bytes(sys: SysRoot) -> int | None:
    """Bytes that this process has sent to storage: `write_bytes` of /proc/self/io."""
    for line in (sys.text("proc/self/io") or "").splitlines():
        name, _, value = line.partition(":")
        if name == "write_bytes" and value.strip().isdigit():
            return int(value)
    return None


def memory_limit_kb(sys: SysRoot) -> float | None:
    """The control group's memory limit, the smallest up the tree: `memory.max` of version 2, or version 1's file."""
    groups = [line.split(":", 2) for line in (sys.text("proc/self/cgroup") or "").splitlines() if line.count(":") >= 2]
    limits: list[float | None] = []
    for number, controllers, path in groups:
        parts = [part for part in path.split("/") if part and part != ".."]
        paths = ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]
        if number == "0" and not controllers:
            limits += [sys.number(f"sys/fs/cgroup/{place}/memory.max") for place in paths]
        elif "memory" in controllers.split(","):
            limits += [sys.number(f"sys/fs/cgroup/memory/{place}/memory.limit_in_bytes") for place in paths]
    real = [limit / 1024 for limit in limits if limit is not None and limit < 2.0**60]
    return min(real, default=None)


# ------------------------------------------------------------------ the port


class LinuxPower:
    """`ports.Power` of a real machine: what it measures, and what its acts are priced at where it measures nothing."""

    def __init__(self, board: Board, clock: Clock, root: str | Path = "/") -> None:
        self.board, self.sys = board, SysRoot(root)
        self._clock, self._rapl = clock, Rapl(self.sys)
        self._now_s = clock.device_s()
        self._acts_uj = 0.0  # priced acts since the last reading
        self._today_j = 0.0
        self._written_at_midnight = written_bytes(self.sys)
        self._cpu_s = cpu_s(self.sys)

    def spend(self, act: str, energy_uj: float, busy_us: float) -> None:
        self._acts_uj += energy_uj

    def capabilities(self) -> dict[str, bool]:
        """What this machine can say of itself, for `edgerun doctor`."""
        share, discharge = battery(self.sys)
        return {
            "ina power sensor": ina_mw(self.sys) is not None,
            "rapl counters": Rapl(self.sys).energy_uj() is not None,
            "battery": share is not None,
            "battery power": discharge is not None,
            "temperature": temperature_c(self.sys) is not None,
            "resident memory": resident_kb(self.sys) is not None,
            "processor time": cpu_s(self.sys) is not None,
            "bytes written": written_bytes(self.sys) is not None,
            "memory limit": memory_limit_kb(self.sys) is not None,
        }

    def readings(self) -> Readings:
        now_s = self._clock.device_s()
        elapsed_s = now_s - self._now_s
        power = self._power(elapsed_s)
        share, _ = battery(self.sys)
        cpu = self._cpu_share(elapsed_s)
        if math.floor(now_s / DAY_S) != math.floor(self._now_s / DAY_S):
            self._written_at_midnight = written_bytes(self.sys)
            self._today_j = power.value * (now_s % DAY_S) / 1e3
        else:
            self._today_j += power.value * elapsed_s / 1e3
        self._now_s, self._acts_uj = now_s, 0.0
        return Readings(
            now_s=now_s,
            power_mw=power,
            temperature_c=_measured(temperature_c(self.sys)),
            ram_kb=_measured(resident_kb(self.sys)),
            cpu_share=_measured(cpu),
            battery_share=_measured(share),
            flash_mb_today=self._flash_mb(),
            energy_j_today=self._today_j,
        )

    def _power(self, elapsed_s: float) -> Reading:
        counted_uj = self._rapl.energy_uj()
        if (mw := ina_mw(self.sys)) is not None:
            return Reading(value=mw, source="measured", uncertainty=SENSOR_UNCERTAINTY)
        if counted_uj is not None and elapsed_s > 0:
            return Reading(value=counted_uj / elapsed_s / 1e3, source="measured", uncertainty=RAPL_UNCERTAINTY)
        _, discharge_mw = battery(self.sys)
        if discharge_mw is not None:
            return Reading(value=discharge_mw, source="measured", uncertainty=BATTERY_UNCERTAINTY)
        mw = self.board.sleep_mw + (self._acts_uj / elapsed_s / 1e3 if elapsed_s > 0 else 0.0)
        return Reading(value=mw, source="estimated", uncertainty=self.board.power_uncertainty)

    def _cpu_share(self, elapsed_s: float) -> float | None:
        """Processor time of this process over elapsed time: 1 is one core at work."""
        before, self._cpu_s = self._cpu_s, cpu_s(self.sys)
        if before is None or self._cpu_s is None or elapsed_s <= 0:
            return None
        return max(0.0, self._cpu_s - before) / elapsed_s

    def _flash_mb(self) -> float:
        written = written_bytes(self.sys)
        if written is None or self._written_at_midnight is None:
            return 0.0
        return max(0, written - self._written_at_midnight) / 1e6


def _measured(value: float | None) -> Reading | None:
    return None if value is None else Reading(value=value, source="measured")
