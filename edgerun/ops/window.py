"""The padded copy of an image that windows look at."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from edgerun.arrays import F32, AnyArray
from edgerun.kernels.window import windows
from edgerun.layers.window import Sliding


class Padded:
    """image (n, h, w, c), n samples with their padding, which holds `fill` for good."""

    def __init__(self, spec: Sliding, batch: tuple[int, ...], fill: int, dtype: DTypeLike) -> None:
        (h, w, _), (top, left, _, _) = spec.input_shape, spec.padding
        self._spec = spec
        self.image: AnyArray = np.full((math.prod(batch), *spec.padded_shape), fill, dtype)
        self._inside = self.image[:, top : top + h, left : left + w]

    def load(self, x: F32) -> None:
        """Take over flat images (..., h * w * c)."""
        np.copyto(self._inside, x.reshape(self._inside.shape))

    def windows(self) -> AnyArray:
        """(n, oh, ow, kh, kw, c)  a view"""
        return windows(self.image, self._spec.kernel, self._spec.stride, self._spec.dilation)
