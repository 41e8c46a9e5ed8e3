"""A trained model file and some data become one bundle.

file -> float layers -> ranges on data -> integer layers -> head -> measured against the float model -> packed
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Final, Literal, TypeAlias, cast

import msgspec
import numpy as np

from edgerun.arrays import I64, Tensors
from edgerun.bundle import Bundle, Probe, Selftest, Signer, no_probe, pack, read_bundle
from edgerun.encode.sound import step_of
from edgerun.encode.targets import wire_target
from edgerun.errors import DataError, ModelError
from edgerun.graph import is_reserved
from edgerun.learn.rules import rule_of
from edgerun.packing import best_packing
from edgerun.samples import Fit
from edgerun.spec import (
    ClassTable,
    Dense,
    Doubt,
    Drift,
    Head,
    LogMel,
    Manifest,
    OutputSpec,
    PhaseRate,
    ProfileName,
    Provenance,
    Readout,
    Rewiring,
    decode_manifest,
    encode_manifest,
)
from exporters import data, measure
from exporters.calibrate import MINMAX, Calibration
from exporters.data import Samples
from exporters.explain import explain
from exporters.float_net import FloatNet
from exporters.head import Whiten, class_sums, whitening
from exporters.importance import priors
from exporters.improve import improve, is_fixed
from exporters.learning import SMALL, Inner, feedback, learning_plan
from exporters.learning_dense import DENSE, dense_plan, plastic_net
from exporters.learning_values import VALUES, taught_net, values_plan
from exporters.nodes import Affine, FloatReadout, Reset
from exporters.progress import Say, silent
from exporters.report import Accuracy, Report
from exporters.slim import Diet, Slim, slim
from exporters.twin import Twin, cut_after, feature_layer, input_form, quantise_net, saturation_notes, widen_readout
from exporters.units import byte_notes, fixed_notes

SELFTEST_ROWS: Final = 16
PROBE_ROWS: Final = (50, 128)
SAMPLE_BYTES: Final = 128 << 10
"""What the probe of a bundle that learns nothing, and the self-test of any, may take, if their least rows allow it."""
LEAST_ROWS: Final = (8, 10)  # of self-test and probe
FORMATS: Final = (".onnx", ".tflite", ".nir")
MAGIC: Final = {".tflite": (4, b"TFL3"), ".nir": (0, b"\x89HDF\r\n\x1a\n"), ".npz": (0, b"PK\x03\x04")}
"""What files begin with, and where; ONNX files have no such mark."""
TORCH, TENSORFLOW = "write it with torch.onnx.export", "convert it with tf.lite.TFLiteConverter"
WAYS: Final = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".safetensors"), TORCH),
    **dict.fromkeys((".h5", ".keras", ".pb", "folder"), TENSORFLOW),
    **dict.fromkeys((".pkl", ".joblib"), "write it with skl2onnx.to_onnx"),
}
FOR_NIR: Final = ("reset", "reset_delay", "readout", "encoder", "steps", "full_scale", "input_scale", "dt")
"""Options that say what a NIR file leaves open."""
MOST_BYTES: Final = 1 << 30  # of a model file
UNLABELLED_SHARE: Final = 5  # every so many-th part of samples without labels is kept apart
HeadKind: TypeAlias = Literal["logits", "prototypes", "values"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line can say. None leaves it to the model file, the data or a default."""

    learn: Literal[
        "none",
        "prototypes",
        "eprop",
        "eprop-layers",
        "eprop-values",
        "inner-step",
        "backprop",
        "il-prox",
        "il-mq",
        "predictive",
    ] = "none"
    profile: ProfileName = "standard"
    head: HeadKind | None = None
    features: str | None = None
    classes: tuple[str, ...] | None = None
    capacity: int | None = None
    name: str | None = None
    seq: int = 0
    device_class: str = "any"
    calibration: Calibration | None = None
    diet: Diet = field(default_factory=Diet)
    reset: Reset | None = None
    reset_delay: bool | None = None
    readout: Literal["last"] | None = None
    encoder: Literal["phase-rate", "frames", "constant"] | None = None
    steps: int | None = None
    full_scale: int | None = None
    input_scale: float | None = None
    dt: float | None = None
    window: Fit = "fit"
    front: LogMel | None = None
    beside: bool = False
    watch: bool = False
    doubt: bool = False
    rewire: bool = False
    whiten: Whiten = "shared"

    def __post_init__(self) -> None:
        if self.rewire and self.learn in ("none", "prototypes"):
            raise ModelError(f"--rewire moves the synapses that a rule teaches, --learn {self.learn} has no rule")
        if self.profile == "small" and self.learn not in SMALL:
            raise ModelError(f"--profile small goes with --learn {' or '.join(SMALL)}, not {self.learn}")

    @property
    def head_kind(self) -> HeadKind:
        """Where prototypes learn they decide; elsewhere the model's own outputs, to which the inner step adds rows."""
        if self.learn == VALUES:
            return self.head or "values"
        return self.head or ("logits" if self.learn in ("none", "inner-step", *DENSE) else "prototypes")

    def settled(self, samples: Samples) -> Options:
        """The same with the head that these data ask for, where none is named.

        Without labels, class names and learning there is no sign of classes: the outputs are the answer. Raises
        DataError where options contradict each other.
        """
        bare = not samples.labelled and samples.names is None and self.classes is None and self.capacity is None
        head: HeadKind = "values" if self.head is None and self.learn == "none" and bare else self.head_kind
        for option, given in (
            ("--learn", self.learn not in ("none", VALUES)),
            ("--classes", self.classes),
            ("--capacity", self.capacity),
        ):
            if head == "values" and given:
                raise DataError(f"--head values has no classes: {option} does not go with it")
        if self.learn == VALUES and head != "values":
            raise DataError(f"--learn {VALUES} goes with --head values, not {head}")
        if self.features is not None and head != "prototypes":
            raise DataError(f"--features {self.features} goes with --head prototypes, not {head}")
        if self.whiten != "shared" and head != "prototypes":
            raise DataError(f"--whiten {self.whiten} goes with --head prototypes, not {head}")
        return replace(self, head=head)


