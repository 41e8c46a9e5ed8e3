"""Sums, products and tables: the kernels are the page's integers, and the exporter's maps the real functions."""

from __future__ import annotations

import math
import warnings

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from reference import elementwise as slow
from runs import rows, step_peak

from edgerun.errors import ModelError, SpecError
from edgerun.layers import Add, Lookup, Mul
from exporters.nodes import UNARY, Affine, FloatAdd, FloatMul, FloatUnary, Quantised, Range

NEURONS = 2048
TOP = (1 << 24) - 1

int8 = st.integers(-128, 127)
clips = st.tuples(int8, int8).map(lambda pair: tuple(sorted(pair)))
factors = st.one_of(st.sampled_from([TOP, -TOP, 0, 1, -1, 1 << 23]), st.integers(-TOP, TOP))


@st.composite
def shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that broadcast, each axis stretched on either side or none."""
    axes = draw(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["both", "a", "b"])), min_size=1, max_size=4))
    return (
        tuple(1 if which == "b" else size for size, which in axes),
        tuple(1 if which == "a" else size for size, which in axes),
    )


def values(rng: np.random.Generator, width: int) -> np.ndarray:
    """Three rows: anything, and both ends."""
    return np.stack([rng.integers(-128, 128, width), np.full(width, -128), np.full(width, 127)])


# ------------------------------------------------------------------ kernels


@given(
    shapes=shapes(), multipliers=st.tuples(factors, factors), offset=st.integers(-(1 << 46), 1 << 46),
    shift=st.integers(1, 44), zero_point=int8, clip=clips, seed=st.integers(0, 99), near=st.booleans(),
)  # fmt: skip
def test_a_sum_is_the_page_s(shapes, multipliers, offset, shift, zero_point, clip, seed, near) -> None:  # type: ignore[no-untyped-def]
    if near:
        offset %= 1 << min(46, shift)  # else most offsets lie far beyond the clip
    spec = Add(
        name="l", shapes=shapes, multipliers=multipliers, offset=offset, shift=shift, zero_point=zero_point,
        qmin=clip[0], qmax=clip[1],
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    a, b = (values(rng, width) for width in spec.widths)
    spec.certify({}, (128, 128), frozenset())
    assert rows(spec, {}, a, b) == [slow.add(spec, *pair) for pair in zip(a.tolist(), b.tolist(), strict=True)]


@given(
    shapes=shapes(), zeros=st.tuples(int8, int8), multiplier=st.integers(1, TOP), shift=st.integers(1, 44),
    zero_point=int8, clip=clips, seed=st.integers(0, 99),
)  # fmt: skip
def test_a_product_is_the_page_s(shapes, zeros, multiplier, shift, zero_point, clip, seed) -> None:  # type: ignore[no-untyped-def]
    spec = Mul(
        name="l", shapes=shapes, zeros=zeros, multiplier=multiplier, shift=shift, zero_point=zero_point,
        qmin=clip[0], qmax=clip[1],
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    a, b = (values(rng, width) for width in spec.widths)
    spec.certify({}, (128, 128), frozenset())
    assert rows(spec, {}, a, b) == [slow.multiply(spec, *pair) for pair in zip(a.tolist(), b.tolist(), strict=True)]


def test_a_table_gives_every_entry() -> None:
    table = np.random.default_rng(1).permutation(np.arange(-128, 128)).astype(np.int8)
    x = np.arange(-128, 128).reshape(2, 128)
    found = rows(Lookup(name="l", shape=(2, 64)), {"l.table": table}, x)
    assert found == [slow.lookup(table.tolist(), row) for row in x.tolist()]
    assert found == table.reshape(2, 128).tolist()


def test_a_sum_is_exact_as_far_as_a_float32_carries_its_sources() -> None:
    """Every term at its largest, and the last bit of it shows."""
    reach = 1 << 24
    total = 2 * reach * TOP
    spec = Add(name="l", shapes=((1,), (1,)), multipliers=(TOP, TOP), offset=-total + (1 << 20), shift=21)
    assert spec.certify({}, (reach, reach), frozenset()).bound == 2 * reach * TOP + abs(spec.offset) <= 1 << 53
    x = np.array([[reach], [reach], [reach - 1]])
    y = np.array([[reach], [reach - 1], [reach]])
    want = [slow.add(spec, *pair) for pair in zip(x.tolist(), y.tolist(), strict=True)]
    assert rows(spec, {}, x, y) == want == [[0], [-8], [-8]]


def test_what_a_float64_cannot_hold_is_refused() -> None:
    spec = Add(name="l", shapes=((1,), (1,)), multipliers=(1, 1), offset=0, shift=44, zero_point=-128)
    room = (1 << 53) - (128 << 44)
    assert spec.certify({}, (room - 1, 1), frozenset()).bound == room
    with pytest.raises(SpecError, match="layer l: sum of both sources 9007199254740993 is above 9007199254740992"):
        spec.certify({}, (room, 1), frozenset())


def test_a_product_is_exact_at_its_bound_and_refused_one_beyond_where_it_is_wrong() -> None:
    spec = Mul(name="l", shapes=((1,), (1,)), zeros=(0, -1), multiplier=4_186_112 + 127, shift=40)
    assert spec.certify({}, (4096, 4095), frozenset()).bound == 1 << 24
    a, b = np.array([[4096], [4095]]), np.array([[4095], [4095]])
    assert rows(spec, {}, a, b) == [slow.multiply(spec, *pair) for pair in zip(a.tolist(), b.tolist(), strict=True)]
    with pytest.raises(SpecError, match="product of both sources 16781312 is above 16777216"):
        spec.certify({}, (4096, 4096), frozenset())
    # 4097 * 4161 is odd and over 2**24: a float32 drops its last bit, which this scale shows
    beyond = Mul(name="l", shapes=((1,), (1,)), zeros=(0, 0), multiplier=515_972, shift=44)
    assert slow.multiply(beyond, [4097], [4161]) == [1]
    assert rows(beyond, {}, np.array([[4097]]), np.array([[4161]])) == [[0]]


def test_a_table_takes_int8_only() -> None:
    with pytest.raises(SpecError, match="layer l: 129 reaches it, above the 128 of int8"):
        Lookup(name="l", shape=(1,)).certify({}, (129,), frozenset())


@pytest.mark.parametrize("shape", [(NEURONS,), (16, 8, 16)])
def test_a_step_allocates_no_array(shape: tuple[int, ...]) -> None:
    channel = (*(1 for _ in shape[:-1]), shape[-1])
    for other in (shape, channel):
        add = Add(name="l", shapes=(shape, other), multipliers=(TOP, 5), offset=3, shift=24)
        mul = Mul(name="l", shapes=(other, shape), zeros=(1, 2), multiplier=TOP, shift=24)
        for spec in (add, mul):
            assert step_peak(spec, {}, spec.widths) < NEURONS, spec
    table = {"l.table": np.zeros(256, np.int8)}
    assert step_peak(Lookup(name="l", shape=shape), table, (NEURONS,)) < NEURONS


@pytest.mark.parametrize(("fields", "message"), [
    ({"shapes": ((2, 3), (2, 2))}, r"shapes \(2, 3\) and \(2, 2\) do not broadcast"),
    ({"shapes": ((2, 3), (3,))}, "do not broadcast"),
    ({"shapes": ((1 << 20, 1), (1, 1 << 20))}, r"holds 1099511627776 values, above 2\*\*24"),
    ({"qmin": 5, "qmax": 4}, "qmin 5 is above qmax 4"),
])  # fmt: skip
def test_what_is_no_sum_is_refused(fields: dict[str, object], message: str) -> None:
    plain: dict[str, object] = {"shapes": ((2,), (2,)), "multipliers": (1, 1), "offset": 0, "shift": 1}
    with pytest.raises(SpecError, match=message):
        Add(name="l", **plain | fields)  # type: ignore[arg-type]
    product: dict[str, object] = {"shapes": ((2,), (2,)), "zeros": (0, 0), "multiplier": 1, "shift": 1}
    with pytest.raises(SpecError, match=message):
        Mul(name="l", **product | fields)  # type: ignore[arg-type]


# ------------------------------------------------------------------ the exporter


def real(x: np.ndarray, map_: Affine) -> np.ndarray:
    return map_.scale * (x.astype(np.float64) - map_.zero_point)


def layer_of(made: tuple[Quantised, ...]) -> Quantised:
    (quantised,) = made
    return quantised


maps = st.builds(Affine, st.floats(0.001, 9.0), int8)


@given(a=maps, b=maps, signs=st.sampled_from([(1, 1), (1, -1), (-1, -1)]), seed=st.integers(0, 99), relu=st.booleans())
def test_a_quantised_sum_is_the_real_one_rounded(
    a: Affine, b: Affine, signs: tuple[int, int], seed: int, relu: bool
) -> None:
    node = FloatAdd("s", ((4, 6), (1, 6)), signs, low=0.0 if relu else -np.inf)
    rng = np.random.default_rng(seed)
    x, y = values(rng, 24), values(rng, 6)
    want = node.forward(real(x, a).astype(np.float32), real(y, b).astype(np.float32)).astype(np.float64)
    found = layer_of(node.quantise((a, b), Range(min(0.0, want.min()), max(0.0, want.max()))))
    assert (found.layer.name, node.shape) == ("s", (4, 6))
    got = real(np.array(rows(found.layer, found.tensors, x, y)), found.output)
    assert np.abs(got - want).max() <= found.output.scale * 0.501 + 1e-5 * np.abs(want).max()


@given(a=maps, b=maps, y=maps)
def test_zeros_add_up_to_exactly_zero(a: Affine, b: Affine, y: Affine) -> None:
    found = layer_of(FloatAdd("s", ((1,), (1,)), output=y).quantise((a, b), Range(0, 0)))
    zeros = np.array([[a.zero_point]]), np.array([[b.zero_point]])
    assert rows(found.layer, {}, *zeros) == [[y.zero_point]]


@given(a=maps, b=maps, seed=st.integers(0, 99))
def test_a_quantised_product_is_the_real_one_rounded(a: Affine, b: Affine, seed: int) -> None:
    node = FloatMul("p", ((4, 6), (4, 1)))
    rng = np.random.default_rng(seed)
    x, y = values(rng, 24), values(rng, 4)
    want = node.forward(real(x, a).astype(np.float32), real(y, b).astype(np.float32)).astype(np.float64)
    found = layer_of(node.quantise((a, b), Range(min(0.0, want.min()), max(0.0, want.max()))))
    got = real(np.array(rows(found.layer, found.tensors, x, y)), found.output)
    assert np.abs(got - want).max() <= found.output.scale * 0.501 + 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("kind", [FloatAdd, FloatMul])
def test_a_clip_behind_it_is_the_layer_s_own(kind: type[FloatAdd | FloatMul]) -> None:
    y = Affine(0.5, -10)
    node = kind("s", ((3,), (3,)), low=0.0, high=6.0, output=y)
    found = layer_of(node.quantise((Affine(1.0, 0), Affine(1.0, 0)), Range(0, 0)))
    a, b = np.array([[-9, 2, 90]]), np.array([[1, 1, 1]])
    assert rows(found.layer, {}, a, b) == [[-10, 2 * node.forward(a, b)[0, 1] - 10, 2]]
    assert found.layer.reach((128, 128)) == 10


def test_a_source_that_cannot_be_seen_adds_nothing() -> None:
    node = FloatAdd("s", ((1,), (1,)), output=Affine(1.0, 0))
    layer = layer_of(node.quantise((Affine(1.0, 0), Affine(2.0**-26, 5)), Range(0, 0))).layer
    assert isinstance(layer, Add)
    assert layer.multipliers == (1 << 23, 0)


@pytest.mark.parametrize("scale", [2.0**-22, 2.0**23, math.nan])
def test_a_scale_that_no_multiplier_holds_names_the_layer(scale: float) -> None:
    sources = Affine(scale, 0), Affine(1.0, 0)
    for node in (FloatMul("far", ((1,), (1,)), output=Affine(1.0, 0)),
                 FloatAdd("far", ((1,), (1,)), output=Affine(max(1.0, 1 / scale), 0))):  # fmt: skip
        with pytest.raises(ModelError, match=r"layer far: scale .* is outside \[2\*\*-21, 2\*\*23\) of the output's"):
            node.quantise(sources, Range(0, 0))


@pytest.mark.parametrize("scale", [2.0**-21, np.nextafter(2.0**23, 0), np.nextafter(1.0, 0), 1.0])
def test_scales_at_both_ends_keep_24_bits(scale: float) -> None:
    layer = layer_of(FloatMul("p", ((1,), (1,)), output=Affine(1.0, 0)).quantise(
        (Affine(scale, 0), Affine(1.0, 0)), Range(0, 0))).layer  # fmt: skip
    assert isinstance(layer, Mul)
    assert 1 << 23 <= layer.multiplier < 1 << 24
    assert math.isclose(layer.multiplier * 2.0**-layer.shift, scale, rel_tol=2.0**-24)


# ------------------------------------------------------------------ functions

PEERS = {  # our name and parameters, ONNX's operator and attributes
    "neg": ((), "Neg", {}), "abs": ((), "Abs", {}), "sign": ((), "Sign", {}), "exp": ((), "Exp", {}),
    "sin": ((), "Sin", {}), "cos": ((), "Cos", {}), "erf": ((), "Erf", {}), "floor": ((), "Floor", {}),
    "ceil": ((), "Ceil", {}), "round": ((), "Round", {}), "relu": ((), "Relu", {}),
    "leaky-relu": ((0.07,), "LeakyRelu", {"alpha": 0.07}), "elu": ((0.7,), "Elu", {"alpha": 0.7}),
    "thresholded-relu": ((0.55,), "ThresholdedRelu", {"alpha": 0.55}), "celu": ((1.6,), "Celu", {"alpha": 1.6}),
    "selu": ((), "Selu", {}), "shrink": ((0.2, 0.9), "Shrink", {"bias": 0.2, "lambd": 0.9}),
    "sigmoid": ((), "Sigmoid", {}), "hard-sigmoid": ((0.3, 0.4), "HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    "tanh": ((), "Tanh", {}), "softsign": ((), "Softsign", {}), "softplus": ((), "Softplus", {}),
    "hard-swish": ((), "HardSwish", {}), "mish": ((), "Mish", {}), "gelu": ((), "Gelu", {"approximate": "none"}),
    "gelu-tanh": ((), "Gelu", {"approximate": "tanh"}), "sqrt": ((), "Sqrt", {}), "log": ((), "Log", {}),
    "reciprocal": ((), "Reciprocal", {}), "identity": ((), "Identity", {}),
}  # fmt: skip
FORMULAS = {
    "affine": ((3.0, -1.0), lambda x: 3 * x - 1), "square": ((), lambda x: x * x), "power": ((3.0,), lambda x: x**3),
    "clip": ((-1.0, 6.0), lambda x: min(max(x, -1.0), 6.0)), "silu": ((), lambda x: x / (1 + math.exp(-x))),
    "rsqrt": ((), lambda x: abs(x) ** -0.5 if x > 0 else math.nan),
}  # fmt: skip
POINTS = np.array([-7.5, -3.0, -1.25, -0.6, -0.5, -0.1, 0.1, 0.5, 0.6, 1.0, 1.5, 2.5, 6.25], np.float32)


def test_every_function_is_held_to_somebody_else_s() -> None:
    assert set(UNARY) == set(PEERS) | set(FORMULAS)


@pytest.mark.parametrize("function", PEERS)
def test_a_function_is_onnx_s(function: str) -> None:
    parameters, operator, attributes = PEERS[function]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, ["x"], ["y"], **attributes)], "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [len(POINTS)])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [len(POINTS)])],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # sqrt and log of negatives, inside the peer
        (want,) = ReferenceEvaluator(model).run(None, {"x": POINTS})
    got = FloatUnary("u", (len(POINTS),), function, parameters).forward(POINTS[None])[0]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", FORMULAS)
def test_a_function_is_its_formula(function: str) -> None:
    parameters, formula = FORMULAS[function]
    got = FloatUnary("u", (len(POINTS),), function, parameters).forward(POINTS[None])[0]
    np.testing.assert_allclose(got, [formula(float(x)) for x in POINTS], rtol=1e-5)


@pytest.mark.parametrize("function", UNARY)
def test_a_table_is_the_function_rounded_at_every_input(function: str) -> None:
    node, x, q = FloatUnary("u", (256,), function), Affine(0.04, -20), np.arange(-128, 128)
    y = Affine(0.05, 3)
    found = layer_of(FloatUnary("u", (256,), function, output=y).quantise((x,), Range(0, 0)))
    assert found.output == y
    assert isinstance(found.layer, Lookup)
    assert (found.layer.qmin, found.layer.qmax) == (found.tensors["u.table"].min(), found.tensors["u.table"].max())
    want = node.value(real(q, x))
    (got,) = np.array(rows(found.layer, found.tensors, q[None]))
    known = ~np.isnan(want)
    assert known.sum() > 100
    ends = np.clip(want[known], real(np.array(-128), y), real(np.array(127), y))
    assert np.abs(real(got[known], y) - ends).max() <= 0.5 * y.scale + 1e-12


def test_ties_go_to_the_even_step() -> None:
    found = layer_of(FloatUnary("u", (1,), "affine", (0.5, 0.0), output=Affine(1.0, 0)).quantise(
        (Affine(1.0, 0),), Range(0, 0)))  # fmt: skip
    assert found.tensors["u.table"][128 - 3 : 128 + 4].tolist() == [-2, -1, 0, 0, 0, 1, 2]


def test_the_usual_output_maps() -> None:
    x, reach = (Affine(0.1, 7),), Range(-1.5, 3.6)
    maps = {f: layer_of(FloatUnary("u", (4,), f).quantise(x, reach)).output for f in UNARY}
    usual = {"sigmoid": Affine(1 / 256, -128), "hard-sigmoid": Affine(1 / 256, -128), "tanh": Affine(1 / 128, 0)}
    assert maps == dict.fromkeys(UNARY, reach.affine()) | usual | {"identity": x[0]}
    fixed = Affine(0.3, 1)
    assert layer_of(FloatUnary("u", (4,), "tanh", output=fixed).quantise(x, reach)).output == fixed


def test_beyond_a_function_s_domain_lies_the_value_at_its_edge() -> None:
    x, y = Affine(0.1, 0), Affine(0.1, 0)
    tables = {f: layer_of(FloatUnary("u", (1,), f, output=y).quantise((x,), Range(0, 0))).tensors["u.table"]
              for f in ("log", "sqrt", "rsqrt", "reciprocal")}  # fmt: skip
    assert set(tables["log"][:129].tolist()) == {-128}
    assert set(tables["sqrt"][:129].tolist()) == {0}
    assert set(tables["rsqrt"][:129].tolist()) == {127}
    assert (tables["reciprocal"][127], tables["reciprocal"][129]) == (-100, 100)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: FloatUnary("u", (1,), "relu7"), "layer u: function 'relu7' is none of identity, affine, "),
    (lambda: FloatUnary("u", (1,), "elu", (1.0, 2.0)), "layer u: elu takes 1 parameters, not 2"),
    (lambda: FloatUnary("u", (1,), "log").quantise((Affine(1, 0),), Range(-math.inf, 2)), "log reaches -inf to 2"),
    (lambda: FloatUnary("u", (1,), "affine", (math.nan, 0.0)).quantise((Affine(1, 0),), Range(0, 0)),
     "layer u: the function has no value for any of its 256 inputs"),
    (lambda: FloatAdd("s", ((2,), (3,))), r"layer s: shapes \(2,\) and \(3,\) do not broadcast"),
    (lambda: FloatMul("p", ((2, 1), (2,))), "layer p: shapes .* do not broadcast"),
    (lambda: FloatAdd("s", ((2,), (2,)), (2, 1)), r"layer s: signs \(2, 1\) are not 1 or -1"),
])  # fmt: skip
def test_what_no_layer_can_compute_is_named(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError, match=message):
        make()
