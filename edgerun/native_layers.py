"""Layers as the C kernels take them: of each kind the records that `edgerun.h` lists, with its numbers and arrays.

Nothing is copied: C reads the tensors themselves and writes state and outputs into the arrays of `NativeLayer`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np

from edgerun.arrays import I32, I64, U16, AnyArray, Tensors
from edgerun.kernels import recurrent, softmax
from edgerun.layers import (
    Add,
    AlphaCells,
    AveragePool,
    Cells,
    Concat,
    Conv,
    ConvSum,
    Dense,
    DenseSum,
    Depthwise,
    Gru,
    Integrators,
    Layer,
    LayerNorm,
    Lif,
    LogSoftmax,
    Lookup,
    Lstm,
    LstmQ12,
    MaxPool,
    Mul,
    Pad,
    Patterns,
    Readout,
    Rnn,
    Slice,
    SLstm,
    Softmax,
    SumPool,
    Take,
    Total,
    Transpose,
)
from edgerun.layers.recurrent import Recurrent
from edgerun.layers.spiking import Neurons, OnSums
from edgerun.layers.window import Sliding
from edgerun.ops.base import LayerRun

RESETS: Final = MappingProxyType({"subtract": 0, "zero": 1, "hold": 2, "none": 3, "soft": 4})
"""`enum er_reset`."""
TIES: Final = MappingProxyType({"up": 0, "even": 1, "away": 2})
"""`enum er_ties`."""
NARROW: Final = 1 << 15
"""Values under it travel as int16, others as int32."""
KNOT: Final = 1 << recurrent.KNOT_BITS

Fields: TypeAlias = dict[str, Any]
Record: TypeAlias = tuple[str, Fields]
"""The name of a row of `ER_LAYERS` and what its record holds."""


class NativeLayer(LayerRun):
    """A layer that C runs: its output and its state, which are never copied.

    out     (outputs,)  int16, or int32 where it reaches further
    arrays  the state by name, in the types of `spec.state()`
    place   of its last record among the network's
    """

    def __init__(self, spec: Layer, reach: int = 0, place: int = 0) -> None:
        self.spec, self._place = spec, place
        plain = ((each.name, each.shape, "uint8" if each.dtype == "bool" else each.dtype) for each in spec.state())
        self.arrays: Tensors = {name: np.zeros(shape, dtype) for name, shape, dtype in plain}
        self.out: Any = np.zeros(spec.outputs, np.int16 if reach < NARROW else np.int32)
        self.scratch: Tensors = {}
        self.net: Any = None

    def state(self) -> Tensors:
        return self.arrays

    def load_weights(self, part: str, rows: slice) -> None:
        """Nothing: C reads the tensors themselves."""

    def resume(self) -> None:
        if "fired" in self.arrays:
            np.copyto(self.out, self.arrays["fired"], casting="unsafe")

    def reading(self) -> I64:
        found = np.zeros(self.spec.outputs, np.int32)
        self.net.reading(self._place, found)
        return found.astype(np.int64)

    def room(self, name: str, count: int, dtype: type[np.generic]) -> AnyArray:
        """A working array that lives as long as the layer."""
        return self.scratch.setdefault(name, np.zeros(count, dtype))


@dataclass(frozen=True, slots=True)
class Packing:
    """What a packer works on: a layer's tensors, its arrays and the outputs that it reads."""

    spec: Any
    tensors: Mapping[str, AnyArray]
    run: NativeLayer
    sources: Sequence[AnyArray] = field(default_factory=tuple)

    def numbers(self, *names: str) -> Fields:
        return {name: int(getattr(self.spec, name)) for name in names}

    def parts(self, *names: str) -> Fields:
        """Tensors by part; None where the layer has none of that name."""
        given = {each.part for each in self.spec.fields()}
        return {name: self.spec.tensor(self.tensors, name) if name in given else None for name in names}

    def weights(self, part: str) -> Fields:
        """A weight matrix by its name, or as the high bytes of its shadow where a learner has given that out."""
        shadow = self.tensors.get(f"shadow.{self.spec.name}.{part}")
        return self.parts(part) | {f"{part}_shadow": None} if shadow is None else {part: None, f"{part}_shadow": shadow}

    def state(self, *names: str) -> Fields:
        """Arrays of the state; None where the layer does not keep them."""
        return {name: self.run.arrays.get(name) for name in names}

    def sums(self) -> Fields:
        """Where raw sums go, and the int16 copy of them where the layers behind read one."""
        if self.run.out.dtype == np.int32:
            return {"sums": self.run.out, "y": None}
        return {"sums": self.run.room("sums", self.spec.outputs, np.int32), "y": self.run.out}


