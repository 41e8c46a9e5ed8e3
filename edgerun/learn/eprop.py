"""The e-prop rule: from a recorded window and a label to the factors of each plastic tensor's gradient.

    p = softmax(logits) over the classes in play;   error_k = p_k - [k = label]                    Q0.15
    L_j = sat16(half_up(sum_k w_jk error_k / 2**signal_shift))     symmetric feedback: the live int8 readout weights
    Lf = L filtered backwards by the readout's kappa;   post = sat16((psi * Lf) >> p)
    G_input = trace(pre).T @ post;   G_recurrent = trace(spikes, one step late).T @ post;   G_readout = zbar.T @ error

The loss is the cross entropy of the readout after the last step, so L is zero before it. Where a window is longer than
the plan's chunk, traces run through it and credit reaches back one chunk. Bellec et al. 2020.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from edgerun.arrays import I8, I16, I32, I64, AnyArray, Bool, Tensors
from edgerun.errors import SpecError
from edgerun.graph import layer_reaches
from edgerun.kernels import eprop, softmax
from edgerun.kernels.spiking import I16_MAX, I16_MIN
from edgerun.learn.stages import Factors
from edgerun.network import Network, Tape
from edgerun.spec import EProp, Lif, Manifest, Readout


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
        self.plan: EProp = plan
        self._layer = layer
        self._names = {f"{layer.name}.input", f"{layer.name}.recurrent", f"{readout.name}.input"}
        unknown = [rate.tensor for rate in plan.rates if rate.tensor not in self._names]
        if unknown:
            raise SpecError(f"e-prop cannot change {unknown[0]!r}, only {', '.join(sorted(self._names))}")
        self._reach = layer_reaches(manifest)[layer.name][0][0]
        self._decay = _uniform(tensors[f"{layer.name}.decay"], f"{layer.name}.decay")
        self._kappa = _uniform(tensors[f"{readout.name}.kappa"], f"{readout.name}.kappa")
        self._feedback = cast(I8, tensors[f"{readout.name}.input"])  # a view: symmetric feedback uses live weights
        self._adaptive: tuple[I64, I64] | None = None
        if layer.adaptive:
            beta, rho = (tensors[f"{layer.name}.{part}"].astype(np.int64) for part in ("beta", "rho"))
            self._adaptive = (beta, rho)
        self._readout_name = f"{readout.name}.input"

    def record(self, network: Network, q: I16) -> Tape:
        """Run one window and keep it.    q  (size,)"""
        return network.record(q, self.plan.layer)

    def error(self, error: I32, tape: Tape, label: int, in_play: Bool) -> int:
        """error <- p - onehot over the classes in play, Q0.15; returns p(label).    error, in_play  (k,)"""
        return softmax.softmax_error(error, tape.logits, self.plan.temperature_shift, in_play, label)

    def factors(self, tape: Tape, error: I32) -> dict[str, Factors]:
        """The gradient of each plastic tensor, as factors."""
        steps = min(len(tape.psi), self.plan.chunk_steps)
        post = self._post(tape, error, steps)
        late = np.zeros_like(tape.spikes)
        late[1:] = tape.spikes[:-1]
        sources: dict[str, tuple[AnyArray, int]] = {
            f"{self._layer.name}.input": (tape.pre, self._reach),
            f"{self._layer.name}.recurrent": (late, 1),
        }
        found = {
            name: Factors(_traces(pre, self._decay, reach)[-steps:], post) for name, (pre, reach) in sources.items()
        }
        clipped: I16 = np.clip(error, I16_MIN, I16_MAX).astype(np.int16)[None, :]
        found[self._readout_name] = Factors(_traces(tape.spikes, self._kappa)[-1:], clipped)
        return {rate.tensor: found[rate.tensor] for rate in self.plan.rates}

    def _post(self, tape: Tape, error: I32, steps: int) -> I16:
        shift = self.plan.signal_shift
        signal = self._feedback.astype(np.int64) @ error.astype(np.int64)
        last = np.clip(signal + (1 << (shift - 1)) >> shift, I16_MIN, I16_MAX)
        psi = tape.psi[-steps:]
        at_end, filtered = (np.zeros(psi.shape, np.int32) for _ in range(2))
        at_end[-1] = last
        eprop.filter_backwards(filtered, at_end, self._kappa)
        post = np.zeros(psi.shape, np.int16)
        if self._adaptive is None:
            eprop.post_factor(post, psi, filtered, self.plan.post_shift)
        else:
            beta, rho = self._adaptive
            eprop.post_factor_adaptive(post, psi, filtered, self.plan.post_shift, self.plan.gamma, beta, rho)
        return post


def _traces(pre: AnyArray, decay: int, reach: int = 1) -> I16:
    history = np.zeros(pre.shape, np.int16)
    eprop.traces(history, pre, decay, reach)
    return history


def _uniform(values: AnyArray, name: str) -> int:
    """e-prop's traces belong to presynaptic units, so the postsynaptic constant must be one for the layer."""
    if int(values.min()) != int(values.max()):
        raise SpecError(f"e-prop needs one time constant a layer; {name} runs from {values.min()} to {values.max()}")
    return int(values[0])
