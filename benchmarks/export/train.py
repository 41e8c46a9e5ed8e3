"""Train the float models of `benchmarks/export` and write them as ONNX or NIR.

    python benchmarks/export/train.py                  all of them, about ten minutes on one core
    python benchmarks/export/train.py --only kws_dscnn
    python benchmarks/export/train.py --readme         only the table, from the facts beside the models

A row of MODELS goes to `models/<name>.onnx` (or `.nir`), further exports to `models/<name>_<suffix>.onnx`,
its facts to `models/<name>.json`; `models/README.md` is the table of all facts. Every ONNX file is run by ONNX Runtime
over the test part, every NIR file by `nir_replay.py`, and held to torch before it stays.
Needs EDGERUN_DATA and the extra `train`.
"""

from __future__ import annotations

import argparse
import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import data
import nets
import nir
import numpy as np
import onnx
import onnxruntime
import torch
from data import Part, Split
from nir_replay import replay
from snntorch.export_nir import export_to_nir
from torch import Tensor, nn

from edgerun.arrays import F32, I64
from edgerun.errors import CheckFailed
from exporters.training.one_cycle import Course, one_cycle

MODELS_DIR: Final = Path(__file__).parent / "models"
TOLERANCE: Final = 1e-4  # of the largest output: what ONNX Runtime and torch may differ by
AGREEMENT: Final = 0.99  # of decisions, between a NIR file and torch: a spike on the threshold may go either way
SPIKES: Final = 3.0  # a neuron and window, what spiking nets are drawn to
BATCH: Final = 500  # samples at once where nothing is learned

Augment = Callable[[Tensor], Tensor]


# ------------------------------------------------------------------ what a model is


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """AdamW under one cycle of the rate; `augment` draws a new view of each batch."""

    epochs: int
    rate: float = 3e-3
    batch: int = 64
    decay: float = 1e-4
    smoothing: float = 0.05
    augment: Augment = lambda x: x


@dataclass(frozen=True, slots=True, kw_only=True)
class Onnx:
    """One `torch.onnx.export`: by torch.export (dynamo) or by the older TorchScript tracer; batch free or 1.

    `plain` is the graph before the exporter's own optimiser, with batch norm, Identity and the like still in it.
    """

    opset: int
    suffix: str = ""
    dynamo: bool = True
    batch: int | None = None
    plain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Nir:
    """One NIR file and what NIR cannot say: metadata of the graph, of spiking nodes and of the readout."""

    graph: Mapping[str, Any]
    neuron: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    net: Callable[[], nn.Module]
    recipe: Recipe
    exports: tuple[Onnx, ...] | Nir
    floor: float  # least score that is written
    about: str
    score: str = "accuracy"  # or "auc", of the reconstruction error
    seed: int = 0


# ------------------------------------------------------------------ views of a batch


def flipped(x: Tensor) -> Tensor:
    """Half of the pictures mirrored."""
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)


def shifted(axis: int, most: int, noise: float = 0.0) -> Augment:
    """Every sample rolled along `axis` by up to `most` places, with noise on top."""

    def view(x: Tensor) -> Tensor:
        moves = torch.randint(-most, most + 1, (len(x),))
        rolled = torch.stack([sample.roll(int(move), axis - 1) for sample, move in zip(x, moves, strict=True)])
        return rolled + noise * torch.randn_like(rolled)

    return view


def heard(axis: int, most: int, noise: float) -> Augment:
    """Speech: rolled in time, louder or softer, with noise; a stretch of up to 6 frames is blanked by its mean."""
    roll = shifted(axis, most, noise)

    def view(x: Tensor) -> Tensor:
        x = roll(x) * (1 + 0.1 * torch.randn(len(x), *[1] * (x.ndim - 1)))
        start = int(torch.randint(0, x.shape[axis] - 6, ()))
        x.narrow(axis, start, int(torch.randint(0, 7, ()))).mul_(0)
        return x

    return view


def worn(x: Tensor) -> Tensor:
    """Motion: a sensor that sits a little turned, with noise: both vectors times I + 0.1 N."""
    turn = torch.eye(3) + 0.1 * torch.randn(len(x), 3, 3)
    both = torch.cat([x[..., :3] @ turn, x[..., 3:] @ turn], dim=-1)
    return both + 0.02 * torch.randn_like(both)


def moved(x: Tensor) -> Tensor:
    """Event frames (n, T, 2, 34, 34) moved by up to two pixels."""
    return shifted(4, 2)(shifted(3, 2)(x))


# ------------------------------------------------------------------ the table

SPOKEN = "spoken digits, "
FASHION = "Fashion-MNIST, "
LATE_SUBTRACT = {"reset": "subtract", "reset_delay": 1}
ZERO_AT_ONCE = {"reset": "zero", "reset_delay": 0}
READOUT = {"role": "readout", "reset": "none", "reset_delay": 1}

