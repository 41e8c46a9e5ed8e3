"""Dense layers in C, with packed weights and without, beside their definition in 64 bits: every size, every extreme."""

from __future__ import annotations

from typing import Any

import learners
import numpy as np
import pytest

from edgerun.arrays import I8, I16, I64, Tensors
from edgerun.graph import plastic_tensors
from edgerun.kernels.native import library
from edgerun.learn.learner import Learner
from edgerun.native import NativeNetwork, aligned
from edgerun.network import Network
from edgerun.rules import Backprop
from edgerun.spec import Manifest

pytestmark = pytest.mark.skipif(library() is None, reason="the C kernels are not built here")

LANES, WIDEST = 16, 8192
"""Rows of a panel; the most inputs that have a packed form."""


def layer(rng: np.random.Generator, n: int, m: int, *, ends: bool, zeros: bool) -> dict[str, Any]:
    """The record of a dense layer without its arrays x, y and packed. ends: of weights and bounds."""
    reach = 128 * 256 * m
    qmin, qmax = (-128, 127) if ends else sorted(int(q) for q in rng.integers(-128, 128, 2))
    rest = (1 << 31) - 1 - reach
    return {
        "inputs": m, "outputs": n, "zero_point": int(rng.integers(-128, 128)), "qmin": qmin, "qmax": qmax,
        "weight": (rng.choice([-128, 127], (n, m)) if ends else rng.integers(-128, 128, (n, m))).astype(np.int8),
        "bias": (rng.choice([-rest, rest], n) if ends else rng.integers(-4000, 4000, n)).astype(np.int32),
        "multiplier": rng.integers(1, 1 << 24, n).astype(np.int32),
        "shift": (rng.integers(1, 47, n) if ends else rng.integers(29, 40, n)).astype(np.uint8),
        "weight_zero": rng.integers(-128, 128, n).astype(np.int8) if zeros else None,
    }  # fmt: skip


def defined(fields: dict[str, Any], x: I16) -> I64:
    """y by its definition."""
    weight, zero = fields["weight"].astype(np.int64), fields["weight_zero"]
    if zero is not None:
        weight -= zero.astype(np.int64)[:, None]
    sums, shift = weight @ x.astype(np.int64) + fields["bias"], fields["shift"].astype(np.int64)
    rounded = (sums * fields["multiplier"] + (np.int64(1) << (shift - 1))) >> shift
    found: I64 = np.clip(rounded + fields["zero_point"], fields["qmin"], fields["qmax"])
    return found


def by_c(fields: dict[str, Any], x: I16, *, packed: bool) -> I64:
    """y of a network of this layer alone."""
    native, n, m = library(), fields["outputs"], fields["inputs"]
    record = fields | {"x": np.zeros(m, np.int16), "y": np.full(n, 99, np.int16), "packed": None}
    if packed:
        room = aligned(native.packed_size(("dense", record)))
        native.pack(("dense", record), room)
        record["packed"] = room if room.size else None
        if alone(x, room):
            record["weight"] = np.zeros((n, m), np.int8)
    plan: dict[str, Any] = dict.fromkeys(("phase", "z", "raw", "sums", "counts", "bias", "mean"))
    plan |= dict.fromkeys(
        ("full_scale", "offset", "each_step", "features", "readings", "width", "capacity", "means"), 0
    )
    plan |= {"encoder": 2, "size": m, "moment": m, "steps": 1, "layers": 1, "outputs": n, "x": record["x"]}
    scores = np.empty(n, np.int32)
    native.Net(plan, (("dense", record),), None, False).infer(x, 0, scores)
    return scores.astype(np.int64)


def alone(x: I16, room: I8) -> bool:
    """Whether the packed weights alone give the answer: then the others may be gone."""
    return bool(room.size) and int(x.min()) >= -128 and int(x.max()) <= 127


def inputs(rng: np.random.Generator, m: int, *, far: bool = False) -> list[I16]:
    """Values all over, at their ends, and one beyond int8, far beyond where sums have room for it."""
    plain = rng.integers(-128, 128, m)
    beyond = plain.copy()
    beyond[rng.integers(m)] = 128
    found = [plain, np.full(m, -128), np.full(m, 127), rng.choice([-128, 127], m), beyond, -beyond]
    found += [np.where(beyond == 128, value, plain) for value in (-32768, -32641, 32640, 32767) if far]
    return [each.astype(np.int16) for each in found]


def same(fields: dict[str, Any], xs: list[I16]) -> None:
    for x in xs:
        wanted = defined(fields, x)
        for packed in (False, True):
            np.testing.assert_array_equal(by_c(fields, x, packed=packed), wanted, err_msg=f"packed {packed}")


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
def test_layers_of_every_size_give_their_definition(zeros: bool, ends: bool) -> None:
    rng = np.random.default_rng(2 * zeros + ends)
    sizes = [(1, 1), (16, 4), (17, 5), (128, 64), (127, 129), (129, 33), (140, 140)]
    sizes += [(int(n), int(m)) for n, m in rng.integers(1, 141, (80, 2))]
    for n, m in sizes:
        same(layer(rng, n, m, ends=ends, zeros=zeros), inputs(rng, m, far=not ends))


