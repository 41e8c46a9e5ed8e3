"""Every kind of layer in C beside numpy's: the same bits, step by step, whatever comes in and whatever was kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from alone import Alone, same
from golden import make_vectors
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from random_layers import Node, decays, filled, graph, layer, scales, window_of, within

from edgerun.arrays import AnyArray, Tensors
from edgerun.certificate import certify
from edgerun.errors import SpecError
from edgerun.kernels.native import library
from edgerun.layers import (
    Add,
    AveragePool,
    Cells,
    Concat,
    Conv,
    Dense,
    Depthwise,
    Integrators,
    LayerNorm,
    Lif,
    Lstm,
    LstmQ12,
    MaxPool,
    Mul,
    Pad,
    Patterns,
    Readout,
    Slice,
    Softmax,
    SumPool,
    Take,
    Total,
    Transpose,
)
from edgerun.layers.recurrent import Twice
from edgerun.native import NativeNetwork
from edgerun.native_layers import NUMPY_ONLY, PACKERS
from edgerun.network import Network
from edgerun.ops import OPS
from edgerun.ops.base import LayerRun
from edgerun.spec import ClassTable, Head, InputSpec, Layer, Manifest, PhaseRate

GOLDEN = Path(__file__).parents[1] / "golden"
UNREAD = (Integrators, Readout)
"""Kinds whose output is beyond what any layer may read: C does not write it."""

pytestmark = pytest.mark.skipif(library() is None, reason="the C kernels are not built here")


# ------------------------------------------------------------------ all kinds


def test_every_kind_has_a_c_form_or_a_reason() -> None:
    assert set(PACKERS) | set(NUMPY_ONLY) == set(OPS)
    assert not set(PACKERS) & set(NUMPY_ONLY)
    assert all(NUMPY_ONLY.values())


# ------------------------------------------------------------------ random layers

INPUTS = {
    "image": (48, 128),
    "line": (7, 128),
    "bit": (12, 1),
    "other": (12, 128),
    "sum": (24, 1 << 15),
    "far": (24, 1 << 20),
}
NODES = [Node(name, width, reach) for name, (width, reach) in INPUTS.items()]
STEPS = 7


@pytest.mark.parametrize("kind", OPS, ids=lambda kind: kind.__name__)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 40))
def test_a_random_layer_gives_numpys_bits_step_by_step(kind: type[Layer], seed: int) -> None:
    """Whatever is fed and kept; and numpy goes on from C's state as C does from numpy's."""
    rng = np.random.default_rng(seed)
    try:
        spec, tensors, reaches = layer(rng, kind, "l", NODES)
    except SpecError:
        reject()
    ours, theirs = Alone(spec, tensors, reaches), OPS[kind](spec, tensors, ())
    read = not isinstance(spec, UNREAD)
    theirs.reset()
    same(ours.run, theirs, out=read)
    for t in range(STEPS):
        xs = fed(rng, spec, reaches)
        if t == STEPS // 2:
            ours, theirs = swapped(ours, theirs, (spec, tensors, reaches))
        ours.step(*xs)
        theirs.step(*(x.astype(np.float32) for x in xs))
        same(ours.run, theirs, out=read)
    ours.net.reset()
    theirs.reset()
    same(ours.run, theirs, out=read)


def fed(rng: np.random.Generator, spec: Layer, reaches: tuple[int, ...]) -> list[AnyArray]:
    """One step's sources; of a reach of 128 the values of int8, of 1 spikes, or what a pad may put beside them."""
    xs = [within(rng, reach, width) for reach, width in zip(reaches, spec.widths, strict=True)]
    return [
        np.abs(x) if reach == 1 and rng.integers(2) else np.minimum(x, 127) if reach == 128 else x
        for x, reach in zip(xs, reaches, strict=True)
    ]


