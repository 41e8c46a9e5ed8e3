"""The SuperSpike rule: from a recorded window and the number of a target pattern to factors of each gradient.

    raw_o[t] = spikes_o[t] - target_o[t]                                                     +-1, in units of 2**14
    L        = raw of the last population;   below it sat16(half_up(sum_k F_jk L_k / 2**signal_shift))
    Lf       = L through the van Rossum kernel forwards, through the eligibility's two filters backwards
    post_j   = sat16((psi_j * Lf_j + 2**(p-1)) >> p);   G = q.T @ post,  q the potential that a spike makes

F is the live weights of the population above, applied to its own L (symmetric), or a fixed matrix applied to the last
population's (random, uniform). A weight descends from the loss sum_t (kernel * raw)**2 / 2. Zenke and Ganguli 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

import numpy as np

from edgerun.arrays import I8, I16, I32, I64, U8, U16, Bool, Tensors
from edgerun.errors import SpecError
from edgerun.graph import layer_reaches
from edgerun.kernels import eprop, superspike
from edgerun.layers import Patterns
from edgerun.layers.base import INPUT
from edgerun.learn import tape
from edgerun.learn.eprop import uniform
from edgerun.learn.stages import Factors
from edgerun.network import Network
from edgerun.ops import CellsRun
from edgerun.rules.superspike import LONGEST, SuperSpike
from edgerun.spec import Manifest

UNIFORM: Final = 64
SURE: Final = 1 << 15


@dataclass(frozen=True, slots=True)
class Taught:
    """One population's constants. `feedback` (n, k) is a view of what its error comes through; None for the last."""

    tensor: str
    reads: str
    neurons: str
    alpha: int
    decay: int
    feedback: I8 | None


@dataclass(frozen=True, slots=True)
class Window:
    """A recorded window.    pre (T, m), psi (T, n) of each population    spikes (T, o) of the last    logits (k,)"""

    pre: tuple[U8, ...]
    psi: tuple[U16, ...]
    spikes: U8
    logits: I64


