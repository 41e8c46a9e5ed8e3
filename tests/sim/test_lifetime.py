"""What a device has learned outlives a power cut at every write; a bad lesson does not outlive its verdict."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
from pretend import sample, tiny_bundle, twin_digest

from edgerun import lifetime
from edgerun.commands.replay import replay
from edgerun.learn.records import Boundary, Entry, NewClass, Rollback, Settle, encode
from edgerun.lifetime import Lifetime
from edgerun.ports import Disk
from edgerun.spec import Level
from edgerun.store.checkpoints import Checkpoints
from edgerun.store.journal import Journal, JournalReader
from firmware_sim.flash import Fate, Keep, PowerCut, SimFlash

BUNDLE = tiny_bundle()
LEARNED = f"learned/{BUNDLE.id}"
WAYS: tuple[tuple[Fate, Keep], ...] = (
    ("lost", "none"), ("lost", "some"), ("torn", "some"), ("kept", "none"), ("kept", "all"),
)  # fmt: skip


@pytest.fixture
def small_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs that a single verdict fills."""
    monkeypatch.setattr(lifetime, "Journal", partial(Journal, segment_bytes=1024, keep_epochs=100))


Act = Callable[[Lifetime], object]


def feedback(life: Lifetime, first: int = 0, count: int = 4, level: Level = "light", *, wrong: int = 0) -> None:
    """A group of lessons and its commit; `wrong` shifts their labels."""
    for i in range(first, first + count):
        life.teach(sample(i % 4, 1000 + i), (i + wrong) % 4, level, i)
    life.commit()


def new_class(life: Lifetime) -> None:
    life.change(NewClass(label="mug"))
    for i in range(3):
        life.teach(sample(4, i), life.learner.classes.index("mug"), "head", 0)
    life.change(Settle())
    life.change(Boundary(reason="taught"))
    life.commit()
    life.judge()


def judged(life: Lifetime) -> None:
    feedback(life, 20, 2, "full")
    life.judge()


def bad_verdict(life: Lifetime) -> None:
    feedback(life, 30, 10, "head", wrong=1)
    assert not life.judge().good


def some_life(life: Lifetime) -> None:
    """A good state, lessons after it, a checkpoint among them."""
    feedback(life, 0, 3)
    life.judge()
    feedback(life, 4, 2)
    life.checkpoint()
    feedback(life, 8, 1)


ACTS: dict[str, Act] = {
    "feedback": lambda life: feedback(life, 30, 3, "full"),
    "new class": new_class,
    "checkpoint": lambda life: life.checkpoint(),
    "verdict": judged,
    "bad verdict": bad_verdict,
    "to last good": lambda life: life.roll_back("last-good"),
    "to factory": lambda life: life.roll_back("factory"),
    "forget": lambda life: life.forget(2),
}


def equal_replay(disk: Disk, life: Lifetime) -> bool:
    done = replay(BUNDLE, JournalReader(disk, BUNDLE.id), Checkpoints(disk, BUNDLE.id))
    return done.digest_equal and done.digest == life.digest()


@dataclass
class Life:
    """A life that was lived up to some point, and what a twin in memory would know after each further record."""

    flash: SimFlash
    entries: list[Entry]
    _known: dict[bytes, str] = field(default_factory=dict)

    @classmethod
    def lived(cls) -> Life:
        life = cls(SimFlash(seed=3, page_bytes=256, pages=2048), [])
        some_life(Lifetime(BUNDLE, life.flash, life.entries.append))
        return life

    def cut(self, act: Act, write: int, fate: Fate, keep: Keep) -> Cut:
        """Do `act` on a copy, cut the power at its n-th write, and reboot."""
        flash, entries, done = copy.deepcopy(self.flash), list(self.entries), False
        life = Lifetime(BUNDLE, flash, entries.append)
        flash.cut_power_after(write, fate)
        try:
            act(life)
            done = True
        except PowerCut:
            pass
        return Cut(
            flash.reboot(keep), entries, len(self.entries) + life.committed_entries, life.committed_lessons, done
        )

    def digest(self, entries: list[Entry]) -> str:
        """What a learner that was never cut knows after these."""
        key = b"".join(encode(entry) for entry in entries)
        if key not in self._known:
            self._known[key] = twin_digest(BUNDLE, entries)
        return self._known[key]


