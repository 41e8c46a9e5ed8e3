"""Pieces of self-contained HTML pages: style, tiles, tables and plain SVG charts, readable in light and dark.

Every function returns markup. Words are escaped here, so callers pass what a person should read. A colour is a variable
of the style: "--a" to "--f". A coordinate that is None or not finite is left out.
"""

from __future__ import annotations

import base64
import html
import math
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from edgerun.arrays import U8

STYLE: Final = """
:root { color-scheme: light dark; --page: light-dark(#f5f6f4, #0f1312); --panel: light-dark(#fff, #171c1a);
  --line: light-dark(#e2e5e0, #28302c); --ink: light-dark(#1b211e, #e6ebe7); --soft: light-dark(#56605a, #a3aea7);
  --a: light-dark(#0f766e, #2dd4bf); --b: light-dark(#d9572b, #fb8b5f);
  --c: light-dark(#5550c8, #9d98ff); --d: light-dark(#a16207, #e0b040); --e: light-dark(#b83280, #f288c0);
  --f: light-dark(#7a857e, #8b978f); --wash: light-dark(#0f766e14, #2dd4bf18); }
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
.pair table td:not(:first-child) { text-align: center; padding: 4px 6px; }
.plot svg { background: #fff; border-radius: 14px; } .plot svg text { fill: #222; }
.heat .tall th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; padding: 8px 4px; }
.heat td { border: 1px solid var(--line); } .heat tr > :not(:first-child) { text-align: center; padding: 6px 3px; }
.wide.drawn { padding: 6px 8px; }
.pair:has(.drawn) { grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; color: var(--soft); font-size: 13px; margin: 0 0 10px; }
.key i { display: inline-block; width: 18px; border-top: 3px solid; vertical-align: middle; margin-right: 6px; }
.map { display: block; width: 100%; height: 150px; image-rendering: pixelated; padding: 8px; }
.words td:not(:last-child), .words th:not(:last-child) { text-align: left; }
.faint { color: var(--soft); } ul { color: var(--soft); padding-left: 20px; }
"""
SHORT: Final = 3
"""Letters of a column's name that stand over it as they are; longer names go upwards."""
COLOURS: Final = ("--a", "--b", "--c", "--d", "--e", "--f")

Point: TypeAlias = float | None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: y over the chart's x, and a band of y - spread to y + spread where spread is given."""

    name: str
    y: Sequence[Point]
    colour: str
    spread: Sequence[float] = ()
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """An upright line at x with words that a pointer shows."""

    x: float
    words: str
    colour: str = "--line"


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page."""
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style><main>{''.join(parts)}</main></html>\n"
    )


def tiles(pairs: Iterable[tuple[str, str]]) -> str:
    """Large figures, each with what it is."""
    cells = (f'<div class="tile"><b>{html.escape(v)}</b><span>{html.escape(words)}</span></div>' for v, words in pairs)
    return f'<div class="tiles">{"".join(cells)}</div>'


def section(title: str, words: str = "") -> str:
    """A heading and what stands under it."""
    return f"<h2>{html.escape(title)}</h2>" + (f"<p>{html.escape(words)}</p>" if words else "")


def side_by_side(parts: Iterable[tuple[str, str]], kind: str = "drawn") -> str:
    """Titled charts or tables in as many columns as the page is wide for."""
    cells = (f'<div><h3>{html.escape(title)}</h3><div class="wide {kind}">{part}</div></div>' for title, part in parts)
    return f'<div class="pair">{"".join(cells)}</div>'


def key(entries: Iterable[tuple[str, str, bool]]) -> str:
    """What colours mean: (name, colour, dashed)."""
    cells = (
        f'<span><i style="border-color:var({colour});border-top-style:{"dashed" if dashed else "solid"}"></i>'
        f"{html.escape(name)}</span>"
        for name, colour, dashed in entries
    )
    return f'<div class="key">{"".join(cells)}</div>'


# ------------------------------------------------------------------ words


def percent(share: float) -> str:
    """A share of which small ones keep two digits: "3.125%", "0.0062%"."""
    return f"{share:.3%}" if abs(share) >= 1e-4 else f"{100 * share:.2g}%"


def joules(microjoules: float) -> str:
    """Three digits in the unit that suits: "0.25 µJ", "11.1 mJ", "5.31 J"."""
    unit, scale = next((unit, scale) for unit, scale in (("J", 1e6), ("mJ", 1e3), ("µJ", 0.0)) if microjoules >= scale)
    return f"{microjoules / (scale or 1):.3g} {unit}"


def number(value: float) -> str:
    """Four digits, or all before the point with commas: "0.125", "12,500"."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def size(count: float) -> str:
    """Bytes: "512 B", "3.5 KB"."""
    return f"{count:.0f} B" if count < 1024 else f"{count / 1024:,.1f} KB"


