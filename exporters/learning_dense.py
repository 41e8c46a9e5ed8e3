"""Plans for chains of dense layers: learning rates in real units become integers by the scales of the layers.

    u[L] = 2**-15 of the softmax error;   u[l-1] = u[l] sw[l] 2**back_shift[l]          what one step of an error means
    d shadow = -G rate u[l] sx[l] 256 / sw[l]                                           G = error read' in integers

with sx what one step of a layer's input means, sw one of its weights; a shadow has 256 steps to a weight's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import msgspec
import numpy as np

from edgerun.arrays import F32, F64, AnyArray, Tensors
from edgerun.errors import ModelError
from edgerun.kernels.chain import RATE
from edgerun.kernels.mq import TARGET
from edgerun.layers.base import INPUT
from edgerun.rules.dense import ChainRecord
from edgerun.spec import (
    NO_PULL,
    Backprop,
    ClassTable,
    Dense,
    Direct,
    Gain,
    IlProx,
    InputSpec,
    Intelligence,
    LearningPlan,
    Manifest,
    MeanQuotient,
    PlasticRate,
    PredictiveCoding,
    Rule,
    SequentialIl,
)
from exporters.data import Samples
from exporters.float_net import FloatNet, forward
from exporters.learning import ERROR_THRESHOLD, GUARD, RECENT_LABELS, REPLAY_DEEP
from exporters.nodes import Affine, FloatDense, Range
from exporters.nodes.plastic import OUTPUT_ROOM, WEIGHT_TOP, FloatPlastic
from exporters.twin import Twin

SHADOW: Final = 256  # shadow steps in one of a weight
ERROR: Final = 2.0**-15
TABLE_STEP: Final = 1 / 32  # logits per step of the softmax table
MAX_STEP: Final = 8192  # of a shadow in one update: an eighth of its whole reach
MANTISSA: Final = 1 << 14
FINE: Final = 1 << 12  # steps of an activity in one of its layer's int8


class Unit(NamedTuple):
    """What one step means, in a layer: of its input, its weights, its output."""

    read: float
    weight: float
    out: float


def units(manifest: Manifest, tensors: Tensors, maps: Mapping[str, Affine]) -> list[Unit]:
    """The real scales of every layer of a chain. Raises ModelError where the manifest is none."""
    before, found = INPUT, []
    for layer, sources in manifest.wiring():
        if not isinstance(layer, Dense) or sources != (before,):
            raise ModelError(f"the rule learns through a row of dense layers, {layer.name!r} breaks it")
        scale = float(tensors[f"{layer.name}.multiplier"][0]) * 2.0 ** -float(tensors[f"{layer.name}.shift"][0])
        read, out = maps[before].scale, maps[layer.name].scale
        found.append(Unit(read, scale * out / read, out))
        before = layer.name
    return found


def backprop(manifest: Manifest, tensors: Tensors, maps: Mapping[str, Affine], rate: float) -> Backprop:
    """Gradient descent at this rate, in real units, on every weight."""
    chain = units(manifest, tensors, maps)
    names = tuple(layer.name for layer in manifest.layers)
    shifts = tuple(back_shift(tensors[f"{name}.weight"].astype(np.float64)) for name in names[1:])
    error, rates = ERROR, []
    for k in range(len(names) - 1, -1, -1):
        unit = chain[k]
        rates.append(plastic(f"{names[k]}.weight", rate * error * unit.read * SHADOW / unit.weight))
        if k:
            error *= unit.weight * 2.0 ** shifts[k - 1]
    return Backprop(
        layers=names,
        rates=tuple(reversed(rates)),
        back_shifts=shifts,
        temperature_shift=temperature(chain[-1]),
        gradient_shift=7,
    )


def il_prox(
    manifest: Manifest,
    tensors: Tensors,
    maps: Mapping[str, Affine],
    alpha: float,
    squares: Sequence[float],
    *,
    damping: float = 0.25,
    steps: int = 12,
    gains: tuple[float, float] = (0.025, 0.025),
) -> IlProx:
    """IL-prox with what may be called its rate.

    squares  a layer, |x|**2 of what it reads, of a usual sample     damping  eps, in the same unit     gains  up, down
    """
    chain = units(manifest, tensors, maps)
    names = tuple(layer.name for layer in manifest.layers)
    steps_of = [(unit.read / 256) ** 2 for unit in chain]
    norms = tuple(
        max(0, math.floor(math.log2(max(1.0, s / one))) - 1) for s, one in zip(squares, steps_of, strict=True)
    )
    top = chain[-1]
    return IlProx(
        layers=names,
        rates=tuple(
            plastic(f"{name}.weight", (1 << 16) * error / (unit.weight * unit.read) * 2.0**-norm)
            for name, unit, error, norm in zip(names, chain, error_units(chain), norms, strict=True)
        ),
        steps=steps,
        backs=backs(chain),
        up=share(gains[0]),
        down=share(gains[1]),
        alpha=gain(alpha * top.read**2),
        damping=tuple(max(1, round(damping / one)) for one in steps_of),
        norm_shifts=norms,
        temperature_shift=temperature(top),
        gradient_shift=12,
    )


def sequential_il(
    manifest: Manifest,
    tensors: Tensors,
    maps: Mapping[str, Affine],
    alpha: float,
    *,
    steps: int = 3,
    gain: float = 0.05,
) -> SequentialIl:
    """Sequential inference learning whose steps MQ makes `alpha` long in the mean, in real units of weights."""
    chain = units(manifest, tensors, maps)
    names = tuple(layer.name for layer in manifest.layers)
    rates = tuple(
        plastic(f"{name}.weight", alpha * SHADOW / unit.weight / (1 << TARGET))
        for name, unit in zip(names, chain, strict=True)
    )
    return SequentialIl(
        layers=names,
        rates=rates,
        steps=steps,
        backs=backs(chain),
        gain=share(gain),
        temperature_shift=temperature(chain[-1]),
        gradient_shift=12,
    )


def predictive(
    manifest: Manifest,
    tensors: Tensors,
    maps: Mapping[str, Affine],
    rate: float,
    *,
    steps: int = 20,
    gains: tuple[float, float] = (0.1, 0.1),
    decay: float = 0.0,
    feedback: bool = True,
) -> PredictiveCoding:
    """Predictive coding at this rate.

    decay  of weights and feedback, an update (0: none)     feedback  whether it learns as its weight does
    """
    chain = units(manifest, tensors, maps)
    names = tuple(layer.name for layer in manifest.layers)
    fade = round(-math.log2(decay)) if decay else 0
    rates = []
    for part in ("weight", "feedback") if feedback else ("weight",):
        for name, unit, error in zip(names, chain, history_units(chain), strict=True):
            if part == "weight" or name != names[0]:
                value = rate * error * (unit.read / (1 << RATE)) * SHADOW / unit.weight
                rates.append(msgspec.structs.replace(plastic(f"{name}.{part}", value), decay_shift=fade))
    return PredictiveCoding(
        layers=names,
        rates=tuple(rates),
        steps=steps,
        backs=backs(chain),
        up=share(gains[0]),
        down=share(gains[1]),
        temperature_shift=temperature(chain[-1]),
        gradient_shift=12,
    )


def history_units(chain: Sequence[Unit]) -> list[float]:
    """What one step of each layer's factor means: hidden ones count fourths."""
    return [*(4 * unit for unit in error_units(chain)[:-1]), ERROR]


