"""The whole export: real model files become bundles that verify, and every wrong input is one line and exit code 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerun import cli
from edgerun.arrays import AnyArray
from edgerun.bundle import Bundle, open_bundle, read_bundle
from edgerun.commands.verify import verify
from edgerun.learn.learner import Learner
from edgerun.network import Network
from edgerun.spec import Dense, Lif, PhaseRate, Readout

pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")
pytest.importorskip("nir", reason="pip install 'edgerun[export]'")

from exporters import export as exporting
from exporters import learning

Capture = pytest.CaptureFixture[str]
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.npz and test.npz: the images that the models were trained on, and the others; seen.npz: digits 0 to 7."""
    folder = tmp_path_factory.mktemp("digits")
    digits = np.load(GOLDEN / "digits.npz")
    x, y = digits["x"], digits["y"]
    np.savez(folder / "train.npz", x=x[::2], y=y[::2])
    np.savez(folder / "test.npz", x=x[1::2], y=y[1::2])
    old = np.flatnonzero(y[::2] < 8)
    np.savez(folder / "seen.npz", x=x[::2][old], y=y[::2][old])
    return folder


def export(files: Path, model: str, *extra: str, data: str = "train.npz") -> tuple[Bundle, dict[str, Any]]:
    out, report = files / "out.edgb", files / "report.json"
    arguments = ["export", str(GOLDEN / model), "--calibrate", str(files / data), "-o", str(out)]
    assert cli.main([*arguments, "--report", str(report), *extra]) == 0
    return open_bundle(out), json.loads(report.read_text())


@pytest.mark.parametrize(
    ("model", "learn", "kinds", "margin"),
    [
        ("digits_mlp.onnx", "none", [Dense, Dense], 0.01),
        ("digits_matmul.onnx", "none", [Dense, Dense], 0.01),
        ("digits_mlp.onnx", "prototypes", [Dense], 0.02),
        ("digits_rsnn.nir", "none", [Lif, Readout], 0.01),
        ("digits_rsnn.nir", "prototypes", [Lif], 0.02),
        ("digits_rsnn.nir", "eprop", [Lif, Readout], 0.02),
    ],
)
def test_a_trained_model_becomes_a_bundle_that_verifies(
    files: Path, model: str, learn: str, kinds: list[type], margin: float
) -> None:
    bundle, report = export(files, model, "--learn", learn, "--test", str(files / "test.npz"))
    assert [type(layer) for layer in bundle.manifest.layers] == kinds
    assert verify(bundle).probe_accuracy > 0.9
    accuracy = report["accuracy"]
    assert accuracy["samples"] == 898
    assert accuracy["float_model"] > 0.94
    assert accuracy["integer"] >= accuracy["float_model"] - margin
    provenance = bundle.manifest.provenance
    assert (provenance.float_accuracy, provenance.integer_accuracy) == (accuracy["float_model"], accuracy["integer"])
    assert report["id"] == bundle.id
    assert sum(size for _, size in report["sections"]) < report["bytes"] == bundle.size
    assert {layer["carrier"] for layer in report["layers"]} == {"float32-dot"}


@pytest.mark.parametrize("model", ["digits_mlp.onnx", "digits_rsnn.nir"])
def test_prototypes_may_measure_features_as_they_are(files: Path, model: str) -> None:
    given = (files, model, "--learn", "prototypes", "--test", str(files / "test.npz"))
    bundle, report = export(*given, "--whiten", "none")
    head, whitened = bundle.manifest.head, export(*given, "--whiten", "shared")[0]
    assert head.whiten is None
    assert whitened.manifest.head.whiten is not None
    assert "whiten.weight" in whitened.tensors
    assert not any(name.startswith("whiten") for name in bundle.tensors)
    assert verify(bundle).probe_accuracy > 0.85
    assert report["accuracy"]["integer"] > 0.85
    network, q = Network(bundle.manifest, bundle.tensors), bundle.probe.x[0].reshape(-1).astype(np.int16)
    scores = network.scores(q)
    assert (network.features() == network.layers[head.features or ""].reading()).all()
    assert (Network(whitened.manifest, whitened.tensors).scores(q) != scores).any()


def test_the_same_arguments_give_the_same_bytes(files: Path) -> None:
    assert (
        export(files, "digits_rsnn.nir", "--learn", "eprop")[0].id
        == export(files, "digits_rsnn.nir", "--learn", "eprop")[0].id
    )


