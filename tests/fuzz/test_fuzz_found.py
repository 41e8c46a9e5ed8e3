"""What `make fuzz` has found, each in its smallest form: refused by name ever since."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from pretend import manifest, tiny_bundle_bytes

from edgerun.bundle import read_bundle
from edgerun.errors import ModelError, SpecError

nir = pytest.importorskip("nir", reason="pip install 'edgerun[export]'")

onnx = pytest.importorskip("onnx", reason="pip install 'edgerun[export]'")
pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")

from onnx_graphs import graph, node, saved  # noqa: E402

from exporters.export import Options, export  # noqa: E402
from exporters.float_net import FloatNet  # noqa: E402
from exporters.nir_import import NirOptions, convert  # noqa: E402
from exporters.nodes import FloatConv, FloatLayer, FloatPool  # noqa: E402
from exporters.onnx_import import load_onnx  # noqa: E402
from exporters.tflite_import import load_tflite  # noqa: E402


def test_of_repeated_layer_names_the_first_is_told() -> None:
    layers = manifest().layers[:1] * 200
    with pytest.raises(SpecError, match=r"layer names repeat: hidden$"):
        msgspec.structs.replace(manifest(), layers=layers)


def test_a_file_that_unpacks_to_more_than_there_is_ends_in_one_line(tmp_path: Path) -> None:
    """Within all bounds, but not within the memory of this process: 512 MiB of address space, 600 MiB of zeros."""
    bundle, data = tmp_path / "tiny.edgb", tmp_path / "data.npz"
    bundle.write_bytes(tiny_bundle_bytes())
    np.savez_compressed(data, x=np.zeros((150 << 20, 4), np.uint8))
    act = "import sys, resource; from edgerun.cli import main; import edgerun.commands.infer; "
    limit = "resource.setrlimit(resource.RLIMIT_AS, (512 << 20, resource.RLIM_INFINITY)); sys.exit(main(sys.argv[1:]))"
    argv = ["infer", str(bundle), str(data), "-o", str(tmp_path / "out.npz")]
    threads = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", act + limit, *argv]
    done = subprocess.run(command, env=threads, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "edgerun: this machine has too little memory for these files\n")


# ------------------------------------------------------------------ ONNX

W = np.ones((4, 3), np.float32)


def elsewhere(array: Any) -> Any:
    """A tensor that says its bytes lie in this very file."""
    tensor = onnx.numpy_helper.from_array(array, "elsewhere")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=Path(__file__).name)
    return tensor


@pytest.mark.parametrize(
    ("nodes", "constants", "reason"),
    [
        ([node("Transpose", ["x"], ["y"], perm=[0] * 300)], {}, r"^net.onnx: 1 node is not .{0,300}$"),
        ([node("Reshape", ["x", "c"], ["y"])], {"c": np.array([1, 4], np.complex64)}, "tensor 'c' is complex64"),
        (
            [node("ReduceMean", ["e"], ["m"]), node("Add", ["x", "m"], ["y"])],
            {"e": np.zeros((0, 2), np.float32)},
            "ReduceMean: reduces no values",
        ),
        (
            [node("DequantizeLinear", ["q", "s", "z"], ["w"]), node("MatMul", ["x", "w"], ["y"])],
            {"q": np.full((4, 3), 100, np.int8), "s": np.float32(-70), "z": np.int8(0)},
            "a scale of q is not finite and from 0",
        ),
        (
            [node("Constant", [], ["w"], value=elsewhere(W)), node("MatMul", ["x", "w"], ["y"])],
            {},
            "tensor .elsewhere. lies in ",
        ),
    ],
    ids=["a list without end", "complex numbers", "the mean of nothing", "a scale under zero", "another file"],
)
def test_odd_constants_and_attributes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: list[Any], constants: dict[str, Any], reason: str
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    with pytest.raises(ModelError, match=reason):
        load_onnx(saved(tmp_path, graph(nodes, constants, (1, 4))))


# ------------------------------------------------------------------ LiteRT


def test_of_an_operator_with_weights_for_axes_the_beginning_is_told(tmp_path: Path) -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="pip install 'edgerun[litert]'")
    flatbuffers = pytest.importorskip("flatbuffers")
    golden = Path(__file__).parents[1] / "golden" / "tflite" / "mlp_int8.tflite"
    model = schema.ModelT.InitFromPackedBuf(golden.read_bytes(), 0)
    first = model.subgraphs[0].operators[0]
    first.inputs, first.builtinOptions = first.inputs[:2], None
    first.builtinOptionsType, tensors = 0, model.subgraphs[0].tensors
    tensors[first.outputs[0]].quantization = tensors[first.inputs[0]].quantization
    code = model.operatorCodes[first.opcodeIndex]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.TRANSPOSE
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "net.tflite"
    path.write_bytes(bytes(builder.Output()))
    with pytest.raises(ModelError, match=r"^net.tflite: 1 operator is not supported: operator 0 TRANSPOSE.*perm"):
        load_tflite(path)
    with pytest.raises(ModelError, match=r"^.{0,600}$"):
        load_tflite(path)


@pytest.mark.parametrize(
    "layer",
    [
        FloatPool("p", (7, 6, 3), "max", (3, 1 << 24), (2, 2), padding=(1, (1 << 23) - 1, 1, (1 << 23) - 1)),
        FloatConv(
            "c", (7, 6, 3), np.ones((1, 1, 2, 3)), np.zeros(1), dilation=(1, 1 << 24), padding=(0, 0, 0, 1 << 24)
        ),
    ],
)
def test_windows_without_end_are_refused(layer: FloatLayer) -> None:
    with pytest.raises(ModelError, match=r"^layer .: an image of \(7, 6, 3\) padded to . x 1677\d+ holds more than"):
        FloatNet("net", (7, 6, 3), (layer,))


# ------------------------------------------------------------------ NIR


FRAMES = {"encoder": "frames", "steps": 4}


def spiking_graph(**fields: Any) -> Any:
    """An image, a convolution, a pool, neurons; `fields` of any of its nodes changed."""
    nodes = {
        "input": nir.Input({"input": np.array([1, 6, 6])}),
        "conv": nir.Conv2d((6, 6), np.ones((2, 1, 3, 3)), 1, 0, 1, 1, np.zeros(2)),
        "pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "flat": nir.Flatten({"input": np.array([2, 2, 2])}, 0, -1),
        "lif": nir.LIF(np.full(8, 1e-3), np.ones(8), np.zeros(8), np.ones(8), np.zeros(8)),
        "output": nir.Output({"output": np.array([8])}),
    }
    for place, value in fields.items():
        name, _, field = place.partition("__")
        setattr(nodes[name], field, value)
    names = list(nodes)
    edges = list(pairwise(names))
    return nir.NIRGraph(nodes, edges, type_check=False, metadata=FRAMES)


def test_the_graph_that_is_changed_below_is_sound() -> None:
    assert convert("net.nir", spiking_graph(), NirOptions()).outputs == 8


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"input__input_type": {"input": np.array(["x"])}}, "net.nir: input: shape: a ndarray is no number"),
        ({"pool__stride": np.array(["x", "y"])}, "net.nir: pool: a ndarray is no number"),
        ({"pool__stride": np.array([np.nan, 2])}, "net.nir: pool: .* is no whole number of 32 bits"),
        ({"pool__kernel_size": np.array([2.5, 2])}, "is no whole number"),
        ({"pool__padding": np.array([1e300, 0])}, "is no whole number"),
        ({"flat__start_dim": "first"}, "flat: dimensions: a tuple is no number"),
        ({"conv__weight": np.ones(3)}, "conv"),
        ({"conv__groups": "two"}, "lif, or what leads to it, makes no sense"),
        ({"conv__padding": b"\xff"}, "lif, or what leads to it, makes no sense"),
    ],
)
def test_fields_of_odd_types_are_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        convert("net.nir", spiking_graph(**fields), NirOptions())


def dense_loop() -> Any:
    """Two linear maps that feed each other, no neurons between them."""
    map_ = nir.Linear(np.ones((3, 3)))
    neurons = nir.LIF(np.full(3, 1e-3), np.ones(3), np.zeros(3), np.ones(3), np.zeros(3))
    ends = {"input": nir.Input({"input": np.array([3])}), "output": nir.Output({"output": np.array([3])})}
    edges = [("input", "lif"), ("a", "b"), ("b", "a"), ("b", "lif"), ("lif", "output")]
    return nir.NIRGraph(ends | {"a": map_, "b": map_, "lif": neurons}, edges, type_check=False, metadata=FRAMES)


def many_ways() -> Any:
    """Forty rungs of two wires, each wired to both of the next rung: 2**40 ways."""
    neurons = nir.LIF(np.full(3, 1e-3), np.ones(3), np.zeros(3), np.ones(3), np.zeros(3))
    rungs = [["input"], *([f"a{k}", f"b{k}"] for k in range(40)), ["lif"]]
    wires = {name: nir.Delay(np.zeros(3)) for rung in rungs[1:-1] for name in rung}
    nodes = {"input": nir.Input({"input": np.array([3])}), **wires, "lif": neurons}
    edges = [(a, b) for one, other in pairwise(rungs) for a in one for b in other]
    nodes["output"] = nir.Output({"output": np.array([3])})
    return nir.NIRGraph(nodes, [*edges, ("lif", "output")], type_check=False, metadata=FRAMES)


@pytest.mark.parametrize(
    ("made", "reason"),
    [(dense_loop, "nodes without neurons between them go round"), (many_ways, "more than 16384 wires lead to lif")],
)
def test_graphs_without_end_are_refused(made: Callable[[], Any], reason: str) -> None:
    with pytest.raises(ModelError, match=f"^net.nir: {reason}"):
        convert("net.nir", made(), NirOptions())


def test_a_readout_alone_is_exported_but_has_no_features_for_prototypes(tmp_path: Path) -> None:
    readout = nir.LI(np.full(3, 1e-3), np.ones(3), np.zeros(3))
    nodes = {"input": nir.Input({"input": np.array([2])}), "fc": nir.Linear(np.ones((3, 2))), "li": readout}
    nodes["output"] = nir.Output({"output": np.array([3])})
    nir.write(tmp_path / "net.nir", nir.NIRGraph(nodes, list(pairwise(nodes)), type_check=False, metadata=FRAMES))
    x = np.random.default_rng(0).integers(0, 9, (60, 4, 2)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(60) % 3)
    files = tmp_path / "net.nir", tmp_path / "data.npz"
    assert read_bundle(export(*files, Options()).data).manifest.layers[-1].outputs == 3
    with pytest.raises(ModelError, match="the readout is the only layer"):
        export(*files, Options(learn="prototypes"))
