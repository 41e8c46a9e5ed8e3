"""Whole models by other people's exporters: torch's two, skl2onnx; the import computes what ONNX Runtime computes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from exporters.float_net import forward
from exporters.nodes import FloatTranspose

pytest.importorskip("onnx", reason="pip install 'edgerun[export]'")
pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")

from onnx_graphs import answers

from exporters.onnx_import import load_onnx, onnx_scores

ROOT = Path(__file__).parents[2]
TORCH = sorted((ROOT / "benchmarks" / "export" / "models").glob("*.onnx"))
SKLEARN = sorted((ROOT / "tests" / "golden" / "onnx").glob("*.onnx"))

KINDS = {
    "fashion_cnn": "Conv Pool Conv Pool Conv Dense",
    "fashion_cnn_legacy": "Conv Pool Conv Pool Conv Dense",
    "fashion_cnn_plain": "Conv Pool Conv Pool Conv Dense",
    "imu_gru": "Gru Dense",
    "imu_gru_legacy": "Gru Dense",
    "imu_lstm": "Lstm Dense",
    "imu_lstm_free_batch": "Lstm Dense",
    "resnet8": "Transpose Conv Conv Conv Add Conv Conv Conv Add Conv Conv Conv Add Pool Dense",
}


@pytest.mark.parametrize("path", TORCH, ids=[path.stem for path in TORCH])
def test_what_torch_exported_is_computed_alike(path: Path) -> None:
    net = load_onnx(path)
    x = np.random.default_rng(4).normal(size=(3, *net.input_shape)).astype(np.float32)
    net, ours, theirs = answers(path, x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
    assert sum(isinstance(layer, FloatTranspose) for layer in net.layers) <= (net.input_shape[0] > 1)
    if path.stem in KINDS:
        assert " ".join(type(layer).__name__.removeprefix("Float") for layer in net.layers) == KINDS[path.stem]


@pytest.mark.parametrize("path", SKLEARN, ids=[path.stem for path in SKLEARN])
def test_what_scikit_learn_learned_decides_alike(path: Path) -> None:
    """Scores instead of labels; what only normalises them is left out, and then done here."""
    x = np.random.default_rng(4).uniform(0, 8, (40, 4)).astype(np.float32)
    net, ours, theirs = answers(path, x)
    if net.left_out is not None:
        ours = np.exp(ours - ours.max(axis=1, keepdims=True))
    if net.left_out is not None or "normaliser" in " ".join(net.notes):
        ours = ours / ours.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert net.outputs == theirs.shape[1]


def test_both_exporters_give_the_same_net() -> None:
    """torch.export and TorchScript write one model in different words."""
    for name in ("fashion_cnn", "kws_dscnn", "imu_gru", "speech_conv1d"):
        one, other = (
            load_onnx(ROOT / "benchmarks" / "export" / "models" / f"{name}{end}.onnx") for end in ("", "_legacy")
        )
        assert [type(layer) for layer in one.layers] == [type(layer) for layer in other.layers]
        assert one.input_shape == other.input_shape
        x = np.random.default_rng(4).normal(size=(2, math.prod(one.input_shape))).astype(np.float32)
        ends = [forward(net, net.moments(x)).readings[net.layers[-1].name] for net in (one, other)]
        np.testing.assert_allclose(ends[0], ends[1], rtol=1e-4, atol=1e-4)


def test_a_softmax_at_the_end_moves_no_decision() -> None:
    path = ROOT / "tests" / "golden" / "digits_matmul.onnx"
    net = load_onnx(path)
    x = np.random.default_rng(4).normal(size=(20, *net.input_shape)).astype(np.float32)
    ours = forward(net, net.moments(x)).readings[net.layers[-1].name]
    assert (ours.argmax(axis=1) == onnx_scores(path, x).argmax(axis=1)).all()
    assert net.left_out is not None
    whole = net.whole()
    probabilities = forward(whole, whole.moments(x)).readings[whole.layers[-1].name]
    np.testing.assert_allclose(probabilities, onnx_scores(path, x), rtol=1e-4, atol=1e-6)
