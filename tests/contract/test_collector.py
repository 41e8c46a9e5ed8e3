"""The collector on real brokers: nothing lost through restarts and kill -9, nothing hostile believed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deploy.broker import Broker, find_mosquitto, start_broker
from deploy.dashboard import collector as collecting
from deploy.dashboard.collector import Collector, Feed, read
from deploy.dashboard.reading import CollectorStats, Reader
from edgerun.errors import DataError
from edgerun.telemetry.link import Connected, Endpoint, Incoming, MqttLink, Will
from edgerun.telemetry.messages import MAX_MESSAGE_BYTES, Ack, Birth, Data, Event, State
from edgerun.telemetry.topics import Topics

pytestmark = pytest.mark.broker


class Device:
    """A publisher as the protocol wants it: a row stays until the collector has acknowledged it, and is sent again."""

    def __init__(self, broker: Broker, node: str = "n1", resend_s: float = 1.0) -> None:
        self.topics = Topics("lab", node)
        self.rows: dict[int, tuple[str, bytes]] = {}
        self.seq = 0
        self.upto = 0
        self._sent: dict[int, float] = {}
        self._resend_s = resend_s
        endpoint = Endpoint(
            host=broker.host, port=broker.port, client_id=f"lab.{node}",
            username=broker.username, password=broker.password,
        )  # fmt: skip
        self.link = MqttLink(endpoint, backoff_s=(0.1, 0.5))
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Device:
        self.link.start(lambda sid: Will(self.topics.state, msgspec.json.encode(State(online=False, sid=sid))))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self.link.stop()

    def say(self, count: int = 1) -> None:
        """Data, and every seventh time an event on the other lane."""
        for _ in range(count):
            with self._lock:
                self.seq += 1
                now = int(time.time() * 1000)
                if self.seq % 7:
                    message: Data | Event = Data(sid=1, seq=self.seq, t=[now], m={"accuracy": [0.5]})
                    self.rows[self.seq] = (self.topics.data, msgspec.json.encode(message))
                else:
                    message = Event(sid=1, seq=self.seq, t=now, kind="drift")
                    self.rows[self.seq] = (self.topics.event, msgspec.json.encode(message))

    def _run(self) -> None:
        while not self._ending.wait(0.01):
            for record in self.link.drain():
                if isinstance(record, Connected):
                    self._greet(record.session)
                elif isinstance(record, Incoming) and record.topic == self.topics.ack:
                    self._forget(msgspec.json.decode(record.payload, type=Ack).upto)
            self._send()

    def _greet(self, sid: int) -> None:
        self.link.subscribe(self.topics.inbox)
        birth = Birth(
            sid=sid, ts=0, bundle="0" * 64, bundle_name="b", runtime="0", board="pico2", classes=["a"], capacity=1,
            heartbeat_s=5.0, metrics={}, verbs=[], allow_unsigned=False, oldest=min(self.rows, default=self.seq + 1),
        )  # fmt: skip
        self.link.publish(self.topics.birth, msgspec.json.encode(birth), retain=True)
        self.link.publish(self.topics.state, msgspec.json.encode(State(online=True, sid=sid)), retain=True)
        self._sent.clear()

    def _forget(self, upto: int) -> None:
        self.upto = max(self.upto, upto)
        with self._lock:
            self.rows = {seq: row for seq, row in self.rows.items() if seq > upto}

    def _send(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = [(seq, row) for seq, row in self.rows.items() if now - self._sent.get(seq, 0.0) > self._resend_s]
        for seq, (topic, payload) in due[:64]:
            if self.link.publish(topic, payload) is not None:
                self._sent[seq] = now


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        time.sleep(0.02)


KINDS = [
    pytest.param("mosquitto", marks=pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")),
    "amqtt",
]


@pytest.fixture(params=KINDS)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    if request.param == "amqtt":
        pytest.importorskip("amqtt", reason="the embedded broker needs the extra 'demo'")
    with start_broker(tmp_path / "broker", kind=request.param) as running:
        yield running


@pytest.fixture
def collector(broker: Broker, tmp_path: Path) -> Iterator[Collector]:
    made = Collector(tmp_path / "h.db", address(broker))
    made.start()
    yield made
    made.stop()


def address(broker: Broker) -> collecting.Broker:
    return collecting.Broker(broker.host, broker.port, broker.username, broker.password)


def known(reader: Reader, node: str) -> CollectorStats:
    try:
        return reader.stats(node)
    except DataError:
        return CollectorStats(0, 0, 0, 0, 0)


def test_what_is_committed_is_acknowledged_and_forgotten(broker: Broker, collector: Collector, tmp_path: Path) -> None:
    reader = Reader(tmp_path / "h.db")
    with Device(broker) as device:
        device.say(200)
        until(lambda: not device.rows)
        assert device.upto == 200
    assert known(reader, "lab/n1").received == 200
    until(lambda: reader.nodes(0)[0]["birth"] is not None)
    assert collector.problem == ""
    assert collector.feed.cursor > 0


def test_a_broker_that_restarts_costs_nothing(broker: Broker, collector: Collector, tmp_path: Path) -> None:
    reader = Reader(tmp_path / "h.db")
    with Device(broker) as device:
        for how in (broker.stop, broker.kill):
            device.say(50)
            until(lambda: device.upto > 0)
            how()
            device.say(50)
            until(lambda: collector.problem != "")
            broker.start()
        device.say(50)
        until(lambda: not device.rows)
    stats = known(reader, "lab/n1")
    assert (stats.received, stats.missing, stats.upto) == (250, 0, 250)


COLLECT = """
import json, signal, sys, threading
from pathlib import Path
from deploy.dashboard.collector import Broker, Collector
Collector(Path(sys.argv[1]), Broker(**json.loads(sys.argv[2]))).start()
signal.pause()
"""


def test_a_collector_killed_again_and_again_loses_nothing(broker: Broker, tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    fields = {"host": broker.host, "port": broker.port, "username": broker.username, "password": broker.password}
    command = [sys.executable, "-c", COLLECT, str(path), msgspec.json.encode(fields).decode()]
    with Device(broker) as device:
        for _ in range(2):
            process = subprocess.Popen(command)
            goal = device.upto + 20
            while device.upto < goal:
                device.say(5)
                time.sleep(0.02)
            process.kill()
            process.wait()
            device.say(20)
        process = subprocess.Popen(command)
        until(lambda: not device.rows)
        process.terminate()
        process.wait()
    stats = known(Reader(path), "lab/n1")
    assert (stats.received, stats.missing, stats.upto) == (device.seq, 0, device.seq)


def test_a_second_collector_begins_where_the_first_one_ended(broker: Broker, tmp_path: Path) -> None:
    with Device(broker) as device:
        for name, count in (("first.db", 30), ("second.db", 10)):
            collector = Collector(tmp_path / name, address(broker))
            collector.start()
            device.say(count)
            until(lambda: not device.rows)
            collector.stop()
    stats = known(Reader(tmp_path / "second.db"), "lab/n1")
    assert (stats.received, stats.missing, stats.upto) == (10, 0, 40)


def test_a_device_that_vanishes_is_offline_by_its_will(broker: Broker, collector: Collector, tmp_path: Path) -> None:
    reader = Reader(tmp_path / "h.db")

    def status() -> str:
        nodes = reader.nodes(int(time.time() * 1000))
        return str(nodes[0]["status"]) if nodes else ""

    with Device(broker) as device:
        until(lambda: status() == "online")
        device.link.cut()
        until(lambda: status() == "offline")
        device.link.restore()
        until(lambda: status() == "online")


DATA = b'{"sid":1,"seq":1,"t":[1],"m":{"a":[%s]}}'
HOSTILE: dict[str, tuple[str, bytes, str]] = {
    "not ours": ("edgerun/v2/g/n/data", b"{}", "unknown topic"),
    "a command": ("edgerun/v1/g/n/cmd/teach", b"{}", "unknown topic"),
    "markup for a name": ("edgerun/v1/g/<script>alert(1)</script>/data", DATA % b"1", "unknown topic"),
    "a name too long": (f"edgerun/v1/g/{'n' * 65}/data", DATA % b"1", "unknown topic"),
    "the reserved name": ("edgerun/v1/g/_all/data", DATA % b"1", "unknown topic"),
    "empty": ("edgerun/v1/g/n/data", b"", "malformed data"),
    "no JSON": ("edgerun/v1/g/n/data", b"\xff\xfe\x00", "malformed data"),
    "the wrong shape": ("edgerun/v1/g/n/birth", b'{"sid":1}', "malformed birth"),
    "NaN": ("edgerun/v1/g/n/data", DATA % b"NaN", "malformed data"),
    "infinity": ("edgerun/v1/g/n/data", DATA % b"1e999", "malformed data"),
    "too deep": (
        "edgerun/v1/g/n/event",
        b'{"sid":1,"seq":1,"t":1,"kind":"x","detail":' + b'{"a":' * 9000 + b"1" + b"}" * 9001,
        "malformed event",
    ),
    "huge": ("edgerun/v1/g/n/data", b" " * (MAX_MESSAGE_BYTES + 1), "payload over 65536 bytes"),
    "columns of two lengths": (
        "edgerun/v1/g/n/data", b'{"sid":1,"seq":1,"t":[1,2],"m":{"a":[1]}}', "data out of bounds",
    ),
    "a number of no message": ("edgerun/v1/g/n/data", b'{"sid":1,"seq":0,"t":[],"m":{}}', "data out of bounds"),
    "a number beyond SQLite": (
        "edgerun/v1/g/n/event", b'{"sid":1,"seq":9223372036854775808,"t":1,"kind":"x"}', "event out of bounds",
    ),
    "a time before time": ("edgerun/v1/g/n/data", b'{"sid":1,"seq":1,"t":[-1],"m":{}}', "data out of bounds"),
    "control characters": (
        "edgerun/v1/g/n/event", b'{"sid":1,"seq":1,"t":1,"kind":"\\u202e\\u0000"}', "event out of bounds",
    ),
    "heartbeat of no time": (
        "edgerun/v1/g/n/birth",
        b'{"sid":1,"ts":1,"bundle":"","bundle_name":"","runtime":"","board":"","classes":[],"capacity":1,'
        b'"heartbeat_s":0,"metrics":{},"verbs":[],"allow_unsigned":true}',
        "birth out of bounds",
    ),
    "an acknowledgement of everything": (
        "edgerun/v1/g/n/ack", b'{"collector":"x","sid":1,"upto":9223372036854775807}', "ack out of bounds",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("topic", "payload", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_payloads_are_refused(topic: str, payload: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=f"^{reason}$"):
        read(topic, payload, live=True)


def test_hostile_payloads_are_counted_and_cost_nothing(broker: Broker, collector: Collector, tmp_path: Path) -> None:
    reader = Reader(tmp_path / "h.db")
    with Device(broker, node="good") as device:
        until(lambda: device.link.connected)
        sent = [case for case in HOSTILE.values() if read_by_the_broker(case[0])]
        for topic, payload, _ in sent:
            device.link.publish(topic, payload)
        device.say(30)
        until(lambda: not device.rows and sum(collector.ignored.values()) >= len(sent))
    assert [card["node"] for card in reader.nodes(0)] == ["lab/good"]
    assert known(reader, "lab/good") == CollectorStats(30, 0, 0, 30, 0)


def read_by_the_broker(topic: str) -> bool:
    """Whether the collector's subscriptions match."""
    levels = topic.split("/")
    return levels[:2] == ["edgerun", "v1"] and levels[4] in ("data", "event", "birth")


