"""From the broker to the store: one MQTT session, one bounded queue, one writer, and the acknowledgement that lets a
device forget.

    network thread: on_message -> queue          writer thread: queue -> check -> commit -> PUBACK, `ack`, feed

A message is PUBACKed only after it is durable here, so what a dying collector had in memory comes again from the
broker, and what a dying broker had comes again from the device, which keeps every row until `ack`. Both may come
twice: the store knows every number. Nothing that arrives is trusted: what is no sound payload is counted and dropped.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import sqlite3
import struct
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final

import msgspec
from paho.mqtt import MQTTException
from paho.mqtt.client import Client, ConnectFlags, MQTTMessage, MQTTv311, error_string
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from deploy.dashboard.history import Arrival, Arriving, Commit, History
from edgerun.errors import DataError
from edgerun.telemetry.messages import MAX_MESSAGE_BYTES, Ack, Birth, Data, Event, Result, State
from edgerun.telemetry.topics import ROOT, parse

log = logging.getLogger(__name__)

KINDS: Final[dict[str, type[Arriving]]] = {
    "state": State, "birth": Birth, "data": Data, "event": Event, "res": Result, "ack": Ack,
}  # fmt: skip
SUBSCRIPTIONS: Final = tuple((f"{ROOT}/+/+/{kind}", 1) for kind in ("state", "birth", "data", "event", "res/#", "ack"))
DECODERS: Final = {kind: msgspec.json.Decoder(message) for kind, message in KINDS.items()}

QUEUE_LENGTH: Final = 4096
BATCH_S: Final = 0.25  # a message waits no longer than this for company
BATCH_LENGTH: Final = 20  # mosquitto sends no more than 20 before the first PUBACK: waiting for more would be idle
RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 30.0
LOOP_S: Final = 0.25
KEEPALIVE_S: Final = 30
FEED_LENGTH: Final = 1024
MAX_INT: Final = 2**53 - 1  # the page's JavaScript counts exactly so far
MAX_NAME: Final = 64
MAX_METRICS: Final = 256  # in one message


# ------------------------------------------------------------------ checking what arrives


def read(topic: str, payload: bytes, *, live: bool) -> Arrival:
    """The typed message in a payload. Raises DataError whose text is one of a few fixed reasons, fit to be counted."""
    address = parse(topic)
    if address is None or address.kind not in KINDS:
        raise DataError("unknown topic")
    if len(payload) > MAX_MESSAGE_BYTES:
        raise DataError(f"payload over {MAX_MESSAGE_BYTES} bytes")
    try:
        message = DECODERS[address.kind].decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise DataError(f"malformed {address.kind}") from None
    if not SOUND[type(message)](message):
        raise DataError(f"{address.kind} out of bounds")
    return Arrival(f"{address.group}/{address.node}", message, live)


def whole(*numbers: int) -> bool:
    return all(0 <= number <= MAX_INT for number in numbers)


def short(*names: str) -> bool:
    return all(len(name) <= MAX_NAME and name.isprintable() for name in names)


def sound_state(state: State) -> bool:
    return whole(state.sid, state.ts) and short(state.reason)


def sound_birth(birth: Birth) -> bool:
    return (
        whole(birth.sid, birth.ts, birth.oldest, birth.capacity)
        and short(birth.bundle, birth.bundle_name, birth.runtime, birth.board, *birth.classes)
        and isfinite(birth.heartbeat_s)
        and 0 < birth.heartbeat_s <= 86_400
    )


def sound_data(data: Data) -> bool:
    return (
        whole(data.sid, data.seq - 1, *data.t)
        and len(data.m) <= MAX_METRICS
        and short(*data.m)
        and all(len(values) == len(data.t) for values in data.m.values())
        and all(value is None or isfinite(value) for values in data.m.values() for value in values)
    )


def sound_event(event: Event) -> bool:
    return whole(event.sid, event.seq - 1, event.t) and short(event.kind)


def sound_result(result: Result) -> bool:
    return whole(result.sid, result.seq - 1, result.t) and short(result.verb, result.id)


def sound_ack(ack: Ack) -> bool:
    return whole(ack.sid, ack.upto)


SOUND: Final[dict[type[Arriving], Any]] = {
    State: sound_state, Birth: sound_birth, Data: sound_data, Event: sound_event, Result: sound_result, Ack: sound_ack,
}  # fmt: skip


# ------------------------------------------------------------------ telling the page


class Feed:
    """Which nodes each of the newest commits touched, for readers that come back and ask what they have missed."""

    def __init__(self, cursor: int) -> None:
        self._lock = threading.Lock()
        self._commits: deque[tuple[int, frozenset[str]]] = deque(maxlen=FEED_LENGTH)
        self._cursor = cursor

    @property
    def cursor(self) -> int:
        return self._cursor

    def add(self, cursor: int, nodes: frozenset[str]) -> None:
        with self._lock:
            self._commits.append((cursor, nodes))
            self._cursor = cursor

    def since(self, cursor: int) -> frozenset[str] | None:
        """Nodes touched after that commit; None when it is too old, or not ours, to say."""
        with self._lock:
            oldest = self._commits[0][0] - 1 if self._commits else self._cursor
            if not oldest <= cursor <= self._cursor:
                return None
            return frozenset().union(*(nodes for at, nodes in self._commits if at > cursor))


# ------------------------------------------------------------------ the collector


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and who we are to it. `username` None means that it asks no name."""

    host: str
    port: int
    username: str | None = None
    password: str | None = None
    tls: bool = False
    ca: Path | None = None  # authority to check its certificate against; None = the system's


