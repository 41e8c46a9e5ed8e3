"""Messages that wait until the collector has them, in one bounded SQLite file.

Two lanes. `event` and `res` are durable when `add` returns. `data` waits in memory for its batch, so a power cut loses
one batch at most. Every number ever given out is, at any time, at or below what was acknowledged, the number of a row
here, or covered by a gap event here: nothing is lost in silence.

Numbers come from a reservation that is stored, 4096 at a time, before the first of them is used. After a kill the next
block begins, and one gap event covers what lies between. A file that is no database any more is set aside; the
reservation is stored a second time beside it, so that numbers never repeat.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from edgerun.errors import StoreError

Lane: TypeAlias = Literal["event", "res", "data"]

BLOCK: Final = 4096
MAX_PAYLOAD_BYTES: Final = 1 << 16
_PAGE: Final = 4096
_KEEP_ONE_IN: Final = 8  # of the data rows of a thinned stretch
_STRETCH: Final = 64  # rows that one act of thinning or dropping looks at
_SWEEP: Final = 512  # acknowledged numbers whose rows may still lie in the file
_SLACK_PAGES: Final = 12  # for the gap events that thinning writes, and for tree nodes that split
_SCHEMA: Final = """
BEGIN;
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE rows (seq INTEGER PRIMARY KEY, lane TEXT NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL);
CREATE TABLE gaps (seq INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL);
INSERT INTO meta VALUES ('reserved', 0), ('acked', 0), ('dropped', 0), ('thinned', 0);
PRAGMA user_version = 1;
COMMIT;
"""
_DATA: Final = "SELECT seq FROM rows WHERE lane = 'data' AND seq > ? ORDER BY seq LIMIT ?"
_NO_GAP: Final = "SELECT seq FROM rows WHERE seq NOT IN (SELECT seq FROM gaps) AND seq > ? ORDER BY seq LIMIT ?"


@dataclass(frozen=True, slots=True)
class Row:
    seq: int
    lane: Lane
    topic: str
    payload: bytes


@dataclass(slots=True)
class _Place:
    """Where the numbering stands. All but `next`, `acked` and `stored` are in the file as well."""

    next: int  # to be given out
    reserved: int  # the highest that may be given out
    acked: int
    swept: int  # up to here acknowledged rows have left the file
    stored: int  # rows in the file above `acked`
    dropped: int
    thinned: int  # up to here data has been thinned


@dataclass(frozen=True, slots=True)
class Gap:
    """Numbers from `first` to `last` that will not come: skipped by a restart, or dropped because the file was full."""

    seq: int  # of the event that says so
    first: int
    last: int
    reason: Literal["restart", "full"]
    dropped: int  # rows that this device has dropped in its life


def encode_gap(gap: Gap) -> bytes:
    """A gap as an `event` message of no session; the telemetry client hands in one that knows its session and clock."""
    detail = {"from": gap.first, "to": gap.last, "reason": gap.reason, "dropped": gap.dropped}
    return msgspec.json.encode({"v": 1, "sid": 0, "seq": gap.seq, "t": 0, "kind": "gap", "detail": detail})


class Outbox:
    """The one owner of its file; safe to call from several threads. Raises StoreError where the file cannot be used.

    max_mb        bound of the database with its log, in MiB
    batch_rows    data rows that wait in memory at most
    batch_s       seconds that the oldest of them waits at most, looked at by `add`
    gap_topic     topic of gap events, which go in the lane `event`
    make_gap      gives their payload
    now           a clock that does not jump, in seconds
    """

    def __init__(
        self,
        path: Path | Literal[":memory:"],
        *,
        max_mb: int = 16,
        batch_rows: int = 50,
        batch_s: float = 30.0,
        gap_topic: str = "event",
        make_gap: Callable[[Gap], bytes] = encode_gap,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_mb < 1 or batch_rows < 1:
            raise StoreError(f"outbox max_mb {max_mb} or batch_rows {batch_rows} is under 1")
        self._path = None if path == ":memory:" else Path(path)
        self._max_pages = max_mb * (1 << 20) * 3 // 4 // _PAGE  # the last quarter is for the write-ahead log
        self._batch_rows, self._batch_s, self._batch_bytes = batch_rows, batch_s, max_mb << 14
        self._gap_topic, self._make_gap, self._now = gap_topic, make_gap, now
        self._lock = threading.RLock()
        self._batch: list[Row] = []
        self._batch_since = 0.0
        with _translated():
            self._db = self._open()
            try:
                self._at = self._recall()
                self._announce_skipped()
            except BaseException:
                self._db.close()
                raise

    # ---- in

    def add(self, lane: Lane, topic: str, encode: Callable[[int], bytes]) -> int:
        """Take a message in and return its number, which `encode` puts into the payload.

        event, res   durable when this returns, and with it all data that waited
        data         durable with its batch
        """
        with self._lock, _translated():
            self._reserve()
            seq = self._at.next
            payload = encode(seq)
            if len(payload) > MAX_PAYLOAD_BYTES:
                raise StoreError(f"payload of {len(payload)} bytes is over {MAX_PAYLOAD_BYTES}")
            if not self._batch:
                self._batch_since = self._now()
            self._batch.append(Row(seq, lane, topic, payload))
            self._at.next += 1
            if lane != "data" or self._due():
                try:
                    self.flush()
                except BaseException:  # the message was not taken in: its number is the next one's
                    self._batch.pop()
                    self._at.next -= 1
                    raise
            return seq

    def flush(self) -> None:
        """Make the data that waits in memory durable."""
        with self._lock, _translated():
            if self._batch:
                with self._transaction():
                    self._make_room(self._batch)
                    for row in self._batch:
                        self._insert(row)
                self._batch = []

    # ---- out

    def pending(self, after: int = 0, limit: int = 100) -> list[Row]:
        """Rows with a number above `after`, lowest first, at most `limit`."""
        with self._lock, _translated():
            stored = self._db.execute(
                "SELECT seq, lane, topic, payload FROM rows WHERE seq > ? ORDER BY seq LIMIT ?",
                (max(after, self._at.acked), limit),
            )
            rows = [Row(*values) for values in stored]
            return (rows + [row for row in self._batch if row.seq > after])[:limit]

    def ack(self, upto: int) -> int:
        """The collector has everything up to this number: delete it, and return how many rows went.

        An acknowledgement beyond every number given out is of an earlier life of this device and changes nothing. It is
        written to the file with the next batch, for forgetting it costs only duplicates.
        """
        with self._lock, _translated():
            if not self._at.acked < upto < self._at.next:
                return 0
            stored = self._one("SELECT COUNT(*) FROM rows WHERE seq > ? AND seq <= ?", self._at.acked, upto)
            before = self.depth
            self._at.stored -= stored
            self._batch = [row for row in self._batch if row.seq > upto]
            self._at.acked = upto
            if upto - self._at.swept >= _SWEEP:
                with self._transaction():
                    pass
            return before - self.depth

    # ---- counters

    @property
    def depth(self) -> int:
        """Rows not yet acknowledged."""
        return self._at.stored + len(self._batch)

    @property
    def dropped(self) -> int:
        """Rows that were dropped unsent because the file was full, in the life of the file. Each is in a gap."""
        return self._at.dropped

    @property
    def newest(self) -> int:
        """The highest number given out."""
        return self._at.next - 1

    @property
    def oldest(self) -> int:
        """The lowest number that may still be sent."""
        return self._at.acked + 1

    # ---- the end

    def close(self) -> None:
        """Write what waits, give back the unused numbers, close the file."""
        with self._lock, _translated():
            try:
                self.flush()
                with self._transaction():
                    self._at.reserved = self._at.next - 1
                    self._set_meta("reserved", self._at.reserved)
                self._store_reservation()
            finally:
                self._db.close()

    def abandon(self) -> None:
        """Close the file without writing what waits, as a kill would."""
        with self._lock:
            self._db.close()

    # ---- opening

    def _open(self) -> sqlite3.Connection:
        """The database, empty where there was none; one that cannot be read is set aside as `.damaged`."""
        if self._path is None:
            return self._connect(":memory:")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return self._connect(str(self._path))
        except sqlite3.OperationalError:
            raise  # locked by another owner, or a medium that fails: the file itself may be whole
        except sqlite3.DatabaseError:
            self._path.with_name(self._path.name + "-wal").unlink(missing_ok=True)
            os.replace(self._path, self._path.with_name(self._path.name + ".damaged"))
            return self._connect(str(self._path))

    def _connect(self, path: str) -> sqlite3.Connection:
        db = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
        try:
            for pragma in (
                "locking_mode = EXCLUSIVE",
                "journal_mode = WAL",
                "synchronous = FULL",
                f"wal_autocheckpoint = {self._max_pages // 12}",
                f"journal_size_limit = {self._max_pages // 6 * _PAGE}",
                f"max_page_count = {self._max_pages}",
            ):
                db.execute(f"PRAGMA {pragma}").fetchall()
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                db.executescript(_SCHEMA)
            elif version != 1:
                raise sqlite3.DatabaseError(f"schema {version} is not 1")
            db.execute("SELECT COUNT(*), MAX(LENGTH(payload)) FROM rows").fetchone()  # every page is read
            db.execute("UPDATE meta SET value = value")  # takes the lock
        except sqlite3.Error:
            db.close()
            raise
        if self._path is not None:
            _sync_folder(self._path.parent)
        return db

    def _recall(self) -> _Place:
        """Where the file ends. Of what is reserved, all may have been given out."""
        meta: dict[str, int] = dict(self._db.execute("SELECT name, value FROM meta").fetchall())
        reserved = max(meta["reserved"], self._stored_reservation())
        return _Place(
            next=reserved + 1,
            reserved=reserved,
            acked=meta["acked"],
            swept=meta["acked"],
            stored=self._one("SELECT COUNT(*) FROM rows WHERE seq > ?", meta["acked"]),
            dropped=meta["dropped"],
            thinned=meta["thinned"],
        )

    def _announce_skipped(self) -> None:
        """Cover the numbers that may have been given out and are in no row."""
        last = max(self._at.acked, self._one("SELECT IFNULL(MAX(seq), 0) FROM rows"))
        if last < self._at.reserved:
            with self._transaction():
                self._announce(last + 1, self._at.reserved, "restart")

    # ---- numbers

    def _reserve(self) -> None:
        """Have the next number reserved, durably, before it is used."""
        if self._at.next > self._at.reserved:
            self._at.reserved = self._at.next - 1 + BLOCK
            self._store_reservation()
            self._set_meta("reserved", self._at.reserved)

    def _stored_reservation(self) -> int:
        """The reservation as the file beside the database has it; 0 if there is none that can be read."""
        if self._path is None:
            return 0
        try:
            text = self._beside().read_bytes()
        except FileNotFoundError:
            return 0
        return int(text) if text.isdigit() and len(text) < 19 else 0

    def _store_reservation(self) -> None:
        if self._path is None:
            return
        new = self._path.with_name(self._path.name + ".seq.new")
        with open(new, "wb") as file:
            file.write(b"%d" % self._at.reserved)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self._beside())
        _sync_folder(self._path.parent)

    def _beside(self) -> Path:
        return Path(f"{self._path}.seq")

    # ---- rows

    def _due(self) -> bool:
        return (
            len(self._batch) >= self._batch_rows
            or self._now() - self._batch_since >= self._batch_s
            or sum(len(row.payload) for row in self._batch) >= self._batch_bytes
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, counters included; carries along what was acknowledged since the last one."""
        before = replace(self._at)
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._sweep()
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._at = before
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _sweep(self) -> None:
        if self._at.acked != self._at.swept:
            self._db.execute("DELETE FROM rows WHERE seq <= ?", (self._at.acked,))
            self._db.execute("DELETE FROM gaps WHERE seq <= ?", (self._at.acked,))
            self._set_meta("acked", self._at.acked)
            self._at.swept = self._at.acked

    def _insert(self, row: Row) -> None:
        self._db.execute("INSERT INTO rows VALUES (?, ?, ?, ?)", (row.seq, row.lane, row.topic, row.payload))
        self._at.stored += 1

    def _delete(self, numbers: Iterable[int]) -> None:
        for seq in numbers:
            self._db.execute("DELETE FROM rows WHERE seq = ?", (seq,))
            self._at.stored -= 1

    # ---- when it is full

    def _make_room(self, rows: Sequence[Row]) -> None:
        """Thin, then drop, until these rows fit; where nothing can go any more, SQLite refuses them."""
        size = sum(len(row.topic) + len(row.payload) + 64 for row in rows)
        need = _SLACK_PAGES + size // (_PAGE * 7 // 8) + sum(len(row.payload) > _PAGE // 8 for row in rows)
        while self._used_pages() + need > self._max_pages and self._shed():
            pass

    def _used_pages(self) -> int:
        return self._one("PRAGMA page_count") - self._one("PRAGMA freelist_count")

    def _shed(self) -> bool:
        """Give up one stretch of rows: data to an eighth of its rate, then the oldest data, then the oldest of all."""
        stretch = self._seqs(_DATA, self._at.thinned)
        if len(stretch) == _STRETCH:
            gone = [seq for place, seq in enumerate(stretch) if place % _KEEP_ONE_IN]
            first, self._at.thinned = stretch[0], stretch[-1]
            self._set_meta("thinned", self._at.thinned)
        else:
            gone = self._seqs(_DATA, 0) or self._seqs(_NO_GAP, 0)
            first = self._at.acked + 1
        if not gone:
            return False
        self._delete(gone)
        self._at.dropped += len(gone)
        self._set_meta("dropped", self._at.dropped)
        self._announce(first, gone[-1], "full")
        return True

    def _announce(self, first: int, last: int, reason: Literal["restart", "full"]) -> None:
        """Cover each number in [first, last] that has no row by a gap; gaps that lie inside are made anew."""
        inside = [
            seq for (seq,) in self._db.execute("SELECT seq FROM gaps WHERE first >= ? AND last <= ?", (first, last))
        ]
        self._delete(inside)
        self._db.executemany("DELETE FROM gaps WHERE seq = ?", [(seq,) for seq in inside])
        present = self._db.execute("SELECT seq FROM rows WHERE seq BETWEEN ? AND ? ORDER BY seq", (first, last))
        missing = list(_holes((seq for (seq,) in present), first, last))
        missing += _runs([seq for seq in inside if seq > last])
        for start, end in missing:
            self._reserve()
            gap = Gap(self._at.next, start, end, reason, self._at.dropped)
            self._insert(Row(gap.seq, "event", self._gap_topic, self._make_gap(gap)))
            self._db.execute("INSERT INTO gaps VALUES (?, ?, ?)", (gap.seq, start, end))
            self._at.next += 1

    # ---- SQL

    def _one(self, sql: str, *values: int) -> int:
        return int(self._db.execute(sql, values).fetchone()[0])

    def _seqs(self, sql: str, after: int) -> list[int]:
        return [seq for (seq,) in self._db.execute(sql, (after, _STRETCH))]

    def _set_meta(self, name: str, value: int) -> None:
        self._db.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as err:
        raise StoreError(f"outbox: {err}") from None


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _holes(present: Iterable[int], first: int, last: int) -> Iterator[tuple[int, int]]:
    """The stretches of [first, last] in which no number is present (rising)."""
    for seq in present:
        if seq > first:
            yield first, seq - 1
        first = seq + 1
    if first <= last:
        yield first, last


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Rising numbers as stretches without a hole."""
    start = 0
    for place in range(1, len(numbers) + 1):
        if place == len(numbers) or numbers[place] != numbers[place - 1] + 1:
            yield numbers[start], numbers[place - 1]
            start = place
