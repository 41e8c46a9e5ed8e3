"""Models that are quantised already, taken over as they are: QDQ, QLinear operators, integer operators.

Values stay real here; each keeps the map of its integers, and the layer that makes it gets that map as its `output`.
uint8 is re-based by 128. Weights are dequantised in float64 beside the real value of one step, so that the file's own
integers come back, their zero points off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np

from edgerun.arrays import F64, AnyArray
from edgerun.layers.base import I8_BOUNDS
from exporters.nodes import Affine, FloatLayer, FloatPool, FloatUnary, StatefulLayer
from exporters.onnx import elementwise
from exporters.onnx.dense import gemm, matmul
from exporters.onnx.elementwise import Bounded, Operator
from exporters.onnx.graph import Graph, Node, Unsupported, Value, shared
from exporters.onnx.moves import joined
from exporters.onnx.windows import average_pool, conv, global_pool, softmax

STEPS_OF_BYTE: Final = 255
UINT8_BASE: Final = 128
NARROW: Final = ("int8", "uint8")
ONNX_UINT8, ONNX_INT8 = 2, 3


def map_of(graph: Graph, node: Node, scale: int, zero: int) -> Affine:
    """The map of inputs `scale` and `zero` of a node. Raises Unsupported where it is not one int8 or uint8 scale."""
    step, offset = graph.constant(node, scale), graph.maybe(node, zero)
    dtype = node.integer("output_dtype", ONNX_UINT8) if offset is None else offset.dtype.name
    if dtype not in (*NARROW, ONNX_UINT8, ONNX_INT8):
        raise Unsupported(f"quantises to {dtype}, must be int8 or uint8")
    if step.size != 1 or (offset is not None and offset.size != 1):
        raise Unsupported("has a scale for each channel of a value")
    real = float(step.reshape(()))
    if not (np.isfinite(real) and real > 0):
        raise Unsupported(f"scale {real} is not positive and finite")
    base = UINT8_BASE if dtype in ("uint8", ONNX_UINT8) else 0
    return Affine(real, (0 if offset is None else int(offset.reshape(()))) - base)


# ------------------------------------------------------------------ values


def quantised(graph: Graph, node: Node, x: Value, to: Affine, *, sole: bool = False) -> Value:
    """The value as integers: the map of the layer that makes it, or a layer that changes one map for another.

    `sole`: all that read it quantise it so.
    """
    layer = graph.layers.get(x.source)
    if to in (x.affine, layer.output if layer else graph.input):
        return replace(x, affine=to, integers=True)
    if layer is None and graph.input is None:
        graph.input = to
        return replace(x, affine=to, integers=True)
    if x.affine is None and (x.alone or sole) and layer and not layer.output and not isinstance(layer, StatefulLayer):
        graph.layers[x.source] = saturated(replace(layer, output=to), to)
        return replace(x, affine=to, integers=True)
    name = graph.name(node)
    made = FloatUnary(name, x.physical, "identity", sources=(x.source,), output=to)
    return replace(graph.add(made, x.shape, x.lies), affine=to, integers=True)


def saturated(layer: FloatLayer, to: Affine) -> FloatLayer:
    """The same, clipped in float too at the ends of int8: quantisers drop a ReLU where that already does its work.

    QuantizeLinear rounds halves to even; of all layers that give real numbers only a mean is likely to make one.
    """
    if not isinstance(layer, Bounded):
        return layer
    if isinstance(layer, FloatPool):
        layer = replace(layer, ties="even")
    least, most = (to.scale * (end - to.zero_point) for end in I8_BOUNDS)
    return replace(layer, low=min(max(layer.low, least), most), high=max(min(layer.high, most), least))


def quantize_linear(graph: Graph, node: Node) -> Value:
    x, to = graph.held(node), map_of(graph, node, 1, 2)
    if x.integers:
        raise Unsupported("quantises integers")
    readers = graph.readers.get(node.inputs[0], ())
    sole = len(readers) > 1 and all(reader.op == "QuantizeLinear" and alike(graph, reader, to) for reader in readers)
    return quantised(graph, node, x, to, sole=sole)


def alike(graph: Graph, node: Node, to: Affine) -> bool:
    return all(not name or name in graph.constants for name in node.inputs[1:]) and map_of(graph, node, 1, 2) == to


def dequantize_linear(graph: Graph, node: Node) -> Value:
    return real(graph, node, 0, map_of(graph, node, 1, 2))


def real(graph: Graph, node: Node, k: int, said: Affine) -> Value:
    """Input k, integers of this map, as real numbers."""
    x = graph.held(node, k)
    if not x.integers:
        raise Unsupported(f"takes {node.inputs[k]!r}, which is not quantised")
    if x.affine is None:
        if graph.input not in (None, said):
            raise Unsupported(f"reads the input as {said}, another node as {graph.input}")
        graph.input = said
    elif x.affine != said:
        raise Unsupported(f"reads {node.inputs[k]!r} as {said}, but it was quantised as {x.affine}")
    return replace(x, affine=said, integers=False)


def dynamic(graph: Graph, node: Node) -> Value:
    """Integers whose scale is found as the model runs: real numbers at scale 1, to be quantised by calibration."""
    graph.constants[node.outputs[1]] = np.ones((), np.float32)
    graph.constants[node.outputs[2]] = np.zeros((), np.uint8)
    note_dynamic(graph)
    return graph.value(node)


def note_dynamic(graph: Graph) -> None:
    note = "scales that the file finds anew for each sample are fixed by calibration"
    if note not in graph.notes:
        graph.notes.append(note)


# ------------------------------------------------------------------ constants


def dequantise_constant(
    graph: Graph, name: str, q: AnyArray, scale: AnyArray, zero: AnyArray | None, axis: int, result: str
) -> None:
    """scale * (q - zero) in float64 as the constant `result`, with its step where q are integers of a byte's range."""
    if not (np.isfinite(scale) & (scale >= 0)).all():
        raise Unsupported(f"a scale of {name} is not finite and from 0")
    step, integers = along(scale.astype(np.float64), q, axis), q.astype(np.float64)
    if zero is not None:
        integers = integers - along(zero.astype(np.float64), q, axis)
    graph.constants[result] = integers * step
    if q.dtype.name == "int32" or not q.size:
        return
    reach = integers.max(initial=0) - integers.min(initial=0)
    if "int" in q.dtype.name and (q.dtype.itemsize == 1 or reach <= STEPS_OF_BYTE):
        graph.steps[result] = step
    else:
        graph.notes.append(
            f"{name}: its {q.dtype.name} values are no integers of a byte's range; they are rounded anew"
        )


