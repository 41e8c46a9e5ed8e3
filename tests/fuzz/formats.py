"""Changes that keep a file's form, so that they reach what lies behind its reader: ONNX, LiteRT, NIR, npz, bundles."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import flatbuffers
import msgspec
import nir
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from fuzz.mutate import REALS, TEXTS, hostile, hostile_array, hostile_list, mutate_tree, mutated_bytes, times

from edgerun.arrays import AnyArray
from edgerun.bundle import _assemble, kind_of, read_bundle  # the container's writer, digests included
from edgerun.errors import EdgeRunError
from edgerun.graph import check_graph, score_width, wanted_tensors
from edgerun.packing import pack_array
from edgerun.spec import Manifest, TensorSpec, decode_manifest, encode_manifest
from edgerun.store.checkpoints import pack_state, unpack_state
from edgerun.store.journal import read_epoch
from exporters.onnx.operators import OPERATORS

REFIT_MAX: Final = 1 << 22  # bytes of tensors that are made anew for a changed manifest


UNWRITABLE: Final = (TypeError, ValueError, struct.error, AttributeError, OverflowError, IndexError, KeyError)
"""What the writers of formats raise over values that no file can hold."""


def change(rng: random.Random, table: Sequence[Callable[..., None]], *trees: Any) -> None:
    """One of the changes of a table, or none where earlier ones have left nothing that it could change."""
    with contextlib.suppress(*UNWRITABLE):
        rng.choice(table)(rng, *trees)


# ------------------------------------------------------------------ bundles


def parts(data: bytes) -> tuple[dict[str, Any], list[tuple[int, bytes]]]:
    """The manifest as a tree, and every section's (kind, bytes) behind it."""
    bundle = read_bundle(data)
    bodies = [(int(s.kind), data[s.offset : s.offset + s.length]) for s in bundle.sections]
    return json.loads(bodies[0][1]), bodies[1:]


def sealed(manifest: bytes, bodies: Sequence[tuple[int, bytes]]) -> bytes:
    """A container around any content: CRC and digests are right."""
    arrays = sum(kind not in (1, 6) for kind, _ in bodies)
    head, body = _assemble([(1, manifest), *bodies], arrays=arrays)  # type: ignore[list-item]  # numbers
    return head + body + bytes(2)


