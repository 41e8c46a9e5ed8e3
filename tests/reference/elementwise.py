"""Sums, products and tables in plain integers, one output at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from reference.integers import clip, half_up

from edgerun.layers import Add, Mul


def pairs(a: tuple[int, ...], b: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """The flat positions in both sources that meet in each output, in order; an axis of size 1 stands still."""
    for at in itertools.product(*(range(max(m, n)) for m, n in zip(a, b, strict=True))):
        yield position(a, at), position(b, at)


def position(shape: Sequence[int], at: Sequence[int]) -> int:
    flat = 0
    for size, k in zip(shape, at, strict=True):
        flat = flat * size + (k if size > 1 else 0)
    return flat


def add(spec: Add, a: Sequence[int], b: Sequence[int]) -> list[int]:
    ma, mb = spec.multipliers
    sums = [(a[i] * ma + b[j] * mb + spec.offset) >> spec.shift for i, j in pairs(*spec.shapes)]
    return [clip(total + spec.zero_point, spec.qmin, spec.qmax) for total in sums]


def multiply(spec: Mul, a: Sequence[int], b: Sequence[int]) -> list[int]:
    za, zb = spec.zeros
    products = [(a[i] - za) * (b[j] - zb) * spec.multiplier for i, j in pairs(*spec.shapes)]
    return [clip(half_up(p, spec.shift) + spec.zero_point, spec.qmin, spec.qmax) for p in products]


def lookup(table: Sequence[int], x: Sequence[int]) -> list[int]:
    return [table[q + 128] for q in x]
