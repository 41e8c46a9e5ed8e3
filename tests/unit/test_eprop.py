"""The integer rule is the paper's rule: three float forms agree with each other, and the integers with them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import eprop as paper
from reference import integers

from edgerun.arrays import AnyArray, Tensors
from edgerun.errors import SpecError
from edgerun.kernels import eprop
from edgerun.learn.eprop import EPropRule
from edgerun.network import Network
from edgerun.spec import ClassTable, EProp, InputSpec, LearningPlan, Lif, Manifest, PhaseRate, PlasticRate, Readout

INPUTS, NEURONS, CLASSES, STEPS = 24, 32, 5, 40
TENSORS = ("hidden.input", "hidden.recurrent", "out.input")


def float_net(adaptive: bool, seed: int = 0) -> paper.Net:
    rng = np.random.default_rng(seed)
    return paper.Net(
        w=rng.normal(0, 0.5, (7, 9)), r=rng.normal(0, 0.3, (9, 9)), o=rng.normal(0, 1, (9, 4)), alpha=0.9, kappa=0.8,
        rho=rng.uniform(0.9, 0.99, 9), beta=rng.uniform(0.1, 0.6, 9) * adaptive,
    )  # fmt: skip


@pytest.mark.parametrize("adaptive", [False, True], ids=["lif", "alif"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_three_float_forms_are_one_rule(adaptive: bool, seed: int) -> None:
    net = float_net(adaptive, seed)
    window = paper.run(net, (np.random.default_rng(seed).random((60, 7)) < 0.3).astype(float))
    assert 20 < window.z.sum() < 500
    error = paper.error_of(window.y, 1)
    forward = paper.as_the_paper_writes_it(net, window, error)
    for form, tolerance in ((paper.deferred, 1e-12), (paper.reverse_mode, 1e-10)):
        for name, want, got in zip(forward._fields, forward, form(net, window, error), strict=True):
            assert np.abs(want).max() > 0.01, name
            np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max(), err_msg=name)


def test_the_reverse_derivative_is_that_of_the_loss() -> None:
    """Readout weights meet no spike's derivative, so finite differences can judge them."""
    net = float_net(False)
    x = (np.random.default_rng(3).random((30, 7)) < 0.3).astype(float)
    window = paper.run(net, x)
    found = paper.reverse_mode(net, window, paper.error_of(window.y, 2)).o
    for j, k in ((0, 0), (3, 2), (8, 1)):
        losses = []
        for nudge in (1e-6, -1e-6):
            o = net.o.copy()
            o[j, k] += nudge
            y = paper.run(paper.Net(net.w, net.r, o, net.alpha, net.kappa, net.rho, net.beta), x).y
            losses.append(np.log(np.exp(y).sum()) - y[2])
        assert abs((losses[0] - losses[1]) / 2e-6 - found[j, k]) < 1e-6


# ------------------------------------------------------------------ the integer rule


def network(adaptive: bool, *, seed: int = 1, chunk: int = STEPS, reset: str = "subtract") -> Network:
    rng = np.random.default_rng(seed)
    hidden = Lif(
        name="hidden", inputs=INPUTS, outputs=NEURONS, weight_exponent=8, adaptive=adaptive, reset=reset,
    )  # fmt: skip
    out = Readout(name="out", inputs=NEURONS, outputs=CLASSES, weight_exponent=8)
    tensors: Tensors = {
        "hidden.input": np.clip(rng.normal(12, 40, (INPUTS, NEURONS)), -127, 127).astype(np.int8),
        "hidden.recurrent": np.clip(rng.normal(0, 20, (NEURONS, NEURONS)), -127, 127).astype(np.int8),
        "hidden.bias": np.zeros(NEURONS, np.int32),
        "hidden.decay": np.full(NEURONS, 31000, np.uint16),
        "out.input": np.clip(rng.normal(0, 50, (NEURONS, CLASSES)), -127, 127).astype(np.int8),
        "out.bias": np.zeros(CLASSES, np.int32),
        "out.kappa": np.full(CLASSES, 30000, np.uint16),
    }
    if adaptive:
        tensors["hidden.rho"] = rng.integers(31000, 32500, NEURONS).astype(np.uint16)
        tensors["hidden.beta"] = rng.integers(400, 3000, NEURONS).astype(np.int16)
    plan = EProp(
        layer="hidden", readout="out", chunk_steps=chunk, post_shift=6,
        rates=tuple(PlasticRate(tensor=name, eta=1, shift=10) for name in TENSORS),
    )  # fmt: skip
    manifest = Manifest(
        name="net", input=InputSpec(shape=(INPUTS,), dtype="uint8"),
        encoder=PhaseRate(steps=STEPS, full_scale=16), layers=(hidden, out),
        classes=ClassTable(names=tuple("abcde"), capacity=5), learning=LearningPlan(rule=plan),
    )  # fmt: skip
    return Network(manifest, tensors)


