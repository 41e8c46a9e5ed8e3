"""The bundle `*.edgb`: one flat file that holds a model, proves itself whole, and can be memory-mapped.

    header 64 | table 64 each | sections, each on a 64-byte boundary | signatures        `docs/bundle.md` has every bit

The id of a bundle is the SHA-256 of header and table; the table holds the SHA-256 of every section, so the id covers
everything but the signatures, and those cover the id's bytes. Nothing but the fixed header and table is looked into
before all digests agree. Whatever is wrong is a BundleError with one line that names it.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias, cast, get_args

import msgspec
import numpy as np

from edgerun import __version__
from edgerun.arrays import I32, AnyArray, Tensors
from edgerun.certificate import certify
from edgerun.errors import BundleError, MissingExtra, SpecError
from edgerun.graph import check_graph, feature_reach, learns, score_width, wanted_tensors
from edgerun.layers.base import Certificate
from edgerun.packing import check_length, pack_array, unpack_array
from edgerun.spec import MAX_TENSORS, DType, Manifest, Packing, TensorSpec, decode_manifest, encode_manifest

MAGIC: Final = b"EDGB"
VERSION: Final = 1
ALIGNMENT: Final = 64
HEADER: Final = struct.Struct("<4sHHHHIQ40s")  # magic, version, 0, sections, arrays, CRC32, length, 0
ENTRY: Final = struct.Struct("<IIQQ32s8s")  # kind, 0, offset, length, SHA-256, 0
CRC_FIELD: Final = slice(12, 16)
SIGNATURE: Final = struct.Struct("<8s64s")  # key id, Ed25519
SIGNED_PREFIX: Final = b"edgerun-bundle-v1"

MAX_FILE_BYTES: Final = 256 << 20
MAX_ARRAY_BYTES: Final = 256 << 20  # of all arrays together, unpacked
MAX_TEXT_BYTES: Final = 4 << 20  # manifest, licence
MAX_SECTIONS: Final = MAX_TENSORS + 2
MAX_SIGNATURES: Final = 8
SELFTEST_ROWS: Final = (8, 32)
PROBE_ARRAYS: Final = ("probe.x", "probe.label")
MAX_EXEMPLARS: Final = 4096
IMPORTANCE_CODE_MAX: Final = 231

Signer: TypeAlias = Callable[[bytes], tuple[bytes, bytes]]
"""Takes the signed message, gives (key id, signature): 8 and 64 bytes."""


class Kind(IntEnum):
    MANIFEST = 1
    TENSOR = 2
    SELFTEST = 3
    PROBE = 4
    PRIOR = 5
    LICENCE = 6
    EXEMPLAR = 7


TEXT_KINDS: Final = (Kind.MANIFEST, Kind.LICENCE)
PREFIXES: Final = MappingProxyType(
    {"selftest": Kind.SELFTEST, "probe": Kind.PROBE, "prior": Kind.PRIOR, "exemplar": Kind.EXEMPLAR}
)


@dataclass(frozen=True, slots=True)
class Section:
    """One row of the table. `name` is the array's name, or the kind of a text section."""

    kind: Kind
    name: str
    offset: int
    length: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Selftest:
    """Inputs and the exact scores that the factory weights must give them.

    x  (rows, *input.shape)  in the input's dtype      y  (rows, scores)  int32      8 to 32 rows
    """

    x: AnyArray
    y: I32


@dataclass(frozen=True, slots=True)
class Probe:
    """Labelled samples: those scored for accuracy only, and, apart from them, those that the reservoir starts from.

    No rows where nobody has labelled any: such a bundle learns nothing either, or values.

    x  (rows, *input.shape)  in the input's dtype      label  (rows,)  int32, an index into the factory class names
    """

    x: AnyArray
    label: I32


@dataclass(frozen=True, slots=True)
class Bundle:
    """A sound bundle. Plain arrays are read-only views of the bytes it was read from, packed ones read-only copies."""

    id: str
    size: int
    manifest: Manifest
    tensors: Tensors
    selftest: Selftest
    probe: Probe
    priors: Tensors  # importance codes by the name of the tensor they guard
    exemplars: Probe | None  # labelled factory samples that replay starts from, none of them the probe's
    licence: str
    certificates: Mapping[str, Certificate]
    sections: tuple[Section, ...]
    key_ids: tuple[str, ...]  # who claims to have signed it, unchecked
    signed_by: tuple[str, ...]  # whose signature was checked and holds


# ------------------------------------------------------------------ writing


