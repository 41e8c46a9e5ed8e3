"""Every board is priced from its own figures, and prices add up."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.boards import BOARDS, KINDS, Board, Ops, get_board, price, uncertainty
from edgerun.errors import Refused

counts = st.builds(Ops, **{kind: st.integers(0, 10_000) for kind in KINDS})
boards = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


@boards
def test_a_busy_core_draws_its_active_power(board: Board) -> None:
    """Energy over time of computing is what the board draws above sleep: coefficients follow from clock and power."""
    for kind in KINDS:
        energy_uj, busy_us = price(board, Ops(**{kind: 1_000_000}))
        if kind in ("messages", "flash_bytes") or busy_us == 0:
            continue
        assert energy_uj / busy_us * 1e3 == pytest.approx(board.active_mw - board.sleep_mw)


@boards
def test_every_figure_has_a_source_and_an_honest_uncertainty(board: Board) -> None:
    assert len(board.power_source) > 20
    assert 0.2 <= board.power_uncertainty <= 1
    for kind in KINDS:
        coefficient = board.coefficient(kind)
        assert len(coefficient.source) > 20
        assert 0.3 <= coefficient.uncertainty <= 1


@boards
@given(a=counts, b=counts, n=st.integers(0, 50))
def test_prices_add_and_scale(board: Board, a: Ops, b: Ops, n: int) -> None:
    both, once, more = price(board, Ops.total([a, b])), price(board, a), price(board, b)
    assert both == pytest.approx((once[0] + more[0], once[1] + more[1]))
    assert price(board, a.times(n)) == pytest.approx((n * once[0], n * once[1]))


@boards
def test_every_kind_but_array_calls_costs_something(board: Board) -> None:
    free = {kind for kind in KINDS if price(board, Ops(**{kind: 1}))[0] == 0}
    assert free == ({"array_calls"} if board.device_class == "mcu" else set())


def test_the_dense_cost_on_a_cortex_m4_is_what_was_counted() -> None:
    """A 64-128-10 network took 41,000 to 48,000 cycles by count: 9,472 products."""
    _, busy_us = price(get_board("nucleo-f446"), Ops(dense_macs=9472))
    assert 41_000 <= busy_us * 180 <= 48_000


def test_the_spiking_cost_on_a_cortex_m4_is_what_was_counted() -> None:
    """A step of 128 recurrent neurons, 15 events and 10 readouts took 15,000 instructions: 18,000 to 24,000 cycles."""
    _, busy_us = price(get_board("nucleo-f446"), Ops(synaptic_ops=15 * 128 + 100, neuron_updates=138))
    assert 18_000 <= busy_us * 180 <= 24_000


def test_the_demo_board_sleeps_in_milliwatts() -> None:
    board = get_board("pico2")
    assert board.sleep_mw <= 5
    assert 60 <= board.active_mw <= 100
    assert (board.ram_bytes, board.flash_bytes) == (520 * 1024, 4 * 1024 * 1024)


@boards
@given(ops=counts)
def test_uncertainty_lies_between_the_smallest_and_the_largest(board: Board, ops: Ops) -> None:
    shares = [board.coefficient(kind).uncertainty for kind in KINDS]
    assert board.power_uncertainty <= uncertainty(board, ops) <= (max(shares) ** 2 + board.power_uncertainty**2) ** 0.5


def test_an_unknown_board_is_refused_with_the_names() -> None:
    with pytest.raises(Refused, match=r"board 'pico3' is unknown: expected one of .*pico2.*mps2-an386"):
        get_board("pico3")


def test_counts_are_checked_where_they_enter() -> None:
    with pytest.raises(msgspec.ValidationError, match="dense_macs"):
        msgspec.convert({"dense_macs": -1}, Ops)
