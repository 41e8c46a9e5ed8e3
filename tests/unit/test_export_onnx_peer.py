"""What an export makes of ONNX Runtime's answers: rounding and ties pass, another net does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerun.arrays import F32
from edgerun.errors import ModelError
from exporters import measure
from exporters.data import Samples
from exporters.nodes import FloatDense
from exporters.twin import quantise_net

pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")

from onnx_graphs import answers, graph, node, saved

from exporters.onnx_import import load_onnx

RNG = np.random.default_rng(8)
WEIGHT = RNG.integers(-127, 128, (6, 4), np.int8)
X = RNG.normal(size=(40, 6)).astype(np.float32)
ZERO = np.int8(0)


def quantised_file(folder: Path) -> Path:
    """Quantise, multiply, quantise, dequantise, as quantisers write a dense layer."""
    maps: dict[str, Any] = {"sx": np.float32(0.03), "sw": np.float32(0.01), "sy": np.float32(0.05), "z": ZERO}
    nodes = [
        node("QuantizeLinear", ["x", "sx", "z"], ["xq"]),
        node("DequantizeLinear", ["xq", "sx", "z"], ["xr"]),
        node("DequantizeLinear", ["w", "sw", "z"], ["wr"]),
        node("MatMul", ["xr", "wr"], ["h"]),
        node("QuantizeLinear", ["h", "sy", "z"], ["hq"]),
        node("DequantizeLinear", ["hq", "sy", "z"], ["y"]),
    ]
    return saved(folder, graph(nodes, maps | {"w": WEIGHT}, ("n", 6)))


def test_a_quantised_file_is_held_to_integers_where_floats_part(tmp_path: Path) -> None:
    path, samples = quantised_file(tmp_path), Samples(X, np.zeros(len(X), np.int64))
    net = load_onnx(path)
    last = net.layers[-1]
    assert isinstance(last, FloatDense)
    other = replace(net, layers=(*net.layers[:-1], replace(last, weight=-last.weight)))
    floats: F32 = -measure.own_scores(quantise_net(net, samples), samples)
    measure.peer_scores(path, quantise_net(net, samples), samples, floats, values=False)
    with pytest.raises(ModelError, match=r"the import and ONNX Runtime disagree on \d+ of 40 samples"):
        measure.peer_scores(path, quantise_net(other, samples), samples, floats, values=False)


def test_ties_may_go_either_way() -> None:
    theirs = np.array([[2.0, 1.98, -2.0], [-2.0, 2.0, 0.0], [1.0, 0.0, -2.0]], np.float32)
    ours = np.array([[1.98, 2.0, -2.0], [-2.0, 2.0, 0.0], [0.0, 1.0, -2.0]], np.float32)
    assert measure.disagreements(ours, theirs) == 1
    assert measure.disagreements(theirs, theirs) == 0


def test_a_quantised_pool_is_compared_as_it_is_written(tmp_path: Path) -> None:
    """Fused, ONNX Runtime counts what a window of ceil_mode has outside; by itself, it does not."""
    maps: dict[str, Any] = {"s": np.float32(0.03), "z": ZERO}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        node("DequantizeLinear", ["xq", "s", "z"], ["xr"]),
        node("AveragePool", ["xr"], ["h"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, count_include_pad=1),
        node("QuantizeLinear", ["h", "s", "z"], ["hq"]),
        node("DequantizeLinear", ["hq", "s", "z"], ["y"]),
    ]
    path = saved(tmp_path, graph(nodes, maps, (1, 1, 5, 5)))
    _, ours, theirs = answers(path, RNG.uniform(0, 3, (8, 1, 5, 5)).astype(np.float32))
    assert np.abs(ours - theirs.reshape(ours.shape)).max() <= 0.03 + 1e-6


def test_both_products_of_an_attention_are_named(tmp_path: Path) -> None:
    nodes = [
        node("Transpose", ["x"], ["k"], perm=[0, 2, 1]),
        node("MatMul", ["x", "k"], ["scores"], name="scores"),
        node("Softmax", ["scores"], ["shares"]),
        node("MatMul", ["shares", "x"], ["y"], name="mixed"),
    ]
    with pytest.raises(ModelError, match=r"2 nodes are not supported: scores \(MatMul: multiplies two.*, mixed \(M"):
        load_onnx(saved(tmp_path, graph(nodes, {}, ("n", 4, 3))))


def test_integers_may_be_off_by_one_step_however_little_answers_vary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, samples = quantised_file(tmp_path), Samples(np.repeat(X[:1], 40, axis=0), np.zeros(40, np.int64))
    twin = quantise_net(load_onnx(path), samples)
    ours = measure.integer_answers(twin, samples)
    for steps in (1, 2):
        theirs = ours + np.float32(0.04 * steps)
        monkeypatch.setattr(measure, "runtime_scores", lambda *_, found=theirs: ("a runtime", found))
        if steps == 1:
            measure.peer_scores(path, twin, samples, ours - np.float32(1e-3), values=True)
            continue
        with pytest.raises(ModelError, match="of their spread off a runtime's values"):
            measure.peer_scores(path, twin, samples, ours - np.float32(1e-3), values=True)
