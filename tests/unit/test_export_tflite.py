"""LiteRT files become nets whose integers are LiteRT's own, bit for bit; what has no counterpart is refused by name."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from modules import load

from edgerun.bundle import read_bundle
from edgerun.errors import ModelError
from edgerun.layers import LstmQ12
from edgerun.network import Network
from edgerun.spec import MAX_LAYERS

tflite = pytest.importorskip("tflite", reason="pip install 'edgerun[export]'")

from exporters import measure  # noqa: E402
from exporters.data import Samples  # noqa: E402
from exporters.export import Options, export, load_model  # noqa: E402
from exporters.float_net import FloatNet, forward  # noqa: E402
from exporters.improve import is_fixed  # noqa: E402
from exporters.nodes import (  # noqa: E402
    Affine,
    FloatConv,
    FloatDense,
    FloatLayerNorm,
    FloatLstm,
    FloatUnary,
    Range,
)
from exporters.tflite.graph import clip_of  # noqa: E402
from exporters.tflite_import import has_litert, litert_scores, load_tflite, net_of  # noqa: E402
from exporters.tflite_reader import (  # noqa: E402  # noqa: E402
    OPTIONS,
    Reader,
    TfliteModel,
    TfliteOp,
    TfliteTensor,
    fields_of,
    option,
    read_tflite,
)
from exporters.twin import Twin, quantise_net  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden" / "tflite"
BENCH = Path(__file__).parents[2] / "benchmarks" / "export"
REFUSED = {"unsupported_float", "lstm_while_float", "gru_while_float", "mlp_int16x8"}
FILES = sorted({path.stem for path in GOLDEN.glob("*.tflite")} - REFUSED)
ONE_INPUT = [name for name in FILES if not name.startswith("two_inputs")]
FLOATS = [name for name in ONE_INPUT if name.endswith(("_float", "_float16"))]
INTEGERS = [name for name in ONE_INPUT if name.endswith(("_int8", "_pertensor", "_uint8"))]
RESOLVERS = ("reference", "builtin", "default")


def golden(name: str) -> TfliteModel:
    return read_tflite(GOLDEN / f"{name}.tflite")


def known(name: str) -> dict[str, Any]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def real(tensor: TfliteTensor, q: Any) -> Any:
    """Stored numbers as real ones, (N, values)."""
    flat = q.reshape(len(q), -1).astype(np.float64)
    return flat if tensor.scale is None else (flat - tensor.zero_point) * tensor.scale


def answers(net: FloatNet, x: Any) -> Any:
    return forward(net, net.moments(x)).readings[net.layers[-1].name]


def quantised(model: TfliteModel, answer: int, stored: Any) -> tuple[Twin, Any]:
    """The integer net, and what it gives (N, outputs) for inputs as the file stores them."""
    net = net_of(model.name, model, answer)
    x = real(model.tensors[model.inputs[0]], stored).astype(np.float32)
    samples = Samples(x, np.zeros(len(x), np.int64), ())
    twin = quantise_net(net, samples)
    network = Network(measure.bare_manifest(twin), twin.tensors, (len(x),))
    q = twin.inputs(samples)
    np.testing.assert_array_equal(q.reshape(-1), stored.reshape(-1))
    for moment in network.moments(q):
        network.step(moment)
    return twin, network.layers[net.layers[-1].name].out.astype(np.int64).reshape(len(x), -1)


# ------------------------------------------------------------------ floats


def outputs_of(names: list[str]) -> list[tuple[str, int]]:
    return [(name, k) for name in names for k in range(len(golden(name).outputs))]


@pytest.mark.parametrize(("name", "answer"), outputs_of(FLOATS))
def test_the_float_net_computes_what_litert_computes(name: str, answer: int) -> None:
    model, arrays = golden(name), known(name)
    net = net_of(name, model, answer)
    y, want = answers(net, arrays["input_0"]), arrays[f"reference_{answer}"].reshape(len(arrays["input_0"]), -1)
    if net.left_out is not None:
        y = np.exp(y - y.max(axis=1, keepdims=True))
        y /= y.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-4)


def test_weights_of_a_dynamic_file_keep_their_integers() -> None:
    """LiteRT rounds each activation to 8 bits as it runs; the float net does not."""
    model, arrays = golden("mlp_wide_dynamic"), known("mlp_wide_dynamic")
    net = net_of("mlp_wide_dynamic", model)
    np.testing.assert_allclose(answers(net, arrays["input_0"]), arrays["reference_0"][:, 0], rtol=0, atol=0.02)
    twin = quantise_net(net, Samples(arrays["input_0"], np.zeros(16, np.int64), ()))
    stored = model.tensors[model.operators[0].inputs[1]].data
    np.testing.assert_array_equal(twin.tensors[f"{net.layers[0].name}.weight"], stored)
    assert net.dynamic
    assert not any(net_of(other, golden(other)).dynamic for other in ("mlp_wide_float16", "conv_int8"))


# ------------------------------------------------------------------ integers

APART = {
    # share of values off by one step from every resolver of LiteRT, at most, and why
}
FLOAT_TRUTH = {"layer_norm_int8", "lstm_stack_int8"}
EXACT = [case for case in outputs_of(INTEGERS) if case not in APART and case[0] not in FLOAT_TRUTH]


def by_litert(model: TfliteModel, name: str, answer: int) -> dict[str, Any]:
    arrays, base = known(name), 128 if model.tensors[model.outputs[answer]].dtype == "uint8" else 0
    return {w: arrays[f"{w}_{answer}"].reshape(len(arrays["input_0"]), -1) - np.float64(base) for w in RESOLVERS}


def as_stored(model: TfliteModel, answer: int, twin: Twin, got: Any) -> Any:
    """Integers as they are; real numbers where the file's output is one."""
    if model.tensors[model.outputs[answer]].scale is None:
        y = twin.parts[-1].output
        return ((got - y.zero_point) * y.scale).astype(np.float32)
    return got


@pytest.mark.parametrize(("name", "answer"), EXACT)
def test_integers_are_those_of_litert_as_people_run_it(name: str, answer: int) -> None:
    """Bit for bit those of XNNPACK; so the other resolvers are no further from us than they are from it."""
    model = golden(name)
    twin, got = quantised(model, answer, known(name)["input_0"])
    theirs, ours = by_litert(model, name, answer), as_stored(model, answer, twin, got)
    np.testing.assert_allclose(ours, theirs["default"], rtol=0, atol=1e-6)
    between = max(np.mean(theirs[a] != theirs[b]) for a, b in itertools.combinations(RESOLVERS, 2))
    if ours.dtype != np.float32:
        assert all(np.mean(ours != theirs[resolver]) <= between for resolver in RESOLVERS)


@pytest.mark.parametrize(("name", "answer"), APART)
def test_where_integers_differ_they_differ_by_one_step(name: str, answer: int) -> None:
    model = golden(name)
    _, got = quantised(model, answer, known(name)["input_0"])
    for theirs in by_litert(model, name, answer).values():
        assert np.abs(got - theirs).max() == 1
        assert np.mean(got != theirs) <= APART[name, answer]


