"""Joining, turning, padding and cutting move every value to its place and change none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import shape as slow
from runs import rows, step_peak

from edgerun.errors import ModelError, SpecError
from edgerun.layers import Concat, Layer, Lookup, Pad, Slice, Take, Transpose
from edgerun.ops import PadRun
from exporters.nodes import Affine, FloatConcat, FloatPad, FloatSlice, FloatTake, FloatTranspose, Range

NEURONS = 2048
FAR = 1 << 24  # the largest magnitude whose neighbours a float32 tells apart

sizes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def labels(width: int, first: int = -(1 << 23)) -> np.ndarray:
    """Two rows in which no two values are equal, and the last ones are as large as they may be."""
    row = np.arange(first, first + width)
    row[-1] = FAR
    return np.stack([row, -row])


# ------------------------------------------------------------------ every value in its place


@given(st.data())
def test_a_join_puts_every_value_in_its_place(data: st.DataObject) -> None:
    shape = data.draw(sizes)
    axis = data.draw(st.integers(0, len(shape) - 1))
    along = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    shapes = tuple((*shape[:axis], n, *shape[axis + 1 :]) for n in along)
    spec = Concat(name="l", shapes=shapes, axis=axis)
    xs = [labels(width, 100 * k) for k, width in enumerate(spec.widths)]
    assert spec.shape == np.concatenate([np.zeros(s) for s in shapes], axis).shape
    assert rows(spec, {}, *xs) == [slow.concat(spec, row) for row in zip(*(x.tolist() for x in xs), strict=True)]
    node = FloatConcat("l", shapes, axis)
    assert (node.shape, node.widths) == (spec.shape, spec.widths)
    assert node.forward(*(x.astype(np.float32) for x in xs)).tolist() == rows(spec, {}, *xs)


@given(shape=sizes, order=st.randoms())
def test_turned_axes_put_every_value_in_its_place(shape: tuple[int, ...], order: Any) -> None:
    perm = list(range(len(shape)))
    order.shuffle(perm)
    spec = Transpose(name="l", input_shape=shape, perm=tuple(perm))
    x = labels(spec.widths[0])
    assert rows(spec, {}, x) == [slow.transpose(spec, row) for row in x.tolist()]
    node = FloatTranspose("l", shape, tuple(perm))
    assert (node.shape, node.widths) == (spec.shape, spec.widths)
    assert node.forward(x.astype(np.float32)).tolist() == rows(spec, {}, x)


@given(st.data())
def test_a_border_goes_all_around(data: st.DataObject) -> None:
    shape = data.draw(sizes)
    side = st.lists(st.integers(0, 3), min_size=len(shape), max_size=len(shape)).map(tuple)
    before, after, value = data.draw(side), data.draw(side), data.draw(st.integers(-128, 127))
    spec = Pad(name="l", input_shape=shape, before=before, after=after, value=value)
    x = labels(spec.widths[0])
    assert rows(spec, {}, x) == [slow.pad(spec, row) for row in x.tolist()]
    node = FloatPad("l", shape, before, after, value)
    assert (node.shape, node.widths) == (spec.shape, spec.widths)
    assert node.forward(x.astype(np.float32)).tolist() == rows(spec, {}, x)


@given(st.data())
def test_a_cut_keeps_the_positions_that_python_s_slices_keep(data: st.DataObject) -> None:
    shape = data.draw(sizes)
    slices = tuple(data.draw(st.slices(size).filter(lambda s, n=size: len(range(*s.indices(n))) > 0)) for size in shape)
    start, stop, step = zip(*(s.indices(n) for s, n in zip(slices, shape, strict=True)), strict=True)
    spec = Slice(name="l", input_shape=shape, start=start, stop=stop, step=step)
    x = labels(spec.widths[0])
    assert rows(spec, {}, x) == [slow.cut(spec, row) for row in x.tolist()]
    assert rows(spec, {}, x) == [row.reshape(shape)[slices].reshape(-1).tolist() for row in x]
    node = FloatSlice("l", shape, start, stop, step)
    assert (node.shape, node.widths) == (spec.shape, spec.widths)
    assert node.forward(x.astype(np.float32)).tolist() == rows(spec, {}, x)


@given(st.data())
def test_positions_are_taken_as_they_are_listed(data: st.DataObject) -> None:
    shape = data.draw(sizes)
    axis = data.draw(st.integers(0, len(shape) - 1))
    index = tuple(data.draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=6)))
    spec = Take(name="l", input_shape=shape, axis=axis, count=len(index))
    x, tensors = labels(spec.widths[0]), {"l.index": np.array(index, np.int32)}
    assert rows(spec, tensors, x) == [slow.take(spec, index, row) for row in x.tolist()]
    node = FloatTake("l", shape, axis, index)
    assert (node.shape, node.widths) == (spec.shape, spec.widths)
    assert node.forward(x.astype(np.float32)).tolist() == rows(spec, tensors, x)
    (found,) = node.quantise((Affine(0.5, 3),), Range(-1.0, 1.0))
    assert (found.layer, found.output, list(found.tensors)) == (spec, Affine(0.5, 3), ["l.index"])


def test_a_take_allocates_no_array() -> None:
    spec = Take(name="l", input_shape=(16, 8, 8), axis=2, count=16)
    assert spec.outputs == NEURONS
    assert step_peak(spec, {"l.index": np.arange(16, dtype=np.int32) % 8}, spec.widths) < NEURONS


LAYERS: tuple[Layer, ...] = (
    Concat(name="l", shapes=((16, 8, 10), (16, 8, 6)), axis=2),
    Transpose(name="l", input_shape=(16, 8, 16), perm=(2, 0, 1)),
    Pad(name="l", input_shape=(14, 8, 16), before=(1, 0, 0), after=(1, 0, 0), value=3),
    Slice(name="l", input_shape=(32, 8, 16), start=(31, 0, 0), stop=(-1, 8, 16), step=(-2, 1, 1)),
)


@pytest.mark.parametrize("spec", LAYERS, ids=lambda spec: type(spec).__name__)
def test_a_step_allocates_no_array(spec: Layer) -> None:
    assert spec.outputs == NEURONS
    assert step_peak(spec, {}, spec.widths) < NEURONS


def test_the_border_outlives_a_reset() -> None:
    run = PadRun(Pad(name="l", input_shape=(2,), before=(1,), after=(0,), value=-9), {}, ())
    assert run.out.tolist() == [-9, -9, -9]
    run.step(np.array([5, 6], np.float32))
    run.reset()
    run.step(np.array([7, 8], np.float32))
    assert run.out.tolist() == [-9, 7, 8]


@pytest.mark.parametrize("spec", LAYERS, ids=lambda spec: type(spec).__name__)
def test_the_certificate_ends_where_a_float32_does(spec: Layer) -> None:
    far = (FAR,) * len(spec.widths)
    assert spec.certify({}, far, frozenset()).bound == FAR
    with pytest.raises(SpecError, match=r"layer l: 16777217 reaches it, above 2\*\*24"):
        spec.certify({}, (FAR + 1, *far[1:]), frozenset())
    lost = np.full((1, spec.widths[0]), FAR + 1)
    others = [np.zeros((1, width)) for width in spec.widths[1:]]
    assert not (np.array(rows(spec, {}, lost, *others)) == FAR + 1).any()


def test_a_border_reaches_as_far_as_its_value() -> None:
    spec = Pad(name="l", input_shape=(1,), before=(1,), after=(0,), value=-128)
    assert spec.reach((1,)) == 128
    assert spec.reach((500,)) == 500


MANY = 1 << 20


@pytest.mark.parametrize(("kind", "fields", "message"), [
    (Concat, {"shapes": ((2, 3), (2, 4)), "axis": 0}, r"shapes \(\(2, 3\), \(2, 4\)\) differ beside axis 0"),
    (Concat, {"shapes": ((2,), (2, 4)), "axis": 1}, "differ beside axis 1"),
    (Concat, {"shapes": ((2,), (2,)), "axis": 1}, r"axis 1 is outside \[0, 0\]"),
    (Concat, {"shapes": ((MANY, 16), (MANY, 1)), "axis": 1}, r"holds 17825792 values, above 2\*\*24"),
    (Transpose, {"input_shape": (2, 3), "perm": (0, 0)}, r"perm \(0, 0\) does not order 2 axes"),
    (Transpose, {"input_shape": (2, 3), "perm": (0,)}, "does not order 2 axes"),
    (Transpose, {"input_shape": (MANY, MANY), "perm": (1, 0)}, "values, above"),
    (Pad, {"input_shape": (2, 3), "before": (1,), "after": (0, 0), "value": 0}, r"before \(1,\) is not one number"),
    (Pad, {"input_shape": (2,), "before": (1,), "after": (), "value": 0}, r"after \(\) is not one number"),
    (Pad, {"input_shape": (2, 2), "before": (MANY, MANY), "after": (0, 0), "value": 0}, "values, above"),
    (Slice, {"input_shape": (4,), "start": (0,), "stop": (4,), "step": (0,)}, r"step \(0,\) holds 0"),
    (Slice, {"input_shape": (4,), "start": (2,), "stop": (2,), "step": (1,)}, "of axis 0 are none, or beyond its 4"),
    (Slice, {"input_shape": (4,), "start": (0,), "stop": (5,), "step": (1,)}, "of axis 0 are none, or beyond its 4"),
    (Slice, {"input_shape": (4,), "start": (4,), "stop": (-1,), "step": (-1,)}, "of axis 0 are none, or beyond its 4"),
    (Slice, {"input_shape": (4,), "start": (0, 0), "stop": (4,), "step": (1,)}, r"start \(0, 0\) is not one number"),
    (Take, {"input_shape": (4,), "axis": 1, "count": 2}, r"axis 1 is outside \[0, 0\]"),
    (Take, {"input_shape": (16, 64), "axis": 0, "count": MANY}, r"holds 67108864 values, above 2\*\*24"),
    (Slice, {"input_shape": (MANY, MANY), "start": (0, 0), "stop": (1, 1), "step": (1, 1)}, "values, above"),
])  # fmt: skip
def test_what_moves_nowhere_is_refused(kind: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        kind(name="l", **fields)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: FloatConcat("c", ((2, 3), (2, 4)), 0), r"layer c: shapes .* differ beside axis 0"),
    (lambda: FloatConcat("c", (), 0), "layer c: shapes .* differ"),
    (lambda: FloatConcat("c", ((2,),), 1), r"layer c: axis 1 is outside \[0, 0\]"),
    (lambda: FloatTranspose("t", (2, 3), (1, 2)), r"layer t: perm \(1, 2\) does not order 2 axes"),
    (lambda: FloatPad("p", (2,), (-1,), (0,)), r"layer p: before \(-1,\) is not 1 numbers from 0; a negative"),
    (lambda: FloatSlice("s", (2, 2), (0,), (1, 1), (1, 1)), r"layer s: start \(0,\) is not one number for each of 2"),
    (lambda: FloatSlice("s", (2,), (0,), (1,), (0,)), r"layer s: step \(0,\) holds 0"),
    (lambda: FloatSlice("s", (2,), (0,), (3,), (1,)), r"layer s: range\(0, 3\) keeps nothing, or leaves axis 0 of 2"),
    (lambda: FloatSlice("s", (2,), (0,), (-1,), (1,)), "keeps nothing"),
])  # fmt: skip
def test_a_float_layer_that_moves_nowhere_is_named(make: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make()


# ------------------------------------------------------------------ maps

A, B = Affine(0.1, 3), Affine(0.02, -128)


def test_sources_of_one_map_are_joined_without_a_rounding() -> None:
    (made,) = FloatConcat("c", ((2,), (3,)), 0).quantise((A, A), Range(-1, 1))
    assert isinstance(made.layer, Concat)
    assert (made.output, made.layer.sources) == (A, ())


def test_a_source_with_another_map_is_rescaled_first() -> None:
    node = FloatConcat("c", ((1, 2), (1, 3)), 1, sources=("p", "q"))
    helper, made = node.quantise((A, B), Range(0, 5.1))
    assert isinstance(helper.layer, Lookup)
    assert (helper.layer.name, helper.layer.sources, helper.layer.shape) == ("c.in1", ("q",), (1, 3))
    assert (made.layer.name, made.layer.sources, made.output, helper.output) == ("c", ("p", "c.in1"), A, A)
    q = np.array([[-128, 0, 127]])
    want = [round(B.scale * (v + 128) / A.scale) + 3 for v in q[0].tolist()]
    assert rows(helper.layer, helper.tensors, q) == [want]


def test_a_join_takes_the_file_s_map_or_one_that_covers_what_was_seen() -> None:
    node = FloatConcat("c", ((1,), (1,)), 0, sources=("p", "q"))
    wide = Range(-40.0, 2.0)
    assert [made.layer.name for made in node.quantise((A, B), wide)] == ["c.in0", "c.in1", "c"]
    assert node.quantise((A, B), wide)[-1].output == wide.affine()
    fixed = FloatConcat("c", ((1,), (1,)), 0, sources=("p", "q"), output=B)
    assert [made.layer.name for made in fixed.quantise((A, B), wide)] == ["c.in0", "c"]
    assert fixed.quantise((A, B), wide)[-1].output == B


def test_a_nameless_source_cannot_be_rescaled() -> None:
    with pytest.raises(ModelError, match="layer c: 0 sources are named, 2 are needed to rescale"):
        FloatConcat("c", ((1,), (1,)), 0).quantise((A, B), Range(0, 1))


@pytest.mark.parametrize("kind", [FloatTranspose, FloatPad, FloatSlice])
def test_the_source_s_map_stays_unless_the_file_fixes_another(kind: Any) -> None:
    shapes = {FloatTranspose: ((2, 2), (1, 0)), FloatPad: ((2, 2), (0, 1), (1, 0)),
              FloatSlice: ((2, 2), (1, 0), (-1, 2), (-1, 1))}[kind]  # fmt: skip
    (made,) = kind("m", *shapes).quantise((A,), Range(-9, 9))
    assert (made.output, made.layer.name) == (A, "m")
    helper, made = kind("m", *shapes, sources=("p",), output=B).quantise((A,), Range(-9, 9))
    assert (helper.layer.name, helper.layer.sources, helper.output) == ("m.in0", ("p",), B)
    assert (made.layer.sources, made.output) == (("m.in0",), B)


def test_a_border_is_quantised_in_the_source_s_map() -> None:
    values = {}
    for value in (0.0, 0.52, -13.14, 12.44, -math.inf, math.inf):
        (made,) = FloatPad("p", (2,), (1,), (0,), value).quantise((A,), Range(-1, 1))
        assert isinstance(made.layer, Pad)
        values[value] = made.layer.value
    assert values == {0.0: 3, 0.52: 8, -13.14: -128, 12.44: 127, -math.inf: -128, math.inf: 127}
    with pytest.raises(ModelError, match=r"layer p: pad value 12.5 is outside \[-13.1, 12.4\]"):
        FloatPad("p", (2,), (1,), (0,), 12.5).quantise((A,), Range(-1, 1))
