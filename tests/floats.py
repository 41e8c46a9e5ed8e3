"""What tests ask of float nets: the spikes of every layer, and what the last one says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgerun.arrays import F32, I16
from edgerun.encode import PhaseCoder
from edgerun.spec import PhaseRate
from exporters.float_net import FloatNet, forward
from exporters.nodes import FloatLayer, FloatLif


@dataclass(frozen=True)
class Trace:
    """Spikes (steps, N, n) of each Lif layer, and the last layer's reading (N, outputs)."""

    spikes: tuple[F32, ...]
    answer: F32


def trace(net: FloatNet, moments: F32) -> Trace:
    trains: dict[str, list[F32]] = {layer.name: [] for layer in net.layers if isinstance(layer, FloatLif)}

    def watch(layer: FloatLayer, out: F32) -> None:
        if layer.name in trains:
            trains[layer.name].append(out)

    outcome = forward(net, moments, watch)
    return Trace(tuple(np.stack(train) for train in trains.values()), outcome.readings[net.layers[-1].name])


def last_outputs(net: FloatNet, x: F32) -> F32:
    """What the last layer gives, (steps, N, n), for x (steps, N, ...)."""
    seen: list[F32] = []

    def watch(layer: FloatLayer, out: F32) -> None:
        if layer is net.layers[-1]:
            seen.append(out)

    forward(net, x.reshape(len(x), x.shape[1], -1), watch)
    return np.stack(seen)


def rate_coded(q: I16, steps: int = 16, full_scale: int = 16) -> F32:
    """Spike trains (steps, N, in) of quantised inputs (N, in)."""
    return PhaseCoder(PhaseRate(steps=steps, full_scale=full_scale), (len(q),), q.shape[1]).encode(q)
