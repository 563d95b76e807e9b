"""An input that is longer than the model's window, as several that are not.

A sound is cut into as many samples as `decode_audio` wants, a series into as many rows as `columns`
does, one window every `hop` of them; what is left at the end is not used. What is no longer than a
window stays as it is, and its step judges it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from edge_runtime.errors import InputError
from edge_runtime.inference.tasks.audio import DecodeAudio
from edge_runtime.inference.tasks.results import Raw
from edge_runtime.inference.tasks.tabular import Columns

MAX_WINDOWS = 4096
"""Of one input that is answered as a whole."""


def window_of(step: Any) -> int:
    """How many samples or rows `step`, a bundle's first, makes an input of; 0 where it has none."""
    if isinstance(step, DecodeAudio):
        return step.samples
    return step.window if isinstance(step, Columns) else 0


def split(step: Any, raw: Raw, hop: int) -> Iterator[Raw]:
    """The windows of `raw`, each an input of `step`.

    Raises:
        InputError: it is not what `step` takes, or makes too many windows.
    """
    window = window_of(step)
    whole: Any = raw
    if isinstance(step, DecodeAudio):
        whole = dataclasses.replace(step, samples=0)(raw).values
    long = isinstance(whole, (Sequence, np.ndarray)) and not isinstance(whole, (str, bytes))
    if not long or len(whole) <= window:
        yield whole
        return
    count = 1 + (len(whole) - window) // hop
    if count > MAX_WINDOWS:
        raise InputError(
            f"{len(whole)} samples or rows make {count} windows, at most {MAX_WINDOWS} are "
            "answered at once"
        )
    for at in range(0, count * hop, hop):
        yield whole[at : at + window]