def source(array: AnyArray, narrow: str = "x", wide: str = "wide") -> Fields:
    """A source under the name of its width, None under the other's."""
    is_narrow = array.dtype == np.int16
    return {narrow: array if is_narrow else None, wide: None if is_narrow else array}


def ints(values: Sequence[int]) -> I32:
    """Shapes and steps: C looks once whether they keep it inside its arrays, so nobody may write them afterwards."""
    found: I32 = np.array(values, np.int32)
    found.flags.writeable = False
    return found


# ------------------------------------------------------------------ weighted sums


def dense(p: Packing) -> list[Record]:
    numbers = p.numbers("inputs", "outputs", "zero_point", "qmin", "qmax")
    tensors = p.parts("weight", "bias", "multiplier", "shift", "weight_zero")
    return [("dense", numbers | tensors | {"x": p.sources[0], "y": p.run.out, "packed": None})]


def window(spec: Sliding) -> Fields:
    """The fields of ER_WINDOW."""
    (height, width, channels), (top, left, _, _) = spec.input_shape, spec.padding
    pairs = {"kernel": spec.kernel, "stride": spec.stride, "dilation": spec.dilation, "out": spec.outputs_size}
    found = {f"{name}_{axis}": size for name, pair in pairs.items() for axis, size in zip("hw", pair, strict=True)}
    return found | {"height": height, "width": width, "channels": channels, "top": top, "left": left}


def filters(p: Packing) -> Fields:
    numbers = p.numbers("outputs", "filters", "zero_point", "qmin", "qmax") | {"fill": p.spec.input_zero_point}
    tensors = p.parts("weight", "bias", "multiplier", "shift", "weight_zero")
    sums = p.run.room("sums", p.spec.filters, np.int32)
    arrays = {"x": p.sources[0], "y": p.run.out, "sums": sums, "packed": None}
    return numbers | window(p.spec) | tensors | arrays


def conv(p: Packing) -> list[Record]:
    taps = math.prod(p.spec.kernel) * p.spec.input_shape[2]
    return [("conv", filters(p) | {"window": p.run.room("window", taps, np.int16)})]


def depthwise(p: Packing) -> list[Record]:
    taps = math.prod(p.spec.kernel) * p.spec.filters
    return [("depthwise", filters(p) | {"taps": p.run.room("taps", taps, np.int16)})]


def conv_sum(p: Packing) -> list[Record]:
    """Weights turned, so that an event meets those of neighbouring outputs in one run."""
    numbers = p.numbers("outputs", "filters", "zero_point") | window(p.spec)
    weight = np.ascontiguousarray(p.parts("weight")["weight"][:, :, ::-1].transpose(1, 3, 2, 0))
    return [("conv_sum", numbers | {"weight": weight} | source(p.sources[0]) | p.sums())]


def dense_sum(p: Packing) -> list[Record]:
    numbers = p.numbers("inputs", "outputs", "zero_point") | p.parts("weight")
    return [("dense_sum", numbers | source(p.sources[0]) | p.sums())]


# ------------------------------------------------------------------ pools


