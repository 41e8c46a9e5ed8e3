"""Everything the learner was given, in order: append-only, checksummed, in epochs that chain.

    <folder>/<bundle id>/<epoch, 8 digits>.log     little-endian
        header  magic 8 | epoch u64 | generation u64 | bundle id 32 B | SHA-256 of the epoch before 32 B
                | digest of the state at its start 32 B | base length u64 | CRC-32 of base u32 | CRC-32 of the above u32
        base    the packed state at its start, so that the epoch can be replayed; empty = the factory's
        records length u32 | CRC-32 u32 | bytes;   the CRC runs on from the header's through every record before

A chained CRC means that a record is read only if all before it are whole: no hole, no stale page, no swapped record.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from edgerun.errors import StoreError
from edgerun.ports import Disk
from edgerun.store.files import check_bundle_id, replace

_MAGIC: Final = b"EDGEJNL1"
_HEADER: Final = struct.Struct("<8sQQ32s32s32sQI")
_CRC: Final = struct.Struct("<I")
_FRAME: Final = struct.Struct("<II")
_HEADER_BYTES: Final = _HEADER.size + _CRC.size
_ZERO: Final = bytes(32)
MAX_RECORD_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Epoch:
    """One segment, read. Its records follow on the state with `digest`: `base`, or the factory's where it is empty."""

    number: int
    generation: int  # of the checkpoint it was sealed behind; 0 for the first epoch
    previous: bytes  # SHA-256 of the segment before
    digest: bytes
    base: bytes
    records: tuple[bytes, ...]
    length: int  # bytes up to the end of the last whole record
    crc: int  # where the chain of checksums stands
    sha256: bytes  # of the whole records with their header


def read_epoch(data: bytes, bundle_id: str) -> Epoch | None:
    """Read one segment up to its first bad record; None if its header or base is damaged or of another bundle."""
    if len(data) < _HEADER_BYTES or zlib.crc32(data[: _HEADER.size]) != _CRC.unpack_from(data, _HEADER.size)[0]:
        return None
    magic, number, generation, bundle, previous, digest, base_length, base_crc = _HEADER.unpack_from(data)
    start = _HEADER_BYTES + base_length
    base = data[_HEADER_BYTES:start]
    if magic != _MAGIC or bundle.hex() != bundle_id or len(base) != base_length or zlib.crc32(base) != base_crc:
        return None
    records, length, crc = _records(data, start, _CRC.unpack_from(data, _HEADER.size)[0])
    sha256 = hashlib.sha256(memoryview(data)[:length]).digest()
    return Epoch(number, generation, previous, digest, base, records, length, crc, sha256)


def _records(data: bytes, offset: int, crc: int) -> tuple[tuple[bytes, ...], int, int]:
    """The whole records from `offset`, the offset after the last of them, and the chained checksum there."""
    records = []
    while len(data) - offset >= _FRAME.size:
        length, stored = _FRAME.unpack_from(data, offset)
        record = data[offset + _FRAME.size : offset + _FRAME.size + length]
        if not 1 <= length <= MAX_RECORD_BYTES or len(record) != length or _chained(crc, record) != stored:
            break
        records.append(record)
        offset, crc = offset + _FRAME.size + length, stored
    return tuple(records), offset, crc


def _chained(crc: int, record: bytes) -> int:
    return zlib.crc32(record, zlib.crc32(_CRC.pack(len(record)), crc))


class JournalReader:
    """The journal of one bundle as it lies on the disk; changes nothing, so it may look at a running device's."""

    def __init__(self, disk: Disk, bundle_id: str, folder: str = "journal") -> None:
        self._disk = disk
        self._bundle_id = check_bundle_id(bundle_id)
        self._folder = f"{folder}/{bundle_id}"

    def epochs(self) -> list[Epoch]:
        """The newest epochs that chain without a break, oldest first."""
        chain: list[Epoch] = []
        for number in reversed(self._numbers()):
            epoch = self.read(number)
            if epoch is None or (chain and (chain[0].number, chain[0].previous) != (number + 1, epoch.sha256)):
                break
            chain.insert(0, epoch)
        return chain

    def read(self, number: int) -> Epoch | None:
        """One epoch; None if it is not there or its header is damaged."""
        epoch = read_epoch(self._disk.read(self._path(number)) or b"", self._bundle_id)
        return epoch if epoch and epoch.number == number else None

    def records(self, epoch: int | None = None, skip: int = 0) -> Iterator[bytes]:
        """Committed records from `epoch` on (the oldest kept, where None), without the first `skip` of them."""
        epochs = self.epochs()
        start = epochs[0].number if epoch is None and epochs else epoch or 0
        for each in epochs:
            if each.number >= start:
                yield from each.records[skip if each.number == start else 0 :]

    @property
    def first_epoch(self) -> int:
        """The oldest epoch kept."""
        epochs = self.epochs()
        return epochs[0].number if epochs else 0

    def _numbers(self) -> list[int]:
        names = (name.removesuffix(".log") for name in self._disk.list(self._folder) if name.endswith(".log"))
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number:08d}.log"


