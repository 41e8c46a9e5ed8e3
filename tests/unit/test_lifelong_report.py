"""`edgerun report`: a page of a benchmark's runs, a page of a device's life, and what is refused."""

from __future__ import annotations

import re
import zlib
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from edgerun.boards import get_board, price
from edgerun.bundle import Bundle, open_bundle
from edgerun.cli import main
from edgerun.encode import quantise
from edgerun.learn.records import Boundary, Forget, NewClass, Settle
from edgerun.lifetime import Lifetime
from edgerun.linux.disk import RealDisk
from edgerun.price import learn_cost, work
from exporters import charts, runs_page
from exporters.charts import Line, Mark
from exporters.life import Life, relive
from exporters.life_page import trailing
from exporters.runs import Run, write_runs

Capture = pytest.CaptureFixture[str]
VOID = {"meta", "img", "br"}


class Balance(HTMLParser):
    """Every tag that is opened is closed, and nothing comes from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert name not in ("href", "onload", "onclick")
            assert name != "src" or (value or "").startswith("data:image/png;base64,")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> str:
    """A page's words. Fails where its tags do not match."""
    parser = Balance()
    parser.feed(page.removeprefix("<!doctype html>"))
    assert parser.open == []
    assert "nan" not in re.findall(r'(?:points|cx|cy|x|y|width|height)="([^"]*)"', page)
    assert not re.search(r"<script|http://|https://|@import|url\(", page)
    return re.sub(r"\s+", " ", " ".join(parser.text))


# ------------------------------------------------------------------ a benchmark


def runs(tasks: int = 3) -> list[Run]:
    found = []
    for arm, loss in (("none", 0.0), ("plain", 0.3), ("full", 0.1), ("full (float)", 0.05), ("<b>", 0.0)):
        for seed in (1, 2):
            drop = loss * np.maximum(0, np.subtract.outer(np.arange(tasks), np.arange(tasks)))
            found.append(
                Run(
                    scenario="three_tasks",
                    arm=arm,
                    seed=seed,
                    matrix=(0.9 + 0.02 * seed - drop).clip(0, 1).tolist(),
                    untrained=[0.5] * tasks,
                    memory_bytes={"inference": 1024, "shadow": 2048},
                    energy_uj={"inference": 2.0, "update": 9.0},
                    figures={"updates": 100.0},
                    tasks=[f"task {k}" for k in range(tasks)],
                )
            )
    return found


def test_a_benchmark_becomes_a_page(tmp_path: Path, capsys: Capture) -> None:
    write_runs(tmp_path / "r.json", runs())
    assert main(["report", str(tmp_path / "r.json"), "-o", str(tmp_path / "r.html")]) == 0
    assert "r.html: " in capsys.readouterr().out
    words = read((tmp_path / "r.html").read_text())
    assert "5 arms, 2 runs each: none, plain, full, full (float), <b>." in words
    assert "83.0 ± 1.4%" in words  # of full: 0.93 - (0.2 + 0.1 + 0) / 3
    assert "three tasks" in words
    assert "3.0 KB" in words
    assert "4.5" in words


def test_a_heat_map_has_every_accuracy() -> None:
    mean = runs_page.matrix([run for run in runs() if run.arm == "plain"])
    cells = re.findall(r"<td([^>]*)>([^<]*)</td>", mean)
    values = [text for _, text in cells if not text.startswith("task")]
    assert values == ["93", "93", "93", "63", "93", "93", "33", "63", "93"]
    faint = [("faint" in style) for style, text in cells if not text.startswith("task")]
    assert faint == [False, True, True, False, False, True, False, False, False]


def test_runs_without_tasks_or_cost_have_a_page_too() -> None:
    words = read(runs_page.page([Run(scenario="xor", arm="full", seed=1, figures={"loss": 0.25})]))
    assert "1 arm, 1 run each: full." in words
    assert "0.25" in words
    assert "Memory" not in words


