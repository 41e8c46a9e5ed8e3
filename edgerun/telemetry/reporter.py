"""What a device tells and hears: one object, polled once a cycle by the agent, from one thread.

    agent -> event, result, sample -> outbox -> Sender -> link -> broker -> collector
    agent <- poll <- Gate <- link <- broker <- operator

A row leaves the outbox when the collector says that it has it, and never before. There are two clocks: device seconds
pace what is measured, and the network's own seconds what is sent again, for a broker does not follow a virtual clock.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, SupportsFloat, TypeAlias

import msgspec
import numpy as np

from edgerun.errors import DataError
from edgerun.store.outbox import Gap, Outbox, Row
from edgerun.telemetry.bucket import Bucket
from edgerun.telemetry.commands import VERBS, Command, Gate, Rejection, Repeat
from edgerun.telemetry.flood import TURN_S, Inbox
from edgerun.telemetry.link import Connected, Disconnected, Incoming, Link, Published, Subscribed, Will
from edgerun.telemetry.messages import EVENT_KINDS, MAX_MESSAGE_BYTES, Ack, Birth, Data, Event, Result, State
from edgerun.telemetry.metrics import METRICS
from edgerun.telemetry.topics import Topics

log = logging.getLogger(__name__)

Mode: TypeAlias = Literal["learning", "paused", "inference", "stopped"]
Status: TypeAlias = Literal["accepted", "running", "done", "failed", "expired", "rejected"]

SID_BLOCK: Final = 64  # session numbers are reserved ahead, so that a kill cannot make one come twice
ANSWERS: Final = 20  # rejections and repeats answered at once; then one a second: a flood must not wear out the flash
FLOOD_S: Final = 60.0  # seconds of the network's clock between two events that tell what was left unanswered
_HISTORIC: Final[Mapping[str, type[Data] | type[Event]]] = {"data": Data, "event": Event}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who the device is, for its birth message."""

    bundle: str  # SHA-256, hex
    bundle_name: str
    runtime: str
    board: str
    classes: tuple[str, ...]
    capacity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often. Device seconds, except `resend_s`: seconds of the network's clock."""

    heartbeat_s: float = 30.0  # a data message at least so often while connected
    batch: int = 16  # samples in a data message
    batch_s: float = 10.0  # or as many as came in this time
    window: int = 64  # messages that the broker has not acknowledged
    resend_s: tuple[float, float] = (10.0, 300.0)  # silence of the collector before a first probe, and before a last


def gap_event(wall_ms: Callable[[], int]) -> Callable[[Gap], bytes]:
    """For `Outbox(make_gap=...)`: the event that announces numbers which will never come."""

    def encode(gap: Gap) -> bytes:
        detail = {"from": gap.first, "to": gap.last, "reason": gap.reason, "dropped": gap.dropped}
        return msgspec.json.encode(Event(sid=0, seq=gap.seq, t=wall_ms(), kind="gap", detail=detail))

    return encode


class Sender:
    """Moves rows from the outbox to the link, in order; each connection begins again after the newest acknowledgement.

    The broker's acknowledgement opens the window; only the collector's deletes. Where the collector stays silent about
    what was sent, one window is sent again as a probe; if that moves it, the rest follows.
    """

    def __init__(self, link: Link, outbox: Outbox, pace: Pace, now_s: Callable[[], float]) -> None:
        self._link = link
        self._outbox = outbox
        self._pace = pace
        self._now_s = now_s
        self._open = False
        self._window = pace.window
        self._in_flight: set[int] = set()
        self._cursor = 0  # highest number that needs no sending on this connection
        self._acked = outbox.oldest - 1  # highest number that the collector has confirmed
        self._fresh_from: int | None = None  # rows below were made before this connection; None: all of them were
        self._probing = False
        self._patience_s = pace.resend_s[0]
        self._silent_since = 0.0

    @property
    def busy(self) -> bool:
        """Whether something is on its way to the broker."""
        return bool(self._in_flight)

    def begin(self, receive_max: int) -> None:
        """A connection is ready, on which the broker wants to wait for at most so many acknowledgements."""
        self._open = True
        self._window = min(self._pace.window, receive_max)
        self._in_flight.clear()
        self._cursor = self._acked
        self._fresh_from = None
        self._be_patient()

    def end(self) -> None:
        """The connection is gone."""
        self._open = False

    def added(self, seq: int) -> None:
        if self._fresh_from is None:
            self._fresh_from = seq

    def published(self, mid: int) -> None:
        self._in_flight.discard(mid)

    def acknowledged(self, upto: int) -> None:
        """The outbox refuses a number that it never gave out; one that it has had already changes nothing."""
        self._outbox.ack(upto)
        if self._outbox.oldest - 1 <= self._acked:
            return
        self._acked = self._outbox.oldest - 1
        self._cursor = self._acked if self._probing else max(self._acked, self._cursor)
        self._be_patient()

    def pump(self) -> None:
        """Send what fits into the window."""
        if not self._open:
            return
        if self._cursor > self._acked and self._now_s() - self._silent_since > self._patience_s:
            self._probe()
        room, newest = self._window - len(self._in_flight), self._outbox.newest
        if room <= 0 or self._cursor >= newest:
            return
        rows = self._outbox.pending(self._cursor, room)
        for row in rows:
            if not self._send(row):
                return
            self._cursor = row.seq
        if len(rows) < room:
            self._cursor = newest  # no rows are left: numbers above the last one are in a gap

    def _probe(self) -> None:
        self._in_flight.clear()  # the broker has had time enough
        self._patience_s = min(2 * self._patience_s, self._pace.resend_s[1])
        self._silent_since = self._now_s()
        self._probing = True
        for row in self._outbox.pending(self._acked, self._window):
            if row.seq > self._cursor or not self._send(row):
                return

    def _be_patient(self) -> None:
        self._probing = False
        self._patience_s = self._pace.resend_s[0]
        self._silent_since = self._now_s()

    def _send(self, row: Row) -> bool:
        payload = row.payload
        if self._fresh_from is None or row.seq < self._fresh_from:
            payload = _as_history(row)
        if self._cursor == self._acked:
            self._silent_since = self._now_s()  # nothing was waiting for the collector until now
        mid = self._link.publish(row.topic, payload)
        if mid is None:
            return False
        self._in_flight.add(mid)
        return True


