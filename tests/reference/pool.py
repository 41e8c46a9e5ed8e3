"""Pools once more, one number at a time, in Python integers. Images lie as (height, width, channel)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reference.conv import part, places, taps
from reference.integers import clip

from edgerun.layers import AveragePool, MaxPool


def pool(spec: MaxPool | AveragePool, tensors: Mapping[str, Any], image: list[int]) -> list[int]:
    """One flat image through one pool."""
    seen = [
        [image[pixel + c] for _, _, pixel in taps(spec, y, x) if pixel is not None]
        for y, x in places(spec)
        for c in range(spec.input_shape[2])
    ]
    if isinstance(spec, MaxPool):
        return [clip(max(values), spec.qmin, spec.qmax) for values in seen]
    sizes = sorted({len(values) for values in seen})
    m, o, s = (part(spec, tensors, name) for name in ("multiplier", "offset", "shift"))
    return [mean(spec, sum(values), *(x[sizes.index(len(values))] for x in (m, o, s))) for values in seen]


def mean(spec: AveragePool, total: int, m: int, o: int, s: int) -> int:
    """A sum, rounded: a remainder under 2**-15 of a step, or of 0, is a half that `o` sent up."""
    steps, remainder = divmod(total * m + o, 1 << s)
    if spec.ties != "up" and remainder < max(1 << s >> 15, 1):
        even = spec.ties == "even" and steps % 2 == 1
        away = spec.ties == "away" and steps + spec.zero_point <= 0
        steps -= even or away
    return clip(steps + spec.zero_point, spec.qmin, spec.qmax)
