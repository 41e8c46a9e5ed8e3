"""Contenders timed in turn, in one process, on one thread: what the thread's own clock says of a call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

ROUNDS: Final = 15
ROUND_S: Final = 0.02
"""Seconds of one contender's round: long enough that the clock does not show."""


@dataclass(frozen=True)
class Timed:
    """CPU microseconds of one call, a round each."""

    rounds: tuple[float, ...]

    @property
    def least(self) -> float:
        return min(self.rounds)

    @property
    def median(self) -> float:
        return float(np.median(self.rounds))

    def over(self, other: Timed) -> tuple[float, float, float]:
        """How many times the other's time, round by round: the median, the least and the most."""
        ratios = np.array(self.rounds) / np.array(other.rounds)
        return float(np.median(ratios)), float(ratios.min()), float(ratios.max())


def interleaved(contenders: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, Timed]:
    """Time each contender in every round, beginning with another one each time."""
    calls = {name: _calls(call) for name, call in contenders.items()}
    found: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(rounds):
        for name in _from(names, turn):
            found[name].append(_round(contenders[name], calls[name]))
    return {name: Timed(tuple(times)) for name, times in found.items()}


def _from(names: Sequence[str], first: int) -> list[str]:
    at = first % len(names)
    return [*names[at:], *names[:at]]


def _calls(call: Callable[[], object]) -> int:
    """How many calls fill a round; the calls made to find out are the warm-up."""
    count, spent = 1, 0.0
    while spent < ROUND_S / 4:
        spent = _round(call, count) * count / 1e6
        count *= 2
    return max(1, round(count / 2 * ROUND_S / spent))


def _round(call: Callable[[], object], count: int) -> float:
    """Microseconds of the thread's own time a call."""
    began = time.thread_time_ns()
    for _ in range(count):
        call()
    return (time.thread_time_ns() - began) / count / 1e3
