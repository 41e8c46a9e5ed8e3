"""Train the dense example and write it as ONNX: `make train` or `python examples/digits/train_mlp.py`.

64-128-8, ReLU, cross entropy, AdamW, the same augmentation as the spiking example.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from dataset import FACTORY_CLASSES, Digits, load
from torch import nn
from train_snn import augment


def accuracy(net: nn.Module, data: Digits) -> float:
    with torch.no_grad():
        return float((net(torch.from_numpy(data.x.astype(np.float32))).argmax(1).numpy() == data.y).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "digits_mlp.onnx")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    factory, field = load()
    rng, started = np.random.default_rng(args.seed), time.perf_counter()
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, FACTORY_CLASSES))
    with torch.no_grad():
        net[0].weight /= 16.0  # pixels run to 16
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
    for _ in range(args.epochs):
        x, order = augment(factory.x, rng).astype(np.float32), rng.permutation(len(factory.x))
        for batch in np.array_split(order, len(order) // 64):
            logits = net(torch.from_numpy(x[batch]))
            loss = nn.functional.cross_entropy(logits, torch.from_numpy(factory.y[batch]), label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    old = field.y < FACTORY_CLASSES
    report = {
        "seed": args.seed,
        "epochs": args.epochs,
        "seconds": round(time.perf_counter() - started, 1),
        "float_accuracy_factory": round(accuracy(net, factory), 4),
        "float_accuracy_held_out": round(accuracy(net, Digits(field.x[old], field.y[old])), 4),
        "torch": torch.__version__,
    }
    torch.onnx.export(
        net, (torch.zeros(1, 64),), args.output, input_names=["x"], output_names=["logits"], dynamo=False,
        dynamic_axes={"x": {0: "batch"}, "logits": {0: "batch"}},
    )  # fmt: skip
    args.output.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
