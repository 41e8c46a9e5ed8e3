"""A NIR graph made flat: subgraphs dissolved, edges mended where their writers slipped."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import nir
import numpy as np

from edgerun.arrays import F64, AnyArray
from edgerun.errors import ModelError
from exporters.data import first_line

DT: Final = 1e-4
WAYS_MAX: Final = 1 << 14  # wires that are followed back from one node
PORTS: Final = (nir.Input, nir.Output)
Facts: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wiring:
    """A graph without nesting. `notes` collects what was assumed."""

    file: str
    nodes: dict[str, Any]  # by full name, "lif.w_rec"
    facts: dict[str, Facts]  # metadata, a subgraph's inherited by its nodes
    sources: dict[str, list[str]]  # where each node's input comes from
    dt: float
    exponential: bool  # decays are exp(-dt/tau), not 1 - dt/tau
    notes: list[str] = field(default_factory=list)

    def upstream(self, name: str) -> list[str]:
        """Nodes whose values arrive at `name`, wires followed back; an Input without a source stands for the data.

        Raises ModelError where wires go round or multiply, so that there are more than `WAYS_MAX` of them.
        """
        found: list[str] = []
        ways, steps = self.sources[name][::-1], 0
        while ways:
            at, steps = ways.pop(), steps + 1
            if steps > WAYS_MAX:
                raise ModelError(f"{self.file}: more than {WAYS_MAX} wires lead to {name}, or they go round")
            if is_wire(self.nodes[at]) and self.sources[at]:
                ways += reversed(self.sources[at])
            else:
                found.append(at)
        return found


def flat(file: str, graph: Any) -> Wiring:
    """Subgraphs dissolved: an edge to one goes to its Input, an edge from one comes from its Output."""
    nodes: dict[str, Any] = {}
    facts: dict[str, Facts] = {}
    edges: list[tuple[str, str]] = []
    notes: list[str] = []

    def visit(inner: Any, prefix: str, inherited: Facts) -> None:
        for name, node in inner.nodes.items():
            known = {**inherited, **facts_of(node)}
            if isinstance(node, nir.NIRGraph):
                visit(node, f"{prefix}{name}.", known)
            else:
                nodes[prefix + name], facts[prefix + name] = node, known
        edges.extend(
            (x, y)
            for a, b in mended(file, inner, prefix, notes)
            for x in ports(inner, prefix, a, nir.Output)
            for y in ports(inner, prefix, b, nir.Input)
        )

    visit(graph, "", {})
    sources = {name: [a for a, b in edges if b == name] for name in nodes}
    known = facts_of(graph)
    decay = known.get("decay", "euler")
    if not isinstance(decay, str) or decay not in ("euler", "exponential"):
        raise ModelError(f"{file}: decay {first_line(decay)!r} is neither 'euler' nor 'exponential'")
    return Wiring(file, nodes, facts, sources, positive("graph", known, "dt", DT), decay == "exponential", notes)


def mended(file: str, graph: Any, prefix: str, notes: list[str]) -> list[tuple[str, str]]:
    """The edges of one graph, each once, between nodes that it has.

    Where edges name one node that is not there, and one node that is there has no edge, the name stands for that node;
    a note says so. Raises ModelError for other names without a node.
    """
    edges = list(dict.fromkeys((str(a), str(b)) for a, b in graph.edges))
    if len(edges) < len(graph.edges):
        notes.append(f"{len(graph.edges) - len(edges)} edges are in the file more than once, and count once")
    ends = {end for edge in edges for end in edge}
    missing, idle = sorted(ends - set(graph.nodes)), sorted(set(graph.nodes) - ends)
    if not missing:
        return edges
    if len(missing) > 1 or len(idle) != 1:
        a, b = next(edge for edge in edges if set(edge) & set(missing))
        raise ModelError(f"{file}: edge {prefix}{a} -> {prefix}{b}: there is no node {missing[0]!r}")
    (wrong,), (right,) = missing, idle
    notes.append(f"edges name {prefix}{wrong}, which is not there: taken for {prefix}{right}, which has no edge")
    return [(right if a == wrong else a, right if b == wrong else b) for a, b in edges]


def is_wire(node: Any) -> bool:
    """Whether a node hands values over as they are: a port, or a delay of nothing."""
    return isinstance(node, PORTS) or (isinstance(node, nir.Delay) and not np.any(real("delay", node.delay)))


def ports(graph: Any, prefix: str, name: str, kind: type) -> list[str]:
    """The flat names that one end of an edge stands for."""
    node = graph.nodes[name]
    if not isinstance(node, nir.NIRGraph):
        return [prefix + name]
    return [f"{prefix}{name}.{inner}" for inner, port in node.nodes.items() if isinstance(port, kind)]


def facts_of(node: Any) -> Facts:
    metadata = getattr(node, "metadata", None)
    return metadata if isinstance(metadata, dict) else {}


def real(what: str, value: Any) -> F64:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ModelError(f"{what}: a {type(value).__name__} is no number") from None


def whole(what: str, value: Any) -> tuple[int, ...]:
    """Whole numbers of any shape, one behind the other. Raises ModelError for others, and beyond what int32 holds."""
    values = real(what, value).reshape(-1)
    if not (np.abs(values) < 1 << 31).all() or (values % 1).any():
        raise ModelError(f"{what}: {first_line(value)} is no whole number of 32 bits")
    return tuple(int(v) for v in values)


def parameter(name: str, node: Any, field_name: str, n: int) -> F64:
    """A neuron parameter as (n,); one value stands for all."""
    value = real(f"{name}: {field_name}", getattr(node, field_name))
    flat_value = value.reshape(-1)
    if flat_value.size not in (1, n):
        raise ModelError(f"{name}: {field_name} has shape {value.shape}, the layer has {n} units")
    if np.isnan(flat_value).any():
        raise ModelError(f"{name}: {field_name} has values that are not numbers")
    return np.broadcast_to(flat_value, (n,)).astype(np.float64)


def positive(where: str, facts: Facts, key: str, default: float) -> float:
    value: AnyArray | float = facts.get(key, default)
    if np.ndim(value) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value) or value < 0:
        raise ModelError(f"{where}: metadata {key} {first_line(value)} is no positive number")
    return float(value)


def short(name: str) -> str:
    """A node's name as a layer may have it; the neurons of a recurrent subgraph bear the subgraph's."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name.removesuffix(".lif"))[:56]
