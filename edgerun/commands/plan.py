"""`edgerun plan`: what a bundle costs on a board, in bytes, operations, energy and time, before anything runs."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import msgspec

from edgerun.boards import BOARDS, KINDS, Board, Ops, get_board, price, uncertainty
from edgerun.bundle import Bundle, open_bundle
from edgerun.commands.neighbours import runs
from edgerun.commands.text import columns
from edgerun.errors import BudgetError, Refused, SpecError
from edgerun.governor import Demand, check_budget, floor_mw
from edgerun.graph import learns
from edgerun.price import LESSONS, Work, flash_parts, memory_plan, prices, work
from edgerun.spec import LearningPlan, Level, Manifest, Prices, Rewiring

PROCESS_BYTES: Final = MappingProxyType({"linux": 48 << 20, "mcu": 8 << 10})
"""Beside the plan's arrays: Python with its libraries (41 MiB measured with the agent), or a controller's stack."""

BATTERY_MWH: Final = 2000 * 3.7  # 2000 mAh of a lithium cell


@dataclass(frozen=True, slots=True)
class Act:
    """One thing a device does, priced."""

    name: str
    ops: Ops
    energy_uj: float
    busy_us: float
    uncertainty: float  # of the energy, one standard deviation, relative


@dataclass(frozen=True, slots=True)
class Priced:
    """A bundle on a board. `problems` is empty where it fits; `remedies` say what would make it fit."""

    bundle: Bundle
    board: Board
    period_s: float
    ram: dict[str, int]
    flash: dict[str, int]
    acts: tuple[Act, ...]
    floor_mw: float
    infer_mw: float
    learn_mw: float
    problems: tuple[str, ...]
    remedies: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """One sentence."""
        if not self.problems:
            return f"fits {self.board.name}"
        cure = f"; it would {_either(self.remedies)}" if self.remedies else "; no board would do"
        return f"does not fit {self.board.name}: {' and '.join(self.problems)}{cure}"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help="a bundle file, *.edgb")
    parser.add_argument("--board", metavar="NAME", help=f"one of {', '.join(BOARDS)}; a line for each where not given")
    parser.add_argument("--period", type=float, default=0.5, metavar="S", help="seconds from sample to sample (0.5)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a page")
    parser.epilog = "example:\n  edgerun plan digits.edgb --board pico2 --period 0.5\nexit code 1: it does not fit"


def run(args: argparse.Namespace) -> int:
    if not (math.isfinite(args.period) and args.period > 0):
        raise Refused(f"--period {args.period} is not a positive number of seconds")
    names = [args.board] if args.board else list(BOARDS)
    boards = [board_of(name) for name in names]
    bundle = open_bundle(args.bundle)
    counted = work(bundle)
    plans = [plan(bundle, counted, board, args.period) for board in boards]
    if args.json:
        found = [as_json(priced) for priced in plans]
        print(json.dumps(found[0] if args.board else found, indent=2))
    else:
        print("\n".join(page(plans[0]) if args.board else overview(plans)))
    return 0 if any(not priced.problems for priced in plans) else 1


def board_of(name: str) -> Board:
    """Raises Refused for a board whose energy is not known, with the commands that take it where there are some."""
    if name not in BOARDS and runs(name):
        raise Refused(
            f"board {name!r} has no price, its energy is not known: export-firmware --board {name} tells its memory, "
            f"infer and adapt --board {name} count its instructions"
        )
    return get_board(name)


# ------------------------------------------------------------------ the plan


def plan(bundle: Bundle, counted: Work, board: Board, period_s: float) -> Priced:
    """Everything there is to say about a bundle on a board, at one sample a period."""
    costs, guard = prices(board, counted), bundle.manifest.learning.guard
    acts = tuple(_act(board, name, ops) for name, ops in _acts(bundle.manifest, counted))
    infer_mw = costs.sleep_mw + costs.inference_uj / 1e3 / period_s
    group_uj = price(board, Ops.total([counted.guard, counted.checkpoint, counted.consolidate]))[0]
    ram, flash = ram_parts(bundle, board), flash_parts(bundle)
    problems = tuple(_problems(bundle, board, costs, period_s))
    return Priced(
        bundle=bundle,
        board=board,
        period_s=period_s,
        ram=ram,
        flash=flash,
        acts=acts,
        floor_mw=floor_mw(costs, period_s),
        infer_mw=infer_mw,
        learn_mw=infer_mw + (costs.lesson_uj["full"] + group_uj / guard.every) / 1e3 / period_s,
        problems=problems,
        remedies=tuple(_remedies(bundle, counted, board, period_s)) if problems else (),
    )


def ram_parts(bundle: Bundle, board: Board) -> dict[str, int]:
    """Bytes of memory by part; `process` is what the arrays stand beside."""
    parts: dict[str, int] = dict(memory_plan(bundle).bytes_by_part().items())
    return parts | {"process": PROCESS_BYTES[board.device_class]}


def _acts(manifest: Manifest, counted: Work) -> Iterator[tuple[str, Ops]]:
    yield "inference", counted.inference
    if learns(manifest):
        levels: tuple[Level, ...] = LESSONS if manifest.learning.rule else ("head",)
        yield from ((f"lesson {level}", counted.lesson[level]) for level in levels)
        yield "guard", counted.guard
        yield "checkpoint", counted.checkpoint
    if manifest.learning.rule and (manifest.learning.intelligence or isinstance(manifest.learning.rewiring, Rewiring)):
        yield "consolidate", counted.consolidate
    yield "message", counted.message


def _act(board: Board, name: str, ops: Ops) -> Act:
    energy_uj, busy_us = price(board, ops)
    return Act(name, ops, energy_uj, busy_us, uncertainty(board, ops))


# ------------------------------------------------------------------ does it fit


def _problems(bundle: Bundle, board: Board, costs: Prices, period_s: float) -> Iterator[str]:
    made_for = bundle.manifest.device_class
    if made_for not in ("any", board.device_class):
        yield f"it is made for device class {made_for}, the board is {board.device_class}"
    for what, needed, present in (
        ("RAM", sum(ram_parts(bundle, board).values()), board.ram_bytes),
        ("flash", sum(flash_parts(bundle).values()), board.flash_bytes),
    ):
        if needed > present:
            yield f"it needs {needed:,} bytes of {what}, the board has {present:,}"
    if costs.inference_us > period_s * 1e6:
        yield f"an inference takes {costs.inference_us / 1e3:,.1f} ms, a period has {period_s * 1e3:,.1f} ms"
    elif bundle.manifest.budget is not None:
        try:
            check_budget(bundle.manifest.budget, Demand(prices=costs, period_s=period_s))
        except BudgetError as err:
            yield f"its {err}"


def _remedies(bundle: Bundle, counted: Work, board: Board, period_s: float) -> Iterator[str]:
    """Changes of the learning plan, each on its own, that would make it fit, and the smallest board that it fits."""

    def fits(change: Callable[[LearningPlan], LearningPlan], on: Board = board) -> bool:
        manifest = msgspec.structs.replace(bundle.manifest, learning=change(bundle.manifest.learning))
        return not tuple(_problems(replace(bundle, manifest=manifest), on, prices(on, counted), period_s))

    replay = bundle.manifest.learning.replay.capacity
    low, high = -1, replay  # the largest capacity known to fit, and the smallest known not to
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(with_replay(middle)) else (low, middle)
    if low >= 0:
        yield f"with {low} replay samples instead of {replay}"
    for words, change in SMALLER:
        if change(bundle.manifest.learning) != bundle.manifest.learning and fits(change):
            yield words
    larger = (b for b in sorted(BOARDS.values(), key=lambda b: (b.ram_bytes, b.sleep_mw)) if fits(_same, b))
    if (name := next((b.name for b in larger), None)) is not None:
        yield f"on {name}"


def with_replay(capacity: int) -> Callable[[LearningPlan], LearningPlan]:
    """The same plan with a reservoir of another size."""
    return lambda plan: msgspec.structs.replace(plan, replay=msgspec.structs.replace(plan.replay, capacity=capacity))


def _same(plan: LearningPlan) -> LearningPlan:
    return plan


def _narrow(plan: LearningPlan) -> LearningPlan:
    """The same plan in profile small, where its rule can be stored so."""
    try:
        return msgspec.structs.replace(plan, profile="small")
    except SpecError:
        return plan


SMALLER: Final[tuple[tuple[str, Callable[[LearningPlan], LearningPlan]], ...]] = (
    ("exported with --profile small", _narrow),
    ("without synaptic intelligence", lambda plan: msgspec.structs.replace(plan, intelligence=None)),
    ("without its rule", lambda plan: msgspec.structs.replace(plan, rule=None, intelligence=None, profile="standard")),
)
"""Learning plans that need less memory."""


def _either(choices: tuple[str, ...]) -> str:
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last


# ------------------------------------------------------------------ output


def as_json(priced: Priced) -> dict[str, Any]:
    board = priced.board
    return {
        "bundle": priced.bundle.id,
        "name": priced.bundle.manifest.name,
        "board": board.name,
        "fits": not priced.problems,
        "verdict": priced.verdict,
        "problems": list(priced.problems),
        "remedies": list(priced.remedies),
        "profile": priced.bundle.manifest.learning.profile,
        "ram": {"parts": priced.ram, "needed": sum(priced.ram.values()), "present": board.ram_bytes},
        "flash": {"parts": priced.flash, "needed": sum(priced.flash.values()), "present": board.flash_bytes},
        "acts": {
            act.name: {
                "ops": msgspec.to_builtins(act.ops),
                "energy_uj": act.energy_uj,
                "busy_us": act.busy_us,
                "uncertainty": act.uncertainty,
            }
            for act in priced.acts
        },
        "period_s": priced.period_s,
        "power_mw": {
            "asleep": board.sleep_mw,
            "inference": priced.infer_mw,
            "learning": priced.learn_mw,
            "floor": priced.floor_mw,
        },
        "battery_days": {"inference": days(priced.infer_mw), "learning": days(priced.learn_mw)},
        "source": "estimated",
    }


def days(mean_mw: float) -> float:
    """How long a 2000 mAh cell lasts."""
    return BATTERY_MWH / mean_mw / 24


def page(priced: Priced) -> Iterator[str]:
    """The lines for a person, the verdict last."""
    manifest, board = priced.bundle.manifest, priced.board
    clock = f"{board.clock_hz / 1e6:,.0f} MHz"
    yield f"{manifest.name} on {board.name}, {board.cpu} at {clock}; every figure is an estimate"
    if board.device_class == "mcu":
        yield "of the whole agent, its journal and checkpoints; `edgerun export-firmware` says what its firmware takes"
    yield "\nMEMORY" if manifest.learning.profile == "standard" else f"\nMEMORY, profile {manifest.learning.profile}"
    yield from columns([("part", "bytes"), *_shares(priced.ram, board.ram_bytes)])
    yield "\nFLASH"
    yield from columns([("part", "bytes"), *_shares(priced.flash, board.flash_bytes)])
    yield "\nACTS"
    yield from columns(
        [("act", "energy", "give or take", "time", "operations"), *(_row(board, act) for act in priced.acts)]
    )
    yield f"\nPOWER at one sample every {priced.period_s:g} s"
    yield from columns(_power(priced))
    yield f"\n{priced.verdict}"


def _shares(parts: dict[str, int], present: int) -> Iterator[tuple[str, str]]:
    yield from ((part, f"{size:,}") for part, size in parts.items())
    yield "needed", f"{sum(parts.values()):,}"
    yield "present", f"{present:,}"


def _row(board: Board, act: Act) -> tuple[str, str, str, str, str]:
    """Operations that cost this board nothing, such as calls into numpy on a controller, are left out."""
    counts = ((kind, getattr(act.ops, kind)) for kind in KINDS if board.coefficient(kind).busy_ns)
    told = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in counts if count)
    return act.name, _si(act.energy_uj, "J"), f"{act.uncertainty:.0%}", _si(act.busy_us, "s"), told


def _power(priced: Priced) -> Iterator[tuple[str, str, str]]:
    yield "asleep", f"{priced.board.sleep_mw:,.2f} mW", ""
    yield "inference only", f"{priced.infer_mw:,.2f} mW", f"{days(priced.infer_mw):,.1f} days on a 2000 mAh cell"
    if learns(priced.bundle.manifest):
        told = f"{days(priced.learn_mw):,.1f} days on a 2000 mAh cell"
        yield "a full lesson for every sample", f"{priced.learn_mw:,.2f} mW", told
    yield "least budget", f"{priced.floor_mw:,.2f} mW", "a power budget must be above it"


def _si(micro: float, unit: str) -> str:
    """A figure in millionths with three digits: "429 uJ", "5.27 mJ"."""
    for factor, prefix in ((1e6, ""), (1e3, "m")):
        if micro >= factor:
            return f"{micro / factor:.3g} {prefix}{unit}"
    return f"{micro:.3g} u{unit}"


def overview(plans: list[Priced]) -> Iterator[str]:
    """A line for each board."""
    manifest = plans[0].bundle.manifest
    yield f"{manifest.name}, one sample every {plans[0].period_s:g} s; every figure is an estimate"
    yield from columns(
        [
            ("board", "RAM", "of", "inference", "in", "lesson", "mean power", "verdict"),
            *(_line(priced) for priced in plans),
        ]
    )


def _line(priced: Priced) -> tuple[str, ...]:
    acts = {act.name: act for act in priced.acts}
    inference, lesson = acts["inference"], acts.get("lesson full", acts.get("lesson head"))
    return (
        priced.board.name,
        f"{sum(priced.ram.values()):,}",
        f"{priced.board.ram_bytes:,}",
        _si(inference.energy_uj, "J"),
        _si(inference.busy_us, "s"),
        _si(lesson.energy_uj, "J") if lesson else "none",
        f"{priced.infer_mw:,.1f} to {priced.learn_mw:,.1f} mW" if lesson else f"{priced.infer_mw:,.1f} mW",
        "does not fit: " + " and ".join(priced.problems) if priced.problems else "fits",
    )
