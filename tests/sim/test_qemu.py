"""The C firmware on emulated Cortex-M processors: the bits of numpy, on every core, at every optimisation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import learners
import msgspec
import numpy as np
import pytest

from edgerun import cli
from edgerun.bundle import Bundle, open_bundle, pack, read_bundle
from edgerun.commands.neighbours import runner
from edgerun.errors import EdgeRunError, Refused
from edgerun.network import Network
from exporters.firmware.boards import firmware_board
from exporters.firmware.guard import guard_of
from exporters.firmware.project import image_for, project, room
from firmware_sim.qemu import machine, stream
from firmware_sim.qemu.runner import answers

TOOLS = ("arm-none-eabi-gcc", "qemu-system-arm", "make")
MISSING = [name for name in TOOLS if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed here: {', '.join(MISSING)}")

WORDS = Path(__file__).parents[2] / "examples/spoken_digits/model.edgb"
BOARDS = tuple(machine.BOARDS)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of firmware that this session has built."""
    return tmp_path_factory.mktemp("firmware")


def run(bundle: Bundle, board: str, q: np.ndarray, built: Path, level: str = "-O2") -> np.ndarray:
    """What the firmware answers."""
    files = project(bundle, board, frozen=True)
    files["Makefile"] = files["Makefile"].replace("OPT ?= -O2", f"OPT ?= {level} -Werror")
    payloads = q.astype(bundle.manifest.input.dtype)
    ran = machine.run(machine.build(files, built), board, b"".join(stream.sample(x.tobytes()) for x in payloads))
    return answers(ran.answers, board, len(q))[0].scores


def wanted(bundle: Bundle, q: np.ndarray) -> np.ndarray:
    return Network(bundle.manifest, bundle.tensors, (len(q),)).scores(q)


def windows(bundle: Bundle, count: int) -> np.ndarray:
    """Random samples over the whole range of the input, the first two at its ends."""
    low, high = (0, 255) if bundle.manifest.input.dtype == "uint8" else (-128, 127)
    q = np.random.default_rng(0).integers(low, high + 1, (count, bundle.manifest.input.size)).astype(np.int16)
    q[0], q[1] = low, high
    return q


@pytest.mark.parametrize("board", BOARDS)
def test_every_core_gives_numpys_bits(board: str, mlp_bundle: Path, digits_bundle: Path, built: Path) -> None:
    for path in (mlp_bundle, digits_bundle):
        bundle = open_bundle(path)
        q = windows(bundle, 12)
        np.testing.assert_array_equal(run(bundle, board, q, built), wanted(bundle, q))


@pytest.mark.parametrize("level", ["-Os", "-O3"])
def test_no_optimisation_changes_a_bit(level: str, digits_bundle: Path, built: Path) -> None:
    bundle = open_bundle(digits_bundle)
    q = windows(bundle, 12)
    np.testing.assert_array_equal(run(bundle, "mps2-an386", q, built, level), wanted(bundle, q))


def test_words_are_heard_on_the_board(built: Path) -> None:
    bundle = read_bundle(WORDS.read_bytes())
    q = windows(bundle, 6)
    np.testing.assert_array_equal(run(bundle, "mps2-an386", q, built), wanted(bundle, q))


