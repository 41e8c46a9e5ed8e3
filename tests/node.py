"""A device as `edgerun run` runs it: a process of its own, its file, everything that it says, what it learned."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deploy.broker import Broker
from edgerun.cli import main
from edgerun.commands.replay import Replayed
from edgerun.telemetry.link import Connected, Endpoint, Incoming, MqttLink
from edgerun.telemetry.messages import Data, Event
from edgerun.telemetry.topics import Topics

Capture = pytest.CaptureFixture[str]
NODE = Topics("lab", "pi-7")
RATE_HZ = 25
TOLD = ("state", "birth", "data", "event", "res/#")
EDGERUN = (
    "import sys, edgerun.governor\n"
    "edgerun.governor.DWELL_S = 0.2  # seconds before the first lesson after a start; nobody waits for 30 here\n"
    "from edgerun.cli import main\n"
    "sys.exit(main())"
)


def write_config(
    folder: Path, bundle: Path, data: Path, broker: Broker | None = None, /, **changes: dict[str, Any]
) -> Path:
    """A device's file; `changes` are entries a section. Without a broker the link knocks at a closed door."""
    folder.mkdir(exist_ok=True)
    sections: dict[str, dict[str, Any]] = {
        "device": {"group": "lab", "node": "pi-7", "board": "rpi-5", "state_dir": "state"},
        "bundle": {"path": str(bundle), "allow_unsigned": True},
        "budget": {"power_mw": 6000},
        "sensor": {"path": str(data), "rate_hz": RATE_HZ},
        "broker": {"port": 1},
        "telemetry": {"heartbeat_s": 1, "batch": 2},
    }
    if broker is not None:
        (folder / "password").write_text(f"{broker.password}\n")
        sections["broker"] = {"port": broker.port, "username": broker.username, "password_file": "password"}
    for name, entries in changes.items():
        sections[name] |= entries
    lines = []
    for name, entries in sections.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in entries.items())]
    (folder / "device.toml").write_text("\n".join(lines))
    return folder / "device.toml"


class Listener:
    """Hears everything that a device says."""

    def __init__(self, broker: Broker) -> None:
        endpoint = Endpoint(
            host=broker.host, port=broker.port, client_id="ear", username=broker.username, password=broker.password
        )
        self.link = MqttLink(endpoint, clean=True, backoff_s=(0.05, 0.2))
        self.heard: list[Incoming] = []
        self.link.start()

    def until(self, done: Callable[[], object], seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, f"heard only {[message.topic for message in self.heard]}"
            self.hear()

    def hear(self) -> None:
        """What has come since, after a short rest."""
        for event in self.link.drain():
            if isinstance(event, Connected):
                self.link.subscribe([f"edgerun/v1/lab/+/{kind}" for kind in TOLD])
            elif isinstance(event, Incoming):
                self.heard.append(event)
        time.sleep(0.01)

    def live(self, above: int = 0) -> Data | None:
        """The newest figures of a session above `above`, none of them told late."""
        told = [msgspec.json.decode(m.payload, type=Data) for m in self.heard if m.topic == NODE.data]
        return next((data for data in reversed(told) if data.sid > above and not data.hist and data.sample), None)

    def last(self, topic: str, kind: type[Any]) -> Any:
        found = [message.payload for message in self.heard if message.topic == topic]
        return msgspec.json.decode(found[-1], type=kind) if found else None

    def events(self, kind: str) -> list[Event]:
        all_events = [msgspec.json.decode(m.payload, type=Event) for m in self.heard if m.topic == NODE.event]
        return [event for event in all_events if event.kind == kind]


def corrections(data: Data | None, count: int) -> list[dict[str, Any]]:
    """Feedback on the newest windows."""
    assert data is not None
    return [{"sample": sample, "label": str(sample % 8)} for sample in range(data.sample, data.sample - count, -1)]


def replayed(state: Path, bundle: Path, capsys: Capture) -> Replayed:
    code = main(["replay", str(state), "--bundle", str(bundle), "--json"])
    done = msgspec.json.decode(capsys.readouterr().out, type=Replayed)
    assert code == (0 if done.digest_equal else 1)
    return done
