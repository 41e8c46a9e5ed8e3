"""Checkpoints: the newest whole state is found whatever happened to the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.arrays import Tensors
from edgerun.errors import StoreError
from edgerun.linux.disk import RealDisk
from edgerun.store.checkpoints import Checkpoints, pack_state, unpack_state
from firmware_sim.flash import SimFlash

BUNDLE, OTHER = "ab" * 32, "cd" * 32
SLOTS = [f"learned/{BUNDLE}/slot-{number}" for number in range(3)]


def test_an_empty_store_has_nothing() -> None:
    store = Checkpoints(SimFlash(), BUNDLE)
    assert (store.load(), store.good(), store.generations(), store.load_generation(1)) == (None, None, [], None)
    store.wipe()


def test_generations_rise_and_the_newest_is_loaded(tmp_path: Path) -> None:
    store = Checkpoints(RealDisk(tmp_path), BUNDLE)
    for generation in range(1, 8):
        assert store.save(b"state %d" % generation) == generation
        assert Checkpoints(RealDisk(tmp_path), BUNDLE).load() == (generation, b"state %d" % generation)
    assert store.generations() == [5, 6, 7]
    assert store.load_generation(5) == b"state 5"
    assert store.load_generation(4) is None


def test_the_last_good_state_is_never_overwritten() -> None:
    disk = SimFlash()
    store = Checkpoints(disk, BUNDLE)
    for number in range(1, 4):
        store.save(b"%d" % number)
    store.mark_good(2)
    for number in range(4, 12):
        store.save(b"%d" % number)
        assert store.load_generation(2) == b"2"
        assert Checkpoints(disk, BUNDLE).good() == 2
    store.mark_good(11)
    assert store.good() == 11
    store.save(b"12")
    store.save(b"13")
    assert store.generations() == [11, 12, 13]


def test_only_a_whole_checkpoint_can_be_good() -> None:
    disk = SimFlash()
    store = Checkpoints(disk, BUNDLE)
    store.save(b"one")
    with pytest.raises(StoreError, match=r"generation 2 is not among the whole checkpoints \[1\]"):
        store.mark_good(2)
    store.mark_good(1)
    disk.flip_bit(SLOTS[0], 8 * 65)
    assert store.good() is None


def test_states_of_two_bundles_do_not_meet() -> None:
    disk = SimFlash()
    ours, theirs = Checkpoints(disk, BUNDLE), Checkpoints(disk, OTHER)
    ours.save(b"ours")
    assert theirs.load() is None
    theirs.save(b"theirs")
    theirs.wipe()
    assert (ours.load(), theirs.load()) == ((1, b"ours"), None)
    disk.write(f"learned/{OTHER}/slot-0", disk.read(SLOTS[0]) or b"")
    assert theirs.load() is None, "a copied slot is still bound to its bundle"


@pytest.mark.parametrize("slot", SLOTS)
def test_every_bit_flip_is_seen(slot: str) -> None:
    disk = SimFlash()
    store = Checkpoints(disk, BUNDLE)
    for payload in (b"first", b"second", b"third"):
        store.save(payload)
    whole = {generation: store.load_generation(generation) for generation in store.generations()}
    for bit in range(8 * (disk.size(slot) or 0)):
        disk.flip_bit(slot, bit)
        left = store.generations()
        assert len(left) == 2
        assert store.load() == (left[-1], whole[left[-1]])
        disk.flip_bit(slot, bit)
    assert store.generations() == [1, 2, 3]


def test_a_damaged_newest_does_not_give_its_number_away_again() -> None:
    disk = SimFlash()
    store = Checkpoints(disk, BUNDLE)
    store.save(b"one")
    store.save(b"two")
    disk.flip_bit(SLOTS[1], 8 * 64)
    assert store.load() == (1, b"one")
    assert store.save(b"three") == 3


@pytest.mark.parametrize("rubbish", [b"", b"\0" * 64, b"\xff" * 4096, b'{"generation":"x"}', b'{"generation":0}', b"{"])
def test_foreign_files_are_passed_over(rubbish: bytes) -> None:
    disk = SimFlash()
    for path in (*SLOTS, f"learned/{BUNDLE}/last-good"):
        disk.write(path, rubbish)
    store = Checkpoints(disk, BUNDLE)
    assert (store.load(), store.good()) == (None, None)
    assert store.save(b"x") == 1
    store.mark_good(1)
    assert store.good() == 1


@given(data=st.binary(max_size=300))
def test_no_bytes_in_a_slot_are_fatal(data: bytes) -> None:
    disk = SimFlash(pages=64)
    store = Checkpoints(disk, BUNDLE)
    store.save(b"whole")
    disk.write(SLOTS[1], data)
    disk.write(SLOTS[2], b"EDGECKP1" + data)
    assert store.load() == (1, b"whole")


def test_a_wrong_bundle_id_is_refused() -> None:
    for wrong in ("", "ab", "AB" * 32, "../" + "a" * 61):
        with pytest.raises(StoreError, match="64 lower-case hex"):
            Checkpoints(SimFlash(), wrong)


# ------------------------------------------------------------------ payloads

ARRAYS: Tensors = {
    "weights": np.arange(-6, 6, dtype=np.int8).reshape(3, 4),
    "carry": np.array([0, 0x7FFF, 1], np.uint16),
    "strided": np.arange(20, dtype=np.int32).reshape(4, 5)[::2, 1:],
    "big-endian": np.arange(3, dtype=">i8"),
    "flags": np.array([True, False, True]),
    "scalar": np.array(2.5),
    "none": np.zeros((0, 7), np.float32),
}
META: dict[str, Any] = {"update": 17, "classes": ["a", "ü"], "nested": {"x": None, "y": 0.25}}


def test_a_state_comes_back_as_it_was() -> None:
    arrays, meta = unpack_state(pack_state(ARRAYS, META))
    assert meta == META
    assert list(arrays) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        assert np.array_equal(arrays[name], array)
        assert arrays[name].shape == array.shape
        assert arrays[name].dtype == array.dtype.newbyteorder("<")
        assert arrays[name].flags.aligned


def test_equal_states_give_equal_bytes() -> None:
    turned = dict(reversed(META.items()))
    assert pack_state(ARRAYS, META) == pack_state(dict(reversed(ARRAYS.items())), turned)
    assert pack_state({}, {}) != pack_state({}, {"x": 1})


def test_the_layout_is_this() -> None:
    table = b'{"arrays":[{"dtype":"int16","name":"w","shape":[2]}],"meta":{"n":1}}'
    data = pack_state({"w": np.array([1, -2], np.int16)}, {"n": 1})
    assert data == b"EDGEST01" + len(table).to_bytes(4, "little") + table + b"\x01\0\xfe\xff\0\0\0\0"


def test_every_cut_and_extension_is_refused() -> None:
    data = pack_state({"a": np.arange(4, dtype=np.int32), "b": np.arange(3, dtype=np.uint8)}, {"n": 1})
    for length in range(len(data)):
        with pytest.raises(StoreError):
            unpack_state(data[:length])
    with pytest.raises(StoreError, match="is not the"):
        unpack_state(data + bytes(8))


def packed(table: bytes) -> bytes:
    head = b"EDGEST01" + len(table).to_bytes(4, "little") + table
    return head.ljust(-(-len(head) // 8) * 8, b"\0")


def tabled(entries: bytes) -> bytes:
    return packed(b'{"arrays":[' + entries + b'],"meta":{}}')


HOSTILE = {
    "short": (b"EDGE", "shorter than its 12-byte header"),
    "magic": (b"PK\3\4" + bytes(60), "magic"),
    "table longer than the file": (b"EDGEST01" + b"\xff\xff\xff\xff", "table length 4294967295"),
    "no JSON": (packed(b"pickle"), "state table"),
    "object array": (tabled(b'{"name":"x","dtype":"object","shape":[1]}') + bytes(8), "'object'"),
    "text array": (tabled(b'{"name":"x","dtype":"<U9","shape":[1]}') + bytes(40), "'<U9'"),
    "huge": (tabled(b'{"name":"x","dtype":"int8","shape":[1000000,1000000]}'), "needs 10{12} bytes"),
    "negative": (tabled(b'{"name":"x","dtype":"int8","shape":[-1]}'), ">= 0"),
    "twice": (tabled(b",".join([b'{"name":"x","dtype":"int8","shape":[0]}'] * 2)), "distinct"),
    "extra key": (packed(b'{"arrays":[],"meta":{},"code":"x"}'), "code"),
}


@pytest.mark.parametrize(("data", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_states_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(StoreError, match=reason):
        unpack_state(data)


@given(data=st.binary(max_size=200), at=st.integers(0, 150))
def test_damage_is_named_or_harmless(data: bytes, at: int) -> None:
    whole = pack_state({"a": np.arange(9, dtype=np.int16)}, {"n": [1, 2]})
    try:
        arrays, _ = unpack_state(whole[:at] + data + whole[at + len(data) :])
    except StoreError:
        return
    assert sum(array.nbytes for array in arrays.values()) <= len(whole) + len(data)


def test_what_is_not_plain_is_not_packed() -> None:
    with pytest.raises(StoreError, match="dtype 'object'"):
        pack_state({"x": np.array([object()])}, {})
    with pytest.raises(StoreError, match="state meta"):
        pack_state({}, {"x": object()})
