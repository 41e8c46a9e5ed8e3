"""The exactness certificate: which carrier may hold a layer's sums without losing a bit, proven from its tensors.

The exporter computes it to choose scales, the loader computes it again and trusts nobody. All bounds are worst cases
over every input that the layer before can emit; random data never reaches them, adversarial same-sign data does.

Dense, per channel, with A = sum|w| * max|x| + |b|, Z = 2**(s-1) + |zp| * 2**s and
y = clip(((acc * m + 2**(s-1)) >> s) + zp), the zero point added inside the floor on every float carrier:

    always                            A + 2**22 < 2**31
    float32-folded   m = 1,           A + Z <= 2**24
    float32-dot      sum|w| * max|x| <= 2**24  and  A * m + Z <= 2**53      dot in float32, the rest in float64
    float64                                         A * m + Z <= 2**53
    int64            otherwise, the zero point added after the floor

Lif:      S = sum|w|, times 2**(12-f), plus |b|, is under 2**30 (Q3.12); plastic weights count as 127 each.
Readout:  S = sum|w|, times 2**(24-f), plus |b|, is under 2**30 (Q7.24), factory weights: its kernel carries int64 and
          saturates, so learned weights cannot overflow.
Both:     S * max|x| <= 2**24, so a float32 product is exact.
Head:     3 * d * max|z|**2 + |bias| < 2**31 for 2 z.c - c.c + bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

import numpy as np

from edgerun.arrays import I8, I32, I64, U8, AnyArray
from edgerun.errors import SpecError
from edgerun.graph import feature_reach, input_reach, layer_reach, plastic_tensors
from edgerun.spec import Dense, Layer, Lif, Manifest, Readout

Carrier: TypeAlias = Literal["float32-folded", "float32-dot", "float64", "int64"]

CARRIERS: Final[tuple[Carrier, ...]] = ("float32-folded", "float32-dot", "float64", "int64")
"""From the fastest to the one that always holds; a layer gets the slowest of its channels."""

F32_EXACT: Final = 1 << 24
F64_EXACT: Final = 1 << 53
WEIGHT_MAX: Final = 127  # the largest |w| that learning can reach
DRIVE_LIMIT: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is proven about one layer."""

    carrier: Carrier
    bound: int  # the largest |accumulator| of any channel, bias included, in the layer's own fixed point

    @property
    def folds_zero_point(self) -> bool:
        """Whether the carrier is exact with the zero point added inside the floor."""
        return self.carrier != "int64"


def certify(manifest: Manifest, tensors: Mapping[str, AnyArray]) -> dict[str, Certificate]:
    """The certificate of every layer by name, the whitening layer included.

    tensors  shapes, dtypes and single values already checked (`edgerun.bundle`)

    Raises SpecError naming the layer and the channel that no carrier can hold.
    """
    certificates: dict[str, Certificate] = {}
    reach = input_reach(manifest)
    for layer in manifest.layers:
        certificates[layer.name] = _certify_layer(layer, tensors, reach, plastic_tensors(manifest))
        reach = layer_reach(layer)
    if manifest.head.kind == "prototypes":
        certificates |= _certify_head(manifest, tensors)
    return certificates


def certify_dense(layer: Dense, weight: I8, bias: I32, multiplier: I32, shift: U8) -> Certificate:
    """The certificate of one Dense layer.

    weight (out, in), bias (out,), multiplier (out,), shift (out,) in [1, 46]

    Raises SpecError where a multiplier is not one of `Requant`'s, or where even int64 after an int32 sum cannot hold.
    """
    _check_requant(layer.name, multiplier, shift)
    dot = magnitude(weight, axis=1) * layer.input_bound
    bound = dot + np.abs(bias.astype(np.int64))
    _refuse(layer.name, "sum|w| * max|x| + |b| + 2**22", bound + (1 << 22), (1 << 31) - 1)
    carrier = _dense_carrier(layer.zero_point, dot, bound, multiplier.astype(np.int64), shift.astype(np.int64))
    return Certificate(carrier=carrier, bound=int(bound.max()))


def _dense_carrier(zero_point: int, dot: I64, bound: I64, multiplier: I64, shift: I64) -> Carrier:
    """The fastest carrier that is exact for every channel."""
    offset = (np.int64(1) << (shift - 1)) + (np.int64(abs(zero_point)) << shift)  # at most 2**45 + 2**53
    whole = bound * multiplier + offset  # under 2**56; with m = 1 it is the sum itself
    ranks = np.select(
        [(multiplier == 1) & (whole <= F32_EXACT), (dot <= F32_EXACT) & (whole <= F64_EXACT), whole <= F64_EXACT],
        [0, 1, 2],
        default=3,
    )
    return CARRIERS[int(ranks.max())]


