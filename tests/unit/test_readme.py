"""The README's figures are those of docs/results.md and docs/export-results.md, which commands write."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DIGITS = (ROOT / "docs/results.md").read_text().partition("<!-- digits_blocks -->")[2].partition("<!-- end of")[0]
MEANS = dict(re.findall(r"^\| (\S.*?) \| (\d+\.\d) \|", DIGITS, re.MULTILINE))

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


def table(title: str) -> list[dict[str, str]]:
    """The rows of one table of docs/export-results.md, by the heads of its columns."""
    page = (ROOT / "docs/export-results.md").read_text()
    _, _, section = page.partition(f"## {title}\n")
    heads, _, *rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [dict(zip(cells(heads), cells(row), strict=True)) for row in rows]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


EXPORTS = {
    "Fashion-MNIST, CNN": "fashion_cnn",
    "Fashion-MNIST, ResNet-8": "resnet8",
    "spoken digits, DS-CNN": "kws_dscnn",
    "six activities, subjects never seen, GRU": "imu_gru",
    "spoken digits, recurrent spiking": "digits_rsnn",
    "N-MNIST, convolutional spiking": "nmnist_conv_snn",
}


@pytest.mark.parametrize("words", EXPORTS)
def test_every_figure_of_an_export_is_the_one_that_the_command_printed(words: str) -> None:
    (row,) = [row for row in table("The same float file, quantised after training") if row["model"] == EXPORTS[words]]
    figures = [row["float"], row["ours int8"], row["ONNX Runtime int8"], row["LiteRT int8"]]
    shown = ["in float" if "in float" in figure else figure.strip("%").strip("-") for figure in figures]
    assert "| ".join([f"| {words} ", *(f"{figure} " if figure else "" for figure in shown)]) + "|" in README


def test_integers_differ_from_litert_as_the_readme_says() -> None:
    rows = {row["pair"]: row for row in table("The same int8 file") if row["model"] == "fashion_cnn"}
    ours, theirs = (
        rows[pair]["outputs that differ"] for pair in ("ours, LiteRT default", "LiteRT default, LiteRT builtin")
    )
    assert ", 0.00% by more" in ours
    assert f"{ours.partition('%')[0]} % of the outputs differ from LiteRT's, by one step" in README
    assert f"LiteRT's own kernels\n{theirs.partition('%')[0]} % do" in README


def test_the_readme_says_how_slow_numpy_is() -> None:
    (row,) = [
        row for row in table("One inference, CPU microseconds, batch 1, one thread") if row["model"] == "kws_dscnn"
    ]
    assert f"the DS-CNN takes {row['ours / LiteRT']} times as long as in LiteRT" in README


SPEED = {
    "MLP 64-128-10, an inference": ("MLP 64-128-10, one inference", ""),
    "MLP 784-400-400-10, an inference": ("MLP 784-400-400-10, one inference", ""),
    "DS-CNN of keywords, an inference": ("DS-CNN of keywords, one inference", ""),
    "recurrent LIF 700-256-20, a sparse step": ("Recurrent LIF 700-256-20, one sparse step", ""),
    "e-prop in that net, a step": ("Learning in the same net, one step of a window of 100", ", e-prop"),
    "an update of the small MLP, with synaptic intelligence": (
        "One update of an MLP 64-128-10", ", with synaptic intelligence",
    ),
}  # fmt: skip


@pytest.mark.parametrize("words", SPEED)
def test_every_time_is_the_one_that_the_command_printed(words: str) -> None:
    title, what = SPEED[words]
    page = (ROOT / "docs/peers.md").read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    medians = {name: median for name, _, median, _ in (cells(line) for line in page.splitlines() if line[:2] == "| ")}
    notes = "with synaptic intelligence" in what
    peers = {name: time for name, time in medians.items() if is_peer(name, time) and ("synaptic" in name) == notes}
    best = min(peers, key=lambda name: float(peers[name].replace(",", "")))
    ours = f"{medians[f'edgerun, numpy{what}']} | **{medians[f'edgerun, C{what}']}**"
    assert f"| {words} | {ours} | {peers[best]}, {best.partition(',')[0]} |" in README


def is_peer(name: str, time: str) -> bool:
    return time[:1].isdigit() and not name.startswith("edgerun")


def test_the_firmware_learns_in_the_memory_that_the_readme_says() -> None:
    page = (ROOT / "docs/firmware.md").read_text()
    (size,) = re.findall(r"^\| the same, profile small \| learns \| ([\d.]+ KB) \|", page, re.MULTILINE)
    assert f"with replay and prototypes, in {size} of RAM" in README


@pytest.mark.parametrize("target", re.findall(r"`?make ([a-z-]+)", README))
def test_every_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def spoken(title: str, shots: int) -> list[str]:
    """Of one table of the spoken digits, the plan's row: before and after, new and known, to a tenth."""
    page = (ROOT / "docs/results.md").read_text()
    section = page.partition("<!-- spoken_digits -->")[2].partition(f"## {title}\n")[2]
    (row,) = [cells(line) for line in section.splitlines() if line.startswith(f"| {shots} | plan |")][:1]
    return [f"{float(cell.split()[0]):.1f}" for cell in row[2:6]]


@pytest.mark.parametrize("shots", [5, 10])
def test_a_voice_never_heard_is_understood_as_the_readme_says(shots: int) -> None:
    before, after, known, kept = spoken("A voice never heard", shots)
    assert f"| {shots} | {before} | **{after}** | {known} | **{kept}** |" in README


def test_new_words_are_learned_as_the_readme_says() -> None:
    _, after, known, kept = spoken("Two words never heard", 5)
    assert f"{after} on them, {kept} on the eight old ones ({known} before)" in README


def section(name: str) -> str:
    page = (ROOT / "docs/results.md").read_text()
    return page.partition(f"<!-- {name} -->")[2].partition("<!-- end of")[0]


def ends_at(name: str, arm: str) -> str:
    """An arm's ACC, to a tenth."""
    found = re.search(rf"^\| {arm} \| \d+ \| ([\d.]+)", section(name), re.MULTILINE)
    assert found, (name, arm)
    return f"{float(found[1]):.1f}"


@pytest.mark.parametrize("name", ["condition", "semg_sessions", "long_life"])
def test_what_is_known_afterwards_is_what_the_command_printed(name: str) -> None:
    none, plain, full = (ends_at(name, arm) for arm in ("none", "plain", "full"))
    assert f"(`make bench-{name.replace('_', '-')}`) | {none} | {plain} | **{full}** |" in README


def test_synaptic_intelligence_is_worth_what_the_command_printed() -> None:
    full, plain = (ends_at("permuted_mnist", arm) for arm in ("full", "plain"))
    assert f"synaptic intelligence ends at {full} %, the same rule without it at {plain} %" in README


def test_the_long_life_is_the_one_that_the_command_printed() -> None:
    page = section("long_life")
    cuts = re.search(r"^\| power cuts \| (\d+) \|", page, re.MULTILINE)
    lost = re.search(r"^\| committed records lost \| (\d+) \|", page, re.MULTILINE)
    rounds = re.findall(r"^\| (\d+) \| .* \| ([\d.]+) \|$", page, re.MULTILINE)
    assert cuts
    assert lost
    assert f"cut {cuts[1]} times at random writes: {lost[1]} committed records were lost" in README
    assert f"named rightly in {rounds[0][1]} % of cases, those of its {rounds[-1][0]}th in {rounds[-1][1]} %" in README
