"""Models that are quantised already: our integers beside those that ONNX Runtime makes of the same file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from edgerun.arrays import F32, F64
from edgerun.errors import ModelError
from edgerun.spec import Dense, Direct
from exporters import measure
from exporters.data import Samples
from exporters.float_net import FloatNet, forward
from exporters.nodes import Affine, FloatConv, FloatDense, FloatLstm, FloatTranspose
from exporters.twin import quantise_net

onnx = pytest.importorskip("onnx", reason="pip install 'edgerun[export]'")
pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")

from onnx import TensorProto  # noqa: E402
from onnx_graphs import graph, node, saved  # noqa: E402
from onnxruntime import quantization  # noqa: E402
from onnxruntime.quantization import QuantFormat, QuantType  # noqa: E402

from exporters.onnx.quantised import QUANTISED  # noqa: E402
from exporters.onnx_import import load_onnx, onnx_scores  # noqa: E402

MODELS = Path(__file__).parents[2] / "benchmarks" / "export" / "models"
MICROSOFT = "com.microsoft"
RNG = np.random.default_rng(7)


class Gap(NamedTuple):
    """How far integers are from the peer's: share of values off by one, largest difference, share of argmaxes."""

    off_by_one: float
    largest: int
    decisions: float


def integers(net: FloatNet, x: F32) -> tuple[Affine, F64]:
    """What the last layer's integers stand for, and those integers (N, outputs), by the network that devices run."""
    samples = Samples(x=x, y=np.zeros(len(x), np.int64), names=())
    twin = quantise_net(net, samples)
    q = measure.scores(measure.bare_manifest(twin), twin.tensors, twin.inputs(samples))
    return twin.maps[net.layers[-1].name], q.astype(np.float64)


def gap(path: Path, x: F32) -> Gap:
    net = load_onnx(path)
    scale, ours = integers(net, x)
    theirs = np.clip(np.rint(onnx_scores(path, x) / scale.scale) + scale.zero_point, -128, 127)
    apart = np.abs(ours - theirs)
    decisions = float((ours.argmax(axis=1) != theirs.argmax(axis=1)).mean())
    return Gap(float((apart == 1).mean()), int(apart.max()), decisions)


# ------------------------------------------------------------------ files that ONNX Runtime quantised


class Rows(quantization.CalibrationDataReader):  # type: ignore[misc]  # untyped
    def __init__(self, x: F32) -> None:
        self.rows: Iterator[dict[str, F32]] = iter([{"x": row[None]} for row in x])

    def get_next(self) -> dict[str, F32] | None:
        return next(self.rows, None)


