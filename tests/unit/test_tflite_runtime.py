"""The older runtime that many devices still have, tflite-runtime 2.14: our integers beside those it computes.

It needs numpy 1, so it runs in an environment of its own: make test-tflite-runtime
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

runtime = pytest.importorskip("tflite_runtime.interpreter", reason="make test-tflite-runtime")

from exporters import measure  # noqa: E402
from exporters.data import Samples  # noqa: E402
from exporters.float_net import forward  # noqa: E402
from exporters.tflite_import import load_tflite  # noqa: E402
from exporters.twin import quantise_net  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden" / "tflite"
BENCH = Path(__file__).parents[2] / "benchmarks" / "export" / "tflite"
OTHER = ("two_inputs", "lstm_while", "gru_while", "unsupported", "mlp_int16x8", "layer_norm_int8", "lstm_stack_int8")
"""Files that are refused, or of which the runtime is known to be far off the floats."""
FILES = sorted(
    path
    for path in (*GOLDEN.glob("*.tflite"), *BENCH.glob("*_int8.tflite"))
    if not path.stem.startswith(OTHER) and not path.stem.endswith("dynamic") and "step" not in path.stem
)
APART = {
    # share of values off, and by how many steps, where that is more than LiteRT's own kernels differ by on these inputs
    "lstm_int8": (0.05, 1),  # gates and cell rounded term by term
    "lstm_sequence_int8": (0.07, 1),
    # random inputs through many layers, of which each was rounded twice in those days; on real data the classes agree
    "autoencoder_int8": (0.1, 1),
    "fashion_cnn_int8": (0.1, 1),
    "imu_lstm_int8": (0.1, 1),
    "kws_dscnn_int8": (0.25, 1),
    "mnist_mlp_int8": (0.0, 0),
    "mobilenet_v1_int8": (0.9, 4),
    "resnet8_int8": (0.3, 1),
    "speech_conv1d_int8": (0.2, 1),
}


def limit(path: Path) -> tuple[float, int]:
    """How far we may be from the runtime: as far as LiteRT's kernels are from each other, or as the table says."""
    if path.stem in APART:
        return APART[path.stem]
    with np.load(path.with_suffix(".npz")) as known:
        found = [known[f"{resolver}_0"].astype(np.int64) for resolver in ("reference", "builtin", "default")]
    pairs = list(itertools.combinations(found, 2))
    return max(float(np.mean(a != b)) for a, b in pairs), max(int(np.abs(a - b).max()) for a, b in pairs)


def theirs(path: Path, stored: Any) -> Any:
    """What the runtime gives (N, outputs) for inputs as the file stores them."""
    interpreter = runtime.Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    entry, answer = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for row in stored:
        interpreter.reset_all_variables()
        interpreter.set_tensor(entry["index"], row.reshape(entry["shape"]))
        interpreter.invoke()
        rows.append(interpreter.get_tensor(answer["index"]).reshape(-1))
    return np.stack(rows)


def inputs(path: Path) -> tuple[Any, Any]:
    """16 inputs as the file stores them and as real numbers; random where no golden file has them."""
    entry = runtime.Interpreter(str(path)).get_input_details()[0]
    (scale, zero_point), known = entry["quantization"], path.with_suffix(".npz")
    if known.exists():
        stored = np.load(known)["input_0"]
    else:
        stored = np.random.default_rng(7).integers(-128, 128, (16, *entry["shape"])).astype(entry["dtype"])
    return stored, ((stored.astype(np.float64) - zero_point) * scale if scale else stored).astype(np.float32)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_our_numbers_are_those_of_the_runtime(path: Path) -> None:
    stored, x = inputs(path)
    want, net = theirs(path, stored), load_tflite(path)
    samples = Samples(x, np.zeros(len(x), np.int64), ())
    if want.dtype == np.float32 and net.input is None:
        got = forward(net, net.moments(x)).readings[net.layers[-1].name]
        if net.left_out is not None:
            got = np.exp(got) / np.exp(got).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
        return
    twin = quantise_net(net, samples)
    got = measure.scores(measure.bare_manifest(twin), twin.tensors, twin.inputs(samples))
    apart = np.abs(got + (128 if want.dtype == np.uint8 else 0) - want)
    share, most = limit(path)
    assert apart.max() <= most
    assert np.mean(apart > 0) <= share
