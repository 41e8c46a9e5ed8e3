"""How far the integers are from the floats: answers and layers, on samples that no scale was made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edgerun.arrays import F32, F64, I16, I32, I64, AnyArray
from edgerun.errors import ModelError
from edgerun.graph import layer_reaches
from edgerun.layers.base import Certificate
from edgerun.network import Network
from edgerun.ops import DenseRun, ReadoutRun
from edgerun.spec import ClassTable, Dense, Layer, Lif, Manifest, PhaseRate
from exporters.calibrate import Affine
from exporters.data import Samples
from exporters.float_net import SpikingTrace, dense_forward, spiking_forward
from exporters.quantise import Quantised
from exporters.report import LayerReport
from exporters.twin import Twin

BLOCK: Final = 64
DISAGREE: Final = (
    0.01  # of the samples may go to another class than by ONNX Runtime: ties and rounding, not another net
)


def scores(manifest: Manifest, tensors: Mapping[str, AnyArray], q: I16) -> I32:
    """Scores (N, k) of quantised inputs (N, size), by the network that the device runs."""
    blocks = [q[start : start + BLOCK] for start in range(0, len(q), BLOCK)]
    return np.concatenate([Network(manifest, tensors, (len(block),)).scores(block) for block in blocks])


def integer_accuracy(manifest: Manifest, tensors: Mapping[str, AnyArray], q: I16, samples: Samples) -> float:
    known = len(manifest.classes.names)
    return float((scores(manifest, tensors, q)[:, :known].argmax(axis=1) == samples.y).mean())


def in_blocks(samples: Samples) -> Iterator[Samples]:
    for start in range(0, len(samples), BLOCK):
        yield samples.take(np.arange(start, min(start + BLOCK, len(samples))))


def float_accuracy(path: Path, twin: Twin, samples: Samples, known: int) -> float | None:
    """Of the model as it was: by ONNX Runtime, or by the float twin of a spiking net; None if it has no readout."""
    answers = float_scores(path, twin, samples)
    return None if answers is None else float((answers[:, :known].argmax(axis=1) == samples.y).mean())


def float_scores(path: Path, twin: Twin, samples: Samples) -> F32 | None:
    if isinstance(twin.net.encoder, PhaseRate):
        parts = [spiking_forward(twin.net.layers, twin.spikes(block)).readout for block in in_blocks(samples)]
        return None if parts[0] is None else np.concatenate([part for part in parts if part is not None])
    from exporters.onnx_import import onnx_scores

    ours = dense_forward(twin.net.layers, samples.x)[-1]
    theirs = onnx_scores(path, samples.x.astype(np.float32))
    apart = int((theirs.argmax(axis=1) != ours.argmax(axis=1)).sum())
    if theirs.shape != ours.shape or apart > DISAGREE * len(ours):
        raise ModelError(f"{path.name}: the import and ONNX Runtime disagree on {apart} of {len(ours)} samples")
    return theirs


# ------------------------------------------------------------------ layer by layer


@dataclass(frozen=True, slots=True)
class Gap:
    """The reach of a layer's float output, and how far the integers are from it."""

    low: float
    high: float
    rms: float
    most: float


def layer_reports(twin: Twin, samples: Samples, certificates: Mapping[str, Certificate]) -> list[LayerReport]:
    """One record a layer."""
    gaps = spiking_gaps(twin, samples) if isinstance(twin.net.encoder, PhaseRate) else dense_gaps(twin, samples)
    return [
        LayerReport(
            name=part.layer.name,
            kind=type(part.layer).__name__.lower(),
            shape=(part.layer.outputs, part.layer.inputs),
            low=gap.low,
            high=gap.high,
            weight_scale=weight_scale(twin, part, k),
            clipped=part.clipped,
            error_rms=gap.rms,
            error_max=gap.most,
            carrier=certificates[part.layer.name].carrier,
            bound=certificates[part.layer.name].bound,
        )
        for k, (part, gap) in enumerate(zip(twin.parts, gaps, strict=True))
    ]


