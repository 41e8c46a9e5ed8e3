"""Instructions that a board counted while it learned, and what so many would cost on controllers that we know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from edgerun.boards import BOARDS, Board, price_instructions
from edgerun.commands.neighbours import Schooled
from edgerun.commands.text import columns
from edgerun.spec import LearningPlan

CONTROLLERS: Final = tuple(board for board in BOARDS.values() if board.device_class == "mcu")


def as_json(board: str, plan: LearningPlan, schooled: Sequence[Schooled]) -> dict[str, object]:
    """Instructions of one inference, of one lesson, its replay and its settling included, and of one update, means.

    An update is what lessons that changed something took beyond those that did not, over their updates; lessons that
    settled the prototypes are in neither.
    """
    inference = np.concatenate([part.instructions for each in schooled for part in (each.before, each.after)])
    lessons = np.concatenate([each.instructions for each in schooled])
    updates = np.concatenate([np.array(each.updates) for each in schooled])
    number = np.concatenate([np.arange(1, len(each.updates) + 1) for each in schooled])
    settles = number % plan.replay.refresh_every == 0 if plan.rule and plan.replay.capacity else number < 0
    quiet, busy = ~settles & (updates == 0), ~settles & (updates > 0)
    found = {"inference": float(inference.mean()), "lesson": float(lessons.mean())}
    if quiet.any() and busy.any():
        found["update"] = float((lessons[busy].mean() - lessons[quiet].mean()) / updates[busy].mean())
    return {
        "board": board,
        "instructions": {act: round(count) for act, count in found.items()},
        "estimated": {each.name: _estimated(each, found) for each in CONTROLLERS},
    }


def _estimated(board: Board, found: Mapping[str, float]) -> dict[str, object]:
    costs = {act: price_instructions(board, count) for act, count in found.items()}
    return {act: {"energy_uj": round(uj, 3), "busy_us": round(us, 1)} for act, (uj, us) in costs.items()}


def lines(told: Mapping[str, Any]) -> Iterator[str]:
    """The same for a person."""
    found = told["instructions"]
    rows = [("instructions", *found), (told["board"], *(f"{count:,}" for count in found.values()))]
    for board, costs in told["estimated"].items():
        cells = (f"{costs[act]['busy_us'] / 1e3:,.2f} ms, {costs[act]['energy_uj']:,.0f} uJ" for act in found)
        rows.append((f"on {board}, estimated", *cells))
    yield from columns(rows)
