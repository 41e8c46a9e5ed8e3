"""What a device learned can be done again from its journal, bit for bit, and what was tampered with is found."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgerun import lifetime
from edgerun.bundle import Bundle, open_bundle
from edgerun.cli import main
from edgerun.commands import replay as command
from edgerun.commands.replay import Replayed, replay
from edgerun.encode import quantise
from edgerun.learn import records
from edgerun.learn.records import Boundary, Forget, NewClass, Settle
from edgerun.lifetime import Lifetime
from edgerun.linux.disk import RealDisk
from edgerun.spec import Level
from edgerun.store.checkpoints import Checkpoints
from edgerun.store.journal import Journal, JournalReader, read_epoch

Capture = pytest.CaptureFixture[str]
HEAD_BYTES = 136  # of an epoch's header with its checksum


@pytest.fixture
def small_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetime, "Journal", partial(Journal, segment_bytes=4096, keep_epochs=2))


@pytest.fixture
def bundle(digits_bundle: Path) -> Bundle:
    return open_bundle(digits_bundle)


def lessons(digits: Path, bundle: Bundle) -> Iterator[tuple[np.ndarray, int]]:
    """Field images of the factory's classes, quantised."""
    field = np.load(digits / "field.npz")
    for x, y in zip(field["x"], field["y"], strict=True):
        if y < 8:
            yield quantise(bundle.manifest.input, x), int(y)


def teach(life: Lifetime, digits: Path, count: int, level: Level = "full", skip: int = 0) -> None:
    for number, (q, label) in enumerate(lessons(digits, life.bundle)):
        if skip <= number < skip + count:
            life.teach(q, label, level, number)
    life.commit()


def epochs_of(groups: int, folder: Path, bundle: Bundle, digits: Path) -> Lifetime:
    """So many groups of lessons that were judged, and two lessons more; small epochs come to an end on the way."""
    life = Lifetime(bundle, RealDisk(folder))
    for group in range(groups):
        teach(life, digits, 24, "head", 24 * group)
        life.judge()
    teach(life, digits, 2, skip=200)
    return life


def a_life(folder: Path, bundle: Bundle, digits: Path) -> Lifetime:
    """Every kind of record, with a restart in the middle."""
    life = Lifetime(bundle, RealDisk(folder))
    teach(life, digits, 6)
    life.change(Boundary(reason="command"))
    life.judge()
    life.change(NewClass(label="mug"))
    life.teach(next(lessons(digits, bundle))[0], 8, "head", 0)
    life.change(Settle())
    life.commit()
    life = Lifetime(bundle, RealDisk(folder))
    teach(life, digits, 3, "light", 6)
    life.change(Forget(label=2))
    life.roll_back("last-good")
    teach(life, digits, 3, "sparse", 9)
    return life


def again(folder: Path, bundle: Bundle) -> Replayed:
    disk = RealDisk(folder)
    return replay(bundle, JournalReader(disk, bundle.id), Checkpoints(disk, bundle.id))


def test_every_kind_of_record_replays_to_the_same_bits(tmp_path: Path, bundle: Bundle, digits: Path) -> None:
    life = a_life(tmp_path, bundle, digits)
    done = again(tmp_path, bundle)
    assert done == Replayed(
        digest=life.digest(),
        digest_equal=True,
        first_difference=None,
        first_epoch=0,
        epochs=1,
        records=19,
        lessons=13,
        updates=life.learner.updates,
        checkpoint=2,
    )


def test_a_replay_begins_at_the_oldest_epoch_kept(
    tmp_path: Path, bundle: Bundle, digits: Path, small_epochs: None
) -> None:
    life = epochs_of(5, tmp_path, bundle, digits)
    done = again(tmp_path, bundle)
    assert (done.first_epoch, done.epochs, done.first_difference) == (life._journal.epoch - 1, 2, None)
    assert done.first_epoch >= 2
    assert done.digest == life.digest()
    assert done.lessons < life.learner.lessons


