"""Streams of windows: when labels come and what they name, the float twin's steps, and both benchmarks' short forms."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from modules import scenario

pytest.importorskip("torch", reason="pip install 'edgerun[train]'")
pytest.importorskip("nir", reason="pip install 'edgerun[export]'")

from edgerun.errors import DataError
from edgerun.kernels.plasticity import decode_importance
from edgerun.lifetime import new_learner
from edgerun.spec import LearningPlan, Replay
from exporters.runs import read_runs
from exporters.training.surrogate import RecurrentLif, Shape

NEEDS_DATA = pytest.mark.skipif("EDGERUN_DATA" not in os.environ, reason="EDGERUN_DATA names no folder of data sets")
SHAPE = Shape(inputs=4, hidden=24, outputs=3, beta=0.85)


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return scenario(monkeypatch, "streams")


@pytest.fixture
def made(streams: ModuleType) -> tuple[Any, Any, Any]:
    """An untrained net, windows of three classes that differ in their channels' means, and its bundle."""
    rng, y = np.random.default_rng(1), np.tile(np.arange(3), 40)
    x = (rng.normal(0, 0.5, (120, 16, 4)) + 1.5 * np.eye(3, 4)[y][:, None]).astype(np.float32)
    net, windows = RecurrentLif(SHAPE, 1, input_gain=1.5), streams.Windows(x, y)
    return net, windows, streams.exported(net, windows, ("a", "b", "c"), 24)


# ------------------------------------------------------------------ when labels come


def test_windows_come_in_pieces_that_end_where_labels_do(streams: ModuleType) -> None:
    windows = streams.Windows(np.zeros((9, 1, 1), np.float32), np.zeros(9, np.int64))
    stream = streams.Stream(windows, ((5, 1), (3, 0), (5, 2)))
    heard = [(part.start, part.stop, names) for part, names in streams.pieces(stream, heard=True)]
    assert heard == [(0, 4, [0]), (4, 6, [1, 2]), (6, 9, [])]
    assert [(part.stop, names) for part, names in streams.pieces(stream, heard=False)] == [(9, [])]
    assert streams.last_label(stream) == 5


def test_a_label_may_not_name_what_an_agent_has_forgotten(streams: ModuleType, made: tuple[Any, Any, Any]) -> None:
    _, windows, bundle = made
    count = streams.WINDOWS + 2
    long = windows.take(np.arange(count) % len(windows))
    device = streams.Device(streams.planned(bundle, streams.ARMS["prototypes"]))
    with pytest.raises(DataError, match=f"feedback sample 1 is not among the last {streams.WINDOWS} at {count - 1}"):
        device.follow(streams.Stream(long, ((count - 1, 1),)), "head")
    device.follow(streams.Stream(long, ((count - 1, 2),)), "head")
    assert device.life.learner.lessons == 1


def test_windows_are_scored_before_their_labels_and_lessons_name_them(
    streams: ModuleType, made: tuple[Any, Any, Any]
) -> None:
    _, windows, bundle = made
    stream = streams.Stream(windows.take(np.arange(12)), tuple((k + 3, k) for k in range(8)))
    plan = streams.planned(bundle, streams.ARMS["full"])
    device, learner = streams.Device(plan), new_learner(plan)
    seen: list[Any] = []
    device.life._observe = seen.append
    right = device.follow(stream, "full")
    first = learner.scores(streams.quantised(plan, stream.windows.x[:4])).argmax(axis=1)
    assert right[:4].tolist() == (first == stream.windows.y[:4]).tolist()  # the first lesson comes after window 3
    assert [entry.sample for entry in seen[:-1]] == list(range(8))
    for entry in seen:
        learner.apply(entry)
    assert learner.digest().hex() == device.life.digest()


def test_an_arm_plans_only_what_it_uses(streams: ModuleType, made: tuple[Any, Any, Any]) -> None:
    bundle = made[2]
    plans = {name: streams.planned(bundle, arm) for name, arm in streams.ARMS.items()}
    learning = {name: plan.manifest.learning for name, plan in plans.items()}
    assert learning["none"] == LearningPlan()
    assert learning["prototypes"].rule is learning["replay"].intelligence is None
    assert (learning["plain"].replay, plans["plain"].manifest.head.kind) == (Replay(capacity=0), "logits")
    assert learning["uniform"] == learning["full"] == bundle.manifest.learning
    assert plans["full"].priors.keys() == plans["uniform"].priors.keys() != set()
    assert not plans["replay"].priors
    for name, code in plans["uniform"].priors.items():
        mean = decode_importance(bundle.priors[name]).mean()
        assert len(np.unique(code)) == 1
        assert decode_importance(code).flat[0] == pytest.approx(mean, rel=0.07)
    probed = {row.tobytes() for row in bundle.probe.x}
    assert len(bundle.exemplars.x) == 24
    assert not probed & {row.tobytes() for row in bundle.exemplars.x}