def short(name: str, most: int = 30) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


# ------------------------------------------------------------------ tables


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def heat(columns: Sequence[str], rows: Iterable[tuple[str, Sequence[Point]]], *, untrained: bool = False) -> str:
    """A table of percents, the higher the darker; None is empty. `untrained`: faint right of the diagonal."""
    tall = ' class="tall"' if max(map(len, columns)) > SHORT else ""
    head = f"<tr{tall}><th></th>" + "".join(f"<th>{html.escape(name)}</th>" for name in columns) + "</tr>"
    body = []
    for i, (name, values) in enumerate(rows):
        cells = (_shade(value, faint=untrained and j > i) for j, value in enumerate(values))
        body.append(f"<tr><td>{html.escape(name)}</td>{''.join(cells)}</tr>")
    return f"<table>{head}{''.join(body)}</table>"


def _shade(value: Point, *, faint: bool) -> str:
    if value is None:
        return "<td></td>"
    tint, kind = (0.15, ' class="faint"') if faint else (0.7, "")
    style = f"background:color-mix(in srgb, var(--a) {value * tint:.0f}%, transparent)"
    return f'<td{kind} style="{style}">{value:.0f}</td>'


# ------------------------------------------------------------------ charts


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


def lines(
    x: Sequence[float],
    series: Sequence[Line],
    *,
    reach: tuple[float, float] | None = None,
    unit: str = "",
    below: str = "",
    names: Sequence[str] = (),
    marks: Sequence[Mark] = (),
    width: int = 1040,
    height: int = 300,
) -> str:
    """Lines over a common x.    names  words under x[k] instead of numbers;    below  what x is, at the axis' end"""
    frame = _frame(x, series, reach, width, height)
    body = [f'<svg viewBox="0 0 {width} {height}" role="img">', *_y_axis(frame, unit), *_x_axis(frame, x, names, below)]
    for mark in marks:
        at = frame.across(mark.x)
        body.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{frame.top}" y2="{frame.bottom}" stroke="var({mark.colour})" '
            f'stroke-width="1" opacity=".75"><title>{html.escape(mark.words)}</title></line>'
        )
    for line in series:
        body += _line(frame, x, line, unit)
    return "".join([*body, "</svg>"])


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a chart's numbers lie on the page."""

    left: float
    right: float
    top: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        low, high = self.x
        return self.left + (self.right - self.left) * (value - low) / ((high - low) or 1.0)

    def up(self, value: float) -> float:
        low, high = self.y
        return self.bottom - (self.bottom - self.top) * (min(max(value, low), high) - low) / ((high - low) or 1.0)


def _frame(
    x: Sequence[float], series: Sequence[Line], reach: tuple[float, float] | None, width: int, height: int
) -> _Frame:
    most = max((y for line in series for y in line.y if y is not None and math.isfinite(y)), default=0.0)
    low, high = reach or (0.0, most or 1.0)
    return _Frame(46, width - 16, 12, height - 34, (min(x), max(x)), (low, high if reach else steps(low, high)[-1]))