@pytest.mark.parametrize("name", sorted(FLOAT_TRUTH))
def test_where_litert_is_far_from_the_floats_we_are_nearer(name: str) -> None:
    """LiteRT rounds every step of a layer norm to 8 bits; it has no tanh for a cell finer than 2**-15, and runs on."""
    model, stored = golden(name), known(name)["input_0"]
    entry, end = model.tensors[model.inputs[0]], model.tensors[model.outputs[0]]
    plain = name.replace("int8", "float")
    truth = answers(net_of(plain, golden(plain)), real(entry, stored).astype(np.float32))
    _, got = quantised(model, 0, stored)
    ours = np.abs(real(end, got) - truth).mean()
    assert ours < 0.75 * end.scale
    assert all(ours < 0.75 * np.abs(real(end, q) - truth).mean() for q in by_litert(model, name, 0).values())


@pytest.mark.parametrize("name", INTEGERS)
def test_an_integer_file_decides_every_range(name: str) -> None:
    net = net_of(name, golden(name))
    assert net.input is not None
    assert is_fixed(net)
    assert net.encoder.offset == (128 if name.endswith("uint8") else 0)


def test_weights_and_biases_come_back_bit_for_bit() -> None:
    """b' = b - zx sum(w), w the file's: also where uint8 weights have a zero point of their own."""
    for name, codes in (("conv_int8", ("CONV_2D",)), ("fake_quant_uint8", ("CONV_2D", "FULLY_CONNECTED"))):
        model = golden(name)
        twin, _ = quantised(model, 0, known(name)["input_0"])
        layers = [layer for layer in twin.net.layers if isinstance(layer, FloatConv | FloatDense)]
        operators = [op for op in model.operators if op.code in codes]
        for layer, op in list(zip(layers, operators, strict=False))[:2]:
            x, weight, bias = model.reads(op)
            steps = weight.data.astype(np.int64) - weight.zero_point[0]
            zero = x.zero_point[0] - (128 if x.dtype == "uint8" else 0)
            np.testing.assert_array_equal(twin.tensors[f"{layer.name}.weight"], steps)
            folded = bias.data - zero * steps.reshape(len(steps), -1).sum(axis=1)
            np.testing.assert_array_equal(twin.tensors[f"{layer.name}.bias"], folded)


@given(
    kind=st.sampled_from(["NONE", "RELU", "RELU_N1_TO_1", "RELU6"]),
    scale=st.floats(2.0**-12, 40, width=32),
    zero_point=st.integers(-128, 127),
)
def test_clips_have_the_integers_that_litert_computes(kind: str, scale: float, zero_point: int) -> None:
    """quantize(f) = zero point + round(f / scale) in float32, half away from zero, within int8."""
    y = Affine(scale, zero_point)
    ends = {"NONE": (None, None), "RELU": (0, None), "RELU_N1_TO_1": (-1, 1), "RELU6": (0, 6)}[kind]
    low, high = clip_of(kind, y)
    for end, got, extreme in ((ends[0], low, -128), (ends[1], high, 127)):
        want = extreme
        if end is not None:
            steps = float(np.float32(end) / np.float32(scale))
            want = min(max(zero_point + int(math.copysign(math.floor(abs(steps) + 0.5), steps)), -128), 127)
        assert y.integer(got) == want


# ------------------------------------------------------------------ what becomes of a file


def kinds(name: str) -> list[str]:
    return [type(layer).__name__ for layer in net_of(name, golden(name)).layers]


def test_dilation_and_padding_become_fields() -> None:
    """SPACE_TO_BATCH_ND, CONV_2D and BATCH_TO_SPACE_ND are one convolution, and so are PAD and CONV_2D."""
    conv = net_of("conv_float", golden("conv_float")).layers[2]
    assert isinstance(conv, FloatConv)
    assert (conv.dilation, conv.padding, conv.shape) == ((2, 2), (2, 2, 2, 2), (3, 3, 6))
    causal = net_of("conv1d_causal_float", golden("conv1d_causal_float"))
    assert [type(layer).__name__ for layer in causal.layers] == ["FloatPad", "FloatConv"]
    mobile = load_tflite(BENCH / "tflite" / "mobilenet_v1_int8.tflite")
    assert {type(layer).__name__ for layer in mobile.layers} == {
        "FloatConv",
        "FloatDepthwise",
        "FloatPool",
        "FloatDense",
    }
    assert mobile.layers[0].padding == (1, 1, 1, 1)


def test_constants_fold_into_the_layer_before_them_where_no_scale_is_fixed() -> None:
    assert kinds("dense_sequence_float") == ["FloatConv", "FloatConv"]
    assert kinds("batch_norm_first_float") == ["FloatDepthwise", "FloatConv"]
    assert kinds("relu6_float") == ["FloatUnary"]
    assert "FloatAdd" in kinds("dense_sequence_int8")


def test_a_layer_norm_is_one_layer() -> None:
    for name in ("layer_norm_float", "layer_norm_int8"):
        norms = [layer for layer in net_of(name, golden(name)).layers if isinstance(layer, FloatLayerNorm)]
        assert len(norms) == 1
        assert norms[0].epsilon == pytest.approx(1e-3, rel=1e-5)


def test_an_lstm_gives_its_last_step_alone_where_only_that_is_read() -> None:
    for name, sequence in (("lstm_int8", False), ("lstm_sequence_int8", True), ("lstm_float", False)):
        (lstm,) = [layer for layer in net_of(name, golden(name)).layers if isinstance(layer, FloatLstm)]
        assert lstm.sequence is sequence
        assert lstm.cell_clip == 10


def test_a_softmax_ends_an_integer_file_but_not_a_float_one() -> None:
    assert kinds("mlp_softmax_int8")[-1] == "FloatSoftmax"
    assert kinds("mlp_softmax_float")[-1] == "FloatDense"


def test_names_are_those_of_the_file_where_it_has_any() -> None:
    names = [layer.name for layer in net_of("conv_int8", golden("conv_int8")).layers]
    assert names[:2] == ["conv2d_4_1", "conv2d_5_1"]
    assert names[-1] == "conv"
    assert len(set(names)) == len(names)


def test_other_outputs_are_noted() -> None:
    model = golden("global_pools_float")
    first, second = model.output_names
    net = net_of("global_pools_float", model)
    assert net.notes == (f"the answer is {first!r}; left out: {second!r}",)


# ------------------------------------------------------------------ operators that no golden file has


def options_for(code: str, **given: Any) -> Any:
    """The schema's defaults, overwritten."""
    if code not in OPTIONS:
        return MappingProxyType(given)
    table = getattr(tflite, OPTIONS[code])()
    table.Init(b"\x04\x00\x04\x00\x04\x00\x00\x00", 4)
    names = fields_of(OPTIONS[code])
    return MappingProxyType({key: option(Reader(b""), table, key, method, code) for key, method in names} | given)


