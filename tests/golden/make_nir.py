"""Make small NIR files as other frameworks write them, and the spikes that those frameworks compute.

    python tests/golden/make_nir.py snntorch      in an environment with torch, snntorch and nir
    python tests/golden/make_nir.py norse         in one with torch and norse
    python tests/golden/make_nir.py sinabs        in one with torch and sinabs
    python tests/golden/make_nir.py spikingjelly  in one with torch and spikingjelly

Writes `nir/<case>.nir` and `nir/<case>.npz`: x (steps, N, ...) the input as the network sees it, y (steps, N, n) what
the last population gives, spikes, or membranes where it is a readout; neurons that NIR does not know have an .npz only,
with the weight and the bias of the dense map before them. Weights are multiples of 1/32, decays short binary fractions,
so that sums are exact in any order. Untrained; seed 3; made with torch 2.13.0, snntorch 1.0.0, nir 1.0.8, norse 1.1.0,
sinabs 3.1.3, spikingjelly 2.0.0.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import nir
import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent / "nir"
SEED, STEPS, SAMPLES = 3, 20, 4


def short(module: nn.Module, gain: float = 1.0) -> nn.Module:
    """Round every weight and bias to a multiple of 1/32."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.round(parameter * gain * 32) / 32)
    return module


def spikes(*shape: int) -> torch.Tensor:
    return (torch.rand(STEPS, SAMPLES, *shape) < 0.4).float()


def save(case: str, graph: nir.NIRGraph, x: torch.Tensor, y: torch.Tensor, nodes: dict, **facts: object) -> None:
    graph.metadata = {"encoder": "frames", "steps": STEPS, **facts}
    for name, metadata in nodes.items():
        graph.nodes[name].metadata = metadata
    nir.write(HERE / f"{case}.nir", graph)
    np.savez_compressed(HERE / f"{case}.npz", x=x.numpy().astype(np.uint8), y=y.detach().numpy().astype(np.float32))
    print(case, x.shape, y.shape, float(y.mean()))


# ------------------------------------------------------------------ snnTorch


def run(net: nn.Module, x: torch.Tensor, last: nn.Module | None = None) -> torch.Tensor:
    """Outputs step by step from silence; `last`: the membranes of that population instead."""
    for module in net.modules():
        if hasattr(module, "reset_mem"):
            module.reset_mem()
    outputs = []
    with torch.no_grad():
        for step in x:
            out = net(step)
            outputs.append(out if last is None else last.mem.clone())
    return torch.stack(outputs)


def snntorch_cases() -> None:
    import snntorch as snn
    from snntorch.export_nir import export_to_nir

    def written(net: nn.Module, sample: torch.Tensor) -> nir.NIRGraph:
        run(net, sample[None])
        for module in net.modules():
            if hasattr(module, "reset_mem"):
                module.reset_mem()
        whole = sample.ndim > 2  # Flatten needs the batch axis, of which nirtorch then must not know
        return export_to_nir(net, sample[:1] if whole else sample[0], ignore_dims=[0] if whole else [])

    def leaky(shape: tuple[int, ...], **fields: object) -> nn.Module:
        return snn.Leaky(torch.full(shape, 0.75), threshold=torch.full(shape, 1.0), init_hidden=True, **fields)

    def synaptic(n: int, **fields: object) -> nn.Module:
        return snn.Synaptic(
            torch.full((n,), 0.5), torch.full((n,), 0.75), threshold=torch.ones(n), init_hidden=True, **fields
        )

    for reset in ("subtract", "zero", "none"):
        for delay in (True, False):
            torch.manual_seed(SEED)
            lif = synaptic(12, reset_mechanism=reset, reset_delay=delay)
            net = nn.Sequential(short(nn.Linear(10, 12), 3), lif)
            x = spikes(10)
            case = f"synaptic_{reset}_{int(delay)}"
            save(case, written(net, x[0]), x, run(net, x), {"1": {"reset": reset, "reset_delay": int(delay)}})
        if reset == "none":
            continue
        for kind, name in ((snn.RLeaky, "rleaky"), (snn.RSynaptic, "rsynaptic")):
            for dense in (True, False):
                torch.manual_seed(SEED)
                decays = [torch.full((12,), d) for d in ((0.5, 0.75) if kind is snn.RSynaptic else (0.75,))]
                own = {"linear_features": 12} if dense else {"all_to_all": False, "V": torch.linspace(-0.5, 0.5, 12)}
                lif = kind(*decays, threshold=torch.ones(12), init_hidden=True, reset_mechanism=reset, **own)
                net = nn.Sequential(short(nn.Linear(10, 12), 3), lif)
                short(net[1], 2)
                x = spikes(10)
                case = f"{name}_{'dense' if dense else 'own'}_{reset}"
                save(case, written(net, x[0]), x, run(net, x), {"1.lif": {"reset": reset, "reset_delay": 1}})
    torch.manual_seed(SEED)
    conv = nn.Sequential(
        short(nn.Conv2d(2, 4, 3, padding=1), 3), nn.AvgPool2d(2), leaky((4, 4, 4), reset_mechanism="subtract"),
        short(nn.Conv2d(4, 6, 3, groups=2), 4), leaky((6, 2, 2), reset_mechanism="zero"),
        nn.Flatten(), short(nn.Linear(24, 5), 3), leaky((5,), reset_mechanism="none"),
    )  # fmt: skip
    x = spikes(2, 8, 8)
    nodes = {
        "2": {"reset": "subtract", "reset_delay": 1}, "4": {"reset": "zero", "reset_delay": 1}, "7": {"role": "readout"}
    }  # fmt: skip
    save("conv", written(conv, x[0]), x, run(conv, x, conv[7]), nodes)

    for case, neuron in {
        "alpha_zero": snn.Alpha(0.75, 0.5, reset_mechanism="zero", init_hidden=True),
        "alpha_subtract": snn.Alpha(0.75, 0.5, reset_mechanism="subtract", init_hidden=True),
        "alpha_none": snn.Alpha(0.75, 0.5, reset_mechanism="none", init_hidden=True),
        "inhibited": snn.Leaky(0.75, inhibition=True, init_hidden=True),
        "inhibited_now": snn.Leaky(0.75, inhibition=True, reset_delay=False, init_hidden=True),
    }.items():
        torch.manual_seed(SEED)
        linear, x = short(nn.Linear(10, 12), 6 if case.startswith("alpha") else 3), spikes(10)
        weight, bias = (p.detach().numpy() for p in linear.parameters())
        y = run(nn.Sequential(linear, neuron), x).numpy()
        np.savez_compressed(HERE / f"{case}.npz", x=x.numpy().astype(np.uint8), y=y, weight=weight, bias=bias)
        print(case, y.mean())


