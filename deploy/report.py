"""The demo's report: `report.json` for scripts, and `report.html`, one file that needs no network and no server.

    report.py      checks the two dicts, judges, and writes every word and number as HTML
    report.js      draws every figure from the same numbers, which lie in the page as JSON
    template.html  the order of things; its policy lets the page load nothing and run only these two scripts

All shares are 0 to 1 here and percent on the page. Text from outside is escaped, in HTML and in JSON.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct, field

from edgerun.errors import DataError
from edgerun.spec import LEVELS

DRIFT_GAIN: Final = 0.15  # what adaptation has to win on the drifted sensor, share
OLD_GAIN: Final = 0.20  # what protection has to save of the old knowledge, share
NEW_FLOOR: Final = 0.70  # accuracy on the classes that were taught
OLD_FLOOR: Final = 0.83  # accuracy that the old classes keep meanwhile
PIXEL_MAX: Final = 16  # of the 8x8 digits

ARMS: Final = MappingProxyType(
    {"none": "no adaptation", "plain": "e-prop without protection", "full": "the full system"}
)
PARTS: Final = MappingProxyType(
    {"si": "importance of weights", "replay": "replayed samples", "head": "prototypes", "io": "input and output"}
)

T = TypeVar("T")

# ------------------------------------------------------------------ what comes in


class Accuracy(Struct, frozen=True):
    """Shares of samples that no arm has learned from. `old_*`: undrifted factory classes after the adaptation."""

    factory_int: float
    drifted_no_adaptation: float
    drifted_without_consolidation: float
    drifted_full: float
    old_without_consolidation: float
    old_full: float
    new_classes: float
    old_classes_after_teaching: float
    sensor_when_taught: str
    float_: float = field(name="float")
    by_head: dict[str, dict[str, dict[str, float]]] = {}


class BundleFacts(Struct, frozen=True):
    sha256: str
    bytes: int


class Telemetry(Struct, frozen=True):
    published: int
    received: int
    lost: int
    duplicates_dropped: int
    outage_s: float


class PowerCut(Struct, frozen=True):
    at_write: int
    committed_lessons: int
    recovered_lessons: int
    digest_equals_uncut_run: bool


class Phase(Struct, frozen=True):
    """One stretch of unchanged budget; `worst_window_mw` is the highest mean power over any window inside it."""

    budget_mw: float
    worst_window_mw: float
    levels_visited: list[str]

    @property
    def share(self) -> float:
        return self.worst_window_mw / self.budget_mw


class Governor(Struct, frozen=True):
    phases: list[Phase]


class Energy(Struct, frozen=True):
    per_inference_uj: float
    per_update_uj: float
    source: str


class ReplayFacts(Struct, frozen=True):
    digest_equal: bool


class Memory(Struct, frozen=True):
    resident_mb: float
    arena_bytes: int


class Report(Struct, frozen=True):
    scenario: str
    seed: int
    wall_s: float
    bundle: BundleFacts
    board: str
    accuracy: Accuracy
    telemetry: Telemetry
    power_cut: PowerCut
    governor: Governor
    energy: Energy
    replay: ReplayFacts
    memory: Memory

    def __post_init__(self) -> None:
        if not self.governor.phases:
            raise DataError("governor phases are empty; one budget phase is the least")
        for phase in self.governor.phases:
            if phase.budget_mw <= 0:
                raise DataError(f"governor budget_mw {phase.budget_mw} is not positive")


class EventMark(Struct, frozen=True):
    t: float
    kind: str
    text: str


class Chapter(Struct, frozen=True):
    """One act of the story, in device seconds."""

    from_: float = field(name="from")
    to: float
    title: str
    text: str


class Blocks(Struct, frozen=True):
    """Accuracy of each arm after each block; a list one longer than `names` begins before the first block."""

    names: list[str]
    arms: dict[str, dict[str, list[float]]]

    def __post_init__(self) -> None:
        for arm, lines in self.arms.items():
            for line in ("drifted", "old"):
                if len(lines.get(line, ())) not in (len(self.names), len(self.names) + 1):
                    raise DataError(f"blocks arm {arm!r} has no {line!r} of {len(self.names)} values")


class Confusion(Struct, frozen=True):
    """Counts or shares on the undrifted sensor; row = what was shown, column = what was answered."""

    labels: list[str]
    before: list[list[float]]
    after: list[list[float]]

    def __post_init__(self) -> None:
        n = len(self.labels)
        for name in ("before", "after"):
            rows = getattr(self, name)
            if len(rows) != n or any(len(row) != n for row in rows):
                raise DataError(f"confusion {name} is not {n} by {n}, as its labels are")


class Images(Struct, frozen=True):
    """The same digits from the factory's sensor and from the drifted one: images of rows of 0 (paper) to 16 (ink)."""

    clean: list[list[list[int]]]
    drifted: list[list[list[int]]]


