"""ONNX to float layers: a chain of Gemm, MatMul + Add, Relu and flattening; all that is not is refused at once.

Gemm, MatMul, Add             a dense layer (weights and bias constant)
Relu                          folds into the layer before
Flatten, Reshape              where the result is (N, features)
Softmax, LogSoftmax           dropped at the end: they do not change the order of the scores
Identity, Dropout, Cast       ignored (Cast: to a float type)
Constant, Transpose           of constants
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # untyped
from onnx import numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from edgerun.arrays import F32, AnyArray
from edgerun.errors import ModelError
from exporters.data import first_line
from exporters.float_net import FloatNet, file_name
from exporters.nodes import FloatDense

MAX_BYTES: Final = 1 << 30
FLOATS: Final = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
FOREIGN: Final = (DecodeError, onnx.checker.ValidationError, ValueError, TypeError, IndexError, KeyError, OverflowError)
RUNTIME: Final = (
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
    RuntimeError,
)


class Unsupported(Exception):
    """One node that has no counterpart here; collected, so that one message can list all."""


@dataclass(slots=True)
class Chain:
    """The walk along the graph: constants by name, the value that flows now, and the layers found so far."""

    constants: dict[str, AnyArray]
    value: str
    layers: list[FloatDense] = field(default_factory=list)
    open_bias: bool = False  # the last layer came from MatMul, so an Add belongs to it
    ended: bool = False  # a softmax was dropped: nothing may follow

    def constant(self, name: str) -> AnyArray:
        if name not in self.constants:
            raise Unsupported("takes a value where a constant is needed")
        return self.constants[name]

    def append(self, weight: AnyArray, bias: AnyArray | None, name: str) -> None:
        w = np.ascontiguousarray(weight, dtype=np.float32)
        if w.ndim != 2 or not w.size:
            raise Unsupported(f"weight of shape {w.shape}")
        zeros = np.zeros(len(w), dtype=np.float32)
        self.layers.append(FloatDense(name, w, zeros if bias is None else widened(bias, zeros)))
        self.open_bias = bias is None

    def unique(self, tensor: str) -> str:
        """A layer name from its weight's name: letters, digits, dots and dashes, never twice."""
        stem = re.sub(r"[^A-Za-z0-9_.-]", "", tensor.removesuffix(".weight"))[:56] if "::" not in tensor else ""
        taken = {layer.name for layer in self.layers}
        return stem if stem and stem not in taken else f"dense{len(self.layers) + 1}"


def widened(bias: AnyArray, zeros: F32) -> F32:
    try:
        return np.asarray(zeros + np.asarray(bias, dtype=np.float32).reshape(-1), dtype=np.float32)
    except ValueError:
        raise Unsupported(f"bias of shape {bias.shape} for {len(zeros)} units") from None


def attributes(node: Any) -> dict[str, Any]:
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def gemm(chain: Chain, node: Any, info: dict[str, Any]) -> None:
    if node.input[0] != chain.value or info.get("transA", 0):
        raise Unsupported("transposed or not on the chain")
    weight = chain.constant(node.input[1]).astype(np.float32) * np.float32(info.get("alpha", 1.0))
    bias = (
        chain.constant(node.input[2]).astype(np.float32) * np.float32(info.get("beta", 1.0))
        if len(node.input) > 2 and node.input[2]
        else None
    )
    chain.append(weight if info.get("transB", 0) else weight.T, bias, chain.unique(node.input[1]))
    chain.open_bias = False


def matmul(chain: Chain, node: Any, info: dict[str, Any]) -> None:
    if node.input[0] != chain.value:
        raise Unsupported("constant on the left")
    chain.append(chain.constant(node.input[1]).T, None, chain.unique(node.input[1]))


def add(chain: Chain, node: Any, info: dict[str, Any]) -> None:
    if not chain.open_bias:
        raise Unsupported("follows no MatMul")
    other = node.input[1] if node.input[0] == chain.value else node.input[0]
    layer = chain.layers[-1]
    chain.layers[-1] = replace(layer, bias=widened(chain.constant(other), layer.bias.astype(np.float32)))
    chain.open_bias = False


def relu(chain: Chain, node: Any, info: dict[str, Any]) -> None:
    if not chain.layers:
        raise Unsupported("before any layer")
    chain.layers[-1] = replace(chain.layers[-1], low=0.0)
    chain.open_bias = False


def flatten(chain: Chain, node: Any, info: dict[str, Any]) -> None:
    if info.get("axis", 1) != 1:
        raise Unsupported(f"axis {info['axis']}")


def reshape(chain: Chain, node: Any, info: dict[str, Any]) -> None:
    target = chain.constant(node.input[1]).reshape(-1).tolist()
    if len(target) != 2:
        raise Unsupported(f"to {len(target)} dimensions")


def softmax(chain: Chain, node: Any, info: dict[str, Any]) -> None:
    if info.get("axis", -1) not in (-1, 1):
        raise Unsupported(f"axis {info['axis']}")
    chain.ended = True


def cast(chain: Chain, node: Any, info: dict[str, Any]) -> None:
    if info.get("to") not in FLOATS:
        raise Unsupported("to a type that is no float")


def ignore(chain: Chain, node: Any, info: dict[str, Any]) -> None:
    """Identity, and Dropout at inference."""


