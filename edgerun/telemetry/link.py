"""The one module that knows MQTT: a connection that comes back by itself, and nothing that remembers messages.

One thread owns the socket. What happens there becomes a record in a queue, which the caller drains whenever it likes.
`connected` and `publish` follow what the caller has drained, not what the thread knows already: between two drains the
world stands still. Each connection is a fresh paho client, so nothing is sent again behind the outbox's back.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, TypeAlias, cast

from paho.mqtt import MQTTException
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgerun.errors import ConfigError
from edgerun.telemetry.bucket import Bucket
from edgerun.telemetry.messages import MAX_MESSAGE_BYTES

log = logging.getLogger(__name__)

QOS = 1
INBOX_LIMIT = 4096  # messages waiting to be drained; more are dropped, so a flood cannot fill the memory
INBOX_BYTES = 4 << 20  # of their payloads
READ_AT_ONCE = 1024  # messages that a paced link reads without a rest
RESTS = 2000  # then a paced link hangs up and comes back: what waits for it at the broker is dropped there
WELCOME_S = 5.0  # some brokers choke on a CONNECT of MQTT 5 and say nothing: break off, try the other protocol
_NOT_THIS_PROTOCOL = (1, 132)  # "unsupported protocol version" in the words of MQTT 3.1.1 and of MQTT 5
_OTHER = {
    MQTTProtocolVersion.MQTTv5: MQTTProtocolVersion.MQTTv311,
    MQTTProtocolVersion.MQTTv311: MQTTProtocolVersion.MQTTv5,
}
_MALFORMED = (AssertionError, LookupError, TypeError, ValueError, OSError, struct.error, MQTTException)
"""What paho raises on bytes that are no MQTT: the connection ends, the thread does not."""


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says in our name, retained, when we vanish."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker has taken us. `session` is the number that this connection's will carries; the broker accepts at most
    `receive_max` messages that it has not yet acknowledged."""

    session: int
    receive_max: int = 65535


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection has ended, or an attempt has failed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message; a payload longer than MAX_MESSAGE_BYTES arrives cut to one byte more than that."""

    topic: str
    payload: bytes
    retain: bool


@dataclass(frozen=True, slots=True)
class Published:
    """The broker has acknowledged the message that `publish` gave this number."""

    mid: int


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The broker has answered a `subscribe`: nothing that is published from now on is missed."""


LinkEvent: TypeAlias = Connected | Disconnected | Incoming | Published | Subscribed
MakeWill: TypeAlias = Callable[[int], Will]


class Link(Protocol):
    """A connection to a broker, seen from one thread."""

    def start(self, will: MakeWill | None = None, session: int = 1) -> None:
        """Connect, and connect again whenever the connection is lost. Attempts that reached a broker are numbered from
        `session`; `will(number)` is called on the link's thread and must only build bytes."""
        ...

    def stop(self, timeout: float = 5.0) -> None:
        """Say goodbye, so that no will is published, and end."""
        ...

    def subscribe(self, filters: Sequence[str]) -> None:
        """Ask for topics, at QoS 1, on this connection; `Subscribed` says that it was heard."""
        ...

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> int | None:
        """Send at QoS 1. A number that `Published` repeats, or None: not connected, nothing was sent."""
        ...

    def drain(self) -> list[LinkEvent]:
        """What has happened since the last call, in order; never waits."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the newest drained event about the connection was Connected."""
        ...

    @property
    def dropped(self) -> int:
        """Messages dropped since the start because too many waited to be drained."""
        ...


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a broker is and who we are to it. `ca`, `cert` and `key` are PEM files; no `ca` means the system's."""

    host: str
    port: int = 1883
    client_id: str
    username: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        if not self.host or not 1 <= self.port <= 65535:
            raise ConfigError(f"broker {self.host!r} port {self.port} is no address: a host and a port in [1, 65535]")
        if not self.client_id:
            raise ConfigError("client_id is empty")
        if not self.tls and (self.ca or self.cert or self.key):
            raise ConfigError("ca, cert and key need tls")

    def context(self) -> ssl.SSLContext | None:
        """TLS 1.2 or newer, the broker's host name checked; None for none. Raises OSError for unreadable files."""
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=self.ca or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert:
            context.load_cert_chain(self.cert, self.key or None)
        return context


