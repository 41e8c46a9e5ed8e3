"""What fewer bits cost: uniform widths beside those that the Hessian's trace chooses, rounded and trained back, over
three seeds or three nets; and whether trace and rounding error foretell what a layer's bits cost.

    python benchmarks/export/bits.py [--only NAME ...] [-o FOLDER] [--markdown docs/compression-results.md]

FOLDER/bits.json grows run by run; runs in it are not made again, and the page is written from it, with one picture a
net beside it. Up to 8 bits everything runs on the integer core. 16 bits are no width of it: those rows run in the float
net with rounded weights. Needs EDGERUN_DATA and the extra train; about an hour on one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import data
import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1]))

from tables import Table, spread, write_section

from edgerun.arrays import AnyArray
from exporters import measure
from exporters.allocate import allocate, choose_bits, damage, stored_bytes
from exporters.bits_plot import LayerBits, bits_svg
from exporters.data import Samples
from exporters.export import Options, load_model
from exporters.float_net import FloatNet, forward
from exporters.improve import improve
from exporters.rounding import Rounding, roundings
from exporters.sensitivity import answer_layer, bit_layers, cross_entropy, traces
from exporters.training import curvature
from exporters.training.finetune import finetune
from exporters.twin import in_blocks, quantise_net

MODELS: Final = Path(__file__).parent / "models"
SHARE: Final = 0.58  # of the weights' bytes at 8 bits
PAPER_WIDTHS: Final = (4, 8, 16)
PAPER_SHARE: Final = 0.42  # of the weights' bytes at 32 bits
PROBES: Final = 8
TRACED: Final = 64  # samples of the exact products
TUNED: Final = 4000  # training samples of the fine-tuning, at most
EPOCHS: Final = 2
ALONE: Final = (2, 3, 4)  # bits that every layer is rounded to alone

Bits = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Case:
    """One net of the page: what it is, and (file, seed) of its runs."""

    title: str
    runs: tuple[tuple[str, int], ...]


def seeds(model: str) -> tuple[tuple[str, int], ...]:
    return tuple((model, seed) for seed in range(3))


CASES: Final[Mapping[str, Case]] = MappingProxyType(
    {
        "mnist_mlp": Case("MNIST, 784-128-64-10", seeds("mnist_mlp.onnx")),
        "fashion_cnn": Case("Fashion-MNIST, CNN", seeds("fashion_cnn.onnx")),
        "kws_dscnn": Case("spoken digits, DS-CNN", seeds("kws_dscnn.onnx")),
        "digits_rsnn": Case("spoken digits, recurrent spiking", seeds("digits_rsnn.nir")),
        "nmnist_conv3": Case(
            "N-MNIST, three spiking convolutions",
            tuple((f"nmnist_conv3_fold{k}.nir", k) for k in range(data.EVENT_FOLDS)),
        ),
    }
)
PAPER: Final = "nmnist_conv3"


# ------------------------------------------------------------------ one net


@dataclass(frozen=True, slots=True)
class Subject:
    """A float net and the samples that it learns from, is quantised by, and is judged by."""

    net: FloatNet
    learn: Samples
    calibration: Samples
    test: Samples
    free: Mapping[str, Rounding]

    @property
    def weights(self) -> int:
        return sum(layer.size for layer in self.free.values())


def subject(file: str) -> Subject:
    split = data.load(Path(file).stem)
    learn, calibration, test = (
        Samples(part.x.astype(np.float64), part.y) for part in (split.train, split.calibration, split.test)
    )
    net = load_model(MODELS / file, Options())
    return Subject(net, learn.take(data.evenly(len(learn), TUNED)), calibration, test, roundings(net, calibration))


def logits(net: FloatNet, samples: Samples) -> Any:
    name = answer_layer(net)
    return np.concatenate([forward(net, net.moments(block.x)).readings[name] for block in in_blocks(samples)])


def right(answers: AnyArray, y: AnyArray) -> float:
    return float((answers.argmax(axis=1) == y).mean())


def with_rounded(net: FloatNet, free: Mapping[str, Rounding], bits: Bits) -> FloatNet:
    """The float net with the weights of the layers in `bits` rounded."""

    def changed(layer: Any) -> Any:
        if layer.name not in bits:
            return layer
        rounded = free[layer.name].rounded(bits[layer.name])
        return replace(layer, **{part: weight.astype(np.float32) for part, weight in rounded.items()})

    return replace(net, layers=tuple(changed(layer) for layer in net.layers))


def in_integers(net: FloatNet, at: Subject, bits: Bits) -> float:
    """The accuracy of the integer core. Tuned layers may hold scales of their own, which say their bits."""
    free = {name: width for name, width in bits.items() if name in bit_layers(net)}
    twin = improve(net, at.calibration, free) if net.steps == 1 else quantise_net(net, at.calibration, bits=free)
    manifest = measure.bare_manifest(twin, known=int(at.test.y.max()) + 1)
    return right(measure.scores(manifest, twin.tensors, twin.inputs(at.test)), at.test.y)


def weight_bytes(at: Subject, bits: Bits) -> int:
    """As a bundle stores them; two a weight of 16 bits."""
    return sum(2 * at.free[name].size if b > 8 else stored_bytes(at.free[name], b) for name, b in bits.items())


# ------------------------------------------------------------------ plans


def plans(name: str, at: Subject, trace: Mapping[str, float]) -> Iterator[tuple[str, Bits]]:
    uniform = {bits: dict.fromkeys(at.free, bits) for bits in (4, 8, 16)}
    full, half = weight_bytes(at, uniform[8]), weight_bytes(at, uniform[4])
    if name == PAPER:
        yield "uniform 16", uniform[16]
        yield "the paper's 8, 8, 16, readout 16", dict(zip(at.free, (8, 8, 16, 16), strict=True))
        yield "mixed of 4, 8, 16 by trace", by_trace(at, trace)
    yield "uniform 8", uniform[8]
    yield f"mixed, {SHARE:.0%} of 8 bits", choose_bits(at.net, at.calibration, int(SHARE * full), trace)
    yield "uniform 4", uniform[4]
    yield "mixed, as small as 4 bits", choose_bits(at.net, at.calibration, half, trace)


def by_trace(at: Subject, trace: Mapping[str, float]) -> Bits:
    """The paper's widths where the loss minds them least, at least 58 % under 32 bits."""
    costs = [[damage(layer, trace[name], bits) for bits in PAPER_WIDTHS] for name, layer in at.free.items()]
    sizes = [[layer.size * bits // 8 for bits in PAPER_WIDTHS] for layer in at.free.values()]
    chosen = allocate(costs, sizes, int(PAPER_SHARE * 4 * at.weights))
    return {name: PAPER_WIDTHS[k] for name, k in zip(at.free, chosen, strict=True)}


# ------------------------------------------------------------------ runs


def measured(name: str, file: str, seed: int) -> dict[str, Any]:
    at = subject(file)
    trace = traces(at.net, at.calibration, probes=PROBES, seed=seed)
    some = at.calibration.take(data.evenly(len(at.calibration), TRACED))
    exact = curvature.traces(at.net, some, probes=PROBES, seed=seed)
    whole = right(logits(at.net, at.test), at.test.y)
    say(f"{file}, seed {seed}: float {whole:.2%}, traces { ({k: round(v, 2) for k, v in trace.items()}) }")
    rows = [row_of(at, plan, bits, seed) for plan, bits in plans(name, at, trace)]
    return {
        "file": file,
        "seed": seed,
        "test_samples": len(at.test),
        "weights": at.weights,
        "float": whole,
        "trace": {layer: trace[layer] for layer in at.free},
        "layers": [
            LayerBits(layer, trace[layer], bits, stored_bytes(free, bits), stored_bytes(free, 8))
            for layer, free in at.free.items()
            if (bits := rows[-1]["bits"][layer])
        ],
        "rows": rows,
        "alone": alone(at, trace, exact),
    }


def row_of(at: Subject, plan: str, bits: Bits, seed: int) -> dict[str, Any]:
    row = {"plan": plan, "bits": dict(bits), "bytes": weight_bytes(at, bits)}
    row["bits_a_weight"] = sum(at.free[name].size * b for name, b in bits.items()) / at.weights
    row["integers"] = max(bits.values()) <= 8
    score: Callable[[FloatNet], float]
    if row["integers"]:
        row["accuracy"] = in_integers(at.net, at, bits)
        score = lambda net: in_integers(net, at, bits)  # noqa: E731
    else:
        row["accuracy"] = right(logits(with_rounded(at.net, at.free, bits), at.test), at.test.y)
        score = lambda net: right(logits(net, at.test), at.test.y)  # noqa: E731
    if min(bits.values()) < 8:
        row["tuned"] = score(finetune(at.net, at.learn, bits, epochs=EPOCHS, seed=seed))
    say(f"  {plan:34} {list(bits.values())} {row['bytes']:7,} bytes  {row['accuracy']:.2%} {row.get('tuned', '')}")
    return row


def alone(at: Subject, trace: Mapping[str, float], exact: Mapping[str, float]) -> list[dict[str, Any]]:
    """What each layer does to the test samples when it alone is rounded."""
    before = logits(at.net, at.test)
    loss, hits = cross_entropy(before, at.test.y), right(before, at.test.y)
    found = []
    for bits in ALONE:
        for name, layer in at.free.items():
            after = logits(with_rounded(at.net, at.free, {name: bits}), at.test)
            found.append(
                {
                    "layer": name,
                    "bits": bits,
                    "trace": trace[name],
                    "damage": damage(layer, trace[name], bits),
                    "damage_exact": damage(layer, exact[name], bits),
                    "error": damage(layer, layer.size, bits),
                    "loss": cross_entropy(after, at.test.y) - loss,
                    "lost": hits - right(after, at.test.y),
                }
            )
    return found


# ------------------------------------------------------------------ the page


def rank_correlation(a: AnyArray, b: AnyArray) -> float:
    """Spearman's: that of the ranks; equal values share theirs. nan where all are equal."""

    def ranks(values: AnyArray) -> AnyArray:
        return (values[:, None] > values).sum(axis=1) + (values[:, None] == values).sum(axis=1) / 2

    first, second = ranks(np.asarray(a)), ranks(np.asarray(b))
    return float(np.corrcoef(first, second)[0, 1]) if first.std() and second.std() else float("nan")


def plan_rows(runs: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Every plan: its row of the first run, and those of all."""
    for first in runs[0]["rows"]:
        yield first, [row for run in runs for row in run["rows"] if row["plan"] == first["plan"]]


def widths_of(rows: list[dict[str, Any]]) -> str:
    """The bits from input to output, those of every run where runs differ."""
    each = dict.fromkeys("-".join(map(str, row["bits"].values())) for row in rows)
    return " or ".join(each)


def trained_back(rows: list[dict[str, Any]]) -> str:
    """Of the runs that had fewer than 8 bits anywhere."""
    tuned = [row["tuned"] for row in rows if "tuned" in row]
    if not tuned:
        return "-"
    return spread(tuned) + (f" ({len(tuned)} of {len(rows)})" if len(tuned) < len(rows) else "")


def lost(runs: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    best = [row.get("tuned", row["accuracy"]) for row in rows]
    return spread([run["float"] - value for run, value in zip(runs, best, strict=True)])


def uniform_and_mixed(found: Mapping[str, Any]) -> str:
    table = []
    for name, case in CASES.items():
        runs = found.get(name, [])
        if not runs:
            continue
        (full,) = (row["bytes"] for row in runs[0]["rows"] if row["plan"] == "uniform 8")
        table.append((case.title, "float", "", "", "", spread([run["float"] for run in runs]), "", ""))
        for first, rows in plan_rows(runs):
            if not first["integers"]:
                continue
            size = float(np.mean([row["bytes"] for row in rows]))
            table.append(
                (
                    case.title,
                    first["plan"],
                    widths_of(rows),
                    f"{size:,.0f}",
                    f"{100 * (size / full - 1):+.0f} %",
                    spread([row["accuracy"] for row in rows]),
                    trained_back(rows),
                    lost(runs, rows),
                )
            )
    heads = ("net", "plan", "bits by layer", "bytes of weights", "against 8 bits")
    heads += ("rounded", "trained back", "lost, points")
    return Table("Uniform and mixed bits on the integer core", heads, table).markdown(UNIFORM)


def paper(runs: list[dict[str, Any]]) -> str:
    table = [
        (
            "float 32",
            "",
            "float net",
            f"{4 * runs[0]['weights']:,}",
            "",
            spread([run["float"] for run in runs]),
            "-",
            "",
        )
    ]
    for first, rows in plan_rows(runs):
        size = float(np.mean([row["bits_a_weight"] for row in rows])) / 32
        table.append(
            (
                first["plan"],
                widths_of(rows),
                "integer core" if first["integers"] else "float net, weights rounded",
                f"{4 * runs[0]['weights'] * size:,.0f}",
                f"{100 * (size - 1):+.1f} %",
                spread([row["accuracy"] for row in rows]),
                trained_back(rows),
                lost(runs, rows),
            )
        )
    heads = ("plan", "bits by layer", "runs in", "bytes, unpacked", "against 32 bits")
    heads += ("rounded", "trained back", "lost, points")
    text = PAPER_TEXT.format(samples=sum(run["test_samples"] for run in runs))
    return Table("Three spiking convolutions on N-MNIST, as in the paper", heads, table).markdown(text)


def foretold(found: Mapping[str, Any]) -> str:
    table = []
    for name, case in CASES.items():
        runs = found.get(name, [])
        if not runs:
            continue
        lists = {key: [np.array([row[key] for row in run["alone"]]) for run in runs] for key in runs[0]["alone"][0]}

        def mean(a: str, b: str, bits: int | None = None, lists: Any = lists) -> str:
            values = [
                rank_correlation(x[chosen], y[chosen])
                for x, y, width in zip(lists[a], lists[b], lists["bits"], strict=True)
                if (chosen := (width == bits) if bits else np.ones(len(width), bool)).any()
            ]
            return f"{np.mean(values):.2f}"

        pairs = (("damage", "loss"), ("damage", "lost"), ("damage_exact", "loss"), ("error", "loss"))
        order = sorted(runs[0]["trace"], key=lambda layer: -runs[0]["trace"][layer])
        shown = " > ".join(order) if len(order) < 6 else f"{order[0]} > ... > {order[-1]}"
        table.append((case.title, shown, *(mean(a, b) for a, b in pairs), mean("trace", "loss", 2)))
    heads = (
        "net",
        "layers by trace",
        "damage, loss",
        "damage, accuracy",
        "damage by autodiff, loss",
        "error alone, loss",
        "trace alone, loss at 2 bits",
    )
    return Table("Whether it is foretold", heads, table).markdown(FORETOLD)


UNIFORM: Final = f"""\
Mean ± standard deviation of three runs, accuracy in percent on samples that no run has seen: three seeds of traces and
training for one net, and for N-MNIST three nets, each judged on the third of the recordings that it was not trained on.
What is only rounded depends on no seed. Training back is {EPOCHS} epochs on at most {TUNED:,} samples of the training
part, labels unused; `lost` counts from float. Bytes are those of the packed weights in a bundle; `mixed` has 2, 4 or 8
bits a layer by the trace, within the size given; bits are told from input to output."""

PAPER_TEXT: Final = """\
Lui and Neftci (2021) report 58 % less than 32 bits at 0.2 points for widths 8, 8, 16 from input to output. These are
the same proportions, smaller: 16, 32 and 32 filters of 5 x 5, pools 2-1-2, 25 frames, and a readout that is trained.
All three nets together answer {samples:,} recordings, each one unseen by the net that answers. 16 bits are no width of
the integer core: those rows are the float net with weights rounded to 16 bits, and say nothing about integers. Bytes
are weights times bits, without packing."""

FORETOLD: Final = """\
Each layer alone at 2, 3 and 4 bits, on the test samples: rank correlation (Spearman, mean of three runs) of `damage`,
trace / n * squared rounding error, with the rise of the loss and with the accuracy lost; the same with traces of exact
products by automatic differentiation (spikes softened); of the rounding error without the trace; and of the trace
without the error, at 2 bits."""


def page(found: Mapping[str, Any]) -> str:
    parts = [uniform_and_mixed(found)]
    if found.get(PAPER):
        parts.append(paper(found[PAPER]))
    parts.append(foretold(found))
    pictures = [f"![{CASES[name].title}](images/bits-{name}.svg)" for name in found]
    return "\n".join([*parts, "Trace and bits of the plan `mixed, as small as 4 bits`, first run:", "", *pictures])


def draw(found: Mapping[str, Any], folder: Path) -> None:
    for name, runs in found.items():
        layers = [LayerBits(*layer) for layer in runs[0]["layers"]]
        (folder / f"bits-{name}.svg").write_text(bits_svg(CASES[name].title, layers), encoding="utf-8")


def say(words: str) -> None:
    print(words, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/bits"), metavar="FOLDER")
    parser.add_argument("--markdown", type=Path, help="write the tables into this page, pictures into images beside it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    kept = args.output / "bits.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in args.only:
        done = {(run["file"], run["seed"]) for run in found.get(name, [])}
        for file, seed in CASES[name].runs:
            if (file, seed) not in done:
                found.setdefault(name, []).append(measured(name, file, seed))
                kept.write_text(json.dumps(found, indent=1) + "\n")
    if args.markdown:
        ordered = {name: found[name] for name in CASES if name in found}
        write_section(args.markdown, "bench-bits", page(ordered))
        draw(ordered, args.markdown.parent / "images")


if __name__ == "__main__":
    main()
