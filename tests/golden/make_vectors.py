"""Make the vectors that every backend has to reproduce bit for bit.

    python tests/golden/make_vectors.py          writes vectors.npz and <family>.npz beside itself

Each file of `families/` says what layers of one family to try (`cases`) and what the slow reference makes of them
(`outputs`); its vectors are in `<family>.npz`, in the same form. `vectors.npz` holds arrays under
"<family>.<case>.<array>" and, under "about", a JSON text: this script, its seed, the versions that made it and the spec
of each layer. Layers come from the slow integers of `tests/reference`, the other families from the kernels that
`tests/unit` has held to their definitions. Nothing in it depends on a float's rounding.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))

from reference import integers, sound  # noqa: E402

from edgerun.arrays import AnyArray, Tensors  # noqa: E402
from edgerun.kernels import eprop, head, noise, plasticity, rmaxprop, softmax, superspike  # noqa: E402
from edgerun.kernels import sound as sounds  # noqa: E402
from edgerun.spec import Dense, Layer, Lif, LogMel, Readout, Requant  # noqa: E402

SEED = 1
STEPS = 24


def dense_case(
    rng: np.random.Generator, scale: float, zero_point: int, *, far: bool = False
) -> tuple[Dense, Tensors, AnyArray]:
    """`far`: the first channel's shift is the largest, which takes the whole layer to int64."""
    map_ = Requant.from_scale(scale)
    spec = Dense(name="fc", inputs=11, outputs=5, zero_point=zero_point, qmin=zero_point, input_bound=128)
    return (
        spec,
        {
            "fc.weight": rng.integers(-127, 128, (5, 11)).astype(np.int8),
            "fc.bias": rng.integers(-9999, 10000, 5).astype(np.int32),
            "fc.multiplier": np.full(5, map_.multiplier, np.int32),
            "fc.shift": np.array([46 if far else map_.shift] + [map_.shift] * 4, np.uint8),
        },
        rng.integers(-128, 128, (STEPS, 11)).astype(np.int16),
    )


def lif_case(rng: np.random.Generator, **fields: Any) -> tuple[Lif, Tensors, AnyArray]:
    spec = Lif(name="l", inputs=6, outputs=7, **({"weight_exponent": 6} | fields))
    tensors: Tensors = {
        "l.input": rng.integers(-127, 128, (6, 7)).astype(np.int8),
        "l.bias": rng.integers(-500, 900, 7).astype(np.int32),
        "l.decay": rng.integers(20000, 32769, 7).astype(np.uint16),
    }
    if spec.recurrent:
        tensors["l.recurrent"] = rng.integers(-127, 128, (7, 7)).astype(np.int8)
    if spec.adaptive:
        tensors["l.rho"] = rng.integers(30000, 32769, 7).astype(np.uint16)
        tensors["l.beta"] = rng.integers(200, 3000, 7).astype(np.int16)
    return spec, tensors, rng.integers(0, 2, (STEPS, 6)).astype(np.uint8)


def readout_case(rng: np.random.Generator, exponent: int) -> tuple[Readout, Tensors, AnyArray]:
    return (
        Readout(name="r", inputs=7, outputs=4, weight_exponent=exponent),
        {
            "r.input": rng.integers(-127, 128, (7, 4)).astype(np.int8),
            "r.bias": rng.integers(-(1 << 20), 1 << 20, 4).astype(np.int32),
            "r.kappa": rng.integers(20000, 32769, 4).astype(np.uint16),
        },
        rng.integers(0, 2, (STEPS, 7)).astype(np.uint8),
    )


def layer_cases(rng: np.random.Generator) -> dict[str, tuple[Layer, Tensors, AnyArray]]:
    return {
        "dense.folded": dense_case(rng, 2.0**-9, -3),
        "dense.dot": dense_case(rng, 0.0021, 17),
        "dense.wide": dense_case(rng, 0.0021, -128, far=True),
        "lif.subtract": lif_case(rng),
        "lif.subtract-now": lif_case(rng, reset_delay=False, refractory_steps=2),
        "lif.zero": lif_case(rng, reset="zero", recurrent=False, weight_exponent=4),
        "lif.none": lif_case(rng, reset="none", threshold=1500, weight_exponent=14),
        "lif.adaptive": lif_case(rng, adaptive=True),
        "lif.adaptive-resting": lif_case(rng, adaptive=True, reset="zero", reset_delay=False, refractory_steps=3),
        "readout.small": readout_case(rng, 12),
        "readout.saturating": readout_case(rng, 1),
        "lif.lifted": lif_case(rng, weight_exponent=7, recurrent_shift=2),
    }


