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
from edgerun.learn import tape
from edgerun.learn.profiles import profile_of
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
    """One layer that learns: its constants, the matrix that its learning signal comes through, and its memory."""

    def __init__(self, manifest: Manifest, tensors: Tensors, plan: EProp, name: str, memory: Tensors) -> None:
        layer = manifest.layer(name)
        if not isinstance(layer, Lif):
            raise SpecError(f"e-prop needs a lif layer, {name!r} is none")
        self.name, self._plan, self._memory = name, plan, memory
        self._reach, self._drop = layer_reaches(manifest)[name][0][0], profile_of(manifest.learning).trace_drop
        self._decay = uniform(tensors[f"{name}.decay"], f"{name}.decay")
        source = f"{name}.feedback" if name in plan.fed else f"{plan.readout}.input"
        self._feedback = cast(I8, tensors[source])  # a view: what learning writes is what the next lesson reads
        self._floats: F32 = np.zeros(
            (plan.chunk_steps, layer.outputs), np.float32
        )  # what numpy multiplies, no controller
        self._adaptive: tuple[I64, I64] | None = None
        if layer.adaptive:
            beta, rho = (tensors[f"{name}.{part}"].astype(np.int64) for part in ("beta", "rho"))
            self._adaptive = (beta, rho)

    def slot(self, kind: str, part: str) -> AnyArray:
        """One of this layer's arrays."""
        return self._memory[f"{kind}.{self._plan.prefix(self.name)}{part}"]

    def tape(self) -> Tape:
        return Tape(self.slot("tape", "pre"), self.slot("tape", "spikes"), self.slot("tape", "psi"))

    def factors(self, tape: Tape, errors: I32, kappa: int) -> Iterator[tuple[str, Factors]]:
        """Of its input and recurrent weights, those that learn."""
        post = self._post(tape, errors, kappa)
        floats = self._floats[: len(post)]
        np.copyto(floats, post)
        for part, pre, reach, late in (("input", tape.pre, self._reach, 0), ("recurrent", tape.spikes, 1, 1)):
            if f"{self.name}.{part}" in self._plan.tensors:
                history = self._traces(part, pre, self._decay, reach, late)
                yield f"{self.name}.{part}", Factors(history, post, self._drop, floats)

    def bars(self, tape: Tape, clipped: I16, kappa: int) -> Iterator[tuple[str, Factors]]:
        """Of what learns as a readout of this layer does.    clipped  (S, k)  the errors in 16 bits"""
        wanted = self._plan.bars(self.name)
        if wanted:
            factors = Factors(self._traces("readout", tape.spikes, kappa), clipped, self._drop)
            yield from ((tensor, factors) for tensor in wanted)

    def trace(self, part: str, decay: int, *, spikes: bool = True) -> Trace:
        """A trace of spikes, or of what drives it, that goes along with the window."""
        history, state = self.slot("trace", part), self.slot("trace", f"{part}_state")
        return Trace(history, state, decay, 1 if spikes else self._reach)

    @property
    def decay(self) -> int:
        return self._decay

    def at_once(self, psi: U8, errors: I32) -> I16:
        """post (S, n) of steps whose error acts in the same step.    psi  (S, n)     errors  (S, k)"""
        post = cast(I16, self.slot("trace", "post"))
        eprop.learning_signal(post, errors, self._feedback, self._plan.signal_shift)
        eprop.post_factor(post, psi, post, self._plan.post_shift)
        return post

    def _post(self, tape: Tape, errors: I32, kappa: int) -> I16:
        """Signal, filtered signal and post one after the other in the same memory: each fits 16 bits."""
        plan, post = self._plan, cast(I16, self.slot("trace", "post"))
        post[: -len(errors)] = 0
        eprop.learning_signal(post[-len(errors) :], errors, self._feedback, plan.signal_shift)
        eprop.filter_backwards(post, post, kappa, self._state(post.shape[1]))
        psi = tape.psi[-len(post) :]
        if plan.spikes_cost:
            eprop.regularise(post, tape.spikes[-len(post) :], plan.spikes_target, plan.spikes_cost)
        if self._adaptive is None:
            eprop.post_factor(post, psi, post, plan.post_shift)
        else:
            beta, rho = self._adaptive
            adjoint = cast(I64, self.slot("trace", "adjoint"))
            eprop.post_factor_adaptive(post, psi, post, plan.post_shift, plan.gamma, beta, rho, adjoint)
        return post

    def _traces(self, part: str, pre: AnyArray, decay: int, reach: int = 1, late: int = 0) -> I8 | I16:
        history = cast(I8 | I16, self.slot("trace", part))
        eprop.traces(history, pre, decay, reach, late=late, drop=self._drop, state=self._state(pre.shape[1]))
        return history

    def _state(self, units: int) -> I32:
        """What a leak carries along; layers take turns."""
        return cast(I32, self._memory["trace.state"][:, :units])


