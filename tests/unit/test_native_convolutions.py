"""Convolutions in C, packed and as they lie, beside numpy's and beside integers: geometry, bands, roundings."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from alone import Alone, laid, same
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from random_layers import filled, scales

from edgerun.arrays import I64, AnyArray, Tensors
from edgerun.errors import SpecError
from edgerun.kernels.native import library, required
from edgerun.layers import Conv, Depthwise
from edgerun.native_layers import PACKERS, Fields, NativeLayer, Packing
from edgerun.ops import OPS

pytestmark = pytest.mark.skipif(library() is None, reason="the C kernels are not built here")

Kind = type[Conv] | type[Depthwise]
Drawn = np.random.Generator


def made(rng: Drawn, kind: Kind, image: tuple[int, int, int], filters: int, **fields: Any) -> tuple[Any, Tensors]:
    spec = kind(name="l", input_shape=image, filters=filters, input_zero_point=-5, zero_point=7, **fields)
    typical = 5000.0 * math.sqrt(math.prod(spec.weight_shape[1:]))
    return spec, filled(rng, spec, scales(rng, filters, typical))


def alike(spec: Any, tensors: Tensors, *xs: AnyArray) -> None:
    """Packed, as it lies, and numpy."""
    theirs = OPS[type(spec)](spec, tensors, ())
    for packed in (True, False):
        ours = Alone(spec, tensors, (128,), packed=packed)
        for x in xs:
            ours.step(x)
            theirs.step(x.astype(np.float32))
            same(ours.run, theirs)


def images(rng: Drawn, spec: Any) -> list[AnyArray]:
    """Anything, both ends, and one value beyond int8, which a reach of 128 allows, at the far end."""
    width = math.prod(spec.input_shape)
    beyond = np.where(np.arange(width) == width - 1, 128, 5)
    return [rng.integers(-128, 128, width), np.full(width, -128), np.full(width, 127), beyond]


# ------------------------------------------------------------------ geometry

SIZES = st.integers(1, 14)
STEPS = st.tuples(st.integers(1, 3), st.integers(1, 10))


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from([Conv, Depthwise]),
    image=st.tuples(SIZES, st.integers(1, 40), st.sampled_from([1, 2, 3, 4, 5, 8, 20, 31, 32, 33, 64, 65])),
    times=st.integers(1, 40),
    kernel=st.tuples(st.integers(1, 6), st.integers(1, 7)),
    stride=STEPS,
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(*[st.integers(0, 6)] * 4),
    asymmetric=st.booleans(),
    seed=st.integers(0, 1 << 40),
)
def test_any_geometry_gives_numpys_bits(
    kind: Kind, image: tuple[int, int, int], times: int, seed: int, **fields: Any
) -> None:
    """Rows of every length, more phases than bands know, more taps than columns hold, filters of any number."""
    rng = np.random.default_rng(seed)
    filters = times if kind is Conv else image[2] * (1 if times < 30 else 2)
    try:
        spec, tensors = made(rng, kind, image, filters, **fields)
    except SpecError:
        reject()
    alike(spec, tensors, *images(rng, spec))


LARGE: list[tuple[Kind, tuple[int, int, int], int, dict[str, Any]]] = [
    (Conv, (60, 30, 40), 17, {"kernel": (3, 3), "padding": (1, 1, 1, 1)}),
    (Conv, (60, 30, 40), 17, {"kernel": (2, 1)}),
    (Conv, (60, 30, 40), 17, {"kernel": (2, 1), "padding": (1, 0, 2, 0)}),
    (Conv, (9, 230, 36), 5, {"kernel": (2, 3), "stride": (1, 2), "padding": (0, 2, 1, 0)}),
    (Conv, (9, 130, 80), 18, {"kernel": (3, 2), "dilation": (2, 5), "padding": (3, 1, 0, 6)}),
    (Conv, (3, 3, 2000), 3, {"kernel": (2, 2)}),
    (Conv, (4, 4, 4000), 2, {"kernel": (3, 3), "padding": (1, 1, 1, 1)}),
    (Depthwise, (60, 30, 40), 40, {"kernel": (3, 3), "padding": (1, 1, 1, 1)}),
    (Depthwise, (11, 230, 36), 36, {"kernel": (5, 3), "stride": (2, 3), "padding": (2, 0, 1, 4)}),
    (Depthwise, (11, 300, 30), 30, {"kernel": (4, 3), "stride": (1, 2), "dilation": (2, 3), "padding": (1, 5, 0, 3)}),
    (Depthwise, (6, 40, 500), 500, {"kernel": (3, 4), "padding": (1, 2, 1, 1)}),
    (Depthwise, (14, 14, 9), 9, {"kernel": (11, 12), "padding": (5, 6, 5, 5)}),
]


@pytest.mark.parametrize(("kind", "image", "filters", "geometry"), LARGE)
@pytest.mark.parametrize("asymmetric", [False, True], ids=["symmetric", "asymmetric"])
def test_bands_of_an_image_meet_without_a_seam(
    kind: Kind, image: tuple[int, int, int], filters: int, geometry: dict[str, Any], asymmetric: bool
) -> None:
    """More than lies side by side at once, by rows and by columns; windows that are too large by themselves."""
    rng = np.random.default_rng(8)
    spec, tensors = made(rng, kind, image, filters, asymmetric=asymmetric, **geometry)
    alike(spec, tensors, *images(rng, spec))


# ------------------------------------------------------------------ roundings

CLIPS = [(-128, 127), (-128, 7), (0, 0)]
SCALES = [
    *((m, s) for m in (1 << 23, (1 << 23) + 1, 12345677, (1 << 24) - 1) for s in (1, 2, 8, 22, 23, 24, 31, 40, 45, 46)),
    *((1, s) for s in (1, 2, 12, 22, 23)),
]
SUMS = 64
"""Of one scale."""


def turning_points(rng: Drawn, m: int, s: int, zero_point: int) -> I64:
    """(SUMS,)  sums around those from which on outputs are one more, nearest 0 and at random, and far ones."""
    near = [n for n in range(-129, 130) if abs(first_of(n - zero_point, m, s)) < 1 << 31]
    chosen = [*near[:2], *near[-2:], *(int(n) for n in rng.choice(near, 10))] if near else []
    at = [first_of(n - zero_point, m, s) + d for n in chosen for d in (-1, 0, 1)]
    far = [sign * (1 << k) + d for sign, k, d in itertools.product((-1, 1), (24, 30), (-1, 0, 1))]
    found = [each for each in [*at, *far, 0, -1, (1 << 31) - 1, -(1 << 31)] if -(1 << 31) <= each < 1 << 31]
    return np.resize(np.array(found, np.int64), SUMS)


def first_of(n: int, m: int, s: int) -> int:
    """The least sum that is rounded to n."""
    return -(((1 << (s - 1)) - (n << s)) // m)


def rounded(total: int, m: int, s: int, zero_point: int, clip: tuple[int, int]) -> int:
    return min(max(((total * m + (1 << (s - 1))) >> s) + zero_point, clip[0]), clip[1])


@pytest.mark.parametrize("kind", [Conv, Depthwise])
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("near", [True, False], ids=["within floats", "beyond"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "as it lies"])
def test_a_sum_at_every_turning_point_is_rounded_as_integers_are(
    kind: Kind, clip: tuple[int, int], near: bool, packed: bool
) -> None:
    """Sums are biases and one product of 1; a panel of floats has none beyond +-2**24."""
    rng, zero_point = np.random.default_rng(6), -3
    groups = [(m, s, turning_points(rng, m, s, zero_point)) for m, s in SCALES]
    if near:
        groups = [(m, s, np.where(abs(sums) < (1 << 24) - 129, sums, sums % 1000)) for m, s, sums in groups]
    filters = len(groups) * SUMS
    image = (2, 2, 1 if kind is Conv else filters)
    spec = kind(
        name="l", input_shape=image, filters=filters, kernel=(1, 1), zero_point=zero_point, qmin=clip[0], qmax=clip[1]
    )
    sums = np.concatenate([each for _, _, each in groups])
    found = {
        "weight": np.ones(spec.weight_shape, np.int8),
        "bias": np.clip(sums - 1, -(1 << 31), None).astype(np.int32),
        "multiplier": np.repeat([m for m, _, _ in groups], SUMS).astype(np.int32),
        "shift": np.repeat([s for _, s, _ in groups], SUMS).astype(np.uint8),
    }
    ours = Alone(spec, {f"l.{part}": array for part, array in found.items()}, (128,), packed=packed)
    ours.step(np.ones(math.prod(image), np.int64))
    for place in np.asarray(ours.run.out).reshape(4, filters):
        for f, y in enumerate(place):
            m, s = int(found["multiplier"][f]), int(found["shift"][f])
            assert y == rounded(int(found["bias"][f]) + 1, m, s, zero_point, clip), (int(sums[f]), m, s)


@settings(max_examples=100, deadline=None)
@given(
    m=st.integers(1 << 23, (1 << 24) - 1), s=st.integers(1, 46), zero_point=st.integers(-128, 127),
    sums=st.lists(st.integers(-(1 << 24) + 200, (1 << 24) - 200), min_size=1, max_size=40),
)  # fmt: skip
def test_any_sum_of_floats_is_rounded_as_integers_are(m: int, s: int, zero_point: int, sums: list[int]) -> None:
    spec = Conv(name="l", input_shape=(2, 2, 1), filters=len(sums), kernel=(1, 1), zero_point=zero_point)
    found = {
        "weight": np.ones(spec.weight_shape, np.int8), "bias": np.array(sums, np.int32),
        "multiplier": np.full(len(sums), m, np.int32), "shift": np.full(len(sums), s, np.uint8),
    }  # fmt: skip
    ours = Alone(spec, {f"l.{part}": array for part, array in found.items()}, (128,))
    ours.step(np.array([-128, 127, 0, 1]))
    for x, place in zip((-128, 127, 0, 1), np.asarray(ours.run.out).reshape(4, -1), strict=True):
        assert [*map(int, place)] == [rounded(each + x, m, s, zero_point, (-128, 127)) for each in sums]


# ------------------------------------------------------------------ numbers of records

NUMBERS = (
    "height", "width", "channels", "kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w", "top",
    "left", "out_h", "out_w", "filters", "outputs",
)  # fmt: skip


def record(kind: Kind) -> tuple[str, Fields]:
    spec, tensors = made(np.random.default_rng(2), kind, (4, 4, 2), 2, kernel=(3, 3), padding=(1, 1, 1, 1))
    [found] = PACKERS[kind](Packing(spec, tensors, NativeLayer(spec), [np.zeros(32, np.int16)]))
    return found


@pytest.mark.parametrize("kind", [Conv, Depthwise])
@pytest.mark.parametrize("value", [-(1 << 31), -1, 0, 1 << 24, (1 << 31) - 1])
@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_out_of_bounds_are_refused_packed_or_not(kind: Kind, number: str, value: int) -> None:
    name, fields = record(kind)
    if number in ("top", "left") and value == 0:
        return
    for each in (fields, laid(name, fields)):
        with pytest.raises((ValueError, TypeError)):
            required().packed_size((name, each | {number: value}))


@pytest.mark.parametrize("kind", [Conv, Depthwise])
def test_numbers_whose_product_no_integer_holds_are_refused(kind: Kind) -> None:
    name, fields = record(kind)
    huge = dict.fromkeys(("height", "width", "channels", "kernel_h", "kernel_w", "filters"), (1 << 31) - 1)
    with pytest.raises((ValueError, TypeError)):
        required().packed_size((name, fields | huge))


@pytest.mark.parametrize(
    ("kind", "shape", "kernel", "dilation"),
    [(Conv, (128, 262, 1), (128, 128), (1, 2)), (Depthwise, (20, 20, 2), (13, 13), (1, 1))],
)
def test_an_empty_array_is_no_packed_form(
    kind: Kind, shape: tuple[int, int, int], kernel: tuple[int, int], dilation: tuple[int, int]
) -> None:
    """Where the kind has none of this size."""
    spec, tensors = made(np.random.default_rng(2), kind, shape, 2, kernel=kernel, dilation=dilation)
    run = NativeLayer(spec)
    [(name, fields)] = PACKERS[kind](Packing(spec, tensors, run, [np.zeros(math.prod(shape), np.int16)]))
    assert required().packed_size((name, fields)) == 0
    with pytest.raises(ValueError, match=name):
        required().pack((name, fields | {"packed": np.zeros(0, np.int8)}), np.zeros(0, np.int8))