def swapped(ours: Alone, theirs: LayerRun, made: tuple[Layer, Tensors, tuple[int, ...]]) -> tuple[Alone, LayerRun]:
    """Both anew, each in the state that the other was in."""
    spec, tensors, _ = made
    left, right = Alone(*made), OPS[type(spec)](spec, tensors, ())
    for to, state in ((left.run, theirs.state()), (right, ours.run.state())):
        for name, array in state.items():
            np.copyto(to.state()[name], array, casting="unsafe")
        to.resume()
    return left, right


# ------------------------------------------------------------------ sizes around those that C works in

SIZES = [
    *(("conv", (3, 3, 2), filters, (2, 2)) for filters in (1, 3, 4, 15, 16, 17, 33, 64, 257)),
    *(("conv", (1, places, channels), 18, (1, 1)) for places in (1, 7, 8, 9, 17) for channels in (1, 3, 4, 33, 65)),
    *(("conv", (1, 2, channels), 19, (1, 1)) for channels in (1023, 1024, 1025)),
    *(("depthwise", (5, 6, channels), channels, (3, 3)) for channels in (1, 15, 16, 31, 32, 33, 65, 127, 130)),
    *(("depthwise", (3, width, channels), channels, (3, 3)) for channels in (1, 2, 4, 8, 16) for width in (70, 71)),
    *(("depthwise", (7, 7, 34), 34, kernel) for kernel in ((1, 1), (1, 2), (5, 5), (4, 8), (6, 6))),
]


GEOMETRIES: list[tuple[str, tuple[int, int, int], int, tuple[int, int], dict[str, Any]]] = [
    ("conv", (2, 3, 1), 33, (2, 1), {"padding": (0, 0, 0, 0)}),
    ("conv", (9, 5, 3), 18, (3, 2), {"dilation": (2, 1)}),
    ("conv", (9, 9, 3), 18, (3, 2), {"dilation": (1, 2), "stride": (2, 3)}),
    ("depthwise", (4, 71, 8), 8, (3, 3), {"stride": (1, 2)}),
    ("depthwise", (4, 71, 8), 8, (2, 3), {"dilation": (1, 3)}),
    ("depthwise", (9, 4, 40), 40, (3, 3), {"dilation": (3, 1), "padding": (4, 0, 4, 2)}),
]


