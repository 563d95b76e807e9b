"""A word in a room with noise: place, echo, level, and white, pink, brown or babbling background.

Every function takes its randomness as a generator, so that a clip follows from a seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from examples.keywords.speech import RATE, Samples

CLIP = RATE
"""Samples of a clip: one second."""
NOISES = ("white", "pink", "brown", "babble")
SLOPES = {"white": 0.0, "pink": -0.5, "brown": -1.0}
"""Amplitude over frequency, an exponent."""


def noise(kind: str, count: int, babble: Sequence[Samples], random: np.random.Generator) -> Samples:
    """`count` samples of background, root mean square 1."""
    if kind == "babble":
        track = babble[int(random.integers(len(babble)))]
        at = int(random.integers(len(track)))
        made = np.resize(np.roll(track, -at), count)
    else:
        spectrum = np.fft.rfft(random.normal(size=count))
        frequencies = np.maximum(np.fft.rfftfreq(count, 1 / RATE), 50.0)
        made = np.fft.irfft(spectrum * frequencies ** SLOPES[kind], count)
    level: Samples = made / np.sqrt(np.mean(np.square(made)) + 1e-12)
    return level


def in_room(samples: Samples, random: np.random.Generator) -> Samples:
    """With the echo of a small room: an impulse and a tail that dies away in 0.1 to 0.4 s."""
    decay_s = random.uniform(0.1, 0.4)
    count = int(decay_s * RATE)
    # Sound pressure falls by 60 dB in the reverberation time: a factor of 1000.
    tail = random.normal(size=count) * np.exp(-np.log(1000.0) * np.arange(count) / count)
    tail *= random.uniform(0.2, 0.6) / np.sqrt(np.sum(np.square(tail)))
    answer = np.concatenate([[1.0], np.zeros(int(random.uniform(0.001, 0.01) * RATE)), tail])
    size = len(samples) + len(answer) - 1
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(answer, size), size)
    full: Samples = wet / np.abs(wet).max()
    return full


def clip_of(
    word: Samples | None, babble: Sequence[Samples], random: np.random.Generator
) -> Samples:
    """One second: `word` somewhere in it (no word: silence, as far as there is any), noise over it.

    Signal to noise is 5 to 30 dB, and in every tenth clip there is next to no noise.
    """
    background = noise(str(random.choice(NOISES)), CLIP, babble, random)
    if word is None:
        level_db = random.uniform(-70, -20)
        quiet: Samples = np.clip(background * 10 ** (level_db / 20), -1, 1)
        return quiet
    if random.random() < 0.4:
        word = in_room(word, random)
    # Long words lose their end, never their beginning; a little silence stays before.
    spare = max(0, CLIP - len(word))
    at = int(random.integers(spare + 1))
    made = np.zeros(CLIP)
    made[at : at + min(len(word), CLIP)] = word[:CLIP]
    loudness = np.sqrt(np.mean(np.square(word)))
    snr_db = 60.0 if random.random() < 0.1 else random.uniform(5, 30)
    made += background * loudness * 10 ** (-snr_db / 20)
    peak: Samples = made / np.abs(made).max() * 10 ** (random.uniform(-20, -1) / 20)
    return peak
