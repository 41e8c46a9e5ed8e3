"""Spiking neurons, the synapses that drive them, and the leaky integrators that read them.

Synapses without neurons give raw integer sums, held in float32 and so at most 2**24; a sum stands for sum * 2**-f.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Final, Literal, TypeAlias, cast

import numpy as np
from msgspec import Meta

from edgerun.arrays import I8, I64
from edgerun.errors import SpecError
from edgerun.layers.base import (
    F32_EXACT,
    I16_BOUNDS,
    I32_BOUNDS,
    Q15,
    WEIGHT,
    WEIGHT_MAX,
    Certificate,
    Count,
    Field,
    Int8,
    LayerRecord,
    Requant,
    State,
    Tensors,
    VectorLayer,
    Work,
    magnitude,
    refuse_above,
)
from edgerun.layers.recurrent import Lstm
from edgerun.layers.window import Sliding, positions

DRIVE_LIMIT: Final = 1 << 30
FINE: Final = 24  # fraction bits of synaptic currents and readouts
COARSE: Final = 12  # fraction bits of membranes
THRESHOLD: Final = (1, (1 << 14) - 1)  # two of them fit a membrane
TAU: Final = (0, 1 << 24)
NEVER: Final = 1 << 15  # in Q0.15: a threshold of 1, which o * tanh(A) does not come to

Reset: TypeAlias = Literal["subtract", "zero", "hold", "none"]
CellReset: TypeAlias = Literal["subtract", "soft", "zero", "hold", "none"]
"""What a spike does to the membrane. zero: cleared before the leak; hold: cleared after the input of the next step."""
Reading: TypeAlias = Literal["last", "max", "mean"]
Sum: TypeAlias = Annotated[int, Meta(ge=1, le=F32_EXACT)]
Exponent: TypeAlias = Annotated[int, Meta(ge=0, le=40)]
Shape: TypeAlias = Annotated[tuple[Count, ...], Meta(min_length=1, max_length=3)]


class Lif(VectorLayer, tag="lif", frozen=True, kw_only=True):
    """Recurrent leaky integrate-and-fire neurons, adaptive where `adaptive` is set (ALIF).

    Step order: leak, add input, spikes of the previous step and bias, compare, reset. Membrane in Q3.12.
    Tensors: `<name>.input` int8 (in, n) pre-major, `<name>.recurrent` int8 (n, n) where recurrent, `<name>.bias` int32
    (n,) in Q3.12, `<name>.decay` uint16 (n,) in Q0.15; adaptive: `<name>.rho` uint16 (n,), `<name>.beta` int16 (n,) in
    Q3.12.
    """

    weight_exponent: Annotated[int, Meta(ge=0, le=20)]  # f: a weight is w * 2**-f
    recurrent: bool = True
    recurrent_shift: Annotated[int, Meta(ge=0, le=12)] = 0  # k: a recurrent weight is w * 2**(k - f)
    adaptive: bool = False
    threshold: Annotated[int, Meta(ge=0, le=32767)] = 4096
    reset: Reset = "subtract"
    reset_delay: bool = True  # True: the reset acts in the step after the spike (snnTorch's default)
    refractory_steps: Annotated[int, Meta(ge=0, le=255)] = 0

    stateful: ClassVar[bool] = True

    def fields(self) -> tuple[Field, ...]:
        m, n = self.inputs, self.outputs
        found = [
            Field("input", "int8", (m, n), *WEIGHT),
            Field("bias", "int32", (n,), *I32_BOUNDS),
            Field("decay", "uint16", (n,), *Q15),
        ]
        if self.recurrent:
            found.append(Field("recurrent", "int8", (n, n), *WEIGHT))
        if self.adaptive:
            found += [Field("rho", "uint16", (n,), *Q15), Field("beta", "int16", (n,), *I16_BOUNDS)]
        return tuple(found)

    def state(self) -> tuple[State, ...]:
        n = (self.outputs,)
        found = [State("v", "int16", n), State("carry", "uint16", n), State("fired", "bool", n)]
        found.append(State("counts", "uint16", n))
        if self.adaptive:
            found += [State("adaptation", "int16", n), State("adaptation_carry", "uint16", n)]
        if self.refractory_steps:
            found.append(State("resting", "uint8", n))
        return tuple(found)

    def reach(self, reaches: tuple[int, ...]) -> int:
        return 1

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        total = fan_in(f"{self.name}.input", tensors, plastic) * reaches[0]
        if self.recurrent:
            total = total + (fan_in(f"{self.name}.recurrent", tensors, plastic) << self.recurrent_shift)
        refuse_above(self.name, "sum|w| * max|x|", total, F32_EXACT)
        return certify_drive(self, scaled(total, COARSE - self.weight_exponent), tensors)

    def describe(self, tensors: Tensors) -> str:
        lifted = f" times {1 << self.recurrent_shift}" if self.recurrent_shift else ""
        flags = f", recurrent{lifted}" * self.recurrent + ", adaptive" * self.adaptive
        return f"weight = w / 2^{self.weight_exponent}, threshold {self.threshold / 4096:g}{flags}"

    def work(self) -> Work:
        return Work(synapses=self.inputs * self.outputs, neurons=self.outputs, calls=24)

    def fan_out(self) -> I64:
        return np.full(self.inputs, self.outputs)

    @property
    def echo(self) -> int:
        return self.outputs if self.recurrent else 0


class Readout(VectorLayer, tag="readout", frozen=True, kw_only=True):
    """Leaky integrators, one a class: y <- kappa * y + W z + b in Q7.24. Its value after the last step is the logit.

    Tensors: `<name>.input` int8 (in, n) pre-major, `<name>.bias` int32 (n,) in Q7.24, `<name>.kappa` uint16 (n,) Q0.15.
    """

    weight_exponent: Annotated[int, Meta(ge=0, le=20)]

    stateful: ClassVar[bool] = True

    def fields(self) -> tuple[Field, ...]:
        n = self.outputs
        return (
            Field("input", "int8", (self.inputs, n), *WEIGHT),
            Field("bias", "int32", (n,), *I32_BOUNDS),
            Field("kappa", "uint16", (n,), *Q15),
        )

    def state(self) -> tuple[State, ...]:
        return (State("y", "int32", (self.outputs,)), State("carry", "uint16", (self.outputs,)))

    def reach(self, reaches: tuple[int, ...]) -> int:
        return 1 << 31

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        """Factory weights only: the kernel carries int64 and saturates, so learned weights cannot overflow."""
        total = fan_in(f"{self.name}.input", tensors, frozenset()) * reaches[0]
        refuse_above(self.name, "sum|w| * max|x|", total, F32_EXACT)
        return certify_drive(self, scaled(total, FINE - self.weight_exponent), tensors)

    def describe(self, tensors: Tensors) -> str:
        return f"weight = w / 2^{self.weight_exponent}"

    def work(self) -> Work:
        return Work(synapses=self.inputs * self.outputs, neurons=self.outputs, calls=12)

    def fan_out(self) -> I64:
        return np.full(self.inputs, self.outputs)


# ------------------------------------------------------------------ synapses


class DenseSum(VectorLayer, tag="dense-sum", frozen=True, kw_only=True):
    """s = W (x - zero_point), raw sums for neurons of another layer. Tensor: `<name>.weight` int8 (in, n) pre-major."""

    zero_point: Int8 = 0  # of the input
    output_bound: Sum = F32_EXACT  # the largest |s|; what the layers behind rest on

    def fields(self) -> tuple[Field, ...]:
        return (Field("weight", "int8", (self.inputs, self.outputs), *WEIGHT),)

    def reach(self, reaches: tuple[int, ...]) -> int:
        return self.output_bound

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        weights = fan_in(f"{self.name}.weight", tensors, plastic)
        return certify_sums(self.name, weights, reaches[0], self.zero_point, self.output_bound)

    def work(self) -> Work:
        return Work(synapses=self.inputs * self.outputs, calls=2)

    def fan_out(self) -> I64:
        return np.full(self.inputs, self.outputs)


class ConvSum(Sliding, tag="conv-sum", frozen=True, kw_only=True):
    """s[i, j, f] = sum over r, t, c of w[f, r, t, c] * (x[i*sh + r*dh - top, j*sw + t*dw - left, c] - zero_point), raw
    sums for neurons of another layer. Tensor: `<name>.weight` int8 (filters, kh, kw, c).
    """

    filters: Count
    zero_point: Int8 = 0  # of the input
    output_bound: Sum = F32_EXACT  # the largest |s|; what the layers behind rest on

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.outputs_size, self.filters)

    def fields(self) -> tuple[Field, ...]:
        return (Field("weight", "int8", (self.filters, *self.kernel, self.input_shape[2]), *WEIGHT),)

    def reach(self, reaches: tuple[int, ...]) -> int:
        return self.output_bound

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        weight = cast(I8, self.tensor(tensors, "weight"))
        return certify_sums(self.name, magnitude(weight, (1, 2, 3)), reaches[0], self.zero_point, self.output_bound)

    def work(self) -> Work:
        taps = math.prod(self.kernel) * self.input_shape[2]
        return Work(synapses=self.outputs * taps, elements=math.prod(self.padded_shape), calls=4)

    def fan_out(self) -> I64:
        (height, width, channels), (top, left, bottom, right) = self.input_shape, self.padding
        (kh, kw), (sh, sw), (dh, dw) = self.kernel, self.stride, self.dilation
        places = np.outer(seen_by(height, top, bottom, kh, sh, dh), seen_by(width, left, right, kw, sw, dw))
        return np.repeat(places.reshape(-1) * self.filters, channels)


class SumPool(Sliding, tag="sum-pool", frozen=True, kw_only=True):
    """s = the sum of each window of spikes or raw sums, padding 0: a mean times the number of values. No tensors."""

    def reach(self, reaches: tuple[int, ...]) -> int:
        return math.prod(self.kernel) * reaches[0]

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        bound = self.reach(reaches)
        refuse_above(self.name, "values of a window * max|x|", np.array(bound), F32_EXACT)
        return Certificate(carrier="float32-dot", bound=bound)

    def work(self) -> Work:
        return Work(elements=self.outputs * sum(self.kernel), calls=2 + self.kernel[1])


class Total(LayerRecord, tag="total", frozen=True, kw_only=True):
    """s = the sum of all sources, element by element: spikes, or raw sums of one scale."""

    outputs: Count
    terms: Annotated[int, Meta(ge=2, le=64)]

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.outputs,) * self.terms

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.outputs,)

    def reach(self, reaches: tuple[int, ...]) -> int:
        return sum(reaches)

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        refuse_above(self.name, "sum of max|x|", np.array(sum(reaches)), F32_EXACT)
        return Certificate(carrier="float32-dot", bound=sum(reaches))

    def work(self) -> Work:
        return Work(elements=self.terms * self.outputs, calls=self.terms)


# ------------------------------------------------------------------ neurons on sums


class OnSums(LayerRecord, frozen=True, kw_only=True):
    """What layers share that are driven by raw sums: their shape, and what one unit of a sum stands for.

    Parameters belong to a neuron, or, where `shared`, to a channel, the last axis of `shape`.
    """

    shape: Shape
    weight_exponent: Exponent  # f: a sum stands for sum * 2**-f
    shared: bool = False

    stateful: ClassVar[bool] = True

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.outputs,)

    @property
    def parameters(self) -> tuple[int, ...]:
        """The shape of a parameter."""
        return (self.shape[-1] if self.shared else self.outputs,)

    @property
    def fraction(self) -> int:
        """Fraction bits of what the sums drive."""
        return FINE

    def driven(self, reach: int) -> I64:
        """The largest current that one step's sum can be."""
        refuse_above(self.name, "max|sum|", np.array(reach), F32_EXACT)
        return scaled(np.array(reach, np.int64), self.fraction - self.weight_exponent)

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        return certify_drive(self, self.driven(reaches[0]), tensors)

    def work(self) -> Work:
        return Work(neurons=self.outputs, calls=24)


