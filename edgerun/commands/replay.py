"""`edgerun replay`: do again everything that a device learned, from its journal, and compare every digest.

Lessons' records hold digests of the state before them, one in a group, each epoch that of the state at its start, a
checkpoint that of the state it saved. Bits are the same on every machine, so one that differs tells where to look.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Any, Final

import msgspec

from edgerun.bundle import Bundle, open_bundle
from edgerun.commands.backend import backend_option
from edgerun.commands.text import columns
from edgerun.errors import EdgeRunError, Refused, StoreError
from edgerun.kernels.native import Backend
from edgerun.learn import records
from edgerun.learn.learner import Learner, MemoryKeeper, Taught
from edgerun.lifetime import new_learner
from edgerun.linux.disk import RealDisk
from edgerun.native import network_of
from edgerun.selftest import check_selftest
from edgerun.spec import Record
from edgerun.store.checkpoints import Checkpoints, unpack_state
from edgerun.store.journal import Epoch, JournalReader

PROGRESS_S: Final = 2.0
Progress = Callable[[int, int], None]
"""Told (records done, records in all) after each record."""
Watch = Callable[[Learner, "records.Entry | None", "Taught | None"], None]
"""Shown the learner after each record with what the record did, and at the start of each epoch, when both are None."""


class Difference(Record, frozen=True, kw_only=True):
    """The first place where a replay and the device's own account part."""

    epoch: int
    record: int  # in its epoch, from 1; 0 = the epoch's start
    lesson: int  # up to which digests were equal
    what: str


class Replayed(Record, frozen=True, kw_only=True):
    """What a replay did and whether every digest on its way was equal."""

    digest: str  # of the state at the end, or where it first differed
    digest_equal: bool
    first_difference: Difference | None
    first_epoch: int
    epochs: int
    records: int
    lessons: int
    updates: int
    checkpoint: int | None  # generation of the newest one, if the replay passed it and it was equal


class _Differs(Exception):
    """Ends a replay at its first difference."""

    def __init__(self, record: int, what: str) -> None:
        super().__init__(what)
        self.record, self.what = record, what


# ------------------------------------------------------------------ the replay


@dataclass(slots=True)
class _Run:
    """One replay under way."""

    learner: Learner
    keeper: MemoryKeeper
    saved: dict[str, Any] | None  # what the newest checkpoint says of itself
    watch: Watch
    equal_checkpoint: bool = False
    equal_lesson: int = 0  # up to which digests were equal
    records: int = 0
    lessons: int = 0

    def begin(self, epoch: Epoch, *, first: bool) -> None:
        """Stand at the start of an epoch: on its own base if it is the first, where the one before ended if not."""
        if first and epoch.base:
            arrays, meta = unpack_state(epoch.base)
            self.learner.load(arrays, meta["learner"])
        if epoch.base:  # an epoch is sealed on a state that has just been found good
            self.keeper.keep(self.learner.arrays(), self.learner.meta())
        if epoch.number:
            self.compare(epoch.digest, 0, "the epoch's start")
        self.watch(self.learner, None, None)

    def do(self, number: int, data: bytes) -> None:
        """Apply one record, after comparing the digest that it holds."""
        entry = records.decode(data)
        if isinstance(entry, records.Lesson):
            if entry.before:
                self.compare(entry.before, number, f"the state before lesson {entry.number}")
            self.lessons += 1
        try:
            taught = self.learner.apply(entry)
        except (ValueError, IndexError) as err:  # sizes, labels or places that this state does not have
            raise _Differs(number, f"the record cannot follow: {err}") from None
        self.records += 1
        self.watch(self.learner, entry, taught)

    def compare_checkpoint(self, epoch: int, count: int) -> None:
        if self.saved is not None and tuple(self.saved["position"]) == (epoch, count):
            self.compare(bytes.fromhex(self.saved["digest"]), count, "the newest checkpoint")
            self.equal_checkpoint = True

    def compare(self, want: bytes, record: int, what: str) -> None:
        got = self.learner.digest()
        if got != want:
            raise _Differs(record, f"{what} has digest {want.hex()[:16]}, the replay {got.hex()[:16]}")
        self.equal_lesson = self.learner.lessons

    def through(self, epochs: Sequence[Epoch], progress: Progress) -> Difference | None:
        """All records of all epochs in order, up to the first difference."""
        total = sum(len(epoch.records) for epoch in epochs)
        for epoch in epochs:
            try:
                self.begin(epoch, first=epoch is epochs[0])
                self.compare_checkpoint(epoch.number, 0)
                for number, data in enumerate(epoch.records, start=1):
                    self.do(number, data)
                    self.compare_checkpoint(epoch.number, number)
                    progress(self.records, total)
            except _Differs as found:
                return Difference(epoch=epoch.number, record=found.record, lesson=self.equal_lesson, what=found.what)
        return None


