"""The same records give the same bits, from any point; what cannot follow is refused and changes nothing."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretend import CAPACITY, INPUTS, NAMES, NEURONS, sample
from pretend import tensors as tensors_of

from edgerun.arrays import Tensors
from edgerun.errors import DataError, SpecError, StoreError
from edgerun.learn import learner as module
from edgerun.learn import records
from edgerun.learn.learner import Learner, MemoryKeeper
from edgerun.learn.records import Boundary, Entry, Forget, Lesson, NewClass, Rollback, Settle, Verdict
from edgerun.network import Network
from edgerun.spec import (
    ClassTable,
    EProp,
    Guard,
    Head,
    InputSpec,
    Intelligence,
    LearningPlan,
    Level,
    Lif,
    Manifest,
    PhaseRate,
    PlasticRate,
    Readout,
    Replay,
)

PLASTIC = ("hidden.input", "hidden.recurrent", "out.input")
EPROP: dict[str, Any] = {
    "layer": "hidden", "readout": "out", "chunk_steps": 12, "post_shift": 6, "recent_labels": 0,
    "rates": tuple(PlasticRate(tensor=name, eta=500, shift=22) for name in PLASTIC),
}  # fmt: skip
REPLAY = Replay(capacity=24, passes=2, refresh_every=3)
INTELLIGENCE = Intelligence(strength=14, damping=1000, every=5)


def manifest_of(
    eprop: dict[str, Any] | None = None, *, head: str = "prototypes", intelligence: Intelligence | None = INTELLIGENCE,
    replay: Replay = REPLAY, plain: bool = False, width: int = CAPACITY,
) -> Manifest:  # fmt: skip
    rule = None if plain else EProp(**(EPROP | (eprop or {})))
    return Manifest(
        name="net", input=InputSpec(shape=(INPUTS,), dtype="uint8"), encoder=PhaseRate(steps=12, full_scale=16),
        layers=(
            Lif(name="hidden", inputs=INPUTS, outputs=NEURONS, weight_exponent=8),
            Readout(name="out", inputs=NEURONS, outputs=width, weight_exponent=8),
        ),
        head=Head(kind="prototypes", features="hidden") if head == "prototypes" else Head(),
        classes=ClassTable(names=NAMES, capacity=CAPACITY),
        learning=LearningPlan(rule=rule, intelligence=intelligence, replay=replay, guard=Guard(every=4)), seed=77,
    )  # fmt: skip


def learner_of(manifest: Manifest | None = None, keeper: MemoryKeeper | None = None, *, exemplars: int = 12) -> Learner:
    manifest = manifest or manifest_of()
    labels = np.arange(exemplars) % len(NAMES)
    x = np.array([sample(int(k), i) for i, k in enumerate(labels)]).reshape(-1, INPUTS)
    out = next(layer for layer in manifest.layers if isinstance(layer, Readout))
    learner = Learner(
        Network(manifest, tensors_of(out.outputs)),
        priors={"hidden.input": np.full((INPUTS, NEURONS), 40, np.uint8)},
        exemplars=(x, labels) if exemplars else None,
        keeper=keeper,
    )
    return learner


def saved(learner: Learner) -> tuple[Tensors, dict[str, Any]]:
    return {name: array.copy() for name, array in learner.arrays().items()}, learner.meta()


def weights(learner: Learner) -> list[list[int]]:
    return [learner.network.tensors[name].tolist() for name in PLASTIC]


def teach(learner: Learner, label: int, number: int = 0, level: Level = "full") -> tuple[Lesson, Any]:
    lesson = learner.plan_lesson(sample(label, number), label, level)
    return lesson, learner.apply(lesson)


def living(keeper: MemoryKeeper | None = None) -> Learner:
    return learner_of(manifest_of({"recent_labels": 3}), keeper)


def script(learner: Learner) -> Iterator[Entry]:
    """A life: each entry is made when the one before has been applied, as a device does."""

    def lessons(first: int, count: int, classes: int, level: Level) -> Iterator[Entry]:
        for number in range(first, first + count):
            yield learner.plan_lesson(sample(number % classes, number), number % classes, level, sample=number)

    yield Settle()
    yield from lessons(0, 6, 4, "full")
    yield Verdict(good=True, correct=9, of=10)
    yield Boundary(reason="command")
    yield NewClass(label="e")
    yield from (learner.plan_lesson(sample(4, n), 4, "head") for n in range(3))
    yield Settle()
    yield from lessons(20, 4, 5, "light")
    yield Verdict(good=False, correct=1, of=10)
    yield from lessons(40, 3, 4, "sparse")
    yield NewClass(label="f")
    yield Forget(label=1)
    yield from lessons(60, 3, 4, "full")
    yield Rollback(to="last-good")
    yield from lessons(80, 2, 4, "full")
    yield Rollback(to="factory")
    yield from lessons(90, 4, 4, "full")


def live() -> tuple[list[bytes], list[bytes], list[tuple[tuple[Tensors, dict[str, Any]], Any]]]:
    """(records, digest after each, what was saved and last good after each) of one life."""
    keeper = MemoryKeeper()
    learner = living(keeper)
    journal, digests, kept = [], [], []
    for entry in script(learner):
        learner.apply(entry)
        journal.append(records.encode(entry))
        digests.append(learner.digest())
        kept.append((saved(learner), keeper.recall()))
    return journal, digests, kept


@pytest.fixture(scope="module")
def life() -> tuple[list[bytes], list[bytes], list[tuple[tuple[Tensors, dict[str, Any]], Any]]]:
    return live()


def test_a_replayed_journal_gives_the_same_bits_after_every_record(life: Any) -> None:
    journal, digests, _ = life
    learner = living()
    assert len(set(digests)) == len(digests) - 2  # a good verdict, a boundary right after another
    for record, digest in zip(journal, digests, strict=True):
        learner.apply(records.decode(record))
        assert learner.digest() == digest


def test_a_saved_state_continues_from_any_point(life: Any) -> None:
    journal, digests, kept = life
    for cut, ((arrays, meta), last_good) in enumerate(kept):
        keeper = MemoryKeeper()
        if last_good:
            keeper.keep(*last_good)
        learner = living(keeper)
        teach(learner, 2, 7)  # any other state
        learner.load(arrays, meta)
        assert learner.digest() == digests[cut]
        for record, digest in zip(journal[cut + 1 : cut + 8], digests[cut + 1 : cut + 8], strict=False):
            learner.apply(records.decode(record))
            assert learner.digest() == digest, cut


def test_scores_follow_the_learned_state_in_single_file_and_in_batches(life: Any) -> None:
    learner = learner_of()
    for record in life[0][:12]:
        learner.apply(records.decode(record))
    x = np.array([sample(k % 5, 500 + k) for k in range(40)])
    assert learner.scores(x).tolist() == [learner.network.scores(q).tolist() for q in x]
    assert learner.scores(x).shape == (40, 5)


def test_learning_learns() -> None:
    """So that determinism is not that of a stone."""
    learner = learner_of(manifest_of(intelligence=None))
    learner.apply(Settle())
    first = [teach(learner, n % 4, n)[1].confidence for n in range(8)]
    for number in range(8, 60):
        teach(learner, number % 4, number)
    last = [teach(learner, n % 4, n)[1].confidence for n in range(60, 68)]
    assert np.mean(last) > np.mean(first) + 0.3
    assert learner.updates == 3 * 68


# ------------------------------------------------------------------ what a lesson does


def test_a_head_lesson_touches_no_weight() -> None:
    learner = learner_of()
    before, arrays = weights(learner), saved(learner)[0]
    lesson, taught = teach(learner, 1, level="head")
    assert (lesson.deep, lesson.draws, taught.updates, taught.norm) == (False, [], 0, 0.0)
    assert np.isnan(taught.confidence)
    assert weights(learner) == before
    changed = {name for name, array in learner.arrays().items() if (array != arrays[name]).any()}
    assert changed == {
        "head.sum",
        "head.count",
        "replay.x",
        "replay.label",
        "replay.field",
        "replay.since",
        "replay.seen",
    }
    assert learner.arrays()["head.count"].tolist() == [0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(("level", "updates"), [("full", 3), ("light", 2), ("sparse", 2), ("head", 0), ("infer", 0)])
def test_a_level_pays_for_its_replay(level: Level, updates: int) -> None:
    learner = learner_of()
    lesson, taught = teach(learner, 3, level=level)
    assert (taught.updates, learner.updates, len(lesson.draws)) == (updates, updates, max(0, updates - 1))
    assert (taught.norm > 0) == (updates > 0)


def test_the_answer_is_the_one_before_the_lesson() -> None:
    learner = learner_of()
    for k in range(4):
        teach(learner, k, 1, "head")
    said = learner.network.infer(sample(2, 1)).label
    assert said == 2
    wrong = learner.plan_lesson(sample(2, 1), 0, "full")
    taught = learner.apply(wrong)
    assert taught is not None
    assert not taught.correct
    assert teach(learner, 2, 1)[1].correct == (learner.network.infer(sample(2, 1)).label == 2)


def test_planning_changes_nothing() -> None:
    learner = learner_of()
    before = learner.digest()
    lesson = learner.plan_lesson(sample(1, 1), 1, "full", sample=9)
    assert learner.digest() == before == lesson.before
    assert (lesson.number, lesson.sample, lesson.update) == (1, 9, 0)
    assert learner.plan_lesson(sample(1, 1), 1, "full", sample=9) == lesson


def test_a_lesson_that_the_readout_is_sure_of_is_counted_and_skipped() -> None:
    learner = learner_of(manifest_of({"error_threshold": 0}))
    before = weights(learner)
    _, taught = teach(learner, 1)
    assert (taught.updates, taught.norm, learner.updates, learner.lessons, learner.deep_lessons) == (0, 0.0, 0, 1, 1)
    assert 0 <= taught.confidence <= 1
    assert weights(learner) == before


def test_the_error_is_kept_to_labels_seen_lately() -> None:
    columns = {}
    for recent in (0, 2):
        learner = learner_of(manifest_of({"recent_labels": recent}, intelligence=None, replay=Replay(capacity=0)))
        before = learner.network.tensors["out.input"].astype(int).copy()
        shadow = learner.arrays()["shadow.out.input"].copy()
        for number in range(10):
            teach(learner, number % 2, number)
        moved = (learner.arrays()["shadow.out.input"] != shadow).any(axis=0)
        columns[recent] = moved.tolist()
        assert before.shape == (NEURONS, CAPACITY)
    assert columns[0] == [True] * 4 + [False] * 2  # all classes that have a name
    assert columns[2] == [True] * 2 + [False] * 4


def test_a_ring_of_recent_labels_forgets_the_oldest() -> None:
    learner = learner_of(manifest_of({"recent_labels": 3}, replay=Replay(capacity=0)))
    for number, label in enumerate((0, 1, 2, 3, 3)):
        teach(learner, label, number)
    assert sorted(learner.arrays()["recent"].tolist()) == [2, 3, 3]
    learner.apply(Forget(label=3))
    assert sorted(learner.arrays()["recent"].tolist()) == [-1, -1, 2]


def test_importance_from_training_is_there_and_boundaries_come_by_count() -> None:
    learner = learner_of(manifest_of(intelligence=Intelligence(strength=14, damping=10, every=5)))
    assert (learner.arrays()["importance.hidden.input"] == 40).all()
    omega, ref = learner.arrays()["omega.hidden.input"], learner.arrays()["ref.hidden.input"]
    anchor = ref.copy()
    teach(learner, 0, 0)
    assert omega.any()
    assert (ref == anchor).all()
    teach(learner, 1, 1)  # updates 4 to 6: over the fifth
    assert not omega.any()
    assert (ref == learner.arrays()["shadow.hidden.input"]).all()
    assert (ref != anchor).any()
    assert len(learner.importance()) == NEURONS * (INPUTS + NEURONS + CAPACITY)


def test_prototypes_are_recomputed_after_some_deep_lessons() -> None:
    learner = learner_of()
    counts = learner.arrays()["head.count"]
    for number in range(2):
        teach(learner, 0, number)
    assert not counts.any()
    teach(learner, 0, 2)  # the third: refresh_every
    held = learner.arrays()["replay.label"]
    assert counts.tolist() == [int((held == k).sum()) for k in range(CAPACITY)]
    assert sum(counts) == 15


def test_classes_of_which_the_factory_had_no_sample_get_one_bias() -> None:
    """ "d" was named by the factory, "e" joined: neither has factory samples, so both have few."""
    bare = learner_of()
    tensors = tensors_of()
    for label in range(3):
        z = bare.features(np.array([sample(label, 50 + n) for n in range(20)]))
        tensors["head.sum"][label], tensors["head.count"][label] = z.sum(axis=0), len(z)
    labels = np.arange(12) % 3
    x = np.array([sample(int(k), i) for i, k in enumerate(labels)])
    learner = Learner(Network(manifest_of(), tensors), priors={}, exemplars=(x, labels))
    learner.apply(NewClass(label="e"))
    for number in range(3):
        teach(learner, 3, number, "head")
        teach(learner, 4, number, "head")
    assert not learner.arrays()["head.bias"].any()
    learner.apply(Settle())
    bias = learner.arrays()["head.bias"].tolist()
    assert bias[3] == bias[4] > 0
    assert bias[:3] == [0, 0, 0]


def test_a_bundle_without_rule_or_memory_teaches_prototypes_only() -> None:
    learner = learner_of(manifest_of(plain=True, intelligence=None, replay=Replay(capacity=0)))
    lesson, taught = teach(learner, 1)
    assert (lesson.level, taught.updates) == ("head", 0)
    assert set(learner.arrays()) == {"head.sum", "head.count", "head.bias", "recent"}
    learner.apply(Settle())
    learner.apply(Boundary(reason="idle"))
    assert learner.importance().size == 0


def test_an_empty_memory_has_nothing_to_replay() -> None:
    learner = learner_of(exemplars=0)
    lesson, taught = teach(learner, 1)
    assert (lesson.draws, taught.updates) == ([], 1)
    learner.apply(Settle())


def test_a_logit_head_learns_and_knows_no_new_class() -> None:
    learner = learner_of(manifest_of(head="logits", width=4))
    before = learner.digest()
    teach(learner, 3)
    assert learner.digest() != before
    with pytest.raises(DataError, match="the bundle's head has no prototypes"):
        learner.apply(NewClass(label="e"))


def test_a_readout_too_narrow_for_new_classes_is_refused() -> None:
    with pytest.raises(SpecError, match="readout out has 4 outputs for 6 classes"):
        learner_of(manifest_of(width=4))


# ------------------------------------------------------------------ undo


def test_a_bad_verdict_returns_to_the_last_good_state_and_numbers_go_on() -> None:
    learner = learner_of()
    for number in range(3):
        teach(learner, number, number)
    learner.apply(Verdict(good=True, correct=8, of=8))
    good, _ = saved(learner)
    good_weights, scores = weights(learner), learner.network.scores(sample(1, 1)).tolist()
    learner.apply(NewClass(label="e"))
    for number in range(3):
        teach(learner, 4, number)
    assert weights(learner) != good_weights
    learner.apply(Verdict(good=False, correct=2, of=8))
    assert all((array == good[name]).all() for name, array in learner.arrays().items())
    assert weights(learner) == good_weights
    assert learner.network.scores(sample(1, 1)).tolist() == scores
    assert (learner.classes, learner.lessons, learner.updates) == (list(NAMES), 6, 18)


@pytest.mark.parametrize("entry", [Verdict(good=False, correct=0, of=9), Rollback(to="last-good")], ids=repr)
def test_without_a_good_state_the_way_back_leads_to_the_factory(entry: Entry) -> None:
    learner, fresh = learner_of(), learner_of()
    teach(learner, 1)
    learner.apply(entry)
    assert all((array == fresh.arrays()[name]).all() for name, array in learner.arrays().items())
    assert weights(learner) == weights(fresh)
    assert learner.lessons == 1


def test_the_factory_is_the_factory_in_every_bit() -> None:
    learner = learner_of()
    fresh, scores = learner.digest(), learner.network.scores(sample(0, 0)).tolist()
    learner.apply(NewClass(label="e"))
    for number in range(4):
        teach(learner, 4, number)
    learner.apply(Boundary(reason="command"))
    learner.apply(Rollback(to="factory"))
    assert learner.digest() == fresh
    assert weights(learner) == weights(learner_of())
    assert learner.network.scores(sample(0, 0)).tolist() == scores


def test_what_is_kept_does_not_change_with_the_learner() -> None:
    keeper = MemoryKeeper()
    learner = learner_of(keeper=keeper)
    learner.apply(Verdict(good=True, correct=1, of=1))
    before = learner.digest()
    teach(learner, 1)
    other = learner_of()
    kept = keeper.recall()
    assert kept is not None
    other.load(*kept)
    assert other.digest() == before


def test_forgetting_takes_prototype_and_examples_and_leaves_the_index() -> None:
    learner = learner_of()
    learner.apply(Settle())
    learner.apply(Forget(label=1))
    assert learner.network.scores(sample(1, 1))[1] == -(1 << 31)
    assert not (learner.arrays()["replay.label"] == 1).any()
    assert learner.classes == list(NAMES)
    teach(learner, 1, 1, "head")
    assert learner.network.infer(sample(1, 1)).label == 1


def test_new_classes_join_up_to_the_capacity() -> None:
    learner = learner_of()
    for name in "ef":
        learner.apply(NewClass(label=name))
    assert learner.class_index("f") == 5
    assert learner.class_index("z") is None
    teach(learner, 5, 1, "head")
    assert learner.network.infer(sample(5, 1)).label == 5
    for name, reason in (("g", "over the capacity of 6 classes"), ("a", "already known")):
        before = learner.digest()
        with pytest.raises(DataError, match=reason):
            learner.apply(NewClass(label=name))
        assert learner.digest() == before


# ------------------------------------------------------------------ refused, nothing changed


def spoilt(**fields: Any) -> Callable[[Learner], Lesson]:
    def make(learner: Learner) -> Lesson:
        sound = learner.plan_lesson(sample(1, 1), 1, "full")
        parts = {name: getattr(sound, name) for name in sound.__struct_fields__}
        return Lesson(**(parts | fields))

    return make


REFUSED = {
    "an unknown label": (spoilt(label=4), r"label 4 is outside \[0, 4\)"),
    "a negative label": (spoilt(label=-1), r"label -1 is outside \[0, 4\)"),
    "a number that skips": (spoilt(number=3), "lesson 3 does not follow lesson 1"),
    "a number again": (spoilt(number=1), "lesson 1 does not follow lesson 1"),
    "a short input": (spoilt(q=bytes(11)), "has 11 inputs, the bundle takes 12"),
    "no input": (spoilt(q=b""), "has 0 inputs"),
    "a draw outside": (spoilt(draws=[0, 24]), "place 24 of the reservoir, which holds no sample"),
    "a draw of nothing": (spoilt(draws=[23]), "place 23 of the reservoir"),
    "a negative draw": (spoilt(draws=[-1]), "place -1 of the reservoir"),
    "forgetting nobody": (lambda _: Forget(label=9), r"label 9 is outside \[0, 4\)"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_follow_is_refused_and_changes_nothing(make: Callable[[Learner], Entry], reason: str) -> None:
    learner = learner_of()
    teach(learner, 0)
    before, entry = learner.digest(), make(learner)
    with pytest.raises(DataError, match=reason):
        learner.apply(entry)
    assert learner.digest() == before
    assert teach(learner, 1)[0].number == 2


def test_a_deep_lesson_without_a_rule_is_refused() -> None:
    learner = learner_of(manifest_of(plain=True, intelligence=None))
    before = learner.digest()
    with pytest.raises(DataError, match="level full, the bundle has no learning rule"):
        learner.apply(spoilt(level="full")(learner))
    assert learner.digest() == before


@pytest.mark.parametrize("label", [-1, 4, 99])
def test_a_lesson_on_an_unknown_label_is_not_planned(label: int) -> None:
    with pytest.raises(DataError, match=rf"label {label} is outside \[0, 4\)"):
        learner_of().plan_lesson(sample(0, 0), label, "full")


def test_saved_state_of_another_bundle_is_refused() -> None:
    learner = learner_of()
    arrays, meta = saved(learner)
    teach(learner, 1)
    before = learner.digest()
    wrong = [
        {name: array for name, array in arrays.items() if name != "recent"},
        arrays | {"recent": arrays["recent"].astype(np.int32)},
        arrays | {"shadow.out.input": arrays["shadow.out.input"][1:]},
    ]
    for state in wrong:
        with pytest.raises(DataError, match=r"saved state has no (recent|shadow\.out\.input) of int16"):
            learner.load(state, meta)
        assert learner.digest() == before
    far = arrays | {"shadow.out.input": np.full_like(arrays["shadow.out.input"], -32513)}
    with pytest.raises(DataError, match=r"shadow\.out\.input 32513 from its middle, the bound is 32512"):
        learner.load(far, meta)
    assert learner.digest() == before


# ------------------------------------------------------------------ the guard's score


def test_the_guard_mixes_probe_and_field() -> None:
    learner = learner_of()
    learner.apply(Settle())
    probe = np.array([sample(k % 4, 700 + k) for k in range(50)]), np.arange(50) % 4
    right, of = learner.guard_score(*probe)
    assert of == 32  # half of 64 samples; nothing has come from the field
    assert right == sum(
        learner.network.infer(probe[0][i]).label == probe[1][i] for i in np.linspace(0, 49, 32).astype(int)
    )
    for number in range(6):
        teach(learner, number % 4, number)
    assert learner.guard_score(*probe)[1] == 32 + int((learner.arrays()["replay.field"] == 1).sum())
    assert learner.guard_score(probe[0][:0], probe[1][:0])[1] == int((learner.arrays()["replay.field"] == 1).sum())
    plain = learner_of(manifest_of(replay=Replay(capacity=0)))
    assert plain.guard_score(probe[0][:0], probe[1][:0]) == (0, 0)


def test_a_batch_smaller_or_larger_than_the_block_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.array([sample(k % 4, k) for k in range(37)])
    learner = learner_of()
    want = learner.features(x).tolist()
    monkeypatch.setattr(module, "BATCH", 5)
    assert learner_of().features(x).tolist() == want


# ------------------------------------------------------------------ records

ENTRIES: list[Entry] = [
    Lesson(
        number=1, sample=2**63, q=bytes(range(12)), label=3, level="full", draws=[1, 2], threshold=32768, update=9,
        before=b"\x00" * 32,
    ),
    NewClass(label="Grün \N{SNOWMAN}"), Settle(), Boundary(reason="idle"), Verdict(good=False, correct=3, of=64),
    Rollback(to="factory"), Forget(label=2),
]  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: type(entry).__name__)
def test_records_come_back_as_they_were(entry: Entry) -> None:
    assert records.decode(records.encode(entry)) == entry


def decoded(data: bytes) -> Entry | None:
    """The entry, or None where it was refused with one line; anything else that is raised fails the test."""
    try:
        return records.decode(data)
    except StoreError as err:
        return None if "\n" not in str(err) else pytest.fail(f"more than one line: {err}")


@given(data=st.binary(max_size=80))
def test_foreign_bytes_are_no_record(data: bytes) -> None:
    entry = decoded(data)
    assert entry is None or records.decode(records.encode(entry)) == entry


@given(which=st.sampled_from(ENTRIES), at=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_record_is_refused_or_another_whole_one(which: Entry, at: int, byte: int, cut: bool) -> None:
    good = records.encode(which)
    at %= len(good)
    data = good[:at] if cut else good[:at] + bytes([byte]) + good[at + 1 :]
    entry = decoded(data)
    assert entry is None or (not cut and isinstance(entry, Entry))


HOSTILE = {
    "an unknown tag": b"\x91\xa4evil",
    "an unknown level": records.encode(ENTRIES[0]).replace(b"full", b"fuel"),
    "a reason that is none": b"\x92\xa8boundary\xa4what",
    "a label that is text": b"\x92\xa6forget\xa11",
    "an array without end": b"\xdd\xff\xff\xff\xff",
    "deep nesting": b"\x91" * 5000,
    "deep nesting after the last field": b"\x93\xa6forget\x01" + b"\x91" * 5000,
    "a label that is not UTF-8": b"\x92\xa5class\xa2\xff\xfe",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_records_are_refused(data: bytes) -> None:
    with pytest.raises(StoreError, match="journal record"):
        records.decode(data)
