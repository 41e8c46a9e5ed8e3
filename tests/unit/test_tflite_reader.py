"""The .tflite reader: what converters wrote comes out as LiteRT understands it; hostile bytes end in ModelError."""

from __future__ import annotations

import gzip
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgerun.errors import ModelError

tflite = pytest.importorskip("tflite", reason="pip install 'edgerun[export]'")
import flatbuffers  # noqa: E402

from exporters.tflite_reader import (  # noqa: E402
    MAX_ITEMS,
    OPTIONS,
    TABLES,
    TfliteModel,
    TfliteOp,
    TfliteTensor,
    fields_of,
    read_tflite,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "tflite"
BENCH = Path(__file__).parents[2] / "benchmarks" / "export" / "tflite"
LOOPS = {"lstm_while_float", "gru_while_float"}
NAMES = sorted(path.stem for path in GOLDEN.glob("*.tflite") if path.stem not in LOOPS)


def golden(name: str) -> TfliteModel:
    return read_tflite(GOLDEN / f"{name}.tflite")


def only(model: TfliteModel, code: str) -> TfliteOp:
    return next(op for op in model.operators if op.code == code)


# ------------------------------------------------------------------ real files


@pytest.mark.parametrize("name", NAMES)
def test_inputs_and_outputs_are_those_of_litert(name: str) -> None:
    model = golden(name)
    assert model.name == name
    if name == "unsupported_float":  # which LiteRT cannot run
        return
    with np.load(GOLDEN / f"{name}.npz") as known:
        for side, places in (("input", model.inputs), ("reference", model.outputs)):
            for k, index in enumerate(places):
                tensor, array = model.tensors[index], known[f"{side}_{k}"]
                assert np.dtype(tensor.dtype) == array.dtype
                assert tensor.shape[-1] == array.shape[-1]
                assert np.prod(tensor.shape) == array[0].size


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_whole(name: str) -> None:
    """Constants have their tensor's shape and cannot be written; every tensor knows its place."""
    model = golden(name)
    assert [tensor.index for tensor in model.tensors] == list(range(len(model.tensors)))
    assert [op.index for op in model.operators] == list(range(len(model.operators)))
    for tensor in model.tensors:
        assert len(tensor.shape_signature) == len(tensor.shape)
        if tensor.data is not None:
            assert tensor.data.shape == tensor.shape
            assert not tensor.data.flags.writeable
        if tensor.scale is not None and tensor.zero_point is not None:
            assert tensor.scale.shape == tensor.zero_point.shape
            assert tensor.scale.dtype == np.float64
            assert tensor.zero_point.dtype == np.int64


@pytest.mark.parametrize("name", sorted(path.name for path in BENCH.glob("*.tflite*")))
def test_models_of_real_size_are_read(tmp_path: Path, name: str) -> None:
    blob = (BENCH / name).read_bytes()
    model = read(tmp_path, gzip.decompress(blob) if name.endswith(".gz") else blob)
    assert {model.tensors[k].dtype for k in model.inputs} == {"int8" if "int8" in name else "float32"}
    assert len(model.operators) > (2000 if name.startswith("imu_gru_int8") else 1)


def real(tensor: TfliteTensor | None) -> Any:
    """A constant as real numbers, by its scale and zero point."""
    assert tensor is not None
    assert tensor.data is not None
    if tensor.scale is None or tensor.zero_point is None:
        return tensor.data.astype(np.float64)
    shape = [-1 if axis == tensor.axis else 1 for axis in range(len(tensor.shape))]
    return (tensor.data - tensor.zero_point.reshape(shape)) * tensor.scale.reshape(shape)


def dense_layers(model: TfliteModel, x: Any) -> Any:
    """The net in float64 from what the reader gives, each layer rounded to the scale of its output, if it has one."""
    halves = {op.outputs[0]: model.tensors[op.inputs[0]] for op in model.operators if op.code == "DEQUANTIZE"}
    x = real_of(model.tensors[model.inputs[0]], x)
    for op in model.operators:
        if op.code == "FULLY_CONNECTED":
            _, weight, bias = (halves.get(tensor.index, tensor) for tensor in model.reads(op) if tensor is not None)
            x = x @ real(weight).T + real(bias)
            if op.options["fused_activation_function"] == "RELU":
                x = np.maximum(x, 0)
            stored = stored_of(model.writes(op)[0], x)
            x = real_of(model.writes(op)[0], stored)
    return stored


def real_of(tensor: TfliteTensor, q: Any) -> Any:
    return q if tensor.scale is None else (q - tensor.zero_point) * tensor.scale


def stored_of(tensor: TfliteTensor, x: Any) -> Any:
    if tensor.scale is None:
        return x
    info = np.iinfo(tensor.dtype)
    return np.clip(np.round(x / tensor.scale) + tensor.zero_point, info.min, info.max)


@pytest.mark.parametrize(
    ("name", "apart"),
    [("mlp_float", 1e-5), ("mlp_wide_float16", 1e-5), ("mlp_int8", 1), ("mlp_pertensor", 1), ("mlp_int16x8", 1)],
)
def test_weights_scales_and_activations_give_what_litert_computes(name: str, apart: float) -> None:
    with np.load(GOLDEN / f"{name}.npz") as known:
        x, y = known["input_0"].astype(np.float64), known["reference_0"][:, 0].astype(np.float64)
    np.testing.assert_allclose(dense_layers(golden(name), x), y, rtol=0, atol=apart)


def test_scales_lie_along_the_output_channels() -> None:
    model = golden("depthwise_int8")
    weight = model.reads(only(model, "DEPTHWISE_CONV_2D"))[1]
    assert weight is not None
    assert weight.scale is not None
    assert (weight.shape, weight.axis, len(weight.scale)) == ((1, 3, 3, 6), 3, 6)
    single = golden("depthwise_pertensor")
    weight = single.reads(only(single, "DEPTHWISE_CONV_2D"))[1]
    assert weight is not None
    assert weight.scale is not None
    assert weight.scale.shape == (1,)


def test_an_open_batch_shows_in_the_signature() -> None:
    model = golden("conv_int8")
    tensor = model.tensors[model.inputs[0]]
    assert (tensor.shape, tensor.shape_signature) == ((1, 9, 7, 3), (-1, 9, 7, 3))


def test_an_lstm_keeps_its_places_state_and_intermediates() -> None:
    model = golden("lstm_int8")
    op = only(model, "UNIDIRECTIONAL_SEQUENCE_LSTM")
    tensors = model.reads(op)
    assert len(tensors) == 24
    assert [k for k, tensor in enumerate(tensors) if tensor is None] == [9, 10, 11, 16, 17, 20, 21, 22, 23]
    state, cell = tensors[18], tensors[19]
    assert state is not None
    assert cell is not None
    assert state.is_variable
    assert state.data is None
    assert (state.dtype, cell.dtype) == ("int8", "int16")
    assert cell.scale is not None
    assert float(cell.scale[0]) == 2.0**-14
    assert len(op.intermediates) == 5
    assert op.options["cell_clip"] == 10.0
    assert op.options["time_major"] is False


def test_options_are_words_numbers_and_tuples() -> None:
    conv = golden("conv_int8").operators[0].options
    assert (conv["padding"], conv["stride_h"], conv["stride_w"]) == ("SAME", 2, 2)
    assert conv["fused_activation_function"] == "RELU"
    assert golden("leaky_relu_float").operators[0].options["alpha"] == pytest.approx(0.2)
    assert only(golden("slices_float"), "STRIDED_SLICE").options["begin_mask"] == 5
    assert only(golden("global_pools_int8"), "MEAN").options["keep_dims"] is False
    assert golden("softmax_int8").operators[0].options["beta"] == 1.0


def test_names_are_those_of_the_signature() -> None:
    """The file's own order of outputs is another one, which the names tell."""
    model = golden("dense_relu_split_float")
    assert model.output_names == ("output_1", "output_0")
    assert golden("two_inputs_int8").input_names == ("x0", "x1")
    assert golden("fake_quant_uint8").input_names == ("x",)  # without a signature


def test_operators_that_nobody_can_run_come_out_by_name() -> None:
    model = golden("unsupported_float")
    assert {"TOPK_V2", "RFFT2D", "MatrixDeterminant"} <= {op.code for op in model.operators}
    custom = only(model, "MatrixDeterminant")
    assert custom.custom
    assert model.label(custom) == "operator 2 MatrixDeterminant -> 'Identity_2'"


@pytest.mark.parametrize("name", sorted(LOOPS))
def test_loops_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match=rf"^{name}\.tflite: WHILE \(operator 1\) calls other subgraphs"):
        golden(name)


