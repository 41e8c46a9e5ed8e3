"""Every kind of life on a Cortex-M and under Linux on an Arm, each in its turn: numpy's digest. The long form, all of
them on all: `python tests/board_lives.py`."""

from __future__ import annotations

import shutil
from functools import cache
from itertools import cycle
from pathlib import Path

import board_lives
import pytest
from board_lives import KINDS, Life, Log

from exporters.firmware.project import project
from firmware_sim.qemu import machine

TOOLS = (
    "make", "arm-none-eabi-gcc", "qemu-system-arm", "gcc", "aarch64-linux-gnu-gcc", "qemu-aarch64-static",
    "arm-linux-gnueabihf-gcc", "qemu-arm-static",
)  # fmt: skip
MISSING = [name for name in TOOLS if shutil.which(name) is None]
needs_tools = pytest.mark.skipif(bool(MISSING), reason=f"not installed here: {', '.join(MISSING)}")
EMULATED = [name for name, emulator in machine.PROCESSES.items() if emulator]
PAIRS = [pair for targets in (machine.BOARDS, EMULATED) for pair in zip(KINDS, cycle(targets), strict=False)]
LESSONS = 40

life = cache(Life.of)


@needs_tools
@pytest.mark.parametrize(("kind", "target"), PAIRS)
def test_a_life_of_hostile_lessons_is_numpys(kind: str, target: str, tmp_path: Path) -> None:
    lived = life(kind, LESSONS, "numpy")
    files = project(lived.bundle, target)
    quick = files["Makefile"].replace("OPT ?= -O2", "OPT ?= -O1").replace("OPT ?= -O3", "OPT ?= -O1")
    assert lived.digest_on(target, machine.build(files | {"Makefile": quick}, tmp_path)) == lived.digest


@needs_tools
def test_a_life_that_was_equal_is_not_lived_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "CACHE", tmp_path)

    def told(lessons: int) -> tuple[bool, str]:
        (equal,) = board_lives.rows(["unconsolidated"], ["linux"], lessons, Log(tmp_path / "lives.log"), 1)
        return equal, capsys.readouterr().out.partition("lessons ")[2][:14].strip()

    with monkeypatch.context() as wrong:
        wrong.setattr(Life, "digest_on", lambda *given: b"")
        assert told(2) == (False, "DIFFER  " + life("unconsolidated", 2, "numpy").digest.hex()[:6])
    assert told(2)[1].startswith("equal  ")
    assert told(2) == (True, "equal, by the")
    assert told(3)[1].startswith("equal  ")
