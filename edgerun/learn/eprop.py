"""The e-prop rule: from a recorded window and a label to the factors of each plastic tensor's gradient.

    p[t] = softmax(outputs[t]) over the classes in play;   error_k[t] = p_k[t] - [k = label]       Q0.15
    L_j[t] = sat16(half_up(sum_k B_jk error_k[t] / 2**signal_shift))      B: live int8 readout weights, or a layer's own
    Lf = L filtered backwards by the readout's kappa
    R_j = sat16(half_up((256 * spikes_j - spikes_target) * spikes_cost / 2**16))
    post = sat16((psi * sat16(Lf + R)) >> p)
    G_input = trace(pre).T @ post;   G_recurrent = trace(spikes, one step late).T @ post;   G_readout = zbar.T @ error

The loss is the cross entropy of the readout after each of the last `target_steps` steps, so L is zero before them.
Where a window is longer than the plan's chunk, traces run through it and credit reaches back one chunk. A matrix of
adaptive feedback has the gradient that a readout of its layer would have. Bellec et al. 2020.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from edgerun.arrays import F32, I8, I16, I32, I64, U8, AnyArray, Bool, Tensors
from edgerun.errors import SpecError
from edgerun.graph import layer_reaches
from edgerun.kernels import eprop, softmax, spiking
from edgerun.kernels.spiking import I16_MAX, I16_MIN, leak
from edgerun.layers.base import INPUT
from edgerun.learn.stages import Factors
from edgerun.network import Network, Recording, Tape
from edgerun.ops import LifRun
from edgerun.rules import EPropValues
from edgerun.spec import EProp, Lif, Manifest, Readout


@dataclass(frozen=True, slots=True)
class Window:
    """A recorded window and, once it has a label, its errors after each of the last S steps.    errors  (S, k)"""

    recording: Recording
    errors: I32

    @property
    def logits(self) -> I64:
        return self.recording.logits


class TaughtLayer:
    """One layer that learns: its constants, and the matrix that its learning signal comes through."""

    def __init__(self, manifest: Manifest, tensors: Tensors, plan: EProp, name: str) -> None:
        layer = manifest.layer(name)
        if not isinstance(layer, Lif):
            raise SpecError(f"e-prop needs a lif layer, {name!r} is none")
        self.name, self._plan = name, plan
        self._reach = layer_reaches(manifest)[name][0][0]
        self._decay = uniform(tensors[f"{name}.decay"], f"{name}.decay")
        source = f"{name}.feedback" if name in plan.fed else f"{plan.readout}.input"
        self._feedback = cast(I8, tensors[source])  # a view: what learning writes is what the next lesson reads
        self._adaptive: tuple[I64, I64] | None = None
        if layer.adaptive:
            beta, rho = (tensors[f"{name}.{part}"].astype(np.int64) for part in ("beta", "rho"))
            self._adaptive = (beta, rho)

    def factors(self, tape: Tape, errors: I32, kappa: int) -> Iterator[tuple[str, Factors]]:
        """Of its input and recurrent weights."""
        steps = min(len(tape.psi), self._plan.chunk_steps)
        post = self._post(tape, errors, kappa, steps)
        late = np.zeros_like(tape.spikes)
        late[1:] = tape.spikes[:-1]
        yield f"{self.name}.input", Factors(_traces(tape.pre, self._decay, self._reach)[-steps:], post)
        yield f"{self.name}.recurrent", Factors(_traces(late, self._decay)[-steps:], post)

    def trace(self, units: int, *, spikes: bool = False) -> Trace:
        """A trace of what drives it, or of its own spikes."""
        return Trace(units, self._decay, 1 if spikes else self._reach)

    def at_once(self, psi: U8, errors: I32) -> I16:
        """post (S, n) of steps whose error acts in the same step.    psi  (S, n)     errors  (S, k)"""
        signal, post = np.zeros(psi.shape, np.int32), np.zeros(psi.shape, np.int16)
        eprop.learning_signal(signal, errors, self._feedback, self._plan.signal_shift)
        eprop.post_factor(post, psi, signal, self._plan.post_shift)
        return post

    def _post(self, tape: Tape, errors: I32, kappa: int, steps: int) -> I16:
        plan, psi = self._plan, tape.psi[-steps:]
        signal = np.zeros(psi.shape, np.int32)
        eprop.learning_signal(signal[-len(errors) :], errors, self._feedback, plan.signal_shift)
        filtered = np.zeros(psi.shape, np.int32)
        eprop.filter_backwards(filtered, signal, kappa)
        if plan.spikes_cost:
            eprop.regularise(filtered, tape.spikes[-steps:], plan.spikes_target, plan.spikes_cost)
        post = np.zeros(psi.shape, np.int16)
        if self._adaptive is None:
            eprop.post_factor(post, psi, filtered, plan.post_shift)
        else:
            eprop.post_factor_adaptive(post, psi, filtered, plan.post_shift, plan.gamma, *self._adaptive)
        return post


class EPropRule:
    """The rule bound to one bundle's layers. Holds constants only; weights are read when a lesson comes."""

    def __init__(self, manifest: Manifest, tensors: Tensors) -> None:
        plan = manifest.learning.rule
        if not isinstance(plan, EProp):
            raise SpecError("the bundle has no e-prop plan")
        layer, readout = manifest.layer(plan.layer), manifest.layer(plan.readout)
        if not isinstance(layer, Lif) or not isinstance(readout, Readout) or readout.inputs != layer.outputs:
            raise SpecError(f"e-prop needs a lif layer feeding a readout, not {plan.layer!r} and {plan.readout!r}")
        if manifest.head.kind == "prototypes" and readout.outputs < manifest.classes.capacity:
            raise SpecError(
                f"readout {readout.name} has {readout.outputs} outputs for {manifest.classes.capacity} classes"
            )
        names = {f"{name}.{part}" for name in plan.layers for part in ("input", "recurrent")}
        names |= {f"{name}.feedback" for name in plan.fed} | {f"{readout.name}.input"}
        unknown = [rate.tensor for rate in plan.rates if rate.tensor not in names]
        if unknown:
            raise SpecError(f"e-prop cannot change {unknown[0]!r}, only {', '.join(sorted(names))}")
        if plan.target_steps > manifest.steps:
            raise SpecError(f"e-prop target_steps {plan.target_steps} is above the window's {manifest.steps}")
        self.plan: EProp = plan
        self._readout, self._classes = readout.name, readout.outputs
        self._kappa = uniform(tensors[f"{readout.name}.kappa"], f"{readout.name}.kappa")
        self._layers = tuple(TaughtLayer(manifest, tensors, plan, name) for name in plan.layers)

    def record(self, network: Network, q: I16) -> Window:
        """Run one window and keep it.    q  (size,)"""
        recording = network.record_all(q, self.plan.layers, self.plan.target_steps)
        return Window(recording, np.zeros((len(recording.outputs), self._classes), np.int32))

    def error(self, error: I32, window: Window, label: int, in_play: Bool) -> int:
        """error <- p - onehot over the classes in play after the last step, Q0.15.    error, in_play  (k,)

        Returns the mean p(label) over the steps that have a target, rounded down.
        """
        shift, total = self.plan.temperature_shift, 0
        for row, logits in zip(window.errors, window.recording.outputs, strict=True):
            total += softmax.softmax_error(row, logits, shift, in_play, label)
        np.copyto(error, window.errors[-1])
        return total // len(window.errors)

    def factors(self, window: Window, error: I32) -> dict[str, Factors]:
        """The gradient of each plastic tensor, as factors."""
        errors: I32 = np.concatenate([window.errors[:-1], error[None, :]])
        clipped: I16 = np.clip(errors, I16_MIN, I16_MAX).astype(np.int16)
        found: dict[str, Factors] = {}
        for layer in self._layers:
            tape = window.recording.tapes[layer.name]
            found |= dict(layer.factors(tape, errors, self._kappa))
            found[f"{layer.name}.feedback"] = Factors(_traces(tape.spikes, self._kappa)[-len(clipped) :], clipped)
        found[f"{self._readout}.input"] = found[f"{self.plan.layer}.feedback"]
        return {rate.tensor: found[rate.tensor] for rate in self.plan.rates}