class Made:
    """A model written down tensor by tensor. Scales are (scale, zero point)."""

    def __init__(self, shape: tuple[int, ...], dtype: str = "float32", scale: Any = None) -> None:
        self.tensors: list[TfliteTensor] = []
        self.operators: list[TfliteOp] = []
        self.x = self.tensor(shape, dtype, scale)

    def tensor(self, shape: Any, dtype: str = "float32", scale: Any = None, data: Any = None, axis: int = 0) -> int:
        scales, zeros = (None, None) if scale is None else (np.atleast_1d(np.float64(scale[0])), scale[1])
        self.tensors.append(
            TfliteTensor(
                index=len(self.tensors),
                name=f"model/layer{len(self.tensors)}/op",
                shape=tuple(shape),
                shape_signature=tuple(shape),
                dtype=dtype,
                data=None if data is None else np.asarray(data, dtype),
                scale=scales,
                zero_point=None if scales is None else np.broadcast_to(np.int64(zeros), scales.shape),
                axis=axis,
                is_variable=False,
            )
        )
        return len(self.tensors) - 1

    def constant(self, data: Any, dtype: str = "int32", scale: Any = None, axis: int = 0) -> int:
        return self.tensor(np.shape(data), dtype, scale, data, axis)

    def op(self, code: str, *inputs: int, out: Any = None, count: int = 1, custom: bool = False, **given: Any) -> int:
        """Appends an operator; `out` is dtype and scale of what it gives. Returns its first output."""
        dtype, scale = out or ("float32", None)
        outputs = [self.tensor((1,), dtype, scale) for _ in range(count)]
        options = options_for(code, **given)
        self.operators.append(
            TfliteOp(
                index=len(self.operators),
                code=code,
                custom=custom,
                version=1,
                inputs=inputs,
                outputs=tuple(outputs),
                intermediates=(),
                options=options,
            )
        )
        return outputs[0]

    def model(self, *outputs: int) -> TfliteModel:
        return TfliteModel(
            name="made",
            tensors=tuple(self.tensors),
            operators=tuple(self.operators),
            inputs=(self.x,),
            outputs=outputs,
            input_names=("x",),
            output_names=tuple(f"y{k}" for k in range(len(outputs))),
        )

    def net(self, output: int) -> FloatNet:
        return net_of("made", self.model(output))


X = np.random.default_rng(3).normal(size=(5, 1, 4, 6)).astype(np.float32)


def computed(made: Made, output: int, x: Any = X) -> Any:
    return answers(made.net(output), x[:, 0])


WEIGHT = np.random.default_rng(4).normal(size=(6, 3)).astype(np.float32)
ROW = np.arange(1, 7, dtype=np.float32)
COLUMN = np.arange(1, 5, dtype=np.float32)[:, None]
GROUPED = np.random.default_rng(6).normal(size=(6, 1, 1, 2)).astype(np.float32)
AROUND = [[0, 0], [1, 1], [1, 1], [0, 0]]


def table(made: Made) -> int:
    return made.constant([[1, 4], [3, 6]])


FUNCTIONS = {
    "divided by a row": (lambda m: m.op("DIV", m.x, m.constant(ROW, "float32")), lambda x: x / ROW),
    "a column less it, then a ReLU": (
        lambda m: m.op("SUB", m.constant(COLUMN, "float32"), m.x, fused_activation_function="RELU"),
        lambda x: np.maximum(COLUMN - x, 0),
    ),
    "less a row": (lambda m: m.op("SUB", m.x, m.constant(ROW, "float32")), lambda x: x - ROW),
    "times everything": (lambda m: m.op("MUL", m.x, m.constant(X[0], "float32")), lambda x: x * X[0]),
    "made larger by a constant": (
        lambda m: m.op("ADD", m.x, m.constant(np.ones((2, 1, 1)), "float32")),
        lambda x: np.concatenate([x + 1, x + 1], axis=1),
    ),
    "a product from the right": (
        lambda m: m.op("BATCH_MATMUL", m.x, m.constant(WEIGHT, "float32"), adj_x=False, adj_y=False),
        lambda x: x @ WEIGHT,
    ),
    "a transposed product": (
        lambda m: m.op("BATCH_MATMUL", m.x, m.constant(WEIGHT.T, "float32"), adj_x=False, adj_y=True),
        lambda x: x @ WEIGHT,
    ),
    "two of four rows": (
        lambda m: m.op("GATHER", m.x, m.constant([1, 2]), axis=1),
        lambda x: x[:, :, 1:3],
    ),
    "one row": (lambda m: m.op("GATHER", m.x, m.constant(-1), axis=1), lambda x: x[:, :, -1]),
    "a stack": (lambda m: m.op("PACK", m.x, m.x, axis=-1), lambda x: np.stack([x, x], -1)),
    "a long row of itself": (
        lambda m: m.op("CONCATENATION", *[m.x] * 130, axis=1),
        lambda x: np.concatenate([x] * 130, 2),
    ),
    "a slope": (
        lambda m: m.op("PRELU", m.x, m.constant(np.full((1, 6), 0.1), "float32")),
        lambda x: np.where(x < 0, x * np.float32(0.1), x),
    ),
    "a slope for each channel": (
        lambda m: m.op("PRELU", m.x, m.constant([[0.1, 0.2, 0.3, -0.1, 0.0, 1.0]], "float32")),
        lambda x: np.where(x < 0, x * np.float32([0.1, 0.2, 0.3, -0.1, 0.0, 1.0]), x),
    ),
    "ELU": (lambda m: m.op("ELU", m.x), lambda x: np.where(x < 0, np.expm1(x), x)),
    "at least a half": (lambda m: m.op("MAXIMUM", m.x, m.constant(0.5, "float32")), lambda x: np.maximum(x, 0.5)),
    "at most a half": (lambda m: m.op("MINIMUM", m.constant(0.5, "float32"), m.x), lambda x: np.minimum(x, 0.5)),
    "a sum over what lies apart": (
        lambda m: m.op("SUM", m.op("RESHAPE", m.x, m.constant([2, 2, 2, 3])), m.constant([0, 2])),
        lambda x: x.reshape(5, 2, 2, 2, 3).sum(axis=(1, 3)),
    ),
    "logarithm of a softmax, then a product": (
        lambda m: m.op("MUL", m.op("LOG_SOFTMAX", m.x), m.constant(2.0, "float32")),
        lambda x: 2 * (x - np.log(np.exp(x).sum(-1, keepdims=True))),
    ),
    "a mean over no axis that is wide": (lambda m: m.op("MEAN", m.x, m.constant([0])), lambda x: x),
    "squeezed and cast": (
        lambda m: m.op("ABS", m.op("CAST", m.op("SQUEEZE", m.x, squeeze_dims=(0,)))),
        lambda x: np.abs(x),
    ),
    "GELU": (lambda m: m.op("GELU", m.x), lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2),
    "GELU by a tanh": (
        lambda m: m.op("GELU", m.x, approximate=True),
        lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    ),
    "a row of another length than the layer before": (
        lambda m: m.op(
            "ADD",
            m.op("RESHAPE", m.op("FULLY_CONNECTED", m.x, m.constant(WEIGHT.T, "float32"), -1), m.constant([2, 6])),
            m.constant(ROW, "float32"),
        ),
        lambda x: (x @ WEIGHT).reshape(5, 1, 2, 6) + ROW,
    ),
    "a shape from a table": (
        lambda m: m.op(
            "ABS",
            m.op("RESHAPE", m.x, m.op("RESHAPE", m.op("GATHER", table(m), m.constant([1]), axis=1), m.constant([2]))),
        ),
        np.abs,
    ),
    "ones around an image": (
        lambda m: m.op(
            "CONV_2D",
            m.op(
                "PADV2", m.op("RESHAPE", m.x, m.constant([1, 4, 6, 1])), m.constant(AROUND), m.constant(1.0, "float32")
            ),
            m.constant(np.ones((1, 3, 3, 1)), "float32"),
            padding="VALID",
            stride_w=1,
            stride_h=1,
        ),
        lambda x: sum(
            np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=1)[:, :, i : i + 4, j : j + 6]
            for i in range(3)
            for j in range(3)
        ),
    ),
    "a convolution in two groups": (
        lambda m: m.op(
            "CONV_2D",
            m.op("RESHAPE", m.x, m.constant([1, 2, 3, 4])),
            m.constant(GROUPED, "float32"),
            padding="VALID",
            stride_w=1,
            stride_h=1,
        ),
        lambda x: np.concatenate(
            [x.reshape(5, 6, 2, 2)[:, :, g] @ GROUPED[g * 3 : g * 3 + 3, 0, 0].T for g in (0, 1)], -1
        ),
    ),
    "turned about": (lambda m: m.op("REVERSE_V2", m.x, m.constant([-1, 1])), lambda x: x[:, :, ::-1, ::-1]),
    "less what is filled": (
        lambda m: m.op("SUB", m.x, m.op("FILL", m.constant([4, 6]), m.constant(0.5, "float32"))),
        lambda x: x - 0.5,
    ),
    "the squared distance from a row": (
        lambda m: m.op("SQUARED_DIFFERENCE", m.x, m.constant(ROW, "float32")),
        lambda x: (x - ROW) ** 2,
    ),
}