def layer_outputs(spec: Layer, tensors: Tensors, x: AnyArray) -> Tensors:
    """What the slow reference says, step by step."""
    match spec:
        case Dense():
            parts = [tensors[f"fc.{part}"].tolist() for part in ("weight", "bias", "multiplier", "shift")]
            rows = [integers.dense(row, *parts, spec.zero_point, spec.qmin, spec.qmax) for row in x.tolist()]
            return {"y": np.array(rows, np.int8)}
        case Lif():
            lif = integers.SlowLif(spec, tensors)
            seen: dict[str, list[list[int]]] = {name: [] for name in ("fired", "v", "carry", "psi", "adaptation")}
            for row in x.tolist():
                lif.step(row)
                for name, steps in seen.items():
                    steps.append([getattr(neuron, name) for neuron in lif.neurons])
            return {name: np.array(steps, np.int16) for name, steps in seen.items()}
        case Readout():
            readout = integers.SlowReadout(spec, tensors)
            return {"y": np.array([readout.step(row) for row in x.tolist()], np.int32)}


def phase_rate(rng: np.random.Generator) -> Tensors:
    q = rng.integers(-9, 40, 12).astype(np.int16)
    return {"q": q, "spikes": np.array([integers.phase_rate(int(u), 20, 31) for u in q], np.uint8).T}


def log_mel(rng: np.random.Generator) -> Tensors:
    """A tone that rises out of noise, in 5 frames of 6 bands; the tables too, for a backend that has no cosine."""
    front, t = LogMel(sample_rate=8000, window=64), np.arange(900)
    wave = np.round(5000 * np.sin(t * t / 2000) * np.hanning(900) + rng.normal(0, 60, 900)).astype(np.int16)
    bank = sounds.triangles(sounds.mel_edges(6, front.low_hz, front.high_hz), front.window, front.sample_rate)
    q = np.array(sound.slow_log_mel(front, 5, 6, wave.tolist()), np.int8).reshape(5, 6)
    return {"wave": wave, "fourier": sounds.fourier(64).astype(np.int16), "bank": bank.astype(np.int16), "q": q}


def words(_: np.random.Generator) -> Tensors:
    at = [(1, 0, 0, 0), (1, 5, 3, 0), (2**64 - 1, 2**40 + 7, 16 * 4095 + 4, 2**32 - 2)]
    rows = [[integers.word(seed, update, stream, first + i) for i in range(4)] for seed, update, stream, first in at]
    return {"position": np.array(at, np.uint64), "words": np.array(rows, np.uint32)}


def eprop_case(rng: np.random.Generator) -> Tensors:
    pre, psi = rng.integers(0, 2, (STEPS, 5)).astype(np.uint8), rng.integers(0, 256, (STEPS, 4)).astype(np.uint8)
    signal, beta, rho = np.zeros((STEPS, 4), np.int32), rng.integers(-900, 9000, 4), rng.integers(30000, 32769, 4)
    signal[-1] = rng.integers(-32768, 32768, 4)
    trace, post, adaptive = (np.zeros((STEPS, n), np.int16) for n in (5, 4, 4))
    filtered, gradient = np.zeros((STEPS, 4), np.int32), np.zeros((5, 4), np.int64)
    eprop.traces(trace, pre, 31111)
    eprop.filter_backwards(filtered, signal, 30303)
    eprop.post_factor(post, psi, filtered, 6)
    eprop.post_factor_adaptive(adaptive, psi, filtered, 6, 77, beta, rho)
    eprop.gradient(gradient, trace, post)
    return {
        "pre": pre, "psi": psi, "signal": signal, "beta": beta, "rho": rho, "trace": trace, "filtered": filtered,
        "post": post, "post_adaptive": adaptive, "gradient": gradient,
        "squared_norm": np.array(eprop.squared_norm(trace, post)),
    }  # fmt: skip


