"""The firmware's stream of samples and its lines of telemetry; `frames.h` of a project has the bits.

'E' 'R'  kind  0  value (int32)  length (uint32)  payload  CRC-32 of kind to payload
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

HEAD: Final = struct.Struct("<cBiI")
CRC: Final = struct.Struct("<I")
UNLABELLED: Final = -1


def frame(kind: bytes, value: int = 0, payload: bytes = b"") -> bytes:
    """One frame of the stream."""
    covered = HEAD.pack(kind, 0, value, len(payload)) + payload
    return b"ER" + covered + CRC.pack(zlib.crc32(covered))


def sample(payload: bytes, label: int = UNLABELLED) -> bytes:
    """A sample to answer, and with a label to learn from."""
    return frame(b"S", label, payload)


def lines(text: str) -> Iterator[tuple[str, list[str]]]:
    """(event, its words) of each line."""
    for line in text.splitlines():
        event, *words = line.split(" ")
        yield event, words
