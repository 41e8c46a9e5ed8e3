"""`edgerun demo --headless`: the whole story in one process tree, and the report that scripts read."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.broker import find_mosquitto

pytestmark = [
    pytest.mark.slow,
    pytest.mark.broker,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed (apt install mosquitto)"),
]

KEYS: dict[str, set[str]] = {
    "bundle": {"sha256", "bytes"},
    "accuracy": {
        "float", "factory_int", "drifted_no_adaptation", "drifted_without_consolidation", "drifted_full",
        "old_without_consolidation", "old_full", "new_classes", "old_classes_after_teaching", "sensor_when_taught",
    },
    "telemetry": {"published", "received", "lost", "duplicates_dropped", "outage_s"},
    "power_cut": {"at_write", "committed_lessons", "recovered_lessons", "digest_equals_uncut_run"},
    "governor": {"phases"},
    "energy": {"per_inference_uj", "per_update_uj", "source"},
    "replay": {"digest_equal"},
    "memory": {"resident_mb", "arena_bytes"},
}  # fmt: skip
PLAIN = {"scenario", "seed", "wall_s", "board"}


def demo(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgerun.cli", "demo", "--headless", "-o", str(folder), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path, str]:
    """One run whose port is taken: (the process, its folder, the port)."""
    for library in ("sklearn", "nir", "onnxruntime", "starlette", "cryptography"):
        pytest.importorskip(library, reason="pip install 'edgerun[demo]'")
    folder = tmp_path_factory.mktemp("demo") / "story"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        return demo(folder, "--seed", "2", "--port", port), folder, port


@pytest.fixture(scope="module")
def report(told: tuple[subprocess.CompletedProcess[str], Path, str]) -> dict[str, Any]:
    done, folder, _ = told
    assert "Traceback" not in done.stderr
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_it_ends_well_and_finds_another_port(told: tuple[subprocess.CompletedProcess[str], Path, str]) -> None:
    done, folder, port = told
    assert done.returncode == 0, done.stdout + done.stderr
    assert "live page: http://127.0.0.1:" in done.stdout
    assert f"live page: http://127.0.0.1:{port}/" not in done.stdout
    assert "NO" not in done.stdout.split()
    assert (folder / "report.html").stat().st_size > 10_000


def test_the_report_has_the_keys_that_scripts_read(report: dict[str, Any]) -> None:
    assert report.keys() == PLAIN | KEYS.keys()
    for part, keys in KEYS.items():
        assert keys <= report[part].keys()
    assert report["seed"] == 2
    assert report["board"] == "pico2"
    assert len(report["bundle"]["sha256"]) == 64
    assert report["energy"]["source"] in ("measured", "estimated")
    assert 0 < report["energy"]["per_inference_uj"] < report["energy"]["per_update_uj"]
    assert 0 < report["memory"]["arena_bytes"] < 520 * 1024 < report["memory"]["resident_mb"] * 2**20


def test_nothing_that_was_said_is_lost(report: dict[str, Any]) -> None:
    telemetry = report["telemetry"]
    assert telemetry["lost"] == 0
    assert telemetry["received"] == telemetry["published"] > 300
    assert telemetry["outage_s"] >= 40


def test_nothing_that_was_learned_is_lost(report: dict[str, Any]) -> None:
    cut = report["power_cut"]
    assert cut["recovered_lessons"] == cut["committed_lessons"] > 400
    assert cut["at_write"] > 0
    assert cut["entries_in_progress"] > 0, "the cut fell into a lesson"
    assert cut["digest_equals_uncut_run"] is True
    assert report["replay"]["digest_equal"] is True


def test_no_window_exceeded_its_budget(report: dict[str, Any]) -> None:
    phases = report["governor"]["phases"]
    assert len(phases) >= 3
    for phase in phases:
        assert phase.keys() >= {"budget_mw", "worst_window_mw", "levels_visited"}
        assert 0 < phase["worst_window_mw"] <= phase["budget_mw"]
    full, third = phases[0], phases[1]
    assert third["budget_mw"] == pytest.approx(full["budget_mw"] / 3, abs=0.01)
    assert set(third["levels_visited"]) & {"light", "sparse", "head", "infer"}, "it had to shed"
    assert "full" in phases[-1]["levels_visited"], "and recovered"


def test_the_floors_of_accuracy_hold(report: dict[str, Any]) -> None:
    accuracy = report["accuracy"]
    assert accuracy["factory_int"] >= max(0.96, accuracy["float"] - 0.01)
    assert accuracy["drifted_full"] >= accuracy["drifted_no_adaptation"] + 0.15
    assert accuracy["old_full"] >= accuracy["old_without_consolidation"] + 0.20
    assert accuracy["new_classes"] >= 0.70
    assert accuracy["old_classes_after_teaching"] >= 0.83
    assert accuracy["sensor_when_taught"] == "straight"


def test_a_folder_that_is_not_its_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    done = demo(tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_seed_under_zero_is_refused(tmp_path: Path) -> None:
    done = demo(tmp_path / "story", "--seed", "-1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
