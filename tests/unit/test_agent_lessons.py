"""Past samples by their numbers, and what may wait to be learned from them."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from bench import BUNDLE, Feed, examples
from pretend import CAPACITY, INPUTS, sample

from edgerun.agent.facts import Facts
from edgerun.agent.lessons import QUEUE, Lessons
from edgerun.agent.senses import WINDOWS, Seen, Senses
from edgerun.errors import Refused
from edgerun.lifetime import Lifetime
from edgerun.telemetry.commands import Command, Feedback, Teach
from firmware_sim.flash import SimFlash


class Pupil:
    """A device that senses, remembers and lets lessons wait, but gives none."""

    def __init__(self, flash: SimFlash) -> None:
        self.feed = Feed()
        self.senses = Senses(self.feed, BUNDLE.manifest, Facts(flash))
        self.lessons = Lessons(Lifetime(BUNDLE, flash), self.senses)

    def show(self, count: int) -> list[int]:
        """The numbers of so many samples, each another."""
        numbers = []
        for k in range(count):
            self.feed.queue.append(sample(k % 4, k).astype(np.uint8))
            seen = self.senses.read()
            assert seen is not None
            self.senses.remember(seen.q)
            numbers.append(self.senses.number)
        return numbers

    def teach(self, label: str, count: int = 3) -> Command:
        args = msgspec.convert({"label": label, "examples": examples(4, count)}, Teach)
        command = Command("teach", f"teach {label}", args)
        self.lessons.teach(command, self.lessons.asked(args), 0.5)
        return command

    def correct(self, *items: tuple[int, str]) -> Command:
        said: list[dict[str, Any]] = [{"sample": number, "label": label} for number, label in items]
        args = msgspec.convert({"items": said}, Feedback)
        command = Command("feedback", f"feedback {items}", args)
        self.lessons.correct(command, args, 0.5)
        return command


@pytest.fixture
def pupil() -> Pupil:
    return Pupil(SimFlash(seed=1))


# ------------------------------------------------------------------ senses


def test_the_newest_windows_are_remembered_by_number(pupil: Pupil) -> None:
    numbers = pupil.show(WINDOWS + 2)
    assert numbers == list(range(1, WINDOWS + 3))
    assert [pupil.senses.remembers(number) for number in (2, 3, WINDOWS + 2, WINDOWS + 3)] == [False, True, True, False]
    np.testing.assert_array_equal(pupil.senses.window(3), sample(2, 2))
    with pytest.raises(Refused, match=f"^feedback sample 2 is not among the last {WINDOWS} windows$"):
        pupil.senses.window(2)
    pupil.senses.forget()
    assert not pupil.senses.remembers(3)


def test_no_sample_number_comes_twice_whatever_the_restarts() -> None:
    flash = SimFlash(seed=1)
    seen: list[int] = []
    for _ in range(3):
        seen += Pupil(flash).show(5)
        flash = flash.reboot("none")
    assert len(set(seen)) == 15
    assert seen == sorted(seen)


def test_another_sensor_is_read_from_its_start(pupil: Pupil) -> None:
    pupil.senses.exhausted = True
    other = Feed()
    other.queue.append(np.full(INPUTS, 7, np.uint8))
    pupil.senses.watch(other)
    assert not pupil.senses.exhausted
    seen = pupil.senses.read()
    assert seen is not None
    assert (seen.q == 7).all()


# ------------------------------------------------------------------ lessons


def test_jobs_come_in_order_and_stay_until_they_are_finished(pupil: Pupil) -> None:
    lessons = pupil.lessons
    numbers = pupil.show(2)
    first, second = pupil.teach("mug"), pupil.correct((numbers[0], "a"), (numbers[1], "b"))
    assert (lessons.waiting, lessons.due) == (5, True)
    job = lessons.first
    assert job is not None
    assert (job.command, job.teaching, job.probe_before) == (first, first.args, 0.5)
    assert [lesson.label for lesson in job.lessons] == ["mug"] * 3
    job.lessons.clear()
    assert (lessons.first, lessons.due, bool(lessons)) == (job, False, True)
    lessons.finish()
    job = lessons.first
    assert job is not None
    assert (job.command, job.teaching) == (second, None)
    assert [(lesson.sample, lesson.label) for lesson in job.lessons] == [(1, "a"), (2, "b")]
    np.testing.assert_array_equal(job.lessons[1].q, sample(1, 1))


def test_places_are_kept_for_classes_that_wait_to_be_taught(pupil: Pupil) -> None:
    for label in ("e", "f", "e", "a"):
        pupil.teach(label)
    pupil.lessons.hear(Seen(sample(0, 1), "unheard of"), 0.5)  # a stream teaches no new class
    with pytest.raises(Refused, match=f"^class 'g' is over the capacity of {CAPACITY} classes$"):
        pupil.teach("g")
    pupil.lessons.finish()
    with pytest.raises(Refused, match="'g'"):
        pupil.teach("g")
    for _ in range(2):
        pupil.lessons.finish()
    pupil.teach("g")
    pupil.teach("h")


def test_what_is_refused_leaves_nothing_behind(pupil: Pupil) -> None:
    number = pupil.show(1)[0]
    for items, reason in (
        ([(number, "a"), (number, "b")], "was called 'a', now 'b'"),
        ([(number, "zebra")], "'zebra' is none of the 4 classes"),
        ([(number, "a"), (99, "a")], "99 is not among"),
    ):
        with pytest.raises(Refused, match=reason):
            pupil.correct(*items)
    assert not pupil.lessons
    pupil.correct((number, "b"))


def test_lessons_of_a_stream_fill_the_queue_and_no_more(pupil: Pupil) -> None:
    q = sample(0, 1)
    for label in ("a", None):
        pupil.lessons.hear(Seen(q, label), 0.5)
    assert pupil.lessons.waiting == 1
    for _ in range(QUEUE):
        pupil.lessons.hear(Seen(q, "a"), 0.5)
    assert pupil.lessons.waiting == QUEUE
    with pytest.raises(Refused, match=f"^{QUEUE} lessons wait already, 3 more are over the bound of {QUEUE}$"):
        pupil.teach("mug")
    assert pupil.lessons.clear() == [], "a stream hopes for no answer"
    assert (pupil.lessons.waiting, bool(pupil.lessons)) == (0, False)


def test_what_is_cleared_is_told_to_who_asked_and_forgotten(pupil: Pupil) -> None:
    number = pupil.show(1)[0]
    asked = [pupil.teach("mug"), pupil.correct((number, "a"))]
    assert pupil.lessons.clear() == asked
    pupil.correct((number, "b"))
