"""How much the loss minds a change of each layer's weights: the trace of its block of the Hessian.

    trace_l = E[v . H v],  v = +-1 on the weights of layer l, biases excluded       (Hutchinson; Lui and Neftci 2021)
    v . H v = (L(W + h v) - 2 L(W) + L(W - h v)) / h**2,  h = STEP * rms(W_l)

L is the mean cross-entropy of the labels. Only forward passes are needed, so any float net will do. That of spikes
moves in jumps, which average out over steps as large as rounding's own: h is JUMPING * rms(W_l) then.
`exporters/training/curvature.py` has the exact product where torch is there, with soft spikes for hard ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeAlias

import numpy as np

from edgerun.arrays import F32, F64, I64
from edgerun.errors import DataError
from edgerun.layers.base import INPUT
from exporters.calibrate import MINMAX
from exporters.data import Samples
from exporters.float_net import FloatNet, forward
from exporters.nodes import FloatLayer, FloatSoftmax
from exporters.twin import bare_twin

Weights: TypeAlias = Mapping[str, F32 | F64]

STEP: Final = 0.02
"""Of a weight's root mean square. Answers are float32, so L has noise near 1e-7: at 1e-3, the step for float64, noise
would be as large as the second difference of a well trained layer; here it is a hundredth of it."""

JUMPING: Final = 0.35
"""The same for a net with time steps: between what 2 and 4 bits do to the weights of a layer with one power of two, and
large enough for 16 probes. Soft spikes are no way round: through a recurrence their second derivative grows with every
step, to 1e11 in forty."""
JUMPING_SAMPLES: Final = 64
JUMPING_PROBES: Final = 16

PARTS: Final = ("weight", "recurrent")
PROBES: Final = 100  # at most
PROBES_LEAST: Final = 8
SETTLED: Final = 1e-3  # change of the mean, relative, that ends it


def bit_layers(net: FloatNet) -> dict[str, Weights]:
    """The weights, by field, of every layer whose bits are free: those that have `bits`, no scale fixed by the file.

    A number for each neuron, as of neurons that drive themselves, is no such weight.
    """
    found = {
        layer.name: {
            part: weight for part in PARTS if (weight := getattr(layer, part, None)) is not None and weight.ndim > 1
        }
        for layer in net.layers
        if hasattr(layer, "bits") and getattr(layer, "weight_scale", None) is None
    }
    return {name: parts for name, parts in found.items() if parts}


def labelled(samples: Samples) -> Samples:
    """The samples with a label. Raises DataError where there is none: the loss needs them."""
    rows = np.flatnonzero(samples.y >= 0)
    if not len(rows):
        raise DataError("no sample has a label: sensitivity is that of the labels' cross-entropy")
    return samples.take(rows)


def answer_layer(net: FloatNet) -> str:
    """The layer whose outputs are the logits: the last, or what the last takes the softmax of."""
    layer, sources = net.wiring()[-1]
    return sources[0] if isinstance(layer, FloatSoftmax) else layer.name


def cross_entropy(logits: F32, y: I64) -> float:
    """Mean of log sum exp(z) - z_y, in float64.    logits (N, k), y (N,)"""
    z = logits.astype(np.float64)
    top = z.max(axis=1)
    return float((np.log(np.exp(z - top[:, None]).sum(axis=1)) + top - z[np.arange(len(y)), y]).mean())


def settled_mean(draws: Iterable[float], probes: int = PROBES) -> float:
    """The mean of draws, taken until one more moves it by less than a thousandth, of at most so many."""
    total = mean = 0.0
    for k, draw in zip(range(1, probes + 1), draws, strict=False):
        total += draw
        before, mean = mean, total / k
        if k >= PROBES_LEAST and abs(mean - before) < SETTLED * (abs(before) + 1e-6):
            break
    return mean


def traces(net: FloatNet, samples: Samples, *, probes: int = PROBES, seed: int = 0) -> dict[str, float]:
    """The Hessian's trace of each layer whose bits are free, by second differences of forward passes.

    A net with time steps is run on at most 64 of the samples, 16 times a layer. Raises DataError where no sample has a
    label.
    """
    some, width = labelled(samples), STEP
    if net.steps > 1:
        some, probes, width = spaced(some, JUMPING_SAMPLES), min(probes, JUMPING_PROBES), JUMPING
    bare, _ = bare_twin(net, samples, MINMAX)
    loss = loss_of(net, bare.moments(some), some.y)
    rng = np.random.default_rng(seed)

    def draws(name: str, weights: Weights) -> Iterable[float]:
        middle, h = loss(name, weights), width * root_mean_square(weights)
        while h > 0:
            step = {part: h * rng.choice((-1.0, 1.0), weight.shape) for part, weight in weights.items()}
            ahead = loss(name, {part: weight + step[part] for part, weight in weights.items()})
            behind = loss(name, {part: weight - step[part] for part, weight in weights.items()})
            yield (ahead - 2 * middle + behind) / h**2

    return {name: settled_mean(draws(name, weights), probes) for name, weights in bit_layers(net).items()}


def spaced(samples: Samples, most: int) -> Samples:
    """At most so many samples, evenly spaced."""
    return samples.take(np.linspace(0, len(samples) - 1, min(len(samples), most)).astype(np.int64))


def root_mean_square(weights: Weights) -> float:
    squares = sum(float(np.square(weight.astype(np.float64)).sum()) for weight in weights.values())
    return math.sqrt(squares / sum(weight.size for weight in weights.values()))


def loss_of(net: FloatNet, moments: F32, y: I64) -> Callable[[str, Weights], float]:
    """The loss as a function of one layer's weights; without time steps, layers that do not depend on it are not run
    again."""
    answer, wiring = answer_layer(net), net.wiring()
    still = run(wiring, {INPUT: moments[0]}, {}) if len(moments) == 1 else {}

    def loss(name: str, weights: Weights) -> float:
        fields: dict[str, Any] = dict(weights)
        changed = replace(net.layer(name), **fields)
        if still:
            return cross_entropy(run(wiring, still, {name: changed})[answer], y)
        layers = tuple(changed if layer.name == name else layer for layer in net.layers)
        return cross_entropy(forward(replace(net, layers=layers), moments).readings[answer], y)

    return loss


def run(
    wiring: Iterable[tuple[FloatLayer, tuple[str, ...]]], still: Mapping[str, F32], changed: Mapping[str, FloatLayer]
) -> dict[str, F32]:
    """All values, those in `still` taken from there unless something changed before them."""
    values, moved = dict(still), set(changed)
    for layer, sources in wiring:
        if layer.name in moved or layer.name not in still or moved.intersection(sources):
            moved.add(layer.name)
            values[layer.name] = changed.get(layer.name, layer).forward(*(values[source] for source in sources))
    return values
