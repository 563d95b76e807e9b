"""Steps of sound: `decode_audio`, `standardize` and `audio_tensor`; between them may be `log_mel`.

Only what a microphone's driver or a person's recorder writes is read: RIFF WAVE of integers of 8 to
32 bits or floats. The rate must be the model's: what is resampled badly is heard badly, and well is
dear. Lengths are compared before bytes are.

Source: Microsoft, "Multiple channel audio data and WAVE files", 2001; RFC 2361 for the tags.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from edge_runtime.errors import IncompatibleError, InputError
from edge_runtime.fields import Fields
from edge_runtime.inference.backend import Tensor
from edge_runtime.inference.tasks.items import Item
from edge_runtime.inference.tasks.results import FloatArray

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
MAX_CHANNELS = 32
MAX_SECONDS = 3600.0
LAYOUTS = ("samples", "frames_mels", "mels_frames")
CHANNELS = ("none", "first", "last")


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Samples, float32, (n,), or features, (frames, mels); `truncated` if there was more."""

    values: FloatArray
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class DecodeAudio:
    """Options of the step: `sample_rate` in Hz, `max_seconds`, and `samples`.

    `samples`, where above 0, is how many there are in the end: what is longer is cut (the result
    says so), what is shorter gets silence behind it.
    """

    sample_rate: int
    max_seconds: float
    samples: int

    @classmethod
    def parse(cls, options: Fields) -> DecodeAudio:
        """From the step's options; faults go to `options`."""
        return cls(
            sample_rate=options.integer("sample_rate", 16_000, low=1000, high=192_000),
            max_seconds=options.number("max_seconds", 30.0, low=0.01, high=MAX_SECONDS),
            samples=options.integer("samples", 0, high=192_000 * int(MAX_SECONDS)),
        )

    def __call__(self, raw: object) -> Clip:
        """A WAV file's bytes, or float samples of shape (n,).

        Raises:
            InputError: not a WAV file, another rate, empty, too long, or not finite.
        """
        if isinstance(raw, (bytes, bytearray, memoryview)):
            samples = self._wav(memoryview(raw).cast("B"))
        elif isinstance(raw, np.ndarray):
            samples = _samples(raw)
        else:
            raise InputError(f"audio: expected the bytes of a WAV file, found {_kind(raw)}")
        if not len(samples):
            raise InputError("audio: holds no samples")
        self._check_length(len(samples))
        missing = self.samples - len(samples)
        if not self.samples or missing == 0:
            return Clip(samples)
        if missing > 0:
            return Clip(np.pad(samples, (0, missing)))
        return Clip(samples[: self.samples], truncated=True)

    def _check_length(self, count: int) -> None:
        if count > self.max_seconds * self.sample_rate:
            raise InputError(
                f"audio: {count / self.sample_rate:.1f} s, at most {self.max_seconds:g} s are taken"
            )

    def _wav(self, data: memoryview) -> FloatArray:
        """The samples of a WAV file, the channels' mean."""
        begin = bytes(data[:12])
        if begin[:4] != b"RIFF" or begin[8:] != b"WAVE":
            raise InputError(f"audio: not a WAV file, its {len(data)} bytes begin with {begin!r}")
        head: memoryview | None = None
        at = 12
        while at + 8 <= len(data):
            name, size = bytes(data[at : at + 4]), struct.unpack_from("<I", data, at + 4)[0]
            body = data[at + 8 : at + 8 + size]
            if name == b"fmt ":
                head = body
            elif name == b"data":
                if head is None:
                    raise InputError("audio: the WAV file has samples before their format")
                if size in (0, 0xFFFFFFFF):  # a recorder that was stopped by force: to the end
                    size, body = len(data) - at - 8, data[at + 8 :]
                return self._samples(head, body, size)
            at += 8 + size + size % 2
        raise InputError("audio: the WAV file has no samples")

    def _samples(self, head: memoryview, body: memoryview, size: int) -> FloatArray:
        form = WavFormat.parse(head, self.sample_rate)
        if len(body) < size:
            raise cut_off(len(body), size)
        self._check_length(len(body) // form.frame)
        return form.samples(body)


@dataclass(frozen=True, slots=True)
class WavFormat:
    """How a WAV file's samples are written: `tag` and `bits` are a key of READERS."""

    tag: int
    bits: int
    channels: int

    @classmethod
    def parse(cls, head: memoryview, sample_rate: int) -> WavFormat:
        """Of the chunk "fmt ".

        Raises:
            InputError: it is cut off, unknown, or of another rate.
        """
        if len(head) < 16:
            raise InputError("audio: the WAV file's format is cut off")
        tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", head)
        if tag == EXTENSIBLE and len(head) >= 26:
            tag = struct.unpack_from("<H", head, 24)[0]
        if (tag, bits) not in READERS:
            raise InputError(
                f"audio: a WAV file of format {tag} with {bits} bits, expected integers of 8, 16, "
                "24 or 32 bits or floats of 32"
            )
        if rate != sample_rate:
            raise InputError(
                f"audio: {rate} samples a second, the model hears {sample_rate}: resample it first"
            )
        if not 1 <= channels <= MAX_CHANNELS:
            raise InputError(f"audio: {channels} channels, expected 1..{MAX_CHANNELS}")
        return cls(tag, bits, channels)

    @property
    def frame(self) -> int:
        """Bytes of one sample of all channels."""
        return self.channels * self.bits // 8

    def samples(self, body: memoryview) -> FloatArray:
        """The channels' mean, (n,); bytes behind the last whole frame are not used.

        Raises:
            InputError: a sample is not a finite number.
        """
        count = len(body) // self.frame
        values = READERS[self.tag, self.bits](body[: count * self.frame])
        if not np.isfinite(values).all():
            raise InputError("audio: holds a sample that is not a finite number")
        mixed: FloatArray = values.reshape(count, self.channels).mean(axis=1, dtype=np.float32)
        return mixed


def cut_off(found: int, size: int) -> InputError:
    """A WAV file ends before its samples do."""
    return InputError(
        f"audio: the WAV file is cut off, {found} of {size} bytes of samples are there"
    )


def _bytes_of(body: memoryview) -> FloatArray:
    return (np.frombuffer(body, "u1").astype(np.float32) - np.float32(128)) / np.float32(128)


def _shorts(body: memoryview) -> FloatArray:
    return np.frombuffer(body, "<i2").astype(np.float32) / np.float32(1 << 15)


def _threes(body: memoryview) -> FloatArray:
    """24 bits: the high bytes of 32."""
    wide = np.zeros((len(body) // 3, 4), dtype=np.uint8)
    wide[:, 1:] = np.frombuffer(body, np.uint8).reshape(-1, 3)
    return (wide.reshape(-1).view("<i4").astype(np.float64) / (1 << 31)).astype(np.float32)


def _longs(body: memoryview) -> FloatArray:
    return (np.frombuffer(body, "<i4").astype(np.float64) / (1 << 31)).astype(np.float32)


def _floats(body: memoryview) -> FloatArray:
    return np.frombuffer(body, "<f4").astype(np.float32)


READERS = {
    (PCM, 8): _bytes_of,
    (PCM, 16): _shorts,
    (PCM, 24): _threes,
    (PCM, 32): _longs,
    (FLOAT, 32): _floats,
}


def _samples(raw: Tensor) -> FloatArray:
    if raw.ndim != 1 or raw.dtype.kind != "f":
        raise InputError(
            f"audio: expected float samples of shape [n], found {raw.dtype} of {list(raw.shape)}"
        )
    samples: FloatArray = raw.astype(np.float32)
    if not np.isfinite(samples).all():
        raise InputError("audio: holds a sample that is not a finite number")
    return samples


def _kind(raw: object) -> str:
    return "None" if raw is None else type(raw).__name__


@dataclass(frozen=True, slots=True)
class Standardize:
    """(x − mean) / sqrt(variance + 1e-7) over the clip, as Wav2Vec2's and HuBERT's own."""

    @classmethod
    def parse(cls, options: Fields) -> Standardize:
        """It has no options."""
        return cls()

    def __call__(self, clip: Clip) -> Clip:
        """The same clip, its mean 0 and its variance 1."""
        wide = clip.values.astype(np.float64)
        found: FloatArray = ((wide - wide.mean()) / np.sqrt(wide.var() + 1e-7)).astype(np.float32)
        return Clip(found, clip.truncated)


@dataclass(frozen=True, slots=True)
class AudioTensor:
    """Options of the step: `input`, `layout`, `channel`.

    `layout` is "samples", "frames_mels" or "mels_frames"; `channel` adds a dimension of 1 as the
    first or the last, for networks that look at features as at a picture.
    """

    input: str
    layout: str
    channel: str

    @classmethod
    def parse(cls, options: Fields) -> AudioTensor:
        """From the step's options; faults go to `options`."""
        return cls(
            input=options.text("input", "input_values"),
            layout=options.choice("layout", LAYOUTS, "samples"),
            channel=options.choice("channel", CHANNELS, "none"),
        )

    def __call__(self, clip: Clip) -> Item:
        """The model's input."""
        values = clip.values
        wanted = 1 if self.layout == "samples" else 2
        if values.ndim != wanted:
            raise IncompatibleError(
                f"step audio_tensor: layout {self.layout} of values of {values.ndim} dimensions"
            )
        if self.layout == "mels_frames":
            values = values.T
        if self.channel != "none":
            values = values[None] if self.channel == "first" else values[..., None]
        return Item({self.input: np.ascontiguousarray(values)}, truncated=clip.truncated)
