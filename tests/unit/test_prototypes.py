"""Means are exact, and the bias of a new class is never worse than none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.kernels import head
from edgerun.learn import prototypes
from edgerun.network import Prototypes


def head_of(classes: int, width: int) -> Prototypes:
    return Prototypes({
        "head.sum": np.zeros((classes, width), np.int32), "head.count": np.zeros(classes, np.int32),
        "head.bias": np.zeros(classes, np.int32),
    }, classes)  # fmt: skip


def first(old: int, known: int) -> np.ndarray:
    """The first classes are the factory's, the others joined."""
    return np.arange(known) < old


def balanced_errors(scores: np.ndarray, label: np.ndarray, new: int) -> float:
    """Share of the new class's examples that are missed, plus the share of the others that are wrong because of it."""
    old = scores.copy()
    old[:, new] = head.NEVER
    known = (label != new) & (old.argmax(axis=1) == label)
    said = np.where(scores[:, new] > old.max(axis=1), new, old.argmax(axis=1))
    return float((said[label == new] != new).mean() + (said[known] == new).mean())


def clusters(seed: int, shots: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Four old classes with 12 examples each and a new one, the fifth, close to one of them."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(-60, 60, (5, 6))
    centres[4] = centres[1] + rng.integers(-15, 16, 6)
    label = np.r_[np.repeat(np.arange(4), 12), np.full(shots, 4)]
    return np.round(centres[label] + rng.normal(0, spread, (len(label), 6))).astype(np.int64), label


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


def test_leave_one_out_scores_each_sample_by_the_others_of_its_class() -> None:
    z, label = clusters(1, 4, 20.0)
    held = head_of(6, 6)
    prototypes.recompute(held, z, label)
    scores = prototypes.leave_one_out(held, z, label, 6)
    for i in range(len(z)):
        for k in range(5):
            mine = z[(label == k) & (np.arange(len(z)) != i)]
            mean = np.floor(mine.sum(axis=0) / len(mine) + 0.5).astype(int)
            assert scores[i, k] == 2 * (z[i] @ mean) - mean @ mean
        assert scores[i, 5] == head.NEVER


@given(seed=st.integers(0, 2**32 - 1), shots=st.integers(1, 12), spread=st.floats(1.0, 60.0))
def test_a_calibrated_bias_takes_at_most_a_fifth_of_the_old_samples(seed: int, shots: int, spread: float) -> None:
    z, label = clusters(seed, shots, spread)
    held = head_of(5, 6)
    prototypes.recompute(held, z, label)
    scores = prototypes.leave_one_out(held, z, label, 5)
    rivals = scores[:, :4].argmax(axis=1) == label
    prototypes.calibrate(held, z, label, label, first(4, 5))
    if held.bias[4] > 0:
        taken = (scores + held.bias[:5])[rivals].argmax(axis=1) == 4
        assert taken.sum() <= rivals.sum() / 5
    assert not held.bias[:4].any()


@given(seed=st.integers(0, 2**32 - 1), shots=st.integers(1, 12), spread=st.floats(1.0, 60.0), joined=st.integers(1, 4))
def test_classes_that_join_share_one_budget(seed: int, shots: int, spread: float, joined: int) -> None:
    """However many they are, their bias is one number and takes no more than a fifth of the old samples."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(-60, 60, (4 + joined, 6))
    label = np.r_[np.repeat(np.arange(4), 12), np.repeat(np.arange(4, 4 + joined), shots)]
    z = np.round(centres[label] + rng.normal(0, spread, (len(label), 6))).astype(np.int64)
    held = head_of(4 + joined, 6)
    prototypes.recompute(held, z, label)
    scores = prototypes.leave_one_out(held, z, label, 4 + joined)
    before = scores.argmax(axis=1)
    prototypes.calibrate(held, z, label, label, first(4, 4 + joined))
    assert not held.bias[:4].any()
    assert len(set(held.bias[4:].tolist())) == 1
    right, after = scores[:, :4].argmax(axis=1) == label, (scores + held.bias).argmax(axis=1)
    if held.bias[4] > 0:
        assert (after[right] >= 4).sum() <= right.sum() / 5
    both_new = (before >= 4) & (after >= 4)
    assert (before[both_new] == after[both_new]).all()


def test_the_bias_is_a_quarter_of_the_margin_that_four_in_five_exceed() -> None:
    """Ten old samples along a line at 0 to 9, their class's mean at 0, two new ones far off: margins by hand."""
    held = head_of(3, 1)
    held.sums[:, 0], held.counts[:] = [0, 100, -100], [1, 1, 1]
    held.refresh()
    z, label = np.arange(10)[:, None], np.zeros(10, np.int64)
    prototypes.calibrate(held, z, label, label, first(1, 3))
    margins = sorted(0 - (2 * x * 100 - 100**2) for x in range(10))
    assert held.bias.tolist() == [0, margins[2] // 4, margins[2] // 4]


def test_a_class_without_a_mean_gets_no_bias() -> None:
    held = head_of(3, 1)
    held.sums[:2, 0], held.counts[:2] = [0, 100], 1
    held.refresh()
    prototypes.calibrate(held, np.zeros((4, 1), np.int64), np.zeros(4, np.int64), np.zeros(4, np.int64), first(1, 3))
    assert held.bias.tolist() == [0, 2500, 0]


def test_a_bias_helps_a_class_of_few_shots() -> None:
    """So that the property above is not kept by never setting a bias."""
    gained = 0.0
    for seed in range(40):
        z, label = clusters(seed, 4, 25.0)
        held = head_of(5, 6)
        prototypes.recompute(held, z, label)
        scores = prototypes.leave_one_out(held, z, label, 5)
        prototypes.calibrate(held, z, label, label, first(4, 5))
        gained += balanced_errors(scores, label, 4) - balanced_errors(scores + held.bias, label, 4)
    assert gained > 1


@pytest.mark.parametrize("held_labels", [[], [4, 4], [0, 0, 1]])
def test_nothing_to_compare_leaves_the_bias_alone(held_labels: list[int]) -> None:
    label = np.array(held_labels, np.int64)
    z = np.arange(6 * len(label)).reshape(len(label), 6)
    held = head_of(5, 6)
    prototypes.recompute(held, z, label)
    prototypes.calibrate(held, z, label, label, first(4, 5))
    assert not held.bias.any()


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


def test_only_what_was_taught_is_recomputed_and_left_out() -> None:
    held, factory = two_means(np.random.default_rng(4))
    z = np.concatenate([factory, factory[:1] + 9, factory[:1] + 13])  # two of class 0 are from the field
    label = np.array([0, 1, 2, 0, 0])
    row = label + held.taught * np.array([0, 0, 0, 1, 1])
    sums = held.sums.copy()
    prototypes.recompute(held, z[3:], row[3:])
    assert (held.sums[:4] == sums[:4]).all()
    assert held.counts[held.taught] == 2
    scores = prototypes.leave_one_out(held, z, row, 3)
    assert scores[1, 1] == (factory[1] ** 2).sum()  # a mean of a hundred is not moved by one
    other = z[4]
    own = 2 * (z[3] @ other) - other @ other
    first = 2 * (z[3] @ factory[0]) - factory[0] @ factory[0]
    assert scores[3, 0] == max(own, first)
