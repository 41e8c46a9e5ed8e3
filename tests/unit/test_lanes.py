"""A graph's drawing: chains, branches, merges, crossings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgerun.commands.lanes import Node, draw


def drawn(*nodes: tuple[str, str]) -> list[str]:
    """Nodes as ("name", "source source"), lines as "art name"."""
    lines = draw([Node(name, tuple(sources.split())) for name, sources in nodes])
    return [f"{line.art} {line.name}".rstrip() for line in lines]


def test_a_chain_is_one_lane() -> None:
    assert drawn(("in", ""), ("a", "in"), ("b", "a")) == ["● in", "● a", "● b"]


def test_a_residual_branches_and_meets_again() -> None:
    assert drawn(("in", ""), ("a", "in"), ("b", "a"), ("add", "a b"), ("out", "add")) == [
        "● in",
        "● a",
        "├─╮",
        "│ ● b",
        "├─╯",
        "● add",
        "● out",
    ]


def test_three_values_meet() -> None:
    assert drawn(("in", ""), ("a", "in"), ("b", "in"), ("c", "in"), ("cat", "a b c")) == [
        "● in",
        "├─╮",
        "│ ● a",
        "├─│─╮",
        "│ │ ● b",
        "● │ │ c",
        "├─┴─╯",
        "● cat",
    ]


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=3), min_size=1, max_size=25))
def test_every_row_has_one_dot_and_as_many_lanes_as_values_to_be_read(picks: list[list[int]]) -> None:
    nodes = [Node("n0", ())]
    for k, pick in enumerate(picks, start=1):
        nodes.append(Node(f"n{k}", tuple(sorted({f"n{p % k}" for p in pick}))))
    last = {source: k for k, node in enumerate(nodes) for source in node.sources}
    rows = [line for line in draw(nodes) if line.name]
    assert [line.name for line in rows] == [node.name for node in nodes]
    for k, line in enumerate(rows):
        waiting = sum(last.get(node.name, -1) > k for node in nodes[:k])
        assert (line.art.count("●"), line.art.count("│")) == (1, waiting)
