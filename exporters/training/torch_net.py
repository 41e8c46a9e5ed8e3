"""A float net as a differentiable function in torch: the same layers, the same numbers, gradients to their weights.

Tensors are (N, width) between layers, as everywhere in `exporters`. Spikes are hard going forward; going backward a
spike is the sigmoid of SLOPE * (U / threshold - 1), which can be differentiated twice, and a reset is a constant.
Where all thresholds are zero, U is in units of 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch.nn import functional

from edgerun.errors import ModelError
from edgerun.layers.base import INPUT
from exporters.calibrate import MINMAX
from exporters.data import Samples
from exporters.float_net import FloatNet
from exporters.nodes import (
    FloatAdd,
    FloatAlphaCells,
    FloatCells,
    FloatConcat,
    FloatConv,
    FloatConvSum,
    FloatDense,
    FloatDenseSum,
    FloatDepthwise,
    FloatGru,
    FloatIntegrators,
    FloatLayer,
    FloatLayerNorm,
    FloatLif,
    FloatLstm,
    FloatMul,
    FloatPad,
    FloatPool,
    FloatReadout,
    FloatRnn,
    FloatSlice,
    FloatSLstm,
    FloatSoftmax,
    FloatSumPool,
    FloatTake,
    FloatTotal,
    FloatTranspose,
    FloatUnary,
    StatefulLayer,
)
from exporters.nodes.conv import Filters, image_windows
from exporters.nodes.recurrent import FloatRecurrent
from exporters.nodes.spiking import Firing, OnSums, after_input, after_spikes
from exporters.sensitivity import answer_layer
from exporters.twin import bare_twin

Tensor: TypeAlias = Any  # torch carries no types for us
Parameters: TypeAlias = Mapping[str, Tensor]
State: TypeAlias = dict[str, Tensor]

SLOPE: Final = 5.0
TRAINED: Final = ("weight", "recurrent", "bias", "recurrent_bias")


def parameters(net: FloatNet, *, gradients: bool = True) -> dict[str, Tensor]:
    """Copies of all weights and biases by `<layer>.<field>`, float32; a convolution's before neurons has no bias."""
    return {
        f"{layer.name}.{part}": torch.tensor(np.asarray(value, np.float32), requires_grad=gradients)
        for layer in net.layers
        for part in TRAINED
        if (value := getattr(layer, part, None)) is not None
        if not (part == "bias" and isinstance(layer, FloatConvSum))
    }


def seen_by(net: FloatNet, samples: Samples) -> Callable[[Samples], Tensor]:
    """What the layers see of some of these samples, (steps, N, step size).

    A phase-rate code makes spikes from integers; their scale is what calibration on all these samples gives.
    """
    bare, _ = bare_twin(net, samples, MINMAX)
    return lambda some: torch.tensor(bare.moments(some))


def torch_answers(net: FloatNet, values: Parameters, moments: Tensor) -> Tensor:
    """The logits (N, k) of the net with these parameters, for moments (steps, N, step size).

    Raises ModelError naming a layer of a kind, or a function, that has no gradient here.
    """
    states: dict[str, State] = {layer.name: {} for layer in net.layers}
    wiring, answer = net.wiring(), answer_layer(net)
    last = max((k + 1 for k, (layer, _) in enumerate(wiring) if isinstance(layer, StatefulLayer)), default=0)
    seen: dict[str, Tensor] = {}
    for t, x in enumerate(moments):
        seen[INPUT] = x
        for layer, sources in wiring if t == len(moments) - 1 else wiring[:last]:
            if type(layer) not in KINDS:
                raise ModelError(f"layer {layer.name}: {type(layer).__name__} has no gradient here")
            call = Call(layer, values, states[layer.name])
            seen[layer.name] = KINDS[type(layer)](call, layer, *(seen[source] for source in sources))
    return reading(net.layer(answer), states[answer], seen[answer])


def reading(layer: FloatLayer, state: State, out: Tensor) -> Tensor:
    """What is read of a layer at the end of a window, as `StatefulLayer.reading`."""
    match getattr(layer, "reading_of", "counts"):
        case "max":
            return state["peak"]
        case "mean":
            return state["total"] / state["steps"]
        case "last":
            return state["mem"]
    return state.get("counts", out)


@dataclass(frozen=True, slots=True)
class Call:
    """One layer at one time step: its parameters and what it keeps."""

    layer: FloatLayer
    values: Parameters
    state: State

    def __getitem__(self, part: str) -> Tensor:
        """A parameter: the one that is trained, else the layer's own."""
        name = f"{self.layer.name}.{part}"
        return self.values[name] if name in self.values else tensor(getattr(self.layer, part))


