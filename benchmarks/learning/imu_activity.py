"""Activity from a waist phone: a net trained on some people follows a new one, whose labels come late and seldom.

    python benchmarks/learning/imu_activity.py [--people 5] [--short] [-o FILE.json] [--markdown docs/results.md]

Windows of 2.56 s, half overlapping, of the six activities; 32 moments of acceleration and turn rate drive recurrent LIF
neurons. Five groups of five people are left out of the training in turn. The stream of each is played as it was
recorded, activities in blocks: every second window gets a label, and that 20 windows (26 s) later. What counts is what
the device says of a window when it comes (before its label), and the windows of people it knew, at the end.

Arms: none; prototypes; plain (e-prop, nothing that protects); full (the bundle's plan: e-prop, replay, synaptic
intelligence, prototypes). All in the integers of `learn.Learner`. Needs EDGERUN_DATA and the extra train.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1]))

import scenario
from scenario import Run
from torch import nn

from deploy.demo.arms import plain_plan
from edgerun import encode
from edgerun.bundle import Bundle, read_bundle
from edgerun.learn.records import Settle
from edgerun.lifetime import new_learner
from exporters.export import Options, export
from exporters.training.surrogate import RecurrentLif, Shape, write_nir

ACTIVITIES: Final = ("walking", "upstairs", "downstairs", "sitting", "standing", "lying")
WINDOW, STRIDE, MOMENTS = 128, 64, 32
GROUPS: Final = 5
EVERY, LATE = 2, 20  # one window in so many has a label, and so many windows later
HIDDEN, EPOCHS, BATCH, RATE = 128, 25, 128, 3e-3
SCALE: Final = np.float32([1, 1, 1, 2, 2, 2])  # turn rates are halved
ARMS: Final = ("none", "prototypes", "plain", "full")


@dataclass(frozen=True)
class Windows:
    """x (n, moments, 6) real, y (n,) activity, person (n,)."""

    x: Any
    y: Any
    person: Any

    def of(self, index: Any) -> Windows:
        return Windows(self.x[index], self.y[index], self.person[index])


def load() -> Windows:
    """Windows of one activity throughout, in the order of the recordings."""
    folder = os.environ.get("EDGERUN_DATA")
    if not folder or not Path(folder, "hapt_imu.npz").is_file():
        raise SystemExit("EDGERUN_DATA must name a folder with hapt_imu.npz")
    x, y, person = [], [], []
    with np.load(Path(folder, "hapt_imu.npz")) as file:
        values, label = (file["imu"] * file["scale"]).astype(np.float32) / SCALE, file["label"]
        for k, subject in enumerate(file["subject"]):
            for first in range(int(file["offsets"][k]), int(file["offsets"][k + 1]) - WINDOW + 1, STRIDE):
                inside = label[first : first + WINDOW]
                if 1 <= inside[0] <= len(ACTIVITIES) and (inside == inside[0]).all():
                    x.append(values[first : first + WINDOW].reshape(MOMENTS, -1, 6).mean(axis=1))
                    y.append(int(inside[0]) - 1)
                    person.append(int(subject))
    return Windows(np.stack(x), np.array(y), np.array(person))


def train(known: Windows, seed: int, epochs: int) -> RecurrentLif:
    """A net for these people; turned a little and scaled, as phones are worn."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    net = RecurrentLif(Shape(inputs=6, hidden=HIDDEN, outputs=len(ACTIVITIES), beta=0.85), seed, input_gain=1.5)
    batches = len(known.x) // BATCH
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=epochs * batches)
    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(len(known.x)), batches):
            logits, counts = net(torch.from_numpy(worn(known.x[rows], rng)))
            rate = counts.mean(0) / MOMENTS
            loss = nn.functional.cross_entropy(logits, torch.from_numpy(known.y[rows]), label_smoothing=0.1)
            loss = loss + 0.05 * torch.relu(rate - 0.25).square().sum() + 0.1 * torch.relu(0.02 - rate).sum()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    return net


def worn(x: Any, rng: np.random.Generator) -> Any:
    """Windows of phones that sit a little turned, by about 10 degrees, and of people a little livelier."""
    turn = np.eye(3) + rng.normal(0, 0.12, (len(x), 3, 3))
    turn, _ = np.linalg.qr(turn)
    turn = turn * np.sign(np.einsum("nii->ni", turn))[:, None, :]
    both = np.concatenate([np.einsum("nij,ntj->nti", turn, x[..., k : k + 3]) for k in (0, 3)], axis=2)
    return (both * rng.uniform(0.9, 1.1, (len(x), 1, 1))).astype(np.float32)