class Journal(JournalReader):
    """The journal as its one owner writes it. A record counts as committed when `commit` has returned.

    Opening cuts off a torn tail. Behind a newest epoch with a damaged header, one of unknown base begins (`orphaned`):
    the owner then seals at once behind a checkpoint.
    """

    def __init__(
        self,
        disk: Disk,
        bundle_id: str,
        folder: str = "journal",
        segment_bytes: int = 1 << 20,
        keep_epochs: int = 4,
    ) -> None:
        super().__init__(disk, bundle_id, folder)
        if keep_epochs < 1:
            raise StoreError(f"keep_epochs {keep_epochs} is under 1")
        if segment_bytes < _HEADER_BYTES:
            raise StoreError(f"segment_bytes {segment_bytes} is under {_HEADER_BYTES}")
        self._segment_bytes, self._keep_epochs = segment_bytes, keep_epochs
        self._group: list[bytes] = []
        self._epoch = self._count = self._length = self._crc = 0
        self._orphaned = False
        self._open()

    @property
    def epoch(self) -> int:
        """The epoch that records go to now."""
        return self._epoch

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, committed records in it): a checkpoint that stores it knows where `records` goes on."""
        return self._epoch, self._count

    @property
    def orphaned(self) -> bool:
        """Whether the state at the start of this epoch is unknown, because the epoch before could not be read."""
        return self._orphaned

    @property
    def full(self) -> bool:
        """Time to save a checkpoint and seal."""
        return self._length >= self._segment_bytes

    def append(self, record: bytes) -> None:
        """Add a record to the group that the next `commit` makes durable."""
        if not 1 <= len(record) <= MAX_RECORD_BYTES:
            raise StoreError(f"journal record of {len(record)} bytes is outside [1, {MAX_RECORD_BYTES}]")
        self._group.append(bytes(record))

    def commit(self) -> None:
        """Make the group durable with one sync. On StoreError nothing of it was committed, and it is forgotten."""
        group, self._group = self._group, []
        if not group:
            return
        crc, frames = self._crc, []
        for record in group:
            crc = _chained(crc, record)
            frames.append(_FRAME.pack(len(record), crc) + record)
        data = b"".join(frames)
        if self._length + len(data) > 2 * self._segment_bytes + MAX_RECORD_BYTES:
            raise StoreError(f"journal epoch {self._epoch} of {self._length} bytes is past twice its size: seal it")
        path = self._path(self._epoch)
        if self._disk.size(path) != self._length:
            self._disk.truncate(path, self._length)
        try:
            self._disk.append(path, data)
            self._disk.sync(path)
        except StoreError:
            with suppress(StoreError):  # else the next commit or start does it
                self._disk.truncate(path, self._length)
            raise
        self._length, self._crc, self._count = self._length + len(data), crc, self._count + len(group)

    def seal(self, state_digest: bytes, generation: int, base: bytes = b"") -> None:
        """End this epoch behind a durable checkpoint and begin the next; old epochs beyond `keep_epochs` go.

        `base` is the checkpoint's payload: with it the next epoch can be replayed when the slot has been reused.
        """
        if len(state_digest) != 32:
            raise StoreError(f"state digest of {len(state_digest)} bytes is not 32")
        self.commit()
        data = (self._disk.read(self._path(self._epoch)) or b"")[: self._length]
        self._begin(self._epoch + 1, generation, hashlib.sha256(data).digest(), state_digest, base)
        self._prune()

    def wipe(self) -> None:
        """Erase every epoch, oldest first, and begin again at epoch 0 on the factory's state."""
        self._group = []
        for name in self._disk.list(self._folder):
            self._disk.remove(f"{self._folder}/{name}")
        self._disk.sync_dir(self._folder)
        self._open()

    def _open(self) -> None:
        numbers = self._numbers()
        if not numbers:
            self._begin(0, 0, _ZERO, _ZERO, b"")
            return
        newest = self.read(numbers[-1])
        if newest is None:
            self._begin(numbers[-1] + 1, 0, _ZERO, _ZERO, b"")
            return
        path = self._path(newest.number)
        if self._disk.size(path) != newest.length:
            self._disk.truncate(path, newest.length)
        self._disk.sync(path)  # after a mere kill the tail may have been read from memory, not from the medium
        self._disk.sync_dir(self._folder)
        self._set(newest)
        self._prune()

    def _begin(self, number: int, generation: int, previous: bytes, digest: bytes, base: bytes) -> None:
        bundle = bytes.fromhex(self._bundle_id)
        head = _HEADER.pack(_MAGIC, number, generation, bundle, previous, digest, len(base), zlib.crc32(base))
        data = head + _CRC.pack(zlib.crc32(head)) + base
        replace(self._disk, self._path(number), data)
        begun = read_epoch(data, self._bundle_id)
        if begun is None:
            raise StoreError(f"journal epoch {number} does not read back")
        self._set(begun)

    def _set(self, epoch: Epoch) -> None:
        self._epoch, self._length, self._crc = epoch.number, epoch.length, epoch.crc
        self._count = len(epoch.records)
        self._orphaned = epoch.number > 0 and epoch.digest == _ZERO

    def _prune(self) -> None:
        old = [number for number in self._numbers() if number <= self._epoch - self._keep_epochs]
        for number in old:
            self._disk.remove(self._path(number))
        if old:
            self._disk.sync_dir(self._folder)