class EPropRule:
    """The rule bound to one bundle's layers and its memory. Weights are read when a lesson comes.

    What it returns are views: they hold until the next window.
    """

    def __init__(self, manifest: Manifest, tensors: Tensors, memory: Tensors | None = None) -> None:
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
        self._memory = memory = tape.room(manifest) if memory is None else memory
        self._layers = tuple(TaughtLayer(manifest, tensors, plan, name, memory) for name in plan.layers)

    def record(self, network: Network, q: I16) -> Window:
        """Run one window and keep it.    q  (size,)"""
        tapes = {layer.name: layer.tape() for layer in self._layers}
        recording = Recording(tapes, cast(I32, self._memory["tape.logits"]))
        network.record_all(q, recording)
        return Window(recording, cast(I32, self._memory["trace.error"]))

    def error(self, error: I32, window: Window, label: int, in_play: Bool) -> int:
        """error <- p - onehot over the classes in play after the last step, Q0.15.    error, in_play  (k,)

        Returns the mean p(label) over the steps that have a target, rounded down.
        """
        shift, total = self.plan.temperature_shift, 0
        for row, logits in zip(window.errors, window.recording.outputs, strict=True):
            total += softmax.softmax_error(row, logits.astype(np.int64), shift, in_play, label)
        np.copyto(error, window.errors[-1])
        return total // len(window.errors)

    def factors(self, window: Window, error: I32) -> dict[str, Factors]:
        """The gradient of each plastic tensor, as factors."""
        np.copyto(window.errors[-1], error)
        clipped = cast(I16, self._memory["trace.clipped"])
        np.clip(window.errors, I16_MIN, I16_MAX, out=clipped, casting="unsafe")
        found: dict[str, Factors] = {}
        for layer in self._layers:
            recorded = window.recording.tapes[layer.name]
            found |= dict(layer.factors(recorded, window.errors, self._kappa))
            found |= dict(layer.bars(recorded, clipped, self._kappa))
        return {rate.tensor: found[rate.tensor] for rate in self.plan.rates}


