"""`edgerun inspect`: what is in a bundle, for people and, with --json, for programs."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from edgerun.bundle import Bundle, open_bundle
from edgerun.commands.lanes import Node, draw
from edgerun.commands.text import columns
from edgerun.commands.verify import error_line
from edgerun.errors import one_line
from edgerun.graph import grows, score_width
from edgerun.layers.base import INPUT
from edgerun.spec import Doubt, Drift, Layer, Manifest, PhaseRate, Rewiring, RMaxProp, TensorSpec

WEIGHTS: Final = ("weight", "input", "recurrent")
"""The parts of a layer that inputs are multiplied by; its other int8 arrays are tables and zero points."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help="a bundle file, *.edgb")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a page")
    parser.epilog = "example:\n  edgerun inspect digits.edgb"


def run(args: argparse.Namespace) -> int:
    bundle = open_bundle(args.bundle)
    print(json.dumps(as_json(bundle), indent=2) if args.json else "\n".join(page(bundle)))
    return 0


def as_json(bundle: Bundle) -> dict[str, Any]:
    """Everything but the arrays' values."""
    records = {record.name: record for record in bundle.manifest.tensors}
    return {
        "id": bundle.id,
        "bytes": bundle.size,
        "key_ids": list(bundle.key_ids),
        "manifest": msgspec.to_builtins(bundle.manifest),
        "certificates": {name: msgspec.to_builtins(proof) for name, proof in bundle.certificates.items()},
        "selftest_rows": len(bundle.selftest.x),
        "probe_rows": len(bundle.probe.x),
        "licence": bundle.licence,
        "sections": [
            {
                "kind": section.kind.name.lower(),
                "name": section.name,
                "dtype": records[section.name].dtype if section.name in records else None,
                "shape": list(records[section.name].shape) if section.name in records else None,
                "packing": records[section.name].packing if section.name in records else None,
                "offset": section.offset,
                "bytes": section.length,
                "sha256": section.sha256.hex(),
            }
            for section in bundle.sections
        ],
    }


def page(bundle: Bundle) -> Iterator[str]:
    """The lines for a person: identity, graph, head, learning plan, sections."""
    manifest = bundle.manifest
    yield f"{manifest.name}  seq {manifest.seq}  {bundle.size:,} bytes"
    yield from columns(_identity(bundle))
    yield "\nGRAPH"
    yield from columns(_graph(bundle))
    yield "\nLEARNING"
    yield from columns(_learning(manifest))
    yield "\nSECTIONS"
    yield from columns(_sections(bundle))
    if bundle.licence:
        yield "\nLICENCE"
        yield from (f"  {one_line(line)}" for line in bundle.licence.splitlines())


def _identity(bundle: Bundle) -> Iterator[tuple[str, str]]:
    manifest, origin = bundle.manifest, bundle.manifest.provenance
    yield "id", bundle.id
    yield "made for", f"device class {manifest.device_class}, runtime {manifest.min_runtime} or newer"
    yield "signatures", ", ".join(bundle.key_ids) + " (not checked; see verify)" if bundle.key_ids else "none"
    if origin.source:
        yield "made from", f"{origin.source}  {origin.source_sha256[:16]}"
    for name, accuracy in (("float", origin.float_accuracy), ("integer", origin.integer_accuracy)):
        if accuracy is not None:
            yield f"{name} accuracy", f"{accuracy:.4f}, says the exporter"
    if origin.output_error is not None:
        yield "values", error_line(origin.output_error)
    table = manifest.classes
    yield "classes", f"{len(table.names)} of {table.capacity}: {', '.join(table.names)}" if table.names else "none"
    yield "samples", f"{len(bundle.selftest.x)} self-test, {len(bundle.probe.x)} probe"


def _graph(bundle: Bundle) -> Iterator[tuple[object, ...]]:
    """The graph, drawn in lanes beside its rows."""
    manifest, edge = bundle.manifest, bundle.manifest.input
    shape = "x".join(map(str, edge.shape))
    numbers = f"shape {shape}, scale {edge.scale:.6g}, zero point {edge.zero_point}"
    coder, *more = _encoder(manifest)
    rows: dict[str, tuple[object, ...]] = {INPUT: (edge.dtype, "", edge.size, "", numbers, "")}
    rows["encoder"] = (coder, *more, "")
    nodes = [Node(INPUT, ()), Node("encoder", (INPUT,))]
    for layer, sources in manifest.wiring():
        rows[layer.name] = _layer(bundle, layer)
        nodes.append(Node(layer.name, tuple("encoder" if source == INPUT else source for source in sources)))
    if manifest.head.whiten:
        rows[manifest.head.whiten.name] = _layer(bundle, manifest.head.whiten)
        nodes.append(Node(manifest.head.whiten.name, (manifest.head.features or "",)))
    read = manifest.head.features if not manifest.head.whiten else None
    nodes.append(Node("head", (read or nodes[-1].name,)))
    rows["head"] = (manifest.head.kind, "", score_width(manifest), "", _head(manifest), "")
    yield "layer", "kind", "in", "out", "weights", "numbers", "exact in"
    for line in draw(nodes):
        yield f"{line.art} {line.name}".rstrip(), *(rows[line.name] if line.name else ("",) * 6)


