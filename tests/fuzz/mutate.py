"""Small changes to bytes and to trees of values, drawn from a seeded generator: the same seed gives the same case."""

from __future__ import annotations

import copy
import math
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

EDGES: Final = (0, 1, 2, 3, 7, 8, 63, 64, 127, 128, 255, 256, 4096, 32767, 32768, 65535, 1 << 16, 1 << 20, 1 << 24)
FAR: Final = ((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 53) + 1, (1 << 63) - 1)
INTEGERS: Final = (*EDGES, *FAR, *(-value for value in (*EDGES, *FAR)), -(1 << 63))
REALS: Final = (
    0.0, -0.0, 1.0, -1.0, 0.5, 1e-9, 1e-30, 5e-324, 1e9, 3e38, 1e308, -1e30, math.inf, -math.inf, math.nan,
)  # fmt: skip
TEXTS: Final = (
    "", "x", "input", "head", "head.sum", "selftest.x", "a\nb", "\x1b[2J\x00", "\u202e\u2028", "ü" * 9, "../../x",
    "n" * 70, "n" * 5000, "%s%n{0}", "-1", "NaN", "int8", "float32",
)  # fmt: skip


# ------------------------------------------------------------------ bytes


def flip(rng: random.Random, data: bytearray, other: bytes) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(rng: random.Random, data: bytearray, other: bytes) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))


def put_integer(rng: random.Random, data: bytearray, other: bytes) -> None:
    """A boundary value, little-endian, mostly where one may lie."""
    width = rng.choice((1, 2, 4, 4, 8))
    at = rng.randrange(len(data))
    at -= at % width if rng.random() < 0.8 else 0
    value = rng.choice(INTEGERS) & ((1 << 8 * width) - 1)
    data[at : at + width] = value.to_bytes(width, "little")[: len(data) - at]


def nudge_integer(rng: random.Random, data: bytearray, other: bytes) -> None:
    """A 32-bit number a little larger or smaller: lengths and offsets that are off by some."""
    if len(data) >= 8:
        at = rng.randrange(len(data) - 4) & ~3
        value = struct.unpack_from("<I", data, at)[0] + rng.choice((-64, -8, -4, -2, -1, 1, 2, 4, 8, 64))
        struct.pack_into("<I", data, at, value & 0xFFFFFFFF)


def erase(rng: random.Random, data: bytearray, other: bytes) -> None:
    at = rng.randrange(len(data))
    del data[at : at + size(rng)]


def copy_within(rng: random.Random, data: bytearray, other: bytes) -> None:
    a, b, n = rng.randrange(len(data)), rng.randrange(len(data)), size(rng)
    part = data[a : a + n]
    if rng.random() < 0.5:
        data[b:b] = part
    else:
        data[b : b + len(part)] = part


def splice(rng: random.Random, data: bytearray, other: bytes) -> None:
    a, b, n = rng.randrange(len(other)), rng.randrange(len(data)), size(rng)
    if rng.random() < 0.2:
        data[b:] = other[a:]
    else:
        data[b : b + n] = other[a : a + n]


def cut(rng: random.Random, data: bytearray, other: bytes) -> None:
    del data[rng.randrange(len(data)) :]


def fill(rng: random.Random, data: bytearray, other: bytes) -> None:
    at, n = rng.randrange(len(data)), size(rng)
    data[at : at + n] = bytes([rng.choice((0, 255, 65))]) * len(data[at : at + n])


BYTES: Final[Sequence[Callable[[random.Random, bytearray, bytes], None]]] = (
    flip, flip, overwrite, put_integer, put_integer, nudge_integer, nudge_integer, erase, copy_within, splice, cut,
    fill,
)  # fmt: skip


def size(rng: random.Random) -> int:
    return 1 << rng.randrange(9)


def times(rng: random.Random) -> int:
    """1 to 8, mostly few."""
    return min(1 + int(rng.expovariate(0.7)), 8)


