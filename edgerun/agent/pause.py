"""Whether the device learns at all: an operator may pause it, for a time or until further notice."""

from __future__ import annotations

from edgerun.agent.facts import Facts
from edgerun.ports import Clock
from edgerun.spec import LearningPlan
from edgerun.telemetry.reporter import Mode, Reporter


class Pause:
    """on: no lesson is given now. What holds for some time only does not outlive a restart."""

    def __init__(self, plan: LearningPlan, facts: Facts, clock: Clock, reporter: Reporter) -> None:
        self._learns = bool(plan.rule or plan.replay.capacity)
        self._facts, self._clock, self._reporter = facts, clock, reporter
        self.on = facts.held.paused
        self._until_s: float | None = None  # device time at which a pause or its opposite ends by itself

    @property
    def mode(self) -> Mode:
        """What the device's state says."""
        if self.on:
            return "paused"
        return "learning" if self._learns else "inference"

    def turn(self, on: bool, for_s: float | None) -> None:
        """Begin or end a pause, for so many seconds of device time or until told otherwise."""
        self.on = on
        self._until_s = None if for_s is None else self._clock.device_s() + for_s
        self._facts.keep_paused(on if for_s is None else not on)
        self._reporter.set_mode(self.mode)
        self._reporter.event("paused" if on else "resumed", {"for_s": for_s})

    def end_in_time(self) -> None:
        """Go back to what holds until further notice, once the time is over."""
        if self._until_s is not None and self._clock.device_s() >= self._until_s:
            self.turn(self._facts.held.paused, None)
