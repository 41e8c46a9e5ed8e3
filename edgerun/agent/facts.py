"""Small facts that outlive a restart, in one file on the flash: `settings/device.json`."""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from edgerun.ports import Disk
from edgerun.spec import Budget
from edgerun.store.files import replace

log = logging.getLogger(__name__)

SETTINGS: Final = "settings/device.json"
SAMPLE_BLOCK: Final = 4096  # sample numbers reserved at once


class Durable(msgspec.Struct, kw_only=True):
    """What the file holds."""

    sid: int = 0  # no session number up to here may be used again; 0: this device was never started
    counters: dict[str, int] = {}  # of commands, by key
    budget: Budget | None = None  # what an operator set; None: the configuration's
    paused: bool = False
    samples: int = 0  # no sample number up to here may be given again


class Facts:
    """The file and what it holds. A change is durable when its call returns; raises StoreError where it cannot be."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._held = _load(disk)

    @property
    def held(self) -> Durable:
        """What the file holds now; to be read only."""
        return self._held

    def keep_sid(self, sid: int) -> None:
        self._held.sid = sid
        self._save()

    def keep_counters(self, counters: dict[str, int]) -> None:
        self._held.counters = counters
        self._save()

    def keep_budget(self, budget: Budget) -> None:
        self._held.budget = budget
        self._save()

    def keep_paused(self, paused: bool) -> None:
        self._held.paused = paused
        self._save()

    def reserve_sample(self, number: int) -> None:
        """See to it that no later start gives this sample number again: one write in `SAMPLE_BLOCK` samples."""
        if number > self._held.samples:
            self._held.samples = number + SAMPLE_BLOCK
            self._save()

    def _save(self) -> None:
        replace(self._disk, SETTINGS, msgspec.json.encode(self._held))


def _load(disk: Disk) -> Durable:
    """What the file holds, or fresh facts where it is missing or damaged."""
    data = disk.read(SETTINGS)
    if data is None:
        return Durable()
    try:
        return msgspec.json.decode(data, type=Durable)
    except msgspec.DecodeError as err:
        log.warning("device facts were damaged and start anew", extra={"reason": str(err)})
        return Durable()
