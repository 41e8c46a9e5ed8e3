"""One sample under two names: found in a file's lessons, among stored samples, in what feedback said before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretend import sample, tiny_bundle

from edgerun.errors import Refused
from edgerun.learn.contradiction import Told, check_examples, held_as_another, same_under_two_names
from edgerun.lifetime import new_learner


@given(rows=st.lists(st.tuples(st.integers(0, 2), st.sampled_from("ab")), max_size=12))
def test_the_first_pair_that_contradicts_is_found(rows: list[tuple[int, str]]) -> None:
    x, names = np.array([[value, 7] for value, _ in rows], np.int16).reshape(-1, 2), [name for _, name in rows]
    pairs = [(i, k) for k in range(len(rows)) for i in range(k) if rows[i][0] == rows[k][0] and names[i] != names[k]]
    found = same_under_two_names(x, names)
    assert (found is None) == (not pairs)
    assert found is None or found in pairs


def test_a_stored_sample_keeps_its_name() -> None:
    learner = new_learner(tiny_bundle())
    held = learner.reservoir
    assert held is not None
    q, label = held.sample(0), int(held.label[0])
    assert held_as_another(held, q, label) is None
    assert held_as_another(held, q, label + 1) == held_as_another(held, q, None) == label
    assert held_as_another(held, sample(0, 4321), 1) is None
    assert held_as_another(None, q, 1) is None
    held.forget(label)
    assert held_as_another(held, q, None) is None


def test_the_example_is_named() -> None:
    learner = new_learner(tiny_bundle())
    assert learner.reservoir is not None
    stored, name = learner.reservoir.sample(3), learner.classes[int(learner.reservoir.label[3])]
    with pytest.raises(Refused, match=f"^example 1 is stored as a sample of '{name}'$"):
        check_examples(learner.reservoir, [sample(4, 1), stored], None, learner.classes)


def test_feedback_is_remembered_for_so_many_windows() -> None:
    told = Told(3)
    told.take([(1, "a"), (2, "b"), (2, "b")])
    with pytest.raises(Refused, match=r"^feedback sample 1 was called 'a', now 'b'$"):
        told.take([(4, "a"), (1, "b")])
    told.take([(4, "c"), (5, "a")])
    told.take([(1, "b")])  # 1 was the oldest of four and is forgotten
    with pytest.raises(Refused):
        told.take([(4, "a")])
    told.clear()
    told.take([(4, "a")])
