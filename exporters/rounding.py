"""How the weights of a layer are rounded once it becomes integers: what choosing bits and training them have to know.

Layers with a scale for each channel have a grid for each. Those that spike or sum for neurons have one power of two f
for all: integer = rint(w * fold * 2**f), where the fold holds what quantising takes into the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgerun.arrays import F64
from exporters.data import Samples
from exporters.float_net import FloatNet
from exporters.nodes import FloatCells, FloatConvSum, FloatDenseSum, FloatLayer, FloatLif, FloatReadout
from exporters.nodes.fixed import power_of_two
from exporters.nodes.grid import along_channels, grid_steps, integers, on_grid
from exporters.sensitivity import Weights, bit_layers
from exporters.twin import quantise_net

SHARED: Final = (FloatLif, FloatReadout, FloatDenseSum, FloatConvSum, FloatCells)
"""Kinds with one power of two for all of a layer's weights."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """The weights of one layer, by field, and all that their rounding depends on.

    scale  what one integer of the layer's input stands for
    """

    layer: FloatLayer
    weights: Weights
    scale: float = 1.0

    @property
    def size(self) -> int:
        return sum(weight.size for weight in self.weights.values())

    def steps(self, bits: int) -> dict[str, F64]:
        """(n,) by field: the real value of one integer step of each channel, the first axis."""
        if not isinstance(self.layer, SHARED):
            return {part: grid_steps(weight, bits) for part, weight in self.weights.items()}
        found: dict[str, F64] = {}
        for group in folds(self.layer, self.scale):
            kept = {part: fold for part, fold in group.items() if part in self.weights}
            if kept:
                exponent = self.exponent(
                    [self.weights[part] * along_channels(kept[part], self.weights[part]) for part in kept], bits
                )
                found |= {part: 2.0**-exponent / fold * np.ones(len(self.weights[part])) for part, fold in kept.items()}
        return found

    def exponent(self, folded: list[F64], bits: int) -> int:
        """f: the layer's own where other sums must have the same, else the one with the least error."""
        fixed = getattr(self.layer, "exponent", None)
        return fixed if isinstance(fixed, int) else power_of_two(folded, bits)[0]

    def integers(self, bits: int) -> dict[str, F64]:
        steps = self.steps(bits)
        return {part: integers(weight, steps[part], bits) for part, weight in self.weights.items()}

    def rounded(self, bits: int) -> dict[str, F64]:
        """The weights as integers of so many bits would hold them."""
        steps = self.steps(bits)
        return {part: on_grid(weight, steps[part], bits) for part, weight in self.weights.items()}


def folds(layer: FloatLayer, scale: float) -> tuple[Mapping[str, F64], ...]:
    """By field, what each channel's weights are multiplied by before rounding; one mapping for each exponent."""
    whole = np.ones(1)
    match layer:
        case FloatLif() if layer.recurrent is not None and scale != 1:
            return {"weight": scale / layer.units()}, {"recurrent": 1 / layer.units()}
        case FloatLif():
            return ({"weight": scale / layer.units(), "recurrent": 1 / layer.units()},)
        case FloatDenseSum() | FloatConvSum():
            return ({"weight": whole * scale * layer.gain},)
    return {"weight": whole * scale}, {"recurrent": whole}


def roundings(net: FloatNet, samples: Samples) -> dict[str, Rounding]:
    """By name, every layer whose bits are free. The samples tell the scales of what spiking layers read.

    Raises ModelError where the net has no integers.
    """
    free = bit_layers(net)
    scales: Mapping[str, float] = {}
    if any(isinstance(net.layer(name), SHARED) for name in free):
        maps = quantise_net(net, samples).maps
        scales = {layer.name: maps[sources[0]].scale for layer, sources in net.wiring()}
    return {name: Rounding(net.layer(name), weights, scales.get(name, 1.0)) for name, weights in free.items()}