def norm_parts(made: Made) -> tuple[int, int, int]:
    """x's mean, gamma / sqrt(variance + epsilon), and beta."""
    last = made.constant([2])
    mean = made.op("MEAN", made.x, last, keep_dims=True)
    variance = made.op("MEAN", made.op("SQUARED_DIFFERENCE", made.x, mean), last, keep_dims=True)
    root = made.op("RSQRT", made.op("ADD", variance, made.constant(0.25, "float32")))
    return mean, made.op("MUL", root, made.constant(ROW, "float32")), made.constant(-ROW, "float32")


NORMS = {
    "x g + (beta - m g)": lambda m, mean, g, beta: m.op(
        "ADD", m.op("MUL", m.x, g), m.op("SUB", beta, m.op("MUL", mean, g))
    ),
    "beta + (x - m) g": lambda m, mean, g, beta: m.op("ADD", beta, m.op("MUL", g, m.op("SUB", m.x, mean))),
    "x g - m g": lambda m, mean, g, beta: m.op("SUB", m.op("MUL", m.x, g), m.op("MUL", g, mean)),
    "x g + ((-m) g + beta)": lambda m, mean, g, beta: m.op(
        "ADD", m.op("ADD", m.op("MUL", m.op("NEG", mean), g), beta), m.op("MUL", g, m.x)
    ),
}


@pytest.mark.parametrize("form", NORMS)
def test_layer_norms_are_seen_in_every_form(form: str) -> None:
    made = Made((1, 4, 6))
    y = NORMS[form](made, *norm_parts(made))
    assert [type(layer) for layer in made.net(y).layers] == [FloatLayerNorm]
    apart = X - X.mean(axis=-1, keepdims=True)
    want = ROW * apart / np.sqrt((apart**2).mean(axis=-1, keepdims=True) + 0.25) - (0 if form == "x g - m g" else ROW)
    np.testing.assert_allclose(computed(made, y), want.reshape(5, -1), rtol=1e-4, atol=1e-4)


FALSE_NORMS = {
    "another mean": lambda m, mean, other, g, beta: m.op(
        "ADD", m.op("MUL", m.x, g), m.op("SUB", beta, m.op("MUL", other, g))
    ),
    "another x": lambda m, mean, other, g, beta: m.op(
        "ADD", m.op("MUL", m.op("NEG", m.x), g), m.op("SUB", beta, m.op("MUL", mean, g))
    ),
    "another centre": lambda m, mean, other, g, beta: m.op("ADD", m.op("MUL", m.op("SUB", m.x, other), g), beta),
    "another factor": lambda m, mean, other, g, beta: m.op(
        "ADD", m.op("MUL", m.x, g), m.op("ADD", m.op("MUL", m.op("NEG", mean), m.op("ABS", g)), beta)
    ),
}


@pytest.mark.parametrize("what", FALSE_NORMS)
def test_what_only_looks_like_a_layer_norm_is_none(what: str) -> None:
    made = Made((1, 4, 6))
    mean, g, beta = norm_parts(made)
    other = made.op("MEAN", made.op("ABS", made.x), made.constant([2]), keep_dims=True)
    y = FALSE_NORMS[what](made, mean, other, g, beta)
    assert FloatLayerNorm not in {type(layer) for layer in made.net(y).layers}


def test_an_answer_that_something_else_reads_stays_as_it_is() -> None:
    made = Made((1, 4, 6))
    product = made.op("FULLY_CONNECTED", made.x, made.constant(WEIGHT.T, "float32"), -1)
    model = made.model(product, made.op("RELU", product))
    got = [answers(net_of("made", model, k), X[:, 0]) for k in (0, 1)]
    assert got[0].min() < 0
    np.testing.assert_array_equal(np.maximum(got[0], 0), got[1])


def test_a_clip_that_bites_keeps_its_constant_an_operand() -> None:
    """A sum of two maps is exact; a bias would be rounded to a part of the input's step."""
    for activation, kind in (("RELU", "FloatAdd"), ("NONE", "FloatUnary")):
        made = Made((1, 8), "int8", (0.5, 0))
        seven = made.constant(np.int8(7), "int8", (0.1, 0))
        net = made.net(made.op("ADD", made.x, seven, out=("int8", (0.5, 0)), fused_activation_function=activation))
        assert type(net.layers[-1]).__name__ == kind


def test_a_float_island_of_a_mean_is_one_layer() -> None:
    made = Made((1, 4, 6), "int8", (0.5, 0))
    mean = made.op("MEAN", made.op("DEQUANTIZE", made.x), made.constant([1]))
    (layer,) = made.net(made.op("QUANTIZE", mean, out=("int8", (0.125, 4)))).layers
    assert layer.output == Affine(0.125, 4)


