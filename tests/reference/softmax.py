"""Softmax and its logarithm in plain integers, one row at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from edgerun.layers import LogSoftmax, Softmax


def rows_of(shape: Sequence[int], x: Sequence[int]) -> list[Sequence[int]]:
    n = shape[-1]
    return [x[k : k + n] for k in range(0, len(x), n)]


def softmax(spec: Softmax, table: Sequence[int], x: Sequence[int]) -> list[int]:
    y = []
    for row in rows_of(spec.shape, x):
        e = [table[max(row) - q] for q in row]
        for part in e:
            steps = Fraction(part * spec.multiplier, sum(e) << spec.shift)
            y.append(min(math.floor(steps + Fraction(1, 2)) + spec.zero_point, 127))
    return y


def logarithm(total: int) -> int:
    """ln(total / 2**30) in Q12."""
    k = total.bit_length() - 1
    cell = (total << 10 >> k) - 1024
    return (k - 30) * round(math.log(2) * 4096) + round(4096 * math.log1p((cell + 0.5) / 1024))


def log_softmax(spec: LogSoftmax, table: Sequence[int], x: Sequence[int]) -> list[int]:
    md, ml = spec.multipliers
    y = []
    for row in rows_of(spec.shape, x):
        log = logarithm(sum(table[max(row) - q] for q in row))
        for q in row:
            steps = (1 << spec.shift - 1) - (max(row) - q) * md - log * ml >> spec.shift
            y.append(max(steps + spec.zero_point, -128))
    return y
