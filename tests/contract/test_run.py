"""`edgerun run` as systemd and a fleet meet it: a real process, a real broker, real signals, real files."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from node import EDGERUN, NODE, Capture, Listener, corrections, replayed, write_config

from deploy.broker import Broker
from deploy.operator import Operator
from edgerun.bundle import Selftest, open_bundle, pack, read_bundle
from edgerun.cli import main
from edgerun.linux.disk import RealDisk
from edgerun.store.slots import Slots
from edgerun.telemetry.messages import Birth, State

# ------------------------------------------------------------------ a whole life


@pytest.mark.broker
def test_it_is_born_learns_from_feedback_and_ends_when_told(
    tmp_path: Path,
    broker: Broker,
    listener: Listener,
    stream: Path,
    digits_bundle: Path,
    start: Callable[..., subprocess.Popen[str]],
    capsys: Capture,
) -> None:
    bundle = open_bundle(digits_bundle)
    process = start(write_config(tmp_path / "device", digits_bundle, stream, broker))
    listener.until(lambda: (data := listener.live()) and data.sample > 20)
    birth = listener.last(NODE.birth, Birth)
    assert (birth.bundle, birth.board, birth.allow_unsigned) == (bundle.id, "rpi-5", True)
    items = corrections(listener.live(), 10)
    with Operator(broker.host, broker.port, broker.username, broker.password) as operator:
        answers = operator.send("lab", "pi-7", "feedback", {"items": items}, 20)
    assert [answer.status for answer in answers] == ["accepted", "done"]
    assert answers[-1].detail["lessons"] == 10
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=15)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[0] == "running digits_snn seq 0 as lab/pi-7"
    assert ", 10 lessons, " in out.splitlines()[-1]
    listener.until(lambda: not listener.last(NODE.state, State).online)
    assert listener.last(NODE.state, State).reason == "stopped"
    done = replayed(tmp_path / "device" / "state", digits_bundle, capsys)
    assert (done.lessons, done.checkpoint is not None) == (10, True)


@pytest.mark.broker
def test_a_kill_in_the_middle_loses_no_lesson_that_was_answered_for(
    tmp_path: Path,
    broker: Broker,
    listener: Listener,
    stream: Path,
    digits_bundle: Path,
    start: Callable[..., subprocess.Popen[str]],
    capsys: Capture,
) -> None:
    state = tmp_path / "device" / "state"
    config = write_config(tmp_path / "device", digits_bundle, stream, broker, sensor={"rate_hz": 100})
    answered = session = 0
    for round_number in range(3):
        process = start(config)
        listener.until(lambda above=session: listener.live(above))
        data = listener.live(session)
        items, session = corrections(data, 2), data.sid if data else 0
        with Operator(broker.host, broker.port, broker.username, broker.password) as operator:
            answered += operator.send("lab", "pi-7", "feedback", {"items": items}, 20)[-1].detail["lessons"]
            answers: list[Any] = []
            with pytest.raises(KeyboardInterrupt):
                operator.send("lab", "pi-7", "feedback", {"items": items * 20}, 20, kill_after(process, answers))
        process.wait(10)
        done = replayed(state, digits_bundle, capsys)
        assert done.digest_equal
        assert answered <= done.lessons < answered + 40 * (round_number + 1)
        answered = done.lessons
    process = start(config)
    listener.until(lambda: any(event.detail["lessons"] >= answered for event in listener.events("restored")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 0
    assert replayed(state, digits_bundle, capsys).lessons == answered


def kill_after(process: subprocess.Popen[str], answers: list[Any]) -> Callable[[str, Any], None]:
    """At the first answer let a few lessons be learned, then kill, and stop waiting for the rest."""

    def hear(node: str, result: Any) -> None:
        time.sleep(0.1)
        process.kill()
        raise KeyboardInterrupt

    return hear


def test_a_long_rest_ends_at_once_when_told(
    tmp_path: Path, stream: Path, mlp_bundle: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(write_config(tmp_path / "device", mlp_bundle, stream, sensor={"rate_hz": 0.01}))
    assert process.stdout is not None
    assert process.stdout.readline().startswith("running ")
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0


def test_two_agents_never_share_a_state_folder(
    tmp_path: Path, stream: Path, mlp_bundle: Path, start: Callable[..., subprocess.Popen[str]], capsys: Capture
) -> None:
    config = write_config(tmp_path / "device", mlp_bundle, stream)
    process = start(config)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("running ")
    assert main(["run", "--config", str(config)]) == 2
    assert capsys.readouterr().err == f"edgerun: {tmp_path / 'device' / 'state'} is in use by another agent\n"


# ------------------------------------------------------------------ systemd


def test_systemd_hears_that_it_is_ready_alive_and_ending(
    tmp_path: Path, stream: Path, mlp_bundle: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    config = write_config(tmp_path / "device", mlp_bundle, stream, sensor={"rate_hz": 0.05})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.settimeout(15)
        process = start(config, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000")
        heard = [ear.recv(100) for _ in range(4)]
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        while heard[-1] == b"WATCHDOG=1":
            heard.append(ear.recv(100))
        assert process.wait(10) == 0
    assert heard[:4] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1", b"WATCHDOG=1"]
    assert heard[-1] == b"STOPPING=1"
    assert time.monotonic() - asked < 5, "a rest of twenty seconds must end at once"


def test_a_wrong_watchdog_is_refused(tmp_path: Path, stream: Path, mlp_bundle: Path) -> None:
    config = write_config(tmp_path / "device", mlp_bundle, stream)
    command = [sys.executable, "-c", EDGERUN, "run", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "WATCHDOG_USEC": "soon"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "edgerun: WATCHDOG_USEC 'soon' is no positive number of microseconds\n"


# ------------------------------------------------------------------ recordings that end


@pytest.fixture
def short(digits: Path, tmp_path: Path) -> Path:
    """Forty labelled images, two without a label and one that is broken."""
    field = np.load(digits / "field.npz")
    known = field["y"] < 8
    x, y = field["x"][known][:43].astype(np.float32), field["y"][known][:43]
    y[:2], x[2] = -1, np.nan
    np.savez(tmp_path / "short.npz", x=x, y=y)
    return tmp_path / "short.npz"


def run_to_its_end(config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", EDGERUN, "run", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_recording_that_supervises_teaches_and_ends(
    tmp_path: Path, short: Path, digits_bundle: Path, capsys: Capture
) -> None:
    config = write_config(tmp_path / "device", digits_bundle, short, sensor={"rate_hz": 40, "loop": False})
    done = run_to_its_end(config)
    assert done.returncode == 0
    assert "43 samples, 42 inferences, 40 lessons" in done.stdout.splitlines()[-1]
    assert done.stderr == "warning sample refused sample=3 reason=a sample has 64 values that are not finite\n"
    assert replayed(tmp_path / "device" / "state", digits_bundle, capsys).lessons == 40


def test_lessons_that_the_governor_never_allows_are_not_waited_for_for_ever(
    tmp_path: Path, short: Path, digits_bundle: Path
) -> None:
    config = write_config(tmp_path / "device", digits_bundle, short, sensor={"rate_hz": 500, "loop": False})
    hasty = EDGERUN.replace("sys.exit", "import edgerun.commands.run\nedgerun.commands.run.LINGER_S = 0.5\nsys.exit")
    command = [sys.executable, "-c", hasty, "run", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, ", 0 lessons, " in done.stdout.splitlines()[-1]) == (0, True)


# ------------------------------------------------------------------ which bundle runs


def remade(bundle: Path, folder: Path, name: str, *, wrong: bool = False, **changes: Any) -> Path:
    """The same bundle with another manifest, and with scores in its self-test that nobody gets if `wrong`."""
    old = open_bundle(bundle)
    selftest = Selftest(old.selftest.x, old.selftest.y + 1) if wrong else old.selftest
    manifest = msgspec.structs.replace(old.manifest, **changes)
    data = pack(manifest, old.tensors, selftest=selftest, probe=old.probe, exemplars=old.exemplars, priors=old.priors)
    (folder / name).write_bytes(data)
    return folder / name


def test_a_new_bundle_is_tried_and_an_old_or_a_broken_one_stays_out(
    tmp_path: Path, short: Path, mlp_bundle: Path
) -> None:
    folder, slots = tmp_path / "device", Slots(RealDisk(tmp_path / "device" / "state"))
    first = remade(mlp_bundle, tmp_path, "first.edgb", seq=1)
    newer = remade(mlp_bundle, tmp_path, "newer.edgb", seq=2)
    wrong = remade(mlp_bundle, tmp_path, "wrong.edgb", wrong=True, seq=3)
    story = [
        (first, first, ""),
        (newer, newer, ""),
        (first, newer, "warning the device holds a newer bundle seq=2 offered=1"),
        (wrong, newer, "error bundle rolled back"),
        (wrong, newer, "warning this bundle failed here before and stays out"),
        (newer, newer, ""),
    ]
    for offered, runs, said in story:
        config = write_config(folder, offered, short, sensor={"rate_hz": 2000, "loop": False})
        done = run_to_its_end(config)
        assert done.returncode == 0, done.stderr
        assert slots.current == open_bundle(runs).id
        told = [line for line in done.stderr.splitlines() if "sample refused" not in line]
        assert ("\n".join(told)).startswith(said)
        assert bool(told) == bool(said)


def test_a_first_bundle_that_computes_something_else_does_not_run(
    tmp_path: Path, short: Path, mlp_bundle: Path
) -> None:
    wrong = remade(mlp_bundle, tmp_path, "wrong.edgb", wrong=True)
    config = write_config(tmp_path / "device", wrong, short, sensor={"loop": False})
    done = run_to_its_end(config)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("edgerun: self-test row 0: score 0 is ")


def test_a_slot_that_has_rotted_is_mended(tmp_path: Path, short: Path, mlp_bundle: Path) -> None:
    config = write_config(tmp_path / "device", mlp_bundle, short, sensor={"rate_hz": 2000, "loop": False})
    assert run_to_its_end(config).returncode == 0
    (slot,) = (tmp_path / "device" / "state" / "slots").glob("*/bundle.edgb")
    slot.write_bytes(slot.read_bytes()[:-1])
    assert run_to_its_end(config).returncode == 0
    assert slot.read_bytes() == mlp_bundle.read_bytes()


# ------------------------------------------------------------------ what is refused


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "a bit of the header": lambda data: flipped(data, 20),
    "a bit of the weights": lambda data: flipped(data, len(data) // 2),
    "foreign": lambda data: b"\x89PNG\r\n\x1a\n" + bytes(1000),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_bundle_is_refused(
    tmp_path: Path, stream: Path, mlp_bundle: Path, capsys: Capture, damage: Callable[[bytes], bytes]
) -> None:
    bad = tmp_path / "bad.edgb"
    bad.write_bytes(damage(mlp_bundle.read_bytes()))
    refused(write_config(tmp_path / "device", bad, stream), f"{bad}: ", capsys)


def refused(config: Path, reason: str, capsys: Capture) -> None:
    """One line, exit code 2, and no state folder."""
    assert main(["run", "--config", str(config)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("edgerun: ")
    assert captured.err.count("\n") == 1
    assert reason in captured.err
    assert not (config.parent / "state").exists()


REFUSALS: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "wrong key": ({"sensor": {"rate": 5}}, "sensor.rate: unknown key, the nearest is sensor.rate_hz"),
    "wrong board": ({"device": {"board": "rpi-99"}}, "board 'rpi-99' is unknown"),
    "budget under the floor": ({"budget": {"power_mw": 2800}}, "budget power_mw 2800 is not above its floor"),
    "deadline under the floor": ({"budget": {"deadline_ms": 0.001}}, "budget deadline_ms 0.001 is not above its floor"),
    "no recording": ({"sensor": {"path": "none.npz"}}, "none.npz: No such file or directory"),
    "no password": ({"broker": {"username": "u", "password_file": "none"}}, "none: No such file or directory"),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_a_configuration_that_cannot_be_is_refused(
    tmp_path: Path, stream: Path, mlp_bundle: Path, capsys: Capture, changes: dict[str, Any], reason: str
) -> None:
    refused(write_config(tmp_path / "device", mlp_bundle, stream, **changes), reason, capsys)


def test_a_bundle_for_another_device_class_is_refused(
    tmp_path: Path, stream: Path, mlp_bundle: Path, capsys: Capture
) -> None:
    small = remade(mlp_bundle, tmp_path, "small.edgb", device_class="mcu")
    refused(write_config(tmp_path / "device", small, stream), "device_class 'mcu' is not this device's", capsys)


def test_a_bundle_that_nobody_trusted_has_signed_is_refused(
    tmp_path: Path, stream: Path, mlp_bundle: Path, capsys: Capture
) -> None:
    pytest.importorskip("cryptography", reason="pip install 'edgerun[sign]'")
    from exporters.keys import file_signer, new_key

    _, public = new_key(tmp_path / "release")
    other, _ = new_key(tmp_path / "other")
    trust = {"bundle": {"trust": [str(public)], "allow_unsigned": False}}
    refused(write_config(tmp_path / "device", mlp_bundle, stream, **trust), "sign", capsys)
    old = read_bundle(mlp_bundle.read_bytes())
    signed = tmp_path / "signed.edgb"
    signed.write_bytes(
        pack(
            old.manifest, old.tensors, selftest=old.selftest, probe=old.probe, exemplars=old.exemplars,
            sign=[file_signer(other)],
        )
    )  # fmt: skip
    refused(write_config(tmp_path / "device", signed, stream, **trust), "sign", capsys)


BAD_RECORDINGS: dict[str, tuple[dict[str, Any] | bytes, str]] = {
    "no archive": (b"\x93NUMPY", "is no .npz file"),
    "cut": (b"PK\x03\x04" + bytes(60), "is no .npz file"),
    "pickles": ({"x": np.array([[{}]], dtype=object)}, "is no .npz file"),
    "no x": ({"z": np.zeros((2, 64))}, "x.npz: has neither 'x' nor 'samples'"),
    "text": ({"x": np.full((2, 64), "a")}, "x.npz: 'x' is <U1 (2, 64), must be numbers"),
    "another size": ({"x": np.zeros((2, 63))}, "the sensor gives 63 values a sample, the bundle takes 64"),
    "labels too few": ({"x": np.zeros((2, 64)), "y": np.zeros(1, int)}, "y has shape (1,), there are 2 samples"),
    "no whole labels": ({"x": np.zeros((2, 64)), "y": np.zeros(2)}, "y has dtype float64"),
    "unknown label": ({"x": np.zeros((2, 64)), "y": np.array([0, 8])}, "y reaches from 0 to 8, there are 8 classes"),
}


@pytest.mark.parametrize(("content", "reason"), BAD_RECORDINGS.values(), ids=BAD_RECORDINGS)
def test_a_recording_that_does_not_fit_is_refused(
    tmp_path: Path, mlp_bundle: Path, capsys: Capture, content: dict[str, Any] | bytes, reason: str
) -> None:
    path = tmp_path / "x.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    refused(write_config(tmp_path / "device", mlp_bundle, path), reason, capsys)


def test_a_refusal_leaves_an_old_state_folder_as_it_is(
    tmp_path: Path, short: Path, mlp_bundle: Path, capsys: Capture
) -> None:
    state = tmp_path / "device" / "state"
    config = write_config(tmp_path / "device", mlp_bundle, short, sensor={"rate_hz": 2000, "loop": False})
    assert run_to_its_end(config).returncode == 0
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    bad = tmp_path / "bad.edgb"
    bad.write_bytes(flipped(mlp_bundle.read_bytes(), 5000))
    assert main(["run", "--config", str(write_config(tmp_path / "device", bad, short))]) == 2
    assert {path: path.read_bytes() for path in state.rglob("*") if path.is_file()} == before
