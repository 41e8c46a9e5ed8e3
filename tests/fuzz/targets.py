"""What is fuzzed: by name, real small files to start from, how they are changed, and what is then done with a file.

A target's `run` may return or raise one of our named errors. Anything else is a finding.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from fuzz import formats
from modules import load
from onnx_graphs import graph
from pretend import sample, tiny_bundle, tiny_bundle_bytes

from edgerun import cli
from edgerun.arrays import Tensors
from edgerun.bundle import MAX_ARRAY_BYTES, Selftest, no_probe, open_bundle, pack
from edgerun.certificate import certify
from edgerun.commands.replay import replay
from edgerun.encode import quantise
from edgerun.errors import CheckFailed, EdgeRunError
from edgerun.graph import check_graph
from edgerun.layers import Layer
from edgerun.learn import records
from edgerun.lifetime import Lifetime
from edgerun.network import Network
from edgerun.packing import check_length, pack_array, unpack_array
from edgerun.samples import labels, read_arrays, windows
from edgerun.selftest import check_selftest
from edgerun.spec import (
    Direct,
    Encoder,
    Head,
    InputSpec,
    Manifest,
    OutputSpec,
    PhaseRate,
    TensorSpec,
    decode_manifest,
    encode_manifest,
)
from edgerun.store.checkpoints import Checkpoints, pack_state, unpack_state
from edgerun.store.journal import Journal, JournalReader
from exporters import data as sample_files
from exporters.data import Samples
from exporters.export import Options, export, load_model, selftest, with_head
from exporters.float_net import FloatNet
from exporters.nir_file import FOREIGN, read
from exporters.nir_import import NirOptions, convert
from exporters.twin import quantise_net

TESTS: Final = Path(__file__).parents[1]
GOLDEN: Final = TESTS / "golden"
EXAMPLES: Final = TESTS.parent / "examples"
FILE_MAX: Final = 200_000  # bytes of a file to start from
WORK_MAX: Final = 1 << 24  # values and products of a model that is run, not only read
STEPS_MAX: Final = 2048
ROWS: Final = 8

Mutator = Callable[[random.Random, bytes, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Target:
    """seeds: files to start from; mutate(rng, one seed, another) makes a case; run(path) tries it."""

    name: str
    suffix: str
    seeds: Callable[[], list[bytes]]
    mutate: Mutator
    run: Callable[[Path], None]

    def case(self, rng: random.Random) -> bytes:
        seeds = self.seeds()
        return self.mutate(rng, rng.choice(seeds), rng.choice(seeds))


# ------------------------------------------------------------------ what to start from


def files(*patterns: str) -> list[bytes]:
    """The small files of the golden folder and the examples, each content once."""
    found = [path for root in (GOLDEN, EXAMPLES) for pattern in patterns for path in sorted(root.rglob(pattern))]
    return list({path.read_bytes(): None for path in found if path.stat().st_size <= FILE_MAX})


@cache
def onnx_files() -> list[bytes]:
    """Files, and the graphs of the unit tests: every operator that an import knows."""
    made = files("*.onnx")
    for name in ("test_export_onnx_operators", "test_export_onnx_quantised"):
        for case in load(TESTS / "unit" / f"{name}.py", f"fuzz_{name}").CASES.values():
            made.append(graph(case.nodes, case.constants, case.shape, opset=getattr(case, "opset", 21)))
    return made


@cache
def tflite_files() -> list[bytes]:
    return files("*.tflite")


@cache
def nir_files() -> list[bytes]:
    return files("*.nir")


@cache
def bundles() -> list[bytes]:
    """One that learns, one of every layer with golden vectors, and one of every small model file."""
    return [tiny_bundle_bytes(), *layer_bundles(), *model_bundles()]


def layer_bundles() -> Iterator[bytes]:
    for path in sorted(GOLDEN.glob("*.npz")):
        with np.load(path) as arrays:
            if "about" not in arrays:
                continue
            for case, text in json.loads(str(arrays["about"])).get("layers", {}).items():
                layer = msgspec.json.decode(text, type=Layer)
                tensors = {f"{layer.name}.{f.part}": arrays[f"{case}.{f.part}"] for f in layer.fields()}
                with contextlib.suppress(EdgeRunError):  # sources of different widths, or raw sums: not from an input
                    yield layer_bundle(layer, tensors)


def layer_bundle(layer: Layer, tensors: Tensors) -> bytes:
    layer = msgspec.structs.replace(layer, sources=("input",) * len(layer.widths))
    shape = (layer.widths[0],)
    try:
        return value_bundle(single(layer, InputSpec(shape=shape), Direct()), tensors)
    except EdgeRunError:
        spec = InputSpec(shape=shape, dtype="uint8")
        return value_bundle(single(layer, spec, PhaseRate(steps=6, full_scale=16)), tensors)


def single(layer: Layer, spec: InputSpec, encoder: Encoder) -> Manifest:
    output = OutputSpec(shape=(layer.outputs,))
    return Manifest(name="m", input=spec, encoder=encoder, layers=(layer,), head=Head(kind="values"), output=output)


def value_bundle(manifest: Manifest, tensors: Tensors) -> bytes:
    certify(manifest, tensors)
    x = np.random.default_rng(0).integers(0, 100, (ROWS, *manifest.input.shape)).astype(manifest.input.dtype)
    y = Network(manifest, tensors, (ROWS,)).scores(x.reshape(ROWS, -1).astype(np.int16))
    return pack(manifest, tensors, selftest=Selftest(x=x, y=y), probe=no_probe(manifest))


def model_bundles() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        for suffix, blobs in ((".onnx", onnx_files()), (".tflite", tflite_files()), (".nir", nir_files()[:2])):
            for blob in blobs[::4]:
                path = Path(folder) / f"m{suffix}"
                path.write_bytes(blob)
                with contextlib.suppress(EdgeRunError):
                    made = exported(load_model(path, Options()))
                    if made is not None:
                        yield made


@cache
def manifests() -> list[bytes]:
    return [json_of(blob) for blob in bundles()]


def json_of(blob: bytes) -> bytes:
    return encode_manifest(formats.read_bundle(blob).manifest)


@cache
def data_files() -> list[bytes]:
    """Dense and ragged, with and without labels and names."""
    rng = np.random.default_rng(3)
    x, names = rng.normal(size=(9, 12)).astype(np.float32), np.array(["a", "b", "c", "d"])
    ragged = {"samples": rng.integers(0, 17, (40, 3)).astype(np.uint8), "offsets": np.array([0, 4, 9, 40])}
    sets: list[dict[str, Any]] = [
        {"x": x},
        {"x": x, "y": np.arange(9) % 4, "class_names": names},
        {"x": rng.integers(0, 17, (70, 3, 4)).astype(np.uint8), "y": np.array(["a", "b"] * 35)},
        ragged,
        ragged | {"label": np.array([0, 1, 3]), "class_names": names},
    ]
    return [npz(arrays) for arrays in sets]


def npz(arrays: dict[str, Any]) -> bytes:
    made = io.BytesIO()
    np.savez(made, **arrays)
    return made.getvalue()


BUNDLE_ID: Final = "0f" * 32
ENTRIES: Final = (
    records.Lesson(
        number=1, sample=7, q=bytes(12), label=2, level="full", draws=[1, 2], threshold=9, update=3, before=b""
    ),
    records.NewClass(label="five"),
    records.Settle(),
    records.Boundary(reason="idle"),
    records.Verdict(good=True, correct=3, of=4),
    records.Rollback(to="factory"),
    records.Forget(label=1),
)  # fmt: skip


class Memory:
    """A disk in memory, for the stores."""

    def __init__(self, content: dict[str, bytes] | None = None) -> None:
        self.content = content or {}
        self.bytes_written = 0

    def read(self, path: str) -> bytes | None:
        return self.content.get(path)

    def write(self, path: str, data: bytes) -> None:
        self.content[path] = data

    def append(self, path: str, data: bytes) -> None:
        self.content[path] = self.content.get(path, b"") + data

    def truncate(self, path: str, length: int) -> None:
        self.content[path] = self.content[path][:length].ljust(length, b"\0")

    def sync(self, path: str) -> None:
        pass

    def sync_dir(self, path: str) -> None:
        pass

    def rename(self, old: str, new: str) -> None:
        self.content[new] = self.content.pop(old)

    def remove(self, path: str) -> None:
        self.content.pop(path, None)

    def list(self, path: str) -> list[str]:
        inside = (name.removeprefix(f"{path}/").partition("/")[0] for name in self.content if name.startswith(path))
        return sorted(set(inside))

    def size(self, path: str) -> int | None:
        return len(self.content[path]) if path in self.content else None


@cache
def states() -> list[bytes]:
    """A packed state, checkpoints and journals with every kind of record."""
    disk = Memory()
    state = pack_state({"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.zeros(0)}, {"lessons": 3, "x": [1]})
    Checkpoints(disk, BUNDLE_ID).save(state)
    journal = Journal(disk, BUNDLE_ID)
    for entry in ENTRIES:
        journal.append(records.encode(entry))
    journal.seal(bytes(range(32)), 1, state)
    for entry in ENTRIES[::-1]:
        journal.append(records.encode(entry))
    journal.commit()
    return [state, *disk.content.values()]


@cache
def journals() -> list[bytes]:
    """What a small learner kept: an epoch on the factory's state, and one that begins on a checkpoint."""
    bundle, disk = tiny_bundle(), Memory()
    life = Lifetime(bundle, disk)
    for number in range(24):
        life.teach(sample(number % 4, number), number % 4, "full" if number % 3 else "head", number)
    life.change(records.Boundary(reason="command"))
    life.change(records.NewClass(label="five"))
    life.judge()
    life.change(records.Forget(label=2))
    life.roll_back("last-good")
    life.commit()
    learner = Checkpoints(disk, bundle.id).load()
    base = b"" if learner is None else learner[1]
    Journal(disk, bundle.id).seal(bytes.fromhex(life.digest()), 1, base)
    journal = Journal(disk, bundle.id)
    for entry in ENTRIES:
        journal.append(records.encode(entry))
    journal.commit()
    return [blob for path, blob in disk.content.items() if path.endswith(".log")]


