"""Spoken digits: a recurrent net trained on some speakers meets one whom it never heard, then two words that are new.

    python benchmarks/learning/spoken_digits.py [--only voices|words] [--draws 5] [--nets FOLDER] [-o FILE.json]
                                                [--markdown docs/results.md]

voices  each of five speakers is left out of the training once (`examples/spoken_digits`), the rest becomes a
        bundle with a log-mel front, and 1, 3, 5 or 10 recordings of each word teach it the new voice; tested on all
        other recordings of that speaker, and on takes of the known speakers that nothing has learned from
words   two words are left out of the training, all speakers are known; one speaker teaches each with five recordings

Arms: nothing learned; prototypes beside the factory's; the bundle's plan (e-prop on every weight, replay, synaptic
intelligence, prototypes); the same without synaptic intelligence; the float twin's own whitened prototypes. All but the
last are the integers of `edgerun adapt`, on raw recordings. Needs EDGERUN_DATA and the extra train.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[2] / "examples" / "spoken_digits"))

import scenario
from recordings import CLASSES, FRONT, Recordings, load
from tables import Table, spread
from train_words import EPOCHS, SPEAKER, answers, train

from edgerun.bundle import Bundle, read_bundle
from edgerun.commands.adapt import Drawn, Labelled, adapt, shots, without_intelligence
from edgerun.encode.sound import log_mel
from exporters.export import Options, export
from exporters.head import inverse_root
from exporters.training.surrogate import RecurrentLif, write_nir
from exporters.training.words import word

SHOTS: Final = (1, 3, 5, 10)
PAIRS: Final = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
EPROP_SHOTS: Final = (5, 10)
KEYS: Final = ("before", "after", "probe_before", "probe_after")


@dataclass(frozen=True)
class Case:
    """One trained net and what it is tried on."""

    title: str
    net: RecurrentLif
    bundle: Bundle
    new: Recordings
    probe: Recordings


def cases(kind: str, data: Recordings, folder: Path, epochs: int) -> Iterator[Case]:
    """A net for each speaker, or pair of words, that it has never heard."""
    for k in range(5):
        unheard = data.speaker == k if kind == "voices" else np.isin(data.digit, PAIRS[k])
        known = data.take_of(~unheard)
        title = data.speakers[k] if kind == "voices" else " and ".join(CLASSES[digit] for digit in PAIRS[k])
        net = trained(known.take_of(~known.for_test), folder / f"{kind}{k}", epochs)
        bundle = exported(net, known.take_of(~known.for_test), folder / f"{kind}{k}")
        yield Case(title, net, bundle, data.take_of(unheard), known.take_of(known.for_test))


def trained(known: Recordings, path: Path, epochs: int) -> RecurrentLif:
    """The net of these recordings, from its file where it was trained before."""
    import torch

    file = path.with_suffix(".pt")
    if file.exists():
        return torch.load(file, weights_only=False)  # type: ignore[no-any-return]
    net = train(known, 0, epochs)
    torch.save(net, file)
    return net


def exported(net: RecurrentLif, known: Recordings, path: Path) -> Bundle:
    model, calibration = path.with_suffix(".nir"), path.with_suffix(".npz")
    write_nir(net, model, {"encoder": "frames", "steps": 24})
    known.save(calibration)
    options = Options(learn="eprop", front=FRONT, beside=True, capacity=len(CLASSES))
    return read_bundle(export(model, calibration, options).data)


# ------------------------------------------------------------------ integers


def labelled(bundle: Bundle, name: str, data: Recordings) -> Labelled:
    q = np.stack([log_mel(FRONT, bundle.manifest.input, wave) for wave in data.waves])
    return Labelled(name, q, tuple(CLASSES[k] for k in data.digit))


def tried(bundle: Bundle, new: Labelled, probe: Labelled, count: int, draws: int, arm: str) -> list[Drawn]:
    held = without_intelligence(bundle, kept=arm != "eprop")
    level = "head" if arm == "prototypes" else "full"
    return [
        adapt(held, new, shots(new.label, count, np.random.default_rng((count, k))), probe, level) for k in range(draws)
    ]


def figures(drawn: list[Drawn]) -> dict[str, float]:
    """Means over the draws, in percent."""
    found = {name: 100 * float(np.mean([getattr(draw, name) for draw in drawn])) for name in KEYS}
    return found | {"rolled_back": float(np.mean([draw.rolled_back for draw in drawn])), "draws": len(drawn)}


# ------------------------------------------------------------------ the float twin


def float_prototypes(case: Case, known: Recordings, count: int, draws: int) -> dict[str, float]:
    """Whitened means of the float net's spike counts, known and new beside each other, the same shots."""
    z, known_z, probe_z = (features(case.net, part) for part in (case.new, known, case.probe))
    matrix, mean = inverse_root(known_z, known.digit)
    z, known_z, probe_z = ((part - mean) @ matrix.T for part in (z, known_z, probe_z))
    heard = np.unique(known.digit)
    means, rows = np.stack([known_z[known.digit == k].mean(axis=0) for k in heard]), []
    for draw in range(draws):
        names = tuple(CLASSES[k] for k in case.new.digit)
        taught = shots(names, count, np.random.default_rng((count, draw)))
        rest = np.setdiff1d(np.arange(len(z)), taught)
        classes = np.unique(case.new.digit)
        more = np.stack([z[taught][case.new.digit[taught] == k].mean(axis=0) for k in classes])
        both, label = np.concatenate([means, more]), np.concatenate([heard, classes])
        rows.append(
            (
                right(means, heard, z[rest], case.new.digit[rest]),
                right(both, label, z[rest], case.new.digit[rest]),
                right(means, heard, probe_z, case.probe.digit),
                right(both, label, probe_z, case.probe.digit),
            )
        )
    found = 100 * np.mean(rows, axis=0)
    return dict(zip(KEYS, found.tolist(), strict=True)) | {"draws": draws}


