"""Layers at work, one family a file, and the table of all of them. `docs/operators.md` has a heading for each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from edgerun.arrays import AnyArray
from edgerun.layers import Dense, Layer, Lif, Readout
from edgerun.ops.base import LayerRun
from edgerun.ops.dense import DenseRun
from edgerun.ops.spiking import LifRun, ReadoutRun

OPS: Final[Mapping[type[Layer], Callable[[Any, Mapping[str, AnyArray], tuple[int, ...]], LayerRun]]] = MappingProxyType(
    {Dense: DenseRun, Lif: LifRun, Readout: ReadoutRun}
)

__all__ = ["OPS", "DenseRun", "LayerRun", "LifRun", "ReadoutRun"]
