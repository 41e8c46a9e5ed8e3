"""What each model of `benchmarks/export` is fed: the real recordings, cut and scaled as the model takes them.

    split = load("kws_dscnn")        # split.train, split.calibration, split.test: x float32 (n, ...), y int64 (n,)
    write_npz("kws_dscnn", folder)   # calibration.npz and test.npz, as `edgerun export --calibrate` reads them

The recordings lie in the folder that the environment variable EDGERUN_DATA names. Everything is deterministic: the same
files give the same arrays. The calibration part is an even choice from the training part; test samples are never in it.
Needs numpy only.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from edgerun.arrays import F32, F64, I64, AnyArray
from edgerun.errors import DataError

CALIBRATION: Final = 400  # samples

SPEECH_RATE: Final = 8000  # Hz
SPEECH_WINDOW: Final = 256  # 32 ms
SPEECH_TEST_TAKES: Final = 5  # takes 0 to 4 of every digit and speaker
SPEECH_FLOOR: Final = 1e-3  # energy of a mel band that counts as silence

IMU_WINDOW, IMU_HOP = 128, 64  # samples at 50 Hz
IMU_ACTIVITIES: Final = 6  # labels 1 to 6; postural transitions are left out
IMU_TEST_EVERY: Final = 5  # subjects 5, 10, 15, ... are never trained on

EVENT_FRAMES: Final = 25
EVENT_FRAME_US: Final = 12_000
EVENT_SIZE: Final = 34  # pixels a side
EVENT_FOLDS: Final = 3

BEARING_RATE: Final = 12_000  # Hz
BEARING_WINDOW, BEARING_FRAME_HOP = 320, 160
BEARING_BINS, BEARING_FRAMES = (
    128,
    5,
)  # 37.5 to 4800 Hz, under the healthy record's decimation filter
BEARING_KNOWN_MIL: Final = 7  # fault diameter, in thousandths of an inch
BEARING_TRAIN_SHARE: Final = 0.6
BEARING_TEST: Final = 600  # windows of each class


@dataclass(frozen=True, slots=True)
class Part:
    """x (n, ...) float32 as the model takes it, y (n,) int64 the class."""

    x: F32
    y: I64

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: AnyArray) -> Part:
        return Part(np.ascontiguousarray(self.x[index]), self.y[index])


@dataclass(frozen=True, slots=True)
class Split:
    """Train, calibration (a part of train) and test."""

    train: Part
    calibration: Part
    test: Part


def load(name: str) -> Split:
    """The data of one model. Raises DataError for a name without a row, or where EDGERUN_DATA does not lead to it."""
    if name not in SOURCES:
        raise DataError(f"name {name!r} is none of {', '.join(SOURCES)}")
    train, test = SOURCES[name]()
    return Split(train, train.take(evenly(len(train), CALIBRATION)), Part(np.ascontiguousarray(test.x), test.y))


def write_npz(name: str, folder: Path) -> None:
    """Write `calibration.npz` and `test.npz` with keys x and y into `folder`, which is made where it is missing."""
    split = load(name)
    folder.mkdir(parents=True, exist_ok=True)
    for file, part in (("calibration.npz", split.calibration), ("test.npz", split.test)):
        np.savez(folder / file, x=part.x, y=part.y)


def arrays(file: str, *keys: str) -> tuple[AnyArray, ...]:
    """Arrays of one file of the data folder. Raises DataError where the folder is not named or the file missing."""
    folder = os.environ.get("EDGERUN_DATA")
    if not folder:
        raise DataError("EDGERUN_DATA is not set, must name the folder of the recordings")
    path = Path(folder) / file
    if not path.is_file():
        raise DataError(f"EDGERUN_DATA: {folder} holds no {file}")
    with np.load(path, allow_pickle=False) as archive:
        return tuple(archive[key] for key in keys)


def evenly(n: int, wanted: int) -> I64:
    """`wanted` of n indices, evenly spaced; all of them where there are fewer."""
    return np.arange(n) if n <= wanted else np.arange(wanted) * n // wanted


# ------------------------------------------------------------------ pictures


def pictures(file: str, train: int, test: int, view: Callable[[F32], F32]) -> tuple[Part, Part]:
    """Grey pictures (n, 28, 28) in [0, 1], an even choice of each official part, in the shape that `view` gives."""
    x_train, y_train, x_test, y_test = arrays(file, "x_train", "y_train", "x_test", "y_test")
    first, second = (
        Part(view(x[chosen].astype(np.float32) / np.float32(255)), y[chosen].astype(np.int64))
        for x, y, chosen in ((x_train, y_train, evenly(60_000, train)), (x_test, y_test, evenly(10_000, test)))
    )
    return first, second


def flat(x: F32) -> F32:
    return x.reshape(len(x), -1)


def one_channel(x: F32) -> F32:
    return x[:, None]


def colour32(x: F32) -> F32:
    """(n, 3, 32, 32): two pixels of black around, three equal channels without a copy."""
    return three(np.pad(x, ((0, 0), (2, 2), (2, 2))))


def colour96(x: F32) -> F32:
    """(n, 3, 96, 96): each pixel becomes 3 x 3, six pixels of black around, three equal channels without a copy."""
    return three(np.pad(x.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (6, 6), (6, 6))))


def three(x: F32) -> F32:
    return np.broadcast_to(x[:, None], (len(x), 3, *x.shape[1:]))


def footwear() -> tuple[Part, Part]:
    """Fashion-MNIST as a question of two classes: 1 is a sandal, a sneaker or an ankle boot."""
    train, test = pictures("fashion_mnist.npz", 3000, 500, colour96)
    return two_classes(train), two_classes(test)


def two_classes(part: Part) -> Part:
    return Part(part.x, np.isin(part.y, (5, 7, 9)).astype(np.int64))


# ------------------------------------------------------------------ spoken digits


def mfcc_pictures() -> tuple[Part, Part]:
    """(n, 1, 49, 10): ten cepstra of 49 frames, 20 ms apart, scaled by mean and deviation of the training part."""
    basis = cosines(40, 10)
    return standardised(lambda logs: (logs @ basis)[:, None], frames=49, hop=160, bands=40)


def mel_channels() -> tuple[Part, Part]:
    """(n, 40, 49): forty mel bands are the channels, scaled likewise."""
    return standardised(lambda logs: logs.swapaxes(1, 2), frames=49, hop=160, bands=40, axes=(0, 2))


def mel_currents() -> tuple[Part, Part]:
    """(n, 40, 32): 40 frames 25 ms apart of 32 mel bands as input currents in [0, 1], 0 is silence."""
    train, test = spoken(frames=40, hop=200, bands=32)
    quiet = np.float32(np.log(SPEECH_FLOOR))
    top = np.float32(train.x.max())
    return (
        Part((train.x - quiet) / (top - quiet), train.y),
        Part(np.clip((test.x - quiet) / (top - quiet), 0, 1), test.y),
    )


def standardised(
    view: Callable[[F32], F32], *, frames: int, hop: int, bands: int, axes: tuple[int, ...] = (0, 1, 2)
) -> tuple[Part, Part]:
    """Spoken digits in the shape of `view`, minus mean and over deviation of the training part along `axes`."""
    train, test = spoken(frames=frames, hop=hop, bands=bands)
    first, second = view(train.x), view(test.x)
    mean, deviation = first.mean(axes, keepdims=True), first.std(axes, keepdims=True)
    return Part((first - mean) / deviation, train.y), Part((second - mean) / deviation, test.y)


def spoken(*, frames: int, hop: int, bands: int) -> tuple[Part, Part]:
    """Log-mel energies (n, frames, bands) of the spoken digits; takes 0 to 4 are the test part."""
    samples, offsets, label, take = arrays("fsdd.npz", "samples", "offsets", "label", "take")
    length = (frames - 1) * hop + SPEECH_WINDOW
    sound = np.stack([centred(samples[a:b], length) for a, b in itertools.pairwise(offsets)])
    whole = Part(log_mel(sound, hop=hop, bands=bands), label.astype(np.int64))
    held_out = take < SPEECH_TEST_TAKES
    return whole.take(~held_out), whole.take(held_out)


def centred(sound: AnyArray, length: int) -> F32:
    """`length` samples in [-1, 1): a longer recording loses both ends, a shorter one gets silence around it."""
    start = max(0, (len(sound) - length) // 2)
    kept = sound[start : start + length].astype(np.float32) / np.float32(32768)
    before = (length - len(kept)) // 2
    return np.pad(kept, (before, length - len(kept) - before))


def log_mel(sound: F32, *, hop: int, bands: int) -> F32:
    """ln(max(energy, floor)) of triangular mel bands: sound (n, length) -> (n, frames, bands)."""
    views = np.lib.stride_tricks.sliding_window_view(sound, SPEECH_WINDOW, axis=1)[:, ::hop]
    window = np.hanning(SPEECH_WINDOW + 1)[:-1].astype(np.float32)
    filters = mel_filters(bands).astype(np.float32)
    power = (np.abs(np.fft.rfft(frame * window, axis=-1)) ** 2 for frame in np.array_split(views, 16))
    energy = np.concatenate([p.astype(np.float32) @ filters for p in power])
    return np.asarray(np.log(np.maximum(energy, np.float32(SPEECH_FLOOR))))


def mel_filters(bands: int) -> F64:
    """(window/2 + 1, bands) triangles between 60 Hz and the Nyquist frequency, mel = 1127 ln(1 + f/700)."""
    low, high = (1127 * np.log1p(f / 700) for f in (60, SPEECH_RATE / 2))
    edges = 700 * np.expm1(np.linspace(low, high, bands + 2) / 1127)
    frequency = np.arange(SPEECH_WINDOW // 2 + 1)[:, None] * SPEECH_RATE / SPEECH_WINDOW
    rising = (frequency - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequency) / (edges[2:] - edges[1:-1])
    return np.asarray(np.maximum(0, np.minimum(rising, falling)))


def cosines(bands: int, kept: int) -> F32:
    """(bands, kept): the orthonormal DCT-II without its terms from `kept` on."""
    angle = np.pi / bands * (np.arange(bands)[:, None] + 0.5) * np.arange(kept)
    scale = np.sqrt(np.where(np.arange(kept) == 0, 1, 2) / bands)
    return np.asarray(np.cos(angle) * scale, dtype=np.float32)


# ------------------------------------------------------------------ motion


def motion() -> tuple[Part, Part]:
    """(n, 128, 6): windows of 2.56 s, half overlapping, of one activity; acceleration in g, turning rate in rad/s."""
    imu, label, offsets, subject, scale = arrays("hapt_imu.npz", "imu", "label", "offsets", "subject", "scale")
    starts = np.concatenate([np.arange(a, b - IMU_WINDOW + 1, IMU_HOP) for a, b in itertools.pairwise(offsets)])
    person = subject[np.searchsorted(offsets, starts, side="right") - 1]
    inside = label[starts[:, None] + np.arange(IMU_WINDOW)]
    pure = (inside == inside[:, :1]).all(1) & (inside[:, 0] >= 1) & (inside[:, 0] <= IMU_ACTIVITIES)
    x = (imu[starts[pure, None] + np.arange(IMU_WINDOW)] * scale).astype(np.float32)
    whole = Part(x, inside[pure, 0].astype(np.int64) - 1)
    held_out = person[pure] % IMU_TEST_EVERY == 0
    return whole.take(~held_out), whole.take(held_out)


# ------------------------------------------------------------------ events


def event_frames() -> tuple[Part, Part]:
    """(n, 25, 2, 34, 34): events of each polarity and pixel, counted over frames of 12 ms."""
    whole, test = all_event_frames()
    return whole.take(~test), whole.take(test)


def event_fold(fold: int) -> tuple[Part, Part]:
    """The same recordings, every third from `fold` on kept apart: three nets are tested on all of them together."""
    whole, _ = all_event_frames()
    apart = np.arange(len(whole)) % EVENT_FOLDS == fold
    return whole.take(~apart), whole.take(apart)


def all_event_frames() -> tuple[Part, AnyArray]:
    """Every recording, and whether it is of the test part."""
    x, y, packed, dt, offsets, label, test = arrays(
        "nmnist_small.npz", "x", "y", "polarity_packed", "dt_us", "offsets", "label", "test"
    )
    polarity = np.unpackbits(packed)[: len(x)]
    pixel = (polarity.astype(np.int64) * EVENT_SIZE + y) * EVENT_SIZE + x
    frames = np.stack([binned(pixel[a:b], dt[a:b]) for a, b in itertools.pairwise(offsets)])
    return Part(frames, label.astype(np.int64)), test


def binned(pixel: I64, dt_us: AnyArray) -> F32:
    """One recording as counts (frames, 2, 34, 34); events behind the last frame are dropped."""
    frame = np.cumsum(dt_us, dtype=np.int64) // EVENT_FRAME_US
    size = 2 * EVENT_SIZE * EVENT_SIZE
    kept = frame < EVENT_FRAMES
    counts = np.bincount(frame[kept] * size + pixel[kept], minlength=EVENT_FRAMES * size)
    return counts.astype(np.float32).reshape(EVENT_FRAMES, 2, EVENT_SIZE, EVENT_SIZE)


# ------------------------------------------------------------------ vibration


def vibration() -> tuple[Part, Part]:
    """(n, 640): five spectra of 128 bins, 13 ms apart, ln power scaled by mean and deviation of the training part.

    Known states are the healthy bearing and faults of 7 mil: the first 60 % of each record trains, the rest is
    class 0 of the test. Larger faults, which were never heard, are class 1; as many windows, an even choice.
    """
    raw, offsets, scale, mil = arrays("bearing_cwru_12k.npz", "vibration", "offsets", "scale", "fault_mil")
    records = [raw[a:b] * s for (a, b), s in zip(itertools.pairwise(offsets), scale, strict=True)]
    known = [record for record, size in zip(records, mil, strict=True) if size <= BEARING_KNOWN_MIL]
    strange = [record for record, size in zip(records, mil, strict=True) if size > BEARING_KNOWN_MIL]
    cuts = [int(len(record) * BEARING_TRAIN_SHARE) for record in known]
    train = spectra([record[:cut] for record, cut in zip(known, cuts, strict=True)], hop=160)
    normal = spectra([record[cut:] for record, cut in zip(known, cuts, strict=True)], hop=960)
    faults = spectra(strange, hop=960)
    normal, faults = (x[evenly(len(x), BEARING_TEST)] for x in (normal, faults))
    mean, deviation = train.mean(0), train.std(0)
    return (
        Part((train - mean) / deviation, np.zeros(len(train), dtype=np.int64)),
        Part((np.concatenate([normal, faults]) - mean) / deviation, np.repeat(np.arange(2), BEARING_TEST)),
    )


def spectra(records: Sequence[F64], *, hop: int) -> F32:
    """ln power of five spectra in every window, windows `hop` samples apart: (n, 640)."""
    length = (BEARING_FRAMES - 1) * BEARING_FRAME_HOP + BEARING_WINDOW
    views = np.concatenate([np.lib.stride_tricks.sliding_window_view(record, length)[::hop] for record in records])
    frames = np.lib.stride_tricks.sliding_window_view(views, BEARING_WINDOW, axis=1)[:, ::BEARING_FRAME_HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(BEARING_WINDOW), axis=-1)) ** 2
    return np.log(power[..., 1 : BEARING_BINS + 1] + 1e-6).astype(np.float32).reshape(len(views), -1)


SOURCES: Final[Mapping[str, Callable[[], tuple[Part, Part]]]] = MappingProxyType(
    {
        "mnist_mlp": lambda: pictures("mnist.npz", 60_000, 2000, flat),
        "fashion_cnn": lambda: pictures("fashion_mnist.npz", 60_000, 2000, one_channel),
        "kws_dscnn": mfcc_pictures,
        "imu_gru": motion,
        "imu_lstm": motion,
        "resnet8": lambda: pictures("fashion_mnist.npz", 60_000, 1000, colour32),
        "mobilenet_v1": footwear,
        "autoencoder": vibration,
        "speech_conv1d": mel_channels,
        "digits_rsnn": mel_currents,
        "nmnist_conv_snn": event_frames,
        **{f"nmnist_conv3_fold{k}": partial(event_fold, k) for k in range(EVENT_FOLDS)},
    }
)
