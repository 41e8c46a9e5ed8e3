"""Samples in another unit than the model was trained on: one line where something shows it, silence elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from edgerun.arrays import AnyArray
from edgerun.errors import DataError
from exporters.data import Samples
from exporters.float_net import FloatNet
from exporters.nodes import Affine, FloatDense
from exporters.units import byte_notes, fixed_notes

X = np.random.default_rng(3).integers(0, 256, (60, 2)).astype(np.uint8)
Y = (X[:, 0] > 128).astype(np.int64)


def net(threshold: float, **given: object) -> FloatNet:
    """Class 1 where the first value is above the threshold."""
    weight, bias = np.array([[0.0, 0.0], [1.0, 0.0]], np.float32), np.array([0.0, -threshold], np.float32)
    return FloatNet("one", (2,), (FloatDense("a", weight, bias),), **given)  # type: ignore[arg-type]  # short


UNIT, BYTES = net(128.5 / 255), net(128.5)
NAMED = {
    "bytes for 0 to 1": (UNIT, X, "on the same samples divided by 255, 100.00%"),
    "numbers for 0 to 1": (UNIT, X.astype(np.float32), "on the same samples divided by 255, 100.00%"),
    "0 to 1 for bytes": (BYTES, (X / 255).astype(np.float32), "on the same samples times 255, 100.00%"),
}


@pytest.mark.parametrize(("model", "x", "words"), NAMED.values(), ids=NAMED)
def test_labels_tell_the_unit(model: FloatNet, x: AnyArray, words: str) -> None:
    (note,) = byte_notes(model, Samples(x, Y))
    assert words in note


SILENT = {
    "bytes for bytes": (BYTES, X),
    "0 to 1 for 0 to 1": (UNIT, (X / 255).astype(np.float32)),
    "quantised": (UNIT, (X >> 1).astype(np.int8)),
    "below 0": (UNIT, X.astype(np.float32) - 100),
}


@pytest.mark.parametrize(("model", "x"), SILENT.values(), ids=SILENT)
def test_nothing_is_said_without_a_sign(model: FloatNet, x: AnyArray) -> None:
    assert byte_notes(model, Samples(x, Y)) == ()


def test_bytes_without_labels_are_named() -> None:
    nobody = np.full(len(X), -1)
    assert "samples are uint8: the model sees 0 to 2" in byte_notes(UNIT, Samples(X, nobody))[0]
    assert byte_notes(UNIT, Samples(X.astype(np.float32), nobody)) == ()


def test_a_file_that_fixes_its_input_refuses_what_cannot_be_right() -> None:
    fixed = net(0.5, input=Affine(1 / 255, -128))
    with pytest.raises(DataError, match="the values reach from 0 to 249, the model's input from 0 to 1: give"):
        fixed_notes("d.npz", fixed, Samples(X, Y))
    assert fixed_notes("d.npz", fixed, Samples((X / 255).astype(np.float32), Y)) == ()
    assert "are cut off" in fixed_notes("d.npz", fixed, Samples((X / 200).astype(np.float32), Y))[0]
    assert fixed_notes("d.npz", UNIT, Samples(X, Y)) == ()