def test_a_bad_verdict_in_a_later_epoch_goes_back_to_what_the_epoch_began_with(
    tmp_path: Path, bundle: Bundle, digits: Path, small_epochs: None
) -> None:
    life = Lifetime(bundle, RealDisk(tmp_path))
    for group in range(3):
        teach(life, digits, 24, "head", 24 * group)
        life.judge()
    epoch = life._journal.epoch
    assert life._journal.position == (epoch, 0)
    good = life.learner.arrays()["head.sum"].copy()
    teach(life, digits, 4, skip=100)
    life._best = 2.0  # so that the guard is appalled
    assert not life.judge().good
    np.testing.assert_array_equal(life.learner.arrays()["head.sum"], good)
    for path in (tmp_path / "journal" / bundle.id).glob("*.log"):
        if int(path.stem) < epoch:
            path.unlink()
    done = again(tmp_path, bundle)
    assert (done.digest, done.first_epoch, done.lessons) == (life.digest(), epoch, 4)


def rewrite(path: Path, bundle: Bundle, place: int, entry: records.Entry) -> None:
    """Put another record into an epoch, with every checksum right: what a careful forger would do."""
    data = path.read_bytes()
    epoch = read_epoch(data, bundle.id)
    assert epoch is not None
    changed = [*epoch.records]
    changed[place] = records.encode(entry)
    start = HEAD_BYTES + len(epoch.base)
    out, crc = [data[:start]], zlib.crc32(data[: HEAD_BYTES - 4])
    for record in changed:
        length = len(record).to_bytes(4, "little")
        crc = zlib.crc32(record, zlib.crc32(length, crc))
        out.append(length + crc.to_bytes(4, "little") + record)
    path.write_bytes(b"".join(out))


def test_a_forged_lesson_is_found_at_the_next_digest(tmp_path: Path, bundle: Bundle, digits: Path) -> None:
    every = bundle.manifest.learning.guard.every
    life = Lifetime(bundle, RealDisk(tmp_path))
    teach(life, digits, every + 3, "head")
    path = tmp_path / "journal" / bundle.id / "00000000.log"
    epoch = read_epoch(path.read_bytes(), bundle.id)
    assert epoch is not None
    third = records.decode(epoch.records[2])
    assert isinstance(third, records.Lesson)
    rewrite(path, bundle, 2, msgspec.structs.replace(third, label=(third.label + 1) % 8))
    found = again(tmp_path, bundle).first_difference
    assert found is not None
    assert (found.epoch, found.record, found.lesson) == (0, every + 1, 0)
    assert f"the state before lesson {every + 1}" in found.what


def test_a_forged_last_lesson_is_found_at_the_checkpoint(
    tmp_path: Path, bundle: Bundle, digits: Path, digits_bundle: Path, capsys: Capture
) -> None:
    life = Lifetime(bundle, RealDisk(tmp_path))
    teach(life, digits, 3)
    life.checkpoint()
    path = tmp_path / "journal" / bundle.id / "00000000.log"
    last = records.decode(life._journal.epochs()[0].records[2])
    assert isinstance(last, records.Lesson)
    rewrite(path, bundle, 2, msgspec.structs.replace(last, label=(last.label + 1) % 8))
    assert main(["replay", str(tmp_path), "--bundle", str(digits_bundle)]) == 1
    assert "differs at epoch 0 record 3, equal to lesson 0: the newest checkpoint has" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes",
    [{"number": 9}, {"label": 99}, {"q": b"short"}, {"draws": [10**6]}],
    ids=["number", "label", "size", "draw"],
)
def test_a_record_that_cannot_follow_is_a_difference(
    tmp_path: Path, bundle: Bundle, digits: Path, changes: dict[str, object]
) -> None:
    life = Lifetime(bundle, RealDisk(tmp_path))
    teach(life, digits, 2)
    last = records.decode(life._journal.epochs()[0].records[1])
    assert isinstance(last, records.Lesson)
    rewrite(tmp_path / "journal" / bundle.id / "00000000.log", bundle, 1, msgspec.structs.replace(last, **changes))
    found = again(tmp_path, bundle).first_difference
    assert found is not None
    assert (found.record, "cannot follow" in found.what) == (2, True)