def test_a_cell_finer_than_ours_keeps_its_reach() -> None:
    layer = net_of("lstm_stack_int8", golden("lstm_stack_int8")).layers[1]
    assert isinstance(layer, FloatLstm)
    assert layer.state_scales is not None
    assert layer.state_scales[1] == 2.0**-15
    assert layer.cell_clip == 32767 * 2.0**-16


def blocked(made: Made, stride: int, *crops: int) -> list[int]:
    """A convolution of 2 inside blocks of 2, and what joins them again, cropped at the end."""
    cut = made.op(
        "SPACE_TO_BATCH_ND",
        made.op("RESHAPE", made.x, made.constant([1, 4, 6, 1])),
        made.constant([2, 2]),
        made.constant([0, 0, 0, 2]),
    )
    taps = made.constant(np.ones((1, 1, 2, 1)), "float32")
    inner = made.op("CONV_2D", cut, taps, padding="VALID", stride_h=1, stride_w=stride)
    return [made.op("BATCH_TO_SPACE_ND", inner, made.constant([2, 2]), made.constant([0, 0, 0, n])) for n in crops]


def test_blocks_are_read_only_as_a_plain_dilated_convolution() -> None:
    made = Made((1, 4, 6))
    x = np.pad(X[:, 0], ((0, 0), (0, 0), (0, 2)))
    want = (x[:, :, :-2] + x[:, :, 2:])[:, :, :5]
    np.testing.assert_allclose(computed(made, *blocked(made, 1, 1)), want.reshape(5, -1), rtol=1e-5, atol=1e-5)
    for stride, crops, why in (
        (2, (0,), "no plain convolution"),
        (1, (3,), "padded by less"),
        (1, (1, 0), "crops by"),
    ):
        made = Made((1, 4, 6))
        with pytest.raises(ModelError, match=why):
            made.net(blocked(made, stride, *crops)[0])


@pytest.mark.parametrize("what", FUNCTIONS)
def test_operators_compute_what_their_schema_says(what: str) -> None:
    build, function = FUNCTIONS[what]
    made = Made((1, 4, 6))
    np.testing.assert_allclose(computed(made, build(made)), function(X).reshape(5, -1), rtol=1e-5, atol=1e-5)


def test_float_ends_become_the_maps_of_the_integers_between_them() -> None:
    """QUANTIZE at the input, DEQUANTIZE at the output, and a float island that ends in QUANTIZE."""
    inside = ("int8", (0.03125, 3))
    made = Made((1, 8))
    q = made.op("QUANTIZE", made.x, out=inside)
    turned = made.op("QUANTIZE", made.op("NEG", made.op("DEQUANTIZE", q)), out=("int8", (0.0625, -2)))
    net = made.net(made.op("DEQUANTIZE", turned))
    assert net.input == Affine(0.03125, 3)
    (layer,) = net.layers
    assert isinstance(layer, FloatUnary)
    assert (layer.function, layer.output) == ("neg", Affine(0.0625, -2))


def test_another_scale_is_a_table_that_rounds_halves_up() -> None:
    made = Made((1, 8), "int8", (0.5, 0))
    model = made.model(made.op("QUANTIZE", made.x, out=("int8", (1.0, 0))))
    stored = np.array([[-5, -3, -2, -1, 1, 2, 3, 5]], np.int8)
    _, got = quantised(model, 0, stored)
    assert got.tolist() == [[-2, -1, -1, 0, 1, 1, 2, 3]]


def test_slopes_of_integers_are_right_to_half_a_step() -> None:
    slopes, x, y = np.array([2, -128, 127, 40], np.int8), (0.5, 3), (0.25, -8)
    made = Made((1, 4), "int8", x)
    out = made.op("PRELU", made.x, made.constant(slopes, "int8", (1 / 128, -2)), out=("int8", y))
    stored = np.random.default_rng(5).integers(-128, 128, (300, 4)).astype(np.int8)
    _, got = quantised(made.model(out), 0, stored)
    value = (stored.astype(np.float64) - x[1]) * x[0]
    value = np.where(value < 0, value * (slopes + 2.0) / 128, value)
    np.testing.assert_array_less(np.abs(got - np.clip(value / y[0] + y[1], -128, 127)), 0.501)


def test_a_squared_difference_of_integers_decides_the_scale_between_its_steps() -> None:
    made = Made((1, 6), "int8", (0.02, 3))
    row = made.constant(np.arange(6), "int8", (0.1, 2))
    out = made.op("SQUARED_DIFFERENCE", made.x, row, out=("int8", (0.03, -128)))
    stored = np.random.default_rng(6).integers(-128, 128, (200, 6)).astype(np.int8)
    twin, got = quantised(made.model(out), 0, stored)
    assert is_fixed(twin.net)
    apart = (stored.astype(np.float64) - 3) * 0.02 - (np.arange(6) - 2) * 0.1
    want = np.clip(apart**2 / 0.03 - 128, -128, 127)
    assert np.abs(got - want).max() < 2.5


def lstm(made: Made, **more: int) -> int:
    """An LSTM of 2 units over 4 steps of 6 values; `more` places further inputs."""
    state = made.constant(np.zeros((1, 2)), "float32")
    inputs = [made.x] + [made.constant(np.ones((2, 6)), "float32") for _ in range(4)]
    inputs += [made.constant(np.ones((2, 2)), "float32") for _ in range(4)] + [-1] * 3
    inputs += [made.constant(np.zeros(2), "float32") for _ in range(4)] + [-1, -1, state, state]
    for place, tensor in more.items():
        inputs[int(place[1:])] = tensor
    return made.op("UNIDIRECTIONAL_SEQUENCE_LSTM", *inputs, fused_activation_function="TANH", cell_clip=0.5)


def test_an_lstm_computes_what_its_gates_say_and_no_more() -> None:
    made = Made((1, 4, 6))
    got, h, c = computed(made, lstm(made)).reshape(5, 4, 2), np.zeros((5, 2)), np.zeros((5, 2))
    for t in range(4):
        total = X[:, 0, t].sum(axis=1, keepdims=True) + h.sum(axis=1, keepdims=True)
        gate = 1 / (1 + np.exp(-total))
        c = np.clip(gate * c + gate * np.tanh(total), -0.5, 0.5)
        h = gate * np.tanh(c)
        np.testing.assert_allclose(got[:, t], h, rtol=1e-4, atol=1e-5)
    for place, why in (("k9", "peepholes"), ("k16", "a projection"), ("k1", "lacks input 1"), ("k19", "its cell")):
        made = Made((1, 4, 6))
        extra = -1 if place in ("k1", "k19") else made.constant(np.zeros(2), "float32")
        with pytest.raises(ModelError, match=f"UNIDIRECTIONAL_SEQUENCE_LSTM .*{why}"):
            made.net(lstm(made, **{place: extra}))