class Neurons(OnSums, frozen=True, kw_only=True):
    """What spiking neurons on raw sums share: how they reset, and what is read of them."""

    reset: CellReset = "subtract"
    inhibition: bool = False  # only the neuron with the largest membrane may spike, the first of equals
    reading: Literal["counts", "last", "max", "mean"] = "counts"

    def spikes(self) -> tuple[State, ...]:
        n = (self.outputs,)
        found = (State("v", "int16", n), State("fired", "bool", n), State("counts", "uint16", n))
        return found + gathered(self.reading, "int16", n)

    def reach(self, reaches: tuple[int, ...]) -> int:
        return 1

    def describe(self, tensors: Tensors) -> str:
        shape, inhibited = "x".join(map(str, self.shape)), ", one spike at most" * self.inhibition
        return f"{shape}, sum = s / 2^{self.weight_exponent}, reset {self.reset}{inhibited}"


class Cells(Neurons, tag="cells", frozen=True, kw_only=True):
    """Leaky integrate-and-fire neurons on raw sums, with a synaptic current of their own where `synaptic`.

    Tensors, p of them: `<name>.bias` int32 in Q3.12, synaptic Q7.24; `<name>.decay` uint16 in Q0.15; `<name>.threshold`
    int16 in Q3.12; synaptic: `<name>.alpha` uint16 in Q0.15; diagonal: `<name>.recurrent` int32 as the bias; dense:
    `<name>.recurrent` int8 (n, n) pre-major.
    """

    synaptic: bool = False
    recurrence: Literal["none", "diagonal", "dense"] = "none"
    recurrent_exponent: Exponent = 0
    reset_delay: bool = True

    def __post_init__(self) -> None:
        if self.reset == "soft" and (self.reset_delay or self.inhibition):
            raise SpecError("reset 'soft' acts in the spike's own step: reset_delay and inhibition must be false")
        if self.inhibition and not self.reset_delay and self.reset in ("zero", "hold"):
            raise SpecError(f"inhibition with reset {self.reset!r} needs reset_delay true")

    @property
    def fraction(self) -> int:
        return FINE if self.synaptic else COARSE

    def fields(self) -> tuple[Field, ...]:
        p, n = self.parameters, self.outputs
        found = [
            Field("bias", "int32", p, *I32_BOUNDS),
            Field("decay", "uint16", p, *Q15),
            Field("threshold", "int16", p, *THRESHOLD),
        ]
        if self.synaptic:
            found.append(Field("alpha", "uint16", p, *Q15))
        if self.recurrence == "diagonal":
            found.append(Field("recurrent", "int32", p, *I32_BOUNDS))
        if self.recurrence == "dense":
            found.append(Field("recurrent", "int8", (n, n), *WEIGHT))
        return tuple(found)

    def state(self) -> tuple[State, ...]:
        n = (self.outputs,)
        found = [*self.spikes(), State("carry", "uint16", n)]
        if self.synaptic:
            found += [State("current", "int32", n), State("current_carry", "uint16", n)]
        return tuple(found)

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        drive = self.driven(reaches[0])
        if self.recurrence == "diagonal":
            drive = drive + np.abs(self.tensor(tensors, "recurrent").astype(np.int64))
        if self.recurrence == "dense":
            total = fan_in(f"{self.name}.recurrent", tensors, plastic)
            refuse_above(self.name, "sum|w|", total, F32_EXACT)
            back = scaled(total, self.fraction - self.recurrent_exponent)
            drive = drive + back.reshape(-1, *self.parameters).max(axis=0)
        return certify_drive(self, drive, tensors)

    @property
    def echo(self) -> int:
        return {"none": 0, "diagonal": 1, "dense": self.outputs}[self.recurrence]


