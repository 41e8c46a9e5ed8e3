"""What a net keeps while it learns one task after the other, as figures of one accuracy matrix.

    R[i][j]  accuracy on task j after training through task i, a share; N tasks, so R is (N, N)
    b[j]     accuracy of the untrained net on task j

Every function takes R as rows of numbers and raises DataError where it is no such matrix. Figures that compare tasks
are None for a single one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from edgerun.arrays import F64, AnyArray
from edgerun.errors import DataError

Rows: TypeAlias = Sequence[Sequence[float]] | F64


def checked(matrix: Rows) -> F64:
    """R as an array. Raises DataError unless it is square, not empty, and all of it lies in [0, 1]."""
    widths = {len(row) for row in matrix}
    if not len(matrix) or widths != {len(matrix)}:
        raise DataError(f"matrix has {len(matrix)} rows of {sorted(widths)} columns, must be square and not empty")
    return _shares("matrix", matrix)


def accuracy(matrix: Rows) -> float:
    """ACC: the mean over all tasks after the last one.    (1/N) sum_j R[N][j]"""
    return float(checked(matrix)[-1].mean())


def session_average(matrix: Rows) -> float:
    """The mean over sessions of the accuracy on all tasks so far.    (1/N) sum_i mean_{j<=i} R[i][j]"""
    r = checked(matrix)
    return float(np.mean([row[: i + 1].mean() for i, row in enumerate(r)]))


def backward_transfer(matrix: Rows) -> float | None:
    """BWT: what later tasks did to earlier ones, negative where they harmed.    mean over j<N of R[N][j] - R[j][j]"""
    r = checked(matrix)
    return float((r[-1] - r.diagonal())[:-1].mean()) if len(r) > 1 else None


def forward_transfer(matrix: Rows, untrained: Sequence[float] | F64) -> float | None:
    """FWT: what earlier tasks did for one not yet trained.    mean over j>1 of R[j-1][j] - b[j]"""
    r = checked(matrix)
    if len(untrained) != len(r):
        raise DataError(f"untrained has {len(untrained)} accuracies, the matrix {len(r)} tasks")
    gained = r.diagonal(1) - _shares("untrained", untrained)[1:]
    return float(gained.mean()) if len(r) > 1 else None


def forgetting(matrix: Rows) -> float | None:
    """What was lost of the best there ever was, at least 0.    mean over j<N of max_{j<=i<=N} R[i][j] - R[N][j]"""
    r = checked(matrix)
    lost = [r[j:, j].max() - r[-1, j] for j in range(len(r) - 1)]
    return float(np.mean(lost)) if lost else None


def _shares(name: str, values: Rows | Sequence[float]) -> F64:
    """Values as an array. Raises DataError for one outside [0, 1], NaN included."""
    shares = np.array(values, np.float64)
    outside = ~((shares >= 0) & (shares <= 1))
    if outside.any():
        raise DataError(f"{name} holds {shares[outside][0]}, an accuracy is in [0, 1]")
    return shares


# ------------------------------------------------------------------ values


def r_squared(found: AnyArray, wanted: AnyArray) -> float | None:
    """R^2, the mean over outputs of 1 - sum(found - wanted)**2 / sum(wanted - mean)**2; None where one never varies.

    found, wanted  (n, k)
    """
    spread = np.square(wanted - wanted.mean(axis=0)).sum(axis=0) if len(wanted) else np.zeros(1)
    if not (spread > 0).all():
        return None
    return float((1 - np.square(found - wanted).sum(axis=0) / spread).mean())


def relative_error(found: AnyArray, wanted: AnyArray) -> float | None:
    """nRMSE: root mean square of found - wanted over the standard deviation of wanted; None where that is 0.

    found, wanted  (n, k); each output about its own mean
    """
    spread = float(np.square(wanted - wanted.mean(axis=0)).mean()) if len(wanted) else 0.0
    return float(np.sqrt(np.square(found - wanted).mean() / spread)) if spread > 0 else None
