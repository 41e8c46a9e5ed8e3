"""Meta-training is what it says: gradients through gradients, quantisers in both loops, and the device's own step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import inner_step as paper

torch = pytest.importorskip("torch")
pytest.importorskip("nir")

from edgerun.bundle import open_bundle, read_bundle  # noqa: E402
from edgerun.cli import main  # noqa: E402
from edgerun.errors import DataError, ModelError  # noqa: E402
from edgerun.kernels.eprop import trace_gain  # noqa: E402
from edgerun.spec import InnerStep  # noqa: E402
from exporters.export import Options, export  # noqa: E402
from exporters.float_net import forward  # noqa: E402
from exporters.learning import mantissa  # noqa: E402
from exporters.nir_import import NirOptions, load_nir  # noqa: E402
from exporters.training import episodes, maml, spiking  # noqa: E402
from exporters.training.maml import Inner, Quantiser, Task, adapt, meta_loss  # noqa: E402
from exporters.training.spiking import HEAD, SpikingConv, fast_sigmoid  # noqa: E402

WAYS, SIDE = 3, 6
NET = SpikingConv(side=SIDE, filters=(2, 3), kernels=(3, 3), steps=3)
SMOOTH = SpikingConv(side=SIDE, filters=(2, 3), kernels=(3, 3), steps=3, fire=fast_sigmoid)


def weights(net: SpikingConv, seed: int = 0) -> dict[str, Any]:
    random = torch.Generator().manual_seed(seed)
    values = {name: value.detach().double() for name, value in net.start(seed).items() if not name.endswith(".gain")}
    values[HEAD] = 0.2 * torch.randn(WAYS, net.width, generator=random, dtype=torch.float64)
    return {name: value.requires_grad_() for name, value in values.items()}


def task(net: SpikingConv, seed: int = 1) -> Task:
    random = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(4 * WAYS, 1, SIDE, SIDE, generator=random, dtype=torch.float64)
    y = torch.arange(WAYS)
    return Task(x[:WAYS], y, x[WAYS:], y.repeat(3))


def model(net: SpikingConv) -> maml.Model:
    return lambda values, x: net.features(values, x) @ values[HEAD].T


def everything(net: SpikingConv, **changes: Any) -> tuple[dict[str, Any], dict[str, Any], Task, Inner]:
    theta = weights(net)
    rates = {name: torch.tensor(0.05, dtype=torch.float64, requires_grad=True) for name in theta}
    return theta, rates, task(net), Inner(**({"moved": tuple(theta), "passes": 2} | changes))


# ------------------------------------------------------------------ gradients through gradients


def test_the_second_order_gradient_is_that_of_finite_differences() -> None:
    """On a net whose spikes are the smooth function that lends spikes their derivative."""
    theta, rates, one, inner = everything(SMOOTH)

    def loss() -> Any:
        return meta_loss(model(SMOOTH), theta, rates, [one, task(SMOOTH, 2)], inner)

    loss().backward()
    for name, value in [*theta.items(), *((f"rate of {n}", r) for n, r in rates.items())]:
        flat, gradient = value.data.reshape(-1), value.grad.reshape(-1)
        for k in {0, len(flat) // 2, len(flat) - 1}:
            found = []
            for nudge in (1e-5, -1e-5):
                flat[k] += nudge
                found.append(float(loss().detach()))
                flat[k] -= nudge
            assert abs((found[0] - found[1]) / 2e-5 - float(gradient[k])) < 1e-6 + 1e-4 * abs(float(gradient[k])), name


def test_the_first_order_gradient_is_that_of_a_constant_inner_gradient() -> None:
    theta, rates, one, inner = everything(SMOOTH, passes=1, first_order=True)
    meta_loss(model(SMOOTH), theta, rates, [one], inner).backward()
    first = {name: value.grad.clone() for name, value in theta.items()}
    plain = {name: value.detach().requires_grad_() for name, value in theta.items()}
    support = torch.nn.functional.cross_entropy(model(SMOOTH)(plain, one.x), one.y)
    gradients = torch.autograd.grad(support, list(plain.values()))
    phi = {name: plain[name] - 0.05 * g.detach() for name, g in zip(plain, gradients, strict=True)}
    torch.nn.functional.cross_entropy(model(SMOOTH)(phi, one.query_x), one.query_y).backward()
    for name, value in plain.items():
        torch.testing.assert_close(first[name], value.grad)
    for value in theta.values():
        value.grad = None
    second = everything(SMOOTH, passes=1)[3]
    meta_loss(model(SMOOTH), theta, rates, [one], second).backward()
    assert any(not torch.allclose(first[name], theta[name].grad) for name in theta)


@pytest.mark.parametrize("order", [1, 2])
def test_a_spike_has_the_derivatives_of_the_smooth_function(order: int) -> None:
    found = []
    for function in (spiking.spike, fast_sigmoid):
        x = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
        y = function(x, 10.0).sum()
        for _ in range(order):
            (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        found.append(y.detach())
    torch.testing.assert_close(*found)
    assert (spiking.spike(x, 10.0).detach() == (x > 0)).all()


def test_only_what_is_moved_moves_and_a_negative_rate_moves_nothing() -> None:
    theta, rates, one, inner = everything(NET, moved=(HEAD,))
    phi = adapt(model(NET), theta, rates, one.x, one.y, inner)
    assert not torch.equal(phi[HEAD], theta[HEAD])
    assert all(phi[name] is theta[name] for name in theta if name != HEAD)
    rates[HEAD] = torch.tensor(-0.05, dtype=torch.float64)
    assert torch.equal(adapt(model(NET), theta, rates, one.x, one.y, inner)[HEAD], theta[HEAD])


def test_a_batch_of_one_is_the_device_s_lessons_in_a_row() -> None:
    theta, rates, one, inner = everything(NET, moved=(HEAD,), batch=1, passes=1)
    phi = adapt(model(NET), theta, rates, one.x, one.y, inner)
    w = theta[HEAD].detach().numpy().T
    traces = NET.features(theta, one.x).detach().numpy()
    for p, label in zip(traces, range(WAYS), strict=True):
        w = paper.step(w, p, paper.error(p @ w, label, np.ones(WAYS, np.bool_)), 0.05)
    np.testing.assert_allclose(phi[HEAD].detach().numpy().T, w, atol=1e-12)


def test_meta_training_makes_one_step_go_further() -> None:
    theta, rates, one, inner = everything(NET, moved=(HEAD,), passes=1)
    tasks = [one, task(NET, 5)]
    losses: list[float] = []

    def loss_of(number: int) -> Any:
        return meta_loss(model(NET), theta, rates, tasks, inner)

    episodes.train(
        [*theta.values(), *rates.values()],
        loss_of,
        episodes.Schedule(episodes=40, rate=0.02),
        lambda n, loss: losses.append(loss),
    )
    assert losses[-1] < 0.7 * losses[0]


# ------------------------------------------------------------------ quantisers


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize(("bits", "top"), [(8, 1.0), (4, 0.5), (2, 2.0)])
def test_a_quantiser_gives_multiples_of_its_step_within_its_range(rounding: Any, bits: int, top: float) -> None:
    quantise = Quantiser(bits=bits, top=top, rounding=rounding)
    x = torch.linspace(-2 * top, 2 * top, 2001, dtype=torch.float64, requires_grad=True)
    y = quantise(x, torch.Generator().manual_seed(0))
    levels = (y / quantise.step).detach().numpy()
    assert (levels == np.round(levels)).all()
    assert levels.min() == -(2 ** (bits - 1))
    assert levels.max() == 2 ** (bits - 1) - 1
    inside = (x > -top) & (x < top - quantise.step)
    assert float((y - x).detach()[inside].abs().max()) <= quantise.step * (0.5 if rounding == "nearest" else 1) + 1e-12
    y.sum().backward()
    assert (x.grad[inside] == 1).all()
    assert (x.grad[(x < -top) | (x > top - quantise.step)] == 0).all()


def test_stochastic_rounding_keeps_the_mean() -> None:
    x = torch.full((20000,), 0.3 / 8)
    y = Quantiser(bits=4, rounding="stochastic")(x, torch.Generator().manual_seed(3))
    assert set(y.tolist()) == {0.0, 0.125}
    assert abs(float(y.mean()) - 0.3 / 8) < 0.0015


def test_both_loops_are_quantised() -> None:
    coarse = Quantiser(bits=4, top=0.5)
    theta, rates, one, inner = everything(NET, moved=(HEAD,), outer=coarse, inner=coarse)
    rates[HEAD] = torch.tensor(1.0, dtype=torch.float64)
    phi = adapt(model(NET), theta, rates, one.x, one.y, inner)
    for name, value in phi.items():
        levels = (value / coarse.step).detach()
        assert torch.equal(levels, levels.round()), name
    assert not torch.equal(phi[HEAD], coarse(theta[HEAD]))
    meta_loss(model(NET), theta, rates, [one], inner).backward()
    assert float(theta["conv0.weight"].grad.abs().sum()) > 0


@pytest.mark.parametrize(("fields", "message"), [({"bits": 1}, "outside"), ({"bits": 8, "top": 0.0}, "not above 0")])
def test_quantisers_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Quantiser(**fields)


# ------------------------------------------------------------------ episodes


def test_an_episode_has_other_samples_to_ask_about_than_to_learn_from() -> None:
    y = np.repeat([3, 5, 8, 9], 6)[np.random.default_rng(0).permutation(24)]
    groups, form = episodes.classes_of(y), episodes.Form(ways=3, shots=2, queries=4)
    one = episodes.draw(np.random.default_rng(1), groups, form)
    assert len({*one.shots} | {*one.queries}) == 18
    shown, asked = (y[rows].reshape(3, -1) for rows in one)
    assert (shown == shown[:, :1]).all()
    assert (asked == shown[:, :1]).all()
    assert len(set(shown[:, 0])) == 3
    assert episodes.labels(3, 4).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for ways, shots, message in ((5, 1, "of 5 classes, there are 4"), (2, 3, "a class has 6 samples")):
        with pytest.raises(DataError, match=message):
            episodes.draw(np.random.default_rng(1), groups, episodes.Form(ways=ways, shots=shots, queries=4))


def test_prototype_logits_name_the_nearest_mean() -> None:
    shots, queries = torch.randn(6, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    logits = episodes.prototype_logits(shots, queries, 3)
    means = shots.reshape(3, 2, 5).mean(1)
    for row, z in zip(logits, queries, strict=True):
        torch.testing.assert_close(row, torch.stack([-((z - c) ** 2).sum() / 5 for c in means]))


def test_quarter_turns_are_classes_of_their_own() -> None:
    x, y = episodes.quarter_turns(np.arange(8).reshape(2, 2, 2), np.array([0, 1]))
    assert y.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert x[2].tolist() == [[1, 3], [0, 2]]


# ------------------------------------------------------------------ the net on its way to a device


def test_folding_a_batch_s_statistics_changes_nothing_for_that_batch() -> None:
    values = NET.start(3)
    with torch.no_grad():
        values["conv1.gain"] *= 1.5
        values["conv1.bias"] += 0.1
    x = torch.rand(9, 1, SIDE, SIDE)
    folded = NET.folded(values, x)
    assert not any(name.endswith(".gain") for name in folded)
    torch.testing.assert_close(NET.features(folded, x), NET.features(values, x))


def test_the_exported_net_answers_as_the_torch_net(tmp_path: Path) -> None:
    values, head = (
        NET.folded(NET.start(3), torch.rand(50, 1, SIDE, SIDE)),
        np.random.default_rng(0).normal(0, 0.1, (WAYS, NET.width)),
    )
    NET.write_nir(values, head, tmp_path / "net.nir", 0.01)
    net = load_nir(tmp_path / "net.nir", NirOptions())
    assert net.layers[-1].inner_rate == 0.01  # type: ignore[attr-defined]  # a FloatReadout
    x = torch.rand(20, 1, SIDE, SIDE)
    want = NET.features(values, x).numpy() @ head.T
    np.testing.assert_allclose(forward(net, net.moments(x.numpy())).readings[HEAD], want, atol=1e-4)


def test_from_meta_training_to_lessons_on_a_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Export with the rate that training found; new classes join a readout that had none for them."""
    rng = np.random.default_rng(2)
    centres = rng.random((6, 1, SIDE, SIDE)) < 0.5
    y = np.arange(240) % 6
    x = np.clip(centres[y] + rng.normal(0, 0.15, (240, 1, SIDE, SIDE)), 0, 1).astype(np.float32)
    net = SpikingConv(side=SIDE, filters=(8, 16), kernels=(3, 3), steps=6)
    values = net.folded(net.start(1), torch.from_numpy(x))
    p, w = net.features(values, torch.from_numpy(x)).numpy(), np.zeros((net.width, 3))
    for k in range(60):
        if y[k] < 3:
            w = paper.step(w, p[k], paper.error(p[k] @ w, int(y[k]), np.ones(3, np.bool_)), 0.01)
    net.write_nir(values, w.T, tmp_path / "net.nir", 0.01)
    for name, mine in (("old", y < 3), ("new", y >= 3)):
        np.savez(tmp_path / f"{name}.npz", x=x[mine], y=y[mine], class_names=np.array(list("abcdef")))
    np.savez(tmp_path / "calibration.npz", x=x[y < 3], y=y[y < 3], class_names=np.array(list("abc")))
    bundle = tmp_path / "net.edgb"
    call = ["export", str(tmp_path / "net.nir"), "--calibrate", str(tmp_path / "calibration.npz"), "-o", str(bundle)]
    assert main([*call, "--learn", "inner-step", "--capacity", "6"]) == 0
    manifest = open_bundle(bundle).manifest
    rule = manifest.learning.rule
    assert isinstance(rule, InnerStep)
    assert manifest.head.kind == "logits"
    assert rule.gate == 32768 // (4 * 6)  # a quarter of chance, under 0.05
    assert manifest.layers[-1].outputs == 6
    (rate,), readout = rule.rates, manifest.layers[-1]
    kappa = int(open_bundle(bundle).tensors[f"{readout.name}.kappa"][0])
    shadow = 2.0 ** (readout.weight_exponent + 8 - trace_gain(kappa) - 15)  # type: ignore[union-attr]  # a Readout
    halvings = 19 - rule.temperature_shift
    assert rate.eta / 2**rate.shift == pytest.approx(0.01 * shadow / 2**halvings, rel=1e-3)
    capsys.readouterr()
    adapt_call = ["adapt", str(bundle), "--data", str(tmp_path / "new.npz"), "--probe", str(tmp_path / "old.npz")]
    assert main([*adapt_call, "--shots", "5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["new"]["before"] == 0
    assert told["new"]["after"] > 0.9
    assert told["probe"]["after"] > 0.9
    assert main([*call, "--learn", "prototypes", "--whiten", "none", "--capacity", "6"]) == 0  # the readout is left out
    capsys.readouterr()
    assert main([*adapt_call, "--shots", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["new"]["after"] > 0.9


def test_sharpness_is_the_temperature_of_the_error_s_softmax(tmp_path: Path) -> None:
    values, w = NET.folded(NET.start(3), torch.rand(50, 1, SIDE, SIDE)), np.zeros((WAYS, NET.width))
    np.savez(
        tmp_path / "c.npz", x=np.random.default_rng(0).random((90, 1, SIDE, SIDE), np.float32), y=np.arange(90) % 3
    )
    found = []
    for sharpness in (1.0, 32.0):
        NET.write_nir(values, w, tmp_path / "net.nir", 0.01, sharpness)
        made = export(tmp_path / "net.nir", tmp_path / "c.npz", Options(learn="inner-step"))
        rule = read_bundle(made.data).manifest.learning.rule
        assert rule is not None
        found.append(rule.temperature_shift)
    assert found == [19, 14]


def test_a_rate_becomes_a_mantissa_and_a_shift() -> None:
    for value in (3.1e-5, 0.02, 1.0, 1234.5):
        eta, shift = mantissa(value)
        assert eta / 2**shift == pytest.approx(value, rel=1e-4)
    assert mantissa(1e-12) == (1, 30)
    with pytest.raises(ModelError, match="above 32767"):
        mantissa(1e5)
