"""`--learn eprop-values`: what a spiking net with a readout needs to learn values that lessons bring.

    r = STEP * |e|**2 / |G(e)|**2          G(e)  the gradient of a lesson whose error is e = 1 at every step and output

So one lesson takes about the share STEP off its own error, at a usual sample; the same real rate r for all weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import msgspec
import numpy as np

from edgerun.arrays import I16, I32, Tensors
from edgerun.errors import ModelError
from edgerun.graph import layer_reaches
from edgerun.kernels.eprop import trace_gain
from edgerun.layers import Lif, Readout
from edgerun.learn.eprop import EPropValuesRule
from edgerun.network import Network
from edgerun.rules import EPropValues
from edgerun.spec import LearningPlan, Manifest, PlasticRate
from exporters.data import Samples
from exporters.float_net import FloatNet
from exporters.learning import CHUNK_MAX, CONSOLIDATION, GUARD, eprop, mantissa
from exporters.nodes import FloatReadout

VALUES: Final = "eprop-values"
STEP: Final = 0.1
NORM: Final = 4.0  # the longest step of a tensor, in those of a usual lesson whose error is 1
SEEN: Final = 64  # samples that rates are taken from
NEAR: Final = 32768 - 328  # a mean error of a hundredth of the readout's unit teaches nothing
ERROR: Final = 1 << 15  # 1, Q0.15
POST_SHIFT: Final = 6
SURROGATE: Final = 256  # height of the derivative in integers


def taught_net(net: FloatNet, samples: Samples) -> FloatNet:
    """The same net, its readout told how large the targets are. Raises ModelError where they are not its outputs."""
    last = net.layers[-1]
    if not isinstance(last, FloatReadout):
        raise ModelError(f"--learn {VALUES} needs a spiking model that ends in a readout; {last.name} is none")
    if samples.target is None or samples.target.shape[-1] != last.outputs:
        found = "none" if samples.target is None else str(samples.target.shape[-1])
        raise ModelError(
            f"--learn {VALUES} needs targets of {last.outputs} values, as the model gives; they have {found}"
        )
    most = float(np.abs(samples.target).max()) or 1.0
    return replace(net, layers=(*net.layers[:-1], replace(last, taught=most)))


def values_plan(manifest: Manifest, tensors: Tensors, q: I16, steps: int) -> LearningPlan:
    """E-prop towards values, targets for the last `steps` steps of a window; rates from samples q (n, size)."""
    bare = eprop(manifest, 0)
    if not steps <= min(CHUNK_MAX, manifest.steps):
        raise ModelError(f"targets are for {steps} steps, a window has {min(CHUNK_MAX, manifest.steps)} that can learn")
    rule = EPropValues(
        layer=bare.layer,
        readout=bare.readout,
        rates=tuple(PlasticRate(tensor=rate.tensor, eta=1, shift=0) for rate in bare.rates),
        chunk_steps=bare.chunk_steps,
        target_steps=steps,
        signal_shift=bare.signal_shift,
        post_shift=POST_SHIFT,
        error_threshold=NEAR,
    )
    plan = LearningPlan(rule=rule, intelligence=CONSOLIDATION, guard=GUARD)
    manifest = msgspec.structs.replace(manifest, learning=plan)
    rates = tuple(rates_of(manifest, tensors, rule, q[np.linspace(0, len(q) - 1, min(len(q), SEEN)).astype(np.int64)]))
    return msgspec.structs.replace(plan, rule=msgspec.structs.replace(rule, rates=rates))


def rates_of(manifest: Manifest, tensors: Tensors, rule: EPropValues, q: I16) -> Iterator[PlasticRate]:
    """One real rate as eta and shift of every tensor, and what limits its steps."""
    units, fractions = real_units(manifest, tensors, rule), weight_fractions(manifest, rule)
    sizes = gradient_sizes(manifest, tensors, rule, q)
    whole = np.square([sizes[name] / units[name] for name in units]).sum(axis=0)
    size = rule.targets(manifest.layer)
    real = STEP * size / (float(np.median(whole)) or 1.0)
    for name, unit in units.items():
        eta, shift = mantissa(real * 2.0 ** fractions[name] / unit)
        usual = real * float(np.median(sizes[name])) / unit * 2.0 ** fractions[name]
        yield PlasticRate(tensor=name, eta=eta, shift=shift, max_step=8192, max_norm=max(1, round(NORM * usual)))


def gradient_sizes(manifest: Manifest, tensors: Tensors, rule: EPropValues, q: I16) -> dict[str, np.ndarray]:
    """|G| in integers, by tensor, of lessons (n,) whose error is 1 in each value."""
    network, bound = Network(manifest, tensors), EPropValuesRule(manifest, tensors)
    found: dict[str, list[float]] = {rate.tensor: [] for rate in rule.rates}
    for row in q:
        window = bound.record(network, row)
        window.errors[...] = ERROR - 1
        error: I32 = window.errors[-1].copy()
        for name, factors in bound.factors(window, error).items():
            gradient = factors.history.astype(np.float64).T @ factors.post.astype(np.float64)
            found[name].append(float(np.linalg.norm(gradient)))
    return {name: np.array(sizes) for name, sizes in found.items()}


def real_units(manifest: Manifest, tensors: Tensors, rule: EPropValues) -> Mapping[str, float]:
    """What 1 of the gradient by a real weight is in integers, by tensor; reals are spikes and the readout's unit."""
    lif, readout = lif_and_readout(manifest, rule)
    alpha, kappa = (int(tensors[name][0]) for name in (f"{lif.name}.decay", f"{readout.name}.kappa"))
    signal = 2.0 ** (readout.weight_exponent - rule.signal_shift) * ERROR * (1 - kappa / 2**15)
    post = signal * SURROGATE * 2.0**-POST_SHIFT / (rule.gamma / 256)
    units = {
        f"{lif.name}.input": 2.0 ** trace_gain(alpha, layer_reaches(manifest)[lif.name][0][0]) * post,
        f"{lif.name}.recurrent": 2.0 ** trace_gain(alpha) * post,
        f"{readout.name}.input": 2.0 ** trace_gain(kappa) * ERROR,
    }
    return {rate.tensor: units[rate.tensor] for rate in rule.rates}


def weight_fractions(manifest: Manifest, rule: EPropValues) -> Mapping[str, int]:
    """Bits behind the point of every shadow weight."""
    lif, readout = lif_and_readout(manifest, rule)
    bits = {
        f"{lif.name}.input": lif.weight_exponent,
        f"{lif.name}.recurrent": lif.weight_exponent - lif.recurrent_shift,
        f"{readout.name}.input": readout.weight_exponent,
    }
    return {name: exponent + 8 for name, exponent in bits.items()}


def lif_and_readout(manifest: Manifest, rule: EPropValues) -> tuple[Lif, Readout]:
    lif, readout = manifest.layer(rule.layer), manifest.layer(rule.readout)
    if not isinstance(lif, Lif) or not isinstance(readout, Readout):
        raise ModelError(
            f"--learn {VALUES} needs a Lif layer before a readout; {lif.name} and {readout.name} are not that"
        )
    return lif, readout
