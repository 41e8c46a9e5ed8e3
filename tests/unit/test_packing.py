"""What is packed comes back as it was, in as many bytes as the formula says; every wrong byte is refused by name."""

from __future__ import annotations

import hashlib
import math
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.arrays import AnyArray
from edgerun.bundle import ENTRY, HEADER, MAGIC, Bundle, Kind, Probe, Selftest, pack, read_bundle
from edgerun.cli import main
from edgerun.errors import BundleError, SpecError
from edgerun.packing import best_packing, check_length, pack_array, sparse_bytes, unpack_array
from edgerun.price import flash_parts, memory_plan
from edgerun.spec import ClassTable, Dense, InputSpec, Manifest, Packing, TensorSpec, encode_manifest

PACKINGS: tuple[Packing, ...] = ("plain", "int4", "int2", "sparse")
TOP = {"plain": 127, "int4": 7, "int2": 1, "sparse": 127}


def values(seed: int, shape: tuple[int, ...], top: int, density: float) -> AnyArray:
    rng = np.random.default_rng(seed)
    return (rng.integers(-top, top + 1, shape) * (rng.random(shape) < density)).astype(np.int8)


def round_trip(array: AnyArray, packing: Packing) -> AnyArray:
    data = pack_array("w", array, packing)
    check_length("w", packing, "int8", array.shape, len(data))
    return unpack_array("w", memoryview(data), packing, "int8", array.shape)


@settings(deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    shape=st.lists(st.integers(1, 20), min_size=0, max_size=3).map(tuple),
    top=st.sampled_from([1, 7, 127]),
    density=st.sampled_from([0.0, 0.03, 0.3, 1.0]),
)
def test_every_packing_gives_back_what_it_was_given(
    seed: int, shape: tuple[int, ...], top: int, density: float
) -> None:
    array = values(seed, shape, top, density)
    for packing in PACKINGS:
        if top <= TOP[packing]:
            found = round_trip(array, packing)
            np.testing.assert_array_equal(found, array)
            assert found.dtype == np.int8
            assert not found.flags.writeable


@pytest.mark.parametrize(
    ("packing", "array", "stored"),
    [
        ("int4", [1, -1, 7, -7, 5], "f1 97 05"),
        ("int2", [1, -1, 0, 0, -1], "0d 03"),
        ("sparse", [0] * 9 + [5] + [0] * 22, "04 02 02 05"),
        ("sparse", [-100] + [0] * 70 + [100], "08 01 01 01 80 9c 64"),
        ("sparse", [0] * 8, "02 00"),
        ("plain", [-128, 1], "80 01"),
    ],
)
def test_bytes_are_as_the_page_says(packing: Packing, array: list[int], stored: str) -> None:
    assert pack_array("w", np.array(array, np.int8), packing).hex(" ") == stored


def test_sparse_bytes_follow_the_formula() -> None:
    array = values(3, (784, 300), 127, 0.03)
    n, kept = array.size, int(np.count_nonzero(array))
    masks = int(np.any(array.reshape(-1, 8) != 0, axis=1).sum())
    assert len(pack_array("w", array, "sparse")) == sparse_bytes(array) == 1 + math.ceil(n / 64) + masks + kept
    share = 1 / 64 + (1 - 0.97**8) / 8 + 0.03
    assert sparse_bytes(array) == pytest.approx(share * n, rel=0.03)


@settings(deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    n=st.integers(1, 400),
    top=st.sampled_from([1, 7, 127]),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]),
)
def test_the_best_packing_is_the_smallest(seed: int, n: int, top: int, density: float) -> None:
    array = values(seed, (n,), top, density)
    sizes = {p: len(pack_array("w", array, p)) for p in PACKINGS if np.abs(array).max() <= TOP[p]}
    assert sizes[best_packing(array)] == min(sizes.values())