def tensor(array: Any) -> Tensor:
    return torch.as_tensor(np.asarray(array, np.float32))


def clipped(y: Tensor, layer: Any) -> Tensor:
    y = y if layer.low == -math.inf else torch.clamp(y, min=layer.low)
    return y if layer.high == math.inf else torch.clamp(y, max=layer.high)


# ------------------------------------------------------------------ products


def dense(call: Call, layer: FloatDense, x: Tensor) -> Tensor:
    return clipped(x @ call["weight"].T + call["bias"], layer)


def conv(call: Call, layer: FloatConv, x: Tensor) -> Tensor:
    return filtered(call, layer, call["weight"].permute(0, 3, 1, 2), x, groups=1)


def depthwise(call: Call, layer: FloatDepthwise, x: Tensor) -> Tensor:
    return filtered(call, layer, call["weight"][:, None], x, groups=layer.input_shape[2])


def filtered(call: Call, layer: Filters, weight: Tensor, x: Tensor, groups: int) -> Tensor:
    image = planes(x, layer)
    y = functional.conv2d(image, weight, call["bias"], layer.stride, 0, layer.dilation, groups)
    return clipped(rows(y), layer)


def planes(x: Tensor, layer: Filters | FloatPool | FloatSumPool, fill: float = 0.0) -> Tensor:
    """(N, c, h, w), padded, from flat (N, h * w * c)."""
    top, left, bottom, right = layer.padding
    image = x.reshape(-1, *layer.input_shape).permute(0, 3, 1, 2)
    return functional.pad(image, (left, right, top, bottom), value=fill)


def rows(y: Tensor) -> Tensor:
    """Flat (N, h * w * c) from (N, c, h, w)."""
    return y.permute(0, 2, 3, 1).reshape(len(y), -1)


def pool(call: Call, layer: FloatPool, x: Tensor) -> Tensor:
    if layer.kind == "max":
        image = planes(x, layer, -math.inf)
        return clipped(rows(functional.max_pool2d(image, layer.kernel, layer.stride, 0, layer.dilation)), layer)
    channels = layer.input_shape[2]
    ones = torch.ones(channels, 1, *layer.kernel)
    sums = functional.conv2d(planes(x, layer), ones, None, layer.stride, 0, layer.dilation, channels)
    inside = np.ones((1, math.prod(layer.input_shape)), np.float32)
    geometry = (layer.kernel, layer.stride, layer.dilation, layer.padding)
    seen = image_windows(inside, layer.input_shape, *geometry, fill=float(layer.count_padding)).sum(axis=(3, 4))
    return clipped(rows(sums) / tensor(seen.reshape(1, -1)), layer)


# ------------------------------------------------------------------ one value, two values, many


def add(call: Call, layer: FloatAdd, *sources: Tensor) -> Tensor:
    a, b = shaped(sources, layer.shapes)
    y = layer.signs[0] * a + layer.signs[1] * b
    return clipped(y.reshape(len(y), -1), layer)


def mul(call: Call, layer: FloatMul, *sources: Tensor) -> Tensor:
    a, b = shaped(sources, layer.shapes)
    return clipped((a * b).reshape(len(a), -1), layer)


def shaped(sources: tuple[Tensor, ...], shapes: tuple[tuple[int, ...], ...]) -> Iterator[Tensor]:
    return (x.reshape(-1, *shape) for x, shape in zip(sources, shapes, strict=True))


UNARY: Final[Mapping[str, Callable[..., Tensor]]] = MappingProxyType(
    {
        "identity": lambda x: x,
        "affine": lambda x, a=1.0, b=0.0: a * x + b,
        "neg": torch.neg,
        "abs": torch.abs,
        "square": torch.square,
        "sqrt": torch.sqrt,
        "rsqrt": torch.rsqrt,
        "reciprocal": torch.reciprocal,
        "exp": torch.exp,
        "log": torch.log,
        "sin": torch.sin,
        "cos": torch.cos,
        "erf": torch.erf,
        "clip": lambda x, low=-math.inf, high=math.inf: torch.clamp(x, low, high),
        "relu": torch.relu,
        "leaky-relu": lambda x, alpha=0.01: functional.leaky_relu(x, alpha),
        "elu": lambda x, alpha=1.0: functional.elu(x, alpha),
        "sigmoid": torch.sigmoid,
        "hard-sigmoid": lambda x, a=0.2, b=0.5: torch.clamp(a * x + b, 0, 1),
        "tanh": torch.tanh,
        "softsign": functional.softsign,
        "softplus": functional.softplus,
        "silu": functional.silu,
        "hard-swish": functional.hardswish,
        "gelu": functional.gelu,
        "gelu-tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "mish": functional.mish,
    }
)


