"""The README's figures are those of docs/results.md, which a command writes."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MEANS = dict(re.findall(r"^\| (\S.*?) \| (\d+\.\d) \|", (ROOT / "docs/results.md").read_text(), re.MULTILINE))

SENTENCES = (
    "| no adaptation | {drifted_no_adaptation} | {none.prototypes.old} |",
    "| {drifted_without_consolidation} | {old_without_consolidation} |",
    "| **{drifted_full}** | **{old_full}** |",
    "each: {new_classes}, while 0 to 7 stay at {old_classes_after_teaching} (straight",
    "Integers: {factory_int}, the float model: {float}.",
)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_every_figure_is_the_one_that_the_command_printed(sentence: str) -> None:
    assert re.sub(r"{(.*?)}", lambda found: MEANS[found[1]], sentence) in README


@pytest.mark.parametrize("target", re.findall(r"`?make ([a-z-]+)", README))
def test_every_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