def intelligence(
    rule: ChainRecord, manifest: Manifest, tensors: Tensors, maps: Mapping[str, Affine], strength: float, damping: float
) -> Intelligence:
    """Synaptic intelligence of this strength c and damping xi, in real units, for descent by this rule.

    With g = G / 2**sg, an importance of 1 stands for Omega = u sx 2**(sg - 8) / sw, and pulls by

        2 c rate Omega = 2 c eta 2**(sg - 16 - shift);        xi counts steps of (sw / 256)**2 * 256

    Each tensor has its own of both: the nearest power of two of its pull, and its xi.
    """
    weights = {
        layer.name: unit.weight for layer, unit in zip(manifest.layers, units(manifest, tensors, maps), strict=True)
    }
    pulls = [2 * strength * rate.eta * 2.0 ** (rule.gradient_shift - 16 - rate.shift) for rate in rule.rates]
    steps = [weights[rate.tensor.rpartition(".")[0]] ** 2 / SHADOW for rate in rule.rates]
    return Intelligence(
        strength=tuple(min(NO_PULL, max(0, round(-math.log2(pull)))) for pull in pulls),
        damping=tuple(max(1, round(damping / step)) for step in steps),
    )


def error_units(chain: Sequence[Unit]) -> list[float]:
    """What one step of each layer's error means, where activities settle."""
    return [*(unit.out / FINE for unit in chain[:-1]), ERROR]


