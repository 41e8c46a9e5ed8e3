"""The real agent on a pretend board: every verb, every refusal, every broken reading, and a budget that holds."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from bench import AMPLE_MW, BOARD, BUNDLE, PERIOD_S, Bench, examples
from pretend import CAPACITY, INPUTS, sample, twin_digest

from edgerun.agent import METRICS_EVERY
from edgerun.agent.lessons import QUEUE
from edgerun.learn.records import encode
from edgerun.price import prices, work
from edgerun.telemetry.commands import Example
from firmware_sim.flash import PowerCut

LESSON_BYTES = 49  # of the journal
DATA_MESSAGES = 4  # of 100 samples: 25 rows, a message every 10 s


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.agent.abandon()


# ------------------------------------------------------------------ verbs


def test_feedback_is_learned_and_answered_when_it_is_durable(bench: Bench) -> None:
    done = bench.correct(0, 4)
    assert (done.status, done.detail["lessons"]) == ("done", 4)
    assert bench.agent.life.committed_lessons == 4
    assert [each.status for each in bench.results(done.id)] == ["accepted", "done"]
    assert bench.replays()


def test_a_new_class_is_taught_judged_and_known(bench: Bench) -> None:
    done = bench.do("teach", label="mug", examples=examples(4))
    assert (done.status, done.detail["examples"], done.detail["classes"]) == ("done", 3, 5)
    bench.show(sample(4, 50))
    assert bench.agent.answer == (bench.agent.senses.number, "mug")
    assert [event.detail["label"] for event in bench.events("class-added")] == ["mug"]
    assert len(bench.events("taught")) == len(bench.events("consolidated")) == 1
    more = bench.do("teach", label="mug", examples=examples(4, 2, 10), consolidate=False)
    assert (more.status, more.detail["classes"]) == ("done", 5)
    assert len(bench.events("class-added")) == len(bench.events("consolidated")) == 1
    assert bench.replays()


def test_classes_that_wait_to_be_taught_count_against_the_capacity(bench: Bench) -> None:
    names = [bench.send("teach", label=label, examples=examples(4)) for label in ("e", "f", "g")]
    bench.hear()
    assert [bench.results(name)[0].status for name in names] == ["accepted", "accepted", "rejected"]
    assert f"capacity of {CAPACITY}" in bench.results(names[2])[0].detail["reason"]


def test_a_class_that_waits_survives_that_the_one_before_is_rolled_back(bench: Bench) -> None:
    first = bench.send("teach", label="bad", examples=examples(4))
    second = bench.send("teach", label="mug", examples=examples(5))
    bench.hear()
    bench.agent.life._best = 2.0  # so that the guard is appalled
    bad = bench.agent.lessons.first
    while bench.agent.lessons.first is bad:
        bench.device.cycle()
    bench.agent.life._best = 0.0
    while bench.agent.busy:
        bench.device.cycle()
    bench.hear()
    assert bench.results(first)[-1].status == "failed"
    assert (bench.results(second)[-1].status, bench.results(second)[-1].detail["examples"]) == ("done", 3)
    assert bench.agent.learner.classes == ["a", "b", "c", "d", "mug"]
    assert bench.replays()


def test_a_rehearsal_tells_and_changes_nothing(bench: Bench) -> None:
    bench.correct(0, 3)
    before = bench.learned()
    done = bench.do("teach", label="mug", examples=examples(4), dry_run=True)
    assert done.status == "done"
    assert done.detail["examples_before"] == 0.0
    assert done.detail["examples_after"] > 0.6
    assert {"probe_before", "probe_after"} < done.detail.keys()
    assert bench.learned() == before
    bench.show(sample(4, 50))
    assert bench.agent.answer[1] in "abcd"
    assert bench.replays()


def test_rollback_forget_and_teaching_again(bench: Bench) -> None:
    factory = bench.agent.life.digest()
    assert bench.do("rollback", to="last-good").status == "done", "to the factory's, where nothing was judged yet"
    bench.correct(0, 5)
    good = bench.do("teach", label="mug", examples=examples(4))
    bench.correct(9, 2)
    back = bench.do("rollback", to="last-good")
    assert (good.status, back.status) == ("done", "done")
    assert bench.agent.learner.classes[-1] == "mug"
    assert bench.do("forget-class", label="mug").status == "done"
    bench.show(sample(4, 50))
    assert bench.agent.answer[1] != "mug"
    assert (bench.agent.learner.reservoir.label != 4).all()
    assert bench.do("rollback", to="last-good").status == "done"
    assert (bench.agent.learner.reservoir.label != 4).all(), "no rollback brings back what was to be forgotten"
    assert bench.do("teach", label="mug", examples=examples(4)).status == "done"
    bench.show(sample(4, 50))
    assert bench.agent.answer[1] == "mug"
    assert bench.do("rollback", to="factory").detail["digest_after"] == factory
    bench.correct(20, 1)
    assert bench.do("rollback", to="last-good").status == "done"
    assert bench.agent.learner.classes == list("abcd"), "after a return to the factory, that is the last good state"
    assert bench.replays()


def test_a_wipe_leaves_no_sample_on_the_flash(bench: Bench) -> None:
    factory = bench.agent.life.digest()
    bench.correct(0, 5)
    bench.do("teach", label="mug", examples=examples(4))
    secrets = [sample(4, i).astype(np.uint8).tobytes() for i in range(3)] + [b"mug"]
    assert all(any(secret in data for data in bench.learned()[2].values()) for secret in secrets)
    bench.show(sample(0, 77))
    waiting = bench.send("feedback", items=[{"sample": bench.agent.senses.number, "label": "a"}])
    bench.hear()
    assert bench.do("wipe-learned").detail["digest"] == factory == bench.agent.life.digest()
    assert bench.results(waiting)[-1].status == "failed"
    assert not any(secret in data for data in bench.learned()[2].values() for secret in secrets)
    assert not bench.agent.senses.remembers(bench.agent.senses.number)
    bench.reboot()
    assert bench.agent.life.digest() == factory
    assert bench.correct(3, 2).status == "done"
    assert bench.replays()


def test_checkpoint_consolidate_probe_and_rebirth_are_answered(bench: Bench) -> None:
    bench.correct(0, 3)
    assert bench.do("checkpoint").detail == {"generation": 1}
    assert bench.do("consolidate").detail == {"updates": bench.agent.learner.updates}
    probe = bench.do("probe").detail
    assert probe == {"accuracy": round(bench.agent.school.probe, 4), "digest": bench.agent.life.digest()}
    assert bench.do("rebirth").status == "done"


def test_a_pause_for_some_time_ends_by_itself_and_with_a_restart(bench: Bench) -> None:
    assert bench.do("learn-pause", for_s=10).status == "done"
    numbers = bench.show(sample(0, 1), sample(1, 1))
    name = bench.send("feedback", items=[{"sample": number, "label": "a"} for number in numbers])
    for _ in range(10):
        bench.device.cycle()
    assert bench.agent.learner.lessons == 0
    for _ in range(14):
        bench.device.cycle()
    assert bench.results(name)[-1].status == "done"
    assert len(bench.events("resumed")) == 1
    assert bench.do("learn-pause", for_s=1000).status == "done"
    bench.reboot()
    assert bench.correct(0, 1).status == "done", "what was to end does not outlive a restart"
    assert bench.do("learn-pause").status == "done"
    bench.reboot()
    assert bench.agent.reporter._mode == "paused"
    assert bench.do("learn-resume", for_s=5).status == "done"
    assert bench.correct(4, 1).status == "done"
    for _ in range(12):
        bench.device.cycle()
    assert bench.agent.reporter._mode == "paused"


def test_a_pause_ends_although_nothing_waits_to_be_learned(bench: Bench) -> None:
    bench.do("learn-pause", for_s=2)
    for _ in range(6):
        bench.device.cycle()
    bench.hear()
    assert len(bench.events("resumed")) == 1


FIVE = [msgspec.to_builtins(Example.of(np.zeros(5, np.uint8)))]
NOT_FINITE = msgspec.to_builtins(Example.of(np.zeros(INPUTS, np.float32))) | {
    "data": base64.b64encode(np.full(INPUTS, np.nan, "<f4").tobytes()).decode()
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown label": ("feedback", {"items": [{"sample": 1, "label": "zebra"}]}, "zebra"),
    "unknown sample": ("feedback", {"items": [{"sample": 999, "label": "a"}]}, "999 is not among"),
    "wrong shape": ("teach", {"label": "mug", "examples": FIVE}, "5 values"),
    "not finite": ("teach", {"label": "mug", "examples": [NOT_FINITE]}, "not finite"),
    "rehearsal of a wrong shape": (
        "teach",
        {"label": "a", "examples": FIVE, "dry_run": True},
        "5 values",
    ),
    "no examples": ("teach", {"label": "mug", "examples": []}, "examples"),
    "unknown class": ("forget-class", {"label": "zebra"}, "zebra"),
    "previous": ("rollback", {"to": "previous"}, "only last-good and factory can be replayed"),
    "generation": ("rollback", {"to": 3}, "only last-good and factory can be replayed"),
    "under the floor": ("budget-set", {"power_mw": 0.5}, "not above its floor"),
    "no bound": ("budget-set", {}, "names no field"),
    "unknown field": ("probe", {"deep": True}, "deep"),
}  # fmt: skip


@pytest.mark.parametrize(("verb", "args", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_leaves_everything_as_it_was(
    bench: Bench, verb: str, args: dict[str, Any], reason: str
) -> None:
    bench.correct(0, 3)
    before = bench.learned()
    refused = bench.do(verb, **args)
    assert refused.status == "rejected"
    assert reason in refused.detail["reason"]
    assert "\n" not in refused.detail["reason"]
    assert bench.learned() == before
    assert len(bench.events("budget-refused")) == (verb == "budget-set" and bool(args))
    assert bench.correct(3, 1).status == "done"


def test_a_class_over_the_capacity_is_refused(bench: Bench) -> None:
    for label, first in (("e", 0), ("f", 10)):
        assert bench.do("teach", label=label, examples=examples(4, first=first)).status == "done"
    before = bench.learned()
    refused = bench.do("teach", label="g", examples=examples(5))
    assert (refused.status, bench.learned()) == ("rejected", before)


def test_what_the_budget_can_never_pay_at_once_is_refused_with_the_figure(tmp_path: Path) -> None:
    costs = prices(BOARD, work(BUNDLE))
    bench = Bench(tmp_path, costs.sleep_mw + 4 * costs.inference_uj / PERIOD_S / 1e3)
    before = bench.learned()
    refused = bench.do("checkpoint")
    assert (refused.status, bench.learned()) == ("rejected", before)
    assert "mJ at once" in refused.detail["reason"]
    bench.agent.abandon()


def test_a_flood_of_lessons_is_bounded(bench: Bench) -> None:
    bench.do("learn-pause")
    three = examples(0)
    accepted = 0
    for _ in range(QUEUE // 3 + 30):
        name = bench.send("teach", label="a", examples=three)
        bench.hear()
        accepted += [each.status for each in bench.results(name)] == ["accepted"]
    assert accepted == QUEUE // 3
    assert bench.agent.lessons.waiting <= QUEUE
    assert bench.do("probe").status == "done"


def test_commands_that_wait_for_energy_are_bounded(bench: Bench) -> None:
    names = [bench.send("probe") for _ in range(40)]
    bench.hear()
    assert [len(bench.results(name)) for name in names] == [0] * 16 + [1] * 24
    while bench.agent.busy:
        bench.device.cycle()
    bench.hear()
    assert {bench.results(name)[0].status for name in names[:16]} == {"done"}


def test_the_budget_that_was_set_outlives_a_restart(bench: Bench) -> None:
    assert bench.do("budget-set", power_mw=50).detail == {"power_mw": 50.0}
    bench.reboot()
    assert bench.agent.energy.budget.power_mw == 50.0


# ------------------------------------------------------------------ the guard


def test_wrong_lessons_are_rolled_back_and_said_to_be(bench: Bench) -> None:
    for first in range(0, 8, 4):
        bench.correct(first, 4)
    assert not bench.events("rolled-back")
    learner = bench.agent.learner
    for first in range(8, 48, 4):
        bench.correct(first, 4, wrong=2)
        bench.device.cycle()
        bench.hear()
        if bench.events("rolled-back"):
            break
        good, probe = {name: array.copy() for name, array in learner.arrays().items()}, bench.agent.school.probe
    told = bench.events("rolled-back")[0].detail
    assert told["best"] - told["correct"] / told["of"] > BUNDLE.manifest.learning.guard.max_drop
    assert bench.agent.school.probe == probe
    for name, array in learner.arrays().items():
        np.testing.assert_array_equal(array, good[name])
    assert bench.replays()
    bench.reboot()
    assert bench.replays()


def test_after_a_class_is_forgotten_the_guard_measures_anew(bench: Bench) -> None:
    """The probe's samples of that class are wrong from then on: good lessons must not be undone for it."""
    bench.correct(0, 4)
    assert bench.do("forget-class", label="d").status == "done"
    assert bench.agent.school.probe <= 0.8
    for first in range(0, 12, 4):
        bench.correct(first, 3)
        bench.device.cycle()
    assert bench.agent.life.unjudged < 9
    assert not bench.events("rolled-back")


