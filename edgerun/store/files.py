"""Small things that the whole store needs: an atomic replacement, a wipe that ends, the shape of a bundle id."""

from __future__ import annotations

import re
from typing import Final

from edgerun.errors import StoreError
from edgerun.ports import Disk

_WIPING: Final = "slots/wiping"
_BUNDLE_ID: Final = re.compile(r"[0-9a-f]{64}")


def replace(disk: Disk, path: str, data: bytes) -> None:
    """Old content or new, never a mixture, and new for good when this returns."""
    beside = path + ".new"
    disk.write(beside, data)
    disk.sync(beside)
    disk.rename(beside, path)
    disk.sync_dir(path.rpartition("/")[0])


def wipe_learned(disk: Disk) -> None:
    """Erase every checkpoint and journal of every bundle, as a whole even if the power is cut. Open them anew then."""
    replace(disk, _WIPING, b"{}\n")
    finish_wipe(disk)


def finish_wipe(disk: Disk) -> bool:
    """Go through with a wipe that was begun; say whether there was one. To be called before anything is opened."""
    if disk.size(_WIPING) is None:
        return False
    for folder in ("learned", "journal"):
        for bundle_id in disk.list(folder):
            for name in disk.list(f"{folder}/{bundle_id}"):
                disk.remove(f"{folder}/{bundle_id}/{name}")
            disk.sync_dir(f"{folder}/{bundle_id}")
    disk.remove(_WIPING)
    disk.sync_dir(_WIPING.rpartition("/")[0])
    return True


def is_bundle_id(text: str) -> bool:
    return _BUNDLE_ID.fullmatch(text) is not None


def check_bundle_id(bundle_id: str) -> str:
    """The same id, if it is a SHA-256 in lower-case hex; raises StoreError otherwise."""
    if not is_bundle_id(bundle_id):
        raise StoreError(f"bundle id {bundle_id[:80]!r} is not 64 lower-case hex digits")
    return bundle_id
