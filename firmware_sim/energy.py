"""What a pretend board spends: a meter for every act, a battery with a sun above it, and a die that warms up.

energy(t) = sleep power * t + sum over acts of their energy, each spread evenly over its duration
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgerun.arrays import F64
from edgerun.boards import Board
from edgerun.errors import Refused
from edgerun.spec import Reading, Readings
from firmware_sim.clock import VirtualClock

DAY_S: Final = 86400.0
SLICE_S: Final = 300.0  # sunshine counts as constant for so long


@dataclass(frozen=True, slots=True)
class Solar:
    """A daily trace: `mw[i]` at `at_s[i]` seconds of the device's day, linear between, the last joined to the first."""

    at_s: tuple[float, ...]
    mw: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.at_s or len(self.at_s) != len(self.mw):
            raise Refused(f"solar trace has {len(self.at_s)} times for {len(self.mw)} powers")
        if list(self.at_s) != sorted(self.at_s) or not (self.at_s[0] >= 0 and self.at_s[-1] < DAY_S):
            raise Refused(f"solar times {self.at_s[0]} to {self.at_s[-1]} s are not rising inside [0, {DAY_S:.0f})")

    def power_mw(self, device_s: float) -> float:
        return float(np.interp(device_s % DAY_S, self.at_s, self.mw, period=DAY_S))


@dataclass(slots=True)
class Battery:
    """Capacity and charge in joule; charge stays in [0, capacity]. `solar` fills it, the board drains it."""

    capacity_j: float
    charge_j: float
    solar: Solar | None = None

    def step(self, from_s: float, to_s: float, load_j: float) -> None:
        sun_j = 0.0 if self.solar is None else self.solar.power_mw((from_s + to_s) / 2) * (to_s - from_s) / 1e3
        self.charge_j = min(self.capacity_j, max(0.0, self.charge_j - load_j + sun_j))

    @property
    def share(self) -> float:
        return self.charge_j / self.capacity_j