def test_the_guard_remembers_through_a_restart_what_was_good(bench: Bench) -> None:
    bench.correct(0, 4)
    bench.device.cycle()
    life = bench.agent.life
    best = life._best
    bench.correct(4, 2, wrong=2)
    bench.reboot()
    assert bench.agent.life._best == best
    assert bench.agent.life.unjudged == 2


# ------------------------------------------------------------------ broken readings, broken clocks


def test_broken_readings_are_counted_and_harm_nothing(bench: Bench) -> None:
    digest = bench.agent.life.digest()
    good = sample(0, 1).astype(float)
    nan = good.copy()
    nan[3] = np.nan
    broken = [nan, good[:5], np.zeros((2, 3, 4, 5)), np.array(["x"] * INPUTS), np.full(INPUTS, np.inf)]
    bench.feed.queue.extend([good, *broken, good, good])
    for _ in range(10):
        bench.device.cycle()
    agent = bench.agent
    assert (agent.senses.bad, agent.inferences, agent.senses.missed, agent.senses.stuck) == (5, 3, 2, 1)
    assert agent.life.digest() == digest
    assert bench.correct(0, 2).status == "done"


def test_clock_jumps_change_nothing_that_is_learned(tmp_path: Path) -> None:
    digests = []
    for jumps in ((), (1e6, -3e6, 5.0)):
        bench = Bench(tmp_path / f"{len(jumps)}")
        for first in range(0, 12, 4):
            assert bench.correct(first, 4).status == "done"
            for by_s in jumps:
                bench.device.clock.jump_wall(by_s)
                bench.device.clock.jump_wall(-by_s + 1.0)
        digests.append((bench.agent.life.digest(), bench.device.clock.device_s()))
        bench.agent.abandon()
    assert digests[0] == digests[1]


