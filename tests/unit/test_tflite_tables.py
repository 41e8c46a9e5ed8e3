"""Tables of single operators hold what LiteRT's default kernels give for all 256 inputs, whatever the scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

flatbuffers = pytest.importorskip("flatbuffers", reason="pip install 'edgerun[export]'")
litert = pytest.importorskip("ai_edge_litert.interpreter", reason="pip install 'edgerun[litert]'")

from ai_edge_litert import schema_py_generated as schema  # noqa: E402

from edgerun.errors import ModelError  # noqa: E402
from edgerun.ops.elementwise import AddRun  # noqa: E402
from exporters.nodes import Affine, FloatAdd, FloatUnary, Range  # noqa: E402
from exporters.tflite import tables  # noqa: E402
from exporters.tflite_import import load_tflite  # noqa: E402

DTYPES = {"int8": schema.TensorType.INT8, "uint8": schema.TensorType.UINT8}


def one_operator(code: str, dtype: str, maps: list[Affine], y: Affine, size: int, **options: Any) -> bytes:
    """A file of one operator that reads vectors of integers; the maps are those of int8."""
    model, graph, operator, number = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorCodeT()
    base = 128 if dtype == "uint8" else 0
    graph.tensors = []
    for map_ in (*maps, y):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = b"t", [1, size], DTYPES[dtype], 0
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.array([map_.scale], np.float32)
        tensor.quantization.zeroPoint = np.array([map_.zero_point + base], np.int64)
        graph.tensors.append(tensor)
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, list(range(len(maps))), [len(maps)]
    kind = {"LEAKY_RELU": "LeakyReluOptions", "ADD": "AddOptions", "SUB": "SubOptions"}.get(code)
    if kind is not None:
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        operator.builtinOptions = getattr(schema, f"{kind}T")()
        for key, value in options.items():
            setattr(operator.builtinOptions, key, value)
    number.builtinCode = getattr(schema.BuiltinOperator, code)
    number.deprecatedBuiltinCode, number.version = min(number.builtinCode, 127), 1
    graph.inputs, graph.outputs, graph.operators, graph.name = operator.inputs, operator.outputs, [operator], b"main"
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [number], [schema.BufferT()]
    model.description = b""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def by_litert(blob: bytes, *xs: Any) -> Any:
    """As people run it: with XNNPACK."""
    made = litert.Interpreter(model_content=blob, num_threads=1)
    made.allocate_tensors()
    for entry, x in zip(made.get_input_details(), xs, strict=True):
        made.set_tensor(entry["index"], x.reshape(1, -1).astype(entry["dtype"]))
    made.invoke()
    return made.get_tensor(made.get_output_details()[0]["index"]).reshape(-1).astype(np.int64)


def maps(rng: np.random.Generator, code: str) -> tuple[Affine, Affine]:
    """An input's map, and one for the output that holds a good part of what the function gives."""
    x = Affine(float(np.float32(np.exp(rng.uniform(-6, -1)))), -128 if code == "SQRT" else int(rng.integers(-128, 128)))
    scale = 0.02 if code == "SQRT" else x.scale * 2 ** rng.uniform(-1.5, 3)
    return x, Affine(float(np.float32(scale)), int(rng.integers(-128, 128)))


CODES = ("HARD_SWISH", "LEAKY_RELU", "QUANTIZE", "RELU", "RELU6", "RELU_N1_TO_1", "ABS", "SQRT", "ELU", "GELU", "TANH")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("code", CODES)
def test_all_256_values_are_those_of_litert(tmp_path: Path, code: str, dtype: str) -> None:
    if dtype == "uint8" and code in ("ABS", "SQRT", "ELU", "GELU"):
        pytest.skip(f"LiteRT has no {code} of uint8")
    rng, path = np.random.default_rng(len(code)), tmp_path / "one.tflite"
    base = 128 if dtype == "uint8" else 0
    for _ in range(12):
        x, y = maps(rng, code)
        if code == "TANH":
            y = Affine(1 / 128, 0)
        options = {"alpha": float(rng.uniform(-1, 2))} if code == "LEAKY_RELU" else {}
        path.write_bytes(one_operator(code, dtype, [x], y, 256, **options))
        (layer,) = load_tflite(path).layers
        (made,) = layer.quantise((x,), Range(0.0, 1.0))
        table = made.tensors[f"{layer.name}.table"]
        np.testing.assert_array_equal(table, by_litert(path.read_bytes(), np.arange(256) - 128 + base) - base)


def test_scales_that_xnnpack_does_not_take_are_those_of_litert_too() -> None:
    x = np.arange(256) - 128
    for gain, alpha in ((2.0**9, 0.1), (2.0**-9, 0.5), (0.5, 2.0**-9), (2.0, -80.0)):
        a, b = Affine(0.05 * gain, -7), Affine(0.05, 3)
        blob = one_operator("LEAKY_RELU", "int8", [a], b, 256, alpha=alpha)
        np.testing.assert_array_equal(tables.leaky_relu(a, b, alpha), by_litert(blob, x))
    assert tables.rescaled(Affine(2.0**-9, 0), Affine(1.0, 0)) is None


def test_a_table_counts_the_steps_of_an_output() -> None:
    for table, output in (((0,) * 255, Affine(1.0, 0)), ((0,) * 256, None)):
        with pytest.raises(ModelError, match=f"layer l: a table of {len(table)} values"):
            FloatUnary("l", (4,), "relu", (), table, output=output)


@pytest.mark.parametrize("code", ["ADD", "SUB"])
def test_sums_are_those_of_litert_for_every_pair_of_values(tmp_path: Path, code: str) -> None:
    """Among them pairs that 24 bits, or ratios of float64, round to the other side."""
    rng, path = np.random.default_rng(1), tmp_path / "one.tflite"
    a, b = (x.reshape(-1) for x in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
    for _ in range(12):
        scales, zeros = np.exp(rng.uniform(-6, -2, 2)).astype(np.float32), rng.integers(-128, 128, 2)
        first, second = (Affine(float(scale), int(zero)) for scale, zero in zip(scales, zeros, strict=True))
        y = Affine(float(np.float32((first.scale + second.scale) * rng.uniform(0.3, 1))), int(rng.integers(-128, 128)))
        path.write_bytes(one_operator(code, "int8", [first, second], y, len(a)))
        known = tables.sum_multipliers(first, second, y, (1, 1 if code == "ADD" else -1))
        assert known is not None
        layer = FloatAdd("l", ((len(a),), (len(a),)), multipliers=known, output=y, sources=("input", "input"))
        (made,) = layer.quantise((first, second), Range(0.0, 1.0))
        run = AddRun(made.layer, made.tensors, ())
        run.step(a.astype(np.float32), b.astype(np.float32))
        np.testing.assert_array_equal(run.out, by_litert(path.read_bytes(), a, b))


def test_sums_of_scales_that_xnnpack_does_not_take_are_left_alone() -> None:
    y = Affine(1.0, 0)
    assert tables.sum_multipliers(Affine(2.0**-11, 0), y, y, (1, 1)) is None
    assert tables.sum_multipliers(y, Affine(2.0**8, 0), y, (1, 1)) is None


def test_a_sum_in_a_file_has_the_multipliers_of_litert() -> None:
    model = load_tflite(Path(__file__).parents[2] / "benchmarks" / "export" / "tflite" / "resnet8_int8.tflite")
    sums = [layer for layer in model.layers if isinstance(layer, FloatAdd)]
    assert len(sums) == 3
    assert all(layer.multipliers is not None and 1 << 20 <= max(layer.multipliers[:2]) <= 1 << 21 for layer in sums)
