"""e-prop beside torch's own differentiation, the recurrent spikes detached and not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reference import eprop as paper

torch = pytest.importorskip("torch", reason="pip install 'edgerun[train]'")

STEPS = 40


def spike(margin: Any, net: paper.Net) -> Any:
    """A step whose derivative is the triangle: the triangle's integral rides along with no value of its own."""
    psi = net.gamma / net.threshold * torch.clamp(1 - margin.detach().abs() / net.threshold, min=0)
    ramp = psi * margin
    return (margin.detach() >= 0).to(margin.dtype) + ramp - ramp.detach()


def loss_of(net: paper.Net, w: Any, r: Any, o: Any, x: Any, targets: int, *, recurrent: bool) -> Any:
    n = len(net.beta)
    v, b, z, y = (torch.zeros(size, dtype=torch.float64) for size in (n, n, n, net.o.shape[1]))
    beta, rho, loss = torch.tensor(net.beta), torch.tensor(net.rho), torch.zeros((), dtype=torch.float64)
    for t in range(len(x)):
        b = rho * b + z
        back = z if recurrent else z.detach()
        v = net.alpha * v + x[t] @ w + back @ r - net.threshold * z.detach()
        z = spike(v - net.threshold - beta * b, net)
        y = net.kappa * y + z @ o
        if t >= len(x) - targets:
            loss = loss - torch.log_softmax(y, 0)[1]
    return loss


@pytest.mark.parametrize("adaptive", [False, True], ids=["lif", "alif"])
@pytest.mark.parametrize("recurrent", [False, True], ids=["detached", "whole"])
@pytest.mark.parametrize("targets", [1, 9])
def test_the_reference_is_the_derivative_that_torch_takes(adaptive: bool, recurrent: bool, targets: int) -> None:
    rng = np.random.default_rng(4)
    net = paper.Net(
        w=rng.normal(0, 0.5, (7, 9)), r=rng.normal(0, 0.3, (9, 9)), o=rng.normal(0, 1, (9, 4)), alpha=0.9, kappa=0.8,
        rho=rng.uniform(0.9, 0.99, 9), beta=rng.uniform(0.1, 0.6, 9) * adaptive,
    )  # fmt: skip
    x = (rng.random((STEPS, 7)) < 0.3).astype(float)
    window = paper.run(net, x)
    errors = np.array([paper.error_of(y, 1) for y in paper.outputs(net, window.z)[-targets:]])
    parts = [torch.tensor(part, requires_grad=True) for part in (net.w, net.r, net.o)]
    loss_of(net, *parts, torch.tensor(x), targets, recurrent=recurrent).backward()
    want = paper.reverse_mode(net, window, errors, recurrent=recurrent)
    for name, part, reference in zip(want._fields, parts, want, strict=True):
        np.testing.assert_allclose(reference, part.grad.numpy(), rtol=0, atol=1e-10, err_msg=name)
    if not recurrent:
        device = paper.deferred(net, window, errors)
        np.testing.assert_allclose(device.w, parts[0].grad.numpy(), rtol=0, atol=1e-10)