def unary(call: Call, layer: FloatUnary, x: Tensor) -> Tensor:
    if layer.function not in UNARY:
        raise ModelError(f"layer {layer.name}: function {layer.function} has no gradient here")
    return UNARY[layer.function](x, *layer.parameters)


def softmax(call: Call, layer: FloatSoftmax, x: Tensor) -> Tensor:
    y = torch.log_softmax(layer.beta * x.reshape(-1, *layer.shape), dim=-1)
    return (y if layer.log else y.exp()).reshape(len(y), -1)


def layer_norm(call: Call, layer: FloatLayerNorm, x: Tensor) -> Tensor:
    y = x.reshape(-1, *layer.shape)
    gamma, beta = tensor(layer.gamma), tensor(layer.beta)
    return functional.layer_norm(y, layer.shape[-1:], gamma, beta, layer.epsilon).reshape(len(y), -1)


def concat(call: Call, layer: FloatConcat, *sources: Tensor) -> Tensor:
    y = torch.cat(list(shaped(sources, layer.shapes)), dim=layer.axis + 1)
    return y.reshape(len(y), -1)


def transpose(call: Call, layer: FloatTranspose, x: Tensor) -> Tensor:
    y = x.reshape(-1, *layer.input_shape).permute(0, *(axis + 1 for axis in layer.perm))
    return y.reshape(len(y), -1)


def pad(call: Call, layer: FloatPad, x: Tensor) -> Tensor:
    sides = [side for pair in zip(layer.before[::-1], layer.after[::-1], strict=True) for side in pair]
    y = functional.pad(x.reshape(-1, *layer.input_shape), sides, value=layer.value)
    return y.reshape(len(y), -1)


def cut(call: Call, layer: FloatSlice, x: Tensor) -> Tensor:
    y = x.reshape(-1, *layer.input_shape)
    for axis, kept in enumerate(layer.positions()):
        y = y.index_select(axis + 1, torch.tensor(list(kept)))
    return y.reshape(len(y), -1)


def taken(call: Call, layer: FloatTake, x: Tensor) -> Tensor:
    y = x.reshape(-1, *layer.input_shape).index_select(layer.axis + 1, torch.tensor(layer.index))
    return y.reshape(len(y), -1)


# ------------------------------------------------------------------ what keeps a state


def walked(
    call: Call, layer: FloatRecurrent, x: Tensor, advance: Callable[[Call, Any, Tensor], Tensor], kept: tuple[str, ...]
) -> Tensor:
    """A window through a recurrent layer, as `FloatRecurrent.step` walks it."""
    if layer.reverse or not call.state:
        call.state.update({name: x.new_zeros(len(x), layer.hidden) for name in kept})
    current = x.reshape(len(x), layer.steps, -1) @ call["weight"].T + call["bias"]
    order = range(layer.steps)[::-1] if layer.reverse else range(layer.steps)
    found = {t: advance(call, layer, current[:, t]) for t in order}
    if not layer.sequence:
        return found[order[-1]]
    return torch.stack([found[t] for t in range(layer.steps)], dim=1).reshape(len(x), -1)


def gru(call: Call, layer: FloatGru, x: Tensor) -> Tensor:
    return walked(call, layer, x, gru_step, ("hidden",))


def gru_step(call: Call, layer: FloatGru, current: Tensor) -> Tensor:
    h, n = call.state["hidden"], layer.hidden
    back, bias = call["recurrent"].T, call["recurrent_bias"]
    r, z = torch.sigmoid(current[:, : 2 * n] + (h @ back[:, : 2 * n] + bias[: 2 * n])).split(n, dim=1)
    seen = h if layer.reset_after else r * h
    inner = seen @ back[:, 2 * n :] + bias[2 * n :]
    inner = r * inner if layer.reset_after else inner
    call.state["hidden"] = (1 - z) * torch.tanh(current[:, 2 * n :] + inner) + z * h
    return call.state["hidden"]


def rnn(call: Call, layer: FloatRnn, x: Tensor) -> Tensor:
    return walked(call, layer, x, rnn_step, ("hidden",))


def rnn_step(call: Call, layer: FloatRnn, current: Tensor) -> Tensor:
    total = current + call.state["hidden"] @ call["recurrent"].T
    call.state["hidden"] = torch.tanh(total) if layer.function == "tanh" else torch.relu(total)
    return call.state["hidden"]