@dataclass(frozen=True, slots=True)
class Exported:
    """The bundle's bytes and what there is to say about them."""

    data: bytes
    report: Report


# ------------------------------------------------------------------ the pipeline


def export(
    model: Path,
    calibration: Path,
    options: Options,
    *,
    test: Path | None = None,
    sign: Sequence[Signer] = (),
    boards: Sequence[str] | None = None,
    say: Say = silent,
) -> Exported:
    """Turn a model file into a bundle. Raises ModelError, DataError, SpecError or BundleError, one line each.

    boards  those that the report's explanation gives energies for; None: no explanation, which takes its time
    """
    say(f"reading {model.name} and {calibration.name}")
    net = behind_front(load_model(model, options), options.front)
    samples = data.load(
        calibration,
        input_form(net),
        options.window,
        labels=options.head_kind != "values",
        front=options.front,
        targets=options.learn == VALUES,
    )
    notes = (*samples.notes, *fixed_notes(calibration.name, net, samples), *head_notes(net, samples, options))
    options = options.settled(samples)
    net = net.whole() if options.head == "values" else net
    names = class_names(net, samples, options)
    samples = data.relabel(calibration.name, samples, names)
    kept, held = split(calibration.name, samples, options)
    net = plastic_net(net, samples, options.learn) if options.learn in DENSE else net
    net = taught_net(net, samples) if options.learn == VALUES else net
    thin = slim(net, samples.take(kept), options.diet, say)
    how = options.calibration or (MINMAX if options.learn in DENSE else None)
    twin = replace(quantised(thin, samples.take(kept), how, say), origin=net)
    twin, manifest, tensors = with_head(twin, samples.take(kept), names, options)
    data.check_variety(calibration.name, samples)
    trial, apart = samples.take(held), len(kept) < len(samples)
    if test is not None:
        trial, apart = test_samples(test, net, names, options), True
    say(f"measuring on {len(trial)} samples")
    if options.head != "prototypes":
        notes = (*notes, *byte_notes(net, samples.take(held)))
    accuracy = measure.accuracy(model, manifest, tensors, twin, trial, apart=apart)
    manifest = with_provenance(manifest, model, calibration, accuracy)
    say("packing")
    rows = exemplar_rows(samples.y, np.setdiff1d(kept, held), manifest.learning.replay.capacity)
    packed = pack(
        manifest,
        tensors,
        selftest=selftest(twin, manifest, tensors, samples.take(np.setdiff1d(np.arange(len(samples)), rows))),
        probe=labelled_rows(twin, samples, probe_rows(samples, held, options))
        if samples.labelled
        else no_probe(manifest),
        priors=offline_importance(twin, manifest, tensors, samples.take(kept)),
        exemplars=labelled_rows(twin, samples, rows) if len(rows) else None,
        packing={name: best_packing(array) for name, array in tensors.items()},
        sign=sign,
    )
    bundle = read_bundle(packed)
    report = describe(model, bundle, twin, samples.take(held), accuracy, notes)
    if boards is not None:
        say("asking every layer what it cost")
    return Exported(packed, report if boards is None else explain(report, bundle, twin, trial, boards, thin.plot))