@pytest.mark.parametrize(("n", "m"), [(400, 784), (10, 400), (5, 2100), (300, 2049), (17, WIDEST), (3, WIDEST + 1)])
def test_big_layers_give_their_definition(n: int, m: int) -> None:
    rng = np.random.default_rng(m)
    for ends in (False, True):
        same(layer(rng, n, m, ends=ends, zeros=ends), inputs(rng, m))


@pytest.mark.parametrize("shift", [0, 1, 2, 31, 32, 33, 45])
def test_rounding_is_half_up_at_every_shift(shift: int) -> None:
    """Sums beside every half, and at the ends of 32 bits, on 40 rows."""
    rng, n = np.random.default_rng(shift), 40
    fields = layer(rng, n, 1, ends=False, zeros=False) | {"qmin": -128, "qmax": 127, "zero_point": 0}
    shift += 1
    multiplier = 1 << max(0, min(23, shift - 8))
    steps = max(1, (1 << shift) // multiplier // 2)
    near = [k * steps + d for k in (-3, -1, 0, 1, 3) for d in (-1, 0, 1)]
    bias = np.array([*near, *(-k for k in near), *np.iinfo(np.int32).max + np.arange(-9, 1)], np.int64)
    bias[-5:] = np.iinfo(np.int32).min + np.arange(5)
    fields |= {
        "bias": np.clip(bias, -(1 << 31), (1 << 31) - 1).astype(np.int32), "weight": np.zeros((n, 1), np.int8),
        "multiplier": np.full(n, multiplier, np.int32), "shift": np.full(n, shift, np.uint8),
    }  # fmt: skip
    same(fields, [np.zeros(1, np.int16)])


def test_packed_weights_take_what_they_say() -> None:
    native, rng = library(), np.random.default_rng(0)
    for n, m in ((1, 1), (16, 4), (17, 5), (400, 784), (3, WIDEST), (3, WIDEST + 1)):
        fields = layer(rng, n, m, ends=False, zeros=False)
        record = ("dense", fields | {"x": np.zeros(m, np.int16), "y": np.zeros(n, np.int16), "packed": None})
        size = native.packed_size(record)
        rows, taps = -(-n // LANES) * LANES, -(-m // 4) * 4
        assert size in ({0} if m > WIDEST else {0, rows * (4 + taps)})
        with pytest.raises(ValueError, match=f"pack: packed has {size + 1} items, not {size}"):
            native.pack(record, np.zeros(size + 1, np.int8))
        with pytest.raises(ValueError, match=f"dense: packed has {size + 1} items, not {size}"):
            native.packed_size(("dense", record[1] | {"packed": np.zeros(size + 1, np.int8)}))


# ------------------------------------------------------------------ which layers are packed


def chain() -> tuple[Manifest, Tensors]:
    """Three dense layers, of which the first never learns."""
    rule = Backprop(
        layers=learners.LAYERS, back_shifts=(8, 7), temperature_shift=8, gradient_shift=7,
        rates=learners.rates(4000, 24, "fc1.weight", "fc2.weight"),
    )  # fmt: skip
    return learners.dense(rule)


def test_layers_that_learn_are_never_packed_and_run_on_what_they_have_learned() -> None:
    answers = {}
    for backend, kind in (("numpy", Network), ("native", NativeNetwork)):
        manifest, tensors = chain()
        network = kind(manifest, tensors)
        learner = Learner(network, priors={}, exemplars=None, backend=backend)
        if isinstance(network, NativeNetwork):
            assert set(network.laid) == {"fc0"}
            assert {f"{name}.weight" for name in network.laid}.isdisjoint(plastic_tensors(manifest))
        before = tensors["fc2.weight"].copy()
        found = []
        for number in range(6):
            q = learners.sample("backprop", number % 4, number)
            learner.apply(learner.plan_lesson(q, number % 4, "full"))
            found.append(learner.network.infer(q).scores.tolist())
        assert (tensors["fc2.weight"] != before).any()
        answers[backend] = found
    assert answers["native"] == answers["numpy"]


def test_weights_that_somebody_writes_are_laid_again() -> None:
    manifest, tensors = chain()
    ours = NativeNetwork(manifest, tensors)
    batch, q = ours.batched(1), learners.sample("backprop", 0, 0)
    before = ours.infer(q).scores.tolist()
    tensors["fc0.weight"][:] = -tensors["fc0.weight"]
    ours.load_weights("fc0.weight")
    wanted = Network(manifest, tensors).infer(q).scores.tolist()
    assert wanted != before
    assert ours.infer(q).scores.tolist() == wanted
    assert batch.scores(q[None])[0].tolist() == wanted
