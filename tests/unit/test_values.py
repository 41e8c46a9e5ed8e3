"""Lessons that bring values, by the command line: exported, judged, adapted; what is no target is refused in a line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerun import cli
from edgerun.arrays import AnyArray
from edgerun.bundle import open_bundle
from edgerun.encode.targets import real_answers, real_targets, wire_target
from edgerun.errors import DataError
from edgerun.learn import records
from edgerun.lifetime import new_learner
from edgerun.metrics import r_squared, relative_error
from edgerun.rules import EPropValues

pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")
nir = pytest.importorskip("nir", reason="pip install 'edgerun[export]'")

Capture = pytest.CaptureFixture[str]
STEPS, INPUTS, NEURONS, OUTPUTS, UNIT = 8, 12, 40, 2, 20.0


def leaky(count: int, leak: float, threshold: float, **words: Any) -> Any:
    each = np.ones(count)
    return nir.LIF(
        tau=each * 1e-4 / (1 - leak), r=each / (1 - leak), v_leak=each * 0, v_threshold=each * threshold,
        v_reset=each * 0, metadata={"reset_delay": 1, **words},
    )  # fmt: skip


def model(path: Path) -> None:
    """A recurrent spiking net with a readout of small random weights."""
    rng = np.random.default_rng(1)

    def linear(rows: int, columns: int, deviation: float) -> Any:
        return nir.Linear(rng.normal(0, deviation, (rows, columns)).astype(np.float32))

    nodes = {
        "input": nir.Input({"input": np.array([INPUTS])}),
        "dense": linear(NEURONS, INPUTS, 0.6), "hidden": leaky(NEURONS, 0.6, 1.0, reset="subtract"),
        "again": linear(NEURONS, NEURONS, 0.02), "read": linear(OUTPUTS, NEURONS, 1.0),
        "readout": leaky(OUTPUTS, 0.6, 1e6, reset="none", role="readout"),
        "output": nir.Output({"output": np.array([OUTPUTS])}),
    }  # fmt: skip
    edges = [("input", "dense"), ("dense", "hidden"), ("hidden", "again"), ("again", "hidden")]
    edges += [("hidden", "read"), ("read", "readout"), ("readout", "output")]
    nir.write(path, nir.NIRGraph(nodes, edges, metadata={"dt": 1e-4, "encoder": "frames", "steps": STEPS}))


def made(count: int, seed: int) -> tuple[AnyArray, AnyArray]:
    """x (n, steps, inputs) counts of events, targets (n, 2) from -UNIT to UNIT: what the newest steps lean to."""
    x = np.random.default_rng(seed).poisson(0.7, (count, STEPS, INPUTS)).astype(np.int8)
    side = (x[:, -3:].astype(float).mean(axis=1) - 0.7) @ np.random.default_rng(9).normal(0, 1, (INPUTS, OUTPUTS))
    return x, np.clip(UNIT * side / 3, -UNIT, UNIT).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.nir; known.npz, new.npz and old.npz with targets; hand.edgb, exported to learn values."""
    place = tmp_path_factory.mktemp("values")
    model(place / "model.nir")
    for name, count, seed in (("known", 80, 1), ("new", 400, 2), ("old", 60, 3)):
        x, targets = made(count, seed)
        np.savez(place / f"{name}.npz", x=x, targets=targets)
    assert cli.main([*exporting(place), "-o", str(place / "hand.edgb"), "--learn", "eprop-values"]) == 0
    return place


def exporting(place: Path, data: str = "known.npz") -> list[str]:
    return ["export", str(place / "model.nir"), "--calibrate", str(place / data)]