def quantised_file(
    folder: Path,
    name: str,
    x: F32,
    form: QuantFormat,
    kind: QuantType,
    *,
    channels: bool,
    weights: QuantType = QuantType.QInt8,
    **options: Any,
) -> Path:
    path = folder / f"{name}.onnx"
    quantization.quantize_static(
        str(MODELS / f"{name}.onnx"),
        str(path),
        Rows(x),
        quant_format=form,
        activation_type=kind,
        weight_type=weights,
        per_channel=channels,
        extra_options=options,
    )
    return path


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The quantiser advises on the root logger."""
    before = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    yield
    logging.getLogger().setLevel(before)


FILES = [
    ("mnist_mlp", QuantFormat.QDQ, QuantType.QUInt8, False),
    ("mnist_mlp", QuantFormat.QOperator, QuantType.QInt8, True),
    ("fashion_cnn", QuantFormat.QDQ, QuantType.QInt8, True),
    ("kws_dscnn", QuantFormat.QDQ, QuantType.QUInt8, True),
    ("kws_dscnn", QuantFormat.QOperator, QuantType.QUInt8, False),
    ("speech_conv1d", QuantFormat.QDQ, QuantType.QInt8, False),
    ("resnet8", QuantFormat.QOperator, QuantType.QInt8, True),
]


@pytest.mark.parametrize(("name", "form", "kind", "channels"), FILES)
def test_files_that_onnx_runtime_quantised_give_its_integers(
    tmp_path: Path, name: str, form: QuantFormat, kind: QuantType, channels: bool
) -> None:
    """At most one step apart, and no other decision."""
    plain = load_onnx(MODELS / f"{name}.onnx")
    x = np.random.default_rng(1).normal(size=(64, *plain.input_shape)).astype(np.float32)
    path = quantised_file(tmp_path, name, x[:16], form, kind, channels=channels)
    net = load_onnx(path)
    fixed = [layer.name for layer in net.layers if layer.output is None and "transpose" not in layer.name]
    assert not fixed
    assert net.input is not None
    found = gap(path, x)
    print(f"{name} {form} {kind} {'per channel' if channels else 'per tensor'}: {found}")
    assert found.off_by_one < 0.06
    assert found.largest <= 1
    assert found.decisions == 0
    # The float twin saturates where the file does, so it stays close as well.
    ours = forward(net, net.moments(x)).readings[net.layers[-1].name]
    step = net.layers[-1].output
    assert step is not None
    assert np.abs(ours - onnx_scores(path, x)).max() < 8 * step.scale


UINT8_FILES = [
    ("mnist_mlp", QuantFormat.QDQ, False),
    ("mnist_mlp", QuantFormat.QOperator, True),
    ("fashion_cnn", QuantFormat.QOperator, False),
    ("kws_dscnn", QuantFormat.QDQ, False),
    ("kws_dscnn", QuantFormat.QOperator, False),
    ("resnet8", QuantFormat.QDQ, False),
]


@pytest.mark.parametrize(("name", "form", "channels"), UINT8_FILES)
def test_files_with_uint8_weights_give_onnx_runtimes_integers(
    tmp_path: Path, name: str, form: QuantFormat, channels: bool
) -> None:
    """Weights with zero points of their own, as the quantiser finds them."""
    plain = load_onnx(MODELS / f"{name}.onnx")
    x = np.random.default_rng(1).normal(size=(64, *plain.input_shape)).astype(np.float32)
    path = quantised_file(
        tmp_path, name, x[:16], form, QuantType.QUInt8, channels=channels, weights=QuantType.QUInt8,
        WeightSymmetric=False,
    )  # fmt: skip
    net = load_onnx(path)
    assert not net.notes
    parts = quantise_net(net, Samples(x=x, y=np.zeros(len(x), np.int64), names=())).parts
    kept = [part.layer.name for part in parts if getattr(part.layer, "asymmetric", False)]
    found = gap(path, x)
    print(f"{name} {form} {'per channel' if channels else 'per tensor'}: {found}, {len(kept)} layers with zero points")
    assert kept
    assert found.off_by_one < 0.06
    assert found.largest <= 1
    assert found.decisions == 0


def test_weights_of_a_file_come_back_as_they_were(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(16, 784)).astype(np.float32)
    path = quantised_file(tmp_path, "mnist_mlp", x, QuantFormat.QDQ, QuantType.QInt8, channels=True)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    weights = [array for name, array in stored.items() if name.endswith("weight_quantized")]
    layers = [layer for layer in load_onnx(path).layers if isinstance(layer, FloatDense)]
    assert len(layers) == len(weights) == 3
    for layer in layers:
        assert layer.weight_scale is not None
        back = np.rint(layer.weight / layer.weight_scale[:, None])
        assert any(back.shape == w.shape and (back == w).all() for w in weights)


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
def test_a_file_with_dynamic_scales_is_calibrated(tmp_path: Path, kind: QuantType) -> None:
    w, v, b = (RNG.normal(size=shape).astype(np.float32) for shape in ((784, 40), (40, 10), (40,)))
    nodes = [
        node("MatMul", ["x", "w"], ["m"]),
        node("Add", ["m", "b"], ["a"]),
        node("Relu", ["a"], ["r"]),
        node("MatMul", ["r", "v"], ["y"]),
    ]
    plain, path = saved(tmp_path, graph(nodes, {"w": w, "v": v, "b": b}, ("n", 784))), tmp_path / "dynamic.onnx"
    quantization.quantize_dynamic(str(plain), str(path), weight_type=kind, per_channel=True)
    assert "MatMulInteger" in {item.op_type for item in onnx.load(path).graph.node}
    net = load_onnx(path)
    assert [type(layer).__name__ for layer in net.layers] == ["FloatDense"] * 2
    assert net.notes == ("scales that the file finds anew for each sample are fixed by calibration",)
    assert all(isinstance(layer, FloatDense) and layer.weight_scale is not None for layer in net.layers)
    x = np.random.default_rng(1).normal(size=(64, 784)).astype(np.float32)
    scale, ours = integers(net, x)
    theirs = onnx_scores(path, x)
    assert np.abs((ours - scale.zero_point) * scale.scale - theirs).max() < 0.06 * np.abs(theirs).max()
    samples = Samples(x, np.full(len(x), -1))
    assert net.dynamic
    assert not load_onnx(plain).dynamic
    twin = quantise_net(net, samples)
    floats = measure.own_scores(twin, samples)
    assert measure.spread_error(floats.astype(np.float64), theirs) > measure.SAME
    np.testing.assert_array_equal(measure.peer_scores(path, twin, samples, floats, values=True), theirs)


# ------------------------------------------------------------------ files by hand


def f32(value: float) -> Any:
    return np.float32(value)


def scales(dtype: type, **maps: tuple[float, int]) -> dict[str, Any]:
    """Constants `a` and `az`, scale and zero point of each map."""
    return {
        name: value
        for key, (scale, zero) in maps.items()
        for name, value in ((key, f32(scale)), (f"{key}z", dtype(zero)))
    }


def int8(*shape: int) -> Any:
    return RNG.integers(-127, 128, shape).astype(np.int8)


def around(*nodes: Any, dtype: type = np.uint8, domain: str = "") -> list[Any]:
    """The nodes between a quantised input `i` and a dequantised output of `o`."""
    return [
        node("QuantizeLinear", ["x", "xs", "xsz"], ["i"], domain=domain),
        *nodes,
        node("DequantizeLinear", ["o", "ys", "ysz"], ["y"], domain=domain),
    ]


ENDS = {"xs": (0.03, 128), "ys": (0.05, 120)}
W = {"ws": f32(0.01), "wz": np.int8(0)}
CONV: dict[str, Any] = {"w": int8(4, 3, 3, 3), "bias": RNG.integers(-9999, 9999, 4).astype(np.int32)}
X_MAP, Y_MAP = ["xs", "xsz"], ["ys", "ysz"]


def microsoft(op: str, inputs: list[str], outputs: list[str], **more: Any) -> Any:
    return node(op, inputs, outputs, domain=MICROSOFT, **more)


class Case(NamedTuple):
    nodes: Sequence[Any]
    constants: dict[str, Any]
    shape: Sequence[int] = (1, 3, 6, 5)
    layers: str = ""


U8 = scales(np.uint8, **ENDS)
CASES: dict[str, Case] = {
    "QLinearConv": Case(
        around(node("QLinearConv", ["i", *X_MAP, "w", "ws", "wz", *Y_MAP, "bias"], ["o"], pads=[1, 1, 1, 1])),
        U8 | W | CONV | {"ys": f32(0.3)},
    ),
    "QLinearConv, a scale a channel, depthwise": Case(
        around(node("QLinearConv", ["i", *X_MAP, "w", "ws", "wz", *Y_MAP], ["o"], group=3)),
        U8 | {"w": int8(3, 1, 3, 3), "ws": np.float32([0.01, 0.02, 0.03]), "wz": np.zeros(3, np.int8)},
    ),
    "QLinearMatMul": Case(
        around(node("QLinearMatMul", ["i", *X_MAP, "w", "ws", "wz", *Y_MAP], ["o"])), U8 | W | {"w": int8(8, 3)}, (1, 8)
    ),
    "QGemm": Case(
        around(microsoft("QGemm", ["i", *X_MAP, "w", "ws", "wz", "c", *Y_MAP], ["o"], transB=1)),
        U8 | W | {"w": int8(4, 8), "c": RNG.integers(-999, 999, 4).astype(np.int32)}, (1, 8), "Dense",
    ),
    "QGemm without an output map": Case(
        [
            node("QuantizeLinear", ["x", *X_MAP], ["i"]),
            microsoft("QGemm", ["i", *X_MAP, "w", "ws", "wz", "c"], ["y"], transB=1),
        ],
        U8 | W | {"w": int8(4, 8), "c": RNG.integers(-999, 999, 4).astype(np.int32)}, (1, 8), "Dense",
    ),
    "QLinearAdd": Case(
        around(microsoft("QLinearAdd", ["i", *X_MAP, "i", *X_MAP, *Y_MAP], ["o"])), U8, layers="Add"
    ),
    "QLinearMul": Case(
        around(microsoft("QLinearMul", ["i", *X_MAP, "i", *X_MAP, *Y_MAP], ["o"])), U8, layers="Mul"
    ),
    "QLinearMul by a constant": Case(
        around(microsoft("QLinearMul", ["i", *X_MAP, "w", "ws", "wz", *Y_MAP], ["o"])),
        scales(np.int8, xs=(0.03, 3), ys=(0.05, -4)) | W | {"w": np.int8([100])},
    ),
    "QLinearSigmoid": Case(
        around(microsoft("QLinearSigmoid", ["i", *X_MAP, *Y_MAP], ["o"])), U8 | {"ys": f32(1 / 256), "ysz": np.uint8(0)}
    ),
    "QLinearLeakyRelu": Case(
        around(microsoft("QLinearLeakyRelu", ["i", *X_MAP, *Y_MAP], ["o"], alpha=0.2)), U8, layers="Unary"
    ),
    "QLinearAveragePool": Case(
        around(microsoft("QLinearAveragePool", ["i", *X_MAP, *Y_MAP], ["o"], kernel_shape=[2, 2], strides=[2, 1])), U8
    ),
    "QLinearGlobalAveragePool": Case(
        around(microsoft("QLinearGlobalAveragePool", ["i", *X_MAP, *Y_MAP], ["o"])), U8, layers="Pool"
    ),
    "QLinearSoftmax": Case(
        around(microsoft("QLinearSoftmax", ["i", *X_MAP, *Y_MAP], ["o"], axis=-1, opset=13)),
        U8 | {"ys": f32(1 / 256), "ysz": np.uint8(0)}, (1, 8), "Softmax",
    ),
    "QLinearConcat": Case(
        around(
            microsoft("QLinearSigmoid", ["i", *X_MAP, "ps", "psz"], ["p"]),
            microsoft("QLinearConcat", [*Y_MAP, "i", *X_MAP, "p", "ps", "psz"], ["o"], axis=1),
        ),
        U8 | scales(np.uint8, ps=(1 / 256, 0)),
    ),
    "pools and moves of integers": Case(
        around(
            node("MaxPool", ["i"], ["m"], kernel_shape=[2, 2]), node("Transpose", ["m"], ["t"], perm=[0, 2, 3, 1]),
            node("Reshape", ["t", "s"], ["r"]), node("Slice", ["r", "one", "nine", "one"], ["q"]),
            node("QLinearMatMul", ["q", *X_MAP, "w", "ws", "wz", *Y_MAP], ["o"]),
        ),
        U8 | W | {"s": np.int64([1, -1]), "one": np.int64([1]), "nine": np.int64([9]), "w": int8(8, 3)},
    ),
    "MatMulInteger of fixed scales": Case(
        [
            node("QuantizeLinear", ["x", *X_MAP], ["i"]), node("MatMulInteger", ["i", "w", "xsz", "wz"], ["m"]),
            node("Cast", ["m"], ["f"], to=TensorProto.FLOAT), node("Mul", ["f", "both"], ["g"]),
            node("Add", ["g", "b"], ["y"]),
        ],
        U8 | {"wz": np.int8(0), "w": int8(8, 3), "both": f32(0.03 * 0.01), "b": np.float32([1, 2, 3])}, (1, 8), "Dense",
    ),
    "ConvInteger": Case(
        [
            node("QuantizeLinear", ["x", *X_MAP], ["i"]), node("ConvInteger", ["i", "w", "xsz"], ["m"]),
            node("Cast", ["m"], ["f"], to=TensorProto.FLOAT), node("Mul", ["f", "both"], ["y"]),
        ],
        U8 | {"w": int8(4, 3, 3, 3), "both": f32(0.03 * 0.01)},
    ),
    "DynamicQuantizeMatMul": Case(
        [microsoft("DynamicQuantizeMatMul", ["x", "w", "ws", "wz", "b"], ["y"])],
        W | {"w": int8(8, 3), "b": np.float32([1, 2, 3])}, (1, 8), "Dense",
    ),
    "QDQ of another domain": Case(
        around(
            microsoft("DequantizeLinear", ["i", *X_MAP], ["d"]), node("Tanh", ["d"], ["t"]),
            microsoft("QuantizeLinear", ["t", *Y_MAP], ["o"]), domain=MICROSOFT,
        ),
        U8 | {"ys": f32(1 / 128)}, layers="Unary",
    ),
    "QDQ, weights quantised in the file": Case(
        around(
            node("DequantizeLinear", ["i", *X_MAP], ["d"]), node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], axis=1),
            node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], axis=1), node("MatMul", ["d", "wd"], ["m"]),
            node("QuantizeLinear", ["m", *Y_MAP], ["o"]),
        ),
        U8 | {
            "w": RNG.normal(size=(8, 3)).astype(np.float32), "ws": np.float32([0.02, 0.03, 0.04]),
            "wz": np.zeros(3, np.int8),
        },
        (1, 8), "Dense",
    ),
    "QDQ, a float node between": Case(
        around(
            node("DequantizeLinear", ["i", *X_MAP], ["d"]), node("Conv", ["d", "w"], ["c"]),
            node("HardSwish", ["c"], ["h"]), node("QuantizeLinear", ["h", *Y_MAP], ["o"]),
        ),
        U8 | {"w": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32), "ys": f32(0.15)},
        layers="Transpose Conv Unary Transpose",
    ),
    "QDQ, two readers that quantise alike": Case(
        around(
            node("DequantizeLinear", ["i", *X_MAP], ["d"]), node("Tanh", ["d"], ["t"]),
            node("QuantizeLinear", ["t", *Y_MAP], ["a"]), node("QuantizeLinear", ["t", *Y_MAP], ["b"]),
            node("DequantizeLinear", ["a", *Y_MAP], ["ad"]), node("DequantizeLinear", ["b", *Y_MAP], ["bd"]),
            node("Add", ["ad", "bd"], ["s"]), node("QuantizeLinear", ["s", *Y_MAP], ["o"]),
        ),
        U8 | {"ys": f32(1 / 64)}, layers="Unary Add",
    ),
    "QDQ, one map after another": Case(
        around(
            node("DequantizeLinear", ["i", *X_MAP], ["d"]), node("Relu", ["d"], ["r"]),
            node("QuantizeLinear", ["r", "rs", "rsz"], ["q"]), node("DequantizeLinear", ["q", "rs", "rsz"], ["e"]),
            node("QuantizeLinear", ["e", *Y_MAP], ["o"]),
        ),
        U8 | scales(np.uint8, rs=(0.02, 0)), layers="Unary Unary",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_quantised_operators_give_onnx_runtimes_integers(tmp_path: Path, case: Case) -> None:
    """At most one step apart; where the file leaves the last map open, one step and a half of our own."""
    path = saved(tmp_path, graph(case.nodes, case.constants, case.shape))
    x = np.random.default_rng(3).normal(size=(32, *case.shape[1:])).astype(np.float32)
    net = load_onnx(path)
    scale, ours = integers(net, x)
    theirs = onnx_scores(path, x)
    apart = np.abs(np.rint(theirs / scale.scale) + scale.zero_point - ours)
    print(f"{(apart == 1).mean():.4f} off by one, at most {apart.max():.0f}")
    assert apart.max() <= (1 if net.layers[-1].output else 2)
    within = all(layer.output for layer in net.layers if not isinstance(layer, FloatTranspose))
    assert (apart > 0).mean() < (0.05 if within else 0.6)
    if case.layers:
        assert " ".join(type(layer).__name__.removeprefix("Float") for layer in net.layers) == case.layers


def test_no_quantised_operator_goes_untried() -> None:
    tried = {item.op_type for case in CASES.values() for item in case.nodes}
    assert set(QUANTISED) - tried == {"DynamicQuantizeLinear"}


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_a_model_may_read_and_give_integers(tmp_path: Path, dtype: type) -> None:
    kind = TensorProto.UINT8 if dtype is np.uint8 else TensorProto.INT8
    maps = scales(dtype, xs=(0.02, 100), ys=(0.4, 90))
    nodes = [node("QLinearConv", ["x", *X_MAP, "w", "ws", "wz", *Y_MAP, "bias"], ["y"])]
    path = saved(tmp_path, graph(nodes, maps | W | CONV, (1, 3, 6, 5), kind=kind, out=kind))
    net = load_onnx(path)
    base = 128 if dtype is np.uint8 else 0
    assert net.encoder == Direct(offset=base)
    assert net.input == Affine(float(f32(0.02)), 100 - base)
    q = np.random.default_rng(3).integers(0, 256, (32, 3, 6, 5)) - (128 - base)
    found = gap(path, ((q - 100) * f32(0.02)).astype(np.float32))
    assert found.largest <= 1
    assert found.off_by_one < 0.01


def test_an_image_of_bytes_may_be_scaled_in_the_model(tmp_path: Path) -> None:
    nodes = [
        node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        node("Div", ["f", "top"], ["d"]),
        node("Sub", ["d", "mean"], ["s"]),
        node("Gemm", ["s", "w"], ["y"]),
    ]
    constants = {"top": f32(255), "mean": f32(0.5), "w": RNG.normal(size=(8, 3)).astype(np.float32)}
    path = saved(tmp_path, graph(nodes, constants, (1, 8), kind=TensorProto.UINT8))
    net = load_onnx(path)
    assert net.input == Affine(1.0, -128)
    x = np.random.default_rng(3).integers(0, 256, (16, 8)).astype(np.float32)
    ours = forward(net, net.moments(x)).readings[net.layers[-1].name]
    np.testing.assert_allclose(ours, onnx_scores(path, x), rtol=1e-4, atol=1e-5)


X8 = np.random.default_rng(3).normal(size=(32, 8)).astype(np.float32)


def bytes_of(rng: np.random.Generator, shape: Sequence[int], dtype: type, axis: int) -> Any:
    """Random integers of a byte; the first channel of an axis holds both ends."""
    ends = np.iinfo(dtype)
    q = rng.integers(ends.min, ends.max + 1, shape).astype(dtype)
    np.moveaxis(q, axis, 0)[0].reshape(-1)[:2] = ends.min, ends.max
    return q


DENSE_FORMS: dict[str, tuple[Sequence[Any], int]] = {
    "QLinearMatMul": (around(node("QLinearMatMul", ["i", *X_MAP, "w", "ws", "wz", *Y_MAP], ["o"])), 1),
    "QGemm": (around(microsoft("QGemm", ["i", *X_MAP, "w", "ws", "wz", "", *Y_MAP], ["o"], transB=1)), 0),
    "QDQ": (
        around(
            node("DequantizeLinear", ["i", *X_MAP], ["d"]), node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1),
            node("Gemm", ["d", "wd"], ["m"], alpha=-1.0), node("QuantizeLinear", ["m", *Y_MAP], ["o"]),
        ), 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("each", [False, True], ids=["per tensor", "per channel"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("form", DENSE_FORMS)
def test_any_zero_point_of_a_weight_is_taken_exactly(tmp_path: Path, form: str, dtype: Any, each: bool) -> None:
    """weight - weight_zero is q - zero of the file, or its opposite; ONNX Runtime gives the same integers."""
    rng, base = np.random.default_rng(9), np.iinfo(dtype).min
    nodes, axis = DENSE_FORMS[form]
    for first in (0, 60, 128, 131, 255):
        zero = (np.array([first, 7, 250] if each else first) + base).astype(dtype)
        scale = np.float32([0.01, 0.011, 0.012]) if each else f32(0.01)
        q = bytes_of(rng, (8, 3) if axis else (3, 8), dtype, axis)
        path = saved(tmp_path, graph(nodes, U8 | {"w": q, "ws": scale, "wz": zero, "ys": f32(0.2)}, (1, 8)))
        net = load_onnx(path)
        assert not net.notes
        (layer,) = net.layers
        assert isinstance(layer, FloatDense)
        steps = (q if axis == 0 else q.T).astype(np.int64) - zero.astype(np.int64).reshape(-1, 1)
        steps = -steps if form == "QDQ" else steps
        (part,) = quantise_net(net, Samples(x=X8, y=np.zeros(len(X8), np.int64), names=())).parts
        assert isinstance(part.layer, Dense)
        assert part.layer.asymmetric == bool(steps.min() < -128 or steps.max() > 127)
        weight_zero = part.tensors.get(f"{layer.name}.weight_zero", np.zeros(3)).reshape(-1, 1)
        assert (part.tensors[f"{layer.name}.weight"].astype(np.int64) - weight_zero).tolist() == steps.tolist()
        assert gap(path, X8).largest <= 1


def test_a_gain_below_zero_keeps_the_integers_and_turns_their_signs(tmp_path: Path) -> None:
    nodes = [
        node("QuantizeLinear", ["x", *X_MAP], ["i"]), node("MatMulInteger", ["i", "w", "xsz", "wz"], ["m"]),
        node("Cast", ["m"], ["f"], to=TensorProto.FLOAT), node("Mul", ["f", "both"], ["y"]),
    ]  # fmt: skip
    q, gains = bytes_of(np.random.default_rng(9), (8, 3), np.uint8, 1), np.float32([-3e-4, 2e-4, -1e-4])
    path = saved(tmp_path, graph(nodes, U8 | {"w": q, "wz": np.uint8(128), "both": gains}, (1, 8)))
    (layer,) = load_onnx(path).layers
    assert isinstance(layer, FloatDense)
    (part,) = quantise_net(load_onnx(path), Samples(x=X8, y=np.zeros(len(X8), np.int64), names=())).parts
    assert part.tensors[f"{layer.name}.weight_zero"].tolist() == [-1, 0, 0]  # 128 is no int8
    want = (q.T.astype(np.int64) - 128) * np.sign(gains)[:, None]
    found = part.tensors[f"{layer.name}.weight"] - part.tensors[f"{layer.name}.weight_zero"].astype(np.int64)[:, None]
    assert found.tolist() == want.tolist()
    assert gap(path, X8).largest <= 1


@pytest.mark.parametrize(
    ("kind", "values", "exact"),
    [
        (TensorProto.INT16, np.arange(-12, 12) * 10, True),
        (TensorProto.INT16, np.arange(-12, 12) * 100, False),
        (TensorProto.FLOAT8E4M3FN, np.arange(-12, 12) / 16, False),
    ],
)
def test_weights_that_are_no_integers_of_a_byte_are_rounded_anew_and_noted(
    tmp_path: Path, kind: int, values: Any, exact: bool
) -> None:
    nodes = [node("DequantizeLinear", ["w", "ws"], ["wd"]), node("MatMul", ["x", "wd"], ["y"])]
    proto = onnx.load_from_string(graph(nodes, {"ws": f32(0.1)}, (1, 8)))
    proto.graph.initializer.append(onnx.helper.make_tensor("w", kind, (8, 3), values))
    net = load_onnx(saved(tmp_path, proto.SerializeToString()))
    (layer,) = net.layers
    assert isinstance(layer, FloatDense)
    np.testing.assert_allclose(layer.weight.T.reshape(-1), values * f32(0.1), rtol=1e-6)
    assert (layer.weight_scale is not None) == exact
    assert len(net.notes) == (not exact)
    assert all("are no integers of a byte's range" in note for note in net.notes)


@pytest.mark.parametrize("group", [1, 3])
def test_convolutions_keep_the_zero_points_of_their_weights(tmp_path: Path, group: int) -> None:
    """In groups that are no single channel too, where zeros stand for what a filter does not see."""
    rng = np.random.default_rng(10)
    q, zero = bytes_of(rng, (6, 6 // group, 3, 3), np.uint8, 0), np.uint8([0, 255, 128, 90, 131, 200])
    nodes = around(node("QLinearConv", ["i", *X_MAP, "w", "ws", "wz", *Y_MAP], ["o"], pads=[1, 1, 1, 1], group=group))
    constants = U8 | {"w": q, "ws": np.float32([0.01] * 6), "wz": zero, "ys": f32(0.9)}
    path = saved(tmp_path, graph(nodes, constants, (1, 6, 6, 5)))
    conv = next(layer for layer in load_onnx(path).layers if isinstance(layer, FloatConv))
    assert conv.weight_scale is not None
    found = gap(path, np.random.default_rng(3).normal(size=(32, 6, 6, 5)).astype(np.float32))
    assert (found.largest, found.off_by_one) <= (1, 0.01)


REFUSED: dict[str, tuple[Sequence[Any], dict[str, Any], str]] = {
    "16 bits": (
        around(node("Identity", ["i"], ["o"])), {**U8, "xs": f32(1), "xsz": np.uint16(0)}, "quantises to uint16",
    ),
    "a scale a channel": (
        around(node("Identity", ["i"], ["o"])), {**U8, "xs": np.ones(8, np.float32), "xsz": np.zeros(8, np.uint8)},
        "QuantizeLinear: has a scale for each channel",
    ),
    "no scale": (around(node("Identity", ["i"], ["o"])), {**U8, "xs": f32(0)}, "scale 0.0 is not positive"),
    "another map": (
        [node("QuantizeLinear", ["x", *X_MAP], ["i"]), node("DequantizeLinear", ["i", *Y_MAP], ["y"])], U8,
        "DequantizeLinear: reads 'i' as Affine",
    ),
    "float arithmetic on integers": (
        around(node("Concat", ["i", "i"], ["o"], axis=1)), U8, "Concat: computes with the integers of 'i'"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "constants", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_int8_cannot_hold_is_refused(
    tmp_path: Path, nodes: Sequence[Any], constants: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        load_onnx(saved(tmp_path, graph(nodes, constants, (1, 8))))


def test_four_bit_weights_are_taken_in_eight(tmp_path: Path) -> None:
    proto = onnx.load_from_string(
        graph(
            around(
                node("DequantizeLinear", ["i", *X_MAP], ["d"]),
                node("DequantizeLinear", ["w", "ws"], ["wd"]),
                node("MatMul", ["d", "wd"], ["m"]),
                node("QuantizeLinear", ["m", *Y_MAP], ["o"]),
            ),
            U8 | {"ws": f32(0.1)},
            (1, 8),
        )
    )
    values = RNG.integers(-8, 8, 24)
    proto.graph.initializer.append(onnx.helper.make_tensor("w", TensorProto.INT4, (8, 3), values))
    path = saved(tmp_path, proto.SerializeToString())
    (layer,) = load_onnx(path).layers
    assert isinstance(layer, FloatDense)
    assert layer.weight_scale is not None
    np.testing.assert_array_equal(np.rint(layer.weight / layer.weight_scale[:, None]).T.reshape(-1), values)
    assert gap(path, X8).largest <= 1


def test_a_recurrent_layer_keeps_its_own_map(tmp_path: Path) -> None:
    """A file's map is for what leaves it, not for its state: a lookup between changes one into the other."""
    nodes = around(
        node("DequantizeLinear", ["i", *X_MAP], ["d"]),
        node("Transpose", ["d"], ["t"], perm=[1, 0, 2]),
        node("GRU", ["t", "w", "r"], ["", "h"], hidden_size=4),
        node("QuantizeLinear", ["h", *Y_MAP], ["o"]),
    )
    weights = {"w": RNG.normal(size=(1, 12, 5)).astype(np.float32), "r": RNG.normal(size=(1, 12, 4)).astype(np.float32)}
    path = saved(tmp_path, graph(nodes, U8 | weights, (1, 7, 5)))
    cell, lookup = load_onnx(path).layers
    assert cell.output is None
    assert lookup.output == Affine(float(f32(0.05)), -8)
    assert gap(path, np.random.default_rng(3).normal(size=(16, 7, 5)).astype(np.float32)).largest <= 1


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize("directions", [1, 2])
def test_an_lstm_of_int8_weights_keeps_their_integers(tmp_path: Path, directions: int, kind: QuantType) -> None:
    """ONNX Runtime rounds what goes in as it runs, which the float net does not; its weights lie turned in the file."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("LSTM", ["t", "w", "r"], ["y"], hidden_size=4, direction=("forward", "bidirectional")[directions - 1]),
    ]
    rng = np.random.default_rng(8)
    whole = {"w": rng.normal(size=(directions, 16, 5)), "r": rng.normal(size=(directions, 16, 4))}
    weights = {name: array.astype(np.float32) for name, array in whole.items()}
    plain, path = saved(tmp_path, graph(nodes, weights, (1, 7, 5))), tmp_path / "dynamic.onnx"
    quantization.quantize_dynamic(plain, path, weight_type=kind, extra_options={"WeightSymmetric": True})
    net, x = load_onnx(path), np.random.default_rng(3).normal(size=(16, 7, 5)).astype(np.float32)
    cells = [layer for layer in net.layers if isinstance(layer, FloatLstm)]
    assert len(cells) == directions
    assert net.notes == ("scales that the file finds anew for each sample are fixed by calibration",)
    for cell in cells:
        assert cell.weight_scale is not None
        steps = cell.weight / cell.weight_scale[:, None]
        np.testing.assert_allclose(steps, np.rint(steps), rtol=0, atol=1e-9)
        assert 120 <= np.abs(steps).max() <= 128
    ours = forward(net, net.moments(x)).readings[net.layers[-1].name]
    np.testing.assert_allclose(ours, onnx_scores(path, x), rtol=0, atol=0.02)


def test_a_convolution_keeps_its_map_beside_a_pool(tmp_path: Path) -> None:
    """A max pool between a layer and what quantises it gets the map; the layer before is calibrated."""
    nodes = around(
        node("DequantizeLinear", ["i", *X_MAP], ["d"]),
        node("Conv", ["d", "w"], ["c"]),
        node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2]),
        node("QuantizeLinear", ["p", *Y_MAP], ["o"]),
    )
    constants = U8 | {"w": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32), "ys": f32(0.15)}
    path = saved(tmp_path, graph(nodes, constants, (1, 3, 6, 5)))
    net = load_onnx(path)
    conv = next(layer for layer in net.layers if isinstance(layer, FloatConv))
    assert conv.output is None
    x = np.random.default_rng(3).normal(size=(16, 3, 6, 5)).astype(np.float32)
    assert gap(path, x).largest <= 2


@pytest.mark.parametrize("zero", [np.uint8(7), np.int8(-3)])
def test_means_that_are_a_half_go_to_even_as_quantize_linear_rounds_them(tmp_path: Path, zero: Any) -> None:
    """In scales that are powers of two, so that ONNX Runtime's float32 holds the halves."""
    nodes = around(
        node("DequantizeLinear", ["i", *X_MAP], ["d"]),
        node("AveragePool", ["d"], ["p"], kernel_shape=[2, 2], strides=[2, 1]),
        node("QuantizeLinear", ["p", *Y_MAP], ["o"]),
    )
    constants = {"xs": f32(0.0625), "xsz": zero, "ys": f32(0.0625), "ysz": zero}
    path = saved(tmp_path, graph(nodes, constants, (1, 3, 6, 5)))
    x = np.random.default_rng(3).normal(size=(64, 3, 6, 5)).astype(np.float32)
    assert gap(path, x).largest == 0
