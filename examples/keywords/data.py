"""One-second clips of twelve classes in the manner of Speech Commands, spoken by espeak-ng.

`make_data` writes a folder per split with a folder per class of WAV files, 16 kHz, 16 bits. A clip
follows from the seed, its split, class and number. No voice is in two splits, nor is the babble
behind the words; half of the test's unknown words are words that training never heard.

Source of the classes: Warden, "Speech Commands" (2018); Banbury et al., "MLPerf Tiny" (2021).
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from converters.progress import Progress, Terminal
from edge_runtime.errors import InputError
from examples.keywords.mixing import CLIP, clip_of
from examples.keywords.speech import RATE, Manner, Samples, check_installed, speak, write_wav
from examples.keywords.voices import (
    CLASSES,
    SENTENCES,
    SILENCE,
    STRANGE_WORDS,
    TEST_VOICES,
    TRAIN_VOICES,
    UNKNOWN,
    WORDS,
)
from examples.workbench import SPLITS

BABBLE_S = 4
BABBLERS = 6


@dataclass(frozen=True, slots=True)
class Split:
    """Who speaks, how many clips of a class there are, of what unknown words, tracks of babble.

    `stretch`: by how many percent voices are made larger or smaller, so that few are many.
    """

    voices: tuple[str, ...]
    each: int
    more: Mapping[str, int]
    words: tuple[str, ...]
    tracks: int
    stretch: int

    def count(self, name: str) -> int:
        """Clips of class `name`."""
        return self.more.get(name, self.each)


SPLIT_OF = {
    "train": Split(TRAIN_VOICES, 1100, {UNKNOWN: 3000, SILENCE: 700}, WORDS, 16, 15),
    "calibration": Split(TRAIN_VOICES, 20, {}, WORDS, 4, 15),
    "test": Split(TEST_VOICES, 150, {}, WORDS, 6, 0),
}


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip to make."""

    split: str
    name: str
    number: int

    def random(self, seed: int) -> np.random.Generator:
        """Its own randomness."""
        return np.random.default_rng(
            [seed, SPLITS.index(self.split), CLASSES.index(self.name), self.number]
        )


def babble_of(split: str, seed: int) -> list[Samples]:
    """Several people who talk at once, all of them voices of the split."""
    one = SPLIT_OF[split]
    random = np.random.default_rng([seed, SPLITS.index(split), len(CLASSES)])
    tracks = []
    for _ in range(one.tracks):
        track = np.zeros(BABBLE_S * RATE)
        for _ in range(BABBLERS):
            said = speak(str(random.choice(SENTENCES)), Manner.draw(random, one.voices))
            track += np.resize(np.roll(said, int(random.integers(len(said)))), len(track))
        tracks.append(track)
    return tracks


def word_of(clip: Clip, random: np.random.Generator) -> str:
    """What is said in the clip."""
    if clip.name != UNKNOWN:
        return clip.name
    strange = clip.split == "test" and clip.number % 2
    return str(random.choice(STRANGE_WORDS if strange else SPLIT_OF[clip.split].words))


def samples_of(clip: Clip, babble: Sequence[Samples], seed: int) -> tuple[str, Samples]:
    """Who speaks, and one second.

    Raises:
        InputError: espeak-ng fails.
    """
    random = clip.random(seed)
    if clip.name == SILENCE:
        return "nobody", clip_of(None, babble, random)
    word = word_of(clip, random)
    one = SPLIT_OF[clip.split]
    manner = Manner.draw(random, one.voices, one.stretch)
    said = speak(word, manner)
    if len(said) > 0.95 * CLIP:  # a slow speaker is asked to hurry
        hurried = int(manner.speed * len(said) / (0.9 * CLIP)) + 1
        said = speak(word, replace(manner, speed=min(hurried, 450)))
    return manner.voice, clip_of(said, babble, random)


def make_data(out: Path, progress: Progress, *, seed: int = 1) -> None:
    """Write every split under `out`; an old one is replaced.

    Raises:
        InputError: espeak-ng is not installed, or fails.
    """
    check_installed()
    shutil.rmtree(out, ignore_errors=True)
    # Threads do: most of the time goes to espeak-ng's processes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for split, one in SPLIT_OF.items():
            for name in CLASSES:
                (out / split / name).mkdir(parents=True)
            babble = babble_of(split, seed)
            clips = [Clip(split, name, at) for name in CLASSES for at in range(one.count(name))]

            def write(clip: Clip, babble: Sequence[Samples] = babble) -> str:
                voice, samples = samples_of(clip, babble, seed)
                folder = out / clip.split / clip.name
                write_wav(folder / f"{clip.number:04}-{voice}.wav", samples)
                return clip.name

            with progress.count(f"{split}: clips of {len(CLASSES)} classes", len(clips)) as more:
                for name in pool.map(write, clips):
                    more(1, name)


def main() -> int:
    """Command line: only the data."""
    parser = argparse.ArgumentParser(prog="python -m examples.keywords.data", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/keywords/data"))
    parser.add_argument("--seed", type=int, default=1)
    parsed = parser.parse_args()
    progress = Terminal()
    try:
        make_data(parsed.out, progress, seed=parsed.seed)
    except InputError as reason:
        progress.say(f"stopped: {reason}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
