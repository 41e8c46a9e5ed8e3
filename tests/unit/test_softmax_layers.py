"""Softmax in integers: the page's equation, half a step from the real function, and no sum that overflows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import softmax as slow
from runs import buffered, rows, step_peak

from edgerun.errors import ModelError, SpecError
from edgerun.layers import LogSoftmax, Softmax
from edgerun.layers.softmax import ONE
from exporters.nodes import Affine, FloatSoftmax, Quantised, Range
from exporters.nodes.softmax import exponentials

NEURONS = 2048
MOST_BYTES = NEURONS + buffered(NEURONS)
NOWHERE = Range(0, 0)

int8 = st.integers(-128, 127)
sizes = st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple)
tables = st.one_of(
    st.floats(1e-6, 8.0).map(exponentials),
    st.integers(0, 99).map(lambda seed: np.r_[ONE, np.random.default_rng(seed).integers(0, ONE + 1, 255)]),
)


def values(rng: np.random.Generator, width: int) -> np.ndarray:
    """Anything, all equal, and the two ends side by side."""
    ends = np.where(np.arange(width) % 2, -128, 127)
    return np.stack([rng.integers(-128, 128, width), np.full(width, 5), ends, rng.integers(-9, 10, width)])


@given(
    shape=sizes, table=tables, multiplier=st.integers(1, (1 << 16) - 1), shift=st.integers(0, 8), zero_point=int8,
    seed=st.integers(0, 99),
)  # fmt: skip
def test_probabilities_are_the_page_s(
    shape: tuple[int, ...], table: np.ndarray, multiplier: int, shift: int, zero_point: int, seed: int
) -> None:
    spec = Softmax(name="l", shape=shape, multiplier=multiplier, shift=shift, zero_point=zero_point)
    tensors = {"l.exponentials": table.astype(np.int32)}
    spec.certify(tensors, (128,), frozenset())
    x = values(np.random.default_rng(seed), spec.outputs)
    assert rows(spec, tensors, x) == [slow.softmax(spec, table.tolist(), row) for row in x.tolist()]


@given(
    shape=sizes, table=tables, multipliers=st.tuples(*[st.integers(0, (1 << 24) - 1)] * 2), shift=st.integers(1, 44),
    zero_point=int8, seed=st.integers(0, 99),
)  # fmt: skip
def test_their_logarithms_are_the_page_s(
    shape: tuple[int, ...], table: np.ndarray, multipliers: tuple[int, int], shift: int, zero_point: int, seed: int
) -> None:
    spec = LogSoftmax(name="l", shape=shape, multipliers=multipliers, shift=shift, zero_point=zero_point)
    tensors = {"l.exponentials": table.astype(np.int32)}
    spec.certify(tensors, (128,), frozenset())
    x = values(np.random.default_rng(seed), spec.outputs)
    assert rows(spec, tensors, x) == [slow.log_softmax(spec, table.tolist(), row) for row in x.tolist()]


@given(total=st.integers(ONE, 1 << 50))
def test_the_logarithm_of_a_sum_is_within_its_cell(total: int) -> None:
    assert abs(slow.logarithm(total) / 4096 - math.log(total / ONE)) <= 0.0013


# ------------------------------------------------------------------ the largest sums

MANY = 1 << 20


def test_the_largest_sum_is_exact() -> None:
    """2**20 equal values, each 1.0: the sum is 2**50, and the shifts take it to 2**59."""
    table = {"l.exponentials": np.full(256, ONE, np.int32)}
    spec = Softmax(name="l", shape=(MANY,), multiplier=(1 << 16) - 1, shift=8, zero_point=7)
    assert spec.certify(table, (128,), frozenset()).bound == 1 << 50
    run = rows(spec, table, np.full((1, MANY), -128))
    assert set(run[0]) == {7}
    steep = {"l.exponentials": np.r_[ONE, np.full(255, 1)].astype(np.int32)}
    (got,) = rows(
        Softmax(name="l", shape=(MANY,), multiplier=100, shift=0), steep, np.r_[127, np.zeros(MANY - 1)][None]
    )
    assert got[:2] == [round(100 * ONE / (ONE + MANY - 1)) - 128, -128]
    log = LogSoftmax(name="l", shape=(MANY,), multipliers=(0, 1 << 20), shift=28, zero_point=127)
    assert rows(log, table, np.full((1, MANY), 3))[0][0] == 127 - round(math.log(MANY) * 16)


@pytest.mark.parametrize("kind", [Softmax, LogSoftmax])
def test_a_table_that_would_divide_by_nothing_or_overflow_is_refused(kind: Any) -> None:
    fields = {"multiplier": 1, "shift": 0} if kind is Softmax else {"multipliers": (1, 1), "shift": 1}
    spec = kind(name="l", shape=(4,), **fields)
    with pytest.raises(SpecError, match=r"layer l: exponentials\[0\] 0 is under 1"):
        spec.certify({"l.exponentials": np.r_[0, np.full(255, ONE)]}, (128,), frozenset())
    beyond = kind(name="l", shape=(2, 1 << 20), **fields)
    with pytest.raises(SpecError, match=r"layer l: sum of exponentials 1125899907891200 is above 2\*\*50"):
        beyond.certify({"l.exponentials": np.full(256, ONE + 1)}, (128,), frozenset())
    with pytest.raises(SpecError, match="layer l: 255 reaches it"):
        spec.certify({"l.exponentials": exponentials(0.1)}, (255,), frozenset())
    (field,) = spec.fields()
    assert (field.low, field.high) == (0, ONE)


def test_a_logarithm_needs_a_sum_that_is_never_under_one() -> None:
    spec = LogSoftmax(name="l", shape=(4,), multipliers=(1, 1), shift=1)
    with pytest.raises(SpecError, match=r"layer l: exponentials\[0\] 1073741823 is not 2\*\*30"):
        spec.certify({"l.exponentials": np.full(256, ONE - 1)}, (128,), frozenset())


@pytest.mark.parametrize("shape", [(NEURONS,), (32, 64), (8, 8, 32)])
def test_a_step_allocates_no_array(shape: tuple[int, ...]) -> None:
    table = {"l.exponentials": exponentials(0.1)}
    assert step_peak(Softmax(name="l", shape=shape, multiplier=256, shift=0), table, (NEURONS,)) < NEURONS + buffered(
        NEURONS
    )
    log = LogSoftmax(name="l", shape=shape, multipliers=(9, 9), shift=9)
    assert step_peak(log, table, (NEURONS,)) < MOST_BYTES


# ------------------------------------------------------------------ the exporter


def real(q: Any, map_: Affine) -> np.ndarray:
    return map_.scale * (np.asarray(q, np.float64) - map_.zero_point)


def only(made: tuple[Quantised, ...]) -> Quantised:
    (quantised,) = made
    return quantised


@given(
    scale=st.floats(1e-4, 2.0), zero_point=int8, beta=st.sampled_from([1.0, 0.3, 2.5]), shape=sizes,
    seed=st.integers(0, 99), log=st.booleans(), step=st.sampled_from([None, 1 / 256, 0.003, 0.0625]),
)  # fmt: skip
def test_every_output_is_half_a_step_from_the_real_one(
    scale: float, zero_point: int, beta: float, shape: tuple[int, ...], seed: int, log: bool, step: float | None
) -> None:
    output = None if step is None else Affine(step, 100 if log else -120)
    node, x = FloatSoftmax("s", shape, beta, log, output=output), Affine(scale, zero_point)
    q = values(np.random.default_rng(seed), node.outputs)
    want = node.forward(real(q, x).astype(np.float32)).astype(np.float64)
    found = only(node.quantise((x,), Range(float(want.min()), float(max(0, want.max())))))
    found.layer.certify(found.tensors, (128,), frozenset())
    got = real(rows(found.layer, found.tensors, q), found.output)
    low, high = real([-128, 127], found.output)
    slack = 0.0013 + 1e-5 * np.abs(want).max() if log else 1e-4 * found.output.scale + 2e-6
    assert np.abs(got - np.clip(want, low, high)).max() <= 0.5 * found.output.scale + slack


def test_logarithms_keep_the_order_of_the_logits() -> None:
    """Also where calibration saw a wider range than 255 of the source's steps."""
    node, x = FloatSoftmax("s", (100,), log=True), Affine(0.05, 0)
    found = only(node.quantise((x,), Range(-40.0, 0.0)))
    assert found.output == Affine(0.05, 127)
    q = np.random.default_rng(1).permutation(np.arange(-20, 80))[None]
    (got,) = rows(found.layer, found.tensors, q)
    assert np.argsort(got).tolist() == np.argsort(q[0]).tolist()