class PlanFacts(Struct, frozen=True):
    """What was known before anything ran."""

    parts: dict[str, int]  # bytes of RAM
    flash_bytes: int  # of the bundle
    ram_bytes: int  # that the board has
    inference_uj: float
    lesson_uj: dict[str, float]  # by level


class Traces(Struct, frozen=True):
    """What the figures are drawn from: `metrics` has a column as long as `t` for each name."""

    t: list[float]
    metrics: dict[str, list[float | None]]
    events: list[EventMark]
    chapters: list[Chapter]
    blocks: Blocks
    confusion: Confusion
    images: Images
    plan: PlanFacts
    seeds: list[dict[str, Any]] = []  # the report's `accuracy` of other runs

    def __post_init__(self) -> None:
        for name, column in self.metrics.items():
            if len(column) != len(self.t):
                raise DataError(f"metric {name} has {len(column)} values for {len(self.t)} times")


def read(raw: Mapping[str, Any], kind: type[T], name: str) -> T:
    """Raises DataError with the path of the first field that is missing or wrong."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as err:
        raise DataError(f"{name}: {err}") from None


# ------------------------------------------------------------------ verdicts


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise and whether this run kept it."""

    title: str
    figure: str
    unit: str
    held: bool
    claim: str
    asked: str
    span: tuple[float, float] | None = None  # from the comparison to this run, shares


def verdicts(report: Report) -> tuple[Verdict, ...]:
    return (
        drift_recovered(report.accuracy),
        old_knowledge_kept(report.accuracy),
        new_classes_learned(report.accuracy),
        nothing_lost(report.telemetry),
        cut_survived(report.power_cut),
        budget_kept(report.governor),
    )


def drift_recovered(accuracy: Accuracy) -> Verdict:
    before, after = accuracy.drifted_no_adaptation, accuracy.drifted_full
    return Verdict(
        "Drift recovered",
        percent(after),
        "%",
        gained(before, after, DRIFT_GAIN),
        f"right on the drifted sensor, {points(after - before)} against {percent(before)} % with no adaptation",
        f"at least {points(DRIFT_GAIN)}",
        (before, after),
    )


def old_knowledge_kept(accuracy: Accuracy) -> Verdict:
    before, after = accuracy.old_without_consolidation, accuracy.old_full
    return Verdict(
        "Old knowledge kept",
        percent(after),
        "%",
        gained(before, after, OLD_GAIN),
        f"still right on the undrifted sensor; learning without protection leaves {percent(before)} %, "
        f"the factory had {percent(accuracy.factory_int)} %",
        f"at least {points(OLD_GAIN)} over learning without protection",
        (before, after),
    )


def new_classes_learned(accuracy: Accuracy) -> Verdict:
    kept = accuracy.old_classes_after_teaching
    return Verdict(
        "New classes learned",
        percent(accuracy.new_classes),
        "%",
        accuracy.new_classes >= NEW_FLOOR and kept >= OLD_FLOOR,
        f"right on the classes that the factory never saw, while the old ones stay at {percent(kept)} % "
        f"(sensor when taught and tested: {accuracy.sensor_when_taught})",
        f"at least {percent(NEW_FLOOR)} % new with {percent(OLD_FLOOR)} % old",
        (0.0, accuracy.new_classes),
    )


