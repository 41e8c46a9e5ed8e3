"""The lesson guard on a board: Python's verdicts on the same lessons, and no cut of power between old and new state."""

from __future__ import annotations

import itertools
from pathlib import Path

import host_firmware
import numpy as np
import pytest
from host_firmware import CUT, Host
from judged_life import EVERY, Life, digest, eventful, told
from pretend import sample, tiny_bundle

from edgerun.bundle import Bundle
from edgerun.learn import guard
from edgerun.spec import Guard
from exporters.firmware.guard import guard_of
from firmware_sim.qemu import stream
from firmware_sim.qemu.runner import learned

pytestmark = pytest.mark.skipif(host_firmware.COMPILER is None, reason="no C compiler here")

PRINT = stream.frame(stream.PRINT)


@pytest.fixture(scope="module")
def tiny() -> Bundle:
    return tiny_bundle()


@pytest.fixture(scope="module")
def device(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Host:
    return host_firmware.host(tiny, tmp_path_factory.mktemp("firmware"))


def test_verdicts_and_what_they_leave_are_pythons(tiny: Bundle, device: Host, tmp_path: Path) -> None:
    life = eventful(tiny)
    _, lines = device.run(tmp_path, b"".join([*life.frames, PRINT]))
    said = [verdict for verdict, *_ in life.verdicts]
    assert {"good", "back"} == set(said)
    assert 3 <= said.count("back") <= len(said) - 3
    assert told(lines) == life.verdicts
    assert digest(life, lines) == life.digest()


def test_verdicts_go_on_through_restarts(tiny: Bundle, device: Host, tmp_path: Path) -> None:
    """Power goes after every second frame, each time behind a checkpoint."""
    life, found = eventful(tiny), []
    for first in range(0, len(life.frames), 2):
        code, lines = device.run(tmp_path, b"".join([*life.frames[first : first + 2], stream.frame(stream.SAVE)]))
        assert code == 0
        found += told(lines)
    _, lines = device.run(tmp_path, PRINT)
    assert found == life.verdicts
    assert digest(life, lines) == life.digest()


@pytest.mark.parametrize("torn", [False, True], ids=["whole-page", "torn-page"])
@pytest.mark.parametrize("saved", [False, True], ids=["group-unsaved", "group-saved"])
def test_a_cut_at_any_page_of_a_rollback_ends_in_the_good_state(
    tiny: Bundle, device: Host, tmp_path: Path, torn: bool, saved: bool
) -> None:
    """The group is in flash already, or not; behind the cut its verdict is due again, or it never was."""
    life = Life(tiny)
    life.teach(0, 1, 2, 3)
    good = life.frames.copy()
    life.teach(0, 1, 2, wrong=1)
    if saved:
        life.frames.append(stream.frame(stream.SAVE))
    group = life.frames[len(good) :]
    life.teach(3, wrong=1)
    assert [verdict for verdict, *_ in life.verdicts] == ["good", "back"]
    device.run(tmp_path, b"".join(good))
    before, found = (tmp_path / "flash.bin").read_bytes(), []
    for cut in itertools.count(1):
        (tmp_path / "flash.bin").write_bytes(before)
        code, _ = device.run(tmp_path, b"".join([*group, life.frames[-1]]), cut, torn=torn)
        _, lines = device.run(tmp_path, PRINT)
        lessons = learned(tiny, "\n".join(" ".join(words) for words in lines))[1]["lessons"]
        found.append(lessons)
        again = group * (lessons == EVERY)
        _, lines = device.run(tmp_path, b"".join([*again, life.frames[-1], PRINT] if lessons < 2 * EVERY else [PRINT]))
        assert digest(life, lines) == life.digest()
        if code != CUT:
            break
    assert found[0] == EVERY
    assert found[-1] == 2 * EVERY
    assert (2 * EVERY - 1 in found) == saved


def test_without_a_good_state_it_goes_back_to_the_factory(tiny: Bundle, device: Host, tmp_path: Path) -> None:
    life = Life(tiny)
    life.teach(0, 1, 2, 3, wrong=1)
    _, lines = device.run(tmp_path, b"".join([*life.frames, PRINT]))
    assert told(lines) == life.verdicts
    assert life.verdicts[0][0] == "back"
    assert life.verdicts[0][3] == str(guard_of(tiny).factory)
    assert digest(life, lines) == life.digest()


def test_back_in_the_factory_stays_there_and_is_the_new_measure(tiny: Bundle, device: Host, tmp_path: Path) -> None:
    life = Life(tiny)
    life.teach(0, 1, 2, 3)
    device.run(tmp_path, b"".join([*life.frames, stream.frame(stream.FACTORY)]))
    life.python.roll_back("factory")
    life.frames.clear()
    life.verdicts.clear()
    life.teach(0, 1, 2, 3, wrong=1)
    _, lines = device.run(tmp_path, b"".join([*life.frames, PRINT]))
    assert told(lines) == life.verdicts


def test_a_guard_that_is_told_to_wait_speaks_when_it_is_asked(device: Host, tmp_path: Path) -> None:
    lessons = [stream.sample(sample(k % 4, k).astype(np.uint8).tobytes(), k % 4) for k in range(6)]
    for value, expected in ((0, 1), (2, 4), (-3, 1), (6, 2)):
        frames = [stream.frame(stream.GUARD, value), *lessons, stream.frame(stream.JUDGE)]
        (tmp_path / "flash.bin").unlink(missing_ok=True)
        _, lines = device.run(tmp_path, b"".join(frames))
        assert len(told(lines)) == expected
        assert lines[-1] == ["done", "J"]


def test_a_drop_of_the_bound_itself_stands() -> None:
    """In doubles 0.9 - 0.7 is more than 0.2."""
    plan = Guard(samples=100, max_drop=0.2)
    assert plan.max_drop < 0.9 - 0.7
    assert guard.good(plan, 0.9, 0.7)
    assert not guard.good(plan, 0.9, 0.69)


def test_a_share_is_the_integers_quotient() -> None:
    for of in range(1, 1025):
        correct = np.arange(of + 1)
        assert [guard.share(int(c) / of) for c in correct] == ((correct << 15) // of).tolist()
