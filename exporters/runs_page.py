"""A benchmark of lifelong learning as a page: arms beside each other, what each kept of every task, what it cost."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from edgerun.arrays import F64
from exporters import charts
from exporters.charts import COLOURS, Line
from exporters.runs import SHARES, Run, by_arm, measures, spread

HOUSE: Final = {"full": "--a", "plain": "--b", "none": "--f"}
"""Arms that every scenario has keep their colour on every page."""
TWIN: Final = " (float)"
"""What the name of a float twin ends in: its arm's colour, dashed."""
MOST_TASKS: Final = 24
"""Tasks that get a chart of their own; beyond that there is only the matrix."""
MEANING: Final = {
    "ACC": "all tasks after the last one",
    "session average": "tasks so far, over time",
    "BWT": "what later tasks did to earlier",
    "FWT": "gained before training",
    "forgetting": "lost of the best ever",
}

Arms = Mapping[str, Sequence[Run]]


def page(runs: Sequence[Run]) -> str:
    """All runs of one scenario as HTML."""
    arms = by_arm(runs)
    colours = arm_colours(list(arms))
    tasked = {arm: mine for arm, mine in arms.items() if matrices(mine)}
    parts = [
        *header(runs[0].scenario, arms),
        *measures_section(arms, colours),
        *(curve_section(tasked, colours) if tasked else ()),
        *matrix_section(tasked),
        *memory_section(arms),
        *energy_section(arms, colours),
    ]
    return charts.document(f"{words(runs[0].scenario)}, {len(runs)} runs", parts)


def words(name: str) -> str:
    return name.replace("_", " ")


def arm_colours(arms: Sequence[str]) -> dict[str, tuple[str, bool]]:
    """(colour, dashed) of each arm; a float twin shares its arm's colour."""
    bases = list(dict.fromkeys(arm.removesuffix(TWIN) for arm in arms))
    free = [colour for colour in COLOURS if colour not in HOUSE.values()]
    others = [base for base in bases if base not in HOUSE]
    chosen = HOUSE | {base: free[k % len(free)] for k, base in enumerate(others)}
    return {arm: (chosen[arm.removesuffix(TWIN)], arm.endswith(TWIN)) for arm in arms}


def header(scenario: str, arms: Arms) -> Iterator[str]:
    seeds = max(map(len, arms.values()))
    yield f"<h1>{html.escape(words(scenario))}</h1>"
    yield f"<p>{count(len(arms), 'arm')}, {count(seeds, 'run')} each: {html.escape(', '.join(arms))}.</p>"
    best = "full" if "full" in arms else list(arms)[-1]
    yield charts.tiles(headline(best, arms))


def headline(arm: str, arms: Arms) -> Iterator[tuple[str, str]]:
    """The few figures of an arm that a talk would show, the other arms' beside them."""
    found = summary(arms)
    for name, what in (("ACC", "right on all tasks at the end"), ("forgetting", "forgotten of the best there was")):
        if name in found[arm]:
            others = ", ".join(
                f"{other} {100 * values[name][0]:.1f}%"
                for other, values in found.items()
                if other != arm and other in HOUSE and name in values
            )
            yield f"{100 * found[arm][name][0]:.1f}%", f"{what} by {arm}" + (f"; {others}" if others else "")
    for name, what in (
        ("learning tax", "times an inference's energy costs an update"),
        ("memory overhead", "times the net's own memory is added by learning"),
    ):
        if name in found[arm]:
            yield f"{found[arm][name][0]:.3g}", what


def summary(arms: Arms) -> dict[str, dict[str, tuple[float, float]]]:
    """Mean and standard deviation of each measure of each arm."""
    told = {arm: [measures(run) for run in mine] for arm, mine in arms.items()}
    return {
        arm: {name: spread([one[name] for one in mine if name in one]) for name in names(mine)}
        for arm, mine in told.items()
    }


def names(told: Iterable[Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for one in told for name in one))


def count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"


# ------------------------------------------------------------------ arms beside each other


def measures_section(arms: Arms, colours: Mapping[str, tuple[str, bool]]) -> Iterator[str]:
    told = {arm: [measures(run) for run in mine] for arm, mine in arms.items()}
    found = summary(arms)
    shown = names(one for mine in told.values() for one in mine)
    yield charts.section(
        "Arms beside each other", "A dot is a run, the stroke their mean; ± is one standard deviation."
    )
    drawn = []
    for name in shown:
        scale, unit = (100, "%") if name in SHARES else (1, "")
        rows = [
            (arm, [scale * one[name] for one in mine if name in one], colours[arm][0], figure(name, *found[arm][name]))
            for arm, mine in told.items()
            if name in found[arm]
        ]
        title = f"{name}: {MEANING[name]}" if name in MEANING else name
        drawn.append((title, charts.whiskers(rows, unit)))
    yield charts.side_by_side(drawn)


