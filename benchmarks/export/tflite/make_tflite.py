"""Rebuild the float models of `benchmarks/export/models` in Keras with the same weights and convert them with LiteRT.

    PYTHONPATH=benchmarks/export:. python benchmarks/export/tflite/make_tflite.py [NAME ...]

Writes beside itself; runs on the CPU; needs EDGERUN_DATA.
Needs tensorflow-cpu, tf_keras, ai-edge-litert, onnx and onnxruntime, which no extra of this project brings together.
Made with Python 3.11, tensorflow-cpu 2.21.0, keras 3.15.1, tf_keras 2.21.0, ai-edge-litert 2.3.0 and numpy 2.4.6.

    <name>_float.tflite    channels last: pictures (N, H, W, C), sequences (N, T, C)
    <name>_float16.tflite  in its place where float weights would be large: half weights behind DEQUANTIZE
    <name>_int8.tflite     full integer, per channel, int8 in and out, calibrated on the calibration part of `data.py`
    <name>.json            the largest difference of Keras from ONNX Runtime over the test part, and all scores

A GRU has no operator in LiteRT, and its loop cannot be quantised. `imu_gru` is therefore unrolled over its 128 steps
(and gzipped: repeated names and scales are most of it). `imu_gru_step` is one step, whose caller keeps the state:
x (1, 6), h (1, H) -> scores (1, 6), h (1, H).
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import data
import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
import tf_keras
from ai_edge_litert.interpreter import Interpreter
from onnx import numpy_helper

HERE = Path(__file__).parent
MODELS = HERE.parent / "models"
TOLERANCE = 2e-5  # of the largest output: Keras against ONNX Runtime
REPRESENTATIVE = 200  # calibration samples that the converter sees
STEP_WINDOWS = 20  # windows of 128 steps that calibrate the single step
L = keras.layers


# ---- the weights of an ONNX file, in the order of its nodes


class Weights:
    """What each node with weights takes, next node first; every value keeps its bits."""

    def __init__(self, path: Path) -> None:
        model = onnx.load(path)
        nodes = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "GRU", "LSTM")]
        constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        constants |= folded(model, [name for node in nodes for name in node.input[1:4] if name not in constants])
        self.nodes = iter([[constants[name] for name in node.input[1:4]] for node in nodes])

    def conv(
        self, x: object, *, stride: int = 1, dilation: int = 1, pad: object = "same", act: object = None
    ) -> object:
        """Conv of one or two axes, depthwise where each filter has one input; `pad` numbers become a layer of zeros."""
        w, b = next(self.nodes)
        axes = w.ndim - 2
        if pad not in ("same", "valid"):
            x, pad = (L.ZeroPadding2D if axes == 2 else L.ZeroPadding1D)(pad)(x), "valid"
        shared = {"strides": stride, "padding": pad, "dilation_rate": dilation, "activation": act}
        depthwise = w.shape[1] == 1 and x.shape[-1] == len(w) > 1
        if depthwise:
            layer = L.DepthwiseConv2D(w.shape[2:], **shared)
            kernel = w.transpose(2, 3, 0, 1)
        else:
            layer = (L.Conv2D if axes == 2 else L.Conv1D)(len(w), w.shape[2:], **shared)
            kernel = w.transpose(*range(2, 2 + axes), 1, 0)
        return poured(layer, x, kernel, b)

    def dense(self, x: object, *, act: object = None, picture: tuple[int, int, int] | None = None) -> object:
        """Gemm; its columns move from (C, H, W) to (H, W, C) where `picture` says what was flattened."""
        w, b = next(self.nodes)
        if picture is not None:
            w = w.reshape(len(w), *picture).transpose(0, 2, 3, 1).reshape(len(w), -1)
        return poured(L.Dense(len(w), activation=act), x, w.T, b)

    def gru(self) -> list[np.ndarray]:
        """Kernel (in, 3 H), recurrent kernel (H, 3 H), bias (2, 3 H): both libraries order update, reset, candidate."""
        w, r, b = next(self.nodes)
        return [w[0].T, r[0].T, b[0].reshape(2, -1)]

    def lstm(self) -> list[np.ndarray]:
        """Kernel (in, 4 H), recurrent kernel (H, 4 H), bias (4 H,): from input, output, forget, cell to i, f, c, o."""
        w, r, b = next(self.nodes)
        i, o, f, c = np.arange(len(w[0])).reshape(4, -1)
        order = np.concatenate([i, f, c, o])
        return [w[0][order].T, r[0][order].T, b[0].reshape(2, -1).sum(0)[order]]


def folded(model: onnx.ModelProto, names: list[str]) -> dict[str, np.ndarray]:
    """Values that the graph computes from constants, such as weights whose gates the exporter reorders in the file."""
    if not names:
        return {}
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shape = [size if isinstance(size, int) else 1 for size in session.get_inputs()[0].shape]
    return dict(zip(names, session.run(names, {"x": np.zeros(shape, dtype=np.float32)}), strict=True))


def poured(layer: object, x: object, *weights: np.ndarray) -> object:
    y = layer(x)
    layer.set_weights(list(weights))
    return y


# ---- the networks as a Keras author draws them


def mnist_mlp(w: Weights) -> object:
    x = keras.Input((784,))
    return keras.Model(x, w.dense(w.dense(w.dense(x, act="relu"), act="relu")))


def fashion_cnn(w: Weights) -> object:
    x = keras.Input((28, 28, 1))
    y = L.MaxPool2D(2)(w.conv(x, act="relu"))
    y = L.MaxPool2D(2)(w.conv(y, act="relu"))
    y = L.Flatten()(w.conv(y, act="relu"))
    return keras.Model(x, w.dense(y, picture=(64, 7, 7)))


def kws_dscnn(w: Weights) -> object:
    x = keras.Input((49, 10, 1))
    y = w.conv(x, stride=2, pad=(5, 1), act="relu")
    for _ in range(8):
        y = w.conv(y, act="relu")
    return keras.Model(x, w.dense(L.GlobalAveragePooling2D()(y)))


def resnet8(w: Weights) -> object:
    x = keras.Input((32, 32, 3))
    y = w.conv(x, act="relu")
    for stride in (1, 2, 2):
        z = w.conv(w.conv(y, stride=stride, pad=1, act="relu"))
        y = L.ReLU()(L.Add()([z, y if stride == 1 else w.conv(y, stride=stride, pad="valid")]))
    return keras.Model(x, w.dense(L.Flatten()(L.AveragePooling2D(8)(y))))


def mobilenet_v1(w: Weights) -> object:
    x = keras.Input((96, 96, 3))
    y = w.conv(x, stride=2, pad=1, act="relu")
    for stride in (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1):
        y = w.conv(y, stride=stride, pad="same" if stride == 1 else 1, act="relu")
        y = w.conv(y, act="relu")
    return keras.Model(x, w.dense(L.Flatten()(L.AveragePooling2D(3)(y))))


def autoencoder(w: Weights) -> object:
    x = y = keras.Input((640,))
    for _ in range(9):
        y = w.dense(y, act="relu")
    return keras.Model(x, w.dense(y))


def speech_conv1d(w: Weights) -> object:
    x = keras.Input(batch_shape=(1, 49, 40))

    def residual(y: object) -> object:
        z = w.conv(w.conv(y, act="hard_swish"), dilation=2)
        return L.ReLU(6.0)(L.Add()([y, z]))

    y = L.MaxPool1D(2)(residual(w.conv(x, act="relu6")))
    y = residual(w.conv(y, stride=2, pad=1, act="hard_swish"))
    return keras.Model(x, w.dense(L.GlobalAveragePooling1D()(y)))


def imu_lstm(w: Weights) -> object:
    """tf_keras: what Keras 3 writes is a loop, in which the converter does not see an LSTM."""
    layers = tf_keras.layers
    x = tf_keras.Input(batch_shape=(1, 128, 6))
    weights = w.lstm()
    y = poured(layers.LSTM(len(weights[1])), x, *weights)
    kernel, bias = next(w.nodes)
    return tf_keras.Model(x, poured(layers.Dense(6), y, kernel.T, bias))


def imu_gru(w: Weights) -> object:
    x = keras.Input(batch_shape=(1, 128, 6))
    weights = w.gru()
    return keras.Model(x, w.dense(poured(L.GRU(len(weights[1]), unroll=True), x, *weights)))


def imu_gru_step(w: Weights) -> object:
    weights = w.gru()
    units = len(weights[1])
    x, h = keras.Input(batch_shape=(1, 6), name="x"), keras.Input(batch_shape=(1, units), name="h")
    cell = L.GRUCell(units)
    y, _ = cell(x, [h])
    cell.set_weights(weights)
    return keras.Model([x, h], [w.dense(y), y])


# ---- data as Keras wants it


def last(x: np.ndarray) -> np.ndarray:
    """Channels last: (n, C, H, W) -> (n, H, W, C), (n, C, T) -> (n, T, C)."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def same(x: np.ndarray) -> np.ndarray:
    return x