def pack(
    manifest: Manifest,
    tensors: Mapping[str, AnyArray],
    *,
    selftest: Selftest,
    probe: Probe,
    priors: Mapping[str, AnyArray] = MappingProxyType({}),
    exemplars: Probe | None = None,
    licence: str = "",
    packing: Mapping[str, Packing] = MappingProxyType({}),
    sign: Sequence[Signer] = (),
) -> bytes:
    """The bytes of a bundle; the same arguments always give the same bytes.

    tensors    as `wanted_tensors(manifest)` lists them, in any order; `manifest.tensors` is filled in here
    priors     importance codes, uint8, by the name of the tensor they guard
    packing    how arrays are stored, by name; plain where none is given
    exemplars  1 to 4096 labelled samples that the replay reservoir starts from; keep the probe's out of them

    Raises SpecError or BundleError for whatever `read_bundle` would refuse.
    """
    check_graph(manifest)
    arrays = _in_order(manifest, tensors, selftest, probe, priors, exemplars)
    records = tuple(_record(name, array, packing.get(name, "plain")) for name, array in arrays.items())
    manifest = msgspec.structs.replace(manifest, tensors=records)
    bodies = [
        (Kind.MANIFEST, encode_manifest(manifest)),
        *((kind_of(r.name), pack_array(r.name, arrays[r.name], r.packing)) for r in records),
    ]
    if licence:
        bodies.append((Kind.LICENCE, licence.encode()))
    bodies.sort(key=lambda body: body[0])
    head, body = _assemble(bodies, arrays=len(arrays))
    message = signed_message(head, hashlib.sha256(bodies[0][1]).digest())
    data = head + body + _signature_block([signer(message) for signer in sign])
    read_bundle(data)
    return data


def countersign(data: bytes, sign: Sequence[Signer]) -> bytes:
    """The bytes of a bundle with more signatures on it: same id, same content, those it had kept.

    Raises BundleError if it is no whole bundle, if a key has signed it already, or if it would have more than 8.
    """
    bundle = read_bundle(data)
    _, _, length, head = _parse_header(memoryview(data))
    message = signed_message(head, bundle.sections[0].sha256)
    kept = _parse_signatures(memoryview(data)[length:])
    new = [signer(message) for signer in sign]
    for kid, _signature in new:
        if kid in kept:
            raise BundleError(f"key {kid.hex()} has signed it already")
    signed = data[:length] + _signature_block([*kept.items(), *new])
    read_bundle(signed)
    return signed


def _signature_block(signatures: Sequence[tuple[bytes, bytes]]) -> bytes:
    return struct.pack("<H", len(signatures)) + b"".join(SIGNATURE.pack(*signature) for signature in signatures)


def _in_order(
    manifest: Manifest,
    tensors: Mapping[str, AnyArray],
    selftest: Selftest,
    probe: Probe,
    priors: Mapping[str, AnyArray],
    exemplars: Probe | None,
) -> Tensors:
    wanted = [wanted.spec.name for wanted in wanted_tensors(manifest)]
    _compare_names("tensor", wanted, tensors)
    return {
        **{name: tensors[name] for name in wanted},
        "selftest.x": selftest.x,
        "selftest.y": selftest.y,
        **({"probe.x": probe.x, "probe.label": probe.label} if probe.x.size else {}),
        **{f"prior.{name}": priors[name] for name in sorted(priors)},
        **({"exemplar.x": exemplars.x, "exemplar.label": exemplars.label} if exemplars else {}),
    }


def _record(name: str, array: AnyArray, packing: Packing) -> TensorSpec:
    if array.dtype.name not in get_args(DType):
        raise BundleError(f"{name} is {array.dtype.name}, not one of {', '.join(get_args(DType))}")
    return TensorSpec(name=name, dtype=cast(DType, array.dtype.name), shape=array.shape, packing=packing)


def _assemble(bodies: Sequence[tuple[Kind, bytes]], *, arrays: int) -> tuple[bytes, bytes]:
    """(header and table, padded sections up to the end of the last one)."""
    start = HEADER.size + ENTRY.size * len(bodies)
    table, body = bytearray(), bytearray()
    for kind, data in bodies:
        body += bytes(-len(body) % ALIGNMENT)
        table += ENTRY.pack(kind, 0, start + len(body), len(data), hashlib.sha256(data).digest(), bytes(8))
        body += data
    header = bytearray(HEADER.pack(MAGIC, VERSION, 0, len(bodies), arrays, 0, start + len(body), bytes(40)))
    header[CRC_FIELD] = struct.pack("<I", zlib.crc32(header + table))
    return bytes(header + table), bytes(body)


