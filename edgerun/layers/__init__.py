"""The kinds of layers, one family a file. `Layer` is what a manifest may list; `edgerun/ops` runs each of them."""

from __future__ import annotations

from typing import TypeAlias

from edgerun.layers.base import LayerRecord
from edgerun.layers.dense import Dense
from edgerun.layers.elementwise import Add, Lookup, Mul
from edgerun.layers.recurrent import Gru, Lstm
from edgerun.layers.spiking import Lif, Readout

Layer: TypeAlias = Dense | Lif | Readout | Add | Mul | Lookup | Gru | Lstm

__all__ = ["Add", "Dense", "Gru", "Layer", "LayerRecord", "Lif", "Lookup", "Lstm", "Mul", "Readout"]
