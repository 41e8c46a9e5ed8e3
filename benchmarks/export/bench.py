"""Exports beside their peers: the same files, the same inputs, the same run.

    python benchmarks/export/bench.py [--only NAME ...] [--markdown docs/export-results.md]

1  The same int8 file: how far outputs are from ONNX Runtime's and LiteRT's, and how far theirs are from each other.
2  The same float file: accuracy after our post-training quantisation, ONNX Runtime's, and LiteRT's.
3  Time of one inference at batch 1, one thread, CPU time, rounds interleaved; the least of each.

Needs EDGERUN_DATA, the extras export and litert, and OPENBLAS_NUM_THREADS=1 for honest times.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import data
import nir_replay
import numpy as np
import peers

sys.path.append(str(Path(__file__).parents[1]))

from tables import Table

from edgerun.arrays import F32, I64, AnyArray
from edgerun.network import Network
from exporters import measure
from exporters.data import Samples
from exporters.export import Options, load_model, quantised
from exporters.slim import Slim
from exporters.twin import Twin

HERE: Final = Path(__file__).parent
MODELS: Final = HERE / "models"
TFLITE: Final = HERE / "tflite"
DENSE: Final = (
    "mnist_mlp", "fashion_cnn", "kws_dscnn", "speech_conv1d", "resnet8", "mobilenet_v1", "imu_gru", "imu_lstm",
)  # fmt: skip
SPIKING: Final = ("digits_rsnn", "nmnist_conv_snn")
JUDGED: Final = 500  # test samples of the comparisons in integers
CALIBRATED: Final = 200
ROUNDS: Final = 9
TIMED: Final = ("mnist_mlp", "kws_dscnn", "fashion_cnn", "imu_gru")


@dataclass(frozen=True)
class Gap:
    """How two sets of integer outputs differ, all in shares but the largest difference."""

    by_one: float
    beyond: float
    largest: int
    argmax: float

    def __str__(self) -> str:
        return f"{self.by_one:.2%} by 1, {self.beyond:.2%} by more (at most {self.largest}), argmax {self.argmax:.2%}"


def gap(a: AnyArray, b: AnyArray) -> Gap:
    apart = np.abs(a.astype(np.int64) - b.astype(np.int64))
    argmax = float((a.argmax(axis=1) != b.argmax(axis=1)).mean())
    return Gap(float((apart == 1).mean()), float((apart > 1).mean()), int(apart.max()), argmax)


# ------------------------------------------------------------------ ours


def twin_of(path: Path, calibration: data.Part) -> Twin:
    net = load_model(path, Options())
    samples = Samples(calibration.x.reshape(len(calibration), *net.input_shape), calibration.y)
    return quantised(Slim(net), samples, None)


def our_integers(twin: Twin, x: F32) -> I64:
    samples = Samples(x, np.zeros(len(x), np.int64))
    return measure.raw_features(twin, twin.parts[-1].layer.name, twin.inputs(samples))


def right(answers: AnyArray, y: I64) -> float:
    return float((answers.argmax(axis=1) == y).mean())


def on_grid(twin: Twin, x: F32) -> F32:
    """The samples as the integers of the input hold them, so that nobody's rounding at the edge matters."""
    q = twin.inputs(Samples(x, np.zeros(len(x), np.int64))).astype(np.float64)
    return ((q - twin.input.zero_point) * twin.input.scale).astype(np.float32).reshape(x.shape)


# ------------------------------------------------------------------ 1: the same int8 file


def same_file(names: Iterable[str], folder: Path) -> Table:
    rows: list[tuple[str, ...]] = []
    for name in names:
        split = data.load(name)
        some = split.test.take(np.arange(min(JUDGED, len(split.test))))
        for what, compare in (("ONNX Runtime", against_onnx), ("LiteRT", against_litert)):
            say(f"{name}: the int8 file of {what}")
            found = compare(name, split, some, folder)
            rows.extend((name, what, *row) for row in found)
    return Table(
        "The same int8 file",
        ("model", "file by", "pair", "outputs that differ", "accuracy"),
        rows,
    )


