"""The torch twin computes what the float net does; its curvature is the Hessian's; fine-tuning mends coarse bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.packing import top
from edgerun.spec import Constant, Frames, PhaseRate
from exporters.calibrate import MINMAX
from exporters.data import Samples
from exporters.float_net import FloatNet, forward
from exporters.nodes import (
    FloatAdd,
    FloatAlphaCells,
    FloatCells,
    FloatConcat,
    FloatConv,
    FloatConvSum,
    FloatDense,
    FloatDenseSum,
    FloatDepthwise,
    FloatGru,
    FloatIntegrators,
    FloatLayer,
    FloatLayerNorm,
    FloatLif,
    FloatLstm,
    FloatMul,
    FloatPad,
    FloatPool,
    FloatReadout,
    FloatRnn,
    FloatSlice,
    FloatSLstm,
    FloatSoftmax,
    FloatSumPool,
    FloatTake,
    FloatTotal,
    FloatTranspose,
    FloatUnary,
)
from exporters.nodes.grid import nearest
from exporters.prune import by_chance, density_of, largest, magnitude, thinned
from exporters.sensitivity import bit_layers, cross_entropy
from exporters.twin import bare_twin, quantise_net

torch = pytest.importorskip("torch", reason="pip install 'edgerun[train]'")

from exporters.training import curvature, ntt  # noqa: E402
from exporters.training.finetune import finetune  # noqa: E402
from exporters.training.supervised import train  # noqa: E402
from exporters.training.torch_net import (  # noqa: E402
    KINDS,
    SLOPE,
    UNARY,
    fired,
    parameters,
    seen_by,
    torch_answers,
)

RNG = np.random.default_rng(3)


def normal(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def conv_net() -> FloatNet:
    layers = (
        FloatConv("conv", (9, 8, 3), normal(6, 3, 2, 3), normal(6), (2, 1), (1, 2), (2, 0, 1, 1), low=0.0, high=4.0),
        FloatPool("peak", (5, 7, 6), "max", (2, 3), (1, 2), (2, 1), (1, 0, 0, 1)),
        FloatDepthwise("deep", (4, 3, 6), normal(12, 2, 2), normal(12), padding=(0, 1, 1, 0)),
        FloatPool("mean", (4, 3, 12), "average", (3, 2), (2, 1), (1, 2), (1, 0, 1, 1)),
        FloatPool("whole", (2, 2, 12), "average", (2, 2), (1, 1), padding=(1, 0, 0, 0), count_padding=True),
        FloatAdd("sum", ((2, 1, 12), (1, 1, 12)), (1, -1), low=-3.0, sources=("whole", "row")),
        FloatMul("product", ((2, 1, 12), (2, 1, 12)), high=5.0, sources=("sum", "whole")),
        FloatDense("last", normal(4, 24), normal(4)),
    )
    row = FloatSlice("row", (2, 1, 12), (1, 0, 0), (2, 1, 12), (1, 1, 1), sources=("whole",))
    return FloatNet("images", (9, 8, 3), (*layers[:5], row, *layers[5:]))


def moved_net() -> FloatNet:
    return FloatNet(
        "moved",
        (3, 4),
        (
            FloatTranspose("turn", (3, 4), (1, 0)),
            FloatPad("pad", (4, 3), (1, 0), (0, 2), 0.5),
            FloatSlice("back", (5, 5), (4, 0), (-1, 5), (-2, 2)),
            FloatConcat("join", ((3, 3), (4, 3)), 0, sources=("back", "turn")),
            FloatTake("again", (7, 3), 0, (3, 0, 0, 6, 2, 5, 1)),
            FloatLayerNorm("norm", (7, 3), normal(3), normal(3), 1e-3),
            FloatDense("last", normal(5, 21), normal(5)),
            FloatSoftmax("chances", (5,), 0.7),
        ),
    )


def recurrent_net(kind: str, sequence: bool, reverse: bool) -> FloatNet:
    options: dict[str, Any] = {"sequence": sequence, "reverse": reverse}
    cell: FloatLayer
    match kind:
        case "rnn" | "rnn-relu":
            function: Literal["tanh", "relu"] = "tanh" if kind == "rnn" else "relu"
            cell = FloatRnn("cell", 6, normal(4, 3), normal(4, 4), normal(4), function, **options)
        case "lstm":
            cell = FloatLstm("cell", 6, normal(16, 3), normal(16, 4), normal(16), cell_clip=0.8, **options)
        case _:
            after = kind == "gru"
            biases = normal(12), normal(12)
            cell = FloatGru("cell", 6, normal(12, 3), normal(12, 4), *biases, reset_after=after, **options)
    return FloatNet("window", (6, 3), (cell, FloatDense("last", normal(3, cell.outputs), normal(3))))


def spiking_net(reset: Any, delay: bool, recurrent: bool) -> FloatNet:
    half = np.full(12, 0.9, np.float32)
    back = normal(12, 12) / 4 if recurrent else None
    return FloatNet(
        "spikes",
        (20, 5),
        (
            FloatLif("first", normal(12, 5), back, normal(12), half, half + 0.3, reset, delay),
            FloatReadout("out", normal(4, 12), normal(4), half[:4]),
        ),
        encoder=Frames(),
    )


def sums_net(kind: str, reset: Any, reading: Any) -> FloatNet:
    """Two convolutions whose sums drive neurons, sums of several sources, and neurons of one kind at the end."""
    ones = np.ones(6, np.float32)
    some = np.linspace(0.3, 1.2, 6).astype(np.float32)
    zeros = np.zeros(3, np.float32)
    eye = FloatConvSum("eye", (5, 6, 2), normal(3, 2, 3, 2), zeros, padding=(1, 0, 0, 1))
    first = FloatCells("first", (5, 5, 3), normal(3), some[:3], reset, beta=some[:3] / 2, recurrent=-some[:3])
    shrink = FloatSumPool("shrink", (5, 5, 3), (2, 3), (2, 1), (1, 0, 1, 1), mean=reading != "max", sources=("first",))
    wide = FloatDenseSum("wide", normal(6, 36))
    both = FloatTotal("both", 6, 2, sources=("wide", "wide"))
    last: FloatLayer
    match kind:
        case "cells":
            dense = normal(6, 6) / 3
            options: dict[str, Any] = {"alpha": some / 2, "beta": some / 2, "recurrent": dense, "reading_of": reading}
            late = {"inhibition": reading == "max", "reset_delay": reading != "mean"}
            last = FloatCells("last", (6,), normal(6), 3 * some, reset, **options, **late)
        case "alpha":
            times = {"alpha": 0.9 * ones, "beta": some / 2, "reading_of": reading}
            last = FloatAlphaCells("last", (6,), normal(6), some, "hold" if reset == "zero" else reset, **times)
        case "slstm":
            kind_of = "hold" if reset == "zero" else reset
            last = FloatSLstm("last", normal(24, 6), normal(24, 6), normal(24), some / 8, kind_of)
        case _:
            alpha = some / 2 if kind == "synaptic" else None
            last = FloatIntegrators(
                "last", (6,), normal(6), some / 2, alpha, reading if reading != "counts" else "last"
            )
    return FloatNet("sums", (9, 5, 6, 2), (eye, first, shrink, wide, both, last), encoder=Frames())


NETS: dict[str, Callable[[], FloatNet]] = {
    "conv": conv_net,
    "moved": moved_net,
    **{
        f"{kind} {sequence} {reverse}": lambda k=kind, s=sequence, r=reverse: recurrent_net(k, s, r)  # type: ignore[misc]
        for kind in ("gru", "gru before", "lstm", "rnn", "rnn-relu")
        for sequence in (False, True)
        for reverse in (False, True)
    },
    **{
        f"lif {reset} {delay}": lambda r=reset, d=delay: spiking_net(r, d, d)  # type: ignore[misc]
        for reset in ("subtract", "zero", "none")
        for delay in (False, True)
    },
    **{
        f"{kind} {reset} {reading}": lambda k=kind, s=reset, r=reading: sums_net(k, s, r)  # type: ignore[misc]
        for kind in ("cells", "alpha", "slstm", "integrators", "synaptic")
        for reset in ("subtract", "zero", "none")
        for reading in ("counts", "last", "max", "mean")
    },
}


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_torch_computes_what_the_float_net_computes(make: Callable[[], FloatNet]) -> None:
    net = make()
    moments = net.moments(normal(7, *net.input_shape))
    values = parameters(net, gradients=False)
    answer = "last" if net.layers[-1].name == "chances" else net.layers[-1].name
    wanted = forward(net, moments).readings[answer]
    found = torch_answers(net, values, torch.tensor(moments)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)
    assert np.ptp(found, axis=0).max() > 0.1


@pytest.mark.parametrize("function", UNARY)
def test_functions_of_one_value_agree(function: str) -> None:
    net = FloatNet("one", (8,), (FloatUnary("f", (8,), function),))
    x = np.linspace(0.1 if function in ("sqrt", "rsqrt", "log", "reciprocal") else -4, 4, 80).reshape(10, 8)
    moments = net.moments(x)
    found = torch_answers(net, {}, torch.tensor(moments)).numpy()
    assert np.abs(found - forward(net, moments).readings["f"]).max() < 1e-4


def test_every_kind_of_the_table_is_tried() -> None:
    tried = {type(layer) for make in NETS.values() for layer in make().layers}
    assert tried == set(KINDS) - {FloatUnary}


def test_what_has_no_gradient_is_refused_by_name() -> None:
    net = FloatNet("one", (8,), (FloatUnary("f", (8,), "sign"),))
    with pytest.raises(ModelError, match="layer f: function sign has no gradient here"):
        torch_answers(net, {}, torch.zeros(1, 2, 8))


def test_counts_of_spikes_are_the_answer_of_a_last_neuron() -> None:
    lif = spiking_net("zero", False, False).layers[0]
    net = FloatNet("spikes", (5,), (lif,), encoder=Constant(steps=9))
    moments = net.moments(normal(6, 5))
    found = torch_answers(net, {}, torch.tensor(moments)).numpy()
    np.testing.assert_array_equal(found, forward(net, moments).readings["first"])
    assert found.max() > 1


# ------------------------------------------------------------------ curvature

X = normal(50, 6)
FIRST, LAST = normal(5, 6) / 2, normal(3, 5)


def smooth_net() -> FloatNet:
    return FloatNet(
        "tiny",
        (6,),
        (
            FloatDense("first", FIRST, np.zeros(5, np.float32)),
            FloatUnary("squash", (5,), "tanh"),
            FloatDense("last", LAST, np.zeros(3, np.float32)),
        ),
    )


def smooth_samples() -> Samples:
    return Samples(X.astype(np.float64), (np.tanh(X @ FIRST.T) @ LAST.T).argmax(axis=1))


def test_traces_are_those_of_the_whole_hessian() -> None:
    net, some = smooth_net(), smooth_samples()
    weights = [parameters(net)[name] for name in ("first.weight", "last.weight")]

    def loss(*values: Any) -> Any:
        given = dict(zip(("first.weight", "last.weight"), values, strict=True))
        answers = torch_answers(net, given, torch.tensor(net.moments(some.x)))
        return torch.nn.functional.cross_entropy(answers, torch.tensor(some.y))

    whole = torch.autograd.functional.hessian(loss, tuple(weights))
    wanted = {
        name: float(whole[k][k].reshape(weights[k].numel(), -1).trace()) for k, name in enumerate(("first", "last"))
    }
    drawn = list(curvature.draws(net, some, 300, 0))
    for name, value in wanted.items():
        found = [draw[name] for draw in drawn]
        assert np.mean(found) == pytest.approx(value, abs=4 * np.std(found) / np.sqrt(300))
        assert np.std(found) / np.sqrt(300) < 0.05 * value
    assert curvature.traces(net, some) == {name: pytest.approx(value, rel=0.2) for name, value in wanted.items()}


def test_spiking_layers_have_a_trace() -> None:
    net = spiking_net("subtract", True, True)
    some = Samples(RNG.normal(size=(30, 20, 5)), RNG.integers(0, 4, 30))
    found = curvature.traces(net, some, probes=10)
    assert set(found) == {"first", "out"}
    assert all(np.isfinite(value) for value in found.values())
    assert found["out"] > 0


# ------------------------------------------------------------------ fine-tuning


def chances(net: FloatNet, x: Any) -> Any:
    logits = forward(net, net.moments(x)).readings["last"].astype(np.float64)
    return np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))


def test_finetuning_mends_what_two_bits_break() -> None:
    hidden = FloatDense("hidden", normal(32, 10) / 2, normal(32), low=0.0)
    net = FloatNet("mlp", (10,), (hidden, FloatDense("last", normal(4, 32) / 2, normal(4))))
    bits = {"hidden": 2, "last": 2}
    coarse = replace(
        net,
        layers=tuple(replace(layer, weight=nearest(layer.weight, 2).astype(np.float32)) for layer in net.layers),  # type: ignore[attr-defined,call-arg]
    )
    x, fresh = RNG.normal(size=(400, 10)), RNG.normal(size=(200, 10))

    def gap(candidate: FloatNet) -> float:
        wanted = chances(net, fresh)
        return float((wanted * np.log(wanted / chances(candidate, fresh))).sum(axis=1).mean())

    unlabelled = Samples(x, np.full(400, -1))
    tuned = finetune(net, unlabelled, bits, epochs=10, rate=6e-3)
    assert gap(tuned) < 0.5 * gap(coarse)
    again = finetune(net, unlabelled, bits, epochs=10, rate=6e-3)
    np.testing.assert_array_equal(chances(again, fresh), chances(tuned, fresh))


def test_tuned_weights_become_the_same_integers() -> None:
    net, some = smooth_net(), smooth_samples()
    tuned = finetune(net, some, {"first": 4, "last": 2}, epochs=2)
    assert bit_layers(tuned) == {}
    twin = quantise_net(tuned, some)
    for name, bits in (("first", 4), ("last", 2)):
        layer = tuned.layer(name)
        integers = twin.tensors[f"{name}.weight"]
        assert np.abs(integers).max() <= top(bits)
        np.testing.assert_allclose(integers * layer.weight_scale[:, None], layer.weight, rtol=1e-12)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_recurrent_weights_are_tuned_on_both_sides(kind: str) -> None:
    net = recurrent_net(kind, False, False)
    some = Samples(RNG.normal(size=(80, 6, 3)), RNG.integers(0, 3, 80))
    assert set(bit_layers(net)["cell"]) == {"weight", "recurrent"}
    tuned = finetune(net, some, {"cell": 4, "last": 8}, epochs=2)
    twin = quantise_net(tuned, some)
    cell: Any = tuned.layer("cell")
    for part, scale in (("weight", cell.weight_scale), ("recurrent", cell.recurrent_scale)):
        integers = twin.tensors[f"cell.{part}"]
        assert np.abs(integers).max() <= 7
        np.testing.assert_allclose(integers * scale[:, None], getattr(cell, part), rtol=1e-12)
    plain = quantise_net(net, some, bits={"cell": 4})
    assert max(np.abs(plain.tensors[f"cell.{part}"]).max() for part in ("weight", "recurrent")) == 7


def test_a_rate_code_has_traces_of_the_spikes_that_it_makes() -> None:
    net = replace(spiking_net("zero", False, False), input_shape=(5,), encoder=PhaseRate(steps=9, full_scale=16))
    x = RNG.uniform(0, 3, (20, 5))
    some = Samples(x, RNG.integers(0, 4, 20))
    bare, _ = bare_twin(net, some, MINMAX)
    spikes = bare.moments(some)
    assert set(np.unique(spikes)) == {0, 1}
    found = torch_answers(net, parameters(net), seen_by(net, some)(some)).detach().numpy()
    np.testing.assert_allclose(found, forward(net, spikes).readings["out"], atol=1e-4)
    assert curvature.traces(net, some, probes=4)["out"] > 0


# ------------------------------------------------------------------ surrogate gradients


def test_a_spike_has_the_slope_of_its_sigmoid() -> None:
    mem = torch.linspace(-1, 3, 41, dtype=torch.float64, requires_grad=True)
    threshold = torch.full((41,), 0.8, dtype=torch.float64)
    spikes = fired(mem, threshold)
    np.testing.assert_array_equal(spikes.detach().numpy(), mem.detach().numpy() > 0.8)
    (slope,) = torch.autograd.grad(spikes.sum(), mem, create_graph=True)
    soft = 1 / (1 + np.exp(-SLOPE * (mem.detach().numpy() / 0.8 - 1)))
    np.testing.assert_allclose(slope.detach().numpy(), SLOPE / 0.8 * soft * (1 - soft), rtol=1e-9)
    assert torch.autograd.grad(slope.sum(), mem)[0].abs().max() > 0


def by_hand(net: FloatNet, weight: Any, x: Any) -> Any:
    """A spike after one step of one neuron is the sigmoid itself, so that differences see what gradients should be."""
    return 1 / (1 + np.exp(-SLOPE * ((x @ weight.T) / net.layers[-1].threshold - 1)))  # type: ignore[attr-defined]


def test_gradients_go_through_neurons_to_the_synapse() -> None:
    ones = np.ones(4, np.float32)
    synapse, cells = FloatDenseSum("wide", normal(4, 3)), FloatCells("last", (4,), 0 * ones, 0.7 * ones, beta=ones / 2)
    net = FloatNet("one", (1, 3), (synapse, cells), encoder=Frames())
    x, values = normal(5, 1, 3), parameters(net)
    (found,) = torch.autograd.grad(
        torch_answers(net, values, torch.tensor(net.moments(x))).sum(), values["wide.weight"]
    )
    weight = synapse.weight.astype(np.float64)
    for place in np.ndindex(weight.shape):
        step = np.zeros_like(weight)
        step[place] = 1e-5
        slope = (by_hand(net, weight + step, x[:, 0]) - by_hand(net, weight - step, x[:, 0])).sum() / 2e-5
        assert found[place].item() == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize("make", [make for name, make in NETS.items() if "subtract" in name], ids=lambda make: "")
def test_every_weight_of_a_spiking_net_learns_and_bends(make: Callable[[], FloatNet]) -> None:
    net = make()
    values = parameters(net)
    answers = torch_answers(net, values, torch.tensor(net.moments(normal(7, *net.input_shape))))
    names = [name for name in values if not name.endswith("bias")]
    slopes = torch.autograd.grad(answers.square().sum(), [values[name] for name in names], create_graph=True)
    for name, slope in zip(names, slopes, strict=True):
        assert slope.abs().max() > 0, name
    bends = torch.autograd.grad(sum(slope.sum() for slope in slopes), [values[name] for name in names])
    assert all(torch.isfinite(bend).all() for bend in bends)


def test_spiking_weights_are_tuned_on_the_grid_that_they_get() -> None:
    net = sums_net("cells", "subtract", "mean")
    some = Samples(RNG.integers(0, 2, (40, 9, 5, 6, 2)).astype(np.float64), RNG.integers(0, 6, 40))
    bits = {"eye": 4, "wide": 2, "last": 4}
    assert set(bit_layers(net)) == set(bits)
    tuned = finetune(net, some, bits, epochs=3, rate=3e-3)
    twin = quantise_net(tuned, some, bits=bits)
    for name, width in bits.items():
        part = "recurrent" if name == "last" else "weight"
        integers, weight = twin.tensors[f"{name}.{part}"], getattr(tuned.layer(name), part)
        whole = integers if integers.ndim == 4 else integers.T
        step = np.abs(weight).max() / np.abs(whole).max()
        np.testing.assert_allclose(whole * step, weight, rtol=1e-6)
        assert np.abs(whole).max() <= top(width)
        assert (weight != nearest(getattr(net.layer(name), part), width)).any()
    assert not tuned.layer("eye").bias.any()  # type: ignore[attr-defined]


def test_zeros_stay_zeros() -> None:
    net, some = thinned(smooth_net(), lambda weight: largest(weight, 0.3)), smooth_samples()
    for after in (train(net, some, epochs=3, rate=0.01), finetune(net, some, {"first": 8, "last": 8}, epochs=3)):
        for before, layer in zip(net.layers, after.layers, strict=True):
            if isinstance(before, FloatDense) and isinstance(layer, FloatDense):
                assert not layer.weight[before.weight == 0].any()
                assert (layer.weight != before.weight).any()


def test_training_learns_labels() -> None:
    net, some = by_chance(smooth_net(), 0.5), smooth_samples()

    def loss(candidate: FloatNet) -> float:
        return cross_entropy(forward(candidate, candidate.moments(some.x)).readings["last"], some.y)

    assert loss(train(net, some, epochs=100, rate=0.1)) < 0.5 * loss(net)


# ------------------------------------------------------------------ neural tangent transfer


def test_the_kernel_is_that_of_all_jacobians() -> None:
    net = ntt.fresh((6, 5, 4, 3), 0)
    tensors = [torch.tensor(part) for layer in ntt.chain(net) for part in (layer.weight, layer.bias)]
    x = torch.tensor(normal(8, 6))

    def outputs(*given: Any) -> Any:
        return ntt.outputs_and_kernel(given, x)[0]

    jacobian = torch.cat(
        [j.reshape(8, 3, -1) for j in torch.autograd.functional.jacobian(outputs, tuple(tensors))], dim=2
    )
    found, kernel = ntt.outputs_and_kernel(tensors, x)
    wanted = torch.einsum("iap,jbp->ijab", jacobian[:4], jacobian[4:])
    torch.testing.assert_close(kernel, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, torch.tensor(forward(net, net.moments(x.numpy())).readings["dense3"]))


def test_transfer_brings_a_sparse_net_nearer_to_its_teacher() -> None:
    net, x = ntt.fresh((12, 40, 30, 3), 1), normal(200, 12)
    how = ntt.Transfer(iterations=500, batch=32, refresh=50, rate=3e-3, kernel_weight=0.3, decay=0)
    student = ntt.transfer(net, x, 0.2, how)
    assert density_of(student) <= 0.2 + 1e-3
    tensors = [
        [torch.tensor(part) for layer in ntt.chain(n) for part in (layer.weight, layer.bias)]
        for n in (net, magnitude(net, 0.2), student)
    ]
    (f, k), (before_f, before_k), (after_f, after_k) = (ntt.outputs_and_kernel(t, torch.tensor(x)) for t in tensors)
    assert (after_k - k).square().mean() < 0.5 * (before_k - k).square().mean()
    assert (after_f - f).square().mean() < 0.5 * (before_f - f).square().mean()


def test_only_chains_of_dense_layers_are_transferred() -> None:
    with pytest.raises(ModelError, match="tiny is no chain of dense layers with ReLUs"):
        ntt.transfer(smooth_net(), X, 0.1)


def test_layers_without_bits_keep_their_weights() -> None:
    net, some = smooth_net(), smooth_samples()
    tuned = finetune(net, some, {"last": 4}, epochs=1)
    np.testing.assert_array_equal(tuned.layer("first").weight, FIRST)  # type: ignore[attr-defined]
    assert (tuned.layer("first").bias != 0).any()  # type: ignore[attr-defined]
