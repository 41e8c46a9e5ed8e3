"""Samples in another unit than the model was trained on: what shows it, in one line."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np

from edgerun.samples import unit_notes
from edgerun.spec import Direct
from exporters.data import Samples
from exporters.float_net import FloatNet, forward
from exporters.twin import in_blocks, input_form, input_offset

BYTE = 255
CLEAR = 0.1
"""What the accuracy must rise by in the other unit before real numbers are doubted; whole ones are on any sign."""


def fixed_notes(name: str, net: FloatNet, samples: Samples) -> tuple[str, ...]:
    """Of samples for a model whose file fixes the scale of its input. Raises DataError where they cannot be right."""
    if net.input is None:
        return ()
    zero_point = net.input.zero_point + input_offset(net)
    spec = msgspec.structs.replace(input_form(net), scale=net.input.scale, zero_point=zero_point)
    return unit_notes(name, samples.x, spec)


def byte_notes(net: FloatNet, samples: Samples) -> tuple[str, ...]:
    """Where bytes are given to a model of floats that wants 0 to 1, or the other way round, by what the labels say.

    uint8 samples without labels are only named: nothing tells whether they are right.
    """
    if net.input is not None or net.steps > 1 or not isinstance(net.encoder, Direct) or samples.x.dtype == np.int8:
        return ()
    low, high = samples.x.min(), samples.x.max()
    if samples.x.dtype == np.uint8 and not samples.labelled:
        return (f"samples are uint8: the model sees {low} to {high}, right only if it was trained on these",)
    if not samples.labelled or low < 0 or not 0 < high <= BYTE or 1 < high <= 2:
        return ()
    words, other = ("divided by 255", 1 / BYTE) if high > 2 else ("times 255", float(BYTE))
    known = samples.take(np.flatnonzero(samples.y >= 0))
    here, there = right(net, known), right(net, replace(known, x=(known.x * other).astype(np.float32)))
    if there - here <= (0 if high > 2 and not (known.x % 1).any() else CLEAR):
        return ()
    return (
        f"the model sees {low:g} to {high:g} and is right on {here:.2%}; on the same samples {words}, "
        f"{there:.2%}: was it trained on those?",
    )


def right(net: FloatNet, samples: Samples) -> float:
    """Share of labelled samples that the float net answers rightly."""
    blocks = (forward(net, net.moments(block.x)).readings[net.layers[-1].name] for block in in_blocks(samples))
    return float((np.concatenate(list(blocks)).argmax(axis=1) == samples.y).mean())