def test_the_usual_map_of_a_probability() -> None:
    found = only(FloatSoftmax("s", (3,)).quantise((Affine(0.1, 0),), NOWHERE))
    assert isinstance(found.layer, Softmax)
    assert (found.layer.multiplier, found.layer.shift, found.output) == (256, 0, Affine(1 / 256, -128))
    assert found.tensors["s.exponentials"].dtype == np.int32
    assert found.tensors["s.exponentials"][0] == ONE
    assert rows(found.layer, found.tensors, np.array([[127, -128, -128]])) == [[127, -128, -128]]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: FloatSoftmax("s", (3,), beta=0.0), "layer s: beta 0.0 is not a finite number above 0"),
    (lambda: FloatSoftmax("s", (3,), beta=math.inf), "layer s: beta inf"),
    (lambda: FloatSoftmax("s", (3,), output=Affine(1e-6, 0)).quantise((Affine(1, 0),), NOWHERE),
     r"layer s: scale 1e-06 of the output is outside \(2\*\*-16, 2\*\*8\]"),
    (lambda: FloatSoftmax("s", (3,), output=Affine(1e6, 0)).quantise((Affine(1, 0),), NOWHERE), "scale 1e.06 of the"),
    (lambda: FloatSoftmax("s", (3,), log=True, output=Affine(1e9, 0)).quantise((Affine(1, 0),), NOWHERE),
     r"layer s: scale 1e-09 is outside \[2\*\*-21, 2\*\*23\)"),
])  # fmt: skip
def test_what_no_layer_can_hold_is_named(make: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make()
