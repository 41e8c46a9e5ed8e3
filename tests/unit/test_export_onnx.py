"""ONNX import: the same numbers as ONNX Runtime, every unsupported node named at once, no file that breaks it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from floats import trace

from edgerun.errors import ModelError
from exporters.nodes import FloatDense

onnx = pytest.importorskip("onnx", reason="pip install 'edgerun[export]'")
pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from exporters.export import digest, source_files  # noqa: E402
from exporters.onnx.external import fetch  # noqa: E402
from exporters.onnx_import import load_onnx, onnx_scores  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden"
RNG = np.random.default_rng(5)
W1, B1 = RNG.normal(size=(4, 6)).astype(np.float32), RNG.normal(size=4).astype(np.float32)
W2, B2 = RNG.normal(size=(3, 4)).astype(np.float32), RNG.normal(size=3).astype(np.float32)
X = RNG.normal(size=(5, 6)).astype(np.float32)
node = helper.make_node


def model(
    nodes: list[Any], constants: dict[str, Any], shape: tuple[Any, ...] = ("n", 6), output: str = "y", **graph: Any
) -> bytes:
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows", "classes"])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
        **graph,
    )
    opset = [helper.make_opsetid("", 17)]
    data: bytes = helper.make_model(made, opset_imports=opset, ir_version=8).SerializeToString()
    return data


def gemm_net(**changes: Any) -> bytes:
    nodes = [
        node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        node("Relu", ["h"], ["a"]),
        node("Gemm", ["a", "w2", "b2"], ["y"], transB=1),
    ]
    return model(nodes, {"w1": W1, "b1": B1, "w2": W2, "b2": B2} | changes)


def saved(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "net.onnx").write_bytes(data)
    return tmp_path / "net.onnx"


SAME: dict[str, bytes] = {
    "gemm": gemm_net(),
    "alpha, beta, not transposed": model(
        [node("Gemm", ["x", "w", "b"], ["y"], alpha=0.5, beta=2.0)], {"w": W1.T.copy(), "b": B1}
    ),
    "no bias": model([node("Gemm", ["x", "w"], ["y"], transB=1)], {"w": W1}),
    "bias of one": model([node("Gemm", ["x", "w", "b"], ["y"], transB=1)], {"w": W1, "b": np.float32([2])}),
    "matmul, add either way round": model(
        [
            node("MatMul", ["x", "w1"], ["h"]), node("Add", ["b1", "h"], ["h1"]), node("Relu", ["h1"], ["a"]),
            node("MatMul", ["a", "w2"], ["l"]), node("Add", ["l", "b2"], ["y"]),
        ],
        {"w1": W1.T.copy(), "b1": B1, "w2": W2.T.copy(), "b2": B2},
    ),
    "constant nodes, transposed": model(
        [
            node("Constant", [], ["w"], value=numpy_helper.from_array(W1)),
            node("Transpose", ["w"], ["wt"], perm=[1, 0]),
            node("Constant", [], ["shape"], value_ints=[-1, 6]), node("Reshape", ["x", "shape"], ["flat"]),
            node("MatMul", ["flat", "wt"], ["y"]),
        ],
        {},
    ),
    "what changes nothing": model(
        [
            node("Identity", ["x"], ["x1"]), node("Cast", ["x1"], ["x2"], to=TensorProto.FLOAT),
            node("Gemm", ["x2", "w"], ["h"], transB=1), node("Dropout", ["h"], ["y"]),
        ],
        {"w": W1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("data", SAME.values(), ids=SAME)
def test_the_import_computes_what_onnx_runtime_computes(tmp_path: Path, data: bytes) -> None:
    path = saved(tmp_path, data)
    net = load_onnx(path)
    ours = trace(net, net.moments(X)).answer
    np.testing.assert_allclose(ours, onnx_scores(path, X), rtol=1e-5, atol=1e-5)


def test_trained_models_import_alike() -> None:
    """Gemm with Flatten, and MatMul + Add with Reshape, Dropout and a dropped Softmax, hold the same weights."""
    one, other = (load_onnx(GOLDEN / f"digits_{name}.onnx") for name in ("mlp", "matmul"))
    assert [layer.name for layer in one.layers] == ["fc1", "fc2"]
    assert (one.input_shape, other.input_shape) == ((8, 8), (1, 8, 8))
    for a, b in zip(one.layers, other.layers, strict=True):
        assert isinstance(a, FloatDense)
        assert isinstance(b, FloatDense)
        np.testing.assert_array_equal(a.weight, b.weight)
        np.testing.assert_array_equal(a.bias, b.bias)
        assert a.low == b.low == (0.0 if a.name == "fc1" else -np.inf)


def test_a_model_with_a_fixed_batch_of_one_runs_sample_by_sample(tmp_path: Path) -> None:
    path = saved(tmp_path, model([node("Gemm", ["x", "w"], ["y"], transB=1)], {"w": W1}, shape=(1, 6)))
    np.testing.assert_allclose(onnx_scores(path, X), X @ W1.T, rtol=1e-5, atol=1e-5)


def test_all_unsupported_nodes_are_listed_at_once(tmp_path: Path) -> None:
    nodes = [
        node("Gemm", ["x", "w1"], ["h"], name="fc1", transB=1),
        node("Det", ["h"], ["d"], name="squash"),
        node("Mul", ["d", "h"], ["m"]),
        node("Einsum", ["m", "h"], ["e"], equation="ij,ij->ij"),
        node("MatMul", ["h", "h"], ["l"], name="attend"),
        node("Sum", ["l", "e"], ["y"], name="late"),
        node("Hardmax", ["y"], ["unused"]),
    ]
    with pytest.raises(ModelError) as refusal:
        load_onnx(saved(tmp_path, model(nodes, {"w1": W1, "w2": W2})))
    assert str(refusal.value) == (
        "net.onnx: 3 nodes are not supported: squash (Det), #3 (Einsum), "
        "attend (MatMul: multiplies two values as matrices, as attention does); "
        "replace them in the model, or export the part before them with onnx.utils.extract_model"
    )


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "weights that flow": (lambda: model([node("MatMul", ["x", "x"], ["y"])], {}), "multiplies two values as matrices"),
    "cast to integers": (
        lambda: model([node("Cast", ["x"], ["h"], to=TensorProto.INT32), node("Relu", ["h"], ["y"])], {}),
        "1 node is not supported: #0 \\(Cast: to a type that is no float\\)",
    ),
    "other sizes": (
        lambda: model([node("Reshape", ["x", "s"], ["y"])], {"s": np.int64([-1, 4])}), "Reshape: shape \\(1, 6\\) to",
    ),
    "only moves": (
        lambda: model([node("Reshape", ["x", "s"], ["y"])], {"s": np.int64([-1, 2, 3])}), "has no layer that computes",
    ),
    "odd bias": (lambda: gemm_net(b1=np.ones(3, np.float32)), "bias of shape \\(3,\\) for 4 units"),
    "3-d weights": (
        lambda: model([node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((2, 6, 3), np.float32)}), "weight of shape",
    ),
    "nan": (lambda: gemm_net(w2=W2 * np.float32(np.nan)), "layer w2: weight has 12 values that are not finite"),
    "widths": (
        lambda: gemm_net(w2=np.ones((3, 5), np.float32)),
        "Gemm: weight of shape \\(3, 5\\) on a value of shape \\(1, 4\\)",
    ),
    "no layer": (lambda: model([node("Identity", ["x"], ["y"])], {}), "has no layer that computes"),
    "a fixed batch": (
        lambda: model([node("Gemm", ["x", "w"], ["y"], transB=1)], {"w": W1}, shape=(32, 6)), "a fixed batch of 32",
    ),
    "text": (lambda: b"this is no model", "is no sound ONNX file"),
    "nothing": (lambda: b"", "is no sound ONNX file"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_imported_is_refused_in_one_line(tmp_path: Path, data: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as refusal:
        load_onnx(saved(tmp_path, data()))
    assert "\n" not in str(refusal.value)


def test_weights_in_a_file_beside_the_model_are_read(tmp_path: Path) -> None:
    """As torch.onnx.export writes them by default."""
    beside = tmp_path / "beside.onnx"
    onnx.save(
        onnx.load_from_string(gemm_net()), beside, save_as_external_data=True, location="w.data", size_threshold=0
    )
    assert (tmp_path / "w.data").stat().st_size > 0
    for got, want in zip(load_onnx(beside).layers, load_onnx(saved(tmp_path, gemm_net())).layers, strict=True):
        assert isinstance(got, FloatDense)
        assert isinstance(want, FloatDense)
        np.testing.assert_array_equal(got.weight, want.weight)
    np.testing.assert_array_equal(onnx_scores(beside, X), onnx_scores(saved(tmp_path, gemm_net()), X))
    assert source_files(beside) == (beside, tmp_path / "w.data")
    both = hashlib.sha256(beside.read_bytes() + (tmp_path / "w.data").read_bytes()).hexdigest()
    assert digest(*source_files(beside)) == both


ELSEWHERE = {
    "another folder": ({"location": "../../etc/passwd"}, "must be the name of a file beside the model"),
    "an absolute path": ({"location": "/etc/passwd"}, "must be the name of a file beside the model"),
    "nowhere": ({}, "is no sound ONNX file|must be the name of a file beside the model"),
    "the folder itself": ({"location": ".."}, "must be the name of a file beside the model|which is not there"),
    "a missing file": ({"location": "gone.data"}, "'gone.data', which is not there"),
    "behind the end": ({"location": "w.data", "offset": "4", "length": "8"}, "bytes 4 to 12, but that file ends at 8"),
    "before the beginning": ({"location": "w.data", "offset": "-4"}, "offset '-4', must be a whole number"),
    "too few bytes": ({"location": "w.data"}, "w1"),
}  # fmt: skip


@pytest.mark.parametrize(("entries", "reason"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_weights_elsewhere_are_refused(tmp_path: Path, entries: dict[str, str], reason: str) -> None:
    proto = onnx.load_from_string(gemm_net())
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    (tmp_path / "w.data").write_bytes(bytes(8))
    with pytest.raises(ModelError, match=reason) as refusal:
        load_onnx(saved(tmp_path, proto.SerializeToString()))
    assert "\n" not in str(refusal.value)


def test_weights_beside_the_model_count_to_what_a_model_may_take(tmp_path: Path) -> None:
    proto = onnx.load_from_string(gemm_net())
    for tensor in proto.graph.initializer:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.data")
    (tmp_path / "w.data").write_bytes(bytes(8))
    with pytest.raises(ModelError, match="8 bytes, and only 4 are left"):
        fetch(tmp_path / "m.onnx", proto, 12)


def test_damaged_files_are_refused_in_one_line_or_read(tmp_path: Path) -> None:
    whole, rng, refusals = (GOLDEN / "digits_mlp.onnx").read_bytes(), np.random.default_rng(2), []
    for k in range(300):
        data = bytearray(whole[: rng.integers(0, len(whole))] if k % 3 == 0 else whole)
        for at in rng.integers(0, min(len(data), 600) or 1, 4 if data and k % 3 else 0):
            data[at] ^= 1 << rng.integers(8)
        try:
            load_onnx(saved(tmp_path, bytes(data)))
        except ModelError as err:
            refusals.append(str(err))
    assert len(refusals) > 100
    assert not any("\n" in refusal for refusal in refusals)