def signed_message(head: bytes, manifest_sha256: bytes) -> bytes:
    """What a signature covers: a fixed prefix, header, table, and the manifest's digest."""
    return SIGNED_PREFIX + head + manifest_sha256


def kind_of(name: str) -> Kind:
    """The section kind of an array, which its name decides."""
    return PREFIXES.get(name.partition(".")[0], Kind.TENSOR)


# ------------------------------------------------------------------ reading


def open_bundle(
    path: str | Path, *, trust: Mapping[bytes, bytes] | None = None, device_class: str | None = None
) -> Bundle:
    """Memory-map a bundle file and read it; its arrays are views of the file. The file must not change in place.

    Raises BundleError naming the path; OSError if the file cannot be opened.
    """
    path = Path(path)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path} is not a regular file")
    try:
        _check_size(status.st_size)
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return read_bundle(memoryview(mapped), trust=trust, device_class=device_class)
    except BundleError as err:
        raise BundleError(f"{path}: {err}") from None


def read_bundle(
    data: bytes | memoryview, *, trust: Mapping[bytes, bytes] | None = None, device_class: str | None = None
) -> Bundle:
    """Check every byte of a bundle and give its content as read-only views.

    trust         raw Ed25519 public keys by key id: at least one of them must have signed. None = unsigned is allowed
    device_class  refuse a bundle made for another class; None = any

    Raises BundleError naming the first thing that is wrong; MissingExtra if `trust` is given and cannot be checked.
    """
    view = memoryview(data).cast("B").toreadonly()
    _check_size(len(view))
    count, arrays, length, head = _parse_header(view)
    entries = _parse_table(head, count, arrays)
    _check_layout(view, entries, len(head), length)
    signatures = _parse_signatures(view[length:])
    _check_digests(view, entries)
    signed_by = () if trust is None else _check_signatures(head, entries[0].sha256, signatures, trust)
    try:
        return _decode(view, head, entries, device_class, signatures, signed_by)
    except SpecError as err:
        raise BundleError(str(err)) from None


def _decode(
    view: memoryview,
    head: bytes,
    entries: Sequence[Section],
    device_class: str | None,
    signatures: Mapping[bytes, bytes],
    signed_by: tuple[str, ...],
) -> Bundle:
    """The content of a file whose digests agree. Raises SpecError or BundleError."""
    manifest = _read_manifest(bytes(_slice(view, entries[0])), device_class)
    check_graph(manifest)
    sections = _name_sections(entries, manifest.tensors)
    arrays = _view_arrays(view, sections, manifest.tensors)
    tensors = {section.name: arrays[section.name] for section in sections if section.kind is Kind.TENSOR}
    _check_tensors(manifest, tensors)
    selftest, probe = _check_samples(manifest, arrays)
    return Bundle(
        id=hashlib.sha256(head).hexdigest(),
        size=len(view),
        manifest=manifest,
        tensors=tensors,
        selftest=selftest,
        probe=probe,
        priors=_check_priors(arrays, tensors),
        exemplars=_check_exemplars(manifest, arrays),
        licence=_read_licence(view, sections),
        certificates=certify(manifest, tensors),
        sections=sections,
        key_ids=tuple(kid.hex() for kid in signatures),
        signed_by=signed_by,
    )


# ------------------------------------------------------------------ the container


def _check_size(size: int) -> None:
    if size < HEADER.size:
        raise BundleError(f"{size} bytes are shorter than the {HEADER.size}-byte header")
    if size > MAX_FILE_BYTES:
        raise BundleError(f"{size} bytes are more than the {MAX_FILE_BYTES} that a bundle may have")


def _parse_header(view: memoryview) -> tuple[int, int, int, bytes]:
    """(sections, array sections, end of the last section, bytes of header and table)."""
    magic, version, flags, count, arrays, crc, length, reserved = HEADER.unpack(view[: HEADER.size])
    if magic != MAGIC:
        raise BundleError(f"magic {magic!r} is not {MAGIC!r}: this is no bundle")
    if version != VERSION:
        raise BundleError(f"format version {version} is not {VERSION}, the one this runtime reads")
    if not 1 <= count <= MAX_SECTIONS:
        raise BundleError(f"section count {count} is outside [1, {MAX_SECTIONS}]")
    end = HEADER.size + count * ENTRY.size
    if len(view) < end:
        raise BundleError(f"the table of {count} sections ends at byte {end}, the file has {len(view)}")
    head = bytearray(view[:end])
    head[CRC_FIELD] = bytes(4)
    if zlib.crc32(head) != crc:
        raise BundleError(f"header and table do not match their CRC32 {crc:08x}")
    if flags or any(reserved):
        raise BundleError("reserved bytes of the header are not zero")
    return count, arrays, length, bytes(view[:end])


