"""One layer in C, and whether it is in the same state as numpy's."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from edgerun.arrays import AnyArray, Tensors
from edgerun.kernels.native import required
from edgerun.native_layers import PACKERS, Fields, NativeLayer, Packing, records_of
from edgerun.ops.base import LayerRun
from edgerun.spec import Layer


class Alone:
    """One layer in C, its sources written by the caller.

    reaches  the largest |value| of each     changes  fields of its records that are to be wrong
    packed   whether its weights lie a second time, as this processor multiplies them
    """

    def __init__(
        self, spec: Layer, tensors: Tensors, reaches: tuple[int, ...], *, packed: bool = True,
        changes: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        kinds = [np.int16 if reach < 1 << 15 else np.int32 for reach in reaches]
        self.sources = [np.zeros(width, kind) for width, kind in zip(spec.widths, kinds, strict=True)]
        self.run = NativeLayer(spec, spec.reach(reaches), records_of(spec) - 1)
        records = PACKERS[type(spec)](Packing(spec, tensors, self.run, self.sources))
        if packed:
            records = [(name, laid(name, fields)) for name, fields in records]
        records = [(name, fields | changes) for name, fields in records]
        plan: dict[str, Any] = dict.fromkeys(("phase", "z", "raw", "sums", "counts", "bias", "mean"))
        numbers = dict.fromkeys(
            ("full_scale", "offset", "each_step", "features", "readings", "width", "capacity", "means"), 0
        )
        plan |= numbers | {"encoder": 2, "size": 1, "moment": 1, "steps": 1, "layers": len(records)}
        self.moment = np.zeros(1, np.int16)
        plan |= {"outputs": spec.outputs, "x": self.moment}
        self.net = self.run.net = required().Net(plan, tuple(records), None, False)
        self.net.reset()

    def step(self, *xs: AnyArray) -> None:
        for source, x in zip(self.sources, xs, strict=True):
            np.copyto(source, x, casting="unsafe")
        self.net.step(self.moment)


def laid(kind: str, fields: Fields) -> Fields:
    """A record's fields with its packed weights, where its kind has them and the processor use for them."""
    if "packed" not in fields:
        return fields
    array = np.zeros(required().packed_size((kind, fields)), np.int8)
    required().pack((kind, fields), array)
    return fields | {"packed": array if array.size else None}


def same(ours: LayerRun, theirs: LayerRun, *, out: bool = True) -> None:
    """Outputs, state and what a head reads."""
    if out:
        np.testing.assert_array_equal(ours.out, theirs.out.astype(np.int64))
    mine, numpys = ours.state(), theirs.state()
    assert mine.keys() == numpys.keys()
    for name, array in numpys.items():
        np.testing.assert_array_equal(mine[name].astype(np.int64), array.astype(np.int64), err_msg=name)
    np.testing.assert_array_equal(ours.reading(), theirs.reading())