# ------------------------------------------------------------------ what is done with a case


def try_bundle(path: Path) -> None:
    """Read it, describe it, price it, run it; what it answers need not be what it promises."""
    bundle = open_bundle(path)
    manifest = bundle.manifest
    quietly("inspect", str(path))
    quietly("inspect", str(path), "--json")
    quietly("plan", str(path), "--board", "rpi-zero-2w")
    quietly("diff", str(beside(path)), str(path))
    if work(manifest.layers) * manifest.steps <= WORK_MAX:
        network = Network(manifest, bundle.tensors)
        x = bundle.selftest.x[:2]
        found = network.batched(2).scores(np.stack([quantise(manifest.input, row) for row in x]))
        for row, want in zip(x, found, strict=True):
            got = network.infer(quantise(manifest.input, row)).scores
            if not np.array_equal(got, want):
                raise AssertionError(f"one sample gives {got}, a batch {want}")
        with contextlib.suppress(CheckFailed):
            check_selftest(network, bundle.selftest)


def work(layers: tuple[Layer, ...]) -> int:
    once = [layer.work() for layer in layers]
    return sum(w.macs + w.synapses + w.elements + w.neurons for w in once) + sum(layer.outputs for layer in layers)


def quietly(*argv: str) -> None:
    """Run a command without its printing. Raises as it does."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        cli.dispatch(argv)


def beside(path: Path) -> Path:
    """A sound bundle in the folder of a case."""
    sound = path.with_name("sound.edgb")
    if not sound.exists():
        sound.write_bytes(tiny_bundle_bytes())
    return sound


def try_manifest(path: Path) -> None:
    manifest = decode_manifest(path.read_bytes())
    check_graph(manifest)
    text = encode_manifest(manifest)
    if encode_manifest(decode_manifest(text)) != text:
        raise AssertionError("a manifest does not come back as it was")


def try_packed(path: Path) -> None:
    head, _, body = path.read_bytes().partition(b"\n")
    try:
        record = msgspec.json.decode(head, type=TensorSpec)
    except msgspec.DecodeError:
        return  # a manifest refuses these
    form = record.packing, record.dtype, record.shape
    if np.prod(form[2], dtype=np.float64) > MAX_ARRAY_BYTES:
        return  # so does the bound on all arrays together
    check_length("t", *form, len(body))
    array = unpack_array("t", memoryview(body), *form)
    again = unpack_array("t", memoryview(pack_array("t", array, form[0])), *form)
    if not np.array_equal(array, again):
        raise AssertionError("an array does not come back as it was")


def try_model(path: Path) -> None:
    exported(load_model(path, Options()))


def try_export(path: Path) -> None:
    """The whole export, measured against the format's own engine: small models only."""
    net = load_model(path, Options())
    if exported(net) is None:
        return
    x = np.abs(np.random.default_rng(0).normal(size=(2 * ROWS, *net.input_shape))).astype(np.float32)
    data = path.with_suffix(".npz")
    data.write_bytes(npz({"x": x}))
    export(path, data, Options())


