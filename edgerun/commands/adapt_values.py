"""`edgerun adapt` for a bundle that learns values: some samples of a file teach it, the rest tell what came of it.

A sample has one answer, that of its window's end, and is judged by the last step of its target.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgerun.arrays import F64, I16, I32, I64
from edgerun.boards import Board, price
from edgerun.bundle import Bundle
from edgerun.commands import counts
from edgerun.commands.infer import progress
from edgerun.commands.neighbours import Schooled, Told, runner, runs
from edgerun.commands.text import columns
from edgerun.encode.files import sensed
from edgerun.encode.targets import real_answers, real_targets, wire_targets
from edgerun.errors import Refused
from edgerun.kernels.native import Backend
from edgerun.learn import records
from edgerun.learn.learner import Learner
from edgerun.lifetime import new_learner
from edgerun.metrics import r_squared, relative_error
from edgerun.price import work
from edgerun.samples import read_arrays


@dataclass(frozen=True, slots=True)
class Valued:
    """A file's samples with their targets, as the network and the rule take them.    q (n, size), target (n, m)"""

    name: str
    q: I16
    target: I16

    def __len__(self) -> int:
        return len(self.q)


@dataclass(frozen=True, slots=True)
class Fit:
    """How near answers are to their targets: R^2, and the root mean square error over the targets' deviation."""

    r2: float | None
    nrmse: float | None


@dataclass(frozen=True, slots=True)
class Drawn:
    """What one choice of lessons came to; `probe` before and after, where one was given."""

    before: Fit
    after: Fit
    probe_before: Fit | None
    probe_after: Fit | None
    updates: int
    digest: str


def run(args: argparse.Namespace, bundle: Bundle, board: Board) -> int:
    """Raises Refused for what goes with labels alone, DataError for a file without sound targets."""
    if args.rule != "plan":
        raise Refused(f"--rule {args.rule}: the bundle learns values, it has no prototypes")
    new = read(bundle, args.data)
    probe = None if args.probe is None else read(bundle, args.probe)
    lessons, count = min(args.shots, len(new)), args.draws or 1
    tell = progress(sys.stderr.isatty() and not args.json and count > 1)
    drawn, schooled = [], []
    for k in range(count):
        taught = np.arange(lessons)
        if args.draws is not None:
            taught = np.sort(np.random.default_rng((args.seed, k)).permutation(len(new))[:lessons])
        if runs(args.board):
            found, told_there = adapt_on(args.board, bundle, new, taught, probe)
            schooled.append(told_there)
        else:
            found = adapt(bundle, new, taught, probe, backend=args.backend)
        drawn.append(found)
        tell(k + 1, count)
    told = as_json(bundle, new, probe, drawn, lessons, board)
    if schooled:
        told["firmware"] = counts.as_json(args.board, bundle.manifest.learning, schooled)
    print(json.dumps(told, indent=2) if args.json else "\n".join(page(told)))
    return 0


def read(bundle: Bundle, path: Path) -> Valued:
    """A file's samples and targets. Raises DataError naming the first that is none."""
    arrays = read_arrays(path)
    q = sensed(bundle.manifest.front, bundle.manifest.input, path.name, arrays)
    return Valued(path.name, q, wire_targets(bundle.manifest, path.name, arrays, len(q)))


# ------------------------------------------------------------------ what happens


def adapt(
    bundle: Bundle,
    new: Valued,
    taught: I64,
    probe: Valued | None,
    seen: Callable[[Learner], None] | None = None,
    backend: Backend | None = None,
) -> Drawn:
    """Lessons of these samples on a fresh learner, and what it answers before and after.

    seen  is told the learner when all lessons are in
    """
    learner, tested = new_learner(bundle, backend=backend), np.setdiff1d(np.arange(len(new)), taught)
    before, probe_before = fit(learner, new, tested), None if probe is None else fit(learner, probe)
    for k in taught:
        learner.apply(learner.plan_lesson(new.q[k], 0, "full", int(k), new.target[k]))
    learner.apply(records.Verdict(good=True, correct=0, of=0))
    if seen is not None:
        seen(learner)
    return Drawn(
        before=before,
        after=fit(learner, new, tested),
        probe_before=probe_before,
        probe_after=None if probe is None else fit(learner, probe),
        updates=learner.updates,
        digest=learner.digest().hex(),
    )


