"""Float layers, one family a file, and the table of all of them."""

from __future__ import annotations

from typing import Final

from exporters.nodes.base import Affine, FloatLayer, Quantised, Range, StatefulLayer
from exporters.nodes.dense import FloatDense
from exporters.nodes.recurrent import FloatGru, FloatLstm
from exporters.nodes.spiking import FloatLif, FloatReadout, Reset

NODES: Final[tuple[type[FloatLayer], ...]] = (FloatDense, FloatLif, FloatReadout)

__all__ = [
    "NODES",
    "Affine",
    "FloatDense",
    "FloatGru",
    "FloatLayer",
    "FloatLif",
    "FloatLstm",
    "FloatReadout",
    "Quantised",
    "Range",
    "Reset",
    "StatefulLayer",
]
