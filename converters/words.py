"""What a pass did, in one line for people; the progress and the report say the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edge_runtime.text import size

Figures = Mapping[str, Any]


def pass_words(name: str, figures: Figures) -> str:
    """The figures that pass `name` returned, as words; empty for a pass that is not known."""
    return WORDS[name](figures) if name in WORDS else ""


def _finetune(figures: Figures) -> str:
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


def _export(figures: Figures) -> str:
    return ", ".join(f"{one} {size(count)}" for one, count in figures["size_bytes"].items())


def _fuse(figures: Figures) -> str:
    counts = figures["fused_operators"]
    return ", ".join(f"{count} {operator}" for operator, count in counts.items()) or "nothing"


def _quantize(figures: Figures) -> str:
    return "; ".join(f"{one}: {_notes(notes)}" for one, notes in figures.items())


def _notes(notes: Figures) -> str:
    if "smoothing_alpha" in notes:
        before, after = notes["smoothing_cosine_before"], notes["smoothing_cosine_after"]
        return (
            f"smoothed by {notes['smoothing_alpha']:g} on {notes['calibration_texts']} texts, "
            f"cosine {before:.4f} → {after:.4f}"
        )
    return ", ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in notes.items())


def _verify(figures: Figures) -> str:
    variants = figures["verdict"]["variants"]
    refused = sum(1 for one in variants if one["refused"])
    words = f"{len(variants)} variants on {figures['rows']:,} rows"
    return f"{words}, {refused} refused" if refused else words


def _package(figures: Figures) -> str:
    return f"{', '.join(figures['variants'])}; {size(figures['size_bytes'])}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


WORDS: Mapping[str, Callable[[Figures], str]] = {
    "finetune": _finetune,
    "export": _export,
    "fuse": _fuse,
    "quantize": _quantize,
    "verify": _verify,
    "package": _package,
}