def test_an_lstm_may_be_told_that_its_state_begins_at_zero() -> None:
    """As float16 files tell it: the zeros are dequantised into the state."""
    for begin, fits in ((0.0, True), (0.5, False)):
        made = Made((1, 4, 6))
        state = made.op("DEQUANTIZE", made.constant(np.full((1, 2), begin), "float16"))
        out = lstm(made, k18=state)
        if fits:
            np.testing.assert_array_equal(computed(made, out), computed(plain := Made((1, 4, 6)), lstm(plain)))
            continue
        with pytest.raises(ModelError, match="begins with a state that is not zero"):
            made.net(out)


def three_maps(exponent: int) -> FloatNet:
    """An LSTM whose hidden vectors are written by one map, read back by another, and read by a third behind it."""
    made, zero = Made((1, 4, 6), "int8", (0.05, 0)), np.zeros(2)
    narrow = [made.constant(np.full((2, n), 40), "int8", (0.01, 0)) for n in (6, 2) for _ in range(4)]
    bias = [made.constant(zero, "int32", (0.05 * 0.01, 0)) for _ in range(4)]
    states = made.tensor((1, 2), "int8", (1 / 128, 0)), made.tensor((1, 2), "int16", (2.0**-exponent, 0))
    inputs = (made.x, *narrow, *[-1] * 3, *bias, -1, -1, *states)
    found = made.op("UNIDIRECTIONAL_SEQUENCE_LSTM", *inputs, out=("int8", (0.02, 5)), fused_activation_function="TANH")
    sums = (*[made.tensor((), "int16") for _ in range(4)], made.tensor((), "int8", (0.007, -9)))
    made.operators[-1] = replace(made.operators[-1], intermediates=sums)
    return made.net(found)


def test_an_lstm_writes_and_reads_by_the_maps_that_litert_writes_and_reads_by() -> None:
    """As each direction of a bidirectional one may: what is written by 0.007 is read by 1/128 and by 0.02."""
    (layer,) = three_maps(11).layers
    assert isinstance(layer, FloatLstm)
    assert (layer.written, layer.output) == (Affine(0.007, -9), Affine(0.02, 5))
    assert layer.readings()[0] == pytest.approx((1 / 128 / 0.007, -9 / 128))
    assert layer.readings()[1] == pytest.approx((0.02 / 0.007, -14 * 0.02))
    (found,) = layer.quantise((Affine(0.05, 0),), Range(-1.0, 1.0))
    assert isinstance(found.layer, LstmQ12)
    assert found.layer.hidden_map.zero_point == -9
    assert found.layer.hidden_map.multiplier * 2.0**-found.layer.hidden_map.shift == pytest.approx(2.0**-30 / 0.007)
    multiplier, shift = (found.tensors[f"{layer.name}.recurrent_{part}"][0] for part in ("multiplier", "shift"))
    assert int(multiplier) * 2.0 ** -int(shift) == pytest.approx(0.01 / 128 * 4096)
    assert found.output == Affine(0.02, 5)


@pytest.mark.parametrize("exponent", [8, 16])
def test_an_lstm_whose_cell_litert_has_no_tanh_for_gives_its_output_by_a_table(exponent: int) -> None:
    net = three_maps(exponent)
    assert [type(layer) for layer in net.layers] == [FloatLstm, FloatUnary]
    x = (np.random.default_rng(5).integers(-60, 60, (40, 4, 6)) * 0.05).astype(np.float32)
    samples = Samples(x, np.zeros(40, np.int64), ())
    twin = quantise_net(net, samples)
    got = measure.scores(measure.bare_manifest(twin, net.outputs), twin.tensors, twin.inputs(samples))
    np.testing.assert_allclose((got - 5) * 0.02, answers(net, x), rtol=0, atol=0.025)
    assert twin.parts[-1].output == Affine(0.02, 5)


def test_what_an_unrolled_loop_computes_of_its_zeros_is_a_constant() -> None:
    """With an open batch a converter leaves W 0 + b in the file, cut into gates, behind a shape that it fills."""
    weight, bias = np.ones((6, 3), np.float32), np.arange(6, dtype=np.float32) - 1
    for code in ("SPLIT", "SPLIT_V"):
        made = Made((1, 4, 6))
        zeros = made.op("FILL", made.constant([1, 3]), made.constant(0.0, "float32"))
        state = made.op(
            "FULLY_CONNECTED",
            made.op("ADD", zeros, made.constant(0.5, "float32")),
            made.constant(weight, "float32"),
            made.constant(bias, "float32"),
            fused_activation_function="RELU6",
        )
        inputs = (made.constant(1), state) if code == "SPLIT" else (state, made.constant([3, -1]), made.constant(1))
        first = made.op(code, *inputs, count=2)
        total = made.op("FULLY_CONNECTED", first + 1, made.constant(np.ones((1, 3)), "float32"), -1)
        want = X.reshape(5, -1) + np.clip(1.5 + bias, 0, 6)[3:].sum()
        np.testing.assert_allclose(computed(made, made.op("ADD", made.x, total)), want, rtol=1e-5, atol=1e-6)


def test_a_quantised_constant_state_is_rounded_as_its_output_says() -> None:
    made = Made((1, 2), "int8", (0.5, 0))
    given = made.constant([[10, -4]], "int8", (0.1, 0)), made.constant([[100, 50], [10, 0]], "int8", (0.01, 0))
    bias = made.constant([500, -100], "int32", (0.001, 0))
    state = made.op("FULLY_CONNECTED", *given, bias, out=("int8", (0.2, 1)))  # 1.3 and 0 in real numbers
    net = made.net(made.op("ADD", made.x, state, out=("int8", (0.1, 0))))
    np.testing.assert_allclose(answers(net, np.zeros((1, 2), np.float32)), [[1.2, 0.0]], atol=1e-6)


def test_a_choice_of_a_class_at_the_end_is_left_out() -> None:
    """Also where it is cast and turned on the way; one choice for each of many places is none of a class."""
    for before in ("TANH", "SOFTMAX"):
        made = Made((1, 4, 6))
        flat = made.op("TANH", made.op("RESHAPE", made.x, made.constant([1, 24])))
        scores = made.op(before, flat, beta=1.0)
        chosen = made.op("ARG_MAX", scores, made.constant(-1), out=("int64", None))
        end = made.op("RESHAPE", made.op("CAST", chosen, out=("int32", None)), made.constant([1]), out=("int32", None))
        net = made.net(end)
        assert net.notes[0] == f"the answer is '{made.tensors[scores].name}'; left out: 'y0'"
        assert net.outputs == 24
        both = net_of("made", made.model(scores, end))
        assert both.notes[0] == "the answer is 'y0'; left out: 'y1'"
    made = Made((1, 4, 6))
    with pytest.raises(ModelError, match=r"ARG_MAX .*has no counterpart"):
        made.net(made.op("ARG_MAX", made.x, made.constant(-1), out=("int64", None)))