def figure(name: str, mean: float, deviation: float) -> str:
    """ "85.2 ± 0.4%", "1.25"."""
    scale, form, unit = (100, ".1f", "%") if name in SHARES else (1, ".4g", "")
    after = f" ± {scale * deviation:{'.1f' if unit else '.2g'}}" if deviation else ""
    return f"{scale * mean:{form}}{after}{unit}"


# ------------------------------------------------------------------ tasks


def matrices(runs: Sequence[Run]) -> list[F64]:
    return [np.array(run.matrix) for run in runs if run.matrix]


def task_names(runs: Sequence[Run]) -> list[str]:
    return runs[0].tasks or [str(k + 1) for k in range(len(runs[0].matrix))]


def curve_section(arms: Arms, colours: Mapping[str, tuple[str, bool]]) -> Iterator[str]:
    """Accuracy on what was trained so far, then each task on its own."""
    tasks = max((task_names(mine) for mine in arms.values()), key=len)
    if len(tasks) < 2:
        return
    x = list(range(1, len(tasks) + 1))
    so_far = [
        line(arm, colours[arm], np.array([[row[: i + 1].mean() for i, row in enumerate(r)] for r in matrices(mine)]))
        for arm, mine in arms.items()
    ]
    legend = charts.key((arm, *colours[arm]) for arm in arms)
    yield charts.section(
        "All tasks so far", "Mean accuracy on every task trained until then; bands are one standard deviation."
    )
    drawn = charts.lines(x, so_far, reach=(0, 100), unit="%", names=tasks, below="trained last")
    yield f'{legend}<div class="wide drawn">{drawn}</div>'
    if len(tasks) > MOST_TASKS:
        return
    yield charts.section("Forgetting, task by task", "Each chart is one task from the moment it was trained.")
    yield legend + charts.side_by_side((name, task_chart(j, tasks, arms, colours)) for j, name in enumerate(tasks[:-1]))


def task_chart(j: int, tasks: Sequence[str], arms: Arms, colours: Mapping[str, tuple[str, bool]]) -> str:
    """Accuracy on task j after it and every later one."""
    after = [line(arm, colours[arm], np.array([r[j:, j] for r in matrices(mine)])) for arm, mine in arms.items()]
    x = list(range(j + 1, len(tasks) + 1))
    return charts.lines(x, after, reach=(0, 100), unit="%", names=tasks[j:], width=360, height=190)


def line(arm: str, colour: tuple[str, bool], values: F64) -> Line:
    """(runs, points) shares as a line of percents with its band."""
    deviation = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    return Line(arm, (100 * values.mean(axis=0)).tolist(), colour[0], (100 * deviation).tolist(), colour[1])


def matrix_section(arms: Arms) -> Iterator[str]:
    if not arms:
        return
    yield charts.section(
        "Accuracy on every task, after every task",
        "A row is the task trained last, a column the task tested; percent, means over runs. "
        "Right of the diagonal: not trained yet.",
    )
    yield charts.side_by_side(((arm, matrix(mine)) for arm, mine in arms.items()), "heat")


def matrix(runs: Sequence[Run]) -> str:
    mean, tasks = 100 * np.mean(matrices(runs), axis=0), task_names(runs)
    return charts.heat(tasks, zip(tasks, mean.tolist(), strict=True), untrained=True)


# ------------------------------------------------------------------ cost


def memory_section(arms: Arms) -> Iterator[str]:
    """Bytes by part, end to end."""
    told = {arm: means([run.memory_bytes for run in mine]) for arm, mine in arms.items()}
    parts = names(told.values())
    if not parts:
        return
    colours = {part: COLOURS[k % len(COLOURS)] for k, part in enumerate(parts)}
    rows = [(arm, list(mean.items()), charts.size(sum(mean.values()))) for arm, mean in told.items() if mean]
    yield charts.section("Memory", "Bytes by part; all but inference is what learning adds.")
    yield charts.key((part, colour, False) for part, colour in colours.items()) + charts.stacked(rows, colours)


def energy_section(arms: Arms, colours: Mapping[str, tuple[str, bool]]) -> Iterator[str]:
    """Each act's energy, arm by arm."""
    told = {arm: [run.energy_uj for run in mine] for arm, mine in arms.items()}
    acts = names(one for mine in told.values() for one in mine)
    if not acts:
        return
    drawn = []
    for act in acts:
        values = {arm: [one[act] for one in mine if act in one] for arm, mine in told.items()}
        rows = [
            (arm, there, colours[arm][0], charts.joules(spread(there)[0])) for arm, there in values.items() if there
        ]
        drawn.append((f"{act}, µJ", charts.whiskers(rows)))
    yield charts.section("Energy", "One act of each kind, above sleep.") + charts.side_by_side(drawn)


def means(told: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {part: spread([one[part] for one in told if part in one])[0] for part in names(told)}