def signals_case(rng: np.random.Generator) -> Tensors:
    """What comes before a window's factors: errors of values, feedback, the push of firing rates; and weight decay."""
    outputs, target = rng.integers(-(1 << 26), 1 << 26, (3, 2)), rng.integers(-9000, 9000, (3, 2)).astype(np.int16)
    feedback, spikes = rng.integers(-127, 128, (4, 2)).astype(np.int8), rng.integers(0, 2, (STEPS, 4)).astype(np.uint8)
    error, signal = np.zeros((3, 2), np.int32), np.zeros((3, 4), np.int32)
    near = eprop.value_error(error, outputs, target, 12)
    eprop.learning_signal(signal, error, feedback, 7)
    filtered = rng.integers(-32768, 32768, (STEPS, 4)).astype(np.int32)
    pushed = filtered.copy()
    eprop.regularise(pushed, spikes, 1234, 20000)
    shadow, faded = rng.integers(-32512, 32513, (3, 4)).astype(np.int16), np.zeros((3, 4), np.int64)
    noise_words = rng.integers(0, 1 << 32, (3, 4), dtype=np.uint32)
    plasticity.fade(faded, shadow, 10, noise_words)
    return {
        "outputs": outputs, "target": target, "error": error, "near": np.array(near), "feedback": feedback,
        "signal": signal, "spikes": spikes, "filtered": filtered, "pushed": pushed, "shadow": shadow,
        "words": noise_words, "faded": faded,
    }  # fmt: skip


def plasticity_case(rng: np.random.Generator) -> Tensors:
    """One update with pull and credit, then a boundary: arrays before, and after."""
    shape = (6, 5)
    shadow, ref = (rng.integers(-32512, 32513, shape).astype(np.int16) for _ in range(2))
    shadow[0], ref[0] = 32512, -32512
    gradient = rng.integers(-(1 << 30), 1 << 30, shape)
    code = rng.integers(0, 232, shape).astype(np.uint8)
    omega = rng.integers(-(1 << 20), 1 << 20, shape).astype(np.int32)
    before = {"shadow": shadow, "ref": ref, "code": code, "omega": omega}
    found = {"gradient": gradient} | {f"{name}_before": array.copy() for name, array in before.items()}
    small, made, wanted = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int64)
    weights, random = np.zeros(shape, np.int8), np.zeros(shape, np.uint32)

    def noise_for(use: noise.Use) -> AnyArray:
        noise.fill_words(random, noise.key(SEED, 9, noise.stream(2, use)))
        return random

    plasticity.small_gradient(small, gradient, 14)
    plasticity.wanted_step(wanted, gradient, 321, 27, noise_for(noise.Use.UPDATE))
    plasticity.pull(wanted, code, ref, shadow, 20, noise_for(noise.Use.PULL))
    found["wanted"] = wanted.copy()
    plasticity.write(made, shadow, wanted, 5000)
    plasticity.weights_from_shadow(weights, shadow)
    plasticity.credit(omega, small, made, noise_for(noise.Use.OMEGA))
    found |= {"small": small, "made": made, "weights": weights, "omega_credited": omega.copy()}
    plasticity.consolidate(code, ref, omega, shadow, 50, noise_for(noise.Use.IMPORTANCE))
    return found | {f"{name}_after": array for name, array in before.items()}


def softmax_case(rng: np.random.Generator) -> Tensors:
    logits, known = rng.integers(-(1 << 24), 1 << 24, (6, 9)), rng.integers(0, 2, (6, 9)).astype(np.bool_)
    label = rng.integers(0, 9, 6)
    known[np.arange(6), label] = True
    error = np.zeros((6, 9), np.int32)
    for k in range(6):
        softmax.softmax_error(error[k], logits[k], 18, known[k], int(label[k]))
    return {"logits": logits, "known": known, "label": label, "error": error}


