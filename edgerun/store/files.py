"""Two small things that every file of the store needs: an atomic replacement, and the shape of a bundle id."""

from __future__ import annotations

import re
from typing import Final

from edgerun.errors import StoreError
from edgerun.ports import Disk

_BUNDLE_ID: Final = re.compile(r"[0-9a-f]{64}")


def replace(disk: Disk, path: str, data: bytes) -> None:
    """Old content or new, never a mixture, and new for good when this returns."""
    beside = path + ".new"
    disk.write(beside, data)
    disk.sync(beside)
    disk.rename(beside, path)
    disk.sync_dir(path.rpartition("/")[0])


def is_bundle_id(text: str) -> bool:
    return _BUNDLE_ID.fullmatch(text) is not None


def check_bundle_id(bundle_id: str) -> str:
    """The same id, if it is a SHA-256 in lower-case hex; raises StoreError otherwise."""
    if not is_bundle_id(bundle_id):
        raise StoreError(f"bundle id {bundle_id[:80]!r} is not 64 lower-case hex digits")
    return bundle_id
