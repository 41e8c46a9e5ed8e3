"""The journal: what was committed is read back, in order and only if all before it is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.errors import StoreError
from edgerun.linux.disk import RealDisk
from edgerun.store.journal import MAX_RECORD_BYTES, Journal, JournalReader, read_epoch
from firmware_sim.flash import SimFlash

BUNDLE, OTHER = "ab" * 32, "cd" * 32
DIGEST = bytes(range(32))


def log(number: int) -> str:
    return f"journal/{BUNDLE}/{number:08d}.log"


def filled(disk: SimFlash, groups: list[list[bytes]], **options: int) -> Journal:
    journal = Journal(disk, BUNDLE, **options)
    for group in groups:
        for record in group:
            journal.append(record)
        journal.commit()
    return journal


def test_an_empty_journal_is_at_the_factory() -> None:
    journal = Journal(SimFlash(), BUNDLE)
    assert (journal.epoch, journal.first_epoch, journal.position, journal.full, journal.orphaned) == (
        0,
        0,
        (0, 0),
        False,
        False,
    )
    assert list(journal.records()) == []
    journal.commit()


def test_records_come_back_in_order_after_reopening(tmp_path: Path) -> None:
    journal = Journal(RealDisk(tmp_path), BUNDLE)
    for group in ([b"one", b"two"], [b"three"]):
        for record in group:
            journal.append(record)
        journal.commit()
    journal.append(b"never committed")
    again = Journal(RealDisk(tmp_path), BUNDLE)
    assert list(again.records()) == [b"one", b"two", b"three"]
    assert again.position == (0, 3)
    again.append(b"four")
    again.commit()
    assert list(JournalReader(RealDisk(tmp_path), BUNDLE).records(skip=2)) == [b"three", b"four"]


def test_one_commit_is_one_append_and_one_sync() -> None:
    disk = SimFlash()
    journal = Journal(disk, BUNDLE)
    before = disk.writes
    for _ in range(100):
        journal.append(b"record")
    assert disk.writes == before
    journal.commit()
    assert disk.writes == before + 2


def test_the_layout_is_this() -> None:
    disk = SimFlash()
    filled(disk, [[b"abc"]])
    data = disk.read(log(0)) or b""
    assert data[:8] == b"EDGEJNL1"
    assert data[24:56].hex() == BUNDLE
    assert (len(data), data[136:140], data[144:]) == (136 + 8 + 3, b"\x03\0\0\0", b"abc")


def test_epochs_chain_and_name_their_checkpoint() -> None:
    disk = SimFlash()
    journal = filled(disk, [[b"a", b"b"]])
    sealed = disk.read(log(0)) or b""
    journal.seal(DIGEST, 7, b"packed state")
    journal.append(b"c")
    journal.commit()
    first, second = JournalReader(disk, BUNDLE).epochs()
    assert (first.number, first.generation, first.base, first.records) == (0, 0, b"", (b"a", b"b"))
    assert (second.number, second.generation, second.digest, second.base) == (1, 7, DIGEST, b"packed state")
    assert second.previous == hashlib.sha256(sealed).digest() == first.sha256
    assert list(journal.records()) == [b"a", b"b", b"c"]
    assert list(journal.records(1)) == [b"c"]
    assert Journal(disk, BUNDLE).position == journal.position == (1, 1)


def test_sealing_commits_what_waits() -> None:
    disk = SimFlash()
    journal = Journal(disk, BUNDLE)
    journal.append(b"waiting")
    journal.seal(DIGEST, 1)
    assert JournalReader(disk, BUNDLE).epochs()[0].records == (b"waiting",)


def test_old_epochs_go() -> None:
    disk = SimFlash()
    journal = Journal(disk, BUNDLE, keep_epochs=3)
    for number in range(1, 8):
        journal.append(b"%d" % number)
        journal.seal(DIGEST, number)
        assert journal.first_epoch == max(0, number - 2)
    assert list(journal.records()) == [b"6", b"7"]
    assert disk.list(f"journal/{BUNDLE}") == [f"{number:08d}.log" for number in (5, 6, 7)]
    assert list(journal.records(4)) == [b"6", b"7"]


def test_it_is_bounded_even_when_nobody_seals() -> None:
    journal = Journal(SimFlash(), BUNDLE, segment_bytes=4096)
    journal.append(bytes(4096))
    journal.commit()
    assert journal.full
    for _ in range(2):
        journal.append(bytes(MAX_RECORD_BYTES // 2))
        journal.commit()
    journal.append(bytes(MAX_RECORD_BYTES // 2))
    with pytest.raises(StoreError, match="seal it"):
        journal.commit()
    journal.seal(DIGEST, 1)
    assert not journal.full


@pytest.mark.parametrize("length", [0, MAX_RECORD_BYTES + 1])
def test_a_record_has_bounds(length: int) -> None:
    with pytest.raises(StoreError, match=f"record of {length} bytes"):
        Journal(SimFlash(), BUNDLE).append(bytes(length))


def test_a_torn_tail_is_cut_off_and_writing_goes_on() -> None:
    for cut in range(1, 3 + 8):
        disk = SimFlash()
        filled(disk, [[b"one"], [b"two"]])
        disk.truncate(log(0), (disk.size(log(0)) or 0) - cut)
        journal = Journal(disk, BUNDLE)
        assert disk.size(log(0)) == 136 + 8 + 3
        assert list(journal.records()) == [b"one"]
        journal.append(b"new")
        journal.commit()
        assert list(Journal(disk, BUNDLE).records()) == [b"one", b"new"]


def test_a_reader_changes_nothing() -> None:
    disk = SimFlash()
    filled(disk, [[b"one"]])
    disk.append(log(0), b"torn")
    before, data = disk.writes, disk.read(log(0))
    assert list(JournalReader(disk, BUNDLE).records()) == [b"one"]
    assert (disk.writes, disk.read(log(0))) == (before, data)
    assert JournalReader(disk, OTHER).epochs() == []


def test_swapped_repeated_and_stale_records_are_not_read() -> None:
    disk = SimFlash()
    filled(disk, [[b"aaaa"], [b"bbbb"], [b"cccc"]])
    data = disk.read(log(0)) or b""
    head, a, b, c = data[:136], data[136:148], data[148:160], data[160:172]
    for frames, whole in ((b + a + c, 0), (a + a + b, 1), (a + c, 1), (a + b + b, 2), (a + bytes(24), 1)):
        epoch = read_epoch(head + frames, BUNDLE)
        assert epoch is not None
        assert epoch.records == (b"aaaa", b"bbbb", b"cccc")[:whole]


@given(records=st.lists(st.binary(min_size=1, max_size=20), max_size=8), data=st.data())
def test_the_reader_stops_at_the_first_damage(records: list[bytes], data: st.DataObject) -> None:
    disk = SimFlash(pages=16)
    filled(disk, [records])
    whole = disk.read(log(0)) or b""
    at = data.draw(st.integers(0, len(whole)))
    damaged = whole[:at] + data.draw(st.binary(max_size=30))
    damaged += data.draw(st.sampled_from((b"", whole[len(damaged) :], whole[at:])))
    ends = [136]
    for record in records:
        ends.append(ends[-1] + 8 + len(record))
    epoch = read_epoch(damaged, BUNDLE)
    same = next(
        (i for i, (x, y) in enumerate(zip(whole, damaged, strict=False)) if x != y), min(len(whole), len(damaged))
    )
    if same < 136:
        assert epoch is None
    else:
        assert epoch is not None
        assert epoch.records == tuple(records)[: sum(end <= same for end in ends[1:])]


@given(bit=st.integers(0, 8 * 172 - 1))
def test_a_flipped_bit_never_changes_a_record(bit: int) -> None:
    disk = SimFlash(pages=16)
    filled(disk, [[b"aaaa"], [b"bbbb"], [b"cccc"]])
    disk.flip_bit(log(0), bit)
    records = list(JournalReader(disk, BUNDLE).records())
    assert records == [b"aaaa", b"bbbb", b"cccc"][: max(0, (bit // 8 - 136) // 12)]


def test_a_damaged_middle_ends_the_chain_there() -> None:
    disk = SimFlash()
    journal = Journal(disk, BUNDLE)
    for number in range(1, 4):
        journal.append(b"record %d" % number)
        journal.seal(DIGEST, number)
    disk.flip_bit(log(1), 8 * 150)
    again = Journal(disk, BUNDLE)
    assert (again.first_epoch, again.epoch) == (2, 3)
    assert list(again.records()) == [b"record 3"]


def test_behind_a_damaged_newest_header_an_orphaned_epoch_begins() -> None:
    disk = SimFlash()
    journal = filled(disk, [[b"one"]])
    journal.seal(DIGEST, 1)
    journal.append(b"two")
    journal.commit()
    disk.flip_bit(log(1), 100)
    again = Journal(disk, BUNDLE)
    assert (again.epoch, again.orphaned, list(again.records())) == (2, True, [])
    assert Journal(disk, BUNDLE).orphaned
    again.seal(DIGEST, 2, b"state")
    assert (again.orphaned, again.first_epoch) == (False, 2)
    assert (again.read(0) or pytest.fail("epoch 0 went")).records == (b"one",)


class FullDisk(SimFlash):
    """Writes half of an append, then says that it is full."""

    refuse: Callable[[str], bool] = staticmethod(lambda path: False)

    def append(self, path: str, data: bytes) -> None:
        if self.refuse(path):
            super().append(path, data[: len(data) // 2])
            raise StoreError("full")
        super().append(path, data)


def test_a_refused_commit_leaves_no_trace() -> None:
    disk = FullDisk()
    journal = filled(disk, [[b"one"]])
    disk.refuse = lambda path: True
    journal.append(b"two, refused")
    journal.append(b"three, refused")
    with pytest.raises(StoreError, match="full"):
        journal.commit()
    assert list(JournalReader(disk, BUNDLE).records()) == [b"one"]
    disk.refuse = lambda path: False
    journal.append(b"four")
    journal.commit()
    assert list(Journal(disk, BUNDLE).records()) == [b"one", b"four"]


def test_wiping_erases_every_epoch() -> None:
    disk = SimFlash()
    journal = filled(disk, [[b"one"]])
    journal.seal(DIGEST, 3)
    journal.append(b"waits")
    journal.wipe()
    assert (journal.epoch, journal.position, list(journal.records())) == (0, (0, 0), [])
    assert disk.list(f"journal/{BUNDLE}") == ["00000000.log"]
    journal.commit()
    assert list(journal.records()) == []