def _parse_table(head: bytes, count: int, arrays: int) -> tuple[Section, ...]:
    """The sections, the manifest first, kinds in rising order. Names come later, from the manifest."""
    entries = tuple(_parse_entry(head, k) for k in range(count))
    kinds = [entry.kind for entry in entries]
    if kinds[0] is not Kind.MANIFEST:
        raise BundleError("section 0 is not the manifest")
    if kinds != sorted(kinds):
        raise BundleError("section kinds are not in rising order")
    for kind in TEXT_KINDS:
        if kinds.count(kind) > 1:
            raise BundleError(f"{kinds.count(kind)} {kind.name.lower()} sections, at most one is allowed")
    found = sum(kind not in TEXT_KINDS for kind in kinds)
    if found != arrays:
        raise BundleError(f"the header counts {arrays} array sections, the table has {found}")
    return entries


def _parse_entry(head: bytes, k: int) -> Section:
    number, reserved, offset, length, sha256, tail = ENTRY.unpack_from(head, HEADER.size + k * ENTRY.size)
    if number not in tuple(Kind):
        raise BundleError(f"section {k} has the unknown kind {number}")
    if reserved or any(tail):
        raise BundleError(f"reserved bytes of section {k} are not zero")
    kind = Kind(number)
    if kind in TEXT_KINDS and length > MAX_TEXT_BYTES:
        raise BundleError(f"section {k} ({kind.name.lower()}) has {length} bytes, at most {MAX_TEXT_BYTES} are allowed")
    return Section(kind, kind.name.lower(), offset, length, sha256)


def _check_layout(view: memoryview, entries: Sequence[Section], start: int, length: int) -> None:
    """Each section begins at the boundary after the one before, padding is zero, the last one ends at `length`."""
    end = start
    for k, entry in enumerate(entries):
        boundary = end + -end % ALIGNMENT
        if entry.offset < boundary:
            raise BundleError(f"section {k} at byte {entry.offset} overlaps what ends at byte {end}")
        if entry.offset > boundary:
            raise BundleError(f"section {k} at byte {entry.offset} leaves a hole after byte {boundary}")
        if entry.length < 1:
            raise BundleError(f"section {k} is empty")
        if entry.offset + entry.length > len(view):
            raise BundleError(f"section {k} runs to byte {entry.offset + entry.length}, the file has {len(view)}")
        if any(view[end:boundary]):
            raise BundleError(f"padding before section {k} is not zero")
        end = entry.offset + entry.length
    if end != length:
        raise BundleError(f"header length {length} is not {end}, the end of the last section")


def _parse_signatures(block: memoryview) -> dict[bytes, bytes]:
    """Signatures by key id, unchecked; the file ends with them."""
    if len(block) < 2:
        raise BundleError("the file ends before its signature count")
    (count,) = struct.unpack("<H", block[:2])
    if count > MAX_SIGNATURES:
        raise BundleError(f"signature count {count} is above {MAX_SIGNATURES}")
    size = 2 + count * SIGNATURE.size
    if len(block) < size:
        raise BundleError(f"{count} signatures need {size} bytes, the file has {len(block)} left")
    if len(block) > size:
        raise BundleError(f"{len(block) - size} trailing bytes after the last signature")
    signatures = dict(SIGNATURE.iter_unpack(block[2:]))
    if len(signatures) != count:
        raise BundleError("one key has signed twice")
    return signatures


def _check_digests(view: memoryview, entries: Iterable[Section]) -> None:
    for k, entry in enumerate(entries):
        if hashlib.sha256(_slice(view, entry)).digest() != entry.sha256:
            raise BundleError(f"section {k} ({entry.kind.name.lower()}) does not match its SHA-256")


