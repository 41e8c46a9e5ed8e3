"""The kinds of layers, one family a file. `Layer` is what a manifest may list; `edgerun/ops` runs each of them."""

from __future__ import annotations

from typing import TypeAlias

from edgerun.layers.base import LayerRecord
from edgerun.layers.dense import Dense
from edgerun.layers.spiking import Lif, Readout

Layer: TypeAlias = Dense | Lif | Readout

__all__ = ["Dense", "Layer", "LayerRecord", "Lif", "Readout"]
