"""What the journal holds: every input of the learner. Replaying them on the same bundle gives the same bits.

Decisions (level, draws, verdicts) are in the records; replay never asks a governor or a clock.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from edgerun.errors import StoreError
from edgerun.spec import Level

Reason: TypeAlias = Literal["command", "idle", "drift", "taught"]


class Lesson(Struct, frozen=True, kw_only=True, array_like=True, tag="lesson"):
    """One labelled window. `deep`: e-prop on it and on the replayed samples; otherwise prototypes only."""

    number: int  # lessons count from 1, anew after a return to the factory
    sample: int  # the sensor's sample number, 0 for a taught example
    q: bytes  # quantised input in the input's dtype
    label: int
    level: Level
    draws: list[int]  # reservoir places replayed after it, in order
    threshold: int  # lessons that the readout is this sure of are skipped, Q0.15
    update: int  # updates applied before it
    before: bytes  # digest of the learned state before it, in every `guard.every`-th lesson; empty in the others
    target: bytes = b""  # int16 values, little-endian, of a rule that does not classify; its label is 0

    @property
    def deep(self) -> bool:
        return self.level in ("full", "light", "sparse")


class NewClass(Struct, frozen=True, kw_only=True, array_like=True, tag="class"):
    """A class joins, by name, at the next free index."""

    label: str


class Settle(Struct, frozen=True, kw_only=True, array_like=True, tag="settle"):
    """The end of taught examples: prototypes are recomputed and the new classes' biases calibrated."""


class Boundary(Struct, frozen=True, kw_only=True, array_like=True, tag="boundary"):
    """Credit becomes importance, the anchor moves."""

    reason: Reason


class Verdict(Struct, frozen=True, kw_only=True, array_like=True, tag="verdict"):
    """The lesson guard has spoken on the group of lessons since the verdict before: keep them, or go back."""

    good: bool
    correct: int
    of: int


class Rollback(Struct, frozen=True, kw_only=True, array_like=True, tag="rollback"):
    """An operator goes back to the last good state or to the factory's."""

    to: Literal["last-good", "factory"]


class Forget(Struct, frozen=True, kw_only=True, array_like=True, tag="forget"):
    """One class's prototype and examples go; its index stays, so that others keep theirs."""

    label: int


Entry: TypeAlias = Lesson | NewClass | Settle | Boundary | Verdict | Rollback | Forget

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    return _ENCODER.encode(entry)


def decode(data: bytes) -> Entry:
    """Raises StoreError on bytes that are no record."""
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise StoreError(f"journal record: {err}") from None
