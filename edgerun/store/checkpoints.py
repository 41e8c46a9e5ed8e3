"""Learned state that survives: three slot files with generations and checksums, and a pointer to the last good one.

    <folder>/<bundle id>/slot-{0,1,2}     64-byte header, then the payload; little-endian
        magic 8 | generation u64 | bundle id 32 B | payload length u64 | CRC-32 of payload u32 | CRC-32 of these 60 u32
    <folder>/<bundle id>/last-good        {"generation": 7}

A save goes to the slot that is neither the newest whole one nor the last good one, so that both outlive a torn write.
The checksum is zlib's CRC-32: the standard library has no CRC-32C, and a table in Python would take seconds a megabyte.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta, Struct

from edgerun.arrays import AnyArray, Tensors
from edgerun.errors import StoreError
from edgerun.ports import Disk
from edgerun.store.files import check_bundle_id, replace

_MAGIC: Final = b"EDGECKP1"
_HEADER: Final = struct.Struct("<8sQ32sQI")
_CRC: Final = struct.Struct("<I")
_HEADER_BYTES: Final = _HEADER.size + _CRC.size
_SLOTS: Final = 3
MAX_PAYLOAD_BYTES: Final = 1 << 28


class _Pointer(Struct, frozen=True):
    generation: Annotated[int, Meta(ge=1, lt=1 << 62)]


@dataclass(frozen=True, slots=True)
class _Slot:
    """A slot whose header is sound; `payload` is None where the payload is not."""

    generation: int
    payload: bytes | None


class Checkpoints:
    """The learned states of one bundle. Damaged and missing files are never fatal: an older state is found, or none."""

    def __init__(self, disk: Disk, bundle_id: str, folder: str = "learned") -> None:
        self._disk = disk
        self._bundle = bytes.fromhex(check_bundle_id(bundle_id))
        self._folder = f"{folder}/{bundle_id}"

    def save(self, payload: bytes) -> int:
        """Write a state; durable when its generation is returned. Generations rise, also past damaged slots."""
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise StoreError(f"checkpoint of {len(payload)} bytes is over {MAX_PAYLOAD_BYTES}")
        slots, good = self._slots(), self._pointer()
        generation = 1 + max([good or 0, *(slot.generation for slot in slots if slot)])
        path = self._path(_victim(slots, good))
        self._disk.write(path, self._header(generation, payload) + payload)
        self._disk.sync(path)
        self._disk.sync_dir(self._folder)
        return generation

    def load(self) -> tuple[int, bytes] | None:
        """The newest whole state and its generation."""
        return max(_whole(self._slots()), default=None)

    def load_generation(self, generation: int) -> bytes | None:
        return dict(_whole(self._slots())).get(generation)

    def generations(self) -> list[int]:
        """Those that can be loaded, oldest first."""
        return sorted(generation for generation, _ in _whole(self._slots()))

    def mark_good(self, generation: int) -> None:
        """Let `rollback` return to this state, which from now on no save overwrites."""
        if generation not in self.generations():
            raise StoreError(f"generation {generation} is not among the whole checkpoints {self.generations()}")
        replace(self._disk, f"{self._folder}/last-good", msgspec.json.encode(_Pointer(generation)))

    def good(self) -> int | None:
        """The last good generation, if it is still whole."""
        generation = self._pointer()
        return generation if generation in self.generations() else None

    def wipe(self) -> None:
        """Erase every state of this bundle, so that the factory's is what remains."""
        for name in self._disk.list(self._folder):
            self._disk.remove(f"{self._folder}/{name}")
        self._disk.sync_dir(self._folder)

    def _path(self, slot: int) -> str:
        return f"{self._folder}/slot-{slot}"

    def _header(self, generation: int, payload: bytes) -> bytes:
        head = _HEADER.pack(_MAGIC, generation, self._bundle, len(payload), zlib.crc32(payload))
        return head + _CRC.pack(zlib.crc32(head))

    def _slots(self) -> list[_Slot | None]:
        return [self._read(self._disk.read(self._path(slot)) or b"") for slot in range(_SLOTS)]

    def _read(self, data: bytes) -> _Slot | None:
        if len(data) < _HEADER_BYTES or zlib.crc32(data[: _HEADER.size]) != _CRC.unpack_from(data, _HEADER.size)[0]:
            return None
        magic, generation, bundle, length, crc = _HEADER.unpack_from(data)
        if magic != _MAGIC or bundle != self._bundle:
            return None
        payload = data[_HEADER_BYTES:]
        return _Slot(generation, payload if len(payload) == length and zlib.crc32(payload) == crc else None)

    def _pointer(self) -> int | None:
        try:
            pointer = msgspec.json.decode(self._disk.read(f"{self._folder}/last-good") or b"", type=_Pointer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return pointer.generation


def _whole(slots: list[_Slot | None]) -> list[tuple[int, bytes]]:
    return [(slot.generation, slot.payload) for slot in slots if slot and slot.payload is not None]


def _victim(slots: list[_Slot | None], good: int | None) -> int:
    """The slot to overwrite: a damaged or missing one, else the oldest that is not good, so never the newest."""
    whole = {number: slot.generation for number, slot in enumerate(slots) if slot and slot.payload is not None}
    spare = [number for number in range(len(slots)) if number not in whole]
    if spare:
        return spare[0]
    return min((number for number in whole if whole[number] != good), key=whole.__getitem__)


# ------------------------------------------------------------------ payloads

_STATE_MAGIC: Final = b"EDGEST01"
_COUNT: Final = struct.Struct("<8sI")
_ALIGN: Final = 8
_MAX_TABLE_BYTES: Final = 1 << 20
_DTYPES: Final = frozenset(
    ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
)


class _Entry(Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    dtype: Annotated[str, Meta(max_length=16)]
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, le=MAX_PAYLOAD_BYTES)], ...], Meta(max_length=8)]


