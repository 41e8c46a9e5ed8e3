"""What the page asks the store: nodes as cards, series in buckets, events, and how complete a record is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from deploy.dashboard.history import Row
from deploy.dashboard.sentences import describe
from edgerun.errors import DataError

MAX_POINTS: Final = 2000
DEFAULT_HEARTBEAT_S: Final = 30.0
MISSED_HEARTBEATS: Final = 3
SPARK_METRIC: Final = "accuracy"
SPARK_MS: Final = 3_600_000
SPARK_POINTS: Final = 48

BUCKETS: Final = """
SELECT ts / :width * :width, MIN(value), MAX(value), AVG(value) FROM samples
WHERE node = :node AND metric = (SELECT id FROM metrics WHERE name = :metric) AND ts BETWEEN :start AND :stop
GROUP BY ts / :width ORDER BY 1
"""

NEWEST: Final = """
SELECT metrics.name, (SELECT value FROM samples WHERE node = :node AND metric = metrics.id AND ts <= :last
                      ORDER BY ts DESC LIMIT 1) FROM metrics
"""

NODES: Final = """
SELECT id, name, sid, online, mode, reason, birth, seen_ms, IFNULL(first_ts, last_ts), last_ts FROM nodes ORDER BY name
"""

EVENTS: Final = """
SELECT events.id, nodes.name, seq, ts, kind, detail, hist FROM events JOIN nodes ON nodes.id = node
WHERE events.id > :after AND (:node IS NULL OR node = :node) ORDER BY events.id DESC LIMIT :limit
"""


@dataclass(frozen=True, slots=True)
class CollectorStats:
    """How complete one node's record is. All but `upto` are counts."""

    received: int  # distinct messages committed
    duplicates: int  # copies dropped
    missing: int  # numbers in 1..highest neither committed nor covered by a gap
    upto: int  # highest n with all of 1..n covered: what the device has been told
    gaps: int  # gaps announced


class Born(msgspec.Struct, frozen=True, kw_only=True):
    """What a card shows of a birth message."""

    bundle: str
    bundle_name: str
    runtime: str
    board: str
    classes: list[str]
    capacity: int
    heartbeat_s: float
    allow_unsigned: bool


