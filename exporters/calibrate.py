"""How far values reach on real data: the ranges that scales are chosen from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

import numpy as np

from edgerun.arrays import F32, F64, AnyArray
from edgerun.errors import ModelError
from exporters.float_net import FloatNet, forward
from exporters.nodes import FloatLayer, Range

Values: TypeAlias = F32 | F64

KEPT: Final = 1 << 22
"""Values of one layer that a percentile is taken over, at most: every k-th of more."""


def reach(values: AnyArray, percentile: float = 100.0) -> Range:
    """The range with `percentile` per cent of the values below its top and as many above its bottom; 100: min to max.

    values  any shape, finite
    """
    if percentile == 100.0:
        low, high = values.min(), values.max()
    else:
        low, high = np.percentile(values.astype(np.float64), [100.0 - percentile, percentile])
    return Range(min(float(low), 0.0), max(float(high), 0.0))


class Observer:
    """Gathers what one layer gives, block by block."""

    def __init__(self, percentile: float) -> None:
        self._percentile = percentile
        self._blocks: list[AnyArray] = []
        self._ends = Range(0.0, 0.0)
        self._seen = 0

    def add(self, values: Values) -> None:
        ends = reach(values)
        self._ends = Range(min(self._ends.low, ends.low), max(self._ends.high, ends.high))
        if self._percentile < 100.0:
            self._seen += values.size
            self._blocks.append(values.reshape(-1)[:: max(1, self._seen // KEPT)].copy())

    def range(self) -> Range:
        return reach(np.concatenate(self._blocks), self._percentile) if self._blocks else self._ends


def observe(net: FloatNet, blocks: Iterable[F32], percentile: float) -> dict[str, Range]:
    """The range of every layer's output over blocks of moments (steps, N, step size), all steps together."""
    observers = {layer.name: Observer(percentile) for layer in net.layers}

    def watch(layer: FloatLayer, out: F32) -> None:
        observers[layer.name].add(out)

    for block in blocks:
        forward(net, block, watch)
    return {name: observer.range() for name, observer in observers.items()}


def spiking_input_scale(net: FloatNet, x: AnyArray, full_scale: int) -> float:
    """What one step of the encoder stands for: the model's word, else 1 where the data are such steps, else max / full.

    Raises ModelError where a value is negative: a rate code has no sign.
    """
    if x.min() < 0:
        raise ModelError(f"the phase-rate code takes values from 0, the calibration data reach down to {x.min():g}")
    if net.input_scale is not None:
        return net.input_scale
    top = float(x.max())
    if top <= full_scale and not (x % 1).any():
        return 1.0
    return top / full_scale
