"""Wrong and too much input to a real agent through a real broker: nothing is learned from it, all of it is told."""

from __future__ import annotations

import base64
import itertools
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from node import NODE, Listener, write_config
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from deploy.broker import Broker
from edgerun.telemetry.commands import TOO_MANY, Example, seal
from edgerun.telemetry.messages import Data, Inner, Result

FLOOD = 10_000
"""Commands, as fast as one core sends them."""

Start = Callable[..., subprocess.Popen[str]]


class Life:
    """A device at work, its ear, and an operator who may send anything."""

    def __init__(self, process: subprocess.Popen[str], listener: Listener) -> None:
        self.process, self.listener = process, listener
        self._counter = itertools.count(time.time_ns() // 1_000_000)

    def sealed(self, verb: str, args: dict[str, Any]) -> tuple[str, bytes]:
        """A new command: its id and its bytes."""
        number, now = next(self._counter), time.time_ns() // 1_000_000
        topic, name = NODE.cmd(verb), f"{verb}-{number}"
        return name, seal(topic, Inner(id=name, ctr=number, iat=now, exp=now + 120_000, args=args))

    def send(self, verb: str, args: dict[str, Any] | None = None) -> Result:
        """Send a command, again every few seconds while a flood drops it; its final answer."""
        sent: list[str] = []
        due_s, last_s = 0.0, time.monotonic() + 120
        while not (found := [answer for name in sent for answer in self._final(verb, name)]):
            assert time.monotonic() < last_s, f"{verb} was not answered"
            if time.monotonic() >= due_s:
                name, payload = self.sealed(verb, args or {})
                assert self.listener.link.publish(NODE.cmd(verb), payload) is not None
                sent.append(name)
                due_s = time.monotonic() + 10
            self.listener.hear()
        return found[-1]

    def _final(self, verb: str, name: str) -> list[Result]:
        heard = [m.payload for m in self.listener.heard if m.topic == NODE.res(verb)]
        results = [msgspec.json.decode(payload, type=Result) for payload in heard]
        final = [result for result in results if result.id == name and result.status not in ("accepted", "running")]
        return [result for result in final if result.detail.get("reason") != TOO_MANY]

    def digest(self) -> str:
        return str(self.send("probe").detail["digest"])

    def newest(self, metric: str) -> float:
        return self.rows(metric)[-1][1]

    def rows(self, metric: str) -> list[tuple[int, float]]:
        """All that was told of a metric: wall time in ms and value."""
        told = [msgspec.json.decode(m.payload, type=Data) for m in self.listener.heard if m.topic == NODE.data]
        return [
            (t, value)
            for data in told
            for t, value in zip(data.t, data.m.get(metric, []), strict=False)
            if value is not None
        ]

    def resident_kb(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])


@pytest.fixture
def life(tmp_path: Path, broker: Broker, listener: Listener, stream: Path, digits_bundle: Path, start: Start) -> Life:
    process = start(write_config(tmp_path / "device", digits_bundle, stream, broker))
    listener.until(lambda: (data := listener.live()) and data.sample > 20, 60)
    return Life(process, listener)


def example(values: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(Example.of(values))
    return found


DIGIT = np.zeros((8, 8), np.uint8)
ONE = {"label": "3", "examples": [example(DIGIT)]}
NAN = example(np.zeros((8, 8), np.float32)) | {"data": base64.b64encode(np.full(64, np.nan, "<f4").tobytes()).decode()}
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "wrong shape": ("teach", {"label": "3", "examples": [example(np.zeros(65, np.uint8))]}, "65 values"),
    "bytes missing": ("teach", {"label": "3", "examples": [example(DIGIT) | {"data": "AAAA"}]}, "needs 64"),
    "not finite": ("teach", {"label": "3", "examples": [NAN]}, "not finite"),
    "label out of range": ("feedback", {"items": [{"sample": 15, "label": "99"}]}, "none of the 8 classes"),
    "label too long": ("teach", {"label": "x" * 65, "examples": [example(DIGIT)]}, "64"),
    "no such sample": ("feedback", {"items": [{"sample": 10**9, "label": "3"}]}, "is not among"),
    "contradictory labels": (
        "feedback",
        {"items": [{"sample": 15, "label": "3"}, {"sample": 15, "label": "5"}]},
        "was called '3', now '5'",
    ),
    "too many examples": ("teach", {"label": "3", "examples": [example(DIGIT)] * 17}, "examples"),
}


@pytest.mark.broker
def test_wrong_lessons_are_answered_with_a_reason_and_change_nothing(life: Life) -> None:
    before = life.digest()
    told = {name: life.send(verb, args) for name, (verb, args, _) in WRONG.items()}
    for name, (_, _, reason) in WRONG.items():
        assert (told[name].status, reason in told[name].detail["reason"]) == ("rejected", True), (name, told[name])
    assert life.digest() == before
    assert life.newest("lessons") == 0


@pytest.mark.broker
def test_a_flood_of_teaching_neither_fills_the_memory_nor_stops_the_device(life: Life, broker: Broker) -> None:
    """Learning is paused: what the device takes waits, what it does not take is dropped, counted and told."""
    assert life.send("learn-pause").status == "done"
    before, resident_kb = life.digest(), life.resident_kb()
    sealed = [life.sealed("teach", ONE)[1] for _ in range(FLOOD)]
    begun_ms = time.time_ns() // 1_000_000
    lasted_s = flood(broker, sealed)
    ended_ms = time.time_ns() // 1_000_000
    assert life.digest() == before
    life.listener.until(lambda: life.rows("inferences")[-1][0] > ended_ms and life.listener.events("flood"), 90)
    rows = sorted({row for row in life.rows("inferences") if row[0] >= begun_ms})
    a_second = 1000 * (rows[-1][1] - rows[0][1]) / (rows[-1][0] - rows[0][0])
    longest_ms, grown_kb = max(b[0] - a[0] for a, b in pairwise(rows)), life.resident_kb() - resident_kb
    print(f"{FLOOD} in {lasted_s:.1f} s: {a_second:.1f} samples/s, {longest_ms} ms between rows, {grown_kb} KiB more")
    assert life.process.poll() is None
    assert grown_kb < 32 * 1024
    assert a_second > 2  # of 25; a machine that does nothing else keeps nearly all
    told = life.listener.events("flood")[0].detail
    assert told["dropped"] + told["unanswered"] > 0
    assert life.newest("lessons") == 0


def flood(broker: Broker, sealed: list[bytes]) -> float:
    """Commands as fast as one core sends them; the seconds that it took."""
    client = Client(CallbackAPIVersion.VERSION2, client_id="flood")
    client.username_pw_set(broker.username, broker.password)
    client.connect(broker.host, broker.port)
    client.loop_start()
    begun = time.monotonic()
    for payload in sealed:
        sent = client.publish(NODE.cmd("teach"), payload, qos=0)
    sent.wait_for_publish(120)
    client.disconnect()
    client.loop_stop()
    return time.monotonic() - begun
