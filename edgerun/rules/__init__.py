"""How weights may learn on a device: one record a rule, as `edgerun.layers` has one a layer.

base        what every rule has: rates, thresholds, what it costs          dense   chains of dense layers
eprop       spiking layers before a readout                                inner   a readout from its own traces
superspike  spike trains as targets
"""

from __future__ import annotations

from typing import TypeAlias

from edgerun.rules.base import ALL, LayerOf, PlasticRate, RuleRecord
from edgerun.rules.dense import Backprop, Gain, IlProx, MeanQuotient, PredictiveCoding, SequentialIl
from edgerun.rules.eprop import EProp, EPropOnline, EPropValues
from edgerun.rules.inner import InnerStep
from edgerun.rules.superspike import Population, RMaxProp, SuperSpike

Rule: TypeAlias = (
    EProp | EPropValues | EPropOnline | SuperSpike | InnerStep | Backprop | IlProx | SequentialIl | PredictiveCoding
)
Normaliser: TypeAlias = RMaxProp | MeanQuotient

__all__ = [
    "ALL",
    "Backprop",
    "EProp",
    "EPropOnline",
    "EPropValues",
    "Gain",
    "IlProx",
    "InnerStep",
    "LayerOf",
    "MeanQuotient",
    "Normaliser",
    "PlasticRate",
    "Population",
    "PredictiveCoding",
    "RMaxProp",
    "Rule",
    "RuleRecord",
    "SequentialIl",
    "SuperSpike",
]
