"""The exported prototype head: centred and whitened features, exact class sums, silence for what never fired."""

from __future__ import annotations

import numpy as np
import pytest

from edgerun.errors import DataError
from exporters.head import class_sums, inverse_root, whitening
from exporters.measure import real, run_dense

RNG = np.random.default_rng(8)
MIX = np.diag([1.0, 2.0, 4.0, 6.0, 1.0, 2.0]) + 0.3 * RNG.normal(size=(6, 6))
LABELS = RNG.integers(0, 3, 600)
Z = np.rint(RNG.normal(size=(600, 6)) @ MIX * 4 + 10 * RNG.normal(size=(3, 6))[LABELS]).astype(np.int64)


def test_integers_follow_the_float_whitening() -> None:
    part = whitening(Z, LABELS, reach=128)
    matrix, mean = inverse_root(Z.astype(np.float64), LABELS)
    want = (Z - mean) @ matrix.T
    got = real(run_dense(part, Z), part.output)
    inside = np.abs(want) < 127 * part.output.scale
    assert inside.mean() > 0.99
    assert np.abs(got - want)[inside].max() < 2 * part.output.scale
    assert part.layer.input_bound == 128


def test_whitened_classes_are_rounder_and_centred() -> None:
    part = whitening(Z, LABELS, reach=128)
    white = real(run_dense(part, Z), part.output)

    def pooled(z: np.ndarray) -> np.ndarray:
        return np.mean([np.cov(z[k == LABELS].T) for k in range(3)], axis=0)

    before, after = np.linalg.cond(pooled(Z)), np.linalg.cond(pooled(white))
    assert after < before / 3
    assert before > 10
    means = np.mean([white[k == LABELS].mean(axis=0) for k in range(3)], axis=0)
    assert np.abs(means).max() < part.output.scale


def test_a_unit_that_never_fired_does_not_shout_later() -> None:
    silent = np.column_stack([Z, np.zeros(len(Z), np.int64)])
    matrix, _ = inverse_root(silent.astype(np.float64), LABELS)
    spread = np.mean([Z[k == LABELS].var(axis=0).mean() for k in range(3)])
    assert matrix[-1, -1] < 8 / np.sqrt(spread)


def test_class_sums_are_exact_and_empty_classes_are_zero() -> None:
    tensors = class_sums(Z, LABELS, 5)
    for k in range(5):
        assert tensors["head.sum"][k].tolist() == Z[k == LABELS].sum(axis=0).tolist()
        assert tensors["head.count"][k] == (k == LABELS).sum()
    assert not tensors["head.sum"][3:].any()
    assert {array.dtype.name for array in tensors.values()} == {"int32"}


def test_one_sample_a_class_is_not_enough() -> None:
    with pytest.raises(DataError, match="at least one class with two samples"):
        whitening(Z[:3], np.arange(3), reach=128)
