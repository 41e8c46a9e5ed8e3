"""Every operator of the import: the same numbers as ONNX Runtime, in no more layers than it takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from edgerun.errors import ModelError

onnx = pytest.importorskip("onnx", reason="pip install 'edgerun[export]'")
pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")

from onnx import TensorProto, numpy_helper  # noqa: E402
from onnx_graphs import answers, graph, node, saved  # noqa: E402

from exporters.onnx.operators import OPERATORS  # noqa: E402
from exporters.onnx.quantised import QUANTISED  # noqa: E402
from exporters.onnx_import import load_onnx  # noqa: E402

MICROSOFT = "com.microsoft"
RNG = np.random.default_rng(11)


class Case(NamedTuple):
    """A graph, and the kinds of layers that it must become, where that is the point."""

    nodes: Sequence[Any]
    constants: dict[str, Any] = {}  # noqa: RUF012
    shape: tuple[Any, ...] = (1, 3, 6, 5)
    layers: str = ""
    opset: int = 21
    positive: bool = False


def some(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def one(op: str, *inputs: str, **attributes: Any) -> list[Any]:
    return [node(op, ["x", *inputs], ["y"], **attributes)]


def chain(*steps: Any) -> list[Any]:
    """Nodes one behind the other: (op, more inputs, attributes)."""
    names = ["x", *(f"t{k}" for k in range(1, len(steps))), "y"]
    return [
        node(op, [names[k], *inputs], [names[k + 1]], **attributes)
        for k, (op, inputs, attributes) in enumerate(steps)
    ]  # fmt: skip


CONV = {"w": some(4, 3, 3, 2), "b": some(4)}
GROUPED = {"w": some(6, 2, 3, 3), "b": some(6)}
DEPTHWISE = {"w": some(6, 1, 3, 3)}
GRU = {"w": some(1, 12, 5), "r": some(1, 12, 4), "b": some(1, 24)}
BOTH = {"w": some(2, 12, 5), "r": some(2, 12, 4), "b": some(2, 24)}
LSTM = {"w": some(1, 16, 5), "r": some(1, 16, 4), "b": some(1, 32)}
RNN = {"w": some(1, 4, 5), "r": some(1, 4, 4), "b": some(1, 8)}
BOTH_RNN = {"w": some(2, 4, 5), "r": some(2, 4, 4), "b": some(2, 8)}
BOTH_LSTM = {"w": some(2, 16, 5), "r": some(2, 16, 4), "b": some(2, 32)}
WINDOW = (1, 7, 5)
TURN = node("Transpose", ["x"], ["t"], perm=[1, 0, 2])

CONVOLUTIONS: dict[str, Case] = {
    "conv": Case(one("Conv", "w", "b"), CONV, layers="Transpose Conv Transpose"),
    "conv, all attributes": Case(one("Conv", "w", pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2]), CONV),
    "conv, same upper": Case(one("Conv", "w", auto_pad="SAME_UPPER", strides=[2, 2]), CONV),
    "conv, same lower": Case(one("Conv", "w", auto_pad="SAME_LOWER"), CONV),
    "conv, valid": Case(one("Conv", "w", auto_pad="VALID"), CONV),
    "conv, one channel": Case(one("Conv", "w"), {"w": some(2, 1, 3, 3)}, (1, 1, 6, 5), "Conv Transpose"),
    "conv, groups": Case(one("Conv", "w", "b", group=3), GROUPED, (1, 6, 5, 5), "Transpose Conv Transpose"),
    "conv, depthwise": Case(one("Conv", "w", group=6), DEPTHWISE, (1, 6, 5, 5), "Transpose Depthwise Transpose"),
    "conv, multiplier": Case(one("Conv", "w", group=3), DEPTHWISE, (1, 3, 5, 5)),
    "conv, 1-D": Case(one("Conv", "w", pads=[2, 1], strides=[2]), {"w": some(4, 3, 4)}, (1, 3, 11)),
    "conv, 1-D depthwise": Case(one("Conv", "w", group=3, dilations=[2]), {"w": some(3, 1, 4)}, (1, 3, 11)),
    "conv, flattened, dense": Case(
        chain(("Conv", ["w"], {}), ("Relu", [], {}), ("Flatten", [], {}), ("Gemm", ["v"], {})),
        CONV | {"v": some(64, 3)}, layers="Transpose Conv Dense",
    ),
    "conv, gain, shift, norm, clip": Case(
        chain(
            ("Conv", ["w"], {}), ("Mul", ["g"], {}), ("Add", ["s"], {}),
            ("BatchNormalization", ["s1", "b", "m", "v"], {"epsilon": 1e-3}), ("Clip", ["zero", "six"], {}),
        ),
        CONV | {
            "g": some(4, 1, 1), "s": some(1, 4, 1, 1), "s1": some(4), "m": some(4), "v": np.abs(some(4)),
            "zero": np.float32(0), "six": np.float32(6),
        },
        layers="Transpose Conv Transpose",
    ),
    "conv into conv, sum of both": Case(
        [
            node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]), node("Relu", ["a"], ["r"]),
            node("Conv", ["r", "v"], ["b"], pads=[1, 1, 1, 1]), node("Add", ["b", "r"], ["s"]),
            node("Relu", ["s"], ["t"]), node("GlobalAveragePool", ["t"], ["p"]), node("Flatten", ["p"], ["y"]),
        ],
        {"w": some(4, 3, 3, 3), "v": some(4, 4, 3, 3)}, layers="Transpose Conv Conv Add Pool",
    ),
    "squeeze and excitation": Case(
        [
            node("Conv", ["x", "w"], ["a"]), node("GlobalAveragePool", ["a"], ["p"]),
            node("Conv", ["p", "v"], ["q"]), node("HardSigmoid", ["q"], ["h"], alpha=0.25),
            node("Mul", ["a", "h"], ["m"]), node("Flatten", ["m"], ["f"]), node("Gemm", ["f", "g"], ["y"]),
        ],
        CONV | {"v": some(4, 4, 1, 1), "g": some(64, 2)}, layers="Transpose Conv Pool Conv Unary Mul Dense",
    ),
}  # fmt: skip

POOLS: dict[str, Case] = {
    "max": Case(one("MaxPool", kernel_shape=[2, 2], strides=[2, 1], pads=[0, 1, 1, 0])),
    "max, dilated": Case(one("MaxPool", kernel_shape=[2, 2], dilations=[2, 3])),
    "max, ceil": Case(one("MaxPool", kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1), shape=(1, 2, 8, 7)),
    "max, ceil, a window that begins outside": Case(
        one("MaxPool", kernel_shape=[2, 2], strides=[3, 3], ceil_mode=1, pads=[1, 1, 1, 1]), shape=(1, 2, 4, 7)
    ),
    "max, 1-D": Case(one("MaxPool", kernel_shape=[3], strides=[2], ceil_mode=1), shape=(1, 2, 12)),
    "average": Case(one("AveragePool", kernel_shape=[2, 3], strides=[1, 2], pads=[1, 1, 0, 1])),
    "average, padding counted": Case(
        one("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)
    ),
    "average, ceil": Case(one("AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), shape=(1, 2, 8, 6)),
    "average, ceil, padding counted": Case(
        one("AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[1, 1, 1, 1], count_include_pad=1),
        shape=(1, 2, 6, 8),
    ),
    "average, same": Case(one("AveragePool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")),
    "average, dilated": Case(one("AveragePool", kernel_shape=[2, 2], dilations=[2, 2])),
    "global average": Case(one("GlobalAveragePool")),
    "global average, 1-D": Case(one("GlobalAveragePool"), shape=(1, 4, 9)),
    "global max": Case(one("GlobalMaxPool"), layers="Pool"),
    "mean over the image": Case(one("ReduceMean", "a", keepdims=0), {"a": ints(2, 3)}, layers="Pool"),
    "mean over the image, as an attribute": Case(one("ReduceMean", axes=[-2, -1]), opset=13),
    "mean over channels": Case(one("ReduceMean", "a"), {"a": ints(1)}, layers="Pool"),
    "mean over height and channels": Case(one("ReduceMean", "a"), {"a": ints(1, 2)}),
    "mean over channels and width": Case(one("ReduceMean", "a"), {"a": ints(1, 3)}),
    "mean over steps": Case(one("ReduceMean", "a", keepdims=0), {"a": ints(1)}, (1, 7, 4), "Pool"),
    "mean over everything": Case(one("ReduceMean"), {}, (1, 7, 4), "Pool"),
    "sum over steps": Case(one("ReduceSum", "a", keepdims=0), {"a": ints(1)}, (1, 7, 4), "Pool Unary"),
    "max over features": Case(one("ReduceMax", "a"), {"a": ints(2)}, (1, 7, 4)),
}

FUNCTIONS: dict[str, Case] = {
    **{
        op: Case(one(op), layers="Unary")
        for op in (
            "Relu", "Abs", "Neg", "Sign", "Exp", "Sin", "Cos", "Erf", "Floor", "Ceil", "Round", "Sigmoid",
            "HardSigmoid", "Tanh", "HardSwish", "Mish", "Softplus", "Softsign", "Elu", "Celu", "Selu", "LeakyRelu",
            "ThresholdedRelu", "Gelu", "Shrink",
        )
    },
    **{op: Case(one(op), layers="Unary", positive=True) for op in ("Sqrt", "Log", "Reciprocal")},
    "gelu, tanh": Case(one("Gelu", approximate="tanh")),
    "elu, alpha": Case(one("Elu", alpha=0.3)),
    "selu, parameters": Case(one("Selu", alpha=0.3, gamma=2.0)),
    "shrink, parameters": Case(one("Shrink", bias=0.1, lambd=0.7)),
    "swish": Case(one("Swish", alpha=1.5), opset=24),
    "quick gelu": Case([node("QuickGelu", ["x"], ["y"], domain=MICROSOFT, alpha=1.5)]),
    "microsoft gelu": Case([node("Gelu", ["x"], ["y"], domain=MICROSOFT)]),
    "prelu": Case(one("PRelu", "s"), {"s": some(3, 1, 1)}),
    "prelu, one slope": Case(one("PRelu", "s"), {"s": np.float32([0.2])}, layers="Unary"),
    "power": Case(one("Pow", "e"), {"e": np.float32(3)}, layers="Unary"),
    "square": Case(one("Pow", "e"), {"e": np.float32(2)}, layers="Unary"),
    "root": Case(one("Pow", "e"), {"e": np.float32(0.5)}, positive=True),
    "clip": Case(one("Clip", "a", "b"), {"a": np.float32(-0.5), "b": np.float32(0.7)}, layers="Unary"),
    "clip from below": Case(one("Clip", "a"), {"a": np.float32(-0.5)}),
    "clip from above": Case([node("Clip", ["x", "", "b"], ["y"])], {"b": np.float32(0.5)}),
    "clip by attributes": Case(one("Clip", min=-0.5, max=0.5), opset=10),
    "max": Case(one("Max", "a"), {"a": np.float32(0.1)}),
    "min": Case(one("Min", "a"), {"a": np.float32([[0.1]])}),
    "silu": Case([node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])], layers="Unary"),
    "hard-swish": Case(
        [node("HardSigmoid", ["x"], ["s"], alpha=1 / 6), node("Mul", ["s", "x"], ["y"])], layers="Unary"
    ),
    "hard-swish by clip": Case(
        [
            node("Add", ["x", "three"], ["a"]), node("Clip", ["a", "zero", "six"], ["c"]),
            node("Mul", ["x", "c"], ["m"]), node("Div", ["m", "six"], ["y"]),
        ],
        {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)}, layers="Unary",
    ),
    "gelu by erf": Case(
        [
            node("Div", ["x", "r"], ["d"]), node("Erf", ["d"], ["e"]), node("Add", ["e", "one"], ["a"]),
            node("Mul", ["x", "a"], ["m"]), node("Mul", ["m", "half"], ["y"]),
        ],
        {"r": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}, layers="Unary",
    ),
    "gelu by tanh": Case(
        [
            node("Pow", ["x", "three"], ["p"]), node("Mul", ["p", "c"], ["q"]), node("Add", ["x", "q"], ["s"]),
            node("Mul", ["s", "r"], ["t"]), node("Tanh", ["t"], ["u"]), node("Add", ["u", "one"], ["v"]),
            node("Mul", ["x", "half"], ["h"]), node("Mul", ["h", "v"], ["y"]),
        ],
        {
            "three": np.float32(3), "c": np.float32(0.044715), "r": np.float32((2 / np.pi) ** 0.5),
            "one": np.float32(1), "half": np.float32(0.5),
        },
        layers="Unary",
    ),
    "softplus by parts": Case(
        [
            node("Greater", ["x", "far"], ["g"]), node("Exp", ["x"], ["e"]), node("Add", ["e", "one"], ["a"]),
            node("Log", ["a"], ["l"]), node("Where", ["g", "x", "l"], ["y"]),
        ],
        {"far": np.float32(20), "one": np.float32(1)}, layers="Unary",
    ),
    "mish": Case(
        [node("Softplus", ["x"], ["s"]), node("Tanh", ["s"], ["t"]), node("Mul", ["t", "x"], ["y"])], layers="Unary"
    ),
    "a product that is no known function": Case(
        [node("Tanh", ["x"], ["t"]), node("Mul", ["t", "x"], ["y"])], layers="Unary Mul"
    ),
}  # fmt: skip

ARITHMETIC: dict[str, Case] = {
    "a number more": Case(one("Add", "c"), {"c": np.float32(2)}, layers="Unary"),
    "a number less": Case(one("Sub", "c"), {"c": np.float32(2)}),
    "less than a number": Case([node("Sub", ["c", "x"], ["y"])], {"c": np.float32(2)}),
    "less than channels": Case([node("Sub", ["c", "x"], ["y"])], {"c": some(3, 1, 1)}),
    "times channels": Case(one("Mul", "c"), {"c": some(3, 1, 1)}),
    "plus columns": Case(one("Add", "c"), {"c": some(5)}, layers="Depthwise"),
    "plus positions": Case(one("Add", "c"), {"c": some(3, 6, 5)}, layers="Depthwise"),
    "divided by channels": Case(one("Div", "c"), {"c": np.abs(some(3, 1, 1)) + 1}),
    "a number divided": Case([node("Div", ["c", "x"], ["y"])], {"c": np.float32(2)}, positive=True),
    "nothing more": Case(chain(("Add", ["c"], {}), ("Tanh", [], {})), {"c": np.float32([0, 0, 0, 0, 0])},
    layers="Unary"),
    "value over value": Case([node("Exp", ["x"], ["e"]), node("Div", ["x", "e"], ["y"])]),
    "value less value": Case([node("Tanh", ["x"], ["t"]), node("Sub", ["t", "x"], ["y"])]),
    "itself": Case(one("Add", "x")),
    "lower rank": Case(
        [node("ReduceMean", ["x", "a"], ["m"], keepdims=0), node("Sub", ["x", "m"], ["y"])], {"a": ints(0, 1, 2)}
    ),
    "both broadcast": Case(
        [
            node("ReduceMean", ["x", "a"], ["m"]), node("ReduceMean", ["x", "b"], ["n"]), node("Add", ["m",
            "n"], ["y"]),
        ],
        {"a": ints(2), "b": ints(3)},
    ),
    "sum of three and a constant": Case(
        [node("Tanh", ["x"], ["t"]), node("Sum", ["x", "t", "c", "x"], ["y"])], {"c": some(1)}
    ),
    "relu of a sum": Case([node("Add", ["x", "x"], ["a"]), node("Relu", ["a"], ["y"])], layers="Add"),
    "relu of one of two readers": Case(
        [node("Gemm", ["x", "w"], ["g"]), node("Relu", ["g"], ["r"]), node("Add", ["g", "r"], ["y"])],
        {"w": some(5, 4)}, (1, 5), "Dense Unary Add",
    ),
    "gain of one of two readers": Case(
        [node("Gemm", ["x", "w"], ["g"]), node("Mul", ["g", "c"], ["m"]), node("Add", ["g", "m"], ["y"])],
        {"w": some(5, 4), "c": some(4)}, (1, 5), "Dense Depthwise Add",
    ),
    "gemm plus a value": Case(
        [node("Gemm", ["x", "w"], ["g"]), node("Gemm", ["x", "v", "g"], ["y"], beta=0.5)],
        {"w": some(5, 4), "v": some(5, 4)}, (1, 5), "Dense Dense Add",
    ),
    "matmul over steps": Case(
        chain(("MatMul", ["w"], {}), ("Add", ["b"], {}), ("Relu", [], {})), {"w": some(4, 3), "b": some(3)},
        (1, 7, 4), "Conv",
    ),
    "matmul by a vector": Case(one("MatMul", "w"), {"w": some(4)}, (1, 7, 4)),
    "matmul from the left": Case([node("MatMul", ["w", "x"], ["y"])], {"w": some(3, 7)}, (1, 7, 4)),
    "gemm, transposed input": Case(chain(("Squeeze", ["a"], {}), ("Gemm", ["w"], {"transA": 1})),
                                   {"a": ints(0), "w": some(7, 3)}, (1, 7, 4)),
    "batch norm after relu": Case(
        chain(("Relu", [], {}), ("BatchNormalization", ["s", "b", "m", "v"], {})),
        {"s": some(3), "b": some(3), "m": some(3), "v": np.abs(some(3))}, layers="Unary Depthwise",
    ),
    "batch norm, folded into dense": Case(
        chain(("Gemm", ["w"], {}), ("BatchNormalization", ["s", "b", "m", "v"], {})),
        {"w": some(5, 3), "s": some(3), "b": some(3), "m": some(3), "v": np.abs(some(3))}, (1, 5), "Dense",
    ),
}  # fmt: skip

NORMS: dict[str, Case] = {
    "softmax, not at the end": Case(chain(("Softmax", [], {}), ("Neg", [], {})), layers="Softmax Unary"),
    "softmax over channels": Case(chain(("Softmax", [], {"axis": 1}), ("Neg", [], {}))),
    "softmax before opset 13": Case(chain(("Softmax", [], {"axis": 2}), ("Neg", [], {})), opset=12),
    "softmax of each step": Case(one("Softmax"), {}, (1, 7, 4), "Softmax"),
    "log softmax": Case(chain(("LogSoftmax", [], {"axis": -1}), ("Neg", [], {}))),
    "layer norm": Case(one("LayerNormalization", "g", "b"), {"g": some(5), "b": some(5)}, layers="LayerNorm"),
    "layer norm without shift": Case(one("LayerNormalization", "g", epsilon=0.1), {"g": some(5)}),
    "layer norm over three axes": Case(one("LayerNormalization", "g", axis=1), {"g": some(3, 6, 5)}),
    "instance norm": Case(one("InstanceNormalization", "g", "b"), {"g": some(3), "b": some(3)}),
    "group norm": Case(
        one("GroupNormalization", "g", "b", num_groups=2), {"g": some(6), "b": some(6)}, (1, 6, 4, 3)
    ),
    "layer norm, written out": Case(
        [
            node("ReduceMean", ["x"], ["m"], axes=[-1]), node("Sub", ["x", "m"], ["d"]),
            node("Pow", ["d", "two"], ["p"]), node("ReduceMean", ["p"], ["v"], axes=[-1]),
            node("Add", ["v", "eps"], ["e"]), node("Sqrt", ["e"], ["s"]), node("Div", ["d", "s"], ["n"]),
            node("Mul", ["n", "g"], ["k"]), node("Add", ["k", "b"], ["y"]),
        ],
        {"two": np.float32(2), "eps": np.float32(1e-5), "g": some(5), "b": some(5)}, (1, 7, 5), "LayerNorm", 13,
    ),
}  # fmt: skip

MOVES: dict[str, Case] = {
    "transpose": Case(one("Transpose", perm=[0, 2, 3, 1]), layers="Transpose"),
    "transpose, reversed": Case(one("Transpose"), shape=(1, 3, 4)),
    "there and back": Case(
        chain(("Transpose", [], {"perm": [0, 2, 3, 1]}), ("Tanh", [], {}), ("Transpose", [], {"perm": [0, 3, 1, 2]})),
        layers="Unary",
    ),
    "reshape, zero and minus one": Case(
        chain(("Reshape", ["s"], {}), ("Tanh", [], {})), {"s": ints(0, -1, 5)}, layers="Unary"
    ),
    "reshape of what was turned": Case(
        chain(("Transpose", [], {"perm": [0, 2, 3, 1]}), ("Reshape", ["s"], {}), ("MatMul", ["w"], {})),
        {"s": ints(1, 30, 3), "w": some(3, 2)}, layers="Transpose Conv",
    ),
    "a reshape that must move": Case(
        chain(("Transpose", [], {"perm": [0, 2, 3, 1]}), ("Reshape", ["s"], {}), ("MatMul", ["w"], {})),
        {"s": ints(1, 6, 15), "w": some(15, 2)}, layers="Transpose Conv",
    ),
    "flatten, axis": Case(chain(("Flatten", [], {"axis": 2}), ("Tanh", [], {})), layers="Unary"),
    "squeeze, unsqueeze": Case(
        chain(("Unsqueeze", ["a"], {}), ("Tanh", [], {}), ("Squeeze", ["a"], {})), {"a": ints(2)}, layers="Unary"
    ),
    "squeeze, unsqueeze by attributes": Case(
        chain(("Unsqueeze", [], {"axes": [2]}), ("Tanh", [], {}), ("Squeeze", [], {"axes": [2]})), opset=11
    ),
    "slice": Case(
        one("Slice", "a", "b", "c", "d"), {"a": ints(1, -1), "b": ints(3, -9), "c": ints(1, 2), "d": ints(1, -2)}
    ),
    "gather one": Case(one("Gather", "k", axis=2), {"k": np.int64(-2)}, layers="Slice"),
    "gather a row": Case(one("Gather", "k", axis=3), {"k": ints(3, 1)}),
    "split": Case(
        [node("Split", ["x", "s"], ["a", "b"], axis=1), node("Mul", ["a", "b"], ["y"])], {"s": ints(2, 2)}, (1, 4, 5)
    ),
    "split by attribute": Case(
        [node("Split", ["x"], ["a", "b"], axis=1, split=[1, 3]), node("Mul", ["a", "b"], ["y"])], {}, (1, 4, 5),
        opset=12,
    ),
    "split by number": Case(
        [node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2), node("Sub", ["a", "b"], ["y"])], {}, (1, 4, 5)
    ),
    "split to a sequence": Case(
        [
            node("SplitToSequence", ["x", "s"], ["q"], axis=1), node("SequenceAt", ["q", "zero"], ["a"]),
            node("SequenceAt", ["q", "last"], ["b"]), node("Sub", ["a", "b"], ["y"]),
        ],
        {"s": np.int64(2), "zero": np.int64(0), "last": np.int64(-1)}, (1, 4, 5), "Slice Slice Add",
    ),
    "pad": Case(one("Pad", "p", "v"), {"p": ints(0, 0, 1, 2, 0, 1, 0, 3), "v": np.float32(0.5)}, layers="Pad"),
    "pad, axes": Case(
        [node("Pad", ["x", "p", "", "a"], ["y"])], {"p": ints(1, 2), "a": ints(-1)}
    ),
    "pad by attribute": Case(one("Pad", pads=[0, 0, 1, 1, 0, 0, 1, 1], value=1.5), opset=10),
    "concat": Case(
        [node("Tanh", ["x"], ["t"]), node("Neg", ["x"], ["n"]), node("Concat", ["t", "x", "n"], ["y"], axis=-2)],
        layers="Unary Unary Concat",
    ),
    "concat of convolutions": Case(
        [
            node("Conv", ["x", "w"], ["a"]), node("Conv", ["x", "v"], ["b"]),
            node("Concat", ["a", "b"], ["c"], axis=1), node("GlobalAveragePool", ["c"], ["y"]),
        ],
        {"w": some(2, 3, 3, 3), "v": some(4, 3, 3, 3)}, layers="Transpose Conv Conv Concat Pool",
    ),
    "shuffled channels": Case(
        chain(
            ("Conv", ["w"], {}), ("Reshape", ["s"], {}), ("Transpose", [], {"perm": [0, 2, 1, 3, 4]}),
            ("Reshape", ["t"], {}), ("Conv", ["v"], {}),
        ),
        {"w": some(4, 3, 1, 1), "v": some(2, 4, 3, 3), "s": ints(1, 2, 2, 6, 5), "t": ints(1, 4, 6, 5)},
    ),
    "expand to the same": Case(chain(("Expand", ["s"], {}), ("Tanh", [], {})), {"s": ints(1, 1, 6, 5)}, layers="Unary"),
    "dropout, identity, cast": Case(
        chain(("Dropout", [], {}), ("Identity", [], {}), ("Cast", [], {"to": TensorProto.FLOAT}), ("Tanh", [], {})),
        layers="Unary",
    ),
    "shape debris": Case(
        [
            node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"]), node("Unsqueeze", ["n", "axis"], ["u"]),
            node("Constant", [], ["m"], value_ints=[-1]), node("Concat", ["u", "m"], ["t"], axis=0),
            node("Reshape", ["x", "t"], ["f"]), node("Gemm", ["f", "w"], ["y"]),
        ],
        {"zero": np.int64(0), "axis": ints(0), "w": some(90, 2)}, ("n", 3, 6, 5), "Dense",
    ),
    "computed constants": Case(
        [
            node("ConstantOfShape", ["n"], ["c"], value=numpy_helper.from_array(np.float32([0.5]))),
            node("Range", ["zero", "five", "one"], ["r"]), node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
            node("Mul", ["c", "f"], ["m"]), node("Expand", ["m", "e"], ["w"]), node("Sqrt", ["w"], ["q"]),
            node("Where", ["b", "q", "w"], ["p"]), node("MatMul", ["x", "p"], ["y"]),
        ],
        {
            "n": ints(5), "zero": np.int64(0), "five": np.int64(5), "one": np.int64(1), "e": ints(5, 5),
            "b": np.eye(5, dtype=bool),
        },
        (1, 5), "Dense",
    ),
}  # fmt: skip

RECURRENT: dict[str, Case] = {
    "gru": Case([TURN, node("GRU", ["t", "w", "r", "b"], ["y"], hidden_size=4)], GRU, WINDOW, "Gru"),
    "gru, torch's": Case(
        [TURN, node("GRU", ["t", "w", "r", "b"], ["", "y"], hidden_size=4, linear_before_reset=1)], GRU, WINDOW, "Gru"
    ),
    "gru without bias": Case([TURN, node("GRU", ["t", "w", "r"], ["y"], hidden_size=4)], GRU, WINDOW),
    "gru, zero states": Case(
        [TURN,
        node("GRU", ["t", "w", "r", "", "", "h"], ["y"], hidden_size=4)], GRU | {"h": np.zeros((1, 1, 4), np.float32)},
        WINDOW,
    ),
    "gru, reverse": Case(
        [
            TURN, node("GRU", ["t", "w", "r", "b"], ["s", "h"], hidden_size=4, direction="reverse"),
            node("Squeeze", ["s", "a"], ["u"]), node("Add", ["u", "h"], ["y"]),
        ],
        GRU | {"a": ints(1)}, WINDOW,
    ),
    "gru, both ways": Case(
        [TURN, node("GRU", ["t", "w", "r", "b"], ["y"], hidden_size=4, direction="bidirectional")], BOTH, WINDOW,
        "Gru Gru Concat",
    ),
    "gru, ends of both ways": Case(
        [TURN, node("GRU", ["t", "w", "r", "b"], ["", "y"], hidden_size=4, direction="bidirectional")], BOTH, WINDOW,
    ),
    "gru, last step of all": Case(
        [
            TURN, node("GRU", ["t", "w", "r", "b"], ["s"], hidden_size=4), node("Gather", ["s", "k"], ["y"], axis=0),
        ],
        GRU | {"k": np.int64(-1)}, WINDOW, "Gru",
    ),
    "gru, an earlier step": Case(
        [
            TURN, node("GRU", ["t", "w", "r", "b"], ["s"], hidden_size=4), node("Gather", ["s", "k"], ["y"], axis=0),
        ],
        GRU | {"k": np.int64(-2)}, WINDOW, "Gru Slice",
    ),
    "gru, steps before the batch": Case(
        [node("GRU", ["x", "w", "r", "b"], ["", "y"], hidden_size=4)], GRU, (7, 1, 5), "Gru"
    ),
    "gather at random": Case(one("Gather", "k", axis=3), {"k": ints(0, 3, 1)}, layers="Take"),
    "gather a table": Case(one("Gather", "k", axis=1), {"k": ints(2, 0, 0, 1).reshape(2, 2)}, layers="Take"),
    "expand that repeats": Case(one("Expand", "s"), {"s": ints(1, 2, 3, 6, 5)}, layers="Take"),
    "tile": Case(one("Tile", "s"), {"s": ints(1, 2, 1, 3)}, layers="Take Take"),
    "reflected border": Case(one("Pad", "p", mode="reflect"), {"p": ints(0, 0, 5, 1, 0, 0, 2, 4)}, layers="Take Take"),
    "border of the edge": Case(
        one("Pad", "p", mode="edge"), {"p": ints(0, 1, 9, 0, 0, 0, 2, 4)}, layers="Take Take Take"
    ),
    "border that wraps": Case(
        one("Pad", "p", mode="wrap"), {"p": ints(0, 0, 6, 1, 0, 0, 2, 0)}, opset=19, layers="Take Take"
    ),
    "depth to space": Case([node("DepthToSpace", ["x"], ["y"], blocksize=2)], {}, (1, 8, 3, 5)),
    "depth to space, CRD": Case([node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="CRD")], {}, (1, 8, 3, 5)),
    "space to depth": Case([node("SpaceToDepth", ["x"], ["y"], blocksize=3)], {}, (1, 2, 6, 9)),
    "upsample": Case(one("Upsample", "s"), {"s": np.float32([1, 1, 2, 3])}, opset=9, layers="Take Take"),
    "resize of opset 10": Case(one("Resize", "s"), {"s": np.float32([1, 1, 0.5, 1.4])}, opset=10, layers="Take Take"),
    "resize as torch does": Case(
        one("Resize", "", "s", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        {"s": np.float32([1, 1, 2, 2])}, layers="Take Take",
    ),
    "resize to a size": Case(one("Resize", "", "", "n"), {"n": ints(1, 3, 4, 7)}, layers="Take Take"),
    "resize of named axes": Case(one("Resize", "", "", "n", axes=[3]), {"n": ints(13)}, opset=18, layers="Take"),
    **{
        f"resize, {way}, {nearest}": Case(
            one("Resize", "", "", "n", coordinate_transformation_mode=way, nearest_mode=nearest),
            {"n": ints(1, 3, h, w)}, layers="Take Take",
        )
        for way in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
        for nearest in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        for h, w in ((4, 13) if way != "align_corners" else (11, 3),)
    },
    "rnn": Case([TURN, node("RNN", ["t", "w", "r", "b"], ["y"], hidden_size=4)], RNN, WINDOW, "Rnn"),
    "rnn, relu": Case(
        [TURN, node("RNN", ["t", "w", "r", "b"], ["", "y"], hidden_size=4, activations=["Relu"])], RNN, WINDOW, "Rnn"
    ),
    "rnn, backwards with relu": Case(
        [
            TURN, node("RNN", ["t", "w", "r", "b"], ["y"], hidden_size=4, direction="bidirectional",
            activations=["Tanh", "Relu"]),
        ], BOTH_RNN, WINDOW, "Rnn Rnn Concat",
    ),
    "rnn, last step of all": Case(
        [
            TURN, node("RNN", ["t", "w", "r", "b"], ["s"], hidden_size=4), node("Gather", ["s", "k"], ["y"], axis=0),
        ],
        RNN | {"k": np.int64(-1)}, WINDOW, "Rnn",
    ),
    "lstm": Case([TURN, node("LSTM", ["t", "w", "r", "b"], ["y"], hidden_size=4)], LSTM, WINDOW, "Lstm"),
    "lstm, last": Case([TURN, node("LSTM", ["t", "w", "r", "b"], ["", "y"], hidden_size=4)], LSTM, WINDOW),
    "lstm, both ways": Case(
        [
            TURN, node("LSTM", ["t", "w", "r", "b"], ["s", "h"], hidden_size=4, direction="bidirectional"),
            node("ReduceMean", ["s", "a"], ["m"], keepdims=0), node("Add", ["m", "h"], ["y"]),
        ],
        BOTH_LSTM | {"a": ints(0)}, WINDOW,
    ),
    "lstm, default activations named": Case(
        [TURN, node("LSTM", ["t", "w", "r"], ["y"], hidden_size=4, activations=["Sigmoid", "Tanh",
        "Tanh"])], LSTM, WINDOW
    ),
}  # fmt: skip

CASES = CONVOLUTIONS | POOLS | FUNCTIONS | ARITHMETIC | NORMS | MOVES | {f"{k}.": c for k, c in RECURRENT.items()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_import_computes_what_onnx_runtime_computes(tmp_path: Path, case: Case) -> None:
    path = saved(tmp_path, graph(case.nodes, case.constants, case.shape, opset=case.opset))
    sample = case.shape[:1] + case.shape[2:] if case.shape[0] == 7 else case.shape[1:]
    x = np.random.default_rng(3).normal(size=(4, *sample)).astype(np.float32)
    x = np.abs(x) + np.float32(0.1) if case.positive else x
    net, ours, theirs = answers(path, x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    if case.layers:
        assert " ".join(type(layer).__name__.removeprefix("Float") for layer in net.layers) == case.layers


def test_no_operator_goes_untried() -> None:
    """scikit-learn's and the quantised ones have files of their own, and CastLike is in torch's plain export."""
    tried = {item.op_type for case in CASES.values() for item in case.nodes}
    assert set(OPERATORS[""]) - set(QUANTISED) - tried == {"CastLike", "LpNormalization"}


TWO = {"w": some(3, 3), "v": some(4, 4)}
REFUSED: dict[str, tuple[Case, str]] = {
    "transposed convolution": (
        Case(one("ConvTranspose", "w"), {"w": some(3, 2, 3, 3)}),
        "^net.onnx: 1 node is not supported: #0 .ConvTranspose."
    ),
    "sequence_lens": (
        Case([TURN, node("GRU", ["t", "w", "r", "b", "n"], ["y"], hidden_size=4)], GRU | {"n": np.int32([7])}, WINDOW),
        "GRU: sequence_lens",
    ),
    "peepholes": (
        Case([TURN, node("LSTM", ["t", "w", "r", "b", "", "", "", "p"], ["y"], hidden_size=4)],
             LSTM | {"p": np.ones((1, 12), np.float32)}, WINDOW),
        "LSTM: peepholes",
    ),
    "other activations": (
        Case([TURN, node("GRU", ["t", "w", "r"], ["y"], hidden_size=4, activations=["HardSigmoid", "Tanh"])], GRU,
        WINDOW),
        "GRU: activations HardSigmoid, Tanh",
    ),
    "an RNN of another function": (
        Case([TURN, node("RNN", ["t", "w", "r"], ["y"], hidden_size=4, activations=["Affine"])], RNN, WINDOW),
        "RNN: activations Affine",
    ),
    "an RNN with a clip": (
        Case([TURN, node("RNN", ["t", "w", "r"], ["y"], hidden_size=4, clip=0.5)], RNN, WINDOW),
        "RNN: clip",
    ),
    "a state that does not begin at zero": (
        Case([TURN, node("GRU", ["t", "w", "r", "", "", "h"], ["y"], hidden_size=4)], GRU | {"h": some(1, 1, 4)},
        WINDOW),
        "GRU: initial_h is not zero",
    ),
    "the cell's end": (
        Case([TURN, node("LSTM", ["t", "w", "r"], ["", "", "y"], hidden_size=4)], LSTM, WINDOW), "LSTM: gives its cell",
    ),
    "negative padding": (Case(one("Pad", "p"), {"p": ints(0, 0, -1, 0, 0, 0, 0, 0)}), "Pad: cuts off values"),
    "positions": (
        Case([node("MaxPool", ["x"], ["m", "y"], kernel_shape=[2, 2])]), "none of its 1 outputs is of real numbers",
    ),
    "three dimensions": (Case(one("Conv", "w"), {"w": some(1, 1, 2, 2, 2)}, (1, 1, 4, 4, 4)),
    "Conv: on a value of shape"),
    "too many groups": (
        Case(one("Conv", "w", group=1024), {"w": some(2048, 2, 3, 3)}, (1, 2048, 3, 3)), "weights without groups",
    ),
    "gather beyond the end": (Case(one("Gather", "k", axis=3), {"k": ints(0, 5)}), "Gather: positions .0, 5. of 5"),
    "a border wider than what it reflects": (
        Case(one("Pad", "p", mode="reflect"), {"p": ints(0, 0, 6, 0, 0, 0, 0, 0)}), "Pad: pads 6 positions by .6, 0."
    ),
    "an image resized by lines": (
        Case(one("Resize", "", "s", mode="linear"), {"s": np.float32([1, 1, 2, 2])}), "Resize: mode linear"
    ),
    "too few scales": (Case(one("Resize", "", "s"), {"s": np.float32([2, 2])}), "Resize: 2 scales for 4 axes"),
    "an image cropped and resized": (
        Case(one("Resize", "", "s", coordinate_transformation_mode="tf_crop_and_resize"),
             {"s": np.float32([1, 1, 2, 2])}), "coordinate_transformation_mode tf_crop_and_resize",
    ),
    "training": (
        Case(one("BatchNormalization", "s", "s", "s", "s", training_mode=1), {"s": some(3)}), "in training mode",
    ),
    "a choice": (
        Case([node("Greater", ["x", "c"], ["g"]), node("Where", ["g", "c", "x"], ["y"])], {"c": some(1)}),
        "Where: chooses between values",
    ),
    "truth": (Case([node("Greater", ["x", "c"], ["g"]), node("Cast", ["g"], ["y"], to=1)], {"c": some(1)}), "truth"),
    "another domain": (Case([node("Attention", ["x"], ["y"], domain=MICROSOFT)]), "Attention: of domain com.microsoft"),
}  # fmt: skip


@pytest.mark.parametrize(("case", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_counterpart_is_refused_by_name(tmp_path: Path, case: Case, reason: str) -> None:
    kind = TensorProto.INT64 if "outputs" in reason else TensorProto.FLOAT
    with pytest.raises(ModelError, match=reason):
        load_onnx(saved(tmp_path, graph(case.nodes, case.constants, case.shape, opset=case.opset, out=kind)))


def test_wide_and_narrow_weights_become_float32(tmp_path: Path) -> None:
    """A float64 and a float16 model compute what they do in float32."""
    x = np.random.default_rng(3).normal(size=(4, 5)).astype(np.float32)
    for dtype, kind in ((np.float64, TensorProto.DOUBLE), (np.float16, TensorProto.FLOAT16)):
        weight = some(5, 3).astype(dtype)
        path = saved(tmp_path, graph(one("MatMul", "w"), {"w": weight}, (1, 5), kind=kind, out=kind))
        net, ours, theirs = answers(path, x)
        np.testing.assert_allclose(ours, theirs, rtol=1e-2 if dtype == np.float16 else 1e-5, atol=1e-2)
        assert net.layers[0].forward(x).dtype == np.float32


def test_of_several_answers_the_first_real_one_is_taken(tmp_path: Path) -> None:
    proto = onnx.load_from_string(graph([node("Tanh", ["x"], ["y"]), node("ArgMax", ["y"], ["k"])], {}, (1, 5)))
    first = onnx.helper.make_tensor_value_info("k", TensorProto.INT64, [1, 5])
    proto.graph.output.insert(0, first)
    net = load_onnx(saved(tmp_path, proto.SerializeToString()))
    assert net.notes == ("the answer is 'y'; left out: 'k'",)
    assert len(net.layers) == 1


def test_inputs_are_refused_by_name(tmp_path: Path) -> None:
    wrong = {
        "has 2 inputs .x, z., must have one; a state that goes round": [("x", (1, 5), 1), ("z", (1, 5), 1)],
        "input 'x' is int64, must be float, int8 or uint8": [("x", (1, 5), TensorProto.INT64)],
        "input 'x' has a fixed batch of 8": [("x", (8, 5), 1)],
        "input 'x' has free dimensions .0, 6.; export": [("x", (1, "steps", 6), 1)],
        "input 'x' has 1 dimensions, must have a batch": [("x", (5,), 1)],
    }
    for reason, inputs in wrong.items():
        proto = onnx.load_from_string(graph([node("Tanh", ["x"], ["y"])], {}, (1, 5)))
        del proto.graph.input[:]
        proto.graph.input.extend(onnx.helper.make_tensor_value_info(n, kind, list(s)) for n, s, kind in inputs)
        with pytest.raises(ModelError, match=reason):
            load_onnx(saved(tmp_path, proto.SerializeToString()))