def nothing_lost(telemetry: Telemetry) -> Verdict:
    return Verdict(
        "Messages lost",
        f"{telemetry.lost:,}",
        "",
        telemetry.lost == 0,
        f"of {telemetry.published:,} published, with the broker gone for {telemetry.outage_s:.3g} s; "
        f"{plural(telemetry.duplicates_dropped, 'duplicate')} dropped",
        "none",
    )


def cut_survived(cut: PowerCut) -> Verdict:
    held = cut.digest_equals_uncut_run and cut.recovered_lessons == cut.committed_lessons
    return Verdict(
        "Power cut survived",
        "bit for bit" if held else "not whole",
        "",
        held,
        f"cut at write {cut.at_write:,}: {cut.recovered_lessons:,} of {cut.committed_lessons:,} committed lessons came "
        f"back, and the learned state is {'the same as' if cut.digest_equals_uncut_run else 'not that of'} a run "
        "without the cut",
        "every committed lesson, the same digest",
    )


def budget_kept(governor: Governor) -> Verdict:
    worst = max(governor.phases, key=lambda phase: phase.share)
    held = all(phase.worst_window_mw <= phase.budget_mw for phase in governor.phases)
    return Verdict(
        "Budget never exceeded" if held else "Budget exceeded",
        percent(worst.share),
        "% of budget",
        held,
        f"in the worst window of all {plural(len(governor.phases), 'phase')}: {worst.worst_window_mw:.4g} mW of "
        f"{worst.budget_mw:.4g} mW",
        "never above 100 %",
        (0.0, worst.share),
    )


def gained(before: float, after: float, floor: float) -> bool:
    """Compared in hundredths of a point, so that a sum of shares does not fail by its last bit."""
    return round(1e4 * (after - before)) >= round(1e4 * floor)


# ------------------------------------------------------------------ words


def percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0")


def points(share: float) -> str:
    return f"{100 * share:+.1f} points".replace(".0 ", " ").replace("-", "−")


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size(count: float) -> str:
    for limit, unit in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= limit:
            return f"{count / limit:.4g} {unit}"
    return f"{count:g} bytes"


def joules(uj: float) -> str:
    """Microjoule in the unit that reads best, three digits."""
    for limit, unit in ((1e6, "J"), (1e3, "mJ")):
        if abs(uj) >= limit:
            return f"{uj / limit:.3g} {unit}"
    return f"{uj:.3g} µJ"


def listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def yes(fact: bool) -> str:
    return "yes" if fact else "no"


def headline(judged: Sequence[Verdict]) -> str:
    held = sum(verdict.held for verdict in judged)
    if held == len(judged):
        return "It went on learning, and kept what it knew."
    return f"It went on learning; {held} of {len(judged)} promises held."


def story(report: Report, traces: Traces) -> tuple[str, str, str]:
    """The scenario in three sentences."""
    accuracy, phases, labels = report.accuracy, report.governor.phases, traces.confusion.labels
    known = set(" ".join(traces.blocks.names).split())
    new = [label for label in labels if label not in known]
    budgets = [phase.budget_mw for phase in phases]
    arms = [ARMS.get(arm, arm) for arm in traces.blocks.arms]
    taught = f"the new classes {listed(new)} are taught" if new else "new classes are taught"
    return (
        f"An emulated {report.board} runs a fixed-point network of {size(report.bundle.bytes)} that was trained in "
        f"floating point: {percent(accuracy.float_)} % right as it was trained, {percent(accuracy.factory_int)} % in "
        "integers.",
        f"Its sensor drifts, and corrections come in blocks ({', then '.join(traces.blocks.names)}), the order in "
        f"which networks forget; then {taught}, the budget moves between {max(budgets):.4g} and {min(budgets):.4g} mW, "
        f"the broker is gone for {report.telemetry.outage_s:.3g} s, and the power is cut at write "
        f"{report.power_cut.at_write:,}.",
        f"{len(arms)} arms live through the same stream ({listed(arms)}), and every accuracy comes from samples that "
        "no arm has learned from.",
    )


