"""What an export did to a model, layer by layer and class by class: the data behind `--report`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from edgerun.arrays import F32, I64, AnyArray
from edgerun.boards import BOARDS, price
from edgerun.bundle import Bundle
from edgerun.price import layer_ops
from exporters import measure
from exporters.blame import Blame, blame
from exporters.data import Samples
from exporters.float_net import forward
from exporters.nodes import FloatLayer
from exporters.report import Explanation, LayerStory, Report
from exporters.twin import Twin, in_blocks

EXPLAINED = 64  # samples that the net is run over once a layer


def explain(
    report: Report, bundle: Bundle, twin: Twin, samples: Samples, boards: Sequence[str], plot: str = ""
) -> Report:
    """The report with its explanation. `samples` are those that no scale was made from."""
    some = samples.take(np.linspace(0, len(samples) - 1, min(len(samples), EXPLAINED)).astype(np.int64))
    shares = blame(twin, some)
    by_name = {share.name: share for share in shares.layers}
    outside = beyond(twin, some)
    ops = layer_ops(bundle)
    sizes = {name: 0 for name in ops}
    for section in bundle.sections:
        owner = section.name.rpartition(".")[0]
        if section.kind.name == "TENSOR" and owner in sizes:
            sizes[owner] += section.length
    stories = tuple(
        LayerStory(
            name=part.layer.name,
            kind=str(part.layer.__struct_config__.tag),
            shape=part.layer.shape,
            bytes=sizes.get(part.layer.name, 0),
            held=held(part.output.scale, part.output.zero_point),
            outside=outside.get(part.layer.name, 0.0),
            error_share=by_name[part.layer.name].error if part.layer.name in by_name else 0.0,
            accuracy_share=accuracy_share(by_name.get(part.layer.name)),
            energy_uj={board: price(BOARDS[board], ops[part.layer.name])[0] for board in boards},
        )
        for part in twin.parts
        if part.layer.name in ops
    )
    answers = np.concatenate([measure.own_scores(twin, block) for block in in_blocks(samples)])
    integers = measure.scores(bundle.manifest, bundle.tensors, twin.inputs(samples))
    known = len(bundle.manifest.classes.names)
    explanation = Explanation(
        samples=len(some),
        error=shares.error,
        layers=stories,
        classes=bundle.manifest.classes.names,
        confusion_float=confusion(samples.y, answers, known),
        confusion_integer=confusion(samples.y, integers, known),
        bits_plot=plot,
    )
    return msgspec.structs.replace(report, explanation=explanation)


def accuracy_share(found: Blame | None) -> float:
    """Of one layer; 0 where it has none, or nothing is labelled."""
    return 0.0 if found is None or np.isnan(found.accuracy) else found.accuracy


def held(scale: float, zero_point: int) -> tuple[float, float]:
    """The real values at the ends of int8."""
    return (-128 - zero_point) * scale, (127 - zero_point) * scale


def beyond(twin: Twin, samples: Samples) -> dict[str, float]:
    """By layer, the share of float outputs that its integers cannot hold: what clipping cuts."""
    cut: dict[str, list[float]] = {}
    ends = {
        part.layer.name: held(part.output.scale, part.output.zero_point)
        for part in twin.parts
        if not part.layer.stateful and part.layer.reach((128,) * len(part.layer.widths)) <= 128
    }

    def watch(layer: FloatLayer, out: F32) -> None:
        if layer.name in ends:
            low, high = ends[layer.name]
            slack = (high - low) / 510  # half a step: what still rounds to the end
            cut.setdefault(layer.name, []).append(float(((out < low - slack) | (out > high + slack)).mean()))

    forward(twin.net, twin.moments(samples), watch)
    return {name: float(np.mean(shares)) for name, shares in cut.items()}


def confusion(y: I64, answers: AnyArray, classes: int) -> tuple[tuple[int, ...], ...]:
    """Counts of labelled samples by true class (row) and answer (column); empty without classes."""
    if not classes:
        return ()
    table = np.zeros((classes, classes), np.int64)
    labelled = y >= 0
    np.add.at(table, (y[labelled], answers[labelled, :classes].argmax(axis=1)), 1)
    return tuple(tuple(int(count) for count in row) for row in table)
