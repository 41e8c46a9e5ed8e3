"""`edgerun keys`: make and show signing keys, and sign a bundle once more."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from edgerun.bundle import countersign, open_bundle
from edgerun.commands.files import writing
from edgerun.errors import BundleError
from exporters.keys import file_signer, new_key, show_key


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="new | show | sign")
    new = verbs.add_parser("new", help="make NAME.key (keep it, tell nobody) and NAME.pub (for devices)")
    new.add_argument("name", metavar="NAME", help="where to write, without the suffix")
    show = verbs.add_parser("show", help="print key ids")
    show.add_argument("files", metavar="FILE", nargs="+", help="files that end in .pub or .key")
    sign = verbs.add_parser("sign", help="put more signatures on a bundle: its id and content stay")
    sign.add_argument("bundle", type=Path, metavar="MODEL.edgb", help="a bundle file, changed in place")
    sign.add_argument("keys", metavar="KEY.key", nargs="+", help="private keys that have not signed it yet")
    parser.epilog = (
        "example:\n  edgerun keys new release\n"
        "  edgerun export model.onnx --calibrate data.npz --sign release.key -o model.edgb\n"
        "  edgerun keys sign model.edgb safety.key"
    )


def run(args: argparse.Namespace) -> int:
    if args.verb == "new":
        key_file, public_file = new_key(Path(args.name))
        print(f"{show_key(public_file)}\n{key_file} is secret: whoever has it signs in your name")
    elif args.verb == "sign":
        signed = countersigned(args.bundle, args.keys)
        with writing(args.bundle) as file:
            file.write(signed)
        print(f"{args.bundle} is signed by {', '.join(open_bundle(args.bundle).key_ids)}")
    else:
        for file in args.files:
            print(show_key(Path(file)))
    return 0


def countersigned(bundle: Path, keys: Sequence[str]) -> bytes:
    """The bytes of a bundle file with more signatures on it. Raises Refused, or BundleError naming the file."""
    signers = [file_signer(key) for key in keys]
    open_bundle(bundle)  # refuses, before it is read, what is too large for one
    try:
        return countersign(bundle.read_bytes(), signers)
    except BundleError as err:
        raise BundleError(f"{bundle}: {err}") from None
