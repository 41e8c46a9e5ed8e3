"""Files that mean harm or make no sense: a named error in one line, in little time and memory."""

from __future__ import annotations

import resource
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgerun.errors import ModelError

onnx = pytest.importorskip("onnx", reason="pip install 'edgerun[export]'")
pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_graphs import graph, node, saved  # noqa: E402

from exporters.onnx.graph import Graph, Unsupported, Value  # noqa: E402
from exporters.onnx_import import load_onnx  # noqa: E402

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "benchmarks" / "export" / "models"
SECONDS = 10
MEGABYTES = 400

HUGE = np.int64(1 << 40)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


BOMBS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "ConstantOfShape": ([node("ConstantOfShape", ["n"], ["c"])], {"n": ints(1 << 20, 1 << 20)}),
    "Expand": ([node("Expand", ["one", "n"], ["c"])], {"one": np.float32([1]), "n": ints(1 << 20, 1 << 20)}),
    "Range": ([node("Range", ["a", "b", "s"], ["c"])], {"a": np.int64(0), "b": HUGE, "s": np.int64(1)}),
    "Tile": ([node("Tile", ["one", "n"], ["c"])], {"one": np.float32([1]), "n": ints(1 << 40)}),
    "broadcasting": (
        [node("Reshape", ["v", "s"], ["w"]), node("Add", ["v", "w"], ["c"])],
        {"v": np.ones((1, 1 << 15), np.float32), "s": ints(1 << 15, 1)},
    ),
    "Gather": (
        [node("Gather", ["v", "k"], ["c"])],
        {"v": np.ones((1, 1 << 15), np.float32), "k": np.zeros(1 << 15, int)},
    ),
    "MatMul": (
        [node("Reshape", ["v", "s"], ["w"]), node("MatMul", ["w", "v"], ["c"])],
        {"v": np.ones((1, 1 << 15), np.float32), "s": ints(1 << 15, 1)},
    ),
    "doubling": (
        [node("Concat", [f"c{k}", f"c{k}"], [f"c{k + 1}"], axis=0) for k in range(40)]
        + [node("Identity", ["c40"], ["c"])],
        {"c0": np.ones(1, np.float32)},
    ),
    "pads": ([node("Pad", ["x", "p"], ["c"])], {"p": ints(0, 0, 0, 1 << 40)}),
    "upwards": ([node("Expand", ["x", "n"], ["c"])], {"n": ints(1 << 20, 1 << 20, 8)}),
    "a wide sum": (
        [
            node("Unsqueeze", ["x", "a"], ["u"]),
            node("Transpose", ["u"], ["t"], perm=[0, 2, 1]),
            node("Add", ["u", "t"], ["c"]),
        ],
        {"a": ints(1)},
    ),
}


@pytest.mark.parametrize(("nodes", "constants"), BOMBS.values(), ids=BOMBS)
def test_nothing_grows_beyond_the_file(tmp_path: Path, nodes: list[Any], constants: dict[str, Any]) -> None:
    ended = [*nodes, node("Add", ["x", "c"], ["y"])]
    path = saved(tmp_path, raw(ended, constants, 1 << 13))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ModelError):
        load_onnx(path)
    assert time.monotonic() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES << 10


def raw(nodes: list[Any], constants: dict[str, Any], width: int, opset: int = 17) -> bytes:
    """A model as `onnx_graphs.graph` makes it, without inferring shapes, which would trip over it."""
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    data: bytes = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
    ).SerializeToString()
    return data


def test_long_files_take_no_stack_and_little_time(tmp_path: Path) -> None:
    """Fifteen hundred nodes in a row: of functions, of moves, of sums of sums, of names for the input."""
    n = 1500
    chains = {
        "functions": [node("Tanh", [f"t{k}"], [f"t{k + 1}"]) for k in range(n)],
        "transposes": [node("Transpose", [f"t{k}"], [f"t{k + 1}"], perm=[1, 0]) for k in range(n)],
        "sums": [node("Add", [f"t{k}", f"t{k}"], [f"t{k + 1}"]) for k in range(n)],
        "names": [node("Identity", [f"t{k}"], [f"t{k + 1}"]) for k in range(n)],
    }
    for nodes in chains.values():
        nodes[0].input[:] = ["x"] * len(nodes[0].input)
        data = raw([*nodes, node("Softsign", [f"t{n}"], ["y"])], {}, 8)
        start = time.monotonic()
        load_onnx(saved(tmp_path, data))
        assert time.monotonic() - start < SECONDS


def test_constants_are_spread_over_so_many_values_only() -> None:
    """A small file may name large values again and again."""
    state = Graph({}, {}, "y", room=0, effort=250)
    value = Value("input", (1, 100), (0, 1))
    for _ in range(2):
        state.spread(np.arange(100), value)
    with pytest.raises(Unsupported, match="more than an import works on"):
        state.spread(np.arange(100), value)


def test_circles_are_refused(tmp_path: Path) -> None:
    for nodes in (
        [node("Add", ["x", "y"], ["y"])],
        [node("Add", ["x", "b"], ["a"]), node("Tanh", ["a"], ["b"]), node("Tanh", ["b"], ["y"])],
    ):
        with pytest.raises(ModelError, match="no sound ONNX file"):
            load_onnx(saved(tmp_path, raw(nodes, {}, 8)))


