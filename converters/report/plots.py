"""The report's figures as SVG text that goes into the page as it is.

Nothing is drawn in a fixed colour: matplotlib paints with stand-ins, which are then replaced by
the page's CSS variables, so a figure follows light and dark like the text around it. Text stays
text, in the page's font. The same values give the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import matplotlib
from matplotlib.figure import Figure

from converters.metrics import figure_words, is_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SOFT, LINE, BAD = "#010101", "#020202", "#030303", "#040404"
ENGINES = {"onnxruntime": "#050505", "litert": "#060606"}
OTHER, CARD, GOOD = "#070707", "#080808", "#090909"
VARIABLES = {
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    LINE: "var(--line)",
    BAD: "var(--bad)",
    ENGINES["onnxruntime"]: "var(--onnxruntime)",
    ENGINES["litert"]: "var(--litert)",
    OTHER: "var(--other)",
    CARD: "var(--card)",
    GOOD: "var(--good)",
}
"""Stand-in → what the page calls the colour."""
STYLE: Mapping[str, object] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.labelsize": 8.5,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
}
WIDTH_IN = 5.2
FADED = 0.45
"""Float variants are the same colour as their engine's, fainter: they are what is compared to."""


@dataclass(frozen=True, slots=True)
class Series:
    """A variant as figures draw it."""

    label: str
    backend: str
    quantized: bool

    @property
    def colour(self) -> str:
        return ENGINES.get(self.backend, OTHER)

    @property
    def alpha(self) -> float:
        return 1.0 if self.quantized else FADED


def size_bars(name: str, sizes: Sequence[tuple[Series, float, str]]) -> str:
    """A bar for each variant: megabytes, and words at its end."""
    with style(name):
        figure, axes = panel(0.55 + 0.34 * len(sizes))
        places = range(len(sizes))
        for place, (series, megabytes, words) in zip(places, sizes, strict=True):
            axes.barh(place, megabytes, height=0.62, color=series.colour, alpha=series.alpha)
            axes.annotate(
                words, (megabytes, place), (6, 0), textcoords="offset points", va="center",
                parse_math=False,
            )  # fmt: skip
        rows(axes, [series.label for series, _, _ in sizes])
        axes.set_xlim(0, 1.32 * max(megabytes for _, megabytes, _ in sizes))
        axes.set_xlabel("MB on disk")
        return svg(figure, name, "Size of each variant's file")


def latency_lines(name: str, times: Sequence[tuple[Series, Mapping[int, float]]]) -> str:
    """p50 in milliseconds over the token count, a line for each variant."""
    with style(name):
        figure, axes = panel(2.9)
        lengths = sorted({length for _, found in times for length in found})
        for series, found in times:
            points = sorted(found)
            axes.plot(
                points,
                [found[point] for point in points],
                color=series.colour,
                linestyle="-" if series.quantized else (0, (4, 2)),
                marker="o",
                markersize=4.5,
                linewidth=2 if series.quantized else 1.4,
                label=series.label,
            )
        axes.set_xticks(lengths)
        axes.set_ylim(0, 1.08 * max(value for _, found in times for value in found.values()))
        axes.set_xlabel("tokens")
        axes.set_ylabel("ms, p50")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        legend(axes)
        return svg(figure, name, "Latency by token count")


def quality_intervals(
    name: str,
    metric: str,
    values: Sequence[tuple[Series, float, tuple[float, float]]],
    lowest: float,
) -> str:
    """A point and its 95 % interval for each variant; a line at the lowest value that is let in."""
    as_share = is_share(metric)
    factor = 100.0 if as_share else 1.0
    with style(name):
        figure, axes = panel(0.75 + 0.34 * len(values))
        for place, (series, value, (low, high)) in enumerate(values):
            faded = {"color": series.colour, "alpha": series.alpha}
            axes.plot([low * factor, high * factor], [place, place], linewidth=3, **faded)  # type: ignore[arg-type]
            axes.plot(value * factor, place, marker="o", markersize=8, color=series.colour)
            words = figure_words(value, metric)
            axes.text(value * factor, place - 0.3, words, ha="center", va="bottom", fontsize=8)
        axes.axvline(lowest * factor, color=BAD, linewidth=1.2, linestyle=(0, (3, 2)))
        axes.annotate(
            "lowest allowed", (lowest * factor, len(values) - 0.45), (4, 0), color=BAD,
            fontsize=8, textcoords="offset points", va="bottom",
        )  # fmt: skip
        rows(axes, [series.label for series, _, _ in values])
        axes.set_ylim(len(values) - 0.4, -0.75)
        axes.margins(x=0.12)
        axes.set_xlabel(f"{metric}, %" if as_share else metric)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        return svg(figure, name, f"{metric} with its 95 % interval")


def training_curve(name: str, points: Sequence[tuple[int, float, float]]) -> str:
    """Training loss and accuracy over steps, one above the other."""
    steps = [step for step, _, _ in points]
    with style(name):
        figure = Figure(figsize=(WIDTH_IN, 2.9), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        marker = "o" if len(points) < 20 else ""
        for axes, values, words in (
            (upper, [loss for _, loss, _ in points], "loss"),
            (lower, [100 * accuracy for _, _, accuracy in points], "accuracy, %"),
        ):
            axes.plot(steps, values, color=INK, linewidth=1.6, marker=marker, markersize=3)
            axes.set_ylabel(words)
            axes.grid(axis="y")
            axes.set_axisbelow(True)
        upper.set_ylim(bottom=0)
        lower.set_xlabel("training step")
        return svg(figure, name, "Training loss and accuracy")


def style(name: str) -> contextlib.AbstractContextManager[None]:
    """Our look, and ids that depend on the figure's name only."""
    look: Any = {**STYLE, "svg.hashsalt": name}
    return matplotlib.rc_context(look)


def panel(height_in: float, width_in: float = WIDTH_IN) -> tuple[Figure, Axes]:
    """One pair of axes."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.subplots()


def rows(axes: Axes, labels: Sequence[str]) -> None:
    """One row a label, the first on top, without ticks."""
    axes.set_yticks(range(len(labels)))
    axes.set_yticklabels(labels, parse_math=False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)


def legend(axes: Axes, place: Literal["upper left", "upper right"] = "upper left") -> None:
    """What each line is, without a frame."""
    drawn = axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc=place)
    for text in drawn.get_texts():
        text.set_parse_math(False)


def svg(figure: Figure, name: str, title: str) -> str:
    """The figure as one element, its ids unique in a page that holds figures of other names."""
    out = io.StringIO()
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"<style.*?</style>", "", text, count=1, flags=re.DOTALL)  # would rule the page
    text = text.replace("font-family: 'DejaVu Sans'", "font-family: var(--font)")
    for stand_in, variable in VARIABLES.items():
        text = text.replace(stand_in, variable)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    head = f'<svg {view.group()} role="img" aria-label="{escape(title)}">'
    return re.sub(r"<svg[^>]*>", lambda _: head, text, count=1)