def test_integers_that_move_keep_their_scale() -> None:
    made = Made((1, 8), "int8", (0.5, 0))
    with pytest.raises(ModelError, match="operator 0 RESHAPE -> 'model/layer2/op': moves integers to another scale"):
        made.net(made.op("RESHAPE", made.x, made.constant([1, 8]), out=("int8", (1.0, 0))))


# ------------------------------------------------------------------ refusals


def test_every_operator_without_a_counterpart_is_listed_once() -> None:
    with pytest.raises(ModelError) as raised:
        load_tflite(GOLDEN / "unsupported_float.tflite")
    message = str(raised.value)
    assert message.startswith("unsupported_float.tflite: 4 operators are not supported: operator 0 TOPK_V2 -> ")
    assert "MatrixDeterminant" in message
    assert "a custom operator" in message
    assert "RFFT2D" in message
    assert "COMPLEX_ABS" in message  # though it reads what is refused already
    assert message.endswith("replace them in the model, or cut it before them")
    assert "\n" not in message


def test_both_products_of_an_attention_are_named() -> None:
    made = Made((1, 4, 4))
    scores = made.op("BATCH_MATMUL", made.x, made.x, adj_x=False, adj_y=True)
    mixed = made.op("BATCH_MATMUL", made.op("SOFTMAX", scores, beta=1.0), made.x, adj_x=False, adj_y=False)
    with pytest.raises(ModelError, match=r"2 operators are not .*0 BATCH_MATMUL .* 2 BATCH_MATMUL .*attention"):
        made.net(mixed)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("mlp_int16x8", r"input .* has values of type int16; convert with int8 activations"),
        ("two_inputs_int8", r"has 2 inputs \(x0, x1\), must have one; a state that goes round"),
        ("lstm_while_float", r"WHILE .* calls other subgraphs; convert with loops unrolled"),
    ],
)
def test_files_that_no_bundle_can_hold_say_what_to_do(name: str, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        load_tflite(GOLDEN / f"{name}.tflite")


def test_a_step_model_says_what_to_do() -> None:
    with pytest.raises(ModelError, match="has 2 inputs"):
        load_tflite(BENCH / "tflite" / "imu_gru_step_int8.tflite")


def test_an_unrolled_loop_is_long_but_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unrolled = tmp_path / "imu_gru.tflite"
    unrolled.write_bytes(gzip.decompress((BENCH / "tflite" / "imu_gru_int8.tflite.gz").read_bytes()))
    assert 2000 < len(load_tflite(unrolled).layers) < MAX_LAYERS
    monkeypatch.setattr("exporters.tflite_import.MAX_LAYERS", 2000)
    with pytest.raises(ModelError, match=r"imu_gru.tflite: \d{4} layers, a bundle takes 2000; if loops"):
        load_tflite(unrolled)


@pytest.mark.parametrize("zero_point", [0, 100, 127, 128, 129, 255])
def test_weights_keep_any_zero_point(zero_point: int) -> None:
    made = Made((1, 2), "uint8", (0.5, 128))
    weight = made.constant([[0, 255], [255, 1]], "uint8", (0.1, zero_point))
    net = made.net(made.op("FULLY_CONNECTED", made.x, weight, -1, out=("uint8", (0.5, 128))))
    (part,) = quantise_net(net, Samples(np.zeros((2, 2)), np.zeros(2, np.int64), ())).parts
    found = part.tensors[f"{net.layers[0].name}.weight"].astype(np.int64)
    zero = part.tensors.get(f"{net.layers[0].name}.weight_zero", np.zeros(2))
    assert (found - zero[:, None]).tolist() == [[-zero_point, 255 - zero_point], [255 - zero_point, 1 - zero_point]]


BROKEN = {
    "stride_h 0": lambda m: m.op(
        "MAX_POOL_2D", m.op("RESHAPE", m.x, m.constant([1, 2, 2, 6])), stride_w=1, filter_width=1, filter_height=1
    ),
    "dimensions": lambda m: m.op("TRANSPOSE", m.x, m.constant([0, 0, 1])),
    "makes": lambda m: m.op("RESHAPE", m.x, m.constant([5, -1])),
    "outputs of": lambda m: m.op("UNPACK", m.x, count=3, axis=1),
    "divides by 0": lambda m: m.op("DIV", m.x, m.constant([0.0], "float32")),
    "joins values of shapes": lambda m: m.op("CONCATENATION", m.x, m.op("RESHAPE", m.x, m.constant([24])), axis=0),
    "of something else than a value and a number": lambda m: m.op("MAXIMUM", m.x, m.x),
    "lacks input 1": lambda m: m.op("FULLY_CONNECTED", m.x),
    "a value as input 1, where a constant": lambda m: m.op("FULLY_CONNECTED", m.x, m.x),
    "with a fused SIGN_BIT": lambda m: m.op("ADD", m.x, m.x, fused_activation_function="SIGN_BIT"),
    "gives .* values, the limit is": lambda m: m.op("PAD", m.x, m.constant([[0, 0], [0, 1 << 23], [0, 0]])),
    "too many for this file": lambda m: m.op(
        "SUM", m.op("PAD", m.x, m.constant([[0, 0], [0, 1 << 16], [0, 0]])), m.constant([1])
    ),
    "inside a space-to-batch block": lambda m: m.op(
        "RELU", m.op("SPACE_TO_BATCH_ND", m.x, m.constant([2]), m.constant([[0, 0]]))
    ),
    "gathers positions": lambda m: m.op("GATHER", m.x, m.constant([0, 4]), axis=1),
    "mirrors": lambda m: m.op("MIRROR_PAD", m.x, m.constant([0, 0, 4, 0, 0, 0]), mode="REFLECT"),
    "repeats a value of shape": lambda m: m.op("TILE", m.x, m.constant([1, 2])),
    "blocks of 3": lambda m: m.op("SPACE_TO_DEPTH", m.op("RESHAPE", m.x, m.constant([1, 4, 6, 1])), block_size=3),
    "is no list of whole numbers": lambda m: m.op("RESHAPE", m.x, m.constant([4.0, 6.0], "float32")),
    "stride 0 along axis 1": lambda m: m.op(
        "STRIDED_SLICE", m.x, m.constant([0, 0]), m.constant([1, 4]), m.constant([1, 0])
    ),
    "has no counterpart": lambda m: m.op("CUMSUM", m.x, m.constant(1)),
    "on values of shapes": lambda m: m.op("ADD", m.x, m.constant(np.ones(5), "float32")),
    "of type int64": lambda m: m.op("MUL", m.x, m.x, out=("int64", None)),
}


@pytest.mark.parametrize("why", BROKEN)
def test_operators_that_make_no_sense_are_refused(why: str) -> None:
    made = Made((1, 4, 6))
    with pytest.raises(ModelError, match=why):
        made.net(BROKEN[why](made))


@pytest.mark.parametrize("shape", [(), (2, 3), (0,), (1, 0), (1, 1 << 25)])
def test_inputs_that_are_not_one_sample_are_refused(shape: tuple[int, ...]) -> None:
    made = Made(shape)
    with pytest.raises(ModelError, match=r"made: input 'x' has"):
        made.net(made.op("RELU", made.x))


def test_outputs_that_nothing_computes_are_refused() -> None:
    made = Made((1, 3))
    with pytest.raises(ModelError, match="output 'y0' is the input, not computed"):
        made.net(made.x)
    with pytest.raises(ModelError, match="output 'y0' is a constant, not computed"):
        made.net(made.constant([1.0], "float32"))


VICTIMS = ("conv_int8", "conv1d_causal_float", "lstm_int8", "fake_quant_uint8", "slices_int8", "layer_norm_float")
BLOBS = {name: (GOLDEN / f"{name}.tflite").read_bytes() for name in VICTIMS}


@pytest.mark.parametrize("name", VICTIMS)
@given(
    places=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=6),
    values=st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, 0x7F, 0x80, 0xFF]), min_size=6, max_size=6),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_raise_model_errors_only(
    tmp_path: Path, name: str, places: list[float], values: list[int]
) -> None:
    blob = bytearray(BLOBS[name])
    for place, value in zip(places, values, strict=False):
        blob[int(place * len(blob))] = value
    path = tmp_path / "hostile.tflite"
    path.write_bytes(blob)
    begun = time.monotonic()
    with contextlib.suppress(ModelError):
        assert load_tflite(path).layers
    assert time.monotonic() - begun < 5