class EPropValuesRule(EPropRule):
    """The same towards values that a lesson brings; see `rules.EPropValues`."""

    def __init__(self, manifest: Manifest, tensors: Tensors) -> None:
        super().__init__(manifest, tensors)
        if not isinstance(self.plan, EPropValues):
            raise SpecError("the bundle has no plan of e-prop for values")
        self._shift = self.plan.error_shift
        if manifest.head.kind != "values":
            raise SpecError(f"e-prop for values needs a head of kind values, not {manifest.head.kind}")
        if manifest.learning.replay.capacity:
            raise SpecError("e-prop for values replays nothing: a reservoir keeps labels, no values")

    def miss(self, error: I32, window: Window, target: I16) -> int:
        """error <- y - target after the last step, Q0.15; returns how near all were.    target  (S * k,)  Q3.12"""
        near = eprop.value_error(
            window.errors, window.recording.outputs, target.reshape(window.errors.shape), self._shift
        )
        np.copyto(error, window.errors[-1])
        return near


class EPropOnlineRule(EPropRule):
    """The rule of one step after the other; see `rules.EPropOnline`.

    post = sat16((psi[t] * L[t] + 2**(p-1)) >> p);   G_input = trace[t].T @ post;   G_readout = zbar[t].T @ error[t]
    """

    def steps(self, network: Network, q: I16, label: int, in_play: Bool) -> Iterator[tuple[int, Mapping[str, Factors]]]:
        """Run one window; p(label) and the gradients after each step that has a target.    q  (size,)

        What is written to the weights between two steps is what the next one runs on.
        """
        walks = tuple(Walk(layer, network) for layer in self._layers)
        zbar = {walk.name: Trace(walk.neurons, self._kappa) for walk in walks}
        moments, error = network.moments(q), np.zeros((1, self._classes), np.int32)
        network.reset()
        for t, x in enumerate(moments):
            for walk in walks:
                walk.before()
            network.step(x)
            bars = {walk.name: zbar[walk.name].step(walk.after(x)) for walk in walks}
            if t < len(moments) - self.plan.target_steps:
                continue
            probability = softmax.softmax_error(error[0], network.logits(), self.plan.temperature_shift, in_play, label)
            clipped: I16 = np.clip(error, I16_MIN, I16_MAX).astype(np.int16)
            found: dict[str, Factors] = {}
            for walk in walks:
                found |= walk.factors(error)
                found[f"{walk.name}.feedback"] = Factors(bars[walk.name], clipped)
            found[f"{self._readout}.input"] = found[f"{self.plan.layer}.feedback"]
            yield probability, {rate.tensor: found[rate.tensor] for rate in self.plan.rates}


