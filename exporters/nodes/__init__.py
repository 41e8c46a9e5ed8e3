"""Float layers, one family a file, and the table of all of them."""

from __future__ import annotations

from typing import Final

from exporters.nodes.base import Affine, FloatLayer, Quantised, Range, StatefulLayer
from exporters.nodes.conv import FloatConv, FloatDepthwise
from exporters.nodes.dense import FloatDense
from exporters.nodes.elementwise import UNARY, FloatAdd, FloatMul, FloatUnary
from exporters.nodes.lif import FloatLif, FloatReadout
from exporters.nodes.norm import FloatLayerNorm
from exporters.nodes.pool import FloatPool
from exporters.nodes.recurrent import FloatGru, FloatLstm, FloatRnn
from exporters.nodes.shape import FloatConcat, FloatPad, FloatSlice, FloatTake, FloatTranspose
from exporters.nodes.softmax import FloatSoftmax
from exporters.nodes.spiking import FloatAlphaCells, FloatCells, FloatIntegrators, FloatSLstm, Reset
from exporters.nodes.synapses import FloatConvSum, FloatDenseSum, FloatSumPool, FloatTotal

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
    FloatTake,
    FloatSoftmax,
    FloatLayerNorm,
    FloatGru,
    FloatLstm,
    FloatRnn,
    FloatDenseSum,
    FloatConvSum,
    FloatSumPool,
    FloatTotal,
    FloatCells,
    FloatAlphaCells,
    FloatIntegrators,
    FloatSLstm,
)

__all__ = [
    "NODES",
    "UNARY",
    "Affine",
    "FloatAdd",
    "FloatAlphaCells",
    "FloatCells",
    "FloatConcat",
    "FloatConv",
    "FloatConvSum",
    "FloatDense",
    "FloatDenseSum",
    "FloatDepthwise",
    "FloatGru",
    "FloatIntegrators",
    "FloatLayer",
    "FloatLayerNorm",
    "FloatLif",
    "FloatLstm",
    "FloatMul",
    "FloatPad",
    "FloatPool",
    "FloatReadout",
    "FloatRnn",
    "FloatSLstm",
    "FloatSlice",
    "FloatSoftmax",
    "FloatSumPool",
    "FloatTake",
    "FloatTotal",
    "FloatTranspose",
    "FloatUnary",
    "Quantised",
    "Range",
    "Reset",
    "StatefulLayer",
]
