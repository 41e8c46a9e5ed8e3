"""`edgerun emulate`: the real agent on a pretend board, and every fault that it lists really happens to it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pretend import NAMES, samples, tiny_bundle_bytes

from deploy.broker import find_mosquitto, start_broker
from edgerun.cli import main
from firmware_sim.faults import FAULTS

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A bundle and forty samples of its classes, by name."""
    label = np.arange(40) % 4
    (tmp_path / "tiny.edgb").write_bytes(tiny_bundle_bytes())
    np.savez(tmp_path / "data.npz", x=samples(label, 5000), y=np.array(NAMES)[label])
    return str(tmp_path / "tiny.edgb"), str(tmp_path / "data.npz")


def emulate(files: tuple[str, str], capsys: Capture, *more: str) -> dict[str, Any]:
    """One run with --json."""
    assert main(["emulate", files[0], "--data", files[1], "--json", *more]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def refusal(files: tuple[str, str], capsys: Capture, *more: str) -> str:
    """The one line of a run that is refused."""
    assert main(["emulate", *files[:1], "--data", files[1], *more]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def what(told: dict[str, Any]) -> str:
    return "\n".join(each["what"] for each in told["faults"])


def test_a_recording_is_played_learned_and_summed_up(files: tuple[str, str], capsys: Capture) -> None:
    told = emulate(files, capsys)
    assert (told["samples"], told["inferences"], told["lessons"]) == (40, 40, 40)
    assert (told["board"], told["boots"], told["faults"], told["interrupted"]) == ("pico2", 1, [], False)
    assert told["accuracy"]["all"] > 0.8
    assert told["accuracy"]["probe_before"] == 1.0
    assert told["energy"]["source"] == "estimated"
    assert told["energy"]["all_j"] == pytest.approx(sum(told["energy"]["per_act_mj"].values()) / 1e3)
    assert all(phase["worst_window_mw"] <= phase["budget_mw"] for phase in told["phases"])
    assert sum(told["levels"].values()) == pytest.approx(1)
    assert told["flash"]["bytes"] > 0
    assert told["outbox"] > 0, "offline: nothing was taken from it"


def test_the_same_seed_gives_the_same_bits_and_the_state_replays(
    files: tuple[str, str], capsys: Capture, tmp_path: Path
) -> None:
    options = ("--order", "shuffled", "--supervised", "0.7", "--fault", "power-cut@write=40", "--seed", "7")
    first = emulate(files, capsys, *options, "--state-dir", str(tmp_path / "state"))
    assert emulate(files, capsys, *options) == first
    assert emulate(files, capsys, *options[:-1], "8")["digest"] != first["digest"]
    assert first["lessons"] < 40
    assert main(["replay", str(tmp_path / "state"), "--bundle", files[0], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == first["digest"]


def test_a_state_folder_goes_on_from_what_is_there(files: tuple[str, str], capsys: Capture, tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "state"))
    first = emulate(files, capsys, *state, "-n", "10")
    second = emulate(files, capsys, *state, "-n", "10")
    assert (first["lessons"], second["lessons"]) == (10, 20)


def test_time_repeats_the_data_and_a_small_budget_sheds(files: tuple[str, str], capsys: Capture) -> None:
    told = emulate(files, capsys, "--seconds", "120", "--period", "1", "--power", "3", "--board", "nucleo-f446")
    assert told["seconds"] >= 120
    assert told["samples"] >= 119
    assert told["board"] == "nucleo-f446"
    (phase,) = told["phases"]
    assert phase["budget_mw"] == 3.0
    assert phase["worst_window_mw"] <= 3.0
    assert told["lessons"] < told["samples"], "there was no power for all of them"


def test_a_turned_sensor_is_seen(tmp_path: Path, digits: Path, digits_bundle: Path, capsys: Capture) -> None:
    files = str(digits_bundle), str(digits / "factory.npz")
    straight = emulate(files, capsys, "-n", "60", "--supervised", "0")
    turned = emulate(files, capsys, "-n", "60", "--supervised", "0", "--rotate", "40", "--at", "20")
    assert straight["lessons"] == turned["lessons"] == 0
    assert straight["accuracy"]["all"] > 0.95
    assert turned["accuracy"]["all"] < straight["accuracy"]["all"] - 0.2


# ------------------------------------------------------------------ faults


def test_every_fault_is_listed(capsys: Capture) -> None:
    assert main(["emulate", "--list-faults"]) == 0
    assert {line.partition("@")[0] for line in capsys.readouterr().out.splitlines()} == set(FAULTS)


@pytest.mark.parametrize("write", [1, 7, 20, 21, 22, 60])
def test_a_power_cut_reboots_and_what_was_committed_is_there(
    files: tuple[str, str], capsys: Capture, write: int
) -> None:
    told = emulate(files, capsys, "--fault", f"power-cut@write={write}", "--fault", f"power-cut@write={write + 2}")
    assert f"power-cut@write={write}, which was" in what(told)
    assert f"power-cut@write={write + 2}, which was" in what(told)
    assert "rebooted:" in what(told)
    assert 2 <= told["boots"] <= 3, "the second may fall into the boot after the first"
    assert 25 < told["lessons"] <= 40


def test_flipped_bits_are_told_and_survived(files: tuple[str, str], capsys: Capture) -> None:
    for write in range(2, 40, 6):
        told = emulate(
            files, capsys, "--fault", f"bit-flip@write={write},bits=2", "--fault", f"power-cut@write={write + 9}"
        )
        assert "bit-flip in " in what(told)
        assert told["boots"] == 2
        assert told["lessons"] > 10


def test_a_stuck_and_a_blind_sensor_are_counted(files: tuple[str, str], capsys: Capture) -> None:
    told = emulate(files, capsys, "--fault", "stuck@sample=10,for=5", "--fault", "nan@sample=30,for=3")
    assert told["sensor"] == {"refused": 3, "missing": 0, "stuck": 5}
    assert (told["inferences"], told["lessons"]) == (37, 37)
    assert "stuck@sample=10" in what(told)
    assert "nan@sample=30" in what(told)


def test_a_clock_jump_happens_and_harms_nothing_learned(files: tuple[str, str], capsys: Capture) -> None:
    told = emulate(files, capsys, "--fault", "clock-jump@t=5,by=-100000")
    assert told["faults"] == [{"at_s": pytest.approx(5, abs=0.6), "what": "clock-jump@t=5,by=-100000"}]
    assert told["digest"] == emulate(files, capsys)["digest"]


@pytest.mark.broker
@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed (apt install mosquitto)")
def test_on_a_broker_it_can_be_commanded_and_an_outage_is_overcome(
    files: tuple[str, str], capsys: Capture, tmp_path: Path
) -> None:
    with start_broker(tmp_path / "broker", kind="mosquitto") as broker:
        url = f"mqtt://{broker.username}:{broker.password}@{broker.host}:{broker.port}"
        told = emulate(files, capsys, "--broker", url, "--fault", "outage@t=5,for=5", "--node", "bench-1")
    assert [each["what"] for each in told["faults"]] == ["outage@t=5,for=5", "the network is back"]
    assert told["lessons"] == 40


# ------------------------------------------------------------------ the command


def test_a_person_gets_lines_and_a_table(files: tuple[str, str], capsys: Capture) -> None:
    assert main(["emulate", files[0], "--data", files[1], "--fault", "power-cut@write=30"]) == 0
    out = capsys.readouterr().out
    for title in ("board", "accuracy", "learned", "energy", "worst minute", "levels", "flash", "went wrong", "digest"):
        assert f"\n  {title} " in out
    assert "s  power-cut@write=30, which was" in out


def test_help_has_an_example(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["emulate", "--help"])
    assert "edgerun emulate digits.edgb --data field.npz" in capsys.readouterr().out


REFUSED = {
    "unknown board": (("--board", "toaster"), "'toaster' is unknown"),
    "period": (("--period", "0"), "--period 0.0 is not a positive number"),
    "power": (("--power", "nan"), "--power nan"),
    "power under the floor": (("--power", "0.01"), "not above its floor"),
    "samples": (("-n", "0"), "--samples 0 is under 1"),
    "both lengths": (("-n", "5", "--seconds", "5"), "not allowed with"),
    "share": (("--supervised", "1.5"), "--supervised 1.5 is not in [0, 1]"),
    "rotation of no square": (("--rotate", "10"), "no square image"),
    "unknown fault": (("--fault", "fire"), "'fire' is unknown"),
    "fault without its argument": (("--fault", "power-cut"), "lacks write"),
    "outage of nothing": (("--fault", "outage@t=1,for=1"), "needs --broker"),
    "broker": (("--broker", "ftp://x"), "not of the form"),
    "node": (("--node", "a/b"), "a/b"),
}


@pytest.mark.parametrize(("options", "reason"), REFUSED.values(), ids=REFUSED)
def test_wrong_arguments_are_refused_in_one_line(
    files: tuple[str, str], capsys: Capture, options: tuple[str, ...], reason: str
) -> None:
    assert reason in refusal(files, capsys, *options)


def test_wrong_files_are_refused_in_one_line(files: tuple[str, str], capsys: Capture, tmp_path: Path) -> None:
    np.savez(tmp_path / "small.npz", x=np.zeros((3, 5)))
    (tmp_path / "text.npz").write_text("no archive")
    assert "takes 12" in refusal((files[0], str(tmp_path / "small.npz")), capsys)
    assert "is no .npz file" in refusal((files[0], str(tmp_path / "text.npz")), capsys)
    assert "missing.npz" in refusal((files[0], str(tmp_path / "missing.npz")), capsys)
    assert "magic" in refusal((files[1], files[1]), capsys)
    assert main(["emulate"]) == 2
    assert "--data X.npz are needed" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_clean_when_told(files: tuple[str, str], tmp_path: Path, number: signal.Signals) -> None:
    state = tmp_path / "state"
    command = [sys.executable, "-m", "edgerun.cli", "emulate", files[0], "--data", files[1], "--seconds", "1000"]
    process = subprocess.Popen(
        [*command, "--speed", "real", "--state-dir", str(state), "--fault", "clock-jump@t=0.5,by=1"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "clock-jump" in process.stdout.readline()
    process.send_signal(number)
    rest = process.communicate(timeout=20)[0]
    assert process.returncode == 0
    assert "worst minute" in rest
    assert main(["replay", str(state), "--bundle", files[0]]) == 0
