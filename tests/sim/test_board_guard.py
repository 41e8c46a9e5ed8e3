"""The lesson guard on an emulated Cortex-M4: Python's verdicts, and the same rollback whoever runs the lessons."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judged_life import digest, eventful, told
from pretend import sample, tiny_bundle, tiny_bundle_bytes

from edgerun import cli
from exporters.firmware.project import project
from firmware_sim.qemu import machine, stream
from firmware_sim.qemu.serial import Serial

BOARD = "mps2-an386"
MISSING = [name for name in ("arm-none-eabi-gcc", "qemu-system-arm", "make") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed here: {', '.join(MISSING)}")


def test_verdicts_on_a_board_are_pythons_and_go_on_behind_a_reset(tmp_path: Path) -> None:
    bundle = tiny_bundle()
    life = eventful(bundle)
    half = len(life.frames) // 2
    with Serial(machine.build(project(bundle, BOARD, port="uart"), tmp_path), BOARD) as line:
        said = line.ask(b"".join([*life.frames[:half], stream.frame(stream.SAVE)]))
        assert "generation 0" not in line.reset()
        said += line.ask(b"".join([*life.frames[half:], stream.frame(stream.PRINT)]))
    lines = [text.split(" ") for text in said.splitlines()]
    assert told(lines) == life.verdicts
    assert digest(life, lines) == life.digest()


@pytest.mark.parametrize("wrong", [0, 1])
def test_adapt_is_undone_alike_on_a_board(wrong: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = tmp_path / "tiny.edgb", tmp_path / "new.npz"
    model.write_bytes(tiny_bundle_bytes())
    y = np.arange(48) % 4
    x = np.stack([sample(int(k), 300 + i) for i, k in enumerate(y)]).astype(np.uint8)
    np.savez(data, x=x, y=(y + wrong) % 4)

    def adapted(*options: str) -> dict[str, Any]:
        assert cli.main(["adapt", str(model), "--data", str(data), "--shots", "6", "--json", *options]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    there, here = adapted("--board", BOARD), adapted("--backend", "numpy")
    for name in ("firmware", "energy"):
        there.pop(name)
        here.pop(name, None)
    assert there == here
    assert here["rolled_back"] == wrong