MODELS: Final[Mapping[str, Model]] = {
    "mnist_mlp": Model(
        net=nets.mlp,
        recipe=Recipe(epochs=8, batch=128),
        exports=(Onnx(opset=18), Onnx(opset=11, suffix="legacy", dynamo=False)),
        floor=0.975,
        about="MNIST, dense 784-128-64-10",
    ),
    "fashion_cnn": Model(
        net=nets.fashion_cnn,
        recipe=Recipe(epochs=6, batch=128, augment=flipped),
        exports=(
            Onnx(opset=20),
            Onnx(opset=13, suffix="legacy", dynamo=False),
            Onnx(opset=22, suffix="plain", batch=1, plain=True),
        ),
        floor=0.90,
        about=FASHION + "three convolutions with batch norm and max pooling",
    ),
    "kws_dscnn": Model(
        net=nets.ds_cnn,
        recipe=Recipe(epochs=30, augment=heard(2, 5, 0.1)),
        exports=(Onnx(opset=21), Onnx(opset=12, suffix="legacy", dynamo=False)),
        floor=0.95,
        about=SPOKEN + "MLPerf Tiny DS-CNN on ten cepstra of 49 frames",
    ),
    "imu_gru": Model(
        net=lambda: nets.Gated(nn.GRU, 48),
        recipe=Recipe(epochs=14, rate=5e-3, augment=worn),
        exports=(Onnx(opset=18, batch=1), Onnx(opset=14, suffix="legacy", dynamo=False)),
        floor=0.88,
        about="waist IMU, six activities, subjects never seen; GRU 48",
    ),
    "imu_lstm": Model(
        net=lambda: nets.Gated(nn.LSTM, 48),
        recipe=Recipe(epochs=24, rate=6e-3, augment=worn),
        exports=(Onnx(opset=22, batch=1), Onnx(opset=25, suffix="free_batch")),
        floor=0.88,
        about="the same by an LSTM 48",
    ),
    "resnet8": Model(
        net=nets.resnet8,
        recipe=Recipe(epochs=2, batch=128, augment=flipped),
        exports=(Onnx(opset=19),),
        floor=0.88,
        about=FASHION + "MLPerf Tiny ResNet-8 at 3 x 32 x 32",
    ),
    "mobilenet_v1": Model(
        net=nets.mobilenet_v1,
        recipe=Recipe(epochs=3, batch=32, augment=flipped),
        exports=(Onnx(opset=23),),
        floor=0.97,
        about=FASHION + "footwear or not; MLPerf Tiny MobileNetV1 x 0.25 at 3 x 96 x 96",
    ),
    "autoencoder": Model(
        net=nets.autoencoder,
        recipe=Recipe(epochs=30),
        exports=(Onnx(opset=26),),
        floor=0.99,
        about="bearing vibration, states never heard found by the reconstruction error; MLPerf Tiny dense autoencoder",
        score="auc",
    ),
    "speech_conv1d": Model(
        net=nets.speech_conv1d,
        recipe=Recipe(epochs=30, augment=heard(2, 5, 0.1)),
        exports=(Onnx(opset=20), Onnx(opset=11, suffix="legacy", dynamo=False, plain=True)),
        floor=0.95,
        about=SPOKEN + "1-D convolutions over 40 mel bands, residual, ReLU6 and hard-swish",
    ),
    "digits_rsnn": Model(
        net=nets.RecurrentSpiking,
        recipe=Recipe(epochs=40, augment=heard(1, 4, 0.01)),
        exports=Nir(graph={"encoder": "frames", "steps": 40}, neuron=LATE_SUBTRACT),
        floor=0.93,
        about=SPOKEN + "128 recurrent LIF neurons on 40 frames of 32 mel currents; delayed subtract reset",
    ),
    "nmnist_conv_snn": Model(
        net=nets.ConvSpiking,
        recipe=Recipe(epochs=20, batch=32, augment=moved),
        exports=Nir(graph={"encoder": "frames", "steps": data.EVENT_FRAMES}, neuron=ZERO_AT_ONCE),
        floor=0.93,
        about="N-MNIST, two convolutional LIF layers on 25 frames of 2 x 34 x 34 event counts; zero reset at once",
    ),
    **{
        f"nmnist_conv3_fold{fold}": Model(
            net=nets.ThreeConvSpiking,
            recipe=Recipe(epochs=12, batch=32, augment=moved),
            exports=Nir(graph={"encoder": "frames", "steps": data.EVENT_FRAMES}, neuron=ZERO_AT_ONCE),
            floor=0.93,
            about=f"N-MNIST, three convolutional LIF layers, every third recording from {fold} on kept apart",
            seed=fold,
        )
        for fold in range(data.EVENT_FOLDS)
    },
}


