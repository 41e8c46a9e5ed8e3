"""The outbox: no number is ever lost in silence, whatever is killed, full, damaged or acknowledged."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.errors import StoreError
from edgerun.store.outbox import BLOCK, Gap, Lane, Outbox, Row, encode_gap
from edgerun.telemetry.messages import Event


def payload(size: int = 40) -> Callable[[int], bytes]:
    return lambda seq: b"%d " % seq + b"x" * size


def ranges(rows: list[Row]) -> list[tuple[int, int]]:
    """What the gap events among the rows cover."""
    events = (json.loads(row.payload) for row in rows if row.lane == "event" and row.payload.startswith(b"{"))
    return [(event["detail"]["from"], event["detail"]["to"]) for event in events if event["kind"] == "gap"]


def uncovered(box: Outbox) -> list[int]:
    """Numbers given out that are not acknowledged, in no row and in no gap. Always to be empty."""
    rows = box.pending(limit=10**9)
    covered = {row.seq for row in rows}.union(*(range(first, last + 1) for first, last in ranges(rows)))
    return [seq for seq in range(box.oldest, box.newest + 1) if seq not in covered]


@pytest.fixture
def open_box(tmp_path: Path) -> Iterator[Callable[..., Outbox]]:
    boxes: list[Outbox] = []

    def make(**options: int) -> Outbox:
        boxes.append(Outbox(tmp_path / "outbox.db", **options))
        return boxes[-1]

    yield make
    for box in boxes:
        box.abandon()


def test_numbers_rise_by_one_over_all_lanes_and_rows_come_back_in_order() -> None:
    box = Outbox(":memory:", batch_rows=4)
    lanes: list[Lane] = ["data", "event", "data", "data", "res", "data"]
    assert [box.add(lane, f"t/{lane}", payload()) for lane in lanes] == [1, 2, 3, 4, 5, 6]
    rows = box.pending()
    assert [(row.seq, row.lane, row.topic, row.payload) for row in rows] == [
        (seq, lane, f"t/{lane}", payload()(seq)) for seq, lane in enumerate(lanes, 1)
    ]
    assert [row.seq for row in box.pending(after=2, limit=3)] == [3, 4, 5]
    assert box.depth == 6
    assert (box.ack(4), box.depth, [row.seq for row in box.pending()]) == (4, 2, [5, 6])
    assert (box.oldest, box.newest) == (5, 6)
    box.close()


def test_acknowledging_again_or_from_another_life_changes_nothing() -> None:
    box = Outbox(":memory:")
    for _ in range(3):
        box.add("data", "t", payload())
    assert box.ack(2) == 2
    assert [box.ack(upto) for upto in (2, 1, 0, -5, 4, 10**6)] == [0] * 6
    assert [row.seq for row in box.pending()] == [3]
    box.close()


def test_a_clean_close_wastes_no_number_and_announces_nothing(open_box: Callable[..., Outbox]) -> None:
    box = open_box()
    box.add("data", "t", payload())
    box.close()
    again = open_box()
    assert again.add("event", "t", payload()) == 2
    assert ranges(again.pending()) == []


def test_after_a_kill_the_next_block_begins_and_one_gap_covers_the_rest(open_box: Callable[..., Outbox]) -> None:
    box = open_box()
    for _ in range(10):
        box.add("data", "t", payload())
    box.add("event", "t", payload())
    for _ in range(7):
        box.add("data", "t", payload())
    box.abandon()

    again = open_box()
    rows = again.pending()
    assert [row.seq for row in rows] == [*range(1, 12), BLOCK + 1]
    assert ranges(rows) == [(12, BLOCK)]
    gap = msgspec.json.decode(rows[-1].payload, type=Event)
    assert (gap.seq, gap.kind, gap.detail["reason"], rows[-1].lane) == (BLOCK + 1, "gap", "restart", "event")
    assert again.add("event", "t", payload()) == BLOCK + 2
    assert uncovered(again) == []


def test_reopening_after_many_kills_keeps_one_gap_for_each(open_box: Callable[..., Outbox]) -> None:
    for _ in range(3):
        box = open_box()
        box.add("data", "t", payload())
        box.abandon()
    box = open_box()
    assert uncovered(box) == []
    assert [row.seq for row in box.pending()] == [BLOCK + 1, 2 * BLOCK + 1, 3 * BLOCK + 1]
    assert ranges(box.pending()) == [(1, BLOCK), (BLOCK + 2, 2 * BLOCK), (2 * BLOCK + 2, 3 * BLOCK)]


def test_data_waits_in_memory_until_rows_or_time_or_an_event(tmp_path: Path) -> None:
    clock = itertools.count(0.0, 0.25)
    box = Outbox(tmp_path / "outbox.db", batch_rows=5, batch_s=1.0, now=lambda: next(clock))

    def survivors() -> int:
        copy = tmp_path / "copy"
        copy.mkdir(exist_ok=True)
        for name in ("outbox.db", "outbox.db-wal", "outbox.db.seq"):
            (copy / name).write_bytes((tmp_path / name).read_bytes())
        other = Outbox(copy / "outbox.db")
        rows = sum(row.lane == "data" for row in other.pending())
        other.abandon()
        return rows

    counts = []
    for _ in range(6):  # ticks of the clock: one at the start of a batch, one at each look
        box.add("data", "t", payload())
        counts.append(survivors())
    assert counts == [0, 0, 0, 4, 4, 4]
    box.add("event", "t", payload())
    assert survivors() == 6
    box.add("data", "t", payload())
    box.flush()
    assert survivors() == 7
    box.abandon()


def test_data_that_is_acknowledged_in_time_costs_no_flash(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox.db")
    box.add("data", "t", payload())
    wal = (tmp_path / "outbox.db-wal").stat()
    for _ in range(200):
        box.ack(box.add("data", "t", payload()))
    assert (tmp_path / "outbox.db-wal").stat().st_mtime_ns == wal.st_mtime_ns
    assert box.depth == 0
    box.close()


def test_a_message_that_cannot_be_encoded_or_is_too_long_takes_no_number() -> None:
    box = Outbox(":memory:")

    def broken(seq: int) -> bytes:
        raise KeyError(seq)

    with pytest.raises(KeyError):
        box.add("event", "t", broken)
    with pytest.raises(StoreError, match="payload of 65537 bytes is over 65536"):
        box.add("event", "t", lambda seq: bytes(65537))
    assert box.add("event", "t", payload()) == 1
    box.close()


def test_a_long_outage_stays_inside_the_bound_and_confesses_every_number(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox.db", max_mb=1)
    for tick in range(8000):
        box.add("data", "t", payload(800))
        if tick % 200 == 0:
            box.add("event", "e", payload(50))
        if tick % 500 == 0:
            assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1 << 20
    rows = box.pending(limit=10**9)
    assert uncovered(box) == []
    assert sum(row.topic == "e" for row in rows) == 40, "events outlive data"
    data = [row.seq for row in rows if row.lane == "data"]
    assert box.dropped == 8000 - len(data)
    assert sum(len(row.payload) for row in rows if row.lane == "data") > 350_000, "data holds most of the room"
    assert data[-1] - data[-60] < 120, "the newest is whole, but for the numbers of gaps"
    assert data[-1] - data[0] > 2500, "thinning reaches further back than the 900 rows that dropping would leave"
    box.abandon()
    again = Outbox(tmp_path / "outbox.db", max_mb=1)
    assert uncovered(again) == []
    assert again.dropped == 8000 - len(data)
    again.close()


def test_events_alone_are_bounded_too(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox.db", max_mb=1)
    for _ in range(400):
        box.add("event", "t", payload(8000))
    assert uncovered(box) == []
    assert box.dropped > 0
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1 << 20
    box.close()


def test_a_flush_that_fails_half_way_takes_nothing_in_and_miscounts_nothing(tmp_path: Path) -> None:
    broken = False

    def make_gap(gap: Gap) -> bytes:
        if broken:
            raise LookupError
        return encode_gap(gap)

    box = Outbox(tmp_path / "outbox.db", max_mb=1, make_gap=make_gap)
    while box.dropped == 0:
        box.add("data", "t", payload(800))
    box.flush()
    failures = 0
    for _ in range(40):
        broken, before = True, (box.depth, box.dropped, box.newest)
        try:
            box.add("event", "t", payload(8000))
        except LookupError:
            failures += 1
            assert (box.depth, box.dropped, box.newest) == before
        broken = False
        box.add("event", "t", payload(8000))
        assert box.depth == len(box.pending(limit=10**9))
    assert failures > 1
    assert uncovered(box) == []
    box.close()


def test_the_bound_holds_even_where_confessing_costs_more_than_it_frees(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox.db", max_mb=1, make_gap=lambda gap: bytes(60_000))

    def fill() -> None:
        for _ in range(20_000):
            box.add("data", "t", payload(800))

    with pytest.raises(StoreError, match="full"):
        fill()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1 << 20
    box.abandon()


def test_the_reservation_in_the_database_is_enough(open_box: Callable[..., Outbox], tmp_path: Path) -> None:
    box = open_box()
    box.add("data", "t", payload())
    box.abandon()
    (tmp_path / "outbox.db.seq").unlink()
    assert ranges(open_box().pending()) == [(1, BLOCK)]


ACTS = st.one_of(
    st.tuples(st.just("data"), st.integers(1, 30)),
    st.tuples(st.sampled_from(["event", "res", "flush", "kill", "close"]), st.just(1)),
    st.tuples(st.just("ack"), st.integers(0, 100)),
)


@settings(max_examples=25, deadline=None)
@given(acts=st.lists(ACTS, max_size=30))
def test_no_history_leaves_a_number_unexplained(
    acts: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("box") / "outbox.db"
    box, given_out, events = Outbox(path, max_mb=1, batch_rows=7), 0, set()
    acked = 0
    for act, amount in acts:
        if act in ("data", "event", "res"):
            lane: Lane = "event" if act == "event" else "res" if act == "res" else "data"
            for _ in range(amount):
                seq = box.add(lane, "t", payload(3000))
                assert seq > given_out
                given_out = seq
                if lane != "data":
                    events.add(seq)
        elif act == "flush":
            box.flush()
        elif act == "ack":
            acked = max(acked, box.oldest + (box.newest - box.oldest) * amount // 100)
            box.ack(acked)
        else:
            box.close() if act == "close" else box.abandon()
            box = Outbox(path, max_mb=1, batch_rows=7)
        assert uncovered(box) == []
        rows = box.pending(limit=10**9)
        assert box.depth == len(rows)
        if not box.dropped:
            assert {seq for seq in events if seq > acked} <= {row.seq for row in rows}
    box.abandon()


@pytest.mark.parametrize("damage", [b"", b"this is no database" * 400, b"SQLite format 3\0" + bytes(4080)])
def test_a_damaged_file_is_set_aside_and_numbers_never_repeat(
    open_box: Callable[..., Outbox], tmp_path: Path, damage: bytes
) -> None:
    box = open_box()
    for _ in range(5):
        newest = box.add("event", "t", payload())
    box.abandon()
    (tmp_path / "outbox.db").write_bytes(damage)
    (tmp_path / "outbox.db-wal").unlink(missing_ok=True)
    again = open_box()
    assert again.oldest == 1
    assert ranges(again.pending()) == [(1, BLOCK)]
    assert again.add("event", "t", payload()) > newest


def test_a_second_owner_is_refused(open_box: Callable[..., Outbox]) -> None:
    open_box().add("event", "t", payload())
    with pytest.raises(StoreError, match="locked"):
        open_box()


KILLED = """
import sys
from pathlib import Path
from edgerun.store.outbox import Outbox
box = Outbox(Path(sys.argv[1]), batch_rows=8)
print("open", flush=True)
while True:
    lane = "event" if box.newest % 5 == 0 else "data"
    seq = box.add(lane, "t", lambda seq: b"%d" % seq)
    print(lane, seq, flush=True)
"""


def test_kill_9_loses_no_event_and_at_most_one_batch_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    events: set[int] = set()
    data: set[int] = set()
    for life in range(6):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in itertools.islice(process.stdout, 40 + 7 * life):
            if line != "open\n":
                lane, seq = line.split()
                (events if lane == "event" else data).add(int(seq))
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read()
        for line in rest.splitlines(keepends=True):
            if line.endswith("\n"):
                lane, seq = line.split()
                (events if lane == "event" else data).add(int(seq))
        process.wait()
        process.stdout.close()
    box = Outbox(path)
    rows = box.pending(limit=10**9)
    stored = {row.seq for row in rows}
    assert events <= stored, "an acknowledged event was lost"
    lost = data - stored
    assert len(lost) <= 6 * 8, "more than a batch of data was lost in a life"
    assert all(any(first <= seq <= last for first, last in ranges(rows)) for seq in lost)
    assert uncovered(box) == []
    assert len(events) >= 6 * 6
    box.close()
