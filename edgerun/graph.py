"""What a manifest's graph asks for and can emit: its tensors with their ranges, its widths, the reach of each layer."""

from __future__ import annotations

from typing import Final, NamedTuple

from edgerun.errors import SpecError
from edgerun.layers import Integrators
from edgerun.layers.base import I8_BOUNDS, I32_BOUNDS, INPUT
from edgerun.layers.spiking import SPIKING
from edgerun.spec import Layer, Manifest, PhaseRate, Readout, TensorSpec

RESERVED_NAMES: Final = ("head", "selftest", "probe", "prior", "exemplar")
"""First parts of tensor names that mean something else than a layer."""


def is_reserved(name: str) -> bool:
    """Whether no layer may be called so: its tensors would be taken for others, or it for the input."""
    return name == INPUT or name.partition(".")[0] in RESERVED_NAMES


class Wanted(NamedTuple):
    """A tensor that the manifest's graph asks for, and the values it may hold."""

    spec: TensorSpec
    low: int
    high: int


def wanted_tensors(manifest: Manifest) -> tuple[Wanted, ...]:
    """Every tensor that the layers and the head need, in the order in which a bundle stores them.

    Raises SpecError if the head or the learning plan names what is not there.
    """
    wanted = [
        Wanted(
            TensorSpec(name=f"{layer.name}.{field.part}", dtype=field.dtype, shape=field.shape), field.low, field.high
        )
        for layer in _all_layers(manifest)
        for field in layer.fields()
    ]
    return (*wanted, *_head_tensors(manifest), *_rule_tensors(manifest))


def _rule_tensors(manifest: Manifest) -> tuple[Wanted, ...]:
    """What the learning rule brings itself."""
    rule = manifest.learning.rule
    own = () if rule is None else rule.own(manifest.layer)
    return tuple(Wanted(TensorSpec(name=name, dtype="int8", shape=shape), -127, 127) for name, _, shape in own)


def _all_layers(manifest: Manifest) -> tuple[Layer, ...]:
    return manifest.layers if manifest.head.whiten is None else (*manifest.layers, manifest.head.whiten)


def _head_tensors(manifest: Manifest) -> tuple[Wanted, ...]:
    if manifest.head.kind != "prototypes":
        return ()
    classes, width = len(manifest.classes.names), feature_width(manifest)
    return (
        Wanted(TensorSpec(name="head.sum", dtype="int32", shape=(classes, width)), *I32_BOUNDS),
        Wanted(TensorSpec(name="head.count", dtype="int32", shape=(classes,)), 0, I32_BOUNDS[1]),
        Wanted(TensorSpec(name="head.bias", dtype="int32", shape=(classes,)), *I32_BOUNDS),
    )


def feature_width(manifest: Manifest) -> int:
    """d of a prototype head: what its whitening, or else its feature layer, gives."""
    features, whiten = manifest.layer(manifest.head.features or ""), manifest.head.whiten
    if whiten is None:
        return features.outputs
    if whiten.inputs != features.outputs:
        raise SpecError(f"layer {whiten.name} takes {whiten.inputs} values, {features.name} gives {features.outputs}")
    return whiten.outputs


def score_width(manifest: Manifest) -> int:
    """How many scores one inference gives."""
    return len(manifest.classes.names) if manifest.head.kind == "prototypes" else manifest.layers[-1].outputs


def check_graph(manifest: Manifest) -> None:
    """What a manifest says about itself beyond single fields. Raises SpecError."""
    names = [wanted.spec.name for wanted in wanted_tensors(manifest)]
    if len(set(names)) != len(names):
        raise SpecError("two layers ask for a tensor of the same name")
    for layer in _all_layers(manifest):
        if is_reserved(layer.name):
            raise SpecError(f"layer name {layer.name!r} is or begins with a reserved word")
    known, outputs = len(manifest.classes.names), score_width(manifest)
    if manifest.head.kind != "values" and not known <= outputs <= manifest.classes.capacity:
        raise SpecError(f"{outputs} scores, but {known} class names and capacity {manifest.classes.capacity}")
    _check_head(manifest)
    _check_learning(manifest)


def _check_head(manifest: Manifest) -> None:
    head = manifest.head
    if head.kind != "prototypes" and (head.features or head.whiten):
        raise SpecError(f"a head of kind {head.kind} reads the last layer: it takes neither features nor whiten")
    if head.kind == "prototypes" and isinstance(manifest.layer(head.features or ""), Readout | Integrators):
        raise SpecError(f"head features {head.features!r} is a readout; prototypes read a dense or a lif layer")


def _check_learning(manifest: Manifest) -> None:
    rule = manifest.learning.rule
    if rule is None:
        return
    rule.check(manifest.layer)
    weights = {wanted.spec.name for wanted in wanted_tensors(manifest) if wanted.spec.dtype == "int8"}
    for name in sorted(plastic_tensors(manifest) - weights):
        raise SpecError(f"a rate names {name!r}, which is no weight tensor")


def learns(manifest: Manifest) -> bool:
    """Whether the device can change anything of this model."""
    return manifest.learning.rule is not None or manifest.head.kind == "prototypes"


def grows(manifest: Manifest) -> bool:
    """Whether classes may join on the device: the head has means for each, or the rule a column."""
    return manifest.head.kind == "prototypes" or bool(manifest.learning.rule and manifest.learning.rule.by_class)


def plastic_tensors(manifest: Manifest) -> frozenset[str]:
    """Names of the tensors that learning may change."""
    rule = manifest.learning.rule
    return rule.tensors if rule else frozenset()


def input_reach(manifest: Manifest) -> int:
    """The largest |x| that the encoder hands to the layers: 1 for spikes, else the input dtype's."""
    if isinstance(manifest.encoder, PhaseRate):
        return 1
    low, high = (0, 255) if manifest.input.dtype == "uint8" else I8_BOUNDS
    return max(abs(low - manifest.encoder.offset), abs(high - manifest.encoder.offset))


def layer_reaches(manifest: Manifest) -> dict[str, tuple[tuple[int, ...], int]]:
    """By layer name, the largest |x| that reaches it from each source, and the largest |y| that it can emit."""
    emitted, found = {INPUT: input_reach(manifest)}, {}
    for layer, sources in manifest.wiring():
        reaches = tuple(emitted[source] for source in sources)
        emitted[layer.name] = layer.reach(reaches)
        found[layer.name] = (reaches, emitted[layer.name])
    return found


def feature_reach(manifest: Manifest) -> int:
    """The largest |z| of a prototype head's features: a layer's output, or spike counts over the window."""
    layer = manifest.layer(manifest.head.features or "")
    return manifest.steps if isinstance(layer, SPIKING) else layer_reaches(manifest)[layer.name][1]
