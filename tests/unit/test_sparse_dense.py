"""Skipping zeros changes no bit and takes no memory while it runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import step_peak

from edgerun.arrays import Tensors
from edgerun.kernels.sparse import rows_of, sum_rows
from edgerun.layers import Dense
from edgerun.ops import dense
from edgerun.ops.dense import DenseRun


@given(seed=st.integers(0, 1 << 30), n=st.integers(1, 30), m=st.integers(1, 30), density=st.sampled_from([0, 0.1, 1]))
def test_sums_by_rows_are_those_of_the_whole(seed: int, n: int, m: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    weights = (rng.integers(-127, 128, (n, m)) * (rng.random((n, m)) < density)).astype(np.float32)
    x = rng.integers(-128, 128, n).astype(np.float32)
    rows, sums = rows_of(weights), np.zeros(m, np.float32)
    sum_rows(sums, x, rows, np.zeros_like(rows.weights))
    np.testing.assert_array_equal(sums, x @ weights)
    assert len(rows.weights) == np.count_nonzero(weights) + (weights == 0).all(axis=0).sum()


def layer(multiplier: int, shift: int, density: float, low: int, high: int) -> tuple[Dense, Tensors]:
    rng = np.random.default_rng(multiplier)
    spec = Dense(name="a", inputs=784, outputs=300, zero_point=-3)
    kept = rng.random((300, 784)) < density
    kept[7] = False
    return spec, {
        "a.weight": (rng.integers(low, high + 1, (300, 784)) * kept).astype(np.int8),
        "a.bias": rng.integers(-9999, 9999, 300, dtype=np.int32),
        "a.multiplier": np.full(300, multiplier, np.int32),
        "a.shift": np.full(300, shift, np.uint8),
    }


CARRIERS = {
    "float32-folded": (1, 10, 1, 127),
    "float32-dot": (9_000_001, 34, 1, 127),
    "int64": (9_000_001, 46, 127, 127),
}


@pytest.mark.parametrize(("carrier", "numbers"), CARRIERS.items(), ids=CARRIERS)
def test_one_sample_skips_zeros_and_gives_the_same_bits(
    carrier: str, numbers: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    multiplier, shift, low, high = numbers
    spec, tensors = layer(multiplier, shift, 0.03, low, high)
    if carrier != "int64":
        assert spec.proof(tensors).carrier == carrier
    skipping, batch = DenseRun(spec, tensors, ()), DenseRun(spec, tensors, (5,))
    monkeypatch.setattr(dense, "SKIP_SIZE", 1 << 30)
    whole = DenseRun(spec, tensors, ())
    x = np.random.default_rng(1).integers(-128, 128, (5, 784)).astype(np.float32)
    x[0], x[1] = 127, -128
    batch.step(x)
    for k in range(5):
        skipping.step(x[k])
        whole.step(x[k])
        np.testing.assert_array_equal(skipping.out, whole.out)
        np.testing.assert_array_equal(skipping.out, batch.out[k])


def test_a_step_that_skips_allocates_no_array() -> None:
    spec, tensors = layer(9_000_001, 34, 0.03, -127, 127)
    assert step_peak(spec, tensors, (784,)) < 2048  # the products alone are 28 kB


@pytest.mark.parametrize(("density", "skips"), [(0.03, True), (0.04, False)])
def test_zeros_are_skipped_where_it_pays(density: float, skips: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    monkeypatch.setattr(dense, "rows_of", lambda weights: used.append(1) or rows_of(weights))
    spec, tensors = layer(9_000_001, 34, density, -127, 127)
    DenseRun(spec, tensors, ())
    assert bool(used) == skips
    used.clear()
    DenseRun(spec, tensors, (2,))
    assert not used


def test_learned_weights_are_exact_whatever_they_come_to() -> None:
    """First a few that float32 holds and that rows would do for; then sums over 2**24, one under a rounding edge."""
    spec = Dense(name="a", inputs=1640, outputs=80)
    tensors: Tensors = {
        "a.weight": np.zeros((80, 1640), np.int8),
        "a.bias": np.zeros(80, np.int32),
        "a.multiplier": np.ones(80, np.int32),
        "a.shift": np.full(80, 18, np.uint8),
    }
    run, weight = DenseRun(spec, tensors, ()), tensors["a.weight"]
    weight[0, 0] = 1
    run.load_weights("weight", slice(None))
    edge = 100 * 2**18 - 2**17 - 1  # odd: float32 would round it up, over the edge
    x = np.full(1640, 127, np.float32)
    x[1617:] = 1
    rest = edge - 1617 * 127 * 127
    weight[:, :1617] = 127
    weight[:, 1617 : 1617 + rest // 127] = 127
    weight[:, -1] = rest % 127
    weight[1, -1] += 1
    run.load_weights("weight", slice(0, 1))
    assert run.out.tolist() == [0] * 80
    run.step(x)
    assert run.out[:2].tolist() == [99, 0]  # the rest has not been told
    run.load_weights("weight", slice(1, None))
    run.step(x)
    assert run.out.tolist() == [99, 100] + [99] * 78
