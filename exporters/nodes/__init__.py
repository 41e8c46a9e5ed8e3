"""Float layers, one family a file, and the table of all of them."""

from __future__ import annotations

from typing import Final

from exporters.nodes.base import Affine, FloatLayer, Quantised, Range, StatefulLayer
from exporters.nodes.conv import FloatConv, FloatDepthwise
from exporters.nodes.dense import FloatDense
from exporters.nodes.elementwise import UNARY, FloatAdd, FloatMul, FloatUnary
from exporters.nodes.norm import FloatLayerNorm
from exporters.nodes.pool import FloatPool
from exporters.nodes.recurrent import FloatGru, FloatLstm
from exporters.nodes.shape import FloatConcat, FloatPad, FloatSlice, FloatTranspose
from exporters.nodes.softmax import FloatSoftmax
from exporters.nodes.spiking import FloatLif, FloatReadout, Reset

NODES: Final[tuple[type[FloatLayer], ...]] = (
    FloatDense,
    FloatConv,
    FloatDepthwise,
    FloatPool,
    FloatLif,
    FloatReadout,
    FloatAdd,
    FloatMul,
    FloatUnary,
    FloatConcat,
    FloatTranspose,
    FloatPad,
    FloatSlice,
    FloatSoftmax,
    FloatGru,
    FloatLstm,
)

__all__ = [
    "NODES",
    "UNARY",
    "Affine",
    "FloatAdd",
    "FloatConcat",
    "FloatConv",
    "FloatDense",
    "FloatDepthwise",
    "FloatGru",
    "FloatLayer",
    "FloatLayerNorm",
    "FloatLif",
    "FloatLstm",
    "FloatMul",
    "FloatPad",
    "FloatPool",
    "FloatReadout",
    "FloatSlice",
    "FloatSoftmax",
    "FloatTranspose",
    "FloatUnary",
    "Quantised",
    "Range",
    "Reset",
    "StatefulLayer",
]