def adapt_on(board: str, bundle: Bundle, new: Valued, taught: I64, probe: Valued | None) -> tuple[Drawn, Schooled]:
    """The same on a board, whose learned state this machine's learner takes over for its digest."""
    learner, tested = new_learner(bundle), np.setdiff1d(np.arange(len(new)), taught)
    asked = new.q if probe is None else np.concatenate([new.q, probe.q])
    lessons = [Told(new.q[k], 0, "full", target=new.target[k]) for k in taught]
    schooled = runner(board).teach(bundle, board, asked, lessons)
    learner.load(schooled.arrays, {**schooled.meta, "classes": list(learner.classes)})
    count = len(new)
    fits = [near(bundle, ran.scores[:count][tested], new.target[tested]) for ran in (schooled.before, schooled.after)]
    probed: list[Fit | None] = [None, None]
    if probe is not None:
        probed = [near(bundle, ran.scores[count:], probe.target) for ran in (schooled.before, schooled.after)]
    return Drawn(
        before=fits[0],
        after=fits[1],
        probe_before=probed[0],
        probe_after=probed[1],
        updates=learner.updates,
        digest=learner.digest().hex(),
    ), schooled


def near(bundle: Bundle, scores: I32, target: I16) -> Fit:
    """How near the answers that scores (n, k) are come to targets (n, m)."""
    wanted = real_targets(bundle.manifest, target)[:, -1]
    found = real_answers(bundle.manifest, scores) if len(scores) else wanted
    return Fit(_rounded(r_squared(found, wanted)), _rounded(relative_error(found, wanted)))


def fit(learner: Learner, data: Valued, rows: I64 | None = None) -> Fit:
    """How near the answers to these samples are."""
    found, wanted = answers(learner, data, np.arange(len(data)) if rows is None else rows)
    return Fit(_rounded(r_squared(found, wanted)), _rounded(relative_error(found, wanted)))


def answers(learner: Learner, data: Valued, rows: I64) -> tuple[F64, F64]:
    """What the device says at each window's end, and what it should, in real units.    (n, k) both"""
    wanted = real_targets(learner.manifest, data.target[rows])[:, -1]
    if not len(rows):
        return wanted, wanted
    return real_answers(learner.manifest, learner.scores(data.q[rows])), wanted


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


# ------------------------------------------------------------------ what comes out


def as_json(
    bundle: Bundle, new: Valued, probe: Valued | None, drawn: Sequence[Drawn], lessons: int, board: Board
) -> dict[str, Any]:
    """Means over the draws; where there are several, each of them too."""
    counted = work(bundle)
    told: dict[str, Any] = {
        "bundle": bundle.id,
        "new": {"samples": len(new) - lessons} | _both([draw.before for draw in drawn], [draw.after for draw in drawn]),
        "probe": None,
        "lessons": lessons,
        "updates": drawn[0].updates,
        "digest": drawn[0].digest,
        "energy": {
            "per_update_uj": round(price(board, counted.update)[0], 3),
            "per_inference_uj": round(price(board, counted.inference)[0], 3),
            "board": board.name,
            "source": "estimated",
        },
    }
    if probe is not None:
        ends = ([draw.probe_before for draw in drawn], [draw.probe_after for draw in drawn])
        told["probe"] = {"samples": len(probe)} | _both(*ends)
    return told | ({"draws": [asdict(draw) for draw in drawn]} if len(drawn) > 1 else {})


def _both(before: Sequence[Fit | None], after: Sequence[Fit | None]) -> dict[str, Any]:
    return {"before": _mean(before), "after": _mean(after)}


def _mean(fits: Sequence[Fit | None]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in ("r2", "nrmse"):
        values = [value for each in fits if each is not None and (value := getattr(each, name)) is not None]
        found[name] = round(sum(values) / len(values), 4) if values else None
    return found


def page(told: dict[str, Any]) -> Iterator[str]:
    """The lines for a person."""
    draws = told.get("draws", [])
    yield f"{told['lessons']} lessons{f', mean of {len(draws)} draws' if draws else ''}"
    rows: list[tuple[str, ...]] = [("", "R2 before", "R2 after", "nRMSE before", "nRMSE after", "samples")]
    for title in ("new", "probe"):
        if (part := told[title]) is not None:
            ends = (part[end][name] for name in ("r2", "nrmse") for end in ("before", "after"))
            shown = tuple("-" if value is None else f"{value:.3f}" for value in ends)
            rows.append((title, *shown, str(part["samples"])))
    yield from columns(rows)
    if "firmware" in told:
        yield from counts.lines(told["firmware"])
    cost = told["energy"]
    yield f"{cost['per_update_uj']:g} uJ a lesson on {cost['board']} ({cost['source']}); digest {told['digest'][:16]}"