def backs(chain: Sequence[Unit]) -> tuple[Gain, ...]:
    """From W' error of each layer but the first to activities of the one below."""
    errors = error_units(chain)
    return tuple(
        gain(above.weight * error / (below.out / FINE))
        for below, above, error in zip(chain[:-1], chain[1:], errors[1:], strict=True)
    )


def gain(value: float) -> Gain:
    """The nearest multiplier and shift. Raises ModelError where the value is out of reach."""
    shift = min(40, math.floor(math.log2(32767 / value)))
    if shift < 0:
        raise ModelError(f"gain {value:g} is above 32767")
    return Gain(multiplier=round(value * 2.0**shift), shift=shift)


def share(value: float) -> int:
    """Q0.15."""
    return round(value * (1 << 15))


def temperature(top: Unit) -> int:
    """The shift that makes one step of the softmax table of the top layer's sums. Raises ModelError without one."""
    shift = round(math.log2(TABLE_STEP / (top.read * top.weight)))
    if not 0 <= shift <= 24:
        raise ModelError(f"logits in steps of {top.read * top.weight:g} are no finer than the softmax table's")
    return shift


def back_shift(weight: F64) -> int:
    """The least shift that keeps W' e within the norm of e, whichever error comes; weights still to grow count too."""
    most = max(float(np.sqrt((weight**2).sum(axis=0)).max(initial=0.0)), GROWN * math.sqrt(len(weight)))
    return max(0, math.ceil(math.log2(max(1.0, most))))


def plastic(tensor: str, gain: float) -> PlasticRate:
    """d = -G * gain, as eta / 2**shift. Raises ModelError where the gain is out of reach."""
    shift = min(30, math.floor(math.log2(MANTISSA / gain))) if gain > 0 else 30
    eta = round(gain * 2.0 ** max(shift, 0))
    if shift < 0 or not eta:
        raise ModelError(f"{tensor}: a step of {gain:g} shadow steps a gradient step is outside [2**-31, 2**14)")
    return PlasticRate(tensor=tensor, eta=eta, shift=shift, max_step=MAX_STEP)


class Quantised(NamedTuple):
    """A chain of dense layers in integers: a manifest that learns nothing yet, its tensors, what integers mean."""

    manifest: Manifest
    tensors: Tensors
    maps: dict[str, Affine]


def quantised(
    name: str, layers: Sequence[FloatPlastic], entry: Affine, reaches: Sequence[float], classes: int
) -> Quantised:
    """Integers of plastic layers whose outputs reach so far, behind an int8 input of this map."""
    maps, tensors = {INPUT: entry}, dict[str, AnyArray]()
    found, before = [], INPUT
    for layer, reach in zip(layers, reaches, strict=True):
        (part,) = layer.quantise((maps[before],), Range(0.0, reach))
        found.append(part.layer)
        tensors |= part.tensors
        maps[layer.name], before = part.output, layer.name
    manifest = Manifest(
        name=name,
        input=InputSpec(shape=layers[0].widths, scale=entry.scale),
        layers=tuple(found),
        classes=ClassTable(names=tuple(map(str, range(classes))), capacity=layers[-1].outputs),
    )
    return Quantised(manifest, tensors, maps)


# ------------------------------------------------------------------ `--learn`

