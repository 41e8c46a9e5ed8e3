"""The firmware as a program of this machine, under sanitisers: lessons, checkpoints, cuts of power, hostile bytes."""

from __future__ import annotations

import itertools
import re
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import host_firmware
import learners
import numpy as np
import pytest
from fuzz import firmware as fuzz_firmware
from host_firmware import CUT, PAGE, Host
from pretend import INPUTS, sample, tiny_bundle

from edgerun import cli
from edgerun.bundle import Bundle, open_bundle
from edgerun.commands.neighbours import runner
from edgerun.errors import EdgeRunError, Refused, SpecError
from edgerun.image import image_of, learning_image
from edgerun.learn import records
from edgerun.learn.learner import Learner
from edgerun.lifetime import new_learner
from exporters.firmware.boards import firmware_board
from exporters.firmware.guard import guard_of
from exporters.firmware.model import identifiers, kept_bytes, literal
from exporters.firmware.project import SLOTS, check_room, project, room, write_project
from firmware_sim.qemu import machine, stream
from firmware_sim.qemu.runner import answers, learned

needs_compiler = pytest.mark.skipif(host_firmware.COMPILER is None, reason="no C compiler here")

LABELS = (0, 1, 2, 3, 1, 0, 4, 2, 4, 3)
"""Of the lessons; class 4 joins."""


@pytest.fixture(scope="module")
def tiny() -> Bundle:
    return tiny_bundle()


