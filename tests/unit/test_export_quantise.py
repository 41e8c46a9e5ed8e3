"""Quantisation: int8 within a point of float, integer spikes near float spikes, bounds that hold at the extremes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from floats import trace
from hypothesis import given
from hypothesis import strategies as st

from edgerun.certificate import certify
from edgerun.errors import ModelError
from edgerun.spec import InputSpec, PhaseRate
from exporters import data, measure
from exporters.calibrate import METHODS, Calibration, reach
from exporters.data import Samples
from exporters.float_net import FloatNet
from exporters.nodes import Affine, FloatDense, FloatLif, FloatReadout, Quantised, Range
from exporters.nodes.fixed import power_of_two
from exporters.twin import Twin, quantise_net, widen_readout

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def digits() -> Samples:
    return data.load(GOLDEN / "digits.npz", InputSpec(shape=(64,), dtype="uint8"))


@pytest.fixture(scope="module")
def spiking() -> FloatNet:
    pytest.importorskip("nir", reason="pip install 'edgerun[export]'")
    from exporters.nir_import import NirOptions, load_nir

    return load_nir(GOLDEN / "digits_rsnn.nir", NirOptions())


@pytest.fixture(scope="module")
def mlp() -> FloatNet:
    pytest.importorskip("onnx", reason="pip install 'edgerun[export]'")
    pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")
    from exporters.onnx_import import load_onnx

    return load_onnx(GOLDEN / "digits_mlp.onnx")


def halves(samples: Samples) -> tuple[Samples, Samples]:
    """The images that the nets were trained on, and the others."""
    return samples.take(np.arange(0, len(samples), 2)), samples.take(np.arange(1, len(samples), 2))


def quantised(layer: FloatDense, x: Affine, reach: Range) -> Quantised:
    (part,) = layer.quantise((x,), reach)
    return part


def accuracy(twin: Twin, samples: Samples) -> float:
    scores = measure.scores(measure.bare_manifest(twin, 10), twin.tensors, twin.inputs(samples))
    return float((scores[:, :10].argmax(axis=1) == samples.y).mean())


# ------------------------------------------------------------------ whole nets


@pytest.mark.parametrize("method", METHODS)
def test_an_int8_mlp_is_within_a_point_of_float(mlp: FloatNet, digits: Samples, method: Any) -> None:
    train, test = halves(digits)
    twin = quantise_net(mlp, train, Calibration(method))
    real = float((trace(mlp, mlp.moments(test.x)).answer.argmax(axis=1) == test.y).mean())
    assert real > 0.95
    assert accuracy(twin, test) >= real - 0.01


def test_dense_outputs_are_near_their_float_values(mlp: FloatNet, digits: Samples) -> None:
    train, test = halves(digits)
    for gap in measure.layer_gaps(quantise_net(mlp, train), test).values():
        assert gap.rms < 0.005 * (gap.high - gap.low)


def test_an_integer_spiking_net_is_within_a_point_of_float(spiking: FloatNet, digits: Samples) -> None:
    train, test = halves(digits)
    twin = quantise_net(spiking, train)
    real = float((trace(spiking, twin.moments(test)).answer.argmax(axis=1) == test.y).mean())
    assert real > 0.94
    assert accuracy(twin, test) >= real - 0.01


def test_few_integer_spikes_differ_from_float_spikes(spiking: FloatNet, digits: Samples) -> None:
    train, test = halves(digits)
    lif, readout = measure.layer_gaps(quantise_net(spiking, train), test).values()
    assert lif.rms < 0.03
    assert readout.rms < 0.01 * (readout.high - readout.low)


def test_weights_that_int8_holds_give_the_same_spikes_to_the_bit() -> None:
    """Short binary fractions, a decay of a half and a threshold just under one, so that a tie spikes in floats too."""
    rng = np.random.default_rng(1)
    n, m = 12, 9
    lif = FloatLif(
        "lif",
        rng.integers(-20, 40, (n, m)).astype(np.float32) / 64,
        rng.integers(-20, 20, (n, n)).astype(np.float32) / 64,
        rng.integers(-9, 9, n).astype(np.float32) / 128,
        np.full(n, 0.5, np.float32),
        np.full(n, 1 - 2**-16, np.float32),
        "subtract",
        True,
    )
    net = FloatNet("exact", (m,), (lif,), PhaseRate(steps=8, full_scale=16))
    samples = Samples(rng.integers(0, 17, (40, m)).astype(np.float64), np.zeros(40, np.int64))
    twin = quantise_net(net, samples)
    assert twin.parts[0].clipped == 0
    (gap,) = measure.layer_gaps(twin, samples).values()
    assert 0.05 < trace(net, twin.moments(samples)).spikes[0].mean() < 0.95
    assert gap.rms == 0
    counts = measure.scores(measure.bare_manifest(twin), twin.tensors, twin.inputs(samples))
    np.testing.assert_array_equal(counts, trace(net, twin.moments(samples)).spikes[0].sum(axis=0))


def test_thresholds_are_divided_out() -> None:
    """A layer and the same with weights, bias and thresholds doubled are one integer layer."""
    rng = np.random.default_rng(2)
    base = FloatLif(
        "lif", rng.normal(size=(4, 6)).astype(np.float32), None, rng.normal(size=4).astype(np.float32),
        np.full(4, 0.9, np.float32), np.ones(4, np.float32), "zero", False,
    )  # fmt: skip
    double = replace(base, weight=2 * base.weight, bias=2 * base.bias, threshold=2 * base.threshold)
    (one,), (other,) = (layer.quantise((Affine(1.0, 0),), Range(0.0, 1.0)) for layer in (base, double))
    assert one.layer == other.layer
    assert one.layer.threshold == 4096
    for name, array in one.tensors.items():
        np.testing.assert_array_equal(array, other.tensors[name])
    assert one.tensors["lif.input"].shape == (6, 4)
    assert set(one.tensors["lif.decay"].tolist()) == {round(0.9 * 2**15)}


# ------------------------------------------------------------------ dense


def test_the_bias_and_the_zero_point_are_folded() -> None:
    """By hand: x = 0.5 (q - 10), w = 2 and -1, b = 3, y = 0.25 (q + 20)."""
    layer = FloatDense("fc", np.float32([[2.0, -1.0]]), np.float32([3.0]))
    part = quantised(layer, Affine(0.5, 10), Range(-27.0, 36.75))
    assert part.output == Affine(0.25, -20)
    weight, bias = part.tensors["fc.weight"], part.tensors["fc.bias"]
    assert weight.tolist() == [[127, -64]]
    step = 2 / 127 * 0.5
    assert bias.tolist() == [round(3 / step) - 10 * (127 - 64)]
    scale = int(part.tensors["fc.multiplier"][0]) * 2.0 ** -int(part.tensors["fc.shift"][0])
    assert scale == pytest.approx(step / 0.25, rel=2**-23)


def test_relu_folds_into_the_lower_bound() -> None:
    layer = FloatDense("fc", np.float32([[1.0]]), np.float32([0.0]), low=0.0)
    part = quantised(layer, Affine(1.0, 0), Range(0.0, 255.0))
    assert (part.layer.zero_point, part.layer.qmin, part.layer.qmax) == (-128, -128, 127)
    bare = quantised(replace(layer, low=-np.inf), Affine(1.0, 0), Range(-100.0, 155.0))
    assert (bare.layer.zero_point, bare.layer.qmin) == (-28, -128)
    kept = quantised(layer, Affine(1.0, 0), Range(-100.0, 155.0))
    assert (kept.layer.zero_point, kept.layer.qmin) == (-28, -28)


@given(
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-20, 20),
    bias=st.floats(-1e9, 1e9),
    x_scale=st.floats(1e-4, 10.0),
    zero=st.integers(-128, 127),
)
def test_every_channel_keeps_its_bounds(seed: int, exponent: int, bias: float, x_scale: float, zero: int) -> None:
    """Bias under 2**28, requantisation scale in [2**-23, 2**23), certified; or refused by name."""
    rng = np.random.default_rng(seed)
    weight = (rng.normal(size=(3, 5)) * 2.0**exponent).astype(np.float32)
    weight[0] = 0
    layer = FloatDense("fc", weight, np.full(3, bias, np.float32))
    try:
        part = quantised(layer, Affine(x_scale, zero), Range(-5.0, 20.0))
    except ModelError as err:
        assert "layer fc channel" in str(err)  # noqa: PT017 - either way is right
        return
    tensors: Any = part.tensors
    assert np.abs(tensors["fc.bias"]).max() < 1 << 28
    part.layer.proof(tensors)


def test_a_huge_bias_raises_the_weight_scale_and_stays_right() -> None:
    layer = FloatDense("fc", np.float32([[1e-7, -1e-7]]), np.float32([40.0]))
    part = quantised(layer, Affine(0.1, 0), Range(0.0, 51.0))
    scale = int(part.tensors["fc.multiplier"][0]) * 2.0 ** -int(part.tensors["fc.shift"][0])
    assert 1 << 26 < int(part.tensors["fc.bias"][0]) < 1 << 28
    assert int(part.tensors["fc.bias"][0]) * scale * part.output.scale == pytest.approx(40.0, rel=1e-6)


def test_a_scale_that_cannot_be_held_is_refused_by_channel() -> None:
    layer = FloatDense("fc", np.float32([[0.0], [3e30]]), np.float32([0.0, 0.0]))
    with pytest.raises(ModelError, match=r"layer fc channel 1: scale .* is outside"):
        quantised(layer, Affine(1.0, 0), Range(0.0, 1.0))


# ------------------------------------------------------------------ power-of-two scales


def test_the_exponent_weighs_clipping_against_resolution() -> None:
    fine = np.linspace(-0.49, 0.49, 999)
    assert power_of_two([fine])[0] == 8  # 0.49 * 2**8 = 125
    assert power_of_two([np.append(fine, 0.52)])[::2] == (8, 1 / 1000)  # one small clip is cheaper than half the steps
    f, _, clipped = power_of_two([np.append(fine, 30.0)])
    assert (f, clipped) == (2, 0.0)  # a large one is not


def test_input_and_recurrent_weights_share_one_exponent() -> None:
    f, (a, b), _ = power_of_two([np.array([0.01]), np.array([0.9])])
    assert (f, a.tolist(), b.tolist()) == (7, [1.0], [115.0])


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=50))
def test_no_other_exponent_has_less_squared_error(weights: list[float]) -> None:
    w = np.array(weights)
    best, (q,), _ = power_of_two([w])
    error = np.square(q * 2.0**-best - w).sum()
    for f in range(21):
        other = np.clip(np.rint(w * 2.0**f), -127, 127) * 2.0**-f
        assert error <= np.square(other - w).sum()


def test_a_wide_readout_is_halved_until_its_drive_is_certain() -> None:
    half = np.full((2, 300), 0.5, np.float32)
    layer = FloatReadout("out", half, np.zeros(2, np.float32), np.full(2, 0.9, np.float32))
    (part,) = layer.quantise((Affine(1.0, 0),), Range(0.0, 0.0))
    net = FloatNet("n", (300,), (layer,), PhaseRate(steps=8, full_scale=16))
    twin = Twin(net, InputSpec(shape=(300,)), (part,))
    certify(measure.bare_manifest(twin, 2), twin.tensors)
    weight = part.tensors["out.input"].astype(np.float64) * 2.0**-part.layer.weight_exponent * 2.0**24
    np.testing.assert_allclose(weight * part.output.scale, 0.5, rtol=0.01)


def test_a_readout_grows_by_silent_rows(spiking: FloatNet, digits: Samples) -> None:
    twin = quantise_net(spiking, digits)
    wide = widen_readout(twin, 12)
    assert wide.parts[-1].layer.outputs == 12
    assert widen_readout(twin, 10) is twin
    q = twin.inputs(digits.take(np.arange(40)))
    before = measure.scores(measure.bare_manifest(twin, 10), twin.tensors, q)
    after = measure.scores(measure.bare_manifest(wide, 12), wide.tensors, q)
    np.testing.assert_array_equal(after[:, :10], before)
    assert not after[:, 10:].any()


# ------------------------------------------------------------------ ranges


def test_ranges_hold_zero_and_zero_is_exact() -> None:
    for low, high in ((3.0, 5.0), (-7.0, -2.0), (-1.0, 2.0), (0.0, 0.0)):
        affine = reach(np.array([low, high])).affine()
        assert -128 <= affine.zero_point <= 127
        assert affine.scale > 0
    assert reach(np.array([3.0, 5.0])) == Range(0.0, 5.0)


def test_a_percentile_cuts_what_is_rare() -> None:
    values = np.append(np.linspace(0, 1, 9999), 1000.0)
    assert reach(values).high == 1000.0
    assert reach(values, Calibration("percentile", 99.9)).high < 1.01
