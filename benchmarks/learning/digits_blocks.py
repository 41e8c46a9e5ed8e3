"""Digits in blocks over several seeds: the three arms of `edgerun demo`, by both heads, with mean and spread.

    python benchmarks/learning/digits_blocks.py --seeds 5 --markdown docs/results.md          (make bench-digits)

The factory bundle is the same for every seed; the seed draws stream, test, order and shots. Learning runs at level
"full" all the time: the demo's governor may do less. Prints a table; --json FILE keeps every number, --markdown FILE
rewrites its section of that page.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from scenario import section

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


def one_seed(bundle: Bundle, dense: Bundle, field: Digits, seed: int) -> dict[str, float]:
    data = digits.split(field, seed)
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 1 on")
    parser.add_argument("--json", type=Path, help="write every seed's numbers here")
    parser.add_argument("--markdown", type=Path, help="rewrite its section of this page")
    args = parser.parse_args()
    factory, field = digits.load()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bundles = make_bundles(Path(folder), factory)
        for seed in range(1, args.seeds + 1):
            rows.append(one_seed(bundles.spiking, bundles.dense, field, seed))
            print(f"seed {seed} of {args.seeds} done", file=sys.stderr)
    table = summary(rows)
    print(f"{f'accuracy in percent, {args.seeds} seeds':48s} {'mean':>6s} {'sd':>6s} {'least':>6s} {'most':>6s}")
    for name, *figures in table:
        print(f"{name:48s} " + " ".join(f"{figure:6.1f}" for figure in figures))
    if args.markdown:
        section(args.markdown, "digits_blocks", page(table, args.seeds))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
