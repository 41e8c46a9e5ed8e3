"""Convolutions of any geometry give the plain integers on every carrier, and what the float layers of files become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import conv as slow
from runs import peak_of, stepped

from edgerun.arrays import AnyArray, Tensors
from edgerun.errors import ModelError, SpecError
from edgerun.layers import Conv, Depthwise
from edgerun.layers.base import CARRIERS, Carrier, Certificate
from edgerun.layers.window import taps_inside
from edgerun.ops import OPS
from edgerun.ops import conv as ops
from exporters.nodes import Affine, FloatConv, FloatDepthwise, FloatLayer, Range
from exporters.nodes.conv import ungroup

KINDS = [Conv, Depthwise]


def layer(
    kind: type[Any], scale: tuple[int, int], weight: AnyArray, bias: AnyArray, **fields: Any
) -> tuple[Any, Tensors]:
    spec = kind(name="l", filters=len(weight), kernel=weight.shape[1:3], **fields)
    return spec, {
        "l.weight": weight.astype(np.int8),
        "l.bias": bias.astype(np.int32),
        "l.multiplier": np.full(len(weight), scale[0], np.int32),
        "l.shift": np.full(len(weight), scale[1], np.uint8),
    }


def random_layer(data: st.DataObject, kind: type[Any]) -> tuple[Any, Tensors, np.random.Generator]:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    c, multiple = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    kernel, stride, dilation = (tuple(data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=2))) for _ in range(3))
    padding = tuple(data.draw(st.lists(st.integers(0, 4), min_size=4, max_size=4)))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    room = [max(1, reach[axis] - padding[axis] - padding[axis + 2]) for axis in (0, 1)]
    h, w = (data.draw(st.integers(least, least + 5)) for least in room)
    filters = c * multiple if kind is Depthwise else multiple
    low = data.draw(st.integers(-128, 0))
    weight = rng.integers(-128, 128, (filters, *kernel, *([c] if kind is Conv else [])))
    scale = (int(rng.integers(1 << 23, 1 << 24)), data.draw(st.integers(24, 46)))
    if data.draw(st.booleans()):
        scale = (1, data.draw(st.integers(1, 23)))
    bias = rng.integers(-(1 << 16), 1 << 16, filters)
    spec, tensors = layer(
        kind, scale, weight, bias, input_shape=(h, w, c), stride=stride, dilation=dilation, padding=padding,
        input_zero_point=data.draw(st.integers(-128, 127)), zero_point=data.draw(st.integers(-128, 127)),
        qmin=low, qmax=data.draw(st.integers(low, 127)),
    )  # fmt: skip
    return spec, tensors, rng


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_any_geometry_equals_the_plain_integers(kind: type[Any], data: st.DataObject) -> None:
    spec, tensors, rng = random_layer(data, kind)
    x = rng.integers(-128, 128, (3, *spec.widths))
    x[0] = rng.choice([-128, 127], spec.widths)
    want = [slow.convolve(spec, tensors, row) for row in x.tolist()]
    assert stepped(spec, tensors, x).tolist() == want
    assert [stepped(spec, tensors, row).tolist() for row in x] == want
    assert len(want[0]) == spec.outputs


# ------------------------------------------------------------------ carriers and their certificate

# Sums of one sign that reach the certificate's very edge: the same table as for dense layers.
#   window (rows, columns, channels), bias, (multiplier, shift), zero point, the carrier that must be chosen
EDGES = {
    "folded, at its bound": ((5, 5, 40), (1 << 24) - (1 << 11) - 16256000, (1, 12), 0, "float32-folded"),
    "folded, one over": ((5, 5, 40), (1 << 24) - (1 << 11) - 16256000 + 1, (1, 12), 0, "float32-dot"),
    "dot, at its bound": ((4, 6, 43), (1 << 28) - 1, (1 << 23, 23), 0, "float32-dot"),
    "dot, one input over": ((1, 1033, 1), 5, ((1 << 24) - 1, 40), 3, "float64"),
    "no float holds it": ((16, 16, 256), 1 << 27, ((1 << 24) - 1, 45), -128, "int64"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("window", "bias", "scale", "zero_point", "chosen"), EDGES.values(), ids=EDGES)
def test_sums_of_one_sign_are_exact_at_the_edge_of_each_carrier(
    window: tuple[int, int, int], bias: int, scale: tuple[int, int], zero_point: int, chosen: str, kind: type[Any]
) -> None:
    taps = window if kind is Conv else (window[0], window[1] * window[2])
    weight = np.full((2, *taps), 127)
    weight[1] = -127
    shape = window if kind is Conv else (*taps, 1)
    spec, tensors = layer(kind, scale, weight, np.full(2, bias), input_shape=shape, zero_point=zero_point)
    assert spec.proof(tensors).carrier == chosen
    size = spec.widths[0]
    for x in (np.full(size, -128), np.full(size, 127), np.r_[np.full(size - 1, -128), -127]):
        assert stepped(spec, tensors, x).tolist() == slow.convolve(spec, tensors, x.tolist())


def on(carrier: Carrier, monkeypatch: pytest.MonkeyPatch, act: Callable[[], AnyArray]) -> list[int]:
    """What a layer gives where the certificate says `carrier`, whatever the numbers are."""
    with monkeypatch.context() as patch:
        for kind in KINDS:
            patch.setattr(kind, "proof", lambda *_: Certificate(carrier, 0))
        found: list[int] = act().tolist()
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("first", "scale"), [(0, (1, 8)), (1, (11_184_811, 31))], ids=["folded", "dot"])
def test_every_carrier_that_holds_gives_the_same_bits(
    kind: type[Any], first: int, scale: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    weight = rng.integers(-128, 128, (4, 3, 2, 4) if kind is Conv else (4, 3, 2))
    spec, tensors = layer(
        kind, scale, weight, rng.integers(-999, 999, 4), input_shape=(6, 5, 4), padding=(1, 1, 1, 0),
        input_zero_point=-3, zero_point=7,
    )  # fmt: skip
    assert spec.proof(tensors).carrier == CARRIERS[first]
    x = rng.integers(-128, 128, (4, *spec.widths))
    x[:2] = np.array([[-128], [127]])
    want = stepped(spec, tensors, x)
    assert np.unique(want).size > 50
    for carrier in CARRIERS[first:]:
        assert on(carrier, monkeypatch, lambda: stepped(spec, tensors, x)) == want.tolist(), carrier


@pytest.mark.parametrize("kind", KINDS)
def test_a_carrier_that_the_certificate_refuses_would_be_wrong(
    kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    taps = (10, 110)
    weight = np.full((40, *taps, 1) if kind is Conv else (40, *taps), 127)
    bias = np.arange(-20, 20) - 1100 * 127 * 127  # takes the large sum back, so that its last bit shows
    spec, tensors = layer(kind, (1, 1), weight, bias, input_shape=(*taps, 1))
    assert spec.proof(tensors).carrier == "float64"
    for x in (np.full(1100, 127), np.r_[126, np.full(1099, 127)]):
        want = slow.convolve(spec, tensors, x.tolist())
        assert stepped(spec, tensors, x).tolist() == want
        assert len(set(want)) > 15
    assert on("float32-dot", monkeypatch, lambda: stepped(spec, tensors, x)) != want


def test_what_pads_the_image_counts_in_the_certificate() -> None:
    fields: dict[str, Any] = {"input_shape": (2, 2, 1), "padding": (1, 1, 1, 1), "input_bound": 3}
    weight = np.full((1, 2, 2, 1), -128)
    near, tensors = layer(Conv, (1, 8), weight, np.zeros(1), **fields, input_zero_point=2)
    far, _ = layer(Conv, (1, 8), weight, np.zeros(1), **fields, input_zero_point=-128)
    assert (near.proof(tensors).bound, far.proof(tensors).bound) == (4 * 128 * 3, 4 * 128 * 128)
    assert far.certify(tensors, (3,), frozenset()) == far.proof(tensors)
    with pytest.raises(SpecError, match="layer l: input_bound 3 is under the 128 that reaches it"):
        far.certify(tensors, (128,), frozenset())


# ------------------------------------------------------------------ memory and batches


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 100, 1000, 1 << 16])
def test_blocks_and_batches_do_not_change_a_bit(kind: type[Any], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "BLOCK", block)
    rng = np.random.default_rng(7)
    weight = rng.integers(-128, 128, (6, 3, 3, 3) if kind is Conv else (6, 3, 3))
    spec, tensors = layer(
        kind, (11_184_811, 32), weight, np.zeros(6), input_shape=(7, 5, 3), padding=(1, 1, 1, 1), stride=(1, 2)
    )
    x = rng.integers(-128, 128, (5, *spec.widths))
    assert stepped(spec, tensors, x).tolist() == [slow.convolve(spec, tensors, row) for row in x.tolist()]


@pytest.mark.parametrize("fields", [{"stride": (2, 2)}, {"stride": (1, 3)}, {"padding": (0, 1, 0, 0)}, {}], ids=str)
def test_a_single_tap_sees_each_place_or_some(fields: dict[str, Any]) -> None:
    rng = np.random.default_rng(8)
    spec, tensors = layer(
        Conv, (11_184_811, 31), rng.integers(-128, 128, (4, 1, 1, 4)), np.zeros(4), input_shape=(4, 6, 4),
        input_zero_point=99, **fields,
    )  # fmt: skip
    x = rng.integers(-128, 128, (2, 96))
    assert stepped(spec, tensors, x).tolist() == [slow.convolve(spec, tensors, row) for row in x.tolist()]


def test_a_source_whose_rows_are_apart_is_read_right() -> None:
    spec, tensors = layer(Conv, (1, 5), np.ones((2, 1, 1, 3)), np.zeros(2), input_shape=(2, 2, 3))
    wide = np.random.default_rng(0).integers(-128, 128, (4, 20)).astype(np.float32)
    run = OPS[Conv](spec, tensors, (4,))
    run.step(wide[:, 8:])
    assert run.out.tolist() == stepped(spec, tensors, wide[:, 8:].copy()).tolist()


BUFFER = 8192 * 8 + 4096
"""Bytes that numpy may take for its own walk over an image, and small change."""


@pytest.mark.parametrize("scale", [(1, 12), (11_184_811, 33), (11_184_811, 46)], ids=["folded", "dot", "int64"])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_allocates_no_array(kind: type[Any], kernel: int, scale: tuple[int, int]) -> None:
    weight = np.ones((16, kernel, kernel, 16) if kind is Conv else (16, kernel, kernel))
    spec, tensors = layer(
        kind, scale, weight, np.zeros(16), input_shape=(80, 80, 16), padding=(kernel // 2,) * 4,
        zero_point=-128 if scale[1] == 46 else 0,
    )  # fmt: skip
    run, x = OPS[kind](spec, tensors, ()), np.ones(spec.widths, np.float32)
    assert spec.outputs > BUFFER  # an array of one byte a value would show
    assert peak_of(lambda: run.step(x)) < BUFFER


# ------------------------------------------------------------------ records

GOOD: dict[str, Any] = {"name": "l", "input_shape": (6, 5, 4), "filters": 8, "kernel": (3, 3)}
WRONG = {
    "nothing fits": ({"kernel": (7, 3)}, r"kernel \(7, 3\) .*padded shape \(6, 5, 4\)"),
    "dilated": ({"dilation": (1, 3)}, r"dilation \(1, 3\)"),
    "clip": ({"qmin": 5, "qmax": 4}, "qmin 5 is above qmax 4"),
    "image": ({"input_shape": (1 << 14, 1 << 14, 1)}, r"input_shape .* 268435456 values"),
    "padding": ({"padding": (60000, 60000, 0, 0), "stride": (60000, 60000)}, "padded shape"),
    "one row": ({"input_shape": (2048, 4096, 1), "kernel": (2048, 2048)}, "what one row of outputs sees"),
    "output": ({"input_shape": (2048, 2048, 1), "kernel": (1, 1), "filters": 1024}, r"shape \(2048, 2048, 1024\)"),
}


@pytest.mark.parametrize(("fields", "message"), WRONG.values(), ids=WRONG)
def test_a_convolution_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Conv(**GOOD | fields)


def test_depthwise_filters_belong_to_channels() -> None:
    assert Depthwise(**GOOD).shape == (4, 3, 8)
    with pytest.raises(SpecError, match="filters 6 is no multiple of the 4 channels"):
        Depthwise(**GOOD | {"filters": 6})
    with pytest.raises(SpecError, match="shifted shape"):
        Depthwise(name="l", input_shape=(2048, 2048, 1), filters=1, kernel=(1, 1024), stride=(2048, 1))


def test_work_is_counted_from_the_geometry() -> None:
    full, depthwise = Conv(**GOOD | {"padding": (1, 1, 1, 1)}), Depthwise(**GOOD | {"stride": (2, 1)})
    assert full.work().macs == 6 * 5 * 8 * 3 * 3 * 4
    assert depthwise.work().macs == 2 * 3 * 8 * 3 * 3
    assert full.work().elements == 8 * 7 * 4 + 6 * 5 * 8


@given(st.integers(1, 9), *(st.integers(0, 9),) * 2, *(st.integers(1, 4),) * 3)
def test_taps_inside_the_image_are_counted(
    size: int, before: int, after: int, kernel: int, stride: int, dilation: int
) -> None:
    inside = [0] * before + [1] * size + [0] * after
    starts = range(0, len(inside) - (kernel - 1) * dilation, stride)
    want = [sum(inside[at + t * dilation] for t in range(kernel)) for at in starts]
    assert taps_inside(size, before, after, kernel, stride, dilation).tolist() == want


# ------------------------------------------------------------------ from float


def one_node(x: AnyArray, operator: str, *constants: AnyArray, **attributes: Any) -> AnyArray:
    """What ONNX Runtime computes with one operator, images (n, h, w, c) in and out."""
    onnx = pytest.importorskip("onnx", reason="pip install 'edgerun[export]'")
    runtime = pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")
    names = [f"k{k}" for k in range(len(constants))]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, ["x", *names], ["y"], **attributes)], "g",
        [value("x", onnx.TensorProto.FLOAT, [None] * 4)], [value("y", onnx.TensorProto.FLOAT, [None] * 4)],
        [onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in zip(names, constants, strict=True)],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x.transpose(0, 3, 1, 2).astype(np.float32)})
    found: AnyArray = y.transpose(0, 2, 3, 1)
    return found


GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"stride": (2, 3), "padding": (1, 0, 2, 1)},
    {"dilation": (2, 1), "padding": (3, 2, 0, 1)},
    {"stride": (4, 1), "dilation": (1, 2), "padding": (0, 4, 3, 4)},
]


def attributes(geometry: dict[str, Any]) -> dict[str, Any]:
    names = {"stride": "strides", "dilation": "dilations", "padding": "pads"}
    return {names[key]: list(value) for key, value in geometry.items()}


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_float_convolution_computes_what_onnx_runtime_does(geometry: dict[str, Any], groups: int) -> None:
    rng = np.random.default_rng(2)
    x, weight, bias = rng.normal(size=(2, 7, 6, 4)), rng.normal(size=(8, 3, 2, 4 // groups)), rng.normal(size=8)
    want = one_node(x, "Conv", weight.transpose(0, 3, 1, 2), bias, group=groups, **attributes(geometry))
    nodes: list[FloatLayer] = [FloatConv("l", (7, 6, 4), ungroup(weight, groups, 4), bias, **geometry)]
    if groups == 4:
        nodes.append(FloatDepthwise("l", (7, 6, 4), weight[..., 0], bias, **geometry))
    for node in nodes:
        assert node.shape == want.shape[1:]
        got = node.forward(x.reshape(2, -1).astype(np.float32))
        np.testing.assert_allclose(got, want.reshape(2, -1), atol=2e-5)


def nodes_of(rng: np.random.Generator, **fields: Any) -> list[FloatConv | FloatDepthwise]:
    geometry: dict[str, Any] = {"stride": (2, 1), "padding": (1, 1, 2, 0)}
    return [
        FloatConv("l", (6, 5, 3), rng.normal(size=(4, 3, 2, 3)), rng.normal(size=4), **geometry, **fields),
        FloatDepthwise("l", (6, 5, 3), rng.normal(size=(6, 3, 2)), rng.normal(size=6), **geometry, **fields),
    ]


@pytest.mark.parametrize("clip", [(-np.inf, np.inf), (0.0, np.inf), (0.0, 1.5)])
def test_the_integers_follow_the_float_layer(clip: tuple[float, float]) -> None:
    rng, x_map = np.random.default_rng(3), Affine(0.02, -28)
    for node in nodes_of(rng, low=clip[0], high=clip[1]):
        q = rng.integers(-128, 128, (40, *node.widths))
        real = node.forward(((q + 28) * 0.02).astype(np.float32))
        (made,) = node.quantise((x_map,), Range(float(real.min()) - 1, float(real.max()) + 1))
        assert made.layer.certify(made.tensors, (128,), frozenset()).carrier == "float32-dot"
        y = stepped(made.layer, made.tensors, q)
        error = np.abs((y - made.output.zero_point) * made.output.scale - real)
        step_of_weight = float(np.abs(node.weight).max()) / 127
        wrong_weights = step_of_weight / 2 * 2.56 * node.weight[0].size  # each off by half a step, inputs under 2.56
        assert error.max() < made.output.scale + wrong_weights
        assert error.mean() < made.output.scale / 2 + wrong_weights / 10
        assert np.unique(y).size > 100


def test_the_integers_of_a_file_come_back_as_they_were() -> None:
    rng, x_map, y_map = np.random.default_rng(4), Affine(0.5, 3), Affine(0.125, -10)
    for node in nodes_of(rng):
        whole = rng.integers(-128, 128, node.weight.shape)
        whole.reshape(-1)[0] = -128
        scale = rng.uniform(0.001, 0.01, len(whole))
        weight = whole * scale.reshape(-1, *[1] * (whole.ndim - 1))
        bias = rng.integers(-999, 999, len(whole))
        kind: Any = type(node)
        fixed = kind(
            "l", node.input_shape, weight, bias * scale * 0.5, node.stride, node.dilation, node.padding,
            weight_scale=scale, output=y_map,
        )  # fmt: skip
        (made,) = fixed.quantise((x_map,), Range(0.0, 1.0))
        assert made.output == y_map
        assert made.tensors["l.weight"].tolist() == whole.tolist()
        folded = bias - 3 * whole.reshape(len(whole), -1).sum(axis=1)
        assert made.tensors["l.bias"].tolist() == folded.tolist()
        assert (made.layer.input_zero_point, made.layer.zero_point, made.layer.padding) == (3, -10, node.padding)
        q = rng.integers(-128, 128, (20, *node.widths))
        real = fixed.forward(((q - 3) * 0.5).astype(np.float32)).astype(np.float64) / 0.125 - 10
        assert np.abs(stepped(made.layer, made.tensors, q) - np.clip(real, -128, 127)).max() < 0.501


def test_a_scale_that_no_multiplier_holds_is_refused_by_its_channel() -> None:
    (node, _) = nodes_of(np.random.default_rng(0))
    with pytest.raises(ModelError, match="layer l channel 0: scale"):
        node.quantise((Affine(1e9, 0),), Range(0.0, 1e-9))