# ------------------------------------------------------------------ LiteRT beside it

litert = pytest.mark.skipif(not has_litert(), reason="pip install 'edgerun[litert]'")


@litert
@pytest.mark.parametrize("name", ["mlp_float", "mlp_int8", "fake_quant_uint8", "lstm_int8", "mlp_wide_float16"])
def test_litert_scores_are_real_numbers_by_its_own_scales(name: str) -> None:
    model, arrays = golden(name), known(name)
    x = real(model.tensors[model.inputs[0]], arrays["input_0"])
    got = litert_scores(GOLDEN / f"{name}.tflite", x)
    want = real(model.tensors[model.outputs[0]], arrays["builtin_0"])
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@litert
def test_a_file_that_litert_refuses_is_a_model_error() -> None:
    with pytest.raises(ModelError, match=r"unsupported_float.tflite: LiteRT cannot run it"):
        litert_scores(GOLDEN / "unsupported_float.tflite", np.zeros((1, 32), np.float32))


@litert
@pytest.mark.parametrize(("name", "why"), [("mlp_float", "LiteRT disagree on"), ("mlp_int8", "off LiteRT's values")])
def test_an_import_that_disagrees_with_litert_is_caught(name: str, why: str) -> None:
    model, arrays, path = golden(name), known(name), GOLDEN / f"{name}.tflite"
    x = real(model.tensors[model.inputs[0]], arrays["input_0"]).astype(np.float32)
    samples, right = Samples(x, np.zeros(len(x), np.int64), ()), net_of(name, model)
    first, last = right.layers
    for net in (right, replace(right, layers=(first, replace(last, weight=-last.weight)))):
        twin, ours = quantise_net(net, samples), answers(net, x)
        if net is right:
            theirs = measure.peer_scores(path, twin, samples, ours, values=False)
            np.testing.assert_array_equal(theirs, litert_scores(path, x))
        else:
            with pytest.raises(ModelError, match=why):
                measure.peer_scores(path, twin, samples, ours, values=False)


@litert
@pytest.mark.parametrize("name", ["mnist_mlp", "fashion_cnn", "kws_dscnn", "mobilenet_v1", "autoencoder"])
def test_models_of_real_size_give_the_integers_of_litert(name: str) -> None:
    """On noise, which reaches every value that the input can have."""
    from ai_edge_litert.interpreter import Interpreter

    path = BENCH / "tflite" / f"{name}_int8.tflite"
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    entry, answer = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    stored = np.random.default_rng(7).integers(-128, 128, (8, *entry["shape"])).astype(np.int8)
    want = []
    for row in stored:
        interpreter.set_tensor(entry["index"], row)
        interpreter.invoke()
        want.append(interpreter.get_tensor(answer["index"]).reshape(-1))
    _, got = quantised(read_tflite(path), 0, stored)
    np.testing.assert_array_equal(got, np.stack(want))


def test_a_bundle_answers_with_the_integers_of_the_file(tmp_path: Path) -> None:
    model, rng = golden("mlp_int8"), np.random.default_rng(0)
    stored = rng.integers(-128, 128, (200, 12))
    x = real(model.tensors[model.inputs[0]], stored).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(200) % 5)
    made = export(GOLDEN / "mlp_int8.tflite", tmp_path / "data.npz", Options())
    bundle = read_bundle(made.data)
    _, want = quantised(model, 0, stored.astype(np.int8))
    got = measure.scores(bundle.manifest, bundle.tensors, stored.astype(np.int16))
    np.testing.assert_array_equal(got, want)
    assert load_model(GOLDEN / "mlp_int8.tflite", Options()).input is not None


# ------------------------------------------------------------------ real models


def bench_data() -> ModuleType:
    if "EDGERUN_DATA" not in os.environ:
        pytest.skip("EDGERUN_DATA is not set, must name the folder of the recordings")
    return load(BENCH / "data.py", "bench_data")


@pytest.mark.parametrize("kind", ["int8", "float", "float16"])
@pytest.mark.parametrize(
    "name", ["mnist_mlp", "fashion_cnn", "kws_dscnn", "speech_conv1d", "imu_lstm", "imu_gru", "resnet8", "mobilenet_v1"]
)
def test_accuracy_is_that_of_litert(tmp_path: Path, name: str, kind: str) -> None:
    """Within 0.1 point on the benchmark's test split; floats within one sample in a thousand."""
    facts = json.loads((BENCH / "tflite" / f"{name}.json").read_text())
    path = BENCH / "tflite" / f"{name}_{kind}.tflite"
    if kind not in facts:
        pytest.skip(f"{name} has no {kind} file")
    if not path.exists():
        packed, path = path.with_suffix(".tflite.gz"), tmp_path / path.name
        path.write_bytes(gzip.decompress(packed.read_bytes()))
    part = bench_data().load(name).test
    x = np.moveaxis(part.x, 1, -1) if part.x.ndim > 2 and "imu" not in name else part.x
    samples = Samples(np.ascontiguousarray(x, np.float32), part.y, ())
    net = net_of(name, read_tflite(path))
    if kind == "int8":
        twin = quantise_net(net, samples.take(np.arange(8)))
        got = measure.scores(measure.bare_manifest(twin, net.outputs), twin.tensors, twin.inputs(samples))
    else:
        got = np.concatenate([answers(net, samples.x[k : k + 64]) for k in range(0, len(samples), 64)])
    assert float((got.argmax(axis=1) == samples.y).mean()) == pytest.approx(facts[kind], abs=0.00101)
