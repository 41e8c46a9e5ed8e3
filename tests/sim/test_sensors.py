"""Recordings play in the promised order, drift as scheduled, fail as asked, and repeat themselves under a seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from edgerun.errors import DataError, Refused
from edgerun.ports import Sensor
from firmware_sim.faults import FAULTS, list_faults, parse_fault, usage
from firmware_sim.sensors import Drift, Order, Recording, drift_at, playing_order, rotate

RNG = np.random.default_rng(3)
X = RNG.uniform(0, 16, (40, 64))
LABELS = [str(i % 8) for i in range(40)]


def played(recording: Recording) -> list[tuple[str | None, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]]:
    samples = []
    for _ in range(len(recording)):
        sample = recording.read()
        samples.append((sample.label, np.asarray(sample.x, dtype=np.float64)))
    return samples


@pytest.mark.parametrize("degrees", [0.0, 25.0, -25.0, 90.0, 133.0])
@pytest.mark.parametrize("side", [3, 8, 13])
def test_rotation_agrees_with_scipy(side: int, degrees: float) -> None:
    image = RNG.uniform(0, 16, (side, side))
    want = ndimage.rotate(image, degrees, reshape=False, order=1, mode="grid-constant")
    np.testing.assert_allclose(rotate(image, degrees), want, atol=1e-9)


def test_a_positive_angle_is_counter_clockwise() -> None:
    image = np.zeros((3, 3))
    image[1, 2] = 1.0  # to the right of the centre
    assert rotate(image, 90.0)[0, 1] == pytest.approx(1.0)  # above it


def test_blocks_bring_two_classes_at_a_time() -> None:
    sensor: Sensor = Recording(X, LABELS, order="blocks", seed=5)
    labels = [sample.label for sample in (sensor.read() for _ in range(40)) if sample]
    assert [set(labels[i : i + 10]) for i in range(0, 40, 10)] == [{"0", "1"}, {"2", "3"}, {"4", "5"}, {"6", "7"}]
    assert labels[:10] != sorted(labels[:10])
    with pytest.raises(StopIteration):
        sensor.read()


@given(order=st.sampled_from(("given", "shuffled", "blocks")), seed=st.integers(0, 99))
def test_every_order_plays_every_sample_once(order: Order, seed: int) -> None:
    assert sorted(playing_order(LABELS, order, np.random.default_rng(seed))) == list(range(40))


def test_the_same_seed_repeats_every_bit_and_another_does_not() -> None:
    schedule = (Drift(at=5, rotate_deg=25.0, noise=0.5), Drift(at=20, nan_share=0.3))

    def run(seed: int) -> bytes:
        recording = Recording(X, LABELS, schedule, order="shuffled", supervised=0.5, seed=seed)
        return b"".join(repr(label).encode() + x.tobytes() for label, x in played(recording))

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_gain_offset_and_rotation_begin_at_their_sample() -> None:
    schedule = (Drift(at=10, gain=0.5, offset=2.0), Drift(at=20, rotate_deg=25.0))
    samples = [x for _, x in played(Recording(X, LABELS, schedule))]
    np.testing.assert_array_equal(samples[9], X[9])
    np.testing.assert_allclose(samples[10], 0.5 * X[10] + 2)
    np.testing.assert_allclose(samples[20], rotate(X[20].reshape(8, 8), 25.0).ravel())


def test_a_drift_over_many_samples_is_linear() -> None:
    schedule = (Drift(at=0), Drift(at=10, over=10, rotate_deg=30.0, gain=2.0))
    assert [drift_at(schedule, n).rotate_deg for n in (9, 10, 15, 20, 35)] == [0.0, 0.0, 15.0, 30.0, 30.0]
    assert drift_at(schedule, 15).gain == 1.5


def test_stuck_repeats_the_last_reading_and_recovers() -> None:
    recording = Recording(X, LABELS, faults=[parse_fault("stuck@sample=4,for=3")])
    samples = [x for _, x in played(recording)]
    for number in (4, 5, 6):
        np.testing.assert_array_equal(samples[number], X[3])
    np.testing.assert_array_equal(samples[7], X[7])


def test_nan_takes_its_share_of_values_and_no_more_than_its_time() -> None:
    recording = Recording(X, LABELS, faults=[parse_fault("nan@sample=10,for=20,share=0.25")])
    missing = [float(np.isnan(x).mean()) for _, x in played(recording)]
    assert max(missing[:10] + missing[30:]) == 0.0
    assert 0.2 < np.mean(missing[10:30]) < 0.3


def test_labels_come_only_for_the_supervised_share_but_truth_is_known() -> None:
    recording = Recording(X, LABELS, supervised=0.0)
    assert recording.read().label is None
    assert recording.truth == LABELS[0]
    assert all(label is not None for label, _ in played(Recording(X, LABELS)))


def test_the_recording_itself_is_not_touched() -> None:
    before = X.copy()
    played(Recording(X, LABELS, (Drift(at=0, gain=3.0, nan_share=1.0),)))
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Recording(X, LABELS[:-1]), "39 labels for 40 samples"),
        (lambda: Recording(X[:, :63], LABELS, (Drift(at=0, rotate_deg=1.0),)), "no square image"),
        (lambda: Recording(X, LABELS, (Drift(at=9), Drift(at=3))), "drifts at 9, 3"),
        (lambda: Drift(at=-1), "drift at -1"),
        (lambda: Drift(at=0, nan_share=1.5), "nan_share 1.5"),
    ],
)
def test_impossible_recordings_are_refused(make: object, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("power-cut@write=120", {"write": 120}),
        ("outage@t=60,for=40", {"t": 60, "for": 40}),
        ("clock-jump@t=5,by=-3600", {"t": 5, "by": -3600}),
        ("stuck@sample=7", {"sample": 7, "for": float("inf")}),
        ("nan@sample=7,share=0.5", {"sample": 7, "for": float("inf"), "share": 0.5}),
        ("bit-flip@write=3", {"write": 3, "bits": 1}),
    ],
)
def test_faults_are_read_and_written_alike(text: str, arguments: dict[str, float]) -> None:
    fault = parse_fault(text)
    assert dict(fault.arguments) == arguments
    assert parse_fault(str(fault)) == fault


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("fire@t=1", "fault 'fire' is unknown: expected one of power-cut"),
        ("", "fault '' is unknown"),
        ("outage@t=60", "fault outage lacks for: write outage@t=N,for=N"),
        ("outage@t=60,for=40,for=2", "for is given twice"),
        ("outage@t=60,volts=3", "no argument 'volts'"),
        ("outage@t=soon,for=1", "t 'soon' is not a number"),
        ("outage@t=nan,for=1", r"t nan is not in \[0, inf\]"),
        ("outage@t=-1,for=1", "t -1 is not in"),
        ("power-cut@write=0", r"write 0 is not in \[1, inf\]"),
        ("power-cut@write=1.5", "write 1.5 is not whole"),
        ("nan@sample=1,share=2", r"share 2 is not in \[0, 1\]"),
    ],
)
def test_malformed_faults_are_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        parse_fault(text)


def test_the_list_has_a_line_for_every_fault() -> None:
    lines = list_faults()
    assert len(lines) == len(FAULTS)
    assert all(line.startswith(usage(kind)) for line, kind in zip(lines, FAULTS, strict=True))
