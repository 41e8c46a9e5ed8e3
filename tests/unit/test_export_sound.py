"""Recordings in, answers out: a net behind a log-mel front is exported, asked and taught, and the device agrees."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nir", reason="pip install 'edgerun[export]'")

import nir

from deploy.operator import load_examples
from edgerun import cli, encode
from edgerun.bundle import open_bundle
from edgerun.encode.sound import log_mel
from edgerun.errors import DataError
from edgerun.learn.records import Settle
from edgerun.lifetime import new_learner
from edgerun.network import Network
from edgerun.spec import LogMel
from edgerun.telemetry.commands import Example
from exporters.commands.export import front_of

Capture = pytest.CaptureFixture[str]
FRAMES, BANDS, HIDDEN = 6, 8, 16
CLASSES = ("low", "high", "both")


def tone(kind: int, number: int) -> np.ndarray:
    """A third of a second of a low tone, a high one, or one after the other, never twice the same."""
    rng = np.random.default_rng([kind, number])
    n = int(rng.integers(1800, 3200))
    t = np.arange(n) / 8000
    pitch = {0: 350.0, 1: 2200.0}.get(kind, np.where(t < t[-1] / 2, 350.0, 2200.0)) * rng.uniform(0.9, 1.1)
    return np.round(rng.uniform(800, 20000) * np.sin(2 * np.pi * pitch * t) + rng.normal(0, 30, n)).astype(np.int16)


def save(path: Path, count: int, first: int, **more: object) -> None:
    waves = [tone(k % 3, first + k) for k in range(count)]
    arrays: dict[str, object] = {
        "samples": np.concatenate(waves), "offsets": np.cumsum([0, *map(len, waves)]), "label": np.arange(count) % 3,
        "class_names": np.array(CLASSES), "sample_rate": np.int32(8000),
    }  # fmt: skip
    np.savez(path, **(arrays | more))  # type: ignore[arg-type]


def save_net(path: Path) -> None:
    """Random recurrent neurons on bands, and a readout: what a front stands before."""
    rng, one = np.random.default_rng(8), np.ones
    nodes = {
        "input": nir.Input({"input": np.array([BANDS])}),
        "dense": nir.Affine(rng.normal(0, 0.3, (HIDDEN, BANDS)), rng.normal(0.3, 0.2, HIDDEN)),
        "lif": nir.LIF(
            one(HIDDEN) * 5e-4, one(HIDDEN) * 5, one(HIDDEN) * 0, one(HIDDEN), v_reset=one(HIDDEN) * 0,
            metadata={"reset": "subtract", "reset_delay": 1},
        ),
        "back": nir.Linear(rng.normal(0, 0.2, (HIDDEN, HIDDEN))),
        "classify": nir.Affine(rng.normal(0, 0.2, (3, HIDDEN)), one(3) * 0),
        "readout": nir.LIF(
            one(3) * 2e-3, one(3) * 20, one(3) * 0, one(3) * 1e6, v_reset=one(3) * 0,
            metadata={"reset": "none", "reset_delay": 1, "role": "readout"},
        ),
        "output": nir.Output({"output": np.array([3])}),
    }  # fmt: skip
    chain = ["input", "dense", "lif", "classify", "readout", "output"]
    edges = [*itertools.pairwise(chain), ("lif", "back"), ("back", "lif")]
    nir.write(path, nir.NIRGraph(nodes=nodes, edges=edges, metadata={"encoder": "frames", "steps": FRAMES, "dt": 1e-4}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound")
    save_net(path / "net.nir")
    save(path / "train.npz", 240, 0)
    save(path / "test.npz", 60, 1000)
    arguments = ["export", str(path / "net.nir"), "--calibrate", str(path / "train.npz"), "-o", str(path / "net.edgb")]
    assert cli.main([*arguments, "--front", "log-mel:8000,window=128", "--learn", "eprop", "--beside"]) == 0
    return path


def test_the_bundle_says_what_it_listens_with(folder: Path) -> None:
    manifest = open_bundle(folder / "net.edgb").manifest
    assert manifest.front == LogMel(sample_rate=8000, window=128)
    assert (manifest.input.shape, manifest.input.dtype, manifest.input.scale) == ((FRAMES, BANDS), "int8", 0.125)
    assert manifest.head.beside
    assert manifest.learning.rule is not None


def test_recordings_are_answered_as_the_device_answers_them(folder: Path, capsys: Capture) -> None:
    out = folder / "out.npz"
    assert cli.main(["infer", str(folder / "net.edgb"), str(folder / "test.npz"), "-o", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] > 0.9
    bundle = open_bundle(folder / "net.edgb")
    network, manifest = Network(bundle.manifest, bundle.tensors), bundle.manifest
    with np.load(out) as file:
        labels = file["label"]
    for k in range(6):
        wave = tone(k % 3, 1000 + k)
        q = encode.sense(manifest.front, manifest.input, wave)
        assert manifest.front is not None
        assert q.tolist() == log_mel(manifest.front, manifest.input, wave).tolist()
        assert network.infer(q).label == labels[k]


def test_features_that_are_int8_already_pass(folder: Path, capsys: Capture) -> None:
    bundle = open_bundle(folder / "net.edgb")
    manifest = bundle.manifest
    q = np.stack([encode.sense(manifest.front, manifest.input, tone(k % 3, 1000 + k)) for k in range(60)])
    np.savez(folder / "features.npz", x=q.astype(np.int8).reshape(-1, FRAMES, BANDS), y=np.arange(60) % 3)
    told = []
    for name in ("features", "test"):
        command = [
            "infer",
            str(folder / "net.edgb"),
            str(folder / f"{name}.npz"),
            "-o",
            str(folder / "f.npz"),
            "--json",
        ]
        assert cli.main(command) == 0
        told.append(json.loads(capsys.readouterr().out)["accuracy"])
    assert told[0] == told[1]


def test_a_new_voice_is_taught_from_recordings(folder: Path, capsys: Capture) -> None:
    command = ["adapt", str(folder / "net.edgb"), "--data", str(folder / "test.npz"), "--shots", "2"]
    assert cli.main([*command, "--probe", str(folder / "train.npz"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["updates"] >= 1
    assert told["new"]["after"] >= 0.9
    assert told["probe"]["after"] >= told["probe"]["before"] - 0.05


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"sample_rate": np.int32(4000)}, "sample_rate is 4000, the bundle takes 8000 to 192000"),
        ({"sample_rate": np.array("8 kHz")}, "sample_rate is '8 kHz', the bundle takes 8000"),
        ({"sample_rate": np.array([8000, 16000])}, "sample_rate is [8000, 16000], the bundle takes 8000"),
        ({"offsets": np.array([0, 5])}, "'offsets' must rise"),
        (
            {"samples": np.zeros((400, 10)), "offsets": np.array([0, 400])},
            "sample 0: a recording has float64 (400, 10), must be numbers of shape (samples,)",
        ),
    ],
)
def test_what_is_no_recording_is_one_line(
    folder: Path, tmp_path: Path, capsys: Capture, more: dict[str, object], fault: str
) -> None:
    save(tmp_path / "bad.npz", 3, 0, **more)
    arguments = ["infer", str(folder / "net.edgb"), str(tmp_path / "bad.npz"), "-o", str(tmp_path / "out.npz")]
    assert cli.main(arguments) == 2
    shown = capsys.readouterr().err
    assert fault in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("mel:8000", "is not log-mel"),
        ("log-mel", "is not log-mel"),
        ("log-mel:8k", "sample_rate"),
        ("log-mel:8000,window=9", "window"),
        ("log-mel:8000,high_hz=9000", "within 4000"),
        ("log-mel:8000,colour=3", "colour"),
        ("log-mel:8000,window", "window"),
    ],
)
def test_a_front_that_cannot_be_is_refused(text: str, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        front_of(text)


def test_a_net_for_other_input_cannot_stand_behind_a_front(folder: Path, digits: Path, capsys: Capture) -> None:
    model = Path(__file__).parents[2] / "examples" / "digits" / "digits_snn.nir"
    arguments = ["export", str(model), "--calibrate", str(folder / "train.npz"), "-o", str(folder / "no.edgb")]
    assert cli.main([*arguments, "--front", "log-mel:8000"]) == 2
    assert "--front gives (frames, bands) of values, digits_snn takes (64,)" in capsys.readouterr().err


def test_a_pretend_device_hears_and_learns(folder: Path, capsys: Capture) -> None:
    command = ["emulate", str(folder / "net.edgb"), "--data", str(folder / "test.npz"), "--board", "rpi-zero-2w"]
    assert cli.main([*command, "-n", "40", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sensor"]["refused"] == 0
    assert told["accuracy"]["all"] > 0.8
    assert told["lessons"] > 20


def test_a_teacher_sends_recordings(folder: Path) -> None:
    examples = load_examples(folder / "test.npz", "2", 3)
    waves = [Example(**example).array() for example in examples]
    assert [wave.tolist() for wave in waves] == [tone(2, 1000 + k).tolist() for k in (2, 5, 8)]


def test_lessons_fill_the_mean_beside_and_leave_the_factory_s(folder: Path) -> None:
    """Without deep lessons both stay sums of all that was ever taught, through settling too."""
    bundle = open_bundle(folder / "net.edgb")
    learner, manifest = new_learner(bundle), bundle.manifest
    head = learner.network.prototypes
    assert head is not None
    sums, counts = head.sums.copy(), head.counts.copy()
    waves = [encode.sense(manifest.front, manifest.input, tone(1, 2000 + k)) for k in range(3)]
    z = learner.features(np.stack(waves))
    for q in waves:
        learner.apply(learner.plan_lesson(q, 1, "head"))
    learner.apply(Settle())
    sums[head.taught + 1] += z.sum(axis=0).astype(np.int32)
    counts[head.taught + 1] += 3
    assert (head.sums == sums).all()
    assert (head.counts == counts).all()
    assert counts[1] > 40  # the factory's mean is of more than the reservoir holds