def test_every_table_of_options_can_be_read() -> None:
    """The schema package has them all, and the names that our rows expect are real."""
    for name in TABLES.values():
        assert name == "NONE" or all(key.islower() for key, _ in fields_of(name))
    assert set(OPTIONS.values()) <= set(TABLES.values())
    assert set(OPTIONS) <= set(vars(tflite.BuiltinOperator))


# ------------------------------------------------------------------ files made wrong on purpose


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """What a hostile or odd file says of one tensor."""

    shape: tuple[int, ...] = (2,)
    signature: tuple[int, ...] = ()
    dtype: int = tflite.TensorType.INT8
    buffer: int = 0
    scales: tuple[float, ...] = ()
    zeros: tuple[int, ...] = ()
    axis: int = 0
    details: int = 0
    sparse: bool = False
    variable: bool = False
    name: str = "t"


@dataclass(frozen=True, kw_only=True)
class Op:
    inputs: tuple[int, ...] = (0,)
    outputs: tuple[int, ...] = (1,)
    opcode: int = 0
    options: int = 0  # the type of an options table, whose first field is `field`
    field: int = 0


def build(
    tensors: tuple[Tensor, ...] = (Tensor(), Tensor()),
    ops: tuple[Op, ...] = (Op(),),
    *,
    inputs: tuple[int, ...] = (0,),
    outputs: tuple[int, ...] = (1,),
    buffers: tuple[bytes, ...] = (b"",),
    code: int = tflite.BuiltinOperator.RELU,
    subgraphs: int = 1,
    repeat: int = 1,
    behind: int = 0,
) -> bytes:
    """A model file: one kind of operator, all tensors `repeat` times over."""
    b = flatbuffers.Builder(1024)

    def numbers(values: tuple[Any, ...], dtype: Any) -> int:
        return int(b.CreateNumpyVector(np.array(values, dtype=dtype)))

    def vector(start: Any, offsets: list[int]) -> int:
        start(b, len(offsets))
        for offset in reversed(offsets):
            b.PrependUOffsetTRelative(offset)
        return int(b.EndVector())

    def quantisation(tensor: Tensor) -> int:
        scale, zero = numbers(tensor.scales, np.float32), numbers(tensor.zeros, np.int64)
        tflite.QuantizationParametersStart(b)
        tflite.QuantizationParametersAddScale(b, scale)
        tflite.QuantizationParametersAddZeroPoint(b, zero)
        tflite.QuantizationParametersAddQuantizedDimension(b, tensor.axis)
        tflite.QuantizationParametersAddDetailsType(b, tensor.details)
        return int(tflite.QuantizationParametersEnd(b))

    def tensor_table(tensor: Tensor) -> int:
        name, shape = b.CreateString(tensor.name), numbers(tensor.shape, np.int32)
        signature, quantised = numbers(tensor.signature, np.int32), quantisation(tensor)
        tflite.SparsityParametersStart(b)
        sparsity = tflite.SparsityParametersEnd(b)
        tflite.TensorStart(b)
        tflite.TensorAddName(b, name)
        tflite.TensorAddShape(b, shape)
        tflite.TensorAddType(b, tensor.dtype)
        tflite.TensorAddBuffer(b, tensor.buffer)
        tflite.TensorAddQuantization(b, quantised)
        tflite.TensorAddIsVariable(b, tensor.variable)
        if tensor.signature:
            tflite.TensorAddShapeSignature(b, signature)
        if tensor.sparse:
            tflite.TensorAddSparsity(b, sparsity)
        return int(tflite.TensorEnd(b))

    def op_table(op: Op) -> int:
        read, written = numbers(op.inputs, np.int32), numbers(op.outputs, np.int32)
        b.StartObject(8)
        b.PrependInt8Slot(0, op.field, 0)
        options = b.EndObject()
        tflite.OperatorStart(b)
        tflite.OperatorAddOpcodeIndex(b, op.opcode)
        tflite.OperatorAddInputs(b, read)
        tflite.OperatorAddOutputs(b, written)
        if op.options:
            tflite.OperatorAddBuiltinOptionsType(b, op.options)
            tflite.OperatorAddBuiltinOptions(b, options)
        return int(tflite.OperatorEnd(b))

    def buffer_table(data: bytes) -> int:
        vector = b.CreateByteVector(data)
        tflite.BufferStart(b)
        tflite.BufferAddData(b, vector)
        tflite.BufferAddOffset(b, behind)
        return int(tflite.BufferEnd(b))

    values = vector(tflite.SubGraphStartTensorsVector, [tensor_table(tensor) for tensor in tensors] * repeat)
    nodes = vector(tflite.SubGraphStartOperatorsVector, [op_table(op) for op in ops])
    given, returned = numbers(inputs, np.int32), numbers(outputs, np.int32)
    tflite.SubGraphStart(b)
    tflite.SubGraphAddTensors(b, values)
    tflite.SubGraphAddOperators(b, nodes)
    tflite.SubGraphAddInputs(b, given)
    tflite.SubGraphAddOutputs(b, returned)
    graph = tflite.SubGraphEnd(b)
    graphs = vector(tflite.ModelStartSubgraphsVector, [graph] * subgraphs)
    tflite.OperatorCodeStart(b)
    tflite.OperatorCodeAddBuiltinCode(b, code)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, 127))
    codes = vector(tflite.ModelStartOperatorCodesVector, [tflite.OperatorCodeEnd(b)])
    data = vector(tflite.ModelStartBuffersVector, [buffer_table(buffer) for buffer in buffers])
    tflite.ModelStart(b)
    tflite.ModelAddVersion(b, 3)
    tflite.ModelAddOperatorCodes(b, codes)
    tflite.ModelAddSubgraphs(b, graphs)
    tflite.ModelAddBuffers(b, data)
    b.Finish(tflite.ModelEnd(b), file_identifier=b"TFL3")
    return bytes(b.Output())


