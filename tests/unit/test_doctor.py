"""`edgerun doctor` reports what is there and what is not."""

import json
from importlib import metadata
from pathlib import Path

import pytest

from edgerun.cli import main
from edgerun.commands import doctor
from edgerun.commands.doctor import kernels, libraries, readable, sensors, version


def test_every_library_of_the_device_is_found_with_its_version() -> None:
    found = {finding.name: finding.found for finding in libraries() if finding.group == "needed"}
    assert found == {name: metadata.version(name) for name in ("numpy", "paho-mqtt", "msgspec")}


def test_every_extra_is_listed() -> None:
    groups = {finding.group.removeprefix("extra ") for finding in libraries()} - {"needed"}
    assert groups == set(metadata.metadata("edgerun").get_all("Provides-Extra") or [])


def test_a_library_that_is_not_installed_has_no_version() -> None:
    assert version("a-library-that-nobody-has") == ""


def test_sensors_are_found_by_the_files_of_the_kernel(tmp_path: Path) -> None:
    chip = tmp_path / "sys/class/hwmon/hwmon3"
    chip.mkdir(parents=True)
    (chip / "power1_input").write_text("1500000\n")
    found = {finding.name: finding.found for finding in sensors(tmp_path)}
    assert found.pop("power monitor") == str(chip / "power1_input")
    assert set(found.values()) == {""}


def test_a_file_that_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    assert readable(tmp_path) == str(tmp_path)
    assert readable(tmp_path / "absent").endswith("(not readable by this user)")


def test_the_kernels_are_found_or_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "library", lambda: None)
    assert kernels().found == ""
    monkeypatch.undo()
    assert kernels().found.endswith((".so", ".pyd")) or doctor.library() is None


def test_a_program_can_read_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {"python", "needed", "programs", "sensors"} <= {finding["group"] for finding in findings}


def test_a_person_can_read_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"  numpy               {metadata.version('numpy')}" in lines
    assert "needed:" in lines
