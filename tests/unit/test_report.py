"""The demo's report: what it says, what it refuses, and the page in a real browser. All numbers here are invented."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modules import load

from deploy.report import Report as ReportFacts
from deploy.report import read, render, verdicts, write_report
from edgerun.errors import DataError
from edgerun.spec import LEVELS

GOLDEN = Path(__file__).parents[1] / "golden"
ATTACK = '</script><img src="http://evil.example/x" onerror="document.title=1"><b>&amp;\u2028'
SECONDS = 1800


# ------------------------------------------------------------------ invented runs

REPORT: dict[str, Any] = {
    "scenario": "invented digits, sensor turned by 25 degrees",
    "seed": 7,
    "wall_s": 61.4,
    "bundle": {"sha256": "5e" * 32, "bytes": 48_320},
    "board": "rpi-zero-2w",
    "accuracy": {
        "float": 0.975,
        "factory_int": 0.972,
        "drifted_no_adaptation": 0.561,
        "drifted_without_consolidation": 0.41,
        "drifted_full": 0.783,
        "old_without_consolidation": 0.57,
        "old_full": 0.93,
        "new_classes": 0.76,
        "old_classes_after_teaching": 0.85,
        "sensor_when_taught": "drifted",
        "by_head": {
            "none": {
                "prototypes": {"drifted": 0.561, "old": 0.97},
                "readout": {"drifted": 0.55, "old": 0.972},
            },
            "plain": {
                "prototypes": {"drifted": 0.46, "old": 0.61},
                "readout": {"drifted": 0.41, "old": 0.57},
            },
            "full": {"prototypes": {"drifted": 0.783, "old": 0.93}, "readout": {"drifted": 0.74, "old": 0.9}},
        },
    },
    "telemetry": {"published": 1532, "received": 1532, "lost": 0, "duplicates_dropped": 11, "outage_s": 120.0},
    "power_cut": {
        "at_write": 2731,
        "committed_lessons": 482,
        "recovered_lessons": 482,
        "digest_equals_uncut_run": True,
    },
    "governor": {
        "phases": [
            {"budget_mw": 450.0, "worst_window_mw": 431.2, "levels_visited": ["full", "light"]},
            {"budget_mw": 150.0, "worst_window_mw": 149.1, "levels_visited": ["full", "sparse", "head", "infer"]},
            {"budget_mw": 450.0, "worst_window_mw": 402.8, "levels_visited": ["infer", "head", "sparse", "full"]},
        ]
    },
    "energy": {"per_inference_uj": 412.0, "per_update_uj": 9120.0, "source": "estimated"},
    "replay": {"digest_equal": True},
    "memory": {"resident_mb": 41.7, "arena_bytes": 96_256},
}


def metrics() -> dict[str, list[float | None]]:
    """A life of half an hour, one row a second: drift at 120 s, teaching at 900, thrift at 1080, an outage at 1380."""
    noise = np.random.default_rng(1)
    t = np.arange(SECONDS, dtype=float)
    drifted, thrift, gone = t > 120, (t > 1080) & (t < 1380), (t > 1380) & (t < 1500)
    accuracy = np.where(drifted, 0.56 + 0.25 * (1 - np.exp(-(t - 120) / 300)), 0.97)
    accuracy -= 0.12 * np.exp(-(((t % 195) / 40) ** 2)) * drifted
    level = np.where(thrift, np.clip(2 + (t - 1080) // 20, 2, 4) - np.clip((t - 1280) // 30, 0, 3), 0)
    power = np.where(thrift, 120, 395) + noise.normal(0, 6, SECONDS) + 900 * (t % 97 == 0)
    window = np.convolve(np.pad(power, (59, 0), mode="edge"), np.full(60, 1 / 60), mode="valid")
    lessons = np.cumsum((t > 130) & (level < 4) & (t % 3 == 0))
    columns: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {
        "accuracy": np.clip(accuracy + noise.normal(0, 0.01, SECONDS), 0, 1),
        "probe_accuracy": np.where(t % 60 == 0, 0.97 - 0.04 * (t > 400), np.nan),
        "forgetting": np.where(t % 60 == 0, 0.04 * (t > 400), np.nan),
        "power_mw": power,
        "power_window_mw": np.minimum(window, np.where(thrift, 149, 449)),
        "budget_mw": np.where(thrift, 150.0, 450.0),
        "level": level,
        "drift": np.where(drifted, 6 * np.exp(-(t - 120) / 200), 0.4) + noise.random(SECONDS) * 0.3,
        "lessons": lessons,
        "updates": lessons * 3.0,
        "outbox_depth": np.where(gone, (t - 1380) * 1.3, noise.integers(0, 4, SECONDS)),
        "energy_uj": np.cumsum(power) * 1e3,
        "importance_p50": np.minimum(t / 60, 18),
        "importance_p99": np.minimum(t / 9, 140),
    }
    return {name: [None if math.isnan(v) else round(float(v), 4) for v in column] for name, column in columns.items()}


def confusion(right: list[float], wrong: int) -> list[list[int]]:
    """40 shown of each digit; those that are wrong go to the one `wrong` further."""
    rows = [[0] * 10 for _ in range(10)]
    for digit, share in enumerate(right):
        rows[digit][digit] = round(40 * share)
        rows[digit][(digit + wrong) % 8] += 40 - round(40 * share)
    return rows


def invented_traces() -> dict[str, Any]:
    with np.load(GOLDEN / "digits.npz") as data:
        first = [data["x"][np.flatnonzero(data["y"] == digit)[0]].astype(int) for digit in range(10)]
    turned = [np.roll(image, 1, axis=1) * np.tri(8, k=5, dtype=int) for image in first]
    return {
        "t": [float(t) for t in range(SECONDS)],
        "metrics": metrics(),
        "events": [
            {"t": 0.0, "kind": "started", "text": "Started digits on rpi-zero-2w"},
            {"t": 131.0, "kind": "drift", "text": "The input has drifted: activity at 5.25"},
            {"t": 610.0, "kind": "consolidated", "text": "Consolidated what was learned after 640 updates"},
            {"t": 905.0, "kind": "class-added", "text": "A new class: “8”, 9 classes known now"},
            {"t": 960.0, "kind": "taught", "text": "An operator taught “9” with 10 examples"},
            {"t": 1080.0, "kind": "budget", "text": "New budget: 150 mW"},
            *({"t": 1082.0 + 20 * k, "kind": "level", "text": f"Moved to {LEVELS[2 + k]}"} for k in range(3)),
            {"t": 1502.0, "kind": "checkpoint", "text": "Checkpoint 14 is safe"},
            {"t": 1640.0, "kind": "restored", "text": "Restored checkpoint 14, replayed 9 lessons"},
        ],
        "chapters": [
            {"from": 120.0, "to": 900.0, "title": "The sensor drifts", "text": "Corrections, two digits at a time."},
            {"from": 900.0, "to": 1080.0, "title": "8 and 9", "text": "Taught over MQTT, ten examples each."},
            {"from": 1080.0, "to": 1380.0, "title": "A third of it all", "text": "The governor sheds, then recovers."},
            {"from": 1380.0, "to": 1500.0, "title": "No broker", "text": "Messages wait in the outbox."},
            {"from": 1620.0, "to": 1660.0, "title": "Power cut", "text": "In the middle of a lesson."},
        ],
        "blocks": {
            "names": ["0 1", "2 3", "4 5", "6 7"],
            "arms": {
                "none": {"drifted": [0.561] * 4, "old": [0.97] * 4},
                "plain": {"drifted": [0.5, 0.44, 0.47, 0.41], "old": [0.85, 0.71, 0.66, 0.57]},
                "full": {"drifted": [0.6, 0.68, 0.74, 0.783], "old": [0.96, 0.95, 0.94, 0.93]},
            },
        },
        "confusion": {
            "labels": [str(digit) for digit in range(10)],
            "before": confusion([0.9, 0.3, 0.6, 0.7, 0.4, 0.5, 0.65, 0.45, 0, 0], 3),
            "after": confusion([0.95, 0.8, 0.85, 0.8, 0.75, 0.85, 0.9, 0.8, 0.72, 0.8], 1),
        },
        "images": {"clean": [i.tolist() for i in first], "drifted": [i.tolist() for i in turned]},
        "plan": {
            "parts": {"weights": 21_504, "state": 3_072, "traces": 24_576, "si": 28_672, "replay": 8_192, "io": 640},
            "flash_bytes": 152_576,
            "ram_bytes": 96_256,
            "inference_uj": 405.0,
            "lesson_uj": {"full": 21_300.0, "light": 9_800.0, "sparse": 3_100.0, "head": 640.0},
        },
        "seeds": [
            {
                "drifted_no_adaptation": 0.55 + 0.01 * k,
                "drifted_without_consolidation": 0.4 + 0.02 * k,
                "drifted_full": 0.76 + 0.008 * k,
                "old_without_consolidation": 0.55 + 0.015 * k,
                "old_full": 0.92 + 0.005 * k,
                "new_classes": 0.72 + 0.02 * k,
            }
            for k in range(5)
        ],
    }  # fmt: skip


TRACES = invented_traces()


def changed(path: str, value: Any, source: dict[str, Any] = REPORT) -> dict[str, Any]:
    """A deep copy with one value replaced; `path` goes through keys and indices by dots."""
    made = copy.deepcopy(source)
    *way, name = (int(step) if step.isdigit() else step for step in path.split("."))
    place: Any = made
    for step in way:
        place = place[step]
    place[name] = value
    return made


class Collected(HTMLParser):
    """Every tag of a page, and its text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._code = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._code = tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:
        self._code = False

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