def test_the_best_packing_is_plain_where_nothing_is_gained() -> None:
    assert best_packing(np.array([100], np.int8)) == "plain"
    assert best_packing(np.zeros(1000, np.int32)) == "plain"
    assert best_packing(values(0, (64, 64), 127, 1.0)) == "plain"


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BundleError, match=r"w has values outside \[-7, 7\], which int4 cannot hold"):
        pack_array("w", np.array([-8], np.int8), "int4")
    with pytest.raises(BundleError, match="w has values outside"):
        pack_array("w", np.array([-128], np.int8), "int2")
    with pytest.raises(BundleError, match="w is int32, only int8 is stored as sparse"):
        pack_array("w", np.zeros(3, np.int32), "sparse")
    with pytest.raises(SpecError, match="tensor w is int32, only int8 is stored as int4"):
        TensorSpec(name="w", dtype="int32", shape=(3,), packing="int4")


def test_a_plain_record_is_written_as_it_always_was() -> None:
    assert b"packing" not in msgspec.json.encode(TensorSpec(name="w", dtype="int8", shape=(3,)))


HOSTILE: dict[str, tuple[Packing, int, str, str]] = {
    "a nibble too low": ("int4", 2, "08", r"holds -8, outside \[-7, 7\] of int4"),
    "a pair too low": ("int2", 4, "80", r"holds -2, outside \[-1, 1\] of int2"),
    "a last nibble of nothing": ("int4", 1, "11", "behind its last value are not zero"),
    "a last pair of nothing": ("int2", 3, "41", "behind its last value are not zero"),
    "an unknown width": ("sparse", 8, "03 01 01 01", "values of 3 bits"),
    "a mask byte behind the end": ("sparse", 8, "08 02 01", "behind its last value are not zero"),
    "a mask bit behind the end": ("sparse", 7, "08 01 80 05", "behind its last value are not zero"),
    "a mask that is cut off": ("sparse", 64, "08 ff 01 01", "its mask ends at byte 10, its section has 4"),
    "an empty mask byte": ("sparse", 16, "08 03 01 00 05", "an empty mask byte is stored"),
    "too few values": ("sparse", 8, "08 01 07 01 02", "3 values of 8 bits take 3 bytes, its section has 2"),
    "too many values": ("sparse", 8, "04 01 07 01 02 03", "3 values of 4 bits take 2 bytes, its section has 3"),
    "a zero among the values": ("sparse", 8, "08 01 03 05 00", "a zero is stored"),
    "a value too low": ("sparse", 8, "04 01 01 08", r"holds -8, outside \[-7, 7\]"),
    "bits behind the values": ("sparse", 8, "04 01 01 11", "behind its last value are not zero"),
}


