"""The bits that are chosen are the best there are, and what a layer's weights become is what was reckoned with."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.arrays import F64
from edgerun.errors import ModelError
from edgerun.packing import best_packing, pack_array, top
from edgerun.spec import Frames
from exporters.allocate import WIDTHS, allocate, choose_bits, damage, stored_bytes
from exporters.data import Samples
from exporters.float_net import FloatNet
from exporters.nodes import (
    FloatCells,
    FloatConv,
    FloatConvSum,
    FloatDense,
    FloatDenseSum,
    FloatLif,
    FloatReadout,
    FloatSumPool,
    FloatUnary,
)
from exporters.nodes.grid import grid_steps, nearest, on_grid
from exporters.rounding import Rounding, roundings
from exporters.twin import quantise_net

RNG = np.random.default_rng(11)


def rows(low: int, high: int) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(st.lists(st.integers(low, high), min_size=3, max_size=3), min_size=5, max_size=5)


@given(costs=rows(0, 9), sizes=rows(0, 9), budget=st.integers(0, 45))
def test_nothing_is_better_than_what_is_chosen(costs: list[list[int]], sizes: list[list[int]], budget: int) -> None:
    def total(table: list[list[int]], choice: tuple[int, ...]) -> int:
        return sum(row[k] for row, k in zip(table, choice, strict=True))

    fitting = [choice for choice in itertools.product(range(3), repeat=5) if total(sizes, choice) <= budget]
    if not fitting:
        with pytest.raises(
            ModelError, match=f"the weights take {sum(map(min, sizes))} bytes at the least, .* {budget}"
        ):
            allocate(costs, sizes, budget)
        return
    best = min((total(costs, choice), total(sizes, choice)) for choice in fitting)
    chosen = tuple(allocate(costs, sizes, budget))
    assert (total(costs, chosen), total(sizes, chosen)) == best


def test_a_long_net_is_no_trouble() -> None:
    costs, sizes = RNG.random((60, 3)), RNG.integers(1, 200_000, (60, 3))
    chosen = allocate(costs.tolist(), sizes.tolist(), int(sizes.mean(axis=1).sum() * 0.6))
    assert sizes[np.arange(60), chosen].sum() <= sizes.mean(axis=1).sum() * 0.6


# ------------------------------------------------------------------ grids


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rounded_weights_lie_on_a_grid_of_their_bits(bits: int) -> None:
    weight = RNG.normal(size=(7, 5, 5, 3))
    weight[2] = 0
    steps = grid_steps(weight, bits)
    integers = on_grid(weight, steps, bits) / np.where(steps > 0, steps, 1)[:, None, None, None]
    np.testing.assert_allclose(integers, np.rint(integers), atol=1e-9)
    assert np.abs(integers).max() <= top(bits) + 1e-9
    assert steps[2] == 0


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_grid_is_better_than_the_widest_and_next_to_the_best(bits: int) -> None:
    weight = RNG.normal(size=(6, 200))
    widest = np.abs(weight).max(axis=1) / top(bits)

    def error(steps: F64) -> F64:
        return np.asarray(np.square(on_grid(weight, steps, bits) - weight).sum(axis=1))

    found = error(grid_steps(weight, bits))
    assert (found < error(widest)).all()
    least = np.min([error(share * widest) for share in np.linspace(0.05, 1.2, 800)], axis=0)
    assert (found <= 1.05 * least).all()


def test_eight_bits_clip_nothing() -> None:
    weight = RNG.normal(size=(6, 200))
    assert np.abs(nearest(weight, 8) - weight).max() <= np.abs(weight).max() / 127 / 2 + 1e-12


# ------------------------------------------------------------------ a net


def net() -> FloatNet:
    return FloatNet(
        "small",
        (6, 6, 2),
        (
            FloatConv("eye", (6, 6, 2), RNG.normal(size=(8, 3, 3, 2)), RNG.normal(size=8), low=0.0),
            FloatUnary("squash", (128,), "tanh"),
            FloatDense("wide", RNG.normal(size=(24, 128)), RNG.normal(size=24), low=0.0),
            FloatDense("last", RNG.normal(size=(4, 24)), RNG.normal(size=4)),
        ),
    )


def samples(n: int = 60) -> Samples:
    return Samples(RNG.normal(size=(n, 6, 6, 2)), RNG.integers(0, 4, n))


def test_bits_fit_the_budget_and_follow_the_trace() -> None:
    small, some = net(), samples()
    weights = roundings(small, some)
    assert list(weights) == ["eye", "wide", "last"]
    full = sum(stored_bytes(weight, 8) for weight in weights.values())
    equal = dict.fromkeys(weights, 1.0)
    for share in (1.0, 0.6, 0.4):
        bits = choose_bits(small, some, int(share * full), equal)
        assert sum(stored_bytes(weight, bits[name]) for name, weight in weights.items()) <= share * full
    assert choose_bits(small, some, full, equal) == dict.fromkeys(weights, 8)
    assert choose_bits(small, some, full - 150, equal | {"wide": 1e9}) == {"eye": 2, "wide": 8, "last": 4}
    assert choose_bits(small, some, full - 150, equal | {"wide": 1e-9}) == {"eye": 8, "wide": 4, "last": 8}


def test_bits_are_chosen_without_anyone_giving_a_trace() -> None:
    small, some = net(), samples()
    full = sum(stored_bytes(layer, 8) for layer in roundings(small, some).values())
    assert set(choose_bits(small, some, full // 2).values()) <= set(WIDTHS)


def test_quantising_gives_the_integers_that_were_reckoned_with() -> None:
    small, some = net(), samples()
    bits = {"eye": 4, "wide": 2, "last": 8}
    twin = quantise_net(small, some, bits=bits)
    for name, weights in roundings(small, some).items():
        integers = twin.tensors[f"{name}.weight"]
        assert np.abs(integers).max() <= top(bits[name])
        assert len(pack_array(name, integers, best_packing(integers))) == stored_bytes(weights, bits[name])


def lif_net(recurrent: bool, *, thresholds: float = 0.7) -> FloatNet:
    ones, weight = np.ones(12, np.float32), RNG.normal(size=(12, 5)).astype(np.float32)
    back = RNG.normal(size=(12, 12)).astype(np.float32) if recurrent else None
    uneven = thresholds * np.linspace(0.5, 2, 12).astype(np.float32)
    lif = FloatLif("cells", weight, back, ones, 0.9 * ones, uneven)
    out = FloatReadout("out", RNG.normal(size=(3, 12)).astype(np.float32), ones[:3], 0.9 * ones[:3])
    return FloatNet("spikes", (4, 5), (lif, out), encoder=Frames())


def sums_net() -> FloatNet:
    """A synapse that divides by the size of the pool behind it, recurrent neurons, and a second synapse."""
    ones = np.ones(7, np.float32)
    layers = (
        FloatConvSum("eye", (2, 3, 5), RNG.normal(size=(7, 1, 1, 5)).astype(np.float32), 0 * ones, gain=1 / 6),
        FloatSumPool("mean", (2, 3, 7), (2, 3), (1, 1)),
        FloatCells("cells", (7,), ones, ones, beta=0.5 * ones, recurrent=RNG.normal(size=(7, 7)).astype(np.float32)),
        FloatDenseSum("wide", RNG.normal(size=(9, 7)).astype(np.float32), peak=1),
        FloatCells("self", (9,), ones[:1], ones[:1], beta=ones[:1] / 2, recurrent=ones[:1], reset="zero"),
    )
    return FloatNet("sums", (4, 2, 3, 5), layers, encoder=Frames())


SPIKING = {
    "plain": lambda: lif_net(False),
    "recurrent": lambda: lif_net(True),
    "threshold 0": lambda: lif_net(False, thresholds=0.0),
    "sums": sums_net,
}


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("analog", [False, True], ids=["spikes", "analog"])
@pytest.mark.parametrize("kind", SPIKING)
def test_spiking_weights_become_the_integers_that_were_reckoned_with(kind: str, analog: bool, bits: int) -> None:
    net = SPIKING[kind]()
    x = RNG.normal(size=(40, *net.input_shape)) if analog else RNG.integers(0, 2, (40, *net.input_shape)) * 1.0
    some = Samples(x, RNG.integers(0, 3, 40))
    free = roundings(net, some)
    assert list(free) == [layer.name for layer in net.layers if layer.name not in ("mean", "self")]
    found = quantise_net(net, some, bits=dict.fromkeys(free, bits)).tensors
    weights = [array for array in found.values() if array.dtype == np.int8]
    wanted = [array for layer in free.values() for array in layer.integers(bits).values()]
    assert len(wanted) == len(weights)
    for array, want in zip(weights, wanted, strict=True):
        lies = want if array.ndim == 4 else want.T
        np.testing.assert_array_equal(array, lies)
    assert top(bits) // 2 < max(int(np.abs(array).max()) for array in weights) <= top(bits)
    assert sum(len(pack_array("w", w, best_packing(w))) for w in weights) == pytest.approx(
        sum(stored_bytes(layer, bits) for layer in free.values()), abs=8
    )


def test_fewer_bits_do_more_damage() -> None:
    parts = {"weight": RNG.normal(size=(20, 30)), "recurrent": RNG.normal(size=(20, 20))}
    layer = Rounding(FloatDense("any", parts["weight"], np.zeros(20, np.float32)), parts)
    two, four, eight = (damage(layer, 3.0, bits) for bits in WIDTHS)
    assert two > 4 * four > 16 * eight > 0
    error = sum(np.square(nearest(part, 4) - part).sum() for part in parts.values())
    assert four == pytest.approx(3.0 / 1000 * error)
    assert damage(layer, -1.0, 2) == 0


def test_a_net_without_free_bits_is_refused() -> None:
    with pytest.raises(ModelError, match="no layer's bits are free to choose"):
        choose_bits(FloatNet("bare", (3,), (FloatUnary("squash", (3,), "tanh"),)), samples(), 100, {})
