"""A .tflite file as plain Python values: tensors, operators, options; nothing about what they compute.

    file       "TFL3" at byte 4; a FlatBuffer whose tables the `tflite` package (the schema) walks
    subgraph   the first one; operators in it that call others (WHILE, IF, CALL, ...) are refused by name
    order      operators stand in the order of execution: each reads constants, inputs, variables or earlier outputs

FlatBuffers follows offsets lazily and unchecked, so hostile bytes may point anywhere, many times at one place, or
backwards. Everything read is therefore bounded by the file's own size, and what comes out is consistent: every index
exists, every constant has as many bytes as its shape asks for, every scale belongs to a channel.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import tflite

from edgerun.arrays import F64, I64, AnyArray
from edgerun.errors import ModelError
from exporters.data import first_line

MAX_BYTES: Final = 1 << 30  # of a file
MAX_ITEMS: Final = 1 << 17  # tensors, operators, buffers, ...
MAX_RANK: Final = 8
MAX_ELEMENTS: Final = 1 << 31  # of one tensor
READS: Final = 4  # how often, on average, a byte outside the constants may be read
FOREIGN: Final = (ValueError, TypeError, IndexError, KeyError, OverflowError, struct.error)
NO_TABLE: Final = struct.pack("<HHi", 4, 4, 4)  # a table at byte 4 without fields: every option has its default
CALLS: Final = frozenset({"IF", "WHILE", "CALL", "CALL_ONCE", "STABLEHLO_COMPOSITE", "STABLEHLO_WHILE"})


def names_of(enum: type) -> Mapping[int, str]:
    return MappingProxyType({value: key for key, value in vars(enum).items() if isinstance(value, int)})


OPERATORS: Final = names_of(tflite.BuiltinOperator)
TABLES: Final = names_of(tflite.BuiltinOptions)
DTYPES: Final = MappingProxyType({number: name.lower() for number, name in names_of(tflite.TensorType).items()})

# Options that are a number of an enumeration in the file and a word here.
WORDS: Final[Mapping[str, Mapping[int, str]]] = MappingProxyType(
    {
        "padding": names_of(tflite.Padding),
        "fused_activation_function": names_of(tflite.ActivationFunctionType),
        "weights_format": names_of(tflite.FullyConnectedOptionsWeightsFormat),
        "kernel_type": names_of(tflite.LSTMKernelType),
        "mode": names_of(tflite.MirrorPadMode),
        "quantized_bias_type": DTYPES,
        "in_data_type": DTYPES,
        "out_data_type": DTYPES,
        "output_type": DTYPES,
        "out_type": DTYPES,
    }
)

# The options that an operator has even where the file leaves the table out.
OPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ADD": "AddOptions",
        "ARG_MAX": "ArgMaxOptions",
        "ARG_MIN": "ArgMinOptions",
        "AVERAGE_POOL_2D": "Pool2DOptions",
        "BATCH_MATMUL": "BatchMatMulOptions",
        "CAST": "CastOptions",
        "CONCATENATION": "ConcatenationOptions",
        "CONV_2D": "Conv2DOptions",
        "DEPTH_TO_SPACE": "DepthToSpaceOptions",
        "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
        "DIV": "DivOptions",
        "FULLY_CONNECTED": "FullyConnectedOptions",
        "GATHER": "GatherOptions",
        "GELU": "GeluOptions",
        "LEAKY_RELU": "LeakyReluOptions",
        "LSTM": "LSTMOptions",
        "MAX_POOL_2D": "Pool2DOptions",
        "MEAN": "ReducerOptions",
        "MIRROR_PAD": "MirrorPadOptions",
        "MUL": "MulOptions",
        "PACK": "PackOptions",
        "REDUCE_MAX": "ReducerOptions",
        "REDUCE_MIN": "ReducerOptions",
        "REDUCE_PROD": "ReducerOptions",
        "RESHAPE": "ReshapeOptions",
        "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
        "SHAPE": "ShapeOptions",
        "SOFTMAX": "SoftmaxOptions",
        "SPACE_TO_DEPTH": "SpaceToDepthOptions",
        "SPLIT": "SplitOptions",
        "SPLIT_V": "SplitVOptions",
        "SQUEEZE": "SqueezeOptions",
        "STRIDED_SLICE": "StridedSliceOptions",
        "SUB": "SubOptions",
        "SUM": "ReducerOptions",
        "TRANSPOSE_CONV": "TransposeConvOptions",
        "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTMOptions",
        "UNPACK": "UnpackOptions",
    }
)


# ------------------------------------------------------------------ what comes out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TfliteTensor:
    """A value or constant: real = (stored - zero_point) * scale, one scale for all or one a channel of `axis`."""

    index: int
    name: str
    shape: tuple[int, ...]  # 1 where the dimension is open
    shape_signature: tuple[int, ...]  # -1 where it is
    dtype: str  # "int8", "float32", ...: the schema's word in small letters
    data: AnyArray | None  # of `shape`, read-only; None for what is computed, fed or kept between calls
    scale: F64 | None  # (n,) n = 1 or shape[axis]; from 0, finite; None where the tensor is not quantised
    zero_point: I64 | None  # (n,)
    axis: int
    is_variable: bool  # state that lives from call to call


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TfliteOp:
    """One operator; `options` has the schema's names for its keys (stride_w, fused_activation_function, ...)."""

    index: int
    code: str  # the builtin's name, BUILTIN_<number> where it is newer than the schema, or the custom operator's name
    custom: bool
    version: int
    inputs: tuple[int, ...]  # -1 for an optional input that is left out
    outputs: tuple[int, ...]
    intermediates: tuple[int, ...]  # tensors that lend an LSTM the scales of its inner sums
    options: Mapping[str, Any]  # numbers, bools, tuples of numbers, and words: padding "SAME", activation "RELU6"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TfliteModel:
    """The first subgraph of a file. Constants are views of the file's bytes."""

    name: str
    tensors: tuple[TfliteTensor, ...]
    operators: tuple[TfliteOp, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_names: tuple[str, ...]  # as the signature calls them, or else the tensors' own names
    output_names: tuple[str, ...]

    def reads(self, op: TfliteOp) -> tuple[TfliteTensor | None, ...]:
        """The tensors that an operator reads, None for one that is left out."""
        return tuple(None if index < 0 else self.tensors[index] for index in op.inputs)

    def writes(self, op: TfliteOp) -> tuple[TfliteTensor, ...]:
        return tuple(self.tensors[index] for index in op.outputs)

    def label(self, op: TfliteOp) -> str:
        """What messages call an operator: its place, kind and the name of what it computes."""
        written = repr(self.tensors[op.outputs[0]].name) if op.outputs else "nothing"
        return f"operator {op.index} {op.code} -> {written}"


# ------------------------------------------------------------------ reading


def read_tflite(path: Path) -> TfliteModel:
    """Read a model file. Raises ModelError, one line: no sound .tflite, or all operators that call other subgraphs."""
    try:
        with path.open("rb") as file:
            blob = file.read(MAX_BYTES + 1)
    except OSError as err:
        raise ModelError(f"{path.name}: cannot be read ({first_line(err)})") from None
    if len(blob) > MAX_BYTES:
        raise ModelError(f"{path.name}: more than {MAX_BYTES} bytes, the limit")
    try:
        model = model_of(path.stem, blob)
    except FOREIGN as err:
        raise ModelError(f"{path.name}: is no sound .tflite file ({first_line(err)})") from None
    calls = [f"{op.code} (operator {op.index})" for op in model.operators if op.code in CALLS and not op.custom]
    if calls:
        raise ModelError(f"{path.name}: {', '.join(calls)} calls other subgraphs; convert with loops unrolled")
    return model


@dataclass(slots=True)
class Reader:
    """The bytes, and how many more of them may be read outside the constants before the file counts as hostile."""

    blob: bytes
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = READS * len(self.blob)

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ValueError("its vectors lie on top of each other")

    def numbers(self, table: Any, name: str) -> AnyArray:
        """A vector of numbers of a table, empty where it is absent."""
        if not getattr(table, f"{name}Length")():
            return np.zeros(0, dtype=np.int64)
        values: AnyArray = getattr(table, f"{name}AsNumpy")()
        self.spend(values.nbytes)
        return values

    def integers(self, table: Any, name: str) -> tuple[int, ...]:
        return tuple(self.numbers(table, name).tolist())

    def text(self, value: bytes | None) -> str:
        self.spend(len(value or b""))
        return (value or b"").decode(errors="replace")

    def tables(self, parent: Any, name: str) -> list[Any]:
        """A vector of tables, each entry costing its offset."""
        count = getattr(parent, f"{name}Length")()
        if count > MAX_ITEMS:
            raise ValueError(f"{name} counts {count}, the limit is {MAX_ITEMS}")
        self.spend(4 * count)
        return [getattr(parent, name)(k) for k in range(count)]


def model_of(name: str, blob: bytes) -> TfliteModel:
    """Raises one of FOREIGN for bytes that are not a sound model."""
    if blob[4:8] != b"TFL3":
        raise ValueError("no 'TFL3' at byte 4")
    reader = Reader(blob)
    root = tflite.Model.GetRootAs(blob, 0)
    graphs = reader.tables(root, "Subgraphs")
    if not graphs:
        raise ValueError("it has no subgraph")
    graph = graphs[0]
    tables = reader.tables(graph, "Tensors")
    codes = [code_of(reader, table) for table in reader.tables(root, "OperatorCodes")]
    nodes = enumerate(reader.tables(graph, "Operators"))
    operators = tuple(operator_of(reader, k, table, codes, len(tables)) for k, table in nodes)
    inputs, outputs = (indices(reader, graph, side, len(tables), "the graph") for side in ("Inputs", "Outputs"))
    computed = {index for op in operators for index in op.outputs} | {*inputs}
    buffers = reader.tables(root, "Buffers")
    tensors = tuple(tensor_of(reader, k, table, buffers, k in computed) for k, table in enumerate(tables))
    check_order(tensors, operators, inputs, outputs)
    given, returned = signature_of(reader, root)
    return TfliteModel(
        name=name,
        tensors=tensors,
        operators=operators,
        inputs=inputs,
        outputs=outputs,
        input_names=tuple(given.get(k, tensors[k].name) for k in inputs),
        output_names=tuple(returned.get(k, tensors[k].name) for k in outputs),
    )


def indices(reader: Reader, table: Any, name: str, count: int, owner: str, *, least: int = 0) -> tuple[int, ...]:
    """Tensor indices of `owner`, each in [least, count)."""
    values = reader.integers(table, name)
    wrong = next((index for index in values if not least <= index < count), None)
    if wrong is not None:
        raise ValueError(f"{owner} has tensor {wrong} among its {name.lower()}, there are {count}")
    return values


def signature_of(reader: Reader, root: Any) -> tuple[dict[int, str], dict[int, str]]:
    """The names of inputs and outputs by tensor, where a signature of the first subgraph gives them."""
    for signature in reader.tables(root, "SignatureDefs"):
        if signature.SubgraphIndex() == 0:
            given, returned = (
                {entry.TensorIndex(): reader.text(entry.Name()) for entry in reader.tables(signature, side)}
                for side in ("Inputs", "Outputs")
            )
            return given, returned
    return {}, {}


# ------------------------------------------------------------------ tensors


def tensor_of(reader: Reader, index: int, table: Any, buffers: list[Any], computed: bool) -> TfliteTensor:
    name = reader.text(table.Name())
    what = f"tensor {index} {name!r}"
    shape = reader.integers(table, "Shape")
    if len(shape) > MAX_RANK or min(shape, default=0) < 0 or math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"{what} has shape {shape[: MAX_RANK + 1]}")
    signature = reader.integers(table, "ShapeSignature") or shape
    if len(signature) != len(shape):
        raise ValueError(f"{what} has shape {shape} and a signature of {len(signature)} dimensions")
    if table.Type() not in DTYPES:
        raise ValueError(f"{what} has type {table.Type()}, the largest known is {max(DTYPES)}")
    if table.Sparsity() is not None:
        raise ValueError(f"{what} is stored sparsely; convert without sparsity")
    scale, zero_point, axis = quantisation_of(reader, table.Quantization(), shape, what)
    return TfliteTensor(
        index=index,
        name=name,
        shape=shape,
        shape_signature=signature,
        dtype=DTYPES[table.Type()],
        data=None if table.IsVariable() else data_of(reader, table, shape, buffers, computed, what),
        scale=scale,
        zero_point=zero_point,
        axis=axis,
        is_variable=table.IsVariable(),
    )


