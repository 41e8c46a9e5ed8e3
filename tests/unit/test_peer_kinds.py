"""ONNX Runtime on the same integers: DequantizeLinear, an operator, QuantizeLinear, beside the layer it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from runs import rows

from edgerun.arrays import F32, AnyArray
from exporters.nodes import Affine, FloatAdd, FloatLayer, FloatLayerNorm, FloatMul, FloatSoftmax, FloatUnary, Range

SHAPE = (4, 4, 10)
SAMPLES = 60
RNG = np.random.default_rng(4)
GAMMA, BETA = (RNG.normal(mean, 0.3, 10).astype(np.float32) for mean in (1, 0))


def single(scale: float, zero_point: int) -> Affine:
    """A map whose scale a file can hold. Round numbers make ties, which a peer's float32 decides by its own error."""
    return Affine(float(np.float32(scale)), zero_point)


A, B = single(0.0440034, -7), single(0.0761904, -2)


class Case(NamedTuple):
    """An operator with its attributes and further inputs, the map of its output, and the layer without that map."""

    operator: str
    attributes: Mapping[str, Any]
    constants: Mapping[str, F32]
    output: Affine
    layer: Any
    arguments: tuple[Any, ...]
    off: float = 0.0  # the share of values that may be one step away

    def node(self) -> FloatLayer:
        made: FloatLayer = self.layer("l", *self.arguments, output=self.output)
        return made


def unary(operator: str, output: Affine, function: str, *parameters: float, **attributes: Any) -> Case:
    real = tuple(float(np.float32(parameter)) for parameter in parameters)
    return Case(operator, attributes, {}, output, FloatUnary, (SHAPE, function, real))


CASES = [
    Case("Add", {}, {}, single(0.0841381, 7), FloatAdd, ((SHAPE, SHAPE),)),
    Case("Sub", {}, {}, single(0.0876475, 11), FloatAdd, ((SHAPE, SHAPE), (1, -1))),
    Case("Mul", {}, {}, single(0.2066680, 12), FloatMul, ((SHAPE, SHAPE),)),
    Case("Softmax", {"axis": -1}, {}, Affine(1 / 256, -128), FloatSoftmax, (SHAPE,)),
    Case("LogSoftmax", {"axis": -1}, {}, single(0.06, 127), FloatSoftmax, (SHAPE, 1.0, True), off=0.006),
    Case("LayerNormalization", {"axis": -1, "epsilon": 1e-5}, {"gamma": GAMMA, "beta": BETA}, single(0.03, 5),
         FloatLayerNorm, (SHAPE, GAMMA, BETA, 1e-5)),
    unary("Sigmoid", Affine(1 / 256, -128), "sigmoid"),
    unary("Tanh", Affine(1 / 128, 0), "tanh"),
    unary("HardSwish", single(0.025, -113), "hard-swish"),
    unary("HardSigmoid", Affine(1 / 256, -128), "hard-sigmoid", 0.2, 0.5, alpha=0.2, beta=0.5),
    unary("LeakyRelu", single(0.025, -107), "leaky-relu", 0.1, alpha=0.1),
    unary("Elu", single(0.025, -107), "elu", 0.7, alpha=0.7),
    unary("Exp", single(0.9, -128), "exp"),
]  # fmt: skip


def peer(case: Case, maps: tuple[Affine, ...], xs: list[AnyArray], optimise: bool) -> AnyArray:
    """What ONNX Runtime gives, with its own int8 kernels where it has them, or in float between the two maps."""
    names = [f"x{k}" for k in range(len(maps))]
    nodes = [helper.make_node("DequantizeLinear", [x, f"s{x}", f"z{x}"], [f"r{x}"]) for x in names]
    nodes.append(
        helper.make_node(case.operator, [*(f"r{x}" for x in names), *case.constants], ["r"], **case.attributes)
    )
    nodes.append(helper.make_node("QuantizeLinear", ["r", "sy", "zy"], ["y"]))
    constants = [helper.make_tensor(name, TensorProto.FLOAT, a.shape, a) for name, a in case.constants.items()]
    for name, map_ in (*zip(names, maps, strict=True), ("y", case.output)):
        constants.append(helper.make_tensor(f"s{name}", TensorProto.FLOAT, [], [map_.scale]))
        constants.append(helper.make_tensor(f"z{name}", TensorProto.INT8, [], [map_.zero_point]))
    values = [helper.make_tensor_value_info(name, TensorProto.INT8, [SAMPLES, *SHAPE]) for name in (*names, "y")]
    graph = helper.make_graph(nodes, "g", values[:-1], values[-1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, dict(zip(names, xs, strict=True)))
    return np.asarray(y).reshape(SAMPLES, -1)


@pytest.mark.parametrize("optimise", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.operator)
def test_a_layer_gives_what_the_peer_gives(case: Case, optimise: bool) -> None:
    node = case.node()
    maps = (A, B)[: len(node.widths)]
    xs = [RNG.integers(-128, 128, (SAMPLES, *SHAPE)).astype(np.int8) for _ in maps]
    (made,) = node.quantise(maps, Range(0, 0))
    assert made.output == case.output
    got = np.array(rows(made.layer, made.tensors, *(x.reshape(SAMPLES, -1).astype(np.int64) for x in xs)))
    want = peer(case, maps, xs, optimise)
    assert np.unique(want).size > 70
    assert np.abs(got - want).max() <= (1 if case.off else 0)
    assert (got != want).mean() <= case.off