def receipts(report: Report, traces: Traces) -> tuple[tuple[str, str, str], ...]:
    """What, how much, and how it is known."""
    telemetry, cut, energy = report.telemetry, report.power_cut, report.energy
    return (
        ("Bundle", report.bundle.sha256, f"SHA-256 of its header and table; {report.bundle.bytes:,} bytes"),
        (
            "Replay gives the same bits",
            yes(report.replay.digest_equal),
            "the bundle and the journal alone, executed again, digests of the learned state compared",
        ),
        (
            "Lessons after the power cut",
            f"{cut.recovered_lessons:,} of {cut.committed_lessons:,}",
            f"cut at write {cut.at_write:,}; digest equal to an uncut run over the committed lessons: "
            f"{yes(cut.digest_equals_uncut_run)}",
        ),
        (
            "Messages",
            f"{telemetry.received:,} of {telemetry.published:,}",
            f"numbered by the device, counted by the collector; {telemetry.lost:,} lost, "
            f"{telemetry.duplicates_dropped:,} duplicates dropped, broker gone {telemetry.outage_s:.3g} s",
        ),
        ("One inference", joules(energy.per_inference_uj), f"{energy.source}, mean of this run"),
        (
            "One update",
            joules(energy.per_update_uj),
            f"{energy.source}, mean of this run, replay and consolidation included",
        ),
        (
            "Memory while learning",
            size(report.memory.arena_bytes),
            f"all that the network and its learner hold, of {size(traces.plan.ram_bytes)} on the board; the whole "
            f"process on the computer that emulated it: {report.memory.resident_mb:.4g} MB",
        ),
        ("Wall time", f"{report.wall_s:.3g} s", f"of the whole demo on the computer that ran it, seed {report.seed}"),
    )


def limits(report: Report) -> tuple[tuple[str, str], ...]:
    """How to read the page, and what it does not show."""
    source = report.energy.source
    origin = (
        "counted operations, priced with the board's coefficients. Ratios say more than absolute values; no meter was "
        "attached to the emulated board."
        if source == "estimated"
        else "read from a sensor while the board worked, as precise as that sensor is."
    )
    return (
        (
            "Energy and power",
            f"are {source}: {origin} The budget bounds the mean over a sliding window, not the moment: a single lesson "
            "may stand above it.",
        ),
        (
            "Accuracy",
            "is the share of right answers on samples held out from every arm. “Prequential” accuracy in the timeline "
            "is different: each sample is scored just before it may teach, so it dips when a new block begins. "
            "“Forgetting” there is the best probe accuracy so far, minus the one now.",
        ),
        (
            "Drifted and old",
            "are the same classes seen through the changed and through the factory's sensor. A device that adapts pays "
            "on the old sensor; how little it pays is the point.",
        ),
        (
            "Heads",
            "An arm counts as what the head that decides in it says: the trained readout or the prototypes. “Who "
            "decides” shows both for every arm, so that the rule's part and the head's part can be told apart.",
        ),
        (
            "One seed",
            f"({report.seed}) made every figure except where several seeds are named, and single runs scatter by "
            "several points. What was “asked for” is a mean over seeds; a run that stays under it says so.",
        ),
        (
            "Time",
            "is the device's own clock, which the emulator runs faster than the wall. A year of life, other sensors "
            "and other boards are not in this run.",
        ),
    )


# ------------------------------------------------------------------ HTML


def tile(verdict: Verdict) -> str:
    look, word = ("held", "✓ held") if verdict.held else ("short", "✕ short")
    small = "" if any(letter.isdigit() for letter in verdict.figure) else " words"
    return (
        f'<article class="tile {look}"><header><h3>{escape(verdict.title)}</h3><b>{word}</b></header>'
        f'<p class="figure{small}">{escape(verdict.figure)}<small>{escape(verdict.unit)}</small></p>'
        f"{track(verdict.span)}<p>{tied(verdict.claim)}</p>"
        f'<p class="asked">asked for: {tied(verdict.asked)}</p></article>'
    )


