"""Weights with zero points: exact on every carrier, certified by what meets the inputs, and a file's own integers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import asymmetric as slow
from runs import stepped

from edgerun.arrays import AnyArray, Tensors
from edgerun.errors import ModelError, SpecError
from edgerun.layers import Conv, Dense, Depthwise, Gru, Lif, Lstm
from edgerun.layers.base import Certificate, effective
from edgerun.ops import dense
from exporters import improve
from exporters.calibrate import MINMAX
from exporters.data import Samples
from exporters.float_net import FloatNet
from exporters.nodes import Affine, FloatConv, FloatDense, FloatDepthwise, FloatGru, FloatLstm, Range
from exporters.nodes.dense import stored
from exporters.prune import magnitude
from exporters.sensitivity import bit_layers
from exporters.twin import quantise_net

KINDS: list[type[Any]] = [Dense, Conv, Depthwise]


def layer(
    kind: type[Any], weight: AnyArray, zero: AnyArray, bias: AnyArray, scale: tuple[int, int], **fields: Any
) -> tuple[Any, Tensors]:
    """weight (n, taps) of a dense layer, or of a convolution over a line that sees as many places as it has taps."""
    n, taps = weight.shape
    if kind is Dense:
        geometry: dict[str, Any] = {"inputs": taps, "outputs": n}
    else:
        shape = (1, taps, 1)
        weight = weight.reshape(n, *shape) if kind is Conv else weight.reshape(n, 1, taps)
        geometry = {"input_shape": shape, "filters": n, "kernel": (1, taps)}
    return kind(name="l", asymmetric=True, **geometry | fields), {
        "l.weight": weight.astype(np.int8),
        "l.bias": np.broadcast_to(bias, n).astype(np.int32),
        "l.multiplier": np.full(n, scale[0], np.int32),
        "l.shift": np.full(n, scale[1], np.uint8),
        "l.weight_zero": np.broadcast_to(zero, n).astype(np.int8),
    }


# ------------------------------------------------------------------ kernels


def random_layer(data: st.DataObject, kind: type[Any]) -> tuple[Any, Tensors, np.random.Generator]:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n, taps = 2 * data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    scale = (int(rng.integers(1 << 23, 1 << 24)), data.draw(st.integers(24, 46)))
    if data.draw(st.booleans()):
        scale = (1, data.draw(st.integers(1, 23)))
    weight = rng.choice([-128, 127], (n, taps)) if data.draw(st.booleans()) else rng.integers(-128, 128, (n, taps))
    zero = rng.choice([-128, 127, 0], n) if data.draw(st.booleans()) else rng.integers(-128, 128, n)
    low = data.draw(st.integers(-128, 0))
    fields: dict[str, Any] = {"zero_point": data.draw(st.integers(-128, 127)), "qmin": low, "qmax": 127}
    if kind is not Dense:
        fields |= {
            "input_shape": (2, taps + 1, 2 if kind is Depthwise else 1), "padding": (0, 3, 1, 1),
            "stride": (1, 2), "input_zero_point": data.draw(st.integers(-128, 127)),
        }  # fmt: skip
    spec, tensors = layer(kind, weight, zero, rng.integers(-(1 << 16), 1 << 16, n), scale, **fields)
    return spec, tensors, rng


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_sums_are_those_of_row_sums(kind: type[Any], data: st.DataObject) -> None:
    spec, tensors, rng = random_layer(data, kind)
    x = rng.integers(-128, 128, (3, *spec.widths))
    x[0] = rng.choice([-128, 127], spec.widths)
    want = [slow.outputs(spec, tensors, row) for row in x.tolist()]
    assert stepped(spec, tensors, x).tolist() == want
    assert [stepped(spec, tensors, row).tolist() for row in x] == want


@pytest.mark.parametrize("kind", KINDS)
def test_zero_points_of_nothing_change_nothing(kind: type[Any]) -> None:
    rng = np.random.default_rng(1)
    spec, tensors = layer(kind, rng.integers(-128, 128, (4, 6)), np.zeros(4), np.zeros(4), (11_184_811, 32))
    plain = type(spec)(**{name: getattr(spec, name) for name in spec.__struct_fields__} | {"asymmetric": False})
    assert [field.part for field in spec.fields()] == [*(field.part for field in plain.fields()), "weight_zero"]
    x = rng.integers(-128, 128, (9, *spec.widths))
    assert stepped(spec, tensors, x).tolist() == stepped(plain, tensors, x).tolist()
    assert spec.proof(tensors) == plain.proof(tensors)
    assert spec.describe(tensors) == f"{plain.describe(tensors)}, weights with zero points"


def test_few_effective_weights_run_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is skipped is what meets an input by nothing, wherever its stored integer lies."""
    monkeypatch.setattr(dense, "SKIP_SIZE", 1)
    weight = np.full((3, 64), 90)
    weight[[0, 1, 2], [5, 9, 63]] = -128, 127, 89
    spec, tensors = layer(Dense, weight, np.full(3, 90), np.zeros(3), (1, 1))
    x = np.random.default_rng(2).integers(-128, 128, 64)
    assert (np.count_nonzero(effective(tensors["l.weight"], tensors["l.weight_zero"]))) == 3
    assert stepped(spec, tensors, x).tolist() == slow.outputs(spec, tensors, x.tolist())