@dataclass(frozen=True, slots=True)
class Row:
    build: Callable[[Weights], object]
    view: Callable[[np.ndarray], np.ndarray] = same
    kinds: tuple[str, str] = ("float", "int8")
    packed: bool = False  # written as .tflite.gz


ROWS = {
    "mnist_mlp": Row(mnist_mlp),
    "fashion_cnn": Row(fashion_cnn, last),
    "kws_dscnn": Row(kws_dscnn, last),
    "resnet8": Row(resnet8, last),
    "mobilenet_v1": Row(mobilenet_v1, last, kinds=("float16", "int8")),
    "autoencoder": Row(autoencoder, kinds=("float16", "int8")),
    "speech_conv1d": Row(speech_conv1d, last),
    "imu_lstm": Row(imu_lstm),
    "imu_gru": Row(imu_gru, packed=True),
}


# ---- conversion


def convert(model: object, kind: str, calibration: Callable[[], Iterator[object]]) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if kind != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind == "int8":
        converter.representative_dataset = calibration
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def one_by_one(x: np.ndarray) -> Callable[[], Iterator[list[np.ndarray]]]:
    return lambda: ([x[i : i + 1]] for i in data.evenly(len(x), REPRESENTATIVE))


def stepwise(model: object, x: np.ndarray) -> Callable[[], Iterator[dict[str, np.ndarray]]]:
    """Every step of a few windows with the state that the float network has there."""

    def rows() -> Iterator[dict[str, np.ndarray]]:
        call = tf.function(model)
        for window in x[data.evenly(len(x), STEP_WINDOWS)]:
            h = np.zeros(model.inputs[1].shape, dtype=np.float32)
            for row in window:
                yield {"x": row[None], "h": h}
                h = call([row[None], h])[1].numpy()

    return rows


