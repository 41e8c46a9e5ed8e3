"""Means are exact, and the bias of a new class gives back what its few samples cost it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.learn import prototypes
from edgerun.network import Prototypes


def head_of(classes: int, width: int) -> Prototypes:
    return Prototypes({
        "head.sum": np.zeros((classes, width), np.int32), "head.count": np.zeros(classes, np.int32),
        "head.bias": np.zeros(classes, np.int32),
    }, classes)  # fmt: skip


def clusters(seed: int, shots: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Four old classes with 12 examples each and a new one, the fifth, close to one of them."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(-60, 60, (5, 6))
    centres[4] = centres[1] + rng.integers(-15, 16, 6)
    label = np.r_[np.repeat(np.arange(4), 12), np.full(shots, 4)]
    return np.round(centres[label] + rng.normal(0, spread, (len(label), 6))).astype(np.int64), label


def from_class(joined: int, known: int) -> np.ndarray:
    """The classes from this one on joined."""
    return np.arange(known) >= joined


def test_means_are_the_half_up_means_of_the_samples() -> None:
    z, label = clusters(0, 5, 20.0)
    held = head_of(6, 6)
    held.sums[5], held.counts[5] = 7, 2  # a class without a sample keeps what it had
    prototypes.recompute(held, z, label)
    for k in range(5):
        mine = z[label == k]
        assert held.counts[k] == len(mine)
        assert held.means[k].tolist() == np.floor(mine.sum(axis=0) / len(mine) + 0.5).astype(int).tolist()
    assert held.means[5].tolist() == [4] * 6


@given(seed=st.integers(0, 2**32 - 1), shots=st.integers(2, 12), spread=st.floats(1.0, 60.0))
def test_the_bias_is_the_scatter_over_the_count(seed: int, shots: int, spread: float) -> None:
    z, label = clusters(seed, shots, spread)
    held = head_of(5, 6)
    prototypes.recompute(held, z, label)
    prototypes.calibrate(held, z, label, from_class(4, 5))
    mine = z[label == 4]
    assert held.bias[:4].tolist() == [0] * 4
    assert held.bias[4] == pytest.approx(mine.var(axis=0, ddof=1).sum() / shots, abs=1.01)


def test_classes_that_join_share_the_scatter_and_each_has_its_count() -> None:
    held = head_of(4, 1)
    z, label = np.array([[9], [0], [10], [20], [26]]), np.array([0, 1, 1, 2, 2])
    held.sums[:, 0], held.counts[:] = [9, 10, 46, 7], [1, 2, 2, 1]
    held.counts[2] = 20  # it was taught more than the memory holds
    held.refresh()
    prototypes.calibrate(held, z, label, from_class(1, 4))
    s = (50 + 18) // 2  # by hand: 5**2 + 5**2 and 3**2 + 3**2, one degree each
    assert held.bias.tolist() == [0, s // 2, 68 // 40, s // 1]


def test_with_the_bias_a_score_is_on_average_the_true_mean_s() -> None:
    """What it is for: over many choices of five shots, the class that few shots taught is neither behind nor ahead."""
    rng, true, z = np.random.default_rng(0), np.array([40.0, -25, 10, 0, 60, -5]), np.array([[30, -20, 5, 9, 40, 0]])
    exact, bare, given_back = 2 * (z @ true) - true @ true, [], []
    for _ in range(2000):
        shots = np.round(true + rng.normal(0, 20, (5, 6))).astype(np.int64)
        held, label = head_of(1, 6), np.zeros(5, np.int64)
        prototypes.recompute(held, shots, label)
        bare.append(held.scores(z, 1)[0, 0])
        prototypes.calibrate(held, shots, label, np.array([True]))
        given_back.append(held.scores(z, 1)[0, 0])
    assert np.mean(bare) - exact[0] == pytest.approx(-6 * 400 / 5, rel=0.15)
    assert np.mean(given_back) == pytest.approx(exact[0], abs=70)


def test_one_shot_of_each_takes_the_scatter_of_all_classes() -> None:
    held = head_of(3, 1)
    z, label = np.array([[0], [8], [50], [99]]), np.array([0, 0, 1, 2])
    prototypes.recompute(held, z, label)
    prototypes.calibrate(held, z, label, from_class(1, 3))
    assert held.bias.tolist() == [0, 32, 32]


def test_a_bias_helps_a_class_of_few_shots() -> None:
    gained = lost = 0
    for seed in range(40):
        z, label = clusters(seed, 4, 25.0)
        fresh, truth = clusters(seed + 1000, 200, 25.0)
        rng = np.random.default_rng(seed)
        centres = rng.integers(-60, 60, (5, 6))
        centres[4] = centres[1] + rng.integers(-15, 16, 6)
        fresh = np.round(centres[truth] + rng.normal(0, 25.0, (len(truth), 6))).astype(np.int64)
        held = head_of(5, 6)
        prototypes.recompute(held, z, label)
        before = held.scores(fresh, 5).argmax(axis=1) == truth
        prototypes.calibrate(held, z, label, from_class(4, 5))
        after = held.scores(fresh, 5).argmax(axis=1) == truth
        gained += after[truth == 4].mean() - before[truth == 4].mean()
        lost += before[truth < 4].mean() - after[truth < 4].mean()
    assert gained > 1
    assert gained > 2 * lost


@pytest.mark.parametrize("held_labels", [[], [4], [0, 1]])
def test_nothing_to_compare_leaves_the_bias_alone(held_labels: list[int]) -> None:
    label = np.array(held_labels, np.int64)
    z = np.arange(6 * len(label)).reshape(len(label), 6)
    held = head_of(5, 6)
    prototypes.recompute(held, z, label)
    held.bias[4] = 17
    prototypes.calibrate(held, z, label, from_class(4, 5))
    assert held.bias.tolist() == [0, 0, 0, 0, 17]


def test_a_class_without_a_mean_gets_no_bias_and_a_large_one_stays_in_32_bits() -> None:
    held = head_of(3, 1)
    held.counts[1] = 1
    z, label = np.array([[0], [1 << 20]], np.int64), np.ones(2, np.int64)
    prototypes.calibrate(held, z, label, from_class(1, 3))
    assert held.bias.tolist() == [0, (1 << 31) - 1, 0]


# ------------------------------------------------------------------ a second mean a class


def two_means(rng: np.random.Generator) -> tuple[Prototypes, np.ndarray]:
    """Three classes of capacity four at the factory, and a field in which class 1 looks different."""
    factory = rng.integers(-50, 50, (3, 5))
    held = Prototypes({
        "head.sum": (factory * 100).astype(np.int32), "head.count": np.full(3, 100, np.int32),
        "head.bias": np.zeros(3, np.int32),
    }, 4, 2)  # fmt: skip
    return held, factory


def test_a_taught_mean_stands_beside_the_factory_s() -> None:
    held, factory = two_means(np.random.default_rng(3))
    before = held.scores(factory.astype(np.int64), 3)
    there = np.array([[400, -400, 300, -300, 200]])
    held.sums[held.taught + 1], held.counts[held.taught + 1] = there[0], 1
    held.refresh()
    after = held.scores(factory.astype(np.int64), 3)
    assert (after.argmax(axis=1) == before.argmax(axis=1)).all()
    assert (after >= before).all()
    assert held.scores(there, 3).argmax() == 1
    assert held.scores(there, 3)[0, 1] == (there * there).sum()  # 2 z.c - c.c at z = c


def test_only_what_was_taught_is_recomputed() -> None:
    held, factory = two_means(np.random.default_rng(4))
    z = np.concatenate([factory, factory[:1] + 9, factory[:1] + 13])  # two of class 0 are from the field
    label = np.array([0, 1, 2, 0, 0])
    row = label + held.taught * np.array([0, 0, 0, 1, 1])
    sums = held.sums.copy()
    prototypes.recompute(held, z[3:], row[3:])
    assert (held.sums[:4] == sums[:4]).all()
    assert held.counts[held.taught] == 2


def test_the_bias_belongs_to_the_taught_mean() -> None:
    held, factory = two_means(np.random.default_rng(5))
    z, label = np.concatenate([factory, [[0] * 5, [10] * 5]]), np.array([0, 1, 2, 3, 3])
    row = label + held.taught * (label == 3)
    prototypes.recompute(held, z[3:], row[3:])
    prototypes.calibrate(held, z, label, from_class(3, 4))
    assert np.flatnonzero(held.bias).tolist() == [held.taught + 3]
    assert held.bias[held.taught + 3] == 250 // 2


# ------------------------------------------------------------------ as learned state


def kept(seed: int) -> tuple[Prototypes, prototypes.KeptHead, dict[str, np.ndarray], np.ndarray]:
    """A head of two means that works in its state's arrays, the state, and what the factory knew."""
    held, factory = two_means(np.random.default_rng(seed))
    state = {f"head.{name}": np.zeros_like(mine) for name, mine in (
        ("sum", held.sums), ("count", held.counts), ("bias", held.bias)
    )}  # fmt: skip
    head = prototypes.KeptHead(held, state, 3)
    head.reset()
    head.take_over()
    return held, head, state, factory.astype(np.int64)


