"""Words as espeak-ng speaks them, at 16 kHz. The same call gives the same samples."""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from edge_runtime.errors import InputError
from examples.keywords.voices import ACCENTS

RATE = 16_000
SPOKEN_RATE = 22_050
UP, DOWN = 320, 441
"""16,000 / 22,050."""
QUIET = 0.01
"""Of the loudest sample: what is below it at either end is silence."""

Samples = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Manner:
    """How something is said: a variant and an accent of espeak-ng, words a minute, pitch 0 to 99.

    `stretch` is in percent: played back so much slower, a voice becomes that of a larger head.
    """

    voice: str
    accent: str
    speed: int
    pitch: int
    stretch: int = 100

    @classmethod
    def draw(
        cls, random: np.random.Generator, voices: tuple[str, ...], most_stretch: int = 0
    ) -> Manner:
        """One at random, stretched or shrunk by up to `most_stretch` percent."""
        return cls(
            voice=str(random.choice(voices)),
            accent=str(random.choice(ACCENTS)),
            speed=int(random.integers(120, 210)),
            pitch=int(random.integers(20, 80)),
            stretch=int(random.integers(100 - most_stretch, 100 + most_stretch + 1)),
        )


def check_installed() -> None:
    """Refuse to go on without a speaker.

    Raises:
        InputError: names the package to install.
    """
    if shutil.which("espeak-ng") is None:
        raise InputError("speech: espeak-ng is not installed; apt-get install espeak-ng")


def speak(text: str, manner: Manner) -> Samples:
    """`text` in −1..1 at 16 kHz, its loudest sample 1, no silence at its ends.

    Raises:
        InputError: espeak-ng does not know the voice, or says nothing.
    """
    voice = f"{manner.accent}+{manner.voice}"
    spoken = subprocess.run(
        ["espeak-ng", "-v", voice, "-s", str(manner.speed), "-p", str(manner.pitch), "--stdout"],
        input=text.encode(),
        capture_output=True,
        check=False,
    )
    if spoken.returncode or len(spoken.stdout) <= 44:
        told = spoken.stderr.decode(errors="replace").strip()[:200] or "no samples"
        raise InputError(f"speech: espeak-ng with voice {voice} failed: {told}")
    # The sizes in the header of a stream are not those of the samples.
    samples = np.frombuffer(spoken.stdout[44:], "<i2").astype(np.float64)
    samples = resample_poly(samples, UP * manner.stretch, DOWN * 100)
    loud = np.flatnonzero(np.abs(samples) > QUIET * np.abs(samples).max())
    if not len(loud):
        raise InputError(f"speech: espeak-ng with voice {voice} says nothing of {text!r}")
    cut = samples[loud[0] : loud[-1] + 1]
    full: Samples = cut / np.abs(cut).max()
    return full


def wav_bytes(samples: Samples) -> bytes:
    """A WAV file, mono, 16 bits, 16 kHz, of samples in −1..1."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.clip(np.rint(samples * 32767), -32768, 32767).astype("<i2").tobytes())
    return out.getvalue()


def write_wav(path: Path, samples: Samples) -> None:
    """`wav_bytes` in a file."""
    path.write_bytes(wav_bytes(samples))