def head_case(rng: np.random.Generator) -> Tensors:
    sums, counts = rng.integers(-900, 900, (5, 8)).astype(np.int32), np.array([7, 1, 0, 12, 3], np.int32)
    bias, z = rng.integers(-99, 99, 5).astype(np.int32), rng.integers(-128, 128, (4, 8))
    means, scores = np.zeros((5, 8), np.int64), np.zeros((4, 5), np.int32)
    head.class_means(means, sums, counts)
    head.prototype_scores(scores, z, means, bias, counts > 0)
    return {"sums": sums, "counts": counts, "bias": bias, "z": z, "means": means, "scores": scores}


def superspike_case(rng: np.random.Generator) -> Tensors:
    """One population's factors: errors of four outputs through a feedback matrix, potentials of five inputs."""
    raw = rng.integers(-1, 2, (STEPS, 4)) * superspike.ONE
    feedback, pre = rng.integers(-127, 128, (6, 4)).astype(np.int8), rng.integers(0, 2, (STEPS, 5)).astype(np.uint8)
    margin = rng.integers(-9000, 3000, (STEPS, 6))
    psi, post = np.zeros((STEPS, 6), np.uint16), np.zeros((STEPS, 6), np.int16)
    history = np.zeros((STEPS, 5), np.int16)
    signal = np.zeros((STEPS, 6), np.int32)
    eprop.learning_signal(signal, raw.astype(np.int32), feedback, 7)
    filtered = signal.copy()
    superspike.learning_signal(filtered, 26_828, 29_649)
    superspike.surrogate(psi, margin, 9)
    eprop.post_factor(post, psi, filtered, 11)
    superspike.potentials(history, pre, 26_828, 29_649)
    return {
        "raw": raw, "feedback": feedback, "pre": pre, "margin": margin, "signal": signal, "filtered": filtered,
        "psi": psi, "post": post, "history": history, "table": superspike.TABLE,
    }  # fmt: skip


def rmaxprop_case(rng: np.random.Generator) -> Tensors:
    """Three updates of one tensor, gradients of every size."""
    gradient = rng.integers(-(1 << 40), 1 << 40, (3, 6, 5)) >> rng.integers(0, 41, (3, 6, 5))
    code, words = rng.integers(0, 256, (6, 5)).astype(np.uint8), np.zeros((6, 5), np.uint32)
    found: Tensors = {"gradient": gradient, "code_before": code.copy()}
    normal, codes = gradient.copy(), np.zeros(gradient.shape, np.uint8)
    for number in range(3):
        noise.fill_words(words, noise.key(SEED, number, noise.stream(2, noise.Use.NORMALISE)))
        rmaxprop.normalise(normal[number], code, 330, 4, words)
        codes[number] = code
    return found | {"normal": normal, "codes": codes}


def narrow_case(rng: np.random.Generator) -> Tensors:
    """Profile small: traces in 8 bits, their gradient in 32, and one update with pull and credit, then a boundary."""
    pre, post = rng.integers(0, 2, (STEPS, 5)).astype(np.uint8), rng.integers(-9000, 9000, (9, 4)).astype(np.int16)
    late = integers.traces(pre.tolist(), 31111, 9, late=1, drop=8)
    history = np.array(integers.traces(pre.tolist(), 31111, 9, drop=8), np.int8)
    gradient, shape = np.zeros((5, 4), np.int32), (5, 4)
    eprop.gradient(gradient, history, post)
    shadow, random = rng.integers(-32384, 32641, shape).astype(np.int16), np.zeros(shape, np.uint32)
    shadow[0, :2] = -32384, 32640
    ref, code = rng.integers(-127, 128, shape).astype(np.int8), rng.integers(0, 232, shape).astype(np.uint8)
    omega = rng.integers(-32768, 32768, shape).astype(np.int16)
    before = {"shadow": shadow, "ref": ref, "code": code, "omega": omega}
    found = {f"{name}_before": array.copy() for name, array in before.items()}
    small, made, wanted = np.zeros(shape, np.int16), np.zeros(shape, np.int16), np.zeros(shape, np.int32)

    def noise_for(use: noise.Use) -> AnyArray:
        noise.fill_words(random, noise.key(SEED, 9, noise.stream(2, use)))
        return random

    plasticity.small_gradient(small, gradient, 6)
    plasticity.wanted_step(wanted, gradient, 321, 17, noise_for(noise.Use.UPDATE))
    plasticity.fade(wanted, shadow, 10, noise_for(noise.Use.DECAY), 128)
    plasticity.pull(wanted, code, ref, shadow, 20, noise_for(noise.Use.PULL))
    found["wanted"] = wanted.copy()
    plasticity.write(made, shadow, wanted, 5000, 128)
    plasticity.credit(omega, small, made, noise_for(noise.Use.OMEGA), 18)
    found |= {"small": small, "made": made, "omega_credited": omega.copy()}
    plasticity.consolidate(code, ref, omega, shadow, 50, noise_for(noise.Use.IMPORTANCE), 18)
    return found | {f"{name}_after": array for name, array in before.items()} | {
        "pre": pre, "history": history, "late": np.array(late, np.int8), "post": post, "gradient": gradient,
        "squared_norm": np.array(eprop.squared_norm(history, post, 8)),
    }  # fmt: skip