# ---- checks


def keras_outputs(model: object, x: np.ndarray) -> np.ndarray:
    size = model.inputs[0].shape[0] or 250
    call = tf.function(model)
    return np.concatenate([np.asarray(call(x[k : k + size])) for k in range(0, len(x), size)])


def onnx_outputs(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    size = session.get_inputs()[0].shape[0]
    size = size if isinstance(size, int) else 250
    return np.concatenate([session.run(None, {"x": x[k : k + size]})[0] for k in range(0, len(x), size)])


def litert_outputs(blob: bytes, x: np.ndarray) -> np.ndarray:
    """Real-valued outputs, one sample a call; LiteRT keeps an LSTM's state from call to call unless it is reset."""
    interpreter = Interpreter(model_content=blob, num_threads=1)
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    outputs = []
    for sample in x:
        interpreter.reset_all_variables()
        interpreter.set_tensor(source["index"], to_type(sample[None], source))
        interpreter.invoke()
        outputs.append(to_real(interpreter.get_tensor(sink["index"]), sink))
    return np.concatenate(outputs)


def to_type(x: np.ndarray, detail: dict) -> np.ndarray:
    if detail["dtype"] == np.float32:
        return x
    scale, zero = detail["quantization"]
    return np.clip(np.round(x / scale) + zero, -128, 127).astype(np.int8)


def to_real(y: np.ndarray, detail: dict) -> np.ndarray:
    scale, zero = detail["quantization"]
    return y if detail["dtype"] == np.float32 else (y.astype(np.float32) - zero) * np.float32(scale)


def score(name: str, y: np.ndarray, part: data.Part) -> float:
    """Share of right classes; for the autoencoder how often a faulty sample is rebuilt worse than a healthy one."""
    if name != "autoencoder":
        return round(float((y.argmax(1) == part.y).mean()), 4)
    error = ((y - part.x) ** 2).mean(1)
    return round(float((error[part.y == 1][:, None] > error[part.y == 0]).mean()), 4)


# ---- one row


def make(name: str) -> None:
    row, split, path = ROWS[name], data.load(name), MODELS / f"{name}.onnx"
    model = row.build(Weights(path))
    x = row.view(split.test.x)
    peer = onnx_outputs(path, split.test.x)
    apart = float(np.abs(keras_outputs(model, x) - peer).max() / np.abs(peer).max())
    if apart > TOLERANCE:
        raise SystemExit(f"{name}: Keras is {apart:.1e} from ONNX Runtime, must be at most {TOLERANCE:g}")
    facts = {"name": name, "test_samples": len(x), "apart": float(f"{apart:.1e}")}
    facts["onnx"] = score(name, peer, split.test)
    for kind in row.kinds:
        blob = convert(model, kind, one_by_one(row.view(split.calibration.x)))
        save(f"{name}_{kind}", blob, packed=row.packed)
        facts[kind] = score(name, litert_outputs(blob, x), split.test)
        facts[f"{kind}_bytes"] = len(blob)
    (HERE / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(facts, flush=True)


def save(stem: str, blob: bytes, *, packed: bool) -> None:
    if packed:
        (HERE / f"{stem}.tflite.gz").write_bytes(gzip.compress(blob, 9, mtime=0))
    else:
        (HERE / f"{stem}.tflite").write_bytes(blob)


def make_step() -> None:
    model = imu_gru_step(Weights(MODELS / "imu_gru.onnx"))
    rows = stepwise(model, data.load("imu_gru").calibration.x)
    for kind in ("float", "int8"):
        blob = convert(model, kind, rows)
        save(f"imu_gru_step_{kind}", blob, packed=False)
        print(f"imu_gru_step_{kind}: {len(blob)} bytes", flush=True)


def main(names: list[str]) -> None:
    for name in names or [*ROWS, "imu_gru_step"]:
        if name == "imu_gru_step":
            make_step()
        else:
            make(name)


if __name__ == "__main__":
    main(sys.argv[1:])