def quantised(thin: Slim, samples: Samples, how: Calibration | None, say: Say = silent) -> Twin:
    """Integers for all layers: by the calibration named, else by whichever keeps the answers nearest to the floats'."""
    if how is not None or thin.net.spiking or is_fixed(thin.net):
        twin = quantise_net(thin.net, samples, how or MINMAX, thin.bits)
    else:
        twin = improve(thin.net, samples, thin.bits, say)
    return replace(twin, notes=(*thin.notes, *twin.notes, *saturation_notes(twin, samples)))


def behind_front(net: FloatNet, front: LogMel | None) -> FloatNet:
    """The net with the input that a front gives. Raises ModelError for one that cannot stand behind it."""
    if front is None:
        return net
    step = step_of(front)
    if len(net.input_shape) != 2 or isinstance(net.encoder, PhaseRate):
        raise ModelError(f"--front gives (frames, bands) of values, {net.name} takes {net.input_shape}")
    if net.input is not None and net.input != Affine(step, 0):
        raise ModelError(
            f"--front gives steps of {step:g} octaves around 0, {net.name} takes steps of {net.input.scale:g}"
        )
    return replace(net, input_scale=step)


def load_model(path: Path, options: Options) -> FloatNet:
    """Import by suffix. Raises ModelError for another one, and where a layer has a name that the bundle itself uses."""
    suffix = path.suffix.lower()
    check_kind(path, suffix)
    if suffix != ".nir" and (open_ends := [name for name in FOR_NIR if getattr(options, name) is not None]):
        raise DataError(f"--{open_ends[0].replace('_', '-')} is for .nir files, {path.name} is none")
    if suffix == ".onnx":
        from exporters.onnx_import import load_onnx

        net = load_onnx(path)
    elif suffix == ".tflite":
        from exporters.tflite_import import load_tflite

        net = load_tflite(path)
    else:
        from exporters.nir_import import NirOptions, load_nir

        net = load_nir(path, NirOptions(**{name: getattr(options, name) for name in FOR_NIR}))
    for layer in net.layers:
        if is_reserved(layer.name) or layer.name == "whiten":
            raise ModelError(f"{path.name}: layer name {layer.name!r} begins with a reserved word")
    return net


def check_kind(path: Path, suffix: str) -> None:
    """Raises ModelError for another suffix, with the way to convert it, and for one that belies the content."""
    if suffix not in FORMATS:
        kind = f"format {suffix}" if suffix else "a folder" if path.is_dir() else "format without a suffix"
        way = WAYS.get("folder" if path.is_dir() else suffix, "")
        raise ModelError(f"{path.name or path}: {kind} is none of {', '.join(FORMATS)}{way and f'; {way}'}")
    size = path.stat().st_size
    if not path.is_file() or size > MOST_BYTES:
        raise ModelError(f"{path.name}: {f'{size} bytes, the limit is {MOST_BYTES}' if size else 'is no regular file'}")
    with path.open("rb") as file:
        first = file.read(8)
    for wanted, (start, magic) in MAGIC.items():
        if wanted != suffix and first[start : start + len(magic)] == magic:
            raise ModelError(f"{path.name}: by its content this is a {wanted} file, not {suffix}: give it that suffix")