def lstm(call: Call, layer: FloatLstm, x: Tensor) -> Tensor:
    return walked(call, layer, x, lstm_step, ("hidden", "cell"))


def lstm_step(call: Call, layer: FloatLstm, current: Tensor) -> Tensor:
    i, f, g, o = (current + call.state["hidden"] @ call["recurrent"].T).split(layer.hidden, dim=1)
    cell = torch.sigmoid(f) * call.state["cell"] + torch.sigmoid(i) * torch.tanh(g)
    end = float(layer.cell_end())
    call.state["cell"] = torch.clamp(cell, -end, end)
    h = torch.sigmoid(o) * torch.tanh(call.state["cell"])
    (gain, offset), (gain_out, offset_out) = ((float(a), float(b)) for a, b in layer.readings())
    call.state["hidden"] = h * gain + offset
    return h * gain_out + offset_out


def over(mem: Tensor, threshold: Tensor) -> Tensor:
    """1 where U is above the threshold, without a derivative."""
    return (mem > threshold).to(mem.dtype)


def fired(mem: Tensor, threshold: Tensor) -> Tensor:
    """The same; its derivative is that of the sigmoid of SLOPE * (U / threshold - 1)."""
    soft = torch.sigmoid(SLOPE * (mem - threshold) / torch.where(threshold > 0, threshold, 1.0))
    return over(mem, threshold) + (soft - soft.detach())


def at_rest(call: Call, x: Tensor, *names: str) -> State:
    """The layer's state, all zeros (N, n) in the first step."""
    if not call.state:
        call.state.update({name: x.new_zeros(len(x), call.layer.outputs) for name in names})
    return call.state


def lif(call: Call, layer: FloatLif, x: Tensor) -> Tensor:
    """`FloatLif.step`, operation by operation."""
    state, threshold = at_rest(call, x, "mem", "spikes", "counts"), tensor(layer.threshold)
    reset = over(state["mem"], threshold)
    mem = (1 - reset) * state["mem"] if layer.reset == "zero" else state["mem"]
    mem = tensor(layer.beta) * mem + (x @ call["weight"].T + call["bias"])
    if layer.recurrent is not None:
        mem = mem + state["spikes"] @ call["recurrent"].T
    mem = after_input(mem, reset, layer.reset, threshold)
    spikes = fired(mem, threshold)
    if not layer.reset_delay:
        mem = after_spikes(mem, over(mem, threshold) - reset, layer.reset, threshold)
    state.update(mem=mem, spikes=spikes, counts=state["counts"] + spikes)
    return spikes


def readout(call: Call, layer: FloatReadout, x: Tensor) -> Tensor:
    kept = call.state.get("y", 0.0)
    call.state["y"] = tensor(layer.kappa) * kept + (x @ call["weight"].T + call["bias"])
    return call.state["y"]


def dense_sum(call: Call, layer: FloatDenseSum, x: Tensor) -> Tensor:
    return x @ call["weight"].T


def sum_pool(call: Call, layer: FloatSumPool, x: Tensor) -> Tensor:
    image = planes(x, layer)
    return rows(functional.avg_pool2d(image, layer.kernel, layer.stride, divisor_override=layer.count))


def total(call: Call, layer: FloatTotal, *sources: Tensor) -> Tensor:
    return sum(sources[1:], start=sources[0])