class SuperSpikeRule:
    """The rule bound to one bundle's layers and its memory. Weights are read when a lesson comes.

    What it returns are views: they hold until the next window.
    """

    def __init__(self, manifest: Manifest, tensors: Tensors, memory: Tensors | None = None) -> None:
        plan = manifest.learning.rule
        if not isinstance(plan, SuperSpike):
            raise SpecError("the bundle has no superspike plan")
        plan.check(manifest.layer)
        if manifest.steps > LONGEST:
            raise SpecError(f"superspike learns from at most {LONGEST} steps, a window has {manifest.steps}")
        self.plan: SuperSpike = plan
        patterns = manifest.layer(plan.patterns)
        if not isinstance(patterns, Patterns) or manifest.layers[-1] != patterns:
            raise SpecError(f"superspike patterns {plan.patterns!r} are not the bundle's last layer")
        self._rise, self._fall = patterns.rise, patterns.fall
        self._targets = cast(U8, tensors[f"{patterns.name}.target"])
        self.silence = [self._energy(target) for target in self._targets]
        self.populations = _populations(plan, manifest, tensors)
        self._memory = tape.room(manifest) if memory is None else memory

    def record(self, network: Network, q: I16) -> Window:
        """Run one window and keep it.    q  (size,)"""
        runs = [network.layers[each.neurons] for each in self.populations]
        pre, psi = (
            [self._memory[f"tape.{each.neurons}.{part}"] for each in self.populations] for part in ("pre", "psi")
        )
        spikes = cast(U8, self._memory["tape.spikes"])
        for t, x in enumerate(network.play(q)):
            for k, (each, run) in enumerate(zip(self.populations, runs, strict=True)):
                read = x if each.reads == INPUT else network.layers[each.reads].out
                np.copyto(pre[k][t], read, casting="unsafe")
                superspike.surrogate(psi[k][t], cast(CellsRun, run).margin, self.plan.width_shift)
            np.copyto(spikes[t], runs[-1].out, casting="unsafe")
        return Window(tuple(pre), tuple(psi), spikes, network.logits())

    def error(self, error: I32, window: Window, label: int, in_play: Bool) -> int:
        """error <- p - 1 at the label, 0 elsewhere, Q0.15; returns p = 1 - distance / that of silence, at least 0."""
        distance, silence = -int(window.logits[label]), self.silence[label]
        sure = max(0, SURE - (distance * SURE + silence - 1) // silence) if silence else SURE * (distance == 0)
        error[...] = 0
        error[label] = sure - SURE
        return sure

    def factors(self, window: Window, error: I32) -> dict[str, Factors]:
        """The gradient of each plastic tensor, as factors, towards the pattern that `error` stands at."""
        target, found = self._targets[int(error.argmin())], {}
        above = self._signal(window.spikes.shape[1])
        superspike.lacking(above, window.spikes, target)
        for k in range(len(self.populations) - 1, -1, -1):
            each, psi = self.populations[k], window.psi[k]
            signal = self._signal(psi.shape[1])
            if each.feedback is not None:
                self._project(signal, above, each.feedback, window.spikes, target)
            history, post = (cast(I16, self._memory[f"trace.{each.neurons}.{part}"]) for part in ("history", "post"))
            np.copyto(post, signal)
            superspike.learning_signal(post, self._rise, self._fall, self._state(psi.shape[1]))
            eprop.post_factor(post, psi, post, self.plan.post_shift)
            pre = window.pre[k]
            superspike.potentials(history, pre, each.alpha, each.decay, self._state(pre.shape[1]))
            found[each.tensor], above = Factors(history, post), signal
        return {rate.tensor: found[rate.tensor] for rate in self.plan.rates}

    def _project(self, signal: I16, above: I16, feedback: I8, spikes: U8, target: U8) -> None:
        """signal <- what comes through the feedback: of the population above (symmetric), or of the last one."""
        for rows in eprop.tiles(len(signal)):
            error = above[rows]
            if self.plan.feedback != "symmetric":
                error = np.zeros(spikes[rows].shape, np.int16)
                superspike.lacking(error, spikes[rows], target[rows])
            eprop.learning_signal(signal[rows], error, feedback, self.plan.signal_shift)

    def _signal(self, units: int) -> I16:
        """The one signal that goes down; the rows of narrower populations lie in those of wider ones."""
        return cast(I16, self._memory["trace.signal"][:, :units])

    def _state(self, units: int) -> I32:
        return cast(I32, self._memory["trace.state"][:, :units])

    def _energy(self, target: U8) -> int:
        """Of a target that nobody spikes for."""
        raw = np.zeros(target.shape, np.int16)
        superspike.lacking(raw, np.zeros_like(target), target)
        superspike.van_rossum(raw, self._rise, self._fall)
        return superspike.energy(raw)


def _populations(plan: SuperSpike, manifest: Manifest, tensors: Tensors) -> tuple[Taught, ...]:
    """The plan's populations, bound. Raises SpecError unless each reads spikes, and those of the one before it."""
    wiring = {layer.name: sources[0] for layer, sources in manifest.wiring()}
    reaches, before, found = layer_reaches(manifest), "", []
    for k, each in enumerate(plan.populations):
        reads, reach = wiring[each.synapses], reaches[each.synapses][0][0]
        if reach != 1:
            raise SpecError(f"superspike synapses {each.synapses!r} read values of up to {reach}, not spikes")
        if before and reads != before:
            raise SpecError(f"superspike synapses {each.synapses!r} read {reads!r}, not {before!r}")
        if wiring[each.neurons] != each.synapses:
            raise SpecError(f"superspike neurons {each.neurons!r} read {wiring[each.neurons]!r}, not {each.synapses!r}")
        before = each.neurons
        alpha, decay = (uniform(tensors[name], name) for name in (f"{before}.alpha", f"{before}.decay"))
        found.append(Taught(f"{each.synapses}.weight", reads, before, alpha, decay, _feedback(plan, k, tensors)))
    if wiring[plan.patterns] != before:
        raise SpecError(f"superspike patterns {plan.patterns!r} read {wiring[plan.patterns]!r}, not {before!r}")
    return tuple(found)


def _feedback(plan: SuperSpike, k: int, tensors: Tensors) -> I8 | None:
    """What the k-th population's error comes through; live weights are a view."""
    if k == len(plan.populations) - 1:
        return None
    above = cast(I8, tensors[f"{plan.populations[k + 1].synapses}.weight"])
    match plan.feedback:
        case "symmetric":
            return above
        case "random":
            return cast(I8, tensors[f"{plan.populations[k].neurons}.feedback"])
        case "uniform":
            outputs = tensors[f"{plan.patterns}.target"].shape[2]
            return np.full((len(above), outputs), UNIFORM, np.int8)


def _inputs(network: Network, each: Taught) -> int:
    return len(network.tensors[each.tensor])
