"""The container refuses every way of being wrong by name, and gives back exactly what was packed."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgerun.arrays import Tensors
from edgerun.bundle import (
    ENTRY,
    HEADER,
    MAGIC,
    MAX_FILE_BYTES,
    SIGNATURE,
    Kind,
    Probe,
    Selftest,
    Signer,
    open_bundle,
    pack,
    read_bundle,
)
from edgerun.errors import BundleError, EdgeRunError, MissingExtra, SpecError
from edgerun.keys import key_id
from edgerun.spec import (
    ClassTable,
    Dense,
    EProp,
    Head,
    InputSpec,
    LearningPlan,
    Lif,
    Manifest,
    PhaseRate,
    PlasticRate,
    Readout,
    encode_manifest,
)

RNG = np.random.default_rng(7)


# ------------------------------------------------------------------ two small models


def dense_manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "two-layers",
        "input": InputSpec(shape=(2, 3)),
        "layers": (Dense(name="a", inputs=6, outputs=5), Dense(name="b", inputs=5, outputs=3)),
        "classes": ClassTable(names=("x", "y", "z"), capacity=3),
    }
    return Manifest(**(fields | changes))


def dense_tensors(name: str, inputs: int, outputs: int) -> Tensors:
    return {
        f"{name}.weight": RNG.integers(-127, 128, (outputs, inputs), dtype=np.int8),
        f"{name}.bias": RNG.integers(-999, 999, outputs, dtype=np.int32),
        f"{name}.multiplier": np.full(outputs, 1 << 23, dtype=np.int32),
        f"{name}.shift": np.full(outputs, 31, dtype=np.uint8),
    }


TENSORS: Tensors = dense_tensors("a", 6, 5) | dense_tensors("b", 5, 3)
SELFTEST = Selftest(x=RNG.integers(-128, 128, (8, 2, 3), dtype=np.int8), y=np.arange(24, dtype=np.int32).reshape(8, 3))
PROBE = Probe(x=RNG.integers(-128, 128, (5, 2, 3), dtype=np.int8), label=np.array([0, 1, 2, 1, 0], dtype=np.int32))
EXEMPLARS = Probe(x=RNG.integers(-128, 128, (3, 2, 3), dtype=np.int8), label=np.array([2, 0, 1], dtype=np.int32))
PRIORS: Tensors = {"b.weight": np.full((3, 5), 231, dtype=np.uint8)}


def spiking_manifest() -> Manifest:
    return Manifest(
        name="spiking",
        input=InputSpec(shape=(4,), dtype="uint8"),
        encoder=PhaseRate(steps=16, full_scale=16),
        layers=(
            Lif(name="hidden", inputs=4, outputs=6, weight_exponent=6, adaptive=True),
            Readout(name="out", inputs=6, outputs=2, weight_exponent=7),
        ),
        head=Head(kind="prototypes", features="hidden"),
        classes=ClassTable(names=("no", "yes"), capacity=8),
        learning=LearningPlan(
            rule=EProp(
                layer="hidden",
                readout="out",
                rates=(PlasticRate(tensor="hidden.recurrent", eta=3, shift=8),),
                chunk_steps=16,
            )
        ),
    )


def spiking_tensors() -> Tensors:
    return {
        "hidden.input": RNG.integers(-127, 128, (4, 6), dtype=np.int8),
        "hidden.bias": np.zeros(6, dtype=np.int32),
        "hidden.decay": np.full(6, 30000, dtype=np.uint16),
        "hidden.recurrent": RNG.integers(-127, 128, (6, 6), dtype=np.int8),
        "hidden.rho": np.full(6, 32768, dtype=np.uint16),
        "hidden.beta": np.full(6, 400, dtype=np.int16),
        "out.input": RNG.integers(-127, 128, (6, 2), dtype=np.int8),
        "out.bias": np.zeros(2, dtype=np.int32),
        "out.kappa": np.full(2, 31000, dtype=np.uint16),
        "head.sum": np.full((2, 6), 32, dtype=np.int32),
        "head.count": np.array([2, 3], dtype=np.int32),
        "head.bias": np.zeros(2, dtype=np.int32),
    }


def packed(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "manifest": dense_manifest(),
        "tensors": TENSORS,
        "selftest": SELFTEST,
        "probe": PROBE,
        "priors": PRIORS,
        "exemplars": EXEMPLARS,
        "licence": "CC0-1.0",
    }
    fields |= changes
    return pack(fields.pop("manifest"), fields.pop("tensors"), **fields)


GOOD = packed()


# ------------------------------------------------------------------ what goes in comes out


def same(left: Tensors, right: Tensors) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and np.array_equal(left[name], right[name]) for name in left
    )


def test_what_was_packed_is_what_is_read() -> None:
    bundle = read_bundle(GOOD)
    assert same(bundle.tensors, TENSORS)
    assert same(bundle.priors, PRIORS)
    assert np.array_equal(bundle.selftest.x, SELFTEST.x)
    assert np.array_equal(bundle.selftest.y, SELFTEST.y)
    assert np.array_equal(bundle.probe.x, PROBE.x)
    assert np.array_equal(bundle.probe.label, PROBE.label)
    assert bundle.exemplars is not None
    assert np.array_equal(bundle.exemplars.x, EXEMPLARS.x)
    assert np.array_equal(bundle.exemplars.label, EXEMPLARS.label)
    assert bundle.licence == "CC0-1.0"
    assert msgspec.structs.replace(bundle.manifest, tensors=()) == dense_manifest()
    assert bundle.size == len(GOOD)
    assert set(bundle.certificates) == {"a", "b"}


def test_exemplars_may_be_none_or_4096() -> None:
    assert read_bundle(packed(exemplars=None)).exemplars is None
    most = Probe(x=np.zeros((4096, 2, 3), np.int8), label=np.zeros(4096, np.int32))
    exemplars = read_bundle(packed(exemplars=most)).exemplars
    assert exemplars is not None
    assert len(exemplars.x) == 4096


def test_text_may_have_a_mebibyte() -> None:
    assert len(read_bundle(packed(licence="x" * (1 << 22))).licence) == 1 << 22


def test_a_spiking_bundle_with_prototypes_survives_the_round_trip() -> None:
    tensors = spiking_tensors()
    data = pack(
        spiking_manifest(),
        tensors,
        selftest=Selftest(x=np.zeros((32, 4), dtype=np.uint8), y=np.zeros((32, 2), dtype=np.int32)),
        probe=Probe(x=np.zeros((1, 4), dtype=np.uint8), label=np.zeros(1, dtype=np.int32)),
    )
    assert same(read_bundle(data).tensors, tensors)


def test_the_order_of_arguments_does_not_change_a_byte() -> None:
    assert packed(tensors=dict(reversed(TENSORS.items()))) == GOOD


def test_arrays_are_read_only_views_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.edgb"
    path.write_bytes(GOOD)
    bundle = open_bundle(path)
    every = [*bundle.tensors.values(), *bundle.priors.values(), bundle.selftest.x, bundle.probe.label]
    assert bundle.exemplars is not None
    every += [bundle.exemplars.x, bundle.exemplars.label]
    assert not any(array.flags.writeable or array.flags.owndata for array in every)
    assert all(array.ctypes.data % 64 == 0 for array in every)
    assert same(bundle.tensors, TENSORS)


def test_the_id_covers_header_and_table_but_no_signature() -> None:
    count = struct.unpack_from("<H", GOOD, 8)[0]
    want = hashlib.sha256(GOOD[: 64 * (1 + count)]).hexdigest()
    assert read_bundle(GOOD).id == want
    assert read_bundle(packed(sign=[signer(KEY)])).id == want


def test_the_documented_layout_by_hand() -> None:
    """The header and the first table row, spelled out as `docs/bundle.md` has them."""
    magic, version, zero, sections, arrays, crc, length, reserved = struct.unpack_from("<4sHHHHIQ40s", GOOD)
    assert (magic, version, zero, reserved) == (b"EDGB", 1, 0, bytes(40))
    assert (sections, arrays) == (8 + 2 + 2 + 1 + 2 + 2, 8 + 2 + 2 + 1 + 2)
    head = GOOD[: 64 * (1 + sections)]
    assert crc == zlib.crc32(head[:12] + bytes(4) + head[16:])
    kind, _, offset, size, digest, _ = struct.unpack_from("<IIQQ32s8s", GOOD, 64)
    assert (kind, offset) == (1, len(head))
    assert digest == hashlib.sha256(GOOD[offset : offset + size]).digest()
    assert GOOD[length:] == b"\0\0"


# ------------------------------------------------------------------ hostile bytes


def le16(value: int) -> bytes:
    return struct.pack("<H", value)


def resealed(data: bytes) -> bytes:
    """The same bytes with the header's CRC made right again."""
    count = struct.unpack_from("<H", data, 8)[0]
    head = bytearray(data[: 64 * (1 + count)])
    head[12:16] = bytes(4)
    return data[:12] + struct.pack("<I", zlib.crc32(head)) + data[16:]


