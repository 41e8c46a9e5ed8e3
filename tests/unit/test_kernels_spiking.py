"""The leak keeps what rounding leaves over, nothing wraps, and the surrogate is the table that it claims to be."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import integers

from edgerun.encode import PhaseCoder
from edgerun.kernels import softmax, spiking
from edgerun.spec import PhaseRate

I32_EDGE = (1 << 30) - 1


def decay_of(tau: float) -> int:
    return round(math.exp(-1 / tau) * 32768)


@pytest.mark.parametrize("tau", [20, 100, 1000])
@pytest.mark.parametrize("amplitude", [30000, -30000, 777, -3])
def test_a_step_response_follows_the_real_line_without_dead_zone(tau: int, amplitude: int) -> None:
    """A drive that settles near the amplitude for 10 tau, then nothing for 10 tau."""
    decay = decay_of(tau)
    x, carry, drive = (np.zeros(1, np.int32) for _ in range(3))
    real, errors = 0.0, []
    for t in range(20 * tau):
        steady = amplitude * (1 - decay / 32768) if t < 10 * tau else 0.0
        drive[0] = math.floor((t + 1) * steady) - math.floor(t * steady)
        spiking.leak(x, carry, np.array([decay], np.int32), drive)
        real = real * decay / 32768 + int(drive[0])
        errors.append(int(x[0]) - real)
    assert np.abs(errors).max() <= 1.0
    assert np.sqrt(np.mean(np.square(errors))) < 0.5
    assert abs(np.mean(errors)) < 0.4
    assert abs(int(x[0])) <= 2  # what exp(-10) leaves


@pytest.mark.parametrize("tau", [20, 100, 1000])
def test_the_error_of_the_leak_is_a_third_of_a_step_and_has_no_bias(tau: int) -> None:
    decay = decay_of(tau)
    rng = np.random.default_rng(tau)
    x, carry = rng.integers(-20000, 20000, 64).astype(np.int32), np.zeros(64, np.int32)
    real, errors = x.astype(np.float64), []
    for _ in range(10 * tau):
        drive = rng.integers(-40, 41, 64).astype(np.int32)
        spiking.leak(x, carry, np.full(64, decay, np.int32), drive)
        real = real * decay / 32768 + drive
        errors.append(x - real)
    settled = errors[3 * tau :]  # the first carry is 0 and not one half: a start-up error of half a step
    assert np.sqrt(np.mean(np.square(settled))) < 0.3
    assert abs(np.mean(settled)) < 0.02


@given(
    x=st.integers(-(1 << 15), (1 << 15) - 1),
    carry=st.integers(0, 0x7FFF),
    decay=st.integers(0, 1 << 15),
    drive=st.integers(-I32_EDGE, I32_EDGE),
)
def test_the_leak_equals_the_definition_and_never_wraps(x: int, carry: int, decay: int, drive: int) -> None:
    arrays = [np.array([value], np.int32) for value in (x, carry, decay, drive)]
    spiking.leak(*arrays)
    assert (int(arrays[0][0]), int(arrays[1][0])) == integers.leak(x, carry, decay, drive)


@pytest.mark.parametrize("drive", [I32_EDGE, -I32_EDGE])
def test_state_stays_at_its_rail(drive: int) -> None:
    x, carry = np.zeros(3, np.int32), np.zeros(3, np.int32)
    decay = np.array([0, 31000, 1 << 15], np.int32)
    for _ in range(50):
        spiking.leak(x, carry, decay, np.full(3, drive, np.int32))
    assert set(x.tolist()) == {32767 if drive > 0 else -32768}


@given(total=st.integers(-(1 << 24), 1 << 24), exponent=st.integers(0, 20), bias=st.integers(-(1 << 20), 1 << 20))
def test_current_scales_a_sum_with_one_half_up_rounding(total: int, exponent: int, bias: int) -> None:
    total = max(-I32_EDGE >> (12 - exponent), min(total, I32_EDGE >> (12 - exponent))) if exponent < 12 else total
    current, product = np.zeros(1, np.int32), np.zeros(1, np.float32)
    spiking.synaptic_current(
        current, np.ones(1, np.float32), np.array([[total]], np.float32), product, 12 - exponent,
        np.array([bias], np.int32),
    )  # fmt: skip
    assert int(current[0]) == integers.current(total, exponent) + bias


@given(
    y=st.integers(-(1 << 31), (1 << 31) - 1),
    carry=st.integers(0, 0x7FFF),
    kappa=st.integers(0, 1 << 15),
    drive=st.integers(-(1 << 31), (1 << 31) - 1),
)
def test_the_integrator_saturates_at_32_bits(y: int, carry: int, kappa: int, drive: int) -> None:
    arrays = [np.array([value], np.int64) for value in (y, carry, kappa, drive)]
    spiking.integrate(*arrays)
    t = y * kappa + carry
    assert (int(arrays[0][0]), int(arrays[1][0])) == (integers.sat32((t >> 15) + drive), t & 0x7FFF)


@given(margin=st.integers(-131072, 131071), threshold=st.integers(256, 32767))
def test_the_surrogate_is_a_triangle_in_8_bits(margin: int, threshold: int) -> None:
    psi = np.zeros(1, np.uint8)
    spiking.surrogate(psi, np.array([margin], np.int32), threshold)
    assert int(psi[0]) == min(255, max(0, threshold - abs(margin)) * 256 // threshold)
    spiking.surrogate(psi, np.array([margin], np.int32), 4096)
    assert int(psi[0]) == min(255, max(0, 4096 - abs(margin)) >> 4)


@given(q=st.lists(st.integers(-300, 300), min_size=1, max_size=8), steps=st.integers(1, 128), full=st.integers(1, 255))
def test_the_phase_code_counts_half_up_and_spreads_evenly(q: list[int], steps: int, full: int) -> None:
    coder = PhaseCoder(PhaseRate(steps=steps, full_scale=full), (), len(q))
    spikes = coder.encode(np.array(q, np.int16))
    assert spikes.T.tolist() == [integers.phase_rate(u, steps, full) for u in q]
    clipped = [min(max(u, 0), full) for u in q]
    assert spikes.sum(axis=0).tolist() == [(2 * steps * u + full) // (2 * full) for u in clipped]


def test_the_phase_code_of_a_batch_is_that_of_each_sample() -> None:
    spec, q = PhaseRate(steps=13, full_scale=16), np.random.default_rng(1).integers(-4, 24, (5, 7)).astype(np.int16)
    single, batch = PhaseCoder(spec, (), 7), PhaseCoder(spec, (5,), 7).encode(q)
    for k in range(5):
        assert (batch[:, k] == single.encode(q[k])).all()


@given(data=st.data())
def test_the_softmax_error_sums_to_zero_and_is_near_the_real_one(data: st.DataObject) -> None:
    logits = np.array(data.draw(st.lists(st.integers(-(1 << 26), 1 << 26), min_size=2, max_size=12)), np.int64)
    known = np.array(data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits))))
    label = data.draw(st.integers(0, len(logits) - 1))
    known[label] = True
    error = np.full(len(logits), 99, np.int32)
    said = softmax.softmax_error(error, logits, 19, known, label)
    assert error.sum() == 0
    assert (error[~known] == 0).all()
    steps = np.minimum((logits[known].max() - logits) >> 19, 255) / 32
    real = np.where(known, np.exp(-steps), 0)
    real /= real.sum()
    assert said == error[label] + 32768
    assert np.abs(error - (real - np.eye(len(logits))[label]) * 32768).max() <= len(logits) + 1