def mutated_bundle(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """The manifest or sections changed, then sealed again."""
    tree, bodies = parts(data)
    draw = rng.random()
    if draw < 0.7:
        for _ in range(times(rng)):
            mutate_tree(rng, tree, parts(other)[0])
    if draw < 0.55:
        fitting = refitted(rng, tree)
        if fitting is not None:
            return fitting
    if draw > 0.6 and bodies:
        for _ in range(times(rng)):
            k = rng.randrange(len(bodies))
            bodies[k] = (bodies[k][0], mutated_bytes(rng, bodies[k][1], other) or b"\0")
    if rng.random() < 0.05:
        bodies = hostile_list(rng, bodies)
    return sealed(json.dumps(tree).encode(), bodies)


def refitted(rng: random.Random, tree: Any) -> bytes | None:
    """A bundle whose tensors fit a changed manifest: values anywhere in their ranges. None where it is refused."""
    try:
        manifest = decode_manifest(json.dumps(tree).encode())
        check_graph(manifest)
        arrays = fitting_arrays(rng, manifest)
    except EdgeRunError:
        return None
    if arrays is None:
        return None
    records = tuple(TensorSpec(name=n, dtype=a.dtype.name, shape=a.shape) for n, a in arrays.items())  # type: ignore[arg-type]  # literals
    manifest = msgspec.structs.replace(manifest, tensors=records)
    bodies = [(int(kind_of(name)), pack_array(name, array, "plain")) for name, array in arrays.items()]
    return sealed(encode_manifest(manifest), sorted(bodies, key=lambda body: body[0]))


def fitting_arrays(rng: random.Random, manifest: Manifest) -> dict[str, AnyArray] | None:
    made: dict[str, AnyArray] = {}
    wanted = wanted_tensors(manifest)
    if sum(int(np.prod(w.spec.shape, dtype=np.float64)) * 8 for w in wanted) + 16 * manifest.input.size > REFIT_MAX:
        return None
    draw = np.random.default_rng(rng.randrange(1 << 32))
    for want in wanted:
        made[want.spec.name] = fitting_values(rng, draw, want.spec.name, want.spec, want.low, want.high)
    ends = np.iinfo(manifest.input.dtype)
    shape = (8, *manifest.input.shape)
    made["selftest.x"] = draw.integers(ends.min, ends.max, shape, endpoint=True).astype(manifest.input.dtype)
    made["selftest.y"] = np.zeros((8, score_width(manifest)), np.int32)
    if manifest.learning.rule is not None or manifest.head.kind == "prototypes":
        made["probe.x"] = made["selftest.x"].copy()
        made["probe.label"] = np.zeros(8, np.int32)
    return made


def fitting_values(
    rng: random.Random, draw: np.random.Generator, name: str, spec: TensorSpec, low: int, high: int
) -> AnyArray:
    """Values in [low, high]: at the ends, small, or anything; multipliers and shifts mostly such as are allowed."""
    part = name.rpartition(".")[2]
    if "multiplier" in part and rng.random() < 0.9:
        low, high = max(low, 1 << 23), min(high, (1 << 24) - 1)
    elif "shift" in part and rng.random() < 0.8:
        low, high = max(low, 24), min(high, 40)
    elif rng.random() < 0.5:
        low, high = max(low, -100), min(high, 100)
    if low > high:
        low = high
    if rng.random() < 0.15:
        return np.full(spec.shape, rng.choice((low, high)), spec.dtype)
    return draw.integers(low, high, spec.shape, endpoint=True, dtype=np.int64).astype(spec.dtype)


def mutated_manifest(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """The JSON of a manifest, changed as a tree, now and then as text."""
    if rng.random() < 0.15:
        return mutated_bytes(rng, data, other)
    if rng.random() < 0.01:
        opener = rng.choice((b"[", b'{"a":', b'{"layers":['))
        return opener * rng.choice((500, 50_000))
    tree = json.loads(data)
    for _ in range(times(rng)):
        mutate_tree(rng, tree, json.loads(other))
    return json.dumps(tree).encode(errors="surrogatepass")


# ------------------------------------------------------------------ packed arrays

PACKINGS: Final = ("plain", "int4", "int2", "sparse")


def packed_case(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """One line of JSON, a manifest's record of an array, then bytes that may or may not be such an array."""
    packing = rng.choice(PACKINGS)
    n = rng.choice((0, 1, 2, 3, 4, 7, 8, 9, 63, 64, 65, 500, 4000))
    values = np.random.default_rng(rng.randrange(1 << 32)).integers(-1, 2, n).astype(np.int8)
    values[:: rng.choice((1, 2, 20))] = 0
    body = pack_array("t", values, packing)  # type: ignore[arg-type]  # a literal
    body = mutated_bytes(rng, body, other) if body and rng.random() < 0.8 else body
    shape: list[Any] = [n] if rng.random() < 0.8 else [hostile(rng, n), rng.choice((1, 2, 1 << 20))]
    dtype = "int8" if rng.random() < 0.8 else rng.choice(("uint8", "int16", "int64"))
    return json.dumps({"name": "t", "packing": packing, "dtype": dtype, "shape": shape}).encode() + b"\n" + body


# ------------------------------------------------------------------ ONNX

ALL_OPERATORS: Final = tuple((domain, op) for domain, table in OPERATORS.items() for op in table)


def mutated_onnx(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A model changed as a message, now and then as bytes."""
    if rng.random() < 0.15:
        return mutated_bytes(rng, data, other)
    model, donor = onnx.load_from_string(data), onnx.load_from_string(other)
    for _ in range(times(rng)):
        change(rng, ONNX, model, donor)
    made: bytes = model.SerializeToString()
    return made


def tensor_names(model: Any) -> list[str]:
    graph = model.graph
    found = [name for node in graph.node for name in (*node.input, *node.output)]
    return [*found, *(t.name for t in graph.initializer), *(v.name for v in graph.input), "", "nobody"]


def node_of(rng: random.Random, model: Any) -> Any:
    return rng.choice(model.graph.node) if model.graph.node else model.graph.node.add()


def onnx_operator(rng: random.Random, model: Any, donor: Any) -> None:
    node_of(rng, model).domain, node_of(rng, model).op_type = "", "Relu"
    node = node_of(rng, model)
    node.domain, node.op_type = rng.choice((*ALL_OPERATORS, ("", "If"), ("x", "Own"), ("", "Loop")))


def onnx_rewire(rng: random.Random, model: Any, donor: Any) -> None:
    """An end of a node on another tensor: cycles, tensors of other shapes, tensors that nobody makes."""
    node = node_of(rng, model)
    side = node.input if rng.random() < 0.8 else node.output
    if side:
        side[rng.randrange(len(side))] = rng.choice(tensor_names(model))


def onnx_end(rng: random.Random, model: Any, donor: Any) -> None:
    """One input or output more or fewer."""
    node = node_of(rng, model)
    side = node.input if rng.random() < 0.8 else node.output
    if side and rng.random() < 0.6:
        del side[rng.randrange(len(side))]
    else:
        side.append(rng.choice(tensor_names(model)))


def onnx_node(rng: random.Random, model: Any, donor: Any) -> None:
    """A node gone, twice there, elsewhere, or another model's."""
    nodes = model.graph.node
    draw = rng.random()
    if draw < 0.25 and nodes:
        del nodes[rng.randrange(len(nodes))]
    elif draw < 0.5 and nodes:
        nodes.add().CopyFrom(rng.choice(nodes))
    elif draw < 0.7 and len(nodes) > 1:
        order = list(nodes)
        rng.shuffle(order)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order]
        del nodes[:]
        nodes.extend(copies)
    else:
        made = nodes.add()
        made.CopyFrom(node_of(rng, donor))
        for side in (made.input, made.output):
            for k in range(len(side)):
                side[k] = rng.choice(tensor_names(model))


def onnx_attribute(rng: random.Random, model: Any, donor: Any) -> None:
    node = node_of(rng, model)
    if not node.attribute or rng.random() < 0.15:
        lent = [a for other in donor.graph.node for a in other.attribute]
        if lent:
            node.attribute.add().CopyFrom(rng.choice(lent))
        return
    k = rng.randrange(len(node.attribute))
    item = node.attribute[k]
    draw = rng.random()
    if draw < 0.1:
        del node.attribute[k]
    elif draw < 0.15:
        item.type = rng.randrange(15)
    elif draw < 0.2:
        item.name = rng.choice(TEXTS)
    elif item.ints:
        set_repeated(item.ints, hostile(rng, list(item.ints)), int)
    elif item.floats:
        set_repeated(item.floats, hostile(rng, list(item.floats)), float)
    elif item.HasField("t"):
        change_tensor(rng, item.t)
    elif item.type == onnx.AttributeProto.INT:
        item.i = wrap(hostile(rng, item.i))
    elif item.type == onnx.AttributeProto.FLOAT:
        item.f = float(rng.choice(REALS))
    elif item.type == onnx.AttributeProto.STRING:
        item.s = mutated_bytes(rng, item.s, b"NOTSET") if item.s else b"x"


def set_repeated(field: Any, values: Any, kind: Callable[[Any], Any]) -> None:
    listed = values if isinstance(values, list) else []
    kept = [wrap(value) if kind is int else float(value) for value in listed if isinstance(value, int | float)]
    del field[:]
    field.extend(kept if kind is float else [int(value) for value in kept])


def wrap(value: Any) -> int:
    """Any number as an int64."""
    number = int(value) if isinstance(value, int) else 0
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def onnx_constant(rng: random.Random, model: Any, donor: Any) -> None:
    tensors = model.graph.initializer
    if not tensors or rng.random() < 0.1:
        if donor.graph.initializer:
            tensors.add().CopyFrom(rng.choice(donor.graph.initializer))
        return
    k = rng.randrange(len(tensors))
    if rng.random() < 0.08:
        del tensors[k]
    else:
        change_tensor(rng, tensors[k])


def change_tensor(rng: random.Random, tensor: Any) -> None:
    """Dims, type, bytes and name on their own, or the whole array, consistently."""
    draw = rng.random()
    if draw < 0.15:
        set_repeated(tensor.dims, hostile(rng, list(tensor.dims)), int)
    elif draw < 0.22:
        tensor.data_type = rng.choice((*range(24), 99))
    elif draw < 0.3:
        tensor.raw_data = mutated_bytes(rng, tensor.raw_data, tensor.raw_data) if tensor.raw_data else b"\x01"
    elif draw < 0.34:
        tensor.name = rng.choice(TEXTS)
    else:
        try:
            array = onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError, onnx.checker.ValidationError):
            return
        if array.dtype.kind in "fiub" and array.size < 1 << 20:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(hostile_array(rng, array)), tensor.name))