def test_one_task_has_no_curves() -> None:
    words = read(runs_page.page(runs(1)))
    assert "All tasks so far" not in words
    assert "after every task" in words


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("r.json", b"[]", "r.json has runs of 0 scenarios"),
        ("r.json", b"\xff\x00", "r.json: "),
        ("r.json", b'[{"scenario":"a","arm":"b","seed":1,"matrix":[[2]]}]', "an accuracy is in [0, 1]"),
    ],
)
def test_wrong_runs_are_one_line(name: str, data: bytes, words: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / name).write_bytes(data)
    assert main(["report", str(tmp_path / name), "-o", str(tmp_path / "r.html")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


# ------------------------------------------------------------------ a device


@pytest.fixture(scope="module")
def bundle(digits_bundle: Path) -> Bundle:
    return open_bundle(digits_bundle)


@pytest.fixture(scope="module")
def state(bundle: Bundle, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A device's folder after every kind of record; its lessons 9 and 10 are wrong."""
    folder = tmp_path_factory.mktemp("state")
    field = np.load(digits / "field.npz")
    life = Lifetime(bundle, RealDisk(folder))
    for k in range(11):
        x, y = quantise(bundle.manifest.input, field["x"][k]), int(field["y"][k])
        life.teach(x, (y + 3) % 8 if k in (8, 9) else y, "full" if k < 6 else "light", k)
    life.change(Boundary(reason="command"))
    life.judge()
    life.change(NewClass(label="<mug>"))
    life.teach(quantise(bundle.manifest.input, field["x"][12]), 8, "head", 0)
    life.change(Settle())
    life.change(Forget(label=2))
    life.roll_back("last-good")
    life.commit()
    return folder


@pytest.fixture(scope="module")
def life(bundle: Bundle, state: Path) -> Life:
    return relive(bundle, RealDisk(state), get_board("pico2"), lambda done, total: None)


def test_a_replay_tells_every_lesson(life: Life) -> None:
    assert [note.level for note in life.lessons] == ["full"] * 6 + ["light"] * 5 + ["head"]
    assert [note.label for note in life.lessons][-1] == "<mug>"
    assert not any(note.taught.correct for note in life.lessons[8:10])
    assert sum(note.taught.correct for note in life.lessons[:8]) >= 6
    assert life.lessons[9].taught.norm > 0
    assert life.replayed.digest_equal


def test_events_stand_where_they_happened(life: Life) -> None:
    assert [(event.lesson, event.kind) for event in life.events] == [
        (11, "boundary"),
        (11, "verdict"),
        (11, "new class"),
        (12, "settled"),
        (12, "forgotten"),
        (12, "rollback"),
    ]
    assert life.events[4].words == "2"


def test_the_probe_is_scored_wherever_the_state_came_to_rest(life: Life, bundle: Bundle) -> None:
    assert [probed.lesson for probed in life.probes] == [0, 11, 11, 12, 12, 12]
    first = life.probes[0]
    assert first.share > 0.95
    assert set(first.by_class) == set("01234567")
    assert life.probes[4].by_class["2"] == 0  # just forgotten
    counts = np.bincount(bundle.probe.label, minlength=8)
    mean = sum(first.by_class[str(k)] * counts[k] for k in range(8)) / counts.sum()
    assert mean == pytest.approx(first.share)


def test_energy_is_the_price_of_what_was_done(life: Life, bundle: Bundle) -> None:
    counted, board = work(bundle), get_board("pico2")
    full = sum(price(board, learn_cost(counted, note.taught.updates, "full"))[0] for note in life.lessons[:6])
    assert life.energy_uj["full"] == pytest.approx(full)
    assert life.energy_uj["boundaries"] == pytest.approx(price(board, counted.consolidate)[0])
    assert dict(life.counts) == {"full": 6, "light": 5, "head": 1, "boundaries": 1, "verdicts": 1}


def test_what_changed_is_the_state_at_the_end(life: Life, bundle: Bundle, state: Path) -> None:
    arrays = Lifetime(bundle, RealDisk(state)).learner.arrays()
    for changed in life.changed:
        factory = bundle.tensors[changed.name].astype(np.int64) * 256
        np.testing.assert_array_equal(changed.moved + factory, arrays[f"shadow.{changed.name}"])
        np.testing.assert_array_equal(changed.importance, arrays[f"importance.{changed.name}"])
    assert any(changed.moved.any() for changed in life.changed)


def test_a_life_becomes_a_page(digits_bundle: Path, state: Path, tmp_path: Path) -> None:
    page = tmp_path / "life.html"
    assert main(["report", str(state), "--bundle", str(digits_bundle), "-o", str(page)]) == 0
    words = read(page.read_text())
    assert "every digest equal" in words
    assert "12 lessons (6 full, 5 light, 1 head)" in words
    assert "<mug> (1)" in words
    for title in ("What it answered", "What it kept", "How much it changed", "Energy on pico2", "Between lessons"):
        assert title in words
    assert re.search(r"kept: \d+ of \d+ right", words)


def test_a_life_without_lessons_has_a_page(digits_bundle: Path, bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    life = Lifetime(bundle, RealDisk(folder))
    life.change(Boundary(reason="idle"))
    life.commit()
    assert main(["report", str(folder), "--bundle", str(digits_bundle), "-o", str(tmp_path / "p.html")]) == 0
    assert "0 lessons" in read((tmp_path / "p.html").read_text())


def test_a_replay_that_differs_says_so(digits_bundle: Path, bundle: Bundle, digits: Path, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    life, field = Lifetime(bundle, RealDisk(folder)), np.load(digits / "field.npz")
    life.teach(quantise(bundle.manifest.input, field["x"][0]), int(field["y"][0]), "full", 0)
    life.learner.arrays()["recent"][...] = 3  # a bit that no journal explains
    life.checkpoint()
    assert main(["report", str(folder), "--bundle", str(digits_bundle), "-o", str(tmp_path / "p.html")]) == 1
    assert "THE REPLAY DIFFERS at epoch 0 record 1" in read((tmp_path / "p.html").read_text())


def test_what_is_no_journal_is_one_line(
    digits_bundle: Path, mlp_bundle: Path, state: Path, tmp_path: Path, capsys: Capture
) -> None:
    write_runs(tmp_path / "r.json", runs())
    for arguments, words in (
        ([str(state)], "--bundle must name the bundle"),
        ([str(state), "--bundle", str(mlp_bundle)], "was learned on bundle"),
        ([str(state), "--bundle", str(digits_bundle), "--board", "toaster"], "toaster"),
        ([str(tmp_path), "--bundle", str(digits_bundle)], "holds no journal"),
        ([str(tmp_path / "none"), "--bundle", str(digits_bundle)], "none"),
        ([str(tmp_path / "r.json"), "--bundle", str(digits_bundle)], "--bundle goes with a device's state folder"),
    ):
        assert main(["report", *arguments, "-o", str(tmp_path / "p.html")]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
        assert not (tmp_path / "p.html").exists()


# ------------------------------------------------------------------ charts


def test_a_trailing_mean_starts_short_and_ends_at_the_last() -> None:
    x, y = trailing(np.array([1.0, 0.0, 0.0, 1.0]), 2)
    assert (x, y) == ([1, 2, 3, 4], [1.0, 0.5, 0.0, 0.5])
    long, _ = trailing(np.zeros(10_000), 10)
    assert (long[0], long[-1], len(long)) == (1, 10_000, 400)


def test_a_gap_breaks_a_line() -> None:
    svg = charts.lines([0, 1, 2, 3, 4], [Line("a<b", [1, 2, None, float("nan"), 3], "--a")], marks=[Mark(2, "x<y")])
    points = re.findall(r'<polyline points="([^"]*)"', svg)
    assert [len(run.split()) for run in points] == [2, 1]
    assert "a&lt;b" in svg
    assert "x&lt;y" in svg


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 100, [0, 20, 40, 60, 80, 100]), (-55, 3, [-60, -40, -20, 0, 20]), (0, 0.3, [0, 0.1, 0.2, 0.3])],
)
def test_steps_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert charts.steps(low, high) == pytest.approx(ticks)


def test_a_picture_is_a_png_of_the_shades() -> None:
    shades = np.array([[0, 255, 7], [9, 0, 1]], np.uint8)
    coded = re.search(r"base64,([^\"]*)", charts.picture(shades, "w"))
    assert coded is not None
    data = b64decode(coded[1])
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) == (3, 2)
    start = data.index(b"IDAT") + 4
    length = int.from_bytes(data[start - 8 : start - 4])
    assert zlib.decompress(data[start : start + length]) == b"\0\0\xff\x07\0\x09\0\x01"


@pytest.mark.parametrize(
    ("value", "words"), [(0.25, "0.25 µJ"), (0.0, "0 µJ"), (11_100, "11.1 mJ"), (5.31e6, "5.31 J")]
)
def test_energy_has_the_unit_that_suits(value: float, words: str) -> None:
    assert charts.joules(value) == words


def test_the_example_of_the_guide_is_read(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs/reporting.md").read_text()
    example = re.search(r"```json\n(.*?)```", guide, re.DOTALL)
    assert example is not None
    (tmp_path / "r.json").write_text(example[1])
    assert main(["report", str(tmp_path / "r.json"), "-o", str(tmp_path / "r.html")]) == 0
    assert "26.4" in read((tmp_path / "r.html").read_text())  # the learning tax


@pytest.mark.parametrize(("value", "words"), [(0.125, "0.125"), (-2.5, "-2.5"), (12_500, "12,500"), (0, "0")])
def test_ticks_are_written_out(value: float, words: str) -> None:
    assert charts.number(value) == words
