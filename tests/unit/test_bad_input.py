"""Every command that takes a file, given a file that is wrong: one line, exit code 2, and nothing is written."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgerun.cli import main
from exporters.export import Options, export

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "examples" / "digits"

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "one bit flipped": lambda data: data[:3000] + bytes([data[3000] ^ 4]) + data[3001:],
    "trailing bytes": lambda data: data + b"more",
    "foreign": lambda data: b"GIF89a" + bytes(1000),
    "text": lambda data: b"[device]\n" * 100,
}

# How each command is given the file {bad}, beside good companions.
COMMANDS = {
    "inspect": "inspect {bad}",
    "verify": "verify {bad}",
    "plan": "plan {bad} --board rpi-zero-2w",
    "run": "run --config {config}",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits 0 to 7 as a data file."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, x=x[y < 8].astype(np.uint8), y=y[y < 8])
    return path


@pytest.fixture(scope="module")
def bundle(data: Path) -> bytes:
    """A sound bundle."""
    return export(MODELS / "digits_mlp.onnx", data, Options()).data


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must refuse its input; returns its one line."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("edgerun: ")
    assert err.count("\n") == 1
    assert "unknown command" not in err
    assert "--help" not in err  # the file was refused, not the arguments
    return err


def test_the_same_bundle_unharmed_is_accepted(bundle: bytes, tmp_path: Path) -> None:
    (tmp_path / "good.edgb").write_bytes(bundle)
    assert main(["verify", str(tmp_path / "good.edgb")]) == 0


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_bundle_is_refused(
    command: str, damage: str, bundle: bytes, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.edgb").write_bytes(DAMAGE[damage](bundle))
    config = write_config(tmp_path, tmp_path / "bad.edgb", data)
    before = listing(tmp_path)
    refused(COMMANDS[command].format(bad="bad.edgb", data=data, config=config).split(), capsys)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_an_endless_bundle_is_refused_unread(
    command: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.edgb").touch()
    os.truncate(tmp_path / "bad.edgb", 1 << 40)  # a hole: it takes no room
    config = write_config(tmp_path, tmp_path / "bad.edgb", data)
    refused(COMMANDS[command].format(bad="bad.edgb", data=data, config=config).split(), capsys)


@pytest.mark.parametrize("model", ["digits_mlp.onnx", "digits_snn.nir"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "foreign", "text"])
def test_a_wrong_model_is_refused(
    model: str, damage: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / model).write_bytes(DAMAGE[damage]((MODELS / model).read_bytes()))
    before = listing(tmp_path)
    assert model in refused(["export", model, "--calibrate", str(data), "-o", "new.edgb"], capsys)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("damage", ["empty", "truncated", "foreign", "text"])
def test_wrong_calibration_data_are_refused(
    damage: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.npz").write_bytes(DAMAGE[damage](data.read_bytes()))
    line = refused(["export", str(MODELS / "digits_mlp.onnx"), "--calibrate", "bad.npz", "-o", "new.edgb"], capsys)
    assert "bad.npz" in line
    assert listing(tmp_path) == ["bad.npz"]


def test_a_pickle_in_the_data_is_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "bad.npz", x=np.array([{"a": 1}] * 100, dtype=object), y=np.zeros(100, dtype=np.int64))
    refused(["export", str(MODELS / "digits_mlp.onnx"), "--calibrate", "bad.npz", "-o", "new.edgb"], capsys)


def test_a_wrong_key_in_the_configuration_is_refused(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, tmp_path / "any.edgb", data)
    config.write_text(config.read_text().replace("power_mw", "power_nw"))
    before = listing(tmp_path)
    line = refused(["run", "--config", str(config)], capsys)
    assert line == f"edgerun: {config}: budget.power_nw: unknown key, the nearest is budget.power_mw\n"
    assert listing(tmp_path) == before


def write_config(folder: Path, bundle: Path, data: Path) -> Path:
    path = folder / "device.toml"
    path.write_text(
        f"""\
[device]
group = "plant"
node = "press-3"
board = "rpi-zero-2w"
state_dir = "state"

[bundle]
path = "{bundle}"
allow_unsigned = true

[budget]
power_mw = 1500

[sensor]
path = "{data}"
"""
    )
    return path


def listing(folder: Path) -> list[str]:
    """Every file under a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
