"""A recurrent net whose outputs are two values, and its bundle: what lessons that bring values are tested on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgerun.arrays import AnyArray, Tensors
from edgerun.bundle import Bundle, Selftest, no_probe, pack, read_bundle
from edgerun.network import Network
from edgerun.rules import EPropValues
from edgerun.spec import Frames, Head, InputSpec, LearningPlan, Lif, Manifest, OutputSpec, PlasticRate, Readout

OUTPUTS = 2


def plan(shifts: Mapping[str, int], max_norm: int, **fields: Any) -> EPropValues:
    """E-prop towards values, of every tensor in `shifts`."""
    rates = tuple(PlasticRate(tensor=name, eta=1, shift=shift, max_norm=max_norm) for name, shift in shifts.items())
    return EPropValues(**({"layer": "hidden", "readout": "out", "post_shift": 6, "rates": rates} | fields))


def manifest(rule: EPropValues, shape: tuple[int, int], hidden: Lif, *, unit: float = 1.0, **changes: Any) -> Manifest:
    """Windows of that shape, one hidden layer.    unit  of the values, in the readout's own"""
    fields: dict[str, Any] = {
        "name": "values", "input": InputSpec(shape=shape), "encoder": Frames(),
        "layers": (hidden, Readout(name="out", inputs=hidden.outputs, outputs=OUTPUTS, weight_exponent=8)),
        "head": Head(kind="values"), "output": OutputSpec(shape=(OUTPUTS,), scale=unit * 2.0**-24),
        "learning": LearningPlan(rule=rule),
    }  # fmt: skip
    return Manifest(**(fields | changes))


def unbiased(neurons: int, leak: int) -> Tensors:
    """The tensors beside the weights: no bias, one leak for all."""
    return {
        "hidden.bias": np.zeros(neurons, np.int32), "hidden.decay": np.full(neurons, leak, np.uint16),
        "out.bias": np.zeros(OUTPUTS, np.int32), "out.kappa": np.full(OUTPUTS, leak, np.uint16),
    }  # fmt: skip


def bundle(model: Manifest, tensors: Tensors, x: AnyArray) -> Bundle:
    """A bundle that tests itself on these windows (n, steps, inputs) int8."""
    network = Network(model, tensors)
    scores = [network.infer(row.reshape(-1).astype(np.int16)).scores.copy() for row in x]
    return read_bundle(pack(model, tensors, selftest=Selftest(x, np.array(scores, np.int32)), probe=no_probe(model)))
