"""Tiny ONNX graphs for tests, and what both engines make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgerun.arrays import F32
from exporters.float_net import FloatNet, forward
from exporters.onnx_import import load_onnx, onnx_scores

node = helper.make_node


def graph(
    nodes: Sequence[Any],
    constants: Mapping[str, Any],
    shape: Sequence[Any],
    *,
    opset: int = 21,
    kind: int = TensorProto.FLOAT,
    out: int = TensorProto.FLOAT,
    output: str = "y",
) -> bytes:
    """A model with input `x` of this shape, batch included, and one output of any shape."""
    made = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info(output, out, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    domains = {item.domain for item in nodes if item.domain}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
    model = helper.make_model(made, opset_imports=opsets, ir_version=10)
    found = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type
    rank = len(found.shape.dim) if found.HasField("shape") else len(shape)
    made.output[0].CopyFrom(helper.make_tensor_value_info(output, out, [f"d{k}" for k in range(rank)]))
    data: bytes = helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString()
    return data


def saved(folder: Path, data: bytes) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(data)
    return path


def answers(path: Path, x: F32) -> tuple[FloatNet, F32, F32]:
    """The import, what it computes, and what ONNX Runtime computes."""
    net = load_onnx(path)
    ours = forward(net, net.moments(x)).readings[net.layers[-1].name]
    return net, ours, onnx_scores(path, x)
