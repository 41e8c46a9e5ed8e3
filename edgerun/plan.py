"""Where every array of a running model lives: named slots in one arena, laid out before anything is allocated.

A slot is a shape and a dtype. Each starts on a 64-byte boundary, in the order given. Scratch slots carry a lifetime in
steps of the caller's choosing; two whose lifetimes do not meet may share bytes. This module knows no layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

import numpy as np

from edgerun.arrays import U8, Tensors
from edgerun.errors import SpecError

ALIGNMENT: Final = 64

Part: TypeAlias = Literal["weights", "state", "traces", "si", "replay", "head", "io", "scratch"]
SlotType: TypeAlias = Literal[
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"
]
PARTS: Final[tuple[Part, ...]] = get_args(Part)


@dataclass(frozen=True, slots=True)
class Slot:
    """One array. `live` = (first, last) step of use, both inclusive, for scratch; None = always."""

    shape: tuple[int, ...]
    dtype: SlotType
    part: Part = "state"
    live: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if any(side < 0 for side in self.shape):
            raise SpecError(f"slot shape {self.shape} has a negative side")
        if self.live is not None and self.part != "scratch":
            raise SpecError(f"a slot of part {self.part} has a lifetime; only scratch may")
        if self.live is not None and self.live[0] > self.live[1]:
            raise SpecError(f"slot lifetime {self.live} ends before it begins")

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def meets(self, other: Slot) -> bool:
        """Whether both are in use at some step."""
        if self.live is None or other.live is None:
            return True
        return self.live[0] <= other.live[1] and other.live[0] <= self.live[1]


@dataclass(frozen=True, slots=True)
class Placed:
    """A slot and its first byte in the arena."""

    slot: Slot
    offset: int

    @property
    def bytes(self) -> int:
        return self.slot.bytes

    @property
    def end(self) -> int:
        """The first aligned byte after it."""
        return self.offset + align(self.slot.bytes)


@dataclass(frozen=True, slots=True)
class Plan:
    """The layout of one arena: permanent slots first, then the shared scratch region."""

    slots: Mapping[str, Placed]

    @property
    def total_bytes(self) -> int:
        return max((placed.end for placed in self.slots.values()), default=0)

    def bytes_by_part(self) -> dict[Part, int]:
        """Bytes of each part that is present, padding included; shared scratch counts once. Sums to `total_bytes`."""
        sizes = dict.fromkeys(PARTS, 0)
        for placed in self.slots.values():
            if placed.slot.part != "scratch":
                sizes[placed.slot.part] += placed.end - placed.offset
        sizes["scratch"] = self.total_bytes - sum(sizes.values())
        return {part: size for part, size in sizes.items() if size}


def align(size: int) -> int:
    """Round up to the next multiple of 64."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def make_plan(slots: Mapping[str, Slot]) -> Plan:
    """Lay out slots: permanent ones in the order given, then scratch, each at the lowest free offset.

    The largest goes first; of equals the one that is needed first.
    """
    permanent = {name: slot for name, slot in slots.items() if slot.part != "scratch"}
    scratch = {name: slot for name, slot in slots.items() if slot.part == "scratch"}
    placed: dict[str, Placed] = {}
    end = 0
    for name, slot in permanent.items():
        placed[name] = Placed(slot, end)
        end = placed[name].end
    shared: dict[str, Placed] = {}
    for name, slot in sorted(scratch.items(), key=lambda item: (-item[1].bytes, item[1].live or (0, 0), item[0])):
        shared[name] = Placed(slot, _lowest_gap(slot, shared.values(), end))
    return Plan({name: (placed | shared)[name] for name in slots})


def _lowest_gap(slot: Slot, others: Iterable[Placed], start: int) -> int:
    """The lowest offset from `start` on where no slot that is alive at the same time lies."""
    offset, size = start, align(slot.bytes)
    for other in sorted((o for o in others if o.slot.meets(slot)), key=lambda o: o.offset):
        if offset + size <= other.offset:
            break
        offset = max(offset, other.end)
    return offset


def make_arena(plan: Plan) -> U8:
    """Zeroed memory of exactly `plan.total_bytes`, starting on a 64-byte boundary."""
    raw = np.zeros(plan.total_bytes + ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + plan.total_bytes]


def carve(arena: U8, plan: Plan) -> Tensors:
    """Named views of an arena (bytes,) uint8; writes through a view reach the arena. Allocates nothing else.

    Raises SpecError if the arena is too short, not contiguous, or not aligned to 64 bytes.
    """
    if arena.dtype != np.uint8 or arena.ndim != 1 or not arena.flags.c_contiguous:
        raise SpecError("arena is not a contiguous row of uint8")
    if arena.size < plan.total_bytes:
        raise SpecError(f"arena has {arena.size} bytes, the plan needs {plan.total_bytes}")
    if arena.size and arena.ctypes.data % ALIGNMENT:
        raise SpecError(f"arena does not start on a {ALIGNMENT}-byte boundary")
    return {
        name: np.ndarray(p.slot.shape, dtype=p.slot.dtype, buffer=arena.data, offset=p.offset)
        for name, p in plan.slots.items()
    }