def test_infer_writes_the_same_file_on_a_board(
    mlp_bundle: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {name: array[:40] for name, array in np.load(digits / "factory.npz").items()}
    np.savez(tmp_path / "few.npz", **few)
    command = ["infer", str(mlp_bundle), str(tmp_path / "few.npz"), "-o"]
    assert cli.main([*command, str(tmp_path / "board.npz"), "--board", "mps2-an386"]) == 0
    assert "instructions an inference" in capsys.readouterr().out
    assert cli.main([*command, str(tmp_path / "numpy.npz"), "--backend", "numpy"]) == 0
    assert (tmp_path / "board.npz").read_bytes() == (tmp_path / "numpy.npz").read_bytes()


def adapted(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert cli.main(["adapt", *argv, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture(scope="session")
def field(digits: Path) -> Path:
    """A few samples of all ten digits, two of which are new."""
    y = np.load(digits / "field.npz")["y"]
    taken = np.concatenate([np.flatnonzero(y == k)[:6] for k in range(10)])
    path = digits / "few.npz"
    np.savez(path, x=np.load(digits / "field.npz")["x"][taken], y=y[taken], class_names=np.array([*"0123456789"]))
    return path


@pytest.mark.parametrize("profile", ["standard", "small"])
def test_lessons_on_the_board_end_in_numpys_digest(
    profile: str, digits_bundle: Path, field: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """e-prop, replay, synaptic intelligence, prototypes and classes that join."""
    path = digits_bundle if profile == "standard" else small(digits_bundle)
    command = (str(path), "--data", str(field), "--shots", "3")
    there, here = adapted(capsys, *command, "--board", "mps2-an386"), adapted(capsys, *command, "--backend", "numpy")
    firmware = there.pop("firmware")
    assert there.pop("energy") != here.pop("energy")
    assert there == here
    assert here["updates"] > 0
    counted = firmware["instructions"]
    assert 100_000 < counted["inference"] < counted["update"] < counted["lesson"]
    assert firmware["estimated"]["pico2"]["update"]["busy_us"] == pytest.approx(1.4 * counted["update"] / 150, rel=1e-3)


def small(path: Path) -> Path:
    """A bundle in profile small."""
    found = path.with_name("small.edgb")
    if not found.exists():
        bundle = open_bundle(path)
        plan = msgspec.structs.replace(bundle.manifest.learning, profile="small")
        manifest = msgspec.structs.replace(bundle.manifest, learning=plan)
        exemplars = bundle.exemplars
        found.write_bytes(
            pack(
                manifest, bundle.tensors, selftest=bundle.selftest, probe=bundle.probe, priors=bundle.priors,
                exemplars=exemplars,
            )
        )  # fmt: skip
    return found


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "learns"])
@pytest.mark.parametrize("name", ["mlp", "spiking", "words", "eprop-layers", "superspike"])
def test_the_linker_takes_what_the_planner_says(
    name: str, frozen: bool, mlp_bundle: Path, digits_bundle: Path, built: Path
) -> None:
    """Memory and flash, within 5 %."""
    paths = {"mlp": mlp_bundle, "spiking": small(digits_bundle), "words": WORDS}
    bundle = open_bundle(paths[name]) if name in paths else learners.bundle(name)
    taken = machine.sizes(machine.build(project(bundle, "mps2-an386", frozen=frozen), built))
    image, board = image_for(bundle, frozen=frozen), firmware_board("mps2-an386")
    parts = room(image, None if frozen else guard_of(bundle), board)
    ram, flash = (sum(part.values()) for part in parts.values())
    assert taken.ram == pytest.approx(ram, rel=0.05)
    assert taken.flash == pytest.approx(flash - parts["flash"].get("checkpoints", 0), rel=0.05)


def test_a_net_with_all_that_protects_it_learns_in_256_kilobytes(digits_bundle: Path, built: Path) -> None:
    """Stack and buffers included."""
    bundle = open_bundle(small(digits_bundle))
    assert bundle.manifest.learning.intelligence
    assert bundle.manifest.learning.replay.capacity
    assert machine.sizes(machine.build(project(bundle, "mps2-an386"), built)).ram <= 256 << 10


def test_what_was_learned_is_there_after_the_power_was_gone(mlp_bundle: Path, built: Path) -> None:
    bundle = open_bundle(mlp_bundle)
    firmware = machine.build(project(bundle, "mps2-an386"), built)
    payloads = [x.tobytes() for x in windows(bundle, 4).astype(bundle.manifest.input.dtype)]
    taught = b"".join(stream.sample(payload, k) for k, payload in enumerate(payloads))
    asked = b"".join(stream.sample(payload) for payload in payloads) + stream.frame(stream.PRINT)
    first = machine.run(firmware, "mps2-an386", taught + stream.frame(stream.SAVE) + asked)
    again = machine.run(firmware, "mps2-an386", asked, first.flash)
    assert "generation 0" in first.answers
    assert "generation 1" in again.answers
    kept = [[line for line in ran.answers.splitlines() if line.startswith("kept")] for ran in (first, again)]
    assert kept[0] == kept[1]
    before, after = (answers(ran.answers, "mps2-an386", 4)[0].scores for ran in (first, again))
    np.testing.assert_array_equal(before, after)


def test_a_firmware_that_fails_is_told_in_one_line(digits_bundle: Path, built: Path) -> None:
    """A stack of half a kilobyte is too small: it ends in a fault, not in wrong bits."""
    files = project(open_bundle(small(digits_bundle)), "mps2-an386")
    small_stack = files | {"board.ld": files["board.ld"].replace(". += 4096", ". += 512")}
    assert small_stack != files
    with pytest.raises(EdgeRunError, match=r"^the firmware on mps2-an386 ended with [^\n]*$"):
        machine.run(machine.build(small_stack, built), "mps2-an386", stream.sample(bytes(64)))
    with pytest.raises(EdgeRunError, match=r"does not build: main\.c:1:.* error: "):
        machine.build(files | {"main.c": "int main(void) { return }"}, built)
    with pytest.raises(EdgeRunError, match=r"did not end within 0.01 s"):
        machine.run(machine.build(files, built), "mps2-an386", stream.sample(bytes(64), 0) * 500, limit_s=0.01)


def test_a_board_that_is_none_is_refused() -> None:
    with pytest.raises(Refused, match="board 'z80' cannot be run here: expected one of mps2-an385"):
        runner("z80")
