"""Slots: a new bundle is tried, and either kept or not; the device always has one to run."""

from __future__ import annotations

import pytest

from edgerun.errors import StoreError
from edgerun.store.slots import Slots
from firmware_sim.flash import SimFlash

A, B, C = "aa" * 32, "bb" * 32, "cc" * 32


def installed(disk: SimFlash, *committed: str) -> Slots:
    slots = Slots(disk)
    for bundle in committed:
        slots.install(bundle.encode(), bundle)
        slots.stage(bundle)
        assert slots.begin() == (bundle, True)
        slots.commit()
    return slots


def test_an_empty_device_has_nothing_to_run() -> None:
    slots = Slots(SimFlash())
    assert (slots.current, slots.previous, slots.next) == (None, None, None)
    for call in (slots.begin, slots.roll_back):
        with pytest.raises(StoreError, match="installed"):
            call()
    with pytest.raises(StoreError, match="no bundle is on trial"):
        slots.commit()
    with pytest.raises(StoreError, match="is not installed"):
        slots.stage(A)


def test_install_try_commit() -> None:
    slots = installed(SimFlash(), A, B)
    assert (slots.current, slots.previous, slots.next) == (B, A, None)
    assert (slots.begin(), slots.read(B)) == ((B, False), B.encode())


def test_three_failed_tries_fall_back() -> None:
    disk = SimFlash()
    slots = installed(disk, A)
    slots.install(b"b", B)
    slots.stage(B, tries=3)
    assert [Slots(disk).begin() for _ in range(5)] == [(B, True)] * 3 + [(A, False)] * 2
    assert (slots.current, slots.next) == (A, None)


def test_a_first_bundle_that_fails_leaves_nothing_to_run() -> None:
    slots = Slots(SimFlash())
    slots.install(b"a", A)
    slots.stage(A, tries=1)
    assert slots.begin() == (A, True)
    with pytest.raises(StoreError, match="no bundle"):
        slots.begin()


def test_roll_back_drops_a_trial_first_and_the_current_bundle_second() -> None:
    slots = installed(SimFlash(), A, B)
    slots.install(b"c", C)
    slots.stage(C)
    slots.begin()
    assert slots.roll_back() == B
    assert (slots.begin(), slots.previous) == ((B, False), A)
    assert slots.roll_back() == A
    assert (slots.begin(), slots.previous) == ((A, False), None)
    with pytest.raises(StoreError, match="no earlier bundle"):
        slots.roll_back()


def test_a_commit_removes_bundles_in_no_role_and_what_was_learned_on_them() -> None:
    disk = SimFlash()
    installed(disk, A, B)
    for folder in ("learned", "journal"):
        for bundle in (A, B):
            disk.write(f"{folder}/{bundle}/file", b"x")
    installed(disk, C)
    assert disk.list("slots") == [B, C, "current", "previous"]
    assert disk.list("learned") == disk.list("journal") == [B]


@pytest.mark.parametrize("name", ["current", "next", "previous"])
@pytest.mark.parametrize(
    "rubbish", [b"", b"{", b'{"bundle":"../../etc"}', b"\xff\xfe", b'{"bundle":"' + b"ee" * 32 + b'"}']
)
def test_damaged_pointers_are_passed_over(name: str, rubbish: bytes) -> None:
    disk = SimFlash()
    slots = installed(disk, A, B)
    disk.write(f"slots/{name}", rubbish)
    assert slots.begin() == (A if name == "current" else B, False)
    assert slots.current == (A if name == "current" else B)


def test_a_missing_bundle_file_is_passed_over() -> None:
    disk = SimFlash()
    slots = installed(disk, A, B)
    disk.remove(f"slots/{B}/bundle.edgb")
    assert slots.begin() == (A, False)
    slots.install(b"c", C)
    slots.stage(C)
    disk.remove(f"slots/{C}/bundle.edgb")
    assert slots.begin() == (A, False)


def test_staging_what_already_runs_is_no_trial() -> None:
    slots = installed(SimFlash(), A, B)
    slots.stage(B)
    assert slots.begin() == (B, False)
    assert slots.previous == A


def test_arguments_have_bounds() -> None:
    slots = installed(SimFlash(), A)
    for tries in (0, 101):
        with pytest.raises(StoreError, match=f"tries {tries} is outside"):
            slots.stage(A, tries)
    with pytest.raises(StoreError, match="64 lower-case hex"):
        slots.install(b"", "../x")
