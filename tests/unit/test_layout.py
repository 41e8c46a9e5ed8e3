"""What an import tidies up: the same function in fewer layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.arrays import F32
from exporters.float_net import FloatNet, forward
from exporters.layout import NEAR, PROBES, named, simplified
from exporters.nodes import (
    UNARY,
    Affine,
    FloatAdd,
    FloatDense,
    FloatGru,
    FloatLayer,
    FloatMul,
    FloatSlice,
    FloatTranspose,
    FloatUnary,
)

RNG = np.random.default_rng(9)


def answer(layers: Sequence[FloatLayer], shape: tuple[int, ...], x: F32) -> F32:
    net = FloatNet("net", shape, tuple(layers))
    return forward(net, net.moments(x)).readings[layers[-1].name]


def tidied(layers: Sequence[FloatLayer]) -> tuple[FloatLayer, ...]:
    return simplified({layer.name: layer for layer in layers}, layers[-1].name)


def same(layers: Sequence[FloatLayer], shape: tuple[int, ...], kinds: str) -> tuple[FloatLayer, ...]:
    """The tidied layers, once they are of these kinds and compute what the others did."""
    found = tidied(layers)
    assert " ".join(type(layer).__name__.removeprefix("Float") for layer in found) == kinds
    x = RNG.normal(size=(3, *shape)).astype(np.float32)
    np.testing.assert_allclose(answer(found, shape, x), answer(layers, shape, x), rtol=1e-4, atol=1e-5)
    return found


def dense(name: str, outputs: int, inputs: int, source: str) -> FloatDense:
    weight = RNG.normal(size=(outputs, inputs)).astype(np.float32)
    return FloatDense(name, weight, np.zeros(outputs, np.float32), sources=(source,))


@st.composite
def two_transposes(draw: st.DrawFn) -> tuple[FloatTranspose, FloatTranspose]:
    """The second reads the first's values in another grouping of axes, as after a reshape."""
    parts = draw(st.lists(st.integers(1, 4), min_size=2, max_size=5))
    first = FloatTranspose("a", tuple(parts), tuple(draw(st.permutations(range(len(parts))))), sources=("input",))
    cuts = sorted(draw(st.sets(st.integers(1, len(parts) - 1))))
    ends = [0, *cuts, len(parts)]
    shape = tuple(math.prod(first.shape[a:b]) for a, b in itertools.pairwise(ends))
    return first, FloatTranspose("b", shape, tuple(draw(st.permutations(range(len(shape))))), sources=("a",))


@given(two_transposes())
def test_two_transposes_become_one_or_none(pair: tuple[FloatTranspose, FloatTranspose]) -> None:
    size = pair[0].outputs
    end = FloatUnary("end", (size,), "tanh", sources=("b",))
    found = tidied([*pair, end])
    x = np.arange(2 * size, dtype=np.float32).reshape(2, size) / size
    np.testing.assert_array_equal(answer(found, (size,), x), answer([*pair, end], (size,), x))
    assert len(found) <= 2


def test_a_transpose_that_cuts_axes_otherwise_stays() -> None:
    first = FloatTranspose("a", (2, 3), (1, 0), sources=("input",))
    second = FloatTranspose("b", (2, 3), (1, 0), sources=("a",))
    same([first, second], (6,), "Transpose Transpose")


def test_dense_columns_move_instead_of_values() -> None:
    turn = FloatTranspose("t", (3, 4, 2), (2, 0, 1), sources=("input",))
    same([turn, dense("d", 5, 24, "t")], (24,), "Dense")


def test_a_transpose_with_a_map_of_its_own_stays() -> None:
    turn = FloatTranspose("t", (3, 8), (1, 0), sources=("input",), output=Affine(0.5, 3))
    same([turn, dense("d", 5, 24, "t")], (24,), "Transpose Dense")


def test_what_nobody_reads_goes() -> None:
    layers = [dense("a", 4, 6, "input"), dense("b", 4, 6, "input"), FloatUnary("c", (4,), "tanh", sources=("a",))]
    assert [layer.name for layer in same(layers, (6,), "Dense Unary")] == ["a", "c"]


def gru(sequence: bool, *, reverse: bool = False) -> FloatGru:
    w, r, b = (RNG.normal(size=shape).astype(np.float32) for shape in ((12, 3), (12, 4), (12,)))
    return FloatGru("g", 5, w, r, b, b, sequence=sequence, reverse=reverse, sources=("input",))


@pytest.mark.parametrize(("reverse", "at", "kinds"), [(False, 4, "Gru"), (True, 0, "Gru"), (False, 0, "Gru Slice")])
def test_a_recurrent_layer_gives_only_the_step_that_is_read(reverse: bool, at: int, kinds: str) -> None:
    cut = FloatSlice("s", (5, 4), (at, 0), (at + 1, 4), (1, 1), sources=("g",))
    same([gru(True, reverse=reverse), cut], (15,), kinds)


def test_a_recurrent_layer_with_another_reader_gives_every_step() -> None:
    cut = FloatSlice("s", (5, 4), (4, 0), (5, 4), (1, 1), sources=("g",))
    layers = [gru(True), cut, dense("d", 4, 20, "g"), FloatAdd("y", ((4,), (4,)), sources=("s", "d"))]
    same(layers, (15,), "Gru Slice Dense Add")


def silu(output: Affine | None = None) -> list[FloatLayer]:
    return [
        dense("d", 4, 6, "input"),
        FloatUnary("s", (4,), "sigmoid", sources=("d",), output=output),
        FloatMul("y", ((4,), (4,)), sources=("s", "d")),
    ]


def test_many_layers_become_one_function() -> None:
    found = same(silu(), (6,), "Dense Unary")
    assert isinstance(found[-1], FloatUnary)
    assert (found[-1].name, found[-1].function, found[-1].sources) == ("y", "silu", ("d",))


def test_a_map_inside_keeps_layers_apart() -> None:
    """The file rounds between them: one lookup would round once only."""
    same(silu(Affine(1 / 256, -128)), (6,), "Dense Unary Mul")


def test_a_product_of_two_different_values_is_none() -> None:
    layers = [
        dense("a", 4, 6, "input"),
        dense("b", 4, 6, "input"),
        FloatUnary("s", (4,), "sigmoid", sources=("a",)),
        FloatMul("y", ((4,), (4,)), sources=("s", "b")),
    ]
    same(layers, (6,), "Dense Dense Unary Mul")


def test_a_clip_that_no_function_has_keeps_the_layers() -> None:
    layers = silu()
    layers[-1] = FloatMul("y", ((4,), (4,)), low=0.0, high=1.0, sources=("s", "d"))
    same(layers, (6,), "Dense Unary Mul")


def test_no_two_functions_are_alike_where_they_are_tried() -> None:
    """Else a match would be the wrong one. By default affine and clip change nothing, power squares, celu is elu."""
    alike = {"affine": "identity", "clip": "identity", "power": "square", "celu": "elu"}
    for name in UNARY:
        values = FloatUnary("f", (1,), name).value(PROBES)
        if np.isfinite(values[:NEAR]).all():
            assert named(values) == alike.get(name, name)
