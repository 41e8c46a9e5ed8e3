"""Train the spoken-digit net and write it as NIR: `make train` or `python examples/spoken_digits/train_words.py`.

A recording becomes 24 frames of 32 log-mel bands (`edgerun/encode/sound.py`), which drive recurrent LIF neurons; their
spike counts are what prototypes live in. Every epoch hears each word as somebody else might have said it
(`exporters/training/words.py`). Cross entropy of a leaky readout, AdamW, one cycle of the rate.

Writes spoken_digits.nir, spoken_digits.json (how it went) and model.edgb, the bundle that `edgerun adapt` teaches.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from recordings import BANDS, CLASSES, FRAMES, FRONT, Recordings, load, noises

from edgerun.arrays import F32, I64
from edgerun.encode.sound import step_of
from exporters.export import Options, export
from exporters.training.one_cycle import Course
from exporters.training.surrogate import RecurrentLif, Shape, fit, write_nir
from exporters.training.words import Changes, Speaker, word

OCTAVES = step_of(FRONT)
HIDDEN = 256
EPOCHS = 60
BATCH = 100
RATE = 2e-3
SPEAKER = Speaker(FRONT, FRAMES, BANDS, [], Changes(), 0)  # who says words as they are


def train(known: Recordings, seed: int, epochs: int, hidden: int = HIDDEN) -> RecurrentLif:
    """A net for these recordings."""
    words = [word(FRONT, wave) for wave in known.waves]
    speaker = Speaker(FRONT, FRAMES, BANDS, noises(), Changes(), seed)
    net = RecurrentLif(Shape(inputs=BANDS, hidden=hidden, outputs=10), seed, input_gain=0.25)

    def windows(rows: I64, _: np.random.Generator) -> torch.Tensor:
        return seen(np.stack([speaker.changed(words[k]) for k in rows]))

    return fit(net, known.digit, Course(epochs=epochs, batch=BATCH, rate=RATE), seed, windows, tell)


def tell(epoch: int, loss: float) -> None:
    if epoch % 10 == 0:
        print(f"epoch {epoch:3d}  loss {loss:.3f}", flush=True)


def seen(q: F32) -> torch.Tensor:
    """Features q (n, frames * bands) as the float net takes them."""
    return torch.from_numpy(q.reshape(-1, FRAMES, BANDS).astype(np.float32) * OCTAVES)


def answers(net: RecurrentLif, q: F32) -> tuple[F32, F32]:
    """Logits and spike counts of features."""
    with torch.no_grad():
        logits, counts = net(seen(q))
    return logits.numpy(), counts.numpy()


def accuracy(net: RecurrentLif, q: F32, digit: I64) -> float:
    return float((answers(net, q)[0].argmax(axis=1) == digit).mean())


def write_bundle(model: Path, known: Recordings) -> None:
    """model.edgb beside the NIR file: raw recordings in, lessons by e-prop and prototypes, room for six more words."""
    options = Options(name="spoken_digits", learn="eprop", front=FRONT, beside=True, capacity=len(CLASSES) + 6)
    with tempfile.TemporaryDirectory() as folder:
        calibration, test = Path(folder, "known.npz"), Path(folder, "test.npz")
        known.take_of(~known.for_test).save(calibration)
        known.take_of(known.for_test).save(test)
        made = export(model, calibration, options, test=test)
    model.with_name("model.edgb").write_bytes(made.data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "spoken_digits.nir")
    args = parser.parse_args()
    known = load()
    started = time.perf_counter()
    net = train(known.take_of(~known.for_test), args.seed, args.epochs)
    write_nir(net, args.output, {"encoder": "frames", "steps": FRAMES})
    held = known.take_of(known.for_test)
    q = np.stack([SPEAKER.plain(word(FRONT, wave)) for wave in held.waves])
    write_bundle(args.output, known)
    report = {
        "seed": args.seed,
        "epochs": args.epochs,
        "seconds": round(time.perf_counter() - started, 1),
        "known_speakers": round(accuracy(net, q, held.digit), 4),
        "words": len(held),
    }
    args.output.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