class _Table(Struct, frozen=True, forbid_unknown_fields=True):
    arrays: Annotated[tuple[_Entry, ...], Meta(max_length=4096)]
    meta: dict[str, Any]


def pack_state(arrays: Mapping[str, AnyArray], meta: Mapping[str, Any]) -> bytes:
    """Arrays and a JSON dictionary as bytes; equal states give equal bytes.

    magic 8 | table length u32 | table: JSON {arrays: [{name, dtype, shape}], meta}, names sorted | zeros to a multiple
    of 8 | each array in C order, little-endian, zeros to a multiple of 8
    """
    items = sorted(arrays.items())
    entries = tuple(_Entry(name, array.dtype.name, array.shape) for name, array in items)
    for entry in entries:
        _check_dtype(entry)
    try:
        table = msgspec.json.encode(_Table(entries, dict(meta)), order="sorted")
    except (TypeError, ValueError, OverflowError) as err:
        raise StoreError(f"state meta: {err}") from None
    if len(table) > _MAX_TABLE_BYTES:
        raise StoreError(f"state table of {len(table)} bytes is over {_MAX_TABLE_BYTES}")
    parts = [_padded(_COUNT.pack(_STATE_MAGIC, len(table)) + table)]
    parts += [_padded(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()) for _, array in items]
    return b"".join(parts)


def unpack_state(data: bytes) -> tuple[Tensors, dict[str, Any]]:
    """The arrays (read-only views of `data`) and the dictionary of `pack_state`. Raises StoreError on any damage."""
    if len(data) < _COUNT.size:
        raise StoreError(f"state of {len(data)} bytes is shorter than its {_COUNT.size}-byte header")
    magic, length = _COUNT.unpack_from(data)
    if magic != _STATE_MAGIC:
        raise StoreError(f"state magic {magic!r} is not {_STATE_MAGIC!r}")
    if length > min(_MAX_TABLE_BYTES, len(data) - _COUNT.size):
        raise StoreError(f"state table length {length} is over the {len(data)} bytes that are there")
    try:
        table = msgspec.json.decode(data[_COUNT.size : _COUNT.size + length], type=_Table)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise StoreError(f"state table: {err}") from None
    arrays, offset = {}, _ceil(_COUNT.size + length)
    for entry in table.arrays:
        _check_dtype(entry)
        dtype = np.dtype(entry.dtype).newbyteorder("<")
        size = prod(entry.shape) * dtype.itemsize
        if size > len(data) - offset:
            raise StoreError(f"state array {entry.name!r} needs {size} bytes, {len(data) - offset} are left")
        view = np.frombuffer(data, dtype, prod(entry.shape), offset) if size else np.zeros(0, dtype)
        arrays[entry.name] = view.reshape(entry.shape)
        offset += _ceil(size)
    if offset != len(data) or len(arrays) != len(table.arrays):
        raise StoreError(f"state of {len(data)} bytes is not the {offset} that its table of distinct names describes")
    return arrays, table.meta


def _check_dtype(entry: _Entry) -> None:
    if entry.dtype not in _DTYPES:
        raise StoreError(f"state array {entry.name!r} has dtype {entry.dtype!r}, which is not stored")


def _ceil(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _padded(data: bytes) -> bytes:
    return data.ljust(_ceil(len(data)), b"\0")
