"""Exports without classes or labels: outputs that mean something, and integers that a device takes as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerun import cli
from edgerun.arrays import AnyArray
from edgerun.bundle import Bundle, open_bundle
from edgerun.errors import ModelError
from edgerun.layers.base import INPUT
from edgerun.network import Network
from edgerun.spec import Direct, Frames, Head, OutputSpec, PhaseRate
from exporters import measure
from exporters.data import Samples
from exporters.float_net import FloatNet, forward
from exporters.nodes import Affine, FloatDense, FloatLif, FloatReadout
from exporters.twin import Twin, input_form, quantise_net

Capture = pytest.CaptureFixture[str]
GOLDEN = Path(__file__).parents[1] / "golden"
RNG = np.random.default_rng(12)


def needs_onnx() -> None:
    pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")


@pytest.fixture
def digits(tmp_path: Path) -> dict[str, AnyArray]:
    needs_onnx()
    with np.load(GOLDEN / "digits.npz") as file:
        return dict(file)


def export(folder: Path, *extra: str, model: str = "digits_mlp.onnx", **arrays: Any) -> tuple[Bundle, dict[str, Any]]:
    np.savez(folder / "data.npz", **arrays)
    out = folder / "out.edgb"
    arguments = ["export", str(GOLDEN / model), "--calibrate", str(folder / "data.npz"), "-o", str(out)]
    assert cli.main([*arguments, "--report", str(folder / "report.json"), *extra]) == 0
    return open_bundle(out), json.loads((folder / "report.json").read_text())


def refused(folder: Path, capsys: Capture, *extra: str, **arrays: Any) -> str:
    np.savez(folder / "data.npz", **arrays)
    arguments = ["export", str(GOLDEN / "digits_mlp.onnx"), "--calibrate", str(folder / "data.npz")]
    capsys.readouterr()
    assert cli.main([*arguments, "-o", str(folder / "out.edgb"), *extra]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    return captured.err


# ------------------------------------------------------------------ values


def test_data_without_labels_make_the_outputs_the_answer(
    tmp_path: Path, digits: dict[str, AnyArray], capsys: Capture
) -> None:
    bundle, report = export(tmp_path, x=digits["x"])
    page = capsys.readouterr().out
    manifest = bundle.manifest
    assert (manifest.head, manifest.classes.names, manifest.classes.capacity) == (Head(kind="values"), (), 0)
    assert len(bundle.probe.x) == 0
    accuracy = report["accuracy"]
    assert (accuracy["integer"], accuracy["float_model"], accuracy["agreement"]) == (None, None, None)
    assert (accuracy["samples"], accuracy["apart"]) == (128, True)
    assert 0 < accuracy["output_error"] < 0.05
    assert manifest.provenance.output_error == accuracy["output_error"]
    assert "values: " in page
    assert "the outputs are the answer (a classifier wants --head logits)" in page
    for command in ("verify", "inspect"):
        assert cli.main([command, str(tmp_path / "out.edgb")]) == 0
        assert "of their spread away from the float model's" in capsys.readouterr().out


def test_what_infer_writes_is_what_the_float_model_says(tmp_path: Path, digits: dict[str, AnyArray]) -> None:
    from exporters.onnx_import import onnx_scores

    bundle, report = export(tmp_path, x=digits["x"])
    out = tmp_path / "answers.npz"
    assert cli.main(["infer", str(tmp_path / "out.edgb"), str(tmp_path / "data.npz"), "-o", str(out)]) == 0
    with np.load(out) as file:
        real = (file["y"] - file["y_zero_point"]) * file["y_scale"]
    want = onnx_scores(GOLDEN / "digits_mlp.onnx", digits["x"].astype(np.float32))
    assert bundle.manifest.output == OutputSpec(
        shape=(10,), scale=float(np.load(out)["y_scale"]), zero_point=int(np.load(out)["y_zero_point"])
    )
    error = measure.spread_error(real[-128:], want[-128:])
    assert error == pytest.approx(report["accuracy"]["output_error"], rel=1e-6)


def test_a_softmax_at_the_end_stays_where_values_are_the_answer(tmp_path: Path, digits: dict[str, AnyArray]) -> None:
    from exporters.onnx_import import onnx_scores

    model, x = "digits_matmul.onnx", digits["x"]
    want = onnx_scores(GOLDEN / model, x.astype(np.float32))
    values, report = export(tmp_path, model=model, x=x)
    assert values.manifest.layers[-1].__struct_config__.tag == "softmax"
    assert (report["accuracy"]["output_error"] < 0.05, values.manifest.output.softmax) == (True, None)
    assert not any("left out" in note for note in report["notes"])

    classes, report = export(tmp_path, model=model, x=x, y=digits["y"])
    assert classes.manifest.output.softmax == 1.0
    assert any("is left out" in note for note in report["notes"])
    out = tmp_path / "answers.npz"
    assert cli.main(["infer", str(tmp_path / "out.edgb"), str(tmp_path / "data.npz"), "-o", str(out)]) == 0
    with np.load(out) as file:
        assert np.abs(file["probability"] - want).max() < 0.1
        np.testing.assert_allclose(file["probability"].sum(axis=1), 1, rtol=1e-6)


def test_real_targets_are_no_labels(tmp_path: Path, digits: dict[str, AnyArray], capsys: Capture) -> None:
    targets = digits["y"] / 3
    assert "labels are float64, must be whole numbers (--head values needs none)" in refused(
        tmp_path, capsys, x=digits["x"], y=targets
    )
    bundle, _ = export(tmp_path, "--head", "values", x=digits["x"], y=targets)
    assert bundle.manifest.head.kind == "values"
    with_labels, _ = export(tmp_path, "--head", "values", x=digits["x"], y=digits["y"])
    assert with_labels.manifest.classes.names == ()


def test_a_values_export_explains_itself_and_can_be_tested(tmp_path: Path, digits: dict[str, AnyArray]) -> None:
    np.savez(tmp_path / "test.npz", x=digits["x"][:300])
    page = tmp_path / "report.html"
    bundle, report = export(tmp_path, "--test", str(tmp_path / "test.npz"), x=digits["x"][300:])
    assert report["accuracy"]["samples"] == 300
    assert report["explanation"]["confusion_integer"] == []
    assert all(layer["accuracy_share"] == 0 for layer in report["explanation"]["layers"])
    export(tmp_path, "--report", str(page), x=digits["x"])
    text = page.read_text()
    assert "of their spread are the outputs off the floats" in text
    assert "nan" not in text
    assert bundle.manifest.head.kind == "values"


def test_few_samples_serve_both_ends(tmp_path: Path, digits: dict[str, AnyArray]) -> None:
    _, report = export(tmp_path, x=digits["x"][:4])
    assert (report["accuracy"]["samples"], report["accuracy"]["apart"]) == (4, False)


CONTRADICTIONS = {
    "learning": (["--head", "values", "--learn", "prototypes"], "--head values has no classes: --learn does not go"),
    "classes": (["--head", "values", "--classes", "a,b"], "--head values has no classes: --classes does not go"),
    "capacity": (["--head", "values", "--capacity", "12"], "--head values has no classes: --capacity does not go"),
    "prototypes": (["--learn", "prototypes"], "has 0 labelled samples"),
    "prototype head": (["--head", "prototypes"], "has 0 labelled samples"),
}


@pytest.mark.parametrize(("extra", "reason"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_what_needs_labels_says_so(
    tmp_path: Path, digits: dict[str, AnyArray], capsys: Capture, extra: list[str], reason: str
) -> None:
    assert reason in refused(tmp_path, capsys, *extra, x=digits["x"])


def test_an_import_whose_values_differ_is_refused(tmp_path: Path, digits: dict[str, AnyArray]) -> None:
    from dataclasses import replace

    from exporters.onnx_import import load_onnx

    net = load_onnx(GOLDEN / "digits_mlp.onnx")
    last = net.layers[-1]
    assert isinstance(last, FloatDense)
    samples = Samples(digits["x"].astype(np.float32), np.full(len(digits["x"]), -1))
    doubled = replace(net, layers=(*net.layers[:-1], replace(last, weight=2 * last.weight, bias=2 * last.bias)))
    twin = quantise_net(doubled, samples)
    ours = measure.own_scores(twin, samples)
    with pytest.raises(ModelError, match=r"the import is \d+\.\d+% of their spread off ONNX Runtime's values"):
        measure.peer_scores(GOLDEN / "digits_mlp.onnx", twin, samples, ours, values=True)
    measure.peer_scores(GOLDEN / "digits_mlp.onnx", twin, samples, ours, values=False)


def test_the_error_is_relative_to_how_much_the_outputs_vary() -> None:
    want = np.array([[10.0, 0.0], [12.0, 4.0]], np.float32)
    got = want.astype(np.float64) + 0.5
    assert measure.spread_error(got, want) == pytest.approx(0.5 / np.sqrt((1 + 1 + 4 + 4) / 4))
    still = np.full((3, 2), 8.0, np.float32)
    assert measure.spread_error(still + 0.004, still) == pytest.approx(0.5, rel=1e-3)
    assert measure.spread_error(np.zeros((3, 2)), np.zeros((3, 2), np.float32)) == 0


# ------------------------------------------------------------------ classifiers without labels


@pytest.mark.parametrize("sign", ["--head", "--classes", "class_names"])
def test_a_classifier_is_calibrated_without_labels(
    tmp_path: Path, digits: dict[str, AnyArray], capsys: Capture, sign: str
) -> None:
    names = [f"digit {k}" for k in range(10)]
    extra = {"--head": ["--head", "logits"], "--classes": ["--classes", ",".join(names)]}.get(sign, [])
    more = {"class_names": np.array(names)} if sign == "class_names" else {}
    bundle, report = export(tmp_path, *extra, x=digits["x"], **more)
    assert bundle.manifest.head.kind == "logits"
    assert bundle.manifest.classes.names == (tuple("0123456789") if sign == "--head" else tuple(names))
    assert len(bundle.probe.x) == 0
    assert report["accuracy"]["agreement"] > 0.97
    assert report["accuracy"]["integer"] is None
    page = capsys.readouterr().out
    assert "no labels: the same class as in floats in " in page
    assert "the bundle has no probe" in page


def test_labels_for_the_test_alone_measure_an_accuracy(tmp_path: Path, digits: dict[str, AnyArray]) -> None:
    np.savez(tmp_path / "test.npz", x=digits["x"][1::2], y=digits["y"][1::2])
    bundle, report = export(tmp_path, "--head", "logits", "--test", str(tmp_path / "test.npz"), x=digits["x"][::2])
    assert report["accuracy"]["integer"] > 0.93
    assert bundle.manifest.provenance.integer_accuracy == report["accuracy"]["integer"]
    assert len(bundle.probe.x) == 0


def test_labelled_exports_say_what_their_outputs_mean_too(tmp_path: Path, digits: dict[str, AnyArray]) -> None:
    bundle, report = export(tmp_path, x=digits["x"], y=digits["y"])
    assert bundle.manifest.output is not None
    assert len(bundle.probe.x) >= 50
    assert report["accuracy"]["output_error"] < 0.05
    prototypes, report = export(tmp_path, "--learn", "prototypes", x=digits["x"], y=digits["y"])
    assert prototypes.manifest.output is None
    assert report["accuracy"]["output_error"] is None


def test_the_readout_of_a_spiking_net_means_something(tmp_path: Path) -> None:
    pytest.importorskip("nir", reason="pip install 'edgerun[export]'")
    with np.load(GOLDEN / "digits.npz") as file:
        x, y = file["x"], file["y"]
    bundle, report = export(tmp_path, model="digits_rsnn.nir", x=x, y=y)
    assert bundle.manifest.output is not None
    assert bundle.manifest.output.scale >= 2.0**-24
    assert report["accuracy"]["output_error"] < 0.3
    wide, _ = export(
        tmp_path, "--learn", "eprop", "--head", "logits", "--capacity", "14", model="digits_rsnn.nir", x=x, y=y
    )
    assert wide.manifest.output is not None
    assert wide.manifest.output.shape == (14,)


def test_recordings_of_any_length_are_exported(tmp_path: Path, digits: dict[str, AnyArray], capsys: Capture) -> None:
    lengths = RNG.integers(60, 69, len(digits["x"]))
    cut = [np.pad(row, (0, 8))[:n] for row, n in zip(digits["x"].reshape(-1, 64), lengths, strict=True)]
    ragged = {"samples": np.concatenate(cut).astype(np.int16), "offsets": np.concatenate([[0], np.cumsum(lengths)])}
    _, report = export(tmp_path, **ragged, label=digits["y"])
    assert "recordings are 60 to 68 long, the window is 64" in capsys.readouterr().out
    assert report["accuracy"]["integer"] > 0.9
    assert "recordings are 60 to 68 long, the window is 64; --window fit" in refused(
        tmp_path, capsys, "--window", "refuse", **ragged, label=digits["y"]
    )


# ------------------------------------------------------------------ integers of the input's own dtype


def net(**change: Any) -> FloatNet:
    weight, bias = RNG.normal(size=(4, 6)), RNG.normal(size=4)
    return FloatNet("net", (6,), (FloatDense("out", weight.astype(np.float32), bias.astype(np.float32)),), **change)


def as_samples(x: AnyArray) -> Samples:
    return Samples(x, np.full(len(x), -1))


def same_on_device(twin: Twin, x: AnyArray) -> None:
    """The floats that calibration saw, quantised by the device, are the integers that the device makes of x itself."""
    samples = as_samples(x)
    device = twin.inputs(samples)
    np.testing.assert_array_equal(device, twin.inputs(as_samples(np.asarray(twin.real(samples), np.float64))))


def outputs(twin: Twin, x: AnyArray) -> AnyArray:
    manifest = measure.bare_manifest(twin)
    part = twin.parts[-1]
    return measure.real(Network(manifest, twin.tensors, (len(x),)).outputs(twin.inputs(as_samples(x))), part.output)


@pytest.mark.parametrize("low", [-90, 3])
def test_int8_data_of_a_float_model_are_its_integers(low: int) -> None:
    x = RNG.integers(low, 50, (60, 6)).astype(np.int8)
    twin = quantise_net(net(), as_samples(x))
    assert (twin.input.dtype, twin.input.scale, twin.input.zero_point) == ("int8", 1.0, 0)
    np.testing.assert_array_equal(twin.inputs(as_samples(x)), x)
    same_on_device(twin, x)
    want = forward(twin.net, twin.net.moments(x.astype(np.float32))).readings["out"]
    assert measure.spread_error(outputs(twin, x), want) < 0.02


def test_uint8_data_of_an_int8_input_are_real() -> None:
    x = RNG.integers(0, 200, (60, 6)).astype(np.uint8)
    twin = quantise_net(net(), as_samples(x))
    assert (twin.input.dtype, twin.input.zero_point) == ("int8", -128)
    same_on_device(twin, x)
    np.testing.assert_array_equal(twin.real(as_samples(x)), x)


@pytest.mark.parametrize(("offset", "dtype"), [(0, np.int8), (128, np.uint8)])
def test_data_that_a_file_has_quantised_are_dequantised_for_the_floats(offset: int, dtype: Any) -> None:
    q = RNG.integers(-128, 128, (60, 6))
    fixed = net(input=Affine(0.05, 7), encoder=Direct(offset=offset))
    x = (q + offset).astype(dtype)
    twin = quantise_net(fixed, as_samples(x))
    assert (twin.input.dtype, twin.input.scale, twin.input.zero_point) == (np.dtype(dtype).name, 0.05, 7 + offset)
    np.testing.assert_array_equal(twin.inputs(as_samples(x)), x)
    np.testing.assert_allclose(twin.real(as_samples(x)), (q - 7) * 0.05)
    same_on_device(twin, x)
    want = forward(fixed, fixed.moments((q - 7) * 0.05)).readings["out"]
    assert measure.spread_error(outputs(twin, x), want) < 0.02
    as_floats = quantise_net(fixed, as_samples((q - 7) * 0.05))
    np.testing.assert_array_equal(outputs(as_floats, (q - 7) * 0.05), outputs(twin, x))
    assert input_form(fixed).zero_point == 7 + offset


def test_uint8_data_of_a_free_uint8_input_are_its_integers() -> None:
    x = RNG.integers(0, 200, (60, 6)).astype(np.uint8)
    twin = quantise_net(net(encoder=Direct(offset=128)), as_samples(x))
    assert (twin.input.dtype, twin.input.scale, twin.input.zero_point) == ("uint8", 1.0, 0)
    assert twin.maps[INPUT] == Affine(1.0, -128)
    same_on_device(twin, x)


def test_recordings_of_int8_are_kept() -> None:
    frames = FloatNet("net", (3, 2), net_layers(2), encoder=Frames())
    x = RNG.integers(-100, 100, (60, 3, 2)).astype(np.int8)
    twin = quantise_net(frames, as_samples(x))
    assert (twin.input.scale, twin.input.zero_point) == (1.0, 0)
    same_on_device(twin, x)


def net_layers(inputs: int) -> Any:
    return (FloatDense("out", RNG.normal(size=(4, inputs)).astype(np.float32), np.zeros(4, np.float32)),)


def spiking(full_scale: int, **change: Any) -> FloatNet:
    weight = RNG.uniform(0, 1, (8, 6)).astype(np.float32)
    layers = (
        FloatLif("lif", weight, None, np.zeros(8, np.float32), np.full(8, 0.9, np.float32), np.ones(8, np.float32)),
        FloatReadout(
            "out", RNG.normal(size=(3, 8)).astype(np.float32), np.zeros(3, np.float32), np.full(3, 0.9, np.float32)
        ),
    )
    return FloatNet("net", (6,), layers, encoder=PhaseRate(steps=8, full_scale=full_scale), **change)


@pytest.mark.parametrize(("top", "dtype", "scale"), [(17, "uint8", 1.0), (256, "int8", 255 / 16)])
def test_uint8_data_are_steps_of_a_rate_code_or_real(top: int, dtype: str, scale: float) -> None:
    x = RNG.integers(0, top, (60, 6)).astype(np.uint8)
    x[0, 0] = top - 1
    twin = quantise_net(spiking(16), as_samples(x))
    assert (twin.input.dtype, twin.input.scale) == (dtype, scale)
    same_on_device(twin, x)
    floats = quantise_net(spiking(16), as_samples(x.astype(np.float32)))
    assert floats.input.scale == scale
    np.testing.assert_array_equal(twin.inputs(as_samples(x)), floats.inputs(as_samples(x.astype(np.float32))))


def test_uint8_data_that_no_dtype_can_tell_from_steps_are_refused() -> None:
    x = np.full((60, 6), 255, np.uint8)
    with pytest.raises(ModelError, match=r"uint8 data would be taken as steps of 0 to 200, but one step is 1.275"):
        quantise_net(spiking(200), as_samples(x))
    assert quantise_net(spiking(255), as_samples(x)).input.scale == 1.0


def test_samples_that_are_all_alike_are_refused(tmp_path: Path, digits: dict[str, AnyArray], capsys: Capture) -> None:
    same = np.repeat(digits["x"][:1], 60, axis=0)
    assert "data.npz: all 60 samples are alike, nothing" in refused(tmp_path, capsys, x=same)


def test_samples_that_nobody_has_labelled_may_be_among_others(tmp_path: Path, digits: dict[str, AnyArray]) -> None:
    y = np.where(np.arange(len(digits["y"])) % 2, -1, digits["y"].astype(np.int64))
    bundle, report = export(tmp_path, x=digits["x"], y=y)
    assert (bundle.probe.label >= 0).all()
    assert report["accuracy"]["integer"] > 0.9
