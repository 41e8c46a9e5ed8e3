"""A device's life as a page: what it answered, kept, changed and protected, lesson by lesson."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from edgerun.arrays import F64, I64
from edgerun.boards import price
from edgerun.kernels.plasticity import decode_importance
from edgerun.price import inference
from exporters import charts
from exporters.charts import Line, Mark
from exporters.life import ACTS, Changed, Event, Life, Probed

POINTS: Final = 400  # of a curve, at most
COLUMNS: Final = 24  # of a table over time, at most
EVENTS: Final = 200  # told one by one, at most
SMOOTH: Final = 20  # curves are means over a twentieth of all lessons, at least `LEAST`
LEAST: Final = 10
MARKS: Final = {"verdict": "--f", "boundary": "--d", "new class": "--c", "rollback": "--b", "forgotten": "--b"}
UNDONE: Final = "--b"


def page(life: Life) -> str:
    """One device's learning as HTML."""
    parts = [
        *header(life),
        *(answers_section(life) if life.lessons else ()),
        *probe_section(life),
        *(classes_section(life) if life.lessons and not life.values else ()),
        *norm_section(life),
        *importance_section(life),
        *energy_section(life),
        *events_section(life),
    ]
    return charts.document(f"What {life.bundle.manifest.name} learned", parts)


def header(life: Life) -> Iterator[str]:
    yield f"<h1>What {html.escape(life.bundle.manifest.name)} learned</h1>"
    yield f"<p>Replayed from its journal on the bundle <code>{html.escape(life.bundle.id)}</code>. "
    yield f"{replay_words(life)}</p>"
    yield charts.tiles(headline(life))


def replay_words(life: Life) -> str:
    done = life.replayed
    start = "the factory's weights" if done.first_epoch == 0 else f"the state kept with epoch {done.first_epoch}"
    if done.first_difference is None:
        return f"{done.records:,} records from {start}, every digest equal."
    found = done.first_difference
    where = f"epoch {found.epoch} record {found.record}, equal to lesson {found.lesson}"
    return html.escape(f"THE REPLAY DIFFERS at {where}: {found.what}.")


def headline(life: Life) -> Iterator[tuple[str, str]]:
    levels = ", ".join(f"{life.counts[act]:,} {act}" for act in ACTS[:4] if life.counts[act])
    yield f"{len(life.lessons):,}", f"lessons ({levels})" if levels else "lessons"
    if life.lessons:
        right = correct(life)
        window = min(smooth(len(right)), len(right))
        early, late = (f"{part.mean():.0%}" for part in (right[:window], right[-window:]))
        if life.values:
            yield late, f"near before being told, mean of the last {window}; {early} in the first {window}"
        else:
            yield late, f"of the last {window} right before being told; {early} of the first {window}"
    if life.probes:
        first, last = life.probes[0].share, life.probes[-1].share
        yield f"{last:.1%}", f"of the probe right at the end, {first:.1%} at the start"
    if life.energy_uj:
        yield charts.joules(sum(life.energy_uj.values())), f"for all that was learned, estimated for {life.board.name}"


def correct(life: Life) -> F64:
    """By lesson: 1 where the device was right before it was told; of values, how near it was, 1 for no error at all."""
    if life.values:
        return np.nan_to_num(np.array([note.taught.confidence for note in life.lessons], np.float64))
    return np.array([note.taught.correct for note in life.lessons], np.float64)


