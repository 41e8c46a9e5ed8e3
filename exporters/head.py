"""The prototype head that an export starts with: whitening from the shared within-class covariance, and class means.

    S = (1 - s) C + s diag(C) + floor I,  C pooled over classes      y = S^(-1/2) (z - mean), an ordinary int8 Dense

In whitened space the nearest class mean is the best linear rule for classes of equal covariance, and it stays one for a
class that nobody has seen yet (Snell et al. 2017). A fixed matrix: an integer multiply at run time. An embedding that
was trained for distances of its own, to tell classes apart that it never saw, does without: the covariance of the few
classes at hand bends them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np

from edgerun.arrays import F64, I64, Tensors
from edgerun.errors import DataError
from exporters.nodes import Affine, FloatDense, Quantised, Range

Whiten: TypeAlias = Literal["shared", "none"]
"""By what distance prototypes decide: the shared covariance's, or the features' own."""

SHRINK: Final = 0.3  # towards the diagonal
FLOOR: Final = 0.02  # of the mean variance: units that never fired on the calibration data must not shout later
KEEP: Final = 99.9  # per cent of the whitened values inside the int8 range


def whitening(z: I64, y: I64, reach: int) -> Quantised:
    """The Dense layer "whiten" for features z (m, d) of labelled samples y (m,); `reach` is the largest |z| possible.

    Raises DataError where no class has two samples.
    """
    matrix, mean = inverse_root(z.astype(np.float64), y)
    bias = -matrix @ mean
    limit = float(np.percentile(np.abs(z @ matrix.T + bias), KEEP)) or 1.0
    layer = FloatDense("whiten", matrix.astype(np.float32), bias.astype(np.float32))
    (made,) = layer.quantise((Affine(1.0, 0),), Range(-limit, limit))
    return replace(made, layer=msgspec.structs.replace(made.layer, input_bound=reach))


def inverse_root(z: F64, y: I64) -> tuple[F64, F64]:
    """S^(-1/2) (d, d) of the shrunk within-class covariance, and the mean of the class means (d,)."""
    classes = [z[y == k] for k in np.unique(y)]
    degrees = len(z) - len(classes)
    if degrees < 1:
        raise DataError("whitening needs at least one class with two samples")
    means = np.array([rows.mean(axis=0) for rows in classes])
    spread = sum(((rows - mean).T @ (rows - mean) for rows, mean in zip(classes, means, strict=True)), np.zeros(()))
    covariance = np.asarray(spread) / degrees
    variance = np.diag(covariance)
    floor = FLOOR * float(variance.mean()) or 1.0
    shrunk = (1 - SHRINK) * covariance + np.diag(SHRINK * variance + floor)
    values, vectors = np.linalg.eigh(shrunk)
    return (vectors / np.sqrt(values)) @ vectors.T, means.mean(axis=0)


def class_sums(z: I64, y: I64, classes: int) -> Tensors:
    """head.sum (classes, d), head.count and head.bias (classes,) of features z (m, d); zero for a class without one."""
    sums = np.zeros((classes, z.shape[1]), dtype=np.int64)
    np.add.at(sums, y, z)
    return {
        "head.sum": sums.astype(np.int32),
        "head.count": np.bincount(y.astype(np.intp), minlength=classes).astype(np.int32),
        "head.bias": np.zeros(classes, dtype=np.int32),
    }
