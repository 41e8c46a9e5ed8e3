"""NIR to float layers: Affine or Linear into LIF, recurrent where the LIF feeds itself, a leaky readout at the end.

NIR describes neurons in continuous time; snnTorch's mapping with step dt (graph metadata "dt", else 1e-4 s) is undone:

    beta = 1 - dt/tau;   gain = r dt/tau, folded into weights and bias;   b <- gain * b + (1 - beta) * v_leak

What NIR cannot say is read from a node's metadata, then from the options, then assumed and noted:

    {"reset": "subtract" | "zero" | "none", "reset_delay": 0 | 1, "role": "readout"}            a LIF node
    {"encoder": "phase-rate", "steps": 16, "full_scale": 16, "input_scale": 1.0, "dt": 1e-4}    the graph
"""

from __future__ import annotations

import math
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import msgspec
import nir
import numpy as np

from edgerun.arrays import F64, AnyArray
from edgerun.errors import ModelError
from edgerun.spec import PhaseRate
from exporters.data import first_line
from exporters.float_net import FloatNet, file_name
from exporters.nodes import FloatLayer, FloatLif, FloatReadout, Reset

DT: Final = 1e-4
EXACT: Final = 1e-5  # a gain this near to one, or an alpha this near to zero, is float32 rounding
MAX_BYTES: Final = 1 << 30
READ_SECONDS: Final = 10  # of processor time
READ_BYTES: Final = 8 << 30
REHEARSAL: Final = """
import resource, sys
path, seconds, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_AS, (size, size))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import nir
nir.read(path, type_check=False)
"""
HDF5: Final = b"\x89HDF\r\n\x1a\n"
WIRES: Final = (nir.Input, nir.Output, nir.Flatten)
LINEAR: Final = (nir.Affine, nir.Linear)
NEURONS: Final = (nir.LIF, nir.CubaLIF, nir.LI)
RESETS: Final[Mapping[str, Reset]] = MappingProxyType({"subtract": "subtract", "zero": "zero", "none": "none"})
FOREIGN: Final = (
    OSError,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
    OverflowError,
    MemoryError,
)

Facts: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NirOptions:
    """What the command line says about a NIR file; None leaves it to the file's metadata or to the default."""

    reset: Reset | None = None
    reset_delay: bool | None = None
    readout: Literal["last"] | None = None
    encoder: Literal["phase-rate"] | None = None
    steps: int | None = None
    full_scale: int | None = None
    input_scale: float | None = None


@dataclass(frozen=True, slots=True)
class Wiring:
    """A graph without nesting. `notes` collects what was assumed."""

    nodes: dict[str, Any]  # by full name, "lif.w_rec"
    facts: dict[str, Facts]  # metadata, a subgraph's inherited by its nodes
    sources: dict[str, list[str]]  # where each node's input comes from
    dt: float
    notes: list[str] = field(default_factory=list)

    def upstream(self, name: str, passed: frozenset[str] = frozenset()) -> Iterator[str]:
        """Nodes whose values arrive at `name`, wires followed back; an Input without a source stands for the data."""
        for source in self.sources[name]:
            through = isinstance(self.nodes[source], WIRES) and self.sources[source] and source not in passed
            yield from self.upstream(source, passed | {source}) if through else (source,)


@dataclass(frozen=True, slots=True)
class Drive:
    """What a population receives: w (n, in) from `source`, v (n, n) or None from itself, a constant b (n,)."""

    source: str
    w: F64
    v: F64 | None
    b: F64


def load_nir(path: Path, options: NirOptions) -> FloatNet:
    """Import a spiking model file. Raises ModelError, one line: not NIR, or everything in it that is not supported."""
    return convert(path.name, parse(path), options)


def convert(file: str, graph: Any, options: NirOptions) -> FloatNet:
    """A graph in memory as float layers; `file` is what messages call it. Raises ModelError."""
    wiring = flat(graph)
    refuse_unsupported(file, wiring)
    drives = in_order(file, wiring)
    last = list(drives)[-1]
    with np.errstate(over="ignore", invalid="ignore"):  # FloatNet refuses what is not finite
        layers = tuple(layer_of(wiring, name, drive, options, last=name == last) for name, drive in drives.items())
    facts = facts_of(graph)
    return FloatNet(
        name=file_name(file),
        input_shape=layers[0].widths,
        layers=layers,
        encoder=encoder_of(file, facts, options),
        input_scale=options.input_scale or positive(file, facts, "input_scale", 0.0) or None,
        notes=tuple(wiring.notes),
    )


