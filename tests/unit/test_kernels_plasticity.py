"""Changing a weight: every rounding is the page's, the importance byte is a fair float, and no pull overshoots."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from reference import integers

from edgerun.kernels import plasticity
from edgerun.kernels.noise import fill_words, key, stochastic_round
from edgerun.spec import NO_PULL

TOP = integers.decode(231)
CODES = np.arange(232, dtype=np.uint8)
WORDS = st.integers(0, 2**32 - 1)


def words_of(count: int, stream: int = 0) -> np.ndarray:
    words = np.empty(count, np.uint32)
    fill_words(words, key(11, 22, stream))
    return words


@given(seed=st.integers(0, 2**64 - 1), update=st.integers(0, 2**64 - 1), stream=st.integers(0, 2**20), i=WORDS)
def test_a_word_equals_the_definition(seed: int, update: int, stream: int, i: int) -> None:
    words = np.empty(2, np.uint32)
    fill_words(words, key(seed, update, stream), i)
    assert words.tolist() == [integers.word(seed, update, stream, i), integers.word(seed, update, stream, i + 1)]


@given(x=st.integers(-(1 << 55), 1 << 55), k=st.integers(0, 30), word=WORDS)
def test_stochastic_rounding_equals_the_definition(x: int, k: int, word: int) -> None:
    rounded = np.array([x], np.int64)
    stochastic_round(rounded, k, np.array([word], np.uint32))
    assert int(rounded[0]) == integers.stochastic(x, k, word)


def test_every_shadow_has_the_nearest_weight() -> None:
    shadow = np.arange(-32512, 32513, dtype=np.int16)
    weights = np.zeros(shadow.size, np.int8)
    plasticity.weights_from_shadow(weights, shadow)
    assert weights.tolist() == [min(127, max(-127, integers.half_up(int(s), 8))) for s in shadow]
    plasticity.weights_from_shadow(weights[:255], np.arange(-127, 128, dtype=np.int16) * 256)
    assert weights[:255].tolist() == list(range(-127, 128))  # a factory weight survives the round trip


@given(gradient=st.integers(-(1 << 37), 1 << 37), shift=st.integers(1, 30))
def test_the_small_gradient_saturates(gradient: int, shift: int) -> None:
    small = np.zeros(1, np.int32)
    plasticity.small_gradient(small, np.array([gradient]), shift)
    assert int(small[0]) == integers.sat16(integers.half_up(gradient, shift))


@given(gradient=st.integers(-(1 << 37), 1 << 37), eta=st.integers(0, 32767), shift=st.integers(0, 30), word=WORDS)
def test_the_wanted_step_descends(gradient: int, eta: int, shift: int, word: int) -> None:
    wanted = np.zeros(1, np.int64)
    plasticity.wanted_step(wanted, np.array([gradient]), eta, shift, np.array([word], np.uint32))
    whole = integers.stochastic(-gradient * eta, shift, word)
    assert int(wanted[0]) == min(max(whole, -(1 << 30)), 1 << 30)


@given(norm=st.integers(0, 1 << 82), eta=st.integers(0, 32767), shift=st.integers(0, 30), limit=st.integers(1, 1 << 24))
def test_a_long_step_is_halved_until_it_is_short_enough_and_no_further(
    norm: int, eta: int, shift: int, limit: int
) -> None:
    extra = plasticity.limit_shift(norm, eta, shift, limit)
    assert shift + extra <= 30

    def fits(e: int) -> bool:
        return (norm << 24) * eta**2 <= limit**2 << 2 * (shift + e)

    assert fits(extra) or shift + extra == 30
    assert extra == 0 or not fits(extra - 1)
    assert plasticity.limit_shift(norm, eta, shift, 0) == 0


@given(shadow=st.integers(-32512, 32512), wanted=st.integers(-(1 << 60), 1 << 60), limit=st.integers(1, 32512))
def test_a_write_says_what_it_really_did(shadow: int, wanted: int, limit: int) -> None:
    made, held = np.zeros(1, np.int32), np.array([shadow], np.int16)
    plasticity.write(made, held, np.array([wanted]), limit)
    after = integers.clip(shadow + integers.clip(wanted, -limit, limit), -32512, 32512)
    assert (int(held[0]), int(made[0])) == (after, after - shadow)


@given(
    omega=st.integers(-(1 << 31), (1 << 31) - 1), small=st.integers(-32768, 32767), made=st.integers(-65024, 65024),
    word=WORDS,
)  # fmt: skip
def test_credit_equals_the_definition_and_saturates(omega: int, small: int, made: int, word: int) -> None:
    held = np.array([omega], np.int32)
    plasticity.credit(held, np.array([small], np.int32), np.array([made], np.int32), np.array([word], np.uint32))
    assert int(held[0]) == integers.sat32(omega + integers.stochastic(-(small * made), 8, word))


# ------------------------------------------------------------------ the importance byte


def test_importance_codes_rise_strictly() -> None:
    values = plasticity.decode_importance(CODES)
    assert values.tolist() == [integers.decode(int(c)) for c in CODES]
    assert (np.diff(values) > 0).all()


def test_every_code_survives_its_own_round_trip_under_any_word() -> None:
    code = np.zeros(232, np.uint8)
    for stream in range(20):
        plasticity.encode_importance(code, plasticity.decode_importance(CODES), words_of(232, stream))
        assert (code == CODES).all()


@given(values=st.lists(st.integers(0, 1 << 40), min_size=2, max_size=50), word=WORDS)
def test_encoding_is_the_definition_and_keeps_order(values: list[int], word: int) -> None:
    values.sort()
    code = np.zeros(len(values), np.uint8)
    plasticity.encode_importance(code, np.array(values), np.full(len(values), word, np.uint32))
    assert code.tolist() == [integers.encode(value, word) for value in values]
    assert (np.diff(code.astype(int)) >= 0).all()


@given(value=st.integers(0, (1 << 13) - 1))
@example(value=(1 << 13) - 1)
def test_encoding_is_unbiased_to_the_last_bit(value: int) -> None:
    """Over all words that differ in the bits dropped, the mean of what is stored is the value itself."""
    count = 1 << max(0, value.bit_length() - 4)
    code = np.zeros(count, np.uint8)
    plasticity.encode_importance(code, np.full(count, value), np.arange(count, dtype=np.uint32))
    assert int(plasticity.decode_importance(code).sum()) == value * count


def test_a_sum_of_small_terms_does_not_stall() -> None:
    code = np.zeros(4000, np.uint8)
    for step in range(300):
        plasticity.encode_importance(code, plasticity.decode_importance(code) + 3, words_of(4000, step))
    assert abs(plasticity.decode_importance(code).mean() / 900 - 1) < 0.02


@pytest.mark.parametrize("value", [TOP, TOP + 1, 1 << 40])
def test_importance_saturates_at_231(value: int) -> None:
    code = np.zeros(500, np.uint8)
    plasticity.encode_importance(code, np.full(500, value), words_of(500))
    assert set(code.tolist()) == {231}


# ------------------------------------------------------------------ pull and boundary


@given(
    code=st.integers(0, 231), ref=st.integers(-32512, 32512), shadow=st.integers(-32512, 32512),
    strength=st.integers(0, NO_PULL), word=WORDS,
)  # fmt: skip
@example(code=231, ref=1, shadow=0, strength=0, word=2**32 - 1)
@example(code=231, ref=-1, shadow=0, strength=0, word=0)
@example(code=231, ref=32512, shadow=-32512, strength=0, word=2**32 - 1)
@example(code=3, ref=32512, shadow=-32512, strength=30, word=2**32 - 1)
def test_a_pull_equals_the_definition_and_never_overshoots(
    code: int, ref: int, shadow: int, strength: int, word: int
) -> None:
    wanted = np.array([1000])
    arrays = np.array([code], np.uint8), np.array([ref], np.int16), np.array([shadow], np.int16)
    plasticity.pull(wanted, *arrays, strength, np.array([word], np.uint32))
    got = int(wanted[0]) - 1000
    assert got == integers.pull(code, ref - shadow, strength, word)
    assert min(0, ref - shadow) <= got <= max(0, ref - shadow)
    assert code or not got


def test_where_nothing_pulls_any_more() -> None:
    """One step under it the largest importance still does."""
    ends = []
    for strength in (NO_PULL - 1, NO_PULL):
        wanted, words = np.zeros(1, np.int64), np.array([2**32 - 1], np.uint32)
        code, ref, shadow = np.array([231], np.uint8), np.array([1], np.int16), np.array([0], np.int16)
        plasticity.pull(wanted, code, ref, shadow, strength, words)
        ends.append(bool(wanted.any()))
    assert ends == [True, False]


def test_the_strongest_pull_comes_home_and_stays() -> None:
    rng = np.random.default_rng(0)
    shadow, ref = (rng.integers(-32512, 32513, 300).astype(np.int16) for _ in range(2))
    before, made = np.abs(shadow.astype(int) - ref), np.zeros(300, np.int32)
    for step in range(300):
        wanted = np.zeros(300, np.int64)
        plasticity.pull(wanted, np.full(300, 231, np.uint8), ref, shadow, 0, words_of(300, step))
        plasticity.write(made, shadow, wanted, 32512)
        now = np.abs(shadow.astype(int) - ref)
        assert (now <= before).all()
        before = now
    assert not before.any()


@given(
    code=st.integers(0, 231), omega=st.integers(-(1 << 31), (1 << 31) - 1), ref=st.integers(-32512, 32512),
    shadow=st.integers(-32512, 32512), damping=st.integers(1, 1 << 30), word=WORDS,
)  # fmt: skip
@example(code=231, omega=(1 << 31) - 1, ref=0, shadow=0, damping=1, word=2**32 - 1)
def test_a_boundary_equals_the_definition_resets_credit_and_moves_the_anchor(
    code: int, omega: int, ref: int, shadow: int, damping: int, word: int
) -> None:
    codes, refs = np.array([code], np.uint8), np.array([ref], np.int16)
    credit, shadows = np.array([omega], np.int32), np.array([shadow], np.int16)
    plasticity.consolidate(codes, refs, credit, shadows, damping, np.array([word], np.uint32))
    assert int(codes[0]) == integers.importance(code, omega, shadow - ref, damping, word) >= code
    assert (int(credit[0]), int(refs[0]), int(shadows[0])) == (0, shadow, shadow)
