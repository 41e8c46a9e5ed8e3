"""Digits in blocks over several seeds: the three arms of `edgerun demo`, by both heads, with mean and spread.

    python benchmarks/learning/digits_blocks.py --seeds 5          (make bench-digits)

The factory bundle is the same for every seed; the seed draws stream, test, order and shots. Learning runs at level
"full" all the time: the demo's governor may do less. Prints a table; --json FILE keeps every number.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from deploy.demo import arms, digits
from deploy.demo.prepare import float_accuracy, make_bundles


def one_seed(bundle, field, seed: int) -> dict[str, float]:
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
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 1 on")
    parser.add_argument("--json", type=Path, help="write every seed's numbers here")
    args = parser.parse_args()
    factory, field = digits.load()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundles(Path(folder), factory).spiking
        for seed in range(1, args.seeds + 1):
            rows.append(one_seed(bundle, field, seed))
            print(f"seed {seed} of {args.seeds} done", file=sys.stderr)
    print(
        f"{'accuracy in percent, ' + str(args.seeds) + ' seeds':44s} {'mean':>6s} {'sd':>5s} {'least':>6s} {'most':>6s}"
    )
    for key in rows[0]:
        values = 100 * np.array([row[key] for row in rows])
        print(f"{key:44s} {values.mean():6.1f} {values.std(ddof=1):5.1f} {values.min():6.1f} {values.max():6.1f}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
