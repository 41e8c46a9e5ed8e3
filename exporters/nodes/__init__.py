"""Float layers, one family a file, and the table of all of them."""

from __future__ import annotations

from typing import Final

from exporters.nodes.base import Affine, FloatLayer, Quantised, Range, StatefulLayer
from exporters.nodes.conv import FloatConv, FloatDepthwise
from exporters.nodes.dense import FloatDense
from exporters.nodes.pool import FloatPool
from exporters.nodes.recurrent import FloatGru, FloatLstm
from exporters.nodes.spiking import FloatLif, FloatReadout, Reset

NODES: Final[tuple[type[FloatLayer], ...]] = (FloatDense, FloatConv, FloatDepthwise, FloatPool, FloatLif, FloatReadout)

__all__ = [
    "NODES",
    "Affine",
    "FloatConv",
    "FloatDense",
    "FloatDepthwise",
    "FloatGru",
    "FloatLayer",
    "FloatLif",
    "FloatLstm",
    "FloatPool",
    "FloatReadout",
    "Quantised",
    "Range",
    "Reset",
    "StatefulLayer",
]