def adapt(folder: Path, capsys: Capture, *options: str) -> dict[str, Any]:
    assert cli.main(["adapt", str(folder / "hand.edgb"), "--data", str(folder / "new.npz"), "--json", *options]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def test_an_export_plans_for_the_size_of_its_targets(folder: Path) -> None:
    bundle = open_bundle(folder / "hand.edgb")
    rule, output = bundle.manifest.learning.rule, bundle.manifest.output
    assert isinstance(rule, EPropValues)
    assert output is not None
    assert (rule.target_steps, bundle.manifest.head.kind, bundle.manifest.classes.names) == (1, "values", ())
    most = np.abs(made(80, 1)[1]).max()
    assert 1 < most / (output.scale * 2**24) <= 2, "the largest target is one to two units of the readout"
    assert {rate.tensor for rate in rule.rates} == {"hidden.input", "hidden.recurrent", "readout.input"}
    assert all(rate.max_norm for rate in rule.rates)


def test_one_lesson_takes_about_a_tenth_off_its_own_error(folder: Path) -> None:
    """What the exporter's rates are for, whatever the scales."""
    bundle, shares = open_bundle(folder / "hand.edgb"), []
    x, targets = made(60, 4)
    for row, target in zip(x, targets, strict=True):
        learner = new_learner(bundle)
        q, wire = row.reshape(-1).astype(np.int16), wire_target(bundle.manifest, target)
        wanted = real_targets(bundle.manifest, wire)[-1]
        before = real_answers(bundle.manifest, learner.scores(q[None]))[0] - wanted
        learner.apply(learner.plan_lesson(q, 0, "full", target=wire))
        after = real_answers(bundle.manifest, learner.scores(q[None]))[0] - wanted
        shares.append(1 - np.linalg.norm(after) / np.linalg.norm(before))
    assert 0.02 < np.median(shares) < 0.3


def test_lessons_bring_answers_near(folder: Path, capsys: Capture) -> None:
    told = adapt(folder, capsys, "--shots", "340", "--probe", str(folder / "old.npz"), "--consolidate", "none")
    assert (told["lessons"], told["new"]["samples"], told["probe"]["samples"]) == (340, 60, 60)
    assert told["new"]["before"]["r2"] < 0.1
    assert told["new"]["after"]["r2"] > told["new"]["before"]["r2"] + 0.1
    assert told["probe"]["after"]["r2"] > told["probe"]["before"]["r2"] + 0.1
    assert told["new"]["after"]["nrmse"] < told["new"]["before"]["nrmse"] - 0.05
    assert 200 < told["updates"] <= 340


def test_the_digest_is_that_of_a_device_taught_the_same(folder: Path, capsys: Capture) -> None:
    told = adapt(folder, capsys, "--shots", "30")
    learner = new_learner(open_bundle(folder / "hand.edgb"))
    x, targets = made(400, 2)
    for k in range(30):
        target = wire_target(learner.manifest, targets[k])
        learner.apply(learner.plan_lesson(x[k].reshape(-1).astype(np.int16), 0, "full", k, target))
    learner.apply(records.Verdict(good=True, correct=0, of=0))
    assert told["digest"] == learner.digest().hex()
    assert set(open_bundle(folder / "hand.edgb").priors) == {"hidden.input", "hidden.recurrent", "readout.input"}


@pytest.mark.skipif(
    None in (shutil.which("arm-none-eabi-gcc"), shutil.which("qemu-system-arm")), reason="no emulated board here"
)
def test_a_board_learns_the_same_values(folder: Path, capsys: Capture) -> None:
    options = ("--shots", "12", "--probe", str(folder / "old.npz"))
    there = adapt(folder, capsys, *options, "--board", "mps2-an386")
    here = adapt(folder, capsys, *options, "--backend", "numpy")
    assert there.pop("firmware")["instructions"]["lesson"] > 1000
    assert there.pop("energy") != here.pop("energy")
    assert there == here
    assert here["updates"] > 3


def test_draws_and_the_page_for_a_person(folder: Path, capsys: Capture) -> None:
    told = adapt(folder, capsys, "--shots", "60", "--draws", "2", "--seed", "4")
    assert len(told["draws"]) == 2
    assert told["draws"][0]["digest"] != told["draws"][1]["digest"]
    assert cli.main(["adapt", str(folder / "hand.edgb"), "--data", str(folder / "new.npz"), "--shots", "30"]) == 0
    shown = capsys.readouterr().out
    assert "R2 before" in shown
    assert "uJ a lesson" in shown


def test_wire_integers_and_repeated_steps_are_the_same_lessons(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    first = adapt(folder, capsys, "--shots", "20")
    bundle = open_bundle(folder / "hand.edgb")
    x, targets = made(400, 2)
    wire = np.stack([wire_target(bundle.manifest, target) for target in targets])
    for other in (wire, targets[:, None].astype(np.float64)):
        np.savez(tmp_path / "same.npz", x=x, targets=other)
        assert adapt(folder, capsys, "--shots", "20", "--data", str(tmp_path / "same.npz"))["digest"] == first["digest"]


def test_infer_judges_values_where_the_file_has_targets(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    out = tmp_path / "answers.npz"
    arguments = ["infer", str(folder / "hand.edgb"), str(folder / "new.npz"), "-o", str(out), "--json"]
    assert cli.main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    with np.load(out) as file:
        values = float(file["y_scale"]) * (file["y"] - float(file["y_zero_point"]))
    wire = np.stack([wire_target(open_bundle(folder / "hand.edgb").manifest, row) for row in made(400, 2)[1]])
    wanted = real_targets(open_bundle(folder / "hand.edgb").manifest, wire)[:, -1]
    assert told["r2"] == pytest.approx(r_squared(values, wanted))
    assert told["nrmse"] == pytest.approx(relative_error(values, wanted))
    assert cli.main(arguments[:-1]) == 0
    assert "nRMSE" in capsys.readouterr().out


BROKEN: dict[str, tuple[Callable[[AnyArray], AnyArray], str]] = {
    "nan": (lambda t: np.where(np.arange(len(t))[:, None] == 7, np.nan, t), "sample 7: target value 0 is nan"),
    "far": (lambda t: np.where(np.arange(len(t))[:, None] == 7, 1e9, t), "sample 7: target value 0 is 1e+09, must lie"),
    "wide": (lambda t: np.repeat(t, 2, axis=1), "sample 0: a target is float32 (4,), the bundle takes numbers"),
    "steps": (lambda t: np.repeat(t[:, None], 3, axis=1), "sample 0: a target is float32 (3, 2)"),
    "few": (lambda t: t[:-1], "targets have shape (399, 2), must be (400, outputs)"),
    "flat": (lambda t: t[:, 0], "targets have shape (400,)"),
    "text": (lambda t: t.astype(str), "a target is <U"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_target_is_refused_in_one_line(folder: Path, capsys: Capture, tmp_path: Path, kind: str) -> None:
    x, targets = made(400, 2)
    change, message = BROKEN[kind]
    np.savez(tmp_path / "bad.npz", x=x, targets=change(targets))
    for arguments in (
        ["adapt", str(folder / "hand.edgb"), "--data", str(tmp_path / "bad.npz")],
        ["infer", str(folder / "hand.edgb"), str(tmp_path / "bad.npz"), "-o", str(tmp_path / "out.npz")],
    ):
        capsys.readouterr()
        assert cli.main(arguments) == 2
        told = capsys.readouterr()
        assert (told.out, told.err.count("\n")) == ("", 1)
        assert message in told.err


def test_options_and_files_that_do_not_go_with_values_are_refused(
    folder: Path, capsys: Capture, tmp_path: Path
) -> None:
    x, targets = made(400, 2)
    np.savez(tmp_path / "bare.npz", x=x)
    np.savez(tmp_path / "wire.npz", x=x, targets=targets.astype(np.int16))
    np.savez(tmp_path / "three.npz", x=x, targets=np.repeat(targets, 2, axis=1)[:, :3])
    np.savez(tmp_path / "late.npz", x=x, targets=np.repeat(targets[:, None], 9, axis=1))
    learn = ["-o", str(tmp_path / "out.edgb"), "--learn", "eprop-values"]
    model_file = ["export", str(folder / "model.nir"), "--calibrate"]
    for arguments, message in (
        (["adapt", str(folder / "hand.edgb"), "--data", str(tmp_path / "bare.npz")], "has no 'targets'"),
        (
            ["adapt", str(folder / "hand.edgb"), "--data", str(folder / "new.npz"), "--rule", "prototypes"],
            "--rule prototypes: the bundle learns values",
        ),
        ([*model_file, str(tmp_path / "bare.npz"), *learn], "has no 'targets'"),
        ([*model_file, str(tmp_path / "wire.npz"), *learn], "give real numbers"),
        (
            [*model_file, str(tmp_path / "three.npz"), *learn],
            "needs targets of 2 values",
        ),
        ([*model_file, str(tmp_path / "late.npz"), *learn], "targets are for 9 steps, a window has 8"),
        ([*exporting(folder), *learn, "--head", "logits"], "--head values"),
        ([*exporting(folder), *learn, "--classes", "a,b"], "--head values has no classes: --classes"),
    ):
        capsys.readouterr()
        assert cli.main(arguments) == 2, arguments
        told = capsys.readouterr()
        assert told.err.count("\n") == 1
        assert message in told.err


def test_a_bundle_of_classes_takes_no_target(digits_bundle: Path) -> None:
    with pytest.raises(DataError, match="learns no values"):
        wire_target(open_bundle(digits_bundle).manifest, np.zeros(2, np.float32))


def test_measures_of_values() -> None:
    wanted = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 8.0]])
    assert r_squared(wanted, wanted) == 1.0
    assert r_squared(np.broadcast_to(wanted.mean(axis=0), wanted.shape), wanted) == pytest.approx(0.0)
    assert relative_error(np.broadcast_to(wanted.mean(axis=0), wanted.shape), wanted) == pytest.approx(1.0)
    assert r_squared(wanted, np.ones((3, 2))) is None
    assert relative_error(wanted, np.ones((3, 2))) is None
