"""Emulated Raspberry Pis: what decides without one, and, where one can be made, everything equal on both."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgerun.config import load_config
from edgerun.errors import EdgeRunError, Refused
from edgerun.samples import read_arrays, recordings
from firmware_sim.pi import __main__ as pi_main
from firmware_sim.pi.jobs import NEW, WORDS, compare, make_case, sounds
from firmware_sim.pi.life import config
from firmware_sim.pi.machines import MACHINES, MIRROR, check_tools, mirror, pinned, recipe
from firmware_sim.pi.roots import HOUSE, Pi, cached, digest

PINS = {"msgspec": "0.20", "paho-mqtt": "2.1"}

# ------------------------------------------------------------------ the whole


def possible() -> str:
    """Why it cannot be run, "" where it can."""
    try:
        check_tools(tuple(MACHINES.values()))
    except Refused as err:
        return str(err)
    cache = pi_main.cache()
    if pi_main.CACHE in os.environ or all(any(cache.glob(f"{name}-*")) for name in MACHINES):
        return ""
    return f"no root file systems in {cache}: `make emulate-pi` makes them, {pi_main.CACHE} names another folder"


@pytest.mark.broker
@pytest.mark.slow
def test_both_machines_do_to_the_bit_what_this_one_does(capfd: pytest.CaptureFixture[str]) -> None:
    if reason := possible():
        pytest.skip(reason)
    code = pi_main.main([])
    told = capfd.readouterr()
    assert code == 0, told.out + told.err
    assert told.out.splitlines()[-1].startswith("all equal, ")


# ------------------------------------------------------------------ what it is made of


def test_the_mirror_is_the_users_or_the_first_one_that_apt_knows() -> None:
    targets = "https://apt.example.org stable\nhttp://security.example.org/debian-security/ main\n"
    known = f"{targets}http://one.example.org/debian/ main\nhttp://two.example.org/debian main\n"
    assert mirror(known, {}) == "http://one.example.org/debian/"
    assert mirror(targets, {MIRROR: "http://mine.example.org/d"}) == "http://mine.example.org/d"
    with pytest.raises(Refused, match=MIRROR):
        mirror(targets, {})


def test_versions_are_those_of_the_constraints() -> None:
    text = "# what is tested\nnumpy==2.4.6\nPaho_MQTT==2.1\nmsgspec==0.20\n"
    assert pinned(text) == PINS
    with pytest.raises(Refused, match="no version of msgspec"):
        pinned(text.replace("msgspec", "msgpack"))
    assert set(pinned((HOUSE / "constraints.txt").read_text())) == set(PINS)


def test_another_recipe_is_another_machine() -> None:
    arm64, armhf = MACHINES.values()
    names = {recipe(arm64, PINS), recipe(armhf, PINS), recipe(arm64, {**PINS, "msgspec": "0.21"})}
    assert len(names) == 3
    assert recipe(arm64, dict(reversed(PINS.items()))) == recipe(arm64, PINS)


def test_what_is_in_the_cache_is_whole(tmp_path: Path) -> None:
    def half(place: Path) -> None:
        (place / "part").touch()
        raise EdgeRunError("the network went")

    place = tmp_path / "machine" / "root"
    with pytest.raises(EdgeRunError, match="the network went"):
        cached(place, half)
    assert list(place.parent.iterdir()) == []
    assert cached(place, lambda fresh: (fresh / "all").touch()) == place
    assert cached(place, half) == place
    assert [path.name for path in place.iterdir()] == ["all"]


def test_the_digest_is_of_the_sources_alone(tmp_path: Path) -> None:
    (tmp_path / "csrc").mkdir()
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "csrc" / "k.c").write_text("2")
    before = digest(tmp_path)
    (tmp_path / "_native.abi3.so").write_text("made of them")
    assert digest(tmp_path) == before
    (tmp_path / "csrc" / "k.c").write_text("3")
    assert digest(tmp_path) != before


# ------------------------------------------------------------------ what it compares


def test_a_case_has_a_new_class_and_sounds_of_many_lengths(tmp_path: Path) -> None:
    case = make_case(pi_main.BUNDLE, tmp_path)
    features, waves = read_arrays(case.features), read_arrays(case.waves)
    assert features["class_names"][features["y"].max()] == NEW
    assert set(features["y"]) == {*range(9), 10}
    assert len({len(wave) for wave in recordings("waves", waves)}) == WORDS
    again, _ = sounds(np.random.default_rng(1), 8000)
    assert (again == waves["samples"]).all()


def test_what_differs_is_named() -> None:
    compare({"digest": "a", "lessons": 3}, {"digest": "a", "lessons": 3})
    with pytest.raises(EdgeRunError, match=r"^differs in digest$"):
        compare({"digest": "a", "lessons": 3}, {"digest": "b", "lessons": 3})
    with pytest.raises(EdgeRunError, match=r"^differs in lessons$"):
        compare({"digest": "a"}, {"digest": "a", "lessons": 3})
    with pytest.raises(EdgeRunError, match=r"^differs in draws$"):
        compare({"digest": "a", "draws": 1}, {"digest": "a"})


def test_the_device_has_a_file_that_it_reads(tmp_path: Path) -> None:
    case = make_case(pi_main.BUNDLE, tmp_path)
    for machine in MACHINES.values():
        pi = Pi(machine, tmp_path, tmp_path, tmp_path, tmp_path)
        (tmp_path / "device.toml").write_text(config(pi, case, 1884, "somebody"))
        read = load_config(tmp_path / "device.toml")
        assert (read.device.node, read.device.board, read.broker.port) == (machine.name, machine.board, 1884)
        assert read.bundle.path == pi_main.BUNDLE


# ------------------------------------------------------------------ how it ends


def test_a_missing_program_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pi_main.main(["--machine", "armhf", "--cache", str(tmp_path / "cache")]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("emulate-pi: ")
    assert told.err.count("\n") == 1
    assert "arm-linux-gnueabihf-gcc" in told.err
    assert "qemu-user-static" in told.err.partition("apt install")[2]
    assert not (tmp_path / "cache").exists()


def test_one_wrong_row_is_enough_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def differ() -> None:
        raise EdgeRunError("differs in digest")

    def emulate(machines: object, cache: Path, table: pi_main.Table) -> None:
        assert table.add("armhf", "infer", lambda: None)
        assert not table.add("armhf", "adapt", differ)

    monkeypatch.setattr(pi_main, "emulate", emulate)
    monkeypatch.setattr(pi_main, "check_tools", lambda machines: None)
    assert pi_main.main([]) == 1
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].endswith("s  equal")
    assert rows[1].endswith("s  differs in digest")
    assert rows[2].startswith("1 of 2 differ, ")
