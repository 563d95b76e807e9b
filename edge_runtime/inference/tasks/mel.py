"""The step `log_mel`: a waveform to log-mel features, as the networks that hear were trained on.

One function with the options of the field's front ends, so that Whisper's, AST's and MLPerf Tiny's
are the same code with other numbers. Filters and window are made once; a call is a few products.
It equals `transformers.audio_utils.spectrogram` within 1e-4 of the features' scale.

Sources: Davis and Mermelstein 1980; the mel scales of HTK (2595 log10(1 + f/700)), Kaldi and
Slaney's Auditory Toolbox; Kaldi's `compute-fbank-feats` for pre-emphasis and DC removal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InputError
from edge_runtime.fields import Fields
from edge_runtime.inference.tasks.audio import Clip
from edge_runtime.inference.tasks.results import FloatArray

SCALES = ("htk", "kaldi", "slaney")
WINDOWS = ("hann", "hann_symmetric", "hamming", "povey")
LOGS = ("ln", "log10", "db")
MAX_FRAMES = 60_000
BREAK_HZ, BREAK_MEL, LOG_STEP = 1000.0, 15.0, 27.0 / np.log(6.4)
"""Slaney's scale is straight below 1 kHz and logarithmic above."""


@dataclass(frozen=True, slots=True)
class LogMelOptions:
    """Options of the step, as the manifest declares them.

    `window_length`, `hop` and `fft` count samples; frequencies are in Hz. A feature is
    (log(max(mel energy, floor)) − mean) / std; `range`, where above 0, first raises what is more
    than that below the clip's largest; `cepstra`, where above 0, is how many coefficients of the
    features' cosine transform take their place (MFCC). `center` pads half a window on both sides
    by reflection. `frames`, where above 0, is how many there are in the end: the rest is cut, what
    lacks is `fill` before mean and std. `power` is 1 for magnitudes, 2 for energies.
    """

    sample_rate: int
    window: str
    window_length: int
    hop: int
    fft: int
    power: int
    center: bool
    preemphasis: float
    remove_dc: bool
    mels: int
    low_hz: float
    high_hz: float
    scale: str
    triangles_in_mel: bool
    slaney_norm: bool
    log: str
    floor: float
    range: float
    cepstra: int
    mean: float
    std: float
    frames: int
    fill: float

    @classmethod
    def parse(cls, options: Fields) -> LogMelOptions:
        """From the step's options; faults go to `options`."""
        rate = options.integer("sample_rate", 16_000, low=1000, high=192_000)
        window_length = options.integer("window_length", 400, low=2, high=1 << 15)
        fft = options.integer("fft", 512, low=2, high=1 << 16)
        made = cls(
            sample_rate=rate,
            window=options.choice("window", WINDOWS, "hann"),
            window_length=window_length,
            hop=options.integer("hop", 160, low=1, high=1 << 15),
            fft=fft,
            power=options.integer("power", 2, low=1, high=2),
            center=options.boolean("center", False),
            preemphasis=options.number("preemphasis", 0.0, low=0, high=1),
            remove_dc=options.boolean("remove_dc", False),
            mels=options.integer("mels", 40, low=1, high=1024),
            low_hz=options.number("low_hz", 20.0, low=0, high=rate / 2),
            high_hz=options.number("high_hz", rate / 2, low=1, high=rate / 2),
            scale=options.choice("scale", SCALES, "htk"),
            triangles_in_mel=options.boolean("triangles_in_mel", False),
            slaney_norm=options.boolean("slaney_norm", False),
            log=options.choice("log", LOGS, "ln"),
            floor=options.number("floor", 1e-10, low=1e-30, high=1),
            range=options.number("range", 0.0, low=0, high=1000),
            cepstra=options.integer("cepstra", 0, high=1024),
            mean=options.number("mean", 0.0, low=-1e6, high=1e6),
            std=options.number("std", 1.0, low=1e-6, high=1e6),
            frames=options.integer("frames", 0, high=MAX_FRAMES),
            fill=options.number("fill", 0.0, low=-1e6, high=1e6),
        )
        if fft < window_length:
            options.fault(
                f"{options.where}: fft is {fft}, expected at least window_length, {window_length}"
            )
        if made.triangles_in_mel and made.slaney_norm:
            options.fault(f"{options.where}: slaney_norm is of triangles in Hz, not in mel")
        if made.cepstra > made.mels:
            options.fault(
                f"{options.where}: cepstra is {made.cepstra}, expected at most mels, {made.mels}"
            )
        if made.low_hz >= made.high_hz:
            options.fault(
                f"{options.where}: low_hz is {made.low_hz:g}, expected less than high_hz, "
                f"{made.high_hz:g}"
            )
        return made