KERNELS = {
    "phase-rate.rate": phase_rate, "noise.words": words, "eprop.window": eprop_case,
    "plasticity.update": plasticity_case, "softmax.error": softmax_case, "head.prototypes": head_case,
    "log-mel.tone": log_mel, "superspike.window": superspike_case, "rmaxprop.update": rmaxprop_case,
    "eprop.signals": signals_case, "small.update": narrow_case,
}  # fmt: skip


def vectors() -> tuple[Tensors, dict[str, str]]:
    """All arrays by "<family>.<case>.<array>", and the spec of each layer case as JSON."""
    arrays: Tensors = {}
    specs: dict[str, str] = {}
    for case, (spec, tensors, x) in layer_cases(np.random.default_rng(SEED)).items():
        specs[case] = msgspec.json.encode(spec, order="sorted").decode()
        found = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
        arrays |= {f"{case}.{name}": a for name, a in (found | {"x": x} | layer_outputs(spec, tensors, x)).items()}
    for number, (case, make) in enumerate(KERNELS.items()):
        arrays |= {f"{case}.{name}": a for name, a in make(np.random.default_rng([SEED, number])).items()}
    return arrays, specs


def family(name: str) -> ModuleType:
    """The module of one family of layers.

    cases(rng)                  by case, a layer, its tensors, and what each source gives, (steps, width) each
    outputs(spec, tensors, xs)  by name, (steps, ...): "y" what the layer gives, other names what its state holds
    """
    spec = importlib.util.spec_from_file_location(f"golden_{name}", HERE / "families" / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def family_vectors(name: str) -> tuple[Tensors, dict[str, str]]:
    """The same as `vectors` for one family; the sources of a case are x0, x1, ..."""
    module = family(name)
    arrays: Tensors = {}
    specs: dict[str, str] = {}
    for case, (spec, tensors, xs) in module.cases(np.random.default_rng(SEED)).items():
        specs[case] = msgspec.json.encode(spec, order="sorted").decode()
        found = {key.rpartition(".")[2]: tensor for key, tensor in tensors.items()}
        found |= {f"x{k}": x for k, x in enumerate(xs)} | module.outputs(spec, tensors, xs)
        arrays |= {f"{case}.{key}": array for key, array in found.items()}
    return arrays, specs


FAMILIES = sorted(path.stem for path in (HERE / "families").glob("*.py"))


def write(name: str, made: Tensors, layers: dict[str, str]) -> None:
    about = {
        "script": "tests/golden/make_vectors.py", "seed": SEED, "layers": layers,
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "msgspec": msgspec.__version__},
    }  # fmt: skip
    np.savez_compressed(HERE / f"{name}.npz", about=np.array(json.dumps(about, sort_keys=True)), **made)


if __name__ == "__main__":
    write("vectors", *vectors())
    for name in FAMILIES:
        write(name, *family_vectors(name))
