"""Shares of the blame add up, name the guilty layer, and the page shows them without asking anyone for anything."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgerun.arrays import F32
from exporters.blame import Shares, blame
from exporters.data import Samples
from exporters.explain import beyond, confusion
from exporters.float_net import FloatNet
from exporters.nodes import Affine, FloatDense
from exporters.page import page, percent
from exporters.report import Report
from exporters.twin import quantise_net

RNG = np.random.default_rng(3)
GOLDEN = Path(__file__).parents[1] / "golden"


def normal(*shape: int) -> F32:
    return RNG.normal(size=shape).astype(np.float32)


NET = FloatNet(
    "three",
    (20,),
    (
        FloatDense("first", normal(16, 20), normal(16), low=0.0),
        FloatDense("second", normal(16, 16), normal(16), low=0.0),
        FloatDense("third", normal(6, 16), normal(6)),
    ),
)
SAMPLES = Samples(RNG.normal(size=(60, 20)).astype(np.float64), np.arange(60) % 6)


def shares(**bits: int) -> Shares:
    return blame(quantise_net(NET, SAMPLES, bits=bits), SAMPLES)


def test_shares_add_up_to_the_whole_error() -> None:
    found = shares(first=4)
    assert [share.name for share in found.layers] == ["first", "second", "third"]
    assert sum(share.error for share in found.layers) == pytest.approx(found.error)
    moved = sum(share.accuracy for share in found.layers)
    assert moved == pytest.approx(found.float_accuracy - found.accuracy)


@pytest.mark.parametrize("guilty", ["first", "second", "third"])
def test_the_coarse_layer_gets_the_blame(guilty: str) -> None:
    found = {share.name: share.error for share in shares(**{guilty: 3}).layers}
    assert found.pop(guilty) > 10 * max(found.values())


def test_what_integers_cannot_hold_is_counted() -> None:
    narrow = replace(NET, layers=(replace(NET.layers[0], output=Affine(0.01, -128)), *NET.layers[1:]))
    assert beyond(quantise_net(narrow, SAMPLES), SAMPLES)["first"] > 0.2
    assert beyond(quantise_net(NET, SAMPLES), SAMPLES)["first"] == 0.0


def test_confusions_count_labelled_samples_only() -> None:
    answers = np.array([[3, 1, 9], [0, 5, 1], [1, 0, 0]])  # the third output belongs to no factory class
    assert confusion(np.array([0, 0, -1]), answers, 2) == ((1, 1), (0, 0))


class Outline(HTMLParser):
    """Headings, and everything that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    pytest.importorskip("onnx", reason="pip install 'edgerun[export]'")
    pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")
    from exporters.export import Options, export

    return export(GOLDEN / "digits_mlp.onnx", GOLDEN / "digits.npz", Options(), boards=("nucleo-f446",)).report


def test_the_page_says_what_the_report_says(report: Report) -> None:
    text = page(report)
    outline = Outline()
    outline.feed(text)
    assert outline.tags.count("svg") == 3  # blame, bytes, energy on one board
    assert "script" not in outline.tags
    assert not outline.links
    assert "url(" not in text
    found = report.explanation
    assert found is not None
    for layer in found.layers:
        assert re.search(rf">{layer.bytes:,}<", text)
        assert f">{percent(layer.error_share)}" in text
        assert f"{layer.energy_uj['nucleo-f446']:,.3g} µJ" in text
    assert f"{report.accuracy.integer:.2%}" in text
    assert sum(map(sum, found.confusion_integer)) == report.accuracy.samples


def test_small_shares_keep_two_digits() -> None:
    assert [percent(share) for share in (0.5, 1e-4, -2e-3, 6.4e-5, -7.12e-6, 0.0)] == [
        "50.000%", "0.010%", "-0.200%", "0.0064%", "-0.00071%", "0%",
    ]  # fmt: skip


def test_points_are_lost_or_gained(report: Report) -> None:
    for found, words in ((0.9, "<b>5.00</b><span>points lost"), (0.96, "<b>1.00</b><span>points gained")):
        accuracy = msgspec.structs.replace(report.accuracy, integer=found, float_model=0.95)
        assert words in page(msgspec.structs.replace(report, accuracy=accuracy))


def test_long_class_names_stand_upright(report: Report) -> None:
    assert report.explanation is not None
    assert 'class="tall"' not in page(report)
    long = msgspec.structs.replace(report.explanation, classes=("trouser", *report.explanation.classes[1:]))
    assert page(msgspec.structs.replace(report, explanation=long)).count('class="tall"') == 2


def test_names_cannot_write_into_the_page(report: Report) -> None:
    wicked = msgspec.structs.replace(report, name="<script>alert(1)</script>", notes=("<img src=x>",))
    outline = Outline()
    outline.feed(page(wicked))
    assert not {"script", "img"} & set(outline.tags)


def test_a_report_without_explanation_is_a_page_too(report: Report) -> None:
    text = page(msgspec.structs.replace(report, explanation=None))
    assert "<svg" not in text
    assert "Certificate" in text
