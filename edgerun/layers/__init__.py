"""The kinds of layers, one family a file. `Layer` is what a manifest may list; `edgerun/ops` runs each of them."""

from __future__ import annotations

from typing import TypeAlias

from edgerun.layers.base import LayerRecord
from edgerun.layers.conv import Conv, Depthwise
from edgerun.layers.dense import Dense
from edgerun.layers.elementwise import Add, Lookup, Mul
from edgerun.layers.norm import LayerNorm
from edgerun.layers.patterns import Patterns
from edgerun.layers.pool import AveragePool, MaxPool
from edgerun.layers.recurrent import Gru, Lstm, LstmQ12, Rnn
from edgerun.layers.shape import Concat, Pad, Slice, Take, Transpose
from edgerun.layers.softmax import LogSoftmax, Softmax
from edgerun.layers.spiking import (
    AlphaCells,
    Cells,
    ConvSum,
    DenseSum,
    Integrators,
    Lif,
    Readout,
    SLstm,
    SumPool,
    Total,
)

Layer: TypeAlias = (
    Dense
    | Conv
    | Depthwise
    | MaxPool
    | AveragePool
    | Lif
    | Readout
    | Add
    | Mul
    | Lookup
    | Gru
    | Lstm
    | LstmQ12
    | Rnn
    | AlphaCells
    | Cells
    | DenseSum
    | Total
    | Concat
    | Pad
    | Slice
    | Take
    | Transpose
    | Integrators
    | LogSoftmax
    | Softmax
    | ConvSum
    | SumPool
    | SLstm
    | LayerNorm
    | Patterns
)

__all__ = [
    "Add",
    "AlphaCells",
    "AveragePool",
    "Cells",
    "Concat",
    "Conv",
    "ConvSum",
    "Dense",
    "DenseSum",
    "Depthwise",
    "Gru",
    "Integrators",
    "Layer",
    "LayerNorm",
    "LayerRecord",
    "Lif",
    "LogSoftmax",
    "Lookup",
    "Lstm",
    "LstmQ12",
    "MaxPool",
    "Mul",
    "Pad",
    "Patterns",
    "Readout",
    "Rnn",
    "SLstm",
    "Slice",
    "Softmax",
    "SumPool",
    "Take",
    "Total",
    "Transpose",
]
