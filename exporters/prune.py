"""Nets with most weights at zero. A zero is a weight that is not there: training (`exporters/training`) leaves it so.

Pruning is layer by layer: each keeps the same share of its weights, at least one. Biases are never pruned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgerun.arrays import F32, F64
from edgerun.errors import ModelError
from exporters.float_net import FloatNet
from exporters.nodes import FloatLayer
from exporters.sensitivity import bit_layers

Mask: TypeAlias = NDArray[np.bool_]


def magnitude(net: FloatNet, density: float) -> FloatNet:
    """The net with the largest |w| of each layer, `density` of them. Raises ModelError outside (0, 1]."""
    return thinned(net, lambda weight: largest(weight, density))


def by_chance(net: FloatNet, density: float, seed: int = 0) -> FloatNet:
    """The net with so large a share of each layer's weights, drawn evenly: what every method must beat."""
    rng = np.random.default_rng(seed)
    return thinned(net, lambda weight: largest(rng.random(weight.shape), density))


def largest(values: F32 | F64, density: float) -> Mask:
    """True at the round(density * n) largest magnitudes, at least one; of equals the first."""
    if not 0 < density <= 1:
        raise ModelError(f"density {density} is outside (0, 1]")
    kept = max(1, round(density * values.size))
    mask = np.zeros(values.size, np.bool_)
    mask[np.argsort(-np.abs(values).reshape(-1), kind="stable")[:kept]] = True
    return mask.reshape(values.shape)


def thinned(net: FloatNet, keep: Callable[[F32 | F64], Mask]) -> FloatNet:
    """The net with zeros wherever `keep` of a weight is false."""
    weights = bit_layers(net)

    def thin(layer: FloatLayer) -> FloatLayer:
        parts = weights.get(layer.name, {})
        changes: dict[str, Any] = {part: np.where(keep(weight), weight, 0) for part, weight in parts.items()}
        return replace(layer, **changes)

    return replace(net, layers=tuple(thin(layer) for layer in net.layers))


def density_of(net: FloatNet) -> float:
    """The share of all prunable weights that are not zero."""
    weights = [weight for parts in bit_layers(net).values() for weight in parts.values()]
    return sum(int(np.count_nonzero(weight)) for weight in weights) / sum(weight.size for weight in weights)