def along(x: AnyArray, q: AnyArray, axis: int) -> F64:
    """A number for all, or one for each position of an axis, shaped to broadcast over q."""
    if x.size == 1:
        return np.asarray(x.reshape((1,) * q.ndim))
    if x.ndim != 1 or not -q.ndim <= axis < q.ndim or len(x) != q.shape[axis]:
        raise Unsupported(f"scales of shape {x.shape} for a constant of shape {q.shape}")
    return np.asarray(x.reshape([-1 if k == axis % q.ndim else 1 for k in range(q.ndim)]))


def fold_quantised(graph: Graph, node: Node) -> bool:
    """QuantizeLinear and DequantizeLinear of constants. Whether the node was one; then its result is noted."""
    if node.op not in ("QuantizeLinear", "DequantizeLinear") or not all(
        not name or name in graph.constants for name in node.inputs
    ):
        return False
    array, scale, zero = graph.constant(node, 0), graph.constant(node, 1), graph.maybe(node, 2)
    if node.integer("block_size", 0) or (scale.ndim > 1 and scale.size > 1):
        raise Unsupported("scales in blocks")
    axis = node.integer("axis", 1)
    graph.take(array.size)
    if node.op == "DequantizeLinear":
        dequantise_constant(graph, node.inputs[0], array, scale, zero, axis, node.outputs[0])
        return True
    if zero is not None and zero.dtype.name not in NARROW:
        raise Unsupported(f"quantises to {zero.dtype}, must be int8 or uint8")
    dtype = np.dtype(np.uint8 if zero is None else zero.dtype)
    offset = 0.0 if zero is None else along(zero.astype(np.float64), array, axis)
    q = np.rint(array.astype(np.float64) / along(scale.astype(np.float64), array, axis)) + offset
    ends = np.iinfo(dtype)
    graph.constants[node.outputs[0]] = np.clip(q, ends.min, ends.max).astype(dtype)
    return True


def real_constant(graph: Graph, node: Node, k: int, scale: AnyArray, zero: AnyArray | None, axis: int) -> str:
    """Input k, a constant, dequantised under another name, which is given."""
    name = f"{node.inputs[k]} in real numbers"
    q = graph.constant(node, k)
    graph.take(q.size)
    dequantise_constant(graph, node.inputs[k], q, scale, zero, axis, name)
    return name


# ------------------------------------------------------------------ QLinear operators


def operand(graph: Graph, node: Node, k: int, scale: int, zero: int, axis: int = 0) -> str:
    """The name of input k in real numbers, be it a value or a constant."""
    if not graph.is_value(node, k):
        return real_constant(graph, node, k, graph.constant(node, scale), graph.maybe(node, zero), axis)
    name = f"{node.inputs[k]} in real numbers"
    graph.values[name] = real(graph, node, k, map_of(graph, node, scale, zero))
    return name


def finished(graph: Graph, node: Node, y: Value, scale: int, zero: int) -> Value:
    return quantised(graph, node, y, map_of(graph, node, scale, zero))


