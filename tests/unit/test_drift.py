"""Page-Hinkley: silent while errors keep their rate, loud soon after they rise, and it starts anew."""

import numpy as np

from edgerun.learn.drift import PageHinkley


def alarms(errors: list[float], detector: PageHinkley) -> list[int]:
    return [i for i, error in enumerate(errors) if detector.update(error)]


def test_a_steady_stream_raises_no_alarm() -> None:
    assert alarms([0.0] * 500, PageHinkley()) == []
    assert alarms([float(i % 50 == 49) for i in range(500)], PageHinkley()) == []


def test_a_rise_is_told_within_a_few_samples() -> None:
    for seed in range(20):
        after = (np.random.default_rng(seed).random(60) < 0.6).astype(float)
        found = alarms([0.0] * 40 + after.tolist(), PageHinkley())
        assert found
        assert 40 < found[0] <= 50


def test_the_statistic_is_that_of_the_definition() -> None:
    detector, errors = PageHinkley(threshold=1e9), np.random.default_rng(3).random(80)
    sums, mean, total = [], 0.0, 0.0
    for n, error in enumerate(errors, 1):
        mean += (error - mean) / n
        total += error - mean - detector.delta
        sums.append(total)
        detector.update(float(error))
        assert np.isclose(detector.statistic, sums[-1] - min(0.0, *sums))


def test_an_alarm_begins_a_new_count_and_the_warm_up_waits() -> None:
    detector = PageHinkley(warm_up=8)
    found = alarms([0.0] * 10 + [1.0] * 3 + [0.0] * 30, detector)
    assert len(found) == 1
    assert detector.count == 42 - found[0]
    assert alarms([0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0], PageHinkley(warm_up=8)) == []
