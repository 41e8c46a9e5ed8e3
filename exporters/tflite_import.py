"""LiteRT (TensorFlow Lite) files to float layers; all operators that have no counterpart are refused at once.

reader     exporters/tflite_reader.py   the file as plain values
operators  exporters/tflite/            one function for each, in families
scores     LiteRT itself, where `ai-edge-litert` is installed

A file with integers is taken over as it is: every layer gets the map of its output tensor and the steps of its weights,
so that its integers come back bit for bit.
"""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from edgerun.arrays import F32, AnyArray
from edgerun.errors import ModelError, SpecError
from edgerun.layers.base import INPUT
from edgerun.spec import MAX_LAYERS, Direct
from exporters.data import first_line
from exporters.float_net import FloatNet, file_name
from exporters.layout import needed, simplified
from exporters.nodes import FloatConv, FloatDense, FloatDepthwise, FloatLayer, FloatLstm, FloatSoftmax
from exporters.tflite.constants import FOLDS, fold
from exporters.tflite.elementwise import ELEMENTWISE
from exporters.tflite.graph import UINT8_BASE, VALUES_MAX, Constant, Graph, Operator, Unsupported, Value, affine_of
from exporters.tflite.moves import MOVES
from exporters.tflite.recurrent import RECURRENT
from exporters.tflite.takes import TAKES
from exporters.tflite.windows import WINDOWS
from exporters.tflite_reader import TfliteModel, TfliteOp, read_tflite

OPERATORS: Final[Mapping[str, Operator]] = MappingProxyType({**MOVES, **WINDOWS, **ELEMENTWISE, **RECURRENT, **TAKES})
MALFORMED: Final = (ValueError, TypeError, IndexError, KeyError, OverflowError, ZeroDivisionError, SpecError)
"""What numpy, options and layers raise over numbers that make no sense together."""
SIMPLIFIED_MAX: Final = 1024
"""Layers among which functions written out in many of them are looked for, which takes its time."""
BEHIND_CHOICE: Final = ("CAST", "RESHAPE", "SQUEEZE", "EXPAND_DIMS")
"""What an output may still be after a class was chosen."""
LISTED: Final = 20
"""Refused operators that a message names."""
ROOM: Final = 1 << 16
GROWTH: Final = 8
"""Constants that an import makes: so many values, and so many times the file's own."""


def load_tflite(path: Path) -> FloatNet:
    """Import a model file. Raises ModelError, one line: no sound file, or all operators that are not supported."""
    net = net_of(path.name, read_tflite(path))
    if len(net.layers) > MAX_LAYERS:
        raise ModelError(
            f"{path.name}: {len(net.layers)} layers, a bundle takes {MAX_LAYERS}; if loops are unrolled in it, export "
            "the recurrent layer as ONNX instead"
        )
    return net


def net_of(file: str, model: TfliteModel, answer: int = 0) -> FloatNet:
    """The float net of one of the model's outputs; a softmax at the end of a float model moves no decision and is left
    out. Raises ModelError, one line."""
    if len(model.inputs) != 1 or not model.outputs:
        raise ModelError(
            f"{file}: has {len(model.inputs)} inputs ({', '.join(model.input_names)}), must have one; a state that "
            "goes round through inputs and outputs belongs into the model, as a recurrent layer over all steps"
        )
    names, model = model.output_names, without_choices(model)
    graph = opened(file, model)
    with np.errstate(all="ignore"):  # what is not finite is refused by name
        walk(file, graph)
    name = repr(model.output_names[answer])
    value = graph.values.get(model.outputs[answer])
    if value is None or value.source == INPUT:
        raise ModelError(f"{file}: output {name} is {'a constant' if value is None else 'the input'}, not computed")
    left = [repr(other) for k, other in enumerate(names) if k != answer or other != model.output_names[k]]
    notes = [f"the answer is {name}; left out: {', '.join(left)}"] if left else []
    source, last = value.source, graph.layers[value.source]
    left_out = last if isinstance(last, FloatSoftmax) and last.output is None and last.shape[-1] == value.size else None
    if left_out is not None:
        source = left_out.sources[0]
    entry = model.tensors[model.inputs[0]]
    return FloatNet(
        file_name(file),
        entry.shape[1:] or (1,),
        simplified(graph.layers, source)
        if len(graph.layers) <= SIMPLIFIED_MAX
        else tuple(needed(graph.layers, source)),
        Direct(offset=UINT8_BASE) if entry.dtype == "uint8" else Direct(),
        notes=tuple(notes),
        input=graph.input,
        left_out=left_out and replace(left_out, sources=()),
        dynamic=graph.input is None and any(bytes_alone(layer) for layer in graph.layers.values()),
    )


