"""Pages and code say the same thing."""

import re
import subprocess
import sys
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
