"""What every kind of layer says about itself: its shape, its tensors, its reach, its proof, its state, its work.

A layer is a frozen record. The network runs it (`edgerun/ops`), everything else asks the record: the bundle reader for
the tensors it must find, the certificate for the proof, the planner for memory and operations. Values between layers
are flat vectors of integers; images lie as (height, width, channel), sequences as (step, feature).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal, NamedTuple, Self, TypeAlias

import numpy as np
from msgspec import Meta, Struct

from edgerun.arrays import I8, I16, I64, AnyArray
from edgerun.errors import SpecError

Name: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=1 << 20)]
Int8: TypeAlias = Annotated[int, Meta(ge=-128, le=127)]
Shape: TypeAlias = Annotated[tuple[Count, ...], Meta(min_length=1, max_length=8)]
DType: TypeAlias = Literal["int8", "uint8", "int16", "uint16", "int32", "int64"]
Tensors: TypeAlias = Mapping[str, AnyArray]

INPUT: Final = "input"
"""The source that stands for what the encoder gives."""

I8_BOUNDS: Final = (-128, 127)
I8_REACH: Final = 128
I16_BOUNDS: Final = (-(1 << 15), (1 << 15) - 1)
I32_BOUNDS: Final = (-(1 << 31), (1 << 31) - 1)
Q15: Final = (0, 1 << 15)
WEIGHT: Final = (-127, 127)  # symmetric
BIAS: Final = (1 - (1 << 28), (1 << 28) - 1)
MULTIPLIER: Final = (1, (1 << 24) - 1)
SHIFT: Final = (1, 46)
WEIGHT_MAX: Final = 127  # the largest |w| that learning can reach
F32_EXACT: Final = 1 << 24
F64_EXACT: Final = 1 << 53
VOLUME: Final = 1 << 24  # values in one layer's output


class Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of everything in a manifest: immutable, keyword-only, strict about unknown fields."""


class Requant(Record, frozen=True, kw_only=True):
    """q = clip(((acc * multiplier + 2**(shift - 1)) >> shift) + zero_point, qmin, qmax): one rounding, half up."""

    multiplier: int  # [2**23, 2**24), or 1 for a power of two
    shift: int  # [1, 46]; [1, 23] for a power of two
    zero_point: Int8 = 0
    qmin: Int8 = -128
    qmax: Int8 = 127

    def __post_init__(self) -> None:
        if self.multiplier != 1 and not 2**23 <= self.multiplier < 2**24:
            raise SpecError(f"multiplier {self.multiplier} is neither 1 nor in [2**23, 2**24)")
        top = 23 if self.multiplier == 1 else 46
        if not 1 <= self.shift <= top:
            raise SpecError(f"shift {self.shift} is outside [1, {top}]")
        if self.qmin > self.qmax:
            raise SpecError(f"qmin {self.qmin} is above qmax {self.qmax}")

    @classmethod
    def from_scale(cls, scale: float, *, zero_point: int = 0, qmin: int = -128, qmax: int = 127) -> Self:
        """The nearest representable map for a real scale in [2**-23, 2**23)."""
        if not (math.isfinite(scale) and 2.0**-23 <= scale < 2.0**23):
            raise SpecError(f"scale {scale} is outside [2**-23, 2**23)")
        mantissa, exponent = math.frexp(scale)
        multiplier, shift = round(mantissa * 2**24), 24 - exponent
        if multiplier == 2**24:
            multiplier, shift = 2**23, shift - 1
        if multiplier == 2**23 and 24 <= shift <= 46:
            multiplier, shift = 1, shift - 23
        return cls(multiplier=multiplier, shift=shift, zero_point=zero_point, qmin=qmin, qmax=qmax)

    @property
    def scale(self) -> float:
        return self.multiplier * 2.0**-self.shift


class Field(NamedTuple):
    """One tensor of a layer, stored as `<layer>.<part>`; its values lie in [low, high]."""

    part: str
    dtype: DType
    shape: tuple[int, ...]
    low: int
    high: int


class State(NamedTuple):
    """One array that a layer keeps from step to step, in the integers that a controller would hold."""

    name: str
    dtype: DType | Literal["bool", "float64"]
    shape: tuple[int, ...]


class Work(NamedTuple):
    """What one step of a layer does, counted. What depends on spikes is counted as it runs instead (`price`)."""

    macs: int = 0  # int8 multiply-accumulates, whatever comes in
    synapses: int = 0  # weights that meet what comes in: multiply-accumulates too, but of spikes one addition each
    elements: int = 0  # values rescaled, looked up, compared or moved
    neurons: int = 0  # neurons that leak, compare and reset
    calls: int = 0  # calls into numpy


