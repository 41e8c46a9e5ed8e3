"""`edgerun adapt`: teach a bundle some examples of a file, test it on the rest, and see what it forgot.

    NEW: the first `--shots` samples of each class are lessons, in file order (or `--draws` random choices)
         -> new classes join, lessons, prototypes settle, the guard's verdict      exactly what a device would do
    the rest of NEW, and OLD, are answered before and after

A bundle that learns values learns from the file's `targets` instead of labels: `adapt_values`.

Nothing is written: the learned state lives as long as the command. Its digest is the device's for the same lessons.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np

from edgerun.arrays import I32, I64, AnyArray, Bool
from edgerun.boards import BOARDS, Board, price
from edgerun.bundle import Bundle, open_bundle
from edgerun.commands import adapt_values, counts
from edgerun.commands.backend import backend_option
from edgerun.commands.infer import progress
from edgerun.commands.neighbours import Schooled, Told, runnable, runner, runs
from edgerun.commands.text import columns
from edgerun.encode.files import sensed
from edgerun.encode.targets import learns_values
from edgerun.errors import DataError, Refused
from edgerun.graph import grows, learns
from edgerun.kernels.native import Backend
from edgerun.learn import guard, records
from edgerun.learn.contradiction import same_under_two_names
from edgerun.learn.learner import Learner
from edgerun.lifetime import new_learner
from edgerun.price import work
from edgerun.samples import labels, read_arrays
from edgerun.spec import Level

RULES: Final[dict[str, Level]] = {"plan": "full", "prototypes": "head"}
"""What --rule makes of each lesson: all that the bundle's plan has, or its prototypes alone."""

PRICED: Final = "mps2-an386"
"""Whose energy stands for emulated boards of which we know none."""

Names: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A file's samples, as the network takes them.    q (n, size) int16"""

    name: str
    q: AnyArray
    label: Names

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What one choice of shots came to. Shares of right answers; `probe` before and after, where one was given."""

    before: float | None
    after: float | None
    per_class: dict[str, float]
    probe_before: float | None
    probe_after: float | None
    lessons: int
    updates: int
    rolled_back: bool
    digest: str


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help="a bundle file, *.edgb")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="NEW.npz",
        help="samples with labels, or with targets where it learns values: some to learn from, the rest to test",
    )
    parser.add_argument("--shots", type=int, default=5, metavar="K", help="lessons of each class, or in all")
    parser.add_argument(
        "--draws",
        type=int,
        metavar="N",
        help="choose the lessons at random, N times over, instead of the first in file",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random choices")
    parser.add_argument("--probe", type=Path, metavar="OLD.npz", help="samples that it should not forget")
    parser.add_argument(
        "--rule",
        choices=tuple(RULES),
        default="plan",
        help="all that the bundle's plan allows, or prototypes alone",
    )
    parser.add_argument(
        "--consolidate",
        choices=("si", "none"),
        default="si",
        help="synaptic intelligence where the bundle's plan has it, or nothing that holds weights back",
    )
    parser.add_argument(
        "--board",
        default="pico2",
        metavar="NAME",
        help=f"whose energy is reckoned with: {', '.join(BOARDS)}; some run the bundle's C firmware in QEMU: "
        f"{', '.join(runnable()) or 'none here'}",
    )
    backend_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.epilog = (
        "labels index the bundle's classes, or the file's own `class_names`; a name that the bundle does not know\n"
        "is a new class.\nexample:\n  edgerun adapt model.edgb --data speaker.npz --shots 5 --probe known.npz"
    )


def run(args: argparse.Namespace) -> int:
    for option, least in (("shots", 1), ("draws", 1), ("seed", 0)):
        value = getattr(args, option)
        if value is not None and value < least:
            raise Refused(f"--{option} {value} is under {least}")
    emulated = runs(args.board)
    if emulated and args.backend is not None:
        raise Refused(
            f"--backend {args.backend} says how this machine computes, --board {args.board} computes elsewhere"
        )
    if not emulated and args.board not in BOARDS:
        known = ", ".join(dict.fromkeys((*BOARDS, *runnable())))
        raise Refused(f"board {args.board!r} is unknown: expected one of {known}")
    board = BOARDS[PRICED if args.board not in BOARDS else args.board]
    bundle = without_intelligence(open_bundle(args.bundle), kept=args.consolidate == "si")
    if not learns(bundle.manifest):
        raise Refused(f"{args.bundle} can learn nothing: it was exported with --learn none")
    if learns_values(bundle.manifest):
        return adapt_values.run(args, bundle, board)
    new = read(bundle, args.data)
    probe = None if args.probe is None else read(bundle, args.probe)
    check_classes(bundle, new)
    count = args.draws or 1
    tell = progress(sys.stderr.isatty() and not args.json and count > 1)
    drawn, schooled = [], []
    for k in range(count):
        rng = None if args.draws is None else np.random.default_rng((args.seed, k))
        taught = shots(new.label, args.shots, rng)
        check_lessons(new, taught)
        if emulated:
            found, lessons = adapt_on(args.board, bundle, new, taught, probe, RULES[args.rule])
            schooled.append(lessons)
        else:
            found = adapt(bundle, new, taught, probe, RULES[args.rule], args.backend)
        drawn.append(found)
        tell(k + 1, count)
    told = as_json(bundle, new, probe, drawn) | {"shots": args.shots, "energy": energy(bundle, board, drawn)}
    if schooled:
        told["firmware"] = counts.as_json(args.board, bundle.manifest.learning, schooled)
    print(json.dumps(told, indent=2) if args.json else "\n".join(page(told)))
    return 0


# ------------------------------------------------------------------ what goes in


def read(bundle: Bundle, path: Path) -> Labelled:
    """A file's labelled samples; those without a label are left out. Raises DataError where none has one."""
    arrays = read_arrays(path)
    q = sensed(bundle.manifest.front, bundle.manifest.input, path.name, arrays)
    names = labels(path.name, arrays, len(q), bundle.manifest.classes.names)
    known = [k for k, name in enumerate(names) if name is not None]
    if not known:
        raise DataError(f"{path.name}: no sample has a label")
    return Labelled(path.name, q[known], tuple(name for name in names if name is not None))


