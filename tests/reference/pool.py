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
    out = []
    for values in seen:
        k = sizes.index(len(values))
        out.append(clip(((sum(values) * m[k] + o[k]) >> s[k]) + spec.zero_point, spec.qmin, spec.qmax))
    return out
