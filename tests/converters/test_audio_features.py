"""What the device hears is what the networks were trained to hear: transformers' own front ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from edge_runtime.errors import IncompatibleError
from edge_runtime.fields import Fields
from edge_runtime.inference.tasks.audio import Clip, Standardize
from edge_runtime.inference.tasks.mel import LogMel, LogMelOptions

RATE = 16_000


def log_mel(**options: Any) -> LogMel:
    return LogMel(LogMelOptions.parse(Fields(options, "step", IncompatibleError)))


def clip(seconds: float, seed: int) -> np.ndarray:
    """A tone that slides, and noise."""
    rng = np.random.default_rng(seed)
    at = np.arange(int(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * (200 + 3000 * rng.random() * at) * at)
    return (0.5 * tone + 0.05 * rng.standard_normal(len(at))).astype(np.float32)


def whisper() -> LogMel:
    return log_mel(
        window_length=400, fft=400, hop=160, mels=80, low_hz=0, high_hz=8000, scale="slaney",
        slaney_norm=True, center=True, log="log10", range=8, mean=-4, std=4,
    )  # fmt: skip


def ast(mean: float, std: float, frames: int) -> LogMel:
    return log_mel(
        window="hann_symmetric", window_length=400, fft=512, hop=160, mels=128, low_hz=20,
        scale="kaldi", triangles_in_mel=True, preemphasis=0.97, remove_dc=True,
        floor=1.192092955078125e-07, mean=mean, std=2 * std, frames=frames,
    )  # fmt: skip


def test_features_are_whispers() -> None:
    samples = clip(30.0, 1)
    theirs = WhisperFeatureExtractor()(samples, sampling_rate=RATE, return_tensors="np")
    ours = whisper().features(samples)[:3000]
    np.testing.assert_allclose(ours.T, theirs["input_features"][0], atol=1e-4)


def test_features_are_those_of_the_audio_spectrogram_transformer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import transformers.models.audio_spectrogram_transformer.feature_extraction_audio_spectrogram_transformer as module  # noqa: E501

    monkeypatch.setattr(module, "is_speech_available", lambda: False)
    extractor = ASTFeatureExtractor()
    for seconds in (1.0, 12.0):
        samples = clip(seconds, 2)
        theirs = extractor(samples, sampling_rate=RATE, return_tensors="np")["input_values"][0]
        ours = ast(extractor.mean, extractor.std, extractor.max_length).features(samples)
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_samples_are_standardized_as_wav2vec2s() -> None:
    samples = clip(1.0, 3) + 0.2
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    theirs = extractor(samples, sampling_rate=RATE, return_tensors="np")["input_values"][0]
    ours = Standardize()(Clip(samples.astype(np.float32))).values
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.sampled_from([(400, 512, 160), (640, 1024, 320), (480, 512, 480)]),
    mels=st.integers(8, 64),
    power=st.sampled_from([1, 2]),
    center=st.booleans(),
    scale=st.sampled_from(["htk", "kaldi", "slaney"]),
    triangles=st.booleans(),
    norm=st.booleans(),
    log=st.sampled_from(["ln", "log10", "db"]),
    name=st.sampled_from(["hann", "hamming", "povey"]),
    emphasis=st.sampled_from([0.0, 0.97]),
    dc=st.booleans(),
)
def test_features_are_those_of_the_reference_whatever_the_options(
    seed: int, shape: tuple[int, int, int], mels: int, power: int, center: bool, scale: str,
    triangles: bool, norm: bool, log: str, name: str, emphasis: float, dc: bool,
) -> None:  # fmt: skip
    length, fft, hop = shape
    norm = norm and not triangles
    samples = clip(0.2, seed)
    # The reference pads and cuts by the frame, ours by the window: the same where they are equal.
    filters = mel_filter_bank(
        num_frequency_bins=fft // 2 + 1, num_mel_filters=mels, min_frequency=20.0,
        max_frequency=7600.0, sampling_rate=RATE, norm="slaney" if norm else None,
        mel_scale=scale, triangularize_in_mel_space=triangles,
    )  # fmt: skip
    theirs = spectrogram(
        samples, window_function(length, name, periodic=name != "povey"), frame_length=length,
        hop_length=hop, fft_length=fft, power=float(power), center=center,
        preemphasis=emphasis or None, mel_filters=filters, mel_floor=1e-6,
        log_mel={"ln": "log", "log10": "log10", "db": "dB"}[log], min_value=1e-12,
        remove_dc_offset=dc,
    )  # fmt: skip
    ours = log_mel(
        window=name, window_length=length, fft=fft, hop=hop, power=power, center=center,
        preemphasis=emphasis, remove_dc=dc, mels=mels, low_hz=20, high_hz=7600, scale=scale,
        triangles_in_mel=triangles, slaney_norm=norm, log=log, floor=1e-6,
    ).features(samples)  # fmt: skip
    np.testing.assert_allclose(ours.T, theirs, atol=1e-4 * max(1.0, float(np.abs(theirs).max())))


def test_cepstra_are_an_orthonormal_cosine_transform() -> None:
    from scipy.fft import dct

    options = {"mels": 40, "log": "ln"}
    plain = log_mel(**options).features(clip(0.3, 4))
    wanted = dct(plain, type=2, norm="ortho", axis=1)[:, :13]
    np.testing.assert_allclose(
        log_mel(**options, cepstra=13).features(clip(0.3, 4)), wanted, atol=1e-4
    )