def try_nir_graph(path: Path) -> None:
    """Without the rehearsal in a process of its own, which takes most of the time of a whole import."""
    try:
        with np.errstate(all="ignore"):
            graph = read(path)
    except FOREIGN:
        return  # the whole import names these
    exported(convert(path.name, graph, NirOptions()))


def exported(net: FloatNet) -> bytes | None:
    """A bundle of a float net, from random samples, read back and run; None where that would take long."""
    inner = max(getattr(layer, "steps", 1) for layer in net.layers)  # of a GRU or LSTM over a whole recording
    values = math.prod(net.input_shape) + sum(layer.outputs for layer in net.layers) * net.steps
    if values > WORK_MAX >> 4 or inner > STEPS_MAX:
        return None
    rng = np.random.default_rng(0)
    x = np.abs(rng.normal(size=(ROWS, *net.input_shape))).astype(np.float32)
    samples = Samples(x, np.full(ROWS, -1, np.int64))
    options = Options(head="values")
    twin, manifest, tensors = with_head(quantise_net(net, samples), samples, (), options)
    if work(manifest.layers) * manifest.steps > WORK_MAX:
        return None
    rows = selftest(twin, manifest, tensors, samples)
    return pack(manifest, tensors, selftest=rows, probe=no_probe(manifest))


