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
    Dense,
    DenseSum,
    Depthwise,
    Gru,
    Layer,
    Lif,
    Lookup,
    Lstm,
    MaxPool,
    Mul,
    Pad,
    Readout,
    Slice,
    Total,
    Transpose,
)
from edgerun.ops.base import LayerRun
from edgerun.ops.conv import ConvRun, DepthwiseRun
from edgerun.ops.dense import DenseRun
from edgerun.ops.elementwise import AddRun, LookupRun, MulRun
from edgerun.ops.pool import AveragePoolRun, MaxPoolRun
from edgerun.ops.recurrent import GruRun, LstmRun
from edgerun.ops.shape import ConcatRun, PadRun, SliceRun, TransposeRun
from edgerun.ops.spiking import (
    AlphaCellsRun,
    CellsRun,
    DenseSumRun,
    LifRun,
    ReadoutRun,
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
        AlphaCells: AlphaCellsRun,
        Cells: CellsRun,
        DenseSum: DenseSumRun,
        Total: TotalRun,
        Concat: ConcatRun,
        Pad: PadRun,
        Slice: SliceRun,
        Transpose: TransposeRun,
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
    "DenseRun",
    "DenseSumRun",
    "DepthwiseRun",
    "GruRun",
    "LayerRun",
    "LifRun",
    "LookupRun",
    "LstmRun",
    "MaxPoolRun",
    "MulRun",
    "PadRun",
    "ReadoutRun",
    "SliceRun",
    "TotalRun",
    "TransposeRun",
]