class AlphaCells(Neurons, tag="alpha-cells", frozen=True, kw_only=True):
    """Neurons whose membrane is the difference of two currents: E <- alpha E + I, N <- beta N - I, v = tau (E + N).

    Tensors, p of them: `<name>.bias` int32 in Q7.24; `<name>.alpha`, `<name>.beta` uint16 in Q0.15; `<name>.tau` int32
    in Q8.16; `<name>.threshold` int16 in Q3.12. The reset acts in the step after the spike.
    """

    def __post_init__(self) -> None:
        if self.reset == "zero":
            raise SpecError("reset 'zero' of alpha cells acts on the whole next step: it is called 'hold'")
        if self.reset == "soft":
            raise SpecError("reset 'soft' acts in the spike's own step, that of alpha cells in the next")

    def fields(self) -> tuple[Field, ...]:
        p = self.parameters
        return (
            Field("bias", "int32", p, *I32_BOUNDS),
            Field("alpha", "uint16", p, *Q15),
            Field("beta", "uint16", p, *Q15),
            Field("tau", "int32", p, *TAU),
            Field("threshold", "int16", p, *THRESHOLD),
        )

    def state(self) -> tuple[State, ...]:
        n = (self.outputs,)
        currents = [State(name, "int32", n) for name in ("excitatory", "inhibitory")]
        carries = [State(f"{current.name}_carry", "uint16", n) for current in currents]
        return (*self.spikes(), *currents, *carries)


