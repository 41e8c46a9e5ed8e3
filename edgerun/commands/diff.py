"""`edgerun diff`: what changed from one bundle to another, and what that does to answers, bytes and energy."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
import numpy as np

from edgerun.boards import BOARDS, price
from edgerun.bundle import Bundle, open_bundle
from edgerun.commands.text import columns
from edgerun.network import Network
from edgerun.price import checkpoint_bytes, inference, memory_plan
from edgerun.spec import Record

BOARD: Final = "nucleo-f446"
SHOWN: Final = 200
"""Characters of a manifest value that a line shows."""


class Change(Record, frozen=True, kw_only=True):
    """One field of the manifest: its path and what it was and is; None where it is absent."""

    path: str
    before: Any
    after: Any


class TensorChange(Record, frozen=True, kw_only=True):
    """One tensor: "added", "removed", "reshaped" or "changed"; of a changed one how many values differ, and by how much
    at most."""

    name: str
    what: str
    differing: int = 0
    values: int = 0
    largest: int = 0


class Difference(Record, frozen=True, kw_only=True):
    """Everything that two bundles do not have in common.

    agreement  the share of the first bundle's probe on which both answer alike; None where the inputs differ
    """

    same: bool
    before: str
    after: str
    fields: tuple[Change, ...]
    tensors: tuple[TensorChange, ...]
    numbers: dict[str, tuple[float, float]]
    agreement: float | None


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", help="a bundle file, *.edgb")
    parser.add_argument("after", help="another one")
    parser.add_argument("--board", choices=sorted(BOARDS), default=BOARD, help=f"price on this board ({BOARD})")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a page")
    parser.epilog = (
        "example:\n  edgerun diff digits-v1.edgb digits-v2.edgb\n\nexit code 0: nothing differs; 1: something does"
    )


def run(args: argparse.Namespace) -> int:
    found = difference(open_bundle(args.before), open_bundle(args.after), args.board)
    print(json.dumps(msgspec.to_builtins(found), indent=2) if args.json else "\n".join(page(found, args.board)))
    return 0 if found.same else 1


def difference(before: Bundle, after: Bundle, board: str) -> Difference:
    """Compare two bundles field by field, tensor by tensor, and by what they do and cost."""
    return Difference(
        same=before.id == after.id,
        before=before.id,
        after=after.id,
        fields=tuple(field_changes(flat(before), flat(after))),
        tensors=tuple(tensor_changes(before, after)),
        numbers={name: (a, numbers(after, board)[name]) for name, a in numbers(before, board).items()},
        agreement=agreement(before, after),
    )


# ------------------------------------------------------------------ fields and tensors


def flat(bundle: Bundle) -> dict[str, Any]:
    """The manifest as one value a path; layers by name, tensor records left to `tensor_changes`."""
    manifest = msgspec.to_builtins(bundle.manifest)
    del manifest["tensors"]
    manifest["layers"] = {layer["name"]: layer for layer in manifest["layers"]}
    return dict(leaves(manifest, ""))


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def field_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for path in dict.fromkeys((*before, *after)):
        a, b = before.get(path), after.get(path)
        if a != b:
            yield Change(path=path, before=a, after=b)


def tensor_changes(before: Bundle, after: Bundle) -> Iterator[TensorChange]:
    for name in dict.fromkeys((*before.tensors, *after.tensors)):
        a, b = before.tensors.get(name), after.tensors.get(name)
        if a is None:
            yield TensorChange(name=name, what="added")
        elif b is None:
            yield TensorChange(name=name, what="removed")
        elif a.shape != b.shape or a.dtype != b.dtype:
            yield TensorChange(name=name, what="reshaped")
        elif differ := int((a != b).sum()):
            most = int(np.abs(a.astype(np.int64) - b.astype(np.int64)).max())
            yield TensorChange(name=name, what="changed", differing=differ, values=a.size, largest=most)


# ------------------------------------------------------------------ what it means


def numbers(bundle: Bundle, board: str) -> dict[str, float]:
    """What a bundle costs, and how right its maker says it is."""
    energy_uj, busy_us = price(BOARDS[board], inference(bundle))
    origin = bundle.manifest.provenance
    found = {
        "bytes": float(bundle.size),
        "memory_bytes": float(memory_plan(bundle).total_bytes),
        "checkpoint_bytes": float(checkpoint_bytes(bundle)),
        "inference_uj": energy_uj,
        "inference_us": busy_us,
    }
    return found | ({} if origin.integer_accuracy is None else {"integer_accuracy": origin.integer_accuracy})


def agreement(before: Bundle, after: Bundle) -> float | None:
    """How often both give one answer on the first one's probe; None where the second takes other inputs."""
    a, b = before.manifest, after.manifest
    if a.input != b.input or not len(before.probe.x):
        return None
    q = before.probe.x.reshape(len(before.probe.x), -1).astype(np.int16)
    first, second = (
        Network(bundle.manifest, bundle.tensors, (len(q),)).scores(q).argmax(axis=1) for bundle in (before, after)
    )
    return float((first == second).mean())


# ------------------------------------------------------------------ for a person


def page(found: Difference, board: str) -> Iterator[str]:
    if found.same:
        yield f"the same bundle, {found.before}"
        return
    yield f"- {found.before}\n+ {found.after}"
    if found.agreement is not None:
        yield f"\n{found.agreement:.1%} of the first one's probe samples get the same answer from both"
    yield f"\nCOST, on {board}"
    yield from columns(number_rows(found))
    if found.tensors:
        yield "\nTENSORS"
        yield from columns(tensor_rows(found))
    if found.fields:
        yield "\nMANIFEST"
        yield from columns([("field", "before", "after"), *(field_row(change) for change in found.fields)])


def number_rows(found: Difference) -> Iterator[tuple[str, str, str, str]]:
    yield "", "before", "after", "change"
    for name, (a, b) in found.numbers.items():
        change = f"{(b - a) / a:+.1%}" if a and a != b else ""
        yield name, f"{a:,.6g}", f"{b:,.6g}", change


def tensor_rows(found: Difference) -> Iterator[tuple[str, str, str]]:
    yield "tensor", "what", ""
    for tensor in found.tensors:
        words = f"{tensor.differing:,} of {tensor.values:,} values, by {tensor.largest} at most"
        yield tensor.name, tensor.what, words if tensor.what == "changed" else ""


def field_row(change: Change) -> tuple[str, str, str]:
    return change.path, shown(change.before), shown(change.after)


def shown(value: Any) -> str:
    text = "-" if value is None else json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
