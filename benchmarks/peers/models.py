"""The same dense net for every runtime: ONNX, int8 LiteRT written by hand, and our bundle. Weights are random; latency
does not depend on them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder
from onnx import TensorProto, helper, numpy_helper

from edgerun.arrays import F32
from edgerun.bundle import Bundle, read_bundle
from exporters.export import Options, export

SMALL: Final = (64, 128, 10)
LARGE: Final = (784, 400, 400, 10)


def weights(sizes: Sequence[int]) -> list[tuple[F32, F32]]:
    """(out, in) and (out,) of each layer, He's spread."""
    rng = np.random.default_rng(1)
    pairs = pairwise(sizes)
    return [
        (rng.normal(0, np.sqrt(2 / m), (n, m)).astype(np.float32), rng.normal(0, 0.1, n).astype(np.float32))
        for m, n in pairs
    ]


def onnx_model(sizes: Sequence[int], to: Path) -> Path:
    """Gemm and Relu in a row."""
    nodes, tensors, x = [], [], "x"
    layers = weights(sizes)
    for k, (weight, bias) in enumerate(layers):
        last = k == len(layers) - 1
        out = "y" if last else f"h{k}"
        nodes.append(helper.make_node("Gemm", [x, f"w{k}", f"b{k}"], [out if last else f"s{k}"], transB=1))
        nodes += [] if last else [helper.make_node("Relu", [f"s{k}"], [out])]
        tensors += [numpy_helper.from_array(weight, f"w{k}"), numpy_helper.from_array(bias, f"b{k}")]
        x = out
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, s]) for n, s in (("x", sizes[0]), ("y", sizes[-1]))]
    graph = helper.make_graph(nodes, "mlp", [ends[0]], [ends[1]], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), to)
    return to


def bundle(model: Path, shape: tuple[int, ...], folder: Path) -> Bundle:
    """Our export of it, calibrated on noise."""
    data = folder / "noise.npz"
    np.savez(data, x=np.random.default_rng(2).normal(0, 1, (64, *shape)).astype(np.float32))
    return read_bundle(export(model, data, Options()).data)


def litert_model(sizes: Sequence[int]) -> bytes:
    """FULLY_CONNECTED with RELU in a row, int8 in and out, one scale a tensor."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description = 3, "mlp"
    model.buffers = [_buffer(b"")]
    graph.tensors, graph.operators = [], []

    def tensor(name: str, shape: list[int], kind: int, scale: float, data: bytes = b"") -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type = name, shape, kind
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = [scale], [0]
        made.buffer = len(model.buffers) if data else 0
        model.buffers += [_buffer(data)] if data else []
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    layers = weights(sizes)
    x, x_scale = tensor("x", [1, sizes[0]], schema.TensorType.INT8, 0.03), 0.03
    first = x
    for k, (weight, bias) in enumerate(layers):
        scale, y_scale = float(np.abs(weight).max() / 127), 0.05
        w8 = np.clip(np.round(weight / scale), -127, 127).astype(np.int8)
        b32 = np.round(bias / (scale * x_scale)).astype(np.int32)
        w = tensor(f"w{k}", list(weight.shape), schema.TensorType.INT8, scale, w8.tobytes())
        b = tensor(f"b{k}", [len(bias)], schema.TensorType.INT32, scale * x_scale, b32.tobytes())
        y = tensor(f"y{k}", [1, len(bias)], schema.TensorType.INT8, y_scale)
        graph.operators.append(_connected([x, w, b], y, relu=k < len(layers) - 1))
        x, x_scale = y, y_scale
    graph.inputs, graph.outputs, model.subgraphs = [first], [x], [graph]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version, model.operatorCodes = 4, [code]
    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _buffer(data: bytes) -> Any:
    made = schema.BufferT()
    made.data = np.frombuffer(data, np.uint8) if data else None
    return made


def _connected(inputs: list[int], output: int, *, relu: bool) -> Any:
    made, options = schema.OperatorT(), schema.FullyConnectedOptionsT()
    kinds = schema.ActivationFunctionType
    options.fusedActivationFunction = kinds.RELU if relu else kinds.NONE
    made.opcodeIndex, made.inputs, made.outputs = 0, inputs, [output]
    made.builtinOptionsType, made.builtinOptions = schema.BuiltinOptions.FullyConnectedOptions, options
    return made