# ------------------------------------------------------------------ words and verdicts


def test_report_json_is_sorted_and_says_what_was_given(tmp_path: Path) -> None:
    page = write_report(tmp_path / "made" / "here", REPORT, TRACES)
    text = (page.parent / "report.json").read_text()
    assert json.loads(text) == REPORT
    assert list(json.loads(text)) == sorted(REPORT)
    assert text.startswith('{\n  "accuracy"')
    assert page.name == "report.html"
    assert page.read_text(encoding="utf-8") == render(REPORT, TRACES)


def test_the_verdicts_stand_as_big_numbers() -> None:
    figures = re.findall(r'<p class="figure(?: words)?">(.*?)<small>(.*?)</small>', render(REPORT, TRACES))
    assert figures == [("78.3", "%"), ("93", "%"), ("76", "%"), ("0", ""), ("bit for bit", ""), ("99.4", "% of budget")]
    assert "It went on learning, and kept what it knew." in render(REPORT, TRACES)


BROKEN = {
    "too little regained": ("accuracy.drifted_full", 0.7109, 0),
    "too much forgotten": ("accuracy.old_full", 0.7699, 1),
    "new classes unlearned": ("accuracy.new_classes", 0.6999, 2),
    "old classes paid for new ones": ("accuracy.old_classes_after_teaching", 0.8299, 2),
    "a message lost": ("telemetry.lost", 1, 3),
    "a lesson lost": ("power_cut.recovered_lessons", 481, 4),
    "other bits": ("power_cut.digest_equals_uncut_run", False, 4),
    "over budget in one phase": ("governor.phases.1.worst_window_mw", 150.01, 5),
}