def steps(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers around low and high, about `most` steps between them: 0, 20, 40."""
    raw = (high - low) / most or 1.0
    ten = 10.0 ** math.floor(math.log10(raw))
    step = next(ten * k for k in (1, 2, 2.5, 5, 10) if ten * k >= raw * 0.999)
    return [k * step for k in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def _y_axis(frame: _Frame, unit: str) -> Iterator[str]:
    for value in steps(*frame.y, most=4):
        y = frame.up(value)
        yield f'<line x1="{frame.left}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
        yield f'<text class="soft" x="{frame.left - 6}" y="{y + 4:.1f}" text-anchor="end">{number(value)}{unit}</text>'


def _x_axis(frame: _Frame, x: Sequence[float], names: Sequence[str], below: str) -> Iterator[str]:
    y = frame.bottom + 16
    if names:
        every = math.ceil(len(names) * max(7 * max(map(len, names)), 14) / (frame.right - frame.left))
        places = [(x[k], names[k]) for k in range(0, len(names), every)]
    else:
        places = [(value, number(value)) for value in steps(*frame.x, most=8) if value <= frame.x[1]]
    for value, words in places:
        at = frame.across(value)
        anchor = "end" if at > frame.right - 4 else "middle"
        x_end = min(at, frame.right) + 12 * (anchor == "end")
        yield f'<text class="soft" x="{x_end:.1f}" y="{y}" text-anchor="{anchor}">{html.escape(words)}</text>'
    yield f'<text class="soft" x="{frame.right}" y="{y + 14}" text-anchor="end">{html.escape(below)}</text>'


def _line(frame: _Frame, x: Sequence[float], line: Line, unit: str) -> Iterator[str]:
    """Its band, then each stretch without a gap, then points where there are few."""
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    for run in _stretches(line.y):
        if line.spread and len(run) > 1:
            high = [(x[k], (line.y[k] or 0.0) + line.spread[k]) for k in run]
            low = [(x[k], (line.y[k] or 0.0) - line.spread[k]) for k in reversed(run)]
            yield f'<polygon points="{_path(frame, high + low)}" fill="var({line.colour})" opacity=".14"/>'
        points = _path(frame, [(x[k], line.y[k] or 0.0) for k in run])
        yield f'<polyline points="{points}" fill="none" stroke="var({line.colour})" stroke-width="2" '
        yield f'stroke-linejoin="round"{dash}><title>{html.escape(line.name)}</title></polyline>'
        if len(line.y) <= 24:
            for k in run:
                value = line.y[k] or 0.0
                yield f'<circle cx="{frame.across(x[k]):.1f}" cy="{frame.up(value):.1f}" r="3" '
                yield f'fill="var({line.colour})"><title>{html.escape(line.name)}: {value:.4g}{unit}</title></circle>'


def _path(frame: _Frame, points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{frame.across(x):.1f},{frame.up(y):.1f}" for x, y in points)


def _stretches(y: Sequence[Point]) -> Iterator[list[int]]:
    """The indices of each stretch of values that are there."""
    run: list[int] = []
    for k, value in enumerate(y):
        if _there(value):
            run.append(k)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _there(value: Point) -> bool:
    return value is not None and math.isfinite(value)


def columns(values: Sequence[float], colour: str, names: Sequence[str], *, width: int = 360, height: int = 180) -> str:
    """Upright bars of counts, close together, names under every fourth."""
    frame = _Frame(46, width - 12, 12, height - 26, (0, len(values)), (0, steps(0, max(*values, 1))[-1]))
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img">', *_y_axis(frame, "")]
    for k, (value, name) in enumerate(zip(values, names, strict=True)):
        left, top = frame.across(k), frame.up(value)
        parts.append(
            f'<rect x="{left + 0.5:.1f}" y="{top:.1f}" width="{frame.across(k + 1) - left - 1:.1f}" '
            f'height="{frame.bottom - top:.1f}" fill="var({colour})">'
            f"<title>{html.escape(name)}: {value:,.0f}</title></rect>"
        )
        if k % 4 == 0:
            middle = (left + frame.across(k + 1)) / 2
            parts.append(
                f'<text class="soft" x="{middle:.1f}" y="{frame.bottom + 16}" text-anchor="middle">'
                f"{html.escape(name)}</text>"
            )
    return "".join([*parts, "</svg>"])


def whiskers(rows: Sequence[tuple[str, Sequence[float], str, str]], unit: str = "", *, width: int = 360) -> str:
    """Rows of (name, values, colour, words): each value a dot, their mean an upright stroke."""
    row, left = 30, 108
    every = [value for _, values, _, _ in rows for value in values]
    low, high = min(0.0, *every), max(0.0, *every)
    ticks = steps(low, high, most=4) if high > low else [low]
    frame = _Frame(left, width - 92, 0, 0, (min(ticks[0], low), max(ticks[-1], high)), (0, 1))
    parts = [f'<svg viewBox="0 0 {width} {row * len(rows) + 26}" role="img">']
    for tick in ticks:
        at, foot = frame.across(tick), row * len(rows) + 4
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="{foot}" stroke="var(--line)"/>')
        parts.append(
            f'<text class="soft" x="{at:.1f}" y="{foot + 15}" text-anchor="middle">{number(tick)}{unit}</text>'
        )
    for k, (name, values, colour, words) in enumerate(rows):
        y, mean = k * row + row / 2 + 3, sum(values) / len(values)
        parts.append(
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{html.escape(short(name, 16))}</text>'
            f'<line x1="{frame.across(mean):.1f}" x2="{frame.across(mean):.1f}" y1="{y - 9}" y2="{y + 9}" '
            f'stroke="var({colour})" stroke-width="3"/>'
            f'<text class="soft" x="{width - 4}" y="{y + 4}" text-anchor="end">{html.escape(words)}</text>'
        )
        parts += (
            f'<circle cx="{frame.across(value):.1f}" cy="{y}" r="4" fill="var({colour})" opacity=".45">'
            f"<title>{value:.4g}{unit}</title></circle>"
            for value in values
        )
    return "".join([*parts, "</svg>"])


def stacked(
    rows: Sequence[tuple[str, Sequence[tuple[str, float]], str]], colours: Mapping[str, str], *, width: int = 1040
) -> str:
    """Horizontal bars of (name, parts, words), the parts end to end in the colours of their names."""
    row, left = 30, 210
    most = max(sum(value for _, value in parts) for _, parts, _ in rows) or 1.0
    room = width - left - 190
    drawn = [f'<svg viewBox="0 0 {width} {row * len(rows) + 6}" role="img">']
    for k, (name, parts, words) in enumerate(rows):
        y, at = k * row + 3, float(left)
        drawn.append(f'<text x="{left - 10}" y="{y + 18}" text-anchor="end">{html.escape(short(name))}</text>')
        for part, value in parts:
            long = room * value / most
            drawn.append(
                f'<rect x="{at:.1f}" y="{y + 2}" width="{max(long - 1, 0.5):.1f}" height="{row - 8}" rx="2" '
                f'fill="var({colours[part]})"><title>{html.escape(part)}: {value:,.4g}</title></rect>'
            )
            at += long
        drawn.append(f'<text class="soft" x="{at + 8:.1f}" y="{y + 18}">{html.escape(words)}</text>')
    return f'<div class="wide">{"".join(drawn)}</svg></div>'


def picture(shades: U8, words: str) -> str:
    """A matrix (rows, columns) of shades, 0 nothing and 255 the most, as a PNG in the page."""
    rows, width = shades.shape
    scanlines = b"".join(b"\0" + row.tobytes() for row in shades)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, rows, 8, 3, 0, 0, 0)),
        (b"PLTE", bytes((20, 158, 142)) * 256),
        (b"tRNS", bytes(range(256))),
        (b"IDAT", zlib.compress(scanlines, 9)),
        (b"IEND", b""),
    )
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    coded = base64.b64encode(data).decode()
    return (
        f'<img class="map" alt="{html.escape(words)}" title="{html.escape(words)}" src="data:image/png;base64,{coded}">'
    )