def test_an_unreachable_broker_is_a_problem_told_not_a_crash(tmp_path: Path) -> None:
    collector = Collector(tmp_path / "h.db", collecting.Broker("127.0.0.1", 1))
    collector.start()
    until(lambda: "no connection to 127.0.0.1:1: " in collector.problem)
    started = time.monotonic()
    collector.stop()
    assert time.monotonic() - started < 3.0


def test_a_wrong_password_is_a_problem_told(broker: Broker, tmp_path: Path) -> None:
    wrong = collecting.Broker(broker.host, broker.port, broker.username, "guess")
    collector = Collector(tmp_path / "h.db", wrong)
    collector.start()
    until(lambda: collector.problem.startswith(f"no connection to 127.0.0.1:{broker.port}: "))
    collector.stop()


def test_a_full_disk_holds_messages_back_instead_of_losing_them(
    broker: Broker, collector: Collector, tmp_path: Path
) -> None:
    limit: Any = collector._history._db.execute
    with Device(broker) as device:
        device.say(5)
        until(lambda: not device.rows)
        limit("PRAGMA max_page_count = 1")
        device.say(3000)
        until(lambda: "does not take more" in collector.problem)
        limit("PRAGMA max_page_count = 1000000")
        until(lambda: not device.rows)
    assert known(Reader(tmp_path / "h.db"), "lab/n1").missing == 0


def test_the_feed_tells_what_was_missed_or_that_it_cannot() -> None:
    feed = Feed(10)
    assert feed.since(10) == frozenset()
    assert feed.since(9) is None
    feed.add(11, frozenset({"a"}))
    feed.add(12, frozenset({"b"}))
    assert feed.since(10) == {"a", "b"}
    assert feed.since(11) == {"b"}
    assert feed.since(13) is None, "a cursor from another store"
    for cursor in range(13, 13 + collecting.FEED_LENGTH):
        feed.add(cursor, frozenset())
    assert feed.since(12) == frozenset()
    assert feed.since(11) is None
