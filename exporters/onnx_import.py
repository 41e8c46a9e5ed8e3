"""ONNX to float layers: the file is read and checked, then walked from its input to its answer.

`exporters/onnx/operators.py` lists the operators. Nodes that the answer does not need are left out, and nodes of
constants computed; all that has no counterpart is refused in one message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # untyped
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from edgerun.arrays import F32, AnyArray
from edgerun.errors import ModelError
from edgerun.layers.base import INPUT
from edgerun.spec import Direct
from exporters.data import first_line
from exporters.float_net import FloatNet, file_name
from exporters.layout import simplified
from exporters.nodes import Affine, FloatSoftmax
from exporters.onnx.constants import MALFORMED, array_of, fold
from exporters.onnx.external import fetch
from exporters.onnx.graph import Graph, Node, Shape, Unsupported, Value, checked_shape, natural
from exporters.onnx.operators import OPERATORS
from exporters.onnx.quantised import UINT8_BASE, fold_quantised

MAX_BYTES: Final = 1 << 30
MAX_NODES: Final = 1 << 14
OPSET_FIRST: Final = 7
FREE_ROOM: Final = 1 << 22  # constant values that any file may have computed
ROOM_PER_BYTE: Final = 8
FOREIGN: Final = (DecodeError, onnx.checker.ValidationError, *MALFORMED)
RUNTIME: Final = (
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
    RuntimeError,
)
REALS: Final = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
INTEGERS: Final = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
WAY_OUT: Final = "replace them in the model, or export the part before them with onnx.utils.extract_model"


def load_onnx(path: Path) -> FloatNet:
    """Import a model file. Raises ModelError, one line: not an ONNX file, or all nodes that are not supported."""
    model = parse(path)
    with np.errstate(all="ignore"):
        graph, nodes, entry = start(path.name, model)
        walk(path.name, graph, nodes)
        return finish(path.name, graph, entry)


# ------------------------------------------------------------------ the file


def parse(path: Path) -> Any:
    """A checked ModelProto whose opset is known here."""
    data = path.read_bytes()
    if len(data) > MAX_BYTES:
        raise ModelError(f"{path.name}: {len(data)} bytes, the limit is {MAX_BYTES}")
    try:
        model = onnx.load_from_string(data)
        fetch(path, model, MAX_BYTES - len(data))
        onnx.checker.check_model(model)
    except ModelError:
        raise
    except FOREIGN as err:
        raise ModelError(f"{path.name}: is no sound ONNX file ({first_line(err)})") from None
    if len(model.graph.node) > MAX_NODES:
        raise ModelError(f"{path.name}: {len(model.graph.node)} nodes, the limit is {MAX_NODES}")
    version = opsets(model).get("", OPSET_FIRST)
    if version < OPSET_FIRST:
        raise ModelError(f"{path.name}: opset {version} is under {OPSET_FIRST}; convert it with onnx.version_converter")
    return model


def opsets(model: Any) -> dict[str, int]:
    return {domain_of(entry.domain): int(entry.version) for entry in model.opset_import}


def domain_of(text: str) -> str:
    return "" if text == "ai.onnx" else text


def read_node(proto: Any, place: int, versions: Mapping[str, int]) -> Node:
    domain = domain_of(proto.domain)
    return Node(
        name=proto.name or f"#{place}",
        op=proto.op_type,
        domain=domain,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        info={item.name: onnx.helper.get_attribute_value(item) for item in proto.attribute},
        version=versions.get(domain, 1),
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """The input: its shape in the file, the batch being 1, and which axis that is."""

    shape: Shape
    batch: int

    @property
    def sample(self) -> Shape:
        return self.shape[: self.batch] + self.shape[self.batch + 1 :]


def start(file: str, model: Any) -> tuple[Graph, list[Node], Entry]:
    """The graph before its first node, the nodes that its answer needs, in running order, and its input."""
    versions = opsets(model)
    try:
        nodes = [read_node(proto, k, versions) for k, proto in enumerate(model.graph.node)]
        size = model.ByteSize()
    except FOREIGN as err:
        raise ModelError(f"{file}: is no sound ONNX file ({first_line(err)})") from None
    makers = {name: node for node in nodes for name in node.outputs if name}
    answer, notes = answer_of(file, model, makers)
    wanted = needed(answer, makers)
    nodes = [node for node in nodes if wanted.intersection(node.outputs)]
    readers = readers_of(nodes, answer)
    graph = Graph(readers, makers, answer, FREE_ROOM + ROOM_PER_BYTE * size, notes=notes)
    graph.constants.update((tensor.name, array_of(tensor)) for tensor in model.graph.initializer)
    inputs = [value for value in model.graph.input if value.name not in graph.constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise ModelError(
            f"{file}: has {len(inputs)} inputs ({names}), must have one; a state that goes round through inputs and "
            "outputs belongs into the model, as a recurrent layer over all steps"
        )
    entry = inputs[0]
    kind = entry.type.tensor_type.elem_type
    if kind not in (*REALS, *INTEGERS):
        raise ModelError(f"{file}: input {entry.name!r} is {kind_name(kind)}, must be float, int8 or uint8")
    graph.offset = UINT8_BASE if kind == onnx.TensorProto.UINT8 else 0
    found = read_entry(file, graph, entry)
    shape = found.shape
    graph.values[entry.name] = Value(
        INPUT, shape, natural(shape), alone=len(readers.get(entry.name, ())) == 1, integers=kind in INTEGERS
    )
    return graph, nodes, found


def kind_name(kind: int) -> str:
    names = [name.lower() for name, number in onnx.TensorProto.DataType.items() if number == kind]
    return names[0] if names else f"of type {kind}"


def read_entry(file: str, graph: Graph, entry: Any) -> Entry:
    """The batch comes first, or behind the steps of a recurrent layer.

    Raises ModelError where another dimension is free, or the batch is fixed to more than 1.
    """
    dims = [int(dim.dim_value) for dim in entry.type.tensor_type.shape.dim]
    if len(dims) < 2 or len(dims) > 8:
        raise ModelError(f"{file}: input {entry.name!r} has {len(dims)} dimensions, must have a batch and 1 to 7 more")
    batch = 1 if len(dims) == 3 and dims[0] > 1 and dims[1] <= 1 and steps_first(graph, entry.name) else 0
    if dims[batch] > 1:
        raise ModelError(
            f"{file}: input {entry.name!r} has a fixed batch of {dims[batch]}; export it with 1 or a free batch"
        )
    dims[batch] = 1
    if len(dims) == 2 and not dims[1]:
        dims[1] = first_width(graph, entry.name)
    if not all(dims):
        raise ModelError(f"{file}: input {entry.name!r} has free dimensions {dims[1:]}; export it with a fixed shape")
    return Entry(checked_shape(dims), batch)


def steps_first(graph: Graph, name: str) -> bool:
    """Whether a recurrent layer reads the input as (steps, batch, features)."""
    readers = graph.readers.get(name, ())
    return any(node.op in ("GRU", "LSTM") and not node.integer("layout", 0) for node in readers)


def first_width(graph: Graph, name: str) -> int:
    """How many features the first matrix or linear model takes; 0 where that cannot be seen."""
    while readers := graph.readers.get(name):
        node = readers[0]
        if node.op in ("MatMul", "Gemm") and node.inputs[1] in graph.constants:
            shape = graph.constants[node.inputs[1]].shape
            return shape[1 if node.info.get("transB") else 0] if len(shape) == 2 else 0
        if node.op == "Scaler":
            return len(node.info.get("offset", ()))
        if node.op not in ("Cast", "Identity"):
            break
        name = node.outputs[0]
    return 0


def answer_of(file: str, model: Any, makers: Mapping[str, Node]) -> tuple[str, list[str]]:
    """The first output of real numbers, or what a map or a choice of classes is made from; and what to note of it."""
    found = []
    for value in model.graph.output:
        maker = makers.get(value.name)
        kind = value.type.tensor_type.elem_type
        if maker is not None and maker.op == "ZipMap":
            found.append(maker.inputs[0])
        elif kind in (*REALS, *INTEGERS):
            found.append(value.name)
    if not found:
        chosen = [makers[v.name] for v in model.graph.output if v.name in makers and makers[v.name].op == "ArgMax"]
        found = [node.inputs[0] for node in chosen]
    if not found:
        raise ModelError(f"{file}: none of its {len(model.graph.output)} outputs is of real numbers")
    left = [repr(value.name) for value in model.graph.output if value.name not in found[:1]]
    notes = [f"the answer is {found[0]!r}; left out: {', '.join(left)}"] if left else []
    return found[0], notes


def needed(answer: str, makers: Mapping[str, Node]) -> set[str]:
    """Every tensor that the answer is made from, and itself."""
    wanted, open_ends = {answer}, [answer]
    while open_ends:
        maker = makers.get(open_ends.pop())
        more = [name for name in maker.inputs if name and name not in wanted] if maker else []
        wanted.update(more)
        open_ends.extend(more)
    return wanted


def readers_of(nodes: Sequence[Node], answer: str) -> dict[str, list[Node]]:
    """The nodes that read each tensor, once for each time that they do."""
    end = Node("answer", "", "", (answer,), (), {}, 1)
    readers: dict[str, list[Node]] = {}
    for node in (*nodes, end):
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    return readers


# ------------------------------------------------------------------ the walk


def walk(file: str, graph: Graph, nodes: Sequence[Node]) -> None:
    """Turn every node into layers. Raises ModelError listing all that cannot be, with name and op type."""
    refused: list[str] = []
    for node in nodes:
        try:
            take(graph, node)
        except Unsupported as err:
            refused.append(f"{node.name} ({node.op}: {first_line(err)})" if str(err) else f"{node.name} ({node.op})")
        except ModelError as err:
            refused.append(f"{node.name} ({node.op}: {first_line(err)})")
        except MALFORMED as err:
            refused.append(f"{node.name} ({node.op}: makes no sense, {first_line(err)})")
    if refused:
        count = "1 node is" if len(refused) == 1 else f"{len(refused)} nodes are"
        raise ModelError(f"{file}: {count} not supported: {', '.join(refused)}; {WAY_OUT}")


def take(graph: Graph, node: Node) -> None:
    """One node. Nothing where an input is missing because its own node was refused, unless no input could help.

    Raises Unsupported.
    """
    operator = OPERATORS.get(node.domain, {}).get(node.op)
    if fold_quantised(graph, node) or fold(graph, node):
        return
    if operator is None:
        raise Unsupported("" if not node.domain else f"of domain {node.domain}")
    if node.op == "MatMul" and not any(name in graph.constants for name in node.inputs):
        raise Unsupported("multiplies two values as matrices, as attention does")
    if any(missing(graph, name) for name in node.inputs):
        return
    found = operator(graph, node)
    for name, value in zip(node.outputs, found if isinstance(found, tuple) else (found,), strict=False):
        if name:
            checked_shape(value.shape)
            graph.values[name] = replace(value, alone=value.alone and len(graph.readers.get(name, ())) == 1)


def missing(graph: Graph, name: str) -> bool:
    """Whether the node that should give a tensor was refused."""
    if not name or name in graph.constants or name in graph.values or name in graph.parts:
        return False
    return name not in graph.makers or graph.makers[name].op != "Greater"


def finish(file: str, graph: Graph, entry: Entry) -> FloatNet:
    """The net; a softmax over all scores at the end of a float model is left out, which moves no decision."""
    if graph.answer not in graph.values:
        raise ModelError(f"{file}: its output {graph.answer!r} is a constant")
    end = graph.values[graph.answer]
    last = graph.layers.get(end.source)
    left_out = last if isinstance(last, FloatSoftmax) and last.output is None and last.shape[-1] == end.size else None
    if left_out is not None:
        end = replace(end, source=left_out.sources[0])
    else:
        end = graph.plainly(end)
        last = graph.layers.get(end.source)
        if last is not None and end.affine is not None:
            graph.layers[last.name] = replace(last, output=end.affine)
    return FloatNet(
        name=file_name(file),
        input_shape=entry.sample,
        layers=simplified(graph.layers, end.source),
        encoder=Direct(offset=graph.offset),
        notes=tuple(graph.notes),
        input=graph.input,
        left_out=left_out and replace(left_out, sources=()),
        dynamic=any(node.op.startswith("Dynamic") for node in graph.makers.values()),
    )


# ------------------------------------------------------------------ the peer


def onnx_scores(path: Path, x: F32) -> F32:
    """Scores (N, classes) by ONNX Runtime, the model's own engine, as real numbers. Raises ModelError where it refuses.

    Inputs and outputs that the file keeps as integers are quantised and dequantised on the way. QDQ files run as they
    are written, in floats: fused, some pools differ, and bytes saturate on some processors.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        data, name, shape = with_answer(path)
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        entry = session.get_inputs()[0]
        batch = as_read(path, entry.type, x)
        fixed = isinstance(entry.shape[0], int)
        rows = [row.reshape(shape) for row in batch] if fixed else [batch.reshape(-1, *shape[1:])]
        scores = np.concatenate([session.run([name], {entry.name: row})[0] for row in rows])
    except (*RUNTIME, ValueError) as err:
        raise ModelError(f"{path.name}: ONNX Runtime cannot run it ({first_line(err)})") from None
    return as_real(path, scores.reshape(len(x), -1))


