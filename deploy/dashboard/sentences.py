"""Events as sentences. A row is what always holds, then phrases that need their fields; what is left over follows."""

from __future__ import annotations

import string
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

MAX_TEXT: Final = 80

SENTENCES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "started": ("Started", " with {bundle_name}", " on {board}"),
        "stopped": ("Stopped", ": {reason}"),
        "lesson": ("Learned a lesson", " on “{label}”", " at level {level}"),
        "taught": ("An operator taught", " “{label}”", " with {examples} examples"),
        "drift": ("The input has drifted", ": {detector}", " at {statistic}", " (alarm above {threshold})"),
        "consolidated": ("Consolidated what was learned", " after {updates} updates"),
        "rolled-back": ("Rolled back", " to {to}", ": probe {before} → {after}", ": {reason}"),
        "level": ("The governor moved", " from {from}", " to {to}", ": {reason}"),
        "budget": ("New budget", ": {power_mw} mW"),
        "budget-refused": ("Refused a budget", " of {power_mw} mW", ", the floor is {floor_mw} mW"),
        "checkpoint": ("Checkpoint", " {generation} is safe"),
        "restored": ("Restored", " checkpoint {generation}", ", replayed {lessons} lessons"),
        "gap": (
            "Announced a gap",
            ": messages {from} to {to} will not come",
            " ({reason})",
            ", {dropped} dropped in all its life",
        ),
        "class-added": ("A new class", ": “{label}”", ", {classes} known now"),
        "paused": ("Learning paused", " for {for_s} s", ": {reason}"),
        "resumed": ("Learning resumed", ": {reason}"),
        "self-test": ("Self-test", " {result}", " on {samples} samples"),
        "thinned": ("The outbox thinned its oldest rows", ": {rows} merged"),
        "flood": ("Too many commands", ": {dropped} dropped unread", ", {unanswered} left without an answer"),
        "command": ("Command {verb}: {status}", ", {reason}"),
    }
)
HIDDEN: Final = frozenset({"id"})


def describe(kind: str, detail: Mapping[str, Any]) -> str:
    """One human sentence; a kind from a newer runtime is told by its own name. Plain text, never markup."""
    values = {key: brief(value) for key, value in detail.items() if key not in HIDDEN}
    text, used = "", set[str]()
    for phrase in SENTENCES.get(kind, (kind,)):
        needs = fields(phrase)
        if needs <= values.keys():
            text += phrase.format_map(values)
            used |= needs
    rest = ", ".join(f"{brief(key)} {value}" for key, value in values.items() if key not in used)
    return f"{text} · {rest}" if rest else text


def fields(phrase: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(phrase) if name}


def brief(value: object) -> str:
    """A value in few characters: four digits of a fraction, short JSON of anything nested."""
    if isinstance(value, float):
        text = f"{value:.4g}"
    elif isinstance(value, str):
        text = value
    else:
        text = msgspec.json.encode(value).decode()
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
