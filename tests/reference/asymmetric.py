"""Layers whose weights have zero points once more, as a backend of int8 products adds them: by row sums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reference.conv import part, places, taps
from reference.integers import requantise

from edgerun.layers import Conv, Dense, Depthwise


def outputs(spec: Dense | Conv | Depthwise, tensors: Mapping[str, Any], x: list[int]) -> list[int]:
    """One flat sample: for each output, sum(w x) - z sum(x) + b, requantised."""
    bias, m, s, zero = (part(spec, tensors, name) for name in ("bias", "multiplier", "shift", "weight_zero"))
    found = []
    for channel, pairs in channels(spec, tensors, x):
        total = sum(w * v for w, v in pairs) - zero[channel] * sum(v for _, v in pairs) + bias[channel]
        found.append(requantise(total, m[channel], s[channel], spec.zero_point, spec.qmin, spec.qmax))
    return found


def channels(
    spec: Dense | Conv | Depthwise, tensors: Mapping[str, Any], x: list[int]
) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Of each output its channel, and the stored weights beside what each of them meets."""
    weight = part(spec, tensors, "weight")
    if isinstance(spec, Dense):
        for channel, row in enumerate(weight):
            yield channel, list(zip(row, x, strict=True))
        return
    count = spec.input_shape[2]
    for at in places(spec):
        for f in range(spec.filters):
            pairs = []
            for r, t, pixel in taps(spec, *at):
                seen = [spec.input_zero_point] * count if pixel is None else x[pixel : pixel + count]
                if isinstance(spec, Conv):
                    pairs += zip(weight[f][r][t], seen, strict=True)
                else:
                    pairs.append((weight[f][r][t], seen[f // (spec.filters // count)]))
            yield f, pairs
