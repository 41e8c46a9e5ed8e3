"""Runs in a file and back, their table, their section of a page."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
from modules import load

from edgerun.boards import get_board, price
from edgerun.bundle import open_bundle
from edgerun.errors import DataError
from edgerun.price import memory_plan, work
from edgerun.spec import LearningPlan
from exporters.runs import Run, measures, read_runs

SCENARIO = Path(__file__).parents[2] / "benchmarks/learning/scenario.py"


@pytest.fixture
def scenario(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "tables", raising=False)
    module = load(SCENARIO, "scenario_alone")
    monkeypatch.delitem(sys.modules, "tables")
    return module


def a_run(arm: str, seed: int, last: float) -> Run:
    return Run(
        scenario="two_tasks",
        arm=arm,
        seed=seed,
        matrix=[[0.9, 0.5], [last, 0.8]],
        untrained=[0.1, 0.1],
        memory_bytes={"inference": 1000, "shadow": 2000, "importance": 1000},
        energy_uj={"inference": 2.0, "update": 9.0},
        figures={"digest equal": 1.0},
        tasks=["first", "second"],
    )


RUNS = [a_run("plain", 1, 0.2), a_run("plain", 2, 0.4), a_run("full", 1, 0.9)]


def test_measures_of_a_run() -> None:
    assert measures(RUNS[0]) == pytest.approx(
        {"ACC": 0.5, "session average": 0.7, "BWT": -0.7, "FWT": 0.4, "forgetting": 0.7, "memory overhead": 3.0,
         "learning tax": 4.5, "digest equal": 1.0}
    )  # fmt: skip
    assert measures(Run(scenario="xor", arm="full", seed=1, figures={"loss": 0.25})) == {"loss": 0.25}


def test_runs_come_back_as_they_were_saved(scenario: ModuleType, tmp_path: Path) -> None:
    assert scenario.save(tmp_path / "new", RUNS) == tmp_path / "new" / "two_tasks.json"
    assert scenario.load(tmp_path / "new", "two_tasks") == RUNS


def test_what_numpy_counted_is_saved_as_numbers(scenario: ModuleType, tmp_path: Path) -> None:
    run = Run(
        scenario="one", arm="full", seed=np.int64(3), matrix=np.array([[np.float64(0.5)]]), figures={"n": np.float32(2)}
    )
    scenario.save(tmp_path, [run])
    assert scenario.load(tmp_path, "one") == [
        Run(scenario="one", arm="full", seed=3, matrix=[[0.5]], figures={"n": 2.0})
    ]


def test_what_cannot_be_read_again_is_not_written(scenario: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one.json: Expected `float`, got `null` - at `\$\[0\].figures"):
        scenario.save(tmp_path, [Run(scenario="one", arm="full", seed=1, figures={"loss": float("nan")})])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[]", "0 scenarios"),
        (b"{", "x.json: "),
        (b'[{"arm": "full", "seed": 1}]', "scenario"),
        (b'[{"scenario": "a", "arm": "b", "seed": 1, "colour": 2}]', "colour"),
        (b'[{"scenario": "a", "arm": "b", "seed": 1, "matrix": [[2.0]]}]', "2.0, an accuracy is in"),
        (b'[{"scenario": "a", "arm": "b", "seed": 1, "matrix": [[1.0]], "untrained": [0, 0]}]', "untrained has 2"),
        (b'[{"scenario": "a", "arm": "b", "seed": 1, "energy_uj": {"update": -1}}]', "energy_uj"),
        (
            msgspec.json.encode([Run(scenario=name, arm="full", seed=1) for name in "ab"]),
            "2 scenarios, must be 1: a, b",
        ),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(DataError, match=words) as caught:
        read_runs(path)
    assert "x.json" in str(caught.value)


def test_a_table_has_mean_and_spread_of_each_arm(scenario: ModuleType) -> None:
    text = scenario.table([*RUNS, Run(scenario="two_tasks", arm="none", seed=1, figures={"loss": 1234.5})])
    heads, _, *rows = text.splitlines()
    assert heads == (
        "| arm | runs | ACC % | session average % | BWT % | FWT % | forgetting % | memory overhead | learning tax "
        "| digest equal | loss |"
    )
    assert rows[0].startswith("| plain | 2 | 55.00 ± 7.07 | 72.50 ± 3.54 | -60.00 ± 14.14 | 40.00 ± 0.00 |")
    assert rows[0].endswith("| 3 | 4.5 | 1 |  |")
    assert rows[2] == f"| none | 1 |{'  |' * 8} 1234 |"


def test_a_matrix_is_the_mean_of_its_arm(scenario: ModuleType) -> None:
    assert scenario.matrix(RUNS, "plain").splitlines()[2:] == ["| first | 90.0 | 50.0 |", "| second | 30.0 | 80.0 |"]


def test_a_gap_is_of_pairs_and_positive_where_the_first_is_above(scenario: ModuleType) -> None:
    def runs(arm: str, *ends: float) -> list[Run]:
        fields = {"scenario": "s", "arm": arm, "untrained": [0.5]}
        return [Run(seed=seed, matrix=[[end]], **fields) for seed, end in enumerate(ends, 1)]

    found = [*runs("full", 0.9, 0.8, 0.1), *runs("plain", 0.5, 0.6)]
    assert scenario.gap(found, "full", "plain") == "+30.0 ± 14.1"
    assert scenario.gap(found[:1] + found[3:], "plain", "full") == "-40.0"
    assert scenario.gap(found, "full", "plain", of=lambda run: run.untrained[0]) == "+0.0 ± 0.0"
    assert scenario.gap(found, "full", "plain", digits=3) == "+30.000 ± 14.142"


def test_traces_decay(scenario: ModuleType) -> None:
    assert scenario.filtered(np.array([[1.0], [0.0], [2.0]]), 0.5).tolist() == [[1.0], [0.5], [2.25]]


def test_a_section_is_made_once_and_rewritten_later(scenario: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("# Results\n\n<!-- other -->\nkept\n<!-- end of other -->\n")
    for text in ("old", "new"):
        scenario.section(page, "mine", f"## Mine\n\n{text}\n")
    assert page.read_text() == (
        "# Results\n\n<!-- other -->\nkept\n<!-- end of other -->\n\n"
        "<!-- mine -->\n## Mine\n\nnew\n<!-- end of mine -->\n"
    )


def test_a_scenario_has_the_options_of_all_scenarios_and_its_own(scenario: ModuleType) -> None:
    parser = scenario.command("What it is.", short="one seed", seeds=4)
    args = parser.parse_args([])
    assert vars(args) == {"seeds": 4, "short": False, "output": Path("build/learning"), "markdown": None}
    args = parser.parse_args(["--seeds", "7", "--short", "-o", "a", "--markdown", "b"])
    assert vars(args) == {"seeds": 7, "short": True, "output": Path("a"), "markdown": Path("b")}
    assert parser.format_help().index("What it is.") < parser.format_help().index("one seed")
    assert "how many seeds, from 1 on" in parser.format_help()
    with pytest.raises(SystemExit):
        scenario.command(None, short="").parse_args(["--seeds", "1"])


def test_what_is_published_is_saved_printed_and_written(
    scenario: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "results.md"
    page.write_text("# Results\n")
    parser = scenario.command(None, short="")
    scenario.publish(parser.parse_args(["-o", str(tmp_path / "quiet")]), RUNS, "## Two tasks")
    assert page.read_text() == "# Results\n"
    scenario.publish(parser.parse_args(["-o", str(tmp_path), "--markdown", str(page)]), RUNS, "## Two tasks")
    assert scenario.load(tmp_path, "two_tasks") == scenario.load(tmp_path / "quiet", "two_tasks") == RUNS
    assert capsys.readouterr().out == "## Two tasks\n" * 2
    assert page.read_text() == "# Results\n\n<!-- two_tasks -->\n## Two tasks\n<!-- end of two_tasks -->\n"
    scenario.draw(page, "a-figure", "<svg/>")
    assert (tmp_path / "images" / "a-figure.svg").read_text() == "<svg/>"


def test_a_file_of_data_is_there_or_it_is_said_where_it_was_looked_for(
    scenario: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.npz").touch()
    monkeypatch.setenv("EDGERUN_DATA", str(tmp_path))
    assert scenario.data_file("a.npz") == tmp_path / "a.npz"
    with pytest.raises(SystemExit, match=r"EDGERUN_DATA must name a folder with b\.npz"):
        scenario.data_file("b.npz")
    monkeypatch.delenv("EDGERUN_DATA")
    with pytest.raises(SystemExit, match=r"EDGERUN_DATA must name a folder with a\.npz"):
        scenario.data_file("a.npz")


def test_cost_is_what_the_planner_and_the_price_list_say(scenario: ModuleType, digits_bundle: Path) -> None:
    bundle = open_bundle(digits_bundle)
    memory, energy = scenario.cost(bundle)
    assert sum(memory.values()) == memory_plan(bundle).total_bytes
    assert memory["si"] == sum(7 * bundle.tensors[rate.tensor].size for rate in bundle.manifest.learning.rule.rates)
    assert energy["update"] == pytest.approx(price(get_board("pico2"), work(bundle).update)[0])
    assert energy["update"] > energy["inference"] > 0
    still = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, learning=LearningPlan()))
    assert scenario.cost(still) == ({"inference": memory["inference"]}, {"inference": energy["inference"]})