@pytest.fixture(scope="module")
def device(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Host:
    return host_firmware.host(tiny, tmp_path_factory.mktemp("firmware"))


def frames(first: int, last: int) -> bytes:
    """Lessons of these numbers, as the stream has them; no guard interferes."""
    found = [stream.frame(stream.GUARD, 0)]
    for number in range(first, last):
        if LABELS[number] == 4 and 4 not in LABELS[:number]:
            found.append(stream.frame(b"N"))
        q = sample(LABELS[number], number).astype(np.uint8).tobytes()
        found.append(stream.sample(q, LABELS[number]))
    return b"".join(found)


def taught(tiny: Bundle, count: int) -> Learner:
    """numpy's learner after as many lessons."""
    learner = new_learner(tiny, backend="numpy")
    for number in range(count):
        if LABELS[number] == 4 and "e" not in learner.classes:
            learner.apply(records.NewClass(label="e"))
        learner.apply(learner.plan_lesson(sample(LABELS[number], number), LABELS[number], "full"))
    return learner


def kept(lines: list[list[str]]) -> dict[str, bytes]:
    """Learned state in lines of telemetry."""
    return {words[1]: bytes.fromhex(words[2]) for words in lines if words[0] == "kept"}


def kept_by(learner: Learner) -> dict[str, bytes]:
    """The same of numpy's learner."""
    meta = learner.meta()
    counters = (meta["updates"], meta["lessons"], meta["deep_lessons"], meta["recent_at"], learner.threshold)
    state = {name: array.tobytes() for name, array in learner.arrays().items()}
    return state | {"counters": struct.pack("<6q", *counters, len(meta["classes"]))}


SAVE, PRINT = stream.frame(b"C"), stream.frame(b"D")


# ------------------------------------------------------------------ lessons


@needs_compiler
def test_lessons_leave_numpys_bits(tiny: Bundle, device: Host, tmp_path: Path) -> None:
    _, lines = device.run(tmp_path, frames(0, 10) + stream.frame(b"T") + PRINT)
    learner = taught(tiny, 10)
    learner.apply(records.Settle())
    assert learner.updates > 3
    assert kept(lines) == kept_by(learner)
    assert sum(int(words[4]) for words in lines if words[0] == "lesson") == learner.updates


@needs_compiler
def test_back_in_the_factory_nothing_is_left(tiny: Bundle, device: Host, tmp_path: Path) -> None:
    _, lines = device.run(tmp_path, frames(0, 5) + stream.frame(b"F") + PRINT)
    assert kept(lines) == kept_by(new_learner(tiny, backend="numpy"))


@needs_compiler
def test_a_frozen_firmware_answers_and_refuses_labels(tiny: Bundle, tmp_path: Path) -> None:
    device = host_firmware.host(tiny, tmp_path, frozen=True)
    q = sample(2, 1).astype(np.uint8).tobytes()
    _, lines = device.run(tmp_path, stream.sample(q) + stream.sample(q, 1) + SAVE)
    assert [words[0] for words in lines] == ["model", "ready", "answer", "refused", "refused"]
    assert "er_learner" not in project(tiny, "mps2-an386", frozen=True)["model.c"]


# ------------------------------------------------------------------ checkpoints


@needs_compiler
@pytest.mark.parametrize("torn", [False, True], ids=["whole-page", "torn-page"])
def test_a_cut_at_any_page_leaves_the_old_state_or_the_new(
    tiny: Bundle, device: Host, tmp_path: Path, torn: bool
) -> None:
    device.run(tmp_path, frames(0, 3) + SAVE)
    before = (tmp_path / "flash.bin").read_bytes()
    old, new = kept_by(taught(tiny, 3)), kept_by(taught(tiny, 6))
    found = []
    for cut in itertools.count(1):
        (tmp_path / "flash.bin").write_bytes(before)
        code, _ = device.run(tmp_path, frames(3, 6) + SAVE, cut, torn=torn)
        _, lines = device.run(tmp_path, PRINT)
        found.append(kept(lines) == new)
        assert found[-1] or kept(lines) == old
        if code != CUT:
            break
    pages = 1 + -(-sum(map(len, new.values())) // PAGE)
    assert found[: pages - 1] == [False] * (pages - 1)
    assert found[-1]
    assert len(found) == pages + 1


@needs_compiler
def test_after_a_cut_the_next_checkpoint_is_whole(tiny: Bundle, device: Host, tmp_path: Path) -> None:
    device.run(tmp_path, frames(0, 3) + SAVE)
    device.run(tmp_path, frames(3, 6) + SAVE, 5, torn=True)
    for first, last in ((3, 6), (6, 10)):
        _, lines = device.run(tmp_path, frames(first, last) + SAVE)
        assert lines[-1][0] == "saved"
    _, lines = device.run(tmp_path, PRINT)
    assert ["generation", "3"] in lines
    assert kept(lines) == kept_by(taught(tiny, 10))


@needs_compiler
@pytest.mark.parametrize("at", [0, 4, 12, 18, 20, 24, 29, 33, 37, PAGE, PAGE + 700])
def test_a_damaged_checkpoint_is_as_none(tiny: Bundle, device: Host, tmp_path: Path, at: int) -> None:
    device.run(tmp_path, frames(0, 3) + SAVE)
    flash = bytearray((tmp_path / "flash.bin").read_bytes())
    flash[at] ^= 4
    (tmp_path / "flash.bin").write_bytes(flash)
    _, lines = device.run(tmp_path, PRINT)
    assert ["generation", "0"] in lines
    assert kept(lines) == kept_by(new_learner(tiny, backend="numpy"))


@needs_compiler
@pytest.mark.parametrize(("field", "value"), [(1, -1), (3, 40), (4, 1 << 20), (5, 3), (5, 7)])
def test_counters_that_cannot_be_are_refused(
    device: Host, tmp_path: Path, tiny: Bundle, field: int, value: int
) -> None:
    """Sums are right: only what they say is wrong."""
    device.run(tmp_path, frames(0, 3) + SAVE)
    flash = bytearray((tmp_path / "flash.bin").read_bytes())
    last = PAGE + kept_bytes(learning_image(tiny))
    struct.pack_into("<q", flash, last - 48 + 8 * field, value)
    (tmp_path / "flash.bin").write_bytes(host_firmware.sealed(bytes(flash)))
    _, lines = device.run(tmp_path, frames(0, 2))
    assert lines[1] == ["generation", "0"]


@needs_compiler
@pytest.mark.parametrize(("at", "value"), [(24, -1), (24, 0x7FFFFFFF), (28, -1), (28, (1 << 15) + 1), (28, 1 << 15)])
def test_a_guard_that_cannot_be_is_refused(device: Host, tmp_path: Path, at: int, value: int) -> None:
    """Lessons in the group, and the best share; the last of these can be."""
    device.run(tmp_path, frames(0, 3) + SAVE)
    flash = bytearray((tmp_path / "flash.bin").read_bytes())
    struct.pack_into("<i", flash, at, value)
    (tmp_path / "flash.bin").write_bytes(host_firmware.sealed(bytes(flash)))
    _, lines = device.run(tmp_path, b"")
    assert lines[1] == ["generation", str(int(value == 1 << 15))]


@needs_compiler
@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("shadow.hidden.input", 3, 32600), ("importance.out.input", 5, 232), ("replay.label", 2, 4),
        ("replay.label", 1, -2), ("replay.field", 0, 2), ("replay.seen", 1, -1), ("head.count", 1, -1),
        ("recent", 0, 4),
    ],
)  # fmt: skip
def test_learned_state_that_cannot_be_is_refused(
    device: Host, tmp_path: Path, tiny: Bundle, name: str, at: int, value: int
) -> None:
    device.run(tmp_path, frames(0, 3) + SAVE)
    image, flash = learning_image(tiny), bytearray((tmp_path / "flash.bin").read_bytes())
    first = PAGE + sum(image.held[each].slot.bytes for each in image.kept[: image.kept.index(name)])
    slot = image.held[name].slot
    np.frombuffer(flash, slot.dtype, slot.bytes // np.dtype(slot.dtype).itemsize, first)[at] = value
    (tmp_path / "flash.bin").write_bytes(host_firmware.sealed(bytes(flash)))
    _, lines = device.run(tmp_path, PRINT)
    assert lines[1] == ["generation", "0"]
    assert kept(lines) == kept_by(new_learner(tiny, backend="numpy"))


# ------------------------------------------------------------------ the stream


@needs_compiler
def test_a_damaged_frame_is_told_and_the_next_is_read(device: Host, tmp_path: Path) -> None:
    q = sample(2, 1).astype(np.uint8).tobytes()
    whole = stream.sample(q)
    for at in range(len(whole)):
        broken = bytearray(whole)
        broken[at] ^= 0x10
        _, lines = device.run(tmp_path, bytes(broken) + bytes(40) + whole)
        assert lines[-1][:2] == ["answer", "0"]
        assert len(lines) <= 5


@needs_compiler
def test_what_a_frame_cannot_ask_is_refused_in_one_line(device: Host, tmp_path: Path) -> None:
    asked = [stream.frame(b"Z"), stream.frame(b"S", 1), stream.sample(bytes(INPUTS), 4), *[stream.frame(b"N")] * 3]
    _, lines = device.run(tmp_path, b"".join(asked))
    said = [words[1] for words in lines if words[0] == "refused"]
    assert said == ["unknown-frame", "no-sample", "unknown-class", "no-room-for-a-class"]


@needs_compiler
def test_hostile_streams_and_checkpoints_leave_a_state_that_can_be(tmp_path: Path) -> None:
    """`python tests/fuzz/firmware.py` goes on for longer."""
    command = [*fuzz_firmware.harness(tmp_path), "0", "1500"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    assert int(done.stdout.split()[2]) > 500


# ------------------------------------------------------------------ what a runner reads


def test_lines_become_scores_and_instructions() -> None:
    text = "model x y\nanswer 0 1 25 -7 9\nanswer 1 0 50 3 2\nanswer 2 2 1 1 2 3\n"
    first, second = answers(text, "mps2-an386", 2, 1)
    assert first.scores.tolist() == [[-7, 9], [3, 2]]
    assert first.instructions.tolist() == [1000.0, 2000.0]
    assert second.scores.tolist() == [[1, 2, 3]]
    with pytest.raises(EdgeRunError, match="mps2-an386 answered 3 of 4 samples"):
        answers(text, "mps2-an386", 4)


def test_learned_state_that_lacks_a_part_is_told(tiny: Bundle) -> None:
    state = kept_by(new_learner(tiny, backend="numpy"))
    lines = {name: f"kept {name} {value.hex()}" for name, value in state.items()}
    arrays, counters = learned(tiny, "\n".join(lines.values()))
    assert (counters["known"], counters["lessons"], len(arrays)) == (4, 0, len(lines) - 1)
    for part in ("recent", "counters"):
        with pytest.raises(EdgeRunError, match=f"printed no {part}"):
            learned(tiny, "\n".join(line for name, line in lines.items() if name != part))


# ------------------------------------------------------------------ what is written


def test_integers_stay_integers() -> None:
    assert [literal(x) for x in (0, -5, (1 << 31) - 1)] == ["0", "-5", "2147483647"]
    assert literal(-(1 << 31)) == "(-2147483647 - 1)"
    assert literal(-(1 << 63)) == "(-9223372036854775807LL - 1)"
    assert literal(1 << 33) == "8589934592ULL"


def test_names_become_names_of_c_that_differ() -> None:
    found = identifiers(["a.b", "a-b", "1", "int", "ä"])
    assert len(set(found.values())) == 5
    assert all(re.fullmatch(r"m_[A-Za-z0-9_]+", name) for name in found.values())


def test_the_command_writes_the_project(mlp_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export-firmware", str(mlp_bundle), "--board", "mps2-an386", "-o", str(tmp_path / "fw")]
    assert cli.main(command) == 0
    assert "make -C" in capsys.readouterr().out
    written = {str(path.relative_to(tmp_path / "fw")) for path in (tmp_path / "fw").rglob("*") if path.is_file()}
    bundle = open_bundle(mlp_bundle)
    assert written == {*project(bundle, "mps2-an386"), "samples.bin"}
    frames = [stream.sample(x.tobytes()) for x in bundle.selftest.x]
    assert (tmp_path / "fw" / "samples.bin").read_bytes() == b"".join(frames)
    assert not any("module" in name for name in written)


def test_a_command_that_prices_names_those_that_run(
    mlp_bundle: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", str(mlp_bundle), "--board", "mps2-an500"]) == 2
    assert "its energy is not known: export-firmware --board mps2-an500 tells its memory" in capsys.readouterr().err
    adapting = ["adapt", str(mlp_bundle), "--data", str(digits / "factory.npz"), "--board", "z80"]
    assert cli.main(adapting) == 2
    said = capsys.readouterr().err
    assert said.startswith("edgerun: board 'z80' is unknown: expected one of rpi-zero-2w, ")
    assert all(name in said for name in (*machine.BOARDS, "pico2"))


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed here")
def test_make_says_which_package_brings_its_compiler(tiny: Bundle, tmp_path: Path) -> None:
    write_project(tiny, "mps2-an386", tmp_path)
    said = subprocess.run(["make", "CROSS=absent-"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.returncode != 0
    assert "absent-gcc is not installed: apt-get install gcc-arm-none-eabi" in said.stderr


@needs_compiler
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed here")
def test_other_flags_build_anew_and_the_same_do_not(tiny: Bundle, tmp_path: Path) -> None:
    """A project for this machine, whose own `make run` answers the self-test."""
    write_project(tiny, "linux", tmp_path, frozen=True)

    def built(*options: str) -> int:
        subprocess.run(["make", "-s", *options], cwd=tmp_path, check=True, capture_output=True)
        return (tmp_path / "firmware.elf").stat().st_mtime_ns

    first = built("OPT=-O0")
    assert built("OPT=-O0") == first
    assert built("OPT=-O1") > first
    built("OPT=-O1", "run")
    lines = stream.lines((tmp_path / "answers.txt").read_text())
    said = [[int(word) for word in words[3:]] for event, words in lines if event == "answer"]
    assert said == tiny.selftest.y[:, : len(said[0])].tolist()


def test_what_a_failed_build_has_said_is_told_in_one_line() -> None:
    said = (
        "make: Entering directory\n\nmain.c:1: warning: odd\nmain.c:2: error: wrong\nmake: *** [firmware.elf] Error 1\n"
    )
    assert machine.complaint(said) == "main.c:2: error: wrong"
    said = "ld: main.o: in function `main':\nmain.c:4: undefined reference to `x'\ncollect2: error: ld returned 1"
    assert "undefined reference to `x'" in machine.complaint(said)
    assert machine.complaint("cc1: fatal: killed\nmake: *** [x] Error 1") == "cc1: fatal: killed"
    assert machine.complaint("make: *** No rule to make target\n") == "make: *** No rule to make target"
    assert machine.complaint("") == "make failed"


def test_what_is_not_installed_is_named_with_its_package(
    mlp_bundle: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["infer", str(mlp_bundle), str(digits / "factory.npz"), "-o", str(tmp_path / "o.npz")]
    monkeypatch.setenv("PATH", "")
    assert cli.main([*command, "--board", "mps2-an386"]) == 2
    said = "edgerun: arm-none-eabi-gcc is not installed: apt-get install gcc-arm-none-eabi\n"
    assert capsys.readouterr().err == said
    assert cli.main([*command, "--board", "mps2-an386", "--backend", "numpy"]) == 2
    assert "--board mps2-an386 computes elsewhere" in capsys.readouterr().err


def test_a_plan_whose_lessons_have_no_c_form_makes_a_firmware_that_answers() -> None:
    bundle = learners.bundle("predictive")
    assert "frozen.c" in project(bundle, "mps2-an386")
    with pytest.raises(Refused, match=r"its firmware cannot learn.*; learning\.rule predictive: settles"):
        runner("mps2-an386").teach(bundle, "mps2-an386", np.zeros((1, 64), np.int16), ())


def test_what_does_not_fit_and_what_is_no_board_is_refused(
    digits_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export-firmware", str(digits_bundle), "-o", str(tmp_path / "fw"), "--board"]
    assert cli.main([*command, "netduinoplus2"]) == 2
    too_small = (
        r"needs [\d,]+ bytes of RAM, netduinoplus2 has 131,072; what `export-firmware --frozen` writes would fit"
    )
    assert re.search(too_small, capsys.readouterr().err)
    assert cli.main([*command, "z80"]) == 2
    assert "board 'z80' has no firmware: expected one of mps2-an385" in capsys.readouterr().err
    assert not (tmp_path / "fw").exists()


def test_checkpoints_are_counted_in_whole_sectors(tiny: Bundle) -> None:
    image, guard = learning_image(tiny), guard_of(tiny)
    for name in ("mps2-an386", "netduinoplus2"):
        board = firmware_board(name)
        slot = PAGE + kept_bytes(image)
        region = SLOTS * -(-slot // board.sector) * board.sector
        assert room(image, guard, board)["flash"]["checkpoints"] == region
        small = replace(board, flash=(board.flash[0], region))
        with pytest.raises(SpecError, match=rf"tiny needs [\d,]+ bytes of flash, {name} has {region:,}(; what|$)"):
            check_room(tiny, image, guard, small)
        assert f"CHECKPOINTS (r) : ORIGIN = {sum(board.flash) - region:#010x}" in project(tiny, name)["board.ld"]
    assert "checkpoints" not in room(image_of(tiny.manifest, tiny.tensors), None, board)["flash"]


def test_a_rule_that_no_firmware_learns_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settles.edgb"
    path.write_bytes(learners.packed("predictive"))
    assert cli.main(["export-firmware", str(path), "--board", "mps2-an386", "-o", str(tmp_path / "fw")]) == 0
    assert (
        "and does not learn, C has no form of its lessons; learning.rule predictive: settles" in capsys.readouterr().out
    )


def test_a_port_that_was_changed_is_kept_and_stale_files_go(
    tmp_path: Path, digits_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export-firmware", str(digits_bundle), "--board", "mps2-an386", "-o", str(tmp_path / "my fw")]
    assert cli.main(command) == 0
    assert f"make -C '{tmp_path}/my fw'" in capsys.readouterr().out
    port = tmp_path / "my fw" / "port.c"
    was = port.read_text()
    assert cli.main([*command, "--port", "uart"]) == 0
    assert "it was kept" not in capsys.readouterr().out
    assert port.read_text() != was
    port.write_text("/* mine */\n")
    assert cli.main([*command, "--frozen", "--port", "uart"]) == 0
    assert "it was kept, --port uart did not touch it" in capsys.readouterr().out
    assert port.read_text() == "/* mine */\n"
    assert not (tmp_path / "my fw" / "lessons.c").exists()


def test_somebodys_own_files_are_not_written_over(
    tmp_path: Path, digits_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Makefile").write_text("all: mine\n")
    command = ["export-firmware", str(digits_bundle), "--board", "mps2-an386", "-o"]
    assert cli.main([*command, str(tmp_path)]) == 2
    assert "no firmware project; name a new or an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["Makefile"]
    assert cli.main([*command, str(tmp_path / "Makefile")]) == 2
    assert "that is a file, a project needs a folder" in capsys.readouterr().err
