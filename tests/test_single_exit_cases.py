"""The benchmark's networks with one output: their data, without fetching or training anything."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from benchmarks.cases.archives import FetchError
from benchmarks.single_exit import mlp, words
from benchmarks.single_exit.log_mel import SAMPLES_PER_SECOND, log_mel
from benchmarks.single_exit.reviews import ReviewBert
from benchmarks.single_exit.speech import KeywordNet, hide


def test_no_voice_speaks_in_two_parts() -> None:
    assert all(not set(one) & set(other) for one, other in combinations(words.VOICES.values(), 2))


@pytest.mark.parametrize(("hertz", "band"), [(500, 7), (3000, 26)])
def test_a_tone_is_loudest_in_its_band_however_loud_it_is(hertz: int, band: int) -> None:
    """The band whose middle is nearest: 2840 mel from 20 to 8000 Hz in 41 steps."""
    tone = np.sin(2 * np.pi * hertz * np.arange(SAMPLES_PER_SECOND) / SAMPLES_PER_SECOND).astype(np.float32)
    energies = log_mel(tone)
    assert energies.shape == (40, 98)
    low, high = 2595 * np.log10(1 + np.array([20, 8000]) / 700)
    assert round((2595 * np.log10(1 + hertz / 700) - low) / (high - low) * 41) - 1 == band
    assert (energies.argmax(axis=0) == band).all()
    np.testing.assert_allclose(log_mel(100 * tone), energies, atol=1e-3)


def test_without_espeak_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FetchError, match="apt install espeak-ng"):
        words.spoken("test", words.Settings(1, 1))


def test_a_mixed_word_is_as_far_above_the_noise_as_was_asked() -> None:
    clip = np.sin(np.arange(SAMPLES_PER_SECOND)).astype(np.float32)
    quiet, loud = (
        words._mix(clip, [clip], words.Settings(1, 1, noise_db=(db, db)), np.random.default_rng(0)) for db in (60, 0)
    )
    assert np.mean(np.square(loud - quiet)) == pytest.approx(np.mean(np.square(quiet)), rel=0.01)


def test_hidden_frames_and_bands_are_zero_and_the_rest_is_kept() -> None:
    found = hide(torch.ones(64, 40, 98), torch.Generator().manual_seed(0))
    assert set(found.unique().tolist()) == {0.0, 1.0}
    frames, bands = (found == 0).all(dim=1).sum(dim=1), (found == 0).all(dim=2).sum(dim=1)
    assert 10 < frames.max() <= 20
    assert 4 < bands.max() <= 8


def test_the_keyword_network_takes_any_number_of_frames() -> None:
    network = KeywordNet().eval()
    assert network(torch.zeros(2, 40, 98)).shape == network(torch.zeros(2, 40, 51)).shape == (2, 20)


def test_padding_does_not_change_the_mood_of_a_review() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    network = ReviewBert(transformers.BertModel(config, add_pooling_layer=False)).eval()
    ids = torch.tensor([[5, 6, 7]])
    padded, mask = torch.tensor([[5, 6, 7, 0, 0]]), torch.tensor([[1, 1, 1, 0, 0]])
    with torch.inference_mode():
        torch.testing.assert_close(network(padded, mask), network(ids, torch.ones_like(ids)))


def test_moved_digits_keep_their_ink() -> None:
    image = np.zeros((3, 1, 28, 28), np.float32)
    image[:, :, 11:17, 13:15] = 1
    moved = mlp._moved(image, seed=0)
    assert moved.shape == (3, 784)
    np.testing.assert_allclose(moved.sum(axis=1), 12, rtol=0.1)
    assert not np.array_equal(moved[0], moved[1])