class EPropValuesRule(EPropRule):
    """The same towards values that a lesson brings; see `rules.EPropValues`."""

    def __init__(self, manifest: Manifest, tensors: Tensors, memory: Tensors | None = None) -> None:
        super().__init__(manifest, tensors, memory)
        if not isinstance(self.plan, EPropValues):
            raise SpecError("the bundle has no plan of e-prop for values")
        self._shift = self.plan.error_shift
        if manifest.head.kind != "values":
            raise SpecError(f"e-prop for values needs a head of kind values, not {manifest.head.kind}")
        if manifest.learning.replay.capacity:
            raise SpecError("e-prop for values replays nothing: a reservoir keeps labels, no values")

    def miss(self, error: I32, window: Window, target: I16) -> int:
        """error <- y - target after the last step, Q0.15; returns how near all were.    target  (S * k,)  Q3.12"""
        wanted = cast(I16, self._memory["tape.target"])
        np.copyto(wanted, target.reshape(wanted.shape))
        near = eprop.value_error(window.errors, window.recording.outputs, wanted, self._shift)
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
        walks = tuple(Walk(layer, network, self._kappa) for layer in self._layers)
        moments, error = network.moments(q), cast(I32, self._memory["trace.error"])
        clipped = cast(I16, self._memory["trace.clipped"])
        network.reset()
        for t, x in enumerate(moments):
            for walk in walks:
                walk.before()
            network.step(x)
            for walk in walks:
                walk.after(x)
            if t < len(moments) - self.plan.target_steps:
                continue
            probability = softmax.softmax_error(error[0], network.logits(), self.plan.temperature_shift, in_play, label)
            np.clip(error, I16_MIN, I16_MAX, out=clipped, casting="unsafe")
            found: dict[str, Factors] = {}
            for walk in walks:
                found |= walk.factors(error)
                found |= {tensor: Factors(walk.bar, clipped) for tensor in self.plan.bars(walk.name)}
            yield probability, {rate.tensor: found[rate.tensor] for rate in self.plan.rates}


class Trace:
    """A presynaptic trace that goes along with the window; see `kernels.eprop.traces`.

    history  (1, units)  int16  the newest trace     state  (3, units)  int32  the leak's
    """

    def __init__(self, history: AnyArray, state: AnyArray, decay: int, reach: int = 1) -> None:
        self.history, self._state = cast(I16, history), cast(I32, state)
        self._decay, self._gain = np.array(decay, np.int32), eprop.trace_gain(decay, reach)
        self._state[...] = 0

    def step(self, pre: AnyArray) -> None:
        """One more step.    pre  (units,)"""
        x, carry, drive = self._state
        np.copyto(drive, pre, casting="unsafe")
        drive <<= self._gain
        leak(x, carry, self._decay, drive)
        np.copyto(self.history[0], x, casting="unsafe")


class Walk:
    """One learning layer of a network that runs step by step."""

    def __init__(self, layer: TaughtLayer, network: Network, kappa: int) -> None:
        run = network.layers[layer.name]
        if not isinstance(run, LifRun):
            raise SpecError(f"e-prop needs a lif layer, {layer.name!r} is none")
        self.name = layer.name
        self._layer, self._run = layer, run
        self._source = dict((each.name, sources[0]) for each, sources in network.manifest.wiring())[layer.name]
        self._network = network
        self._input = layer.trace("input", layer.decay, spikes=False)
        self._recurrent, self._bar = layer.trace("recurrent", layer.decay), layer.trace("readout", kappa)

    @property
    def bar(self) -> I16:
        """The layer's spikes as the readout filters them.    (1, n)"""
        return self._bar.history

    def before(self) -> None:
        """Take in the spikes of the step before."""
        self._recurrent.step(self._run.fired)

    def after(self, x: F32) -> None:
        """Take in what has driven the layer in the step that has just run, and its spikes.    x  the input"""
        self._input.step(x if self._source == INPUT else self._network.layers[self._source].out)
        self._bar.step(self._run.fired)

    def factors(self, error: I32) -> dict[str, Factors]:
        psi = cast(U8, self._layer.slot("tape", "psi"))
        spiking.surrogate(psi[0], self._run.margin.copy(), self._run.spec.threshold)
        post = self._layer.at_once(psi, error)
        traces = {"input": self._input.history, "recurrent": self._recurrent.history}
        return {f"{self.name}.{part}": Factors(history, post) for part, history in traces.items()}


def uniform(values: AnyArray, name: str) -> int:
    """e-prop's traces belong to presynaptic units, so the postsynaptic constant must be one for the layer."""
    if int(values.min()) != int(values.max()):
        raise SpecError(f"e-prop needs one time constant a layer; {name} runs from {values.min()} to {values.max()}")
    return int(values[0])
