"""From a Hugging Face processor to the declared steps that do the same on the device.

One visible table for pictures and one for sound: the processor's class → what its settings mean.
The classes share names of settings and not always what they mean, so a class that is not here is
refused, and so are settings that no step expresses: a model that sees other pixels than it was
trained on fails quietly. Settings are read from the processor as the library opens it, its
defaults filled in. Each entry is held against the library's own answers in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_runtime.bundle.manifest import Step
from edge_runtime.errors import InputError

FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers; 4 and 5, box and hamming, are no filters of the step."""
FULL_SIZE = 384
"""From this size on ConvNeXt's processor stretches instead of cropping."""
LEVIT = 256 / 224
"""What LeViT's processor resizes to, over what it crops."""
USUAL_SECONDS = 30.0
RANGE_LOG10 = 8.0
"""Whisper's features are at most so far below the clip's largest, in powers of ten."""


@dataclass(frozen=True, slots=True)
class Sound:
    """Steps of sound, and the shape of one input without its batch."""

    steps: tuple[Step, ...]
    input: str
    shape: tuple[int, ...]


def image_steps(processor: Any) -> tuple[tuple[Step, ...], tuple[int, int]]:
    """The steps of an image processor, and the input's height and width.

    Raises:
        InputError: the steps cannot do what this processor does; says what.
    """
    name = _class_of(processor)
    if name not in IMAGES:
        raise InputError(
            f"image processor {name}: no steps are known that do the same; known are "
            f"{', '.join(IMAGES)}"
        )
    steps = IMAGES[name](_Settings(processor, f"image processor {name}"))
    return steps, _size_after(steps, name)


def sound_steps(extractor: Any, *, seconds: float) -> Sound:
    """The steps of a feature extractor; `seconds` is how long a clip of bare samples is.

    Raises:
        InputError: as `image_steps`.
    """
    name = _class_of(extractor)
    if name not in SOUNDS:
        raise InputError(
            f"feature extractor {name}: no steps are known that do the same; known are "
            f"{', '.join(SOUNDS)}"
        )
    return SOUNDS[name](_Settings(extractor, f"feature extractor {name}"), seconds)


def _class_of(processor: Any) -> str:
    return type(processor).__name__.removesuffix("Fast")


class _Settings:
    """A processor's attributes, with a name for errors."""

    def __init__(self, processor: Any, where: str) -> None:
        self._processor = processor
        self.where = where

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self._processor, name, default)

    def refuse(self, what: str) -> InputError:
        return InputError(f"{self.where}: {what}, which no step does")


def _plain(s: _Settings) -> tuple[Step, ...]:
    """Resize, perhaps crop the middle, rescale, normalize: most of them."""
    return (_decode(), *_resize(s), *_crop(s), _normalize(s))


def _flipped(s: _Settings) -> tuple[Step, ...]:
    """MobileViT's: channels in BGR, no mean and no deviation."""
    order = "BGR" if s.get("do_flip_channel_order") else "RGB"
    return (_decode(order), *_resize(s), *_crop(s), _normalize(s))


def _cropped_share(s: _Settings) -> tuple[Step, ...]:
    """ConvNeXt's: a share of a larger picture, or all of it stretched where it is large."""
    side = (s.get("size") or {}).get("shortest_edge")
    if not side or not s.get("do_resize"):
        raise s.refuse(f"resizes to {dict(s.get('size') or {})}")
    if side >= FULL_SIZE:
        return (_decode(), _to(s, side, side, "stretch"), _normalize(s))
    larger = int(side / s.get("crop_pct"))
    crop = Step("center_crop", {"width": side, "height": side})
    return (_decode(), _to(s, larger, larger, "shortest"), crop, _normalize(s))


def _levit(s: _Settings) -> tuple[Step, ...]:
    """LeViT's: an eighth larger than its setting says."""
    side = (s.get("size") or {}).get("shortest_edge")
    if not side or not s.get("do_resize"):
        return _plain(s)
    larger = int(LEVIT * side)
    return (_decode(), _to(s, larger, larger, "shortest"), *_crop(s), _normalize(s))


