"""Has the stream changed? Page-Hinkley on the prequential error: a mean that has risen and stays risen.

    m_t = sum_i (e_i - mean_i - delta);   statistic = m_t - min m;   alarm where statistic > threshold      (Page 1954)

Statistics may be float: they decide nothing that is learned; the boundary that an alarm causes is journalled.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class PageHinkley:
    """delta: the rise that is tolerated; threshold: how much evidence an alarm takes; warm_up: errors seen first."""

    delta: float = 0.05
    threshold: float = 1.5
    warm_up: int = 8
    count: int = 0
    mean: float = 0.0
    total: float = 0.0
    least: float = 0.0

    @property
    def statistic(self) -> float:
        return self.total - self.least

    def update(self, error: float) -> bool:
        """Take one error in [0, 1]; True = alarm, after which it starts anew."""
        self.count += 1
        self.mean += (error - self.mean) / self.count
        self.total += error - self.mean - self.delta
        self.least = min(self.least, self.total)
        if self.count < self.warm_up or self.statistic <= self.threshold:
            return False
        self.count, self.mean, self.total, self.least = 0, 0.0, 0.0, 0.0
        return True