def quantisation_of(
    reader: Reader, table: Any, shape: tuple[int, ...], what: str
) -> tuple[F64 | None, I64 | None, int]:
    """scale (n,), zero_point (n,) and axis; None, None, 0 where the tensor has no scale."""
    if table is None:
        return None, None, 0
    if table.DetailsType() != tflite.QuantizationDetails.NONE:
        raise ValueError(f"{what} has a quantisation of its own kind")
    with np.errstate(invalid="ignore"):  # a signalling NaN, refused below
        scale = reader.numbers(table, "Scale").astype(np.float64)
    if not scale.size:
        return None, None, 0
    zero_point = reader.numbers(table, "ZeroPoint").astype(np.int64)
    zero_point = zero_point if zero_point.size else np.zeros(len(scale), dtype=np.int64)
    axis = table.QuantizedDimension()
    if not (np.isfinite(scale).all() and scale.min() >= 0):
        raise ValueError(f"{what} has a scale that is not finite and from 0")
    if len(zero_point) != len(scale):
        raise ValueError(f"{what} has {len(scale)} scales and {len(zero_point)} zero points")
    if len(scale) > 1 and not (0 <= axis < len(shape) and shape[axis] == len(scale)):
        raise ValueError(f"{what} of shape {shape} has {len(scale)} scales along axis {axis}")
    return scale, zero_point, axis


