"""The dashboard's store: numbers, gaps, duplicates, liveness, and what a reader sees."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.dashboard.history import MAX_NODES, Arrival, Arriving, History
from deploy.dashboard.reading import CollectorStats, Reader, bucket_ms, status
from deploy.dashboard.sentences import SENTENCES, describe
from edgerun.errors import DataError, StoreError
from edgerun.telemetry.messages import EVENT_KINDS, Ack, Birth, Data, Event, Result, State

NODE = "lab/n1"


def data(seq: int, *, t: int = 1000, value: float | None = 0.5, sid: int = 1, hist: bool = False) -> Data:
    return Data(sid=sid, seq=seq, t=[t], m={"accuracy": [value]}, hist=hist)


def event(seq: int, kind: str = "drift", **detail: Any) -> Event:
    return Event(sid=1, seq=seq, t=1000, kind=kind, detail=detail)


def gap(seq: int, first: int, last: int) -> Event:
    return event(seq, "gap", **{"from": first, "to": last})


def birth(sid: int = 1, **changes: Any) -> Birth:
    fields = {
        "sid": sid, "ts": 1, "bundle": "ab" * 32, "bundle_name": "digits", "runtime": "0.1.0", "board": "pico2",
        "classes": ["0", "1"], "capacity": 4, "heartbeat_s": 10.0, "metrics": {}, "verbs": [], "allow_unsigned": True,
    }  # fmt: skip
    return Birth(**{**fields, **changes})


class Store:
    """A history and its reader, for statements of one line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.history = History(path)
        self.reader = Reader(path)

    def put(self, *messages: Arriving, live: bool = True, now_ms: int = 5000, node: str = NODE) -> int | None:
        """The acknowledged number after one commit."""
        commit = self.history.commit([Arrival(node, message, live) for message in messages], now_ms)
        return commit.acks[0][1].upto if commit.acks else None

    @property
    def stats(self) -> CollectorStats:
        return self.reader.stats(NODE)

    def card(self, now_ms: int = 5000) -> dict[str, Any]:
        return self.reader.nodes(now_ms)[0]


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Store]:
    """A store that has heard nothing."""
    made = Store(tmp_path / "h.db")
    yield made
    made.history.close()


@pytest.fixture
def store(fresh: Store) -> Store:
    """A store that knows a new-born device."""
    fresh.put(birth(oldest=1), live=False)
    return fresh


def test_numbers_in_order_are_acknowledged_as_they_come(store: Store) -> None:
    assert [store.put(data(n)) for n in (1, 2, 3)] == [1, 2, 3]
    assert store.stats == CollectorStats(received=3, duplicates=0, missing=0, upto=3, gaps=0)


def test_a_hole_holds_the_acknowledgement_back_until_it_is_filled(store: Store) -> None:
    store.put(data(1))
    assert store.put(data(4)) == 1
    assert store.stats.missing == 2
    assert store.put(data(2), data(3)) == 4
    assert store.stats.missing == 0


def test_duplicates_are_dropped_and_counted(store: Store) -> None:
    store.put(data(1, value=0.25))
    assert store.put(data(1, value=0.75)) == 1, "the device hears again that it may forget"
    assert store.stats == CollectorStats(received=1, duplicates=1, missing=0, upto=1, gaps=0)
    assert store.card()["values"] == {"accuracy": 0.25}


def test_every_lane_shares_the_numbers(store: Store) -> None:
    result = Result(id="x", sid=1, seq=3, t=1, verb="teach", status="done")
    assert store.put(data(1), event(2), result) == 3
    assert store.put(event(1)) == 3
    assert store.stats.duplicates == 1


def test_an_announced_gap_is_not_missing(store: Store) -> None:
    assert store.put(data(1), gap(4097, 2, 4096), data(4098)) == 4098
    assert store.stats == CollectorStats(received=3, duplicates=0, missing=0, upto=4098, gaps=1)


def test_what_comes_after_its_gap_was_announced_is_kept(store: Store) -> None:
    store.put(data(1), gap(4, 2, 3))
    assert store.put(data(2, t=2000)) == 4
    assert store.stats == CollectorStats(received=3, duplicates=0, missing=0, upto=4, gaps=1)