def max_pool(p: Packing) -> list[Record]:
    return [("max_pool", p.numbers("outputs", "qmin", "qmax") | window(p.spec) | {"x": p.sources[0], "y": p.run.out})]


def average_pool(p: Packing) -> list[Record]:
    spec: AveragePool = p.spec
    sizes = spec.sizes.astype(np.int32)
    numbers = p.numbers("outputs", "zero_point", "qmin", "qmax") | {"sizes": len(sizes), "ties": TIES[spec.ties]}
    arrays = {"size": sizes, "x": p.sources[0], "y": p.run.out}
    arrays["sums"] = p.run.room("sums", spec.input_shape[2], np.int32)
    return [("average_pool", numbers | window(spec) | p.parts("multiplier", "offset", "shift") | arrays)]


def sum_pool(p: Packing) -> list[Record]:
    return [("sum_pool", p.numbers("outputs") | window(p.spec) | source(p.sources[0]) | p.sums())]


# ------------------------------------------------------------------ value by value


def merged(shape: Sequence[int], *steps: Sequence[int]) -> Fields:
    """Axes that all views walk through in one go become one: the fewest axes, so the longest rows.

    shape and steps by axis  ->  "shape" and, as "0", "1", ..., each view's steps
    """
    kept: list[tuple[int, ...]] = []
    for size, *each in zip(shape, *steps, strict=True):
        if kept and all(outer == size * inner for outer, inner in zip(kept[-1][1:], each, strict=True)):
            kept[-1] = (kept[-1][0] * size, *each)
        elif size > 1 or not kept:
            kept.append((size, *each))
    columns = list(zip(*kept, strict=True))
    return {"rank": len(kept), "shape": ints(columns[0])} | {str(k): ints(c) for k, c in enumerate(columns[1:])}


def strides(shape: Sequence[int]) -> list[int]:
    """Of each axis of an array in C order, in elements."""
    return [math.prod(shape[k + 1 :]) for k in range(len(shape))]


def pair(p: Packing) -> Fields:
    """The fields of ER_PAIR: a source of size 1 along an axis stays where it is."""
    steps = [
        [step if size > 1 else 0 for size, step in zip(shape, strides(shape), strict=True)] for shape in p.spec.shapes
    ]
    found = merged(p.spec.shape, *steps)
    sizes = {f"size_{name}": width for name, width in zip("ab", p.spec.widths, strict=True)}
    views = {"shape": found["shape"], "stride_a": found["0"], "stride_b": found["1"], "rank": found["rank"]}
    return p.numbers("outputs", "shift", "zero_point", "qmin", "qmax") | sizes | views | {
        "a": p.sources[0], "b": p.sources[1], "y": p.run.out,
    }  # fmt: skip


def add(p: Packing) -> list[Record]:
    a, b = p.spec.multipliers
    offset = np.array([p.spec.offset], np.int64)
    return [("add", pair(p) | {"multiplier_a": a, "multiplier_b": b, "offset": offset})]


def mul(p: Packing) -> list[Record]:
    a, b = p.spec.zeros
    return [("mul", pair(p) | p.numbers("multiplier") | {"zero_a": a, "zero_b": b})]


def lookup(p: Packing) -> list[Record]:
    return [("lookup", p.numbers("outputs") | p.parts("table") | {"x": p.sources[0], "y": p.run.out})]


def total(p: Packing) -> list[Record]:
    """A chain of sums of two."""
    sums, chain = p.sums(), []
    first = source(p.sources[0])
    for k, other in enumerate(p.sources[1:], 2):
        so_far = sums if k == len(p.sources) else sums | {"y": None}
        chain.append(("total", p.numbers("outputs") | first | source(other, "other", "wide_other") | so_far))
        first = {"x": None, "wide": sums["sums"]}
    return chain


# ------------------------------------------------------------------ moving