def check_classes(bundle: Bundle, new: Labelled) -> None:
    """Raises DataError where the file has more new classes than the bundle has room for."""
    classes = bundle.manifest.classes
    unknown = sorted(set(new.label) - set(classes.names))
    room = classes.capacity - len(classes.names) if grows(bundle.manifest) else 0
    if len(unknown) > room:
        raise DataError(
            f"{new.name}: {len(unknown)} classes are new ({', '.join(unknown[:5])}), the bundle has room for {room} "
            f"beside {', '.join(classes.names[:5])}"
        )


def check_lessons(new: Labelled, taught: I64) -> None:
    """Raises DataError where two lessons are the same sample under different names."""
    pair = same_under_two_names(new.q[taught], [new.label[k] for k in taught])
    if pair is not None:
        first, second = (int(taught[k]) for k in pair)
        raise DataError(
            f"{new.name}: labelled samples {first} and {second} are the same, called {new.label[first]!r} and "
            f"{new.label[second]!r}"
        )


def shots(label: Names, count: int, rng: np.random.Generator | None) -> I64:
    """Indices of `count` samples of each class in the order of the file: the first ones, or a random choice."""
    found: list[int] = []
    for name in sorted(set(label)):
        mine = np.array([k for k, other in enumerate(label) if other == name])
        found += (mine[:count] if rng is None else rng.permutation(mine)[:count]).tolist()
    return np.array(sorted(found), np.int64)


def without_intelligence(bundle: Bundle, *, kept: bool) -> Bundle:
    """The bundle, or one whose plan lets weights go where the lessons take them."""
    if kept:
        return bundle
    plan = msgspec.structs.replace(bundle.manifest.learning, intelligence=None)
    return replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, learning=plan))


# ------------------------------------------------------------------ what happens


def adapt(
    bundle: Bundle, new: Labelled, taught: I64, probe: Labelled | None, level: Level, backend: Backend | None = None
) -> Drawn:
    """Lessons of these samples on a fresh learner, and what it answers before and after."""
    learner, tested = new_learner(bundle, backend=backend), np.ones(len(new), np.bool_)
    tested[taught] = False
    before, probe_before = right(learner, new), None if probe is None else right(learner, probe)
    updates, judged = 0, _guard(bundle, learner)
    for k in taught:
        name = new.label[k]
        if name not in learner.classes:
            learner.apply(records.NewClass(label=name))
        told = learner.apply(learner.plan_lesson(new.q[k], learner.classes.index(name), level, int(k)))
        updates += told.updates if told else 0
    learner.apply(records.Settle())
    after = _guard(bundle, learner)
    good = guard.good(bundle.manifest.learning.guard, judged, after)
    learner.apply(records.Verdict(good=good, correct=0, of=0))
    answers = right(learner, new)
    return Drawn(
        before=share(before[tested]),
        after=share(answers[tested]),
        per_class=by_class(new, tested, answers),
        probe_before=None if probe_before is None else share(probe_before),
        probe_after=None if probe is None else share(right(learner, probe)),
        lessons=len(taught),
        updates=updates,
        rolled_back=not good,
        digest=learner.digest().hex(),
    )


