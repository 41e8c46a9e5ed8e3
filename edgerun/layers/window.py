"""What layers share whose windows slide over an image (height, width, channel)."""

from __future__ import annotations

import math
from typing import Annotated, TypeAlias

from msgspec import Meta

from edgerun.errors import SpecError
from edgerun.kernels.window import Pair, output_size
from edgerun.layers.base import Count, Int8, LayerRecord, check_clip, check_volume

Side: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 16)]
Extent: TypeAlias = Annotated[int, Meta(ge=1, le=1 << 16)]


class Sliding(LayerRecord, frozen=True, kw_only=True):
    """Windows over an image: their geometry.

    Along an axis, output o sees the positions o * stride + dilation * t - before, t = 0 .. kernel - 1, and there are
    floor((size + before + after - dilation * (kernel - 1) - 1) / stride) + 1 outputs.
    """

    input_shape: tuple[Count, Count, Count]
    kernel: tuple[Extent, Extent]
    stride: tuple[Extent, Extent] = (1, 1)
    dilation: tuple[Extent, Extent] = (1, 1)
    padding: tuple[Side, Side, Side, Side] = (0, 0, 0, 0)  # top, left, bottom, right

    def __post_init__(self) -> None:
        check_volume("input_shape", self.input_shape)
        check_volume("padded shape", self.padded_shape)
        if min(self.outputs_size) < 1:
            raise SpecError(
                f"kernel {self.kernel} with dilation {self.dilation} does not fit the padded shape {self.padded_shape}"
            )
        check_volume("shape", self.shape)

    @property
    def outputs_size(self) -> Pair:
        """(height, width) of the output."""
        return output_size(self.input_shape[:2], self.kernel, self.stride, self.dilation, self.padding)

    @property
    def padded_shape(self) -> tuple[int, int, int]:
        (h, w, c), (top, left, bottom, right) = self.input_shape, self.padding
        return h + top + bottom, w + left + right, c

    @property
    def widths(self) -> tuple[int, ...]:
        return (math.prod(self.input_shape),)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.outputs_size, self.input_shape[2])

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """(oh, w, c)  the working array of a pool: windows combined down the image, not yet across it."""
        return (self.outputs_size[0], *self.padded_shape[1:])


class Windowed(Sliding, frozen=True, kw_only=True):
    """Windows over an image, and what the output is clipped to."""

    qmin: Int8 = -128
    qmax: Int8 = 127

    def __post_init__(self) -> None:
        check_clip(self.qmin, self.qmax)
        super().__post_init__()

    def reach(self, reaches: tuple[int, ...]) -> int:
        return max(abs(self.qmin), abs(self.qmax))
