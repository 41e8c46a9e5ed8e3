"""Random words that are a pure function of their position, and stochastic rounding with them.

    mix(x):  x ^= x >> 16; x *= 0x7feb352d; x ^= x >> 15; x *= 0x846ca68b; x ^= x >> 16            mod 2**32
    key:     k = 0; for p in (seed_lo, seed_hi, update_lo, update_hi, stream): k = mix((k ^ p) + 0x9E3779B9)
    word(i): x = i * 0x9E3779B1 + k0; x ^= x >> 16; x *= 0x7feb352d; x ^= x >> 15; x ^= k1;
             x *= 0x846ca68b; x ^= x >> 16

with k0 = k and k1 = mix(k + 0x9E3779B9). `i` is the linear index of an element in stored, unpadded order. Nothing is
drawn in sequence, so blocks, batches and backends cannot change a bit.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import Final

import numpy as np

from edgerun.arrays import I32, I64, U32, Places
from edgerun.kernels.bounds import LANES

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9
_STRIDE: Final = 0x9E3779B1
_S15, _S16, _M1, _M2 = (np.array(x, np.uint32) for x in (15, 16, 0x7FEB352D, 0x846CA68B))


def _ramp(count: int) -> U32:
    """i * 0x9E3779B1 of the first words."""
    ramp: U32 = np.arange(count, dtype=np.uint32)
    ramp *= np.array(_STRIDE, np.uint32)
    return ramp


_RAMP: Final[U32] = _ramp(LANES)


class Use(IntEnum):
    """What a stream of words is for: stream = layer * 16 + use."""

    UPDATE = 0
    PULL = 1
    OMEGA = 2
    IMPORTANCE = 3
    HISTORY = 4
    DECAY = 5
    FEEDBACK = 6
    NORMALISE = 7
    GROWTH = 8


def stream(tensor: int, use: Use) -> int:
    """The stream of one plastic tensor (its index in the learning plan) and one use."""
    return tensor * 16 + use


def mix(x: int) -> int:
    x ^= x >> 16
    x = x * 0x7FEB352D & _MASK
    x ^= x >> 15
    x = x * 0x846CA68B & _MASK
    return x ^ x >> 16


def key(seed: int, update: int, stream: int) -> tuple[int, int]:
    """(k0, k1) for a 64-bit seed, a 64-bit update number and a stream."""
    k = mix((_root(seed, update) ^ stream) + _GOLDEN & _MASK)
    return k, mix(k + _GOLDEN & _MASK)


@lru_cache(maxsize=4)
def _root(seed: int, update: int) -> int:
    """What the keys of one update's streams have in common."""
    k = 0
    for part in (seed & _MASK, seed >> 32 & _MASK, update & _MASK, update >> 32 & _MASK):
        k = mix((k ^ part) + _GOLDEN & _MASK)
    return k


def fill_words(words: U32, keys: tuple[int, int], start: int = 0) -> None:
    """words[...] = word(start), word(start + 1), ... in C order.

    words  (any shape)  written, uint32, in one piece
    """
    flat = words.reshape(-1)
    for first in range(0, flat.size, LANES):
        part = flat[first : first + LANES]
        np.add(_RAMP[: part.size], np.array((start + first) * _STRIDE + keys[0] & _MASK, np.uint32), out=part)
        _scramble(part, keys[1])


def row_starts(rows: Places, n: int) -> U32:
    """Where the words of each row of n begin, before a key.    (r, 1)"""
    starts = rows.astype(np.uint32)
    starts *= np.array(n * _STRIDE & _MASK, np.uint32)
    return starts[:, None]


def fill_rows(words: U32, keys: tuple[int, int], starts: U32) -> None:
    """The words of some rows of a tensor: words[r, j] = word(rows[r] * n + j).

    words  (r, n)  written, uint32, in one piece     starts  (r, 1)  read, see `row_starts`
    """
    n = words.shape[1]
    ramp = _RAMP[:n] if n <= LANES else _ramp(n)
    np.add(starts + np.array(keys[0], np.uint32), ramp, out=words)
    _scramble(words, keys[1])


def _scramble(x: U32, k1: int) -> None:
    """What follows the first addition of `word`, in place."""
    t = np.right_shift(x, _S16)
    np.bitwise_xor(x, t, out=x)
    np.multiply(x, _M1, out=x)
    np.right_shift(x, _S15, out=t)
    np.bitwise_xor(x, t, out=x)
    np.bitwise_xor(x, np.array(k1, np.uint32), out=x)
    np.multiply(x, _M2, out=x)
    np.right_shift(x, _S16, out=t)
    np.bitwise_xor(x, t, out=x)


def stochastic_round(x: I32 | I64, k: int, words: U32) -> None:
    """x <- SR(x, k) = (x + (word & (2**k - 1))) >> k, in place; 0 <= k <= 30. Signed x as it is: SR(-x) is not -SR(x).

    x      (any shape)  updated, int64; or int32 where |x| + 2**k < 2**31
    words  same shape   read, uint32
    """
    if k:
        low = np.bitwise_and(words, np.array((1 << k) - 1, np.uint32))
        x += low.view(np.int32)  # under 2**30: the sign is free
        x >>= np.array(k, x.dtype)