def patched(offset: int, new: bytes) -> bytes:
    return resealed(GOOD[:offset] + new + GOOD[offset + len(new) :])


def entry(k: int) -> tuple[Any, ...]:
    return ENTRY.unpack_from(GOOD, 64 * (k + 1))


def with_entry(k: int, **changes: Any) -> bytes:
    names = ("kind", "zero", "offset", "length", "sha256", "tail")
    fields = dict(zip(names, entry(k), strict=True)) | changes
    return patched(64 * (k + 1), ENTRY.pack(*fields.values()))


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.edgb", GOOD)
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **TENSORS)  # type: ignore[arg-type]  # savez's keywords
    return buffer.getvalue()


LENGTH = struct.unpack_from("<Q", GOOD, 16)[0]
LAST = struct.unpack_from("<H", GOOD, 8)[0] - 1

HOSTILE = {
    "empty": (b"", "shorter than the 64-byte header"),
    "gif": (b"GIF89a" + bytes(90), "magic b'GIF8'"),
    "zip": (zipped(), "magic"),
    "npz": (npz(), "magic"),
    "elf": (Path(sys.executable).read_bytes()[:4096], "magic"),
    "only a header": (GOOD[:64], "the table of 17 sections ends at byte 1152, the file has 64"),
    "version 2": (patched(4, le16(2)), "format version 2 is not 1"),
    "flags": (patched(6, le16(1)), "reserved bytes of the header"),
    "no sections": (patched(8, le16(0)), r"section count 0 is outside \[1, 16386\]"),
    "too many sections": (GOOD[:8] + le16(65535) + GOOD[10:], "section count 65535 is outside"),
    "array count": (patched(10, le16(12)), "the header counts 12 array sections, the table has 15"),
    "crc": (GOOD[:12] + b"\0\0\0\0" + GOOD[16:], "CRC32"),
    "length past the end": (patched(16, struct.pack("<Q", 1 << 40)), "header length 1099511627776 is not"),
    "length too short": (patched(16, struct.pack("<Q", LENGTH - 1)), "header length"),
    "reserved tail": (patched(63, b"\1"), "reserved bytes of the header"),
    "unknown kind": (with_entry(3, kind=77), "section 3 has the unknown kind 77"),
    "reserved of a section": (with_entry(3, zero=1), "reserved bytes of section 3"),
    "reserved tail of a section": (with_entry(3, tail=b"\1" * 8), "reserved bytes of section 3"),
    "no manifest": (with_entry(0, kind=Kind.TENSOR), "section 0 is not the manifest"),
    "two manifests": (with_entry(1, kind=Kind.MANIFEST), "2 manifest sections"),
    "two licences": (with_entry(LAST - 1, kind=Kind.LICENCE), "2 licence sections"),
    "kinds out of order": (with_entry(2, kind=Kind.PROBE), "rising order"),
    "wrong kind": (with_entry(8, kind=Kind.SELFTEST), "b.shift lies in a section of the wrong kind, selftest"),
    "overlap": (with_entry(4, offset=entry(3)[2]), "section 4 at byte .* overlaps"),
    "inside the header": (with_entry(0, offset=0), "section 0 at byte 0 overlaps"),
    "hole": (with_entry(4, offset=entry(4)[2] + 64), "section 4 at byte .* leaves a hole"),
    "misaligned": (with_entry(4, offset=entry(4)[2] + 1), "leaves a hole"),
    "empty section": (with_entry(4, length=0), "section 4 is empty"),
    "section past the end": (with_entry(4, length=1 << 63), "section 4 runs to byte"),
    "huge manifest": (with_entry(0, length=(1 << 22) + 1), "section 0 .manifest. has 4194305 bytes"),
    "wrong digest": (with_entry(2, sha256=bytes(32)), "section 2 .tensor. does not match its SHA-256"),
    "padding": (GOOD[: entry(0)[2] + entry(0)[3]] + b"\1" + GOOD[entry(0)[2] + entry(0)[3] + 1 :], "padding before"),
    "trailing byte": (GOOD + b"\0", "1 trailing bytes"),
    "trailing bundle": (GOOD + GOOD, "trailing bytes"),
    "nine signatures": (GOOD[:-2] + le16(9) + bytes(9 * 72), "signature count 9 is above 8"),
    "cut signature": (GOOD[:-2] + le16(1) + bytes(71), "1 signatures need 74 bytes, the file has 73 left"),
    "twice the same key": (GOOD[:-2] + le16(2) + bytes(144), "one key has signed twice"),
}


