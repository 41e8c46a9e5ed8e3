"""Words as others might say them stay words, and the net that learns from them goes through NIR spike for spike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgerun.arrays import I16
from edgerun.encode.sound import log_mel
from edgerun.kernels import sound
from edgerun.spec import InputSpec, LogMel
from exporters.training.words import HOP, Changes, Speaker, word

FRONT = LogMel(sample_rate=8000)
FRAMES, BANDS = 12, 20
USUAL, STILL = Changes(), Changes(tract=0, ends=0, tempo=0, noisy=0, tilt=0, bands=0, moments=0)


def wave(seed: int, samples: int = 5000) -> I16:
    """Two vowels, one after the other, with silence around."""
    rng, t = np.random.default_rng(seed), np.arange(samples) / 8000
    voice = np.sign(np.sin(2 * np.pi * 130 * t)) * np.where(
        t < t[-1] / 2, np.sin(2 * np.pi * 700 * t), np.sin(2 * np.pi * 1800 * t)
    )
    loud = np.hanning(samples) * 8000 * voice + rng.normal(0, 3, samples)
    return np.concatenate([np.zeros(900), loud, np.zeros(1500)]).round().astype(np.int16)


def speaker(changes: Changes = USUAL, seed: int = 1, noises: int = 0) -> Speaker:
    rng = np.random.default_rng(5)
    hiss = [rng.integers(0, 1 << 20, (200, FRONT.window // 2 + 1)) for _ in range(noises)]
    return Speaker(FRONT, FRAMES, BANDS, hiss, changes, seed)


def test_said_plainly_it_is_what_the_device_hears() -> None:
    """Windows lie on a grid of 32 samples here, so a step or two of an eighth of an octave may differ."""
    for seed in range(4):
        heard = log_mel(FRONT, InputSpec(shape=(FRAMES, BANDS)), wave(seed))
        said = speaker().plain(word(FRONT, wave(seed)))
        assert np.abs(heard - said).mean() < 3
        assert np.corrcoef(heard, said)[0, 1] > 0.99


def test_without_changes_nothing_changes() -> None:
    spoken = word(FRONT, wave(0))
    assert (speaker(STILL).changed(spoken) == speaker(STILL).plain(spoken)).all()


@pytest.mark.parametrize(
    "change",
    [{"tract": 0.2}, {"ends": 0.1}, {"tempo": 0.3}, {"noisy": 1.0}, {"tilt": 1.0}, {"bands": 4}, {"moments": 3}],
)
def test_each_change_changes_something_and_keeps_the_word(change: dict[str, float]) -> None:
    spoken, other = word(FRONT, wave(0)), word(FRONT, wave(0)[::-1].copy())
    one = speaker(replace(STILL, **change), noises=2)
    plain, backwards = one.plain(spoken), one.plain(other)
    said = [one.changed(spoken) for _ in range(12)]
    assert any((each != plain).any() for each in said)
    assert all(np.abs(each - plain).mean() < np.abs(each - backwards).mean() for each in said)
    assert all(each.min() >= -128 and each.max() <= 127 and each.shape == (FRAMES * BANDS,) for each in said)


def test_the_same_seed_says_the_same() -> None:
    spoken = word(FRONT, wave(2))
    first, again, other = ([speaker(seed=s).changed(spoken).tolist() for _ in range(3)] for s in (3, 3, 4))
    assert first == again
    assert first != other


def test_a_longer_tract_lowers_the_bands() -> None:
    """The same sound through bands twice as high looks an octave lower."""
    plain = speaker(STILL)
    high = sound.triangles(1.3 * sound.mel_edges(BANDS, FRONT.low_hz, FRONT.high_hz), FRONT.window, 8000)
    power = word(FRONT, wave(0)).power.astype(np.float64)
    usual = sound.triangles(sound.mel_edges(BANDS, FRONT.low_hz, FRONT.high_hz), FRONT.window, 8000)
    centre = [np.average(np.arange(BANDS), weights=(power @ bank).sum(axis=0)) for bank in (usual, high)]
    assert centre[1] < centre[0] - 0.5
    assert plain.plain(word(FRONT, wave(0))).shape == (FRAMES * BANDS,)


@pytest.mark.parametrize("samples", [1, 100, 400])
def test_short_recordings_are_words_too(samples: int) -> None:
    spoken = word(FRONT, wave(0)[2000 : 2000 + samples])
    assert len(spoken.power) >= 1
    assert 0 <= spoken.first <= spoken.last < len(spoken.power)
    assert speaker().changed(spoken).shape == (FRAMES * BANDS,)


def test_the_grid_is_fine_enough() -> None:
    assert HOP * 2 <= sound.BLOCK


# ------------------------------------------------------------------ the net (torch)


def test_the_net_goes_through_nir_spike_for_spike(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="pip install 'edgerun[train]'")
    from exporters.float_net import forward
    from exporters.nir_import import NirOptions, load_nir
    from exporters.training.surrogate import RecurrentLif, Shape, write_nir

    net = RecurrentLif(Shape(inputs=BANDS, hidden=24, outputs=3), seed=2)
    write_nir(net, tmp_path / "net.nir", {"encoder": "frames", "steps": FRAMES})
    x = np.random.default_rng(0).normal(0, 1.5, (30, FRAMES, BANDS)).astype(np.float32)
    with torch.no_grad():
        logits, counts = (each.numpy() for each in net(torch.from_numpy(x)))
    twin = load_nir(tmp_path / "net.nir", NirOptions())
    found = forward(twin, twin.moments(x)).readings
    assert (counts.sum(axis=1) > 0).all()
    assert (found["lif"] != counts).mean() < 0.005  # ties of float32
    np.testing.assert_allclose(found["readout"], logits, atol=0.2)


def test_the_surrogate_is_the_fast_sigmoid_s_derivative() -> None:
    torch = pytest.importorskip("torch", reason="pip install 'edgerun[train]'")
    from exporters.training.surrogate import Fire

    x = torch.tensor([-2.0, -0.25, 0.0, 0.5], requires_grad=True)
    fired = Fire.apply(x, 4.0)
    fired.sum().backward()
    assert fired.tolist() == [0, 0, 0, 1]
    assert x.grad.tolist() == pytest.approx([1 / 81, 0.25, 1, 1 / 9])
