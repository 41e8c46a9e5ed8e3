"""`edgerun export`: what the command line says, and what it answers."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, Final, TypeAlias, get_args

import msgspec

from edgerun.boards import BOARDS
from edgerun.bundle import Signer
from edgerun.commands.files import check_output, writing
from edgerun.errors import DataError, MissingExtra, Refused
from edgerun.samples import Fit
from edgerun.spec import LogMel, ProfileName
from exporters.calibrate import METHODS, Calibration
from exporters.export import Options, export
from exporters.head import Whiten
from exporters.learning import LEARN
from exporters.learning_dense import DENSE
from exporters.learning_values import VALUES
from exporters.page import page
from exporters.progress import teller
from exporters.report import render
from exporters.slim import EPOCHS, Bits, Diet

DEFAULT_BOARDS: Final = ("nucleo-f446", "rpi-zero-2w")

WHOLE: Final = {"capacity": (1, 4096), "seq": (0, 2**63 - 1), "steps": (1, 1024), "full_scale": (1, 255)}
"""Whole numbers that an argument may be."""
NAME: Final = r"[A-Za-z0-9_.-]{1,64}"

Option: TypeAlias = tuple[tuple[str, ...], dict[str, Any]]
"""The names of an argument, and what argparse is told of it."""


def option(*names: str, **settings: Any) -> Option:
    return names, settings


FILES: Final = (
    option("model", type=Path, metavar="MODEL.{onnx,tflite,nir}", help="a trained model"),
    option(
        "--calibrate",
        type=Path,
        required=True,
        metavar="DATA.npz",
        help="x, and y where it is labelled: ranges, class means, self-test, probe",
    ),
    option("-o", "--output", type=Path, required=True, metavar="MODEL.edgb", help="the bundle to write"),
    option("--test", type=Path, metavar="DATA.npz", help="measure accuracy on these samples instead"),
    option(
        "--report",
        type=Path,
        metavar="FILE.{html,json}",
        help="explain layer by layer and class by class, as a page to look at or as JSON",
    ),
    option(
        "--board", choices=sorted(BOARDS), action="append", help=f"energy on this board; {' and '.join(DEFAULT_BOARDS)}"
    ),
    option("--json", action="store_true", help="print the report as JSON instead of a page"),
    option("--sign", metavar="KEY", action="append", default=[], help="sign with this private key"),
)
BUNDLE: Final = (
    option("--learn", choices=(*LEARN, VALUES, *DENSE), default="none", help="what the device may learn"),
    option(
        "--profile",
        choices=get_args(ProfileName),
        default="standard",
        help="how wide learning's numbers are stored: small takes about half the memory, for e-prop",
    ),
    option(
        "--head",
        choices=("logits", "prototypes", "values"),
        help="who decides; follows --learn where not given. values: nobody, the outputs are the answer; so also where "
        "the data have neither labels nor class names",
    ),
    option(
        "--window",
        choices=get_args(Fit),
        default="fit",
        help="recordings of another length than the model's: fill up with zeros at the end and cut (fit), or refuse",
    ),
    option(
        "--front",
        metavar="log-mel:RATE[,FIELD=N...]",
        help="recordings come in, at RATE Hz: log energies of mel bands are what the model takes, (frames, bands)",
    ),
    option(
        "--watch",
        action="store_true",
        help="tell, without labels, when samples have become unlike the first ones of their class",
    ),
    option(
        "--doubt",
        action="store_true",
        help="set feedback aside that contradicts what is known surely, until most of it agrees",
    ),
    option(
        "--beside",
        action="store_true",
        help="what the field teaches of a class gets a mean beside the factory's, which stays as it is",
    ),
    option(
        "--rewire",
        action="store_true",
        help="at boundaries, let the weakest synapses that --prune left go, as many grow where learning asks for it",
    ),
    option(
        "--whiten",
        choices=get_args(Whiten),
        default="shared",
        help="how prototypes measure distance: by the covariance that classes share, or as the features are (none), "
        "for an embedding trained to tell new classes apart",
    ),
    option("--features", metavar="LAYER", help="what prototypes look at: any layer but a readout"),
    option("--classes", metavar="A,B,...", help="factory class names, in the order of the labels"),
    option("--capacity", type=int, metavar="N", help="how many classes the device may know in the end"),
    option("--name", help="the model's name; the file's where not given"),
    option("--seq", type=int, default=0, metavar="N", help="rises with every release: devices refuse lower ones"),
    option("--device-class", default="any", metavar="NAME", help="which devices may run it"),
    option(
        "--calibration",
        choices=("auto", *METHODS),
        default="auto",
        help="how ranges are chosen; auto tries them all and keeps what changes the answers least",
    ),
    option("--percentile", type=float, metavar="P", help="ranges that hold P per cent of the values, 90 to 100"),
)
BYTES: Final = (
    option("--bits", choices=get_args(Bits), default="8", help="of a weight; auto: few where the loss minds it least"),
    option("--flash", type=float, metavar="KB", help="what all weights may take, with --bits auto"),
    option("--prune", type=float, metavar="SHARE", help="keep this share of each layer's weights"),
    option(
        "--finetune",
        type=int,
        metavar="EPOCHS",
        help=f"train what is left; {EPOCHS} where torch is there, needs no labels",
    ),
)
SPIKING: Final = (
    option("--reset", choices=("subtract", "soft", "zero", "none"), help="what a spike does to the membrane"),
    option("--reset-delay", type=int, choices=(0, 1), help="1: the reset acts one step after the spike"),
    option("--readout", choices=("last",), help="the last LIF layer is a readout that does not spike"),
    option("--encoder", choices=("phase-rate", "frames", "constant"), help="how inputs arrive, step by step"),
    option("--steps", type=int, metavar="N", help="time steps of one sample"),
    option("--full-scale", type=int, metavar="N", help="the input value that spikes in every step"),
    option("--dt", type=float, metavar="S", help="seconds that one time step stands for (1e-4)"),
    option("--input-scale", type=float, metavar="X", help="what one step of the input stands for"),
)
GROUPS: Final = {"": FILES, "the bundle": BUNDLE, "fewer bytes": BYTES, "what a NIR file may leave open": SPIKING}
EXAMPLES: Final = (
    "example:\n  edgerun export digits.onnx --calibrate digits.npz -o digits.edgb\n"
    "  edgerun export digits.nir --calibrate digits.npz --learn eprop --capacity 10 -o digits.edgb\n"
    "  edgerun export words.nir --calibrate words.npz --front log-mel:8000 --learn eprop --beside -o words.edgb"
)


def configure(parser: argparse.ArgumentParser) -> None:
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title) if title else parser
        for names, settings in options:
            group.add_argument(*names, **settings)
    parser.epilog = EXAMPLES


def run(args: argparse.Namespace) -> int:
    check_outputs(args)
    signers = [signer(key) for key in args.sign]
    boards = (args.board or list(DEFAULT_BOARDS)) if args.report else None
    tell = teller(wanted=not args.json)
    try:
        made = export(
            args.model, args.calibrate, options_of(args), test=args.test, sign=signers, boards=boards, say=tell
        )
    finally:
        tell("")
    with writing(args.output) as file:
        file.write(made.data)
    as_json = msgspec.json.format(msgspec.json.encode(made.report))
    if args.report:
        with writing(args.report) as file:
            file.write(page(made.report).encode() if args.report.suffix.lower() == ".html" else as_json + b"\n")
    print(as_json.decode() if args.json else f"{args.output}\n{render(made.report)}")
    return 0


def check_outputs(args: argparse.Namespace) -> None:
    """Raises Refused where a file cannot be written or is one of those to read, and where boards have no report."""
    read = [path for path in (args.model, args.calibrate, args.test, *map(Path, args.sign)) if path is not None]
    check_output("-o", args.output, read)
    if args.report is None:
        if args.board:
            raise Refused(f"--board {args.board[0]} goes with --report")
        return
    check_output("--report", args.report, read, (".html", ".json"))
    if args.report.resolve() == args.output.resolve():
        raise Refused(f"-o and --report are both {args.output}")


def options_of(args: argparse.Namespace) -> Options:
    """Arguments as Options. Raises DataError for what is out of range."""
    given: dict[str, Any] = {name: getattr(args, name, None) for name in Options.__slots__}
    given["diet"] = Diet(bits=args.bits, flash_kb=args.flash, prune=args.prune, finetune=args.finetune)
    given["calibration"] = calibration_of(args.calibration, args.percentile)
    if args.front is not None:
        given["front"] = front_of(args.front)
    if args.classes is not None:
        given["classes"] = classes_of(args.classes)
    if args.reset_delay is not None:
        given["reset_delay"] = bool(args.reset_delay)
    for name in ("input_scale", "dt"):
        if given[name] is not None and not 0 < given[name] < float("inf"):
            raise DataError(f"--{name.replace('_', '-')} {given[name]} is not positive and finite")
    for name, (least, most) in WHOLE.items():
        if given[name] is not None and not least <= given[name] <= most:
            raise DataError(f"--{name.replace('_', '-')} {given[name]} is outside [{least}, {most}]")
    for name in ("name", "device_class"):
        if given[name] is not None and not re.fullmatch(NAME, given[name]):
            option = f"--{name.replace('_', '-')} {given[name]!r}"
            raise DataError(f"{option} is not 1 to 64 letters, digits, '.', '_' and '-'")
    return Options(**given)


def front_of(text: str) -> LogMel:
    """The front that `--front` describes. Raises DataError naming what is wrong with it."""
    kind, _, rest = text.partition(":")
    rate, *fields = rest.split(",")
    if kind != "log-mel" or not rate:
        raise DataError(f"--front {text!r} is not log-mel:RATE[,FIELD=N...]")
    given = {name: value for name, _, value in (field.partition("=") for field in fields)}
    try:
        return msgspec.convert({"type": "log-mel", "sample_rate": rate, **given}, LogMel, strict=False)
    except msgspec.ValidationError as err:
        raise DataError(f"--front {text!r}: {err}") from None


def classes_of(text: str) -> tuple[str, ...]:
    """The names of `--classes`. Raises DataError where one is empty or stands there twice."""
    names = tuple(name.strip() for name in text.split(","))
    for k, name in enumerate(names):
        if not name or name in names[:k]:
            raise DataError(f"--classes: {name!r} {'is there twice' if name else 'is no name'}")
    return names


def calibration_of(method: str, percentile: float | None) -> Calibration | None:
    """The calibration that arguments name; None for the best of all. Raises DataError."""
    if percentile is None:
        return None if method == "auto" else Calibration(method)  # type: ignore[arg-type]  # argparse chose
    if method not in ("auto", "percentile"):
        raise DataError(f"--percentile goes with --calibration percentile, not {method}")
    return Calibration("percentile", percentile)


def signer(key: str) -> Signer:
    try:
        from exporters.keys import file_signer
    except ModuleNotFoundError:
        raise MissingExtra("export --sign", "sign", "cryptography") from None
    return file_signer(key)
