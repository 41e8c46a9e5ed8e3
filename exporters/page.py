"""An export report as one self-contained HTML page: no scripts, no foreign requests, readable in light and dark."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Final

from exporters.report import Explanation, LayerReport, LayerStory, Report

STYLE: Final = """
:root { color-scheme: light dark; --page: light-dark(#f5f6f4, #0f1312); --panel: light-dark(#fff, #171c1a);
  --line: light-dark(#e2e5e0, #28302c); --ink: light-dark(#1b211e, #e6ebe7); --soft: light-dark(#56605a, #a3aea7);
  --a: light-dark(#0f766e, #2dd4bf); --b: light-dark(#d9572b, #fb8b5f); --wash: light-dark(#0f766e14, #2dd4bf18); }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 34px; letter-spacing: -.02em; margin: 0 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 21px; margin: 52px 0 4px; } p { margin: 4px 0 14px; color: var(--soft); max-width: 78ch; }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin: 26px 0 0; }
.tile { background: var(--panel); border: 1px solid var(--line); border-radius: 14px; padding: 14px 18px; }
.tile b { display: block; font-size: 30px; letter-spacing: -.02em; } .tile span { color: var(--soft); font-size: 13px; }
.wide { overflow-x: auto; background: var(--panel); border: 1px solid var(--line); border-radius: 14px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { text-align: right; padding: 7px 12px; border-top: 1px solid var(--line); white-space: nowrap; }
tr:first-child th { border-top: 0; } th { color: var(--soft); font-weight: 560; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--panel); }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .soft { fill: var(--soft); } .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr));
  gap: 18px; } .pair h3 { font-size: 14px; margin: 10px 0 6px; }
.pair table td { text-align: center; padding: 4px 6px; }
.plot svg { background: #fff; border-radius: 14px; } .plot svg text { fill: #222; }
.heat .tall th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; padding: 8px 4px; }
.heat td { border: 1px solid var(--line); } ul { color: var(--soft); padding-left: 20px; }
"""
MOST_CLASSES: Final = 30
"""Confusions of more classes than this are left out: nobody could read them."""
SHORT: Final = 3
"""Letters of a class that stand over its column as they are; longer names go upwards."""


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
    title = html.escape(f"{report.model} as {report.name}")
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style><main>{''.join(sections)}</main></html>\n"
    )


def header(report: Report) -> Iterable[str]:
    accuracy = report.accuracy
    where = "kept apart from calibration" if accuracy.apart else "that calibration used too"
    yield f"<h1>{html.escape(report.model)}</h1><p>now the bundle <b>{html.escape(report.name)}</b>, id "
    yield f"<code>{html.escape(report.id)}</code></p>"
    tiles = []
    if accuracy.integer is not None:
        tiles.append((f"{accuracy.integer:.2%}", f"right in integers, of {accuracy.samples} samples {where}"))
    elif accuracy.agreement is not None:
        tiles.append(
            (f"{accuracy.agreement:.2%}", f"the same class as in floats, of {accuracy.samples} samples {where}")
        )
    if accuracy.integer is None and accuracy.output_error is not None:
        tiles.append((f"{accuracy.output_error:.2%}", "of their spread are the outputs off the floats"))
    if accuracy.integer is not None and accuracy.float_model is not None:
        lost = 100 * (accuracy.float_model - accuracy.integer)
        tiles.append((f"{accuracy.float_model:.2%}", "right in floats, the same samples"))
        tiles.append((f"{abs(lost):.2f}", f"points {'gained' if lost < 0 else 'lost'} on the way"))
    tiles.append((f"{report.bytes / 1024:,.1f} KB", "the whole bundle"))
    yield '<div class="tiles">'
    yield from (f'<div class="tile"><b>{value}</b><span>{words}</span></div>' for value, words in tiles)
    yield "</div>"
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


def percent(share: float) -> str:
    """A share of which small ones keep two digits: "3.125%", "0.0062%"."""
    return f"{share:.3%}" if abs(share) >= 1e-4 else f"{100 * share:.2g}%"


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


def joules(microjoules: float) -> str:
    """Three digits in the unit that suits: "0.25 µJ", "11.1 mJ"."""
    unit, value = ("mJ", microjoules / 1e3) if microjoules >= 1e3 else ("µJ", microjoules)
    return f"{value:.3g} {unit}"


def bars(rows: Sequence[tuple[str, float, str]], colour: str) -> str:
    """Horizontal bars of (name, value, words), zero where the values ask for it."""
    row, left, width = 24, 210, 1040
    low, high = min(0.0, *(value for _, value, _ in rows)), max(0.0, *(value for _, value, _ in rows))
    span = (high - low) or 1.0
    room = width - left - 190
    zero = left + room * -low / span
    parts = [f'<svg viewBox="0 0 {width} {row * len(rows) + 6}" role="img">']
    for k, (name, value, words) in enumerate(rows):
        y, length = k * row + 3, room * abs(value) / span
        start = zero - length if value < 0 else zero
        parts.append(
            f'<text x="{left - 10}" y="{y + 15}" text-anchor="end">{html.escape(short(name))}</text>'
            f'<rect x="{start:.1f}" y="{y + 2}" width="{max(length, 1):.1f}" height="{row - 8}" rx="3" '
            f'fill="var({colour})"/>'
            f'<text class="soft" x="{zero + (length if value > 0 else 0) + 8:.1f}" y="{y + 15}">{words}</text>'
        )
    return f'<div class="wide">{"".join(parts)}</svg></div>'


def short(name: str, most: int = 30) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


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
    yield '<div class="pair">'
    for title, counts in (("float", found.confusion_float), ("integer", found.confusion_integer)):
        yield f'<div><h3>{title}</h3><div class="wide heat">{heat(found.classes, counts)}</div></div>'
    yield "</div>"


def heat(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    tall = ' class="tall"' if max(map(len, classes)) > SHORT else ""
    head = f"<tr{tall}><th></th>" + "".join(f"<th>{html.escape(name)}</th>" for name in classes) + "</tr>"
    rows = []
    for name, row in zip(classes, counts, strict=True):
        shares = [100 * count / (sum(row) or 1) for count in row]
        cells = "".join(
            f'<td style="background:color-mix(in srgb, var(--a) {share * 0.7:.0f}%, transparent)">'
            f"{f'{share:.0f}' if share else ''}</td>"
            for share in shares
        )
        rows.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    return f"<table>{head}{''.join(rows)}</table>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