@pytest.mark.parametrize(("data", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(BundleError, match=reason) as caught:
        read_bundle(data)
    assert "\n" not in str(caught.value)


def test_a_file_cut_at_any_byte_is_refused() -> None:
    for cut in itertools.chain(range(0, 1100), range(1100, len(GOOD), 7), range(len(GOOD) - 130, len(GOOD))):
        with pytest.raises(BundleError):
            read_bundle(GOOD[:cut])


def test_every_single_bit_flip_in_the_head_is_refused() -> None:
    for bit in range(8 * 64 * (LAST + 2)):
        with pytest.raises(BundleError):
            read_bundle(flipped(GOOD, bit))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bit=st.integers(0, 8 * len(GOOD) - 1))
def test_any_single_bit_flip_is_refused(bit: int) -> None:
    with pytest.raises(BundleError):
        read_bundle(flipped(GOOD, bit))


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=512), keep=st.integers(0, 1024))
def test_arbitrary_bytes_are_refused_and_never_crash(data: bytes, keep: int) -> None:
    with pytest.raises(BundleError):
        read_bundle(GOOD[:keep] + data)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_an_oversized_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "big.edgb"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(BundleError, match=r"big.edgb: 268435457 bytes are more than the 268435456"):
        open_bundle(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a regular file"):
        open_bundle(tmp_path)
    (tmp_path / "empty.edgb").touch()
    with pytest.raises(BundleError, match=r"empty.edgb: 0 bytes are shorter"):
        open_bundle(tmp_path / "empty.edgb")
    with pytest.raises(FileNotFoundError):
        open_bundle(tmp_path / "none.edgb")


# ------------------------------------------------------------------ sealed, but wrong inside


def sealed(manifest: bytes, bodies: Iterator[tuple[Kind, bytes]] | None = None) -> bytes:
    """A container whose digests all agree, around any manifest and any sections (default: those of GOOD)."""
    rows = [(Kind.MANIFEST, manifest), *(sections_of(GOOD) if bodies is None else bodies)]
    start = 64 * (1 + len(rows))
    body, table = bytearray(), bytearray()
    for kind, data in rows:
        body += bytes(-len(body) % 64)
        table += ENTRY.pack(kind, 0, start + len(body), len(data), hashlib.sha256(data).digest(), bytes(8))
        body += data
    arrays = sum(kind not in (Kind.MANIFEST, Kind.LICENCE) for kind, _ in rows)
    header = HEADER.pack(MAGIC, 1, 0, len(rows), arrays, 0, start + len(body), bytes(40))
    return resealed(header + bytes(table) + bytes(body) + b"\0\0")


def sections_of(data: bytes) -> Iterator[tuple[Kind, bytes]]:
    for section in read_bundle(data).sections[1:]:
        yield section.kind, data[section.offset : section.offset + section.length]


MANIFEST = encode_manifest(read_bundle(GOOD).manifest)


def rewritten(old: bytes, new: bytes) -> bytes:
    assert MANIFEST.count(old) >= 1
    return sealed(MANIFEST.replace(old, new, 1))


def test_sealing_by_hand_gives_the_same_file() -> None:
    assert sealed(MANIFEST) == GOOD


NOT_TEXT = [(kind, b"\xff" if kind is Kind.LICENCE else data) for kind, data in sections_of(GOOD)]
WRONG_MANIFESTS = {
    "nothing but a manifest": (sealed(MANIFEST, iter([])), "the manifest describes 15 arrays, the table has 0"),
    "longest manifest": (
        sealed(MANIFEST + b" " * ((1 << 22) - len(MANIFEST)) + b"}"),
        "4194305 bytes, at most 4194304",
    ),
    "not json": (sealed(b"\x00"), "manifest: JSON is malformed"),
    "not utf-8": (rewritten(b'"two-layers"', b'"\xff\xfe"'), "manifest: "),
    "deep nesting": (sealed(b'{"name":' + b"[" * 100_000), "manifest: "),
    "unknown field": (rewritten(b'"seq":0', b'"seq\\n":0'), "unknown field `seq.?`"),
    "unknown layer": (rewritten(b'"type":"dense"', b'"type":"cube"'), r"Invalid value 'cube' - at `\$.layers\[0\]"),
    "newer runtime": (rewritten(b'"min_runtime":"0.1.0"', b'"min_runtime":"9.0.0"'), "min_runtime 9.0.0 is newer"),
    "newer, with its fields": (sealed(b'{"min_runtime":"0.2.0","soul":1}'), "min_runtime 0.2.0 is newer"),
    "no version": (rewritten(b'"min_runtime":"0.1.0"', b'"min_runtime":"new"'), "not of the form 1.2.3"),
    "endless version": (rewritten(b"0.1.0", b"9" * 6000 + b".1.0"), "not of the form 1.2.3"),
    "layers disagree": (rewritten(b'"inputs":5', b'"inputs":4'), "layer b takes 4 values, a gives 5"),
    "record of another size": (rewritten(b'"shape":[5,6]', b'"shape":[5,7]'), "35 bytes, its section has 30"),
    "giant record": (rewritten(b'"shape":[5,6]', b'"shape":[65536,65536,65536,65536]'), "its section has 30"),
    "record of another shape": (rewritten(b'"shape":[5,6]', b'"shape":[6,5]'), r"int8 \(6, 5\), not int8 \(5, 6\)"),
    "record of another dtype": (rewritten(b'"dtype":"int8","name"', b'"dtype":"uint8","name"'), "a.weight is uint8"),
    "scalar": (rewritten(b'"selftest.x","shape":[8,2,3]', b'"selftest.x","shape":[]'), "its section has 48"),
    "no such tensor": (rewritten(b'"name":"a.bias"', b'"name":"a.bia"'), "tensor a.bias is missing"),
    "tensors swapped": (rewritten(b'"name":"a.weight"', b'"name":"b.weight"'), "tensor names repeat"),
    "array of no kind": (rewritten(b'"probe.label"', b'"probe.names"'), "array probe.label is missing"),
    "exemplars without labels": (
        rewritten(b'"exemplar.label"', b'"exemplar.names"'),
        "array exemplar.label is missing",
    ),
    "exemplars renamed": (
        rewritten(b'"exemplar.x"', b'"exemplum.x"'),
        "exemplum.x lies in a section of the wrong kind",
    ),
    "reserved for exemplars": (rewritten(b'"name":"a","o', b'"name":"exemplar.a","o'), "begins with a reserved word"),
    "prior of nothing": (rewritten(b'"prior.b.weight"', b'"prior.c.weight"'), "prior.c.weight guards no tensor"),
    "reserved name": (rewritten(b'"name":"a","o', b'"name":"prior.a","o'), "begins with a reserved word"),
    "too few records": (
        sealed(encode_manifest(dense_manifest())),
        "the manifest describes 0 arrays, the table has 15",
    ),
    "too narrow for its classes": (
        rewritten(b'"capacity":3,"names":["x"', b'"capacity":4,"names":["w","x"'),
        "3 scores",
    ),
    "input bound": (rewritten(b'"input_bound":128', b'"input_bound":127'), "input_bound 127 is under the 128"),
    "licence": (sealed(MANIFEST, iter(NOT_TEXT)), "not UTF-8"),
}


@pytest.mark.parametrize(("data", "reason"), WRONG_MANIFESTS.values(), ids=WRONG_MANIFESTS)
def test_wrong_manifests_are_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(BundleError, match=reason) as caught:
        read_bundle(data)
    assert str(caught.value).isprintable()


SPIKING = pack(
    spiking_manifest(),
    spiking_tensors(),
    selftest=Selftest(x=np.zeros((8, 4), dtype=np.uint8), y=np.zeros((8, 2), dtype=np.int32)),
    probe=Probe(x=np.zeros((1, 4), dtype=np.uint8), label=np.zeros(1, dtype=np.int32)),
)
VICTIMS = {data: (encode_manifest(read_bundle(data).manifest), list(sections_of(data))) for data in (GOOD, SPIKING)}
EXTREMES = [
    b"-1",
    b"0",
    b"1",
    b"255",
    b"65536",
    b"4294967296",
    b"18446744073709551616",
    b"1e308",
    b"-0.5",
    b"null",
    b'"x"',
]
TOKEN = re.compile(rb'-?[0-9.]+|"[^"]*"|true|false|null')


def read_or_refuse(data: bytes) -> None:
    """Whatever is in a sealed file, the reader either takes it or raises a BundleError of one line."""
    complaint = ""
    try:
        read_bundle(data)
    except BundleError as err:
        complaint = str(err)
    assert complaint.isprintable()


@settings(max_examples=600, deadline=None)
@given(data=st.sampled_from([GOOD, SPIKING]), where=st.integers(0, 10_000), what=st.sampled_from(EXTREMES))
def test_any_value_of_the_manifest_may_be_hostile(data: bytes, where: int, what: bytes) -> None:
    manifest, bodies = VICTIMS[data]
    tokens = list(TOKEN.finditer(manifest))
    token = tokens[where % len(tokens)]
    read_or_refuse(sealed(manifest[: token.start()] + what + manifest[token.end() :], iter(bodies)))


@settings(max_examples=300, deadline=None)
@given(data=st.sampled_from([GOOD, SPIKING]), where=st.integers(0, 10_000), what=st.binary(max_size=9))
def test_any_bytes_of_the_manifest_may_be_hostile(data: bytes, where: int, what: bytes) -> None:
    manifest, bodies = VICTIMS[data]
    at = where % len(manifest)
    read_or_refuse(sealed(manifest[:at] + what + manifest[at + len(what) :], iter(bodies)))


@settings(max_examples=300, deadline=None)
@given(data=st.sampled_from([GOOD, SPIKING]), k=st.integers(0, 100), seed=st.integers(0, 1 << 30))
def test_any_array_may_be_hostile(data: bytes, k: int, seed: int) -> None:
    manifest, bodies = VICTIMS[data]
    k %= len(bodies)
    noise = np.random.default_rng(seed).choice([0, 1, 127, 128, 255], len(bodies[k][1])).astype(np.uint8).tobytes()
    read_or_refuse(sealed(manifest, iter([*bodies[:k], (bodies[k][0], noise), *bodies[k + 1 :]])))


def put(name: str, index: tuple[int, ...], value: int) -> dict[str, Any]:
    array = TENSORS[name].copy()
    array[index] = value
    return {"tensors": TENSORS | {name: array}}


WRONG_CONTENT = {
    "missing tensor": ({"tensors": {k: v for k, v in TENSORS.items() if k != "b.bias"}}, "tensor b.bias is missing"),
    "surplus tensor": ({"tensors": TENSORS | {"c.bias": TENSORS["b.bias"]}}, "tensor c.bias belongs to no layer"),
    "float tensor": ({"tensors": TENSORS | {"b.bias": np.zeros(3)}}, "b.bias is float64, not one of int8"),
    "bias": (put("a.bias", (0,), 1 << 28), "a.bias has the value 268435456"),
    "shift 0": (put("b.shift", (2,), 0), r"b.shift has the value 0, outside \[1, 46\]"),
    "shift 47": (put("b.shift", (2,), 47), "b.shift has the value 47"),
    "multiplier": (put("b.multiplier", (1,), 5), r"layer b channel 1: multiplier 5 is neither 1 nor"),
    "power of two": (put("b.multiplier", (1,), 1), "layer b channel 1: shift of a power of two 31 is above 23"),
    "7 rows": ({"selftest": Selftest(x=SELFTEST.x[:7], y=SELFTEST.y[:7])}, r"selftest has 7 rows, outside \[8, 32\]"),
    "33 rows": (
        {"selftest": Selftest(x=np.zeros((33, 2, 3), np.int8), y=np.zeros((33, 3), np.int32))},
        "selftest has 33 rows",
    ),
    "scores": ({"selftest": Selftest(x=SELFTEST.x, y=SELFTEST.y[:, :2])}, r"selftest.y is int32 \(8, 2\)"),
    "flat input": ({"selftest": Selftest(x=SELFTEST.x.reshape(8, 6), y=SELFTEST.y)}, r"int8 \(8, 6\), not int8 \(8, 2"),
    "label": ({"probe": Probe(x=PROBE.x, label=PROBE.label + 1)}, r"probe.label has the value 3, outside \[0, 2\]"),
    "flat probe": ({"probe": Probe(x=PROBE.x.reshape(5, 6), label=PROBE.label)}, r"probe.x is int8 \(5, 6\), not int8"),
    "unsigned probe": ({"probe": Probe(x=PROBE.x.view(np.uint8), label=PROBE.label)}, "probe.x is uint8"),
    "a number for a probe": (
        {"probe": Probe(x=np.array(3, dtype=np.int8), label=PROBE.label)},
        "probe.x is a single number, not rows",
    ),
    "labels": ({"probe": Probe(x=PROBE.x, label=PROBE.label[:4])}, r"probe.label is int32 \(4,\), not int32 \(5,\)"),
    "4097 exemplars": (
        {"exemplars": Probe(x=np.zeros((4097, 2, 3), np.int8), label=np.zeros(4097, np.int32))},
        r"exemplar.x has 4097 rows, outside \[1, 4096\]",
    ),
    "no exemplars": (
        {"exemplars": Probe(x=np.zeros((0, 2, 3), np.int8), label=np.zeros(0, np.int32))},
        "section 15 is empty",
    ),
    "exemplar label": (
        {"exemplars": Probe(x=EXEMPLARS.x, label=EXEMPLARS.label + 1)},
        r"exemplar.label has the value 3, outside \[0, 2\]",
    ),
    "negative exemplar label": (
        {"exemplars": Probe(x=EXEMPLARS.x, label=EXEMPLARS.label - 1)},
        r"exemplar.label has the value -1, outside \[0, 2\]",
    ),
    "exemplar labels": (
        {"exemplars": Probe(x=EXEMPLARS.x, label=EXEMPLARS.label[:2])},
        r"exemplar.label is int32 \(2,\), not int32 \(3,\)",
    ),
    "wide exemplar label": (
        {"exemplars": Probe(x=EXEMPLARS.x, label=EXEMPLARS.label.astype(np.int64))},
        "exemplar.label is int64",
    ),
    "flat exemplars": (
        {"exemplars": Probe(x=EXEMPLARS.x.reshape(3, 6), label=EXEMPLARS.label)},
        r"exemplar.x is int8 \(3, 6\), not int8 \(3, 2, 3\)",
    ),
    "unsigned exemplars": (
        {"exemplars": Probe(x=EXEMPLARS.x.view(np.uint8), label=EXEMPLARS.label)},
        "exemplar.x is uint8",
    ),
    "a number for exemplars": (
        {"exemplars": Probe(x=np.array(3, np.int8), label=EXEMPLARS.label)},
        "exemplar.x is a single number, not rows",
    ),
    "importance": ({"priors": {"b.weight": np.full((3, 5), 232, np.uint8)}}, "prior.b.weight has the value 232"),
    "prior shape": ({"priors": {"b.weight": np.zeros((5, 3), np.uint8)}}, r"prior.b.weight is uint8 \(5, 3\)"),
}


@pytest.mark.parametrize(("changes", "reason"), WRONG_CONTENT.values(), ids=WRONG_CONTENT)
def test_pack_writes_nothing_that_the_reader_would_refuse(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BundleError, match=reason):
        packed(**changes)


WRONG_SPIKING = {
    "decay": ("hidden.decay", 32769, "hidden.decay has the value 32769"),
    "kappa": ("out.kappa", 40000, "out.kappa has the value 40000"),
    "sum above its count": ("head.sum", 33, r"head.sum holds a value above head.count \* 16"),
    "negative count": ("head.count", -1, "head.count has the value -1"),
}


@pytest.mark.parametrize(("name", "value", "reason"), WRONG_SPIKING.values(), ids=WRONG_SPIKING)
def test_spiking_tensors_stay_in_range(name: str, value: int, reason: str) -> None:
    tensors = spiking_tensors()
    tensors[name].flat[0] = value
    with pytest.raises(BundleError, match=reason):
        pack(
            spiking_manifest(),
            tensors,
            selftest=Selftest(x=np.zeros((8, 4), dtype=np.uint8), y=np.zeros((8, 2), dtype=np.int32)),
            probe=Probe(x=np.zeros((1, 4), dtype=np.uint8), label=np.zeros(1, dtype=np.int32)),
        )


@pytest.mark.parametrize("wanted", ["any", "camera"])
def test_a_device_reads_only_what_is_made_for_it(wanted: str) -> None:
    data = packed(manifest=dense_manifest(device_class=wanted))
    assert read_bundle(data, device_class="camera").manifest.device_class == wanted
    assert read_bundle(data).manifest.device_class == wanted
    if wanted != "any":
        with pytest.raises(BundleError, match="device_class 'camera' is not this device's, 'meter'"):
            read_bundle(data, device_class="meter")


# ------------------------------------------------------------------ signatures

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def signer(key: Ed25519PrivateKey) -> Signer:
    return lambda message: (key_id(public(key)), key.sign(message))


def trust(*keys: Ed25519PrivateKey) -> dict[bytes, bytes]:
    return {key_id(public(key)): public(key) for key in keys}


SIGNED = packed(sign=[signer(OTHER), signer(KEY)])


def test_a_signature_by_one_trusted_key_is_enough() -> None:
    assert read_bundle(SIGNED, trust=trust(KEY)).signed_by == (key_id(public(KEY)).hex(),)
    assert len(read_bundle(SIGNED, trust=trust(KEY, OTHER)).signed_by) == 2


def test_eight_may_sign() -> None:
    keys = [Ed25519PrivateKey.generate() for _ in range(8)]
    assert len(read_bundle(packed(sign=[signer(key) for key in keys]), trust=trust(*keys)).signed_by) == 8
    with pytest.raises(BundleError, match="signature count 9 is above 8"):
        packed(sign=[signer(key) for key in (*keys, OTHER)])


def test_without_trust_nobody_has_signed() -> None:
    bundle = read_bundle(SIGNED)
    assert bundle.signed_by == ()
    assert len(bundle.key_ids) == 2


@pytest.mark.parametrize(
    ("data", "keys", "reason"),
    [
        (GOOD, (KEY,), "none of its 0 signatures is by one of the 1 trusted keys"),
        (SIGNED, (), "none of its 2 signatures is by one of the 0 trusted keys"),
        (packed(sign=[signer(OTHER)]), (KEY,), "none of its 1 signatures"),
        (packed(sign=[lambda m: (key_id(public(KEY)), OTHER.sign(m))]), (KEY,), "does not hold"),
        (packed(sign=[lambda m: (key_id(public(KEY)), KEY.sign(m[1:]))]), (KEY,), "does not hold"),
    ],
    ids=["unsigned", "nobody trusted", "stranger", "forged", "another message"],
)
def test_where_a_signature_is_wanted_it_must_hold(
    data: bytes, keys: tuple[Ed25519PrivateKey, ...], reason: str
) -> None:
    with pytest.raises(BundleError, match=reason):
        read_bundle(data, trust=trust(*keys))


def test_signatures_do_not_travel_to_another_bundle() -> None:
    other = packed(manifest=dense_manifest(seq=1))
    with pytest.raises(BundleError, match="does not hold"):
        read_bundle(other[:-2] + SIGNED[-2 - 2 * SIGNATURE.size :], trust=trust(KEY))


@settings(max_examples=200, deadline=None)
@given(bit=st.integers(0, 8 * len(SIGNED) - 1))
def test_under_trust_a_flip_is_refused_or_costs_only_a_stranger(bit: int) -> None:
    """With one trusted key, only the bits of the other signer's key id and signature may change unseen."""
    stranger = range(8 * (len(SIGNED) - 2 * SIGNATURE.size), 8 * (len(SIGNED) - SIGNATURE.size))
    if bit in stranger:
        assert len(read_bundle(flipped(SIGNED, bit), trust=trust(KEY)).signed_by) == 1
    else:
        with pytest.raises(BundleError):
            read_bundle(flipped(SIGNED, bit), trust=trust(KEY))


def test_where_the_check_is_not_installed_the_answer_is_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"edgerun\[sign\]"):
        read_bundle(SIGNED, trust=trust())
    assert read_bundle(SIGNED).signed_by == ()


