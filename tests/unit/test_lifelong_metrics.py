"""The figures of lifelong learning by hand, and what is no accuracy matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgerun import metrics
from edgerun.errors import DataError

R = ((0.9, 0.2, 0.1), (0.95, 0.8, 0.3), (0.6, 0.7, 0.5))
UNTRAINED = (0.5, 0.1, 0.15)


def test_figures_of_three_tasks_are_those_by_hand() -> None:
    assert metrics.accuracy(R) == pytest.approx((0.6 + 0.7 + 0.5) / 3)
    assert metrics.session_average(R) == pytest.approx((0.9 + (0.95 + 0.8) / 2 + (0.6 + 0.7 + 0.5) / 3) / 3)
    assert metrics.backward_transfer(R) == pytest.approx(((0.6 - 0.9) + (0.7 - 0.8)) / 2)
    assert metrics.forward_transfer(R, UNTRAINED) == pytest.approx(((0.2 - 0.1) + (0.3 - 0.15)) / 2)
    assert metrics.forgetting(R) == pytest.approx(((0.95 - 0.6) + (0.8 - 0.7)) / 2)


def test_forgetting_counts_only_what_had_been_learned() -> None:
    lucky = [[0.5, 0.9, 0.1], [0.5, 0.8, 0.1], [0.5, 0.8, 0.7]]  # the second task was best before it was trained
    assert metrics.forgetting(lucky) == 0


def test_one_task_compares_with_nothing() -> None:
    one = np.array([[0.75]])
    assert (metrics.accuracy(one), metrics.session_average(one)) == (0.75, 0.75)
    assert metrics.backward_transfer(one) is metrics.forward_transfer(one, [0.1]) is metrics.forgetting(one) is None


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        ([], "0 rows"),
        ([[]], r"1 rows of \[0\]"),
        ([[0.5, 0.5]], r"1 rows of \[2\]"),
        ([[0.5], [0.5, 0.1]], r"2 rows of \[1, 2\]"),
        ([[1.5]], "1.5"),
        ([[-0.1]], "-0.1"),
        ([[math.nan]], "nan"),
    ],
)
def test_what_is_no_matrix_is_refused(matrix: list[list[float]], words: str) -> None:
    with pytest.raises(DataError, match=words):
        metrics.accuracy(matrix)


def test_an_untrained_net_has_as_many_tasks() -> None:
    with pytest.raises(DataError, match="2 accuracies, the matrix 3 tasks"):
        metrics.forward_transfer(R, UNTRAINED[:2])
