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

import numpy as np

from edgerun.arrays import I64, U32

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


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
    k = 0
    for part in (seed & _MASK, seed >> 32 & _MASK, update & _MASK, update >> 32 & _MASK, stream):
        k = mix((k ^ part) + _GOLDEN & _MASK)
    return k, mix(k + _GOLDEN & _MASK)


def fill_words(words: U32, keys: tuple[int, int], start: int = 0) -> None:
    """words[...] = word(start), word(start + 1), ... in C order.

    words  (any shape)  written, uint32
    """
    flat = words.reshape(-1)
    flat[:] = np.arange(start, start + flat.size, dtype=np.uint64).astype(np.uint32)
    flat *= np.uint32(0x9E3779B1)
    flat += np.uint32(keys[0])
    flat ^= flat >> np.uint32(16)
    flat *= np.uint32(0x7FEB352D)
    flat ^= flat >> np.uint32(15)
    flat ^= np.uint32(keys[1])
    flat *= np.uint32(0x846CA68B)
    flat ^= flat >> np.uint32(16)


def stochastic_round(x: I64, k: int, words: U32) -> None:
    """x <- SR(x, k) = (x + (word & (2**k - 1))) >> k, in place; 0 <= k <= 30. Signed x as it is: SR(-x) is not -SR(x).

    x      (any shape)  updated, int64
    words  same shape   read, uint32
    """
    if k:
        x += words & np.uint32((1 << k) - 1)
        x >>= k
