"""The power is cut at every write, and at every write it is lost, torn or kept: nothing committed is ever lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgerun.errors import StoreError
from edgerun.store.checkpoints import Checkpoints
from edgerun.store.files import finish_wipe, wipe_learned
from edgerun.store.journal import Journal, JournalReader
from edgerun.store.slots import Slots
from firmware_sim.flash import FATES, KEEPS, Fate, Keep, PowerCut, SimFlash

A, B, C = "aa" * 32, "bb" * 32, "cc" * 32
SEEDS = range(4)  # a torn write has a torn place
LONG = bytes(range(256)) * 5  # several pages of 256


def after_every_cut(
    prepare: Callable[[SimFlash], object], act: Callable[[SimFlash], object]
) -> Iterator[tuple[SimFlash, bool]]:
    """What a reboot finds after `prepare`, then `act` cut short at its first, second, third... write, in every way.

    Ends with the uncut run; the flag says whether `act` had returned.
    """
    for fate, keep, seed in itertools.product(FATES, KEEPS, SEEDS):
        for cut in itertools.count(1):
            flash = SimFlash(seed=1000 * seed + cut, page_bytes=256, pages=256)
            prepare(flash)
            flash.cut_power_after(cut, fate)
            try:
                act(flash)
            except PowerCut:
                yield flash.reboot(keep), False
            else:
                yield flash.reboot(keep), True
                break
        assert cut > 2, "the act wrote something"


def test_a_checkpoint_is_the_old_one_or_the_new_one() -> None:
    def prepare(flash: SimFlash) -> None:
        store = Checkpoints(flash, A)
        for number in range(3):
            store.save(b"old %d" % number + LONG)
        store.mark_good(1)

    old, new = b"old 2" + LONG, b"new" + LONG + LONG
    for flash, done in after_every_cut(prepare, lambda flash: Checkpoints(flash, A).save(new)):
        store = Checkpoints(flash, A)
        assert store.load() in ([(4, new)] if done else [(3, old), (4, new)])
        assert store.load_generation(3) == old
        assert store.good() == 1
        assert store.load_generation(1) == b"old 0" + LONG
        generation = store.save(b"next")
        assert generation >= 4
        assert store.load() == (generation, b"next")


def test_the_first_checkpoint_is_there_or_not() -> None:
    for flash, done in after_every_cut(lambda flash: None, lambda flash: Checkpoints(flash, A).save(LONG)):
        store = Checkpoints(flash, A)
        assert store.load() in ([(1, LONG)] if done else [None, (1, LONG)])
        assert store.load() == Checkpoints(flash.reboot("none"), A).load(), "what a start reads, the next start reads"


def test_the_good_mark_is_on_the_old_or_the_new() -> None:
    def prepare(flash: SimFlash) -> None:
        store = Checkpoints(flash, A)
        for _ in range(3):
            store.save(LONG)
        store.mark_good(1)

    for flash, done in after_every_cut(prepare, lambda flash: Checkpoints(flash, A).mark_good(3)):
        assert Checkpoints(flash, A).good() in ([3] if done else [1, 3])
        assert Checkpoints(flash, A).generations() == [1, 2, 3]


GROUPS = [[b"one"], [b"two" + LONG, b"three"], [b"four"]]


def test_committed_records_survive_and_others_come_whole_or_not_at_all() -> None:
    committed: list[bytes] = []

    def prepare(flash: SimFlash) -> None:
        committed.clear()
        Journal(flash, A)

    def act(flash: SimFlash) -> None:
        journal = Journal(flash, A)
        for group in GROUPS:
            for record in group:
                journal.append(record)
            journal.commit()
            committed.extend(group)

    everything = [record for group in GROUPS for record in group]
    for flash, done in after_every_cut(prepare, act):
        journal = Journal(flash, A)
        records = list(journal.records())
        assert records == everything[: len(records)]
        assert len(records) >= len(committed)
        assert not done or records == everything
        journal.append(b"goes on")
        journal.commit()
        survived = flash.reboot("none")
        assert list(Journal(survived, A).records()) == [*records, b"goes on"]


def test_what_a_start_after_a_kill_has_read_outlives_the_next_power_cut() -> None:
    flash, twin = SimFlash(), SimFlash()
    for disk, records in ((flash, [b"one"]), (twin, [b"one", b"two"])):
        journal = Journal(disk, A)
        for record in records:
            journal.append(record)
        journal.commit()
    path = f"journal/{A}/00000000.log"
    flash.append(path, (twin.read(path) or b"")[flash.size(path) or 0 :])  # killed between the append and its sync
    assert list(Journal(flash, A).records()) == [b"one", b"two"]
    assert list(Journal(flash.reboot("none"), A).records()) == [b"one", b"two"]


def test_a_wipe_cut_short_is_gone_through_with_at_the_next_start() -> None:
    def prepare(flash: SimFlash) -> None:
        for bundle in (A, B):
            Checkpoints(flash, bundle).save(b"learned")
            journal = Journal(flash, bundle)
            journal.append(b"lesson")
            journal.commit()
        Slots(flash).install(b"bundle", A)

    for flash, done in after_every_cut(prepare, wipe_learned):
        wiped = finish_wipe(flash) or done
        states = {Checkpoints(flash, bundle).load() for bundle in (A, B)}
        lessons = {tuple(JournalReader(flash, bundle).records()) for bundle in (A, B)}
        assert (states, lessons) in [({None}, {()}), ({(1, b"learned")}, {(b"lesson",)})][: 1 if wiped else 2]
        assert Slots(flash).read(A) == b"bundle"
        assert not finish_wipe(flash)


def test_the_first_opening_of_a_journal_can_be_cut_anywhere() -> None:
    for flash, _ in after_every_cut(lambda flash: None, lambda flash: Journal(flash, A).epoch):
        journal = Journal(flash, A)
        assert (journal.epoch, journal.orphaned, list(journal.records())) == (0, False, [])


def test_sealing_changes_the_epoch_and_loses_no_record() -> None:
    def prepare(flash: SimFlash) -> None:
        journal = Journal(flash, A, keep_epochs=2)
        for number in range(1, 3):
            journal.append(b"record %d" % number)
            journal.seal(bytes([number]) * 32, number, LONG)
        journal.append(b"last")
        journal.commit()

    for flash, done in after_every_cut(
        prepare, lambda flash: Journal(flash, A, keep_epochs=2).seal(b"\3" * 32, 3, b"base" + LONG)
    ):
        seen = [epoch.number for epoch in JournalReader(flash, A).epochs()]
        assert seen in ([[2, 3]] if done else [[1, 2], [2, 3], [1, 2, 3]])
        journal = Journal(flash, A, keep_epochs=2)
        newest = journal.epochs()[-1]
        assert (newest.number, newest.generation, newest.base) in ((2, 2, LONG), (3, 3, b"base" + LONG))
        assert list(journal.records(2)) == [b"last"]
        assert journal.first_epoch == journal.epoch - 1
        journal.append(b"goes on")
        journal.commit()
        assert list(journal.records(2)) == [b"last", b"goes on"]


def test_a_wipe_that_has_ended_does_not_come_back_for_what_is_learned_after_it() -> None:
    flash = SimFlash()
    Checkpoints(flash, A).save(b"before")
    wipe_learned(flash)
    Checkpoints(flash, A).save(b"after")
    restarted = flash.reboot("none")
    assert not finish_wipe(restarted)
    assert Checkpoints(restarted, A).load() == (1, b"after")


def committed_pair(flash: SimFlash) -> None:
    slots = Slots(flash)
    for bundle in (A, B):
        slots.install(bundle.encode() + LONG, bundle)
        slots.stage(bundle)
        slots.begin()
        slots.commit()
    Checkpoints(flash, B).save(b"learned on B")


def on_trial(flash: SimFlash) -> None:
    committed_pair(flash)
    slots = Slots(flash)
    slots.install(C.encode() + LONG, C)
    slots.stage(C)
    slots.begin()


def sound(flash: SimFlash) -> tuple[str, bool]:
    """Start the device: what it runs is whole, and so is what was learned on the bundle of before."""
    bundle, trial = Slots(flash).begin()
    assert Slots(flash).read(bundle) == bundle.encode() + LONG
    assert Checkpoints(flash, B).load() == (1, b"learned on B")
    return bundle, trial


def test_installing_and_staging_cut_short_leaves_the_current_bundle() -> None:
    def act(flash: SimFlash) -> None:
        Slots(flash).install(C.encode() + LONG, C)
        Slots(flash).stage(C)

    for flash, done in after_every_cut(committed_pair, act):
        assert sound(flash) in ([(C, True)] if done else [(B, False), (C, True)])
        assert (Slots(flash).current, Slots(flash).previous) == (B, A)


def test_a_commit_cut_short_is_finished_or_tried_again() -> None:
    for flash, done in after_every_cut(on_trial, lambda flash: Slots(flash).commit()):
        bundle, trial = sound(flash)
        slots = Slots(flash)
        assert (bundle, trial) in ([(C, False)] if done else [(C, True), (C, False)])
        assert (slots.current, slots.previous) == ((B, A) if trial else (C, B))


def test_a_roll_back_cut_short_runs_the_old_or_the_older() -> None:
    for flash, done in after_every_cut(on_trial, lambda flash: Slots(flash).roll_back()):
        assert sound(flash) in ([(B, False)] if done else [(B, False), (C, True)])
    for flash, done in after_every_cut(committed_pair, lambda flash: Slots(flash).roll_back()):
        assert sound(flash) in ([(A, False)] if done else [(A, False), (B, False)])


def test_a_try_is_spent_before_the_bundle_is_loaded() -> None:
    flash = SimFlash(page_bytes=256, pages=256)
    on_trial(flash)
    begun = []
    for _ in range(4):  # the power goes right after begin has returned
        flash = flash.reboot("none")
        begun.append(Slots(flash).begin())
    assert begun == [(C, True), (C, True), (B, False), (B, False)]


# ------------------------------------------------------------------ the flash itself


def test_nothing_is_durable_before_both_syncs() -> None:
    def flash(*, file: bool, folder: bool) -> SimFlash:
        made = SimFlash()
        made.write("f/name", b"data")
        if file:
            made.sync("f/name")
        if folder:
            made.sync_dir("f")
        return made.reboot("none")

    assert flash(file=True, folder=False).read("f/name") is None
    assert flash(file=False, folder=True).read("f/name") == b""
    assert flash(file=True, folder=True).read("f/name") == b"data"


def test_a_rename_or_removal_that_was_not_synced_may_be_undone() -> None:
    def flash(keep: Keep, seed: int = 0) -> SimFlash:
        made = SimFlash(seed=seed)
        for name in ("f/old", "f/new", "f/gone"):
            made.write(name, name.encode())
            made.sync(name)
        made.sync_dir("f")
        made.rename("f/new", "f/old")
        made.remove("f/gone")
        return made.reboot(keep)

    assert {name: flash("none").read(f"f/{name}") for name in flash("none").list("f")} == {
        "old": b"f/old", "new": b"f/new", "gone": b"f/gone",
    }  # fmt: skip
    assert flash("all").list("f") == ["old"]
    found = {tuple(flash("some", seed).list("f")) for seed in range(20)}
    assert found == {("gone", "new", "old"), ("gone", "old"), ("old",)}, "a folder's changes survive in their order"


def test_an_unsynced_write_survives_in_every_mixture_of_pages() -> None:
    seen = set()
    for seed in range(300):
        flash = SimFlash(seed=seed, page_bytes=4)
        flash.write("f", b"oooooooo")
        flash.sync("f")
        flash.write("f", b"nnnnnnnn")
        seen.add(flash.reboot().read("f"))
    assert {b"oooooooo", b"nnnnnnnn", b"nnnnoooo", b"oooonnnn", b"nnoooooo"} <= seen


@pytest.mark.parametrize("fate", FATES)
def test_the_fatal_write_has_the_fate_that_was_asked_for(fate: Fate) -> None:
    flash = SimFlash(seed=1)
    flash.cut_power_after(2, fate)
    flash.write("f", b"")
    with pytest.raises(PowerCut, match=f"write 2, which was {fate}"):
        flash.append("f", bytes(1000))
    for call in (lambda: flash.read("f"), lambda: flash.write("f", b""), lambda: flash.sync("f")):
        with pytest.raises(PowerCut, match="off"):
            call()
    size = flash.reboot("all").size("f") or 0
    assert {"lost": size == 0, "torn": 0 < size < 1000, "kept": size == 1000}[fate]


def test_the_same_seed_brings_the_same_luck() -> None:
    def found(seed: int) -> list[bytes | None]:
        flash = SimFlash(seed=seed, page_bytes=64)
        for number in range(5):
            flash.write(f"f/{number}", bytes([number]) * 200)
        again = flash.reboot()
        return [again.read(f"f/{number}") for number in range(5)]

    assert found(3) == found(3)
    assert len({str(found(seed)) for seed in range(10)}) > 5


def test_a_power_cut_is_no_ordinary_exception() -> None:
    assert not issubclass(PowerCut, Exception)
    with pytest.raises(ValueError, match="writes 0"):
        SimFlash().cut_power_after(0)


def test_pages_wear_evenly_and_worn_ones_are_retired_until_the_flash_is_full() -> None:
    flash = SimFlash(page_bytes=100, pages=10, endurance=20)
    flash.write("f/a", bytes(250))
    flash.sync("f/a")
    assert sum(flash.wear) == 3
    flash.append("f/a", bytes(40))
    flash.sync("f/a")
    assert sum(flash.wear) == 4, "an append programs only the page that it ends in"

    def wear_out() -> None:
        while True:
            flash.write("f/b", bytes(100))
            flash.sync("f/b")

    with pytest.raises(StoreError, match="flash is full"):
        wear_out()
    assert flash.retired >= 6
    assert max(flash.wear) == 20
    assert flash.reboot().wear == flash.wear


def test_a_file_that_goes_gives_its_pages_back() -> None:
    flash = SimFlash(page_bytes=100, pages=12)
    for number in range(50):
        flash.write("f/new", bytes(500))
        flash.sync("f/new")
        flash.rename("f/new", "f/name")
        flash.sync_dir("f")
        if number % 3 == 0:
            flash.remove("f/name")
            flash.sync_dir("f")


def test_the_image_shows_what_is_durable_and_can_be_taken_up_again(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(b"not the flash's")
    flash = SimFlash(image=tmp_path)
    assert flash.size("outbox.db") is None
    store = Checkpoints(flash, A)
    store.save(b"state")
    flash.write("f/unsynced", b"x")
    assert not (tmp_path / "f" / "unsynced").exists()
    assert Checkpoints(SimFlash(image=tmp_path), A).load() == (1, b"state")
    flash.cut_power_after(1, "kept")
    with pytest.raises(PowerCut):
        store.wipe()
    again = flash.reboot("all")
    assert Checkpoints(again, A).load() is None
    assert not (tmp_path / "learned").exists(), "what did not survive leaves the image as well"
    assert (tmp_path / "outbox.db").exists()
