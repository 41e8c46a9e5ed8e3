"""`edgerun plan` from the outside: the numbers it prints are the planner's, and "does not fit" is true and helpful."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgerun import price
from edgerun.boards import BOARDS, get_board
from edgerun.bundle import Bundle, Probe, Selftest, open_bundle, pack
from edgerun.cli import main
from edgerun.commands.plan import PROCESS_BYTES
from edgerun.governor import floor_mw
from edgerun.graph import score_width, wanted_tensors
from edgerun.spec import (
    Budget,
    ClassTable,
    EProp,
    Head,
    InputSpec,
    Intelligence,
    LearningPlan,
    Lif,
    Manifest,
    PhaseRate,
    PlasticRate,
    Readout,
    Replay,
)

Capture = pytest.CaptureFixture[str]
NEURONS = 24


def manifest(replay: int = 40, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "spiking",
        "input": InputSpec(shape=(40,), dtype="uint8"),
        "encoder": PhaseRate(steps=16, full_scale=16),
        "layers": (
            Lif(name="hidden", inputs=40, outputs=NEURONS, weight_exponent=6),
            Readout(name="out", inputs=NEURONS, outputs=5, weight_exponent=7),
        ),
        "head": Head(kind="prototypes", features="hidden"),
        "classes": ClassTable(names=("a", "b"), capacity=5),
        "learning": LearningPlan(
            rule=EProp(
                layer="hidden",
                readout="out",
                rates=(PlasticRate(tensor="hidden.input", eta=3, shift=8),),
                chunk_steps=16,
            ),
            intelligence=Intelligence(strength=12, damping=16),
            replay=Replay(capacity=replay, passes=2),
        ),
    }
    return Manifest(**(fields | changes))


def write(folder: Path, model: Manifest) -> Path:
    rng = np.random.default_rng(6)
    tensors = {
        want.spec.name: rng.integers(max(want.low, 0), min(want.high, 40), want.spec.shape, dtype=want.spec.dtype)
        for want in wanted_tensors(model)
    }
    if "head.sum" in tensors:
        tensors["head.count"][...] = 9
    x = rng.integers(0, 17, (8, *model.input.shape)).astype(model.input.dtype)
    path = folder / "model.edgb"
    path.write_bytes(
        pack(
            model,
            tensors,
            selftest=Selftest(x=x, y=np.zeros((8, score_width(model)), np.int32)),
            probe=Probe(x=x, label=np.zeros(8, np.int32)),
        )
    )
    return path


def planned(capsys: Capture, path: Path, *extra: str) -> tuple[int, Any]:
    code = main(["plan", str(path), "--json", *extra])
    return code, json.loads(capsys.readouterr().out)


def without_process(bundle: Bundle) -> int:
    return price.memory_plan(bundle).total_bytes


# ------------------------------------------------------------------ what it says


@pytest.mark.parametrize("board", BOARDS)
def test_the_numbers_are_the_planners(tmp_path: Path, capsys: Capture, board: str) -> None:
    path = write(tmp_path, manifest())
    code, found = planned(capsys, path, "--board", board, "--period", "2")
    bundle, on = open_bundle(path), get_board(board)
    costs = price.prices(on, price.work(bundle))
    assert (code, found["fits"], found["verdict"]) == (0, True, f"fits {board}")
    assert found["ram"]["needed"] == without_process(bundle) + PROCESS_BYTES[on.device_class]
    assert found["ram"]["needed"] == sum(found["ram"]["parts"].values())
    assert found["flash"]["parts"] == price.flash_parts(bundle)
    assert found["acts"]["inference"]["energy_uj"] == pytest.approx(costs.inference_uj)
    for level, energy_uj in costs.lesson_uj.items():
        assert found["acts"][f"lesson {level}"]["energy_uj"] == pytest.approx(energy_uj)
        assert found["acts"][f"lesson {level}"]["busy_us"] == pytest.approx(costs.lesson_us[level])
    assert found["power_mw"]["asleep"] == on.sleep_mw
    assert found["power_mw"]["inference"] == pytest.approx(on.sleep_mw + costs.inference_uj / 2e3)
    assert found["power_mw"]["floor"] == pytest.approx(floor_mw(costs, 2.0))
    assert found["power_mw"]["learning"] > found["power_mw"]["inference"] + costs.lesson_uj["full"] / 2e3
    assert found["battery_days"]["inference"] == pytest.approx(7400 / 24 / found["power_mw"]["inference"])


def test_the_page_has_every_part_and_act(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path, manifest())
    assert main(["plan", str(path), "--board", "pico2"]) == 0
    page = capsys.readouterr().out
    _, found = planned(capsys, path, "--board", "pico2")
    for size in [*found["ram"]["parts"].values(), *found["flash"]["parts"].values(), found["ram"]["present"]]:
        assert f"{size:,}" in page
    assert all(act in page for act in found["acts"])
    assert "array calls" not in page  # a controller calls no numpy
    assert page.rstrip().endswith("fits pico2")
    assert main(["plan", str(path), "--board", "rpi-5"]) == 0
    assert "array calls" in capsys.readouterr().out


def test_a_network_that_cannot_learn_has_no_lessons(tmp_path: Path, capsys: Capture) -> None:
    frozen = manifest(head=Head(), learning=LearningPlan(), classes=ClassTable(names=("a", "b"), capacity=5))
    path = write(tmp_path, frozen)
    _, found = planned(capsys, path, "--board", "pico2")
    assert set(found["acts"]) == {"inference", "message"}
    assert main(["plan", str(path)]) == 0
    assert "none" in capsys.readouterr().out
    assert main(["plan", str(path), "--board", "pico2"]) == 0
    assert "lesson" not in capsys.readouterr().out


# ------------------------------------------------------------------ does it fit


def too_large_for_nucleo(folder: Path) -> Path:
    """Its reservoir alone has more bytes than the board, which would hold the rest."""
    return write(folder, manifest(replay=4000))


def test_what_does_not_fit_says_so_in_one_line_with_its_cures(tmp_path: Path, capsys: Capture) -> None:
    path = too_large_for_nucleo(tmp_path)
    assert main(["plan", str(path), "--board", "nucleo-f446"]) == 1
    verdict = capsys.readouterr().out.splitlines()[-1]
    assert verdict.startswith("does not fit nucleo-f446: it needs ")
    assert (
        f"{without_process(open_bundle(path)) + PROCESS_BYTES['mcu']:,} bytes of RAM, the board has 131,072" in verdict
    )
    assert "replay samples instead of 4000" in verdict
    assert verdict.endswith(" or on pico2")
    assert "synaptic intelligence" not in verdict  # it would not be enough


def test_the_replay_capacity_it_names_is_the_largest_that_fits(tmp_path: Path, capsys: Capture) -> None:
    _, found = planned(capsys, too_large_for_nucleo(tmp_path), "--board", "nucleo-f446")
    cure = next(remedy for remedy in found["remedies"] if "replay" in remedy)
    most = int(cure.split()[1])
    assert 0 < most < 4000
    code, found = planned(capsys, write(tmp_path, manifest(replay=most)), "--board", "nucleo-f446")
    assert (code, found["remedies"]) == (0, [])
    code, found = planned(capsys, write(tmp_path, manifest(replay=most + 1)), "--board", "nucleo-f446")
    assert (code, found["remedies"][0]) == (1, f"with {most} replay samples instead of {most + 1}")


def test_a_plan_without_protection_or_e_prop_is_named_where_it_would_fit(tmp_path: Path, capsys: Capture) -> None:
    wide = 100
    layers = (
        Lif(name="hidden", inputs=40, outputs=wide, weight_exponent=6),
        Readout(name="out", inputs=wide, outputs=5, weight_exponent=7),
    )
    model = manifest(replay=0, layers=layers)
    code, found = planned(capsys, write(tmp_path, model), "--board", "nucleo-f446")
    assert (code, found["remedies"]) == (
        1,
        ["exported with --profile small", "without synaptic intelligence", "without its rule", "on pico2"],
    )
    narrow = msgspec.structs.replace(model.learning, profile="small")
    code, found = planned(
        capsys, write(tmp_path, msgspec.structs.replace(model, learning=narrow)), "--board", "nucleo-f446"
    )
    assert (code, found["profile"]) == (0, "small")
    wider = (msgspec.structs.replace(layers[0], outputs=400), msgspec.structs.replace(layers[1], inputs=400))
    large = msgspec.structs.replace(model, learning=narrow, layers=wider)
    code, found = planned(capsys, write(tmp_path, large), "--board", "nucleo-f446")
    assert (code, found["remedies"]) == (1, ["on pico2"])
    plain = msgspec.structs.replace(model.learning, intelligence=None)
    slim = write(tmp_path, msgspec.structs.replace(model, learning=plain))
    assert planned(capsys, slim, "--board", "nucleo-f446")[0] == 0


def test_a_bundle_for_another_class_of_device_does_not_fit(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path, manifest(device_class="linux"))
    code, found = planned(capsys, path, "--board", "pico2")
    assert code == 1
    assert found["problems"] == ["it is made for device class linux, the board is mcu"]
    assert found["remedies"] == ["on rpi-zero-2w"]


def test_an_inference_must_end_within_its_period(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path, manifest())
    code, found = planned(capsys, path, "--board", "mps2-an386", "--period", "0.001")
    assert code == 1
    assert found["acts"]["inference"]["busy_us"] > 1000
    assert found["problems"][0].endswith("ms, a period has 1.0 ms")


def test_a_ceiling_under_the_boards_floor_does_not_fit(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path, manifest(budget=Budget(power_mw=100.0)))
    assert planned(capsys, path, "--board", "pico2")[0] == 0
    code, found = planned(capsys, path, "--board", "rpi-5")
    assert code == 1
    assert found["problems"][0].startswith("its budget power_mw 100 is not above its floor 280")
    assert found["remedies"] == ["on nucleo-f446"]


# ------------------------------------------------------------------ every board, and wrong arguments


def test_without_a_board_there_is_a_line_for_each(tmp_path: Path, capsys: Capture) -> None:
    path = too_large_for_nucleo(tmp_path)
    assert main(["plan", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in BOARDS:
        (line,) = (line for line in lines if line.split()[0] == name)
        assert ("does not fit" in line) == (name == "nucleo-f446")
    code, found = planned(capsys, path)
    assert (code, [row["board"] for row in found]) == (0, list(BOARDS))


def test_a_bundle_that_fits_nowhere_fails(tmp_path: Path, capsys: Capture) -> None:
    assert main(["plan", str(write(tmp_path, manifest())), "--period", "0.000001"]) == 1
    assert capsys.readouterr().out.count("does not fit") == len(BOARDS)
    path = write(tmp_path, manifest())
    assert main(["plan", str(path), "--board", "pico2", "--period", "0.000001"]) == 1
    assert capsys.readouterr().out.rstrip().endswith("no board would do")


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (["--board", "abacus"], "board 'abacus' is unknown: expected one of rpi-zero-2w"),
        (["--period", "0"], "--period 0.0 is not a positive number of seconds"),
        (["--period", "nan"], "--period nan is not a positive"),
        (["--period", "soon"], "invalid float value: 'soon'"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, capsys: Capture, extra: list[str], reason: str) -> None:
    assert main(["plan", str(write(tmp_path, manifest())), *extra]) == 2
    assert reason in capsys.readouterr().err


def test_every_board_has_a_process_to_run_in() -> None:
    assert {board.device_class for board in BOARDS.values()} == set(PROCESS_BYTES)