def _head(manifest: Manifest) -> str:
    """Who decides, and what the last layer's integers mean."""
    words = "" if manifest.head.kind == "values" else f"argmax{_features(manifest)}"
    if (out := manifest.output) is None:
        return words
    shape = "x".join(map(str, out.shape))
    meaning = f"shape {shape}, scale {out.scale:.6g}, zero point {out.zero_point}"
    return f"{words}; {meaning}" if words else meaning


def _encoder(manifest: Manifest) -> tuple[object, ...]:
    coder, size = manifest.encoder, manifest.input.size
    numbers = f"{manifest.steps} steps" if manifest.steps > 1 else ""
    if isinstance(coder, PhaseRate):
        numbers += f", full scale {coder.full_scale}"
    return str(coder.__struct_config__.tag), size, manifest.step_size, "", numbers


def _features(manifest: Manifest) -> str:
    return f" over features of {manifest.head.features}" if manifest.head.features else ""


def _layer(bundle: Bundle, layer: Layer) -> tuple[object, ...]:
    weights = sum(math.prod(field.shape) for field in layer.fields() if field.dtype == "int8" and field.part in WEIGHTS)
    kind = str(layer.__struct_config__.tag)
    numbers, carrier = layer.describe(bundle.tensors), bundle.certificates[layer.name].carrier
    return kind, sum(layer.widths), layer.outputs, f"{weights:,}", numbers, carrier


def _learning(manifest: Manifest) -> Iterator[tuple[str, str]]:
    plan = manifest.learning
    if plan.rule:
        rates = ", ".join(f"{rate.tensor} {rate.eta / 2**rate.shift:.3g}" for rate in plan.rule.rates)
        yield str(plan.rule.__struct_config__.tag), plan.rule.describe()
        yield "rates", rates or "none"
    if isinstance(plan.normaliser, RMaxProp):
        yield "steps", f"{plan.normaliser.__struct_config__.tag}, {plan.normaliser.describe()}"
    if plan.intelligence:
        own = plan.intelligence.strength
        strength = own if isinstance(own, int) else ", ".join(map(str, own))
        yield "protection", f"synaptic intelligence, strength {strength}"
    if isinstance(plan.rewiring, Rewiring):
        yield "rewiring", f"{plan.rewiring.share / 32768:.0%} of synapses at a boundary, as many grow"
    if plan.replay.capacity:
        yield "replay", f"{plan.replay.capacity} samples, {plan.replay.passes} for each new one"
    if manifest.head.kind == "prototypes":
        yield "new classes", f"prototypes over {manifest.head.features}, up to {manifest.classes.capacity} classes"
    elif grows(manifest):
        yield "new classes", f"a column of the readout for each, up to {manifest.classes.capacity} classes"
    yield (
        "guard",
        f"{plan.guard.samples} samples every {plan.guard.every} lessons, at most {plan.guard.max_drop:.0%} down",
    )
    if isinstance(plan.drift, Drift):
        yield "watch", f"for a stream unlike the first {2 * plan.drift.samples} samples of each class, without labels"
    if isinstance(plan.doubt, Doubt):
        yield "doubt", f"feedback that contradicts what is surely known, unless most of {plan.doubt.votes} labels agree"
    yield "profile", plan.profile
    if manifest.budget:
        yield "ceiling", f"{manifest.budget.power_mw:g} mW mean"


def _stored_as(record: TensorSpec) -> str:
    return record.dtype if record.packing == "plain" else f"{record.dtype} as {record.packing}"


def _sections(bundle: Bundle) -> Iterator[tuple[object, ...]]:
    records = {record.name: record for record in bundle.manifest.tensors}
    yield "kind", "name", "dtype", "shape", "bytes", "sha256"
    for section in bundle.sections:
        record = records.get(section.name)
        dtype, shape = (_stored_as(record), "x".join(map(str, record.shape)) or "1") if record else ("", "")
        yield section.kind.name.lower(), section.name, dtype, shape, f"{section.length:,}", section.sha256.hex()[:16]
    total = sum(math.prod(record.shape) for record in bundle.manifest.tensors)
    yield "", "all arrays", "", f"{total:,} values", f"{sum(section.length for section in bundle.sections):,}", ""