class LogMel:
    """The step, its window and filters made. Pure; safe to call from any thread."""

    def __init__(self, options: LogMelOptions) -> None:
        self.options = options
        self._window = window(options.window, options.window_length)
        self._filters = mel_filters(options)

    @classmethod
    def parse(cls, options: Fields) -> LogMel:
        """From the step's options; faults go to `options`."""
        return cls(LogMelOptions.parse(options))

    def __call__(self, clip: Clip) -> Clip:
        """Samples in −1..1 to features.

        Raises:
            InputError: the clip is shorter than a window, or makes too many frames.
        """
        return Clip(self.features(clip.values), clip.truncated)

    def features(self, samples: FloatArray) -> FloatArray:
        """Samples in −1..1, shape (n,), to float32 features, (frames, mels) or (frames, cepstra).

        Raises:
            InputError: as a call.
        """
        o = self.options
        frames = self._frames(samples.astype(np.float64))
        if o.remove_dc:
            frames = frames - frames.mean(axis=1, keepdims=True)
        if o.preemphasis:
            before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
            frames = frames - o.preemphasis * before
        spectrum = np.fft.rfft(frames * self._window, n=o.fft, axis=1)
        energy = np.abs(spectrum)
        if o.power == 2:
            energy = np.square(energy)
        found = self._logarithm(np.maximum(energy @ self._filters, o.floor))
        if o.range:
            found = np.maximum(found, found.max() - o.range)
        if o.cepstra:
            found = found @ cosines(o.mels, o.cepstra)
        if o.frames:
            found = _sized(found, o.frames, o.fill)
        features: FloatArray = ((found - o.mean) / o.std).astype(np.float32)
        return features

    def _frames(self, samples: NDArray[np.float64]) -> NDArray[np.float64]:
        """Overlapping windows, (frames, window_length); what is left at the end is not used."""
        o = self.options
        if o.center:
            if len(samples) <= o.window_length // 2:
                raise _short(len(samples), o.window_length // 2 + 1)
            samples = np.pad(samples, o.window_length // 2, mode="reflect")
        if len(samples) < o.window_length:
            raise _short(len(samples), o.window_length)
        count = 1 + (len(samples) - o.window_length) // o.hop
        if count > MAX_FRAMES:
            raise InputError(f"audio: {count} frames, at most {MAX_FRAMES} are analysed")
        views = np.lib.stride_tricks.sliding_window_view(samples, o.window_length)
        return views[:: o.hop][:count]

    def _logarithm(self, energy: NDArray[np.float64]) -> NDArray[np.float64]:
        kind = self.options.log
        if kind == "ln":
            return np.log(energy)
        return np.log10(energy) * (1.0 if kind == "log10" else 20.0 / self.options.power)


def _short(found: int, wanted: int) -> InputError:
    return InputError(f"audio: {found} samples, expected at least {wanted}, a window's")


def _sized(found: NDArray[np.float64], frames: int, fill: float) -> NDArray[np.float64]:
    missing = frames - len(found)
    if missing <= 0:
        return found[:frames]
    return np.pad(found, ((0, missing), (0, 0)), constant_values=fill)


def window(name: str, length: int) -> NDArray[np.float64]:
    """The taper, (length,); periodic but for "hann_symmetric" and "povey", which are Kaldi's."""
    if name == "povey":
        return np.hanning(length) ** 0.85
    if name == "hann_symmetric":
        return np.hanning(length)
    return (np.hanning if name == "hann" else np.hamming)(length + 1)[:-1]


def to_mel(hz: NDArray[np.float64], scale: str) -> NDArray[np.float64]:
    """Frequencies in mel."""
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    if scale == "kaldi":
        return 1127.0 * np.log(1.0 + hz / 700.0)
    above = np.maximum(hz, BREAK_HZ)
    return np.where(
        hz < BREAK_HZ, 3.0 * hz / 200.0, BREAK_MEL + np.log(above / BREAK_HZ) * LOG_STEP
    )


def to_hz(mel: NDArray[np.float64], scale: str) -> NDArray[np.float64]:
    """The inverse of `to_mel`."""
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    if scale == "kaldi":
        return 700.0 * (np.exp(mel / 1127.0) - 1.0)
    above = BREAK_HZ * np.exp((np.maximum(mel, BREAK_MEL) - BREAK_MEL) / LOG_STEP)
    return np.where(mel < BREAK_MEL, 200.0 * mel / 3.0, above)


def mel_filters(o: LogMelOptions) -> NDArray[np.float64]:
    """Triangles over the FFT's bins, (fft // 2 + 1, mels)."""
    ends = to_mel(np.array([o.low_hz, o.high_hz]), o.scale)
    corners = np.linspace(ends[0], ends[1], o.mels + 2)
    bins = np.arange(o.fft // 2 + 1, dtype=np.float64) * (o.sample_rate / (2 * (o.fft // 2)))
    edges = to_hz(corners, o.scale)
    at, between = (to_mel(bins, o.scale), corners) if o.triangles_in_mel else (bins, edges)
    steps = np.diff(between)
    slopes = between[None, :] - at[:, None]
    rising, falling = -slopes[:, :-2] / steps[:-1], slopes[:, 2:] / steps[1:]
    filters = np.maximum(0.0, np.minimum(rising, falling))
    if o.slaney_norm:
        filters = filters * (2.0 / (edges[2:] - edges[:-2]))
    return filters


def cosines(mels: int, cepstra: int) -> NDArray[np.float64]:
    """The orthonormal DCT-II as a product, (mels, cepstra)."""
    at = np.arange(mels)[:, None] + 0.5
    table: NDArray[np.float64] = np.cos(np.pi / mels * at * np.arange(cepstra))
    table *= np.sqrt(2.0 / mels)
    table[:, 0] /= np.sqrt(2.0)
    return table
