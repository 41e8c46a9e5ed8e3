"""Every console block of `docs/exporting.md` prints what it says, run in order from the root of the project.

`…` stands for anything: the rest of a line, or any lines where it stands alone. Numbers may be a tenth off, since other
processors add floats in another order; blanks and the lines of tables do not count.
"""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from edgerun.cli import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "exporting.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console *(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
NEAR = 0.1


def steps(extra: str) -> list[tuple[str, str]]:
    """(command, what it prints) of all blocks that need this extra, or none."""
    parts = [part for kind, text in BLOCKS if kind == extra for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]]
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


def tidy(text: str) -> str:
    """One blank between words; the lines of tables, and empty lines, left out."""
    lines = (" ".join(re.sub("[┃│]", " ", line).split()) for line in text.splitlines() if not set(line) <= set(" ━╇"))
    return "\n".join(lines)


def pattern(expected: str) -> str:
    """A regular expression with a group for every number."""
    found = []
    for line in tidy(expected).splitlines():
        if line == "…":
            found.append(r"(?:.*\n)*?")
            continue
        pieces = re.split(rf"({NUMBER.pattern}|…)", line)
        found.append("".join(as_pattern(piece) for piece in pieces) + r"\n")
    return "".join(found)


def as_pattern(piece: str) -> str:
    if piece == "…":
        return ".*"
    return f"({NUMBER.pattern})" if NUMBER.fullmatch(piece) else re.escape(piece)


def value(text: str) -> float:
    return float(text.replace(",", ""))


def check(command: str, expected: str, got: str) -> None:
    found = re.fullmatch(pattern(expected), tidy(got) + "\n")
    assert found, f"$ {command}\n{got}"
    wanted = [value(number) for number in NUMBER.findall(tidy(expected))]
    assert [value(number) for number in found.groups()] == pytest.approx(wanted, rel=NEAR), f"$ {command}\n{got}"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like the root of the project, to write into."""
    for name in ("tests", "examples", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("extra", ["", "train"])
def test_every_block_prints_what_it_says(extra: str, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if extra == "train" and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed (the extra train)")
    assert steps(extra)
    for command, expected in steps(extra):
        program, *arguments = shlex.split(command)
        assert program == "edgerun"
        main(arguments)
        printed = capfd.readouterr()
        check(command, expected, printed.out + printed.err)


def test_a_block_that_lies_is_caught() -> None:
    check("", "now 1,024 bytes, id …\n…\nsame", "now 1,020 bytes, id 7f\nmore\nmore\nsame")
    for lie in ("now 2,048 bytes, id …\n…\nsame", "now 1,024 bytes, id …\nsame", "now 1,024 bytes, name …\n…\nsame"):
        with pytest.raises(AssertionError):
            check("", lie, "now 1,024 bytes, id 7f\nmore\nmore\nsame")
