"""A device's life on an emulated machine: `edgerun run` there, a broker and an operator here.

device starts -> `edgerun teach`, a new class -> `edgerun feedback`, which moves weights -> its events -> SIGTERM
-> `edgerun replay` of its journal, here
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from edgerun.errors import EdgeRunError
from edgerun.telemetry.address import parse_broker
from edgerun.telemetry.link import Connected, Endpoint, Incoming, MqttLink
from edgerun.telemetry.messages import Data, Event, State
from edgerun.telemetry.topics import Topics
from firmware_sim.pi.jobs import NEW, Case, Runner, last_words
from firmware_sim.pi.roots import Pi

GROUP: Final = "emulated"
SHOTS: Final = 5
CORRECTED: Final = 3
LESSONS: Final = SHOTS + CORRECTED
PATIENCE_S: Final = 300.0  # for a birth, for lessons, for an end: emulation is slow, and learning waits half a minute
EVENTS: Final = ("started", "class-added", "taught")
"""What a device tells of such a life, among more; that it has stopped is in its state."""


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    """The address of a mosquitto of our own. Raises EdgeRunError where it does not start."""
    command = [sys.executable, "-m", "edgerun.cli", "broker", "--kind", "mosquitto", "--folder", str(folder), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise EdgeRunError(f"the broker: {last_words(process.communicate()[1])}")
            credentials = Path(json.loads(line)["credentials"])
            yield str(json.loads(credentials.read_text(encoding="utf-8"))["url"])
        finally:
            process.send_signal(signal.SIGINT)


class Life:
    """One device from its start to its end, which a `with` block brings if nothing else did."""

    def __init__(self, pi: Pi, case: Case, url: str, folder: Path) -> None:
        where = parse_broker(url)
        self.topics, self._url, self._case = Topics(GROUP, pi.machine.name), url, case
        self.state = folder / "state"
        (folder / "password").write_text(f"{where.password}\n", encoding="utf-8")
        (folder / "device.toml").write_text(config(pi, case, where.port, where.username), encoding="utf-8")
        endpoint = Endpoint(
            host=where.host,
            port=where.port,
            client_id=f"ear-{pi.machine.name}",
            username=where.username,
            password=where.password,
        )
        self._ear = MqttLink(endpoint, clean=True)
        self._heard: list[Incoming] = []
        self._ear.start()
        command = pi.command("-m", "edgerun.cli", "run", "--config", folder / "device.toml")
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=pi.environment()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ear.stop()
        self._process.kill()
        self._process.communicate()

    def teach(self, runner: Runner) -> None:
        """Sounds of a new class, shown by an operator here. Raises EdgeRunError where it does not learn them."""
        self._until(lambda: self._newest() is not None, "heard of")
        self._ask(runner, "teach", "--label", NEW, "--data", str(self._case.waves), "--shots", str(SHOTS))

    def correct(self, runner: Runner) -> None:
        """What the newest sounds are said to have been, when its budget allows all that the plan has."""
        self._until(lambda: self._full() >= CORRECTED, "at the level full")
        newest = self._full()
        names = self._case.names[:CORRECTED]
        self._ask(runner, "feedback", *(f"{newest - k}={name}" for k, name in enumerate(names)))

    def _ask(self, runner: Runner, *command: str) -> None:
        verb, *arguments = command
        where = ("--group", GROUP, "--broker", self._url, "--timeout", str(PATIENCE_S), "--json")
        ended = runner("-m", "edgerun.cli", verb, self.topics.node, *arguments, *where)
        if ended.returncode:
            raise EdgeRunError(f"{verb}: {last_words(ended.stderr + ended.stdout)}")

    def end(self) -> None:
        """SIGTERM, as a service manager sends it. Raises EdgeRunError unless it ends well, with all told."""
        self._process.send_signal(signal.SIGTERM)
        _, words = self._process.communicate(timeout=PATIENCE_S)
        if self._process.returncode or words:
            raise EdgeRunError(f"it ended with {self._process.returncode}: {last_words(words)}")
        self._until(
            lambda: self._stopped() and set(EVENTS) <= set(self.events()), f"heard of {', '.join(EVENTS)}, its end"
        )

    def events(self) -> list[str]:
        """The kinds of all events so far."""
        return [msgspec.json.decode(payload, type=Event).kind for payload in self._told(self.topics.event)]

    def _full(self) -> int:
        """The number of the newest sample, 0 below the level full."""
        newest = self._newest()
        return newest.sample if newest is not None and newest.m["level"][-1] == 0 else 0

    def _newest(self) -> Data | None:
        """The newest figures with a sample and a level."""
        told = [msgspec.json.decode(payload, type=Data) for payload in self._told(self.topics.data)]
        return next((data for data in reversed(told) if data.sample and data.m.get("level")), None)

    def _stopped(self) -> bool:
        told = self._told(self.topics.state)
        return bool(told) and msgspec.json.decode(told[-1], type=State).reason == "stopped"

    def _told(self, topic: str) -> list[bytes]:
        return [message.payload for message in self._heard if message.topic == topic]

    def replayed(self, runner: Runner) -> dict[str, Any]:
        """Its journal done again here. Raises EdgeRunError where a digest differs, or a lesson is missing."""
        ended = runner("-m", "edgerun.cli", "replay", self.state, "--bundle", self._case.bundle, "--json")
        if not ended.stdout:
            raise EdgeRunError(last_words(ended.stderr))
        told: dict[str, Any] = json.loads(ended.stdout)
        if not told["digest_equal"]:
            raise EdgeRunError(f"differs: {told['first_difference']['what']}")
        if told["lessons"] != LESSONS or told["updates"] < 1 or told["checkpoint"] is None:
            raise EdgeRunError(
                f"{told['lessons']} lessons of {LESSONS}, {told['updates']} updates, checkpoint {told['checkpoint']}"
            )
        return told

    def _until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            if time.monotonic() > deadline or (self._process.poll() or 0) > 0:
                raise EdgeRunError(f"never {what}; events: {', '.join(self.events()) or 'none'}")
            for event in self._ear.drain():
                if isinstance(event, Connected):
                    self._ear.subscribe([self.topics.state, self.topics.data, self.topics.event])
                elif isinstance(event, Incoming):
                    self._heard.append(event)
            time.sleep(0.02)


def config(pi: Pi, case: Case, port: int, username: str) -> str:
    """The device's file."""
    sections: dict[str, dict[str, Any]] = {
        "device": {
            "group": GROUP,
            "node": pi.machine.name,
            "board": pi.machine.board,
            "state_dir": "state",
            "backend": "native",
        },
        "bundle": {"path": str(case.bundle), "allow_unsigned": True},
        "budget": {"power_mw": 6000},
        "sensor": {"path": str(case.waves), "rate_hz": 2},
        "broker": {"port": port, "username": username, "password_file": "password"},
        "telemetry": {"heartbeat_s": 1, "batch": 2},
    }
    lines = []
    for name, entries in sections.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in entries.items())]
    return "\n".join(lines) + "\n"