def _efficient(s: _Settings) -> tuple[Step, ...]:
    """EfficientNet's: may shift by one, and divides by the deviation twice."""
    shift = 1.0 if s.get("rescale_offset") and s.get("do_rescale") else 0.0
    mean, std = _moments(s)
    spread = _each(s.get("image_std")) if s.get("include_top") else [1.0]
    mean, std, spread = _alike(mean, std, spread)
    return (
        _decode(),
        *_resize(s),
        *_crop(s),
        # ((x × scale − shift − mean) / std) / spread
        Step(
            "normalize",
            {
                "scale": _scale(s),
                "mean": [one + shift for one in mean],
                "std": [a * b for a, b in zip(std, spread, strict=True)],
                "layout": "NCHW",
                "input": "pixel_values",
            },
        ),
    )


def _depth(s: _Settings) -> tuple[Step, ...]:
    """DPT's: the picture's own ratio, or multiples of a number, are sizes of the picture's."""
    if s.get("keep_aspect_ratio") or s.get("do_pad"):
        raise s.refuse("keeps each picture's own ratio of sides")
    multiple, size = s.get("ensure_multiple_of") or 1, s.get("size") or {}
    if any(side % multiple for side in size.values()):
        raise s.refuse(f"resizes to {dict(size)}, made multiples of {multiple}")
    return _plain(s)


def _decode(order: str = "RGB") -> Step:
    return Step("decode_image", {"order": order})


def _resize(s: _Settings) -> tuple[Step, ...]:
    if not s.get("do_resize"):
        return ()
    size = {key: value for key, value in dict(s.get("size") or {}).items() if value is not None}
    if set(size) == {"height", "width"}:
        return (_to(s, size["width"], size["height"], "stretch"),)
    if set(size) == {"shortest_edge"}:
        return (_to(s, size["shortest_edge"], size["shortest_edge"], "shortest"),)
    raise s.refuse(
        f"resizes to {size}: each picture has a size of its own; set height and width in "
        "preprocessor_config.json"
    )


def _to(s: _Settings, width: int, height: int, fit: str) -> Step:
    resample = s.get("resample")
    if resample not in FILTERS:
        raise s.refuse(f"resizes with Pillow's filter {resample}")
    return Step(
        "resize",
        {"width": width, "height": height, "fit": fit, "filter": FILTERS[int(resample)]},
    )


def _crop(s: _Settings) -> tuple[Step, ...]:
    if not s.get("do_center_crop"):
        return ()
    size = s.get("crop_size")
    return (Step("center_crop", {"width": size["width"], "height": size["height"]}),)


def _scale(s: _Settings) -> float:
    return float(s.get("rescale_factor")) if s.get("do_rescale") else 1.0


def _moments(s: _Settings) -> tuple[list[float], list[float]]:
    if not s.get("do_normalize"):
        return [0.0], [1.0]
    return _each(s.get("image_mean")), _each(s.get("image_std"))


def _each(value: Any) -> list[float]:
    return [float(one) for one in (value if isinstance(value, Sequence) else [value])]


def _alike(*lists: list[float]) -> tuple[list[float], ...]:
    """One number stands for every channel."""
    longest = max(map(len, lists))
    return tuple(one * longest if len(one) == 1 else one for one in lists)


def _normalize(s: _Settings) -> Step:
    mean, std = _alike(*_moments(s))
    return Step(
        "normalize",
        {
            "scale": _scale(s), "mean": mean, "std": std, "layout": "NCHW",
            "input": "pixel_values",
        },
    )  # fmt: skip


def _size_after(steps: Sequence[Step], name: str) -> tuple[int, int]:
    """Height and width of the input."""
    for step in reversed(steps):
        whole = step.step == "resize" and step.options["fit"] != "shortest"
        if whole or step.step == "center_crop":
            height, width = step.options["height"], step.options["width"]
            assert isinstance(height, int)
            assert isinstance(width, int)
            return height, width
    raise InputError(
        f"image processor {name}: gives each picture a size of its own, which no step does; set "
        "do_center_crop, or height and width, in preprocessor_config.json"
    )


def _samples(s: _Settings, seconds: float) -> Sound:
    """Wav2Vec2's and its kin: bare samples."""
    rate = int(s.get("sampling_rate"))
    count = round(seconds * rate)
    standard = (Step("standardize"),) if s.get("do_normalize") else ()
    decode = _heard(rate, count)
    tensor = Step("audio_tensor", {"input": "input_values", "layout": "samples"})
    return Sound((decode, *standard, tensor), "input_values", (count,))


