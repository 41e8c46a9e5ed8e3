"""A step in units of the largest gradient: bounded, in the paper's direction, and forgetting as it should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden import make_vectors
from hypothesis import given
from hypothesis import strategies as st
from reference import superspike as paper

from edgerun.arrays import AnyArray
from edgerun.kernels import rmaxprop
from edgerun.kernels.noise import Use, fill_words, key, stream

ONE = 1 << 15


def decode(code: int) -> int:
    return code if code < 8 else (8 + (code & 7)) << ((code >> 3) - 1)


def words_of(shape: tuple[int, ...], number: int) -> AnyArray:
    words = np.zeros(shape, np.uint32)
    fill_words(words, key(1, number, 7))
    return words


def normalised(gradient: AnyArray, code: AnyArray, fade: int = 0, floor: int = 0, number: int = 0) -> AnyArray:
    found = gradient.astype(np.int64)
    rmaxprop.normalise(found, code, fade, floor, words_of(code.shape, number))
    return found


@given(st.integers(0, rmaxprop.LARGEST))
def test_encode_gives_the_least_code_that_holds_the_magnitude(magnitude: int) -> None:
    code = int(rmaxprop.encode(np.array(magnitude, np.int64)))
    assert 0 <= code <= rmaxprop.TOP
    assert decode(code) >= magnitude
    assert code == 0 or decode(code - 1) < magnitude


@given(st.integers(-(1 << 62), 1 << 62), st.integers(0, 255), st.integers(0, 4096), st.integers(0, 32))
def test_no_step_is_longer_than_one_and_none_turns_round(gradient: int, code: int, fade: int, floor: int) -> None:
    codes = np.array([[code]], np.uint8)
    found = int(normalised(np.array([[gradient]]), codes, fade, floor)[0, 0])
    assert abs(found) <= ONE
    assert found * gradient >= 0
    assert decode(int(codes[0, 0])) >= min(max(abs(gradient), 1 << floor), rmaxprop.LARGEST)


@given(st.integers(1, rmaxprop.LARGEST))
def test_a_first_gradient_makes_nearly_a_whole_step(gradient: int) -> None:
    found = int(normalised(np.array([[-gradient]]), np.zeros((1, 1), np.uint8))[0, 0])
    assert ONE * 8 // 9 - 1 <= -found <= ONE


def test_the_quotient_is_that_of_the_codes_value() -> None:
    codes = np.arange(1, 256, dtype=np.uint8)[None, :]
    values = np.array([[decode(c) for c in range(1, 256)]])
    gradient = values * 3 // 4
    found = normalised(gradient, codes.copy())
    assert np.abs(found - ONE * gradient / values).max() <= 2


def test_the_largest_gradient_fades_by_the_papers_gamma() -> None:
    gamma, updates = 0.983, 400
    fade = round(-np.log2(gamma) * 1024)
    codes = np.full((20, 20), 200, np.uint8)
    for number in range(updates):
        normalised(np.zeros((20, 20), np.int64), codes, fade, 0, number)
    octaves = (200 - codes.astype(float)).mean() / 8
    assert octaves == pytest.approx(-np.log2(gamma) / 2 * updates, rel=0.03)
    assert np.ptp(codes) > 0


def test_a_floor_holds_small_gradients_down() -> None:
    codes = np.zeros((1, 2), np.uint8)
    assert normalised(np.array([[16, 256]]), codes, floor=8).tolist() == [[ONE // 16, ONE]]
    assert [decode(int(c)) for c in codes[0]] == [256, 256]


def test_steps_are_those_of_the_float_rule() -> None:
    """Over a run of noisy gradients of many scales, within the ninth that rounding the code up costs."""
    rng, shape, gamma = np.random.default_rng(4), (8, 16), 0.9
    codes, twin = np.zeros(shape, np.uint8), paper.RMaxProp(shape, 1.0, gamma)
    scale = 10.0 ** rng.uniform(2, 8, shape)
    total, want = np.zeros(shape), np.zeros(shape)
    for number in range(200):
        gradient = np.rint(scale * rng.normal(0.3, 1, shape)).astype(np.int64)
        found = normalised(gradient, codes, round(-np.log2(gamma) * 1024), 0, number)
        step = -twin.step(gradient.astype(float))
        assert np.abs(found / ONE - step).max() < 0.45
        total, want = total + found / ONE, want + step
    assert paper.cosine(total, want) > 0.995
    assert total.sum() / want.sum() == pytest.approx(0.95, abs=0.06)


def test_updates_give_the_stored_bits() -> None:
    with np.load(Path(__file__).parents[1] / "golden" / "vectors.npz", allow_pickle=False) as file:
        a = {name.rpartition(".")[2]: file[name] for name in file.files if name.startswith("rmaxprop.update.")}
    code, words = a["code_before"].copy(), np.zeros(a["code_before"].shape, np.uint32)
    for number, gradient in enumerate(a["gradient"].copy()):
        fill_words(words, key(make_vectors.SEED, number, stream(2, Use.NORMALISE)))
        rmaxprop.normalise(gradient, code, 330, 4, words)
        assert gradient.tolist() == a["normal"][number].tolist()
        assert code.tolist() == a["codes"][number].tolist()
