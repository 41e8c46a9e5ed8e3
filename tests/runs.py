"""Layers at work in tests: what a step gives, every row alone and all at once with the same bits, what it allocates."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from edgerun.arrays import AnyArray, Tensors
from edgerun.layers import Layer
from edgerun.ops import OPS

WORDS_OF_32_BITS = np.intp(0).nbytes == 4
needs_wide_words = pytest.mark.skipif(WORDS_OF_32_BITS, reason="integers of that script have 64 bits where a word has")


def buffered(count: int) -> int:
    """Bytes that numpy may take for itself while so many values are added up or looked up: it has buffers for int64 and
    for indices where a word has 32 bits."""
    return 12 * count * WORDS_OF_32_BITS


def stepped(spec: Layer, tensors: Tensors, x: AnyArray) -> AnyArray:
    """What a layer of one source gives for x, (width,) or (n, width)."""
    run = OPS[type(spec)](spec, tensors, x.shape[:-1])
    run.step(x.astype(np.float32))
    return run.out.astype(np.int64)


def rows(spec: Layer, tensors: Tensors, *xs: AnyArray) -> list[list[int]]:
    """What a layer without state gives for each row of its sources (n, width), alone and in a batch."""
    single, batch = OPS[type(spec)](spec, tensors, ()), OPS[type(spec)](spec, tensors, (len(xs[0]),))
    batch.step(*(x.astype(np.float32) for x in xs))
    found = []
    for row in zip(*xs, strict=True):
        single.step(*(x.astype(np.float32) for x in row))
        found.append(single.out.astype(np.int64).tolist())
    assert batch.out.astype(np.int64).tolist() == found
    return found


def peak_of(act: Callable[[], object]) -> int:
    """The most bytes that Python and numpy held beyond what they held before, while `act` ran."""
    act()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        act()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def step_peak(spec: Layer, tensors: Tensors, widths: Sequence[int]) -> int:
    """The most bytes that one step on one sample takes beyond what the layer holds."""
    run, xs = OPS[type(spec)](spec, tensors, ()), [np.ones(width, np.float32) for width in widths]
    return peak_of(lambda: run.step(*xs))
