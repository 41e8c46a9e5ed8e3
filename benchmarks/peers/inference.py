"""One inference at batch 1: ours beside LiteRT, ONNX Runtime and PyTorch, on the same nets with int8 inside."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import models
import numpy as np
import onnxruntime
import torch
from ai_edge_litert.interpreter import Interpreter

sys.path.append(str(Path(__file__).parents[1] / "export"))

import peers

from edgerun.bundle import Bundle
from edgerun.native import NativeNetwork, missing
from edgerun.network import Network

EXPORT: Final = Path(__file__).parents[1] / "export"

Call = Callable[[], object]
Contender = tuple[str, Call, int]


def ours(bundle: Bundle) -> Iterator[Contender]:
    """A quantised window in, a label and scores out."""
    q = np.random.default_rng(0).integers(-128, 128, bundle.manifest.input.size).astype(np.int16)
    numpy = Network(bundle.manifest, bundle.tensors)
    yield "edgerun, numpy", lambda: numpy.infer(q), 1
    if not missing(bundle.manifest):
        native = NativeNetwork(bundle.manifest, bundle.tensors)
        yield "edgerun, C", lambda: native.infer(q), 1


def stored(file: Path) -> bytes:
    """A file, or what its packed form holds."""
    packed = file.with_name(f"{file.name}.gz")
    return gzip.decompress(packed.read_bytes()) if packed.is_file() else file.read_bytes()


def litert(model: bytes) -> Call:
    """Set, invoke, get."""
    held = Interpreter(model_content=model, num_threads=1)
    held.allocate_tensors()
    entry, last = held.get_input_details()[0], held.get_output_details()[0]["index"]
    x = np.random.default_rng(0).integers(-128, 128, entry["shape"]).astype(entry["dtype"])

    def call() -> object:
        held.set_tensor(entry["index"], x)
        held.invoke()
        return held.get_tensor(last)

    return call


def onnx(session: onnxruntime.InferenceSession) -> Call:
    entry = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in entry.shape]
    x = {entry.name: np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)}
    return lambda: session.run(None, x)


def pytorch(sizes: tuple[int, ...]) -> Call:
    """Eager, in floats."""
    torch.manual_seed(0)
    layers: list[Any] = []
    for m, n in pairwise(sizes):
        layers += [torch.nn.Linear(m, n), torch.nn.ReLU()]
    net, x = torch.nn.Sequential(*layers[:-1]).eval(), torch.randn(1, sizes[0])

    def call() -> object:
        with torch.inference_mode():
            return net(x)

    return call


def chain(sizes: tuple[int, ...], folder: Path) -> Iterator[Contender]:
    """A multilayer perceptron."""
    model = models.onnx_model(sizes, folder / "mlp.onnx")
    yield from ours(models.bundle(model, (sizes[0],), folder))
    yield "LiteRT, int8", litert(models.litert_model(sizes)), 1
    yield "ONNX Runtime, float", onnx(peers.onnx_session(model)), 1
    noise = np.random.default_rng(3).normal(0, 1, (64, sizes[0])).astype(np.float32)
    yield "ONNX Runtime, int8", onnx(peers.onnx_session(peers.onnx_int8(model, noise, folder))), 1
    yield "PyTorch, float", pytorch(sizes), 1


def committed(name: str, folder: Path) -> Iterator[Contender]:
    """A net of `benchmarks/export`, whose int8 LiteRT file lies beside it."""
    model = EXPORT / "models" / f"{name}.onnx"
    session = peers.onnx_session(model)
    shape = tuple(size if isinstance(size, int) else 1 for size in session.get_inputs()[0].shape)[1:]
    yield from ours(models.bundle(model, shape, folder))
    yield "LiteRT, int8", litert(stored(EXPORT / "tflite" / f"{name}_int8.tflite")), 1
    yield "ONNX Runtime, float", onnx(session), 1
    noise = np.random.default_rng(3).normal(0, 1, (64, *shape)).astype(np.float32)
    yield "ONNX Runtime, int8", onnx(peers.onnx_session(peers.onnx_int8(model, noise, folder))), 1
