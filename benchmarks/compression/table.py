"""The result as one table for a person and as JSON for a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.compression.catalogue import BASE
from benchmarks.compression.figures import Difference
from benchmarks.compression.measure import Contender, better, slower
from converters.figures import wilson

JUDGED = 128


@dataclass(frozen=True, slots=True)
class Line:
    """A contender's figures; None where it failed, or where there is nothing to compare with.

    `score` is accuracy or recall, 0..1; `interval` Wilson's for accuracy. `versus` compares the
    score with that of the contender `against`, `faster` says how many times the base's latency is
    its own, `smaller` how many times the base's size.
    """

    id: str
    title: str
    ours: bool
    quantized: bool
    size_bytes: int | None
    smaller: float | None
    score: float | None
    interval: tuple[float, float] | None
    versus: Difference | None
    p50_ms: dict[int, float]
    faster: float | None
    build_s: float | None
    peak_rss_bytes: int | None
    error: str


def lines(
    contenders: Sequence[Contender], against: str | None, lengths: Sequence[int]
) -> list[Line]:
    """A line for each contender, compared with the one whose id is `against`."""
    by_id = {one.built.id: one for one in contenders}
    return [_line(one, by_id.get(BASE), by_id.get(against or ""), lengths) for one in contenders]


def _line(
    one: Contender, base: Contender | None, other: Contender | None, lengths: Sequence[int]
) -> Line:
    built = one.built
    score = one.score()
    ratio = slower(one, base, judged_length(lengths)) if base else None
    right = None if one.scores is None or score is None else one.scores
    binary = right is not None and bool(((right == 0) | (right == 1)).all())
    size = built.size_bytes or None
    return Line(
        id=built.id,
        title=built.title,
        ours=built.ours,
        quantized=built.quantized,
        size_bytes=size,
        smaller=base.built.size_bytes / size if base and size and not base.error else None,
        score=score,
        interval=wilson(int(right.sum()), len(right)) if right is not None and binary else None,
        versus=better(one, other) if other and other is not one else None,
        p50_ms={n: p50 for n in lengths for p50 in (one.p50_ms(n),) if p50 is not None},
        faster=1 / ratio if ratio else None,
        build_s=built.build_s or None,
        peak_rss_bytes=built.peak_rss_bytes or None,
        error=one.error,
    )


def judged_length(lengths: Sequence[int]) -> int:
    """The token count at which latencies are compared."""
    return JUDGED if JUDGED in lengths else max(lengths)


def as_json(found: Sequence[Line]) -> list[dict[str, Any]]:
    """The lines for `json.dumps`."""
    return [asdict(line) for line in found]


def show(
    title: str, metric: str, found: Sequence[Line], against: str | None, lengths: Sequence[int]
) -> None:
    """Print the lines, then the sentences of those that failed."""
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for column in (
        "MB",
        "smaller",
        f"{metric} %",
        f"− {against or 'other'}, points",
        "p",
        *(f"ms, {n} tokens" for n in lengths),
        "faster",
        "build s",
        "build MB",
    ):
        table.add_column(column, justify="right")
    for line in found:
        table.add_row(*_cells(line, lengths), style="bold" if line.ours else None)
    console = Console(width=None if Console().is_terminal else 200)
    console.print(table)
    for line in found:
        if line.error:
            console.print(f"{line.title}: {line.error}", markup=False, highlight=False)


def _cells(line: Line, lengths: Sequence[int]) -> list[str]:
    title = f"{line.title} – failed" if line.error else line.title
    versus = line.versus
    return [
        title,
        _number(line.size_bytes, 1e-6, ".1f"),
        _number(line.smaller, 1, ".1f", "×"),
        _number(line.score, 100, ".2f"),
        ""
        if versus is None
        else f"{100 * versus.mean:+.2f} [{100 * versus.low:+.2f}, {100 * versus.high:+.2f}]",
        "" if versus is None or versus.p is None else f"{versus.p:.2g}",
        *(_number(line.p50_ms.get(n), 1, ".2f") for n in lengths),
        _number(line.faster, 1, ".2f", "×"),
        _number(line.build_s, 1, ".0f"),
        _number(line.peak_rss_bytes, 1e-6, ".0f"),
    ]


def _number(value: float | None, factor: float, spec: str, unit: str = "") -> str:
    return "" if value is None else f"{value * factor:{spec}}{unit}"
