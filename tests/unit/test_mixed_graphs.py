"""A float graph of sums, products, functions, moves, norms and softmax becomes one bundle that computes the same."""

from __future__ import annotations

import numpy as np
import pytest

from edgerun.bundle import Bundle, Selftest, no_probe, pack, read_bundle
from edgerun.network import Network
from edgerun.spec import ClassTable, Head, Manifest, OutputSpec
from exporters.data import Samples
from exporters.float_net import FloatNet, forward
from exporters.nodes import (
    FloatAdd,
    FloatConcat,
    FloatDense,
    FloatLayer,
    FloatLayerNorm,
    FloatMul,
    FloatPad,
    FloatSlice,
    FloatSoftmax,
    FloatTranspose,
    FloatUnary,
)
from exporters.twin import Twin, quantise_net

IMAGE = (4, 4, 3)
CLASSES = 5
ROWS = 200


def graph(rng: np.random.Generator, *, log: bool) -> tuple[FloatLayer, ...]:
    """A block with a residual sum, a gate, a join, turned axes and a classifier."""
    return (
        FloatUnary("swish", IMAGE, "silu", sources=("input",)),
        FloatPad("pad", IMAGE, (1, 1, 0), (0, 0, 0)),
        FloatSlice("flip", (5, 5, 3), (4, 1, 0), (0, 5, 3), (-1, 1, 1)),
        FloatLayerNorm("norm", IMAGE, rng.normal(1, 0.2, 3), rng.normal(0, 0.2, 3), 1e-3),
        FloatAdd("sum", (IMAGE, IMAGE), (1, -1), low=-2.0, sources=("swish", "norm")),
        FloatDense("squeeze", dense(rng, 3, 48), np.zeros(3, np.float32)),
        FloatUnary("gate", (1, 1, 3), "sigmoid"),
        FloatMul("gated", (IMAGE, (1, 1, 3)), sources=("sum", "gate")),
        FloatConcat("join", (IMAGE, IMAGE), 2, sources=("gated", "swish")),
        FloatTranspose("turn", (4, 4, 6), (2, 0, 1)),
        FloatDense("logits", dense(rng, CLASSES, 96), np.zeros(CLASSES, np.float32)),
        FloatSoftmax("out", (CLASSES,), log=log),
    )


def dense(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    return (2 * rng.normal(size=(n, m)) / np.sqrt(m)).astype(np.float32)


def bundle_of(twin: Twin, samples: Samples) -> Bundle:
    last = twin.parts[-1]
    manifest = Manifest(
        name="mixed", input=twin.input, layers=tuple(part.layer for part in twin.parts),
        head=Head(kind="values"), classes=ClassTable(),
        output=OutputSpec(shape=last.layer.shape, scale=float(last.output.scale), zero_point=last.output.zero_point),
    )  # fmt: skip
    few = samples.take(np.arange(8))
    scores = Network(manifest, twin.tensors, (8,)).scores(twin.inputs(few))
    selftest = Selftest(x=twin.stored(few), y=scores)
    return read_bundle(pack(manifest, twin.tensors, selftest=selftest, probe=no_probe(manifest)))


@pytest.mark.parametrize("log", [False, True], ids=["softmax", "log-softmax"])
def test_a_graph_of_many_kinds_follows_its_float_model(log: bool) -> None:
    rng = np.random.default_rng(7)
    net = FloatNet("mixed", IMAGE, graph(rng, log=log))
    samples = Samples(rng.normal(size=(ROWS, *IMAGE)).astype(np.float32), np.full(ROWS, -1))
    twin = quantise_net(net, samples)
    bundle = bundle_of(twin, samples)
    assert [layer.name for layer in bundle.manifest.layers if "." in layer.name] == ["join.in0", "join.in1"]
    assert set(bundle.certificates) == {layer.name for layer in bundle.manifest.layers}
    got = Network(bundle.manifest, bundle.tensors, (ROWS,)).scores(twin.inputs(samples))
    output = bundle.manifest.output
    assert output is not None
    real = output.scale * (got.astype(np.float64) - output.zero_point)
    want = forward(net, net.moments(samples.x)).readings["out"]
    assert np.abs(np.exp(real) - np.exp(want) if log else real - want).max() < 0.06
    assert (real.argmax(axis=1) == want.argmax(axis=1)).mean() > 0.95
    single = Network(bundle.manifest, bundle.tensors)
    assert all(single.scores(q).tolist() == row.tolist() for q, row in zip(twin.inputs(samples)[:5], got, strict=False))
