"""Make the .tflite files that the reader's and the importer's tests read, and what LiteRT computes with them.

    python tests/golden/tflite/make_tflite.py [NAME ...]        writes beside itself; seed 7; CPU only

Needs tensorflow-cpu, tf_keras and ai-edge-litert, which no extra of this project brings. Made with Python 3.11,
tensorflow-cpu 2.21.0, keras 3.15.1, tf_keras 2.21.0, ai-edge-litert 2.3.0 and numpy 2.4.6. The weights are random.

    <name>_<kind>.tflite    kind: float; int8 (full integer, per channel); pertensor (the same, one scale a tensor);
                            dynamic (int8 weights, float activations); float16 (half weights behind DEQUANTIZE);
                            int16x8 (int16 activations); uint8 (the TensorFlow 1 converter from fake-quant nodes)
    <name>_<kind>.npz       input_<i> (16, ...) and <resolver>_<i> (16, ...), one row a call of the interpreter with
                            `resolver` in reference, builtin (no delegate), default (XNNPACK where it applies)

`unsupported` holds operators that we shall not run (one builtin, one custom) and has no npz; `lstm_while` and
`gru_while` are loops that call other subgraphs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from ai_edge_litert.interpreter import Interpreter, OpResolverType

HERE = Path(__file__).parent
SEED = 7
ROWS, CALIBRATION = 16, 64
RESOLVERS = {
    "reference": OpResolverType.BUILTIN_REF,
    "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "default": OpResolverType.AUTO,
}
L = keras.layers
Shape = tuple[int, ...]


def stack(shape: Shape, *layers: object) -> keras.Model:
    """A chain of layers with an open batch dimension, as people write it; biases and norms random, not zero."""
    return filled(keras.Sequential([keras.Input(shape), *layers]))


def filled(model: keras.Model) -> keras.Model:
    rng = np.random.default_rng(SEED)
    for weight in model.weights:
        value = np.asarray(weight)
        if value.ndim < 2 and value.dtype == np.float32:
            new = rng.normal(size=value.shape) * 0.3
            kept = any(word in weight.path for word in ("gamma", "variance")) if hasattr(weight, "path") else False
            weight.assign(np.float32(1 + abs(new)) if kept else np.float32(new))
    return model


def function(*shapes: Shape) -> Callable[[Callable[..., object]], tf.types.experimental.ConcreteFunction]:
    """A TensorFlow function of fixed input shapes, batch of one."""

    def decorate(body: Callable[..., object]) -> tf.types.experimental.ConcreteFunction:
        specs = [tf.TensorSpec((1, *shape), tf.float32, name=f"x{i}") for i, shape in enumerate(shapes)]
        return tf.function(body, input_signature=specs).get_concrete_function()

    return decorate


def constant(*shape: int, scale: float = 0.5) -> tf.Tensor:
    return tf.constant(np.random.default_rng(SEED).normal(size=shape) * scale, dtype=tf.float32)


# ---- the models


def mlp() -> object:
    return stack((12,), L.Dense(16, activation="relu"), L.Dense(5))


def mlp_wide() -> object:
    return stack((40,), L.Dense(32, activation="relu"), L.Dense(32, activation="relu"), L.Dense(5))


def mlp_softmax() -> object:
    return stack((12,), L.Dense(16, activation="tanh"), L.Dense(8, activation="sigmoid"), L.Dense(5), L.Softmax())


def dense_sequence() -> object:
    return stack((6, 5), L.Dense(7, activation="relu"), L.Dense(3, use_bias=False))


def conv() -> object:
    return stack(
        (9, 7, 3),
        L.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
        L.Conv2D(5, (3, 2), padding="valid"),
        L.Conv2D(6, 3, padding="same", dilation_rate=2, activation="relu6"),
        L.Conv2D(3, 1, strides=2, use_bias=False),
    )


def conv_same_stride() -> object:
    """Even width, odd height, stride 2: TensorFlow pads more at the end."""
    return stack((8, 7, 2), L.Conv2D(3, 3, strides=2, padding="same"), L.Conv2D(2, 4, strides=(1, 2), padding="same"))


def conv_flatten_dense() -> object:
    return stack((6, 6, 2), L.Conv2D(4, 3, activation="relu"), L.MaxPool2D(2), L.Flatten(), L.Dense(5))


def conv1d() -> object:
    return stack((16, 3), L.Conv1D(6, 3, padding="same", activation="relu"), L.MaxPool1D(2), L.Conv1D(4, 5, strides=2))


def conv1d_causal() -> object:
    return stack((12, 3), L.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="relu"))


def conv_dilated() -> object:
    """Dilation in the operator itself, which a fixed batch allows; the open batch of `conv` makes SPACE_TO_BATCH_ND."""

    def body(x: tf.Tensor) -> tf.Tensor:
        y = tf.nn.relu(tf.nn.conv2d(x, constant(3, 3, 3, 4, scale=0.2), 1, "SAME", dilations=2) + constant(4))
        return tf.nn.depthwise_conv2d(y, constant(3, 2, 4, 1), (1, 1, 1, 1), "VALID", dilations=(1, 2)) + constant(4)

    return function((8, 7, 3))(body)


def depthwise() -> object:
    return stack(
        (8, 7, 3),
        L.DepthwiseConv2D(3, depth_multiplier=2, padding="same", activation="relu6"),
        L.DepthwiseConv2D(3, strides=2, padding="same"),
        L.DepthwiseConv2D(2, padding="valid", dilation_rate=2),
        L.SeparableConv2D(4, 1),
    )


def max_pool() -> object:
    return stack((7, 6, 3), L.MaxPool2D(3, strides=2, padding="same"), L.MaxPool2D((2, 1)))


def average_pool() -> object:
    return stack((7, 6, 3), L.AveragePooling2D(3, strides=2, padding="same"), L.AveragePooling2D((2, 1)))


def global_pools() -> object:
    x = keras.Input((6, 5, 4))
    a = L.GlobalAveragePooling2D()(L.Conv2D(4, 3, activation="relu")(x))
    b = L.GlobalMaxPooling2D()(x)
    return filled(keras.Model(x, [L.Dense(3)(a), b]))


def residual() -> object:
    x = keras.Input((6, 6, 3))
    y = L.Conv2D(3, 3, padding="same")(L.Conv2D(3, 3, padding="same", activation="relu")(x))
    z = L.ReLU()(L.Add()([x, y]))
    return filled(keras.Model(x, L.Add()([z, L.Conv2D(3, 1)(z)])))


def squeeze_excite() -> object:
    x = keras.Input((5, 5, 4))
    s = L.Dense(4, activation="sigmoid")(L.Dense(2, activation="relu")(L.GlobalAveragePooling2D(keepdims=True)(x)))
    return filled(keras.Model(x, L.Multiply()([x, s])))


def concat() -> object:
    x = keras.Input((6, 5, 3))
    branches = [L.Conv2D(2, 1, activation="relu6")(x), L.Conv2D(3, 3, padding="same")(x), L.MaxPool2D(3, 1, "same")(x)]
    return filled(keras.Model(x, L.Concatenate()(branches)))


def batch_norm() -> object:
    return stack((6, 6, 3), L.Conv2D(4, 3, use_bias=False), L.BatchNormalization(), L.ReLU(6.0), L.DepthwiseConv2D(2))


def batch_norm_first() -> object:
    return stack((6, 6, 3), L.BatchNormalization(), L.ReLU(), L.Conv2D(4, 3))


def layer_norm() -> object:
    return stack((4, 8), L.LayerNormalization(), L.Dense(3))


def two_inputs() -> object:
    return function((4, 5), (4, 5))(lambda a, b: (a + b, a * b, a - b, tf.maximum(a, b), tf.minimum(a, b)))


def broadcast() -> object:
    return function((4, 5))(lambda x: tf.nn.relu(x * constant(5) + constant(4, 1)))


def shapes() -> object:
    def body(x: tf.Tensor) -> object:
        padded = tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]])
        turned = tf.transpose(padded, [0, 3, 1, 2])
        return tf.reshape(turned, [1, -1, 2]), tf.squeeze(padded, 0)

    return function((3, 4, 2))(body)


def pad_value() -> object:
    return function((3, 4, 2))(lambda x: tf.pad(x, [[0, 0], [1, 1], [2, 0], [0, 0]], constant_values=-1.0))


def slices() -> object:
    def body(x: tf.Tensor) -> object:
        a, b = tf.split(x, 2, axis=2)
        c, d = tf.split(x, [1, 5], axis=2)
        return (
            tf.concat([a, b * 2.0], 1),
            tf.concat([d, c], 2),
            x[:, 1:6:2, ::-1],
            x[:, -1],
            tf.slice(x, [0, 2, 1], [1, 3, 2]),
        )

    return function((6, 6))(body)


def reductions() -> object:
    return function((4, 5, 3))(
        lambda x: (
            tf.reduce_mean(x, [1, 2]),
            tf.reduce_mean(x, -1, keepdims=True),
            tf.reduce_max(x, [1]),
            tf.reduce_sum(x, [1, 2]),
        )
    )


def dense_relu_split() -> object:
    """A value that two operators read: the ReLU cannot be fused."""
    x = keras.Input((8,))
    y = L.Dense(6)(x)
    return filled(keras.Model(x, [L.ReLU()(y), L.Dense(2)(y)]))


def activation(body: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[], object]:
    return lambda: function((4, 10))(lambda x: body(x * 3.0))


def bare(body: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[], object]:
    return lambda: function((4, 10))(body)


def recurrent(
    keras_like: object, cell: str, *, units: int = 6, steps: int = 5, **options: object
) -> Callable[[], object]:
    """A recurrent layer on a fixed batch of one, which is what the converter needs to see its pattern."""

    def build() -> object:
        layers = keras_like.layers
        layer = getattr(layers, cell)(units, **options)
        return filled(keras_like.Sequential([keras_like.Input(batch_shape=(1, steps, 4)), layer, layers.Dense(3)]))

    return build


def lstm_stack() -> object:
    layers = tf_keras.layers
    chain = [layers.LSTM(6, return_sequences=True), layers.LSTM(5), layers.Dense(3)]
    return filled(tf_keras.Sequential([tf_keras.Input(batch_shape=(1, 5, 4)), *chain]))


def bidirectional(*, sequence: bool) -> Callable[[], object]:
    def build() -> object:
        layers = tf_keras.layers
        both = layers.Bidirectional(layers.LSTM(6, return_sequences=sequence))
        return filled(tf_keras.Sequential([tf_keras.Input(batch_shape=(1, 5, 4)), both, layers.Dense(3)]))

    return build


def mirror_pad() -> object:
    def body(x: tf.Tensor) -> tf.Tensor:
        reflected = tf.pad(x, [[0, 0], [1, 2], [2, 1], [0, 0]], "REFLECT")
        return tf.pad(reflected, [[0, 0], [0, 1], [1, 0], [0, 1]], "SYMMETRIC")

    return function((5, 4, 3))(body)


def resize_nearest() -> object:
    def body(x: tf.Tensor) -> object:
        resize = tf.compat.v1.image.resize_nearest_neighbor
        return (
            resize(x, (10, 8)),
            resize(x, (7, 3)),
            resize(x, (7, 3), align_corners=True),
            resize(x, (3, 9), half_pixel_centers=True),
        )

    return function((5, 4, 3))(body)


def gathers() -> object:
    return function((4, 6, 4))(lambda x: (tf.gather(x, [2, 0, 3, 3], axis=1), tf.nn.space_to_depth(x, 2)))


def repeats() -> object:
    """In floats only: the converter writes versions of these operators for int8 that LiteRT does not have."""

    def body(x: tf.Tensor) -> object:
        return keras.layers.UpSampling2D(2)(x) + tf.tile(x, [1, 2, 2, 1]), tf.nn.depth_to_space(x, 2)

    return function((4, 6, 4))(body)


def unsupported() -> object:
    def body(x: tf.Tensor) -> object:
        values, places = tf.math.top_k(x, k=3)
        return values, places, tf.linalg.det(x[:, :, :4]), tf.abs(tf.signal.rfft2d(x[:, :4, :4]))

    return function((4, 8))(body)


FULL = ("float", "int8")
MODELS: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "mlp": (mlp, ("float", "int8", "pertensor", "int16x8")),
    "mlp_wide": (mlp_wide, ("dynamic", "float16")),
    "mlp_softmax": (mlp_softmax, FULL),
    "dense_sequence": (dense_sequence, FULL),
    "dense_relu_split": (dense_relu_split, FULL),
    "conv": (conv, (*FULL, "pertensor")),
    "conv_same_stride": (conv_same_stride, FULL),
    "conv_flatten_dense": (conv_flatten_dense, FULL),
    "conv1d": (conv1d, FULL),
    "conv1d_causal": (conv1d_causal, FULL),
    "conv_dilated": (conv_dilated, FULL),
    "depthwise": (depthwise, (*FULL, "pertensor")),
    "max_pool": (max_pool, FULL),
    "average_pool": (average_pool, FULL),
    "global_pools": (global_pools, FULL),
    "residual": (residual, FULL),
    "squeeze_excite": (squeeze_excite, FULL),
    "concat": (concat, FULL),
    "batch_norm": (batch_norm, FULL),
    "batch_norm_first": (batch_norm_first, FULL),
    "layer_norm": (layer_norm, FULL),
    "two_inputs": (two_inputs, FULL),
    "broadcast": (broadcast, FULL),
    "shapes": (shapes, FULL),
    "pad_value": (pad_value, FULL),
    "slices": (slices, FULL),
    "reductions": (reductions, FULL),
    "relu": (bare(tf.nn.relu), FULL),
    "relu6": (bare(tf.nn.relu6), FULL),
    "mul_relu6": (activation(tf.nn.relu6), FULL),
    "relu_n1_to_1": (bare(lambda x: tf.clip_by_value(x, -1.0, 1.0)), FULL),
    "logistic": (bare(lambda x: tf.sigmoid(x)), FULL),
    "logistic_wide": (activation(lambda x: tf.sigmoid(x)), FULL),
    "tanh": (bare(lambda x: tf.tanh(x)), FULL),
    "hard_swish": (bare(lambda x: x * tf.nn.relu6(x + 3.0) * (1.0 / 6.0)), FULL),
    "hard_sigmoid": (bare(lambda x: tf.nn.relu6(x + 3.0) * (1.0 / 6.0)), FULL),
    "leaky_relu": (bare(lambda x: tf.nn.leaky_relu(x, 0.2)), FULL),
    "softmax": (bare(tf.nn.softmax), FULL),
    "lstm": (recurrent(tf_keras, "LSTM"), FULL),
    "lstm_sequence": (recurrent(tf_keras, "LSTM", return_sequences=True), FULL),
    "lstm_stack": (lstm_stack, FULL),
    "lstm_both_ways": (bidirectional(sequence=True), FULL),
    "lstm_both_ends": (bidirectional(sequence=False), FULL),
    "mirror_pad": (mirror_pad, FULL),
    "resize_nearest": (resize_nearest, FULL),
    "gathers": (gathers, FULL),
    "repeats": (repeats, ("float",)),
    "lstm_unrolled": (recurrent(keras, "LSTM", steps=3, unroll=True), FULL),
    "lstm_while": (recurrent(keras, "LSTM"), ("float",)),
    "gru_unrolled": (recurrent(keras, "GRU", steps=3, unroll=True), FULL),
    "gru_while": (recurrent(keras, "GRU"), ("float",)),
    "unsupported": (unsupported, ("float",)),
    "fake_quant": (lambda: None, ("uint8",)),
    "zero_points": (lambda: None, ("uint8",)),
}


# ---- conversion


def shapes_of(model: object) -> list[Shape]:
    """Each input's shape without its batch dimension, in the order of the signature."""
    if hasattr(model, "layers"):
        return [tuple(tensor.shape[1:]) for tensor in model.inputs]
    return [tuple(tensor.shape[1:]) for tensor in model.inputs if tensor.dtype == tf.float32]