Carrier: TypeAlias = Literal["float32-folded", "float32-dot", "float64", "int64"]

CARRIERS: Final[tuple[Carrier, ...]] = ("float32-folded", "float32-dot", "float64", "int64")
"""From the fastest to the one that always holds; a layer gets the slowest of its channels."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is proven about one layer."""

    carrier: Carrier
    bound: int  # the largest |accumulator| of any channel, bias included, in the layer's own fixed point

    @property
    def folds_zero_point(self) -> bool:
        """Whether the carrier is exact with the zero point added inside the floor."""
        return self.carrier != "int64"


class LayerRecord(Record, frozen=True, kw_only=True):
    """The base of all layers. `sources` names earlier layers, or "input"; empty stands for the layer before.

    Every kind says the same eight things, as fields or as methods below; `edgerun/layers/__init__.py` lists the kinds.
    """

    name: Name
    sources: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()

    stateful: ClassVar[bool] = False
    """Whether a step depends on steps before it. Layers behind the last stateful one run once a window, at its end."""

    @property
    def widths(self) -> tuple[int, ...]:
        """How many values each source must give, in the order of `sources`."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the output."""
        raise NotImplementedError

    @property
    def outputs(self) -> int:
        """How many values the layer gives."""
        return math.prod(self.shape)

    @property
    def sums(self) -> int:
        """How many int32 sums the layer holds at once; an image's live position by position."""
        return self.shape[-1]

    def fields(self) -> tuple[Field, ...]:
        """The tensors of this layer, in stored order."""
        return ()

    def state(self) -> tuple[State, ...]:
        """What is kept from step to step."""
        return ()

    def reach(self, reaches: tuple[int, ...]) -> int:
        """The largest |value| that the layer can emit in one step, given the largest that each source can."""
        raise NotImplementedError

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        """Prove that the sums fit their carrier, for every input within `reaches` and whatever learning does to the
        tensors named in `plastic`. Raises SpecError naming the layer, the channel, the value and the bound."""
        raise NotImplementedError

    def work(self) -> Work:
        """What one step costs."""
        raise NotImplementedError

    def fan_out(self) -> I64:
        """(width,)  how many weights a spike of each input meets."""
        return np.zeros(self.widths[0], np.int64)

    @property
    def echo(self) -> int:
        """How many weights a spike of its own meets in the step after."""
        return 0

    def describe(self, tensors: Tensors) -> str:
        """The numbers of this layer in a few words, for a person."""
        return "x".join(map(str, self.shape))

    def tensor(self, tensors: Tensors, part: str) -> AnyArray:
        return tensors[f"{self.name}.{part}"]


class VectorLayer(LayerRecord, frozen=True, kw_only=True):
    """The base of layers that take one flat vector and give another."""

    inputs: Count
    outputs: Count

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.inputs,)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.outputs,)


# ------------------------------------------------------------------ checks and proofs that several kinds share


def check_clip(qmin: int, qmax: int) -> None:
    if qmin > qmax:
        raise SpecError(f"qmin {qmin} is above qmax {qmax}")


def check_volume(field: str, shape: tuple[int, ...]) -> None:
    """Raise SpecError for a shape that holds more values than a layer may."""
    if math.prod(shape) > VOLUME:
        raise SpecError(f"{field} {shape} holds {math.prod(shape)} values, above 2**24")


def describe_scales(multiplier: AnyArray, shift: AnyArray, zero_point: int) -> str:
    scales = multiplier * np.exp2(-shift.astype(np.float64))
    return f"scale {scales.min():.3g} to {scales.max():.3g}, zero point {zero_point}"


def refuse_above(layer: str, what: str, value: I64, limit: int) -> None:
    """Raise SpecError for the first channel whose value is above the limit."""
    over = np.atleast_1d(value) > limit
    if over.any():
        k = int(over.argmax())
        raise SpecError(f"layer {layer} channel {k}: {what} {np.atleast_1d(value)[k]} is above {limit}")


def refuse_reach(layer: str, bound: int, reaches: tuple[int, ...]) -> None:
    """Raise SpecError where a source can emit more than the layer was certified for."""
    if bound < max(reaches):
        raise SpecError(f"layer {layer}: input_bound {bound} is under the {max(reaches)} that reaches it")


def refuse_wide(layer: str, reaches: tuple[int, ...]) -> None:
    """Raise SpecError where a source can emit more than int8 holds."""
    if max(reaches) > I8_REACH:
        raise SpecError(f"layer {layer}: {max(reaches)} reaches it, above the {I8_REACH} of int8")


