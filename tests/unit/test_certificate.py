"""Inside the certificate every carrier gives the exact integer; one step beyond it, float32 does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerun.arrays import I8, I32, I64, U8, Tensors
from edgerun.certificate import certify
from edgerun.errors import SpecError
from edgerun.graph import input_reach, wanted_tensors
from edgerun.layers.base import CARRIERS, Carrier, Certificate
from edgerun.ops import DenseRun
from edgerun.spec import (
    ClassTable,
    Dense,
    Direct,
    EProp,
    Head,
    InputSpec,
    Layer,
    LearningPlan,
    Lif,
    Manifest,
    PhaseRate,
    PlasticRate,
    Readout,
    Requant,
)


def exact(x: I64, w: I8, b: int, m: int, s: int, zp: int) -> int:
    """The requantised sum before the clip: an int64 dot, then Python's own integers."""
    acc = int(np.dot(x, w.astype(np.int64))) + b
    return ((acc * m + (1 << (s - 1))) >> s) + zp


def carried(carrier: Carrier, folds: bool, x: I64, w: I8, b: int, m: int, s: int, zp: int) -> int:
    """The same sum as a kernel on that carrier computes it."""
    half, inside, after = 1 << (s - 1), (zp << s if folds else 0), (0 if folds else zp)
    match carrier:
        case "float32-folded":
            step = np.float32(2.0**-s)
            folded = np.float32(b + half + inside) * step
            return int(np.floor(np.float32(np.dot(x.astype(np.float32), w.astype(np.float32) * step) + folded))) + after
        case "float32-dot":
            acc = np.float64(np.dot(x.astype(np.float32), w.astype(np.float32))) + b
            return int(np.floor((acc * m + float(half + inside)) * 2.0**-s)) + after
        case "float64":
            acc = np.dot(x.astype(np.float64), w.astype(np.float64) * m) + float(b) * m
            return int(np.floor((acc + float(half + inside)) * 2.0**-s)) + after
        case "int64":
            total = np.dot(x, w.astype(np.int64)) + b
            return int((total * m + half + inside) >> s) + after


def adversaries(w: I8, bound: int) -> list[I64]:
    """Inputs that drive the sum to its extremes: all terms of one sign, and one off it to change the last bit."""
    worst: I64 = np.where(w < 0, -bound, bound).astype(np.int64)
    nudged = worst.copy()
    nudged[0] -= np.sign(nudged[0])
    return [worst, -worst, nudged, -nudged]


def certify_dense(layer: Dense, weight: I8, bias: I32, multiplier: I32, shift: U8) -> Certificate:
    parts = {"weight": weight, "bias": bias, "multiplier": multiplier, "shift": shift}
    return layer.proof({f"{layer.name}.{part}": array for part, array in parts.items()})


def one_channel(w: I8, b: int, m: int, s: int, zp: int = 0, bound: int = 128) -> Certificate:
    layer = Dense(name="d", inputs=w.size, outputs=1, zero_point=zp, input_bound=bound)
    return certify_dense(layer, w[None], np.array([b], np.int32), np.array([m], np.int32), np.array([s], np.uint8))


@st.composite
def channels(draw: st.DrawFn) -> tuple[I8, int, int, int, int, int]:
    """One channel of same-sign weights, so that sums grow as fast as the bound allows."""
    width = draw(st.sampled_from([1, 3, 64, 1031, 4096, 65000]))
    peak = draw(st.integers(1, 127))
    low = draw(st.integers(1, peak))
    seed = draw(st.integers(0, 1 << 30))
    w = np.random.default_rng(seed).integers(low, peak + 1, width, dtype=np.int8)
    b = draw(st.integers(-(1 << 28) + 1, (1 << 28) - 1)) >> draw(st.integers(0, 28))
    power = draw(st.booleans())
    m = 1 if power else draw(st.integers(1 << 23, (1 << 24) - 1))
    s = draw(st.integers(1, 23 if power else 46))
    return w, b, m, s, draw(st.integers(-128, 127)), draw(st.integers(1, 128))


