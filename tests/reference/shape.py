"""Moved values, one at a time, by their positions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from edgerun.layers import Concat, Pad, Slice, Take, Transpose


def flat(shape: Sequence[int], at: Sequence[int]) -> int:
    """The place of a position in a flat vector, last axis fastest."""
    place = 0
    for size, k in zip(shape, at, strict=True):
        place = place * size + k
    return place


def outputs_of(shape: Sequence[int]) -> itertools.product[tuple[int, ...]]:
    return itertools.product(*(range(size) for size in shape))


def concat(spec: Concat, xs: Sequence[Sequence[int]]) -> list[int]:
    y = []
    for at in outputs_of(spec.shape):
        k, along = 0, at[spec.axis]
        while along >= spec.shapes[k][spec.axis]:
            along -= spec.shapes[k][spec.axis]
            k += 1
        place = (*at[: spec.axis], along, *at[spec.axis + 1 :])
        y.append(xs[k][flat(spec.shapes[k], place)])
    return y


def transpose(spec: Transpose, x: Sequence[int]) -> list[int]:
    y = []
    for at in outputs_of(spec.shape):
        place = [0] * len(at)
        for k, axis in enumerate(spec.perm):
            place[axis] = at[k]
        y.append(x[flat(spec.input_shape, place)])
    return y


def pad(spec: Pad, x: Sequence[int]) -> list[int]:
    y = []
    for at in outputs_of(spec.shape):
        place = [k - before for k, before in zip(at, spec.before, strict=True)]
        inside = all(0 <= k < size for k, size in zip(place, spec.input_shape, strict=True))
        y.append(x[flat(spec.input_shape, place)] if inside else spec.value)
    return y


def cut(spec: Slice, x: Sequence[int]) -> list[int]:
    kept = []
    for start, stop, step in zip(spec.start, spec.stop, spec.step, strict=True):
        along, k = [], start
        while (k < stop) if step > 0 else (k > stop):
            along.append(k)
            k += step
        kept.append(along)
    return [x[flat(spec.input_shape, at)] for at in itertools.product(*kept)]


def take(spec: Take, index: Sequence[int], x: Sequence[int]) -> list[int]:
    y = []
    for at in outputs_of(spec.shape):
        place = list(at)
        place[spec.axis] = index[at[spec.axis]]
        y.append(x[flat(spec.input_shape, place)])
    return y