def _as_history(row: Row) -> bytes:
    """The same message, marked as told late."""
    kind = _HISTORIC.get(row.lane)
    if kind is None:
        return row.payload
    return msgspec.json.encode(msgspec.structs.replace(msgspec.json.decode(row.payload, type=kind), hist=True))


@dataclass(slots=True)
class _Batch:
    """Samples that wait to become one data message."""

    since_s: float = 0.0
    sample: int = 0
    t: list[int] = field(default_factory=list)
    rows: list[Mapping[str, SupportsFloat]] = field(default_factory=list)

    def columns(self) -> dict[str, list[float | None]]:
        names = dict.fromkeys(name for row in self.rows for name in row)
        return {name: [_finite(row.get(name)) for row in self.rows] for name in names}


def _finite(value: SupportsFloat | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays as JSON can hold them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be told in JSON")


_ENCODER = msgspec.json.Encoder(enc_hook=_plain)


class Reporter:
    """The device's side of the topic tree.

    sid        the highest session number that may have been used, as loaded from disk; `save_sid` stores a higher one
    wall_ms    wall clock, for people
    network_s  the clock of the network, seconds; does not jump
    """

    def __init__(
        self,
        link: Link,
        outbox: Outbox,
        topics: Topics,
        identity: Identity,
        gate: Gate,
        *,
        sid: int,
        save_sid: Callable[[int], None],
        wall_ms: Callable[[], int],
        pace: Pace = Pace(),
        network_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._outbox = outbox
        self._topics = topics
        self._identity = identity
        self._gate = gate
        self._sid = sid
        self._sid_reserved = sid
        self._save_sid = save_sid
        self._wall_ms = wall_ms
        self._pace = pace
        self._network_s = network_s
        self._sender = Sender(link, outbox, pace, network_s)
        self._mode: Mode = "inference"
        self._online = False  # the broker holds our will and our subscriptions, and has been told that we are there
        self._receive_max = 0
        self._batch = _Batch()
        self._last_data_s = math.inf  # no poll yet, so no device time yet
        self._answers = Bucket(ANSWERS, 1.0, network_s)
        self._inbox = Inbox()
        self._unanswered = self._told_unanswered = 0
        self._told_dropped = 0
        self._tell_after_s = -math.inf
        self._rejected = 0

    # ------------------------------------------------------------ what the agent calls

    def start(self) -> None:
        """Begin to connect. What is told before stays in the outbox until then."""
        self._reserve_sids(self._sid + SID_BLOCK)
        self._link.start(self._will, self._sid + 1)

    def poll(self, now_s: float) -> list[Command | Rejection]:
        """Do everything that is due at device time `now_s`; never waits.

        Returns the commands to carry out, and those that were refused, which have been answered already.
        """
        heard: list[Command | Rejection] = []
        for event in self._link.drain():
            match event:
                case Incoming(topic, payload) if topic == self._topics.ack:
                    self._ack(payload)
                case Incoming():
                    self._inbox.add(event)
                case Connected():
                    self._connected(event)
                case Published(mid):
                    self._sender.published(mid)
                case Subscribed():
                    self._announce()
                case Disconnected(reason):
                    self._online = False
                    self._sender.end()
                    log.info("disconnected", extra={"reason": reason})
        ends_s = self._network_s() + TURN_S
        for message in self._inbox.take():
            heard += self._incoming(message)
            if self._network_s() >= ends_s:
                break
        self._tell_flood()
        self._beat(now_s)
        self._sender.pump()
        return heard

    def stop(self, timeout: float = 5.0) -> None:
        """Store what is left, send a window of it, say goodbye and end the link, in at most `timeout` real seconds."""
        deadline = self._network_s() + timeout
        self._flush_batch(self._batch.since_s)
        self._outbox.flush()
        self._sender.pump()
        self._mode = "stopped"
        goodbye = self._publish_state(online=False, reason="stopped")
        while self._link.connected and self._network_s() < deadline and (goodbye or self._sender.busy):
            time.sleep(0.005)
            goodbye = self._leave(goodbye)
        self._link.stop(max(0.1, deadline - self._network_s()))
        self._save_sid(self._sid)

    def event(self, kind: str, detail: Mapping[str, Any] | None = None, sample: int = 0) -> int:
        """Something happened; durable when this returns. Returns its number. Raises DataError for an unknown kind."""
        if kind not in EVENT_KINDS:
            raise DataError(f"event kind {kind!r} is none of {', '.join(EVENT_KINDS)}")
        return self._add(
            "event",
            self._topics.event,
            lambda seq: Event(
                sid=self._sid, seq=seq, t=self._wall_ms(), kind=kind, detail=dict(detail or {}), sample=sample
            ),
        )

    def result(self, command: Command | Rejection, status: Status, detail: Mapping[str, Any] | None = None) -> int:
        """Answer a command; durable when this returns. A final answer is given again if the command comes again."""
        return self._answer(
            Result(
                id=command.id,
                sid=self._sid,
                seq=0,
                t=self._wall_ms(),
                verb=command.verb,
                status=status,
                detail=dict(detail or {}),
            )
        )

    def sample(self, metrics: Mapping[str, SupportsFloat], sample: int, now_s: float) -> None:
        """One row of figures at device time `now_s`, of sensor sample `sample`. Not finite = not sampled.

        Raises DataError for a name that METRICS does not have.
        """
        unknown = metrics.keys() - METRICS.keys()
        if unknown:
            raise DataError(f"metric {min(unknown)!r} is not in the catalogue")
        if not self._batch.rows:
            self._batch.since_s = now_s
        self._batch.t.append(self._wall_ms())
        self._batch.rows.append(metrics)
        self._batch.sample = sample
        if len(self._batch.rows) >= self._pace.batch:
            self._flush_batch(now_s)

    def set_mode(self, mode: Mode) -> None:
        """What `state` says from now on."""
        if mode != self._mode:
            self._mode = mode
            if self._online:
                self._publish_state(online=True)

    def set_identity(self, identity: Identity) -> None:
        """A class was added, or another bundle was loaded: be born again."""
        self._identity = identity
        if self._online:
            self._publish_birth()

    @property
    def connected(self) -> bool:
        """Whether commands reach this device, as far as it knows."""
        return self._online

    @property
    def sid(self) -> int:
        return self._sid

    @property
    def waiting(self) -> int:
        """Commands whose turn has not come."""
        return len(self._inbox)

    @property
    def dropped(self) -> int:
        """Messages dropped unread since the start, because too many came."""
        return self._link.dropped + self._inbox.dropped

    @property
    def refused(self) -> int:
        """Commands rejected or dropped since the start, answered or not."""
        return self._rejected + self.dropped

    # ------------------------------------------------------------ connection

    def _connected(self, event: Connected) -> None:
        self._sid = event.session
        if self._sid + SID_BLOCK // 2 > self._sid_reserved:
            self._reserve_sids(self._sid + SID_BLOCK)
        self._receive_max = event.receive_max
        self._link.subscribe(self._topics.inbox)

    def _announce(self) -> None:
        """Only now, for whoever sees us online may command us at once."""
        self._online = True
        self._publish_birth()
        self._publish_state(online=True)
        self._sender.begin(self._receive_max)

    def _reserve_sids(self, upto: int) -> None:
        self._save_sid(upto)
        self._sid_reserved = upto

    def _will(self, session: int) -> Will:
        state = State(online=False, sid=session, reason="lost")
        return Will(self._topics.state, msgspec.json.encode(state))

    def _publish_state(self, *, online: bool, reason: str = "") -> int | None:
        state = State(online=online, sid=self._sid, ts=self._wall_ms(), mode=self._mode, reason=reason)
        return self._link.publish(self._topics.state, msgspec.json.encode(state), retain=True)

    def _publish_birth(self) -> None:
        who = self._identity
        birth = Birth(
            sid=self._sid,
            ts=self._wall_ms(),
            bundle=who.bundle,
            bundle_name=who.bundle_name,
            runtime=who.runtime,
            board=who.board,
            classes=list(who.classes),
            capacity=who.capacity,
            heartbeat_s=self._pace.heartbeat_s,
            metrics=dict(METRICS),
            verbs=list(VERBS),
            allow_unsigned=self._gate.allow_unsigned,
            oldest=self._outbox.oldest,
        )
        self._link.publish(self._topics.birth, msgspec.json.encode(birth), retain=True)

    def _leave(self, goodbye: int | None) -> int | None:
        """What is still unconfirmed of our goodbye. Commands that come now are too late."""
        for event in self._link.drain():
            match event:
                case Published(mid):
                    self._sender.published(mid)
                    goodbye = None if mid == goodbye else goodbye
                case Incoming(topic, payload) if topic == self._topics.ack:
                    self._ack(payload)
        return goodbye

    # ------------------------------------------------------------ in

    def _incoming(self, message: Incoming) -> list[Command | Rejection]:
        match self._gate.admit(message.topic, message.payload, message.retain):
            case Command(verb="rebirth") as command:
                self._publish_birth()
                self._publish_state(online=True)
                self.result(command, "done")
                return []
            case Command() as command:
                return [command]
            case Repeat(result=result):
                if result is not None and self._may_answer():
                    self._answer(result)
                return []
            case Rejection() as rejection:
                self._refuse(rejection)
                return [rejection]

    def _ack(self, payload: bytes) -> None:
        try:
            ack = msgspec.json.decode(payload[:MAX_MESSAGE_BYTES], type=Ack)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
            log.warning("malformed ack", extra={"error": str(err)})
            return
        if ack.sid <= self._sid:  # else it speaks of an earlier life of this device
            self._sender.acknowledged(ack.upto)

    def _refuse(self, rejection: Rejection) -> None:
        self._rejected += 1
        if rejection.verb and self._may_answer():
            self.result(rejection, rejection.status, {"reason": rejection.reason})

    def _may_answer(self) -> bool:
        answered = self._answers.take()
        self._unanswered += not answered
        return answered

    def _tell_flood(self) -> None:
        """Say, once in a while, how much was dropped unread and how much was read and left without an answer."""
        dropped, now_s = self.dropped, self._network_s()
        if (dropped, self._unanswered) == (self._told_dropped, self._told_unanswered) or now_s < self._tell_after_s:
            return
        detail = {"dropped": dropped - self._told_dropped, "unanswered": self._unanswered - self._told_unanswered}
        self._told_dropped, self._told_unanswered = dropped, self._unanswered
        self._tell_after_s = now_s + FLOOD_S
        self.event("flood", detail)

    # ------------------------------------------------------------ out

    def _answer(self, result: Result) -> int:
        self._gate.finish(result)
        topic = self._topics.res(result.verb)
        return self._add(
            "res", topic, lambda seq: msgspec.structs.replace(result, seq=seq, sid=self._sid, t=self._wall_ms())
        )

    def _add(
        self, lane: Literal["event", "res", "data"], topic: str, make: Callable[[int], Event | Result | Data]
    ) -> int:
        seq = self._outbox.add(lane, topic, lambda seq: _encode(make(seq)))
        self._sender.added(seq)
        return seq

    def _beat(self, now_s: float) -> None:
        """Send the batch that is old enough, or, while somebody may be listening, an empty one as a sign of life."""
        if self._batch.rows and now_s - self._batch.since_s >= self._pace.batch_s:
            self._flush_batch(now_s)
        self._last_data_s = min(self._last_data_s, now_s)
        if self._online and now_s - self._last_data_s >= self._pace.heartbeat_s:
            self._batch.t = self._batch.t or [self._wall_ms()]
            self._flush_batch(now_s)

    def _flush_batch(self, now_s: float) -> None:
        batch, self._batch = self._batch, _Batch(sample=self._batch.sample)
        if not batch.t:
            return
        self._last_data_s = now_s
        self._add(
            "data",
            self._topics.data,
            lambda seq: Data(sid=self._sid, seq=seq, t=batch.t, m=batch.columns(), sample=batch.sample),
        )


def _encode(message: Event | Result | Data) -> bytes:
    """JSON within the size limit: a detail that is too long is left out, and said to be."""
    payload = _ENCODER.encode(message)
    if len(payload) > MAX_MESSAGE_BYTES and not isinstance(message, Data):
        omitted = {"omitted": f"{len(payload)} bytes, over {MAX_MESSAGE_BYTES}"}
        payload = _ENCODER.encode(msgspec.structs.replace(message, detail=omitted))
    return payload
