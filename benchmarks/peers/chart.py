"""The contenders of every table on one logarithmic axis, as a picture that stands alone."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import Final

WIDTH, ROW, LEFT, RIGHT, TOP = 1020, 54, 400, 50, 46
OURS, NUMPY, PEER = "#0f766e", "#5eaea7", "#a16207"


def colour(name: str) -> str:
    if not name.startswith("edgerun"):
        return PEER
    return NUMPY if "numpy" in name else OURS


def drawn(parts: Mapping[str, Mapping[str, float]]) -> str:
    """SVG: a row a table, a dot a contender at its microseconds.    parts  medians by title and contender"""
    every = [value for times in parts.values() for value in times.values()]
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))
    height = TOP + ROW * len(parts) + 40

    def across(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(value) - low) / (high - low)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        *_key(),
    ]
    for power in range(low, high + 1):
        x = across(10.0**power)
        lines.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - 34}" stroke="#e2e5e0"/>')
        words = f"{10.0**power:g} us"
        lines.append(f'<text x="{x:.1f}" y="{height - 14}" text-anchor="middle" fill="#56605a">{words}</text>')
    for k, (title, times) in enumerate(parts.items()):
        y = TOP + ROW * k + ROW / 2
        lines.append(
            f'<text x="{LEFT - 14}" y="{y + 4:.0f}" text-anchor="end" fill="#1b211e">{html.escape(title)}</text>'
        )
        lines.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#e2e5e0"/>')
        for name, value in sorted(times.items(), key=lambda item: item[0].startswith("edgerun")):
            lines.append(
                f'<circle cx="{across(value):.1f}" cy="{y}" r="6" fill="{colour(name)}" fill-opacity=".8">'
                f"<title>{html.escape(name)}: {value:.3g} us</title></circle>"
            )
    return "\n".join([*lines, "</svg>", ""])


def _key() -> list[str]:
    entries: Final = ((OURS, "edgerun, C"), (NUMPY, "edgerun, numpy"), (PEER, "peers"))
    lines = []
    for k, (shade, words) in enumerate(entries):
        x = LEFT + 150 * k
        lines.append(f'<circle cx="{x}" cy="20" r="6" fill="{shade}" fill-opacity=".8"/>')
        lines.append(f'<text x="{x + 12}" y="24" fill="#1b211e">{words}</text>')
    return lines
