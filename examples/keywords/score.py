"""How well a bundle hears the words of a stream, as a microphone would deliver it.

    python -m examples.keywords.score build/keywords/bundle/keywords-1.0.0-generic-x86_64.edge

A word is heard where a detection of its label ends no later than `LATE_S` after the word does; any
other detection is a false alarm. Latency is from the word's end to the detection.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import edge_runtime
from edge_runtime.errors import EdgeError, InputError, exit_code

FOLDER = Path("build/keywords")
LATE_S = 1.0
HEADER_BYTES = 44
CHUNK_BYTES = 640
"""20 ms of 16 kHz, 16 bits: what a driver delivers at a time."""
OTHERS = ("_unknown_", "_silence_")


def chunks(path: Path) -> Iterator[bytes]:
    """The samples of a plain WAV file, a driver's portion at a time."""
    with path.open("rb") as file:
        file.seek(HEADER_BYTES)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def score(said: Sequence[dict[str, Any]], heard: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Words heard, missed and imagined; `heard` has label and time in s of each detection."""
    left = list(heard)
    delays, missed = [], []
    words = [one for one in said if one["label"] not in OTHERS]
    for word in words:
        found = next(
            (
                one
                for one in left
                if one[0] == word["label"] and word["start_s"] <= one[1] <= word["end_s"] + LATE_S
            ),
            None,
        )
        if found is None:
            missed.append(word["word"])
            continue
        left.remove(found)
        delays.append(found[1] - word["end_s"])
    return {
        "words": len(words),
        "heard": len(delays),
        "missed": missed,
        "false_alarms": [f"{label} at {at_s:.1f} s" for label, at_s in left],
        "others_said": len(said) - len(words),
        "latency_after_word_s": round(statistics.median(delays), 3) if delays else None,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--stream", type=Path, default=FOLDER / "stream.wav")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    truth = arguments.stream.with_suffix(".json")
    try:
        if not truth.is_file():
            raise InputError(f"{truth}: not there; python -m examples.keywords.make makes it")
        said = json.loads(truth.read_text())["said"]
        with edge_runtime.load(arguments.bundle) as model:
            heard = [(one.label, one.at_s) for one in model.listen(chunks(arguments.stream))]
    except EdgeError as reason:
        print(f"score: {reason}", file=sys.stderr)
        return exit_code(reason)
    found = score(said, heard)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    print(
        f"{found['heard']} of {found['words']} words heard, "
        f"{found['latency_after_word_s']} s after their end (median); "
        f"missed: {', '.join(found['missed']) or 'none'}; false alarms among "
        f"{found['others_said']} other words: {', '.join(found['false_alarms']) or 'none'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