def onnx_entry(rng: random.Random, model: Any, donor: Any) -> None:
    """The shape or type of the input or the output."""
    entries = [*model.graph.input, *model.graph.output]
    if not entries:
        return
    entry = rng.choice(entries).type.tensor_type
    draw = rng.random()
    if draw < 0.2:
        entry.elem_type = rng.choice((1, 2, 3, 6, 7, 9, 10, 11, 16, 99))
    elif draw < 0.4 and entry.shape.dim:
        del entry.shape.dim[rng.randrange(len(entry.shape.dim))]
    elif draw < 0.5:
        entry.shape.dim.add().dim_value = rng.choice((0, 1, 2, 7))
    elif entry.shape.dim:
        dim = rng.choice(entry.shape.dim)
        dim.dim_value = wrap(hostile(rng, int(dim.dim_value)))


def onnx_version(rng: random.Random, model: Any, donor: Any) -> None:
    if model.opset_import:
        rng.choice(model.opset_import).version = rng.choice((0, 1, 6, 7, 9, 10, 11, 12, 13, 17, 18, 21, 23, 99, -1))
    if rng.random() < 0.2:
        model.ir_version = rng.choice((0, 3, 7, 10, 99))


def onnx_name(rng: random.Random, model: Any, donor: Any) -> None:
    """A tensor or node called something odd, everywhere."""
    new = rng.choice(TEXTS)
    if rng.random() < 0.5:
        node_of(rng, model).name = new
        return
    old = rng.choice(tensor_names(model))
    for node in model.graph.node:
        for side in (node.input, node.output):
            for k in range(len(side)):
                side[k] = new if side[k] == old else side[k]
    for item in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        item.name = new if item.name == old else item.name


