"""The golden words are the contract that every backend keeps."""

import numpy as np
import pytest

from edgerun.kernels.noise import fill_words, key, stochastic_round

GOLDEN = {
    (1, 0, 0): (0xC16F2142, 0xDD6BAF32, 0x686F85F6, 0x9F7797C3),
    (1, 5, 3): (0xF1B3D45F, 0x6F312778, 0x38785898, 0x87A35B67),
}


@pytest.mark.parametrize("position", GOLDEN, ids=str)
def test_golden_words(position: tuple[int, int, int]) -> None:
    words = np.empty(4, np.uint32)
    fill_words(words, key(*position))
    assert tuple(int(w) for w in words) == GOLDEN[position]


def test_words_depend_on_position_and_not_on_blocks() -> None:
    whole, parts = np.empty((6, 7), np.uint32), np.empty((6, 7), np.uint32)
    keys = key(99, 12345678901, 17)
    fill_words(whole, keys)
    fill_words(parts[:2], keys, 0)
    fill_words(parts[2:], keys, 14)
    assert (whole == parts).all()


@pytest.mark.parametrize("k", [0, 1, 8, 30])
def test_stochastic_rounding_is_unbiased_and_never_off_by_one_or_more(k: int) -> None:
    words = np.empty(200_000, np.uint32)
    fill_words(words, key(7, 3, 0))
    value = -((5 << k) // 3) - 1
    rounded = np.full(words.size, value, np.int64)
    stochastic_round(rounded, k, words)
    exact = value / (1 << k)
    assert np.abs(rounded - exact).max() < 1
    assert abs(rounded.mean() - exact) < 5 * 0.5 / np.sqrt(words.size)
