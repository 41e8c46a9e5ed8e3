"""The picture is well-formed, shows every layer, and its bars are as long as the numbers say."""

from __future__ import annotations

from xml.etree import ElementTree

from exporters.bits_plot import PANEL, LayerBits, bits_svg

SVG = "{http://www.w3.org/2000/svg}"
LAYERS = (
    LayerBits("conv<1>", 100.0, 8, 1000, 1000),
    LayerBits("dense&2", 1.0, 2, 1000, 4000),
    LayerBits("dead", -0.5, 4, 50, 100),
)


def test_every_layer_has_its_bars() -> None:
    root = ElementTree.fromstring(bits_svg("a < b", LAYERS))
    words = [element.text for element in root.iter(f"{SVG}text")]
    assert {"a < b", "conv<1>", "dense&2", "dead", "8 bits", "2 bits", "4 bits", "100", "1", "-0.5"} <= set(words)
    assert "bytes and bits, 60% under 8 bits" in words
    widths = [float(element.attrib["width"]) for element in root.iter(f"{SVG}rect")][1:]
    traces, stored, frames = widths[0::3], widths[1::3], widths[2::3]
    assert traces[0] == PANEL
    assert traces[1] == round(PANEL / 3, 1)  # two of three decades less
    assert traces[2] == PANEL * 0.004
    assert stored == [PANEL / 4, PANEL / 4, round(PANEL / 80, 1)]
    assert frames == [PANEL / 4, PANEL, round(PANEL / 40, 1)]


def test_the_same_layers_give_the_same_picture() -> None:
    assert bits_svg("t", LAYERS) == bits_svg("t", LAYERS)
