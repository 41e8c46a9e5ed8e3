"""The factory's images for the training scripts: the demo's own split, flattened to (n, 64)."""

from __future__ import annotations

import numpy as np

from deploy.demo.digits import FACTORY_CLASSES, Digits
from deploy.demo.digits import load as load_images

__all__ = ["FACTORY_CLASSES", "Digits", "load"]


def load() -> tuple[Digits, Digits]:
    """(factory, field), images as rows of 64."""
    factory, field = load_images()
    return (
        Digits(factory.x.reshape(-1, 64), factory.y),
        Digits(np.ascontiguousarray(field.x.reshape(-1, 64)), field.y),
    )