# ------------------------------------------------------------------ Norse, Sinabs and SpikingJelly


def norse_cases() -> None:
    import norse.torch as norse

    n, dt = 12, 1e-3
    torch.manual_seed(SEED)
    parameters = norse.LIFBoxParameters(
        tau_mem_inv=torch.full((n,), 125.0), v_th=torch.full((n,), 0.5), v_leak=torch.zeros(n), v_reset=torch.zeros(n)
    )
    out = norse.LIBoxParameters(tau_mem_inv=torch.full((5,), 62.5), v_leak=torch.zeros(5))
    cells = norse.LIFBoxCell(parameters, dt=dt), norse.LIBoxCell(out, dt=dt)
    net = norse.SequentialState(short(nn.Linear(10, n), 8), cells[0], short(nn.Linear(n, 5), 4), cells[1])
    x, state, outputs = spikes(10), None, []
    with torch.no_grad():
        for step in x:
            y, state = net(step, state)
            outputs.append(y)
    from norse.torch.utils.export_nir import _extract_norse_module

    nodes = {str(k): _extract_norse_module(module, dt=1.0) for k, module in enumerate(net.children())}
    nodes = {"input": nir.Input(np.array([10]))} | nodes | {"output": nir.Output(np.array([5]))}
    names = list(nodes)
    graph = nir.NIRGraph(nodes, list(itertools.pairwise(names)))
    save("norse", graph, x, torch.stack(outputs), {}, dt=dt)


def sinabs_cases() -> None:
    import sinabs.activation as sa
    import sinabs.layers as sl
    from sinabs.nir import to_nir

    torch.manual_seed(SEED)
    threshold = torch.tensor(
        65 / 64
    )  # Sinabs spikes at the threshold, snnTorch above it: no sum of weights is this one
    fields = {"spike_threshold": threshold, "spike_fn": sa.SingleSpike, "batch_size": SAMPLES}
    net = nn.Sequential(
        short(nn.Conv2d(1, 3, 3, bias=False), 1.5), sl.IAFSqueeze(**fields), sl.SumPool2d(2), nn.Flatten(),
        short(nn.Linear(12, 6, bias=False), 2.5), sl.IAFSqueeze(**fields),
    )  # fmt: skip
    x = spikes(1, 6, 6)
    by_sample = x.transpose(0, 1).reshape(-1, 1, 6, 6)  # (N * steps, ...)
    with torch.no_grad():
        y = net(by_sample).reshape(SAMPLES, STEPS, -1).transpose(0, 1)
    graph = to_nir(net, by_sample)
    graph.nodes["0"].input_shape = (6, 6)  # Sinabs leaves shapes unsaid, which cannot be written
    graph.nodes["3"].input_type = {"input": np.array([3, 2, 2])}
    facts = {"reset": "subtract", "reset_delay": 0}
    save("sinabs", graph, x, y, {"1": facts, "5": facts})


def spikingjelly_cases() -> None:
    from spikingjelly.activation_based import functional, layer, neuron
    from spikingjelly.activation_based.nir_exchange.to_nir import export_to_nir

    threshold = 65 / 64  # it spikes at the threshold, as Sinabs does
    for case, made in {
        "spikingjelly_if": lambda: neuron.IFNode(v_threshold=threshold),
        "spikingjelly_lif": lambda: neuron.LIFNode(tau=4.0, decay_input=False, v_threshold=threshold),
    }.items():
        torch.manual_seed(SEED)
        net = nn.Sequential(
            short(layer.Conv2d(1, 3, 3), 2.5), made(), layer.AvgPool2d(2), layer.Flatten(),
            short(layer.Linear(12, 6), 5), made(),
        )  # fmt: skip
        functional.set_step_mode(net, "s")
        x = spikes(1, 6, 6)
        graph = export_to_nir(net, x[0])
        functional.reset_net(net)
        with torch.no_grad():
            y = torch.stack([net(step) for step in x])
        hard = {"reset": "zero", "reset_delay": 0}
        populations = [name for name, node in graph.nodes.items() if isinstance(node, nir.IF | nir.LIF)]
        save(case, graph, x, y, dict.fromkeys(populations, hard))


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    {"snntorch": snntorch_cases, "norse": norse_cases, "sinabs": sinabs_cases, "spikingjelly": spikingjelly_cases}[
        sys.argv[1]
    ]()