def smooth(lessons: int) -> int:
    """Lessons that a curve's point is the mean of."""
    return max(LEAST, lessons // SMOOTH)


# ------------------------------------------------------------------ over time


def answers_section(life: Life) -> Iterator[str]:
    right = correct(life)
    window = smooth(len(right))
    x, shares = trailing(right, window)
    what = "Share right" if not life.values else "1 less the mean error in the readout's own unit, in percent,"
    yield charts.section(
        "What it answered before it was told",
        f"{what} of the last {window} lessons. Upright lines are what happened between them: point at one.",
    )
    yield mark_key(life.events)
    name = f"{'near' if life.values else 'right'} before being told"
    yield over_lessons(life, x, [100 * share for share in shares], name, "%", (0, 100))


def over_lessons(
    life: Life,
    x: Sequence[float],
    y: Sequence[float],
    name: str,
    unit: str = "",
    reach: tuple[float, float] | None = None,
) -> str:
    """One curve over all lessons, with a mark for each event."""
    marks = [Mark(event.lesson, f"lesson {event.lesson}, {event.kind}: {event.words}", mark_colour(event))
             for event in life.events if event.kind in MARKS]  # fmt: skip
    ends = [0.0, *x, float(len(life.lessons))]
    curve = Line(name, [None, *y, None], "--a")
    drawn = charts.lines(ends, [curve], reach=reach, unit=unit, below="lessons", marks=marks[-EVENTS:])
    return f'<div class="wide drawn">{drawn}</div>'


def mark_colour(event: Event) -> str:
    return MARKS[event.kind] if event.good else UNDONE


def mark_key(events: Sequence[Event]) -> str:
    """What the marks mean, of those that there are."""
    names = {("undone" if event.kind == "verdict" and not event.good else event.kind): mark_colour(event)
             for event in events if event.kind in MARKS}  # fmt: skip
    return charts.key((name, colour, False) for name, colour in names.items())


def trailing(values: F64, window: int) -> tuple[list[float], list[float]]:
    """(lesson, mean of the window up to it) at no more than POINTS places, the last one included."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.unique(np.linspace(1, len(values), min(POINTS, len(values))).round().astype(np.int64))
    starts = np.maximum(0, ends - window)
    return ends.tolist(), ((sums[ends] - sums[starts]) / (ends - starts)).tolist()


def probe_section(life: Life) -> Iterator[str]:
    """The bundle's probe at every boundary: all of it over time, class by class as a table."""
    if len(life.probes) < 2:
        return
    yield charts.section(
        "What it kept",
        f"The bundle's own probe, {len(life.bundle.probe.x)} factory samples, scored wherever the state came to rest; "
        "below, class by class after so many lessons.",
    )
    x, y = [float(probed.lesson) for probed in life.probes], [100 * probed.share for probed in life.probes]
    yield over_lessons(life, x, y, "probe", "%", (0, 100))
    shown = [life.probes[k] for k in spaced(len(life.probes))]
    yield "<p></p>" + f'<div class="wide heat">{probe_table(shown)}</div>'


def probe_table(probes: Sequence[Probed]) -> str:
    classes = list(dict.fromkeys(name for probed in probes for name in probed.by_class))
    rows = [
        (name, [100 * probed.by_class[name] if name in probed.by_class else None for probed in probes])
        for name in classes
    ]
    return charts.heat([str(probed.lesson) for probed in probes], rows)


def spaced(count: int) -> list[int]:
    """At most COLUMNS places from 0 to count - 1, both ends among them."""
    return [round(k) for k in np.linspace(0, count - 1, min(COLUMNS, count))]


def classes_section(life: Life) -> Iterator[str]:
    """Which classes the lessons were of, when, and how many of them it knew already."""
    right, labels = correct(life), np.array([note.label for note in life.lessons])
    edges = np.unique(np.linspace(0, len(right), min(COLUMNS, len(right)) + 1).round().astype(np.int64))
    rows = []
    for name in dict.fromkeys(labels.tolist()):
        mine = labels == name
        cells = [right[a:b][mine[a:b]] for a, b in pairwise(edges)]
        rows.append((f"{name} ({mine.sum()})", [100 * cell.mean() if len(cell) else None for cell in cells]))
    yield charts.section(
        "Its lessons, class by class",
        "Percent right before being told, with the number of lessons in brackets; a column ends at its lesson.",
    )
    yield f'<div class="wide heat">{charts.heat([str(edge) for edge in edges[1:]], rows)}</div>'


def norm_section(life: Life) -> Iterator[str]:
    """How far each lesson moved the weights."""
    norms = np.array([note.taught.norm for note in life.lessons], np.float64)
    if not norms.any():
        return
    updates = sum(note.taught.updates for note in life.lessons)
    window = smooth(len(norms))
    x, mean = trailing(norms, window)
    yield charts.section(
        "How much it changed",
        f"Euclidean norm of each lesson's change, replays included, in steps of a weight; mean of the last {window} "
        f"lessons. {updates:,} updates, {(norms == 0).sum():,} of {len(norms):,} lessons changed no weight.",
    )
    yield over_lessons(life, x, mean, "norm of the change")


# ------------------------------------------------------------------ in the end


def importance_section(life: Life) -> Iterator[str]:
    """What became of each plastic tensor: how far it moved, and which of its weights matter."""
    if not life.changed:
        return
    yield charts.section("What changed, what is protected", "Against the factory's weights, in steps of a weight.")
    yield charts.table(
        ("tensor", "weights", "moved by a step or more", "rms", "largest", "carry importance"),
        (changed_cells(changed) for changed in life.changed),
    )
    held = [changed for changed in life.changed if changed.importance is not None and changed.importance.any()]
    if not held:
        return
    yield "<p></p>" + charts.side_by_side((f"{changed.name}: importance", histogram(changed)) for changed in held)
    yield charts.side_by_side((f"{changed.name}: where", importance_map(changed)) for changed in held)


def changed_cells(changed: Changed) -> tuple[str, ...]:
    steps = np.abs(changed.moved) / 256
    held = "" if changed.importance is None else f"{np.count_nonzero(changed.importance) / steps.size:.1%}"
    rms = float(np.sqrt((steps**2).mean()))
    return changed.name, f"{steps.size:,}", f"{(steps >= 1).mean():.1%}", f"{rms:.2f}", f"{steps.max():.1f}", held


def histogram(changed: Changed) -> str:
    """Weights by the power of two of their importance, those without any left out."""
    octaves = octave(changed)
    counts = np.bincount(octaves[octaves >= 0])
    first = int(np.flatnonzero(counts)[0])
    return charts.columns(counts[first:].tolist(), "--a", [f"2^{k}" for k in range(first, len(counts))])


def octave(changed: Changed) -> I64:
    """floor(log2 importance) of each weight, -1 for none."""
    codes = changed.importance
    value = np.zeros(changed.moved.shape, np.int64) if codes is None else decode_importance(codes)
    return np.frexp(value.astype(np.float64))[1].astype(np.int64) - 1


def importance_map(changed: Changed) -> str:
    """Rows are inputs, columns outputs; the more important a weight, the darker."""
    octaves = octave(changed)
    low, high = octaves[octaves >= 0].min(), octaves.max()
    shades = np.where(octaves < 0, 0, 40 + 215 * (octaves - low) // max(1, high - low)).astype(np.uint8)
    rows, columns = shades.shape
    return charts.picture(
        shades, f"{changed.name}: {rows} inputs down, {columns} outputs across, darker is more important"
    )


def energy_section(life: Life) -> Iterator[str]:
    if not life.energy_uj:
        return
    one = price(life.board, inference(life.bundle))[0]
    yield charts.section(
        f"Energy on {life.board.name}",
        f"Estimated from counted operations, above sleep; an inference costs {charts.joules(one)}.",
    )
    rows = []
    for act in ACTS:
        if count := life.counts[act]:
            each = life.energy_uj[act] / count
            told = f"{charts.joules(life.energy_uj[act])}: {count:,} x {charts.joules(each)}"
            rows.append((act if act in ("verdicts", "boundaries") else f"lessons, {act}", life.energy_uj[act], told))
    yield charts.bars(rows, "--a")


def events_section(life: Life) -> Iterator[str]:
    if not life.events:
        return
    kinds = Counter(event.kind for event in life.events)
    undone = sum(event.kind == "verdict" and not event.good for event in life.events)
    kinds["consolidated by a count of updates"] = life.counted_boundaries
    said = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    last = f"; the last {EVENTS}" if len(life.events) > EVENTS else ""
    yield charts.section("Between lessons", f"{said}{f', {undone} undone by the guard' if undone else ''}{last}.")
    probes = {(probed.lesson, probed.when): probed.share for probed in life.probes}
    rows = []
    for event in life.events[-EVENTS:]:
        share = probes.get((event.lesson, event.words))
        rows.append((f"{event.lesson:,}", event.kind, event.words, "" if share is None else f"{share:.1%}"))
    told = charts.table(("after lesson", "what", "outcome", "probe"), rows)
    yield f'<div class="words">{told}</div>'