class Reader:
    """Questions to the store, from any thread: each opens its own read-only connection (about 0.1 ms)."""

    def __init__(self, path: Path) -> None:
        self._uri = f"{path.absolute().as_uri()}?mode=ro"

    def _open(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(self._uri, uri=True))

    def stats(self, name: str) -> CollectorStats:
        """Raises DataError if the store has never heard of the node."""
        with self._open() as db:
            return node_stats(db, node_id(db, name))

    def nodes(self, now_ms: int) -> list[dict[str, Any]]:
        """Every node as the page shows it: who it is, how it is, its newest value of each metric."""
        with self._open() as db:
            return [node_card(db, row, now_ms) for row in db.execute(NODES).fetchall()]

    def series(self, name: str, metrics: Iterable[str], start: int, stop: int | None, points: int) -> dict[str, Any]:
        """At most about `points` buckets of each metric between two wall times in ms: its least, greatest and mean.

        Buckets begin at multiples of their width, so the metrics of one answer share one time axis.
        Raises DataError for a node that is not known.
        """
        with self._open() as db:
            node = node_id(db, name)
            first, last = db.execute("SELECT IFNULL(first_ts, 0), last_ts FROM nodes WHERE id = ?", (node,)).fetchone()
            start, stop = max(start, first), last if stop is None else stop
            width = bucket_ms(start, stop, points)
            columns = {metric: buckets(db, node, metric, start, stop, width) for metric in metrics}
        return {"node": name, "from": start, "to": stop, "bucket_ms": width, "series": columns}

    def events(self, name: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        """Events with an id above `after`, newest first; of the whole fleet where no node is named."""
        with self._open() as db:
            node = None if name is None else node_id(db, name)
            rows = db.execute(EVENTS, {"after": after, "node": node, "limit": limit}).fetchall()
        return [event_line(row) for row in rows]


def bucket_ms(start: int, stop: int, points: int) -> int:
    """The least whole width that cuts [start, stop] into at most `points` pieces."""
    points = max(1, min(points, MAX_POINTS))
    return max(1, -(-(stop - start + 1) // points))


def buckets(db: sqlite3.Connection, node: int, metric: str, start: int, stop: int, width: int) -> dict[str, list[Any]]:
    where = {"node": node, "metric": metric, "start": start, "stop": stop, "width": width}
    rows: Sequence[Row] = db.execute(BUCKETS, where).fetchall()
    t, low, high, mean = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [], [])
    return {"t": t, "min": low, "max": high, "mean": mean}


def event_line(row: Row) -> dict[str, Any]:
    key, node, seq, ts, kind, blob, hist = row
    detail = msgspec.json.decode(blob)
    text = describe(kind, detail)
    return {
        "id": key,
        "node": node,
        "seq": seq,
        "ts": ts,
        "kind": kind,
        "text": text,
        "detail": detail,
        "hist": bool(hist),
    }


def node_card(db: sqlite3.Connection, row: Row, now_ms: int) -> dict[str, Any]:
    node, name, sid, online, mode, reason, blob, seen_ms, first, last = row
    birth = None if blob is None else msgspec.json.decode(blob, type=Born)
    stale_after_s = MISSED_HEARTBEATS * (birth.heartbeat_s if birth else DEFAULT_HEARTBEAT_S)
    start = max(first, last - SPARK_MS)
    newest = db.execute(NEWEST, {"node": node, "last": last})
    return {
        "node": name,
        "status": status(bool(online), seen_ms, stale_after_s, now_ms),
        "mode": mode,
        "reason": reason,
        "sid": sid,
        "seen_ms": seen_ms,
        "stale_after_s": stale_after_s,
        "first_ts": first,
        "last_ts": last,
        "birth": birth,
        "values": {metric: value for metric, value in newest if value is not None},
        "spark": buckets(db, node, SPARK_METRIC, start, last, bucket_ms(start, last, SPARK_POINTS))["mean"],
        "stats": node_stats(db, node),
    }


def status(online: bool, seen_ms: int, stale_after_s: float, now_ms: int) -> Literal["online", "stale", "offline"]:
    """Offline when it said so or its will did; stale when three heartbeats are missed, whatever the broker believes."""
    if not online:
        return "offline"
    return "stale" if now_ms - seen_ms > stale_after_s * 1000 else "online"


def node_id(db: sqlite3.Connection, name: str) -> int:
    row = db.execute("SELECT id FROM nodes WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise DataError(f"node {name[:140]!r} has never been heard of")
    return int(row[0])


def node_stats(db: sqlite3.Connection, node: int) -> CollectorStats:
    query = "SELECT received, duplicates, upto, top FROM nodes WHERE id = ?"
    received, duplicates, upto, top = db.execute(query, (node,)).fetchone()
    gaps = db.execute("SELECT COUNT(*) FROM gaps WHERE node = ?", (node,)).fetchone()[0]
    return CollectorStats(received, duplicates, count_missing(db, node, upto, top), upto, gaps)


def count_missing(db: sqlite3.Connection, node: int, upto: int, top: int) -> int:
    """How many of upto+1..top are neither committed nor inside a gap."""
    uncovered = top - upto - count_messages(db, node, upto + 1, top)
    gaps = db.execute("SELECT first, last FROM gaps WHERE node = ? AND last > ? ORDER BY first", (node, upto))
    done = upto
    for first, last in gaps.fetchall():
        start = max(first, done + 1)
        if start <= last:
            uncovered -= last - start + 1 - count_messages(db, node, start, last)
            done = last
    return max(uncovered, 0)


def count_messages(db: sqlite3.Connection, node: int, first: int, last: int) -> int:
    query = "SELECT COUNT(*) FROM messages WHERE node = ? AND seq BETWEEN ? AND ?"
    return int(db.execute(query, (node, first, last)).fetchone()[0])
