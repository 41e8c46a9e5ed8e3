"""Random layers of every kind, with tensors of the whole range that their certificates allow, and graphs of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from edgerun.arrays import I16, AnyArray, Tensors
from edgerun.errors import SpecError
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
)  # fmt: skip
from edgerun.layers.base import F32_EXACT, I8_REACH, INPUT, Requant
from edgerun.layers.recurrent import Twice
from edgerun.layers.softmax import ONE
from edgerun.spec import Constant, Direct, Encoder, Frames, Head, InputSpec, Manifest, OutputSpec, PhaseRate

Rng = np.random.Generator
MOST: Final = 400
"""Values of a random layer's output, at most."""
SUMS: Final = (F32_EXACT, 30000)
"""Bounds that synapses promise: the layers behind read int32 under the first, int16 under the second."""
RESETS: Final = ("subtract", "zero", "hold", "none")


class Node(NamedTuple):
    """Something that a layer may read: its name, how many values it gives, the largest |value|."""

    name: str
    width: int
    reach: int


class Made(NamedTuple):
    """A layer, its tensors, the largest |value| of each source and of its output."""

    spec: Layer
    tensors: Tensors
    reaches: tuple[int, ...]

    @property
    def node(self) -> Node:
        return Node(self.spec.name, self.spec.outputs, self.spec.reach(self.reaches))


# ------------------------------------------------------------------ numbers