def class_names(net: FloatNet, samples: Samples, options: Options) -> tuple[str, ...]:
    """Factory class names: the option's, else the data's own, else numbers.

    One for each of the model's outputs; where prototypes decide, one for each class up to the data's highest label, so
    that outputs which nobody has shown yet stay free for classes to come; none where the outputs are the answer.
    """
    outputs = net.outputs
    if options.head_kind == "values":
        return ()
    shown = int(samples.y.max(initial=-1)) + 1
    count = shown if options.head_kind == "prototypes" and shown else outputs
    names = options.classes or samples.names or tuple(str(k) for k in range(count))
    if options.head_kind == "logits" and len(names) > outputs:
        raise DataError(f"{len(names)} class names, but the model has {outputs} outputs")
    return names


def head_notes(net: FloatNet, samples: Samples, options: Options) -> tuple[str, ...]:
    """What is assumed of the answer: where the data have no labels, and where the file ends in a softmax."""
    head, notes = options.settled(samples).head, []
    if head == "logits" and net.left_out is not None:
        notes.append(f"softmax {net.left_out.name} at the end is left out: it does not change the order of the scores")
    if samples.labelled or options.head == "values":
        return tuple(notes)
    if head == "values":
        return ("neither labels nor class names: the outputs are the answer (a classifier wants --head logits)",)
    return (*notes, "no labels: the bundle has no probe, so nobody can tell on a device whether it is right")


def test_samples(path: Path, net: FloatNet, names: Sequence[str], options: Options) -> Samples:
    """The labelled samples of a data file, or all where there are no classes. Raises DataError if there is none."""
    if options.head_kind == "values":
        return data.load(path, input_form(net), options.window, labels=False, front=options.front)
    samples = data.relabel(path.name, data.load(path, input_form(net), options.window, front=options.front), names)
    rows = np.flatnonzero(samples.y >= 0)
    if not len(rows):
        raise DataError(f"{path.name}: has no labels")
    return samples.take(rows)


