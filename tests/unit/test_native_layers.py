"""Every kind of layer in C beside numpy's: the same bits, step by step, whatever comes in and whatever was kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from golden import make_vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from random_layers import Node, graph, layer, within

from edgerun.arrays import AnyArray, Tensors
from edgerun.certificate import certify
from edgerun.kernels.native import library
from edgerun.layers import Integrators, Readout
from edgerun.native import NativeNetwork
from edgerun.native_layers import NUMPY_ONLY, PACKERS, NativeLayer, Packing, records_of
from edgerun.network import Network
from edgerun.ops import OPS
from edgerun.ops.base import LayerRun
from edgerun.spec import Layer

GOLDEN = Path(__file__).parents[1] / "golden"
UNREAD = (Integrators, Readout)
"""Kinds whose output is beyond what any layer may read: C does not write it."""

pytestmark = pytest.mark.skipif(library() is None, reason="the C kernels are not built here")


class Alone:
    """One layer in C, its sources written by the caller.    widths of values by `reaches`, one a source"""

    def __init__(self, spec: Layer, tensors: Tensors, reaches: tuple[int, ...]) -> None:
        native = library()
        assert native is not None
        kinds = [np.int16 if reach < 1 << 15 else np.int32 for reach in reaches]
        self.sources = [np.zeros(width, kind) for width, kind in zip(spec.widths, kinds, strict=True)]
        self.run = NativeLayer(spec, spec.reach(reaches), records_of(spec) - 1)
        records = PACKERS[type(spec)](Packing(spec, tensors, self.run, self.sources))
        plan: dict[str, Any] = dict.fromkeys(("phase", "z", "raw", "sums", "counts", "bias", "mean"))
        numbers = dict.fromkeys(
            ("full_scale", "offset", "each_step", "features", "readings", "width", "capacity", "means"), 0
        )
        plan |= numbers | {"encoder": 2, "size": 1, "moment": 1, "steps": 1, "layers": len(records)}
        plan |= {"outputs": spec.outputs, "x": np.zeros(1, np.int16)}
        self.net = self.run.net = native.Net(plan, tuple(records), None, False)
        self.net.reset()

    def step(self, *xs: AnyArray) -> None:
        for source, x in zip(self.sources, xs, strict=True):
            np.copyto(source, x, casting="unsafe")
        self.net.step()


def same(ours: LayerRun, theirs: LayerRun, *, out: bool = True) -> None:
    """Outputs, state and what a head reads."""
    if out:
        np.testing.assert_array_equal(ours.out, theirs.out.astype(np.int64))
    mine, numpys = ours.state(), theirs.state()
    assert mine.keys() == numpys.keys()
    for name, array in numpys.items():
        np.testing.assert_array_equal(mine[name].astype(np.int64), array.astype(np.int64), err_msg=name)
    np.testing.assert_array_equal(ours.reading(), theirs.reading())


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
    spec, tensors, reaches = layer(rng, kind, "l", NODES)
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
    """One step's sources; of a reach of 128 the values of int8, of 1 spikes."""
    xs = [within(rng, reach, width) for reach, width in zip(reaches, spec.widths, strict=True)]
    return [
        np.abs(x) if reach == 1 else np.minimum(x, 127) if reach == 128 else x
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
    windows = [np.clip(within(rng, 128, manifest.input.size), -128, 127).astype(np.int16) for _ in range(4)]
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