@dataclass
class Cut:
    """What a reboot finds, and what was true when the power went."""

    flash: SimFlash
    entries: list[Entry]
    committed_entries: int
    committed_lessons: int
    done: bool

    def held(self) -> list[Entry]:
        """The entries that the journal holds: all that were committed, and perhaps some after them."""
        found = list(JournalReader(self.flash, BUNDLE.id).records())
        assert found == [encode(entry) for entry in self.entries[: len(found)]]
        assert len(found) >= self.committed_entries
        return self.entries[: len(found)]


@pytest.mark.parametrize(
    ("act", "segments"),
    [*((act, "one epoch") for act in ACTS), *((act, "small epochs") for act in ("verdict", "bad verdict", "forget"))],
)
def test_nothing_committed_is_lost_and_nothing_is_learned_twice(
    act: str, segments: str, request: pytest.FixtureRequest
) -> None:
    if segments == "small epochs":
        request.getfixturevalue("small_epochs")
    lived, writes = Life.lived(), []
    for fate, keep in WAYS if segments == "one epoch" else WAYS[2:4]:
        for write in itertools.count(1):
            cut = lived.cut(ACTS[act], write, fate, keep)
            comes_back_whole(lived, cut)
            if cut.done:
                break
        writes.append(write)
    assert len(set(writes)) == 1
    assert writes[0] > 2, "the act wrote something"


def comes_back_whole(lived: Life, cut: Cut) -> None:
    entries = cut.held()
    life = Lifetime(BUNDLE, cut.flash, entries.append)
    assert life.learner.lessons >= cut.committed_lessons or Rollback(to="factory") in entries
    assert life.digest() == lived.digest(entries)
    feedback(life, 50, 2)  # it goes on learning, and its last good state is the one that the records say
    life.roll_back("last-good")
    feedback(life, 52, 1)
    assert life.digest() == lived.digest(entries)
    assert equal_replay(cut.flash, life)
    assert Lifetime(BUNDLE, cut.flash.reboot("none")).digest() == life.digest()


def test_a_flipped_bit_anywhere_is_never_fatal_and_nothing_is_learned_on_a_hole() -> None:
    lived = Life.lived()
    paths = [f"journal/{BUNDLE.id}/00000000.log", *(f"learned/{BUNDLE.id}/{n}" for n in lived.flash.list(LEARNED))]
    assert len(paths) >= 4
    known = {lived.digest(lived.entries[:count]) for count in range(len(lived.entries) + 1)}
    for path, place in itertools.product(paths, range(0, 100, 9)):
        flash = copy.deepcopy(lived.flash)
        flash.flip_bit(path, (flash.size(path) or 0) * 8 * place // 100)
        life = Lifetime(BUNDLE, flash)
        assert life.digest() in known
        feedback(life, 50, 2)
        again = Lifetime(BUNDLE, flash.reboot("none"))
        assert again.digest() == life.digest(), f"{path} at {place} %"
        feedback(again, 52, 4)
        again.judge()
        again.roll_back("last-good")


def test_a_cell_that_fails_under_a_good_state_is_written_around() -> None:
    lived = Life.lived()
    for write in range(1, 12):
        flash = copy.deepcopy(lived.flash)
        life = Lifetime(BUNDLE, flash)
        flash.flip_bits_after(write, 3)
        judged(life)
        life.checkpoint()
        assert flash.flipped
        assert (
            life.learner.lessons == Lifetime(BUNDLE, flash.reboot("none")).learner.lessons
            or "journal" in flash.flipped[0]
        )