class _Outcome(Enum):
    UNREACHED = "no answer at that address"
    REFUSED = "the broker would not have us"
    SERVED = "we were connected"


@dataclass(slots=True)
class _Traffic:
    """Payload bytes put and taken, messages dropped. One thread writes each figure, so none needs a lock."""

    put: int = 0  # by the link's thread
    taken: int = 0  # by the caller's
    dropped: int = 0  # by the link's thread
    rests: int = 0  # of this connection


@dataclass(frozen=True, slots=True)
class _Callbacks:
    """paho's callbacks put records into a queue and no more. They refer to no client, so none is kept alive."""

    events: queue.SimpleQueue[LinkEvent]
    session: int
    traffic: _Traffic
    pace: Bucket | None
    rest_s: float
    refused: list[ReasonCode] = field(default_factory=list)  # why the broker would not have us
    dropped: list[ReasonCode] = field(default_factory=list)  # why the connection ended
    welcomed: threading.Event = field(default_factory=threading.Event)

    def attach(self, client: Client) -> None:
        client.on_connect = self.on_connect
        client.on_message = self.on_message
        client.on_publish = self.on_publish
        client.on_subscribe = self.on_subscribe
        client.on_disconnect = self.on_disconnect
        client.on_socket_register_write = _leave_writing_to_the_loop

    def on_connect(
        self, client: Client, _: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self.refused.append(reason)
            return
        self.welcomed.set()
        self.events.put(Connected(self.session, getattr(properties, "ReceiveMaximum", 65535)))

    def on_message(self, client: Client, _: Any, message: MQTTMessage) -> None:
        if self.pace is not None and not self.pace.take():
            time.sleep(self.rest_s)  # the socket fills meanwhile: it is the broker that has to hold a flood
            self.traffic.rests += 1
            if self.traffic.rests == RESTS:
                _break(client)
        payload, traffic = bytes(message.payload[: MAX_MESSAGE_BYTES + 1]), self.traffic
        if self.events.qsize() >= INBOX_LIMIT or traffic.put - traffic.taken + len(payload) > INBOX_BYTES:
            traffic.dropped += 1
            return
        traffic.put += len(payload)
        self.events.put(Incoming(message.topic, payload, bool(message.retain)))

    def on_publish(self, client: Client, _: Any, mid: int, reason: ReasonCode, properties: Properties | None) -> None:
        self.events.put(Published(mid))

    def on_subscribe(
        self, client: Client, _: Any, mid: int, reasons: list[ReasonCode], properties: Properties | None
    ) -> None:
        self.events.put(Subscribed())

    def on_disconnect(
        self, client: Client, _: Any, flags: DisconnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self.dropped.append(reason)


def _leave_writing_to_the_loop(client: Client, _: Any, sock: Any) -> None:
    """Without this callback paho would write from the thread that publishes."""


def _break(client: Client) -> None:
    """End the TCP connection under the client, from any thread."""
    sock = client.socket()
    if sock is not None:
        with contextlib.suppress(OSError):  # gone already
            cast(socket.socket, sock).shutdown(socket.SHUT_RDWR)


class MqttLink:
    """`Link` over paho: MQTT 5 first, 3.1.1 where the broker refuses that; QoS 1, keepalive, back-off with jitter.

    clean        a watcher wants no session kept; a device wants its commands queued for `expiry_s`
    read_per_s   messages read in a second, after a first thousand: a flood leaves a device its time. None: all
    backoff_s    shortest and longest wait between attempts; doubles each time, times a random share in [0.5, 1)
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        clean: bool = False,
        expiry_s: int = 3600,
        keepalive_s: int = 30,
        backoff_s: tuple[float, float] = (1.0, 60.0),
        window: int = 64,
        read_per_s: float | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._clean = clean
        self._expiry_s = expiry_s
        self._keepalive_s = keepalive_s
        self._backoff_s = backoff_s
        self._window = window
        self._protocol = MQTTProtocolVersion.MQTTv5
        self._tls = endpoint.context()
        self._events: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()
        self._traffic = _Traffic()
        self._read = None if read_per_s is None else Bucket(READ_AT_ONCE, read_per_s, time.monotonic)
        self._rest_s = 0.0 if read_per_s is None else 1 / read_per_s
        self._live: tuple[int, Client] | None = None  # what the thread serves now
        self._drained = 0  # session number of the connection that the caller knows of, 0 = none
        self._ending = threading.Event()
        self._wake = threading.Event()  # ends a wait between attempts
        self._open = threading.Event()  # cleared while the network is cut
        self._open.set()
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------ the caller's side

    def start(self, will: MakeWill | None = None, session: int = 1) -> None:
        if self._thread is not None:
            raise ConfigError("this link has been started already")
        name = f"mqtt-{self._endpoint.client_id}"
        self._thread = threading.Thread(target=self._serve, args=(will, session), name=name, daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        self._ending.set()
        self._wake.set()
        live = self._live
        if live is not None:
            live[1].disconnect()
        if self._thread is not None:
            self._thread.join(timeout)
        self._drained = 0

    def subscribe(self, filters: Sequence[str]) -> None:
        client = self._current()
        if client is not None and filters:
            client.subscribe([(topic, QOS) for topic in filters])

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> int | None:
        client = self._current()
        if client is None:
            return None
        info = client.publish(topic, payload, qos=QOS, retain=retain)
        return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def drain(self) -> list[LinkEvent]:
        events: list[LinkEvent] = []
        for _ in range(self._events.qsize()):
            event = self._events.get()
            events.append(event)
            if isinstance(event, Incoming):
                self._traffic.taken += len(event.payload)
            elif isinstance(event, Connected):
                self._drained = event.session
            elif isinstance(event, Disconnected):
                self._drained = 0
        return events

    @property
    def connected(self) -> bool:
        return self._drained != 0

    @property
    def dropped(self) -> int:
        return self._traffic.dropped

    @property
    def protocol(self) -> str:
        """The protocol of the newest attempt."""
        return "MQTT 5" if self._protocol == MQTTProtocolVersion.MQTTv5 else "MQTT 3.1.1"

    def cut(self) -> None:
        """Pull the cable: the connection breaks without a goodbye and none is made until `restore`."""
        self._open.clear()
        live = self._live
        if live is not None:
            _break(live[1])

    def restore(self) -> None:
        self._open.set()
        self._wake.set()

    def _current(self) -> Client | None:
        live = self._live
        return live[1] if live is not None and live[0] == self._drained else None

    # ------------------------------------------------------------ the link's thread

    def _serve(self, will: MakeWill | None, session: int) -> None:
        failures = 0
        while not self._ending.is_set():
            if self._open.is_set():
                before, outcome = self._protocol, self._attempt(will, session)
                session += outcome is not _Outcome.UNREACHED
                failures = 0 if outcome is _Outcome.SERVED else failures + 1
                if self._protocol != before and failures == 1:
                    continue  # the other protocol deserves its first try at once
            self._rest(failures)

    def _rest(self, failures: int) -> None:
        """Wait before the next attempt; while the cable is pulled, until it is back."""
        shortest, longest = self._backoff_s
        delay = min(longest, shortest * 2.0 ** min(failures, 32)) * random.uniform(0.5, 1.0)
        self._wake.wait(delay if self._open.is_set() else None)
        self._wake.clear()

    def _attempt(self, will: MakeWill | None, session: int) -> _Outcome:
        """One connection from its beginning to its end."""
        callbacks = _Callbacks(self._events, session, self._traffic, self._read, self._rest_s)
        client = self._client(will, session)
        callbacks.attach(client)
        self._traffic.rests = 0
        try:
            self._connect(client)
        except (OSError, UnicodeError) as err:
            self._events.put(Disconnected(str(err)))
            return _Outcome.UNREACHED
        self._live = (session, client)
        self._pump(client, callbacks.welcomed)
        self._live = None
        why = callbacks.refused or callbacks.dropped
        self._events.put(Disconnected(str(why[0]) if why else "the connection was closed"))
        if callbacks.welcomed.is_set():
            return _Outcome.SERVED
        if not callbacks.refused or callbacks.refused[0].value in _NOT_THIS_PROTOCOL:
            self._protocol = _OTHER[self._protocol]
        return _Outcome.REFUSED

    def _client(self, will: MakeWill | None, session: int) -> Client:
        older = self._protocol == MQTTProtocolVersion.MQTTv311
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._endpoint.client_id,
            clean_session=self._clean if older else None,
            protocol=self._protocol,
            reconnect_on_failure=False,
        )
        client.max_inflight_messages = self._window
        if self._endpoint.username:
            client.username_pw_set(self._endpoint.username, self._endpoint.password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if will is not None:
            message = will(session)
            client.will_set(message.topic, message.payload, qos=QOS, retain=True)
        return client

    def _connect(self, client: Client) -> None:
        """Open the socket and send CONNECT; raises OSError where nobody answers."""
        endpoint, keepalive = self._endpoint, self._keepalive_s
        if self._protocol == MQTTProtocolVersion.MQTTv311:
            client.connect(endpoint.host, endpoint.port, keepalive)
            return
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho
        properties.SessionExpiryInterval = 0 if self._clean else self._expiry_s
        properties.MaximumPacketSize = 2 * MAX_MESSAGE_BYTES
        client.connect(endpoint.host, endpoint.port, keepalive, clean_start=self._clean, properties=properties)

    def _pump(self, client: Client, welcomed: threading.Event) -> None:
        """Serve the socket until it breaks. `stop` and `cut` that came before `_live` was set are honoured here."""
        if self._ending.is_set():
            client.disconnect()
        if not self._open.is_set():
            _break(client)
        deadline = time.monotonic() + WELCOME_S
        try:
            while client.loop(timeout=1.0) == MQTTErrorCode.MQTT_ERR_SUCCESS:
                if not welcomed.is_set() and time.monotonic() > deadline:
                    _break(client)
        except _MALFORMED as err:
            log.warning("malformed packet", extra={"error": repr(err)})
            _break(client)


class MemoryLink:
    """`Link` without a network, for tests: what was published is in `sent`, the test plays the broker."""

    def __init__(self, *, acknowledge: bool = True) -> None:
        self.sent: list[tuple[str, bytes, bool]] = []
        self.filters: list[str] = []
        self.acknowledge = acknowledge
        self.dropped = 0
        self._events: list[LinkEvent] = []
        self._will: MakeWill | None = None
        self._session = 0
        self._connected = False
        self._mid = 0

    def start(self, will: MakeWill | None = None, session: int = 1) -> None:
        self._will = will
        self._session = session - 1

    def stop(self, timeout: float = 5.0) -> None:
        self._connected = False

    def subscribe(self, filters: Sequence[str]) -> None:
        self.filters += filters
        self._events.append(Subscribed())

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> int | None:
        if not self._connected:
            return None
        self._mid += 1
        self.sent.append((topic, payload, retain))
        if self.acknowledge:
            self._events.append(Published(self._mid))
        return self._mid

    def drain(self) -> list[LinkEvent]:
        events, self._events = self._events, []
        for event in events:
            if isinstance(event, Connected | Disconnected):
                self._connected = isinstance(event, Connected)
        return events

    @property
    def connected(self) -> bool:
        return self._connected

    def welcome(self, receive_max: int = 65535) -> Will | None:
        """Play a broker that takes the connection; returns the will that it would hold."""
        self._session += 1
        self._events.append(Connected(self._session, receive_max))
        return self._will(self._session) if self._will else None

    def lose(self) -> None:
        """Play a connection that breaks."""
        self._events.append(Disconnected("lost"))

    def deliver(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Play a message from the broker."""
        self._events.append(Incoming(topic, payload, retain))