# ------------------------------------------------------------------ training and scoring


def train(model: Model, part: Part) -> nn.Module:
    """The trained net in evaluation mode; seed and one thread make it the same every time on one machine."""
    torch.manual_seed(model.seed)
    torch.set_num_threads(1)
    net, recipe = model.net(), model.recipe

    def loss(rows: I64) -> Tensor:
        x, y = recipe.augment(torch.from_numpy(part.x[rows])), torch.from_numpy(part.y[rows])
        return loss_of(model, net(x), x, y)

    def order(samples: int) -> I64:
        return torch.randperm(samples).numpy()

    course = Course(epochs=recipe.epochs, batch=recipe.batch, rate=recipe.rate, decay=recipe.decay)
    one_cycle(net, course, len(part), order, loss, tell)
    return net.eval()


def tell(epoch: int, loss: float) -> None:
    print(f"  epoch {epoch:3d}  loss {loss:.4f}", flush=True)


def loss_of(model: Model, output: Any, x: Tensor, y: Tensor) -> Tensor:
    """Cross entropy; squared reconstruction error for "auc"; spiking nets give (scores, spikes), drawn to SPIKES."""
    if model.score == "auc":
        return nn.functional.mse_loss(output, x)
    scores, spikes = output if isinstance(output, tuple) else (output, torch.tensor(SPIKES))
    sparse = ((spikes - SPIKES) ** 2).mean()
    return nn.functional.cross_entropy(scores, y, label_smoothing=model.recipe.smoothing) + 1e-3 * sparse


def outputs(net: nn.Module, x: F32) -> F32:
    """The net's scores (n, ...), batch by batch."""
    with torch.no_grad():
        parts = [net(torch.from_numpy(x[k : k + BATCH])) for k in range(0, len(x), BATCH)]
    return np.concatenate([(p[0] if isinstance(p, tuple) else p).numpy() for p in parts])


def score(model: Model, output: F32, part: Part) -> float:
    """Share of right classes, or how often a faulty sample is rebuilt worse than a healthy one."""
    if model.score == "accuracy":
        return float((output.argmax(1) == part.y).mean())
    error = ((output - part.x) ** 2).mean(1)
    return float((error[part.y == 1][:, None] > error[part.y == 0]).mean())


# ------------------------------------------------------------------ writing


def write_onnx(net: nn.Module, export: Onnx, path: Path, part: Part) -> dict[str, Any]:
    """One ONNX file, held to torch over the test part. Raises CheckFailed, and writes nothing, where they differ."""
    graph = onnx_graph(net, export, part)
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    size = export.batch or BATCH
    peer = np.concatenate([session.run(None, {"x": part.x[k : k + size]})[0] for k in range(0, len(part), size)])
    own = outputs(net, part.x)
    apart = float(np.abs(peer - own).max() / np.abs(own).max())
    opset = next(entry.version for entry in graph.opset_import if entry.domain == "")
    if apart > TOLERANCE or opset != export.opset:
        found = f"opset {opset}, {apart:.1e} from torch"
        raise CheckFailed(f"{path.name}: {found}, must be {export.opset} and {TOLERANCE:g}")
    onnx.save(graph, path)
    print(f"  {path.name}: opset {opset}, {path.stat().st_size} bytes, {apart:.1e} from torch")
    return {
        "file": path.name,
        "exporter": ("torch.export" if export.dynamo else "TorchScript") + (", not optimised" if export.plain else ""),
        "opset": opset,
        "batch": "any" if export.batch is None else str(export.batch),
        "bytes": path.stat().st_size,
    }