def _check_signatures(
    head: bytes, manifest_sha256: bytes, signatures: Mapping[bytes, bytes], trust: Mapping[bytes, bytes]
) -> tuple[str, ...]:
    """Key ids of the trusted keys whose signatures hold: at least one, and none that is wrong."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ModuleNotFoundError:
        raise MissingExtra("checking a signature", "sign", "cryptography") from None
    message = signed_message(head, manifest_sha256)
    known = [kid for kid in signatures if kid in trust]
    for kid in known:
        try:
            Ed25519PublicKey.from_public_bytes(trust[kid]).verify(signatures[kid], message)
        except (InvalidSignature, ValueError):
            raise BundleError(f"the signature of key {kid.hex()} does not hold") from None
    if not known:
        raise BundleError(f"none of its {len(signatures)} signatures is by one of the {len(trust)} trusted keys")
    return tuple(kid.hex() for kid in known)


def _slice(view: memoryview, section: Section) -> memoryview:
    return view[section.offset : section.offset + section.length]


# ------------------------------------------------------------------ the content


class Gate(msgspec.Struct, frozen=True):
    """What decides whether this runtime may read on; a newer manifest may hold fields that it does not know."""

    device_class: str = "any"
    min_runtime: str = "0.1.0"


def _read_manifest(data: bytes, device_class: str | None) -> Manifest:
    try:
        gate = msgspec.json.decode(data, type=Gate)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise SpecError(f"manifest: {err}") from None
    if parse_version(gate.min_runtime) > parse_version(__version__):
        raise BundleError(f"min_runtime {gate.min_runtime} is newer than this runtime, {__version__}")
    if device_class is not None and gate.device_class not in ("any", device_class):
        raise BundleError(f"device_class {gate.device_class!r} is not this device's, {device_class!r}")
    return decode_manifest(data)


def parse_version(text: str) -> tuple[int, int, int]:
    """(major, minor, patch) of "1.2.3". Raises BundleError."""
    match = re.fullmatch(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})", text, re.ASCII)
    if match is None:
        raise BundleError(f"min_runtime {text[:64]!r} is not of the form 1.2.3")
    major, minor, patch = (int(part) for part in match.groups())
    return major, minor, patch


def _name_sections(entries: Sequence[Section], records: Sequence[TensorSpec]) -> tuple[Section, ...]:
    """Give the array sections the names of the manifest's records, which stand in the same order."""
    count = sum(entry.kind not in TEXT_KINDS for entry in entries)
    if count != len(records):
        raise BundleError(f"the manifest describes {len(records)} arrays, the table has {count}")
    names = iter(records)
    named = tuple(entry if entry.kind in TEXT_KINDS else _named(entry, next(names)) for entry in entries)
    unpacked = sum(math.prod(record.shape) * np.dtype(record.dtype).itemsize for record in records)
    if unpacked > MAX_ARRAY_BYTES:
        raise BundleError(f"its arrays have {unpacked} bytes unpacked, at most {MAX_ARRAY_BYTES} are allowed")
    return named


def _named(entry: Section, record: TensorSpec) -> Section:
    if entry.kind is not kind_of(record.name):
        raise BundleError(f"{record.name} lies in a section of the wrong kind, {entry.kind.name.lower()}")
    check_length(record.name, record.packing, record.dtype, record.shape, entry.length)
    return Section(entry.kind, record.name, entry.offset, entry.length, entry.sha256)


def _view_arrays(view: memoryview, sections: Iterable[Section], records: Iterable[TensorSpec]) -> Tensors:
    by_name = {section.name: section for section in sections}
    return {
        record.name: unpack_array(
            record.name, _slice(view, by_name[record.name]), record.packing, record.dtype, record.shape
        )
        for record in records
    }


def _compare_names(what: str, wanted: Sequence[str], found: Iterable[str]) -> None:
    have = dict.fromkeys(found)
    for name in wanted:
        if name not in have:
            raise BundleError(f"{what} {name} is missing")
    asked = set(wanted)
    for name in have:
        if name not in asked:
            raise BundleError(f"{what} {name} belongs to no layer")


def _check_tensors(manifest: Manifest, tensors: Tensors) -> None:
    wanted = wanted_tensors(manifest)
    _compare_names("tensor", [want.spec.name for want in wanted], tensors)
    for want in wanted:
        array = tensors[want.spec.name]
        _check_form(want.spec.name, array, want.spec.dtype, want.spec.shape)
        _check_range(want.spec.name, array, want.low, want.high)
    if manifest.head.kind == "prototypes":
        _check_prototypes(manifest, tensors)


def _check_prototypes(manifest: Manifest, tensors: Tensors) -> None:
    """A sum of `count` features cannot exceed count * max|z|."""
    whiten = manifest.head.whiten
    reach = feature_reach(manifest)
    reach = whiten.reach((reach,)) if whiten else reach
    most = tensors["head.count"].astype(np.int64)[:, None] * reach
    if (np.abs(tensors["head.sum"].astype(np.int64)) > most).any():
        raise BundleError(f"head.sum holds a value above head.count * {reach}")


