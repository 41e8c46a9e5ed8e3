"""What a bundle may learn on its device, by the name given to `--learn`, and the numbers that this starts from.

The numbers were found on the digits stream of `benchmarks/learning/digits_blocks.py`; `docs/results.md` has the table.
Steps are limited by their norm, given here in real weight units, so they carry over to layers of other scales.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np

from edgerun.arrays import Tensors
from edgerun.errors import ModelError
from edgerun.graph import layer_reaches
from edgerun.kernels.eprop import trace_gain
from edgerun.kernels.noise import Use, fill_words, key, stream
from edgerun.kernels.plasticity import SHADOW_MAX
from edgerun.spec import (
    Direct,
    EProp,
    Guard,
    InnerStep,
    Intelligence,
    LearningPlan,
    Lif,
    Manifest,
    PlasticRate,
    ProfileName,
    Readout,
    Replay,
)


class Inner(NamedTuple):
    """What meta-training found: dW = -rate P[T] error^T, P in input steps; and the readout's kappa in Q0.15.

    sharpness  how much more a logit counts in the error's softmax: small steps need it once many lessons add up
    """

    rate: float
    kappa: int
    sharpness: float


class Rate(NamedTuple):
    """One tensor's step: d = SR(-G * eta, shift + e), its norm at most `norm` in real weight units."""

    eta: int
    shift: int
    norm: float
    max_step: int = 4096


EPROP_RATES: Final = MappingProxyType(
    {"input": Rate(1, 20, 0.2), "recurrent": Rate(1, 20, 0.2 / 3), "readout": Rate(1, 13, 0.2)}
)
SIGNAL_SHIFT: Final = 7
POST_SHIFT: Final = 4
TABLE_STEP: Final = 19  # Q7.24 logits: one step of the softmax table is 2**19, a 32nd of a unit
CONSOLIDATION: Final = Intelligence(strength=28, damping=1024)
REPLAY_DEEP: Final = Replay(capacity=160, passes=2, refresh_every=8)
REPLAY_INNER: Final = Replay(capacity=160, passes=4)
GATE: Final = 1638  # errors of 0.05, or of a quarter of chance, teach nothing, Q0.15
REPLAY_HEAD: Final = Replay(capacity=160, passes=0)
GUARD: Final = Guard(every=64)
ERROR_THRESHOLD: Final = 29491  # p(label) of 0.9 in Q0.15: what is known so well teaches nothing
RECENT_LABELS: Final = 40
CHUNK_MAX: Final = 128  # steps that credit reaches back

LEARN: Final = ("none", "prototypes", "eprop", "eprop-layers", "inner-step")
"""What `--learn` takes."""
SMALL: Final = ("eprop", "eprop-layers")
"""What of it goes with `--profile small`."""


def learning_plan(
    learn: str,
    manifest: Manifest,
    readout_halvings: int = 0,
    inner: Inner | None = None,
    profile: ProfileName = "standard",
) -> LearningPlan:
    """The plan that `--learn` names, for the layers of this manifest. Raises ModelError where they do not allow it."""
    match learn:
        case "none":
            return LearningPlan()
        case "prototypes":
            return LearningPlan(replay=REPLAY_HEAD, guard=GUARD)
        case "eprop" | "eprop-layers":
            rule = eprop(manifest, readout_halvings, layers=learn == "eprop-layers")
            return LearningPlan(rule=rule, intelligence=CONSOLIDATION, replay=REPLAY_DEEP, guard=GUARD, profile=profile)
        case "inner-step":
            step = inner_step(manifest, readout_halvings, inner)
            return LearningPlan(rule=step, replay=REPLAY_INNER, guard=GUARD)
    raise ModelError(f"--learn {learn!r} is none of {', '.join(LEARN)}")