def moved(p: Packing, k: int, shape: Sequence[int], from_: Views, to: Views, fill: int | None = None) -> Record:
    """One copy between two views, (offset, steps by axis) each."""
    found = merged(shape, from_[1], to[1])
    numbers = {
        "inputs": p.spec.widths[k], "outputs": p.spec.outputs, "from": from_[0], "to": to[0],
        "fills": int(fill is not None), "value": fill or 0, "rank": found["rank"],
    }  # fmt: skip
    arrays = {"shape": found["shape"], "step_from": found["0"], "step_to": found["1"]}
    return "move", numbers | arrays | source(p.sources[k]) | source(p.run.out, "y", "sums")


Views: TypeAlias = tuple[int, Sequence[int]]


def concat(p: Packing) -> list[Record]:
    spec: Concat = p.spec
    steps, records, first = strides(spec.shape), [], 0
    for k, shape in enumerate(spec.shapes):
        records.append(moved(p, k, shape, (0, strides(shape)), (first * steps[spec.axis], steps)))
        first += shape[spec.axis]
    return records


def transpose(p: Packing) -> list[Record]:
    steps = strides(p.spec.input_shape)
    return [moved(p, 0, p.spec.shape, (0, [steps[axis] for axis in p.spec.perm]), (0, strides(p.spec.shape)))]


def pad(p: Packing) -> list[Record]:
    steps, shape = strides(p.spec.shape), p.spec.input_shape
    first = sum(before * step for before, step in zip(p.spec.before, steps, strict=True))
    return [moved(p, 0, shape, (0, strides(shape)), (first, steps), p.spec.value)]


def cut(p: Packing) -> list[Record]:
    places = list(zip(p.spec.positions, strides(p.spec.input_shape), strict=True))
    first = sum(kept[0] * step for kept, step in places)
    return [moved(p, 0, p.spec.shape, (first, [kept.step * step for kept, step in places]), (0, strides(p.spec.shape)))]


def take(p: Packing) -> list[Record]:
    spec: Take = p.spec
    axis = spec.axis
    numbers = {
        "inputs": spec.widths[0], "outputs": spec.outputs, "outer": math.prod(spec.input_shape[:axis]),
        "size": spec.input_shape[axis], "count": spec.count, "inner": math.prod(spec.input_shape[axis + 1 :]),
    }  # fmt: skip
    return [("take", numbers | p.parts("index") | source(p.sources[0]) | source(p.run.out, "y", "sums"))]


# ------------------------------------------------------------------ by rows


def by_rows(p: Packing, *names: str) -> Fields:
    return p.numbers("outputs", *names) | {"row": p.spec.shape[-1], "x": p.sources[0], "y": p.run.out}


def probabilities(p: Packing) -> list[Record]:
    return [("softmax", by_rows(p, "multiplier", "shift", "zero_point") | p.parts("exponentials"))]


def log_softmax(p: Packing) -> list[Record]:
    md, ml = p.spec.multipliers
    tables = p.parts("exponentials") | {"logarithms": softmax.LOGARITHMS.astype(np.int16)}
    return [
        ("log_softmax", by_rows(p, "shift", "zero_point") | tables | {"multiplier_d": md, "multiplier_l": ml}),
    ]


def layer_norm(p: Packing) -> list[Record]:
    arrays = p.parts("multiplier", "offset") | {"epsilon": np.array([p.spec.epsilon], np.int64)}
    return [("layer_norm", by_rows(p, "shift", "zero_point", "qmin", "qmax") | arrays)]


# ------------------------------------------------------------------ spiking


def lif(p: Packing) -> list[Record]:
    spec: Lif = p.spec
    names = ("inputs", "outputs", "weight_exponent", "recurrent_shift", "threshold", "refractory_steps", "reset_delay")
    fields = p.numbers(*names) | {"reset": RESETS[spec.reset]}
    fields |= p.parts("bias", "decay", "rho", "beta") | p.weights("input") | p.weights("recurrent")
    fields |= p.state("v", "carry", "fired", "counts", "adaptation", "adaptation_carry", "resting")
    sums = p.run.room("sums", spec.outputs, np.int32)
    return [("lif", fields | source(p.sources[0]) | {"y": p.run.out, "sums": sums})]


