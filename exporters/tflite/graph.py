"""What an import has found so far: constants, values and the float layers that make them.

LiteRT lies channels last, as the values between layers do, so a value is a flat vector with the shape that the file
gives it. The batch is one sample: its axis is an axis of size 1 like any other.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import numpy as np

from edgerun.arrays import F32, F64, I64, AnyArray
from edgerun.graph import RESERVED_NAMES
from edgerun.layers.window import Pair, Sides
from exporters.nodes import Affine, FloatLayer, FloatUnary
from exporters.tflite_reader import TfliteModel, TfliteOp, TfliteTensor

Shape: TypeAlias = tuple[int, ...]

VALUES_MAX: Final = 1 << 24
"""Values in one tensor between layers."""
FLOATS: Final = ("float16", "float32", "float64", "bfloat16")
UINT8_BASE: Final = 128
"""What uint8 values lose to become int8."""


SHORT: Final[Mapping[str, str]] = {
    "FULLY_CONNECTED": "dense",
    "BATCH_MATMUL": "dense",
    "CONV_2D": "conv",
    "DEPTHWISE_CONV_2D": "depthwise",
    "MAX_POOL_2D": "max-pool",
    "AVERAGE_POOL_2D": "average-pool",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "lstm",
}
"""What layers are called whose tensor has no layer's name."""