def track(span: tuple[float, float] | None) -> str:
    """A scale from 0 to 100 %: a notch at the comparison, a bar from there to this run."""
    if span is None:
        return ""
    low, high = (100 * min(max(share, 0.0), 1.0) for share in sorted(span))
    notch = 100 * min(max(span[0], 0.0), 1.0)
    return (
        f'<div class="track" data-tip="{percent(span[0])} % → {percent(span[1])} %">'
        f'<i style="left:{low:.2f}%;width:{high - low:.2f}%"></i><s style="left:{notch:.2f}%"></s></div>'
    )


def cells(rows: Iterable[Sequence[str]]) -> str:
    """Table rows: a heading, then cells; a result that says no is marked."""

    def cell(text: str) -> str:
        look = "no" if text == yes(False) else "result"
        return f'<td class="{look}">{escape(text)}</td>'

    def line(name: str, *rest: str) -> str:
        return f'<tr><th scope="row">{escape(name)}</th>{"".join(map(cell, rest))}</tr>'

    return "\n".join(line(*row) for row in rows)


def paragraphs(texts: Iterable[str]) -> str:
    return "\n".join(f"<p>{tied(text)}</p>" for text in texts)


def tied(text: str) -> str:
    """Escaped, with every number bound to its unit, so that no line ends between them."""
    return re.sub(r"(?<=\d) (?=(?:%|s|mW|KiB|MiB|MB|points)(?!\w))", "&nbsp;", escape(text))


def terms(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in pairs)


def sorted_json(data: object) -> str:
    return msgspec.json.format(msgspec.json.encode(data, order="sorted"), indent=2).decode() + "\n"


def embedded(data: object) -> str:
    """JSON that no HTML parser can leave, whatever its strings say."""
    text = msgspec.json.encode(data).decode()
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def digest_source(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def asset(*path: str) -> str:
    return resources.files("deploy").joinpath(*path).read_text(encoding="utf-8")


def scripts() -> Mapping[str, str]:
    vendored = ("dashboard", "static")
    notice = asset(*vendored, "uPlot.LICENSE")
    return MappingProxyType(
        {
            "uplot_js": f"/*\n{notice}*/\n{asset(*vendored, 'uPlot.iife.min.js')}",
            "page_js": asset("report_page", "report.js"),
        }
    )


def render(report: Mapping[str, Any], traces: Mapping[str, Any]) -> str:
    """The page as one HTML document. Raises DataError naming the first field that is missing or wrong."""
    facts, lines = read(report, Report, "report"), read(traces, Traces, "traces")
    judged, code = verdicts(facts), scripts()
    return Template(asset("report_page", "template.html")).substitute(
        code,
        policy=" ".join(map(digest_source, code.values())),
        css=asset("dashboard", "static", "uPlot.min.css") + "\n" + asset("report_page", "report.css"),
        icon=asset("dashboard", "static", "icon.svg"),
        scenario=escape(facts.scenario),
        board=escape(facts.board),
        seed=facts.seed,
        headline=escape(headline(judged)),
        held=sum(verdict.held for verdict in judged),
        promises=len(judged),
        tiles="\n".join(map(tile, judged)),
        story=paragraphs(story(facts, lines)),
        receipts=cells(receipts(facts, lines)),
        limits=terms(limits(facts)),
        raw=escape(sorted_json(report)),
        data=embedded(
            {
                "report": facts,
                "traces": lines,
                "levels": LEVELS,
                "pixelMax": PIXEL_MAX,
                "wording": {**ARMS, **PARTS},
            }
        ),
    )


def write_report(folder: Path, report: Mapping[str, Any], traces: Mapping[str, Any]) -> Path:
    """Write `report.json` (sorted, indented) and `report.html` into a folder; returns the page's path."""
    page = render(report, traces)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(sorted_json(report), encoding="utf-8")
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
