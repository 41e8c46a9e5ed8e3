"""Ranges, biases and channels are chosen by what they do to the answers, and what they promise is what they do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgerun.arrays import F32
from edgerun.errors import DataError
from exporters import improve
from exporters.calibrate import MINMAX, Calibration, divergence, reach, squared_error
from exporters.data import Samples
from exporters.float_net import FloatNet, forward
from exporters.nodes import FloatConv, FloatDense, FloatDepthwise, FloatPool, Range
from exporters.twin import quantise_net

RNG = np.random.default_rng(5)


def normal(*shape: int) -> F32:
    return RNG.normal(size=shape).astype(np.float32)


def samples(n: int = 200, size: int = 64) -> Samples:
    return Samples(RNG.normal(size=(n, size)).astype(np.float64), np.zeros(n, np.int64))


def uneven_mlp() -> FloatNet:
    """Two dense layers whose hidden units differ in reach by factors of up to 50."""
    uneven = np.geomspace(1, 50, 16).astype(np.float32)
    return FloatNet(
        "mlp",
        (64,),
        (
            FloatDense("a", normal(16, 64) * uneven[:, None], normal(16) * uneven, low=0.0),
            FloatDense("b", normal(5, 16) / uneven, normal(5)),
        ),
    )


def uneven_cnn() -> FloatNet:
    uneven = np.geomspace(1, 30, 8).astype(np.float32)
    return FloatNet(
        "cnn",
        (8, 8, 1),
        (
            FloatConv("c", (8, 8, 1), normal(8, 3, 3, 1) * uneven[:, None, None, None], normal(8), low=0.0),
            FloatPool("p", (6, 6, 8), "max", (2, 2), (2, 2)),
            FloatDepthwise("d", (3, 3, 8), normal(8, 2, 2) / uneven[:, None, None], normal(8), low=0.0),
            FloatDense("e", normal(4, 32), normal(4)),
        ),
    )


def outputs(net: FloatNet, x: Samples) -> F32:
    return forward(net, net.moments(x.x)).readings[net.layers[-1].name]


# ------------------------------------------------------------------ ranges


def test_mse_cuts_a_far_value_that_costs_more_than_it_is_worth() -> None:
    values = np.append(normal(100_000), 40.0)
    found = reach(values, Calibration("mse"))
    assert found.high < 0.9 * reach(values).high
    counts, edges = np.histogram(values, 4096, (values.min(), values.max()))
    centres = (edges[1:] + edges[:-1]) / 2
    assert squared_error(counts, centres, found) < squared_error(counts, centres, reach(values))


def test_mse_keeps_the_whole_range_of_even_values() -> None:
    values = np.linspace(-1, 1, 100_001)
    assert reach(values, Calibration("mse")).high > 0.98


def test_entropy_is_nothing_for_a_histogram_that_256_levels_hold() -> None:
    centres = np.arange(256.0)
    assert divergence(np.arange(1.0, 257.0), centres, Range(0.0, 255.0)) == pytest.approx(0.0, abs=1e-12)
    far = np.append(normal(100_000), 90.0)
    assert reach(far, Calibration("entropy")).high < 0.6 * 90.0


def test_a_percentile_out_of_range_is_refused() -> None:
    with pytest.raises(DataError, match=r"--percentile 3 is outside \[90, 100\]"):
        Calibration("percentile", 3)


# ------------------------------------------------------------------ equalisation


@pytest.mark.parametrize("net", [uneven_mlp(), uneven_cnn()], ids=["mlp", "cnn"])
def test_equalisation_changes_nothing_in_floats_and_much_in_integers(net: FloatNet) -> None:
    x = samples()
    twin = quantise_net(net, x, MINMAX)
    even = improve.equalised(twin, x)
    assert even is not net
    np.testing.assert_allclose(outputs(even, x), outputs(net, x), rtol=2e-3, atol=1e-3 * outputs(net, x).std())
    wanted = improve.answers(net, twin, x)
    before = improve.output_error(twin, x, wanted)
    assert improve.output_error(quantise_net(even, x, MINMAX), x, wanted) < 0.6 * before


def test_pairs_are_found_through_pools_and_nowhere_else() -> None:
    net = uneven_cnn()
    assert improve.equalisable(net) == [("c", "d"), ("d", "e")]
    clipped = replace(net, layers=(replace(net.layers[0], high=6.0), *net.layers[1:]))
    assert improve.equalisable(clipped) == [("d", "e")]
    read_twice = (
        FloatDense("a", normal(4, 64), normal(4), low=0.0),
        FloatDense("b", normal(4, 4), normal(4)),
        FloatDense("c", normal(2, 4), normal(2), sources=("a",)),
    )
    assert improve.equalisable(FloatNet("n", (64,), read_twice)) == []


# ------------------------------------------------------------------ bias correction


@pytest.mark.parametrize("net", [uneven_mlp(), uneven_cnn()], ids=["mlp", "cnn"])
def test_corrected_biases_take_the_mean_error_out_of_coarse_weights(net: FloatNet) -> None:
    x = replace(
        samples(), x=np.abs(RNG.normal(size=(200, 64)))
    )  # a mean that is not zero: there is something to correct
    first = net.layers[0].name
    twin = quantise_net(net, x, MINMAX, {first: 3})
    fixed = quantise_net(improve.corrected(twin, x), x, MINMAX, {first: 3})

    def mean_error(candidate: object) -> float:
        from exporters.measure import raw_features, real

        got = real(raw_features(candidate, first, candidate.inputs(x)), candidate.maps[first])  # type: ignore[attr-defined,arg-type]
        before = forward(net, net.moments(x.x)).readings[first]
        channels = net.layers[0].shape[-1]
        return float(np.abs((got - before).reshape(-1, channels).mean(axis=0)).mean())

    assert mean_error(fixed) < 0.5 * mean_error(twin)


# ------------------------------------------------------------------ the choice


def test_the_best_is_no_worse_than_any_single_method() -> None:
    net, x = uneven_mlp(), samples()
    chosen = improve.improve(net, x, {})
    some = x.take(np.linspace(0, len(x) - 1, improve.JUDGED).astype(np.int64))
    wanted = improve.answers(net, quantise_net(net, x), some)
    best = improve.output_error(chosen, some, wanted)
    for how in (MINMAX, Calibration("mse"), Calibration("entropy"), Calibration("percentile", 99.9)):
        assert best <= improve.output_error(quantise_net(net, x, how), some, wanted)
    assert any("channels equalised" in note for note in chosen.notes)