def onnx_graph(net: nn.Module, export: Onnx, part: Part) -> onnx.ModelProto:
    """What the exporter writes, without the stack traces and file names of this machine that it notes at every node."""
    sample = torch.from_numpy(part.x[: export.batch or 2].copy())
    free = export.batch is None
    options: dict[str, Any] = {"dynamo": export.dynamo, "opset_version": export.opset}
    if export.dynamo:
        options |= {"external_data": False, "verbose": False, "optimize": not export.plain}
        options |= {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} if free else {}
    else:
        options |= {"do_constant_folding": not export.plain}
        options |= {"training": torch.onnx.TrainingMode.PRESERVE} if export.plain else {}
        options |= {"dynamic_axes": {"x": {0: "batch"}, "y": {0: "batch"}}} if free else {}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporters say about torch's own future
        if export.dynamo:
            torch.onnx.export(net, (sample,), input_names=["x"], output_names=["y"], **options).save(buffer)
        else:
            torch.onnx.export(net, (sample,), buffer, input_names=["x"], output_names=["y"], **options)
    graph = onnx.load_model_from_string(buffer.getvalue())
    for item in (graph, graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    return graph


class OneStep(nn.Module):
    """A spiking net as the exporter of snnTorch wants it: the modules by name, `forward` one time step."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        for name, module in net.named_children():
            self.add_module(name, module)
        self.one = type(net).step

    def forward(self, x: Tensor) -> Any:
        return self.one(self, x)


def write_nir(net: nn.Module, export: Nir, path: Path, part: Part) -> dict[str, Any]:
    """One NIR file by snnTorch; reset, delay, readout and encoder travel as metadata, as NIR has no field for them.

    Raises CheckFailed, and removes the file, where its replay decides otherwise than torch.
    """
    graph = export_to_nir(OneStep(net), torch.from_numpy(part.x[0, :1].copy()), ignore_dims=[0])
    graph.metadata |= dict(export.graph)
    for name, node in graph.nodes.items():
        if name == "readout":
            node.metadata |= READOUT
        elif isinstance(node, nir.LIF):
            node.metadata |= dict(export.neuron)
    nir.write(path, graph)
    agree = float((replay(path, part.x).argmax(1) == outputs(net, part.x).argmax(1)).mean())
    if agree < AGREEMENT:
        path.unlink()
        raise CheckFailed(f"{path.name}: decides {agree:.2%} of samples as torch does, must be {AGREEMENT:.0%}")
    print(f"  {path.name}: {path.stat().st_size} bytes, {agree:.2%} of decisions as torch")
    return {"file": path.name, "exporter": "snnTorch", "opset": None, "batch": "1", "bytes": path.stat().st_size}


def make(name: str, folder: Path) -> None:
    """Train one row, score it, write its files and facts. Raises CheckFailed under the row's floor."""
    model, split = MODELS[name], data.load(name)
    print(f"{name}: {len(split.train)} samples to train on", flush=True)
    net = train(model, split.train)
    reached = score(model, outputs(net, split.test.x), split.test)
    if reached < model.floor:
        raise CheckFailed(f"{name}: {model.score} {reached:.4f}, must reach {model.floor}")
    facts = {
        "name": name,
        "about": model.about,
        "parameters": sum(p.numel() for p in net.parameters()),
        model.score: round(reached, 4),
        "test_samples": len(split.test),
        "seed": model.seed,
        "epochs": model.recipe.epochs,
        "torch": torch.__version__.split("+")[0],
        "files": write(net, name, model, split, folder),
    }
    (folder / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(f"  {model.score} {reached:.4f}", flush=True)


def write(net: nn.Module, name: str, model: Model, split: Split, folder: Path) -> list[dict[str, Any]]:
    if isinstance(model.exports, Nir):
        return [write_nir(net, model.exports, folder / f"{name}.nir", split.test)]
    return [
        write_onnx(net, export, folder / f"{'_'.join(filter(None, (name, export.suffix)))}.onnx", split.test)
        for export in model.exports
    ]


# ------------------------------------------------------------------ the table of facts

README = """# Float models

Written by `python benchmarks/export/train.py`; do not edit. Each row is trained by `train.py --only NAME` with the seed
given, on the data that `data.py` cuts for it, and scored on test samples that it never saw.

| model | what | parameters | test | seed | files |
|---|---|---:|---:|---:|---|
"""


def readme(folder: Path) -> str:
    """The table of all facts that lie in `folder`, in the order of MODELS."""
    paths = [folder / f"{name}.json" for name in MODELS]
    return README + "".join(line(json.loads(path.read_text())) for path in paths if path.is_file())


def line(facts: Mapping[str, Any]) -> str:
    measure = next(key for key in ("accuracy", "auc") if key in facts)
    reached = f"{100 * facts[measure]:.2f} %" if measure == "accuracy" else f"AUC {facts[measure]:.4f}"
    files = "<br>".join(
        f"`{file['file']}`: {file['exporter']}"
        + (f", opset {file['opset']}, batch {file['batch']}" if file["opset"] else "")
        + f", {file['bytes']:,} bytes"
        for file in facts["files"]
    )
    test = f"{reached} of {facts['test_samples']}"
    return f"| {facts['name']} | {facts['about']} | {facts['parameters']:,} | {test} | {facts['seed']} | {files} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="NAME")
    parser.add_argument("--readme", action="store_true", help="train nothing, write the table of facts again")
    parser.add_argument("-o", "--output", type=Path, default=MODELS_DIR)
    args = parser.parse_args()
    for name in () if args.readme else args.only:
        make(name, args.output)
    (args.output / "README.md").write_text(readme(args.output))


if __name__ == "__main__":
    main()