def one(operator: Operator) -> Operator:
    """x, its scale and zero point, then those of the output."""

    def run(graph: Graph, node: Node) -> Value:
        inner = replace(node, inputs=(operand(graph, node, 0, 1, 2),), version=int(node.integer("opset", 13)))
        if node.integer("channels_last", 0):
            raise Unsupported("channels_last")
        return finished(graph, node, single(operator(graph, inner)), 3, 4)

    return run


def two(operator: Operator) -> Operator:
    """a and b with scale and zero point each, then those of the output."""

    def run(graph: Graph, node: Node) -> Value:
        axis = 1 if node.op == "QLinearMatMul" else 0
        inner = replace(node, inputs=(operand(graph, node, 0, 1, 2), operand(graph, node, 3, 4, 5, axis)))
        return finished(graph, node, single(operator(graph, inner)), 6, 7)

    return run


def single(found: Value | tuple[Value, ...]) -> Value:
    return found if isinstance(found, Value) else found[0]


def biased(graph: Graph, node: Node, bias: int, x_scale: int, w_scale: int) -> tuple[str, ...]:
    """The name of an int32 bias in real numbers: one step is the product of both scales."""
    if not node.has(bias):
        return ()
    step = graph.constant(node, x_scale).astype(np.float64) * graph.constant(node, w_scale).astype(np.float64)
    return (real_constant(graph, node, bias, step, None, -1),)


def qlinear_conv(graph: Graph, node: Node) -> Value:
    """x, scale, zero; w, scale, zero; scale and zero of y; bias."""
    inputs = (operand(graph, node, 0, 1, 2), operand(graph, node, 3, 4, 5), *biased(graph, node, 8, 1, 4))
    return finished(graph, node, single(conv(graph, replace(node, inputs=inputs))), 6, 7)


def qgemm(graph: Graph, node: Node) -> Value:
    """a, scale, zero; b, scale, zero; bias; scale and zero of y, without which y is real."""
    axis = 0 if node.integer("transB", 0) else 1
    inputs = (operand(graph, node, 0, 1, 2), operand(graph, node, 3, 4, 5, axis), *biased(graph, node, 6, 1, 4))
    y = single(gemm(graph, replace(node, inputs=inputs)))
    return finished(graph, node, y, 7, 8) if node.has(7) else y


def qlinear_concat(graph: Graph, node: Node) -> Value:
    """Scale and zero of y; then x, scale, zero of each."""
    names = [operand(graph, node, k, k + 1, k + 2) for k in range(2, len(node.inputs), 3)]
    y = joined(graph, node, [graph.value(replace(node, inputs=(name,))) for name in names], node.integer("axis", 0))
    return finished(graph, node, y, 0, 1)


# ------------------------------------------------------------------ integer sums


def integer_product(operator: Operator, axis: int) -> Operator:
    """ConvInteger and MatMulInteger: sums of (x - zx)(w - zw), as real numbers of scale 1 in both."""

    def run(graph: Graph, node: Node) -> Value:
        x, one_step = graph.held(node), np.ones((), np.float64)
        if x.integers:
            if x.affine is None:
                raise Unsupported("computes with integers of no known scale")
            one_step = np.asarray(1 / x.affine.scale)
        weight = real_constant(graph, node, 1, one_step, graph.maybe(node, 3), axis)
        graph.values[name := f"{node.inputs[0]} in real numbers"] = replace(x, integers=False)
        return single(operator(graph, replace(node, inputs=(name, weight))))

    return run


def dynamic_matmul(graph: Graph, node: Node) -> Value:
    """DynamicQuantizeMatMul: a, b, scale and zero of b, bias."""
    weight = real_constant(graph, node, 1, graph.constant(node, 2), graph.maybe(node, 3), 1)
    y = single(matmul(graph, replace(node, inputs=(node.inputs[0], weight))))
    bias = graph.maybe(node, 4)
    return y if bias is None else elementwise.affine(graph, node, y, np.ones(()), bias)


def leaky_relu(graph: Graph, node: Node) -> Value:
    return elementwise.function(graph, node, shared(graph.value(node)), "leaky-relu", (node.real("alpha", 0.01),))


QUANTISED: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        "QuantizeLinear": quantize_linear,
        "DequantizeLinear": dequantize_linear,
        "DynamicQuantizeLinear": dynamic,
        "QLinearConv": qlinear_conv,
        "QLinearMatMul": two(matmul),
        "QLinearAdd": two(elementwise.add),
        "QLinearMul": two(elementwise.mul),
        "QLinearSigmoid": one(elementwise.unary("sigmoid")),
        "QLinearLeakyRelu": one(leaky_relu),
        "QLinearAveragePool": one(average_pool),
        "QLinearGlobalAveragePool": one(global_pool("average")),
        "QLinearSoftmax": one(softmax),
        "QLinearConcat": qlinear_concat,
        "QGemm": qgemm,
        "ConvInteger": integer_product(conv, 0),
        "MatMulInteger": integer_product(matmul, 1),
        "DynamicQuantizeMatMul": dynamic_matmul,
    }
)
