"""What every parser promises, and where the files stand that it is tried with."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

from edge_runtime.text import plain

MAX_SENTENCE = 1200


class Broken(AssertionError):
    """A promise was not kept."""


def demand(kept: object, promise: str) -> None:
    """A promise about an accepted value; `assert` would vanish under -O."""
    if not kept:
        raise Broken(promise)


def check_sentence(sentence: str, limit: int = MAX_SENTENCE) -> None:
    """An error is one line that acts on no terminal, and no longer than a person reads."""
    demand(sentence, "an error says something")
    demand(len(sentence) <= limit, f"a sentence of {len(sentence)} characters")
    demand(plain(sentence, limit) == sentence, f"not one plain line: {sentence[:200]!r}")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    # In memory where that can be: what is written durably would wait for a disk ten thousand times.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="edge-hostile-", dir=memory)


def scratch(name: str = "") -> Path:
    """A folder of this process; it goes when the process ends."""
    folder = Path(_folder().name) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
