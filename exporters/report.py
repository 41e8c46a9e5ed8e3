"""What an export reports: the numbers as records, for programs, and as a page, for people."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec

from edgerun.spec import Record


class LayerReport(Record, frozen=True, kw_only=True):
    """One layer: how it was quantised, and how far its integers are from its floats on samples kept apart."""

    name: str
    kind: str
    shape: tuple[int, int]  # outputs, inputs
    low: float  # reach of the float output: activations, membrane in thresholds, or logits
    high: float
    weight_scale: tuple[float, float]  # smallest and largest over channels
    clipped: float  # share of weights that saturate
    error_rms: float  # in the unit of low and high; for spikes the share that differ
    error_max: float
    carrier: str  # the certificate
    bound: int  # largest accumulator that any input can cause


class Accuracy(Record, frozen=True, kw_only=True):
    """How good the answers are; `apart`: on samples that no scale, whitening or class mean was made from.

    float_model, integer  share of right answers; None without labels
    agreement             share of samples that integers and floats give the same class; None without classes
    output_error          rms of integer minus float outputs over the float ones' standard deviation; None where
                          prototypes decide
    """

    samples: int
    apart: bool
    float_model: float | None = None
    integer: float | None = None
    agreement: float | None = None
    output_error: float | None = None


class LayerStory(Record, frozen=True, kw_only=True):
    """One layer's size, clipping, cost and share of the blame."""

    name: str
    kind: str
    shape: tuple[int, ...]  # of the output
    bytes: int  # of its tensors in the bundle
    held: tuple[float, float]  # real values that its integers can hold
    outside: float  # share of float outputs beyond that
    error_share: float  # of the output's variance: what the error falls by when this layer becomes perfect too
    accuracy_share: float  # what the accuracy rises by in the same step
    energy_uj: dict[str, float]  # by board, one inference


class Explanation(Record, frozen=True, kw_only=True):
    """Where accuracy, bytes and energy went. Confusions count labelled samples, rows true, columns answered."""

    samples: int  # that the error shares come from
    error: float  # of the integer outputs, in units of their variance
    layers: tuple[LayerStory, ...]
    classes: tuple[str, ...]
    confusion_float: tuple[tuple[int, ...], ...]
    confusion_integer: tuple[tuple[int, ...], ...]
    bits_plot: str = ""  # SVG: sensitivity and bits of every layer, where bits were chosen


class Report(Record, frozen=True, kw_only=True):
    """All of it."""

    model: str
    name: str
    id: str
    bytes: int
    layers: tuple[LayerReport, ...]
    accuracy: Accuracy
    sections: tuple[tuple[str, int], ...]
    notes: tuple[str, ...] = ()
    explanation: Explanation | None = None  # with --report


LAYER_TITLES = ("layer", "shape", "float range", "weight step", "clipped", "error rms", "max", "exact in", "bound")


def render(report: Report, width: int = 120) -> str:
    """The page: tables with `rich` where it is installed, plain columns otherwise."""
    summary = [
        f"{report.model} is now {report.name}, {report.bytes} bytes",
        f"id {report.id}",
        accuracy_line(report.accuracy),
        *(f"note: {note}" for note in report.notes),
    ]
    layers = table("layers", LAYER_TITLES, [layer_cells(layer) for layer in report.layers], width)
    sizes = table("bytes", ("section", "bytes"), [(name, str(size)) for name, size in report.sections], width)
    return "\n".join([*summary, "", layers, sizes])


def accuracy_line(accuracy: Accuracy) -> str:
    """How good the integers are, by the strongest measure that the data allow."""
    where = f"on {accuracy.samples} samples {'kept apart' if accuracy.apart else 'also used for calibration'}"
    if accuracy.integer is not None:
        twin = "-" if accuracy.float_model is None else f"{accuracy.float_model:.2%}"
        return f"accuracy: integer {accuracy.integer:.2%}, float {twin}, {where}"
    error = "" if accuracy.output_error is None else f"{accuracy.output_error:.2%} of their spread off the floats (rms)"
    if accuracy.agreement is not None:
        return f"no labels: the same class as in floats in {accuracy.agreement:.2%}, outputs {error}, {where}"
    return f"values: {error}, {where}"


def layer_cells(layer: LayerReport) -> tuple[str, ...]:
    low, high = layer.weight_scale
    step = f"{low:.3g}" if low == high else f"{low:.2g} to {high:.2g}"
    if high == 0:  # a layer without weights
        step = ""
    unit = " of spikes" if layer.kind == "lif" else ""
    return (
        f"{layer.name} ({layer.kind})",
        f"{layer.shape[1]} -> {layer.shape[0]}",
        f"{layer.low:.3g} to {layer.high:.3g}",
        step,
        f"{layer.clipped:.2%}",
        f"{layer.error_rms:.3g}{unit}",
        f"{layer.error_max:.3g}",
        layer.carrier,
        str(layer.bound),
    )


def table(title: str, titles: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    if find_spec("rich") is None:
        return plain_table(title, titles, rows)
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for heading in titles:
        grid.add_column(heading, overflow="fold")
    for row in rows:
        grid.add_row(*row)
    page = io.StringIO()
    Console(file=page, width=width, no_color=True, markup=False, highlight=False).print(grid)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines())


def plain_table(title: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[k]) for row in (titles, *rows)) for k in range(len(titles))]
    lines = ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)) for row in (titles, *rows)]
    return "\n".join([title, *(line.rstrip() for line in lines)])