ONNX: Final = (
    onnx_operator, onnx_rewire, onnx_rewire, onnx_end, onnx_node, onnx_attribute, onnx_attribute, onnx_attribute,
    onnx_constant, onnx_constant, onnx_constant, onnx_entry, onnx_version, onnx_name,
)  # fmt: skip


# ------------------------------------------------------------------ LiteRT

ATTEMPTS: Final = 6
"""How often a change is drawn anew where no file can hold it."""


def mutated_tflite(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A model changed as objects and written anew, or as bytes: also where no file can hold what it became."""
    for _ in range(ATTEMPTS if rng.random() < 0.8 else 0):
        model, donor = (schema.ModelT.InitFromPackedBuf(blob, 0) for blob in (data, other))
        for _ in range(times(rng)):
            change(rng, TFLITE, model, donor)
        builder = flatbuffers.Builder(1024)
        try:
            builder.Finish(model.Pack(builder), b"TFL3")
        except (*UNWRITABLE, flatbuffers.builder.BuilderSizeError):
            continue
        return bytes(builder.Output())
    return mutated_bytes(rng, data, other)


def tflite_tree(rng: random.Random, model: Any, donor: Any) -> None:
    """Anything of the model, mostly of its first subgraph."""
    whole = rng.random() < 0.1
    mutate_tree(rng, model if whole else first_graph(model), donor if whole else first_graph(donor))


def first_graph(model: Any) -> Any:
    return model.subgraphs[0] if isinstance(model.subgraphs, list) and model.subgraphs else model


def tflite_operator(rng: random.Random, model: Any, donor: Any) -> None:
    """Another operator behind a code: the same options and tensors, other rules."""
    listed = model.operatorCodes if isinstance(model.operatorCodes, list) else []
    codes = [code for code in listed if isinstance(code, schema.OperatorCodeT)]
    code = rng.choice(codes or [schema.OperatorCodeT()])
    code.builtinCode = code.deprecatedBuiltinCode = rng.choice((*range(127),))


def tflite_options(rng: random.Random, model: Any, donor: Any) -> None:
    """The options of an operator."""
    graph = first_graph(model)
    nodes = graph.operators if isinstance(graph, schema.SubGraphT) and isinstance(graph.operators, list) else []
    options = [node.builtinOptions for node in nodes if getattr(node, "builtinOptions", None) is not None]
    if options:
        mutate_tree(rng, rng.choice(options), {})


def tflite_constant(rng: random.Random, model: Any, donor: Any) -> None:
    """Values of a constant, as many as before; or of a quantisation."""
    graph = first_graph(model)
    tensors = graph.tensors if isinstance(graph, schema.SubGraphT) and isinstance(graph.tensors, list) else []
    tensors = [tensor for tensor in tensors if isinstance(tensor, schema.TensorT)]
    if not tensors:
        return
    tensor = rng.choice(tensors)
    if rng.random() < 0.3 and isinstance(tensor.quantization, schema.QuantizationParametersT):
        mutate_tree(rng, tensor.quantization, {})
        return
    buffers = model.buffers if isinstance(model.buffers, list) else []
    dtype = {0: "<f4", 2: "<i4", 4: "<i8", 9: "i1", 3: "u1"}.get(tensor.type)
    if dtype is None or not isinstance(tensor.buffer, int) or not 0 < tensor.buffer < len(buffers):
        return
    data = getattr(buffers[tensor.buffer], "data", None)
    if isinstance(data, np.ndarray) and data.size and data.nbytes % np.dtype(dtype).itemsize == 0:
        changed = hostile_array(rng, np.array(data, np.uint8).view(dtype))
        if changed.dtype == np.dtype(dtype):
            buffers[tensor.buffer].data = np.frombuffer(changed.tobytes(), np.uint8)


TFLITE: Final = (tflite_tree, tflite_tree, tflite_operator, tflite_options, tflite_constant, tflite_constant)


# ------------------------------------------------------------------ NIR


def mutated_nir(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A graph changed in memory and written anew."""
    graph, donor = copy.deepcopy(nir_of(data)), nir_of(other)
    for _ in range(times(rng)):
        change(rng, NIR, graph, donor)
    made = io.BytesIO()
    try:
        nir.write(made, graph)
    except (*UNWRITABLE, RuntimeError, RecursionError):
        return mutated_bytes(rng, data, other)
    return made.getvalue()


@cache
def nir_of(data: bytes) -> Any:
    return nir.read(io.BytesIO(data), type_check=False)


def nir_field(rng: random.Random, graph: Any, donor: Any) -> None:
    """A parameter of a node: other values, another shape, another type."""
    node = rng.choice(list(graph.nodes.values()))
    fields = [key for key in vars(node) if key not in ("nodes", "edges", "metadata")]
    if isinstance(node, nir.NIRGraph):
        nir_field(rng, node, donor)
    elif fields:
        key = rng.choice(fields)
        value = getattr(node, key)
        if isinstance(value, dict):
            mutate_tree(rng, value, value)
        else:
            setattr(node, key, hostile_array(rng, value) if isinstance(value, np.ndarray) else hostile(rng, value))


KNOWN_FACTS: Final = ("reset", "reset_delay", "inhibition", "role", "reading", "encoder", "steps", "dt", "decay")
SAID: Final = ("subtract", "zero", "hold", "none", "readout", "last", "max", "mean", "frames", 0, 1, -1, 7, 1e9)


def nir_metadata(rng: random.Random, graph: Any, donor: Any) -> None:
    node = rng.choice([graph, *graph.nodes.values()])
    facts = dict(node.metadata)
    if facts and rng.random() < 0.7:
        key = rng.choice(list(facts))
        facts[key] = hostile(rng, facts[key])
    else:
        facts[rng.choice(("reset", "reset_delay", "inhibition", "role", "reading", "encoder", "steps", "dt"))] = (
            rng.choice(
                ("subtract", "zero", "hold", "none", "readout", "last", "max", "mean", "frames", 0, 1, -1, 7, 1e9)
            )
        )
    node.metadata = facts


def nir_edges(rng: random.Random, graph: Any, donor: Any) -> None:
    edges, names = list(graph.edges), [*graph.nodes, "nobody"]
    if edges and rng.random() < 0.5:
        k = rng.randrange(len(edges))
        a, b = edges[k]
        edges[k] = rng.choice(((b, a), (a, rng.choice(names)), (rng.choice(names), b), (a, a)))
    elif edges and rng.random() < 0.5:
        del edges[rng.randrange(len(edges))]
    else:
        edges.append((rng.choice(names), rng.choice(names)))
    graph.edges = edges


def nir_node(rng: random.Random, graph: Any, donor: Any) -> None:
    """A node gone, replaced by another's, renamed, or a copy more."""
    name = rng.choice(list(graph.nodes))
    draw = rng.random()
    if draw < 0.3:
        del graph.nodes[name]
    elif draw < 0.7:
        graph.nodes[name] = rng.choice([*graph.nodes.values(), *donor.nodes.values()])
    elif draw < 0.8:
        graph.nodes[rng.choice(("new", "a.b", "input", "head", "x" * 90))] = graph.nodes[name]
    else:
        graph.nodes = {(key + "\n" if key == name else key): node for key, node in graph.nodes.items()}


NIR: Final = (nir_field, nir_field, nir_field, nir_metadata, nir_edges, nir_node)


# ------------------------------------------------------------------ data files

DTYPES: Final = ("f2", "f4", "f8", "i1", "u1", "i2", "i8", "u8", "?", "c8", "U3", "S2", "M8[s]", "f4,i4", ">f4", "O")
KEYS: Final = ("x", "y", "samples", "offsets", "label", "class_names", "other")


def mutated_npz(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Arrays changed, removed, renamed, of odd types; or bytes changed."""
    if rng.random() < 0.3:
        return mutated_bytes(rng, data, other)
    with np.load(io.BytesIO(data)) as file:
        arrays: dict[str, Any] = dict(file)
    for _ in range(times(rng)):
        change(rng, NPZ, arrays)
    made = io.BytesIO()
    rng.choice((np.savez, np.savez_compressed))(made, **arrays)
    return made.getvalue()


def npz_values(rng: random.Random, arrays: dict[str, Any]) -> None:
    if arrays:
        key = rng.choice(list(arrays))
        arrays[key] = hostile_array(rng, arrays[key])


def npz_key(rng: random.Random, arrays: dict[str, Any]) -> None:
    if arrays:
        key = rng.choice(list(arrays))
        value = arrays[key] if rng.random() < 0.3 else arrays.pop(key)
        if rng.random() < 0.6:
            arrays[rng.choice(KEYS)] = value


def npz_odd(rng: random.Random, arrays: dict[str, Any]) -> None:
    shape = rng.choice(((), (0,), (1,), (4,), (4, 0), (0, 4), (3, 64), (2, 8, 8), (5, 1, 1, 1, 1)))
    arrays[rng.choice(KEYS)] = np.zeros(shape, rng.choice(DTYPES))


NPZ: Final = (npz_values, npz_values, npz_key, npz_odd)


# ------------------------------------------------------------------ learned state


def mutated_state(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Bytes of a checkpoint, a journal or a packed state; half of the time the checksums are made right again."""
    changed = mutated_bytes(rng, data, other)
    return resealed(changed) if rng.random() < 0.6 else changed


def mutated_journal(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """An epoch whose records and base say something else, under checksums that hold."""
    epoch = read_epoch(data, data[24:56].hex())
    if epoch is None or rng.random() < 0.2:
        return resealed(mutated_bytes(rng, data, other))
    lines = [msgspec.msgpack.decode(record) for record in epoch.records]
    for _ in range(times(rng)):
        mutate_tree(rng, lines, lines)
    base = epoch.base and changed_state(rng, epoch.base)
    head = bytearray(data[:136])
    struct.pack_into("<Q", head, 120, len(base))
    records = [msgspec.msgpack.encode(line) for line in lines]
    return resealed(bytes(head) + base + b"".join(struct.pack("<II", len(r), 0) + r for r in records))


def changed_state(rng: random.Random, base: bytes) -> bytes:
    """A packed state with other arrays or another dictionary, now and then."""
    arrays, meta = unpack_state(base)
    tree = {"arrays": dict(arrays), "meta": meta}
    if rng.random() < 0.3:
        mutate_tree(rng, tree, tree)
    try:
        return pack_state(tree["arrays"], tree["meta"])
    except (EdgeRunError, *UNWRITABLE):
        return base


def resealed(data: bytes) -> bytes:
    """Right checksums where this looks like a checkpoint or the first record of a journal."""
    made = bytearray(data)
    if made[:8] == b"EDGECKP1" and len(made) >= 64:
        struct.pack_into("<QI", made, 48, len(made) - 64, zlib.crc32(made[64:]))
        struct.pack_into("<I", made, 60, zlib.crc32(made[:60]))
    elif made[:8] == b"EDGEJNL1" and len(made) >= 136:
        length = min(struct.unpack_from("<Q", made, 120)[0], len(made) - 136)
        struct.pack_into("<QI", made, 120, length, zlib.crc32(made[136 : 136 + length]))
        struct.pack_into("<I", made, 132, zlib.crc32(made[:132]))
        reseal_records(made, 136 + length)
    return bytes(made)


def reseal_records(made: bytearray, at: int) -> None:
    crc = struct.unpack_from("<I", made, 132)[0]
    while at + 8 <= len(made):
        length = struct.unpack_from("<I", made, at)[0]
        if at + 8 + length > len(made):
            return
        crc = zlib.crc32(made[at + 8 : at + 8 + length], zlib.crc32(struct.pack("<I", length), crc))
        struct.pack_into("<I", made, at + 4, crc)
        at += 8 + length