def constant(**facts: Any) -> tuple[Tensor, ...]:
    """A fed value, a computed one, and a constant with a buffer of its own."""
    return (Tensor(), Tensor(), Tensor(buffer=1, **facts))


INT4, BOOL, BFLOAT16 = tflite.TensorType.INT4, tflite.TensorType.BOOL, tflite.TensorType.BFLOAT16
CONV = tflite.BuiltinOperator.CONV_2D

HOSTILE = {
    "empty": (b"", "no 'TFL3' at byte 4"),
    "another format": (b"GIF89a" + bytes(100), "no 'TFL3' at byte 4"),
    "only a header": (b"\x10\0\0\0TFL3", "is no sound .tflite file"),
    "a root at the end of the world": (b"\xff\xff\xff\xffTFL3" + bytes(64), "is no sound .tflite file"),
    "no subgraph": (build(subgraphs=0), "it has no subgraph"),
    "nine dimensions": (build((Tensor(shape=(1,) * 9), Tensor())), r"tensor 0 't' has shape \(1, 1"),
    "a negative dimension": (build((Tensor(shape=(-1, 2)), Tensor())), r"has shape \(-1, 2\)"),
    "too many elements": (build((Tensor(shape=(1 << 20, 1 << 20)), Tensor())), "has shape"),
    "a signature of another rank": (build((Tensor(signature=(1, 2)), Tensor())), "a signature of 2 dimensions"),
    "a type to come": (build((Tensor(dtype=99), Tensor())), "has type 99, the largest known is 18"),
    "sparse weights": (build((Tensor(sparse=True), Tensor())), "stored sparsely"),
    "a quantisation of its own": (build((Tensor(details=1), Tensor())), "a quantisation of its own kind"),
    "a negative scale": (build((Tensor(scales=(-1.0,)), Tensor())), "not finite and from 0"),
    "an infinite scale": (build((Tensor(scales=(float("inf"),)), Tensor())), "not finite and from 0"),
    "a signalling NaN": (
        build((Tensor(scales=(1.25,)), Tensor())).replace(b"\0\0\xa0\x3f", b"\0\0\xa0\x7f"),
        "not finite and from 0",
    ),
    "an option that is no number": (
        (GOLDEN / "leaky_relu_float.tflite").read_bytes().replace(b"\xcd\xcc\x4c\x3e", b"\xff\xff\xff\x7f"),
        "operator 0 LEAKY_RELU has alpha nan, must be finite",
    ),
    "zero points missing": (build((Tensor(scales=(1, 1), zeros=(0,)), Tensor())), "2 scales and 1 zero points"),
    "more scales than channels": (build((Tensor(scales=(1, 1, 1)), Tensor())), "3 scales along axis 0"),
    "scales along no axis": (build((Tensor(scales=(1, 1), axis=1), Tensor())), "2 scales along axis 1"),
    "no such buffer": (build((Tensor(), Tensor(), Tensor(buffer=7))), "has buffer 7, there are 1"),
    "data behind the model": (build(constant(), buffers=(b"", b"ab"), behind=4096), "keeps its data behind the model"),
    "too few bytes": (build(constant(), buffers=(b"", b"a")), "has 1 bytes for 2 elements of int8"),
    "too many bytes": (build(constant(), buffers=(b"", b"abc")), "has 3 bytes for 2 elements of int8"),
    "constant text": (
        build(constant(dtype=tflite.TensorType.STRING), buffers=(b"", b"ab")),
        "tensor 2 't' is a constant of type string",
    ),
    "no such operator code": (build(ops=(Op(opcode=3),)), "operator 0 has code 3, there are 1"),
    "no such input": (build(ops=(Op(inputs=(2,)),)), "operator 0 RELU has tensor 2 among its inputs, there are 2"),
    "an input before all": (build(ops=(Op(inputs=(-2,)),)), "has tensor -2 among its inputs"),
    "an output left out": (build(ops=(Op(outputs=(-1,)),)), "has tensor -1 among its outputs"),
    "no such graph input": (build(inputs=(5,)), "the graph has tensor 5 among its inputs"),
    "one input twice": (build(inputs=(0, 0)), "are not distinct values"),
    "an input that is constant": (
        build((Tensor(buffer=1), Tensor()), buffers=(b"", b"ab")),
        r"inputs \(0,\) are not distinct values",
    ),
    "an input that is computed": (build(inputs=(0, 1), outputs=(0,)), "writes tensor 1, which has a value"),
    "a constant that is computed": (
        build((Tensor(), Tensor(buffer=1)), buffers=(b"", b"ab")),
        "writes tensor 1, which has a value",
    ),
    "read before written": (build(inputs=(), outputs=()), "reads tensor 0, which nothing has written"),
    "written twice": (build(ops=(Op(), Op())), "operator 1 RELU writes tensor 1, which has a value"),
    "an output that nothing writes": (build(ops=()), r"nothing writes the graph's outputs \[1\]"),
    "options of another operator": (
        build(ops=(Op(options=5),), code=CONV),
        "has Pool2DOptions, must have Conv2DOptions",
    ),
    "options of no kind": (build(ops=(Op(options=200),)), "has options of type 200"),
    "a padding of no kind": (build(ops=(Op(options=1, field=9),), code=CONV), "has padding 9, the largest known is 1"),
    "too many tensors": (build(repeat=MAX_ITEMS), f"Tensors counts {2 * MAX_ITEMS}, the limit is {MAX_ITEMS}"),
    "one name, many times": (
        build((Tensor(name="n" * 10_000), Tensor()), repeat=50_000, ops=(), outputs=(0,)),
        "its vectors lie on top of each other",
    ),
    "one vector of scales, many times": (
        build((Tensor(shape=(9000,), scales=(1.0,) * 9000), Tensor()), repeat=50_000, ops=(), outputs=(0,)),
        "its vectors lie on top of each other",
    ),
    "one constant, many copies": (
        build(
            (Tensor(shape=(90_000,), dtype=BOOL, buffer=1),),
            (),
            repeat=5000,
            inputs=(),
            outputs=(0,),
            buffers=(b"", bytes(90_000)),
        ),
        "its vectors lie on top of each other",
    ),
}


