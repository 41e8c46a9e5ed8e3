"""Model files as the importers read them, in C and in numpy: the same windows, every layer of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgerun.kernels.native import library
from edgerun.native import NativeNetwork, missing
from edgerun.network import Network

for needed in ("tflite", "onnx", "nir"):
    pytest.importorskip(needed, reason="pip install 'edgerun[export]'")

from exporters import measure  # noqa: E402
from exporters.data import Samples  # noqa: E402
from exporters.export import Options, load_model, quantised  # noqa: E402
from exporters.slim import Slim  # noqa: E402

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden"
BENCH = ROOT / "benchmarks/export"
REFUSED = ("two_inputs_int8",)
"""Files that are here to be refused."""
FILES = [
    *sorted(GOLDEN.glob("tflite/*_int8.tflite")), *sorted(GOLDEN.glob("onnx/*.onnx")), *sorted(GOLDEN.glob("*.onnx")),
    *sorted(GOLDEN.glob("nir/*.nir")), *sorted(GOLDEN.glob("*.nir")),
    *(BENCH / "tflite" / f"{name}_int8.tflite" for name in ("kws_dscnn", "resnet8", "imu_lstm", "autoencoder")),
    *(BENCH / "models" / name for name in ("fashion_cnn.onnx", "imu_gru.onnx", "nmnist_conv_snn.nir")),
]  # fmt: skip

pytestmark = pytest.mark.skipif(library() is None, reason="the C kernels are not built here")


@pytest.mark.parametrize("path", [path for path in FILES if path.stem not in REFUSED], ids=lambda path: path.stem)
def test_a_file_runs_alike(path: Path) -> None:
    rng = np.random.default_rng(5)
    net = load_model(path, Options())
    x = rng.normal(size=(8, *net.input_shape)).astype(np.float32)
    twin = quantised(Slim(net), Samples(np.abs(x) if path.suffix == ".nir" else x, np.full(8, -1)), None)
    manifest = measure.bare_manifest(twin)
    assert not missing(manifest)
    ours, theirs = NativeNetwork(manifest, twin.tensors), Network(manifest, twin.tensors)
    low, high = (0, 255) if manifest.input.dtype == "uint8" else (-128, 127)
    samples = twin.inputs(Samples(x[:2], np.full(2, -1)))
    for q in (*samples, rng.integers(low, high + 1, manifest.input.size).astype(np.int16)):
        np.testing.assert_array_equal(ours.scores(q), theirs.scores(q))
        for name, run in theirs.layers.items():
            np.testing.assert_array_equal(ours.layers[name].reading(), run.reading(), err_msg=name)
