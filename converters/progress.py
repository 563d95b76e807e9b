"""What a person sees while passes run: one line a pass, a bar where there is something to count.

Everything goes to stderr, because stdout is the result. A bar is gone when its work is done, the
pass's line tells the rest. Where stderr is no terminal there are no bars: a line says what starts.
Names of files and models are strangers' words: all that is shown passes `plain`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from edge_runtime.text import MAX_ERROR, plain

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[[int, str], None]
"""(how many more, what to show beside the bar)."""


class Progress(Protocol):
    """Where passes tell what they do."""

    def say(self, text: str) -> None:
        """One line that stays."""

    def count(self, title: str, total: int) -> contextlib.AbstractContextManager[Advance]:
        """A bar for `total` things, gone when the block ends."""

    def busy(self, title: str) -> contextlib.AbstractContextManager[None]:
        """A spinner for work that cannot be counted, gone when the block ends."""


class Silent:
    """Says nothing; for tests."""

    def say(self, text: str) -> None:
        """Nothing."""

    @contextlib.contextmanager
    def count(self, title: str, total: int) -> Iterator[Advance]:
        """Nothing to see."""
        yield lambda more, note: None

    @contextlib.contextmanager
    def busy(self, title: str) -> Iterator[None]:
        """Nothing to see."""
        yield


class Terminal:
    """Draws on a duplicate of stderr, so that `quiet` may take the original away."""

    def __init__(self) -> None:
        from rich.console import Console

        # Lives as long as the process: rich draws from its own thread.
        self._stream = os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8")
        self._console: Console = Console(file=self._stream, highlight=False)

    def say(self, text: str) -> None:
        """See `Progress`."""
        self._console.print(plain(text, MAX_ERROR), markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def count(self, title: str, total: int) -> Iterator[Advance]:
        """See `Progress`."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        if not self._console.is_terminal:
            self.say(f"    {title}: {total:,} …")
            yield lambda more, note: None
            return
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Bars(*columns, console=self._console, transient=True) as bars:
            bar = bars.add_task(plain(title), total=total, note="")
            yield lambda more, note: bars.update(bar, advance=more, note=plain(note))

    @contextlib.contextmanager
    def busy(self, title: str) -> Iterator[None]:
        """See `Progress`."""
        from rich.text import Text

        if not self._console.is_terminal:
            self.say(f"    {title} …")
            yield
            return
        with self._console.status(Text(f"  {plain(title)}")):
            yield