@pytest.mark.parametrize(("path", "value", "place"), BROKEN.values(), ids=BROKEN)
def test_a_broken_promise_is_said(path: str, value: Any, place: int) -> None:
    report = changed(path, value)
    held = [verdict.held for verdict in verdicts(read(report, ReportFacts, "report"))]
    assert held == [index != place for index in range(6)]
    page = Collected(render(report, TRACES)).text
    assert "It went on learning; 5 of 6 promises held." in page
    assert page.count("✕ short") == 1


KEPT = {
    "regained just enough": ("accuracy.drifted_full", 0.711),
    "saved just enough": ("accuracy.old_full", 0.77),
    "learned just enough": ("accuracy.new_classes", 0.7),
    "exactly the budget": ("governor.phases.1.worst_window_mw", 150.0),
}


@pytest.mark.parametrize(("path", "value"), KEPT.values(), ids=KEPT)
def test_the_bar_itself_is_kept(path: str, value: float) -> None:
    assert all(verdict.held for verdict in verdicts(read(changed(path, value), ReportFacts, "report")))


def test_every_number_of_the_story_comes_from_the_run() -> None:
    report = changed("telemetry.outage_s", 37.0, changed("power_cut.at_write", 1234))
    traces = changed("blocks.names", ["7 1", "2 3", "4 5", "6 0"], TRACES)
    text = Collected(render(report, traces)).text
    assert "(7 1, then 2 3, then 4 5, then 6 0)" in text
    assert "the new classes 8 and 9 are taught" in text
    assert "the budget moves between 450 and 150 mW, the broker is gone for 37 s" in text
    assert "the power is cut at write 1,234" in text
    assert "3 arms live through the same stream (no adaptation, e-prop without protection and the full system)" in text


def test_estimated_energy_is_called_estimated() -> None:
    text = Collected(render(REPORT, TRACES)).text
    assert "Energy and power are estimated: counted operations, priced with the board's coefficients." in text
    measured = Collected(render(changed("energy.source", "measured"), TRACES)).text
    assert "are measured: read from a sensor" in measured
    assert "counted operations" not in measured


# ------------------------------------------------------------------ refusals


