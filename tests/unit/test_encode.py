"""Encoders hand over what a sample holds, less their offset, in the order of time."""

from __future__ import annotations

import numpy as np
import pytest

from edgerun import encode
from edgerun.spec import ClassTable, Constant, Dense, Direct, Encoder, Frames, InputSpec, Manifest

Q = np.arange(2 * 12, dtype=np.int16).reshape(2, 12)  # two samples of four moments of three values


def moments(encoder: Encoder, batch: tuple[int, ...]) -> np.ndarray:
    width = 3 if isinstance(encoder, Frames) else 12
    manifest = Manifest(
        name="m",
        input=InputSpec(shape=(4, 3), dtype="uint8"),
        encoder=encoder,
        layers=(Dense(name="d", inputs=width, outputs=2),),
        classes=ClassTable(names=("a", "b"), capacity=2),
    )
    return encode.coder(manifest, batch).encode(Q if batch else Q[0]).copy()


@pytest.mark.parametrize("offset", [0, 5, 128])
def test_a_recording_comes_moment_by_moment_less_its_offset(offset: int) -> None:
    together = moments(Frames(offset=offset), (2,))
    assert together.shape == (4, 2, 3)
    np.testing.assert_array_equal(together[2, 1], Q[1, 6:9] - offset)
    np.testing.assert_array_equal(moments(Frames(offset=offset), ()), together[:, 0])


@pytest.mark.parametrize(("encoder", "steps"), [(Direct(offset=128), 1), (Constant(steps=6, offset=128), 6)])
def test_a_still_sample_is_the_same_at_every_step_less_its_offset(encoder: Encoder, steps: int) -> None:
    found = moments(encoder, (2,))
    assert found.shape == (steps, 2, 12)
    for moment in found:
        np.testing.assert_array_equal(moment, Q - 128)
