"""Device and operator over each real broker: what MQTT promises, and what we promise on top."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from deploy import operator
from deploy.broker import Broker, Kind, find_mosquitto, free_port, start_broker
from deploy.operator import Operator, load_key, make_key, save_key
from edgerun.cli import main
from edgerun.errors import CommandError, EdgeRunError, Refused
from edgerun.store.outbox import Outbox
from edgerun.telemetry.commands import Command, Gate, Rejection, Teach, seal
from edgerun.telemetry.link import (
    INBOX_BYTES,
    INBOX_LIMIT,
    Connected,
    Disconnected,
    Endpoint,
    Incoming,
    LinkEvent,
    MqttLink,
    Will,
)
from edgerun.telemetry.messages import Ack, Birth, Event, Inner, Result, State
from edgerun.telemetry.reporter import Identity, Pace, Reporter, gap_event
from edgerun.telemetry.topics import ALL, Topics, parse

pytestmark = pytest.mark.broker

NODE = Topics("farm", "pi-7")
WHO = Identity(bundle="ab" * 32, bundle_name="digits", runtime="0.1.0", board="rpi-5", classes=("0",), capacity=10)
MISSING = {
    "mosquitto": "mosquitto is not installed (apt install mosquitto)" if find_mosquitto() is None else "",
    "amqtt": "" if find_spec("amqtt") else "amqtt is not installed (pip install 'edgerun[demo]')",
}


@pytest.fixture(params=get_args(Kind))
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    if MISSING[request.param]:
        pytest.skip(MISSING[request.param])
    with start_broker(tmp_path / "broker", kind=request.param) as running:
        yield running


def endpoint(broker: Broker, name: str) -> Endpoint:
    return Endpoint(
        host=broker.host, port=broker.port, client_id=name, username=broker.username, password=broker.password
    )


def eventually(done: Callable[[], object], seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


class Probe:
    """A link that keeps everything that it hears."""

    def __init__(self, link: MqttLink) -> None:
        self.link = link
        self.events: list[LinkEvent] = []

    def wait_for(self, kind: type[LinkEvent], count: int = 1, seconds: float = 8.0) -> list[Any]:
        def found() -> list[LinkEvent]:
            self.events += self.link.drain()
            return [event for event in self.events if isinstance(event, kind)]

        eventually(lambda: len(found()) >= count, seconds)
        return found()


@pytest.fixture
def listener(broker: Broker) -> Iterator[Probe]:
    """Somebody who hears the whole group."""
    probe = Probe(MqttLink(endpoint(broker, "listener"), clean=True, backoff_s=(0.05, 0.2)))
    probe.link.start()
    probe.wait_for(Connected)
    probe.link.subscribe(["edgerun/v1/farm/#"])
    probe.link.publish("edgerun/v1/farm/ready/state", b"{}")
    probe.wait_for(Incoming)
    probe.events.clear()
    yield probe
    probe.link.stop()


class Collector:
    """Stands in for the dashboard's: a plain paho client that stores by number and acknowledges what has no hole."""

    def __init__(self, broker: Broker) -> None:
        self.stored: dict[int, Event] = {}
        self.duplicates = 0
        self.gaps: set[int] = set()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id="collector", clean_session=False)
        self.client.username_pw_set(broker.username, broker.password)
        self.client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]  # fractions
        self.client.on_connect = lambda client, *_: client.subscribe(NODE.event, qos=1)
        self.client.on_message = self._store
        self.client.connect(broker.host, broker.port)
        self.client.loop_start()

    def _store(self, client: paho.Client, _: Any, message: paho.MQTTMessage) -> None:
        event = msgspec.json.decode(message.payload, type=Event)
        self.duplicates += event.seq in self.stored
        self.stored[event.seq] = event
        if event.kind == "gap":
            self.gaps |= set(range(event.detail["from"], event.detail["to"] + 1))
        upto = 0
        while upto + 1 in self.stored or upto + 1 in self.gaps:
            upto += 1
        ack = Ack(collector="c1", sid=event.sid, upto=upto)
        client.publish(NODE.ack, msgspec.json.encode(ack), qos=1, retain=True)

    def lessons(self) -> list[int]:
        return [event.detail["n"] for _, event in sorted(self.stored.items()) if event.kind == "lesson"]

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Device:
    """A reporter with its real link and outbox, driven by the test or by a thread of its own."""

    def __init__(self, broker: Broker, folder: Path, *, keys: dict[str, bytes] | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.link = MqttLink(endpoint(broker, "farm.pi-7"), backoff_s=(0.02, 0.1))
        make_gap = gap_event(lambda: 0)
        self.outbox = Outbox(folder / "outbox.db", gap_topic=NODE.event, make_gap=make_gap)
        self.reporter = Reporter(
            self.link,
            self.outbox,
            NODE,
            WHO,
            Gate(NODE, keys or {}, {}, lambda counters: None, lambda: time.time_ns() // 1_000_000),
            sid=0,
            save_sid=lambda sid: None,
            wall_ms=lambda: time.time_ns() // 1_000_000,
            pace=Pace(resend_s=(0.5, 2.0)),
        )
        self.heard: list[Command | Rejection] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self.reporter.start()

    def poll(self) -> list[Command | Rejection]:
        heard = self.reporter.poll(time.monotonic())
        self.heard += heard
        return heard

    def until(self, done: Callable[[], object], seconds: float = 8.0) -> None:
        def polled() -> object:
            self.poll()
            return done()

        eventually(polled, seconds)

    def serve(self) -> None:
        """From now on, take every command in a thread, and do what it says by saying so."""
        self._thread.start()

    def _serve(self) -> None:
        while not self._over.is_set():
            for command in self.poll():
                if isinstance(command, Command):
                    self.reporter.result(command, "accepted")
                    self.reporter.result(command, "done", {"verb": command.verb})
            time.sleep(0.005)

    def stop(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self.reporter.stop(2.0)
        self.outbox.close()


@pytest.fixture
def device(broker: Broker, tmp_path: Path) -> Iterator[Device]:
    made = Device(broker, tmp_path / "device")
    made.until(lambda: made.reporter.connected)
    yield made
    made.stop()


def order(device: Device, verb: str, ctr: int, **args: Any) -> bytes:
    now = time.time_ns() // 1_000_000
    return seal(NODE.cmd(verb), Inner(id=f"c{ctr}", ctr=ctr, iat=now, exp=now + 60_000, args=args))


def told(listener: Probe, topic: str, type: type[Any], count: int, seconds: float = 8.0) -> list[Any]:
    """The first messages of a topic that the listener hears."""
    found: list[Any] = []

    def enough() -> bool:
        listener.events += listener.link.drain()
        found[:] = [
            msgspec.json.decode(event.payload, type=type)
            for event in listener.events
            if isinstance(event, Incoming) and event.topic == topic
        ]
        return len(found) >= count

    eventually(enough, seconds)
    return found


class TestBroker:
    def test_nobody_enters_without_the_password(self, broker: Broker) -> None:
        for name, username, password in (("a", "", ""), ("b", broker.username, "wrong"), ("c", "root", "")):
            stranger = Probe(
                MqttLink(
                    Endpoint(host=broker.host, port=broker.port, client_id=name, username=username, password=password),
                    backoff_s=(0.02, 0.05),
                )
            )
            stranger.link.start()
            (refusal, *_) = [
                event for event in stranger.wait_for(Disconnected, 2) if "protocol" not in event.reason.lower()
            ]
            stranger.link.stop()
            assert "authorized" in refusal.reason.lower()
            assert not any(isinstance(event, Connected) for event in stranger.events)

    def test_it_listens_on_this_machine_only(self, broker: Broker) -> None:
        with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing, but tells which address we would use
            address = probe.getsockname()[0]
        if address == "127.0.0.1":
            pytest.skip("this machine has no address but the loopback")
        with pytest.raises(OSError, match=r"refused|timed out"):
            socket.create_connection((address, broker.port), timeout=1.0)

    def test_secrets_are_the_owners(self, broker: Broker) -> None:
        for name in ("credentials.json", "passwords"):
            assert (broker.folder / name).stat().st_mode & 0o077 == 0
        assert broker.password not in (broker.folder / "passwords").read_text()
        assert json.loads(broker.credentials.read_text())["url"] == broker.url
        assert broker.password not in repr(broker)

    def test_a_taken_port_is_one_line(self, broker: Broker, tmp_path: Path) -> None:
        with pytest.raises(EdgeRunError, match=f"port {broker.port} cannot be used"):
            start_broker(tmp_path / "other", port=broker.port, kind=broker.kind)

    def test_the_best_protocol_that_both_speak(self, broker: Broker) -> None:
        probe = Probe(MqttLink(endpoint(broker, "p")))
        probe.link.start()
        probe.wait_for(Connected, seconds=2.0)  # a refused protocol costs no back-off
        probe.link.stop()
        assert probe.link.protocol == {"mosquitto": "MQTT 5", "amqtt": "MQTT 3.1.1"}[broker.kind]


VICTIM = """
import sys, time
from edgerun.telemetry.link import Connected, Endpoint, MqttLink, Will
host, port, username, password = sys.argv[1:]
link = MqttLink(Endpoint(host=host, port=int(port), client_id="victim", username=username, password=password))
link.start(lambda session: Will("edgerun/v1/farm/victim/state", b'{"online":false,"sid":%d}' % session), 41)
while not link.connected:
    link.drain()
    time.sleep(0.01)
print("connected", flush=True)
time.sleep(60)
"""


class TestWill:
    def test_a_killed_process_is_announced(self, broker: Broker, listener: Probe) -> None:
        address = [broker.host, str(broker.port), broker.username, broker.password]
        with subprocess.Popen([sys.executable, "-c", VICTIM, *address], stdout=subprocess.PIPE, text=True) as victim:
            assert victim.stdout is not None
            assert victim.stdout.readline() == "connected\n"
            victim.kill()
        (will,) = told(listener, "edgerun/v1/farm/victim/state", State, 1)
        assert (will.online, will.sid >= 41) == (False, True)

    def test_a_silent_client_is_announced_and_an_idle_one_is_not(self, broker: Broker, listener: Probe) -> None:
        idle = Probe(MqttLink(endpoint(broker, "idle"), keepalive_s=1))
        idle.link.start(lambda session: Will("edgerun/v1/farm/idle/state", b"gone"))
        idle.wait_for(Connected)
        with socket.create_connection((broker.host, broker.port)) as silent:
            silent.sendall(connect_packet("silent", broker, keepalive_s=1, will="edgerun/v1/farm/silent/state"))
            assert silent.recv(4) == bytes([0x20, 2, 0, 0])
            start = time.monotonic()
            told(listener, "edgerun/v1/farm/silent/state", State, 1, seconds=15.0)  # mosquitto looks every few seconds
            assert time.monotonic() - start >= 1.0
        time.sleep(max(0.0, start + 3.5 - time.monotonic()))
        idle.events += idle.link.drain()
        idle.link.stop()
        assert sum(isinstance(event, Connected) for event in idle.events) == 1
        assert isinstance(idle.events[-1], Connected)

    def test_a_clean_stop_says_so_itself(self, broker: Broker, listener: Probe, tmp_path: Path) -> None:
        device = Device(broker, tmp_path / "device")
        device.until(lambda: device.reporter.connected)
        device.stop()
        states = told(listener, NODE.state, State, 2)
        assert [(state.online, state.reason) for state in states] == [(True, ""), (False, "stopped")]


def connect_packet(name: str, broker: Broker, *, keepalive_s: int, will: str) -> bytes:
    """CONNECT of MQTT 3.1.1 with clean session, will at QoS 1, user name and password."""

    def text(value: str) -> bytes:
        return len(value).to_bytes(2, "big") + value.encode()

    body = text("MQTT") + bytes([4, 0b1100_1110]) + keepalive_s.to_bytes(2, "big")
    body += text(name) + text(will) + text('{"online":false,"sid":1}') + text(broker.username) + text(broker.password)
    assert len(body) < 128 * 128
    return bytes([0x10, len(body) % 128 | 0x80, len(body) // 128]) + body


class TestDevice:
    def test_a_late_watcher_sees_who_is_there(self, broker: Broker, device: Device) -> None:
        watcher = Probe(MqttLink(endpoint(broker, "late"), clean=True))
        watcher.link.start()
        watcher.wait_for(Connected)
        device.poll()
        watcher.link.subscribe([f"{NODE.base}/+"])
        state, birth = told(watcher, NODE.state, State, 1)[0], told(watcher, NODE.birth, Birth, 1)[0]
        watcher.link.stop()
        assert state.online
        assert (birth.bundle_name, birth.sid) == ("digits", state.sid)

    def test_a_retained_command_is_refused(self, broker: Broker, listener: Probe, tmp_path: Path) -> None:
        trap = order(None, "probe", 1)  # type: ignore[arg-type]  # unused
        listener.link.publish(NODE.cmd("probe"), trap, retain=True)
        told(listener, NODE.cmd("probe"), dict, 1)
        device = Device(broker, tmp_path / "device")
        device.until(lambda: device.heard)
        answer, *_ = told_while(device, listener, NODE.res("probe"), Result, 1)
        device.stop()
        assert {type(heard) for heard in device.heard} == {Rejection}
        assert (answer.status, answer.detail["reason"][:8]) == ("rejected", "retained")

    def test_a_command_that_comes_twice_runs_once(self, listener: Probe, device: Device) -> None:
        payload = order(device, "checkpoint", 1)
        listener.link.publish(NODE.cmd("checkpoint"), payload)
        device.until(lambda: device.heard)
        (command,) = device.heard
        assert isinstance(command, Command)
        device.reporter.result(command, "done", {"generation": 3})
        listener.link.publish(NODE.cmd("checkpoint"), payload)
        answers = told_while(device, listener, NODE.res("checkpoint"), Result, 2)
        assert device.heard == [command]
        assert [(answer.status, answer.detail) for answer in answers] == [("done", {"generation": 3})] * 2
        assert answers[0].seq < answers[1].seq

    def test_a_command_waits_for_a_device_that_is_away(self, listener: Probe, device: Device) -> None:
        told_while(device, listener, NODE.state, State, 1)
        device.link.cut()
        device.until(lambda: not device.reporter.connected)
        told(listener, NODE.state, State, 2)
        listener.link.publish(NODE.cmd("probe"), order(device, "probe", 1))
        told(listener, NODE.cmd("probe"), dict, 1)
        device.link.restore()
        device.until(lambda: device.heard)
        assert [type(heard) for heard in device.heard] == [Command]

    def test_noise_on_every_topic_is_survived(self, listener: Probe, device: Device) -> None:
        for topic in (NODE.cmd("teach"), NODE.cmd("no-such-verb"), NODE.ack):
            for noise in (b"", b"\x00\xff" * 500, b"[" * 60_000, b'{"p":"AAAA"}'):
                listener.link.publish(topic, noise)
        device.until(lambda: len(device.heard) >= 8)
        assert all(isinstance(heard, Rejection) for heard in device.heard)
        device.until(lambda: device.reporter.connected)


def told_while(device: Device, listener: Probe, topic: str, type: type[Any], count: int) -> list[Any]:
    """Like `told`, the device being polled meanwhile."""

    def enough() -> bool:
        listener.events += listener.link.drain()
        return sum(isinstance(event, Incoming) and event.topic == topic for event in listener.events) >= count

    device.until(enough)
    return told(listener, topic, type, count)


class TestNothingIsLost:
    def test_through_kills_of_the_broker(self, broker: Broker, device: Device) -> None:
        collector = Collector(broker)
        for n in range(300):
            device.reporter.event("lesson", {"n": n})
            device.poll()
            time.sleep(0.002)
            if n in (70, 170):
                broker.kill()
            elif n in (120, 230):
                broker.start()
        device.until(lambda: device.outbox.depth == 0, 20.0)
        collector.stop()
        assert collector.lessons() == list(range(300))

    def test_through_an_outage(self, broker: Broker, listener: Probe, device: Device) -> None:
        collector = Collector(broker)
        for n in range(150):
            device.reporter.event("lesson", {"n": n})
            device.poll()
            time.sleep(0.002)
            if n == 50:
                device.link.cut()
            elif n == 100:
                device.link.restore()
        device.until(lambda: device.outbox.depth == 0, 20.0)
        collector.stop()
        assert collector.lessons() == list(range(150))
        history = [event.detail["n"] for event in collector.stored.values() if event.hist]
        assert set(range(60, 100)) <= set(history)
        states = told(listener, NODE.state, State, 3)
        assert [state.online for state in states[:3]] == [True, False, True]
        assert states[0].sid == states[1].sid < states[2].sid

    def test_a_collector_that_comes_late_gets_everything(self, broker: Broker, device: Device) -> None:
        for n in range(200):
            device.reporter.event("lesson", {"n": n})
            device.poll()
        device.until(lambda: not device.reporter._sender.busy)
        collector = Collector(broker)
        device.until(lambda: device.outbox.depth == 0, 15.0)
        collector.stop()
        assert collector.lessons() == list(range(200))

    def test_through_the_end_of_the_agent(self, broker: Broker, tmp_path: Path) -> None:
        first = Device(broker, tmp_path / "device")
        first.until(lambda: first.reporter.connected)
        for n in range(50):
            first.reporter.event("lesson", {"n": n})
        first.poll()
        first.link.cut()
        first.link.stop()
        first.outbox.abandon()
        collector = Collector(broker)
        second = Device(broker, tmp_path / "device")
        second.reporter.event("lesson", {"n": 50})
        second.until(lambda: second.outbox.depth == 0, 15.0)
        collector.stop()
        second.stop()
        assert collector.lessons() == list(range(51))
        assert [event.kind for event in collector.stored.values()].count("gap") == 1


class TestOperator:
    def test_a_command_is_sent_and_its_answers_are_heard(self, broker: Broker, device: Device) -> None:
        device.serve()
        heard: list[str] = []
        with Operator(broker.host, broker.port, broker.username, broker.password) as one:
            answers = one.send("farm", "pi-7", "probe", hear=lambda node, result: heard.append(node))
            assert [answer.status for answer in answers] == ["accepted", "done"]
            again = one.send("farm", "pi-7", "rollback", {"to": 3})
            assert again[-1].detail == {"verb": "rollback"}
            everybody = one.send("farm", ALL, "learn-pause", {"for_s": 60}, timeout=0.5)
            assert [answer.status for answer in everybody] == ["accepted", "done"]
        assert heard == ["pi-7", "pi-7"]

    def test_what_no_device_would_take_is_not_sent(self, broker: Broker, device: Device) -> None:
        with Operator(broker.host, broker.port, broker.username, broker.password) as one:
            with pytest.raises(CommandError, match=r"\$.to"):
                one.send("farm", "pi-7", "rollback", {"to": "yesterday"})
            with pytest.raises(EdgeRunError, match=r"pi-8 gave no answer within 0\.2 s"):
                one.send("farm", "pi-8", "probe", timeout=0.2)
        assert device.poll() == []

    def test_only_the_key_opens_a_device_that_has_one(self, broker: Broker, tmp_path: Path) -> None:
        key, other = make_key(), make_key()
        save_key(key, tmp_path / "op.pem")
        device = Device(broker, tmp_path / "device", keys={key.kid: key.public})
        device.until(lambda: device.reporter.connected)
        device.serve()
        said = {}
        for name, used in {"key": load_key(tmp_path / "op.pem"), "other": other, "none": None}.items():
            with Operator(broker.host, broker.port, broker.username, broker.password, used) as one:
                said[name] = one.send("farm", "pi-7", "checkpoint")[-1]
        device.stop()
        assert said["key"].status == "done"
        assert "unknown key" in said["other"].detail["reason"]
        assert said["none"].detail["reason"].startswith("unsigned")

    def test_a_wrong_password_is_one_line(self, broker: Broker) -> None:
        with pytest.raises(EdgeRunError, match="Not authorized"):
            Operator(broker.host, broker.port, broker.username, "wrong", connect_s=0.5).__enter__()

    def test_from_the_command_line(
        self, broker: Broker, device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        device.serve()
        data = tmp_path / "x.npz"
        x = np.arange(24, dtype=np.float64).reshape(6, 2, 2)
        np.savez(data, x=x, y=np.array([8, 9, 8, 9, 9, 9]))
        where = ["pi-7", "--group", "farm", "--broker", broker.url]
        assert main(["teach", *where, "--label", "nine", "--data", str(data), "--of", "9", "--shots", "3"]) == 0
        assert capsys.readouterr().out.splitlines() == ["pi-7 teach accepted", 'pi-7 teach done verb="teach"']
        (taught,) = device.heard
        assert isinstance(taught, Command)
        assert isinstance(taught.args, Teach)
        np.testing.assert_array_equal([e.array() for e in taught.args.examples], x[[1, 3, 4]].astype(np.float32))
        assert main(["budget", *where, "--power-mw", "40", "--ram-kb", "512", "--peak-mw", "none", "--json"]) == 0
        assert [answer["status"] for answer in json.loads(capsys.readouterr().out)] == ["accepted", "done"]
        assert msgspec.to_builtins(device.heard[-1].args) == {"power_mw": 40.0, "ram_kb": 512, "peak_mw": None}  # type: ignore[union-attr]  # Command
        assert main(["feedback", *where, "7=mug", "8=cup=blue"]) == 0
        assert main(["wipe", *where]) == 2
        assert main(["rollback", *where, "--to", "yesterday"]) == 2
        assert main(["budget", *where]) == 2
        assert len(device.heard) == 3


BAD_DATA: dict[str, tuple[dict[str, Any] | bytes, str]] = {
    "no file at all": (b"\x00" * 100, "no data file"),
    "one array": (b"\x93NUMPY\x01\x00", "no data file"),
    "cut zip": (b"PK\x03\x04" + b"\x00" * 50, "no data file"),
    "pickles": ({"x": np.array([[{}]], dtype=object)}, "no data file"),
    "no x": ({"z": np.zeros((2, 2))}, "has neither .x. nor .samples."),
    "one sample without a batch": ({"x": np.zeros(2)}, "must be numbers of shape"),
    "no y": ({"x": np.zeros((2, 2))}, "no array y"),
    "nobody of that class": ({"x": np.zeros((2, 2)), "y": np.zeros(2, int)}, "no sample of class '9'"),
    "complex": ({"x": np.zeros((2, 2), complex), "y": np.array([9, 9])}, "complex128"),
    "not a number": ({"x": np.full((2, 2), np.nan), "y": np.array([9, 9])}, "not finite"),
}


@pytest.mark.parametrize(("content", "want"), BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data_is_refused(tmp_path: Path, content: dict[str, Any] | bytes, want: str) -> None:
    path = tmp_path / "x.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises((Refused, msgspec.ValidationError), match=want):
        operator.load_examples(path, "9", 10)


def test_the_counter_rises_even_when_the_clock_falls(tmp_path: Path) -> None:
    now = [1000]
    path = tmp_path / "ctr"
    counter = operator.Counter(path, lambda: now[0])
    assert [counter.next(), counter.next()] == [1000, 1001]
    now[0] = 500
    assert operator.Counter(path, lambda: now[0]).next() == 1002
    now[0] = 5000
    assert operator.Counter(path, lambda: now[0]).next() == 5000


def test_a_key_file_is_private_and_never_replaced(tmp_path: Path) -> None:
    key, path = make_key(), tmp_path / "op.pem"
    save_key(key, path)
    assert path.stat().st_mode & 0o077 == 0
    assert load_key(path) == key
    assert key.private.hex() not in repr(key)
    with pytest.raises(FileExistsError):
        save_key(make_key(), path)
    with pytest.raises(Refused, match="PEM"):
        load_key(tmp_path / "op.pem.pub")


def test_no_broker_at_all_is_waited_for(tmp_path: Path) -> None:
    port = free_port()
    probe = Probe(MqttLink(Endpoint(host="127.0.0.1", port=port, client_id="p"), backoff_s=(0.02, 0.05)))
    probe.link.start()
    refusals = probe.wait_for(Disconnected, 3)
    assert "refused" in refusals[0].reason.lower()
    assert probe.link.publish("t", b"x") is None
    start = time.monotonic()
    probe.link.stop()
    assert time.monotonic() - start < 1.0


WELCOME = b"\x20\x03\x00\x00\x00"  # CONNACK of MQTT 5
NONSENSE = {
    "nothing": b"",
    "no packet": b"\xff" * 64,
    "empty welcome": b"\x20\x00",
    "half a welcome": b"\x20\x02",
    "welcome, then half a message": WELCOME + b"\x30\x03\x00\xff\xfe" * 9,
    "welcome, then a topic that is no text": WELCOME + b"\x30\x05\x00\x02\xff\xfe\x00",
}


class Impostor:
    """A server that takes connections and answers each with the same bytes, whatever it is told."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(5.0)
        address = Endpoint(host="127.0.0.1", port=self.server.getsockname()[1], client_id="p")
        self.probe = Probe(MqttLink(address, backoff_s=(0.02, 0.05)))
        self.probe.link.start()

    def answer(self, payload: bytes) -> None:
        peer, _ = self.server.accept()
        with peer:
            peer.recv(1000)
            peer.sendall(payload)

    def stop(self) -> None:
        self.probe.link.cut()
        self.probe.link.stop()
        self.server.close()


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    made = Impostor()
    yield made
    made.stop()


@pytest.mark.parametrize("noise", NONSENSE.values(), ids=NONSENSE)
def test_a_server_that_speaks_nonsense_does_not_end_the_link(impostor: Impostor, noise: bytes) -> None:
    for _ in range(3):
        impostor.answer(noise)
    impostor.probe.wait_for(Disconnected, 3)


def test_a_flood_does_not_fill_the_memory(impostor: Impostor) -> None:
    impostor.answer(WELCOME + b"\x30\x04\x00\x01a\x00" * (INBOX_LIMIT + 1000))
    wait_until(lambda: impostor.probe.link.dropped > 0)
    assert INBOX_LIMIT - 10 <= len(impostor.probe.wait_for(Incoming)) <= INBOX_LIMIT


def test_a_flood_of_large_messages_is_bounded_in_bytes(impostor: Impostor) -> None:
    size = 60_000
    message = b"\x30" + bytes([(size + 4) % 128 + 128, (size + 4) // 128 % 128 + 128, (size + 4) // 16384])
    impostor.answer(WELCOME + (message + b"\x00\x01a\x00" + b"x" * size) * (INBOX_BYTES // size + 20))
    wait_until(lambda: impostor.probe.link.dropped > 0)
    assert len(impostor.probe.wait_for(Incoming)) <= INBOX_BYTES // size


def wait_until(done: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_command_prints_where_it_is_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    kind = "amqtt" if find_spec("amqtt") else "mosquitto"
    if all(MISSING.values()):
        pytest.skip(" and ".join(MISSING.values()))
    command = [sys.executable, "-m", "edgerun.cli", "broker", "--json", "--kind", kind, "--folder", str(tmp_path / "b")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        with socket.create_connection((said["host"], said["port"]), timeout=2.0):
            assert Path(said["credentials"]).exists()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((said["host"], said["port"]), timeout=1.0)


def test_every_operator_row_names_its_own_verb() -> None:
    from deploy.commands import ROWS

    rows = [row for row in ROWS if row.target.startswith("deploy.operator:")]
    verbs = {getattr(operator, row.target.partition(":")[2]).verb for row in rows}
    assert len(verbs) == len(rows)
    assert parse(NODE.cmd("teach")) is not None
