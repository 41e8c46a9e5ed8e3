"""What the fleet has said, kept in one SQLite file: samples, events, nodes, and which messages have arrived.

One writer, many readers (WAL). A commit is durable when it returns (`synchronous=FULL`), so the acknowledgement sent
after it may let a device forget. A node is named `group/node`.

Sequence numbers of a node run from 1. A number is *covered* when its message is committed, when a gap event announced
that it will never come, or when it lies at or under the node's *base*: what was before this store's time, because it
began in the middle of a device's life. The base is `Birth.oldest` - 1 or what an earlier collector has acknowledged,
whichever is higher; a device that says no `oldest` gives the first number seen, and may lose what it sent before that.
`upto` is the highest n with all of 1..n covered; `missing` counts what is uncovered under the highest number seen.
Nothing is acknowledged before the node's birth is known.

A gap announces that its numbers will not come; one that comes all the same is kept, not dropped as a duplicate.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from edgerun.errors import StoreError
from edgerun.telemetry.messages import Ack, Birth, Data, Event, Result, State

Arriving: TypeAlias = State | Birth | Data | Event | Result | Ack
Row: TypeAlias = tuple[Any, ...]

MAX_NODES: Final = 4096
MAX_METRICS: Final = 512  # names of metrics, the whole fleet together

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS nodes (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
    sid INTEGER NOT NULL DEFAULT 0, online INTEGER NOT NULL DEFAULT 0, mode TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '', birth_sid INTEGER NOT NULL DEFAULT 0, birth BLOB,
    seen_ms INTEGER NOT NULL DEFAULT 0, first_ts INTEGER, last_ts INTEGER NOT NULL DEFAULT 0,
    base INTEGER, top INTEGER NOT NULL DEFAULT 0, upto INTEGER NOT NULL DEFAULT 0,
    received INTEGER NOT NULL DEFAULT 0, duplicates INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS metrics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS samples (
    node INTEGER, metric INTEGER, ts INTEGER, value REAL NOT NULL, PRIMARY KEY (node, metric, ts)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, node INTEGER NOT NULL, seq INTEGER NOT NULL, ts INTEGER NOT NULL,
    kind TEXT NOT NULL, detail BLOB NOT NULL, hist INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS events_of_node ON events (node, id);
CREATE TABLE IF NOT EXISTS messages (node INTEGER, seq INTEGER, PRIMARY KEY (node, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gaps (
    node INTEGER, first INTEGER, last INTEGER, PRIMARY KEY (node, first, last)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One payload that passed every check. `live` is false for a retained copy, which tells nothing about now."""

    node: str
    message: Arriving
    live: bool


@dataclass(frozen=True, slots=True)
class Commit:
    """What one transaction changed. `acks` is to be published: from now on these rows are safe here."""

    cursor: int
    nodes: frozenset[str]
    acks: tuple[tuple[str, Ack], ...]
    refused: int  # arrivals of nodes beyond MAX_NODES


def connect(path: Path) -> sqlite3.Connection:
    """Open or create the store for its one writer. Raises StoreError if the file cannot be one."""
    try:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as err:
        raise StoreError(f"history {path}: {err}") from None
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA journal_size_limit = 4194304")
        db.executescript(SCHEMA)
    except sqlite3.Error as err:
        db.close()
        raise StoreError(f"history {path}: {err}") from None
    return db