class Integrators(OnSums, tag="integrators", frozen=True, kw_only=True):
    """Leaky integrators on raw sums, in Q7.24, with a synaptic current of their own where `synaptic`.

    Tensors, p of them: `<name>.bias` int32 in Q7.24; `<name>.decay` uint16 in Q0.15; synaptic: `<name>.alpha` uint16.
    """

    synaptic: bool = False
    reading: Reading = "last"

    def fields(self) -> tuple[Field, ...]:
        p = self.parameters
        found = [Field("bias", "int32", p, *I32_BOUNDS), Field("decay", "uint16", p, *Q15)]
        if self.synaptic:
            found.append(Field("alpha", "uint16", p, *Q15))
        return tuple(found)

    def state(self) -> tuple[State, ...]:
        n = (self.outputs,)
        found = [State("v", "int32", n), State("carry", "uint16", n)]
        if self.synaptic:
            found += [State("current", "int32", n), State("current_carry", "uint16", n)]
        return (*found, *gathered(self.reading, "int32", n))

    def reach(self, reaches: tuple[int, ...]) -> int:
        return 1 << 31

    def describe(self, tensors: Tensors) -> str:
        return f"{'x'.join(map(str, self.shape))}, sum = s / 2^{self.weight_exponent}, the {self.reading} value is read"


