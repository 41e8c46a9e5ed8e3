"""One rounding, one definition: every carrier of a dense layer gives the bits of the plain integers."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from reference import integers

from edgerun.arrays import AnyArray, Tensors
from edgerun.ops import DenseRun
from edgerun.spec import Dense, Requant

LARGEST = ((1 << 24) - 1) / 2  # the scale of the largest multiplier at the smallest shift

# A layer of one channel whose inputs and weights all have one sign, so that sums reach the certificate's very edge.
#   fan-in, bias, (multiplier, shift), zero point, the carrier that the certificate must choose
EDGES = {
    "folded, at its bound": (1000, (1 << 24) - (1 << 11) - 16256000, (1, 12), 0, "float32-folded"),
    "folded, one over": (1000, (1 << 24) - (1 << 11) - 16256000 + 1, (1, 12), 0, "float32-dot"),
    "folded, zero point at its bound": (1000, (1 << 24) - (1 << 8) * 77 - 128 - 16256000, (1, 8), 77, "float32-folded"),
    "dot, at its bound": (1032, (1 << 28) - 1, (1 << 23, 23), 0, "float32-dot"),
    "dot, largest multiplier": (1032, (1 << 28) - 1, ((1 << 24) - 1, 46), 0, "float32-dot"),
    "dot, one input over": (1033, 5, ((1 << 24) - 1, 40), 3, "float64"),
    "no float holds it": (65536, 1 << 27, ((1 << 24) - 1, 45), -128, "int64"),
}  # fmt: skip


def layer(fan_in: int, bias: int, scale: tuple[int, int], zero_point: int, weight: AnyArray) -> tuple[Dense, Tensors]:
    spec = Dense(name="fc", inputs=fan_in, outputs=len(weight), zero_point=zero_point)
    multiplier, shift = scale
    return spec, {
        "fc.weight": weight.astype(np.int8),
        "fc.bias": np.full(len(weight), bias, np.int32),
        "fc.multiplier": np.full(len(weight), multiplier, np.int32),
        "fc.shift": np.full(len(weight), shift, np.uint8),
    }


def carrier(spec: Dense, tensors: Tensors) -> str:
    return spec.proof(tensors).carrier


def wanted(spec: Dense, tensors: Tensors, x: AnyArray) -> list[int]:
    parts = (tensors[f"fc.{part}"].tolist() for part in ("weight", "bias", "multiplier", "shift"))
    return integers.dense(x.tolist(), *parts, spec.zero_point, spec.qmin, spec.qmax)


@given(
    acc=st.integers(-(2**31), 2**31 - 1),
    scale=st.floats(2.0**-23, LARGEST),
    zero_point=st.integers(-128, 127),
)
@example(acc=1, scale=0.5, zero_point=0)
@example(acc=-1, scale=0.5, zero_point=0)
@example(acc=2**31 - 1, scale=2.0**-23, zero_point=-128)
def test_requant_is_within_half_a_step_of_the_real_line(acc: int, scale: float, zero_point: int) -> None:
    map_ = Requant.from_scale(scale, zero_point=zero_point)
    got = integers.requantise(acc, map_.multiplier, map_.shift, zero_point)
    real = min(max(Fraction(acc) * Fraction(scale) + zero_point, Fraction(-128)), Fraction(127))
    assert abs(got - real) <= Fraction(1, 2) + abs(Fraction(acc) * Fraction(scale)) * Fraction(1, 2**24)


@given(scale=st.floats(2.0**-23, LARGEST))
@example(scale=2.0**-23)
@example(scale=float(np.nextafter(1.0, 0.0)))
def test_a_scale_is_rounded_once(scale: float) -> None:
    map_ = Requant.from_scale(scale)
    assert abs(Fraction(map_.multiplier, 1 << map_.shift) - Fraction(scale)) <= Fraction(scale) / 2**24


@pytest.mark.parametrize("exponent", range(-23, 23))
def test_a_power_of_two_takes_the_fast_path_with_the_same_map(exponent: int) -> None:
    map_ = Requant.from_scale(2.0**exponent)
    assert map_.scale == 2.0**exponent
    assert (map_.multiplier == 1) == (exponent < 0)


@pytest.mark.parametrize(("fan_in", "bias", "scale", "zero_point", "chosen"), EDGES.values(), ids=EDGES)
def test_sums_of_one_sign_are_exact_at_the_edge_of_each_carrier(
    fan_in: int, bias: int, scale: tuple[int, int], zero_point: int, chosen: str
) -> None:
    weight = np.full((2, fan_in), 127, np.int8)
    weight[1] = -127
    spec, tensors = layer(fan_in, bias, scale, zero_point, weight)
    assert carrier(spec, tensors) == chosen
    run = DenseRun(spec, tensors, ())
    for x in (np.full(fan_in, -128), np.full(fan_in, 127), np.r_[np.full(fan_in - 1, -128), -127]):
        run.step(x.astype(np.float32))
        assert run.out.tolist() == wanted(spec, tensors, x)


# Scales that leave outputs inside the clip, so that every bit of a sum can show.
FAMILIES = {
    "float32-folded": (48, (1, 13)),
    "float32-dot": (48, (11_184_811, 33)),
    "float64": (1500, (11_184_811, 36)),
    "int64": (1500, (11_184_811, 36)),
}


@pytest.mark.parametrize("chosen", FAMILIES)
def test_every_carrier_equals_the_definition_on_random_data(chosen: str) -> None:
    fan_in, scale = FAMILIES[chosen]
    rng = np.random.default_rng(3)
    weight = rng.integers(-127, 128, (6, fan_in))
    if chosen in ("float64", "int64"):
        weight[0] = 127  # one channel is over a float32's bound, so all go the longer way
    zero_point = -128 if chosen == "int64" else -7
    bias = (1 << 27) if chosen == "int64" else 4321
    spec, tensors = layer(fan_in, bias, scale, zero_point, weight)
    tensors["fc.bias"][1:] = rng.integers(-9999, 9999, 5)
    if chosen == "int64":
        tensors["fc.shift"][0] = 46
    assert carrier(spec, tensors) == chosen
    x = rng.integers(-128, 128, (20, fan_in))
    batch, single = DenseRun(spec, tensors, (20,)), DenseRun(spec, tensors, ())
    batch.step(x.astype(np.float32))
    for row, got in zip(x, batch.out, strict=True):
        single.step(row.astype(np.float32))
        assert got.tolist() == single.out.tolist() == wanted(spec, tensors, row)
    assert np.unique(batch.out[:, 1:]).size > 20


def test_a_sum_that_a_float32_cannot_hold_keeps_its_last_bit() -> None:
    """Biases take the large sums back, so that the last bit of each shows in the output."""
    total = 1100 * 127 * 127
    spec, tensors = layer(1100, 0, (1, 1), 0, np.full((40, 1100), 127))
    tensors["fc.bias"][...] = np.arange(-20, 20) - total
    assert carrier(spec, tensors) == "float64"
    run = DenseRun(spec, tensors, ())
    for x in (np.full(1100, 127), np.r_[126, np.full(1099, 127)]):
        run.step(x.astype(np.float32))
        assert run.out.tolist() == wanted(spec, tensors, x)
        assert np.unique(run.out).size > 15


def test_sums_on_both_sides_of_a_rounding_fall_on_their_own() -> None:
    multiplier, shift = 11_184_811, 45
    borders = [-(-((2 * k - 1) << (shift - 1)) // multiplier) for k in range(-85, 86)]  # the least sum that gives k
    spec, tensors = layer(2, 0, (multiplier, shift), 0, np.tile([1, -1], (2 * len(borders), 1)))
    tensors["fc.bias"][...] = [b for border in borders for b in (border - 1, border)]
    assert carrier(spec, tensors) == "float32-dot"
    run = DenseRun(spec, tensors, ())
    run.step(np.array([77, 77], np.float32))
    assert run.out.tolist() == [y for k in range(-85, 86) for y in (k - 1, k)]


@given(data=st.data())
def test_any_layer_equals_the_definition(data: st.DataObject) -> None:
    seed, fan_in = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.integers(1, 40))
    rng = np.random.default_rng(seed)
    map_ = Requant.from_scale(data.draw(st.floats(2.0**-20, 4.0)))
    zero_point = data.draw(st.integers(-128, 127))
    spec, tensors = layer(
        fan_in, int(rng.integers(-(1 << 20), 1 << 20)), (map_.multiplier, map_.shift), zero_point,
        rng.integers(-127, 128, (3, fan_in)),
    )  # fmt: skip
    run, x = DenseRun(spec, tensors, ()), rng.integers(-128, 128, fan_in)
    run.step(x.astype(np.float32))
    assert run.out.tolist() == wanted(spec, tensors, x)
