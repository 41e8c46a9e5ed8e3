"""The inner step: from a window and a label to one step of the last layer.

    P_i = the readout's trace of its input i after the last step       leak(P_i) + 2**f * x_i, as e-prop's traces
    error_k = p_k - [k = label],  0 where |error_k| <= gate            Q0.15, softmax over the classes in play
    G = P[T] error^T

The readout is y[t] = kappa y[t-1] + W x[t] + b, so y[T] = W P[T] + ..., and G is the exact gradient of the loss in W:
no pass backwards in time. Stewart, Neftci 2022; the gate is their error-triggered update.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np

from edgerun.arrays import F32, I16, I32, I64, Bool, Tensors
from edgerun.errors import SpecError
from edgerun.graph import layer_reaches
from edgerun.kernels import eprop, softmax
from edgerun.kernels.spiking import I16_MAX, I16_MIN, leak
from edgerun.layers.base import INPUT
from edgerun.learn import tape
from edgerun.learn.stages import Factors
from edgerun.network import Network
from edgerun.rules.inner import InnerStep
from edgerun.spec import Manifest


class Heard(NamedTuple):
    """A window as the last layer has seen it: its traces (m,) int16 and its logits (k,) int64, Q7.24."""

    trace: I16
    logits: I64


class InnerStepRule:
    """The rule bound to one bundle's readout and its memory.

    What it returns are views: they hold until the next window.
    """

    def __init__(self, manifest: Manifest, tensors: Tensors, memory: Tensors | None = None) -> None:
        plan = manifest.learning.rule
        if not isinstance(plan, InnerStep):
            raise SpecError("the bundle has no inner-step plan")
        plan.check(manifest.layer)
        readout = manifest.layer(plan.readout)
        if readout.outputs < manifest.classes.capacity:
            raise SpecError(
                f"readout {readout.name} has {readout.outputs} outputs for {manifest.classes.capacity} classes"
            )
        kappa = tensors[f"{readout.name}.kappa"]
        if int(kappa.min()) != int(kappa.max()):
            raise SpecError(
                f"the inner step needs one time constant; {readout.name}.kappa runs from {kappa.min()} to {kappa.max()}"
            )
        self.plan = plan
        self._source = next(sources[0] for layer, sources in manifest.wiring() if layer.name == readout.name)
        self._kappa: I32 = np.array(int(kappa[0]), np.int32)
        memory = tape.room(manifest) if memory is None else memory
        self._trace, self._state = cast(I16, memory["trace.readout"]), cast(I32, memory["trace.readout_state"])
        self._clipped = cast(I16, memory["trace.clipped"])
        self._gain = eprop.trace_gain(int(kappa[0]), layer_reaches(manifest)[readout.name][0][0])

    def record(self, network: Network, q: I16) -> Heard:
        """Run one window, its traces beside it.    q  (size,)"""
        moments, (trace, carry, drive) = network.moments(q), self._state
        trace[...], carry[...] = 0, 0
        network.reset()
        for moment in moments:
            network.step(moment)
            np.copyto(drive, self._seen(network, moment), casting="unsafe")
            drive <<= self._gain
            leak(trace, carry, self._kappa, drive)
        np.copyto(self._trace[0], trace, casting="unsafe")
        return Heard(self._trace[0], network.logits())

    def _seen(self, network: Network, moment: F32) -> F32:
        return moment if self._source == INPUT else network.layers[self._source].out

    def error(self, error: I32, heard: Heard, label: int, in_play: Bool) -> int:
        """error <- p - onehot over the classes in play, small ones gated; returns p(label).    error, in_play  (k,)"""
        probability = softmax.softmax_error(error, heard.logits, self.plan.temperature_shift, in_play, label)
        np.copyto(error, 0, where=np.abs(error) <= self.plan.gate)
        return probability

    def factors(self, heard: Heard, error: I32) -> dict[str, Factors]:
        """The gradient of the readout's weights: one row."""
        np.clip(error, I16_MIN, I16_MAX, out=self._clipped[0], casting="unsafe")
        return {self.plan.tensor: Factors(heard.trace[None], self._clipped)}
