"""Layer normalisation in plain integers, one row at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reference.integers import clip

from edgerun.layers import LayerNorm


def normalised(x: Sequence[int], epsilon: int) -> list[int]:
    """One row in Q20."""
    c, total = len(x), sum(x)
    w = max(256 * (c * sum(q * q for q in x) - total * total) + epsilon, 1)
    t = (52 - w.bit_length()) // 2
    r = (1 << 51) // math.isqrt(w << 2 * t)
    return [((c * q - total) * r + (1 << 26 - t)) >> (27 - t) for q in x]


def layer_norm(spec: LayerNorm, multiplier: Sequence[int], offset: Sequence[int], x: Sequence[int]) -> list[int]:
    c = spec.shape[-1]
    y = []
    for first in range(0, len(x), c):
        row = normalised(x[first : first + c], spec.epsilon)
        steps = [(n * m + b) >> spec.shift for n, m, b in zip(row, multiplier, offset, strict=True)]
        y += [clip(step + spec.zero_point, spec.qmin, spec.qmax) for step in steps]
    return y