DENSE: Final = ("backprop", "il-prox", "il-mq", "predictive")
"""What `--learn` takes for chains of dense layers."""
ANSWER_ROOM: Final = 4.0  # of the last layer's outputs: they grow with every lesson, and two that both end at 127 tie
GROWN: Final = 16  # steps that a weight comes to at the least, where it begins at zero
STEP: Final = 0.3  # of what one lesson would change of its own answer: descent's rate times |x|**2 of all layers
ALPHA: Final = 1.0  # of IL-prox; anything from 0.1 on does as well
DRIFT: Final = 1e-3  # of a weight's mean size, one step of MQ
STRENGTH, DAMPING = 0.01, 0.01  # c and xi of synaptic intelligence, one sample at a time
SEEN: Final = 256  # samples that the usual norms are taken from


def plastic_net(net: FloatNet, samples: Samples, learn: str) -> FloatNet:
    """The same net with layers that can learn. Raises ModelError where it is no chain of dense layers with ReLUs."""
    before, layers = INPUT, []
    for layer, sources in net.wiring():
        if type(layer) is not FloatDense or sources != (before,):
            raise ModelError(f"--learn {learn} needs dense layers in a row; {layer.name} is none, or reads another")
        if layer.weight_scale is not None or layer.output is not None:
            raise ModelError(f"--learn {learn} chooses its own scales; those of {layer.name} are fixed by the file")
        if layer.low != 0 and layer is not net.layers[-1]:
            raise ModelError(f"--learn {learn} needs a ReLU behind every hidden layer; {layer.name} has none")
        room = ANSWER_ROOM if layer is net.layers[-1] else OUTPUT_ROOM
        layers.append(
            FloatPlastic(
                layer.name, layer.weight, layer.bias, layer.low, layer.high, sources=layer.sources, output_room=room
            )
        )
        before = layer.name
    if not isinstance(net.encoder, Direct) or net.encoder.offset or net.input is not None:
        raise ModelError(f"--learn {learn} needs an input of floats, not one that the file has quantised")
    reach = float(np.abs(samples.x).max(initial=0.0)) or 1.0
    scale = 1.0 if samples.x.dtype == np.int8 else reach / WEIGHT_TOP
    return replace(net, layers=tuple(layers), input_scale=scale)


def dense_plan(learn: str, manifest: Manifest, twin: Twin, samples: Samples) -> tuple[LearningPlan, Tensors]:
    """The plan that `--learn` names, and the tensors that its rule brings: feedback that starts as the weights."""
    given, own = (manifest, twin.tensors, twin.maps), dict[str, AnyArray]()
    squares = usual_squares(twin, samples)
    rate = STEP / sum(squares)
    rule: Rule
    match learn:
        case "backprop":
            rule = backprop(*given, rate)
        case "il-prox":
            rule = il_prox(*given, ALPHA, squares)
        case "il-mq":
            rule = sequential_il(*given, DRIFT * usual_weight(twin))
        case _:
            rule = predictive(*given, rate)
            own = {
                state.name: given[1][f"{state.name.rpartition('.')[0]}.weight"] for state in rule.own(manifest.layer)
            }
    rule = msgspec.structs.replace(rule, error_threshold=ERROR_THRESHOLD, recent_labels=RECENT_LABELS)
    plan = LearningPlan(
        rule=rule,
        intelligence=intelligence(rule, *given, STRENGTH, DAMPING) if learn == "backprop" else None,
        replay=REPLAY_DEEP,
        guard=GUARD,
    )
    return msgspec.structs.replace(plan, normaliser=MeanQuotient()) if learn == "il-mq" else plan, own


def usual_squares(twin: Twin, samples: Samples) -> list[float]:
    """|x|**2 of what each layer reads of a usual sample."""
    some = twin.moments(samples.take(np.arange(min(len(samples), SEEN))))
    seen: list[F32] = [some[0]]
    forward(twin.net, some, lambda layer, out: seen.append(out))
    return [float(np.median((x.astype(np.float64) ** 2).sum(axis=-1))) for x in seen[:-1]]


def usual_weight(twin: Twin) -> float:
    """The mean size of all weights."""
    weights = [layer.weight.reshape(-1) for layer in twin.net.layers if isinstance(layer, FloatPlastic)]
    return float(np.abs(np.concatenate(weights)).mean())