def readout(p: Packing) -> list[Record]:
    fields = p.numbers("inputs", "outputs", "weight_exponent") | p.parts("bias", "kappa") | p.weights("input")
    sums = p.run.room("sums", p.spec.outputs, np.int32)
    return [("readout", fields | p.run.arrays | source(p.sources[0]) | {"sums": sums})]


def on_sums(p: Packing, *parts: str) -> Fields:
    spec: OnSums = p.spec
    numbers = p.numbers("outputs") | {"parameters": spec.parameters[0], "shift": spec.fraction - spec.weight_exponent}
    return numbers | p.parts(*parts) | p.state("peak", "sum", "seen") | source(p.sources[0])


def neurons(p: Packing, *parts: str) -> Fields:
    spec: Neurons = p.spec
    how = {"reset": RESETS[spec.reset], "inhibition": int(spec.inhibition)}
    how["reads_counts"] = int(spec.reading == "counts")
    return on_sums(p, *parts) | how | p.state("v", "fired", "counts") | {"y": p.run.out}


def cells(p: Packing) -> list[Record]:
    spec: Cells = p.spec
    fields = neurons(p, "bias", "decay", "threshold", "alpha") | p.state("carry", "current", "current_carry")
    back = p.parts("recurrent")["recurrent"]
    fields |= {"own": None, "recurrent": None, "sums": None, "reset_delay": int(spec.reset_delay)}
    fields["back_shift"] = spec.fraction - spec.recurrent_exponent
    if spec.recurrence == "diagonal":
        fields["own"] = back
    if spec.recurrence == "dense":
        fields |= {"recurrent": back, "sums": p.run.room("sums", spec.outputs, np.int32)}
    return [("cells", fields)]


def alpha_cells(p: Packing) -> list[Record]:
    currents = p.state("excitatory", "excitatory_carry", "inhibitory", "inhibitory_carry")
    return [("alpha_cells", neurons(p, "bias", "alpha", "beta", "tau", "threshold") | currents)]


def integrators(p: Packing) -> list[Record]:
    state = p.state("v", "carry", "current", "current_carry")
    return [("integrators", on_sums(p, "bias", "decay", "alpha") | state)]


def patterns(p: Packing) -> list[Record]:
    numbers = p.numbers("inputs", "outputs", "steps", "rise", "fall")
    return [("patterns", numbers | p.parts("target") | p.run.arrays | {"x": p.sources[0]} | p.sums())]


# ------------------------------------------------------------------ recurrent


def knots(table: I64) -> U16:
    """(1025,)  a gate's function at k / 64 from 0 on; the table ends one short of the last."""
    last = recurrent.ONE - table[0] if table[recurrent.ONE] else -table[0]
    return np.append(table[recurrent.ONE :: KNOT], last).astype(np.uint16)


def walk(p: Packing, spec: Recurrent, kept: Mapping[str, type[np.generic]]) -> Fields:
    """The fields of ER_RECURRENT and the state by name; a layer that starts anew in every call has it as scratch."""
    n = spec.hidden
    gates = spec.gates * n
    fields = p.parts(
        "weight", "bias", "multiplier", "shift", "recurrent", "recurrent_bias", "recurrent_multiplier",
        "recurrent_shift",
    )  # fmt: skip
    fields |= {"outputs": p.run.out.size, "inputs": spec.inputs, "units": n, "steps": spec.steps}
    fields |= {"sequence": int(spec.sequence), "reverse": int(spec.reverse), "x": p.sources[0], "y": p.run.out}
    fields |= {name: p.run.room(name, gates, np.int32) for name in ("gates", "back")}
    fields |= {"view": p.run.room("view", n, np.int16), "packed": None}
    for name, dtype in kept.items():
        fields[name] = p.run.arrays[name] if name in p.run.arrays else p.run.room(name, n, dtype)
    return fields


