"""A picture of what bits were chosen and why: sensitivity and stored bytes, layer by layer, as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final, NamedTuple

ROW: Final = 26
NAMES, PANEL, GAP = 170, 250, 70  # widths, in pixels
HEAD: Final = 52
DECADES: Final = 3.0  # of the trace that a bar can show
COLOURS: Final = {2: "#c2410c", 4: "#b48a00", 8: "#2563a8"}


class LayerBits(NamedTuple):
    """One bar: a layer's Hessian trace, the bits it got, its bytes at those bits and at 8."""

    name: str
    trace: float
    bits: int
    bytes: int
    bytes_at_8: int


def bits_svg(title: str, layers: Sequence[LayerBits]) -> str:
    """The picture: traces on a logarithmic scale to the left, bytes to the right, the frame being what 8 bits take."""
    width, height = NAMES + 2 * PANEL + 2 * GAP, HEAD + ROW * len(layers) + 30
    saved = 1 - sum(layer.bytes for layer in layers) / sum(layer.bytes_at_8 for layer in layers)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(8, 18, title, weight="bold"),
        text(NAMES, 40, "trace of the Hessian, logarithmic"),
        text(NAMES + PANEL + GAP, 40, f"bytes and bits, {saved:.0%} under 8 bits"),
        *bars(layers),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def bars(layers: Sequence[LayerBits]) -> Iterator[str]:
    most_trace = max(max(layer.trace for layer in layers), 1e-12)
    most_bytes = max(layer.bytes_at_8 for layer in layers)
    right = NAMES + PANEL + GAP
    for k, layer in enumerate(layers):
        y = HEAD + ROW * k
        share = 1 + math.log10(max(layer.trace, 1e-12) / most_trace) / DECADES
        yield text(8, y + 15, layer.name)
        yield box(NAMES, y + 3, PANEL * max(share, 0.004), "#8a8f98")
        yield text(NAMES + PANEL * max(share, 0.004) + 5, y + 15, f"{layer.trace:.3g}")
        yield box(right, y + 3, PANEL * layer.bytes / most_bytes, COLOURS.get(layer.bits, "#555"))
        yield box(right, y + 3, PANEL * layer.bytes_at_8 / most_bytes, "none", stroke="#333")
        yield text(right + PANEL * layer.bytes_at_8 / most_bytes + 5, y + 15, f"{layer.bits} bits")


def text(x: float, y: float, words: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-weight="{weight}" fill="#222">{escape(words)}</text>'


def box(x: float, y: float, width: float, fill: str, stroke: str = "none") -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{ROW - 8}" fill="{fill}" stroke="{stroke}"/>'
