"""Post-training quantisation that tries before it decides: how ranges are chosen, biases corrected, channels equalised.

Everything is judged by what it does to the answers: the squared error of the integer net's outputs against the float
net's, over calibration samples, in units of the outputs' own variance. A change that does not help is not made.

    bias correction            b <- b + (W - Q(W)) E[x]: rounding of the weights must not shift a channel's mean
    cross-layer equalisation   A <- A / s, B <- B s for layers A, B with max(0, .) or nothing between them and
                               s = sqrt(reach of A's channel / largest weight of B on it)    (Nagel et al. 2019)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, TypeGuard

import numpy as np

from edgerun.arrays import F32, F64
from edgerun.layers.base import INPUT
from exporters import measure
from exporters.calibrate import METHODS, MINMAX, Calibration
from exporters.data import Samples
from exporters.float_net import FloatNet, forward
from exporters.nodes import Affine, FloatConv, FloatDense, FloatDepthwise, FloatLayer, FloatPool
from exporters.nodes.dense import fold
from exporters.progress import Say, silent
from exporters.twin import Twin, bare_twin, in_blocks, observed, quantise_net

JUDGED: Final = 128  # samples that every trial is judged by
PERCENTILES: Final = (99.99, 99.9)
RATIO: Final = 16.0  # no channel is scaled by more
WORTH: Final = 0.98  # a change must take the error under this share of what it was

Weighted: TypeAlias = FloatDense | FloatConv | FloatDepthwise
WEIGHTED: Final = (FloatDense, FloatConv, FloatDepthwise)


def weighted(layer: FloatLayer | None) -> TypeGuard[Weighted]:
    """Whether it is exactly one of those: synapses that sum for neurons are made otherwise."""
    return type(layer) in WEIGHTED


def improve(net: FloatNet, samples: Samples, bits: Mapping[str, int], say: Say = silent) -> Twin:
    """Quantise with whatever keeps the answers nearest to the float net's; the notes say what that was.

    Raises ModelError.

    bits  weight bits of a layer by name, where they are not 8
    """
    some = samples.take(np.linspace(0, len(samples) - 1, min(len(samples), JUDGED)).astype(np.int64))
    say("running the float model")
    bare, _ = bare_twin(net, samples, MINMAX)
    seen, wanted = observed(bare, samples, keep=True), answers(net, bare, some)
    trials = [Calibration(method) for method in METHODS if method != "percentile"]
    trials += [Calibration("percentile", share) for share in PERCENTILES]

    def judged(twin: Twin) -> tuple[float, Twin]:
        return output_error(twin, some, wanted), twin

    errors = {}
    for how in trials:
        say(f"trying ranges by {how}")
        errors[how] = judged(quantise_net(net, samples, how, bits, seen))
    how = min(errors, key=lambda trial: errors[trial][0])
    error, twin = errors[how]
    notes = [f"ranges by {how}: output error {100 * error:.3g} % of the variance"]
    changes: tuple[tuple[str, Callable[[Twin], FloatNet]], ...] = (
        ("channels equalised", lambda best: equalised(best, samples)),
        ("biases corrected", lambda best: corrected(best, samples)),
    )
    for what, change in changes:
        candidate = change(twin)
        if candidate is twin.net:
            continue
        say(f"trying {what}")
        found, better = judged(quantise_net(candidate, samples, how, bits))
        if found < WORTH * error:
            notes.append(f"{what}: output error {100 * error:.3g} to {100 * found:.3g} %")
            error, twin = found, better
    return replace(twin, notes=(*twin.notes, *notes))


def is_fixed(net: FloatNet) -> bool:
    """Whether the file has already decided every range."""
    return all(layer.output is not None for layer in net.layers)


def answers(net: FloatNet, twin: Twin, samples: Samples) -> F32:
    last = net.layers[-1].name
    return np.concatenate([forward(net, twin.moments(block)).readings[last] for block in in_blocks(samples)])


def output_error(twin: Twin, samples: Samples, wanted: F32) -> float:
    """Mean squared error of the integer net's outputs, over the variance of the float ones."""
    manifest = measure.bare_manifest(twin)
    got = measure.real(
        measure.raw_features(twin, manifest.layers[-1].name, twin.inputs(samples)), twin.parts[-1].output
    )
    return float(np.square(got - wanted).mean() / (wanted.astype(np.float64).var() or 1.0))


# ------------------------------------------------------------------ what values do on calibration data


@dataclass(frozen=True, slots=True)
class Units:
    """Mean and largest magnitude of every single value of a layer, (width,)."""

    mean: F64
    most: F64


def units(twin: Twin, samples: Samples) -> dict[str, Units]:
    sums: dict[str, F64] = {}
    most: dict[str, F64] = {}
    seen: dict[str, int] = {}

    def take(name: str, out: F32) -> None:
        seen[name] = seen.get(name, 0) + len(out)
        sums[name] = sums.get(name, 0.0) + out.sum(axis=0, dtype=np.float64)
        most[name] = np.maximum(most.get(name, np.zeros(1)), np.abs(out).max(axis=0).astype(np.float64))

    def watch(layer: FloatLayer, out: F32) -> None:
        take(layer.name, out)

    for block in in_blocks(samples):
        moments = twin.moments(block)
        take(INPUT, moments.reshape(-1, moments.shape[-1]))
        forward(twin.net, moments, watch)
    return {name: Units(sums[name] / seen[name], most[name]) for name in sums}


