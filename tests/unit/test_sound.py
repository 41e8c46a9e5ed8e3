"""The log-mel front: exact integers, the same for loud and quiet, long and short; nothing but recordings gets in."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference.sound import slow_log_mel

from edgerun.encode.sound import heard_at, levels, log_mel, step_of
from edgerun.errors import DataError, SpecError
from edgerun.kernels import sound
from edgerun.spec import InputSpec, LogMel

FRONT = LogMel(sample_rate=8000)
INPUT = InputSpec(shape=(24, 32), scale=step_of(FRONT))


def chirp(samples: int, *, low: float = 300.0, high: float = 2500.0, loudness: float = 9000.0) -> np.ndarray:
    t = np.arange(samples) / 8000
    phase = 2 * np.pi * (low * t + (high - low) * t * t / (2 * t[-1]))
    return np.round(loudness * np.sin(phase) * np.hanning(samples)).astype(np.int16)


# ------------------------------------------------------------------ against plain Python integers


@pytest.mark.parametrize("samples", [1, 63, 200, 700])
@pytest.mark.parametrize("kind", ["noise", "extreme", "silence", "faint"])
def test_it_is_the_integers_that_are_written_down(samples: int, kind: str) -> None:
    rng = np.random.default_rng(samples)
    x = {
        "noise": rng.integers(-3000, 3000, samples),
        "extreme": rng.choice([-32768, 32767], samples),
        "silence": np.zeros(samples),
        "faint": rng.integers(-1, 2, samples),
    }[kind].astype(np.int16)
    front, spec = LogMel(sample_rate=8000, window=64), InputSpec(shape=(5, 6))
    assert log_mel(front, spec, x).tolist() == slow_log_mel(front, 5, 6, x.tolist())


@given(st.integers(1, (1 << 52) - 1))
def test_the_logarithm_is_exact_at_powers_of_two_and_close_between(energy: int) -> None:
    (found,) = sound.log2_steps(np.array([energy]))
    high = energy.bit_length() - 1
    assert found == 32 * high + ((32 * energy) >> high) - 32
    assert -3.8 < found - 32 * math.log2(energy) < 1e-9


def test_nothing_in_it_can_round() -> None:
    """The largest sums that any recording can make are whole numbers that float64 holds."""
    fourier, bank = sound.fourier(512), sound.triangles(sound.mel_edges(1, 0.0, 4000.0), 512, 8000)
    assert (fourier == np.round(fourier)).all()
    largest = np.abs(fourier).sum(axis=0).max() * 32768
    assert largest < 2**53
    power = 2 * (largest / (1 << 15)) ** 2 / 256
    assert power * bank.sum(axis=0).max() < 2**53


# ------------------------------------------------------------------ what it is for


def test_loudness_falls_out() -> None:
    x = chirp(4000)
    loud, quiet = log_mel(FRONT, INPUT, x), log_mel(FRONT, INPUT, (x // 16).astype(np.int16))
    assert np.abs(loud - quiet).max() <= 4  # half an octave, where dividing rounded the faintest away
    assert (log_mel(FRONT, INPUT, (x // 16 * 16).astype(np.int16)) == quiet).all()


def test_silence_around_a_word_falls_out() -> None:
    x = chirp(4000)
    around = np.concatenate([np.zeros(64 * 20, np.int16), x, np.zeros(64 * 33 + 5, np.int16)])
    assert (log_mel(FRONT, INPUT, around) == log_mel(FRONT, INPUT, x)).all()


def test_a_rising_tone_rises() -> None:
    bands = log_mel(FRONT, INPUT, chirp(6000)).reshape(24, 32).argmax(axis=1)
    assert (np.diff(bands[2:-2]) >= 0).all()
    assert bands[-3] - bands[2] > 10


def test_real_numbers_and_int16_are_the_same_sound() -> None:
    x = chirp(3000)
    assert (log_mel(FRONT, INPUT, x / 32768) == log_mel(FRONT, INPUT, x)).all()


def test_steps_of_energy() -> None:
    """A level 32 * 3 steps higher is 3 octaves higher."""
    log_energy = np.zeros((2, 3), np.int64)
    log_energy[0, 0] = 96
    q = levels(FRONT, log_energy)
    assert (q[0] - q[1]) * step_of(FRONT) == 3


# ------------------------------------------------------------------ what it refuses


@pytest.mark.parametrize(
    ("x", "fault"),
    [
        (np.zeros((2, 50), np.int16), r"shape \(2, 50\)"),
        (np.zeros(0, np.int16), r"shape \(0,\)"),
        (np.zeros(9, np.int32), "dtype int32"),
        (np.zeros(9, np.uint8), "dtype uint8"),
        (np.array([0.0, np.nan]), "1 values that are not finite"),
        (np.array([0.0, 9000.0]), r"reaches 9000, real numbers must be in \[-1, 1\]"),
        (np.zeros((1 << 15) + 1, np.int16), "must be .* of 1 to 32768 samples"),
    ],
)
def test_what_is_no_recording_is_refused(x: np.ndarray, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        log_mel(FRONT, INPUT, x)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [({"window": 255}, "odd"), ({"low_hz": 4000.0}, "do not rise"), ({"high_hz": 4001.0}, "within 4000")],
)
def test_a_front_that_cannot_be_is_refused(fields: dict[str, float], fault: str) -> None:
    with pytest.raises(SpecError, match=fault):
        LogMel(**({"sample_rate": 8000} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("peak", [1, 2, 3, 255, 256, 16383, 16384, 32767, -32768])
def test_the_loudest_sample_fills_sixteen_bits(peak: int) -> None:
    """Doubled as often as fits, and not once more."""
    louder = sound.amplified(np.array([0, peak, 0], np.int16))
    assert 1 << 14 <= abs(int(louder[1])) <= 1 << 15
    assert int(louder[1]) % peak == 0
    assert not sound.amplified(np.zeros(3, np.int16)).any()


# ------------------------------------------------------------------ what files hold


def waves_of(x: np.ndarray) -> dict[str, np.ndarray]:
    """The same sound as other programs save it."""
    return {
        "float32": (x / 32768).astype(np.float32),
        "real numbers of another unit": x.astype(np.float64),
        "faint real numbers": x / 32768 / 1024,
        "int32": x.astype(np.int32) << 16,
        "big endian": x.astype(">i2"),
        "one channel": x[:, None],
        "two channels": np.stack([x, x], axis=1),
        "two channels first": np.stack([x, x]).astype(np.float32),
    }


@pytest.mark.parametrize("kind", waves_of(chirp(64)))
def test_width_unit_and_channels_fall_out(kind: str) -> None:
    x = chirp(3000)
    heard = heard_at(FRONT, waves_of(x)[kind], 8000)
    assert heard.dtype == np.int16
    assert (log_mel(FRONT, INPUT, heard) == log_mel(FRONT, INPUT, x)).all()


def test_eight_bits_lie_about_128_as_in_wav_files() -> None:
    x = chirp(3000, loudness=30000.0) >> 8
    assert (heard_at(FRONT, (x + 128).astype(np.uint8), 8000) == x * 256).all()
    assert (heard_at(FRONT, x.astype(np.int8), 8000) == x * 256).all()


def test_channels_are_averaged() -> None:
    left, right = chirp(2000), chirp(2000, low=900.0)
    both = heard_at(FRONT, np.stack([left, right], axis=1), 8000).astype(np.float64)
    mean = (left / 2 + right / 2) * 2 ** np.round(np.log2(np.abs(both).max() / np.abs(left / 2 + right / 2).max()))
    assert np.abs(both - mean).max() <= 0.5


def test_zeros_at_the_end_of_a_long_recording_are_filling() -> None:
    x = chirp(3000)
    filled = np.concatenate([x, np.zeros(40000, np.int16)])
    heard = heard_at(FRONT, filled, 8000)
    assert heard.tolist() == x[: len(heard)].tolist()
    assert (log_mel(FRONT, INPUT, heard) == log_mel(FRONT, INPUT, filled[:20000])).all()
    assert len(heard_at(FRONT, filled[:20000], 8000)) == 20000
    assert len(heard_at(FRONT, np.zeros(40000, np.int16), 8000)) == 40000


def test_silence_stays_silence_and_noise_beyond_16_bits_is_not_blown_up() -> None:
    assert not heard_at(FRONT, np.zeros(1000), 8000).any()
    assert np.abs(heard_at(FRONT, np.full(1000, 1e-10), 8000)).max() == 0


@pytest.mark.parametrize(("shape", "rate"), [((8, 8), 8000), ((255,), 8000), ((1, 500), 16000)])
def test_what_is_shorter_than_one_window_is_no_recording(shape: tuple[int, ...], rate: int) -> None:
    with pytest.raises(DataError, match=rf"of shape \({shape[0]},.* one window alone takes {FRONT.window}"):
        heard_at(FRONT, np.ones(shape), rate)
    assert heard_at(FRONT, np.ones(FRONT.window), 8000).shape == (FRONT.window,)


@pytest.mark.parametrize("rate", [8001, 11025, 16000, 22050, 44100, 48000, 96000])
def test_a_faster_rate_is_brought_to_the_front_s(rate: int) -> None:
    """A tone comes out as itself, one above half the rate not at all."""
    t, at = np.arange(rate // 2) / rate, np.arange(4000) / 8000
    for hertz in (150.0, 1000.0, 3000.0):
        x = np.round(12000 * np.sin(2 * np.pi * hertz * t)).astype(np.int16)
        heard = heard_at(FRONT, x, rate)
        assert len(heard) == -(-len(x) * 8000 // rate)
        inner = slice(300, 3600)
        assert np.abs(heard[inner] - 12000 * np.sin(2 * np.pi * hertz * at[inner])).max() < 200
    if rate > 10000:
        x = np.round(12000 * np.sin(2 * np.pi * 5000.0 * t)).astype(np.int16)
        assert np.abs(heard_at(FRONT, x, rate)[300:3600]).max() < 30


def test_resampling_is_whole_numbers_in_any_block() -> None:
    x = np.random.default_rng(1).integers(-32768, 32768, 20000).astype(np.int16)
    whole = sound.resampled(x, 11025, 8000)
    assert (sound.resampled(x[:7000], 11025, 8000)[:4900] == whole[:4900]).all()
    loud = sound.resampled(np.where(x > 0, 32767, -32768).astype(np.int16), 16000, 8000)
    assert loud.max() == 32767  # what overshoots ends at the bound
    assert loud.min() == -32768


@pytest.mark.parametrize(
    ("x", "fault"),
    [
        (np.zeros((100, 9, 2)), r"float64 \(100, 9, 2\)"),
        (np.zeros((100, 9)), r"float64 \(100, 9\)"),
        (np.zeros(0), r"float64 \(0,\)"),
        (np.zeros(9, np.bool_), "has bool"),
        (np.zeros(9, np.complex64), "has complex64"),
        (np.array([1.0, np.inf]), "1 values that are not finite"),
    ],
)
def test_what_is_no_recording_of_a_file_is_refused(x: np.ndarray, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        heard_at(FRONT, x, 8000)
