"""`edgerun diff` names every field and tensor that changed, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgerun.arrays import Tensors
from edgerun.bundle import Bundle, Selftest, open_bundle, pack, read_bundle
from edgerun.cli import main
from edgerun.commands.diff import difference
from edgerun.network import Network

Capture = pytest.CaptureFixture[str]


def remade(bundle: Bundle, tensors: Tensors | None = None, **fields: Any) -> Bundle:
    """The same bundle with other fields or tensors, its self-test taken anew."""
    manifest = msgspec.structs.replace(bundle.manifest, tensors=(), **fields)
    arrays = dict(bundle.tensors) | (tensors or {})
    q = bundle.selftest.x.reshape(len(bundle.selftest.x), -1).astype(np.int16)
    y = Network(manifest, arrays, (len(q),)).scores(q)
    return read_bundle(pack(manifest, arrays, selftest=Selftest(x=bundle.selftest.x, y=y), probe=bundle.probe))


@pytest.fixture(scope="module")
def first(mlp_bundle: Path) -> Bundle:
    return remade(open_bundle(mlp_bundle))


def test_a_bundle_does_not_differ_from_itself(first: Bundle) -> None:
    found = difference(first, first, "nucleo-f446")
    assert found.same
    assert (found.fields, found.tensors, found.agreement) == ((), (), 1.0)


def test_each_changed_field_is_named_by_its_path(first: Bundle) -> None:
    layers = list(first.manifest.layers)
    layers[0] = msgspec.structs.replace(layers[0], qmax=100)
    found = difference(first, remade(first, seq=7, layers=tuple(layers)), "nucleo-f446")
    changes = {change.path: (change.before, change.after) for change in found.fields}
    assert changes == {"seq": (0, 7), f"layers.{layers[0].name}.qmax": (127, 100)}
    assert not found.tensors


def test_each_changed_tensor_is_counted(first: Bundle) -> None:
    bias = first.tensors["head.bias"].copy()
    bias[:2] += (5, -9)
    found = difference(first, remade(first, {"head.bias": bias}), "nucleo-f446")
    assert not found.fields
    (change,) = found.tensors
    assert (change.name, change.what, change.differing, change.values, change.largest) == (
        "head.bias", "changed", 2, bias.size, 9,
    )  # fmt: skip


def test_agreement_falls_where_answers_change(first: Bundle) -> None:
    bias = first.tensors["head.bias"].copy()
    bias[0] += 1 << 20
    found = difference(first, remade(first, {"head.bias": bias}), "nucleo-f446")
    share = float((first.probe.label == 0).mean())
    assert found.agreement is not None
    assert found.agreement < share + 0.1


def test_other_inputs_cannot_be_compared(first: Bundle) -> None:
    other = msgspec.structs.replace(first.manifest.input, scale=2 * first.manifest.input.scale)
    found = difference(first, remade(first, input=other), "nucleo-f446")
    assert found.agreement is None
    assert [change.path for change in found.fields] == ["input.scale"]


def test_another_model_is_another_graph(first: Bundle, digits_bundle: Path) -> None:
    found = difference(first, open_bundle(digits_bundle), "nucleo-f446")
    what = {tensor.name: tensor.what for tensor in found.tensors}
    assert (what["whiten.weight"], what["lif.input"]) == ("changed", "added")
    assert found.numbers["bytes"] == (first.size, open_bundle(digits_bundle).size)


def test_the_command_prints_a_page_and_says_by_its_exit_code(
    first: Bundle, mlp_bundle: Path, digits_bundle: Path, capsys: Capture
) -> None:
    assert main(["diff", str(mlp_bundle), str(mlp_bundle)]) == 0
    assert capsys.readouterr().out.startswith("the same bundle, ")
    assert main(["diff", str(mlp_bundle), str(digits_bundle)]) == 1
    text = capsys.readouterr().out
    assert all(title in text for title in ("COST, on nucleo-f446", "TENSORS", "MANIFEST"))
    assert main(["diff", str(mlp_bundle), str(digits_bundle), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["same"] is False
    assert main(["diff", str(mlp_bundle), "nowhere.edgb"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