def inner_step(manifest: Manifest, readout_halvings: int, inner: Inner | None) -> InnerStep:
    """The inner step of the readout, by e-prop's norm where no rate is known. Raises ModelError where there is none."""
    readout = manifest.layers[-1]
    if not isinstance(readout, Readout):
        raise ModelError(f"--learn inner-step needs a spiking model that ends in a readout; {readout.name} is none")
    tensor, ours, fraction = f"{readout.name}.input", EPROP_RATES["readout"], readout.weight_exponent + 8
    sharper = 0 if inner is None else round(math.log2(inner.sharpness))
    if inner is None:
        most = max(1, round(ours.norm * 2**fraction))
        rate = PlasticRate(tensor=tensor, eta=ours.eta, shift=ours.shift, max_step=ours.max_step, max_norm=most)
    else:
        gain = trace_gain(inner.kappa, layer_reaches(manifest)[readout.name][0][0])
        eta, shift = mantissa(inner.rate * 2.0 ** (fraction - readout_halvings - gain - 15))
        rate = PlasticRate(tensor=tensor, eta=eta, shift=shift, max_step=SHADOW_MAX)
    return InnerStep(
        readout=readout.name,
        rates=(rate,),
        gate=min(GATE, 32768 // (4 * manifest.classes.capacity)),
        temperature_shift=max(0, TABLE_STEP - readout_halvings - sharper),
        error_threshold=32768 - GATE,
    )


def mantissa(value: float) -> tuple[int, int]:
    """(eta, shift) with eta / 2**shift nearest to a value, in the bits of a rate. Raises ModelError out of range."""
    shift = min(30, 15 - math.frexp(value)[1])
    if shift < 0:
        raise ModelError(f"an inner rate of {value:g} shadow steps is above 32767")
    return min(32767, max(1, round(value * 2**shift))), shift


def eprop(manifest: Manifest, readout_halvings: int, *, layers: bool = False) -> EProp:
    """E-prop for the last Lif layer and the readout behind it, or for all Lif layers, those under it through random
    feedback. Raises ModelError where there are none."""
    if len(manifest.layers) < 2 or isinstance(manifest.encoder, Direct):
        raise ModelError("--learn eprop needs a spiking model with a readout")
    lif, readout = manifest.layers[-2:]
    if not isinstance(lif, Lif) or not isinstance(readout, Readout):
        raise ModelError(
            f"--learn eprop needs a Lif layer before a readout; {lif.name} and {readout.name} are not that"
        )
    under = tuple(layer for layer in manifest.layers[:-2] if isinstance(layer, Lif)) if layers else ()
    if layers and not under:
        raise ModelError(f"--learn eprop-layers needs Lif layers under {lif.name}; there are none")
    rates = [rate for layer in (*under, lif) for rate in lif_rates(layer)]
    return EProp(
        layer=lif.name,
        readout=readout.name,
        hidden=tuple(layer.name for layer in under),
        rates=(*rates, rate_of("readout", f"{readout.name}.input", readout.weight_exponent)),
        chunk_steps=min(CHUNK_MAX, manifest.steps),
        signal_shift=SIGNAL_SHIFT,
        post_shift=POST_SHIFT,
        temperature_shift=TABLE_STEP - readout_halvings,
        error_threshold=ERROR_THRESHOLD,
        recent_labels=RECENT_LABELS,
    )


def lif_rates(lif: Lif) -> tuple[PlasticRate, ...]:
    """Of its input weights and, where it has them, its recurrent ones."""
    found = rate_of("input", f"{lif.name}.input", lif.weight_exponent)
    if not lif.recurrent:
        return (found,)
    return found, rate_of("recurrent", f"{lif.name}.recurrent", lif.weight_exponent - lif.recurrent_shift)


def rate_of(role: str, tensor: str, exponent: int) -> PlasticRate:
    """What e-prop's table says of a role, for a tensor whose weights are w * 2**-exponent."""
    rate = EPROP_RATES[role]
    most = max(1, round(rate.norm * 2 ** (exponent + 8)))
    return PlasticRate(tensor=tensor, eta=rate.eta, shift=rate.shift, max_step=rate.max_step, max_norm=most)


def feedback(manifest: Manifest) -> Tensors:
    """The feedback that a rule asks for, drawn from the bundle's own generator: a - b of two numbers in [0, 128).

    Symmetric around 0, deviation 52: as large as the weights of a readout that fills its int8.
    """
    rule, found = manifest.learning.rule, {}
    for index, (name, _, shape) in enumerate(rule.own(manifest.layer) if rule else ()):
        words = np.zeros(shape, np.uint32)
        fill_words(words, key(manifest.seed, 0, stream(index, Use.FEEDBACK)))
        found[name] = ((words >> 25).astype(np.int16) - (words >> 18 & 127).astype(np.int16)).astype(np.int8)
    return found