def features(net: RecurrentLif, data: Recordings) -> Any:
    return answers(net, np.stack([SPEAKER.plain(word(FRONT, wave)) for wave in data.waves]))[1].astype(np.float64)


def right(means: Any, label: Any, z: Any, truth: Any) -> float:
    distance = ((z[:, None] - means) ** 2).sum(axis=2)
    return float((label[distance.argmin(axis=1)] == truth).mean())


# ------------------------------------------------------------------ the experiment


def voices(data: Recordings, folder: Path, epochs: int, draws: int) -> Iterator[dict[str, Any]]:
    for case in cases("voices", data, folder, epochs):
        new, probe = labelled(case.bundle, "new", case.new), labelled(case.bundle, "probe", case.probe)
        known = data.take_of(~np.isin(data.speaker, case.new.speaker) & ~data.for_test)
        for count in SHOTS:
            arms = ("prototypes", "plan", "eprop") if count in EPROP_SHOTS else ("prototypes",)
            for arm in arms:
                yield row(case, count, arm, figures(tried(case.bundle, new, probe, count, draws, arm)))
            yield row(case, count, "float prototypes", float_prototypes(case, known, count, draws))


def words(data: Recordings, folder: Path, epochs: int, draws: int) -> Iterator[dict[str, Any]]:
    """One speaker teaches two words; old words are tested on that speaker and, as the probe, on all."""
    for case in cases("words", data, folder, epochs):
        probe = labelled(case.bundle, "probe", case.probe)
        for speaker in range(5):
            new = labelled(case.bundle, "new", case.new.take_of(case.new.speaker == speaker))
            for arm in ("prototypes", "plan"):
                found = figures(tried(case.bundle, new, probe, 5, draws, arm))
                yield row(case, 5, arm, found) | {"speaker": data.speakers[speaker]}