def bytes_alone(layer: FloatLayer) -> bool:
    """Whether a layer has weights of int8, and values that no file fixes: those LiteRT rounds as it runs."""
    return isinstance(layer, FloatDense | FloatConv | FloatDepthwise | FloatLstm) and layer.weight_scale is not None


def without_choices(model: TfliteModel) -> TfliteModel:
    """The model with scores as outputs where it gives the place of the largest, under the names of their tensors."""
    makers = {k: op for op in model.operators for k in op.outputs}
    readers = Counter((*(index for op in model.operators for index in op.inputs), *model.outputs))
    outputs, names = list(model.outputs), list(model.output_names)
    tails: list[TfliteOp] = []
    for k, index in enumerate(model.outputs):
        tail = choice(model, makers, readers, index)
        if tail:
            outputs[k] = tail[-1].inputs[0]
            names[k] = model.tensors[outputs[k]].name
            tails += tail
    kept = tuple(op for op in model.operators if op not in tails)
    return replace(model, operators=kept, outputs=tuple(outputs), output_names=tuple(names))


def choice(
    model: TfliteModel, makers: Mapping[int, TfliteOp], readers: Mapping[int, int], index: int
) -> list[TfliteOp]:
    """The operators from an output that nothing else reads back to the choice of a class; none without a choice."""
    tail: list[TfliteOp] = []
    while index in makers and readers[index] == 1 and makers[index].inputs:
        tail.append(makers[index])
        if tail[-1].code == "ARG_MAX":
            shape = model.tensors[tail[-1].inputs[0]].shape
            return tail if max(shape, default=1) == math.prod(shape) else []  # one choice, not one for each pixel
        if tail[-1].code not in BEHIND_CHOICE:
            return []
        index = tail[-1].inputs[0]
    return []


def opened(file: str, model: TfliteModel) -> Graph:
    """The graph before its first operator. Raises ModelError where the input is not one sample of numbers."""
    index = model.inputs[0]
    entry = model.tensors[index]
    if not entry.shape or entry.shape[0] != 1:
        raise ModelError(
            f"{file}: input {model.input_names[0]!r} has shape {entry.shape}, a batch that is not 1; "
            "convert with a batch of 1 or an open one"
        )
    count = int(np.prod(entry.shape, dtype=np.float64))
    if not 1 <= count <= VALUES_MAX:
        raise ModelError(f"{file}: input {model.input_names[0]!r} has {count} values, must have 1 to {VALUES_MAX}")
    readers = Counter(index for op in model.operators for index in op.inputs)
    readers.update(model.outputs)
    constants = {
        tensor.index: Constant(tensor.data, tensor.scale, tensor.zero_point, tensor.axis)
        for tensor in model.tensors
        if tensor.data is not None
    }
    room = ROOM + GROWTH * sum(constant.array.size for constant in constants.values())
    graph = Graph(model, readers, {k: op for op in model.operators for k in op.outputs}, room, constants)
    try:
        graph.input = affine_of(entry)
    except Unsupported as err:
        raise ModelError(f"{file}: input {err}") from None
    graph.values[index] = Value(INPUT, entry.shape, graph.input)
    return graph