def weight_scale(twin: Twin, part: Quantised[Layer], k: int) -> tuple[float, float]:
    """The smallest and largest real value of one weight step over a layer's channels."""
    layer = part.layer
    if not isinstance(layer, Dense):
        step = 2.0**-layer.weight_exponent
        return step, step
    entry = twin.input.scale if k == 0 else twin.parts[k - 1].output.scale
    multiplier, shift = (part.tensors[f"{layer.name}.{name}"].astype(np.float64) for name in ("multiplier", "shift"))
    steps = multiplier * np.exp2(-shift) * part.output.scale / entry
    return float(steps.min()), float(steps.max())


def bare_manifest(twin: Twin, known: int = 1) -> Manifest:
    """The layers alone, their last outputs being the scores, of which the first `known` are factory classes."""
    layers = tuple(part.layer for part in twin.parts)
    table = ClassTable(names=tuple(str(k) for k in range(known)), capacity=layers[-1].outputs)
    return Manifest(name="bare", input=twin.input, encoder=twin.net.encoder, layers=layers, classes=table)


def dense_gaps(twin: Twin, samples: Samples) -> list[Gap]:
    network = Network(bare_manifest(twin), twin.tensors, (len(samples),))
    network.scores(twin.inputs(samples))
    wanted = dense_forward(twin.net.layers, samples.x)
    return [
        gap(want, real(network.layers[part.layer.name].out, part.output))
        for part, want in zip(twin.parts, wanted, strict=False)
    ]


def spiking_gaps(twin: Twin, samples: Samples) -> list[Gap]:
    """For a Lif layer the share of spikes that differ, overall and of the worst neuron; its reach is the membrane's."""
    spikes = twin.spikes(samples)
    trace = spiking_forward(twin.net.layers, spikes)
    network = Network(bare_manifest(twin), twin.tensors, (len(samples),))
    trains: dict[str, list[AnyArray]] = {part.layer.name: [] for part in twin.parts if isinstance(part.layer, Lif)}
    for x in spikes:
        network.step(x)
        for name, train in trains.items():
            train.append(network.layers[name].out.astype(np.uint8))
    gaps = [lif_gap(trace, k, np.stack(train)) for k, train in enumerate(trains.values())]
    last = network.layers[twin.parts[-1].layer.name]
    if isinstance(last, ReadoutRun) and trace.readout is not None:
        known = trace.readout.shape[1]
        gaps.append(gap(trace.readout, real(last.y[:, :known], twin.parts[-1].output)))
    return gaps


def lif_gap(trace: SpikingTrace, k: int, train: AnyArray) -> Gap:
    differ = (train != trace.spikes[k]).mean(axis=(0, 1))
    low, high = trace.membrane[k]
    return Gap(low, high, float(differ.mean()), float(differ.max()))


def gap(want: F32, got: F64) -> Gap:
    error = got - want
    return Gap(
        float(want.min()), float(want.max()), float(np.sqrt(np.square(error).mean())), float(np.abs(error).max())
    )


def real(q: AnyArray, output: Affine) -> F64:
    return np.asarray((q.astype(np.float64) - output.zero_point) * output.scale)


def feature_reach(twin: Twin, name: str) -> int:
    """The largest |z| that layer `name` can give: a Dense output, or spike counts over the window."""
    layer = next(part.layer for part in twin.parts if part.layer.name == name)
    manifest = bare_manifest(twin)
    return manifest.steps if isinstance(layer, Lif) else layer_reaches(manifest)[name][1]


def run_dense(part: Quantised[Dense], z: I64) -> I64:
    """Outputs (N, out) of one Dense layer for integer inputs (N, in), on the carrier that the device would use."""
    run = DenseRun(part.layer, part.tensors, (len(z),))
    run.step(z.astype(np.float32))
    return run.out.astype(np.int64)


def raw_features(twin: Twin, name: str, q: I16) -> I64:
    """What layer `name` gives for quantised inputs: int8 values of a Dense, spike counts of a Lif, (N, d) int64."""
    rows = []
    for start in range(0, len(q), BLOCK):
        block = q[start : start + BLOCK]
        network = Network(bare_manifest(twin), twin.tensors, (len(block),))
        network.scores(block)
        rows.append(network.layers[name].reading())
    return np.concatenate(rows)