@settings(max_examples=150, deadline=None)
@given(channel=channels())
def test_a_certified_carrier_is_exact_on_adversarial_data(channel: tuple[I8, int, int, int, int, int]) -> None:
    w, b, m, s, zp, bound = channel
    certificate = one_channel(w, b, m, s, zp, bound)
    for x in adversaries(w, bound):
        want = exact(x, w, b, m, s, zp)
        for carrier in CARRIERS[CARRIERS.index(certificate.carrier) :]:
            if carrier != "float32-folded" or m == 1:
                assert carried(carrier, False, x, w, b, m, s, zp) == want
        assert carried(certificate.carrier, certificate.folds_zero_point, x, w, b, m, s, zp) == want


def test_beyond_the_certificate_float32_is_wrong() -> None:
    """A sum of 2**24 + 3, halved: its last bit decides the floor, and float32 rounds it away."""
    w = np.full(1032, 127, dtype=np.int8)  # 1032 * 127 * 128 = 2**24 - 1024
    inside, outside = 1024 - 1, 1024 + 2
    assert one_channel(w, inside, 1, 1).carrier == "float32-folded"
    assert one_channel(w, outside, 1, 1).carrier == "float32-dot"
    worst = adversaries(w, 128)[0]
    assert carried("float32-folded", False, worst, w, inside, 1, 1, 0) == exact(worst, w, inside, 1, 1, 0)
    assert carried("float32-folded", False, worst, w, outside, 1, 1, 0) != exact(worst, w, outside, 1, 1, 0)
    random = np.random.default_rng(1).integers(-128, 128, w.size)
    assert carried("float32-folded", False, random, w, outside, 1, 1, 0) == exact(random, w, outside, 1, 1, 0)


def test_beyond_the_certificate_a_float32_dot_is_wrong() -> None:
    """An odd sum above 2**24 has no float32."""
    w = np.append(np.full(1040, 127, dtype=np.int8), np.int8(1))
    x = np.append(np.full(1040, 128, dtype=np.int64), 1)
    assert one_channel(w, 0, 1 << 23, 24).carrier == "float64"
    assert carried("float32-dot", False, x, w, 0, 1 << 23, 24, 0) != exact(x, w, 0, 1 << 23, 24, 0)
    assert carried("float64", False, x, w, 0, 1 << 23, 24, 0) == exact(x, w, 0, 1 << 23, 24, 0)


def test_a_dot_of_exactly_2_to_24_is_still_float32() -> None:
    w = np.full(2048, 64, dtype=np.int8)
    assert one_channel(w, 0, 1 << 23, 24).carrier == "float32-dot"
    w[0] += 1
    assert one_channel(w, 0, 1 << 23, 24).carrier == "float64"


@pytest.mark.parametrize("multiplier", [2, (1 << 23) - 1, 1 << 24])
def test_a_multiplier_has_24_bits(multiplier: int) -> None:
    with pytest.raises(SpecError, match=f"layer d channel 0: multiplier {multiplier} is neither 1 nor in"):
        one_channel(np.ones(4, dtype=np.int8), 0, multiplier, 30)


def test_beyond_the_certificate_float64_is_wrong() -> None:
    """acc * m + half = k * 2**24 - 1 above 2**53: float64 rounds it up, over the floor's edge."""
    w, m, s = np.full(65000, 127, dtype=np.int8), (1 << 24) - 1, 24
    x: I64 = np.full(65000, 128, dtype=np.int64)
    b = ((1 << 23) + 1 - 65000 * 127 * 128) % (1 << 24)
    assert one_channel(w, b, m, s).carrier == "int64"
    assert carried("float64", False, x, w, b, m, s, 0) == exact(x, w, b, m, s, 0) + 1
    assert carried("int64", False, x, w, b, m, s, 0) == exact(x, w, b, m, s, 0)


def test_the_zero_point_counts_because_it_is_added_inside_the_floor() -> None:
    w = np.full(1000, 127, dtype=np.int8)  # A = 16256000
    assert [one_channel(w, 0, 1, s).carrier for s in (10, 19)] == ["float32-folded", "float32-folded"]
    assert [one_channel(w, 0, 1, s, zp=-100).carrier for s in (10, 19)] == ["float32-folded", "float32-dot"]
    assert one_channel(w, 0, 1 << 23, 46).carrier == "float32-dot"
    assert one_channel(w, 0, 1 << 23, 46, zp=-128) == Certificate(carrier="int64", bound=16256000)
    assert not one_channel(w, 0, 1 << 23, 46, zp=-128).folds_zero_point


