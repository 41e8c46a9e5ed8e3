"""The label-free detector: silent on what stays, loud soon after a change, exact, saved, free where nobody asks."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretend import CAPACITY, INPUTS, manifest, sample, tiny_bundle

from edgerun.errors import SpecError
from edgerun.kernels import drift
from edgerun.learn import watch
from edgerun.learn.watch import Watch
from edgerun.price import checkpoint_bytes, memory_plan, work
from edgerun.spec import Drift, LearningPlan, decode_manifest, encode_manifest

PLAN = Drift()
WATCHED = manifest(drift=PLAN)


def met(seed: int, count: int, classes: int = 4, shift: float = 0.0) -> list[tuple[np.ndarray, int]]:
    """Decided samples: of each class normal ones of its own mean and spread, in a random mix."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    x = 100 + 10 * labels[:, None] + rng.normal(shift, 1, (count, INPUTS)) * (3 + labels[:, None])
    q = np.clip(np.floor(x + 0.5), 0, 255).astype(np.int16)
    return [(row, int(label)) for row, label in zip(q, labels, strict=True)]


def alarms(watched: Watch, stream: list[tuple[np.ndarray, int]]) -> list[int]:
    return [place for place, (q, label) in enumerate(stream) if watched.meet(q, label)]


# ------------------------------------------------------------------ false alarms and delay


def test_a_stream_that_stays_raises_no_alarm() -> None:
    """A hundred thousand samples in twenty lives: `benchmarks/learning/condition.py` has the rate of many more."""
    assert sum(len(alarms(Watch(WATCHED), met(seed, 5000))) for seed in range(20)) == 0


