"""Digits in blocks over several seeds: the three arms of `edgerun demo`, by both heads, with mean and spread.

    python benchmarks/learning/digits_blocks.py --seeds 5 --markdown docs/results.md          (make bench-digits)
    python benchmarks/learning/digits_blocks.py --short                  seconds: one seed, a quarter of the stream

The factory bundle is the same for every seed; the seed draws stream, test, order and shots. Learning runs at level
"full" all the time: the demo's governor may do less. Every seed's numbers go to --output.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from profiles import shortened
from scenario import Run, command, publish

from deploy.demo import arms, digits
from deploy.demo.digits import Digits, Split
from deploy.demo.prepare import float_accuracy, make_bundles
from edgerun import encode
from edgerun.bundle import Bundle
from edgerun.lifetime import new_learner

TEXT = """## Digits in blocks, {seeds} seeds

By `make bench-digits`. Every figure is accuracy in percent on images that no arm has learned from.

The factory network (0 to 7) meets 24 straight images and 456 turned by 25 degrees, two classes at a time, each one
corrected once; then 8 and 9 are taught with ten examples each. `benchmarks/learning/digits_blocks.py` runs the learner
itself, without agent and governor; `edgerun demo` runs one seed of the same through the whole system.

- `none`: factory weights. `plain`: e-prop on every correction, softmax over all classes, no replay, no consolidation,
  no error threshold; its own readout decides. `full`: the bundle's plan, prototypes decide.
- Rows with a head's name score the arm by that head. They tell the rule's part from the head's part: with the same
  readout, replay and consolidation make the difference between `plain.readout.old` and `full.readout.old`; a prototype
  head whose prototypes nobody moves forgets little by itself (`plain.prototypes.old`), but follows the turned sensor
  far less (`plain.prototypes.drifted`).
- `(turned)`: 8 and 9 taught and tested on the turned sensor instead of the straight one. Old classes then lose more.
- `(dense)`: the multilayer perceptron, which learns new classes through prototypes only; straight sensor.

| | mean | sd | least | most |
|---|---:|---:|---:|---:|
"""

Row = tuple[str, float, float, float, float]
REST = "headlines"
"""The arm of what is told of several arms, or of none."""


def dense_network(bundle: Bundle, data: Split) -> dict[str, float]:
    """The MLP: accuracy at the factory, then 8 and 9 as prototypes. Its images are quantised by its own input scale."""
    entry = bundle.manifest.input
    sets = {
        name: Digits(np.stack([encode.quantise(entry, image) for image in part.x]), part.y)
        for name, part in (("test", data.test), ("shots", data.shots), ("new_test", data.new_test))
    }
    integers, learner = replace(data, **sets), new_learner(bundle)
    before = arms.accuracy(learner, integers.test, "prototypes", drifted=False)
    return {"factory_int (dense)": before} | {
        f"{key} (dense)": value for key, value in arms.teach_new(learner, integers).items()
    }


def one_seed(bundle: Bundle, dense: Bundle, data: Split) -> dict[str, float]:
    results = {arm: arms.run_arm(bundle, arm, data) for arm in arms.ARMS}
    row = arms.headline({arm: result.by_head for arm, result in results.items()})
    for arm, result in results.items():
        for head, pair in result.by_head.items():
            row |= {f"{arm}.{head}.{kind}": value for kind, value in pair.items()}
    straight, turned = results["full"].learner, arms.run_arm(bundle, "full", data).learner
    row |= arms.teach_new(straight, data)
    row |= {f"{key} (turned)": value for key, value in arms.teach_new(turned, data, drifted=True).items()}
    row["factory_int"] = arms.accuracy(arms.arm_learner(bundle, "none"), data.test, "prototypes", drifted=False)
    row["float"] = float_accuracy(data.test)
    return row | dense_network(dense, data)


def summary(rows: list[dict[str, float]]) -> list[Row]:
    """(key, mean, sample standard deviation, least, most) in percent."""
    table = []
    for key in rows[0]:
        values = 100 * np.array([row[key] for row in rows])
        spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        table.append((key, float(values.mean()), spread, float(values.min()), float(values.max())))
    return table


def page(table: list[Row], seeds: int) -> str:
    lines = [f"| {name} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |" for name, *figures in table]
    return TEXT.format(seeds=seeds) + "\n".join(lines) + "\n"


def runs(row: dict[str, float], seed: int) -> list[Run]:
    """A run of each arm, and one of all else, in percent."""
    parts: dict[str, dict[str, float]] = {arm: {} for arm in (*arms.ARMS, REST)}
    for key, value in row.items():
        arm, _, name = key.partition(".")
        parts[arm if name else REST][name or key] = 100 * value
    return [Run(scenario="digits_blocks", arm=arm, seed=seed, figures=figures) for arm, figures in parts.items()]


def main() -> int:
    args = command(__doc__, short="one seed, a quarter of the stream", seeds=5).parse_args()
    factory, field = digits.load()
    rows, seeds = [], 1 if args.short else args.seeds
    with tempfile.TemporaryDirectory() as folder:
        bundles = make_bundles(Path(folder), factory)
        for seed in range(1, seeds + 1):
            data = digits.split(field, seed)
            rows.append(one_seed(bundles.spiking, bundles.dense, shortened(data) if args.short else data))
            print(f"seed {seed} of {seeds} done", file=sys.stderr)
    made = [run for seed, row in enumerate(rows, 1) for run in runs(row, seed)]
    publish(args, made, page(summary(rows), seeds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
