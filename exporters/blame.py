"""Which layer costs how much: the integer net again and again, with one more layer made perfect each time.

With the first k layers replaced by the float net's own values, rounded to their integer maps, what is left of the error
comes from the others. The step from k to k + 1 is layer k's own share. It works for every kind of layer, since it asks
for nothing but outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgerun.arrays import F32, AnyArray
from edgerun.encode import coder
from edgerun.layers.base import INPUT
from edgerun.ops import OPS, LayerRun
from exporters import measure
from exporters.data import Samples
from exporters.float_net import forward
from exporters.nodes import Affine, FloatLayer
from exporters.twin import Twin


@dataclass(frozen=True, slots=True)
class Blame:
    """One layer's share of what quantisation cost.

    error     of the output's variance: what it falls by when this layer is perfect too
    accuracy  share of samples, gained or lost in the same step; NaN without labels
    """

    name: str
    error: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Shares:
    """Every layer's share, in running order, and what remains when all are perfect: the rounding of the answer."""

    layers: tuple[Blame, ...]
    error: float  # of the whole integer net
    accuracy: float
    float_accuracy: float


def blame(twin: Twin, samples: Samples) -> Shares:
    """Every layer's share on these samples, run side by side. They should be few: it runs the net once a layer."""
    trains: dict[str, list[F32]] = {layer.name: [] for layer in twin.net.layers}

    def watch(layer: FloatLayer, out: F32) -> None:
        trains[layer.name].append(out)

    readings = forward(twin.net, twin.moments(samples), watch).readings
    last = twin.parts[-1].layer.name
    wanted = readings[last]
    perfect = {
        part.layer.name: [rounded(out, part.output) for out in trains[part.layer.name]]
        for part in twin.parts
        if part.layer.name in trains
    }
    names = [part.layer.name for part in twin.parts if part.layer.name in trains]
    trials = [judged(twin, samples, {name: perfect[name] for name in names[:k]}, wanted) for k in range(len(names))]
    trials.append((0.0, right(wanted, samples)))
    shares = [
        Blame(name, trials[k][0] - trials[k + 1][0], trials[k + 1][1] - trials[k][1]) for k, name in enumerate(names)
    ]
    return Shares(tuple(shares), trials[0][0], trials[0][1], trials[-1][1])


def rounded(values: F32, output: Affine) -> F32:
    """Real values as the integers of a map; a map of sums or spikes has no ends."""
    q = np.rint(values / output.scale) + output.zero_point
    return np.asarray(q if output == Affine(1.0, 0) else np.clip(q, -128, 127), np.float32)


def judged(twin: Twin, samples: Samples, perfect: Mapping[str, list[F32]], wanted: F32) -> tuple[float, float]:
    """Error and accuracy of the integer net with some layers' outputs given."""
    manifest = measure.bare_manifest(twin)
    runs: dict[str, LayerRun] = {
        layer.name: OPS[type(layer)](layer, twin.tensors, (len(samples),)) for layer in manifest.layers
    }
    moments = coder(manifest, (len(samples),)).encode(twin.inputs(samples))
    for t, x in enumerate(moments):
        for layer, sources in manifest.wiring():
            run = runs[layer.name]
            if layer.name in perfect:
                outs = perfect[layer.name]
                np.copyto(run.out, outs[min(t, len(outs) - 1)])
            else:
                run.step(*(x if source == INPUT else runs[source].out for source in sources))
    last = twin.parts[-1]
    got = measure.real(runs[last.layer.name].reading()[:, : wanted.shape[1]], last.output)
    error = float(np.square(got - wanted).mean() / (wanted.astype(np.float64).var() or 1.0))
    return error, right(got, samples)


def right(answers: AnyArray, samples: Samples) -> float:
    """The share of labelled samples whose class has the highest answer; NaN where there is no label."""
    known = samples.y >= 0
    return float((answers[known].argmax(axis=1) == samples.y[known]).mean()) if known.any() else float("nan")
