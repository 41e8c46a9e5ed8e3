"""`edgerun infer`: a bundle's answers for a file of samples, by the very network that a device runs.

    samples -> windows of the model's length -> quantised at the input's scale -> network, block by block -> out.npz

Integers of the bundle's own dtype pass as they are. Written: `y`, the last layer's integers (or prototype scores);
`y_scale` and `y_zero_point`, real = y_scale * (y - y_zero_point), where the bundle says what they mean; `label` and
`class_names`, where there are classes; `probability`, where the model's file ends in a softmax that the bundle leaves
out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, cast, get_args

import numpy as np

from edgerun import encode
from edgerun.arrays import F32, I16, I32, AnyArray, Tensors
from edgerun.bundle import Bundle, open_bundle
from edgerun.commands.backend import backend_option
from edgerun.commands.files import check_output, writing
from edgerun.commands.neighbours import runnable, runner
from edgerun.commands.text import columns
from edgerun.encode.files import heard
from edgerun.encode.targets import real_answers, wanted_answers
from edgerun.errors import DataError, Refused
from edgerun.graph import score_width
from edgerun.kernels.native import Backend
from edgerun.metrics import r_squared, relative_error
from edgerun.native import network_of
from edgerun.samples import Fit, Windows, labels, read_arrays, unit_notes, windows
from edgerun.spec import InputSpec, Manifest, OutputSpec

BLOCK: Final = 64  # samples that run side by side
SHOWN: Final = 5  # labels that a note names
TELL_S: Final = 0.5  # between two lines of progress


@dataclass(frozen=True, slots=True)
class Answers:
    """What a bundle says of samples.

    y      (N, *output shape)  int32  the last layer's integers, or (N, classes) scores where prototypes decide
    label  (N,)                int32  the winning class, or None where the outputs are the answer

    instructions: of one inference, the mean, where a board was asked
    """

    y: I32
    label: I32 | None
    instructions: float | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What --json prints."""

    bundle: str
    name: str
    output: str
    samples: int
    labelled: int
    accuracy: float | None  # of the labelled samples
    r2: float | None  # of values, where the file has targets
    nrmse: float | None
    seconds: float
    board: str | None
    instructions: float | None  # of one inference on the board
    notes: tuple[str, ...]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help="a bundle file, *.edgb")
    parser.add_argument(
        "data", type=Path, metavar="DATA.npz", help="x, or samples and offsets; with labels it is judged"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.npz", help="the file to write")
    parser.add_argument(
        "--window",
        choices=get_args(Fit),
        default="fit",
        help="recordings of another length than the model's: fill up with zeros at the end and cut (fit), or refuse",
    )
    backend_option(parser)
    parser.add_argument(
        "--board",
        metavar="NAME",
        help=f"run the bundle's C firmware on an emulated board, the same bits: {', '.join(runnable()) or 'none here'}",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.epilog = "example:\n  edgerun infer digits.edgb field.npz -o answers.npz"


def run(args: argparse.Namespace) -> int:
    check_output("-o", args.output, (Path(args.bundle), args.data), (".npz",))
    bundle = open_bundle(args.bundle)
    arrays = read_arrays(args.data)
    if bundle.manifest.front is not None:
        arrays = heard(bundle.manifest.front, bundle.manifest.input, args.data.name, arrays)
    found = windows(args.data.name, arrays, bundle.manifest.input, args.window)
    units = unit_notes(args.data.name, found.values, bundle.manifest.input)
    classes = bundle.manifest.classes.names
    truth = labels(args.data.name, arrays, len(found), classes) if classes else []
    began = time.monotonic()
    tell = progress(sys.stderr.isatty() and not args.json)
    if args.board is None:
        answers = infer(bundle, found, args.data.name, tell, args.backend)
    elif args.backend is None:
        answers = infer_on(bundle, found, args.data.name, args.board)
    else:
        raise Refused(
            f"--backend {args.backend} says how this machine computes, --board {args.board} computes elsewhere"
        )
    seconds = time.monotonic() - began
    with writing(args.output) as file:
        np.savez(file, **cast(dict[str, Any], as_arrays(bundle, answers)))
    share, labelled = accuracy(bundle, answers, truth)
    r2, nrmse = closeness(bundle.manifest, args.data.name, arrays, answers)
    told = Told(
        bundle=bundle.id,
        name=bundle.manifest.name,
        output=str(args.output),
        samples=len(found),
        labelled=labelled,
        accuracy=share,
        r2=r2,
        nrmse=nrmse,
        seconds=round(seconds, 4),
        board=args.board,
        instructions=answers.instructions,
        notes=(*found.notes(), *units, *unknown_notes(truth, classes), *answer_notes(bundle.manifest)),
    )
    print(json.dumps(asdict(told), indent=2) if args.json else "\n".join(page(told)))
    return 0


# ------------------------------------------------------------------ answers


def infer(
    bundle: Bundle, found: Windows, name: str, tell: Callable[[int, int], None], backend: Backend | None = None
) -> Answers:
    """Every sample's answer; beside the answers themselves only one block of samples is in memory in any other form.

    Raises DataError naming the first sample that is not finite, SpecError where C is asked for and cannot run it.
    """
    manifest, count = bundle.manifest, len(found)
    network = network_of(manifest, bundle.tensors, backend).batched(min(BLOCK, count))
    y: I32 = np.zeros((count, score_width(manifest)), np.int32)
    for first in range(0, count, BLOCK):
        last = min(first + BLOCK, count)
        if last - first != network.batch[0]:
            network = network.batched(last - first)
        y[first:last] = network.scores(quantised(manifest.input, found.take(first, last), name, first))
        tell(last, count)
    return judged(manifest, y)


def infer_on(bundle: Bundle, found: Windows, name: str, board: str) -> Answers:
    """The same of the bundle's firmware on a board. Raises Refused where that cannot be run here."""
    ran = runner(board).infer(bundle, board, quantised(bundle.manifest.input, found.take(0, len(found)), name, 0))
    return replace(judged(bundle.manifest, ran.scores), instructions=round(float(ran.instructions.mean()), 1))


def judged(manifest: Manifest, y: I32) -> Answers:
    """Scores (N, k) as answers."""
    known, shape = len(manifest.classes.names), manifest.output.shape if manifest.output else None
    label = y[:, :known].argmax(axis=1).astype(np.int32) if known else None
    return Answers(y.reshape(len(y), *shape) if shape else y, label)


def quantised(spec: InputSpec, x: AnyArray, name: str, first: int) -> I16:
    """Samples (n, ...) as the device's sensor edge makes them, (n, size)."""
    rows = []
    for k, sample in enumerate(x):
        try:
            rows.append(encode.quantise(spec, sample))
        except DataError as err:
            raise DataError(f"{name}: sample {first + k}: {err}") from None
    return np.stack(rows)


def accuracy(bundle: Bundle, answers: Answers, truth: list[str | None]) -> tuple[float | None, int]:
    """(share of right answers among the labelled samples, how many these are); a class not known is never right."""
    known = [k for k, label in enumerate(truth) if label is not None]
    if answers.label is None or not known:
        return None, len(known)
    names = bundle.manifest.classes.names
    right = sum(names[answers.label[k]] == truth[k] for k in known)
    return right / len(known), len(known)


def closeness(manifest: Manifest, name: str, arrays: Tensors, answers: Answers) -> tuple[float | None, float | None]:
    """(R^2, nRMSE) of answers that are values, where the file has `targets`. Raises DataError for such as are none."""
    if manifest.head.kind != "values" or "targets" not in arrays:
        return None, None
    wanted = wanted_answers(manifest, name, arrays, len(answers.y))
    values = real_answers(manifest, answers.y.reshape(len(wanted), -1))
    return r_squared(values, wanted), relative_error(values, wanted)


def unknown_notes(truth: Sequence[str | None], classes: Sequence[str]) -> tuple[str, ...]:
    """Which of the labels are no classes of the bundle: no answer to those samples is right."""
    unknown = sorted({label for label in truth if label is not None} - set(classes))
    if not unknown:
        return ()
    shown = ", ".join(map(repr, unknown[:SHOWN])) + (", …" if len(unknown) > SHOWN else "")
    return (f"{len(unknown)} of the labels are no classes of the bundle, so no answer to them is right: {shown}",)


def answer_notes(manifest: Manifest) -> tuple[str, ...]:
    """What y is, where it is not what the model's file answers."""
    if manifest.head.kind == "prototypes":
        return ("y are the scores of the prototypes: the model's own outputs are not in this bundle",)
    if manifest.output is not None and manifest.output.softmax is not None:
        return ("y are the scores before the model's softmax; probability is what comes behind it",)
    return ()


# ------------------------------------------------------------------ output


def as_arrays(bundle: Bundle, answers: Answers) -> Tensors:
    """What the written file holds, by name."""
    arrays: Tensors = {"y": answers.y}
    if (out := bundle.manifest.output) is not None:
        arrays |= {"y_scale": np.array(out.scale), "y_zero_point": np.array(out.zero_point)}
        if out.softmax is not None:
            arrays["probability"] = probabilities(out, answers.y)
    if answers.label is not None:
        arrays |= {"label": answers.label, "class_names": np.array(bundle.manifest.classes.names)}
    return arrays


def probabilities(out: OutputSpec, y: I32) -> F32:
    """What the softmax that the bundle leaves out makes of the integers y (N, ...): exp(z) / sum exp(z) over a sample,
    z = softmax * scale * (y - zero_point); the zero point cancels."""
    z = (out.softmax or 1.0) * out.scale * y.reshape(len(y), -1).astype(np.float64)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p: F32 = (e / e.sum(axis=1, keepdims=True)).reshape(y.shape).astype(np.float32)
    return p


def progress(shown: bool) -> Callable[[int, int], None]:
    """Tells (done, of all) on standard error, on one line, at most twice a second."""
    due = time.monotonic() + TELL_S

    def tell(done: int, count: int) -> None:
        nonlocal due
        if not shown or (time.monotonic() < due and done < count):
            return
        due = time.monotonic() + TELL_S
        end = "\n" if done == count else ""
        print(f"\r{done:,} of {count:,} samples", end=end, file=sys.stderr, flush=True)

    return tell


def page(told: Told) -> Iterator[str]:
    """The lines for a person."""
    yield f"{told.output}: {told.samples:,} answers of {told.name} in {told.seconds:.3g} s"
    rows = [("note", note) for note in told.notes]
    if told.r2 is not None and told.nrmse is not None:
        rows.append(("values", f"R2 {told.r2:.3f}, nRMSE {told.nrmse:.3f} of {told.samples:,} targets"))
    if told.accuracy is not None:
        rows.append(("accuracy", f"{told.accuracy:.2%} of {told.labelled:,} labelled samples right"))
    if told.instructions is not None:
        rows.append((told.board or "", f"{told.instructions:,.0f} instructions an inference"))
    if rows:
        yield from columns(rows)
