"""Spiking neurons and the leaky integrators that read them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, cast

import numpy as np
from msgspec import Meta

from edgerun.arrays import I8, I64
from edgerun.layers.base import (
    F32_EXACT,
    I16_BOUNDS,
    I32_BOUNDS,
    Q15,
    WEIGHT,
    WEIGHT_MAX,
    Certificate,
    Count,
    Field,
    LayerRecord,
    State,
    Tensors,
    Work,
    magnitude,
    refuse_above,
)

DRIVE_LIMIT: Final = 1 << 30


class Lif(LayerRecord, tag="lif", frozen=True, kw_only=True):
    """Recurrent leaky integrate-and-fire neurons, adaptive where `adaptive` is set (ALIF).

    Step order: leak, add input, spikes of the previous step and bias, compare, reset. Membrane in Q3.12.
    Tensors: `<name>.input` int8 (in, n) pre-major, `<name>.recurrent` int8 (n, n) where recurrent, `<name>.bias` int32
    (n,) in Q3.12, `<name>.decay` uint16 (n,) in Q0.15; adaptive: `<name>.rho` uint16 (n,), `<name>.beta` int16 (n,) in
    Q3.12.
    """

    inputs: Count
    outputs: Count
    weight_exponent: Annotated[int, Meta(ge=0, le=20)]  # f: a weight is w * 2**-f
    recurrent: bool = True
    adaptive: bool = False
    threshold: Annotated[int, Meta(ge=256, le=32767)] = 4096
    reset: Literal["subtract", "zero", "none"] = "subtract"
    reset_delay: bool = True  # True: the reset acts in the step after the spike (snnTorch's default)
    refractory_steps: Annotated[int, Meta(ge=0, le=255)] = 0

    stateful: ClassVar[bool] = True

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.inputs,)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.outputs,)

    def fields(self) -> tuple[Field, ...]:
        m, n = self.inputs, self.outputs
        found = [
            Field("input", "int8", (m, n), *WEIGHT),
            Field("bias", "int32", (n,), *I32_BOUNDS),
            Field("decay", "uint16", (n,), *Q15),
        ]
        if self.recurrent:
            found.append(Field("recurrent", "int8", (n, n), *WEIGHT))
        if self.adaptive:
            found += [Field("rho", "uint16", (n,), *Q15), Field("beta", "int16", (n,), *I16_BOUNDS)]
        return tuple(found)

    def state(self) -> tuple[State, ...]:
        n = (self.outputs,)
        found = [State("v", "int16", n), State("carry", "uint16", n), State("fired", "bool", n)]
        found.append(State("counts", "uint16", n))
        if self.adaptive:
            found += [State("adaptation", "int16", n), State("adaptation_carry", "uint16", n)]
        if self.refractory_steps:
            found.append(State("resting", "uint8", n))
        return tuple(found)

    def reach(self, reaches: tuple[int, ...]) -> int:
        return 1

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        total = fan_in(f"{self.name}.input", tensors, plastic) * reaches[0]
        if self.recurrent:
            total = total + fan_in(f"{self.name}.recurrent", tensors, plastic)
        return certify_drive(self, total, 12 - self.weight_exponent, tensors)

    def describe(self, tensors: Tensors) -> str:
        flags = ", recurrent" * self.recurrent + ", adaptive" * self.adaptive
        return f"weight = w / 2^{self.weight_exponent}, threshold {self.threshold / 4096:g}{flags}"

    def work(self) -> Work:
        return Work(neurons=self.outputs, calls=24)


class Readout(LayerRecord, tag="readout", frozen=True, kw_only=True):
    """Leaky integrators, one a class: y <- kappa * y + W z + b in Q7.24. Its value after the last step is the logit.

    Tensors: `<name>.input` int8 (in, n) pre-major, `<name>.bias` int32 (n,) in Q7.24, `<name>.kappa` uint16 (n,) Q0.15.
    """

    inputs: Count
    outputs: Count
    weight_exponent: Annotated[int, Meta(ge=0, le=20)]

    stateful: ClassVar[bool] = True

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.inputs,)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.outputs,)

    def fields(self) -> tuple[Field, ...]:
        n = self.outputs
        return (
            Field("input", "int8", (self.inputs, n), *WEIGHT),
            Field("bias", "int32", (n,), *I32_BOUNDS),
            Field("kappa", "uint16", (n,), *Q15),
        )

    def state(self) -> tuple[State, ...]:
        return (State("y", "int32", (self.outputs,)), State("carry", "uint16", (self.outputs,)))

    def reach(self, reaches: tuple[int, ...]) -> int:
        return 1 << 31

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        """Factory weights only: the kernel carries int64 and saturates, so learned weights cannot overflow."""
        total = fan_in(f"{self.name}.input", tensors, frozenset()) * reaches[0]
        return certify_drive(self, total, 24 - self.weight_exponent, tensors)

    def describe(self, tensors: Tensors) -> str:
        return f"weight = w / 2^{self.weight_exponent}"

    def work(self) -> Work:
        return Work(neurons=self.outputs, calls=12)


def certify_drive(layer: Lif | Readout, total: I64, shift: int, tensors: Tensors) -> Certificate:
    """S = sum|w| * max|x| is at most 2**24, so a float32 product is exact; shifted and with the bias under 2**30."""
    refuse_above(layer.name, "sum|w| * max|x|", total, F32_EXACT)
    drive = total << shift if shift >= 0 else (total + (1 << (-shift - 1))) >> -shift
    bound = drive + np.abs(layer.tensor(tensors, "bias").astype(np.int64))
    refuse_above(layer.name, "largest input current", bound, DRIVE_LIMIT - 1)
    return Certificate(carrier="float32-dot", bound=int(bound.max()))


def fan_in(name: str, tensors: Tensors, plastic: frozenset[str]) -> I64:
    """sum|w| over the inputs of each neuron of a pre-major (in, n) matrix."""
    weight = cast(I8, tensors[name])
    if name in plastic:
        return np.full(weight.shape[1], weight.shape[0] * WEIGHT_MAX, dtype=np.int64)
    return magnitude(weight, axis=0)