def _check_requant(name: str, multiplier: I32, shift: U8) -> None:
    wrong = (multiplier != 1) & ((multiplier < 1 << 23) | (multiplier >= 1 << 24))
    if wrong.any():
        k = int(wrong.argmax())
        raise SpecError(f"layer {name} channel {k}: multiplier {multiplier[k]} is neither 1 nor in [2**23, 2**24)")
    _refuse(name, "shift of a power of two", np.where(multiplier == 1, shift, 0).astype(np.int64), 23)


def certify_lif(layer: Lif, tensors: Mapping[str, AnyArray], reach: int, plastic: frozenset[str]) -> Certificate:
    """The certificate of one Lif layer whose inputs are at most `reach`: its current fits |.| < 2**30 in Q3.12."""
    total = _fan_in(f"{layer.name}.input", tensors, plastic) * reach
    if layer.recurrent:
        total = total + _fan_in(f"{layer.name}.recurrent", tensors, plastic)
    return _certify_drive(layer, total, 12 - layer.weight_exponent, cast(I32, tensors[f"{layer.name}.bias"]))


def certify_readout(layer: Readout, tensors: Mapping[str, AnyArray], reach: int) -> Certificate:
    """The certificate of one Readout layer whose inputs are at most `reach`: its drive fits |.| < 2**30 in Q7.24."""
    total = _fan_in(f"{layer.name}.input", tensors, frozenset()) * reach
    return _certify_drive(layer, total, 24 - layer.weight_exponent, cast(I32, tensors[f"{layer.name}.bias"]))


def _certify_drive(layer: Lif | Readout, total: I64, shift: int, bias: I32) -> Certificate:
    _refuse(layer.name, "sum|w| * max|x|", total, F32_EXACT)
    drive = total << shift if shift >= 0 else (total + (1 << (-shift - 1))) >> -shift
    bound = drive + np.abs(bias.astype(np.int64))
    _refuse(layer.name, "largest input current", bound, DRIVE_LIMIT - 1)
    return Certificate(carrier="float32-dot", bound=int(bound.max()))


def _fan_in(name: str, tensors: Mapping[str, AnyArray], plastic: frozenset[str]) -> I64:
    """sum|w| over the inputs of each neuron of a pre-major (in, n) matrix."""
    weight = cast(I8, tensors[name])
    if name in plastic:
        return np.full(weight.shape[1], weight.shape[0] * WEIGHT_MAX, dtype=np.int64)
    return magnitude(weight, axis=0)


def magnitude(weight: I8, axis: int) -> I64:
    """sum|w| along an axis; int8 temporaries only, and -128 counts as 128."""
    positive: I64 = np.maximum(weight, 0).sum(axis=axis, dtype=np.int64)
    negative: I64 = np.minimum(weight, 0).sum(axis=axis, dtype=np.int64)
    return positive - negative


def _certify_layer(layer: Layer, tensors: Mapping[str, AnyArray], reach: int, plastic: frozenset[str]) -> Certificate:
    match layer:
        case Dense():
            if layer.input_bound < reach:
                raise SpecError(
                    f"layer {layer.name}: input_bound {layer.input_bound} is under the {reach} that reaches it"
                )
            return certify_dense(layer, *_dense_tensors(layer, tensors))
        case Lif():
            return certify_lif(layer, tensors, reach, plastic)
        case Readout():
            return certify_readout(layer, tensors, reach)


def _certify_head(manifest: Manifest, tensors: Mapping[str, AnyArray]) -> dict[str, Certificate]:
    head, reach = manifest.head, feature_reach(manifest)
    certificates: dict[str, Certificate] = {}
    if head.whiten:
        certificates[head.whiten.name] = _certify_layer(head.whiten, tensors, reach, frozenset())
        reach = layer_reach(head.whiten)
    width = tensors["head.sum"].shape[1]
    score = 3 * width * reach * reach + np.abs(cast(I32, tensors["head.bias"]).astype(np.int64))
    _refuse("head", "largest prototype score", score, (1 << 31) - 1)
    return certificates


def _dense_tensors(layer: Dense, tensors: Mapping[str, AnyArray]) -> tuple[I8, I32, I32, U8]:
    weight, bias, multiplier, shift = (
        tensors[f"{layer.name}.{part}"] for part in ("weight", "bias", "multiplier", "shift")
    )
    return cast(I8, weight), cast(I32, bias), cast(I32, multiplier), cast(U8, shift)


def _refuse(layer: str, what: str, value: I64, limit: int) -> None:
    """Raise SpecError for the first channel whose value is above the limit."""
    over = value > limit
    if over.any():
        k = int(over.argmax())
        raise SpecError(f"layer {layer} channel {k}: {what} {value[k]} is above {limit}")