class Unsupported(Exception):
    """One operator that has no counterpart here; collected, so that one message can list all."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """An image cut into blocks for a dilated convolution.

    size   of a block, the dilation          padding  of the image before it was cut
    image  (h, w, c) as it was               done     whether the convolution has already read the image itself
    """

    size: Pair
    padding: Sides
    image: tuple[int, int, int]
    done: bool = False


@dataclass(frozen=True, slots=True)
class Value:
    """What a layer gives, as the file sees it.

    source  the layer, or "input"
    shape   as in the file, the batch being 1
    affine  what one of its integers stands for, where the file fixes it
    alone   whether nothing else reads the layer, so that what follows may be folded into it
    """

    source: str
    shape: Shape
    affine: Affine | None = None
    alone: bool = True
    blocks: Blocks | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """How many vectors along the last axis."""
        return self.size // self.last

    @property
    def last(self) -> int:
        return self.shape[-1] if self.shape else 1

    def axis(self, axis: int) -> int:
        """An axis counted from the front. Raises Unsupported where there is none."""
        if not -len(self.shape) <= axis < len(self.shape):
            raise Unsupported(f"axis {axis} of a value with {len(self.shape)} dimensions")
        return axis % len(self.shape)


@dataclass(frozen=True, slots=True)
class Constant:
    """Numbers of the file: real = (array - zero_point) * scale along `axis`, or the array itself without a scale."""

    array: AnyArray
    scale: F64 | None = None
    zero_point: I64 | None = None
    axis: int = 0

    def along(self, numbers: F64 | I64) -> F64 | I64:
        """One number a channel, or one for all, shaped so that it meets the array."""
        if len(numbers) == 1:
            return numbers.reshape(())
        return numbers.reshape([-1 if axis == self.axis else 1 for axis in range(self.array.ndim)])

    @property
    def steps(self) -> I64:
        """Whole steps from zero."""
        zero = np.zeros(1, np.int64) if self.zero_point is None else self.zero_point
        return np.asarray(self.array.astype(np.int64) - self.along(zero), np.int64)

    @property
    def real(self) -> F32 | F64:
        if self.scale is None:
            return np.asarray(self.array, np.float32)
        return np.asarray(self.steps * self.along(self.scale), np.float64)


@dataclass(slots=True)
class Graph:
    """The state of one import.

    constants, values  by tensor           layers  by name, in running order
    readers            how often a tensor is read; answers are read once more
    makers             the operator that writes a tensor
    room               how many values made constants may still take
    input              the quantisation of the input, where the file fixes it
    taken              how often a layer's name was wanted again
    """

    model: TfliteModel
    readers: Mapping[int, int]
    makers: Mapping[int, TfliteOp]
    room: int
    constants: dict[int, Constant] = field(default_factory=dict)
    values: dict[int, Value] = field(default_factory=dict)
    layers: dict[str, FloatLayer] = field(default_factory=dict)
    input: Affine | None = None
    taken: Counter[str] = field(default_factory=Counter)

    def take(self, size: int) -> None:
        """Note what a made constant needs. Raises Unsupported where that is out of proportion to the file."""
        self.room -= size
        if self.room < 0:
            raise Unsupported(f"makes {size} constant values, too many for this file")

    # ---- what an operator reads

    def has(self, op: TfliteOp, k: int) -> bool:
        return k < len(op.inputs) and op.inputs[k] >= 0

    def is_value(self, op: TfliteOp, k: int) -> bool:
        return self.has(op, k) and op.inputs[k] in self.values

    def value(self, op: TfliteOp, k: int = 0, *, blocks: bool = False) -> Value:
        """A value; one that is cut into blocks only where `blocks` says so."""
        if not self.has(op, k):
            raise Unsupported(f"lacks input {k}")
        if op.inputs[k] not in self.values:
            raise Unsupported(f"takes a constant as input {k}, where a value is needed")
        found = self.values[op.inputs[k]]
        if found.blocks is not None and not blocks:
            raise Unsupported("inside a space-to-batch block; convert with a fixed batch of 1")
        return found

    def constant(self, op: TfliteOp, k: int) -> Constant:
        if not self.has(op, k):
            raise Unsupported(f"lacks input {k}")
        if op.inputs[k] not in self.constants:
            raise Unsupported(f"takes a value as input {k}, where a constant is needed")
        return self.constants[op.inputs[k]]

    def integers(self, op: TfliteOp, k: int) -> tuple[int, ...]:
        """Whole numbers of a constant, in a row."""
        array = self.constant(op, k).array
        if array.dtype.kind not in "iu":
            raise Unsupported(f"input {k} is no list of whole numbers")
        return tuple(array.reshape(-1).tolist())

    def integer(self, op: TfliteOp, k: int) -> int:
        found = self.integers(op, k)
        if len(found) != 1:
            raise Unsupported(f"input {k} holds {len(found)} numbers, not one")
        return found[0]

    # ---- what an operator makes

    def fixed(self, op: TfliteOp, k: int = 0) -> Affine | None:
        """The map of an output, where the file fixes it."""
        return affine_of(self.model.writes(op)[k])

    def name(self, op: TfliteOp, suffix: str = "") -> str:
        """A layer name: the file's name of the layer that the tensor belongs to, else the operator's; never twice."""
        parts = self.model.tensors[op.outputs[0]].name.partition(";")[0].split("/")
        stem = plain(parts[1]) if len(parts) > 2 else ""
        if not stem or stem in (*RESERVED_NAMES, "whiten"):
            stem = SHORT.get(op.code, op.code.lower())
        name = stem + suffix
        while name in self.layers:
            self.taken[stem] += 1
            name = f"{stem}-{self.taken[stem]}{suffix}"
        return name

    def add(self, layer: FloatLayer, shape: Sequence[int]) -> Value:
        """The value that a new layer gives."""
        outputs = layer.outputs
        if max(outputs, *layer.widths) > VALUES_MAX:
            raise Unsupported(f"gives {outputs} values, the limit is {VALUES_MAX}")
        if outputs != math.prod(shape) or outputs < 1:
            raise Unsupported(f"gives {outputs} values where {tuple(shape)} is expected")
        self.layers[layer.name] = layer
        return Value(layer.name, tuple(shape), layer.output)


Operator: TypeAlias = Callable[[Graph, TfliteOp], Value | Sequence[Value]]


def plain(text: str) -> str:
    """What of a text a layer name may hold."""
    return re.sub(r"[^A-Za-z0-9_-]", "", text)[:40]


def affine_of(tensor: TfliteTensor) -> Affine | None:
    """What one integer of a value stands for, uint8 re-based by 128; None for floats."""
    if tensor.dtype in FLOATS:
        return None
    if tensor.dtype not in ("int8", "uint8"):
        advice = "; convert with int8 activations" if tensor.dtype == "int16" else ""
        raise Unsupported(f"{tensor.name!r} has values of type {tensor.dtype}{advice}")
    if tensor.scale is None or tensor.zero_point is None or len(tensor.scale) != 1 or tensor.scale[0] <= 0:
        raise Unsupported(f"{tensor.name!r} is {tensor.dtype} without one scale above 0")
    zero_point = int(tensor.zero_point[0]) - (UINT8_BASE if tensor.dtype == "uint8" else 0)
    if not -128 <= zero_point <= 127:
        raise Unsupported(f"{tensor.name!r} has a zero point outside {tensor.dtype}")
    return Affine(float(tensor.scale[0]), zero_point)


def moved(graph: Graph, op: TfliteOp, value: Value, k: int = 0) -> None:
    """Check that an output whose values are only moved keeps its map. Raises Unsupported."""
    y = graph.fixed(op, k)
    if y is not None and y != value.affine:
        raise Unsupported("moves integers to another scale without computing it")


def reread(graph: Graph, op: TfliteOp, value: Value) -> Value:
    """What an operator moves, as LiteRT reads it afterwards: the same integers by the map of the output.

    Where that is another one the file is wrong, and its answer is LiteRT's all the same.
    """
    x, y = value.affine, graph.fixed(op)
    if x is None or y is None or x == y:
        moved(graph, op, value)
        return value
    numbers = (y.scale / x.scale, (x.zero_point - y.zero_point) * y.scale)
    name, source = graph.name(op, "-reread"), (value.source,)
    return graph.add(FloatUnary(name, (value.size,), "affine", numbers, sources=source, output=y), value.shape)


# ------------------------------------------------------------------ activations

ENDS: Final[Mapping[str, tuple[float, float]]] = {
    "NONE": (-math.inf, math.inf),
    "RELU": (0.0, math.inf),
    "RELU_N1_TO_1": (-1.0, 1.0),
    "RELU6": (0.0, 6.0),
}


def clip_of(kind: str, y: Affine | None) -> tuple[float, float]:
    """The real clip of an activation, whose integers are those that LiteRT computes: round(end / scale) + zero point.

    LiteRT divides in float32 and rounds half away from zero. Raises Unsupported for an activation that is no clip.
    """
    if kind not in ENDS:
        raise Unsupported(f"with a fused {kind}")
    ends = ENDS[kind]
    return ends if y is None else (end_of(ends[0], y), end_of(ends[1], y))


def end_of(end: float, y: Affine) -> float:
    if math.isinf(end):
        return end
    with np.errstate(over="ignore"):
        steps = float(np.float32(end) / np.float32(y.scale))
    q = min(max(math.copysign(math.floor(abs(min(max(steps, -1e6), 1e6)) + 0.5), steps) + y.zero_point, -128), 127)
    return end if y.integer(end) == q else (q - y.zero_point) * y.scale


def bites(clip: tuple[float, float], y: Affine | None) -> bool:
    """Whether a clip narrows what the output can hold."""
    if y is None:
        return clip != ENDS["NONE"]
    return y.integer(clip[0]) > -128 or y.integer(clip[1]) < 127


# ------------------------------------------------------------------ weights


def weight_of(graph: Graph, op: TfliteOp, k: int, axis: int) -> tuple[F32 | F64, F64 | None]:
    """A weight in real numbers, and the real value of one integer step of each channel of `axis`, where it has one."""
    found = graph.constant(op, k)
    array = found.array
    if array.ndim <= axis or not array.size:
        raise Unsupported(f"weights of shape {array.shape}")
    if array.dtype.kind == "f":
        return found.real, None
    if array.dtype not in (np.int8, np.uint8) or found.scale is None:
        raise Unsupported(f"weights of {array.dtype}{'' if found.scale is not None else ' without a scale'}")
    if len(found.scale) > 1 and found.axis != axis:
        raise Unsupported(f"weights with one scale for each of axis {found.axis}, not {axis}")
    return found.real, np.broadcast_to(found.scale, array.shape[axis]).copy()


def bias_of(graph: Graph, op: TfliteOp, k: int, x: Value, scale: F64 | None, channels: int) -> F32 | F64:
    """A bias in real numbers, (channels,): its integers count steps of the input's scale times the weight's."""
    if not graph.has(op, k):
        return np.zeros(channels, np.float32)
    found = graph.constant(op, k)
    if found.array.size != channels:
        raise Unsupported(f"bias of shape {found.array.shape} for {channels} units")
    if found.array.dtype.kind == "f":
        return found.real.reshape(-1)
    if found.array.dtype not in (np.int32, np.int64) or x.affine is None or scale is None:
        raise Unsupported(f"bias of {found.array.dtype} beside weights or values without a scale")
    return np.asarray(found.array.reshape(-1).astype(np.float64) * (scale * x.affine.scale), np.float64)


def aside(value: Value, **changes: Any) -> Value:
    """The same value, whose layer something else reads too."""
    return replace(value, alone=False, **changes)