@pytest.mark.parametrize(("packing", "n", "stored", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_refused_by_name(packing: Packing, n: int, stored: str, reason: str) -> None:
    data = bytes.fromhex(stored)
    check_length("w", packing, "int8", (n,), len(data))
    with pytest.raises(BundleError, match=f"^w: .*{reason}"):
        unpack_array("w", memoryview(data), packing, "int8", (n,))


@pytest.mark.parametrize(
    ("packing", "length", "reason"),
    [
        ("plain", 4, "w is int8 (5,): 5 bytes, its section has 4"),
        ("int4", 2, "w is int8 as int4 (5,): 3 bytes, its section has 2"),
        ("int2", 3, "w is int8 as int2 (5,): 2 bytes, its section has 3"),
        ("sparse", 1, "w is int8 as sparse (5,): 2 to 8 bytes, its section has 1"),
        ("sparse", 9, "w is int8 as sparse (5,): 2 to 8 bytes, its section has 9"),
    ],
)
def test_wrong_lengths_are_refused(packing: Packing, length: int, reason: str) -> None:
    with pytest.raises(BundleError) as caught:
        check_length("w", packing, "int8", (5,), length)
    assert str(caught.value) == reason


@settings(max_examples=400, deadline=None)
@given(packing=st.sampled_from(PACKINGS[1:]), n=st.integers(1, 80), data=st.binary(min_size=2, max_size=60))
def test_any_bytes_are_an_array_or_refused(packing: Packing, n: int, data: bytes) -> None:
    try:
        check_length("w", packing, "int8", (n,), len(data))
        array = unpack_array("w", memoryview(data), packing, "int8", (n,))
    except BundleError:
        return
    np.testing.assert_array_equal(array, round_trip(array, packing))


# ------------------------------------------------------------------ in a bundle

LAYER = Dense(name="a", inputs=64, outputs=48)


def manifest(**changes: Any) -> Manifest:
    return Manifest(
        name="packed",
        input=InputSpec(shape=(64,)),
        layers=(LAYER,),
        classes=ClassTable(names=tuple("abc"), capacity=48),
        **changes,
    )


def tensors(weight: AnyArray) -> dict[str, AnyArray]:
    return {
        "a.weight": weight,
        "a.bias": np.zeros(48, np.int32),
        "a.multiplier": np.full(48, 1 << 23, np.int32),
        "a.shift": np.full(48, 31, np.uint8),
    }


def bundle(weight: AnyArray, packing: Packing) -> tuple[bytes, Bundle]:
    data = pack(
        manifest(),
        tensors(weight),
        selftest=Selftest(x=np.zeros((8, 64), np.int8), y=np.zeros((8, 48), np.int32)),
        probe=Probe(x=np.zeros((1, 64), np.int8), label=np.zeros(1, np.int32)),
        packing={"a.weight": packing},
    )
    return data, read_bundle(data)


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_bundle_holds_packed_weights(packing: Packing) -> None:
    weight = values(5, (48, 64), 1, 0.1)
    data, found = bundle(weight, packing)
    np.testing.assert_array_equal(found.tensors["a.weight"], weight)
    assert next(r for r in found.manifest.tensors if r.name == "a.weight").packing == packing
    section = next(s for s in found.sections if s.name == "a.weight")
    assert data[section.offset : section.offset + section.length] == pack_array("a.weight", weight, packing)
    assert found.id == hashlib.sha256(data[: 64 * (1 + len(found.sections))]).hexdigest()


def test_packing_saves_flash_and_no_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weight = values(5, (48, 64), 7, 0.1)
    (_, plain), (data, packed) = bundle(weight, "plain"), bundle(weight, best_packing(weight))
    saved = weight.size - sparse_bytes(weight)
    assert sum(s.length for s in plain.sections[1:]) - sum(s.length for s in packed.sections[1:]) == saved
    assert plain.size - packed.size == pytest.approx(saved, abs=128)  # two boundaries, and a word in the manifest
    assert flash_parts(plain)["bundle"] - flash_parts(packed)["bundle"] == plain.size - packed.size
    assert memory_plan(plain).bytes_by_part() == memory_plan(packed).bytes_by_part()
    (tmp_path / "packed.edgb").write_bytes(data)
    assert main(["inspect", str(tmp_path / "packed.edgb")]) == 0
    assert "int8 as sparse" in capsys.readouterr().out


def test_a_file_of_few_bytes_cannot_ask_for_much_memory() -> None:
    """Sparse zeros of half a gibibyte would fit a file of 8 MiB; they are refused before any memory is taken."""
    shape = (1 << 20, 512)
    record = TensorSpec(name="a.weight", dtype="int8", shape=shape, packing="sparse")
    stored = bytes([8]) + bytes(math.prod(shape) // 64)
    text = encode_manifest(manifest(tensors=(record,)))
    start = 64 * 3
    padding = bytes(-len(text) % 64)
    rows = [(Kind.MANIFEST, start, text), (Kind.TENSOR, start + len(text) + len(padding), stored)]
    table = b"".join(
        ENTRY.pack(kind, 0, offset, len(body), hashlib.sha256(body).digest(), bytes(8)) for kind, offset, body in rows
    )
    end = rows[1][1] + len(stored)
    crc = zlib.crc32(HEADER.pack(MAGIC, 1, 0, 2, 1, 0, end, bytes(40)) + table)
    data = HEADER.pack(MAGIC, 1, 0, 2, 1, crc, end, bytes(40)) + table + text + padding + stored + struct.pack("<H", 0)
    tracemalloc.start()
    with pytest.raises(BundleError, match="arrays have 536870912 bytes unpacked, at most 268435456 are allowed"):
        read_bundle(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
