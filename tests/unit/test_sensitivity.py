"""Traces by forward passes are those of the Hessian."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgerun.arrays import F64, I64
from edgerun.errors import DataError, ModelError
from edgerun.spec import Frames
from exporters.data import Samples
from exporters.float_net import FloatNet
from exporters.nodes import FloatDense, FloatSoftmax, FloatUnary
from exporters.sensitivity import PROBES_LEAST, answer_layer, bit_layers, cross_entropy, settled_mean, traces

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


def test_time_steps_need_more_than_forward_passes() -> None:
    net = FloatNet("steps", (4, INPUTS), (FloatDense("last", FIRST, np.zeros(HIDDEN)),), encoder=Frames())
    with pytest.raises(ModelError, match="extra 'train'"):
        traces(net, Samples(RNG.normal(size=(N, 4, INPUTS)), Y))


def test_weights_of_a_fixed_scale_are_not_free() -> None:
    fixed = FloatDense("fixed", FIRST, np.zeros(HIDDEN), weight_scale=np.ones(HIDDEN))
    assert bit_layers(FloatNet("fixed", (INPUTS,), (fixed,))) == {}


def test_a_layer_of_zeros_has_no_trace() -> None:
    net = FloatNet("dead", (INPUTS,), (FloatDense("dead", np.zeros((CLASSES, INPUTS)), np.zeros(CLASSES)),))
    assert traces(net, Samples(X, Y)) == {"dead": 0.0}