# ------------------------------------------------------------------ the certificate

MOST = 255 * 128  # of one tap: -128 - 127, or 127 + 128
# taps, bias, (multiplier, shift), zero point, the carrier that must be chosen
EDGES = {
    "folded, at its bound": (500, (1 << 24) - (1 << 11) - 500 * MOST, (1, 12), 0, "float32-folded"),
    "folded, one over": (500, (1 << 24) - (1 << 11) - 500 * MOST + 1, (1, 12), 0, "float32-dot"),
    "dot, at its bound": (514, (1 << 28) - 1, (1 << 23, 23), 0, "float32-dot"),
    "dot, one input over": (515, 5, ((1 << 24) - 1, 40), 3, "float64"),
    "no float holds it": (4096, 1 << 27, ((1 << 24) - 1, 46), -128, "int64"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("taps", "bias", "scale", "zero_point", "chosen"), EDGES.values(), ids=EDGES)
def test_effective_weights_of_one_sign_are_exact_at_the_edge_of_each_carrier(
    taps: int, bias: int, scale: tuple[int, int], zero_point: int, chosen: str, kind: type[Any]
) -> None:
    weight = np.full((2, taps), -128)
    weight[1] = 127
    spec, tensors = layer(kind, weight, np.array([127, -128]), np.full(2, bias), scale, zero_point=zero_point)
    assert spec.proof(tensors) == Certificate(chosen, taps * MOST + bias)
    for x in (np.full(taps, -128), np.full(taps, 127), np.r_[np.full(taps - 1, -128), -127]):
        assert stepped(spec, tensors, x).tolist() == slow.outputs(spec, tensors, x.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_a_carrier_that_the_certificate_refuses_would_be_wrong(
    kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, bias = np.full((40, 600), 127), np.arange(-20, 20) - 600 * 255 * 127
    spec, tensors = layer(kind, weight, np.full(40, -128), bias, (1, 1))
    assert spec.proof(tensors).carrier == "float64"
    x = np.r_[126, np.full(599, 127)]
    want = slow.outputs(spec, tensors, x.tolist())
    assert stepped(spec, tensors, x).tolist() == want
    small = {name: array for name, array in tensors.items()} | {"l.weight_zero": np.zeros(40, np.int8)}
    assert spec.proof(small).carrier == "float32-dot"  # as the stored integers alone would have it
    bias = np.arange(-20, 20) - (599 * 255 * 127 + 255 * 126)
    tensors["l.bias"] = bias.astype(np.int32)
    want = slow.outputs(spec, tensors, x.tolist())
    assert len(set(want)) > 15
    monkeypatch.setattr(kind, "proof", lambda *_: Certificate("float32-dot", 0))
    assert stepped(spec, tensors, x).tolist() != want


@pytest.mark.parametrize("kind", KINDS)
def test_row_sums_must_fit_int32_too(kind: type[Any]) -> None:
    """Effective weights of nothing but zeros, whose two halves are large: at the bound, and one bias over."""
    taps = 65_000
    spec, tensors = layer(kind, np.full((2, taps), 127), np.array([127, 0]), np.zeros(2), (1 << 23, 46))
    room = (1 << 31) - 1 - (1 << 22) - taps * 254 * 128
    tensors["l.bias"] = np.array([-room, 0], np.int32)
    assert spec.proof(tensors).bound == max(room, taps * 127 * 128)
    tensors["l.bias"] = np.array([-room - 1, 0], np.int32)
    with pytest.raises(SpecError, match=r"layer l channel 0: \(sum\|w\| \+ taps \* \|weight_zero\|\) .* 2147483648 is"):
        spec.proof(tensors)


def test_a_channel_without_a_zero_point_is_no_narrower_for_it() -> None:
    weight = np.full((2, 4), 127)
    spec, tensors = layer(Dense, weight, np.array([0, -1]), np.zeros(2), (1, 8), input_bound=3)
    assert spec.proof(tensors).bound == 4 * 128 * 3
    assert spec.proof(tensors | {"l.weight_zero": np.zeros(2, np.int8)}).bound == 4 * 127 * 3


def test_plastic_weights_stay_symmetric_and_the_others_use_all_of_int8() -> None:
    kinds = (
        Dense(name="l", inputs=3, outputs=2),
        Gru(name="l", inputs=3, hidden=2),
        Lstm(name="l", inputs=3, hidden=2),
    )
    for spec in kinds:
        assert {(f.low, f.high) for f in spec.fields() if f.dtype == "int8"} == {(-128, 127)}
    lif = Lif(name="l", inputs=3, outputs=2, weight_exponent=6)
    assert {(f.low, f.high) for f in lif.fields() if f.dtype == "int8"} == {(-127, 127)}


# ------------------------------------------------------------------ from files


@given(st.data())
def test_stored_weights_are_the_steps_and_their_zero_points_the_nearest(data: st.DataObject) -> None:
    rng, n = np.random.default_rng(data.draw(st.integers(0, 999))), data.draw(st.integers(1, 5))
    zero = rng.choice([0, 1, 127, 128, 200, 255], n)
    steps = (rng.integers(0, 256, (n, 3, 2)) - zero[:, None, None]).astype(np.int16)
    found = stored("l", steps)
    back = effective(found["weight"], found.get("weight_zero"))
    assert back.tolist() == steps.tolist()
    least = np.maximum(-128 - steps.min(axis=(1, 2)), 0) + np.maximum(steps.max(axis=(1, 2)) - 127, 0)
    assert np.abs(found.get("weight_zero", np.zeros(n)).astype(int)).tolist() == least.tolist()
    assert ("weight_zero" in found) == least.any()


@pytest.mark.parametrize(("row", "says"), [([-129, 127], "from -129 to 127 steps lie 256"), ([300, 301], "0 to 301")])
def test_weights_that_no_byte_holds_are_refused_by_channel(row: list[int], says: str) -> None:
    weight = np.array([[-128, 127], row], np.float64)
    layer = FloatDense("fc", weight, np.zeros(2), weight_scale=np.ones(2))
    with pytest.raises(ModelError, match=rf"layer fc channel 1: weights .*{says}.* above 255"):
        layer.quantise((Affine(1.0, 0),), Range(-1.0, 1.0))


def nodes(rng: np.random.Generator, steps: AnyArray, scale: AnyArray) -> list[Any]:
    """Each kind with these whole steps (4, 6) as weights."""
    weight, bias = steps * scale[:, None], rng.integers(-999, 999, 4) * scale * 0.5
    fixed: dict[str, Any] = {"weight_scale": scale, "output": Affine(0.9, -10)}
    padding: dict[str, Any] = {"padding": (1, 1, 0, 1), **fixed}
    return [
        FloatDense("l", weight, bias, **fixed),
        FloatConv("l", (4, 3, 2), weight.reshape(4, 3, 1, 2), bias, **padding),
        FloatDepthwise("l", (4, 3, 2), weight.reshape(4, 3, 2), bias, **padding),
    ]


@pytest.mark.parametrize("zero", [0, 3, 128, 250])
def test_layers_of_a_file_keep_their_integers_and_their_sums(zero: int) -> None:
    rng = np.random.default_rng(zero)
    steps = rng.integers(0, 256, (4, 6)) - zero
    for node in nodes(rng, steps, rng.uniform(0.001, 0.002, 4)):
        (made,) = node.quantise((Affine(0.5, 3),), Range(0.0, 1.0))
        assert made.layer.asymmetric == (zero != 128)
        assert set(made.tensors) == {f"l.{field.part}" for field in made.layer.fields()}
        found = effective(made.tensors["l.weight"], made.tensors.get("l.weight_zero"))
        assert found.reshape(4, 6).tolist() == steps.tolist()
        folded = np.rint(node.bias / (node.weight_scale * 0.5)) - 3 * steps.sum(axis=1)
        assert made.tensors["l.bias"].tolist() == folded.tolist()
        q = rng.integers(-128, 128, (20, *node.widths))
        real = node.forward(((q - 3) * 0.5).astype(np.float32)).astype(np.float64) / 0.9 - 10
        assert np.abs(stepped(made.layer, made.tensors, q) - np.clip(real, -128, 127)).max() < 0.501


def test_a_gain_below_zero_turns_the_least_weight_into_one_with_a_zero_point() -> None:
    layer = FloatDense("l", np.array([[-128.0, 127.0]]), np.zeros(1), weight_scale=np.ones(1))
    for gain, zero in ((1, None), (-1, [-1])):
        (made,) = replace(layer, weight=gain * layer.weight).quantise((Affine(1.0, 0),), Range(-1.0, 1.0))
        found = made.tensors.get("l.weight_zero")
        assert (None if found is None else found.tolist()) == zero
        assert effective(made.tensors["l.weight"], found).tolist() == [[-128 * gain, 127 * gain]]


@pytest.mark.parametrize("part", ["weight", "recurrent"])
@pytest.mark.parametrize("kind", [FloatGru, FloatLstm])
def test_recurrent_layers_take_int8_and_refuse_the_rest_by_name(kind: type[Any], part: str) -> None:
    rng, n = np.random.default_rng(3), 6 if kind is FloatGru else 8
    whole: dict[str, AnyArray] = {name: rng.integers(-128, 128, (n, 2)) for name in ("weight", "recurrent")}
    whole[part][0, 0] = -128
    biases = (np.zeros(n), np.zeros(n)) if kind is FloatGru else (np.zeros(n),)
    scales = {"weight_scale": np.full(n, 0.01), "recurrent_scale": np.full(n, 0.01)}
    node = kind("cell", 3, 0.01 * whole["weight"], 0.01 * whole["recurrent"], *biases, **scales)
    (made,) = node.quantise((Affine(0.02, 0),), Range(-1.0, 1.0))
    for name, want in whole.items():
        assert made.tensors[f"cell.{name}"].tolist() == want.tolist()
    made.layer.proof(made.tensors)
    whole[part][0, 1] = 128
    wrong = replace(node, **{part: 0.01 * whole[part]})
    with pytest.raises(
        ModelError, match=r"layer cell: weights from -128 to 128 steps .*; quantise .* as symmetric int8"
    ):
        wrong.quantise((Affine(0.02, 0),), Range(-1.0, 1.0))


# ------------------------------------------------------------------ what leaves them alone


def test_nothing_that_improves_or_shrinks_a_net_touches_a_file_s_weights() -> None:
    rng = np.random.default_rng(5)
    fixed = 0.01 * (rng.integers(0, 256, (16, 8)) - 20)
    net = FloatNet(
        "n", (12,),
        (
            FloatDense("free", rng.normal(size=(8, 12)), rng.normal(size=8), low=0.0),
            FloatDense("file", fixed, rng.normal(size=16), low=0.0, weight_scale=np.full(16, 0.01)),
            FloatDense("end", rng.normal(size=(3, 16)), rng.normal(size=3)),
        ),
    )  # fmt: skip
    samples = Samples(rng.normal(size=(100, 12)), np.zeros(100, np.int64), ())
    assert set(bit_layers(net)) == {"free", "end"}
    assert improve.equalisable(net) == []
    np.testing.assert_array_equal(magnitude(net, 0.1).layer("file").weight, fixed)
    plain = quantise_net(net, samples, MINMAX, {"free": 4})
    mended = quantise_net(improve.corrected(plain, samples), samples, MINMAX, {"free": 4})
    for twin in (plain, mended):
        found = effective(twin.tensors["file.weight"], twin.tensors["file.weight_zero"])
        assert (0.01 * found == fixed).all()
    np.testing.assert_allclose(improve.corrected(plain, samples).layer("file").bias, net.layer("file").bias)
    assert (improve.corrected(plain, samples).layer("free").bias != net.layer("free").bias).any()
