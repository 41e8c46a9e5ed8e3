"""What a model is and how it may learn, as frozen records that cannot be wrong.

A manifest (the JSON section of a bundle) decodes straight into these; every range is checked once, here, so the
rooms above never check again. Numbers follow the integer rules of `docs/arithmetic.md`.
"""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from edgerun.errors import SpecError
from edgerun.layers import Dense as Dense
from edgerun.layers import Layer as Layer
from edgerun.layers import Lif as Lif
from edgerun.layers import Readout as Readout
from edgerun.layers.base import INPUT
from edgerun.layers.base import Count as Count
from edgerun.layers.base import DType as DType
from edgerun.layers.base import Name as Name
from edgerun.layers.base import Record as Record
from edgerun.layers.base import Requant as Requant
from edgerun.rules import Backprop as Backprop
from edgerun.rules import EProp as EProp
from edgerun.rules import Gain as Gain
from edgerun.rules import IlProx as IlProx
from edgerun.rules import InnerStep as InnerStep
from edgerun.rules import MeanQuotient as MeanQuotient
from edgerun.rules import Normaliser as Normaliser
from edgerun.rules import PlasticRate as PlasticRate
from edgerun.rules import PredictiveCoding as PredictiveCoding
from edgerun.rules import RMaxProp as RMaxProp
from edgerun.rules import Rule as Rule
from edgerun.rules import SequentialIl as SequentialIl

Label: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Packing: TypeAlias = Literal["plain", "int4", "int2", "sparse"]
Level: TypeAlias = Literal["full", "light", "sparse", "head", "infer", "quiet", "slow", "sleep"]

MAX_LAYERS: Final = 4096
MAX_TENSORS: Final = 1 << 14

LEVELS: tuple[Level, ...] = ("full", "light", "sparse", "head", "infer", "quiet", "slow", "sleep")
"""The shedding ladder, from everything to nothing: plasticity goes before protection, protection before service.

full    deep lessons with all replay passes          head    prototypes only
light   deep lessons with one replay pass            infer   no learning
sparse  the same, on every fourth lesson             quiet   telemetry at a quarter of its rate
                                                     slow    inference at a quarter of its rate;  sleep   nothing
"""


