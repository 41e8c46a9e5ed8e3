"""`edgerun verify`: is a bundle whole, signed, exact, and does it compute what its maker saw?

Digests, layout, ranges and certificates are checked by reading it. Then the factory weights run over the self-test, on
every backend that this machine has for them, and every score must be equal to the bit; at last the probe is scored, for
information.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from edgerun.bundle import Bundle, open_bundle
from edgerun.commands.text import columns
from edgerun.keys import trusted_keys
from edgerun.native import network_of
from edgerun.network import Network
from edgerun.selftest import check_selftest, probe_accuracy


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verification found. Everything was right, or it would not exist."""

    id: str
    name: str
    bytes: int
    signed_by: tuple[str, ...]
    carriers: dict[str, str]
    selftest_rows: int
    backends: tuple[str, ...]  # that computed them
    probe_rows: int
    probe_accuracy: float | None  # None where it holds no labelled samples
    output_error: float | None  # of the factory weights, says the exporter


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help="a bundle file, *.edgb")
    parser.add_argument(
        "--trust", metavar="KEY.pub", action="append", help="it must be signed by this key (or another --trust)"
    )
    parser.add_argument("--device-class", metavar="NAME", help="refuse a bundle made for another device class")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a page")
    parser.epilog = "example:\n  edgerun verify digits.edgb --trust release.pub"


def run(args: argparse.Namespace) -> int:
    trust = trusted_keys(args.trust) if args.trust else None
    verdict = verify(open_bundle(args.bundle, trust=trust, device_class=args.device_class))
    print(json.dumps(asdict(verdict), indent=2) if args.json else "\n".join(page(verdict)))
    return 0


def verify(bundle: Bundle) -> Verdict:
    """Run a sound bundle's factory weights. Raises CheckFailed naming the first self-test score that differs."""
    network = network_of(bundle.manifest, bundle.tensors)
    reference = Network(bundle.manifest, bundle.tensors)
    backends = {"numpy": reference} | ({} if type(network) is Network else {"native": network})
    for each in backends.values():
        check_selftest(each, bundle.selftest)
    return Verdict(
        id=bundle.id,
        name=bundle.manifest.name,
        bytes=bundle.size,
        signed_by=bundle.signed_by,
        carriers={name: proof.carrier for name, proof in bundle.certificates.items()},
        selftest_rows=len(bundle.selftest.x),
        backends=tuple(backends),
        probe_rows=len(bundle.probe.x),
        probe_accuracy=probe_accuracy(network, bundle.probe) if len(bundle.probe.x) else None,
        output_error=bundle.manifest.provenance.output_error,
    )


def page(verdict: Verdict) -> Iterator[str]:
    """The lines for a person."""
    yield f"{verdict.name}: whole and correct"
    yield from columns(
        [
            ("id", verdict.id),
            ("signed by", ", ".join(verdict.signed_by) or "not asked (--trust KEY.pub)"),
            ("exact in", ", ".join(f"{name} {carrier}" for name, carrier in verdict.carriers.items())),
            ("self-test", f"{verdict.selftest_rows} rows equal to the bit on {' and '.join(verdict.backends)}"),
            ("probe", probe_line(verdict)),
            *([("values", error_line(verdict.output_error))] if verdict.output_error is not None else []),
        ]
    )


def probe_line(verdict: Verdict) -> str:
    if verdict.probe_accuracy is None:
        return "none: nobody has labelled a sample"
    return f"{verdict.probe_accuracy:.1%} of {verdict.probe_rows} samples right"


def error_line(error: float) -> str:
    """How far a bundle's outputs are from its float model's."""
    return f"{error:.2%} of their spread away from the float model's (rms), says the exporter"
