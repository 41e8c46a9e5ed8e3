"""Layers at work, one family a file, and the table of all of them. `docs/operators.md` has a heading for each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from edgerun.arrays import AnyArray
from edgerun.layers import (
    Add,
    Dense,
    Gru,
    Layer,
    Lif,
    Lookup,
    Lstm,
    Mul,
    Readout,
)
from edgerun.ops.base import LayerRun
from edgerun.ops.dense import DenseRun
from edgerun.ops.elementwise import AddRun, LookupRun, MulRun
from edgerun.ops.recurrent import GruRun, LstmRun
from edgerun.ops.spiking import LifRun, ReadoutRun

OPS: Final[Mapping[type[Layer], Callable[[Any, Mapping[str, AnyArray], tuple[int, ...]], LayerRun]]] = MappingProxyType(
    {
        Dense: DenseRun,
        Lif: LifRun,
        Readout: ReadoutRun,
        Add: AddRun,
        Mul: MulRun,
        Lookup: LookupRun,
        Gru: GruRun,
        Lstm: LstmRun,
    }
)

__all__ = ["OPS", "AddRun", "DenseRun", "GruRun", "LayerRun", "LifRun", "LookupRun", "LstmRun", "MulRun", "ReadoutRun"]
