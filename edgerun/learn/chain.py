"""A chain of dense layers as the rules see it: live weights, what each layer read, and the error at the top.

logits = W x + b of the last layer, before its clip           the error is taken from accumulators, not from int8
error  = softmax(logits) - onehot over the classes in play    Q0.15
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from edgerun.arrays import F64, I8, I16, I32, I64, AnyArray, Bool, Tensors
from edgerun.errors import SpecError
from edgerun.kernels import chain, softmax
from edgerun.learn.stages import Factors
from edgerun.network import Network
from edgerun.rules.dense import ChainRecord
from edgerun.spec import Dense, Direct, Manifest


@dataclass(frozen=True, slots=True)
class Passed:
    """One sample on its way through the chain.

    reads   a layer  (1, m)  int16  what it read          logits  (k,)  int64  the last layer's accumulators
    """

    reads: tuple[I16, ...]
    logits: I64


class Chain:
    """The layers of one bundle. Raises SpecError where they are no chain of dense layers, each with one scale.

    Weights are views: what a lesson writes is read by the next.
    """

    def __init__(self, manifest: Manifest, tensors: Tensors, plan: ChainRecord, memory: Tensors) -> None:
        check_chain(manifest, plan)
        for name in plan.layers:
            for part in ("multiplier", "shift"):
                values = tensors[f"{name}.{part}"]
                if int(values.min()) != int(values.max()):
                    ends = f"from {values.min()} to {values.max()}"
                    raise SpecError(f"{plan.title} needs one scale a layer; {name}.{part} runs {ends}")
        self.plan = plan
        self.layers = tuple(cast(Dense, manifest.layer(name)) for name in plan.layers)
        self.weights = tuple(cast(I8, tensors[f"{name}.weight"]) for name in plan.layers)
        self.biases = tuple(cast(I32, tensors[f"{name}.bias"]) for name in plan.layers)
        self.reads = tuple(cast(I16, memory[f"tape.{name}.read"]) for name in plan.layers)
        self.errors = {name: cast(I16, memory[f"tape.{name}.error"]) for name in plan.layers[plan.lowest :]}
        read = dict(zip(plan.layers, self.reads, strict=True))
        names = {rate.tensor: rate.tensor.rpartition(".")[0] for rate in plan.rates}
        self._factors = {tensor: Factors(self.errors[name], read[name]) for tensor, name in names.items()}
        self.logits: I64 = cast(I64, memory["tape.logits"])

    def record(self, network: Network, q: I16) -> Passed:
        """Run one sample and keep what each layer read.    q  (size,)"""
        x = network.moments(q)[-1]
        network.step(x)
        np.copyto(self.reads[0][0], x, casting="unsafe")
        for name, read in zip(self.plan.layers, self.reads[1:], strict=False):
            np.copyto(read[0], network.layers[name].out, casting="unsafe")
        chain.layer_sums(self.logits, self.wide(len(self.layers) - 1), self.reads[-1][0], self.biases[-1])
        return Passed(self.reads, self.logits)

    def wide(self, layer: int) -> F64:
        """A layer's weights as they stand, in the carrier of the kernels."""
        raise NotImplementedError

    def error(self, error: I32, passed: Passed, label: int, in_play: Bool) -> int:
        """error <- p - onehot over the classes in play, Q0.15; returns p(label).    error, in_play  (k,)"""
        return softmax.softmax_error(error, passed.logits, self.plan.temperature_shift, in_play, label)

    def factors(self) -> dict[str, Factors]:
        """G = error read' of each plastic tensor (out, in), by rate."""
        return self._factors


def copied(carrier: AnyArray, weights: I8) -> F64:
    """The weights in as much of a float64 carrier as they need."""
    wide = cast(F64, carrier.reshape(-1)[: weights.size].reshape(weights.shape))
    np.copyto(wide, weights)
    return wide


def check_chain(manifest: Manifest, plan: ChainRecord) -> None:
    """Raises SpecError where the bundle's graph is not exactly the plan's layers in a row on values around zero."""
    names = tuple(layer.name for layer in manifest.layers)
    before = ("input", *names)
    wired = all(sources == (before[k],) for k, (_, sources) in enumerate(manifest.wiring()))
    if names != plan.layers or not wired:
        raise SpecError(f"{plan.title} takes the chain {', '.join(plan.layers)}, the bundle runs {', '.join(names)}")
    if not isinstance(manifest.encoder, Direct) or manifest.input.zero_point != manifest.encoder.offset:
        raise SpecError(f"{plan.title} needs an input around 0, its zero point is {manifest.input.zero_point}")
    for layer in manifest.layers[:-1]:
        if isinstance(layer, Dense) and layer.qmin != 0:
            raise SpecError(f"{plan.title} layer {layer.name!r} is not clipped at 0: qmin is {layer.qmin}")