@pytest.mark.parametrize(
    ("kind", "image", "filters", "kernel", "geometry"), [*((*size, {}) for size in SIZES), *GEOMETRIES]
)
@pytest.mark.parametrize("asymmetric", [False, True], ids=["symmetric", "asymmetric"])
def test_blocks_of_filters_windows_and_channels_meet_without_a_seam(
    kind: str, image: tuple[int, int, int], filters: int, kernel: tuple[int, int], geometry: dict[str, Any],
    asymmetric: bool,
) -> None:  # fmt: skip
    """Extremes of one sign too; and the one value that a reach of 128 allows beyond int8."""
    rng = np.random.default_rng(3)
    padding = (1, 1, 1, 1) if kernel != (1, 1) else (0, 0, 0, 0)
    make = Conv if kind == "conv" else Depthwise
    spec = make(
        name="l", input_shape=image, filters=filters, kernel=kernel, input_zero_point=-128, zero_point=-3,
        asymmetric=asymmetric, **{"padding": padding} | geometry,
    )  # fmt: skip
    typical = 5000.0 * math.sqrt(math.prod(spec.weight_shape[1:]))
    tensors = filled(rng, spec, scales(rng, filters, typical))
    ours, theirs = Alone(spec, tensors, (128,)), OPS[make](spec, tensors, ())
    low, high = np.full(math.prod(image), -128), np.full(math.prod(image), 127)
    beyond = (np.where(np.arange(len(low)) == place, 128, 5) for place in (0, len(low) // 2))
    for x in (rng.integers(-128, 128, len(low)), low, high, *beyond):
        ours.step(x)
        theirs.step(x.astype(np.float32))
        same(ours.run, theirs)


# ------------------------------------------------------------------ every input of a gate


@pytest.mark.parametrize("gate", range(3), ids=["i", "f", "g"])
@pytest.mark.parametrize("kind", [Lstm, LstmQ12])
def test_every_input_of_a_gate_gives_numpys_cell(kind: type[Lstm] | type[LstmQ12], gate: int) -> None:
    """p = 256 x + j for each x of int8, in the unit j of 256; the other gates are open or half open."""
    units, half = 256, kind is LstmQ12
    maps = {"hidden_map": Twice(multiplier=1 << 30, shift=54)} if half else {}
    spec: Any = kind(name="l", inputs=1, hidden=units, cell_exponent=15, **maps)
    rows, here = 4 * units, slice(gate * units, (gate + 1) * units)
    found = {field.part: np.zeros(field.shape, field.dtype) for field in spec.fields()}
    one, many = ((1 << 30, 30), (1 << 30, 22)) if half else ((1 << 23, 23), (1 << 23, 15))
    for prefix, (multiplier, shift) in (("", many), ("recurrent_", one)):
        found[f"{prefix}multiplier"] = np.full(rows, multiplier, np.int32)
        found[f"{prefix}shift"] = np.full(rows, shift, np.uint8)
    found["recurrent_bias"][:] = 5000
    found["recurrent_bias"][here] = np.arange(units)
    found["weight"][here] = 1
    tensors = {f"l.{part}": array for part, array in found.items()}
    spec.certify(tensors, (128,), frozenset())
    ours, theirs = Alone(spec, tensors, (128,)), OPS[kind](spec, tensors, ())
    for x in range(-128, 128):
        ours.step(np.array([x]))
        theirs.step(np.array([x], np.float32))
        same(ours.run, theirs)


# ------------------------------------------------------------------ what does not fit is refused

WRONG: list[tuple[type[Layer], dict[str, Any]]] = [
    (Conv, {"out_w": 99}), (Conv, {"stride_h": 0}), (Conv, {"top": -1}), (Depthwise, {"out_h": 0}),
    (MaxPool, {"left": (1 << 31) - 1}),
    (MaxPool, {"kernel_h": 1 << 25}), (SumPool, {"x": None, "wide": None}), (AveragePool, {"dilation_w": -1}),
    (Add, {"stride_a": np.array([9], np.int32), "shape": np.array([12], np.int32), "rank": 1}),
    (Mul, {"stride_b": np.array([1], np.int32), "shape": np.array([13], np.int32), "rank": 1}),
    (Transpose, {"from": 1}), (Pad, {"to": -1}), (Slice, {"y": None}), (Take, {"inner": 99}), (Softmax, {"row": 0}),
    (LayerNorm, {"outputs": 0}), (Total, {"other": None, "wide_other": None}), (Lstm, {"sequence": 0, "steps": 0}),
    (Cells, {"parameters": 0}), (Lif, {"x": None, "wide": None}), (Readout, {"x": None}),
    (Patterns, {"steps": 0, "target": np.zeros(0, np.uint8)}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes"), WRONG)
def test_a_record_whose_numbers_do_not_fit_is_refused(kind: type[Layer], changes: dict[str, Any]) -> None:
    made = layer(np.random.default_rng(4), kind, "l", [Node("input", 12, 128 if kind is not Patterns else 1)])
    Alone(*made)
    with pytest.raises((ValueError, TypeError)):
        Alone(*made, changes=changes)


@pytest.mark.parametrize("place", [-1, 4])
def test_positions_outside_of_their_axis_are_refused(place: int) -> None:
    spec = Take(name="l", input_shape=(4, 3), axis=0, count=2)
    Alone(spec, {"l.index": np.array([0, 3], np.int32)}, (128,))
    with pytest.raises(ValueError, match="do not fit"):
        Alone(spec, {"l.index": np.array([0, place], np.int32)}, (128,))


# ------------------------------------------------------------------ random graphs

KINDS = [kind for kind in OPS if kind not in (Readout, Integrators)]


@settings(max_examples=150, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=9),
    last=st.sampled_from(list(OPS)),
    seed=st.integers(0, 1 << 40),
)
def test_a_random_graph_gives_numpys_windows_and_streams(
    kinds: list[type[Layer]], last: type[Layer], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    manifest, tensors = graph(rng, [*kinds, last])
    certify(manifest, tensors)
    ours, theirs = NativeNetwork(manifest, tensors), Network(manifest, tensors)
    windows = [window_of(rng, manifest) for _ in range(4)]
    for q in windows:
        np.testing.assert_array_equal(ours.scores(q), theirs.scores(q))
        alike(ours, theirs)
    ours.restore(theirs.snapshot())
    moments = theirs.moments(windows[0])
    for x in moments:
        ours.step(x)
        theirs.step(x)
        alike(ours, theirs)
    ours.reset()
    theirs.reset()
    alike(ours, theirs)


def test_layers_behind_those_of_several_records_are_found() -> None:
    """The tape of a population behind a join, and what a head reads behind a sum of three."""
    rng = np.random.default_rng(2)
    join = Concat(name="join", sources=("input",) * 3, shapes=((8,),) * 3, axis=0)
    lif = Lif(name="lif", inputs=24, outputs=9, weight_exponent=6)
    total = Total(name="total", sources=("lif",) * 3, outputs=9, terms=3)
    dense = Dense(name="dense", inputs=9, outputs=5)
    tensors = filled(rng, lif, decays(rng, lif)) | filled(rng, dense, scales(rng, 5, 100.0))
    head = {"sum": rng.integers(-500, 500, (3, 5)), "count": np.array([4, 0, 9]), "bias": np.zeros(3)}
    tensors |= {f"head.{name}": array.astype(np.int32) for name, array in head.items()}
    manifest = Manifest(
        name="joined", input=InputSpec(shape=(8,)), encoder=PhaseRate(steps=12, full_scale=100),
        layers=(join, lif, total, dense), head=Head(kind="prototypes", features="dense"),
        classes=ClassTable(names=("a", "b", "c"), capacity=4),
    )  # fmt: skip
    ours, theirs = NativeNetwork(manifest, tensors), Network(manifest, tensors)
    for q in rng.integers(0, 120, (4, 8)).astype(np.int16):
        np.testing.assert_array_equal(ours.scores(q), theirs.scores(q))
        np.testing.assert_array_equal(ours.features(), theirs.features())
        mine, numpys = ours.record(q, "lif"), theirs.record(q, "lif")
        assert numpys.spikes.any()
        for part in ("pre", "spikes", "psi"):
            np.testing.assert_array_equal(getattr(mine, part), getattr(numpys, part), err_msg=part)


def alike(ours: Network, theirs: Network) -> None:
    for name, run in theirs.layers.items():
        same(ours.layers[name], run, out=not isinstance(run.spec, UNREAD))


# ------------------------------------------------------------------ golden vectors


def load(family: str) -> tuple[Tensors, dict[str, str]]:
    with np.load(GOLDEN / f"{family}.npz", allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        return {name: file[name] for name in file.files if name != "about"}, about["layers"]


CASES = [(family, case) for family in make_vectors.FAMILIES for case in load(family)[1]]


@pytest.mark.parametrize(("family", "case"), CASES)
def test_a_layer_gives_the_stored_bits(family: str, case: str) -> None:
    stored, specs = load(family)
    spec: Layer = msgspec.json.decode(specs[case], type=Layer)
    arrays = {name.removeprefix(f"{case}."): array for name, array in stored.items() if name.startswith(f"{case}.")}
    tensors = {f"{spec.name}.{name}": array for name, array in arrays.items()}
    xs = [arrays[f"x{k}"] for k in range(len(spec.widths))]
    layer = Alone(spec, tensors, tuple(int(np.abs(x.astype(np.int64)).max()) for x in xs))
    watched = [name for name in arrays if name in {state.name for state in spec.state()}]
    watched += [] if isinstance(spec, UNREAD) else ["y"]
    for t in range(len(xs[0])):
        layer.step(*(x[t] for x in xs))
        for name in watched:
            got = layer.run.out if name == "y" else layer.run.state()[name]
            assert got.astype(np.int64).tolist() == arrays[name][t].tolist(), (t, name)