def test_a_change_is_told_within_a_few_samples_of_what_is_possible() -> None:
    least = -(-PLAN.threshold * 2**15 // (drift.HALF - PLAN.slack))
    for seed in range(10):
        found = alarms(Watch(WATCHED), met(seed, 1000) + met(seed + 100, 200, shift=2.0))
        assert found
        assert 1000 + least // 2 <= found[0] <= 1000 + least + 10  # the score may have been above nothing


def test_a_small_change_is_told_later() -> None:
    delays = [alarms(Watch(WATCHED), met(s, 1000) + met(s + 100, 1000, shift=0.8))[0] - 1000 for s in range(10)]
    assert all(0 <= delay <= 300 for delay in delays)
    assert np.median(delays) > 25


def test_the_mix_of_classes_may_change() -> None:
    """One class for a long time, then another one, is no change of what samples are like."""
    for seed in range(5):
        mixed = met(seed, 4000)
        blocks = sorted(mixed[1000:], key=lambda pair: pair[1])
        assert alarms(Watch(WATCHED), mixed[:1000] + blocks) == []


def test_after_an_alarm_what_comes_is_usual() -> None:
    watched = Watch(WATCHED)
    found = alarms(watched, met(1, 1000) + met(2, 3000, shift=2.0))
    assert len(found) == 1
    assert watched.statistic < 0.5


# ------------------------------------------------------------------ the integers


@given(
    count=st.integers(1, 128),
    rows=st.lists(st.tuples(st.integers(-128, 255), st.integers(-128, 255)), min_size=1, max_size=20),
)
def test_the_distance_is_that_from_the_mean_times_the_count(count: int, rows: list[tuple[int, int]]) -> None:
    q, mean = (np.array(side, np.int16) for side in zip(*rows, strict=True))
    total = (mean.astype(np.int64) * count).astype(np.int16)
    assert drift.distance(q, total, count) == count * sum(abs(int(a) - int(b)) for a, b in rows)


def test_a_distance_that_int32_does_not_hold_is_as_far_as_can_be() -> None:
    q, total = np.full(70_000, 255, np.int16), np.zeros(70_000, np.int16)
    assert drift.distance(q, total, 128) == drift.FAR


@given(values=st.lists(st.integers(0, 50), min_size=1, max_size=40), value=st.integers(0, 50))
def test_the_evidence_is_the_rank_with_ties_counted_half(values: list[int], value: int) -> None:
    held = np.zeros(len(values), np.int32)
    for place, one in enumerate(values):
        drift.insert(held, place, one)
    assert held.tolist() == sorted(values)
    twice = sum(one < value for one in values) + sum(one <= value for one in values)
    assert drift.evidence(held, value) == (twice << 14) // len(values) - (1 << 14)
    assert abs(drift.evidence(held, value)) <= drift.HALF


@given(others=st.lists(st.integers(0, 10**6), min_size=2, max_size=64))
def test_the_evidence_of_all_ranks_adds_up_to_nothing(others: list[int]) -> None:
    """Whatever the distances: of n + 1 that are alike, each is the newest equally often."""
    found = []
    for place, value in enumerate(others):
        held = np.sort(np.array(others[:place] + others[place + 1 :], np.int32))
        found.append(drift.evidence(held, value))
    assert -len(found) <= sum(found) <= 0  # each is rounded down


def test_golden_scores() -> None:
    """Bits that other backends have to meet."""
    watched = Watch(manifest(drift=Drift(samples=8, slack=1000, threshold=1000)))
    scores = []
    for number in range(64):
        watched.meet(sample(number % 2, number) + (number > 40) * (number % 5), number % 2)
        scores.append(int(watched.arrays()["watch.score"][0]))
    assert scores[31] == 0
    assert watched.arrays()["watch.distance"][0].tolist() == [129, 137, 157, 181, 203, 217, 221, 239]
    assert scores[40::4] == [2192, 47344, 80208, 121264, 141840, 186992]


# ------------------------------------------------------------------ its state, its price, its record


def test_it_goes_on_from_what_was_saved() -> None:
    stream = met(3, 800) + met(4, 100, shift=2.0)
    whole = alarms(Watch(WATCHED), stream)
    for cut in (10, 200, 600, 815):
        first, second = Watch(WATCHED), Watch(WATCHED)
        assert alarms(first, stream[:cut]) == []
        second.load({name: array.copy() for name, array in first.arrays().items()})
        assert [cut + place for place in alarms(second, stream[cut:])] == whole


def test_a_state_of_another_plan_is_left_and_a_forgotten_class_is_as_new() -> None:
    watched, other = Watch(WATCHED), Watch(manifest(drift=Drift(samples=16)))
    alarms(watched, met(5, 1000))
    other.load(watched.arrays())
    assert not any(array.any() for array in other.arrays().values())
    watched.forget(2)
    assert watched.arrays()["watch.met"].tolist() == [64, 64, 0, 64, 0, 0]
    assert not watched.arrays()["watch.sum"][2].any()
    assert not watched.arrays()["watch.distance"][2].any()
    watched.reset()
    assert not any(array.any() for array in watched.arrays().values())


def test_without_a_plan_it_is_silent_and_costs_nothing() -> None:
    idle = Watch(manifest())
    assert alarms(idle, met(6, 200) + met(7, 200, shift=4.0)) == []
    assert idle.arrays() == {}
    assert np.isnan(idle.statistic)
    idle.forget(0)


def test_its_memory_is_what_the_planner_says() -> None:
    bundle = tiny_bundle()
    watched = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, learning=WATCHED.learning))
    own = sum(slot.bytes for slot in watch.slots(WATCHED).values())
    assert own == sum(array.nbytes for array in Watch(WATCHED).arrays().values())
    assert own == CAPACITY * (2 * INPUTS + 4 * PLAN.samples + 2) + 4
    before, after = memory_plan(bundle), memory_plan(watched)
    assert {name: slot.bytes for name, slot in after.slots.items() if name not in before.slots} == {
        name: slot.bytes for name, slot in watch.slots(WATCHED).items()
    }
    assert checkpoint_bytes(watched) - checkpoint_bytes(bundle) > own
    assert work(watched).inference.dense_macs - work(bundle).inference.dense_macs == INPUTS


def test_a_bundle_says_so_and_those_that_do_not_are_as_before() -> None:
    assert decode_manifest(encode_manifest(WATCHED)) == WATCHED
    assert b"drift" not in encode_manifest(manifest())
    for wrong in ({"samples": 7}, {"samples": 129}, {"slack": 8193}, {"threshold": 0}):
        with pytest.raises(msgspec.ValidationError, match=next(iter(wrong))):
            msgspec.convert({"drift": wrong}, LearningPlan)


def test_where_nobody_decides_there_is_nothing_to_compare() -> None:
    values = {"head": {"kind": "values"}, "classes": {"names": [], "capacity": 0}, "output": {"shape": [CAPACITY]}}
    raw = msgspec.to_builtins(msgspec.structs.replace(WATCHED, learning=LearningPlan(drift=PLAN))) | values
    with pytest.raises(SpecError, match=r"learning\.drift"):
        decode_manifest(msgspec.json.encode(raw))
