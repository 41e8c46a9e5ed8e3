"""An export report as one self-contained HTML page: no scripts, no foreign requests, readable in light and dark."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Final

from exporters.charts import bars, document, heat, joules, percent, side_by_side, table, tiles
from exporters.report import Explanation, LayerReport, LayerStory, Report

MOST_CLASSES: Final = 30
"""Confusions of more classes than this are left out: nobody could read them."""


def page(report: Report) -> str:
    """The report as HTML. It may lack an explanation: then only what the terminal shows is on it."""
    found = report.explanation
    sections = [
        *header(report),
        *(blame_section(found) if found else ()),
        *(cost_section(found) if found else ()),
        *layers_section(report),
        *(confusion_section(found) if found else ()),
        *certificate_section(report),
    ]
    return document(f"{report.model} as {report.name}", sections)


def header(report: Report) -> Iterable[str]:
    accuracy = report.accuracy
    where = "kept apart from calibration" if accuracy.apart else "that calibration used too"
    yield f"<h1>{html.escape(report.model)}</h1><p>now the bundle <b>{html.escape(report.name)}</b>, id "
    yield f"<code>{html.escape(report.id)}</code></p>"
    figures = []
    if accuracy.integer is not None:
        figures.append((f"{accuracy.integer:.2%}", f"right in integers, of {accuracy.samples} samples {where}"))
    elif accuracy.agreement is not None:
        figures.append(
            (f"{accuracy.agreement:.2%}", f"the same class as in floats, of {accuracy.samples} samples {where}")
        )
    if accuracy.integer is None and accuracy.output_error is not None:
        figures.append((f"{accuracy.output_error:.2%}", "of their spread are the outputs off the floats"))
    if accuracy.integer is not None and accuracy.float_model is not None:
        lost = 100 * (accuracy.float_model - accuracy.integer)
        figures.append((f"{accuracy.float_model:.2%}", "right in floats, the same samples"))
        figures.append((f"{abs(lost):.2f}", f"points {'gained' if lost < 0 else 'lost'} on the way"))
    figures.append((f"{report.bytes / 1024:,.1f} KB", "the whole bundle"))
    yield tiles(figures)
    if report.notes:
        yield "<ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in report.notes) + "</ul>"


# ------------------------------------------------------------------ charts


def blame_section(found: Explanation) -> Iterable[str]:
    yield "<h2>Which layer costs how much</h2>"
    yield f"<p>The integer outputs are off by {percent(found.error)} of their variance. Each bar is the part that "
    yield "vanishes when this layer, after all before it, is made perfect; a bar to the left means that its error had "
    yield f"cancelled another. Measured on {found.samples} samples.</p>"
    yield bars([(layer.name, layer.error_share, blame_words(layer)) for layer in found.layers], "--b")


def blame_words(layer: LayerStory) -> str:
    moved = f", {100 * layer.accuracy_share:+.1f} points" if layer.accuracy_share else ""
    return f"{percent(layer.error_share)}{moved}"


def cost_section(found: Explanation) -> Iterable[str]:
    if found.bits_plot:
        yield "<h2>Bits</h2><p>How much the loss minds a change of each layer, and what it got.</p>"
        yield f'<div class="wide plot">{found.bits_plot}</div>'
    yield "<h2>Bytes</h2><p>What each layer's tensors take in the bundle.</p>"
    yield bars([(layer.name, layer.bytes, f"{layer.bytes:,}") for layer in found.layers], "--a")
    for board in found.layers[0].energy_uj if found.layers else ():
        energies = [(layer.name, layer.energy_uj[board]) for layer in found.layers]
        yield f"<h2>Energy on {html.escape(board)}</h2><p>Estimated, one inference: "
        yield f"{joules(sum(energy for _, energy in energies))} in layers, above sleep.</p>"
        yield bars([(name, energy, joules(energy)) for name, energy in energies], "--a")


# ------------------------------------------------------------------ tables


def layers_section(report: Report) -> Iterable[str]:
    stories = {story.name: story for story in report.explanation.layers} if report.explanation else {}
    yield "<h2>Ranges</h2><p>How far float outputs go, what the integers hold, what lies beyond, and how far the "
    yield "integers are off, both running from the input.</p>"
    heads = ("layer", "output", "float range", "integers hold", "beyond", "weights clipped", "error rms", "largest")
    yield table(heads, (range_cells(layer, stories.get(layer.name)) for layer in report.layers))


def range_cells(layer: LayerReport, story: LayerStory | None) -> tuple[str, ...]:
    reach = f"{layer.low:.3g} to {layer.high:.3g}"
    held = f"{story.held[0]:.3g} to {story.held[1]:.3g}" if story else ""
    beyond = f"{story.outside:.2%}" if story else ""
    shape = "x".join(map(str, story.shape)) if story else str(layer.shape[0])
    name = f"{layer.name} ({layer.kind})"
    return name, shape, reach, held, beyond, f"{layer.clipped:.2%}", f"{layer.error_rms:.3g}", f"{layer.error_max:.3g}"


def certificate_section(report: Report) -> Iterable[str]:
    yield "<h2>Certificate</h2><p>The largest accumulator that any input at all can cause, and the carrier that holds "
    yield "it without losing a bit. The device computes this again before it believes it.</p>"
    rows = ((layer.name, layer.carrier, f"{layer.bound:,}", f"2^{bits(layer.bound)}") for layer in report.layers)
    yield table(("layer", "exact in", "largest sum", "under"), rows)


def bits(bound: int) -> int:
    return max(1, math.ceil(math.log2(bound + 1)))


def confusion_section(found: Explanation) -> Iterable[str]:
    if not 1 < len(found.classes) <= MOST_CLASSES or not any(map(any, found.confusion_float)):
        return
    yield "<h2>Confusion</h2><p>Rows are the true classes, columns the answers, in per cent of a row.</p>"
    counted = (("float", found.confusion_float), ("integer", found.confusion_integer))
    yield side_by_side(
        ((title, heat(found.classes, shares(found.classes, counts))) for title, counts in counted), "heat"
    )


def shares(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Iterable[tuple[str, list[float | None]]]:
    """Each class with its row of a confusion, in percent of the row, nothing for none."""
    for name, row in zip(classes, counts, strict=True):
        yield name, [100 * count / sum(row) if count else None for count in row]