class Trace:
    """A presynaptic trace that goes along with the window; see `kernels.eprop.traces`."""

    def __init__(self, units: int, decay: int, reach: int = 1) -> None:
        self._x, self._carry = np.zeros(units, np.int32), np.zeros(units, np.int32)
        self._decay, self._gain = np.full(units, decay, np.int32), eprop.trace_gain(decay, reach)

    def step(self, pre: AnyArray) -> I16:
        """The trace (1, units) after one more step.    pre  (units,)"""
        leak(self._x, self._carry, self._decay, pre.astype(np.int32) << self._gain)
        return self._x.astype(np.int16)[None, :]


class Walk:
    """One learning layer of a network that runs step by step."""

    def __init__(self, layer: TaughtLayer, network: Network) -> None:
        run = network.layers[layer.name]
        if not isinstance(run, LifRun):
            raise SpecError(f"e-prop needs a lif layer, {layer.name!r} is none")
        self.name, self.neurons = layer.name, run.spec.outputs
        self._layer, self._run = layer, run
        self._source = dict((each.name, sources[0]) for each, sources in network.manifest.wiring())[layer.name]
        self._network = network
        self._input, self._recurrent = layer.trace(run.spec.inputs), layer.trace(run.spec.outputs, spikes=True)

    def before(self) -> None:
        """Take in the spikes of the step before."""
        self._late = self._recurrent.step(self._run.fired)

    def after(self, x: F32) -> Bool:
        """Take in what has driven the layer in the step that has just run; returns its spikes.    x  the input"""
        source = x if self._source == INPUT else self._network.layers[self._source].out
        self._trace = self._input.step(source)
        return self._run.fired

    def factors(self, error: I32) -> dict[str, Factors]:
        psi = np.zeros((1, self.neurons), np.uint8)
        spiking.surrogate(psi[0], self._run.margin.copy(), self._run.spec.threshold)
        post = self._layer.at_once(psi, error)
        return {f"{self.name}.input": Factors(self._trace, post), f"{self.name}.recurrent": Factors(self._late, post)}


def _traces(pre: AnyArray, decay: int, reach: int = 1) -> I16:
    history = np.zeros(pre.shape, np.int16)
    eprop.traces(history, pre, decay, reach)
    return history


def uniform(values: AnyArray, name: str) -> int:
    """e-prop's traces belong to presynaptic units, so the postsynaptic constant must be one for the layer."""
    if int(values.min()) != int(values.max()):
        raise SpecError(f"e-prop needs one time constant a layer; {name} runs from {values.min()} to {values.max()}")
    return int(values[0])
