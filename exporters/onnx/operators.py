"""The table of all operators that an import knows, by domain; each turns one node into the values that it gives."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from exporters.nodes import FloatSoftmax
from exporters.onnx import elementwise
from exporters.onnx.dense import DENSE, product
from exporters.onnx.elementwise import ELEMENTWISE, Operator
from exporters.onnx.graph import Graph, Node, Unsupported, Value
from exporters.onnx.moves import MOVES
from exporters.onnx.quantised import QUANTISED
from exporters.onnx.recurrent import DYNAMIC_RECURRENT, RECURRENT
from exporters.onnx.takes import features
from exporters.onnx.windows import WINDOWS

# ------------------------------------------------------------------ scikit-learn's


def scores(graph: Graph, node: Node) -> Value:
    """x W^T + b, and the transform behind it."""
    x = graph.value(node)
    weight = np.asarray(node.info.get("coefficients", ()), np.float32).reshape(-1, x.shape[-1])
    bias = np.asarray(node.info.get("intercepts", np.zeros(len(weight))), np.float32)
    if bias.shape != (len(weight),):
        raise Unsupported(f"{len(bias)} intercepts for {len(weight)} units")
    y = product(graph, graph.name(node), x, weight, bias, None)
    match node.text("post_transform", "NONE"):
        case "NONE":
            return y
        case "LOGISTIC":
            return elementwise.function(graph, node, y, "sigmoid")
        case "SOFTMAX":
            size = (y.size // y.shape[-1], y.shape[-1])
            return graph.add(FloatSoftmax(graph.name(node), size, sources=(y.source,)), y.shape, y.lies)
        case other:
            raise Unsupported(f"post_transform {other}")


def linear_classifier(graph: Graph, node: Node) -> tuple[Value, Value]:
    """Labels, which nobody may read, and scores."""
    if graph.readers.get(node.outputs[0]):
        raise Unsupported("gives labels")
    y = scores(graph, node)
    return y, y


def scaler(graph: Graph, node: Node) -> Value:
    """scale * (x - offset)."""
    offset = np.asarray(node.info.get("offset", (0.0,)), np.float64)
    scale = np.asarray(node.info.get("scale", (1.0,)), np.float64)
    return elementwise.affine(graph, node, graph.value(node), scale, -offset * scale)


def normalizer(graph: Graph, node: Node) -> Value:
    """Division by a positive number: dropped at the end, where it does not change the order of the scores."""
    if node.outputs[0] != graph.answer:
        raise Unsupported("before the end")
    graph.notes.append("the normaliser at the end is left out: it does not change the order of the scores")
    return graph.value(node)


LEARNED: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        "LinearClassifier": linear_classifier,
        "LinearRegressor": scores,
        "Scaler": scaler,
        "ArrayFeatureExtractor": features,
        "Normalizer": normalizer,
    }
)

OPERATORS: Final[Mapping[str, Mapping[str, Operator]]] = MappingProxyType(
    {
        "": MappingProxyType(
            {**MOVES, **DENSE, **ELEMENTWISE, **WINDOWS, **RECURRENT, **QUANTISED, "LpNormalization": normalizer}
        ),
        "com.microsoft": MappingProxyType(
            {**QUANTISED, **DYNAMIC_RECURRENT, **{op: ELEMENTWISE[op] for op in ("Gelu", "QuickGelu")}}
        ),
        "ai.onnx.ml": LEARNED,
    }
)
"""By domain and operator type."""