def test_the_probe_holds_samples_that_calibration_did_not_see(files: Path) -> None:
    bundle, report = export(files, "digits_mlp.onnx")
    labels = np.bincount(bundle.probe.label)
    assert labels.sum() >= 50
    assert set(labels.tolist()) == {labels[0]}
    assert report["accuracy"]["apart"]
    assert 8 <= len(bundle.selftest.x) <= 32


def test_a_learning_bundle_knows_eight_digits_and_has_room_for_two(files: Path) -> None:
    names = ",".join(["zero", "one", "two", "three", "four", "five", "six", "seven"])
    arguments = ("--learn", "eprop", "--classes", names, "--capacity", "10", "--name", "digits", "--seq", "3")
    bundle, _ = export(files, "digits_rsnn.nir", *arguments, "--device-class", "pi", data="seen.npz")
    manifest = bundle.manifest
    assert (manifest.name, manifest.seq, manifest.device_class) == ("digits", 3, "pi")
    assert (len(manifest.classes.names), manifest.classes.capacity) == (8, 10)
    assert manifest.encoder == PhaseRate(steps=16, full_scale=16)
    assert (manifest.input.dtype, manifest.input.scale) == ("uint8", 1.0)
    assert manifest.head.kind == "prototypes"
    assert bundle.tensors["head.sum"].shape == (8, 48)
    assert bundle.tensors["head.count"].sum() > 500
    assert manifest.learning == learning.learning_plan("eprop", manifest)
    assert manifest.learning.rule is not None
    assert [rate.tensor for rate in manifest.learning.rule.rates] == ["lif.input", "lif.recurrent", "out.input"]
    own = {name: array.copy() for name, array in bundle.tensors.items()}
    assert Learner(Network(manifest, own), priors=bundle.priors).classes == names.split(",")


def rows_of(x: AnyArray) -> set[bytes]:
    return {row.tobytes() for row in x}


