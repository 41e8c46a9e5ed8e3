"""Profile `small` beside `standard` on digits in blocks: what half the memory costs, seed by seed.

    python benchmarks/learning/profiles.py --seeds 10 --markdown docs/results.md          (make bench-profiles)

Both bundles are exported from the same spiking network and learn the same stream, the full arm of `digits_blocks.py`
at level "full". Every difference is small less standard on the same seed. --short takes one seed and a quarter of the
stream; --output FOLDER keeps every run, --markdown FILE rewrites its section of that page.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final, get_args

import numpy as np
from scenario import Run, command, publish

from deploy.demo import arms, digits
from deploy.demo.digits import Digits, Split
from deploy.demo.prepare import SPIKING
from edgerun.bundle import Bundle, read_bundle
from edgerun.price import checkpoint_bytes, memory_plan
from edgerun.spec import ProfileName
from exporters.export import Options, export

PROFILES: Final[tuple[ProfileName, ...]] = get_args(ProfileName)
SCENARIO: Final = "profiles"
SHORT: Final = 4  # every so many-th image of the stream
NAMES: Final = {
    "prototypes.old": "straight images, prototypes", "prototypes.drifted": "turned images, prototypes",
    "readout.old": "straight images, readout", "readout.drifted": "turned images, readout",
    "new_classes": "8 and 9, ten examples each", "old_classes_after_teaching": "0 to 7 after that",
}  # fmt: skip
TEXT = """## Half the memory: profile small, {seeds} seeds

By `make bench-profiles`: e-prop, synaptic intelligence, replay of 160 and prototypes on the recurrent net 64-128-10,
the full arm of digits in blocks, exported once with each [profile](arithmetic.md#profile-small). Accuracy in percent on
images that nobody has learned from, mean ± standard deviation over seeds; a difference is taken seed by seed.

{accuracy}

Bytes of RAM by `edgerun plan`, which is what is carved, and of a checkpoint:

{memory}
"""


def bundles(folder: Path, factory: Digits) -> dict[ProfileName, Bundle]:
    """The digits network with each profile."""
    calibration = folder / "calibration.npz"
    np.savez(calibration, x=factory.x, y=factory.y)
    names, found = digits.CLASSES[: digits.FACTORY_CLASSES], {}
    for profile in PROFILES:
        options = Options(
            learn="eprop", profile=profile, classes=names, capacity=len(digits.CLASSES), name=f"digits-{profile}"
        )
        found[profile] = read_bundle(export(SPIKING, calibration, options).data)
    return found


def one_seed(bundle: Bundle, data: Split) -> dict[str, float]:
    """Everything measured, in percent."""
    result = arms.run_arm(bundle, "full", data)
    row = {f"{head}.{kind}": value for head, pair in result.by_head.items() for kind, value in pair.items()}
    row |= arms.teach_new(result.learner, data)
    return {name: 100 * row[name] for name in NAMES}


def shortened(data: Split) -> Split:
    stream = data.stream
    return replace(data, stream=Digits(stream.x[::SHORT], stream.y[::SHORT]))


def accuracy_table(rows: dict[ProfileName, list[dict[str, float]]]) -> str:
    lines = ["| | standard | small | difference |", "|---|---:|---:|---:|"]
    for name, words in NAMES.items():
        standard, small = (np.array([row[name] for row in rows[profile]]) for profile in PROFILES)
        cells = " | ".join(spread(values) for values in (standard, small, small - standard))
        lines.append(f"| {words} | {cells} |")
    return "\n".join(lines)


def spread(values: np.ndarray) -> str:
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{values.mean():.1f} ± {deviation:.1f}"


def memory_table(found: dict[ProfileName, Bundle]) -> str:
    plans = [memory_plan(found[profile]) for profile in PROFILES]
    lines = ["| | standard | small |", "|---|---:|---:|"]
    parts = [plan.bytes_by_part() for plan in plans]
    lines += [f"| {name} | " + " | ".join(f"{sizes[name]:,}" for sizes in parts) + " |" for name in parts[0]]
    lines.append("| **all RAM** | " + " | ".join(f"**{plan.total_bytes:,}**" for plan in plans) + " |")
    lines.append("| checkpoint | " + " | ".join(f"{checkpoint_bytes(found[each]):,}" for each in PROFILES) + " |")
    return "\n".join(lines)


def main() -> int:
    args = command(__doc__, short="one seed, a quarter of the stream", seeds=10).parse_args()
    factory, field = digits.load()
    seeds = 1 if args.short else args.seeds
    with tempfile.TemporaryDirectory() as folder:
        found = bundles(Path(folder), factory)
    rows: dict[ProfileName, list[dict[str, float]]] = {profile: [] for profile in PROFILES}
    for seed in range(1, seeds + 1):
        data = digits.split(field, seed)
        for profile in PROFILES:
            rows[profile].append(one_seed(found[profile], shortened(data) if args.short else data))
        print(f"seed {seed} of {seeds} done", file=sys.stderr)
    runs = [
        Run(scenario=SCENARIO, arm=profile, seed=seed, figures=figures)
        for profile in PROFILES
        for seed, figures in enumerate(rows[profile], 1)
    ]
    publish(args, runs, TEXT.format(seeds=seeds, accuracy=accuracy_table(rows), memory=memory_table(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
