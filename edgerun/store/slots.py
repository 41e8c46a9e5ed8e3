"""Bundles side by side, and which of them runs: install, try, commit, roll back.

    slots/<bundle id>/bundle.edgb
    slots/current    {"bundle": id}
    slots/next       {"bundle": id, "tries": 3, "replaces": id of current when staged}
    slots/previous   {"bundle": id}

A bundle becomes current by one rename. `next` names what it replaces, so a commit that was cut short is finished at the
next start. Damaged pointers count as missing; a missing bundle is passed over.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from edgerun.errors import StoreError
from edgerun.ports import Disk
from edgerun.store.files import check_bundle_id, is_bundle_id, replace

_FOLDER: Final = "slots"
_BOUND: Final = ("slots", "learned", "journal")  # folders with one sub-folder a bundle


class _Pointer(Struct, frozen=True, omit_defaults=True):
    bundle: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    tries: Annotated[int, Meta(ge=0, le=100)] = 0
    replaces: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")] | None = None


class Slots:
    """The bundles of one device."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    @property
    def current(self) -> str | None:
        return self._pointed("current")

    @property
    def previous(self) -> str | None:
        """What `roll_back` returns to, if there is such a bundle and it is another one."""
        previous = self._pointed("previous")
        return None if previous == self.current else previous

    @property
    def next(self) -> str | None:
        """The bundle that is staged or on trial."""
        return self._pointed("next")

    def install(self, data: bytes, bundle_id: str) -> None:
        """Store a bundle that the caller has verified. It does not run before it is staged."""
        if self._disk.read(self.path(bundle_id)) != data:
            replace(self._disk, self.path(bundle_id), data)
        self._disk.sync(self.path(bundle_id))
        self._disk.sync_dir(f"{_FOLDER}/{bundle_id}")

    def stage(self, bundle_id: str, tries: int = 3) -> None:
        """Let `begin` try an installed bundle, at most `tries` times, until `commit`."""
        if self._disk.size(self.path(bundle_id)) is None:
            raise StoreError(f"bundle {bundle_id} is not installed")
        if not 1 <= tries <= 100:
            raise StoreError(f"tries {tries} is outside [1, 100]")
        self._finish()
        self._point("next", _Pointer(bundle_id, tries, self.current))

    def begin(self) -> tuple[str, bool]:
        """The bundle to load now, and whether it is on trial. A try is spent, durably, before this returns."""
        self._finish()
        trial = self._read("next")
        if trial is not None and trial.tries > 0 and self._installed(trial.bundle):
            self._point("next", _Pointer(trial.bundle, trial.tries - 1, trial.replaces))
            return trial.bundle, True
        self._drop_next()
        bundle = self.current or self.previous
        if bundle is None:
            raise StoreError("no bundle is installed that could run")
        if bundle != self.current:
            self._point("current", _Pointer(bundle))
        return bundle, False

    def commit(self) -> None:
        """The trial went well: it is current, what it replaced is previous, and bundles in no role are removed."""
        trial = self._read("next")
        if trial is None:
            raise StoreError("no bundle is on trial")
        self._point("current", _Pointer(trial.bundle))
        self._finish()
        self.prune()

    def roll_back(self) -> str:
        """Drop the bundle on trial, or else return from current to previous. Gives the bundle that is current now."""
        self._finish()
        if self._read("next") is not None:
            self._drop_next()
            bundle = self.current or self.previous
        else:
            bundle = self.previous
        if bundle is None:
            raise StoreError("no earlier bundle is installed")
        self._point("current", _Pointer(bundle))
        return bundle

    def read(self, bundle_id: str) -> bytes | None:
        return self._disk.read(self.path(bundle_id))

    def path(self, bundle_id: str) -> str:
        """Where the bundle lies, relative to the storage directory."""
        return f"{_FOLDER}/{check_bundle_id(bundle_id)}/bundle.edgb"

    def prune(self) -> None:
        """Remove bundles in no role, with what was learned on them."""
        pointers = [self._read(name) for name in ("current", "next", "previous")]
        kept = {pointer.bundle for pointer in pointers if pointer is not None}
        for folder in _BOUND:
            for bundle_id in self._disk.list(folder):
                if is_bundle_id(bundle_id) and bundle_id not in kept:
                    self._remove(f"{folder}/{bundle_id}")

    def _finish(self) -> None:
        """Complete a commit whose first rename is done: current is the trial, previous is not yet what it replaced."""
        trial = self._read("next")
        if trial is not None and trial.bundle == self.current:
            if trial.replaces not in (None, trial.bundle):
                self._point("previous", _Pointer(trial.replaces or ""))
            self._drop_next()

    def _drop_next(self) -> None:
        if self._disk.size(f"{_FOLDER}/next") is not None:
            self._disk.remove(f"{_FOLDER}/next")
            self._disk.sync_dir(_FOLDER)

    def _remove(self, folder: str) -> None:
        for name in self._disk.list(folder):
            self._disk.remove(f"{folder}/{name}")
        self._disk.sync_dir(folder)

    def _installed(self, bundle_id: str) -> bool:
        return self._disk.size(self.path(bundle_id)) is not None

    def _pointed(self, name: str) -> str | None:
        pointer = self._read(name)
        return pointer.bundle if pointer is not None and self._installed(pointer.bundle) else None

    def _point(self, name: str, pointer: _Pointer) -> None:
        replace(self._disk, f"{_FOLDER}/{name}", msgspec.json.encode(pointer))

    def _read(self, name: str) -> _Pointer | None:
        try:
            return msgspec.json.decode(self._disk.read(f"{_FOLDER}/{name}") or b"", type=_Pointer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