def adapt_on(
    board: str, bundle: Bundle, new: Labelled, taught: I64, probe: Labelled | None, level: Level
) -> tuple[Drawn, Schooled]:
    """The same on a board and by its own guard; this machine's learner takes over what it learned, for its digest."""
    learner, tested = new_learner(bundle), np.ones(len(new), np.bool_)
    tested[taught] = False
    classes, lessons = list(learner.classes), []
    for k in taught:
        if joins := new.label[k] not in classes:
            classes.append(new.label[k])
        lessons.append(Told(new.q[k], classes.index(new.label[k]), level, joins, sample=int(k)))
    asked = new.q if probe is None else np.concatenate([new.q, probe.q])
    schooled = runner(board).teach(bundle, board, asked, lessons)
    learner.load(schooled.arrays, {**schooled.meta, "classes": classes[: schooled.meta["known"]]})
    truth = new.label + (probe.label if probe else ())
    before, after = (named(ran.scores, classes, truth) for ran in (schooled.before, schooled.after))
    count = len(new)
    return Drawn(
        before=share(before[:count][tested]),
        after=share(after[:count][tested]),
        per_class=by_class(new, tested, after[:count]),
        probe_before=share(before[count:]),
        probe_after=share(after[count:]),
        lessons=len(taught),
        updates=sum(schooled.updates),
        rolled_back=not schooled.good,
        digest=learner.digest().hex(),
    ), schooled


def right(learner: Learner, data: Labelled) -> Bool:
    """Which samples the device would name as their label says; a class that it does not know is never right."""
    return named(learner.scores(data.q)[:, : len(learner.classes)], learner.classes, data.label)


def named(scores: I32, classes: Sequence[str], truth: Names) -> Bool:
    """Which scores (n, known) name the class that the label says."""
    said = scores.argmax(axis=1)
    return np.array([classes[k] == name for k, name in zip(said, truth, strict=True)], np.bool_)


def by_class(data: Labelled, tested: Bool, answers: Bool) -> dict[str, float]:
    """The share of right answers among the tested samples of each class that has some."""
    return {
        name: round(share(answers[mine]) or 0.0, 4)
        for name in dict.fromkeys(data.label)
        if (mine := tested & (np.array(data.label) == name)).any()
    }


def share(answers: Bool) -> float | None:
    return round(float(answers.mean()), 4) if len(answers) else None


def _guard(bundle: Bundle, learner: Learner) -> float:
    probe = bundle.probe
    correct, of = learner.guard_score(probe.x.reshape(len(probe.x), -1).astype(np.int16), probe.label)
    return correct / of if of else 1.0


# ------------------------------------------------------------------ what comes out


def energy(bundle: Bundle, board: Board, drawn: Sequence[Drawn]) -> dict[str, object]:
    """Of one update, or of one lesson where prototypes alone learned, and of one answer."""
    counted = work(bundle)
    act = counted.update if any(draw.updates for draw in drawn) else counted.lesson["head"]
    return {
        "per_update_uj": round(price(board, act)[0], 3),
        "per_inference_uj": round(price(board, counted.inference)[0], 3),
        "board": board.name,
        "source": "estimated",
    }


def as_json(bundle: Bundle, new: Labelled, probe: Labelled | None, drawn: Sequence[Drawn]) -> dict[str, object]:
    """Means over the draws; where there are several, each of them too."""
    first = drawn[0]
    tested = len(new) - first.lessons
    told: dict[str, object] = {
        "bundle": bundle.id,
        "new": {
            "samples": tested,
            "before": _mean([draw.before for draw in drawn]),
            "after": _mean([draw.after for draw in drawn]),
            "per_class": {
                name: _mean([draw.per_class.get(name) for draw in drawn]) for name in dict.fromkeys(new.label)
            },
        },
        "probe": None
        if probe is None
        else {
            "samples": len(probe),
            "before": _mean([draw.probe_before for draw in drawn]),
            "after": _mean([draw.probe_after for draw in drawn]),
        },
        "lessons": first.lessons,
        "updates": first.updates,
        "rolled_back": sum(draw.rolled_back for draw in drawn),
        "digest": first.digest,
    }
    return told | ({"draws": [asdict(draw) for draw in drawn]} if len(drawn) > 1 else {})


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return round(sum(there) / len(there), 4) if there else None


def page(told: dict[str, Any]) -> Iterator[str]:
    """The lines for a person."""
    draws = told.get("draws", [])
    spread = f", mean of {len(draws)} draws" if draws else ""
    yield f"{told['lessons']} lessons, {told['shots']} of each class{spread}"
    rows = [("", "before", "after", "samples")]
    for title, key in (("new", "new"), ("probe", "probe")):
        if (part := told[key]) is not None:
            rows.append((title, _percent(part["before"]), _percent(part["after"]), str(part["samples"])))
    yield from columns(rows)
    per_class = told["new"]["per_class"]
    yield "after, by class: " + ", ".join(f"{name} {_percent(value)}" for name, value in per_class.items())
    if told["rolled_back"]:
        whose = f" of {told['rolled_back']} draws" if draws else ""
        yield f"the guard undid the lessons{whose}: the bundle's own probe had dropped too far"
    cost = told["energy"]
    if "firmware" in told:
        yield from counts.lines(told["firmware"])
        yield f"digest {told['digest'][:16]}"
    else:
        price = f"{cost['per_update_uj']:g} uJ a lesson on {cost['board']} ({cost['source']})"
        yield f"{price}; digest {told['digest'][:16]}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