def test_functions_of_the_file_itself_are_refused_by_name(tmp_path: Path) -> None:
    """Calls of local functions are nodes of a domain that no table has."""
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    inner = helper.make_function("own", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], opset[:1])
    made = onnx.load_from_string(raw([node("Twice", ["x"], ["y"], domain="own", name="call")], {}, 8))
    made.opset_import.append(opset[1])
    made.functions.append(inner)
    with pytest.raises(ModelError, match=r"call \(Twice: of domain own\)"):
        load_onnx(saved(tmp_path, made.SerializeToString()))


def seeds() -> list[bytes]:
    """Small files with every kind of node in them."""
    files = [
        MODELS / "imu_gru_legacy.onnx",
        MODELS / "imu_lstm_free_batch.onnx",
        *sorted(ROOT.glob("tests/golden/onnx/*.onnx")),
    ]
    rng = np.random.default_rng(5)
    image = [
        node("QuantizeLinear", ["x", "s", "z"], ["i"]),
        node("DequantizeLinear", ["i", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w", "s"], ["wd"]),
        node("Conv", ["d", "wd"], ["c"], pads=[1, 1, 1, 1], strides=[2, 1], group=1),
        node("BatchNormalization", ["c", "g", "g", "g", "g"], ["n"]),
        node("HardSigmoid", ["n"], ["h"]),
        node("Mul", ["n", "h"], ["m"]),
        node("MaxPool", ["m"], ["p"], kernel_shape=[2, 2], ceil_mode=1),
        node("AveragePool", ["p"], ["q"], kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
        node("Split", ["q", "sizes"], ["a", "b"], axis=1),
        node("Concat", ["b", "a"], ["t"], axis=1),
        node("Slice", ["t", "zero", "two", "axis"], ["u"]),
        node("Pad", ["u", "pads"], ["v"]),
        node("Shape", ["v"], ["shape"]),
        node("Gather", ["shape", "zero"], ["first"]),
        node("Concat", ["first", "rest"], ["target"], axis=0),
        node("Reshape", ["v", "target"], ["r"]),
        node("LayerNormalization", ["r", "gamma"], ["l"]),
        node("Gemm", ["l", "k"], ["o"]),
        node("Softmax", ["o"], ["y"]),
    ]
    constants = {
        "s": np.float32(0.1), "z": np.uint8(128), "w": rng.integers(-9, 9, (4, 3, 3, 3)).astype(np.int8),
        "g": np.ones(4, np.float32), "sizes": ints(1, 3), "zero": ints(0), "two": ints(2), "axis": ints(2),
        "pads": ints(0, 0, 1, 0, 0, 0, 0, 1), "rest": ints(-1), "gamma": np.ones(60, np.float32),
        "k": np.ones((60, 2), np.float32),
    }  # fmt: skip
    made = graph(image, constants, (1, 3, 6, 5), opset=17)
    return [*(file.read_bytes() for file in files if file.exists()), made]


SEEDS = seeds()


def test_the_seeds_are_sound(tmp_path: Path) -> None:
    for data in SEEDS:
        assert load_onnx(saved(tmp_path, data)).layers


def refusal(path: Path) -> str:
    """What the import says against a file; nothing where it takes it."""
    try:
        load_onnx(path)
    except ModelError as err:
        return str(err)
    return ""


@given(st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path, data: Any) -> None:
    """Bytes changed, cut out or doubled anywhere."""
    found = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(found) - 1))
        match data.draw(st.sampled_from(("flip", "set", "cut", "double"))):
            case "flip":
                found[at] ^= 1 << data.draw(st.integers(0, 7))
            case "set":
                found[at] = data.draw(st.sampled_from((0, 1, 2, 127, 128, 255)))
            case "cut":
                del found[at : at + data.draw(st.integers(1, 9))]
            case _:
                found[at:at] = found[at : at + data.draw(st.integers(1, 9))]
        if not found:
            break
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "\n" not in refusal(saved(tmp_path, bytes(found)))


NUMBERS = st.sampled_from((-(1 << 62), -129, -3, -2, -1, 0, 1, 2, 3, 5, 1 << 20, 1 << 40))


@given(st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_senseless_numbers_are_read_or_refused_in_one_line(tmp_path: Path, data: Any) -> None:
    """Attributes, shapes and whole-number constants that no exporter would write; the file itself is sound."""
    model = onnx.load_from_string(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 3))):
        item = data.draw(st.sampled_from(list(model.graph.node)))
        match data.draw(st.sampled_from(("attribute", "constant", "input", "operator"))):
            case "attribute" if item.attribute:
                attribute = data.draw(st.sampled_from(list(item.attribute)))
                if attribute.ints:
                    attribute.ints[data.draw(st.integers(0, len(attribute.ints) - 1))] = data.draw(NUMBERS)
                elif attribute.type == onnx.AttributeProto.INT:
                    attribute.i = data.draw(NUMBERS)
            case "constant":
                whole = [t for t in model.graph.initializer if t.data_type == TensorProto.INT64]
                if whole:
                    tensor = data.draw(st.sampled_from(whole))
                    array = numpy_helper.to_array(tensor).copy().reshape(-1)
                    array[: len(array)] = data.draw(st.lists(NUMBERS, min_size=len(array), max_size=len(array)))
                    tensor.CopyFrom(numpy_helper.from_array(array.reshape(tuple(tensor.dims)), tensor.name))
            case "input" if item.input:
                names = [name for other in model.graph.node for name in other.input]
                names += [t.name for t in model.graph.initializer]
                item.input[data.draw(st.integers(0, len(item.input) - 1))] = data.draw(st.sampled_from(names))
            case _:
                item.op_type = data.draw(st.sampled_from([other.op_type for other in model.graph.node]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "\n" not in refusal(saved(tmp_path, model.SerializeToString()))
