"""What the sensor says: numbered, quantised, and remembered for a while, so that feedback may name it later."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Final, NamedTuple

import numpy as np

from edgerun import encode
from edgerun.agent.facts import Facts
from edgerun.arrays import I16, AnyArray
from edgerun.encode.targets import learns_values, wire_target
from edgerun.errors import DataError, Refused
from edgerun.ports import Sample, Sensor
from edgerun.spec import Manifest

log = logging.getLogger(__name__)

WINDOWS: Final = 256  # past windows that feedback may still name


class Seen(NamedTuple):
    """A sample as the network takes it, and what the recording itself says of it: at most one of both."""

    q: I16
    label: str | None = None
    target: I16 | None = None


class Senses:
    """The sensor of one device.

    number     of the newest sample; no two samples of a device have the same, whatever the restarts
    bad        readings that the network cannot take, and targets that the rule cannot
    missed     cycles without a reading
    stuck      readings equal to the one before
    exhausted  whether the recording has ended
    """

    def __init__(self, sensor: Sensor, manifest: Manifest, facts: Facts) -> None:
        self._manifest, self._facts = manifest, facts
        self._values = learns_values(manifest)
        self.number = facts.held.samples
        self.bad = self.missed = self.stuck = 0
        self._newest: AnyArray | None = None
        self._windows: OrderedDict[int, I16] = OrderedDict()
        self.watch(sensor)

    def watch(self, sensor: Sensor) -> None:
        """Read this sensor from now on."""
        self._sensor, self.exhausted = sensor, False

    def read(self) -> Seen | None:
        """The newest sample. A reading that is broken, missing or the same as before is counted."""
        try:
            sample = self._sensor.read()
        except StopIteration:
            self.exhausted = True
            return None
        if sample is None:
            self.missed += 1
            return None
        self.number += 1
        self._facts.reserve_sample(self.number)
        self.stuck += self._newest is not None and np.array_equal(sample.x, self._newest)
        self._newest = sample.x
        try:
            q = self.taken(sample.x)
        except DataError as err:
            self._count_bad("sample refused", err)
            return None
        if self._values:
            return Seen(q, target=self._target(sample))
        return Seen(q, label=sample.label)

    def taken(self, x: AnyArray) -> I16:
        """A reading as the network takes it. Raises DataError for what is none."""
        return encode.sense(self._manifest.front, self._manifest.input, x)

    def _target(self, sample: Sample) -> I16 | None:
        """The values that a sample comes with, as the rule takes them; what it cannot take is counted."""
        if sample.target is None:
            return None
        try:
            return wire_target(self._manifest, sample.target)
        except DataError as err:
            self._count_bad("target refused", err)
            return None

    def _count_bad(self, what: str, err: DataError) -> None:
        self.bad += 1
        log.warning(what, extra={"sample": self.number, "reason": str(err)})

    # ------------------------------------------------------------------ past windows

    def remember(self, q: I16) -> None:
        """Keep the newest sample, and the `WINDOWS - 1` before it."""
        self._windows[self.number] = q
        while len(self._windows) > WINDOWS:
            self._windows.popitem(last=False)

    def remembers(self, sample: int) -> bool:
        """Whether feedback may still name that sample."""
        return sample in self._windows

    def window(self, sample: int) -> I16:
        """A past sample. Raises Refused for one that is not remembered."""
        q = self._windows.get(sample)
        if q is None:
            raise Refused(f"feedback sample {sample} is not among the last {len(self._windows)} windows")
        return q

    def forget(self) -> None:
        """Remember no sample any more."""
        self._windows.clear()
