"""Permuted MNIST at the paper's size: a step against autograd, credit and boundary, a run that goes on, its page."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from modules import scenario

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch.compile's own imports

DATA = Path(os.environ.get("EDGERUN_DATA", "none"), "mnist.npz")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return scenario(monkeypatch, "permuted_mnist_paper")


def test_gradients_are_autograds(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    life = bench.Life(1, 0.1, torch.float32)
    monkeypatch.setattr(bench, "step", lambda *arrays: None)
    x, y = torch.rand(8, 784), torch.arange(8)
    with torch.no_grad():
        life.learn(x, y)
    parts = [part.clone().requires_grad_() for part in bench.views(life.weight)]
    h = x
    for k in range(0, 6, 2):
        h = h @ parts[k] + parts[k + 1]
        h = torch.relu(h) if k < 4 else h
    torch.nn.functional.cross_entropy(h, y).backward()
    for ours, theirs in zip(bench.views(life.gradient), parts, strict=True):
        torch.testing.assert_close(ours, theirs.grad, atol=1e-6, rtol=1e-4)


def test_the_step_is_adams_on_both_losses_and_earns_what_it_moved(bench: ModuleType) -> None:
    plain = bench.step._torchdynamo_orig_callable  # the same lines, not compiled
    random = torch.Generator().manual_seed(3)
    weight, gradient, importance, reference = (torch.randn(50, generator=random) for _ in range(4))
    importance.abs_()
    first, second, omega = (torch.zeros(50) for _ in range(3))
    theirs = weight.clone().requires_grad_()
    adam, earned = torch.optim.Adam([theirs], lr=1e-3), torch.zeros(50)
    for steps in range(1, 4):
        before = theirs.detach().clone()
        theirs.grad = gradient + 2 * 0.1 * importance * (before - reference)
        adam.step()
        earned -= gradient * (theirs.detach() - before)
        plain(
            weight, gradient, first, second, omega, importance, reference, torch.tensor(0.2), torch.tensor(float(steps))
        )
    torch.testing.assert_close(weight, theirs.detach())
    torch.testing.assert_close(omega, earned)


def test_a_boundary_adds_importance_and_clamps_the_sum(bench: ModuleType) -> None:
    life = bench.Life(1, 0.1, torch.float32)
    life.importance[:2], life.omega[:2] = torch.tensor([1.0, 1.0]), torch.tensor([0.2, -0.2])
    life.weight[:2] = life.reference[:2] + 0.1
    life.boundary()
    torch.testing.assert_close(life.importance[:2], torch.tensor([1 + 0.2 / 0.11, 0.0]))
    assert float(life.omega.abs().max()) == 0
    assert torch.equal(life.reference, life.weight)


@pytest.mark.skipif(not DATA.exists(), reason="EDGERUN_DATA has no mnist.npz")
def test_the_page_is_made_and_a_finished_run_is_not_made_again(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "results.md"
    page.write_text("# Results\n")
    arguments = ["x", "--tasks", "2", "--epochs", "0", "--output", str(tmp_path), "--markdown", str(page)]
    monkeypatch.setattr(sys, "argv", arguments)
    try:
        assert bench.main() == 0
        first = page.read_text()
        assert "| c = 0.1 (float), 1 | " in first
        assert "| c = 0 (float) | 1 | " in first
        monkeypatch.setattr(bench.Life, "save", None)  # nothing is left to do that would be kept
        assert bench.main() == 0
    finally:
        torch.set_grad_enabled(True)
    assert page.read_text() == first
    assert np.load(tmp_path / "permuted_mnist_paper-0-1-0.npz")["rows"].shape == (2, 2)
