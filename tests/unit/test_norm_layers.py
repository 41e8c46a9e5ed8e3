"""Layer normalisation in integers: the page's equation, exact on the longest rows, half a step from the real one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import norm as slow
from runs import buffered, rows, step_peak

from edgerun.arrays import Tensors
from edgerun.errors import ModelError, SpecError
from edgerun.kernels import norm
from edgerun.layers import LayerNorm
from exporters.nodes import Affine, FloatLayerNorm, Quantised, Range

NEURONS = 2048
MOST_BYTES = NEURONS + buffered(NEURONS)
TOP = (1 << 24) - 1

int8 = st.integers(-128, 127)
sizes = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)


def values(rng: np.random.Generator, width: int) -> np.ndarray:
    """Anything, nothing that varies, one value that stands out, and both ends in turn."""
    alone = np.full(width, -128)
    alone[rng.integers(width)] = 127
    return np.stack(
        [rng.integers(-128, 128, width), np.full(width, 9), alone, np.where(np.arange(width) % 2, -128, 127)]
    )


def wanted(spec: LayerNorm, tensors: Tensors, x: np.ndarray) -> list[list[int]]:
    parts = [tensors[f"l.{part}"].tolist() for part in ("multiplier", "offset")]
    return [slow.layer_norm(spec, *parts, row) for row in x.tolist()]


@given(
    shape=sizes, epsilon=st.one_of(st.integers(0, 1 << 51), st.integers(0, 1 << 12)), shift=st.integers(1, 44),
    zero_point=int8, clip=st.tuples(int8, int8).map(sorted), seed=st.integers(0, 99), gain=st.sampled_from([1, 8, 24]),
)  # fmt: skip
def test_a_row_is_the_page_s(
    shape: tuple[int, ...], epsilon: int, shift: int, zero_point: int, clip: list[int], seed: int, gain: int
) -> None:
    spec = LayerNorm(
        name="l", shape=shape, epsilon=epsilon, shift=shift, zero_point=zero_point, qmin=clip[0], qmax=clip[1]
    )
    rng, c = np.random.default_rng(seed), shape[-1]
    tensors: Tensors = {
        "l.multiplier": rng.integers(-(1 << gain) + 1, 1 << gain, c).astype(np.int32),
        "l.offset": rng.integers(-200 << shift, 200 << shift, c),
    }
    spec.certify(tensors, (128,), frozenset())
    x = values(rng, spec.outputs)
    assert rows(spec, tensors, x) == wanted(spec, tensors, x)


@pytest.mark.parametrize("x", [
    np.where(np.arange(1 << 14) % 2, -128, 127), np.r_[127, np.full((1 << 14) - 1, -128)], np.full(1 << 14, -128),
], ids=["the largest variance", "the largest deviation", "the largest sum"])  # fmt: skip
@pytest.mark.parametrize("epsilon", [0, 1 << 51])
def test_the_longest_rows_lose_no_bit(x: np.ndarray, epsilon: int) -> None:
    c = len(x)
    spec = LayerNorm(name="l", shape=(c,), epsilon=epsilon, shift=44)
    near = {"l.multiplier": np.full(c, TOP, np.int32), "l.offset": np.full(c, 1 << 43)}
    spec.certify(near, (128,), frozenset())
    assert rows(spec, near, x[None]) == wanted(spec, near, x[None])


@given(w=st.one_of(
    st.integers(1, (1 << 52) - 1),
    st.integers(2, (1 << 26) - 1).flatmap(lambda k: st.sampled_from([k * k - 1, k * k, k * k + 1])),
))  # fmt: skip
def test_the_reciprocal_root_is_the_integer_one(w: int) -> None:
    """Squares and their neighbours are where a rounded float root would show."""
    r, shift, power, exponent = (np.zeros(1, np.int64) for _ in range(4))
    power[0] = w
    norm.reciprocal_root(r, shift, power, np.zeros(1), exponent.astype(np.int32))
    t = (52 - w.bit_length()) // 2
    assert (r[0], shift[0]) == ((1 << 51) // math.isqrt(w << 2 * t), 27 - t)
    assert 1 << 25 <= r[0] <= 1 << 26


@given(c=st.integers(1, 40), epsilon=st.sampled_from([0, 7, 1 << 30]), seed=st.integers(0, 99))
def test_the_last_bit_of_a_normalised_value_is_right(c: int, epsilon: int, seed: int) -> None:
    """Offsets that take each value back to 0."""
    spec = LayerNorm(name="l", shape=(c,), epsilon=epsilon, shift=1)
    for row in values(np.random.default_rng(seed), c):
        offset = -2 * np.array(slow.normalised(row.tolist(), epsilon))
        tensors: Tensors = {"l.multiplier": np.full(c, 2, np.int32), "l.offset": offset}
        assert rows(spec, tensors, row[None]) == [[0] * c]


@given(c=st.integers(1, 300), seed=st.integers(0, 99))
def test_no_normalised_value_is_beyond_its_bound(c: int, seed: int) -> None:
    for row in values(np.random.default_rng(seed), c).tolist():
        assert max(map(abs, slow.normalised(row, 0))) <= (math.isqrt(c - 1) + 1) << 20


def test_products_that_int64_might_not_hold_are_refused() -> None:
    spec = LayerNorm(name="l", shape=(17,), epsilon=0, shift=1)
    most = (5 << 20) * TOP
    tensors = {"l.multiplier": np.full(17, -TOP, np.int32), "l.offset": np.full(17, -(1 << 62) + 1 + most)}
    assert spec.certify(tensors, (128,), frozenset()).bound == (1 << 62) - 1
    tensors["l.offset"][3] -= 1
    with pytest.raises(
        SpecError, match="layer l channel 3: normalised value times multiplier plus offset 4611686018427387904"
    ):
        spec.certify(tensors, (128,), frozenset())
    with pytest.raises(SpecError, match="layer l: 129 reaches it"):
        spec.certify(tensors, (129,), frozenset())


@pytest.mark.parametrize(("fields", "message"), [
    ({"shape": ((1 << 14) + 1,)}, r"has 16385 channels, above 2\*\*14"),
    ({"shape": (1 << 20, 17)}, r"holds 17825792 values, above 2\*\*24"),
    ({"qmin": 1, "qmax": 0}, "qmin 1 is above qmax 0"),
])  # fmt: skip
def test_what_is_no_layer_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        LayerNorm(name="l", **{"shape": (4,), "epsilon": 1, "shift": 20} | fields)


@pytest.mark.parametrize("shape", [(NEURONS,), (32, 64)])
def test_a_step_allocates_no_array(shape: tuple[int, ...]) -> None:
    c = shape[-1]
    tensors = {"l.multiplier": np.ones(c, np.int32), "l.offset": np.zeros(c, np.int64)}
    assert step_peak(LayerNorm(name="l", shape=shape, epsilon=1, shift=20), tensors, (NEURONS,)) < NEURONS + buffered(
        NEURONS
    )


# ------------------------------------------------------------------ the exporter


def real(q: Any, map_: Affine) -> np.ndarray:
    return map_.scale * (np.asarray(q, np.float64) - map_.zero_point)


def only(made: tuple[Quantised, ...]) -> Quantised:
    (quantised,) = made
    return quantised


def exact(node: FloatLayerNorm, x: Affine, q: np.ndarray) -> np.ndarray:
    """The real function in float64, of deviations that are integers: `forward` in float32 loses what cancels."""
    q, c = q.reshape(-1, *node.shape), node.shape[-1]
    deviation = x.scale / c * (c * q - q.sum(axis=-1, keepdims=True))
    root = np.sqrt((deviation**2).mean(axis=-1, keepdims=True) + node.epsilon)
    unit = np.divide(deviation, root, out=np.zeros_like(deviation), where=root > 0)
    return (unit * node.gamma + node.beta).reshape(len(q), -1)


@given(
    scale=st.floats(1e-3, 10.0), zero_point=int8, shape=sizes, epsilon=st.sampled_from([1e-5, 1e-12, 0.1, 0.0]),
    spread=st.sampled_from([0.01, 1.0, 30.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_output_is_half_a_step_from_the_real_one(
    scale: float, zero_point: int, shape: tuple[int, ...], epsilon: float, spread: float, seed: int
) -> None:
    rng, c = np.random.default_rng(seed), shape[-1]
    node = FloatLayerNorm("n", shape, spread * rng.normal(size=c), rng.normal(size=c), epsilon)
    x, q = Affine(scale, zero_point), values(rng, node.outputs)
    want = exact(node, x, q)
    found = only(node.quantise((x,), Range(min(0.0, want.min()), max(0.0, want.max()))))
    found.layer.certify(found.tensors, (128,), frozenset())
    got = real(rows(found.layer, found.tensors, q), found.output)
    # epsilon is rounded to 2**-8 of a step squared, over a variance of at least 1 / c: it shows on rows of a few values
    slack = 1e-5 * spread * c + 2.0**-9 * spread * (np.sqrt(c) if epsilon else 0)
    assert np.abs(got - want).max() <= 0.5 * found.output.scale * (1 + 1e-9) + slack


def test_what_it_computes_is_what_the_float_layer_computes() -> None:
    rng = np.random.default_rng(5)
    node = FloatLayerNorm("n", (20, 64), rng.normal(size=64).astype(np.float32), rng.normal(size=64).astype(np.float32))
    x = Affine(0.05, 12)
    q = rng.integers(-128, 128, (8, node.outputs))
    want = node.forward(real(q, x).astype(np.float32))
    np.testing.assert_allclose(want, exact(node, x, q), atol=1e-5)
    found = only(node.quantise((x,), Range(float(want.min()), float(want.max()))))
    error = np.abs(real(rows(found.layer, found.tensors, q), found.output) - want) / found.output.scale
    assert error.max() <= 0.501


def test_the_file_s_map_is_taken() -> None:
    node = FloatLayerNorm("n", (4,), np.ones(4), np.zeros(4), output=Affine(0.5, -3))
    found = only(node.quantise((Affine(1.0, 0),), Range(0, 0)))
    assert isinstance(found.layer, LayerNorm)
    assert (found.output, found.layer.zero_point) == (Affine(0.5, -3), -3)
    assert rows(found.layer, found.tensors, np.array([[5, 5, 5, 5]])) == [[-3] * 4]


def test_gammas_keep_24_bits() -> None:
    for gamma in (1.0, np.nextafter(1.0, 0), 0.7, 1000.0):
        node = FloatLayerNorm("n", (2,), np.array([gamma, -gamma / 3]), np.zeros(2), output=Affine(1.0, 0))
        found = only(node.quantise((Affine(1.0, 0),), Range(0, 0)))
        assert isinstance(found.layer, LayerNorm)
        first = int(found.tensors["n.multiplier"][0])
        assert 1 << 23 <= first < 1 << 24
        assert math.isclose(first * 2.0 ** (20 - found.layer.shift), gamma, rel_tol=2.0**-24)


ONES = np.ones(2)
LONG = np.ones(1 << 15)
UNIT = Affine(1.0, 0)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: FloatLayerNorm("n", (3,), ONES, ONES), r"layer n: gamma has shape \(2,\), the last axis \(3,\)"),
    (lambda: FloatLayerNorm("n", (2,), ONES, np.ones((1, 2))), r"layer n: beta has shape \(1, 2\)"),
    (lambda: FloatLayerNorm("n", (2,), ONES, ONES, -1.0), "layer n: epsilon -1.0 is not a finite number from 0"),
    (lambda: quantised((2,), ONES, ONES, Affine(1e-9, 0)), r"layer n: epsilon is 1.024e\+16 of the source's steps"),
    (lambda: quantised((2,), ONES * 1e9, ONES, UNIT), "layer n: gamma is 1.275e.11 steps of the output, not under"),
    (lambda: quantised((2,), ONES, ONES * 1e9, UNIT), "layer n channel 0: beta is 1.275e.11 steps of the output"),
    (lambda: quantised((1 << 15,), LONG, LONG, UNIT), "layer n: 32768 channels are above 16384"),
])  # fmt: skip
def test_what_no_layer_can_hold_is_named(make: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make()


def quantised(shape: tuple[int, ...], gamma: np.ndarray, beta: np.ndarray, x: Affine) -> tuple[Quantised, ...]:
    return FloatLayerNorm("n", shape, gamma, beta).quantise((x,), Range(-1, 1))