class TensorSpec(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The dtype, shape and packing of one array section; the k-th record describes the k-th array section.

    `packing` says how the bytes lie in the file (`edgerun/packing.py`); left out where they are plain.
    """

    name: Name
    dtype: DType
    shape: Annotated[tuple[Count, ...], Meta(max_length=5)]
    packing: Packing = "plain"

    def __post_init__(self) -> None:
        if self.packing != "plain" and self.dtype != "int8":
            raise SpecError(f"tensor {self.name} is {self.dtype}, only int8 is stored as {self.packing}")


# ------------------------------------------------------------------ sensor edge


class InputSpec(Record, frozen=True, kw_only=True):
    """What the sensor delivers: q = clip(half_up(x / scale) + zero_point) in `dtype`."""

    shape: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=4)]
    dtype: Literal["int8", "uint8"] = "int8"
    scale: Annotated[float, Meta(gt=0)] = 1.0
    zero_point: int = 0

    def __post_init__(self) -> None:
        low, high = (0, 255) if self.dtype == "uint8" else (-128, 127)
        if not low <= self.zero_point <= high:
            raise SpecError(f"zero_point {self.zero_point} is outside [{low}, {high}] of {self.dtype}")
        if not math.isfinite(self.scale):
            raise SpecError(f"scale {self.scale} is not finite")

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class OutputSpec(Record, frozen=True, kw_only=True):
    """What the last layer's integers mean: real = scale * (q - zero_point), in this shape.

    softmax  the model's own answer is softmax(softmax * real) over all of them; None: it is `real` itself
    """

    shape: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=4)]
    scale: Annotated[float, Meta(gt=0)] = 1.0
    zero_point: Annotated[int, Meta(ge=-128, le=127)] = 0
    softmax: Annotated[float, Meta(gt=0)] | None = None

    def __post_init__(self) -> None:
        if self.softmax is not None and not math.isfinite(self.softmax):
            raise SpecError(f"softmax {self.softmax} is not finite")
        if not math.isfinite(self.scale):
            raise SpecError(f"output scale {self.scale} is not finite")

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class LogMel(Record, tag="log-mel", frozen=True, kw_only=True):
    """Sound to features, before anything is quantised by a scale: `edgerun/encode/sound.py` has the integers.

    The loud part of a recording is cut into as many windows as the input has frames, however long it is; each gives
    log energies of as many mel bands as a frame has values. What is more than `floor_octaves` under the loudest is
    raised to that, the mean of all is taken off, and 2**step_shift / 32 octaves of energy are one step of the input.
    """

    sample_rate: Annotated[int, Meta(ge=1000, le=192_000)]  # Hz
    window: Annotated[int, Meta(ge=64, le=512)] = 256  # samples of one frame, even
    low_hz: Annotated[float, Meta(ge=0)] = 80.0
    high_hz: Annotated[float, Meta(gt=0)] = 3900.0
    quiet_shift: Annotated[int, Meta(ge=1, le=30)] = 10  # loud = over the loudest energy / 2**this
    floor_octaves: Annotated[int, Meta(ge=1, le=40)] = 12
    step_shift: Annotated[int, Meta(ge=0, le=5)] = 2
    longest: Annotated[int, Meta(ge=64, le=1 << 22)] = 1 << 15  # samples of a recording that a device has room for

    def __post_init__(self) -> None:
        if self.window % 2:
            raise SpecError(f"window {self.window} is odd")
        if not self.low_hz < self.high_hz <= self.sample_rate / 2:
            raise SpecError(
                f"bands from {self.low_hz} to {self.high_hz} Hz do not rise within {self.sample_rate / 2} Hz"
            )


Offset: TypeAlias = Annotated[int, Meta(ge=0, le=128)]
"""Taken from every value before a layer sees it: 128 re-bases uint8 to int8."""


class Direct(Record, tag="direct", frozen=True, kw_only=True):
    """Hand the quantised features, less `offset`, to the first layer, once."""

    offset: Offset = 0


class PhaseRate(Record, tag="phase-rate", frozen=True, kw_only=True):
    """A deterministic rate code: a value of u in [0, full_scale] spikes half_up(steps * u / full_scale) times, evenly.

    phase <- phase + u;  spike where phase >= full_scale;  phase <- phase - full_scale * spike;  phase[0] = full_scale/2
    """

    steps: Annotated[int, Meta(ge=1, le=128)]
    full_scale: Annotated[int, Meta(ge=1, le=255)]


class Frames(Record, tag="frames", frozen=True, kw_only=True):
    """A recording: the sample's first axis is time; each step hands over the values of one moment, less `offset`."""

    offset: Offset = 0


class Constant(Record, tag="constant", frozen=True, kw_only=True):
    """The same values, less `offset`, at each of `steps` steps: a still picture before a spiking network."""

    steps: Annotated[int, Meta(ge=1, le=1024)]
    offset: Offset = 0


Encoder: TypeAlias = Direct | PhaseRate | Frames | Constant

# ------------------------------------------------------------------ head


class Head(Record, frozen=True, kw_only=True):
    """Who decides: argmax over the int32 scores of all classes, ties to the lowest; or nobody.

    logits      the last layer's outputs.
    values      the last layer's outputs too, but they are the answer themselves (a regression, a reconstruction): there
                are no classes and no winner. `Manifest.output` says what they mean.
    prototypes  score_k = 2 z.c_k - c_k.c_k + bias_k over features z (Snell et al. 2017), `features` naming the layer
                that gives z: a Dense layer's output, or a Lif layer's spike counts over the window. Where `whiten` is
                set, a Dense layer of that name stands between. Tensors: `head.sum` int32 (classes, d), `head.count`
                int32 (classes,), `head.bias` int32 (classes,).
    beside      what is taught in the field makes a mean of its own for each class, beside the factory's: a class scores
                by the nearer one, so a new speaker's "three" takes nothing from the old speakers'.
    """

    kind: Literal["logits", "prototypes", "values"] = "logits"
    features: Name | None = None
    whiten: Dense | None = None
    beside: bool = False

    @property
    def means(self) -> int:
        """How many means a class may have."""
        return 2 if self.beside else 1


# ------------------------------------------------------------------ learning


NO_PULL: Final = 58
"""The strength at which not even the largest importance pulls."""
Strength: TypeAlias = Annotated[int, Meta(ge=0, le=NO_PULL)]
"""sc: the pull is (Omega * (ref - shadow)) >> sc, clamped for stability."""
Damping: TypeAlias = Annotated[int, Meta(ge=1, le=1 << 30)]
"""xi, in (shadow LSB)**2 / 256."""


class Intelligence(Record, frozen=True, kw_only=True):
    """Synaptic intelligence (Zenke et al. 2017): pull back what mattered, credit what helped.

    strength, damping  one number for all plastic tensors, or one for each, in the order of the rule's rates
    """

    strength: Strength | tuple[Strength, ...]
    damping: Damping | tuple[Damping, ...]
    every: Annotated[int, Meta(ge=0, le=1 << 20)] = 0  # consolidate after so many updates; 0 = by command or when idle

    def strength_of(self, index: int) -> int:
        """Of the index-th plastic tensor."""
        return self.strength if isinstance(self.strength, int) else self.strength[index]

    def damping_of(self, index: int) -> int:
        """Of the index-th plastic tensor."""
        return self.damping if isinstance(self.damping, int) else self.damping[index]


class Replay(Record, frozen=True, kw_only=True):
    """A bounded, class-balanced reservoir of quantised samples."""

    capacity: Annotated[int, Meta(ge=0, le=4096)]
    passes: Annotated[int, Meta(ge=0, le=16)] = 1  # replayed samples for each new one at level "full"; 1 at "light"
    refresh_every: Annotated[int, Meta(ge=1, le=4096)] = 8  # deep lessons between two recomputations of the prototypes


class Guard(Record, frozen=True, kw_only=True):
    """After a lesson group, score a mix of probe and newest field samples; a share more than `max_drop` under the best
    verdict so far rolls the group back. The best, not the last: many small drops must not pass where one would not."""

    probe_share: Annotated[float, Meta(ge=0, le=1)] = 0.5  # the rest comes from the newest reservoir samples
    samples: Annotated[int, Meta(ge=8, le=1024)] = 64
    every: Annotated[int, Meta(ge=1, le=4096)] = 32  # lessons in a group
    max_drop: Annotated[float, Meta(gt=0, le=1)] = 0.2  # share of the mix, wider than two binomial standard errors

    def __post_init__(self) -> None:
        floor = 2 * math.sqrt(0.25 / self.samples)
        if self.max_drop < floor:
            raise SpecError(f"guard max_drop {self.max_drop} is under {floor:.3f}, two errors at {self.samples}")


class Drift(Record, frozen=True, kw_only=True):
    """Watch the stream without labels: Page's test on the rank of each sample's distance from its class's usual ones.

    A stream whose samples all lie farther off than any before is told after threshold / (1/2 - slack) of them, 22 by
    the defaults. `edgerun/learn/watch.py` has the equations.
    """

    samples: Annotated[int, Meta(ge=8, le=128)] = 32  # of each class, for its mean, and as many for distances from it
    slack: Annotated[int, Meta(ge=0, le=1 << 13)] = 1 << 12  # by which a mean rank may exceed a half, Q0.15
    threshold: Annotated[int, Meta(ge=1, le=1024)] = 8  # of the sum of what is above that; an alarm costs so many


ProfileName: TypeAlias = Literal["standard", "small"]


class Doubt(Record, frozen=True, kw_only=True):
    """Set feedback aside that contradicts what is known surely: `edgerun/learn/doubt.py` has the rule.

    What is taught on purpose, and classes that joined in the field, are never doubted.
    """

    margins: Annotated[int, Meta(ge=8, le=256)] = 32  # of the newest answers that their labels agreed with
    share: Annotated[int, Meta(ge=0, le=32767)] = 3277  # of them that lie under what is sure, Q0.15
    votes: Annotated[int, Meta(ge=2, le=64)] = 8  # newest labels of what looks surely like a class


class Rewiring(Record, frozen=True, kw_only=True):
    """Structural plasticity: at boundaries a share of each plastic tensor's synapses goes and as many grow.

    Synapses are where the factory's weights are not zero; `edgerun/learn/rewire.py` says which go and which come.
    """

    share: Annotated[int, Meta(ge=1, le=1 << 14)] = 3277  # of those there are, that move at once, Q0.15
    every: Annotated[int, Meta(ge=0, le=1 << 20)] = 0  # also after so many updates; 0 = at boundaries alone
    growth_shift: Annotated[int, Meta(ge=0, le=15)] = 4  # what gradients are summed in, of the g of `gradient_shift`


class LearningPlan(Record, frozen=True, kw_only=True):
    """What may change on the device, how, and what protects the rest."""

    rule: Rule | None = None
    normaliser: Normaliser | UnsetType = UNSET  # makes a step of a gradient, beside the rates
    intelligence: Intelligence | None = None
    replay: Replay = Replay(capacity=0)
    guard: Guard = Guard()
    drift: Drift | UnsetType = UNSET  # watch for a change of the stream that nobody labels
    doubt: Doubt | UnsetType = UNSET  # set labels aside that contradict what is known surely
    rewiring: Rewiring | UnsetType = UNSET  # move synapses of sparse tensors
    profile: ProfileName = "standard"  # how wide learning's numbers are stored

    def __post_init__(self) -> None:
        if self.rewiring is not UNSET and self.rule is None:
            raise SpecError("rewiring needs a rule, there is none")
        if self.profile == "small":
            self._check_small()
        if self.intelligence is not None:
            self._check_own(self.intelligence)
        limited = [rate for rate in self.rule.rates if rate.max_norm] if self.rule else []
        if limited and self.normaliser is not UNSET:
            raise SpecError(
                f"rate of {limited[0].tensor!r} has max_norm {limited[0].max_norm}, must be 0 behind a normaliser: "
                f"it would measure the gradient before it"
            )

    def _check_own(self, intelligence: Intelligence) -> None:
        """Numbers of each tensor's own: as many as there are tensors that learn."""
        rates = len(self.rule.rates) if self.rule else 0
        for name, own in (("strength", intelligence.strength), ("damping", intelligence.damping)):
            if not isinstance(own, int) and len(own) != rates:
                raise SpecError(f"intelligence {name} has {len(own)} numbers, the rule has {rates} plastic tensors")

    def _check_small(self) -> None:
        """Eight bits of a trace are left out: rates and gradient_shift must have as many to give."""
        if not isinstance(self.rule, EProp) or self.rule.online:
            raise SpecError("profile 'small' needs a rule that is eprop or eprop-values")
        if self.normaliser is not UNSET:
            raise SpecError("profile 'small' has no room for a normaliser")
        least = min([rate.shift for rate in self.rule.rates] + [self.rule.gradient_shift])
        if least < 8:
            raise SpecError(f"profile 'small' needs shifts of at least 8, a rate or gradient_shift has {least}")


class ClassTable(Record, frozen=True, kw_only=True):
    """The names of the classes at the factory, and how many the device may know in the end; none for values."""

    names: Annotated[tuple[Label, ...], Meta(max_length=4096)] = ()
    capacity: Annotated[int, Meta(ge=0, le=4096)] = 0

    def __post_init__(self) -> None:
        if self.capacity < len(self.names):
            raise SpecError(f"class capacity {self.capacity} is under the {len(self.names)} factory classes")
        if len(set(self.names)) != len(self.names):
            raise SpecError("class names repeat")


# ------------------------------------------------------------------ budget and governor


class Budget(Record, frozen=True, kw_only=True):
    """What the device may spend. None means no bound of that kind."""

    power_mw: Annotated[float, Meta(gt=0, description="Mean power over any 60 s of device time, mW.")]
    peak_mw: Annotated[float, Meta(gt=0, description="Highest power at any moment, mW.")] | None = None
    energy_j_per_day: Annotated[float, Meta(gt=0, description="Energy in one day, J.")] | None = None
    ram_kb: Annotated[int, Meta(gt=0, description="Memory of the whole process, KiB.")] | None = None
    cpu_share: Annotated[float, Meta(gt=0, le=1, description="Share of one CPU core.")] = 1.0
    flash_mb_per_day: Annotated[float, Meta(gt=0, description="Bytes written to flash in one day, MB.")] = 200.0
    max_temperature_c: Annotated[float, Meta(description="Temperature that stops all learning, °C.")] = 85.0
    deadline_ms: Annotated[float, Meta(gt=0, description="Longest time from sample to answer, ms.")] = 1000.0

    def __post_init__(self) -> None:
        for name in ("power_mw", "peak_mw", "energy_j_per_day", "flash_mb_per_day", "max_temperature_c", "deadline_ms"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise SpecError(f"budget {name} {value} is not finite")


class Reading(Record, frozen=True, kw_only=True):
    """One measured or estimated figure and how far it can be off (one standard deviation, relative)."""

    value: float
    source: Literal["measured", "estimated"]
    uncertainty: float = 0.0


class Readings(Record, frozen=True, kw_only=True):
    """What the board says about itself at one moment of device time."""

    now_s: float  # device time, monotone
    power_mw: Reading | None = None
    temperature_c: Reading | None = None
    ram_kb: Reading | None = None
    cpu_share: Reading | None = None
    battery_share: Reading | None = None
    flash_mb_today: float = 0.0
    energy_j_today: float = 0.0


class Prices(Record, frozen=True, kw_only=True):
    """What each optional act costs on this board, in microjoule and microseconds, with its replay and consolidation."""

    sleep_mw: float
    inference_uj: float
    inference_us: float
    telemetry_uj: float  # one published message
    lesson_uj: dict[Level, float]  # of the learning levels: full, light, sparse, head
    lesson_us: dict[Level, float]
    consolidate_uj: float = 0.0
    consolidate_us: float = 0.0
    checkpoint_uj: float = 0.0
    source: Literal["measured", "estimated"] = "estimated"


# ------------------------------------------------------------------ manifest


class Provenance(Record, frozen=True, kw_only=True):
    """Where a bundle comes from. Free text: nothing on the device depends on it."""

    source: str = ""  # file name of the imported model
    source_sha256: str = ""  # of its bytes, and of those of every file with weights beside it, by name
    exporter: str = ""
    calibration: str = ""
    float_accuracy: float | None = None
    integer_accuracy: float | None = None
    output_error: float | None = None  # rms of integer minus float outputs, over the float outputs' standard deviation


class Manifest(Record, frozen=True, kw_only=True):
    """The JSON section of a bundle. Layers run in order; the head decides."""

    name: Name
    seq: Annotated[int, Meta(ge=0)] = 0  # monotone: anti-rollback
    device_class: Name = "any"
    min_runtime: str = "0.1.0"
    front: LogMel | None = None  # what makes the input's integers of a recording; None: the input's own scale
    input: InputSpec
    encoder: Annotated[Encoder, Meta()] = Direct()
    layers: Annotated[tuple[Layer, ...], Meta(min_length=1, max_length=MAX_LAYERS)]
    head: Head = Head()
    output: OutputSpec | None = None  # None where prototypes decide: their scores are no outputs of the model
    classes: ClassTable = ClassTable()
    learning: LearningPlan = LearningPlan()
    budget: Budget | None = None  # ceilings that an operator cannot raise
    seed: Annotated[int, Meta(ge=0)] = 1  # below 2**64
    tensors: Annotated[tuple[TensorSpec, ...], Meta(max_length=MAX_TENSORS)] = ()
    provenance: Provenance = Provenance()

    def __post_init__(self) -> None:
        if self.seed >= 1 << 64:
            raise SpecError(f"seed {self.seed} is outside [0, 2**64)")
        names = [layer.name for layer in self.layers]
        if len(set(names)) != len(names):
            twice = next(name for k, name in enumerate(names) if name in names[:k])
            raise SpecError(f"layer names repeat: {twice}")
        tensor_names = [tensor.name for tensor in self.tensors]
        if len(set(tensor_names)) != len(tensor_names):
            raise SpecError("tensor names repeat")
        self._check_widths()
        if self.front is not None and (
            len(self.input.shape) != 2 or self.input.dtype != "int8" or self.input.zero_point
        ):
            raise SpecError(
                f"a log-mel front gives int8 (frames, bands) around 0, the input is {self.input.dtype} "
                f"{self.input.shape} around {self.input.zero_point}"
            )
        if self.head.kind == "prototypes" and self.head.features not in names:
            raise SpecError(f"head features {self.head.features!r} is no layer")
        self._check_answer()

    def _check_answer(self) -> None:
        """Classes where somebody decides, values with a meaning where nobody does."""
        given, kind = self.layers[-1].outputs, self.head.kind
        if self.output is not None and self.output.size != given:
            raise SpecError(f"output shape {self.output.shape} is not of {given} values, which the last layer gives")
        if self.output is not None and kind == "prototypes":
            raise SpecError("output is given, but prototypes decide: their scores are no outputs")
        if kind != "values" and not self.classes.names:
            raise SpecError(f"a head of kind {kind} needs at least one class name")
        if kind == "values" and (self.output is None or self.classes.capacity):
            fault = "no output map" if self.output is None else f"capacity {self.classes.capacity} for classes"
            raise SpecError(f"a head of kind values has {fault}")
        for name in ("drift", "doubt"):
            if kind == "values" and getattr(self.learning, name) is not UNSET:
                raise SpecError(f"a head of kind values has learning.{name}: there are no classes to compare")
        if kind == "values" and self.learning.rule is not None and self.learning.rule.classifies:
            raise SpecError("a head of kind values cannot learn from labels: it has no classes")

    def _check_widths(self) -> None:
        given = {INPUT: self.step_size}
        for layer, sources in self.wiring():
            if len(sources) != len(layer.widths):
                raise SpecError(f"layer {layer.name} has {len(sources)} sources, must have {len(layer.widths)}")
            for source, width in zip(sources, layer.widths, strict=True):
                if source not in given:
                    raise SpecError(f"layer {layer.name} reads {source!r}, which is neither input nor an earlier layer")
                if given[source] != width:
                    giver = "the input" if source == INPUT else source
                    raise SpecError(f"layer {layer.name} takes {width} values, {giver} gives {given[source]}")
            given[layer.name] = layer.outputs

    def wiring(self) -> tuple[tuple[Layer, tuple[str, ...]], ...]:
        """Every layer with the names of what it reads, in running order."""
        before = [INPUT, *(layer.name for layer in self.layers)]
        return tuple((layer, layer.sources or (before[k],)) for k, layer in enumerate(self.layers))

    @property
    def steps(self) -> int:
        """Time steps of one window."""
        match self.encoder:
            case PhaseRate(steps=steps) | Constant(steps=steps):
                return steps
            case Frames():
                return self.input.shape[0]
        return 1

    @property
    def step_size(self) -> int:
        """How many values the encoder hands over in one step."""
        return self.input.size // self.input.shape[0] if isinstance(self.encoder, Frames) else self.input.size

    def layer(self, name: str) -> Layer:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise SpecError(f"no layer is called {name!r}")


def encode_manifest(manifest: Manifest) -> bytes:
    """Canonical bytes: the same manifest always gives the same JSON."""
    return msgspec.json.encode(manifest, order="sorted")


def decode_manifest(data: bytes) -> Manifest:
    """Raises SpecError naming the path of the first field that is wrong."""
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise SpecError(f"manifest: {err}") from None