def mapped(spec: Any) -> Fields:
    map_ = spec.hidden_map
    found = {"map_multiplier": map_.multiplier, "map_shift": map_.shift, "map_zero": map_.zero_point}
    return found | ({"map_min": map_.qmin, "map_max": map_.qmax} if hasattr(map_, "qmin") else {})


def rnn(p: Packing) -> list[Record]:
    tanh = knots(recurrent.tanh_table()) if p.spec.function == "tanh" else None
    return [("rnn", walk(p, p.spec, {"hidden": np.int8}) | mapped(p.spec) | {"tanh": tanh})]


def functions() -> Fields:
    return {"sigmoid": knots(recurrent.sigmoid_table()), "tanh": knots(recurrent.tanh_table())}


def gru(p: Packing) -> list[Record]:
    kept: dict[str, type[np.generic]] = {"hidden": np.int16, "carry": np.uint16}
    return [("gru", walk(p, p.spec, kept) | mapped(p.spec) | functions() | p.numbers("reset_after"))]


def cell_of(p: Packing, spec: Lstm) -> Fields:
    kept: dict[str, type[np.generic]] = {"hidden": np.int8, "cell": np.int16, "carry": np.uint16}
    numbers = {"cell_exponent": spec.cell_exponent, "cell_limit": spec.cell_limit}
    return walk(p, spec, kept) | mapped(spec) | functions() | numbers


def lstm(p: Packing) -> list[Record]:
    return [("lstm", cell_of(p, p.spec))]


def lstm_q12(p: Packing) -> list[Record]:
    kept: dict[str, type[np.generic]] = {"hidden": np.int8, "cell": np.int16}
    return [("lstm_q12", walk(p, p.spec, kept) | mapped(p.spec) | p.numbers("cell_exponent", "cell_limit", "start"))]


def slstm(p: Packing) -> list[Record]:
    spec: SLstm = p.spec
    spikes = p.parts("threshold") | p.state("fired", "counts") | {"reset": RESETS[spec.reset]}
    return [("slstm", cell_of(p, spec.lstm) | spikes)]


# ------------------------------------------------------------------ the table

Packer: TypeAlias = Callable[[Packing], list[Record]]

PACKERS: Final[Mapping[type[Layer], Packer]] = MappingProxyType(
    {
        Dense: dense,
        Conv: conv,
        Depthwise: depthwise,
        MaxPool: max_pool,
        AveragePool: average_pool,
        Lif: lif,
        Readout: readout,
        Add: add,
        Mul: mul,
        Lookup: lookup,
        Gru: gru,
        Lstm: lstm,
        LstmQ12: lstm_q12,
        Rnn: rnn,
        AlphaCells: alpha_cells,
        Cells: cells,
        DenseSum: dense_sum,
        Total: total,
        Concat: concat,
        Pad: pad,
        Slice: cut,
        Take: take,
        Transpose: transpose,
        Integrators: integrators,
        LogSoftmax: log_softmax,
        Softmax: probabilities,
        ConvSum: conv_sum,
        SumPool: sum_pool,
        SLstm: slstm,
        LayerNorm: layer_norm,
        Patterns: patterns,
    }
)
"""Kinds with a C form; a record's name is that of its row in `ER_LAYERS`."""


def records_of(layer: Layer) -> int:
    """How many records a layer is, one behind the other; the last one's output is the layer's."""
    match layer:
        case Concat():
            return len(layer.shapes)
        case Total():
            return layer.terms - 1
    return 1


NUMPY_ONLY: Final[Mapping[type[Layer], str]] = MappingProxyType({})
"""Kinds without one, and why."""
