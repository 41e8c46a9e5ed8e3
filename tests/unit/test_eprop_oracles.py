"""e-prop against what it approximates: real-time recurrent learning and the reverse derivative, in float64."""

import numpy as np
import pytest
from reference import eprop as paper

STEPS = 50


def small_net(adaptive: bool, seed: int, *, recurrent: bool = True) -> paper.Net:
    rng = np.random.default_rng(seed)
    return paper.Net(
        w=rng.normal(0.15, 0.6, (5, 8)), r=rng.normal(0, 0.4, (8, 8)) * recurrent, o=rng.normal(0, 1, (8, 3)),
        alpha=0.85, kappa=0.8, rho=rng.uniform(0.9, 0.99, 8), beta=rng.uniform(0.1, 0.6, 8) * adaptive,
    )  # fmt: skip


def lesson(net: paper.Net, seed: int, targets: int) -> tuple[paper.Window, np.ndarray]:
    """A window that spikes, and the errors after its last so many steps."""
    window = paper.run(net, (np.random.default_rng(seed).random((STEPS, 5)) < 0.35).astype(float))
    assert 20 < window.z.sum() < 300
    return window, np.array([paper.error_of(y, 1) for y in paper.outputs(net, window.z)[-targets:]])


def same(want: paper.Gradients, got: paper.Gradients) -> None:
    for name, left, right in zip(want._fields, want, got, strict=True):
        assert np.abs(left).max() > 1e-3, name
        np.testing.assert_allclose(right, left, rtol=0, atol=1e-10 * np.abs(left).max(), err_msg=name)


NETS = pytest.mark.parametrize("adaptive", [False, True], ids=["lif", "alif"])
SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])
TARGETS = pytest.mark.parametrize("targets", [1, 12])


@NETS
@SEEDS
@TARGETS
def test_forward_and_reverse_mode_give_the_exact_derivative(adaptive: bool, seed: int, targets: int) -> None:
    net = small_net(adaptive, seed)
    window, errors = lesson(net, seed, targets)
    same(paper.real_time(net, window, errors), paper.reverse_mode(net, window, errors, recurrent=True))


@NETS
@SEEDS
@TARGETS
def test_eprop_is_the_derivative_with_recurrent_spikes_detached(adaptive: bool, seed: int, targets: int) -> None:
    net = small_net(adaptive, seed)
    window, errors = lesson(net, seed, targets)
    want = paper.reverse_mode(net, window, errors)
    for form in (paper.as_the_paper_writes_it, paper.deferred):
        same(want, form(net, window, errors))


@NETS
@SEEDS
def test_eprop_is_the_block_diagonal_of_real_time_recurrent_learning(adaptive: bool, seed: int) -> None:
    net = small_net(adaptive, seed)
    window, errors = lesson(net, seed, 5)
    same(paper.real_time(net, window, errors, recurrent=False), paper.deferred(net, window, errors))


@NETS
@SEEDS
def test_without_recurrence_the_block_diagonal_is_exact(adaptive: bool, seed: int) -> None:
    net = small_net(adaptive, seed, recurrent=False)
    window, errors = lesson(net, seed, 5)
    same(paper.real_time(net, window, errors), paper.deferred(net, window, errors))


@NETS
def test_with_recurrence_something_is_left_out(adaptive: bool) -> None:
    """So that the tests above could fail."""
    net = small_net(adaptive, 1)
    window, errors = lesson(net, 1, 5)
    exact, local = paper.real_time(net, window, errors), paper.deferred(net, window, errors)
    assert 0.3 < paper.cosine(exact.w, local.w) < 0.999


@NETS
@SEEDS
def test_the_cost_of_firing_rates_has_the_same_derivative_in_all_forms(adaptive: bool, seed: int) -> None:
    net = small_net(adaptive, seed)
    window, errors = lesson(net, seed, 5)
    push = paper.rate_push(window.z, cost=20.0, target=0.02)
    want = paper.reverse_mode(net, window, errors, push)
    for form in (paper.as_the_paper_writes_it, paper.deferred):
        same(want, form(net, window, errors, push=push))
    assert np.abs(want.w - paper.deferred(net, window, errors).w).max() > 0.01


@NETS
def test_the_push_is_the_derivative_of_the_cost(adaptive: bool) -> None:
    z = (np.random.default_rng(3).random((STEPS, 8)) < 0.2).astype(float)
    push = paper.rate_push(z, cost=3.0, target=0.1)
    for j in (0, 5):
        losses = []
        for nudge in (1e-5, -1e-5):
            moved = z.copy()
            moved[7, j] += nudge
            losses.append(1.5 * ((moved.mean(axis=0) - 0.1) ** 2).sum())
        assert abs((losses[0] - losses[1]) / 2e-5 - push[j]) < 1e-9