HOSTILE = {
    "no accuracy": (lambda r: r.pop("accuracy"), r"report: .*`accuracy`"),
    "text for a number": (lambda r: r["telemetry"].update(lost="none"), r"report: .*int.*\$\.telemetry\.lost"),
    "no phases": (lambda r: r["governor"].update(phases=[]), r"phases are empty"),
    "no budget": (lambda r: r["governor"]["phases"][0].update(budget_mw=0), r"budget_mw 0.* is not positive"),
}


@pytest.mark.parametrize(("spoil", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_a_report_that_is_not_one_is_refused(spoil: Any, reason: str, tmp_path: Path) -> None:
    report = copy.deepcopy(REPORT)
    spoil(report)
    with pytest.raises(DataError, match=reason):
        write_report(tmp_path / "none", report, TRACES)
    assert not (tmp_path / "none").exists()


RAGGED = {
    "a short metric": ("metrics.level", [0.0], "metric level has 1 values for 1800 times"),
    "a short arm": ("blocks.arms.full.old", [0.9], "blocks arm 'full' has no 'old' of 4 values"),
    "a cut matrix": ("confusion.after", [[1.0]], "confusion after is not 10 by 10"),
    "text in a picture": ("images.clean.0.0.0", "x", r"\$\.images\.clean"),
}


@pytest.mark.parametrize(("path", "value", "reason"), RAGGED.values(), ids=RAGGED)
def test_traces_that_do_not_fit_are_refused(path: str, value: Any, reason: str) -> None:
    with pytest.raises(DataError, match=f"traces: .*{reason}"):
        render(REPORT, changed(path, value, TRACES))


# ------------------------------------------------------------------ one file, no way out


def hostile_strings() -> tuple[dict[str, Any], dict[str, Any]]:
    """Every string that comes from outside is an attack."""
    report = changed("board", ATTACK, changed("scenario", ATTACK, changed("accuracy.sensor_when_taught", ATTACK)))
    report["energy"]["source"] = report["bundle"]["sha256"] = ATTACK
    report["governor"]["phases"][0]["levels_visited"] = [ATTACK]
    report["accuracy"]["by_head"] = {ATTACK: {ATTACK: {"drifted": 0.5, "old": 0.5}}}
    traces = copy.deepcopy(TRACES)
    traces["events"] = [{"t": 5.0, "kind": kind, "text": ATTACK} for kind in (ATTACK, "drift")]
    traces["chapters"] = [{"from": 1.0, "to": 900.0, "title": ATTACK, "text": ATTACK}]
    traces["blocks"] = {"names": [ATTACK], "arms": {ATTACK: {"drifted": [0.1], "old": [0.2]}}}
    traces["confusion"]["labels"] = [f"{ATTACK}{k}" for k in range(10)]
    traces["plan"]["parts"] = {ATTACK: 5}
    traces["plan"]["lesson_uj"] = {ATTACK: 5.0}
    traces["seeds"] = [{ATTACK: 0.5}]
    return report, traces


def test_strings_from_outside_stay_strings() -> None:
    tags = Collected(render(*hostile_strings())).tags
    plain = Collected(render(REPORT, TRACES)).tags
    assert {tag for tag, _ in tags} == {tag for tag, _ in plain}
    assert not any(tag == "img" or "onerror" in attributes for tag, attributes in tags)
    assert sum(tag == "script" for tag, _ in tags) == 3


def test_nothing_in_the_page_points_outside() -> None:
    tags = Collected(render(REPORT, TRACES)).tags
    links = [value for _, attributes in tags for name, value in attributes.items() if name in {"src", "href"}]
    assert links
    assert all(str(link).startswith("#") for link in links)
    policy = next(attributes["content"] for _, attributes in tags if "http-equiv" in attributes)
    assert str(policy).startswith("default-src 'none'")
    assert "'unsafe-inline'" not in str(policy).split("script-src")[1].split(";")[0]


# ------------------------------------------------------------------ in a real browser


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    pytest.importorskip("websocket", reason="driving a browser needs websocket-client: pip install --group dev")
    devtools = load(Path(__file__).parents[1] / "contract" / "devtools.py")
    if devtools.find_chromium() is None:
        pytest.skip("chromium is not installed: make system-deps")
    with devtools.chromium(tmp_path) as opened:
        yield opened


INKED = """[...document.querySelectorAll('canvas')].map((c) =>
    c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v, i) => i % 4 == 3 && v))"""
FIGURES = ("digits", "heads", "seeds", "before", "after", "memory", "energy", "phases")


def show(page: Any, address: str, width: int, *, dark: bool = False) -> None:
    page.open(address, width, 900, dark=dark)
    page.until("document.documentElement.dataset.drawn")
    page.until(f"{list(FIGURES)}.every((id) => document.querySelector(`#${{id}} svg`))")


def hover(page: Any, selector: str, share: float = 0.5) -> None:
    """Scroll to an element, let the page notice, and move the pointer to a share of its width."""
    page.evaluate(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center', behavior: 'instant'}})")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")
    x, y = page.evaluate(
        f"(() => {{ const b = document.querySelector({selector!r}).getBoundingClientRect();"
        f" return [b.left + {share} * b.width, b.top + b.height / 2] }})()"
    )
    for at in (x - 3, x):
        page.call("Input.dispatchMouseEvent", type="mouseMoved", x=at, y=y)


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)], ids=["light", "dark", "phone"])
def test_the_page_draws_itself_alone(page: Any, tmp_path: Path, width: int, dark: bool) -> None:
    address = write_report(tmp_path, REPORT, TRACES).as_uri()
    show(page, address, width, dark=dark)
    assert page.evaluate("document.querySelectorAll('canvas').length") == 9
    assert page.evaluate(INKED) == [True] * 9
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    edges = "new Set([...document.querySelectorAll('#charts .u-over')].map((o) => o.getBoundingClientRect().left)).size"
    assert page.evaluate(edges) == 1, "the charts' times line up"
    assert page.requested() == [address]
    assert page.complaints() == []