def against_onnx(name: str, split: data.Split, some: data.Part, folder: Path) -> list[tuple[str, str, str]]:
    path = peers.onnx_int8(MODELS / f"{name}.onnx", split.calibration.x[:CALIBRATED], folder)
    if not peers.integer_operators(path):
        return [("-", "ONNX Runtime leaves the recurrent layer in float", "-")]
    twin = twin_of(path, split.calibration)
    x, output = on_grid(twin, some.x), twin.parts[-1].output
    real = {
        "ONNX Runtime": peers.onnx_runner(path)(x),
        "ONNX Runtime, not optimised": peers.onnx_runner(path, optimised=False)(x),
    }
    theirs = {who: np.rint(y / output.scale).astype(np.int64) + output.zero_point for who, y in real.items()}
    return pairs({"ours": our_integers(twin, x), **theirs}, some.y)


def against_litert(name: str, split: data.Split, some: data.Part, folder: Path) -> list[tuple[str, str, str]]:
    path = tflite_file(name, "int8", folder)
    twin = twin_of(path, converted(split.calibration, path))
    x = on_grid(twin, converted(some, path).x)
    theirs = {f"LiteRT {who}": peers.litert_runner(path, who)(x).astype(np.int64) for who in peers.RESOLVERS}
    return pairs({"ours": our_integers(twin, x), **theirs}, some.y)


def pairs(outputs: dict[str, I64], y: I64) -> list[tuple[str, str, str]]:
    """Ours against each peer, then the peers against the first of them; accuracies of both."""
    names = list(outputs)
    found = [(names[0], other) for other in names[1:]] + [(names[1], other) for other in names[2:]]
    return [
        (f"{a}, {b}", str(gap(outputs[a], outputs[b])), f"{right(outputs[a], y):.2%}, {right(outputs[b], y):.2%}")
        for a, b in found
    ]


def tflite_file(name: str, kind: str, folder: Path) -> Path:
    """The committed file, unpacked where it is packed."""
    packed = TFLITE / f"{name}_{kind}.tflite.gz"
    if not packed.exists():
        return TFLITE / f"{name}_{kind}.tflite"
    path = folder / packed.stem
    path.write_bytes(peers.tflite_bytes(packed))
    return path


def converted(part: data.Part, path: Path) -> data.Part:
    """The same samples in the layout of the converted model."""
    shape = tuple(peers.litert_interpreter(path).get_input_details()[0]["shape"])
    return data.Part(np.stack([peers.channels_last(x, shape)[0] for x in part.x]), part.y)


# ------------------------------------------------------------------ 2: the same float file


def post_training(names: Iterable[str], folder: Path) -> Table:
    rows = []
    for name in names:
        split = data.load(name)
        say(f"{name}: post-training quantisation")
        rows.append(quantised_spiking(name, split) if name in SPIKING else quantised_dense(name, split, folder))
    heads = ("model", "test samples", "float", "ours int8", "lost", "ONNX Runtime int8", "LiteRT int8", "chosen")
    return Table("The same float file, quantised after training", heads, rows)


def quantised_dense(name: str, split: data.Split, folder: Path) -> tuple[str, ...]:
    path, test = MODELS / f"{name}.onnx", split.test
    twin = twin_of(path, split.calibration)
    real = right(peers.onnx_runner(path)(test.x), test.y)
    ours = right(our_integers(twin, test.x), test.y)
    qdq = peers.onnx_int8(path, split.calibration.x[:CALIBRATED], folder)
    theirs = f"{right(peers.onnx_runner(qdq)(test.x), test.y):.2%}"
    if not peers.integer_operators(qdq):
        theirs += " (in float)"
    lite = tflite_file(name, "int8", folder)
    litert = right(peers.litert_runner(lite)(test.x), test.y)
    return accuracies(name, test, real, ours, theirs, f"{litert:.2%}", twin)


