"""Labels that contradict what is known surely: set aside while they scatter, learned once they agree."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from pretend import CAPACITY, NAMES, manifest, sample, tiny_bundle

from edgerun.arrays import I32
from edgerun.errors import SpecError
from edgerun.learn import doubt
from edgerun.learn.doubt import Doubter
from edgerun.learn.learner import Learner, MemoryKeeper
from edgerun.learn.records import Forget, NewClass, Rollback, Verdict
from edgerun.lifetime import new_learner
from edgerun.spec import Doubt, LearningPlan, decode_manifest, encode_manifest

PLAN = Doubt(margins=16)
DOUBTING = manifest(doubt=PLAN)


def doubter() -> Doubter:
    state = {name: np.zeros(slot.shape, slot.dtype) for name, slot in doubt.slots(DOUBTING).items()}
    made = Doubter(PLAN, state)
    made.reset()
    return made


def scores(looks: int, margin: int) -> I32:
    found = np.full(4, 100, np.int32)
    found[looks] += margin
    return found


def warmed() -> Doubter:
    """It has seen sixteen right answers with margins of 1 to 16: surely is 2 and more."""
    made = doubter()
    assert not any(made.doubts(scores(k % 4, k + 1), k % 4) for k in range(16))
    return made


# ------------------------------------------------------------------ the rule


def test_before_it_knows_what_sure_is_it_doubts_nothing() -> None:
    made = doubter()
    assert not any(made.doubts(scores(0, 100), 1) for _ in range(50))


def test_what_is_sure_is_what_nine_in_ten_right_answers_were() -> None:
    assert [warmed().doubts(scores(0, margin), 1) for margin in (0, 1, 2, 3, 100)] == [False, False, True, True, True]


def test_a_label_that_agrees_is_never_doubted() -> None:
    made = warmed()
    assert not any(made.doubts(scores(k % 4, 50), k % 4) for k in range(40))


def test_labels_that_scatter_are_set_aside_and_those_that_agree_are_learned() -> None:
    made, rng = warmed(), np.random.default_rng(1)
    wrong = rng.random(200) < 0.3
    told = [int(rng.integers(1, 4)) if is_wrong else 0 for is_wrong in wrong]
    assert [made.doubts(scores(0, 50), label) for label in told] == wrong.tolist()
    made = warmed()
    assert [made.doubts(scores(0, 50), 3) for _ in range(8)] == [True] * 4 + [False] * 4, "the fifth of eight is most"
    assert made.doubts(scores(0, 50), 1)
    assert [made.doubts(scores(1, 50), 3) for _ in range(2)] == [True, True], "each class has votes of its own"


def test_one_class_alone_contradicts_nothing() -> None:
    made = warmed()
    assert not made.doubts(np.array([5], np.int32), 0)


def test_margins_beyond_int32_count_as_its_largest() -> None:
    made = doubter()
    far = np.array([2**31 - 1, -(2**31)], np.int32)
    for _ in range(16):
        assert not made.doubts(far, 0)
    assert made.doubts(far, 1)


def test_a_forgotten_class_leaves_no_vote() -> None:
    made = warmed()
    for _ in range(4):
        made.doubts(scores(0, 50), 3)
    made.forget(3)
    assert [made.doubts(scores(0, 50), 3) for _ in range(5)] == [True] * 4 + [False]


# ------------------------------------------------------------------ in the learner


def learner(keeper: MemoryKeeper | None = None) -> Learner:
    bundle = tiny_bundle()
    plan = msgspec.structs.replace(bundle.manifest.learning, doubt=PLAN)
    return new_learner(replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, learning=plan)), keeper)


def feed(mine: Learner, lessons: list[tuple[int, int, int]]) -> list[bool]:
    """Lessons (class, number, label) of the stream; which were set aside."""
    found = []
    for number, (true, place, label) in enumerate(lessons, start=1):
        taught = mine.apply(mine.plan_lesson(sample(true, place), label, "full", number))
        assert taught is not None
        found.append(taught.aside)
    return found


RIGHT = [(k % 4, 700 + k, k % 4) for k in range(24)]


def test_a_doubted_lesson_changes_nothing_but_its_own_books() -> None:
    mine = learner()
    feed(mine, RIGHT)
    before, meta = {name: array.copy() for name, array in mine.arrays().items()}, mine.meta()
    for number in range(900, 930):
        mine.load(before, meta)
        if feed(mine, [(0, number, 2)]) == [True]:
            break
    assert (mine.updates, mine.lessons) == (meta["updates"], meta["lessons"] + 1)
    changed = {name for name, array in mine.arrays().items() if not np.array_equal(array, before[name])}
    assert changed == {"doubt.told"}


def test_what_is_taught_on_purpose_and_new_classes_are_never_doubted() -> None:
    mine = learner()
    feed(mine, RIGHT)
    mine.apply(NewClass(label="e"))
    for number in range(30):
        taught = mine.apply(mine.plan_lesson(sample(0, 900 + number), 2, "head"))
        assert taught is not None
        assert not taught.aside
    assert not any(feed(mine, [(0, 900 + k, len(NAMES)) for k in range(30)]))


def test_a_replay_doubts_the_same_lessons() -> None:
    rng = np.random.default_rng(5)
    wrong = [(int(k), 1000 + n, int(rng.integers(4))) for n, k in enumerate(rng.integers(4, size=60))]
    mine, keeper = learner(), MemoryKeeper()
    aside = feed(mine, RIGHT + wrong)
    assert 5 < sum(aside) < 60
    again = learner(keeper)
    assert feed(again, RIGHT + wrong) == aside
    assert again.digest() == mine.digest()
    half = learner(keeper)
    feed(half, RIGHT)
    half.apply(Verdict(good=True, correct=1, of=1))
    feed(half, wrong[:20])
    half.apply(Rollback(to="last-good"))
    books = {name: array.copy() for name, array in half.arrays().items() if name.startswith("doubt.")}
    fresh = learner()
    feed(fresh, RIGHT)
    assert all(np.array_equal(fresh.arrays()[name], array) for name, array in books.items()), (
        "a rollback takes votes back"
    )
    half.apply(Forget(label=1))
    assert (half.arrays()["doubt.told"] != 1).all()


# ------------------------------------------------------------------ its record


def test_a_bundle_says_so_and_pays_for_it() -> None:
    assert decode_manifest(encode_manifest(DOUBTING)) == DOUBTING
    assert b"doubt" not in encode_manifest(manifest())
    assert sum(slot.bytes for slot in doubt.slots(DOUBTING).values()) == 4 * 16 + 2 + 2 * CAPACITY * PLAN.votes
    assert {name for name in learner().arrays() if name.startswith("doubt.")} == doubt.slots(DOUBTING).keys()
    for wrong in ({"margins": 7}, {"share": 32768}, {"votes": 1}):
        with pytest.raises(msgspec.ValidationError, match=next(iter(wrong))):
            msgspec.convert({"doubt": wrong}, LearningPlan)


def test_where_nobody_decides_there_is_nothing_to_doubt() -> None:
    values = {"head": {"kind": "values"}, "classes": {"names": [], "capacity": 0}, "output": {"shape": [CAPACITY]}}
    raw = msgspec.to_builtins(msgspec.structs.replace(DOUBTING, learning=LearningPlan(doubt=PLAN))) | values
    with pytest.raises(SpecError, match=r"learning\.doubt"):
        decode_manifest(msgspec.json.encode(raw))