# ------------------------------------------------------------------ descriptions that contradict themselves


def eprop(**changes: Any) -> LearningPlan:
    fields: dict[str, Any] = {"layer": "hidden", "readout": "out", "rates": (), "chunk_steps": 8}
    return LearningPlan(rule=EProp(**(fields | changes)))


def spiking(**changes: Any) -> Manifest:
    return msgspec.structs.replace(spiking_manifest(), **changes)


GRAPHS: dict[str, tuple[Manifest, str]] = {
    "eprop on a readout": (spiking(learning=eprop(layer="out")), "eprop layer 'out' is no lif layer"),
    "readout is a lif": (spiking(learning=eprop(readout="hidden")), "eprop readout 'hidden' is no readout"),
    "plastic bias": (
        spiking(learning=eprop(rates=(PlasticRate(tensor="out.bias", eta=1, shift=1),))),
        "a rate names 'out.bias', which is no weight tensor",
    ),
    "prototypes of a readout": (spiking(head=Head(kind="prototypes", features="out")), "features 'out' is a readout"),
    "whitening of another width": (
        spiking(head=Head(kind="prototypes", features="hidden", whiten=Dense(name="w", inputs=5, outputs=5))),
        "layer w takes 5 values, hidden gives 6",
    ),
    "whitening called like a layer": (
        spiking(
            layers=(Dense(name="w", inputs=4, outputs=3),),
            head=Head(kind="prototypes", features="w", whiten=Dense(name="w", inputs=3, outputs=3)),
            learning=LearningPlan(),
        ),
        "two layers ask for a tensor of the same name",
    ),
    "logits with features": (spiking(head=Head(features="hidden")), "takes neither features nor whiten"),
}


@pytest.mark.parametrize(("manifest", "reason"), GRAPHS.values(), ids=GRAPHS)
def test_graphs_that_contradict_themselves_are_refused(manifest: Manifest, reason: str) -> None:
    with pytest.raises(EdgeRunError, match=reason) as caught:
        pack(
            manifest,
            spiking_tensors(),
            selftest=Selftest(x=np.zeros((8, 4), dtype=np.uint8), y=np.zeros((8, 2), dtype=np.int32)),
            probe=Probe(x=np.zeros((1, 4), dtype=np.uint8), label=np.zeros(1, dtype=np.int32)),
        )
    assert isinstance(caught.value, BundleError | SpecError)