def data_of(
    reader: Reader, table: Any, shape: tuple[int, ...], buffers: list[Any], computed: bool, what: str
) -> AnyArray | None:
    """The constant of a tensor. Without bytes it is None, but an empty array where it has no elements either and
    nothing computes it."""
    if not 0 <= table.Buffer() < len(buffers):
        raise ValueError(f"{what} has buffer {table.Buffer()}, there are {len(buffers)}")
    buffer = buffers[table.Buffer()]
    if buffer.Offset() > 1 or buffer.Size() > 1:
        raise ValueError(f"{what} keeps its data behind the model; convert without large buffers")
    raw: AnyArray = buffer.DataAsNumpy() if buffer.DataLength() else np.zeros(0, dtype=np.uint8)
    count = math.prod(shape)
    if not raw.size and (count or computed):
        return None
    values = decoded(reader, raw, DTYPES[table.Type()], count, what).reshape(shape)
    values.flags.writeable = False
    return values


def decoded(reader: Reader, raw: AnyArray, dtype: str, count: int, what: str) -> AnyArray:
    """Bytes (n,) as `count` numbers: views, but int4 as int8, bfloat16 as float32, bool tidied; others stay bytes."""
    if dtype in ("string", "resource", "variant"):
        raise ValueError(f"{what} is a constant of type {dtype}")
    width = 0.5 if dtype == "int4" else 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
    if len(raw) != math.ceil(count * width):
        raise ValueError(f"{what} has {len(raw)} bytes for {count} elements of {dtype}")
    if dtype in ("int4", "bfloat16", "bool"):
        reader.spend(len(raw))
    if dtype == "int4":
        nibbles: AnyArray = np.stack([raw & 15, raw >> 4], axis=1).reshape(-1)[:count].astype(np.int8)
        return (nibbles ^ 8) - np.int8(8)
    if dtype == "bfloat16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype == "bool":
        return np.not_equal(raw, 0)
    return raw.view(np.dtype(dtype).newbyteorder("<"))