def float_twin(net: Network, gamma: float) -> paper.Net:
    t = net.tensors
    flat = {"rho": np.zeros(NEURONS), "beta": np.zeros(NEURONS)}
    if "hidden.beta" in t:
        flat = {"rho": t["hidden.rho"] / 32768, "beta": t["hidden.beta"] / 4096}
    return paper.Net(
        w=t["hidden.input"] / 256, r=t["hidden.recurrent"] / 256, o=t["out.input"] / 256,
        alpha=31000 / 32768, kappa=30000 / 32768, gamma=gamma, **flat,
    )  # fmt: skip


def integer_gradients(net: Network, q: AnyArray, label: int) -> tuple[dict[str, AnyArray], AnyArray, AnyArray]:
    rule = EPropRule(net.manifest, net.tensors)  # type: ignore[arg-type]
    lesson, error = rule.record(net, q), np.zeros(CLASSES, np.int32)
    rule.error(error, lesson, label, np.ones(CLASSES, np.bool_))
    found = {}
    for name, factors in rule.factors(lesson, error).items():
        found[name] = np.zeros(net.tensors[name].shape, np.int64)
        eprop.gradient(found[name], factors.history, factors.post)
    return found, lesson.recording.tapes["hidden"].spikes.astype(float), error


@pytest.mark.parametrize("adaptive", [False, True], ids=["lif", "alif"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_integer_gradient_points_where_the_float_one_does(adaptive: bool, seed: int) -> None:
    net = network(adaptive, seed=seed)
    q = np.random.default_rng(seed).integers(0, 10, INPUTS).astype(np.int16)
    found, spikes, error = integer_gradients(net, q, label=seed)
    x = np.array([integers.phase_rate(int(u), STEPS, 16) for u in q], float).T
    assert 0.03 < spikes.mean() < 0.6
    twin = float_twin(net, gamma=77 / 256)
    window = paper.run(twin, x, forced=spikes)
    want = paper.as_the_paper_writes_it(twin, window, error / 32768)
    for name, real in zip(TENSORS, want, strict=True):
        assert paper.cosine(found[name].astype(float), real) >= 0.99, name


def test_each_tensor_meets_the_trace_of_its_own_source() -> None:
    net = network(False)
    rule = EPropRule(net.manifest, net.tensors)  # type: ignore[arg-type]
    lesson = rule.record(net, np.random.default_rng(1).integers(0, 10, INPUTS).astype(np.int16))
    tape, error = lesson.recording.tapes["hidden"], np.array([9000, -20000, 5000, 3000, 3000], np.int32)
    found = rule.factors(lesson, error)
    late = np.vstack([np.zeros((1, NEURONS), np.uint8), tape.spikes[:-1]])
    sources = {"hidden.input": (tape.pre, 31000), "hidden.recurrent": (late, 31000), "out.input": (tape.spikes, 30000)}
    for name, (pre, decay) in sources.items():
        history = np.zeros(pre.shape, np.int16)
        eprop.traces(history, pre, decay)
        assert (found[name].history == history[-len(found[name].history) :]).all(), name
    assert found["out.input"].post.tolist() == [error.tolist()]
    signal = net.tensors["out.input"].astype(int) @ error
    at_end = [integers.sat16(integers.half_up(int(value), 7)) * (32768 - 30000) >> 15 for value in signal]
    psi = tape.psi[-1].astype(int)
    assert found["hidden.input"].post[-1].tolist() == [
        integers.sat16(integers.half_up(int(p) * lf, 6)) for p, lf in zip(psi, at_end, strict=True)
    ]


def test_adaptation_changes_the_gradient_enough_to_be_seen() -> None:
    """So that the test above could fail: without its own adjoint an adaptive layer would point elsewhere."""
    net = network(True)
    q = np.random.default_rng(1).integers(0, 10, INPUTS).astype(np.int16)
    found, spikes, error = integer_gradients(net, q, label=1)
    x = np.array([integers.phase_rate(int(u), STEPS, 16) for u in q], float).T
    twin = float_twin(net, gamma=77 / 256)
    window = paper.run(twin, x, forced=spikes)
    blind = paper.Net(twin.w, twin.r, twin.o, twin.alpha, twin.kappa, twin.rho, np.zeros(NEURONS))
    assert paper.cosine(found["hidden.input"].astype(float), paper.deferred(blind, window, error / 32768).w) < 0.99


def test_a_window_longer_than_the_chunk_keeps_its_traces_and_cuts_its_credit() -> None:
    q = np.random.default_rng(1).integers(0, 10, INPUTS).astype(np.int16)
    whole, cut = network(False), network(False, chunk=10)
    rules = [EPropRule(net.manifest, net.tensors) for net in (whole, cut)]  # type: ignore[arg-type]
    lesson, error = rules[0].record(whole, q), np.array([9000, -20000, 5000, 3000, 3000], np.int32)
    long, short = (rule.factors(lesson, error) for rule in rules)
    for name in TENSORS[:2]:
        assert short[name].history.shape[0] == 10
        assert (short[name].history == long[name].history[-10:]).all()
        assert (short[name].post == long[name].post[-10:]).all()


def test_only_what_eprop_can_change_may_be_named() -> None:
    net = network(False)
    plan = net.manifest.learning.rule
    assert plan is not None

    def with_plan(**fields: object) -> Manifest:
        parts = {name: getattr(plan, name) for name in plan.__struct_fields__} | fields
        manifest = {name: getattr(net.manifest, name) for name in net.manifest.__struct_fields__}
        return Manifest(**(manifest | {"learning": LearningPlan(rule=EProp(**parts))}))

    with pytest.raises(SpecError, match=r"cannot change 'hidden\.bias'"):
        EPropRule(with_plan(rates=(PlasticRate(tensor="hidden.bias", eta=1, shift=1),)), dict(net.tensors))
    with pytest.raises(SpecError, match="needs a lif layer feeding a readout"):
        EPropRule(with_plan(layer="out"), dict(net.tensors))
    uneven = net.tensors["hidden.decay"].copy()
    uneven[3] = 1
    with pytest.raises(SpecError, match=r"one time constant a layer; hidden\.decay runs from 1 to 31000"):
        EPropRule(net.manifest, dict(net.tensors) | {"hidden.decay": uneven})


# ------------------------------------------------------------------ kernels


@given(decay=st.integers(0, (1 << 15) - 1))
def test_a_trace_uses_its_range_and_cannot_saturate(decay: int) -> None:
    gain = eprop.trace_gain(decay)
    limit = (1 << gain) * 32768 / (32768 - decay)
    assert limit <= 32767 or gain == 0
    assert 2 * limit > 32767
    history = np.zeros((128, 1), np.int16)
    eprop.traces(history, np.ones((128, 1), np.uint8), decay)
    assert (np.diff(history[:, 0].astype(np.int32)) >= -1).all()
    assert history[-1, 0] < 32767 or decay == 0


def test_traces_and_the_readout_filter_equal_the_definition() -> None:
    rng = np.random.default_rng(5)
    pre, signal = rng.integers(0, 2, (60, 3)).astype(np.uint8), rng.integers(-32768, 32768, (60, 3)).astype(np.int32)
    history, lf = np.zeros((60, 3), np.int16), np.zeros((60, 3), np.int32)
    eprop.traces(history, pre, 30123)
    eprop.filter_backwards(lf, signal, 29001)
    for i in range(3):
        x = carry = 0
        for t in range(60):
            x, carry = integers.leak(x, carry, 30123, int(pre[t, i]) << eprop.trace_gain(30123))
            assert history[t, i] == x
        state = carry = 0
        for t in range(59, -1, -1):
            wide = state * 29001 + int(signal[t, i]) * (32768 - 29001) + carry
            state, carry = wide >> 15, wide & 0x7FFF
            assert lf[t, i] == state


def test_post_factors_equal_the_definition_at_every_shift() -> None:
    rng = np.random.default_rng(6)
    psi, lf = rng.integers(0, 256, (30, 4)).astype(np.uint8), rng.integers(-32768, 32768, (30, 4)).astype(np.int32)
    beta, rho = rng.integers(-32768, 32768, 4), rng.integers(0, 32769, 4)
    for shift in range(1, 9):
        post, adaptive = np.zeros((30, 4), np.int16), np.zeros((30, 4), np.int16)
        eprop.post_factor(post, psi, lf, shift)
        eprop.post_factor_adaptive(adaptive, psi, lf, shift, 77, beta, rho)
        for j in range(4):
            lam = 0
            for t in range(29, -1, -1):
                p, signal = int(psi[t, j]), int(lf[t, j])
                assert post[t, j] == integers.sat16(integers.half_up(p * signal, shift))
                seen = signal - integers.half_up(int(beta[j]) * lam, 12)
                assert adaptive[t, j] == integers.sat16(integers.half_up(p * seen, shift))
                lam = integers.half_up(77 * p * seen, 16) + integers.half_up(int(rho[j]) * lam, 15)
                lam = integers.sat32(lam)


@pytest.mark.parametrize("beta", [-32768, 32767])
def test_an_unstable_adjoint_saturates_and_does_not_wrap(beta: int) -> None:
    psi, lf = np.full((128, 1), 255, np.uint8), np.full((128, 1), 30000, np.int32)
    post, lam = np.zeros((128, 1), np.int16), 0
    eprop.post_factor_adaptive(post, psi, lf, 8, 256, np.array([beta]), np.array([32768]))
    for t in range(127, -1, -1):
        seen = 30000 - integers.half_up(beta * lam, 12)
        assert post[t, 0] == integers.sat16(integers.half_up(255 * seen, 8))
        lam = integers.sat32(integers.half_up(256 * 255 * seen, 16) + lam)
    assert abs(lam) >= (1 << 31) - 1


CARRIERS = {  # trace, post, steps: B at, and one step over, each carrier's bound
    "float32 at its bound": ((1 << 12), (1 << 12), 1),
    "float32 one over": ((1 << 12), (1 << 12) + 1, 1),
    "float32 over by many steps": (32767, 511, 128),
    "float64 at its largest": (32767, 32767, 128),
    "negative": (-32768, -32768, 128),
}


@pytest.mark.parametrize(("trace", "post", "steps"), CARRIERS.values(), ids=CARRIERS)
def test_every_carrier_of_the_gradient_has_the_same_bits(trace: int, post: int, steps: int) -> None:
    rng = np.random.default_rng(7)
    history, right = np.full((steps, 5), trace, np.int16), np.full((steps, 4), post, np.int16)
    history[:, 1:] -= rng.integers(0, 3, (steps, 4)).astype(np.int16) * np.sign(trace).astype(np.int16)
    right[:, 1:] -= rng.integers(0, 3, (steps, 3)).astype(np.int16) * np.sign(post).astype(np.int16)
    got = np.zeros((5, 4), np.int64)
    eprop.gradient(got, history, right)
    want = [[sum(int(a) * int(b) for a, b in zip(h, p, strict=True)) for p in right.T] for h in history.T]
    assert got.tolist() == want


def test_a_sum_just_over_a_float32_keeps_its_last_bit() -> None:
    history, post = np.full((4, 1), 129, np.int16), np.array([[32514], [32514], [32514], [32515]], np.int16)
    got = np.zeros((1, 1), np.int64)
    eprop.gradient(got, history, post)
    assert got.tolist() == [[129 * (4 * 32514 + 1)]] == [[(1 << 24) + 137]]


def test_no_steps_give_no_gradient() -> None:
    got = np.full((2, 3), 9, np.int64)
    eprop.gradient(got, np.zeros((0, 2), np.int16), np.zeros((0, 3), np.int16))
    assert not got.any()


def test_the_norm_without_the_gradient_is_near_the_norm_of_the_gradient() -> None:
    rng = np.random.default_rng(9)
    history = rng.integers(0, 20000, (40, 30)).astype(np.int16)
    post = rng.integers(-3000, 3001, (40, 25)).astype(np.int16)
    true = float(((history.T.astype(float) @ post.astype(float)) ** 2).sum()) / 2**24
    got = eprop.squared_norm(history, post)
    assert abs(got / true - 1) < 2e-3
    h, p = history.tolist(), post.tolist()
    exact = sum(
        (sum(a * b for a, b in zip(h[t], h[s], strict=True)) >> 12)
        * (sum(a * b for a, b in zip(p[t], p[s], strict=True)) >> 12)
        for t in range(40) for s in range(40)
    )  # fmt: skip
    assert got == exact


def test_the_norm_of_the_largest_factors_does_not_wrap() -> None:
    history, post = np.full((128, 4096), 32767, np.int16), np.full((128, 4096), -32768, np.int16)
    got = eprop.squared_norm(history, post)
    dots = (4096 * 32767**2 >> 12) * (4096 * 32768**2 >> 12)
    assert got == 128 * 128 * dots > 1 << 63
