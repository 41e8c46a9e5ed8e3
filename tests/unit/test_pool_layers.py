"""Pools of any geometry give the plain integers; means go up from a half, and a file's other map is kept to."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import pool as slow
from runs import peak_of, stepped

from edgerun.arrays import AnyArray, Tensors
from edgerun.errors import ModelError, SpecError
from edgerun.layers import AveragePool, MaxPool
from edgerun.layers.base import Certificate
from edgerun.layers.pool import Ties
from edgerun.ops import OPS
from exporters.nodes import Affine, FloatPool, Quantised, Range

KINDS = [MaxPool, AveragePool]
TIES: tuple[Ties, ...] = ("up", "even", "away")


def numbers(spec: Any, rng: np.random.Generator, shift: int) -> Tensors:
    if isinstance(spec, MaxPool):
        return {}
    n = len(spec.sizes)
    return {
        "l.multiplier": rng.integers(1 << 23, 1 << 24, n).astype(np.int32),
        "l.offset": rng.integers(-(1 << shift + 6), 1 << shift + 6, n),
        "l.shift": np.full(n, shift, np.uint8),
    }


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    """An image, and a kernel whose windows all see it."""
    shape = [draw(st.integers(1, 7)) for _ in range(2)]
    kernel = [draw(st.integers(1, size)) for size in shape]
    dilation = [draw(st.integers(1, 3)) if kernel[axis] == 1 else 1 for axis in (0, 1)]
    if kernel == [2, 2] and min(shape) > 3:
        dilation = [2, 3]
    padding = [draw(st.integers(0, kernel[side % 2] - 1)) for side in range(4)]
    return {
        "input_shape": (*shape, draw(st.integers(1, 4))), "kernel": tuple(kernel), "dilation": tuple(dilation),
        "padding": tuple(padding), "stride": (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@given(geometry=geometries(), data=st.data())
def test_any_geometry_equals_the_plain_integers(kind: type[Any], geometry: dict[str, Any], data: st.DataObject) -> None:
    rng, low = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))), data.draw(st.integers(-128, 0))
    fields: dict[str, Any] = {}
    if kind is AveragePool:
        fields = {"zero_point": data.draw(st.integers(-128, 127)), "ties": data.draw(st.sampled_from(TIES))}
    spec = kind(name="l", qmin=low, qmax=data.draw(st.integers(low, 127)), **geometry, **fields)
    tensors = numbers(spec, rng, data.draw(st.integers(20, 46)))
    if data.draw(st.booleans()) and kind is AveragePool:  # quarters: of such means many are a half
        tensors |= {"l.multiplier": np.full_like(tensors["l.multiplier"], 1 << 23)}
        tensors |= {"l.shift": np.full_like(tensors["l.shift"], 25), "l.offset": tensors["l.offset"] >> 23 << 23}
    x = rng.integers(-128, 128, (3, *spec.widths))
    x[0] = rng.choice([-128, 127], spec.widths)
    want = [slow.pool(spec, tensors, row) for row in x.tolist()]
    assert stepped(spec, tensors, x).tolist() == want
    assert [stepped(spec, tensors, row).tolist() for row in x] == want


# ------------------------------------------------------------------ certificates


def test_a_mean_is_exact_at_the_edge_of_float64_and_goes_on_in_int64() -> None:
    """One window of 2**17 values, all of one sign: sums reach 2**24, products 2**48, and the offset does the rest."""
    size, m, s = 1 << 17, (1 << 24) - 1, 46
    spec = AveragePool(name="l", input_shape=(512, 256, 1), kernel=(512, 256), zero_point=-64)
    edge = (1 << 53) - (1 << 24) * m - (64 << s)
    tied = AveragePool(name="l", input_shape=(512, 256, 1), kernel=(512, 256), zero_point=-64, ties="even")
    found, looked = [], []
    for offset in (edge, edge + 1, -edge, -edge - 1):
        tensors: Tensors = {
            "l.multiplier": np.array([m], np.int32), "l.offset": np.array([offset]), "l.shift": np.array([s], np.uint8),
        }  # fmt: skip
        found.append(spec.proof(tensors).carrier)
        looked.append(tied.proof(tensors).carrier)
        for x in (np.full(size, -128), np.full(size, 127)):
            assert stepped(spec, tensors, x).tolist() == slow.pool(spec, tensors, x.tolist())
            assert stepped(tied, tensors, x).tolist() == slow.pool(tied, tensors, x.tolist())
    assert found == ["float32-dot", "int64", "float32-dot", "int64"]
    assert looked == ["float32-dot", "int64", "int64", "int64"]  # a half sent down goes further below


def test_the_last_bit_of_a_mean_shows_where_a_float64_would_lose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = AveragePool(name="l", input_shape=(1, 1, 1), kernel=(1, 1), zero_point=-128)
    offset = (1 << 46) * 128 - (1 << 24) + 1  # with x * m = 2**24 - 1 it ends on a whole step exactly
    tensors: Tensors = {
        "l.multiplier": np.array([(1 << 24) - 1], np.int32), "l.offset": np.array([offset - 1]),
        "l.shift": np.array([46], np.uint8),
    }  # fmt: skip
    assert spec.proof(tensors).carrier == "int64"
    x = np.array([1])
    assert stepped(spec, tensors, x).tolist() == slow.pool(spec, tensors, [1]) == [-1]
    tensors["l.offset"] += 1
    assert stepped(spec, tensors, x).tolist() == slow.pool(spec, tensors, [1]) == [0]


def test_a_window_of_too_many_values_and_an_input_beyond_the_bound_are_refused() -> None:
    large = AveragePool(name="l", input_shape=(513, 256, 1), kernel=(513, 256))
    tensors = numbers(large, np.random.default_rng(0), 40)
    with pytest.raises(SpecError, match=r"layer l channel 0: values of a window .* 16809984 is above 16777216"):
        large.proof(tensors)
    near = AveragePool(name="l", input_shape=(4, 4, 1), kernel=(2, 2), input_bound=9)
    assert near.certify(tensors, (9,), frozenset()).bound == 36
    with pytest.raises(SpecError, match="input_bound 9 is under the 10"):
        near.certify(tensors, (10,), frozenset())
    largest = MaxPool(name="l", input_shape=(4, 4, 1), kernel=(2, 2))
    assert largest.certify({}, (77,), frozenset()) == Certificate("float32-folded", 77)
    with pytest.raises(SpecError, match="layer l: 255 reaches it, above the 128"):
        largest.certify({}, (255,), frozenset())


@pytest.mark.parametrize(("low", "high", "reach"), [(-128, 127, 1), (-128, 0, 1), (9, 127, 9), (-90, -70, 70)])
def test_a_maximum_reaches_no_further_than_its_input_and_its_clip(low: int, high: int, reach: int) -> None:
    spec = MaxPool(name="l", input_shape=(2, 2, 1), kernel=(2, 2), qmin=low, qmax=high)
    assert spec.reach((1,)) == reach
    seen = [stepped(spec, {}, np.full(4, x))[0] for x in (-1, 0, 1)]
    assert max(map(abs, seen)) <= reach


# ------------------------------------------------------------------ records and memory

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing fits": ({"kernel": (7, 3)}, r"kernel \(7, 3\)"),
    "only padding": ({"padding": (3, 0, 0, 0)}, r"padding \(3, 0, 0, 0\) holds a whole window of kernel \(3, 3\)"),
    "only padding, after": ({"padding": (0, 0, 0, 3)}, "holds a whole window"),
    "clip": ({"qmin": 5, "qmax": 4}, "qmin 5 is above qmax 4"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fields", "message"), WRONG.values(), ids=WRONG)
def test_a_pool_that_cannot_be_is_refused(kind: type[Any], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        kind(**{"name": "l", "input_shape": (6, 5, 4), "kernel": (3, 3)} | fields)


@pytest.mark.parametrize(("kind", "fields"), [(MaxPool, {}), *((AveragePool, {"ties": ties}) for ties in TIES)])
def test_a_step_allocates_no_array(kind: type[Any], fields: dict[str, Any]) -> None:
    spec = kind(name="l", input_shape=(80, 80, 16), kernel=(3, 3), padding=(1, 1, 1, 1), **fields)
    run = OPS[kind](spec, numbers(spec, np.random.default_rng(0), 40), ())
    x, buffer = np.ones(spec.widths, np.float32), 8192 * 8 + 4096  # numpy's own walk over an image
    assert spec.outputs > buffer
    assert peak_of(lambda: run.step(x)) < buffer


# ------------------------------------------------------------------ from float


def run_all(made: tuple[Quantised, ...], q: AnyArray) -> AnyArray:
    """The integers of the last layer; each layer reads the one that its sources name, the first one `q`."""
    known = {"input": q}
    for part in made:
        part.layer.certify(part.tensors, (128,), frozenset())
        (source,) = part.layer.sources
        known[part.layer.name] = stepped(part.layer, part.tensors, known[source])
    return known[made[-1].layer.name]


ONNX: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("MaxPool", {"stride": (2, 2), "padding": (1, 0, 1, 1)}, {}),
    ("MaxPool", {"stride": (1, 2), "dilation": (2, 1), "padding": (0, 1, 2, 0)}, {}),
    ("MaxPool", {"stride": (2, 2), "padding": (0, 0, 0, 1)}, {"ceil_mode": 1, "pads": [0, 0, 0, 0]}),
    ("AveragePool", {"stride": (2, 1), "padding": (1, 0, 1, 1)}, {}),
    ("AveragePool", {"stride": (2, 1), "padding": (1, 0, 1, 1), "count_padding": True}, {"count_include_pad": 1}),
    ("AveragePool", {"stride": (2, 2), "padding": (0, 0, 0, 1)}, {"ceil_mode": 1, "pads": [0, 0, 0, 0]}),
]


@pytest.mark.parametrize(("operator", "geometry", "extra"), ONNX)
def test_a_float_pool_computes_what_onnx_runtime_does(
    operator: str, geometry: dict[str, Any], extra: dict[str, Any]
) -> None:
    onnx = pytest.importorskip("onnx", reason="pip install 'edgerun[export]'")
    runtime = pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")
    value = onnx.helper.make_tensor_value_info
    attributes = {
        "kernel_shape": [3, 2], "strides": list(geometry["stride"]), "pads": list(geometry["padding"]),
        "dilations": list(geometry.get("dilation", (1, 1))),
    } | extra  # fmt: skip
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, ["x"], ["y"], **attributes)], "g",
        [value("x", onnx.TensorProto.FLOAT, [None] * 4)], [value("y", onnx.TensorProto.FLOAT, [None] * 4)],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(size=(3, 7, 5, 2)).astype(np.float32)
    (y,) = session.run(None, {"x": x.transpose(0, 3, 1, 2)})
    kind: Any = "max" if operator == "MaxPool" else "average"
    node = FloatPool("l", (7, 5, 2), kind, (3, 2), **geometry)
    assert node.shape == (*y.shape[2:], 2)
    np.testing.assert_allclose(node.forward(x.reshape(3, -1)), y.transpose(0, 2, 3, 1).reshape(3, -1), atol=1e-6)


def rounded(total: int, n: int, zero: int, ties: str) -> int:
    """total / n in whole steps, by the definition of each rule."""
    exact = Fraction(total, n)
    if ties == "even":
        return round(exact - zero) + zero
    away = ties == "away" and exact < 0
    return -math.floor(-exact + Fraction(1, 2)) if away else math.floor(exact + Fraction(1, 2))


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("zero", [-128, -3, 0, 17, 127])
@pytest.mark.parametrize("n", [1, 2, 6, 9, 50, 125, 250])
def test_every_mean_that_a_file_fixes_is_rounded_as_it_says(n: int, zero: int, ties: Ties) -> None:
    """All sums that n int8 values can have, halves among them."""
    map_ = Affine(0.0173, zero)
    node = FloatPool("l", (1, n, 1), "average", (1, n), (1, 1), ties=ties, output=map_, sources=("input",))
    totals = np.arange(-128 * n, 127 * n + 1)
    q = totals[:, None] // n + (np.arange(n) < (totals % n)[:, None])
    assert q.sum(axis=1).tolist() == totals.tolist()
    got = run_all(node.quantise((map_,), Range(0.0, 1.0)), q)
    assert got[:, 0].tolist() == [rounded(total, n, zero, ties) for total in totals.tolist()]


@pytest.mark.parametrize("ties", TIES)
def test_halves_are_told_apart_up_to_windows_of_ten_thousand_values(ties: Ties) -> None:
    map_, n = Affine(0.0173, 5), 10_000
    node = FloatPool("l", (1, n, 1), "average", (1, n), (1, 1), ties=ties, output=map_, sources=("input",))
    totals = [half * n // 2 + off for half in (-7, -5, -1, 1, 3, 11) for off in (-1, 0, 1)]
    q = np.array([[total // n + (k < total % n) for k in range(n)] for total in totals])
    got = run_all(node.quantise((map_,), Range(0.0, 1.0)), q)
    assert got[:, 0].tolist() == [rounded(total, n, 5, ties) for total in totals]


def test_a_ratio_that_is_nearly_a_power_of_two_is_no_coarser_for_it() -> None:
    node = FloatPool("l", (1, 4, 1), "average", (1, 4), (1, 1), output=Affine(0.02, 0), sources=("input",))
    totals = np.arange(-512, 509)
    q = totals[:, None] // 4 + (np.arange(4) < (totals % 4)[:, None])
    for off in (-1e-9, 1e-9):
        got = run_all(node.quantise((Affine(0.02 * (1 + off), 0),), Range(0.0, 1.0)), q)[:, 0]
        apart = totals % 4 != 2  # where the mean is no half
        assert got[apart].tolist() == ((2 * totals + 4) // 8)[apart].tolist()


@pytest.mark.parametrize("count", [False, True])
def test_a_mean_may_change_its_map_and_leave_padding_out(count: bool) -> None:
    rng, x_map = np.random.default_rng(3), Affine(0.05, 40)
    node = FloatPool(
        "l", (5, 6, 3), "average", (3, 3), (2, 2), padding=(1, 1, 1, 2), count_padding=count, low=-1.5,
        sources=("input",),
    )  # fmt: skip
    q = rng.integers(-128, 128, (50, *node.widths))
    real = node.forward(((q - 40) * 0.05).astype(np.float32))
    (made,) = node.quantise((x_map,), Range(float(real.min()), float(real.max())))
    assert len(made.tensors["l.multiplier"]) == 5  # windows see 2, 3, 4, 6 or 9 values
    y = run_all((made,), q)
    assert np.abs((y - made.output.zero_point) * made.output.scale - real).max() < 0.501 * made.output.scale
    assert np.unique(y).size > 100


def test_a_maximum_keeps_its_map_and_follows_a_file_that_changes_it() -> None:
    rng, x_map, y_map = np.random.default_rng(3), Affine(0.05, 40), Affine(0.031, -100)
    q = rng.integers(-128, 128, (50, 90))
    for output, layers, slack in ((None, ["l"], 1e-5), (x_map, ["l"], 1e-5), (y_map, ["l.max", "l"], 0.501)):
        node = FloatPool(
            "l", (5, 6, 3), "max", (3, 3), (2, 2), padding=(1, 1, 1, 1), low=0.0, high=6.0, output=output,
            sources=("input",),
        )  # fmt: skip
        made = node.quantise((x_map,), Range(0.0, 1.0))
        assert [part.layer.name for part in made] == layers
        assert made[-1].output == (output or x_map)
        y, out = run_all(made, q), made[-1].output
        real = np.clip(node.forward(((q - 40) * 0.05).astype(np.float32)), 0, (127 - out.zero_point) * out.scale)
        assert np.abs((y - out.zero_point) * out.scale - real).max() < slack * out.scale


def test_a_scale_that_no_multiplier_holds_is_refused() -> None:
    node = FloatPool("l", (4, 4, 1), "average", (2, 2), (2, 2))
    with pytest.raises(ModelError, match="layer l channel 0: scale"):
        node.quantise((Affine(1e9, 0),), Range(0.0, 1e-9))
