"""What a pass did, in one line for people; the progress and the report say the same.

One function a pass, named like it; each takes the figures that the pass returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converters.placement.result import from_json
from converters.placement.words import placed_words
from edge_runtime.text import size

Figures = Mapping[str, Any]
NAMES: Mapping[str, str] = {"calibration_texts": "calibration rows"}
"""Notes that people read by another name: rows are texts, pictures or sounds."""


def finetune(figures: Figures) -> str:
    """The finetune pass."""
    history = figures["history"]
    epochs = figures["epochs"]
    words = [
        f"{figures['trained']} on {figures['rows']:,} rows",
        f"{epochs} epoch{'' if epochs == 1 else 's'}",
        figures["precision"],
    ]
    if history:
        words.append(f"training accuracy {history[-1][2]:.1%} at the end")
    return ", ".join([*words, *(["from the cache"] if figures["cached"] else [])])


def export(figures: Figures) -> str:
    """The export pass."""
    return ", ".join(f"{one} {size(count)}" for one, count in figures["size_bytes"].items())


def fuse(figures: Figures) -> str:
    """The fuse pass."""
    counts = figures["fused_operators"]
    words = [f"{count} {operator}" for operator, count in counts.items()]
    if figures.get("folded_nodes"):
        words.append(f"{figures['folded_nodes']} nodes folded")
    if "peak_activation_bytes" in figures:
        before, after = (figures["peak_activation_bytes"][one] for one in ("before", "after"))
        words.append(f"activations {size(before)} → {size(after)} at most")
    return ", ".join(words) or "nothing"


def quantize(figures: Figures) -> str:
    """The quantize pass."""
    told = ((one, _notes(notes)) for one, notes in figures.items())
    return "; ".join(f"{one}: {words}" if words else one for one, words in told)


def _notes(notes: Figures) -> str:
    if "placement" in notes:
        others = {key: value for key, value in notes.items() if key != "placement"}
        where = placed_words(from_json(notes["placement"]), brief=True)
        more = _notes(others)
        return f"{where}; {more}" if more else where
    if "smoothing_alpha" in notes:
        before, after = notes["smoothing_cosine_before"], notes["smoothing_cosine_after"]
        return (
            f"smoothed by {notes['smoothing_alpha']:g} on {notes['calibration_texts']} rows, "
            f"cosine {before:.4f} → {after:.4f}"
        )
    return ", ".join(
        f"{NAMES.get(key) or key.replace('_', ' ')} {_short(value)}"
        for key, value in notes.items()
        if value not in ([], "")
    )


def verify(figures: Figures) -> str:
    """The verify pass."""
    variants = figures["verdict"]["variants"]
    refused = sum(1 for one in variants if one["refused"])
    words = f"{len(variants)} variants on {figures['rows']:,} rows"
    return f"{words}, {refused} refused" if refused else words


def package(figures: Figures) -> str:
    """The package pass."""
    return f"{', '.join(figures['variants'])}; {size(figures['size_bytes'])}"


def _short(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(one) for one in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
