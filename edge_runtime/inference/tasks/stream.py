"""The step `stream`: how a model that hears clips is put to a sound that does not end.

Numbers only; `inference.spotting` and `inference.streaming` do what they say. The step changes
nothing about the answer to a single clip.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.fields import Fields

MAX_SMOOTHED = 1000
"""Windows whose scores are kept for a mean."""
MAX_IGNORED = 1024


@dataclass(frozen=True, slots=True)
class Stream:
    """Options of the step; times in milliseconds.

    The model hears a window every `hop_ms`, as long as its clips are, or `window_ms` where it takes
    any length. What it says of each label is averaged over the windows of the last `smooth_ms`; a
    mean of at least `threshold` is a detection, unless the label is one of `ignore`, or less than
    `suppress_ms` have passed since the last.

    The defaults: smoothing as Chen, Parada, Heigold, "Small-footprint keyword spotting using deep
    neural networks", ICASSP 2014, 2.3 (30 frames of 10 ms); threshold and words that stand for none
    as TensorFlow's `recognize_commands`.
    """

    hop_ms: float
    window_ms: float
    smooth_ms: float
    threshold: float
    suppress_ms: float
    ignore: tuple[str, ...]

    @classmethod
    def parse(cls, options: Fields) -> Stream:
        """From the step's options; faults go to `options`."""
        made = cls(
            hop_ms=options.number("hop_ms", 100.0, low=1, high=60_000),
            window_ms=options.number("window_ms", 1000.0, low=1, high=60_000),
            smooth_ms=options.number("smooth_ms", 300.0, low=0, high=60_000),
            threshold=options.number("threshold", 0.7, low=0, high=1),
            suppress_ms=options.number("suppress_ms", 1000.0, low=0, high=600_000),
            ignore=options.texts("ignore", ("_silence_", "_unknown_"), max_items=MAX_IGNORED),
        )
        if made.smooth_ms > MAX_SMOOTHED * made.hop_ms:
            options.fault(
                f"{options.where}: smooth_ms is {made.smooth_ms:g}, expected at most "
                f"{MAX_SMOOTHED} times hop_ms, {made.hop_ms:g}"
            )
        return made
