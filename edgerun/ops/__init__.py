"""Layers at work, one family a file, and the table of all of them. `docs/operators.md` has a heading for each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from edgerun.arrays import AnyArray
from edgerun.layers import (
    Add,
    AlphaCells,
    AveragePool,
    Cells,
    Concat,
    Conv,
    ConvSum,
    Dense,
    DenseSum,
    Depthwise,
    Gru,
    Integrators,
    Layer,
    LayerNorm,
    Lif,
    LogSoftmax,
    Lookup,
    Lstm,
    LstmQ12,
    MaxPool,
    Mul,
    Pad,
    Patterns,
    Readout,
    Rnn,
    Slice,
    SLstm,
    Softmax,
    SumPool,
    Take,
    Total,
    Transpose,
)
from edgerun.ops.base import LayerRun
from edgerun.ops.conv import ConvRun, DepthwiseRun
from edgerun.ops.dense import DenseRun
from edgerun.ops.elementwise import AddRun, LookupRun, MulRun
from edgerun.ops.norm import LayerNormRun
from edgerun.ops.patterns import PatternsRun
from edgerun.ops.pool import AveragePoolRun, MaxPoolRun
from edgerun.ops.recurrent import GruRun, LstmQ12Run, LstmRun, RnnRun
from edgerun.ops.shape import ConcatRun, PadRun, SliceRun, TakeRun, TransposeRun
from edgerun.ops.softmax import LogSoftmaxRun, SoftmaxRun
from edgerun.ops.spiking import (
    AlphaCellsRun,
    CellsRun,
    ConvSumRun,
    DenseSumRun,
    IntegratorsRun,
    LifRun,
    ReadoutRun,
    SLstmRun,
    SumPoolRun,
    TotalRun,
)

OPS: Final[Mapping[type[Layer], Callable[[Any, Mapping[str, AnyArray], tuple[int, ...]], LayerRun]]] = MappingProxyType(
    {
        Dense: DenseRun,
        Conv: ConvRun,
        Depthwise: DepthwiseRun,
        MaxPool: MaxPoolRun,
        AveragePool: AveragePoolRun,
        Lif: LifRun,
        Readout: ReadoutRun,
        Add: AddRun,
        Mul: MulRun,
        Lookup: LookupRun,
        Gru: GruRun,
        Lstm: LstmRun,
        LstmQ12: LstmQ12Run,
        Rnn: RnnRun,
        AlphaCells: AlphaCellsRun,
        Cells: CellsRun,
        DenseSum: DenseSumRun,
        Total: TotalRun,
        Concat: ConcatRun,
        Pad: PadRun,
        Slice: SliceRun,
        Take: TakeRun,
        Transpose: TransposeRun,
        Integrators: IntegratorsRun,
        LogSoftmax: LogSoftmaxRun,
        Softmax: SoftmaxRun,
        ConvSum: ConvSumRun,
        SumPool: SumPoolRun,
        SLstm: SLstmRun,
        LayerNorm: LayerNormRun,
        Patterns: PatternsRun,
    }
)

__all__ = [
    "OPS",
    "AddRun",
    "AlphaCellsRun",
    "AveragePoolRun",
    "CellsRun",
    "ConcatRun",
    "ConvRun",
    "ConvSumRun",
    "DenseRun",
    "DenseSumRun",
    "DepthwiseRun",
    "GruRun",
    "IntegratorsRun",
    "LayerNormRun",
    "LayerRun",
    "LifRun",
    "LogSoftmaxRun",
    "LookupRun",
    "LstmQ12Run",
    "LstmRun",
    "MaxPoolRun",
    "MulRun",
    "PadRun",
    "PatternsRun",
    "ReadoutRun",
    "RnnRun",
    "SLstmRun",
    "SliceRun",
    "SoftmaxRun",
    "SumPoolRun",
    "TakeRun",
    "TotalRun",
    "TransposeRun",
]