def samples(shape: list[Shape], rows: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(rows, *s)).astype(np.float32) * (1 + i) for i, s in enumerate(shape)]


def rows_of(arrays: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    for i in range(len(arrays[0])):
        yield [a[i : i + 1] for a in arrays]


def converter_of(model: object) -> tf.lite.TFLiteConverter:
    if hasattr(model, "layers"):
        return tf.lite.TFLiteConverter.from_keras_model(model)
    return tf.lite.TFLiteConverter.from_concrete_functions([model])


def convert(model: object, kind: str, name: str) -> bytes:
    converter = converter_of(model)
    calibration = samples(shapes_of(model), CALIBRATION, SEED)
    if kind != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind in ("int8", "pertensor", "int16x8"):
        converter.representative_dataset = lambda: rows_of(calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    if kind == "pertensor":
        converter._experimental_disable_per_channel = True
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    if kind == "int16x8":
        wide = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [wide]
        converter.inference_input_type = converter.inference_output_type = tf.int16
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if name == "unsupported":
        converter.allow_custom_ops = True
    return converter.convert()


def fake_quant() -> bytes:
    """A convolution and a dense layer with fake-quant nodes, as networks of 2018 were made: asymmetric uint8."""
    v1 = tf.compat.v1
    fake = tf.quantization.fake_quant_with_min_max_args
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (1, 6, 6, 3), name="x")
        kernel = fake(constant(3, 3, 3, 4, scale=0.3), min=-0.8, max=1.0)
        y = tf.nn.relu(tf.nn.conv2d(fake(x, min=-3, max=3), kernel, 2, "SAME") + tf.constant([0.1, -0.2, 0.3, 0.0]))
        y = tf.reshape(fake(y, min=0, max=4), (1, 36))
        weight = fake(constant(36, 5, scale=0.3), min=-1, max=0.9)
        out = fake(tf.matmul(y, weight) + tf.constant([0.5, 0.0, -0.5, 0.1, 0.2]), min=-6, max=6)
        return of_bytes(session, x, out)


def zero_points() -> bytes:
    """Weights that lie mostly on one side of zero: with their zero point off, int8 does not hold them."""
    v1 = tf.compat.v1
    fake = tf.quantization.fake_quant_with_min_max_args
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (1, 6, 6, 3), name="x")
        kernel = fake(0.15 + constant(3, 3, 3, 4, scale=0.3), min=-0.25, max=1.0)
        y = fake(tf.nn.conv2d(fake(x, min=-3, max=3), kernel, 1, "SAME") + tf.constant([0.1, -0.2, 0.3, 0.0]), -8, 8)
        kernel = fake(constant(3, 3, 4, 2, scale=0.3) - 0.3, min=-1.1, max=0.02)
        y = fake(tf.nn.depthwise_conv2d(y, kernel, [1, 2, 2, 1], "SAME") + tf.constant([0.3] * 8), -20, 20)
        weight = fake(constant(72, 5, scale=0.3) + 0.5, min=0.0, max=1.2)
        out = fake(tf.matmul(tf.reshape(y, (1, 72)), weight) + tf.constant([0.5, 0.0, -0.5, 0.1, 0.2]), -200, 200)
        return of_bytes(session, x, out)


