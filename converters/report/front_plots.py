"""Figures of a search: the front, the trainings, and what layers bear. Drawn as `plots` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from converters.metrics import is_share
from converters.report.plots import (
    BAD,
    CARD,
    ENGINES,
    GOOD,
    INK,
    OTHER,
    SOFT,
    WIDTH_IN,
    Series,
    legend,
    panel,
    rows,
    style,
    svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE_IN = 8.6
SMALLEST, LARGEST = 130.0, 900.0
"""Areas of the marks in square points: the smallest still holds a number of two digits."""
LOGARITHMIC = 6.0
"""Latencies that differ by more times than this are drawn on a logarithmic axis."""
FAINT = 0.3
FAR = 0.6
"""A bound further below the marks than this share of their range would flatten them."""
GOOD_DB, POOR_DB = 30.0, 20.0
"""From 30 dB on the error is 3 % of the signal and less; below 20 dB 10 % and more."""
COLOURS = (ENGINES["onnxruntime"], ENGINES["litert"], OTHER, GOOD, BAD, INK)
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)))


@dataclass(frozen=True, slots=True)
class Mark:
    """A measured variant: `number` is its place in the table beside the figure."""

    number: int
    series: Series
    latency_ms: float
    size_bytes: float
    value: float
    interval: tuple[float, float]
    within: bool
    chosen: bool


@dataclass(frozen=True, slots=True)
class Bounds:
    """Lines across the front, in the marks' units; `latency_ms` is 0 where there is no bound."""

    latency_ms: float
    lowest: float
    reference: float


def front(
    name: str, metric: str, marks: Sequence[Mark], line: Sequence[int], bounds: Bounds
) -> str:
    """Metric over latency, a numbered mark for each variant; its area grows with the file.

    `line` has the numbers of the marks that the front goes through, the fastest first.
    """
    factor = 100.0 if is_share(metric) else 1.0
    with style(name):
        figure, axes = panel(4.6, WIDE_IN)
        _front_line(axes, [one for number in line for one in marks if one.number == number], factor)
        largest = max(one.size_bytes for one in marks)
        for one in sorted(marks, key=lambda one: (one.chosen, -one.size_bytes)):
            _mark(axes, one, SMALLEST + (LARGEST - SMALLEST) * one.size_bytes / largest, factor)
        _axes(axes, [one.latency_ms for one in marks] + [bounds.latency_ms or marks[0].latency_ms])
        axes.margins(0.07, 0.16)
        _bounds(axes, bounds, factor)
        axes.set_xlabel("ms for the longest input, p50")
        axes.set_ylabel(f"{metric}, %" if factor > 1 else metric)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        return svg(figure, name, f"{metric} over latency, every variant that was measured")


def _mark(axes: Axes, one: Mark, area: float, factor: float) -> None:
    alpha = 1.0 if one.within else FAINT
    colour, value = one.series.colour, one.value * factor
    axes.plot(
        [one.latency_ms] * 2, [bound * factor for bound in one.interval],
        color=colour, alpha=0.5 * alpha, linewidth=1.2, zorder=3,
    )  # fmt: skip
    if one.chosen:
        axes.scatter(
            one.latency_ms, value, s=area * 1.0 + 260, color="none", edgecolor=INK, linewidth=1.6,
            zorder=5,
        )  # fmt: skip
    axes.scatter(
        one.latency_ms, value, s=area, zorder=4 + one.chosen,
        color=colour if one.series.quantized else CARD, edgecolor=colour, linewidth=1.4,
        alpha=alpha if one.series.quantized else max(alpha, 0.5),
    )  # fmt: skip
    axes.annotate(
        str(one.number), (one.latency_ms, value), ha="center", va="center", fontsize=8,
        fontweight="bold", color=CARD if one.series.quantized and one.within else INK, zorder=6,
    )  # fmt: skip


def _front_line(axes: Axes, marks: Sequence[Mark], factor: float) -> None:
    """Steps: whoever has this time gets at most that."""
    if len(marks) > 1:
        axes.step(
            [one.latency_ms for one in marks], [one.value * factor for one in marks],
            where="post", color=SOFT, linewidth=1.6, zorder=2,
        )  # fmt: skip


def _axes(axes: Axes, latencies: Sequence[float]) -> None:
    low, high = min(latencies), max(latencies)
    if high > LOGARITHMIC * low:
        axes.set_xscale("log")
        ticks = [tick for tick in _ticks() if low / 1.4 <= tick <= high * 1.4]
        axes.set_xticks(ticks)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(left=0)


def _ticks() -> list[float]:
    return [step * 10.0**power for power in range(-3, 5) for step in (1, 2, 5)]


