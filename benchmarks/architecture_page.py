"""What `benchmarks.architectures` found, as rows, sentences and a page."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

TITLES = {"onnxruntime": "ONNX Runtime", "litert": "LiteRT"}
PARITY = 1e-4
"""Largest error of an exported file, relative to the output's scale, that is a success."""
NEAR = 0.98
"""Cosine of INT8 with float that even random weights should keep."""
TOOLS = (
    "torch", "transformers", "onnx", "onnxruntime", "litert-torch", "ai-edge-quantizer",
    "ai-edge-litert", "optimum", "optimum-onnx",
)  # fmt: skip


@dataclass(slots=True)
class Outcome:
    """One architecture on one engine. What did not come about is None; `failed` says why.

    `error` is the largest error relative to the output's scale; `cosine` the smallest, over the
    outputs, of quantized against float; `share` quantized size over float size.
    """

    failed: str = ""
    error: float | None = None
    seconds: float | None = None
    notes: list[str] = field(default_factory=list)
    scheme: str = ""
    cosine: float | None = None
    share: float | None = None
    not_quantized: str = ""

    @property
    def exported(self) -> bool:
        """Whether it runs on the engine and says what torch says."""
        return self.error is not None and self.error <= PARITY


@dataclass(slots=True)
class Row:
    """One architecture."""

    name: str
    kind: str
    architecture: str
    model_type: str = ""
    parameters: int = 0
    optimum: bool | None = None
    engines: dict[str, Outcome] = field(default_factory=dict)


def summary(rows: Sequence[Row], engines: Sequence[str]) -> list[str]:
    """Lines that count."""
    total = len(rows)
    lines = []
    for engine in engines:
        found = [row.engines[engine] for row in rows if engine in row.engines]
        lines.append(
            f"{TITLES[engine]}: {sum(one.exported for one in found)} of {total} exported with an "
            f"error of at most {PARITY:g} of the output's scale; "
            f"{sum(one.cosine is not None for one in found)} quantized, "
            f"{sum((one.cosine or 0) >= NEAR for one in found)} of them with a cosine of at least "
            f"{NEAR:g}."
        )
    if any(row.optimum is not None for row in rows):
        ours = sum(row.engines[engines[0]].exported for row in rows)
        theirs = sum(bool(row.optimum) for row in rows)
        lines.append(
            f"Ours {ours} on {TITLES[engines[0]]}, Optimum's exporter has a configuration for "
            f"{theirs} of these {total}."
        )
    return lines


def failures(rows: Sequence[Row], engines: Sequence[str]) -> list[str]:
    """What failed, and why."""
    lines = []
    for row in rows:
        for engine in engines:
            one = row.engines.get(engine, Outcome(failed="was not asked"))
            if one.failed:
                lines.append(f"{row.name}, {TITLES[engine]}: {one.failed}")
            elif one.not_quantized:
                lines.append(f"{row.name}, {TITLES[engine]}, INT8: {one.not_quantized}")
    return lines


def cells(row: Row, engines: Sequence[str]) -> list[str]:
    """The row as text."""
    known = {None: "?", True: "yes", False: "no"}[row.optimum]
    out = [row.name, row.architecture]
    for engine in engines:
        one = row.engines.get(engine, Outcome())
        out.append(f"{one.error:.0e}" if one.exported and one.error is not None else "**no**")
        coarse = "" if one.cosine is None else f"{one.cosine:.4f}"
        out.append(coarse or "–")
    return [*out, known]


def heads(engines: Sequence[str]) -> list[str]:
    """Titles of the columns."""
    pairs = [words for one in engines for words in (f"{TITLES[one]}: error", "INT8: cosine")]
    return ["architecture", "class", *pairs, "Optimum"]


def page(rows: Sequence[Row], engines: Sequence[str], command: str) -> str:
    """docs/architectures.md."""
    lines = [
        "# Architectures",
        "",
        "Made by",
        "",
        f"    {command}",
        "",
        f"with Python {platform.python_version()}, "
        + ", ".join(f"{one} {version(one)}" for one in TOOLS)
        + ".",
        "",
        "Each architecture is tiny, its weights are random, and it is opened from a folder in "
        "Hugging Face's layout. *Error* is the largest difference between the engine's answer and "
        "torch's, over the largest number of the answer: the file runs on the engine and says the "
        f"same where it is at most {PARITY:g}. ONNX files are checked with other numbers of rows "
        "and tokens, too, than they were traced with. *Cosine* is the smallest, over "
        f"several inputs, between the INT8 file's answer and the float file's on the same engine. "
        "Random weights are harder on INT8 than trained ones: the figure says that it works, "
        "not how well; of RT-DETR, which sorts its boxes by their scores, it compares places "
        "that may hold different boxes. *Optimum*: whether its ONNX exporter has a configuration "
        "for the model type.",
        "",
        *(f"- {line}" for line in summary(rows, engines)),
        "",
    ]
    for kind in dict.fromkeys(row.kind for row in rows):
        lines += [f"## {kind}", "", f"| {' | '.join(heads(engines))} |"]
        lines.append("|---|---|" + "---:|" * (2 * len(engines)) + "---|")
        lines += [f"| {' | '.join(cells(row, engines))} |" for row in rows if row.kind == kind]
        lines.append("")
    faults = failures(rows, engines)
    lines += ["## What fails, and why", "", *(f"- {line}" for line in faults or ["Nothing."]), ""]
    noted = [
        f"- {row.name}: {note}"
        for row in rows
        for one in row.engines.values()
        for note in one.notes
    ]
    if noted:
        lines += ["## Where another exporter was needed", "", *dict.fromkeys(noted), ""]
    return "\n".join(lines)
