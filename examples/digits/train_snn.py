"""Train the recurrent spiking example and write it as NIR: `make train` or `python examples/digits/train_snn.py`.

64 inputs, deterministic rate code over 16 steps, 128 recurrent LIF neurons (snnTorch RLeaky, delayed subtract reset),
leaky readout whose last membrane is the logit. Surrogate gradient through time (Neftci, Mostafa, Zenke 2019), AdamW.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import nir
import numpy as np
import snntorch as snn
import torch
from dataset import FACTORY_CLASSES, Digits, load
from numpy.typing import NDArray
from snntorch import surrogate
from snntorch.export_nir import export_to_nir
from torch import Tensor, nn

STEPS, FULL_SCALE, HIDDEN, OUTPUTS = 16, 16, 128, 10
BETA, KAPPA, NEVER = 0.9, 0.95, 1e6


def phase_rate(x: NDArray[np.uint8]) -> Tensor:
    """(steps, n, 64) spikes: a value of u spikes u times in 16 steps, evenly (edgerun.spec.PhaseRate)."""
    total = (FULL_SCALE // 2 + np.arange(STEPS + 1)[:, None, None] * x.astype(np.int64)[None]) // FULL_SCALE
    return torch.from_numpy(np.diff(total, axis=0).astype(np.float32))


class DigitNet(nn.Module):
    """The network that is exported; every parameter of a neuron is a vector because NIR wants it so."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(64, HIDDEN)
        self.lif = snn.RLeaky(
            beta=torch.full((HIDDEN,), BETA),
            linear_features=HIDDEN,
            threshold=torch.ones(HIDDEN),
            reset_mechanism="subtract",
            spike_grad=surrogate.fast_sigmoid(slope=5),
        )
        self.lif.recurrent = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.classify = nn.Linear(HIDDEN, OUTPUTS)
        self.readout = snn.Leaky(
            beta=torch.full((OUTPUTS,), KAPPA),
            threshold=torch.full((OUTPUTS,), NEVER),
            reset_mechanism="none",
        )
        nn.init.normal_(self.dense.weight, 0, 0.18)
        nn.init.normal_(self.lif.recurrent.weight, 0, 0.2 / HIDDEN**0.5)
        nn.init.normal_(self.classify.weight, 0, 0.05)
        nn.init.zeros_(self.classify.bias)

    def forward(self, x: Tensor, spikes: Tensor | None = None, membrane: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step for the exporter, or a window (steps, n, 64) -> (logits, mean spikes a neuron)."""
        spikes, membrane = self.lif.init_rleaky()
        logit = self.readout.init_leaky()
        total = torch.zeros(())
        for step in x:
            spikes, membrane = self.lif(self.dense(step), spikes, membrane)
            _, logit = self.readout(self.classify(spikes), logit)
            total = total + spikes
        return logit, total


def augment(x: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Shifts by a pixel, gain and noise. No rotation: the factory has never seen a turned sensor."""
    images = np.pad(x.reshape(-1, 8, 8).astype(np.float32), ((0, 0), (1, 1), (1, 1)))
    moves = rng.integers(0, 3, (len(x), 2)) * (rng.random((len(x), 1)) < 0.5) + (0, 0)
    moves[(moves == 0).all(axis=1)] = 1
    cut = np.stack([image[dy : dy + 8, dx : dx + 8] for image, (dy, dx) in zip(images, moves, strict=True)])
    noisy = cut * rng.uniform(0.85, 1.15, (len(x), 1, 1)) + rng.normal(0, 0.8, cut.shape) * (cut > 0)
    return np.clip(np.round(noisy), 0, FULL_SCALE).astype(np.uint8).reshape(-1, 64)


def accuracy(net: DigitNet, data: Digits) -> float:
    with torch.no_grad():
        logits, _ = net(phase_rate(data.x))
    return float((logits[:, :FACTORY_CLASSES].argmax(1).numpy() == data.y).mean())


def train(factory: Digits, seed: int, epochs: int) -> DigitNet:
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng, net = np.random.default_rng(seed), DigitNet()
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=epochs)
    for epoch in range(epochs):
        x, order, losses = augment(factory.x, rng), rng.permutation(len(factory.x)), []
        for batch in np.array_split(order, len(order) // 64):
            logits, spikes = net(phase_rate(x[batch]))
            target = torch.from_numpy(factory.y[batch])
            loss = nn.functional.cross_entropy(logits, target, label_smoothing=0.05)
            loss = loss + 1e-3 * ((spikes.mean(0) - 3) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            losses.append(loss.item())
        schedule.step()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1:3d}  loss {np.mean(losses):.3f}  factory {accuracy(net, factory):.4f}", flush=True)
    return net


class _OneStep(nn.Module):
    """The same modules as one step, which is what NIR describes."""

    def __init__(self, net: DigitNet) -> None:
        super().__init__()
        self.dense, self.lif, self.classify, self.readout = net.dense, net.lif, net.classify, net.readout

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        spikes, membrane = self.lif.init_rleaky()
        spikes, membrane = self.lif(self.dense(x), spikes, membrane)
        return self.readout(self.classify(spikes), self.readout.init_leaky())


def export(net: DigitNet, path: Path) -> None:
    """Write NIR; reset mode, delay, readout role and encoder travel as metadata, since NIR has no field for them."""
    graph = export_to_nir(_OneStep(net), torch.zeros(64))
    graph.metadata |= {"encoder": "phase-rate", "steps": STEPS, "full_scale": FULL_SCALE}
    for name, node in graph.nodes.items():
        target = node.nodes["lif"] if isinstance(node, nir.NIRGraph) else node
        if name.startswith("readout"):
            target.metadata |= {"role": "readout", "reset": "none", "reset_delay": 1}
        elif isinstance(target, nir.LIF):
            target.metadata |= {"reset": "subtract", "reset_delay": 1}
    nir.write(path, graph)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "digits_snn.nir")
    args = parser.parse_args()
    factory, field = load()
    started = time.perf_counter()
    net = train(factory, args.seed, args.epochs)
    old = field.y < FACTORY_CLASSES
    report = {
        "seed": args.seed,
        "epochs": args.epochs,
        "seconds": round(time.perf_counter() - started, 1),
        "float_accuracy_factory": round(accuracy(net, factory), 4),
        "float_accuracy_held_out": round(accuracy(net, Digits(field.x[old], field.y[old])), 4),
        "torch": torch.__version__,
        "snntorch": snn.__version__,
    }
    export(net, args.output)
    args.output.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