class SimPower:
    """`ports.Power` of a pretend board: integrates sleep power over elapsed time and the acts that it is told of.

    An act takes its time on the virtual clock. Every act is logged as (from, to, energy), 24 bytes each, so that
    `worst_window_mw` can check the governor without knowing how it reckons.
    """

    def __init__(
        self,
        board: Board,
        clock: VirtualClock,
        *,
        battery: Battery | None = None,
        ambient_c: float = 25.0,
        ram_kb: float | None = None,
        flash_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        """`flash_bytes` tells what the flash has been handed since it was made."""
        self.board, self.battery, self.ram_kb, self.ambient_c = board, battery, ram_kb, ambient_c
        self.temperature_c = ambient_c + board.thermal_k_per_w * board.sleep_mw / 1e3
        self.spent_uj: dict[str, float] = {}  # by act, sleep included
        self._clock, self._flash_bytes = clock, flash_bytes
        self._born_s = self._now_s = clock.device_s()
        self._from_s, self._to_s, self._energy_uj = array("d"), array("d"), array("d")
        self._today_j, self._flash_at_midnight = 0.0, flash_bytes()
        self._last_reading = (self._now_s, 0.0)

    # ---------------------------------------------------------- the port

    def spend(self, act: str, energy_uj: float, busy_us: float) -> None:
        """Raises Refused for an energy or a time that is not in [0, inf)."""
        if not 0 <= energy_uj < math.inf:
            raise Refused(f"energy_uj {energy_uj} of {act} is not in [0, inf)")
        self._pass(self._clock.device_s(), 0.0)
        begin_s = self._now_s
        self._clock.work(busy_us)
        end_s = self._clock.device_s()
        self._from_s.append(begin_s)
        self._to_s.append(end_s)
        self._energy_uj.append(energy_uj)
        self.spent_uj[act] = self.spent_uj.get(act, 0.0) + energy_uj
        if end_s > begin_s:
            self._pass(end_s, energy_uj / 1e3 / (end_s - begin_s))
        else:
            self._account(begin_s, begin_s, energy_uj / 1e6)

    def readings(self) -> Readings:
        self._pass(self._clock.device_s(), 0.0)
        since_s, since_j = self._last_reading
        elapsed_s = self._now_s - since_s
        mean_mw = (self.energy_j - since_j) / elapsed_s * 1e3 if elapsed_s > 0 else self.board.sleep_mw
        self._last_reading = (self._now_s, self.energy_j)
        return Readings(
            now_s=self._now_s,
            power_mw=Reading(value=mean_mw, source="estimated", uncertainty=self.board.power_uncertainty),
            temperature_c=Reading(value=self.temperature_c, source="estimated"),
            ram_kb=None if self.ram_kb is None else Reading(value=self.ram_kb, source="estimated"),
            battery_share=None if self.battery is None else Reading(value=self.battery.share, source="estimated"),
            flash_mb_today=(self._flash_bytes() - self._flash_at_midnight) / 1e6,
            energy_j_today=self._today_j,
        )

    # ---------------------------------------------------------- the meter

    @property
    def energy_j(self) -> float:
        """All that the board has spent since it was made."""
        return math.fsum(self.spent_uj.values()) / 1e6

    def worst_window_mw(self, from_s: float, to_s: float, window_s: float = 60.0) -> float:
        """The highest mean power over any window inside [from_s, to_s); a shorter phase is divided by a whole window.

        Energy is piecewise linear in time with jumps at instant acts, so the worst window begins or ends where an act
        does: all of these are tried. An instant act counts at both ends of a window; at `to_s` it is the next phase's.
        """
        if not from_s < to_s:
            raise Refused(f"window from_s {from_s} is not before to_s {to_s}")
        edges = np.unique(np.concatenate([self._from_s, self._to_s, [from_s, to_s]]))
        edges = edges[(edges >= from_s) & (edges <= to_s)]
        starts = np.unique(np.clip(np.concatenate([edges, edges - window_s]), from_s, max(from_s, to_s - window_s)))
        ends = np.minimum(starts + window_s, to_s)
        upper = np.where(ends < to_s, self._acts_uj(ends, "right"), self._acts_uj(ends, "left"))
        acts_mj = (upper - self._acts_uj(starts, "left")) / 1e3
        return float(np.max(acts_mj + self.board.sleep_mw * (ends - starts)) / window_s)

    def _acts_uj(self, at_s: F64, side: str) -> F64:
        """Energy of acts until each time; `side` says whether an instant act at that time is in ("right") or not."""
        begins, ends = np.asarray(self._from_s), np.asarray(self._to_s)
        total = np.concatenate([[0.0], np.cumsum(self._energy_uj)])
        if not len(begins):
            return np.zeros(len(at_s))
        begun = np.searchsorted(begins, at_s, side="right" if side == "right" else "left")
        last = np.maximum(begun - 1, 0)
        length = ends[last] - begins[last]
        share = np.where(length > 0, (at_s - begins[last]) / np.where(length > 0, length, 1.0), 1.0)
        energy: F64 = total[last] + np.clip(share, 0.0, 1.0) * (total[last + 1] - total[last])
        return np.where(begun > 0, energy, 0.0)

    # ---------------------------------------------------------- the passing of time

    def _pass(self, until_s: float, act_mw: float) -> None:
        """Advance battery, heat and the day's sums to `until_s` at sleep power plus that of an act."""
        while self._now_s < until_s:
            midnight_s = (math.floor(self._now_s / DAY_S) + 1) * DAY_S
            slice_s = self._now_s + SLICE_S if self.battery is not None and self.battery.solar is not None else math.inf
            stop_s = min(until_s, midnight_s, slice_s)
            elapsed_s = stop_s - self._now_s
            sleep_uj = self.board.sleep_mw * elapsed_s * 1e3
            self.spent_uj["sleep"] = self.spent_uj.get("sleep", 0.0) + sleep_uj
            mw = self.board.sleep_mw + act_mw
            self._account(self._now_s, stop_s, mw * elapsed_s / 1e3)
            rest_c = self.ambient_c + self.board.thermal_k_per_w * mw / 1e3
            self.temperature_c = rest_c + (self.temperature_c - rest_c) * math.exp(
                -elapsed_s / self.board.thermal_tau_s
            )
            self._now_s = stop_s
            if stop_s == midnight_s:
                self._today_j, self._flash_at_midnight = 0.0, self._flash_bytes()

    def _account(self, from_s: float, to_s: float, energy_j: float) -> None:
        self._today_j += energy_j
        if self.battery is not None:
            self.battery.step(from_s, to_s, energy_j)
