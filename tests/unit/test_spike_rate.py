"""What telemetry says of spikes: every kind of neuron counts, whatever a head reads of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgerun.agent.voice import spike_rate
from edgerun.graph import wanted_tensors
from edgerun.layers import AlphaCells, Cells, Dense, DenseSum, Layer, Lif, SLstm
from edgerun.layers.spiking import SPIKING
from edgerun.network import Network
from edgerun.spec import ClassTable, Constant, InputSpec, Manifest

STEPS = 4
KINDS: dict[type[Layer], tuple[Layer, ...]] = {
    Lif: (Lif(name="n", inputs=3, outputs=2, weight_exponent=6, recurrent=False, reset="none"),),
    Cells: (
        DenseSum(name="sum", inputs=3, outputs=2),
        Cells(name="n", shape=(2,), weight_exponent=12, reset="none", reading="max"),
    ),
    AlphaCells: (
        DenseSum(name="sum", inputs=3, outputs=2),
        AlphaCells(name="n", shape=(2,), weight_exponent=24, reset="none", reading="mean"),
    ),
    SLstm: (SLstm(name="n", inputs=3, outputs=2),),
}


def network(*layers: Layer) -> Network:
    """The first neuron of every layer spikes in each step, the second in none; an alpha neuron starts one step late."""
    manifest = Manifest(
        name="net", input=InputSpec(shape=(3,)), encoder=Constant(steps=STEPS), layers=layers,
        classes=ClassTable(names=("a",), capacity=2),
    )  # fmt: skip
    own = {want.spec.name: np.zeros(want.spec.shape, want.spec.dtype) for want in wanted_tensors(manifest)}
    for name, array in own.items():
        match name.rpartition(".")[2]:
            case "bias":
                array.reshape(-1, 2)[:, 0] = 1 << 20
            case "threshold" | "multiplier" | "recurrent_multiplier" | "shift" | "recurrent_shift":
                array[...] = 1
            case "alpha" | "tau":
                array[...] = 1 << 15
    return Network(manifest, own)


def test_every_spiking_kind_is_tried() -> None:
    assert set(KINDS) == set(SPIKING)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_rate_is_the_share_of_neurons_that_spike_in_a_step(kind: type[Layer]) -> None:
    net = network(*KINDS[kind])
    net.infer(np.zeros(3, np.int16))
    assert spike_rate(net) == (1 - (kind is AlphaCells) / STEPS) / 2


def test_it_is_the_mean_over_layers_and_nothing_of_a_net_without_spikes() -> None:
    both = network(*KINDS[Cells], DenseSum(name="more", inputs=2, outputs=2), AlphaCells(
        name="m", shape=(2,), weight_exponent=24, reset="none"
    ))  # fmt: skip
    both.infer(np.zeros(3, np.int16))
    assert spike_rate(both) == (0.5 + 0.375) / 2
    dense = network(Dense(name="d", inputs=3, outputs=2))
    dense.infer(np.zeros(3, np.int16))
    assert math.isnan(spike_rate(dense))
