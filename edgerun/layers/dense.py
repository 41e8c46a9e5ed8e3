"""Dense layers."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from edgerun.errors import SpecError
from edgerun.layers.base import (
    WEIGHT_MAX,
    Certificate,
    Field,
    Int8,
    Tensors,
    VectorLayer,
    Work,
    certify_requant,
    certify_weights,
    describe_scales,
    refuse_reach,
    weight_fields,
)


class Dense(VectorLayer, tag="dense", frozen=True, kw_only=True):
    """y = requant(W x + b), int8 in and out. Tensors: `<name>.weight` int8 (out, in), `<name>.bias` int32 (out,),
    `<name>.multiplier` int32 (out,), `<name>.shift` uint8 (out,). The bias holds the folded input zero point.

    Where it is `asymmetric`, there is `<name>.weight_zero` int8 (out,) too, and W = weight - weight_zero.
    """

    zero_point: Int8 = 0
    qmin: Int8 = -128
    qmax: Int8 = 127
    input_bound: Annotated[int, Meta(ge=1, le=128)] = 128  # largest |x| that the previous layer can emit
    asymmetric: bool = False  # whether weights have a zero point for each output

    def __post_init__(self) -> None:
        if self.qmin > self.qmax:
            raise SpecError(f"qmin {self.qmin} is above qmax {self.qmax}")

    def fields(self) -> tuple[Field, ...]:
        return weight_fields((self.outputs, self.inputs), asymmetric=self.asymmetric)

    def reach(self, reaches: tuple[int, ...]) -> int:
        return max(abs(self.qmin), abs(self.qmax))

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        refuse_reach(self.name, self.input_bound, reaches)
        if f"{self.name}.weight" not in plastic:
            return self.proof(tensors)
        bias, multiplier, shift = (self.tensor(tensors, part) for part in ("bias", "multiplier", "shift"))
        dot = np.full(self.outputs, WEIGHT_MAX * self.inputs * self.input_bound, np.int64)
        return certify_requant(self.name, self.zero_point, dot, bias, multiplier, shift)

    def proof(self, tensors: Tensors) -> Certificate:
        """The certificate for inputs within `input_bound`."""
        parts: Any = (self.tensor(tensors, field.part) for field in self.fields())
        return certify_weights(self.name, self.zero_point, self.input_bound, *parts)

    def describe(self, tensors: Tensors) -> str:
        scales = describe_scales(self.tensor(tensors, "multiplier"), self.tensor(tensors, "shift"), self.zero_point)
        return f"{scales}, weights with zero points" if self.asymmetric else scales

    def work(self) -> Work:
        return Work(macs=self.inputs * self.outputs, calls=7)
