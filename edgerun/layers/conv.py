"""Convolutions over images (height, width, channel), full and depthwise; in one dimension the height is 1."""

from __future__ import annotations

import math
from typing import Annotated, Any

from msgspec import Meta

from edgerun.errors import SpecError
from edgerun.layers.base import (
    Certificate,
    Count,
    Field,
    Int8,
    Tensors,
    Work,
    certify_weights,
    check_volume,
    describe_scales,
    refuse_reach,
    weight_fields,
)
from edgerun.layers.window import Windowed


class Filters(Windowed, frozen=True, kw_only=True):
    """What both kinds share: a sum for each filter and place, requantised by filter.

    The bias holds the input's zero point for every tap, so what pads the image is that zero point. Where it is
    `asymmetric`, there is `<name>.weight_zero` int8 (filters,) too, and w = weight - weight_zero.
    """

    filters: Count
    input_zero_point: Int8 = 0
    zero_point: Int8 = 0
    input_bound: Annotated[int, Meta(ge=1, le=128)] = 128  # largest |x| that the layer before can emit
    asymmetric: bool = False  # whether weights have a zero point for each filter

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.outputs_size, self.filters)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """A filter's weights lie behind the first axis."""
        raise NotImplementedError

    def fields(self) -> tuple[Field, ...]:
        return weight_fields(self.weight_shape, asymmetric=self.asymmetric)

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        refuse_reach(self.name, self.input_bound, reaches)
        return self.proof(tensors)

    def proof(self, tensors: Tensors) -> Certificate:
        """The certificate for inputs within `input_bound`, and padding beside them."""
        parts: Any = (self.tensor(tensors, field.part) for field in self.fields())
        most = max(self.input_bound, abs(self.input_zero_point))
        return certify_weights(self.name, self.zero_point, most, *parts)

    def describe(self, tensors: Tensors) -> str:
        scales = describe_scales(self.tensor(tensors, "multiplier"), self.tensor(tensors, "shift"), self.zero_point)
        zeros = ", weights with zero points" if self.asymmetric else ""
        return f"{'x'.join(map(str, self.shape))}, {scales}{zeros}"

    def work(self) -> Work:
        macs = math.prod(self.outputs_size) * math.prod(self.weight_shape)
        return Work(macs=macs, elements=math.prod(self.padded_shape) + self.outputs, calls=9)


class Conv(Filters, tag="conv", frozen=True, kw_only=True):
    """y[i, j, f] = requant(b[f] + sum over r, t, c of w[f, r, t, c] * x[i*sh + r*dh - top, j*sw + t*dw - left, c]).

    Tensors: `<name>.weight` int8 (filters, kh, kw, c), `<name>.bias` int32 (filters,), `<name>.multiplier` int32
    (filters,), `<name>.shift` uint8 (filters,).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_volume("what one row of outputs sees", (self.outputs_size[1], *self.kernel, self.input_shape[2]))

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.filters, *self.kernel, self.input_shape[2])

    @property
    def sees_single_places(self) -> bool:
        """Whether it is one matrix product over the places of the image as they lie."""
        return self.kernel == self.stride == (1, 1) and not any(self.padding)


class Depthwise(Filters, tag="depthwise", frozen=True, kw_only=True):
    """y[i, j, f] = requant(b[f] + sum over r, t of w[f, r, t] * x[i*sh + r*dh - top, j*sw + t*dw - left, f // m]),
    m = filters / channels. Tensors: `<name>.weight` int8 (filters, kh, kw), the others as in `Conv`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.filters % self.input_shape[2]:
            raise SpecError(f"filters {self.filters} is no multiple of the {self.input_shape[2]} channels")
        check_volume("shifted shape", self.shifted_shape)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.filters, *self.kernel)

    @property
    def shifted_shape(self) -> tuple[int, int, int, int]:
        """(rows, kw, ow, f)  the working copy: for each row of the padded image, what the kernel's columns see."""
        return self.padded_shape[0], self.kernel[1], self.outputs_size[1], self.filters