def magnitude(weight: I8 | I16, axis: int | tuple[int, ...]) -> I64:
    """sum|w| along axes; temporaries of the weight's own dtype only, and -128 counts as 128."""
    positive: I64 = np.maximum(weight, 0).sum(axis=axis, dtype=np.int64)
    negative: I64 = np.minimum(weight, 0).sum(axis=axis, dtype=np.int64)
    return positive - negative


def weight_fields(shape: tuple[int, ...], *, asymmetric: bool) -> tuple[Field, ...]:
    """The tensors of weighted sums that are requantised; a channel is one place of the weight's first axis."""
    n = shape[:1]
    found = (
        Field("weight", "int8", shape, *I8_BOUNDS),
        Field("bias", "int32", n, *BIAS),
        Field("multiplier", "int32", n, *MULTIPLIER),
        Field("shift", "uint8", n, *SHIFT),
    )
    return (*found, Field("weight_zero", "int8", n, *I8_BOUNDS)) if asymmetric else found


def effective(weight: I8, weight_zero: I8 | None = None) -> I8 | I16:
    """w - z of each channel, (n, ...) in [-255, 255]: what meets the inputs; w itself where there are no zero points.

    A backend whose products take int8 alone computes the same integer by row sums:

        sum((w - z) * x) = sum(w * x) - z * sum(x)
    """
    if weight_zero is None:
        return weight
    return weight.astype(np.int16) - weight_zero.reshape(-1, *(1,) * (weight.ndim - 1))


def certify_weights(
    layer: str,
    zero_point: int,
    most: int,
    weight: I8,
    bias: AnyArray,
    multiplier: AnyArray,
    shift: AnyArray,
    weight_zero: I8 | None = None,
) -> Certificate:
    """`certify_requant` for the effective weights (n, ...) and |x| <= most. The n taps of a channel that has a zero
    point must also fit int32 where a backend adds them by row sums:

        (sum|w| + taps * |z|) * most + |b| + 2**22 < 2**31
    """
    axis = tuple(range(1, weight.ndim))
    if weight_zero is not None:
        rows = magnitude(weight, axis) + weight[0].size * np.abs(weight_zero.astype(np.int64))
        bound = rows * most + np.abs(bias.astype(np.int64)) + (1 << 22)
        refuse_above(layer, "(sum|w| + taps * |weight_zero|) * max|x| + |b| + 2**22", bound, (1 << 31) - 1)
    dot = magnitude(effective(weight, weight_zero), axis) * most
    return certify_requant(layer, zero_point, dot, bias, multiplier, shift)


def certify_requant(
    layer: str, zero_point: int, dot: I64, bias: AnyArray, multiplier: AnyArray, shift: AnyArray
) -> Certificate:
    """The certificate of sums that are requantised: dot = sum|w| * max|x| (n,), bias, multiplier, shift (n,).

    With A = dot + |b| and Z = 2**(s-1) + |zp| * 2**s, the carrier is the fastest that is exact for every channel:

        always                            A + 2**22 < 2**31
        float32-folded   m = 1,           A + Z <= 2**24
        float32-dot      dot <= 2**24 and A * m + Z <= 2**53      dot in float32, the rest in float64
        float64                           A * m + Z <= 2**53
        int64            otherwise, the zero point added after the floor

    Raises SpecError where a multiplier is not one of `Requant`'s, or where even int64 after an int32 sum cannot hold.
    """
    m, s = multiplier.astype(np.int64), shift.astype(np.int64)
    wrong = (m != 1) & ((m < 1 << 23) | (m >= 1 << 24))
    if wrong.any():
        k = int(wrong.argmax())
        raise SpecError(f"layer {layer} channel {k}: multiplier {m[k]} is neither 1 nor in [2**23, 2**24)")
    refuse_above(layer, "shift of a power of two", np.where(m == 1, s, 0), 23)
    bound = dot + np.abs(bias.astype(np.int64))
    refuse_above(layer, "sum|w| * max|x| + |b| + 2**22", bound + (1 << 22), (1 << 31) - 1)
    offset = (np.int64(1) << (s - 1)) + (np.int64(abs(zero_point)) << s)  # at most 2**45 + 2**53
    whole = bound * m + offset  # under 2**56; with m = 1 it is the sum itself
    ranks = np.select(
        [(m == 1) & (whole <= F32_EXACT), (dot <= F32_EXACT) & (whole <= F64_EXACT), whole <= F64_EXACT],
        [0, 1, 2],
        default=3,
    )
    return Certificate(carrier=CARRIERS[int(ranks.max())], bound=int(bound.max()))