def test_the_twin_makes_its_means_of_what_the_exporter_does(streams: ModuleType, made: tuple[Any, Any, Any]) -> None:
    net, windows, bundle = made
    kept, held = streams.parted(windows)
    twin = streams.Twin(bundle, net, windows)
    assert twin.counts[:3].tolist() == bundle.tensors["head.count"].tolist() == np.bincount(windows.y[kept]).tolist()
    probe = {row.tobytes() for row in streams.rows_of(bundle, windows.x[held])}
    assert probe == {row.tobytes() for row in bundle.probe.x}


# ------------------------------------------------------------------ the float twin


@pytest.mark.parametrize("name", ["input", "recurrent", "readout"])
def test_the_twin_steps_as_the_device_does(streams: ModuleType, made: tuple[Any, Any, Any], name: str) -> None:
    net, windows, bundle = made
    plan = streams.planned(bundle, streams.ARMS["replay"])
    learner, twin = new_learner(plan), streams.Twin(plan, net, windows)
    rates = dict(zip(twin.weights, plan.manifest.learning.rule.rates, strict=True))
    tensor, before = rates[name].tensor, twin.weights[name].copy()
    shadow = learner.arrays()[f"shadow.{tensor}"].astype(np.float64)
    for k in range(9):
        learner.apply(learner.plan_lesson(streams.quantised(plan, windows.x[k : k + 1])[0], (k + 1) % 3, "full"))
        twin.teach(windows.x[k], (k + 1) % 3, "full")
    unit = streams.worth(bundle.tensors[tensor], before) / 256
    ours = (learner.arrays()[f"shadow.{tensor}"] - shadow) * unit
    theirs = twin.weights[name] - before
    assert (ours * theirs).sum() / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.85
    assert np.linalg.norm(ours) == pytest.approx(np.linalg.norm(theirs), rel=0.25)


def test_the_twin_names_windows_as_the_device_does(streams: ModuleType, made: tuple[Any, Any, Any]) -> None:
    net, windows, bundle = made
    for name in ("none", "prototypes"):
        arm, plan = streams.ARMS[name], streams.planned(bundle, streams.ARMS[name])
        stream = streams.Stream(windows, tuple((k + 2, k) for k in range(0, 60, 3)))
        device, twin = streams.Device(plan), streams.Twin(plan, net, windows)
        right, twins = device.follow(stream, arm.level), twin.follow(stream, arm.level)
        assert right.mean() > 0.8
        assert (right == twins).mean() > 0.95
        assert device.share_right(windows) == pytest.approx(twin.share_right(windows), abs=0.05)


def test_importance_pulls_the_twin_home(streams: ModuleType) -> None:
    ref, away = np.zeros((2, 2)), np.ones((2, 2))
    still = np.zeros((2, 2))
    half = streams.Descent(rate=1.0, norm=0.1, share=np.full((2, 2), 0.5), ref=ref)
    assert half.change(away, still).tolist() == [[-0.5, -0.5], [-0.5, -0.5]]
    far = streams.Descent(rate=1.0, norm=0.1, share=0.0, ref=ref).change(away, away)
    assert 0.05 < np.linalg.norm(far) <= 0.1  # halved until it is no longer than the limit


# ------------------------------------------------------------------ figures


def test_a_curve_is_the_mean_of_the_last_windows_of_all_streams(streams: ModuleType) -> None:
    rows = [[True, True, False, False, True], [True, False, False, False]]
    assert streams.smoothed(rows, 2).tolist() == [1.0, 0.75, 0.25, 0.0]
    svg = streams.picture("title", {"full": rows, "none": rows, "full (float)": rows}, 2, [1])
    assert svg.count("<polyline") == 2
    assert "title" in svg


# ------------------------------------------------------------------ activity and muscles


def test_a_turn_about_the_vertical_leaves_gravity_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    imu = scenario(monkeypatch, "imu_activity")
    x = np.float32([[[1, 0, 0, 0, 0.5, 0]]])
    assert imu.turned(x, imu.about_vertical(90)).round(6).tolist() == [[[1, 0, 0, 0, 0, 0.5]]]
    rng = np.random.default_rng(0)
    sure = rng.normal(0, 0.3, (200, 4, 6)).astype(np.float32)
    moved = imu.worn(sure, np.random.default_rng(1))
    assert 0.02 < np.abs(moved - sure).mean() < 0.4
    lengths = [np.linalg.norm(part * imu.SPREAD + imu.CENTRE, axis=2) for part in (moved, sure)]
    assert np.abs(lengths[0] / lengths[1] - 1).max() < 0.1001  # turned and made livelier, not bent


