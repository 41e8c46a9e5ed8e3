"""How far the integers are from the floats: answers and layers, on samples that no scale was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np

from edgerun.arrays import F32, F64, I16, I32, I64, AnyArray
from edgerun.errors import ModelError
from edgerun.graph import layer_reaches
from edgerun.layers.base import INPUT, Certificate
from edgerun.layers.spiking import SPIKING
from edgerun.network import Network
from edgerun.ops import DenseRun
from edgerun.spec import ClassTable, Dense, Layer, Lif, Manifest, Readout
from exporters.data import Samples
from exporters.float_net import Outcome, forward
from exporters.nodes import Affine, FloatLayer, Quantised
from exporters.report import Accuracy, LayerReport
from exporters.twin import BLOCK, Twin, in_blocks

DISAGREE: Final = 0.01
"""Share of samples that may go to another class than by the file's runtime: ties and rounding, not another net."""
SAME: Final = 1e-3
"""Share of their spread that the import's values may be off that runtime's (rms)."""
ROUNDED: Final = 0.25
"""The same where that runtime computes in int8 itself, and the import in floats."""
STEPS: Final = 0.1
"""The same where both compute in int8."""
TIE: Final = 0.05
"""Answers that lie closer, as a share of all answers' spread, may change places by rounding."""


def scores(manifest: Manifest, tensors: Mapping[str, AnyArray], q: I16) -> I32:
    """Scores (N, k) of quantised inputs (N, size), by the network that the device runs."""
    blocks = [q[start : start + BLOCK] for start in range(0, len(q), BLOCK)]
    return np.concatenate([Network(manifest, tensors, (len(block),)).scores(block) for block in blocks])


def spread_error(got: F64, want: F32) -> float:
    """Root mean square of got - want over the standard deviation of want, each output about its own mean.

    Outputs that hardly vary are taken to vary by a thousandth of their size.
    """
    values = want.astype(np.float64)
    spread = float(np.sqrt(np.square(values - values.mean(axis=0)).mean()))
    size = float(np.sqrt(np.square(values).mean()))
    return float(np.sqrt(np.square(got - values).mean())) / (max(spread, 1e-3 * size) or 1.0)


def accuracy(
    path: Path, manifest: Manifest, tensors: Mapping[str, AnyArray], twin: Twin, samples: Samples, *, apart: bool
) -> Accuracy:
    """How good the bundle's answers are, beside those of the model as it was. Raises ModelError."""
    ours = np.concatenate([own_scores(twin, block) for block in in_blocks(samples)])
    known, out = len(manifest.classes.names), manifest.output
    theirs = peer_scores(path, twin, samples, ours, values=not known)
    got = scores(manifest, tensors, twin.inputs(samples))
    error = None
    if out is not None:  # softmax may stand behind the peer's outputs, but not where values are the answer
        want = ours if known else theirs
        error = spread_error(real(got[:, : want.shape[1]], Affine(out.scale, out.zero_point)), want)
    if not known:
        return Accuracy(samples=len(samples), apart=apart, output_error=error)
    named, floats = got[:, :known].argmax(axis=1), theirs[:, :known].argmax(axis=1)
    if not samples.labelled:
        agreement = float((named == floats).mean())
        return Accuracy(samples=len(samples), apart=apart, agreement=agreement, output_error=error)
    return Accuracy(
        samples=len(samples),
        apart=apart,
        float_model=float((floats == samples.y).mean()),
        integer=float((named == samples.y).mean()),
        agreement=float((named == floats).mean()),
        output_error=error,
    )