def spread(layer: OnSums, parameter: Tensor) -> Tensor:
    """(n,) from (n,) or (channels,)."""
    return parameter.repeat(layer.outputs // len(parameter))


def gather(call: Call, layer: Firing | FloatIntegrators, mem: Tensor) -> None:
    """What may be read of a window: the newest and the largest membrane, and the sum of all."""
    state = call.state
    state["peak"] = torch.maximum(state["peak"], mem) if "peak" in state else mem
    state["total"], state["steps"] = state.get("total", 0.0) + mem, state.get("steps", 0) + 1
    state["mem"] = mem


def fire(call: Call, layer: Firing, mem: Tensor) -> Tensor:
    """The spikes of a step, counted."""
    threshold = spread(layer, tensor(layer.threshold))
    spikes = fired(mem, threshold)
    if layer.inhibition:
        first = (mem - threshold).argmax(dim=1)
        spikes = spikes * functional.one_hot(first, layer.outputs)
    call.state.update(spikes=spikes, counts=call.state["counts"] + spikes)
    return spikes


def cells(call: Call, layer: FloatCells, x: Tensor) -> Tensor:
    """`FloatCells.step`, operation by operation."""
    state, threshold = at_rest(call, x, "mem", "spikes", "counts", "syn"), spread(layer, tensor(layer.threshold))
    reset, beta = over(state["mem"], threshold), spread(layer, tensor(layer.beta))
    drive = x + spread(layer, call["bias"])
    mem = (1 - reset) * state["mem"] if layer.reset == "zero" else state["mem"]
    if layer.alpha is None:
        mem = beta * mem + drive + back(call, layer)
    else:
        state["syn"] = spread(layer, tensor(layer.alpha)) * state["syn"] + drive + back(call, layer)
        mem = beta * mem + state["syn"]
    mem = after_input(mem, reset, layer.reset, threshold)
    spikes = fire(call, layer, mem)
    if not layer.reset_delay:
        mem = after_spikes(mem, spikes.detach() - reset, layer.reset, threshold)
    gather(call, layer, mem)
    return spikes


def back(call: Call, layer: FloatCells) -> Tensor:
    """What the spikes of the step before add."""
    if layer.recurrent is None:
        return 0.0
    if layer.recurrent.ndim == 2:
        return call.state["spikes"] @ call["recurrent"].T
    return call.state["spikes"] * spread(layer, call["recurrent"])


def alpha_cells(call: Call, layer: FloatAlphaCells, x: Tensor) -> Tensor:
    """`FloatAlphaCells.step`, operation by operation."""
    state = at_rest(call, x, "mem", "spikes", "counts", "excitatory", "inhibitory")
    alpha, beta, tau, threshold = (
        spread(layer, tensor(part)) for part in (layer.alpha, layer.beta, layer.tau, layer.threshold)
    )
    reset, before = over(state["mem"], threshold), state["inhibitory"]
    drive = x + spread(layer, call["bias"])
    excitatory, inhibitory = alpha * state["excitatory"] + drive, beta * before - drive
    mem = tau * (excitatory + inhibitory)
    if layer.reset == "hold":
        excitatory, inhibitory, mem = ((1 - reset) * part for part in (excitatory, inhibitory, mem))
    elif layer.reset == "subtract":
        excitatory, inhibitory = excitatory - threshold * reset, inhibitory - inhibitory * reset
        mem = mem + before * reset
    state.update(excitatory=excitatory, inhibitory=inhibitory)
    gather(call, layer, mem)
    return fire(call, layer, mem)


def integrators(call: Call, layer: FloatIntegrators, x: Tensor) -> Tensor:
    """`FloatIntegrators.step`, operation by operation."""
    state, drive = at_rest(call, x, "mem", "syn"), x + spread(layer, call["bias"])
    if layer.alpha is not None:
        drive = state["syn"] = spread(layer, tensor(layer.alpha)) * state["syn"] + drive
    gather(call, layer, spread(layer, tensor(layer.beta)) * state["mem"] + drive)
    return state["mem"]


def slstm(call: Call, layer: FloatSLstm, x: Tensor) -> Tensor:
    """`FloatSLstm.step`, operation by operation."""
    state, threshold = at_rest(call, x, "hidden", "cell", "counts"), tensor(layer.threshold)
    due = over(state["hidden"], threshold)
    mem = lstm_step(call, layer.lstm, x @ call["weight"].T + call["bias"])
    mem = after_input(mem, due, layer.reset, threshold)
    spikes = fired(mem, threshold)
    state.update(hidden=mem, counts=state["counts"] + spikes)
    return spikes


KINDS: Final[Mapping[type[FloatLayer], Callable[..., Tensor]]] = MappingProxyType(
    {
        FloatDense: dense,
        FloatConv: conv,
        FloatDepthwise: depthwise,
        FloatPool: pool,
        FloatAdd: add,
        FloatMul: mul,
        FloatUnary: unary,
        FloatSoftmax: softmax,
        FloatLayerNorm: layer_norm,
        FloatConcat: concat,
        FloatTranspose: transpose,
        FloatPad: pad,
        FloatSlice: cut,
        FloatTake: taken,
        FloatGru: gru,
        FloatLstm: lstm,
        FloatRnn: rnn,
        FloatLif: lif,
        FloatReadout: readout,
        FloatDenseSum: dense_sum,
        FloatConvSum: conv,
        FloatSumPool: sum_pool,
        FloatTotal: total,
        FloatCells: cells,
        FloatAlphaCells: alpha_cells,
        FloatIntegrators: integrators,
        FloatSLstm: slstm,
    }
)