# ------------------------------------------------------------------ operators


@dataclass(frozen=True, slots=True)
class Code:
    name: str
    custom: bool
    version: int


def code_of(reader: Reader, table: Any) -> Code:
    """The old field holds numbers up to 127 and the new one all, so the larger is right."""
    number = max(table.BuiltinCode(), table.DeprecatedBuiltinCode())
    if number == tflite.BuiltinOperator.CUSTOM:
        return Code(reader.text(table.CustomCode()), True, table.Version())
    return Code(OPERATORS.get(number, f"BUILTIN_{number}"), False, table.Version())


def operator_of(reader: Reader, index: int, table: Any, codes: list[Code], count: int) -> TfliteOp:
    if not 0 <= table.OpcodeIndex() < len(codes):
        raise ValueError(f"operator {index} has code {table.OpcodeIndex()}, there are {len(codes)}")
    code = codes[table.OpcodeIndex()]
    what = f"operator {index} {code.name}"
    return TfliteOp(
        index=index,
        code=code.name,
        custom=code.custom,
        version=code.version,
        inputs=indices(reader, table, "Inputs", count, what, least=-1),
        outputs=indices(reader, table, "Outputs", count, what),
        intermediates=indices(reader, table, "Intermediates", count, what),
        options=options_of(reader, table, code, what),
    )