class History:
    """The one writer. Belongs to one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._db = connect(path)
        self._nodes: dict[str, int] = {name: node for node, name in self._db.execute("SELECT id, name FROM nodes")}
        self._metrics: dict[str, int] = {name: key for key, name in self._db.execute("SELECT id, name FROM metrics")}
        self.identity = self._remember("identity", secrets.token_hex(4))  # the collector's name, for life
        self.cursor = int(self._remember("cursor", 0))

    def close(self) -> None:
        self._db.close()

    def _remember(self, name: str, default: str | int) -> Any:
        self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, default))
        return self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0]

    def commit(self, arrivals: Sequence[Arrival], now_ms: int) -> Commit:
        """Store a batch as one durable transaction; all of it or nothing.

        Raises sqlite3.Error, with nothing changed, when the disk does not take it: the caller tries again later.
        """
        touched: dict[str, int | None] = {}  # name -> session of its newest birth or numbered message, if any
        with self._transaction():
            refused = sum(not self._store(arrival, now_ms, touched) for arrival in arrivals)
            acks = tuple(self._acknowledge(name, sid) for name, sid in touched.items() if sid is not None)
            self._db.execute("UPDATE meta SET value = ? WHERE name = 'cursor'", (self.cursor + 1,))
        self.cursor += 1
        return Commit(self.cursor, frozenset(touched), tuple(ack for ack in acks if ack[1].upto), refused)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        names = self._nodes.copy(), self._metrics.copy()
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
            names = self._nodes, self._metrics
        finally:
            self._nodes, self._metrics = names
            if self._db.in_transaction:  # a full disk has rolled back by itself
                self._db.execute("ROLLBACK")

    def _store(self, arrival: Arrival, now_ms: int, touched: dict[str, int | None]) -> bool:
        node = self._node(arrival.node)
        if node is None:
            return False
        message = arrival.message
        touched.setdefault(arrival.node, None)
        if arrival.live and not (isinstance(message, Ack) or (isinstance(message, State) and not message.online)):
            self._db.execute("UPDATE nodes SET seen_ms = MAX(seen_ms, ?) WHERE id = ?", (now_ms, node))
        match message:
            case State():
                self._state(node, message)
            case Birth():
                touched[arrival.node] = message.sid
                self._birth(node, message)
            case Ack():
                if not arrival.live and message.collector != self.identity:
                    self._raise_base(node, message.upto)
            case Data() | Event() | Result():
                touched[arrival.node] = message.sid
                if self._first_time(node, message.seq):
                    self._numbered(node, message)
        return True

    def _node(self, name: str) -> int | None:
        """The row of a node, made when new; None when the fleet is full: a liar cannot fill the disk with names."""
        if name not in self._nodes and len(self._nodes) < MAX_NODES:
            self._nodes[name] = self._insert("INSERT INTO nodes (name) VALUES (?)", name)
        return self._nodes.get(name)

    def _metric(self, name: str) -> int | None:
        if name not in self._metrics and len(self._metrics) < MAX_METRICS:
            self._metrics[name] = self._insert("INSERT INTO metrics (name) VALUES (?)", name)
        return self._metrics.get(name)

    def _insert(self, statement: str, name: str) -> int:
        return int(self._db.execute(f"{statement} RETURNING id", (name,)).fetchone()[0])

    def _state(self, node: int, state: State) -> None:
        """A will of an older session may arrive after the rebirth: it is ignored."""
        self._db.execute(
            "UPDATE nodes SET sid = ?1, online = ?2, mode = ?3, reason = ?4 WHERE id = ?5 AND ?1 >= birth_sid",
            (state.sid, state.online, state.mode, state.reason, node),
        )

    def _birth(self, node: int, birth: Birth) -> None:
        self._db.execute(
            "UPDATE nodes SET birth = ?1, birth_sid = ?2 WHERE id = ?3", (msgspec.json.encode(birth), birth.sid, node)
        )
        if birth.oldest and self._base(node) is None:
            self._raise_base(node, birth.oldest - 1)

    def _base(self, node: int) -> int | None:
        base: int | None = self._db.execute("SELECT base FROM nodes WHERE id = ?", (node,)).fetchone()[0]
        return base

    def _raise_base(self, node: int, base: int) -> None:
        self._db.execute("UPDATE nodes SET base = MAX(IFNULL(base, 0), ?) WHERE id = ?", (base, node))

    def _first_time(self, node: int, seq: int) -> bool:
        """Note that a number has arrived; False if it had before."""
        fresh = self._db.execute("INSERT OR IGNORE INTO messages VALUES (?, ?)", (node, seq)).rowcount == 1
        column = "received" if fresh else "duplicates"
        self._db.execute(f"UPDATE nodes SET {column} = {column} + 1, top = MAX(top, ?) WHERE id = ?", (seq, node))
        return fresh

    def _numbered(self, node: int, message: Data | Event | Result) -> None:
        match message:
            case Data():
                self._db.executemany("INSERT OR REPLACE INTO samples VALUES (?, ?, ?, ?)", self._samples(node, message))
                self._span(node, message)
            case Event():
                self._event(node, message.seq, message.t, message.kind, message.detail, message.hist)
                if message.kind == "gap" and (gap := announced(message)):
                    self._db.execute("INSERT OR REPLACE INTO gaps VALUES (?, ?, ?)", (node, *gap))
            case Result():
                detail = {"verb": message.verb, "status": message.status, "id": message.id, **message.detail}
                self._event(node, message.seq, message.t, "command", detail, False)

    def _samples(self, node: int, data: Data) -> Iterator[Row]:
        for name, values in data.m.items():
            metric = self._metric(name)
            if metric is not None:
                yield from ((node, metric, ts, v) for ts, v in zip(data.t, values, strict=True) if v is not None)

    def _span(self, node: int, data: Data) -> None:
        """Where the node's time axis begins and ends: it ends where its clock says now, even when set back."""
        if data.t:
            self._db.execute(
                """UPDATE nodes SET first_ts = MIN(IFNULL(first_ts, ?1), ?1),
                   last_ts = CASE WHEN ?3 THEN MAX(last_ts, ?2) ELSE ?2 END WHERE id = ?4""",
                (min(data.t), max(data.t), data.hist, node),
            )

    def _event(self, node: int, seq: int, ts: int, kind: str, detail: dict[str, Any], hist: bool) -> None:
        self._db.execute(
            "INSERT INTO events (node, seq, ts, kind, detail, hist) VALUES (?, ?, ?, ?, ?, ?)",
            (node, seq, ts, kind, msgspec.json.encode(detail), hist),
        )

    def _acknowledge(self, name: str, sid: int) -> tuple[str, Ack]:
        return name, Ack(collector=self.identity, sid=sid, upto=self._advance(self._nodes[name]))

    def _advance(self, node: int) -> int:
        """The new `upto` of a node; 0 while we cannot know where its numbers begin."""
        query = """SELECT base, upto, birth IS NULL, (SELECT MIN(seq) FROM messages WHERE node = id)
                   FROM nodes WHERE id = ?"""
        base, before, unborn, first = self._db.execute(query, (node,)).fetchone()
        if base is None and (unborn or first is None):
            return 0
        if base is None:
            self._raise_base(node, base := first - 1)
        upto = covered(self._db, node, max(before, base))
        if upto != before:
            self._db.execute("UPDATE nodes SET upto = ? WHERE id = ?", (upto, node))
        return upto


def announced(event: Event) -> tuple[int, int] | None:
    """The numbers that a gap event gives up, both ends inclusive; None where its detail makes no sense.

    A gap lies below the number of the event that announces it.
    """
    first, last = event.detail.get("from"), event.detail.get("to")
    if type(first) is int and type(last) is int and 1 <= first <= last < event.seq:
        return first, last
    return None


def covered(db: sqlite3.Connection, node: int, upto: int) -> int:
    """Go on from `upto` over gaps and committed numbers as far as there is no hole."""
    while True:
        before = upto
        last = db.execute(
            "SELECT MAX(last) FROM gaps WHERE node = ? AND first <= ? AND last > ?", (node, upto + 1, upto)
        ).fetchone()[0]
        upto = upto if last is None else last
        for (seq,) in db.execute("SELECT seq FROM messages WHERE node = ? AND seq > ? ORDER BY seq", (node, upto)):
            if seq != upto + 1:
                break
            upto = seq
        if upto == before:
            return upto
