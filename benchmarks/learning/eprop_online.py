"""E-prop at the window's end and step by step: the same digits on a turned sensor, as much learned, the memory of each.

    python benchmarks/learning/eprop_online.py --seeds 5 --markdown docs/results.md        (make bench-eprop-online)

The demo's factory net meets digits turned by 25 degrees, each once, in random order, one lesson an image; its own
readout decides. Both forms take their errors after the last four steps of a window: `deferred` keeps the window and
makes one update of them, `online` keeps nothing and makes four, each a quarter as long.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
from scenario import Run, command, cost, publish, save
from tables import Table, spread

from deploy.demo import arms, digits
from deploy.demo.digits import Digits, Split
from deploy.demo.prepare import make_bundles
from edgerun.bundle import Bundle
from edgerun.errors import DataError
from edgerun.lifetime import new_learner
from edgerun.price import memory_plan
from edgerun.rules import EProp, EPropOnline
from edgerun.spec import PlasticRate, Replay
from exporters.runs import by_arm

SCENARIO = "eprop_online"
TARGETS = 4  # steps that have an error
LATE = 5  # tests that an accuracy is the mean of
KNOWN = 29491  # p(label) of 0.9, Q0.15
TASKS = ("turned", "straight")


def taught_by(bundle: Bundle, *, online: bool) -> Bundle:
    """The bundle with e-prop alone, in one of its forms: no replay, no consolidation, every class in play."""
    plan = bundle.manifest.learning
    if not isinstance(plan.rule, EProp):
        raise DataError("the factory's bundle does not learn by e-prop")
    fields = msgspec.structs.asdict(plan.rule) | {
        "target_steps": TARGETS, "error_threshold": KNOWN, "recent_labels": 0,
    }  # fmt: skip
    if online:
        fields |= {"chunk_steps": 1, "rates": tuple(shorter(rate) for rate in plan.rule.rates)}
    rule = EPropOnline(**fields) if online else EProp(**fields)
    plan = msgspec.structs.replace(plan, rule=rule, intelligence=None, replay=Replay(capacity=0))
    manifest = msgspec.structs.replace(bundle.manifest, learning=plan)
    return replace(bundle, manifest=manifest, priors={}, exemplars=None)


def shorter(rate: PlasticRate) -> PlasticRate:
    """A step a TARGETS-th as long."""
    return msgspec.structs.replace(rate, shift=rate.shift + 2, max_norm=max(1, rate.max_norm // TARGETS))


def one_run(arm: str, bundle: Bundle, data: Split, stream: Digits, seed: int) -> Run:
    learner = new_learner(bundle)
    before = arms.both(learner, data.test, "readout")
    count, late = len(stream.y), list[dict[str, float]]()
    at = {count - k * count // 10 for k in range(LATE)}
    for k, (image, label) in enumerate(zip(arms.flat(digits.turned(stream.x)), stream.y, strict=True), start=1):
        learner.apply(learner.plan_lesson(image.astype(np.int16), int(label), "full"))
        if k in at:
            late.append(arms.both(learner, data.test, "readout"))
    after = {name: float(np.mean([each[name] for each in late])) for name in before}
    memory, energy = cost(bundle)
    slots = memory_plan(bundle).slots
    lesson = sum(slot.bytes for name, slot in slots.items() if name.startswith(("tape.", "trace.")))
    figures = {"turned": after["drifted"], "straight": after["old"], "turned before": before["drifted"]}
    figures |= {"updates": float(learner.updates), "bytes of a lesson": float(lesson)}
    return Run(scenario=SCENARIO, arm=arm, seed=seed, figures=figures, memory_bytes=memory, energy_uj=energy)


TEXT = """## E-prop: at the window's end, or at every step

By `make bench-eprop-online`: the demo's factory net (digits, {steps} steps a window) meets {lessons} digits turned by
25 degrees, each once, in random order; its own readout decides. Errors are taken after the last {targets} steps of a
window. `deferred` keeps the window and makes one update of all of them, `online` keeps nothing of it and makes
{targets} updates, each a quarter as long. No replay, no consolidation. Accuracy in percent on {tests} images of the
turned sensor and of the straight one, the mean of {late} tests in the last two fifths of the lessons; mean ± standard
deviation over seeds {seeds}.

{table}

Online less deferred, paired by seed, in points: turned {turned}, straight {straight}. Bytes of a lesson are the
recorded window and what is made of it; energy is that of one window's learning beside its answer, on a Pico 2
(estimated).
"""


def page(runs: Sequence[Run], lessons: int, tests: int, steps: int) -> str:
    found = by_arm(runs)
    rows = []
    for arm, mine in found.items():
        shares = tuple(spread([run.figures[name] for run in mine]) for name in ("turned before", *TASKS))
        size = f"{mine[0].figures['bytes of a lesson']:,.0f}"
        updates = f"{np.mean([run.figures['updates'] for run in mine]):.0f}"
        rows.append((arm, *shares, updates, size, f"{mine[0].energy_uj['update']:.0f}"))
    heads = ("form", "turned, before", *TASKS, "updates", "bytes of a lesson", "uJ")
    apart = {name: gap(found, name) for name in TASKS}
    return TEXT.format(
        table=Table("", heads, rows).markdown().strip(),
        lessons=lessons, tests=tests, targets=TARGETS, steps=steps, late=LATE,
        seeds=", ".join(str(run.seed) for run in found["online"]), **apart,
    )  # fmt: skip


def gap(found: dict[str, list[Run]], name: str) -> str:
    pairs = zip(found["online"], found["deferred"], strict=True)
    gaps = [100 * (online.figures[name] - deferred.figures[name]) for online, deferred in pairs]
    return f"{np.mean(gaps):+.1f} ± {np.std(gaps, ddof=min(1, len(gaps) - 1)):.1f}"


def main() -> int:
    args = command(__doc__, short="one seed, few digits: seconds", seeds=5).parse_args()
    factory, field = digits.load()
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundles(Path(folder), factory).spiking
    forms = {"deferred": taught_by(bundle, online=False), "online": taught_by(bundle, online=True)}
    for seed in range(1, (1 if args.short else args.seeds) + 1):
        data = digits.split(field, seed)
        order = np.random.default_rng([seed, 5]).permutation(len(data.stream.y))[: 60 if args.short else None]
        stream = data.stream.take(order)
        for arm, form in forms.items():
            runs.append(one_run(arm, form, data, stream, seed))
            print(f"seed {seed}: {arm} {runs[-1].figures}", file=sys.stderr, flush=True)
        save(args.output, runs)
    publish(args, runs, page(runs, len(stream.y), len(data.test.y), bundle.manifest.steps))
    return 0


if __name__ == "__main__":
    sys.exit(main())
