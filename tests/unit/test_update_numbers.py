"""What numpy leaves out of an update, or does in narrower numbers, changes no bit: beside whole numbers of Python."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import integers

from edgerun.arrays import Tensors
from edgerun.kernels import bounds, eprop, noise, plasticity, spiking
from edgerun.learn import stages
from edgerun.spec import PlasticRate

SEED, NUMBER, INDEX = 77, 5, 3


def learned(rate: PlasticRate, found: stages.Factors, shadow: np.ndarray) -> tuple[Tensors, int]:
    """A tensor of profile `standard` after one update."""
    state: Tensors = {"shadow.w": shadow.copy()}
    for name, slot in stages.scratch_slots(shadow.shape[1]).items():
        state[name] = np.full(slot.shape, 99, slot.dtype)
    weights = np.zeros(shadow.shape, np.int8)
    plasticity.weights_from_shadow(weights, shadow)
    changed = stages.update(rate, INDEX, found, weights, state, (), gradient_shift=8, seed=SEED, number=NUMBER)
    return {"shadow": state["shadow.w"], "weights": weights}, changed


def by_hand(rate: PlasticRate, found: stages.Factors, shadow: np.ndarray) -> tuple[list[list[int]], int]:
    """The same, weight by weight."""
    gradient = found.history.T.astype(object) @ found.post.astype(object)
    after, changed, stream = shadow.astype(object), 0, noise.stream(INDEX, noise.Use.UPDATE)
    for i, j in np.ndindex(shadow.shape):
        word = integers.word(SEED, NUMBER, stream, i * shadow.shape[1] + j)
        step = integers.stochastic(-int(gradient[i, j]) * rate.eta, rate.shift, word)
        new = int(after[i, j]) + integers.clip(step, -rate.max_step, rate.max_step)
        new = integers.clip(new, -32512, 32512)
        changed += (new - int(after[i, j])) ** 2
        after[i, j] = new
    return after.tolist(), changed


SHAPE = (37, 6)


def case(rng: np.random.Generator, steps: int, *, reach: int, still: float) -> tuple[stages.Factors, np.ndarray]:
    history, post = (rng.integers(-reach, reach, (steps, n)).astype(np.int16) for n in SHAPE)
    history[:, rng.random(SHAPE[0]) < still] = 0
    if rng.random() < 0.5:
        history, post = np.abs(history), np.abs(post)  # sums of one sign are the largest
    floats = post.astype(np.float32) if rng.random() < 0.7 else None
    shadow = rng.integers(-32512, 32513, SHAPE).astype(np.int16)
    return stages.Factors(history, post, 0, floats), np.where(rng.random(SHAPE) < 0.3, shadow, shadow >> 4)


@pytest.mark.parametrize("steps", [1, 5, 70, 128])
@pytest.mark.parametrize(("eta", "shift"), [(1, 20), (1, 0), (30000, 30), (30000, 12), (0, 9), (32767, 0)])
def test_every_carrier_gives_the_same_update(steps: int, eta: int, shift: int) -> None:
    for seed, (reach, still) in enumerate(((3, 0.6), (300, 0.5), (3000, 0.9), (32767, 0.0), (3, 1.0))):
        rng = np.random.default_rng([seed, steps, eta, shift])
        found, shadow = case(rng, steps, reach=reach, still=still)
        rate = PlasticRate(tensor="w", eta=eta, shift=shift, max_step=int(rng.choice([1, 512, 32512])))
        (state, changed), want = learned(rate, found, shadow), by_hand(rate, found, shadow)
        assert (state["shadow"].tolist(), changed) == want
        assert state["weights"].tolist() == [[integers.half_up(x, 8) for x in row] for row in want[0]]


def test_a_factory_weight_of_minus_128_moves_where_nothing_comes_in() -> None:
    found, shadow = case(np.random.default_rng(0), 1, reach=300, still=0.8)
    shadow[found.history[0].argmin()] = shadow[-1] = -128 * 256
    rate = PlasticRate(tensor="w", eta=1, shift=4)
    state, changed = learned(rate, found, shadow)
    assert (state["shadow"].tolist(), changed) == by_hand(rate, found, shadow)
    assert state["shadow"].min() == -32512


def test_a_step_that_would_pass_the_end_stops_there() -> None:
    found = stages.Factors(np.full((1, 4), 5, np.int16), np.array([[1, -1, 0, 1, -1, 1]], np.int16))
    rate, shadow = PlasticRate(tensor="w", eta=1, shift=0), np.full((4, 6), 32509, np.int16)
    shadow[2:] = -32510
    state, changed = learned(rate, found, shadow)
    assert (state["shadow"].tolist(), changed) == by_hand(rate, found, shadow)
    assert (state["shadow"].min(), state["shadow"].max()) == (-32512, 32512)


TERMS = [(1, 1), (4099, 70), (4099, 140), (32767, 4), (23, 2900), (32767, 32767), (-32768, -32768)]


@pytest.mark.parametrize("spare", [0, 40, 2000, 40000])
@pytest.mark.parametrize(("trace", "signal"), TERMS)
def test_spans_are_exact_where_all_terms_are_of_one_sign(trace: int, signal: int, spare: int) -> None:
    """And sums odd: over 2**24, by two tiles of 4099 x 70 or one of 4099 x 140, a float32 has none that are."""
    history, post = np.full((128, 9), trace, np.int16), np.full((128, 7), signal, np.int16)
    post[0], post[::3, 0] = 1, 1
    out, want = np.zeros((9, 7), np.int64), history.T.astype(object) @ post.astype(object)
    loads, top = eprop.tile_loads(post), eprop.largest(history)
    eprop.gradient_spans(out, history, post.astype(np.float32), top, loads, np.zeros(spare, np.float32))
    assert out.tolist() == want.tolist()
    eprop.gradient(out, history, post)
    assert out.tolist() == want.tolist()


@given(decay=st.integers(0, 32768), reach=st.integers(1, 127), seed=st.integers(0, 999), signed=st.booleans())
def test_a_trace_that_cannot_saturate_does_not(decay: int, reach: int, seed: int, signed: bool) -> None:
    rng = np.random.default_rng(seed)
    pre = rng.choice([-reach, reach] if signed else [reach], (90, 4)).astype(np.int8)
    pre[:, 0], pre[:, 1] = reach, -reach if signed else reach
    history, x, carry = np.zeros((90, 4), np.int16), [0] * 4, [0] * 4
    eprop.traces(history, pre, decay, reach)
    gain = eprop.trace_gain(decay, reach)
    for t in range(90):
        for k in range(4):
            x[k], carry[k] = integers.leak(x[k], carry[k], decay, int(pre[t, k]) << gain)
        assert history[t].tolist() == x


@pytest.mark.parametrize(("decay", "reach"), [(32768, 127), (32760, 100), (32767, 1)])
def test_a_trace_that_can_saturate_does(decay: int, reach: int) -> None:
    history, x, carry = np.zeros((400, 1), np.int16), 0, 0
    eprop.traces(history, np.full((400, 1), reach, np.int8), decay, reach)
    for t in range(400):
        x, carry = integers.leak(x, carry, decay, reach)
        assert int(history[t, 0]) == x


@pytest.mark.parametrize("count", [0, 1, 119, 120, 121, 960])
def test_few_inputs_give_the_sums_of_all(count: int) -> None:
    rng = np.random.default_rng(count)
    weights: Any = rng.integers(-127, 128, (960, 70)).astype(np.float32)
    x, product, few = np.zeros(960, np.float32), np.full(70, 9, np.float32), spiking.few_of(weights, ())
    x[rng.permutation(960)[:count]] = rng.integers(-3, 4, count)
    assert few is not None
    assert len(few.x) == 120
    spiking.weighted(product, x, weights, few)
    assert product.tolist() == (x @ weights).tolist()
    assert spiking.few_of(weights, (2,)) is None
    assert spiking.few_of(weights[:900], ()) is None


@given(rows=st.lists(st.integers(0, 2**20), min_size=1, max_size=9), n=st.integers(1, 50), seed=st.integers(0, 2**63))
def test_words_of_rows_are_the_words_of_their_places(rows: list[int], n: int, seed: int) -> None:
    places, keys = np.array(rows, np.intp), noise.key(seed, NUMBER, INDEX)
    found, one = np.zeros((len(rows), n), np.uint32), np.zeros(n, np.uint32)
    noise.fill_rows(found, keys, noise.row_starts(places, n))
    for row, place in zip(found, rows, strict=True):
        noise.fill_words(one, keys, place * n)
        assert row.tolist() == one.tolist()


def test_words_go_on_where_a_stretch_of_lanes_ends() -> None:
    size, keys = 2 * bounds.LANES + 7, noise.key(SEED, NUMBER, INDEX)
    words, row = np.zeros(size, np.uint32), np.zeros((1, size), np.uint32)
    noise.fill_words(words, keys, 2**32 - 9)
    noise.fill_rows(row, keys, noise.row_starts(np.array([0]), size))
    for i in (0, 9, bounds.LANES - 1, bounds.LANES, size - 1):
        assert int(words[i]) == integers.word(SEED, NUMBER, INDEX, (2**32 - 9 + i) % 2**32)
        assert int(row[0, i]) == integers.word(SEED, NUMBER, INDEX, i)


@pytest.mark.parametrize("size", [1, bounds.FEW, bounds.LANES, bounds.LANES + 1, 3 * bounds.LANES])
@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "float32"])
def test_a_clamp_cuts_every_value(size: int, dtype: str) -> None:
    x = np.random.default_rng(size).integers(-300, 300, (size, 1)).astype(dtype)
    want = np.clip(x, -100, 77)
    bounds.clamp(x, -100, 77)
    assert (x == want).all()
