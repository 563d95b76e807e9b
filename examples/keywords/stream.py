"""A minute of a microphone's life with keywords at known times, for whoever listens to a stream.

Between the keywords other words are said, and noise lies under all of it. The truth is a JSON file
beside the WAV file: what was said when, in seconds from the beginning.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from converters.progress import Terminal
from edge_runtime.errors import InputError
from examples.keywords.data import SPLIT_OF, babble_of
from examples.keywords.mixing import noise
from examples.keywords.speech import RATE, Manner, Samples, check_installed, speak, write_wav
from examples.keywords.voices import KEYWORDS, STRANGE_WORDS, UNKNOWN, WORDS

SECONDS = 60
SNR_DB = 15.0
LOUDNESS = 0.08
"""Root mean square of a word, of full scale."""


def make_stream(seconds: int, seed: int) -> tuple[Samples, list[dict[str, object]]]:
    """Samples in −1..1, and what was said: label, word, voice, start_s, end_s.

    Two of three words are keywords; all voices are the test's. Nothing overlaps.

    Raises:
        InputError: espeak-ng is not installed, or fails.
    """
    check_installed()
    random = np.random.default_rng([seed, seconds])
    count = seconds * RATE
    hum = noise("pink", count, [], random) + noise("babble", count, babble_of("test", seed), random)
    made = hum / np.sqrt(2) * LOUDNESS * 10 ** (-SNR_DB / 20)
    said: list[dict[str, object]] = []
    at = RATE
    while True:
        keyword = random.random() < 2 / 3
        word = str(random.choice(KEYWORDS if keyword else (*WORDS, *STRANGE_WORDS)))
        manner = Manner.draw(random, SPLIT_OF["test"].voices)
        samples = speak(word, manner)
        end = at + len(samples)
        if end > count - RATE:
            return np.clip(made, -1, 1), said
        made[at:end] += samples / np.sqrt(np.mean(np.square(samples))) * LOUDNESS
        said.append(
            {
                "label": word if keyword else UNKNOWN,
                "word": word,
                "voice": manner.voice,
                "start_s": round(at / RATE, 4),
                "end_s": round(end / RATE, 4),
            }
        )
        at = end + int(random.uniform(0.8, 1.6) * RATE)


def write_stream(path: Path, *, seconds: int = SECONDS, seed: int = 1) -> None:
    """`path`, a WAV file, and the truth beside it.

    Raises:
        InputError: as `make_stream`.
    """
    samples, said = make_stream(seconds, seed)
    write_wav(path, samples)
    truth = {"sample_rate": RATE, "seconds": seconds, "seed": seed, "said": said}
    path.with_suffix(".json").write_text(json.dumps(truth, indent=1) + "\n")


def main() -> int:
    """Command line: one stream."""
    parser = argparse.ArgumentParser(prog="python -m examples.keywords.stream", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/keywords/stream.wav"))
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--seed", type=int, default=1)
    parsed = parser.parse_args()
    try:
        write_stream(parsed.out, seconds=parsed.seconds, seed=parsed.seed)
    except InputError as reason:
        Terminal().say(f"stopped: {reason}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
