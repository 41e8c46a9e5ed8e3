"""No counter runs over, in 10**6 lessons or in 2**31: what is bounded stays at its bound, what is not has room."""

from __future__ import annotations

from typing import Any

import learners
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from learners import KINDS

from edgerun.arrays import AnyArray
from edgerun.learn import prototypes, records
from edgerun.learn.learner import Learner, MemoryKeeper
from edgerun.learn.records import Boundary, Verdict
from edgerun.lifetime import Lifetime, new_learner
from edgerun.network import Prototypes
from edgerun.spec import Level
from edgerun.store.checkpoints import pack_state, unpack_state
from firmware_sim.flash import SimFlash

I32 = (1 << 31) - 1
LONG = {"lessons": I32 - 2, "updates": (1 << 63) - 9, "deep_lessons": (1 << 40) + 1}
"""Counters after 68 years of a lesson a second, and far beyond."""
NARROW = {"omega": (-I32 - 1, I32), "shadow": (-32512, 32512), "ref": (-32512, 32512), "importance": (231, 231)}


def aged(kind: str, seed: int = 1) -> Learner:
    """A learner whose every counter and sum stands near its end."""
    learner = new_learner(learners.bundle(kind), MemoryKeeper())
    for number in range(3):
        taught(learner, kind, number)
    rng, arrays = np.random.default_rng(seed), {name: array.copy() for name, array in learner.arrays().items()}
    for name, array in arrays.items():
        ends = NARROW.get(name.partition(".")[0])
        if ends is not None:
            array[...] = rng.choice(ends, array.shape)
            if name.startswith("shadow") and learner.manifest.learning.profile == "small":
                array += 128  # whose weights are high bytes, with their middle there
        elif name == "head.sum":
            array[...] = I32 - 3 - rng.integers(0, 9, array.shape)
        elif name in ("head.count", "replay.seen"):
            array[...] = I32 - 1
        elif name == "replay.since":
            array[...] = I32 - 3
        elif name.startswith("largest"):
            array[...] = 255
        elif name.startswith("mean"):
            array[0] = 1 << 45
    learner.load(arrays, learner.meta() | LONG)
    return learner


def taught(learner: Learner, kind: str, number: int, level: Any = "full") -> records.Lesson:
    label = 0 if kind == "eprop-values" else number % 4
    q, values = learners.sample(kind, label, number), learners.target(kind, number)
    lesson = learner.plan_lesson(q, label, level, (1 << 62) + number, values)
    learner.apply(lesson)
    return lesson


LEVELS: tuple[Level, ...] = ("full", "head", "head", "head", "head", "head", "light", "head", "full")


@pytest.mark.parametrize("kind", KINDS)
def test_lessons_go_on_beyond_the_end_of_every_counter(kind: str) -> None:
    """numpy warns of numbers that run over, and a warning fails a test."""
    learner, journal = aged(kind), []
    for number, level in enumerate(LEVELS):
        journal.append(taught(learner, kind, number, level))
        inside(learner)
    learner.apply(Boundary(reason="drift"))
    learner.apply(Verdict(good=True, correct=1, of=1))
    inside(learner)
    assert learner.lessons == LONG["lessons"] + len(LEVELS) > I32
    again = aged(kind)
    for lesson in journal:
        again.apply(records.decode(records.encode(lesson)))
    again.apply(Boundary(reason="drift"))
    assert again.digest() == learner.digest()


def inside(learner: Learner) -> None:
    """Counters have not come round, and sums that were all positive are."""
    for name, array in learner.arrays().items():
        wide, (low, high) = array.astype(np.int64), NARROW.get(name.partition(".")[0], (0, I32))
        if name in ("head.sum", "head.count", "replay.seen", "replay.since") or name.startswith(("omega", "shadow")):
            assert (low <= wide).all(), name
            assert (wide <= high).all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_old_state_is_saved_and_comes_back(kind: str) -> None:
    learner = aged(kind)
    arrays, meta = unpack_state(pack_state(learner.arrays(), {"learner": learner.meta()}))
    other = new_learner(learners.bundle(kind))
    other.load(arrays, meta["learner"])
    assert other.digest() == learner.digest()


def test_an_old_device_goes_on_through_a_restart() -> None:
    bundle, flash = learners.bundle("eprop"), SimFlash()
    life, old = Lifetime(bundle, flash), aged("eprop")
    life.learner.load(old.arrays(), old.meta())
    life.checkpoint()
    for number in range(5):
        life.teach(learners.sample("eprop", number % 4, number), number % 4, "full", number)
    life.commit()
    life.judge()
    assert Lifetime(bundle, flash.reboot("none")).digest() == life.digest()


def test_the_newest_samples_are_still_told_from_old_ones() -> None:
    """Beyond the last number that `since` holds, all are as new."""
    learner = aged("eprop")
    for number in range(12):
        taught(learner, "eprop", number)
    held = learner.reservoir
    assert held is not None
    assert held.since.max() == I32
    assert set(held.since[held.newest(4)].tolist()) == {I32}


def test_a_class_met_2_31_times_still_takes_new_samples_seldom() -> None:
    learner = aged("eprop")
    held = learner.reservoir
    assert held is not None
    held.field[...] = 1
    before = held.x.copy()
    for number in range(40):
        held.add(learners.sample("eprop", 1, number), 1, 1000 + number, 4)
    assert held.seen[1] == I32
    assert (held.x == before).all()  # 40 chances of a few in 2**31


@given(
    count=st.integers(1, I32), sums=st.lists(st.integers(-I32 - 1, I32), min_size=3, max_size=3),
    z=st.lists(st.integers(-65535, 65535), min_size=3, max_size=3),
)  # fmt: skip
def test_a_mean_takes_any_sample_at_any_count(count: int, sums: list[int], z: list[int]) -> None:
    head = head_of(np.array([sums], np.int32), count)
    prototypes.add(head, 0, np.array(z, np.int64))
    got, n = head.sums[0].astype(np.int64), int(head.counts[0])
    exact = [(s + v) / (count + 1) for s, v in zip(sums, z, strict=True)]
    assert 1 <= n <= I32
    halved = n != count + 1
    assert halved == (count == I32 or max(abs(s + v) for s, v in zip(sums, z, strict=True)) > I32)
    for total, want in zip(got.tolist(), exact, strict=True):
        slack = (abs(want) + 1) * 2 / n if halved else 0
        assert abs(total / n - want) <= slack + 1e-9 * abs(want)


def head_of(sums: AnyArray, count: int) -> Prototypes:
    tensors = {"head.sum": sums, "head.count": np.array([count], np.int32), "head.bias": np.zeros(1, np.int32)}
    return Prototypes(tensors, 1)