def test_a_kept_head_is_the_factory_s_in_the_state_s_arrays() -> None:
    held, head, state, factory = kept(6)
    assert held.sums is state["head.sum"]
    assert (state["head.sum"][:3] == 100 * factory).all()
    assert state["head.count"].tolist() == [100] * 3 + [0] * 5
    assert head.factory_counts.tolist() == [100] * 3
    assert (held.means[:3] == factory).all()
    state["head.sum"][0] += 100
    head.take_over()
    assert (held.means[0] == factory[0] + 1).all()


def test_a_sample_is_added_to_what_the_field_taught() -> None:
    held, head, state, factory = kept(7)
    head.add(1, factory[1] + 7)
    assert (state["head.sum"][:3] == 100 * factory).all()
    assert (state["head.sum"][held.taught + 1] == factory[1] + 7).all()
    assert np.flatnonzero(state["head.count"]).tolist() == [0, 1, 2, held.taught + 1]


def test_means_are_taken_anew_only_where_the_features_moved() -> None:
    held, head, state, factory = kept(8)
    z, label = np.concatenate([factory, factory + 5]), np.array([0, 1, 2, 0, 1, 2])
    field = np.arange(6) >= 3
    before = {name: array.copy() for name, array in state.items()}
    head.refresh(z, label, field, 3, moved=False)
    assert all((array == before[name]).all() for name, array in state.items())
    head.refresh(z, label, field, 3, moved=True)
    assert (state["head.sum"][:3] == factory).all()
    assert (state["head.sum"][held.taught :][:3] == factory + 5).all()
    assert state["head.bias"].tolist() == [0] * 8, "the factory knew them all"


def test_a_class_that_joined_gets_its_bias() -> None:
    held, head, state, factory = kept(9)
    z, label = np.concatenate([factory, [[0] * 5, [10] * 5]]), np.array([0, 1, 2, 3, 3])
    head.refresh(z, label, label == 3, 4, moved=True)
    assert np.flatnonzero(state["head.bias"]).tolist() == [held.taught + 3]


def test_what_is_forgotten_is_never_named_again() -> None:
    held, head, state, factory = kept(10)
    head.add(1, factory[1])
    head.forget(1)
    for name in ("head.sum", "head.count", "head.bias"):
        assert not state[name][[1, held.taught + 1]].any()
        assert name == "head.bias" or state[name][[0, 2]].any()
    assert 1 not in held.scores(factory, 3).argmax(axis=1)
    assert not held.means[[1, held.taught + 1]].any()