def with_answer(path: Path) -> tuple[bytes, str, Shape]:
    """The file with the tensor that the import answers with among its outputs, its name, and the shape of one input."""
    model = parse(path)
    graph, _, entry = start(path.name, model)
    if graph.answer not in [value.name for value in model.graph.output]:
        model.graph.output.add(name=graph.answer)
    return bytes(model.SerializeToString()), graph.answer, entry.shape


def as_read(path: Path, kind: str, x: F32) -> AnyArray:
    """Real inputs in the type that the file reads."""
    if kind not in ("tensor(int8)", "tensor(uint8)"):
        return x.astype(np.float64 if kind == "tensor(double)" else np.float16 if "float16" in kind else np.float32)
    net = load_onnx(path)
    scale = net.input or Affine(1.0, 0)
    base = UINT8_BASE if kind == "tensor(uint8)" else 0
    q = np.clip(np.rint(x / scale.scale) + scale.zero_point, -128, 127) + base
    return np.asarray(q.astype(np.uint8 if base else np.int8))


def as_real(path: Path, scores: AnyArray) -> F32:
    """Outputs as real numbers."""
    if scores.dtype.kind == "f":
        return np.asarray(scores, dtype=np.float32)
    end = load_onnx(path).layers[-1].output or Affine(1.0, 0)
    base = UINT8_BASE if scores.dtype == np.uint8 else 0
    return np.asarray((scores.astype(np.float64) - base - end.zero_point) * end.scale, dtype=np.float32)