# ------------------------------------------------------------------ the same lessons, the same bits


def lived(folder: Path, batches: list[int], *, restart_after: tuple[int, ...] = (), seed: int = 1) -> str:
    """The digest after sixteen lessons, corrected in batches; restarts are clean or by power cut."""
    bench = Bench(folder, seed=seed)
    first = 0
    for number, count in enumerate(batches):
        assert bench.correct(first, count).status == "done"
        first += count
        if number in restart_after:
            bench.reboot()
    for _ in range(4):
        bench.device.cycle()
    digest = str(bench.agent.life.digest())
    assert digest == twin_digest(BUNDLE, bench.entries)
    assert bench.replays()
    bench.device.stop()
    return digest


def test_the_same_lessons_give_the_same_bits(tmp_path: Path) -> None:
    first = lived(tmp_path / "a", [4, 4, 4, 4])
    assert lived(tmp_path / "b", [4, 4, 4, 4], seed=9) == first
    assert lived(tmp_path / "c", [1] * 16) == first, "whatever the batches"
    assert lived(tmp_path / "d", [8, 8]) == first
    assert lived(tmp_path / "e", [2] * 8, restart_after=(0, 3, 4)) == first, "whatever the restarts"
    assert lived(tmp_path / "f", [4, 4, 4, 3]) != first