def _bounds(axes: Axes, bounds: Bounds, factor: float) -> None:
    """The original's figure and what is allowed; a bound far below all marks is only told of."""
    low, high = axes.get_ylim()
    axes.axhline(bounds.reference * factor, color=SOFT, linewidth=1, linestyle=(0, (1, 2)))
    _word(axes, "original", y=bounds.reference * factor, colour=SOFT)
    lowest = bounds.lowest * factor
    if lowest > low - FAR * (high - low):
        axes.axhline(lowest, color=BAD, linewidth=1.2, linestyle=(0, (3, 2)))
        _word(axes, "lowest\nallowed", y=lowest, colour=BAD)
    else:
        axes.set_ylim(low, high)
        words = f"lowest allowed: {lowest:.4g}"
        axes.annotate(words, (0.995, 0.02), xycoords="axes fraction", color=BAD, fontsize=8,
                      ha="right")  # fmt: skip
    if bounds.latency_ms:
        axes.axvline(bounds.latency_ms, color=BAD, linewidth=1.2, linestyle=(0, (3, 2)))
        axes.annotate(
            "slowest allowed", (bounds.latency_ms, 1.0), (0, 3), color=BAD, fontsize=8,
            xycoords=axes.get_xaxis_transform(), textcoords="offset points", ha="center",
            va="bottom",
        )  # fmt: skip


def _word(axes: Axes, word: str, *, y: float, colour: str) -> None:
    """At the right end of a line across, outside."""
    axes.annotate(
        word, (1.0, y), (4, 0), color=colour, fontsize=8, ha="left", va="center",
        xycoords=axes.get_yaxis_transform(), textcoords="offset points", annotation_clip=False,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Course:
    """One shape's training: (step, loss, likeness to the teacher 0..1), steps over all rungs."""

    name: str
    points: tuple[tuple[int, float, float], ...]
    rungs: tuple[int, ...]


def trainings(name: str, courses: Sequence[Course]) -> str:
    """Loss and likeness to the teacher over training steps, a line for each shape."""
    with style(name):
        figure = Figure(figsize=(WIDTH_IN, 3.6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        for place, course in enumerate(courses):
            steps = [step for step, _, _ in course.points]
            look: Any = {
                "color": COLOURS[place % len(COLOURS)],
                "linestyle": DASHES[place // len(COLOURS) % len(DASHES)],
                "linewidth": 1.7,
                "marker": "o" if len(steps) < 20 else "",
                "markersize": 3,
            }
            upper.plot(steps, [loss for _, loss, _ in course.points], label=course.name, **look)
            lower.plot(steps, [100 * like for _, _, like in course.points], **look)
        for axes in (upper, lower):
            for rung in max((course.rungs for course in courses), key=len)[:-1]:
                axes.axvline(rung, color=SOFT, linewidth=0.8, linestyle=(0, (2, 2)), alpha=0.6)
            axes.grid(axis="y")
            axes.set_axisbelow(True)
        upper.set_ylabel("loss")
        lower.set_ylabel("like the teacher, %")
        lower.set_xlabel("training step")
        if len(courses) > 1:
            legend(upper, "upper right")
        return svg(figure, name, "Training of the shapes")


def sensitivity(name: str, curves: Sequence[Sequence[tuple[float, float]]], kept: str) -> str:
    """What the output loses over the share that is gone of one layer alone; a line a layer."""
    with style(name):
        figure, axes = panel(2.9)
        for layer, points in enumerate(curves):
            axes.plot(
                [100 * share for share, _ in points],
                [loss for _, loss in points],
                color=COLOURS[layer % len(COLOURS)],
                linestyle=DASHES[layer // len(COLOURS) % len(DASHES)],
                linewidth=1.7,
                marker="o",
                markersize=3,
                label=f"layer {layer}",
            )
        axes.set_xlabel(f"% of the layer's {kept} gone")
        axes.set_ylabel("loss of the output")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        legend(axes)
        return svg(figure, name, f"Sensitivity of each layer to losing {kept}")


def layer_error(name: str, errors: Sequence[tuple[str, float]]) -> str:
    """A bar for each layer: decibels of signal over error; longer is better."""
    with style(name):
        figure, axes = panel(0.6 + 0.19 * len(errors))
        for place, (_, decibel) in enumerate(errors):
            axes.barh(place, max(decibel, 0), height=0.66, color=_colour(decibel))
            axes.annotate(
                f"{decibel:.0f}", (max(decibel, 0), place), (4, 0), textcoords="offset points",
                va="center", fontsize=7.5,
            )  # fmt: skip
        rows(axes, [layer for layer, _ in errors])
        axes.tick_params(axis="y", labelsize=7.5)
        axes.set_xlim(0, 1.1 * max(*(decibel for _, decibel in errors), GOOD_DB))
        axes.set_xlabel("dB")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        return svg(figure, name, "Error of each layer, float against quantized")


def _colour(decibel: float) -> str:
    if decibel >= GOOD_DB:
        return GOOD
    return SOFT if decibel >= POOR_DB else BAD


def as_courses(
    histories: Mapping[str, Sequence[Sequence[Sequence[float]]]],
) -> list[Course]:
    """Histories of the rungs of each shape, [step, loss, likeness], one after another."""
    courses = []
    for shape, rungs in histories.items():
        points: list[tuple[int, float, float]] = []
        ends: list[int] = []
        for history in rungs:
            start = ends[-1] if ends else 0
            points += [(start + int(step), loss, like) for step, loss, like in history]
            ends.append(points[-1][0] if points else start)
        courses.append(Course(shape, tuple(points), tuple(ends)))
    return courses
