"""`docs/importers.md` lists exactly the operators that the importers know, and model files become what it says."""

import re
from pathlib import Path

import nir
import onnx
import pytest

from edgerun.errors import ModelError
from exporters import nir_build
from exporters.export import Options, load_model
from exporters.onnx.operators import OPERATORS as ONNX
from exporters.tflite_import import OPERATORS as TFLITE
from exporters.tflite_reader import read_tflite

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "importers.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
KNOWN = {
    "ONNX": {name for table in ONNX.values() for name in table},
    "LiteRT": set(TFLITE),
    "NIR": {kind.__name__ for kind in (*nir_build.KNOWN, nir.Delay)},
}
REFUSED = ("unsupported_float", "gru_while_float", "lstm_while_float", "mlp_int16x8", "two_inputs", "imu_gru_step")
FILES = [
    path
    for folder in ("benchmarks/export/models", "benchmarks/export/tflite", "tests/golden", "examples")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".onnx", ".tflite", ".nir") and not path.stem.startswith(REFUSED)
]
LARGEST = 1 << 18  # bytes of a file that is imported here


def rows(section: str) -> dict[str, set[str]]:
    """By operator, the layers that the page promises: those of its row and those of the text above and below."""
    text = SECTIONS[section]
    aside = layers("\n".join(line for line in text.splitlines() if not line.startswith("|")))
    return {
        name: layers(line) | aside
        for line in text.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split(" | ")[0])
    }


def layers(text: str) -> set[str]:
    return set(re.findall(r"operators\.md#([a-z-]+)", text))


def operators(path: Path) -> set[str]:
    """What a file is made of, by name."""
    if path.suffix == ".onnx":
        return {node.op_type for node in onnx.load(path).graph.node}
    if path.suffix == ".tflite":
        return {op.code for op in read_tflite(path).operators}
    return {type(node).__name__ for node in nodes(nir.read(path, type_check=False))}


def nodes(graph: nir.NIRGraph) -> list[object]:
    return [
        inner for node in graph.nodes.values() for inner in (nodes(node) if isinstance(node, nir.NIRGraph) else [node])
    ]


@pytest.mark.parametrize("section", KNOWN)
def test_the_page_has_a_row_for_every_operator_and_none_for_others(section: str) -> None:
    listed = [
        name
        for line in SECTIONS[section].splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split(" | ")[0])
    ]
    assert sorted(listed) == sorted(KNOWN[section])


@pytest.mark.parametrize("path", [path for path in FILES if path.stat().st_size < LARGEST], ids=lambda path: path.name)
def test_a_file_becomes_what_its_operators_rows_promise(path: Path) -> None:
    promised = rows({".onnx": "ONNX", ".tflite": "LiteRT", ".nir": "NIR"}[path.suffix])
    asides = layers(PAGE.partition("## ONNX")[0])
    expected = asides.union(*(promised.get(name, set()) for name in operators(path)))
    options = Options() if path.suffix != ".nir" else Options(encoder="frames", steps=4)
    try:
        net = load_model(path, options)
    except ModelError:
        net = load_model(path, Options(encoder="constant", steps=4))
    for layer in net.layers:
        kinds = {str(kind.__struct_config__.tag) for kind in layer.makes}
        assert kinds & expected, f"{layer.name} of {path.name} becomes {kinds}"
