"""Every window of an image at once."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgerun.layers.window import Pair

Scalar = TypeVar("Scalar", bound=np.generic)


def windows(padded: NDArray[Scalar], kernel: Pair, stride: Pair, dilation: Pair) -> NDArray[Scalar]:
    """(..., oh, ow, kh, kw, c)  every window of an image that is already padded; a view, not a copy.

    padded  (..., h, w, c)
    """
    reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(-3, -2), writeable=True)
    view = view[..., :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]
    return np.moveaxis(view, -3, -1)
