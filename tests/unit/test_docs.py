"""Pages and code say the same thing."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from edgerun.cli import sections
from edgerun.kernels.noise import fill_words, key

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])
COMMANDS = {row.name for _, rows in sections() for row in rows}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_generated_pages_are_fresh() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_a_page_exists(page: Path) -> None:
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", page.read_text(encoding="utf-8"), re.DOTALL))
    assert set(re.findall(r"(?:^|[\s`$])edgerun ([a-z][a-z-]+)", code, re.MULTILINE)) - COMMANDS == set()
    assert set(re.findall(r"(?:^|[\s`$])make ([a-z][a-z-]+)", code, re.MULTILINE)) - TARGETS == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_the_project_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def anchor(heading: str) -> str:
    """What a link to a heading ends in."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_heading_finds_it(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, name in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", text):
        goal = page.parent / target if target else page
        there = goal.read_text(encoding="utf-8")
        anchors = {anchor(heading) for heading in re.findall(r"^#+ (.*)$", there, re.MULTILINE)}
        assert name in anchors | set(re.findall(r'<a id="([^"]+)">', there)), f"{page.name} links to {target}#{name}"


def test_the_house_stands_as_the_arrows_say() -> None:
    """The lines of `edgerun/` in docs/architecture.md, from the ground up, are the layers that import-linter checks."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    house = re.search(r"^edgerun/ .*?\n(.*?)^exporters/", page, re.MULTILINE | re.DOTALL)
    assert house
    lines = [re.split(r" {3,}", line.strip()) for line in house[1].splitlines()]
    drawn = [word.strip("/") for names, *_ in lines for word in names.split() if not line_is_text(names)]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = [row.split(" | ") for row in reversed(contracts[-1]["layers"])]
    height = {name: floor for floor, names in enumerate(layers) for name in names}
    assert sorted(drawn) == sorted(height)
    assert [height[name] for name in drawn] == sorted(height.values())


def line_is_text(names: str) -> bool:
    """Whether a line goes on with what the line before it says."""
    return ";" in names or "," in names


def test_the_two_commands_stand_in_the_first_screen_of_the_readme() -> None:
    screen = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:30])
    assert "make demo" in screen
    assert "make test" in screen


def test_the_two_commands_are_the_first_two_targets() -> None:
    targets = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert targets[:2] == ["demo", "test"]


def test_the_golden_words_of_the_page_are_those_of_the_kernel() -> None:
    page = (ROOT / "docs" / "arithmetic.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+), (\d+), (\d+) \| `([0-9a-f ]+)` \|$", page, re.MULTILINE)
    assert len(rows) == 2
    for *position, golden in rows:
        seed, update, stream = map(int, position)
        words = np.zeros(4, dtype=np.uint32)
        fill_words(words, key(seed, update, stream))
        assert " ".join(f"{word:08x}" for word in words) == golden
