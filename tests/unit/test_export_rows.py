"""How many samples a bundle carries: as many as prove it, no more than its flash is worth."""

from __future__ import annotations

import numpy as np
import pytest

from exporters.data import Samples
from exporters.export import LEAST_ROWS, SAMPLE_BYTES, Options, affordable, probe_rows


def images(n: int, size: int) -> Samples:
    return Samples(np.zeros((n, size), np.int8), np.arange(n) % 4)


@pytest.mark.parametrize(("size", "rows"), [(64, 100), (1 << 12, 32), (1 << 20, LEAST_ROWS[1])])
def test_large_samples_make_a_short_probe_where_nothing_is_learned(size: int, rows: int) -> None:
    samples, held = images(200, size), np.arange(100, 200)
    found = probe_rows(samples, held, Options())
    assert len(found) == rows
    assert set(found) <= set(held)
    assert np.ptp(np.bincount(samples.y[found], minlength=4)) <= 1  # balanced
    np.testing.assert_array_equal(probe_rows(samples, held, Options(learn="prototypes")), held)


def test_a_self_test_has_eight_rows_at_least() -> None:
    assert affordable(images(1, SAMPLE_BYTES), LEAST_ROWS[0], 16) == 8
    assert affordable(images(1, 64), LEAST_ROWS[0], 16) == 16
