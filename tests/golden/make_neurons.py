"""Make what snnTorch computes of the neurons that no file format has: SLSTM and Lapicque.

    python tests/golden/make_neurons.py          in an environment with torch and snntorch; writes neurons.npz

Arrays under "<neuron>.<case>.<array>": x (steps, N, in) what drives the net, spikes (steps, N, n), weight and bias of
the dense map before a Lapicque or inside an SLSTM, which also has `recurrent`, its membranes `mem` and its cells `syn`,
and scalars by the names of snnTorch's arguments. Weights are multiples of 1/32. Untrained; seed 3; made with torch
2.13.0 and snntorch 1.0.0.

An SLSTM of snnTorch 1.0 goes back to silence in every step unless it has as many inputs as neurons, so here it has.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import snntorch as snn
import torch
from torch import nn

HERE = Path(__file__).parent
SEED, STEPS, SAMPLES, WIDTH = 3, 40, 3, 12
THRESHOLD = 0.25  # of an SLSTM, whose membrane stays under 1


def short(module: nn.Module, gain: float) -> None:
    """Round every weight and bias to a multiple of 1/32, after the gain."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.round(parameter * gain * 32) / 32)


def slstm(reset: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(SEED)
    cell = snn.SLSTM(WIDTH, WIDTH, threshold=THRESHOLD, reset_mechanism=reset)
    short(cell.lstm_cell, 4)
    x = torch.round(torch.randn(STEPS, SAMPLES, WIDTH) * 32) / 32
    syn, mem = cell.reset_mem()
    steps = []
    for now in x:
        spikes, syn, mem = cell(now, syn, mem)
        steps.append((spikes, syn.clone(), mem.clone()))
    spikes, syn, mem = (torch.stack(rows) for rows in zip(*steps, strict=True))
    inner = cell.lstm_cell
    return {
        "x": x, "spikes": spikes, "syn": syn, "mem": mem, "weight": inner.weight_ih, "recurrent": inner.weight_hh,
        "bias": inner.bias_ih + inner.bias_hh, "threshold": cell.threshold,
    }  # fmt: skip


def lapicque(**fields: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(SEED)
    linear, neuron = nn.Linear(10, WIDTH), snn.Lapicque(**fields)
    short(linear, 4)
    linear.bias += 1 / 64  # so that a membrane never meets its threshold exactly
    x = (torch.rand(STEPS, SAMPLES, 10) < 0.4).float()
    mem = neuron.reset_mem()
    steps = []
    for now in x:
        spikes, mem = neuron(linear(now), mem)
        steps.append(spikes)
    return {
        "x": x, "spikes": torch.stack(steps), "weight": linear.weight, "bias": linear.bias, "R": neuron.R,
        "C": neuron.C, "time_step": neuron.time_step, "threshold": neuron.threshold,
    }  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        cases = {f"slstm.{reset}": slstm(reset) for reset in ("none", "subtract", "zero")}
        for reset in ("none", "subtract", "zero"):
            cases[f"lapicque.{reset}"] = lapicque(R=2.0, C=4.0, time_step=2.0, reset_mechanism=reset)
        cases["lapicque.beta"] = lapicque(beta=0.75, threshold=0.5)
    arrays = {
        f"{case}.{name}": np.asarray(array.detach(), np.float32)
        for case, found in cases.items()
        for name, array in found.items()
    }
    np.savez_compressed(HERE / "neurons.npz", **arrays)
    for case, found in cases.items():
        print(case, float(found["spikes"].mean()))
