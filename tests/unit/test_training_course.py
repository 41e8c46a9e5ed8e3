"""One cycle of the rate, and the training of recurrent LIF nets that goes by it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="pip install 'edgerun[train]'")
pytest.importorskip("nir", reason="pip install 'edgerun[export]'")

import torch
from torch import nn

from edgerun.arrays import I64
from exporters.training.one_cycle import Course, one_cycle
from exporters.training.surrogate import RecurrentLif, Shape, fit, loss_of

COURSE = Course(epochs=3, batch=4, rate=0.01, decay=0.0)
SHAPE = Shape(inputs=3, hidden=16, outputs=3)


class Slope(nn.Module):
    """One weight, on which every loss here falls by `steepness` a unit."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))


def test_every_epoch_has_an_order_of_its_own_and_every_sample_once() -> None:
    net, rng, seen, told = Slope(), np.random.default_rng(1), list[I64](), list[tuple[int, float]]()

    def loss(rows: I64) -> torch.Tensor:
        seen.append(rows)
        return net.weight * 0 + len(seen)

    one_cycle(net, COURSE, 10, rng.permutation, loss, lambda *words: told.append(words))
    assert [len(rows) for rows in seen] == [5, 5] * 3  # ten samples make two whole batches of four
    rng = np.random.default_rng(1)
    for k in range(3):
        assert np.concatenate(seen[2 * k : 2 * k + 2]).tolist() == rng.permutation(10).tolist()
    assert told == [(1, 1.5), (2, 3.5), (3, 5.5)]


def test_the_rate_rises_and_falls_once() -> None:
    """Adam goes by its rate where the gradient is always the same."""
    net, course, places = Slope(), Course(epochs=50, batch=4, rate=0.01, decay=0.0), [0.0]

    def loss(rows: I64) -> torch.Tensor:
        places.append(net.weight.item())
        return -net.weight

    one_cycle(net, course, 8, np.arange, loss)
    steps = np.diff(places)[1:]
    top = int(steps.argmax())
    assert steps[0] == pytest.approx(0.01 / 25, rel=0.01)
    assert steps.max() == pytest.approx(0.01, rel=0.05)  # the momentum has a cycle too
    assert top == pytest.approx(29, abs=3)  # 30 % of 100 steps
    assert (np.diff(steps[: top + 1]) > -1e-7).all()
    assert (np.diff(steps[top:]) < 1e-7).all()
    assert steps[-1] < 1e-5


def test_a_long_gradient_is_cut_to_one() -> None:
    gradients = []
    for steepness in (0.5, 3.0, 1e6):
        net = Slope()
        one_cycle(net, COURSE, 4, np.arange, lambda rows, net=net, by=steepness: by * net.weight)
        gradients.append(net.weight.grad.item())
    assert gradients == pytest.approx([0.5, 1.0, 1.0], rel=1e-4)


def test_weights_decay() -> None:
    net = Slope()
    nn.init.ones_(net.weight)
    one_cycle(net, Course(epochs=2, batch=4, rate=0.1, decay=0.5), 4, np.arange, lambda rows: net.weight * 0)
    assert 0.9 < net.weight.item() < 0.999


def test_silent_and_busy_neurons_are_pushed() -> None:
    logits, label = torch.zeros(2, 4), torch.tensor([0, 3])
    counts = torch.tensor([[0.0, 0.1, 3.0, 8.0], [0.0, 0.3, 3.0, 6.0]])  # in 10 steps: 0, 0.02, 0.3, 0.7
    chance = float(np.log(4))
    assert loss_of(logits, counts, 100, label).item() == pytest.approx(chance + 0.1 * (0.02 + 0.018), abs=1e-6)
    pushed = 0.1 * 0.02 + 0.05 * (0.05**2 + 0.45**2)
    assert loss_of(logits, counts, 10, label).item() == pytest.approx(chance + pushed, abs=1e-6)
    sure = loss_of(20 * torch.eye(4)[label], counts, 10, label).item()
    assert sure == pytest.approx(0.1 * 0.75 * 20 + pushed, abs=1e-4)  # labels are smoothed by a tenth


def test_a_net_learns_what_windows_have_in_common_and_a_seed_tells_which() -> None:
    y = np.tile(np.arange(3), 20)
    x = np.float32(np.eye(3)[y][:, None] * np.random.default_rng(0).normal(1, 0.1, (60, 8, 1)))

    def trained(seed: int) -> RecurrentLif:
        def windows(rows: I64, rng: np.random.Generator) -> torch.Tensor:
            return torch.from_numpy(np.float32(x[rows] + rng.normal(0, 0.1, x[rows].shape)))

        return fit(RecurrentLif(SHAPE, 1), y, Course(epochs=12, batch=12, rate=0.02), seed, windows)

    first, again, other = (trained(seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.input, other.input)
    with torch.no_grad():
        right = first(torch.from_numpy(x))[0].argmax(axis=1).numpy() == y
        untrained = RecurrentLif(SHAPE, 1)(torch.from_numpy(x))[0].argmax(axis=1).numpy() == y
    assert right.mean() > 0.95 > untrained.mean()
