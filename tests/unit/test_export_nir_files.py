"""Files that snnTorch, Norse, Sinabs and SpikingJelly wrote come out spike for spike, and in integers nearly so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from floats import last_outputs

pytest.importorskip("nir", reason="pip install 'edgerun[export]'")

from edgerun.arrays import F32
from edgerun.layers import Cells, ConvSum, DenseSum, SumPool
from edgerun.network import Network
from edgerun.spec import Frames
from exporters import measure, twin
from exporters.data import Samples
from exporters.float_net import FloatNet, forward
from exporters.nir_file import parse
from exporters.nir_import import NirOptions, convert, load_nir
from exporters.nodes import FloatAlphaCells, FloatCells, FloatDenseSum

FILES = Path(__file__).parents[1] / "golden" / "nir"
CASES = sorted(path.stem for path in FILES.glob("*.nir"))


def load(case: str) -> tuple[FloatNet, F32, F32]:
    with np.load(FILES / f"{case}.npz") as file:
        x, y = file["x"].astype(np.float32), file["y"]
    return load_nir(FILES / f"{case}.nir", NirOptions()), x, y


@pytest.mark.parametrize("case", [case for case in CASES if case != "sinabs"])
def test_the_float_twin_equals_the_framework(case: str) -> None:
    net, x, y = load(case)
    found = last_outputs(net, x)
    if set(np.unique(y)) <= {0.0, 1.0}:
        assert 0.015 < y.mean() < 0.5
        np.testing.assert_array_equal(found, y)
    else:
        np.testing.assert_allclose(found, y, atol=1e-5)


def test_sinabs_takes_a_threshold_once_for_each_spike() -> None:
    """Its reset is "soft"; snnTorch's "subtract" takes it once more where a membrane is still above, and differs."""
    net, x, y = load("sinabs")
    assert y.mean() > 0.01
    assert (last_outputs(net, x) != y).any()
    graph = parse(FILES / "sinabs.nir")
    for name in ("1", "5"):
        graph.nodes[name].metadata["reset"] = "soft"
    np.testing.assert_array_equal(last_outputs(convert("sinabs.nir", graph, NirOptions()), x), y)


@pytest.mark.parametrize("case", CASES)
def test_integers_stay_near(case: str) -> None:
    """The share of spikes that differ, or the error of the readout beside its spread."""
    net, x, _ = load(case)
    samples = Samples(np.moveaxis(x, 0, 1), np.zeros(x.shape[1], np.int64))
    made = twin.quantise_net(net, samples)
    network = Network(measure.bare_manifest(made), made.tensors, (len(samples),))
    network.scores(made.inputs(samples))
    last = made.parts[-1]
    want = forward(net, made.moments(samples)).readings[net.layers[-1].name]
    got = measure.real(network.logits(), last.output)
    assert np.abs(got - want).mean() < 0.06 * max(want.std(), 1.0)


def test_files_become_the_layers_that_they_describe() -> None:
    def kinds(case: str) -> list[type[Any]]:
        net, x, _ = load(case)
        samples = Samples(np.moveaxis(x, 0, 1), np.zeros(x.shape[1], np.int64))
        return [type(part.layer) for part in twin.quantise_net(net, samples).parts]

    assert kinds("synaptic_zero_1") == [DenseSum, Cells]
    assert kinds("sinabs")[-2:] != kinds("conv")[-2:]
    assert [kind for kind in kinds("conv") if kind in (ConvSum, SumPool, Cells)] == [
        ConvSum,
        SumPool,
        Cells,
        ConvSum,
        Cells,
    ]


@pytest.mark.parametrize(
    ("one", "other"), [("rleaky_dense_zero", "rleaky_dense_subtract"), ("synaptic_zero_0", "synaptic_zero_1")]
)
def test_the_files_can_tell_resets_apart(one: str, other: str) -> None:
    assert (load(one)[2] != load(other)[2]).any()


# ------------------------------------------------------------------ neurons that NIR does not know

QUARTERS = np.full(12, 0.75, np.float32)
HALVES = np.full(12, 0.5, np.float32)
ONES = np.ones(12, np.float32)


def neurons(case: str, bias: F32) -> FloatAlphaCells | FloatCells:
    shape = (12,)
    match case:
        case "alpha_zero" | "alpha_subtract" | "alpha_none":
            kind = {"zero": "hold", "subtract": "subtract", "none": "none"}[case.removeprefix("alpha_")]
            return FloatAlphaCells("n", shape, bias, ONES, kind, alpha=QUARTERS, beta=HALVES)
    return FloatCells("n", shape, bias, ONES, inhibition=True, beta=QUARTERS, reset_delay=case == "inhibited")


@pytest.mark.parametrize("case", ["alpha_zero", "alpha_subtract", "alpha_none", "inhibited", "inhibited_now"])
def test_other_neurons_equal_snntorch_and_integers_follow(case: str) -> None:
    with np.load(FILES / f"{case}.npz") as file:
        x, y, weight, bias = file["x"].astype(np.float32), file["y"], file["weight"], file["bias"]
    net = FloatNet("net", (len(x), x.shape[2]), (FloatDenseSum("sum", weight), neurons(case, bias)), encoder=Frames())
    found = last_outputs(net, x)
    assert 0.02 < y.mean() < 0.5
    np.testing.assert_array_equal(found, y)
    samples = Samples(np.moveaxis(x, 0, 1), np.zeros(x.shape[1], np.int64))
    made = twin.quantise_net(net, samples)
    network = Network(measure.bare_manifest(made), made.tensors, (len(samples),))
    network.scores(made.inputs(samples))
    assert np.abs(network.logits() - y.sum(axis=0)).mean() < 0.35