def replay(
    bundle: Bundle,
    reader: JournalReader,
    checkpoints: Checkpoints,
    progress: Progress = lambda done, total: None,
    watch: Watch = lambda learner, entry, taught: None,
    backend: Backend | None = None,
) -> Replayed:
    """Re-execute a journal on a fresh learner, from the oldest epoch whose start is known.

    Raises Refused where there is no journal or it ends before its checkpoint, StoreError for a damaged base.
    """
    newest = checkpoints.load()  # before the journal, which on a running device only grows
    epochs = list(dropwhile(lambda epoch: epoch.number > 0 and not epoch.base, reader.epochs()))
    if not epochs:
        raise Refused("the journal is damaged: no epoch of it can be read")
    saved = None if newest is None else unpack_state(newest[1])[1]
    if saved is not None and tuple(saved["position"]) > (epochs[-1].number, len(epochs[-1].records)):
        epoch, count = saved["position"]
        raise Refused(
            f"the journal is damaged: the checkpoint stands at epoch {epoch} record {count}, "
            f"the journal ends at epoch {epochs[-1].number} record {len(epochs[-1].records)}"
        )
    keeper = MemoryKeeper()
    run = _Run(new_learner(bundle, keeper, backend), keeper, saved, watch)
    difference = run.through(epochs, progress)
    return Replayed(
        digest=run.learner.digest().hex(),
        digest_equal=difference is None,
        first_difference=difference,
        first_epoch=epochs[0].number,
        epochs=len(epochs),
        records=run.records,
        lessons=run.lessons,
        updates=run.learner.updates,
        checkpoint=newest[0] if newest is not None and run.equal_checkpoint else None,
    )


# ------------------------------------------------------------------ the command


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("state_dir", type=Path, metavar="STATE_DIR", help="state folder of a device; it is only read")
    parser.add_argument("--bundle", required=True, metavar="FILE", help="the bundle that the device learned on, *.edgb")
    backend_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a page")
    parser.epilog = "example:\n  edgerun replay /var/lib/edgerun --bundle digits.edgb"


def run(args: argparse.Namespace) -> int:
    """0 if every digest was equal, 1 if one differs. Raises Refused where there is nothing that could be replayed."""
    bundle = open_bundle(args.bundle)
    disk = open_state(args.state_dir, bundle)
    check_selftest(network_of(bundle.manifest, bundle.tensors, args.backend), bundle.selftest)
    try:
        done = replay(
            bundle, JournalReader(disk, bundle.id), Checkpoints(disk, bundle.id), Teller(), backend=args.backend
        )
    except StoreError as err:
        raise Refused(f"{args.state_dir}: {err}") from None
    print(msgspec.json.encode(done).decode() if args.json else "\n".join(page(done)))
    return 0 if done.digest_equal else EdgeRunError.exit_code


def open_state(folder: Path, bundle: Bundle) -> RealDisk:
    """A device's state folder that holds a journal of this bundle. Raises Refused if it does not; changes nothing."""
    if not folder.is_dir():
        raise Refused(f"{folder} is no folder")
    disk = RealDisk(folder)
    learned = disk.list("journal")
    if bundle.id in learned:
        return disk
    if learned:
        raise Refused(f"{folder} was learned on bundle {learned[0]}, not on {bundle.id}")
    raise Refused(f"{folder} holds no journal")


class Teller:
    """Says on standard error how far a long replay is."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PROGRESS_S

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_S
            print(f"{done:,} of {total:,} records", file=sys.stderr, flush=True)


def page(done: Replayed) -> list[str]:
    """The lines for a person."""
    last, found = done.first_epoch + done.epochs - 1, done.first_difference
    origin = "the factory's weights" if done.first_epoch == 0 else f"the state kept with epoch {done.first_epoch}"
    lines = columns(
        [
            ("from", origin),
            ("epochs", f"{done.first_epoch} to {last}"),
            ("records", f"{done.records:,}"),
            ("lessons", f"{done.lessons:,}"),
            ("updates", f"{done.updates:,}"),
            ("checkpoint", "not passed" if done.checkpoint is None else f"generation {done.checkpoint}, equal"),
            ("digest", done.digest),
        ]
    )
    if found is None:
        return [*lines, "equal"]
    where = f"epoch {found.epoch} record {found.record}, equal to lesson {found.lesson}"
    return [*lines, f"differs at {where}: {found.what}"]
