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
from edgerun.telemetry.link import Connected, Endpoint, Incoming, MqttLink, Subscribed
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


class Ear:
    """Hears what one device tells its broker."""

    def __init__(self, url: str, topics: Topics) -> None:
        where = parse_broker(url)
        endpoint = Endpoint(
            host=where.host,
            port=where.port,
            client_id=f"ear-{topics.node}",
            username=where.username,
            password=where.password,
        )
        self._link, self._topics = MqttLink(endpoint, clean=True), topics
        self._heard: list[Incoming] = []
        self.listening = False

    def start(self) -> None:
        self._link.start()

    def stop(self) -> None:
        self._link.stop()

    def hear(self) -> None:
        """What has come since."""
        for event in self._link.drain():
            match event:
                case Connected():
                    self._link.subscribe([self._topics.state, self._topics.data, self._topics.event])
                case Subscribed():
                    self.listening = True
                case Incoming():
                    self._heard.append(event)

    def events(self) -> list[str]:
        """The kinds of all events so far."""
        return [msgspec.json.decode(payload, type=Event).kind for payload in self._told(self._topics.event)]

    def stopped(self) -> bool:
        """Whether the device has said that it ends."""
        told = self._told(self._topics.state)
        return bool(told) and msgspec.json.decode(told[-1], type=State).reason == "stopped"

    def newest(self) -> tuple[int, int]:
        """(number, level) of the newest sample that the device told of, (0, 0) before the first."""
        told = (msgspec.json.decode(payload, type=Data) for payload in reversed(self._told(self._topics.data)))
        found = next((data for data in told if data.sample and data.m.get("level")), None)
        return (found.sample, int(found.m["level"][-1] or 0)) if found is not None else (0, 0)

    def _told(self, topic: str) -> list[bytes]:
        return [message.payload for message in self._heard if message.topic == topic]


class Life:
    """One device from its start to its end, which a `with` block brings if nothing else did."""

    def __init__(self, pi: Pi, case: Case, url: str, folder: Path) -> None:
        where = parse_broker(url)
        (folder / "password").write_text(f"{where.password}\n", encoding="utf-8")
        (folder / "device.toml").write_text(config(pi, case, where.port, where.username), encoding="utf-8")
        self._topics, self._url, self._case, self._folder = Topics(GROUP, pi.machine.name), url, case, folder
        self._command = pi.command("-m", "edgerun.cli", "run", "--config", folder / "device.toml")
        self._environment = pi.environment()
        self._process: subprocess.Popen[str] | None = None
        self.ear = Ear(url, self._topics)

    def __enter__(self) -> Self:
        """Returns when somebody listens and the device was started."""
        self.ear.start()
        self._until(lambda: self.ear.listening, "on the broker")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            self._command, stdout=pipe, stderr=pipe, text=True, cwd=self._folder, env=self._environment
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ear.stop()
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def teach(self, runner: Runner) -> None:
        """Sounds of a new class, shown by an operator here. Raises EdgeRunError where it does not learn them."""
        self._until(lambda: self.ear.newest() > (0, 0), "heard of")
        self._ask(runner, "teach", "--label", NEW, "--data", str(self._case.waves), "--shots", str(SHOTS))

    def correct(self, runner: Runner) -> None:
        """What the newest sounds are said to have been, once its budget allows everything that the plan has.

        Raises EdgeRunError where it does not learn them.
        """
        self._until(lambda: self.ear.newest()[0] >= CORRECTED and self.ear.newest()[1] == 0, "at the level full")
        newest, names = self.ear.newest()[0], self._case.names[:CORRECTED]
        self._ask(runner, "feedback", *(f"{newest - k}={name}" for k, name in enumerate(names)))

    def end(self) -> None:
        """SIGTERM, as a service manager sends it. Raises EdgeRunError unless it ends well and has told all."""
        if self._process is None:
            raise EdgeRunError("it was never started")
        self._process.send_signal(signal.SIGTERM)
        try:
            _, words = self._process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise EdgeRunError(f"it does not end within {PATIENCE_S:g} s") from None
        if self._process.returncode or words:
            raise EdgeRunError(f"it ended with {self._process.returncode}: {last_words(words)}")
        self._until(lambda: self.ear.stopped() and set(EVENTS) <= set(self.ear.events()), "heard to the end")

    def replayed(self, runner: Runner) -> dict[str, Any]:
        """Its journal done again here. Raises EdgeRunError where a digest differs, or a lesson is missing."""
        state = self._folder / "state"
        ended = runner("-m", "edgerun.cli", "replay", state, "--bundle", self._case.bundle, "--json")
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

    def _ask(self, runner: Runner, verb: str, *arguments: str) -> None:
        where = ("--group", GROUP, "--broker", self._url, "--timeout", str(PATIENCE_S), "--json")
        ended = runner("-m", "edgerun.cli", verb, self._topics.node, *arguments, *where)
        if ended.returncode:
            raise EdgeRunError(f"{verb}: {last_words(ended.stderr + ended.stdout)}")

    def _until(self, true: Callable[[], bool], what: str) -> None:
        """Listen until something is true. Raises EdgeRunError after PATIENCE_S, or where the device has died."""
        deadline = time.monotonic() + PATIENCE_S
        self.ear.hear()
        while not true():
            if self._process is not None and self._process.poll():
                raise EdgeRunError(f"it died: {last_words(self._process.communicate()[1])}")
            if time.monotonic() > deadline:
                raise EdgeRunError(f"never {what}; its events: {', '.join(self.ear.events()) or 'none'}")
            time.sleep(0.02)
            self.ear.hear()


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