@pytest.mark.parametrize(
    "detail",
    [{}, {"from": 2}, {"from": 3, "to": 2}, {"from": 0, "to": 2}, {"from": 2, "to": 10}, {"from": "2", "to": "3"}],
    ids=str,
)
def test_a_gap_that_makes_no_sense_covers_nothing(store: Store, detail: dict[str, Any]) -> None:
    assert store.put(data(1), event(10, "gap", **detail)) == 1
    assert store.stats.missing == 8


def test_a_collector_that_begins_in_mid_life_counts_from_the_first_number_it_sees(fresh: Store) -> None:
    assert fresh.put(data(501), data(500)) is None, "nothing is known of this device yet"
    assert fresh.put(birth(), live=False) == 501
    assert fresh.stats == CollectorStats(received=2, duplicates=0, missing=0, upto=501, gaps=0)


def test_a_device_that_says_where_it_begins_is_believed(fresh: Store) -> None:
    assert fresh.put(data(13)) is None
    assert fresh.put(birth(oldest=11), live=False) == 10, "11 and 12 are still in its outbox"
    assert fresh.put(data(11), data(12)) == 13


def test_a_later_birth_cannot_cover_what_went_missing(store: Store) -> None:
    assert store.put(data(1), data(9), birth(sid=2, oldest=9)) == 1
    assert store.stats.missing == 7


def test_an_earlier_collector_tells_where_to_begin(store: Store) -> None:
    store.put(data(402))
    assert store.put(Ack(collector="old", sid=1, upto=400), live=False) is None
    assert store.put(data(401)) == 402


def test_our_own_acknowledgement_come_back_covers_nothing(store: Store) -> None:
    store.put(data(1))
    store.put(Ack(collector=store.history.identity, sid=1, upto=99), live=False)
    assert store.put(data(50)) == 1


def test_a_death_of_an_older_session_is_ignored(store: Store) -> None:
    store.put(birth(sid=8), State(online=True, sid=8, mode="learning"))
    store.put(State(online=False, sid=7, reason="lost"))
    assert (store.card()["status"], store.card()["mode"]) == ("online", "learning")
    store.put(State(online=False, sid=8, reason="lost"))
    assert (store.card()["status"], store.card()["reason"]) == ("offline", "lost")


def test_three_missed_heartbeats_are_stale_and_retained_copies_are_no_heartbeat(store: Store) -> None:
    store.put(birth(heartbeat_s=10.0), State(online=True, sid=1), now_ms=5000)
    store.put(birth(heartbeat_s=10.0), now_ms=90_000, live=False)
    assert store.card(now_ms=35_000)["status"] == "online"
    assert store.card(now_ms=35_001)["status"] == "stale"


def test_status_is_what_the_device_said_last() -> None:
    assert status(False, 10, 3.0, 10) == "offline"


def test_everything_survives_reopening(store: Store) -> None:
    store.put(birth(), State(online=True, sid=1), data(1), data(3), gap(9, 5, 8))
    before, identity = store.card(), store.history.identity
    store.history.close()
    store.history = History(store.path)
    assert store.card() == before
    assert store.history.identity == identity
    assert store.put(data(2)) == 3
    assert store.history.cursor == 3


def test_a_refused_commit_changes_nothing(store: Store) -> None:
    store.put(data(1))
    store.history._db.execute("PRAGMA max_page_count = 1")  # a full disk, as far as SQLite can tell
    arrivals = [Arrival(f"lab/m{n}", data(k, t=k), True) for n in range(40) for k in range(1, 40)]
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.history.commit(arrivals, 0)
    store.history._db.execute("PRAGMA max_page_count = 1000000")
    assert [card["node"] for card in store.reader.nodes(0)] == [NODE]
    assert store.put(data(2)) == 2
    assert store.put(birth(oldest=1), data(1), node="lab/m0") == 1


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match=r"history .*h\.db: file is not a database"):
        History(path)


def test_a_flood_of_names_is_bounded(store: Store) -> None:
    arrivals = [Arrival(f"x/n{n}", State(online=True, sid=1), True) for n in range(MAX_NODES + 2)]
    assert store.history.commit(arrivals, 0).refused == 3


