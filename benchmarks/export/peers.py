"""The peers that exports are measured beside: ONNX Runtime and LiteRT, one thread each.

Every runner takes x (n, ...) float32 as the model has it and gives raw outputs (n, k); of an int8 model the integers.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
import onnxruntime
from ai_edge_litert import interpreter as litert
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgerun.arrays import F32, AnyArray
from exporters.nodes import Affine

Runner: TypeAlias = Callable[[F32], AnyArray]

RESOLVERS: Final = {
    "default": litert.OpResolverType.AUTO,
    "builtin": litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": litert.OpResolverType.BUILTIN_REF,
}


# ------------------------------------------------------------------ ONNX Runtime


def onnx_session(path: Path, *, optimised: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def onnx_runner(path: Path, *, optimised: bool = True) -> Runner:
    """Real outputs of the first output."""
    session = onnx_session(path, optimised=optimised)
    entry = session.get_inputs()[0]
    one = isinstance(entry.shape[0], int)

    def run(x: F32) -> AnyArray:
        batches = [x[k : k + 1] for k in range(len(x))] if one else [x]
        return np.concatenate([session.run(None, {entry.name: batch})[0].reshape(len(batch), -1) for batch in batches])

    return run


def onnx_int8(path: Path, x: F32, folder: Path) -> Path:
    """The model as ONNX Runtime's own static quantisation makes it of these samples: QDQ, int8, per channel, MinMax."""
    made, clean = folder / f"{path.stem}_qdq.onnx", folder / f"{path.stem}_clean.onnx"
    entry = onnx_session(path).get_inputs()[0].name
    quant_pre_process(str(path), str(clean), skip_symbolic_shape=True)
    quantize_static(
        str(clean),
        str(made),
        Reader(entry, x),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )
    return made


class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped base
    """Samples one by one, as ONNX Runtime asks for them."""

    def __init__(self, entry: str, x: F32) -> None:
        self._samples: Iterator[dict[str, F32]] = iter({entry: x[k : k + 1]} for k in range(len(x)))

    def get_next(self) -> dict[str, F32] | None:
        return next(self._samples, None)


def integer_operators(path: Path) -> bool:
    """Whether every operator with weights has its inputs quantised: a GRU stays float, and nobody says so."""
    return not any(node.op_type in ("GRU", "LSTM", "RNN") for node in onnx.load(path).graph.node)


# ------------------------------------------------------------------ LiteRT


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keeps native libraries from writing to the terminal."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def tflite_bytes(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def litert_interpreter(path: Path, resolver: str = "default") -> Any:
    with quietly():
        made = litert.Interpreter(
            model_content=tflite_bytes(path), num_threads=1, experimental_op_resolver_type=RESOLVERS[resolver]
        )
        made.allocate_tensors()
    return made


def litert_runner(path: Path, resolver: str = "default") -> Runner:
    """Raw outputs of the first output: integers of an int8 model. x in the float model's own layout."""
    made = litert_interpreter(path, resolver)
    entry, exit_ = made.get_input_details()[0], made.get_output_details()[0]
    scale, zero = entry["quantization"]

    def run(x: F32) -> AnyArray:
        rows = []
        for sample in x:
            values = channels_last(sample, tuple(entry["shape"]))
            if scale:
                info = np.iinfo(entry["dtype"])
                values = np.clip(np.floor(values / scale + 0.5) + zero, info.min, info.max)
            made.reset_all_variables()
            made.set_tensor(entry["index"], values.astype(entry["dtype"]))
            made.invoke()
            rows.append(made.get_tensor(exit_["index"]).reshape(-1).copy())
        return np.stack(rows)

    return run


def litert_output(path: Path) -> Affine:
    scale, zero = litert_interpreter(path).get_output_details()[0]["quantization"]
    return Affine(float(scale), int(zero))


def channels_last(sample: F32, shape: tuple[int, ...]) -> F32:
    """A sample (C, H, W) or (C, L) as the converted model takes it; other shapes as they are."""
    if sample.ndim == 3 and sample.shape[0] != shape[1]:
        sample = np.moveaxis(sample, 0, -1)
    elif sample.ndim == 2 and len(shape) >= 3 and sample.shape != shape[1:3] and sample.T.shape == shape[1:3]:
        sample = sample.T
    return np.ascontiguousarray(sample).reshape(shape)
