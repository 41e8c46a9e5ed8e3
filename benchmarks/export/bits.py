"""What fewer bits cost: uniform widths beside those that the Hessian's trace chooses, on integer nets, before and after
a short fine-tuning; and whether trace and rounding error foretell what a layer's bits cost.

    python benchmarks/export/bits.py [--only NAME ...] [--shares 0.55 0.45 0.35] [-o FOLDER]

Needs EDGERUN_DATA and the extra train. Writes bits.json and one picture a model into FOLDER, if given.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import data
import numpy as np
import torch

from edgerun.arrays import AnyArray, Tensors
from edgerun.packing import best_packing, pack_array
from exporters import measure
from exporters.allocate import WIDTHS, choose_bits, damage, stored_bytes
from exporters.bits_plot import LayerBits, bits_svg
from exporters.data import Samples
from exporters.export import Options, load_model
from exporters.float_net import FloatNet, forward
from exporters.improve import improve
from exporters.nodes.grid import nearest
from exporters.sensitivity import answer_layer, bit_layers, cross_entropy, traces
from exporters.training import curvature
from exporters.training.finetune import finetune
from exporters.twin import in_blocks

MODELS: Final = Path(__file__).parent / "models"
NAMES: Final = ("mnist_mlp", "fashion_cnn", "kws_dscnn")
SHARES: Final = (0.58, 0.45, 0.35)  # of the bytes at 8 bits
TUNED: Final = 10_000  # training samples of the fine-tuning, at most
EPOCHS: Final = 3
PROBES: Final = 12


def samples_of(part: data.Part) -> Samples:
    return Samples(part.x.astype(np.float64), part.y)


def logits(net: FloatNet, samples: Samples) -> Any:
    name = answer_layer(net)
    return np.concatenate([forward(net, net.moments(block.x)).readings[name] for block in in_blocks(samples)])


def with_one_rounded(net: FloatNet, name: str, bits: int) -> FloatNet:
    fields: dict[str, Any] = {part: nearest(w, bits).astype(np.float32) for part, w in bit_layers(net)[name].items()}
    return replace(net, layers=tuple(replace(x, **fields) if x.name == name else x for x in net.layers))


def rank_correlation(a: AnyArray, b: AnyArray) -> float:
    """Spearman's: that of the ranks; equal values share theirs."""

    def ranks(values: AnyArray) -> AnyArray:
        return (values[:, None] > values).sum(axis=1) + (values[:, None] == values).sum(axis=1) / 2

    return float(np.corrcoef(ranks(np.asarray(a)), ranks(np.asarray(b)))[0, 1])


def foretold(net: FloatNet, test: Samples, trace: Mapping[str, float]) -> dict[str, float]:
    """Rank correlations over layers, each rounded alone, with what its rounding does on the test samples."""
    weights, before = bit_layers(net), logits(net, test)
    loss, right = cross_entropy(before, test.y), (before.argmax(axis=1) == test.y).mean()
    rows = []
    for bits in (2, 3, 4):
        for name, parts in weights.items():
            after = logits(with_one_rounded(net, name, bits), test)
            drop = right - (after.argmax(axis=1) == test.y).mean()
            rows.append(
                (bits, damage(parts, trace[name], bits), cross_entropy(after, test.y) - loss, drop, trace[name])
            )
    table = np.array(rows)
    two = table[table[:, 0] == 2]
    return {
        "damage and loss, 2 to 4 bits": rank_correlation(table[:, 1], table[:, 2]),
        "damage and accuracy, 2 to 4 bits": rank_correlation(table[:, 1], table[:, 3]),
        "damage and loss, 2 bits": rank_correlation(two[:, 1], two[:, 2]),
        "trace and loss, 2 bits": rank_correlation(two[:, 4], two[:, 2]),
    }


def accuracy(net: FloatNet, calibration: Samples, test: Samples, bits: Mapping[str, int]) -> tuple[float, int]:
    """(accuracy of the integer net, bytes of its tensors in a bundle)."""
    twin = improve(net, calibration, {name: b for name, b in bits.items() if name in bit_layers(net)})
    manifest = measure.bare_manifest(twin, known=int(test.y.max()) + 1)
    answers = measure.scores(manifest, twin.tensors, twin.inputs(test)).argmax(axis=1)
    return float((answers == test.y).mean()), tensor_bytes(twin.tensors)


def tensor_bytes(tensors: Tensors) -> int:
    return sum(len(pack_array(name, array, best_packing(array))) for name, array in tensors.items())


def plans(net: FloatNet, calibration: Samples, trace: Mapping[str, float], shares: list[float]) -> Iterator[Any]:
    weights = bit_layers(net)
    full = sum(stored_bytes(parts, 8) for parts in weights.values())
    yield from ((f"uniform {bits}", dict.fromkeys(weights, bits)) for bits in WIDTHS[::-1])
    for share in shares:
        yield f"mixed, {share:.0%} of the bytes", choose_bits(net, calibration, int(share * full), trace)


def measured(name: str, shares: list[float], folder: Path | None) -> dict[str, Any]:
    split = data.load(name)
    train, calibration, test = (samples_of(part) for part in (split.train, split.calibration, split.test))
    net = load_model(MODELS / f"{name}.onnx", Options())
    some = train.take(data.evenly(len(train), TUNED))
    exact, by_passes = curvature.traces(net, calibration, probes=PROBES), traces(net, calibration, probes=PROBES)
    found: dict[str, Any] = {
        "float": float((logits(net, test).argmax(axis=1) == test.y).mean()),
        "trace": exact,
        "trace by forward passes": by_passes,
        "foretold": foretold(net, test, exact),
        "foretold by forward passes": foretold(net, test, by_passes),
        "rows": [],
    }
    print(f"{name}: float {found['float']:.2%}", {k: round(v, 2) for k, v in found["foretold"].items()}, flush=True)
    for title, bits in plans(net, calibration, exact, shares):
        plain, size = accuracy(net, calibration, test, bits)
        row = {"plan": title, "bits": bits, "bytes": size, "accuracy": plain}
        if min(bits.values()) < 8:
            tuned = finetune(net, some, bits, epochs=EPOCHS)
            row["tuned"], row["tuned_bytes"] = accuracy(tuned, calibration, test, bits)
        found["rows"].append(row)
        print(f"  {title:24} {row['bytes']:7,} bytes  {plain:.2%}  tuned {row.get('tuned', plain):.2%}", flush=True)
        if folder is not None and title.startswith("mixed"):
            picture = bits_svg(f"{name}: {title}", rows_of(net, exact, bits))
            (folder / f"bits_{name}_{size}.svg").write_text(picture)
    return found


def rows_of(net: FloatNet, trace: Mapping[str, float], bits: Mapping[str, int]) -> list[LayerBits]:
    return [
        LayerBits(name, trace[name], bits[name], stored_bytes(parts, bits[name]), stored_bytes(parts, 8))
        for name, parts in bit_layers(net).items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME")
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES), metavar="S")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: measured(name, args.shares, args.output) for name in args.only}
    if args.output:
        (args.output / "bits.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