def mutated_bytes(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A few changes to some bytes; `other` lends parts."""
    changed = bytearray(data)
    for _ in range(times(rng)):
        if changed:
            rng.choice(BYTES)(rng, changed, other or data)
    return bytes(changed)


# ------------------------------------------------------------------ trees


def hostile(rng: random.Random, value: Any) -> Any:
    """Another value in place of this one: mostly of its own type, at a boundary or just beside it."""
    if rng.random() < 0.04:
        return rng.choice((None, True, 0, 1.5, "", "x", [], {}, [[]], [1, 2], {"a": 1}))
    match value:
        case bool():
            return not value
        case int():
            return rng.choice((rng.choice(INTEGERS), value + rng.choice((-2, -1, 1, 2)), value * 2, value // 2, -value))
        case float():
            return rng.choice((rng.choice(REALS), -value, value * 1e6, value * 1e-6))
        case str():
            return rng.choice((rng.choice(TEXTS), value + "x", value[:-1]))
        case bytes():
            return mutated_bytes(rng, value, value) if value else b"\x01"
        case np.ndarray():
            return hostile_array(rng, value)
        case list():
            return hostile_list(rng, value)
    return rng.choice((0, 1, "x", None))


def hostile_list(rng: random.Random, value: list[Any]) -> list[Any]:
    changed = list(value)
    match rng.randrange(5):
        case 0 if changed:
            del changed[rng.randrange(len(changed))]
        case 1 if changed:
            changed.insert(rng.randrange(len(changed) + 1), copy.deepcopy(rng.choice(changed)))
        case 2 if len(changed) > 1:
            a, b = rng.sample(range(len(changed)), 2)
            changed[a], changed[b] = changed[b], changed[a]
        case 3 if changed and not isinstance(changed[0], tuple):
            k = rng.randrange(len(changed))
            changed[k] = hostile(rng, changed[k])
        case _:
            changed = changed[:1] * rng.choice((0, 2, 3, 9, 300))
    return changed


def hostile_array(rng: random.Random, value: Any) -> Any:
    """Other values, another shape or another type."""
    changed = np.array(value)
    match rng.randrange(6):
        case 0 if changed.dtype.kind in "fiub":
            return changed.astype(rng.choice((np.float32, np.float64, np.int8, np.int64, np.uint8, np.float16)))
        case 1:
            return changed.reshape(-1)[: rng.randrange(changed.size + 1)]
        case 2:
            return changed[None] if rng.random() < 0.5 else changed.reshape(-1)
        case 3 if changed.ndim:
            return np.concatenate([changed, changed], axis=rng.randrange(changed.ndim))
        case 4 if changed.ndim > 1:
            return np.swapaxes(changed, 0, changed.ndim - 1)
    if changed.dtype.kind not in "fiu" or not changed.size:
        return np.zeros(rng.choice(((), (0,), (1,), (3, 3))))
    flat = changed.reshape(-1)
    whole = rng.random() < 0.3
    if changed.dtype.kind == "f":
        with np.errstate(over="ignore"):
            number = np.float64(rng.choice(REALS)).astype(changed.dtype)
    else:
        ends = np.iinfo(changed.dtype)
        number = min(max(rng.choice(INTEGERS), int(ends.min)), int(ends.max))
    flat[slice(None) if whole else rng.randrange(changed.size)] = number
    return changed


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key or index) of a tree of lists, dictionaries and objects with attributes."""
    for holder, key, value in children(tree):
        yield holder, key
        yield from places(value)


def children(tree: Any) -> Iterator[tuple[Any, Any, Any]]:
    if isinstance(tree, dict):
        yield from ((tree, key, value) for key, value in tree.items())
    elif isinstance(tree, list):
        yield from ((tree, k, value) for k, value in enumerate(tree))
    elif hasattr(tree, "__dict__"):
        yield from ((tree, key, value) for key, value in vars(tree).items())


def mutate_tree(rng: random.Random, tree: Any, donors: Any) -> None:
    """One change somewhere in a tree; `donors` is another whose parts may be moved here."""
    found = list(places(tree))
    if not found:
        return
    holder, key = rng.choice(found)
    value = holder[key] if isinstance(holder, dict | list) else getattr(holder, key)
    draw = rng.random()
    if draw < 0.08 and isinstance(holder, dict | list):
        del holder[key]
    elif draw < 0.13 and isinstance(holder, dict):
        holder[rng.choice((*TEXTS, f"{key}x"))] = holder.pop(key)
    elif draw < 0.28:
        put(holder, key, donated(rng, value, tree if rng.random() < 0.5 else donors))
    else:
        put(holder, key, hostile(rng, value))


def donated(rng: random.Random, value: Any, donors: Any) -> Any:
    """A part of a tree that is of the same type as `value`, or `value` changed where there is none."""
    parts = [part for holder in (donors,) for _, _, part in walk(holder) if type(part) is type(value)]
    return copy.deepcopy(rng.choice(parts)) if parts else hostile(rng, value)


def walk(tree: Any) -> Iterator[tuple[Any, Any, Any]]:
    for holder, key, value in children(tree):
        yield holder, key, value
        yield from walk(value)


def put(holder: Any, key: Any, value: Any) -> None:
    if isinstance(holder, dict | list):
        holder[key] = value
    else:
        setattr(holder, key, value)