def try_data(path: Path) -> None:
    """As both readers take it, for inputs of several forms."""
    arrays = read_arrays(path)
    for shape in ((12,), (4, 3)):
        spec = InputSpec(shape=shape, dtype="uint8", zero_point=3)
        with contextlib.suppress(EdgeRunError):
            sample_files.load(path, spec)
        found = windows(path.name, arrays, spec)
        found.notes()
        found.take(0, len(found))
        labels(path.name, arrays, len(found), ("a", "b"))
    sample_files.load(path, InputSpec(shape=(12,)))


def try_infer(path: Path) -> None:
    """A sound bundle, hostile samples: the whole command."""
    quietly("infer", str(beside(path)), str(path), "-o", str(path.with_suffix(".out")), "--json")


def try_state(path: Path) -> None:
    """A file where each of the stores keeps its own."""
    blob = path.read_bytes()
    disk = Memory({f"learned/{BUNDLE_ID}/slot-0": blob, f"learned/{BUNDLE_ID}/last-good": blob[-20:]})
    store = Checkpoints(disk, BUNDLE_ID)
    found = store.load()
    store.good()
    store.save(b"next")
    disk.write(f"journal/{BUNDLE_ID}/00000001.log", blob)
    disk.write(f"journal/{BUNDLE_ID}/00000000.log", blob)
    lines = list(JournalReader(disk, BUNDLE_ID).records())
    journal = Journal(disk, BUNDLE_ID)
    journal.append(b"next")
    journal.commit()
    for line in lines:
        records.decode(line)
    unpack_state(found[1] if found else blob)


def try_replay(path: Path) -> None:
    """What a device is said to have learned, done again."""
    blob, bundle = path.read_bytes(), tiny_bundle()
    number = int.from_bytes(blob[8:16], "little")
    disk = Memory({f"journal/{bundle.id}/{number:08d}.log": blob})
    if number < 10**8:
        replay(bundle, JournalReader(disk, bundle.id), Checkpoints(disk, bundle.id))


TARGETS: Final = {
    target.name: target
    for target in (
        Target("bundle", ".edgb", bundles, formats.mutated_bundle, try_bundle),
        Target("container", ".edgb", bundles, formats.mutated_bytes, try_bundle),
        Target("manifest", ".json", manifests, formats.mutated_manifest, try_manifest),
        Target("packed", ".bin", lambda: [b"{}"], formats.packed_case, try_packed),
        Target("onnx", ".onnx", onnx_files, formats.mutated_onnx, try_model),
        Target("tflite", ".tflite", tflite_files, formats.mutated_tflite, try_model),
        Target("export-onnx", ".onnx", onnx_files, formats.mutated_onnx, try_export),
        Target("export-tflite", ".tflite", tflite_files, formats.mutated_tflite, try_export),
        Target("nir", ".nir", nir_files, formats.mutated_bytes, try_model),
        Target("nir-graph", ".nir", nir_files, formats.mutated_nir, try_nir_graph),
        Target("data", ".npz", data_files, formats.mutated_npz, try_data),
        Target("infer", ".npz", data_files, formats.mutated_npz, try_infer),
        Target("replay", ".log", journals, formats.mutated_journal, try_replay),
        Target("state", ".bin", states, formats.mutated_state, try_state),
    )
}
