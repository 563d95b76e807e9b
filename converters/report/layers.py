"""Layer by layer: the error of quantization, measured anew, and what pruning measured of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.model import Candidate
from converters.report.story import passes_of, subject
from converters.rows import read_inputs
from converters.samples import Declared, read_samples
from converters.search.result import Found

TEXTS = 16
"""Calibration rows that the errors are measured on."""
MAX_LAYERS = 80


def layer_errors(found: Found) -> tuple[list[tuple[str, float]], str]:
    """(layer, decibels of signal over error) of the subject, and why there are none, or nothing.

    Both files of the subject, float and quantized, run the first calibration rows. What either
    toolchain makes of its own graph is not ours to rule out, so any failure becomes the reason.
    """
    end = subject(found)
    conversion = found.conversions[end.candidate]
    engine = end.backend
    both = [one for one in conversion.model.candidates if one.backend == engine]
    before = next((one for one in both if not one.quantized), None)
    after = next((one for one in both if one.id == end.name), None)
    if before is None or after is None or not after.quantized:
        return [], "float and quantized file of the same engine are needed"
    try:
        errors = _errors(found, before, after)
    except Exception as reason:
        return [], f"{type(reason).__name__}: {reason}"[:200]
    shown = [one for one in errors if one[1] < float("inf")][:MAX_LAYERS]
    return shown, "" if shown else "the two files have no layers in common"


def _errors(found: Found, before: Candidate, after: Candidate) -> list[tuple[str, float]]:
    from converters.quantize.errors import layer_errors as measured
    from converters.quiet import quiet

    conversion = found.conversions[subject(found).candidate]
    data = conversion.recipe.data
    assert data.calibration is not None  # no recipe is without
    interface = conversion.model.interface(data)
    takes, _ = Declared(conversion.model.name, interface).reader()
    rows = read_inputs(data.calibration, data, takes).first(TEXTS)
    samples = tuple(read_samples(interface, rows, name=conversion.model.name))
    files = [one.artifact.path.read_bytes() for one in (before, after)]
    with quiet():
        errors = measured(before.backend, files[0], files[1], samples)
    return [(_short(one.layer), one.sqnr_db) for one in errors]


def _short(layer: str) -> str:
    """`encoder.layer.0.attention.self.query` → `0 attention.self.query`."""
    words = layer.split(".")
    if "layer" in words[:-1]:
        place = words.index("layer")
        return f"{words[place + 1]} {'.'.join(words[place + 2 :])}".strip()
    return layer


def sensitivities(found: Found) -> Iterator[tuple[str, str, list[list[tuple[float, float]]]]]:
    """Title, parts and curves, (share gone, loss) a layer, of each prune pass that has them."""
    for title, figures in passes_of(found, subject(found).candidate).items():
        layers: Any = figures.get("layers", ()) if title.startswith("prune") else ()
        curves = [
            [(float(share), float(loss)) for share, loss in one["sensitivity"]]
            for one in layers
            if "sensitivity" in one
        ]
        if curves:
            yield title, str(figures["parts"]), curves
