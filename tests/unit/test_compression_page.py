"""README and docs/exporting.md say of fewer bytes what the commands wrote into docs/compression-results.md."""

import re
from pathlib import Path
from types import ModuleType

import pytest
from modules import load

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/compression-results.md").read_text(encoding="utf-8")
GUIDE, README = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/exporting.md", "README.md"))
UNIFORM = "Uniform and mixed bits on the integer core"
PAPER = "Three spiking convolutions on N-MNIST, as in the paper"
MIXED = "mixed, 58% of 8 bits"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def table(title: str) -> list[dict[str, str]]:
    """The rows of one table, by the heads of its columns."""
    _, _, section = PAGE.partition(f"## {title}\n")
    heads, _, *rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [dict(zip(cells(heads), cells(row), strict=True)) for row in rows]


def row(net: str, plan: str) -> dict[str, str]:
    (found,) = (row for row in table(UNIFORM) if (row["net"], row["plan"]) == (net, plan))
    return found


def best(net: str, plan: str) -> str:
    """The mean after training back, where there was any, without its spread."""
    found = row(net, plan)
    return found["rounded" if found["trained back"] == "-" else "trained back"].partition(" ±")[0]


NETS = dict.fromkeys(row["net"] for row in table(UNIFORM))


@pytest.mark.parametrize("net", NETS)
def test_the_guide_repeats_what_the_command_wrote(net: str) -> None:
    saved = row(net, MIXED)["against 8 bits"]
    figures = (best(net, "float"), best(net, "uniform 8"), best(net, MIXED), best(net, "uniform 4"), saved)
    assert f"| {net} | {' | '.join(figures)} |" in GUIDE


def test_the_readme_repeats_what_the_command_wrote() -> None:
    net = "Fashion-MNIST, CNN"
    saved = row(net, MIXED)["against 8 bits"].lstrip("-")
    assert f"{saved} less than at 8 bits, for {best(net, MIXED)} instead of {best(net, 'uniform 8')}" in README


def test_the_papers_setting_is_as_small_as_the_paper_says() -> None:
    rows = {row["plan"]: row for row in table(PAPER)}
    for plan in ("the paper's 8, 8, 16, readout 16", "mixed of 4, 8, 16 by trace"):
        assert float(rows[plan]["against 32 bits"].removesuffix(" %")) <= -58
        assert rows[plan]["runs in"] == "float net, weights rounded"
    assert {row["runs in"] for row in rows.values() if "16" not in row["bits by layer"]} == {
        "integer core",
        "float net",
    }


@pytest.mark.parametrize("picture", re.findall(r"\]\((images/[^)]*)\)", PAGE))
def test_every_picture_is_there(picture: str) -> None:
    assert (ROOT / "docs" / picture).read_text(encoding="utf-8").startswith("<svg")


# ------------------------------------------------------------------ how commands write it


@pytest.fixture
def tables() -> ModuleType:
    return load(ROOT / "benchmarks/tables.py", "tables_alone")


def test_a_command_rewrites_its_own_section_only(tables: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("top\n<!-- a -->\nold\n<!-- end of a -->\nmiddle\n<!-- b -->\nkept\n<!-- end of b -->\n")
    for _ in range(2):
        tables.write_section(page, "a", tables.Table("Title", ("x", "y"), [("1", r"\2")]).markdown("said"))
        assert page.read_text() == (
            "top\n<!-- a -->\n## Title\n\nsaid\n\n| x | y |\n|---|---|\n| 1 | \\2 |\n<!-- end of a -->\n"
            "middle\n<!-- b -->\nkept\n<!-- end of b -->\n"
        )
    with pytest.raises(ValueError, match="has no section"):
        tables.write_section(page, "c", "text")


def test_spread_is_mean_and_sample_deviation(tables: ModuleType) -> None:
    assert tables.spread([0.94, 0.95, 0.96]) == "95.00 ± 1.00"
    assert tables.spread([0.5]) == "50.00"
