"""Fewer bytes: pruned weights, and bits a layer as a budget asks for, trained back where torch is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Final, Literal, TypeAlias

from edgerun.errors import DataError, MissingExtra
from exporters.allocate import choose_bits, stored_bytes
from exporters.bits_plot import LayerBits, bits_svg
from exporters.data import Samples
from exporters.float_net import FloatNet
from exporters.progress import Say, silent
from exporters.prune import density_of, magnitude
from exporters.rounding import Rounding, roundings
from exporters.sensitivity import bit_layers, traces

Bits: TypeAlias = Literal["8", "4", "2", "auto"]

AUTO_SHARE: Final = 0.6
"""Of what the weights take at 8 bits: the budget of `--bits auto` where no flash is named."""
EPOCHS: Final = 3
MOST_KB: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Diet:
    """What the command line asks for.

    flash_kb  the bundle's weights may take so many KiB together: bits are chosen for it
    prune     the share of its largest weights that every layer keeps
    finetune  epochs of training with weights as they will be rounded; None: 3 where something was taken away and torch
              is there
    """

    bits: Bits = "8"
    flash_kb: float | None = None
    prune: float | None = None
    finetune: int | None = None

    def __post_init__(self) -> None:
        if self.flash_kb is not None and self.bits != "auto":
            raise DataError("--flash goes with --bits auto")
        if self.flash_kb is not None and not 0 < self.flash_kb <= MOST_KB:
            raise DataError(f"--flash {self.flash_kb:g} is outside (0, {MOST_KB}]")
        if self.prune is not None and not 0 < self.prune <= 1:
            raise DataError(f"--prune {self.prune:g} is outside (0, 1]")
        if self.finetune is not None and not 0 <= self.finetune <= 1000:
            raise DataError(f"--finetune {self.finetune} is outside [0, 1000]")

    @property
    def strict(self) -> bool:
        """Whether nothing is to be taken away."""
        return self.bits == "8" and self.prune is None and not self.finetune


@dataclass(frozen=True, slots=True)
class Slim:
    """The float net to quantise, the bits of its layers where they are not 8, and what to say about it."""

    net: FloatNet
    bits: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    plot: str = ""


def slim(net: FloatNet, samples: Samples, diet: Diet, say: Say = silent) -> Slim:
    """The net after the diet. Raises ModelError where it has no weights whose bits are free, DataError without labels
    where sensitivity needs them, MissingExtra where training is asked for and torch is not there."""
    if diet.strict:
        return Slim(net)
    notes = []
    thin = net
    if diet.prune is not None:
        thin = magnitude(net, diet.prune)
        notes.append(f"pruned by magnitude: {density_of(thin):.2%} of the weights are left")
    if diet.bits == "auto":
        say("measuring how much the loss minds each layer")
    trace = traces(thin, samples) if diet.bits == "auto" else {}
    bits = bits_of(thin, samples, diet, trace)
    if diet.bits == "auto":
        notes.append(f"bits by Hessian trace: {', '.join(f'{name} {width}' for name, width in bits.items())}")
    epochs = diet.finetune if diet.finetune is not None else EPOCHS * (find_spec("torch") is not None)
    if epochs:
        say(f"training {epochs} epochs")
        thin = trained(net, thin, samples, bits, epochs)
        notes.append(f"trained {epochs} epochs on the calibration samples, weights rounded as they will be")
    elif diet.finetune is None:
        notes.append("torch is not there: nothing was trained back (pip install 'edgerun[train]')")
    plot = bits_svg("Sensitivity and bits", rows(roundings(net, samples), bits, trace)) if diet.bits == "auto" else ""
    return Slim(thin, {name: width for name, width in bits.items() if width != 8}, tuple(notes), plot)


def rows(free: Mapping[str, Rounding], bits: Mapping[str, int], trace: Mapping[str, float]) -> list[LayerBits]:
    """What the plot shows of every layer."""
    return [
        LayerBits(name, trace[name], bits[name], stored_bytes(layer, bits[name]), stored_bytes(layer, 8))
        for name, layer in free.items()
    ]


def bits_of(net: FloatNet, samples: Samples, diet: Diet, trace: Mapping[str, float]) -> dict[str, int]:
    """Bits by layer name, of every layer whose bits are free."""
    if diet.bits != "auto":
        return dict.fromkeys(bit_layers(net), int(diet.bits))
    full = sum(stored_bytes(layer, 8) for layer in roundings(net, samples).values())
    budget = int(1024 * diet.flash_kb) if diet.flash_kb is not None else int(AUTO_SHARE * full)
    return choose_bits(net, samples, budget, trace)


def trained(net: FloatNet, thin: FloatNet, samples: Samples, bits: Mapping[str, int], epochs: int) -> FloatNet:
    """The thin net, taught by the whole one."""
    try:
        from exporters.training.finetune import finetune
    except ModuleNotFoundError:
        raise MissingExtra("export --finetune", "train", "torch") from None
    return finetune(thin, samples, bits, epochs=epochs, teacher=net)
