"""One step of a recurrent net of leaky neurons, 700-256-20, on sparse spikes: ours beside Norse and snnTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import torch

from edgerun.arrays import F32, Tensors
from edgerun.native import NativeNetwork
from edgerun.network import Network
from edgerun.spec import ClassTable, Direct, Frames, InputSpec, Lif, Manifest, Readout

INPUTS, HIDDEN, OUTPUTS, STEPS = 700, 256, 20, 100
RATE: Final = 0.0137
"""Share of inputs that spike in a step: near 9.6 of 700."""

Call = Callable[[], object]


def spikes() -> F32:
    """(STEPS, INPUTS)  zeros and ones"""
    return (np.random.default_rng(3).random((STEPS, INPUTS)) < RATE).astype(np.float32)


def manifest(**more: object) -> Manifest:
    """The net over windows of `STEPS` moments."""
    return Manifest(
        name="recurrent",
        input=InputSpec(shape=(STEPS, INPUTS), dtype="int8"),
        encoder=Frames(),
        layers=(
            Lif(name="hidden", inputs=INPUTS, outputs=HIDDEN, weight_exponent=6),
            Readout(name="out", inputs=HIDDEN, outputs=OUTPUTS, weight_exponent=10),
        ),
        classes=ClassTable(names=tuple(map(str, range(OUTPUTS))), capacity=OUTPUTS),
        **more,  # type: ignore[arg-type]  # fields of a learning plan
    )


def tensors() -> Tensors:
    """Weights with which near one neuron in 25 spikes in a step."""
    rng = np.random.default_rng(4)
    return {
        "hidden.input": np.clip(rng.normal(-1, 24, (INPUTS, HIDDEN)), -127, 127).astype(np.int8),
        "hidden.recurrent": np.clip(rng.normal(-1, 8, (HIDDEN, HIDDEN)), -127, 127).astype(np.int8),
        "hidden.bias": np.zeros(HIDDEN, np.int32),
        "hidden.decay": np.full(HIDDEN, round(32768 * np.exp(-1 / 20)), np.uint16),
        "out.input": rng.integers(-60, 61, (HIDDEN, OUTPUTS)).astype(np.int8),
        "out.bias": np.zeros(OUTPUTS, np.int32),
        "out.kappa": np.full(OUTPUTS, round(32768 * np.exp(-1 / 20)), np.uint16),
    }


def ours(kind: Callable[..., Network]) -> Call:
    """One streaming step."""
    network, moments, at = kind(manifest(), tensors()), spikes(), iter(range(1 << 60))
    return lambda: network.step(moments[next(at) % STEPS])


def window(kind: Callable[..., Network]) -> Call:
    """A window of `STEPS` steps in one call."""
    network, q = kind(manifest(), tensors()), spikes().astype(np.int16).reshape(-1)
    return lambda: network.infer(q)


def norse() -> Call:
    from norse.torch import LICell, LIFRecurrentCell

    torch.manual_seed(0)
    moments, at = torch.from_numpy(spikes())[:, None], iter(range(1 << 60))
    hidden, mix, out = LIFRecurrentCell(INPUTS, HIDDEN), torch.nn.Linear(HIDDEN, OUTPUTS, bias=False), LICell()
    state: list[object] = [None, None]

    def step() -> object:
        with torch.inference_mode():
            z, state[0] = hidden(moments[next(at) % STEPS], state[0])
            y, state[1] = out(mix(z), state[1])
        return y

    return step


def snntorch() -> Call:
    import snntorch as snn

    torch.manual_seed(0)
    moments, at = torch.from_numpy(spikes())[:, None], iter(range(1 << 60))
    into, mix = torch.nn.Linear(INPUTS, HIDDEN), torch.nn.Linear(HIDDEN, OUTPUTS)
    hidden, out = snn.RLeaky(beta=0.95, linear_features=HIDDEN), snn.Leaky(beta=0.95, reset_mechanism="none")
    state = [*hidden.init_rleaky(), out.init_leaky()]

    def step() -> object:
        with torch.inference_mode():
            state[0], state[1] = hidden(into(moments[next(at) % STEPS]), state[0], state[1])
            _, state[2] = out(mix(state[0]), state[2])
        return state[2]

    return step


def contenders() -> Iterator[tuple[str, Call, int]]:
    """(name, call, steps of a call)"""
    yield "edgerun, numpy", ours(Network), 1
    yield "edgerun, C", ours(NativeNetwork), 1
    yield "edgerun, numpy, windows", window(Network), STEPS
    yield "edgerun, C, windows", window(NativeNetwork), STEPS
    for name, make in (("Norse", norse), ("snnTorch", snntorch)):
        yield name, make(), 1


__all__ = ["Direct", "contenders", "manifest", "spikes", "tensors"]
