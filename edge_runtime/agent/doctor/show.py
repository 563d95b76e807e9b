"""Findings for people: grouped, aligned, a sign and a word for how bad each is."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from edge_runtime.agent.doctor.finding import CATALOGUE, GROUPS, Finding, Level
from edge_runtime.text import plain

SIGNS = {
    Level.OK: ("✓", "+"),
    Level.WARNING: ("!", "!"),
    Level.OBSTACLE: ("✗", "x"),
    Level.UNKNOWN: ("?", "?"),
}
"""For those who cannot see the colours; the second where the first cannot be printed."""
ARROW = ("→", ">")
COLOURS = {Level.OK: 32, Level.WARNING: 33, Level.OBSTACLE: 31, Level.UNKNOWN: 36}
BOLD = 1
MAX_TITLE = 40
MARK_WIDE = 12
"""Indent, sign and word."""
LEAST_WIDE = 30
"""Of a sentence: on a narrow terminal, better a broken line than a word a line."""
VARIANT = "bundle.variant"


class Page:
    """How findings look where they are printed.

    Args:
        colour: with ANSI colours, for a terminal.
        unicode: whether the signs can be printed there.
        wide: columns to break sentences at; 0 leaves each on one line, for grep.
    """

    def __init__(self, *, colour: bool = False, unicode: bool = True, wide: int = 0) -> None:
        self._colour = colour
        self._which = 0 if unicode else 1
        self._wide = wide

    def text(self, findings: Sequence[Finding]) -> str:
        """All of it, ending with a line that counts."""
        titles = min(max((len(_title(f)) for f in findings if f.id != VARIANT), default=0),
                     MAX_TITLE)  # fmt: skip
        lines: list[str] = []
        for group, members in groupby(findings, key=lambda finding: finding.group):
            listed = list(members)
            lines += [self._painted(GROUPS[group], BOLD)]
            for finding in listed:
                if finding.id != VARIANT:
                    lines += self._row(finding, f"{_title(finding):{titles}}")
            lines += [*self._variants([f for f in listed if f.id == VARIANT]), ""]
        text = "\n".join([*lines, summary(findings)]) + "\n"
        return text if self._which == 0 else text.encode("ascii", "replace").decode("ascii")

    def _row(self, finding: Finding, cells: str) -> Iterator[str]:
        """Mark, cells, then the sentence and the advice in a column of their own."""
        indent = MARK_WIDE + 3 + len(cells)
        sign = SIGNS[finding.level][self._which]
        mark = self._painted(f"{sign} {finding.level.value:8}", COLOURS[finding.level])
        first, *rest = self._broken(plain(finding.text), indent)
        yield f"  {mark} {cells}  {first}".rstrip()
        for line in rest:
            yield f"{'':{indent}}{line}"
        if finding.advice:
            arrow = ARROW[self._which]
            first, *rest = self._broken(plain(finding.advice), indent + 2)
            yield f"{'':{indent}}{arrow} {first}"
            for line in rest:
                yield f"{'':{indent}}  {line}"

    def _variants(self, findings: list[Finding]) -> Iterator[str]:
        """A table: rank, variant, engine, whether it would run and why not."""
        if not findings:
            return
        names = ("#", "variant", "engine")
        rows = [
            (str(f.values.get("rank", "")), f.subject, plain(str(f.values.get("engine", ""))))
            for f in findings
        ]
        widths = [max(len(row[i]) for row in (*rows, names)) for i in range(len(names))]
        yield f"{'':{MARK_WIDE + 1}}{_cells(names, widths)}  runs here?"
        for finding, row in zip(findings, rows, strict=True):
            yield from self._row(finding, _cells(row, widths))

    def _broken(self, sentence: str, indent: int) -> list[str]:
        if not self._wide:
            return [sentence]
        wide = max(self._wide - indent, LEAST_WIDE)
        return textwrap.wrap(sentence, wide, break_on_hyphens=False) or [""]

    def _painted(self, words: str, code: int) -> str:
        return f"\x1b[{code}m{words}\x1b[0m" if self._colour else words


def summary(findings: Iterable[Finding]) -> str:
    """As `1 obstacle, 2 warnings, 1 unknown; 38 ok`."""
    found = Counter(finding.level for finding in findings)
    words = [
        f"{found[level]} {level.value}{'s' if found[level] > 1 and plural else ''}"
        for level, plural in (
            (Level.OBSTACLE, True), (Level.WARNING, True), (Level.UNKNOWN, False),
        )
        if found[level]
    ]  # fmt: skip
    return f"{', '.join(words) or 'nothing amiss'}; {found[Level.OK]} ok"


def _title(finding: Finding) -> str:
    return f"{CATALOGUE[finding.id]} {plain(finding.subject, MAX_TITLE)}".strip()


def _cells(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
