"""The firmware's stream of samples and its lines of telemetry; `frames.h` of a project has the bits.

'E' 'R'  kind  level  value (int32)  length (uint32)  payload  CRC-32 of kind to payload
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from edgerun.spec import Level

START: Final = b"ER"
HEAD: Final = struct.Struct("<cBiI")
CRC: Final = struct.Struct("<I")
COUNTERS: Final = struct.Struct("<6q")
"""`er_counters`."""
UNLABELLED: Final = -1
LEVELS: Final[Mapping[Level, int]] = MappingProxyType({"full": 0, "light": 1, "sparse": 2, "head": 3})
"""`enum er_level`."""

NEW_CLASS, SETTLE, BOUNDARY, FACTORY, SAVE, PRINT = b"N", b"T", b"B", b"F", b"C", b"D"
GUARD, JUDGE = b"G", b"J"
LAST: Final = ("answer ", "lesson ", "done ", "saved ", "refused ", "kept counters ")
"""How the last line begins that a frame causes."""


def frame(kind: bytes, value: int = 0, payload: bytes = b"", level: int = 0) -> bytes:
    """One frame of the stream."""
    covered = HEAD.pack(kind, level, value, len(payload)) + payload
    return START + covered + CRC.pack(zlib.crc32(covered))


def sample(payload: bytes, label: int = UNLABELLED, level: Level = "full") -> bytes:
    """A sample to answer, and with a label to learn from."""
    return frame(b"S", label, payload, LEVELS[level])


def feedback(payload: bytes, label: int, level: Level = "full") -> bytes:
    """A sample of the stream and what somebody says it was, which may be doubted."""
    return frame(b"L", label, payload, LEVELS[level])


def valued(payload: bytes, target: bytes, level: Level = "full") -> bytes:
    """A sample and the values to learn, int16."""
    return frame(b"V", 0, payload + target, LEVELS[level])


def frames(whole: bytes) -> Iterator[bytes]:
    """The frames of a stream, one by one."""
    at = 0
    while at < len(whole):
        length = HEAD.unpack_from(whole, at + len(START))[3]
        end = at + len(START) + HEAD.size + length + CRC.size
        yield whole[at:end]
        at = end


def lines(text: str) -> Iterator[tuple[str, list[str]]]:
    """(event, its words) of each line."""
    for line in text.splitlines():
        event, *words = line.split(" ")
        yield event, words
