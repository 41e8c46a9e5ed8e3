"""The neurons of one NIR node in discrete time: decays, gains, thresholds, resets, and the layer that they become."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import nir
import numpy as np

from edgerun.arrays import F32, F64
from edgerun.errors import ModelError
from exporters.data import first_line
from exporters.nir_graph import Wiring, parameter, short
from exporters.nir_maps import first_to_last, stretched
from exporters.nodes import FloatCells, FloatIntegrators, FloatLayer, Reset

EXACT: Final = 1e-5  # a gain this near to one, or an alpha this near to zero, is float32 rounding
CURRENTS: Final = (nir.CubaLIF, nir.CubaLI)
SILENT: Final = (nir.LI, nir.CubaLI, nir.I)
NEURONS: Final = (nir.LIF, nir.IF, nir.CubaLIF, nir.Threshold, *SILENT)
RESETS: Final[Mapping[str, Reset]] = MappingProxyType(
    {kind: kind for kind in ("subtract", "soft", "zero", "hold", "none")}
)
READINGS: Final = ("counts", "last", "max", "mean")

Read: TypeAlias = Literal["counts", "last", "max", "mean"]


@dataclass(frozen=True, slots=True)
class Assumed:
    """What the options say of neurons; None leaves it to metadata and defaults."""

    reset: Reset | None
    reset_delay: bool | None
    last_is_readout: bool


@dataclass(frozen=True)
class Population:
    """Neurons of one node in discrete time; arrays by neuron or, for images, by channel where places agree."""

    wiring: Wiring
    assumed: Assumed
    name: str
    node: Any
    shape: tuple[int, ...]
    image: tuple[int, ...] | None
    last: bool
    loops: bool  # whether its own spikes come back to it

    def own(self, part: str) -> F64:
        """A parameter (n,), as NIR orders neurons."""
        return parameter(self.name, self.node, part, math.prod(self.shape))

    def turned(self, values: F64) -> F32:
        """(n,) in our order, or (channels,) where all places of a channel agree."""
        if self.image is None:
            return values.astype(np.float32)
        lying = values[first_to_last(self.image)].reshape(-1, self.image[-1])
        found: F64 = lying[0] if (lying == lying[0]).all() else lying.reshape(-1)
        return found.astype(np.float32)

    @property
    def synaptic(self) -> bool:
        """Whether there is a current that lasts longer than one step."""
        if not isinstance(self.node, CURRENTS):
            return False
        tau, dt = self.own("tau_syn"), self.wiring.dt
        return not bool(np.all((tau == 0) | (np.abs(tau - dt) <= EXACT * dt)))

    @property
    def readout(self) -> bool:
        role = self.wiring.facts[self.name].get("role")
        if not (role is None or (isinstance(role, str) and role == "readout")):
            raise ModelError(f"{self.name}: role {first_line(role)!r} is not 'readout'")
        marked = role == "readout" or isinstance(self.node, SILENT)
        if marked and not self.last:
            raise ModelError(f"{self.name}: a readout must be the last layer")
        return marked or (self.last and self.assumed.last_is_readout)

    @property
    def reading(self) -> Read:
        default = "last" if self.readout else "counts"
        reading = self.wiring.facts[self.name].get("reading", default)
        allowed = READINGS[1:] if self.readout else READINGS
        if not isinstance(reading, str) or reading not in allowed:
            raise ModelError(f"{self.name}: reading {first_line(reading)!r} is none of {', '.join(allowed)}")
        found: Mapping[str, Read] = {"counts": "counts", "last": "last", "max": "max", "mean": "mean"}
        return found[reading]

    @property
    def inhibition(self) -> bool:
        flag = self.wiring.facts[self.name].get("inhibition", 0)
        if np.ndim(flag) or flag not in (0, 1):
            raise ModelError(f"{self.name}: inhibition {first_line(flag)} is neither 0 nor 1")
        return bool(flag)

    @property
    def special(self) -> bool:
        """Whether neurons of a dense map need more than a `Lif` or a `Readout` has."""
        usual = self.reading == ("last" if self.readout else "counts")
        return self.synaptic or self.inhibition or not usual

    def decay(self, part: str) -> F64:
        """1 - dt/tau, or exp(-dt/tau) where the graph says so. Raises ModelError for time constants under the step."""
        dt, tau = self.wiring.dt, self.own(part)
        if self.wiring.exponential:
            if not (tau > 0).all():
                raise ModelError(f"{self.name}: {part} {tau.min():g} s is not above 0")
            return np.asarray(np.exp(-dt / tau))
        if not (tau >= dt * (1 - EXACT)).all():
            raise ModelError(f"{self.name}: {part} {tau.min():g} s is under the time step of {dt:g} s (--dt)")
        beta = np.maximum(1 - dt / tau, 0).astype(np.float32)  # as it was before NIR divided by 1 - beta
        return beta.astype(np.float64)

    def decayed(self) -> F64:
        """What the membrane keeps in a step, (n,) as NIR orders neurons."""
        match self.node:
            case nir.IF() | nir.I():
                return np.ones(math.prod(self.shape))
            case nir.Threshold():
                return np.zeros(math.prod(self.shape))
        return self.decay("tau_mem" if isinstance(self.node, CURRENTS) else "tau")

    @property
    def beta(self) -> F32:
        return self.turned(self.decayed())

    @property
    def gain(self) -> F64:
        """What a step adds of the input, (*shape) as NIR sees it or ()."""
        if isinstance(self.node, nir.Threshold):
            return np.ones(())
        if isinstance(self.node, (nir.IF, nir.I)):
            found = self.own("r")
            in_steps = found * self.wiring.dt
            found = in_steps if (np.abs(in_steps - 1) < EXACT).all() else found  # SpikingJelly writes 1/dt
        else:
            part = "tau_mem" if isinstance(self.node, CURRENTS) else "tau"
            found = self.into(part) * self.own("r") if not self.endless(part) else np.ones(math.prod(self.shape))
        if isinstance(self.node, CURRENTS):
            found = found * self.own("w_in") * (self.into("tau_syn") if self.synaptic else 1.0)
        found = np.where(np.abs(found - 1) < EXACT, 1.0, found)
        return np.asarray(found[0]) if (found == found[0]).all() else found.reshape(self.shape)

    def into(self, part: str) -> F64:
        """dt/tau, or 1 - exp(-dt/tau)."""
        if self.wiring.exponential:
            return 1 - self.decay(part)
        return self.wiring.dt / self.own(part)

    def endless(self, part: str) -> bool:
        """How snnTorch writes beta = 1."""
        return bool((np.isinf(self.own(part)) & np.isinf(self.own("r"))).all())

    def bias(self, terms: F64, back: F64) -> F32:
        """Biases of all terms and of the recurrence, and the leak potential; gains are in them already."""
        leak = np.zeros(math.prod(self.shape))
        if hasattr(self.node, "v_leak"):
            v_leak = self.own("v_leak")
            if self.synaptic and v_leak.any():
                raise ModelError(f"{self.name}: v_leak must be 0 where there is a synaptic current")
            leak = (1 - self.decayed()) * v_leak
        parts = [np.atleast_1d(part) for part in (terms, back, self.turned(leak).astype(np.float64))]
        most = max(len(part) for part in parts)
        return sum((np.tile(part, most // len(part)) for part in parts), np.zeros(most)).astype(np.float32)

    @property
    def threshold(self) -> F32:
        part = "threshold" if isinstance(self.node, nir.Threshold) else "v_threshold"
        threshold = self.own(part)
        if not ((threshold > 0).all() or not threshold.any()):
            raise ModelError(f"{self.name}: {part} reaches down to {threshold.min():g}, must be above 0, or 0 for all")
        if hasattr(self.node, "v_reset") and np.any(self.own("v_reset")):
            raise ModelError(f"{self.name}: v_reset must be 0")
        return self.turned(threshold)

    @property
    def reset(self) -> tuple[Reset, bool]:
        """How and when the membrane resets: the node's metadata, else the options, else what NIR's equations say."""
        if isinstance(self.node, nir.Threshold):
            return "none", False
        facts, assumed = self.wiring.facts[self.name], self.assumed
        reset, delay = facts.get("reset", assumed.reset), facts.get("reset_delay", assumed.reset_delay)
        if reset is None:
            self.wiring.notes.append(f"{self.name}: reset not stated, assumed 'zero' (--reset says otherwise)")
        if delay is None:
            self.wiring.notes.append(f"{self.name}: reset delay not stated, assumed 0 (--reset-delay says otherwise)")
        reset, delay = "zero" if reset is None else reset, 0 if delay is None else delay
        if not isinstance(reset, str) or reset not in RESETS:
            raise ModelError(f"{self.name}: reset {first_line(reset)!r} is none of {', '.join(RESETS)}")
        if np.ndim(delay) or delay not in (0, 1):
            raise ModelError(f"{self.name}: reset_delay {first_line(delay)} is neither 0 nor 1")
        if reset == "soft" and delay:
            raise ModelError(f"{self.name}: reset 'soft' acts in the spike's own step, reset_delay must be 0")
        whole_step = self.synaptic or self.loops  # snnTorch clears these after the input of the next step
        return RESETS["hold" if reset == "zero" and delay and whole_step else reset], bool(delay)

    def layer(self, bias: F32, recurrent: F32 | None) -> FloatLayer:
        """The neurons on sums that a synapse before them gives."""
        cells, name = self.image or (math.prod(self.shape),), short(self.name)
        alpha = self.turned(self.decay("tau_syn")) if self.synaptic else None
        own = recurrent if recurrent is not None and recurrent.ndim == 1 else None
        most = max(len(part) for part in (bias, self.beta, alpha, own) if part is not None)
        reading = self.reading
        if self.readout:
            if recurrent is not None or reading == "counts":
                raise ModelError(f"{self.name}: a readout is not recurrent and has no spikes to count")
            bias, beta = stretched(bias, most), stretched(self.beta, most)
            return FloatIntegrators(name, cells, bias, beta, None if alpha is None else stretched(alpha, most), reading)
        most = max(most, len(self.threshold))
        reset, delay = self.reset
        return FloatCells(
            name,
            cells,
            stretched(bias, most),
            stretched(self.threshold, most),
            reset,
            self.inhibition,
            reading,
            beta=stretched(self.beta, most),
            alpha=None if alpha is None else stretched(alpha, most),
            recurrent=recurrent if own is None else stretched(own, most),
            reset_delay=delay,
        )