# ------------------------------------------------------------------ bias correction


def corrected(twin: Twin, samples: Samples) -> FloatNet:
    """The twin's net with the mean effect of every weight's rounding taken out of the biases.

    A file's own integers lose nothing.
    """
    found = units(twin, samples)
    layers = tuple(
        with_corrected_bias(layer, found[sources[0]].mean, twin.maps[sources[0]], twin.maps[layer.name])
        if weighted(layer) and layer.weight_scale is None
        else layer
        for layer, sources in twin.net.wiring()
    )
    return replace(twin.net, layers=layers)


def with_corrected_bias(layer: Weighted, mean: F64, x: Affine, y: Affine) -> FloatLayer:
    integers, _, scales = fold(layer.weight, layer.bias, x, y, bits=layer.bits)
    step = (scales * y.scale / x.scale).reshape(-1, *[1] * (layer.weight.ndim - 1))
    lost = layer.weight.astype(np.float64) - integers * step
    if isinstance(layer, FloatDense):
        shift = lost @ mean
    else:
        channels = mean.reshape(-1, layer.input_shape[2]).mean(axis=0)
        if isinstance(layer, FloatConv):
            shift = lost.sum(axis=(1, 2)) @ channels
        else:
            shift = lost.sum(axis=(1, 2)) * np.repeat(channels, len(lost) // len(channels))
    return replace(layer, bias=layer.bias + shift)


# ------------------------------------------------------------------ cross-layer equalisation


def equalised(twin: Twin, samples: Samples) -> FloatNet:
    """The same function with the channels between pairs of layers scaled alike; the same net where there is no pair."""
    pairs = equalisable(twin.net)
    if not pairs:
        return twin.net
    found = units(twin, samples)
    layers = {layer.name: layer for layer in twin.net.layers}
    for first, second in pairs:
        a, b = layers[first], layers[second]
        if weighted(a) and weighted(b):
            channels = a.shape[-1]
            reach = found[first].most.reshape(-1, channels).max(axis=0)
            scale = channel_scales(reach, largest_weights(b, channels))
            layers[first], layers[second] = divided(a, scale), multiplied(b, scale)
    return replace(twin.net, layers=tuple(layers[layer.name] for layer in twin.net.layers))


def equalisable(net: FloatNet) -> list[tuple[str, str]]:
    """Pairs of layers with weights, the second the only reader of the first, perhaps through pools.

    What lies between must let a positive factor through: no clip but a ReLU's. Fixed maps are left alone.
    """
    readers: dict[str, list[str]] = {}
    for layer, sources in net.wiring():
        for source in sources:
            readers.setdefault(source, []).append(layer.name)
    pairs = []
    for layer in net.layers:
        if not weighted(layer) or not scalable(layer) or layer.weight_scale is not None:
            continue
        after = only_reader(net, readers, layer.name)
        while isinstance(after, FloatPool) and scalable(after):
            after = only_reader(net, readers, after.name)
        if weighted(after) and after.weight_scale is None and channels_of(after) in (0, layer.shape[-1]):
            pairs.append((layer.name, after.name))
    return pairs


def channels_of(layer: Weighted) -> int:
    """How many channels a layer reads; 0 for one that reads any flat vector."""
    return 0 if isinstance(layer, FloatDense) else layer.input_shape[2]


def scalable(layer: Weighted | FloatPool) -> bool:
    fixed = layer.output is not None or (not isinstance(layer, FloatPool) and layer.weight_scale is not None)
    return layer.low in (0.0, -np.inf) and layer.high == np.inf and not fixed


def only_reader(net: FloatNet, readers: Mapping[str, list[str]], name: str) -> FloatLayer | None:
    found = readers.get(name, [])
    return net.layer(found[0]) if len(found) == 1 else None


def channel_scales(reach: F64, weights: F64) -> F64:
    """s (channels,) that makes a channel's reach and the weights on it equally large; 1 where either is nothing."""
    alive = (reach > 0) & (weights > 0)
    scale = np.sqrt(np.divide(reach, weights, out=np.ones_like(reach), where=alive))
    scale /= np.exp(np.log(scale).mean())  # no layer as a whole shrinks or grows
    return np.where(alive, np.clip(scale, 1 / RATIO, RATIO), 1.0)


def largest_weights(layer: Weighted, channels: int) -> F64:
    """The largest |w| that meets each input channel, (channels,)."""
    w = np.abs(layer.weight.astype(np.float64))
    if isinstance(layer, FloatDepthwise):
        return np.asarray(w.max(axis=(1, 2)).reshape(channels, -1).max(axis=1))
    return np.asarray(w.reshape(-1, channels).max(axis=0))


def divided(layer: Weighted, scale: F64) -> Weighted:
    """The layer with output channel c divided by scale[c]."""
    each = np.tile(scale, len(layer.weight) // len(scale))
    w = layer.weight / each.reshape(-1, *[1] * (layer.weight.ndim - 1))
    return replace(layer, weight=w.astype(np.float32), bias=(layer.bias / each).astype(np.float32))


def multiplied(layer: Weighted, scale: F64) -> Weighted:
    """The layer for an input whose channel c was divided by scale[c]."""
    if isinstance(layer, FloatDepthwise):
        w = layer.weight * np.repeat(scale, len(layer.weight) // len(scale))[:, None, None]
    else:
        w = (layer.weight.reshape(-1, len(scale)) * scale).reshape(layer.weight.shape)
    return replace(layer, weight=w.astype(np.float32))
