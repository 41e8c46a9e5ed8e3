"""A bounded memory in which each class keeps its share, filled the same way by the same lessons."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.learn import reservoir
from edgerun.learn.reservoir import EMPTY, Reservoir
from edgerun.spec import ClassTable, Dense, InputSpec, LearningPlan, Manifest, Replay

CLASSES = 5


def make(capacity: int, seed: int = 1) -> Reservoir:
    manifest = Manifest(
        name="net", input=InputSpec(shape=(2,), dtype="uint8"), layers=(Dense(name="fc", inputs=2, outputs=CLASSES),),
        classes=ClassTable(names=tuple("abcde"), capacity=CLASSES),
        learning=LearningPlan(replay=Replay(capacity=capacity)),
    )  # fmt: skip
    state = {name: np.zeros(slot.shape, slot.dtype) for name, slot in reservoir.slots(manifest).items()}
    memory = Reservoir(state, seed)
    memory.fill(np.zeros((0, 2)), np.zeros(0))
    return memory


def sample(label: int, number: int) -> np.ndarray:
    """A sample that says whose it is."""
    return np.array([label, number % 256], np.int16)


def counts(memory: Reservoir) -> list[int]:
    return [int((memory.label == k).sum()) for k in range(CLASSES)]


def state(memory: Reservoir) -> list[list[int]]:
    return [array.tolist() for array in (memory.x, memory.label, memory.field, memory.seen)]


@given(
    capacity=st.integers(1, 24),
    labels=st.lists(st.integers(0, CLASSES - 1), max_size=120),
    forgotten=st.none() | st.integers(0, CLASSES - 1),
)
def test_it_is_bounded_balanced_and_deterministic(capacity: int, labels: list[int], forgotten: int | None) -> None:
    first, second = make(capacity), make(capacity)
    quota = max(1, capacity // CLASSES)
    for memory in (first, second):
        for number, label in enumerate(labels, 1):
            before = counts(memory)[label]
            memory.add(sample(label, number), label, number, CLASSES)
            assert counts(memory)[label] <= max(before, quota)
        if forgotten is not None:
            memory.forget(forgotten)
            assert counts(memory)[forgotten] == 0
    assert state(first) == state(second)
    assert len(first.label) == capacity
    for place in first.filled:
        assert first.x[place, 0] == first.label[place]
        assert labels[(int(first.x[place, 1]) - 1) % 256] == first.label[place]
    if capacity >= CLASSES and forgotten is None:
        assert counts(first) == [min(quota, labels.count(k)) for k in range(CLASSES)]


def test_another_seed_keeps_other_samples() -> None:
    memories = [make(10, seed) for seed in (1, 2)]
    for memory in memories:
        for number in range(1, 200):
            memory.add(sample(number % 5, number), number % 5, number, CLASSES)
    assert state(memories[0])[0] != state(memories[1])[0]


def test_half_of_each_class_stays_from_the_factory() -> None:
    memory = make(40)
    labels = np.arange(40) % CLASSES
    memory.fill(np.stack([labels, np.zeros(40)], axis=1), labels)
    for number in range(1, 400):
        label = number % CLASSES
        memory.add(sample(label, number), label, number, CLASSES)
    for k in range(CLASSES):
        mine = memory.label == k
        assert (int((mine & (memory.field == 0)).sum()), int((mine & (memory.field == 1)).sum())) == (4, 4)
    assert memory.seen.tolist() == [79, 80, 80, 80, 80]


def test_a_new_class_takes_its_places_from_the_largest() -> None:
    memory = make(20)
    labels = np.r_[np.zeros(11, int), np.full(9, 1)]
    memory.fill(np.stack([labels, labels], axis=1), labels)
    memory.field[:4] = 1
    for number in range(1, 11):
        memory.add(sample(4, number), 4, number, 3)
    assert counts(memory) == [7, 7, 0, 0, 6]
    assert int((memory.field[memory.label == 0] == 1).sum()) == 4  # samples of the factory go first


def test_field_samples_are_a_fair_draw_from_the_stream() -> None:
    kept = []
    for seed in range(60):
        memory = make(10, seed)
        for number in range(1, 201):
            memory.add(sample(0, number), 0, number, CLASSES)
            memory.add(sample(1, number), 1, number, CLASSES)
        kept += memory.x[memory.label == 0, 1].tolist()
    assert abs(np.mean(kept) - 100.5) < 5 * (200 / np.sqrt(12)) / np.sqrt(len(kept))
    assert abs(np.std(kept) / (200 / np.sqrt(12)) - 1) < 0.15


def test_more_exemplars_than_places_and_none_at_all() -> None:
    memory = make(3)
    memory.fill(np.arange(20).reshape(10, 2), np.arange(10) % CLASSES)
    assert memory.label.tolist() == [0, 1, 2]
    assert memory.sample(1).tolist() == [2, 3]
    memory.fill(np.zeros((0, 2)), np.zeros(0))
    assert memory.label.tolist() == [EMPTY] * 3


@pytest.mark.parametrize("below", [1, 7, 1 << 32])
def test_draws_are_in_range_and_depend_on_seed_and_lesson_only(below: int) -> None:
    draws = reservoir.draw(5, 9, 300, below)
    assert draws == reservoir.draw(5, 9, 300, below)
    assert all(0 <= d < below for d in draws)
    assert below == 1 or draws != reservoir.draw(5, 10, 300, below) != reservoir.draw(6, 9, 300, below)
    assert len(set(draws)) > min(below, 290) - 1


def test_the_newest_are_those_of_the_latest_lessons_wherever_they_lie() -> None:
    memory = make(6)
    memory.label[:] = [0, 1, 0, 1, reservoir.EMPTY, 0]
    memory.field[:] = [1, 1, 0, 1, 1, 1]
    memory.since[:] = [50, 20, 0, 90, 99, 70]
    assert memory.newest(2).tolist() == [5, 3]
    assert memory.newest(9).tolist() == [1, 0, 5, 3]
    assert memory.newest(0).tolist() == []
