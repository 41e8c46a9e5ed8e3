"""Dense layers that go on learning on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from edgerun.errors import ModelError
from edgerun.layers import Dense
from exporters.nodes.base import Affine, Quantised, Range, per_channel
from exporters.nodes.dense import BIAS_LIMIT, FloatDense

WEIGHT_TOP: Final = 127
OUTPUT_ROOM: Final = 1.5


@dataclass(frozen=True, slots=True)
class FloatPlastic(FloatDense):
    """A dense layer as the learning rules of chains want it: values around zero, one weight scale, room to grow.

    weight_room  how many times their largest weight the integers hold, at the least
    output_room  how many times the largest output on calibration data they hold
    """

    weight_room: float = 1.25
    output_room: float = OUTPUT_ROOM

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """The scale of weights is the least that gives the room and makes a step of the sums, sw sx, a power of two.

        Raises ModelError where the input is not around zero, or a bias is beyond 28 bits.
        """
        x = sources[0]
        if x.zero_point:
            raise ModelError(f"layer {self.name}: learns on values around 0, its input has zero point {x.zero_point}")
        y = Affine(self.output_room * reach.most / WEIGHT_TOP or 1.0, 0)
        most = float(np.abs(self.weight).max(initial=0.0)) or 1.0
        step = 2.0 ** np.ceil(np.log2(self.weight_room * most / WEIGHT_TOP * x.scale)) / x.scale
        bias = np.rint(self.bias.astype(np.float64) / (step * x.scale))
        if (np.abs(bias) >= BIAS_LIMIT).any():
            raise ModelError(f"layer {self.name}: a bias of {np.abs(bias).max():g} steps is above 2**28")
        layer = Dense(
            name=self.name,
            sources=self.sources,
            inputs=self.weight.shape[1],
            outputs=len(self.weight),
            qmin=y.integer(self.low),
            qmax=y.integer(self.high),
        )
        weight = np.clip(np.rint(self.weight / step), -WEIGHT_TOP, WEIGHT_TOP).astype(np.int8)
        scales = np.full(len(weight), step * x.scale / y.scale)
        return (Quantised(layer, per_channel({}, self.name, scales, weight=weight, bias=bias.astype(np.int32)), y),)