# ------------------------------------------------------------------ power cuts


def after_every_cut(tmp_path: Path, act: Callable[[Bench], object]) -> Iterator[tuple[Bench, bool]]:
    """A bench rebooted after `act` was cut short at its first, second... write; ends with the uncut run."""
    for write in itertools.count(1):
        bench, done = Bench(tmp_path / f"{write}", seed=write), False
        bench.correct(0, 3)
        bench.device.cut_power_after(write, ("lost", "torn", "kept")[write % 3])
        try:
            act(bench)
            done = True
        except PowerCut:
            pass
        bench.reboot()
        yield bench, done
        bench.agent.abandon()
        if done:
            return


ACTS: dict[str, Callable[[Bench], object]] = {
    "feedback": lambda bench: bench.correct(10, 3),
    "teach": lambda bench: bench.do("teach", label="mug", examples=examples(4)),
    "checkpoint": lambda bench: bench.do("checkpoint"),
    "rollback": lambda bench: bench.do("rollback", to="factory"),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_command_cut_short_at_any_write_is_done_whole_or_not_answered(
    tmp_path: Path, act: Callable[[Bench], object]
) -> None:
    for bench, _ in after_every_cut(tmp_path, act):
        assert bench.agent.learner.lessons >= 3 or not bench.agent.learner.lessons
        assert bench.replays()
        assert bench.correct(20, 2).status == "done"
        assert bench.replays()


def test_a_wipe_cut_short_is_whole_or_has_not_begun(tmp_path: Path) -> None:
    factory = twin_digest(BUNDLE, [])
    for bench, done in after_every_cut(tmp_path, lambda bench: bench.do("wipe-learned")):
        wiped = bench.agent.life.digest() == factory
        assert wiped or (bench.agent.learner.lessons == 3 and not done)
        secret = sample(0, 1000).astype(np.uint8).tobytes()
        assert any(secret in data for data in bench.learned()[2].values()) is not wiped
        assert bench.correct(20, 2).status == "done"
        assert bench.replays()


def test_a_budget_cut_short_is_the_old_or_the_new(tmp_path: Path) -> None:
    seen = set()
    for bench, done in after_every_cut(tmp_path, lambda bench: bench.do("budget-set", power_mw=70)):
        seen.add((bench.agent.energy.budget.power_mw, done))
        assert bench.agent.learner.lessons == 3
    assert {(AMPLE_MW, False), (70.0, True)} <= seen <= {(AMPLE_MW, False), (70.0, False), (70.0, True)}


# ------------------------------------------------------------------ the budget


@pytest.mark.parametrize("seed", range(6))
def test_no_window_exceeds_its_budget_whatever_is_asked(tmp_path: Path, seed: int) -> None:
    """Random budgets, feedback, classes and commands; the meter knows nothing of the governor's reckoning."""
    rng = np.random.default_rng(seed)
    costs = prices(BOARD, work(BUNDLE))
    service_mw = costs.sleep_mw + costs.inference_uj / PERIOD_S / 1e3
    learning_mw = service_mw + costs.lesson_uj["full"] / PERIOD_S / 1e3

    def some_budget() -> float:
        return float(service_mw * 1.2 + rng.random() ** 2 * 1.5 * learning_mw)

    bench, since_s = Bench(tmp_path, some_budget()), 0.0
    levels = set()
    for step in range(240):
        numbers = bench.show(*(sample(int(rng.integers(4)), 9000 + step) for _ in range(int(rng.integers(1, 4)))))
        kind = rng.random()
        if kind < 0.5:
            items = [
                {"sample": n, "label": "abcd"[rng.integers(4)]} for n in numbers if bench.agent.senses.remembers(n)
            ]
            if items:
                bench.send("feedback", items=items)
        elif kind < 0.56:
            verb = str(rng.choice(["probe", "checkpoint", "consolidate"]))
            bench.send(verb)
        elif kind < 0.6:
            label, dry_run = str(rng.choice(list("aefgh"))), bool(rng.random() < 0.3)
            bench.send("teach", label=label, examples=examples(4), dry_run=dry_run)
        elif kind < 0.62:
            bench.send("rollback", to=str(rng.choice(["last-good", "factory"])))
        elif kind < 0.63:
            bench.send("wipe-learned")
        elif kind < 0.64:
            bench.send("forget-class", label="b")
        levels.add(bench.agent.energy.decision.level)
        if step % 60 == 59:
            now_s, budget_mw = bench.device.clock.device_s(), bench.agent.energy.budget.power_mw
            assert bench.device.power.worst_window_mw(since_s, now_s) <= budget_mw
            bench.send("budget-set", power_mw=some_budget())
            bench.hear()
            since_s = now_s
    assert bench.replays()
    bench.agent.abandon()


def test_a_small_budget_sheds_learning_and_a_large_one_brings_it_back(tmp_path: Path) -> None:
    costs = prices(BOARD, work(BUNDLE))
    small_mw = 1.15 * (costs.sleep_mw + (costs.inference_uj + costs.telemetry_uj) / PERIOD_S / 1e3)
    bench = Bench(tmp_path, small_mw)
    for i in range(60):
        bench.show(sample(i % 4, i))
    assert bench.agent.inferences == 60, "service goes before plasticity"
    shed = bench.agent.learner.lessons
    number = bench.agent.senses.number
    bench.send("budget-set", power_mw=AMPLE_MW)
    bench.send("feedback", items=[{"sample": number, "label": "a"}])
    for _ in range(80):
        bench.device.cycle()
    assert bench.agent.energy.decision.level == "full"
    assert bench.agent.learner.lessons == shed + 1
    bench.agent.abandon()


# ------------------------------------------------------------------ counted


def test_flash_bytes_of_a_lesson_are_counted(bench: Bench) -> None:
    bench.correct(0, 1)
    journal, written = f"journal/{BUNDLE.id}/00000000.log", bench.device.bytes_written
    size = bench.device.flash.size(journal) or 0
    bench.correct(1, 2)
    grown = (bench.device.flash.size(journal) or 0) - size
    assert grown == sum(8 + len(encode(entry)) for entry in bench.entries[-2:]) == 2 * LESSON_BYTES
    counter = len((bench.folder / "settings" / "device.json").read_bytes())  # so that the command cannot come twice
    assert bench.device.bytes_written - written == grown + counter


def test_messages_of_a_hundred_samples_are_counted(bench: Bench) -> None:
    sent = len(bench.link.sent)
    bench.show(*(sample(i % 4, i) for i in range(100)))
    bench.hear()
    kinds = [topic.rsplit("/", 1)[1] for topic, _, _ in bench.link.sent[sent:]]
    assert kinds == ["data"] * DATA_MESSAGES
    rows = [len(msgspec.json.decode(payload)["t"]) for _, payload, _ in bench.link.sent[sent:]]
    assert sum(rows) <= 100 / METRICS_EVERY < sum(rows) + 5
