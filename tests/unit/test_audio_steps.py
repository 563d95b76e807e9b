"""Sound as recorders write it, and what is refused of it."""

from __future__ import annotations

import io
import struct
import wave
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import IncompatibleError, InputError
from edge_runtime.fields import Fields
from edge_runtime.inference.tasks.audio import AudioTensor, Clip, DecodeAudio

TONE = np.sin(np.arange(1600) * 0.1).astype(np.float32) * 0.5


def step(kind: Any, **options: Any) -> Any:
    return kind.parse(Fields(options, "step", IncompatibleError))


def wav(width: int = 2, channels: int = 1, rate: int = 16_000) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        top = 1 << (8 * width - 1)
        whole = np.rint(TONE.astype(np.float64) * (top - 1)).astype(np.int64)
        both = np.repeat(whole[:, None], channels, axis=1).ravel()
        if width == 1:
            file.writeframes((both + 128).astype(np.uint8).tobytes())
        else:
            rows = both.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width]
            file.writeframes(rows.tobytes())
    return out.getvalue()


def riff(tag: int, bits: int, data: bytes, rate: int = 16_000, extra: bytes = b"") -> bytes:
    head = struct.pack("<HHIIHH", tag, 1, rate, rate * bits // 8, bits // 8, bits) + extra
    body = b"fmt " + struct.pack("<I", len(head)) + head + b"junk" + struct.pack("<I", 3) + b"abc\0"
    body += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body


@pytest.mark.parametrize(("width", "within"), [(1, 0.01), (2, 1e-4), (3, 1e-6), (4, 1e-6)])
@pytest.mark.parametrize("channels", [1, 2])
def test_integers_of_every_width_are_read(width: int, within: float, channels: int) -> None:
    found = step(DecodeAudio)(wav(width, channels))
    np.testing.assert_allclose(found.values, TONE, atol=within)
    assert found.values.dtype == np.float32


def test_floats_and_the_extensible_format_are_read() -> None:
    data = TONE.astype("<f4").tobytes()
    assert step(DecodeAudio)(riff(3, 32, data)).values.tolist() == TONE.tolist()
    extra = struct.pack("<HHIH", 22, 32, 0, 3) + bytes(14)
    assert step(DecodeAudio)(riff(0xFFFE, 32, data, extra=extra)).values.tolist() == TONE.tolist()


def test_a_recording_that_was_stopped_by_force_is_read_to_its_end() -> None:
    whole = wav()
    at = whole.index(b"data") + 4
    for size in (0, 0xFFFFFFFF):
        stopped = whole[:at] + struct.pack("<I", size) + whole[at + 4 :]
        np.testing.assert_allclose(step(DecodeAudio)(stopped).values, TONE, atol=1e-4)


def test_clips_become_as_long_as_the_model_hears() -> None:
    longer = step(DecodeAudio, samples=2000)(wav())
    assert (len(longer.values), longer.truncated, float(longer.values[-1])) == (2000, False, 0.0)
    shorter = step(DecodeAudio, samples=1000)(wav())
    assert (len(shorter.values), shorter.truncated) == (1000, True)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "not a WAV file, its 0 bytes"),
        (b"ID3\x04" + bytes(40), "not a WAV file"),
        (wav()[:40], "no samples|cut off"),
        (wav()[:-100], "cut off, 3100 of 3200 bytes"),
        (riff(1, 16, b""), "holds no samples"),
        (riff(85, 16, b"abcd"), "format 85 with 16 bits"),
        (riff(1, 12, b"abcd"), "format 1 with 12 bits"),
        (wav(rate=44_100), "44100 samples a second, the model hears 16000"),
        (riff(3, 32, np.array([1, np.nan], "<f4").tobytes()), "not a finite number"),
        (riff(1, 16, bytes(2 * 16_000 * 31)), "31.0 s, at most 30 s"),
        (None, "found None"),
        ("a.wav", "found str"),
        (np.zeros((2, 2), np.float32), r"of shape \[n\], found float32 of \[2, 2\]"),
        (np.zeros(5, np.int16), "found int16"),
        (np.array([np.inf], np.float32), "not a finite number"),
        (np.zeros(0, np.float32), "holds no samples"),
    ],
)
def test_what_is_no_sound_is_told_in_a_sentence(raw: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        step(DecodeAudio)(raw)


def test_the_tensor_has_the_models_layout() -> None:
    features = Clip(np.arange(6, dtype=np.float32).reshape(3, 2), truncated=True)
    for options, shape in (
        ({"layout": "frames_mels"}, (3, 2)),
        ({"layout": "mels_frames", "channel": "first"}, (1, 2, 3)),
        ({"layout": "frames_mels", "channel": "last"}, (3, 2, 1)),
    ):
        item = step(AudioTensor, input="x", **options)(features)
        assert item.tensors["x"].shape == shape
        assert item.truncated
    with pytest.raises(IncompatibleError, match="layout samples of values of 2 dimensions"):
        step(AudioTensor)(features)
