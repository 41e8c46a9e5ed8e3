"""Traces by forward passes are those of the Hessian."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from edgerun.arrays import F64, I64
from edgerun.errors import DataError
from edgerun.spec import Frames, PhaseRate
from exporters.data import Samples
from exporters.float_net import FloatNet, forward
from exporters.nodes import FloatCells, FloatDense, FloatDenseSum, FloatReadout, FloatSoftmax, FloatUnary
from exporters.sensitivity import (
    JUMPING,
    PROBES_LEAST,
    answer_layer,
    bit_layers,
    cross_entropy,
    root_mean_square,
    settled_mean,
    traces,
)

RNG = np.random.default_rng(5)
N, INPUTS, HIDDEN, CLASSES = 40, 6, 5, 3
X = RNG.normal(size=(N, INPUTS))
FIRST, LAST = RNG.normal(size=(HIDDEN, INPUTS)) / 2, RNG.normal(size=(CLASSES, HIDDEN))
Y = (np.tanh(X @ FIRST.T) @ LAST.T).argmax(axis=1)


def two_layers(*after: FloatSoftmax) -> FloatNet:
    return FloatNet(
        "tiny",
        (INPUTS,),
        (
            FloatDense("first", FIRST, np.zeros(HIDDEN)),
            FloatUnary("squash", (HIDDEN,), "tanh"),
            FloatDense("last", LAST, np.zeros(CLASSES)),
            *after,
        ),
    )


def probabilities(z: F64) -> F64:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def traces_on_paper() -> dict[str, float]:
    """Of softmax(B tanh(A x)):  last layer sum_k p_k (1 - p_k) |h|^2;  first by the chain rule, unit by unit."""
    h = np.tanh(X @ FIRST.T)
    p = probabilities(h @ LAST.T)
    last = ((p * (1 - p)).sum(axis=1) * np.square(h).sum(axis=1)).mean()
    error = p - np.eye(CLASSES)[Y]
    slope, bend = 1 - h**2, -2 * h * (1 - h**2)
    curved = p @ np.square(LAST) - np.square(p @ LAST)  # of the loss along each hidden unit
    unit = curved * slope**2 + (error @ LAST) * bend
    return {"first": float((unit.sum(axis=1) * np.square(X).sum(axis=1)).mean()), "last": float(last)}


def test_traces_are_those_on_paper() -> None:
    wanted = traces_on_paper()
    found = traces(two_layers(), Samples(X, Y), probes=400)
    assert found == {name: pytest.approx(value, rel=0.1) for name, value in wanted.items()}


def test_a_softmax_at_the_end_changes_nothing() -> None:
    assert answer_layer(two_layers(FloatSoftmax("chances", (CLASSES,)))) == "last"
    bare = traces(two_layers(), Samples(X, Y), probes=20)
    assert traces(two_layers(FloatSoftmax("chances", (CLASSES,))), Samples(X, Y), probes=20) == bare


def test_cross_entropy_is_the_mean_surprise() -> None:
    z = RNG.normal(size=(9, CLASSES)).astype(np.float32) * 50
    y: I64 = RNG.integers(0, CLASSES, 9)
    assert cross_entropy(z, y) == pytest.approx(-np.log(probabilities(z.astype(np.float64))[np.arange(9), y]).mean())


def test_probing_ends_when_the_mean_has_settled() -> None:
    counted = itertools.count()
    assert settled_mean(5.0 + 0 * k for k in counted) == 5.0
    assert next(counted) == PROBES_LEAST
    counted = itertools.count()
    settled_mean(float(k % 2) for k in counted)
    assert next(counted) in (100, 101)


def test_only_labelled_samples_count() -> None:
    y = np.concatenate([Y, np.full(N, -1)])
    x = np.concatenate([X, 100 * X])
    assert traces(two_layers(), Samples(x, y), probes=8) == traces(two_layers(), Samples(X, Y), probes=8)
    with pytest.raises(DataError, match="no sample has a label"):
        traces(two_layers(), Samples(X, np.full(N, -1)))


def spikes(steps: int = 12) -> tuple[FloatNet, Samples]:
    """Sixteen neurons of which each class drives a few, and a readout that knows them."""
    rng = np.random.default_rng(8)
    drive, ones = np.abs(rng.normal(size=(16, INPUTS))).astype(np.float32), np.ones(16, np.float32)
    cells = FloatCells("cells", (16,), 0 * ones, 2 * ones, beta=0.8 * ones)
    layers = (
        FloatDenseSum("wide", drive),
        cells,
        FloatReadout("out", drive[:, :CLASSES].T, 0 * ones[:3], ones[:3] / 2),
    )
    x = rng.integers(0, 2, (N, steps, INPUTS)).astype(np.float64)
    net = FloatNet("spikes", (steps, INPUTS), layers, encoder=Frames())
    return net, Samples(x, forward(net, net.moments(x)).readings["out"].argmax(axis=1))


def test_spiking_layers_are_probed_by_steps_as_large_as_roundings() -> None:
    net, some = spikes()
    found = traces(net, some)
    assert list(found) == ["wide", "out"]
    before = cross_entropy(forward(net, net.moments(some.x)).readings["out"], some.y)
    for name, weights in bit_layers(net).items():
        h = JUMPING * root_mean_square(weights)
        losses = []
        for seed in range(60):
            rng = np.random.default_rng(seed)
            moved = {part: (w + h * rng.choice((-1, 1), w.shape)).astype(np.float32) for part, w in weights.items()}
            layer = replace(net.layer(name), **moved)  # type: ignore[arg-type]
            other = replace(net, layers=tuple(layer if x.name == name else x for x in net.layers))
            losses.append(cross_entropy(forward(other, net.moments(some.x)).readings["out"], some.y))
        wanted, error = 2 * (np.mean(losses) - before) / h**2, 2 * np.std(losses) / np.sqrt(60) / h**2
        assert found[name] == pytest.approx(wanted, abs=4 * error)
        assert wanted > 4 * error


def test_a_rate_code_is_probed_with_the_spikes_that_it_makes() -> None:
    net, _ = spikes()
    rate = replace(net, input_shape=(INPUTS,), encoder=PhaseRate(steps=12, full_scale=16))
    found = traces(rate, Samples(np.abs(X), Y), probes=8)
    assert all(np.isfinite(value) and value != 0 for value in found.values())


def test_weights_of_a_fixed_scale_are_not_free() -> None:
    fixed = FloatDense("fixed", FIRST, np.zeros(HIDDEN), weight_scale=np.ones(HIDDEN))
    assert bit_layers(FloatNet("fixed", (INPUTS,), (fixed,))) == {}


def test_a_layer_of_zeros_has_no_trace() -> None:
    net = FloatNet("dead", (INPUTS,), (FloatDense("dead", np.zeros((CLASSES, INPUTS)), np.zeros(CLASSES)),))
    assert traces(net, Samples(X, Y)) == {"dead": 0.0}