@settings(max_examples=200, deadline=None)
@given(pair=st.tuples(channels(), channels()))
def test_a_running_layer_is_exact_on_adversarial_data(pair: tuple[Any, Any]) -> None:
    """Two channels that may ask for different carriers, through the kernels themselves."""
    (first, b0, m0, s0, zp, bound), (second, b1, m1, s1, _, _) = pair
    n = min(first.size, second.size, 4096)
    weight: I8 = np.stack([first[:n], -second[:n]])
    layer = Dense(name="d", inputs=n, outputs=2, zero_point=zp, input_bound=bound)
    bias, multiplier, shift = np.array([b0, b1], np.int32), np.array([m0, m1], np.int32), np.array([s0, s1], np.uint8)
    run = DenseRun(layer, {"d.weight": weight, "d.bias": bias, "d.multiplier": multiplier, "d.shift": shift}, ())
    for x in adversaries(weight[0], bound) + adversaries(weight[1], bound):
        run.step(x.astype(np.float32))
        want = [exact(x, *channel, zp) for channel in ((weight[0], b0, m0, s0), (weight[1], b1, m1, s1))]
        assert run.out.tolist() == np.clip(want, -128, 127).tolist()


@pytest.mark.parametrize(
    ("bias", "fits"), [((1 << 31) - (1 << 22) - 1 - 127 * 128, True), ((1 << 31) - (1 << 22) - 127 * 128, False)]
)
def test_the_bound_that_always_holds_is_sharp(bias: int, fits: bool) -> None:
    w = np.array([127], dtype=np.int8)
    if fits:
        assert one_channel(w, bias, 1 << 23, 30).bound == bias + 127 * 128
    else:
        with pytest.raises(SpecError, match=r"layer d channel 0: sum.* 2147483648 is above 2147483647"):
            one_channel(w, bias, 1 << 23, 30)


def test_a_layer_gets_the_slowest_of_its_channels_and_names_the_one_that_fails() -> None:
    layer = Dense(name="d", inputs=1100, outputs=3)
    weight: I8 = np.repeat(np.array([[1], [2], [127]], dtype=np.int8), 1100, axis=1)
    bias: I32 = np.zeros(3, dtype=np.int32)
    multiplier: I32 = np.array([1, 1 << 23, (1 << 24) - 1], dtype=np.int32)
    shift: U8 = np.array([8, 30, 40], dtype=np.uint8)
    assert certify_dense(layer, weight[:2], bias[:2], multiplier[:2], shift[:2]).carrier == "float32-dot"
    assert certify_dense(layer, weight, bias, multiplier, shift).carrier == "float64"
    bias[0], multiplier[0], shift[0] = (1 << 30) + 1, (1 << 24) - 1, 40
    assert certify_dense(layer, weight, bias, multiplier, shift).carrier == "int64"
    bias[1] = (1 << 31) - 1
    with pytest.raises(SpecError, match="layer d channel 1"):
        certify_dense(layer, weight, bias, multiplier, shift)


def test_minus_128_counts_as_128() -> None:
    assert one_channel(np.full(4, -128, dtype=np.int8), -5, 1 << 23, 30).bound == 4 * 128 * 128 + 5


@given(scale=st.floats(2.0**-23, 2.0**22))
def test_every_requant_of_a_real_scale_is_certifiable(scale: float) -> None:
    r = Requant.from_scale(scale)
    assert one_channel(np.full(8, 127, dtype=np.int8), 99, r.multiplier, r.shift).carrier in CARRIERS


# ------------------------------------------------------------------ whole models


def model(*layers: Layer, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "m",
        "input": InputSpec(shape=(layers[0].inputs,), dtype="uint8"),
        "encoder": PhaseRate(steps=100, full_scale=100),
        "layers": layers,
        "classes": ClassTable(names=("x",), capacity=1 << 10),
    }
    return Manifest(**(fields | changes))


def filled(manifest: Manifest, value: int = 0, **special: int) -> Tensors:
    """Every wanted tensor filled with one value; `a_b` = 3 fills tensor `a.b` with 3."""
    return {
        want.spec.name: np.full(want.spec.shape, special.get(want.spec.name.replace(".", "_"), value), want.spec.dtype)
        for want in wanted_tensors(manifest)
    }