BROKEN: Final = (OSError, UnicodeError, AssertionError, LookupError, TypeError, ValueError, struct.error, MQTTException)
"""What paho raises where nobody answers, and on bytes that are no MQTT: the connection ends, the thread does not."""


def leave_writing_to_the_loop(client: Client, _: object, sock: object) -> None:
    """Without this callback paho would write to the socket from whichever thread publishes."""


@dataclass(frozen=True, slots=True)
class Received:
    topic: str
    payload: bytes
    retained: bool
    mid: int
    qos: int
    session: int  # which connection it came by: a PUBACK must not reach another one


class Collector:
    """Owns the history's writer from `start` to `stop`. Survives the broker's restarts and its own death."""

    def __init__(self, history_path: Path, broker: Broker) -> None:
        self._history = History(history_path)
        self._broker = broker
        self._queue: queue.Queue[Received | None] = queue.Queue(QUEUE_LENGTH)
        self._stopping = threading.Event()  # the writer finishes what has arrived
        self._closing = threading.Event()  # then the network says goodbye
        self._session = 0  # number of connections so far
        self._refusal = ""  # the broker's answer to the newest attempt, if it was no
        self._client = self._make_client()
        self._writer = threading.Thread(target=self._write, name="collector-writer", daemon=True)
        self._network = threading.Thread(target=self._serve, name="collector-network", daemon=True)
        self.feed = Feed(self._history.cursor)
        self.ignored: Counter[str] = Counter()
        self.problem = "not connected to the broker yet"  # empty when all is well

    def start(self) -> None:
        """Connect in the background, now or whenever the broker comes up."""
        self._writer.start()
        self._network.start()

    def stop(self) -> None:
        """Commit what has arrived, acknowledge it, say goodbye, close the store."""
        self._stopping.set()
        with contextlib.suppress(queue.Full):  # a full queue wakes the writer as well
            self._queue.put_nowait(None)
        self._writer.join()
        self._closing.set()
        self._network.join()
        self._history.close()

    def _make_client(self) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"edgerun-collector-{self._history.identity}",
            clean_session=False,
            protocol=MQTTv311,
            manual_ack=True,
        )
        if self._broker.username is not None:
            client.username_pw_set(self._broker.username, self._broker.password)
        if self._broker.tls:
            client.tls_set(ca_certs=str(self._broker.ca) if self._broker.ca else None)
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.on_socket_register_write = leave_writing_to_the_loop
        return client

    # -- network thread

    def _serve(self) -> None:
        """Connect, serve the socket until it breaks, wait, again."""
        delay_s = RETRY_S
        while not self._closing.is_set():
            before = self._session
            reason = self._connection()
            delay_s = RETRY_S if self._session > before else min(2 * delay_s, LONGEST_RETRY_S)
            if not self._closing.is_set():
                self._trouble(f"no connection to {self._broker.host}:{self._broker.port}: {reason}")
                self._closing.wait(delay_s * random.uniform(0.5, 1.0))

    def _connection(self) -> str:
        """One connection from its beginning to its end; returns why it ended."""
        self._refusal = ""
        try:
            self._client.connect(self._broker.host, self._broker.port, KEEPALIVE_S)
            while (code := self._client.loop(LOOP_S)) == MQTTErrorCode.MQTT_ERR_SUCCESS:
                if self._closing.is_set():
                    self._client.disconnect()
        except BROKEN as err:
            sock = self._client.socket()
            if sock is not None:
                sock.close()
            return str(err) or repr(err)
        return self._refusal or error_string(code)

    def _on_connect(
        self, client: Client, _: object, flags: ConnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        if code.is_failure:
            self._refusal = str(code)
            return
        self._session += 1
        self.problem = ""
        client.subscribe(list(SUBSCRIPTIONS))

    def _on_message(self, client: Client, _: object, message: MQTTMessage) -> None:
        received = Received(
            message.topic, bytes(message.payload), message.retain, message.mid, message.qos, self._session
        )
        while not self._stopping.is_set():  # a full queue holds the network thread, and so the broker, back
            with contextlib.suppress(queue.Full):
                self._queue.put(received, timeout=RETRY_S)
                return

    # -- writer thread

    def _write(self) -> None:
        while not self._stopping.is_set() or not self._queue.empty():
            batch = self._gather()
            arrivals = [arrival for received in batch if (arrival := self._check(received))]
            commit = self._commit(arrivals) if arrivals else None
            if arrivals and commit is None:
                return
            self._confirm(batch, commit)

    def _gather(self) -> list[Received]:
        """The next messages, as many as come within BATCH_S."""
        batch: list[Received] = []
        deadline = time.monotonic() + BATCH_S
        while len(batch) < BATCH_LENGTH:
            try:
                received = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if received is None:
                break
            batch.append(received)
        return batch

    def _check(self, received: Received) -> Arrival | None:
        try:
            arrival = read(received.topic, received.payload, live=not received.retained)
        except DataError as reason:
            self.ignored[str(reason)] += 1
            return None
        own_echo = isinstance(arrival.message, Ack) and arrival.live
        return None if own_echo else arrival

    def _commit(self, arrivals: list[Arrival]) -> Commit | None:
        """None only if the store refuses until we are stopped."""
        while True:
            try:
                return self._history.commit(arrivals, int(time.time() * 1000))
            except sqlite3.Error as err:
                self._trouble(f"the store does not take more: {err}")
            if self._stopping.wait(RETRY_S):
                return None
            self.problem = ""

    def _confirm(self, batch: list[Received], commit: Commit | None) -> None:
        """The broker may forget the batch, the devices their rows."""
        for received in batch:
            if received.qos and received.session == self._session:
                self._client.ack(received.mid, received.qos)
        if commit is None:
            return
        if commit.refused:
            self.ignored["too many nodes"] += commit.refused
        for name, ack in commit.acks:
            self._client.publish(f"{ROOT}/{name}/ack", msgspec.json.encode(ack), qos=1, retain=True)
        self.feed.add(commit.cursor, commit.nodes)

    def _trouble(self, problem: str) -> None:
        self.problem = problem
        log.warning("collector", extra={"problem": problem})
