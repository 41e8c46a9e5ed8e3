"""How far values reach on real data: the ranges that scales are chosen from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from edgerun.arrays import F32, F64
from edgerun.errors import ModelError
from exporters.data import Samples
from exporters.float_net import FloatNet, SpikingTrace, dense_forward

STEPS_OF_INT8: Final = 255
Values: TypeAlias = F32 | F64


@dataclass(frozen=True, slots=True)
class Affine:
    """real = scale * (q - zero_point), q int8."""

    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True)
class Range:
    """The reach of one tensor's values; always holds zero, which must be exact."""

    low: float
    high: float

    def affine(self) -> Affine:
        """The int8 map that covers the range. A range of nothing gets scale 1."""
        scale = (self.high - self.low) / STEPS_OF_INT8 or 1.0
        return Affine(scale, int(np.clip(np.rint(-128 - self.low / scale), -128, 127)))


def reach(values: Values, percentile: float = 100.0) -> Range:
    """The range with `percentile` per cent of the values below its top and as many above its bottom; 100: min to max.

    values  any shape, finite
    """
    low, high = np.percentile(values.astype(np.float64), [100.0 - percentile, percentile])
    return Range(min(float(low), 0.0), max(float(high), 0.0))


def dense_ranges(net: FloatNet, samples: Samples, percentile: float) -> tuple[Range, list[Range]]:
    """Ranges of the input and of every layer's output. Raises ModelError where the float model overflows."""
    outputs = dense_forward(net.layers, samples.x)
    return reach(samples.x, percentile), [reach(values, percentile) for values in outputs]


def spiking_input_scale(net: FloatNet, samples: Samples, full_scale: int) -> float:
    """What one step of the encoder stands for: the model's word, else 1 where the data are such steps, else max / full.

    Raises ModelError where a value is negative: a rate code has no sign.
    """
    if samples.x.min() < 0:
        raise ModelError(
            f"the phase-rate code takes values from 0, the calibration data reach down to {samples.x.min():g}"
        )
    if net.input_scale is not None:
        return net.input_scale
    top = float(samples.x.max())
    if top <= full_scale and not (samples.x % 1).any():
        return 1.0
    return top / full_scale


def readout_halvings(trace: SpikingTrace, limit: float) -> int:
    """How often the readout must be halved so that every |y| seen on calibration data stays under `limit`."""
    return max(0, int(np.ceil(np.log2(trace.readout_reach / limit)))) if trace.readout_reach > 0 else 0
