"""The firmware on a serial line: frames in, lines out, the bits of every other way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pretend import sample, tiny_bundle

from edgerun.learn import records
from edgerun.learn.learner import Learner
from edgerun.lifetime import new_learner
from exporters.firmware.project import project
from firmware_sim.qemu import machine, stream
from firmware_sim.qemu.runner import learned
from firmware_sim.qemu.serial import Serial

MISSING = [name for name in ("arm-none-eabi-gcc", "qemu-system-arm", "make") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed here: {', '.join(MISSING)}")

BUNDLE = tiny_bundle()
LABELS = (0, 1, 2, 3, 1, 0)
LESSONS = stream.frame(stream.GUARD, 0) + b"".join(
    stream.sample(sample(label, k).astype("u1").tobytes(), label) for k, label in enumerate(LABELS)
) + stream.frame(stream.SETTLE)  # fmt: skip
ASKED = b"".join(stream.sample(sample(k % 4, 50 + k).astype("u1").tobytes()) for k in range(6))


def serial(board: str, cache: Path) -> Serial:
    files = project(BUNDLE, board, port="uart")
    files["Makefile"] = files["Makefile"].replace("OPT ?= -O2", "OPT ?= -O2 -Werror")
    return Serial(machine.build(files, cache), board)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("firmware")


@pytest.fixture(scope="module")
def line(cache: Path) -> Iterator[Serial]:
    with serial("mps2-an386", cache) as line:
        yield line


def untimed(text: str) -> list[list[str]]:
    """Lines without ticks."""
    at = {"answer": 2, "lesson": 5}
    return [[word for k, word in enumerate(words) if k != at.get(event)] for event, words in stream.lines(text)]


def taught() -> Learner:
    learner = new_learner(BUNDLE, backend="numpy")
    for k, label in enumerate(LABELS):
        learner.apply(learner.plan_lesson(sample(label, k), label, "full"))
    learner.apply(records.Settle())
    return learner


def digest(text: str) -> bytes:
    arrays, counters = learned(BUNDLE, text)
    taken = new_learner(BUNDLE, backend="numpy")
    taken.load(arrays, {**counters, "classes": list(taken.classes)})
    return taken.digest()


@pytest.mark.parametrize("board", machine.BOARDS)
def test_every_boards_serial_line_says_what_the_host_would_read(board: str, cache: Path) -> None:
    script = ASKED + LESSONS + ASKED + stream.frame(stream.PRINT)
    there = machine.run(machine.build(project(BUNDLE, board), cache), board, script).answers
    with serial(board, cache) as line:
        here = line.greeting + line.ask(script)
    assert untimed(here) == untimed(there)
    assert digest(here) == taught().digest()


def test_a_reset_leaves_the_checkpoint_and_a_new_board_has_none(line: Serial, cache: Path) -> None:
    assert "generation 0\n" in line.greeting
    assert line.ask(LESSONS + stream.frame(stream.SAVE)).endswith("saved 1\n")
    line.ask(LESSONS)
    assert "generation 1\n" in line.reset()
    assert digest(line.ask(stream.frame(stream.PRINT))) == taught().digest()
    with serial("mps2-an386", cache) as other:
        assert "generation 0\n" in other.greeting


def test_noise_on_the_line_is_told_and_the_next_frame_is_read(line: Serial) -> None:
    frame = bytearray(stream.sample(bytes(12)))
    frame[-1] ^= 1
    assert line.ask(bytes(frame)) == "refused damaged-frame\n"
    assert line.ask(stream.sample(bytes(12))).startswith("answer ")


def test_a_flash_that_keeps_nothing_is_told(cache: Path) -> None:
    """QEMU's STM32 has no flash that a program can write."""
    with serial("netduinoplus2", cache) as line:
        assert line.ask(stream.frame(stream.SAVE)) == "refused flash-does-not-keep\n"