def peer_scores(path: Path, twin: Twin, samples: Samples, ours: F32, *, values: bool) -> F32:
    """Answers (N, outputs) of the model as it was: of ONNX Runtime or LiteRT for their files, else of the float twin.

    LiteRT is asked where it is installed. Raises ModelError where the peer and the twin disagree: on the winner, or,
    where the values count, on those. A .tflite file of integers is held to the twin's integers, which saturate alike.
    Integers may always be off by one step, however little the answers vary.
    """
    found = runtime_scores(path, twin.real(samples).astype(np.float32))
    if found is None:
        return ours
    peer, theirs = found
    if theirs.shape != ours.shape:
        raise ModelError(f"{path.name}: {peer} gives {theirs.shape[1]} outputs, the import {ours.shape[1]}")
    limit = SAME if twin.net.input is None and not twin.net.dynamic else ROUNDED
    if twin.net.input is not None and peer == "LiteRT":
        if twin.parts[-1].layer.name != twin.net.layers[-1].name:
            return theirs
        ours, values, limit = integer_answers(twin, samples), True, STEPS
    if values:
        gap = spread_error(ours.astype(np.float64), theirs)
        if gap > limit and not within_step(twin, ours, theirs):
            raise ModelError(f"{path.name}: the import is {gap:.2%} of their spread off {peer}'s values")
        return theirs
    apart = disagreements(ours, theirs)
    if apart > DISAGREE * len(ours) and twin.net.input is not None:  # floats do not saturate as the file's integers do
        apart = min(apart, disagreements(integer_answers(twin, samples), theirs))
    if apart > DISAGREE * len(ours):
        raise ModelError(f"{path.name}: the import and {peer} disagree on {apart} of {len(ours)} samples")
    return theirs


def within_step(twin: Twin, ours: F32, theirs: F32) -> bool:
    """Whether a file of integers is answered, root mean square, to within one step of its output."""
    if twin.net.input is None:
        return False
    return bool(np.square(ours.astype(np.float64) - theirs).mean() <= twin.parts[-1].output.scale ** 2)


def disagreements(ours: F32, theirs: F32) -> int:
    """On how many samples our winner lies clearly behind theirs, by their own answers."""
    rows = np.arange(len(theirs))
    behind = theirs.max(axis=1).astype(np.float64) - theirs[rows, ours.argmax(axis=1)]
    return int((behind > TIE * theirs.astype(np.float64).std()).sum())


def integer_answers(twin: Twin, samples: Samples) -> F32:
    """Answers (N, outputs) of the integer layers, as real numbers."""
    got = scores(bare_manifest(twin), twin.tensors, twin.inputs(samples))
    return real(got, twin.parts[-1].output).astype(np.float32)


def runtime_scores(path: Path, x: F32) -> tuple[str, F32] | None:
    """The name and the answers of the runtime that a file is made for; None where there is none here."""
    if path.suffix.lower() == ".onnx":
        from exporters.onnx_import import onnx_scores

        return "ONNX Runtime", onnx_scores(path, x)
    if path.suffix.lower() == ".tflite":
        from exporters.tflite_import import has_litert, litert_scores

        return ("LiteRT", litert_scores(path, x)) if has_litert() else None
    return None


def own_scores(twin: Twin, samples: Samples) -> F32:
    """Answers (N, outputs) of the float net as it came."""
    return forward(twin.origin or twin.net, twin.moments(samples)).readings[twin.net.layers[-1].name]


# ------------------------------------------------------------------ layer by layer


@dataclass(frozen=True, slots=True)
class Gap:
    """The reach of a layer's float output, and how far the integers are from it."""

    low: float
    high: float
    rms: float
    most: float


def layer_reports(twin: Twin, samples: Samples, certificates: Mapping[str, Certificate]) -> list[LayerReport]:
    """One record a layer that has a float counterpart."""
    gaps = layer_gaps(twin, samples)
    return [
        LayerReport(
            name=part.layer.name,
            kind=str(part.layer.__struct_config__.tag),
            shape=(part.layer.outputs, sum(part.layer.widths)),
            low=gaps[part.layer.name].low,
            high=gaps[part.layer.name].high,
            weight_scale=weight_scale(twin, part),
            clipped=part.clipped,
            error_rms=gaps[part.layer.name].rms,
            error_max=gaps[part.layer.name].most,
            carrier=certificates[part.layer.name].carrier,
            bound=certificates[part.layer.name].bound,
        )
        for part in twin.parts
        if part.layer.name in gaps
    ]