def walk(file: str, graph: Graph) -> None:
    """Every operator in turn. Raises ModelError listing those that cannot be imported; what reads them is left out."""
    refused: list[str] = []
    lost: set[int] = set()
    for op in graph.model.operators:
        try:
            known(graph, op)
            if lost.isdisjoint(op.inputs):
                run(graph, op)
            else:
                lost.update(op.outputs)
        except (*MALFORMED, ModelError, Unsupported) as err:
            lost.update(op.outputs)
            refused.append(f"{graph.model.label(op)}: {first_line(err)}")
    if refused:
        more = f", and {len(refused) - LISTED} more" if len(refused) > LISTED else ""
        count = "1 operator is" if len(refused) == 1 else f"{len(refused)} operators are"
        raise ModelError(
            f"{file}: {count} not supported: {'; '.join(refused[:LISTED])}{more}; "
            "replace them in the model, or cut it before them"
        )


def known(graph: Graph, op: TfliteOp) -> None:
    """Whatever its inputs are. Raises Unsupported where none could help."""
    if op.custom or op.code not in (*OPERATORS, *FOLDS, "SHAPE"):
        raise Unsupported("a custom operator" if op.custom else "has no counterpart")
    if op.code == "BATCH_MATMUL" and graph.constants.keys().isdisjoint(op.inputs):
        raise Unsupported("multiplies two values as matrices, as attention does")


def run(graph: Graph, op: TfliteOp) -> None:
    """Note what an operator gives. Raises Unsupported, or one of MALFORMED."""
    if fold(graph, op):
        return
    if op.code not in OPERATORS:
        raise Unsupported("has no counterpart but for constants")
    found = OPERATORS[op.code](graph, op)
    values = [found] if isinstance(found, Value) else list(found)
    if len(values) != len(op.outputs):
        raise Unsupported(f"has {len(op.outputs)} outputs, not {len(values)}")
    for index, value in zip(op.outputs, values, strict=True):
        graph.values[index] = replace(value, alone=value.alone and graph.readers[index] == 1)


# ------------------------------------------------------------------ LiteRT itself


def has_litert() -> bool:
    return importlib.util.find_spec("ai_edge_litert") is not None


def litert_scores(path: Path, x: AnyArray) -> F32:
    """Answers (N, outputs) by LiteRT in real numbers, from real samples (N, ...). Raises ModelError where it refuses.

    Integers at either end are rounded and read by the file's own scales.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    model = read_tflite(path)
    outputs = without_choices(model).outputs
    try:
        resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # a delegate writes to standard error
        interpreter = Interpreter(
            str(path),
            experimental_op_resolver_type=resolver,
            num_threads=1,
            experimental_preserve_all_tensors=outputs != model.outputs,
        )
        interpreter.allocate_tensors()
        entry = interpreter.get_input_details()[0]
        (answer,) = (found for found in interpreter.get_tensor_details() if found["index"] == outputs[0])
        rows = []
        for sample in stored(x.reshape(len(x), *entry["shape"]), entry):
            interpreter.reset_all_variables()
            interpreter.set_tensor(entry["index"], sample)
            interpreter.invoke()
            rows.append(interpreter.get_tensor(answer["index"]).reshape(-1))
    except (ValueError, RuntimeError) as err:
        raise ModelError(f"{path.name}: LiteRT cannot run it ({first_line(err)})") from None
    found, (scale, zero_point) = np.stack(rows), answer["quantization"]
    return np.asarray((found.astype(np.float32) - zero_point) * scale if scale else found, np.float32)


def stored(x: AnyArray, entry: Mapping[str, Any]) -> AnyArray:
    """Real samples as an input takes them."""
    scale, zero_point = entry["quantization"]
    q = np.rint(x / scale) + zero_point if scale else x
    return np.asarray(np.clip(q, np.iinfo(entry["dtype"]).min, np.iinfo(entry["dtype"]).max) if scale else q).astype(
        entry["dtype"]
    )