@pytest.mark.browser
def test_attacks_are_shown_as_text(page: Any, tmp_path: Path) -> None:
    address = write_report(tmp_path, *hostile_strings()).as_uri()
    show(page, address, 1280)
    assert page.evaluate("document.querySelectorAll('img, p b i').length") == 0
    assert page.evaluate("document.querySelector('#chapters b').textContent") == f"1{ATTACK}"
    hover(page, "#strip [data-tip]", 0.1)
    page.until("!document.querySelector('#tip').hidden")
    assert page.evaluate("document.querySelector('#tip').children.length") == 0
    assert page.evaluate("document.title") == f"edgerun · {ATTACK}"
    assert page.requested() == [address]
    assert page.complaints() == []


@pytest.mark.browser
def test_what_is_not_there_leaves_no_hole(page: Any, tmp_path: Path) -> None:
    report = changed("accuracy.by_head", {})
    traces = {name: value for name, value in TRACES.items() if name != "seeds"}
    traces["metrics"] = {"accuracy": TRACES["metrics"]["accuracy"], "power_mw": [None] * SECONDS}
    page.open(write_report(tmp_path, report, traces).as_uri())
    page.until("document.documentElement.dataset.drawn")
    assert page.evaluate("['heads', 'seeds'].every((id) => document.querySelector(`#${id}`).hidden)")
    assert page.evaluate("[...document.querySelectorAll('#charts h3')].map((h) => h.textContent)") == ["Accuracy %"]
    assert page.complaints() == []


@pytest.mark.browser
def test_figures_answer_the_pointer(page: Any, tmp_path: Path) -> None:
    show(page, write_report(tmp_path, REPORT, TRACES).as_uri(), 1280)
    hover(page, "#after [data-tip]")
    page.until("document.querySelector('#tip').textContent == 'shown 0, answered 0\\n95.0 %, 38 of 40'")
    hover(page, "#drifted .u-over", 0.02)
    page.until("document.querySelector('#drifted .head').textContent.includes('after 0 1')")
    assert "the full system60.0 %" in page.evaluate("document.querySelector('#drifted .head').textContent")
    hover(page, "#charts .chart:nth-child(3) .u-over", 0.7)
    page.until("document.querySelector('#charts .chart:nth-child(3) .head').textContent.includes('infer')")

    page.evaluate("document.querySelectorAll('#chapters button')[3].click()")
    low, high = page.evaluate("[life[0].plot.scales.x.min, life[0].plot.scales.x.max]")
    assert low < 1380 < 1500 < high < 1600
    page.evaluate("document.querySelector('#strip button').click()")
    assert page.evaluate("life.map(({plot}) => plot.scales.x.max)") == [SECONDS - 1.0] * 7


@pytest.mark.browser
def test_the_theme_can_be_switched(page: Any, tmp_path: Path) -> None:
    show(page, write_report(tmp_path, REPORT, TRACES).as_uri(), 1280)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.evaluate("document.querySelector('#theme').click()")
    assert page.evaluate(ground) != light
    page.evaluate("document.querySelector('#theme').click()")
    assert page.evaluate(ground) == light