def hidden(n: int, f: int, inputs: int = 100) -> Lif:
    return Lif(name="h", inputs=inputs, outputs=n, weight_exponent=f)


def out(n: int, f: int) -> Readout:
    return Readout(name="o", inputs=n, outputs=2, weight_exponent=f)


@pytest.mark.parametrize(
    ("f", "want"), [(0, 300 * 2 * 4096 + 7), (12, 300 * 2 + 7), (13, 300 + 7), (20, ((600 + 128) >> 8) + 7)]
)
def test_a_lif_current_is_bounded_in_its_own_fixed_point(f: int, want: int) -> None:
    manifest = model(hidden(200, f))
    certificate = certify(manifest, filled(manifest, h_input=2, h_recurrent=-2, h_bias=-7))["h"]
    assert certificate == Certificate(carrier="float32-dot", bound=want)


def test_a_lif_current_must_stay_under_2_to_30() -> None:
    manifest = model(hidden(1964, 0))
    fits = (1 << 30) - 1 - 2064 * 127 * 4096
    assert certify(manifest, filled(manifest, 127, h_bias=fits))["h"].bound == (1 << 30) - 1
    with pytest.raises(SpecError, match=r"layer h channel 0: largest input current 1073741824 is above 1073741823"):
        certify(manifest, filled(manifest, 127, h_bias=-fits - 1))


def test_plastic_weights_are_bounded_by_what_they_may_become() -> None:
    rate = PlasticRate(tensor="h.recurrent", eta=1, shift=1)
    learning = LearningPlan(rule=EProp(layer="h", readout="o", rates=(rate,), chunk_steps=8))
    fixed, plastic = model(hidden(2500, 0), out(2500, 8)), model(hidden(2500, 0), out(2500, 8), learning=learning)
    assert certify(fixed, filled(fixed, h_recurrent=1))["h"].bound == 2500 * 4096
    with pytest.raises(SpecError, match="layer h channel 0: largest input current"):
        certify(plastic, filled(plastic, h_recurrent=1))


@pytest.mark.parametrize(("n", "fits"), [(129, True), (130, False)])
def test_a_readout_must_stay_under_2_to_30_in_q7_24(n: int, fits: bool) -> None:
    manifest = model(hidden(n, 6), out(n, 7))
    tensors = filled(manifest, o_input=63)
    tensors["o.input"][:, 1] = -64 if not fits else -63
    if fits:
        assert certify(manifest, tensors)["o"].bound == 129 * 63 << 17
    else:
        with pytest.raises(SpecError, match="layer o channel 1: largest input current"):
            certify(manifest, tensors)


def test_real_valued_input_counts_with_its_whole_range() -> None:
    manifest = model(hidden(4, 12), encoder=Direct())
    assert input_reach(manifest) == 255
    assert certify(manifest, filled(manifest, h_input=1))["h"].bound == 100 * 255


def test_a_sum_that_float32_cannot_hold_is_refused() -> None:
    manifest = model(hidden(4, 20, inputs=520), encoder=Direct())
    with pytest.raises(SpecError, match=r"layer h channel 0: sum.*max.* 16840200 is above 16777216"):
        certify(manifest, filled(manifest, h_input=127))


def test_a_dense_layer_after_a_readout_is_refused() -> None:
    manifest = model(hidden(4, 6), out(4, 7), Dense(name="d", inputs=2, outputs=2))
    with pytest.raises(SpecError, match="layer d: input_bound 128 is under the 2147483648"):
        certify(manifest, filled(manifest, 1))


def test_prototype_scores_must_fit_int32() -> None:
    wide = Dense(name="d", inputs=1, outputs=50_000)
    manifest = model(wide, head=Head(kind="prototypes", features="d"), encoder=Direct(), input=InputSpec(shape=(1,)))
    with pytest.raises(SpecError, match="layer head channel 0: largest prototype score 2457600001"):
        certify(manifest, filled(manifest, 1))


def test_a_whitening_layer_is_certified_against_its_features() -> None:
    whiten = Dense(name="w", inputs=4, outputs=3, input_bound=99)
    manifest = model(hidden(4, 6), head=Head(kind="prototypes", features="h", whiten=whiten))
    with pytest.raises(SpecError, match="layer w: input_bound 99 is under the 100 that reaches it"):
        certify(manifest, filled(manifest, 1))