def row(case: Case, count: int, arm: str, found: dict[str, float]) -> dict[str, Any]:
    print(f"{case.title:16} {count:2} shots  {arm:16}", {k: round(v, 1) for k, v in found.items()}, flush=True)
    return {"unheard": case.title, "shots": count, "arm": arm, **found}


# ------------------------------------------------------------------ what comes out


def runs(rows: list[dict[str, Any]]) -> list[scenario.Run]:
    """Each arm at five shots as two tasks: the voices that the factory knew, and the new one."""
    speakers = list(dict.fromkeys(each["unheard"] for each in rows))
    return [
        scenario.Run(
            scenario="spoken_digits",
            arm=each["arm"],
            seed=speakers.index(each["unheard"]),
            matrix=[
                [each["probe_before"] / 100, each["before"] / 100],
                [each["probe_after"] / 100, each["after"] / 100],
            ],
            tasks=["known voices", "new voice"],
        )
        for each in rows
        if each["shots"] == 5
    ]


def means(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A line for each count of shots and arm: before and after, new and known, over the nets; each net's `after`."""
    lines = []
    for count, arm in dict.fromkeys((each["shots"], each["arm"]) for each in rows):
        mine = [each for each in rows if (each["shots"], each["arm"]) == (count, arm)]
        cells = [
            spread([each[key] / 100 for each in mine]) for key in ("before", "after", "probe_before", "probe_after")
        ]
        lines.append((str(count), arm, *cells, f"{min(each['after'] for each in mine):.1f}"))
    return lines


HEADS: Final = ("shots", "arm", "new, before", "new, after", "known, before", "known, after", "least new, after")

VOICES: Final = """By `make bench-spoken-digits`. Five nets, each trained on four of the five speakers of the Free
Spoken Digit Dataset (takes 5 to 49); recordings of the fifth teach it, all its others are the test; takes 0 to 4 of the
known speakers are what must not be forgotten. Raw recordings in, all in the integers of `edgerun adapt`;
{draws} draws of the shots, mean ± standard deviation over the five speakers.

- `prototypes`: means of spike counts beside the factory's.
- `plan`: what the bundle asks for: e-prop on every weight, one pass over the shots with two replayed samples each,
  synaptic intelligence, then prototypes. `eprop`: the same without synaptic intelligence.
- `float prototypes`: the float net's own, from the same shots.
"""

WORDS: Final = """Five nets, each trained on eight of the ten words and all speakers; one speaker teaches the two others
with five recordings each, and is tested on all others of them. Known: takes 0 to 4 of the eight old words, all
speakers. Mean ± standard deviation over 25 pairs of net and speaker, {draws} draws each.
"""


def page(found: dict[str, list[dict[str, Any]]]) -> str:
    parts = []
    for kind, title, text in (("voices", "A voice never heard", VOICES), ("words", "Two words never heard", WORDS)):
        if rows := found.get(kind):
            parts.append(Table(title, HEADS, means(rows)).markdown(text.format(draws=rows[0]["draws"])))
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("voices", "words"))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--nets", type=Path, default=Path("build/spoken_digits"), help="where trained nets are kept")
    parser.add_argument("-o", "--output", type=Path, help="every figure; what is in it is not run again")
    parser.add_argument("--markdown", type=Path, help="the page whose section is written")
    args = parser.parse_args()
    args.nets.mkdir(parents=True, exist_ok=True)
    data = load()
    kinds = {"voices": voices, "words": words}
    found = json.loads(args.output.read_text()) if args.output and args.output.exists() else {}
    for kind, run in kinds.items():
        if kind not in found and args.only in (None, kind):
            found[kind] = list(run(data, args.nets, args.epochs, args.draws))
            if args.output:
                args.output.write_text(json.dumps(found, indent=2) + "\n")
    print(page(found))
    if "voices" in found:
        scenario.save(Path("build/learning"), runs(found["voices"]))
    if args.markdown:
        scenario.section(args.markdown, "spoken_digits", page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
