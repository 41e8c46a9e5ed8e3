"""Sums, products and functions of single values, float and quantised."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Final, NamedTuple, TypeAlias

import numpy as np

from edgerun.arrays import F32, F64, I8
from edgerun.errors import ModelError, SpecError
from edgerun.layers import Add, LayerRecord, Lookup, Mul, elementwise
from exporters.nodes.base import Affine, FloatLayer, Quantised, Range

Shape: TypeAlias = tuple[int, ...]

# ------------------------------------------------------------------ functions of one value


class Unary(NamedTuple):
    """A function of real values, float64 in and out, by the formula that ONNX and LiteRT give.

    defaults  its parameters where a node names none        output  the int8 map that both peers take for its output
    """

    function: Callable[..., F64]
    defaults: tuple[float, ...] = ()
    output: Affine | None = None


PROBABILITY: Final = Affine(1 / 256, -128)
SIGNED_UNIT: Final = Affine(1 / 128, 0)


def _sigmoid(x: F64) -> F64:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def _softplus(x: F64) -> F64:
    return np.asarray(np.logaddexp(0, x))


def _erf(x: F64) -> F64:
    return np.fromiter((math.erf(v) for v in x.ravel()), np.float64, x.size).reshape(x.shape)


def _hard_sigmoid(x: F64, alpha: float, beta: float) -> F64:
    return np.asarray(np.clip(alpha * x + beta, 0, 1))


def _elu(x: F64, alpha: float) -> F64:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _celu(x: F64, alpha: float) -> F64:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha))


def _gelu_tanh(x: F64) -> F64:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def _shrink(x: F64, bias: float, threshold: float) -> F64:
    return np.asarray(np.select([x < -threshold, x > threshold], [x + bias, x - bias], 0.0))


UNARY: Final[Mapping[str, Unary]] = MappingProxyType(
    {
        "identity": Unary(lambda x: x),
        "affine": Unary(lambda x, a, b: a * x + b, (1.0, 0.0)),
        "neg": Unary(lambda x: -x),
        "abs": Unary(np.abs),
        "sign": Unary(np.sign),
        "square": Unary(np.square),
        "power": Unary(np.power, (2.0,)),
        "sqrt": Unary(np.sqrt),
        "rsqrt": Unary(lambda x: 1 / np.sqrt(x)),
        "reciprocal": Unary(lambda x: 1 / x),
        "exp": Unary(np.exp),
        "log": Unary(np.log),
        "sin": Unary(np.sin),
        "cos": Unary(np.cos),
        "erf": Unary(_erf),
        "floor": Unary(np.floor),
        "ceil": Unary(np.ceil),
        "round": Unary(np.rint),
        "clip": Unary(np.clip, (-math.inf, math.inf)),
        "relu": Unary(lambda x: np.maximum(x, 0)),
        "leaky-relu": Unary(lambda x, alpha: np.where(x < 0, alpha * x, x), (0.01,)),
        "thresholded-relu": Unary(lambda x, alpha: np.where(x > alpha, x, 0.0), (1.0,)),
        "shrink": Unary(_shrink, (0.0, 0.5)),  # bias, threshold
        "elu": Unary(_elu, (1.0,)),
        "selu": Unary(lambda x, alpha, gamma: gamma * _elu(x, alpha), (1.6732632423543772, 1.0507009873554805)),
        "celu": Unary(_celu, (1.0,)),
        "sigmoid": Unary(_sigmoid, output=PROBABILITY),
        "hard-sigmoid": Unary(_hard_sigmoid, (0.2, 0.5), PROBABILITY),
        "tanh": Unary(np.tanh, output=SIGNED_UNIT),
        "softsign": Unary(lambda x: x / (1 + np.abs(x))),
        "softplus": Unary(_softplus),
        "silu": Unary(lambda x: x * _sigmoid(x)),
        "hard-swish": Unary(lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5)),
        "gelu": Unary(lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2)))),
        "gelu-tanh": Unary(_gelu_tanh),
        "mish": Unary(lambda x: x * np.tanh(_softplus(x))),
    }
)
"""Every function that a `FloatUnary` may name, with its default parameters."""


@dataclass(frozen=True, slots=True)
class FloatUnary(FloatLayer):
    """y = f(x), value by value; `function` is a key of `UNARY`, `parameters` its own, or none for its defaults.

    table  the 256 integers that the file's own runtime gives for -128 to 127, where they are not the rounded function;
           they count steps of `output`

    Raises ModelError where there is no such function, or it takes another number of parameters.
    """

    shape: Shape = field()
    function: str
    parameters: tuple[float, ...] = ()
    table: tuple[int, ...] = ()

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Lookup,)

    def __post_init__(self) -> None:
        if self.table and (len(self.table) != len(INT8) or self.output is None):
            raise ModelError(f"layer {self.name}: a table of {len(self.table)} values, must be 256 steps of an output")
        if self.function not in UNARY:
            raise ModelError(f"layer {self.name}: function {self.function!r} is none of {', '.join(UNARY)}")
        if len(self.parameters) not in (0, len(UNARY[self.function].defaults)):
            raise ModelError(
                f"layer {self.name}: {self.function} takes {len(UNARY[self.function].defaults)} parameters, "
                f"not {len(self.parameters)}"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.outputs,)

    def value(self, x: F64) -> F64:
        """f(x) in float64; not finite where the function is not."""
        unary = UNARY[self.function]
        with np.errstate(all="ignore"):
            return np.asarray(unary.function(x, *(self.parameters or unary.defaults)), np.float64)

    def forward(self, *sources: F32) -> F32:
        with np.errstate(over="ignore"):
            return self.value(sources[0].astype(np.float64)).astype(np.float32)

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """table[q] = round(f(sx (q - zx)) / sy) + zy, half to even; f where it has none is that of the nearest q.

        sy and zy are the file's, else what both peers fix for such a function, else from the reach; the identity keeps
        its source's. Raises ModelError where the function has no value at all, or the reach is not finite.
        """
        x = sources[0]
        if self.output is not None and self.table:
            return (tabled(self.name, self.sources, self.shape, np.array(self.table, np.int8), self.output),)
        fixed = self.output or UNARY[self.function].output or (x if self.function == "identity" else None)
        if fixed is None and not math.isfinite(reach.most):
            raise ModelError(f"layer {self.name}: {self.function} reaches {reach.low:.4g} to {reach.high:.4g}")
        y = fixed or reach.affine()
        return (lookup(self.name, self.sources, self.shape, self.value(x.scale * (INT8 - x.zero_point)), y),)


INT8: Final = np.arange(-128.0, 128.0)


def lookup(name: str, sources: tuple[str, ...], shape: Shape, values: F64, y: Affine) -> Quantised:
    """A table layer from the real values (256,) that belong to the inputs -128 to 127."""
    known = np.flatnonzero(~np.isnan(values))
    if not known.size:
        raise ModelError(f"layer {name}: the function has no value for any of its 256 inputs")
    nearest = known[np.abs(np.arange(len(values))[:, None] - known).argmin(axis=1)]
    table = np.clip(np.rint(values[nearest] / y.scale) + y.zero_point, -128, 127).astype(np.int8)
    return tabled(name, sources, shape, table, y)


def tabled(name: str, sources: tuple[str, ...], shape: Shape, table: I8, y: Affine) -> Quantised:
    layer = Lookup(name=name, sources=sources, shape=shape, qmin=int(table.min()), qmax=int(table.max()))
    return Quantised(layer, {f"{name}.table": table}, y)


def rescale(name: str, source: str, shape: Shape, x: Affine, y: Affine) -> Quantised:
    """A table layer that takes values from one map to another."""
    return lookup(name, (source,), shape, x.scale * (INT8 - x.zero_point), y)


# ------------------------------------------------------------------ functions of two values


def broadcast(name: str, shapes: tuple[Shape, Shape]) -> Shape:
    """The shape of an operation on two arrays of equal rank. Raises ModelError where they do not go together."""
    try:
        return elementwise.broadcast(shapes)
    except SpecError as err:
        raise ModelError(f"layer {name}: {err}") from None


def shift_for(name: str, scale: float) -> int:
    """The shift s for which scale * 2**s has 24 bits. Raises ModelError where the scale is not in [2**-21, 2**23)."""
    if not 2.0**-21 <= scale < 2.0**23:
        raise ModelError(f"layer {name}: scale {scale:.4g} is outside [2**-21, 2**23) of the output's")
    shift = 24 - math.frexp(scale)[1]
    return shift - int(round(scale * 2.0**shift) == 1 << 24)


@dataclass(frozen=True, slots=True)
class FloatAdd(FloatLayer):
    """y = clip(signs[0] * a + signs[1] * b, low, high), broadcast as numpy does; the shapes have one rank.

    multipliers  of a and of b, signs included, and the shift: those of the file's own runtime, where they are known
    """

    shapes: tuple[Shape, Shape]
    signs: tuple[int, int] = (1, 1)
    low: float = -np.inf
    high: float = np.inf
    multipliers: tuple[int, int, int] | None = None

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Add,)

    def __post_init__(self) -> None:
        broadcast(self.name, self.shapes)
        if not set(self.signs) <= {1, -1}:
            raise ModelError(f"layer {self.name}: signs {self.signs} are not 1 or -1")

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def shape(self) -> Shape:
        return broadcast(self.name, self.shapes)

    def forward(self, *sources: F32) -> F32:
        a, b = (x.reshape(-1, *shape) for x, shape in zip(sources, self.shapes, strict=True))
        y = np.float32(self.signs[0]) * a + np.float32(self.signs[1]) * b
        return np.clip(y, self.low, self.high).astype(np.float32).reshape(len(y), -1)

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """Multipliers of sa / sy and sb / sy over one shift; the offset takes both zero points exactly to the output's.

        A source whose scale is under 2**-25 of the other's gets multiplier 0: all it could add is 2**-18 of a step
        of the other.
        Raises ModelError where the larger ratio is not in [2**-21, 2**23).
        """
        y = self.output_map(reach)
        first, second, shift = self.multipliers or self.nearest(sources, y)
        zeros = sources[0].zero_point * first + sources[1].zero_point * second
        layer = Add(
            name=self.name,
            sources=self.sources,
            shapes=self.shapes,
            multipliers=(first, second),
            offset=(1 << shift - 1) - zeros,
            shift=shift,
            zero_point=y.zero_point,
            qmin=y.integer(self.low),
            qmax=y.integer(self.high),
        )
        return (Quantised(layer, {}, y),)

    def nearest(self, sources: tuple[Affine, ...], y: Affine) -> tuple[int, int, int]:
        a, b = (sign * x.scale / y.scale for sign, x in zip(self.signs, sources, strict=True))
        shift = shift_for(self.name, max(abs(a), abs(b)))
        return round(a * 2.0**shift), round(b * 2.0**shift), shift


@dataclass(frozen=True, slots=True)
class FloatMul(FloatLayer):
    """y = clip(a * b, low, high), broadcast as numpy does; the shapes have one rank."""

    shapes: tuple[Shape, Shape]
    low: float = -np.inf
    high: float = np.inf

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Mul,)

    def __post_init__(self) -> None:
        broadcast(self.name, self.shapes)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def shape(self) -> Shape:
        return broadcast(self.name, self.shapes)

    def forward(self, *sources: F32) -> F32:
        a, b = (x.reshape(-1, *shape) for x, shape in zip(sources, self.shapes, strict=True))
        y: F32 = a * b
        return np.clip(y, self.low, self.high).astype(np.float32).reshape(len(y), -1)

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """One scale sa sb / sy. Raises ModelError where it is not in [2**-21, 2**23)."""
        (a, b), y = sources, self.output_map(reach)
        scale = a.scale * b.scale / y.scale
        shift = shift_for(self.name, scale)
        layer = Mul(
            name=self.name,
            sources=self.sources,
            shapes=self.shapes,
            zeros=(a.zero_point, b.zero_point),
            multiplier=round(scale * 2.0**shift),
            shift=shift,
            zero_point=y.zero_point,
            qmin=y.integer(self.low),
            qmax=y.integer(self.high),
        )
        return (Quantised(layer, {}, y),)