def test_series_are_bucketed_on_one_axis(store: Store) -> None:
    times = list(range(0, 1000, 10))
    columns = {"accuracy": [float(t) for t in times], "drift": [None, *[1.0] * 99]}
    store.put(Data(sid=1, seq=1, t=times, m=columns))
    got = store.reader.series(NODE, ["accuracy", "drift", "nonsense"], 0, None, 10)
    assert got["bucket_ms"] == 100
    assert got["series"]["accuracy"]["t"] == list(range(0, 1000, 100)) == got["series"]["drift"]["t"]
    first = [got["series"]["accuracy"][part][0] for part in ("min", "max", "mean")]
    assert first == [0.0, 90.0, 45.0]
    assert got["series"]["nonsense"] == {"t": [], "min": [], "max": [], "mean": []}


@given(start=st.integers(0, 10**12), length=st.integers(0, 10**10), points=st.integers(1, 3000))
def test_buckets_never_exceed_what_was_asked(start: int, length: int, points: int) -> None:
    width = bucket_ms(start, start + length, points)
    assert (start + length) // width - start // width + 1 <= points + 1


def test_the_time_axis_ends_where_the_device_says_now(store: Store) -> None:
    store.put(data(1, t=9_000_000))  # its clock was wrong
    store.put(data(2, t=2000))
    store.put(data(3, t=500, hist=True))
    card = store.card()
    assert (card["first_ts"], card["last_ts"]) == (500, 2000)


def test_events_are_newest_first_and_can_be_followed(store: Store) -> None:
    store.put(event(1, "drift", statistic=3.5), event(2, "taught", label="mug"), event(3))
    ids = [line["id"] for line in store.reader.events(NODE, 0, 10)]
    assert ids == sorted(ids, reverse=True)
    assert [line["kind"] for line in store.reader.events(None, ids[-1], 10)] == ["drift", "taught"]
    assert store.reader.events(NODE, 0, 10)[1]["text"] == "An operator taught “mug”"
    with pytest.raises(DataError, match="node 'no/where' has never been heard of"):
        store.reader.events("no/where", 0, 10)


def test_a_result_is_told_as_a_command(store: Store) -> None:
    store.put(Result(id="7", sid=1, seq=1, t=1, verb="teach", status="rejected", detail={"reason": "expired"}))
    assert store.reader.events(NODE, 0, 1)[0]["text"] == "Command teach: rejected, expired"


def test_every_kind_of_event_has_its_sentence() -> None:
    assert set(SENTENCES) == {*EVENT_KINDS, "command"}


@pytest.mark.parametrize("kind", [*SENTENCES, "from-a-newer-runtime"])
def test_no_field_of_an_event_is_lost_in_its_sentence(kind: str) -> None:
    detail = {"label": "a{b}c", "reason": "r", "verb": "v", "status": "s", "novel": [1, {"x": 2.0}], "value": 0.123456}
    text = describe(kind, detail)
    assert all(part in text for part in ("a{b}c", "r", "[1,{", "0.1235"))


@st.composite
def lives(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """A shuffled delivery, with repeats, of numbered messages and announcements of gaps."""
    top = draw(st.integers(1, 30))
    lost = draw(st.sets(st.integers(2, top), max_size=10)) if top > 1 else set()
    sent = [("data", n, n) for n in range(1, top + 1) if n not in lost]
    told = [n for n in sorted(lost) if draw(st.booleans())]
    starts = [n for n in told if n - 1 not in told]
    gaps = [("gap", n, next(m for m in range(n, top + 1) if m + 1 not in told)) for n in starts]
    order = draw(st.permutations(sent[1:] + gaps))
    return [sent[0], *order, *draw(st.lists(st.sampled_from(sent), max_size=5))]


@given(life=lives())
def test_the_books_always_balance(life: list[tuple[str, int, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Against the definition, counted the slow way, after every message."""
    path = tmp_path_factory.mktemp("books") / "h.db"
    store = Store(path)
    store.put(birth(oldest=1))
    seen, given_up, duplicates, number = set[int](), set[int](), 0, itertools.count(1000)
    for kind, first, last in life:
        seq = first if kind == "data" else next(number)
        upto = store.put(data(seq) if kind == "data" else gap(seq, first, last))
        duplicates += seq in seen
        seen.add(seq)
        given_up |= set(range(first, last + 1)) if kind == "gap" else set()
        done = seen | given_up
        expected = next(n for n in itertools.count() if n + 1 not in done)
        missing = len(set(range(1, max(seen) + 1)) - done)
        assert upto == expected
        assert store.stats == CollectorStats(len(seen), duplicates, missing, expected, sum(n >= 1000 for n in seen))
    store.history.close()