def quantised_spiking(name: str, split: data.Split) -> tuple[str, ...]:
    path, test = MODELS / f"{name}.nir", split.test
    twin = twin_of(path, split.calibration)
    real = right(nir_replay.replay(path, test.x), test.y)
    return accuracies(name, test, real, right(our_integers(twin, test.x), test.y), "-", "-", twin)


def accuracies(
    name: str, test: data.Part, real: float, ours: float, theirs: str, litert: str, twin: Twin
) -> tuple[str, ...]:
    lost = f"{100 * (real - ours):+.2f}"
    chosen = "; ".join(note.partition(":")[0] for note in twin.notes)
    return name, str(len(test)), f"{real:.2%}", f"{ours:.2%}", lost, theirs, litert, chosen


# ------------------------------------------------------------------ 3: time


def speed(names: Iterable[str], folder: Path) -> Table:
    rows = []
    for name in names:
        say(f"{name}: time of one inference")
        split, path = data.load(name), MODELS / f"{name}.onnx"
        twin = twin_of(path, split.calibration)
        network = Network(measure.bare_manifest(twin), twin.tensors)
        q = twin.inputs(Samples(split.test.x[:1], split.test.y[:1]))[0]
        session, entry = peers.onnx_session(peers.onnx_int8(path, split.calibration.x[:50], folder)), split.test.x[:1]
        lite = tflite_file(name, "int8", folder)
        interpreter = peers.litert_interpreter(lite)
        slot, value = interpreter.get_input_details()[0], interpreter.get_output_details()[0]["index"]
        raw = np.zeros(slot["shape"], slot["dtype"])

        def lite_once(made=interpreter, index=slot["index"], value=value, raw=raw) -> None:  # type: ignore[no-untyped-def]
            made.set_tensor(index, raw)
            made.invoke()
            made.get_tensor(value)

        ours, ort, litert = least(
            lambda network=network, q=q: network.infer(q),
            lambda session=session, x=entry: session.run(None, {"x": x}),
            lite_once,
        )
        rows.append((name, f"{ours:.0f}", f"{ort:.0f}", f"{litert:.1f}", f"{ours / litert:.1f}", f"{ours / ort:.1f}"))
    heads = ("model", "ours, numpy", "ONNX Runtime int8", "LiteRT int8", "ours / LiteRT", "ours / ONNX Runtime")
    return Table("One inference, CPU microseconds, batch 1, one thread", heads, rows)


def least(*calls: Callable[[], object]) -> list[float]:
    """The least CPU time of a call in each of several interleaved rounds, microseconds."""
    best = [np.inf] * len(calls)
    for _ in range(ROUNDS):
        for k, call in enumerate(calls):
            count, start = 0, time.process_time_ns()
            while time.process_time_ns() - start < 30_000_000:
                call()
                count += 1
            best[k] = min(best[k], (time.process_time_ns() - start) / count / 1e3)
    return best


# ------------------------------------------------------------------ the command


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", choices=(*DENSE, *SPIKING), default=(*DENSE, *SPIKING))
    parser.add_argument("--markdown", type=Path, help="write the tables here too")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dense = [name for name in DENSE if name in args.only]
        tables = [
            same_file(dense, folder),
            post_training([*dense, *(name for name in SPIKING if name in args.only)], folder),
            speed([name for name in TIMED if name in args.only], folder),
        ]
    text = "\n".join(table.markdown() for table in tables)
    print(text)
    if args.markdown:
        args.markdown.write_text(f"{HEADER}\n{text}", encoding="utf-8")


HEADER: Final = """# Exports beside their peers

Written by `make bench-export`; the models and their training are described in `benchmarks/export/models/README.md`.
"""


if __name__ == "__main__":
    main()
