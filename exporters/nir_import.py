"""NIR to float layers: spiking networks from snnTorch, Norse, Sinabs and others.

NIR describes neurons in continuous time; a step of dt (graph metadata "dt", else 1e-4 s as snnTorch writes) makes of it

    LIF, LI       U <- beta U + gain I + (1 - beta) v_leak    beta = 1 - dt/tau, gain = r dt/tau
    CubaLIF, -LI  A <- alpha A + gain I;  U <- beta U + A     alpha = 1 - dt/tau_syn, gain = w_in dt/tau_syn r dt/tau
    IF, I         U <- U + r I, a step being the unit of time, as Norse and Sinabs have it; r = 1/dt counts as 1, for
                  SpikingJelly tells it in seconds
    Threshold     U <- I, nothing kept

"decay": "exponential" in the graph's metadata makes these exp(-dt/tau) and 1 - exp(-dt/tau). What else NIR cannot say
is read from a node's metadata, then from the options, then assumed and noted:

    neurons  {"reset": "subtract" | "soft" | "zero" | "hold" | "none", "reset_delay": 0 | 1, "inhibition": 0 | 1,
              "role": "readout", "reading": "counts" | "last" | "max" | "mean", "inner_rate": 0.01,
              "inner_sharpness": 32}
    graph    {"encoder": "phase-rate", "steps": 16, "full_scale": 16, "input_scale": 1.0, "dt": 1e-4}
             {"encoder": "frames", "steps": 40}      {"encoder": "constant", "steps": 25}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import nir
import numpy as np

from edgerun.errors import ModelError
from edgerun.spec import Constant, Encoder, Frames, PhaseRate
from exporters.data import first_line
from exporters.float_net import FloatNet, file_name
from exporters.nir_build import FEATURE, SPIKE, Builder, unsupported
from exporters.nir_file import parse
from exporters.nir_graph import Facts, Wiring, facts_of, flat, positive, whole
from exporters.nir_population import Assumed
from exporters.nodes import Reset

ENCODERS: Final[Mapping[str, str]] = {
    "phase-rate": "--encoder phase-rate --steps N --full-scale N",
    "frames": "--encoder frames --steps N",
    "constant": "--encoder constant --steps N",
}
STEPS_MAX: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class NirOptions:
    """What the command line says about a NIR file; None leaves it to the file's metadata or to the default."""

    reset: Reset | None = None
    reset_delay: bool | None = None
    readout: Literal["last"] | None = None
    encoder: Literal["phase-rate", "frames", "constant"] | None = None
    steps: int | None = None
    full_scale: int | None = None
    input_scale: float | None = None
    dt: float | None = None


def load_nir(path: Path, options: NirOptions) -> FloatNet:
    """Import a spiking model file. Raises ModelError, one line: not NIR, or everything in it that is not supported."""
    return convert(path.name, parse(path), options)


def convert(file: str, graph: Any, options: NirOptions) -> FloatNet:
    """A graph in memory as float layers; `file` is what messages call it. Raises ModelError."""
    wiring, facts = flat(file, graph), facts_of(graph)
    if "dt" not in facts and options.dt is not None:
        wiring = replace(wiring, dt=options.dt)
    unsupported(wiring)
    encoder, steps = encoder_of(file, facts, options)
    shape = input_of(wiring)
    builder = Builder(
        wiring,
        shape,
        SPIKE if isinstance(encoder, PhaseRate) else FEATURE,
        Assumed(options.reset, options.reset_delay, options.readout == "last"),
    )
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # FloatNet refuses what is not finite
        try:
            layers = builder.build()
        except RecursionError:
            raise ModelError(f"{file}: nodes without neurons between them go round, or too many are in a row") from None
    return FloatNet(
        name=file_name(file),
        input_shape=(steps, *shape) if isinstance(encoder, Frames) else shape,
        layers=layers,
        encoder=encoder,
        input_scale=options.input_scale or positive(file, facts, "input_scale", 0.0) or None,
        notes=tuple(wiring.notes),
    )


def input_of(wiring: Wiring) -> tuple[int, ...]:
    """The shape of the data. Raises ModelError unless there is one Input."""
    ports = {name: node for name, node in wiring.nodes.items() if isinstance(node, nir.Input)}
    entries = [name for name in ports if not wiring.sources[name]]
    if len(entries) != 1:
        raise ModelError(f"{wiring.file}: {len(entries)} inputs ({', '.join(entries)}), must be one")
    (entry,) = entries
    shape = whole(f"{wiring.file}: {entry}: shape", next(iter(ports[entry].input_type.values()), ()))
    plain = without_batch(wiring, entry, shape)
    if plain != shape:
        wiring.notes.append(f"{entry} has shape {shape}, a batch or time axis of 1 in front: taken as {plain}")
    if not 1 <= len(plain) <= 3 or min(plain) < 1:
        raise ModelError(f"{wiring.file}: {entry} has shape {shape}, must be one to three sizes above 0")
    return plain


def without_batch(wiring: Wiring, entry: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one moment of one sample, where a writer counted axes that NIR does not have."""
    if len(shape) == 4 and shape[0] == 1:
        return shape[1:]
    read_by = [wiring.nodes[name] for name, sources in wiring.sources.items() if entry in sources]
    if set(shape[:-1]) == {1} and all(isinstance(node, (nir.Affine, nir.Linear)) for node in read_by):
        return shape[-1:]
    return shape


def encoder_of(file: str, facts: Facts, options: NirOptions) -> tuple[Encoder, int]:
    """The input code and its steps: options, else graph metadata. Raises ModelError where neither names it."""
    said: list[Any] = [
        facts.get(key) if getattr(options, key) is None else getattr(options, key)
        for key in ("encoder", "steps", "full_scale")
    ]
    kind, steps, full = said
    if not isinstance(kind, str) or kind not in ENCODERS or steps is None or (kind == "phase-rate" and full is None):
        raise ModelError(f"{file}: the encoder is not stated; give {', or '.join(ENCODERS.values())}")
    try:
        count = int(steps)
        match kind:
            case "phase-rate":
                return msgspec.convert({"type": kind, "steps": count, "full_scale": int(full)}, PhaseRate), count
            case "constant":
                return msgspec.convert({"type": kind, "steps": count}, Constant), count
    except (msgspec.ValidationError, TypeError, ValueError, OverflowError) as err:
        raise ModelError(f"{file}: encoder: {first_line(err)}") from None
    if not 1 <= count <= STEPS_MAX:
        raise ModelError(f"{file}: encoder: {count} steps, must be 1 to {STEPS_MAX}")
    return Frames(), count