# ------------------------------------------------------------------ the file and its graph


def parse(path: Path) -> Any:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ModelError(f"{path.name}: {size} bytes, the limit is {MAX_BYTES}")
    with path.open("rb") as file:
        if file.read(len(HDF5)) != HDF5:
            raise ModelError(f"{path.name}: is no NIR file (no HDF5 signature)")
    rehearse(path)
    try:
        graph = nir.read(path, type_check=False)
    except FOREIGN as err:
        raise ModelError(f"{path.name}: is no sound NIR file ({first_line(err)})") from None
    if not isinstance(graph, nir.NIRGraph) or not graph.nodes:
        raise ModelError(f"{path.name}: holds no graph")
    return graph


def rehearse(path: Path) -> None:
    """Read the file once in a child process: over damaged bytes the HDF5 library can hang, crash or eat all memory.

    Raises ModelError if that happens; what the library merely refuses is left to the real reading.
    """
    command = [sys.executable, "-c", REHEARSAL, str(path), str(READ_SECONDS), str(READ_BYTES)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=2 * READ_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ModelError(f"{path.name}: is no sound NIR file (reading it does not end)") from None
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise ModelError(f"{path.name}: is no sound NIR file (reading it ends in {name} within {READ_SECONDS} s)")


def flat(graph: Any) -> Wiring:
    """Subgraphs dissolved: an edge to one goes to its Input, an edge from one comes from its Output."""
    nodes: dict[str, Any] = {}
    facts: dict[str, Facts] = {}
    edges: list[tuple[str, str]] = []

    def visit(inner: Any, prefix: str, inherited: Facts) -> None:
        for name, node in inner.nodes.items():
            known = {**inherited, **facts_of(node)}
            if isinstance(node, nir.NIRGraph):
                visit(node, f"{prefix}{name}.", known)
            else:
                nodes[prefix + name], facts[prefix + name] = node, known
        for a, b in inner.edges:
            for end in (a, b):
                if end not in inner.nodes:
                    raise ModelError(f"edge {prefix}{a} -> {prefix}{b}: there is no node {end!r}")
            edges.extend(
                (x, y) for x in ports(inner, prefix, a, nir.Output) for y in ports(inner, prefix, b, nir.Input)
            )

    visit(graph, "", {})
    sources = {name: [a for a, b in edges if b == name] for name in nodes}
    return Wiring(nodes, facts, sources, positive("graph", facts_of(graph), "dt", DT))


def ports(graph: Any, prefix: str, name: str, kind: type) -> list[str]:
    """The flat names that one end of an edge stands for."""
    node = graph.nodes[name]
    if not isinstance(node, nir.NIRGraph):
        return [prefix + name]
    return [f"{prefix}{name}.{inner}" for inner, port in node.nodes.items() if isinstance(port, kind)]


def facts_of(node: Any) -> Facts:
    metadata = getattr(node, "metadata", None)
    return metadata if isinstance(metadata, dict) else {}


def refuse_unsupported(file: str, wiring: Wiring) -> None:
    """Raises one ModelError that lists every node of a type that has no counterpart here."""
    known = (*WIRES, *LINEAR, *NEURONS)
    refused = [f"{name} ({type(node).__name__})" for name, node in wiring.nodes.items() if not isinstance(node, known)]
    if refused:
        raise ModelError(f"{file}: {len(refused)} nodes are not supported: {', '.join(refused)}")
    slow = [
        name for name, node in wiring.nodes.items() if isinstance(node, nir.CubaLIF) and not instantaneous(node, wiring)
    ]
    if slow:
        raise ModelError(f"{file}: CubaLIF with a synaptic time constant is not supported: {', '.join(slow)}")


def instantaneous(node: Any, wiring: Wiring) -> bool:
    """Whether the synaptic current lasts one step only: alpha = 1 - dt/tau_syn is zero, or tau_syn is."""
    tau = real("tau_syn", node.tau_syn)
    return bool(np.all((tau == 0) | (np.abs(tau - wiring.dt) <= EXACT * wiring.dt)))


def in_order(file: str, wiring: Wiring) -> dict[str, Drive]:
    """Neuron populations from input to output. Raises ModelError where they are not one chain."""
    drives = {name: drive_of(file, wiring, name) for name, node in wiring.nodes.items() if isinstance(node, NEURONS)}
    after: dict[str, str] = {}
    for name, drive in drives.items():
        key = "" if isinstance(wiring.nodes[drive.source], nir.Input) else drive.source
        if key in after:
            raise ModelError(f"{file}: {key or 'the input'} feeds both {after[key]} and {name}, must be a chain")
        after[key] = name
    chain: list[str] = []
    while (step := after.get(chain[-1] if chain else "")) is not None:
        chain.append(step)
    stray = [name for name in drives if name not in chain]
    if stray or not chain:
        raise ModelError(f"{file}: {', '.join(stray) or 'no neuron'} is not on a chain from the input")
    ends = [
        source
        for name, node in wiring.nodes.items()
        if isinstance(node, nir.Output)
        for source in wiring.upstream(name)
    ]
    wrong = [end for end in ends if end not in drives]
    if wrong:
        raise ModelError(f"{file}: the output comes from {wrong[0]}; end in an LI, or in a LIF with role readout")
    return {name: drives[name] for name in chain}


def drive_of(file: str, wiring: Wiring, name: str) -> Drive:
    """The weights into one population. Raises ModelError unless it has one feed-forward and at most one own source."""
    forward: list[tuple[str, Any]] = []
    own: list[Any] = []
    for link in wiring.upstream(name):
        node = wiring.nodes[link]
        if not isinstance(node, LINEAR):
            raise ModelError(f"{file}: {name} is fed by {link} ({type(node).__name__}) without weights")
        origins = list(wiring.upstream(link))
        if len(origins) != 1 or isinstance(wiring.nodes[origins[0]], LINEAR):
            raise ModelError(f"{file}: {link} is fed by {' and '.join(origins) or 'nothing'}, must be one population")
        if origins[0] == name:
            own.append(node)
        else:
            forward.append((origins[0], node))
    if len(forward) != 1 or len(own) > 1:
        raise ModelError(
            f"{file}: {name} has {len(forward)} feed-forward and {len(own)} recurrent inputs, must have 1 and 0 or 1"
        )
    source, link = forward[0]
    w, b = matrix(file, source, link)
    if not own:
        return Drive(source, w, None, b)
    v, c = matrix(file, name, own[0])
    if v.shape != (len(w), len(w)):
        raise ModelError(f"{file}: {name} has recurrent weights {v.shape}, must be {(len(w), len(w))}")
    return Drive(source, w, v, b + c)


def matrix(file: str, name: str, node: Any) -> tuple[F64, F64]:
    w = real(f"weights from {name}", node.weight)
    b = real(f"bias beside weights from {name}", node.bias) if isinstance(node, nir.Affine) else np.zeros(w.shape[0])
    if w.ndim != 2 or not w.size or b.shape != (len(w),):
        raise ModelError(f"{file}: weights from {name} have shape {w.shape}, bias {b.shape}, must be (n, in) and (n,)")
    return w, b


def real(what: str, value: Any) -> F64:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ModelError(f"{what}: a {type(value).__name__} is no number") from None


# ------------------------------------------------------------------ one population


def layer_of(wiring: Wiring, name: str, drive: Drive, options: NirOptions, *, last: bool) -> FloatLayer:
    """One float layer in discrete time, gain and leak potential folded into weights and bias."""
    node, n = wiring.nodes[name], len(drive.w)
    beta, gain = discrete(wiring, name, n)
    weight = (drive.w * gain[:, None]).astype(np.float32)
    bias = (drive.b * gain + (1 - beta) * parameter(name, node, "v_leak", n)).astype(np.float32)
    short = re.sub(r"[^A-Za-z0-9_.-]", "-", name.removesuffix(".lif"))[:56]
    if is_readout(wiring, name, options, last=last):
        if drive.v is not None:
            raise ModelError(f"{name}: a readout must not be recurrent")
        return FloatReadout(short, weight, bias, beta.astype(np.float32))
    threshold = parameter(name, node, "v_threshold", n)
    if not (threshold > 0).all():
        raise ModelError(f"{name}: v_threshold reaches down to {threshold.min():g}, must be above 0")
    if np.any(parameter(name, node, "v_reset", n)):
        raise ModelError(f"{name}: v_reset must be 0")
    reset, delay = reset_of(wiring, name, options)
    if drive.v is not None and reset == "zero" and delay:
        raise ModelError(f"{name}: reset zero with a delay is not supported in a recurrent layer")
    own = None if drive.v is None else (drive.v * gain[:, None]).astype(np.float32)
    return FloatLif(short, weight, own, bias, beta.astype(np.float32), threshold.astype(np.float32), reset, delay)


def discrete(wiring: Wiring, name: str, n: int) -> tuple[F64, F64]:
    """beta (n,) and gain (n,). Raises ModelError where a time constant is under the time step."""
    node, dt = wiring.nodes[name], wiring.dt
    cuba = isinstance(node, nir.CubaLIF)
    tau, r = parameter(name, node, "tau_mem" if cuba else "tau", n), parameter(name, node, "r", n)
    if not (tau >= dt * (1 - EXACT)).all():
        raise ModelError(f"{name}: tau {tau.min():g} s is under the time step of {dt:g} s")
    beta = np.maximum(1 - dt / tau, 0).astype(np.float32).astype(np.float64)  # as it was before NIR divided by 1 - beta
    endless = np.isinf(tau) & np.isinf(r)  # how snnTorch writes beta = 1
    gain = np.divide(r * dt, tau, out=np.ones(n), where=~endless)
    if cuba:
        gain = gain * parameter(name, node, "w_in", n)
    return beta, np.where(np.abs(gain - 1) < EXACT, 1.0, gain)


def parameter(name: str, node: Any, field_name: str, n: int) -> F64:
    """A neuron parameter as (n,); one value stands for all."""
    value = real(f"{name}: {field_name}", getattr(node, field_name))
    flat_value = value.reshape(-1)
    if flat_value.size not in (1, n):
        raise ModelError(f"{name}: {field_name} has shape {value.shape}, the layer has {n} units")
    if np.isnan(flat_value).any():
        raise ModelError(f"{name}: {field_name} has values that are not numbers")
    return np.broadcast_to(flat_value, (n,)).astype(np.float64)


def is_readout(wiring: Wiring, name: str, options: NirOptions, *, last: bool) -> bool:
    role = wiring.facts[name].get("role")
    if not (role is None or (isinstance(role, str) and role == "readout")):
        raise ModelError(f"{name}: role {first_line(role)!r} is not 'readout'")
    marked = role == "readout" or isinstance(wiring.nodes[name], nir.LI)
    if marked and not last:
        raise ModelError(f"{name}: a readout must be the last layer")
    return marked or (last and options.readout == "last")


def reset_of(wiring: Wiring, name: str, options: NirOptions) -> tuple[Reset, bool]:
    """How and when the membrane resets: the node's metadata, else the options, else what NIR's equations say."""
    facts = wiring.facts[name]
    reset = facts.get("reset", options.reset)
    delay = facts.get("reset_delay", options.reset_delay)
    if reset is None:
        wiring.notes.append(f"{name}: reset not stated, assumed 'zero' (--reset says otherwise)")
    if delay is None:
        wiring.notes.append(f"{name}: reset delay not stated, assumed 0 (--reset-delay says otherwise)")
    reset, delay = "zero" if reset is None else reset, 0 if delay is None else delay
    if not isinstance(reset, str) or reset not in RESETS:
        raise ModelError(f"{name}: reset {first_line(reset)!r} is none of {', '.join(RESETS)}")
    if np.ndim(delay) or delay not in (0, 1):
        raise ModelError(f"{name}: reset_delay {first_line(delay)} is neither 0 nor 1")
    return RESETS[reset], bool(delay)


# ------------------------------------------------------------------ encoder


def encoder_of(file: str, facts: Facts, options: NirOptions) -> PhaseRate:
    """The input code: options, else graph metadata. Raises ModelError where neither names it."""
    kind, steps, full = (
        getattr(options, key) if getattr(options, key) is not None else facts.get(key)
        for key in ("encoder", "steps", "full_scale")
    )
    if not isinstance(kind, str) or kind != "phase-rate" or steps is None or full is None:
        raise ModelError(f"{file}: the encoder is not stated; give --encoder phase-rate --steps N --full-scale N")
    try:
        return msgspec.convert({"type": kind, "steps": int(steps), "full_scale": int(full)}, PhaseRate)
    except (msgspec.ValidationError, TypeError, ValueError, OverflowError) as err:
        raise ModelError(f"{file}: encoder: {first_line(err)}") from None


def positive(where: str, facts: Facts, key: str, default: float) -> float:
    value: AnyArray | float = facts.get(key, default)
    if np.ndim(value) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value) or value < 0:
        raise ModelError(f"{where}: metadata {key} {first_line(value)} is no positive number")
    return float(value)