def _check_form(name: str, array: AnyArray, dtype: str, shape: tuple[int, ...]) -> None:
    if array.dtype.name != dtype or array.shape != shape:
        raise BundleError(f"{name} is {array.dtype.name} {array.shape}, not {dtype} {shape}")


def _check_range(name: str, array: AnyArray, low: int, high: int) -> None:
    least, most = int(array.min()), int(array.max())
    if least < low or most > high:
        raise BundleError(f"{name} has the value {least if least < low else most}, outside [{low}, {high}]")


def _check_samples(manifest: Manifest, arrays: Tensors) -> tuple[Selftest, Probe]:
    found = [name for name in arrays if kind_of(name) in (Kind.SELFTEST, Kind.PROBE)]
    labelled = learns(manifest) and bool(manifest.classes.names)  # what learns values has no labels to score
    probed = labelled or any(kind_of(name) is Kind.PROBE for name in found)
    _compare_names("array", ["selftest.x", "selftest.y", *(PROBE_ARRAYS if probed else ())], found)
    rows = _rows("selftest.x", arrays)
    if not SELFTEST_ROWS[0] <= rows <= SELFTEST_ROWS[1]:
        raise BundleError(f"selftest has {rows} rows, outside [{SELFTEST_ROWS[0]}, {SELFTEST_ROWS[1]}]")
    _check_form("selftest.x", arrays["selftest.x"], manifest.input.dtype, (rows, *manifest.input.shape))
    _check_form("selftest.y", arrays["selftest.y"], "int32", (rows, score_width(manifest)))
    selftest = Selftest(x=arrays["selftest.x"], y=cast(I32, arrays["selftest.y"]))
    return selftest, _check_labelled("probe", manifest, arrays) if probed else no_probe(manifest)


def no_probe(manifest: Manifest) -> Probe:
    """The probe of a bundle that nobody has labelled a sample for."""
    return Probe(x=np.zeros((0, *manifest.input.shape), manifest.input.dtype), label=np.zeros(0, np.int32))


def _check_exemplars(manifest: Manifest, arrays: Tensors) -> Probe | None:
    found = [name for name in arrays if kind_of(name) is Kind.EXEMPLAR]
    if not found:
        return None
    _compare_names("array", ["exemplar.x", "exemplar.label"], found)
    rows = _rows("exemplar.x", arrays)
    if rows > MAX_EXEMPLARS:
        raise BundleError(f"exemplar.x has {rows} rows, outside [1, {MAX_EXEMPLARS}]")
    return _check_labelled("exemplar", manifest, arrays)


def _check_labelled(prefix: str, manifest: Manifest, arrays: Tensors) -> Probe:
    if not manifest.classes.names:
        raise BundleError(f"{prefix}.label names classes, and the bundle has none")
    x, label = arrays[f"{prefix}.x"], arrays[f"{prefix}.label"]
    rows = _rows(f"{prefix}.x", arrays)
    _check_form(f"{prefix}.x", x, manifest.input.dtype, (rows, *manifest.input.shape))
    _check_form(f"{prefix}.label", label, "int32", (rows,))
    _check_range(f"{prefix}.label", label, 0, len(manifest.classes.names) - 1)
    return Probe(x=x, label=cast(I32, label))


def _rows(name: str, arrays: Tensors) -> int:
    if arrays[name].ndim == 0:
        raise BundleError(f"{name} is a single number, not rows")
    return int(arrays[name].shape[0])


def _check_priors(arrays: Tensors, tensors: Tensors) -> Tensors:
    priors = {name.removeprefix("prior."): array for name, array in arrays.items() if kind_of(name) is Kind.PRIOR}
    for name, array in priors.items():
        if name not in tensors:
            raise BundleError(f"prior.{name} guards no tensor")
        _check_form(f"prior.{name}", array, "uint8", tensors[name].shape)
        _check_range(f"prior.{name}", array, 0, IMPORTANCE_CODE_MAX)
    return priors


def _read_licence(view: memoryview, sections: Iterable[Section]) -> str:
    """The text of the licence section, or none; `_parse_table` lets at most one through."""
    try:
        return "".join(bytes(_slice(view, section)).decode() for section in sections if section.kind is Kind.LICENCE)
    except UnicodeDecodeError:
        raise BundleError("the licence is not UTF-8") from None
