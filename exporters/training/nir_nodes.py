"""Leaky neurons as NIR has them, for nets that are trained here; what NIR has no field for travels as metadata."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np

DT = 1e-4  # seconds a step, where NIR wants time constants
NEVER = 1e6  # a threshold that no readout comes to


def leaky(shape: int | tuple[int, ...], leak: float, threshold: float, **words: Any) -> nir.LIF:
    """Neurons that keep `leak` of their membrane each step and get all of their input; a reset acts a step later."""
    each = np.ones(shape)
    return nir.LIF(
        tau=each * DT / (1 - leak),
        r=each / (1 - leak),
        v_leak=each * 0,
        v_threshold=each * threshold,
        v_reset=each * 0,
        metadata={"reset_delay": 1, **words},
    )