def options_of(reader: Reader, table: Any, code: Code, what: str) -> Mapping[str, Any]:
    """The operator's options, the schema's defaults where the file leaves them out."""
    number = table.BuiltinOptionsType()
    if number not in TABLES:
        raise ValueError(f"{what} has options of type {number}, the largest known is {max(TABLES)}")
    wanted = None if code.custom else OPTIONS.get(code.name)
    found = TABLES[number] if number else None
    if wanted and found and found != wanted:
        raise ValueError(f"{what} has {found}, must have {wanted}")
    name = wanted or found
    if name is None:
        return MappingProxyType({})
    options = getattr(tflite, name)()
    union = table.BuiltinOptions() if found else None
    options.Init(*((NO_TABLE, 4) if union is None else (union.Bytes, union.Pos)))
    return MappingProxyType({key: option(reader, options, key, method, what) for key, method in fields_of(name)})


@cache
def fields_of(name: str) -> tuple[tuple[str, str], ...]:
    """Fields of an options table that hold numbers: (the schema's name, the accessor's name)."""
    made = ("_", "GetRootAs", f"{name}BufferHasIdentifier")
    members = [member for member in vars(getattr(tflite, name)) if member != "Init" and not member.startswith(made)]
    helpers = {f"{member}{suffix}" for member in members for suffix in ("AsNumpy", "Length", "IsNone")}
    found = [member for member in members if member not in helpers]
    return tuple((re.sub(r"(?<!^)(?=[A-Z])", "_", member).lower(), member) for member in found)


def option(reader: Reader, table: Any, key: str, method: str, what: str) -> Any:
    if hasattr(table, f"{method}AsNumpy"):
        return reader.integers(table, method)
    value = getattr(table, method)()
    if isinstance(value, bytes):
        return reader.text(value)
    if not math.isfinite(value):
        raise ValueError(f"{what} has {key} {value}, must be finite")
    if key not in WORDS:
        return value
    if value not in WORDS[key]:
        raise ValueError(f"{what} has {key} {value}, the largest known is {max(WORDS[key])}")
    return WORDS[key][value]


# ------------------------------------------------------------------ the whole


def check_order(
    tensors: tuple[TfliteTensor, ...],
    operators: tuple[TfliteOp, ...],
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
) -> None:
    """Every value is there when it is read, and nothing is written twice. A state may be given what it begins with."""
    states = {tensor.index for tensor in tensors if tensor.data is None and tensor.is_variable}
    ready = {tensor.index for tensor in tensors if tensor.data is not None} | states
    if len({*inputs}) != len(inputs) or not ready.isdisjoint(inputs):
        raise ValueError(f"the graph's inputs {inputs} are not distinct values")
    ready |= {*inputs}
    for op in operators:
        for index in op.inputs:
            if index >= 0 and index not in ready:
                raise ValueError(f"operator {op.index} {op.code} reads tensor {index}, which nothing has written")
        for index in op.outputs:
            if index in ready - states:
                raise ValueError(f"operator {op.index} {op.code} writes tensor {index}, which has a value")
            states.discard(index)
            ready.add(index)
    absent = [index for index in outputs if index not in ready]
    if absent:
        raise ValueError(f"nothing writes the graph's outputs {absent}")
