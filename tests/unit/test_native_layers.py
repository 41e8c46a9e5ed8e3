"""Every kind of layer in C beside numpy's: the same bits, step by step, whatever comes in and whatever was kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from golden import make_vectors

from edgerun.arrays import AnyArray, Tensors
from edgerun.kernels.native import library
from edgerun.layers import Integrators, Readout
from edgerun.native_layers import NUMPY_ONLY, PACKERS, NativeLayer, Packing, records_of
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