class SLstm(VectorLayer, tag="slstm", frozen=True, kw_only=True):
    """Long short-term memory whose hidden values are membranes: U = o * tanh(A), less the reset; a spike where U is at
    its threshold.

    Tensors: those of an `Lstm`, and `<name>.threshold` uint16 (n,) in Q0.15. The reset acts in the step after the spike
    and leaves the cell as it is.
    """

    reset: Reset = "none"
    hidden_map: Requant = Requant(multiplier=1, shift=8)  # from a membrane in Q0.15 to the int8 that goes back
    input_bound: Annotated[int, Meta(ge=1, le=128)] = 128
    cell_exponent: Annotated[int, Meta(ge=4, le=15)] = 9
    cell_limit: Annotated[int, Meta(ge=1, le=32767)] = 32767

    stateful: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.reset == "zero":
            raise SpecError("reset 'zero' of an SLSTM acts behind the input of the next step: it is called 'hold'")

    @property
    def lstm(self) -> Lstm:
        """Its gates and its cell, a layer for themselves."""
        return Lstm(
            name=self.name,
            inputs=self.inputs,
            hidden=self.outputs,
            hidden_map=self.hidden_map,
            input_bound=self.input_bound,
            cell_exponent=self.cell_exponent,
            cell_limit=self.cell_limit,
        )

    @property
    def sums(self) -> int:
        return self.lstm.sums

    def fields(self) -> tuple[Field, ...]:
        return (*self.lstm.fields(), Field("threshold", "uint16", (self.outputs,), 1, NEVER))

    def state(self) -> tuple[State, ...]:
        n = (self.outputs,)
        return (*self.lstm.state(), State("fired", "bool", n), State("counts", "uint16", n))

    def reach(self, reaches: tuple[int, ...]) -> int:
        return 1

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        return self.lstm.certify(tensors, reaches, plastic)

    def describe(self, tensors: Tensors) -> str:
        threshold = self.tensor(tensors, "threshold") / NEVER
        return f"threshold {threshold.min():.3g} to {threshold.max():.3g}, reset {self.reset}"

    def work(self) -> Work:
        """Membranes go back as values, not as spikes: the recurrent product is always whole."""
        inner, n = self.lstm.work(), self.outputs
        return inner._replace(macs=4 * n * n, synapses=4 * n * self.inputs, neurons=n, calls=inner.calls + 6)

    def fan_out(self) -> I64:
        return np.full(self.inputs, 4 * self.outputs)