OPS: Final = MappingProxyType(
    {
        "Gemm": gemm,
        "MatMul": matmul,
        "Add": add,
        "Relu": relu,
        "Flatten": flatten,
        "Reshape": reshape,
        "Softmax": softmax,
        "LogSoftmax": softmax,
        "Cast": cast,
        "Identity": ignore,
        "Dropout": ignore,
    }
)


def load_onnx(path: Path) -> FloatNet:
    """Import a model file. Raises ModelError, one line: not an ONNX file, or all nodes that are not supported."""
    model = parse(path)
    graph = model.graph
    constants = {tensor.name: array_of(tensor) for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ModelError(f"{path.name}: has {len(inputs)} inputs and {len(graph.output)} outputs, must have one each")
    chain = Chain(constants, inputs[0].name)
    walk(path.name, chain, graph.node)
    if chain.value != graph.output[0].name:
        raise ModelError(f"{path.name}: output {graph.output[0].name!r} is not the chain's end, {chain.value!r}")
    if not chain.layers:
        raise ModelError(f"{path.name}: has no dense layer")
    shape = input_shape(path.name, inputs[0], chain.layers[0].weight.shape[1])
    return FloatNet(file_name(path.name), shape, tuple(chain.layers))


def parse(path: Path) -> Any:
    data = path.read_bytes()
    if len(data) > MAX_BYTES:
        raise ModelError(f"{path.name}: {len(data)} bytes, the limit is {MAX_BYTES}")
    try:
        model = onnx.load_from_string(data)
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise ModelError(f"{path.name}: tensor {tensor.name!r} lies in another file; save the model as one")
        onnx.checker.check_model(model)
    except ModelError:
        raise
    except FOREIGN as err:
        raise ModelError(f"{path.name}: is no sound ONNX file ({first_line(err)})") from None
    return model


def array_of(tensor: Any) -> AnyArray:
    try:
        array: AnyArray = numpy_helper.to_array(tensor)
    except FOREIGN as err:
        raise ModelError(f"tensor {tensor.name!r} cannot be read ({first_line(err)})") from None
    return array


def walk(file: str, chain: Chain, nodes: Any) -> None:
    """Follow the chain. Raises ModelError listing every node that cannot be imported, with name and op type."""
    refused = []
    for k, node in enumerate(nodes):
        info = attributes(node)
        if fold_constant(chain, node, info):
            continue
        op: Callable[[Chain, Any, dict[str, Any]], None] | None = OPS.get(node.op_type)
        try:
            if op is None or node.domain not in ("", "ai.onnx"):
                raise Unsupported("")
            if chain.ended or chain.value not in node.input:
                raise Unsupported("not on one chain from input to output")
            op(chain, node, info)
        except Unsupported as err:
            reason = f": {err}" if str(err) else ""
            refused.append(f"{node.name or f'#{k}'} ({node.op_type}{reason})")
        chain.value = node.output[0] if node.output else chain.value
    if refused:
        raise ModelError(f"{file}: {len(refused)} nodes are not supported: {', '.join(refused)}")


def fold_constant(chain: Chain, node: Any, info: dict[str, Any]) -> bool:
    """Whether the node only prepares a constant: then its value is noted."""
    if node.op_type == "Constant" and "value" in info:
        chain.constants[node.output[0]] = array_of(info["value"])
    elif node.op_type == "Constant" and "value_ints" in info:
        chain.constants[node.output[0]] = np.array(info["value_ints"], dtype=np.int64)
    elif node.op_type in ("Transpose", "Identity") and node.input[0] in chain.constants:
        array = chain.constants[node.input[0]]
        moved = array if node.op_type == "Identity" else np.transpose(array, info.get("perm"))
        chain.constants[node.output[0]] = moved
    else:
        return False
    return True


def input_shape(file: str, value: Any, features: int) -> tuple[int, ...]:
    """Shape of one sample, the batch dimension left off."""
    dims = value.type.tensor_type.shape.dim
    if len(dims) < 2:
        return (features,)
    batch = dims[0].dim_value
    if batch > 1:
        raise ModelError(f"{file}: input {value.name!r} has a fixed batch of {batch}; export it with 1 or a free batch")
    shape = tuple(int(dim.dim_value) for dim in dims[1:])
    if not all(shape) or math.prod(shape) != features or len(shape) > 3:
        return (features,)
    return shape


def onnx_scores(path: Path, x: F32) -> F32:
    """Scores (N, classes) by ONNX Runtime, the model's own engine. Raises ModelError where it refuses the file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        entry = session.get_inputs()[0]
        dtype = np.float64 if entry.type == "tensor(double)" else np.float32
        shape = [dim if isinstance(dim, int) else -1 for dim in entry.shape[1:]]
        batch = x.reshape(len(x), *shape).astype(dtype)
        rows = [batch] if entry.shape[0] != 1 else [batch[k : k + 1] for k in range(len(batch))]
        scores = np.concatenate([session.run(None, {entry.name: row})[0] for row in rows])
    except (*RUNTIME, ValueError) as err:
        raise ModelError(f"{path.name}: ONNX Runtime cannot run it ({first_line(err)})") from None
    return np.asarray(scores.reshape(len(x), -1), dtype=np.float32)
