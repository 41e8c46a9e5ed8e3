"""Indices as `np.take` wants them, on machines of 64 bits and of 32."""

import numpy as np

from edgerun.arrays import places


def test_indices_of_this_machine_are_taken_as_they_are() -> None:
    index = np.array([-5, 0, 99], np.intp)
    assert places(index, 3) is index


def test_others_are_cut_before_they_are_narrowed() -> None:
    index = np.array([-(2**40), -1, 0, 2, 3, 2**40 + 1], dtype=">i8")  # as foreign here as int64 is on 32 bits
    found = places(index, 3)
    assert found.dtype == np.intp
    assert found.tolist() == [0, 0, 0, 2, 2, 2]
