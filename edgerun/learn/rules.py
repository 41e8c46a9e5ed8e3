"""What a rule does, and the table of all: a window and a label in, the factors of each plastic tensor's gradient out.

A rule holds constants and views of its tape; weights are read when a lesson comes. What follows (consolidation, limits,
writing) is the chain of `stages`, the same for every rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

from edgerun.arrays import I16, I32, I64, Bool, Tensors
from edgerun.learn import tape
from edgerun.learn.backprop import BackpropRule
from edgerun.learn.eprop import EPropOnlineRule, EPropRule, EPropValuesRule
from edgerun.learn.il_prox import IlProxRule
from edgerun.learn.inner_step import InnerStepRule
from edgerun.learn.predictive import PredictiveCodingRule
from edgerun.learn.sequential_il import SequentialIlRule
from edgerun.learn.stages import Factors
from edgerun.learn.superspike import SuperSpikeRule
from edgerun.network import Network
from edgerun.rules import EProp, EPropOnline, EPropValues, RuleRecord
from edgerun.rules.dense import Backprop, IlProx, PredictiveCoding, SequentialIl
from edgerun.rules.inner import InnerStep
from edgerun.rules.superspike import SuperSpike
from edgerun.spec import Manifest


class Recorded(Protocol):
    """A window as a rule has recorded it."""

    @property
    def logits(self) -> I64:
        """(k,)  what the error is taken from, Q7.24."""


class LearningRule(Protocol):
    """One rule, bound to a bundle's layers. Its constructor takes (manifest, tensors, memory) and raises SpecError."""

    def record(self, network: Network, q: I16) -> Any:
        """Run one window and keep what the rule needs, a `Recorded`.    q  (size,)"""

    def error(self, error: I32, recorded: Any, label: int, in_play: Bool) -> int:
        """error <- p - onehot over the classes in play, Q0.15; returns p(label).    error, in_play  (k,)"""

    def factors(self, recorded: Any, error: I32) -> Mapping[str, Factors]:
        """The gradient of each plastic tensor, in the order of the record's rates."""


class ValueRule(LearningRule, Protocol):
    """A rule whose record says that it does not classify."""

    def miss(self, error: I32, recorded: Any, target: I16) -> int:
        """error <- what was missed of the target, Q0.15; returns how near it was, 2**15 for no miss at all."""


class OnlineRule(LearningRule, Protocol):
    """A rule whose record says that it changes weights within a window."""

    def steps(self, network: Network, q: I16, label: int, in_play: Bool) -> Iterator[tuple[int, Mapping[str, Factors]]]:
        """Run one window; p(label), Q0.15, and the gradients after each step that has a target, to be acted on."""


RULES: Final[Mapping[type[RuleRecord], Callable[[Manifest, Tensors, Tensors], LearningRule]]] = MappingProxyType(
    {
        Backprop: BackpropRule,
        IlProx: IlProxRule,
        SequentialIl: SequentialIlRule,
        PredictiveCoding: PredictiveCodingRule,
        EProp: EPropRule,
        EPropOnline: EPropOnlineRule,
        EPropValues: EPropValuesRule,
        InnerStep: InnerStepRule,
        SuperSpike: SuperSpikeRule,
    }
)


def rule_of(manifest: Manifest, tensors: Tensors, memory: Tensors | None = None) -> LearningRule | None:
    """The rule of a bundle, or None. Raises SpecError where its layers do not allow it.

    memory  views of `tape.slots` and `tape.carriers`, where the rule works; its own where not given
    """
    rule = manifest.learning.rule
    if rule is None:
        return None
    return RULES[type(rule)](manifest, tensors, tape.room(manifest) if memory is None else memory)