def of_bytes(session: object, x: object, out: object) -> bytes:
    """By the TensorFlow 1 converter, real input in +-3."""
    converter = tf.compat.v1.lite.TFLiteConverter.from_session(session, [x], [out])
    converter.inference_type = tf.uint8
    converter.quantized_input_stats = {"x": (127.5, 127.5 / 3)}
    return converter.convert()


UINT8 = {"fake_quant": fake_quant, "zero_points": zero_points}


# ---- what LiteRT computes


def quantised(x: np.ndarray, detail: dict) -> np.ndarray:
    if detail["dtype"] == np.float32:
        return x
    scale, zero = detail["quantization"]
    info = np.iinfo(detail["dtype"])
    return np.clip(np.round(x / scale) + zero, info.min, info.max).astype(detail["dtype"])


def golden(blob: bytes) -> dict[str, np.ndarray]:
    arrays: dict[str, list[np.ndarray]] = {}
    for resolver, kind in RESOLVERS.items():
        interpreter = Interpreter(model_content=blob, experimental_op_resolver_type=kind, num_threads=1)
        interpreter.allocate_tensors()
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        data = samples([tuple(d["shape"][1:]) for d in inputs], ROWS, SEED + 1)
        if resolver == "reference":
            arrays |= {f"input_{i}": [] for i in range(len(inputs))}
        for row in rows_of(data):
            interpreter.reset_all_variables()
            for i, (x, detail) in enumerate(zip(row, inputs, strict=True)):
                q = quantised(x, detail)
                interpreter.set_tensor(detail["index"], q)
                if resolver == "reference":
                    arrays[f"input_{i}"].append(q[0])
            interpreter.invoke()
            for i, detail in enumerate(outputs):
                arrays.setdefault(f"{resolver}_{i}", []).append(interpreter.get_tensor(detail["index"]))
    return {name: np.stack(rows) for name, rows in arrays.items()}


def main(names: list[str]) -> None:
    for name in names or MODELS:
        build, kinds = MODELS[name]
        for kind in kinds:
            keras.utils.set_random_seed(SEED)
            tf_keras.utils.set_random_seed(SEED)
            stem = HERE / f"{name}_{kind}"
            blob = UINT8[name]() if kind == "uint8" else convert(build(), kind, name)
            stem.with_suffix(".tflite").write_bytes(blob)
            if name != "unsupported":
                np.savez_compressed(stem.with_suffix(".npz"), **golden(blob))
            print(f"{stem.name}: {len(blob)} bytes", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