def test_labels_on_their_way_come_when_the_recording_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    imu = scenario(monkeypatch, "imu_activity")
    windows = imu.Windows(np.zeros((25, 1, 1), np.float32), np.zeros(25, np.int64))
    assert imu.streamed(windows).told[:4] == ((20, 0), (22, 2), (24, 4), (24, 6))


def test_a_gesture_is_where_its_instruction_was(monkeypatch: pytest.MonkeyPatch) -> None:
    semg = scenario(monkeypatch, "semg_sessions")
    label = np.zeros(40, np.uint8)
    label[3:9] = label[20:40] = 4
    assert list(semg.held(label)) == [(3, 9), (20, 40)]
    assert list(semg.held(np.zeros(3000, np.uint8))) == [(858, 1858), (2858, 3858)]
    x = semg.envelope(np.full((200, 8), -16, np.int8))
    assert (x.shape, x[0, 0], x[0, 8]) == ((25, 16), 1.0, 0.0)


def test_a_band_turned_by_one_electrode_moves_every_channel_on(monkeypatch: pytest.MonkeyPatch) -> None:
    semg = scenario(monkeypatch, "semg_sessions")
    x = np.tile(np.arange(8, dtype=np.float32) / 8, (1, 25, 2))

    class Turned:
        def normal(self, mean: float, deviation: float, shape: Any) -> Any:
            return np.full(shape, mean + (deviation if deviation == semg.TURN else 0.0))

    monkeypatch.setattr(semg, "TURN", 1.0)
    assert semg.moved(x, Turned())[0, 0, :8] == pytest.approx(np.roll(x[0, 0, :8], -1), abs=1e-5)


# ------------------------------------------------------------------ from data to page


@NEEDS_DATA
def test_later_sessions_are_labelled_in_their_first_rounds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    semg = scenario(monkeypatch, "semg_sessions")
    data = semg.load()
    tried = semg.case(data, 2)
    assert {int(each) for each in np.unique(data.gesture)} == set(range(8))
    assert 200 <= len(tried.known) <= 4 * 8 * 7
    for session, stream in tried.streams.items():
        named = [which for _, which in stream.told]
        assert max(named) < len(stream.windows) - len(tried.tests[session])
        assert all(when == which + semg.LATE for when, which in stream.told)
        assert np.bincount(stream.windows.y[named], minlength=8).min() >= 4
        assert (stream.windows.x[-len(tried.tests[session]) :] == tried.tests[session].x).all()


@NEEDS_DATA
def test_known_people_are_tested_on_bouts_that_nothing_has_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    imu, given = scenario(monkeypatch, "imu_activity"), []
    monkeypatch.setattr(imu.streams, "kept_net", lambda file, make: given.append(make.args[0]))
    data = imu.load()
    tried = imu.case(data, 0, imu.Size(1, 2), tmp_path)
    strangers = np.isin(data.person, tried.strangers)
    (trained,) = given
    seen = {window.tobytes() for window in trained.x}
    assert not seen & {window.tobytes() for window in tried.probe.x}
    assert not seen & {window.tobytes() for window in data.take(strangers).x}
    assert len(trained) > 8 * len(tried.probe) > 0


@NEEDS_DATA
@pytest.mark.parametrize(
    ("name", "scenarios"),
    [("semg_sessions", ("semg_sessions",)), ("imu_activity", ("imu_activity", "imu_activity_turned"))],
)
def test_the_short_form_runs_from_data_to_page(
    name: str, scenarios: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, page = scenario(monkeypatch, name), tmp_path / "results.md"
    page.write_text("# Results\n")
    arguments = ["--short", "--nets", str(tmp_path), "-o", str(tmp_path), "--markdown", str(page)]
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    assert module.main() == 0
    for each in scenarios:
        runs = {run.arm: run for run in read_runs(tmp_path / f"{each}.json")}
        assert runs["none"].matrix[0] == runs["none"].matrix[-1]
        assert runs["prototypes"].matrix[-1][-1] >= runs["none"].matrix[-1][-1]
        assert runs["full"].figures["updates"] > 0
        assert abs(runs["none"].matrix[-1][-1] - runs["none (float)"].matrix[-1][-1]) < 0.1
    text = page.read_text()
    assert re.search(r"^\| full \| 1 \|", text, re.MULTILINE)
    figure = re.search(r"images/[a-z-]+\.svg", text)
    assert figure
    assert (tmp_path / figure.group()).read_text().startswith("<svg")
