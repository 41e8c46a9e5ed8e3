"""Every rule, with everything beside it that learns: the same lessons give the same bits, whatever happens in between.

A reference life is lived without disturbance; each test lives it again in another way and compares every digest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from random import Random
from typing import get_args

import learners
import numpy as np
import pytest
from learners import LIVES, Lived

from edgerun.commands.replay import replay
from edgerun.graph import grows
from edgerun.kernels.native import VARIABLE
from edgerun.learn import learner as module
from edgerun.learn import records
from edgerun.learn.learner import Learner, MemoryKeeper
from edgerun.learn.records import Lesson, NewClass
from edgerun.lifetime import Lifetime, new_learner
from edgerun.rules import Rule
from edgerun.spec import LEVELS
from edgerun.store.checkpoints import Checkpoints
from edgerun.store.journal import JournalReader
from firmware_sim.flash import PowerCut, SimFlash

TESTS = Path(__file__).parents[1]
EVERY = pytest.mark.parametrize("kind", LIVES)


@cache
def lived(kind: str) -> Lived:
    return Lived(kind)


def test_there_is_a_life_for_every_rule() -> None:
    rules = {type(learners.bundle(kind).manifest.learning.rule) for kind in LIVES}
    assert rules == set(get_args(Rule))


@EVERY
def test_a_life_has_lessons_that_change_something(kind: str) -> None:
    """So that determinism is not that of a stone."""
    life = lived(kind)
    changed = sum(a != b for a, b in zip(life.digests, life.digests[1:], strict=False))
    assert changed >= learners.LESSONS
    assert {type(entry) for entry in life.entries} >= {Lesson, records.Verdict, records.Boundary, records.Rollback}
    first, last = life.states[0][0], life.states[-1][0]
    shadows = [name for name in first if name.startswith("shadow")]
    assert all((first[name] != last[name]).any() for name in shadows)
    assert all(last[f"importance.{name.partition('.')[2]}"].any() for name in shadows)
    assert NewClass in {type(entry) for entry in life.entries} or not grows(life.bundle.manifest)


def test_some_of_its_labels_are_set_aside() -> None:
    want = lived("doubted")
    learner = new_learner(want.bundle)
    told = [learner.apply(entry) for entry in want.entries]
    assert any(each is not None and each.aside for each in told)


@EVERY
def test_it_is_lived_again(kind: str) -> None:
    want = lived(kind)
    life = Lifetime(want.bundle, SimFlash(seed=9))
    for entry, digest in zip(want.entries, want.digests[1:], strict=True):
        learners.do(life, entry)
        assert life.digest() == digest
    assert learners.scores_of(kind, life) == want.scores


@EVERY
def test_it_goes_on_from_what_was_saved_at_any_record(kind: str) -> None:
    want, keeper = lived(kind), MemoryKeeper()
    learner = new_learner(want.bundle, keeper)
    for number in sorted(range(len(want.states)), key=lambda k: 7 * k % len(want.states)):
        arrays, meta, good = want.states[number]
        other(learner, kind)
        learner.load(arrays, meta)
        if good is not None:
            keeper.keep(*good)
        for entry, digest in zip(want.entries[number:], want.digests[number + 1 : number + 4], strict=False):
            learner.apply(entry)
            assert learner.digest().hex() == digest, number


def other(learner: Learner, kind: str) -> None:
    """Teach something that is not in the life, so that a load has something to undo."""
    q, values = learners.sample(kind, 0, 77), learners.target(kind, 77)
    learner.apply(learner.plan_lesson(q, 0, "full", 0, values))


@EVERY
def test_a_replay_of_its_journal_finds_every_digest(kind: str) -> None:
    want = lived(kind)
    done = replay(want.bundle, JournalReader(want.flash, want.bundle.id), Checkpoints(want.flash, want.bundle.id))
    assert (done.digest_equal, done.digest, done.records) == (True, want.digests[-1], len(want.entries))


@EVERY
def test_what_is_asked_in_between_changes_nothing(kind: str) -> None:
    """Scores one by one and in batches, what another level would do, rehearsals, the guard's score."""
    want = lived(kind)
    life = Lifetime(want.bundle, SimFlash(seed=9))
    probe = np.stack([learners.sample(kind, 1, 500 + k) for k in range(5)]), np.ones(5, np.int64)
    for entry, digest in zip(want.entries, want.digests[1:], strict=True):
        single = [life.learner.network.scores(q).tolist() for q in probe[0]]
        assert life.learner.scores(probe[0]).tolist() == single
        life.learner.guard_score(*probe)
        for level in LEVELS:
            life.learner.plan_lesson(probe[0][0], 0, level, 0, learners.target(kind, 3))
        if grows(want.bundle.manifest):
            life.rehearse("f" if "e" in life.learner.classes else "e", [*probe[0][:2]])
        learners.do(life, entry)
        assert life.digest() == digest


@EVERY
def test_the_size_of_batches_is_no_part_of_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    want = lived(kind)
    monkeypatch.setattr(module, "BATCH", 3)
    life = Lifetime(want.bundle, SimFlash(seed=9))
    for entry in want.entries:
        learners.do(life, entry)
    assert life.digest() == want.digests[-1]
    assert learners.scores_of(kind, life) == want.scores


@EVERY
@pytest.mark.parametrize("seed", range(3))
def test_power_cuts_at_random_writes_change_nothing(kind: str, seed: int) -> None:
    """What the journal holds after a cut is a start of the life; what it lacks is done again, and nothing else."""
    want, luck, cuts = lived(kind), Random(f"{kind} {seed}"), 0
    flash, done = SimFlash(seed=luck.randrange(1 << 32), page_bytes=256, pages=4096), 0
    while done < len(want.entries):
        flash.cut_power_after(luck.randint(1, 24))
        try:
            life = Lifetime(want.bundle, flash)
            held = [*JournalReader(flash, want.bundle.id).records()]
            assert held == want.records[: len(held)]
            assert len(held) >= done, "what was committed is lost"
            assert life.digest() == want.digests[len(held)]
            done = len(held)
            for entry in want.entries[done:]:
                learners.do(life, entry)
                done += 1
                if luck.random() < 0.2:
                    life.checkpoint()
        except PowerCut:
            cuts, flash = cuts + 1, flash.reboot(luck.choice(("none", "some", "all")))
    assert cuts > 1
    again = Lifetime(want.bundle, flash.reboot("none"))
    assert again.digest() == want.digests[-1]
    assert [*JournalReader(flash, want.bundle.id).records()] == want.records
    assert learners.scores_of(kind, again) == want.scores


@pytest.fixture(scope="module")
def elsewhere() -> dict[str, list[list[str]]]:
    """What another process says of all lives, with another seed for Python's hashes, and in numpy alone."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    done = subprocess.run(
        [sys.executable, TESTS / "learners.py"],
        env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "77", VARIABLE: "numpy"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told: dict[str, list[list[str]]] = json.loads(done.stdout)
    return told


@EVERY
def test_another_process_lives_the_same(kind: str, elsewhere: dict[str, list[list[str]]]) -> None:
    want = lived(kind)
    assert elsewhere[kind] == [want.digests, want.scores]
