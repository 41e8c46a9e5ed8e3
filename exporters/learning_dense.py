"""Plans for chains of dense layers: learning rates in real units become integers by the scales of the layers.

    u[L] = 2**-15 of the softmax error;   u[l-1] = u[l] sw[l] 2**back_shift[l]          what one step of an error means
    d shadow = -G rate u[l] sx[l] 256 / sw[l]                                           G = error read' in integers

with sx what one step of a layer's input means, sw one of its weights; a shadow has 256 steps to a weight's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from edgerun.arrays import F64, AnyArray, Tensors
from edgerun.errors import ModelError
from edgerun.layers.base import INPUT
from edgerun.spec import Backprop, ClassTable, Dense, InputSpec, Manifest, PlasticRate
from exporters.nodes import Affine, Range
from exporters.nodes.plastic import FloatPlastic

SHADOW: Final = 256  # shadow steps in one of a weight
ERROR: Final = 2.0**-15
TABLE_STEP: Final = 1 / 32  # logits per step of the softmax table
MAX_STEP: Final = 8192  # of a shadow in one update: an eighth of its whole reach
MANTISSA: Final = 1 << 14


class Unit(NamedTuple):
    """What one step means, in a layer: of its input, its weights, its output."""

    read: float
    weight: float
    out: float


def units(manifest: Manifest, tensors: Tensors, maps: Mapping[str, Affine]) -> list[Unit]:
    """The real scales of every layer of a chain. Raises ModelError where the manifest is none."""
    before, found = INPUT, []
    for layer, sources in manifest.wiring():
        if not isinstance(layer, Dense) or sources != (before,):
            raise ModelError(f"the rule learns through a row of dense layers, {layer.name!r} breaks it")
        scale = float(tensors[f"{layer.name}.multiplier"][0]) * 2.0 ** -float(tensors[f"{layer.name}.shift"][0])
        read, out = maps[before].scale, maps[layer.name].scale
        found.append(Unit(read, scale * out / read, out))
        before = layer.name
    return found


def backprop(manifest: Manifest, tensors: Tensors, maps: Mapping[str, Affine], rate: float) -> Backprop:
    """Gradient descent at this rate, in real units, on every weight."""
    chain = units(manifest, tensors, maps)
    names = tuple(layer.name for layer in manifest.layers)
    shifts = tuple(back_shift(tensors[f"{name}.weight"].astype(np.float64)) for name in names[1:])
    error, rates = ERROR, []
    for k in range(len(names) - 1, -1, -1):
        unit = chain[k]
        rates.append(plastic(f"{names[k]}.weight", rate * error * unit.read * SHADOW / unit.weight))
        if k:
            error *= unit.weight * 2.0 ** shifts[k - 1]
    return Backprop(
        layers=names,
        rates=tuple(reversed(rates)),
        back_shifts=shifts,
        temperature_shift=temperature(chain[-1]),
        gradient_shift=7,
    )


def temperature(top: Unit) -> int:
    """The shift that makes one step of the softmax table of the top layer's sums. Raises ModelError without one."""
    shift = round(math.log2(TABLE_STEP / (top.read * top.weight)))
    if not 0 <= shift <= 24:
        raise ModelError(f"logits in steps of {top.read * top.weight:g} are no finer than the softmax table's")
    return shift


def back_shift(weight: F64) -> int:
    """The least shift that keeps W' e within the norm of e, whichever error comes."""
    most = float(np.sqrt((weight**2).sum(axis=0)).max(initial=0.0))
    return max(0, math.ceil(math.log2(max(1.0, most))))


def plastic(tensor: str, gain: float) -> PlasticRate:
    """d = -G * gain, as eta / 2**shift. Raises ModelError where the gain is out of reach."""
    shift = min(30, math.floor(math.log2(MANTISSA / gain))) if gain > 0 else 30
    eta = round(gain * 2.0 ** max(shift, 0))
    if shift < 0 or not eta:
        raise ModelError(f"{tensor}: a step of {gain:g} shadow steps a gradient step is outside [2**-31, 2**14)")
    return PlasticRate(tensor=tensor, eta=eta, shift=shift, max_step=MAX_STEP)


class Quantised(NamedTuple):
    """A chain of dense layers in integers: a manifest that learns nothing yet, its tensors, what integers mean."""

    manifest: Manifest
    tensors: Tensors
    maps: dict[str, Affine]


def quantised(
    name: str, layers: Sequence[FloatPlastic], entry: Affine, reaches: Sequence[float], classes: int
) -> Quantised:
    """Integers of plastic layers whose outputs reach so far, behind an int8 input of this map."""
    maps, tensors = {INPUT: entry}, dict[str, AnyArray]()
    found, before = [], INPUT
    for layer, reach in zip(layers, reaches, strict=True):
        (part,) = layer.quantise((maps[before],), Range(0.0, reach))
        found.append(part.layer)
        tensors |= part.tensors
        maps[layer.name], before = part.output, layer.name
    manifest = Manifest(
        name=name,
        input=InputSpec(shape=layers[0].widths, scale=entry.scale),
        layers=tuple(found),
        classes=ClassTable(names=tuple(map(str, range(classes))), capacity=layers[-1].outputs),
    )
    return Quantised(manifest, tensors, maps)