def exported(net: RecurrentLif, known: Windows) -> Bundle:
    with tempfile.TemporaryDirectory() as folder:
        model, data = Path(folder, "imu.nir"), Path(folder, "known.npz")
        write_nir(net, model, {"encoder": "frames", "steps": MOMENTS})
        np.savez(data, x=known.x, y=known.y, class_names=np.array(ACTIVITIES))
        return read_bundle(export(model, data, Options(learn="eprop", beside=True, capacity=len(ACTIVITIES))).data)


def played(bundle: Bundle, arm: str, q: Any, y: Any, probe_q: Any, probe_y: Any) -> dict[str, float]:
    """The stream once through one arm: shares of right answers when windows came, by halves, and on the probe after."""
    if arm == "plain":
        plan = plain_plan(bundle.manifest.learning)
        bundle = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, learning=plan))
    learner, waiting, right, updates = new_learner(bundle), deque[int](), [], 0
    for k, sample in enumerate(q):
        right.append(learner.network.infer(sample).label == y[k])
        if k % EVERY == 0:
            waiting.append(k)
        if arm != "none" and waiting and k - waiting[0] >= LATE:
            past = waiting.popleft()
            level = "head" if arm == "prototypes" else "full"
            told = learner.apply(learner.plan_lesson(q[past], int(y[past]), level, past))
            updates += told.updates if told else 0
    learner.apply(Settle())
    half = len(right) // 2
    return {
        "first half": float(np.mean(right[:half])),
        "second half": float(np.mean(right[half:])),
        "known people": float((learner.scores(probe_q).argmax(axis=1) == probe_y).mean()),
        "updates": float(updates),
    }


def quantised(bundle: Bundle, x: Any) -> Any:
    return np.stack([encode.sense(None, bundle.manifest.input, window) for window in x])


def one_group(data: Windows, group: int, people: int, epochs: int) -> list[Run]:
    """All arms for the people of one group, on a net that never met them."""
    persons = np.unique(data.person)
    strangers = persons[group::GROUPS][:people]
    known = data.of(~np.isin(data.person, persons[group::GROUPS]))
    rng = np.random.default_rng(group)
    held = np.zeros(len(known.x), np.bool_)
    held[rng.permutation(len(held))[:400]] = True
    bundle = exported(train(known.of(~held), group, epochs), known.of(~held))
    probe_q, probe_y = quantised(bundle, known.x[held]), known.y[held]
    runs = []
    for person in strangers:
        stream = data.of(data.person == person)
        q = quantised(bundle, stream.x)
        for arm in ARMS:
            found = played(bundle, arm, q, stream.y, probe_q, probe_y)
            print(f"group {group} person {person:2d} {arm:10}", {k: round(v, 3) for k, v in found.items()}, flush=True)
            percent = {k: v if k == "updates" else 100 * v for k, v in found.items()}
            runs.append(Run(scenario="imu_activity", arm=arm, seed=int(person), figures=percent))
    return runs


TEXT: Final = """## Activity of a new person, labels late and seldom

By `make bench-imu-activity`. {people} people of the UCI HAPT recordings, each met by a net that was trained on 20
others; the stream as it was recorded, in blocks of an activity; one window in {every} gets a label, {late} windows
later. Percent of windows named rightly when they came, in the first and the second half of the stream, and of 400
windows of known people at the end. `plain` is scored by the prototypes too; mean ± standard deviation over people.

{table}"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=5, help="of each group")
    parser.add_argument("--short", action="store_true", help="one person, a net trained for one epoch: does it run")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/learning"), help="folder of every figure")
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    data = load()
    groups, people, epochs = (1, 1, 1) if args.short else (GROUPS, args.people, EPOCHS)
    runs = [run for group in range(groups) for run in one_group(data, group, people, epochs)]
    print(scenario.table(runs))
    scenario.save(args.output, runs)
    if args.markdown:
        count = len({run.seed for run in runs})
        text = TEXT.format(people=count, every=EVERY, late=LATE, table=scenario.table(runs))
        scenario.section(args.markdown, "imu_activity", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
