"""A plan hands out every byte once, aligned, and the views are exactly what was planned."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.arrays import AnyArray
from edgerun.errors import SpecError
from edgerun.plan import ALIGNMENT, PARTS, Plan, Slot, carve, make_arena, make_plan

DTYPES = st.sampled_from(["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"])
SHAPES = st.lists(st.integers(0, 40), max_size=3).map(tuple)
LIVES = st.none() | st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda pair: (min(pair), max(pair)))
PERMANENT = st.builds(Slot, shape=SHAPES, dtype=DTYPES, part=st.sampled_from(PARTS[:-1]))
SCRATCH = st.builds(Slot, shape=SHAPES, dtype=DTYPES, part=st.just("scratch"), live=LIVES)
SLOTS = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), PERMANENT | SCRATCH, max_size=20)


def overlap(plan: Plan, a: str, b: str) -> bool:
    left, right = plan.slots[a], plan.slots[b]
    shared = min(left.offset + left.bytes, right.offset + right.bytes) - max(left.offset, right.offset)
    return shared > 0


@given(slots=SLOTS)
def test_no_two_slots_that_live_together_share_a_byte(slots: dict[str, Slot]) -> None:
    plan = make_plan(slots)
    for a, b in itertools.combinations(slots, 2):
        if slots[a].meets(slots[b]):
            assert not overlap(plan, a, b)


@given(slots=SLOTS)
def test_views_are_aligned_and_exactly_as_planned(slots: dict[str, Slot]) -> None:
    plan = make_plan(slots)
    arena = make_arena(plan)
    views = carve(arena, plan)
    assert list(views) == list(slots)
    assert arena.nbytes == plan.total_bytes
    for name, view in views.items():
        assert (view.shape, view.dtype.name, view.nbytes) == (slots[name].shape, slots[name].dtype, slots[name].bytes)
        assert plan.slots[name].offset % ALIGNMENT == 0
        assert plan.slots[name].offset + view.nbytes <= plan.total_bytes
        if view.size:
            assert view.ctypes.data == arena.ctypes.data + plan.slots[name].offset


@given(slots=SLOTS)
def test_the_parts_sum_to_the_whole(slots: dict[str, Slot]) -> None:
    plan = make_plan(slots)
    sizes = plan.bytes_by_part()
    assert sum(sizes.values()) == plan.total_bytes
    for part in PARTS[:-1]:
        assert sizes.get(part, 0) >= sum(slot.bytes for slot in slots.values() if slot.part == part)


@given(slots=SLOTS)
def test_scratch_is_never_larger_than_laid_end_to_end_nor_smaller_than_its_busiest_step(slots: dict[str, Slot]) -> None:
    scratch = [slot for slot in slots.values() if slot.part == "scratch"]
    used = make_plan(slots).bytes_by_part().get("scratch", 0)
    assert used <= sum(slot.bytes + -slot.bytes % ALIGNMENT for slot in scratch)
    for step in range(10):
        moment = Slot((0,), "int8", "scratch", (step, step))
        assert used >= sum(slot.bytes for slot in scratch if slot.meets(moment))


def test_slots_stand_in_the_order_given() -> None:
    plan = make_plan({"w": Slot((65,), "int8", "weights"), "v": Slot((3,), "int16"), "z": Slot((2, 2), "bool")})
    assert {name: placed.offset for name, placed in plan.slots.items()} == {"w": 0, "v": 128, "z": 192}
    assert plan.total_bytes == 256
    assert plan.bytes_by_part() == {"weights": 128, "state": 128}


def test_scratch_that_never_meets_shares_its_bytes() -> None:
    plan = make_plan(
        {
            "first": Slot((100,), "int32", "scratch", (0, 1)),
            "second": Slot((64,), "int32", "scratch", (2, 3)),
            "both": Slot((16,), "int32", "scratch", (1, 2)),
            "kept": Slot((10,), "int8"),
        }
    )
    assert {name: placed.offset for name, placed in plan.slots.items()} == {
        "first": 64,
        "second": 64,
        "both": 64 + 448,
        "kept": 0,
    }
    assert plan.bytes_by_part() == {"state": 64, "scratch": 448 + 64}


def test_a_gap_that_fits_exactly_is_used() -> None:
    lives = {"a": (0, 0), "b": (0, 1), "c": (1, 1)}
    plan = make_plan({name: Slot((192,), "int8", "scratch", live) for name, live in lives.items()})
    assert {name: placed.offset for name, placed in plan.slots.items()} == {"a": 0, "b": 192, "c": 0}


def test_views_reach_the_arena_and_nothing_else() -> None:
    plan = make_plan({"a": Slot((3,), "int16"), "b": Slot((3,), "int16")})
    arena = make_arena(plan)
    carve(arena, plan)["a"][:] = -1
    assert np.flatnonzero(arena).tolist() == [0, 1, 2, 3, 4, 5]
    assert carve(arena, plan)["b"].tolist() == [0, 0, 0]


def test_an_empty_plan_has_no_bytes() -> None:
    plan = make_plan({})
    assert plan.total_bytes == 0
    assert plan.bytes_by_part() == {}
    assert carve(make_arena(plan), plan) == {}


PLAN = make_plan({"a": Slot((64,), "int8")})


@pytest.mark.parametrize(
    ("arena", "reason"),
    [
        (make_arena(make_plan({})), "arena has 0 bytes, the plan needs 64"),
        (np.zeros(64, dtype=np.int8), "not a contiguous row of uint8"),
        (np.zeros((2, 64), dtype=np.uint8), "not a contiguous row of uint8"),
        (np.zeros(256, dtype=np.uint8)[::2], "not a contiguous row of uint8"),
        (make_arena(make_plan({"a": Slot((128,), "int8")}))[1:], "does not start on a 64-byte boundary"),
    ],
    ids=["short", "dtype", "rank", "stride", "alignment"],
)
def test_an_arena_that_does_not_suit_is_refused(arena: AnyArray, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        carve(arena, PLAN)


@pytest.mark.parametrize(
    ("shape", "part", "live", "reason"),
    [
        ((-1,), "state", None, "negative side"),
        ((1,), "state", (0, 1), "only scratch may"),
        ((1,), "scratch", (2, 1), "ends before it begins"),
    ],
)
def test_slots_that_contradict_themselves_are_refused(shape: tuple[int], part: str, live: object, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        Slot(shape, "int8", part, live)  # type: ignore[arg-type]  # wrong on purpose


def test_a_chain_of_equal_buffers_takes_two_of_them() -> None:
    """Whatever they are called: names in another order than lifetimes once cost a third one."""
    names = ("conv0", "conv4", "conv7", "conv10", "conv13", "conv16", "conv19", "conv22", "conv25")
    slots = {name: Slot((8000,), "int8", "scratch", (k, k + 1)) for k, name in enumerate(names)}
    assert make_plan(slots).total_bytes == 2 * 8000
