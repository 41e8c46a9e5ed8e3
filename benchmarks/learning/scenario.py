"""What every scenario of this folder shares: its options, its runs in a file, their table, its section of a page.

    args = command(__doc__, short="one seed, 200 images a task", seeds=5).parse_args()
    runs = [Run(scenario="split_mnist", arm="full", seed=1, matrix=R, untrained=b, ...), ...]
    publish(args, runs, f"## Split MNIST, 5 seeds\\n\\n...\\n\\n{table(runs)}")

writes build/learning/split_mnist.json, for `edgerun report`, and with `--markdown docs/results.md` that page's section.

Accuracies are shares in a run and percent in a table. Arms are called none, plain and full; the float twin of one is
"full (float)". Memory and energy follow `exporters.runs.Run`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

sys.path.append(str(Path(__file__).parents[1]))

from tables import Table, spread, write_section

from edgerun.arrays import F64, AnyArray
from edgerun.boards import get_board, price
from edgerun.bundle import Bundle
from edgerun.price import memory_plan, work
from edgerun.spec import LearningPlan
from exporters.runs import SHARES, Run, by_arm, measures, read_runs, write_runs

__all__ = [
    "Run",
    "command",
    "cost",
    "data_file",
    "draw",
    "filtered",
    "gap",
    "load",
    "matrix",
    "publish",
    "save",
    "section",
    "table",
]

SEEDS = "how many seeds, from 1 on"


def command(about: str | None, *, short: str, seeds: int | None = None, counts: str = SEEDS) -> argparse.ArgumentParser:
    """The options of a scenario's command: --short, --output, --markdown, and --seeds where it counts anything by them.

    short  what the short form leaves of it     seeds  how many where nobody says     counts  what --seeds counts
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if seeds is not None:
        parser.add_argument("--seeds", type=int, default=seeds, help=counts)
    parser.add_argument("--short", action="store_true", help=short)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/learning"), help="folder of the runs' file")
    parser.add_argument("--markdown", type=Path, help="rewrite this page's section, and the pictures beside it")
    return parser


def publish(args: argparse.Namespace, runs: Sequence[Run], text: str) -> None:
    """What a scenario ends with: its runs in a file, its section printed and, where a page is given, written."""
    save(args.output, runs)
    print(text)
    if args.markdown:
        section(args.markdown, runs[0].scenario, text)


def data_file(name: str) -> Path:
    """A file of the folder EDGERUN_DATA. Raises SystemExit where it is not there."""
    folder = os.environ.get("EDGERUN_DATA")
    if not folder or not Path(folder, name).is_file():
        raise SystemExit(f"EDGERUN_DATA must name a folder with {name}")
    return Path(folder, name)


def save(folder: Path, runs: Sequence[Run]) -> Path:
    """Write all runs of one scenario to FOLDER/<scenario>.json; returns the path."""
    path = folder / f"{runs[0].scenario}.json"
    write_runs(path, runs)
    return path


def load(folder: Path, scenario: str) -> list[Run]:
    """The runs that `save` wrote. Raises DataError if the file holds anything else."""
    return read_runs(folder / f"{scenario}.json")


def table(runs: Sequence[Run]) -> str:
    """Markdown: a row an arm, mean ± standard deviation over its runs of everything measured."""
    arms = {arm: [measures(run) for run in mine] for arm, mine in by_arm(runs).items()}
    names = list(dict.fromkeys(name for mine in arms.values() for found in mine for name in found))
    rows = [
        (arm, str(len(mine)), *(cell(name, [found[name] for found in mine if name in found]) for name in names))
        for arm, mine in arms.items()
    ]
    heads = (f"{name} %" if name in SHARES else name for name in names)
    return Table("", ("arm", "runs", *heads), rows).markdown()


def cell(name: str, values: Sequence[float]) -> str:
    """One measure of one arm, "" where nobody measured it."""
    if not values:
        return ""
    if name in SHARES:
        return spread(values)
    deviation = f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 and np.ptp(values) else ""
    return f"{np.mean(values):.4g}{deviation}"


def matrix(runs: Sequence[Run], arm: str) -> str:
    """Markdown: the mean accuracy matrix of an arm, a row for each task trained last, a column for each tested."""
    mine = by_arm(runs)[arm]
    mean = 100 * np.mean([run.matrix for run in mine], axis=0)
    names = mine[0].tasks or [str(k + 1) for k in range(len(mean))]
    rows = [(name, *(f"{value:.1f}" for value in row)) for name, row in zip(names, mean, strict=True)]
    return Table("", (f"{arm}, after", *names), rows).markdown()


def gap(
    runs: Sequence[Run],
    left: str,
    right: str,
    of: Callable[[Run], float] = lambda run: float(np.mean(run.matrix[-1])),
    digits: int = 1,
) -> str:
    """How far one arm is above another, in points, over seeds that both have run: mean ± standard deviation.

    of  the share that is compared: ACC, unless told otherwise     digits  behind the point
    """
    found = {(run.arm, run.seed): 100 * of(run) for run in runs}
    gaps = [found[left, seed] - value for (arm, seed), value in found.items() if arm == right and (left, seed) in found]
    deviation = f" ± {np.std(gaps, ddof=1):.{digits}f}" if len(gaps) > 1 else ""
    return f"{np.mean(gaps):+.{digits}f}{deviation}"


def filtered(x: AnyArray, factor: float) -> F64:
    """The exponential trace of each column after each step, from zero.    x  (T, n)"""
    out, state = np.zeros(x.shape), np.zeros(x.shape[1])
    for t, row in enumerate(x):
        state = factor * state + row
        out[t] = state
    return out


def section(page: Path, name: str, markdown: str) -> None:
    """Rewrite one section of a page, or put it at the end where the page has none of that name."""
    text = page.read_text(encoding="utf-8")
    if f"<!-- {name} -->" not in text:
        page.write_text(f"{text.rstrip()}\n\n<!-- {name} -->\n<!-- end of {name} -->\n", encoding="utf-8")
    write_section(page, name, markdown)


def draw(page: Path, name: str, svg: str) -> None:
    """Put a figure into the folder `images` beside a page."""
    (page.parent / "images").mkdir(exist_ok=True)
    (page.parent / "images" / f"{name}.svg").write_text(svg, encoding="utf-8")


def cost(bundle: Bundle, board: str = "pico2") -> tuple[dict[str, int], dict[str, float]]:
    """A run's `memory_bytes` and `energy_uj`: what the planner says of a bundle, and a board's prices.

    memory  "inference" is the same bundle without its learning plan, the rest what learning adds to each part
    energy  one inference; one update by the plan's rule, or one lesson of the prototypes where it has none
    """
    still = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, learning=LearningPlan()))
    whole, idle = memory_plan(bundle).bytes_by_part(), memory_plan(still).bytes_by_part()
    memory = {"inference": sum(idle.values())}
    memory |= {part: more for part, size in whole.items() if (more := size - idle.get(part, 0)) > 0}
    counted, plan = work(bundle), bundle.manifest.learning
    acts = {"inference": counted.inference}
    if plan != LearningPlan():
        acts["update"] = counted.update if plan.rule else counted.lesson["head"]
    return memory, {act: price(get_board(board), ops)[0] for act, ops in acts.items()}