def _heard(rate: int, count: int) -> Step:
    """Clips of `count` samples; up to twice that, or what the step takes anyway, is cut."""
    most = max(USUAL_SECONDS, 2 * count / rate)
    return Step("decode_audio", {"sample_rate": rate, "samples": count, "max_seconds": most})


def _kaldi(s: _Settings, seconds: float) -> Sound:
    """The audio spectrogram transformer's: Kaldi's filter banks, a fixed number of frames."""
    rate, mels, frames = (
        int(s.get(one)) for one in ("sampling_rate", "num_mel_bins", "max_length")
    )
    normal = s.get("do_normalize")
    window, fft = round(rate * 0.025), 512
    if window > fft:
        raise s.refuse(f"hears {rate} samples a second")
    features = Step(
        "log_mel",
        {
            "sample_rate": rate, "window": "hann_symmetric", "window_length": window,
            "hop": round(rate * 0.01), "fft": fft, "mels": mels, "low_hz": 20,
            "high_hz": rate / 2, "scale": "kaldi", "triangles_in_mel": True,
            "preemphasis": 0.97, "remove_dc": True, "floor": 1.192092955078125e-07,
            "mean": float(s.get("mean")) if normal else 0.0,
            # Twice the deviation, as its authors divide.
            "std": 2.0 * float(s.get("std")) if normal else 1.0,
            "frames": frames,
        },
    )  # fmt: skip
    decode = Step("decode_audio", {"sample_rate": rate})
    tensor = Step("audio_tensor", {"input": "input_values", "layout": "frames_mels"})
    return Sound((decode, features, tensor), "input_values", (frames, mels))


def _whisper(s: _Settings, seconds: float) -> Sound:
    """Whisper's: Slaney's scale, filled with silence to its 30 seconds."""
    if s.get("do_normalize"):
        raise s.refuse("standardizes the samples before they are filled with silence")
    rate, mels, hop, fft, count, frames = (
        int(s.get(one))
        for one in (
            "sampling_rate", "feature_size", "hop_length", "n_fft", "n_samples", "nb_max_frames",
        )
    )  # fmt: skip
    features = Step(
        "log_mel",
        {
            "sample_rate": rate, "window": "hann", "window_length": fft, "fft": fft, "hop": hop,
            "mels": mels, "low_hz": 0, "high_hz": min(8000.0, rate / 2), "scale": "slaney",
            "slaney_norm": True, "center": True, "log": "log10", "range": RANGE_LOG10,
            # (x + 4) / 4
            "mean": -4, "std": 4, "frames": frames,
        },
    )  # fmt: skip
    decode = _heard(rate, count)
    tensor = Step("audio_tensor", {"input": "input_features", "layout": "mels_frames"})
    return Sound((decode, features, tensor), "input_features", (mels, frames))


IMAGES: Mapping[str, Callable[[_Settings], tuple[Step, ...]]] = {
    "BeitImageProcessor": _plain,
    "BitImageProcessor": _plain,
    "BlipImageProcessor": _plain,
    "CLIPImageProcessor": _plain,
    "ChineseCLIPImageProcessor": _plain,
    "ConditionalDetrImageProcessor": _plain,
    "ConvNextImageProcessor": _cropped_share,
    "DPTImageProcessor": _depth,
    "DeformableDetrImageProcessor": _plain,
    "DeiTImageProcessor": _plain,
    "DetrImageProcessor": _plain,
    "EfficientNetImageProcessor": _efficient,
    "LevitImageProcessor": _levit,
    "MobileNetV1ImageProcessor": _plain,
    "MobileNetV2ImageProcessor": _plain,
    "MobileViTImageProcessor": _flipped,
    "PvtImageProcessor": _plain,
    "RTDetrImageProcessor": _plain,
    "SegformerImageProcessor": _plain,
    "SiglipImageProcessor": _plain,
    "ViTImageProcessor": _plain,
    "YolosImageProcessor": _plain,
}
SOUNDS: Mapping[str, Callable[[_Settings, float], Sound]] = {
    "ASTFeatureExtractor": _kaldi,
    "Wav2Vec2FeatureExtractor": _samples,
    "WhisperFeatureExtractor": _whisper,
}