@pytest.mark.parametrize(("blob", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_refused(tmp_path: Path, blob: bytes, reason: str) -> None:
    path = tmp_path / "bad.tflite"
    path.write_bytes(blob)
    start = time.monotonic()
    with pytest.raises(ModelError, match=reason) as caught:
        read_tflite(path)
    assert str(caught.value).startswith("bad.tflite: ")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 5


def read(tmp_path: Path, blob: bytes) -> TfliteModel:
    path = tmp_path / "odd.tflite"
    path.write_bytes(blob)
    return read_tflite(path)


def test_a_built_file_is_sound(tmp_path: Path) -> None:
    """The builder's own default passes, so each row above is refused for its one fault."""
    model = read(tmp_path, build())
    assert (model.operators[0].code, model.inputs, model.outputs) == ("RELU", (0,), (1,))


@pytest.mark.parametrize(
    ("dtype", "raw", "shape", "known"),
    [
        (INT4, b"\x7f\x81", (3,), [-1, 7, 1]),
        (BOOL, b"\x00\x02", (2,), [False, True]),
        (BFLOAT16, b"\x80\x3f\x20\xc0", (2,), [1.0, -2.5]),
        (tflite.TensorType.INT16, b"\x01\x02\xff\xff", (1, 2), [[513, -1]]),
    ],
)
def test_constants_of_odd_types(tmp_path: Path, dtype: int, raw: bytes, shape: tuple[int, ...], known: Any) -> None:
    data = read(tmp_path, build(constant(dtype=dtype, shape=shape), buffers=(b"", raw))).tensors[2].data
    np.testing.assert_array_equal(data, known)


def test_an_empty_constant_is_a_constant(tmp_path: Path) -> None:
    data = read(tmp_path, build((Tensor(), Tensor(), Tensor(shape=(0,))), (Op(inputs=(0, 2)),))).tensors[2].data
    assert data is not None
    assert data.shape == (0,)


def test_a_value_without_elements_is_still_computed(tmp_path: Path) -> None:
    assert read(tmp_path, build((Tensor(), Tensor(shape=(0,))))).tensors[1].data is None


def test_a_variable_may_be_written_once(tmp_path: Path) -> None:
    state = constant(variable=True)
    assert len(read(tmp_path, build(state, (Op(outputs=(2,)), Op(inputs=(2,))))).operators) == 2
    with pytest.raises(ModelError, match="operator 1 RELU writes tensor 2, which has a value"):
        read(tmp_path, build(state, (Op(outputs=(2,)), Op(outputs=(2,)), Op(inputs=(2,)))))


def test_a_variable_is_no_constant(tmp_path: Path) -> None:
    state = read(tmp_path, build(constant(variable=True), (Op(inputs=(0, 2)),), buffers=(b"", b"ab"))).tensors[2]
    assert state.is_variable
    assert state.data is None


def test_options_left_out_have_the_schemas_defaults(tmp_path: Path) -> None:
    options = read(tmp_path, build(code=CONV)).operators[0].options
    assert (options["padding"], options["dilation_w_factor"], options["fused_activation_function"]) == (
        "SAME",
        1,
        "NONE",
    )


def test_an_operator_newer_than_the_schema_has_its_number(tmp_path: Path) -> None:
    assert read(tmp_path, build(code=9999)).operators[0].code == "BUILTIN_9999"


def test_absent_zero_points_are_zero(tmp_path: Path) -> None:
    zero_point = read(tmp_path, build((Tensor(scales=(0.5, 0.0)), Tensor()))).tensors[0].zero_point
    np.testing.assert_array_equal(zero_point, [0, 0])


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=re.escape(f"{tmp_path.name}: cannot be read")):
        read_tflite(tmp_path)


# ------------------------------------------------------------------ damage

FUZZED = [(GOLDEN / f"{name}.tflite").read_bytes() for name in ("mlp_int8", "lstm_int8", "conv_float", "slices_int8")]
WORDS = st.sampled_from([0, 1, 4, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFF])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A real file with flipped bits, overwritten words, moved pieces, or a missing end."""
    data = bytearray(draw(st.sampled_from(FUZZED)))
    places = st.integers(0, len(data) - 4)
    for _ in range(draw(st.integers(0, 4))):
        data[draw(places)] ^= 1 << draw(st.integers(0, 7))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(places) & ~3
        data[at : at + 4] = draw(WORDS).to_bytes(4, "little")
    if draw(st.booleans()):
        source, target, length = draw(places), draw(places), draw(st.integers(1, 64))
        data[target : target + length] = data[source : source + length]
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blob=damaged())
def test_damage_ends_in_a_model_or_a_model_error(tmp_path: Path, blob: bytes) -> None:
    path = tmp_path / "damaged.tflite"
    path.write_bytes(blob)
    try:
        model = read_tflite(path)
    except ModelError:
        return
    for op in model.operators:  # what passes is consistent: an importer may index without care
        model.reads(op)
        assert model.label(op)
