"""Pruning keeps as many weights as it says, the largest, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.errors import ModelError
from exporters.float_net import FloatNet
from exporters.nodes import FloatDense, FloatGru, FloatUnary
from exporters.prune import by_chance, density_of, largest, magnitude
from exporters.sensitivity import bit_layers

RNG = np.random.default_rng(2)


def net() -> FloatNet:
    cell = FloatGru(
        "cell", 2, RNG.normal(size=(30, 6)), RNG.normal(size=(30, 10)), np.ones(30), recurrent_bias=np.ones(30)
    )
    return FloatNet(
        "net",
        (12,),
        (cell, FloatUnary("squash", (10,), "tanh"), FloatDense("last", RNG.normal(size=(20, 10)), np.ones(20))),
    )


@given(seed=st.integers(0, 1 << 20), n=st.integers(1, 60), density=st.floats(0.01, 1))
def test_the_largest_are_kept(seed: int, n: int, density: float) -> None:
    values = np.random.default_rng(seed).normal(size=n)
    mask = largest(values, density)
    assert mask.sum() == max(1, round(density * n))
    assert np.abs(values[mask]).min() >= np.abs(values[~mask]).max(initial=0)


@pytest.mark.parametrize("prune", [magnitude, by_chance])
def test_each_layer_keeps_its_share(prune: object) -> None:
    whole = net()
    sparse = magnitude(whole, 0.1) if prune is magnitude else by_chance(whole, 0.1, seed=4)
    for name, parts in bit_layers(whole).items():
        for part, weight in parts.items():
            left = bit_layers(sparse)[name][part]
            assert np.count_nonzero(left) == round(0.1 * weight.size)
            np.testing.assert_array_equal(left[left != 0], weight[left != 0])
    assert density_of(sparse) == pytest.approx(0.1)
    np.testing.assert_array_equal(sparse.layer("last").bias, np.ones(20))  # type: ignore[attr-defined]


def test_chance_is_by_seed() -> None:
    whole = net()
    first, same, other = (by_chance(whole, 0.3, seed).layer("last").weight for seed in (1, 1, 2))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


@pytest.mark.parametrize("density", [0, -0.1, 1.01, float("nan")])
def test_a_density_that_is_none_is_refused(density: float) -> None:
    with pytest.raises(ModelError, match=r"density .* is outside \(0, 1\]"):
        magnitude(net(), density)