def pick(rng: Rng, options: Sequence[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


def maybe(rng: Rng) -> bool:
    return bool(rng.integers(2))


def factors(rng: Rng, n: int, rank: int) -> tuple[int, ...]:
    """A shape of n values."""
    shape = []
    for _ in range(rank - 1):
        size = int(pick(rng, [k for k in range(1, n + 1) if n % k == 0]))
        shape.append(size)
        n //= size
    shape.append(n)
    return tuple(shape if maybe(rng) else shape[::-1])


def clip(rng: Rng) -> dict[str, int]:
    """The whole of int8, or part of it; and a zero point."""
    low, high = sorted(int(x) for x in rng.integers(-128, 128, 2))
    bounds = {"qmin": low, "qmax": high} if rng.integers(4) == 0 else {}
    return bounds | {"zero_point": int(pick(rng, (0, -128, 127, 3, -47)))}


def scales(rng: Rng, n: int, typical: float) -> dict[str, AnyArray]:
    """multiplier and shift (n,) that take sums of a typical size to some tens, some of them powers of two."""
    found = [
        Requant.from_scale(min(max(60 / typical * 2.0 ** rng.uniform(-3, 2), 2.0**-22), 2.0**20)) for _ in range(n)
    ]
    if maybe(rng):
        shift = int(np.clip(round(math.log2(max(typical, 2) / 60)), 1, 23))
        found[0] = Requant(multiplier=1, shift=shift)
    return {
        "multiplier": np.array([each.multiplier for each in found], np.int32),
        "shift": np.array([each.shift for each in found], np.uint8),
    }


def values(rng: Rng, low: int, high: int, shape: Any, dtype: Any) -> AnyArray:
    """Any values, their ends among them; or ends alone, which are what sums overflow on."""
    found = rng.integers(low, high + 1, shape)
    ends = rng.integers(0, 2 if rng.integers(4) == 0 else 6, shape)
    found = np.where(ends == 0, low, np.where(ends == 1, high, found))
    return found.astype(dtype)


def within(rng: Rng, reach: int, shape: Any) -> AnyArray:
    """What may come in: anything up to the reach, or the same extreme everywhere, or nearly nothing."""
    match int(rng.integers(5)):
        case 0:
            return np.full(shape, pick(rng, (-1, 1)) * reach, np.int64)
        case 1:
            return rng.integers(-reach, reach + 1, shape) * (rng.integers(0, 8, shape) == 0)
    return values(rng, -reach, reach, shape, np.int64)


def filled(rng: Rng, spec: Any, given: dict[str, AnyArray]) -> Tensors:
    """Every tensor of a layer: what is given, else anything that the field allows."""
    return {
        f"{spec.name}.{field.part}": given[field.part]
        if field.part in given
        else values(rng, max(field.low, -(1 << 20)), min(field.high, 1 << 20), field.shape, field.dtype)
        for field in spec.fields()
    }


# ------------------------------------------------------------------ sources


def chosen(rng: Rng, nodes: Sequence[Node], reach: int = I8_REACH, width: int | None = None) -> Node:
    """A node whose values are small enough, the newest more often. Raises SpecError where there is none."""
    found = [node for node in nodes if node.reach <= reach and width in (None, node.width)]
    if not found:
        raise SpecError("nothing to read")
    return found[-1] if maybe(rng) else pick(rng, found)


def window(rng: Rng, node: Node) -> dict[str, Any]:
    """Geometry of windows over a source, seen as an image."""
    h, w, c = factors(rng, node.width, 3)
    kernel = (int(rng.integers(1, min(h, 4) + 1)), int(rng.integers(1, min(w, 4) + 1)))
    if rng.integers(3) == 0:
        kernel = (1, 1)
    pair = lambda low, high: (int(rng.integers(low, high)), int(rng.integers(low, high)))  # noqa: E731
    padding = (0, 0, 0, 0) if maybe(rng) else (*pair(0, 3), *pair(0, 3))
    return {
        "input_shape": (h, w, c), "kernel": kernel, "stride": pair(1, 4) if maybe(rng) else (1, 1),
        "dilation": pair(1, 3) if rng.integers(3) == 0 else (1, 1), "padding": padding,
    }  # fmt: skip


# ------------------------------------------------------------------ kinds

Maker = Callable[[Rng, str, Sequence[Node]], Made]


def made(rng: Rng, spec: Any, nodes: Sequence[Node], given: dict[str, AnyArray] | None = None) -> Made:
    return Made(spec, filled(rng, spec, given or {}), tuple(node.reach for node in nodes))


def dense(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes)
    spec = Dense(
        name=name, sources=(node.name,), inputs=node.width, outputs=int(rng.integers(1, 14)), asymmetric=maybe(rng),
        **clip(rng),
    )  # fmt: skip
    return made(rng, spec, [node], scales(rng, spec.outputs, 9000 * math.sqrt(node.width)))


def conv(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes)
    spec = Conv(
        name=name, sources=(node.name,), filters=int(rng.integers(1, 11)), asymmetric=maybe(rng),
        input_zero_point=int(rng.integers(-128, 128)), **window(rng, node), **clip(rng),
    )  # fmt: skip
    return made(rng, spec, [node], scales(rng, spec.filters, 9000 * math.sqrt(math.prod(spec.weight_shape[1:]))))


def depthwise(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes)
    geometry = window(rng, node)
    spec = Depthwise(
        name=name, sources=(node.name,), filters=geometry["input_shape"][2] * int(rng.integers(1, 4)),
        asymmetric=maybe(rng), input_zero_point=int(rng.integers(-128, 128)), **geometry, **clip(rng),
    )  # fmt: skip
    return made(rng, spec, [node], scales(rng, spec.filters, 9000 * math.sqrt(math.prod(spec.kernel))))


def max_pool(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes)
    bounds = {key: value for key, value in clip(rng).items() if key != "zero_point"}
    return made(rng, MaxPool(name=name, sources=(node.name,), **window(rng, node), **bounds), [node])


def average_pool(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes)
    spec = AveragePool(
        name=name, sources=(node.name,), ties=pick(rng, ("up", "even", "away")), **window(rng, node), **clip(rng)
    )
    sizes = spec.sizes
    if maybe(rng):  # exact means, whose halves are ties
        multiplier = np.ones(len(sizes), np.int32)
        shift = np.maximum(np.round(np.log2(sizes)), 1).astype(np.uint8)
    else:
        multiplier, shift = (scales(rng, len(sizes), 60.0)[key] for key in ("multiplier", "shift"))
    half = np.left_shift(np.int64(1), shift.astype(np.int64) - 1)
    offset = half - int(rng.integers(-128, 128)) * sizes * multiplier.astype(np.int64) * maybe(rng)
    return made(rng, spec, [node], {"multiplier": multiplier, "shift": shift, "offset": offset})


def two(rng: Rng, nodes: Sequence[Node]) -> tuple[list[Node], tuple[tuple[int, ...], tuple[int, ...]]]:
    """Two sources that broadcast."""
    a = chosen(rng, nodes)
    b = pick(rng, [node for node in nodes if node.reach <= I8_REACH and a.width % node.width == 0])
    if b.width == a.width:
        shape = factors(rng, a.width, 3)
        shapes = (shape, shape)
    else:
        times = a.width // b.width
        shapes = pick(rng, [((times, b.width), (1, b.width)), ((b.width, times), (b.width, 1))])
    if maybe(rng):
        return [b, a], (shapes[1], shapes[0])
    return [a, b], shapes


def add(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    sources, shapes = two(rng, nodes)
    shift = int(rng.integers(1, 28))
    top = min(1 << (shift + 1), (1 << 24) - 1)
    a, b = (int(x) for x in rng.integers(-top, top + 1, 2))
    names = tuple(node.name for node in sources)
    offset = (1 << (shift - 1)) + int(rng.integers(-100 * top, 100 * top + 1))
    spec = Add(name=name, sources=names, shapes=shapes, multipliers=(a, b), offset=offset, shift=shift, **clip(rng))
    return made(rng, spec, sources)


def mul(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    sources, shapes = two(rng, nodes)
    map_ = Requant.from_scale(2.0 ** rng.uniform(-10, -4))
    zeros = tuple(int(x) for x in rng.integers(-128, 128, 2))
    names = tuple(node.name for node in sources)
    spec = Mul(
        name=name, sources=names, shapes=shapes, zeros=zeros, multiplier=map_.multiplier, shift=map_.shift, **clip(rng)
    )
    return made(rng, spec, sources)


def lookup(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes)
    return made(rng, Lookup(name=name, sources=(node.name,), shape=factors(rng, node.width, 2)), [node])


def total(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    first = chosen(rng, nodes, F32_EXACT // 4)
    more = [chosen(rng, nodes, F32_EXACT // 4, first.width) for _ in range(int(rng.integers(1, 4)))]
    sources = [first, *more]
    names = tuple(node.name for node in sources)
    return made(rng, Total(name=name, sources=names, outputs=first.width, terms=len(sources)), sources)


def concat(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    first = chosen(rng, nodes, F32_EXACT)
    if maybe(rng):
        sources = [first, *(chosen(rng, nodes, F32_EXACT) for _ in range(int(rng.integers(0, 3))))]
        shapes, axis = tuple((node.width,) for node in sources), 0
    else:
        sources = [first, *(chosen(rng, nodes, F32_EXACT, first.width) for _ in range(int(rng.integers(0, 3))))]
        shapes, axis = (factors(rng, first.width, 3),) * len(sources), int(rng.integers(3))
    names = tuple(node.name for node in sources)
    return made(rng, Concat(name=name, sources=names, shapes=shapes, axis=axis), sources)


def transpose(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node, rank = chosen(rng, nodes, F32_EXACT), int(rng.integers(1, 6))
    perm = tuple(int(axis) for axis in rng.permutation(rank))
    return made(
        rng, Transpose(name=name, sources=(node.name,), input_shape=factors(rng, node.width, rank), perm=perm), [node]
    )


def pad(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node, rank = chosen(rng, nodes, F32_EXACT), int(rng.integers(1, 4))
    before, after = ((*(int(x) for x in rng.integers(0, 3, rank)),) for _ in range(2))
    spec = Pad(
        name=name, sources=(node.name,), input_shape=factors(rng, node.width, rank), before=before, after=after,
        value=int(rng.integers(-128, 128)),
    )  # fmt: skip
    return made(rng, spec, [node])


def cut(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node, rank = chosen(rng, nodes, F32_EXACT), int(rng.integers(1, 4))
    shape = factors(rng, node.width, rank)
    ends = []
    for size in shape:
        low, high, step = int(rng.integers(size)), int(rng.integers(size)), int(rng.integers(1, 4))
        low, high = min(low, high), max(low, high)
        ends.append((low, high + 1, step) if maybe(rng) else (high, low - 1, -step))
    start, stop, step_ = zip(*ends, strict=True)
    spec = Slice(name=name, sources=(node.name,), input_shape=shape, start=start, stop=stop, step=step_)
    return made(rng, spec, [node])


def take(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node, rank = chosen(rng, nodes, F32_EXACT), int(rng.integers(1, 4))
    shape, axis = factors(rng, node.width, rank), int(rng.integers(rank))
    count = int(rng.integers(1, 6))
    return made(rng, Take(name=name, sources=(node.name,), input_shape=shape, axis=axis, count=count), [node])


def exponentials(rng: Rng) -> AnyArray:
    fall = 2.0 ** rng.uniform(-9, 1)
    return np.round(ONE * np.exp(-fall * np.arange(256))).astype(np.int32)


def softmax(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes)
    spec = Softmax(
        name=name, sources=(node.name,), shape=factors(rng, node.width, 2), multiplier=int(rng.integers(1, 1 << 16)),
        shift=int(rng.integers(0, 9)), zero_point=int(rng.integers(-128, 128)),
    )  # fmt: skip
    return made(rng, spec, [node], {"exponentials": exponentials(rng)})


def log_softmax(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes)
    spec = LogSoftmax(
        name=name, sources=(node.name,), shape=factors(rng, node.width, 2), shift=int(rng.integers(8, 32)),
        multipliers=(int(rng.integers(0, 1 << 24)), int(rng.integers(0, 1 << 24))),
        zero_point=int(rng.integers(-128, 128)),
    )  # fmt: skip
    return made(rng, spec, [node], {"exponentials": exponentials(rng)})


def layer_norm(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes)
    epsilon = int(pick(rng, (0, 1, 1 << 12, 1 << 51)))
    spec = LayerNorm(
        name=name, sources=(node.name,), shape=factors(rng, node.width, 2), epsilon=epsilon,
        shift=int(rng.integers(20, 41)), **clip(rng),
    )  # fmt: skip
    n = spec.channels
    top = min(1 << max(spec.shift - 14, 1), (1 << 24) - 1)
    given = {"multiplier": values(rng, -top, top, n, np.int32)}
    given["offset"] = values(rng, -(80 << spec.shift), 80 << spec.shift, n, np.int64)
    return made(rng, spec, [node], given)


# ------------------------------------------------------------------ spiking


def decays(rng: Rng, spec: Any) -> dict[str, AnyArray]:
    """Leaks of any strength, mostly slow ones; thresholds of about 1."""
    found: dict[str, AnyArray] = {}
    for field in spec.fields():
        if field.dtype == "uint16":
            found[field.part] = np.where(
                rng.integers(0, 4, field.shape) == 0, values(rng, 0, 1 << 15, field.shape, np.int64),
                rng.integers(24000, 32769, field.shape),
            ).astype(np.uint16)  # fmt: skip
        if field.part == "bias":
            top = 1500 << (getattr(spec, "fraction", 24 if isinstance(spec, Readout) else 12) - 12)
            found["bias"] = values(rng, -top, top, field.shape, np.int32)
        if field.part == "tau":
            found["tau"] = values(rng, 1 << 16, 1 << 20, field.shape, np.int32)
        if field.part == "threshold":
            found["threshold"] = values(rng, 1, 9000, field.shape, np.int16)
        if field.part == "beta" and field.dtype == "int16":
            found["beta"] = values(rng, -3000, 5000, field.shape, np.int16)
    return found


def exponent(rng: Rng, reach: float, most: int) -> int:
    """f, so that a reach of sums drives about a threshold."""
    return int(np.clip(round(math.log2(max(reach, 1))) + int(rng.integers(-5, 3)), 0, most))


def light(rng: Rng, node: Node, outputs: int) -> AnyArray:
    """Weights (width, outputs) as large as the reach of what comes in leaves room for."""
    most = max(1, min(127, F32_EXACT // (2 * node.reach * node.width)))
    return values(rng, -most, most, (node.width, outputs), np.int8)


def lif(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes, 1 << 16)
    spec = Lif(
        name=name, sources=(node.name,), inputs=node.width, outputs=int(rng.integers(1, 12)),
        weight_exponent=exponent(rng, 64 * node.reach * math.sqrt(node.width), 20), recurrent=maybe(rng),
        recurrent_shift=int(rng.integers(0, 4)), adaptive=maybe(rng), threshold=int(pick(rng, (4096, 4096, 900, 0))),
        reset=pick(rng, RESETS), reset_delay=maybe(rng),
        refractory_steps=int(pick(rng, (0, 0, 1, 3))),
    )  # fmt: skip
    return made(rng, spec, [node], decays(rng, spec) | {"input": light(rng, node, spec.outputs)})


def readout(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes, 1 << 16)
    f = exponent(rng, 64 * node.reach * math.sqrt(node.width), 20)
    spec = Readout(
        name=name, sources=(node.name,), inputs=node.width, outputs=int(rng.integers(1, 8)), weight_exponent=f
    )
    return made(rng, spec, [node], decays(rng, spec) | {"input": light(rng, node, spec.outputs)})


def dense_sum(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes, 1 << 16)
    spec = DenseSum(
        name=name, sources=(node.name,), inputs=node.width, outputs=int(rng.integers(1, 12)),
        output_bound=pick(rng, SUMS), zero_point=int(pick(rng, (0, 0, -128, 90))),
    )  # fmt: skip
    return made(rng, spec, [node], {"weight": values(rng, -9, 9, (node.width, spec.outputs), np.int8)})


def conv_sum(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes, 1 << 16)
    spec = ConvSum(
        name=name, sources=(node.name,), filters=int(rng.integers(1, 8)), output_bound=pick(rng, SUMS),
        zero_point=int(pick(rng, (0, 0, -128, 90))), **window(rng, node),
    )  # fmt: skip
    return made(rng, spec, [node], {"weight": values(rng, -20, 20, spec.fields()[0].shape, np.int8)})


def sum_pool(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes, F32_EXACT // 16)
    return made(rng, SumPool(name=name, sources=(node.name,), **window(rng, node)), [node])


def on_sums(rng: Rng, node: Node, fraction: int) -> dict[str, Any]:
    shape = factors(rng, node.width, int(rng.integers(1, 4)))
    low = max(0, fraction - 28 + math.ceil(math.log2(max(node.reach, 1) + 1)))
    f = max(low, exponent(rng, node.reach, 40))
    return {"sources": (node.name,), "shape": shape, "shared": maybe(rng), "weight_exponent": f}


def cells(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node, synaptic, inhibition = chosen(rng, nodes, F32_EXACT), maybe(rng), rng.integers(3) == 0
    reset = pick(
        rng, ("subtract", "zero", "hold", "none") if inhibition else ("subtract", "zero", "hold", "none", "soft")
    )
    delay = bool(inhibition and reset in ("zero", "hold")) or (reset != "soft" and maybe(rng))
    spec = Cells(
        name=name, synaptic=synaptic, inhibition=bool(inhibition), reset=reset, reset_delay=delay,
        recurrence=pick(rng, ("none", "diagonal", "dense")), recurrent_exponent=int(rng.integers(6, 12)),
        reading=pick(rng, ("counts", "last", "max", "mean")), **on_sums(rng, node, 24 if synaptic else 12),
    )  # fmt: skip
    given = decays(rng, spec)
    if spec.recurrence == "diagonal":
        top = 3000 << (spec.fraction - 12)
        given["recurrent"] = values(rng, -top, top, spec.parameters, np.int32)
    return made(rng, spec, [node], given)


def alpha_cells(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes, F32_EXACT)
    spec = AlphaCells(
        name=name, inhibition=maybe(rng), reset=pick(rng, ("subtract", "hold", "none")),
        reading=pick(rng, ("counts", "last", "max", "mean")), **on_sums(rng, node, 24),
    )  # fmt: skip
    return made(rng, spec, [node], decays(rng, spec))


def integrators(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes, F32_EXACT)
    spec = Integrators(
        name=name, synaptic=maybe(rng), reading=pick(rng, ("last", "max", "mean")), **on_sums(rng, node, 24)
    )
    return made(rng, spec, [node], decays(rng, spec))


def patterns(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes, 1)
    rise, fall = (int(x) for x in rng.integers(20000, 32768, 2))
    spec = Patterns(
        name=name, sources=(node.name,), inputs=node.width, outputs=int(rng.integers(1, 5)),
        steps=int(rng.integers(1, 6)), rise=rise, fall=fall,
    )  # fmt: skip
    return made(rng, spec, [node])


# ------------------------------------------------------------------ recurrent


def gates(rng: Rng, rows: int, inputs: int, units: int, *, twice: bool = False) -> dict[str, AnyArray]:
    """Gates that work in their middle, and some that saturate."""
    found: dict[str, AnyArray] = {}
    for prefix, width in (("", inputs), ("recurrent_", units)):
        scale = 2.0 ** rng.uniform(-3, 4, rows) / math.sqrt(width)
        if twice:
            mantissa, exponents = np.frexp(scale)
            found[f"{prefix}multiplier"] = np.minimum(np.round(mantissa * 2**31), 2**31 - 1).astype(np.int32)
            found[f"{prefix}shift"] = (31 - exponents).astype(np.uint8)
        else:
            maps = [Requant.from_scale(one) for one in scale]
            found[f"{prefix}multiplier"] = np.array([map_.multiplier for map_ in maps], np.int32)
            found[f"{prefix}shift"] = np.array([map_.shift for map_ in maps], np.uint8)
        found[f"{prefix}bias"] = values(rng, -3000, 3000, rows, np.int32)
    return found


def walk(rng: Rng, node: Node) -> dict[str, Any]:
    steps = int(pick(rng, [k for k in (1, 2, 3, 4, 5) if node.width % k == 0]))
    return {
        "sources": (node.name,), "inputs": node.width // steps, "steps": steps, "hidden": int(rng.integers(1, 9)),
        "sequence": maybe(rng), "reverse": bool(rng.integers(4) == 0),
    }  # fmt: skip


def hidden_map(rng: Rng) -> Requant:
    if maybe(rng):
        return Requant(multiplier=1, shift=8)
    low, high = sorted(int(x) for x in rng.integers(-128, 128, 2))
    return Requant.from_scale(2.0 ** rng.uniform(-9, -6), zero_point=int(rng.integers(-128, 128)), qmin=low, qmax=high)


def rnn(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes)
    spec = Rnn(name=name, function=pick(rng, ("tanh", "relu")), hidden_map=hidden_map(rng), **walk(rng, node))
    return made(rng, spec, [node], gates(rng, spec.hidden, spec.inputs, spec.hidden))


def gru(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes)
    spec = Gru(name=name, reset_after=maybe(rng), hidden_map=hidden_map(rng), **walk(rng, node))
    return made(rng, spec, [node], gates(rng, 3 * spec.hidden, spec.inputs, spec.hidden))


def lstm(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes)
    spec = Lstm(
        name=name, hidden_map=hidden_map(rng), cell_exponent=int(rng.integers(4, 16)),
        cell_limit=int(pick(rng, (32767, 9000))), **walk(rng, node),
    )  # fmt: skip
    return made(rng, spec, [node], gates(rng, 4 * spec.hidden, spec.inputs, spec.hidden))


def lstm_q12(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes)
    map_ = Twice(multiplier=int(rng.integers(1 << 30, 1 << 31)), shift=int(rng.integers(50, 58)), zero_point=-9)
    spec = LstmQ12(
        name=name, hidden_map=map_, start=int(rng.integers(-128, 128)), cell_exponent=int(rng.integers(9, 16)),
        cell_limit=int(pick(rng, (0, 9000))), **walk(rng, node),
    )  # fmt: skip
    return made(rng, spec, [node], gates(rng, 4 * spec.hidden, spec.inputs, spec.hidden, twice=True))


def slstm(rng: Rng, name: str, nodes: Sequence[Node]) -> Made:
    node = chosen(rng, nodes)
    spec = SLstm(
        name=name, sources=(node.name,), inputs=node.width, outputs=int(rng.integers(1, 9)),
        reset=pick(rng, ("subtract", "hold", "none")), hidden_map=hidden_map(rng),
        cell_exponent=int(rng.integers(4, 16)),
    )  # fmt: skip
    given = gates(rng, 4 * spec.outputs, spec.inputs, spec.outputs)
    given["threshold"] = values(rng, 1, 1 << 14, spec.outputs, np.uint16)
    return made(rng, spec, [node], given)


MAKERS: Final[dict[type[Layer], Maker]] = {
    Dense: dense, Conv: conv, Depthwise: depthwise, MaxPool: max_pool, AveragePool: average_pool, Lif: lif,
    Readout: readout, Add: add, Mul: mul, Lookup: lookup, Gru: gru, Lstm: lstm, LstmQ12: lstm_q12, Rnn: rnn,
    AlphaCells: alpha_cells, Cells: cells, DenseSum: dense_sum, Total: total, Concat: concat, Pad: pad, Slice: cut,
    Take: take, Transpose: transpose, Integrators: integrators, LogSoftmax: log_softmax, Softmax: softmax,
    ConvSum: conv_sum, SumPool: sum_pool, SLstm: slstm, LayerNorm: layer_norm, Patterns: patterns,
}  # fmt: skip


def layer(rng: Rng, kind: type[Layer], name: str, nodes: Sequence[Node]) -> Made:
    """A layer of a kind over some of the nodes, certified. Raises SpecError where twenty tries gave none."""
    refused = SpecError("no try")
    for _ in range(20):
        try:
            found = MAKERS[kind](rng, name, nodes)
            found.spec.certify(found.tensors, found.reaches, frozenset())
        except SpecError as err:
            refused = err
            continue
        if found.spec.outputs <= MOST:
            return found
    raise refused


# ------------------------------------------------------------------ graphs


def encoder(rng: Rng, width: int) -> tuple[Encoder, InputSpec, int]:
    """An encoder, its samples, and the largest |value| of a step."""
    unsigned = maybe(rng)
    offset = 128 * unsigned
    dtype: Literal["uint8", "int8"] = "uint8" if unsigned else "int8"
    flat = InputSpec(shape=(width,), dtype=dtype)
    match int(rng.integers(4)):
        case 0:
            return Frames(offset=offset), InputSpec(shape=(int(rng.integers(1, 8)), width), dtype=dtype), I8_REACH
        case 1:
            return Constant(steps=int(rng.integers(1, 8)), offset=offset), flat, I8_REACH
        case 2:
            return PhaseRate(steps=int(rng.integers(1, 12)), full_scale=int(rng.integers(1, 256))), flat, 1
    return Direct(offset=offset), flat, I8_REACH


def window_of(rng: Rng, manifest: Manifest) -> I16:
    """One window of anything that the sensor may give."""
    low, high = (0, 255) if manifest.input.dtype == "uint8" else (-128, 127)
    return np.clip(within(rng, 128, manifest.input.size) + low + 128, low, high).astype(np.int16)


def graph(rng: Rng, kinds: Sequence[type[Layer]]) -> tuple[Manifest, Tensors]:
    """A DAG of layers of the kinds given, in that order; those that nothing there can feed are left out."""
    code, samples, reach = encoder(rng, int(pick(rng, (4, 12, 24, 36))))
    nodes, layers, tensors = [Node(INPUT, samples.shape[-1], reach)], [], Tensors()
    for k, kind in enumerate(kinds):
        try:
            found = layer(rng, kind, f"l{k}", nodes)
        except SpecError:
            continue
        layers.append(found.spec)
        tensors |= found.tensors
        nodes.append(found.node)
    if not layers:
        found = dense(rng, "l", nodes)
        layers, tensors = [found.spec], found.tensors
    output = OutputSpec(shape=(layers[-1].outputs,))
    manifest = Manifest(
        name="random", input=samples, encoder=code, layers=tuple(layers), head=Head(kind="values"),
        output=output,
    )  # fmt: skip
    return manifest, tensors