def weight_scale(twin: Twin, part: Quantised) -> tuple[float, float]:
    """The smallest and largest real value of one weight step over a layer's channels; (0, 0) without weights."""
    layer = part.layer
    if isinstance(layer, Lif | Readout):
        step = 2.0**-layer.weight_exponent
        return step, step
    if f"{layer.name}.weight" not in part.tensors or f"{layer.name}.multiplier" not in part.tensors:
        return 0.0, 0.0
    entry = twin.maps[source_of(twin, layer)].scale
    multiplier, shift = (part.tensors[f"{layer.name}.{name}"].astype(np.float64) for name in ("multiplier", "shift"))
    steps = multiplier * np.exp2(-shift) * part.output.scale / entry
    return float(steps.min()), float(steps.max())


def source_of(twin: Twin, layer: Layer) -> str:
    """The first thing that a layer reads."""
    names = [INPUT, *(part.layer.name for part in twin.parts)]
    return layer.sources[0] if layer.sources else names[names.index(layer.name) - 1]


def bare_manifest(twin: Twin, known: int = 1) -> Manifest:
    """The layers alone, their last outputs being the scores, of which the first `known` are factory classes."""
    layers = tuple(part.layer for part in twin.parts)
    table = ClassTable(names=tuple(str(k) for k in range(known)), capacity=max(known, layers[-1].outputs))
    return Manifest(name="bare", input=twin.input, encoder=twin.net.encoder, layers=layers, classes=table)


def layer_gaps(twin: Twin, samples: Samples) -> dict[str, Gap]:
    """By layer, how far integers are from floats on the same samples, both running from the input.

    Spikes: the share that differ over all steps, overall and of the worst neuron, and the membrane's reach. Everything
    else: what a head would read at the end of the window.
    """
    network = Network(bare_manifest(twin), twin.tensors, (len(samples),))
    trains: dict[str, list[F32]] = {part.layer.name: [] for part in twin.parts if isinstance(part.layer, SPIKING)}

    def watch(layer: FloatLayer, out: F32) -> None:
        if layer.name in trains:
            trains[layer.name].append(out)

    outcome = forward(twin.net, twin.moments(samples), watch)
    differ = {name: np.zeros((len(samples), network.layers[name].out.shape[-1])) for name in trains}
    for t, x in enumerate(network.moments(twin.inputs(samples))):
        network.step(x)
        for name, train in trains.items():
            differ[name] += network.layers[name].out != train[t]
    return {
        part.layer.name: spike_gap(outcome, part.layer.name, differ[part.layer.name] / network.steps)
        if part.layer.name in trains
        else value_gap(outcome, part, network)
        for part in twin.parts
        if part.layer.name in outcome.readings
    }


def spike_gap(outcome: Outcome, name: str, differ: F64) -> Gap:
    low, high = outcome.states[name]["reach"]
    return Gap(float(low), float(high), float(differ.mean()), float(differ.mean(axis=0).max()))


def value_gap(outcome: Outcome, part: Quantised, network: Network) -> Gap:
    want = outcome.readings[part.layer.name]
    got = real(network.layers[part.layer.name].reading()[:, : want.shape[1]], part.output)
    error = got - want
    return Gap(
        float(want.min()), float(want.max()), float(np.sqrt(np.square(error).mean())), float(np.abs(error).max())
    )


def real(q: AnyArray, output: Affine) -> F64:
    return np.asarray((q.astype(np.float64) - output.zero_point) * output.scale)


def feature_reach(twin: Twin, name: str) -> int:
    """The largest |z| that layer `name` can give: a layer's output, or spike counts over the window."""
    manifest = bare_manifest(twin)
    layer = manifest.layer(name)
    return manifest.steps if isinstance(layer, SPIKING) else layer_reaches(manifest)[name][1]


def run_dense(part: Quantised, z: I64) -> I64:
    """Outputs (N, out) of one Dense layer for integer inputs (N, in), on the carrier that the device would use."""
    run = DenseRun(cast(Dense, part.layer), part.tensors, (len(z),))
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