def test_the_command_says_equal_and_changes_nothing(
    tmp_path: Path, bundle: Bundle, digits: Path, digits_bundle: Path, capsys: Capture
) -> None:
    life = a_life(tmp_path / "state", bundle, digits)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["replay", str(tmp_path / "state"), "--bundle", str(digits_bundle)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert (out[-1], life.digest() in out[-2]) == ("equal", True)
    assert main(["replay", str(tmp_path / "state"), "--bundle", str(digits_bundle), "--json"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out, type=Replayed).digest == life.digest()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_long_replay_tells_how_far_it_is(
    tmp_path: Path, bundle: Bundle, digits: Path, digits_bundle: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(Lifetime(bundle, RealDisk(tmp_path)), digits, 2)
    monkeypatch.setattr(command, "PROGRESS_S", 0.0)
    assert main(["replay", str(tmp_path), "--bundle", str(digits_bundle)]) == 0
    assert capsys.readouterr().err == "1 of 2 records\n2 of 2 records\n"


def test_what_cannot_be_replayed_is_refused_with_one_line(
    tmp_path: Path, bundle: Bundle, digits: Path, digits_bundle: Path, mlp_bundle: Path, capsys: Capture
) -> None:
    state, absent = tmp_path / "state", tmp_path / "absent"
    life = Lifetime(bundle, RealDisk(state))
    teach(life, digits, 3)
    life.checkpoint()
    log = next((state / "journal").rglob("*.log"))
    empty, cut, headless = tmp_path / "empty", tmp_path / "cut", tmp_path / "headless"
    empty.mkdir()
    for copy, data in ((cut, log.read_bytes()[:-1]), (headless, b"\0" + log.read_bytes()[1:])):
        shutil.copytree(state, copy)
        (copy / log.relative_to(state)).write_bytes(data)
    for folder, model, line in (
        (absent, digits_bundle, f"{absent} is no folder"),
        (empty, digits_bundle, f"{empty} holds no journal"),
        (state, mlp_bundle, f"{state} was learned on bundle {bundle.id}, not on {open_bundle(mlp_bundle).id}"),
        (cut, digits_bundle, "the journal is damaged: the checkpoint stands at epoch 0 record 3, the journal ends at"),
        (headless, digits_bundle, "the journal is damaged: no epoch of it can be read"),
        (state, log, f"{log}: "),
    ):
        assert main(["replay", str(folder), "--bundle", str(model)]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"edgerun: {line}")
        assert err.count("\n") == 1
    assert not absent.exists()


# ------------------------------------------------------------------ the same records, at a start of the device


def test_a_start_over_damaged_checkpoints_keeps_every_committed_lesson_twice(
    tmp_path: Path, bundle: Bundle, digits: Path
) -> None:
    """Recovery repeats the verdicts in the journal; what it saves must not claim to stand where the journal ends."""
    life = Lifetime(bundle, RealDisk(tmp_path))
    teach(life, digits, 3)
    life.judge()
    teach(life, digits, 2, skip=3)
    for slot in (tmp_path / "learned" / bundle.id).glob("slot-*"):
        slot.write_bytes(b"rotten")
    for _ in range(2):
        assert Lifetime(bundle, RealDisk(tmp_path)).digest() == life.digest()


def test_a_start_over_damaged_checkpoints_stands_on_the_newest_epochs_base(
    tmp_path: Path, bundle: Bundle, digits: Path, small_epochs: None
) -> None:
    life = epochs_of(4, tmp_path, bundle, digits)
    assert life._journal.epochs()[0].number > 0
    for slot in (tmp_path / "learned" / bundle.id).glob("slot-*"):
        slot.write_bytes(b"rotten")
    assert Lifetime(bundle, RealDisk(tmp_path)).digest() == life.digest()
    assert again(tmp_path, bundle).digest == life.digest()


def test_an_epoch_that_cannot_be_read_is_left_behind(tmp_path: Path, bundle: Bundle, digits: Path) -> None:
    life = Lifetime(bundle, RealDisk(tmp_path))
    teach(life, digits, 3)
    life.judge()
    teach(life, digits, 2, skip=3)
    life.checkpoint()
    log = next((tmp_path / "journal").rglob("*.log"))
    log.write_bytes(b"\0" + log.read_bytes()[1:])
    life = Lifetime(bundle, RealDisk(tmp_path))
    assert life.learner.lessons == 5
    teach(life, digits, 2, skip=5)
    life._best = 2.0
    assert not life.judge().good
    done = again(tmp_path, bundle)
    assert (done.digest, done.digest_equal, done.first_epoch) == (life.digest(), True, 2)