def test_replay_starts_from_samples_of_every_class_that_nothing_else_holds(files: Path) -> None:
    bundle, _ = export(files, "digits_rsnn.nir", "--learn", "eprop", "--capacity", "10", data="seen.npz")
    exemplars = bundle.exemplars
    assert exemplars is not None
    assert np.bincount(exemplars.label).tolist() == [bundle.manifest.learning.replay.capacity // 8] * 8
    assert not rows_of(exemplars.x) & (rows_of(bundle.probe.x) | rows_of(bundle.selftest.x))
    seen = np.load(files / "seen.npz")
    truth = {row.tobytes(): label for row, label in zip(seen["x"].astype(np.uint8), seen["y"], strict=True)}
    assert [truth[row.tobytes()] for row in exemplars.x] == exemplars.label.tolist()
    assert export(files, "digits_mlp.onnx")[0].exemplars is None


def test_where_data_are_few_the_probe_keeps_its_samples(files: Path) -> None:
    seen = np.load(files / "seen.npz")
    np.savez(files / "few.npz", x=seen["x"][:60], y=seen["y"][:60])
    bundle, report = export(files, "digits_rsnn.nir", "--learn", "prototypes", data="few.npz")
    assert not report["accuracy"]["apart"]
    taken = rows_of(bundle.exemplars.x) if bundle.exemplars else set()
    assert not taken & (rows_of(bundle.probe.x) | rows_of(bundle.selftest.x))


def test_the_report_is_a_page_too(files: Path, capsys: Capture) -> None:
    export(files, "digits_rsnn.nir")
    page = capsys.readouterr().out
    for part in (
        "accuracy: integer",
        "lif (lif)",
        "out (readout)",
        "64 -> 48",
        "float32-dot",
        "probe.x",
        "membranes reach",
    ):
        assert part in page


def test_the_page_needs_no_rich(files: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.report.find_spec", lambda name: None)
    export(files, "digits_mlp.onnx")
    assert "fc1 (dense)" in capsys.readouterr().out


def test_a_signed_export_is_trusted_by_its_key(files: Path) -> None:
    pytest.importorskip("cryptography", reason="pip install 'edgerun[sign]'")
    assert cli.main(["keys", "new", str(files / "release")]) == 0
    export(files, "digits_mlp.onnx", "--sign", str(files / "release.key"))
    assert cli.main(["verify", str(files / "out.edgb"), "--trust", str(files / "release.pub")]) == 0


# ------------------------------------------------------------------ refusals


def refused(capsys: Capture, files: Path, model: Path | str, *extra: str, data: str = "train.npz") -> str:
    out = files / "refused.edgb"
    code = cli.main(["export", str(GOLDEN / model), "--calibrate", str(files / data), "-o", str(out), *extra])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err.count("\n") == 1
    assert not out.exists()
    return captured.err


ARGUMENTS: dict[str, tuple[str, list[str], str]] = {
    "format": ("golden_spikes.npz", [], "golden_spikes.npz: format .npz is none of .onnx, .tflite, .nir"),
    "missing": ("nothing.onnx", [], "nothing.onnx: No such file"),
    "steps": ("digits_rsnn.nir", ["--steps", "0"], "--steps 0 is outside [1, 1024]"),
    "features": ("digits_mlp.onnx", ["--learn", "prototypes", "--features", "fc9"], "'fc9' is none of fc1, fc2"),
    "capacity": ("digits_mlp.onnx", ["--capacity", "5"], "class capacity 5 is under the 10 factory classes"),
    "eprop on dense": ("digits_mlp.onnx", ["--learn", "eprop"], "--learn eprop needs a spiking model with a readout"),
    "too few classes": ("digits_mlp.onnx", ["--classes", "a,b"], "label 9 is outside the 2 classes"),
    "too many classes": ("digits_mlp.onnx", ["--classes", ",".join("abcdefghijkl")], "12 class names, but"),
    "class twice": ("digits_mlp.onnx", ["--classes", "a,b,c,d,e,f,g,h,i,a"], "--classes: 'a' is there twice"),
    "name": ("digits_mlp.onnx", ["--name", "two words"], "name"),
    "percentile": ("digits_mlp.onnx", ["--percentile", "3"], r"--percentile 3.0 is outside [90, 100]"),
    "key": ("digits_mlp.onnx", ["--sign", "no.key"], "no.key"),
}  # fmt: skip


@pytest.mark.parametrize(("model", "extra", "reason"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_wrong_arguments(capsys: Capture, files: Path, model: str, extra: list[str], reason: str) -> None:
    assert reason in refused(capsys, files, model, *extra)


DATA: dict[str, tuple[dict[str, Any], str]] = {
    "features": (
        {"x": np.ones((60, 63)), "y": np.zeros(60, int)},
        "a sample has 63 values (shape (63,))",
    ),
    "few": (
        {"x": np.ones((20, 64)), "y": np.zeros(20, int)},
        "has 20 labelled samples, a bundle's",
    ),
    "empty": ({"x": np.ones((0, 64)), "y": np.zeros(0, int)}, "there is no sample in it"),
    "huge": ({"x": np.full((60, 64), 1e300), "y": np.zeros(60, int)}, "overflow"),
}


@pytest.mark.parametrize(("arrays", "reason"), DATA.values(), ids=DATA)
def test_wrong_data(capsys: Capture, files: Path, arrays: dict[str, Any], reason: str) -> None:
    np.savez(files / "wrong.npz", **arrays)
    assert reason in refused(capsys, files, "digits_mlp.onnx", data="wrong.npz")


def test_a_rate_code_takes_no_negative_values(capsys: Capture, files: Path) -> None:
    np.savez(files / "wrong.npz", x=np.full((60, 64), -1.0), y=np.zeros(60, int))
    assert "calibration data reach down to -1" in refused(capsys, files, "digits_rsnn.nir", data="wrong.npz")


def test_damaged_models_end_in_one_line_or_in_a_sound_bundle(capsys: Capture, files: Path, tmp_path: Path) -> None:
    whole, rng, out = (GOLDEN / "digits_mlp.onnx").read_bytes(), np.random.default_rng(6), files / "damaged.edgb"
    for _ in range(25):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 40):
            data[at] ^= 1 << rng.integers(8)
        (tmp_path / "damaged.onnx").write_bytes(data)
        arguments = ["export", str(tmp_path / "damaged.onnx"), "--calibrate", str(files / "train.npz"), "-o", str(out)]
        code, printed = cli.main(arguments), capsys.readouterr()
        assert code in (0, 2)
        if code == 0:
            verify(open_bundle(out))
        else:
            assert printed.err.count("\n") == 1


def test_outputs_that_nobody_has_shown_stay_free_for_new_classes(tmp_path: Path) -> None:
    with np.load(GOLDEN / "digits.npz") as file:
        known = file["y"] < 8
        np.savez(tmp_path / "eight.npz", x=file["x"][known], y=file["y"][known])
    made = exporting.export(GOLDEN / "digits_rsnn.nir", tmp_path / "eight.npz", exporting.Options(learn="eprop"))
    classes = read_bundle(made.data).manifest.classes
    assert classes.names == tuple("01234567")
    assert classes.capacity == 10