def split(name: str, samples: Samples, options: Options) -> tuple[I64, I64]:
    """Samples for ranges and means, and those kept apart for the probe. Raises DataError where labels are too few.

    Without labels the last fifth is kept apart, to measure on; nothing of fewer than five samples.
    """
    count = int((samples.y >= 0).sum())
    if not count and options.learn in ("none", VALUES) and options.head_kind != "prototypes":
        rows = np.arange(len(samples))
        apart = min(len(samples) // UNLABELLED_SHARE, PROBE_ROWS[1])
        return (rows[:-apart], rows[-apart:]) if apart else (rows, rows)
    if count < PROBE_ROWS[0]:
        raise DataError(f"{name}: has {count} labelled samples, a bundle's probe takes {PROBE_ROWS[0]} or more")
    return data.hold_out(samples.y, least=PROBE_ROWS[0], most=PROBE_ROWS[1])


# ------------------------------------------------------------------ head and learning


def with_head(twin: Twin, samples: Samples, names: Sequence[str], options: Options) -> tuple[Twin, Manifest, Tensors]:
    """The layers that are needed, the whole manifest and its tensors; class means come from these samples."""
    kind = options.head_kind
    capacity = 0 if kind == "values" else options.capacity or max(len(names), twin.parts[-1].layer.outputs)
    features = feature_layer(twin, options.features) if kind == "prototypes" or options.features else ""
    if options.learn in DENSE and kind != "logits":
        raise ModelError(f"--learn {options.learn} decides by its outputs: --head {kind} does not go with it")
    if options.learn in ("eprop", "eprop-layers", "inner-step"):
        twin = widen_readout(twin, capacity)
    elif kind == "prototypes":
        twin = cut_after(twin, features)
    manifest = Manifest(
        name=options.name or twin.net.name,
        seq=options.seq,
        device_class=options.device_class,
        front=options.front,
        input=twin.input,
        encoder=twin.net.encoder,
        layers=tuple(part.layer for part in twin.parts),
        head=Head(kind="values" if kind == "values" else "logits"),
        output=None if kind == "prototypes" else output_spec(twin),
        classes=ClassTable(names=tuple(names), capacity=capacity),
    )
    manifest, own = with_learning(twin, manifest, samples, options)
    manifest = with_care(manifest, options)
    if options.rewire:
        plan = msgspec.structs.replace(manifest.learning, rewiring=Rewiring())
        manifest = msgspec.structs.replace(manifest, learning=plan)
    tensors = twin.tensors | own
    if kind == "prototypes":
        labelled = samples.take(np.flatnonzero(samples.y >= 0))
        manifest, more = with_prototypes(twin, manifest, features, labelled, options)
        tensors |= more
    rule_of(manifest, tensors)  # refuses what the device would refuse
    return twin, decode_manifest(encode_manifest(manifest)), tensors


def with_care(manifest: Manifest, options: Options) -> Manifest:
    """The plan with what watches the stream and what doubts its labels, where options ask for them."""
    plan = manifest.learning
    if options.watch:
        plan = msgspec.structs.replace(plan, drift=Drift())
    if options.doubt:
        plan = msgspec.structs.replace(plan, doubt=Doubt())
    return msgspec.structs.replace(manifest, learning=plan)


def with_learning(twin: Twin, manifest: Manifest, samples: Samples, options: Options) -> tuple[Manifest, Tensors]:
    """The manifest with the plan that `--learn` names, and the tensors that its rule brings."""
    if options.learn in DENSE:
        plan, own = dense_plan(options.learn, manifest, twin, samples)
        return msgspec.structs.replace(manifest, learning=plan), own
    if options.learn == VALUES:
        steps = 1 if samples.target is None else samples.target.shape[1]
        plan = values_plan(manifest, twin.tensors, twin.inputs(samples), steps)
        return msgspec.structs.replace(manifest, learning=plan), {}
    plan = learning_plan(options.learn, manifest, readout_halvings(twin), inner_rate(twin), options.profile)
    manifest = msgspec.structs.replace(manifest, learning=plan)
    return manifest, feedback(manifest)


def output_spec(twin: Twin) -> OutputSpec:
    """What the last layer's integers mean."""
    last = twin.parts[-1]
    left_out = twin.net.left_out
    return OutputSpec(
        shape=(last.layer.outputs,),
        scale=last.output.scale,
        zero_point=last.output.zero_point,
        softmax=None if left_out is None else left_out.beta,
    )


def readout_halvings(twin: Twin) -> int:
    """How often the readout's logits were halved to fit: the temperature of the learning plan follows."""
    last = twin.parts[-1]
    return round(float(np.log2(last.output.scale * 2.0**24))) if isinstance(last.layer, Readout) else 0


def inner_rate(twin: Twin) -> Inner | None:
    """The readout's inner rate and sharpness, for what it reads in integers; None where there is no rate or readout."""
    last, sources = twin.net.wiring()[-1]
    if not isinstance(last, FloatReadout) or last.inner_rate is None or twin.parts[-1].layer.name != last.name:
        return None
    kappa = int(twin.tensors[f"{last.name}.kappa"][0])
    return Inner(last.inner_rate * twin.maps[sources[0]].scale ** 2, kappa, last.inner_sharpness)


def offline_importance(twin: Twin, manifest: Manifest, tensors: Tensors, samples: Samples) -> Tensors:
    """Importance codes of the plastic tensors, from the calibration samples with labels or targets."""
    if manifest.learning.rule is None:
        return {}
    if samples.target is not None:
        targets = np.stack([wire_target(manifest, target) for target in samples.target])
        return priors(manifest, tensors, twin.inputs(samples), np.zeros(len(samples), np.int64), targets)
    labelled_ones = samples.take(np.flatnonzero(samples.y >= 0))
    return priors(manifest, tensors, twin.inputs(labelled_ones), labelled_ones.y)


def exemplar_rows(y: I64, rows: I64, capacity: int) -> I64:
    """Those of `rows` that replay starts from: one of each class in turn, in file order, up to `capacity`."""
    label = y[rows]
    turn = np.full(len(rows), len(rows))
    for k in np.unique(label[label >= 0]):
        mine = np.flatnonzero(label == k)
        turn[mine] = np.arange(len(mine))
    order = np.argsort(turn, kind="stable")
    return rows[order[label[order] >= 0][:capacity]]


def probe_rows(samples: Samples, held: I64, options: Options) -> I64:
    """Those kept apart; of a bundle that learns nothing, whose probe only shows that it works, what fits the room."""
    if options.learn != "none":
        return held
    return np.sort(exemplar_rows(samples.y, held, affordable(samples, LEAST_ROWS[1], len(held))))


def affordable(samples: Samples, least: int, most: int) -> int:
    """How many samples fit `SAMPLE_BYTES`, a byte a value, within these bounds."""
    fitting: int = SAMPLE_BYTES // max(1, samples.x[0].size)
    return min(most, max(least, fitting))


def labelled_rows(twin: Twin, samples: Samples, rows: I64) -> Probe:
    """Samples as a bundle stores them, with their labels."""
    return Probe(x=twin.stored(samples.take(rows)), label=samples.y[rows].astype(np.int32))


def with_prototypes(
    twin: Twin, manifest: Manifest, features: str, samples: Samples, options: Options
) -> tuple[Manifest, Tensors]:
    """The manifest with a prototype head, and the head's tensors, from labelled samples."""
    z, whiten, tensors = measure.raw_features(twin, features, twin.inputs(samples)), None, Tensors()
    if options.whiten == "shared":
        part = whitening(z, samples.y, measure.feature_reach(twin, features))
        z, whiten, tensors = measure.run_dense(part, z), cast(Dense, part.layer), part.tensors
    head = Head(kind="prototypes", features=features, whiten=whiten, beside=options.beside)
    tensors = tensors | class_sums(z, samples.y, len(manifest.classes.names))
    return msgspec.structs.replace(manifest, head=head), tensors


# ------------------------------------------------------------------ what the bundle says of itself


def with_provenance(manifest: Manifest, model: Path, calibration: Path, accuracy: Accuracy) -> Manifest:
    return msgspec.structs.replace(
        manifest,
        provenance=Provenance(
            source=model.name,
            source_sha256=digest(*source_files(model)),
            exporter=f"edgerun {metadata.version('edgerun')}",
            calibration=f"{calibration.name} {digest(calibration)}",
            float_accuracy=accuracy.float_model,
            integer_accuracy=accuracy.integer,
            output_error=accuracy.output_error,
        ),
    )


def source_files(model: Path) -> tuple[Path, ...]:
    """The model file, and those beside it that hold weights of it."""
    if model.suffix.lower() != ".onnx":
        return (model,)
    from exporters.onnx.external import files

    return (model, *files(model))


def digest(*paths: Path) -> str:
    """SHA-256 of the files' bytes, one after the other."""
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()


def selftest(twin: Twin, manifest: Manifest, tensors: Tensors, samples: Samples) -> Selftest:
    """Inputs spread over the data, and the exact scores that the network gives them."""
    count = affordable(samples, LEAST_ROWS[0], SELFTEST_ROWS)
    rows = samples.take(np.linspace(0, len(samples) - 1, count).astype(np.int64))
    return Selftest(x=twin.stored(rows), y=measure.scores(manifest, tensors, twin.inputs(rows)))


def describe(
    model: Path, bundle: Bundle, twin: Twin, samples: Samples, accuracy: Accuracy, notes: Sequence[str]
) -> Report:
    layers = measure.layer_reports(twin, samples, bundle.certificates)
    return Report(
        model=model.name,
        name=bundle.manifest.name,
        id=bundle.id,
        bytes=bundle.size,
        layers=tuple(layers),
        accuracy=accuracy,
        sections=tuple((section.name, section.length) for section in bundle.sections),
        notes=(*notes, *twin.net.notes, *twin.notes),
    )