SPIKING: Final = (Lif, Cells, AlphaCells, SLstm)
"""The kinds whose output is spikes, and of which a head reads spike counts unless the layer says otherwise."""


# ------------------------------------------------------------------ proofs and parts that they share


def certify_drive(layer: LayerRecord, drive: I64, tensors: Tensors) -> Certificate:
    """What the sums of one step drive, in the layer's fixed point, stays with the bias under 2**30."""
    bound = np.atleast_1d(drive + np.abs(layer.tensor(tensors, "bias").astype(np.int64)))
    refuse_above(layer.name, "largest input current", bound, DRIVE_LIMIT - 1)
    return Certificate(carrier="float32-dot", bound=int(bound.max()))


def certify_sums(name: str, weights: I64, reach: int, zero_point: int, bound: int) -> Certificate:
    """sum|w| * max|x - zero_point| of every channel is at most the bound that the layer promises."""
    total = weights * (reach + abs(zero_point))
    refuse_above(name, "sum|w| * max|x|", total, bound)
    return Certificate(carrier="float32-dot", bound=int(total.max()))


def scaled(total: I64, shift: int) -> I64:
    """The largest current that sums up to `total` can drive, half up where the shift is to the right."""
    return total << shift if shift >= 0 else (total + (1 << (-shift - 1))) >> -shift


def seen_by(size: int, before: int, after: int, kernel: int, stride: int, dilation: int) -> I64:
    """(size,)  along an axis, how many windows each place of the image lies in."""
    found = np.zeros(size, np.int64)
    starts = np.arange(positions(size, before, after, kernel, stride, dilation)) * stride - before
    for tap in range(kernel):
        places = starts + dilation * tap
        found[places[(places >= 0) & (places < size)]] += 1
    return found


def fan_in(name: str, tensors: Tensors, plastic: frozenset[str]) -> I64:
    """sum|w| over the inputs of each neuron of a pre-major (in, n) matrix."""
    weight = cast(I8, tensors[name])
    if name in plastic:
        return np.full(weight.shape[1], weight.shape[0] * WEIGHT_MAX, dtype=np.int64)
    return magnitude(weight, axis=0)


def gathered(reading: str, dtype: Literal["int16", "int32"], shape: tuple[int, ...]) -> tuple[State, ...]:
    """What is kept of a value over the window for a reading that is more than its newest one."""
    match reading:
        case "max":
            return (State("peak", dtype, shape),)
        case "mean":
            return (State("sum", "int64", shape), State("seen", "int32", (1,)))
    return ()
